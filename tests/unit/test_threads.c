/*
 * test_threads.c - everything at once on one store: writers, point reads, multi-get, snapshots by handle and by name,
 * iterators both ways, range deletes, values in blob files, flush, compaction, checkpoints, statistics.
 *
 * Keys come in groups, each belonging to one writer, whose commits give all keys of a group the same version, or
 * delete them all by one range delete. So whoever reads a group at one moment finds one version, not older than
 * what was acknowledged before the read began, not newer than what was begun when it ended, and absent only if
 * one of those was a delete. A value follows from key and version, every byte of it is checked.
 *
 * Two seconds; SHALE_LONG=1: thirty. To be run under ThreadSanitizer, too. What is drawn is by seed, how threads meet is not.
 */
#include <shale/lsm.h>

#include "coding.h"

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
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define WRITERS 2u
#define READERS 2u
#define GROUPS 48u
#define KEYS 6u         /* of a group */
#define DELETE_EVERY 8u /* versions */
#define BLOB_MIN 4096u  /* bytes: one value in eight is as large */
#define VALUE_MAX 6000u
#define ABSENT UINT64_MAX

static char dir[64], store[96], copy[96];
static struct lsm *db;
static uint64_t seed, begun[GROUPS], acknowledged[GROUPS]; /* atomic */
static bool stop;                                          /* atomic */

/* On any thread: cmocka's own may not be used beside the main one. */
#define CHECK(condition, ...)                                                                        \
    do {                                                                                             \
        if (!(condition)) {                                                                          \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                          \
            fprintf(stderr, __VA_ARGS__);                                                            \
            fprintf(stderr, "\nreplay: SHALE_SEED=0x%llx test_threads\n", (unsigned long long)seed); \
            abort();                                                                                 \
        }                                                                                            \
    } while (0)

