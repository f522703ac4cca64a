/*
 * adapter_reply.h - private to adapter*.c: what every operation needs to answer.
 *
 * A reply that cannot be written means that the connection is gone, and with it every reference that the
 * kernel held: there is nothing to undo, so results of fuse_reply_* are not looked at.
 */
#ifndef FUSE_ADAPTER_REPLY_H
#define FUSE_ADAPTER_REPLY_H

#include "adapter.h"
#include "transport.h"

#include <errno.h>
#include <string.h>

/*
 * Seconds. We are the only writer of our store, so nothing that the kernel knows ever becomes wrong by
 * itself. While the inode table is over its budget lifetimes are finite, so that little is looked
 * at as if it were in use only because nobody had to ask.
 */
#define LIFETIME_LONG 1e9
#define LIFETIME_SHORT 1.0

static inline struct adapter *adapter_of(fuse_req_t req) { return fuse_req_userdata(req); }

static inline double lifetime(const struct adapter *a)
{
    return __atomic_load_n(&a->tight, __ATOMIC_RELAXED) ? LIFETIME_SHORT : LIFETIME_LONG;
}

/* rc: 0 or a negative errno. What would have had to wait is run again where it may: every operation ends here then. */
static inline void reply_result(fuse_req_t req, int rc)
{
    if (rc == -EAGAIN && transport_nowait())
        transport_defer(req);
    else
        fuse_reply_err(req, -rc);
}

static inline void stat_of(const struct fs_attr *in, struct stat *out)
{
    memset(out, 0, sizeof(*out));
    out->st_ino = in->id;
    out->st_mode = in->mode;
    out->st_nlink = in->nlink;
    out->st_uid = in->uid;
    out->st_gid = in->gid;
    out->st_rdev = in->rdev;
    out->st_size = (off_t)in->size;
    out->st_blocks = (blkcnt_t)in->blocks;
    out->st_blksize = 4096;
    out->st_atim = in->atime;
    out->st_mtim = in->mtime;
    out->st_ctim = in->ctime;
}

static inline void entry_of(const struct adapter *a, const struct fs_attr *in, struct fuse_entry_param *out)
{
    memset(out, 0, sizeof(*out));
    out->ino = in->id;
    out->generation = 1; /* ids are never reused */
    out->entry_timeout = out->attr_timeout = lifetime(a);
    stat_of(in, &out->attr);
}

/* Opened files keep what the kernel has cached of them, directories their listing. */
static inline void open_flags(struct fuse_file_info *fi)
{
    fi->fh = 0;
    fi->keep_cache = 1;
}

/* adapter_io.c */
void adapter_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void adapter_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void adapter_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void adapter_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                   struct fuse_file_info *fi);
void adapter_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void adapter_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                       struct fuse_file_info *fi);
void adapter_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void adapter_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void adapter_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void adapter_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);

#endif
