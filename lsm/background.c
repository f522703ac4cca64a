/*
 * background.c - when flushes and compactions are done: one thread per shard, pinned to the shard's core.
 *
 * A shard's thread sleeps until it is kicked (a memtable was sealed, the log is over its budget,
 * somebody asked for a compaction), then works until nothing is left: flush.c, then compaction_run.c. With LSM_INLINE the
 * same steps are taken by lsm_work and by writers that find no room.
 *
 * When a flush or a compaction fails for want of space, or because the medium refuses, its output is
 * removed, its error is what those get who wait for it, and it is tried again after RETRY_NS, not
 * sooner, however often somebody asks: on a full disk each try writes half a table. The two are kept
 * apart: a compaction that finds no space stops no flush, and one that works may make space for it.
 */
#include "background.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RETRY_NS 250000000u /* how long a writer on a full disk waits for its error, at most */
#define WAIT_NS 1000000000u /* of one wait; a bound, should a wakeup go astray */
/*
 * On a full disk a memtable is flushed when it is that old, full or not: deletes free nothing before. And so often a
 * shard looks whether there is space again.
 */
#define TIGHT_NS 500000000u
/*
 * Who writes so fast that a memtable would be full in that time is better off with few compactions of level 0, and
 * nobody else is (compaction_pick.c). The tempo is looked at so often.
 */
#define BUSY_FILL_S 16u
#define TEMPO_NS 250000000u
/*
 * A store to which nobody has written for so long is at rest. Then what bursts of writes left behind is cleared away: see
 * shard_rest (flush.c), compaction_pick.c, space.h, and for free segments of the log wal_segment.c.
 */
#define REST_NS UINT64_C(2000000000)

/* ---- outcomes ---- */

void shard_ended(struct shard *s, enum shard_work what, int error)
{
    pthread_mutex_lock(&s->work_lock);
    s->outcome[what].count++;
    s->outcome[what].error = error;
    pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->work_lock);
}

uint64_t shard_count(struct shard *s, enum shard_work what)
{
    pthread_mutex_lock(&s->work_lock);
    uint64_t count = s->outcome[what].count;
    pthread_mutex_unlock(&s->work_lock);
    return count;
}

bool shard_is_due(const struct shard *s, const struct failure *f)
{
    return !f->error || db_inline(s->db) || env_mono_ns(s->db->env) >= f->retry_ns;
}

void shard_note(struct shard *s, struct failure *f, const char *what, int result)
{
    if (result >= 0) {
        *f = (struct failure){0};
        return;
    }
    if (result != f->error && db_writable(s->db) == 0)
        logger_write(&s->db->log, LSM_LOG_WARNING, "shard %u: a %s failed, will try again: %s", s->index,
                     what, strerror(-result));
    *f = (struct failure){result, env_mono_ns(s->db->env) + RETRY_NS};
}

/* ---- steps ---- */

static int compact_on_request(struct shard *s)
{
    pthread_mutex_lock(&s->work_lock);
    uint64_t wanted = s->compact_wanted;
    lsn_t until = s->compact_until;
    bool pending = wanted != s->compact_done;
    pthread_mutex_unlock(&s->work_lock);
    if (!pending)
        return 0;
    int result = shard_compact(s, until);
    if (result == 0) {
        pthread_mutex_lock(&s->work_lock);
        s->compact_done = wanted;
        pthread_cond_broadcast(&s->done);
        pthread_mutex_unlock(&s->work_lock);
    }
    return result;
}

static int compact(struct shard *s)
{
    if (!shard_is_due(s, &s->compact_failure))
        return 0;
    int result = compact_on_request(s);
    if (!result)
        result = shard_compact(s, 0);
    shard_note(s, &s->compact_failure, "compaction", result == -ECANCELED ? 0 : result);
    __atomic_store_n(&s->compaction_fails, s->compact_failure.error != 0, __ATOMIC_RELAXED);
    return result;
}

