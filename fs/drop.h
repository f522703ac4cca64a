/*
 * drop.h - private: taking one name away from an inode: unlink, rmdir, rename over an existing name.
 *
 * The caller holds the inode and the directory of the name exclusively, loads d->ino, removes the
 * entry itself, and calls drop_prepare, commits, and calls drop_commit if that worked. What becomes
 * of the inode (with R: somebody refers to it):
 *
 *   another name is left        its count under 0x03 goes down
 *   file, nothing stored, R     lives on in memory until the last forget
 *   file, extents or 0x05, R    key 0x03 with no links, orphan record; the last forget calls the reaper
 *   file, not R                 all that is cheap to delete goes at once; the rest: orphan record, reaper
 *   directory                   must be empty; its record goes; with R its attributes stay in memory
 */
#ifndef FS_DROP_H
#define FS_DROP_H

#include "txn.h"

struct drop {
    struct inode ino;        /* released by drop_release */
    bool unlinked;           /* that was the last name */
    bool referenced, orphan; /* if unlinked */
    struct inode *memory;    /* for the table */
};

int drop_prepare(struct txn *t, struct drop *d); /* -ENOTEMPTY, -EIO, -ENOMEM */
void drop_commit(struct fs *fs, struct drop *d);
void drop_release(struct drop *d);

#endif
