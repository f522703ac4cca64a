/*
 * table_iter.c - walking over a table in both directions.
 *
 * One cursor per level of the tree: cursor[0] stands in the root, the last one in a data block, and
 * a cursor's entry names the block of the one below it.
 *
 * A sequential scan reads ahead: from the third data block in sequence on, a block that the cache
 * does not have is read together with what follows it in the file, with a window that doubles at
 * every refill. The bytes are verified block by block when their turn comes.
 *
 * Threads: an iterator belongs to one.
 */
#include "table_read.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define READAHEAD_AFTER 2u
#define READAHEAD_MIN (32u << 10)
#define READAHEAD_MAX (256u << 10) /* what one iterator may hold; the device gains little above */
#define READAHEAD_GAP \
    (2u * TABLE_INDEX_BYTES) /* index blocks between two data blocks do not end a sequence */

/* Where an iterator stands in one level of the tree. */
struct cursor {
    struct cache_block *block; /* referenced, or NULL */
    struct block_handle handle;
    struct block_iter at;
};

/* Referenced are as many blocks as there are cursors; each is kept until another takes its place. */
struct table_iter {
    struct iter base;
    struct table *table;
    unsigned flags;
    struct table_window window;
    uint64_t next_offset; /* where the data block after the last one begins */
    unsigned in_sequence; /* data blocks read one after the other */
    unsigned walked;      /* a bit for each level: its cursor was moved into since the root was entered */
    struct cursor cursor[TABLE_LEVELS_MAX];
};

/* Fills the window from the block on. Nothing depends on it: on an error the block is read alone. */
static void read_ahead(struct table_iter *it, struct block_handle h)
{
    struct table_window *w = &it->window;
    struct table *t = it->table;
    if (!w->buf)
        w->buf = malloc(READAHEAD_MAX);
    if (!w->buf)
        return;
    w->size = w->size == 0 ? READAHEAD_MIN : w->size < READAHEAD_MAX ? w->size * 2 : READAHEAD_MAX;
    uint64_t left = t->layout.root.offset - h.offset; /* data ends before the root */
    size_t len = left < w->size ? (size_t)left : w->size;
    ssize_t n = env_pread(t->file, w->buf, len, h.offset);
    w->offset = h.offset;
    w->len = n > 0 ? (size_t)n : 0;
}

static int get_data_block(struct table_iter *it, struct block_handle h, struct cache_block **out)
{
    struct table *t = it->table;
    if (h.offset >= it->next_offset && h.offset - it->next_offset <= READAHEAD_GAP) {
        it->in_sequence++;
    } else {
        it->in_sequence = 0;
        it->window.size = 0;
    }
    it->next_offset = handle_end(h);
    *out = cache_lookup(t->cache, t->number, h.offset);
    if (*out)
        return 0;
    if (it->flags & LSM_NOWAIT) /* a walk is better off where it may read ahead */
        return it->in_sequence >= READAHEAD_AFTER ? -EAGAIN
                                                  : table_try_block(t, h, !(it->flags & LSM_NOFILL), out);
    if (it->in_sequence >= READAHEAD_AFTER && !window_has(&it->window, h))
        read_ahead(it, h);
    return table_load_block(t, h, &it->window, !(it->flags & LSM_NOFILL), out);
}

static void stop(struct table_iter *it, int status)
{
    it->base.valid = false;
    it->base.status = status;
}

/* Loads a block into a cursor, unless it is there already. False: the iterator has been stopped. */
static bool enter_block(struct table_iter *it, unsigned level, struct block_handle h)
{
    struct cursor *c = &it->cursor[level];
    if (!c->block || c->handle.offset != h.offset) {
        struct cache_block *block;
        int err = level == it->table->layout.depth ? get_data_block(it, h, &block)
                                                   : table_get_block(it->table, h, it->flags, true, &block);
        if (err) {
            stop(it, err);
            return false;
        }
        table_release(it->table, c->block);
        c->block = block;
        c->handle = h;
    }
    /* Anew each time: what it found bad must not stick to the cursor. */
    if (block_iter_init(&c->at, c->block->data, c->block->len)) {
        stop(it, table_bad_block(it->table, h.offset));
        return false;
    }
    return true;
}

