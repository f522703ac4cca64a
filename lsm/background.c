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
 * When a flush or a compaction fails for want of space, or because the medium refuses, its output is
 * removed, its error is what those get who wait for it, and it is tried again after RETRY_NS, not
 * sooner, however often somebody asks: on a full disk each try writes half a table. The two are kept
 * apart: a compaction that finds no space stops no flush, and one that works may make space for it.
 * Damage in an input stops the shard's compactions, and nothing else.
 *
 * On a full disk (space.h) a flush takes what it needs from the reserve; a compaction is begun only if what it
 * may take at most is there, and where it is not, single tables are purged (compaction_purge.c).
 */
#include "blob_collect.h"
#include "compact.h"
#include "db.h"
#include "filter.h"
#include "mutant.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RETRY_NS 250000000u /* how long a writer on a full disk waits for its error, at most */
#define WAIT_NS 1000000000u /* of one wait; a bound, should a wakeup go astray */
#define TABLE_SPACE_BYTES (16u << 10)
#define DISK_BLOCK_BYTES 4096u
/*
 * On a full disk a memtable is flushed when it is that old, full or not: deletes free nothing before. And so often a
 * shard looks whether there is space again.
 */
#define TIGHT_NS 500000000u

/* ---- outcomes ---- */

static void ended(struct shard *s, enum shard_work what, int error)
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

/* With LSM_INLINE a try is always somebody's wish. */
static bool is_due(const struct shard *s, const struct failure *f)
{
    return !f->error || db_inline(s->db) || env_mono_ns(s->db->env) >= f->retry_ns;
}

static void note(struct shard *s, struct failure *f, const char *what, int result)
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

int shard_apply(struct shard *s, const struct edit *edit, struct memtable *flushed)
{
    struct install in = {s, view_spare(s), flushed};
    if (!in.spare)
        return -ENOMEM;
    int err = vset_apply(s->db->vset, edit, installed, &in);
    assert(err ? in.spare != NULL : in.spare == NULL);
    free(in.spare);
    int failed =
        vset_failed(s->db->vset); /* perhaps in another shard's edit, or after this one was installed */
    if (failed)
        db_fail(s->db, failed, "the manifest can't be written");
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

/* How a table of this level is to be compressed; not at all where the manifest can't be made to say so. */
static enum table_compression compression_for(struct lsm *db, unsigned level)
{
    enum table_compression how = db_compression(&db->options, level);
    if (how == TABLE_COMPRESSION_NONE || vset_has(db->vset, STORE_COMPRESSION))
        return how;
    return vset_require(db->vset, STORE_COMPRESSION) ? TABLE_COMPRESSION_NONE : how;
}

/* Likewise of its filter: that of release 0.1 does for all. */
static unsigned filter_bits_for(struct lsm *db, unsigned level)
{
    bool may = vset_has(db->vset, STORE_FUSE_FILTERS) || vset_require(db->vset, STORE_FUSE_FILTERS) == 0;
    return may ? filter_bits(level) : 0;
}

static struct compact_job job_for(struct shard *s, struct iter *input, unsigned level)
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
        .compression = compression_for(db, level),
        .filter_bits = filter_bits_for(db, level),
        .writer_stats = &db->writer_stats,
    };
}

/*
 * What tables made of so many bytes of `tables` inputs take at most, with index, filter, footer, and rounding to blocks
 * of the disk. Never quite right, and need not be: it is asked for, and what is not needed is given back.
 */
static uint64_t table_space(uint64_t input_bytes, size_t tables)
{
    return input_bytes + input_bytes / 16 + TABLE_SPACE_BYTES + tables * DISK_BLOCK_BYTES;
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
        struct compact_job job = job_for(s, input, 0);
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
        err = add_outputs(&edit, &r, s->index, 0);
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
    drop_outputs(db, &r, err);
    return err;
}

