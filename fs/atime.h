/*
 * atime.h - private: access times, updated as Linux' relatime does: when not newer than mtime or ctime,
 * or older than a day. Failing to do so fails nothing; a read must work on a full disk.
 *
 * Threads: call without any lock held; it is a small change of its own.
 */
#ifndef FS_ATIME_H
#define FS_ATIME_H

#include "fs.h"

/* For a read of an inode that had these attributes. 0, or -EAGAIN in non-blocking mode: the read is to be run again. */
int atime_touch(struct fs *fs, const struct fs_attr *seen);
/* The same before a listing, whatever the inode is. */
int atime_touch_dir(struct fs *fs, fs_id id);

#endif
