/*
 * blob_format.h - what the bytes of a blob file (NNNNNN.blob) and of a pointer into one mean.
 *
 * A blob file holds the bytes of large values, of one shard. It is appended to, never changed, and deleted
 * as a whole. All integers are little-endian; varints are those of coding.h.
 *
 *     header (64 bytes), extents and bytes that nothing names, in any order and number
 *
 * Header     struct blob_header. It is for people and for the file's owner to be told when the manifest is
 *            gone; readers take number and salt from the manifest.
 *
 * Extent     One value: n checksums of 8 bytes each, then its bytes. The bytes are cut into chunks of
 *            BLOB_CHUNK_BYTES, the last one shorter; n is the number of chunks. The checksum of a chunk is XXH3
 *            of its bytes, seeded with salt and number of the file and the chunk's own offset in it. So a chunk
 *            in a wrong place does not pass, and any part of a value can be verified by what it touches:
 *            16 KiB for a read of 4 KiB (8 bytes in 16 KiB are 0.05 %).
 *            Extents follow each other without a rule; only a pointer says where one is.
 *
 * Pointer    What the tree and the log hold as the value of an ENTRY_BLOB. Five varints:
 *              number of the file
 *              offset of the extent in it, at or behind the header
 *              bytes of the extent's value
 *              from: first byte of the value that this pointer means
 *              length: how many
 *            A pointer may mean a part of an extent, and several may mean the same.
 *
 * Validity   Bytes are in the file before the record that names them is in the log; they are synced before
 *            the log is, and before a table that names them is installed. A blob file is in the manifest, synced,
 *            before its first extent (edit.c: BLOB_ADD). So a file that the manifest does not know is garbage.
 *            What the log names above its synced mark may be torn after a crash: recovery verifies it.
 *
 * Later      An unknown `incompat` bit or a newer version is of a newer release, which will have named a feature
 * formats    in the manifest, too.
 */
#ifndef LSM_BLOB_FORMAT_H
#define LSM_BLOB_FORMAT_H

#include "coding.h"
#include "ikey.h"
#include <assert.h>
#include <shale/lsm.h>
#include <xxhash.h>

#define BLOB_MAGIC "ShaleBlb"
#define BLOB_VERSION 1u
#define BLOB_CHUNK_BYTES (16u << 10)
#define BLOB_POINTER_MAX (5u * VARINT_MAX)
#define BLOB_OFFSET_MAX (UINT64_C(1) << 48) /* no file gets there */

struct blob_header {
    uint8_t magic[8];
    uint8_t version[4];
    uint8_t incompat[4];
    uint8_t number[8]; /* of the file */
    uint8_t salt[8];   /* random */
    uint8_t shard[4];
    uint8_t chunk_bytes[4];
    uint8_t reserved[16];
    uint8_t checksum[8]; /* XXH3 of what is before it */
};
static_assert(sizeof(struct blob_header) == 64, "on-disk size");
static_assert(offsetof(struct blob_header, checksum) == 56, "on-disk offset");
#define BLOB_HEADER_BYTES sizeof(struct blob_header)

struct blob_pointer {
    uint64_t number, offset;
    uint32_t extent_bytes; /* of the value that was written, without its checksums */
    uint32_t from, length; /* the part of it that is meant */
};

static inline uint32_t blob_chunks(uint32_t bytes)
{
    return (uint32_t)(((uint64_t)bytes + BLOB_CHUNK_BYTES - 1) / BLOB_CHUNK_BYTES);
}
/* Where the value's bytes begin in the file. */
static inline uint64_t blob_data_offset(const struct blob_pointer *p)
{
    return p->offset + UINT64_C(8) * blob_chunks(p->extent_bytes);
}
/* What a value takes in a file, checksums included. */
static inline uint64_t blob_disk_bytes(uint32_t bytes) { return bytes + UINT64_C(8) * blob_chunks(bytes); }

static inline uint64_t blob_chunk_checksum(uint64_t number, uint64_t salt, uint64_t offset, const void *data,
                                           size_t len)
{
    uint64_t seed = (salt ^ number * UINT64_C(0x9e3779b97f4a7c15)) + offset * UINT64_C(0xbf58476d1ce4e5b9);
    return XXH3_64bits_withSeed(data, len, seed ^ seed >> 29);
}

static inline size_t blob_pointer_encode(const struct blob_pointer *p, uint8_t out[BLOB_POINTER_MAX])
{
    uint8_t *q = put_varint(out, p->number);
    q = put_varint(q, p->offset);
    q = put_varint(q, p->extent_bytes);
    q = put_varint(q, p->from);
    return (size_t)(put_varint(q, p->length) - out);
}

/* -EBADMSG unless it is exactly one pointer that can exist. */
int blob_pointer_decode(const void *bytes, size_t len, struct blob_pointer *out);

void blob_header_encode(uint64_t number, uint64_t salt, unsigned shard, struct blob_header *out);
/* NULL if it is the header of this file, else what is wrong with it. *newer: it is of a newer release. */
const char *blob_header_check(const struct blob_header *h, uint64_t number, uint64_t salt, unsigned shard,
                              bool *newer);

#endif
