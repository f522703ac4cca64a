/*
 * ids.h - where new inode numbers come from.
 *
 * The store says up to which serial ids are leased (key SUPER 0x01, le64: the first that is not). A
 * lease is committed before an id of it is used; since the log keeps its order, no sync is needed: a
 * crash that loses the lease loses whatever used it. What is left of a lease at close or crash is
 * skipped, so that an id is never used twice.
 *
 * Threads: any. The mutex is only for extending the lease; the engine's locks come after it.
 */
#ifndef FS_IDS_H
#define FS_IDS_H

#include "keys.h"
#include <pthread.h>

#define IDS_LEASE 65536u /* ids: 52 bits last for 68 thousand million leases */

struct ids {
    struct lsm *db;
    uint64_t next;   /* atomic */
    uint64_t leased; /* atomic: the first serial that is not leased; grows under the mutex */
    pthread_mutex_t extend;
};

int ids_open(struct ids *ids, struct lsm *db); /* reads the lease; -EIO */
void ids_close(struct ids *ids);

/* A new serial. -ENOSPC when all are used, or the error of the commit. */
int ids_next(struct ids *ids, uint64_t *serial);

#endif
