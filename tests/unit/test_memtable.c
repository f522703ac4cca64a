/*
 * test_memtable.c - the skip list against a plain array, folding, and readers beside a writer.
 */
#include "memtable.h"

#include "coding.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define KEYS 50u
#define INSERTS 4000u

static uint64_t seed, state;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Sums of little-endian 64-bit numbers. */
static size_t add_merge(void *arg, const void *base, size_t base_len, bool base_is_operand,
                        const void *operand, size_t operand_len, void *out)
{
    (void)arg, (void)base_is_operand;
    assert_int_equal(operand_len, 8);
    uint64_t v = get_le64(operand);
    if (base) {
        assert_int_equal(base_len, 8);
        v += get_le64(base);
    }
    put_le64(out, v);
    return 8;
}

struct version_of {
    unsigned key;
    uint64_t seq;
    enum entry_type type;
    uint64_t raw;
};

/* What a reader of (key, seq) must get, folded within the memtable. */
static bool model_get(const struct version_of *v, unsigned n, unsigned key, uint64_t seq,
                      enum entry_type *type, uint64_t *value)
{
    bool any = false;
    for (unsigned i = 0; i < n; i++) {
        if (v[i].key != key || v[i].seq > seq)
            continue;
        if (v[i].type != ENTRY_MERGE) {
            *type = v[i].type;
            *value = v[i].raw;
        } else if (!any) {
            *type = ENTRY_MERGE;
            *value = v[i].raw;
        } else if (*type == ENTRY_DELETE) {
            *type = ENTRY_PUT;
            *value = v[i].raw;
        } else {
            *value += v[i].raw;
        }
        any = true;
    }
    return any;
}

static void test_model(void **unused)
{
    (void)unused;
    struct memtable *m;
    assert_int_equal(memtable_new(1 << 20, add_merge, NULL, &m), 0);
    static struct version_of v[INSERTS];
    char key[16];
    for (unsigned i = 0; i < INSERTS; i++) {
        v[i] = (struct version_of){(unsigned)(rnd() % KEYS), 1000 + i * 10u, (enum entry_type)(rnd() % 3),
                                   rnd() % 1000};
        uint8_t value[8];
        put_le64(value, v[i].raw);
        if (v[i].type == ENTRY_DELETE)
            v[i].raw = 0;
        snprintf(key, sizeof key, "key%02u", v[i].key);
        memtable_begin_record(m, v[i].seq, v[i].seq + 8);
        memtable_insert(m, v[i].seq, v[i].type, key, 5, value, v[i].type == ENTRY_DELETE ? 0 : 8);
    }
    assert_int_equal(memtable_count(m), INSERTS);
    assert_int_equal(memtable_first_lsn(m), 1000);
    for (unsigned round = 0; round < 5000; round++) {
        unsigned k = (unsigned)(rnd() % (KEYS + 2));
        uint64_t seq = 990 + rnd() % (INSERTS * 10 + 50), value = 0;
        enum entry_type type = ENTRY_PUT;
        snprintf(key, sizeof key, "key%02u", k);
        bool want = model_get(v, INSERTS, k, seq, &type, &value);
        struct ikey found;
        const uint8_t *data;
        size_t len;
        bool have = memtable_get(m, key, 5, seq, &found, &data, &len);
        assert_int_equal(have, want);
        if (have) {
            assert_int_equal(found.type, type);
            if (type != ENTRY_DELETE)
                assert_int_equal(get_le64(data), value);
        }
    }
    /* Both ways through every version, in order. */
    struct iter *it;
    assert_int_equal(memtable_iter_new(m, &it), 0);
    unsigned n = 0;
    struct ikey last = {0};
    for (iter_first(it); it->valid; iter_next(it), n++) {
        if (n)
            assert_true(ikey_compare(&last, &it->key) < 0);
        last = it->key;
    }
    assert_int_equal(n, INSERTS);
    for (iter_last(it); it->valid; iter_prev(it), n--)
        assert_true(ikey_compare(&it->key, &last) <= 0);
    assert_int_equal(n, 0);
    iter_free(it);
    memtable_unref(m);
}

static void test_operands_stay_raw_for_iterators(void **unused)
{
    (void)unused;
    struct memtable *m;
    uint8_t one[8];
    put_le64(one, 1);
    assert_int_equal(memtable_new(4096, add_merge, NULL, &m), 0);
    for (uint64_t lsn = 8; lsn <= 80; lsn += 8) {
        memtable_begin_record(m, lsn, lsn + 8);
        memtable_insert(m, lsn, ENTRY_MERGE, "k", 1, one, 8);
    }
    struct ikey found;
    const uint8_t *data;
    size_t len;
    assert_true(memtable_get(m, "k", 1, SEQ_MAX, &found, &data, &len));
    assert_int_equal(get_le64(data), 10);
    assert_true(memtable_get(m, "k", 1, 35, &found, &data, &len));
    assert_int_equal(get_le64(data), 4);
    struct iter *it;
    assert_int_equal(memtable_iter_new(m, &it), 0);
    for (iter_first(it); it->valid; iter_next(it))
        assert_int_equal(get_le64(it->value), 1);
    iter_free(it);
    memtable_unref(m);
}

