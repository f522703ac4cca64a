/*
 * compaction_purge.c - purges: getting space back on a disk that has none for a compaction.
 *
 * What is deleted or overwritten takes space until a compaction brings the old entry and the new one together. An
 * ordinary one takes all of level 0 with all that it overlaps: hundreds of megabytes, which have to be free until
 * its inputs go. A purge takes one table, and rewrites it in its place without the entries that newer tables
 * hide (compact.c, `above`). It needs no more space than that table has, and leaves the newer ones as they are: the
 * deletes themselves go with the next compaction that fits.
 *
 * Which table: that with the most deletes in newer tables over its keys. Each is first read without writing anything, and
 * rewritten only if that is worth it. What was found is remembered with the table until newer tables
 * come or the oldest snapshot goes, so that purging ends where nothing is to be had. Desperate, when not even a
 * memtable of deletes can be flushed, anything is worth it.
 *
 * Threads: the shard's background thread.
 */
#include "vset_internal.h"

#include <assert.h>
#include <stdlib.h>

#define WORTH_SHARE 16u          /* of a table must be hidden ... */
#define WORTH_BYTES (256u << 10) /* ... or so much */
#define DELETE_WEIGHT 8u         /* a delete hides something for sure; most puts are of new keys */
#define RANGE_WEIGHT 1000u       /* and a range delete many things */

static bool overlap(const struct table_meta *a, const struct table_meta *b)
{
    return key_compare(a->largest, a->largest_len, b->smallest, b->smallest_len) >= 0 &&
           key_compare(a->smallest, a->smallest_len, b->largest, b->largest_len) <= 0;
}

/* The files of a level, of L0 the `l0_count` newest, that overlap f: a run of them, for L0 maybe with others in it. */
static struct level files_over(const struct level *l, size_t count, const struct table_file *f)
{
    size_t first = count, end = 0;
    for (size_t i = 0; i < count; i++) {
        if (!overlap(&l->files[i]->meta, &f->meta))
            continue;
        first = i < first ? i : first;
        end = i + 1;
    }
    return (struct level){.files = l->files + (first < end ? first : 0),
                          .count = first < end ? end - first : 0};
}

/* Fills c with what is newer than file `index` of level `l`; returns how much that promises. */
static uint64_t look_over(struct compaction *c, const struct version *v, unsigned l, size_t index)
{
    const struct table_file *f = v->levels[l].files[index];
    uint64_t promise = 0;
    c->above_seq = 0;
    for (unsigned k = 0; k <= l; k++) {
        size_t count = k < l ? v->levels[k].count : k == 0 ? index : 0;
        c->above[k] = files_over(&v->levels[k], count, f);
        for (size_t i = 0; i < c->above[k].count; i++) {
            const struct table_meta *m = &c->above[k].files[i]->meta;
            if (!overlap(m, &f->meta))
                continue;
            promise += m->deletes * DELETE_WEIGHT + m->range_deletes * RANGE_WEIGHT + m->entries;
            c->above_seq = m->seq_max > c->above_seq ? m->seq_max : c->above_seq;
        }
    }
    return promise;
}

void compaction_looked(const struct compaction *c, uint64_t oldest_snapshot, uint64_t read_bytes,
                       uint64_t hidden_bytes, uint64_t hidden_blob_bytes)
{
    struct table_file *f = c->inputs[0][0];
    f->looked_seq = c->above_seq;
    f->looked_snapshot = oldest_snapshot;
    f->hidden_bytes = hidden_bytes + hidden_blob_bytes;
    assert(hidden_bytes <= read_bytes);
    double kept = read_bytes ? 1.0 - (double)hidden_bytes / (double)read_bytes : 0;
    f->kept_bytes = kept > 0 ? (uint64_t)((double)f->meta.bytes * kept) : 0;
}

static bool is_worth(const struct table_file *f, bool desperate)
{
    return f->hidden_bytes > 0 &&
           (desperate || f->hidden_bytes >= WORTH_BYTES || f->hidden_bytes >= f->meta.bytes / WORTH_SHARE);
}

int compaction_pick_purge(struct version *v, uint64_t oldest_snapshot, bool desperate, uint64_t max_bytes,
                          struct compaction *out)
{
    struct compaction c = {.shard = v->shard, .purge = true, .reason = "purge"};
    struct table_file *best = NULL;
    size_t best_index = 0;
    uint64_t best_promise = 0;
    for (unsigned l = 0; l < LSM_LEVELS; l++) {
        for (size_t i = 0; i < v->levels[l].count; i++) {
            struct table_file *f = v->levels[l].files[i];
            if (f->compacting)
                return 0; /* one at a time, as for all compactions */
            uint64_t promise = look_over(&c, v, l, i);
            bool looked_at = f->looked_seq >= c.above_seq && f->looked_snapshot == oldest_snapshot;
            if (looked_at)
                promise = is_worth(f, desperate) && f->kept_bytes <= max_bytes ? f->hidden_bytes : 0;
            if (!promise || looked_at < c.looked_at || (looked_at == c.looked_at && promise <= best_promise))
                continue;
            best = f;
            best_index = i;
            best_promise = promise;
            c.looked_at = looked_at;
            c.from = c.to = l;
        }
    }
    if (!best)
        return 0;
    c.inputs[0] = malloc(sizeof(struct table_file *));
    if (!c.inputs[0])
        return -ENOMEM;
    c.inputs[0][0] = best;
    c.count[0] = 1;
    (void)look_over(&c, v, c.from, best_index);
    c.version = v;
    version_ref(v);
    best->compacting = true;
    *out = c;
    return 1;
}

static int ranges_above(const struct compaction *c, const uint64_t *snapshots, size_t snapshot_count,
                        struct ranges *out)
{
    int err = 0;
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; !err && i < c->above[l].count; i++)
            if (c->above[l].files[i]->meta.range_deletes)
                err = table_ranges(c->above[l].files[i]->table, out);
    return err ? err : ranges_build(out, snapshots, snapshot_count);
}

int compaction_above(const struct compaction *c, const uint64_t *snapshots, size_t snapshot_count,
                     struct iter **out, struct ranges *ranges)
{
    size_t n = 0;
    struct iter **children = calloc(c->above[0].count + LSM_LEVELS, sizeof *children);
    int err = children ? ranges_above(c, snapshots, snapshot_count, ranges) : -ENOMEM;
    for (size_t i = 0; !err && i < c->above[0].count; i++)
        if (!(err = table_iter_new(c->above[0].files[i]->table, LSM_NOFILL, &children[n])))
            n++;
    for (unsigned l = 1; !err && l < c->from; l++)
        if (c->above[l].count && !(err = level_iter_new(&c->above[l], LSM_NOFILL, &children[n])))
            n++;
    if (!err) {
        err = merge_iter_new(children, n, out);
    } else {
        for (size_t i = 0; i < n; i++)
            iter_free(children[i]);
    }
    free(children);
    return err;
}
