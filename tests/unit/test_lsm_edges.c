/*
 * test_lsm_edges.c - an open store where it is narrow: full disks and failing ones, a process that dies
 * in the middle, waiting writers, many threads without background threads, odd sizes and odd openings.
 *
 * Everything goes through an env over memory that asks a rule before each call that changes something,
 * and that can die: from then on no call changes anything, and the next open finds what there was.
 */
#include <shale/lsm.h>

#include "coding.h"
#include "env.h"

#include <errno.h>
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

#include "rules_env.h"

#define KIB 1024u
#define MIB (1024u * 1024u)

/* ---- a store over it ---- */

static uint64_t seed;

static uint64_t rnd(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t route_first_byte(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len ? *(const uint8_t *)key : 0;
}

/* le64s add up; a sum of zero is nothing at all. */
static size_t sum_merge(void *arg, const void *base, size_t base_len, bool base_is_operand,
                        const void *operand, size_t operand_len, void *out)
{
    (void)arg, (void)base_is_operand;
    uint64_t v = (operand_len ? get_le64(operand) : 0) + (base_len ? get_le64(base) : 0);
    if (!v)
        return 0;
    put_le64(out, v);
    return 8;
}

static void log_line(void *arg, enum lsm_log_level level, const char *message)
{
    (void)arg;
    if (level <= LSM_LOG_WARNING && getenv("SHALE_TEST_LOG"))
        printf("engine: %s\n", message);
}

struct store {
    struct rules rules;
    struct lsm_options options;
    struct lsm *db;
};

static void store_init(struct store *s, unsigned flags)
{
    memset(s, 0, sizeof *s);
    rules_init(&s->rules);
    s->options = (struct lsm_options){
        .flags = LSM_CREATE | flags,
        .shards = 2,
        .memory_bytes = 8 * MIB,
        .write_buffer_bytes = 64 * KIB,
        .table_bytes = 64 * KIB,
        .block_bytes = KIB,
        .log_segment_bytes = MIB,
        .commit_ms = 10000,
        .merge = sum_merge,
        .route = route_first_byte,
        .log = log_line,
        .env = &s->rules.base,
    };
}

static void open_store(struct store *s) { assert_int_equal(lsm_open("/store", &s->options, &s->db), 0); }

static struct store *new_store(unsigned flags)
{
    struct store *s = calloc(1, sizeof *s);
    assert_non_null(s);
    store_init(s, flags);
    open_store(s);
    return s;
}

static void free_store(struct store *s)
{
    env_mem_free(s->rules.inner);
    free(s);
}

/* The process dies: nothing it does from now on changes the disk. */
static void die(struct store *s)
{
    __atomic_store_n(&s->rules.dead, true, __ATOMIC_RELAXED);
    (void)lsm_close(s->db);
    __atomic_store_n(&s->rules.die_at, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&s->rules.dead, false, __ATOMIC_RELAXED);
}

/* Keys of shard `shard`; values of a kind that a number determines. */
static size_t make_key(uint8_t *key, unsigned shard, unsigned n)
{
    key[0] = (uint8_t)shard;
    return 1 + (size_t)sprintf((char *)key + 1, "%08u", n);
}

static int put(struct store *s, unsigned shard, unsigned n, size_t len)
{
    uint8_t key[16];
    size_t key_len = make_key(key, shard, n);
    uint8_t *value = malloc(len + 8);
    assert_non_null(value);
    memset(value, (int)(n * 31 + shard), len + 8);
    put_le64(value, n);
    int err = lsm_put(s->db, key, key_len, value, len, 0);
    free(value);
    return err;
}

static int get(struct store *s, unsigned shard, unsigned n)
{
    uint8_t key[16];
    struct lsm_value v;
    size_t key_len = make_key(key, shard, n);
    int err = lsm_get(s->db, key, key_len, NULL, 0, &v);
    if (!err && v.len >= 8)
        assert_int_equal(get_le64(v.data), n);
    lsm_value_release(&v);
    return err;
}

static uint64_t now_ms(void) { return env_mono_ns(env_posix()) / 1000000; }

static struct lsm_stats *stats(struct store *s)
{
    static struct lsm_stats st;
    lsm_stats_get(s->db, &st);
    return &st;
}

/* ---- rules ---- */

static int no_space(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r, (void)name, (void)offset;
    return op == OP_CREATE || op == OP_ALLOCATE || (op == OP_WRITE && !is_kind(name, ".log")) ? -ENOSPC : 0;
}

static int no_tables(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r, (void)offset;
    return op == OP_CREATE && is_kind(name, ".sst") ? -ENOSPC : 0;
}

static int no_segments(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r, (void)offset;
    return (op == OP_CREATE || op == OP_ALLOCATE) && is_kind(name, ".log") ? -ENOSPC : 0;
}

/* Memtables of 64 KiB make smaller tables than this, compactions larger ones. */
static int no_large_tables(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r;
    return op == OP_WRITE && is_kind(name, ".sst") && offset >= 128 * KIB ? -ENOSPC : 0;
}

static int bad_large_tables(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    int rc = no_large_tables(r, op, name, offset);
    if (rc)
        __atomic_add_fetch(&r->hits, 1, __ATOMIC_RELAXED);
    return rc ? -EIO : 0;
}

static int bad_log_sync(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r, (void)offset;
    return op == OP_SYNC && is_kind(name, ".log") ? -EIO : 0;
}

static int bad_rename(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)name, (void)offset;
    if (op == OP_RENAME)
        __atomic_add_fetch(&r->hits, 1, __ATOMIC_RELAXED);
    return op == OP_RENAME ? -EIO : 0;
}

