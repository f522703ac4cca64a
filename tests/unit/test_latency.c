/* test_latency.c - histograms of durations against sorted samples, and that a store fills them. */
#include "latency.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define SAMPLES 20000u

static uint64_t state;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void near(uint64_t got, uint64_t right) { assert_true(got <= right && got >= right - right / 8); }

static void test_percentiles(void **unused)
{
    (void)unused;
    static uint64_t samples[SAMPLES];

    for (unsigned round = 0; round < 40; round++) {
        struct latency l = {0};
        struct lsm_latency got;
        for (unsigned i = 0; i < SAMPLES; i++) {
            samples[i] = rnd() >> (24 + rnd() % 40);
            latency_add(&l, samples[i]);
        }
        qsort(samples, SAMPLES, sizeof samples[0], by_value);
        latency_get(&l, &got);
        assert_int_equal(got.samples, SAMPLES);
        assert_int_equal(got.max_ns, samples[SAMPLES - 1]);
        near(got.p50_ns, samples[SAMPLES / 2]);
        near(got.p99_ns, samples[SAMPLES / 100 * 99]);
        near(got.p999_ns, samples[SAMPLES / 1000 * 999]);
    }
}

static void test_few(void **unused)
{
    (void)unused;
    struct latency l = {0};
    struct lsm_latency got;

    latency_get(&l, &got);
    assert_int_equal(got.samples + got.p50_ns + got.p99_ns + got.max_ns, 0);
    latency_add(&l, 1000);
    latency_get(&l, &got);
    near(got.p50_ns, 1000);
    near(got.p999_ns, 1000);
    latency_add(&l, UINT64_MAX); /* a clock gone mad */
    latency_get(&l, &got);
    assert_int_equal(got.samples, 2);
}

static void test_store(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm_options o = {
        .flags = LSM_CREATE | LSM_INLINE, .env = env, .shards = 2, .log_segment_bytes = 1 << 20};
    struct lsm *db;
    struct lsm_value v;
    struct lsm_stats s;
    struct lsm_iter *it;

    assert_int_equal(lsm_open("/store", &o, &db), 0);
    assert_int_equal(lsm_iter_new(db, NULL, &it), 0);
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(lsm_put(db, &i, sizeof i, "", 0, 0), 0);
        assert_int_equal(lsm_get(db, &i, sizeof i, NULL, 0, &v), 0);
        lsm_value_release(&v);
        lsm_iter_seek(it, &i, sizeof i);
    }
    lsm_iter_free(it);
    assert_int_equal(lsm_sync(db), 0);
    lsm_stats_get(db, &s);
    uint64_t count[LSM_OPS] = {0};
    for (unsigned i = 0; i < s.shards; i++)
        for (unsigned op = 0; op < LSM_OPS; op++)
            count[op] += s.shard[i].latency[op].samples;
    for (unsigned op = 0; op < LSM_OPS; op++)
        assert_in_range(count[op], 1000 / LATENCY_SAMPLED - 1, 1000 / LATENCY_SAMPLED + 2);
    assert_int_equal(s.sync_latency.samples, 1);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

int main(void)
{
    const char *s = getenv("SHALE_SEED");
    uint64_t seed = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u;

    state = seed | 1;
    printf("replay: SHALE_SEED=0x%llx test_latency\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percentiles),
        cmocka_unit_test(test_few),
        cmocka_unit_test(test_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
