/*
 * db.h - what the parts of an open store share: the store, its shards, and a shard's view.
 *
 * A shard's view is what readers read: its memtables and its version of tables. A view is
 * immutable and reference counted; a change publishes a new one. Readers take a reference inside
 * an RCU read-side section that does nothing else, so they never wait and are hardly ever waited for.
 *
 * Lock order (each may be held while taking a later one, never the other way):
 *     1. a shard's step lock (with LSM_INLINE only: held during one step of background work)
 *     1b. a shard's make lock (held while a blob file is made)
 *     2. manifest lock (inside vset; held during its I/O)
 *     3. shard locks, ascending by index (short; no I/O)
 *     4. the space lock (held during calls that look at the disk, and cut or allocate the reserve)
 *     5. snapshot lock, a shard's work lock, the log's append lock, blob locks: leaves
 * Readers take none of them (lsm_snapshot_new takes 5).
 *
 * Visibility: entries with seq < frontier. A reader first takes its view, then samples the
 * frontier: compaction may have dropped versions between the other way round.
 */
#ifndef LSM_DB_H
#define LSM_DB_H

#include "batch.h"
#include "blob.h"
#include "cache.h"
#include "env.h"
#include "latency.h"
#include "logger.h"
#include "memtable.h"
#include "pressure.h"
#include "slot.h"
#include "space.h"
#include "version.h"
#include "wal.h"

#include <assert.h>
#include <pthread.h>
#include <shale/lsm.h>

/*
 * References are counted by thread (slot.h), so that readers on several cores do not disturb each other: one that was
 * taken on one thread may be given back on another, the sum is what counts. Nobody needs it while the view is
 * the current one, which is a reference by itself. Once it is replaced (`retired`) and a grace period is over nobody counts
 * by thread any more; then the sum is added to `refs`, where they count from then on, and whoever brings that
 * to 0 frees the view. Each look at `retired`, with the counting that follows from it, is one read-side section.
 */
struct view {
    bool retired; /* atomic */
    struct shard *shard;
    struct memtable *active; /* NULL only in a read-only store without a log */
    struct version *version;
    size_t sealed_count;
    struct view *retired_next; /* link of the shard's list */
    uint64_t refs;             /* atomic; counts once `retired`. With VIEW_PUBLISHED until the sum is added */
    struct {
        uint64_t refs; /* atomic; may wrap */
        uint8_t apart[SLOT_STRIDE - sizeof(uint64_t)];
    } slot[SLOT_COUNT];
    struct memtable *sealed[]; /* newest first */
};
#define VIEW_PUBLISHED (UINT64_C(1) << 32)

/* What a shard's background work consists of, for those who wait for it. A step is a flush, a compaction, or nothing. */
enum shard_work { SHARD_FLUSHES, SHARD_STEPS, SHARD_WORKS };

struct outcome {
    uint64_t count; /* how many ended, well or not */
    int error;      /* of the last one, or 0 */
};

/* The background thread's own: a kind of work that failed is left alone until retry_ns. Zero after a success. */
struct failure {
    int error;
    uint64_t retry_ns;
};

struct shard {
    struct lsm *db;
    unsigned index;
    pthread_mutex_t lock; /* writers: inserts into the active memtable, publishing views */
    struct view *view;    /* RCU; replaced under `lock` */

    pthread_mutex_t work_lock; /* the fields below, and waiting on the conditions */
    pthread_cond_t work;       /* there may be something to do */
    pthread_cond_t done;       /* something ended: see outcome */
    bool kicked, stop;
    struct outcome outcome[SHARD_WORKS];
    uint64_t compact_wanted, compact_done; /* counts of lsm_compact requests */
    lsn_t compact_until;                   /* what they are about: everything below */
    struct view *retired;                  /* replaced by writers, who do not wait for a grace period */
    struct env_thread *thread;

    struct shard_blobs blobs;

    pthread_mutex_t step_lock; /* with LSM_INLINE: callers do background work one at a time */

