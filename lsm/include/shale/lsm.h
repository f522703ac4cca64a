/*
 * shale/lsm.h - an ordered, durable, embedded key-value store.
 *
 * A store is a directory. It holds ordered pairs of byte strings, spread over a fixed number of
 * shards, with one write-ahead log for all of them. This header is the manual of the library; how
 * it works inside is told in lsm/README.md.
 *
 * Errors      Every function that can fail returns 0 or a negative errno. The common ones:
 *               -ENOENT   the key does not exist (lsm_get), the store does not exist (lsm_open)
 *               -EIO      a checksum did not match or the medium failed; the log names the place
 *               -EROFS    the store is open read-only, or has turned read-only after a failed sync
 *               -ENOSPC   the disk is full; what was there before is untouched. See "A full disk" below
 *               -E2BIG    a batch is larger than a quarter of a log segment, values in blob files not counted,
 *                         or a key over its limit
 *               -EAGAIN   only with LSM_NOWAIT: the call would have had to wait; nothing was changed
 *               -EUCLEAN  the store is damaged below what had been promised durable
 *               -EBUSY    another process has the store open
 *               -ENOTSUP  the store was written by a newer release (format or feature unknown)
 *
 * Ownership   Byte strings are pointer and length, never NUL-terminated. What is passed in is
 *             copied before the call returns. What comes out says below who releases it.
 *
 * Threads     A `struct lsm` may be used by any number of threads at once. A batch, an iterator
 *             and a value belong to one thread at a time. Snapshots may be shared.
 */
#ifndef SHALE_LSM_H
#define SHALE_LSM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct lsm;
struct lsm_batch;
struct lsm_iter;
struct lsm_snapshot;
struct env; /* lsm/env.h; NULL everywhere below means the real system */

#define LSM_KEY_MAX 1024u /* bytes; longer keys are refused with -E2BIG */
#define LSM_VALUE_MAX \
    (16u << 20) /* bytes; what is smaller than blob_min_bytes is bounded by the log segment as well */
#define LSM_BLOB_NEVER SIZE_MAX /* for blob_min_bytes */

/* ---- opening ------------------------------------------------------------------------------- */

enum lsm_open_flags {
    LSM_CREATE = 1u << 0, /* create the store if the directory is absent or empty */
    LSM_RDONLY = 1u << 1, /* change no byte of the store; several readers may share it */
    LSM_INLINE = 1u << 2, /* start no threads: background work is done by the calls that need it
                                and by lsm_work(); deterministic, for tests and for short-lived tools */
};

enum lsm_log_level { LSM_LOG_ERROR, LSM_LOG_WARNING, LSM_LOG_INFO, LSM_LOG_DEBUG };

/*
 * Folds a merge operand into what lies below it. `base` is an older value (base_len bytes), or an
 * older operand when nothing complete lies below yet (base_is_operand), or NULL when the key does
 * not exist. Writes the result to `out`, which has room for the longer of the two, and returns its
 * length. It must be associative, must not fail and must not depend on anything but its arguments:
 * memtables and compaction call it at any time, on any thread.
 */
typedef size_t (*lsm_merge_fn)(void *arg, const void *base, size_t base_len, bool base_is_operand,
                               const void *operand, size_t operand_len, void *out);

/* Which shard a key belongs to: the result modulo the number of shards. Must never change. */
typedef uint64_t (*lsm_route_fn)(void *arg, const void *key, size_t key_len);

/* How blocks of tables are compressed, where that saves an eighth. What is there stays readable, whatever is chosen. */
enum lsm_compression {
    LSM_COMPRESSION_AUTO, /* the last level by Zstandard, those above by LZ4 */
    LSM_COMPRESSION_NONE,
    LSM_COMPRESSION_LZ4,
    LSM_COMPRESSION_ZSTD,
};

