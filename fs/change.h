/*
 * change.h - private: changing one inode in place: write, setattr, xattrs, atime.
 *
 * change_begin takes the inode's lock exclusively, and that of its bucket, and loads it. The caller
 * changes c->ino and adds to c->batch what else belongs to it. change_commit stores and commits; it
 * may be called several times. Nothing has changed unless it returned 0.
 */
#ifndef FS_CHANGE_H
#define FS_CHANGE_H

#include "store.h"

struct change {
    struct fs *fs;
    struct lockset locks;
    struct lsm_batch *batch;
    struct timespec now;
    struct itable_info info; /* what the table says */
    struct inode ino;        /* what it is to become */
    bool shrinks;      /* takes nothing that it does not give back: goes on a full disk, too (LSM_SHRINK) */
    bool needs_orphan; /* keys 0x05 were added to an inode without a name */
};

int change_begin(struct change *c, struct fs *fs, fs_id id); /* -EROFS, -ESTALE, -EIO, -ENOMEM, -EAGAIN */
int change_commit(struct change *c);
/* POSIX, write(), "the S_ISUID and S_ISGID bits"; without execution for the group setgid means something else. */
void change_kill_suidgid(struct change *c);
void change_end(struct change *c); /* after change_begin, whatever it returned */

#endif