static uint64_t rnd(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static bool is_over(void) { return __atomic_load_n(&stop, __ATOMIC_RELAXED); }

static size_t key_of(unsigned group, unsigned i, char key[16])
{
    return (size_t)snprintf(key, 16, "g%03u/%02u", group, i);
}

static size_t value_len(unsigned group, unsigned i, uint64_t version)
{
    uint64_t h = (version * KEYS + i) * GROUPS + group + 1;
    h *= UINT64_C(0x9e3779b97f4a7c15);
    return h >> 61 ? 8 + (h >> 32) % 400 : BLOB_MIN + (h >> 32) % (VALUE_MAX - BLOB_MIN);
}

static void value_make(unsigned group, unsigned i, uint64_t version, uint8_t value[VALUE_MAX])
{
    size_t len = value_len(group, i, version);
    put_le64(value, version);
    memset(value + 8, (int)(version * 31 + group * 7 + i), len - 8);
}

/* The version that a value says, having checked all of it. */
static uint64_t version_of(unsigned group, unsigned i, const void *data, size_t len)
{
    uint8_t value[VALUE_MAX];
    CHECK(len >= 8 && len <= VALUE_MAX, "group %u key %u: %zu bytes", group, i, len);
    uint64_t version = get_le64(data);
    CHECK(len == value_len(group, i, version), "group %u key %u version %llu: %zu bytes", group, i,
          (unsigned long long)version, len);
    value_make(group, i, version, value);
    CHECK(memcmp(value, data, len) == 0, "group %u key %u version %llu", group, i,
          (unsigned long long)version);
    return version;
}

/* What was read may have been there between the two. */
static void check_between(unsigned group, uint64_t version, uint64_t from, uint64_t to, const char *how)
{
    if (version != ABSENT) {
        CHECK(version >= from && version <= to, "%s: group %u has version %llu, not one of %llu to %llu", how,
              group, (unsigned long long)version, (unsigned long long)from, (unsigned long long)to);
        CHECK(version % DELETE_EVERY, "%s: group %u has version %llu, a delete", how, group,
              (unsigned long long)version);
        return;
    }
    CHECK(from == 0 || to / DELETE_EVERY * DELETE_EVERY >= from,
          "%s: group %u is absent, and none of versions %llu to %llu is a delete", how, group,
          (unsigned long long)from, (unsigned long long)to);
}

/* ---- writers ---- */

static void commit(unsigned group, uint64_t version)
{
    static __thread uint8_t value[VALUE_MAX];
    char key[16], end[16];
    struct lsm_batch *b = NULL;
    CHECK(lsm_batch_new(&b) == 0, "no memory");
    if (version % DELETE_EVERY == 0) {
        size_t len = key_of(group, 0, key), end_len = key_of(group, KEYS, end);
        lsm_batch_delete_range(b, key, len, end, end_len, NULL, 0);
    }
    for (unsigned i = 0; version % DELETE_EVERY && i < KEYS; i++) {
        value_make(group, i, version, value);
        lsm_batch_put(b, key, key_of(group, i, key), value, value_len(group, i, version));
    }
    __atomic_store_n(&begun[group], version, __ATOMIC_RELEASE);
    int err = lsm_commit(db, b, version % 64 == 1 ? LSM_SYNC : 0);
    CHECK(err == 0, "commit: %s", strerror(-err));
    __atomic_store_n(&acknowledged[group], version, __ATOMIC_RELEASE);
    lsm_batch_free(b);
}

static void *writer(void *arg)
{
    unsigned own = (unsigned)(uintptr_t)arg;
    uint64_t state = seed + 1000 + own;
    while (!is_over()) {
        unsigned group = (unsigned)(rnd(&state) % (GROUPS / WRITERS)) * WRITERS + own;
        commit(group, acknowledged[group] + 1);
    }
    return NULL;
}

/* ---- ways of reading a group at one moment ---- */

static void join(uint64_t *all, unsigned i, uint64_t version, unsigned group, const char *how)
{
    CHECK(i == 0 || *all == version, "%s: key %u of group %u has version %lld, those before it %lld", how, i,
          group, (long long)version, (long long)*all);
    *all = version;
}

static uint64_t by_multi_get(const struct lsm_snapshot *s, unsigned group)
{
    char key[KEYS][16];
    struct lsm_key keys[KEYS];
    struct lsm_value values[KEYS];
    int results[KEYS];
    uint64_t all = 0;
    for (unsigned i = 0; i < KEYS; i++)
        keys[i] = (struct lsm_key){key[i], key_of(group, i, key[i])};
    int err = lsm_multi_get(db, keys, KEYS, s, 0, values, results);
    CHECK(err == 0, "multi_get: %s", strerror(-err));
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK(results[i] == 0 || results[i] == -ENOENT, "multi_get: %s", strerror(-results[i]));
        join(&all, i, results[i] ? ABSENT : version_of(group, i, values[i].data, values[i].len), group,
             "multi_get");
        lsm_value_release(&values[i]);
    }
    return all;
}

static uint64_t by_get(struct lsm *from, const struct lsm_snapshot *s, unsigned group)
{
    char key[16];
    uint64_t all = 0;
    for (unsigned i = 0; i < KEYS; i++) {
        struct lsm_value v = {0};
        int err = lsm_get(from, key, key_of(group, i, key), s, 0, &v);
        CHECK(err == 0 || err == -ENOENT, "get: %s", strerror(-err));
        join(&all, i, err ? ABSENT : version_of(group, i, v.data, v.len), group, "get");
        lsm_value_release(&v);
    }
    return all;
}

static uint64_t by_iterator(const struct lsm_snapshot *s, unsigned group, bool backward)
{
    char first[16], end[16];
    struct lsm_iter_options o = {.snapshot = s, .lower = first, .upper = end};
    struct lsm_iter *it;
    uint64_t all = ABSENT;
    unsigned seen = 0;
    o.lower_len = key_of(group, 0, first);
    o.upper_len = key_of(group, KEYS, end);
    int err = lsm_iter_new(db, &o, &it);
    CHECK(err == 0, "iterator: %s", strerror(-err));
    for (backward ? lsm_iter_last(it) : lsm_iter_first(it); lsm_iter_valid(it);
         backward ? lsm_iter_prev(it) : lsm_iter_next(it), seen++) {
        size_t len;
        const void *value = lsm_iter_value(it, &len);
        unsigned i = backward ? KEYS - 1 - seen : seen;
        CHECK(seen < KEYS, "iterator: too many keys in group %u", group);
        join(&all, seen, version_of(group, i, value, len), group, backward ? "backward" : "forward");
    }
    CHECK(lsm_iter_status(it) == 0, "iterator: %s", strerror(-lsm_iter_status(it)));
    CHECK(seen == 0 || seen == KEYS, "iterator: %u keys in group %u", seen, group);
    lsm_iter_free(it);
    return all;
}

