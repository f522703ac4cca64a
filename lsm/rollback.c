/*
 * rollback.c - is MANIFEST older than the store around it? Asked whenever a store is opened.
 *
 * A manifest that somebody has replaced by an older copy of itself is whole and good by itself. Opened
 * on its word the store would silently be an older one, and the first thing done would be to delete
 * every table that it does not know. What can be proved:
 *
 *   - Tables that it names and that compaction has deleted since are missing: found by opening them.
 *   - A log segment that it believes to be unflushed and that was used again since has other salts: found
 *     as damage if the manifest's synced mark lies above, else by one of the following.
 *   - A use of a segment is in the manifest before its first record. So no file of the log begins with
 *     records at or above the end of the last use that the manifest knows.
 *   - A table is made only of records that are in the log. So no table holds changes from there on.
 *
 * If neither holds, everything that was ever acknowledged since is still there to be replayed, and
 * the older manifest leads to the same contents. What can't be told from an honest store: all files of the
 * store together replaced by an older copy (a restored backup), and an older copy of the log's last segment
 * when no later record or manifest edit says that more of it had been synced: both are a moment of the
 * store's own history.
 *
 * The salt of an unknown use is unknown, too, so a record's header can't be verified. What is taken as
 * proof are two fields that say it independently, since one may be a flipped bit in a file that nobody
 * needs: the record's LSN, and either the synced-up-to LSN in it or the LSN of the record that follows it.
 */
#include "vset_internal.h"
#include "wal_format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

lsn_t log_state_top(const struct log_state *s)
{
    lsn_t top = s->start > s->synced ? s->start : s->synced;
    if (s->count) {
        const struct wal_use *last = &s->uses[s->count - 1];
        if (last->base + last->bytes > top)
            top = last->base + last->bytes;
    }
    return top;
}

/* Looks like the header of a record: all but the checksum. */
static bool is_header(const uint8_t *p, lsn_t *lsn, uint64_t *bytes)
{
    unsigned type = p[WAL_AT_TYPE];
    *lsn = get_le64(p + WAL_AT_LSN);
    *bytes = wal_record_bytes(get_le32(p + WAL_AT_LENGTH));
    return get_le32(p) == WAL_MAGIC && type >= WAL_BATCH && type <= WAL_MARK && *lsn &&
           *lsn % WAL_ALIGN == 0 && *lsn <= SEQ_MAX;
}

/* Whether the segment begins with records at or above `top`. A file that can't be read says nothing. */
static bool segment_is_newer(const struct vset *vs, const char *path, lsn_t top)
{
    struct env_file *f;
    uint8_t first[WAL_HEADER_BYTES], second[WAL_HEADER_BYTES];
    uint64_t bytes, next_bytes;
    lsn_t lsn, next;
    if (env_open(vs->env, path, ENV_READ, &f))
        return false;
    bool newer = env_pread(f, first, sizeof first, 0) == (ssize_t)sizeof first &&
                 is_header(first, &lsn, &bytes) && lsn >= top;
    if (newer && (get_le64(first + WAL_AT_SYNCED) < top || get_le64(first + WAL_AT_SYNCED) > lsn))
        newer = env_pread(f, second, sizeof second, bytes) == (ssize_t)sizeof second &&
                is_header(second, &next, &next_bytes) && next == lsn + bytes;
    env_close(f);
    return newer;
}

static bool table_is_newer(const struct vset *vs, uint64_t number, lsn_t top)
{
    /* Silent: it may be what a crash left of a table that was being written. */
    struct table_options o = {.env = vs->env, .dir = vs->dir};
    struct table_meta m;
    if (table_read_meta(&o, number, &m))
        return false;
    bool newer = m.seq_max >= top;
    table_meta_free(&m);
    return newer;
}

static int rolled_back(const struct vset *vs, const char *path)
{
    char manifest[4096];
    (void)snprintf(manifest, sizeof manifest, "%s/MANIFEST", vs->dir);
    (void)logger_corrupt(&vs->log, manifest, 0,
                         "it is older than the rest of the store: %s was written later than it knows", path);
    return -EUCLEAN;
}

int rollback_check(const struct vset *vs, const uint64_t *unnamed_tables, size_t table_count,
                   const uint64_t *logs, size_t log_count)
{
    lsn_t top = log_state_top(&vs->state);
    size_t size = strlen(vs->dir) + 32;
    char *path = malloc(size);
    int rc = path ? 0 : -ENOMEM;
    for (size_t i = 0; !rc && i < log_count; i++) {
        wal_segment_path(vs->dir, logs[i], path, size);
        if (segment_is_newer(vs, path, top))
            rc = rolled_back(vs, path);
    }
    for (size_t i = 0; !rc && vs->state.count && i < table_count; i++) {
        table_path(vs->dir, unnamed_tables[i], path, size);
        if (table_is_newer(vs, unnamed_tables[i], top))
            rc = rolled_back(vs, path);
    }
    free(path);
    return rc;
}
