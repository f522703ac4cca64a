/* latency.c - how long operations take. See latency.h. */
#include "latency.h"

static unsigned index_of(uint64_t ns)
{
    if (ns < LATENCY_SUB)
        return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - 3u;
    unsigned i = (shift + 1) * LATENCY_SUB + (unsigned)(ns >> shift) - LATENCY_SUB;
    return i < LATENCY_BUCKETS ? i : LATENCY_BUCKETS - 1;
}

/* The lowest that falls into a bucket. */
static uint64_t bucket_ns(unsigned i)
{
    if (i < LATENCY_SUB)
        return i;
    return (uint64_t)(i % LATENCY_SUB + LATENCY_SUB) << (i / LATENCY_SUB - 1);
}

void latency_add(struct latency *l, uint64_t ns)
{
    __atomic_fetch_add(&l->bucket[index_of(ns)], 1, __ATOMIC_RELAXED);
    uint64_t max = __atomic_load_n(&l->max_ns, __ATOMIC_RELAXED);
    while (ns > max &&
           !__atomic_compare_exchange_n(&l->max_ns, &max, ns, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

void latency_get(const struct latency *l, struct lsm_latency *out)
{
    uint64_t count[LATENCY_BUCKETS], seen = 0;

    *out = (struct lsm_latency){.max_ns = __atomic_load_n(&l->max_ns, __ATOMIC_RELAXED)};
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        out->samples += count[i] = __atomic_load_n(&l->bucket[i], __ATOMIC_RELAXED);
    for (unsigned i = 0; i < LATENCY_BUCKETS && out->samples; i++) {
        uint64_t before = seen;
        seen += count[i];
        if (before * 2 <= out->samples && seen * 2 > out->samples)
            out->p50_ns = bucket_ns(i);
        if (before * 100 <= out->samples * 99 && seen * 100 > out->samples * 99)
            out->p99_ns = bucket_ns(i);
        if (before * 1000 <= out->samples * 999 && seen * 1000 > out->samples * 999)
            out->p999_ns = bucket_ns(i);
    }
}