static int no_tables_in_shard_0(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    /* With LSM_INLINE shard 0 is worked on first: its flush is the first creation of each round. */
    (void)offset;
    if (op != OP_CREATE || !is_kind(name, ".sst"))
        return 0;
    return __atomic_fetch_add(&r->hits, 1, __ATOMIC_RELAXED) == 0 ? -ENOSPC : 0;
}

/* The call number fail_call of those that change something fails, once. */
static int fail_one(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)name, (void)offset;
    if (op == OP_READ || (r->fail_error == -ENOSPC && op != OP_CREATE && op != OP_WRITE && op != OP_ALLOCATE))
        return 0;
    if (r->fail_error == -ENOSPC && op == OP_WRITE && is_kind(name, ".log"))
        return 0; /* preallocated */
    return __atomic_add_fetch(&r->hits, 1, __ATOMIC_RELAXED) == r->fail_call ? r->fail_error : 0;
}

static int no_reading(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)offset;
    if (op != OP_READ || !is_kind(name, ".sst"))
        return 0;
    return __atomic_add_fetch(&r->hits, 1, __ATOMIC_RELAXED) % 3 == 0 ? -EIO : 0;
}

/* ---- the log and what pins it ---- */

/* A batch larger than a memtable, as the first thing in a shard, must pin the log as any other. */
static void test_batch_larger_than_memtable(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    assert_int_equal(put(s, 0, 1, 200 * KIB), 0);
    for (unsigned i = 0; i < 400; i++)
        assert_int_equal(put(s, 1, i, 2000), 0);
    assert_true(stats(s)->shard[1].flushes > 0);
    die(s);
    open_store(s);
    assert_int_equal(get(s, 0, 1), 0);
    for (unsigned i = 0; i < 400; i++)
        assert_int_equal(get(s, 1, i), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

static void test_flush_after_large_batch(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    assert_int_equal(put(s, 0, 1, 200 * KIB), 0);
    assert_int_equal(lsm_flush(s->db), 0);
    assert_int_equal(stats(s)->shard[0].files[0], 1);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* Short openings, each with a small change: their segments must not pile up. */
static void test_many_short_openings(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    s->options.log_budget_bytes = 4 * MIB;
    for (unsigned i = 0; i < 60; i++) {
        assert_int_equal(put(s, i % 2, i, 100), 0);
        assert_int_equal(lsm_close(s->db), 0);
        open_store(s);
        assert_true(stats(s)->log_segments <= 10);
    }
    for (unsigned i = 0; i < 60; i++)
        assert_int_equal(get(s, i % 2, i), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* ---- no space ---- */

/* Writes until it fails, which it must soon. */
static unsigned fill(struct store *s, unsigned n)
{
    uint64_t began = now_ms();
    int err;
    while ((err = put(s, n % 2, n, 1000)) == 0 && n < 1000000)
        n++;
    assert_int_equal(err, -ENOSPC);
    assert_true(now_ms() - began < 8000);
    return n;
}

static void full_disk(unsigned flags)
{
    struct store *s = new_store(flags);
    unsigned n = 0;
    for (unsigned round = 0; round < 3; round++) {
        set_rule(&s->rules, round % 2 ? no_tables : no_space);
        n = fill(s, n);
        uint64_t began = now_ms();
        assert_int_equal(put(s, n % 2, n, 1000), -ENOSPC);
        assert_true(now_ms() - began < 1500);
        assert_int_equal(lsm_flush(s->db), -ENOSPC);
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(get(s, i % 2, i), 0);
        /* Space is back: no call may fail for what was. */
        set_rule(&s->rules, NULL);
        if (round % 2)
            assert_int_equal(lsm_flush(s->db), 0);
        for (unsigned i = 0; i < 300; i++, n++)
            assert_int_equal(put(s, n % 2, n, 1000), 0);
        assert_int_equal(lsm_flush(s->db), 0);
        assert_int_equal(lsm_compact(s->db), 0);
        assert_false(stats(s)->read_only);
    }
    die(s);
    open_store(s);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(get(s, i % 2, i), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

static void test_full_disk_inline(void **unused)
{
    (void)unused;
    full_disk(LSM_INLINE);
}

static void test_full_disk_with_threads(void **unused)
{
    (void)unused;
    full_disk(0);
}

/* No space for another segment, but for tables: what is flushed gives its segments back. */
static void no_new_segment(unsigned flags)
{
    struct store *s = new_store(flags);
    s->options.write_buffer_bytes = 4 * MIB;
    s->options.log_budget_bytes = 64 * MIB;
    assert_int_equal(lsm_close(s->db), 0);
    open_store(s);
    for (unsigned i = 0; i < 2500; i++) /* more than two segments */
        assert_int_equal(put(s, i % 2, i, 1000), 0);
    set_rule(&s->rules, no_segments);
    for (unsigned i = 2500; i < 8000; i++)
        assert_int_equal(put(s, i % 2, i, 1000), 0);
    set_rule(&s->rules, NULL);
    die(s);
    open_store(s);
    for (unsigned i = 0; i < 8000; i++)
        assert_int_equal(get(s, i % 2, i), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

static void test_no_new_segment(void **unused)
{
    (void)unused;
    no_new_segment(0);
}

static void test_no_new_segment_inline(void **unused)
{
    (void)unused;
    no_new_segment(LSM_INLINE);
}

/* Opened on a full disk with a log longer than the memtables: it opens, and all is there. */
static void full_disk_open(unsigned flags)
{
    struct store *s = new_store(LSM_INLINE);
    s->options.flags = flags;
    set_rule(&s->rules, no_tables);
    unsigned n = fill(s, 0);
    die(s);
    s->options.write_buffer_bytes = 32 * KIB;
    open_store(s);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(get(s, i % 2, i), 0);
    assert_int_equal(lsm_flush(s->db), -ENOSPC);
    set_rule(&s->rules, NULL);
    assert_int_equal(lsm_flush(s->db), 0);
    assert_int_equal(put(s, 0, n, 1000), 0);
    assert_int_equal(lsm_close(s->db), 0);
    open_store(s);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(get(s, i % 2, i), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

static void test_open_on_full_disk(void **unused)
{
    (void)unused;
    full_disk_open(0);
    full_disk_open(LSM_INLINE);
}

/* Compactions that find no space are no reason for flushes and writers to fail. */
static void test_compaction_without_space(void **unused)
{
    (void)unused;
    struct store *s = new_store(0);
    s->options.table_bytes = 4 * MIB;
    s->options.compression = LSM_COMPRESSION_NONE; /* the rule goes by the size of tables */
    assert_int_equal(lsm_close(s->db), 0);
    open_store(s);
    set_rule(&s->rules, no_large_tables);
    unsigned n = 0;
    for (unsigned round = 0; round < 9; round++) {
        for (unsigned i = 0; i < 50; i++, n++)
            assert_int_equal(put(s, 0, n * 7919 % 100000, 1000), 0);
        assert_int_equal(lsm_flush(s->db), 0);
    }
    assert_int_equal(lsm_compact(s->db), -ENOSPC);
    set_rule(&s->rules, NULL);
    assert_int_equal(lsm_compact(s->db), 0);
    assert_int_equal(stats(s)->shard[0].files[0], 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* A full disk at close: all is durable, only a hint could not be written. */
static void test_close_on_full_disk(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    assert_int_equal(put(s, 0, 1, 100), 0);
    set_rule(&s->rules, no_space);
    assert_int_equal(lsm_close(s->db), 0);
    set_rule(&s->rules, NULL);
    open_store(s);
    assert_int_equal(get(s, 0, 1), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* ---- bad media ---- */

/* An output that can't be written is not a damaged input: compaction goes on once it can. */
static void test_bad_output(void **unused)
{
    (void)unused;
    struct store *s = new_store(0);
    s->options.table_bytes = 4 * MIB;
    s->options.compression = LSM_COMPRESSION_NONE; /* the rule goes by the size of tables */
    assert_int_equal(lsm_close(s->db), 0);
    open_store(s);
    set_rule(&s->rules, bad_large_tables);
    for (unsigned n = 0; n < 500; n++) {
        assert_int_equal(put(s, 0, n * 7919 % 100000, 1000), 0);
        if (n % 50 == 49)
            assert_int_equal(lsm_flush(s->db), 0);
    }
    assert_int_equal(lsm_compact(s->db), -EIO);
    assert_true(__atomic_load_n(&s->rules.hits, __ATOMIC_RELAXED) > 0);
    assert_false(stats(s)->read_only);
    set_rule(&s->rules, NULL);
    assert_int_equal(lsm_compact(s->db), 0);
    assert_int_equal(stats(s)->shard[0].files[0], 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* The manifest is replaced while an edit is installed, and that fails: read-only, not dead. */
static void test_bad_rollover(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    uint8_t *key = malloc(LSM_KEY_MAX);
    assert_non_null(key);
    set_rule(&s->rules, bad_rename);
    int err = 0;
    for (unsigned n = 0; !err && n < 4000; n++) {
        memset(key, 'k', LSM_KEY_MAX);
        put_le32(key + LSM_KEY_MAX - 4, n);
        key[0] = 0;
        err = lsm_put(s->db, key, LSM_KEY_MAX, "v", 1, 0);
        if (!err)
            err = lsm_flush(s->db);
    }
    assert_true(__atomic_load_n(&s->rules.hits, __ATOMIC_RELAXED) > 0);
    assert_int_equal(err, -EROFS);
    assert_int_equal(lsm_put(s->db, "a", 1, "v", 1, 0), -EROFS);
    struct lsm_value v;
    memset(key, 'k', LSM_KEY_MAX);
    put_le32(key + LSM_KEY_MAX - 4, 0);
    key[0] = 0;
    assert_int_equal(lsm_get(s->db, key, LSM_KEY_MAX, NULL, 0, &v), 0);
    lsm_value_release(&v);
    assert_true(lsm_close(s->db) < 0);
    set_rule(&s->rules, NULL);
    open_store(s);
    assert_int_equal(lsm_get(s->db, key, LSM_KEY_MAX, NULL, 0, &v), 0);
    lsm_value_release(&v);
    assert_int_equal(lsm_close(s->db), 0);
    free(key);
    free_store(s);
}

/* P6: a failed sync is final; reads, iterators and snapshots go on. */
static void failed_sync(unsigned flags)
{
    struct store *s = new_store(flags);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(put(s, i % 2, i, 1000), 0);
    assert_int_equal(lsm_sync(s->db), 0);
    set_rule(&s->rules, bad_log_sync);
    assert_int_equal(put(s, 0, 1000, 100), 0);
    assert_int_equal(lsm_sync(s->db), -EIO);
    set_rule(&s->rules, NULL);
    assert_int_equal(lsm_sync(s->db), -EIO);
    assert_int_equal(put(s, 0, 1001, 100), -EROFS);
    assert_int_equal(lsm_flush(s->db), -EROFS);
    assert_int_equal(lsm_compact(s->db), -EROFS);
    assert_true(stats(s)->read_only);
    assert_int_equal(stats(s)->failed, -EIO);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(get(s, i % 2, i), 0);
    struct lsm_snapshot *snapshot;
    struct lsm_iter *it;
    unsigned seen = 0;
    assert_int_equal(lsm_snapshot_new(s->db, &snapshot), 0);
    assert_int_equal(lsm_iter_new(s->db, &(struct lsm_iter_options){.snapshot = snapshot}, &it), 0);
    for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it))
        seen++;
    assert_int_equal(lsm_iter_status(it), 0);
    assert_int_equal(seen, 201);
    lsm_iter_free(it);
    lsm_snapshot_free(s->db, snapshot);
    assert_int_equal(lsm_close(s->db), -EIO);
    open_store(s);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(get(s, i % 2, i), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

static void test_failed_sync(void **unused)
{
    (void)unused;
    failed_sync(0);
    failed_sync(LSM_INLINE);
}

/* One shard's trouble must not keep the others from their work. */
static void test_work_of_other_shards(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    for (unsigned i = 0; i < 120; i++) { /* one memtable each is sealed, no more */
        assert_int_equal(put(s, 0, i, 1000), 0);
        assert_int_equal(put(s, 1, i, 1000), 0);
    }
    assert_true(stats(s)->shard[0].sealed_memtables > 0 && stats(s)->shard[1].sealed_memtables > 0);
    set_rule(&s->rules, no_tables_in_shard_0);
    assert_int_equal(lsm_work(s->db), 1);
    assert_int_equal(stats(s)->shard[1].flushes, 1);
    set_rule(&s->rules, NULL);
    while (lsm_work(s->db) > 0)
        ;
    assert_int_equal(stats(s)->shard[0].sealed_memtables, 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* ---- threads ---- */

struct writer {
    struct store *s;
    unsigned index, count;
    bool stop; /* atomic */
    int err;
};

static void *write_many(void *arg)
{
    struct writer *w = arg;
    for (unsigned i = 0; i < w->count && !w->err && !__atomic_load_n(&w->stop, __ATOMIC_RELAXED); i++)
        w->err = put(w->s, i % 2, w->index * 100000 + i % 3000, 500);
    return NULL;
}

static void test_threads_without_background(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    struct writer w[4] = {0};
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++) {
        w[i] = (struct writer){.s = s, .index = i, .count = 3000};
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, &w[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        (void)lsm_work(s->db);
        pthread_join(threads[i], NULL);
        assert_int_equal(w[i].err, 0);
    }
    for (unsigned i = 0; i < 4; i++)
        for (unsigned k = 0; k < 3000; k++)
            assert_int_equal(get(s, k % 2, i * 100000 + k), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

static int slow_large_tables(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r;
    if (op == OP_WRITE && is_kind(name, ".sst") && offset >= 128 * KIB)
        usleep(20000);
    return 0;
}

/* lsm_flush and lsm_compact are about what was there when they were called. */
static void test_compact_beside_writers(void **unused)
{
    (void)unused;
    struct store *s = new_store(0);
    s->options.table_bytes = 16 * MIB;
    assert_int_equal(lsm_close(s->db), 0);
    open_store(s);
    for (unsigned i = 0; i < 2000; i++)
        assert_int_equal(put(s, i % 2, i, 1000), 0);
    set_rule(&s->rules, slow_large_tables);
    struct writer w[2] = {0};
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++) {
        w[i] = (struct writer){.s = s, .index = i, .count = UINT32_MAX};
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, &w[i]), 0);
    }
    uint64_t began = now_ms();
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(lsm_flush(s->db), 0);
    assert_int_equal(lsm_compact(s->db), 0);
    uint64_t took = now_ms() - began;
    set_rule(&s->rules, NULL);
    for (unsigned i = 0; i < 2; i++)
        __atomic_store_n(&w[i].stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(w[i].err, 0);
    }
    assert_true(took < 30000);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* A writer that needs room gets it from the flush inside a compaction that takes long. */
static void test_flush_inside_compaction(void **unused)
{
    (void)unused;
    struct store *s = new_store(0);
    s->options.table_bytes = 16 * MIB;
    assert_int_equal(lsm_close(s->db), 0);
    open_store(s);
    for (unsigned i = 0; i < 6000; i++)
        assert_int_equal(put(s, 0, i, 1000), 0);
    set_rule(&s->rules, slow_large_tables);
    uint64_t slowest = 0;
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t began = now_ms();
        assert_int_equal(put(s, 0, i * 2, 1000), 0);
        uint64_t took = now_ms() - began;
        slowest = took > slowest ? took : slowest;
    }
    set_rule(&s->rules, NULL);
    assert_true(slowest < 900);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

static void test_nowait(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    assert_int_equal(lsm_put(s->db, "a", 1, "v", 1, LSM_NOWAIT | LSM_SYNC), -EAGAIN);
    struct lsm_value v;
    assert_int_equal(lsm_get(s->db, "a", 1, NULL, 0, &v), -ENOENT);
    /* Nothing flushes: at some point there is no room, and nothing of that batch is visible. */
    int err = 0;
    unsigned n = 0;
    for (; !err; n++) {
        uint8_t key[16], value[1000] = {0};
        size_t len = make_key(key, 0, n);
        put_le64(value, n);
        err = lsm_put(s->db, key, len, value, sizeof value, LSM_NOWAIT);
    }
    assert_int_equal(err, -EAGAIN);
    assert_int_equal(get(s, 0, n - 1), -ENOENT);
    assert_int_equal(get(s, 0, n - 2), 0);
    assert_int_equal(lsm_work(s->db), 1);
    assert_int_equal(lsm_put(s->db, "\0x", 2, "v", 1, LSM_NOWAIT), 0);
    /* Nobody else makes room in memtables and log. */
    for (unsigned i = 0; i < 5000; i++) {
        uint8_t key[16], value[1000] = {0};
        size_t len = make_key(key, 0, i);
        put_le64(value, i);
        while ((err = lsm_put(s->db, key, len, value, sizeof value, LSM_NOWAIT)) == -EAGAIN)
            assert_int_equal(lsm_work(s->db), 1);
        assert_int_equal(err, 0);
    }
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* ---- merge ---- */

static void merge_one(struct store *s, uint64_t n)
{
    struct lsm_batch *b;
    uint8_t operand[8];
    put_le64(operand, n);
    assert_int_equal(lsm_batch_new(&b), 0);
    lsm_batch_merge(b, "\0k", 2, operand, 8);
    assert_int_equal(lsm_commit(s->db, b, 0), 0);
    lsm_batch_free(b);
}

static void check_sum(struct store *s, const struct lsm_snapshot *snapshot, uint64_t sum)
{
    struct lsm_value v;
    assert_int_equal(lsm_get(s->db, "\0k", 2, snapshot, 0, &v), 0);
    assert_int_equal(v.len, sum ? 8 : 0);
    if (sum)
        assert_int_equal(get_le64(v.data), sum);
    lsm_value_release(&v);
    for (int backward = 0; backward < 2; backward++) {
        struct lsm_iter *it;
        size_t len;
        assert_int_equal(lsm_iter_new(s->db, &(struct lsm_iter_options){.snapshot = snapshot}, &it), 0);
        (backward ? lsm_iter_seek_prev : lsm_iter_seek)(it, "\0k", 2);
        assert_true(lsm_iter_valid(it));
        const void *value = lsm_iter_value(it, &len);
        assert_int_equal(len, sum ? 8 : 0);
        if (sum)
            assert_int_equal(get_le64(value), sum);
        lsm_iter_free(it);
    }
}

/* Operands that fold to nothing, with snapshots between, in memtables, in tables, at the bottom. */
static void test_merge_to_nothing(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    struct lsm_snapshot *snapshot[3];
    for (unsigned round = 0; round < 4; round++) {
        assert_int_equal(lsm_delete(s->db, "\0k", 2, 0), 0);
        assert_int_equal(lsm_flush(s->db), 0);
        for (unsigned i = 0; i < 3; i++) {
            merge_one(s, i == 1 ? (uint64_t)-7 : 7); /* 7, 0, 7 */
            assert_int_equal(lsm_snapshot_new(s->db, &snapshot[i]), 0);
            if (round == 1)
                assert_int_equal(lsm_flush(s->db), 0);
        }
        for (unsigned i = 0; i < 3; i++)
            check_sum(s, snapshot[i], i == 1 ? 0 : 7);
        if (round == 2)
            assert_int_equal(lsm_flush(s->db), 0);
        if (round == 3)
            assert_int_equal(lsm_compact(s->db), 0);
        for (unsigned i = 0; i < 3; i++) {
            check_sum(s, snapshot[i], i == 1 ? 0 : 7);
            lsm_snapshot_free(s->db, snapshot[i]);
        }
        assert_int_equal(lsm_compact(s->db), 0);
        check_sum(s, NULL, 7);
    }
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* A tool that does not know how to fold gets an error for what must be folded, and the rest. */
static void test_operands_without_merge(void **unused)
{
    (void)unused;
    struct store *s = new_store(LSM_INLINE);
    assert_int_equal(put(s, 0, 1, 100), 0);
    struct lsm_snapshot *snapshot;
    merge_one(s, 1);
    assert_int_equal(lsm_snapshot_new(s->db, &snapshot), 0);
    merge_one(s, 2);
    assert_int_equal(lsm_flush(s->db), 0);
    lsm_snapshot_free(s->db, snapshot);
    assert_int_equal(lsm_close(s->db), 0);
    s->options.merge = NULL;
    open_store(s);
    struct lsm_value v;
    struct lsm_iter *it;
    assert_int_equal(lsm_get(s->db, "\0k", 2, NULL, 0, &v), -EINVAL);
    assert_int_equal(get(s, 0, 1), 0);
    assert_int_equal(lsm_iter_new(s->db, NULL, &it), 0);
    lsm_iter_first(it);
    assert_true(lsm_iter_valid(it));
    lsm_iter_next(it);
    assert_false(lsm_iter_valid(it));
    assert_int_equal(lsm_iter_status(it), -EINVAL);
    lsm_iter_last(it);
    assert_false(lsm_iter_valid(it));
    assert_int_equal(lsm_iter_status(it), -EINVAL);
    lsm_iter_free(it);
    assert_int_equal(lsm_compact(s->db), 0);
    assert_int_equal(lsm_close(s->db), 0);
    s->options.merge = sum_merge;
    open_store(s);
    check_sum(s, NULL, 3);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* ---- opening ---- */

static void test_odd_openings(void **unused)
{
    (void)unused;
    struct store *s = calloc(1, sizeof *s);
    assert_non_null(s);
    store_init(s, LSM_INLINE);
    struct lsm *db;
    /* Refused, with nothing left behind. */
    s->options.log_segment_bytes = (size_t)8 << 30;
    assert_int_equal(lsm_open("/store", &s->options, &db), -EINVAL);
    s->options.log_segment_bytes = MIB;
    s->options.flags = LSM_RDONLY | LSM_CREATE;
    assert_int_equal(lsm_open("/store", &s->options, &db), -ENOENT);
    s->options.flags = LSM_CREATE | LSM_INLINE;
    open_store(s);
    die(s); /* fresh and empty */
    s->options.flags = LSM_RDONLY;
    open_store(s);
    assert_int_equal(get(s, 0, 1), -ENOENT);
    struct lsm_iter *it;
    assert_int_equal(lsm_iter_new(s->db, NULL, &it), 0);
    lsm_iter_last(it);
    assert_false(lsm_iter_valid(it));
    assert_int_equal(lsm_iter_status(it), 0);
    lsm_iter_free(it);
    assert_int_equal(lsm_flush(s->db), -EROFS);
    assert_int_equal(lsm_compact(s->db), -EROFS);
    assert_int_equal(lsm_close(s->db), 0);

    /* A log longer than the memtables, shown read-only; a stranger's file that looks like a log. */
    s->options.flags = LSM_INLINE;
    open_store(s);
    set_rule(&s->rules, no_tables);
    unsigned n = fill(s, 0);
    die(s);
    set_rule(&s->rules, NULL);
    struct env_file *f;
    assert_int_equal(env_open(&s->rules.base, "/store/7.log", ENV_CREATE | ENV_WRITE, &f), 0);
    env_close(f);
    s->options.write_buffer_bytes = 16 * KIB;
    for (unsigned round = 0; round < 2; round++) {
        s->options.flags = round ? LSM_INLINE : LSM_RDONLY;
        uint64_t changes = s->rules.changes;
        open_store(s);
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(get(s, i % 2, i), 0);
        assert_int_equal(lsm_close(s->db), 0);
        assert_true(round || s->rules.changes == changes);
    }
    free_store(s);
}

/* Every call of an opening fails once: an error or an open store, and afterwards all is there. */
static void open_failing(unsigned flags, int error)
{
    struct store *s = new_store(LSM_INLINE);
    s->options.flags = flags;
    set_rule(&s->rules, no_tables);
    unsigned n = fill(s, 0);
    die(s);
    s->options.write_buffer_bytes = 24 * KIB;
    s->rules.fail_error = error;
    unsigned calls = 0;
    for (unsigned call = 1; calls + 1 >= call; call++) {
        s->rules.fail_call = call;
        set_rule(&s->rules, fail_one);
        int err = lsm_open("/store", &s->options, &s->db);
        calls = __atomic_load_n(&s->rules.hits, __ATOMIC_RELAXED);
        set_rule(&s->rules, NULL);
        if (!err) {
            for (unsigned i = 0; i < n; i += 7)
                assert_int_equal(get(s, i % 2, i), 0);
            die(s);
        }
        if (call > 300)
            break;
    }
    open_store(s);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(get(s, i % 2, i), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

static void test_open_failing(void **unused)
{
    (void)unused;
    open_failing(LSM_INLINE, -EIO);
    open_failing(LSM_INLINE, -ENOSPC);
    open_failing(0, -EIO);
    open_failing(0, -ENOSPC);
}

/* Every call of a busy life fails once: what was acknowledged is found, in this life and in the next. */
static bool life_failing(unsigned flags, int error, unsigned call)
{
    struct store *s = new_store(flags);
    bool exists[240] = {0}, tried[240] = {0};
    s->rules.fail_error = error;
    s->rules.fail_call = call;
    set_rule(&s->rules, fail_one);
    int err = 0;
    for (unsigned i = 0; i < 240; i++) {
        unsigned k = i * 7 % 240;
        tried[k] = true;
        err = put(s, k % 2, k, 1000);
        exists[k] = !err;
        if (err == -ENOSPC && put(s, k % 2, k, 1000) == 0) /* was for a moment only */
            exists[k] = true;
        if (i % 40 == 39)
            (void)lsm_flush(s->db);
        if (i % 110 == 109)
            (void)lsm_compact(s->db);
        if (i % 60 == 59)
            (void)lsm_sync(s->db);
    }
    bool failed = __atomic_load_n(&s->rules.hits, __ATOMIC_RELAXED) >= call;
    bool read_only = stats(s)->read_only;
    set_rule(&s->rules, NULL);
    for (unsigned life = 0; life < 2; life++) {
        for (unsigned k = 0; k < 240; k++) {
            int found = get(s, k % 2, k);
            if (found != (exists[k] ? 0 : -ENOENT) && !(found == 0 && tried[k] && life))
                fail_msg("call %u: key %u: %d", call, k, found);
        }
        if (life == 0) {
            assert_true(error != -ENOSPC || !read_only);
            assert_int_equal(lsm_flush(s->db), read_only ? -EROFS : 0);
            die(s);
            open_store(s);
        }
    }
    assert_int_equal(lsm_compact(s->db), 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
    return failed;
}

static void test_life_failing(void **unused)
{
    (void)unused;
    for (unsigned call = 1 + (unsigned)(seed % 4); life_failing(LSM_INLINE, -EIO, call); call += 4)
        ;
    for (unsigned call = 1 + (unsigned)(seed % 4); life_failing(LSM_INLINE, -ENOSPC, call); call += 4)
        ;
    for (unsigned call = 1 + (unsigned)(seed % 11); call < 200 && life_failing(0, -EIO, call); call += 11)
        ;
    for (unsigned call = 1 + (unsigned)(seed % 11); call < 200 && life_failing(0, -ENOSPC, call); call += 11)
        ;
}

/* Tables that can't be read now and then: an error or the right answer, and no error that stays. */
static void test_reads_failing(void **unused)
{
    (void)unused;
    uint64_t state = seed | 1;
    struct store *s = new_store(LSM_INLINE);
    for (unsigned i = 0; i < 600; i++) {
        assert_int_equal(put(s, 0, i, 300), 0);
        if (i % 150 == 149)
            assert_int_equal(i == 299 ? lsm_compact(s->db) : lsm_flush(s->db), 0);
    }
    unsigned errors = 0;
    for (unsigned round = 0; round < 30; round++) {
        struct lsm_iter *it;
        assert_int_equal(lsm_close(s->db), 0); /* empties the cache */
        open_store(s);
        assert_int_equal(lsm_iter_new(s->db, &(struct lsm_iter_options){.flags = LSM_NOFILL}, &it), 0);
        set_rule(&s->rules, no_reading);
        int at = -1;
        for (unsigned step = 0; step < 400; step++) {
            uint8_t key[16];
            int target = (int)(rnd(&state) % 600);
            size_t len = make_key(key, 0, (unsigned)target);
            unsigned what = at < 0 || at >= 600 ? (unsigned)(rnd(&state) % 4) : (unsigned)(rnd(&state) % 16);
            if (what == 0) {
                lsm_iter_seek(it, key, len);
                at = target;
            } else if (what == 1) {
                lsm_iter_seek_prev(it, key, len);
                at = target;
            } else if (what == 2) {
                lsm_iter_first(it);
                at = 0;
            } else if (what == 3) {
                lsm_iter_last(it);
                at = 599;
            } else if (what < 10) {
                lsm_iter_next(it);
                at++;
            } else {
                lsm_iter_prev(it);
                at--;
            }
            if (!lsm_iter_valid(it)) {
                int status = lsm_iter_status(it);
                assert_true(status == -EIO || (status == 0 && (at < 0 || at >= 600)));
                errors += status == -EIO;
                at = -1;
                continue;
            }
            size_t value_len;
            assert_int_equal(lsm_iter_status(it), 0);
            assert_int_equal(get_le64(lsm_iter_value(it, &value_len)), (uint64_t)at);
            int err = get(s, 0, (unsigned)target);
            assert_true(err == 0 || err == -EIO);
        }
        set_rule(&s->rules, NULL);
        lsm_iter_first(it);
        for (unsigned i = 0; i < 600; i++, lsm_iter_next(it))
            assert_true(lsm_iter_valid(it));
        assert_false(lsm_iter_valid(it));
        assert_int_equal(lsm_iter_status(it), 0);
        lsm_iter_free(it);
    }
    assert_true(errors > 0);
    assert_int_equal(lsm_close(s->db), 0);
    free_store(s);
}

/* ---- dying again and again, at every call of recovery ---- */

static void test_dying_in_recovery(void **unused)
{
    (void)unused;
    uint64_t state = seed | 1;
    for (unsigned round = 0; round < 2; round++) {
        struct store *s = new_store(LSM_INLINE);
        s->options.write_buffer_bytes = 32 * KIB;
        unsigned n = 0;
        for (unsigned life = 0; life < 40; life++) {
            for (unsigned i = 0; i < n; i++)
                assert_int_equal(get(s, i % 2, i), 0);
            assert_true(get(s, n % 2, n) == -ENOENT || get(s, n % 2, n) == 0);
            uint64_t die_in = rnd(&state) % (rnd(&state) % 2 ? 40 : 2000);
            __atomic_store_n(&s->rules.die_at, s->rules.changes + die_in + 1, __ATOMIC_RELAXED);
            size_t len = 8 + rnd(&state) % 3000;
            unsigned many = (unsigned)(rnd(&state) % 300);
            for (unsigned i = 0; i < many; i++, n++)
                if (put(s, n % 2, n, rnd(&state) % 50 ? len : 60 * KIB))
                    break;
            die(s);
            /* Recovery dies, too, up to some number of times, each time a little later. */
            unsigned deaths = (unsigned)(rnd(&state) % 30);
            for (unsigned i = 0; i < deaths; i++) {
                __atomic_store_n(&s->rules.die_at, s->rules.changes + 1 + i, __ATOMIC_RELAXED);
                int err = lsm_open("/store", &s->options, &s->db);
                __atomic_store_n(&s->rules.dead, true, __ATOMIC_RELAXED);
                if (!err)
                    (void)lsm_close(s->db);
                __atomic_store_n(&s->rules.die_at, 0, __ATOMIC_RELAXED);
                __atomic_store_n(&s->rules.dead, false, __ATOMIC_RELAXED);
            }
            open_store(s);
        }
        assert_int_equal(lsm_close(s->db), 0);
        free_store(s);
    }
}

int main(void)
{
    const char *text = getenv("SHALE_SEED");
    seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u;
    printf("replay: SHALE_SEED=0x%llx test_lsm_edges\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_larger_than_memtable),
        cmocka_unit_test(test_flush_after_large_batch),
        cmocka_unit_test(test_many_short_openings),
        cmocka_unit_test(test_full_disk_inline),
        cmocka_unit_test(test_full_disk_with_threads),
        cmocka_unit_test(test_no_new_segment),
        cmocka_unit_test(test_no_new_segment_inline),
        cmocka_unit_test(test_open_on_full_disk),
        cmocka_unit_test(test_compaction_without_space),
        cmocka_unit_test(test_close_on_full_disk),
        cmocka_unit_test(test_bad_output),
        cmocka_unit_test(test_bad_rollover),
        cmocka_unit_test(test_failed_sync),
        cmocka_unit_test(test_work_of_other_shards),
        cmocka_unit_test(test_threads_without_background),
        cmocka_unit_test(test_compact_beside_writers),
        cmocka_unit_test(test_flush_inside_compaction),
        cmocka_unit_test(test_nowait),
        cmocka_unit_test(test_merge_to_nothing),
        cmocka_unit_test(test_operands_without_merge),
        cmocka_unit_test(test_odd_openings),
        cmocka_unit_test(test_open_failing),
        cmocka_unit_test(test_life_failing),
        cmocka_unit_test(test_reads_failing),
        cmocka_unit_test(test_dying_in_recovery),
    };
    const char *only = getenv("SHALE_TEST");
    if (only)
        cmocka_set_test_filter(only);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