/* A single key, without a snapshot, where it may not wait: it may then be told to. */
static void look_at_one(unsigned group, unsigned i)
{
    char key[16];
    struct lsm_value v = {0};
    uint64_t from = load(&acknowledged[group]);
    int err = lsm_get(db, key, key_of(group, i, key), NULL, LSM_NOWAIT, &v);
    uint64_t to = load(&begun[group]);
    CHECK(err == 0 || err == -ENOENT || err == -EAGAIN, "get: %s", strerror(-err));
    if (err != -EAGAIN)
        check_between(group, err ? ABSENT : version_of(group, i, v.data, v.len), from, to, "get");
    lsm_value_release(&v);
}

static void *reader(void *arg)
{
    uint64_t state = seed + 2000 + (uint64_t)(uintptr_t)arg;
    while (!is_over()) {
        unsigned group = (unsigned)(rnd(&state) % GROUPS), way = (unsigned)(rnd(&state) % 8);
        struct lsm_snapshot *s = NULL;
        look_at_one(group, way % KEYS);
        uint64_t version = ABSENT, from = load(&acknowledged[group]);
        if (way < 2)
            version = by_multi_get(NULL, group);
        else if (way < 4)
            version = by_iterator(NULL, group, way & 1);
        else
            CHECK(lsm_snapshot_new(db, &s) == 0, "no memory");
        uint64_t to = load(&begun[group]);
        if (s) {
            version = by_get(db, s, group);
            CHECK(by_multi_get(s, group) == version, "group %u", group);
            CHECK(by_iterator(s, group, way & 1) == version, "group %u", group);
            lsm_snapshot_free(db, s);
        }
        check_between(group, version, from, to, "reader");
    }
    return NULL;
}

/* ---- moments that are kept ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void remove_tree(const char *path) { (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static void load_all(uint64_t to[GROUPS], const uint64_t *from)
{
    for (unsigned g = 0; g < GROUPS; g++)
        to[g] = load(&from[g]);
}

static void name_moment(void)
{
    uint64_t from[GROUPS], to[GROUPS];
    struct lsm_snapshot *s;
    load_all(from, acknowledged);
    int err = lsm_snapshot_save(db, "moment");
    CHECK(err == 0, "save: %s", strerror(-err));
    load_all(to, begun);
    CHECK(lsm_snapshot_open(db, "moment", &s) == 0, "it is there");
    err = lsm_snapshot_drop(db, "moment");
    CHECK(err == 0, "drop: %s", strerror(-err));
    for (unsigned g = 0; g < GROUPS; g++)
        check_between(g, g & 1 ? by_get(db, s, g) : by_iterator(s, g, g & 2), from[g], to[g], "named");
    lsm_snapshot_free(db, s);
}

static void copy_moment(void)
{
    uint64_t from[GROUPS], to[GROUPS];
    struct lsm_options o = {.flags = LSM_RDONLY};
    struct lsm *other;
    load_all(from, acknowledged);
    int err = lsm_checkpoint(db, copy);
    CHECK(err == 0, "checkpoint: %s", strerror(-err));
    load_all(to, begun);
    err = lsm_open(copy, &o, &other);
    CHECK(err == 0, "opening a checkpoint: %s", strerror(-err));
    for (unsigned g = 0; g < GROUPS; g++)
        check_between(g, by_get(other, NULL, g), from[g], to[g], "checkpoint");
    CHECK(lsm_close(other) == 0, "closing a checkpoint");
    remove_tree(copy);
}

static void *keeper(void *arg)
{
    (void)arg;
    while (!is_over()) {
        name_moment();
        copy_moment();
    }
    return NULL;
}

/* Flushes, compacts everything, and looks at the statistics, which never go back. */
static void *compactor(void *arg)
{
    uint64_t gets = 0, batches = 0;
    (void)arg;
    for (unsigned n = 0; !is_over(); n++) {
        static struct lsm_stats st;
        int err = n % 4 ? lsm_flush(db) : lsm_compact(db);
        CHECK(err == 0, "flush, compact: %s", strerror(-err));
        lsm_stats_get(db, &st);
        CHECK(st.gets >= gets && st.batches >= batches, "a counter went back");
        gets = st.gets;
        batches = st.batches;
    }
    return NULL;
}

