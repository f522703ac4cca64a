/*
 * cache.h - uncompressed blocks of tables (data, index, filter) under one byte budget.
 *
 * A hit takes no lock: it finds the block in a hash table that others may be changing, and counts a reference by one
 * compare-and-swap. Entries are reference counted: a block in use is never freed, only unlinked.
 * Replacement is S3-FIFO, so that what is read once (a scan) passes through a tenth of the memory and leaves
 * the rest alone.
 *
 * Threads: any.
 */
#ifndef LSM_CACHE_H
#define LSM_CACHE_H

#include <stddef.h>
#include <stdint.h>

struct cache;

struct cache_block {
    uint8_t *data; /* allocated with malloc by the inserter, owned by the cache */
    size_t len;
    /* the cache's own fields follow in its private structure */
};

int cache_new(size_t capacity_bytes, struct cache **out);
void cache_free(struct cache *c); /* every block must have been released */

/* The block with a reference, or NULL. */
struct cache_block *cache_lookup(struct cache *c, uint64_t file, uint64_t offset);
/*
 * Takes ownership of data and returns the block with a reference. If another thread was faster, its
 * block is returned and data freed. Never fails for want of budget: over it, others are evicted and
 * what is referenced stays. -ENOMEM frees data. With keep false it is not kept after release.
 */
int cache_insert(struct cache *c, uint64_t file, uint64_t offset, uint8_t *data, size_t len, int keep,
                 struct cache_block **out);
void cache_release(struct cache *c, struct cache_block *b);
/* Forgets what it has of a deleted file. */
void cache_drop_file(struct cache *c, uint64_t file);

struct cache_stats {
    uint64_t hits, misses, bytes, capacity_bytes;
};
void cache_stats_get(struct cache *c, struct cache_stats *out);

#endif
