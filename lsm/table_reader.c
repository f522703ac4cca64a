/*
 * table_reader.c - reading a table: blocks, opening, point lookups. Iterators: table_iter.c.
 *
 * The format stands in table_format.h. An open table holds its descriptor, the manifest's word and
 * the footer's handles, nothing else: data, index and filter blocks come from the cache, where a
 * block gets in only after its checksum was verified, and are referenced while in use. Memory for a
 * block is taken only after its handle was found to lie inside the file.
 *
 * Every deviation is reported through logger_corrupt with file and offset and becomes -EIO. Blocks
 * are checked once more while they are walked over (block.h), because a checksum does not protect
 * from what a faulty writer has computed.
 *
 * Threads: any number may use an open table.
 */
#include "compress.h"
#include "filter.h"
#include "mutant.h"
#include "table_read.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define TABLE_PATH_MAX 4096u
#define CACHE_LINE_BYTES 64u
#define FILTER_FAILURES_MAX 8u /* one may be a passing error of the medium */

static void count32(uint32_t *counter) { __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

struct table_reads table_reader_stats_sum(const struct table_reader_stats *s)
{
    struct table_reads sum = {0};
    for (unsigned i = 0; i < SLOT_COUNT; i++) {
        const struct table_reads *n = &s->slot[i].n;
        sum.blocks_read += slot_get(&n->blocks_read);
        sum.block_bytes_read += slot_get(&n->block_bytes_read);
        sum.filter_checks += slot_get(&n->filter_checks);
        sum.filter_negatives += slot_get(&n->filter_negatives);
    }
    return sum;
}

/* ---- blocks ---- */

/* Memory for the contents of a block: aligned, so that a line of the filter is a line of the processor's cache. */
uint8_t *table_block_memory(size_t len)
{
    size_t room = (len + TABLE_TRAILER_BYTES + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    return aligned_alloc(CACHE_LINE_BYTES, room);
}

/* The bytes of a block as they are stored, its trailer behind them. *raw_len: of the contents. */
static int check_block(const struct table *t, struct block_handle h, const uint8_t *data, size_t *raw_len)
{
    const struct table_trailer *trailer = (const struct table_trailer *)(data + h.length);
    if (get_le64(trailer->checksum) != table_block_checksum(t->number, h.offset, data, h.length) &&
        !mutant("checksum of a block ignored") &&
        !(mutant("checksum of a packed block ignored") && trailer->compression))
        return logger_corrupt(&t->log, t->path, h.offset,
                              "checksum of a block of %" PRIu64 " bytes does not match", h.length);
    *raw_len = get_le32(trailer->raw_len);
    if (trailer->compression == TABLE_COMPRESSION_NONE) {
        if (*raw_len != h.length)
            return logger_corrupt(&t->log, t->path, h.offset, "a block's length is not that of its handle");
        return 0;
    }
    if (trailer->compression > TABLE_COMPRESSION_ZSTD) {
        logger_write(&t->log, LSM_LOG_ERROR,
                     "%s: the block at %" PRIu64 " has compression %u: a newer release has written it",
                     t->path, h.offset, trailer->compression);
        return -ENOTSUP;
    }
    if (!(t->layout.incompat & TABLE_COMPRESSED) ||
        !block_raw_len_is_sane(trailer->compression, data, h.length, *raw_len))
        return logger_corrupt(&t->log, t->path, h.offset, "a compressed block that can't be one");
    return 0;
}

/* The contents of a checked block; takes `owned` over, which may be where `stored` lies. */
static int unpack_block(const struct table *t, struct block_handle h, const uint8_t *stored, uint8_t *owned,
                        size_t raw_len, uint8_t **out)
{
    const struct table_trailer *trailer = (const struct table_trailer *)(stored + h.length);
    if (trailer->compression == TABLE_COMPRESSION_NONE && owned) {
        *out = owned;
        return 0;
    }
    uint8_t *data = table_block_memory(raw_len);
    int err = data ? 0 : -ENOMEM;
    if (!err && trailer->compression == TABLE_COMPRESSION_NONE)
        memcpy(data, stored, raw_len);
    else if (!err)
        err = block_decompress(trailer->compression, stored, h.length, data, raw_len);
    free(owned);
    if (!err) {
        *out = data;
        return 0;
    }
    free(data);
    return err == -EIO ? logger_corrupt(&t->log, t->path, h.offset,
                                        "a block with a good checksum can't be uncompressed")
                       : err;
}

/* With LSM_NOWAIT -EAGAIN, if the system does not have it in memory. */
static int read_stored(const struct table *t, struct block_handle h, unsigned flags, uint8_t **out)
{
    size_t len = h.length + TABLE_TRAILER_BYTES;
    uint8_t *data = table_block_memory(h.length);
    if (!data)
        return -ENOMEM;
    ssize_t n = flags & LSM_NOWAIT ? env_pread_nowait(t->file, data, len, h.offset)
                                   : env_pread(t->file, data, len, h.offset);
    if (n >= 0 && (size_t)n == len) {
        *out = data;
        return 0;
    }
    free(data);
    return n < 0 ? (int)n : logger_corrupt(&t->log, t->path, h.offset, "the file ends inside a block");
}

int table_take_stored(const struct table *t, struct block_handle h, const uint8_t *stored, uint8_t *owned,
                      uint8_t **out, size_t *len)
{
    int err = check_block(t, h, stored, len);
    if (err) {
        free(owned);
        return err;
    }
    err = unpack_block(t, h, stored, owned, *len, out);
    if (!err && t->stats) {
        unsigned slot = slot_mine();
        struct table_reads *n = &t->stats->slot[slot].n;
        slot_add(&n->blocks_read, slot, 1);
        slot_add(&n->block_bytes_read, slot, h.length + TABLE_TRAILER_BYTES);
    }
    return err;
}

/* A verified block in memory of its own; *out is malloc'ed. */
int table_read_block(const struct table *t, struct block_handle h, const struct table_window *w,
                     uint8_t **out, size_t *len)
{
    uint8_t *owned = NULL;
    if (w && window_has(w, h))
        return table_take_stored(t, h, w->buf + (h.offset - w->offset), NULL, out, len);
    int err = read_stored(t, h, 0, &owned);
    return err ? err : table_take_stored(t, h, owned, owned, out, len);
}

/* Reads a block that the cache does not have, and puts it there. */
int table_load_block(const struct table *t, struct block_handle h, const struct table_window *w, bool keep,
                     struct cache_block **out)
{
    uint8_t *data;
    size_t len;
    int err = table_read_block(t, h, w, &data, &len);
    if (err)
        return err;
    return cache_insert(t->cache, t->number, h.offset, data, len, keep, out);
}

int table_try_block(const struct table *t, struct block_handle h, bool keep, struct cache_block **out)
{
    uint8_t *data;
    size_t len;
    int err = read_stored(t, h, LSM_NOWAIT, &data);
    if (!err)
        err = table_take_stored(t, h, data, data, &data, &len);
    return err ? err : cache_insert(t->cache, t->number, h.offset, data, len, keep, out);
}

int table_get_block(const struct table *t, struct block_handle h, unsigned flags, bool keep,
                    struct cache_block **out)
{
    *out = cache_lookup(t->cache, t->number, h.offset);
    if (*out)
        return 0;
    if (!(flags & LSM_NOWAIT))
        return table_load_block(t, h, NULL, keep, out);
    if (!(flags & TABLE_NOTE))
        return table_try_block(t, h, keep, out);
    table_note(t, h);
    return -EAGAIN;
}

int table_bad_block(const struct table *t, uint64_t offset)
{
    return logger_corrupt(&t->log, t->path, offset, "a block with a good checksum has impossible contents");
}

/* A child's handle from an index entry; children stand before their parent. */
int table_child_handle(const struct table *t, uint64_t parent, const struct block_iter *at,
                       struct block_handle *out)
{
    struct reader r = reader_of(at->value, at->value_len);
    out->offset = read_varint(&r);
    out->length = read_varint(&r);
    if (r.bad || reader_left(&r) > 0 || out->length > TABLE_BLOCK_MAX || out->offset > parent ||
        handle_end(*out) > parent)
        return table_bad_block(t, parent);
    return 0;
}

/* ---- opening ---- */

/* A block of the footer: it must lie before `end`. */
static int footer_handle(const struct table_disk_handle *d, uint64_t end, struct block_handle *out)
{
    out->offset = get_le64(d->offset);
    out->length = get_le64(d->length);
    if (out->length > TABLE_BLOCK_MAX || out->offset > end || handle_end(*out) > end)
        return -EIO;
    return 0;
}

/* Filter and root. Both are zero in a table of nothing but ranges. */
static int check_tree(const struct table_footer *f, uint64_t end, struct table_layout *out)
{
    static const struct table_disk_handle zero;
    bool none = memcmp(&f->filter, &zero, sizeof(zero)) == 0 && memcmp(&f->root, &zero, sizeof(zero)) == 0;
    out->filter = out->root = (struct block_handle){0};
    if (none)
        return out->ranges.length > 0 && out->ranges.offset == 0 ? 0 : -EIO;
    int err = footer_handle(&f->filter, end, &out->filter);
    return err ? err : footer_handle(&f->root, out->filter.offset, &out->root);
}

static int check_footer(const struct table *t, const struct table_footer *f, uint64_t offset,
                        struct table_layout *out)
{
    if (memcmp(f->magic, TABLE_MAGIC, sizeof(f->magic)) != 0)
        return logger_corrupt(&t->log, t->path, offset, "this is not a table: wrong magic in the footer");
    if (get_le64(f->checksum) != table_footer_checksum(f, offset))
        return logger_corrupt(&t->log, t->path, offset, "the footer's checksum does not match");
    if (get_le32(f->version) > TABLE_VERSION || (get_le32(f->incompat) & ~TABLE_INCOMPAT_KNOWN)) {
        logger_write(&t->log, LSM_LOG_ERROR,
                     "%s: version %u with features %#x was written by a newer release", t->path,
                     get_le32(f->version), get_le32(f->incompat));
        return -ENOTSUP;
    }
    if (get_le64(f->number) != t->number)
        return logger_corrupt(&t->log, t->path, offset, "the file is table %" PRIu64 ", not %" PRIu64,
                              get_le64(f->number), t->number);
    out->depth = get_le32(f->index_depth);
    out->incompat = get_le32(f->incompat);
    out->ranges = (struct block_handle){0};
    uint64_t before = 0; /* where the properties begin, or the ranges */
    if (footer_handle(&f->properties, offset, &out->properties) == 0)
        before = out->properties.offset;
    if (out->incompat & TABLE_RANGE_DELETES) {
        if (footer_handle(&f->ranges, before, &out->ranges) || out->ranges.length == 0)
            return logger_corrupt(&t->log, t->path, offset, "the footer has impossible contents");
        before = out->ranges.offset;
    }
    if (get_le32(f->version) == 0 || out->depth == 0 || out->depth > TABLE_INDEX_DEPTH_MAX ||
        get_le64(f->file_bytes) != t->meta.bytes || footer_handle(&f->properties, offset, &out->properties) ||
        check_tree(f, before, out) || out->properties.length > TABLE_PROPERTIES_MAX)
        return logger_corrupt(&t->log, t->path, offset, "the footer has impossible contents");
    return 0;
}

int table_read_footer(const struct table *t, struct table_layout *out)
{
    uint64_t size;
    int err = env_size(t->file, &size);
    if (err)
        return err;
    if (size != t->meta.bytes || size < TABLE_FOOTER_BYTES)
        return logger_corrupt(&t->log, t->path, size,
                              "the file has %" PRIu64 " bytes, the manifest says %" PRIu64, size,
                              t->meta.bytes);
    struct table_footer f;
    uint64_t offset = size - sizeof(f);
    ssize_t n = env_pread(t->file, &f, sizeof(f), offset);
    if (n < 0)
        return (int)n;
    if ((size_t)n != sizeof(f))
        return logger_corrupt(&t->log, t->path, offset, "the file ends inside the footer");
    return check_footer(t, &f, offset, out);
}

/* What stands behind the keys is that of a table with range deletes, or nothing. */
static bool range_properties_match(const uint8_t *at, size_t len, const struct table_meta *m)
{
    const struct table_range_properties *p = (const struct table_range_properties *)at;
    if (!m->range_deletes)
        return len == 0;
    return len == sizeof(*p) && get_le64(p->range_deletes) == m->range_deletes &&
           p->largest_exclusive == m->largest_exclusive;
}

static bool properties_match(const struct table_properties *p, size_t len, const struct table_meta *m)
{
    if (len < sizeof(*p))
        return false;
    uint32_t smallest = get_le32(p->smallest_len), largest = get_le32(p->largest_len);
    const uint8_t *keys = (const uint8_t *)(p + 1);
    return smallest == m->smallest_len && largest == m->largest_len &&
           len >= sizeof(*p) + (uint64_t)smallest + largest &&
           range_properties_match(keys + smallest + largest, len - sizeof(*p) - smallest - largest, m) &&
           memcmp(keys, m->smallest, smallest) == 0 && memcmp(keys + smallest, m->largest, largest) == 0 &&
           get_le64(p->entries) == m->entries && get_le64(p->deletes) == m->deletes &&
           get_le64(p->merges) == m->merges && get_le64(p->key_bytes) == m->key_bytes &&
           get_le64(p->value_bytes) == m->value_bytes && get_le64(p->seq_min) == m->seq_min &&
           get_le64(p->seq_max) == m->seq_max;
}

/* The footer names a range block, and a tree, if and only if the properties speak of what is in them. */
static bool has_what_it_says(const struct table_layout *l, const struct table_meta *m)
{
    return (l->ranges.length > 0) == (m->range_deletes > 0) && (l->root.length > 0) == (m->entries > 0);
}

int table_read_properties(const struct table *t, const struct table_layout *layout, uint64_t *data_blocks)
{
    uint8_t *data;
    size_t len;
    struct block_handle h = layout->properties;
    int err = table_read_block(t, h, NULL, &data, &len);
    if (err)
        return err;
    const struct table_properties *p = (const struct table_properties *)data;
    if (properties_match(p, len, &t->meta) && has_what_it_says(layout, &t->meta))
        *data_blocks = get_le64(p->data_blocks);
    else
        err = logger_corrupt(&t->log, t->path, h.offset, "the properties are not those in the manifest");
    free(data);
    return err;
}

/* A table without file and layout. */
static int table_new(const struct table_options *options, uint64_t number, struct table **out)
{
    char path[TABLE_PATH_MAX];
    if (strlen(options->dir) + 32 > sizeof(path))
        return -ENAMETOOLONG;
    table_path(options->dir, number, path, sizeof(path));
    struct table *t = calloc(1, sizeof(*t) + strlen(path) + 1);
    if (!t)
        return -ENOMEM;
    memcpy(t->path, path, strlen(path));
    t->cache = options->cache;
    t->stats = options->stats;
    t->log = options->log;
    t->number = number;
    *out = t;
    return 0;
}

int table_open(const struct table_options *options, const struct table_meta *meta, struct table **out)
{
    struct table *t;
    int err = table_new(options, meta->number, &t);
    if (err)
        return err;
    uint64_t data_blocks;
    err = table_meta_copy(meta, &t->meta);
    if (!err)
        err = env_open(options->env, t->path, ENV_READ, &t->file);
    if (!err)
        err = table_read_footer(t, &t->layout);
    if (!err)
        err = table_read_properties(t, &t->layout, &data_blocks);
    if (err) {
        table_close(t);
        return err;
    }
    *out = t;
    return 0;
}

int table_open_damaged(const struct table_options *options, const struct table_meta *meta, struct table **out)
{
    struct table *t;
    int err = table_new(options, meta->number, &t);
    if (err)
        return err;
    err = table_meta_copy(meta, &t->meta);
    if (err) {
        table_close(t);
        return err;
    }
    t->damaged = -EIO;
    *out = t;
    return 0;
}

bool table_is_damaged(const struct table *t) { return t->damaged != 0; }
const struct table_meta *table_meta_of(const struct table *t) { return &t->meta; }

static int take_properties(struct table *t)
{
    uint8_t *data;
    size_t len;
    struct block_handle h = t->layout.properties;
    int err = table_read_block(t, h, NULL, &data, &len);
    if (err)
        return err;
    const struct table_properties *p = (const struct table_properties *)data;
    struct table_meta *m = &t->meta;
    uint64_t smallest = len < sizeof(*p) ? 0 : get_le32(p->smallest_len);
    uint64_t largest = len < sizeof(*p) ? 0 : get_le32(p->largest_len);
    size_t more = t->layout.ranges.length ? sizeof(struct table_range_properties) : 0;
    if (len < sizeof(*p) || smallest > LSM_KEY_MAX || largest > LSM_KEY_MAX ||
        len != sizeof(*p) + smallest + largest + more) {
        free(data);
        return table_bad_block(t, h.offset);
    }
    m->blobs_unknown = true;
    m->entries = get_le64(p->entries);
    m->deletes = get_le64(p->deletes);
    m->merges = get_le64(p->merges);
    m->key_bytes = get_le64(p->key_bytes);
    m->value_bytes = get_le64(p->value_bytes);
    m->seq_min = get_le64(p->seq_min);
    m->seq_max = get_le64(p->seq_max);
    if (more) {
        const struct table_range_properties *rp =
            (const struct table_range_properties *)(data + sizeof(*p) + smallest + largest);
        m->range_deletes = get_le64(rp->range_deletes);
        m->largest_exclusive = rp->largest_exclusive;
    }
    struct table_meta borrowed = *m;
    borrowed.smallest = data + sizeof(*p);
    borrowed.largest = borrowed.smallest + smallest;
    borrowed.smallest_len = (uint32_t)smallest;
    borrowed.largest_len = (uint32_t)largest;
    err = table_meta_copy(&borrowed, m);
    free(data);
    return err;
}

int table_read_meta(const struct table_options *options, uint64_t number, struct table_meta *out)
{
    struct table *t;
    int err = table_new(options, number, &t);
    if (err)
        return err;
    t->meta.number = number;
    err = env_open(options->env, t->path, ENV_READ, &t->file);
    if (!err)
        err = env_size(t->file, &t->meta.bytes);
    if (!err)
        err = table_read_footer(t, &t->layout);
    if (!err)
        err = take_properties(t);
    if (!err) {
        *out = t->meta;
        memset(&t->meta, 0, sizeof(t->meta)); /* the keys have a new owner */
    }
    table_close(t);
    return err;
}

void table_close(struct table *t)
{
    if (!t)
        return;
    env_close(t->file);
    table_meta_free(&t->meta);
    free(t);
}

/* ---- one key ---- */

/*
 * The filter only spares reading: without it nothing is wrong, just slower. The damage was reported;
 * after a few failures in succession it is not asked any more, so as to report no further ones.
 */
static int filter_failed(struct table *t)
{
    count32(&t->filter_failures);
    return 0;
}

/* -ENOENT: the filter knows that the key is not here. */
static int ask_filter(struct table *t, const void *key, size_t len, unsigned flags)
{
    struct cache_block *block;
    if (__atomic_load_n(&t->filter_failures, __ATOMIC_RELAXED) >= FILTER_FAILURES_MAX)
        return 0;
    int err = table_get_block(t, t->layout.filter, flags, true, &block);
    if (err)
        return err == -EIO ? filter_failed(t) : err;
    int found = filter_test(block->data, block->len, filter_hash(key, len));
    cache_release(t->cache, block);
    if (found < 0) {
        (void)table_bad_block(t, t->layout.filter.offset);
        return filter_failed(t);
    }
    if (__atomic_load_n(&t->filter_failures, __ATOMIC_RELAXED))
        __atomic_store_n(&t->filter_failures, 0, __ATOMIC_RELAXED);
    if (t->stats) {
        unsigned slot = slot_mine();
        struct table_reads *n = &t->stats->slot[slot].n;
        slot_add(&n->filter_checks, slot, 1);
        if (!found)
            slot_add(&n->filter_negatives, slot, 1);
    }
    return found ? 0 : -ENOENT;
}

/* Puts `it` on the first entry >= target of a block that *block keeps alive. -ENOENT: there is none. */
static int seek_block(const struct table *t, struct block_handle h, bool keep, unsigned flags,
                      const struct ikey *target, struct block_iter *it, struct cache_block **block)
{
    int err = table_get_block(t, h, flags, keep, block);
    if (err)
        return err;
    if (block_iter_init(it, (*block)->data, (*block)->len) == 0)
        block_iter_seek(it, target);
    if (it->valid)
        return 0;
    err = it->bad ? table_bad_block(t, h.offset) : -ENOENT;
    cache_release(t->cache, *block);
    *block = NULL;
    return err;
}

int table_get(struct table *t, const void *key, size_t len, uint64_t seq, unsigned flags,
              struct ikey *out_key, const uint8_t **value, size_t *value_len, struct cache_block **pin)
{
    if (len > LSM_KEY_MAX)
        return -ENOENT;
    if (t->damaged)
        return logger_corrupt(&t->log, t->path, 0,
                              "the table is damaged as a whole, what may lie in it can't be read");
    if (t->meta.entries == 0)
        return -ENOENT;
    int err = ask_filter(t, key, len, flags);
    if (err)
        return err;
    struct ikey target = {.key = key, .len = (uint32_t)len, .seq = seq < SEQ_MAX ? seq : SEQ_MAX};
    struct block_handle h = t->layout.root;
    struct block_iter it;
    struct cache_block *block;
    for (unsigned level = 0; level < t->layout.depth; level++) {
        err = seek_block(t, h, true, flags, &target, &it, &block);
        if (err)
            return err;
        err = table_child_handle(t, h.offset, &it, &h);
        cache_release(t->cache, block);
        if (err)
            return err;
    }
    /*
     * The one data block whose index key is the first >= target. If all of it is below the target,
     * the index key is no entry but lies between two user keys: the next block has none of this one.
     */
    err = seek_block(t, h, !(flags & LSM_NOFILL), flags, &target, &it, &block);
    if (err)
        return err;
    if (key_compare(it.key.key, it.key.len, key, len) != 0) {
        cache_release(t->cache, block);
        return -ENOENT;
    }
    *out_key = it.key;
    out_key->key = key; /* the same bytes, which live longer than the iterator's */
    *value = it.value;
    *value_len = it.value_len;
    *pin = block;
    return 0;
}

void table_release(struct table *t, struct cache_block *pin)
{
    if (pin)
        cache_release(t->cache, pin);
}
