/*
 * batch.c - building and reading batches. See batch.h for the format.
 */
#include "batch.h"
#include "blob_format.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define CAPACITY_FIRST 512u
#define LENT_FIRST 16u
#define CAPACITY_KEPT (1u << 20) /* lsm_batch_clear keeps up to this for the next use */

int lsm_batch_new(struct lsm_batch **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : -ENOMEM;
}

void lsm_batch_free(struct lsm_batch *batch)
{
    if (!batch)
        return;
    free(batch->bytes);
    free(batch->lent);
    free(batch);
}

void lsm_batch_clear(struct lsm_batch *batch)
{
    if (batch->capacity > CAPACITY_KEPT) {
        free(batch->bytes);
        batch->bytes = NULL;
        batch->capacity = 0;
    }
    batch->len = 0;
    batch->count = 0;
    batch->lent_count = 0;
    batch->lent_bytes = 0;
    batch->error = 0;
    batch->has_merge = batch->has_range = false;
    batch->parts = 0;
    batch->range_bytes = 0;
}

static bool grow(struct lsm_batch *batch, size_t need)
{
    if (batch->capacity - batch->len >= need)
        return true;
    size_t capacity = batch->capacity ? batch->capacity : CAPACITY_FIRST;
    while (capacity - batch->len < need)
        capacity *= 2;
    uint8_t *bytes = realloc(batch->bytes, capacity);
    if (!bytes) {
        batch->error = -ENOMEM;
        return false;
    }
    batch->bytes = bytes;
    batch->capacity = capacity;
    return true;
}

static void add(struct lsm_batch *batch, enum entry_type type, const void *key, size_t key_len,
                const void *value, size_t value_len)
{
    if (batch->error)
        return;
    if (key_len > LSM_KEY_MAX || value_len > LSM_VALUE_MAX || batch->count == UINT32_MAX) {
        batch->error = -E2BIG;
        return;
    }
    if (!grow(batch, BATCH_HEADER_BYTES + 1 + 2 * VARINT_MAX + key_len + value_len))
        return;
    if (!batch->len)
        batch->len = BATCH_HEADER_BYTES;
    uint8_t *p = batch_put_head(batch->bytes + batch->len, type, key, key_len, value_len);
    if (value_len)
        memcpy(p, value, value_len);
    p += value_len;
    batch->len = (size_t)(p - batch->bytes);
    batch->count++;
    put_le32(batch->bytes, batch->count);
}

void lsm_batch_put(struct lsm_batch *batch, const void *key, size_t key_len, const void *value,
                   size_t value_len)
{
    add(batch, ENTRY_PUT, key, key_len, value, value_len);
}

static bool grow_lent(struct lsm_batch *batch)
{
    if (batch->lent_count < batch->lent_capacity)
        return true;
    size_t capacity = batch->lent_capacity ? 2 * batch->lent_capacity : LENT_FIRST;
    struct batch_lent *lent = realloc(batch->lent, capacity * sizeof *lent);
    if (!lent) {
        batch->error = -ENOMEM;
        return false;
    }
    batch->lent = lent;
    batch->lent_capacity = capacity;
    return true;
}

void lsm_batch_put_lent(struct lsm_batch *batch, const void *key, size_t key_len, const void *head,
                        size_t head_len, const void *lent, size_t lent_len)
{
    if (batch->error || (lent_len && !grow_lent(batch)))
        return;
    if (head_len > LSM_VALUE_MAX || lent_len > LSM_VALUE_MAX - head_len) {
        batch->error = -E2BIG;
        return;
    }
    add(batch, ENTRY_PUT, key, key_len, head, head_len);
    if (batch->error || !lent_len)
        return;
    batch->lent[batch->lent_count++] = (struct batch_lent){batch->count - 1, lent, lent_len};
    batch->lent_bytes += lent_len + VARINT_MAX;
}

void lsm_batch_put_part(struct lsm_batch *batch, const void *key, size_t key_len, const struct lsm_ref *ref,
                        size_t from, size_t len)
{
    struct blob_pointer p;
    uint8_t pointer[BLOB_POINTER_MAX];
    static_assert(sizeof ref->bytes == BLOB_POINTER_MAX, "any pointer fits");
    if (batch->error)
        return;
    if (ref->len > sizeof ref->bytes || blob_pointer_decode(ref->bytes, ref->len, &p) || len == 0 ||
        from > p.length || len > p.length - from) {
        batch->error = -EINVAL;
        return;
    }
    p.from += (uint32_t)from;
    p.length = (uint32_t)len;
    add(batch, ENTRY_BLOB, key, key_len, pointer, blob_pointer_encode(&p, pointer));
    batch->parts++;
}

