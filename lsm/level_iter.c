/*
 * level_iter.c - one internal iterator over all files of a sorted level.
 *
 * It has an iterator of at most one file open: the one it stands in. Files ascend and share no user
 * key, so going through them one after the other is going through the level in order.
 *
 * Threads: an iterator belongs to one thread at a time.
 */
#include "vset_internal.h"

#include <stdlib.h>

struct level_iter {
    struct iter base; /* first: the public face */
    const struct level *level;
    unsigned flags;
    size_t index;       /* of the file that `inner` goes through */
    struct iter *inner; /* NULL: none */
};

static struct level_iter *of(struct iter *it) { return (struct level_iter *)it; }

/* Takes over where the inner iterator stands. */
static void mirror(struct level_iter *l)
{
    l->base.valid = l->inner && l->inner->valid;
    l->base.status = l->inner ? l->inner->status : 0;
    if (!l->base.valid)
        return;
    l->base.key = l->inner->key;
    l->base.value = l->inner->value;
    l->base.value_len = l->inner->value_len;
}

/* Makes `inner` an iterator of file `index`, standing nowhere. False: there is none, or an error is set. */
static bool enter(struct level_iter *l, size_t index)
{
    if (l->inner && l->index == index)
        return true;
    iter_free(l->inner);
    l->inner = NULL;
    l->base.valid = false;
    l->base.status = 0;
    if (index >= l->level->count) /* also before the first, where it has wrapped round */
        return false;
    l->index = index;
    l->base.status = table_iter_new(l->level->files[index]->table, l->flags, &l->inner);
    if (l->base.status)
        l->inner = NULL;
    return !l->base.status;
}

/* While the file has nothing more and no error, goes on to the start of the next. */
static void settle_forward(struct level_iter *l)
{
    while (!l->inner->valid && !l->inner->status) {
        if (!enter(l, l->index + 1))
            return;
        iter_first(l->inner);
    }
    mirror(l);
}

static void settle_backward(struct level_iter *l)
{
    while (!l->inner->valid && !l->inner->status) {
        if (!enter(l, l->index - 1))
            return;
        iter_last(l->inner);
    }
    mirror(l);
}

static void level_first(struct iter *it)
{
    struct level_iter *l = of(it);
    if (!enter(l, 0))
        return;
    iter_first(l->inner);
    settle_forward(l);
}

static void level_last(struct iter *it)
{
    struct level_iter *l = of(it);
    if (!enter(l, l->level->count - 1))
        return;
    iter_last(l->inner);
    settle_backward(l);
}

static void level_seek(struct iter *it, const uint8_t *key, size_t len, uint64_t seq)
{
    struct level_iter *l = of(it);
    if (!enter(l, level_find(l->level, key, len)))
        return;
    iter_seek(l->inner, key, len, seq);
    settle_forward(l);
}

static void level_next(struct iter *it)
{
    struct level_iter *l = of(it);
    iter_next(l->inner);
    settle_forward(l);
}

static void level_prev(struct iter *it)
{
    struct level_iter *l = of(it);
    iter_prev(l->inner);
    settle_backward(l);
}

static void level_free(struct iter *it)
{
    iter_free(of(it)->inner);
    free(it);
}

static const struct iter_ops level_iter_ops = {
    .first = level_first,
    .last = level_last,
    .seek = level_seek,
    .next = level_next,
    .prev = level_prev,
    .free = level_free,
};

int level_iter_new(const struct level *level, unsigned flags, struct iter **out)
{
    struct level_iter *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->base.ops = &level_iter_ops;
    l->level = level;
    l->flags = flags;
    *out = &l->base;
    return 0;
}
