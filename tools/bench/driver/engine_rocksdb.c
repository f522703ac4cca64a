/* engine_rocksdb.c - RocksDB through its C interface. */
#include "bench.h"

#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rocks {
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_writeoptions_t *write, *write_sync;
    rocksdb_readoptions_t *read;
};

static void check(char *error, const char *what)
{
    if (error)
        fail("rocksdb: %s: %s", what, error);
}

static const char *version(void) { return ROCKSDB_VERSION; }

static int compression(const char *name)
{
    return !strcmp(name, "lz4")    ? rocksdb_lz4_compression
           : !strcmp(name, "zstd") ? rocksdb_zstd_compression
                                   : rocksdb_no_compression;
}

static void *rocks_open(const struct config *c)
{
    struct rocks *r = calloc(1, sizeof *r);
    char *error = NULL;

    if (!r)
        fail("out of memory");
    rocksdb_options_t *o = r->options = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(o, 1);
    rocksdb_options_increase_parallelism(o, 2);
    rocksdb_options_set_write_buffer_size(o, c->write_buffer_bytes);
    rocksdb_options_set_max_write_buffer_number(o, 3); /* one in use, two being flushed, as ours */
    /* Uncompressed above, as it is the usual advice and as ours has it: lz4 in upper levels, zstd in the last. */
    rocksdb_options_set_compression(o, compression(strcmp(c->compression, "zstd") ? c->compression : "lz4"));
    rocksdb_options_set_bottommost_compression(o, compression(c->compression));
    rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);

    rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(t, rocksdb_cache_create_lru(c->cache_bytes));
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(t, 1);
    rocksdb_block_based_options_set_filter_policy(
        t, rocksdb_filterpolicy_create_bloom_full((double)c->filter_bits));
    rocksdb_options_set_block_based_table_factory(o, t);

    r->db = rocksdb_open(o, c->dir, &error);
    check(error, "open");
    r->write = rocksdb_writeoptions_create();
    r->write_sync = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(r->write_sync, 1);
    r->read = rocksdb_readoptions_create();
    return r;
}

static void rocks_close(void *db)
{
    struct rocks *r = db;

    rocksdb_close(r->db);
    rocksdb_options_destroy(r->options);
    rocksdb_writeoptions_destroy(r->write);
    rocksdb_writeoptions_destroy(r->write_sync);
    rocksdb_readoptions_destroy(r->read);
    free(r);
}

static void put(void *db, const void *key, const void *value, size_t value_len, bool sync)
{
    struct rocks *r = db;
    char *error = NULL;

    rocksdb_put(r->db, sync ? r->write_sync : r->write, key, KEY_BYTES, value, value_len, &error);
    check(error, "put");
}

static void rocks_remove(void *db, const void *key)
{
    struct rocks *r = db;
    char *error = NULL;

    rocksdb_delete(r->db, r->write, key, KEY_BYTES, &error);
    check(error, "delete");
}

static bool get(void *db, const void *key, size_t *value_len)
{
    struct rocks *r = db;
    char *error = NULL;
    rocksdb_pinnableslice_t *v = rocksdb_get_pinned(r->db, r->read, key, KEY_BYTES, &error);

    check(error, "get");
    if (!v)
        return false;
    const void *value = rocksdb_pinnableslice_value(v, value_len);
    touch(value, *value_len);
    rocksdb_pinnableslice_destroy(v);
    return true;
}

static void *iter_new(void *db)
{
    struct rocks *r = db;

    return rocksdb_create_iterator(r->db, r->read);
}

static void iter_seek(void *it, const void *key)
{
    if (key)
        rocksdb_iter_seek(it, key, KEY_BYTES);
    else
        rocksdb_iter_seek_to_first(it);
}

static bool iter_get(void *it, size_t *bytes)
{
    size_t key_len, value_len;
    char *error = NULL;

    if (!rocksdb_iter_valid(it)) {
        rocksdb_iter_get_error(it, &error);
        check(error, "iterator");
        return false;
    }
    rocksdb_iter_key(it, &key_len);
    const void *value = rocksdb_iter_value(it, &value_len);
    touch(value, value_len);
    *bytes = key_len + value_len;
    return true;
}

static void iter_next(void *it) { rocksdb_iter_next(it); }
static void iter_free(void *it) { rocksdb_iter_destroy(it); }

static void flush(void *db)
{
    struct rocks *r = db;
    char *error = NULL;
    rocksdb_flushoptions_t *o = rocksdb_flushoptions_create();

    rocksdb_flushoptions_set_wait(o, 1);
    rocksdb_flush(r->db, o, &error);
    check(error, "flush");
    rocksdb_flushoptions_destroy(o);
}

const struct engine engine_rocksdb = {
    .name = "rocksdb",
    .version = version,
    .open = rocks_open,
    .close = rocks_close,
    .put = put,
    .remove = rocks_remove,
    .get = get,
    .iter_new = iter_new,
    .iter_seek = iter_seek,
    .iter_next = iter_next,
    .iter_get = iter_get,
    .iter_free = iter_free,
    .flush = flush,
};
