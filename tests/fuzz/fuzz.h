/*
 * fuzz.h - what all fuzz targets share.
 *
 * A target is one file fuzz_NAME.c. It feeds arbitrary bytes to code that meets bytes from a store's
 * files or from the FUSE device, and must survive all of them: no crash, no sanitizer report, no
 * endless loop. libFuzzer (SHALE_FUZZ, clang) searches for such bytes; main.c replays the stored
 * ones, corpus/NAME/, in every ordinary build as a test.
 *
 * Checksums are no obstacle: a target that reads checksummed files is linked with zero_hash.c, where
 * every XXH3 is 0, for writers as well as for readers. The code under test is the ordinary one.
 *
 * Threads: none of the targets starts any.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "coding.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_SEED_MAX (64u << 10) /* bytes of one seed */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * The n-th seed that the target makes by itself, at most FUZZ_SEED_MAX bytes at `out`; its length,
 * or 0 if there are no more. They show the fuzzer what good input looks like.
 */
size_t fuzz_seed(unsigned n, uint8_t *out);

/* The input as a sequence of decisions: when it is used up, zeros follow. */
struct input {
    const uint8_t *p;
    size_t left;
};

static inline uint64_t in_number(struct input *in, size_t bytes)
{
    uint64_t v = 0;
    for (size_t i = 0; i < bytes && in->left > 0; i++, in->left--)
        v |= (uint64_t)*in->p++ << 8 * i;
    return v;
}
static inline uint8_t in_u8(struct input *in) { return (uint8_t)in_number(in, 1); }
static inline uint16_t in_u16(struct input *in) { return (uint16_t)in_number(in, 2); }
static inline uint32_t in_u32(struct input *in) { return (uint32_t)in_number(in, 4); }
static inline uint64_t in_u64(struct input *in) { return in_number(in, 8); }
/* Below n > 0. */
static inline unsigned in_below(struct input *in, unsigned n) { return in_u8(in) % n; }

/* A number of any size with few bytes: small ones, powers of two and their neighbours, the extremes. */
static inline uint64_t in_shaped(struct input *in)
{
    uint8_t how = in_u8(in);
    switch (how & 3) {
    case 0: return in_u8(in);
    case 1: return in_u16(in);
    case 2: return (UINT64_C(1) << (how >> 2)) + (uint64_t)(int8_t)in_u8(in);
    default: return in_u64(in);
    }
}

/* Up to `want` bytes in memory of their own, so that reading past them is noticed; *len of them. */
static inline uint8_t *in_bytes(struct input *in, size_t want, size_t *len)
{
    *len = want < in->left ? want : in->left;
    uint8_t *copy = malloc(*len ? *len : 1);
    if (!copy)
        abort();
    if (*len)
        memcpy(copy, in->p, *len);
    in->p += *len;
    in->left -= *len;
    return copy;
}

/* What must hold whatever the input was; stays in every build. */
#define fuzz_check(condition)                                                                  \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: fuzz_check failed: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                           \
        }                                                                                      \
    } while (0)

#endif
