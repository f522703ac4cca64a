/*
 * version.c - versions: which tables make up a shard at one moment, and how long tables live.
 *
 * A version never changes. The next one is built from it by copying the arrays of pointers and
 * sharing the tables, each of which counts the versions that name it. The last reference to a table
 * puts it on the version set's list of dead files by one compare-and-swap, which any reader may do;
 * closing and unlinking are left to vset_collect. Blob files live in the same way: a version names all
 * of its shard's, and counts what its tables name of each.
 *
 * Invariants, checked whenever a version is built: in L0 a newer file's seqs are all above an older
 * one's; in every other level files ascend and share no user key, not even at their bounds, unless the
 * lower one's is the end of a range delete, which is not part of it. A
 * version's entries for one key are therefore ordered newest first by level, and by position in L0.
 */
#include "mutant.h"
#include "vset_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

/* ---- tables ---- */

int table_file_open(struct vset *vs, unsigned shard, const struct table_meta *meta, bool damaged,
                    struct table_file **out)
{
    struct table_file *f = calloc(1, sizeof *f);
    if (!f)
        return -ENOMEM;
    f->refs = 1;
    f->shard = shard;
    struct table_options options = {
        .env = vs->env, .dir = vs->dir, .cache = vs->cache, .stats = vs->reader_stats, .log = vs->log};
    int rc = table_meta_copy(meta, &f->meta);
    if (!rc) {
        rc = damaged ? table_open_damaged(&options, &f->meta, &f->table)
                     : table_open(&options, &f->meta, &f->table);
        if (rc)
            table_meta_free(&f->meta);
    }
    if (rc) {
        free(f);
        return rc;
    }
    *out = f;
    return 0;
}

void table_file_free(struct table_file *f)
{
    table_close(f->table);
    table_meta_free(&f->meta);
    free(f);
}

static void table_file_ref(struct table_file *f)
{
    unsigned before = __atomic_fetch_add(&f->refs, 1, __ATOMIC_RELAXED);
    assert(before > 0);
}

