/*
 * extent.h - the extent map: larger contents of one file, under keys 0x04.
 *
 * Format: key {id, 0x04, be64 end}, value {8 bytes, the bytes [start, end)}: its length says where it starts. The 8 bytes
 * are le64 start where the value is in a table or the log; of a value in a blob file they are not looked at, since
 * it may be the rest of a longer one (rule "part"; SUPER_INCOMPAT_PARTS). What no extent covers is a hole. The file is seen as chunks, aligned blocks of EXTENT_MAX bytes:
 *   - an extent lies within one chunk, so it is at most EXTENT_MAX long and an edit of one chunk
 *     never concerns another; extents do not overlap. What violates this is damage: -EIO.
 *   - two extents in succession in a chunk span more than EXTENT_SPAN_MIN bytes together (the gap
 *     counts), else they are made one, with zeros in the gap. So a chunk has at most 513 of them,
 *     and a write of FS_WRITE_MAX over whatever there is stays a batch of less than 2 MiB.
 *     Readers do not rely on it.
 *
 * A write becomes one extent per chunk, or two of EXTENT_WHOLE if it is all of the chunk: those are just large enough for
 * the engine's blob files, and what is left of one after a small write is too small for them. Else that write would sync a
 * blob file, which grows, besides the log. What else is rewritten beside it, and why:
 *   part   What a write leaves of an extent in a blob file, on either side, stays in it, and is named where it lies, without
 *          being read, if it is EXTENT_PART_MIN long. So 4 KiB at a random place are 4 KiB in the log.
 *   cut    What it covers of an extent is cut off; the rest must be rewritten, since its key or its
 *          start changes. While at it, that rest is split like a buddy allocator would: pieces
 *          double in size away from the write, from the write's own size (at least EXTENT_CUT_MIN)
 *          on. So a byte is copied at most log2(EXTENT_MAX / write size) times before its extents
 *          have the size of the writes, whatever the order. Without the split, overwriting 64 KiB by
 *          100-byte writes in sequence would copy the rest every time: 320 times the bytes.
 *   fill   A write that stores new bytes and completes an aligned block (4 KiB, or the chunk), at
 *          its end or its beginning, takes in the neighbours that touch it and are shorter than a
 *          quarter of that block. So small appends in sequence are written three times in all (as
 *          they come, in blocks of 4 KiB, in chunks), appends of 4 KiB twice, of 16 KiB and more
 *          once; finished chunks are two extents, or a few of 16 KiB and more. A plain overwrite
 *          does not do that: random overwrites would join and cut for ever.
 *
 * All changes go to the caller's batch, and no key occurs twice in it. `ino` supplies id and size;
 * `stored` is kept up. Threads: the caller holds the inode's lock (data.h).
 */
#ifndef FS_EXTENT_H
#define FS_EXTENT_H

#include "data.h"

#define EXTENT_SPAN_MIN 256u     /* below, the ~60 bytes a key costs everywhere outweigh copying */
#define EXTENT_BLOCK 4096u       /* the page: what the kernel reads at least */
#define EXTENT_WHOLE (32u << 10) /* not less than BLOB_MIN_BYTES of store.c, and less than twice that */
#define EXTENT_CUT_MIN 1024u     /* smallest piece that a cut leaves on purpose */
#define EXTENT_PART_MIN 4096u    /* of a blob: to read it, 16 KiB are read and verified */
#define EXTENT_END_MAX ((uint64_t)FS_SIZE_MAX + 1) /* beyond every extent; a multiple of EXTENT_MAX */

/* Fills all of buf; the caller has limited len to the size of the file. */
int extent_read(struct lsm *db, const struct inode *ino, uint64_t off, uint8_t *buf, size_t len);

/*
 * Stores len > 0 bytes; attr.size is still the size before, nothing lies beyond it. `stays`: buf will be there,
 * unchanged, until the batch was committed, so what is large is not copied.
 */
int extent_write(struct lsm *db, struct inode *ino, uint64_t off, const uint8_t *buf, size_t len, bool stays,
                 struct lsm_batch *batch);

/* Makes [from, to) a hole, touching at most DATA_STEP extents; *next is where to go on, or `to`. */
int extent_punch(struct lsm *db, struct inode *ino, uint64_t from, uint64_t to, struct lsm_batch *batch,
                 uint64_t *next);

/* The first offset >= off with data, EXTENT_END_MAX if there is none; the first one in a hole. */
int extent_seek_data(struct lsm *db, const struct inode *ino, uint64_t off, uint64_t *out);
int extent_seek_hole(struct lsm *db, const struct inode *ino, uint64_t off, uint64_t *out);

/* Deletes all keys of an id with tags in [first, last], whatever they hold and without looking at them. */
void extent_delete_keys(fs_id id, enum key_tag first, enum key_tag last, struct lsm_batch *batch);

#endif
