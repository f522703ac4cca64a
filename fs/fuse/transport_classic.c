/*
 * transport_classic.c - see transport.h. Worker threads that block in read(2) on the session's device.
 *
 * Every worker reads into a buffer of its own and runs the request to its end, or, if that would have to
 * wait, hands a copy of it to the slow threads. Requests are small, but for the data of a WRITE, so the copy is
 * cheap beside the waiting.
 *
 * How many, and where: two for each CPU, free to move. On two busy CPUs (load over 20; five interleaved rounds, the geometric mean of
 * create, stat, read, overwrite and unlink of small files, as a multiple of that) one thread did 0.76 of it with one client and
 * 0.58 with two, two threads 0.98 and 0.62, two pinned ones 0.72 and 1.05, four pinned ones 0.34 and 0.60, two that
 * poll for 50 us before they sleep 0.53 and 0.75. The device is not cloned: with one client that gained 14 to 19 % on stat and
 * create and lost 7 to 28 % on read and unlink (an in-memory filesystem, idle CPUs).
 *
 * Stopping: a thread that waits in read() is woken by a signal that does nothing. The signal is sent
 * again until the thread has gone, which covers the moment between its look at `stop` and its read.
 */
#include "transport_internal.h"

#include "cpu.h"
#include "log.h"
#include "slow.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WORKERS_PER_CPU 2
#define WORKERS_MIN 4u
#define WORKERS_MAX 32u
#define WAKE_SIGNAL SIGUSR1
#define WAKE_AGAIN_NS 2000000L

struct worker {
    struct classic *owner;
    void *buffer; /* made before the thread: one that has started serves */
    pthread_t thread;
};

struct classic {
    struct transport *transport;
    struct slow *slow;
    size_t buffer_bytes;
    bool stop;         /* atomic */
    unsigned running;  /* atomic: threads that have not returned */
    uint64_t requests; /* atomic */
    uint64_t deferred; /* atomic */
    unsigned workers;
    struct worker worker[WORKERS_MAX];
};

struct deferred {
    struct slow_job job; /* first */
    struct transport *transport;
    size_t len;
    uint64_t request[]; /* aligned as libfuse wants it */
};

/* ---- workers ------------------------------------------------------------------------------- */

static void wake(int sig) { (void)sig; }

static bool stopping(struct classic *c)
{
    return __atomic_load_n(&c->stop, __ATOMIC_ACQUIRE) || fuse_session_exited(c->transport->config.session);
}

static void run_deferred(struct slow_job *job)
{
    struct deferred *d = (struct deferred *)job;
    struct running r = {.bytes = d->request, .len = d->len, .may_wait = true};

    transport_run(d->transport, &r);
    free(d);
}

static void defer(struct classic *c, struct running *r)
{
    struct deferred *d = malloc(sizeof(*d) + r->len);

    __atomic_fetch_add(&c->deferred, 1, __ATOMIC_RELAXED);
    if (!d) { /* then it waits here: slower for the others, but right */
        r->may_wait = true;
        transport_run(c->transport, r);
        return;
    }
    d->job.run = run_deferred;
    d->transport = c->transport;
    d->len = r->len;
    memcpy(d->request, r->bytes, r->len);
    slow_put(c->slow, &d->job);
}

static void serve(struct classic *c, void *buffer, size_t len)
{
    struct running r = {.bytes = buffer, .len = len};

    __atomic_fetch_add(&c->requests, 1, __ATOMIC_RELAXED);
    if (len >= sizeof(struct fuse_in_header) &&
        ((const struct fuse_in_header *)buffer)->opcode == FUSE_INTERRUPT)
        return;
    transport_run(c->transport, &r);
    if (r.deferred)
        defer(c, &r);
}

/* Takes and works off one request. False: there will be no more. */
static bool serve_one(struct classic *c, void *buffer)
{
    ssize_t n = read(c->transport->fd, buffer, c->buffer_bytes);

    if (n > 0) {
        serve(c, buffer, (size_t)n);
        return true;
    }
    /* ENOENT: the request was withdrawn while it was being handed over. */
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
        return true;
    /* ENODEV: unmounted. ECONNABORTED: somebody aborted the connection. */
    if (n < 0 && errno != ENODEV && errno != ECONNABORTED)
        log_write(LSM_LOG_ERROR, "reading the FUSE device: %s", strerror(errno));
    return false;
}

