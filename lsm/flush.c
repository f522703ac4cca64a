/*
 * flush.c - sealed memtables become tables in level 0, and what seals them.
 *
 * Threads: the shard's background thread; shard_seal and log_over_budget any.
 */
#include "background.h"
#include "mutant.h"

#include <assert.h>
#include <stdlib.h>

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

static int write_memtable(struct shard *s, struct memtable *m, struct compact_result *r)
{
    struct lsm *db = s->db;
    uint64_t *snapshots = NULL;
    struct iter *input = NULL;
    size_t snapshot_count = 0;
    struct ranges ranges = {0}, above_ranges = {0};
    int err = snapshot_list(db, &snapshots, &snapshot_count);
    if (mutant("flush forgets the snapshots"))
        snapshot_count = 0;
    if (!err)
        err = memtable_iter_new(m, &input);
    if (!err)
        err = memtable_ranges(m, &ranges);
    if (!err)
        err = ranges_build(&ranges, snapshots, snapshot_count);
    if (!err) {
        struct compact_job job = shard_job(s, input, 0);
        job.expected_entries = memtable_count(m);
        job.deletes_since_s = memtable_born_s(m);
        job.ranges = mutant("flush forgets range deletes") ? NULL : &ranges;
        job.snapshots = snapshots;
        job.snapshot_count = snapshot_count;
        err = compact_run(&job, r);
    }
    iter_free(input);
    ranges_free(&ranges);
    ranges_free(&above_ranges);
    free(snapshots);
    return err;
}

static int flush_memtable(struct shard *s, struct memtable *m)
{
    struct lsm *db = s->db;
    lsn_t end = memtable_end_lsn(m);
    int err = wal_wait(db->wal, end);
    if (!err && !mutant("flush goes ahead of the log"))
        err = wal_sync_to(db->wal, end);
    if (err)
        return err;
    assert(wal_synced(db->wal) >= end || mutant("flush goes ahead of the log"));

    struct compact_result r = {0};
    struct edit edit = {0};
    space_want(db, table_space(memtable_table_bytes(m), 1));
    err = write_memtable(s, m, &r);
    if (!err)
        err = outputs_add(&edit, &r, s->index, 0);
    if (!err) {
        edit.synced = wal_synced(db->wal);
        edit.has_flushed = true;
        edit.flushed_shard = s->index;
        edit.flushed = end;
        edit.log_start = mutant("log start too high") ? end : oldest_unflushed(db, m);
        err = shard_apply(s, &edit, m);
    }
    if (!err) {
        count_add(&s->flushes, 1);
        count_add(&s->flush_bytes, r.bytes_written);
        count_add(&s->entries_dropped, r.dropped);
        __atomic_store_n(&db->log_start, vset_log_start(db->vset), __ATOMIC_RELAXED);
        wal_release(db->wal, vset_log_start(db->vset));
    }
    free(edit.add);
    outputs_drop(db, &r, err);
    return err;
}

int shard_flush_oldest(struct shard *s)
{
    view_retire_waiting(s);
    struct view *v = view_get(s);
    struct memtable *m = v->sealed_count ? v->sealed[v->sealed_count - 1] : NULL;
    int result = 0;
    if (m) {
        uint64_t began = env_mono_ns(s->db->env);
        memtable_set_state(m, MEMTABLE_FLUSHING);
        result = flush_memtable(s, m);
        if (!result)
            stall_flushed(s, memtable_table_bytes(m), env_mono_ns(s->db->env) - began);
        memtable_set_state(m, result ? MEMTABLE_SEALED : MEMTABLE_FLUSHED);
        shard_note(s, &s->flush_failure, "flush", result);
        shard_ended(s, SHARD_FLUSHES, result);
        if (!result)
            result = 1;
    }
    view_unref(v);
    return result;
}

int shard_seal(struct shard *s)
{
    struct view *retired = NULL;
    int result = 0;
    pthread_mutex_lock(&s->lock);
    if (!memtable_is_empty(s->view->active) && s->view->sealed_count < SEALED_MAX) {
        result = view_rotate(s, s->db->options.write_buffer_bytes, &retired);
        if (!result)
            result = 1;
    }
    pthread_mutex_unlock(&s->lock);
    view_retire(retired);
    return result;
}

/* What is not flushed yet may be less than the log still keeps, as after an open. */
static int release_log(struct lsm *db)
{
    lsn_t oldest =
        mutant("the log is cut at rest before it is flushed") ? db_frontier(db) : oldest_unflushed(db, NULL);
    if (oldest <= vset_log_start(db->vset))
        return 0;
    int err = wal_sync_to(db->wal, oldest);
    struct edit edit = {.synced = wal_synced(db->wal), .log_start = oldest};
    if (!err)
        err = vset_apply(db->vset, &edit, NULL, NULL);
    if (err)
        return err;
    __atomic_store_n(&db->log_start, vset_log_start(db->vset), __ATOMIC_RELAXED);
    wal_release(db->wal, vset_log_start(db->vset));
    return 1;
}

int shard_rest(struct shard *s)
{
    if (!wal_is_long(s->db->wal))
        return 0;
    int sealed = shard_seal(s);
    return sealed ? sealed : release_log(s->db);
}

int shard_seal_for_blobs(struct shard *s)
{
    struct view *v = view_get(s);
    bool due = v->sealed_count == 0 &&
               (blob_wants_flush(s, v) ||
                (s->resting && !memtable_is_empty(v->active) && blob_wants_flush_at_rest(s, v)));
    view_unref(v);
    return due ? shard_seal(s) : 0;
}

bool log_over_budget(const struct lsm *db)
{
    lsn_t start = __atomic_load_n(&db->log_start, __ATOMIC_RELAXED);
    lsn_t frontier = db_frontier(db);
    return frontier > start && frontier - start > db->options.log_budget_bytes;
}

int shard_relieve_log(struct lsm *db, struct shard *self)
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
    int sealed = waiting ? 0 : shard_seal(oldest);
    if (sealed < 0)
        return sealed;
    if (oldest == self) /* a flush that failed and waits for its time is no reason to go on */
        return sealed;
    shard_kick(oldest);
    return 0;
}
