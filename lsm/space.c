/*
 * space.c - see space.h.
 */
#include "db.h"
#include "mutant.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TELL_NS UINT64_C(10000000000)    /* between two messages */
#define GRAIN_BYTES (UINT64_C(64) << 10) /* RESERVE is cut and grown in such pieces */

static uint64_t less(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t more(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }
static uint64_t round_up(uint64_t n) { return (n + GRAIN_BYTES - 1) / GRAIN_BYTES * GRAIN_BYTES; }

/* ---- how much ---- */

/* What the shards hold and owe. */
struct needs {
    uint64_t data;      /* bytes in tables and memtables */
    uint64_t memtables; /* of these, in memtables */
    bool spare;         /* the log has a segment to spare, or will have one in a moment */
    bool resting;
    uint64_t blobs; /* bytes in blob files */
    uint64_t debt;  /* what the store will write even if nobody gives it anything more */
};

static struct needs look_at_shards(struct lsm *db)
{
    struct needs n = {0};
    uint64_t too_large = 0;
    for (unsigned i = 0; i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        struct view *v = view_get(s);
        if (!memtable_is_empty(v->active))
            n.debt += memtable_table_bytes(v->active);
        for (size_t j = 0; j < v->sealed_count; j++)
            n.debt += memtable_table_bytes(v->sealed[j]);
        for (unsigned l = 0; l < LSM_LEVELS; l++)
            n.data += v->version->levels[l].bytes;
        for (size_t j = 0; j < v->version->blob_count; j++)
            n.blobs += blob_file_bytes(v->version->blobs[j].file);
        if (v->version->levels[0].count >= L0_STOP)
            too_large = more(too_large, __atomic_load_n(&s->compaction_too_large, __ATOMIC_RELAXED));
        view_unref(v);
    }
    n.memtables = n.debt;
    n.data += n.debt;
    n.debt += too_large;
    n.spare = db->wal && wal_expects_spare(db->wal);
    if (db->wal && !wal_has_spare(db->wal))
        n.debt += db->options.log_segment_bytes;
    n.resting = db_frontier(db) - __atomic_load_n(&db->space.rested_lsn, __ATOMIC_RELAXED) < SPACE_REST_BYTES;
    return n;
}

/*
 * See space.h. Deletes take no more than what they delete, so a small store needs a small reserve. A batch that is larger
 * than a memtable has one of its own. Where values lie in blob files what deletes leave of them must be moved before
 * anything comes back, one file at a time: of the emptiest at most 4/5 is alive when it is collected.
 */
static uint64_t tight_bytes(const struct lsm *db)
{
    return more(db->options.write_buffer_bytes / SPACE_TIGHT_SHARE, SPACE_TIGHT_MIN);
}

bool space_is_enough(const struct lsm *db, const struct memtable *m)
{
    return space_is_tight(db) && memtable_used_bytes(m) >= tight_bytes(db);
}

static uint64_t reserve_wanted(const struct lsm *db, const struct needs *n, uint64_t total_bytes)
{
    const struct lsm_options *o = &db->options;
    uint64_t memtable = more(o->write_buffer_bytes, o->log_segment_bytes / 4);
    uint64_t table = more(memtable, o->table_bytes);
    uint64_t flushes = (uint64_t)db->shard_count * (SEALED_MAX + 1) * memtable;
    if (n->resting)
        flushes = less(flushes, (uint64_t)db->shard_count * (SEALED_MAX + 1) * tight_bytes(db) +
                                    o->log_segment_bytes / 4);
    uint64_t tables =
        less(less(flushes, n->data) + less(table + table / 8, n->data), total_bytes / SPACE_DISK_SHARE);
    uint64_t collecting = less(less(o->blob_file_bytes / 5 * 4 + less(table, n->data), n->blobs),
                               total_bytes / SPACE_DISK_SHARE);
    uint64_t rest = tables + collecting;
    rest = n->spare ? more(rest, o->log_segment_bytes) : rest + o->log_segment_bytes;
    return round_up(SPACE_MANIFEST_BYTES + SPACE_SMALL_BYTES + rest);
}

/* ---- looking at the disk; under the lock ---- */

/* RESERVE is of no use any more: a call on it failed in a way that has nothing to do with space. */
static void give_up_file(struct lsm *db, int error)
{
    struct space *sp = &db->space;
    logger_write(&db->log, LSM_LOG_WARNING, "%s/RESERVE: %s; going on without", db->path, strerror(-error));
    env_close(sp->file);
    sp->file = NULL;
    sp->held = 0;
    sp->no_file = true;
}

static void ask_system(struct lsm *db)
{
    struct space *sp = &db->space;
    int err = env_space(db->env, db->path, &sp->free_bytes, &sp->total_bytes);
    sp->unknown = err != 0;
}

/* Near the edge it goes back and forth: told once in a while. */
static void tell(struct lsm *db, bool tight)
{
    struct space *sp = &db->space;
    uint64_t now = env_mono_ns(db->env);
    if (sp->told_ns && now - sp->told_ns < TELL_NS)
        return;
    sp->told_ns = now;
    if (tight)
        logger_write(
            &db->log, LSM_LOG_WARNING,
            "%s: the disk is full: %.1f MiB are left, %.1f MiB have to be; only what frees space goes on",
            db->path, (double)(sp->free_bytes + sp->held) / 0x1p20,
            (double)(sp->target + sp->debt + sp->claimed + SPACE_SLACK_BYTES) / 0x1p20);
    else
        logger_write(&db->log, LSM_LOG_INFO, "%s: there is space again", db->path);
}

static void set_headroom(struct lsm *db)
{
    struct space *sp = &db->space;
    bool was_tight = space_is_tight(db);
    int64_t headroom = INT64_MAX;
    if (!sp->unknown && !mutant("gate ignored"))
        headroom = (int64_t)(sp->free_bytes + sp->held) -
                   (int64_t)(sp->target + sp->debt + sp->claimed + SPACE_SLACK_BYTES);
    __atomic_store_n(&sp->headroom, headroom, __ATOMIC_RELAXED);
    if (headroom <= 0)
        __atomic_store_n(&sp->tight_ns, env_mono_ns(db->env), __ATOMIC_RELAXED);
    if (was_tight != (headroom <= 0))
        tell(db, headroom <= 0);
}

static void cut(struct lsm *db, uint64_t bytes)
{
    struct space *sp = &db->space;
    if (!sp->file || !bytes || mutant("reserve never given back"))
        return;
    assert(bytes <= sp->held);
    int err = env_truncate(sp->file, sp->held - bytes);
    if (err) { /* it may have been done all the same: the free space tells */
        give_up_file(db, err);
        return;
    }
    sp->held -= bytes;
    sp->free_bytes += bytes;
    sp->given += bytes;
}

/*
 * What is not on the medium is not set aside: a power cut may bring back files whose deletion was not either, and then
 * they have the place. Flushes and compactions, with several syncs of their own, come before this.
 */
static int sync_file(struct lsm *db)
{
    struct space *sp = &db->space;
    int err = env_sync(sp->file);
    if (!err && !sp->named)
        err = env_sync_dir(db->env, db->path);
    sp->named |= !err;
    return err;
}

/* Takes what is missing, or what can be had of it; lets go of what is too much. */
static void retake(struct lsm *db, uint64_t wanted)
{
    struct space *sp = &db->space;
    cut(db, minus(sp->held, wanted));
    uint64_t missing = minus(wanted, sp->held);
    uint64_t spare = minus(sp->free_bytes, sp->debt + sp->claimed);
    uint64_t bytes = less(missing, spare / GRAIN_BYTES * GRAIN_BYTES);
    if (!sp->file || !bytes || (sp->given && mutant("reserve not retaken")))
        return;
    int err = env_allocate(sp->file, sp->held, bytes);
    if (!err && !mutant("reserve not synced"))
        err = sync_file(db);
    if (!err) {
        sp->held += bytes;
        sp->taken += bytes;
        sp->free_bytes = minus(sp->free_bytes, bytes);
        return;
    }
    sp->no_file = err == -EOPNOTSUPP;
    int cut_error = env_truncate(sp->file, sp->held); /* of what it may have allocated before it failed */
    if (cut_error || (err != -ENOSPC && err != -EOPNOTSUPP))
        give_up_file(db, cut_error ? cut_error : err);
}

static void open_file(struct lsm *db)
{
    struct space *sp = &db->space;
    char *path;
    uint64_t size = 0;
    if (asprintf(&path, "%s/RESERVE", db->path) < 0)
        return; /* another time */
    int err = env_open(db->env, path, ENV_READ | ENV_WRITE | ENV_CREATE, &sp->file);
    free(path);
    if (err) {
        sp->file = NULL;
        if (err != -ENOSPC)
            logger_write(&db->log, LSM_LOG_WARNING, "%s/RESERVE: can't be opened: %s", db->path,
                         strerror(-err));
        return;
    }
    err = env_size(sp->file, &size);
    sp->held = size;
    if (!err && sp->held) /* after a crash it may be as long, and have holes */
        err = env_allocate(sp->file, 0, sp->held);
    if (err == -ENOSPC || err == -EOPNOTSUPP) {
        sp->no_file = err == -EOPNOTSUPP;
        sp->held = 0;
        err = env_truncate(sp->file, 0);
    }
    if (err)
        give_up_file(db, err);
}

static void look(struct lsm *db, struct needs needs, bool with_reserve)
{
    struct space *sp = &db->space;
    ask_system(db);
    sp->debt = needs.debt;
    sp->target = sp->unknown ? sp->target : reserve_wanted(db, &needs, sp->total_bytes);
    /* What the memtables hold is owed in any case; at rest it is set aside, too. */
    uint64_t wanted = sp->target + (needs.resting ? round_up(needs.memtables) : 0);
    if (with_reserve && !sp->unknown && !sp->no_file) {
        if (!sp->file)
            open_file(db);
        retake(db, wanted);
    }
    set_headroom(db);
    bool can_grow = !sp->unknown && !sp->no_file && sp->held < sp->target && !space_is_tight(db);
    __atomic_store_n(&sp->is_short, can_grow && !with_reserve, __ATOMIC_RELAXED);
}

/* ---- opening, closing ---- */

void space_open(struct lsm *db)
{
    struct space *sp = &db->space;
    open_file(db);
    sp->target = sp->held;
    sp->headroom = INT64_MAX;
    __atomic_store_n(&sp->last_resort, 1, __ATOMIC_RELAXED);
}

void space_opened(struct lsm *db)
{
    __atomic_store_n(&db->space.last_resort, 0, __ATOMIC_RELAXED);
    space_rest(db);
    space_look(db);
}

void space_close(struct lsm *db)
{
    env_close(db->space.file);
    db->space.file = NULL;
}

/* ---- the gate ---- */

void space_rest(struct lsm *db)
{
    __atomic_store_n(&db->space.rested_lsn, db_frontier(db), __ATOMIC_RELAXED);
}

bool space_is_short(const struct lsm *db) { return __atomic_load_n(&db->space.is_short, __ATOMIC_RELAXED); }

bool space_is_tight(const struct lsm *db)
{
    return __atomic_load_n(&db->space.headroom, __ATOMIC_RELAXED) <= 0;
}

bool space_is_wanted(const struct lsm *db)
{
    uint64_t tight_ns = __atomic_load_n(&db->space.tight_ns, __ATOMIC_RELAXED);
    return tight_ns && (space_is_tight(db) || env_mono_ns(db->env) - tight_ns < SPACE_WANTED_NS);
}

void space_look(struct lsm *db)
{
    struct needs needs = look_at_shards(db);
    pthread_mutex_lock(&db->space.lock);
    look(db, needs, true);
    pthread_mutex_unlock(&db->space.lock);
}

/* A writer's: leaves the reserve to background work, but for who has none. */
static void look_quickly(struct lsm *db)
{
    if (pthread_mutex_trylock(&db->space.lock)) /* somebody is at it */
        return;
    pthread_mutex_unlock(&db->space.lock);
    struct needs needs = look_at_shards(db);
    if (pthread_mutex_trylock(&db->space.lock)) /* it may take as long as allocating the reserve does */
        return;
    look(db, needs, db_inline(db));
    pthread_mutex_unlock(&db->space.lock);
}

int space_gate(struct lsm *db, uint64_t bytes)
{
    struct space *sp = &db->space;
    int64_t need = (int64_t)bytes;
    if (__atomic_load_n(&sp->headroom, __ATOMIC_RELAXED) > need)
        return 0;
    uint64_t now = env_mono_ns(db->env);
    if (db_inline(db) || now - __atomic_load_n(&sp->looked_ns, __ATOMIC_RELAXED) >= SPACE_LOOK_NS) {
        __atomic_store_n(&sp->looked_ns, now, __ATOMIC_RELAXED);
        look_quickly(db);
        if (__atomic_load_n(&sp->headroom, __ATOMIC_RELAXED) > need)
            return 0;
    }
    count_add(&sp->refused, 1);
    return -ENOSPC;
}

void space_appended(struct lsm *db, uint64_t end)
{
    struct space *sp = &db->space;
    if (end - __atomic_load_n(&sp->looked_lsn, __ATOMIC_RELAXED) < SPACE_LOOK_BYTES)
        return;
    __atomic_store_n(&sp->looked_lsn, end, __ATOMIC_RELAXED);
    look_quickly(db);
    if (space_is_short(db))
        shard_kick(&db->shards[0]);
}

/* ---- claims ---- */

/* Cuts the reserve by what the disk lacks for `bytes` more than is claimed. False: even so it has not enough. Under the lock. */
static bool provide(struct lsm *db, uint64_t bytes, bool in_part)
{
    struct space *sp = &db->space;
    ask_system(db);
    if (sp->unknown)
        return true;
    uint64_t lacking = minus(sp->claimed + bytes, sp->free_bytes);
    uint64_t may_give = minus(sp->held, SPACE_MANIFEST_BYTES);
    if (lacking <= may_give || in_part)
        cut(db, less(round_up(lacking), may_give));
    return sp->free_bytes >= sp->claimed + bytes;
}

bool space_claim(struct lsm *db, uint64_t bytes)
{
    struct space *sp = &db->space;
    pthread_mutex_lock(&sp->lock);
    bool there = provide(db, bytes, false);
    if (there)
        sp->claimed += bytes;
    set_headroom(db);
    pthread_mutex_unlock(&sp->lock);
    return there;
}

void space_want(struct lsm *db, uint64_t bytes)
{
    pthread_mutex_lock(&db->space.lock);
    (void)provide(db, bytes, true);
    set_headroom(db);
    pthread_mutex_unlock(&db->space.lock);
}

void space_unclaim(struct lsm *db, uint64_t bytes)
{
    struct space *sp = &db->space;
    pthread_mutex_lock(&sp->lock);
    assert(bytes <= sp->claimed);
    sp->claimed -= bytes;
    pthread_mutex_unlock(&sp->lock);
}

uint64_t space_claimable(struct lsm *db)
{
    struct space *sp = &db->space;
    pthread_mutex_lock(&sp->lock);
    ask_system(db);
    uint64_t bytes =
        sp->unknown ? UINT64_MAX : minus(sp->free_bytes + minus(sp->held, SPACE_MANIFEST_BYTES), sp->claimed);
    pthread_mutex_unlock(&sp->lock);
    return bytes;
}

bool space_for_manifest(void *arg, uint64_t bytes)
{
    struct lsm *db = arg;
    struct space *sp = &db->space;
    pthread_mutex_lock(&sp->lock);
    uint64_t before = sp->given;
    cut(db, less(round_up(bytes), sp->held));
    bool gave = sp->given != before;
    set_headroom(db);
    pthread_mutex_unlock(&sp->lock);
    return gave;
}

bool space_for_segment(void *arg, uint64_t bytes)
{
    struct lsm *db = arg;
    struct space *sp = &db->space;
    if (!__atomic_load_n(&sp->last_resort, __ATOMIC_RELAXED))
        return false;
    pthread_mutex_lock(&sp->lock);
    uint64_t before = sp->given;
    bool there = provide(db, bytes, false);
    if (there && sp->given == before) /* btrfs counts what can't be had as free, and the reserve can */
        cut(db, less(round_up(bytes), minus(sp->held, SPACE_MANIFEST_BYTES)));
    there &= sp->given != before;
    set_headroom(db);
    pthread_mutex_unlock(&sp->lock);
    return there;
}

/* ---- telling ---- */

int space_usable(struct lsm *db, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct space *sp = &db->space;
    if (!db->wal)
        return env_space(db->env, db->path, free_bytes, total_bytes);
    struct needs needs = look_at_shards(db);
    pthread_mutex_lock(&sp->lock);
    look(db, needs, false);
    int err = sp->unknown ? -EIO : 0;
    *free_bytes = minus(sp->free_bytes + sp->held, sp->target + sp->debt + sp->claimed + SPACE_SLACK_BYTES);
    *total_bytes = sp->total_bytes;
    pthread_mutex_unlock(&sp->lock);
    return err;
}

void space_stats(struct lsm *db, struct lsm_stats *out)
{
    struct space *sp = &db->space;
    if (!db->wal)
        return;
    struct needs needs = look_at_shards(db);
    pthread_mutex_lock(&sp->lock);
    look(db, needs, false);
    out->space_tight = space_is_tight(db);
    out->space_free_bytes = sp->free_bytes;
    out->space_debt_bytes = sp->debt + sp->claimed;
    out->reserve_bytes = sp->held;
    out->reserve_target_bytes = sp->target;
    out->reserve_given_bytes = sp->given;
    out->reserve_taken_bytes = sp->taken;
    pthread_mutex_unlock(&sp->lock);
    out->space_refused = count_get(&sp->refused);
}

void space_took(struct lsm *db, uint64_t bytes)
{
    struct space *sp = &db->space;
    int64_t now = __atomic_load_n(&sp->headroom, __ATOMIC_RELAXED);
    if (now != INT64_MAX) /* nothing is known */
        (void)__atomic_fetch_sub(&sp->headroom, (int64_t)bytes, __ATOMIC_RELAXED);
}
