/*
 * adapter_io.c - see adapter.h. Contents of files, listings of directories, durability.
 */
#include "adapter_reply.h"

#include "log.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>

/* ---- contents ------------------------------------------------------------------------------ */

/*
 * There is nothing to do at an open or a close: files have no state but their contents, and a file that is unlinked
 * lives until FORGET. After one ENOSYS the kernel opens and closes by itself, with its caches kept.
 */
void adapter_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    if (adapter_of(req)->no_open) {
        reply_result(req, -ENOSYS);
        return;
    }
    open_flags(fi);
    fuse_reply_open(req, fi);
}

void adapter_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    reply_result(req, 0);
}

void adapter_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct adapter *a = adapter_of(req);
    size_t got = 0;
    void *buf;
    int rc;

    (void)fi;
    if (size > FS_WRITE_MAX) { /* never asked for: the connection's max_pages follow max_write */
        reply_result(req, -EINVAL);
        return;
    }
    buf = transport_reply_buffer();
    if (!buf)
        rc = -ENOMEM;
    else if (control_owns(ino))
        rc = a->control ? control_read(a->control, ino, (uint64_t)off, buf, size, &got) : -ENOENT;
    else
        rc = fs_read(a->fs, ino, (uint64_t)off, buf, size, &got);
    if (rc < 0)
        reply_result(req, rc);
    else
        fuse_reply_buf(req, buf, got);
}

void adapter_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                   struct fuse_file_info *fi)
{
    struct adapter *a = adapter_of(req);
    struct fs *fs = a->fs;
    int rc = -EPERM;

    (void)fi;
    if (transport_nowait()) /* what is deferred runs again without, and counts once */
        __atomic_fetch_add(&a->writes, ADAPTER_WRITE_BEGUN, __ATOMIC_RELAXED);
    if (!control_owns(ino) && transport_request_flags() & TRANSPORT_KILL_SUIDGID)
        rc = fs_write_unprivileged(fs, ino, (uint64_t)off, buf, size);
    else if (!control_owns(ino))
        rc = fs_write(fs, ino, (uint64_t)off, buf, size);
    const bool again = rc == -EAGAIN && transport_nowait();
    if (rc < 0)
        reply_result(req, rc);
    else
        fuse_reply_write(req, size);
    if (!again)
        __atomic_fetch_sub(&a->writes, 1, __ATOMIC_RELAXED);
}

void adapter_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                       struct fuse_file_info *fi)
{
    (void)fi;
    reply_result(req, control_owns(ino)
                          ? -EPERM
                          : fs_fallocate(adapter_of(req)->fs, ino, mode, (uint64_t)off, (uint64_t)len));
}

void adapter_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
    uint64_t found = 0;

    /* Linux asks without writing out what it holds: then only "there are no holes" is right, which this makes of it. */
    if (adapter_of(req)->writeback) {
        reply_result(req, -ENOSYS);
        return;
    }
    int rc = control_owns(ino) ? -EINVAL : fs_seek(adapter_of(req)->fs, ino, (uint64_t)off, whence, &found);

    (void)fi;
    if (rc < 0)
        reply_result(req, rc);
    else
        fuse_reply_lseek(req, (off_t)found);
}

/* ---- durability ---------------------------------------------------------------------------- */

static void sync_done(void *arg, int result)
{
    fuse_req_t req = arg;
    struct adapter *a = adapter_of(req); /* the request is gone once answered */

    reply_result(req, result);
    pthread_mutex_lock(&a->lock);
    if (--a->syncs == 0)
        pthread_cond_broadcast(&a->idle);
    pthread_mutex_unlock(&a->lock);
}

/* One log for all: a sync of one file or directory is a sync of everything. */
void adapter_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct adapter *a = adapter_of(req);

    (void)datasync;
    (void)fi;
    if (control_owns(ino)) {
        reply_result(req, 0);
        return;
    }
    pthread_mutex_lock(&a->lock);
    a->syncs++;
    pthread_mutex_unlock(&a->lock);
    fs_sync_async(a->fs, sync_done, req);
}

