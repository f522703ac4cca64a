/*
 * test_table.c - tables against a sorted array: lookups at every seq, iteration both ways, damage to
 * every byte, hostile blocks, many readers on a tiny cache.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "block.h"
#include "entry_model.h"
#include "env.h"
#include "filter.h"
#include "table.h"
#include "table_format.h"
#include <errno.h>

#define DIR "/tables"

static struct env *env;
static enum table_compression compression; /* of the tables that build makes */
static struct table_writer_stats written;
static unsigned filter_bits_of_tables;
static struct table_reader_stats stats;

/* Every file operation is counted; the one after `fail_after` others fails with -EIO. */
static struct env_ops counting_ops;
static struct env_file_ops counting_file_ops;
static const struct env_ops *real_ops;
static const struct env_file_ops *real_file_ops;
static uint64_t reads, writes, short_writes; /* atomic */
static uint64_t fail_after = UINT64_MAX;

static bool fails_now(void)
{
    if (fail_after == UINT64_MAX) /* never changed while there are threads */
        return false;
    return fail_after-- == 0;
}

static ssize_t counting_pread(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    __atomic_fetch_add(&reads, 1, __ATOMIC_RELAXED);
    return fails_now() ? -EIO : real_file_ops->pread(f, buf, len, off);
}

static int counting_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    size_t len = 0;
    for (int i = 0; i < n; i++)
        len += iov[i].iov_len;
    writes++;
    short_writes += len < 256u << 10;
    return fails_now() ? -EIO : real_file_ops->pwritev(f, iov, n, off);
}

static int counting_sync(struct env_file *f) { return fails_now() ? -EIO : real_file_ops->sync(f); }

static int counting_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    if (fails_now())
        return -EIO;
    int err = real_ops->open(e, path, flags, out);
    if (err)
        return err;
    real_file_ops = (*out)->ops;
    counting_file_ops = *real_file_ops;
    counting_file_ops.pread = counting_pread;
    counting_file_ops.pwritev = counting_pwritev;
    counting_file_ops.sync = counting_sync;
    (*out)->ops = &counting_file_ops;
    return 0;
}

static int setup(void **state)
{
    env = env_mem_new();
    assert_non_null(env);
    real_ops = env->ops;
    counting_ops = *real_ops;
    counting_ops.open = counting_open;
    env->ops = &counting_ops;
    reads = writes = short_writes = 0;
    memset(&stats, 0, sizeof(stats));
    memset(&written, 0, sizeof(written));
    compression = TABLE_COMPRESSION_NONE;
    filter_bits_of_tables = 0;
    assert_int_equal(env_mkdir(env, DIR), 0);
    return model_reseed(state);
}

static int teardown(void **state)
{
    (void)state;
    fail_after = UINT64_MAX;
    env->ops = real_ops;
    env_mem_free(env);
    return 0;
}

static void build(const struct model *m, uint64_t number, size_t block_bytes, struct table_meta *meta)
{
    struct table_builder_options o = {.env = env,
                                      .dir = DIR,
                                      .block_bytes = block_bytes,
                                      .expected_entries = m->count / 2,
                                      .compression = compression,
                                      .filter_bits = filter_bits_of_tables,
                                      .stats = &written};
    struct table_builder *b;
    assert_int_equal(table_builder_new(&o, number, &b), 0);
    uint64_t before = 0;
    for (size_t i = 0; i < m->count; i++) {
        const struct model_entry *e = &m->entries[i];
        assert_int_equal(table_builder_add(b, &e->key, e->value, e->value_len), 0);
        assert_int_equal(table_builder_entries(b), i + 1);
        assert_true(table_builder_bytes(b) >= before || compression); /* a block shrinks when it is packed */
        before = table_builder_bytes(b);
    }
    assert_int_equal(table_builder_finish(b, meta), 0);
    assert_int_equal(meta->entries, m->count);
    assert_int_equal(meta->number, number);
    assert_true(meta->bytes >= before || compression);
}

static int open_table(const struct table_meta *meta, struct cache *cache, struct table **out)
{
    struct table_options o = {.env = env, .dir = DIR, .cache = cache, .stats = &stats};
    return table_open(&o, meta, out);
}

/* What table_get must say: index of the entry, or SIZE_MAX. */
static size_t expected_get(const struct model *m, const uint8_t *key, size_t len, uint64_t seq)
{
    size_t i = model_find(m, key, len, seq);
    if (i < m->count && key_compare(m->entries[i].key.key, m->entries[i].key.len, key, len) == 0)
        return i;
    return SIZE_MAX;
}

/* Wrong data fails the test; an error other than -ENOENT is returned. */
static int check_get(const struct model *m, struct table *t, const uint8_t *key, size_t len, uint64_t seq,
                     unsigned flags)
{
    struct ikey k;
    const uint8_t *value;
    size_t value_len, i = expected_get(m, key, len, seq);
    struct cache_block *pin;
    int err = table_get(t, key, len, seq, flags, &k, &value, &value_len, &pin);
    if (err == -ENOENT) {
        assert_true(i == SIZE_MAX);
        return 0;
    }
    if (err)
        return err;
    assert_true(i < m->count);
    assert_true(model_equal(&m->entries[i], &k, value, value_len));
    table_release(t, pin);
    return 0;
}

