/*
 * test_rest.c - what a burst of writes leaves on the disk goes when nobody writes: unflushed segments of the log, free ones
 * but for one, level 0, and the part of the reserve that only a store that is written to needs. And it comes back. Garbage in
 * blob files goes while others read (test_blob_rest.c has the details, without threads).
 */
#include <shale/lsm.h>

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)
#define VALUE_BYTES 1000u
#define KEYS 12000u
#define PATIENCE_MS 60000u

static char dir[64];

static struct lsm *store_open(void)
{
    struct lsm_options o = {.flags = LSM_CREATE,
                            .shards = 2,
                            .write_buffer_bytes = MIB,
                            .log_segment_bytes = MIB,
                            .table_bytes = MIB,
                            .compression = LSM_COMPRESSION_NONE};
    struct lsm *db;
    assert_int_equal(lsm_open(dir, &o, &db), 0);
    return db;
}

static void put_some(struct lsm *db, unsigned from, unsigned to, unsigned round)
{
    uint8_t value[VALUE_BYTES];
    char key[24];
    memset(value, (int)round, sizeof value);
    for (unsigned i = from; i < to; i++) {
        int n = snprintf(key, sizeof key, "key %08u", i * 7919 % KEYS);
        assert_int_equal(lsm_put(db, key, (size_t)n, value, sizeof value, 0), 0);
    }
}

static void check_all(struct lsm *db, unsigned round)
{
    char key[24];
    for (unsigned i = 0; i < KEYS; i++) {
        struct lsm_value v = {0};
        int n = snprintf(key, sizeof key, "key %08u", i);
        assert_int_equal(lsm_get(db, key, (size_t)n, NULL, 0, &v), 0);
        assert_int_equal(v.len, VALUE_BYTES);
        assert_int_equal(*(const uint8_t *)v.data, round);
        lsm_value_release(&v);
    }
}

static unsigned segment_files(void)
{
    DIR *d = opendir(dir);
    unsigned n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        size_t len = strlen(e->d_name);
        n += len > 4 && !strcmp(e->d_name + len - 4, ".log");
    }
    closedir(d);
    return n;
}

static bool level_0_is_small(const struct lsm_stats *st)
{
    bool small = true;
    for (unsigned s = 0; s < st->shards; s++)
        small &= st->shard[s].bytes[0] * 8 <= st->shard[s].bytes[LSM_LEVELS - 1];
    return small;
}

static bool is_at_rest(struct lsm *db, uint64_t large_reserve)
{
    struct lsm_stats st;
    lsm_stats_get(db, &st);
    return segment_files() == 2 && st.log_segments == 2 && level_0_is_small(&st) &&
           st.reserve_bytes < large_reserve / 2 && st.reserve_bytes >= st.reserve_target_bytes;
}

static uint64_t reserve_of(struct lsm *db)
{
    struct lsm_stats st;
    lsm_stats_get(db, &st);
    return st.reserve_bytes;
}

static void rest(struct lsm *db, uint64_t large_reserve)
{
    unsigned waited_ms = 0;
    for (; !is_at_rest(db, large_reserve) && waited_ms < PATIENCE_MS; waited_ms += 20)
        usleep(20000);
    assert_true(waited_ms < PATIENCE_MS);
}

static void test_rest(void **unused)
{
    (void)unused;
    struct lsm *db = store_open();
    put_some(db, 0, KEYS, 1);
    unsigned waited_ms = 0; /* a look at the disk comes with the next flush */
    for (; reserve_of(db) < 7 * MIB && waited_ms < PATIENCE_MS; waited_ms += 20) {
        put_some(db, 0, 20, 1);
        usleep(20000);
    }
    assert_true(waited_ms < PATIENCE_MS);
    uint64_t large = reserve_of(db);
    rest(db, large);
    check_all(db, 1);

    /* Once it is written to again it has what it needs then, in time: not only when something is flushed. */
    put_some(db, 0, KEYS / 8, 2);
    for (waited_ms = 0; reserve_of(db) < large && waited_ms < PATIENCE_MS; waited_ms += 20)
        usleep(20000);
    assert_true(waited_ms < PATIENCE_MS);
    put_some(db, KEYS / 8, KEYS, 2);
    assert_int_equal(lsm_close(db), 0);

    /* What an open found unflushed goes as well. */
    db = store_open();
    check_all(db, 2);
    rest(db, large);
    assert_int_equal(lsm_close(db), 0);
    assert_int_equal(segment_files(), 2);
    db = store_open();
    check_all(db, 2);
    assert_int_equal(lsm_close(db), 0);
}

