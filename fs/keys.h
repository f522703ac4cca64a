/*
 * keys.h - the keys under which the filesystem keeps things. Part of the on-disk format: for ever.
 *
 * Integers in keys are big-endian, so that the store's order is theirs. Every key begins with the
 * 8-byte id it belongs to and a tag byte; the id's top 12 bits are its virtual shard, which is what
 * keys are routed by: all that one directory or file owns lies on one shard.
 *
 *   id 0x01                 a directory's own record                      (record.h)
 *   id 0x02 hash56          directory entries whose name has this hash    (record.h)
 *   id 0x03                 inode of a file with several names, or unlinked with contents left
 *   id 0x04 end:8           one extent, keyed by the offset after its last byte (data.c)
 *   id 0x05 name            an extended attribute too large for the inode
 *   id 0x06 hash56 index:1  contents of a small file with one name, beside its neighbours
 *   SUPER 0x00              superblock
 *   SUPER 0x01              the end of the last leased range of ids
 *   ORPHANS(s) 0x07 id:8    an unlinked file of shard s whose contents remain, or (0x08) one whose
 *                           truncation is not finished
 */
#ifndef FS_KEYS_H
#define FS_KEYS_H

#include "coding.h"
#include "fs.h"

#define ID_VSHARD_BITS 12
#define ID_VSHARDS (1u << ID_VSHARD_BITS)
#define ID_SERIAL_MASK ((UINT64_C(1) << 52) - 1)
#define ID_SUPER UINT64_C(0)
#define ID_SERIAL_ORPHANS UINT64_C(2) /* with the shard as its virtual shard */
#define ID_SERIAL_FIRST UINT64_C(16)  /* below are reserved ids */

#define HASH_BITS 56
#define HASH_MASK ((UINT64_C(1) << HASH_BITS) - 1)
#define BUCKET_ENTRIES_MAX 64u /* entries of one hash: index is 6 bits */

enum key_tag {
    KEY_SUPER = 0x00,
    KEY_DIR = 0x01,
    KEY_LEASE = 0x01, /* of ID_SUPER */
    KEY_BUCKET = 0x02,
    KEY_INODE = 0x03,
    KEY_EXTENT = 0x04,
    KEY_XATTR = 0x05,
    KEY_SMALL = 0x06,
    KEY_ORPHAN = 0x07,
    KEY_TRUNCATE = 0x08,
};

#define KEY_FS_MAX (9 + FS_XATTR_NAME_MAX)

struct key {
    uint8_t bytes[KEY_FS_MAX];
    size_t len;
};

static inline unsigned id_vshard(fs_id id) { return (unsigned)(id >> 52); }
static inline fs_id id_orphans(unsigned shard) { return (fs_id)shard << 52 | ID_SERIAL_ORPHANS; }

static inline struct key key_plain(fs_id id, enum key_tag tag)
{
    struct key k;
    put_be64(k.bytes, id);
    k.bytes[8] = (uint8_t)tag;
    k.len = 9;
    return k;
}
static inline struct key key_u64(fs_id id, enum key_tag tag, uint64_t v) /* extent, orphan, truncate */
{
    struct key k = key_plain(id, tag);
    put_be64(k.bytes + 9, v);
    k.len = 17;
    return k;
}
static inline struct key key_bucket(fs_id dir, uint64_t hash)
{
    struct key k = key_plain(dir, KEY_BUCKET);
    uint8_t be[8];
    put_be64(be, hash);
    memcpy(k.bytes + 9, be + 1, 7);
    k.len = 16;
    return k;
}
static inline struct key key_small(fs_id dir, uint64_t hash, unsigned index)
{
    struct key k = key_bucket(dir, hash);
    k.bytes[8] = KEY_SMALL;
    k.bytes[16] = (uint8_t)index;
    k.len = 17;
    return k;
}
static inline struct key key_xattr(fs_id id, const char *name, size_t len) /* len <= FS_XATTR_NAME_MAX */
{
    struct key k = key_plain(id, KEY_XATTR);
    memcpy(k.bytes + 9, name, len);
    k.len = 9 + len;
    return k;
}
/* The hash in a bucket key of 16 bytes. */
static inline uint64_t key_bucket_hash(const uint8_t *key)
{
    uint8_t be[8] = {0};
    memcpy(be + 1, key + 9, 7);
    return get_be64(be);
}

#endif
