/*
 * bucket.c - see bucket.h, which holds the format.
 *
 * Threads: a bucket belongs to one.
 */
#include "bucket.h"
#include "store.h"
#include "nowait.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define BUCKET_VERSION 1
#define INDEX_MASK 0x3f
#define HAS_RECORD 0x40
static_assert(BUCKET_ENTRIES_MAX == INDEX_MASK + 1, "an index has six bits");

static uint64_t id_fold(fs_id dir, fs_id id) { return id ^ (uint64_t)id_vshard(dir) << 52; }

static bool type_valid(uint32_t type)
{
    switch (type) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFIFO:
    case S_IFSOCK:
    case S_IFCHR:
    case S_IFBLK: return true;
    default: return false;
    }
}

static bool read_entry(struct reader *r, fs_id dir, struct bucket_entry *e)
{
    uint8_t head = read_u8(r);

    e->index = head & INDEX_MASK;
    e->type = (uint32_t)read_u8(r) << 12;
    e->name_len = read_u8(r);
    e->name = read_bytes(r, e->name_len);
    e->id = id_fold(dir, read_varint(r));
    e->record = NULL;
    e->record_len = 0;
    if (head & HAS_RECORD) {
        uint64_t len = read_varint(r);
        e->record_len = (uint32_t)len;
        e->record = read_bytes(r, len > UINT32_MAX ? SIZE_MAX : (size_t)len);
        r->bad |= e->type == S_IFDIR;
    }
    if (r->bad || head > (HAS_RECORD | INDEX_MASK) || !type_valid(e->type))
        return false;
    /* What the kernel believes of us: no name leads anywhere else, nothing is an id with a meaning of its own. */
    uint64_t serial = e->id & ID_SERIAL_MASK;
    return fs_name_check(e->name, e->name_len, -EINVAL) == 0 && serial >= ID_SERIAL_FIRST &&
           serial < FS_ID_TEXT_FIRST;
}

int bucket_decode(const void *bytes, size_t len, struct bucket *b)
{
    struct reader r = reader_of(bytes, len);

    b->count = 0;
    if (read_u8(&r) != BUCKET_VERSION || reader_left(&r) == 0)
        return -EIO;
    while (reader_left(&r) > 0) {
        struct bucket_entry *e = &b->entry[b->count];
        if (b->count == BUCKET_ENTRIES_MAX || !read_entry(&r, b->dir, e))
            return -EIO;
        if (b->count > 0 && e->index <= e[-1].index)
            return -EIO;
        b->count++;
    }
    return 0;
}

int bucket_load(struct fs *fs, fs_id dir, uint64_t hash, struct bucket *out)
{
    struct key key = key_bucket(dir, hash);

    out->dir = dir;
    out->hash = hash;
    out->count = 0;
    out->value = (struct lsm_value){0};
    int r = lsm_get(fs->db, key.bytes, key.len, NULL, nowait_flags(), &out->value);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    if (bucket_decode(out->value.data, out->value.len, out) < 0) {
        out->count = 0;
        return fs_damaged(fs, &key, "directory entries can't be decoded");
    }
    return 0;
}

void bucket_release(struct bucket *b)
{
    lsm_value_release(&b->value);
    b->count = 0;
}

struct bucket_entry *bucket_find(struct bucket *b, const char *name, size_t len)
{
    for (unsigned i = 0; i < b->count; i++)
        if (b->entry[i].name_len == len && memcmp(b->entry[i].name, name, len) == 0)
            return &b->entry[i];
    return NULL;
}

struct bucket_entry *bucket_at(struct bucket *b, unsigned index)
{
    for (unsigned i = 0; i < b->count; i++)
        if (b->entry[i].index == index)
            return &b->entry[i];
    return NULL;
}

int bucket_free_index(const struct bucket *b)
{
    unsigned index = 0;

    while (index < b->count && b->entry[index].index == index)
        index++;
    return index < BUCKET_ENTRIES_MAX ? (int)index : -ENOSPC;
}

void bucket_add(struct bucket *b, const struct bucket_entry *entry)
{
    unsigned at = 0;

    assert(b->count < BUCKET_ENTRIES_MAX && entry->index < BUCKET_ENTRIES_MAX && entry->name_len > 0);
    while (at < b->count && b->entry[at].index < entry->index)
        at++;
    assert(at == b->count || b->entry[at].index != entry->index);
    memmove(&b->entry[at + 1], &b->entry[at], (b->count - at) * sizeof(b->entry[0]));
    b->entry[at] = *entry;
    b->count++;
}

void bucket_remove(struct bucket *b, unsigned index)
{
    struct bucket_entry *e = bucket_at(b, index);

    assert(e);
    b->count--;
    memmove(e, e + 1, (size_t)(&b->entry[b->count] - e) * sizeof(*e));
}

static uint8_t *put_entry(uint8_t *p, fs_id dir, const struct bucket_entry *e)
{
    *p++ = (uint8_t)(e->index | (e->record ? HAS_RECORD : 0));
    *p++ = (uint8_t)(e->type >> 12);
    *p++ = e->name_len;
    memcpy(p, e->name, e->name_len);
    p = put_varint(p + e->name_len, id_fold(dir, e->id));
    if (e->record) {
        p = put_varint(p, e->record_len);
        memcpy(p, e->record, e->record_len);
        p += e->record_len;
    }
    return p;
}

size_t bucket_encoded_max(const struct bucket *b)
{
    size_t max = 1;
    for (unsigned i = 0; i < b->count; i++)
        max += 3u + b->entry[i].name_len + 2 * VARINT_MAX + b->entry[i].record_len;
    return max;
}

size_t bucket_encode(const struct bucket *b, uint8_t *out)
{
    uint8_t *p = out;
    *p++ = BUCKET_VERSION;
    for (unsigned i = 0; i < b->count; i++)
        p = put_entry(p, b->dir, &b->entry[i]);
    assert((size_t)(p - out) <= bucket_encoded_max(b));
    return (size_t)(p - out);
}

int bucket_put(const struct bucket *b, struct lsm_batch *batch)
{
    struct key key = key_bucket(b->dir, b->hash);

    if (b->count == 0) {
        lsm_batch_delete(batch, key.bytes, key.len);
        return 0;
    }
    uint8_t *value = malloc(bucket_encoded_max(b));
    if (!value)
        return -ENOMEM;
    lsm_batch_put(batch, key.bytes, key.len, value, bucket_encode(b, value));
    free(value);
    return 0;
}