struct lsm_options {
    unsigned flags;            /* enum lsm_open_flags */
    unsigned shards;           /* at creation only; 0: number of CPUs, at least 2. At most 64 */
    size_t memory_bytes;       /* write buffers, cache, open tables; 0: 256 MiB */
    size_t write_buffer_bytes; /* of one memtable; 0: memory_bytes / (8 * shards), 1..64 MiB */
    size_t table_bytes;        /* size at which compaction starts a new table; 0: 8 MiB */
    size_t block_bytes;        /* of a table, uncompressed; 0: 8 KiB */
    enum lsm_compression compression;
    size_t blob_min_bytes;    /* larger values go to blob files, past the log; 0: 16 KiB; LSM_BLOB_NEVER */
    size_t blob_file_bytes;   /* of one blob file; 0: 32 MiB */
    size_t log_segment_bytes; /* at creation only; 0: 16 MiB. At least 1 MiB */
    size_t log_budget_bytes;  /* unflushed log that triggers flushes; 0: 4 segments */
    unsigned commit_ms;       /* sync at the latest this long after a write; 0: 1000 */
    unsigned level_ratio;     /* size of a level relative to the one above; 0: 10 */
    unsigned
        delete_age_s; /* deletes this old are compacted, so that what they delete leaves the disk; 0: a day */
    lsm_route_fn route; /* NULL: XXH3 of the whole key */
    lsm_merge_fn merge; /* NULL: -EINVAL from lsm_batch_merge, and from reading what must be folded */
    void *callback_arg; /* passed to route and merge */
    void (*log)(void *arg, enum lsm_log_level level, const char *message); /* NULL: silent */
    void *log_arg;
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* bytes of log replayed, or NULL */
    void *progress_arg;
    struct env *env;
};

/*
 * Opens the store at `path`; replays its log. On success *out is released by lsm_close.
 * `options` may be NULL for the defaults (then the store must exist).
 */
int lsm_open(const char *path, const struct lsm_options *options, struct lsm **out);

/*
 * Syncs, stops the threads and releases everything. All iterators, snapshots, values and batches
 * must have been released. Returns the error of the last sync, if any; the store is closed anyway.
 */
int lsm_close(struct lsm *db);

/* Number of shards, and the shard a key belongs to. */
unsigned lsm_shards(const struct lsm *db);
unsigned lsm_shard_of(const struct lsm *db, const void *key, size_t key_len);

/* ---- reading ------------------------------------------------------------------------------- */

/*
 * LSM_NOWAIT of a commit: once its batch is in the log it can't be turned away, and waits until other threads have copied
 * their older ones there, too: into the page cache, which takes microseconds, and seldom milliseconds.
 */
enum lsm_flags {
    LSM_NOWAIT =
        1u << 0, /* return -EAGAIN, having changed nothing, instead of blocking (as LSM_SYNC always would) */
    LSM_SYNC = 1u << 1,   /* lsm_commit: return only when the batch is on the medium */
    LSM_NOFILL = 1u << 2, /* reads: do not put blocks into the cache (one-off scans) */
    LSM_SHRINK =
        1u << 3, /* lsm_commit: the batch frees space (deletes, shorter values): it may use the reserve */
    LSM_KEYS = 1u << 4, /* iterators: leave values in blob files unread: see lsm_iter_value */
};

/* A value that stays valid and unchanged until lsm_value_release. Zero-initialised is empty. */
struct lsm_value {
    const void *data;
    size_t len;
    void (*release)(void *pin, void *pin2);
    void *pin, *pin2;
};

/* The value of a key at `snapshot`, or now if NULL. -ENOENT if there is none. */
int lsm_get(struct lsm *db, const void *key, size_t key_len, const struct lsm_snapshot *snapshot,
            unsigned flags, struct lsm_value *out);

struct lsm_key {
    const void *data;
    size_t len;
};

/*
 * What lsm_get gives for each of `count` keys, all at one moment: results[i] is its result for keys[i], and values[i]
 * then the value, to be released. What is not in memory is read in few system calls and with many reads in flight: up to
 * 64 keys at a time. Returns 0, or the first of the results that is neither 0 nor -ENOENT. With LSM_NOFILL keys are read one after the other.
 */
int lsm_multi_get(struct lsm *db, const struct lsm_key *keys, size_t count,
                  const struct lsm_snapshot *snapshot, unsigned flags, struct lsm_value *values,
                  int *results);
/*
 * A part of it: bytes [offset, offset + len) as far as the value has them, *total (unless NULL) its whole length. Of a
 * value in a blob file only that part is read, with at most 32 KiB around it; len 0 asks for the length only.
 */
int lsm_get_range(struct lsm *db, const void *key, size_t key_len, const struct lsm_snapshot *snapshot,
                  unsigned flags, uint64_t offset, size_t len, struct lsm_value *out, size_t *total);
