/*
 * read.c - the point read: memtables from the newest, then tables level by level.
 *
 * A merge operand that is found is set aside and the search goes on below it, until a complete
 * value, a delete, or the end; then the operands are folded, oldest first. Commonly there are
 * none and the value is handed out where it lies, pinned.
 */
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
    size_t memtable; /* next to look at: 0 is the active one */
    /* what was found */
    struct ikey found;
    const uint8_t *value;
    size_t value_len;
    struct cache_block *pin;
};

/* 0, -ENOENT at the end, or an error. After an operand the search goes on with what is older than that. */
static int search_next(struct search *s)
{
    s->pin = NULL;
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

int get_in_view(struct lsm *db, struct view *v, const void *key, size_t len, uint64_t seq, unsigned flags,
                struct lsm_value *out)
{
    struct search s = {.view = v, .key = key, .len = len, .seq = seq, .flags = flags};
    struct operands operands = {0};
    int err;
    while ((err = search_next(&s)) == 0 && s.found.type == ENTRY_MERGE) {
        err = operands_add(&operands, s.value, s.value_len, s.pin);
        if (err) {
            if (s.pin)
                cache_release(db->cache, s.pin);
            s.pin = NULL;
            break;
        }
        if (s.found.seq == 0) {
            err = -ENOENT;
            break;
        }
        s.seq = s.found.seq - 1;
    }
    bool exists = err == 0 && s.found.type == ENTRY_PUT;
    if (err == 0 && !exists) {
        if (s.found.type != ENTRY_DELETE)
            err = -ENOTSUP;
        if (s.pin)
            cache_release(db->cache, s.pin);
        s.pin = NULL;
        if (!err)
            err = -ENOENT;
    }
    if (operands.count && (err == 0 || err == -ENOENT)) {
        uint8_t *folded = NULL;
        err = fold(db, &operands, exists ? s.value : NULL, exists ? s.value_len : 0, &folded, &out->len);
        if (exists && s.pin)
            cache_release(db->cache, s.pin);
        if (!err) {
            out->data = folded;
            out->pin = folded;
            out->release = release_memory;
        }
        exists = false;
    }
    operands_free(db->cache, &operands);
    if (!exists) {
        view_unref(v);
        return err;
    }
    out->data = s.value;
    out->len = s.value_len;
    out->release = release_view;
    out->pin = v;
    out->pin2 = s.pin;
    return 0;
}

int lsm_get(struct lsm *db, const void *key, size_t key_len, const struct lsm_snapshot *snapshot,
            unsigned flags, struct lsm_value *out)
{
    *out = (struct lsm_value){0};
    struct shard *s = &db->shards[db_route(db, key, key_len)];
    uint64_t began = latency_begin(db->env, &s->turn[LSM_OP_GET]);
    struct view *v = view_get(s);
    uint64_t seq = snapshot ? snapshot->seq : db_frontier(db) - 1;
    int err = get_in_view(db, v, key, key_len, seq, flags, out);
    if (err != -EAGAIN) {
        latency_end(&s->latency[LSM_OP_GET], db->env, began);
        count_add(&db->gets, 1);
        if (!err)
            count_add(&db->gets_found, 1);
    }
    return err;
}

void lsm_value_release(struct lsm_value *value)
{
    if (value->release)
        value->release(value->pin, value->pin2);
    *value = (struct lsm_value){0};
}
