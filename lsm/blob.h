/*
 * blob.h - large values on their way in: the open blob files of a shard, and their syncs.
 *
 * A value is written before its record is reserved in the log, with no shard lock held: blob_write takes a
 * place at the end of the shard's open file under a short lock and writes without it. From then until blob_named
 * or blob_unwrite the file can't be forgotten. Every sync of the log begins with blob_sync, after it has sampled
 * the frontier: a record below that was reserved after its values were written and their file noted as dirty.
 *
 * A file that was closed is never appended to again: a checkpoint may have given it a second name.
 *
 * What compaction moves goes to a file of its own (blob_collect.c), which is synced before its tables are installed.
 *
 * Locks: a shard's make lock, held while a file is made, comes before the manifest lock. The shard's blob lock and
 * the store's dirty lock are leaves.
 */
#ifndef LSM_BLOB_H
#define LSM_BLOB_H

#include "blob_file.h"

struct lsm;
struct shard;
struct view;

struct shard_blobs {
    pthread_mutex_t lock;      /* active, next, wanted; the end of the active file */
    pthread_mutex_t make_lock; /* one at a time makes a file */
    struct blob_file *active; /* takes what is written; with a reference, as are the others; NULL: none yet */
    struct blob_file *next;   /* made ahead */
    bool wanted;              /* whoever may not wait was turned away for want of one */

    /* the background thread's own */
    struct blob_file *moved; /* takes what compaction moves away from files that are to go */
    uint64_t moved_start;    /* its end when the compaction began */
    bool moved_dirty;
    uint64_t budget; /* of what the compaction may still move */
    uint64_t
        slice; /* at rest: of what it may still move before others have their turn; may be exceeded by the last value */
    uint64_t only; /* on a full disk: number of the file that is worked on; 0: any */

    /* statistics, relaxed atomics */
    uint64_t average, alive; /* of the values that tables name; for blob_wants_flush */
    uint64_t written, moved_bytes, deleted;
};

/*
 * Writes the first ones of these values, side by side with one call; returns how many, at least one. -EAGAIN with
 * nowait: there is no file with room. Any error: nothing is left behind but unused bytes.
 */
int blob_write(struct shard *s, struct blob_value *values, unsigned count, bool nowait);
/* Its record is in the memtable and ends at `end`. */
void blob_named(const struct blob_value *v, lsn_t end);
/*
 * What an earlier record or a table names is to be named by another record, too: until blob_renamed (that one is in) or
 * blob_release its file can't be forgotten. -ESTALE: it has been, or is about to be, since what was in it was moved.
 * -EINVAL: it is another shard's.
 */
int blob_retain(struct shard *s, const struct blob_pointer *p, struct blob_file **out);
void blob_renamed(struct blob_file *f, lsn_t end);
void blob_release(struct blob_file *f);
/* What both do to f, for replay. `first`: the record is the first to name what it names. */
void blob_note(struct blob_file *f, lsn_t end, bool first);
/* There will be no record. The place is used again if nothing came after it. */
void blob_unwrite(struct shard *s, const struct blob_value *v);

/* Brings all that was written before the call to the medium. Called by the log only, never twice at once. */
int blob_sync(struct lsm *db);

/* A background step: makes the next file if it will be needed soon. 1 if it did. */
int blob_prepare(struct shard *s);
/* A new blob file that the manifest knows, `open`, with a reference. The make lock is held. */
int blob_make(struct shard *s, struct blob_file **out);
/* Takes no more. Drops the reference; NULL is allowed. */
void blob_seal(struct shard *s, struct blob_file *f);

/* Under the shard lock: so much of blob files may have become garbage by what is in the memtable that it is flushed. */
bool blob_wants_flush(const struct shard *s, const struct view *v);

/* At rest, no locks held: it may have hidden so much that the bound of a store at rest (blob_collect.h) is in question. */
bool blob_wants_flush_at_rest(const struct shard *s, const struct view *v);

/* How long deletes may wait in a memtable, or range deletes in a table, before they are moved towards what they free. */
uint64_t blob_delete_age_s(const struct shard *s, uint64_t otherwise);

void blob_init(struct shard *s);
void blob_destroy(struct shard *s);
void blob_forget_dirty(struct lsm *db); /* at close: if the log has failed, nothing will sync them any more */

#endif