void lsm_batch_delete(struct lsm_batch *batch, const void *key, size_t key_len)
{
    add(batch, ENTRY_DELETE, key, key_len, NULL, 0);
}

void lsm_batch_merge(struct lsm_batch *batch, const void *key, size_t key_len, const void *operand,
                     size_t operand_len)
{
    add(batch, ENTRY_MERGE, key, key_len, operand, operand_len);
    batch->has_merge = true;
}

void lsm_batch_delete_range(struct lsm_batch *batch, const void *start, size_t start_len, const void *end,
                            size_t end_len, const void *route_key, size_t route_key_len)
{
    uint8_t value[VARINT_MAX + 2 * LSM_KEY_MAX];
    if (start_len > LSM_KEY_MAX || end_len > LSM_KEY_MAX || route_key_len > LSM_KEY_MAX) {
        batch->error = batch->error ? batch->error : -E2BIG;
        return;
    }
    if (key_compare(start, start_len, end, end_len) >= 0) /* empty */
        return;
    uint8_t *p = put_varint(value, route_key ? route_key_len + 1 : 0);
    if (route_key && route_key_len)
        memcpy(p, route_key, route_key_len);
    p += route_key ? route_key_len : 0;
    memcpy(p, end, end_len);
    p += end_len;
    add(batch, ENTRY_RANGE_DELETE, start, start_len, value, (size_t)(p - value));
    batch->has_range = true;
    batch->range_bytes += start_len + end_len;
}

unsigned lsm_batch_count(const struct lsm_batch *batch) { return batch->count; }

size_t lsm_batch_bytes(const struct lsm_batch *batch) { return batch->len + batch->lent_bytes; }

int batch_read_begin(struct batch_reader *br, const void *payload, size_t len)
{
    br->r = reader_of(payload, len);
    br->left = read_le32(&br->r);
    return br->r.bad || br->left > len ? -EBADMSG : 0;
}

/* What the value of a range delete says. */
static int read_range(struct batch_change *c)
{
    struct reader r = reader_of(c->value, c->value_len);
    uint64_t n = read_varint(&r);
    if (r.bad || n > LSM_KEY_MAX + 1 || (n && reader_left(&r) < n - 1))
        return -EBADMSG;
    c->route_len = n ? (size_t)n - 1 : 0;
    c->route = n ? r.p : NULL;
    c->value = r.p + c->route_len;
    c->value_len = (size_t)(r.end - c->value);
    return c->value_len <= LSM_KEY_MAX && key_compare(c->key, c->key_len, c->value, c->value_len) < 0
               ? 1
               : -EBADMSG;
}

int batch_read_next(struct batch_reader *br, struct batch_change *out)
{
    struct reader *r = &br->r;
    if (!br->left)
        return reader_left(r) ? -EBADMSG : 0;
    br->left--;
    uint8_t type = read_u8(r);
    uint64_t key_len = read_varint(r);
    uint64_t value_len = type == ENTRY_DELETE ? 0 : read_varint(r);
    if (r->bad || type > ENTRY_RANGE_DELETE || key_len > LSM_KEY_MAX || value_len > LSM_VALUE_MAX)
        return -EBADMSG;
    out->type = (enum entry_type)type;
    out->key_len = (size_t)key_len;
    out->value_len = (size_t)value_len;
    out->key = read_bytes(r, out->key_len);
    out->value = read_bytes(r, out->value_len);
    out->lent = out->route = NULL;
    out->lent_len = out->route_len = 0;
    if (r->bad)
        return -EBADMSG;
    struct blob_pointer p;
    if (type == ENTRY_BLOB && blob_pointer_decode(out->value, out->value_len, &p))
        return -EBADMSG;
    return type == ENTRY_RANGE_DELETE ? read_range(out) : 1;
}

void batch_built_begin(struct batch_built_reader *r, const struct lsm_batch *batch)
{
    *r = (struct batch_built_reader){.batch = batch};
    int err = batch_read_begin(&r->encoded, batch->bytes, batch->len);
    assert(!err);
}

bool batch_built_next(struct batch_built_reader *r, struct batch_change *out)
{
    const struct lsm_batch *b = r->batch;
    int more = batch_read_next(&r->encoded, out);
    assert(more >= 0);
    if (more && r->lent < b->lent_count && b->lent[r->lent].change == r->change) {
        out->lent = b->lent[r->lent].bytes;
        out->lent_len = b->lent[r->lent].len;
        r->lent++;
    }
    r->change++;
    return more > 0;
}
