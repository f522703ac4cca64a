/*
 * version.h - which tables make up a shard, level by level; how that is recorded; what to compact.
 *
 * A version is immutable and reference counted. A version set (vset) owns the manifest, the current
 * version of every shard, the file numbers and the log's bookkeeping. Every change is an edit:
 * appended to the manifest, synced, then installed (see manifest.h for the format).
 *
 * Files whose last version is gone are deleted from the disk by vset_collect (never inside a
 * reader's unref).
 *
 * Threads: vset_apply from any thread (serialised by the manifest lock, under which it does I/O).
 * version_ref/unref from any thread. vset_current only while the caller excludes vset_apply for
 * that shard, or inside vset_apply's `installed` callback: readers get versions from the shard's view.
 */
#ifndef LSM_VERSION_H
#define LSM_VERSION_H

#include "blob_file.h"
#include "env.h"
#include "ikey.h"
#include "logger.h"
#include "named.h"
#include "table.h"
#include "wal.h"
#include <shale/lsm.h>

#define SHARDS_MAX 64u

/* A table in some version; shared between versions. */
struct table_file {
    struct table_meta meta;
    struct table *table; /* open while the file lives */
    unsigned refs;       /* atomic */
    unsigned shard;
    bool compacting;    /* an input of the running compaction; the shard's own thread only */
    bool ranges_looked; /* for tables that its range deletes cover; the shard's own thread only */
    /* What newer tables hide of it: compaction_purge.c; the shard's own thread only. */
    uint64_t looked_seq, looked_snapshot, hidden_bytes, kept_bytes;
    struct table_file *dead_next; /* link of the vset's list of files that no version names any more */
};

struct level {
    struct table_file **files; /* L0: newest first (descending seq_max). Others: ascending, disjoint */
    size_t count;
    uint64_t bytes;
    size_t ranged; /* files with range deletes */
};

/* A blob file, and how much of it the tables of a version name. */
struct version_blob {
    struct blob_file *file; /* the version holds a reference */
    uint64_t pointers, bytes;
};

struct version {
    unsigned refs; /* atomic */
    unsigned shard;
    struct vset *vset; /* which made it, and which its files return to */
    size_t ranged;     /* files with range deletes, of all levels */
    struct level levels[LSM_LEVELS];
    struct version_blob *blobs; /* all of the shard's, ascending number */
    size_t blob_count;
};

void version_ref(struct version *v);
void version_unref(struct version *v); /* files that become unused are queued for vset_collect */

static inline void blob_file_ref(struct blob_file *f)
{
    (void)__atomic_fetch_add(&f->refs, 1, __ATOMIC_RELAXED);
}
struct vset;
void blob_file_unref(struct vset *vs, struct blob_file *f); /* the last one puts it on vset_collect's list */

/* The blob file of that number, borrowed; NULL if this version does not know it. */
struct blob_file *version_blob(const struct version *v, uint64_t number);

/* Index of the first file in a sorted level (>= 1) that does not end before key; count if none. */
size_t level_find(const struct level *l, const void *key, size_t len);

/*
 * The newest entry of key with seq <= seq at this version; same contract as table_get. (*level,
 * *index) is a cursor, 0 and 0 at first, left at the table that answered. To continue below a merge
 * operand call again with that cursor and seq = out_key->seq - 1: the same table may hold an older
 * version, too (one that a snapshot keeps). *pin_table is what to pass to table_release with *pin.
 */
int version_get(struct version *v, const void *key, size_t len, uint64_t seq, unsigned flags, unsigned *level,
                size_t *index, struct ikey *out_key, const uint8_t **value, size_t *value_len,
                struct table **pin_table, struct cache_block **pin);

/*
 * Adds to children[*count] and on an iterator for each L0 file and one for each other non-empty level,
 * at most version_iter_max, and counts them in *count. On error none was added. The version must outlive them.
 */
size_t version_iter_max(const struct version *v);
int version_iters(struct version *v, unsigned flags, struct iter **children, size_t *count);

/* Goes through the files of a sorted level, opening an iterator for one at a time. The level must outlive it. */
int level_iter_new(const struct level *level, unsigned flags, struct iter **out);

/* ---- the version set ---- */

struct vset;

struct vset_options {
    struct env *env;
    const char *dir; /* copied */
    bool read_only;
    struct cache *cache;
    struct table_reader_stats *reader_stats;
    struct logger log;
    unsigned level_ratio;
    size_t table_bytes;
    size_t write_buffer_bytes;
    /*
     * No space for so many bytes of the manifest: true if some was made and it is worth another try. NULL: never.
     * Called under the manifest lock.
     */
    bool (*no_space)(void *arg, uint64_t bytes);
    void *no_space_arg;
};

