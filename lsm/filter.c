/*
 * filter.c - a blocked Bloom filter over user keys. See filter.h.
 */
#include "filter.h"
#include "coding.h"
#include "table.h"
#include <assert.h>
#include <errno.h>
#include <xxhash.h>

#define LINE_BITS (FILTER_LINE_BYTES * 8)
#define PROBES_MAX 16u

struct filter_tail {
    uint8_t lines[4];
    uint8_t probes;
    uint8_t zero[3];
};
static_assert(sizeof(struct filter_tail) == 8, "on-disk size");
static_assert(LINE_BITS == 1u << 9, "a probe takes 9 bits");

uint64_t filter_hash(const void *key, size_t len) { return XXH3_64bits(key, len); }

static uint64_t line_count(uint64_t keys)
{
    uint64_t lines = (keys * TABLE_FILTER_BITS + LINE_BITS - 1) / LINE_BITS;
    return lines ? lines : 1;
}

size_t filter_bytes(uint64_t keys)
{
    return line_count(keys) * FILTER_LINE_BYTES + sizeof(struct filter_tail);
}

/* Offset of the hash's line. */
static size_t line_offset(uint64_t hash, uint32_t lines)
{
    return (size_t)(((hash >> 32) * lines) >> 32) * FILTER_LINE_BYTES;
}

/* The next bit in the line; *h is the running value, the hash at first. */
static uint32_t next_bit(uint32_t *h)
{
    *h *= UINT32_C(0x9e3779b9);
    return *h >> (32 - 9);
}

void filter_build(const uint64_t *hashes, size_t count, uint8_t *out)
{
    uint64_t lines = line_count(count);
    assert(lines <= UINT32_MAX);
    memset(out, 0, filter_bytes(count));
    for (size_t i = 0; i < count; i++) {
        uint8_t *line = out + line_offset(hashes[i], (uint32_t)lines);
        uint32_t h = (uint32_t)hashes[i];
        for (unsigned p = 0; p < FILTER_PROBES; p++) {
            uint32_t bit = next_bit(&h);
            line[bit / 8] = (uint8_t)(line[bit / 8] | 1u << bit % 8);
        }
    }
    struct filter_tail *tail = (struct filter_tail *)(out + lines * FILTER_LINE_BYTES);
    put_le32(tail->lines, (uint32_t)lines);
    tail->probes = FILTER_PROBES;
}

int filter_test(const uint8_t *data, size_t len, uint64_t hash)
{
    if (len < sizeof(struct filter_tail))
        return -EIO;
    const struct filter_tail *tail = (const struct filter_tail *)(data + len - sizeof(*tail));
    uint32_t lines = get_le32(tail->lines);
    if (lines == 0 || len != (uint64_t)lines * FILTER_LINE_BYTES + sizeof(*tail) || tail->probes == 0 ||
        tail->probes > PROBES_MAX)
        return -EIO;
    const uint8_t *line = data + line_offset(hash, lines);
    uint32_t h = (uint32_t)hash;
    for (unsigned p = 0; p < tail->probes; p++) {
        uint32_t bit = next_bit(&h);
        if (!(line[bit / 8] & 1u << bit % 8))
            return 0;
    }
    return 1;
}
