/*
 * blob_collect.c - see blob_collect.h.
 */
#include "blob_collect.h"

#include "compact.h"
#include "mutant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FORGET_MAX 256u /* files in one edit */
#define DELETE_AGE_S \
    20u /* space is back in about that time after a file is removed; one flush and compaction for each */
#define SMALL_MAX 8u /* files of less than a quarter of blob_file_bytes that may be left */
/*
 * At rest, of each shard: garbage that is known, what tables may hide, and what the memtable may, of which each has its part of
 * alive / 6 + blob_file_bytes / 32.
 */
#define REST_ALIVE 6u
#define REST_FILE 32u
#define REST_PARTS 8u
#define REST_PARTS_KNOWN 6u /* one each for the other two */

/* ---- forgetting ---- */

static bool is_settled(const struct shard *s, const struct blob_file *f)
{
    if (__atomic_load_n(&f->open, __ATOMIC_ACQUIRE) || __atomic_load_n(&f->writers, __ATOMIC_ACQUIRE) ||
        __atomic_load_n(&f->holders, __ATOMIC_ACQUIRE))
        return false;
    return __atomic_load_n(&f->named_until, __ATOMIC_ACQUIRE) <= vset_flushed(s->db->vset, s->index) ||
           mutant("a blob file is forgotten before it is flushed");
}

/* From now on nobody may name it: a record that would is turned away. */
static bool doom(struct shard *s, struct blob_file *f)
{
    pthread_mutex_lock(&s->blobs.lock);
    bool settled = is_settled(s, f);
    f->doomed |= settled;
    pthread_mutex_unlock(&s->blobs.lock);
    return settled;
}

/* An open file that holds nothing but garbage, or so much that it is to be collected, is full enough. */
static void seal_if_settled(struct shard *s, struct blob_file *f)
{
    struct shard_blobs *b = &s->blobs;
    struct blob_file *seal = NULL;
    if (f == b->moved) {
        seal = f;
        b->moved = NULL;
    } else {
        pthread_mutex_lock(&b->lock);
        if (f == b->active && !__atomic_load_n(&f->writers, __ATOMIC_ACQUIRE) &&
            __atomic_load_n(&f->named_until, __ATOMIC_ACQUIRE) <= vset_flushed(s->db->vset, s->index)) {
            seal = f;
            b->active = NULL;
            __atomic_store_n(&f->open, false, __ATOMIC_RELEASE); /* before anybody may see it active again */
        }
        pthread_mutex_unlock(&b->lock);
    }
    blob_seal(s, seal);
}

int blob_forget_dead(struct shard *s)
{
    struct lsm *db = s->db;
    struct blob_meta dead[FORGET_MAX];
    struct edit edit = {.blob_remove = dead};
    struct view *view = view_get(s);
    const struct version *v = view->version;
    for (size_t i = 0; i < v->blob_count && edit.blob_remove_count < FORGET_MAX; i++) {
        struct blob_file *f = v->blobs[i].file;
        uint64_t alive = v->blobs[i].pointers;
        if (alive > (mutant("a blob file is forgotten with one pointer left") ? 1u : 0u))
            continue;
        if (__atomic_load_n(&f->open, __ATOMIC_ACQUIRE) && blob_file_bytes(f) > BLOB_HEADER_BYTES)
            seal_if_settled(s, f);
        if (doom(s, f))
            dead[edit.blob_remove_count++] = (struct blob_meta){.number = f->number, .shard = s->index};
    }
    view_unref(view);
    if (!edit.blob_remove_count)
        return 0;
    /* Replay verifies nothing below this, so it does not miss them. */
    edit.synced = wal_synced(db->wal);
    int err = shard_apply(s, &edit, NULL);
    if (err)
        return err;
    count_add(&s->blobs.deleted, edit.blob_remove_count);
    return 1;
}

/* ---- choosing files ---- */

struct totals {
    uint64_t bytes, alive, pointers; /* of all files but those that are open */
    uint64_t all_alive, entries;     /* entries: of all tables */
};

static struct totals add_up(const struct version *v)
{
    struct totals t = {0};
    for (size_t i = 0; i < v->blob_count; i++) {
        const struct version_blob *b = &v->blobs[i];
        t.pointers += b->pointers;
        t.all_alive += b->bytes;
        if (__atomic_load_n(&b->file->open, __ATOMIC_ACQUIRE))
            continue;
        t.bytes += blob_file_bytes(b->file);
        t.alive += b->bytes;
    }
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; i < v->levels[l].count; i++)
            t.entries += v->levels[l].files[i]->meta.entries;
    return t;
}

