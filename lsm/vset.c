/*
 * vset.c - the version set: applying edits, rolling the manifest over, deleting dead tables.
 *
 * The order of every install: tables synced (their builder) -> directory synced -> edit appended to
 * the manifest and synced -> version installed and published -> tables that no version names any
 * more deleted by vset_collect. All that can fail comes before the append; a failure of the append
 * or of its sync is final, because nobody can say then what the medium holds.
 *
 * A rollover rewrites the manifest when it is over 1 MiB and over four times what the state took at
 * the last one: reading it stays proportional to the state, writing costs at most a third more.
 *
 * Lock: the manifest lock serialises everything that changes the set and is held during the I/O of
 * the manifest. It comes before any shard lock; nothing is taken under it but what `installed` takes.
 */
#include "mutant.h"
#include "vset_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROLLOVER_BYTES_MIN (UINT64_C(1) << 20)
#define ROLLOVER_GROWTH 4
#define EDIT_SPACE_BYTES (64u << 10) /* more than any edit of a flush or compaction takes on a full disk */
#define SNAPSHOT_FILES_MAX 256       /* tables in one record of a snapshot */

int vset_new(const struct vset_options *o, struct vset **out)
{
    struct vset *vs = calloc(1, sizeof *vs);
    if (!vs)
        return -ENOMEM;
    vs->env = o->env;
    vs->dir = strdup(o->dir);
    vs->read_only = o->read_only;
    vs->cache = o->cache;
    vs->reader_stats = o->reader_stats;
    vs->log = o->log;
    vs->level_ratio = o->level_ratio ? o->level_ratio : 10;
    vs->table_bytes = o->table_bytes ? o->table_bytes : UINT64_C(8) << 20;
    vs->write_buffer_bytes = o->write_buffer_bytes ? o->write_buffer_bytes : UINT64_C(16) << 20;
    vs->no_space = o->no_space;
    vs->no_space_arg = o->no_space_arg;
    vs->next_number = 1;
    if (!vs->dir) {
        free(vs);
        return -ENOMEM;
    }
    pthread_mutex_init(&vs->lock, NULL);
    *out = vs;
    return 0;
}

static void free_dead(struct vset *vs)
{
    for (struct table_file *f = vset_take_dead(vs), *next; f; f = next) {
        next = f->dead_next;
        table_file_free(f);
    }
    for (struct blob_file *f = vset_take_dead_blobs(vs), *next; f; f = next) {
        next = f->dead_next;
        blob_file_free(f);
    }
}

void vset_free(struct vset *vs)
{
    for (unsigned i = 0; i < SHARDS_MAX; i++) {
        if (!vs->current[i])
            continue;
        assert(__atomic_load_n(&vs->current[i]->refs, __ATOMIC_ACQUIRE) == 1);
        version_unref(vs->current[i]);
    }
    free_dead(vs); /* they are live on the disk: closed, not deleted */
    manifest_close(vs->manifest);
    pthread_mutex_destroy(&vs->lock);
    free(vs->state.uses);
    free(vs->named.list);
    free(vs->dir);
    free(vs);
}

int vset_close(struct vset *vs)
{
    vset_collect(vs);
    int rc = vs->failed;
    vset_free(vs);
    return rc;
}

int vset_create(const struct vset_options *o, const struct store_identity *identity)
{
    assert(identity->shards > 0 && identity->shards <= SHARDS_MAX);
    struct vset *vs;
    int rc = vset_new(o, &vs);
    if (rc)
        return rc;
    vs->identity = *identity;
    struct env_file *existing = NULL;
    char *path;
    if (asprintf(&path, "%s/MANIFEST", vs->dir) < 0) {
        rc = -ENOMEM;
        goto out;
    }
    rc = env_open(vs->env, path, ENV_READ, &existing);
    free(path);
    if (!rc) {
        env_close(existing);
        rc = -EEXIST;
    } else if (rc == -ENOENT) {
        bool renamed;
        rc = vset_rollover(vs, &renamed);
    }
out:
    vset_free(vs);
    return rc;
}

/* ---- small questions ---- */

const struct store_identity *vset_identity(const struct vset *vs) { return &vs->identity; }

uint64_t vset_new_number(struct vset *vs)
{
    return __atomic_fetch_add(&vs->next_number, 1, __ATOMIC_RELAXED);
}

