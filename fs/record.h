/*
 * record.h - the bytes of inode records, directory records, TOUCH operands, the superblock and the
 * records of the orphan lists. Part of the on-disk format: for ever.
 *
 * Inode record (in a directory entry or under key 0x03): a version byte, then fields in strictly
 * ascending order, each {varint number << 1 | wire, value}. wire 0: the value is a varint; wire 1: a
 * varint length and that many bytes. A reader skips the numbers it does not know. A field that has
 * its default is left out: a small file with one name takes about 30 bytes besides its contents.
 *
 *    1  mode      varint  type and permissions; required
 *    2  uid       varint  0
 *    3  gid       varint  0
 *    4  size      varint  0
 *    5  times     bytes   flags, btime {zigzag varint sec, varint nsec}, then those of ctime (flag 1,
 *                         else btime), mtime (flag 2, else ctime), atime (flag 4, else btime) that are
 *                         named by the flags, each {zigzag varint sec - btime.sec, varint nsec}; required
 *    6  rdev      varint  0
 *    7  layout    varint  0, LAYOUT_INLINE
 *    8  stored    varint  0; bytes in extents
 *    9  data      bytes   empty; contents for LAYOUT_INLINE
 *   10  data_len  varint  bytes under key 0x06; with LAYOUT_SMALL only
 *   11  xattrs    bytes   none; small extended attributes (xattr.h)
 *   12  large     varint  0; 1: there are keys 0x05
 *   13  nlink     varint  1
 *
 * Directory record (key 0x01): fixed fields, so that a TOUCH can be folded in without a decoder, and
 * a tail {u8 large_xattrs, xattrs}. Offsets: DIR_* in record.c. Little-endian.
 *
 * TOUCH operand: {u8 version, 'T', u16 0, u32 nsec, i64 sec, i64 entries, i64 size, i64 nlink}: the new
 * mtime and ctime of a directory and what its counters change by. Operands add up, the time is that
 * of the later one. Writers of one directory are serialised by its lock, so later is also newer.
 *
 * Superblock: {magic 8, u32 version, u32 0, u64 compatible, u64 read-only compatible, u64 incompatible
 * features, uuid 16, u64 hash seed}.
 *
 * Bytes are validated, never trusted: a decoder returns -EIO for anything that was not written by an encoder.
 */
#ifndef FS_RECORD_H
#define FS_RECORD_H

#include "inode.h"

#define DIR_ENTRY_BYTES 24u /* what an entry adds to st_size of its directory, besides its name */

#define INODE_RECORD_FIXED_MAX 192u /* all fields but the bytes of data and xattrs */
#define DIR_RECORD_FIXED 97u
#define TOUCH_BYTES 40u
#define SUPER_BYTES 64u
#define LEASE_BYTES 8u
#define TRUNCATE_BYTES 18u
#define XATTRS_INLINE_MAX 256u /* bytes of encoded small xattrs in a record; more only in memory */

/* Feature bits of the superblock that this release knows. */
#define SUPER_VERSION 1u
#define SUPER_COMPAT_KNOWN UINT64_C(0)
#define SUPER_RO_COMPAT_KNOWN UINT64_C(0)
#define SUPER_INCOMPAT_PARTS UINT64_C(1) /* extents may be parts of values in blob files: extent.h */
#define SUPER_INCOMPAT_KNOWN SUPER_INCOMPAT_PARTS

struct super {
    uint32_t version;
    uint64_t compat, ro_compat, incompat;
    uint8_t uuid[16];
    uint64_t hash_seed;
};

/* Sets the word in an encoded superblock, of whatever version. */
void record_super_set_incompat(uint8_t *bytes, uint64_t incompat);

struct touch {
    struct timespec time;
    int64_t entries, size, nlink;
};

/* Room that the encoder of this inode may need. */
static inline size_t record_inode_max(const struct inode *ino)
{
    return INODE_RECORD_FIXED_MAX + ino->data_len + ino->xattrs_len;
}
size_t record_inode_encode(const struct inode *ino, uint8_t *out);

/*
 * Decodes into attr (except id), layout, stored, data, data_len, xattrs, xattrs_len and large_xattrs.
 * data and xattrs point into `bytes`: they are borrowed. -EIO.
 */
int record_inode_decode(const void *bytes, size_t len, struct inode *out);

static inline size_t record_dir_max(const struct inode *ino) { return DIR_RECORD_FIXED + ino->xattrs_len; }
size_t record_dir_encode(const struct inode *ino, uint8_t *out);
int record_dir_decode(const void *bytes, size_t len, struct inode *out); /* also home.parent, dir_entries */

void record_touch_encode(const struct touch *touch, uint8_t out[TOUCH_BYTES]);
/* An lsm_merge_fn for TOUCH operands. */
size_t record_merge(void *arg, const void *base, size_t base_len, bool base_is_operand, const void *operand,
                    size_t operand_len, void *out);

void record_super_encode(const struct super *super, uint8_t out[SUPER_BYTES]);
int record_super_decode(const void *bytes, size_t len, struct super *out);

void record_truncate_encode(const struct inode_home *home, uint8_t out[TRUNCATE_BYTES]);
int record_truncate_decode(const void *bytes, size_t len, struct inode_home *out);

#endif
