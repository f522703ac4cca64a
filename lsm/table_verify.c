/*
 * table_verify.c - reading all of a table and checking all that its format promises.
 *
 * Past the cache, so that it is the medium that is checked: checksums of all blocks, that they tile
 * the file, order of entries, index keys, that the filter knows every key, counts and bounds.
 *
 * Threads: any.
 */
#include "blob_format.h"
#include "filter.h"
#include "table_read.h"
#include <errno.h>
#include <stdlib.h>

struct verifier {
    const struct table *table;
    struct table_layout layout; /* as the file says now */
    const uint8_t *filter;
    size_t filter_len;
    uint64_t expected;    /* offset at which the next block must begin */
    uint64_t data_blocks; /* seen */
    uint64_t bad_offset;
    struct table_meta seen;                 /* counts only */
    struct ikey last;                       /* entry or index key above it; its bytes are in last_key */
    bool reaches_smallest, reaches_largest; /* something in it does */
    bool between;                           /* `last` is a shortened index key: no entry has its user key */
    uint8_t last_key[LSM_KEY_MAX];
};

static int verify_failed(struct verifier *v, uint64_t offset, const char *what)
{
    v->bad_offset = offset;
    return logger_corrupt(&v->table->log, v->table->path, offset, "%s", what);
}

static void set_last(struct verifier *v, const struct ikey *k)
{
    v->last = *k;
    v->last.key = v->last_key;
    memcpy(v->last_key, k->key, k->len);
}

static int verify_entry(struct verifier *v, uint64_t offset, const struct block_iter *at)
{
    struct table_meta *m = &v->seen;
    const struct ikey *k = &at->key;
    if (m->entries > 0 && ikey_compare(&v->last, k) >= 0)
        return verify_failed(v, offset, "entries are out of order");
    if (v->between && key_compare(v->last.key, v->last.len, k->key, k->len) == 0)
        return verify_failed(v, offset, "an index key hides versions of a user key");
    if (k->type > ENTRY_BLOB)
        return verify_failed(v, offset, "an entry has a type that has no place there");
    if (m->entries == 0) {
        int c = key_compare(k->key, k->len, v->table->meta.smallest, v->table->meta.smallest_len);
        v->reaches_smallest |= c == 0;
        if (c < 0)
            return verify_failed(v, offset, "the first key is below the smallest one of the manifest");
    }
    if (filter_test(v->filter, v->filter_len, filter_hash(k->key, k->len)) != 1)
        return verify_failed(v, v->layout.filter.offset, "the filter denies a key that is there");
    if (m->entries == 0 || k->seq < m->seq_min)
        m->seq_min = k->seq;
    if (k->seq > m->seq_max)
        m->seq_max = k->seq;
    m->entries++;
    m->deletes += k->type == ENTRY_DELETE;
    m->merges += k->type == ENTRY_MERGE;
    if (k->type == ENTRY_BLOB) {
        struct blob_pointer p;
        if (blob_pointer_decode(at->value, at->value_len, &p))
            return verify_failed(v, offset, "an entry is no pointer into a blob file");
        int err = table_meta_add_blob(m, p.number, p.length);
        if (err)
            return err;
    }
    m->key_bytes += k->len;
    m->value_bytes += at->value_len;
    set_last(v, k);
    v->between = false;
    return 0;
}

static int verify_block(struct verifier *v, struct block_handle h, unsigned level);

/* An index entry, after its child: its key is the child's last, or of a user key above that. */
static int verify_index_key(struct verifier *v, uint64_t offset, const struct ikey *key)
{
    int c = key_compare(key->key, key->len, v->last.key, v->last.len);
    if (c < 0 || (c == 0 && key->seq != v->last.seq))
        return verify_failed(v, offset, "an index key is not that of its block");
    if (c > 0) {
        v->between = true;
        set_last(v, key); /* what follows must be above the index key, not just above the last entry */
    }
    return 0;
}

static int verify_child(struct verifier *v, struct block_handle h, unsigned level,
                        const struct block_iter *at)
{
    struct block_handle child;
    int err = table_child_handle(v->table, h.offset, at, &child);
    if (err) {
        v->bad_offset = h.offset;
        return err;
    }
    err = verify_block(v, child, level + 1);
    return err ? err : verify_index_key(v, h.offset, &at->key);
}

static int verify_walk(struct verifier *v, struct block_handle h, unsigned level, struct block_iter *at)
{
    int err = 0;
    bool data = level == v->layout.depth;
    for (block_iter_first(at); at->valid && !err;) {
        err = data ? verify_entry(v, h.offset, at) : verify_child(v, h, level, at);
        if (!err)
            block_iter_next(at);
    }
    if (!err && at->bad) {
        v->bad_offset = h.offset;
        err = table_bad_block(v->table, h.offset);
    }
    return err;
}

/* Reads a block past the cache, and all that is below it. Recursion is at most TABLE_LEVELS_MAX deep. */
static int verify_block(struct verifier *v, struct block_handle h, unsigned level)
{
    uint8_t *data = NULL;
    size_t len = 0;
    struct block_iter at;
    int err = table_read_block(v->table, h, NULL, &data, &len);
    if (!err && block_iter_init(&at, data, len))
        err = table_bad_block(v->table, h.offset);
    if (err) {
        v->bad_offset = h.offset;
        goto out;
    }
    err = verify_walk(v, h, level, &at);
    if (!err && h.offset != v->expected)
        err = verify_failed(v, h.offset, "there is a gap before a block, or it overlaps another one");
    v->expected = handle_end(h);
    v->data_blocks += level == v->layout.depth;
out:
    free(data);
    return err;
}

