/*
 * db_iter.c - the public iterator: user keys and values out of a merge of versions.
 *
 * Underneath is a merging iterator over every memtable and table of one or all shards, which yields
 * versions: per user key the newest first. Going forward, the first visible version of a key
 * decides (operands are folded with what follows). Going backward, versions come oldest first, so
 * that the state of a key is built up until the key ends; the inner iterator then stands before it.
 *
 * Views are pinned for the iterator's life, so the tables and memtables stay; a snapshot is not
 * held. Over several shards one is held only until all views are taken, which makes the views of one
 * moment.
 */
#include "blob_read.h"
#include "masked.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define SKIPPED_MIN 100u    /* entries: fewer are not worth telling */
#define SKIPPED_TELL 10000u /* ... and so many at once: the shard begins while this iterator is still at it */

struct buffer {
    uint8_t *data;
    size_t len, capacity;
};

struct lsm_iter {
    struct lsm *db;
    struct view *views[SHARDS_MAX];
    unsigned view_count;
    struct iter *in;
    uint64_t seq;     /* the newest visible */
    uint64_t skipped; /* entries that were stepped over, as deleted or hidden */
    uint64_t told;    /* of those, the shards know already */
    struct buffer lower, upper;
    bool has_lower, has_upper;
    bool backward; /* the inner iterator stands before the current key, not on or after it */
    bool valid;
    int status;
    struct buffer key;
    struct buffer value; /* when the value had to be copied or folded */
    struct buffer spare;
    struct lsm_value loaded; /* out of a blob file */
    struct blob_walk walk;
    bool keys; /* LSM_KEYS: no value is loaded but to be folded */
    unsigned flags;
    const uint8_t *value_at;
    size_t value_len;
    const uint8_t *pointer; /* of a value in a blob file; NULL: it is in none */
    size_t pointer_len;
};

static int buffer_room(struct buffer *b, size_t len)
{
    if (b->capacity >= len && b->data)
        return 0;
    size_t capacity = len < 64 ? 64 : len + len / 2;
    uint8_t *data = realloc(b->data, capacity);
    if (!data)
        return -ENOMEM;
    b->data = data;
    b->capacity = capacity;
    return 0;
}

static int buffer_set(struct buffer *b, const void *data, size_t len)
{
    int err = buffer_room(b, len);
    if (err)
        return err;
    if (len)
        memcpy(b->data, data, len);
    b->len = len;
    return 0;
}

static void fail(struct lsm_iter *it, int err)
{
    it->valid = false;
    it->status = err;
}

/* ---- opening ---- */

static int take_views(struct lsm_iter *it, const struct lsm_iter_options *o)
{
    struct lsm *db = it->db;
    if (o->route_key_len) {
        struct shard *s = &db->shards[db_route(db, o->route_key, o->route_key_len)];
        it->views[it->view_count++] = view_get_now(s, &it->seq);
        if (o->snapshot)
            it->seq = o->snapshot->seq;
        return 0;
    }
    struct lsm_snapshot held;
    it->seq = snapshot_add(db, &held);
    for (unsigned i = 0; i < db->shard_count; i++)
        it->views[it->view_count++] = view_get(&db->shards[i]);
    snapshot_remove(db, &held);
    if (o->snapshot)
        it->seq = o->snapshot->seq;
    return 0;
}

static int open_children(struct lsm_iter *it, unsigned flags)
{
    size_t max = 0, n = 0;
    for (unsigned i = 0; i < it->view_count; i++)
        max += view_children_max(it->views[i]);
    struct iter **children = calloc(max ? max : 1, sizeof *children);
    if (!children)
        return -ENOMEM;
    int err = 0;
    for (unsigned i = 0; !err && i < it->view_count; i++) {
        size_t more = 0;
        err = view_children(it->views[i], true, flags, children + n, &more);
        if (!err)
            err = view_mask(it->views[i], it->seq, flags, children + n, more, &it->skipped);
        n += more;
    }
    if (!err) {
        err = merge_iter_new(children, n, &it->in);
    } else {
        for (size_t i = 0; i < n; i++)
            iter_free(children[i]);
    }
    free(children);
    return err;
}