bool vset_has(const struct vset *vs, uint64_t features)
{
    return (__atomic_load_n(&vs->identity.incompat, __ATOMIC_ACQUIRE) & features) == features;
}

int vset_failed(const struct vset *vs) { return __atomic_load_n(&vs->failed, __ATOMIC_ACQUIRE); }

struct version *vset_current(struct vset *vs, unsigned shard)
{
    assert(shard < vs->identity.shards);
    return vs->current[shard];
}

lsn_t vset_flushed(const struct vset *vs, unsigned shard)
{
    assert(shard < vs->identity.shards);
    return __atomic_load_n(&vs->state.flushed[shard], __ATOMIC_ACQUIRE);
}

lsn_t vset_log_start(const struct vset *vs) { return __atomic_load_n(&vs->state.start, __ATOMIC_ACQUIRE); }

lsn_t vset_synced(const struct vset *vs) { return __atomic_load_n(&vs->state.synced, __ATOMIC_ACQUIRE); }

const struct named_list *vset_named(const struct vset *vs) { return &vs->named; }

const struct wal_use *vset_uses(const struct vset *vs, size_t *count)
{
    *count = vs->state.count;
    return vs->state.uses;
}

/* ---- rollover ---- */

static int append_edit(struct vset *vs, struct manifest *m, const struct edit *e)
{
    uint8_t *payload;
    size_t len;
    int rc = edit_encode(e, __atomic_load_n(&vs->next_number, __ATOMIC_RELAXED), &payload, &len);
    if (rc)
        return rc;
    rc = manifest_append(m, payload, len);
    free(payload);
    return rc;
}

static int snapshot_shard(struct vset *vs, struct manifest *m, unsigned shard)
{
    struct edit_file files[SNAPSHOT_FILES_MAX];
    struct edit e = {
        .add = files, .has_flushed = true, .flushed_shard = shard, .flushed = vs->state.flushed[shard]};
    const struct version *v = vs->current[shard];
    for (unsigned l = 0; v && l < LSM_LEVELS; l++) {
        for (size_t i = 0; i < v->levels[l].count; i++) {
            files[e.add_count++] = (struct edit_file){shard, l, v->levels[l].files[i]->meta};
            if (e.add_count < SNAPSHOT_FILES_MAX)
                continue;
            int rc = append_edit(vs, m, &e);
            if (rc)
                return rc;
            e.add_count = 0;
        }
    }
    return append_edit(vs, m, &e);
}

/* The blob files of a shard come before the tables that name them. */
static int snapshot_blobs(struct vset *vs, struct manifest *m, unsigned shard)
{
    struct blob_meta metas[SNAPSHOT_FILES_MAX];
    struct edit e = {.blob_add = metas};
    const struct version *v = vs->current[shard];
    int rc = 0;
    for (size_t i = 0; v && !rc && i < v->blob_count; i++) {
        const struct blob_file *f = v->blobs[i].file;
        metas[e.blob_add_count++] = (struct blob_meta){f->number, f->salt, shard};
        if (e.blob_add_count == SNAPSHOT_FILES_MAX || i + 1 == v->blob_count) {
            rc = append_edit(vs, m, &e);
            e.blob_add_count = 0;
        }
    }
    return rc;
}

/* The whole state, with the uses of the log that begin below `end`. */
static int snapshot(struct vset *vs, struct manifest *m, lsn_t synced, lsn_t end)
{
    struct edit log = {.synced = synced, .log_start = vs->state.start};
    int rc = append_edit(vs, m, &log);
    for (size_t i = 0; !rc && i < vs->state.count && vs->state.uses[i].base < end; i++) {
        struct edit use = {.use = &vs->state.uses[i]};
        rc = append_edit(vs, m, &use);
    }
    for (size_t i = 0; !rc && i < vs->named.count; i++) {
        struct edit named = {.name_taken = &vs->named.list[i]};
        rc = append_edit(vs, m, &named);
    }
    for (unsigned i = 0; !rc && i < vs->identity.shards; i++) {
        rc = snapshot_blobs(vs, m, i);
        if (!rc)
            rc = snapshot_shard(vs, m, i);
    }
    return rc;
}

