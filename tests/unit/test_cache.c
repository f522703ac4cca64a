/*
 * test_cache.c - the block cache: ownership, budget, replacement, and threads that fight over it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cache.h"
#include "entry_model.h"
#include "env.h"

/* A block whose bytes tell where it belongs. */
static uint8_t *make_block(uint64_t file, uint64_t offset, size_t len)
{
    uint8_t *data = malloc(len ? len : 1);
    if (data)
        for (size_t i = 0; i < len; i++)
            data[i] = (uint8_t)(file * 7 + offset * 13 + i);
    return data;
}

static bool is_block(const struct cache_block *b, uint64_t file, uint64_t offset)
{
    for (size_t i = 0; i < b->len; i++)
        if (b->data[i] != (uint8_t)(file * 7 + offset * 13 + i))
            return false;
    return true;
}

static struct cache_block *insert(struct cache *c, uint64_t file, uint64_t offset, size_t len, int keep)
{
    struct cache_block *b;
    uint8_t *data = make_block(file, offset, len);
    assert_non_null(data);
    assert_int_equal(cache_insert(c, file, offset, data, len, keep, &b), 0);
    return b;
}

static uint64_t bytes_of(struct cache *c)
{
    struct cache_stats s;
    cache_stats_get(c, &s);
    return s.bytes;
}

static bool has(struct cache *c, uint64_t file, uint64_t offset)
{
    struct cache_block *b = cache_lookup(c, file, offset);
    if (!b)
        return false;
    assert_true(is_block(b, file, offset));
    cache_release(c, b);
    return true;
}

static void test_insert_lookup(void **state)
{
    (void)state;
    struct cache *c;
    struct cache_stats s;
    assert_int_equal(cache_new(1u << 20, &c), 0);
    assert_null(cache_lookup(c, 1, 0));
    struct cache_block *a = insert(c, 1, 0, 100, 1);
    struct cache_block *again = insert(c, 1, 0, 100, 1); /* a slower thread's */
    assert_ptr_equal(a, again);
    struct cache_block *b = cache_lookup(c, 1, 0);
    assert_ptr_equal(a, b);
    assert_int_equal(b->len, 100);
    cache_release(c, a);
    cache_release(c, again);
    cache_release(c, b);
    assert_true(has(c, 1, 0));
    assert_false(has(c, 1, 1));
    assert_false(has(c, 2, 0));
    cache_stats_get(c, &s);
    assert_int_equal(s.hits, 2);
    assert_int_equal(s.misses, 3);
    assert_int_equal(s.capacity_bytes, 1u << 20);
    assert_true(s.bytes > 100 && s.bytes < 400);
    cache_free(c);
    cache_free(NULL);
}

static void test_not_kept(void **state)
{
    (void)state;
    struct cache *c;
    assert_int_equal(cache_new(1u << 20, &c), 0);
    struct cache_block *a = insert(c, 1, 0, 100, 0);
    struct cache_block *b = insert(c, 1, 0, 100, 0);
    assert_true(is_block(a, 1, 0) && is_block(b, 1, 0));
    assert_true(bytes_of(c) > 0);
    cache_release(c, a);
    cache_release(c, b);
    assert_false(has(c, 1, 0));
    assert_int_equal(bytes_of(c), 0);
    cache_free(c);
}

static void test_drop_file(void **state)
{
    (void)state;
    struct cache *c;
    assert_int_equal(cache_new(1u << 20, &c), 0);
    for (uint64_t i = 0; i < 200; i++)
        cache_release(c, insert(c, i % 2, i, 100, 1));
    struct cache_block *used = cache_lookup(c, 1, 7);
    assert_non_null(used);
    cache_drop_file(c, 1);
    assert_true(is_block(used, 1, 7)); /* in use: gone from lookups, not from memory */
    for (uint64_t i = 0; i < 200; i++)
        assert_int_equal(has(c, i % 2, i), i % 2 == 0);
    cache_release(c, used);
    cache_drop_file(c, 0);
    assert_int_equal(bytes_of(c), 0);
    cache_free(c);
}

