/*
 * block.h - sorted entries with prefix-compressed keys: building them and walking over them.
 *
 * The bytes are described in table_format.h. The iterator takes arbitrary bytes: it never reads
 * outside of them, always ends, and sets `bad` where they can't be what the builder wrote.
 *
 * Threads: a builder and an iterator belong to one; a block's bytes may be shared.
 *
 * Source: the block format of LevelDB, with seq and type outside of the compressed key.
 */
#ifndef LSM_BLOCK_H
#define LSM_BLOCK_H

#include "ikey.h"
#include <shale/lsm.h>

#define BLOCK_RESTART_DATA 16u    /* a seek decodes 8 entries on average */
#define BLOCK_RESTART_BYTES 1024u /* or fewer: entries that lie further apart than a line cost a miss each */
#define BLOCK_RESTART_INDEX 1u    /* index keys are searched, never scanned */

/* ---- building ---- */

struct block_builder {
    uint8_t *buf; /* owned */
    size_t len, cap;
    uint32_t *restarts; /* owned */
    size_t restart_count, restart_cap;
    uint32_t restart_every, since_restart;
    size_t restart_at; /* offset of the last one */
    uint32_t count;
    uint32_t last_len;
    uint64_t last_seq;
    uint8_t last_key[LSM_KEY_MAX];
};

void block_builder_init(struct block_builder *b, uint32_t restart_every);
void block_builder_free(struct block_builder *b);
void block_builder_reset(struct block_builder *b);
/* Keys ascend (the caller checked) and are at most LSM_KEY_MAX long. -ENOMEM leaves the block as it was. */
int block_builder_add(struct block_builder *b, const struct ikey *key, const void *value, size_t value_len);
/* Length of the finished block. */
size_t block_builder_bytes(const struct block_builder *b);
/* An upper bound of what an entry adds to it. */
size_t block_entry_bytes(size_t key_len, size_t value_len);
/* Completes the block in b->buf, b->len bytes long, with room for a trailer after it. */
int block_builder_finish(struct block_builder *b);

/* ---- reading ---- */

struct block_iter {
    const uint8_t *data; /* borrowed */
    const uint8_t *restarts;
    uint32_t restart_count;
    uint32_t limit;    /* end of the entries */
    uint32_t at, next; /* offset of the current entry and of the one after it */
    bool valid;
    bool bad;        /* the bytes are no block; stays set until block_iter_init */
    struct ikey key; /* its bytes are in `buf` */
    const uint8_t *value;
    size_t value_len;
    uint8_t buf[LSM_KEY_MAX];
};

/* The bytes must outlive the iterator. -EIO: can't be a block; then every movement leaves it invalid. */
int block_iter_init(struct block_iter *it, const uint8_t *data, size_t len);
void block_iter_first(struct block_iter *it);
void block_iter_last(struct block_iter *it);
void block_iter_seek(struct block_iter *it, const struct ikey *target); /* first entry >= target */
void block_iter_next(struct block_iter *it);                            /* only if valid */
void block_iter_prev(struct block_iter *it);                            /* only if valid */

#endif