static double alive_ratio(const struct version_blob *b)
{
    return (double)b->bytes / (double)(blob_file_bytes(b->file) + 1);
}

/*
 * Once tables have had all that was written to it: before, it looks emptier than it is. A memtable may name a part of it anew
 * all the time, so it need not be settled: what a flush brings of it then moves as well, and it is forgotten once it is.
 */
static bool may_collect(const struct shard *s, const struct version_blob *b)
{
    const struct blob_file *f = b->file;
    return b->pointers && !f->collecting && !f->unreadable && !__atomic_load_n(&f->open, __ATOMIC_ACQUIRE) &&
           !__atomic_load_n(&f->writers, __ATOMIC_ACQUIRE) &&
           __atomic_load_n(&f->written_until, __ATOMIC_ACQUIRE) <= vset_flushed(s->db->vset, s->index);
}

static bool is_small(const struct shard *s, const struct version_blob *b)
{
    return blob_file_bytes(b->file) < s->db->options.blob_file_bytes / 4 && may_collect(s, b);
}

/* Marks the files whose values are to move. Their number only grows until they are gone. True if there is any. */
static bool choose_files(struct shard *s, const struct version *v, const struct totals *t)
{
    size_t small = 0;
    for (size_t i = 0; i < v->blob_count; i++)
        small += is_small(s, &v->blobs[i]);
    uint64_t bytes = t->bytes, bound = t->alive + t->alive / 4 + s->db->options.blob_file_bytes;
    bool any = false;
    for (size_t i = 0; i < v->blob_count; i++) {
        struct version_blob *b = &v->blobs[i];
        if (may_collect(s, b) && (alive_ratio(b) < 0.5 || (small > SMALL_MAX && is_small(s, b))))
            b->file->collecting = true;
        any |= b->file->collecting;
        if (b->file->collecting)
            bytes -= blob_file_bytes(b->file) - (b->bytes < blob_file_bytes(b->file) ? b->bytes : 0);
    }
    while (bytes > bound) {
        struct version_blob *emptiest = NULL;
        for (size_t i = 0; i < v->blob_count; i++)
            if (may_collect(s, &v->blobs[i]) && alive_ratio(&v->blobs[i]) < 0.95 &&
                (!emptiest || alive_ratio(&v->blobs[i]) < alive_ratio(emptiest)))
                emptiest = &v->blobs[i];
        if (!emptiest)
            break;
        emptiest->file->collecting = any = true;
        bytes -= blob_file_bytes(emptiest->file) - emptiest->bytes;
    }
    return any;
}

/* ---- choosing files: at rest ---- */

static uint64_t rest_part(const struct shard *s, uint64_t alive)
{
    return (alive / REST_ALIVE + s->db->options.blob_file_bytes / REST_FILE) / REST_PARTS;
}

/* What is in the file beside what tables name, with its checksums. */
static uint64_t not_alive(const struct version_blob *b)
{
    uint64_t alive = BLOB_HEADER_BYTES + b->bytes + b->bytes / 1024 + 16 * b->pointers,
             bytes = blob_file_bytes(b->file);
    return bytes > alive ? bytes - alive : 0;
}

/* Nothing but tables names anything in it, so what is not alive is garbage. */
static bool is_named_by_tables_only(const struct shard *s, const struct blob_file *f)
{
    return !__atomic_load_n(&f->writers, __ATOMIC_ACQUIRE) &&
           __atomic_load_n(&f->named_until, __ATOMIC_ACQUIRE) <= vset_flushed(s->db->vset, s->index);
}

static bool may_collect_at_rest(const struct shard *s, const struct version_blob *b)
{
    return b->pointers && !b->file->unreadable && is_named_by_tables_only(s, b->file);
}

/*
 * Marks the emptiest files, until what would be left is in bounds. A few at a time: what was moved lies in both places until the
 * last table that names a file was rewritten.
 */
