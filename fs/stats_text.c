/*
 * stats_text.c - see stats_text.h.
 *
 * Amplification, as printed here (since the store was opened):
 *   write   bytes written to log, tables and manifest for each byte of keys and values accepted
 *   read    table blocks fetched from files for each key looked up
 *   space   bytes in all tables for each byte in the deepest level that holds any: what the upper
 *           levels hold beyond that is, in the worst case, a second version of the same keys
 */
#include "stats_text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct view {
    const char *store;
    const struct stats_mount *mount; /* or NULL */
    struct lsm_stats lsm;
    struct fs_stats fs;
    struct fs_space space;
    uint64_t written_bytes; /* log, flushes, compactions, manifest */
    uint64_t table_bytes, bottom_bytes;
};

static double ratio(uint64_t part, uint64_t whole) { return whole ? (double)part / (double)whole : 0.0; }

static void sum_up(struct view *v)
{
    v->written_bytes = v->lsm.log_bytes + v->lsm.manifest_bytes;
    for (unsigned i = 0; i < v->lsm.shards; i++) {
        const struct lsm_shard_stats *s = &v->lsm.shard[i];
        uint64_t bottom = 0;
        v->written_bytes += s->flush_bytes + s->compact_bytes_written;
        for (unsigned l = 0; l < LSM_LEVELS; l++) {
            v->table_bytes += s->bytes[l];
            if (s->bytes[l] > 0)
                bottom = s->bytes[l];
        }
        v->bottom_bytes += bottom;
    }
}

/* ---- text ---------------------------------------------------------------------------------- */

/* "1.5 GiB"; up to 1023 bytes exactly. Returns `buf`. */
static const char *human(uint64_t bytes, char buf[static 24])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double n = (double)bytes;
    unsigned u = 0;

    while (n >= 1024.0 && u < 6) {
        n /= 1024.0;
        u++;
    }
    snprintf(buf, 24, u == 0 ? "%.0f %s" : "%.1f %s", n, unit[u]);
    return buf;
}

static void text_latency(FILE *f, const char *name, const struct lsm_latency *l)
{
    if (l->samples)
        fprintf(f, "  %-14s %.1f us, 99 %% %.1f us, 99.9 %% %.1f us, at most %.1f us\n", name,
                (double)l->p50_ns / 1e3, (double)l->p99_ns / 1e3, (double)l->p999_ns / 1e3,
                (double)l->max_ns / 1e3);
}

static const char *const stall_names[LSM_STALLS] = {
    [LSM_STALL_LEVEL0] = "level0",
    [LSM_STALL_MEMTABLES] = "memtables",
    [LSM_STALL_LOG] = "log",
    [LSM_STALL_DISK] = "disk",
};

static void stalls_of(const struct lsm_shard_stats *s, uint64_t *count, uint64_t *ns, uint64_t *longest_ns)
{
    *count = *ns = *longest_ns = 0;
    for (unsigned i = 0; i < LSM_STALLS; i++) {
        *count += s->stall[i].count;
        *ns += s->stall[i].ns;
        if (s->stall[i].longest_ns > *longest_ns)
            *longest_ns = s->stall[i].longest_ns;
    }
}

static void text_stalls(FILE *f, const struct lsm_shard_stats *s)
{
    uint64_t count, ns, longest_ns;
    char a[24];

    stalls_of(s, &count, &ns, &longest_ns);
    fprintf(f, "  stalls         %" PRIu64 ", %.3f s, the longest %.3f s\n", count, (double)ns / 1e9,
            (double)longest_ns / 1e9);
    for (unsigned i = 0; i < LSM_STALLS; i++)
        if (s->stall[i].count || s->stall[i].waiting)
            fprintf(f, "    %-12s %" PRIu64 ", %.3f s, the longest %.3f s; %" PRIu64 " waiting now\n",
                    stall_names[i], s->stall[i].count, (double)s->stall[i].ns / 1e9,
                    (double)s->stall[i].longest_ns / 1e9, s->stall[i].waiting);
    if (s->limited_by < LSM_STALLS)
        fprintf(f, "  slowed down    by %s, to %s a second\n", stall_names[s->limited_by],
                human(s->limit_bytes_per_s, a));
}

