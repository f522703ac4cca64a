/*
 * read.c - the point read: memtables from the newest, then tables level by level.
 *
 * A merge operand that is found is set aside and the search goes on below it, until a complete
 * value, a delete, or the end; then the operands are folded, oldest first. Commonly there are
 * none and the value is handed out where it lies, pinned; one in a blob file is read into memory of its own.
 */
#include "blob_read.h"
#include "db.h"

#include <errno.h>
#include <stdlib.h>

struct operand {
    const uint8_t *data;
    size_t len;
    struct cache_block *pin;
};

/* Memtables and levels are few, and each has at most one operand per key and snapshot stratum. */
struct operands {
    struct operand *list; /* newest first */
    size_t count, capacity;
};

static int operands_add(struct operands *o, const uint8_t *data, size_t len, struct cache_block *pin)
{
    if (o->count == o->capacity) {
        size_t capacity = o->capacity ? o->capacity * 2 : 8;
        struct operand *list = realloc(o->list, capacity * sizeof *list);
        if (!list)
            return -ENOMEM;
        o->list = list;
        o->capacity = capacity;
    }
    o->list[o->count++] = (struct operand){data, len, pin};
    return 0;
}

static void operands_free(struct cache *cache, struct operands *o)
{
    for (size_t i = 0; i < o->count; i++)
        if (o->list[i].pin)
            cache_release(cache, o->list[i].pin);
    free(o->list);
}

/* Folds operands over base (NULL: nothing lies below) into a malloc'ed buffer. -EINVAL: opened without knowing how. */
static int fold(const struct lsm *db, const struct operands *o, const uint8_t *base, size_t base_len,
                uint8_t **out, size_t *out_len)
{
    if (!db->options.merge)
        return -EINVAL;
    size_t room = base_len;
    for (size_t i = 0; i < o->count; i++)
        if (o->list[i].len > room)
            room = o->list[i].len;
    uint8_t *a = malloc(room + 1), *b = malloc(room + 1);
    if (!a || !b) {
        free(a);
        free(b);
        return -ENOMEM;
    }
    size_t len = base_len;
    for (size_t i = o->count; i-- > 0;) {
        len =
            db->options.merge(db->options.callback_arg, base, len, false, o->list[i].data, o->list[i].len, b);
        uint8_t *t = a;
        a = b;
        b = t;
        base = a;
    }
    free(b);
    *out = a;
    *out_len = len;
    return 0;
}

static void release_memory(void *pin, void *pin2)
{
    (void)pin2;
    free(pin);
}

/* A value in a memtable or a cached block lives as long as the view and the block. */
static void release_view(void *pin, void *pin2)
{
    struct view *v = pin;
    if (pin2)
        cache_release(v->shard->db->cache, pin2);
    view_unref(v);
}

/* A search through a view, from the newest memtable down; resumed to look below an operand. */
struct search {
    const struct view *view;
    const void *key;
    size_t len;
    uint64_t seq;
    unsigned flags;
    size_t memtable;                   /* next to look at: 0 is the active one */
    const struct memtable *operand_in; /* the last find was an operand there: a blob may lie below it */
    /* what was found */
    struct ikey found;
    const uint8_t *value;
    size_t value_len;
    struct cache_block *pin;
};

/* 0, -ENOENT at the end, or an error. After an operand the search goes on with what is older than that. */
static int search_next(struct search *s)
{
    const struct memtable *below = s->operand_in;
    s->pin = NULL;
    s->operand_in = NULL;
    if (below && memtable_blob_below(below, s->key, s->len, s->seq, &s->found, &s->value, &s->value_len))
        return 0;
    while (s->memtable <= s->view->sealed_count) {
        const struct memtable *m = s->memtable ? s->view->sealed[s->memtable - 1] : s->view->active;
        s->memtable++;
        bool found = memtable_get(m, s->key, s->len, s->seq, &s->found, &s->value, &s->value_len);
        if (memtable_range_count(m)) {
            uint64_t cover = memtable_cover(m, s->key, s->len, s->seq, NULL);
            if (cover && (!found || s->found.seq < cover)) {
                s->found = (struct ikey){s->key, (uint32_t)s->len, ENTRY_DELETE, cover};
                return 0;
            }
        }
        if (found && s->found.type == ENTRY_MERGE)
            s->operand_in = m;
        if (found)
            return 0;
    }
    /* From the top each time: older versions may lie in the same table (kept for a snapshot). */
    struct table *table;
    unsigned level = 0;
    size_t index = 0;
    return version_get(s->view->version, s->key, s->len, s->seq, s->flags, &level, &index, &s->found,
                       &s->value, &s->value_len, &table, &s->pin);
}

/* What is searched for has been found, or is known not to exist: the operands over it. *exists: s->value is complete. */
static int search_all(struct lsm *db, struct search *s, struct operands *operands, bool *exists)
{
    int err;
    *exists = false;
    while ((err = search_next(s)) == 0 && s->found.type == ENTRY_MERGE) {
        err = operands_add(operands, s->value, s->value_len, s->pin);
        if (err) {
            if (s->pin)
                cache_release(db->cache, s->pin);
            s->pin = NULL;
            return err;
        }
        if (s->found.seq == 0)
            return -ENOENT;
        s->seq = s->found.seq - 1;
    }
    if (err)
        return err;
    *exists = s->found.type == ENTRY_PUT || s->found.type == ENTRY_BLOB;
    if (*exists)
        return 0;
    if (s->pin)
        cache_release(db->cache, s->pin);
    s->pin = NULL;
    return s->found.type == ENTRY_DELETE ? -ENOENT : -ENOTSUP;
}

