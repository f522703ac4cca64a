/*
 * transport.c - see transport.h. Worker threads that block in read(2) on the session's device.
 *
 * Every thread reads into a buffer of its own and runs the request to its end, so a slow request
 * holds up one thread. There are WORKERS_PER_CPU of them a CPU, because some will be waiting for
 * the disk. The device is not cloned: with one client that gained 14 to 19 % on stat and create and
 * lost 7 to 28 % on read and unlink (Linux 6.18, two CPUs, an in-memory filesystem).
 *
 * Stopping: a thread that waits in read() is woken by a signal that does nothing. The signal is sent
 * again until the thread has gone, which covers the moment between its look at `stop` and its read.
 *
 * INIT: libfuse 3.14 sends only the flags it knows of, and forgets FUSE_PARALLEL_DIROPS. The thread
 * that reads INIT remembers its unique number, and the reply with that number, which passes through
 * write_reply on the same thread, gets the flags added.
 */
#include "transport.h"

#include "log.h"

#include <errno.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define WORKERS_PER_CPU 2
#define WORKERS_MIN 4u
#define WORKERS_MAX 32u
#define HEADER_BYTES 4096u /* more than any request has beside the data of a WRITE */
#define WAKE_SIGNAL SIGUSR1
#define WAKE_AGAIN_NS 2000000L

struct transport {
    struct transport_config config;
    int fd;
    size_t buffer_bytes;
    bool stop;        /* atomic */
    bool told;        /* atomic: `ended` was called */
    unsigned running; /* atomic: threads that have not returned */
    unsigned workers;
    pthread_t thread[WORKERS_MAX];
};

static _Thread_local struct {
    bool pending;
    uint64_t unique, add;
} init_reply;

/* ---- libfuse's way to the device ----------------------------------------------------------- */

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
    const struct fuse_out_header *head = iov[0].iov_base;
    struct fuse_init_out init = {0};

    (void)userdata;
    if (!init_reply.pending || head->unique != init_reply.unique)
        return writev(fd, iov, count);
    init_reply.pending = false;
    if (count != 2 || head->error || iov[1].iov_len > sizeof(init))
        return writev(fd, iov, count);
    memcpy(&init, iov[1].iov_base, iov[1].iov_len);
    init.flags |= (uint32_t)init_reply.add;
    if (init.flags & FUSE_INIT_EXT)
        init.flags2 |= (uint32_t)(init_reply.add >> 32);
    struct iovec patched[2] = {iov[0], {&init, iov[1].iov_len}};
    return writev(fd, patched, 2);
}

/* Needed by fuse_session_custom_io; the workers read for themselves. */
static ssize_t read_request(int fd, void *buf, size_t len, void *userdata)
{
    (void)userdata;
    return read(fd, buf, len);
}

static void note_init(const struct transport *t, const void *request, size_t len)
{
    const struct fuse_in_header *head = request;
    const struct fuse_init_in *in = (const void *)(head + 1);
    uint64_t offered;

    if (len < sizeof(*head) + offsetof(struct fuse_init_in, flags) + sizeof(in->flags) ||
        head->opcode != FUSE_INIT)
        return;
    offered = in->flags;
    if (offered & FUSE_INIT_EXT &&
        len >= sizeof(*head) + offsetof(struct fuse_init_in, flags2) + sizeof(in->flags2))
        offered |= (uint64_t)in->flags2 << 32;
    init_reply.pending = true;
    init_reply.unique = head->unique;
    init_reply.add = t->config.init_flags & offered;
}

/* ---- workers ------------------------------------------------------------------------------- */

static void wake(int sig) { (void)sig; }

static bool stopping(struct transport *t)
{
    return __atomic_load_n(&t->stop, __ATOMIC_ACQUIRE) || fuse_session_exited(t->config.session);
}

/* Takes and works off one request. False: there will be no more. */
static bool serve_one(struct transport *t, void *buffer)
{
    ssize_t n = read(t->fd, buffer, t->buffer_bytes);

    if (n > 0) {
        struct fuse_buf request = {.size = (size_t)n, .mem = buffer};
        note_init(t, buffer, (size_t)n);
        fuse_session_process_buf(t->config.session, &request);
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

static void *worker(void *arg)
{
    struct transport *t = arg;
    void *buffer = malloc(t->buffer_bytes);

    if (!buffer)
        log_write(LSM_LOG_ERROR, "no memory for the buffer of a worker thread");
    while (buffer && !stopping(t) && serve_one(t, buffer))
        ;
    free(buffer);
    __atomic_sub_fetch(&t->running, 1, __ATOMIC_ACQ_REL);
    if (!__atomic_load_n(&t->stop, __ATOMIC_ACQUIRE) &&
        !__atomic_exchange_n(&t->told, true, __ATOMIC_ACQ_REL))
        t->config.ended(t->config.arg);
    return NULL;
}

static unsigned worker_count(void)
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

    sigemptyset(&action.sa_mask);
    return sigaction(WAKE_SIGNAL, &action, NULL) < 0 ? -errno : 0;
}

int transport_start(const struct transport_config *config, struct transport **out)
{
    static const struct fuse_custom_io io = {.read = read_request, .writev = write_reply};
    struct transport *t = calloc(1, sizeof(*t));
    unsigned wanted = worker_count();
    int rc;

    if (!t)
        return -ENOMEM;
    t->config = *config;
    t->fd = fuse_session_fd(config->session);
    t->buffer_bytes = config->max_write + HEADER_BYTES;
    rc = prepare_wake_signal();
    if (rc < 0)
        goto out;
    if (fuse_session_custom_io(config->session, &io, t->fd) != 0)
        log_write(LSM_LOG_WARNING,
                  "libfuse takes no I/O functions of ours; lookups in one directory wait for each other");
    while (t->workers < wanted) {
        __atomic_add_fetch(&t->running, 1, __ATOMIC_ACQ_REL);
        rc = -pthread_create(&t->thread[t->workers], NULL, worker, t);
        if (rc < 0) {
            __atomic_sub_fetch(&t->running, 1, __ATOMIC_ACQ_REL);
            break;
        }
        t->workers++;
    }
out:
    if (t->workers == 0) {
        free(t);
        return rc;
    }
    if (rc < 0) /* fewer will do */
        log_write(LSM_LOG_WARNING, "only %u of %u worker threads could be started: %s", t->workers, wanted,
                  strerror(-rc));
    *out = t;
    return 0;
}

bool transport_ended(struct transport *t) { return __atomic_load_n(&t->running, __ATOMIC_ACQUIRE) == 0; }

void transport_stop(struct transport *t)
{
    const struct timespec pause = {0, WAKE_AGAIN_NS};

    __atomic_store_n(&t->stop, true, __ATOMIC_RELEASE);
    while (!transport_ended(t)) {
        for (unsigned i = 0; i < t->workers; i++)
            pthread_kill(t->thread[i],
                         WAKE_SIGNAL); /* a thread that has returned but is not joined takes it */
        nanosleep(&pause, NULL);
    }
    for (unsigned i = 0; i < t->workers; i++)
        pthread_join(t->thread[i], NULL);
    free(t);
}
