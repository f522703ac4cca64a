/*
 * test_blob.c - values in blob files: the format's decoders, writing and reading, collection, recovery, damage.
 */
#include "blob_format.h"
#include "db.h"
#include "env_sim.h"
#include "version.h"
#include <shale/lsm.h>

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KIB 1024u
#define FILE_BYTES (256u * KIB)

static struct lsm_options options_of(struct env *env, unsigned flags)
{
    return (struct lsm_options){.flags = LSM_INLINE | flags,
                                .shards = 1,
                                .memory_bytes = 8u << 20,
                                .write_buffer_bytes = 64u * KIB,
                                .log_segment_bytes = 1u << 20,
                                .blob_min_bytes = 4u * KIB,
                                .blob_file_bytes = FILE_BYTES,
                                .env = env};
}

static struct lsm *open_store(struct env *env, unsigned flags)
{
    struct lsm_options o = options_of(env, flags);
    struct lsm *db = NULL;
    assert_int_equal(lsm_open("/s", &o, &db), 0);
    return db;
}

static void fill(uint8_t *out, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)(seed * 31 + i * 7 + i / 251);
}

static void put(struct lsm *db, const char *key, size_t len, unsigned seed)
{
    uint8_t *value = malloc(len + 1);
    assert_non_null(value);
    fill(value, len, seed);
    assert_int_equal(lsm_put(db, key, strlen(key), value, len, 0), 0);
    free(value);
}

static void check(struct lsm *db, const char *key, const struct lsm_snapshot *snapshot, size_t len,
                  unsigned seed)
{
    struct lsm_value v;
    uint8_t *value = malloc(len + 1);
    assert_non_null(value);
    fill(value, len, seed);
    assert_int_equal(lsm_get(db, key, strlen(key), snapshot, 0, &v), 0);
    assert_int_equal(v.len, len);
    assert_memory_equal(v.data, value, len);
    lsm_value_release(&v);
    free(value);
}

static struct lsm_shard_stats shard_stats(struct lsm *db)
{
    static struct lsm_stats st;
    lsm_stats_get(db, &st);
    return st.shard[0];
}

static void work(struct lsm *db)
{
    int did;
    for (unsigned i = 0; (did = lsm_work(db)) > 0; i++)
        assert_true(i < 10000);
    assert_int_equal(did, 0);
}

/* ---- the format ---- */

static void test_pointer(void **unused)
{
    (void)unused;
    uint8_t bytes[BLOB_POINTER_MAX + 1] = {0};
    const struct blob_pointer good[] = {
        {1, BLOB_HEADER_BYTES, 1, 0, 1},
        {7, 1000, 65536, 4096, 8192},
        {SEQ_MAX, BLOB_OFFSET_MAX, LSM_VALUE_MAX, LSM_VALUE_MAX, 0},
    };
    struct blob_pointer p;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        size_t len = blob_pointer_encode(&good[i], bytes);
        assert_int_equal(blob_pointer_decode(bytes, len, &p), 0);
        assert_int_equal(p.number, good[i].number);
        assert_int_equal(p.offset, good[i].offset);
        assert_int_equal(p.extent_bytes, good[i].extent_bytes);
        assert_int_equal(p.from, good[i].from);
        assert_int_equal(p.length, good[i].length);
        for (size_t n = 0; n < len; n++) /* cut, and with something behind it */
            assert_int_equal(blob_pointer_decode(bytes, n, &p), -EBADMSG);
        assert_int_equal(blob_pointer_decode(bytes, len + 1, &p), -EBADMSG);
    }
    const struct blob_pointer bad[] = {
        {0, 64, 1, 0, 1},
        {1, 63, 1, 0, 1},
        {1, BLOB_OFFSET_MAX + 1, 1, 0, 1},
        {1, 64, 0, 0, 0},
        {1, 64, LSM_VALUE_MAX + 1, 0, 1},
        {1, 64, 10, 11, 0},
        {1, 64, 10, 5, 6},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(blob_pointer_decode(bytes, blob_pointer_encode(&bad[i], bytes), &p), -EBADMSG);
}

static void test_header(void **unused)
{
    (void)unused;
    struct blob_header h;
    bool newer;
    blob_header_encode(5, 99, 3, &h);
    assert_null(blob_header_check(&h, 5, 99, 3, &newer));
    assert_non_null(blob_header_check(&h, 6, 99, 3, &newer));
    assert_non_null(blob_header_check(&h, 5, 98, 3, &newer));
    assert_non_null(blob_header_check(&h, 5, 99, 2, &newer));
    for (size_t i = 0; i < sizeof h; i++) {
        ((uint8_t *)&h)[i] ^= 4;
        assert_non_null(blob_header_check(&h, 5, 99, 3, &newer));
        ((uint8_t *)&h)[i] ^= 4;
    }
    put_le32(h.version, 2);
    put_le64(h.checksum, XXH3_64bits(&h, offsetof(struct blob_header, checksum)));
    assert_non_null(blob_header_check(&h, 5, 99, 3, &newer));
    assert_true(newer);
}

/* ---- writing and reading ---- */

