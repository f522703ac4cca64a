/*
 * arena.h - memory of a memtable: filled from the front, nothing is given back before all of it is.
 *
 * Pieces are named by their offset in units of 8 bytes, 0 for none, so that a link takes four bytes and an
 * arena may have 32 GiB. One thread takes; any thread may ask how much is left.
 */
#ifndef LSM_ARENA_H
#define LSM_ARENA_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define ARENA_MAX (UINT64_C(8) << 32)

struct arena {
    uint8_t *bytes; /* zeroed */
    size_t size;
    size_t used; /* atomic */
};

static inline size_t arena_round(size_t n) { return (n + 7) & ~(size_t)7; }
static inline size_t arena_used(const struct arena *a) { return __atomic_load_n(&a->used, __ATOMIC_RELAXED); }
static inline size_t arena_left(const struct arena *a) { return a->size - arena_used(a); }

/* What comes next, not taken yet: there is room for what is in arena_left. */
static inline void *arena_next(const struct arena *a) { return a->bytes + a->used; }
static inline void arena_take(struct arena *a, size_t n)
{
    assert(arena_round(n) <= arena_left(a));
    __atomic_store_n(&a->used, a->used + arena_round(n), __ATOMIC_RELAXED);
}

static inline void *arena_at(const struct arena *a, uint32_t link) { return a->bytes + (size_t)link * 8; }
static inline uint32_t arena_link(const struct arena *a, const void *p)
{
    return (uint32_t)((size_t)((const uint8_t *)p - a->bytes) / 8);
}

#endif
