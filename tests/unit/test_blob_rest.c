/*
 * test_blob_rest.c - what a store at rest does about garbage in blob files: collects it down to its bound, then nothing any
 * more; not while somebody writes; nothing that a snapshot keeps. On a simulated machine, whose clock the test moves.
 */
#include "blob_format.h"
#include "env_sim.h"
#include <shale/lsm.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KIB 1024u
#define FILE_BYTES (256u * KIB)
#define VALUE_BYTES (16u * KIB)
#define KEYS 96u
#define STEPS_MAX 10000u
#define REST_NS UINT64_C(2500000000)

static struct env *env;
static struct lsm *db;
static unsigned rounds[KEYS];

static void open_store(void)
{
    struct lsm_options o = {.flags = LSM_INLINE | LSM_CREATE,
                            .shards = 1,
                            .memory_bytes = 8u << 20,
                            .write_buffer_bytes = 64u * KIB,
                            .log_segment_bytes = 1u << 20,
                            .blob_min_bytes = 4u * KIB,
                            .blob_file_bytes = FILE_BYTES,
                            .env = env};
    assert_int_equal(lsm_open("/s", &o, &db), 0);
}

static size_t key_of(unsigned i, char key[16]) { return (size_t)snprintf(key, 16, "key %04u", i); }

static void fill(uint8_t value[VALUE_BYTES], unsigned i, unsigned round)
{
    for (unsigned at = 0; at < VALUE_BYTES; at++)
        value[at] = (uint8_t)(i * 31 + round * 7 + at / 13);
}

static void put(unsigned i, unsigned round)
{
    static uint8_t value[VALUE_BYTES];
    char key[16];
    size_t len = key_of(i, key);
    fill(value, i, round);
    assert_int_equal(lsm_put(db, key, len, value, sizeof value, 0), 0);
    rounds[i] = round;
}

static void check(unsigned i, unsigned round, const struct lsm_snapshot *snapshot)
{
    static uint8_t value[VALUE_BYTES];
    struct lsm_value v = {0};
    char key[16];
    size_t len = key_of(i, key);
    fill(value, i, round);
    assert_int_equal(lsm_get(db, key, len, snapshot, 0, &v), 0);
    assert_int_equal(v.len, sizeof value);
    assert_memory_equal(v.data, value, sizeof value);
    lsm_value_release(&v);
}

static void check_all(void)
{
    for (unsigned i = 0; i < KEYS; i++)
        check(i, rounds[i], NULL);
}

static struct lsm_stats stats(void)
{
    static struct lsm_stats st;
    lsm_stats_get(db, &st);
    return st;
}

static uint64_t blob_bytes(void) { return stats().shard[0].blob_bytes; }

static void work(void)
{
    int did = 1;
    for (unsigned i = 0; (did = lsm_work(db)) > 0; i++)
        assert_true(i < STEPS_MAX);
    assert_int_equal(did, 0);
}

/* The first pause is noticed after it; marks in the log begin another. */
static void rest(void)
{
    for (unsigned i = 0; i < 4; i++) {
        env_sim_sleep(env, REST_NS);
        work();
    }
}

/* blob_collect.h: a sixth, the 32nd part of a file, and their own headers and checksums. */
static uint64_t bound(uint64_t alive)
{
    return alive + alive / 6 + alive / 500 + FILE_BYTES / 32 +
           stats().shard[0].blob_files * BLOB_HEADER_BYTES;
}

/* Every third value of all that were written is garbage, in every file alike. */
static void make_garbage(void)
{
    for (unsigned i = 0; i < KEYS; i++)
        put(i, 1);
    for (unsigned i = 0; i < KEYS; i += 3)
        put(i, 2);
    work();
}

static unsigned changes;
static struct sim_fault count_changes(void *unused, const struct sim_call *call)
{
    (void)unused;
    changes += call->may_change;
    return (struct sim_fault){0};
}

static const uint64_t alive = (uint64_t)KEYS * VALUE_BYTES;