/* ---- large values ---- */

#define LARGE_BYTES (64u << 10)
#define LARGE_KEYS 160u

static void put_large(struct lsm *db, unsigned i, unsigned round)
{
    static uint8_t value[LARGE_BYTES];
    char key[24];
    int n = snprintf(key, sizeof key, "key %08u", i);
    memset(value, (int)(i + round), sizeof value);
    assert_int_equal(lsm_put(db, key, (size_t)n, value, sizeof value, 0), 0);
}

struct readers {
    struct lsm *db;
    bool stop; /* atomic */
    unsigned wrong;
};

/* Key i has the value of round 1, or of 2 if it is a third one. */
static unsigned read_large(struct lsm *db)
{
    unsigned wrong = 0;
    for (unsigned i = 0; i < LARGE_KEYS; i++) {
        struct lsm_value v = {0};
        char key[24];
        int n = snprintf(key, sizeof key, "key %08u", i);
        const int is = (uint8_t)(i + (i % 3 ? 1 : 2));
        if (lsm_get(db, key, (size_t)n, NULL, 0, &v) || v.len != LARGE_BYTES ||
            *(const uint8_t *)v.data != is || ((const uint8_t *)v.data)[v.len - 1] != is)
            wrong++;
        lsm_value_release(&v);
    }
    return wrong;
}

static void *reader_main(void *arg)
{
    struct readers *r = arg;
    while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
        r->wrong += read_large(r->db);
        usleep(1000);
    }
    return NULL;
}

/* What background work has written. */
static uint64_t worked(const struct lsm_stats *st)
{
    uint64_t n = st->log_frontier;
    for (unsigned i = 0; i < st->shards; i++)
        n += st->shard[i].flush_bytes + st->shard[i].compact_bytes_written + st->shard[i].blob_bytes_moved;
    return n;
}

static void test_rest_of_large(void **unused)
{
    (void)unused;
    static struct lsm_stats st;
    struct lsm_options o = {.flags = LSM_CREATE,
                            .shards = 2,
                            .write_buffer_bytes = MIB,
                            .log_segment_bytes = MIB,
                            .blob_file_bytes = MIB};
    const uint64_t alive = (uint64_t)LARGE_KEYS * LARGE_BYTES,
                   bound = alive + alive / 6 + alive / 500 + MIB / 8;
    struct readers readers = {0};
    pthread_t thread;
    uint64_t bytes = UINT64_MAX;
    assert_int_equal(lsm_open(dir, &o, &readers.db), 0);
    for (unsigned i = 0; i < LARGE_KEYS; i++)
        put_large(readers.db, i, 1);
    for (unsigned i = 0; i < LARGE_KEYS; i += 3)
        put_large(readers.db, i, 2);
    assert_int_equal(pthread_create(&thread, NULL, reader_main, &readers), 0);
    unsigned waited_ms = 0, quiet_ms = 0;
    uint64_t last = 0;
    for (; (bytes > bound || quiet_ms < 500) && waited_ms < PATIENCE_MS; waited_ms += 20) {
        usleep(20000);
        lsm_stats_get(readers.db, &st);
        bytes = st.shard[0].blob_bytes + st.shard[1].blob_bytes;
        quiet_ms = worked(&st) == last ? quiet_ms + 20 : 0;
        last = worked(&st);
    }
    __atomic_store_n(&readers.stop, true, __ATOMIC_RELAXED);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(waited_ms < PATIENCE_MS);
    assert_in_range(bytes, alive, bound);
    assert_int_equal(readers.wrong, 0);
    assert_int_equal(read_large(readers.db), 0);
    assert_int_equal(lsm_close(readers.db), 0);
    assert_int_equal(lsm_open(dir, &o, &readers.db), 0);
    assert_int_equal(read_large(readers.db), 0);
    assert_int_equal(lsm_close(readers.db), 0);
}

static int make_dir(void **unused)
{
    (void)unused;
    (void)snprintf(dir, sizeof dir, "/tmp/shale-rest-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **unused)
{
    (void)unused;
    char path[512];
    DIR *d = opendir(dir);
    if (!d)
        return -1;
    for (struct dirent *e; (e = readdir(d));) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        (void)unlink(path);
    }
    closedir(d);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rest, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_rest_of_large, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
