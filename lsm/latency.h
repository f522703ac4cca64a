/*
 * latency.h - how long operations take: a histogram for each kind, in buckets an eighth of a power of two wide.
 *
 * One operation in LATENCY_SAMPLED is timed (two looks at the clock are some 50 ns, a cached get under 1 us); syncs
 * are all timed. So a count here is that of samples, and `max` the longest that was sampled.
 *
 * Threads: any; relaxed atomics, so that a reader may see a sample more in one place than in another.
 */
#ifndef LSM_LATENCY_H
#define LSM_LATENCY_H

#include "env.h"
#include <shale/lsm.h>

#define LATENCY_SAMPLED 16u
#define LATENCY_SUB 8u
#define LATENCY_BUCKETS (LATENCY_SUB * 40u) /* up to two hours */

struct latency {
    uint64_t bucket[LATENCY_BUCKETS];
    uint64_t max_ns;
};

/* 0: this one is not timed; else the clock. `turn` is the caller's counter: a lost count does no harm. */
static inline uint64_t latency_begin(struct env *env, uint64_t *turn)
{
    uint64_t n = __atomic_load_n(turn, __ATOMIC_RELAXED);

    __atomic_store_n(turn, n + 1, __ATOMIC_RELAXED);
    return n % LATENCY_SAMPLED ? 0 : env_mono_ns(env);
}

void latency_add(struct latency *l, uint64_t ns);

static inline void latency_end(struct latency *l, struct env *env, uint64_t began)
{
    if (began)
        latency_add(l, env_mono_ns(env) - began);
}

void latency_get(const struct latency *l, struct lsm_latency *out);

#endif
