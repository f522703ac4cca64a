/*
 * edit.c - one edit of the version set as bytes, for a record of the manifest.
 *
 * An edit is a sequence of fields {tag varint, length varint, body}. Later releases add tags: an
 * unknown even tag may be skipped (and is lost at the next rollover), an unknown odd one means that
 * the edit can't be understood without it. Integers in bodies are varints.
 *
 *   tag  body                                                                        how often
 *    1   ADD: shard, level, number, bytes, entries, deletes, merges, key bytes,      any
 *             value bytes, smallest seq, largest seq, length of the smallest key,
 *             length of the largest key; then the bytes of both keys
 *    3   REMOVE: shard, level, number                                                any
 *    5   USE: a log segment put to use: number, base, salt, bytes, end               once
 *    7   LOG_END: number, end                                                        once
 *    9   SYNCED: lsn                                                                 once
 *   11   FLUSHED: shard, lsn                                                         once
 *   13   LOG_START: lsn                                                              once
 *   15   NEXT_NUMBER: above every file number handed out so far                      once
 *   17   BLOB_ADD: number, shard, salt of a blob file that may be written from now on any
 *   19   BLOB_REFS: number of a table of an ADD before it, then for each blob file   any
 *             that it names, ascending: number, pointers, bytes that they mean
 *   20   BLOB_PARTS: of what BLOB_REFS says of the table that was added last, the   after an ADD
 *             bytes that pointers to a part of an extent mean
 *   21   BLOB_REMOVE: number, shard of a blob file that nothing names any more       any
 *   25   RANGES: number of range deletes in the table that was added last, 1 if its  after an ADD
 *             largest key is not part of it, else 0
 *   26   SINCE: no delete in the table that was added last is older than this       after an ADD
 *             (seconds since 1970)
 *   33   NAME: seq, wall clock in ns; then the bytes of a snapshot's name            once
 *   35   DROP_NAME: the bytes of the name                                            once
 *
 * Everything decoded is checked here as far as one edit can be checked by itself: ranges, order of
 * the keys, no bytes left over.
 */
#include "coding.h"
#include "manifest.h"

#include <stdlib.h>

enum field_tag {
    FIELD_ADD = 1,
    FIELD_REMOVE = 3,
    FIELD_USE = 5,
    FIELD_LOG_END = 7,
    FIELD_SYNCED = 9,
    FIELD_FLUSHED = 11,
    FIELD_LOG_START = 13,
    FIELD_NEXT_NUMBER = 15,
    FIELD_BLOB_ADD = 17,
    FIELD_BLOB_REFS = 19,
    FIELD_BLOB_PARTS = 20,
    FIELD_BLOB_REMOVE = 21,
    FIELD_RANGES = 25,
    FIELD_SINCE = 26,
    FIELD_NAME = 33,
    FIELD_DROP_NAME = 35,
};

#define INTEGERS_MAX 13 /* of one field: those of ADD */

struct buffer {
    uint8_t *data;
    size_t len, capacity;
    bool failed; /* out of memory: later puts do nothing */
};

static void put_bytes(struct buffer *b, const void *bytes, size_t len)
{
    if (b->capacity - b->len < len && !b->failed) {
        size_t capacity = (b->len + len) * 2;
        uint8_t *data = realloc(b->data, capacity);
        b->failed = !data;
        if (data) {
            b->data = data;
            b->capacity = capacity;
        }
    }
    if (b->failed || !len)
        return;
    memcpy(b->data + b->len, bytes, len);
    b->len += len;
}

/* A field of n integers, followed by extra_bytes that the caller puts. */
static void put_field(struct buffer *b, enum field_tag tag, const uint64_t *integers, size_t n,
                      size_t extra_bytes)
{
    uint8_t head[2 * VARINT_MAX], body[INTEGERS_MAX * VARINT_MAX], *p = body;
    for (size_t i = 0; i < n; i++)
        p = put_varint(p, integers[i]);
    uint8_t *h = put_varint(put_varint(head, tag), (size_t)(p - body) + extra_bytes);
    put_bytes(b, head, (size_t)(h - head));
    put_bytes(b, body, (size_t)(p - body));
}

