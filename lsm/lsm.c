/*
 * lsm.c - opening and closing a store.
 *
 * A store's directory holds LOCK, MANIFEST, NNNNNN.log (segments of the log), NNNNNN.sst (tables), NNNNNN.blob
 * (large values) and RESERVE (see space.h), all with mode 0600. A directory is taken for a store if it has a MANIFEST; a new one
 * is made only where there is nothing (or what an interrupted creation left behind).
 */
#include "db.h"
#include "mutant.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define MIB (UINT64_C(1) << 20)
#define MEMORY_DEFAULT (256 * MIB)
#define MEMORY_MIN (8 * MIB)
#define SEGMENT_DEFAULT (16 * MIB)
#define DELETE_AGE_S_DEFAULT (24u * 3600u)
#define BLOB_MIN_DEFAULT (16u << 10)
#define BLOB_MIN_MIN 512u /* a pointer takes up to 50 bytes, and reading through one a request more */
#define BLOB_FILE_DEFAULT (32 * MIB)
#define BLOB_FILE_MIN (16u << 10)

int db_writable(const struct lsm *db)
{
    if (db->read_only)
        return -EROFS;
    return __atomic_load_n(&db->failed, __ATOMIC_RELAXED) ? -EROFS : 0;
}

void db_fail(struct lsm *db, int error, const char *what)
{
    int none = 0;
    assert(error < 0);
    if (!__atomic_compare_exchange_n(&db->failed, &none, error, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return;
    logger_write(&db->log, LSM_LOG_ERROR,
                 "%s: %s (%s): the store is read-only from now on; what was synced before is safe", db->path,
                 what, strerror(-error));
}

unsigned db_route(const struct lsm *db, const void *key, size_t len)
{
    uint64_t h =
        db->options.route ? db->options.route(db->options.callback_arg, key, len) : XXH3_64bits(key, len);
    return (unsigned)(h % db->shard_count);
}

unsigned lsm_shards(const struct lsm *db) { return db->shard_count; }

unsigned lsm_shard_of(const struct lsm *db, const void *key, size_t key_len)
{
    return db_route(db, key, key_len);
}

/* ---- options ---- */

static size_t clamp(size_t v, size_t low, size_t high) { return v < low ? low : v > high ? high : v; }

static int fill_options(struct lsm_options *o)
{
    if (!o->env)
        o->env = env_posix();
    if (!o->shards) {
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        o->shards = (unsigned)clamp(cpus > 0 ? (size_t)cpus : 1, 2, SHARDS_MAX);
    }
    if (!o->memory_bytes)
        o->memory_bytes = MEMORY_DEFAULT;
    if (o->shards > SHARDS_MAX || o->memory_bytes < MEMORY_MIN)
        return -EINVAL;
    if (!o->table_bytes)
        o->table_bytes = 8 * MIB;
    if (!o->block_bytes)
        o->block_bytes = 8 << 10;
    if (!o->log_segment_bytes)
        o->log_segment_bytes = SEGMENT_DEFAULT;
    if (o->log_segment_bytes < WAL_SEGMENT_MIN || o->log_segment_bytes > WAL_SEGMENT_MAX ||
        o->log_segment_bytes % 4096)
        return -EINVAL;
    if (!o->blob_min_bytes)
        o->blob_min_bytes = BLOB_MIN_DEFAULT;
    if (!o->blob_file_bytes)
        o->blob_file_bytes = BLOB_FILE_DEFAULT;
    if (o->compression > LSM_COMPRESSION_ZSTD || o->blob_min_bytes < BLOB_MIN_MIN ||
        o->blob_file_bytes < BLOB_FILE_MIN)
        return -EINVAL;
    if (!o->commit_ms)
        o->commit_ms = 1000;
    if (!o->level_ratio)
        o->level_ratio = 10;
    if (!o->delete_age_s)
        o->delete_age_s = DELETE_AGE_S_DEFAULT;
    return o->level_ratio < 2 ? -EINVAL : 0;
}

enum table_compression db_compression(const struct lsm_options *o, unsigned level)
{
    switch (o->compression) {
    case LSM_COMPRESSION_NONE: return TABLE_COMPRESSION_NONE;
    case LSM_COMPRESSION_LZ4: return TABLE_COMPRESSION_LZ4;
    case LSM_COMPRESSION_ZSTD: return TABLE_COMPRESSION_ZSTD;
    default: return level == LSM_LEVELS - 1 ? TABLE_COMPRESSION_ZSTD : TABLE_COMPRESSION_LZ4;
    }
}

/* What depends on properties of the store that is being opened. */
static void fit_options(struct lsm *db, const struct store_identity *id)
{
    struct lsm_options *o = &db->options;
    o->shards = db->shard_count = id->shards;
    o->log_segment_bytes = id->log_segment_bytes;
    if (!o->write_buffer_bytes)
        o->write_buffer_bytes = clamp(o->memory_bytes / (8 * (size_t)o->shards), MIB, 64 * MIB);
    if (!o->log_budget_bytes)
        o->log_budget_bytes = 4 * o->log_segment_bytes;
}

/*
 * Of the memory: three eighths for write buffers (one being filled and SEALED_MAX waiting, of an eighth
 * in all shards together), three for the cache, and the rest for tables being written and for the caller.
 */
static size_t cache_share(const struct lsm_options *o) { return o->memory_bytes / 8 * 3; }

/* ---- the directory ---- */

struct contents {
    bool manifest, parts, other; /* parts: tables or segments of the log */
};

static bool is_part(const char *name)
{
    size_t digits = strspn(name, "0123456789");
    return digits >= 6 && (strcmp(name + digits, ".sst") == 0 || strcmp(name + digits, ".log") == 0 ||
                           strcmp(name + digits, ".blob") == 0);
}

static int note_file(void *arg, const char *name)
{
    struct contents *c = arg;
    if (strcmp(name, "MANIFEST") == 0)
        c->manifest = true;
    else if (is_part(name))
        c->parts = true;
    else if (strcmp(name, "LOCK") != 0 && strcmp(name, "MANIFEST.new") != 0 && strcmp(name, "RESERVE") != 0)
        c->other = true;
    return 0;
}

static char *path_in(const struct lsm *db, const char *name)
{
    char *p;
    return asprintf(&p, "%s/%s", db->path, name) < 0 ? NULL : p;
}

static int look_at(struct lsm *db, struct contents *c)
{
    *c = (struct contents){0};
    return env_list(db->env, db->path, note_file, c);
}

/* Decides between an existing store and a new one, and takes the lock. */
static int lock_directory(struct lsm *db, bool *create)
{
    bool may_create = (db->options.flags & LSM_CREATE) && !db->read_only;
    struct contents c;
    int err = look_at(db, &c);
    if (err == -ENOENT && may_create) {
        err = env_mkdir(db->env, db->path);
        if (!err || err == -EEXIST)
            err = look_at(db, &c);
    }
    if (err)
        return err;
    if (!c.manifest && c.parts) {
        (void)logger_corrupt(&db->log, db->path, 0, "there are tables or log segments, but no MANIFEST");
        return -EUCLEAN;
    }
    if (!c.manifest && c.other)
        return -ENOTEMPTY;
    if (!c.manifest && !may_create)
        return -ENOENT;
    char *path = path_in(db, "LOCK");
    if (!path)
        return -ENOMEM;
    if (!(db->options.flags & LSM_NOLOCK))
        err = env_lock(db->env, path, !db->read_only, &db->lock);
    free(path);
    if (err == -EPERM)
        logger_write(
            &db->log, LSM_LOG_ERROR,
            "%s: belongs to another user, or others may write to it: chmod go-w it, or use it as its owner",
            db->path);
    if (err)
        return err;
    /* Another process may have created the store before we had the lock. */
    err = look_at(db, &c);
    *create = !c.manifest;
    return err;
}

/*
 * Brings the name of a new store's directory to the medium, whoever made it: else a power cut takes the store
 * as a whole, with all that was synced. A parent that may be searched but not read can't be synced by us.
 */
static int sync_parent(struct lsm *db)
{
    char *parent = strdup(db->path);
    if (!parent)
        return -ENOMEM;
    size_t n = strlen(parent);
    while (n > 1 && parent[n - 1] == '/')
        n--;
    while (n > 0 && parent[n - 1] != '/')
        n--;
    while (n > 1 && parent[n - 1] == '/')
        n--;
    parent[n] = 0;
    int err = env_sync_dir(db->env, n ? parent : ".");
    if (err == -EACCES) {
        logger_write(&db->log, LSM_LOG_WARNING, "%s: can't be read, so the new store in it is not synced yet",
                     parent);
        err = 0;
    }
    free(parent);
    return err;
}

static int open_vset(struct lsm *db, bool create)
{
    struct vset_options vo = {
        .env = db->env,
        .dir = db->path,
        .read_only = db->read_only,
        .cache = db->cache,
        .reader_stats = &db->reader_stats,
        .log = db->log,
        .level_ratio = db->options.level_ratio,
        .table_bytes = db->options.table_bytes,
        .write_buffer_bytes = db->options.write_buffer_bytes ? db->options.write_buffer_bytes : 16 * MIB,
        .no_space = space_for_manifest,
        .no_space_arg = db,
    };
    if (create) {
        struct store_identity id = {
            .shards = db->options.shards,
            .log_segment_bytes = db->options.log_segment_bytes,
            .incompat = STORE_FUSE_FILTERS |
                        (db->options.compression == LSM_COMPRESSION_NONE ? 0 : STORE_COMPRESSION)};
        int err = env_random(db->env, id.uuid, sizeof id.uuid);
        if (!err)
            err = mutant("directory of a new store not synced") ? 0 : sync_parent(db);
        if (!err)
            err = vset_create(&vo, &id);
        if (err)
            return err;
    }
    return vset_open(&vo, &db->vset);
}

static int init_shards(struct lsm *db)
{
    pthread_condattr_t mono;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    for (unsigned i = 0; i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        s->db = db;
        s->index = i;
        pthread_mutex_init(&s->lock, NULL);
        pthread_mutex_init(&s->work_lock, NULL);
        pthread_mutex_init(&s->step_lock, NULL);
        blob_init(s);
        pthread_cond_init(&s->work, &mono);
        pthread_cond_init(&s->done, &mono);
    }
    pthread_condattr_destroy(&mono);
    int err = 0;
    for (unsigned i = 0; !err && i < db->shard_count; i++)
        err = view_init(&db->shards[i], db->options.write_buffer_bytes, vset_current(db->vset, i));
    return err;
}

static void release(struct lsm *db)
{
    blob_forget_dirty(db);
    for (unsigned i = 0; i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        view_destroy(s);
        if (s->db) {
            blob_destroy(s);
            pthread_mutex_destroy(&s->lock);
            pthread_mutex_destroy(&s->work_lock);
            pthread_mutex_destroy(&s->step_lock);
            pthread_cond_destroy(&s->work);
            pthread_cond_destroy(&s->done);
        }
    }
    if (db->vset) {
        vset_collect(db->vset);
        vset_close(db->vset);
    }
    if (db->cache)
        cache_free(db->cache);
    space_close(db);
    env_unlock(db->env, db->lock);
    snapshot_let_go(db);
    pthread_mutex_destroy(&db->named_lock);
    pthread_mutex_destroy(&db->space.lock);
    pthread_mutex_destroy(&db->snapshot_lock);
    pthread_mutex_destroy(&db->dirty_lock);
    free(db->path);
    free(db);
}

/* With threads the log sees to it by itself. On a full disk the first writer does (commit.c). */
static int make_spare_segment(struct lsm *db)
{
    space_opened(db);
    if (!db_inline(db))
        return 0;
    int err = wal_make_spare(db->wal);
    space_look(db);
    return err == -ENOSPC ? 0 : err;
}

int lsm_open(const char *path, const struct lsm_options *options, struct lsm **out)
{
    struct lsm *db = calloc(1, sizeof *db);
    if (!db)
        return -ENOMEM;
    if (options)
        db->options = *options;
    pthread_mutex_init(&db->snapshot_lock, NULL);
    pthread_mutex_init(&db->named_lock, NULL);
    pthread_mutex_init(&db->space.lock, NULL);
    db->space.headroom = INT64_MAX;
    pthread_mutex_init(&db->dirty_lock, NULL);
    db->snapshots.next = db->snapshots.prev = &db->snapshots;
    db->log = (struct logger){.fn = db->options.log, .arg = db->options.log_arg};
    db->read_only = db->options.flags & LSM_RDONLY;
    db->path = strdup(path);
    int err = db->path ? fill_options(&db->options) : -ENOMEM;
    db->env = db->options.env;
    bool create = false;
    if (!err)
        err = lock_directory(db, &create);
    if (!err)
        err = cache_new(cache_share(&db->options), &db->cache);
    if (!err)
        err = open_vset(db, create);
    if (!err) {
        fit_options(db, vset_identity(db->vset));
        err = init_shards(db);
    }
    int alone = err ? 0 : env_read_many_status(db->env);
    if (alone)
        logger_write(&db->log, LSM_LOG_INFO,
                     "%s: no io_uring here (%s): blocks are read one after the other, slower on a cold cache",
                     db->path, strerror(-alone));
    if (!err && !db->read_only)
        space_open(db);
    if (!err)
        err = snapshot_hold_named(db);
    if (!err)
        err = db_recover(db);
    if (!err && db->wal)
        err = make_spare_segment(db);
    if (!err)
        err = background_start(db);
    if (err) {
        if (db->wal)
            wal_close(db->wal);
        db->wal = NULL;
        release(db);
        return err;
    }
    *out = db;
    return 0;
}

int lsm_close(struct lsm *db)
{
    background_stop(db);
    int err = 0;
    if (db->wal) {
        err = wal_sync(db->wal);
        /* Recorded so that the next open can tell a torn tail from damage up to the very end. */
        lsn_t synced = wal_synced(db->wal);
        int close_err = wal_close(db->wal);
        db->wal = NULL;
        db->fixed_frontier = synced;
        if (!err)
            err = close_err;
        if (!err && db_writable(db) == 0 && synced > vset_synced(db->vset)) {
            struct edit edit = {.synced = synced};
            err = vset_apply(db->vset, &edit, NULL, NULL);
            if (err == -ENOSPC) { /* all is on the medium; only this hint found no place there */
                logger_write(&db->log, LSM_LOG_WARNING, "%s: no space to record a clean end of the log",
                             db->path);
                err = 0;
            }
        }
    }
    if (!err)
        err = __atomic_load_n(&db->failed, __ATOMIC_RELAXED);
    release(db);
    return err;
}

int lsm_space(struct lsm *db, uint64_t *free_bytes, uint64_t *total_bytes)
{
    return space_usable(db, free_bytes, total_bytes);
}
