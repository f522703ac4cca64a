/*
 * replay.h - applies the records of the log to the memtables: recovery's second pass (recover.c has the first).
 *
 * Records are gathered to chunks of a few megabytes. Each shard's part of a chunk is applied by the worker that the shard
 * belongs to, while the next chunk is read and taken apart: in the order of the log as far as that matters, and
 * by key where it does not, since inserting neighbours one after the other is several times as fast. A shard flushes
 * only when more of its memtables are full than may wait: what fitted into memory before does so again.
 *
 *   - A memtable ends between two records, never within one.
 *   - db->replaying is the first record of the chunk that is at work: a flush must not let go of the log from there on.
 *   - Range deletes stand alone: what was before them is inserted before them.
 *
 * Memory: two chunks, each of REPLAY_CHUNK_MAX or one record, and 80 bytes for each change in them; more than 16 MiB only
 * where memtables are sixteen times as large.
 *
 * Threads: one for each CPU, but no more than shards, as soon as there is more than one chunk; none with LSM_INLINE. They
 * end before replay_finish returns.
 */
#ifndef LSM_REPLAY_H
#define LSM_REPLAY_H

#include "ikey.h"

#include <stddef.h>

struct lsm;
struct replay;

#define REPLAY_CHUNK_MAX (64u << 20)

int replay_new(struct lsm *db, struct replay **out);
/* As wal_recovery.replay: `arg` is the replay. The payload is copied. An error may be one of an earlier record's. */
int replay_record(void *arg, lsn_t lsn, const void *payload, size_t len);
/* Applies what was gathered, and returns the first error; with `err` it only ends, and returns that. Frees it. */
int replay_finish(struct replay *rp, int err);

#endif