static void put_blob_refs(struct buffer *b, const struct table_meta *m)
{
    uint8_t refs[3 * VARINT_MAX];
    size_t bytes = 0;
    for (size_t i = 0; i < m->blob_count; i++)
        bytes +=
            varint_len(m->blobs[i].number) + varint_len(m->blobs[i].pointers) + varint_len(m->blobs[i].bytes);
    put_field(b, FIELD_BLOB_REFS, &m->number, 1, bytes);
    for (size_t i = 0; i < m->blob_count; i++) {
        uint8_t *p = put_varint(refs, m->blobs[i].number);
        p = put_varint(put_varint(p, m->blobs[i].pointers), m->blobs[i].bytes);
        put_bytes(b, refs, (size_t)(p - refs));
    }
}

static void put_add(struct buffer *b, const struct edit_file *f)
{
    const struct table_meta *m = &f->meta;
    uint64_t v[INTEGERS_MAX] = {f->shard,   f->level,        m->number,     m->bytes,       m->entries,
                                m->deletes, m->merges,       m->key_bytes,  m->value_bytes, m->seq_min,
                                m->seq_max, m->smallest_len, m->largest_len};
    put_field(b, FIELD_ADD, v, INTEGERS_MAX, (size_t)m->smallest_len + m->largest_len);
    put_bytes(b, m->smallest, m->smallest_len);
    put_bytes(b, m->largest, m->largest_len);
    if (m->range_deletes)
        put_field(b, FIELD_RANGES, (uint64_t[]){m->range_deletes, m->largest_exclusive}, 2, 0);
    if (m->deletes_since_s)
        put_field(b, FIELD_SINCE, &m->deletes_since_s, 1, 0);
    if (m->blob_count)
        put_blob_refs(b, m);
    if (m->part_bytes)
        put_field(b, FIELD_BLOB_PARTS, &m->part_bytes, 1, 0);
}

static void put_blob_fields(struct buffer *b, const struct edit *e)
{
    for (size_t i = 0; i < e->blob_add_count; i++)
        put_field(b, FIELD_BLOB_ADD,
                  (uint64_t[]){e->blob_add[i].number, e->blob_add[i].shard, e->blob_add[i].salt}, 3, 0);
    for (size_t i = 0; i < e->blob_remove_count; i++)
        put_field(b, FIELD_BLOB_REMOVE, (uint64_t[]){e->blob_remove[i].number, e->blob_remove[i].shard}, 2,
                  0);
}

static void put_log_fields(struct buffer *b, const struct edit *e)
{
    if (e->use)
        put_field(b, FIELD_USE,
                  (uint64_t[]){e->use->number, e->use->base, e->use->salt, e->use->bytes, e->use->end}, 5, 0);
    if (e->has_log_end)
        put_field(b, FIELD_LOG_END, (uint64_t[]){e->log_end_number, e->log_end}, 2, 0);
    if (e->synced)
        put_field(b, FIELD_SYNCED, &e->synced, 1, 0);
    if (e->has_flushed)
        put_field(b, FIELD_FLUSHED, (uint64_t[]){e->flushed_shard, e->flushed}, 2, 0);
    if (e->log_start)
        put_field(b, FIELD_LOG_START, &e->log_start, 1, 0);
}

static void put_names(struct buffer *b, const struct edit *e)
{
    const struct named_snapshot *n = e->name_taken;
    if (n) {
        put_field(b, FIELD_NAME, (uint64_t[]){n->seq, n->created_ns}, 2, strlen(n->name));
        put_bytes(b, n->name, strlen(n->name));
    }
    if (e->name_dropped) {
        put_field(b, FIELD_DROP_NAME, NULL, 0, strlen(e->name_dropped));
        put_bytes(b, e->name_dropped, strlen(e->name_dropped));
    }
}

