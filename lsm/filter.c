/*
 * filter.c - fuse and Bloom filters over user keys. See filter.h.
 */
#include "filter.h"
#include "mutant.h"
#include "table_format.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

uint64_t filter_hash(const void *key, size_t len) { return XXH3_64bits(key, len); }

unsigned filter_bits(unsigned level)
{
    unsigned bits = FILTER_BITS_LAST + FILTER_BITS_STEP * (LSM_LEVELS - 1 - level);
    return level == 0 || bits > FILTER_BITS_TOP ? FILTER_BITS_TOP : bits;
}

/* ---- Bloom ---- */

#define LINE_BYTES 64u
#define LINE_BITS (LINE_BYTES * 8)
#define BLOOM_BITS 10u /* a key */
#define PROBES 6u
#define PROBES_MAX 16u

struct bloom_tail {
    uint8_t lines[4];
    uint8_t probes; /* 0: it is a fuse filter */
    uint8_t zero[3];
};
static_assert(sizeof(struct bloom_tail) == 8, "on-disk size");
static_assert(LINE_BITS == 1u << 9, "a probe takes 9 bits");

/* Offset of the hash's line. */
static size_t line_offset(uint64_t hash, uint32_t lines)
{
    return (size_t)(((hash >> 32) * lines) >> 32) * LINE_BYTES;
}

/* The next bit in the line; *h is the running value, the hash at first. */
static uint32_t next_bit(uint32_t *h)
{
    *h *= UINT32_C(0x9e3779b9);
    return *h >> (32 - 9);
}

static int bloom_build(const uint64_t *hashes, size_t count, size_t room, uint8_t **out, size_t *len)
{
    uint64_t lines = ((uint64_t)count * BLOOM_BITS + LINE_BITS - 1) / LINE_BITS;
    lines = lines ? lines : 1;
    if (lines > UINT32_MAX)
        return -EFBIG;
    *len = lines * LINE_BYTES + sizeof(struct bloom_tail);
    *out = calloc(1, *len + room);
    if (!*out)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        uint8_t *line = *out + line_offset(hashes[i], (uint32_t)lines);
        uint32_t h = (uint32_t)hashes[i];
        for (unsigned p = 0; p < PROBES; p++) {
            uint32_t bit = next_bit(&h);
            line[bit / 8] = (uint8_t)(line[bit / 8] | 1u << bit % 8);
        }
    }
    struct bloom_tail *tail = (struct bloom_tail *)(*out + lines * LINE_BYTES);
    put_le32(tail->lines, (uint32_t)lines);
    tail->probes = PROBES;
    return 0;
}

