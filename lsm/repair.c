/*
 * repair.c - lsm_repair: out of a damaged store one that opens and holds all that is undamaged.
 *
 * Verifying says what is damaged. With a good manifest the store is then opened for reading, which stands any other
 * damage, and:
 *   - a shard none of whose tables is damaged keeps them, and gets what the log holds for it as a new table;
 *   - a shard with a damaged table is read as a whole, key by key, and what can be read is written into new tables
 *     in the last level (salvage.c): no level is trusted that may hide what a lost block had to say;
 *   - blob files stay where they are: a shard one of whose blob files is damaged is rewritten, too, without the keys whose
 *     values can't be read.
 * Without one the manifest is made anew from the tables (rebuild.c).
 *
 * Named snapshots stay if all that they show is there: if no table had to be rewritten, and the log reaches beyond
 * them. The others are dropped, and said to be.
 *
 * The result has an empty log that goes on above every LSN that was ever seen. It is written as a whole: new
 * tables, synced; then links in "lost" to every file that is damaged, and to MANIFEST; then a new MANIFEST, renamed over the
 * old one; and only then the files that it does not name are removed from where they were. So a crash
 * leaves the old store or the new one.
 *
 * Threads: the caller's.
 */
#include "masked.h"
#include "repair.h"
#include "filter.h"
#include "file_copy.h"
#include "wal_format.h"
#include "verify.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOST_NAMES_MAX 1000u /* of one file, from repairs before */
#define REPAIR_MEMORY_DEFAULT (UINT64_C(64) << 20)
#define TABLE_BYTES_DEFAULT (8u << 20)
#define BLOCK_BYTES_DEFAULT (8u << 10)

/* ---- small things ---- */

int numbers_add(struct numbers *n, uint64_t number)
{
    if (numbers_have(n, number))
        return 0;
    if (n->count == n->capacity) {
        size_t capacity = n->capacity ? n->capacity * 2 : 16;
        uint64_t *list = realloc(n->list, capacity * sizeof *list);
        if (!list)
            return -ENOMEM;
        n->list = list;
        n->capacity = capacity;
    }
    n->list[n->count++] = number;
    return 0;
}

bool numbers_have(const struct numbers *n, uint64_t number)
{
    for (size_t i = 0; i < n->count; i++)
        if (n->list[i] == number)
            return true;
    return false;
}

void repair_report(struct repair *r, const char *file, bool damage, const char *format, ...)
{
    char what[300];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    struct lsm_problem p = {.file = file, .what = what, .damage = damage};
    r->fn(r->arg, &p);
}

static void table_name(uint64_t number, char out[40])
{
    (void)snprintf(out, 40, "%06" PRIu64 ".sst", number);
}
static void log_name(uint64_t number, char out[40]) { (void)snprintf(out, 40, "%06" PRIu64 ".log", number); }

/* ---- what the store is to be ---- */

int repair_add(struct repair *r, unsigned shard, unsigned level, const struct table_meta *meta)
{
    size_t n = r->add_count[shard];
    if ((n & (n - 1)) == 0) {
        struct version_add *grown = realloc(r->add[shard], (n ? n * 2 : 1) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        r->add[shard] = grown;
    }
    int err = table_file_open(r->result, shard, meta, false, &r->add[shard][n].file);
    if (err)
        return err;
    r->add[shard][n].level = level;
    r->add_count[shard]++;
    return 0;
}

int repair_add_written(struct repair *r, unsigned shard, unsigned level, struct compact_result *written)
{
    int err = 0;
    for (size_t i = 0; !err && i < written->count; i++)
        err = numbers_add(&r->written, written->tables[i].number);
    for (size_t i = 0; !err && i < written->count; i++)
        err = repair_add(r, shard, level, &written->tables[i]);
    r->out->tables_written += written->count;
    compact_result_free(written);
    return err;
}

struct blob_file *repair_find_blob(void *repair, uint64_t number)
{
    struct repair *r = repair;
    for (size_t i = 0; i < r->blob_count; i++)
        if (r->blobs[i]->number == number)
            return r->blobs[i];
    return NULL;
}

int repair_add_blob(struct repair *r, const struct blob_meta *meta)
{
    size_t n = r->blob_count;
    if (repair_find_blob(r, meta->number))
        return 0;
    if ((n & (n - 1)) == 0) {
        struct blob_file **grown = realloc(r->blobs, (n ? n * 2 : 1) * sizeof(struct blob_file *));
        if (!grown)
            return -ENOMEM;
        r->blobs = grown;
    }
    int err = blob_file_open(r->env, r->path, &r->result->log, meta, false, &r->blobs[n]);
    r->blob_count += !err;
    return err;
}

void repair_set_log(struct repair *r, lsn_t top)
{
    struct log_state *s = &r->result->state;
    s->start = s->synced = wal_align(top);
    for (unsigned i = 0; i < r->result->identity.shards; i++)
        s->flushed[i] = s->start;
}

/* ---- with a good manifest ---- */

static bool is_damaged(const struct repair *r, const struct version *v)
{
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; i < v->levels[l].count; i++) {
            const struct table_file *f = v->levels[l].files[i];
            if (table_is_damaged(f->table) || numbers_have(&r->bad_tables, f->meta.number))
                return true;
        }
    for (size_t i = 0; i < v->blob_count; i++)
        if (!v->blobs[i].file->file || numbers_have(&r->bad_blobs, v->blobs[i].file->number))
            return true;
    return false;
}

