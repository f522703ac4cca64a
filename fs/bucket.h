/*
 * bucket.h - the directory entries that share one hash: the value of a key 0x02.
 *
 * Format: a version byte, then the entries in ascending order of index, each
 *
 *   u8  index (6 bits) | 0x40 if the inode's record is here
 *   u8  type: st_mode >> 12
 *   u8  length of the name, 1..255; the name, which is not "." or ".." and has no '/' or NUL
 *   varint  id ^ (virtual shard of the directory << 52): short for what lies beside its directory
 *   if the record is here: varint length, inode record (record.h)
 *
 * No id is a reserved one (keys.h): nothing leads back to the root, or into a control directory.
 *
 * The index of an entry never changes: it is a part of its readdir position and of key 0x06. A bucket
 * without entries has no key.
 *
 * A decoded bucket points into the value that it pins; names and records that are added are borrowed
 * from the caller until bucket_put. Changing one (load, change, put, commit) needs its bucket lock.
 */
#ifndef FS_BUCKET_H
#define FS_BUCKET_H

#include "inode.h"

struct bucket_entry {
    const char *name;
    const uint8_t *record; /* NULL: the inode has a key of its own */
    fs_id id;
    uint32_t record_len;
    uint32_t type; /* S_IFMT bits */
    uint8_t index;
    uint8_t name_len;
};

struct bucket {
    fs_id dir;
    uint64_t hash;
    unsigned count;
    struct lsm_value value;
    struct bucket_entry entry[BUCKET_ENTRIES_MAX];
};

/* A bucket that does not exist is one without entries. -EIO. Release it in any case. */
int bucket_load(struct fs *fs, fs_id dir, uint64_t hash, struct bucket *out);
void bucket_release(struct bucket *b);

/* Decodes into b, whose dir is set; entries point into bytes. */
int bucket_decode(const void *bytes, size_t len, struct bucket *b);

struct bucket_entry *bucket_find(struct bucket *b, const char *name, size_t len);
struct bucket_entry *bucket_at(struct bucket *b, unsigned index);

/* The lowest index that is free, or -ENOSPC. */
int bucket_free_index(const struct bucket *b);

/* Adds an entry (its index is free); pointers to entries become invalid, as they do by bucket_remove. */
void bucket_add(struct bucket *b, const struct bucket_entry *entry);
void bucket_remove(struct bucket *b, unsigned index);

/* The value of a bucket that has entries, and room that is enough for it. */
size_t bucket_encoded_max(const struct bucket *b);
size_t bucket_encode(const struct bucket *b, uint8_t *out);

/* Adds the new value of the bucket to a batch. -ENOMEM */
int bucket_put(const struct bucket *b, struct lsm_batch *batch);

#endif