/* On a full disk deletes free nothing before they are in a table, so a memtable does not wait to be full. */
static int seal_if_wanted(struct shard *s)
{
    uint64_t now = env_mono_ns(s->db->env);
    if (!space_is_wanted(s->db) || (!db_inline(s->db) && now - s->sealed_ns < TIGHT_NS))
        return 0;
    struct view *v = view_get(s);
    bool waiting = v->sealed_count > 0;
    view_unref(v);
    if (waiting)
        return 0;
    s->sealed_ns = now;
    return shard_seal(s);
}

/* The log is everybody's: where one shard is written to and others are not, all are called busy. */
static void take_tempo(struct shard *s)
{
    uint64_t now = env_mono_ns(s->db->env), frontier = db_frontier(s->db);
    if (db_inline(s->db) || now - s->tempo_ns < TEMPO_NS)
        return;
    uint64_t memtables = s->db->shard_count * (uint64_t)s->db->options.write_buffer_bytes;
    double tempo = (double)(frontier - s->tempo_lsn) * 1e9 / (double)(now - s->tempo_ns);
    s->busy = s->tempo_lsn && tempo > (double)memtables / BUSY_FILL_S;
    s->tempo_ns = now;
    s->tempo_lsn = frontier;
}

static void take_rest(struct shard *s)
{
    uint64_t now = env_mono_ns(s->db->env);
    lsn_t frontier = db_frontier(s->db);
    if (frontier != s->rest_lsn) {
        s->rest_lsn = frontier;
        s->rest_ns = now + REST_NS;
        s->rested = false;
    }
    s->resting = now >= s->rest_ns;
}

static int one_step(struct shard *s)
{
    int result = shard_is_due(s, &s->flush_failure) ? shard_flush_oldest(s) : 0;
    if (!result && log_over_budget(s->db))
        result = shard_relieve_log(s->db, s);
    if (!result)
        result = seal_if_wanted(s);
    if (!result && !s->flush_failure.error)
        result = shard_seal_deletes(s);
    if (!result)
        result = shard_seal_for_blobs(s);
    if (result == 0 || result == -ENOSPC) {
        int forgotten = blob_forget_dead(s); /* gives space back, needs next to none */
        if (forgotten)
            result = forgotten;
    }
    if (!result)
        result = blob_prepare(s);
    if (!result && s->resting && !s->flush_failure.error)
        result = shard_rest(s);
    if (result == 0 || result == -ENOSPC) {
        int compacted = compact(s);
        if (compacted > 0)
            s->flush_failure = (struct failure){0}; /* there may be space now */
        if (compacted)
            result = compacted;
    }
    if (!result)
        s->deletes_urgent = false;
    vset_collect(s->db->vset);
    return result;
}

/* After a step: is there space (again), and when is that to be asked next, should nothing happen? */
static void look_around(struct shard *s, int result)
{
    struct lsm *db = s->db;
    if (result > 0)
        count_add(&db->space.progress, 1);
    if (result < 0) /* what it was waits for its time, and so does this */
        s->rest_ns = env_mono_ns(db->env) + REST_NS;
    bool now_rested = !result && s->resting && !s->rested;
    if (now_rested) {
        s->rested = true;
        space_rest(db);
    }
    if (result || s->look_ns || now_rested || space_is_short(db))
        space_look(db);
    bool again = space_is_wanted(db) || __atomic_load_n(&s->compaction_too_large, __ATOMIC_RELAXED);
    s->look_ns = again ? env_mono_ns(db->env) + TIGHT_NS : 0;
}