static void test_bound(void **unused)
{
    (void)unused;
    open_store();
    make_garbage();
    assert_true(blob_bytes() > bound(alive));
    rest();
    assert_true(blob_bytes() >= alive);
    assert_true(blob_bytes() <= bound(alive));
    /* It pays: no more than eight bytes for each that was freed. */
    assert_true(stats().shard[0].blob_bytes_moved <= 8 * (alive / 3));
    check_all();

    /* Then it is silent, whatever the time. */
    changes = 0;
    env_sim_hook(env, count_changes, NULL);
    for (unsigned i = 0; i < 100; i++) {
        env_sim_sleep(env, REST_NS * 10);
        work();
    }
    env_sim_hook(env, NULL, NULL);
    assert_int_equal(changes, 0);

    /* And so it is after an open, but for what the log still has to tell. */
    assert_int_equal(lsm_close(db), 0);
    open_store();
    uint64_t moved = stats().shard[0].blob_bytes_moved;
    rest();
    assert_int_equal(stats().shard[0].blob_bytes_moved, moved);
    check_all();
    assert_int_equal(lsm_close(db), 0);
}

/* Of what is only just written anew, and so hidden by what is in memory, nothing is in the way of the bound. */
static void test_hidden(void **unused)
{
    (void)unused;
    open_store();
    for (unsigned i = 0; i < KEYS; i++)
        put(i, 1);
    assert_int_equal(lsm_compact(db), 0);
    for (unsigned i = 0; i < KEYS / 4; i++)
        put(i * 4, 2);
    rest();
    assert_true(blob_bytes() <= bound(alive));
    check_all();
    /* Deletes, too. */
    for (unsigned i = 0; i < KEYS / 2; i++) {
        char key[16];
        size_t len = key_of(i, key);
        assert_int_equal(lsm_delete(db, key, len, 0), 0);
    }
    rest();
    assert_true(blob_bytes() <= bound(alive / 2));
    for (unsigned i = KEYS / 2; i < KEYS; i++)
        check(i, rounds[i], NULL);
    assert_int_equal(lsm_close(db), 0);
}

static void test_interrupted(void **unused)
{
    (void)unused;
    open_store();
    make_garbage();
    uint64_t before = blob_bytes();
    /* Who writes all the time, if only a little, has nothing collected meanwhile. */
    for (unsigned i = 0; i < 50; i++) {
        env_sim_sleep(env, REST_NS / 5);
        assert_int_equal(lsm_put(db, "small", 5, &i, sizeof i, 0), 0);
        work();
    }
    assert_int_equal(stats().shard[0].blob_bytes_moved, 0);
    assert_true(blob_bytes() >= before);

    /* Begun, then somebody writes: what is left stays for the next time. */
    for (unsigned i = 0; !stats().shard[0].blob_bytes_moved; i++) {
        assert_true(i < STEPS_MAX);
        env_sim_sleep(env, REST_NS / 4);
        assert_true(lsm_work(db) >= 0);
    }
    uint64_t moved = stats().shard[0].blob_bytes_moved;
    assert_true(moved <= FILE_BYTES + VALUE_BYTES); /* a slice */
    assert_true(blob_bytes() > bound(alive));
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(lsm_put(db, "small", 5, &i, sizeof i, 0), 0);
        env_sim_sleep(env, REST_NS / 5);
        work();
    }
    assert_true(stats().shard[0].blob_bytes_moved - moved <=
                FILE_BYTES); /* of what is less than half alive by now */
    check_all();
    assert_int_equal(lsm_close(db), 0);

    /* Closed in the midst of it, too. */
    open_store();
    rest();
    assert_true(blob_bytes() <= bound(alive));
    check_all();
    assert_int_equal(lsm_close(db), 0);
}

/* A write in the midst of a compaction that moves values stops the moving, and keeps what was moved. */
static bool armed;
static struct sim_fault write_beside(void *unused, const struct sim_call *call)
{
    (void)unused;
    const char *dot = strrchr(call->path, '.');
    if (armed && call->op == SIM_PWRITEV && dot && !strcmp(dot, ".blob") &&
        stats().shard[0].blob_bytes_moved) {
        armed = false;
        assert_int_equal(lsm_put(db, "small", 5, "x", 1, 0), 0);
    }
    return (struct sim_fault){0};
}

