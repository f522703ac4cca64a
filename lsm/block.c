/*
 * block.c - building and walking over sorted blocks. See block.h.
 */
#include "block.h"
#include "coding.h"
#include "table_format.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define BLOCK_KEEP_MAX \
    (1u << 20) /* a buffer that one huge value has blown up is not kept for the next block */
#define ENTRY_HEAD_MAX (3 * VARINT_MAX + 8)
#define ENTRY_TYPE_MAX ENTRY_RANGE_DELETE /* which of them may be in which block is for the reader to say */

/* ---- building ---- */

void block_builder_init(struct block_builder *b, uint32_t restart_every)
{
    assert(restart_every > 0);
    memset(b, 0, offsetof(struct block_builder, last_key));
    b->restart_every = restart_every;
}

void block_builder_free(struct block_builder *b)
{
    free(b->buf);
    free(b->restarts);
    b->buf = NULL;
    b->restarts = NULL;
}

void block_builder_reset(struct block_builder *b)
{
    if (b->cap > BLOCK_KEEP_MAX) {
        free(b->buf);
        b->buf = NULL;
        b->cap = 0;
    }
    b->len = 0;
    b->restart_count = 0;
    b->since_restart = 0;
    b->count = 0;
    b->last_len = 0;
}

static int reserve_bytes(struct block_builder *b, size_t more)
{
    if (b->cap - b->len >= more)
        return 0;
    size_t cap = b->cap * 2 > b->len + more ? b->cap * 2 : b->len + more;
    uint8_t *p = realloc(b->buf, cap);
    if (!p)
        return -ENOMEM;
    b->buf = p;
    b->cap = cap;
    return 0;
}

static int reserve_restart(struct block_builder *b)
{
    if (b->restart_count < b->restart_cap)
        return 0;
    size_t cap = b->restart_cap ? b->restart_cap * 2 : 64;
    uint32_t *p = realloc(b->restarts, cap * sizeof(*p));
    if (!p)
        return -ENOMEM;
    b->restarts = p;
    b->restart_cap = cap;
    return 0;
}