static bool choose_files_at_rest(struct shard *s, const struct version *v, const struct totals *t)
{
    uint64_t limit = rest_part(s, t->all_alive) * REST_PARTS_KNOWN, known = 0, moving = 0;
    uint64_t window = s->db->options.blob_file_bytes;
    window = t->all_alive / 16 > window ? t->all_alive / 16 : window;
    for (size_t i = 0; i < v->blob_count; i++) {
        const struct version_blob *b = &v->blobs[i];
        if (b->file->collecting)
            moving += b->bytes;
        else if (may_collect_at_rest(s, b))
            known += not_alive(b);
    }
    if (mutant("garbage stays at rest"))
        limit = UINT64_MAX;
    while (known > limit) {
        struct version_blob *emptiest = NULL;
        for (size_t i = 0; i < v->blob_count; i++) {
            struct version_blob *b = &v->blobs[i];
            if (!b->file->collecting && may_collect_at_rest(s, b) &&
                (!emptiest || alive_ratio(b) < alive_ratio(emptiest)))
                emptiest = b;
        }
        /* The emptiest has the average at least: never more than 8 bytes are moved for one that is free then. */
        if (!emptiest || (moving && moving + emptiest->bytes > window))
            break;
        if (__atomic_load_n(&emptiest->file->open, __ATOMIC_ACQUIRE))
            seal_if_settled(s, emptiest->file);
        if (__atomic_load_n(&emptiest->file->open, __ATOMIC_ACQUIRE)) /* somebody writes to it again */
            break;
        emptiest->file->collecting = emptiest->file->at_rest = true;
        moving += emptiest->bytes;
        /* A writer that has come to an end since may have added to it. */
        known -= not_alive(emptiest) < known ? not_alive(emptiest) : known;
    }
    return moving > 0;
}

/* Somebody writes again: what is collected at rest only waits for the next time. */
static void leave_files_of_rest(const struct version *v)
{
    for (size_t i = 0; i < v->blob_count; i++) {
        struct blob_file *f = v->blobs[i].file;
        if (f->at_rest)
            f->collecting = f->at_rest = false;
    }
}

/* ---- choosing tables ---- */

/* What rewriting the table would move. */
static uint64_t collectable(const struct version *v, const struct table_meta *m, uint64_t only)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->blob_count; i++) {
        const struct blob_file *f = version_blob(v, m->blobs[i].number);
        if (f && f->collecting &&
            (!only || f->number == only)) /* with 8 bytes for each chunk that is begun */
            bytes += m->blobs[i].bytes + m->blobs[i].bytes / 1024 + 16 * m->blobs[i].pointers;
    }
    return bytes;
}

uint64_t blob_moves(const struct shard *s, const struct compaction *c)
{
    uint64_t bytes = 0;
    for (unsigned which = 0; which < 2; which++)
        for (size_t i = 0; i < c->count[which]; i++)
            bytes += collectable(c->version, &c->inputs[which][i]->meta, s->blobs.only);
    return bytes;
}

/* Where there is no space for more: of the files that are collected the one with the least alive, if that fits into `space`; else 0. */
static uint64_t choose_smallest(const struct version *v, uint64_t space)
{
    const struct version_blob *best = NULL;
    for (size_t i = 0; i < v->blob_count; i++)
        if (v->blobs[i].file->collecting && (!best || v->blobs[i].bytes < best->bytes))
            best = &v->blobs[i];
    return best && best->bytes < space ? best->file->number : 0;
}

/* The table that moves most for what it costs. */
static struct table_file *choose_table(const struct version *v, uint64_t only, unsigned *level)
{
    struct table_file *best = NULL;
    double best_score = 0;
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; i < v->levels[l].count; i++) {
            struct table_file *f = v->levels[l].files[i];
            uint64_t moves = collectable(v, &f->meta, only);
            double score = (double)moves / (double)(f->meta.bytes + 1);
            if (!moves || f->compacting || (best && score <= best_score))
                continue;
            best = f;
            best_score = score;
            *level = l;
        }
    return best;
}

static uint64_t table_names(const struct table_meta *m)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->blob_count; i++)
        bytes += m->blobs[i].bytes;
    return bytes;
}

/*
 * What the entries of a table may have made garbage of, below it: of one value each, or by a range delete of all. A part of an
 * extent takes the place of more of it, and the difference is garbage: what was written in between, about, which is in the table.
 */
static uint64_t may_hide(const struct table_meta *m, uint64_t average, uint64_t all, uint64_t old_s)
{
    const uint64_t names = table_names(m), parts = m->part_bytes < names ? m->part_bytes : names;
    return m->deletes * average + (m->range_deletes && m->deletes_since_s <= old_s ? all : 0) +
           (names - parts) + (parts < m->bytes ? parts : m->bytes);
}

static uint64_t level_names(const struct level *level)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < level->count; i++)
        bytes += table_names(&level->files[i]->meta);
    return bytes;
}

/* At rest: no more is read and written of tables than may come to light. */
static bool pays(const struct compaction *c, uint64_t hidden)
{
    uint64_t bytes = 0;
    for (unsigned which = 0; which < 2; which++)
        for (size_t i = 0; i < c->count[which]; i++)
            bytes += c->inputs[which][i]->meta.bytes;
    return c->trivial || bytes <= hidden;
}