static void *worker_main(void *arg)
{
    const struct worker *w = arg;
    struct classic *c = w->owner;
    struct transport *t = c->transport;

    pthread_setname_np(pthread_self(), "fuse-dev");
    cpu_prompt();
    while (!stopping(c) && serve_one(c, w->buffer))
        ;
    __atomic_sub_fetch(&c->running, 1, __ATOMIC_ACQ_REL);
    if (!__atomic_load_n(&c->stop, __ATOMIC_ACQUIRE))
        transport_tell_ended(t);
    return NULL;
}

/* ---- starting and stopping ----------------------------------------------------------------- */

unsigned classic_threads_wanted(void)
{
    cpu_set_t set;
    unsigned n = 1;

    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        n = (unsigned)CPU_COUNT(&set);
    n *= WORKERS_PER_CPU;
    return n < WORKERS_MIN ? WORKERS_MIN : n > WORKERS_MAX ? WORKERS_MAX : n;
}

static int prepare_wake_signal(void)
{
    struct sigaction action = {.sa_handler = wake}; /* without SA_RESTART: read() returns EINTR */

    sigset_t set;

    sigemptyset(&action.sa_mask);
    sigemptyset(&set);
    sigaddset(&set, WAKE_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL); /* the starter's mask is ours, and that of the workers */
    return sigaction(WAKE_SIGNAL, &action, NULL) < 0 ? -errno : 0;
}

static int start_worker(struct classic *c)
{
    struct worker *w = &c->worker[c->workers];
    int rc;

    w->owner = c;
    w->buffer = malloc(c->buffer_bytes);
    if (!w->buffer)
        return -ENOMEM;
    __atomic_add_fetch(&c->running, 1, __ATOMIC_ACQ_REL);
    rc = -pthread_create(&w->thread, NULL, worker_main, w);
    if (rc < 0) {
        __atomic_sub_fetch(&c->running, 1, __ATOMIC_ACQ_REL);
        free(w->buffer);
        return rc;
    }
    c->workers++;
    return 0;
}

static int start_workers(struct classic *c, unsigned threads)
{
    int rc = 0;

    while (rc == 0 && c->workers < threads)
        rc = start_worker(c);
    if (rc < 0 && c->workers > 0) /* fewer will do */
        log_write(LSM_LOG_WARNING, "only %u of %u worker threads could be started: %s", c->workers, threads,
                  strerror(-rc));
    return c->workers > 0 ? 0 : rc;
}

int classic_start(struct transport *t, unsigned threads, struct classic **out)
{
    struct classic *c = calloc(1, sizeof(*c));
    int rc = c ? prepare_wake_signal() : -ENOMEM;

    if (rc == 0) {
        c->transport = t;
        c->buffer_bytes = t->config.max_write + HEADER_BYTES;
        rc = slow_new(-1, &c->slow);
    }
    if (rc == 0)
        rc = start_workers(c, threads);
    if (rc < 0) {
        classic_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

bool classic_ended(const struct classic *c) { return __atomic_load_n(&c->running, __ATOMIC_ACQUIRE) == 0; }

void classic_stop(struct classic *c)
{
    const struct timespec pause = {0, WAKE_AGAIN_NS};

    __atomic_store_n(&c->stop, true, __ATOMIC_RELEASE);
    while (!classic_ended(c)) {
        for (unsigned i = 0; i < c->workers; i++)
            pthread_kill(c->worker[i].thread,
                         WAKE_SIGNAL); /* a thread that has returned but is not joined takes it */
        nanosleep(&pause, NULL);
    }
    for (unsigned i = 0; i < c->workers; i++) {
        pthread_join(c->worker[i].thread, NULL);
        free(c->worker[i].buffer);
    }
    slow_free(c->slow);
    c->slow = NULL;
}

void classic_free(struct classic *c)
{
    if (!c)
        return;
    slow_free(c->slow);
    free(c);
}

void classic_info(const struct classic *c, struct transport_info *out)
{
    out->threads = c->workers;
    out->requests = __atomic_load_n(&c->requests, __ATOMIC_RELAXED);
    out->deferred = __atomic_load_n(&c->deferred, __ATOMIC_RELAXED);
}
