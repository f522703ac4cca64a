/*
 * rebuild.c - repair without a manifest: the store is put together from its tables.
 *
 * What a table says of itself (footer, properties) makes up for the manifest's word. Which level it was in is
 * unknown, so all that can be read of all tables is merged, the highest seq of a key wins (salvage.c), and
 * everything is written anew. Blob files are found by their own headers. Records of the log are taken along as far as the good records of the damaged
 * manifest still tell the salts of its segments.
 *
 * Number of shards and size of segments come from the manifest's header if at least one record proves
 * that uuid and salt in it are right, else from the options and the segments' files; both may be anything, since
 * everything is routed anew.
 *
 * What may come back: an entry that a compaction had dropped together with the delete above it, if of
 * the compaction's inputs the one with the delete had been unlinked and the other had not when the process died.
 *
 * Threads: the caller's.
 */
#include "batch.h"
#include "repair.h"
#include "wal_format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARDS_DEFAULT 2u
#define SEGMENT_BYTES_DEFAULT (UINT64_C(16) << 20)
#define ARENA_BYTES_MIN (UINT64_C(8) << 20)

struct rebuild {
    struct repair *r;
    struct log_state log;  /* what the manifest's good records say */
    bool known;            /* the identity is that of the store */
    struct table **tables; /* open, undamaged or not */
    size_t count;
    struct table **damaged; /* borrowed from `tables` */
    size_t damaged_count;
    struct memtable **memtables; /* the log's records, of all shards, oldest first */
    size_t memtable_count;
    struct ranges ranges;
    struct blob_meta *blobs; /* that the manifest's good records name */
    size_t blob_count;
    lsn_t top;
};

/* ---- the manifest ---- */

