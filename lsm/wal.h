/*
 * wal.h - the write-ahead log: one for all shards, in reused segments.
 *
 * Position is identity: a record's LSN is its byte position in an endless log. The log is cut into
 * segments of equal size; a use of a segment file covers [base, base + segment_bytes) and has a
 * random salt that seeds every checksum in it, so that what an earlier use left in the file can
 * never pass for a record. A use is recorded in the manifest (callback `use`) before its first
 * record; files whose records are all flushed are used again.
 *
 * The frontier F is the LSN below which every reserved record is copied and inserted (published).
 * Nothing at or above F is visible to readers or acknowledged.
 *
 * A write:   wal_prepare (may wait; no locks held)
 *            ... caller takes its shard locks, checks everything that can fail ...
 *            wal_reserve   -> -EAGAIN: drop the locks, wal_prepare again
 *            wal_copy      -> an error fails the log for good (P6)
 *            ... caller inserts into its memtables ...
 *            wal_publish
 *            ... caller drops its shard locks ...
 *            wal_wait      (until F passed the record; immediate unless another writer is mid-way)
 * Between reserve and publish nothing may fail, allocate or sleep.
 *
 * A sync samples F and brings every segment in (synced, F], in order, to the medium. Concurrent
 * syncs share it. A failed sync is final: the synced mark freezes and every later sync, reserve and
 * wait returns that error.
 *
 * Threads: everything from any thread unless it says otherwise. Locks inside: append (short, no
 * I/O), sync (held during I/O). They are leaves: no callback runs under the append lock, `use`
 * and `synced` run under none.
 */
#ifndef LSM_WAL_H
#define LSM_WAL_H

#include "env.h"
#include "ikey.h"
#include "logger.h"

struct wal;

/* One use of a segment file, as the manifest records it. */
struct wal_use {
    uint64_t number; /* of the file: NNNNNN.log */
    lsn_t base;      /* LSN of its first byte; a multiple of 8, not 0 */
    uint64_t salt;
    uint64_t bytes; /* of the segment */
    lsn_t end;      /* 0, or where recovery found that this use ends; later bytes are void */
};

/* How a record begins on the medium; see wal.c for the format. */
#define WAL_HEADER_BYTES 48u
#define WAL_SEGMENT_MIN (1u << 20)
#define WAL_SEGMENT_MAX (UINT64_C(1) << 32) /* keeps a quarter of it within a record's length field */

struct wal_options {
    struct env *env;
    const char *dir; /* copied */
    uint64_t segment_bytes;
    bool map;     /* append by stores into a mapping where the filesystem allows it */
    bool threads; /* false: no helper thread; wal_prepare and wal_tick do its work inline */
    unsigned commit_ms;
    struct logger log;
    void *arg; /* of the callbacks */
    /* Records the use in the manifest and syncs it. Called by the helper thread or inside wal_prepare. */
    int (*use)(void *arg, const struct wal_use *use);
    uint64_t (*new_number)(void *arg); /* a file number never used before */
    int (*before_sync)(
        void *arg); /* brings what records name to the medium; an error fails the log. May be NULL */
    void (*failed)(void *arg, int error); /* once, when the log fails: the store turns read-only */
    /* No space for a new segment: true if some was made and it is worth another try. NULL: never. */
    bool (*no_space)(void *arg, uint64_t bytes);
};

/*
 * Opens the log for writing at `start`: the next record gets LSN >= start (start must be above
 * every LSN ever seen). `reuse` names segment files free for use, all of segment_bytes (others are
 * for the caller to delete). `live` are uses that still hold unflushed records; they are handed to
 * the pool by wal_release later. Prepares the first segment before it returns.
 */
int wal_open(const struct wal_options *options, lsn_t start, const struct wal_use *live, size_t live_count,
             const uint64_t *reuse, size_t reuse_count, struct wal **out);

/* Stops the helper, syncs; then all is released. Returns the sync's error. */
int wal_close(struct wal *wal);

struct wal_ticket {
    lsn_t lsn, end; /* of the record: header to padding */
    void *segment;
    uint64_t offset;
    unsigned slot;
    uint32_t payload_bytes;
};

/* The longest payload of one record: a quarter of a segment less the header. */
size_t wal_payload_max(const struct wal *wal);
/* What a payload takes in the log: header, payload, checksum, padding to 8. */
uint64_t wal_record_bytes(size_t payload_bytes);

