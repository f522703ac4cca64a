/*
 * background.h - what the parts of a shard's background work share: flush.c, compaction_run.c, install.c, and
 * background.c, which says when which is done.
 *
 * Threads: the shard's background thread; with LSM_INLINE whoever holds its step lock.
 */
#ifndef LSM_BACKGROUND_H
#define LSM_BACKGROUND_H

#include "blob_collect.h"
#include "compact.h"
#include "db.h"

/* ---- background.c ---- */

/* Tells those who wait for it that a piece of work ended, well or not. */
void shard_ended(struct shard *s, enum shard_work what, int error);
/* What failed is left alone for a while. With LSM_INLINE a try is always somebody's wish. */
bool shard_is_due(const struct shard *s, const struct failure *f);
/* The result of a try. `what` is for the message. */
void shard_note(struct shard *s, struct failure *f, const char *what, int result);

/* ---- flush.c ---- */

/* Deletes that free large values are flushed, so that compaction can give the space back. 1 if it sealed. */
int shard_seal_for_blobs(struct shard *s);
/* The log is too long: the shard with the oldest unflushed record seals its memtable. 1 if that is `self`. */
int shard_relieve_log(struct lsm *db, struct shard *self);

/*
 * The store is at rest: flushes what keeps more than one segment of the log, and has the log begin where there is nothing
 * left to flush. 1 if there was something to do.
 */
int shard_rest(struct shard *s);

/* ---- compaction_run.c ---- */

/* 1 if a compaction was done. `until` > 0: everything below into the last level, whatever the shape. */
int shard_compact(struct shard *s, lsn_t until);

/* ---- install.c ---- */

struct compact_job shard_job(struct shard *s, struct iter *input, unsigned level);
int outputs_add(struct edit *edit, const struct compact_result *r, unsigned shard, unsigned level);
/* After a failed manifest write the edit may be on the medium: then its tables must stay. */
void outputs_drop(struct lsm *db, struct compact_result *r, int err);
/*
 * What tables made of so many bytes of `tables` inputs take at most, with index, filter, footer, and rounding to blocks
 * of the disk. Never quite right, and need not be: it is asked for, and what is not needed is given back.
 */
uint64_t table_space(uint64_t input_bytes, size_t tables);

#endif