/*
 * What a release must understand to open the store at all: incompatible features, bits of the manifest's header.
 * Set before the first byte of the kind is written (vset_require), never taken back. Never renumber.
 */
enum store_feature {
    STORE_COMPRESSION = 1u << 0,   /* compressed blocks in tables */
    STORE_RANGE_DELETES = 1u << 1, /* in the log, in tables */
    STORE_BLOBS = 1u << 2,         /* blob files */
    STORE_SNAPSHOTS = 1u << 3,     /* named snapshots */
    STORE_RESERVE = 1u << 4,       /* reserved: space set aside for a full disk */
    STORE_FUSE_FILTERS = 1u << 5,  /* in tables */
};

/* Everything that is fixed when a store is created, and what has been used in it since. */
struct store_identity {
    uint8_t uuid[16];
    uint32_t shards;
    uint64_t log_segment_bytes;
    uint64_t incompat; /* enum store_feature */
};

struct edit_file {
    unsigned shard, level;
    struct table_meta meta; /* for deletions only `number` counts */
};

/* One atomic change. Zero-initialise; zero fields mean "unchanged". */
struct edit {
    struct edit_file *add;
    size_t add_count;
    struct edit_file *remove;
    size_t remove_count;
    struct blob_meta *blob_add; /* blob files put to use, before their first extent */
    size_t blob_add_count;
    struct blob_file
        *blob_file; /* what vset_apply makes known: the file of the only blob_add, with a reference */
    struct blob_meta *blob_remove; /* nothing names them any more, nor will; their salts do not count */
    size_t blob_remove_count;
    const struct wal_use *use; /* a segment put to use; replaces an older use of the same file */
    bool has_log_end;          /* "the log ends at log_end"; drops later uses */
    uint64_t log_end_number;   /* the file that recovery was in then: for people, the LSN says it all */
    lsn_t log_end;
    lsn_t synced;     /* the log is on the medium up to here */
    bool has_flushed; /* records of `flushed_shard` below `flushed` are in tables */
    unsigned flushed_shard;
    lsn_t flushed;
    lsn_t log_start;                         /* no record below is needed by any shard */
    const struct named_snapshot *name_taken; /* a snapshot gets a name; it was synced before */
    const char *name_dropped;                /* and one loses it */
};

/* Writes a new, empty manifest. The directory exists. -EEXIST if there is one. */
int vset_create(const struct vset_options *options, const struct store_identity *identity);
/*
 * Reads the manifest and opens every table. -ENOENT: there is none. -ENOTSUP: newer format.
 * -EUCLEAN: damaged (a torn last edit is not damage: it was never acted upon). Deletes tables that no version names and
 * leftovers of an interrupted rollover, unless read_only.
 */
int vset_open(const struct vset_options *options, struct vset **out);
int vset_close(struct vset *vs); /* all versions released by others */

const struct store_identity *vset_identity(const struct vset *vs);
/*
 * Sees to it that the manifest on the medium names these features, by a rollover the first time. On an error, e.g.
 * -ENOSPC, it may not, and nothing that needs them may be written; unless vset_failed, it may be tried again. Any thread
 * that holds no lock of its own.
 */
int vset_require(struct vset *vs, uint64_t features);
bool vset_has(const struct vset *vs, uint64_t features);
/* A file number that nothing was named by before: no file in the directory, nothing in the manifest, since creation. */
uint64_t vset_new_number(struct vset *vs);

/*
 * Syncs the directory if the edit adds new tables; appends the edit, syncs and installs it.
 * `installed`, if not NULL, runs with the new version of edit->add[0].shard (or remove[0]'s, or
 * flushed_shard's; NULL if the edit names no shard) still under the manifest lock, to let the shard
 * publish it in the right order. All adds and removes of one edit, also of blob files, belong to one shard. An add whose
 * number is also removed moves that table.
 *
 * On error nothing is installed. While vset_failed stays 0 (-ENOSPC, -ENOMEM, a table that can't be
 * opened) the edit is certainly not on the medium: it may be tried again or its tables discarded.
 * Once vset_failed is set (P6: a failed manifest sync is final) every later edit is refused, and
 * this one may or may not be durable: its tables must stay; the next open deletes what is not named.
 */
int vset_apply(struct vset *vs, const struct edit *edit, void (*installed)(void *arg, struct version *v),
               void *arg);

int vset_failed(const struct vset *vs); /* 0, or the error after which every edit is refused */

struct version *vset_current(struct vset *vs, unsigned shard); /* borrowed */
lsn_t vset_flushed(const struct vset *vs, unsigned shard);
lsn_t vset_log_start(const struct vset *vs);
lsn_t vset_synced(const struct vset *vs);
/* Ascending base; uses wholly below log_start are forgotten. Borrowed, until the next vset_apply. */
const struct wal_use *vset_uses(const struct vset *vs, size_t *count);