static void check_all_gets(const struct model *m, struct table *t, unsigned flags)
{
    uint8_t key[LSM_KEY_MAX];
    for (size_t i = 0; i < m->count; i++) {
        const struct ikey *k = &m->entries[i].key;
        const uint64_t seqs[] = {k->seq, k->seq - 1, k->seq + 1, 0, SEQ_MAX};
        for (size_t s = 0; s < sizeof(seqs) / sizeof(seqs[0]); s++)
            assert_int_equal(check_get(m, t, k->key, k->len, seqs[s], flags), 0);
        uint32_t len = model_key(key, LSM_KEY_MAX);
        assert_int_equal(check_get(m, t, key, len, SEQ_MAX, flags), 0);
    }
}

static void check_meta(const struct model *m, const struct table_meta *meta)
{
    uint64_t deletes = 0, merges = 0, key_bytes = 0, value_bytes = 0, low = SEQ_MAX, high = 0;
    for (size_t i = 0; i < m->count; i++) {
        const struct model_entry *e = &m->entries[i];
        deletes += e->key.type == ENTRY_DELETE;
        merges += e->key.type == ENTRY_MERGE;
        key_bytes += e->key.len;
        value_bytes += e->value_len;
        low = e->key.seq < low ? e->key.seq : low;
        high = e->key.seq > high ? e->key.seq : high;
    }
    assert_int_equal(meta->deletes, deletes);
    assert_int_equal(meta->merges, merges);
    assert_int_equal(meta->key_bytes, key_bytes);
    assert_int_equal(meta->value_bytes, value_bytes);
    assert_int_equal(meta->seq_min, low);
    assert_int_equal(meta->seq_max, high);
    const struct ikey *first = &m->entries[0].key, *last = &m->entries[m->count - 1].key;
    assert_int_equal(key_compare(meta->smallest, meta->smallest_len, first->key, first->len), 0);
    assert_int_equal(key_compare(meta->largest, meta->largest_len, last->key, last->len), 0);
}

/* Lookups, walks and verification with a generous and with no cache. */
static void check_table(const struct model *m, const struct table_meta *meta, size_t steps)
{
    static const size_t capacities[] = {64u << 20, 20000, 0};
    check_meta(m, meta);
    for (size_t c = 0; c < sizeof(capacities) / sizeof(capacities[0]); c++) {
        struct cache *cache;
        struct table *t;
        assert_int_equal(cache_new(capacities[c], &cache), 0);
        assert_int_equal(open_table(meta, cache, &t), 0);
        uint64_t bad = 0;
        assert_int_equal(table_verify(t, &bad), 0);
        for (unsigned flags = 0; flags <= LSM_NOFILL; flags += LSM_NOFILL) {
            struct iter *it;
            check_all_gets(m, t, flags);
            assert_int_equal(table_iter_new(t, flags, &it), 0);
            model_walk(m, it, steps);
            iter_free(it);
        }
        table_close(t);
        cache_free(cache);
    }
}

static void test_model(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 30; round++) {
        struct model m = model_make((struct model_options){.keys = 1 + model_below(400),
                                                           .versions = 1 + model_below(30),
                                                           .key_max = model_below(2) ? LSM_KEY_MAX : 40,
                                                           .value_max = model_below(3) ? 300 : 20000});
        static const size_t sizes[] = {0, 1, 512, 4096, 32768};
        struct table_meta meta;
        compression = (enum table_compression)model_below(3);
        filter_bits_of_tables = model_below(2) ? 4 + (unsigned)model_below(21) : 0;
        build(&m, round + 1, sizes[model_below(5)], &meta);
        check_table(&m, &meta, 500);
        table_meta_free(&meta);
        model_free(&m);
    }
}

/* One key with so many versions that they fill many blocks, between two others. */
static void test_versions_straddle_blocks(void **state)
{
    (void)state;
    struct model m = {calloc(2002, sizeof(struct model_entry)), 2002};
    model_set(&m.entries[0], (const uint8_t *)"a", 1, 5, 3);
    for (size_t i = 0; i < 2000; i++)
        model_set(&m.entries[1 + i], (const uint8_t *)"key", 3, 10 + 2 * (2000 - i), 10);
    model_set(&m.entries[2001], (const uint8_t *)"z", 1, 7, 3);
    struct table_meta meta;
    build(&m, 1, 256, &meta);
    check_table(&m, &meta, 2000);
    table_meta_free(&meta);
    model_free(&m);
}

static void test_one_entry_and_empty_key(void **state)
{
    (void)state;
    struct model m = {calloc(1, sizeof(struct model_entry)), 1};
    model_set(&m.entries[0], (const uint8_t *)"", 0, 1, 0);
    struct table_meta meta;
    build(&m, 1, 0, &meta);
    check_table(&m, &meta, 50);
    table_meta_free(&meta);
    model_free(&m);
}