void lsm_value_release(struct lsm_value *value); /* also of an empty or already released one */

/* ---- writing ------------------------------------------------------------------------------- */

/* A batch collects changes that become visible and durable together, or not at all. */
int lsm_batch_new(struct lsm_batch **out);
void lsm_batch_free(struct lsm_batch *batch); /* NULL is allowed */
void lsm_batch_clear(struct lsm_batch *batch);

/*
 * Later changes of the same key in one batch win over earlier ones. Out of memory and over-long
 * arguments are remembered and returned by lsm_commit, so that building a batch needs no checks.
 */
void lsm_batch_put(struct lsm_batch *batch, const void *key, size_t key_len, const void *value,
                   size_t value_len);
/*
 * The value is `head` and after it `lent`, which is not copied: it stays where it is, unchanged, until the batch was
 * cleared, freed or committed for the last time. A value that goes to a blob file is then written from there. For values
 * of 16 KiB and more; for less a copy is cheaper.
 */
void lsm_batch_put_lent(struct lsm_batch *batch, const void *key, size_t key_len, const void *head,
                        size_t head_len, const void *lent, size_t lent_len);
/*
 * Names a value that lies in a blob file (lsm_iter_ref), to be stored under another key, or in part. It holds nothing: what
 * it names may be overwritten or moved; then the commit says so.
 */
struct lsm_ref {
    uint8_t len, bytes[50]; /* opaque */
};
/*
 * Puts the bytes [from, from + len) of that value, len > 0, without reading or writing them: all keys that name them share them.
 * `key` must be of the same shard as the value's. lsm_commit returns -ESTALE, with nothing changed, if the value has been
 * moved meanwhile: look it up again.
 */
void lsm_batch_put_part(struct lsm_batch *batch, const void *key, size_t key_len, const struct lsm_ref *ref,
                        size_t from, size_t len);
void lsm_batch_delete(struct lsm_batch *batch, const void *key, size_t key_len);
void lsm_batch_merge(struct lsm_batch *batch, const void *key, size_t key_len, const void *operand,
                     size_t operand_len);
/*
 * Deletes every key >= start and < end: what there is below in history, also earlier in the batch. Costs a record
 * whatever the number of keys. With a route key (not NULL) it concerns its shard only, which is right, and cheaper,
 * when all keys in the range route as it does; else every shard takes note. An empty range is nothing. The first range
 * delete in a store changes its format: release 0.1 can't open it any more.
 */
void lsm_batch_delete_range(struct lsm_batch *batch, const void *start, size_t start_len, const void *end,
                            size_t end_len, const void *route_key, size_t route_key_len);
unsigned lsm_batch_count(const struct lsm_batch *batch);
size_t lsm_batch_bytes(
    const struct lsm_batch *batch); /* what it has in memory, lent or not, and at most in the log */
/* What it takes in the log of this store: large values go past it. */
size_t lsm_batch_log_bytes(const struct lsm *db, const struct lsm_batch *batch);

/* The largest lsm_batch_log_bytes that lsm_commit takes. */
size_t lsm_batch_bytes_max(const struct lsm *db);

/*
 * Applies a batch atomically. On return it is visible to every later read and survives the death
 * of the process; it survives a power cut once synced. On error nothing of it was applied, except
 * for -EIO from LSM_SYNC: applied, but perhaps not durable (the store is read-only then).
 * The batch is unchanged and may be committed again or cleared.
 *
 * May wait: for what struct lsm_stall counts, never longer than a second because compaction lags behind; and with
 * LSM_SYNC for the medium.
 */
int lsm_commit(struct lsm *db, const struct lsm_batch *batch, unsigned flags);

/*
 * A full disk. The store keeps a reserve (a file, RESERVE). While less than that and what the store still has
 * to write is free, a batch gets -ENOSPC at once, with everything as it was, unless it has LSM_SHRINK, which says that it
 * frees space: such batches use the reserve, and wait for the background work that makes room for them. They get
 * -ENOSPC only when that can't do anything more: when the reserve is used up (another program took its place) and
 * there is nothing to free, as for deletes of keys that do not exist or that a snapshot keeps. What was
 * deleted comes back by itself; lsm_compact makes it come at once. Once there is space everything works again.
 */

