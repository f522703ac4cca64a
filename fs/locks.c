/*
 * locks.c - see locks.h.
 */
#include "locks.h"
#include "nowait.h"
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define STRIPE_BITS 10
#define STRIPES (1u << STRIPE_BITS)

struct locks {
    pthread_rwlock_t inodes[STRIPES];
    pthread_mutex_t buckets[STRIPES];
};

static uint16_t stripe_of(uint64_t x)
{
    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return (uint16_t)(x >> (64 - STRIPE_BITS));
}

int locks_new(struct locks **out)
{
    struct locks *l = malloc(sizeof(*l));
    pthread_rwlockattr_t attr;

    if (!l)
        return -ENOMEM;
    pthread_rwlockattr_init(&attr);
    /* Readers of a busy directory must not keep creators out; nobody takes a stripe twice. */
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    for (unsigned i = 0; i < STRIPES; i++) {
        pthread_rwlock_init(&l->inodes[i], &attr);
        pthread_mutex_init(&l->buckets[i], NULL);
    }
    pthread_rwlockattr_destroy(&attr);
    *out = l;
    return 0;
}

void locks_free(struct locks *l)
{
    if (!l)
        return;
    for (unsigned i = 0; i < STRIPES; i++) {
        pthread_rwlock_destroy(&l->inodes[i]);
        pthread_mutex_destroy(&l->buckets[i]);
    }
    free(l);
}

void lockset_init(struct lockset *s, struct locks *l) { *s = (struct lockset){.locks = l}; }

void lockset_inode(struct lockset *s, fs_id id, bool exclusive)
{
    uint16_t stripe = stripe_of(id);
    unsigned at = 0;

    assert(!s->held);
    while (at < s->inodes && s->inode[at].stripe < stripe)
        at++;
    if (at < s->inodes && s->inode[at].stripe == stripe) {
        s->inode[at].exclusive |= exclusive;
        return;
    }
    assert(s->inodes < LOCKSET_INODES_MAX);
    memmove(&s->inode[at + 1], &s->inode[at], (s->inodes - at) * sizeof(s->inode[0]));
    s->inode[at].stripe = stripe;
    s->inode[at].exclusive = exclusive;
    s->inodes++;
}

int lockset_acquire(struct lockset *s)
{
    assert(!s->held);
    while (s->inodes_held < s->inodes) {
        pthread_rwlock_t *lock = &s->locks->inodes[s->inode[s->inodes_held].stripe];
        int r = s->inode[s->inodes_held].exclusive ? lock_exclusive(lock) : lock_shared(lock);
        if (r < 0)
            return r;
        s->inodes_held++;
    }
    s->held = true;
    return 0;
}

int lockset_buckets(struct lockset *s, const struct bucket_name *names, unsigned count)
{
    assert(s->held && s->buckets == 0 && count <= LOCKSET_BUCKETS_MAX);
    for (unsigned i = 0; i < count; i++) {
        uint16_t stripe = stripe_of(names[i].dir ^ stripe_of(names[i].hash) ^ names[i].hash << 20);
        if (s->buckets == 1 && s->bucket[0] == stripe)
            continue;
        s->bucket[s->buckets++] = stripe;
    }
    if (s->buckets == 2 && s->bucket[0] > s->bucket[1]) {
        uint16_t first = s->bucket[1];
        s->bucket[1] = s->bucket[0];
        s->bucket[0] = first;
    }
    while (s->buckets_held < s->buckets) {
        int r = lock_mutex(&s->locks->buckets[s->bucket[s->buckets_held]]);
        if (r < 0)
            return r;
        s->buckets_held++;
    }
    return 0;
}

void lockset_release(struct lockset *s)
{
    while (s->buckets_held > 0)
        pthread_mutex_unlock(&s->locks->buckets[s->bucket[--s->buckets_held]]);
    while (s->inodes_held > 0)
        pthread_rwlock_unlock(&s->locks->inodes[s->inode[--s->inodes_held].stripe]);
    lockset_init(s, s->locks);
}
