/*
 * cache.c - the block cache: 16 slices of a chained hash table with CLOCK replacement.
 *
 * A block is `linked` (found by lookups, a member of its slice's clock) or not (dropped with its
 * file, or inserted not to be kept); an unlinked block is freed with its last reference. `refs` and
 * all links are guarded by the slice's lock.
 *
 * Budget: one for all slices (`bytes`, atomic), with what malloc needs for a block counted in.
 * Whoever goes over it evicts from its own slice as far as that holds more than its share, then
 * from the others that do. So one slice may borrow what the others do not use: a large filter block
 * stays although it exceeds a sixteenth of a small cache. Since the shares add up to the budget,
 * only referenced blocks can keep the cache above it; releasing one evicts again.
 *
 * Threads: any. At most one slice's lock is held at a time.
 *
 * Source: F. Corbato, A Paging Experiment with the Multics System (1968), for CLOCK.
 */
#include "cache.h"
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SLICE_BITS 4
#define SLICES (1u << SLICE_BITS)
#define BUCKETS_MIN 64u
#define MALLOC_OVERHEAD_BYTES 64u /* two allocations, rounded up, and the hash bucket */

struct entry {
    struct cache_block block; /* first: what callers hold */
    uint64_t file, offset, hash;
    unsigned refs;
    bool linked;
    bool referenced; /* since the hand passed last */
    struct entry *chain;
    struct entry *newer, *older; /* ring around the hand */
};

struct slice {
    pthread_mutex_t lock;
    struct entry **buckets;
    size_t bucket_count; /* a power of two */
    size_t count;        /* linked entries */
    size_t idle;         /* of these, how many without a reference: what eviction can take */
    struct entry *hand;  /* next candidate; a new block goes right behind it, to be seen last */
    uint64_t bytes;
    uint64_t hits, misses;
} __attribute__((aligned(64)));

struct cache {
    uint64_t capacity_bytes;
    uint64_t bytes; /* atomic; the sum of the slices' */
    struct slice slices[SLICES];
};

static uint64_t entry_bytes(const struct entry *e)
{
    return e->block.len + sizeof(*e) + MALLOC_OVERHEAD_BYTES;
}

static uint64_t hash_of(uint64_t file, uint64_t offset)
{
    uint64_t x = file * UINT64_C(0x9e3779b97f4a7c15) ^ offset;
    x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ (x >> 32);
}

static struct slice *slice_of(struct cache *c, uint64_t hash)
{
    return &c->slices[hash >> (64 - SLICE_BITS)];
}

static struct entry **bucket_of(struct slice *s, uint64_t hash)
{
    return &s->buckets[hash & (s->bucket_count - 1)];
}

/* ---- creating and releasing ---- */

int cache_new(size_t capacity_bytes, struct cache **out)
{
    struct cache *c = aligned_alloc(64, sizeof(*c));
    if (!c)
        return -ENOMEM;
    memset(c, 0, sizeof(*c));
    c->capacity_bytes = capacity_bytes;
    for (unsigned i = 0; i < SLICES; i++) {
        struct slice *s = &c->slices[i];
        pthread_mutex_init(&s->lock, NULL);
        s->bucket_count = BUCKETS_MIN;
        s->buckets = calloc(BUCKETS_MIN, sizeof(*s->buckets));
        if (!s->buckets) {
            for (unsigned k = 0; k <= i; k++) {
                free(c->slices[k].buckets);
                pthread_mutex_destroy(&c->slices[k].lock);
            }
            free(c);
            return -ENOMEM;
        }
    }
    *out = c;
    return 0;
}

static void entry_free(struct entry *e)
{
    free(e->block.data);
    free(e);
}

void cache_free(struct cache *c)
{
    if (!c)
        return;
    for (unsigned i = 0; i < SLICES; i++) {
        struct slice *s = &c->slices[i];
        for (size_t n = s->count; n > 0; n--) {
            struct entry *e = s->hand;
            assert(e->refs == 0);
            s->hand = e->newer;
            s->bytes -= entry_bytes(e);
            entry_free(e);
        }
        assert(s->bytes == 0); /* else an unlinked block is still referenced */
        free(s->buckets);
        pthread_mutex_destroy(&s->lock);
    }
    free(c);
}

/* ---- under the slice's lock ---- */

static void account(struct cache *c, struct slice *s, const struct entry *e, bool add)
{
    uint64_t n = entry_bytes(e);
    if (add) {
        s->bytes += n;
        __atomic_fetch_add(&c->bytes, n, __ATOMIC_RELAXED);
    } else {
        s->bytes -= n;
        __atomic_fetch_sub(&c->bytes, n, __ATOMIC_RELAXED);
    }
}

static struct entry *find(struct slice *s, uint64_t file, uint64_t offset, uint64_t hash)
{
    struct entry *e = *bucket_of(s, hash);
    while (e && (e->file != file || e->offset != offset))
        e = e->chain;
    return e;
}

static void take_reference(struct slice *s, struct entry *e)
{
    if (e->linked && e->refs == 0)
        s->idle--;
    e->refs++;
    assert(e->refs > 0);
}

/* Doubles the hash table. Without memory the chains get longer; nothing else changes. */
static void grow(struct slice *s)
{
    size_t old_count = s->bucket_count;
    struct entry **old = s->buckets;
    struct entry **buckets = calloc(old_count * 2, sizeof(*buckets));
    if (!buckets)
        return;
    s->buckets = buckets;
    s->bucket_count = old_count * 2;
    for (size_t i = 0; i < old_count; i++) {
        for (struct entry *e = old[i], *next; e; e = next) {
            next = e->chain;
            struct entry **b = bucket_of(s, e->hash);
            e->chain = *b;
            *b = e;
        }
    }
    free(old);
}

