/*
 * merge.c - many sorted iterators as one, in both directions.
 *
 * A binary heap of the children that are valid: the smallest on top going forward, the largest
 * going backward. The children agree on one position P, the current entry: going forward every other
 * child stands on its first entry behind P, going backward on its last entry before P. Changing the
 * direction therefore moves every child once (seek, then one step), and costs nothing afterwards.
 *
 * Children hold different entries as a rule. If two hold an entry with the same key and seq, both
 * come out, the one of the lower child first going forward and last going backward.
 *
 * A child's error ends the iteration at once: going on without it could show old data.
 *
 * Threads: one.
 */
#include "ikey.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct child {
    struct iter *it; /* owned */
    size_t index;
};

struct merge_iter {
    struct iter base;
    bool forward;
    struct child *children; /* owned; all */
    size_t count;
    struct child **heap; /* owned; those that are valid */
    size_t heap_count;
};

/* Whether a comes before b in the direction of travel. */
static bool before(const struct merge_iter *m, const struct child *a, const struct child *b)
{
    int c = ikey_compare(&a->it->key, &b->it->key);
    if (c == 0)
        c = a->index < b->index ? -1 : 1;
    return m->forward ? c < 0 : c > 0;
}

static void sift_down(struct merge_iter *m, size_t i)
{
    struct child *moving = m->heap[i];
    for (;;) {
        size_t below = 2 * i + 1;
        if (below >= m->heap_count)
            break;
        if (below + 1 < m->heap_count && before(m, m->heap[below + 1], m->heap[below]))
            below++;
        if (!before(m, m->heap[below], moving))
            break;
        m->heap[i] = m->heap[below];
        i = below;
    }
    m->heap[i] = moving;
}

/* Shows the top of the heap, or the end. */
static void publish(struct merge_iter *m)
{
    m->base.valid = m->heap_count > 0;
    m->base.status = 0;
    if (!m->base.valid)
        return;
    const struct iter *top = m->heap[0]->it;
    m->base.key = top->key;
    m->base.value = top->value;
    m->base.value_len = top->value_len;
}

static void fail(struct merge_iter *m, int status)
{
    m->base.valid = false;
    m->base.status = status;
    m->heap_count = 0;
}

/* Every child has been positioned. */
static void rebuild(struct merge_iter *m)
{
    m->heap_count = 0;
    for (size_t i = 0; i < m->count; i++) {
        struct iter *it = m->children[i].it;
        if (it->valid) {
            m->heap[m->heap_count++] = &m->children[i];
        } else if (it->status) {
            fail(m, it->status);
            return;
        }
    }
    for (size_t i = m->heap_count / 2; i-- > 0;)
        sift_down(m, i);
    publish(m);
}

static void merge_first(struct iter *it)
{
    struct merge_iter *m = (struct merge_iter *)it;
    m->forward = true;
    for (size_t i = 0; i < m->count; i++)
        iter_first(m->children[i].it);
    rebuild(m);
}

static void merge_last(struct iter *it)
{
    struct merge_iter *m = (struct merge_iter *)it;
    m->forward = false;
    for (size_t i = 0; i < m->count; i++)
        iter_last(m->children[i].it);
    rebuild(m);
}

static void merge_seek(struct iter *it, const uint8_t *key, size_t len, uint64_t seq)
{
    struct merge_iter *m = (struct merge_iter *)it;
    m->forward = true;
    for (size_t i = 0; i < m->count; i++)
        iter_seek(m->children[i].it, key, len, seq);
    rebuild(m);
}

/* Puts a child on its first entry behind the position (entry `at` of child `index`). */
static void child_after(const struct child *c, const struct ikey *at, size_t index)
{
    iter_seek(c->it, at->key, at->len, at->seq);
    if (c->it->valid && c->index < index && ikey_compare(&c->it->key, at) == 0)
        iter_next(c->it);
}

/* Puts a child on its last entry before that position. */
static void child_before(const struct child *c, const struct ikey *at, size_t index)
{
    iter_seek(c->it, at->key, at->len, at->seq);
    if (c->it->valid) {
        if (c->index > index || ikey_compare(&c->it->key, at) != 0)
            iter_prev(c->it);
    } else if (c->it->status == 0) {
        iter_last(c->it);
    }
}

/* Moves every child but the current to the other side of the position, then the current by a step. */
static void turn(struct merge_iter *m, bool forward)
{
    struct child *current = m->heap[0];
    for (size_t i = 0; i < m->count; i++) {
        struct child *c = &m->children[i];
        if (c == current)
            continue;
        if (forward)
            child_after(c, &current->it->key, current->index);
        else
            child_before(c, &current->it->key, current->index);
    }
    m->forward = forward;
    if (forward)
        iter_next(current->it);
    else
        iter_prev(current->it);
    rebuild(m);
}

static void step(struct merge_iter *m, bool forward)
{
    assert(m->base.valid);
    if (m->forward != forward) {
        turn(m, forward);
        return;
    }
    struct iter *top = m->heap[0]->it;
    if (forward)
        iter_next(top);
    else
        iter_prev(top);
    if (!top->valid) {
        if (top->status) {
            fail(m, top->status);
            return;
        }
        m->heap[0] = m->heap[--m->heap_count];
    }
    if (m->heap_count > 1)
        sift_down(m, 0);
    publish(m);
}

static void merge_next(struct iter *it) { step((struct merge_iter *)it, true); }

static void merge_prev(struct iter *it) { step((struct merge_iter *)it, false); }

static void merge_free(struct iter *it)
{
    struct merge_iter *m = (struct merge_iter *)it;
    for (size_t i = 0; i < m->count; i++)
        iter_free(m->children[i].it);
    free(m->children);
    free(m->heap);
    free(m);
}

static const struct iter_ops merge_ops = {
    .first = merge_first,
    .last = merge_last,
    .seek = merge_seek,
    .next = merge_next,
    .prev = merge_prev,
    .free = merge_free,
};

int merge_iter_new(struct iter **children, size_t n, struct iter **out)
{
    if (n == 1) { /* nothing to merge */
        *out = children[0];
        return 0;
    }
    struct merge_iter *m = calloc(1, sizeof(*m));
    if (m) {
        m->children = calloc(n ? n : 1, sizeof(*m->children));
        m->heap = calloc(n ? n : 1, sizeof(*m->heap));
    }
    if (!m || !m->children || !m->heap) {
        for (size_t i = 0; i < n; i++)
            iter_free(children[i]);
        if (m) {
            free(m->children);
            free(m->heap);
            free(m);
        }
        return -ENOMEM;
    }
    m->base.ops = &merge_ops;
    m->forward = true;
    m->count = n;
    for (size_t i = 0; i < n; i++)
        m->children[i] = (struct child){children[i], i};
    *out = &m->base;
    return 0;
}
