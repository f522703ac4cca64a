/*
 * wal_sync.c - brings the log to the medium: group commit, asynchronous syncs, the commit timer.
 *
 * Sync. The first caller that finds nobody syncing becomes the leader: it samples the frontier and
 * syncs every segment with bytes in (synced, frontier], in order. Who comes meanwhile waits and is
 * usually covered by the next leader's sync, which is for all that gathered. A lone caller waits
 * for nobody. A failed sync is final: the descriptor is never synced again, `synced` freezes (P6).
 *
 * Commit timer. Armed by the first record published after a quiet time, it fires commit_ms later:
 * it syncs what is unsynced. If `synced` has passed a batch without any record telling so, the timer
 * first appends a mark record, which carries it: recovery needs it to tell damage from a torn
 * tail. It stays armed until everything is synced and told, then an idle store does nothing: what
 * lies past the last batch (the mark itself) needs no telling.
 *
 * Threads: syncs from any thread. The syncer thread runs the timer and the asynchronous requests;
 * without threads wal_tick and wal_sync_async do so on the caller's. Who wakes the syncer has it run on his own CPU, where
 * the answer is wanted, too; while it works, requests gather and need no wake.
 */
#include "mutant.h"
#include "wal_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define NS_PER_S UINT64_C(1000000000)

/* ---- syncing ---- */

/* Segments at or above `from` stay in the list while this thread syncs, see wal_internal.h. */
static struct segment *first_unsynced(struct wal *wal, lsn_t from)
{
    struct segment *s = wal->first;

    while (segment_end(s) <= from)
        s = s->next;
    return s;
}

static int sync_segments(struct wal *wal, struct segment *s, lsn_t to)
{
    int rc = 0;

    while (!rc && s && s->use.base < to) {
        rc = mutant("log not synced") ? 0 : env_sync(s->file);
        pthread_mutex_lock(&wal->lock);
        s = mutant("of several segments one synced") ? NULL : s->next;
        pthread_mutex_unlock(&wal->lock);
    }
    return rc;
}

/* The sync write-protected the tail's page; `syncing` still keeps the segment from being released. */
static void touch_tail(struct wal *wal)
{
    struct segment *s = wal->last;
    uint64_t offset = wal->tail - s->use.base;

    if (!s->mapped || wal->synced >= segment_end(s))
        return;
    pthread_mutex_unlock(&wal->lock);
    segment_touch_tail(s, offset);
    pthread_mutex_lock(&wal->lock);
}

/* Lock held; dropped meanwhile. */
static void lead_sync(struct wal *wal)
{
    lsn_t to = wal->frontier;
    struct segment *s = first_unsynced(wal, wal->synced);

    assert(!wal->syncing && to > wal->synced);
    wal->syncing = true;
    pthread_mutex_unlock(&wal->lock);
    int rc = wal->options.before_sync ? wal->options.before_sync(wal->options.arg) : 0;
    if (!rc)
        rc = sync_segments(wal, s, to);
    if (rc && !mutant("failed sync of the log ignored"))
        wal_fail(wal, rc, "a sync");
    pthread_mutex_lock(&wal->lock);
    if (!wal->failed) {
        __atomic_store_n(&wal->synced, to, __ATOMIC_RELEASE);
        wal->syncs++;
        pthread_cond_broadcast(&wal->sync_done);
        touch_tail(wal);
    }
    wal->syncing = false;
    pthread_cond_broadcast(&wal->sync_done);
}

int wal_sync_to(struct wal *wal, lsn_t lsn)
{
    assert(lsn <= wal_frontier(wal));
    pthread_mutex_lock(&wal->lock);
    int rc = wal->failed;
    while (!rc && wal->synced < lsn) {
        if (wal->syncing)
            pthread_cond_wait(&wal->sync_done, &wal->lock);
        else
            lead_sync(wal);
        rc = wal->synced >= lsn ? 0 : wal->failed;
    }
    pthread_mutex_unlock(&wal->lock);
    return rc;
}

int wal_sync(struct wal *wal)
{
    pthread_mutex_lock(&wal->lock);
    lsn_t end = wal->published_end;
    pthread_mutex_unlock(&wal->lock);

    int rc = wal_wait(wal, end);
    return rc ? rc : wal_sync_to(wal, end);
}

