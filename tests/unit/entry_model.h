/*
 * entry_model.h - random entries in a sorted array: the model for tests of tables and merges.
 *
 * Include after the cmocka headers. Every random decision comes from `model_random`, seeded by the
 * environment variable SHALE_SEED or the clock.
 */
#ifndef ENTRY_MODEL_H
#define ENTRY_MODEL_H

#include "ikey.h"
#include <shale/lsm.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t model_seed, model_state;

static inline uint64_t model_random(void) /* splitmix64 */
{
    uint64_t x = model_state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}
static inline size_t model_below(size_t n) { return (size_t)(model_random() % n); }

/* Call in main, and return model_end(failures) from it. */
static inline void model_start(const char *program)
{
    const char *s = getenv("SHALE_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    model_seed = s ? strtoull(s, NULL, 0) : (uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec;
    printf("%s: seed %llu\n", program, (unsigned long long)model_seed);
}
static inline int model_end(const char *program, int failures)
{
    if (failures)
        printf("replay: SHALE_SEED=%llu %s\n", (unsigned long long)model_seed, program);
    return failures != 0;
}
/* Setup of each test, so that one test can be replayed alone. */
static inline int model_reseed(void **state)
{
    (void)state;
    model_state = model_seed;
    return 0;
}

struct model_entry {
    struct ikey key; /* bytes are owned by the model */
    uint8_t *value;
    size_t value_len;
};

struct model {
    struct model_entry *entries;
    size_t count;
};

struct model_options {
    size_t keys;      /* different user keys, about */
    size_t versions;  /* of each, at most */
    size_t key_max;   /* bytes */
    size_t value_max; /* bytes, mostly far less */
};

/* Keys with common prefixes, binary ones, very short and very long ones. */
static inline uint32_t model_key(uint8_t *out, size_t key_max)
{
    size_t len;
    switch (model_below(8)) {
    case 0: len = model_below(4); break;
    case 1: len = model_below(key_max + 1); break;
    default: len = 8 + model_below(20); break;
    }
    if (len > key_max)
        len = key_max;
    unsigned alphabet = model_below(3) ? 3 : 256;
    size_t prefix = model_below(len + 1);
    for (size_t i = 0; i < len; i++)
        out[i] = i < prefix      ? (uint8_t)(i * 7)
                 : alphabet == 3 ? (uint8_t) "ab\xff"[model_below(3)]
                                 : (uint8_t)model_random();
    return (uint32_t)len;
}

static inline size_t model_value_len(size_t value_max)
{
    size_t len = model_below(5) == 0 ? 0 : model_below(10) ? model_below(60) : model_below(value_max + 1);
    return len < value_max ? len : value_max;
}

static inline int model_order(const void *a, const void *b)
{
    return ikey_compare(&((const struct model_entry *)a)->key, &((const struct model_entry *)b)->key);
}

static inline void model_set(struct model_entry *e, const uint8_t *key, uint32_t len, uint64_t seq,
                             size_t value_len)
{
    uint8_t *k = malloc(len + 1u);
    assert_non_null(k);
    memcpy(k, key, len);
    static const uint8_t types[] = {ENTRY_PUT, ENTRY_PUT, ENTRY_DELETE, ENTRY_MERGE};
    e->key = (struct ikey){k, len, types[model_below(4)], seq};
    e->value_len = value_len;
    e->value = malloc(value_len + 1);
    assert_non_null(e->value);
    for (size_t i = 0; i < value_len; i++)
        e->value[i] = (uint8_t)(seq * 31 + i * 7);
}

static inline void model_free(struct model *m)
{
    for (size_t i = 0; i < m->count; i++) {
        free((void *)m->entries[i].key.key);
        free(m->entries[i].value);
    }
    free(m->entries);
    *m = (struct model){NULL, 0};
}

/* Sorted; (key, seq) pairs are unique. */
static inline struct model model_make(struct model_options o)
{
    struct model m = {calloc(o.keys * o.versions, sizeof(struct model_entry)), 0};
    assert_non_null(m.entries);
    uint8_t key[LSM_KEY_MAX];
    uint64_t seq = 10;
    for (size_t k = 0; k < o.keys; k++) {
        uint32_t len = model_key(key, o.key_max);
        for (size_t v = 1 + (model_below(3) ? 0 : model_below(o.versions)); v > 0; v--) {
            seq += 1 + model_below(5); /* never the same seq twice, as in a store */
            model_set(&m.entries[m.count++], key, len, seq, model_value_len(o.value_max));
        }
    }
    qsort(m.entries, m.count, sizeof(*m.entries), model_order);
    return m;
}

/* Index of the first entry >= (key, seq). */
static inline size_t model_find(const struct model *m, const uint8_t *key, size_t len, uint64_t seq)
{
    struct ikey target = {.key = key, .len = (uint32_t)len, .seq = seq};
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (ikey_compare(&m->entries[mid].key, &target) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static inline bool model_equal(const struct model_entry *e, const struct ikey *k, const uint8_t *value,
                               size_t value_len)
{
    return k->len == e->key.len && memcmp(k->key, e->key.key, k->len) == 0 && k->seq == e->key.seq &&
           k->type == e->key.type && value_len == e->value_len && memcmp(value, e->value, value_len) == 0;
}

/* The iterator stands on entry i; at or past an end (i >= count) it is invalid without an error. */
static inline void model_check(const struct model *m, const struct iter *it, size_t i)
{
    assert_int_equal(it->status, 0);
    assert_int_equal(it->valid, i < m->count);
    if (it->valid)
        assert_true(model_equal(&m->entries[i], &it->key, it->value, it->value_len));
}

/* Forwards, backwards, then `steps` random movements with changes of direction. */
static inline void model_walk(const struct model *m, struct iter *it, size_t steps)
{
    size_t i = 0;
    for (iter_first(it); it->valid; iter_next(it), i++)
        model_check(m, it, i);
    model_check(m, it, i);
    assert_int_equal(i, m->count);
    iter_last(it);
    while (it->valid) {
        model_check(m, it, --i);
        iter_prev(it);
    }
    assert_int_equal(it->status, 0);
    assert_int_equal(i, 0);

    uint8_t key[LSM_KEY_MAX];
    i = m->count;
    while (steps-- > 0) {
        if (!it->valid || model_below(12) == 0) {
            unsigned how = (unsigned)model_below(8);
            if (how == 0) {
                iter_first(it);
                i = 0;
            } else if (how == 1) {
                iter_last(it);
                i = m->count - 1;
            } else if (how < 5) {
                const struct ikey *k = &m->entries[model_below(m->count)].key;
                uint64_t seq = model_below(2) ? k->seq + model_below(3) - 1 : model_below(2) ? SEQ_MAX : 0;
                iter_seek(it, k->key, k->len, seq);
                i = model_find(m, k->key, k->len, seq);
            } else {
                uint32_t len = model_key(key, LSM_KEY_MAX);
                iter_seek(it, key, len, SEQ_MAX);
                i = model_find(m, key, len, SEQ_MAX);
            }
        } else if (model_below(2)) {
            iter_next(it);
            i++;
        } else {
            iter_prev(it);
            i--; /* wraps to SIZE_MAX at the front: past the end for model_check */
        }
        model_check(m, it, i);
    }
}

#endif
