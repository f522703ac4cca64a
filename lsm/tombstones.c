/*
 * tombstones.c - deletes must not stay for ever, nor be in the way of reads: what a shard does about them besides the
 * compactions that the shape of the tree asks for.
 *
 *   covered  A table all of whose keys a newer range delete covers goes at once, without being read: after removing a
 *            large file its space is free as soon as the range delete is in a table.
 *   reads    Iterators count what they step over: deletes, and what they hide. A shard where that is much flushes a
 *            memtable of many deletes and compacts tables of many in level 0, which it would else wait for.
 *   age      Deletes older than delete_age_s are flushed and moved down to where they and what they delete go.
 *
 * Threads: the shard's background thread; shard_note_skipped any.
 */
#include "db.h"

#include <errno.h>
#include <stdlib.h>

#define SKIPS_MAX 10000u /* of entries, a few milliseconds of reading, from which on it is too much */
#define MEMTABLE_DELETES_MIN 1000u  /* fewer are stepped over in 0.1 ms */
#define AGE_CHECKS 8u               /* in the time of delete_age_s */
#define AGE_CHECK_S_MAX (15u * 60u) /* ... and at the latest after that time */

static uint64_t now_s(const struct lsm *db) { return env_wall_ns(db->env) / 1000000000u; }

/* ---- covered ---- */

/* Whether one after the other the range deletes of `by` cover all of m, so that no reader sees anything of it any more. */
static int covers(struct table *by, const struct table_meta *m, const uint64_t *snapshots, size_t count,
                  bool *out)
{
    struct range_bounds b;
    uint8_t key[LSM_KEY_MAX];
    size_t len = m->smallest_len;
    *out = false;
    memcpy(key, m->smallest, len);
    for (;;) {
        uint64_t cover;
        int err = table_cover(by, key, len, SEQ_MAX, LSM_NOFILL, &cover, &b);
        /* A snapshot between the two sees the table, but not the range delete. */
        if (err || cover <= m->seq_max ||
            ranges_stratum(snapshots, count, cover) != ranges_stratum(snapshots, count, m->seq_min))
            return err;
        int c = key_compare(b.upper, b.upper_len, m->largest, m->largest_len);
        if (c > 0 || (c == 0 && m->largest_exclusive)) {
            *out = true;
            return 0;
        }
        memcpy(key, b.upper, b.upper_len);
        len = b.upper_len;
    }
}

struct search {
    const struct version *v;
    const uint64_t *snapshots;
    size_t snapshot_count;
    struct edit *edit;
    uint64_t entries;
};

