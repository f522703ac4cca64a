/*
 * background.c - flushes and compactions: one thread per shard, pinned to the shard's core.
 *
 * A shard's thread sleeps until it is kicked (a memtable was sealed, the log is over its budget,
 * somebody asked for a compaction), then works until nothing is left. A compaction lets a flush in
 * between every 64 KiB, so that writers never wait for the end of a large one. With LSM_INLINE the
 * same steps are taken by lsm_work and by writers that find no room.
 *
 * Order of an install: log synced past the table's last record (asserted), table synced, and in
 * vset_apply directory synced, manifest edit synced; only then are the inputs forgotten and the log let go.
 *
 * When a step fails for want of space, or because the medium refuses, its output is removed, the
 * error is what waiting writers get, and the step is tried again a second later. Damage in an
 * input stops the shard's compactions, and nothing else.
 */
#include "compact.h"
#include "db.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RETRY_NS 1000000000u

/* ---- flush ---- */

/* Records below this are in tables, once `flushing` is: see wal_release. */
static lsn_t oldest_unflushed(struct lsm *db, const struct memtable *flushing)
{
    /* Sampled first: a record that some shard inserts later lies above it. */
    lsn_t oldest = db->replaying ? db->replaying : db_frontier(db);
    for (unsigned i = 0; i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        pthread_mutex_lock(&s->lock);
        const struct view *v = s->view;
        lsn_t first = memtable_first_lsn(v->active);
        for (size_t j = 0; j < v->sealed_count; j++)
            if (v->sealed[j] != flushing)
                first = memtable_first_lsn(v->sealed[j]); /* older than what came before it */
        pthread_mutex_unlock(&s->lock);
        if (first && first < oldest)
            oldest = first;
    }
    return oldest;
}

struct install {
    struct shard *shard;
    struct view *spare;
    struct memtable *flushed;
};

static void installed(void *arg, struct version *v)
{
    struct install *in = arg;
    view_install(in->shard, in->spare, v, in->flushed);
    in->spare = NULL;
}

/* Applies an edit of this shard and publishes the view that goes with it. */
static int apply_edit(struct shard *s, struct edit *edit, struct memtable *flushed)
{
    struct install in = {s, view_spare(s), flushed};
    if (!in.spare)
        return -ENOMEM;
    int err = vset_apply(s->db->vset, edit, installed, &in);
    assert(err ? in.spare != NULL : in.spare == NULL);
    free(in.spare);
    if (vset_failed(s->db->vset))
        db_fail(s->db, err, "the manifest can't be written");
    return err;
}

static int add_outputs(struct edit *edit, const struct compact_result *r, unsigned shard, unsigned level)
{
    edit->add = calloc(r->count ? r->count : 1, sizeof *edit->add);
    if (!edit->add)
        return -ENOMEM;
    edit->add_count = r->count;
    for (size_t i = 0; i < r->count; i++)
        edit->add[i] = (struct edit_file){shard, level, r->tables[i]}; /* keys stay r's */
    return 0;
}

/* After a failed manifest write the edit may be on the medium: then its tables must stay. */
static void drop_outputs(struct lsm *db, struct compact_result *r, int err)
{
    if (err && !vset_failed(db->vset))
        compact_result_discard(db->env, db->path, r);
    else
        compact_result_free(r);
}

static struct compact_job job_for(struct shard *s, struct iter *input)
{
    struct lsm *db = s->db;
    return (struct compact_job){
        .env = db->env,
        .dir = db->path,
        .vs = db->vset,
        .log = &db->log,
        .input = input,
        .merge = db->options.merge,
        .merge_arg = db->options.callback_arg,
        .block_bytes = db->options.block_bytes,
    };
}

static int write_memtable(struct shard *s, struct memtable *m, struct compact_result *r)
{
    struct lsm *db = s->db;
    uint64_t *snapshots = NULL;
    struct iter *input = NULL;
    size_t snapshot_count = 0;
    int err = snapshot_list(db, &snapshots, &snapshot_count);
    if (!err)
        err = memtable_iter_new(m, &input);
    if (!err) {
        struct compact_job job = job_for(s, input);
        job.expected_entries = memtable_count(m);
        job.snapshots = snapshots;
        job.snapshot_count = snapshot_count;
        err = compact_run(&job, r);
    }
    iter_free(input);
    free(snapshots);
    return err;
}