void table_file_unref(struct vset *vs, struct table_file *f)
{
    unsigned left = __atomic_sub_fetch(&f->refs, 1, __ATOMIC_ACQ_REL);
    assert(left != UINT32_MAX);
    if (left > 0)
        return;
    struct table_file *head = __atomic_load_n(&vs->dead, __ATOMIC_RELAXED);
    do
        __atomic_store_n(&f->dead_next, head, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&vs->dead, &head, f, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

struct table_file *vset_take_dead(struct vset *vs)
{
    return __atomic_exchange_n(&vs->dead, NULL, __ATOMIC_ACQUIRE);
}

/* ---- blob files ---- */

void blob_file_unref(struct vset *vs, struct blob_file *f)
{
    unsigned left = __atomic_sub_fetch(&f->refs, 1, __ATOMIC_ACQ_REL);
    assert(left != UINT32_MAX);
    if (left > 0)
        return;
    struct blob_file *head = __atomic_load_n(&vs->dead_blobs, __ATOMIC_RELAXED);
    do
        __atomic_store_n(&f->dead_next, head, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&vs->dead_blobs, &head, f, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

struct blob_file *vset_take_dead_blobs(struct vset *vs)
{
    return __atomic_exchange_n(&vs->dead_blobs, NULL, __ATOMIC_ACQUIRE);
}

static struct version_blob *find_blob(const struct version *v, uint64_t number)
{
    size_t from = 0, to = v->blob_count;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (v->blobs[mid].file->number < number)
            from = mid + 1;
        else
            to = mid;
    }
    return from < v->blob_count && v->blobs[from].file->number == number ? &v->blobs[from] : NULL;
}

struct blob_file *version_blob(const struct version *v, uint64_t number)
{
    struct version_blob *b = find_blob(v, number);
    return b ? b->file : NULL;
}

static int compare_blobs(const void *a, const void *b)
{
    uint64_t x = ((const struct version_blob *)a)->file->number,
             y = ((const struct version_blob *)b)->file->number;
    return (x > y) - (x < y);
}

/* The files of the new version, with what base's tables name of them. */
static int take_blobs(struct version *v, const struct version *base, const struct version_blob_change *c)
{
    size_t max = (base ? base->blob_count : 0) + (c ? c->add_count : 0);
    if (!max)
        return c && c->remove_count ? -ENXIO : 0;
    v->blobs = malloc(max * sizeof *v->blobs);
    if (!v->blobs)
        return -ENOMEM;
    size_t removed = 0;
    for (size_t i = 0; base && i < base->blob_count; i++) {
        bool remove = false;
        for (size_t j = 0; c && !remove && j < c->remove_count; j++)
            remove = c->remove[j].number == base->blobs[i].file->number;
        removed += remove;
        if (!remove)
            v->blobs[v->blob_count++] = base->blobs[i];
    }
    for (size_t i = 0; c && i < c->add_count; i++)
        v->blobs[v->blob_count++] = (struct version_blob){.file = c->add[i]};
    for (size_t i = 0; i < v->blob_count; i++)
        blob_file_ref(v->blobs[i].file);
    qsort(v->blobs, v->blob_count, sizeof *v->blobs, compare_blobs);
    return c && removed != c->remove_count ? -ENXIO : 0;
}

/* Counts what a table names, in or out. */
static bool count_blobs(struct version *v, const struct table_meta *m, bool in)
{
    if (mutant("live bytes of blobs not counted"))
        return true;
    for (size_t i = 0; i < m->blob_count; i++) {
        struct version_blob *b = find_blob(v, m->blobs[i].number);
        if (!b)
            return false;
        b->pointers += in ? m->blobs[i].pointers : -m->blobs[i].pointers;
        b->bytes += in ? m->blobs[i].bytes : -m->blobs[i].bytes;
    }
    return true;
}

/* ---- versions ---- */

void version_ref(struct version *v)
{
    unsigned before = __atomic_fetch_add(&v->refs, 1, __ATOMIC_RELAXED);
    assert(before > 0);
}

void version_unref(struct version *v)
{
    unsigned left = __atomic_sub_fetch(&v->refs, 1, __ATOMIC_ACQ_REL);
    assert(left != UINT32_MAX);
    if (left > 0)
        return;
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; i < v->levels[l].count; i++)
            table_file_unref(v->vset, v->levels[l].files[i]);
    for (size_t i = 0; i < v->blob_count; i++)
        blob_file_unref(v->vset, v->blobs[i].file);
    free(v->blobs);
    free(v);
}

static int compare_newest_first(const void *a, const void *b)
{
    const struct table_meta *x = &(*(struct table_file *const *)a)->meta,
                            *y = &(*(struct table_file *const *)b)->meta;
    return (x->seq_max < y->seq_max) - (x->seq_max > y->seq_max);
}

static int compare_smallest(const void *a, const void *b)
{
    const struct table_meta *x = &(*(struct table_file *const *)a)->meta,
                            *y = &(*(struct table_file *const *)b)->meta;
    return key_compare(x->smallest, x->smallest_len, y->smallest, y->smallest_len);
}

static bool level_is_ordered(const struct level *level, unsigned l)
{
    for (size_t i = 1; i < level->count; i++) {
        const struct table_meta *a = &level->files[i - 1]->meta, *b = &level->files[i]->meta;
        bool ordered = l == 0 ? a->seq_min > b->seq_max : table_ends_before(a, b->smallest, b->smallest_len);
        if (!ordered)
            return false;
    }
    return true;
}

static int compare_level_number(const void *a, const void *b)
{
    const struct edit_file *x = a, *y = b;
    if (x->level != y->level)
        return x->level < y->level ? -1 : 1;
    return (x->meta.number > y->meta.number) - (x->meta.number < y->meta.number);
}

static bool is_removed(const struct edit_file *sorted, size_t count, unsigned level, uint64_t number)
{
    struct edit_file key = {.level = level, .meta.number = number};
    return count && bsearch(&key, sorted, count, sizeof key, compare_level_number);
}

/* Fills one level of v: base's files that stay, then those added, in order. Returns how many were left out. */
static size_t build_level(struct version *v, unsigned l, const struct version *base,
                          const struct edit_file *removed, size_t removed_count,
                          const struct version_add *add, size_t add_count, bool *counted)
{
    struct level *level = &v->levels[l];
    size_t left_out = 0, added = 0;
    for (size_t i = 0; base && i < base->levels[l].count; i++) {
        struct table_file *f = base->levels[l].files[i];
        if (is_removed(removed, removed_count, l, f->meta.number)) {
            left_out++;
            *counted &= count_blobs(v, &f->meta, false);
        } else {
            level->files[level->count++] = f;
        }
    }
    for (size_t i = 0; i < add_count; i++) {
        if (add[i].level != l)
            continue;
        level->files[level->count++] = add[i].file;
        *counted &= count_blobs(v, &add[i].file->meta, true);
        added++;
    }
    if (added)
        qsort(level->files, level->count, sizeof(struct table_file *),
              l ? compare_smallest : compare_newest_first);
    for (size_t i = 0; i < level->count; i++) {
        table_file_ref(level->files[i]);
        level->bytes += level->files[i]->meta.bytes;
        level->ranged += level->files[i]->meta.range_deletes > 0;
    }
    v->ranged += level->ranged;
    return left_out;
}

int version_build(struct vset *vs, unsigned shard, const struct version *base, const struct edit_file *remove,
                  size_t remove_count, const struct version_add *add, size_t add_count,
                  const struct version_blob_change *blobs, struct version **out)
{
    size_t files_max = add_count;
    for (unsigned l = 0; base && l < LSM_LEVELS; l++)
        files_max += base->levels[l].count;
    struct version *v = calloc(1, sizeof *v + files_max * sizeof(struct table_file *));
    struct edit_file *sorted = malloc((remove_count + 1) * sizeof *sorted);
    if (!v || !sorted) {
        free(v);
        free(sorted);
        return -ENOMEM;
    }
    if (remove_count) {
        memcpy(sorted, remove, remove_count * sizeof *sorted);
        qsort(sorted, remove_count, sizeof *sorted, compare_level_number);
    }
    v->refs = 1;
    v->shard = shard;
    v->vset = vs;
    struct table_file **files = (struct table_file **)(v + 1);
    size_t left_out = 0;
    bool ordered = true, counted = true;
    int rc = take_blobs(v, base, blobs);
    for (unsigned l = 0; l < LSM_LEVELS; l++) {
        v->levels[l].files = files;
        left_out += build_level(v, l, base, sorted, remove_count, add, add_count, &counted);
        files += v->levels[l].count;
        ordered &= level_is_ordered(&v->levels[l], l);
    }
    free(sorted);
    if (!rc && (left_out != remove_count || !ordered))
        rc = -EINVAL;
    if (!rc && !counted)
        rc = -ENXIO;
    if (rc) {
        version_unref(v);
        return rc;
    }
    *out = v;
    return 0;
}

/* ---- reading ---- */

size_t level_find(const struct level *l, const void *key, size_t len)
{
    size_t from = 0, to = l->count;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        const struct table_meta *m = &l->files[mid]->meta;
        if (table_ends_before(m, key, len))
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

static bool may_hold(const struct table_meta *m, const void *key, size_t len, uint64_t seq)
{
    return m->seq_min <= seq && key_compare(m->smallest, m->smallest_len, key, len) <= 0 &&
           !table_ends_before(m, key, len);
}

/* What table_get found, or -ENOENT, in a table with range deletes: one that is newer is found instead, as a delete. */
static int get_ranged(struct table *t, const void *key, size_t len, uint64_t seq, unsigned flags, int found,
                      struct ikey *out_key, size_t *value_len, struct cache_block **pin)
{
    uint64_t cover;
    int rc = table_cover(t, key, len, seq, flags, &cover, NULL);
    if (!rc && (!cover || (!found && out_key->seq > cover)))
        return found;
    if (!found)
        table_release(t, *pin);
    *pin = NULL;
    if (rc)
        return rc;
    *out_key = (struct ikey){key, (uint32_t)len, ENTRY_DELETE, cover};
    *value_len = 0;
    return 0;
}

int version_get(struct version *v, const void *key, size_t len, uint64_t seq, unsigned flags, unsigned *level,
                size_t *index, struct ikey *out_key, const uint8_t **value, size_t *value_len,
                struct table **pin_table, struct cache_block **pin)
{
    for (; *level < LSM_LEVELS; *level += 1, *index = 0) {
        const struct level *l = &v->levels[*level];
        size_t end = l->count;
        if (*level > 0) { /* one file at most can hold it */
            *index = level_find(l, key, len);
            end = *index < end ? *index + 1 : end;
        }
        for (; *index < end; *index += 1) {
            struct table_file *f = l->files[*index];
            if (!may_hold(&f->meta, key, len, seq))
                continue;
            int rc = table_get(f->table, key, len, seq, flags, out_key, value, value_len, pin);
            if (f->meta.range_deletes && !mutant("gets ignore range deletes of tables") &&
                (!rc || rc == -ENOENT))
                rc = get_ranged(f->table, key, len, seq, flags, rc, out_key, value_len, pin);
            if (rc == -ENOENT)
                continue;
            if (!rc)
                *pin_table = f->table;
            return rc;
        }
    }
    return -ENOENT;
}

size_t version_iter_max(const struct version *v) { return v->levels[0].count + LSM_LEVELS - 1; }

int version_iters(struct version *v, unsigned flags, struct iter **children, size_t *count)
{
    size_t before = *count, n = before;
    int rc = 0;
    for (size_t i = 0; !rc && i < v->levels[0].count; i++) {
        rc = table_iter_new(v->levels[0].files[i]->table, flags, &children[n]);
        n += !rc;
    }
    for (unsigned l = 1; !rc && l < LSM_LEVELS; l++) {
        if (!v->levels[l].count)
            continue;
        rc = level_iter_new(&v->levels[l], flags, &children[n]);
        n += !rc;
    }
    while (rc && n > before)
        iter_free(children[--n]);
    *count = n;
    return rc;
}
