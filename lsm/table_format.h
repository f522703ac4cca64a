/*
 * table_format.h - what the bytes of a table file (NNNNNN.sst) mean.
 *
 * All integers are little-endian; varints are those of coding.h.
 *
 *     blocks of data and index, filter block, properties block, footer
 *
 * There are no gaps: every byte belongs to a block, to a block's trailer or to the footer.
 *
 * Block      Contents, then a trailer of 16 bytes (struct table_trailer). The checksum is XXH3 of
 *            the contents and the trailer's first 8 bytes, seeded with file number and offset, so
 *            that a block from another place or another file does not pass. A "handle" is offset
 *            and length of the contents, the trailer not counted.
 *
 *            Data and index blocks may be compressed, each by itself (compress.h): then the contents
 *            are the packed bytes, which is what the checksum and the handle are of; the trailer
 *            says how, and how long they are unpacked. A table with such a block has
 *            TABLE_COMPRESSED in its footer.
 *
 * Data and   A sequence of entries, then an array of u32 restart offsets, then their number (u32).
 * index      An entry is
 *              varint  shared        bytes that its key has in common with the key before it
 *              varint  unshared      bytes of key that follow
 *              varint  value length
 *              8 bytes seq << 8 | type
 *              key suffix, value
 *            At a restart `shared` is 0; the first restart is at 0, the others ascend. Entries
 *            ascend strictly in internal-key order (ikey.h).
 *
 * Index      A tree of index_depth levels above the data blocks, all leaves at the same depth. An
 *            entry's value is the handle of its child (two varints) and its type is ENTRY_PUT. Its
 *            key K is not below any entry in the child, and below every entry of the next child.
 *            Either K is the child's last entry, or its user key is a shorter one that lies
 *            strictly between the child's last user key and the next child's first. Hence a lookup
 *            of (key, seq) needs exactly one data block even where versions of one user key
 *            straddle two: the first whose K >= (key, seq).
 *
 *            A child stands before its parent. An index block is written as soon as it has
 *            TABLE_INDEX_BYTES, right behind its last child, so the file is the tree in postorder
 *            and the writer holds one unfinished block per level. The root comes last.
 *
 * Filter     Of user keys: see filter.h.
 *
 * Ranges     Only with TABLE_RANGE_DELETES, between filter and properties: range deletes, as a block of entries with the
 *            start of a range as key, its end as value, ENTRY_RANGE_DELETE as type, and every entry a restart. They are
 *            fragments (ranges.h): entries of the same start have the same end, newest first, and ranges with
 *            different starts do not overlap. A range delete hides what is older than it at keys >= start and < end,
 *            here and in every table below. It reaches no further than the table's bounds.
 *
 *            A table of nothing but range deletes has no data, index and filter; their handles are zero.
 *
 *
 * Properties struct table_properties, then the smallest and the largest user key: all entries and ranges lie between
 *            them. With TABLE_RANGE_DELETES, then, struct table_range_properties.
 *
 * Footer     struct table_footer, the last 128 bytes. Its size, the place of magic and checksum and
 *            how the checksum is made stay the same in all versions. Unknown `incompat` bits or a
 *            newer version: the file is refused with -ENOTSUP. Unknown `compat` bits are ignored.
 *
 * Validity   A file named by the manifest was complete and synced before its edit; any deviation is
 *            corruption (-EIO). A file that the manifest does not name is garbage to be deleted.
 */
#ifndef LSM_TABLE_FORMAT_H
#define LSM_TABLE_FORMAT_H

#include "coding.h"
#include <assert.h>
#include <shale/lsm.h>
#include <stdint.h>
#include <xxhash.h>

#define TABLE_MAGIC "ShaleSST"
#define TABLE_VERSION 1u
/* Incompatible features. A bit is set only in a table that needs it. Never renumber. */
enum table_feature {
    TABLE_COMPRESSED = 1u << 0,    /* there are blocks whose trailer says something else than "none" */
    TABLE_RANGE_DELETES = 1u << 1, /* there is a range block, and more in the properties */
    TABLE_BLOBS = 1u << 2,         /* it has entries of type ENTRY_BLOB */
    TABLE_FUSE_FILTER = 1u << 3,   /* the filter is of a kind that release 0.1 does not know */
};
#define TABLE_INCOMPAT_KNOWN \
    ((uint32_t)(TABLE_COMPRESSED | TABLE_RANGE_DELETES | TABLE_BLOBS | TABLE_FUSE_FILTER))