static void text_shard(FILE *f, unsigned index, const struct lsm_shard_stats *s)
{
    char a[24], b[24];

    fprintf(f, "\nshard %u\n", index);
    fprintf(f, "  memtable       %s, %" PRIu64 " sealed\n", human(s->memtable_bytes, a), s->sealed_memtables);
    fprintf(f, "  flushes        %" PRIu64 ", %s\n", s->flushes, human(s->flush_bytes, a));
    fprintf(f,
            "  compactions    %" PRIu64 ", %s read, %s written, %" PRIu64 " trivial moves, %" PRIu64
            " entries dropped\n",
            s->compactions, human(s->compact_bytes_read, a), human(s->compact_bytes_written, b),
            s->trivial_moves, s->entries_dropped);
    text_stalls(f, s);
    text_latency(f, "get", &s->latency[LSM_OP_GET]);
    text_latency(f, "seek", &s->latency[LSM_OP_SEEK]);
    text_latency(f, "commit", &s->latency[LSM_OP_COMMIT]);
    fprintf(f, "  level   files        bytes       target\n");
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        if (s->files[l] > 0 || s->target_bytes[l] > 0)
            fprintf(f, "  %5u %7" PRIu64 " %12s %12s\n", l, s->files[l], human(s->bytes[l], a),
                    s->target_bytes[l] ? human(s->target_bytes[l], b) : "-");
}

static void text_state(FILE *f, const struct lsm_stats *s)
{
    if (s->failed)
        fprintf(f, "state            read-only after an error: %s\n", strerror(-s->failed));
    else
        fprintf(f, "state            %s\n", s->read_only ? "read-only" : "read-write");
}

static void text_mount(FILE *f, const struct stats_mount *m)
{
    fprintf(f, "transport        %s, ", m->transport);
    if (m->queues > 0)
        fprintf(f, "%u queues of %u requests\n", m->queues, m->depth);
    else
        fprintf(f, "%u threads; not uring: %s\n", m->threads, m->why);
    fprintf(f, "requests         %" PRIu64 ", %" PRIu64 " had to wait", m->requests, m->deferred);
    if (m->queues > 0)
        fprintf(f, ", %" PRIu64 " with a CPU idle", m->yielded);
    fputc('\n', f);
}

/* Free is less what is set aside, as in df. */
static void text_space(FILE *f, const struct lsm_stats *s)
{
    char a[24], b[24], c[24];

    fprintf(f, "space            %s; reserve %s of %s; %s still to be written; %" PRIu64 " writes refused\n",
            s->space_tight ? "FULL: only what frees space goes on" : "enough", human(s->reserve_bytes, a),
            human(s->reserve_target_bytes, b), human(s->space_debt_bytes, c), s->space_refused);
}

static void text(FILE *f, const struct view *v)
{
    const struct lsm_stats *s = &v->lsm;
    char a[24], b[24];

    fprintf(f, "store            %s\n", v->store);
    text_state(f, s);
    if (v->mount)
        text_mount(f, v->mount);
    fprintf(f, "shards           %u\n", s->shards);
    fprintf(f, "disk             %s in the store, %s free of %s\n", human(s->disk_bytes, a),
            human(v->space.free_bytes, b), human(v->space.total_bytes, (char[24]){0}));
    text_space(f, s);
    fprintf(f, "writes           %" PRIu64 " batches, %s\n", s->batches, human(s->batch_bytes, a));
    fprintf(f, "reads            %" PRIu64 " gets, %" PRIu64 " found, %" PRIu64 " blocks (%s) from files\n",
            s->gets, s->gets_found, s->blocks_read, human(s->block_bytes_read, a));
    fprintf(f, "amplification    write %.2f, read %.2f, space %.2f\n",
            ratio(v->written_bytes, s->batch_bytes), ratio(s->blocks_read, s->gets),
            ratio(v->table_bytes, v->bottom_bytes));
    fprintf(f, "log              %" PRIu64 " segments, %s; %s appended, %" PRIu64 " syncs\n", s->log_segments,
            human(s->log_segment_bytes, a), human(s->log_bytes, b), s->log_syncs);
    if (s->sync_latency.samples)
        text_latency(f, "sync", &s->sync_latency);
    fprintf(f, "log positions    start %" PRIu64 ", synced %" PRIu64 ", frontier %" PRIu64 "\n", s->log_start,
            s->log_synced, s->log_frontier);
    fprintf(f, "replayed         %s, %" PRIu64 " batches, %.3f s\n", human(s->replayed_bytes, a),
            s->replayed_batches, (double)s->replay_ns / 1e9);
    fprintf(f, "manifest         %s, %" PRIu64 " rollovers\n", human(s->manifest_bytes, a),
            s->manifest_rollovers);
    fprintf(f, "cache            %s of %s, %.1f %% of %" PRIu64 " lookups hit\n", human(s->cache_bytes, a),
            human(s->cache_capacity_bytes, b), 100.0 * ratio(s->cache_hits, s->cache_hits + s->cache_misses),
            s->cache_hits + s->cache_misses);
    fprintf(f, "filters          %" PRIu64 " asked, %.1f %% ruled the table out\n", s->filter_checks,
            100.0 * ratio(s->filter_negatives, s->filter_checks));
    fprintf(f, "compression      %s of blocks written, stored as %s\n", human(s->written_raw_bytes, a),
            human(s->written_stored_bytes, b));
    fprintf(f, "inode table      %" PRIu64 " inodes, %s of %s, %" PRIu64 " unlinked but in use\n",
            v->fs.inodes, human(v->fs.inode_bytes, a), human(v->fs.inode_bytes_max, b), v->fs.orphans);
    for (unsigned i = 0; i < s->shards; i++)
        text_shard(f, i, &s->shard[i]);
}

