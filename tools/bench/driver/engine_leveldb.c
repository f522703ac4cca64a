/* engine_leveldb.c - LevelDB through its C interface. It has no call to flush: closing keeps all in its log. */
#include "bench.h"

#include <leveldb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct level {
    leveldb_t *db;
    leveldb_options_t *options;
    leveldb_cache_t *cache;
    leveldb_filterpolicy_t *filter;
    leveldb_writeoptions_t *write, *write_sync;
    leveldb_readoptions_t *read;
};

static void check(char *error, const char *what)
{
    if (error)
        fail("leveldb: %s: %s", what, error);
}

static const char *version(void)
{
    static char text[32];

    (void)snprintf(text, sizeof text, "%d.%d", leveldb_major_version(), leveldb_minor_version());
    return text;
}

static void *level_open(const struct config *c)
{
    struct level *l = calloc(1, sizeof *l);
    char *error = NULL;

    if (!l)
        fail("out of memory");
    l->options = leveldb_options_create();
    l->cache = leveldb_cache_create_lru(c->cache_bytes);
    l->filter = leveldb_filterpolicy_create_bloom((int)c->filter_bits);
    leveldb_options_set_create_if_missing(l->options, 1);
    leveldb_options_set_write_buffer_size(l->options, c->write_buffer_bytes);
    leveldb_options_set_cache(l->options, l->cache);
    leveldb_options_set_filter_policy(l->options, l->filter);
    /* It knows no LZ4: Snappy is what stands nearest. */
    leveldb_options_set_compression(l->options, strcmp(c->compression, "none") ? leveldb_snappy_compression
                                                                               : leveldb_no_compression);
    l->db = leveldb_open(l->options, c->dir, &error);
    check(error, "open");
    l->write = leveldb_writeoptions_create();
    l->write_sync = leveldb_writeoptions_create();
    leveldb_writeoptions_set_sync(l->write_sync, 1);
    l->read = leveldb_readoptions_create();
    return l;
}

static void level_close(void *db)
{
    struct level *l = db;

    leveldb_close(l->db);
    leveldb_options_destroy(l->options);
    leveldb_cache_destroy(l->cache);
    leveldb_filterpolicy_destroy(l->filter);
    leveldb_writeoptions_destroy(l->write);
    leveldb_writeoptions_destroy(l->write_sync);
    leveldb_readoptions_destroy(l->read);
    free(l);
}

static void put(void *db, const void *key, const void *value, size_t value_len, bool sync)
{
    struct level *l = db;
    char *error = NULL;

    leveldb_put(l->db, sync ? l->write_sync : l->write, key, KEY_BYTES, value, value_len, &error);
    check(error, "put");
}

static void level_remove(void *db, const void *key)
{
    struct level *l = db;
    char *error = NULL;

    leveldb_delete(l->db, l->write, key, KEY_BYTES, &error);
    check(error, "delete");
}

static bool get(void *db, const void *key, size_t *value_len)
{
    struct level *l = db;
    char *error = NULL;
    char *v = leveldb_get(l->db, l->read, key, KEY_BYTES, value_len, &error);

    check(error, "get");
    if (!v)
        return false;
    touch(v, *value_len);
    leveldb_free(v);
    return true;
}

static void *iter_new(void *db)
{
    struct level *l = db;

    return leveldb_create_iterator(l->db, l->read);
}

static void iter_seek(void *it, const void *key)
{
    if (key)
        leveldb_iter_seek(it, key, KEY_BYTES);
    else
        leveldb_iter_seek_to_first(it);
}

static bool iter_get(void *it, size_t *bytes)
{
    size_t key_len, value_len;
    char *error = NULL;

    if (!leveldb_iter_valid(it)) {
        leveldb_iter_get_error(it, &error);
        check(error, "iterator");
        return false;
    }
    leveldb_iter_key(it, &key_len);
    const void *value = leveldb_iter_value(it, &value_len);
    touch(value, value_len);
    *bytes = key_len + value_len;
    return true;
}

static void iter_next(void *it) { leveldb_iter_next(it); }
static void iter_free(void *it) { leveldb_iter_destroy(it); }
static void flush(void *db) { (void)db; }

const struct engine engine_leveldb = {
    .name = "leveldb",
    .version = version,
    .open = level_open,
    .close = level_close,
    .put = put,
    .remove = level_remove,
    .get = get,
    .iter_new = iter_new,
    .iter_seek = iter_seek,
    .iter_next = iter_next,
    .iter_get = iter_get,
    .iter_free = iter_free,
    .flush = flush,
};
