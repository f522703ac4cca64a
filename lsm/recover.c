/*
 * recover.c - from what the disk holds to an open store: the log's part of lsm_open.
 *
 * Two passes over the log. The first only reads: it finds the end, tells a torn tail from damage,
 * and (for writing) writes the surviving segments once more and syncs them, since after a killed
 * process they may be in the page cache only. Then a fresh segment is taken and the edit "the log
 * ends at X and goes on at S" synced. Now the surviving records are as durable as any, and the
 * second pass applies them to memtables with flushes in between, in bounded memory.
 *
 * Read-only, there is one pass, and memtables are sealed as they fill.
 */
#include "blob_recover.h"
#include "db.h"
#include "mutant.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int db_wal_use(void *arg, const struct wal_use *use)
{
    struct lsm *db = arg;
    struct edit edit = {.use = use};
    if (db->has_pending_end) {
        edit.has_log_end = true;
        edit.log_end_number = db->pending_end_number;
        edit.log_end = db->pending_end;
    }
    int err = vset_apply(db->vset, &edit, NULL, NULL);
    if (!err)
        db->has_pending_end = false;
    int failed = vset_failed(db->vset); /* perhaps after this edit was installed */
    if (failed)
        db_fail(db, failed, "the manifest can't be written");
    return err;
}

uint64_t db_wal_new_number(void *arg)
{
    struct lsm *db = arg;
    return vset_new_number(db->vset);
}

void db_wal_failed(void *arg, int error) { db_fail(arg, error, "the log can't be written or synced"); }

/* ---- applying records ---- */

struct replay {
    struct lsm *db;
    struct blob_recovery blobs;
    struct batch_change *changes;
    uint8_t *shard_of;
    size_t capacity;
};

static int replay_room(struct replay *rp, size_t count)
{
    if (count <= rp->capacity)
        return 0;
    size_t capacity = count + count / 2 + 64;
    struct batch_change *changes = realloc(rp->changes, capacity * sizeof *changes);
    if (!changes)
        return -ENOMEM;
    rp->changes = changes;
    uint8_t *shard_of = realloc(rp->shard_of, capacity);
    if (!shard_of)
        return -ENOMEM;
    rp->shard_of = shard_of;
    rp->capacity = capacity;
    return 0;
}

/* Makes room for a record's part in one shard: seals, and flushes unless the store is read-only. */
static int make_room(struct shard *s, size_t need, size_t range_bytes)
{
    struct lsm *db = s->db;
    if (need <= memtable_free_bytes(s->view->active) && memtable_takes_ranges(s->view->active, range_bytes))
        return 0;
    struct view *retired = NULL;
    size_t arena = db->options.write_buffer_bytes;
    int err = view_rotate(s, need > arena ? need : arena, &retired);
    view_retire(retired);
    if (!err && !db->read_only) {
        err = shard_flush_oldest(s);
        /* On a full disk more memtables wait than usual: what fitted into memory before the crash does so again. */
        if (err > 0 || err == -ENOSPC)
            err = 0;
    }
    return err;
}

/* Adds to `need` what a change takes in the memtables of the shards in `mask`. */
static int change_room(struct lsm *db, const struct batch_change *c, uint64_t mask, size_t largest,
                       size_t *need)
{
    for (unsigned i = 0; i < db->shard_count; i++) {
        if (!(mask >> i & 1))
            continue;
        if (c->type == ENTRY_RANGE_DELETE) {
            need[i] += memtable_range_bytes(c->key_len, c->value_len);
            continue;
        }
        size_t value_len = c->value_len;
        if (c->type == ENTRY_MERGE) {
            if (!db->options.merge)
                return -EINVAL;
            size_t below = memtable_newest_len(db->shards[i].view->active, c->key, c->key_len);
            value_len += below > largest ? below : largest;
        }
        need[i] += memtable_entry_bytes(c->key_len, value_len);
    }
    return 0;
}

/* A flush of what is replayed makes the pointers of tables, and keeps their files. */
static int note_blobs(const struct replay *rp, uint32_t count, uint64_t mask, lsn_t lsn, lsn_t end)
{
    struct lsm *db = rp->db;
    for (uint32_t i = 0; i < count; i++) {
        const struct batch_change *c = &rp->changes[i];
        struct blob_pointer p;
        if (c->type != ENTRY_BLOB || !(mask & db_shard_mask(db, rp->shard_of[i])))
            continue;
        struct blob_file *f = blob_pointer_decode(c->value, c->value_len, &p)
                                  ? NULL
                                  : version_blob(vset_current(db->vset, rp->shard_of[i]), p.number);
        if (!f)
            return logger_corrupt(&db->log, "log", lsn,
                                  "the record at LSN %" PRIu64 " names a blob file that is not there", lsn),
                   -EUCLEAN;
        if (f->named_until < end)
            f->named_until = end;
    }
    return 0;
}