int shard_step(struct shard *s)
{
    view_retire_waiting(s);
    int result = db_writable(s->db);
    if (!result) {
        take_tempo(s);
        take_rest(s);
        result = one_step(s);
        look_around(s, result);
    } else { /* nothing will ever be flushed or compacted again */
        s->flush_failure = s->compact_failure = (struct failure){0};
        s->busy = false; /* what has its time would come again and again */
        s->rested = true;
        s->look_ns = 0;
        shard_ended(s, SHARD_FLUSHES, result);
    }
    /* If all there was to do waits for its time, nothing has ended: whoever waits goes on waiting. */
    if (result || (!s->flush_failure.error && !s->compact_failure.error))
        shard_ended(s, SHARD_STEPS, result < 0 ? result : 0);
    return result;
}

void shard_kick(struct shard *s)
{
    if (db_inline(s->db))
        return;
    pthread_mutex_lock(&s->work_lock);
    s->kicked = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->work_lock);
}

static void wait_on(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t nsec = (uint64_t)t.tv_nsec + ns;
    t.tv_sec += (time_t)(nsec / 1000000000u);
    t.tv_nsec = (long)(nsec % 1000000000u);
    pthread_cond_timedwait(cond, lock, &t);
}

static int step_inline(struct shard *s, enum shard_work what, uint64_t since)
{
    pthread_mutex_lock(&s->step_lock);
    bool waited = shard_count(s, what) != since;    /* another thread did one meanwhile */
    s->rest_ns = env_mono_ns(s->db->env) + REST_NS; /* somebody waits, so the store is not at rest */
    int result = waited ? 1 : shard_step(s);
    pthread_mutex_unlock(&s->step_lock);
    if (result == 0) /* nothing left to do and still no room; or what failed is not tried again yet */
        return s->flush_failure.error     ? s->flush_failure.error
               : s->compact_failure.error ? s->compact_failure.error
                                          : -ENOSPC;
    return result < 0 ? result : 0;
}

int shard_wait(struct shard *s, enum shard_work what, uint64_t since)
{
    if (db_inline(s->db))
        return step_inline(s, what, since);
    const struct outcome *o = &s->outcome[what];
    pthread_mutex_lock(&s->work_lock);
    s->kicked = true;
    pthread_cond_signal(&s->work);
    if (o->count == since)
        wait_on(&s->done, &s->work_lock, WAIT_NS);
    int err = o->count == since ? 0 : o->error;
    pthread_mutex_unlock(&s->work_lock);
    return err;
}

/* Waits for a kick, or for the time to try again what failed. Under the work lock. */
static void wait_for_work(struct shard *s)
{
    uint64_t at = UINT64_MAX, now = env_mono_ns(s->db->env);
    if (s->flush_failure.error)
        at = s->flush_failure.retry_ns;
    if (s->compact_failure.error && s->compact_failure.retry_ns < at)
        at = s->compact_failure.retry_ns;
    if (s->look_ns && s->look_ns < at)
        at = s->look_ns;
    if (s->age_check_ns < at)
        at = s->age_check_ns;
    if (s->busy && s->tempo_ns + TEMPO_NS < at) /* what was put off is done when it no longer is */
        at = s->tempo_ns + TEMPO_NS;
    if (!s->rested && s->rest_ns < at)
        at = s->rest_ns;
    if (at == UINT64_MAX)
        pthread_cond_wait(&s->work, &s->work_lock);
    else if (at > now)
        wait_on(&s->work, &s->work_lock, at - now);
    else
        s->kicked = true;
}

static void shard_main(void *arg)
{
    struct shard *s = arg;
    s->age_check_ns = UINT64_MAX;
    pthread_mutex_lock(&s->work_lock);
    while (!s->stop) {
        if (!s->kicked) {
            wait_for_work(s);
            continue;
        }
        s->kicked = false;
        pthread_mutex_unlock(&s->work_lock);
        stall_l0_busy(s);
        while (shard_step(s) > 0 && !__atomic_load_n(&s->stop, __ATOMIC_RELAXED))
            ;
        s->age_check_ns = shard_next_age_check(s);
        pthread_mutex_lock(&s->work_lock);
    }
    pthread_mutex_unlock(&s->work_lock);
}

