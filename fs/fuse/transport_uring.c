/*
 * transport_uring.c - see transport.h. FUSE over io_uring: a queue, a ring and a pinned thread for each possible CPU.
 *
 * An entry of a queue is room for one request: a header and a payload buffer that were given to the kernel by
 * FUSE_IO_URING_CMD_REGISTER. The completion of a command says that there is a request in its entry; the answer is put
 * in the same place and FUSE_IO_URING_CMD_COMMIT_AND_FETCH hands it over, and the entry with it.
 *
 *   kernel's ──completion──▶ running ──reply on the queue's thread──▶ (commit submitted) kernel's
 *                              │  ╲
 *                              │   deferred to a slow thread, or answered later (fsync)
 *                              ▼
 *                           answered: reply from another thread, in the queue's list; that wakes the
 *                                     queue's thread by an eventfd, which submits the commit
 *
 * Only the queue's own thread submits to its ring, because the kernel delivers requests in the context of
 * the thread that submitted the command. libfuse sees the entry's address as the request's unique number, so that a
 * reply finds its entry without any table.
 *
 * While a request waits its entry is taken: the depth of a queue is how many requests of a CPU can be waiting without
 * holding up the next one. An entry costs address space of a whole payload, but memory only where it was used.
 * The kernel takes the entry that was freed last, so what is used stays small; what remains of times with many large
 * requests at once is given back (trim).
 *
 * Threads: a queue's fields are its thread's but for `answered`, wake_fd and what is said to be atomic.
 */
#include "transport_internal.h"

#include "cpu.h"
#include "log.h"
#include "slow.h"
#include "yield.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PARAMETER "/sys/module/fuse/parameters/enable_uring"
#define IO_URING_DISABLED "/proc/sys/kernel/io_uring_disabled"

/*
 * Requests of one CPU that can be waiting, for the disk or in fsync, without holding up others; all queues together
 * ENTRIES_MAX. One less than a power of two, since a ring has one more place, for the eventfd.
 */
#define DEPTH_MAX 1023u
#define DEPTH_MIN 15u
#define ENTRIES_MAX 8192u

#define PAYLOAD_KEEP_BYTES (64u << 10) /* of an idle entry's payload stay in memory in any case */
#define PAYLOADS_KEEP_BYTES (8u << 20) /* of all of a queue's */

enum entry_state { ENTRY_KERNELS, ENTRY_RUNNING, ENTRY_ANSWERED, ENTRY_DEAD };

struct entry {
    struct slow_job job; /* first */
    struct queue *queue;
    struct fuse_uring_req_header *header;
    uint8_t *payload;
    struct iovec iov[2]; /* both, as the kernel is told of them */
    uint64_t commit_id, unique;
    uint8_t *request; /* put together before the payload */
    size_t request_len;
    size_t touched;         /* bytes of the payload that are in memory */
    enum entry_state state; /* atomic: another thread may turn RUNNING into ANSWERED */
    uint32_t command;       /* the last one submitted */
    struct entry *next;     /* in `answered` */
};

struct queue {
    struct uring *uring;
    unsigned id;
    pthread_t thread;
    bool started;
    struct io_uring ring;
    bool ring_made;
    int wake_fd; /* eventfd; -1 */
    uint64_t wake_count;
    struct entry *entries;
    uint8_t *memory;                     /* of all entries */
    size_t memory_bytes, payloads_bytes; /* payloads_bytes: sum of `touched` */
    unsigned dead;
    struct slow *slow;
    struct entry *answered;               /* atomic: a stack, any thread adds, the queue's takes all */
    bool closed;                          /* under uring->lock: no request is run any more */
    struct yield_of yields;               /* what the thread is now */
    uint64_t requests, deferred, yielded; /* atomic: written by the queue's thread */
};

enum stage { STAGE_PREPARE, STAGE_REGISTER, STAGE_SERVE, STAGE_QUIT };

struct uring {
    struct transport *transport;
    size_t payload_bytes;
    unsigned depth, queues;
    struct yield *yield; /* NULL: the threads are ordinary ones */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum stage stage;  /* under lock; what the threads are to do */
    unsigned reported; /* under lock: threads that are done with the stage */
    int failed;        /* under lock: the first error of one */
    bool closing;      /* atomic */
    bool quitting;     /* atomic */
    struct queue queue[];
};