int lsm_iter_new(struct lsm *db, const struct lsm_iter_options *options, struct lsm_iter **out)
{
    static const struct lsm_iter_options defaults;
    const struct lsm_iter_options *o = options ? options : &defaults;
    struct lsm_iter *it = calloc(1, sizeof *it);
    if (!it)
        return -ENOMEM;
    it->db = db;
    it->has_lower = o->lower != NULL;
    it->has_upper = o->upper != NULL;
    it->flags = o->flags;
    it->keys = o->flags & LSM_KEYS;
    int err = take_views(it, o);
    if (!err && it->has_lower)
        err = buffer_set(&it->lower, o->lower, o->lower_len);
    if (!err && it->has_upper)
        err = buffer_set(&it->upper, o->upper, o->upper_len);
    if (!err)
        err = open_children(it, o->flags);
    if (err) {
        lsm_iter_free(it);
        return err;
    }
    *out = it;
    return 0;
}

static void tell_skipped(struct lsm_iter *it)
{
    for (unsigned i = 0; i < it->view_count; i++)
        shard_note_skipped(it->views[i]->shard, (it->skipped - it->told) / it->view_count);
    it->told = it->skipped;
}

void lsm_iter_free(struct lsm_iter *it)
{
    if (!it)
        return;
    iter_free(it->in);
    if (it->skipped - it->told >= SKIPPED_MIN)
        tell_skipped(it);
    for (unsigned i = 0; i < it->view_count; i++)
        view_unref(it->views[i]);
    free(it->lower.data);
    free(it->upper.data);
    free(it->key.data);
    free(it->value.data);
    free(it->spare.data);
    lsm_value_release(&it->loaded);
    free(it);
}

/* ---- folding ---- */

/* it->value = merge(base, operand); base may be it->value itself or NULL. */
static int fold(struct lsm_iter *it, const uint8_t *base, size_t base_len, bool base_is_operand,
                const uint8_t *operand, size_t operand_len)
{
    const struct lsm_options *o = &it->db->options;
    int err = o->merge ? buffer_room(&it->spare, base_len > operand_len ? base_len : operand_len) : -EINVAL;
    if (err)
        return err;
    it->spare.len =
        o->merge(o->callback_arg, base, base_len, base_is_operand, operand, operand_len, it->spare.data);
    struct buffer t = it->value;
    it->value = it->spare;
    it->spare = t;
    return 0;
}

/* ---- values in blob files ---- */

/* Reads the value into it->loaded, from the file of whichever shard. */
static int load(struct lsm_iter *it, const uint8_t *pointer, size_t len)
{
    size_t total;
    int err = -ESTALE;
    lsm_value_release(&it->loaded);
    for (unsigned i = 0; err == -ESTALE && i < it->view_count; i++) {
        if (!(it->flags & LSM_NOWAIT))
            blob_walk_to(&it->walk, it->views[i]->version, pointer, len);
        err = blob_load(it->db, it->views[i]->version, pointer, len, BLOB_WHOLE, it->flags, &it->loaded,
                        &total);
    }
    if (err == -ESTALE) /* the views were current when the moment was fixed: they know every file of it */
        err = logger_corrupt(&it->db->log, it->db->path, 0, "an entry names a blob file that is not there");
    return err;
}

/* The value that a pointer means becomes the iterator's. */
static int show_blob(struct lsm_iter *it, const uint8_t *pointer, size_t len)
{
    int err;
    it->value_at = NULL;
    it->pointer = pointer;
    it->pointer_len = len;
    if (it->keys) {
        err = blob_value_len(it->db, pointer, len, &it->value_len);
    } else {
        err = load(it, pointer, len);
        it->value_at = it->loaded.data;
        it->value_len = it->loaded.len;
    }
    return err;
}

static bool same_key(const struct lsm_iter *it, const struct ikey *k)
{
    return k->len == it->key.len && memcmp(k->key, it->key.data, k->len) == 0;
}

static bool below_lower(const struct lsm_iter *it, const struct ikey *k)
{
    return it->has_lower && key_compare(k->key, k->len, it->lower.data, it->lower.len) < 0;
}

static bool above_upper(const struct lsm_iter *it, const struct ikey *k)
{
    return it->has_upper && key_compare(k->key, k->len, it->upper.data, it->upper.len) >= 0;
}

/* ---- forward ---- */

