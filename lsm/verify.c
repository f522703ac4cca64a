/*
 * verify.c - lsm_verify: reads all of a store that is not open and reports what is damaged.
 *
 * Order: manifest (with the tables' footers and properties, as for any open), every block of every
 * table past the cache, every value in a blob file that a table or the log names, the log up to its end with every batch
 * decoded. What the parts find passes through
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
#include "blob_recover.h"
#include "verify.h"
#include "vset_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERIFY_CACHE_BYTES (1u << 20) /* verifying goes past it; opening reads a few blocks through it */
#define LINE_MAX_BYTES 512u
#define KEY_SHOWN 120u /* bytes of a key in a report */

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
    const struct vset *vset;    /* while the log is read */
    lsn_t flushed;              /* of what lies below, a shard may have forgotten the blob files */
    struct blob_recovery blobs;
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

/* ---- values in blob files ---- */

/* A key as a person may know it again. */
static void show_key(const uint8_t *key, size_t len, char out[KEY_SHOWN])
{
    size_t n = 0, i = 0;
    for (; i < len && n + 8 < KEY_SHOWN; i++) {
        if (key[i] > ' ' && key[i] < 127 && key[i] != '\\')
            out[n++] = (char)key[i];
        else
            n += (size_t)snprintf(out + n, KEY_SHOWN - n, "\\x%02x", key[i]);
    }
    (void)snprintf(out + n, KEY_SHOWN - n, "%s", i < len ? "..." : "");
}

/* Reads what the pointer means; every value by itself, so that the report says whose is lost. */
static int verify_value(struct verifier *v, const struct vset *vs, const uint8_t *key, size_t key_len,
                        const uint8_t *pointer, size_t pointer_len)
{
    struct blob_pointer p = {0};
    char name[40] = "", shown[KEY_SHOWN], what[KEY_SHOWN + 80];
    struct blob_file *f = NULL;
    if (!blob_pointer_decode(pointer, pointer_len, &p)) {
        (void)snprintf(name, sizeof name, "%06" PRIu64 ".blob", p.number);
        f = vset_find_blob(vs, p.number);
    }
    uint8_t *value = malloc((size_t)p.length + 1);
    if (!value)
        return -ENOMEM;
    int err = f ? blob_read(f, &p, 0, p.length, BLOB_QUIET, value) : -EIO;
    free(value);
    v->out->blob_values++;
    if (!err) {
        v->out->blob_bytes += p.length;
        return 0;
    }
    show_key(key, key_len, shown);
    (void)snprintf(what, sizeof what, "the value of key %s can't be read%s", shown,
                   f && f->file ? "" : ": there is no such file");
    report(v, name, p.offset, true, what);
    return err == -EIO ? 0 : err;
}

static int verify_values(struct verifier *v, const struct vset *vs, struct table *t)
{
    struct iter *it;
    int err = table_iter_new(t, LSM_NOFILL | LSM_SALVAGE, &it);
    if (err)
        return err;
    for (iter_first(it); !err && it->valid; iter_next(it))
        if (it->key.type == ENTRY_BLOB)
            err = verify_value(v, vs, it->key.key, it->key.len, it->value, it->value_len);
    if (!err)
        err = it->status == -EIO ? 0 : it->status; /* the table's own damage was reported */
    iter_free(it);
    return err;
}

/* What is in a file is read by the manifest's word: a bad header loses nothing. A missing file was reported. */
static void verify_blob_files(struct verifier *v, const struct version *version)
{
    char name[40];
    for (size_t i = 0; i < version->blob_count; i++) {
        struct blob_file *f = version->blobs[i].file;
        const char *wrong = f->file ? blob_file_check_header(f) : NULL;
        v->out->blob_files += f->file != NULL;
        if (!wrong)
            continue;
        (void)snprintf(name, sizeof name, "%06" PRIu64 ".blob", f->number);
        report(v, name, 0, false, wrong);
    }
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

static int verify_version(struct verifier *v, const struct vset *vs, const struct version *version)
{
    int err = 0;
    verify_blob_files(v, version);
    for (unsigned l = 0; !err && l < LSM_LEVELS; l++)
        for (size_t i = 0; !err && i < version->levels[l].count; i++) {
            struct table_file *f = version->levels[l].files[i];
            if (table_is_damaged(f->table)) /* reported when it was opened */
                progress(v, f->meta.bytes);
            else
                err = verify_table(v, f->table, &f->meta);
            if (!err && f->meta.blob_count && !table_is_damaged(f->table))
                err = verify_values(v, vs, f->table);
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

/* Whether the value may still be read: a shard that has flushed the record may have forgotten its blob file. */
static bool is_needed(const struct verifier *v, lsn_t lsn, const struct batch_change *c)
{
    struct blob_pointer p;
    return lsn >= v->flushed || blob_pointer_decode(c->value, c->value_len, &p) ||
           vset_find_blob(v->vset, p.number);
}

static int verify_record(void *arg, lsn_t lsn, const void *payload, size_t len)
{
    struct verifier *v = arg;
    struct batch_reader br;
    struct batch_change change;
    char what[80];
    int err = 0;
    int more = batch_read_begin(&br, payload, len);
    while (more == 0 && !err && (br.left || reader_left(&br.r))) {
        more = batch_read_next(&br, &change);
        if (more > 0 && change.type == ENTRY_BLOB && is_needed(v, lsn, &change))
            err = verify_value(v, v->vset, change.key, change.key_len, change.value, change.value_len);
        more = more > 0 ? 0 : more == 0 ? -EBADMSG : more;
    }
    if (err)
        return err;
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

/* Above the synced mark a value that is not there ends the log, which is no damage. */
static int verify_blobs(void *arg, const void *payload, size_t len, bool *good)
{
    struct verifier *v = arg;
    return blob_recovery_record(&v->blobs, payload, len, good);
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
    v->vset = vs;
    v->blobs = (struct blob_recovery){.vset = vs};
    for (unsigned s = 0; s < vs->identity.shards; s++)
        if (vset_flushed(vs, s) > v->flushed)
            v->flushed = vset_flushed(vs, s);
    struct wal_recovery r = {
        .env = v->env,
        .dir = v->path,
        .start = vset_log_start(vs),
        .synced = vset_synced(vs),
        .log = v->log,
        .arg = v,
        .verify = verify_blobs,
        .replay = verify_record,
        .progress = log_progress,
    };
    struct wal_recovered end;
    r.uses = vset_uses(vs, &r.use_count);
    int err = wal_recover_synced(&r, &r.synced);
    return settle(v, err ? err : wal_recover(&r, &end), before, "");
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
    for (size_t i = 0; !err && i < files.blob_count; i++) {
        (void)snprintf(file, sizeof file, "%06" PRIu64 ".blob", files.blobs[i]);
        report(v, file, 0, false, "not in use: nothing names it; deleted by the next open");
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
        err = verify_version(v, vs, vset_current(vs, s));
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
