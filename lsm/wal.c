/*
 * wal.c - the write-ahead log: opening, appending, the frontier. The format is in wal_format.h, the
 * state in wal_internal.h, syncing in wal_sync.c, making segments ready in wal_segment.c, and reading
 * it again after a crash in wal_recover.c.
 *
 * Appending. wal_reserve takes the lock for a few instructions: it gives out the next bytes of
 * the last segment and a place in a ring of records in flight. Copying and checksumming happen
 * outside of the lock, so writers on several cores copy at once. wal_publish marks the place done
 * and moves the frontier over the done prefix of the ring. So the frontier is what its
 * definition says, "below it every record is copied and inserted", and nothing above is visible.
 *
 * Invariants:
 *   - published_end >= frontier >= synced; ring_tail - ring_head <= WAL_IN_FLIGHT_MAX
 *   - the ring's ends ascend; a record in flight ends above the frontier
 *   - after wal_fail, frontier and synced never change again (P6)
 *
 * A record that does not fit ends the segment by a pad record and goes to the next one, which has been
 * prepared before: its base is this one's base + segment_bytes, so positions go on without a gap.
 * None prepared is -EAGAIN from wal_reserve, and waiting in wal_prepare, where no locks are held.
 *
 * Threads: any.
 */
#define XXH_STATIC_LINKING_ONLY /* the streaming state lives on the stack */
#include "wal_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define STORE_VECTORS 32 /* payload vectors given to one call of env; more take several calls */

uint64_t wal_record_bytes(size_t payload_bytes)
{
    return wal_align(WAL_HEADER_BYTES + (uint64_t)payload_bytes + WAL_TRAILER_BYTES);
}

size_t wal_payload_max(const struct wal *wal)
{
    return (size_t)(wal->options.segment_bytes / 4 - WAL_HEADER_BYTES);
}

lsn_t wal_frontier(const struct wal *wal) { return __atomic_load_n(&wal->frontier, __ATOMIC_ACQUIRE); }
lsn_t wal_synced(const struct wal *wal) { return __atomic_load_n(&wal->synced, __ATOMIC_ACQUIRE); }
int wal_failed(const struct wal *wal) { return __atomic_load_n(&wal->failed, __ATOMIC_ACQUIRE); }

void wal_fail(struct wal *wal, int error, const char *what)
{
    assert(error < 0);
    pthread_mutex_lock(&wal->lock);
    bool first = wal->failed == 0;
    if (first)
        __atomic_store_n(&wal->failed, error, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&wal->frontier_moved);
    pthread_cond_broadcast(&wal->prepared);
    pthread_cond_broadcast(&wal->sync_done);
    pthread_mutex_unlock(&wal->lock);
    if (!first)
        return;
    logger_write(&wal->options.log, LSM_LOG_ERROR,
                 "write-ahead log in %s: %s failed: %s; it takes no more writes, what was synced is safe%s",
                 wal->dir, what, strerror(-error),
                 error == -ENOSPC
                     ? " (the filesystem does not write it in place: make room, then open the store again)"
                     : "");
    if (wal->options.failed)
        wal->options.failed(wal->options.arg, error);
}

/* ---- reserving ---- */

static bool fits_last(const struct wal *wal, uint64_t bytes)
{
    return wal->tail + bytes <= segment_end(wal->last);
}

/* Places in the ring that a record of so many bytes takes: its own, and one for a pad. */
static unsigned places_needed(const struct wal *wal, uint64_t bytes) { return fits_last(wal, bytes) ? 1 : 2; }

static bool ring_has(const struct wal *wal, unsigned places)
{
    return wal->ring_tail - wal->ring_head + places <= WAL_IN_FLIGHT_MAX;
}

