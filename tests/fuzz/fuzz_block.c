/* fuzz_block.c - a block of a table with a good checksum and arbitrary contents, walked over in every way. */
#include "block.h"
#include "fuzz.h"

#define STEPS_MAX 64u

/* Every entry takes at least 11 bytes; an iterator that stands still would pass this. */
static void walk(struct block_iter *it, size_t size, bool forward)
{
    size_t n = 0;

    if (forward)
        block_iter_first(it);
    else
        block_iter_last(it);
    while (it->valid) {
        fuzz_check(it->key.len <= LSM_KEY_MAX && it->value_len <= size);
        fuzz_check(it->value >= it->data && it->value + it->value_len <= it->data + it->limit);
        fuzz_check(++n <= size);
        if (forward)
            block_iter_next(it);
        else
            block_iter_prev(it);
    }
}

static void step(struct block_iter *it, struct input *in)
{
    uint8_t key[8] = {0};
    struct ikey target = {.key = key, .len = 1};

    switch (in_below(in, 5)) {
    case 0: block_iter_first(it); break;
    case 1: block_iter_last(it); break;
    case 2:
        target.len = in_below(in, sizeof(key) + 1);
        for (unsigned i = 0; i < target.len; i++)
            key[i] = in_u8(in);
        target.seq = in_u8(in);
        block_iter_seek(it, &target);
        fuzz_check(!it->valid || ikey_compare(&it->key, &target) >= 0);
        break;
    case 3:
        if (it->valid)
            block_iter_next(it);
        break;
    default:
        if (it->valid)
            block_iter_prev(it);
    }
}

/* {u8 number of steps, the steps, the block} */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct block_iter it;
    size_t len, plan_len;
    uint8_t *plan = in_bytes(&in, in_below(&in, STEPS_MAX), &plan_len);
    uint8_t *block = in_bytes(&in, in.left, &len);
    struct input steps = {plan, plan_len};

    if (block_iter_init(&it, block, len) == 0) {
        walk(&it, len, true);
        block_iter_init(&it, block, len);
        walk(&it, len, false);
        block_iter_init(&it, block, len);
        while (steps.left > 0)
            step(&it, &steps);
    }
    free(block);
    free(plan);
    return 0;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    struct block_builder b;
    const uint8_t plan[] = {7, 2, 2, 'k', '3', 9, 4, 3};
    size_t len = 0;

    if (n > 1)
        return 0;
    block_builder_init(&b, n == 0 ? BLOCK_RESTART_INDEX : BLOCK_RESTART_DATA);
    for (unsigned i = 0; i < 24; i++) {
        char key[8], value[16];
        int k = snprintf(key, sizeof(key), "k%02u", i / 2), v = snprintf(value, sizeof(value), "value %u", i);
        struct ikey ikey = {.key = (uint8_t *)key, .len = (uint32_t)k, .seq = 100 - i, .type = ENTRY_PUT};
        if (block_builder_add(&b, &ikey, value, (size_t)v) < 0)
            goto out;
    }
    if (block_builder_finish(&b) < 0)
        goto out;
    memcpy(out, plan, sizeof(plan));
    memcpy(out + sizeof(plan), b.buf, b.len);
    len = sizeof(plan) + b.len;
out:
    block_builder_free(&b);
    return len;
}
