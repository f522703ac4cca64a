/*
 * test_crash.c - the simulated machine itself, and, step by step, each way of losing data that prove_engine has found.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "env_sim.h"
#include <shale/lsm.h>

#define MIB ((uint64_t)1 << 20)

static uint64_t route_first_byte(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len ? *(const uint8_t *)key : 0;
}

/* A machine with a directory for the store that is there to stay. */
static struct env *new_machine(void)
{
    struct env *env = env_sim_new(1);

    assert_int_equal(env_mkdir(env, "/s"), 0);
    assert_int_equal(env_sync_dir(env, "/"), 0);
    return env;
}

static struct lsm *open_with(struct env *env, unsigned flags, size_t blob_min_bytes, int expected)
{
    struct lsm_options o = {
        .flags = LSM_INLINE | flags,
        .shards = 2,
        .memory_bytes = 8 << 20,
        .write_buffer_bytes = 16 << 10,
        .log_segment_bytes = MIB,
        .blob_min_bytes = blob_min_bytes,
        .route = route_first_byte,
        .env = env,
    };
    struct lsm *db = NULL;

    assert_int_equal(lsm_open("/s", &o, &db), expected);
    return db;
}

/* Most tests are about the log. */
static struct lsm *open_store(struct env *env, unsigned flags, int expected)
{
    return open_with(env, flags, LSM_BLOB_NEVER, expected);
}

static void put(struct lsm *db, const char *key, size_t len, unsigned flags)
{
    char *value = malloc(len + 1);

    assert_non_null(value);
    memset(value, key[0], len);
    assert_int_equal(lsm_put(db, key, strlen(key), value, len, flags), 0);
    free(value);
}

static void check(struct lsm *db, const char *key, size_t len)
{
    struct lsm_value v;

    assert_int_equal(lsm_get(db, key, strlen(key), NULL, 0, &v), 0);
    assert_int_equal(v.len, len);
    lsm_value_release(&v);
}

static void check_gone(struct lsm *db, const char *key)
{
    struct lsm_value v;

    assert_int_equal(lsm_get(db, key, strlen(key), NULL, 0, &v), -ENOENT);
}

/* ---- the machine ---- */

static void write_text(struct env_file *f, const char *text, uint64_t at)
{
    assert_int_equal(env_pwrite(f, text, strlen(text), at), 0);
}

static void check_text(struct env *env, const char *path, const char *text)
{
    struct env_file *f;
    char buf[64] = {0};

    assert_int_equal(env_open(env, path, ENV_READ, &f), 0);
    assert_int_equal(env_pread(f, buf, sizeof buf - 1, 0), strlen(text));
    assert_string_equal(buf, text);
    env_close(f);
}

static void test_machine(void **unused)
{
    struct env *env = env_sim_new(1), *copy;
    struct env_file *f;

    (void)unused;
    assert_int_equal(env_open(env, "/a", ENV_READ | ENV_WRITE | ENV_CREATE, &f), 0);
    write_text(f, "first", 0);
    assert_int_equal(env_sync(f), 0);

    copy = env_sim_clone(env, 2); /* contents are durable, the name is not */
    env_sim_power_cut(copy, SIM_LOSE_ALL);
    struct env_file *none;
    assert_int_equal(env_open(copy, "/a", ENV_READ, &none), -ENOENT);
    env_sim_free(copy);

    assert_int_equal(env_sync_dir(env, "/"), 0);
    write_text(f, "second", 0);
    copy = env_sim_clone(env, 3);
    check_text(copy, "/a", "second"); /* a kill loses nothing */
    env_sim_power_cut(copy, SIM_LOSE_ALL);
    check_text(copy, "/a", "first");
    env_sim_free(copy);
    env_close(f);

    assert_int_equal(env_rename(env, "/a", "/b"), 0);
    copy = env_sim_clone(env, 4);
    env_sim_power_cut(copy, SIM_LOSE_NOTHING);
    check_text(copy, "/b", "second");
    assert_int_equal(env_sim_used(copy), 4096);
    env_sim_free(copy);
    env_sim_power_cut(env, SIM_LOSE_ALL);
    check_text(env, "/a", "first");
    assert_int_equal(env_open(env, "/b", ENV_READ, &none), -ENOENT);
    env_sim_free(env);
}

