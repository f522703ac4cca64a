/* yield.c - see yield.h. */
#include "yield.h"

#include "cpu.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WINDOW_MS 100u  /* /proc/stat counts in hundredths of a second */
#define ENOUGH 0.6      /* of a CPU's time idle: there is one to spare */
#define TOO_LITTLE 0.33 /* there is none any more */

struct yield {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;   /* under lock */
    int started; /* under lock: 1, or a negative errno: it can't be had */
    int stat_fd; /* the thread's own after the start */
    bool spare;  /* atomic */
    bool used;   /* atomic: requests were served since the last look */
    bool asleep; /* atomic, set under lock: nobody looks until the next request */
};

bool yield_decide(double wall, double idle, bool was)
{
    return wall > 0 && idle >= wall * (was ? TOO_LITTLE : ENOUGH);
}

double yield_idle_ticks(const char *text)
{
    unsigned long long idle, waiting;

    /* user, nice, system, idle, iowait: proc_stat(5). A CPU whose threads wait for the disk is as idle as another. */
    return sscanf(text, "cpu %*u %*u %*u %llu %llu", &idle, &waiting) == 2 ? (double)idle + (double)waiting
                                                                           : -1;
}

static double idle_seconds(const struct yield *y)
{
    char text[256]; /* the first line is enough */
    ssize_t n = pread(y->stat_fd, text, sizeof(text) - 1, 0);

    if (n <= 0)
        return -1;
    text[n] = '\0';
    return yield_idle_ticks(text) / (double)sysconf(_SC_CLK_TCK);
}

/* ---- what a thread is ---------------------------------------------------------------------- */

static bool become(int policy)
{
    const struct sched_param none = {0};

    return sched_setscheduler(0, policy, &none) == 0;
}

/* Whether a thread of this process can become one and come back. The calling thread may stay what it is then. */
static bool can_return(void)
{
    return sched_getscheduler(0) == SCHED_OTHER && become(SCHED_IDLE) && become(SCHED_OTHER);
}

void yield_apply(struct yield *y, struct yield_of *self)
{
    if (!y)
        return;
    if (!__atomic_load_n(&y->used, __ATOMIC_RELAXED))
        __atomic_store_n(&y->used, true, __ATOMIC_RELAXED);
    if (__atomic_load_n(&y->asleep, __ATOMIC_RELAXED)) {
        pthread_mutex_lock(&y->lock);
        __atomic_store_n(&y->asleep, false, __ATOMIC_RELAXED);
        pthread_cond_signal(&y->changed);
        pthread_mutex_unlock(&y->lock);
    }
    const bool spare = __atomic_load_n(&y->spare, __ATOMIC_RELAXED);
    if (spare == self->idle || !become(spare ? SCHED_IDLE : SCHED_OTHER))
        return;
    self->idle = spare;
    if (!spare)
        cpu_prompt();
}

bool yield_state(const struct yield *y) { return y && __atomic_load_n(&y->spare, __ATOMIC_RELAXED); }

/* ---- who watches --------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Until there are requests again; true if it is time to end. */
static bool wait_for_requests(struct yield *y)
{
    bool stop;

    pthread_mutex_lock(&y->lock);
    __atomic_store_n(&y->asleep, true, __ATOMIC_RELAXED);
    while (!y->stop && __atomic_load_n(&y->asleep, __ATOMIC_RELAXED))
        pthread_cond_wait(&y->changed, &y->lock);
    stop = y->stop;
    pthread_mutex_unlock(&y->lock);
    return stop;
}

static bool wait_for_window(struct yield *y)
{
    struct timespec until;
    bool stop;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += WINDOW_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_mutex_lock(&y->lock);
    while (!y->stop && pthread_cond_timedwait(&y->changed, &y->lock, &until) != ETIMEDOUT)
        ;
    stop = y->stop;
    pthread_mutex_unlock(&y->lock);
    return stop;
}

/* What was found last stays while nobody asks for anything: most likely it is still so. */
static void watch(struct yield *y)
{
    while (!wait_for_requests(y)) {
        do {
            const double wall = now(), idle = idle_seconds(y);
            __atomic_store_n(&y->used, false, __ATOMIC_RELAXED);
            if (wait_for_window(y))
                return;
            const double then = idle_seconds(y);
            const bool was = __atomic_load_n(&y->spare, __ATOMIC_RELAXED);
            const bool is = idle >= 0 && then >= 0 && yield_decide(now() - wall, then - idle, was);
            __atomic_store_n(&y->spare, is, __ATOMIC_RELAXED);
        } while (__atomic_load_n(&y->used, __ATOMIC_RELAXED));
    }
}

static void *watch_main(void *arg)
{
    struct yield *y = arg;
    const bool able = can_return();

    pthread_setname_np(pthread_self(), "fuse-yield");
    pthread_mutex_lock(&y->lock);
    y->started = able ? 1 : -ENOTSUP;
    pthread_cond_signal(&y->changed);
    pthread_mutex_unlock(&y->lock);
    if (able)
        watch(y);
    return NULL;
}

static void release(struct yield *y)
{
    if (y->stat_fd >= 0)
        close(y->stat_fd);
    pthread_cond_destroy(&y->changed);
    pthread_mutex_destroy(&y->lock);
    free(y);
}

static void init_sync(struct yield *y)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&y->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&y->changed, &attr);
    pthread_condattr_destroy(&attr);
}

static int start(struct yield *y)
{
    int rc;

    y->stat_fd = open("/proc/stat", O_RDONLY | O_CLOEXEC);
    if (y->stat_fd < 0 || idle_seconds(y) < 0)
        return -ENOTSUP;
    rc = -pthread_create(&y->thread, NULL, watch_main, y);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&y->lock);
    while (y->started == 0)
        pthread_cond_wait(&y->changed, &y->lock);
    rc = y->started < 0 ? y->started : 0;
    pthread_mutex_unlock(&y->lock);
    if (rc < 0)
        pthread_join(y->thread, NULL);
    return rc;
}

int yield_new(struct yield **out)
{
    struct yield *y;
    int rc;

    *out = NULL;
    if (cpu_possible() < 2)
        return -ENOTSUP;
    y = calloc(1, sizeof(*y));
    if (!y)
        return -ENOMEM;
    init_sync(y);
    rc = start(y);
    if (rc < 0) {
        release(y);
        return rc;
    }
    *out = y;
    return 0;
}

void yield_free(struct yield *y)
{
    if (!y)
        return;
    pthread_mutex_lock(&y->lock);
    y->stop = true;
    pthread_cond_signal(&y->changed);
    pthread_mutex_unlock(&y->lock);
    pthread_join(y->thread, NULL);
    release(y);
}