/* The named snapshots. Borrowed: the caller excludes edits that change them (db.h: named_lock). */
const struct named_list *vset_named(const struct vset *vs);

/* Deletes the files of dead versions from disk and cache. Called by background threads. */
void vset_collect(struct vset *vs);

void vset_stats(struct vset *vs, struct lsm_stats *out); /* files, bytes, targets per level, manifest_bytes */

/* ---- choosing a compaction ---- */

struct compaction {
    unsigned shard, from, to;      /* levels */
    struct version *version;       /* referenced */
    struct table_file **inputs[2]; /* [0] of level from, [1] of level to; ascending or, of L0, newest first */
    size_t count[2];
    bool trivial; /* one file, nothing overlapped: move it */
    bool bottom;  /* nothing below `to` overlaps: tombstones may go */
    bool purge; /* one table, rewritten in its place without what newer tables hide: see compaction_purge.c */
    struct level above[LSM_LEVELS]; /* of a purge: these newer tables; files are the version's */
    uint64_t above_seq;             /* the highest of their seqs */
    bool looked_at;                 /* what they hide is known, and worth it */
    uint64_t max_output_bytes;
    const char *reason; /* for logs: "l0", "size", "tombstones", "reads", "age", "manual", "blobs" */
};

/* How the shard is written to. */
enum tempo {
    TEMPO_MODERATE,
    TEMPO_BUSY, /* fast */
    TEMPO_REST, /* the store has not been for a while */
};

/*
 * The most useful compaction of v: 1 if there is one; 0 if its shape is good, or one of its files is being compacted
 * already; -ENOMEM (so all that follow). Marks the inputs `compacting`. With from == to (the last level) files
 * are rewritten in place to drop tombstones. `oldest_snapshot` is the oldest seq that must stay readable,
 * SEQ_MAX if there is no snapshot: a tombstone above it can't be dropped and is no reason to compact. When L0 is due
 * depends on the tempo.
 */
int compaction_pick(struct vset *vs, struct version *v, uint64_t oldest_snapshot, enum tempo tempo,
                    struct compaction *out);
/*
 * The next step of moving everything below `until` into the last level, for lsm_compact, which repeats it
 * until it is 0: all is there, without tombstones that could go. What is newer moves along with what
 * is older, but is no reason to go on, so that this ends beside writers.
 */
int compaction_pick_all(struct vset *vs, struct version *v, uint64_t oldest_snapshot, uint64_t until,
                        struct compaction *out);
/*
 * The table of v of which newer ones hide most, of those that were looked at and of which no more than max_bytes would be
 * left, if that is worth it; with `desperate` anything is. Else the one of which they may hide most, to be
 * looked at. 0: there is none. Released like the others.
 */
int compaction_pick_purge(struct version *v, uint64_t oldest_snapshot, bool desperate, uint64_t max_bytes,
                          struct compaction *out);
/* All entries of the newer tables, in order, and their range deletes. c must outlive the iterator. */
int compaction_above(const struct compaction *c, const uint64_t *snapshots, size_t snapshot_count,
                     struct iter **out, struct ranges *ranges);
/*
 * The table was read: of so many bytes of keys and values in it the newer ones hide so many, and with them so many
 * in blob files, with this oldest snapshot.
 */
void compaction_looked(const struct compaction *c, uint64_t oldest_snapshot, uint64_t read_bytes,
                       uint64_t hidden_bytes, uint64_t hidden_blob_bytes);
/*
 * One for the sake of deletes, if nothing else is due: tables with deletes from before `old_s` (seconds since 1970),
 * and, if reads suffer from them (`urgent`), level 0 as soon as one table there has many.
 */
int compaction_pick_deletes(struct vset *vs, struct version *v, uint64_t oldest_snapshot, bool urgent,
                            uint64_t old_s, struct compaction *out);
/* From a level towards the last one: table f, or of level 0 all. For whoever has reasons of his own (blob_collect.c). */
int compaction_pick_down(struct vset *vs, struct version *v, unsigned level, struct table_file *f,
                         uint64_t oldest_snapshot, struct compaction *out);
/* The table is written anew in its place. */
int compaction_pick_rewrite(struct version *v, unsigned level, struct table_file *f, struct compaction *out);
void compaction_release(struct compaction *c); /* unmarks, unrefs */

/* Score of the most urgent level, 1.0 = at target; and L0's count: for back-pressure. */
double version_score(struct vset *vs, const struct version *v);
/* Dynamic level targets in bytes; 0 for levels above the base level. */
void version_targets(struct vset *vs, const struct version *v, uint64_t targets[LSM_LEVELS]);

#endif
