/*
 * test_moments.c - named snapshots and checkpoints: moments of a store that are kept beside it or within it.
 */
#include <shale/lsm.h>

#include "coding.h"
#include "env.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define KEYS 200u
#define MOMENTS 6u

static uint64_t seed, state;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* What is in a store: a number for each key, 0 for none. */
struct contents {
    uint64_t value[KEYS];
};

static size_t key_of(unsigned i, char key[32]) { return (size_t)snprintf(key, 32, "%03u", i); }

static void change(struct lsm *db, struct contents *c, unsigned count)
{
    char key[32];
    uint8_t value[2000] = {0};

    for (unsigned n = 0; n < count; n++) {
        unsigned i = (unsigned)(rnd() % KEYS);
        size_t len = key_of(i, key);
        c->value[i] = rnd() % 5 ? 1 + rnd() % 1000 : 0;
        put_le64(value, c->value[i]);
        if (c->value[i])
            assert_int_equal(lsm_put(db, key, len, value, 8 + rnd() % (sizeof value - 8), 0), 0);
        else
            assert_int_equal(lsm_delete(db, key, len, 0), 0);
    }
}

static void check(struct lsm *db, const struct lsm_snapshot *snapshot, const struct contents *c)
{
    char key[32];
    unsigned live = 0, seen = 0;
    struct lsm_iter *it;

    for (unsigned i = 0; i < KEYS; i++) {
        struct lsm_value v = {0};
        int rc = lsm_get(db, key, key_of(i, key), snapshot, 0, &v);
        assert_int_equal(rc, c->value[i] ? 0 : -ENOENT);
        if (!rc)
            assert_int_equal(get_le64(v.data), c->value[i]);
        lsm_value_release(&v);
        live += c->value[i] != 0;
    }
    assert_int_equal(lsm_iter_new(db, &(struct lsm_iter_options){.snapshot = snapshot}, &it), 0);
    for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it))
        seen++;
    assert_int_equal(lsm_iter_status(it), 0);
    assert_int_equal(seen, live);
    lsm_iter_free(it);
}

static void check_named(struct lsm *db, const char *name, const struct contents *c)
{
    struct lsm_snapshot *s;

    assert_int_equal(lsm_snapshot_open(db, name, &s), 0);
    check(db, s, c);
    lsm_snapshot_free(db, s);
}