/* Free space less what is set aside, and the size of the disk. What grows the store gets -ENOSPC at about 0. */
int lsm_space(struct lsm *db, uint64_t *free_bytes, uint64_t *total_bytes);

/* Convenience: a batch of one. */
int lsm_put(struct lsm *db, const void *key, size_t key_len, const void *value, size_t value_len,
            unsigned flags);
int lsm_delete(struct lsm *db, const void *key, size_t key_len, unsigned flags);

/* ---- durability ---------------------------------------------------------------------------- */

/* Returns once everything committed before the call is on the medium. */
int lsm_sync(struct lsm *db);

/*
 * The same without waiting: `done` is called exactly once with the result, from a thread of the
 * engine (or from within the call, if there is nothing to wait for). It must not block.
 */
void lsm_sync_async(struct lsm *db, void (*done)(void *arg, int result), void *arg);

/* ---- iterating ----------------------------------------------------------------------------- */

/*
 * An ordered view of one moment. With `route_key` (route_key_len > 0) only the shard of that key is
 * read, which is right when all keys of interest route alike; else all shards are merged.
 * Bounds: lower is inclusive, upper exclusive; a NULL bound is none; both are copied.
 */
struct lsm_iter_options {
    const struct lsm_snapshot *snapshot; /* NULL: now */
    const void *lower, *upper;
    size_t lower_len, upper_len;
    const void *route_key;
    size_t route_key_len;
    unsigned flags; /* LSM_NOWAIT, LSM_NOFILL, LSM_KEYS */
};

/*
 * A new iterator stands nowhere: position it first. Key and value stay valid until the next call
 * on the iterator. Running off either end makes it invalid, which is no error: ask lsm_iter_status.
 */
int lsm_iter_new(struct lsm *db, const struct lsm_iter_options *options, struct lsm_iter **out);
void lsm_iter_free(struct lsm_iter *it); /* NULL is allowed */
void lsm_iter_first(struct lsm_iter *it);
void lsm_iter_last(struct lsm_iter *it);
void lsm_iter_seek(struct lsm_iter *it, const void *key, size_t key_len);      /* first >= key */
void lsm_iter_seek_prev(struct lsm_iter *it, const void *key, size_t key_len); /* last <= key */
void lsm_iter_next(struct lsm_iter *it);
void lsm_iter_prev(struct lsm_iter *it);
bool lsm_iter_valid(const struct lsm_iter *it);
int lsm_iter_status(const struct lsm_iter *it); /* 0, or why it became invalid */
const void *lsm_iter_key(const struct lsm_iter *it, size_t *len);
/* With LSM_KEYS, of a value in a blob file: NULL, and its length, until lsm_iter_load has read it. */
const void *lsm_iter_value(const struct lsm_iter *it, size_t *len);
int lsm_iter_load(struct lsm_iter *it);
/* Whether the value lies in a blob file, all of it and nothing else; then *out (if not NULL) names it. */
bool lsm_iter_ref(const struct lsm_iter *it, struct lsm_ref *out);

/* ---- snapshots ----------------------------------------------------------------------------- */

/* Everything committed before the call, and nothing later, until released. Held in memory only. */
int lsm_snapshot_new(struct lsm *db, struct lsm_snapshot **out);
void lsm_snapshot_free(struct lsm *db, struct lsm_snapshot *snapshot); /* NULL is allowed */

#define LSM_SNAPSHOT_NAME_MAX 255u /* bytes */
#define LSM_SNAPSHOTS_MAX 1000u    /* named ones */

/*
 * A snapshot with a name, which outlives the process: everything committed before the call. On success it, and all that
 * it shows, is on the medium. What it alone still shows takes space until it is dropped. A name is a file
 * name: 1 to 255 bytes, without '/', neither "." nor "..". -EEXIST: the name is taken; -EINVAL: it is no name; -EMLINK:
 * there are LSM_SNAPSHOTS_MAX already.
 */
int lsm_snapshot_save(struct lsm *db, const char *name);
/* Takes the name away; who has the snapshot open keeps it. -ENOENT: there is none. */
int lsm_snapshot_drop(struct lsm *db, const char *name);
/* A named one, to read from. Released by lsm_snapshot_free. -ENOENT: there is none. */
int lsm_snapshot_open(struct lsm *db, const char *name, struct lsm_snapshot **out);