/* Is what does not show too much? Then the next table on its way down; of L0 all. */
static int pick_hidden(struct shard *s, struct version *v, const struct totals *t, uint64_t oldest_snapshot,
                       struct compaction *out)
{
    /* Whether what a delete deletes is large is not known: all of them are, but at rest nothing is urgent. */
    uint64_t all = s->resting ? t->entries : t->pointers, average = all ? t->all_alive / all : 0;
    uint64_t hidden = 0, below = t->all_alive, gain = 0;
    /* Range deletes come and go by the second: those that have stayed, unless space is wanted at once. */
    uint64_t now_s = env_wall_ns(s->db->env) / 1000000000u;
    uint64_t old_s = space_is_tight(s->db) ? UINT64_MAX : now_s - DELETE_AGE_S;
    unsigned deepest = LSM_LEVELS, from = LSM_LEVELS;
    struct table_file *most = NULL;
    while (deepest > 0 && !level_names(&v->levels[deepest - 1]))
        deepest--;
    for (unsigned l = 0; l < deepest; l++) {
        const struct level *level = &v->levels[l];
        size_t count = level->count;
        if (l + 1 == deepest)
            count = l == 0 && count ? count - 1 : 0; /* below the last there is nothing to hide */
        else
            below -= level_names(level);
        uint64_t here = 0, best = 0;
        for (size_t i = 0; i < count; i++) {
            uint64_t bytes = may_hide(&level->files[i]->meta, average, t->all_alive, old_s);
            here += bytes;
            if (bytes > best && from >= l) {
                best = bytes;
                most = level->files[i];
                from = l;
            }
        }
        if (from == l)
            gain = l ? best : here;
        hidden += here < below ? here : below;
    }
    uint64_t bound =
        s->resting ? rest_part(s, t->all_alive) : t->all_alive * 3 / 20 + s->db->options.blob_file_bytes / 2;
    if (!most || hidden <= (space_is_tight(s->db) ? 0 : bound))
        return 0;
    int rc = compaction_pick_down(s->db->vset, v, from, most, oldest_snapshot, out);
    if (rc <= 0 || !s->resting || space_is_tight(s->db) || pays(out, gain))
        return rc;
    compaction_release(out);
    return 0;
}

int blob_pick(struct shard *s, struct version *v, uint64_t oldest_snapshot, struct compaction *out)
{
    if (!v->blob_count)
        return 0;
    struct totals t = add_up(v);
    unsigned level;
    __atomic_store_n(&s->blobs.average, t.pointers ? t.all_alive / t.pointers : 0, __ATOMIC_RELAXED);
    __atomic_store_n(&s->blobs.alive, t.all_alive, __ATOMIC_RELAXED);
    if (!s->resting)
        leave_files_of_rest(v);
    int rc = pick_hidden(s, v, &t, oldest_snapshot, out);
    if (rc)
        return rc;
    bool any = choose_files(s, v, &t);
    if (s->resting)
        any |= choose_files_at_rest(s, v, &t);
    if (!any)
        return 0;
    uint64_t space = space_claimable(s->db);
    s->blobs.only = 0;
    struct table_file *f = choose_table(v, 0, &level);
    if (f && (space_is_tight(s->db) || collectable(v, &f->meta, 0) + f->meta.bytes >= space / 2)) {
        s->blobs.only = choose_smallest(v, space);
        f = s->blobs.only ? choose_table(v, s->blobs.only, &level) : NULL;
    }
    return f ? compaction_pick_rewrite(v, level, f, out) : 0;
}

bool blob_wants_flush(const struct shard *s, const struct view *v)
{
    uint64_t average = __atomic_load_n(&s->blobs.average, __ATOMIC_RELAXED),
             alive = __atomic_load_n(&s->blobs.alive, __ATOMIC_RELAXED);
    uint64_t deleted = memtable_deletes(v->active) * average;
    return memtable_blob_bytes(v->active) + (deleted < alive ? deleted : alive) >=
           s->db->options.blob_file_bytes;
}

bool blob_wants_flush_at_rest(const struct shard *s, const struct view *view)
{
    const struct version *v = view->version;
    if (!v->blob_count)
        return false;
    struct totals t = add_up(v);
    /* What the memtable names itself, and what it may hide by that: together as much as is not alive in files that it names. */
    uint64_t bytes = 0, deleted = t.entries ? memtable_deletes(view->active) * (t.all_alive / t.entries) : 0;
    for (size_t i = 0; i < v->blob_count; i++)
        if (!is_named_by_tables_only(s, v->blobs[i].file))
            bytes += not_alive(&v->blobs[i]);
    return bytes + (deleted < t.all_alive ? deleted : t.all_alive) > rest_part(s, t.all_alive);
}