static void check_ranges(struct lsm *db, const char *key, size_t len, unsigned seed)
{
    static const size_t edges[] = {0, 1, 4095, 4096, 16383, 16384, 16385, 32768, 65535, 65536, 100000};
    uint8_t *value = malloc(len + 1);
    assert_non_null(value);
    fill(value, len, seed);
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++)
        for (size_t j = 0; j < sizeof edges / sizeof edges[0]; j++) {
            struct lsm_value v;
            size_t total, from = edges[i] < len ? edges[i] : len;
            size_t want = edges[j] < len - from ? edges[j] : len - from;
            assert_int_equal(lsm_get_range(db, key, strlen(key), NULL, 0, edges[i], edges[j], &v, &total), 0);
            assert_int_equal(total, len);
            assert_int_equal(v.len, want);
            if (want)
                assert_memory_equal(v.data, value + from, want);
            lsm_value_release(&v);
        }
    free(value);
}

static void test_sizes(void **unused)
{
    (void)unused;
    static const size_t sizes[] = {0,     1,     4095,  4096,   16383,  16384,
                                   16385, 32768, 65536, 100000, 300000, LSM_VALUE_MAX};
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    char key[16];
    for (unsigned round = 0; round < 3; round++) { /* in memtables, in tables, after reopening */
        for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            (void)snprintf(key, sizeof key, "k%02u", i);
            if (!round)
                put(db, key, sizes[i], i);
            check(db, key, NULL, sizes[i], i);
            if (sizes[i] <= 300000)
                check_ranges(db, key, sizes[i], i);
        }
        if (round == 0) {
            assert_int_equal(lsm_flush(db), 0);
        } else if (round == 1) {
            assert_int_equal(lsm_close(db), 0);
            db = open_store(env, 0);
        }
    }
    struct lsm_iter *it;
    struct lsm_iter_options keys = {.flags = LSM_KEYS};
    for (unsigned pass = 0; pass < 2; pass++) {
        unsigned n = 0;
        assert_int_equal(lsm_iter_new(db, pass ? &keys : NULL, &it), 0);
        for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it), n++) {
            size_t len;
            const void *value = lsm_iter_value(it, &len);
            assert_int_equal(len, sizes[n]);
            assert_true(pass && len >= 4096 ? value == NULL : value != NULL);
        }
        assert_int_equal(lsm_iter_status(it), 0);
        assert_int_equal(n, sizeof sizes / sizeof sizes[0]);
        lsm_iter_free(it);
    }
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* A batch with many large values takes next to nothing of the log; one with many small ones is still too large. */
static void test_batch(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    struct lsm_batch *b;
    static struct lsm_stats st;
    uint8_t value[8192];
    char key[16];
    assert_int_equal(lsm_batch_new(&b), 0);
    for (unsigned i = 0; i < 100; i++) {
        (void)snprintf(key, sizeof key, "k%03u", i);
        fill(value, sizeof value, i);
        lsm_batch_put(b, key, strlen(key), value, sizeof value);
        lsm_batch_put(b, key, 2, "small", 5);
    }
    lsm_batch_delete(b, "k007", 4);
    assert_true(lsm_batch_bytes(b) > lsm_batch_bytes_max(db));
    assert_true(lsm_batch_log_bytes(db, b) < lsm_batch_bytes_max(db));
    assert_int_equal(lsm_commit(db, b, LSM_SYNC), 0);
    lsm_stats_get(db, &st);
    assert_true(st.log_bytes < 20000);
    for (unsigned i = 0; i < 100; i++) {
        struct lsm_value v;
        (void)snprintf(key, sizeof key, "k%03u", i);
        if (i != 7)
            check(db, key, NULL, sizeof value, i);
        else
            assert_int_equal(lsm_get(db, key, 4, NULL, 0, &v), -ENOENT);
    }
    lsm_batch_clear(b);
    for (unsigned i = 0; i < 100; i++)
        lsm_batch_put(b, "k", 1, value, 4095);
    assert_int_equal(lsm_commit(db, b, 0), -E2BIG);
    lsm_batch_free(b);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* Values of which a batch has only the beginning: large, small, as a whole, in the log, and out of it again. */
static void test_lent(void **unused)
{
    (void)unused;
    static const size_t lens[] = {100, 4095, 4096, 16383, 16384, 16385, 70000, 3u << 20};
    static const size_t heads[] = {0, 8, 99};
    const size_t n = sizeof lens / sizeof lens[0];
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    struct lsm_batch *b;
    struct lsm_value v;
    uint8_t *values[sizeof lens / sizeof lens[0]];
    char key[16];
    for (size_t i = 0; i < n; i++) {
        values[i] = malloc(lens[i]);
        assert_non_null(values[i]);
        fill(values[i], lens[i], (unsigned)i);
    }
    assert_int_equal(lsm_batch_new(&b), 0);
    for (unsigned h = 0; h < 3; h++) {
        for (size_t i = 0; i < n; i++) {
            (void)snprintf(key, sizeof key, "k%u%zu", h, i);
            lsm_batch_put_lent(b, key, strlen(key), values[i], heads[h], values[i] + heads[h],
                               lens[i] - heads[h]);
            lsm_batch_put(b, key, 2, "small", 5);
        }
        assert_true(lsm_batch_bytes(b) > 3u << 20);
        assert_int_equal(lsm_commit(db, b, 0), 0);
        lsm_batch_clear(b);
    }
    lsm_batch_put_lent(b, "all", 3, values[4], lens[4], NULL, 0);
    lsm_batch_put_lent(b, "over", 4, NULL, 0, values[2], lens[2]);
    lsm_batch_put_lent(b, "over", 4, "x", 1, values[0], 0); /* the later one counts */
    assert_int_equal(lsm_commit(db, b, 0), 0);
    lsm_batch_clear(b);
    lsm_batch_put_lent(b, "k", 1, values[0], 1, values[7],
                       LSM_VALUE_MAX); /* longer than a value may be: not read */
    assert_int_equal(lsm_commit(db, b, 0), -E2BIG);
    lsm_batch_free(b);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned h = 0; h < 3; h++)
            for (size_t i = 0; i < n; i++) {
                (void)snprintf(key, sizeof key, "k%u%zu", h, i);
                check(db, key, NULL, lens[i], (unsigned)i);
            }
        check(db, "all", NULL, lens[4], 4);
        assert_int_equal(lsm_get(db, "over", 4, NULL, 0, &v), 0);
        assert_true(v.len == 1 && *(const char *)v.data == 'x');
        lsm_value_release(&v);
        assert_int_equal(lsm_close(db), 0);
        db = open_store(env, 0);
    }
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
    for (size_t i = 0; i < n; i++)
        free(values[i]);
}