static _Thread_local struct queue *own_queue;

static enum entry_state state_of(const struct entry *e)
{
    return __atomic_load_n(&e->state, __ATOMIC_RELAXED);
}

static void set_state(struct entry *e, enum entry_state from, enum entry_state to)
{
    enum entry_state was = __atomic_exchange_n(&e->state, to, __ATOMIC_RELAXED);

    assert(was == from);
}

/* ---- replies ------------------------------------------------------------------------------- */

/* The state has been set by the caller. */
static void prepare_command(struct queue *q, struct entry *e, uint32_t command)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);
    struct fuse_uring_cmd_req *cmd = (void *)sqe->cmd;

    /* There is a place for each entry and for the eventfd, and each has at most one command. */
    assert(sqe);
    memset(sqe, 0, 2 * sizeof(*sqe)); /* IORING_SETUP_SQE128 */
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->fd = 0;
    sqe->cmd_op = command;
    sqe->user_data = (uintptr_t)e;
    if (command == FUSE_IO_URING_CMD_REGISTER) {
        sqe->addr = (uintptr_t)e->iov;
        sqe->len = 2;
    } else {
        cmd->commit_id = e->commit_id;
    }
    cmd->qid = (uint16_t)q->id;
    e->command = command;
}

static void commit(struct queue *q, struct entry *e)
{
    set_state(e, ENTRY_ANSWERED, ENTRY_KERNELS);
    prepare_command(q, e, FUSE_IO_URING_CMD_COMMIT_AND_FETCH);
}

static void wake_queue(struct queue *q)
{
    const uint64_t one = 1;

    if (write(q->wake_fd, &one, sizeof(one)) < 0) /* cannot fail below 2^64 of them */
        abort();
}

static void note_touched(struct queue *q, struct entry *e, size_t len)
{
    if (len > e->touched) {
        __atomic_fetch_add(&q->payloads_bytes, len - e->touched, __ATOMIC_RELAXED);
        e->touched = len;
    }
}

static void put_reply(struct entry *e, const struct iovec *iov, int count)
{
    struct fuse_out_header head = *(const struct fuse_out_header *)iov[0].iov_base;
    size_t len = 0;

    for (int i = 1; i < count; i++)
        len += iov[i].iov_len;
    if (len > e->iov[1].iov_len) { /* libfuse answers no more than it was asked for */
        log_write(LSM_LOG_ERROR, "a reply of %zu bytes does not fit into its entry", len);
        head.error = -EIO;
        len = 0;
    }
    head.unique = e->unique;
    head.len = (uint32_t)(sizeof(head) + len);
    note_touched(e->queue, e, len);
    if (len > 0) {
        uint8_t *to = e->payload;
        for (int i = 1; i < count; to += iov[i].iov_len, i++)
            if (iov[i].iov_base != to && iov[i].iov_len > 0)
                memmove(to, iov[i].iov_base, iov[i].iov_len);
    }
    memcpy(e->header->in_out, &head, sizeof(head));
    e->header->ring_ent_in_out.payload_sz = (uint32_t)len;
}