uint64_t blob_delete_age_s(const struct shard *s, uint64_t otherwise)
{
    bool matters = __atomic_load_n(&s->blobs.alive, __ATOMIC_RELAXED) >= s->db->options.blob_file_bytes;
    return matters && otherwise > DELETE_AGE_S ? DELETE_AGE_S : otherwise;
}

/* ---- moving ---- */

void blob_move_begin(struct shard *s, uint64_t budget)
{
    struct shard_blobs *b = &s->blobs;
    b->budget = budget;
    b->slice = s->resting ? s->db->options.blob_file_bytes : UINT64_MAX;
    b->moved_start = b->moved ? blob_file_bytes(b->moved) : 0;
    b->moved_dirty = false;
}

static int sync_moved(struct shard *s)
{
    struct shard_blobs *b = &s->blobs;
    if (!b->moved || !b->moved_dirty)
        return 0;
    int err = mutant("moved values not synced") ? 0 : env_sync(b->moved->file);
    b->moved_dirty = false;
    if (err) { /* never synced again: another file takes its place */
        b->moved->failed = true;
        blob_seal(s, b->moved);
        b->moved = NULL;
    }
    return err;
}

/* A file with room for `need`. */
static int moved_file(struct shard *s, uint64_t need)
{
    struct shard_blobs *b = &s->blobs;
    uint64_t max = s->db->options.blob_file_bytes;
    if (b->moved && blob_file_bytes(b->moved) + need > max && blob_file_bytes(b->moved) > BLOB_HEADER_BYTES) {
        int err = sync_moved(s);
        if (err)
            return err;
        blob_seal(s, b->moved);
        b->moved = NULL;
    }
    if (b->moved)
        return 0;
    pthread_mutex_lock(&b->make_lock);
    int err = blob_make(s, &b->moved);
    pthread_mutex_unlock(&b->make_lock);
    if (err)
        b->moved = NULL;
    b->moved_start = BLOB_HEADER_BYTES;
    return err;
}

int blob_move(void *shard, uint8_t *pointer, size_t *len)
{
    struct shard *s = shard;
    struct shard_blobs *b = &s->blobs;
    struct blob_pointer p, to;
    if (blob_pointer_decode(pointer, *len, &p))
        return -EIO;
    struct view *view = view_get(s);
    struct blob_file *f = version_blob(view->version, p.number);
    uint8_t *data = NULL;
    int err = 0;
    if (!f || !f->collecting || !p.length || (b->only && f->number != b->only) || !b->slice ||
        blob_disk_bytes(p.length) > b->budget)
        goto out;
    b->budget -= blob_disk_bytes(p.length);
    b->slice -= b->slice < blob_disk_bytes(p.length) ? b->slice : blob_disk_bytes(p.length);
    data = malloc(p.length);
    err = data ? blob_read(f, &p, 0, p.length, 0, data) : -ENOMEM;
    if (err ==
        -EIO) { /* whoever reads the value is told the same; everything else of the file can stay where it is */
        f->unreadable = true;
        f->collecting = false;
        err = 0;
        goto out;
    }
    if (!err)
        err = moved_file(s, blob_disk_bytes(p.length));
    if (err)
        goto out;
    to = (struct blob_pointer){b->moved->number, blob_file_bytes(b->moved), p.length, 0, p.length};
    struct blob_value moved = {.bytes = {{data, p.length}}, .pointer = to};
    err = blob_extents_write(b->moved, &moved, 1);
    if (!err) {
        __atomic_store_n(&b->moved->bytes, to.offset + blob_disk_bytes(p.length), __ATOMIC_RELEASE);
        b->moved_dirty = true;
        count_add(&b->moved_bytes, blob_disk_bytes(p.length));
        *len = blob_pointer_encode(&to, pointer);
    }
out:
    free(data);
    view_unref(view);
    return err;
}

void blob_move_stop(struct shard *s) { s->blobs.slice = 0; }

int blob_move_end(struct shard *s) { return sync_moved(s); }

void blob_move_back(struct shard *s)
{
    struct shard_blobs *b = &s->blobs;
    b->moved_dirty = false;
    /* After a failed manifest write the tables that name them may be on the medium. */
    if (!b->moved || blob_file_bytes(b->moved) <= b->moved_start || vset_failed(s->db->vset))
        return;
    __atomic_store_n(&b->moved->bytes, b->moved_start, __ATOMIC_RELEASE);
    if (env_truncate(b->moved->file, b->moved_start)) { /* its end is not known: it takes no more */
        blob_seal(s, b->moved);
        b->moved = NULL;
    }
}