/* ---- JSON ---------------------------------------------------------------------------------- */

/* Bytes that are no UTF-8 pass through unchanged: a path is whatever the user made it. */
static void json_string(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            fprintf(f, "\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            fprintf(f, "\\u%04x", (unsigned)(unsigned char)*s);
        else
            fputc(*s, f);
    }
    fputc('"', f);
}

static void json_u64(FILE *f, const char *name, uint64_t value)
{
    fprintf(f, ",\"%s\":%" PRIu64, name, value);
}

static void json_latency(FILE *f, const char *name, const struct lsm_latency *l)
{
    fprintf(f, ",\"%s\":{\"samples\":%" PRIu64, name, l->samples);
    json_u64(f, "p50_ns", l->p50_ns);
    json_u64(f, "p99_ns", l->p99_ns);
    json_u64(f, "p999_ns", l->p999_ns);
    json_u64(f, "max_ns", l->max_ns);
    fputc('}', f);
}

/* "stalls" and "stall_ns" of all reasons together are older than "stall". */
static void json_stalls(FILE *f, const struct lsm_shard_stats *s)
{
    uint64_t count, ns, longest_ns;

    stalls_of(s, &count, &ns, &longest_ns);
    json_u64(f, "stalls", count);
    json_u64(f, "stall_ns", ns);
    json_u64(f, "stall_longest_ns", longest_ns);
    fprintf(f, ",\"stall\":{");
    for (unsigned i = 0; i < LSM_STALLS; i++) {
        fprintf(f, "%s\"%s\":{\"count\":%" PRIu64, i ? "," : "", stall_names[i], s->stall[i].count);
        json_u64(f, "ns", s->stall[i].ns);
        json_u64(f, "longest_ns", s->stall[i].longest_ns);
        json_u64(f, "waiting", s->stall[i].waiting);
        fputc('}', f);
    }
    fprintf(f, "},\"limited_by\":\"%s\"", s->limited_by < LSM_STALLS ? stall_names[s->limited_by] : "");
    json_u64(f, "limit_bytes_per_s", s->limit_bytes_per_s);
}

static void json_shard(FILE *f, unsigned index, const struct lsm_shard_stats *s)
{
    fprintf(f, "%s{\"shard\":%u", index ? "," : "", index);
    json_u64(f, "memtable_bytes", s->memtable_bytes);
    json_u64(f, "sealed_memtables", s->sealed_memtables);
    json_u64(f, "flushes", s->flushes);
    json_u64(f, "flush_bytes", s->flush_bytes);
    json_u64(f, "compactions", s->compactions);
    json_u64(f, "compact_bytes_read", s->compact_bytes_read);
    json_u64(f, "compact_bytes_written", s->compact_bytes_written);
    json_u64(f, "trivial_moves", s->trivial_moves);
    json_u64(f, "entries_dropped", s->entries_dropped);
    json_stalls(f, s);
    json_latency(f, "get", &s->latency[LSM_OP_GET]);
    json_latency(f, "seek", &s->latency[LSM_OP_SEEK]);
    json_latency(f, "commit", &s->latency[LSM_OP_COMMIT]);
    fprintf(f, ",\"levels\":[");
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        fprintf(f,
                "%s{\"level\":%u,\"files\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"target_bytes\":%" PRIu64 "}",
                l ? "," : "", l, s->files[l], s->bytes[l], s->target_bytes[l]);
    fprintf(f, "]}");
}