/* The inner iterator stands on the newest visible version, an operand, of it->key: folds it with what is older. */
static int resolve_operands(struct lsm_iter *it)
{
    int err = buffer_set(&it->value, it->in->value, it->in->value_len);
    struct iter *in = it->in;
    bool complete = false;
    for (iter_next(in); !err && in->valid && same_key(it, &in->key); iter_next(in)) {
        if (complete) /* older than what decided */
            continue;
        if (in->key.type == ENTRY_DELETE) {
            err = fold(it, NULL, 0, false, it->value.data, it->value.len);
            complete = true;
        } else if (in->key.type == ENTRY_PUT || in->key.type == ENTRY_MERGE) {
            complete = in->key.type == ENTRY_PUT;
            err = fold(it, in->value, in->value_len, !complete, it->value.data, it->value.len);
        } else if (in->key.type == ENTRY_BLOB) {
            complete = true;
            err = load(it, in->value, in->value_len);
            if (!err)
                err = fold(it, it->loaded.data, it->loaded.len, false, it->value.data, it->value.len);
        } else {
            err = -ENOTSUP;
        }
    }
    if (!err && in->status)
        err = in->status;
    if (!err && !complete)
        err = fold(it, NULL, 0, false, it->value.data, it->value.len);
    it->value_at = it->value.data;
    it->value_len = it->value.len;
    return err;
}

static void skip_key(struct lsm_iter *it)
{
    for (; it->in->valid && same_key(it, &it->in->key); it->skipped++)
        iter_next(it->in);
}

/* From the inner iterator's place to the first user key that exists. */
static void settle_forward(struct lsm_iter *it)
{
    struct iter *in = it->in;
    it->valid = false;
    it->backward = false;
    it->pointer = NULL;
    while (in->valid) {
        if (above_upper(it, &in->key))
            return;
        if (in->key.seq > it->seq) {
            iter_next(in);
            continue;
        }
        int err = buffer_set(&it->key, in->key.key, in->key.len);
        if (!err && in->key.type == ENTRY_MERGE) {
            err = resolve_operands(it);
        } else if (!err && in->key.type == ENTRY_PUT) {
            it->value_at = in->value; /* stays until the inner iterator moves */
            it->value_len = in->value_len;
        } else if (!err && in->key.type == ENTRY_BLOB) {
            err = show_blob(it, in->value, in->value_len);
        } else if (!err && in->key.type == ENTRY_DELETE) {
            skip_key(it);
            if (it->skipped - it->told >= SKIPPED_TELL)
                tell_skipped(it);
            continue;
        } else if (!err) {
            err = -ENOTSUP;
        }
        if (err)
            fail(it, err);
        else
            it->valid = true;
        return;
    }
    it->status = in->status;
}

/* ---- backward ---- */

/* The inner iterator stands on the oldest version of a key (or nowhere): works out that key, ends before it. */
static int build_backward(struct lsm_iter *it, bool *exists)
{
    struct iter *in = it->in;
    bool any = false, is_operand = false,
         is_blob = false; /* is_blob: it->value is a pointer, read once it is needed */
    int err = 0;
    *exists = false;
    for (; !err && in->valid && same_key(it, &in->key); iter_prev(in)) {
        if (in->key.seq > it->seq)
            continue;
        if (in->key.type == ENTRY_DELETE) {
            any = true;
            *exists = false;
            is_operand = is_blob = false;
        } else if (in->key.type == ENTRY_PUT || in->key.type == ENTRY_BLOB ||
                   (in->key.type == ENTRY_MERGE && !any)) {
            err = buffer_set(&it->value, in->value, in->value_len);
            is_operand = in->key.type == ENTRY_MERGE;
            is_blob = in->key.type == ENTRY_BLOB;
            any = *exists = true;
        } else if (in->key.type == ENTRY_MERGE && is_blob) {
            is_blob = false;
            err = load(it, it->value.data, it->value.len);
            if (!err)
                err = fold(it, it->loaded.data, it->loaded.len, false, in->value, in->value_len);
        } else if (in->key.type == ENTRY_MERGE) {
            err = *exists ? fold(it, it->value.data, it->value.len, is_operand, in->value, in->value_len)
                          : fold(it, NULL, 0, false, in->value, in->value_len);
            *exists = true;
        } else {
            err = -ENOTSUP;
        }
    }
    if (!err && is_operand)
        err = fold(it, NULL, 0, false, it->value.data, it->value.len);
    if (!err)
        err = in->status;
    it->value_at = it->value.data;
    it->value_len = it->value.len;
    if (!err && is_blob)
        err = show_blob(it, it->value.data, it->value.len);
    return err;
}

static void settle_backward(struct lsm_iter *it)
{
    struct iter *in = it->in;
    it->valid = false;
    it->backward = true;
    it->pointer = NULL;
    while (in->valid) {
        if (below_lower(it, &in->key))
            return;
        bool exists;
        int err = buffer_set(&it->key, in->key.key, in->key.len);
        if (!err)
            err = build_backward(it, &exists);
        if (err) {
            fail(it, err);
            return;
        }
        if (exists) {
            it->valid = true;
            return;
        }
        it->skipped++;
    }
    it->status = in->status;
}