static uint32_t common_prefix(const uint8_t *a, uint32_t alen, const uint8_t *b, uint32_t blen)
{
    uint32_t n = alen < blen ? alen : blen, i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

size_t block_entry_bytes(size_t key_len, size_t value_len)
{
    return 1 + varint_len(key_len) + varint_len(value_len) + 8 + key_len + value_len + sizeof(uint32_t);
}

size_t block_builder_bytes(const struct block_builder *b)
{
    return b->len + (b->restart_count + 1) * sizeof(uint32_t);
}

int block_builder_add(struct block_builder *b, const struct ikey *key, const void *value, size_t value_len)
{
    assert(key->len <= LSM_KEY_MAX && value_len <= LSM_VALUE_MAX);
    assert(key->seq <= SEQ_MAX && key->type <= ENTRY_TYPE_MAX);
    int err = reserve_bytes(b, ENTRY_HEAD_MAX + key->len + value_len);
    if (!err)
        err = reserve_restart(b);
    if (err)
        return err;

    uint32_t shared = 0;
    if (b->count == 0 || b->since_restart == b->restart_every ||
        b->len - b->restart_at >= BLOCK_RESTART_BYTES) {
        b->restarts[b->restart_count++] = (uint32_t)b->len;
        b->restart_at = b->len;
        b->since_restart = 0;
    } else {
        shared = common_prefix(b->last_key, b->last_len, key->key, key->len);
    }
    uint8_t *p = b->buf + b->len;
    p = put_varint(p, shared);
    p = put_varint(p, key->len - shared);
    p = put_varint(p, value_len);
    put_le64(p, key->seq << 8 | key->type);
    p += 8;
    if (key->len > shared)
        memcpy(p, key->key + shared, key->len - shared);
    p += key->len - shared;
    if (value_len)
        memcpy(p, value, value_len);
    b->len = (size_t)(p - b->buf) + value_len;

    if (key->len > shared)
        memcpy(b->last_key + shared, key->key + shared, key->len - shared);
    b->last_len = key->len;
    b->last_seq = key->seq;
    b->since_restart++;
    b->count++;
    return 0;
}

int block_builder_finish(struct block_builder *b)
{
    assert(b->count > 0);
    int err = reserve_bytes(b, (b->restart_count + 1) * sizeof(uint32_t) + TABLE_TRAILER_BYTES);
    if (err)
        return err;
    for (size_t i = 0; i < b->restart_count; i++, b->len += sizeof(uint32_t))
        put_le32(b->buf + b->len, b->restarts[i]);
    put_le32(b->buf + b->len, (uint32_t)b->restart_count);
    b->len += sizeof(uint32_t);
    return 0;
}

/* ---- reading ---- */

static void set_bad(struct block_iter *it)
{
    it->bad = true;
    it->valid = false;
}

int block_iter_init(struct block_iter *it, const uint8_t *data, size_t len)
{
    memset(it, 0, offsetof(struct block_iter, buf));
    it->key.key = it->buf;
    it->bad = true;
    if (len < 2 * sizeof(uint32_t) || len > TABLE_BLOCK_MAX)
        return -EIO;
    uint32_t count = get_le32(data + len - sizeof(uint32_t));
    size_t room = len - sizeof(uint32_t);
    if (count == 0 || count > room / sizeof(uint32_t))
        return -EIO;
    it->data = data;
    it->restart_count = count;
    it->limit = (uint32_t)(room - count * sizeof(uint32_t));
    it->restarts = data + it->limit;
    if (it->limit == 0 || get_le32(it->restarts) != 0)
        return -EIO;
    it->bad = false;
    return 0;
}

static uint32_t restart_offset(const struct block_iter *it, uint32_t i)
{
    return get_le32(it->restarts + i * sizeof(uint32_t));
}

/* The fixed part of an entry; key suffix and value are known to lie inside the block. */
struct entry_head {
    uint64_t shared, unshared, value_len, seq_type;
    const uint8_t *suffix;
};

/* As nearly all are: lengths of one byte, or two for the value's, and room for the longest such head. */
static bool decode_short_head(const uint8_t *p, size_t left, struct entry_head *e)
{
    if (left < 4 + 8 || (p[0] | p[1]) & 0x80 || (p[2] & p[3] & 0x80))
        return false;
    e->shared = p[0];
    e->unshared = p[1];
    e->value_len = p[2];
    p += 3;
    if (e->value_len & 0x80)
        e->value_len = (e->value_len & 0x7f) | (uint64_t)*p++ << 7;
    e->seq_type = get_le64(p);
    e->suffix = p + 8;
    return true;
}

static bool decode_head(const struct block_iter *it, uint32_t offset, struct entry_head *e)
{
    if (offset >= it->limit)
        return false;
    if (decode_short_head(it->data + offset, it->limit - offset, e))
        return e->unshared + e->value_len <= (size_t)(it->data + it->limit - e->suffix) &&
               (e->seq_type & 0xff) <= ENTRY_TYPE_MAX;
    struct reader r = reader_of(it->data + offset, it->limit - offset);
    e->shared = read_varint(&r);
    e->unshared = read_varint(&r);
    e->value_len = read_varint(&r);
    e->seq_type = read_le64(&r);
    e->suffix = r.p;
    size_t left = reader_left(&r);
    return !r.bad && e->unshared <= left && e->value_len <= left - e->unshared &&
           e->value_len <= LSM_VALUE_MAX && (e->seq_type & 0xff) <= ENTRY_TYPE_MAX;
}

/* Makes the entry at `offset` current; buf holds the key of the entry before it (key.len bytes). */
static void load_entry(struct block_iter *it, uint32_t offset)
{
    struct entry_head e;
    if (!decode_head(it, offset, &e) || e.shared > it->key.len || e.unshared > LSM_KEY_MAX - e.shared) {
        set_bad(it);
        return;
    }
    memcpy(it->buf + e.shared, e.suffix, e.unshared);
    it->key.len = (uint32_t)(e.shared + e.unshared);
    it->key.seq = e.seq_type >> 8;
    it->key.type = (uint8_t)e.seq_type;
    it->value = e.suffix + e.unshared;
    it->value_len = e.value_len;
    it->at = offset;
    it->next = (uint32_t)(it->value - it->data + e.value_len);
    it->valid = true;
}

static void load_restart(struct block_iter *it, uint32_t i)
{
    it->key.len = 0; /* so that load_entry refuses a shared prefix */
    load_entry(it, restart_offset(it, i));
}

void block_iter_next(struct block_iter *it)
{
    assert(it->valid);
    if (it->next == it->limit)
        it->valid = false;
    else
        load_entry(it, it->next);
}

void block_iter_first(struct block_iter *it)
{
    it->valid = false;
    if (!it->bad)
        load_restart(it, 0);
}

void block_iter_last(struct block_iter *it)
{
    it->valid = false;
    if (it->bad)
        return;
    load_restart(it, it->restart_count - 1);
    while (it->valid && it->next < it->limit)
        load_entry(it, it->next);
}

/* The last restart before `offset`, which is above 0. */
static uint32_t restart_before(const struct block_iter *it, uint32_t offset)
{
    uint32_t low = 0, high = it->restart_count;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (restart_offset(it, mid) < offset)
            low = mid;
        else
            high = mid;
    }
    return low;
}

void block_iter_prev(struct block_iter *it)
{
    assert(it->valid);
    uint32_t here = it->at;
    if (here == 0) {
        it->valid = false;
        return;
    }
    load_restart(it, restart_before(it, here));
    while (it->valid && it->next < here)
        load_entry(it, it->next);
    if (it->valid && it->next != here)
        set_bad(it);
}

/* Compares the key at a restart, in place; sets bad if there is none. */
static int compare_restart(struct block_iter *it, uint32_t i, const struct ikey *target)
{
    struct entry_head e;
    if (!decode_head(it, restart_offset(it, i), &e) || e.shared != 0 || e.unshared > LSM_KEY_MAX) {
        set_bad(it);
        return 0;
    }
    struct ikey k = {.key = e.suffix, .len = (uint32_t)e.unshared, .seq = e.seq_type >> 8};
    return ikey_compare(&k, target);
}

void block_iter_seek(struct block_iter *it, const struct ikey *target)
{
    it->valid = false;
    if (it->bad)
        return;
    /* The last restart below the target; what is looked for is behind it, or it is the very first entry. */
    uint32_t low = 0, high = it->restart_count;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        int c = compare_restart(it, mid, target);
        if (it->bad)
            return;
        if (c < 0)
            low = mid;
        else
            high = mid;
    }
    load_restart(it, low);
    while (it->valid && ikey_compare(&it->key, target) < 0)
        block_iter_next(it);
}