enum table_compression repair_compression(const struct repair *r, unsigned level)
{
    return vset_has(r->result, STORE_COMPRESSION) ? db_compression(r->options, level)
                                                  : TABLE_COMPRESSION_NONE;
}

unsigned repair_filter_bits(const struct repair *r, unsigned level)
{
    return vset_has(r->result, STORE_FUSE_FILTERS) ? filter_bits(level) : 0;
}

/* Everything of a view that can be read, merged; nothing is hidden by range deletes. */
static int open_view(struct view *v, bool tables, struct iter **out)
{
    size_t n = 0;
    struct iter **children = calloc(view_children_max(v), sizeof *children);
    int err = children ? 0 : -ENOMEM;
    if (!err)
        err = view_children(v, tables, LSM_NOFILL | LSM_SALVAGE, children, &n);
    if (!err)
        err = merge_iter_new(children, n, out);
    free(children);
    return err;
}

static int rewrite_shard(struct repair *r, struct lsm *db, struct view *v, unsigned shard)
{
    struct salvage s = {.env = r->env, .dir = r->path, .numbers = r->result, .db = db};
    s.blob = repair_find_blob;
    s.blob_arg = r;
    struct compact_result written;
    struct salvaged counts = {0};
    struct iter *input;
    s.table_bytes = r->table_bytes;
    s.block_bytes = r->block_bytes;
    s.compression = repair_compression(r, LSM_LEVELS - 1);
    s.filter_bits = repair_filter_bits(r, LSM_LEVELS - 1);
    int err = open_view(v, true, &input);
    if (err)
        return err;
    err = salvage_run(&s, input, &written, &counts);
    iter_free(input);
    if (!err)
        err = repair_add_written(r, shard, LSM_LEVELS - 1, &written);
    r->out->keys_saved += counts.saved;
    r->out->keys_lost += counts.lost;
    for (unsigned l = 0; !err && l < LSM_LEVELS; l++)
        for (size_t i = 0; !err && i < v->version->levels[l].count; i++) {
            uint64_t number = v->version->levels[l].files[i]->meta.number;
            bool bad = numbers_have(&r->bad_tables, number) ||
                       table_is_damaged(v->version->levels[l].files[i]->table);
            err = numbers_add(bad ? &r->keep_tables : &r->replaced, number);
            r->out->tables_rewritten++;
        }
    return err;
}