/* As vset_rollover; the new file says that it needs `incompat`. */
static int roll_over(struct vset *vs, uint64_t incompat, bool *renamed)
{
    *renamed = false;
    struct manifest_options o = {vs->env, vs->dir, &vs->log};
    struct store_identity identity = vs->identity;
    struct manifest *m;
    identity.incompat = incompat;
    int rc = manifest_create(&o, &identity, &m);
    if (rc)
        return rc;
    rc = snapshot(vs, m, vs->state.synced, SEQ_MAX);
    if (!rc)
        rc = manifest_publish(m, renamed);
    if (rc) {
        if (*renamed)
            manifest_close(m);
        else
            manifest_discard(m);
        return rc;
    }
    manifest_close(vs->manifest);
    vs->manifest = m;
    uint64_t grown = manifest_bytes(m) * ROLLOVER_GROWTH;
    vs->rollover_bytes = grown > ROLLOVER_BYTES_MIN ? grown : ROLLOVER_BYTES_MIN;
    return 0;
}

int vset_rollover(struct vset *vs, bool *renamed) { return roll_over(vs, vs->identity.incompat, renamed); }

int vset_write_copy(struct vset *vs, const char *dir, lsn_t end, struct manifest **out)
{
    struct manifest_options o = {vs->env, dir, &vs->log};
    struct manifest *m;
    int rc = manifest_create(&o, &vs->identity, &m);
    if (rc)
        return rc;
    rc = snapshot(vs, m, end, end);
    if (rc)
        manifest_discard(m);
    else
        *out = m;
    return rc;
}

/* ---- applying an edit ---- */

