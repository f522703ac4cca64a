/*
 * fuzz_table.c - a whole table file: open, point lookups, iterating, verifying.
 *
 * The manifest's word about the table is taken from the file's own properties, as a hostile manifest
 * would have it.
 */
#include "block.h"
#include "filter.h"
#include "fuzz_files.h"
#include "table.h"
#include "table_format.h"

#include <errno.h>

#define DIR "/t"
#define NUMBER 1u
#define CACHE_BYTES (1u << 20)

static bool properties_of(const uint8_t *data, size_t size, const struct table_properties **out)
{
    const struct table_footer *f = (const struct table_footer *)(data + size - sizeof(*f));
    uint64_t offset, length;

    if (size < sizeof(*f))
        return false;
    offset = get_le64(f->properties.offset);
    length = get_le64(f->properties.length);
    if (offset > size || length > size - offset || length < sizeof(**out))
        return false;
    *out = (const struct table_properties *)(data + offset);
    return length - sizeof(**out) >= (uint64_t)get_le32((*out)->smallest_len) + get_le32((*out)->largest_len);
}

static void meta_of(const uint8_t *data, size_t size, struct table_meta *m)
{
    const struct table_properties *p;
    static uint8_t none[1];

    *m = (struct table_meta){.number = NUMBER, .bytes = size, .smallest = none, .largest = none};
    if (!properties_of(data, size, &p))
        return;
    m->entries = get_le64(p->entries);
    m->deletes = get_le64(p->deletes);
    m->merges = get_le64(p->merges);
    m->key_bytes = get_le64(p->key_bytes);
    m->value_bytes = get_le64(p->value_bytes);
    m->seq_min = get_le64(p->seq_min);
    m->seq_max = get_le64(p->seq_max);
    m->smallest_len = get_le32(p->smallest_len);
    m->largest_len = get_le32(p->largest_len);
    m->smallest = (uint8_t *)(p + 1);
    m->largest = m->smallest + m->smallest_len;
    const struct table_range_properties *rp =
        (const struct table_range_properties *)(m->largest + m->largest_len);
    if ((const uint8_t *)(rp + 1) > data + size)
        return;
    const struct table_footer *f = (const struct table_footer *)(data + size - sizeof(*f));
    if (get_le32(f->incompat) & TABLE_RANGE_DELETES) {
        m->range_deletes = get_le64(rp->range_deletes);
        m->largest_exclusive = rp->largest_exclusive;
    }
}

static void look_up(struct table *t, const void *key, size_t len, uint64_t seq)
{
    struct ikey found;
    const uint8_t *value;
    size_t value_len;
    struct cache_block *pin;

    if (table_get(t, key, len, seq, 0, &found, &value, &value_len, &pin) == 0) {
        fuzz_check(found.len == len && value_len <= LSM_VALUE_MAX);
        table_release(t, pin);
    }
}

/* Asks what covers some keys, and takes all range deletes out. */
static void cover(struct table *t)
{
    static const char *const keys[] = {"", "a", "k03", "k1", "zzz"};
    struct range_bounds bounds;
    struct ranges all = {0};
    uint64_t seq;

    if (!table_meta_of(t)->range_deletes)
        return;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const uint8_t *key = (const uint8_t *)keys[i];
        if (table_cover(t, key, strlen(keys[i]), SEQ_MAX, 0, &seq, &bounds) == 0 && seq)
            fuzz_check(bounds_have(&bounds, key, strlen(keys[i])));
    }
    if (table_ranges(t, &all) == 0)
        fuzz_check(ranges_build(&all, NULL, 0) == 0);
    ranges_free(&all);
}

static void walk(struct table *t, size_t size)
{
    struct iter *it;
    uint8_t key[LSM_KEY_MAX];
    size_t n = 0;

    if (table_iter_new(t, 0, &it) < 0)
        return;
    /* An entry takes a byte at least: an index that names blocks again and again is found out. */
    for (iter_first(it); it->valid; iter_next(it))
        fuzz_check(++n < size);
    for (iter_last(it), n = 0; it->valid; iter_prev(it)) {
        fuzz_check(++n < size);
        if (n == 3) {
            memcpy(key, it->key.key, it->key.len);
            look_up(t, key, it->key.len, SEQ_MAX);
        }
    }
    iter_seek(it, (const uint8_t *)"k1", 2, SEQ_MAX);
    if (it->valid)
        iter_prev(it);
    iter_free(it);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct env *env = env_with(DIR);
    struct table_options options = {.env = env, .dir = DIR};
    struct table_meta meta;
    struct table *t;
    uint64_t bad;
    char path[64];

    fuzz_check(cache_new(CACHE_BYTES, &options.cache) == 0);
    table_path(DIR, NUMBER, path, sizeof(path));
    file_write(env, path, data, size);
    meta_of(data, size, &meta);
    if (table_open(&options, &meta, &t) == 0) {
        look_up(t, "k03", 3, SEQ_MAX);
        look_up(t, "k03", 3, 5);
        look_up(t, "zzz", 3, SEQ_MAX);
        look_up(t, "", 0, SEQ_MAX);
        walk(t, size);
        cover(t);
        int rc = table_verify(t, &bad);
        fuzz_check(rc != -EIO || bad <= size);
        table_close(t);
    }
    cache_free(options.cache);
    env_mem_free(env);
    return 0;
}

/* ---- seeds --------------------------------------------------------------------------------- */

