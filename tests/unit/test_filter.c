/* test_filter.c - fuse and Bloom filters: no key is denied, few others pass, and in the memory that is stated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "entry_model.h"
#include "filter.h"
#include <errno.h>
#include <shale/lsm.h>
#include <stdlib.h>
#include <string.h>

static uint64_t hash_at(uint64_t i) { return filter_hash(&i, sizeof(i)); }

static uint64_t *hashes_from(uint64_t base, size_t count)
{
    uint64_t *h = malloc((count + 1) * sizeof(*h));
    assert_non_null(h);
    for (size_t i = 0; i < count; i++)
        h[i] = hash_at(base + i);
    return h;
}

/* Builds one; every key is in it. */
static uint8_t *build(uint64_t base, size_t count, unsigned bits, size_t *len, int *is_fuse)
{
    uint64_t *h = hashes_from(base, count);
    uint8_t *filter = NULL;
    assert_int_equal(filter_build(h, count, bits, 16, &filter, len, is_fuse), 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(filter_test(filter, *len, hash_at(base + i)), 1);
    free(h);
    return filter;
}

static double rate(const uint8_t *filter, size_t len, uint64_t base)
{
    enum { COUNT = 200000 };
    unsigned positives = 0;
    for (uint64_t i = 0; i < COUNT; i++)
        positives += filter_test(filter, len, hash_at(base + i)) == 1;
    return (double)positives / COUNT;
}

static void test_rates(void **state)
{
    (void)state;
    uint64_t base = model_random();
    for (unsigned bits = 0; bits <= FILTER_BITS_TOP; bits = bits ? bits + 3 : FILTER_BITS_MIN) {
        size_t len;
        int is_fuse;
        uint8_t *filter = build(base, 20000, bits, &len, &is_fuse);
        double wrong = rate(filter, len, base + 20000), expected = bits ? 1.0 / (1u << bits) : 0.0095;
        print_message("%u bits: %.3f %% false positives, %.2f bits a key\n", bits, 100 * wrong,
                      8.0 * (double)len / 20000);
        assert_int_equal(is_fuse, bits > 0);
        assert_true(wrong < 1.3 * expected + 0.0002);
        assert_true(8.0 * (double)len / 20000 < (bits ? 1.2 * bits + 0.1 : 10.1));
        free(filter);
    }
}

/* All sizes of small tables, and some of larger ones. */
static void test_every_size(void **state)
{
    (void)state;
    unsigned fuses = 0;
    for (size_t count = 0; count < 600; count++) {
        size_t len;
        int is_fuse;
        free(build(model_random(), count, 4 + (unsigned)(count % 21), &len, &is_fuse));
        fuses += is_fuse;
    }
    assert_true(fuses > 590);
    for (size_t count = 1000; count < 600000; count *= 5) {
        size_t len;
        int is_fuse;
        free(build(model_random(), count, 8, &len, &is_fuse));
        assert_int_equal(is_fuse, 1);
    }
}

/* The sum that a level's share of keys and its bits make: what filter.h says. */
static void test_bits_of_levels(void **state)
{
    (void)state;
    double share = 0.9, total = 0, sum = 0;
    for (unsigned level = LSM_LEVELS; level-- > 1; share /= 10) {
        assert_true(filter_bits(level) >= FILTER_BITS_LAST && filter_bits(level) <= filter_bits(level - 1));
        total += share * filter_bits(level) * 1.18;
        sum += 1.0 / (1u << filter_bits(level));
    }
    sum += 4.0 / (1u << filter_bits(0));
    print_message("all levels: %.2f bits a key, sum of rates %.2f %%\n", total, 100 * sum);
    assert_true(total < 10 && sum < 0.0075);
}

/* Keys with equal hashes, as somebody who knows XXH3 may choose them. */
static void test_twins(void **state)
{
    (void)state;
    enum { COUNT = 1000 };
    uint64_t *h = hashes_from(7, COUNT);
    for (size_t i = 0; i < COUNT; i += 3)
        h[i] = h[COUNT / 2];
    uint64_t copy[COUNT];
    memcpy(copy, h, sizeof(copy));
    uint8_t *filter;
    size_t len;
    int is_fuse;
    assert_int_equal(filter_build(h, COUNT, 8, 0, &filter, &len, &is_fuse), 0);
    assert_int_equal(is_fuse, 1);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(filter_test(filter, len, copy[i]), 1);
    free(filter);
    free(h);
}

/* Whatever the last bytes say, nothing outside is read: the memory is just as long. */
static void test_hostile(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        size_t len = model_below(200);
        uint8_t *bytes = malloc(len ? len : 1);
        assert_non_null(bytes);
        for (size_t i = 0; i < len; i++)
            bytes[i] = (uint8_t)(model_below(3) ? model_below(4) : model_random());
        if (len >= 16 && model_below(2)) {
            bytes[len - 4] = 0;
            bytes[len - 6] = bytes[len - 5] = 0;
            bytes[len - 3] = (uint8_t)model_below(6);
            bytes[len - 2] = (uint8_t)(4 + model_below(21));
        }
        for (unsigned i = 0; i < 4; i++) {
            int found = filter_test(bytes, len, i ? model_random() : UINT64_MAX);
            assert_true(found == 0 || found == 1 || found == -EIO);
        }
        free(bytes);
    }
    size_t len;
    int is_fuse;
    uint8_t *filter = build(1, 100, 9, &len, &is_fuse);
    for (size_t shorter = 0; shorter < len; shorter++) {
        uint8_t *cut = malloc(shorter + 1);
        assert_non_null(cut);
        memcpy(cut, filter + len - shorter, shorter);
        assert_int_equal(filter_test(cut, shorter, 1), -EIO);
        free(cut);
    }
    free(filter);
}

int main(void)
{
    model_start("test_filter");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_rates, model_reseed),
        cmocka_unit_test_setup(test_every_size, model_reseed),
        cmocka_unit_test_setup(test_bits_of_levels, model_reseed),
        cmocka_unit_test_setup(test_twins, model_reseed),
        cmocka_unit_test_setup(test_hostile, model_reseed),
    };
    return model_end("test_filter", cmocka_run_group_tests(tests, NULL, NULL));
}