int edit_encode(const struct edit *e, uint64_t next_number, uint8_t **out, size_t *len)
{
    struct buffer b = {0};
    for (size_t i = 0; i < e->remove_count; i++) {
        const struct edit_file *f = &e->remove[i];
        put_field(&b, FIELD_REMOVE, (uint64_t[]){f->shard, f->level, f->meta.number}, 3, 0);
    }
    for (size_t i = 0; i < e->add_count; i++)
        put_add(&b, &e->add[i]);
    put_blob_fields(&b, e);
    put_log_fields(&b, e);
    put_names(&b, e);
    if (next_number)
        put_field(&b, FIELD_NEXT_NUMBER, &next_number, 1, 0);
    int rc = b.failed ? -ENOMEM : b.len > MANIFEST_RECORD_MAX ? -E2BIG : 0;
    if (rc) {
        free(b.data);
        return rc;
    }
    *out = b.data;
    *len = b.len;
    return 0;
}

/* ---- decoding ---- */

static bool file_is_sane(const struct edit_file *f)
{
    return f->shard < SHARDS_MAX && f->level < LSM_LEVELS && f->meta.number > 0 &&
           f->meta.number <= FILE_NUMBER_MAX;
}

static bool meta_is_sane(const struct table_meta *m)
{
    int order = key_compare(m->smallest, m->smallest_len, m->largest, m->largest_len);
    return (m->entries > 0 || m->range_deletes > 0) && m->deletes <= m->entries &&
           m->merges <= m->entries - m->deletes && m->seq_min <= m->seq_max && m->seq_max <= SEQ_MAX &&
           (m->largest_exclusive ? order < 0 : order <= 0);
}

/* A zeroed slot at the end of the array, whose capacity is the next power of two of its count. */
static struct edit_file *new_slot(struct edit_file **files, size_t *count)
{
    if ((*count & (*count - 1)) == 0) {
        struct edit_file *grown = realloc(*files, (*count ? *count * 2 : 1) * sizeof **files);
        if (!grown)
            return NULL;
        *files = grown;
    }
    struct edit_file *slot = &(*files)[(*count)++];
    memset(slot, 0, sizeof *slot);
    return slot;
}

static uint8_t *copy_bytes(const void *bytes, size_t len)
{
    uint8_t *copy = malloc(len + 1); /* an empty key is not NULL */
    if (copy && len)
        memcpy(copy, bytes, len);
    return copy;
}

static unsigned read_index(struct reader *r)
{
    uint64_t v = read_varint(r);
    return v < 1000 ? (unsigned)v : 1000; /* over every limit of shards and levels */
}

static int read_keys(struct reader *r, struct table_meta *m)
{
    uint64_t smallest_len = read_varint(r), largest_len = read_varint(r);
    if (r->bad || smallest_len > LSM_KEY_MAX || largest_len > LSM_KEY_MAX)
        return -EUCLEAN;
    const void *smallest = read_bytes(r, smallest_len), *largest = read_bytes(r, largest_len);
    if (r->bad)
        return -EUCLEAN;
    m->smallest = copy_bytes(smallest, smallest_len);
    m->largest = copy_bytes(largest, largest_len);
    m->smallest_len = (uint32_t)smallest_len;
    m->largest_len = (uint32_t)largest_len;
    return m->smallest && m->largest ? 0 : -ENOMEM;
}

static int read_add(struct reader *r, struct edit *e)
{
    struct edit_file *f = new_slot(&e->add, &e->add_count);
    if (!f)
        return -ENOMEM;
    f->shard = read_index(r);
    f->level = read_index(r);
    struct table_meta *m = &f->meta;
    uint64_t *integers[] = {&m->number,    &m->bytes,       &m->entries, &m->deletes, &m->merges,
                            &m->key_bytes, &m->value_bytes, &m->seq_min, &m->seq_max};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++)
        *integers[i] = read_varint(r);
    int rc = read_keys(r, m);
    return rc ? rc : file_is_sane(f) ? 0 : -EUCLEAN; /* the rest when all that is said of it was read */
}

/* Says more of the table added last. */
static int read_ranges(struct reader *r, struct edit *e)
{
    if (!e->add_count || e->add[e->add_count - 1].meta.range_deletes)
        return -EUCLEAN;
    struct table_meta *m = &e->add[e->add_count - 1].meta;
    m->range_deletes = read_varint(r);
    uint64_t exclusive = read_varint(r);
    m->largest_exclusive = exclusive == 1;
    return m->range_deletes && exclusive <= 1 ? 0 : -EUCLEAN;
}

