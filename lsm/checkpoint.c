/*
 * checkpoint.c - lsm_checkpoint: a copy of an open store, in another directory, while writes go on.
 *
 * The copy is the store as it is at one position F of its log:
 *
 *   1. flush, so that little of the log is needed. It only saves copying: its error is none of ours.
 *   2. under the manifest lock, so that no version and no use of a segment changes: sample the frontier F, take a
 *      reference on each shard's version, copy the log from its start up to F, and write MANIFEST.new: the state as
 *      it is, synced up to F, without uses that begin at F or above.
 *   3. without the lock: sync up to F, for the values in blob files; give every table and every blob file of those versions
 *      a second name there. Immutable, synced, and kept from being deleted by the reference. Blob files that still
 *      grow are copied.
 *   4. sync the copied segments and the directory; then MANIFEST gets its name. A directory without it is no store.
 *
 * All other names that a version or the log needs must be given in step 2 or 3: a new kind of file has its place here.
 *
 * Threads: any; several may go on at once, into different directories.
 */
#include "db.h"
#include "file_copy.h"
#include "mutant.h"
#include "vset_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_EXTRA 32u /* of a file in a directory: slash, number, suffix */

/* A segment of the log of which a part was copied. */
struct copied_log {
    uint64_t number, bytes, segment_bytes;
};

struct checkpoint {
    struct lsm *db;
    const char *dir;
    lsn_t end;
    struct version *versions[SHARDS_MAX];
    struct manifest *manifest;
    struct copied_log *logs;
    size_t log_count;
    char *from, *to; /* room for a path each */
    size_t from_size, to_size;
    bool named; /* MANIFEST has its name */
};

static void log_paths(struct checkpoint *c, uint64_t number)
{
    wal_segment_path(c->db->path, number, c->from, c->from_size);
    wal_segment_path(c->dir, number, c->to, c->to_size);
}

static void table_paths(struct checkpoint *c, uint64_t number)
{
    table_path(c->db->path, number, c->from, c->from_size);
    table_path(c->dir, number, c->to, c->to_size);
}

/* What of a use lies below the end. */
static int copy_segment(struct checkpoint *c, const struct wal_use *use)
{
    uint64_t bytes = c->end - use->base;

    bytes = bytes < use->bytes ? bytes : use->bytes;
    log_paths(c, use->number);
    c->logs[c->log_count++] = (struct copied_log){use->number, bytes, use->bytes};
    return file_copy(c->db->env, c->from, c->to, bytes, ENV_IN_PLACE);
}

static int copy_log(struct checkpoint *c)
{
    size_t count;
    const struct wal_use *uses = vset_uses(c->db->vset, &count);
    int err = 0;

    c->logs = calloc(count + 1, sizeof *c->logs);
    if (!c->logs)
        return -ENOMEM;
    for (size_t i = 0; !err && i < count && uses[i].base < c->end; i++)
        err = copy_segment(c, &uses[i]);
    return err;
}

/* Steps 2 of above: what has to be of one moment. */
static int take_moment(struct checkpoint *c)
{
    struct vset *vs = c->db->vset;

    pthread_mutex_lock(&vs->lock);
    c->end = db_frontier(c->db);
    for (unsigned i = 0; i < c->db->shard_count; i++) {
        c->versions[i] = vs->current[i];
        version_ref(c->versions[i]);
    }
    int err = copy_log(c);
    if (!err)
        err = vset_write_copy(vs, c->dir, c->end, &c->manifest);
    pthread_mutex_unlock(&vs->lock);
    return err;
}

static int link_tables(struct checkpoint *c)
{
    int err = 0;

    for (unsigned s = 0; s < c->db->shard_count; s++)
        for (unsigned l = 0; l < LSM_LEVELS; l++) {
            const struct level *level = &c->versions[s]->levels[l];
            for (size_t i = 0; !err && i < level->count; i++) {
                table_paths(c, level->files[i]->meta.number);
                err = file_link_or_copy(c->db->env, c->from, c->to);
            }
        }
    return err;
}

static void blob_paths(struct checkpoint *c, uint64_t number)
{
    blob_path(c->db->path, number, c->from, c->from_size);
    blob_path(c->dir, number, c->to, c->to_size);
}

static int sync_file(struct checkpoint *c, const char *path)
{
    struct env_file *file;
    int err = env_open(c->db->env, path, ENV_READ | ENV_WRITE, &file);
    if (err)
        return err;
    err = env_sync(file);
    env_close(file);
    return err;
}

/* All that records below the end name is in them. One that is missing is missing in the copy, too. */
static int link_blob(struct checkpoint *c, const struct blob_file *f)
{
    struct env *env = c->db->env;
    bool grows = __atomic_load_n(&f->open, __ATOMIC_ACQUIRE);
    if (!f->file)
        return 0;
    blob_paths(c, f->number);
    int err = grows ? file_copy(env, c->from, c->to, blob_file_bytes(f), 0)
                    : file_link_or_copy(env, c->from, c->to);
    /* In a store that is only read, a killed process may have left bytes that nobody has synced. */
    if (!err && (grows || c->db->read_only))
        err = sync_file(c, c->to);
    return err;
}