struct world {
    char dir[64], store[96];
    struct env *env;
    struct lsm_options options;
    struct lsm *db;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void world_open(struct world *w) { assert_int_equal(lsm_open(w->store, &w->options, &w->db), 0); }

static void world_reopen(struct world *w)
{
    assert_int_equal(lsm_close(w->db), 0);
    world_open(w);
}

static void world_new(struct world *w, unsigned flags)
{
    memset(w, 0, sizeof *w);
    strcpy(w->dir, "/tmp/test_moments.XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    (void)snprintf(w->store, sizeof w->store, "%s/store", w->dir);
    w->options = (struct lsm_options){.flags = LSM_CREATE | flags,
                                      .shards = 2,
                                      .memory_bytes = 8 << 20,
                                      .log_segment_bytes = 1 << 20,
                                      .table_bytes = 64 << 10};
    world_open(w);
}

static void world_end(struct world *w)
{
    assert_int_equal(lsm_close(w->db), 0);
    nftw(w->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int count_one(void *arg, const struct lsm_snapshot_info *info)
{
    assert_true(info->created_ns > 0);
    ++*(unsigned *)arg;
    return 0;
}

static unsigned named_count(struct lsm *db)
{
    unsigned n = 0;

    assert_int_equal(lsm_snapshot_each(db, count_one, &n), 0);
    return n;
}

static void test_names(void **unused)
{
    (void)unused;
    struct world w;
    struct lsm_snapshot *s;
    char long_name[LSM_SNAPSHOT_NAME_MAX + 2];

    world_new(&w, LSM_INLINE);
    memset(long_name, 'n', sizeof long_name);
    long_name[sizeof long_name - 1] = '\0';
    const char *const bad[] = {"", ".", "..", "a/b", "/", long_name};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(lsm_snapshot_save(w.db, bad[i]), -EINVAL);
    assert_int_equal(lsm_snapshot_save(w.db, long_name + 1), 0);
    assert_int_equal(lsm_snapshot_save(w.db, "..."), 0);
    assert_int_equal(lsm_snapshot_save(w.db, "..."), -EEXIST);
    assert_int_equal(lsm_snapshot_drop(w.db, "none"), -ENOENT);
    assert_int_equal(lsm_snapshot_open(w.db, "none", &s), -ENOENT);
    assert_int_equal(named_count(w.db), 2);
    assert_int_equal(lsm_snapshot_drop(w.db, "..."), 0);
    assert_int_equal(lsm_snapshot_drop(w.db, "..."), -ENOENT);
    assert_int_equal(lsm_snapshot_save(w.db, "..."), 0);

    w.options.flags = LSM_RDONLY;
    world_reopen(&w);
    assert_int_equal(named_count(w.db), 2);
    assert_int_equal(lsm_snapshot_save(w.db, "more"), -EROFS);
    assert_int_equal(lsm_snapshot_drop(w.db, "..."), -EROFS);
    assert_int_equal(lsm_snapshot_open(w.db, "...", &s), 0);
    lsm_snapshot_free(w.db, s);
    world_end(&w);
}

static void test_name_limit(void **unused)
{
    (void)unused;
    struct world w;
    char name[16];

    world_new(&w, LSM_INLINE);
    for (unsigned i = 0; i < LSM_SNAPSHOTS_MAX; i++) {
        (void)snprintf(name, sizeof name, "%u", i);
        assert_int_equal(lsm_snapshot_save(w.db, name), 0);
    }
    assert_int_equal(lsm_snapshot_save(w.db, "one more"), -EMLINK);
    world_reopen(&w);
    assert_int_equal(named_count(w.db), LSM_SNAPSHOTS_MAX);
    assert_int_equal(lsm_snapshot_save(w.db, "one more"), -EMLINK);
    world_end(&w);
}

/* Moments stay what they were, whatever happens to the store; also those that are dropped while open. */
static void moments_of(unsigned flags)
{
    struct world w;
    struct contents now = {0}, then[MOMENTS];
    bool named[MOMENTS] = {0};
    char name[16];

    world_new(&w, flags);
    for (unsigned step = 0; step < 150; step++) {
        unsigned m = (unsigned)(rnd() % MOMENTS);
        (void)snprintf(name, sizeof name, "moment %u", m);
        switch (rnd() % 8) {
        case 0:
            assert_int_equal(lsm_snapshot_save(w.db, name), named[m] ? -EEXIST : 0);
            if (!named[m])
                then[m] = now;
            named[m] = true;
            break;
        case 1:
            if (rnd() % 2 == 0)
                break;
            assert_int_equal(lsm_snapshot_drop(w.db, name), named[m] ? 0 : -ENOENT);
            named[m] = false;
            break;
        case 2: assert_int_equal(lsm_flush(w.db), 0); break;
        case 3: assert_int_equal(lsm_compact(w.db), 0); break;
        case 4: world_reopen(&w); break;
        case 5:
            if (named[m]) {
                struct lsm_snapshot *s;
                assert_int_equal(lsm_snapshot_open(w.db, name, &s), 0);
                assert_int_equal(lsm_snapshot_drop(w.db, name), 0);
                named[m] = false;
                change(w.db, &now, 50);
                assert_int_equal(lsm_compact(w.db), 0);
                check(w.db, s, &then[m]);
                lsm_snapshot_free(w.db, s);
            }
            break;
        default: change(w.db, &now, 100); break;
        }
        check(w.db, NULL, &now);
        for (unsigned i = 0; i < MOMENTS; i++) {
            (void)snprintf(name, sizeof name, "moment %u", i);
            if (named[i])
                check_named(w.db, name, &then[i]);
        }
    }
    world_end(&w);
}

static void test_moments_inline(void **unused)
{
    (void)unused;
    moments_of(LSM_INLINE);
}

static void test_moments_with_threads(void **unused)
{
    (void)unused;
    moments_of(0);
}

/* What a dropped snapshot alone showed is gone after the next compaction. */
static void test_space_returns(void **unused)
{
    (void)unused;
    struct world w;
    char key[32];
    uint8_t value[1000];
    struct lsm_stats stats;
    uint64_t bytes[3];

    world_new(&w, LSM_INLINE);
    for (unsigned round = 0; round < 3; round++) {
        memset(value, (int)round, sizeof value);
        for (unsigned i = 0; i < 2000; i++) {
            for (size_t at = 0; at < sizeof value; at += 8) /* nothing to compress */
                put_le64(value + at, rnd());
            assert_int_equal(lsm_put(w.db, key, key_of(i, key), value, sizeof value, 0), 0);
        }
        if (round == 0)
            assert_int_equal(lsm_snapshot_save(w.db, "held"), 0);
        if (round == 2)
            assert_int_equal(lsm_snapshot_drop(w.db, "held"), 0);
        assert_int_equal(lsm_compact(w.db), 0);
        lsm_stats_get(w.db, &stats);
        bytes[round] = 0;
        for (unsigned s = 0; s < stats.shards; s++)
            for (unsigned l = 0; l < LSM_LEVELS; l++)
                bytes[round] += stats.shard[s].bytes[l];
    }
    assert_true(bytes[1] > bytes[0] * 3 / 2);
    assert_true(bytes[2] < bytes[0] * 5 / 4);
    world_end(&w);
}

static void check_copy(const struct world *w, const char *path, const struct contents *c,
                       const struct contents *named)
{
    struct lsm_options o = w->options;
    struct lsm *copy;
    struct contents more = *c;

    o.flags = LSM_RDONLY;
    assert_int_equal(lsm_open(path, &o, &copy), 0);
    check(copy, NULL, c);
    assert_int_equal(lsm_close(copy), 0);
    o.flags = LSM_INLINE;
    assert_int_equal(lsm_open(path, &o, &copy), 0);
    check(copy, NULL, c);
    check_named(copy, "before", named);
    change(copy, &more, 500);
    assert_int_equal(lsm_compact(copy), 0);
    check(copy, NULL, &more);
    assert_int_equal(lsm_close(copy), 0);
}

/* A segment is used again one day, and must not need space then. */
static void check_segments_are_whole(const char *path)
{
    DIR *d = opendir(path);
    struct stat st;
    unsigned seen = 0;

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (!strstr(e->d_name, ".log"))
            continue;
        assert_int_equal(fstatat(dirfd(d), e->d_name, &st, 0), 0);
        assert_int_equal(st.st_size, 1 << 20);
        assert_true(st.st_blocks * 512 >= st.st_size);
        seen++;
    }
    assert_true(seen > 0);
    closedir(d);
}

static void on_problem(void *arg, const struct lsm_problem *p)
{
    (void)arg;
    fail_msg("%s at %llu: %s", p->file, (unsigned long long)p->offset, p->what);
}

/* A copy is the store of its moment, and neither of the two feels what is done to the other. */
static void test_checkpoint(void **unused)
{
    (void)unused;
    struct world w;
    struct contents now = {0}, then, named;
    char path[128];

    world_new(&w, 0);
    change(w.db, &now, 2000);
    named = now;
    assert_int_equal(lsm_snapshot_save(w.db, "before"), 0);
    for (unsigned round = 0; round < 4; round++) {
        change(w.db, &now, 1 + (unsigned)(rnd() % 3000));
        if (round == 2)
            assert_int_equal(lsm_compact(w.db), 0);
        (void)snprintf(path, sizeof path, "%s/copy%u", w.dir, round);
        assert_int_equal(lsm_checkpoint(w.db, path), 0);
        assert_int_equal(lsm_checkpoint(w.db, path), -EEXIST);
        then = now;
        change(w.db, &now, 500);
        struct lsm_verified v;
        check_segments_are_whole(path);
        assert_int_equal(lsm_verify(path, NULL, on_problem, NULL, &v), 0);
        check_copy(&w, path, &then, &named);
        check(w.db, NULL, &now);
        check_named(w.db, "before", &named);
    }
    world_reopen(&w);
    check(w.db, NULL, &now);
    (void)snprintf(path, sizeof path, "%s/no/such/copy", w.dir);
    assert_int_equal(lsm_checkpoint(w.db, path), -ENOENT);
    world_end(&w);
}

/* ---- while others write ---- */

#define WRITERS 3u
#define COPIES 6u

struct writer {
    struct lsm *db;
    unsigned index;
    bool stop;
};

/* Counts up, in two keys of one batch, which lie on different shards. */
static void *write_pairs(void *arg)
{
    struct writer *w = arg;
    struct lsm_batch *b;
    char key[32];
    uint8_t value[600] = {0};

    assert_int_equal(lsm_batch_new(&b), 0);
    for (uint64_t n = 1; !__atomic_load_n(&w->stop, __ATOMIC_RELAXED); n++) {
        put_le64(value, n);
        for (unsigned half = 0; half < 2; half++)
            lsm_batch_put(b, key, (size_t)snprintf(key, sizeof key, "%u/%u", w->index, half * 7), value,
                          sizeof value);
        assert_int_equal(lsm_commit(w->db, b, 0), 0);
        lsm_batch_clear(b);
    }
    lsm_batch_free(b);
    return NULL;
}

static uint64_t number_at(struct lsm *db, unsigned writer, unsigned half)
{
    char key[32];
    struct lsm_value v = {0};
    int rc = lsm_get(db, key, (size_t)snprintf(key, sizeof key, "%u/%u", writer, half * 7), NULL, 0, &v);
    assert_true(rc == 0 || rc == -ENOENT);
    uint64_t n = rc ? 0 : get_le64(v.data);
    lsm_value_release(&v);
    return n;
}

static void test_checkpoint_beside_writers(void **unused)
{
    (void)unused;
    struct world w;
    struct writer writers[WRITERS];
    pthread_t threads[WRITERS];
    uint64_t last[WRITERS] = {0};

    world_new(&w, 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.db = w.db, .index = i};
        assert_int_equal(pthread_create(&threads[i], NULL, write_pairs, &writers[i]), 0);
    }
    for (unsigned round = 0; round < COPIES; round++) {
        char path[128];
        uint64_t before[WRITERS];
        struct lsm *copy;
        struct lsm_options o = w.options;

        (void)usleep(30000);
        for (unsigned i = 0; i < WRITERS; i++)
            before[i] = number_at(w.db, i, 0);
        (void)snprintf(path, sizeof path, "%s/copy%u", w.dir, round);
        assert_int_equal(lsm_checkpoint(w.db, path), 0);
        o.flags = LSM_INLINE;
        assert_int_equal(lsm_open(path, &o, &copy), 0);
        for (unsigned i = 0; i < WRITERS; i++) {
            uint64_t n = number_at(copy, i, 0);
            assert_int_equal(number_at(copy, i, 1), n);
            assert_true(n >= before[i] && n >= last[i]);
            last[i] = n;
        }
        assert_int_equal(lsm_close(copy), 0);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        __atomic_store_n(&writers[i].stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    world_end(&w);
}

/* ---- repair ---- */

static void count_drops(void *arg, const struct lsm_problem *p)
{
    if (strstr(p->what, "is dropped"))
        ++*(unsigned *)arg;
}

/* Where a table is damaged no snapshot is whole any more, and repair says so; else they stay. */
static void repaired(bool damage_table)
{
    struct world w;
    struct contents now = {0}, named;
    struct lsm_repaired r;
    unsigned dropped = 0;
    char pattern[400];

    world_new(&w, LSM_INLINE);
    change(w.db, &now, 1000);
    named = now;
    assert_int_equal(lsm_snapshot_save(w.db, "before"), 0);
    assert_int_equal(lsm_flush(w.db), 0);
    change(w.db, &now, 1000);
    assert_int_equal(lsm_flush(w.db), 0);
    change(w.db, &now, 300);
    assert_int_equal(lsm_close(w.db), 0);
    if (damage_table)
        (void)snprintf(
            pattern, sizeof pattern,
            "f=$(ls %s/*.sst | head -n 1) && printf XXXXXXXX | dd of=$f bs=1 seek=100 conv=notrunc "
            "2>/dev/null",
            w.store);
    else /* the first record of the log that is needed: all before it is in tables */
        (void)snprintf(pattern, sizeof pattern, "rm %s/*.log", w.store);
    assert_int_equal(system(pattern), 0);
    assert_int_equal(lsm_repair(w.store, &w.options, count_drops, &dropped, &r), 0);
    assert_true(r.done);
    world_open(&w);
    assert_int_equal(dropped, damage_table ? 1 : 0);
    assert_int_equal(named_count(w.db), damage_table ? 0 : 1);
    if (!damage_table)
        check_named(w.db, "before", &named);
    world_end(&w);
}

static void test_repair_drops(void **unused)
{
    (void)unused;
    repaired(true);
}
static void test_repair_keeps(void **unused)
{
    (void)unused;
    repaired(false);
}

/* What a range delete hides from a snapshot stays hidden, also where a later one covers the same. */
static void test_repair_ranges(void **unused)
{
    (void)unused;
    struct world w;
    struct lsm_batch *b;
    struct lsm_repaired r;
    struct lsm_value v;
    struct lsm_snapshot *s;
    unsigned dropped = 0;
    char command[300];

    world_new(&w, LSM_INLINE);
    assert_int_equal(lsm_batch_new(&b), 0);
    assert_int_equal(lsm_put(w.db, "k", 1, "v", 1, 0), 0);
    lsm_batch_delete_range(b, "a", 1, "z", 1, NULL, 0);
    assert_int_equal(lsm_commit(w.db, b, 0), 0);
    assert_int_equal(lsm_snapshot_save(w.db, "before"), 0);
    assert_int_equal(lsm_commit(w.db, b, 0), 0);
    lsm_batch_free(b);
    assert_int_equal(lsm_put(w.db, "later", 5, "a value to be damaged", 21, LSM_SYNC), 0);
    assert_int_equal(lsm_close(w.db), 0);
    (void)snprintf(command, sizeof command,
                   "sed -i 's/a value to be damaged/A value to be damaged/' %s/*.log", w.store);
    assert_int_equal(system(command), 0);
    assert_int_equal(lsm_repair(w.store, &w.options, count_drops, &dropped, &r), 0);
    assert_true(r.done);
    world_open(&w);
    assert_int_equal(dropped, 0);
    assert_int_equal(lsm_snapshot_open(w.db, "before", &s), 0);
    assert_int_equal(lsm_get(w.db, "k", 1, s, 0, &v), -ENOENT);
    lsm_snapshot_free(w.db, s);
    world_end(&w);
}

int main(void)
{
    const char *s = getenv("SHALE_SEED");
    seed = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u;
    state = seed | 1;
    printf("replay: SHALE_SEED=0x%llx test_moments\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_name_limit),
        cmocka_unit_test(test_moments_inline),
        cmocka_unit_test(test_moments_with_threads),
        cmocka_unit_test(test_space_returns),
        cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_checkpoint_beside_writers),
        cmocka_unit_test(test_repair_drops),
        cmocka_unit_test(test_repair_keeps),
        cmocka_unit_test(test_repair_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