/* Beside a large value the other changes of a batch stay what they are, also when they come out of the log again. */
static void test_batch_replayed(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    struct lsm_batch *b;
    struct lsm_value v;
    uint8_t value[8192];
    put(db, "a", 10, 1);
    put(db, "b", 10, 2);
    put(db, "c", 10, 3);
    assert_int_equal(lsm_batch_new(&b), 0);
    fill(value, sizeof value, 4);
    lsm_batch_put(b, "large", 5, value, sizeof value);
    lsm_batch_delete_range(b, "b", 1, "c", 1, "b", 1);
    lsm_batch_put(b, "d", 1, value, 10);
    assert_int_equal(lsm_commit(db, b, 0), 0);
    lsm_batch_free(b);
    for (unsigned round = 0; round < 2; round++) {
        check(db, "a", NULL, 10, 1);
        assert_int_equal(lsm_get(db, "b", 1, NULL, 0, &v), -ENOENT);
        check(db, "c", NULL, 10, 3);
        check(db, "d", NULL, 10, 4);
        check(db, "large", NULL, sizeof value, 4);
        assert_int_equal(lsm_close(db), 0);
        db = open_store(env, 0);
    }
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* What may not wait is turned away where a file must be made or read, and changes nothing. */
static void test_nowait(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    struct lsm_value v;
    uint8_t value[5000] = {1};
    assert_int_equal(lsm_put(db, "k", 1, value, sizeof value, LSM_NOWAIT), -EAGAIN);
    assert_int_equal(lsm_get(db, "k", 1, NULL, 0, &v), -ENOENT);
    work(db); /* makes the file */
    assert_int_equal(lsm_put(db, "k", 1, value, sizeof value, LSM_NOWAIT), 0);
    assert_int_equal(lsm_get(db, "k", 1, NULL, LSM_NOWAIT, &v), -EAGAIN);
    assert_int_equal(lsm_get(db, "k", 1, NULL, 0, &v), 0);
    lsm_value_release(&v);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* What was written and given back may be on the medium: nothing of the same length may come to lie in its place. */
static void test_places_given_back(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    uint8_t bytes[5000] = {1};
    uint64_t begins[60];
    for (unsigned i = 0; i < 60; i += 3) {
        struct blob_value v[3] = {{.bytes = {{bytes, sizeof bytes}}},
                                  {.bytes = {{bytes, sizeof bytes}}},
                                  {.bytes = {{bytes, sizeof bytes}}}};
        int n = blob_write(&db->shards[0], v, 3, false);
        assert_in_range(n, 1, 3);
        for (int j = 0; j < 3; j++)
            begins[i + (unsigned)j] = j < n ? v[j].pointer.number << 32 | v[j].pointer.offset : 0;
        while (n-- > 0)
            blob_unwrite(&db->shards[0], &v[n]);
    }
    for (unsigned i = 0; i < 60; i++)
        for (unsigned j = 0; j < i; j++)
            assert_true(!begins[i] || begins[i] != begins[j]);
    assert_true(begins[59] < begins[0] + 60 * 4096); /* and the place itself is used again */
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* ---- space ---- */

static unsigned blob_files;
static int count_blob(void *arg, const char *name)
{
    (void)arg;
    blob_files += strstr(name, ".blob") != NULL;
    return 0;
}

static unsigned files_on_disk(struct env *env)
{
    blob_files = 0;
    assert_int_equal(env_list(env, "/s", count_blob, NULL), 0);
    return blob_files;
}

/* Overwriting does not let the store grow, deleting gives all of it back, and nobody asks for it. */
static void test_collection(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    char key[16];
    uint64_t live = 40u * 20000u, most = 0;
    unsigned version[40] = {0};
    for (unsigned i = 0; i < 2000; i++) {
        unsigned k = i < 40 ? i : (i * 7919u) % 40;
        (void)snprintf(key, sizeof key, "k%02u", k);
        put(db, key, 20000, version[k] = i);
        work(db);
        uint64_t bytes = shard_stats(db).blob_bytes;
        most = bytes > most ? bytes : most;
    }
    assert_true(most <= live * 3 / 2 + 2 * FILE_BYTES + FILE_BYTES);
    for (unsigned k = 0; k < 40; k++) {
        (void)snprintf(key, sizeof key, "k%02u", k);
        check(db, key, NULL, 20000, version[k]);
    }
    assert_true(shard_stats(db).blob_bytes_moved > 0);
    assert_true(shard_stats(db).blob_files_deleted > 50);
    assert_int_equal(files_on_disk(env), shard_stats(db).blob_files);
    for (unsigned k = 0; k < 40; k++) {
        (void)snprintf(key, sizeof key, "k%02u", k);
        assert_int_equal(lsm_delete(db, key, strlen(key), 0), 0);
    }
    work(db);
    assert_true(shard_stats(db).blob_bytes <= 2 * FILE_BYTES);
    assert_int_equal(lsm_compact(db), 0);
    work(db);
    assert_int_equal(shard_stats(db).blob_live_bytes, 0);
    assert_true(shard_stats(db).blob_bytes <= FILE_BYTES);
    assert_int_equal(lsm_close(db), 0);
    db = open_store(env, 0);
    assert_int_equal(files_on_disk(env), shard_stats(db).blob_files);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/*
 * A disk full of large values, of which every `keep`-th stays: no file goes by itself, so what is left of the emptiest must be
 * moved first, for which the reserve has the space.
 */
static void scattered_deletes(unsigned keep)
{
    struct env *env = env_sim_new(1);
    struct lsm *db = open_store(env, LSM_CREATE);
    char key[16];
    uint8_t *value = malloc(20000);
    uint64_t free_bytes, total_bytes;
    unsigned n = 0;
    int err = 0;
    assert_non_null(value);
    env_sim_capacity(env, 12u << 20);
    for (; !err; n++) {
        (void)snprintf(key, sizeof key, "k%05u", n);
        fill(value, 20000, n);
        err = lsm_put(db, key, 6, value, 20000, 0);
        if (n % 8 == 0)
            work(db);
    }
    assert_int_equal(err, -ENOSPC);
    n--;
    assert_true(n > 200);
    for (unsigned i = 0; i < n; i++) {
        (void)snprintf(key, sizeof key, "k%05u", i);
        if (i % keep)
            assert_int_equal(lsm_delete(db, key, 6, LSM_SHRINK), 0);
    }
    assert_int_equal(lsm_compact(db), 0);
    work(db);
    uint64_t alive = ((uint64_t)n / keep + 1) * 20000;
    assert_true(shard_stats(db).blob_bytes <= alive + alive / 2 + 2 * FILE_BYTES);
    assert_int_equal(lsm_space(db, &free_bytes, &total_bytes), 0);
    assert_true(free_bytes > (uint64_t)n * 20000 / 4);
    put(db, "more", 60000, 1);
    for (unsigned i = 0; i < n; i += keep) {
        (void)snprintf(key, sizeof key, "k%05u", i);
        check(db, key, NULL, 20000, i);
    }
    free(value);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

static void test_scattered_deletes(void **unused)
{
    (void)unused;
    scattered_deletes(2);
    scattered_deletes(3);
}

/* A snapshot and an iterator keep what they see, over collection and all. */
static void test_readers(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    struct lsm_snapshot *snapshot;
    struct lsm_iter *it;
    char key[16];
    for (unsigned k = 0; k < 20; k++) {
        (void)snprintf(key, sizeof key, "k%02u", k);
        put(db, key, 30000, k);
    }
    assert_int_equal(lsm_snapshot_new(db, &snapshot), 0);
    assert_int_equal(lsm_iter_new(db, NULL, &it), 0);
    for (unsigned i = 0; i < 400; i++) {
        (void)snprintf(key, sizeof key, "k%02u", i % 20);
        put(db, key, 30000, 1000 + i);
        work(db);
    }
    assert_int_equal(lsm_compact(db), 0);
    work(db);
    unsigned n = 0;
    for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it), n++) {
        static uint8_t expected[30000];
        size_t len;
        const void *value = lsm_iter_value(it, &len);
        fill(expected, sizeof expected, n);
        assert_int_equal(len, sizeof expected);
        assert_memory_equal(value, expected, len);
    }
    assert_int_equal(lsm_iter_status(it), 0);
    assert_int_equal(n, 20);
    lsm_iter_free(it);
    for (unsigned k = 0; k < 20; k++) {
        (void)snprintf(key, sizeof key, "k%02u", k);
        check(db, key, snapshot, 30000, k);
        check(db, key, NULL, 30000, 1380 + k);
    }
    lsm_snapshot_free(db, snapshot);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* ---- damage ---- */

static char problem_file[64], problem_what[300];
static unsigned problems;
static void note_problem(void *arg, const struct lsm_problem *p)
{
    (void)arg;
    if (!p->damage)
        return;
    problems++;
    (void)snprintf(problem_file, sizeof problem_file, "%s", p->file);
    (void)snprintf(problem_what, sizeof problem_what, "%s", p->what);
}

static int find_blob(void *arg, const char *name)
{
    if (strstr(name, ".blob"))
        (void)snprintf(arg, 64, "/s/%.50s", name);
    return 0;
}

/* One flipped bit costs the value it is in, is found and named by verifying, and repair leaves all others. */
static void test_damage(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    char path[64] = "";
    uint8_t byte;
    struct env_file *f;
    struct lsm_value v;
    size_t total;
    put(db, "a", 60000, 1);
    put(db, "b", 60000, 2);
    put(db, "c", 60000, 3);
    assert_int_equal(lsm_compact(db), 0);
    assert_int_equal(lsm_close(db), 0);
    assert_int_equal(env_list(env, "/s", find_blob, path), 0);
    assert_int_equal(env_open(env, path, ENV_READ | ENV_WRITE, &f), 0);
    uint64_t at = BLOB_HEADER_BYTES + blob_disk_bytes(60000) + 8 * blob_chunks(60000) + 40000;
    assert_int_equal(env_pread(f, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(env_pwrite(f, &byte, 1, at), 0);
    env_close(f);

    db = open_store(env, 0);
    check(db, "a", NULL, 60000, 1);
    check(db, "c", NULL, 60000, 3);
    assert_int_equal(lsm_get(db, "b", 1, NULL, 0, &v), -EIO);
    assert_int_equal(lsm_get_range(db, "b", 1, NULL, 0, 0, 4096, &v, &total), 0); /* another chunk */
    lsm_value_release(&v);
    assert_int_equal(lsm_get_range(db, "b", 1, NULL, 0, 36000, 100, &v, &total), -EIO);
    assert_int_equal(lsm_compact(db), 0); /* moves nothing, stops at nothing */
    assert_int_equal(lsm_close(db), 0);

    struct lsm_options o = options_of(env, 0);
    struct lsm_verified seen;
    problems = 0;
    assert_int_equal(lsm_verify("/s", &o, note_problem, NULL, &seen), 0);
    assert_int_equal(problems, 1);
    assert_int_equal(seen.blob_values, 3);
    assert_string_equal(problem_file, path + 3);
    assert_non_null(strstr(problem_what, "key b"));
    struct lsm_repaired repaired;
    assert_int_equal(lsm_repair("/s", &o, note_problem, NULL, &repaired), 0);
    assert_true(repaired.done);
    assert_int_equal(repaired.keys_saved, 2);
    assert_int_equal(repaired.keys_lost, 1);
    problems = 0;
    assert_int_equal(lsm_verify("/s", &o, note_problem, NULL, &seen), 0);
    assert_int_equal(problems, 0);
    db = open_store(env, 0);
    check(db, "a", NULL, 60000, 1);
    check(db, "c", NULL, 60000, 3);
    assert_int_equal(lsm_get(db, "b", 1, NULL, 0, &v), -ENOENT);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* A store that was killed with one large value and `small` small ones in its log, none of them synced. */
static struct env *killed_store(unsigned small)
{
    struct env *env = env_sim_new(1), *copy;
    struct lsm *db = open_store(env, LSM_CREATE);
    char key[16];
    put(db, "large", 60000, 1);
    for (unsigned i = 0; i < small; i++) {
        (void)snprintf(key, sizeof key, "k%03u", i);
        put(db, key, 10, i);
    }
    copy = env_sim_clone(env, 2);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
    return copy;
}

/* No crash takes a file that was in use: the records behind the one that needs it are not to be dropped for it. */
static void test_missing_at_recovery(void **unused)
{
    (void)unused;
    struct env *env = killed_store(100);
    struct lsm_options o = options_of(env, 0);
    struct lsm_verified seen;
    struct lsm *db;
    char path[64] = "";
    assert_int_equal(env_list(env, "/s", find_blob, path), 0);
    struct env *whole = env_sim_clone(env, 3);
    assert_int_equal(env_unlink(env, path), 0);
    assert_int_equal(lsm_open("/s", &o, &db), -EUCLEAN);
    problems = 0;
    assert_int_equal(lsm_verify("/s", &o, note_problem, NULL, &seen), 0);
    assert_true(problems > 0);
    env_sim_free(env);
    db = open_store(whole, 0);
    check(db, "large", NULL, 60000, 1);
    check(db, "k099", NULL, 10, 99);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(whole);
}

static void check_all_but_b(struct lsm *db, int expected)
{
    struct lsm_value v;
    check(db, "a", NULL, 60000, 1);
    check(db, "c", NULL, 60000, 3);
    check(db, "d", NULL, 10, 4);
    check(db, "e", NULL, 10, 5);
    assert_int_equal(lsm_get(db, "b", 1, NULL, 0, &v), expected);
    assert_int_equal(lsm_close(db), 0);
}

/*
 * A value that rots while the log above the manifest's synced mark names it, below one that the log itself has: that
 * value is lost, however the store is opened, and nothing else.
 */
static void test_damage_below_a_mark(void **unused)
{
    (void)unused;
    struct env *env = env_sim_new(1);
    struct lsm *db = open_store(env, LSM_CREATE);
    char path[64] = "";
    for (unsigned i = 0; i < 3; i++) {
        put(db, (char[]){(char)('a' + i), 0}, 60000, 1 + i);
        assert_int_equal(lsm_sync(db), 0);
    }
    put(db, "d", 10, 4);
    assert_int_equal(lsm_sync(db), 0);
    put(db, "e", 10, 5);
    struct env *killed = env_sim_clone(env, 2);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);

    struct env_file *f;
    assert_int_equal(env_list(killed, "/s", find_blob, path), 0);
    assert_int_equal(env_open(killed, path, ENV_READ | ENV_WRITE, &f), 0);
    uint64_t at = BLOB_HEADER_BYTES + blob_disk_bytes(60000) + 8 * blob_chunks(60000) + 100;
    assert_int_equal(env_pwrite(f, "damaged", 7, at), 0);
    env_close(f);

    struct env *copy = env_sim_clone(killed, 3);
    check_all_but_b(open_store(copy, 0), -EIO);
    env_sim_free(copy);
    copy = env_sim_clone(killed, 4);
    check_all_but_b(open_store(copy, LSM_RDONLY), -EIO);
    struct lsm_options o = options_of(copy, 0);
    struct lsm_verified seen;
    struct lsm_repaired repaired;
    problems = 0;
    assert_int_equal(lsm_verify("/s", &o, note_problem, NULL, &seen), 0);
    assert_int_equal(problems, 1);
    assert_non_null(strstr(problem_what, "key b"));
    assert_int_equal(lsm_repair("/s", &o, note_problem, NULL, &repaired), 0);
    assert_true(repaired.done);
    assert_int_equal(repaired.keys_saved, 4);
    assert_int_equal(repaired.keys_lost, 1);
    check_all_but_b(open_store(copy, 0), -ENOENT);
    env_sim_free(copy);
    env_sim_free(killed);
}

/* Only the extents of blob files, behind their headers: of what is asked for, the first bytes could be read. */
static struct sim_fault fail_extents(void *arg, const struct sim_call *call)
{
    (void)arg;
    bool extent = call->op == SIM_PREAD && strstr(call->path, ".blob") && call->bytes > 4096;
    return (struct sim_fault){extent ? -EIO : 0, false};
}

/* What can't be read now is no end of the log: opening fails, and nothing is lost. */
static void test_read_error_at_recovery(void **unused)
{
    (void)unused;
    struct env *env = killed_store(100);
    struct lsm_options o = options_of(env, 0);
    struct lsm *db;
    env_sim_hook(env, fail_extents, NULL);
    assert_int_equal(lsm_open("/s", &o, &db), -EIO);
    env_sim_hook(env, NULL, NULL);
    db = open_store(env, 0);
    check(db, "large", NULL, 60000, 1);
    check(db, "k099", NULL, 10, 99);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

static struct sim_fault fail_directory(void *arg, const struct sim_call *call)
{
    (void)arg;
    return (struct sim_fault){call->op == SIM_SYNC_DIR ? -EIO : 0, false};
}

/* The first large value needs a bit in the manifest: if nobody knows whether it is there, the store is read-only at once. */
static void test_manifest_failed(void **unused)
{
    (void)unused;
    struct env *env = env_sim_new(1);
    struct lsm *db = open_store(env, LSM_CREATE);
    uint8_t value[8192] = {1};
    put(db, "small", 10, 1);
    env_sim_hook(env, fail_directory, NULL);
    assert_int_equal(lsm_put(db, "large", 5, value, sizeof value, 0), -EIO);
    env_sim_hook(env, NULL, NULL);
    assert_int_not_equal(lsm_put(db, "later", 5, value, 10, 0), 0);
    check(db, "small", NULL, 10, 1);
    (void)lsm_close(db);
    db = open_store(env, 0);
    check(db, "small", NULL, 10, 1);
    put(db, "large", 8192, 2);
    assert_int_equal(lsm_close(db), 0);
    env_sim_free(env);
}

/* What newer tables hide in blob files makes a purge worth it, but takes nothing off the table that is left. */
static void test_purge_counts(void **unused)
{
    (void)unused;
    struct table_file f = {.meta.bytes = 3000};
    struct table_file *inputs[1] = {&f};
    struct compaction c = {.inputs = {inputs}, .count = {1}, .purge = true};
    compaction_looked(&c, SEQ_MAX, 2000, 500, 64u * KIB * 20);
    assert_int_equal(f.hidden_bytes, 500 + 64u * KIB * 20);
    assert_int_equal(f.kept_bytes, 2250);
    compaction_looked(&c, SEQ_MAX, 2000, 2000, 64u * KIB * 80);
    assert_int_equal(f.kept_bytes, 0);
}

/* Without a manifest blob files are found by their headers. */
static void test_rebuild(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    struct lsm_options o = options_of(env, 0);
    struct lsm_repaired repaired;
    struct env_file *f;
    put(db, "a", 60000, 1);
    put(db, "b", 60000, 2);
    put(db, "c", 10, 3);
    assert_int_equal(lsm_compact(db), 0);
    assert_int_equal(lsm_close(db), 0);
    assert_int_equal(env_open(env, "/s/MANIFEST", ENV_READ | ENV_WRITE, &f), 0);
    assert_int_equal(env_pwrite(f, "damaged", 7, 0), 0);
    env_close(f);
    assert_int_equal(lsm_repair("/s", &o, note_problem, NULL, &repaired), 0);
    assert_true(repaired.rebuilt);
    assert_int_equal(repaired.keys_saved, 3);
    db = open_store(env, 0);
    check(db, "a", NULL, 60000, 1);
    check(db, "b", NULL, 60000, 2);
    check(db, "c", NULL, 10, 3);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* ---- threads ---- */

#define WRITERS 2u
#define WRITES 400u
#define SLOTS 12u
#define SLOT_BYTES 9000u

struct worker {
    struct lsm *db;
    unsigned index;
    bool *stop;
    pthread_t thread;
};

static void make_slot(uint8_t value[SLOT_BYTES], unsigned slot, unsigned round)
{
    memset(value, (int)(slot * 16 + round % 16), SLOT_BYTES);
    put_le32(value, round);
}

static void *write_slots(void *arg)
{
    struct worker *w = arg;
    uint8_t value[SLOT_BYTES];
    for (unsigned i = 0; i < WRITES; i++) {
        uint8_t key[2] = {(uint8_t)w->index, (uint8_t)(i % SLOTS)};
        make_slot(value, i % SLOTS, i);
        int err = lsm_put(w->db, key, 2, value, sizeof value, i % 50 == 49 ? LSM_SYNC : LSM_NOWAIT);
        if (err == -EAGAIN)
            err = lsm_put(w->db, key, 2, value, sizeof value, 0);
        assert_int_equal(err, 0);
    }
    return NULL;
}

/* Whatever is read was written so as a whole. */
static void *read_slots(void *arg)
{
    struct worker *w = arg;
    uint8_t expected[SLOT_BYTES];
    for (unsigned i = 0; !__atomic_load_n(w->stop, __ATOMIC_RELAXED); i++) {
        uint8_t key[2] = {(uint8_t)(i % WRITERS), (uint8_t)(i / WRITERS % SLOTS)};
        struct lsm_value v;
        int err = lsm_get(w->db, key, 2, NULL, 0, &v);
        if (err == -ENOENT)
            continue;
        assert_int_equal(err, 0);
        assert_int_equal(v.len, SLOT_BYTES);
        make_slot(expected, key[1], get_le32(v.data));
        assert_memory_equal(v.data, expected, SLOT_BYTES);
        lsm_value_release(&v);
        if (i % 100)
            continue;
        struct lsm_iter *it;
        assert_int_equal(lsm_iter_new(w->db, NULL, &it), 0);
        for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it)) {
            size_t len;
            const uint8_t *value = lsm_iter_value(it, &len);
            assert_int_equal(len, SLOT_BYTES);
            assert_int_equal(value[4], value[SLOT_BYTES - 1]);
        }
        assert_int_equal(lsm_iter_status(it), 0);
        lsm_iter_free(it);
    }
    return NULL;
}

/* Writers, readers, syncs, and the shards' threads that flush, collect and forget under them. */
static void test_threads(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm_options o = options_of(env, LSM_CREATE);
    struct worker writers[WRITERS], reader;
    struct lsm *db;
    bool stop = false;
    o.flags = LSM_CREATE;
    o.shards = 2;
    o.commit_ms = 5;
    assert_int_equal(lsm_open("/s", &o, &db), 0);
    reader = (struct worker){.db = db, .stop = &stop};
    assert_int_equal(pthread_create(&reader.thread, NULL, read_slots, &reader), 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct worker){.db = db, .index = i};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_slots, &writers[i]), 0);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
    assert_int_equal(lsm_compact(db), 0);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    assert_int_equal(pthread_join(reader.thread, NULL), 0);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

static struct lsm_ref ref_of(struct lsm *db, const char *key)
{
    struct lsm_iter_options o = {.flags = LSM_KEYS};
    struct lsm_iter *it;
    struct lsm_ref ref = {0};
    size_t len;
    assert_int_equal(lsm_iter_new(db, &o, &it), 0);
    lsm_iter_seek(it, key, strlen(key));
    assert_true(lsm_iter_valid(it) && lsm_iter_ref(it, &ref));
    assert_memory_equal(lsm_iter_key(it, &len), key, strlen(key));
    assert_null(lsm_iter_value(it, &len));
    assert_int_equal(lsm_iter_load(it), 0);
    assert_non_null(lsm_iter_value(it, &len));
    lsm_iter_free(it);
    return ref;
}

static int put_part(struct lsm *db, const char *key, const struct lsm_ref *ref, size_t from, size_t len)
{
    struct lsm_batch *b;
    assert_int_equal(lsm_batch_new(&b), 0);
    lsm_batch_put_part(b, key, strlen(key), ref, from, len);
    int err = lsm_commit(db, b, 0);
    lsm_batch_free(b);
    return err;
}

static void check_part(struct lsm *db, const char *key, size_t len, unsigned seed, size_t from)
{
    struct lsm_value v;
    uint8_t *value = malloc(from + len);
    assert_non_null(value);
    fill(value, from + len, seed);
    assert_int_equal(lsm_get(db, key, strlen(key), NULL, 0, &v), 0);
    assert_int_equal(v.len, len);
    assert_memory_equal(v.data, value + from, len);
    lsm_value_release(&v);
    free(value);
}

/* Parts of values under other keys; where they lie is kept while anything names it, and moved with them. */
static void test_parts(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    char key[16];
    for (unsigned i = 0; i < 40; i++) {
        (void)snprintf(key, sizeof key, "k%02u", i);
        put(db, key, 40000, i);
    }
    struct lsm_ref whole = ref_of(db, "k00"), part;
    assert_int_equal(put_part(db, "a", &whole, 0, 0), -EINVAL);
    assert_int_equal(put_part(db, "a", &whole, 1, 40000), -EINVAL);
    assert_int_equal(put_part(db, "a", &whole, 40001, 1), -EINVAL);
    uint64_t before = shard_stats(db).blob_bytes;
    assert_int_equal(put_part(db, "a", &whole, 20000, 20000), 0);
    part = ref_of(db, "a"); /* a part of a part */
    assert_int_equal(put_part(db, "b", &part, 17, 100), 0);
    assert_int_equal(put_part(db, "k00", &whole, 0, 39999), 0); /* the value itself, cut */
    for (unsigned round = 0; round < 3; round++) {
        assert_int_equal(shard_stats(db).blob_bytes, before);
        check_part(db, "a", 20000, 0, 20000);
        check_part(db, "b", 100, 0, 20017);
        check_part(db, "k00", 39999, 0, 0);
        if (round == 0)
            assert_int_equal(lsm_flush(db), 0);
        assert_int_equal(lsm_close(db), 0);
        db = open_store(env, 0);
    }

    /* The file is collected, after a record that is in no table has named it once more: it must outlive what was moved. */
    whole = ref_of(db, "k00");
    for (unsigned i = 1; i < 40; i++) {
        (void)snprintf(key, sizeof key, "k%02u", i);
        assert_int_equal(lsm_delete(db, key, strlen(key), 0), 0);
    }
    assert_int_equal(lsm_flush(db), 0);
    assert_int_equal(put_part(db, "c", &whole, 5, 30000), 0);
    for (unsigned i = 0; i < 30; i++) { /* fills and closes files */
        (void)snprintf(key, sizeof key, "m%02u", i);
        put(db, key, 40000, i);
        work(db);
        check_part(db, "c", 30000, 0, 5);
    }
    assert_int_equal(lsm_close(db), 0);
    db = open_store(env, 0);
    check_part(db, "c", 30000, 0, 5);
    assert_int_equal(lsm_compact(db), 0);
    work(db);
    check_part(db, "a", 20000, 0, 20000);
    check_part(db, "b", 100, 0, 20017);
    check_part(db, "c", 30000, 0, 5);

    /* Once nothing names it, it goes, and with it what the reference meant. */
    for (const char *k = "abc"; *k; k++)
        assert_int_equal(lsm_delete(db, k, 1, 0), 0);
    assert_int_equal(lsm_delete(db, "k00", 3, 0), 0);
    assert_int_equal(lsm_compact(db), 0);
    work(db);
    assert_int_equal(put_part(db, "d", &whole, 0, 10), -ESTALE);
    assert_int_equal(put_part(db, "d", &part, 0, 10), -ESTALE);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* What is written once and never overwritten is not moved: while some of a file's values are in no table yet it looks emptier than it is. */
static void test_written_once(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct lsm *db = open_store(env, LSM_CREATE);
    char key[16];
    for (unsigned i = 0; i < 200; i++) {
        (void)snprintf(key, sizeof key, "k%03u", i);
        put(db, key, 40000, i);
        work(db);
        if (i % 50 == 49) {
            assert_int_equal(lsm_close(db), 0);
            db = open_store(env, 0);
            work(db);
        }
        assert_int_equal(shard_stats(db).blob_bytes_moved, 0);
    }
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pointer),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_lent),
        cmocka_unit_test(test_batch_replayed),
        cmocka_unit_test(test_nowait),
        cmocka_unit_test(test_places_given_back),
        cmocka_unit_test(test_collection),
        cmocka_unit_test(test_readers),
        cmocka_unit_test(test_scattered_deletes),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_damage_below_a_mark),
        cmocka_unit_test(test_rebuild),
        cmocka_unit_test(test_missing_at_recovery),
        cmocka_unit_test(test_read_error_at_recovery),
        cmocka_unit_test(test_manifest_failed),
        cmocka_unit_test(test_purge_counts),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_written_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