/* The tables stay as they are; what the log holds for the shard becomes one more. */
static int carry_shard(struct repair *r, struct lsm *db, struct view *v, unsigned shard)
{
    struct compact_result written = {0};
    struct iter *input;
    int err = 0;
    for (unsigned l = 0; !err && l < LSM_LEVELS; l++)
        for (size_t i = 0; !err && i < v->version->levels[l].count; i++)
            err = repair_add(r, shard, l, &v->version->levels[l].files[i]->meta);
    uint64_t *snapshots = NULL;
    size_t snapshot_count = 0;
    if (!err)
        err = snapshot_list(db, &snapshots, &snapshot_count);
    if (!err)
        err = open_view(v, false, &input);
    if (err) {
        free(snapshots);
        return err;
    }
    struct compact_job job = {.env = r->env,
                              .dir = r->path,
                              .vs = r->result,
                              .log = &db->log,
                              .input = input,
                              .snapshots = snapshots,
                              .snapshot_count = snapshot_count,
                              .merge = r->options->merge,
                              .merge_arg = r->options->callback_arg,
                              .block_bytes = r->block_bytes,
                              .compression = repair_compression(r, 0),
                              .filter_bits = repair_filter_bits(r, 0)};
    job.expected_entries = v->active ? memtable_count(v->active) : 0;
    for (size_t i = 0; i < v->sealed_count; i++)
        job.expected_entries += memtable_count(v->sealed[i]);
    struct ranges ranges = {0};
    if (v->active)
        err = memtable_ranges(v->active, &ranges);
    for (size_t i = 0; !err && i < v->sealed_count; i++)
        err = memtable_ranges(v->sealed[i], &ranges);
    if (!err)
        err = ranges_build(&ranges, snapshots, snapshot_count);
    job.ranges = &ranges;
    if (!err && (job.expected_entries || ranges.count))
        err = compact_run(&job, &written);
    iter_free(input);
    ranges_free(&ranges);
    free(snapshots);
    return err ? err : repair_add_written(r, shard, 0, &written);
}

/* Above every LSN of the log and every seq of a table. */
static lsn_t top_of(const struct lsm *db)
{
    lsn_t top = log_state_top(&db->vset->state);
    for (unsigned s = 0; s < db->shard_count; s++)
        for (unsigned l = 0; l < LSM_LEVELS; l++) {
            const struct level *level = &vset_current(db->vset, s)->levels[l];
            for (size_t i = 0; i < level->count; i++)
                top = level->files[i]->meta.seq_max >= top ? level->files[i]->meta.seq_max + 1 : top;
        }
    return top;
}

/* The segment that is damaged, and those after it, whose records could not be replayed. */
static int keep_damaged_log(struct repair *r, const struct lsm *db)
{
    size_t count;
    const struct wal_use *uses = vset_uses(db->vset, &count);
    bool from_here = false;
    int err = 0;
    for (size_t i = 0; !err && i < count; i++) {
        from_here |= numbers_have(&r->bad_logs, uses[i].number);
        if (from_here)
            err = numbers_add(&r->keep_logs, uses[i].number);
    }
    return err;
}

/* Named snapshots of which everything is there. */
static int keep_names(struct repair *r, struct lsm *db, bool any_damaged)
{
    const struct named_list *named = vset_named(db->vset);
    for (size_t i = 0; i < named->count; i++) {
        if (any_damaged || named->list[i].seq >= db_frontier(db)) {
            repair_report(r, "", true, "snapshot \"%s\" is dropped: part of what it showed is damaged",
                          named->list[i].name);
            continue;
        }
        int err = named_reserve(&r->result->named);
        if (err)
            return err;
        bool fits = named_apply(&r->result->named, &(struct edit){.name_taken = &named->list[i]});
        assert(fits); /* they were in one list before */
    }
    return 0;
}

/* One that is missing is forgotten: whose values were in it is lost. */
static int carry_blobs(struct repair *r, const struct version *v, unsigned shard)
{
    int err = 0;
    for (size_t i = 0; !err && i < v->blob_count; i++) {
        const struct blob_file *f = v->blobs[i].file;
        if (f->file)
            err = repair_add_blob(r, &(struct blob_meta){f->number, f->salt, shard});
    }
    return err;
}

static int repair_opened(struct repair *r, struct lsm *db)
{
    r->result->identity = *vset_identity(db->vset);
    r->result->next_number = db->vset->next_number;
    repair_set_log(r, top_of(db));
    bool any_damaged = false;
    int err = keep_damaged_log(r, db);
    for (unsigned i = 0; !err && i < db->shard_count; i++) {
        struct view *v = view_get(&db->shards[i]);
        any_damaged |= is_damaged(r, v->version);
        err = carry_blobs(r, v->version, i);
        if (!err)
            err = is_damaged(r, v->version) ? rewrite_shard(r, db, v, i) : carry_shard(r, db, v, i);
        view_unref(v);
    }
    return err ? err : keep_names(r, db, any_damaged);
}

