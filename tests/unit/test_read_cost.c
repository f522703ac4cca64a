/* test_read_cost.c - what reads cost, by the engine's counters: how often the filters of several levels are wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "env.h"
#include "entry_model.h"
#include <errno.h>
#include <shale/lsm.h>
#include <string.h>

#define KEYS 60000u
#define GETS 40000u

static void make_key(char key[24], uint64_t n) { snprintf(key, 24, "key %018llu", (unsigned long long)n); }

static unsigned levels_used(struct lsm *db, struct lsm_stats *s)
{
    unsigned used = 0;
    lsm_stats_get(db, s);
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        used += s->shard[0].files[l] > 0;
    return used;
}

/* Small tables, so that there are many levels; even numbers are there. */
static struct lsm *store_of_levels(struct env *env, struct lsm_options *o)
{
    struct lsm *db;
    *o = (struct lsm_options){.flags = LSM_CREATE | LSM_INLINE,
                              .env = env,
                              .shards = 1,
                              .memory_bytes = 64u << 20,
                              .write_buffer_bytes = 16u << 10,
                              .compression = LSM_COMPRESSION_NONE,
                              .table_bytes = 64u << 10,
                              .log_segment_bytes = 1u << 20};
    assert_int_equal(lsm_open("/s", o, &db), 0);
    char key[24], value[100];
    struct lsm_stats s;
    memset(value, 'v', sizeof(value));
    for (unsigned n = 0; levels_used(db, &s) < 4 || s.shard[0].files[0] < 2; n++) {
        assert_true(n < 5 * KEYS);
        make_key(key, 2 * model_below(KEYS));
        for (size_t i = 0; i < 50; i++)
            value[i] = (char)model_random();
        assert_int_equal(lsm_put(db, key, sizeof(key), value, sizeof(value), 0), 0);
        while (s.shard[0].files[0] >= 4 && lsm_work(db) > 0)
            lsm_stats_get(db, &s);
    }
    return db;
}

/* A key that is nowhere costs no read of a data block in over 99 of 100 cases, over four levels and more. */
static void test_absent_keys(void **state)
{
    (void)state;
    struct env *env = env_mem_new();
    assert_non_null(env);
    struct lsm_options o;
    struct lsm *db = store_of_levels(env, &o);
    struct lsm_stats before, after;
    char key[24];
    for (unsigned round = 0; round < 2;
         round++) { /* the first one brings filters and indexes into the cache */
        unsigned levels = levels_used(db, &before);
        for (unsigned n = 0; n < GETS; n++) {
            struct lsm_value v;
            make_key(key, 2 * model_below(KEYS) + 1);
            assert_int_equal(lsm_get(db, key, sizeof(key), NULL, 0, &v), -ENOENT);
        }
        lsm_stats_get(db, &after);
        uint64_t asked = after.filter_checks - before.filter_checks;
        uint64_t wrong = asked - (after.filter_negatives - before.filter_negatives);
        print_message(
            "%u levels, %llu tables in level 0: %.2f filters asked for a key, %.2f %% of keys cost a read\n",
            levels, (unsigned long long)before.shard[0].files[0], (double)asked / GETS,
            100.0 * (double)wrong / GETS);
        assert_true(asked > 2 * GETS);
        assert_true(wrong * 100 < GETS);
        assert_true(round == 0 || after.blocks_read - before.blocks_read <= wrong);
    }
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(env);
}

/* ---- many keys at once ---- */

/* Counts what an env is asked for. */
static const struct env_ops *inner_ops;
static unsigned batches, batched, failing; /* the failing-th read of a batch from now on fails */

static void counting_read_many(struct env *e, struct env_read *reads, unsigned n)
{
    (void)e;
    batches++;
    batched += n;
    for (unsigned i = 0; i < n; i++) {
        bool fails = failing && i % failing == 0;
        reads[i].result = fails ? -EIO : env_pread(reads[i].file, reads[i].buf, reads[i].len, reads[i].off);
    }
}

static void check_multi_get(struct lsm *db, unsigned count, unsigned flags)
{
    char names[300][24];
    struct lsm_key keys[300] = {0};
    struct lsm_value values[300], v;
    int results[300];
    for (unsigned i = 0; i < count; i++) {
        make_key(names[i], model_below(2 * KEYS));
        keys[i] = (struct lsm_key){names[i], sizeof(names[i])};
    }
    int err = lsm_multi_get(db, keys, count, NULL, flags, values, results);
    assert_true(err == 0 || (flags & LSM_NOWAIT && err == -EAGAIN));
    for (unsigned i = 0; i < count; i++) {
        if (results[i] == -EAGAIN)
            continue;
        assert_int_equal(lsm_get(db, keys[i].data, keys[i].len, NULL, 0, &v), results[i]);
        if (results[i])
            continue;
        assert_int_equal(v.len, values[i].len);
        assert_memory_equal(v.data, values[i].data, v.len);
        lsm_value_release(&v);
        lsm_value_release(&values[i]);
    }
}

/* Cold: as many submissions as there are rounds, not as there are blocks. What can't be read together is read alone. */
static void test_multi_get(void **state)
{
    (void)state;
    struct env *env = env_mem_new();
    assert_non_null(env);
    struct lsm_options o;
    struct lsm *db = store_of_levels(env, &o);
    struct env_ops ops = *env->ops;
    inner_ops = env->ops;
    ops.read_many = counting_read_many;
    env->ops = &ops;
    for (unsigned round = 0; round < 40; round++) {
        assert_int_equal(lsm_close(db), 0);
        static const size_t memory[] = {64u << 20, 8u << 20};
        o.memory_bytes = memory[round % 2];
        assert_int_equal(lsm_open("/s", &o, &db), 0);
        batches = batched = 0;
        failing = round % 4 == 3 ? 1 + (unsigned)model_below(4) : 0;
        check_multi_get(db, 64, 0);
        if (!failing && round % 2 == 0) {
            print_message("64 keys, cold: %u blocks in %u submissions\n", batched, batches);
            assert_true(batches > 0 && batches <= 16 && batched > 4 * batches);
        }
        check_multi_get(db, (unsigned)model_below(300), 0);
        check_multi_get(db, (unsigned)model_below(300), model_below(2) ? LSM_NOWAIT : LSM_NOFILL);
        check_multi_get(db, 0, 0);
    }
    assert_int_equal(lsm_close(db), 0);
    env->ops = inner_ops;
    env_mem_free(env);
}

int main(void)
{
    model_start("test_read_cost");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_absent_keys, model_reseed),
        cmocka_unit_test_setup(test_multi_get, model_reseed),
    };
    return model_end("test_read_cost", cmocka_run_group_tests(tests, NULL, NULL));
}
