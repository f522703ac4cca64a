/*
 * verify.c - lsm_verify: reads all of a store that is not open and reports what is damaged.
 *
 * Order: manifest (with the tables' footers and properties, as for any open), every block of every
 * table past the cache, the log up to its end with every batch decoded. What the parts find passes through
 * logger_corrupt, which is where it is collected. If the manifest is damaged, the tables are verified
 * each by itself, by what their own properties say.
 *
 * What can't be found: a manifest or a last log segment replaced by an older copy that is a moment of
 * the store's own history in every respect (rollback.c says which); bits in places that hold nothing, such
 * as log segments that wait for their next use.
 *
 * Memory: the manifest's tables, one block, one log record. Threads: the caller's.
 */
#include "batch.h"
#include "verify.h"
#include "vset_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERIFY_CACHE_BYTES (1u << 20) /* verifying goes past it; opening reads a few blocks through it */
#define LINE_MAX_BYTES 512u

struct verifier {
    struct env *env;
    const char *path;
    const struct lsm_options *options;
    lsm_problem_fn fn;
    void *arg;
    struct lsm_verified *out;
    struct logger log;
    char error[LINE_MAX_BYTES]; /* the last line that was no report of damage */
    uint64_t done, total;       /* for progress */
};

/* ---- collecting ---- */

static void report(struct verifier *v, const char *file, uint64_t offset, bool damage, const char *what)
{
    const char *slash = strrchr(file, '/');
    struct lsm_problem p = {
        .file = slash ? slash + 1 : file, .offset = offset, .what = what, .damage = damage};
    *(damage ? &v->out->damaged : &v->out->notes) += 1;
    v->fn(v->arg, &p);
}

static void on_corrupt(void *arg, const char *file, uint64_t offset, const char *what)
{
    report(arg, file, offset, true, what);
}

static void on_line(void *arg, enum lsm_log_level level, const char *message)
{
    struct verifier *v = arg;
    if (level == LSM_LOG_WARNING) /* a torn record: what a crash leaves */
        report(v, "", 0, false, message);
    else if (level == LSM_LOG_ERROR)
        (void)snprintf(v->error, sizeof v->error, "%s", message);
    if (level == LSM_LOG_ERROR && v->options && v->options->log)
        v->options->log(v->options->log_arg, level, message);
}

/*
 * What a step returned, with `before` reports of damage before it: damage that was reported is no
 * failure of verifying; an error of the medium that nothing reported is one more problem.
 */
static int settle(struct verifier *v, int err, uint64_t before, const char *file)
{
    if (err != -EIO && err != -EUCLEAN && err != -ENOENT)
        return err;
    if (v->out->damaged == before)
        report(v, file, 0, true, v->error[0] ? v->error : strerror(-err));
    v->error[0] = '\0';
    return 0;
}

static void progress(struct verifier *v, uint64_t bytes)
{
    v->done += bytes;
    if (v->options && v->options->progress)
        v->options->progress(v->options->progress_arg, v->done, v->total > v->done ? v->total : v->done);
}

/* ---- tables ---- */

static int verify_table(struct verifier *v, struct table *t, const struct table_meta *m)
{
    char file[40];
    uint64_t bad_offset, before = v->out->damaged;
    (void)snprintf(file, sizeof file, "%06" PRIu64 ".sst", m->number);
    v->out->tables++;
    v->out->table_bytes += m->bytes;
    int err = settle(v, table_verify(t, &bad_offset), before, file);
    progress(v, m->bytes);
    return err;
}

static int verify_version(struct verifier *v, const struct version *version)
{
    int err = 0;
    for (unsigned l = 0; !err && l < LSM_LEVELS; l++)
        for (size_t i = 0; !err && i < version->levels[l].count; i++) {
            struct table_file *f = version->levels[l].files[i];
            if (table_is_damaged(f->table)) /* reported when it was opened */
                progress(v, f->meta.bytes);
            else
                err = verify_table(v, f->table, &f->meta);
        }
    return err;
}

/* A table about which there is no manifest to ask. */
static int verify_alone(struct verifier *v, const struct table_options *o, uint64_t number)
{
    char file[40];
    struct table_meta m;
    struct table *t = NULL;
    uint64_t before = v->out->damaged;
    (void)snprintf(file, sizeof file, "%06" PRIu64 ".sst", number);
    int err = table_read_meta(o, number, &m);
    if (err)
        return settle(v, err, before, file);
    err = table_open(o, &m, &t);
    err = err ? settle(v, err, before, file) : verify_table(v, t, &m);
    table_close(t);
    table_meta_free(&m);
    return err;
}

static int verify_without_manifest(struct verifier *v, struct cache *cache)
{
    struct table_options o = {.env = v->env, .dir = v->path, .cache = cache, .log = v->log};
    struct listing files;
    int err = listing_read(v->env, v->path, &files);
    v->out->unreadable = true;
    for (size_t i = 0; !err && i < files.table_count; i++)
        err = verify_alone(v, &o, files.tables[i]);
    listing_free(&files);
    return err;
}

/* ---- the log ---- */

