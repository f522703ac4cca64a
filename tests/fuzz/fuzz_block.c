/* fuzz_block.c - a block of a table with a good checksum and arbitrary contents, packed or not, walked over in every way. */
#include "block.h"
#include "compress.h"
#include "fuzz.h"

#define STEPS_MAX 64u
#define RAW_MAX (256u << 10)

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

/* What the packed bytes say that they are, with a length of the input's choice; NULL if they are found to be nothing. */
static uint8_t *unpack(enum table_compression how, uint8_t *packed, size_t *len, uint32_t raw_len)
{
    uint8_t *raw = NULL;

    if (raw_len <= RAW_MAX && block_raw_len_is_sane(how, packed, *len, raw_len)) {
        raw = malloc(raw_len);
        if (raw && block_decompress(how, packed, *len, raw, raw_len)) {
            free(raw);
            raw = NULL;
        }
    }
    free(packed);
    *len = raw_len;
    return raw;
}

/* {u8 number of steps + 64 * compression, the steps, if packed u32 raw length, the block} */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct block_iter it;
    size_t len, plan_len;
    uint8_t first = in_u8(&in);
    enum table_compression how = (enum table_compression)(first / STEPS_MAX % 3);
    uint8_t *plan = in_bytes(&in, first % STEPS_MAX, &plan_len);
    uint32_t raw_len = how ? in_u32(&in) : 0;
    uint8_t *block = in_bytes(&in, in.left, &len);
    struct input steps = {plan, plan_len};

    if (how)
        block = unpack(how, block, &len, raw_len);
    if (block && block_iter_init(&it, block, len) == 0) {
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
    struct compressor *c = NULL;
    const uint8_t plan[] = {7, 2, 2, 'k', '3', 9, 4, 3};
    size_t len = 0;

    if (n > 3)
        return 0;
    block_builder_init(&b, n % 2 == 0 ? BLOCK_RESTART_INDEX : BLOCK_RESTART_DATA);
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
    len = sizeof(plan);
    if (n < 2) {
        memcpy(out + len, b.buf, b.len);
        len += b.len;
    } else {
        uint8_t *packed;
        enum table_compression how = (enum table_compression)(n - 1);
        fuzz_check(compressor_new(how, &c) == 0);
        size_t packed_len = compressor_pack(c, b.buf, b.len, &packed);
        fuzz_check(packed_len > 0);
        out[0] = (uint8_t)(out[0] + STEPS_MAX * how);
        put_le32(out + len, (uint32_t)b.len);
        memcpy(out + len + 4, packed, packed_len);
        len += 4 + packed_len;
    }
out:
    compressor_free(c);
    block_builder_free(&b);
    return len;
}
