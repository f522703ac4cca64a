/* reclaim.c - see reclaim.h. */
#include "reclaim.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define POLL_MS 250u     /* within the budget: at 100 000 new inodes a second, 2 MiB */
#define POLL_BUSY_MS 50u /* over it: FORGETs come in meanwhile */
#define LOT 256u         /* names a call to fs_cold_inodes */
#define LOTS_MAX 16u     /* a wake-up: 4096 names each 50 ms is more than creates can make */

struct reclaim {
    struct adapter *adapter;
    struct fuse_session *session;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop; /* under lock */
    struct fs_cold cold[LOT];
};

static bool over_budget(const struct reclaim *r)
{
    struct fs_stats stats;

    fs_stats_get(r->adapter->fs, &stats);
    return stats.inode_bytes > stats.inode_bytes_max;
}

/* Sleeps; true if it is time to end. */
static bool pause_or_stop(struct reclaim *r, unsigned ms)
{
    struct timespec until;
    bool stop;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_mutex_lock(&r->lock);
    while (!r->stop && pthread_cond_timedwait(&r->wake, &r->lock, &until) != ETIMEDOUT)
        ;
    stop = r->stop;
    pthread_mutex_unlock(&r->lock);
    return stop;
}

static bool asked_to_stop(struct reclaim *r)
{
    pthread_mutex_lock(&r->lock);
    bool stop = r->stop;
    pthread_mutex_unlock(&r->lock);
    return stop;
}

/* Returns whether there was anything to drop. */
static bool drop_lot(struct reclaim *r)
{
    size_t n = fs_cold_inodes(r->adapter->fs, r->cold, LOT);

    /* A name that the kernel no longer knows (-ENOENT) or that is in use is no error: others will do. */
    for (size_t i = 0; i < n && !asked_to_stop(r); i++)
        fuse_lowlevel_notify_inval_entry(r->session, r->cold[i].parent, r->cold[i].name, r->cold[i].len);
    return n > 0;
}

static void *reclaim_main(void *arg)
{
    struct reclaim *r = arg;
    bool over = false;

    while (!pause_or_stop(r, over ? POLL_BUSY_MS : POLL_MS)) {
        over = over_budget(r);
        __atomic_store_n(&r->adapter->tight, over, __ATOMIC_RELAXED);
        for (unsigned i = 0; over && i < LOTS_MAX && over_budget(r); i++)
            if (!drop_lot(r))
                break;
    }
    return NULL;
}

int reclaim_start(struct adapter *a, struct fuse_session *session, struct reclaim **out)
{
    struct reclaim *r = calloc(1, sizeof(*r));
    pthread_condattr_t attr;
    int rc;

    if (!r)
        return -ENOMEM;
    r->adapter = a;
    r->session = session;
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->wake, &attr);
    pthread_condattr_destroy(&attr);
    rc = -pthread_create(&r->thread, NULL, reclaim_main, r);
    if (rc < 0) {
        pthread_cond_destroy(&r->wake);
        pthread_mutex_destroy(&r->lock);
        free(r);
        return rc;
    }
    *out = r;
    return 0;
}

void reclaim_stop(struct reclaim *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