static void test_machine_without_space(void **unused)
{
    struct env *env = env_sim_new(1);
    struct env_file *f;
    char page[4096] = "x";

    (void)unused;
    env_sim_capacity(env, 2 * sizeof page);
    assert_int_equal(env_open(env, "/a", ENV_READ | ENV_WRITE | ENV_CREATE, &f), 0);
    assert_int_equal(env_allocate(f, 0, 2 * sizeof page), 0);
    assert_int_equal(env_pwrite(f, page, sizeof page, sizeof page), 0);
    assert_int_equal(env_pwrite(f, page, sizeof page, 2 * sizeof page), -ENOSPC);
    assert_int_equal(env_truncate(f, sizeof page), 0);
    assert_int_equal(env_pwrite(f, page, sizeof page, sizeof page), 0);
    env_close(f);
    assert_int_equal(env_unlink(env, "/a"), 0);
    assert_int_equal(env_sim_used(env), 0);
    env_sim_free(env);
}

/* ---- what was found ---- */

/* The directory of a new store was made, but its name was never synced: a power cut took the whole store. */
static void test_name_of_a_new_store(void **unused)
{
    struct env *env = env_sim_new(1);

    (void)unused;
    struct lsm *db = open_store(env, LSM_CREATE, 0);
    put(db, "key", 10, LSM_SYNC);
    assert_int_equal(lsm_close(db), 0);
    env_sim_power_cut(env, SIM_LOSE_ALL);
    db = open_store(env, 0, 0);
    check(db, "key", 10);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

/*
 * A batch larger than the empty memtable sealed that memtable. Its shard then looked as if it had nothing to flush,
 * and the next flush of another shard let go of the log that held the batch.
 */
static void test_batch_larger_than_the_empty_memtable(void **unused)
{
    struct env *env = new_machine();

    (void)unused;
    struct lsm *db = open_store(env, LSM_CREATE, 0);
    put(db, "a", 100000, LSM_SYNC);
    put(db, "b", 10, LSM_SYNC);
    assert_true(lsm_shard_of(db, "a", 1) != lsm_shard_of(db, "b", 1));
    assert_int_equal(lsm_flush(db), 0);
    assert_int_equal(lsm_close(db), 0);
    env_sim_power_cut(env, SIM_LOSE_ALL);
    db = open_store(env, 0, 0);
    check(db, "a", 100000);
    check(db, "b", 10);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

static uint64_t frontier(struct lsm *db)
{
    struct lsm_stats *st = malloc(sizeof *st);

    assert_non_null(st);
    lsm_stats_get(db, st);
    uint64_t lsn = st->log_frontier;
    free(st);
    return lsn;
}

/*
 * A log that ends where one segment ends and the next one, empty, begins: the latter's file is put to use again,
 * which forgot that the log ended there. The next open found a gap and took the store for damaged.
 */
static void test_log_ends_between_two_segments(void **unused)
{
    struct env *env = new_machine();

    (void)unused;
    struct lsm *db = open_store(env, LSM_CREATE, 0);
    uint64_t base = frontier(db), end = base + MIB;
    put(db, "a", 0, 0);
    uint64_t record = frontier(db) - base;
    while (end - frontier(db) > 250000)
        put(db, "a", 100000, 0);
    put(db, "a", end - frontier(db) - record - 8, 0); /* 8: the length of the value takes more bytes */
    assert_true(end - frontier(db) < 48);             /* no room for a pad either */
    assert_int_equal(lsm_sync(db), 0);
    put(db, "b", 10, 0); /* in the next segment, and to be lost */
    struct env *copy = env_sim_clone(env, 2);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
    env_sim_power_cut(copy, SIM_LOSE_ALL);
    for (unsigned i = 0; i < 100; i++) { /* the manifest grows by a little with each */
        db = open_store(copy, 0, 0);
        struct lsm_value v;
        assert_int_equal(lsm_get(db, "b", 1, NULL, 0, &v), -ENOENT);
        assert_int_equal(lsm_close(db), 0);
    }
    env_sim_free(copy);
}

struct capture {
    struct env *env, *copy;
    bool renamed;
};

/* Copies the machine between the renaming of the manifest and the sync of the directory. */
static struct sim_fault capture_hook(void *arg, const struct sim_call *call)
{
    struct capture *c = arg;

    if (call->op == SIM_SYNC_DIR && c->renamed && !c->copy)
        c->copy = env_sim_clone(c->env, 3);
    c->renamed = call->op == SIM_RENAME;
    return (struct sim_fault){0};
}

/*
 * Killed between the two, then opened on a disk too full for another manifest: the new one was gone on with though
 * its name was not durable. A power cut brought back the old one, and lost what had been synced since.
 */
static void test_manifest_kept_on_a_full_disk(void **unused)
{
    struct env *env = new_machine();

    (void)unused;
    struct lsm *db = open_store(env, LSM_CREATE, 0);
    for (unsigned i = 0; i < 12; i++)
        put(db, i % 2 ? "a" : "b", 200000, 0);
    assert_int_equal(lsm_flush(db), 0); /* which frees a segment of the log for another use */
    assert_int_equal(lsm_close(db), 0);
    struct capture c = {.env = env};
    env_sim_hook(env, capture_hook, &c);
    db = open_store(env, 0, 0);
    assert_int_equal(lsm_close(db), 0);
    env_sim_hook(env, NULL, NULL);
    env_sim_free(env);

    assert_non_null(c.copy);
    env_sim_capacity(c.copy, env_sim_used(c.copy));
    db = open_store(c.copy, 0, 0);
    put(db, "a", 11, LSM_SYNC | LSM_SHRINK); /* a shorter value */
    env = env_sim_clone(c.copy, 4);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(c.copy);
    env_sim_power_cut(env, SIM_LOSE_ALL);
    env_sim_capacity(env, 100 * MIB);
    db = open_store(env, 0, 0);
    check(db, "a", 11);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

/* Copies the machine before the contents of a new segment are synced. */
static struct sim_fault capture_segment(void *arg, const struct sim_call *call)
{
    struct capture *c = arg;

    if (call->op == SIM_SYNC && strstr(call->path, ".log") && !c->copy)
        c->copy = env_sim_clone(c->env, 5);
    return (struct sim_fault){0};
}

/* Opens what the machine would be if the process were killed here. */
static struct sim_fault open_killed(void *arg, const struct sim_call *call)
{
    struct capture *c = arg;

    if (!call->may_change)
        return (struct sim_fault){0};
    struct env *copy = env_sim_clone(c->env, call->index);
    struct lsm *db = open_store(copy, 0, 0);
    check(db, "a", 11);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(copy);
    return (struct sim_fault){0};
}

/*
 * Killed while it made a segment: the file had its size, but not on the medium, and was used as it was. A power cut
 * took the contents, which nothing had been written to; the next open removed the useless file while the manifest still
 * named it, and if it was killed then, the one after that took the log for damaged. (prove_fs fault:0x7214ad29f22ec2e1)
 */
static void test_segment_made_by_a_killed_process(void **unused)
{
    struct env *env = new_machine();
    struct env_file *f;
    uint64_t size = 0;

    (void)unused;
    struct lsm *db = open_store(env, LSM_CREATE, 0);
    put(db, "a", 11, LSM_SYNC | LSM_SHRINK); /* a shorter value */
    assert_int_equal(lsm_close(db), 0);
    struct capture c = {.env = env};
    env_sim_hook(env, capture_segment, &c);
    db = open_store(env, 0, 0);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);

    assert_non_null(c.copy);
    db = open_store(c.copy, 0, 0);
    env = env_sim_clone(c.copy, 6);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(c.copy);
    env_sim_power_cut(env, SIM_LOSE_ALL);
    assert_int_equal(env_open(env, "/s/000002.log", ENV_READ | ENV_WRITE, &f), 0);
    assert_int_equal(env_size(f, &size), 0);
    assert_int_equal(size, MIB);
    assert_int_equal(env_truncate(f, 0), 0); /* all the same, some other way */
    assert_int_equal(env_sync(f), 0);
    env_close(f);
    c.env = env;
    env_sim_hook(env, open_killed, &c);
    db = open_store(env, 0, 0);
    env_sim_hook(env, NULL, NULL);
    check(db, "a", 11);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

/* The first range delete of a store's life makes the manifest be written anew: with space of the reserve. */
static void test_first_range_delete_on_a_full_disk(void **unused)
{
    struct env *env = new_machine();
    struct lsm_batch *b;

    (void)unused;
    struct lsm *db = open_store(env, LSM_CREATE, 0);
    put(db, "a", 100000, LSM_SYNC);
    env_sim_capacity(env, env_sim_used(env));
    assert_int_equal(lsm_batch_new(&b), 0);
    lsm_batch_delete_range(b, "a", 1, "b", 1, NULL, 0);
    assert_int_equal(lsm_commit(db, b, LSM_SHRINK), 0);
    lsm_batch_free(b);
    check_gone(db, "a");
    assert_int_equal(lsm_close(db), 0);
    db = open_store(env, 0, 0);
    check_gone(db, "a");
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

/* What is left of a large value that is cut is large itself. `known`: the store has noticed that the disk is full. */
static void cut_on_a_full_disk(bool known)
{
    struct env *env = new_machine();

    struct lsm *db = open_with(env, LSM_CREATE, 16 << 10, 0);
    for (unsigned i = 0; i < 8; i++)
        put(db, (char[]){(char)('a' + i), 0}, 60000, LSM_SYNC);
    env_sim_capacity(env, env_sim_used(env));
    if (known) {
        assert_int_equal(lsm_flush(db), 0); /* after which it looks */
        assert_int_equal(lsm_put(db, "z", 1, "", 0, 0), -ENOSPC);
    }
    for (unsigned i = 0; i < 8; i++)
        put(db, (char[]){(char)('a' + i), 0}, 40000, LSM_SHRINK);
    for (unsigned i = 0; i < 8; i++)
        check(db, (char[]){(char)('a' + i), 0}, 40000);
    assert_int_equal(lsm_close(db), 0);
    db = open_with(env, 0, 16 << 10, 0);
    for (unsigned i = 0; i < 8; i++)
        check(db, (char[]){(char)('a' + i), 0}, 40000);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

static void test_large_values_cut_on_a_full_disk(void **unused)
{
    (void)unused;
    cut_on_a_full_disk(false);
    cut_on_a_full_disk(true);
}

/* Somebody else's file, durable with its name. */
static void make_file(struct env *env, const char *path, uint64_t bytes)
{
    struct env_file *f;

    assert_int_equal(env_open(env, path, ENV_WRITE | ENV_CREATE, &f), 0);
    assert_int_equal(env_allocate(f, 0, bytes), 0);
    assert_int_equal(env_sync(f), 0);
    env_close(f);
    assert_int_equal(env_sync_dir(env, "/"), 0);
}

/*
 * The reserve took the place of a file that had just been deleted, and neither was durable: a power cut brought the file
 * back, and the store had no space for opening. (prove_engine full:0xf7bd02ee4fdb165a)
 */
static void test_reserve_is_durable(void **unused)
{
    struct env *env = new_machine();

    (void)unused;
    env_sim_capacity(env, 20 * MIB);
    make_file(env, "/x", 15 * MIB);
    struct lsm *db = open_store(env, LSM_CREATE, 0);
    put(db, "a", 1000, LSM_SYNC);
    assert_int_equal(lsm_close(db), 0);
    assert_int_equal(env_unlink(env, "/s/RESERVE"), 0); /* to begin without one */
    assert_int_equal(env_sync_dir(env, "/s"), 0);
    make_file(env, "/y", 20 * MIB - env_sim_used(env) - 32768);
    db = open_store(env, 0, 0);
    make_file(env, "/z", 20 * MIB - env_sim_used(env));
    assert_int_equal(env_unlink(env, "/x"), 0);
    assert_int_equal(lsm_flush(db), 0); /* looks at the disk and takes the reserve */
    struct env *copy = env_sim_clone(env, 7);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
    env_sim_power_cut(copy, SIM_LOSE_ALL);
    for (unsigned i = 0; i < 100; i++) { /* the manifest grows by a little with each */
        db = open_store(copy, 0, 0);
        check(db, "a", 1000);
        env = env_sim_clone(copy, i);
        assert_int_equal(lsm_close(db), 0);
        env_sim_free(copy);
        env_sim_power_cut(copy = env, SIM_LOSE_ALL);
    }
    env_sim_free(copy);
}

/*
 * Each open goes on in a segment of the log of its own. On a full disk there are two, whatever the number of opens, and
 * whether they change anything, a little or nothing.
 */
static void test_opened_over_and_over_on_a_full_disk(void **unused)
{
    struct env *env = new_machine();
    char key[8];

    (void)unused;
    struct lsm *db = open_store(env, LSM_CREATE, 0);
    for (unsigned i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "%c%u", i % 2 ? 'a' : 'b', i);
        put(db, key, 500, 0);
    }
    assert_int_equal(lsm_sync(db), 0);
    env_sim_capacity(env, env_sim_used(env));
    for (unsigned i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "%c%u", i % 2 ? 'a' : 'b', i);
        if (i % 7 < 4)
            assert_int_equal(lsm_delete(db, key, strlen(key), LSM_SHRINK), 0);
        if (i % 7 == 3)
            assert_int_equal(lsm_sync(db), 0);
        struct env *copy = env_sim_clone(env, i);
        assert_int_equal(lsm_close(db), 0);
        env_sim_free(env);
        env = copy;
        if (i % 3 == 0)
            env_sim_power_cut(env, SIM_LOSE_ALL);
        db = open_store(env, 0, 0);
    }
    check(db, "b4", 500);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_machine),
        cmocka_unit_test(test_machine_without_space),
        cmocka_unit_test(test_name_of_a_new_store),
        cmocka_unit_test(test_batch_larger_than_the_empty_memtable),
        cmocka_unit_test(test_log_ends_between_two_segments),
        cmocka_unit_test(test_manifest_kept_on_a_full_disk),
        cmocka_unit_test(test_segment_made_by_a_killed_process),
        cmocka_unit_test(test_first_range_delete_on_a_full_disk),
        cmocka_unit_test(test_large_values_cut_on_a_full_disk),
        cmocka_unit_test(test_reserve_is_durable),
        cmocka_unit_test(test_opened_over_and_over_on_a_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