/* ---- public ---- */

static void seek_forward(struct lsm_iter *it, const void *key, size_t len)
{
    struct shard *s = &it->db->shards[it->views[0]->version->shard];
    uint64_t began = db_latency_begin(it->db, LSM_OP_SEEK);
    it->status = 0;
    iter_seek(it->in, key, len, SEQ_MAX);
    settle_forward(it);
    if (it->status != -EAGAIN)
        latency_end(&s->latency[LSM_OP_SEEK], it->db->env, began);
}

/* To the last entry < key (any version), then on backward. */
static void seek_before(struct lsm_iter *it, const void *key, size_t len)
{
    it->status = 0;
    iter_seek(it->in, key, len, SEQ_MAX);
    if (it->in->valid)
        iter_prev(it->in);
    else if (!it->in->status)
        iter_last(it->in);
    settle_backward(it);
}

void lsm_iter_first(struct lsm_iter *it)
{
    if (it->has_lower) {
        seek_forward(it, it->lower.data, it->lower.len);
        return;
    }
    it->status = 0;
    iter_first(it->in);
    settle_forward(it);
}

void lsm_iter_last(struct lsm_iter *it)
{
    if (it->has_upper) {
        seek_before(it, it->upper.data, it->upper.len);
        return;
    }
    it->status = 0;
    iter_last(it->in);
    settle_backward(it);
}

void lsm_iter_seek(struct lsm_iter *it, const void *key, size_t len)
{
    if (it->has_lower && key_compare(key, len, it->lower.data, it->lower.len) < 0)
        lsm_iter_first(it);
    else
        seek_forward(it, key, len);
}

void lsm_iter_seek_prev(struct lsm_iter *it, const void *key, size_t len)
{
    if (it->has_upper && key_compare(key, len, it->upper.data, it->upper.len) >= 0) {
        lsm_iter_last(it);
        return;
    }
    /* The oldest version of `key` itself counts, too: stand behind all of its versions. */
    it->status = 0;
    iter_seek(it->in, key, len, 0);
    if (it->in->valid && key_compare(it->in->key.key, it->in->key.len, key, len) > 0)
        iter_prev(it->in);
    else if (!it->in->valid && !it->in->status)
        iter_last(it->in);
    settle_backward(it);
}

void lsm_iter_next(struct lsm_iter *it)
{
    assert(it->valid);
    if (it->backward) {
        /* Back onto this key's versions, which follow. */
        iter_seek(it->in, it->key.data, it->key.len, SEQ_MAX);
    }
    uint64_t before = it->skipped;
    skip_key(it);
    it->skipped = before; /* older versions of what was there are no deletes */
    settle_forward(it);
}

void lsm_iter_prev(struct lsm_iter *it)
{
    assert(it->valid);
    if (!it->backward) {
        iter_seek(it->in, it->key.data, it->key.len, SEQ_MAX);
        if (it->in->valid)
            iter_prev(it->in);
        else if (!it->in->status)
            iter_last(it->in);
    }
    settle_backward(it);
}

bool lsm_iter_valid(const struct lsm_iter *it) { return it->valid; }

int lsm_iter_status(const struct lsm_iter *it) { return it->status; }

const void *lsm_iter_key(const struct lsm_iter *it, size_t *len)
{
    assert(it->valid);
    *len = it->key.len;
    return it->key.data;
}

const void *lsm_iter_value(const struct lsm_iter *it, size_t *len)
{
    assert(it->valid);
    *len = it->value_len;
    return it->value_at;
}

int lsm_iter_load(struct lsm_iter *it)
{
    assert(it->valid);
    if (!it->pointer || it->value_at)
        return 0;
    int err = load(it, it->pointer, it->pointer_len);
    if (!err) {
        it->value_at = it->loaded.data;
        it->value_len = it->loaded.len;
    }
    return err;
}

bool lsm_iter_ref(const struct lsm_iter *it, struct lsm_ref *out)
{
    assert(it->valid);
    if (!it->pointer || it->pointer_len > sizeof out->bytes)
        return false;
    if (out) {
        out->len = (uint8_t)it->pointer_len;
        memcpy(out->bytes, it->pointer, it->pointer_len);
    }
    return true;
}
