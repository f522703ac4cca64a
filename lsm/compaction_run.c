/*
 * compaction_run.c - carries out the compaction that is due: inputs opened, merged (compact.c), installed.
 *
 * A compaction lets a flush in between every 64 KiB, so that writers never wait for the end of a large one.
 * Damage in an input stops the shard's compactions, and nothing else.
 *
 * On a full disk (space.h) a compaction is begun only if what it may take at most is there, and where it is not, single
 * tables are purged (compaction_purge.c).
 *
 * Threads: the shard's background thread.
 */
#include "background.h"
#include "mutant.h"

#include <errno.h>
#include <stdlib.h>

/* A compaction at work: its shard, and the space that it has claimed and not yet written to. */
struct at_work {
    struct shard *shard;
    const struct compact_result *result;
    size_t l0_tables; /* taken from level 0 */
    uint64_t entries; /* of all inputs */
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
    stall_l0_done(s, w->l0_tables, w->result->entries_in, w->entries);
    if (__atomic_load_n(&s->stop, __ATOMIC_RELAXED))
        return -ECANCELED;
    /* What was moved already is not in vain: the rest of the table is all that is still written. */
    if (s->resting && db_frontier(s->db) != s->rest_lsn)
        blob_move_stop(s);
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
    if (!err && c->from == 0)
        stall_l0_drained(s, 1);
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
    int err = outputs_add(edit, r, s->index, c->to);
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
    work->l0_tables = c->from == 0 && c->to > 0 ? c->count[0] : 0;
    work->entries = entries;
    if (!err) {
        struct compact_job job = shard_job(s, input, c->to);
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
    stall_l0_done(s, 0, 0, 0);
    if (!err && work->l0_tables)
        stall_l0_drained(s, work->l0_tables);
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
    outputs_drop(db, &r, err);
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

static enum tempo tempo_of(const struct shard *s)
{
    return s->busy && !space_is_wanted(s->db) ? TEMPO_BUSY : s->resting ? TEMPO_REST : TEMPO_MODERATE;
}

/* With `collect` also what is done for blob files only. */
static int pick(struct shard *s, struct version *v, lsn_t until, bool collect, struct compaction *c)
{
    struct lsm *db = s->db;
    uint64_t oldest = snapshot_oldest(db);
    if (until)
        return compaction_pick_all(db->vset, v, oldest, until, c);
    /* On a full disk what frees the space of blob files goes first. */
    bool tight = space_is_tight(db);
    int any = collect && tight ? blob_pick(s, v, oldest, c) : 0;
    if (!any)
        any = compaction_pick(db->vset, v, oldest, tempo_of(s), c);
    if (!any)
        any = shard_pick_deletes(s, v, oldest, c);
    return any || !collect || tight ? any : blob_pick(s, v, oldest, c);
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
        int picked = compaction_pick_purge(view->version, oldest, desperate, max_bytes, &c);
        view_unref(view);
        if (picked <= 0)
            return picked;
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

int shard_compact(struct shard *s, lsn_t until)
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
    int any = pick(s, view->version, until, true, &c);
    bool fits = any <= 0 || c.trivial || claim_space(s, &c, &work);
    if (!fits && !until && c.reason[0] == 'b') { /* then whatever else is due */
        compaction_release(&c);
        any = pick(s, view->version, 0, false, &c);
        fits = any > 0 && (c.trivial || claim_space(s, &c, &work));
    }
    view_unref(view);
    if (any < 0)
        return any;
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