/* Gives out `bytes` at the tail of the last segment. Lock held; there is room. */
static void take(struct wal *wal, uint64_t bytes, uint32_t payload_bytes, struct wal_ticket *out)
{
    assert(fits_last(wal, bytes) && ring_has(wal, 1));
    *out = (struct wal_ticket){
        .lsn = wal->tail,
        .end = wal->tail + bytes,
        .segment = wal->last,
        .offset = wal->tail - wal->last->use.base,
        .slot = (unsigned)(wal->ring_tail % WAL_IN_FLIGHT_MAX),
        .payload_bytes = payload_bytes,
    };
    wal->ring[out->slot] = (struct in_flight){.end = out->end};
    wal->ring_tail++;
    wal->tail = out->end;
    wal->bytes += bytes;
}

/* Ends the last segment and goes on in the prepared one. True if `pad` has to be written. */
static bool roll_over(struct wal *wal, struct wal_ticket *pad)
{
    uint64_t rest = segment_end(wal->last) - wal->tail;
    bool padded = rest >= WAL_HEADER_BYTES;

    if (padded)
        take(wal, rest, (uint32_t)(rest - WAL_HEADER_BYTES), pad);
    assert(wal->next && wal->next->use.base == segment_end(wal->last));
    wal->last->next = wal->next;
    wal->last = wal->next;
    wal->next = NULL;
    wal->tail = wal->last->use.base;
    pthread_cond_signal(&wal->preparer_wake);
    return padded;
}

static int copy_record(struct wal *wal, const struct wal_ticket *ticket, enum wal_type type,
                       const struct iovec *iov, int n);
static void publish(struct wal *wal, const struct wal_ticket *ticket, enum wal_type type);

int wal_reserve(struct wal *wal, size_t payload_bytes, struct wal_ticket *out)
{
    struct wal_ticket pad;
    uint64_t bytes = wal_record_bytes(payload_bytes);
    bool padded = false;

    if (payload_bytes > wal_payload_max(wal))
        return -E2BIG;
    pthread_mutex_lock(&wal->lock);
    int rc = wal->failed;
    bool fits = fits_last(wal, bytes);
    if (!rc && ((!fits && !wal->next) || !ring_has(wal, places_needed(wal, bytes))))
        rc = -EAGAIN;
    if (!rc) {
        if (!fits)
            padded = roll_over(wal, &pad);
        take(wal, bytes, (uint32_t)payload_bytes, out);
        if (segment_window_low(wal))
            pthread_cond_signal(&wal->preparer_wake);
    }
    pthread_mutex_unlock(&wal->lock);
    if (padded) {
        /* a failure here has ended the log; the record's own copy reports it */
        if (copy_record(wal, &pad, WAL_PAD, NULL, 0) == 0)
            publish(wal, &pad, WAL_PAD);
    }
    return rc;
}

/*
 * Holds the caller until the next segment is there or an attempt to make it failed. Lock held; it
 * is dropped meanwhile. Attempts are counted so that a caller gets the result of one that ended
 * after it asked.
 */
static int await_segment(struct wal *wal)
{
    uint64_t seen = wal->prepare_attempts;

    wal->next_wanted = true;
    if (wal->preparer) {
        pthread_cond_signal(&wal->preparer_wake);
    } else if (!wal->preparing) {
        pthread_mutex_unlock(&wal->lock);
        segment_prepare(wal); /* its result is in prepare_error */
        pthread_mutex_lock(&wal->lock);
    }
    while (!wal->next && wal->prepare_attempts == seen && !wal->failed)
        pthread_cond_wait(&wal->prepared, &wal->lock);
    return wal->next || wal->failed ? wal->failed : wal->prepare_error;
}

int wal_prepare(struct wal *wal, size_t payload_bytes, bool nowait)
{
    uint64_t bytes = wal_record_bytes(payload_bytes);
    int rc = 0;

    if (payload_bytes > wal_payload_max(wal))
        return -E2BIG;
    pthread_mutex_lock(&wal->lock);
    while (!rc && !(rc = wal->failed)) {
        bool room = ring_has(wal, places_needed(wal, bytes));
        if (room && (fits_last(wal, bytes) || wal->next))
            break;
        if (nowait) {
            rc = -EAGAIN;
            if (room) {
                wal->next_wanted = true;
                pthread_cond_signal(&wal->preparer_wake);
            }
        } else if (room) {
            rc = await_segment(wal);
        } else {
            wal->waiters++;
            pthread_cond_wait(&wal->frontier_moved, &wal->lock);
            wal->waiters--;
        }
    }
    pthread_mutex_unlock(&wal->lock);
    return rc;
}