static void link_entry(struct slice *s, struct entry *e)
{
    if (s->count >= s->bucket_count)
        grow(s);
    struct entry **b = bucket_of(s, e->hash);
    e->chain = *b;
    *b = e;
    if (s->hand) {
        e->newer = s->hand;
        e->older = s->hand->older;
        e->older->newer = e;
        e->newer->older = e;
    } else {
        e->newer = e->older = e;
        s->hand = e;
    }
    e->linked = true;
    s->count++;
    s->idle += e->refs == 0;
}

static void unlink_entry(struct slice *s, struct entry *e)
{
    struct entry **p = bucket_of(s, e->hash);
    while (*p != e)
        p = &(*p)->chain;
    *p = e->chain;
    if (s->hand == e)
        s->hand = e->newer == e ? NULL : e->newer;
    e->newer->older = e->older;
    e->older->newer = e->newer;
    e->linked = false;
    s->count--;
    s->idle -= e->refs == 0;
}

static bool over_budget(const struct cache *c, const struct slice *s)
{
    return __atomic_load_n(&c->bytes, __ATOMIC_RELAXED) > c->capacity_bytes &&
           s->bytes > c->capacity_bytes / SLICES;
}

/* Turns the hand until the budget is met or nothing is left to take; two rounds clear every bit. */
static void evict(struct cache *c, struct slice *s)
{
    for (size_t steps = 2 * s->count; steps > 0 && s->idle > 0 && over_budget(c, s); steps--) {
        struct entry *e = s->hand;
        s->hand = e->newer;
        if (e->refs > 0)
            continue;
        if (e->referenced) {
            e->referenced = false;
            continue;
        }
        unlink_entry(s, e);
        account(c, s, e, false);
        entry_free(e);
    }
}

/* ---- without a lock ---- */

/* What is left over the budget when the own slice has done its part: the other slices' turn. */
static void evict_others(struct cache *c, const struct slice *own)
{
    for (unsigned i = 0; i < SLICES; i++) {
        struct slice *s = &c->slices[i];
        if (__atomic_load_n(&c->bytes, __ATOMIC_RELAXED) <= c->capacity_bytes)
            return;
        if (s == own)
            continue;
        pthread_mutex_lock(&s->lock);
        evict(c, s);
        pthread_mutex_unlock(&s->lock);
    }
}

struct cache_block *cache_lookup(struct cache *c, uint64_t file, uint64_t offset)
{
    uint64_t hash = hash_of(file, offset);
    struct slice *s = slice_of(c, hash);
    pthread_mutex_lock(&s->lock);
    struct entry *e = find(s, file, offset, hash);
    if (e) {
        take_reference(s, e);
        e->referenced = true;
        s->hits++;
    } else {
        s->misses++;
    }
    pthread_mutex_unlock(&s->lock);
    return e ? &e->block : NULL;
}

int cache_insert(struct cache *c, uint64_t file, uint64_t offset, uint8_t *data, size_t len, int keep,
                 struct cache_block **out)
{
    struct entry *e = calloc(1, sizeof(*e));
    if (!e) {
        free(data);
        return -ENOMEM;
    }
    e->block = (struct cache_block){data, len};
    e->file = file;
    e->offset = offset;
    e->hash = hash_of(file, offset);
    struct slice *s = slice_of(c, e->hash);

    pthread_mutex_lock(&s->lock);
    struct entry *faster = find(s, file, offset, e->hash);
    if (faster) {
        take_reference(s, faster);
        pthread_mutex_unlock(&s->lock);
        entry_free(e);
        *out = &faster->block;
        return 0;
    }
    e->refs = 1;
    account(c, s, e, true);
    if (keep)
        link_entry(s, e);
    evict(c, s);
    pthread_mutex_unlock(&s->lock);
    evict_others(c, s);
    *out = &e->block;
    return 0;
}

void cache_release(struct cache *c, struct cache_block *b)
{
    struct entry *e = (struct entry *)b;
    struct slice *s = slice_of(c, e->hash);
    pthread_mutex_lock(&s->lock);
    assert(e->refs > 0);
    bool dead = --e->refs == 0 && !e->linked;
    if (e->refs == 0 && e->linked) {
        s->idle++;
        evict(c, s); /* may free e */
    } else if (dead) {
        account(c, s, e, false);
    }
    pthread_mutex_unlock(&s->lock);
    if (dead)
        entry_free(e);
}

void cache_drop_file(struct cache *c, uint64_t file)
{
    for (unsigned i = 0; i < SLICES; i++) {
        struct slice *s = &c->slices[i];
        pthread_mutex_lock(&s->lock);
        struct entry *e = s->hand;
        for (size_t n = s->count; n > 0; n--) {
            struct entry *next = e->newer;
            if (e->file == file) {
                unlink_entry(s, e);
                if (e->refs == 0) {
                    account(c, s, e, false);
                    entry_free(e);
                }
            }
            e = next;
        }
        pthread_mutex_unlock(&s->lock);
    }
}

void cache_stats_get(struct cache *c, struct cache_stats *out)
{
    *out = (struct cache_stats){.capacity_bytes = c->capacity_bytes};
    for (unsigned i = 0; i < SLICES; i++) {
        struct slice *s = &c->slices[i];
        pthread_mutex_lock(&s->lock);
        out->hits += s->hits;
        out->misses += s->misses;
        out->bytes += s->bytes;
        pthread_mutex_unlock(&s->lock);
    }
}
