/*
 * masked.c - see masked.h.
 *
 * A masked child knows, of the place where it stands, for which keys around it its answer holds: hidden by a newer
 * source, or hidden up to which seq by its own. As long as it stays in there a step costs two comparisons more.
 */
#include "masked.h"
#include "mutant.h"

#include <errno.h>
#include <stdlib.h>

/* Where range deletes come from: a memtable, or the tables of a level that have some (of L0 one table). */
struct source {
    const struct memtable *memtable;
    struct table_file **files; /* ascending; borrowed from the view */
    size_t file_count;
};

/* Shared by the masks of one view. */
struct mask {
    unsigned refs;
    uint64_t seq;
    unsigned flags;
    size_t count;
    struct source *sources;    /* in the order of the children */
    struct table_file **files; /* what they point to */
};

struct masked_iter {
    struct iter base;
    struct iter *in; /* owned */
    struct mask *mask;
    size_t index;      /* of its own source */
    uint64_t *skipped; /* entries stepped over */
    struct range_bounds around;
    bool known;   /* `around` holds something */
    bool hidden;  /* ... that a newer source hides */
    uint64_t own; /* else: what is older than this is hidden */
};

/* ---- sources ---- */

/* The first of the files that does not end before key. */
static size_t find_file(const struct source *s, const uint8_t *key, size_t len)
{
    size_t from = 0, to = s->file_count;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (table_ends_before(&s->files[mid]->meta, key, len))
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

static int tables_cover(const struct source *s, const struct mask *m, const uint8_t *key, size_t len,
                        uint64_t *cover, struct range_bounds *b)
{
    size_t i = find_file(s, key, len);
    b->has_lower = b->has_upper = false;
    bool in = i < s->file_count &&
              key_compare(s->files[i]->meta.smallest, s->files[i]->meta.smallest_len, key, len) <= 0;
    if (in) {
        int err = table_cover(s->files[i]->table, key, len, m->seq, m->flags, cover, b);
        if (err)
            return err;
    }
    /* Nothing covers what lies between two files. */
    size_t after = in ? i + 1 : i;
    if (!b->has_upper && after < s->file_count)
        bounds_set_upper(b, s->files[after]->meta.smallest, s->files[after]->meta.smallest_len);
    if (!b->has_lower && i > 0)
        bounds_set_lower(b, s->files[i - 1]->meta.largest, s->files[i - 1]->meta.largest_len);
    return 0;
}

static int source_cover(const struct source *s, const struct mask *m, const uint8_t *key, size_t len,
                        uint64_t *cover, struct range_bounds *b)
{
    *cover = 0;
    if (!s->memtable)
        return tables_cover(s, m, key, len, cover, b);
    *cover = memtable_cover(s->memtable, key, len, m->seq, b);
    return 0;
}

static bool source_is_empty(const struct source *s) { return !s->memtable && !s->file_count; }

/* ---- where a child stands ---- */

static void narrow(struct range_bounds *to, const struct range_bounds *by)
{
    if (by->has_lower &&
        (!to->has_lower || key_compare(by->lower, by->lower_len, to->lower, to->lower_len) > 0))
        bounds_set_lower(to, by->lower, by->lower_len);
    if (by->has_upper &&
        (!to->has_upper || key_compare(by->upper, by->upper_len, to->upper, to->upper_len) < 0))
        bounds_set_upper(to, by->upper, by->upper_len);
}

/* Works out what holds around key, unless that is known. */
static int look(struct masked_iter *it, const uint8_t *key, size_t len)
{
    if (it->known && bounds_have(&it->around, key, len))
        return 0;
    struct range_bounds b;
    it->known = it->hidden = false;
    it->own = 0;
    it->around.has_lower = it->around.has_upper = false;
    for (size_t i = 0; i <= it->index; i++) {
        const struct source *s = &it->mask->sources[i];
        uint64_t cover;
        if (source_is_empty(s))
            continue;
        int err = source_cover(s, it->mask, key, len, &cover, &b);
        if (err)
            return err;
        if (cover && i < it->index) { /* then it does not matter what the others say */
            it->around = b;
            it->hidden = it->known = true;
            return 0;
        }
        it->own = cover;
        narrow(&it->around, &b);
    }
    it->known = true;
    return 0;
}

static void show(struct masked_iter *it, int err)
{
    it->base.valid = !err && it->in->valid;
    it->base.status = err ? err : it->in->status;
    if (!it->base.valid)
        return;
    it->base.key = it->in->key;
    it->base.value = it->in->value;
    it->base.value_len = it->in->value_len;
}

/* Before the first entry at or above key; at the end, if there is none. */
static void seek_before(struct iter *in, const uint8_t *key, size_t len)
{
    iter_seek(in, key, len, SEQ_MAX);
    if (in->valid)
        iter_prev(in);
    else if (!in->status)
        iter_last(in);
}

static void settle(struct masked_iter *it, bool forward)
{
    struct iter *in = it->in;
    int err = 0;
    if (!forward && mutant("backward iterators ignore range deletes")) {
        show(it, 0);
        return;
    }
    while (in->valid && !(err = look(it, in->key.key, in->key.len))) {
        if (it->hidden && forward) {
            iter_seek(in, it->around.upper, it->around.upper_len, SEQ_MAX);
        } else if (it->hidden) {
            seek_before(in, it->around.lower, it->around.lower_len);
        } else if (in->key.seq < it->own) {
            ++*it->skipped;
            if (forward)
                iter_next(in);
            else
                iter_prev(in);
        } else {
            break;
        }
    }
    show(it, err);
}

static void masked_first(struct iter *base)
{
    struct masked_iter *it = (struct masked_iter *)base;
    iter_first(it->in);
    settle(it, true);
}

static void masked_last(struct iter *base)
{
    struct masked_iter *it = (struct masked_iter *)base;
    iter_last(it->in);
    settle(it, false);
}

static void masked_seek(struct iter *base, const uint8_t *key, size_t len, uint64_t seq)
{
    struct masked_iter *it = (struct masked_iter *)base;
    int err = len <= LSM_KEY_MAX ? look(it, key, len) : 0;
    if (err) {
        show(it, err);
        return;
    }
    if (len <= LSM_KEY_MAX && it->hidden)
        iter_seek(it->in, it->around.upper, it->around.upper_len, SEQ_MAX);
    else
        iter_seek(it->in, key, len, seq);
    settle(it, true);
}

static void masked_next(struct iter *base)
{
    struct masked_iter *it = (struct masked_iter *)base;
    iter_next(it->in);
    settle(it, true);
}

static void masked_prev(struct iter *base)
{
    struct masked_iter *it = (struct masked_iter *)base;
    iter_prev(it->in);
    settle(it, false);
}

static void mask_unref(struct mask *m)
{
    if (--m->refs)
        return;
    free(m->sources);
    free(m->files);
    free(m);
}

static void masked_free(struct iter *base)
{
    struct masked_iter *it = (struct masked_iter *)base;
    iter_free(it->in);
    mask_unref(it->mask);
    free(it);
}

static const struct iter_ops masked_ops = {
    .first = masked_first,
    .last = masked_last,
    .seek = masked_seek,
    .next = masked_next,
    .prev = masked_prev,
    .free = masked_free,
};

/* ---- a view's children, and their masks ---- */

size_t view_children_max(const struct view *v) { return 1 + v->sealed_count + version_iter_max(v->version); }

int view_children(struct view *v, bool tables, unsigned flags, struct iter **children, size_t *count)
{
    size_t n = 0;
    int err = 0;
    if (v->active && !(err = memtable_iter_new(v->active, &children[n])))
        n++;
    for (size_t i = 0; !err && i < v->sealed_count; i++)
        if (!(err = memtable_iter_new(v->sealed[i], &children[n])))
            n++;
    if (!err && tables)
        err = version_iters(v->version, flags, children, &n);
    while (err && n > 0)
        iter_free(children[--n]);
    *count = n;
    return err;
}

static void add_memtable(struct mask *m, const struct memtable *t)
{
    m->sources[m->count++].memtable = memtable_range_count(t) ? t : NULL;
}

static void add_files(struct mask *m, size_t *used, struct table_file **files, size_t count)
{
    struct source *s = &m->sources[m->count++];
    s->files = m->files + *used;
    for (size_t i = 0; i < count; i++)
        if (files[i]->meta.range_deletes)
            s->files[s->file_count++] = files[i];
    *used += s->file_count;
}

/* In the order of view_children. */
static void fill(struct mask *m, const struct view *v)
{
    size_t used = 0;
    const struct version *version = v->version;
    if (v->active)
        add_memtable(m, v->active);
    for (size_t i = 0; i < v->sealed_count; i++)
        add_memtable(m, v->sealed[i]);
    for (size_t i = 0; i < version->levels[0].count; i++)
        add_files(m, &used, &version->levels[0].files[i], 1);
    for (unsigned l = 1; l < LSM_LEVELS; l++)
        if (version->levels[l].count)
            add_files(m, &used, version->levels[l].files, version->levels[l].count);
}

static bool has_ranges(const struct view *v)
{
    if (v->version->ranged || (v->active && memtable_range_count(v->active)))
        return true;
    for (size_t i = 0; i < v->sealed_count; i++)
        if (memtable_range_count(v->sealed[i]))
            return true;
    return false;
}

static int mask_child(struct mask *m, size_t index, uint64_t *skipped, struct iter **child)
{
    struct masked_iter *it = calloc(1, sizeof *it);
    if (!it)
        return -ENOMEM;
    it->base.ops = &masked_ops;
    it->in = *child;
    it->mask = m;
    it->index = index;
    it->skipped = skipped;
    m->refs++;
    *child = &it->base;
    return 0;
}

int view_mask(struct view *v, uint64_t seq, unsigned flags, struct iter **children, size_t count,
              uint64_t *skipped)
{
    if (!has_ranges(v))
        return 0;
    struct mask *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    m->refs = 1;
    m->seq = seq;
    m->flags = flags;
    m->sources = calloc(count + 1, sizeof *m->sources);
    m->files = calloc(v->version->ranged + 1, sizeof(struct table_file *));
    int err = m->sources && m->files ? 0 : -ENOMEM;
    if (!err) {
        fill(m, v);
        assert(m->count == count);
    }
    bool any = false;
    for (size_t i = 0; !err && i < count; i++) {
        any |= !source_is_empty(&m->sources[i]);
        if (any)
            err = mask_child(m, i, skipped, &children[i]);
    }
    mask_unref(m);
    return err;
}