static int note_blob(struct rebuild *b, const struct blob_meta *m)
{
    size_t n = b->blob_count;
    if ((n & (n - 1)) == 0) {
        struct blob_meta *grown = realloc(b->blobs, (n ? n * 2 : 1) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        b->blobs = grown;
    }
    b->blobs[b->blob_count++] = *m;
    return 0;
}

static int take_edit(void *arg, const struct decoded_edit *d, uint64_t offset)
{
    struct rebuild *b = arg;
    (void)offset;
    int err = log_state_reserve(&b->log);
    if (!err)
        log_state_apply(&b->log, &d->edit);
    for (size_t i = 0; !err && i < d->edit.blob_add_count; i++)
        err = note_blob(b, &d->edit.blob_add[i]);
    return err;
}

static int read_manifest(struct rebuild *b)
{
    struct repair *r = b->r;
    struct logger silent = {0};
    struct manifest_options o = {r->env, r->path, &silent};
    struct manifest_contents c;
    struct store_identity *id = &r->result->identity;
    int err = manifest_salvage(&o, take_edit, b, &c);
    if (err && err != -ENOENT && err != -EIO)
        return err;
    *id = c.identity;
    b->known = !err && c.records > 0 && id->shards > 0 && id->shards <= SHARDS_MAX;
    if (!b->known)
        id->shards =
            r->options->shards && r->options->shards <= SHARDS_MAX ? r->options->shards : SHARDS_DEFAULT;
    bool size_is_sane = id->log_segment_bytes >= WAL_SEGMENT_MIN &&
                        id->log_segment_bytes <= WAL_SEGMENT_MAX && id->log_segment_bytes % 4096 == 0;
    if (!size_is_sane || !c.records)
        id->log_segment_bytes = SEGMENT_BYTES_DEFAULT;
    return c.records ? 0 : env_random(r->env, id->uuid, sizeof id->uuid);
}

/* ---- the tables ---- */

static int open_one(struct rebuild *b, const struct table_options *o, uint64_t number)
{
    struct repair *r = b->r;
    struct table_meta m;
    struct table *t = NULL;
    char file[40];
    int err = table_read_meta(o, number, &m);
    if (!err) {
        err = table_open(o, &m, &t);
        table_meta_free(&m);
    }
    if (err == -EIO || err == -ENOENT) {
        (void)snprintf(file, sizeof file, "%06" PRIu64 ".sst", number);
        repair_report(
            r, file, true,
            "its footer is damaged: nothing of it could be saved, and what it had may now be older");
        return numbers_add(&r->keep_tables, number);
    }
    if (err)
        return err;
    b->tables[b->count++] = t;
    bool bad = numbers_have(&r->bad_tables, number);
    if (bad)
        b->damaged[b->damaged_count++] = t;
    if (table_meta_of(t)->seq_max >= b->top)
        b->top = table_meta_of(t)->seq_max + 1;
    r->out->tables_rewritten++;
    return numbers_add(bad ? &r->keep_tables : &r->replaced, number);
}

/* By its header, or, if that is damaged, by what is left of the manifest. */
static int open_blob(struct rebuild *b, uint64_t number)
{
    struct repair *r = b->r;
    struct blob_meta meta;
    int err = blob_read_meta(r->env, r->path, number, &meta);
    for (size_t i = 0; err == -EIO && i < b->blob_count; i++)
        if (b->blobs[i].number == number) {
            meta = b->blobs[i];
            err = 0;
        }
    if (!err && meta.shard >= r->result->identity.shards) /* everything is routed anew, with fewer shards */
        meta.shard = 0;
    if (err == -EIO) {
        char file[40];
        (void)snprintf(file, sizeof file, "%06" PRIu64 ".blob", number);
        repair_report(r, file, true, "its header is damaged: the values in it are lost");
        return 0;
    }
    return err ? err : repair_add_blob(r, &meta);
}

static int open_tables(struct rebuild *b)
{
    struct repair *r = b->r;
    struct table_options o = {.env = r->env, .dir = r->path, .cache = r->cache};
    struct listing files;
    int err = listing_read(r->env, r->path, &files);
    if (err)
        return err;
    r->result->next_number = files.number_max + 1;
    b->tables = calloc(files.table_count + 1, sizeof(struct table *));
    b->damaged = calloc(files.table_count + 1, sizeof(struct table *));
    err = b->tables && b->damaged ? 0 : -ENOMEM;
    for (size_t i = 0; !err && i < files.table_count; i++)
        err = open_one(b, &o, files.tables[i]);
    for (size_t i = 0; !err && i < files.blob_count; i++)
        err = open_blob(b, files.blobs[i]);
    for (size_t i = 0; !err && i < files.log_count; i++)
        err = numbers_add(&r->keep_logs, files.logs[i]);
    listing_free(&files);
    return err;
}

/* ---- the log ---- */

/* A memtable with this much room, the last one if it has it. */
static int memtable_with_room(struct rebuild *b, size_t need, struct memtable **out)
{
    const struct lsm_options *o = b->r->options;
    struct memtable *last = b->memtable_count ? b->memtables[b->memtable_count - 1] : NULL;
    *out = last;
    if (last && memtable_free_bytes(last) >= need)
        return 0;
    struct memtable **grown = realloc(b->memtables, (b->memtable_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    b->memtables = grown;
    size_t arena = need > ARENA_BYTES_MIN ? need : ARENA_BYTES_MIN;
    int err = memtable_new(arena, o->merge, o->callback_arg, &b->memtables[b->memtable_count]);
    if (err)
        return err;
    *out = b->memtables[b->memtable_count++];
    return 0;
}

/* What inserting the record takes at most; -EBADMSG if it is no batch. */
static int record_room(const struct rebuild *b, const void *payload, size_t len, size_t *need)
{
    struct memtable *m = b->memtable_count ? b->memtables[b->memtable_count - 1] : NULL;
    struct batch_reader br;
    struct batch_change c;
    size_t largest = 0;
    *need = 0;
    int more = batch_read_begin(&br, payload, len);
    while (more >= 0 && (br.left || reader_left(&br.r)) && (more = batch_read_next(&br, &c)) > 0) {
        if (c.type == ENTRY_RANGE_DELETE) {
            *need += memtable_range_bytes(c.key_len, c.value_len);
            continue;
        }
        size_t below = m && c.type == ENTRY_MERGE ? memtable_newest_len(m, c.key, c.key_len) : 0;
        largest = c.value_len > largest ? c.value_len : largest;
        *need += memtable_entry_bytes(c.key_len, c.value_len + (c.type == ENTRY_MERGE ? below + largest : 0));
        if (c.type == ENTRY_MERGE && !b->r->options->merge)
            return -EINVAL;
    }
    return more < 0 ? more : 0;
}

static int take_record(void *arg, lsn_t lsn, const void *payload, size_t len)
{
    struct rebuild *b = arg;
    struct memtable *m;
    struct batch_reader br;
    struct batch_change c;
    size_t need;
    uint64_t seq = lsn;
    int err = record_room(b, payload, len, &need);
    if (err == -EBADMSG)
        return 0; /* verifying has reported it */
    if (!err)
        err = memtable_with_room(b, need, &m);
    if (err || batch_read_begin(&br, payload, len))
        return err;
    memtable_begin_record(m, lsn, lsn + wal_record_bytes(len));
    while ((br.left || reader_left(&br.r)) && batch_read_next(&br, &c) > 0)
        if (c.type == ENTRY_RANGE_DELETE)
            memtable_delete_range(m, seq++, c.key, c.key_len, c.value, c.value_len);
        else
            memtable_insert(m, seq++, c.type, c.key, c.key_len, c.value, c.value_len);
    return 0;
}

static int read_log(struct rebuild *b)
{
    struct repair *r = b->r;
    struct wal_recovery w = {.env = r->env,
                             .dir = r->path,
                             .uses = b->log.uses,
                             .use_count = b->log.count,
                             .start = b->log.start,
                             .arg = b,
                             .replay = take_record};
    struct wal_recovered end;
    if (log_state_top(&b->log) > b->top)
        b->top = log_state_top(&b->log);
    if (!b->log.count) {
        repair_report(r, "MANIFEST", true,
                      "it does not tell any more how to read the log: what was not in tables yet is lost");
        return 0;
    }
    int err = wal_recover(&w, &end);
    return err == -EUCLEAN || err == -EIO ? 0 : err;
}

/* ---- writing ---- */

static int open_input(const struct rebuild *b, struct iter **out)
{
    struct iter **children = calloc(b->count + b->memtable_count + 1, sizeof *children);
    size_t n = 0;
    int err = children ? 0 : -ENOMEM;
    for (size_t i = 0; !err && i < b->memtable_count; i++)
        if (!(err = memtable_iter_new(b->memtables[i], &children[n])))
            n++;
    for (size_t i = 0; !err && i < b->count; i++)
        if (!(err = table_iter_new(b->tables[i], LSM_NOFILL | LSM_SALVAGE, &children[n])))
            n++;
    if (!err) {
        err = merge_iter_new(children, n, out);
    } else {
        while (n > 0)
            iter_free(children[--n]);
    }
    free(children);
    return err;
}

/* Those of all tables and of the log. Where a table's can't be read, salvage.c takes all keys there for lost. */
static int read_ranges(struct rebuild *b)
{
    int err = 0;
    for (size_t i = 0; !err && i < b->memtable_count; i++)
        err = memtable_ranges(b->memtables[i], &b->ranges);
    for (size_t i = 0; !err && i < b->count; i++) {
        err = table_ranges(b->tables[i], &b->ranges);
        err = err == -EIO ? 0 : err;
    }
    return err ? err : ranges_build(&b->ranges, NULL, 0);
}

static int write_shard(struct rebuild *b, unsigned shard)
{
    struct repair *r = b->r;
    struct salvage s = {.env = r->env,
                        .dir = r->path,
                        .numbers = r->result,
                        .table_bytes = r->table_bytes,
                        .block_bytes = r->block_bytes,
                        .compression = repair_compression(r, LSM_LEVELS - 1),
                        .filter_bits = repair_filter_bits(r, LSM_LEVELS - 1),
                        .route = r->options->route,
                        .callback_arg = r->options->callback_arg,
                        .shard = shard,
                        .shards = r->result->identity.shards,
                        .blob = repair_find_blob,
                        .blob_arg = r,
                        .damaged = b->damaged,
                        .damaged_count = b->damaged_count,
                        .ranges = &b->ranges,
                        .merge = r->options->merge};
    struct compact_result written;
    struct salvaged counts = {0};
    struct iter *input;
    int err = open_input(b, &input);
    if (err)
        return err;
    err = salvage_run(&s, input, &written, &counts);
    iter_free(input);
    r->out->keys_saved += counts.saved;
    r->out->keys_lost += counts.lost;
    return err ? err : repair_add_written(r, shard, LSM_LEVELS - 1, &written);
}

int rebuild(struct repair *r)
{
    struct rebuild b = {.r = r, .top = WAL_ALIGN};
    int err = read_manifest(&b);
    if (!err)
        err = open_tables(&b);
    if (!err)
        err = read_log(&b);
    if (!err)
        err = read_ranges(&b);
    repair_set_log(r, b.top);
    for (unsigned i = 0; !err && i < r->result->identity.shards; i++)
        err = write_shard(&b, i);
    for (size_t i = 0; i < b.count; i++)
        table_close(b.tables[i]);
    for (size_t i = 0; i < b.memtable_count; i++)
        memtable_unref(b.memtables[i]);
    ranges_free(&b.ranges);
    free(b.tables);
    free(b.damaged);
    free(b.memtables);
    free(b.blobs);
    free(b.log.uses);
    return err;
}
