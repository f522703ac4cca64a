/*
 * slot.h - a place of its own for each thread in what many threads count.
 *
 * A counter that several cores write costs each of them a cache miss; one for each thread costs nothing, and who wants the
 * sum adds them up. The first SLOT_COUNT - 1 threads that count have a slot to themselves as long as they live, and add
 * to it by a load and a store; all others share the last one and add atomically.
 *
 * An array of slots has SLOT_STRIDE for each, of which at most half are used: so two never share a cache line, wherever the
 * array begins, and neither are they neighbours, which processors fetch in pairs.
 *
 * Threads: any.
 */
#ifndef LSM_SLOT_H
#define LSM_SLOT_H

#include <stdint.h>

#define SLOT_COUNT \
    32u /* more threads than that do not run at once on most machines; a view has 4 KiB of them */
#define SLOT_STRIDE 128u
#define SLOT_SHARED (SLOT_COUNT - 1)

/* The index of this thread's and 1; 0: it has none yet. Near: found without a call, in the shared library, too. */
extern __thread unsigned slot_own __attribute__((tls_model("initial-exec")));

unsigned slot_take(void);

static inline unsigned slot_mine(void) { return slot_own ? slot_own - 1 : slot_take(); }

/* To a counter in this thread's slot, which is `slot`. Whoever sees the sum sees what was done before. */
static inline void slot_add(uint64_t *counter, unsigned slot, uint64_t n)
{
    if (slot == SLOT_SHARED)
        __atomic_fetch_add(counter, n, __ATOMIC_ACQ_REL);
    else
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELEASE);
}

static inline uint64_t slot_get(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

#endif