static int apply_record(void *arg, lsn_t lsn, const void *payload, size_t len)
{
    struct replay *rp = arg;
    struct lsm *db = rp->db;
    struct batch_reader br;
    uint64_t mask = 0;
    size_t need[SHARDS_MAX] = {0};
    size_t largest = 0, range_bytes = 0;
    uint32_t count = 0;
    int more = batch_read_begin(&br, payload, len);
    if (more == 0)
        more = replay_room(rp, br.left);
    while (more >= 0) {
        struct batch_change *c = &rp->changes[count];
        more = br.left || reader_left(&br.r) ? batch_read_next(&br, c) : 0;
        if (more <= 0)
            break;
        uint8_t to = db_route_change(db, c);
        rp->shard_of[count++] = to;
        mask |= db_shard_mask(db, to);
        if (c->type == ENTRY_RANGE_DELETE)
            range_bytes += c->key_len + c->value_len;
        else if (c->value_len > largest)
            largest = c->value_len;
    }
    if (more == -EBADMSG || (more == 0 && count == 0))
        return logger_corrupt(&db->log, "log", lsn, "the record at LSN %" PRIu64 " is no batch", lsn);
    if (more < 0)
        return more;
    for (unsigned i = 0; i < db->shard_count; i++) /* these have it in tables already */
        if (lsn < vset_flushed(db->vset, i) && !mutant("flushed records replayed again"))
            mask &= ~(UINT64_C(1) << i);
    int err = 0;
    for (uint32_t i = 0; !err && i < count; i++)
        err = change_room(db, &rp->changes[i], mask & db_shard_mask(db, rp->shard_of[i]), largest, need);
    if (!err)
        err = note_blobs(rp, count, mask, lsn, lsn + wal_record_bytes(len));
    if (err)
        return err;
    db->replaying = lsn; /* what follows is in no memtable yet: a flush must not let go of it */
    for (unsigned i = 0; !err && i < db->shard_count; i++)
        if (mask >> i & 1)
            err = make_room(&db->shards[i], need[i], range_bytes);
    if (!err && mask)
        db_insert(db, rp->changes, rp->shard_of, mutant("half a batch replayed") ? count / 2 : count, lsn,
                  lsn + wal_record_bytes(len), mask);
    if (!err) {
        db->replayed_batches++;
        db->replayed_bytes += len;
    }
    return err;
}

static int verify_blobs(void *arg, const void *payload, size_t len, bool *good)
{
    struct replay *rp = arg;
    return blob_recovery_record(&rp->blobs, payload, len, good);
}

static int db_sync_blobs(void *arg) { return blob_sync(arg); }

static int count_only(void *arg, lsn_t lsn, const void *payload, size_t len)
{
    (void)arg, (void)lsn, (void)payload, (void)len;
    return 0;
}

static void report_progress(void *arg, uint64_t done, uint64_t total)
{
    struct replay *rp = arg;
    rp->db->options.progress(rp->db->options.progress_arg, done, total);
}

/* ---- segments ---- */

struct segment_files {
    uint64_t *numbers;
    size_t count, capacity;
};

static int note_segment(void *arg, const char *name)
{
    struct segment_files *f = arg;
    char canonical[32];
    uint64_t number = strtoull(name, NULL, 10);
    snprintf(canonical, sizeof canonical, "%06" PRIu64 ".log", number);
    if (strcmp(name, canonical) != 0) /* not one of ours */
        return 0;
    if (f->count == f->capacity) {
        size_t capacity = f->capacity ? f->capacity * 2 : 16;
        uint64_t *numbers = realloc(f->numbers, capacity * sizeof *numbers);
        if (!numbers)
            return -ENOMEM;
        f->numbers = numbers;
        f->capacity = capacity;
    }
    f->numbers[f->count++] = number;
    return 0;
}

static bool is_live(const struct wal_use *uses, size_t count, uint64_t number)
{
    for (size_t i = 0; i < count; i++)
        if (uses[i].number == number)
            return true;
    return false;
}

/*
 * Is the file a whole segment, and on the medium as one? Who made it may have been killed before it synced the file.
 * A file that can't be synced is not used.
 */
static int look_at_segment(struct lsm *db, const char *path, bool *whole)
{
    struct env_file *file;
    uint64_t size = 0;
    int err = env_open(db->env, path, ENV_READ | ENV_WRITE, &file);
    if (err)
        return err;
    err = env_size(file, &size);
    *whole = !err && size == db->options.log_segment_bytes && env_sync(file) == 0;
    env_close(file);
    return err;
}

/*
 * Files of the log that hold nothing needed: whole ones may be used again, others are leftovers. One that the manifest
 * names still, as the use that began where the log has ended, stays until the next open: without it the log
 * would seem to be damaged if this open came to nothing.
 */