static void test_huge_values(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 40, .versions = 2, .key_max = 30, .value_max = 200});
    static const size_t lens[] = {LSM_VALUE_MAX, 3u << 20, 300000};
    for (size_t i = 0; i < 3 && i * 10 < m.count; i++) {
        struct model_entry *e = &m.entries[i * 10];
        e->value = realloc(e->value, lens[i]);
        assert_non_null(e->value);
        memset(e->value, (int)i + 1, lens[i]);
        e->value_len = lens[i];
    }
    struct table_meta meta;
    build(&m, 1, 4096, &meta);
    struct cache *cache;
    struct table *t;
    assert_int_equal(cache_new(1u << 20, &cache), 0);
    assert_int_equal(open_table(&meta, cache, &t), 0);
    for (size_t i = 0; i < m.count; i++)
        assert_int_equal(
            check_get(&m, t, m.entries[i].key.key, m.entries[i].key.len, m.entries[i].key.seq, 0), 0);
    struct iter *it;
    assert_int_equal(table_iter_new(t, 0, &it), 0);
    model_walk(&m, it, 20);
    iter_free(it);
    uint64_t bad;
    assert_int_equal(table_verify(t, &bad), 0);
    table_close(t);
    cache_free(cache);
    table_meta_free(&meta);
    model_free(&m);
}

static void read_at(uint64_t number, void *buf, size_t len, uint64_t offset)
{
    char path[64];
    struct env_file *f;
    table_path(DIR, number, path, sizeof(path));
    assert_int_equal(env_open(env, path, ENV_READ, &f), 0);
    assert_int_equal(env_pread(f, buf, len, offset), (ssize_t)len);
    env_close(f);
}

static void write_at(uint64_t number, const void *buf, size_t len, uint64_t offset)
{
    char path[64];
    struct env_file *f;
    table_path(DIR, number, path, sizeof(path));
    assert_int_equal(env_open(env, path, ENV_READ | ENV_WRITE, &f), 0);
    assert_int_equal(env_pwrite(f, buf, len, offset), 0);
    env_close(f);
}

/* Long keys make an index of three levels. */
static void test_deep_index(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    struct model m = {calloc(COUNT, sizeof(struct model_entry)), COUNT};
    uint8_t key[1000];
    for (uint32_t i = 0; i < COUNT; i++) {
        memset(key, 'k', sizeof(key));
        put_be64(key + sizeof(key) - 8, i); /* adjacent: nothing to shorten */
        model_set(&m.entries[i], key, sizeof(key), i + 1, 5);
    }
    struct table_meta meta;
    build(&m, 1, 256, &meta);
    struct table_footer footer;
    read_at(1, &footer, sizeof(footer), meta.bytes - sizeof(footer));
    assert_int_equal(get_le32(footer.index_depth), 3);
    check_table(&m, &meta, 500);
    table_meta_free(&meta);
    model_free(&m);
}

static void test_builder_refuses(void **state)
{
    (void)state;
    struct table_builder_options o = {.env = env, .dir = DIR};
    struct table_builder *b;
    struct table_meta meta;
    struct ikey k = {(const uint8_t *)"b", 1, ENTRY_PUT, 5};
    const struct {
        struct ikey key;
        size_t value_len;
    } refused[] = {
        {k, 1},                                       /* the same again */
        {{(const uint8_t *)"b", 1, ENTRY_PUT, 6}, 1}, /* a newer version after an older one */
        {{(const uint8_t *)"a", 1, ENTRY_PUT, 5}, 1}, /* out of order */
        {{(const uint8_t *)"c", 1, ENTRY_PUT, SEQ_MAX + 1}, 1},
        {{(const uint8_t *)"c", 1, ENTRY_BLOB, 5}, 1},
        {{(const uint8_t *)"c", LSM_KEY_MAX + 1, ENTRY_PUT, 5}, 1},
        {{(const uint8_t *)"c", 1, ENTRY_PUT, 5}, LSM_VALUE_MAX + 1},
    };
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_int_equal(table_builder_new(&o, 1, &b), 0);
        assert_int_equal(table_builder_add(b, &k, "v", 1), 0);
        assert_int_equal(table_builder_add(b, &refused[i].key, "v", refused[i].value_len), -EINVAL);
        struct ikey good = {(const uint8_t *)"d", 1, ENTRY_PUT, 5};
        assert_int_equal(table_builder_add(b, &good, "v", 1), -EINVAL); /* the error sticks */
        assert_int_equal(table_builder_finish(b, &meta), -EINVAL);
        table_builder_abort(b);
        struct env_file *f;
        assert_int_equal(env_open(env, DIR "/000001.sst", ENV_READ, &f), -ENOENT);
    }
    assert_int_equal(table_builder_new(&o, 1, &b), 0);
    assert_int_equal(table_builder_finish(b, &meta), -EINVAL); /* empty */
    table_builder_abort(b);
    table_builder_abort(NULL);
}

static void test_nowait(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 300, .versions = 3, .key_max = 50, .value_max = 300});
    struct table_meta meta;
    build(&m, 1, 512, &meta);
    struct cache *cache;
    struct table *t;
    struct iter *it;
    assert_int_equal(cache_new(64u << 20, &cache), 0);
    assert_int_equal(open_table(&meta, cache, &t), 0);
    assert_int_equal(table_iter_new(t, LSM_NOWAIT, &it), 0);
    const struct ikey *k = &m.entries[m.count / 2].key;
    assert_int_equal(check_get(&m, t, k->key, k->len, k->seq, LSM_NOWAIT), -EAGAIN);
    iter_first(it);
    assert_int_equal(it->valid, false);
    assert_int_equal(it->status, -EAGAIN);

    /* One data block in memory: that version of the key can be had, and the iterator stops where the block ends. */
    assert_int_equal(check_get(&m, t, k->key, k->len, k->seq, 0), 0);
    assert_int_equal(check_get(&m, t, k->key, k->len, k->seq, LSM_NOWAIT), 0);
    iter_seek(it, k->key, k->len, k->seq);
    model_check(&m, it, m.count / 2);
    while (it->valid)
        iter_next(it);
    assert_int_equal(it->status, -EAGAIN);

    check_all_gets(&m, t, 0);
    check_all_gets(&m, t, LSM_NOWAIT);
    model_walk(&m, it, 500);
    iter_free(it);
    table_close(t);
    cache_free(cache);
    table_meta_free(&meta);
    model_free(&m);
}

