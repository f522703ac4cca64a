/*
 * record.c - a filesystem that shows a directory somewhere else, and writes down everything that is done to it.
 *
 *   record [--sync-us=N] [--tell=CONTROL] DIRECTORY MOUNTPOINT TRACE
 *
 * Runs in the foreground until it is unmounted or gets SIGTERM. Every change is made in DIRECTORY and written to
 * TRACE (trace.h) under one lock, so the trace is one order of what happened. What DIRECTORY holds at the start
 * comes first in the trace, and counts as durable. Whatever way programs write, by pwrite, io_uring or stores
 * through a mapping, it arrives here as a WRITE of the kernel; a sync is always preceded by the pages that it covers.
 *
 * A sync is not passed on: what would be on the medium is for the replayer to say. It takes --sync-us microseconds
 * (default 0), in which other calls go on, as beside a disk that is busy.
 *
 * With --tell DIRECTORY lies on a filesystem that is under test and whose own store is recorded by another recorder,
 * whose control file is CONTROL. Then syncs are passed on, and facts are written there, as facts.h says, of stream a:
 * its step N is made when this trace has N records. So any program can be a load (load_any.c).
 *
 * A line written to the file .record in MOUNTPOINT becomes a fact in the trace, at this place of the history.
 *
 * Not recorded: owners and times. Not supported: special files, extended attributes, handles.
 *
 * It must never wait for a filesystem that is built upon it: it touches nothing but DIRECTORY and TRACE, which must
 * not lie on one.
 */
#define FUSE_USE_VERSION 314
#include "facts.h"
#include "nodes.h"
#include "trace.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <getopt.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LIFETIME_S 3600.0 /* nobody else changes the directory */
#define COPY_BYTES (1u << 20)

static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;
static struct trace_writer *writer;
static unsigned long sync_us;
static bool telling;

#define CHANGE_RECORDS_MAX 2u /* of one change: a setattr may be two */

static void tell(const char *what, uint64_t n)
{
    if (telling)
        fact(0, what, n);
}

static void lock(void) { pthread_mutex_lock(&record_lock); }
static void unlock(void) { pthread_mutex_unlock(&record_lock); }

/* Around each change. */
static void change_begin(void)
{
    lock();
    tell("begin", trace_count(writer) + CHANGE_RECORDS_MAX);
}

static void change_end(void)
{
    tell("done", trace_count(writer));
    unlock();
}

/* 0 or a positive errno, as replies want it. */
static int append(struct trace_record r)
{
    int64_t rc = trace_append(writer, &r);

    return rc < 0 ? (int)-rc : 0;
}

static int append_names(enum trace_type type, uint64_t id, uint64_t a, uint64_t b, const char *name,
                        const char *name2)
{
    return append((struct trace_record){.type = type,
                                        .id = id,
                                        .a = a,
                                        .b = b,
                                        .name = name,
                                        .name_len = (unsigned)strlen(name),
                                        .name2 = name2,
                                        .name2_len = name2 ? (unsigned)strlen(name2) : 0});
}

static int append_made(enum trace_type type, const struct node *n, const struct node *dir, const char *name,
                       mode_t mode, const char *target)
{
    return append((struct trace_record){.type = type,
                                        .id = n->id,
                                        .a = dir->id,
                                        .b = mode & 07777,
                                        .name = name,
                                        .name_len = (unsigned)strlen(name),
                                        .data = (const uint8_t *)target,
                                        .data_len = target ? (uint32_t)strlen(target) : 0});
}

/* ---- what is there at the start ---- */

static int base_contents(const struct node *n)
{
    uint8_t *buf = malloc(COPY_BYTES);
    int64_t off = 0;
    ssize_t got = 0;
    int rc = buf ? 0 : ENOMEM;

    while (!rc && (got = pread(n->fd, buf, COPY_BYTES, off)) > 0) {
        rc = append((struct trace_record){
            .type = TRACE_WRITE, .id = n->id, .a = (uint64_t)off, .data = buf, .data_len = (uint32_t)got});
        off += got;
    }
    free(buf);
    return rc ? rc : got < 0 ? errno : 0;
}

static int base_directory(struct node *dir);