/* No edit is taken after this. -ENOSPC would invite to try again, which must not be. */
static int fail(struct vset *vs, int error, const char *what)
{
    error = error == -ENOSPC ? -EIO : error;
    int expected = 0;
    if (__atomic_compare_exchange_n(&vs->failed, &expected, error, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        logger_write(&vs->log, LSM_LOG_ERROR, "%s/MANIFEST: %s: %s; nothing more is changed in this store",
                     vs->dir, what, strerror(-error));
    return error;
}

static bool made_space(struct vset *vs, uint64_t bytes)
{
    return vs->no_space && vs->no_space(vs->no_space_arg, bytes);
}

static void roll_over_if_large(struct vset *vs)
{
    uint64_t bytes = manifest_bytes(vs->manifest);
    if (bytes < vs->rollover_bytes)
        return;
    bool renamed;
    int rc = vset_rollover(vs, &renamed);
    if (rc == -ENOSPC && !renamed && made_space(vs, bytes)) /* more than it will be */
        rc = vset_rollover(vs, &renamed);
    if (!rc) {
        vs->rollovers++;
    } else if (renamed) {
        (void)fail(vs, rc, "replacing it failed");
    } else {
        vs->rollover_bytes = bytes + ROLLOVER_BYTES_MIN; /* the old one is whole: try again later */
        logger_write(&vs->log, LSM_LOG_WARNING,
                     "%s/MANIFEST: rewriting it failed (%s); the old one stays in use", vs->dir,
                     strerror(-rc));
    }
}

/* Others ask vset_has without the lock: the bit is there for them once the medium has it, not sooner. */
static int require_locked(struct vset *vs, uint64_t features)
{
    uint64_t incompat = vs->identity.incompat | features;
    int rc = vset_failed(vs);
    if (rc || vset_has(vs, features))
        return rc;
    bool renamed;
    rc = roll_over(vs, incompat, &renamed);
    if (rc == -ENOSPC && !renamed && made_space(vs, manifest_bytes(vs->manifest)))
        rc = roll_over(vs, incompat, &renamed);
    if (rc)
        return renamed ? fail(vs, rc, "replacing it failed") : rc;
    __atomic_store_n(&vs->identity.incompat, incompat, __ATOMIC_RELEASE);
    vs->rollovers++;
    return 0;
}

int vset_require(struct vset *vs, uint64_t features)
{
    assert(!vs->read_only);
    pthread_mutex_lock(&vs->lock);
    int rc = require_locked(vs, features);
    pthread_mutex_unlock(&vs->lock);
    return rc;
}

/* The shard that an edit is about, or SHARDS_MAX. */
static unsigned shard_of(const struct vset *vs, const struct edit *e)
{
    unsigned shard = e->add_count           ? e->add[0].shard
                     : e->remove_count      ? e->remove[0].shard
                     : e->has_flushed       ? e->flushed_shard
                     : e->blob_add_count    ? e->blob_add[0].shard
                     : e->blob_remove_count ? e->blob_remove[0].shard
                                            : SHARDS_MAX;
    for (size_t i = 0; i < e->blob_add_count; i++)
        assert(e->blob_add[i].shard == shard);
    for (size_t i = 0; i < e->blob_remove_count; i++)
        assert(e->blob_remove[i].shard == shard);
    for (size_t i = 0; i < e->add_count; i++)
        assert(e->add[i].shard == shard && e->add[i].level < LSM_LEVELS);
    for (size_t i = 0; i < e->remove_count; i++)
        assert(e->remove[i].shard == shard && e->remove[i].level < LSM_LEVELS);
    assert(shard < vs->identity.shards || shard == SHARDS_MAX);
    assert(!e->has_flushed || e->flushed_shard == shard);
    return shard;
}

static bool is_move(const struct edit *e, uint64_t number)
{
    for (size_t i = 0; i < e->remove_count; i++)
        if (e->remove[i].meta.number == number)
            return true;
    return false;
}

/* Opens the tables that are new; those that only move are found under the lock. */
static int open_new_tables(struct vset *vs, const struct edit *e, struct version_add *add)
{
    bool any = false;
    int rc = 0;
    for (size_t i = 0; !rc && i < e->add_count; i++) {
        add[i].level = e->add[i].level;
        if (is_move(e, e->add[i].meta.number))
            continue;
        any = true;
        rc = table_file_open(vs, e->add[i].shard, &e->add[i].meta, false, &add[i].file);
    }
    if (!rc && e->blob_add_count && !mutant("directory not synced for a blob")) {
        rc = env_sync_dir(vs->env, vs->dir);
        if (rc)
            rc = fail(vs, rc, "the directory could not be synced");
        any = false;
    }
    if (!rc && any && !mutant("directory not synced for a table")) {
        rc = env_sync_dir(vs->env, vs->dir);
        if (rc)
            rc = fail(vs, rc, "the directory could not be synced");
    }
    return rc;
}

static struct table_file *find_file(const struct version *v, uint64_t number)
{
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; i < v->levels[l].count; i++)
            if (v->levels[l].files[i]->meta.number == number)
                return v->levels[l].files[i];
    return NULL;
}

/* The version after the edit, with nothing installed yet. `add` gets the tables that move, borrowed. */
static int next_version(struct vset *vs, unsigned shard, const struct edit *e, struct version_add *add,
                        struct version **out)
{
    const struct version *now = vs->current[shard];
    for (size_t i = 0; i < e->add_count; i++) {
        if (!add[i].file)
            add[i].file = find_file(now, e->add[i].meta.number);
        assert(add[i].file);
    }
    struct version_blob_change blobs = {&e->blob_file, e->blob_add_count, e->blob_remove,
                                        e->blob_remove_count};
    int rc = version_build(vs, shard, now, e->remove, e->remove_count, add, e->add_count, &blobs, out);
    assert(rc != -EINVAL && rc != -ENXIO); /* the edit does not fit the version it was made from */
    return rc;
}

static int write_edit(struct vset *vs, const struct edit *e)
{
    int rc = append_edit(vs, vs->manifest, e);
    if (rc == -ENOSPC && made_space(vs, EDIT_SPACE_BYTES))
        rc = append_edit(vs, vs->manifest, e);
    if (!mutant("a full disk ends the store") && (rc == -ENOSPC || rc == -ENOMEM || rc == -E2BIG))
        return rc; /* the file is as it was */
    if (rc)
        return fail(vs, rc, "appending failed");
    rc = manifest_sync(vs->manifest);
    return rc ? fail(vs, rc, "sync failed") : 0;
}

static int apply_locked(struct vset *vs, const struct edit *e, struct version_add *add,
                        void (*installed)(void *arg, struct version *v), void *arg)
{
    unsigned shard = shard_of(vs, e);
    struct version *v = NULL;
    int rc = vset_failed(vs);
    if (!rc)
        rc = log_state_reserve(&vs->state);
    if (!rc && e->name_taken)
        rc = named_reserve(&vs->named);
    if (!rc && e->add_count + e->remove_count + e->blob_add_count + e->blob_remove_count > 0)
        rc = next_version(vs, shard, e, add, &v);
    if (!rc)
        rc = write_edit(vs, e);
    if (rc) {
        if (v)
            version_unref(v);
        return rc;
    }
    log_state_apply(&vs->state, e);
    bool fits = named_apply(&vs->named, e);
    assert(fits); /* who makes such an edit has looked */
    struct version *old = NULL;
    if (v) {
        old = vs->current[shard];
        vs->current[shard] = v;
    }
    if (installed)
        installed(arg, shard < SHARDS_MAX ? vs->current[shard] : NULL);
    if (old)
        version_unref(old);
    roll_over_if_large(vs);
    return 0;
}

int vset_apply(struct vset *vs, const struct edit *e, void (*installed)(void *arg, struct version *v),
               void *arg)
{
    assert(!vs->read_only);
    assert(e->blob_add_count == (e->blob_file ? 1u : 0u));
    struct version_add *add = calloc(e->add_count + 1, sizeof *add);
    bool *opened = calloc(e->add_count + 1, sizeof *opened);
    int rc = add && opened ? vset_failed(vs) : -ENOMEM;
    if (!rc)
        rc = open_new_tables(vs, e, add);
    for (size_t i = 0; add && opened && i < e->add_count; i++)
        opened[i] = add[i].file;
    if (!rc) {
        pthread_mutex_lock(&vs->lock);
        rc = apply_locked(vs, e, add, installed, arg);
        pthread_mutex_unlock(&vs->lock);
    }
    for (size_t i = 0; add && opened && i < e->add_count; i++) {
        if (!opened[i])
            continue;
        if (rc)
            table_file_free(add[i].file); /* in no version: never on the list of what to delete */
        else
            table_file_unref(vs, add[i].file);
    }
    free(add);
    free(opened);
    return rc;
}

/* ---- housekeeping ---- */

static void delete_table(struct vset *vs, struct table_file *f, char *path, size_t path_size)
{
    uint64_t number = f->meta.number;
    table_file_free(f);
    if (vs->cache)
        cache_drop_file(vs->cache, number);
    table_path(vs->dir, number, path, path_size);
    int rc = env_unlink(vs->env, path);
    if (rc)
        logger_write(&vs->log, LSM_LOG_WARNING, "%s: can't be deleted (%s); the next open tries again", path,
                     strerror(-rc));
}

static void delete_blob(struct vset *vs, struct blob_file *f)
{
    /* Closed first, so that the space is back when the name is gone. */
    char *path = f->path;
    f->path = NULL;
    blob_file_free(f);
    int rc = env_unlink(vs->env, path);
    if (rc && rc != -ENOENT)
        logger_write(&vs->log, LSM_LOG_WARNING, "%s: can't be deleted (%s); the next open tries again", path,
                     strerror(-rc));
    free(path);
}

void vset_collect(struct vset *vs)
{
    if (__atomic_load_n(&vs->dead_blobs, __ATOMIC_RELAXED))
        for (struct blob_file *f = vset_take_dead_blobs(vs), *next; f; f = next) {
            next = f->dead_next;
            delete_blob(vs, f);
        }
    if (!__atomic_load_n(&vs->dead, __ATOMIC_RELAXED))
        return;
    size_t path_size = strlen(vs->dir) + 32;
    char *path = malloc(path_size);
    if (!path)
        return; /* the list waits for the next call */
    for (struct table_file *f = vset_take_dead(vs), *next; f; f = next) {
        next = f->dead_next;
        delete_table(vs, f, path, path_size);
    }
    free(path);
}

void vset_stats(struct vset *vs, struct lsm_stats *out)
{
    pthread_mutex_lock(&vs->lock);
    out->manifest_bytes = vs->manifest ? manifest_bytes(vs->manifest) : 0;
    out->manifest_rollovers = vs->rollovers;
    for (unsigned i = 0; i < vs->identity.shards; i++) {
        const struct version *v = vs->current[i];
        for (unsigned l = 0; l < LSM_LEVELS; l++) {
            out->shard[i].files[l] = v->levels[l].count;
            out->shard[i].bytes[l] = v->levels[l].bytes;
        }
        version_targets(vs, v, out->shard[i].target_bytes);
    }
    pthread_mutex_unlock(&vs->lock);
}
