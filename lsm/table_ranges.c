/*
 * table_ranges.c - the range deletes of a table: asking what covers a key, and reading them all.
 *
 * The block is searched where it lies in the cache: every entry is a restart, so a question is two or three binary
 * searches, whatever the number of range deletes, and nothing is built or kept for it.
 *
 * Threads: any.
 */
#include "table_read.h"

#include <errno.h>

/* What the block says must be a range delete, or the reader would be led astray. */
static bool is_range(const struct block_iter *it)
{
    return it->key.type == ENTRY_RANGE_DELETE && it->value_len <= LSM_KEY_MAX &&
           key_compare(it->key.key, it->key.len, it->value, it->value_len) < 0;
}

/* The iterator on the last entry that starts at or before key, and `after` on the next; either may be invalid. */
static void find(struct block_iter *it, struct block_iter *after, const void *key, size_t len)
{
    struct ikey target = {.key = key, .len = (uint32_t)len, .seq = 0};
    block_iter_seek(after, &target);
    if (after->bad) {
        it->bad = true;
        return;
    }
    if (!after->valid) {
        block_iter_last(it);
        return;
    }
    block_iter_seek(it, &target);
    if (it->valid)
        block_iter_prev(it);
}

/*
 * Whether the two that a search ended between lie around the key, as in a block in order they must: bytes from a
 * disk may be in any order, or say a seq of 0, which no range delete has.
 */
static bool around(const struct block_iter *it, const struct block_iter *after, const void *key, size_t len)
{
    if (it->valid && (!is_range(it) || key_compare(it->key.key, it->key.len, key, len) > 0))
        return false;
    return !after->valid || key_compare(after->key.key, after->key.len, key, len) > 0;
}

static int cover_in_block(const struct table *t, struct block_iter *it, size_t block_len, const void *key,
                          size_t len, uint64_t seq, uint64_t *cover, struct range_bounds *bounds)
{
    const uint64_t offset = t->layout.ranges.offset;
    struct block_iter after;
    if (block_iter_init(&after, it->data, block_len))
        return table_bad_block(t, offset);
    find(it, &after, key, len);
    if (it->bad || after.bad || !around(it, &after, key, len))
        return table_bad_block(t, offset);
    if (bounds)
        bounds->has_lower = bounds->has_upper = false;
    bool inside = it->valid && key_compare(it->value, it->value_len, key, len) > 0;
    if (!inside) {
        if (bounds && it->valid)
            bounds_set_lower(bounds, it->value, it->value_len);
        if (bounds && after.valid)
            bounds_set_upper(bounds, after.key.key, after.key.len);
        return 0;
    }
    if (bounds) {
        bounds_set_lower(bounds, it->key.key, it->key.len);
        bounds_set_upper(bounds, it->value, it->value_len);
    }
    if (it->key.seq <= seq) { /* commonly the fragment has one seq; if not, `it` is its oldest */
        struct ikey target = {.key = it->key.key, .len = it->key.len, .seq = seq < SEQ_MAX ? seq : SEQ_MAX};
        block_iter_seek(&after, &target);
        if (after.bad || !after.valid || after.key.seq > seq ||
            key_compare(after.key.key, after.key.len, it->key.key, it->key.len) != 0)
            return table_bad_block(t, offset);
        *cover = after.key.seq;
    }
    return 0;
}

int table_cover(struct table *t, const void *key, size_t len, uint64_t seq, unsigned flags, uint64_t *cover,
                struct range_bounds *bounds)
{
    struct cache_block *block;
    struct block_iter it;
    *cover = 0;
    if (t->damaged)
        return logger_corrupt(&t->log, t->path, 0,
                              "the table is damaged as a whole, what may lie in it can't be read");
    int err = table_get_block(t, t->layout.ranges, flags, true, &block);
    if (err)
        return err;
    err = block_iter_init(&it, block->data, block->len)
              ? table_bad_block(t, t->layout.ranges.offset)
              : cover_in_block(t, &it, block->len, key, len, seq, cover, bounds);
    cache_release(t->cache, block);
    return err;
}

int table_ranges(struct table *t, struct ranges *out)
{
    struct cache_block *block;
    struct block_iter it;
    if (!t->meta.range_deletes)
        return 0;
    if (t->damaged)
        return logger_corrupt(&t->log, t->path, 0,
                              "the table is damaged as a whole, its range deletes are lost");
    int err = table_get_block(t, t->layout.ranges, 0, true, &block);
    if (err)
        return err;
    if (block_iter_init(&it, block->data, block->len))
        err = table_bad_block(t, t->layout.ranges.offset);
    for (block_iter_first(&it); !err && it.valid; block_iter_next(&it)) {
        struct range_delete d = {it.key.key, it.value, it.key.len, (uint32_t)it.value_len, it.key.seq};
        err = is_range(&it) ? ranges_add(out, &d) : table_bad_block(t, t->layout.ranges.offset);
    }
    if (!err && it.bad)
        err = table_bad_block(t, t->layout.ranges.offset);
    cache_release(t->cache, block);
    return err;
}
