/*
 * install.c - what flush and compaction share: how a table is to be written, and putting tables into the store.
 *
 * Order of an install: log synced past the table's last record (asserted), table synced, and in
 * vset_apply directory synced, manifest edit synced; only then are the inputs forgotten and the log let go.
 *
 * Threads: the shard's background thread.
 */
#include "background.h"
#include "filter.h"
#include "mutant.h"

#include <assert.h>
#include <stdlib.h>

#define TABLE_SPACE_BYTES (16u << 10)
#define DISK_BLOCK_BYTES 4096u

struct install {
    struct shard *shard;
    struct view *spare;
    struct memtable *flushed;
};

static void installed(void *arg, struct version *v)
{
    struct install *in = arg;
    view_install(in->shard, in->spare, v, in->flushed);
    in->spare = NULL;
}

int shard_apply(struct shard *s, const struct edit *edit, struct memtable *flushed)
{
    struct install in = {s, view_spare(s), flushed};
    if (!in.spare)
        return -ENOMEM;
    int err = vset_apply(s->db->vset, edit, installed, &in);
    assert(err ? in.spare != NULL : in.spare == NULL);
    free(in.spare);
    int failed =
        vset_failed(s->db->vset); /* perhaps in another shard's edit, or after this one was installed */
    if (failed)
        db_fail(s->db, failed, "the manifest can't be written");
    return err;
}

int outputs_add(struct edit *edit, const struct compact_result *r, unsigned shard, unsigned level)
{
    edit->add = calloc(r->count ? r->count : 1, sizeof *edit->add);
    if (!edit->add)
        return -ENOMEM;
    edit->add_count = r->count;
    for (size_t i = 0; i < r->count; i++)
        edit->add[i] = (struct edit_file){shard, level, r->tables[i]}; /* keys stay r's */
    return 0;
}

void outputs_drop(struct lsm *db, struct compact_result *r, int err)
{
    if (err && !vset_failed(db->vset))
        compact_result_discard(db->env, db->path, r);
    else
        compact_result_free(r);
}

/* How a table of this level is to be compressed; not at all where the manifest can't be made to say so. */
static enum table_compression compression_for(struct lsm *db, unsigned level)
{
    enum table_compression how = db_compression(&db->options, level);
    if (how == TABLE_COMPRESSION_NONE || vset_has(db->vset, STORE_COMPRESSION))
        return how;
    return vset_require(db->vset, STORE_COMPRESSION) ? TABLE_COMPRESSION_NONE : how;
}

/* Likewise of its filter: that of release 0.1 does for all. */
static unsigned filter_bits_for(struct lsm *db, unsigned level)
{
    bool may = vset_has(db->vset, STORE_FUSE_FILTERS) || vset_require(db->vset, STORE_FUSE_FILTERS) == 0;
    return may ? filter_bits(level) : 0;
}

struct compact_job shard_job(struct shard *s, struct iter *input, unsigned level)
{
    struct lsm *db = s->db;
    return (struct compact_job){
        .env = db->env,
        .dir = db->path,
        .vs = db->vset,
        .log = &db->log,
        .input = input,
        .merge = db->options.merge,
        .merge_arg = db->options.callback_arg,
        .block_bytes = db->options.block_bytes,
        .compression = compression_for(db, level),
        .filter_bits = filter_bits_for(db, level),
        .writer_stats = &db->writer_stats,
    };
}

uint64_t table_space(uint64_t input_bytes, size_t tables)
{
    return input_bytes + input_bytes / 16 + TABLE_SPACE_BYTES + tables * DISK_BLOCK_BYTES;
}