/* One entry of the range block, after `last`, which is zero at first. */
static int verify_range(struct verifier *v, const struct block_iter *at, const struct range_delete *last)
{
    const struct table_meta *b = &v->table->meta;
    struct table_meta *m = &v->seen;
    uint64_t offset = v->layout.ranges.offset;
    const struct ikey *k = &at->key;
    if (k->type != ENTRY_RANGE_DELETE || at->value_len > LSM_KEY_MAX ||
        key_compare(k->key, k->len, at->value, at->value_len) >= 0)
        return verify_failed(v, offset, "a range delete has impossible bounds");
    if (m->range_deletes > 0) {
        int c = key_compare(last->start, last->start_len, k->key, k->len);
        if (c == 0 ? k->seq >= last->seq || key_compare(last->end, last->end_len, at->value, at->value_len)
                   : key_compare(last->end, last->end_len, k->key, k->len) > 0)
            return verify_failed(v, offset, "range deletes are out of order or overlap");
    }
    int low = key_compare(k->key, k->len, b->smallest, b->smallest_len);
    int high = key_compare(at->value, at->value_len, b->largest, b->largest_len);
    if (low < 0 || high > 0)
        return verify_failed(v, offset, "a range delete reaches beyond the bounds of the manifest");
    v->reaches_smallest |= low == 0;
    v->reaches_largest |= high == 0 && b->largest_exclusive;
    if (m->entries + m->range_deletes == 0 || k->seq < m->seq_min)
        m->seq_min = k->seq;
    if (k->seq > m->seq_max)
        m->seq_max = k->seq;
    m->range_deletes++;
    return 0;
}

static int verify_ranges(struct verifier *v)
{
    uint8_t *data = NULL, start[LSM_KEY_MAX];
    struct range_delete last = {.start = start};
    struct block_iter at;
    struct block_handle h = v->layout.ranges;
    size_t len;
    v->bad_offset = h.offset;
    int err = table_read_block(v->table, h, NULL, &data, &len);
    if (!err && block_iter_init(&at, data, len))
        err = table_bad_block(v->table, h.offset);
    if (err)
        goto out;
    for (block_iter_first(&at); at.valid && !err; block_iter_next(&at)) {
        err = verify_range(v, &at, &last);
        memcpy(start, at.key.key, at.key.len);
        last = (struct range_delete){start, at.value, at.key.len, (uint32_t)at.value_len, at.key.seq};
    }
    if (!err && at.bad)
        err = table_bad_block(v->table, h.offset);
out:
    free(data);
    return err;
}

static int verify_totals(struct verifier *v, uint64_t data_blocks)
{
    const struct table *t = v->table;
    const struct table_meta *a = &v->seen, *b = &t->meta;
    if (a->entries != b->entries || a->deletes != b->deletes || a->merges != b->merges ||
        a->key_bytes != b->key_bytes || a->value_bytes != b->value_bytes || a->seq_min != b->seq_min ||
        a->seq_max != b->seq_max || a->range_deletes != b->range_deletes || v->data_blocks != data_blocks)
        return verify_failed(v, v->layout.properties.offset, "the counts are not those of the entries");
    if (!b->blobs_unknown &&
        (a->blob_count != b->blob_count ||
         (a->blob_count && memcmp(a->blobs, b->blobs, a->blob_count * sizeof *a->blobs) != 0)))
        return verify_failed(v, v->layout.properties.offset,
                             "what it names of blob files is not what the manifest says");
    /* The last index key is the last entry, so v->last is it. */
    int c = b->entries ? key_compare(v->last.key, v->last.len, b->largest, b->largest_len) : -1;
    if (c > 0 || !(c == 0 || v->reaches_largest) || !v->reaches_smallest)
        return verify_failed(v, v->layout.properties.offset,
                             "the first or last key is not that of the manifest");
    uint64_t tree_end = b->entries ? handle_end(v->layout.filter) : 0;
    if ((b->entries && v->expected != v->layout.filter.offset) ||
        (b->range_deletes && (tree_end != v->layout.ranges.offset ||
                              handle_end(v->layout.ranges) != v->layout.properties.offset)) ||
        (!b->range_deletes && tree_end != v->layout.properties.offset) ||
        handle_end(v->layout.properties) != b->bytes - TABLE_FOOTER_BYTES)
        return verify_failed(v, b->bytes - TABLE_FOOTER_BYTES, "there are bytes between the blocks");
    return 0;
}

int table_verify(struct table *t, uint64_t *bad_offset)
{
    *bad_offset = 0;
    if (t->damaged)
        return logger_corrupt(&t->log, t->path, 0, "the table could not be opened");
    struct verifier *v = calloc(1, sizeof(*v));
    if (!v)
        return -ENOMEM;
    uint8_t *filter = NULL;
    uint64_t data_blocks = 0;
    v->table = t;
    v->bad_offset = t->meta.bytes - TABLE_FOOTER_BYTES;
    int err = table_read_footer(t, &v->layout);
    if (err)
        goto out;
    v->bad_offset = v->layout.properties.offset;
    if ((err = table_read_properties(t, &v->layout, &data_blocks)))
        goto out;
    v->bad_offset = v->layout.filter.offset;
    if (t->meta.entries && (err = table_read_block(t, v->layout.filter, NULL, &filter, &v->filter_len)))
        goto out;
    v->filter = filter;
    if (t->meta.entries && (err = verify_block(v, v->layout.root, 0)))
        goto out;
    if (t->meta.range_deletes && (err = verify_ranges(v)))
        goto out;
    err = verify_totals(v, data_blocks);
out:
    if (err == -EIO)
        *bad_offset = v->bad_offset;
    free(filter);
    free(v->seen.blobs);
    free(v);
    return err;
}
