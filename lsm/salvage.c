/*
 * salvage.c - see salvage.h.
 */
#include "salvage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

uint64_t salvage_route(lsm_route_fn route, void *arg, const void *key, size_t len)
{
    return route ? route(arg, key, len) : XXH3_64bits(key, len);
}

struct operand {
    uint8_t *data;
    size_t len;
};

struct run {
    const struct salvage *s;
    struct compact_result *out;
    struct salvaged *counts;
    struct table_builder *builder;
    uint8_t key[LSM_KEY_MAX];
    struct ikey at; /* the key being worked on, with its newest seq; its bytes are in `key` */
    /* the versions of the key, newest first: operands, then what they apply to */
    struct operand *operands;
    size_t operand_count, operand_capacity;
    uint8_t *base; /* if base_type is ENTRY_BLOB, the pointer */
    size_t base_len;
    enum entry_type base_type;
    bool has_base;
    uint64_t last_seq; /* of the version taken last */
    uint64_t decided;  /* seq of the value or delete that decides; 0: none was found */
    uint64_t cover;    /* the newest range delete of the key; 0: none */
};

/* ---- writing ---- */

static int finish_table(struct run *r)
{
    struct compact_result *out = r->out;
    if (!r->builder)
        return 0;
    struct table_meta *grown = realloc(out->tables, (out->count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    out->tables = grown;
    int err = table_builder_finish(r->builder, &out->tables[out->count]);
    if (err)
        return err;
    r->builder = NULL;
    out->bytes_written += out->tables[out->count].bytes;
    out->count++;
    return 0;
}

static int put(struct run *r, enum entry_type type, const void *value, size_t len)
{
    const struct salvage *s = r->s;
    int err = 0;
    if (r->builder && table_builder_bytes(r->builder) >= s->table_bytes)
        err = finish_table(r);
    if (!err && !r->builder) {
        struct table_builder_options o = {.env = s->env,
                                          .dir = s->dir,
                                          .block_bytes = s->block_bytes,
                                          .compression = s->compression,
                                          .filter_bits = s->filter_bits};
        err = table_builder_new(&o, vset_new_number(s->numbers), &r->builder);
    }
    r->at.type = (uint8_t)type;
    if (!err)
        err = table_builder_add(r->builder, &r->at, value, len);
    r->counts->saved += !err;
    return err;
}

/* ---- the value, by an open store ---- */

static int resolve_by_store(struct run *r, struct iter *input)
{
    struct lsm_value v = {0};
    uint8_t pointer[BLOB_POINTER_MAX];
    size_t pointer_len = 0;
    /* The store's answer is read through this pointer, if it answers: what could say otherwise would make it -EIO. */
    if (input->key.type == ENTRY_BLOB && input->value_len <= sizeof pointer) {
        pointer_len = input->value_len;
        memcpy(pointer, input->value, pointer_len);
    }
    while (input->valid && key_compare(input->key.key, input->key.len, r->key, r->at.len) == 0)
        iter_next(input);
    int err = lsm_get(r->s->db, r->key, r->at.len, NULL, LSM_NOFILL, &v);
    if (!err && pointer_len)
        err = put(r, ENTRY_BLOB, pointer, pointer_len);
    else if (!err)
        err = put(r, ENTRY_PUT, v.data, v.len);
    else if (err == -EIO)
        r->counts->lost++;
    lsm_value_release(&v);
    return err == -EIO || err == -ENOENT ? 0 : err;
}

/* ---- the value, by seqs ---- */

static int copy_bytes(const uint8_t *from, size_t len, uint8_t **out)
{
    *out = malloc(len + 1);
    if (!*out)
        return -ENOMEM;
    if (len)
        memcpy(*out, from, len);
    return 0;
}

static int take_version(struct run *r, const struct iter *it)
{
    /* One change may be in the log and in a table. */
    if (r->decided || it->key.seq == r->last_seq)
        return 0;
    r->last_seq = it->key.seq;
    if (it->key.seq < r->cover) {
        r->decided = r->cover;
        return 0;
    }
    if (it->key.type != ENTRY_MERGE) {
        r->decided = it->key.seq ? it->key.seq : 1;
        r->has_base = it->key.type == ENTRY_PUT || it->key.type == ENTRY_BLOB;
        r->base_type = (enum entry_type)it->key.type;
        r->base_len = r->has_base ? it->value_len : 0;
        return r->has_base ? copy_bytes(it->value, it->value_len, &r->base) : 0;
    }
    if (r->operand_count == r->operand_capacity) {
        size_t capacity = r->operand_capacity ? r->operand_capacity * 2 : 16;
        struct operand *grown = realloc(r->operands, capacity * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        r->operands = grown;
        r->operand_capacity = capacity;
    }
    struct operand *o = &r->operands[r->operand_count];
    int err = copy_bytes(it->value, it->value_len, &o->data);
    if (err)
        return err;
    o->len = it->value_len;
    r->operand_count++;
    return 0;
}

static void forget_versions(struct run *r)
{
    for (size_t i = 0; i < r->operand_count; i++)
        free(r->operands[i].data);
    r->operand_count = 0;
    free(r->base);
    r->base = NULL;
    r->has_base = false;
    r->decided = 0;
    r->last_seq = UINT64_MAX;
}

/* Whether a version above the one that decides may be in a part of this table that can't be read. */
static int may_hide_version(const struct run *r, struct table *t, bool *hidden)
{
    uint64_t seq = SEQ_MAX;
    *hidden = false;
    for (;;) {
        struct ikey found;
        const uint8_t *value;
        size_t len;
        struct cache_block *pin = NULL;
        int err = table_get(t, r->key, r->at.len, seq, LSM_NOFILL, &found, &value, &len, &pin);
        if (err == -EIO)
            *hidden = true;
        if (err)
            return err == -EIO || err == -ENOENT ? 0 : err;
        table_release(t, pin);
        if (found.type != ENTRY_MERGE || found.seq <= r->decided || found.seq == 0)
            return 0;
        seq = found.seq - 1;
    }
}

static int is_hidden(const struct run *r, bool *hidden)
{
    *hidden = false;
    for (size_t i = 0; !*hidden && i < r->s->damaged_count; i++) {
        const struct table_meta *m = table_meta_of(r->s->damaged[i]);
        if (m->seq_max <= r->decided || key_compare(m->smallest, m->smallest_len, r->key, r->at.len) > 0 ||
            key_compare(m->largest, m->largest_len, r->key, r->at.len) < 0)
            continue;
        uint64_t cover;
        int err = m->range_deletes
                      ? table_cover(r->s->damaged[i], r->key, r->at.len, SEQ_MAX, LSM_NOFILL, &cover, NULL)
                      : 0;
        if (err == -EIO) { /* it may have been deleted */
            *hidden = true;
            return 0;
        }
        if (!err)
            err = may_hide_version(r, r->s->damaged[i], hidden);
        if (err)
            return err;
    }
    return 0;
}

/* Folds the operands over the base, oldest first, and writes what comes out. */
static int put_folded(struct run *r)
{
    size_t len = r->base_len, room = len;
    for (size_t i = 0; i < r->operand_count; i++)
        room = r->operands[i].len > room ? r->operands[i].len : room;
    uint8_t *a = malloc(room + 1), *b = malloc(room + 1);
    int err = a && b ? 0 : -ENOMEM;
    const uint8_t *base = r->has_base ? r->base : NULL;
    enum entry_type type = r->has_base ? r->base_type : ENTRY_PUT;
    if (type == ENTRY_BLOB && r->operand_count)
        type = ENTRY_PUT;
    for (size_t i = r->operand_count; !err && i-- > 0;) {
        len = r->s->merge(r->s->callback_arg, base, base ? len : 0, false, r->operands[i].data,
                          r->operands[i].len, b);
        uint8_t *t = a;
        a = b;
        b = t;
        base = a;
    }
    if (!err)
        err = put(r, type, base, len);
    free(a);
    free(b);
    return err;
}

/* Reads what the base's pointer means; in its place, if operands are to be folded over it. -EIO: it is lost. */
static int read_base(struct run *r)
{
    struct blob_pointer p;
    struct blob_file *f =
        blob_pointer_decode(r->base, r->base_len, &p) ? NULL : r->s->blob(r->s->blob_arg, p.number);
    uint8_t *value = f ? malloc((size_t)p.length + 1) : NULL;
    int err = !f ? -EIO : value ? blob_read(f, &p, 0, p.length, BLOB_QUIET, value) : -ENOMEM;
    if (!err && r->operand_count) {
        uint8_t *pointer = r->base;
        r->base = value;
        r->base_len = p.length;
        value = pointer;
    }
    free(value);
    return err;
}

static int resolve_by_seq(struct run *r, struct iter *input)
{
    bool hidden = false;
    int err = 0;
    r->cover = r->s->ranges ? ranges_cover(r->s->ranges, r->key, r->at.len, SEQ_MAX) : 0;
    while (!err && input->valid && key_compare(input->key.key, input->key.len, r->key, r->at.len) == 0) {
        err = take_version(r, input);
        iter_next(input);
    }
    if (!err)
        err = is_hidden(r, &hidden);
    if (!err && !hidden && r->has_base && r->base_type == ENTRY_BLOB) {
        err = read_base(r);
        hidden = err == -EIO;
        err = hidden ? 0 : err;
    }
    if (!err && hidden)
        r->counts->lost++;
    else if (!err && r->operand_count && !r->s->merge)
        err = -EINVAL;
    else if (!err && (r->has_base || r->operand_count))
        err = put_folded(r);
    forget_versions(r);
    return err;
}

/* ---- the loop ---- */

static bool is_wanted(const struct salvage *s, const struct ikey *key)
{
    return !s->shards || salvage_route(s->route, s->callback_arg, key->key, key->len) % s->shards == s->shard;
}

int salvage_run(const struct salvage *s, struct iter *input, struct compact_result *out,
                struct salvaged *counts)
{
    struct run *r = calloc(1, sizeof *r);
    memset(out, 0, sizeof *out);
    if (!r)
        return -ENOMEM;
    r->s = s;
    r->out = out;
    r->counts = counts;
    r->last_seq = UINT64_MAX;
    int err = 0;
    for (iter_first(input); !err && input->valid;) {
        if (!is_wanted(s, &input->key)) {
            iter_next(input);
            continue;
        }
        r->at = input->key;
        memcpy(r->key, input->key.key, input->key.len);
        r->at.key = r->key;
        r->at.type = ENTRY_PUT;
        err = s->db ? resolve_by_store(r, input) : resolve_by_seq(r, input);
    }
    if (!err)
        err = input->status;
    if (!err)
        err = finish_table(r);
    table_builder_abort(r->builder);
    free(r->operands);
    free(r);
    if (err)
        compact_result_discard(s->env, s->dir, out);
    return err;
}