static int flush_memtable(struct shard *s, struct memtable *m)
{
    struct lsm *db = s->db;
    lsn_t end = memtable_end_lsn(m);
    int err = wal_wait(db->wal, end);
    if (!err)
        err = wal_sync_to(db->wal, end);
    if (err)
        return err;
    assert(wal_synced(db->wal) >= end);

    struct compact_result r = {0};
    struct edit edit = {0};
    err = write_memtable(s, m, &r);
    if (!err)
        err = add_outputs(&edit, &r, s->index, 0);
    if (!err) {
        edit.synced = wal_synced(db->wal);
        edit.has_flushed = true;
        edit.flushed_shard = s->index;
        edit.flushed = end;
        edit.log_start = oldest_unflushed(db, m);
        err = apply_edit(s, &edit, m);
    }
    if (!err) {
        count_add(&s->flushes, 1);
        count_add(&s->flush_bytes, r.bytes_written);
        count_add(&s->entries_dropped, r.dropped);
        __atomic_store_n(&db->log_start, vset_log_start(db->vset), __ATOMIC_RELAXED);
        wal_release(db->wal, vset_log_start(db->vset));
    }
    free(edit.add);
    drop_outputs(db, &r, err);
    return err;
}

int shard_flush_oldest(struct shard *s)
{
    struct view *v = view_get(s);
    struct memtable *m = v->sealed_count ? v->sealed[v->sealed_count - 1] : NULL;
    int result = 0;
    if (m) {
        memtable_set_state(m, MEMTABLE_FLUSHING);
        result = flush_memtable(s, m);
        memtable_set_state(m, result ? MEMTABLE_SEALED : MEMTABLE_FLUSHED);
        if (!result)
            result = 1;
    }
    view_unref(v);
    return result;
}

/* Seals the active memtable unless it is empty or too many wait already. 1 if it did. */
static int seal_active(struct shard *s)
{
    struct view *retired = NULL;
    int result = 0;
    pthread_mutex_lock(&s->lock);
    if (memtable_count(s->view->active) && s->view->sealed_count < SEALED_MAX) {
        result = view_rotate(s, s->db->options.write_buffer_bytes, &retired);
        if (!result)
            result = 1;
    }
    pthread_mutex_unlock(&s->lock);
    view_retire(retired);
    return result;
}

bool log_over_budget(const struct lsm *db)
{
    lsn_t start = __atomic_load_n(&db->log_start, __ATOMIC_RELAXED);
    lsn_t frontier = db_frontier(db);
    return frontier > start && frontier - start > db->options.log_budget_bytes;
}

/* The log is too long: the shard with the oldest unflushed record seals its memtable. */
static int relieve_log(struct lsm *db, struct shard *self)
{
    struct shard *oldest = NULL;
    lsn_t oldest_lsn = 0;
    for (unsigned i = 0; i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        pthread_mutex_lock(&s->lock);
        const struct view *v = s->view;
        lsn_t first = v->sealed_count ? memtable_first_lsn(v->sealed[v->sealed_count - 1])
                                      : memtable_first_lsn(v->active);
        pthread_mutex_unlock(&s->lock);
        if (first && (!oldest || first < oldest_lsn)) {
            oldest = s;
            oldest_lsn = first;
        }
    }
    if (!oldest)
        return 0;
    struct view *v = view_get(oldest);
    bool waiting = v->sealed_count > 0;
    view_unref(v);
    if (!waiting) {
        int err = seal_active(oldest);
        if (err < 0)
            return err;
    }
    if (oldest != self)
        shard_kick(oldest);
    return oldest == self;
}

/* ---- compaction ---- */

static int yield_to_flush(void *arg)
{
    struct shard *s = arg;
    if (__atomic_load_n(&s->stop, __ATOMIC_RELAXED))
        return -ECANCELED;
    int result = db_writable(s->db);
    while (!result) {
        result = shard_flush_oldest(s);
        if (result <= 0)
            break;
        result = 0;
        pthread_mutex_lock(&s->work_lock);
        s->finished_steps++;
        s->error = 0;
        pthread_cond_broadcast(&s->done);
        pthread_mutex_unlock(&s->work_lock);
    }
    return result == -ENOSPC ? 0 : result; /* then this compaction may be what makes space */
}