static void open_store(void)
{
    struct lsm_options o = {.flags = LSM_CREATE,
                            .shards = 3,
                            .memory_bytes = 8u << 20,
                            .write_buffer_bytes = 256u << 10,
                            .table_bytes = 128u << 10,
                            .block_bytes = 2048,
                            .blob_min_bytes = BLOB_MIN,
                            .blob_file_bytes = 1u << 20,
                            .log_segment_bytes = 1u << 20,
                            .commit_ms = 20};
    int err = lsm_open(store, &o, &db);
    CHECK(err == 0, "open: %s", strerror(-err));
}

static void test_all_at_once(void **state)
{
    pthread_t thread[WRITERS + READERS + 2];
    unsigned n = 0;
    (void)state;
    open_store();
    for (uintptr_t i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&thread[n++], NULL, writer, (void *)i), 0);
    for (uintptr_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&thread[n++], NULL, reader, (void *)i), 0);
    assert_int_equal(pthread_create(&thread[n++], NULL, keeper, NULL), 0);
    assert_int_equal(pthread_create(&thread[n++], NULL, compactor, NULL), 0);
    const char *lengthy = getenv("SHALE_LONG");
    (void)sleep(lengthy && *lengthy == '1' ? 30 : 2);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    while (n)
        assert_int_equal(pthread_join(thread[--n], NULL), 0);
    struct lsm_stats *st = malloc(sizeof *st);
    assert_non_null(st);
    lsm_stats_get(db, st);
    uint64_t batches = 0;
    for (unsigned g = 0; g < GROUPS; g++)
        batches += acknowledged[g];
    assert_int_equal(st->batches, batches); /* none was lost, though each thread counts for itself */
    printf("%llu batches, %llu gets\n", (unsigned long long)batches, (unsigned long long)st->gets);
    free(st);
    for (int again = 0; again < 2; again++) { /* as it is, and after opening it anew */
        for (unsigned g = 0; g < GROUPS; g++)
            check_between(g, by_get(db, NULL, g), acknowledged[g], acknowledged[g], "at the end");
        assert_int_equal(lsm_close(db), 0);
        if (!again)
            open_store();
    }
}

/* More threads than there are slots: those that share one lose no count either, nor do those that come after them. */
static void *count_gets(void *arg)
{
    pthread_barrier_t *all = arg;
    for (unsigned i = 0; i < 500; i++) {
        if (i == 250 && all)
            (void)pthread_barrier_wait(all);
        (void)by_get(db, NULL, 0);
    }
    return NULL;
}

static void test_many_threads_count(void **state)
{
    enum { MANY = 40 };
    pthread_t thread[MANY];
    pthread_barrier_t all;
    static struct lsm_stats before, after;
    (void)state;
    open_store();
    lsm_stats_get(db, &before);
    assert_int_equal(pthread_barrier_init(&all, NULL, MANY), 0);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < MANY; i++)
            assert_int_equal(pthread_create(&thread[i], NULL, count_gets, &all), 0);
        for (unsigned i = 0; i < MANY; i++) {
            assert_int_equal(lsm_flush(db), 0); /* views come and go meanwhile */
            commit(1, acknowledged[1] + 1);
            assert_int_equal(pthread_join(thread[i], NULL), 0);
        }
    }
    lsm_stats_get(db, &after);
    assert_int_equal(after.gets - before.gets, 2 * MANY * 500 * KEYS);
    (void)pthread_barrier_destroy(&all);
    assert_int_equal(lsm_close(db), 0);
}

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/test_threads.XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    (void)snprintf(store, sizeof store, "%s/store", dir);
    (void)snprintf(copy, sizeof copy, "%s/copy", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_tree(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_at_once),
        cmocka_unit_test(test_many_threads_count),
    };
    const char *s = getenv("SHALE_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    seed = s ? strtoull(s, NULL, 0) : (uint64_t)now.tv_nsec * 2654435761u + 1;
    printf("replay: SHALE_SEED=0x%llx test_threads\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, setup, teardown);
}