/*
 * Loads the block that the cursor above names. The blocks of a level stand in the file in the order of their
 * keys; an index of lies that names some again and again could make a walk as good as endless.
 */
static bool enter_child(struct table_iter *it, unsigned level, bool forward)
{
    const struct cursor *parent = &it->cursor[level - 1];
    const uint64_t from = it->cursor[level].handle.offset;
    struct block_handle h;
    int err = table_child_handle(it->table, parent->handle.offset, &parent->at, &h);
    if (!err && it->walked & 1u << level && (forward ? h.offset <= from : h.offset >= from))
        err = table_bad_block(it->table, parent->handle.offset);
    if (err) {
        stop(it, err);
        return false;
    }
    it->walked |= 1u << level;
    return enter_block(it, level, h);
}

static void publish(struct table_iter *it)
{
    const struct block_iter *at = &it->cursor[it->table->layout.depth].at;
    it->base.valid = true;
    it->base.status = 0;
    it->base.key = at->key;
    it->base.value = at->value;
    it->base.value_len = at->value_len;
}

/* With LSM_SALVAGE: what was to be entered or walked over is damaged, and passed over. */
static bool pass_over(struct table_iter *it)
{
    if (!(it->flags & LSM_SALVAGE) || it->base.status != -EIO)
        return false;
    it->base.status = 0;
    return true;
}

static void step(struct block_iter *at, bool forward)
{
    if (forward)
        block_iter_next(at);
    else
        block_iter_prev(at);
}

/*
 * Goes on from the cursor of `level` to the nearest entry in the direction: down if the cursor
 * stands on something, up and one further if not. Ends, since no entry of an index is passed twice, and
 * no block entered twice.
 */
static void settle(struct table_iter *it, unsigned level, bool forward)
{
    for (;;) {
        struct cursor *c = &it->cursor[level];
        if (c->at.bad) {
            stop(it, table_bad_block(it->table, c->handle.offset));
            if (!pass_over(it))
                return;
        }
        if (c->at.valid && level == it->table->layout.depth) {
            publish(it);
            return;
        }
        if (c->at.valid) {
            if (!enter_child(it, level + 1, forward)) {
                if (!pass_over(it))
                    return;
                step(&c->at, forward);
                continue;
            }
            level++;
            if (forward)
                block_iter_first(&it->cursor[level].at);
            else
                block_iter_last(&it->cursor[level].at);
        } else if (level == 0) {
            stop(it, 0);
            return;
        } else {
            step(&it->cursor[--level].at, forward);
        }
    }
}

/* Into the root. False: the iterator has been stopped. */
static bool enter_root(struct table_iter *it)
{
    it->walked = 0;
    if (enter_block(it, 0, it->table->layout.root))
        return true;
    (void)pass_over(it); /* then it is at its end */
    return false;
}

static void table_iter_first(struct iter *base)
{
    struct table_iter *it = (struct table_iter *)base;
    if (!enter_root(it))
        return;
    block_iter_first(&it->cursor[0].at);
    settle(it, 0, true);
}

static void table_iter_last(struct iter *base)
{
    struct table_iter *it = (struct table_iter *)base;
    if (!enter_root(it))
        return;
    block_iter_last(&it->cursor[0].at);
    settle(it, 0, false);
}

static void table_iter_seek(struct iter *base, const uint8_t *key, size_t len, uint64_t seq)
{
    struct table_iter *it = (struct table_iter *)base;
    /* It may be this iterator's own key, which moving overwrites. A longer one compares like its prefix. */
    uint8_t copy[LSM_KEY_MAX + 1];
    struct ikey target = {.key = copy, .len = (uint32_t)(len < sizeof(copy) ? len : sizeof(copy))};
    target.seq = seq < SEQ_MAX ? seq : SEQ_MAX;
    if (target.len)
        memcpy(copy, key, target.len);
    if (!enter_root(it))
        return;
    unsigned level = 0;
    for (;;) {
        block_iter_seek(&it->cursor[level].at, &target);
        if (level == it->table->layout.depth || !it->cursor[level].at.valid)
            break;
        if (!enter_child(it, ++level, true))
            return;
    }
    settle(it, level, true);
}