/* ---- directories --------------------------------------------------------------------------- */

void adapter_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    if (adapter_of(req)->no_opendir) {
        reply_result(req, -ENOSYS);
        return;
    }
    open_flags(fi);
    fi->cache_readdir = 1;
    fuse_reply_open(req, fi);
}

struct listing {
    fuse_req_t req;
    fs_id dir;
    bool plus;
    char *buf;
    size_t size, used;
    bool full;
    fs_id hidden; /* an entry that the control directory covers, on which a reference was taken; or 0 */
    uint64_t after_hidden; /* the position behind it; 0: not met */
};

static size_t add_plus(const struct listing *l, const char *name, uint64_t next, const struct fs_attr *attr)
{
    struct fuse_entry_param e;

    entry_of(adapter_of(l->req), attr, &e);
    /* A name that comes while this is on its way makes them old, and the kernel would not notice. */
    if (S_ISDIR(attr->mode))
        e.attr_timeout = LIFETIME_SHORT;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || attr->nlink == 0)
        e.ino = 0; /* no reference was taken on it; a damaged inode is met again, as an error, by lookup */
    return fuse_add_direntry_plus(l->req, l->buf + l->used, l->size - l->used, name, &e, (off_t)next);
}

static size_t add_plain(const struct listing *l, const char *name, uint64_t next, const struct fs_attr *attr)
{
    struct stat st = {.st_ino = attr->id, .st_mode = attr->mode};

    return fuse_add_direntry(l->req, l->buf + l->used, l->size - l->used, name, &st, (off_t)next);
}

static bool add_entry(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct listing *l = arg;
    char text[FS_NAME_MAX + 1];
    size_t need;

    if (control_owns_name(adapter_of(l->req)->control, l->dir, name, len)) {
        l->hidden = attr->nlink ? attr->id : 0;
        l->after_hidden = next;
        return true;
    }
    memcpy(text, name, len);
    text[len] = '\0';
    need = l->plus ? add_plus(l, text, next, attr) : add_plain(l, text, next, attr);
    if (need > l->size - l->used) {
        l->full = true;
        return false;
    }
    l->used += need;
    return true;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
    struct adapter *a = adapter_of(req);
    struct listing l = {.req = req, .dir = ino, .plus = plus, .buf = transport_reply_buffer(), .size = size};
    /* The kernel is not given what it is just asked to forget: then all it gets are names. */
    const bool attributes = plus && !__atomic_load_n(&a->tight, __ATOMIC_RELAXED);
    int rc;

    if (l.size > FS_WRITE_MAX)
        l.size = FS_WRITE_MAX;
    if (!l.buf)
        rc = -ENOMEM;
    else if (!control_owns(ino))
        rc = fs_readdir(a->fs, ino, (uint64_t)off, attributes, add_entry, &l);
    else
        rc = a->control ? control_readdir(a->control, ino, (uint64_t)off, add_entry, &l) : -ENOENT;
    if (l.hidden && attributes)
        fs_forget(a->fs, l.hidden, 1);
    /* The hidden entry counts as delivered. Alone it must not pass for the end of the directory. */
    if (rc == 0 && l.used == 0 && !l.full && l.after_hidden > 0) {
        l.hidden = 0;
        rc = fs_readdir(a->fs, ino, l.after_hidden, attributes, add_entry, &l);
    }
    if (rc == 0 && l.full && l.used == 0)
        rc = -EINVAL; /* as getdents(2): no room for even one entry */
    /* What was read before an error holds references that the kernel must learn of; it meets the error again
       when it asks for the rest. */
    if (rc < 0 && l.used == 0)
        reply_result(req, rc);
    else
        fuse_reply_buf(req, l.buf, l.used);
}

void adapter_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, off, false);
}

void adapter_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, off, true);
}
