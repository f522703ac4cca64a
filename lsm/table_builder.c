/*
 * table_builder.c - writing a table: a stream of sorted entries in, a complete and synced file out.
 *
 * The format stands in table_format.h. In memory are: the unfinished data block, one unfinished
 * index block per level, the range block, the write buffer, and 8 bytes per user key for the filter. The filter itself
 * comes to life in table_builder_finish. Writes have TABLE_WRITE_BYTES each, the last one excepted.
 *
 * The first error sticks: every later call returns it, and only table_builder_abort remains.
 *
 * Threads: a builder belongs to one.
 */
#include "blob_format.h"
#include "block.h"
#include "compress.h"
#include "filter.h"
#include "mutant.h"
#include "table.h"
#include "table_format.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define TABLE_WRITE_BYTES (256u << 10)
/*
 * So much of it is given to the medium while the next part is made. The sync at the end is the longest time in which a
 * compaction lets no flush in: of an 8 MiB table 7 instead of 39 ms (ext4, busy machine), the whole table 490 instead of 540.
 */
#define TABLE_WRITE_OUT_BYTES (1u << 20)
#define TABLE_PATH_MAX 4096u
#define BLOCK_BYTES_DEFAULT (8u << 10)
#define BLOCK_BYTES_MIN 256u
#define BLOCK_BYTES_MAX (1u << 20)
#define HASHES_AHEAD_MAX (1u << 20) /* expected_entries is a hint: no more than 8 MiB are taken on its word */

struct table_builder {
    struct env *env;
    struct env_file *file;
    char *path;
    uint64_t number;
    size_t block_bytes;
    int error; /* the first one */

    uint8_t *out;        /* write buffer, TABLE_WRITE_BYTES */
    size_t out_len;      /* filled */
    uint64_t out_offset; /* where it goes in the file */
    uint64_t given_out;  /* to the medium, up to here */

    struct block_builder data;
    struct block_builder index[TABLE_INDEX_DEPTH_MAX]; /* [0] holds the handles of data blocks */
    unsigned depth;                                    /* levels in use, at least 1 */
    struct block_builder ranges;
    struct range_delete last_range; /* its keys are in range_start and range_end */
    uint8_t range_start[LSM_KEY_MAX], range_end[LSM_KEY_MAX], range_first[LSM_KEY_MAX];
    uint32_t range_first_len;

    uint64_t *hashes; /* of the different user keys */
    size_t hash_count, hash_cap;

    unsigned filter_bits;
    enum table_compression compression;
    struct compressor *compressor; /* owned; NULL: none */
    uint32_t features;             /* enum table_feature, for the footer */
    struct table_writer_stats *stats;
    uint64_t raw_bytes, stored_bytes;

    uint64_t data_blocks;
    struct table_meta meta; /* grows along; `largest` is set at the end */
    uint32_t last_len;
    uint64_t last_seq;
    uint8_t last_key[LSM_KEY_MAX];
};

/* ---- what the manifest keeps ---- */

void table_meta_free(struct table_meta *m)
{
    free(m->smallest);
    free(m->largest);
    free(m->blobs);
    m->smallest = m->largest = NULL;
    m->smallest_len = m->largest_len = 0;
    m->blobs = NULL;
    m->blob_count = 0;
}