static int base_entry(struct node *dir, const char *name)
{
    struct node *n;
    struct stat st;
    int made, rc = -node_find(dir, name, &n, &made);

    if (rc)
        return rc;
    if (!made)
        return append_names(TRACE_LINK, n->id, dir->id, 0, name, NULL);
    if (fstat(n->fd, &st))
        return errno;
    if (S_ISDIR(n->type)) {
        rc = append_made(TRACE_MKDIR, n, dir, name, st.st_mode, NULL);
        return rc ? rc : base_directory(n);
    }
    if (S_ISREG(n->type)) {
        rc = append_made(TRACE_CREATE, n, dir, name, st.st_mode, NULL);
        return rc ? rc : base_contents(n);
    }
    if (S_ISLNK(n->type)) {
        char target[TRACE_FACT_MAX];
        ssize_t len = readlinkat(n->fd, "", target, sizeof(target) - 1);
        target[len < 0 ? 0 : len] = 0;
        return len < 0 ? errno : append_made(TRACE_SYMLINK, n, dir, name, st.st_mode, target);
    }
    return EINVAL;
}

static int base_directory(struct node *dir)
{
    int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d)
        return errno;
    while (!rc && (errno = 0, e = readdir(d)))
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            rc = base_entry(dir, e->d_name);
    rc = rc ? rc : errno;
    closedir(d);
    return rc;
}

/* ---- attributes and names ---- */

static void reply_done(fuse_req_t req, int error)
{
    change_end();
    fuse_reply_err(req, error);
}

static int fill_attr(const struct node *n, struct stat *st)
{
    if (fstatat(n->fd, "", st, AT_EMPTY_PATH))
        return errno;
    st->st_ino = n->id;
    return 0;
}

static void control_attr(struct stat *st)
{
    *st = (struct stat){.st_ino = NODE_CONTROL, .st_mode = S_IFREG | 0600, .st_nlink = 1, .st_uid = getuid()};
}

/* Takes a reference for the kernel. */
static int fill_entry(struct node *n, struct fuse_entry_param *e)
{
    *e = (struct fuse_entry_param){.ino = n->id, .attr_timeout = LIFETIME_S, .entry_timeout = LIFETIME_S};
    int rc = fill_attr(n, &e->attr);
    n->uses += rc == 0;
    return rc;
}

static void send_entry(fuse_req_t req, const struct fuse_entry_param *e, int error)
{
    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_entry(req, e);
}

static void reply_made(fuse_req_t req, struct node *n, int error)
{
    struct fuse_entry_param e;

    if (!error)
        error = fill_entry(n, &e);
    change_end();
    send_entry(req, &e, error);
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param e = {
        .ino = NODE_CONTROL, .attr_timeout = LIFETIME_S, .entry_timeout = LIFETIME_S};
    struct node *n;

    if (parent == TRACE_ROOT && strcmp(name, TRACE_CONTROL) == 0) {
        control_attr(&e.attr);
        fuse_reply_entry(req, &e);
        return;
    }
    lock();
    int rc = -node_find(node_of(parent), name, &n, NULL);
    if (!rc)
        rc = fill_entry(n, &e);
    unlock();
    send_entry(req, &e, rc);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    lock();
    if (ino != NODE_CONTROL && ino != TRACE_ROOT)
        node_forget(node_of(ino), count);
    unlock();
    fuse_reply_none(req);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;
    int rc = 0;

    (void)fi;
    if (ino == NODE_CONTROL)
        control_attr(&st);
    else
        rc = fill_attr(node_of(ino), &st);
    if (rc)
        fuse_reply_err(req, rc);
    else
        fuse_reply_attr(req, &st, LIFETIME_S);
}

static int set_times(const struct node *n, const struct stat *in, int set)
{
    struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};

    if (set & FUSE_SET_ATTR_ATIME)
        t[0] = set & FUSE_SET_ATTR_ATIME_NOW ? (struct timespec){.tv_nsec = UTIME_NOW} : in->st_atim;
    if (set & FUSE_SET_ATTR_MTIME)
        t[1] = set & FUSE_SET_ATTR_MTIME_NOW ? (struct timespec){.tv_nsec = UTIME_NOW} : in->st_mtim;
    return S_ISLNK(n->type) || futimens(n->fd, t) == 0 ? 0 : errno;
}

