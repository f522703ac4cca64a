/*
 * txn.h - private: one change of the filesystem: a batch, its time, and what it does to directories.
 *
 * A directory's counters and times change by one TOUCH for each transaction, however many of its entries do.
 */
#ifndef FS_TXN_H
#define FS_TXN_H

#include "locks.h"
#include "record.h"
#include "store.h"

#define TXN_DIRS_MAX 2u

struct txn {
    struct fs *fs;
    struct lsm_batch *batch;
    struct timespec now; /* set by txn_lock */
    bool shrinks;        /* takes nothing that it does not give back: goes on a full disk, too (LSM_SHRINK) */
    unsigned dirs;
    struct {
        fs_id id;
        struct touch touch;
    } dir[TXN_DIRS_MAX];
};

int txn_begin(struct txn *t, struct fs *fs); /* -EROFS, -ENOMEM */
/* Acquires the locks; the transaction's time is taken under them, so that times go the way history does.
 * -EAGAIN as lockset_acquire. */
int txn_lock(struct txn *t, struct lockset *locks);
void txn_end(struct txn *t); /* after txn_begin, whatever it returned */

/* A name was added to a directory (sign 1) or taken away (-1); `type` is what it names. */
void txn_touch(struct txn *t, fs_id dir, int sign, size_t name_len, uint32_t type);
/* Entries of a directory changed places: only its times change. */
void txn_touch_times(struct txn *t, fs_id dir);

int txn_commit(struct txn *t);

#endif