#define TABLE_INDEX_BYTES (64u << 10) /* an index block is closed at this size */
/* Index blocks hold at least 60 of the longest keys: 60^5 blocks of 4 KiB are 3 TiB. */
#define TABLE_INDEX_DEPTH_MAX 5u
/* No block is longer, packed or not: a value of 16 MiB, or the filter of 50 million keys. Bounds what a reader allocates. */
#define TABLE_BLOCK_MAX (64u << 20)

enum table_compression {
    TABLE_COMPRESSION_NONE = 0,
    TABLE_COMPRESSION_LZ4 = 1,
    TABLE_COMPRESSION_ZSTD = 2,
};

struct table_trailer {
    uint8_t compression;
    uint8_t zero[3];
    uint8_t raw_len[4]; /* of the contents, unpacked */
    uint8_t checksum[8];
};
static_assert(sizeof(struct table_trailer) == 16, "on-disk size");
static_assert(offsetof(struct table_trailer, checksum) == 8, "on-disk offset");
#define TABLE_TRAILER_BYTES sizeof(struct table_trailer)
#define TABLE_TRAILER_HASHED offsetof(struct table_trailer, checksum)

struct table_disk_handle {
    uint8_t offset[8];
    uint8_t length[8];
};

struct table_footer {
    uint8_t magic[8];
    uint8_t version[4];
    uint8_t compat[4];
    uint8_t incompat[4];
    uint8_t index_depth[4]; /* 1: the root's children are data blocks */
    uint8_t number[8];      /* of the file */
    uint8_t file_bytes[8];  /* with the footer */
    struct table_disk_handle filter, root, properties;
    struct table_disk_handle ranges; /* zero without TABLE_RANGE_DELETES */
    uint8_t reserved[16];
    uint8_t checksum[8]; /* XXH3 of what is before it, seeded with `number` and the footer's offset */
};
static_assert(sizeof(struct table_footer) == 128, "on-disk size");
static_assert(offsetof(struct table_footer, filter) == 40, "on-disk offset");
static_assert(offsetof(struct table_footer, checksum) == 120, "on-disk offset");
#define TABLE_FOOTER_BYTES sizeof(struct table_footer)

struct table_properties {
    uint8_t entries[8];
    uint8_t deletes[8];
    uint8_t merges[8];
    uint8_t key_bytes[8];
    uint8_t value_bytes[8];
    uint8_t seq_min[8];
    uint8_t seq_max[8];
    uint8_t data_blocks[8];
    uint8_t smallest_len[4];
    uint8_t largest_len[4];
    /* smallest and largest user key follow */
};
static_assert(sizeof(struct table_properties) == 72, "on-disk size");

struct table_range_properties {
    uint8_t range_deletes[8];  /* entries of the range block */
    uint8_t largest_exclusive; /* 1: the largest key is the end of a range, which is not part of it */
    uint8_t zero[7];
};
static_assert(sizeof(struct table_range_properties) == 16, "on-disk size");
#define TABLE_PROPERTIES_MAX \
    (sizeof(struct table_properties) + 2 * LSM_KEY_MAX + sizeof(struct table_range_properties))

/* A handle in memory. */
struct block_handle {
    uint64_t offset, length;
};

/* Where the next block begins. */
static inline uint64_t handle_end(struct block_handle h) { return h.offset + h.length + TABLE_TRAILER_BYTES; }

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014) over a combination of both numbers. */
static inline uint64_t table_seed(uint64_t number, uint64_t offset)
{
    uint64_t x = number * UINT64_C(0x9e3779b97f4a7c15) + offset;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Checksum of a block of len bytes at offset; the trailer's first 8 bytes stand behind the contents. */
static inline uint64_t table_block_checksum(uint64_t number, uint64_t offset, const uint8_t *data, size_t len)
{
    return XXH3_64bits_withSeed(data, len + TABLE_TRAILER_HASHED, table_seed(number, offset));
}
static inline uint64_t table_footer_checksum(const struct table_footer *f, uint64_t offset)
{
    return XXH3_64bits_withSeed(f, offsetof(struct table_footer, checksum),
                                table_seed(get_le64(f->number), offset));
}

#endif