/* A one-off scan leaves no data blocks behind, and reading ahead takes far fewer reads than blocks. */
static void test_nofill(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 3000, .versions = 2, .key_max = 50, .value_max = 300});
    struct table_meta meta;
    build(&m, 1, 1024, &meta);
    struct cache *cache;
    struct table *t;
    struct iter *it;
    struct cache_stats before, after;
    assert_int_equal(cache_new(64u << 20, &cache), 0);
    assert_int_equal(open_table(&meta, cache, &t), 0);
    assert_int_equal(table_iter_new(t, LSM_NOFILL, &it), 0);
    iter_first(it);
    cache_stats_get(cache, &before);
    reads = 0;
    while (it->valid)
        iter_next(it);
    assert_int_equal(it->status, 0);
    iter_free(it);
    cache_stats_get(cache, &after);
    assert_true(after.bytes <= before.bytes);
    assert_true(table_reader_stats_sum(&stats).blocks_read > 50);
    assert_true(reads < table_reader_stats_sum(&stats).blocks_read / 4);
    table_close(t);
    cache_free(cache);
    table_meta_free(&meta);
    model_free(&m);
}

static void test_filter_in_table(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 1000, .versions = 2, .key_max = 30, .value_max = 50});
    struct table_meta meta;
    filter_bits_of_tables = 8;
    build(&m, 1, 0, &meta);
    struct cache *cache;
    struct table *t;
    assert_int_equal(cache_new(64u << 20, &cache), 0);
    assert_int_equal(open_table(&meta, cache, &t), 0);
    for (uint64_t i = 0; i < 10000; i++) {
        uint8_t key[60]; /* longer than any in the table */
        memset(key, 'x', sizeof(key));
        put_le64(key, i);
        assert_int_equal(check_get(&m, t, key, sizeof(key), SEQ_MAX, 0), 0);
    }
    assert_int_equal(table_reader_stats_sum(&stats).filter_checks, 10000);
    assert_true(table_reader_stats_sum(&stats).filter_negatives > 9900);
    table_close(t);
    cache_free(cache);
    table_meta_free(&meta);
    model_free(&m);
}

/* ---- failing files ---- */

static int try_build(const struct model *m, struct table_meta *meta)
{
    struct table_builder_options o = {.env = env, .dir = DIR, .block_bytes = 4096};
    struct table_builder *b;
    int err = table_builder_new(&o, 1, &b);
    if (err)
        return err;
    for (size_t i = 0; i < m->count && !err; i++)
        err = table_builder_add(b, &m->entries[i].key, m->entries[i].value, m->entries[i].value_len);
    if (!err)
        err = table_builder_finish(b, meta);
    if (err)
        table_builder_abort(b);
    return err;
}

static void test_failing_writes(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 3000, .versions = 2, .key_max = 30, .value_max = 8000});
    struct table_meta meta;
    uint64_t n = 0;
    for (;; n++) {
        fail_after = n;
        int err = try_build(&m, &meta);
        fail_after = UINT64_MAX;
        if (!err)
            break;
        assert_int_equal(err, -EIO);
        struct env_file *f;
        assert_int_equal(env_open(env, DIR "/000001.sst", ENV_READ, &f), -ENOENT);
    }
    assert_true(n >= 4); /* open, two writes, sync */
    writes = short_writes = 0;
    table_meta_free(&meta);
    assert_int_equal(try_build(&m, &meta), 0);
    assert_true(writes >= 2 && short_writes <= 1);
    table_meta_free(&meta);
    model_free(&m);
}

/* An error of the medium comes out as it is, and is gone when the medium has recovered. */
static void test_failing_reads(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 200, .versions = 2, .key_max = 30, .value_max = 100});
    struct table_meta meta;
    struct cache *cache;
    struct table *t;
    struct iter *it;
    uint64_t bad;
    build(&m, 1, 512, &meta);
    assert_int_equal(cache_new(0, &cache), 0);
    for (uint64_t n = 0; n < 3; n++) { /* open, footer, properties */
        fail_after = n;
        assert_int_equal(open_table(&meta, cache, &t), -EIO);
    }
    fail_after = UINT64_MAX;
    assert_int_equal(open_table(&meta, cache, &t), 0);
    for (int round = 0; round < 300; round++) {
        const struct ikey *k = &m.entries[model_below(m.count)].key;
        uint64_t part = fail_after =
            model_below(3); /* filter, index, data; without the filter it is only slower */
        assert_int_equal(check_get(&m, t, k->key, k->len, k->seq, 0), part == 0 ? 0 : -EIO);
        assert_int_equal(check_get(&m, t, k->key, k->len, k->seq, 0), 0);
        size_t i = 0;
        assert_int_equal(table_iter_new(t, 0, &it), 0);
        fail_after = model_below(8);
        for (iter_first(it); it->valid; iter_next(it), i++)
            model_check(&m, it, i);
        assert_true(it->status == -EIO || i == m.count);
        fail_after = model_below(8);
        int err = table_verify(t, &bad);
        assert_true(err == -EIO);
        fail_after = UINT64_MAX;
        model_walk(&m, it, 50);
        iter_free(it); /* only now: what it references would be found in the cache */
    }
    table_close(t);
    cache_free(cache);
    table_meta_free(&meta);
    model_free(&m);
}