static int sort_out_segments(struct lsm *db, const struct wal_use *live, size_t live_count,
                             struct segment_files *f)
{
    int err = env_list(db->env, db->path, note_segment, f);
    size_t use_count, kept = 0;
    const struct wal_use *uses = vset_uses(db->vset, &use_count);
    for (size_t i = 0; !err && i < f->count; i++) {
        if (is_live(live, live_count, f->numbers[i]))
            continue;
        char *path = malloc(strlen(db->path) + 32);
        if (!path)
            return -ENOMEM;
        wal_segment_path(db->path, f->numbers[i], path, strlen(db->path) + 32);
        bool whole = false;
        err = look_at_segment(db, path, &whole);
        if (!err && whole)
            f->numbers[kept++] = f->numbers[i];
        else if (!err && !is_live(uses, use_count, f->numbers[i]))
            err = env_unlink(db->env, path);
        free(path);
    }
    f->count = kept;
    if (!err && kept) /* a process killed while it made one may not have come to syncing its name */
        err = env_sync_dir(db->env, db->path);
    return err;
}

static int open_log(struct lsm *db, const struct wal_recovered *end, lsn_t log_start)
{
    size_t use_count, live_count = 0;
    const struct wal_use *uses = vset_uses(db->vset, &use_count);
    struct wal_use *live = calloc(use_count ? use_count : 1, sizeof *live);
    struct segment_files files = {0};
    if (!live)
        return -ENOMEM;
    for (size_t i = 0; i < use_count; i++) {
        lsn_t use_end = uses[i].end ? uses[i].end : uses[i].base + uses[i].bytes;
        if (uses[i].base >= end->end || use_end <= log_start)
            continue;
        live[live_count] = uses[i];
        if (uses[i].number == end->number)
            live[live_count].end = end->end;
        live_count++;
    }
    int err = sort_out_segments(db, live, live_count, &files);
    if (!err) {
        struct wal_options o = {
            .env = db->env,
            .dir = db->path,
            .segment_bytes = db->options.log_segment_bytes,
            .map = false,
            .threads = !db_inline(db),
            .commit_ms = db->options.commit_ms,
            .log = db->log,
            .arg = db,
            .use = db_wal_use,
            .new_number = db_wal_new_number,
            .before_sync = db_sync_blobs,
            .failed = db_wal_failed,
            .no_space = space_for_segment,
        };
        db->has_pending_end = end->number != 0 && !mutant("end of the log not recorded");
        db->pending_end_number = end->number;
        db->pending_end = end->end;
        err = wal_open(&o, end->next, live, live_count, files.numbers, files.count, &db->wal);
    }
    free(files.numbers);
    free(live);
    return err;
}

/* Applies what the first pass found, to memtables that are flushed as they fill. */
static int second_pass(struct lsm *db, struct wal_recovery *r, struct wal_use *uses, size_t use_count,
                       const struct wal_recovered *first)
{
    size_t n = 0;
    for (; n < use_count && uses[n].base < first->end; n++)
        if (uses[n].number == first->number)
            uses[n].end = first->end;
    struct replay rp = {.db = db};
    struct wal_recovered again;
    r->uses = uses;
    r->use_count = n;
    r->rewrite = false;
    r->verify = NULL;
    r->arg = &rp;
    r->replay = apply_record;
    int err = wal_recover(r, &again);
    db->replaying = 0;
    if (!err && again.records != first->records)
        err = logger_corrupt(&db->log, "log", again.end, "the log changed while it was replayed");
    free(rp.changes);
    free(rp.shard_of);
    return err;
}

int db_recover(struct lsm *db)
{
    uint64_t began = env_mono_ns(db->env);
    size_t use_count;
    const struct wal_use *borrowed = vset_uses(db->vset, &use_count);
    /* A copy: from open_log on, the log's own thread applies edits. */
    struct wal_use *uses = malloc((use_count + 1) * sizeof *uses);
    if (!uses)
        return -ENOMEM;
    if (use_count)
        memcpy(uses, borrowed, use_count * sizeof *uses);
    struct replay rp = {.db = db};
    rp.blobs = (struct blob_recovery){
        .vset = db->vset, .rewrite = !db->read_only && !mutant("recovery does not rewrite the log")};
    struct wal_recovery r = {
        .env = db->env,
        .dir = db->path,
        .uses = uses,
        .use_count = use_count,
        .start = vset_log_start(db->vset),
        .synced = vset_synced(db->vset),
        .rewrite = !db->read_only && !mutant("recovery does not rewrite the log"),
        .log = db->log,
        .arg = &rp,
        .verify = verify_blobs,
        .replay = db->read_only ? apply_record : count_only,
        .progress = db->options.progress ? report_progress : NULL,
    };
    struct wal_recovered end;
    int err = wal_recover(&r, &end);
    err = blob_recovery_finish(&rp.blobs, err);
    db->log_start = r.start;
    db->fixed_frontier = end.end;
    if (db->read_only) {
        free(rp.changes);
        free(rp.shard_of);
        if (err == -EUCLEAN) {
            logger_write(&db->log, LSM_LOG_WARNING, "opened read-only up to the damage in the log");
            err = 0;
        }
    } else if (!err) {
        err = open_log(db, &end, r.start);
        if (!err && end.records)
            err = second_pass(db, &r, uses, use_count, &end);
    }
    free(uses);
    db->replay_ns = env_mono_ns(db->env) - began;
    return err;
}
