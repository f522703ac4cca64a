/*
 * orphan.h - removing what deleted files leave behind, and finishing interrupted truncations.
 *
 * An orphan record (keys.h) says: this id has no name, but keys under its id remain. The one rule is that
 * an orphan may be removed if and only if nobody refers to it, that is, if it is not in the inode
 * table: no name leads to it, so nobody can begin to. Its contents and the orphan record go in one
 * batch, by a range delete, whatever their size. (Release 0.1 did so in steps: what it left of one goes likewise.)
 *
 * The reaper has a bounded queue of ids that lost their last reference. When it is full, and at
 * the start, the reaper looks through the orphan lists of the store instead.
 *
 * A pending truncation is finished when the store is opened. One that can't be (damage) is counted in
 * fs->truncates_stuck, and while that is not zero whoever makes a file longer tries again first, so
 * that bytes beyond an old end never come back.
 *
 * Threads: one reaper thread, or with LSM_INLINE those that call reaper_work.
 */
#ifndef FS_ORPHAN_H
#define FS_ORPHAN_H

#include "inode.h"

struct reaper;

int reaper_new(struct fs *fs, bool thread, struct reaper **out);
void reaper_free(struct reaper *r); /* stops it; what is left stays for the next open; NULL is allowed */

/* The orphan record of id is committed and the last reference is gone. */
void reaper_queue(struct reaper *r, fs_id id);

/* One step; 1 if there was something to do. */
int reaper_work(struct reaper *r);

/* Adds or removes the records. */
void orphan_put(struct fs *fs, fs_id id, struct lsm_batch *batch);
void truncate_put(struct fs *fs, const struct inode *ino, struct lsm_batch *batch);
void truncate_delete(struct fs *fs, fs_id id, struct lsm_batch *batch);

/*
 * Goes on with the truncation of `ino` (loaded, lock and bucket held) until nothing lies beyond its
 * size; `batch` is used for each step.
 */
int truncate_finish(struct fs *fs, struct inode *ino, struct lsm_batch *batch);
/* Does so if it is one of those that got stuck. */
int truncate_retry(struct fs *fs, struct inode *ino, struct lsm_batch *batch);
/* All of the store, at open, before anybody else uses it. */
int truncates_finish(struct fs *fs);

#endif