/* ---- damage ---- */

static bool is_refusal(int err) { return err == -EIO || err == -ENOTSUP; }

/* With bytes first..last damaged: right data or a refusal, by every way of reading. */
static void check_damaged(const struct model *m, const struct table_meta *meta, uint64_t first, uint64_t last)
{
    struct cache *cache;
    struct table *t;
    assert_int_equal(cache_new(1u << 20, &cache), 0);
    int err = open_table(meta, cache, &t);
    if (err) {
        assert_true(is_refusal(err));
        cache_free(cache);
        return;
    }
    uint64_t bad = UINT64_MAX;
    assert_true(is_refusal(table_verify(t, &bad)));
    assert_true(bad <= last);
    size_t refused = 0;
    for (size_t i = 0; i < m->count; i++) {
        err = check_get(m, t, m->entries[i].key.key, m->entries[i].key.len, m->entries[i].key.seq, 0);
        assert_true(err == 0 || is_refusal(err));
        refused += err != 0;
    }
    struct iter *it;
    size_t i = 0;
    assert_int_equal(table_iter_new(t, 0, &it), 0);
    for (iter_first(it); it->valid; iter_next(it), i++)
        assert_true(model_equal(&m->entries[i], &it->key, it->value, it->value_len));
    assert_true(it->status ? is_refusal(it->status) : i == m->count);
    i = m->count;
    for (iter_last(it); it->valid; iter_prev(it))
        assert_true(model_equal(&m->entries[--i], &it->key, it->value, it->value_len));
    assert_true(it->status ? is_refusal(it->status) : i == 0);
    iter_free(it);
    /* Damage to a data block (they make up the first half at least) leaves the others readable. */
    if (first == last && bad < meta->bytes / 2)
        assert_true(refused < m->count);
    table_close(t);
    cache_free(cache);
}

static void every_byte_flipped(size_t value_max)
{
    filter_bits_of_tables = compression ? 12 : 0;
    struct model m =
        model_make((struct model_options){.keys = 60, .versions = 3, .key_max = 30, .value_max = value_max});
    struct table_meta meta;
    build(&m, 1, 256, &meta);
    for (uint64_t at = 0; at < meta.bytes; at++) {
        uint8_t old, bad;
        read_at(1, &old, 1, at);
        bad = old ^ (uint8_t)(1 + model_below(255));
        write_at(1, &bad, 1, at);
        check_damaged(&m, &meta, at, at);
        write_at(1, &old, 1, at);
    }
    check_table(&m, &meta, 100);
    table_meta_free(&meta);
    model_free(&m);
}

static void test_every_byte_flipped(void **state)
{
    (void)state;
    every_byte_flipped(60);
}

static void test_every_packed_byte_flipped(void **state)
{
    (void)state;
    for (unsigned how = TABLE_COMPRESSION_LZ4; how <= TABLE_COMPRESSION_ZSTD; how++) {
        compression = (enum table_compression)how;
        memset(&written, 0, sizeof(written));
        every_byte_flipped(400);
        assert_true(written.stored_bytes < written.raw_bytes);
    }
}

static void invert_values(struct model *m)
{
    for (size_t i = 0; i < m->count; i++)
        for (size_t k = 0; k < m->entries[i].value_len; k++)
            m->entries[i].value[k] ^= 0xff;
}

/* Good blocks of another file: everything but its properties and footer, or any part of it. */
static void test_blocks_of_another_file(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 60, .versions = 3, .key_max = 30, .value_max = 60});
    struct table_meta meta, other;
    struct table *t;
    struct cache *cache;
    build(&m, 1, 256, &meta);
    invert_values(&m);
    build(&m, 2, 256, &other);
    invert_values(&m);
    assert_int_equal(meta.bytes, other.bytes);
    uint8_t *mine = malloc(meta.bytes), *bytes = malloc(meta.bytes);
    assert_true(mine && bytes);
    read_at(1, mine, meta.bytes, 0);
    read_at(2, bytes, meta.bytes, 0);
    struct table_footer footer;
    read_at(1, &footer, sizeof(footer), meta.bytes - sizeof(footer));
    uint64_t blocks_end = get_le64(footer.filter.offset);
    for (int round = 0; round < 100; round++) {
        uint64_t at = round ? model_below(meta.bytes) : 0;
        uint64_t len = round ? 1 + model_below(meta.bytes - at) : blocks_end;
        write_at(1, bytes + at, len, at);
        if (memcmp(mine + at, bytes + at, len) != 0)
            check_damaged(&m, &meta, at, at + len - 1);
        write_at(1, mine + at, len, at);
    }
    write_at(1, bytes, other.bytes, 0); /* the whole file of table 2 under the name of table 1 */
    assert_int_equal(cache_new(1u << 20, &cache), 0);
    assert_int_equal(open_table(&meta, cache, &t), -EIO);
    other.entries++; /* the manifest says something else than the file */
    assert_int_equal(open_table(&other, cache, &t), -EIO);
    other.entries--;
    other.bytes--;
    assert_int_equal(open_table(&other, cache, &t), -EIO);
    other.number = 3;
    assert_int_equal(open_table(&other, cache, &t), -ENOENT);
    cache_free(cache);
    free(bytes);
    free(mine);
    table_meta_free(&meta);
    table_meta_free(&other);
    model_free(&m);
}