static int read_since(struct reader *r, struct edit *e)
{
    if (!e->add_count)
        return -EUCLEAN;
    e->add[e->add_count - 1].meta.deletes_since_s = read_varint(r);
    return 0;
}

static int read_blob_parts(struct reader *r, struct edit *e)
{
    if (!e->add_count)
        return -EUCLEAN;
    e->add[e->add_count - 1].meta.part_bytes = read_varint(r);
    return 0;
}

static int read_remove(struct reader *r, struct edit *e)
{
    struct edit_file *f = new_slot(&e->remove, &e->remove_count);
    if (!f)
        return -ENOMEM;
    f->shard = read_index(r);
    f->level = read_index(r);
    f->meta.number = read_varint(r);
    return file_is_sane(f) ? 0 : -EUCLEAN;
}

/* A zeroed slot at the end of the array, as new_slot. */
static struct blob_meta *new_blob(struct blob_meta **list, size_t *count)
{
    if ((*count & (*count - 1)) == 0) {
        struct blob_meta *grown = realloc(*list, (*count ? *count * 2 : 1) * sizeof **list);
        if (!grown)
            return NULL;
        *list = grown;
    }
    struct blob_meta *slot = &(*list)[(*count)++];
    memset(slot, 0, sizeof *slot);
    return slot;
}

static int read_blob(struct reader *r, struct blob_meta **list, size_t *count, bool with_salt)
{
    struct blob_meta *m = new_blob(list, count);
    if (!m)
        return -ENOMEM;
    m->number = read_varint(r);
    m->shard = read_index(r);
    m->salt = with_salt ? read_varint(r) : 0;
    return m->number && m->number <= FILE_NUMBER_MAX && m->shard < SHARDS_MAX ? 0 : -EUCLEAN;
}

static int read_blob_refs(struct reader *r, struct edit *e)
{
    uint64_t table = read_varint(r), last = 0;
    struct table_meta *m = e->add_count ? &e->add[e->add_count - 1].meta : NULL;
    if (r->bad || !m || m->number != table || m->blob_count)
        return -EUCLEAN;
    while (reader_left(r) > 0) {
        uint64_t number = read_varint(r), pointers = read_varint(r), bytes = read_varint(r);
        if (r->bad || number <= last || number > FILE_NUMBER_MAX || pointers == 0 || pointers > m->entries)
            return -EUCLEAN;
        int rc = table_meta_add_blob(m, number, bytes);
        if (rc)
            return rc;
        m->blobs[m->blob_count - 1].pointers = pointers;
        last = number;
    }
    return 0;
}

static int read_use(struct reader *r, struct decoded_edit *d)
{
    struct wal_use *u = &d->use;
    u->number = read_varint(r);
    u->base = read_varint(r);
    u->salt = read_varint(r);
    u->bytes = read_varint(r);
    u->end = read_varint(r);
    d->edit.use = u;
    bool sane = u->number && u->number <= FILE_NUMBER_MAX && u->base && u->base % 8 == 0 && u->bytes &&
                u->base <= SEQ_MAX && u->bytes <= SEQ_MAX &&
                (!u->end || (u->end >= u->base && u->end <= u->base + u->bytes));
    return sane ? 0 : -EUCLEAN;
}

/* The rest of a field. */
static int read_name(struct reader *r, char name[LSM_SNAPSHOT_NAME_MAX + 1])
{
    size_t len = reader_left(r);
    const char *bytes = read_bytes(r, len);
    if (r->bad || !named_is_valid(bytes, len))
        return -EUCLEAN;
    memcpy(name, bytes, len);
    name[len] = '\0';
    return 0;
}

static int read_taken_name(struct reader *r, struct decoded_edit *d)
{
    d->name_taken.seq = read_varint(r);
    d->name_taken.created_ns = read_varint(r);
    d->edit.name_taken = &d->name_taken;
    return d->name_taken.seq <= SEQ_MAX ? read_name(r, d->name_taken.name) : -EUCLEAN;
}