static int set_attr(const struct node *n, const struct stat *in, int set)
{
    int rc = 0;

    if (set & FUSE_SET_ATTR_SIZE) {
        rc = ftruncate(n->fd, in->st_size) ? errno : 0;
        if (!rc)
            rc = append(
                (struct trace_record){.type = TRACE_TRUNCATE, .id = n->id, .a = (uint64_t)in->st_size});
    }
    if (!rc && (set & FUSE_SET_ATTR_MODE)) {
        rc = fchmod(n->fd, in->st_mode & 07777) ? errno : 0;
        if (!rc)
            rc = append((struct trace_record){.type = TRACE_MODE, .id = n->id, .a = in->st_mode & 07777});
    }
    if (!rc && (set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
        rc = fchownat(n->fd, "", set & FUSE_SET_ATTR_UID ? in->st_uid : (uid_t)-1,
                      set & FUSE_SET_ATTR_GID ? in->st_gid : (gid_t)-1, AT_EMPTY_PATH)
                 ? errno
                 : 0;
    if (!rc && (set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)))
        rc = set_times(n, in, set);
    return rc;
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *in, int set, struct fuse_file_info *fi)
{
    struct stat st;
    int rc = 0;

    if (ino == NODE_CONTROL) {
        do_getattr(req, ino, fi);
        return;
    }
    change_begin();
    rc = set_attr(node_of(ino), in, set);
    if (!rc)
        rc = fill_attr(node_of(ino), &st);
    change_end();
    if (rc)
        fuse_reply_err(req, rc);
    else
        fuse_reply_attr(req, &st, LIFETIME_S);
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct node *dir = node_of(parent), *n = NULL;

    change_begin();
    int rc = mkdirat(dir->fd, name, mode) ? errno : -node_find(dir, name, &n, NULL);
    if (!rc)
        rc = append_made(TRACE_MKDIR, n, dir, name, mode, NULL);
    reply_made(req, n, rc);
}

static void do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct node *dir = node_of(parent), *n = NULL;

    change_begin();
    int rc = symlinkat(target, dir->fd, name) ? errno : -node_find(dir, name, &n, NULL);
    if (!rc)
        rc = append_made(TRACE_SYMLINK, n, dir, name, 0777, target);
    reply_made(req, n, rc);
}

static void do_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct node *dir = node_of(parent), *n = node_of(ino);
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", n->fd);
    change_begin();
    int rc = linkat(AT_FDCWD, path, dir->fd, name, AT_SYMLINK_FOLLOW) ? errno : 0;
    if (!rc)
        rc = append_names(TRACE_LINK, n->id, dir->id, 0, name, NULL);
    reply_made(req, n, rc);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, enum trace_type type)
{
    struct node *dir = node_of(parent), *n;

    change_begin();
    int rc = -node_find(dir, name, &n, NULL);
    if (!rc)
        rc = unlinkat(dir->fd, name, type == TRACE_RMDIR ? AT_REMOVEDIR : 0) ? errno : 0;
    if (!rc) {
        rc = append_names(type, n->id, dir->id, 0, name, NULL);
        node_unlinked(n);
    }
    reply_done(req, rc);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, TRACE_UNLINK);
}

static void do_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, TRACE_RMDIR);
}

static void do_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *to_name,
                      unsigned flags)
{
    struct node *a = node_of(parent), *b = node_of(to), *moved, *replaced = NULL;
    bool exchange = flags & RENAME_EXCHANGE;

    if (flags & ~(unsigned)(RENAME_EXCHANGE | RENAME_NOREPLACE)) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    change_begin();
    int rc = -node_find(a, name, &moved, NULL);
    if (!rc) {
        rc = -node_find(b, to_name, &replaced, NULL);
        rc = rc == ENOENT ? 0 : rc;
    }
    if (!rc)
        rc = syscall(SYS_renameat2, a->fd, name, b->fd, to_name, flags) ? errno : 0;
    if (!rc && moved != replaced) {
        rc = append_names(exchange ? TRACE_EXCHANGE : TRACE_RENAME, moved->id, a->id, b->id, name, to_name);
        if (replaced && !exchange)
            node_unlinked(replaced);
    }
    reply_done(req, rc);
}

static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
    char target[TRACE_FACT_MAX];
    ssize_t n = readlinkat(node_of(ino)->fd, "", target, sizeof(target) - 1);

    if (n < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    target[n] = 0;
    fuse_reply_readlink(req, target);
}

/* ---- contents ---- */