struct lsm_snapshot_info {
    const char *name;
    uint64_t created_ns; /* wall clock */
    uint64_t
        position; /* of the log: a later snapshot's is higher, or the same if nothing was written in between */
};
/* Calls fn for each named snapshot, oldest first. It must not call the store. An error of fn ends it and is returned. */
int lsm_snapshot_each(struct lsm *db, int (*fn)(void *arg, const struct lsm_snapshot_info *info), void *arg);

/* ---- maintenance --------------------------------------------------------------------------- */

/* Flushes what was written before the call, then compacts it into the last level. Blocks. */
int lsm_compact(struct lsm *db);

/* Flushes what was written before the call. Blocks. */
int lsm_flush(struct lsm *db);

/*
 * Makes `dir`, and in it a copy of the store as it is at one moment not before the call: hard links to its tables and a
 * copy of what is in the log only, so it takes little time and space where `dir` is on the same filesystem. It is durable
 * on success, and a store of its own that lsm_open opens. Writes go on meanwhile; one that needs a new segment of the log may
 * wait for the copying. -EEXIST: dir exists. On other errors at most an empty directory is left.
 */
int lsm_checkpoint(struct lsm *db, const char *dir);

/*
 * With LSM_INLINE: does one step of pending background work; 1 if there was any, 0 if not, or why none succeeded. Two seconds
 * after the last write there may be more to do: the store is at rest then, and what bursts of writes left on the disk goes.
 */
int lsm_work(struct lsm *db);

#define LSM_LEVELS 7

/*
 * How long operations took, from entering to leaving the call: one in 16 is timed, of calls of lsm_sync every one. Percentiles are
 * right to an eighth; what returned -EAGAIN does not count. LSM_OP_COMMIT includes waiting, and with LSM_SYNC the sync.
 */
struct lsm_latency {
    uint64_t samples, p50_ns, p99_ns, p999_ns, max_ns;
};
enum lsm_op { LSM_OP_GET, LSM_OP_SEEK, LSM_OP_COMMIT, LSM_OPS };

/*
 * What commits have waited for, each as long as it says in `longest_ns` at most. LEVEL0 and LOG: compaction lags behind, or
 * too much of the log is not flushed; such a wait is of what a batch's bytes take at the rate that background work keeps up
 * with, and never longer than a second (with LSM_INLINE as long as that work takes, since the writer does it).
 * LOG also: the next segment of the log is not ready. MEMTABLES: the write buffers are full; as long as
 * it takes to write one to the disk. DISK: space is scarce, and must be made first.
 */
enum lsm_stall_reason { LSM_STALL_LEVEL0, LSM_STALL_MEMTABLES, LSM_STALL_LOG, LSM_STALL_DISK, LSM_STALLS };
struct lsm_stall {
    uint64_t count, ns, longest_ns; /* since open */
    uint64_t waiting;               /* writers, now */
};

struct lsm_shard_stats {
    struct lsm_latency latency
        [LSM_OPS]; /* of a commit: in the first shard that it touches; of a seek over all shards: in the first */
    uint64_t memtable_bytes, sealed_memtables;
    uint64_t files[LSM_LEVELS], bytes[LSM_LEVELS], target_bytes[LSM_LEVELS];
    uint64_t flushes, compactions, trivial_moves, purges; /* purges: on a full disk, of single tables */
    uint64_t flush_bytes, compact_bytes_read, compact_bytes_written;
    uint64_t entries_dropped;           /* overwritten or deleted entries that compaction removed */
    uint64_t tables_covered;            /* tables removed unread, as a range delete covered all of them */
    uint64_t range_deletes;             /* in memtables and tables, now */
    uint64_t skipped;                   /* deletes, and what they hide, that iterators had to step over */
    struct lsm_stall stall[LSM_STALLS]; /* of commits, as latency[LSM_OP_COMMIT] */
    /* Now: what writers are slowed down by, LSM_STALLS if by nothing; and to how many bytes a second, 0 if not. */
    enum lsm_stall_reason limited_by;
    uint64_t limit_bytes_per_s;
    /* blob files; garbage: what no table names, of files that are full */
    uint64_t blob_files, blob_bytes, blob_live_bytes, blob_garbage_bytes;
    uint64_t blob_bytes_written,
        blob_bytes_moved; /* by commits; by compaction, out of files with much garbage, at rest with less */
    uint64_t blob_files_deleted;
};

