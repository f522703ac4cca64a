/*
 * test_replay.c - a log of several chunks is replayed by several threads, into memtables large and small: everything is as
 * a model says, in every mode; and what fails in a worker fails the opening, cleanly.
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

#include "coding.h"
#include "env.h"
#include <shale/lsm.h>

#define KEYS 3000u
#define VALUE_MAX 900u
#define MIB (1u << 20)
#define ROUND_BYTES (3u * MIB) /* of log: several chunks, and no more than the memtables hold */

struct model {
    bool exists[KEYS];
    uint64_t sum[KEYS];
    size_t len[KEYS];
    uint64_t random;
};

static uint64_t draw(struct model *m, uint64_t n)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return m->random % n;
}

/* The first eight bytes are a sum. */
static size_t add_up(void *arg, const void *base, size_t base_len, bool base_is_operand, const void *operand,
                     size_t operand_len, void *out)
{
    (void)arg, (void)base_is_operand;
    if (!base_len) {
        memcpy(out, operand, operand_len);
        return operand_len;
    }
    uint64_t sum = get_le64(base) + get_le64(operand);
    memmove(out, base, base_len);
    put_le64(out, sum);
    return base_len;
}

/* Keys have much in common, and some are the beginning of others. */
static size_t key_of(unsigned i, char *out)
{
    return (size_t)sprintf(out, "a-common-prefix-%05u%s", i / 2, i % 2 ? "-long" : "");
}

static struct lsm *open_store(struct env *env, unsigned flags, size_t write_buffer, int expected)
{
    struct lsm_options o = {
        .flags = flags,
        .shards = 3,
        .memory_bytes = 16 * MIB,
        .write_buffer_bytes = write_buffer,
        .log_segment_bytes = 2 * MIB,
        .log_budget_bytes = 64 * MIB,
        .merge = add_up,
        .env = env,
    };
    struct lsm *db = NULL;
    assert_int_equal(lsm_open("/s", &o, &db), expected);
    return db;
}

static void change(struct model *m, struct lsm_batch *b)
{
    char key[40], end[40];
    uint8_t value[VALUE_MAX] = {0};
    unsigned i = (unsigned)draw(m, KEYS), what = (unsigned)draw(m, 1000);
    size_t key_len = key_of(i, key), len = 8 + draw(m, VALUE_MAX - 8);
    put_le64(value, draw(m, 1000));
    if (what < 2) {
        unsigned to = i + 1 + (unsigned)draw(m, 100);
        lsm_batch_delete_range(b, key, key_len, end, key_of(to, end), NULL, 0);
        for (unsigned k = i; k < to && k < KEYS; k++)
            m->exists[k] = false;
    } else if (what < 100) {
        lsm_batch_delete(b, key, key_len);
        m->exists[i] = false;
    } else if (what < 400) {
        lsm_batch_merge(b, key, key_len, value, 8);
        m->sum[i] = (m->exists[i] ? m->sum[i] : 0) + get_le64(value);
        m->len[i] = m->exists[i] ? m->len[i] : 8;
        m->exists[i] = true;
    } else {
        lsm_batch_put(b, key, key_len, value, len);
        m->exists[i] = true;
        m->sum[i] = get_le64(value);
        m->len[i] = len;
    }
}

static void fill(struct model *m, struct lsm *db)
{
    struct lsm_batch *b;
    assert_int_equal(lsm_batch_new(&b), 0);
    for (size_t bytes = 0; bytes < ROUND_BYTES; bytes += lsm_batch_bytes(b)) {
        lsm_batch_clear(b);
        for (unsigned n = 1 + (unsigned)draw(m, 4); n > 0; n--)
            change(m, b);
        if (lsm_batch_count(b))
            assert_int_equal(lsm_commit(db, b, 0), 0);
    }
    lsm_batch_free(b);
}

static void check(const struct model *m, struct lsm *db)
{
    for (unsigned i = 0; i < KEYS; i++) {
        char key[40];
        struct lsm_value v;
        int err = lsm_get(db, key, key_of(i, key), NULL, 0, &v);
        assert_int_equal(err, m->exists[i] ? 0 : -ENOENT);
        if (err)
            continue;
        assert_int_equal(v.len, m->len[i]);
        assert_int_equal(get_le64(v.data), m->sum[i]);
        lsm_value_release(&v);
    }
}

static uint64_t replayed(struct lsm *db)
{
    struct lsm_stats *st = calloc(1, sizeof *st);
    assert_non_null(st);
    lsm_stats_get(db, st);
    uint64_t bytes = st->replayed_bytes;
    free(st);
    return bytes;
}

static void reopen(struct env *env, const struct model *m, unsigned flags, size_t write_buffer,
                   size_t at_least)
{
    struct lsm *db = open_store(env, flags, write_buffer, 0);
    assert_true(replayed(db) >= at_least);
    check(m, db);
    assert_int_equal(lsm_close(db), 0);
}

static void test_as_the_model_says(void **unused)
{
    struct env *env = env_mem_new();
    struct model *m = calloc(1, sizeof *m);

    (void)unused;
    assert_non_null(env);
    assert_non_null(m);
    m->random = 88172645463325252u;
    for (unsigned round = 0; round < 3; round++) {
        struct lsm *db = open_store(env, LSM_CREATE, 2 * MIB, 0);
        assert_int_equal(lsm_flush(db), 0);
        fill(m, db);
        check(m, db);
        assert_int_equal(lsm_close(db), 0);
        reopen(env, m, LSM_RDONLY, 2 * MIB, ROUND_BYTES * 3 / 4);
        reopen(env, m, LSM_RDONLY, 64 << 10, ROUND_BYTES * 3 / 4);
        reopen(env, m, 0, 2 * MIB, ROUND_BYTES * 3 / 4); /* nothing needs a flush */
        reopen(env, m, round % 2 ? LSM_INLINE : 0, 64 << 10, 0);
        reopen(env, m, LSM_INLINE, MIB, 0);
    }
    free(m);
    env_mem_free(env);
}

static const struct env_ops *real_ops;

static int no_tables(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    if (flags & ENV_CREATE && strstr(path, ".sst"))
        return -EIO;
    return real_ops->open(e, path, flags, out);
}

/* The memtables are small now, and their flushes fail. */
static void test_error_in_a_worker(void **unused)
{
    struct env *env = env_mem_new();
    struct model *m = calloc(1, sizeof *m);

    (void)unused;
    assert_non_null(env);
    assert_non_null(m);
    m->random = 7;
    struct lsm *db = open_store(env, LSM_CREATE, 2 * MIB, 0);
    fill(m, db);
    assert_int_equal(lsm_close(db), 0);
    real_ops = env->ops;
    struct env_ops ops = *real_ops;
    ops.open = no_tables;
    env->ops = &ops;
    (void)open_store(env, 0, 64 << 10, -EIO);
    (void)open_store(env, LSM_INLINE, 64 << 10, -EIO);
    env->ops = real_ops;
    reopen(env, m, 0, 64 << 10, ROUND_BYTES * 3 / 4);
    reopen(env, m, 0, 64 << 10, 0);
    free(m);
    env_mem_free(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_the_model_says),
        cmocka_unit_test(test_error_in_a_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