static void reply_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fi->direct_io = ino == NODE_CONTROL; /* not for files: they are mapped, too */
    fi->keep_cache = ino != NODE_CONTROL;
    fuse_reply_open(req, fi);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) { reply_open(req, ino, fi); }

static void do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    struct node *dir = node_of(parent), *n = NULL;
    struct fuse_entry_param e;
    struct stat st;
    int rc = 0;

    change_begin();
    int fd = openat(dir->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd >= 0) {
        rc = fstat(fd, &st) ? errno : -node_add(fd, &st, &n);
        if (!rc)
            rc = append_made(TRACE_CREATE, n, dir, name, st.st_mode, NULL);
    } else {
        rc = errno == EEXIST && !(fi->flags & O_EXCL) ? -node_find(dir, name, &n, NULL) : errno;
    }
    if (!rc)
        rc = fill_entry(n, &e);
    change_end();
    if (rc) {
        fuse_reply_err(req, rc);
        return;
    }
    fi->keep_cache = 1;
    fuse_reply_create(req, &e, fi);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    char *buf = ino == NODE_CONTROL ? NULL : malloc(size);

    (void)fi;
    if (ino == NODE_CONTROL) {
        fuse_reply_buf(req, NULL, 0);
        return;
    }
    ssize_t n = buf ? pread(node_of(ino)->fd, buf, size, off) : (errno = ENOMEM, -1);
    if (n < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_buf(req, buf, (size_t)n);
    free(buf);
}

static int write_fact(const char *buf, size_t size)
{
    while (size && (buf[size - 1] == '\n' || buf[size - 1] == 0))
        size--;
    if (size > TRACE_FACT_MAX || memchr(buf, '\n', size))
        return EINVAL;
    return append(
        (struct trace_record){.type = TRACE_FACT, .data = (const uint8_t *)buf, .data_len = (uint32_t)size});
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    ssize_t n = (ssize_t)size;
    int rc = 0;

    (void)fi;
    change_begin();
    if (ino == NODE_CONTROL) {
        rc = write_fact(buf, size);
    } else {
        n = pwrite(node_of(ino)->fd, buf, size, off);
        rc = n < 0 ? errno
                   : append((struct trace_record){.type = TRACE_WRITE,
                                                  .id = ino,
                                                  .a = (uint64_t)off,
                                                  .data = (const uint8_t *)buf,
                                                  .data_len = (uint32_t)n});
    }
    change_end();
    if (rc)
        fuse_reply_err(req, rc);
    else
        fuse_reply_write(req, (size_t)n);
}

static void do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                         struct fuse_file_info *fi)
{
    uint32_t kept = htole32((uint32_t)mode);

    (void)fi;
    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        fuse_reply_err(req, EOPNOTSUPP);
        return;
    }
    change_begin();
    int rc = fallocate(node_of(ino)->fd, mode, off, len) ? errno : 0;
    if (!rc)
        rc = append((struct trace_record){.type = TRACE_ALLOCATE,
                                          .id = ino,
                                          .a = (uint64_t)off,
                                          .b = (uint64_t)len,
                                          .data = (const uint8_t *)&kept,
                                          .data_len = sizeof(kept)});
    reply_done(req, rc);
}

static int pass_on_sync(uint64_t id, bool datasync)
{
    struct timespec t = {(time_t)(sync_us / 1000000), (long)(sync_us % 1000000) * 1000};

    if (telling)
        return (datasync ? fdatasync(node_of(id)->fd) : fsync(node_of(id)->fd)) ? errno : 0;
    if (sync_us)
        nanosleep(&t, NULL);
    return 0;
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct trace_record begin = {.type = TRACE_SYNC_BEGIN, .id = ino, .b = datasync != 0};
    int64_t number;
    int rc = 0;

    (void)fi;
    lock();
    number = trace_append(writer, &begin);
    if (number >= 0)
        tell("sync", (uint64_t)number);
    unlock();
    rc = number < 0 ? (int)-number : pass_on_sync(ino, datasync != 0);
    lock();
    if (!rc)
        rc = append((struct trace_record){.type = TRACE_SYNC_END, .id = ino, .a = (uint64_t)number});
    if (!rc)
        tell("synced", (uint64_t)number);
    unlock();
    fuse_reply_err(req, rc);
}

/* ---- listings ---- */

