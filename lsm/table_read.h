/*
 * table_read.h - what the three parts of the table reader share: table_reader.c (blocks, opening,
 * point lookups), table_iter.c (iterators) and table_verify.c. Private to them.
 */
#ifndef LSM_TABLE_READ_H
#define LSM_TABLE_READ_H

#include "block.h"
#include "table.h"
#include "table_format.h"

#define TABLE_LEVELS_MAX (TABLE_INDEX_DEPTH_MAX + 1) /* the tree's, data included */

/* What the footer says. */
struct table_layout {
    unsigned depth;    /* index levels */
    uint32_t incompat; /* enum table_feature */
    struct block_handle filter, root, properties;
    struct block_handle ranges; /* zero: there is none */
};

struct table {
    struct env_file *file;
    struct cache *cache;
    struct table_reader_stats *stats; /* or NULL */
    struct logger log;
    uint64_t number;
    struct table_layout layout;
    struct table_meta meta;   /* own copy */
    int damaged;              /* not 0: a stand-in of table_open_damaged, which has no file and no layout */
    uint32_t filter_failures; /* atomic: in succession; lookups do without a filter that can't be read */
    char path[];
};

/* Bytes of the file that an iterator has read ahead, not verified yet. */
struct table_window {
    uint8_t *buf; /* owned */
    uint64_t offset;
    size_t len;
    size_t size; /* of the last refill */
};

static inline bool window_has(const struct table_window *w, struct block_handle h)
{
    return h.offset >= w->offset && handle_end(h) <= w->offset + w->len;
}

/* All return 0 or a negative errno; corruption has been reported when they return -EIO. */

/* Footer and properties, read and checked against the manifest's word. */
int table_read_footer(const struct table *t, struct table_layout *out);
int table_read_properties(const struct table *t, const struct table_layout *layout, uint64_t *data_blocks);

/* A verified block, unpacked, in memory of its own (release with free); from the window, if it lies in there. */
int table_read_block(const struct table *t, struct block_handle h, const struct table_window *w,
                     uint8_t **out, size_t *len);
/* The contents of a block whose stored bytes, with the trailer, were read: checked and unpacked. Takes `owned` over, if any. */
int table_take_stored(const struct table *t, struct block_handle h, const uint8_t *stored, uint8_t *owned,
                      uint8_t **out, size_t *len);
/* Memory (of malloc) for the stored bytes of a block of that length. */
uint8_t *table_block_memory(size_t len);
/* The same into the cache, which did not have it; referenced. */
int table_load_block(const struct table *t, struct block_handle h, const struct table_window *w, bool keep,
                     struct cache_block **out);
/* The same, -EAGAIN if the system does not have it in memory either. */
int table_try_block(const struct table *t, struct block_handle h, bool keep, struct cache_block **out);
/* From the cache or the file; -EAGAIN with LSM_NOWAIT if it would have to be read from the disk. */
int table_get_block(const struct table *t, struct block_handle h, unsigned flags, bool keep,
                    struct cache_block **out);
/* Into what table_note_in was told of last: the lookup misses this block. */
void table_note(const struct table *t, struct block_handle h);
/* The handle in the index entry at which `at` stands, in the block at `parent`. */
int table_child_handle(const struct table *t, uint64_t parent, const struct block_iter *at,
                       struct block_handle *out);
/* Reports a block that the iterator found bad; -EIO. */
int table_bad_block(const struct table *t, uint64_t offset);

#endif