    /* the background thread's own */
    bool compaction_broken; /* atomic; a damaged input: compaction stops, reading and flushing go on */
    struct failure flush_failure, compact_failure;
    uint64_t
        compaction_too_large; /* atomic; bytes that the due compaction takes, there not being so much space */
    uint64_t sealed_ns;       /* when a memtable was last sealed because the disk is full */
    uint64_t look_ns;         /* when to look at the disk again; 0: no need */
    bool deletes_urgent;      /* reads suffer from them, until there is nothing left to do about it */
    uint64_t age_check_ns;    /* when to look for old deletes next; UINT64_MAX: there are none */
    bool busy;                /* the log grew fast when that was looked at last, at tempo_ns and tempo_lsn */
    uint64_t tempo_ns, tempo_lsn;
    bool resting;     /* nobody has written to the store for REST_NS: the log ended at rest_lsn then, too */
    bool rested;      /* and all was done that is done then */
    uint64_t rest_ns; /* when that is so, unless somebody writes */
    lsn_t rest_lsn;

    /* back-pressure, stall.c; what writers read is atomic */
    struct pacer pacer;
    unsigned l0_tables, sealed; /* of the current view */
    uint64_t l0_done;           /* what a compaction at work has done of the tables in level 0 */
    struct drain drain;
    bool compaction_fails; /* the last one did, and waits for its time */
    struct lsm_stall stall[LSM_STALLS];
    struct meter l0_meter, flush_meter; /* the background thread's own, like what follows */
    uint64_t l0_since_ns;               /* since when it has been at work on what is to be measured */
    uint64_t table_bytes;               /* what a flush brings, of late */

    uint64_t skipped; /* atomic; entries that iterators stepped over since that was looked at */

    /* statistics, relaxed atomics */
    struct latency latency[LSM_OPS];
    uint64_t flushes, compactions, trivial_moves, flush_bytes, compact_bytes_read, compact_bytes_written;
    uint64_t entries_dropped, purges, tables_covered, skipped_total;
};

/* In options.flags, never from outside: the caller holds the store's lock (repair). */
#define LSM_NOLOCK (1u << 29)

/* The value of a key in this view at this seq; takes the reference over, into *out if there is one. */
int get_in_view(struct lsm *db, struct view *v, const void *key, size_t len, uint64_t seq, unsigned flags,
                struct lsm_value *out);

/* What the options say about tables of this level. */
enum table_compression db_compression(const struct lsm_options *o, unsigned level);

/* What each thread counts for itself: slot.h. */
struct db_counts {
    uint64_t batches, batch_bytes, gets, gets_found;
    uint64_t turn[LSM_OPS]; /* of latency_begin */
};
static_assert(sizeof(struct db_counts) <= SLOT_STRIDE / 2, "two slots never share a cache line");

struct lsm_snapshot {
    struct lsm_snapshot *next, *prev;
    uint64_t seq; /* the newest seq that is visible */
    struct lsm_snapshot *held_next;
    char *name; /* of a named one that the store holds, else NULL */
};

struct lsm {
    struct lsm_options options; /* with every default filled in */
    char *path;
    struct env *env;
    struct logger log;
    struct env_lock *lock;
    struct cache *cache;
    struct table_reader_stats reader_stats;
    struct table_writer_stats writer_stats;
    struct vset *vset;
    struct wal *wal; /* NULL in a read-only store */
    struct space space;
    lsn_t fixed_frontier; /* in a read-only store, and while replaying */
    bool read_only;       /* opened so */
    int failed;           /* atomic: the error that made it read-only */
    unsigned shard_count;
    struct shard shards[SHARDS_MAX];

    lsn_t log_start; /* atomic: no unflushed record lies below */
    lsn_t replaying; /* the record being replayed (open only), else 0 */

    bool has_pending_end; /* recovery's end of the log, to go out with the first use (open only) */
    uint64_t pending_end_number;
    lsn_t pending_end;

    pthread_mutex_t snapshot_lock;
    struct lsm_snapshot snapshots; /* ring, ascending seq */
    pthread_mutex_t named_lock;    /* serialises changes of named snapshots, and guards: */
    struct lsm_snapshot
        *held; /* one for each named snapshot, as long as it has the name; linked by held_next */