/* A good block in the place of another one of the same file and length. */
static void test_block_in_wrong_place(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    struct model m = {calloc(COUNT, sizeof(struct model_entry)), COUNT};
    struct table_meta meta;
    struct table_footer footer;
    for (uint32_t i = 0; i < COUNT; i++) {
        uint8_t key[8];
        put_be64(key, i);
        model_set(&m.entries[i], key, sizeof(key), i + 1, 8);
    }
    build(&m, 1, 256, &meta);
    read_at(1, &footer, sizeof(footer), meta.bytes - sizeof(footer));
    uint64_t offset = get_le64(footer.root.offset), len = get_le64(footer.root.length);
    uint8_t *root = malloc(len);
    assert_non_null(root);
    read_at(1, root, len, offset);
    struct block_iter it;
    assert_int_equal(block_iter_init(&it, root, len), 0);
    block_iter_first(&it);
    assert_true(it.valid);
    struct reader r = reader_of(it.value, it.value_len);
    assert_int_equal(read_varint(&r), 0);
    size_t bytes = read_varint(&r) + TABLE_TRAILER_BYTES;
    uint8_t first[512], second[512];
    assert_true(bytes <= sizeof(first));
    block_iter_next(&it);
    r = reader_of(it.value, it.value_len);
    assert_int_equal(read_varint(&r), bytes); /* the same length, or this test shows nothing */
    assert_int_equal(read_varint(&r) + TABLE_TRAILER_BYTES, bytes);
    read_at(1, first, bytes, 0);
    read_at(1, second, bytes, bytes);
    write_at(1, second, bytes, 0);
    check_damaged(&m, &meta, 0, bytes - 1);
    write_at(1, first, bytes, 0);
    write_at(1, first, bytes, bytes);
    check_damaged(&m, &meta, bytes, 2 * bytes - 1);
    free(root);
    table_meta_free(&meta);
    model_free(&m);
}

/* A file of a later release is refused, not called damaged. */
static void test_newer_version(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 10, .versions = 1, .key_max = 30, .value_max = 60});
    struct table_meta meta;
    struct table_footer good, f;
    struct table *t;
    struct cache *cache;
    build(&m, 1, 0, &meta);
    uint64_t offset = meta.bytes - sizeof(good);
    read_at(1, &good, sizeof(good), offset);
    assert_int_equal(cache_new(1u << 20, &cache), 0);
    for (int what = 0; what < 3; what++) {
        f = good;
        put_le32(what == 0 ? f.version : what == 1 ? f.incompat : f.compat, 0x80);
        put_le64(f.checksum, table_footer_checksum(&f, offset));
        write_at(1, &f, sizeof(f), offset);
        int err = open_table(&meta, cache, &t);
        assert_int_equal(err, what < 2 ? -ENOTSUP : 0);
        if (!err)
            table_close(t);
    }
    write_at(1, &good, sizeof(good), offset);

    /* A data block compressed in another way; the model fits into one, at offset 0. */
    uint64_t len = get_le64(good.root.offset) - TABLE_TRAILER_BYTES;
    uint8_t *block = malloc(len + TABLE_TRAILER_BYTES);
    assert_non_null(block);
    read_at(1, block, len + TABLE_TRAILER_BYTES, 0);
    block[len] = TABLE_COMPRESSION_ZSTD + 1;
    put_le64(block + len + TABLE_TRAILER_HASHED, table_block_checksum(1, 0, block, len));
    write_at(1, block, len + TABLE_TRAILER_BYTES, 0);
    free(block);
    assert_int_equal(open_table(&meta, cache, &t), 0);
    assert_int_equal(check_get(&m, t, m.entries[0].key.key, m.entries[0].key.len, SEQ_MAX, 0), -ENOTSUP);
    table_close(t);
    cache_free(cache);
    table_meta_free(&meta);
    model_free(&m);
}

/* One key and a value of len bytes, which lies in the first block. */
static struct model one_value(size_t len, bool random)
{
    struct model m = {calloc(1, sizeof(struct model_entry)), 1};
    assert_non_null(m.entries);
    model_set(&m.entries[0], (const uint8_t *)"key", 3, 9, len);
    m.entries[0].key.type = ENTRY_PUT;
    for (size_t i = 0; random && i < len; i++)
        m.entries[0].value[i] = (uint8_t)model_random();
    return m;
}

static struct table_footer footer_of(const struct table_meta *meta)
{
    struct table_footer f;
    read_at(meta->number, &f, sizeof(f), meta->bytes - sizeof(f));
    return f;
}