static int read_field(uint64_t tag, struct reader *r, struct decoded_edit *d)
{
    struct edit *e = &d->edit;
    switch (tag) {
    case FIELD_ADD: return read_add(r, e);
    case FIELD_REMOVE: return read_remove(r, e);
    case FIELD_USE: return read_use(r, d);
    case FIELD_LOG_END:
        e->has_log_end = true;
        e->log_end_number = read_varint(r);
        e->log_end = read_varint(r);
        return 0;
    case FIELD_SYNCED: e->synced = read_varint(r); return 0;
    case FIELD_FLUSHED:
        e->has_flushed = true;
        e->flushed_shard = read_index(r);
        e->flushed = read_varint(r);
        return e->flushed_shard < SHARDS_MAX ? 0 : -EUCLEAN;
    case FIELD_LOG_START: e->log_start = read_varint(r); return 0;
    case FIELD_NEXT_NUMBER:
        d->next_number = read_varint(r);
        return d->next_number <= FILE_NUMBER_MAX ? 0 : -EUCLEAN;
    case FIELD_BLOB_ADD: return read_blob(r, &e->blob_add, &e->blob_add_count, true);
    case FIELD_BLOB_REFS: return read_blob_refs(r, e);
    case FIELD_BLOB_PARTS: return read_blob_parts(r, e);
    case FIELD_BLOB_REMOVE: return read_blob(r, &e->blob_remove, &e->blob_remove_count, false);
    case FIELD_RANGES: return read_ranges(r, e);
    case FIELD_SINCE: return read_since(r, e);
    case FIELD_NAME: return read_taken_name(r, d);
    case FIELD_DROP_NAME: e->name_dropped = d->name_dropped; return read_name(r, d->name_dropped);
    default: return tag & 1 ? -ENOTSUP : 0;
    }
}

static bool is_single(uint64_t tag)
{
    return tag != FIELD_ADD && tag != FIELD_REMOVE && tag != FIELD_RANGES && tag != FIELD_BLOB_ADD &&
           tag != FIELD_BLOB_REFS && tag != FIELD_BLOB_REMOVE;
}

/* Fields other than those of files may stand once; `seen` has a bit for each tag below 64. */
static bool is_repeated(uint64_t tag, uint64_t *seen)
{
    if (!is_single(tag) || tag >= 64)
        return false;
    uint64_t bit = UINT64_C(1) << tag;
    bool repeated = *seen & bit;
    *seen |= bit;
    return repeated && (tag & 1);
}

int edit_decode(const uint8_t *payload, size_t len, struct decoded_edit *out)
{
    memset(out, 0, sizeof *out);
    struct reader r = reader_of(payload, len);
    uint64_t seen = 0;
    int rc = 0;
    while (!rc && reader_left(&r) > 0) {
        uint64_t tag = read_varint(&r), body_len = read_varint(&r);
        const void *body = read_bytes(&r, body_len);
        if (r.bad || is_repeated(tag, &seen)) {
            rc = -EUCLEAN;
            break;
        }
        struct reader field = reader_of(body, body_len);
        rc = read_field(tag, &field, out);
        if (!rc && (tag & 1) && (field.bad || reader_left(&field) > 0))
            rc = -EUCLEAN;
    }
    for (size_t i = 0; !rc && i < out->edit.add_count; i++)
        rc = meta_is_sane(&out->edit.add[i].meta) ? 0 : -EUCLEAN;
    if (rc)
        decoded_edit_free(out);
    return rc;
}

void decoded_edit_free(struct decoded_edit *d)
{
    for (size_t i = 0; i < d->edit.add_count; i++) {
        free(d->edit.add[i].meta.smallest);
        free(d->edit.add[i].meta.largest);
        free(d->edit.add[i].meta.blobs);
    }
    free(d->edit.blob_add);
    free(d->edit.blob_remove);
    free(d->edit.add);
    free(d->edit.remove);
    memset(d, 0, sizeof *d);
}