static void do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    int fd = openat(node_of(ino)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d) {
        fuse_reply_err(req, errno);
        if (fd >= 0)
            close(fd);
        return;
    }
    fi->fh = (uintptr_t)d;
    fuse_reply_open(req, fi);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    DIR *d = (DIR *)(uintptr_t)fi->fh;
    char *buf = malloc(size);
    size_t used = 0;
    struct dirent *e;

    (void)ino;
    if (!buf) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    if (off == 0)
        rewinddir(d);
    else
        seekdir(d, off);
    while ((e = readdir(d))) {
        struct stat st = {.st_ino = e->d_ino, .st_mode = DTTOIF(e->d_type)};
        size_t needed = fuse_add_direntry(req, buf + used, size - used, e->d_name, &st, e->d_off);
        if (needed > size - used)
            break;
        used += needed;
    }
    fuse_reply_buf(req, buf, used);
    free(buf);
}

static void do_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    closedir((DIR *)(uintptr_t)fi->fh);
    fuse_reply_err(req, 0);
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs v;

    (void)ino;
    if (fstatvfs(node_of(TRACE_ROOT)->fd, &v))
        fuse_reply_err(req, errno);
    else
        fuse_reply_statfs(req, &v);
}

static void do_init(void *arg, struct fuse_conn_info *conn)
{
    (void)arg;
    /* O_TRUNC shall come as a truncation. No write-back cache: a write that returned has arrived here. */
    conn->want &= ~(unsigned)(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ |
                              FUSE_CAP_SPLICE_WRITE);
    conn->max_write = COPY_BYTES;
}

static const struct fuse_lowlevel_ops ops = {
    .init = do_init,
    .lookup = do_lookup,
    .forget = do_forget,
    .getattr = do_getattr,
    .setattr = do_setattr,
    .readlink = do_readlink,
    .mkdir = do_mkdir,
    .unlink = do_unlink,
    .rmdir = do_rmdir,
    .symlink = do_symlink,
    .rename = do_rename,
    .link = do_link,
    .open = do_open,
    .read = do_read,
    .write = do_write,
    .fsync = do_fsync,
    .opendir = do_opendir,
    .readdir = do_readdir,
    .releasedir = do_releasedir,
    .fsyncdir = do_fsync,
    .statfs = do_statfs,
    .create = do_create,
    .fallocate = do_fallocate,
};

/* ---- life ---- */

static int serve(const char *mountpoint)
{
    char *argv[] = {(char *)"record", (char *)"-ofsname=record,subtype=record", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, argv);
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    struct fuse_session *se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
    int rc = 1;

    if (se && config && fuse_set_signal_handlers(se) == 0) {
        if (fuse_session_mount(se, mountpoint) == 0) {
            rc = fuse_session_loop_mt(se, config);
            rc = rc > 0 ? 0 : -rc; /* positive: the signal that ended it */
            fuse_session_unmount(se);
        }
        fuse_remove_signal_handlers(se);
    }
    if (se)
        fuse_session_destroy(se);
    if (config)
        fuse_loop_cfg_destroy(config);
    fuse_opt_free_args(&args);
    return rc;
}

static bool parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"sync-us", 1, NULL, 's'}, {"tell", 1, NULL, 't'}, {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 's') {
            sync_us = strtoul(optarg, NULL, 10);
        } else if (c == 't') {
            fact_open(optarg);
            telling = true;
        } else {
            return false;
        }
    }
    return argc - optind == 3;
}

int main(int argc, char **argv)
{
    struct rlimit files;

    if (!parse(argc, argv)) {
        fputs("usage: record [--sync-us=N] [--tell=CONTROL] DIRECTORY MOUNTPOINT TRACE\n", stderr);
        return 2;
    }
    argv += optind;
    umask(0);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max; /* each file that was ever seen keeps one */
        setrlimit(RLIMIT_NOFILE, &files);
    }
    int rc = -nodes_open(argv[0]);
    if (!rc)
        rc = -trace_create(argv[2], &writer);
    if (!rc)
        rc = base_directory(node_of(TRACE_ROOT));
    if (!rc)
        rc = append((struct trace_record){.type = TRACE_BASE});
    if (rc) {
        fprintf(stderr, "record: %s: %s\n", argv[0], strerror(rc));
        return 1;
    }
    int ended = serve(argv[1]);
    rc = -trace_finish(writer);
    if (rc)
        fprintf(stderr, "record: %s: %s\n", argv[2], strerror(rc));
    return rc || ended;
}