/* ---- copying ---- */

/* Writes through whichever way the segment has, in pieces of STORE_VECTORS. */
static int store(struct segment *s, const struct iovec *iov, int n, uint64_t offset)
{
    int rc = 0;

    while (n > 0 && !rc) {
        int step = n < STORE_VECTORS ? n : STORE_VECTORS;
        rc = s->mapped ? env_map_store(s->file, iov, step, offset) : env_pwritev(s->file, iov, step, offset);
        for (int i = 0; i < step; i++)
            offset += iov[i].iov_len;
        iov += step;
        n -= step;
    }
    return rc;
}

static uint64_t payload_checksum(const struct iovec *iov, int n, uint64_t seed)
{
    if (n == 1)
        return XXH3_64bits_withSeed(iov->iov_base, iov->iov_len, seed);
    XXH3_state_t state;
    XXH3_64bits_reset_withSeed(&state, seed);
    for (int i = 0; i < n; i++)
        XXH3_64bits_update(&state, iov[i].iov_base, iov[i].iov_len);
    return XXH3_64bits_digest(&state);
}

/* Header, payload and trailer in as few calls as possible: one, for the usual handful of vectors. */
static int store_record(struct segment *s, const struct wal_ticket *t, uint8_t *header,
                        const struct iovec *iov, int n, uint8_t *trailer, size_t trailer_bytes)
{
    struct iovec all[STORE_VECTORS];

    if (n + 2 <= STORE_VECTORS) {
        all[0] = (struct iovec){header, WAL_HEADER_BYTES};
        for (int i = 0; i < n; i++)
            all[i + 1] = iov[i];
        all[n + 1] = (struct iovec){trailer, trailer_bytes};
        return store(s, all, trailer_bytes ? n + 2 : n + 1, t->offset);
    }
    struct iovec head = {header, WAL_HEADER_BYTES}, tail = {trailer, trailer_bytes};
    int rc = store(s, &head, 1, t->offset);
    if (!rc)
        rc = store(s, iov, n, t->offset + WAL_HEADER_BYTES);
    if (!rc)
        rc = store(s, &tail, 1, t->offset + WAL_HEADER_BYTES + t->payload_bytes);
    return rc;
}

static int copy_record(struct wal *wal, const struct wal_ticket *ticket, enum wal_type type,
                       const struct iovec *iov, int n)
{
    struct segment *s = ticket->segment;
    uint8_t header[WAL_HEADER_BYTES], trailer[WAL_TRAILER_BYTES + WAL_ALIGN] = {0};
    size_t trailer_bytes = 0;
    struct wal_header h = {
        .type = type, .length = ticket->payload_bytes, .lsn = ticket->lsn, .synced = wal_synced(wal)};

    int rc = wal_failed(wal);
    if (rc)
        return rc;
    wal_header_encode(header, &h, s->use.salt);
    if (type != WAL_PAD) {
        put_le64(trailer, payload_checksum(iov, n, wal_payload_seed(s->use.salt, ticket->lsn)));
        trailer_bytes = (size_t)(ticket->end - ticket->lsn - WAL_HEADER_BYTES - ticket->payload_bytes);
    }
    rc = store_record(s, ticket, header, iov, n, trailer, trailer_bytes);
    if (rc) {
        wal_fail(wal, rc, "a write");
        return rc;
    }
    wal->ring[ticket->slot].carried = h.synced;
    return 0;
}