static int bloom_test(const uint8_t *data, size_t len, uint64_t hash)
{
    const struct bloom_tail *tail = (const struct bloom_tail *)(data + len - sizeof(*tail));
    uint32_t lines = get_le32(tail->lines);
    if (lines == 0 || len != (uint64_t)lines * LINE_BYTES + sizeof(*tail) || tail->probes > PROBES_MAX)
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

/* ---- fuse ---- */

#define PLACES 4u
#define SEGMENT_BITS_MAX 18u
#define PADDING 4u       /* a fingerprint is read as four bytes */
#define ATTEMPTS_MAX 64u /* one in ten fails; of few keys more */

struct fuse_tail {
    uint8_t seed[8];
    uint8_t segments[4];
    uint8_t zero;
    uint8_t segment_bits, bits;
    uint8_t zero2;
};
static_assert(sizeof(struct fuse_tail) == 16, "on-disk size");
static_assert(offsetof(struct fuse_tail, zero) == 8 + offsetof(struct bloom_tail, probes),
              "the kind of filter");

struct fuse {
    uint64_t seed;
    uint32_t segments, segment_bits, bits;
};

static uint64_t fuse_places(const struct fuse *f)
{
    return ((uint64_t)f->segments + PLACES - 1) << f->segment_bits;
}

static uint64_t fuse_bytes(const struct fuse *f) { return (fuse_places(f) * f->bits + 7) / 8 + PADDING; }

static void places_of(const struct fuse *f, uint64_t h, uint64_t at[PLACES])
{
    uint64_t mask = (UINT64_C(1) << f->segment_bits) - 1;
    uint64_t g = h * UINT64_C(0x9e3779b97f4a7c15) >> 10;
    at[0] = (uint64_t)((unsigned __int128)h * ((uint64_t)f->segments << f->segment_bits) >> 64);
    at[1] = (at[0] + (UINT64_C(1) << f->segment_bits)) ^ (g & mask);
    at[2] = (at[0] + (UINT64_C(2) << f->segment_bits)) ^ (g >> 18 & mask);
    at[3] = (at[0] + (UINT64_C(3) << f->segment_bits)) ^ (g >> 36 & mask);
}

static uint32_t fingerprint(const struct fuse *f, uint64_t h)
{
    return (uint32_t)(h ^ h >> 32) & ((1u << f->bits) - 1);
}

static uint32_t fuse_get(const struct fuse *f, const uint8_t *data, uint64_t place)
{
    uint64_t bit = place * f->bits;
    return get_le32(data + bit / 8) >> bit % 8 & ((1u << f->bits) - 1);
}

/* The fingerprint at this place is 0. */
static void fuse_put(const struct fuse *f, uint8_t *data, uint64_t place, uint32_t value)
{
    uint64_t bit = place * f->bits;
    put_le32(data + bit / 8, get_le32(data + bit / 8) | value << bit % 8);
}

static int fuse_test(const uint8_t *data, size_t len, uint64_t hash)
{
    if (len < sizeof(struct fuse_tail))
        return -EIO;
    const struct fuse_tail *tail = (const struct fuse_tail *)(data + len - sizeof(*tail));
    struct fuse f = {get_le64(tail->seed), get_le32(tail->segments), tail->segment_bits, tail->bits};
    if (f.segments == 0 || f.segment_bits > SEGMENT_BITS_MAX || f.bits < FILTER_BITS_MIN ||
        f.bits > FILTER_BITS_MAX || len != fuse_bytes(&f) + sizeof(*tail))
        return -EIO;
    uint64_t at[PLACES], h = table_seed(1, hash + f.seed);
    places_of(&f, h, at);
    return (fuse_get(&f, data, at[0]) ^ fuse_get(&f, data, at[1]) ^ fuse_get(&f, data, at[2]) ^
            fuse_get(&f, data, at[3])) == fingerprint(&f, h);
}

/* The sizes that the paper found best for four places. */
static void fuse_size(struct fuse *f, size_t count)
{
    double n = count < 2 ? 2 : (double)count;
    double bits = floor(log(n) / log(2.91) - 0.5), factor = 0.77 + 0.305 * log(600000.0) / log(n);
    f->segment_bits = bits < 0 ? 0 : bits > SEGMENT_BITS_MAX ? SEGMENT_BITS_MAX : (uint32_t)bits;
    uint64_t places = (uint64_t)(n * (factor < 1.075 ? 1.075 : factor)) + 1;
    uint64_t segments = (places + (UINT64_C(1) << f->segment_bits) - 1) >> f->segment_bits;
    f->segments = segments < PLACES ? 1 : (uint32_t)(segments - PLACES + 1);
}

/*
 * Peeling. A place that only one key has can be left to that key: it is taken out, which may make other places such
 * ones. If that goes on until no key is left, fingerprints are given out in the opposite order, each at the
 * place that was the key's alone, which makes its xor right and no earlier one wrong.
 */
struct peel {
    uint64_t *xors;  /* of the h of all keys at a place */
    uint8_t *counts; /* of these keys, times 4, plus the xor of which of their places it is */
    uint32_t *queue; /* places with one key */
    uint64_t *order; /* the h of the keys taken out */
    uint8_t *which;  /* and which of their places was theirs alone */
};

#define COUNT_MAX 62u

static int peel_alloc(struct peel *p, uint64_t places, size_t count)
{
    p->xors = malloc(places * sizeof(*p->xors));
    p->counts = malloc(places);
    p->queue = malloc(places * sizeof(*p->queue));
    p->order = malloc((count + 1) * sizeof(*p->order));
    p->which = malloc(count + 1);
    return p->xors && p->counts && p->queue && p->order && p->which ? 0 : -ENOMEM;
}

static void peel_free(struct peel *p)
{
    free(p->xors);
    free(p->counts);
    free(p->queue);
    free(p->order);
    free(p->which);
}

static bool peel(struct peel *p, const struct fuse *f, const uint64_t *hashes, size_t count)
{
    uint64_t places = fuse_places(f), at[PLACES];
    size_t queued = 0, taken = 0;
    memset(p->xors, 0, places * sizeof(*p->xors));
    memset(p->counts, 0, places);
    for (size_t i = 0; i < count; i++) {
        uint64_t h = table_seed(1, hashes[i] + f->seed);
        places_of(f, h, at);
        for (unsigned k = 0; k < PLACES; k++) {
            if (p->counts[at[k]] / PLACES == COUNT_MAX)
                return false;
            p->counts[at[k]] = (uint8_t)((p->counts[at[k]] + PLACES) ^ k);
            p->xors[at[k]] ^= h;
        }
    }
    for (uint64_t i = 0; i < places; i++)
        if (p->counts[i] / PLACES == 1)
            p->queue[queued++] = (uint32_t)i;
    for (size_t next = 0; next < queued; next++) {
        uint32_t place = p->queue[next];
        if (p->counts[place] / PLACES != 1)
            continue; /* its key has been taken out at another place */
        uint64_t h = p->xors[place];
        p->order[taken] = h;
        p->which[taken++] = p->counts[place] % PLACES;
        places_of(f, h, at);
        for (unsigned k = 0; k < PLACES; k++) {
            p->counts[at[k]] = (uint8_t)((p->counts[at[k]] - PLACES) ^ k);
            p->xors[at[k]] ^= h;
            if (p->counts[at[k]] / PLACES == 1)
                p->queue[queued++] = (uint32_t)at[k];
        }
    }
    return taken == count;
}

static int compare_hashes(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Two keys with the same hash, which somebody may have made on purpose, could never be told apart. */
static size_t drop_twins(uint64_t *hashes, size_t count)
{
    size_t kept = 0;
    qsort(hashes, count, sizeof(*hashes), compare_hashes);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || hashes[i] != hashes[kept - 1])
            hashes[kept++] = hashes[i];
    return kept;
}

static void give_out(const struct peel *p, const struct fuse *f, size_t count, uint8_t *data)
{
    uint64_t at[PLACES];
    for (size_t i = count; i-- > 0;) {
        uint32_t value = fingerprint(f, p->order[i]);
        places_of(f, p->order[i], at);
        for (unsigned k = 0; k < PLACES; k++)
            value ^= k == p->which[i] ? 0 : fuse_get(f, data, at[k]);
        fuse_put(f, data, at[p->which[i]], value);
    }
}

/* -EAGAIN: it did not work out, by bad luck or because of too many keys. */
static int fuse_build(uint64_t *hashes, size_t count, unsigned bits, size_t room, uint8_t **out, size_t *len)
{
    struct fuse f = {.bits = bits};
    struct peel p = {0};
    fuse_size(&f, count);
    if (fuse_places(&f) > UINT32_MAX)
        return -EAGAIN;
    int err = peel_alloc(&p, fuse_places(&f), count);
    bool done = false;
    for (unsigned i = 0; !err && !done && i < ATTEMPTS_MAX; i++) {
        f.seed = table_seed(i + 1, count);
        done = peel(&p, &f, hashes, count);
        if (!done && i == 0)
            count = drop_twins(hashes, count);
    }
    if (!err && !done)
        err = -EAGAIN;
    if (!err) {
        *len = fuse_bytes(&f) + sizeof(struct fuse_tail);
        *out = calloc(1, *len + room);
        err = *out ? 0 : -ENOMEM;
    }
    if (!err) {
        struct fuse_tail *tail = (struct fuse_tail *)(*out + fuse_bytes(&f));
        give_out(&p, &f, count, *out);
        put_le64(tail->seed, f.seed);
        put_le32(tail->segments, f.segments);
        tail->segment_bits = (uint8_t)f.segment_bits;
        tail->bits = (uint8_t)f.bits;
    }
    peel_free(&p);
    return err;
}

/* ---- both ---- */

int filter_build(uint64_t *hashes, size_t count, unsigned bits, size_t room, uint8_t **out, size_t *len,
                 int *is_fuse)
{
    assert(bits == 0 || (bits >= FILTER_BITS_MIN && bits <= FILTER_BITS_MAX));
    count -= count > 1 && mutant("a filter lacks a key");
    int err = bits ? fuse_build(hashes, count, bits, room, out, len) : -EAGAIN;
    *is_fuse = !err;
    return err == -EAGAIN ? bloom_build(hashes, count, room, out, len) : err;
}

int filter_test(const uint8_t *data, size_t len, uint64_t hash)
{
    if (len < sizeof(struct bloom_tail))
        return -EIO;
    const struct bloom_tail *tail = (const struct bloom_tail *)(data + len - sizeof(*tail));
    return tail->probes ? bloom_test(data, len, hash) : fuse_test(data, len, hash);
}
