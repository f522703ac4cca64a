/*
 * adapter.h - the FUSE protocol over the filesystem of fs.h: requests in, replies out.
 *
 * No storage logic and no state but counters: open files and directories have no handle (fh 0), a
 * file lives on after unlink because the kernel holds a reference until FORGET. So opens and closes are not asked
 * for where the kernel can do without.
 *
 * Threads: the operations from any number of threads at once.
 */
#ifndef FUSE_ADAPTER_H
#define FUSE_ADAPTER_H

#define FUSE_USE_VERSION 314
#include "control.h"
#include "fs.h"

#include <fuse_lowlevel.h>
#include <pthread.h>

#define ADAPTER_WRITE_BEGUN (UINT64_C(1) << 32 | 1)

/* The userdata of the FUSE session. */
struct adapter {
    struct fs *fs;
    struct control *control; /* NULL: no control directory; not owned */
    unsigned max_read;       /* bytes, as given to mount(2) with max_read=; 0: not given */
    bool no_open,
        no_opendir;  /* set by INIT: the kernel can do without OPEN and CREATE, and without OPENDIR */
    bool writeback;  /* -o writeback */
    bool noacl;      /* -o noacl, or the kernel can't */
    bool selinux;    /* this machine has SELinux, so that somebody asks for labels who uses them */
    bool tight;      /* atomic: over the inode budget, lifetimes given to the kernel are short */
    uint64_t writes; /* atomic: WRITEs that came in, from bit 32 on; below it those without an answer yet */
    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned syncs; /* under lock: fsyncs whose reply is still to be sent */
};

extern const struct fuse_lowlevel_ops adapter_ops;

void adapter_init(struct adapter *a, struct fs *fs, struct control *control);
/* Waits until every asynchronous reply has been sent. No requests must come in any more. */
void adapter_drain(struct adapter *a);
void adapter_destroy(struct adapter *a);

/* Waits until no WRITE has come in for a while and all are answered, at most `most_ms`; false: that was not enough. */
bool adapter_await_writes(struct adapter *a, unsigned most_ms);

#endif