int wal_copy(struct wal *wal, struct wal_ticket *ticket, const struct iovec *iov, int n)
{
    uint64_t bytes = 0;

    for (int i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    assert(bytes == ticket->payload_bytes);
    return copy_record(wal, ticket, WAL_BATCH, iov, n);
}

/* ---- publishing ---- */

static void publish(struct wal *wal, const struct wal_ticket *ticket, enum wal_type type)
{
    struct in_flight *r = &wal->ring[ticket->slot];

    pthread_mutex_lock(&wal->lock);
    if (wal->failed) { /* the frontier is frozen */
        pthread_mutex_unlock(&wal->lock);
        return;
    }
    assert(!r->done && r->end == ticket->end);
    r->done = true;
    wal->records += type == WAL_BATCH;
    if (ticket->end > wal->published_end)
        wal->published_end = ticket->end;
    if (r->carried > wal->carried)
        wal->carried = r->carried;
    if (type == WAL_BATCH && ticket->end > wal->batch_end)
        wal->batch_end = ticket->end;
    lsn_t frontier = wal->frontier;
    while (wal->ring_head < wal->ring_tail && wal->ring[wal->ring_head % WAL_IN_FLIGHT_MAX].done) {
        frontier = wal->ring[wal->ring_head % WAL_IN_FLIGHT_MAX].end;
        wal->ring_head++;
    }
    if (frontier != wal->frontier) {
        assert(frontier > wal->frontier);
        __atomic_store_n(&wal->frontier, frontier, __ATOMIC_RELEASE);
        if (wal->waiters)
            pthread_cond_broadcast(&wal->frontier_moved);
    }
    timer_arm(wal);
    pthread_mutex_unlock(&wal->lock);
}

void wal_publish(struct wal *wal, struct wal_ticket *ticket) { publish(wal, ticket, WAL_BATCH); }

int wal_wait(struct wal *wal, lsn_t end)
{
    int rc = 0;

    if (wal_frontier(wal) >= end)
        return 0;
    pthread_mutex_lock(&wal->lock);
    wal->waiters++;
    while (wal->frontier < end && !(rc = wal->failed))
        pthread_cond_wait(&wal->frontier_moved, &wal->lock);
    wal->waiters--;
    pthread_mutex_unlock(&wal->lock);
    return rc;
}

int wal_append_mark(struct wal *wal)
{
    struct wal_ticket ticket;

    int rc = wal_reserve(wal, 0, &ticket);
    if (rc)
        return rc;
    rc = copy_record(wal, &ticket, WAL_MARK, NULL, 0);
    if (!rc)
        publish(wal, &ticket, WAL_MARK);
    return rc;
}

/* ---- opening and closing ---- */

static void list_free(struct segment *s)
{
    while (s) {
        struct segment *next = s->next;
        segment_free(s);
        s = next;
    }
}

static void destroy(struct wal *wal)
{
    list_free(wal->first);
    list_free(wal->live);
    list_free(wal->next);
    list_free(wal->pool);
    list_free(wal->retired);
    pthread_cond_destroy(&wal->frontier_moved);
    pthread_cond_destroy(&wal->prepared);
    pthread_cond_destroy(&wal->preparer_wake);
    pthread_cond_destroy(&wal->sync_done);
    pthread_cond_destroy(&wal->syncer_wake);
    pthread_mutex_destroy(&wal->lock);
    free(wal->dir);
    free(wal);
}

static int remember_files(struct wal *wal, const struct wal_use *live, size_t live_count,
                          const uint64_t *reuse, size_t reuse_count)
{
    for (size_t i = 0; i < reuse_count; i++) {
        struct segment *s = segment_new(reuse[i]);
        if (!s)
            return -ENOMEM;
        s->next = wal->pool;
        wal->pool = s;
    }
    for (size_t i = 0; i < live_count; i++) {
        struct segment *s = segment_new(live[i].number);
        if (!s)
            return -ENOMEM;
        s->use = live[i];
        s->next = wal->live;
        wal->live = s;
    }
    return 0;
}

static int start_threads(struct wal *wal)
{
    struct env *env = wal->options.env;

    int rc = env_thread_start(env, "wal-sync", -1, syncer_main, wal, &wal->syncer);
    if (!rc)
        rc = env_thread_start(env, "wal-prepare", -1, preparer_main, wal, &wal->preparer);
    return rc;
}

static void stop_threads(struct wal *wal)
{
    pthread_mutex_lock(&wal->lock);
    wal->stopping = true;
    pthread_cond_broadcast(&wal->preparer_wake);
    pthread_cond_broadcast(&wal->syncer_wake);
    pthread_mutex_unlock(&wal->lock);
    if (wal->syncer)
        env_thread_join(wal->options.env, wal->syncer);
    if (wal->preparer)
        env_thread_join(wal->options.env, wal->preparer);
    wal->syncer = NULL;
    wal->preparer = NULL;
}

static struct wal *wal_new(const struct wal_options *options, lsn_t base)
{
    pthread_condattr_t monotonic;
    struct wal *wal = calloc(1, sizeof(*wal));

    if (!wal || !(wal->dir = strdup(options->dir))) {
        free(wal);
        return NULL;
    }
    wal->options = *options;
    wal->options.dir = wal->dir;
    wal->commit_ns = (uint64_t)options->commit_ms * 1000000u;
    wal->requests_end = &wal->requests;
    wal->frontier = wal->synced = wal->tail = base;
    wal->published_end = wal->carried = wal->batch_end = base;
    pthread_mutex_init(&wal->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&wal->frontier_moved, NULL);
    pthread_cond_init(&wal->prepared, NULL);
    pthread_cond_init(&wal->preparer_wake, &monotonic);
    pthread_cond_init(&wal->sync_done, NULL);
    pthread_cond_init(&wal->syncer_wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return wal;
}

int wal_open(const struct wal_options *options, lsn_t start, const struct wal_use *live, size_t live_count,
             const uint64_t *reuse, size_t reuse_count, struct wal **out)
{
    lsn_t base = wal_align(start);

    if (base == 0 || !options->use || !options->new_number || options->segment_bytes < WAL_SEGMENT_MIN ||
        options->segment_bytes > WAL_SEGMENT_MAX || options->segment_bytes % 4096 != 0)
        return -EINVAL;
    struct wal *wal = wal_new(options, base);
    if (!wal)
        return -ENOMEM;
    int rc = remember_files(wal, live, live_count, reuse, reuse_count);
    if (!rc)
        rc = segment_prepare(wal);
    if (rc)
        goto out;
    wal->first = wal->last = wal->next;
    wal->next = NULL;
    if (options->threads)
        rc = start_threads(wal);
out:
    if (rc) {
        stop_threads(wal);
        destroy(wal);
        return rc;
    }
    *out = wal;
    return 0;
}

int wal_close(struct wal *wal)
{
    stop_threads(wal);
    assert(wal->failed || wal->ring_head == wal->ring_tail); /* nobody is in the middle of a write */
    int rc = wal_sync(wal);
    if (!rc) {
        segments_close_retired(wal);
        segments_trim(wal);
    }
    destroy(wal);
    return rc;
}

/* ---- the rest ---- */

void wal_release(struct wal *wal, lsn_t lsn)
{
    pthread_mutex_lock(&wal->lock);
    segments_release(wal, lsn);
    pthread_cond_signal(&wal->preparer_wake);
    pthread_mutex_unlock(&wal->lock);
    if (!wal->options.threads)
        segments_close_retired(wal);
}

static uint64_t list_length(const struct segment *s)
{
    uint64_t n = 0;

    for (; s; s = s->next)
        n++;
    return n;
}

void wal_stats_get(const struct wal *wal, struct wal_stats *out)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&wal->lock; /* the caller's view is const, the mutex is not */

    pthread_mutex_lock(lock);
    out->bytes = wal->bytes;
    out->records = wal->records;
    out->syncs = wal->syncs;
    out->segments = list_length(wal->first) + list_length(wal->live) + list_length(wal->next);
    out->free_segments = list_length(wal->pool) + list_length(wal->retired);
    pthread_mutex_unlock(lock);
}

void wal_segment_path(const char *dir, uint64_t number, char *buf, size_t size)
{
    int n = snprintf(buf, size, "%s/%06" PRIu64 ".log", dir, number);

    assert(n > 0 && (size_t)n < size);
}