static int remove_inputs(struct edit *edit, const struct compaction *c)
{
    edit->remove = calloc(c->count[0] + c->count[1] + 1, sizeof *edit->remove);
    if (!edit->remove)
        return -ENOMEM;
    for (unsigned which = 0; which < 2; which++)
        for (size_t i = 0; i < c->count[which]; i++)
            edit->remove[edit->remove_count++] = (struct edit_file){
                c->shard, which ? c->to : c->from, {.number = c->inputs[which][i]->meta.number}};
    return 0;
}

static int move_table(struct shard *s, const struct compaction *c)
{
    struct edit_file add = {s->index, c->to, c->inputs[0][0]->meta};
    struct edit edit = {.add = &add, .add_count = 1};
    int err = remove_inputs(&edit, c);
    if (!err)
        err = apply_edit(s, &edit, NULL);
    free(edit.remove);
    if (!err)
        count_add(&s->trivial_moves, 1);
    return err;
}

static int open_inputs(const struct compaction *c, struct iter **out, uint64_t *entries)
{
    size_t n = 0;
    struct iter **children = calloc(c->count[0] + c->count[1] + 1, sizeof *children);
    if (!children)
        return -ENOMEM;
    *entries = 0;
    int err = 0;
    for (unsigned which = 0; which < 2; which++)
        for (size_t i = 0; !err && i < c->count[which]; i++) {
            *entries += c->inputs[which][i]->meta.entries;
            err = table_iter_new(c->inputs[which][i]->table, LSM_NOFILL, &children[n]);
            if (!err)
                n++;
        }
    if (!err) {
        err = merge_iter_new(children, n, out);
    } else {
        for (size_t i = 0; i < n; i++)
            iter_free(children[i]);
    }
    free(children);
    return err;
}

static int rewrite_tables(struct shard *s, const struct compaction *c)
{
    struct lsm *db = s->db;
    uint64_t *snapshots = NULL;
    size_t snapshot_count = 0;
    struct iter *input = NULL;
    struct compact_result r = {0};
    struct edit edit = {0};
    uint64_t entries = 0;
    int err = snapshot_list(db, &snapshots, &snapshot_count);
    if (!err)
        err = open_inputs(c, &input, &entries);
    if (!err) {
        struct compact_job job = job_for(s, input);
        job.expected_entries = entries;
        job.snapshots = snapshots;
        job.snapshot_count = snapshot_count;
        job.bottom = c->bottom;
        job.max_output_bytes = c->max_output_bytes;
        if (c->to + 1 < LSM_LEVELS)
            job.grandparent = &c->version->levels[c->to + 1];
        job.yield = yield_to_flush;
        job.yield_arg = s;
        err = compact_run(&job, &r);
    }
    if (!err)
        err = add_outputs(&edit, &r, s->index, c->to);
    if (!err)
        err = remove_inputs(&edit, c);
    if (!err)
        err = apply_edit(s, &edit, NULL);
    if (!err) {
        count_add(&s->compactions, 1);
        count_add(&s->compact_bytes_read, r.bytes_read);
        count_add(&s->compact_bytes_written, r.bytes_written);
        count_add(&s->entries_dropped, r.dropped);
    }
    iter_free(input);
    free(snapshots);
    free(edit.add);
    free(edit.remove);
    drop_outputs(db, &r, err);
    return err;
}

/* 1 if a compaction was done. `all`: everything into the last level, whatever the shape. */
static int compact_once(struct shard *s, bool all)
{
    struct lsm *db = s->db;
    struct compaction c = {0};
    if (s->compaction_broken)
        return 0;
    struct version *v = vset_current(db->vset, s->index);
    uint64_t oldest = snapshot_oldest(db);
    if (!(all ? compaction_pick_all(db->vset, v, oldest, &c) : compaction_pick(db->vset, v, oldest, &c)))
        return 0;
    int err = c.trivial ? move_table(s, &c) : rewrite_tables(s, &c);
    compaction_release(&c);
    if (err == -EIO && db_writable(db) == 0) {
        __atomic_store_n(&s->compaction_broken, true, __ATOMIC_RELAXED);
        logger_write(&db->log, LSM_LOG_ERROR,
                     "shard %u: an input of a compaction is damaged; the shard is not compacted any more", s->index);
    }
    return err ? err : 1;
}

/* ---- steps ---- */