static int add_removal(struct search *s, const struct table_file *f, unsigned level)
{
    struct edit *e = s->edit;
    for (size_t i = 0; i < e->remove_count; i++)
        if (e->remove[i].meta.number == f->meta.number)
            return 0;
    if ((e->remove_count & (e->remove_count - 1)) == 0) {
        struct edit_file *grown =
            realloc(e->remove, (e->remove_count ? e->remove_count * 2 : 1) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        e->remove = grown;
    }
    e->remove[e->remove_count++] = (struct edit_file){f->shard, level, {.number = f->meta.number}};
    s->entries += f->meta.entries;
    return 0;
}

/* Adds the files [from, to) of a level that `by` covers. */
static int find_covered(struct search *s, struct table *by, unsigned level, size_t from, size_t to)
{
    const struct table_meta *b = table_meta_of(by);
    const struct level *l = &s->v->levels[level];
    int err = 0;
    for (size_t i = from; !err && i < to; i++) {
        const struct table_meta *m = &l->files[i]->meta;
        bool covered = false;
        if (key_compare(m->smallest, m->smallest_len, b->smallest, b->smallest_len) < 0)
            continue;
        if (level && key_compare(m->smallest, m->smallest_len, b->largest, b->largest_len) >= 0)
            break;
        err = covers(by, m, s->snapshots, s->snapshot_count, &covered);
        if (!err && covered)
            err = add_removal(s, l->files[i], level);
    }
    return err;
}

/* Looks once for what a table with range deletes covers: when it is new. */
static int look_below(struct search *s, struct table_file *f, unsigned level, size_t index)
{
    if (!f->meta.range_deletes || f->ranges_looked)
        return 0;
    f->ranges_looked = true;
    int err = level ? 0 : find_covered(s, f->table, 0, index + 1, s->v->levels[0].count);
    for (unsigned l = level + 1; !err && l < LSM_LEVELS; l++) {
        const struct level *below = &s->v->levels[l];
        err = find_covered(s, f->table, l, level_find(below, f->meta.smallest, f->meta.smallest_len),
                           below->count);
    }
    return err;
}

int shard_drop_covered(struct shard *s)
{
    struct lsm *db = s->db;
    /* A view's version has the current tables, which only this thread changes: who makes a blob file does not. */
    struct view *view = view_get(s);
    struct version *v = view->version;
    uint64_t *snapshots = NULL;
    struct edit edit = {0};
    struct search search = {.v = v, .edit = &edit};
    if (!v->ranged) {
        view_unref(view);
        return 0;
    }
    int err = snapshot_list(db, &snapshots, &search.snapshot_count);
    search.snapshots = snapshots;
    for (unsigned l = 0; !err && l < LSM_LEVELS; l++)
        for (size_t i = 0; !err && v->levels[l].ranged && i < v->levels[l].count; i++)
            err = look_below(&search, v->levels[l].files[i], l, i);
    if (err == -EIO) /* reported; a compaction will meet it again */
        err = 0;
    size_t removed = edit.remove_count;
    if (!err && removed)
        err = shard_apply(s, &edit, NULL);
    if (!err && removed) {
        count_add(&s->tables_covered, removed);
        count_add(&s->entries_dropped, search.entries);
    }
    view_unref(view);
    free(snapshots);
    free(edit.remove);
    return err ? err : removed > 0;
}

/* ---- reads ---- */

void shard_note_skipped(struct shard *s, uint64_t entries)
{
    uint64_t before = __atomic_fetch_add(&s->skipped, entries, __ATOMIC_RELAXED);
    count_add(&s->skipped_total, entries);
    if (before < SKIPS_MAX && before + entries >= SKIPS_MAX)
        shard_kick(s);
}

/* ---- age ---- */

static bool has_deletes(const struct memtable *m) { return memtable_deletes(m) || memtable_range_count(m); }

static bool is_in_the_way(const struct memtable *m)
{
    return memtable_deletes(m) >= MEMTABLE_DELETES_MIN ||
           (memtable_range_count(m) && memtable_count(m) >= MEMTABLE_DELETES_MIN);
}

int shard_seal_deletes(struct shard *s)
{
    if (__atomic_load_n(&s->skipped, __ATOMIC_RELAXED) >= SKIPS_MAX) {
        __atomic_store_n(&s->skipped, 0, __ATOMIC_RELAXED);
        s->deletes_urgent = true;
    }
    struct view *v = view_get(s);
    const struct memtable *m = v->active;
    bool old = has_deletes(m) &&
               now_s(s->db) >= memtable_born_s(m) + blob_delete_age_s(s, s->db->options.delete_age_s);
    bool seal = old || (s->deletes_urgent && is_in_the_way(m));
    view_unref(v);
    return seal ? shard_seal(s) : 0;
}

int shard_pick_deletes(struct shard *s, struct version *v, uint64_t oldest_snapshot, struct compaction *out)
{
    uint64_t now = now_s(s->db), age = s->db->options.delete_age_s;
    return compaction_pick_deletes(s->db->vset, v, oldest_snapshot, s->deletes_urgent,
                                   now > age ? now - age : 0, out);
}

uint64_t shard_next_age_check(struct shard *s)
{
    struct view *v = view_get(s);
    bool any = has_deletes(v->active);
    for (unsigned l = 0; !any && l < LSM_LEVELS; l++)
        for (size_t i = 0; !any && i < v->version->levels[l].count; i++)
            any = v->version->levels[l].files[i]->meta.deletes +
                  v->version->levels[l].files[i]->meta.range_deletes;
    view_unref(v);
    uint64_t age = s->db->options.delete_age_s, blob_age = blob_delete_age_s(s, age);
    uint64_t wait_s = blob_age < age ? blob_age : age / AGE_CHECKS;
    wait_s = wait_s < 1 ? 1 : wait_s > AGE_CHECK_S_MAX ? AGE_CHECK_S_MAX : wait_s;
    return any ? env_mono_ns(s->db->env) + wait_s * 1000000000u : UINT64_MAX;
}
