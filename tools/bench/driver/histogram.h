/*
 * histogram.h - latencies in buckets that are 1/32 of a power of two wide, as HdrHistogram has them: a
 * percentile is right to about 3 %, and recording is a few instructions.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB 32u
#define HISTOGRAM_BUCKETS (60u * HISTOGRAM_SUB)

struct histogram {
    uint64_t count, max_ns;
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

static inline unsigned histogram_index(uint64_t ns)
{
    if (ns < HISTOGRAM_SUB)
        return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - 5u;
    unsigned i = (shift + 1) * HISTOGRAM_SUB + (unsigned)(ns >> shift) - HISTOGRAM_SUB;
    return i < HISTOGRAM_BUCKETS ? i : HISTOGRAM_BUCKETS - 1;
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
    h->count++;
    h->bucket[histogram_index(ns)]++;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

static inline void histogram_merge(struct histogram *to, const struct histogram *from)
{
    to->count += from->count;
    if (from->max_ns > to->max_ns)
        to->max_ns = from->max_ns;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        to->bucket[i] += from->bucket[i];
}

/* The lower end of the bucket in which the given share (0..1) of all is reached, in ns. */
static inline double histogram_at(const struct histogram *h, double share)
{
    uint64_t want = (uint64_t)((double)h->count * share), seen = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > want) {
            if (i < HISTOGRAM_SUB)
                return i;
            unsigned shift = i / HISTOGRAM_SUB - 1;
            return (double)((uint64_t)(i % HISTOGRAM_SUB + HISTOGRAM_SUB) << shift);
        }
    }
    return (double)h->max_ns;
}

#endif
