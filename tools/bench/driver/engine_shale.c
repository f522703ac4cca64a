/* engine_shale.c - our own engine, as a program would use it: the defaults, but for what is set equal for all. */
#include "bench.h"

#include <errno.h>
#include <shale/lsm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int r, const char *what)
{
    if (r < 0)
        fail("shale: %s: %s", what, strerror(-r));
}

static void log_line(void *arg, enum lsm_log_level level, const char *message)
{
    (void)arg;
    if (level <= LSM_LOG_WARNING)
        fprintf(stderr, "shale: %s\n", message);
}

static const char *version(void) { return SHALE_VERSION; }

/* As engine_rocksdb.c has it: with zstd the levels above the last are packed by lz4. */
static enum lsm_compression compression(const char *name)
{
    return !strcmp(name, "lz4")    ? LSM_COMPRESSION_LZ4
           : !strcmp(name, "zstd") ? LSM_COMPRESSION_AUTO
                                   : LSM_COMPRESSION_NONE;
}

static void *shale_open(const struct config *c)
{
    struct lsm_options o = {.flags = LSM_CREATE, .log = log_line};
    struct lsm *db;

    o.shards = 2;
    o.compression = compression(c->compression);
    o.commit_ms = 3600u * 1000; /* the others sync only when told to */
    o.write_buffer_bytes = c->write_buffer_bytes / o.shards;
    /* The cache is 3/8 of the memory. */
    o.memory_bytes = c->cache_bytes / 3 * 8;
    if (c->write_buffer_bytes > (32u << 20)) /* the log must hold what the buffers do */
        o.log_budget_bytes = 4 * c->write_buffer_bytes;
    check(lsm_open(c->dir, &o, &db), "open");
    return db;
}

static void shale_close(void *db) { check(lsm_close(db), "close"); }

static void put(void *db, const void *key, const void *value, size_t value_len, bool sync)
{
    check(lsm_put(db, key, KEY_BYTES, value, value_len, sync ? LSM_SYNC : 0), "put");
}

static void shale_remove(void *db, const void *key) { check(lsm_delete(db, key, KEY_BYTES, 0), "delete"); }

static bool get(void *db, const void *key, size_t *value_len)
{
    struct lsm_value v = {0};
    int r = lsm_get(db, key, KEY_BYTES, NULL, 0, &v);

    if (r == -ENOENT)
        return false;
    check(r, "get");
    touch(v.data, v.len);
    *value_len = v.len;
    lsm_value_release(&v);
    return true;
}

static void *iter_new(void *db)
{
    struct lsm_iter *it;

    check(lsm_iter_new(db, NULL, &it), "iterator");
    return it;
}

static void iter_seek(void *it, const void *key)
{
    if (key)
        lsm_iter_seek(it, key, KEY_BYTES);
    else
        lsm_iter_first(it);
}

static bool iter_get(void *it, size_t *bytes)
{
    size_t key_len, value_len;

    if (!lsm_iter_valid(it)) {
        check(lsm_iter_status(it), "iterator");
        return false;
    }
    lsm_iter_key(it, &key_len);
    const void *value = lsm_iter_value(it, &value_len);
    touch(value, value_len);
    *bytes = key_len + value_len;
    return true;
}

static void iter_next(void *it) { lsm_iter_next(it); }
static void iter_free(void *it) { lsm_iter_free(it); }
static void flush(void *db) { check(lsm_flush(db), "flush"); }

const struct engine engine_shale = {
    .name = "shale",
    .version = version,
    .open = shale_open,
    .close = shale_close,
    .put = put,
    .remove = shale_remove,
    .get = get,
    .iter_new = iter_new,
    .iter_seek = iter_seek,
    .iter_next = iter_next,
    .iter_get = iter_get,
    .iter_free = iter_free,
    .flush = flush,
};
