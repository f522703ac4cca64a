/*
 * ranges.h - range deletes: what they cover.
 *
 * A range delete (start, end, seq) deletes the versions below seq of all keys >= start and < end. Where several overlap,
 * what counts at a key is which of them cover it. So they are looked at as *fragments*: sorted ranges that do not
 * overlap, each with the seqs that cover all of it. Of the seqs between two snapshots only the newest says anything.
 *
 * Two forms of the same thing: struct ranges, built once and read by flush, compaction and repair; and struct
 * range_index (range_index.h), which grows under its readers, in a memtable. A third is the range block of a
 * table (table_format.h).
 *
 * Threads: building, one; a finished one is read by any.
 */
#ifndef LSM_RANGES_H
#define LSM_RANGES_H

#include "ikey.h"
#include <shale/lsm.h>

/* Where an answer about a key holds: for every key >= lower and < upper. Copies, valid as long as the struct. */
struct range_bounds {
    bool has_lower, has_upper; /* false: without end */
    uint32_t lower_len, upper_len;
    uint8_t lower[LSM_KEY_MAX], upper[LSM_KEY_MAX];
};

static inline void bounds_set_lower(struct range_bounds *b, const uint8_t *key, size_t len)
{
    b->has_lower = true;
    b->lower_len = (uint32_t)len;
    memcpy(b->lower, key, len);
}
static inline void bounds_set_upper(struct range_bounds *b, const uint8_t *key, size_t len)
{
    b->has_upper = true;
    b->upper_len = (uint32_t)len;
    memcpy(b->upper, key, len);
}
static inline bool bounds_have(const struct range_bounds *b, const uint8_t *key, size_t len)
{
    return (!b->has_lower || key_compare(b->lower, b->lower_len, key, len) <= 0) &&
           (!b->has_upper || key_compare(b->upper, b->upper_len, key, len) > 0);
}

struct range_delete {
    const uint8_t *start, *end;
    uint32_t start_len, end_len;
    uint64_t seq;
};

struct range_fragment {
    const uint8_t *start, *end;
    uint32_t start_len, end_len;
    size_t first, count; /* its seqs: ranges.seqs[first ...], newest first; at least one */
};

/* Zero-initialised is empty. */
struct ranges {
    struct range_fragment *fragments; /* ascending */
    size_t count;
    uint64_t *seqs;
    size_t seq_count;
    /* while building */
    struct range_delete *raw;
    size_t raw_count, raw_capacity;
    struct ranges_chunk *chunks; /* the bytes of keys */
};

int ranges_add(struct ranges *r, const struct range_delete *d); /* copies the keys */
/* After the last ranges_add, once. `snapshots` ascending: the seqs that stay readable. */
int ranges_build(struct ranges *r, const uint64_t *snapshots, size_t snapshot_count);
void ranges_free(struct ranges *r);

/* Versions of the same stratum are visible to the same snapshots: how many snapshots are older. */
size_t ranges_stratum(const uint64_t *snapshots, size_t count, uint64_t seq);

/* Index of the first fragment that ends above key: the one that covers it, if it starts at or below. */
size_t ranges_find(const struct ranges *r, const void *key, size_t len);
/* The newest seq <= seq that covers key; 0: none. */
uint64_t ranges_cover(const struct ranges *r, const void *key, size_t len, uint64_t seq);

#endif