void wal_sync_async(struct wal *wal, void (*done)(void *arg, int result), void *arg)
{
    struct sync_request *r = wal->syncer ? malloc(sizeof(*r)) : NULL;

    if (!r) { /* no thread to do it, or no memory to ask it: the slow way is still right */
        done(arg, wal_sync(wal));
        return;
    }
    *r = (struct sync_request){done, arg, NULL};
    pthread_mutex_lock(&wal->lock);
    int rc = wal->failed;
    bool queued = !rc && wal->synced < wal->published_end, wake = queued && wal->syncer_asleep;
    if (queued) {
        *wal->requests_end = r;
        wal->requests_end = &r->next;
    }
    if (wake) { /* else it looks for requests before it sleeps. Under the lock: once it is dropped, the log may be closed */
        wal->syncer_asleep = false;
        env_thread_near(wal->options.env, wal->syncer);
        pthread_cond_signal(&wal->syncer_wake);
    }
    pthread_mutex_unlock(&wal->lock);
    if (!queued) {
        free(r);
        done(arg, rc);
    }
}

/* ---- the commit timer ---- */

void timer_arm(struct wal *wal)
{
    if (wal->timer_armed || wal->failed)
        return;
    wal->timer_armed = true;
    wal->timer_ns = env_mono_ns(wal->options.env) + wal->commit_ns;
    if (wal->syncer_asleep)
        pthread_cond_signal(&wal->syncer_wake); /* it has to wake up once to know until when to sleep */
}

/* A batch is on the medium and no record says so yet. Lock held. */
static bool mark_needed(const struct wal *wal)
{
    lsn_t told_of = wal->synced < wal->batch_end ? wal->synced : wal->batch_end;

    return told_of > wal->carried;
}

/* Returns 1 if it wrote or synced anything. A failure is final and reported by wal_fail, or tried again. */
static int timer_work(struct wal *wal)
{
    int did = 0;

    pthread_mutex_lock(&wal->lock);
    bool mark = mark_needed(wal);
    pthread_mutex_unlock(&wal->lock);
    if (mark && (wal->options.threads || wal_prepare(wal, 0, false) == 0))
        did = wal_append_mark(wal) == 0;
    lsn_t frontier = wal_frontier(wal);
    if (frontier > wal_synced(wal))
        did |= wal_sync_to(wal, frontier) == 0;
    pthread_mutex_lock(&wal->lock);
    wal->timer_armed = !wal->failed && (wal->frontier > wal->synced || mark_needed(wal));
    wal->timer_ns = env_mono_ns(wal->options.env) + wal->commit_ns;
    pthread_mutex_unlock(&wal->lock);
    return did;
}

static bool timer_due(const struct wal *wal)
{
    return wal->timer_armed && env_mono_ns(wal->options.env) >= wal->timer_ns &&
           !mutant("commit timer never fires");
}

/* A writer that may not wait was turned away for want of a segment, and nobody else makes one. */
static bool segment_wanted(const struct wal *wal)
{
    return wal->next_wanted && !wal->next && !wal->failed &&
           segment_end(wal->last) - wal->tail < wal->options.segment_bytes / 4;
}

int wal_tick(struct wal *wal)
{
    if (wal->options.threads)
        return 0;
    pthread_mutex_lock(&wal->lock);
    bool due = timer_due(wal), wanted = segment_wanted(wal);
    pthread_mutex_unlock(&wal->lock);
    segments_close_retired(wal);
    if (wanted && segment_prepare(wal) == 0) /* else the writer who waits for it is told why */
        return 1;
    return due ? timer_work(wal) : segments_rest(wal);
}

/* ---- the syncer ---- */

static void serve(struct wal *wal, struct sync_request *r)
{
    int rc = wal_sync(wal);

    while (r) {
        struct sync_request *next = r->next;
        r->done(r->arg, rc);
        free(r);
        r = next;
    }
}

/* Lock held. An env that starts threads counts its clock as CLOCK_MONOTONIC does. */
static void syncer_sleep(struct wal *wal)
{
    struct timespec until = {(time_t)(wal->timer_ns / NS_PER_S), (long)(wal->timer_ns % NS_PER_S)};

    wal->syncer_asleep = true;
    if (wal->timer_armed)
        pthread_cond_timedwait(&wal->syncer_wake, &wal->lock, &until);
    else
        pthread_cond_wait(&wal->syncer_wake, &wal->lock);
    wal->syncer_asleep = false;
}

void syncer_main(void *arg)
{
    struct wal *wal = arg;

    env_thread_prompt(wal->options.env);
    pthread_mutex_lock(&wal->lock);
    for (;;) {
        if (wal->requests) {
            struct sync_request *r = wal->requests;
            wal->requests = NULL;
            wal->requests_end = &wal->requests;
            pthread_mutex_unlock(&wal->lock);
            serve(wal, r);
            pthread_mutex_lock(&wal->lock);
        } else if (wal->stopping) {
            break;
        } else if (timer_due(wal)) {
            pthread_mutex_unlock(&wal->lock);
            timer_work(wal);
            pthread_mutex_lock(&wal->lock);
        } else {
            syncer_sleep(wal);
        }
    }
    pthread_mutex_unlock(&wal->lock);
}
