/*
 * compact_model.h - entries in an array, an iterator over them, and what reading them should give.
 *
 * Merge operands are affine functions (a, b): x -> a x + b, which are associative and not
 * commutative, so that a fold in the wrong order gives another result. Keys are 8 bytes, big-endian.
 * Include after the cmocka headers.
 */
#ifndef COMPACT_MODEL_H
#define COMPACT_MODEL_H

#include "coding.h"
#include "entry_model.h"
#include "ikey.h"

#include <errno.h>

#define NOTHING UINT64_C(77) /* what an operand takes for the value of a key that does not exist */

struct entry {
    uint8_t key[8];
    uint32_t key_len;
    uint64_t seq;
    uint8_t type;
    uint64_t v[2];    /* PUT: v[0]. MERGE: a, b */
    uint32_t padding; /* bytes added to a put's value, to make tables grow */
};

struct entries {
    struct entry *list;
    size_t count;
};

struct array_iter {
    struct iter base;
    const struct entries *entries;
    size_t at, fail_at;
    uint8_t value[4096];
};

static inline void show(struct array_iter *a)
{
    a->base.valid = a->at < a->entries->count && a->at != a->fail_at;
    a->base.status = a->at == a->fail_at ? -EIO : 0;
    if (!a->base.valid)
        return;
    const struct entry *e = &a->entries->list[a->at];
    a->base.key = (struct ikey){e->key, e->key_len, e->type, e->seq};
    memset(a->value, 0x5a, sizeof a->value);
    put_le64(a->value, e->v[0]);
    put_le64(a->value + 8, e->v[1]);
    a->base.value = a->value;
    a->base.value_len = e->type == ENTRY_PUT ? 8 + e->padding : e->type == ENTRY_MERGE ? 16 : 0;
}
static void array_first(struct iter *it)
{
    ((struct array_iter *)it)->at = 0;
    show((struct array_iter *)it);
}
static void array_next(struct iter *it)
{
    ((struct array_iter *)it)->at++;
    show((struct array_iter *)it);
}
static const struct iter_ops array_ops = {.first = array_first, .next = array_next};

static inline void array_iter_init(struct array_iter *a, const struct entries *entries)
{
    memset(a, 0, sizeof *a);
    a->base.ops = &array_ops;
    a->entries = entries;
    a->fail_at = SIZE_MAX;
}

static inline size_t affine(void *arg, const void *base, size_t base_len, bool base_is_operand,
                            const void *operand, size_t operand_len, void *out)
{
    (void)arg;
    assert_int_equal(operand_len, 16);
    uint64_t a = get_le64(operand), b = get_le64((const uint8_t *)operand + 8);
    if (base_is_operand) {
        assert_int_equal(base_len, 16);
        uint64_t a1 = get_le64(base), b1 = get_le64((const uint8_t *)base + 8);
        put_le64(out, a * a1);
        put_le64((uint8_t *)out + 8, a * b1 + b);
        return 16;
    }
    assert_true(!base || base_len >= 8);
    put_le64(out, a * (base ? get_le64(base) : NOTHING) + b);
    return 8;
}

static inline int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int c = key_compare(x->key, x->key_len, y->key, y->key_len);
    return c ? c : (x->seq < y->seq) - (x->seq > y->seq);
}

static inline struct entries random_entries(size_t count, size_t keys, unsigned padding)
{
    struct entries e = {calloc(count + 1, sizeof(struct entry)), count};
    for (size_t i = 0; i < count; i++) {
        struct entry *x = &e.list[i];
        put_be64(x->key, model_below(keys));
        x->key_len = 8;
        x->seq = 10 + i;
        x->type = (uint8_t)model_below(3);
        x->v[0] = model_random();
        x->v[1] = model_random();
        x->padding = padding ? (uint32_t)model_below(padding) : 0;
    }
    qsort(e.list, count, sizeof *e.list, compare_entries);
    return e;
}

struct reading {
    bool exists;
    uint64_t value;
};

/* The index of the first entry with a key above `key`. The entries stand in the order of compare_entries. */
static inline size_t entries_after(const struct entries *e, const uint8_t *key)
{
    size_t from = 0, to = e->count;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (memcmp(e->list[mid].key, key, 8) <= 0)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

/* The value of `key` at `seq`, if below these entries lies `below`. */
static inline struct reading read_at(const struct entries *e, const uint8_t *key, uint64_t seq,
                                     struct reading below)
{
    struct reading r = below;
    for (size_t i = entries_after(e, key); i-- > 0 && !memcmp(e->list[i].key, key, 8);) { /* oldest first */
        const struct entry *x = &e->list[i];
        if (x->seq > seq)
            continue;
        if (x->type == ENTRY_DELETE)
            r = (struct reading){false, 0};
        else if (x->type == ENTRY_PUT)
            r = (struct reading){true, x->v[0]};
        else
            r = (struct reading){true, x->v[0] * (r.exists ? r.value : NOTHING) + x->v[1]};
    }
    return r;
}

#endif