    pthread_mutex_t dirty_lock;
    struct blob_file *dirty_blobs; /* written to since they were synced */

    /* statistics, relaxed atomics; those that operations in memory count, by thread */
    struct {
        struct db_counts n;
        uint8_t apart[SLOT_STRIDE - sizeof(struct db_counts)];
    } slot[SLOT_COUNT];
    uint64_t blob_reads, blob_bytes_read;
    struct latency sync_latency;
    uint64_t replayed_bytes, replayed_batches, replay_ns;
};

static inline void count_add(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}
/* The same for what each thread counts for itself; `what` is a member of db_counts. */
#define DB_COUNT(db, what, by)                            \
    do {                                                  \
        unsigned slot_ = slot_mine();                     \
        slot_add(&(db)->slot[slot_].n.what, slot_, (by)); \
    } while (0)
/* 0: this one is not timed; else the clock. */
static inline uint64_t db_latency_begin(struct lsm *db, unsigned op)
{
    return latency_begin(db->env, &db->slot[slot_mine()].n.turn[op]);
}
static inline uint64_t count_get(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}
static inline lsn_t db_frontier(const struct lsm *db)
{
    return db->wal ? wal_frontier(db->wal) : db->fixed_frontier;
}
static inline bool db_inline(const struct lsm *db) { return db->options.flags & LSM_INLINE; }
/* 0, or why nothing may be written. */
int db_writable(const struct lsm *db);
/* Turns the store read-only for good; the first error stays. */
void db_fail(struct lsm *db, int error, const char *what);

unsigned db_route(const struct lsm *db, const void *key, size_t len);

/* Which shard a change of a batch goes to. */
#define SHARD_EVERY 0xffu /* of a range delete */
static_assert(SHARDS_MAX <= 64 && SHARDS_MAX < SHARD_EVERY,
              "shards are bits of a word, and told from SHARD_EVERY");
uint8_t db_route_change(const struct lsm *db, const struct batch_change *c); /* commit.c */
static inline uint64_t db_shard_mask(const struct lsm *db, uint8_t shard)
{
    if (shard != SHARD_EVERY)
        return UINT64_C(1) << shard;
    return db->shard_count == 64 ? UINT64_MAX : (UINT64_C(1) << db->shard_count) - 1;
}

/* ---- view.c ---- */

struct view *view_get(struct shard *s); /* a reference on the current view */
struct view *view_ref(struct view *v);  /* one more */
void view_unref(struct view *v);
/* A reference on the current view and a seq that it can answer for: everything visible, nothing dropped. */
struct view *view_get_now(struct shard *s, uint64_t *seq);
/* The shard's first view: one empty memtable (arena_bytes > 0) over version v. */
int view_init(struct shard *s, size_t arena_bytes, struct version *v);
void view_destroy(struct shard *s); /* at close, nobody reads any more */
/*
 * Under the shard lock: the active memtable becomes the newest sealed one (unless it is empty), an empty
 * one takes its place. *retired goes to view_retire or view_retire_later once the lock is dropped.
 */
int view_rotate(struct shard *s, size_t arena_bytes, struct view **retired);
void view_retire(struct view *old);       /* waits for a grace period; no locks held; NULL is allowed */
void view_retire_later(struct view *old); /* leaves that to view_retire_waiting; with LSM_INLINE waits, too */
void view_retire_waiting(struct shard *s);
/*
 * Takes the shard lock: publishes a new version, without `flushed` (the oldest sealed memtable) if
 * that is not NULL. Can't fail: `spare` was allocated by view_spare beforehand.
 */
struct view *view_spare(struct shard *s);
void view_install(struct shard *s, struct view *spare, struct version *v, struct memtable *flushed);

/* ---- background.c, flush.c, install.c: more in background.h ---- */

void shard_kick(struct shard *s);
/* One step of background work: a flush, a compaction. 1 if there was any; negative if it failed. */
int shard_step(struct shard *s);
int shard_flush_oldest(
    struct shard *s); /* the oldest sealed memtable; the shard's thread (or the only one) */