static void json_engine(FILE *f, const struct lsm_stats *s)
{
    json_u64(f, "batches", s->batches);
    json_u64(f, "batch_bytes", s->batch_bytes);
    json_u64(f, "gets", s->gets);
    json_u64(f, "gets_found", s->gets_found);
    json_u64(f, "blocks_read", s->blocks_read);
    json_u64(f, "block_bytes_read", s->block_bytes_read);
    json_u64(f, "filter_checks", s->filter_checks);
    json_u64(f, "filter_negatives", s->filter_negatives);
    json_u64(f, "written_raw_bytes", s->written_raw_bytes);
    json_u64(f, "written_stored_bytes", s->written_stored_bytes);
    json_u64(f, "cache_hits", s->cache_hits);
    json_u64(f, "cache_misses", s->cache_misses);
    json_u64(f, "cache_bytes", s->cache_bytes);
    json_u64(f, "cache_capacity_bytes", s->cache_capacity_bytes);
    json_latency(f, "sync", &s->sync_latency);
    json_u64(f, "log_bytes", s->log_bytes);
    json_u64(f, "log_syncs", s->log_syncs);
    json_u64(f, "log_segments", s->log_segments);
    json_u64(f, "log_segment_bytes", s->log_segment_bytes);
    json_u64(f, "log_start", s->log_start);
    json_u64(f, "log_synced", s->log_synced);
    json_u64(f, "log_frontier", s->log_frontier);
    json_u64(f, "manifest_bytes", s->manifest_bytes);
    json_u64(f, "manifest_rollovers", s->manifest_rollovers);
    json_u64(f, "replayed_bytes", s->replayed_bytes);
    json_u64(f, "replayed_batches", s->replayed_batches);
    json_u64(f, "replay_ns", s->replay_ns);
    json_u64(f, "disk_bytes", s->disk_bytes);
    json_u64(f, "space_tight", s->space_tight);
    json_u64(f, "space_debt_bytes", s->space_debt_bytes);
    json_u64(f, "space_refused", s->space_refused);
    json_u64(f, "reserve_bytes", s->reserve_bytes);
    json_u64(f, "reserve_target_bytes", s->reserve_target_bytes);
    json_u64(f, "reserve_given_bytes", s->reserve_given_bytes);
    json_u64(f, "reserve_taken_bytes", s->reserve_taken_bytes);
}

static void json_mount(FILE *f, const struct stats_mount *m)
{
    fprintf(f, ",\"transport\":\"%s\",\"transport_why\":", m->transport);
    json_string(f, m->why);
    json_u64(f, "transport_queues", m->queues);
    json_u64(f, "transport_depth", m->depth);
    json_u64(f, "transport_threads", m->threads);
    json_u64(f, "requests", m->requests);
    json_u64(f, "requests_deferred", m->deferred);
    json_u64(f, "requests_yielded", m->yielded);
}

static void json(FILE *f, const struct view *v)
{
    fprintf(f, "{\"store\":");
    json_string(f, v->store);
    fprintf(f, ",\"read_only\":%s", v->lsm.read_only ? "true" : "false");
    fprintf(f, ",\"failed_errno\":%d", -v->lsm.failed);
    json_u64(f, "shards", v->lsm.shards);
    if (v->mount)
        json_mount(f, v->mount);
    json_engine(f, &v->lsm);
    json_u64(f, "free_bytes", v->space.free_bytes);
    json_u64(f, "total_bytes", v->space.total_bytes);
    json_u64(f, "table_bytes", v->table_bytes);
    json_u64(f, "written_bytes", v->written_bytes);
    fprintf(f, ",\"write_amplification\":%.4f", ratio(v->written_bytes, v->lsm.batch_bytes));
    fprintf(f, ",\"read_amplification\":%.4f", ratio(v->lsm.blocks_read, v->lsm.gets));
    fprintf(f, ",\"space_amplification\":%.4f", ratio(v->table_bytes, v->bottom_bytes));
    json_u64(f, "inodes", v->fs.inodes);
    json_u64(f, "inode_bytes", v->fs.inode_bytes);
    json_u64(f, "inode_bytes_max", v->fs.inode_bytes_max);
    json_u64(f, "orphans", v->fs.orphans);
    fprintf(f, ",\"shard\":[");
    for (unsigned i = 0; i < v->lsm.shards; i++)
        json_shard(f, i, &v->lsm.shard[i]);
    fprintf(f, "]}\n");
}

int stats_format(struct fs *fs, const char *store, const struct stats_mount *mount, enum stats_format format,
                 char **out, size_t *len)
{
    struct view *v = calloc(1, sizeof(*v)); /* too large for a small stack */
    char *buf = NULL;
    FILE *f = NULL;
    int rc;

    if (!v)
        return -ENOMEM;
    v->store = store;
    v->mount = mount;
    lsm_stats_get(fs_lsm(fs), &v->lsm);
    fs_stats_get(fs, &v->fs);
    rc = fs_statfs(fs, &v->space);
    if (rc < 0)
        goto out;
    sum_up(v);
    f = open_memstream(&buf, len);
    if (!f) {
        rc = -errno;
        goto out;
    }
    if (format == STATS_JSON)
        json(f, v);
    else
        text(f, v);
    rc = ferror(f) ? -ENOMEM : 0;
    if (fclose(f) != 0)
        rc = -ENOMEM;
    if (rc == 0) {
        *out = buf;
        buf = NULL;
    }
out:
    free(buf);
    free(v);
    return rc;
}
