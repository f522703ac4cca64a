/*
 * env_posix_uring.c - see env_posix_uring.h.
 */
#include "env_posix_uring.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>

#define READ_MAX (1u << 30) /* of one request; the kernel takes a little less than 2 GiB */

struct ring {
    struct io_uring uring;
    int error; /* not 0: there is none, and why */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int key_error;

static void free_ring(void *arg)
{
    struct ring *r = arg;
    if (!r->error)
        io_uring_queue_exit(&r->uring);
    free(r);
}

static void make_key(void) { key_error = -pthread_key_create(&key, free_ring); }

/* The thread's; NULL without memory for it. */
static struct ring *ring_of_thread(void)
{
    static __thread struct ring *mine;
    if (mine)
        return mine;
    pthread_once(&once, make_key);
    struct ring *r = key_error ? NULL : calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    if (pthread_setspecific(key, r)) {
        free(r);
        return NULL;
    }
    r->error = io_uring_queue_init(URING_READS_MAX, &r->uring, 0);
    return mine = r;
}

int uring_status(void)
{
    struct ring *r = ring_of_thread();
    return r ? r->error : -ENOMEM;
}

/* How many the kernel has taken. */
static unsigned submit(struct ring *r, unsigned n)
{
    unsigned taken = 0;
    while (taken < n) {
        int rc = io_uring_submit(&r->uring);
        if (rc == -EINTR)
            continue;
        if (rc <= 0)
            break;
        taken += (unsigned)rc;
    }
    return taken;
}

/* All that is in flight must come back before the buffers are anybody else's: there is no giving up. */
static void reap(struct ring *r, struct uring_read *reads, unsigned n, unsigned in_flight)
{
    while (in_flight > 0) {
        struct io_uring_cqe *cqe;
        int rc = io_uring_wait_cqe(&r->uring, &cqe);
        if (rc == -EINTR || rc == -EAGAIN)
            continue;
        if (rc)
            abort();
        uint64_t i = io_uring_cqe_get_data64(cqe);
        assert(i < n);
        reads[i].result = cqe->res;
        io_uring_cqe_seen(&r->uring, cqe);
        in_flight--;
    }
}

int uring_read_all(struct uring_read *reads, unsigned n)
{
    struct ring *r = ring_of_thread();
    assert(n <= URING_READS_MAX);
    if (!r || r->error)
        return r ? r->error : -ENOMEM;
    for (unsigned i = 0; i < n; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
        assert(sqe); /* the ring was empty and has room for them all */
        unsigned len = reads[i].len < READ_MAX ? (unsigned)reads[i].len : READ_MAX;
        io_uring_prep_read(sqe, reads[i].fd, reads[i].buf, len, reads[i].off);
        io_uring_sqe_set_data64(sqe, i);
        reads[i].result = -EAGAIN;
    }
    unsigned taken = submit(r, n);
    reap(r, reads, n, taken);
    if (taken < n) {
        /* What was not taken would go out with the next call, into buffers long gone: a new ring, if ever. */
        io_uring_queue_exit(&r->uring);
        r->error = io_uring_queue_init(URING_READS_MAX, &r->uring, 0);
    }
    return 0;
}
