/*
 * fault.c - a library to be preloaded (LD_PRELOAD) into the daemon: system calls fail or take long, as FAULT says.
 *
 *   FAULT=CALL=N        the Nth call of CALL fails (1: the first): queue_init, register_files, eventfd, and
 *                       register_queue, for which the kernel will refuse the queue's entries
 *   FAULT=CALL=N        before the Nth call of syncfs or umount2 the shell runs FAULT_RUN (which should unset LD_PRELOAD)
 *   FAULT=sync_ms=MS    each fdatasync takes so long; FAULT=read_ms=MS: each read of a table; FAULT=write_ms=MS: each
 *                       pwritev of half a megabyte and more
 *
 * The daemon itself knows nothing of it.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int value_of(const char *name)
{
    const char *fault = getenv("FAULT");
    size_t len = strlen(name);

    return fault && strncmp(fault, name, len) == 0 && fault[len] == '=' ? atoi(fault + len + 1) : 0;
}

/* Whether this call is the one. */
static int fails(const char *name, int *calls)
{
    int n = value_of(name);

    return n > 0 && __atomic_add_fetch(calls, 1, __ATOMIC_RELAXED) == n;
}

static void pause_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};

    while (ms > 0 && nanosleep(&t, &t) < 0)
        ;
}

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p)
{
    static int calls;
    int (*real)(unsigned, struct io_uring *, struct io_uring_params *) =
        (__typeof__(real))dlsym(RTLD_NEXT, "io_uring_queue_init_params");

    /* Only the queues' rings: the engine has some of its own, made whenever it first reads. */
    return p->flags & IORING_SETUP_SQE128 && fails("queue_init", &calls) ? -EPERM : real(entries, ring, p);
}

int io_uring_register_files(struct io_uring *ring, const int *files, unsigned count)
{
    static int calls, queue_calls;
    int (*real)(struct io_uring *, const int *, unsigned) =
        (__typeof__(real))dlsym(RTLD_NEXT, "io_uring_register_files");

    if (fails("register_files", &calls))
        return -ENOMEM;
    if (fails("register_queue", &queue_calls)) { /* commands go to a file that knows none */
        int other = open("/", O_RDONLY | O_CLOEXEC);
        int rc = real(ring, &other, 1);
        close(other);
        return rc;
    }
    return real(ring, files, count);
}

int eventfd(unsigned count, int flags)
{
    static int calls;
    int (*real)(unsigned, int) = (__typeof__(real))dlsym(RTLD_NEXT, "eventfd");

    if (fails("eventfd", &calls)) {
        errno = EMFILE;
        return -1;
    }
    return real(count, flags);
}

static void run_before(const char *name, int *calls)
{
    if (fails(name, calls) && system(getenv("FAULT_RUN")) != 0)
        abort();
}

int syncfs(int fd)
{
    static int calls;
    int (*real)(int) = (__typeof__(real))dlsym(RTLD_NEXT, "syncfs");

    run_before("syncfs", &calls);
    return real(fd);
}

int umount2(const char *path, int flags)
{
    static int calls;
    int (*real)(const char *, int) = (__typeof__(real))dlsym(RTLD_NEXT, "umount2");

    run_before("umount2", &calls);
    return real(path, flags);
}

int fdatasync(int fd)
{
    int (*real)(int) = (__typeof__(real))dlsym(RTLD_NEXT, "fdatasync");

    pause_ms(value_of("sync_ms"));
    return real(fd);
}

ssize_t pread64(int fd, void *buf, size_t len, off64_t off)
{
    ssize_t (*real)(int, void *, size_t, off64_t) = (__typeof__(real))dlsym(RTLD_NEXT, "pread64");

    pause_ms(value_of("read_ms"));
    return real(fd, buf, len, off);
}

/* With read_ms nothing is in the page cache. */
ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t off, int flags)
{
    ssize_t (*real)(int, const struct iovec *, int, off64_t, int) =
        (__typeof__(real))dlsym(RTLD_NEXT, "preadv64v2");

    if (flags & RWF_NOWAIT && value_of("read_ms") > 0) {
        errno = EAGAIN;
        return -1;
    }
    return real(fd, iov, count, off, flags);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t off)
{
    static __typeof__(pwritev64) *real;
    size_t bytes = 0;

    if (!real)
        real = (__typeof__(real))dlsym(RTLD_NEXT, "pwritev64");
    for (int i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    if (bytes >= 512u << 10)
        pause_ms(value_of("write_ms"));
    return real(fd, iov, count, off);
}
