/*
 * blob_collect.h - giving the space of garbage in blob files back.
 *
 * What is alive in a file is what tables name: each version counts it (version.c). Garbage comes to light when
 * compaction drops a pointer. Three things, all on the shard's background thread:
 *
 *   - A file that no table names is forgotten at once: by an edit, once it takes no more, nobody is between
 *     writing to it and its record, and all records that ever named it are flushed. Versions that readers hold keep
 *     the file itself until they are gone.
 *   - Of files that take no more and whose records have all been flushed once (what names a part of them anew aside): one of
 *     which less than half is alive, or the emptiest ones while all are larger than 5/4 of what is alive and
 *     one file, are collected: tables that name them are rewritten in their place, by which the values move to a new file
 *     (as they do in any other compaction meanwhile). So are small ones, which each opening of the store leaves behind,
 *     once there are many. On a full disk it is the file with the least left in it first, if that fits.
 *   - What newer entries may have made garbage does not show before they meet the older ones. Once that may be more than
 *     3/20 of what is alive and half a file, tables are compacted towards the last level, and a memtable is flushed
 *     when it may hide one file. What a range delete hides is not known; it is compacted down after 20 s.
 *
 * At rest, when nobody has written for two seconds (background.c), the bounds are closer. Of S bytes alive in a shard let G be
 * S / 6 + blob_file_bytes / 32:
 *
 *   - A memtable that may hide G / 8 is flushed. So much in tables is compacted down, if what is read of tables for it is
 *     no more than that. Deletes count as if they hit large values as often as others.
 *   - While there is more garbage than 6/8 G, files that are still written to included, the emptiest is collected. It has
 *     the average of garbage or more, so at most 8 bytes are moved for each that is freed; mostly 1 to 2. What is collected at a time
 *     is one file, or S / 16: so much lies in two places until the last table that names it was rewritten.
 *   - Slices of blob_file_bytes; as soon as somebody writes not one more value is moved, and the table at work is finished with
 *     what was. Such files are left alone then.
 *
 * So blob files come to at most 7/6 S + blob_file_bytes / 32, with headers and checksums, if writes stay away long enough. Then
 * nothing is written any more: each compaction moves a table down or a value into a file that is all alive. What a snapshot
 * keeps is alive, and once it is gone known to be garbage only after the next compaction there.
 *
 * While somebody writes, of S bytes alive: S + hidden (0.15 S + 0.5 files, and what a memtable hides), times 5/4, and one file: below
 * 1.5 S and two files, after the work has been done.
 */
#ifndef LSM_BLOB_COLLECT_H
#define LSM_BLOB_COLLECT_H

#include "db.h"

/* Forgets files that nothing names. 1 if there was one. */
int blob_forget_dead(struct shard *s);

/* The compaction that is due for the sake of blob files: 1, 0 if there is none, -ENOMEM. */
int blob_pick(struct shard *s, struct version *v, uint64_t oldest_snapshot, struct compaction *out);

/*
 * A compaction's values: blob_move is its job's `move`. End syncs what was moved; after an error of whatever
 * comes between begin and the edit, blob_move_back gives its place back, so that trying again needs no more.
 */
/* What a compaction would move, at most. */
uint64_t blob_moves(const struct shard *s, const struct compaction *c);
void blob_move_begin(struct shard *s, uint64_t budget); /* moves no more bytes than that */
void blob_move_stop(struct shard *s);                   /* moves no more at all */
int blob_move(void *shard, uint8_t *pointer, size_t *len);
int blob_move_end(struct shard *s);
void blob_move_back(struct shard *s);

#endif
