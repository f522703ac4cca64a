/*
 * nowait.h - private: the non-blocking mode of a thread (fs_nowait), and what waits in fs/.
 *
 * In this mode whatever would wait returns -EAGAIN instead, and the operation passes that on like any error: nothing
 * has changed, and the caller runs it again where it may wait. All that waits goes through here: locks
 * (lock_mutex, lock_shared, lock_exclusive), reads (nowait_flags), commits (nowait_commit). An operation of several commits
 * could not be run again as a whole after the first: it asks nowait_on() and returns -EAGAIN before that.
 *
 * Locks are tried for NOWAIT_SPINS rounds: who holds one is commonly on another CPU and done in a few microseconds,
 * while running the operation again on another thread costs 20 or more.
 */
#ifndef FS_NOWAIT_H
#define FS_NOWAIT_H

#include <pthread.h>
#include <stdbool.h>
#include <shale/lsm.h>

#define NOWAIT_SPINS 200u /* of a few nanoseconds to tens of them each */
#define NOWAIT_COMMIT_TRIES \
    4u /* with NOWAIT_SPINS between them: a shard's lock is held for a memtable insertion */

extern _Thread_local bool nowait_thread;

static inline bool nowait_on(void) { return nowait_thread; }
/* For lsm_get and iterators. */
static inline unsigned nowait_flags(void) { return nowait_thread ? LSM_NOWAIT : 0; }

/* 0, or -EAGAIN in non-blocking mode. */
int lock_mutex(pthread_mutex_t *lock);
int lock_shared(pthread_rwlock_t *lock);
int lock_exclusive(pthread_rwlock_t *lock);

/* `shrinks`: the batch frees space, and goes on a full disk, too. */
int nowait_commit(struct lsm *db, const struct lsm_batch *batch, bool shrinks);

#endif