/* The value in memory that the search has found is read from its blob file, as far as it is wanted. */
static int load_blob(struct lsm *db, struct search *s, struct blob_part part, struct lsm_value *out,
                     size_t *total)
{
    int err = blob_load(db, s->view->version, s->value, s->value_len, part, s->flags, out, total);
    if (s->pin)
        cache_release(db->cache, s->pin);
    s->pin = NULL;
    return err;
}

static void narrow(struct lsm_value *v, struct blob_part part, size_t *total)
{
    *total = v->len;
    part = blob_part_clip(part, v->len);
    v->data = (const uint8_t *)v->data + part.offset;
    v->len = part.len;
}

/* Takes over the reference on v. */
static int get_part_in_view(struct lsm *db, struct view *v, const void *key, size_t len, uint64_t seq,
                            unsigned flags, struct blob_part part, struct lsm_value *out, size_t *total)
{
    struct search s = {.view = v, .key = key, .len = len, .seq = seq, .flags = flags};
    struct operands operands = {0};
    struct lsm_value loaded = {0};
    bool exists;
    int err = search_all(db, &s, &operands, &exists);
    bool is_blob = exists && s.found.type == ENTRY_BLOB;
    if (is_blob) {
        err = load_blob(db, &s, operands.count ? BLOB_WHOLE : part, &loaded, total);
        s.value = loaded.data;
        s.value_len = loaded.len;
        exists = !err;
    }
    if (operands.count && (err == 0 || err == -ENOENT)) {
        uint8_t *folded = NULL;
        err = fold(db, &operands, exists ? s.value : NULL, exists ? s.value_len : 0, &folded, &out->len);
        if (exists && s.pin)
            cache_release(db->cache, s.pin);
        lsm_value_release(&loaded);
        if (!err) {
            out->data = folded;
            out->pin = folded;
            out->release = release_memory;
            narrow(out, part, total);
        }
        exists = false;
    }
    operands_free(db->cache, &operands);
    if (exists && is_blob)
        *out = loaded;
    if (!exists || is_blob) {
        view_unref(v);
        return err;
    }
    out->data = s.value;
    out->len = s.value_len;
    out->release = release_view;
    out->pin = v;
    out->pin2 = s.pin;
    narrow(out, part, total);
    return 0;
}

int get_in_view(struct lsm *db, struct view *v, const void *key, size_t len, uint64_t seq, unsigned flags,
                struct lsm_value *out)
{
    size_t total;
    return get_part_in_view(db, v, key, len, seq, flags, BLOB_WHOLE, out, &total);
}

static int get_part(struct lsm *db, const void *key, size_t key_len, const struct lsm_snapshot *snapshot,
                    unsigned flags, struct blob_part part, struct lsm_value *out, size_t *total)
{
    struct shard *s = &db->shards[db_route(db, key, key_len)];
    uint64_t began = db_latency_begin(db, LSM_OP_GET);
    int err;
    for (;;) {
        *out = (struct lsm_value){0};
        struct view *v = view_get(s);
        bool newest = __atomic_load_n(&s->view, __ATOMIC_ACQUIRE) == v;
        uint64_t seq = snapshot ? snapshot->seq : db_frontier(db) - 1;
        newest = newest && __atomic_load_n(&s->view, __ATOMIC_ACQUIRE) == v;
        err = get_part_in_view(db, v, key, key_len, seq, flags, part, out, total);
        if (err != -ESTALE)
            break;
        /* The memtable had got a pointer into a file that came after the view was taken: once more. */
        if (newest) {
            (void)logger_corrupt(&db->log, db->path, 0, "an entry names a blob file that is not there");
            err = -EIO;
            break;
        }
    }
    if (err != -EAGAIN) {
        latency_end(&s->latency[LSM_OP_GET], db->env, began);
        DB_COUNT(db, gets, 1);
        if (!err)
            DB_COUNT(db, gets_found, 1);
    }
    return err;
}

int lsm_get(struct lsm *db, const void *key, size_t key_len, const struct lsm_snapshot *snapshot,
            unsigned flags, struct lsm_value *out)
{
    size_t total;
    return get_part(db, key, key_len, snapshot, flags, BLOB_WHOLE, out, &total);
}

int lsm_get_range(struct lsm *db, const void *key, size_t key_len, const struct lsm_snapshot *snapshot,
                  unsigned flags, uint64_t offset, size_t len, struct lsm_value *out, size_t *total)
{
    size_t whole;
    return get_part(db, key, key_len, snapshot, flags, (struct blob_part){offset, len}, out,
                    total ? total : &whole);
}

void lsm_value_release(struct lsm_value *value)
{
    if (value->release)
        value->release(value->pin, value->pin2);
    *value = (struct lsm_value){0};
}