static int verify_record(void *arg, lsn_t lsn, const void *payload, size_t len)
{
    struct verifier *v = arg;
    struct batch_reader br;
    struct batch_change change;
    char what[80];
    int more = batch_read_begin(&br, payload, len);
    while (more == 0 && (br.left || reader_left(&br.r))) {
        more = batch_read_next(&br, &change);
        more = more > 0 ? 0 : more == 0 ? -EBADMSG : more;
    }
    v->out->log_records++;
    v->out->log_bytes += len;
    if (more == -EBADMSG) {
        (void)snprintf(what, sizeof what,
                       "the record at LSN %" PRIu64 " has a good checksum, but is no batch", lsn);
        report(v, "", 0, true, what);
        return 0;
    }
    return more;
}

static void log_progress(void *arg, uint64_t done, uint64_t total)
{
    struct verifier *v = arg;
    uint64_t tables = v->total;
    if (v->options && v->options->progress)
        v->options->progress(v->options->progress_arg, tables + done, tables + total);
}

static int verify_log(struct verifier *v, const struct vset *vs)
{
    uint64_t before = v->out->damaged;
    struct wal_recovery r = {
        .env = v->env,
        .dir = v->path,
        .start = vset_log_start(vs),
        .synced = vset_synced(vs),
        .log = v->log,
        .arg = v,
        .replay = verify_record,
        .progress = log_progress,
    };
    struct wal_recovered end;
    r.uses = vset_uses(vs, &r.use_count);
    return settle(v, wal_recover(&r, &end), before, "");
}

/* ---- the whole ---- */

static int verify_unnamed(struct verifier *v, const struct vset *vs)
{
    struct listing files;
    char file[40];
    int err = listing_read(v->env, v->path, &files);
    if (!err)
        err = listing_keep_unnamed(vs, &files);
    for (size_t i = 0; !err && i < files.table_count; i++) {
        (void)snprintf(file, sizeof file, "%06" PRIu64 ".sst", files.tables[i]);
        report(v, file, 0, false,
               "not in use: what an interrupted flush or compaction left; deleted by the next open");
    }
    listing_free(&files);
    return err;
}

static uint64_t tables_bytes(struct vset *vs)
{
    uint64_t bytes = 0;
    for (unsigned s = 0; s < vs->identity.shards; s++)
        for (unsigned l = 0; l < LSM_LEVELS; l++)
            bytes += vset_current(vs, s)->levels[l].bytes;
    return bytes;
}

static int verify_store(struct verifier *v, struct cache *cache)
{
    struct vset *vs;
    uint64_t before = v->out->damaged;
    struct vset_options o = {.env = v->env, .dir = v->path, .read_only = true, .cache = cache, .log = v->log};
    int err = vset_open(&o, &vs);
    if (err) {
        err = settle(v, err, before, "MANIFEST");
        return err ? err : verify_without_manifest(v, cache);
    }
    v->error[0] = '\0';
    v->total = tables_bytes(vs);
    for (unsigned s = 0; !err && s < vs->identity.shards; s++)
        err = verify_version(v, vset_current(vs, s));
    if (!err)
        err = verify_log(v, vs);
    if (!err)
        err = verify_unnamed(v, vs);
    (void)vset_close(vs); /* read-only: it has nothing to say */
    return err;
}

/* -ENOENT unless there is something of a store. */
static int look(struct env *env, const char *path)
{
    struct listing files;
    struct env_file *f = NULL;
    char *manifest = NULL;
    int err = listing_read(env, path, &files);
    if (err)
        return err;
    if (asprintf(&manifest, "%s/MANIFEST", path) < 0)
        err = -ENOMEM;
    if (!err)
        err = env_open(env, manifest, ENV_READ, &f);
    if (err == -ENOENT && files.table_count + files.log_count > 0)
        err = 0;
    env_close(f);
    free(manifest);
    listing_free(&files);
    return err;
}

int verify_locked(const char *path, const struct lsm_options *options, lsm_problem_fn fn, void *arg,
                  struct lsm_verified *out)
{
    struct verifier v = {.path = path, .options = options, .fn = fn, .arg = arg, .out = out};
    struct cache *cache = NULL;
    memset(out, 0, sizeof *out);
    v.env = options && options->env ? options->env : env_posix();
    v.log = (struct logger){.fn = on_line, .arg = &v, .corrupt = on_corrupt};
    int err = look(v.env, path);
    if (!err)
        err = cache_new(VERIFY_CACHE_BYTES, &cache);
    if (!err)
        err = verify_store(&v, cache);
    if (cache)
        cache_free(cache);
    return err;
}

int lsm_verify(const char *path, const struct lsm_options *options, lsm_problem_fn fn, void *arg,
               struct lsm_verified *out)
{
    struct env *env = options && options->env ? options->env : env_posix();
    struct env_lock *lock = NULL;
    char *lock_path = NULL;
    memset(out, 0, sizeof *out);
    int err = look(env, path); /* no file is made where there is no store */
    if (!err && asprintf(&lock_path, "%s/LOCK", path) < 0)
        err = -ENOMEM;
    if (!err)
        err = env_lock(env, lock_path, false, &lock);
    if (!err)
        err = verify_locked(path, options, fn, arg, out);
    env_unlock(env, lock);
    free(lock_path);
    return err;
}
