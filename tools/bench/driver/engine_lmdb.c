/*
 * engine_lmdb.c - LMDB, a B-tree in a mapping, for reference. It has no write buffer, no cache of its own, no
 * filters and no compression. Unsynced writes are transactions with MDB_NOSYNC, which survive the process but may
 * break the file in a power cut: the nearest it has. One writer at a time.
 */
#include "bench.h"

#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>

struct lm {
    MDB_env *env;
    MDB_dbi dbi;
};

struct lm_iter {
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, value;
    bool valid;
};

static void check(int r, const char *what)
{
    if (r)
        fail("lmdb: %s: %s", what, mdb_strerror(r));
}

static const char *version(void) { return mdb_version(NULL, NULL, NULL); }

static void *lm_open(const struct config *c)
{
    struct lm *l = calloc(1, sizeof *l);
    MDB_txn *txn;

    if (!l)
        fail("out of memory");
    check(mdb_env_create(&l->env), "create");
    check(mdb_env_set_mapsize(l->env, (size_t)1 << 36), "map size");
    check(mdb_env_set_maxreaders(l->env, 64), "readers");
    check(mdb_env_open(l->env, c->dir, MDB_NOSYNC | MDB_NOTLS | MDB_NORDAHEAD, 0600), "open");
    check(mdb_txn_begin(l->env, NULL, 0, &txn), "begin");
    check(mdb_dbi_open(txn, NULL, 0, &l->dbi), "open");
    check(mdb_txn_commit(txn), "commit");
    return l;
}

static void lm_close(void *db)
{
    struct lm *l = db;

    mdb_env_close(l->env);
    free(l);
}

static void put(void *db, const void *key, const void *value, size_t value_len, bool sync)
{
    struct lm *l = db;
    MDB_val k = {KEY_BYTES, (void *)key}, v = {value_len, (void *)value};
    MDB_txn *txn;

    check(mdb_txn_begin(l->env, NULL, 0, &txn), "begin");
    check(mdb_put(txn, l->dbi, &k, &v, 0), "put");
    check(mdb_txn_commit(txn), "commit");
    if (sync)
        check(mdb_env_sync(l->env, 1), "sync");
}

static void lm_remove(void *db, const void *key)
{
    struct lm *l = db;
    MDB_val k = {KEY_BYTES, (void *)key};
    MDB_txn *txn;

    check(mdb_txn_begin(l->env, NULL, 0, &txn), "begin");
    int r = mdb_del(txn, l->dbi, &k, NULL);
    if (r != MDB_NOTFOUND)
        check(r, "delete");
    check(mdb_txn_commit(txn), "commit");
}

static bool get(void *db, const void *key, size_t *value_len)
{
    static __thread MDB_txn *txn;
    static __thread struct lm *of;
    struct lm *l = db;
    MDB_val k = {KEY_BYTES, (void *)key}, v;

    if (of != l) {
        check(mdb_txn_begin(l->env, NULL, MDB_RDONLY, &txn), "begin");
        of = l;
    } else {
        check(mdb_txn_renew(txn), "renew");
    }
    int r = mdb_get(txn, l->dbi, &k, &v);
    if (!r) {
        touch(v.mv_data, v.mv_size);
        *value_len = v.mv_size;
    } else if (r != MDB_NOTFOUND) {
        check(r, "get");
    }
    mdb_txn_reset(txn);
    return !r;
}

static void *iter_new(void *db)
{
    struct lm *l = db;
    struct lm_iter *it = calloc(1, sizeof *it);

    if (!it)
        fail("out of memory");
    check(mdb_txn_begin(l->env, NULL, MDB_RDONLY, &it->txn), "begin");
    check(mdb_cursor_open(it->txn, l->dbi, &it->cursor), "cursor");
    return it;
}

static void move(struct lm_iter *it, MDB_cursor_op op)
{
    int r = mdb_cursor_get(it->cursor, &it->key, &it->value, op);

    it->valid = !r;
    if (r != MDB_NOTFOUND)
        check(r, "cursor");
}

static void iter_seek(void *iter, const void *key)
{
    struct lm_iter *it = iter;

    it->key = (MDB_val){KEY_BYTES, (void *)key};
    move(it, key ? MDB_SET_RANGE : MDB_FIRST);
}

static bool iter_get(void *iter, size_t *bytes)
{
    struct lm_iter *it = iter;

    if (!it->valid)
        return false;
    touch(it->value.mv_data, it->value.mv_size);
    *bytes = it->key.mv_size + it->value.mv_size;
    return true;
}

static void iter_next(void *it) { move(it, MDB_NEXT); }

static void iter_free(void *iter)
{
    struct lm_iter *it = iter;

    mdb_cursor_close(it->cursor);
    mdb_txn_abort(it->txn);
    free(it);
}

static void flush(void *db)
{
    struct lm *l = db;

    check(mdb_env_sync(l->env, 1), "sync");
}

const struct engine engine_lmdb = {
    .name = "lmdb",
    .version = version,
    .open = lm_open,
    .close = lm_close,
    .put = put,
    .remove = lm_remove,
    .get = get,
    .iter_new = iter_new,
    .iter_seek = iter_seek,
    .iter_next = iter_next,
    .iter_get = iter_get,
    .iter_free = iter_free,
    .flush = flush,
};
