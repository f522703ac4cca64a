/*
 * reclaim.h - keeps the inode table within its share of memory.
 *
 * An inode stays in the table while the kernel refers to it, and the kernel forgets only when it is
 * short of memory itself. A thread that holds no lock tells it to drop names of cold files, which
 * makes it send FORGET; while the table is over its budget, lifetimes of new answers are short.
 *
 * Threads: start and stop from one thread. Stop while requests are still served: the kernel may
 * make a notification wait for a request that is under way.
 */
#ifndef FUSE_RECLAIM_H
#define FUSE_RECLAIM_H

#include "adapter.h"

struct reclaim;

int reclaim_start(struct adapter *a, struct fuse_session *session, struct reclaim **out);
void reclaim_stop(struct reclaim *r); /* NULL is allowed */

#endif