static void table_iter_next(struct iter *base)
{
    struct table_iter *it = (struct table_iter *)base;
    assert(base->valid);
    block_iter_next(&it->cursor[it->table->layout.depth].at);
    settle(it, it->table->layout.depth, true);
}

static void table_iter_prev(struct iter *base)
{
    struct table_iter *it = (struct table_iter *)base;
    assert(base->valid);
    block_iter_prev(&it->cursor[it->table->layout.depth].at);
    settle(it, it->table->layout.depth, false);
}

static void table_iter_free(struct iter *base)
{
    struct table_iter *it = (struct table_iter *)base;
    for (unsigned i = 0; i <= it->table->layout.depth; i++)
        table_release(it->table, it->cursor[i].block);
    free(it->window.buf);
    free(it);
}

static const struct iter_ops table_iter_ops = {
    .first = table_iter_first,
    .last = table_iter_last,
    .seek = table_iter_seek,
    .next = table_iter_next,
    .prev = table_iter_prev,
    .free = table_iter_free,
};

/* ---- of a stand-in for a damaged table ---- */

/* Fails wherever an entry of the table might come next; beyond its last key it is just at its end. */
struct damaged_iter {
    struct iter base;
    struct table *table;
    unsigned flags;
};

static void damaged_stop(struct iter *base)
{
    const struct table *t = ((struct damaged_iter *)base)->table;
    base->valid = false;
    base->status = 0;
    if (!(((struct damaged_iter *)base)->flags & LSM_SALVAGE))
        base->status = logger_corrupt(&t->log, t->path, 0,
                                      "the table is damaged as a whole, what may lie in it can't be read");
}

static void damaged_seek(struct iter *base, const uint8_t *key, size_t len, uint64_t seq)
{
    const struct table_meta *m = &((struct damaged_iter *)base)->table->meta;
    (void)seq;
    if (key_compare(m->largest, m->largest_len, key, len) >= 0) {
        damaged_stop(base);
        return;
    }
    base->valid = false;
    base->status = 0;
}

static void damaged_free(struct iter *base) { free(base); }

static const struct iter_ops damaged_iter_ops = {
    .first = damaged_stop,
    .last = damaged_stop,
    .seek = damaged_seek,
    .next = damaged_stop,
    .prev = damaged_stop,
    .free = damaged_free,
};

static int damaged_iter_new(struct table *t, unsigned flags, struct iter **out)
{
    struct damaged_iter *it = calloc(1, sizeof(*it));
    if (!it)
        return -ENOMEM;
    it->base.ops = &damaged_iter_ops;
    it->table = t;
    it->flags = flags;
    *out = &it->base;
    return 0;
}

/* ---- of a table without entries ---- */

static void empty_stop(struct iter *base)
{
    base->valid = false;
    base->status = 0;
}

static void empty_seek(struct iter *base, const uint8_t *key, size_t len, uint64_t seq)
{
    (void)key, (void)len, (void)seq;
    empty_stop(base);
}

static void empty_free(struct iter *base) { free(base); }

static const struct iter_ops empty_iter_ops = {
    .first = empty_stop,
    .last = empty_stop,
    .seek = empty_seek,
    .next = empty_stop,
    .prev = empty_stop,
    .free = empty_free,
};

static int empty_iter_new(struct iter **out)
{
    struct iter *it = calloc(1, sizeof(*it));
    if (!it)
        return -ENOMEM;
    it->ops = &empty_iter_ops;
    *out = it;
    return 0;
}

int table_iter_new(struct table *t, unsigned flags, struct iter **out)
{
    if (t->damaged)
        return damaged_iter_new(t, flags, out);
    if (t->meta.entries == 0)
        return empty_iter_new(out);
    /* Only as many cursors as the tree has levels, at over 1 KiB each. */
    size_t size = offsetof(struct table_iter, cursor) + (t->layout.depth + 1) * sizeof(struct cursor);
    struct table_iter *it = calloc(1, size);
    if (!it)
        return -ENOMEM;
    it->base.ops = &table_iter_ops;
    it->table = t;
    it->flags = flags;
    it->next_offset = UINT64_MAX;
    *out = &it->base;
    return 0;
}