/* Where packing does not pay nothing is packed, and the table is one that release 0.1 reads. */
static void test_compression_pays(void **state)
{
    (void)state;
    for (unsigned how = TABLE_COMPRESSION_NONE; how <= TABLE_COMPRESSION_ZSTD; how++) {
        for (unsigned random = 0; random < 2; random++) {
            struct model m = one_value(100000, random);
            struct table_meta meta;
            compression = (enum table_compression)how;
            build(&m, 1, 0, &meta);
            struct table_footer f = footer_of(&meta);
            bool packs = how != TABLE_COMPRESSION_NONE && !random;
            assert_int_equal(get_le32(f.incompat), packs ? TABLE_COMPRESSED : 0);
            assert_int_equal(meta.bytes < 10000, packs);
            check_table(&m, &meta, 10);
            table_meta_free(&meta);
            model_free(&m);
        }
    }
}

/* Packed blocks whose checksum is right and whose trailer, bytes or footer are not. */
static void test_hostile_packed_blocks(void **state)
{
    (void)state;
    for (unsigned how = TABLE_COMPRESSION_LZ4; how <= TABLE_COMPRESSION_ZSTD; how++) {
        struct model m = one_value(5000, false);
        struct table_meta meta;
        struct cache *cache;
        struct table *t;
        compression = (enum table_compression)how;
        build(&m, 1, 0, &meta);
        struct table_footer good = footer_of(&meta), f = good;
        uint64_t footer_at = meta.bytes - sizeof(f), len = 0;
        uint8_t block[4096], bad[4096];
        read_at(1, block, sizeof(block) < footer_at ? sizeof(block) : footer_at, 0);
        /* Its end: the first trailer that says so and whose checksum is right. */
        do
            len++;
        while (len + TABLE_TRAILER_BYTES < sizeof(block) &&
               (block[len] != how ||
                get_le64(block + len + TABLE_TRAILER_HASHED) != table_block_checksum(1, 0, block, len)));
        assert_true(len + TABLE_TRAILER_BYTES < sizeof(block));
        assert_int_equal(cache_new(1u << 20, &cache), 0);
        uint32_t raw_len = get_le32(block + len + 4);
        for (unsigned i = 0; i < 2000; i++) {
            static const uint32_t lens[] = {0, 1, UINT32_MAX, TABLE_BLOCK_MAX, TABLE_BLOCK_MAX + 1};
            memcpy(bad, block, sizeof(bad));
            unsigned what = i < 5 ? 0 : i < 7 ? 1 : i == 7 ? 2 : 3;
            if (what == 0)
                put_le32(bad + len + 4, lens[i]);
            else if (what == 1)
                put_le32(bad + len + 4, i == 5 ? raw_len - 1 : raw_len + 1);
            else if (what == 2)
                bad[len] = (uint8_t)(TABLE_COMPRESSION_LZ4 + TABLE_COMPRESSION_ZSTD - how);
            for (size_t n = what == 3 ? 1 + model_below(4) : 0; n > 0; n--)
                bad[model_below(len)] = (uint8_t)model_random();
            put_le64(bad + len + TABLE_TRAILER_HASHED, table_block_checksum(1, 0, bad, len));
            write_at(1, bad, len + TABLE_TRAILER_BYTES, 0);
            assert_int_equal(open_table(&meta, cache, &t), 0);
            struct ikey k;
            const uint8_t *value;
            size_t value_len;
            struct cache_block *pin;
            /* The bytes are those of another value, or none at all: no access out of bounds, the sanitizer looks. */
            int err = table_get(t, "key", 3, SEQ_MAX, LSM_NOFILL, &k, &value, &value_len, &pin);
            assert_true(err == -EIO || (what == 3 && (err == 0 || err == -ENOENT)));
            if (!err)
                table_release(t, pin);
            table_close(t);
        }
        write_at(1, block, len + TABLE_TRAILER_BYTES, 0);
        put_le32(f.incompat, 0); /* the footer denies that there are such blocks */
        put_le64(f.checksum, table_footer_checksum(&f, footer_at));
        write_at(1, &f, sizeof(f), footer_at);
        assert_int_equal(open_table(&meta, cache, &t), 0);
        assert_int_equal(check_get(&m, t, (const uint8_t *)"key", 3, SEQ_MAX, LSM_NOFILL), -EIO);
        table_close(t);
        write_at(1, &good, sizeof(good), footer_at);
        check_table(&m, &meta, 10);
        cache_free(cache);
        table_meta_free(&meta);
        model_free(&m);
    }
}

/* Arbitrary bytes as a block: no access out of bounds (the sanitizer looks), no endless loop. */
static void test_hostile_blocks(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 60, .versions = 3, .key_max = 60, .value_max = 60});
    struct block_builder b;
    block_builder_init(&b, 4);
    for (size_t i = 0; i < m.count; i++)
        assert_int_equal(block_builder_add(&b, &m.entries[i].key, m.entries[i].value, m.entries[i].value_len),
                         0);
    size_t predicted = block_builder_bytes(&b);
    assert_int_equal(block_builder_finish(&b), 0);
    assert_int_equal(b.len, predicted);
    for (int round = 0; round < 20000; round++) {
        size_t len = model_below(4) ? b.len : model_below(b.len + 1);
        uint8_t *data = malloc(len ? len : 1);
        assert_non_null(data);
        memcpy(data, b.buf + b.len - len, len);
        for (size_t n = model_below(8); n > 0 && len > 0; n--)
            data[model_below(3) ? model_below(len) : len - 1 - model_below(len < 40 ? len : 40)] =
                (uint8_t)model_random();
        struct block_iter it;
        if (block_iter_init(&it, data, len) == 0) {
            size_t moves = 0;
            for (block_iter_first(&it); it.valid; block_iter_next(&it))
                assert_true(++moves <= len);
            for (block_iter_last(&it); it.valid; block_iter_prev(&it))
                assert_true(++moves <= 2 * len);
            if (m.count > 0)
                block_iter_seek(&it, &m.entries[model_below(m.count)].key);
            for (int n = 0; n < 20 && it.valid; n++) {
                if (model_below(2))
                    block_iter_next(&it);
                else
                    block_iter_prev(&it);
            }
        }
        free(data);
    }
    block_builder_free(&b);
    model_free(&m);
}

