/*
 * recover.c - from what the disk holds to an open store: the log's part of lsm_open.
 *
 * Two passes over the log. The first only reads: it finds the end, and tells a torn tail from damage. What no record and
 * no edit says to be on the medium (after a killed process it may be in the page cache only) is then written once more
 * and synced: with a commit timer that is the last second's. Then a fresh segment is taken and the edit "the log ends
 * at X and goes on at S" synced. Now the surviving records are as durable as any, and the second pass applies them to
 * memtables with flushes in between, in bounded memory (replay.h).
 *
 * Read-only, the first pass looks for marks only, the second applies, and memtables are sealed as they fill.
 */
#include "blob_recover.h"
#include "db.h"
#include "mutant.h"
#include "replay.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TELL_NS UINT64_C(1000000000) /* between two messages about how far it has come */

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
    for (unsigned i = 0; i < db->shard_count;
         i++) /* what a longer log leaves to be done when writing has ended */
        shard_kick(&db->shards[i]);
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

/* ---- what the log's reader calls ---- */

struct recovering {
    struct lsm *db;
    struct blob_recovery blobs;
    struct replay *replay;
    bool cut; /* a bad value in a blob file ends the log earlier than the first pass found and counted */
    const char *doing;
    uint64_t told_ns;
};

static int verify_blobs(void *arg, const void *payload, size_t len, bool *good)
{
    struct recovering *rec = arg;
    return blob_recovery_record(&rec->blobs, payload, len, good);
}

static int db_sync_blobs(void *arg) { return blob_sync(arg); }

static int count_only(void *arg, lsn_t lsn, const void *payload, size_t len)
{
    (void)arg, (void)lsn, (void)payload, (void)len;
    return 0;
}

static int apply_record(void *arg, lsn_t lsn, const void *payload, size_t len)
{
    struct recovering *rec = arg;
    return replay_record(rec->replay, lsn, payload, len);
}

/* Whoever waits for longer than a second is told what for. */
static void report_progress(void *arg, uint64_t done, uint64_t total)
{
    struct recovering *rec = arg;
    struct lsm *db = rec->db;
    uint64_t now = env_mono_ns(db->env);
    if (now - rec->told_ns >= TELL_NS && total) {
        rec->told_ns = now;
        logger_write(&db->log, LSM_LOG_INFO, "%s: %s the log: %.0f of %.0f MiB", db->path, rec->doing,
                     (double)done / 0x1p20, (double)total / 0x1p20);
    }
    if (db->options.progress)
        db->options.progress(db->options.progress_arg, done, total);
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

/*
 * Brings to the medium what the first pass found and nothing says that it is there: records that are written again, and the
 * values in blob files that they name. A bad value ends the log earlier.
 */
static int settle(struct recovering *rec, struct wal_recovery r, struct wal_recovered *end)
{
    struct wal_recovered settled;
    if (end->synced > r.synced)
        r.synced = mutant("marks of the log believed too much") ? end->end : end->synced;
    if (r.synced > r.start)
        r.start = r.synced;
    if (r.start >= end->end)
        return 0;
    r.rewrite = !mutant("recovery does not rewrite the log");
    r.verify = verify_blobs;
    r.progress = NULL;
    int err = wal_recover(&r, &settled);
    err = blob_recovery_finish(&rec->blobs, err);
    if (err)
        return err;
    if (settled.end > end->end)
        return logger_corrupt(&rec->db->log, "log", end->end, "the log changed while it was read");
    rec->cut = settled.end < end->end;
    end->end = settled.end;
    end->number = settled.number;
    return 0;
}

/* Applies what the first pass found, to memtables that are flushed when too many are full. */
static int second_pass(struct recovering *rec, struct wal_recovery *r, struct wal_use *uses, size_t use_count,
                       const struct wal_recovered *first)
{
    struct lsm *db = rec->db;
    size_t n = 0;
    for (; n < use_count && uses[n].base < first->end; n++)
        if (uses[n].number == first->number)
            uses[n].end = first->end;
    struct wal_recovered again;
    int err = replay_new(db, &rec->replay);
    if (err)
        return err;
    r->uses = uses;
    r->use_count = n;
    r->replay = apply_record;
    rec->doing = "replaying";
    err = replay_finish(rec->replay, wal_recover(r, &again));
    if (!err && !rec->cut && again.records != first->records)
        err = logger_corrupt(&db->log, "log", again.end, "the log changed while it was replayed");
    return err;
}

/* One pass that applies, up to whatever ends the log. A value that is not there ends it only above what had been synced. */
static int recover_read_only(struct recovering *rec, struct wal_recovery *r, struct wal_recovered *end)
{
    struct lsm *db = rec->db;
    int err = wal_recover_synced(r, &r->synced);
    if (!err)
        err = replay_new(db, &rec->replay);
    if (err)
        return err;
    r->replay = apply_record;
    r->verify = verify_blobs;
    err = wal_recover(r, end);
    bool damaged = err == -EUCLEAN;
    err = blob_recovery_finish(&rec->blobs, damaged ? 0 : err);
    err = replay_finish(rec->replay, err);
    db->fixed_frontier = end->end;
    if (!err && damaged)
        logger_write(&db->log, LSM_LOG_WARNING, "opened read-only up to the damage in the log");
    return err;
}

static int recover_for_writing(struct recovering *rec, struct wal_recovery *r, struct wal_use *uses,
                               struct wal_recovered *end)
{
    struct lsm *db = rec->db;
    int err = wal_recover(r, end);
    if (!err)
        err = settle(rec, *r, end);
    db->fixed_frontier = end->end;
    if (!err)
        err = open_log(db, end, r->start);
    if (!err && end->records)
        err = second_pass(rec, r, uses, r->use_count, end);
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
    struct recovering rec = {.db = db, .doing = "reading", .told_ns = began};
    rec.blobs = (struct blob_recovery){
        .vset = db->vset, .rewrite = !db->read_only && !mutant("recovery does not rewrite the log")};
    struct wal_recovery r = {
        .env = db->env,
        .dir = db->path,
        .uses = uses,
        .use_count = use_count,
        .start = vset_log_start(db->vset),
        .synced = vset_synced(db->vset),
        .log = db->log,
        .arg = &rec,
        .replay = count_only,
        .progress = report_progress,
    };
    struct wal_recovered end = {0};
    db->log_start = r.start;
    int err = db->read_only ? recover_read_only(&rec, &r, &end) : recover_for_writing(&rec, &r, uses, &end);
    free(uses);
    db->replay_ns = env_mono_ns(db->env) - began;
    return err;
}