static void test_yields(void **unused)
{
    (void)unused;
    open_store();
    make_garbage();
    armed = true;
    env_sim_hook(env, write_beside, NULL);
    for (unsigned i = 0; armed; i++) {
        assert_true(i < STEPS_MAX);
        env_sim_sleep(env, REST_NS / 4);
        assert_true(lsm_work(db) >= 0);
    }
    env_sim_hook(env, NULL, NULL);
    uint64_t moved = stats().shard[0].blob_bytes_moved;
    assert_in_range(moved, VALUE_BYTES, VALUE_BYTES + 64 * KIB + VALUE_BYTES); /* it looks every 64 KiB */
    check_all();
    rest();
    assert_true(blob_bytes() <= bound(alive));
    check_all();
    assert_int_equal(lsm_close(db), 0);
}

static void test_snapshot(void **unused)
{
    (void)unused;
    struct lsm_snapshot *old;
    open_store();
    for (unsigned i = 0; i < KEYS; i++)
        put(i, 1);
    assert_int_equal(lsm_snapshot_new(db, &old), 0);
    assert_int_equal(lsm_snapshot_save(db, "old"), 0);
    for (unsigned i = 0; i < KEYS; i += 2)
        put(i, 2);
    rest();
    assert_true(blob_bytes() >= alive * 3 / 2);
    assert_true(blob_bytes() <= bound(alive * 3 / 2));
    for (unsigned i = 0; i < KEYS; i++)
        check(i, 1, old);
    check_all();
    lsm_snapshot_free(db, old);
    changes = 0; /* the name keeps all of it, and there is nothing to do */
    env_sim_hook(env, count_changes, NULL);
    rest();
    env_sim_hook(env, NULL, NULL);
    assert_int_equal(changes, 0);

    /* Once nobody sees it any more it comes to light with the next compaction. */
    assert_int_equal(lsm_snapshot_drop(db, "old"), 0);
    for (unsigned i = 0; i < KEYS; i++)
        put(i, 3);
    rest();
    assert_true(blob_bytes() <= bound(alive));
    check_all();
    assert_int_equal(lsm_close(db), 0);
}

/* A view keeps the files that it reads from; the bound is one of the files that the store knows. */
static void test_reader(void **unused)
{
    (void)unused;
    struct lsm_iter *it;
    unsigned n = 0;
    open_store();
    make_garbage();
    assert_int_equal(lsm_iter_new(db, NULL, &it), 0);
    lsm_iter_first(it);
    rest();
    assert_true(blob_bytes() <= bound(alive));
    for (; lsm_iter_valid(it); lsm_iter_next(it), n++) {
        static uint8_t value[VALUE_BYTES];
        size_t len;
        fill(value, n, rounds[n]);
        const void *at = lsm_iter_value(it, &len);
        assert_int_equal(len, sizeof value);
        assert_memory_equal(at, value, len);
    }
    assert_int_equal(lsm_iter_status(it), 0);
    assert_int_equal(n, KEYS);
    lsm_iter_free(it);
    assert_int_equal(lsm_close(db), 0);
}

/* Without space for what would be moved nothing is, time and again; with space it goes on. */
static void test_full_disk(void **unused)
{
    (void)unused;
    open_store();
    make_garbage();
    env_sim_capacity(env, env_sim_used(env));
    rest();
    check_all();
    env_sim_capacity(env, env_sim_used(env) + (64u << 20));
    rest();
    assert_true(blob_bytes() <= bound(alive));
    check_all();
    assert_int_equal(lsm_close(db), 0);
}

static int set_up(void **unused)
{
    (void)unused;
    env = env_sim_new(1);
    return env ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    env_sim_free(env);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_bound),    TEST(test_hidden),   TEST(test_interrupted),
                                       TEST(test_yields),   TEST(test_snapshot), TEST(test_reader),
                                       TEST(test_full_disk)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