int background_start(struct lsm *db)
{
    if (db_inline(db) || db->read_only)
        return 0;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    for (unsigned i = 0; i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        char name[16];
        snprintf(name, sizeof name, "shale-%u", i % 1000);
        int err = env_thread_start(db->env, name, cpus > 0 ? (int)(i % (unsigned)cpus) : -1, shard_main, s,
                                   &s->thread);
        if (err) {
            background_stop(db);
            return err;
        }
        shard_kick(s);
    }
    return 0;
}

void background_stop(struct lsm *db)
{
    for (unsigned i = 0; i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        pthread_mutex_lock(&s->work_lock);
        __atomic_store_n(&s->stop, true, __ATOMIC_RELAXED);
        pthread_cond_broadcast(&s->work);
        pthread_mutex_unlock(&s->work_lock);
    }
    for (unsigned i = 0; i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        if (s->thread)
            env_thread_join(db->env, s->thread);
        s->thread = NULL;
    }
}

/* ---- public ---- */

int lsm_work(struct lsm *db)
{
    if (!db_inline(db) || !db->wal)
        return 0;
    if (wal_tick(db->wal))
        return 1;
    int error = 0;
    for (unsigned i = 0; i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        pthread_mutex_lock(&s->step_lock);
        int result = shard_step(s);
        pthread_mutex_unlock(&s->step_lock);
        if (result > 0)
            return 1;
        if (result && !error) /* a shard that can't go on keeps no other from it */
            error = result;
    }
    return error;
}

static bool has_unflushed(struct shard *s, lsn_t below)
{
    struct view *v = view_get(s);
    const struct memtable *m = v->sealed_count ? v->sealed[v->sealed_count - 1] : v->active;
    lsn_t first = memtable_first_lsn(m);
    view_unref(v);
    return first && first < below;
}

static int flush_until(struct shard *s, lsn_t until)
{
    for (;;) {
        uint64_t since = shard_count(s, SHARD_FLUSHES);
        if (!has_unflushed(s, until))
            return 0;
        struct view *v = view_get(s);
        bool waiting = v->sealed_count > 0;
        view_unref(v);
        int err = waiting ? 0 : shard_seal(s);
        if (err >= 0)
            err = shard_wait(s, SHARD_FLUSHES, since);
        if (!err)
            err = db_writable(s->db);
        if (err)
            return err;
    }
}

int lsm_flush(struct lsm *db)
{
    int err = db_writable(db);
    lsn_t until = err ? 0 : db_frontier(db);
    for (unsigned i = 0; !err && i < db->shard_count; i++)
        err = flush_until(&db->shards[i], until);
    return err;
}

/* Everything below `until` is in tables: goes to the last level. */
static int compact_until(struct shard *s, lsn_t until)
{
    pthread_mutex_lock(&s->work_lock);
    uint64_t ticket = ++s->compact_wanted;
    if (until > s->compact_until)
        s->compact_until = until;
    pthread_mutex_unlock(&s->work_lock);
    for (int err = 0;;) {
        uint64_t since = shard_count(s, SHARD_STEPS);
        pthread_mutex_lock(&s->work_lock);
        bool done = s->compact_done >= ticket;
        pthread_mutex_unlock(&s->work_lock);
        if (done)
            return __atomic_load_n(&s->compaction_broken, __ATOMIC_RELAXED) ? -EIO : 0;
        if (err)
            return err;
        err = shard_wait(s, SHARD_STEPS, since);
        if (!err)
            err = db_writable(s->db);
    }
}

int lsm_compact(struct lsm *db)
{
    lsn_t until = db_frontier(db);
    int err;
    do { /* on a full disk one shard may free what another lacks */
        err = lsm_flush(db);
        for (unsigned i = 0; !err && i < db->shard_count; i++)
            err = compact_until(&db->shards[i], until);
    } while (err == -ENOSPC && db_wait_for_space(db) == 0);
    return err;
}