static void test_budget(void **state)
{
    (void)state;
    struct cache *c;
    const size_t capacity = 200000;
    assert_int_equal(cache_new(capacity, &c), 0);
    for (uint64_t i = 0; i < 2000; i++) {
        struct cache_block *b = insert(c, 1, i, model_below(2000), 1);
        cache_release(c, b);
        assert_true(bytes_of(c) <= capacity);
    }
    assert_true(bytes_of(c) > capacity * 3 / 4);

    /* Blocks in use stay whatever the budget; afterwards it holds again. */
    struct cache_block *used[500];
    for (uint64_t i = 0; i < 500; i++)
        used[i] = insert(c, 2, i, 1000, 1);
    assert_true(bytes_of(c) > 500000);
    for (uint64_t i = 0; i < 500; i++)
        assert_true(is_block(used[i], 2, i));
    for (uint64_t i = 0; i < 500; i++)
        cache_release(c, used[i]);
    assert_true(bytes_of(c) <= capacity);

    /* One block of half the budget may stay: a slice borrows what others do not use. */
    cache_drop_file(c, 1);
    cache_drop_file(c, 2);
    cache_release(c, insert(c, 3, 0, capacity / 2, 1));
    assert_true(has(c, 3, 0));
    /* ... until they want it: blocks that are used now and then push it out. */
    for (int round = 0; round < 20; round++)
        for (uint64_t i = 0; i < 150; i++)
            if (!has(c, 4, i))
                cache_release(c, insert(c, 4, i, 1000, 1));
    assert_false(has(c, 3, 0));
    assert_true(bytes_of(c) <= capacity);
    cache_free(c);

    assert_int_equal(cache_new(0, &c), 0);
    struct cache_block *b = insert(c, 1, 1, 10, 1);
    assert_true(has(c, 1, 1));
    cache_release(c, b);
    assert_false(has(c, 1, 1));
    cache_free(c);
}

/* A scan over far more than fits leaves most of what is used again and again in place. */
static void test_scan_resistance(void **state)
{
    (void)state;
    struct cache *c;
    assert_int_equal(cache_new(1u << 20, &c), 0);
    for (uint64_t i = 0; i < 300; i++)
        cache_release(c, insert(c, 1, i, 1000, 1));
    unsigned kept = 0, asked = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        cache_release(c, insert(c, 2, i, 1000, 1));
        asked++;
        kept += has(c, 1, i % 300);
    }
    assert_true(kept > asked * 9 / 10);
    cache_free(c);
}

/* ---- threads ---- */

struct fighters {
    struct cache *c;
    uint64_t seed;     /* atomic */
    unsigned failures; /* atomic */
};

static void fight(void *arg)
{
    struct fighters *f = arg;
    uint64_t x = __atomic_add_fetch(&f->seed, 0x9e3779b97f4a7c15, __ATOMIC_RELAXED);
    struct cache_block *held[8] = {0};
    uint64_t files[8], offsets[8];
    unsigned failures = 0;
    for (int n = 0; n < 30000; n++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint64_t r = x >> 33;
        unsigned slot = r % 8;
        if (held[slot]) {
            failures += !is_block(held[slot], files[slot], offsets[slot]);
            cache_release(f->c, held[slot]);
            held[slot] = NULL;
        }
        files[slot] = r / 8 % 4;
        offsets[slot] = r / 64 % 300;
        if (r % 1000 == 999)
            cache_drop_file(f->c, files[slot]);
        held[slot] = cache_lookup(f->c, files[slot], offsets[slot]);
        if (!held[slot]) {
            size_t len = 50 + offsets[slot];
            uint8_t *data = make_block(files[slot], offsets[slot], len);
            failures += !data || cache_insert(f->c, files[slot], offsets[slot], data, len, r / 4096 % 8 != 0,
                                              &held[slot]) != 0;
        }
    }
    for (unsigned i = 0; i < 8; i++)
        if (held[i])
            cache_release(f->c, held[i]);
    __atomic_fetch_add(&f->failures, failures, __ATOMIC_RELAXED);
}

static void test_threads(void **state)
{
    (void)state;
    struct env *env = env_posix();
    struct env_thread *threads[4];
    struct fighters f = {.seed = model_random()};
    assert_int_equal(cache_new(100000, &f.c), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(env_thread_start(env, "fighter", -1, fight, &f, &threads[i]), 0);
    for (int i = 0; i < 4; i++)
        env_thread_join(env, threads[i]);
    assert_int_equal(f.failures, 0);
    assert_true(bytes_of(f.c) <= 100000);
    for (uint64_t file = 0; file < 4; file++)
        cache_drop_file(f.c, file);
    assert_int_equal(bytes_of(f.c), 0); /* no reference and no byte was lost */
    cache_free(f.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_insert_lookup, model_reseed),
        cmocka_unit_test_setup(test_not_kept, model_reseed),
        cmocka_unit_test_setup(test_drop_file, model_reseed),
        cmocka_unit_test_setup(test_budget, model_reseed),
        cmocka_unit_test_setup(test_scan_resistance, model_reseed),
        cmocka_unit_test_setup(test_threads, model_reseed),
    };
    model_start("test_cache");
    return model_end("test_cache", cmocka_run_group_tests(tests, NULL, NULL));
}
