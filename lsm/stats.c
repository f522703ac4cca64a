/*
 * stats.c - counters and the shape of the tree, gathered for a reader who may take his time.
 */
#include "db.h"

#include <string.h>

static uint64_t range_deletes(const struct view *v)
{
    uint64_t n = v->active ? memtable_range_count(v->active) : 0;
    for (size_t i = 0; i < v->sealed_count; i++)
        n += memtable_range_count(v->sealed[i]);
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; v->version->levels[l].ranged && i < v->version->levels[l].count; i++)
            n += v->version->levels[l].files[i]->meta.range_deletes;
    return n;
}

static void shard_stats(struct shard *s, struct lsm_shard_stats *out)
{
    struct view *v = view_get(s);
    out->memtable_bytes = v->active ? memtable_used_bytes(v->active) : 0;
    out->sealed_memtables = v->sealed_count;
    for (size_t i = 0; i < v->sealed_count; i++)
        out->memtable_bytes += memtable_used_bytes(v->sealed[i]);
    version_targets(s->db->vset, v->version, out->target_bytes);
    out->range_deletes = range_deletes(v);
    out->blob_files = v->version->blob_count;
    for (size_t i = 0; i < v->version->blob_count; i++) {
        const struct version_blob *b = &v->version->blobs[i];
        uint64_t bytes = blob_file_bytes(b->file);
        out->blob_bytes += bytes;
        out->blob_live_bytes += b->bytes;
        if (!__atomic_load_n(&b->file->open, __ATOMIC_RELAXED) && bytes > b->bytes)
            out->blob_garbage_bytes += bytes - b->bytes;
    }
    view_unref(v);
    for (unsigned op = 0; op < LSM_OPS; op++)
        latency_get(&s->latency[op], &out->latency[op]);
    out->blob_bytes_written = count_get(&s->blobs.written);
    out->blob_bytes_moved = count_get(&s->blobs.moved_bytes);
    out->blob_files_deleted = count_get(&s->blobs.deleted);
    out->flushes = count_get(&s->flushes);
    out->compactions = count_get(&s->compactions);
    out->trivial_moves = count_get(&s->trivial_moves);
    out->purges = count_get(&s->purges);
    out->flush_bytes = count_get(&s->flush_bytes);
    out->compact_bytes_read = count_get(&s->compact_bytes_read);
    out->compact_bytes_written = count_get(&s->compact_bytes_written);
    out->entries_dropped = count_get(&s->entries_dropped);
    out->tables_covered = count_get(&s->tables_covered);
    out->skipped = count_get(&s->skipped_total);
    stall_stats(s, out);
}

void lsm_stats_get(struct lsm *db, struct lsm_stats *out)
{
    memset(out, 0, sizeof *out);
    vset_stats(db->vset, out);
    out->shards = db->shard_count;
    latency_get(&db->sync_latency, &out->sync_latency);
    for (unsigned i = 0; i < SLOT_COUNT; i++) {
        const struct db_counts *n = &db->slot[i].n;
        out->batches += slot_get(&n->batches);
        out->batch_bytes += slot_get(&n->batch_bytes);
        out->gets += slot_get(&n->gets);
        out->gets_found += slot_get(&n->gets_found);
    }
    out->blob_reads = count_get(&db->blob_reads);
    out->blob_bytes_read = count_get(&db->blob_bytes_read);
    struct table_reads reads = table_reader_stats_sum(&db->reader_stats);
    out->blocks_read = reads.blocks_read;
    out->block_bytes_read = reads.block_bytes_read;
    out->filter_checks = reads.filter_checks;
    out->filter_negatives = reads.filter_negatives;
    out->written_raw_bytes = count_get(&db->writer_stats.raw_bytes);
    out->written_stored_bytes = count_get(&db->writer_stats.stored_bytes);
    out->replayed_bytes = db->replayed_bytes;
    out->replayed_batches = db->replayed_batches;
    out->replay_ns = db->replay_ns;
    out->read_only = db_writable(db) != 0;
    out->failed = __atomic_load_n(&db->failed, __ATOMIC_RELAXED);

    struct cache_stats cache;
    cache_stats_get(db->cache, &cache);
    out->cache_hits = cache.hits;
    out->cache_misses = cache.misses;
    out->cache_bytes = cache.bytes;
    out->cache_capacity_bytes = cache.capacity_bytes;

    out->log_frontier = db_frontier(db);
    out->log_start = __atomic_load_n(&db->log_start, __ATOMIC_RELAXED);
    out->log_segment_bytes = db->options.log_segment_bytes;
    if (db->wal) {
        struct wal_stats wal;
        wal_stats_get(db->wal, &wal);
        out->log_bytes = wal.bytes;
        out->log_syncs = wal.syncs;
        out->log_segments = wal.segments + wal.free_segments;
        out->log_synced = wal_synced(db->wal);
    } else {
        size_t uses;
        vset_uses(db->vset, &uses);
        out->log_segments = uses;
        out->log_synced = vset_synced(db->vset);
    }
    for (unsigned i = 0; i < db->shard_count; i++)
        shard_stats(&db->shards[i], &out->shard[i]);
    uint64_t files = out->log_segments * out->log_segment_bytes + out->manifest_bytes;
    for (unsigned i = 0; i < db->shard_count; i++)
        files += out->shard[i].blob_bytes;
    for (unsigned i = 0; i < db->shard_count; i++)
        for (unsigned level = 0; level < LSM_LEVELS; level++)
            files += out->shard[i].bytes[level];
    space_stats(db, out);
    out->disk_bytes = files + out->reserve_bytes;
}