/* ---- putting it in place ---- */

/* Gives a file of the store a second name in "lost", by a copy where there are no links. One that is missing is none. */
static int keep_file(struct repair *r, const char *name)
{
    char *from = NULL, *to = NULL;
    int err = asprintf(&from, "%s/%s", r->path, name) < 0 ? -ENOMEM : -EEXIST;
    for (unsigned n = 0; err == -EEXIST && n < LOST_NAMES_MAX; n++) {
        free(to);
        to = NULL;
        int len =
            n ? asprintf(&to, "%s/lost/%s.%u", r->path, name, n) : asprintf(&to, "%s/lost/%s", r->path, name);
        if (len < 0) {
            to = NULL;
            err = -ENOMEM;
            break;
        }
        err = file_link_or_copy(r->env, from, to);
    }
    if (!err) {
        r->out->files_kept++;
        repair_report(r, name, false, "kept as %s", to + strlen(r->path) + 1);
    }
    free(from);
    free(to);
    return err == -ENOENT ? 0 : err;
}

static int keep_files(struct repair *r)
{
    char *lost, name[40];
    if (asprintf(&lost, "%s/lost", r->path) < 0)
        return -ENOMEM;
    int err = env_mkdir(r->env, lost);
    if (err == -EEXIST)
        err = 0;
    if (!err)
        err = keep_file(r, "MANIFEST");
    for (size_t i = 0; !err && i < r->keep_tables.count; i++) {
        table_name(r->keep_tables.list[i], name);
        err = keep_file(r, name);
    }
    for (size_t i = 0; !err && i < r->keep_logs.count; i++) {
        log_name(r->keep_logs.list[i], name);
        err = keep_file(r, name);
    }
    if (!err)
        err = env_sync_dir(r->env, lost);
    if (!err)
        err = env_sync_dir(r->env, r->path); /* the new tables, and "lost" itself */
    free(lost);
    return err;
}

static void remove_file(struct repair *r, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", r->path, name) < 0)
        return; /* a leftover: the next open deletes tables, and uses segments again */
    int err = env_unlink(r->env, path);
    if (err && err != -ENOENT)
        repair_report(r, name, false, "can't be deleted: %s", strerror(-err));
    free(path);
}

static void remove_numbers(struct repair *r, const struct numbers *n, void (*name_of)(uint64_t, char[40]))
{
    char name[40];
    for (size_t i = 0; i < n->count; i++) {
        name_of(n->list[i], name);
        remove_file(r, name);
    }
}

static int build_shard(struct repair *r, unsigned shard)
{
    struct blob_file **files = calloc(r->blob_count + 1, sizeof(struct blob_file *));
    struct version_blob_change change = {.add = files};
    if (!files)
        return -ENOMEM;
    for (size_t i = 0; i < r->blob_count; i++)
        if (r->blobs[i]->shard == shard)
            files[change.add_count++] = r->blobs[i];
    int err = version_build(r->result, shard, NULL, NULL, 0, r->add[shard], r->add_count[shard], &change,
                            &r->result->current[shard]);
    free(files);
    return err;
}

static int install(struct repair *r)
{
    int err = 0;
    bool renamed = false;
    if (r->blob_count)
        r->result->identity.incompat |= STORE_BLOBS;
    for (unsigned i = 0; !err && i < r->result->identity.shards; i++)
        err = build_shard(r, i);
    if (!err)
        err = keep_files(r);
    if (!err)
        err = vset_rollover(r->result, &renamed);
    if (renamed)
        r->written.count = 0; /* perhaps not on the medium, but perhaps named by what is */
    if (err)
        return err == -EINVAL || err == -ENXIO ? -EUCLEAN : err;
    remove_numbers(r, &r->replaced, table_name);
    remove_numbers(r, &r->keep_tables, table_name);
    remove_numbers(r, &r->keep_logs, log_name);
    return 0;
}

/* ---- the whole ---- */