/* How many have ended: to be taken before looking whether there is anything to wait for. */
uint64_t shard_count(struct shard *s, enum shard_work what);
/*
 * Waits until another one than the `since` first has ended, at most a second; returns its error. Nobody
 * is told of an error that is older than his asking. Inline: does a step; -ENOSPC if there is nothing to do.
 */
int shard_wait(struct shard *s, enum shard_work what, uint64_t since);
/* flush.c: seals the active memtable unless it is empty or too many wait already. 1 if it did. */
int shard_seal(struct shard *s);
/* Applies an edit of this shard and publishes the view that goes with it, without `flushed`. */
int shard_apply(struct shard *s, const struct edit *edit, struct memtable *flushed);
int background_start(struct lsm *db);
void background_stop(struct lsm *db);
/* Unflushed records pin more log than the budget: the shard with the oldest has to flush. Cheap. */
bool log_over_budget(const struct lsm *db);

/* ---- stall.c ---- */

/*
 * Before a batch of so many bytes goes to these shards: waits, if it has to, as pressure.h says. -EAGAIN with nowait;
 * -ENOSPC: level 0 is full, and there is no space to compact it; what a compaction failed with.
 */
int stall_hold_back(struct lsm *db, uint64_t mask, uint64_t bytes, bool nowait, bool shrinks);
/* Around anything that a writer waits for; returns when it began. */
uint64_t stall_begin(struct shard *s, enum lsm_stall_reason why);
void stall_end(struct shard *s, enum lsm_stall_reason why, uint64_t began_ns);
void stall_stats(struct shard *s, struct lsm_shard_stats *out);
/* What background work tells: the shape of a new view; a flush of so many bytes as writers count them. */
void stall_shape(struct shard *s, size_t l0_tables, size_t sealed);
void stall_flushed(struct shard *s, uint64_t bytes, uint64_t ns);
/* The thread begins to work after it had nothing to do; how far a compaction of level 0 is; it took tables away. */
void stall_l0_busy(struct shard *s);
void stall_l0_done(struct shard *s, size_t tables, uint64_t part, uint64_t whole);
void stall_l0_drained(struct shard *s, size_t tables);

/* ---- tombstones.c ---- */

int shard_drop_covered(struct shard *s); /* tables that range deletes cover as a whole; 1 if there were any */
void shard_note_skipped(struct shard *s, uint64_t entries); /* an iterator stepped over so many */
int shard_seal_deletes(struct shard *s); /* 1 if it sealed the memtable for the sake of deletes in it */
int shard_pick_deletes(struct shard *s, struct version *v, uint64_t oldest_snapshot, struct compaction *out);
uint64_t shard_next_age_check(struct shard *s);

/* ---- recover.c ---- */

int db_recover(struct lsm *db);
int db_wal_use(void *arg, const struct wal_use *use); /* callbacks of the log */
uint64_t db_wal_new_number(void *arg);
void db_wal_failed(void *arg, int error);

/* ---- commit.c ---- */

/*
 * There is no space. 0: background work has come to something, it is worth another try. -ENOSPC: it can't do
 * anything more. Waits; no locks held.
 */
int db_wait_for_space(struct lsm *db);

/* Inserts the changes of a record whose room was checked; shards whose bit is not in `mask` are passed over. */
void db_insert(struct lsm *db, const struct batch_change *changes, const uint8_t *shard_of, uint32_t count,
               lsn_t lsn, lsn_t end, uint64_t mask);

/* ---- snapshot.c ---- */

uint64_t snapshot_add(struct lsm *db, struct lsm_snapshot *s); /* returns its seq */
void snapshot_remove(struct lsm *db, struct lsm_snapshot *s);
/* The live ones, ascending, malloc'ed. */
int snapshot_list(struct lsm *db, uint64_t **seqs, size_t *count);
uint64_t snapshot_oldest(struct lsm *db); /* SEQ_MAX if there is none */
int snapshot_hold_named(struct lsm *db);  /* those of the manifest; at open, before anything is flushed */
void snapshot_let_go(struct lsm *db);     /* of them, at close */

#endif