/* Makes sure that a record of this payload can be reserved; waits for a segment if need be unless nowait (-EAGAIN). */
int wal_prepare(struct wal *wal, size_t payload_bytes, bool nowait);
/*
 * A segment file besides the one that takes the appends: what the next open needs for going on after a crash, and
 * writers on a full disk. wal_make_spare sees to it that there is one. Waits; no locks held.
 */
bool wal_has_spare(const struct wal *wal);
bool wal_expects_spare(
    const struct wal *wal); /* has one, or a helper thread is to make one and has not failed yet */
int wal_make_spare(struct wal *wal);
int wal_reserve(struct wal *wal, size_t payload_bytes, struct wal_ticket *out);
/* Writes header, payload (iov, together payload_bytes) and checksum to the reserved place. */
int wal_copy(struct wal *wal, struct wal_ticket *ticket, const struct iovec *iov, int n);
void wal_publish(struct wal *wal, struct wal_ticket *ticket);
int wal_wait(struct wal *wal, lsn_t end); /* until frontier >= end, or the log failed */

lsn_t wal_frontier(const struct wal *wal); /* one atomic load */
lsn_t wal_synced(const struct wal *wal);
int wal_failed(const struct wal *wal); /* 0, or the error that ended it */

/* Returns when everything published before the call is on the medium. */
int wal_sync(struct wal *wal);
/* Returns when everything below lsn is; lsn must be <= frontier. */
int wal_sync_to(struct wal *wal, lsn_t lsn);
void wal_sync_async(struct wal *wal, void (*done)(void *arg, int result), void *arg);

/* All records below lsn are flushed: segments wholly below it return to the pool. */
void wal_release(struct wal *wal, lsn_t lsn);
bool wal_is_long(const struct wal *wal); /* it has segments besides the one that takes the appends */

/* Without threads: does the timer's work (sync after commit_ms, mark record), makes a segment, or removes spare ones. 1 if it did anything. */
int wal_tick(struct wal *wal);

struct wal_stats {
    uint64_t bytes, records, syncs, segments, free_segments;
};
void wal_stats_get(const struct wal *wal, struct wal_stats *out);

/* ---- recovery ---- */

struct wal_recovery {
    struct env *env;
    const char *dir;
    const struct wal_use *uses; /* from the manifest, ascending base */
    size_t use_count;
    lsn_t start;  /* first record to replay; a record boundary */
    lsn_t synced; /* the manifest's word: everything below was on the medium */
    bool rewrite; /* write the surviving segments again and sync them (not for read-only opening) */
    struct logger log;
    void *arg;
    /*
     * Called for each batch record that is not known to be on the medium, before replay: *good = false makes it a bad
     * one. May be NULL.
     */
    int (*verify)(void *arg, const void *payload, size_t payload_bytes, bool *good);
    /* Called for each batch record in LSN order. An error stops recovery and is returned. */
    int (*replay)(void *arg, lsn_t lsn, const void *payload, size_t payload_bytes);
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* or NULL */
};

struct wal_recovered {
    lsn_t end;       /* X: end of the last good record; == start if there is none */
    lsn_t next;      /* multiple of 8, above every LSN and every use seen: the continuation's base */
    uint64_t number; /* segment file that X lies in; 0 if there are no uses */
    lsn_t synced;    /* the furthest synced-up-to LSN in a good record: below it all was on the medium */
    uint64_t bytes, records;
    bool damaged; /* a bad record lies below a proven synced LSN; `end` is before it */
    uint64_t damage_number, damage_offset; /* where, if damaged */
};

/*
 * Replays the log. A torn tail ends it. If anything proves that a bad record had been synced
 * (`synced`, a use's recorded end, or a later good record's synced-up-to), *out is filled,
 * `damaged` is set and -EUCLEAN returned after the good prefix was replayed, with one log line.
 * A read error is returned as it is, never taken for the end of the log.
 */
int wal_recover(const struct wal_recovery *r, struct wal_recovered *out);

/*
 * The furthest LSN that the manifest or the log itself says was synced. For who goes through the log only once and must
 * know beforehand what is damage if it is not there. Judges nothing, tells nothing, calls nothing of r.
 */
int wal_recover_synced(const struct wal_recovery *r, lsn_t *out);

/* "NNNNNN.log" under dir; buf has room for dir + 32 bytes. */
/* Allocates [0, bytes) of a segment's file and writes zeros to what begins at `from`. Not synced. */
int wal_segment_fill(struct env_file *file, uint64_t from, uint64_t bytes);
void wal_segment_path(const char *dir, uint64_t number, char *buf, size_t size);

#endif