int shard_flush_oldest(struct shard *s)
{
    view_retire_waiting(s);
    struct view *v = view_get(s);
    struct memtable *m = v->sealed_count ? v->sealed[v->sealed_count - 1] : NULL;
    int result = 0;
    if (m) {
        memtable_set_state(m, MEMTABLE_FLUSHING);
        result = flush_memtable(s, m);
        memtable_set_state(m, result ? MEMTABLE_SEALED : MEMTABLE_FLUSHED);
        note(s, &s->flush_failure, "flush", result);
        ended(s, SHARD_FLUSHES, result);
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

/* Deletes that free large values are flushed, so that compaction can give the space back. */
static int seal_for_blobs(struct shard *s)
{
    struct view *v = view_get(s);
    bool due = v->sealed_count == 0 && blob_wants_flush(s, v);
    view_unref(v);
    return due ? shard_seal(s) : 0;
}

bool log_over_budget(const struct lsm *db)
{
    lsn_t start = __atomic_load_n(&db->log_start, __ATOMIC_RELAXED);
    lsn_t frontier = db_frontier(db);
    return frontier > start && frontier - start > db->options.log_budget_bytes;
}

/* The log is too long: the shard with the oldest unflushed record seals its memtable. 1 if that is `self`. */
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
    int sealed = waiting ? 0 : shard_seal(oldest);
    if (sealed < 0)
        return sealed;
    if (oldest == self) /* a flush that failed and waits for its time is no reason to go on */
        return sealed;
    shard_kick(oldest);
    return 0;
}

/* ---- compaction ---- */

/* A compaction at work: its shard, and the space that it has claimed and not yet written to. */
struct at_work {
    struct shard *shard;
    const struct compact_result *result;
    uint64_t claimed, written;
    uint64_t moves;                     /* bytes of values in blob files that may be moved */
    bool dry;                           /* only counts what would be dropped */
    uint64_t read_bytes, dropped_bytes; /* result, of tables */
    uint64_t dropped_blob_bytes;        /* result */
    bool bad_input;                     /* result: it failed because of what it read, and would again */
};

static void claim_less(struct at_work *w)
{
    uint64_t more = w->result->bytes_written - w->written;
    more = more < w->claimed ? more : w->claimed;
    if (!more)
        return;
    space_unclaim(w->shard->db, more);
    w->claimed -= more;
    w->written = w->result->bytes_written;
}

static int yield_to_flush(void *arg)
{
    struct at_work *w = arg;
    struct shard *s = w->shard;
    claim_less(w);
    if (__atomic_load_n(&s->stop, __ATOMIC_RELAXED))
        return -ECANCELED;
    /* One that fails is told to those who wait for it; this compaction may be what makes space. */
    while (s->flush_failure.error == 0 || env_mono_ns(s->db->env) >= s->flush_failure.retry_ns)
        if (shard_flush_oldest(s) <= 0)
            break;
    return db_writable(s->db);
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
        err = shard_apply(s, &edit, NULL);
    free(edit.remove);
    if (!err)
        count_add(&s->trivial_moves, 1);
    return err;
}

/*
 * One iterator for each table of L0, and one for all tables of another level, of which it has one open at
 * a time: an iterator of a table holds up to 256 KiB, and a compaction may have thousands of tables.
 * `levels` belongs to the caller and outlives the iterator.
 */
static int open_inputs(const struct compaction *c, struct level levels[2], struct iter **out,
                       uint64_t *entries)
{
    size_t n = 0;
    struct iter **children = calloc(c->count[0] + 2, sizeof *children);
    if (!children)
        return -ENOMEM;
    *entries = 0;
    int err = 0;
    for (unsigned which = 0; which < 2; which++) {
        levels[which] = (struct level){.files = c->inputs[which], .count = c->count[which]};
        for (size_t i = 0; i < c->count[which]; i++)
            *entries += c->inputs[which][i]->meta.entries;
        bool sorted = (which ? c->to : c->from) > 0;
        for (size_t i = 0; !err && !sorted && i < c->count[which]; i++)
            if (!(err = table_iter_new(c->inputs[which][i]->table, LSM_NOFILL, &children[n])))
                n++;
        if (!err && sorted && c->count[which] &&
            !(err = level_iter_new(&levels[which], LSM_NOFILL, &children[n])))
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

/* The range deletes of all inputs. Takes a few times the memory that their blocks have in the files. */
static int input_ranges(const struct compaction *c, const uint64_t *snapshots, size_t snapshot_count,
                        struct ranges *out, bool *bad_input)
{
    int err = 0;
    for (unsigned which = 0; which < 2; which++)
        for (size_t i = 0; !err && i < c->count[which]; i++)
            err = table_ranges(c->inputs[which][i]->table, out);
    *bad_input = err == -EIO;
    return err ? err : ranges_build(out, snapshots, snapshot_count);
}

static uint64_t oldest_deletes(const struct compaction *c)
{
    uint64_t oldest = UINT64_MAX;
    for (unsigned which = 0; which < 2; which++)
        for (size_t i = 0; i < c->count[which]; i++) {
            const struct table_meta *m = &c->inputs[which][i]->meta;
            if (m->deletes + m->range_deletes > 0 && m->deletes_since_s < oldest)
                oldest = m->deletes_since_s;
        }
    return oldest;
}

static int install_outputs(struct shard *s, const struct compaction *c, struct edit *edit,
                           const struct compact_result *r)
{
    int err = add_outputs(edit, r, s->index, c->to);
    if (!err)
        err = remove_inputs(edit, c);
    return err ? err : shard_apply(s, edit, NULL);
}

static int rewrite_tables(struct shard *s, const struct compaction *c, struct at_work *work)
{
    struct lsm *db = s->db;
    struct level levels[2];
    uint64_t *snapshots = NULL;
    size_t snapshot_count = 0;
    struct iter *input = NULL, *above = NULL;
    struct compact_result r = {0};
    struct edit edit = {0};
    uint64_t entries = 0;
    struct ranges ranges = {0}, above_ranges = {0};
    bool moving = false;
    work->shard = s;
    work->result = &r;
    int err = snapshot_list(db, &snapshots, &snapshot_count);
    if (!err)
        err = input_ranges(c, snapshots, snapshot_count, &ranges, &work->bad_input);
    if (!err)
        err = open_inputs(c, levels, &input, &entries);
    if (!err && c->purge)
        err = compaction_above(c, snapshots, snapshot_count, &above, &above_ranges);
    if (!err) {
        struct compact_job job = job_for(s, input, c->to);
        job.expected_entries = entries;
        job.snapshots = snapshots;
        job.snapshot_count =
            mutant("collection forgets the snapshots") && c->reason[0] == 'b' ? 0 : snapshot_count;
        job.ranges = &ranges;
        job.deletes_since_s = oldest_deletes(c);
        job.bottom = c->bottom || mutant("deletes dropped too early");
        job.max_output_bytes = c->max_output_bytes;
        if (c->to + 1 < LSM_LEVELS)
            job.grandparent = &c->version->levels[c->to + 1];
        job.yield = yield_to_flush;
        job.yield_arg = work;
        job.above = above;
        job.above_ranges = &above_ranges;
        job.dry = work->dry;
        moving = !c->purge && !work->dry; /* a purge may take no more space than what is left of its table */
        if (moving) {
            job.move = blob_move;
            job.move_arg = s;
            blob_move_begin(s, work->moves);
        }
        err = compact_run(&job, &r);
        work->bad_input |= r.bad_input;
        work->read_bytes = r.bytes_read;
        work->dropped_bytes = r.dropped_bytes;
        work->dropped_blob_bytes = r.dropped_blob_bytes;
    }
    if (!err && moving) /* the values are on the medium before the tables that name them are installed */
        err = blob_move_end(s);
    if (!err && !work->dry)
        err = install_outputs(s, c, &edit, &r);
    if (!err && !work->dry) {
        count_add(c->purge ? &s->purges : &s->compactions, 1);
        count_add(&s->compact_bytes_read, r.bytes_read);
        count_add(&s->compact_bytes_written, r.bytes_written);
        count_add(&s->entries_dropped, r.dropped);
    }
    if (err && moving)
        blob_move_back(s);
    iter_free(input);
    ranges_free(&ranges);
    ranges_free(&above_ranges);
    iter_free(above);
    free(snapshots);
    free(edit.add);
    free(edit.remove);
    work->result = NULL;
    drop_outputs(db, &r, err);
    if (work->claimed)
        space_unclaim(db, work->claimed);
    if (work->bad_input) {
        __atomic_store_n(&s->compaction_broken, true, __ATOMIC_RELAXED);
        logger_write(&db->log, LSM_LOG_ERROR,
                     "shard %u: an input of a compaction is damaged; the shard is not compacted any more",
                     s->index);
    }
    return err;
}

/* With `collect` also what is done for blob files only. */
static bool pick(struct shard *s, struct version *v, lsn_t until, bool collect, struct compaction *c)
{
    struct lsm *db = s->db;
    uint64_t oldest = snapshot_oldest(db);
    if (until)
        return compaction_pick_all(db->vset, v, oldest, until, c);
    /* On a full disk what frees the space of blob files goes first. */
    bool tight = space_is_tight(db);
    return (collect && tight && blob_pick(s, v, oldest, c)) || compaction_pick(db->vset, v, oldest, c) ||
           shard_pick_deletes(s, v, oldest, c) || (collect && !tight && blob_pick(s, v, oldest, c));
}

/* ---- on a full disk ---- */

static uint64_t space_of(const struct compaction *c)
{
    uint64_t bytes = 0;
    for (unsigned which = 0; which < 2; which++)
        for (size_t i = 0; i < c->count[which]; i++)
            bytes += c->inputs[which][i]->meta.bytes;
    return table_space(bytes, c->count[0] + c->count[1] + 1);
}

/*
 * Rewrites the table that promises most without what newer tables hide of it: takes no more space than
 * what is left of that table, where the compaction that would come to the same takes ten or a hundred tables. 1 if it did.
 */
static int purge_once(struct shard *s)
{
    struct lsm *db = s->db;
    bool desperate = s->flush_failure.error == -ENOSPC;
    for (;;) {
        struct compaction c;
        struct at_work work = {.dry = true};
        uint64_t oldest = snapshot_oldest(db), space = space_claimable(db);
        uint64_t fixed = table_space(0, 1), max_bytes = space > fixed ? (space - fixed) / 17 * 16 : 0;
        struct view *view = view_get(s); /* as in compact_once */
        bool picked = compaction_pick_purge(view->version, oldest, desperate, max_bytes, &c);
        view_unref(view);
        if (!picked)
            return 0;
        struct table_file *f = c.inputs[0][0];
        int result = 0;
        if (c.looked_at) {
            work.dry = false;
            work.claimed = table_space(f->kept_bytes, 1);
            result = space_claim(db, work.claimed) ? rewrite_tables(s, &c, &work) : -ENOSPC;
            result = result ? result : 1;
        } else {
            result = rewrite_tables(s, &c, &work);
            if (!result)
                compaction_looked(&c, oldest, work.read_bytes, work.dropped_bytes, work.dropped_blob_bytes);
        }
        compaction_release(&c);
        if (result)
            return result;
    }
}

/*
 * Claims what the compaction writes: its tables, and the values in blob files that it moves, of which it moves none if there
 * is not enough for both. One that is there to move them is of no use without.
 */
static bool claim_space(struct shard *s, const struct compaction *c, struct at_work *w)
{
    bool collects = c->reason[0] == 'b' && c->from == c->to;
    w->moves = blob_moves(s, c);
    w->claimed = space_of(c) + w->moves;
    if (space_claim(s->db, w->claimed))
        return true;
    if (collects || !w->moves)
        return false;
    w->moves = 0;
    w->claimed = space_of(c);
    return space_claim(s->db, w->claimed);
}

/* 1 if a compaction was done. `until` > 0: everything below into the last level, whatever the shape. */
static int compact_once(struct shard *s, lsn_t until)
{
    struct lsm *db = s->db;
    struct compaction c = {0};
    struct at_work work = {0};
    if (s->compaction_broken)
        return 0;
    int dropped = shard_drop_covered(s);
    if (dropped)
        return dropped;
    /* The view's version has the current one's tables, which only this thread changes: who makes a blob file does not. */
    struct view *view = view_get(s);
    bool any = pick(s, view->version, until, true, &c);
    bool fits = !any || c.trivial || claim_space(s, &c, &work);
    if (!fits && !until && c.reason[0] == 'b') { /* then whatever else is due */
        compaction_release(&c);
        any = pick(s, view->version, 0, false, &c);
        fits = any && (c.trivial || claim_space(s, &c, &work));
    }
    view_unref(view);
    __atomic_store_n(&s->compaction_too_large, fits ? 0 : work.claimed, __ATOMIC_RELAXED);
    if (any && fits) {
        int err = c.trivial ? move_table(s, &c) : rewrite_tables(s, &c, &work);
        compaction_release(&c);
        return err ? err : 1;
    }
    if (any)
        compaction_release(&c);
    int purged = !fits || (space_is_wanted(db) && !until) ? purge_once(s) : 0;
    return purged || fits || !until ? purged : -ENOSPC;
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
    int result = compact_once(s, until);
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
    if (!is_due(s, &s->compact_failure))
        return 0;
    int result = compact_on_request(s);
    if (!result)
        result = compact_once(s, 0);
    note(s, &s->compact_failure, "compaction", result == -ECANCELED ? 0 : result);
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

static int one_step(struct shard *s)
{
    int result = is_due(s, &s->flush_failure) ? shard_flush_oldest(s) : 0;
    if (!result && log_over_budget(s->db))
        result = relieve_log(s->db, s);
    if (!result)
        result = seal_if_wanted(s);
    if (!result && !s->flush_failure.error)
        result = shard_seal_deletes(s);
    if (!result)
        result = seal_for_blobs(s);
    if (result == 0 || result == -ENOSPC) {
        int forgotten = blob_forget_dead(s); /* gives space back, needs next to none */
        if (forgotten)
            result = forgotten;
    }
    if (!result)
        result = blob_prepare(s);
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
    if (result || s->look_ns)
        space_look(db);
    bool again = space_is_wanted(db) || __atomic_load_n(&s->compaction_too_large, __ATOMIC_RELAXED);
    s->look_ns = again ? env_mono_ns(db->env) + TIGHT_NS : 0;
}

int shard_step(struct shard *s)
{
    view_retire_waiting(s);
    int result = db_writable(s->db);
    if (!result) {
        result = one_step(s);
        look_around(s, result);
    } else { /* nothing will ever be flushed or compacted again */
        s->flush_failure = s->compact_failure = (struct failure){0};
        ended(s, SHARD_FLUSHES, result);
    }
    /* If all there was to do waits for its time, nothing has ended: whoever waits goes on waiting. */
    if (result || (!s->flush_failure.error && !s->compact_failure.error))
        ended(s, SHARD_STEPS, result < 0 ? result : 0);
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
    bool waited = shard_count(s, what) != since; /* another thread did one meanwhile */
    int result = waited ? 1 : shard_step(s);
    pthread_mutex_unlock(&s->step_lock);
    if (result == 0)
        return -ENOSPC; /* nothing left to do and still no room: can't be helped by waiting */
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