/* Two entries by hand, the second one's key of `shared` + `unshared` bytes. */
static int second_key_len(uint64_t shared, uint64_t unshared)
{
    static uint8_t data[4096];
    uint8_t *p = data;
    const uint64_t lens[2][2] = {{0, 10}, {shared, unshared}};
    for (int i = 0; i < 2; i++) {
        p = put_varint(put_varint(put_varint(p, lens[i][0]), lens[i][1]), 0);
        put_le64(p, UINT64_C(5) << 8 | ENTRY_PUT);
        memset(p + 8, 'a' + i, lens[i][1]);
        p += 8 + lens[i][1];
    }
    put_le32(p, 0);
    put_le32(p + 4, 1);
    struct block_iter it;
    assert_int_equal(block_iter_init(&it, data, (size_t)(p + 8 - data)), 0);
    block_iter_first(&it);
    assert_true(it.valid);
    block_iter_next(&it);
    assert_int_equal(it.bad, !it.valid);
    return it.valid ? (int)it.key.len : -EIO;
}

static void test_key_lengths_in_block(void **state)
{
    (void)state;
    assert_int_equal(second_key_len(10, 1014), LSM_KEY_MAX);
    assert_int_equal(second_key_len(0, 1024), LSM_KEY_MAX);
    assert_int_equal(second_key_len(10, 1015), -EIO);
    assert_int_equal(second_key_len(0, 1025), -EIO);
    assert_int_equal(second_key_len(11, 1), -EIO); /* more than there is to share */
}

/* ---- threads ---- */

struct readers {
    const struct model *m;
    struct table *t;
    unsigned failures; /* atomic */
    uint64_t seed;     /* atomic */
};

/* cmocka's assertions are for the main thread: failures are counted. */
static void read_randomly(void *arg)
{
    struct readers *r = arg;
    uint64_t x = __atomic_add_fetch(&r->seed, 0x9e3779b97f4a7c15, __ATOMIC_RELAXED);
    struct iter *it;
    unsigned failures = table_iter_new(r->t, 0, &it) != 0;
    for (int n = 0; n < 1500 && !failures; n++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        size_t i = (size_t)(x >> 33) % r->m->count;
        const struct model_entry *e = &r->m->entries[i];
        struct ikey k;
        const uint8_t *value;
        size_t value_len;
        struct cache_block *pin;
        if (table_get(r->t, e->key.key, e->key.len, e->key.seq, 0, &k, &value, &value_len, &pin)) {
            failures++;
            continue;
        }
        iter_seek(it, e->key.key, e->key.len, e->key.seq);
        for (size_t k2 = i; k2 < i + 5 && k2 < r->m->count && !failures; k2++, iter_next(it))
            failures += !it->valid || !model_equal(&r->m->entries[k2], &it->key, it->value, it->value_len);
        failures += !model_equal(e, &k, value, value_len);
        table_release(r->t, pin);
    }
    uint64_t bad;
    failures += table_verify(r->t, &bad) != 0;
    iter_free(it);
    __atomic_fetch_add(&r->failures, failures, __ATOMIC_RELAXED);
}

static void test_concurrent_readers(void **state)
{
    (void)state;
    struct model m =
        model_make((struct model_options){.keys = 1500, .versions = 3, .key_max = 60, .value_max = 300});
    struct table_meta meta;
    struct cache *cache;
    struct readers r = {.m = &m, .seed = model_random()};
    struct env_thread *threads[4];
    build(&m, 1, 1024, &meta);
    assert_int_equal(cache_new(30000, &cache), 0);
    assert_int_equal(open_table(&meta, cache, &r.t), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(env_thread_start(env, "reader", -1, read_randomly, &r, &threads[i]), 0);
    for (int i = 0; i < 4; i++)
        env_thread_join(env, threads[i]);
    assert_int_equal(r.failures, 0);
    struct cache_stats s;
    cache_stats_get(cache, &s);
    assert_true(s.bytes <= s.capacity_bytes);
    table_close(r.t);
    cache_free(cache);
    table_meta_free(&meta);
    model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_model, setup, teardown),
        cmocka_unit_test_setup_teardown(test_versions_straddle_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_entry_and_empty_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_huge_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deep_index, setup, teardown),
        cmocka_unit_test_setup_teardown(test_builder_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nowait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nofill, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filter_in_table, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failing_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failing_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_byte_flipped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_packed_byte_flipped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compression_pays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_packed_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_blocks_of_another_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_block_in_wrong_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_newer_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_key_lengths_in_block, setup, teardown),
        cmocka_unit_test_setup_teardown(test_concurrent_readers, setup, teardown),
    };
    model_start("test_table");
    return model_end("test_table", cmocka_run_group_tests(tests, NULL, NULL));
}