static void on_problem(void *arg, const struct lsm_problem *p)
{
    struct repair *r = arg;
    if (!p->damage)
        return;
    r->fn(r->arg, p);
    size_t digits = strspn(p->file, "0123456789");
    uint64_t number = strtoull(p->file, NULL, 10);
    if (strcmp(p->file + digits, ".sst") == 0)
        (void)numbers_add(&r->bad_tables,
                          number); /* one more that is not here is found by its stand-in or by reading */
    else if (strcmp(p->file + digits, ".blob") == 0)
        (void)numbers_add(&r->bad_blobs, number);
    else if (strcmp(p->file + digits, ".log") == 0)
        (void)numbers_add(&r->bad_logs, number);
}

static int repair_store(struct repair *r)
{
    struct lsm_options o = *r->options;
    struct lsm *db = NULL;
    o.flags = LSM_RDONLY | LSM_INLINE | LSM_NOLOCK;
    o.log = NULL; /* what it would say was said by verifying */
    o.progress = NULL;
    o.env = r->env;
    if (!o.memory_bytes)
        o.memory_bytes = REPAIR_MEMORY_DEFAULT;
    int err = lsm_open(r->path, &o, &db);
    if (err == -EUCLEAN || err == -EIO) {
        r->out->rebuilt = true;
        err = rebuild(r);
    } else if (!err) {
        err = repair_opened(r, db);
    }
    if (db)
        (void)lsm_close(db); /* read-only: nothing to lose */
    return err ? err : install(r);
}

static void release(struct repair *r)
{
    char name[40];
    for (unsigned s = 0; s < SHARDS_MAX; s++) {
        for (size_t i = 0; i < r->add_count[s]; i++)
            table_file_unref(r->result, r->add[s][i].file);
        free(r->add[s]);
    }
    for (size_t i = 0; i < r->blob_count; i++)
        blob_file_unref(r->result, r->blobs[i]);
    free(r->blobs);
    for (size_t i = 0; i < r->written.count && !r->out->done; i++) {
        table_name(r->written.list[i], name);
        remove_file(r, name);
    }
    struct numbers *all[] = {&r->bad_tables, &r->bad_logs,    &r->bad_blobs, &r->written,
                             &r->replaced,   &r->keep_tables, &r->keep_logs};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]->list);
    if (r->result)
        vset_free(r->result);
    if (r->cache)
        cache_free(r->cache);
    free(r);
}

static int repair_locked(struct repair *r)
{
    struct lsm_verified v;
    int err = verify_locked(r->path, r->options, on_problem, r, &v);
    if (err || !v.damaged)
        return err;
    err = cache_new((size_t)(r->options->memory_bytes ? r->options->memory_bytes : REPAIR_MEMORY_DEFAULT) / 4,
                    &r->cache);
    struct vset_options vo = {.env = r->env, .dir = r->path, .cache = r->cache};
    if (!err)
        err = vset_new(&vo, &r->result);
    if (!err)
        err = repair_store(r);
    if (!err)
        r->out->done = true;
    return err;
}

int lsm_repair(const char *path, const struct lsm_options *options, lsm_problem_fn fn, void *arg,
               struct lsm_repaired *out)
{
    static const struct lsm_options defaults;
    struct env_lock *lock = NULL;
    char *lock_path = NULL;
    struct repair *r = calloc(1, sizeof *r);
    memset(out, 0, sizeof *out);
    if (!r)
        return -ENOMEM;
    r->path = path;
    r->options = options ? options : &defaults;
    r->env = r->options->env ? r->options->env : env_posix();
    r->fn = fn;
    r->arg = arg;
    r->out = out;
    r->table_bytes = r->options->table_bytes ? r->options->table_bytes : TABLE_BYTES_DEFAULT;
    r->block_bytes = r->options->block_bytes ? r->options->block_bytes : BLOCK_BYTES_DEFAULT;
    struct listing files;
    int err = listing_read(r->env, path, &files); /* no LOCK is made where there is no directory */
    if (!err)
        listing_free(&files);
    if (!err && asprintf(&lock_path, "%s/LOCK", path) < 0)
        err = -ENOMEM;
    if (!err)
        err = env_lock(r->env, lock_path, true, &lock);
    if (!err)
        err = repair_locked(r);
    struct env *env = r->env;
    release(r);
    env_unlock(env, lock);
    free(lock_path);
    return err;
}