struct lsm_stats {
    unsigned shards;
    uint64_t batches, batch_bytes; /* accepted since open; user bytes: keys and values */
    uint64_t gets, gets_found;
    struct lsm_latency sync_latency;
    uint64_t blob_reads,
        blob_bytes_read; /* values in blob files, or parts of them; bytes that were asked for */
    uint64_t blocks_read, block_bytes_read; /* from files, that is cache misses */
    uint64_t filter_checks, filter_negatives;
    uint64_t written_raw_bytes, written_stored_bytes; /* blocks of tables before and after compression */
    uint64_t cache_hits, cache_misses, cache_bytes, cache_capacity_bytes;
    uint64_t log_bytes; /* appended since open, with headers and padding */
    uint64_t log_syncs, log_segments, log_segment_bytes;
    uint64_t log_frontier, log_synced, log_start; /* LSNs */
    uint64_t manifest_bytes, manifest_rollovers;
    uint64_t disk_bytes;                                  /* all files of the store */
    uint64_t replayed_bytes, replayed_batches, replay_ns; /* at this open */
    bool read_only;
    int failed; /* negative errno that made it read-only, or 0 */

    bool
        space_tight; /* the disk is full: what grows the store gets -ENOSPC while free + reserve < target + debt */
    uint64_t space_free_bytes, space_debt_bytes, reserve_bytes, reserve_target_bytes;
    uint64_t reserve_given_bytes, reserve_taken_bytes; /* since open */
    uint64_t space_refused;                            /* batches */
    struct lsm_shard_stats shard[64];
};

void lsm_stats_get(struct lsm *db, struct lsm_stats *out);

/* ---- verifying and repairing, of a store that nobody has open ---- */

/* Something that is not as it should be. Strings live until the callback returns. */
struct lsm_problem {
    const char *file; /* its name in the store's directory; "" if it is about none */
    uint64_t offset;  /* in that file */
    const char *what;
    bool damage; /* false: nothing is lost, as with the torn tail that a crash leaves */
};
typedef void (*lsm_problem_fn)(void *arg, const struct lsm_problem *problem);

struct lsm_verified {
    uint64_t damaged; /* problems with `damage` set */
    uint64_t notes;   /* other ones */
    uint64_t tables, table_bytes, log_records, log_bytes;
    uint64_t blob_files, blob_values, blob_bytes; /* values that are named, and what of them could be read */
    bool unreadable; /* MANIFEST can't be read: lsm_open fails, the tables were looked at one by one */
};

/*
 * Reads every byte of a store that counts (manifest, log up to its end, all blocks of all tables, large values)
 * and checks all that the formats promise. Calls `fn` for each problem; changes nothing. Of the options env, flags (none
 * needed), log and progress are used; progress counts bytes of tables and log. Returns 0 if everything could be looked
 * at, whatever was found. -EBUSY: the store is open for writing. -ENOENT: no store. -ENOTSUP: of a newer release.
 */
int lsm_verify(const char *path, const struct lsm_options *options, lsm_problem_fn fn, void *arg,
               struct lsm_verified *out);

struct lsm_repaired {
    uint64_t keys_saved,
        keys_lost; /* in the tables that were rewritten; lost: of those whose key is still known */
    uint64_t tables_rewritten, tables_written, files_kept;
    bool rebuilt; /* the manifest was no longer good for anything */
    bool done;    /* false without an error: there was no damage */
};

/*
 * Makes a store that lsm_open takes out of what is undamaged of one that it refuses or that returns -EIO.
 * Strict: what is there afterwards is what had been there; a key of which only an older value can be
 * read is gone. A damaged log is cut before the damage. Files that can't be used are moved to the
 * directory "lost" in the store, with MANIFEST; `fn` is told of each, and of what is lost. A store without damage is left
 * as it is. Of the options env, route, merge, callback_arg and memory_bytes are used, and shards if the
 * number of shards can't be found out. Errors as for lsm_open; on any of them, the store is as it was, or one
 * repair further; -EBUSY: it is open.
 */
int lsm_repair(const char *path, const struct lsm_options *options, lsm_problem_fn fn, void *arg,
               struct lsm_repaired *out);

#ifdef __cplusplus
}
#endif
#endif
