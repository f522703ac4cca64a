/*
 * data.h - contents of files: inline, small, extents. See inode.h for the layouts.
 *
 * Functions that change contents put their changes of keys 0x04 and 0x06 into the caller's batch and
 * update the inode (attr.size, layout, data, data_len, stored, and home when a HOME_MEMORY inode
 * grows over SMALL_MAX: it becomes HOME_OWN). The caller then stores the inode into the same batch
 * (and an orphan record when the home became HOME_OWN), commits, and on an error throws both away.
 * Times are the caller's.
 *
 * Extents: key end offset, value {le64 start offset, bytes}; each within one aligned block of EXTENT_MAX
 * bytes, never overlapping, never reaching beyond attr.size (except while a truncation is pending).
 * A write becomes extents of its own size; what it covers is cut; small appends are joined as they
 * fill blocks: the rules and what they cost are in extent.h.
 *
 * Threads: the caller holds the inode's lock, shared for reading, exclusive for changing.
 */
#ifndef FS_DATA_H
#define FS_DATA_H

#include "inode.h"

#define EXTENT_MAX (64u << 10) /* bytes stored in the tree in one value */
#define DATA_STEP 256u         /* keys deleted in one batch by the stepwise functions */

int data_read(struct lsm *db, const struct inode *ino, uint64_t off, void *buf, size_t len, size_t *got);
/* buf is to stay, unchanged, until the batch was committed or cleared: what is large is not copied. */
int data_write(struct lsm *db, struct inode *ino, uint64_t off, const void *buf, size_t len,
               struct lsm_batch *batch);

/*
 * Sets the size. Growing leaves a hole. Shrinking cuts; if more than DATA_STEP extents lie beyond,
 * *more is set: the caller adds a pending-truncate record to the batch, commits, and calls
 * data_trim until it says that nothing more is left, all under one lock.
 */
int data_truncate(struct lsm *db, struct inode *ino, uint64_t size, struct lsm_batch *batch, bool *more);
/* Deletes up to DATA_STEP extents beyond attr.size. */
int data_trim(struct lsm *db, struct inode *ino, struct lsm_batch *batch, bool *more);

/* Makes [off, off+len) a hole, as far as DATA_STEP extents allow: *next is where to go on, or off + len. Size is unchanged. */
int data_punch(struct lsm *db, struct inode *ino, uint64_t off, uint64_t len, struct lsm_batch *batch,
               uint64_t *next);

/* SEEK_DATA, SEEK_HOLE; -ENXIO as lseek(2). */
int data_seek(struct lsm *db, const struct inode *ino, uint64_t off, int whence, uint64_t *out);

/*
 * The inode moves to `to` (rename, link, unlink): contents that live by the home's key move along,
 * or change their layout where the new home has no place for it. Sets ino->home. To exchange two inodes in one
 * batch, move one to HOME_MEMORY first, then the other, then the first: a direct exchange
 * would delete what it had just put.
 */
int data_rehome(struct lsm *db, struct inode *ino, const struct inode_home *to, struct lsm_batch *batch);

/* Deletes contents without extents (inline, small) of a file that goes away at once. */
int data_delete(struct lsm *db, struct inode *ino, struct lsm_batch *batch);

/* Deletes all keys 0x04 and 0x05 of an id that nobody refers to any more. */
void data_reap(fs_id id, struct lsm_batch *batch);

#endif