static int compact_on_request(struct shard *s)
{
    pthread_mutex_lock(&s->work_lock);
    uint64_t wanted = s->compact_wanted;
    bool pending = wanted != s->compact_done;
    pthread_mutex_unlock(&s->work_lock);
    if (!pending)
        return 0;
    int result = compact_once(s, true);
    if (result == 0) {
        pthread_mutex_lock(&s->work_lock);
        s->compact_done = wanted;
        pthread_cond_broadcast(&s->done);
        pthread_mutex_unlock(&s->work_lock);
    }
    return result;
}

int shard_step(struct shard *s)
{
    struct lsm *db = s->db;
    int result = db_writable(db);
    if (!result)
        result = shard_flush_oldest(s);
    if (!result && log_over_budget(db))
        result = relieve_log(db, s);
    if (!result)
        result = compact_on_request(s);
    if (!result)
        result = compact_once(s, false);
    vset_collect(db->vset);

    pthread_mutex_lock(&s->work_lock);
    s->error = result < 0 ? result : 0;
    if (result)
        s->finished_steps++;
    pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->work_lock);
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

int shard_wait_progress(struct shard *s)
{
    if (db_inline(s->db)) {
        int result = shard_step(s);
        if (result == 0)
            return -ENOSPC; /* nothing left to do and still no room: can't be helped by waiting */
        return result < 0 ? result : 0;
    }
    pthread_mutex_lock(&s->work_lock);
    uint64_t before = s->finished_steps;
    s->kicked = true;
    pthread_cond_signal(&s->work);
    if (s->finished_steps == before && !s->error)
        wait_on(&s->done, &s->work_lock, RETRY_NS);
    int err = s->error;
    pthread_mutex_unlock(&s->work_lock);
    return err;
}

static void shard_main(void *arg)
{
    struct shard *s = arg;
    pthread_mutex_lock(&s->work_lock);
    while (!s->stop) {
        if (!s->kicked) {
            pthread_cond_wait(&s->work, &s->work_lock);
            continue;
        }
        s->kicked = false;
        pthread_mutex_unlock(&s->work_lock);
        int result;
        do
            result = shard_step(s);
        while (result > 0 && !__atomic_load_n(&s->stop, __ATOMIC_RELAXED));
        pthread_mutex_lock(&s->work_lock);
        if (result < 0 && !s->stop && db_writable(s->db) == 0) {
            if (result != -ECANCELED)
                logger_write(&s->db->log, LSM_LOG_WARNING, "shard %u: background work failed, will try again: %s",
                             s->index, strerror(-result));
            wait_on(&s->work, &s->work_lock, RETRY_NS);
            s->kicked = true;
        }
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
    for (unsigned i = 0; i < db->shard_count; i++) {
        int result = shard_step(&db->shards[i]);
        if (result)
            return result;
    }
    return 0;
}

static bool has_unflushed(struct shard *s, lsn_t below)
{
    struct view *v = view_get(s);
    const struct memtable *m = v->sealed_count ? v->sealed[v->sealed_count - 1] : v->active;
    lsn_t first = memtable_first_lsn(m);
    view_unref(v);
    return first && first < below;
}

int lsm_flush(struct lsm *db)
{
    int err = db_writable(db);
    lsn_t until = err ? 0 : db_frontier(db);
    for (unsigned i = 0; !err && i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        while (!err && has_unflushed(s, until)) {
            struct view *v = view_get(s);
            bool waiting = v->sealed_count > 0;
            view_unref(v);
            if (!waiting)
                err = seal_active(s);
            if (err >= 0)
                err = shard_wait_progress(s);
            if (!err)
                err = db_writable(db);
        }
    }
    return err;
}

int lsm_compact(struct lsm *db)
{
    int err = lsm_flush(db);
    for (unsigned i = 0; !err && i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        pthread_mutex_lock(&s->work_lock);
        uint64_t ticket = ++s->compact_wanted;
        pthread_mutex_unlock(&s->work_lock);
        for (bool done = false; !err && !done;) {
            err = shard_wait_progress(s);
            pthread_mutex_lock(&s->work_lock);
            done = s->compact_done >= ticket;
            pthread_mutex_unlock(&s->work_lock);
            if (done)
                err = 0;
            else if (!err)
                err = db_writable(db);
        }
        if (!err && s->compaction_broken)
            err = -EIO;
    }
    return err;
}