static uint8_t *put_block(uint8_t *out, uint8_t *p, struct block_builder *b, struct block_handle *h)
{
    fuzz_check(block_builder_finish(b) == 0);
    *h = (struct block_handle){(uint64_t)(p - out), b->len};
    memcpy(p, b->buf, b->len);
    memset(p + b->len, 0, TABLE_TRAILER_BYTES);
    put_le32(p + b->len + 4, (uint32_t)b->len); /* raw_len */
    p += b->len + TABLE_TRAILER_BYTES;
    block_builder_reset(b);
    return p;
}

/* Four levels of an index that each name the level below ten times: ten thousand times the same entry. */
static size_t repeating_index(uint8_t *out)
{
    struct block_builder b;
    struct block_handle h;
    struct table_properties props;
    struct table_footer foot = {.magic = TABLE_MAGIC};
    struct ikey key = {.key = (const uint8_t *)"k", .len = 1, .seq = 1, .type = ENTRY_PUT};
    uint8_t *p = out;

    memset(&props, 0, sizeof(props));
    block_builder_init(&b, BLOCK_RESTART_INDEX);
    fuzz_check(block_builder_add(&b, &key, "v", 1) == 0);
    p = put_block(out, p, &b, &h);
    for (unsigned level = 0; level < 4; level++) {
        uint8_t value[2 * VARINT_MAX], *end = put_varint(put_varint(value, h.offset), h.length);
        for (unsigned i = 0; i < 10; i++) {
            struct ikey above = {.key = (const uint8_t *)"m", .len = 1, .seq = 10 - i, .type = ENTRY_PUT};
            fuzz_check(block_builder_add(&b, &above, value, (size_t)(end - value)) == 0);
        }
        p = put_block(out, p, &b, &h);
    }
    put_le64(foot.root.offset, h.offset);
    put_le64(foot.root.length, h.length);
    uint8_t *filter;
    size_t filter_len;
    int is_fuse;
    fuzz_check(filter_build((uint64_t[]){0}, 1, 0, 0, &filter, &filter_len, &is_fuse) == 0);
    memcpy(p, filter, filter_len);
    free(filter);
    put_le64(foot.filter.offset, (uint64_t)(p - out));
    put_le64(foot.filter.length, filter_len);
    p += filter_len;
    memset(p, 0, TABLE_TRAILER_BYTES);
    put_le32(p + 4, (uint32_t)filter_len);
    p += TABLE_TRAILER_BYTES;
    put_le64(props.entries, 1);
    put_le64(props.seq_min, 1);
    put_le64(props.seq_max, 1);
    put_le64(props.data_blocks, 1);
    put_le32(props.smallest_len, 1);
    put_le32(props.largest_len, 1);
    put_le64(foot.properties.offset, (uint64_t)(p - out));
    put_le64(foot.properties.length, sizeof(props) + 2);
    memcpy(p, &props, sizeof(props));
    memcpy(p + sizeof(props), "kk", 2);
    p += sizeof(props) + 2;
    memset(p, 0, TABLE_TRAILER_BYTES);
    put_le32(p + 4, sizeof(props) + 2);
    p += TABLE_TRAILER_BYTES;
    put_le32(foot.version, TABLE_VERSION);
    put_le32(foot.index_depth, 4);
    put_le64(foot.number, NUMBER);
    put_le64(foot.file_bytes, (uint64_t)(p - out) + sizeof(foot));
    memcpy(p, &foot, sizeof(foot));
    block_builder_free(&b);
    return (size_t)(p - out) + sizeof(foot);
}

static void add_range(struct table_builder *b, const char *start, const char *end, uint64_t seq)
{
    struct range_delete d = {(const uint8_t *)start, (const uint8_t *)end, (uint32_t)strlen(start),
                             (uint32_t)strlen(end), seq};
    fuzz_check(table_builder_add_range(b, &d) == 0);
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    if (n == 3)
        return repeating_index(out);
    struct env *env = env_with(DIR);
    struct table_builder_options options = {.env = env, .dir = DIR, .block_bytes = n == 0 ? 4096 : 64};
    const bool packed = n == 4 || n == 5;
    options.filter_bits = n == 5 ? 8 : n == 6 ? 13 : 0;
    if (packed) {
        options.block_bytes = 256;
        options.compression = n == 4 ? TABLE_COMPRESSION_LZ4 : TABLE_COMPRESSION_ZSTD;
    }
    struct table_builder *b;
    struct table_meta meta;
    size_t len = 0;
    char path[64];
    const unsigned entries = n == 2 ? 1 : 40;

    if ((n < 3 || packed || n == 6 || n == 7) && table_builder_new(&options, NUMBER, &b) == 0) {
        for (unsigned i = 0; i < entries; i++) {
            char key[8];
            int k = snprintf(key, sizeof(key), "k%02u", i / 2);
            struct ikey ikey = {
                .key = (uint8_t *)key, .len = (uint32_t)k, .seq = 100 - i, .type = (uint8_t)(i % 3)};
            static const uint8_t value[100] = "what repeats itself is packed";
            size_t value_len = i % 3 == ENTRY_DELETE ? 0 : packed ? sizeof(value) : (size_t)k;
            fuzz_check(table_builder_add(b, &ikey, packed ? (const void *)value : key, value_len) == 0);
        }
        if (n == 7) {
            add_range(b, "a", "k05", 300);
            add_range(b, "k1", "k12", 302);
            add_range(b, "k1", "k12", 301);
            add_range(b, "k19", "z", 303);
        }
        fuzz_check(table_builder_finish(b, &meta) == 0);
        table_meta_free(&meta);
        table_path(DIR, NUMBER, path, sizeof(path));
        len = file_read(env, path, out, FUZZ_SEED_MAX);
    }
    env_mem_free(env);
    return len;
}
