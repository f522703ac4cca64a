/* nowait.c - see nowait.h. */
#include "nowait.h"
#include "fs.h"
#include <assert.h>
#include <errno.h>

_Thread_local bool nowait_thread;

void fs_nowait(bool on) { nowait_thread = on; }

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int try_mutex(void *lock) { return pthread_mutex_trylock(lock); }
static int try_shared(void *lock) { return pthread_rwlock_tryrdlock(lock); }
static int try_exclusive(void *lock) { return pthread_rwlock_trywrlock(lock); }

static int try_for_a_while(int (*try)(void *lock), void *lock)
{
    for (unsigned i = 0; i < NOWAIT_SPINS; i++) {
        if (try(lock) == 0)
            return 0;
        pause_cpu();
    }
    return -EAGAIN;
}

int lock_mutex(pthread_mutex_t *lock)
{
    if (nowait_thread)
        return try_for_a_while(try_mutex, lock);
    int r = pthread_mutex_lock(lock);
    assert(r == 0);
    return 0;
}

int lock_shared(pthread_rwlock_t *lock)
{
    if (nowait_thread)
        return try_for_a_while(try_shared, lock);
    int r = pthread_rwlock_rdlock(lock);
    assert(r == 0);
    return 0;
}

int lock_exclusive(pthread_rwlock_t *lock)
{
    if (nowait_thread)
        return try_for_a_while(try_exclusive, lock);
    int r = pthread_rwlock_wrlock(lock);
    assert(r == 0);
    return 0;
}

int nowait_commit(struct lsm *db, const struct lsm_batch *batch, bool shrinks)
{
    unsigned shrink = shrinks ? LSM_SHRINK : 0;
    int r = lsm_commit(db, batch, nowait_flags() | shrink);

    for (unsigned i = 1; r == -EAGAIN && nowait_thread && i < NOWAIT_COMMIT_TRIES; i++) {
        for (unsigned n = 0; n < NOWAIT_SPINS; n++)
            pause_cpu();
        r = lsm_commit(db, batch, LSM_NOWAIT | shrink);
    }
    return r;
}
