/*
 * env_posix_uring.h - several reads in one system call and in flight at once, over io_uring. Private to env_posix.c.
 *
 * Each thread that reads so has a ring of its own, made at its first call and released with the thread. Where there is none
 * (an old kernel, a container that forbids it, no memory for it) the caller does the same by pread.
 *
 * Threads: any.
 */
#ifndef LSM_ENV_POSIX_URING_H
#define LSM_ENV_POSIX_URING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define URING_READS_MAX 64u /* in flight at once */

struct uring_read {
    int fd;
    void *buf;
    size_t len;
    uint64_t off;
    ssize_t result; /* bytes, perhaps fewer than len; or a negative errno */
};

/*
 * At most URING_READS_MAX reads; returns when all are done. A negative errno: there is no ring, nothing was read. A read that
 * could not be submitted has -EAGAIN.
 */
int uring_read_all(struct uring_read *reads, unsigned n);

/* Whether this thread can have a ring: 0 or why not. */
int uring_status(void);

#endif