/* Time of a square of this many steps would run into the test's time limit. */
#define OPERANDS 300000u

static void test_reads_do_not_walk_operands(void **unused)
{
    (void)unused;
    struct memtable *m;
    uint8_t one[8];
    put_le64(one, 1);
    assert_int_equal(memtable_new(64 << 20, add_merge, NULL, &m), 0);
    lsn_t lsn = 8;
    memtable_begin_record(m, lsn, lsn + 8);
    memtable_insert(m, lsn, ENTRY_BLOB, "b", 1, "pointer", 7);
    struct ikey found;
    const uint8_t *data;
    size_t len;
    for (unsigned i = 1; i <= OPERANDS; i++) {
        lsn += 8;
        memtable_begin_record(m, lsn, lsn + 8);
        memtable_insert(m, lsn, ENTRY_MERGE, "k", 1, one, 8);
        assert_true(memtable_get(m, "k", 1, SEQ_MAX, &found, &data, &len));
        assert_int_equal(get_le64(data), i);
        assert_false(memtable_blob_below(m, "k", 1, SEQ_MAX, &found, &data, &len));
    }
    /* Below operands it is found, seen from each of them, and not from before it. */
    for (unsigned i = 0; i < 3; i++) {
        lsn += 8;
        memtable_begin_record(m, lsn, lsn + 8);
        memtable_insert(m, lsn, ENTRY_MERGE, "b", 1, one, 8);
        assert_true(memtable_blob_below(m, "b", 1, lsn, &found, &data, &len));
        assert_int_equal(found.seq, 8);
        assert_memory_equal(data, "pointer", 7);
    }
    assert_true(memtable_blob_below(m, "b", 1, 8, &found, &data, &len));
    assert_false(memtable_blob_below(m, "b", 1, 7, &found, &data, &len));
    memtable_unref(m);
}

static void test_room(void **unused)
{
    (void)unused;
    struct memtable *m;
    assert_int_equal(memtable_new(64 << 10, NULL, NULL, &m), 0);
    uint8_t value[100] = {0};
    lsn_t lsn = 8;
    unsigned n = 0;
    for (; memtable_entry_bytes(4, sizeof value) <= memtable_free_bytes(m); n++, lsn += 8) {
        memtable_begin_record(m, lsn, lsn + 8);
        memtable_insert(m, lsn, ENTRY_PUT, &n, 4, value, sizeof value);
    }
    assert_true(n > 300);
    memtable_unref(m);
}

/* Keys as long as the blocks stand in the table twice: there and in the index. A full disk's reserve was short of that. */
static void test_table_bytes(void **unused)
{
    (void)unused;
    struct memtable *m;
    char key[900] = {0};
    uint64_t before;
    assert_int_equal(memtable_new(1 << 20, NULL, NULL, &m), 0);
    memtable_set_block_bytes(m, 512);
    for (uint32_t n = 0; n < 34; n++) {
        lsn_t lsn = 8 + n * 8;
        memcpy(key, &n, sizeof n);
        memtable_begin_record(m, lsn, lsn + 8);
        memtable_insert(m, lsn, ENTRY_DELETE, key, sizeof key, NULL, 0);
    }
    assert_true(memtable_table_bytes(m) >= 34 * 2 * sizeof key);
    before = memtable_table_bytes(m);
    memtable_set_block_bytes(m, 64 << 10); /* and here in a block of seventy */
    memtable_begin_record(m, 8000, 8008);
    memtable_insert(m, 8000, ENTRY_DELETE, key, sizeof key, NULL, 0);
    assert_in_range(memtable_table_bytes(m) - before, sizeof key, sizeof key + 64);
    memtable_unref(m);
}

static void *read_while_writing(void *arg)
{
    struct memtable *m = arg;
    unsigned seen = 0;
    while (seen < INSERTS) {
        struct iter *it;
        if (memtable_iter_new(m, &it))
            return NULL;
        unsigned n = 0;
        for (iter_first(it); it->valid; iter_next(it))
            n += it->value_len == 8 && get_le64(it->value) == it->key.seq;
        iter_free(it);
        if (n < seen)
            return NULL;
        seen = n;
    }
    return m;
}

static void test_readers_beside_writer(void **unused)
{
    (void)unused;
    struct memtable *m;
    assert_int_equal(memtable_new(1 << 20, NULL, NULL, &m), 0);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, read_while_writing, m), 0);
    for (unsigned i = 0; i < INSERTS; i++) {
        uint64_t lsn = 8 + i * 8;
        uint8_t key[8], value[8];
        put_be64(key, rnd() % 1000);
        put_le64(value, lsn);
        memtable_begin_record(m, lsn, lsn + 8);
        memtable_insert(m, lsn, ENTRY_PUT, key, 8, value, 8);
    }
    void *result;
    pthread_join(t, &result);
    assert_ptr_equal(result, m);
    memtable_unref(m);
}

int main(void)
{
    const char *s = getenv("SHALE_SEED");
    seed = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u;
    state = seed | 1;
    printf("replay: SHALE_SEED=0x%llx test_memtable\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_operands_stay_raw_for_iterators),
        cmocka_unit_test(test_reads_do_not_walk_operands),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_table_bytes),
        cmocka_unit_test(test_readers_beside_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