static int link_blobs(struct checkpoint *c)
{
    int err = c->db->wal ? wal_sync_to(c->db->wal, c->end) : 0;
    for (unsigned s = 0; s < c->db->shard_count && !mutant("blobs of a checkpoint forgotten"); s++)
        for (size_t i = 0; !err && i < c->versions[s]->blob_count; i++)
            err = link_blob(c, c->versions[s]->blobs[i].file);
    return err;
}

/*
 * A segment is used again later and relies on every byte being written: so the rest of it is, as that of a new one.
 */
static int finish_log(struct checkpoint *c, const struct copied_log *log)
{
    struct env_file *file;

    log_paths(c, log->number);
    int err = env_open(c->db->env, c->to, ENV_READ | ENV_WRITE, &file);
    if (err)
        return err;
    err = wal_segment_fill(file, log->bytes, log->segment_bytes);
    if (!err && !mutant("log of a checkpoint not synced"))
        err = env_sync(file);
    env_close(file);
    return err;
}

static int finish_logs(struct checkpoint *c)
{
    int err = 0;

    for (size_t i = 0; !err && i < c->log_count; i++)
        err = finish_log(c, &c->logs[i]);
    return err;
}

/* The directory's own name. */
static int sync_parent(struct checkpoint *c)
{
    char *parent = strdup(c->dir);

    if (!parent)
        return -ENOMEM;
    size_t len = strlen(parent);
    while (len > 1 && parent[len - 1] == '/')
        parent[--len] = '\0';
    char *slash = strrchr(parent, '/');
    if (slash)
        slash[slash == parent] = '\0';
    int err = env_sync_dir(c->db->env, slash ? parent : ".");
    free(parent);
    return err;
}

static int publish(struct checkpoint *c)
{
    int err = finish_logs(c);

    if (!err) /* before MANIFEST has its name: who finds that one finds all */
        err = env_sync_dir(c->db->env, c->dir);
    if (!err)
        err = sync_parent(c);
    if (!err)
        err = manifest_publish(c->manifest, &c->named);
    return err;
}

/* Nothing is left of it but the empty directory. A name that can't be removed is told of. */
static void remove_files(struct checkpoint *c)
{
    struct env *env = c->db->env;
    int err = 0, rc;

    if (c->named) { /* first: without it the rest is no store */
        (void)snprintf(c->to, c->to_size, "%s/MANIFEST", c->dir);
        err = env_unlink(env, c->to);
    }
    for (size_t i = 0; i < c->log_count; i++) {
        log_paths(c, c->logs[i].number);
        rc = env_unlink(env, c->to);
        err = rc && rc != -ENOENT ? rc : err;
    }
    for (unsigned s = 0; s < c->db->shard_count; s++)
        for (unsigned l = 0; c->versions[s] && l < LSM_LEVELS; l++)
            for (size_t i = 0; i < c->versions[s]->levels[l].count; i++) {
                table_paths(c, c->versions[s]->levels[l].files[i]->meta.number);
                rc = env_unlink(env, c->to);
                err = rc && rc != -ENOENT ? rc : err;
            }
    for (unsigned s = 0; s < c->db->shard_count; s++)
        for (size_t i = 0; c->versions[s] && i < c->versions[s]->blob_count; i++) {
            blob_paths(c, c->versions[s]->blobs[i].file->number);
            rc = env_unlink(env, c->to);
            err = rc && rc != -ENOENT ? rc : err;
        }
    if (err)
        logger_write(&c->db->log, LSM_LOG_WARNING, "%s: an unfinished checkpoint can't be removed: %s",
                     c->dir, strerror(-err));
}

static int make(struct checkpoint *c)
{
    int err = env_mkdir(c->db->env, c->dir);
    if (err)
        return err;
    if (!c->db->read_only)
        (void)lsm_flush(c->db); /* what it leaves in the log is copied instead */
    err = take_moment(c);
    if (!err)
        err = link_tables(c);
    if (!err)
        err = link_blobs(c);
    if (!err)
        err = publish(c);
    if (err) {
        if (c->manifest && !c->named) {
            manifest_discard(c->manifest);
            c->manifest = NULL;
        }
        remove_files(c);
    }
    return err;
}

int lsm_checkpoint(struct lsm *db, const char *dir)
{
    struct checkpoint c = {.db = db, .dir = dir};

    c.from_size = strlen(db->path) + PATH_EXTRA;
    c.to_size = strlen(dir) + PATH_EXTRA;
    c.from = malloc(c.from_size);
    c.to = malloc(c.to_size);
    int err = c.from && c.to ? make(&c) : -ENOMEM;
    manifest_close(c.manifest);
    for (unsigned i = 0; i < db->shard_count; i++)
        if (c.versions[i])
            version_unref(c.versions[i]);
    if (!db->read_only)
        vset_collect(db->vset); /* what was held only by us */
    free(c.logs);
    free(c.from);
    free(c.to);
    return err;
}