static void answer(struct entry *e, const struct iovec *iov, int count)
{
    struct queue *q = e->queue;

    assert(state_of(e) == ENTRY_RUNNING);
    put_reply(e, iov, count);
    set_state(e, ENTRY_RUNNING, ENTRY_ANSWERED);
    if (own_queue == q) {
        commit(q, e);
        return;
    }
    struct entry *first = __atomic_load_n(&q->answered, __ATOMIC_RELAXED);
    do
        e->next = first;
    while (!__atomic_compare_exchange_n(&q->answered, &first, e, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
    if (!first) /* else who added that one has woken the queue, which takes all */
        wake_queue(q);
}

ssize_t uring_reply(const struct iovec *iov, int count)
{
    const struct fuse_out_header *head = iov[0].iov_base;
    const uint32_t len = head->len;

    answer((struct entry *)(uintptr_t)(head->unique & ~URING_UNIQUE), iov, count);
    return len;
}

static void commit_answered(struct queue *q)
{
    struct entry *e = __atomic_exchange_n(&q->answered, NULL, __ATOMIC_ACQUIRE);

    while (e) {
        struct entry *next = e->next;
        commit(q, e);
        e = next;
    }
}

/* ---- requests ------------------------------------------------------------------------------ */

void *uring_gather(const struct fuse_uring_req_header *header, void *payload, size_t payload_bytes,
                   size_t *len)
{
    const struct fuse_in_header *in = (const void *)header->in_out;
    const size_t data = header->ring_ent_in_out.payload_sz;
    size_t op;
    uint8_t *start;

    if (data > payload_bytes || in->len < sizeof(*in) + data)
        return NULL;
    op = in->len - sizeof(*in) - data;
    if (op > sizeof(header->op_in) || op % 8 != 0) /* all of the protocol's are multiples; libfuse casts */
        return NULL;
    start = (uint8_t *)payload - op - sizeof(*in);
    memcpy(start, in, sizeof(*in));
    memcpy(start + sizeof(*in), header->op_in, op);
    *len = in->len;
    return start;
}

static void run_deferred(struct slow_job *job)
{
    struct entry *e = (struct entry *)job;
    struct running r = {
        .bytes = e->request, .len = e->request_len, .reply_room = e->payload, .may_wait = true};

    transport_run(e->queue->uring->transport, &r);
}

/* An answer without data. */
static void conclude(struct entry *e, int error)
{
    struct fuse_out_header head = {.len = sizeof(head), .error = error};
    struct iovec iov = {&head, sizeof(head)};

    answer(e, &iov, 1);
}

static void serve(struct queue *q, struct entry *e)
{
    struct uring *u = q->uring;
    struct fuse_in_header *in;

    set_state(e, ENTRY_KERNELS, ENTRY_RUNNING);
    e->commit_id = e->header->ring_ent_in_out.commit_id;
    e->unique = ((const struct fuse_in_header *)(const void *)e->header->in_out)->unique;
    e->request = uring_gather(e->header, e->payload, u->payload_bytes, &e->request_len);
    __atomic_store_n(&q->requests, q->requests + 1, __ATOMIC_RELAXED);
    if (q->yields.idle)
        __atomic_store_n(&q->yielded, q->yielded + 1, __ATOMIC_RELAXED);
    if (!e->request) {
        log_write(LSM_LOG_ERROR, "the kernel sent a request whose lengths contradict each other");
        conclude(e, -EIO);
        return;
    }
    note_touched(q, e, e->header->ring_ent_in_out.payload_sz);
    in = (void *)e->request;
    in->unique = URING_UNIQUE | (uintptr_t)e;
    struct running r = {.bytes = e->request, .len = e->request_len, .reply_room = e->payload};
    /*
     * Nobody waits for an answer to these, so libfuse gives none, and they come by /dev/fuse; but for one that Linux sends when it
     * can't take an entry of a listing: that one ends by being answered, and who lists waits for it.
     */
    const bool silent = in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET;
    transport_run(u->transport, &r);
    if (silent) {
        conclude(e, 0);
    } else if (r.deferred) {
        __atomic_store_n(&q->deferred, q->deferred + 1, __ATOMIC_RELAXED);
        e->job.run = run_deferred;
        slow_put(q->slow, &e->job);
    }
}

/* A command has ended without a request. */
static void lost(struct queue *q, struct entry *e, int res)
{
    if (res == -EAGAIN || res == -EINTR) {
        prepare_command(q, e, e->command);
        return;
    }
    set_state(e, ENTRY_KERNELS, ENTRY_DEAD);
    q->dead++;
    /* ENOTCONN: unmounted, or our ring is being closed. ECONNABORTED: somebody aborted the connection. */
    if (res != -ENOTCONN && res != -ECONNABORTED && res != -ECANCELED && res != -ENODEV)
        log_write(LSM_LOG_ERROR, "an entry of the FUSE queue of CPU %u is lost: %s", q->id, strerror(-res));
    if (q->dead == q->uring->depth)
        transport_tell_ended(q->uring->transport);
}

/* ---- a queue's thread ---------------------------------------------------------------------- */

static void prepare_wake(struct queue *q)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

    assert(sqe);
    memset(sqe, 0, 2 * sizeof(*sqe));
    io_uring_prep_read(sqe, q->wake_fd, &q->wake_count, sizeof(q->wake_count), 0);
    io_uring_sqe_set_data(sqe, NULL);
}

/* Works off what has completed. */
static void reap(struct queue *q)
{
    const bool closing = __atomic_load_n(&q->uring->closing, __ATOMIC_ACQUIRE);
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    io_uring_for_each_cqe(&q->ring, head, cqe)
    {
        struct entry *e = io_uring_cqe_get_data(cqe);
        n++;
        if (!e)
            prepare_wake(q);
        else if (cqe->res < 0)
            lost(q, e, cqe->res);
        else if (!closing) /* else nobody answers it any more; the connection's end does */
            serve(q, e);
    }
    io_uring_cq_advance(&q->ring, n);
}

static int submit(struct queue *q, unsigned wait)
{
    int rc;

    do
        rc = io_uring_submit_and_wait(&q->ring, wait);
    while (rc == -EINTR || rc == -EAGAIN || rc == -EBUSY);
    return rc;
}

static bool holds_too_much(const struct queue *q)
{
    return __atomic_load_n(&q->payloads_bytes, __ATOMIC_RELAXED) > PAYLOADS_KEEP_BYTES;
}

/* What idle payloads hold beyond their first `keep` bytes. */
static void give_back(struct queue *q, size_t keep)
{
    for (unsigned i = 0; i < q->uring->depth; i++) {
        struct entry *e = &q->entries[i];
        if (state_of(e) != ENTRY_KERNELS || e->touched <= keep)
            continue;
        int rc = madvise(e->payload + keep, q->uring->payload_bytes - keep, MADV_DONTNEED);
        assert(rc == 0); /* whole pages of memory of our own */
        __atomic_fetch_sub(&q->payloads_bytes, e->touched - keep, __ATOMIC_RELAXED);
        e->touched = keep;
    }
}

/*
 * Gives memory of idle payloads back. An entry that is the kernel's holds nothing once its reply was submitted and as
 * long as there is no completion: new requests are put into entries only while this thread is in the kernel
 * (IORING_SETUP_DEFER_TASKRUN).
 */
static int trim(struct queue *q)
{
    int rc;

    if (!holds_too_much(q))
        return 0;
    rc = submit(q, 0);
    if (rc < 0 || io_uring_cq_ready(&q->ring) > 0 || io_uring_sq_ready(&q->ring) > 0)
        return rc;
    give_back(q, PAYLOAD_KEEP_BYTES);
    if (holds_too_much(q)) /* very many that hold a little each */
        give_back(q, 0);
    return 0;
}

static void confirm_closed(struct queue *q, bool failed)
{
    struct uring *u = q->uring;

    if (q->closed || !(failed || __atomic_load_n(&u->closing, __ATOMIC_ACQUIRE)))
        return;
    pthread_mutex_lock(&u->lock);
    q->closed = true;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

static void live(struct queue *q)
{
    int rc = 0;

    while (rc >= 0 && !__atomic_load_n(&q->uring->quitting, __ATOMIC_ACQUIRE)) {
        reap(q);
        confirm_closed(q, false);
        commit_answered(q);
        yield_apply(q->uring->yield, &q->yields);
        rc = trim(q);
        if (rc >= 0)
            rc = submit(q, 1);
    }
    commit_answered(q);
    if (rc >= 0)
        rc = submit(q, 0);
    if (rc < 0) {
        log_write(LSM_LOG_ERROR, "the FUSE queue of CPU %u can't be served: %s", q->id, strerror(-rc));
        confirm_closed(q, true);
        transport_tell_ended(q->uring->transport);
    }
}

static int make_ring(struct queue *q)
{
    struct io_uring_params params = {.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
                                              IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL};
    int rc = io_uring_queue_init_params(q->uring->depth + 1, &q->ring, &params);

    if (rc < 0)
        return rc;
    q->ring_made = true;
    rc = io_uring_register_files(&q->ring, &q->uring->transport->fd, 1);
    if (rc < 0)
        return rc;
    (void)io_uring_register_ring_fd(&q->ring); /* spares a look-up in each system call; works without */
    return 0;
}

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* The payloads are made of nothing until they are used; huge pages would make each cost what it may need at most. */
static int make_entries(struct queue *q)
{
    struct uring *u = q->uring;
    /* Whole pages, also where they are of 64 KiB: they are given back one payload at a time. */
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), head = round_up(HEADER_BYTES, page);
    const size_t stride = head + round_up(u->payload_bytes, page);

    q->memory_bytes = stride * u->depth;
    q->memory = mmap(NULL, q->memory_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (q->memory == MAP_FAILED) {
        q->memory = NULL;
        return -ENOMEM;
    }
    madvise(q->memory, q->memory_bytes, MADV_NOHUGEPAGE);
    q->entries = calloc(u->depth, sizeof(*q->entries));
    if (!q->entries)
        return -ENOMEM;
    for (unsigned i = 0; i < u->depth; i++) {
        struct entry *e = &q->entries[i];
        e->queue = q;
        e->header = (void *)(q->memory + stride * i);
        e->payload = q->memory + stride * i + head;
        e->iov[0] = (struct iovec){e->header, sizeof(*e->header)};
        e->iov[1] = (struct iovec){e->payload, u->payload_bytes};
    }
    return 0;
}

static int prepare_queue(struct queue *q)
{
    int rc;

    q->wake_fd = eventfd(0, EFD_CLOEXEC);
    rc = q->wake_fd < 0 ? -errno : make_entries(q);
    if (rc == 0)
        rc = make_ring(q);
    if (rc == 0)
        rc = slow_new((int)q->id, &q->slow);
    return rc;
}

/* A refusal is in the completions at once; an entry that was taken has none, or already a request. */
static int register_queue(struct queue *q)
{
    struct io_uring_cqe *cqe;
    unsigned head;
    int rc;

    for (unsigned i = 0; i < q->uring->depth; i++)
        prepare_command(q, &q->entries[i], FUSE_IO_URING_CMD_REGISTER);
    prepare_wake(q);
    rc = submit(q, 0);
    if (rc < 0)
        return rc;
    io_uring_for_each_cqe(&q->ring, head, cqe) if (cqe->res < 0) return cqe->res;
    return 0;
}

/* Tells the outcome of a stage, waits for the next one. */
static enum stage report(struct queue *q, int rc)
{
    struct uring *u = q->uring;
    enum stage done, next;

    pthread_mutex_lock(&u->lock);
    done = u->stage;
    u->reported++;
    if (rc < 0 && !u->failed)
        u->failed = rc;
    pthread_cond_broadcast(&u->changed);
    while (u->stage == done)
        pthread_cond_wait(&u->changed, &u->lock);
    next = u->stage;
    pthread_mutex_unlock(&u->lock);
    return next;
}

static void *queue_main(void *arg)
{
    struct queue *q = arg;

    own_queue = q;
    pthread_setname_np(pthread_self(), "fuse-queue");
    cpu_pin((int)q->id);
    cpu_prompt();
    if (report(q, prepare_queue(q)) == STAGE_REGISTER && report(q, register_queue(q)) == STAGE_SERVE)
        live(q);
    if (q->ring_made)
        io_uring_queue_exit(&q->ring);
    return NULL;
}

/* ---- all queues ---------------------------------------------------------------------------- */

/* Lets the threads do a stage; 0 when all have done it well. */
static int run_stage(struct uring *u, enum stage stage)
{
    int rc;

    pthread_mutex_lock(&u->lock);
    if (stage != STAGE_PREPARE) {
        u->reported = 0;
        u->stage = stage;
        pthread_cond_broadcast(&u->changed);
    }
    while (u->reported < u->queues)
        pthread_cond_wait(&u->changed, &u->lock);
    rc = u->failed;
    pthread_mutex_unlock(&u->lock);
    return rc;
}

static void set_stage(struct uring *u, enum stage stage)
{
    pthread_mutex_lock(&u->lock);
    u->stage = stage;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

static unsigned depth_of(unsigned queues)
{
    unsigned depth = DEPTH_MAX;

    while (depth > DEPTH_MIN && depth * queues > ENTRIES_MAX)
        depth /= 2;
    return depth;
}

static char first_char(const char *path)
{
    FILE *f = fopen(path, "re");
    int c = f ? fgetc(f) : EOF;

    if (f)
        fclose(f);
    return c == EOF ? '\0' : (char)c;
}

bool uring_offered(uint64_t init_flags, char *why, size_t room)
{
    const char parameter = first_char(PARAMETER);

    why[0] = '\0';
    if (init_flags & FUSE_OVER_IO_URING)
        return true;
    if (parameter == '\0')
        snprintf(why, room,
                 "this kernel has no FUSE over io_uring; Linux 6.14 or later with "
                 "CONFIG_FUSE_IO_URING has it");
    else if (parameter == 'N')
        snprintf(why, room, "it is switched off; as root: echo Y > " PARAMETER ", and mount again");
    else
        snprintf(why, room, "the kernel does not offer it, although it is switched on in " PARAMETER);
    return false;
}

static void explain_failure(struct transport *t, int rc, const char *what)
{
    const char disabled = first_char(IO_URING_DISABLED);

    if (rc == -EPERM && (disabled == '1' || disabled == '2'))
        snprintf(t->why, sizeof(t->why),
                 "io_uring is not allowed here; as root: sysctl kernel.io_uring_disabled=0, and mount again");
    else
        snprintf(t->why, sizeof(t->why), "%s: %s", what, strerror(-rc));
}

int uring_prepare(struct transport *t, struct uring **out)
{
    const unsigned queues = cpu_possible();
    struct uring *u = calloc(1, sizeof(*u) + queues * sizeof(u->queue[0]));
    int rc;

    if (!u) {
        explain_failure(t, -ENOMEM, "no queues could be made");
        return -ENOMEM;
    }
    u->transport = t;
    rc = yield_new(&u->yield);
    if (rc < 0)
        log_write(LSM_LOG_DEBUG, "the queues' threads do not give way to clients: %s", strerror(-rc));
    u->depth = depth_of(queues);
    u->payload_bytes =
        t->config.max_write < FUSE_MIN_READ_BUFFER ? FUSE_MIN_READ_BUFFER : t->config.max_write;
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->changed, NULL);
    rc = 0;
    for (unsigned i = 0; rc == 0 && i < queues; i++) {
        struct queue *q = &u->queue[i];
        q->uring = u;
        q->id = i;
        q->wake_fd = -1;
        rc = -pthread_create(&q->thread, NULL, queue_main, q);
        q->started = rc == 0;
        u->queues += q->started;
    }
    int stage_rc = run_stage(u, STAGE_PREPARE);
    if (rc == 0)
        rc = stage_rc;
    if (rc < 0) {
        explain_failure(t, rc, "no queues could be made");
        uring_free(u);
        return rc;
    }
    *out = u;
    return 0;
}

int uring_register(struct uring *u)
{
    int rc = run_stage(u, STAGE_REGISTER);

    if (rc < 0)
        explain_failure(u->transport, rc, "the kernel refused a queue");
    else
        set_stage(u, STAGE_SERVE);
    return rc;
}

void uring_quiesce(struct uring *u)
{
    __atomic_store_n(&u->closing, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < u->queues; i++)
        wake_queue(&u->queue[i]);
    pthread_mutex_lock(&u->lock);
    for (unsigned i = 0; i < u->queues; i++)
        while (!u->queue[i].closed)
            pthread_cond_wait(&u->changed, &u->lock);
    pthread_mutex_unlock(&u->lock);
    for (unsigned i = 0; i < u->queues; i++) {
        slow_free(u->queue[i].slow);
        u->queue[i].slow = NULL;
    }
}

void uring_free(struct uring *u)
{
    if (!u)
        return;
    __atomic_store_n(&u->quitting, true, __ATOMIC_RELEASE);
    set_stage(u, STAGE_QUIT);
    for (unsigned i = 0; i < u->queues; i++)
        if (u->queue[i].wake_fd >= 0)
            wake_queue(&u->queue[i]);
    for (unsigned i = 0; i < u->queues; i++) {
        struct queue *q = &u->queue[i];
        pthread_join(q->thread, NULL);
        slow_free(q->slow);
        if (q->memory)
            munmap(q->memory, q->memory_bytes);
        free(q->entries);
        if (q->wake_fd >= 0)
            close(q->wake_fd);
    }
    yield_free(u->yield);
    pthread_cond_destroy(&u->changed);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

void uring_info(const struct uring *u, struct transport_info *out)
{
    out->queues = out->threads = u->queues;
    out->depth = u->depth;
    for (unsigned i = 0; i < u->queues; i++) {
        out->requests += __atomic_load_n(&u->queue[i].requests, __ATOMIC_RELAXED);
        out->deferred += __atomic_load_n(&u->queue[i].deferred, __ATOMIC_RELAXED);
        out->yielded += __atomic_load_n(&u->queue[i].yielded, __ATOMIC_RELAXED);
    }
}