/* The place of `number` in the ascending list. */
static size_t find_blob(const struct table_meta *m, uint64_t number)
{
    size_t from = 0, to = m->blob_count;
    if (to && m->blobs[to - 1].number < number) /* what was written last is mostly in the newest file */
        return to;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (m->blobs[mid].number < number)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

int table_meta_add_blob(struct table_meta *m, uint64_t number, uint64_t bytes)
{
    size_t at = find_blob(m, number), n = m->blob_count;
    if (at == n || m->blobs[at].number != number) {
        if ((n & (n - 1)) == 0) {
            struct blob_ref *grown = realloc(m->blobs, (n ? n * 2 : 1) * sizeof *grown);
            if (!grown)
                return -ENOMEM;
            m->blobs = grown;
        }
        memmove(&m->blobs[at + 1], &m->blobs[at], (n - at) * sizeof m->blobs[0]);
        m->blobs[at] = (struct blob_ref){.number = number};
        m->blob_count++;
    }
    m->blobs[at].pointers++;
    m->blobs[at].bytes += bytes;
    return 0;
}

static int copy_blobs(const struct table_meta *from, struct table_meta *to)
{
    size_t capacity = 1;
    if (!from->blob_count)
        return 0;
    while (capacity < from->blob_count)
        capacity *= 2;
    to->blobs = malloc(capacity * sizeof *to->blobs);
    if (!to->blobs)
        return -ENOMEM;
    memcpy(to->blobs, from->blobs, from->blob_count * sizeof *to->blobs);
    to->blob_count = from->blob_count;
    return 0;
}

static int copy_key(const void *key, uint32_t len, uint8_t **out)
{
    *out = malloc(len ? len : 1);
    if (!*out)
        return -ENOMEM;
    if (len)
        memcpy(*out, key, len);
    return 0;
}

int table_meta_copy(const struct table_meta *from, struct table_meta *to)
{
    *to = *from;
    to->smallest = to->largest = NULL;
    to->blobs = NULL;
    to->blob_count = 0;
    int err = copy_key(from->smallest, from->smallest_len, &to->smallest);
    if (!err)
        err = copy_key(from->largest, from->largest_len, &to->largest);
    if (!err)
        err = copy_blobs(from, to);
    if (err)
        table_meta_free(to);
    return err;
}

void table_path(const char *dir, uint64_t number, char *buf, size_t size)
{
    snprintf(buf, size, "%s/%06" PRIu64 ".sst", dir, number);
}

/* ---- creating and releasing ---- */

static void release(struct table_builder *b)
{
    env_close(b->file);
    block_builder_free(&b->data);
    block_builder_free(&b->ranges);
    for (unsigned i = 0; i < TABLE_INDEX_DEPTH_MAX; i++)
        block_builder_free(&b->index[i]);
    table_meta_free(&b->meta);
    compressor_free(b->compressor);
    free(b->hashes);
    free(b->out);
    free(b->path);
    free(b);
}

static size_t clamp_block_bytes(size_t n)
{
    if (n == 0)
        return BLOCK_BYTES_DEFAULT;
    return n < BLOCK_BYTES_MIN ? BLOCK_BYTES_MIN : n > BLOCK_BYTES_MAX ? BLOCK_BYTES_MAX : n;
}

static int allocate(struct table_builder *b, const struct table_builder_options *options)
{
    char path[TABLE_PATH_MAX];
    if (strlen(options->dir) + 32 > sizeof(path))
        return -ENAMETOOLONG;
    table_path(options->dir, b->number, path, sizeof(path));
    b->path = strdup(path);
    b->out = malloc(TABLE_WRITE_BYTES);
    uint64_t ahead = options->expected_entries;
    b->hash_cap = ahead == 0 ? 1024 : ahead > HASHES_AHEAD_MAX ? HASHES_AHEAD_MAX : (size_t)ahead;
    b->hashes = malloc(b->hash_cap * sizeof(*b->hashes));
    return b->path && b->out && b->hashes ? 0 : -ENOMEM;
}

int table_builder_new(const struct table_builder_options *options, uint64_t number,
                      struct table_builder **out)
{
    struct table_builder *b = calloc(1, sizeof(*b));
    if (!b)
        return -ENOMEM;
    b->env = options->env;
    b->number = number;
    b->block_bytes = clamp_block_bytes(options->block_bytes);
    b->depth = 1;
    block_builder_init(&b->data, BLOCK_RESTART_DATA);
    block_builder_init(&b->ranges, 1);
    for (unsigned i = 0; i < TABLE_INDEX_DEPTH_MAX; i++)
        block_builder_init(&b->index[i], BLOCK_RESTART_INDEX);
    b->filter_bits = options->filter_bits;
    b->compression = options->compression;
    b->stats = options->stats;
    int err = allocate(b, options);
    if (!err)
        err = compressor_new(options->compression, &b->compressor);
    if (!err)
        err = env_open(b->env, b->path, ENV_WRITE | ENV_CREATE | ENV_TRUNC, &b->file);
    if (err) {
        release(b);
        return err;
    }
    *out = b;
    return 0;
}

void table_builder_abort(struct table_builder *b)
{
    if (!b)
        return;
    env_close(b->file);
    b->file = NULL;
    /* If that fails, the manifest still does not name the file: opening the store deletes it. */
    (void)env_unlink(b->env, b->path);
    release(b);
}

/* ---- bytes into the file ---- */

static uint64_t position(const struct table_builder *b) { return b->out_offset + b->out_len; }

static int flush_out(struct table_builder *b)
{
    if (b->out_len == 0)
        return 0;
    int err = env_pwrite(b->file, b->out, b->out_len, b->out_offset);
    if (err)
        return err;
    b->out_offset += b->out_len;
    b->out_len = 0;
    if (b->out_offset - b->given_out >= TABLE_WRITE_OUT_BYTES) {
        env_write_out(b->file, b->given_out, b->out_offset - b->given_out);
        b->given_out = b->out_offset;
    }
    return 0;
}

static int append(struct table_builder *b, const void *data, size_t len)
{
    const uint8_t *p = data;
    while (len > 0) {
        size_t n = TABLE_WRITE_BYTES - b->out_len;
        if (n > len)
            n = len;
        memcpy(b->out + b->out_len, p, n);
        b->out_len += n;
        p += n;
        len -= n;
        if (b->out_len == TABLE_WRITE_BYTES) {
            int err = flush_out(b);
            if (err)
                return err;
        }
    }
    return 0;
}

/* Appends the bytes of a block as they are to be stored; data has room for the trailer behind its len bytes. */
static int append_stored(struct table_builder *b, uint8_t *data, size_t len, enum table_compression how,
                         size_t raw_len, struct block_handle *out)
{
    *out = (struct block_handle){position(b), len};
    struct table_trailer trailer = {.compression = (uint8_t)how};
    put_le32(trailer.raw_len, (uint32_t)raw_len);
    memcpy(data + len, &trailer, TABLE_TRAILER_BYTES);
    put_le64(trailer.checksum, table_block_checksum(b->number, out->offset, data, len));
    memcpy(data + len, &trailer, TABLE_TRAILER_BYTES);
    return append(b, data, len + TABLE_TRAILER_BYTES);
}

/* Appends a block as it is. */
static int append_block(struct table_builder *b, uint8_t *data, size_t len, struct block_handle *out)
{
    return len > TABLE_BLOCK_MAX ? -EFBIG : append_stored(b, data, len, TABLE_COMPRESSION_NONE, len, out);
}

/* Of data or index: packed where that pays. */
static int finish_block(struct table_builder *b, struct block_builder *block, struct block_handle *out)
{
    uint8_t *packed;
    int err = block_builder_finish(block);
    if (err)
        return err;
    size_t n = compressor_pack(b->compressor, block->buf, block->len, &packed);
    err = n ? append_stored(b, packed, n, b->compression, block->len, out)
            : append_block(b, block->buf, block->len, out);
    if (err)
        return err;
    if (n)
        b->features |= TABLE_COMPRESSED;
    b->raw_bytes += block->len;
    b->stored_bytes += out->length;
    return 0;
}

/* ---- index ---- */

static int index_add(struct table_builder *b, unsigned level, const struct ikey *key,
                     struct block_handle child);

/* Writes an index block and tells the level above. */
static int index_cut(struct table_builder *b, unsigned level)
{
    struct block_builder *block = &b->index[level];
    struct block_handle handle;
    int err = finish_block(b, block, &handle);
    if (err)
        return err;
    struct ikey last = {block->last_key, block->last_len, ENTRY_PUT, block->last_seq};
    err = index_add(b, level + 1, &last, handle);
    block_builder_reset(block);
    return err;
}

/* Recursion ends at TABLE_INDEX_DEPTH_MAX. */
static int index_add(struct table_builder *b, unsigned level, const struct ikey *key,
                     struct block_handle child)
{
    if (level == TABLE_INDEX_DEPTH_MAX)
        return -EFBIG;
    if (level + 1 > b->depth)
        b->depth = level + 1;
    uint8_t value[2 * VARINT_MAX];
    uint8_t *end = put_varint(put_varint(value, child.offset), child.length);
    struct block_builder *block = &b->index[level];
    int err = block_builder_add(block, key, value, (size_t)(end - value));
    if (!err && block_builder_bytes(block) >= TABLE_INDEX_BYTES)
        err = index_cut(b, level);
    return err;
}

/* Writes what is left of every level; the topmost is the root. */
static int index_finish(struct table_builder *b, struct block_handle *root)
{
    for (unsigned level = 0; level + 1 < b->depth; level++) {
        if (b->index[level].count > 0) {
            int err = index_cut(b, level);
            if (err)
                return err;
        }
    }
    assert(b->index[b->depth - 1].count > 0); /* a level that was cut has made the one above it */
    return finish_block(b, &b->index[b->depth - 1], root);
}

/*
 * A short user key that is above `last` and below `next` goes to buf; false if there is none that is
 * shorter than last. As in LevelDB: the first byte that differs, plus one.
 */
static bool shorten(const struct ikey *last, const struct ikey *next, uint8_t *buf, uint32_t *len)
{
    uint32_t n = last->len < next->len ? last->len : next->len, i = 0;
    while (i < n && last->key[i] == next->key[i])
        i++;
    if (i + 1 >= last->len || i == n || last->key[i] + 1 >= next->key[i])
        return false;
    memcpy(buf, last->key, i);
    buf[i] = (uint8_t)(last->key[i] + 1);
    *len = i + 1;
    return true;
}

/* Writes the data block. `next` is the entry that follows, NULL at the end. */
static int data_cut(struct table_builder *b, const struct ikey *next)
{
    struct block_handle handle;
    int err = finish_block(b, &b->data, &handle);
    if (err)
        return err;
    b->data_blocks++;
    uint8_t buf[LSM_KEY_MAX];
    struct ikey separator = {b->last_key, b->last_len, ENTRY_PUT, b->last_seq};
    if (next && shorten(&separator, next, buf, &separator.len)) {
        separator.key = buf;
        separator.seq = 0;
    }
    block_builder_reset(&b->data);
    return index_add(b, 0, &separator, handle);
}

/* ---- entries ---- */

static int add_hash(struct table_builder *b, const struct ikey *key)
{
    if (b->hash_count == b->hash_cap) {
        uint64_t *p = realloc(b->hashes, b->hash_cap * 2 * sizeof(*p));
        if (!p)
            return -ENOMEM;
        b->hashes = p;
        b->hash_cap *= 2;
    }
    b->hashes[b->hash_count++] = filter_hash(key->key, key->len);
    return 0;
}

static int check_entry(const struct table_builder *b, const struct ikey *key, size_t value_len)
{
    if (key->len > LSM_KEY_MAX || value_len > LSM_VALUE_MAX || key->seq > SEQ_MAX || key->type > ENTRY_BLOB)
        return -EINVAL;
    struct ikey last = {.key = b->last_key, .len = b->last_len, .seq = b->last_seq};
    if (b->meta.entries > 0 && ikey_compare(&last, key) >= 0)
        return -EINVAL;
    return 0;
}

static void count_seq(struct table_meta *m, uint64_t seq)
{
    if (m->entries + m->range_deletes == 0 || seq < m->seq_min)
        m->seq_min = seq;
    if (seq > m->seq_max)
        m->seq_max = seq;
}

static void count_entry(struct table_meta *m, const struct ikey *key, size_t value_len)
{
    count_seq(m, key->seq);
    m->entries++;
    m->deletes += key->type == ENTRY_DELETE;
    m->merges += key->type == ENTRY_MERGE;
    m->key_bytes += key->len;
    m->value_bytes += value_len;
}

static int add_entry(struct table_builder *b, const struct ikey *key, const void *value, size_t value_len)
{
    struct blob_pointer pointer = {0};
    int err = check_entry(b, key, value_len);
    if (!err && key->type == ENTRY_BLOB && blob_pointer_decode(value, value_len, &pointer))
        err = -EINVAL;
    if (err)
        return err;
    /* Cut before, not after: an entry larger than a block gets one of its own, no small one shares it. */
    if (b->data.count > 0 &&
        block_builder_bytes(&b->data) + block_entry_bytes(key->len, value_len) > b->block_bytes) {
        err = data_cut(b, key);
        if (err)
            return err;
    }
    bool first = b->meta.entries == 0;
    if (first) {
        err = copy_key(key->key, key->len, &b->meta.smallest);
        if (err)
            return err;
        b->meta.smallest_len = key->len;
    }
    if (first || key_compare(b->last_key, b->last_len, key->key, key->len) != 0) {
        err = add_hash(b, key);
        if (err)
            return err;
    }
    err = block_builder_add(&b->data, key, value, value_len);
    if (!err && key->type == ENTRY_BLOB &&
        !(pointer.length < pointer.extent_bytes && mutant("parts are not counted as alive")))
        err = table_meta_add_blob(&b->meta, pointer.number, pointer.length);
    if (key->type == ENTRY_BLOB && pointer.length < pointer.extent_bytes)
        b->meta.part_bytes += pointer.length;
    if (b->meta.blob_count)
        b->features |= TABLE_BLOBS;
    if (err)
        return err;
    count_entry(&b->meta, key, value_len);
    if (key->len)
        memcpy(b->last_key, key->key, key->len);
    b->last_len = key->len;
    b->last_seq = key->seq;
    return 0;
}

int table_builder_add(struct table_builder *b, const struct ikey *key, const void *value, size_t value_len)
{
    if (!b->error)
        b->error = add_entry(b, key, value, value_len);
    return b->error;
}

/* Behind the last one: a fragment further on, or an older seq of the same. */
static bool is_next_range(const struct range_delete *last, const struct range_delete *d)
{
    int c = key_compare(last->start, last->start_len, d->start, d->start_len);
    if (c == 0)
        return d->seq < last->seq && key_compare(last->end, last->end_len, d->end, d->end_len) == 0;
    return key_compare(last->end, last->end_len, d->start, d->start_len) <= 0;
}

static int add_range(struct table_builder *b, const struct range_delete *d)
{
    struct table_meta *m = &b->meta;
    if (d->start_len > LSM_KEY_MAX || d->end_len > LSM_KEY_MAX || d->seq > SEQ_MAX ||
        key_compare(d->start, d->start_len, d->end, d->end_len) >= 0 ||
        (m->range_deletes && !is_next_range(&b->last_range, d)))
        return -EINVAL;
    struct ikey key = {d->start, d->start_len, ENTRY_RANGE_DELETE, d->seq};
    int err = block_builder_add(&b->ranges, &key, d->end, d->end_len);
    if (err)
        return err;
    if (!m->range_deletes) {
        memcpy(b->range_first, d->start, d->start_len);
        b->range_first_len = d->start_len;
    }
    count_seq(m, d->seq);
    m->range_deletes++;
    memcpy(b->range_start, d->start, d->start_len);
    memcpy(b->range_end, d->end, d->end_len);
    b->last_range = *d;
    b->last_range.start = b->range_start;
    b->last_range.end = b->range_end;
    return 0;
}

int table_builder_add_range(struct table_builder *b, const struct range_delete *d)
{
    if (!b->error)
        b->error = add_range(b, d);
    return b->error;
}

uint64_t table_builder_bytes(const struct table_builder *b)
{
    uint64_t n = position(b);
    if (b->ranges.count > 0)
        n += block_builder_bytes(&b->ranges);
    if (b->data.count > 0)
        n += block_builder_bytes(&b->data);
    return n;
}

uint64_t table_builder_entries(const struct table_builder *b) { return b->meta.entries; }

/* ---- the end ---- */

static int append_filter(struct table_builder *b, struct block_handle *out)
{
    uint8_t *filter;
    size_t len;
    int is_fuse, err = filter_build(b->hashes, b->hash_count, b->filter_bits, TABLE_TRAILER_BYTES, &filter,
                                    &len, &is_fuse);
    if (err)
        return err;
    if (is_fuse)
        b->features |= TABLE_FUSE_FILTER;
    err = append_block(b, filter, len, out);
    free(filter);
    return err;
}

static int append_properties(struct table_builder *b, struct block_handle *out)
{
    const struct table_meta *m = &b->meta;
    struct table_properties p;
    put_le64(p.entries, m->entries);
    put_le64(p.deletes, m->deletes);
    put_le64(p.merges, m->merges);
    put_le64(p.key_bytes, m->key_bytes);
    put_le64(p.value_bytes, m->value_bytes);
    put_le64(p.seq_min, m->seq_min);
    put_le64(p.seq_max, m->seq_max);
    put_le64(p.data_blocks, b->data_blocks);
    put_le32(p.smallest_len, m->smallest_len);
    put_le32(p.largest_len, m->largest_len);

    uint8_t buf[TABLE_PROPERTIES_MAX + TABLE_TRAILER_BYTES];
    uint8_t *end = buf;
    memcpy(end, &p, sizeof(p));
    end += sizeof(p);
    memcpy(end, m->smallest, m->smallest_len);
    end += m->smallest_len;
    memcpy(end, m->largest, m->largest_len);
    end += m->largest_len;
    if (m->range_deletes) {
        struct table_range_properties rp = {.largest_exclusive = m->largest_exclusive};
        put_le64(rp.range_deletes, m->range_deletes);
        memcpy(end, &rp, sizeof(rp));
        end += sizeof(rp);
    }
    return append_block(b, buf, (size_t)(end - buf), out);
}

static void put_handle(struct table_disk_handle *out, struct block_handle h)
{
    put_le64(out->offset, h.offset);
    put_le64(out->length, h.length);
}

static int append_footer(struct table_builder *b, struct block_handle filter, struct block_handle root,
                         struct block_handle ranges, struct block_handle properties)
{
    uint64_t offset = position(b);
    struct table_footer f = {0};
    memcpy(f.magic, TABLE_MAGIC, sizeof(f.magic));
    put_le32(f.version, TABLE_VERSION);
    put_le32(f.incompat, b->features);
    put_le32(f.index_depth, b->depth);
    put_le64(f.number, b->number);
    put_le64(f.file_bytes, offset + sizeof(f));
    put_handle(&f.filter, filter);
    put_handle(&f.root, root);
    put_handle(&f.properties, properties);
    put_handle(&f.ranges, ranges);
    put_le64(f.checksum, table_footer_checksum(&f, offset));
    return append(b, &f, sizeof(f));
}

/* The bounds of all that is in it. */
static int set_bounds(struct table_builder *b)
{
    struct table_meta *m = &b->meta;
    const struct range_delete *r = &b->last_range;
    bool ranges = m->range_deletes > 0 && !(m->entries && mutant("table bounds without range deletes"));
    if (ranges &&
        (!m->entries || key_compare(b->range_first, b->range_first_len, m->smallest, m->smallest_len) < 0)) {
        free(m->smallest);
        int err = copy_key(b->range_first, b->range_first_len, &m->smallest);
        if (err)
            return err;
        m->smallest_len = b->range_first_len;
    }
    m->largest_exclusive =
        ranges && (!m->entries || key_compare(r->end, r->end_len, b->last_key, b->last_len) > 0);
    m->largest_len = m->largest_exclusive ? r->end_len : b->last_len;
    return copy_key(m->largest_exclusive ? r->end : b->last_key, m->largest_len, &m->largest);
}

static int finish(struct table_builder *b)
{
    struct block_handle filter = {0}, root = {0}, ranges = {0}, properties;
    if (b->meta.entries + b->meta.range_deletes == 0)
        return -EINVAL;
    int err = set_bounds(b);
    if (err)
        return err;
    if (b->meta.entries &&
        ((err = data_cut(b, NULL)) || (err = index_finish(b, &root)) || (err = append_filter(b, &filter))))
        return err;
    if (b->meta.range_deletes) {
        b->features |= TABLE_RANGE_DELETES;
        err = finish_block(b, &b->ranges, &ranges);
        if (err)
            return err;
    }
    if ((err = append_properties(b, &properties)) ||
        (err = append_footer(b, filter, root, ranges, properties)) || (err = flush_out(b)))
        return err;
    return mutant("table not synced") ? 0 : env_sync(b->file);
}

int table_builder_finish(struct table_builder *b, struct table_meta *out)
{
    if (!b->error)
        b->error = finish(b);
    if (b->error)
        return b->error;
    *out = b->meta;
    out->number = b->number;
    out->bytes = position(b);
    memset(&b->meta, 0, sizeof(b->meta)); /* the keys have a new owner */
    if (b->stats) {
        __atomic_fetch_add(&b->stats->raw_bytes, b->raw_bytes, __ATOMIC_RELAXED);
        __atomic_fetch_add(&b->stats->stored_bytes, b->stored_bytes, __ATOMIC_RELAXED);
    }
    release(b);
    return 0;
}
