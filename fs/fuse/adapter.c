/*
 * adapter.c - see adapter.h. Names, attributes and extended attributes; contents and
 * listings are in adapter_io.c.
 *
 * Not here, because the kernel does it: permissions (default_permissions, and ACLs with them), locks,
 * the clearing of file capabilities, O_APPEND, O_TRUNC (arrives as SETATTR). FLUSH is not implemented on
 * purpose: after one ENOSYS the kernel asks no more, and nothing waits in the daemon to be flushed.
 */
#include "adapter.h"
#include "adapter_reply.h"

#include "log.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define QUIET_STEP_MS 10
#define QUIET_MS 100 /* after each answer the kernel sends the next at once */

void adapter_init(struct adapter *a, struct fs *fs, struct control *control)
{
    memset(a, 0, sizeof(*a));
    a->fs = fs;
    a->control = control;
    a->selinux = access("/sys/fs/selinux", F_OK) == 0;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->idle, NULL);
}

void adapter_drain(struct adapter *a)
{
    pthread_mutex_lock(&a->lock);
    while (a->syncs > 0)
        pthread_cond_wait(&a->idle, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

bool adapter_await_writes(struct adapter *a, unsigned most_ms)
{
    const struct timespec step = {0, QUIET_STEP_MS * 1000000L};
    uint64_t before = 0;
    unsigned quiet_ms = 0;

    for (unsigned ms = 0; ms <= most_ms && quiet_ms < QUIET_MS; ms += QUIET_STEP_MS) {
        uint64_t now = __atomic_load_n(&a->writes, __ATOMIC_RELAXED);
        quiet_ms = now == before && (uint32_t)now == 0 ? quiet_ms + QUIET_STEP_MS : 0;
        before = now;
        nanosleep(&step, NULL);
    }
    return quiet_ms >= QUIET_MS;
}

void adapter_destroy(struct adapter *a)
{
    pthread_cond_destroy(&a->idle);
    pthread_mutex_destroy(&a->lock);
}

/*
 * The features of the connection. What is switched off here libfuse would switch on by itself.
 */
static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    struct adapter *a = userdata;
    const unsigned off = FUSE_CAP_AUTO_INVAL_DATA                             /* we are the only writer */
                         | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_HANDLE_KILLPRIV /* V2 is ours: session.c */
                         | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_IOCTL_DIR |
                         FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS |
                         FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE;
    const unsigned on = FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_READDIRPLUS |
                        FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ASYNC_READ;

    conn->want &= ~off;
    conn->want |= on & conn->capable;
    if (a->writeback)
        conn->want |= FUSE_CAP_WRITEBACK_CACHE & conn->capable;
    a->noacl |= !(conn->capable & FUSE_CAP_POSIX_ACL);
    /*
     * Default ACLs come before the umask, so it is ours to apply. Where nobody checks ACLs the kernel does it first: what
     * is inherited all the same, so that no ACL is lost, can then only take away more.
     */
    const unsigned acl = FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;
    conn->want = a->noacl ? conn->want & ~acl : conn->want | (acl & conn->capable);
    a->no_open = conn->capable & FUSE_CAP_NO_OPEN_SUPPORT;
    a->no_opendir = conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT;
    conn->max_write = FS_WRITE_MAX;
    conn->max_read = a->max_read;
    conn->time_gran = 1;
}

/* ---- names --------------------------------------------------------------------------------- */

/* Whether a name may be changed: `taken` is the answer for the control directory's own name. */
static int check_name(const struct adapter *a, fs_id parent, const char *name, size_t *len, int taken)
{
    *len = strlen(name);
    if (*len > FS_NAME_MAX)
        return -ENAMETOOLONG;
    if (control_owns(parent))
        return -EPERM;
    return control_owns_name(a->control, parent, name, *len) ? taken : 0;
}

static void reply_entry(fuse_req_t req, int rc, const struct fs_attr *attr)
{
    struct fuse_entry_param e;

    if (rc < 0) {
        reply_result(req, rc);
        return;
    }
    entry_of(adapter_of(req), attr, &e);
    if (control_owns_text(attr->id))
        e.entry_timeout = 0; /* the next one who asks gets another text */
    fuse_reply_entry(req, &e);
}

static struct fs_caller caller_of(fuse_req_t req)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);

    return (struct fs_caller){.uid = ctx->uid, .gid = ctx->gid, .umask = ctx->umask};
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct adapter *a = adapter_of(req);
    size_t len = strlen(name);
    struct fs_attr attr;
    int rc;

    if (control_owns(parent) &&
        transport_nowait()) { /* its texts are made of all parts of the engine, under locks */
        transport_defer(req);
        return;
    }
    if (len > FS_NAME_MAX)
        rc = -ENAMETOOLONG;
    else if (control_owns(parent) || control_owns_name(a->control, parent, name, len))
        rc = a->control ? control_lookup(a->control, parent, name, len, &attr) : -ENOENT;
    else
        rc = fs_lookup(a->fs, parent, name, len, &attr);
    if (rc == -ENOENT) { /* an answer that the kernel may keep */
        struct fuse_entry_param absent = {.entry_timeout = lifetime(a)};
        fuse_reply_entry(req, &absent);
        return;
    }
    reply_entry(req, rc, &attr);
}

static void forget(struct adapter *a, fuse_ino_t ino, uint64_t count)
{
    if (control_owns_text(ino) && a->control)
        control_forget(a->control, ino, count);
    else if (!control_owns(ino))
        fs_forget(a->fs, ino, count);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    forget(adapter_of(req), ino, count);
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        forget(adapter_of(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static int make_node(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev,
                     struct fs_attr *attr)
{
    struct adapter *a = adapter_of(req);
    struct fs_caller caller = caller_of(req);
    size_t len;
    int rc = check_name(a, parent, name, &len, -EEXIST);

    return rc < 0 ? rc : fs_mknod(a->fs, &caller, parent, name, len, mode, rdev, attr);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    struct fs_attr attr;

    reply_entry(req, make_node(req, parent, name, mode, rdev, &attr), &attr);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    struct fuse_entry_param e;
    struct fs_attr attr;
    int rc;

    if (adapter_of(req)->no_open) { /* MKNOD will do */
        reply_result(req, -ENOSYS);
        return;
    }
    rc = make_node(req, parent, name, S_IFREG | (mode & ~(mode_t)S_IFMT), 0, &attr);

    /* The kernel believed the name free. ESTALE makes it look again and open what is there by the
       ordinary way, with permission checks, symlinks and O_TRUNC. */
    if (rc == -EEXIST && !(fi->flags & O_EXCL))
        rc = -ESTALE;
    if (rc < 0) {
        reply_result(req, rc);
        return;
    }
    entry_of(adapter_of(req), &attr, &e);
    open_flags(fi);
    fuse_reply_create(req, &e, fi);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct adapter *a = adapter_of(req);
    struct fs_caller caller = caller_of(req);
    struct fs_attr attr;
    size_t len;
    int rc = check_name(a, parent, name, &len, -EEXIST);

    if (rc == 0)
        rc = fs_mkdir(a->fs, &caller, parent, name, len, S_IFDIR | (mode & ~(mode_t)S_IFMT), &attr);
    reply_entry(req, rc, &attr);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct adapter *a = adapter_of(req);
    struct fs_caller caller = caller_of(req);
    size_t len, target_len = strlen(target);
    struct fs_attr attr;
    int rc = check_name(a, parent, name, &len, -EEXIST);

    if (rc == 0 && target_len > FS_SYMLINK_MAX)
        rc = -ENAMETOOLONG;
    if (rc == 0)
        rc = fs_symlink(a->fs, &caller, parent, name, len, target, target_len, &attr);
    reply_entry(req, rc, &attr);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct adapter *a = adapter_of(req);
    struct fs_attr attr;
    size_t len;
    int rc = check_name(a, parent, name, &len, -EEXIST);

    if (rc == 0)
        rc = control_owns(ino) ? -EPERM : fs_link(a->fs, ino, parent, name, len, &attr);
    reply_entry(req, rc, &attr);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct adapter *a = adapter_of(req);
    size_t len;
    int rc = check_name(a, parent, name, &len, -EPERM);

    reply_result(req, rc < 0 ? rc : fs_unlink(a->fs, parent, name, len));
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct adapter *a = adapter_of(req);
    size_t len;
    int rc = check_name(a, parent, name, &len, -EPERM);

    reply_result(req, rc < 0 ? rc : fs_rmdir(a->fs, parent, name, len));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    struct adapter *a = adapter_of(req);
    struct fs_caller caller = caller_of(req);
    size_t len, new_len;
    int rc = check_name(a, parent, name, &len, -EPERM);

    if (rc == 0)
        rc = check_name(a, new_parent, new_name, &new_len, -EPERM);
    if (rc == 0)
        rc = fs_rename(a->fs, &caller, parent, name, len, new_parent, new_name, new_len, flags);
    reply_result(req, rc);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    char target[FS_SYMLINK_MAX + 1];
    size_t len = 0;
    int rc =
        control_owns(ino) ? -EINVAL : fs_readlink(adapter_of(req)->fs, ino, target, FS_SYMLINK_MAX, &len);

    if (rc < 0) {
        reply_result(req, rc);
        return;
    }
    target[len < FS_SYMLINK_MAX ? len : FS_SYMLINK_MAX] = '\0';
    fuse_reply_readlink(req, target);
}

/* ---- attributes ---------------------------------------------------------------------------- */

static void reply_attr(fuse_req_t req, int rc, const struct fs_attr *attr)
{
    struct stat st;

    if (rc < 0) {
        reply_result(req, rc);
        return;
    }
    stat_of(attr, &st);
    fuse_reply_attr(req, &st, lifetime(adapter_of(req)));
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct adapter *a = adapter_of(req);
    struct fs_attr attr;
    int rc;

    (void)fi;
    if (control_owns(ino))
        rc = a->control ? control_getattr(a->control, ino, &attr) : -ENOENT;
    else
        rc = fs_getattr(a->fs, ino, &attr);
    reply_attr(req, rc, &attr);
}

static unsigned set_of(int to_set)
{
    static const struct {
        int from;
        unsigned to;
    } map[] = {
        {FUSE_SET_ATTR_MODE, FS_SET_MODE},
        {FUSE_SET_ATTR_UID, FS_SET_UID},
        {FUSE_SET_ATTR_GID, FS_SET_GID},
        {FUSE_SET_ATTR_SIZE, FS_SET_SIZE},
        {FUSE_SET_ATTR_ATIME, FS_SET_ATIME},
        {FUSE_SET_ATTR_MTIME, FS_SET_MTIME},
        {FUSE_SET_ATTR_ATIME_NOW, FS_SET_ATIME_NOW},
        {FUSE_SET_ATTR_MTIME_NOW, FS_SET_MTIME_NOW},
        {FUSE_SET_ATTR_CTIME, FS_SET_CTIME},
    };
    unsigned set = 0;

    for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
        if (to_set & map[i].from)
            set |= map[i].to;
    if (set & FS_SET_ATIME_NOW)
        set &= ~(unsigned)FS_SET_ATIME; /* the kernel sends both */
    if (set & FS_SET_MTIME_NOW)
        set &= ~(unsigned)FS_SET_MTIME;
    return set;
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi)
{
    struct fs_attr in = {.mode = st->st_mode,
                         .uid = st->st_uid,
                         .gid = st->st_gid,
                         .size = (uint64_t)st->st_size,
                         .atime = st->st_atim,
                         .mtime = st->st_mtim,
                         .ctime = st->st_ctim};
    unsigned set = set_of(to_set);
    struct fs_attr attr;
    int rc;

    (void)fi;
    if (transport_request_flags() & TRANSPORT_KILL_SUIDGID)
        set |= FS_SET_KILL_SUIDGID;
    if (control_owns(ino))
        rc = -EPERM;
    else if (to_set & FUSE_SET_ATTR_SIZE && st->st_size < 0)
        rc = -EFBIG;
    else
        rc = fs_setattr(adapter_of(req)->fs, ino, set, &in, &attr);
    reply_attr(req, rc, &attr);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct fs_space space;
    struct statvfs st = {0};

    (void)ino;
    if (transport_nowait()) { /* it asks the disk, and may meet the reserve being taken */
        transport_defer(req);
        return;
    }
    int rc = fs_statfs(adapter_of(req)->fs, &space);
    if (rc < 0) {
        reply_result(req, rc);
        return;
    }
    st.f_bsize = st.f_frsize = space.block_bytes;
    st.f_blocks = space.total_bytes / space.block_bytes;
    st.f_bfree = st.f_bavail = space.free_bytes / space.block_bytes;
    st.f_namemax = FS_NAME_MAX; /* f_files stays 0: the number of files has no limit of its own */
    fuse_reply_statfs(req, &st);
}

/* ---- extended attributes ------------------------------------------------------------------- */

/* The kernel hands ACLs through that it does not check itself. */
static int refused(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    if (control_owns(ino))
        return -EPERM;
    return adapter_of(req)->noacl && strncmp(name, "system.", 7) == 0 ? -EOPNOTSUPP : 0;
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
                        int flags)
{
    int rc = refused(req, ino, name);

    if (transport_request_flags() & TRANSPORT_KILL_SGID)
        flags |= FS_XATTR_KILL_SGID;
    if (rc == 0)
        rc = fs_setxattr(adapter_of(req)->fs, ino, name, value, size, flags);
    reply_result(req, rc);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    int rc = refused(req, ino, name);

    reply_result(req, rc < 0 ? rc : fs_removexattr(adapter_of(req)->fs, ino, name));
}

/* The names without those that `refused` answers for. */
static int list_shown(struct fs *fs, fs_id ino, char *buf, size_t size, size_t *len)
{
    size_t all_len = 0, shown = 0;
    char *all = malloc(FS_XATTR_VALUE_MAX);
    int rc = all ? fs_listxattr(fs, ino, all, FS_XATTR_VALUE_MAX, &all_len) : -ENOMEM;

    for (size_t at = 0, n; rc == 0 && at < all_len; at += n) {
        n = strlen(all + at) + 1;
        if (strncmp(all + at, "system.", 7) == 0)
            continue;
        memmove(all + shown, all + at, n);
        shown += n;
    }
    if (rc == 0 && size && shown > size)
        rc = -ERANGE;
    if (rc == 0 && size)
        memcpy(buf, all, shown);
    *len = shown;
    free(all);
    return rc;
}

/* The value of `name`, or the list of names if that is NULL. */
static int fetch_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, char *buf, size_t size, size_t *len)
{
    struct fs *fs = adapter_of(req)->fs;

    *len = 0;
    if (control_owns(ino))
        return name ? -ENODATA : 0;
    if (name && refused(req, ino, name) < 0)
        return -EOPNOTSUPP;
    if (name) {
        int rc = fs_getxattr(fs, ino, name, buf, size, len);
        /* "None here" makes ls ask for each file; after this it asks no more. A label that is stored is given. */
        return rc == -ENODATA && !adapter_of(req)->selinux && strcmp(name, "security.selinux") == 0
                   ? -EOPNOTSUPP
                   : rc;
    }
    return adapter_of(req)->noacl ? list_shown(fs, ino, buf, size, len)
                                  : fs_listxattr(fs, ino, buf, size, len);
}

static void reply_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    char *buf = NULL;
    size_t len;
    int rc = -ENOMEM;

    if (size > FS_XATTR_VALUE_MAX) /* the kernel's limit, for lists as well */
        size = FS_XATTR_VALUE_MAX;
    if (size == 0 || (buf = malloc(size)) != NULL)
        rc = fetch_xattr(req, ino, name, buf, size, &len);
    if (rc < 0)
        reply_result(req, rc);
    else if (size == 0)
        fuse_reply_xattr(req, len);
    else
        fuse_reply_buf(req, buf, len);
    free(buf);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    reply_xattr(req, ino, name, size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size) { reply_xattr(req, ino, NULL, size); }

const struct fuse_lowlevel_ops adapter_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .mknod = op_mknod,
    .create = op_create,
    .mkdir = op_mkdir,
    .symlink = op_symlink,
    .link = op_link,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .rename = op_rename,
    .readlink = op_readlink,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .statfs = op_statfs,
    .setxattr = op_setxattr,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .removexattr = op_removexattr,
    .open = adapter_open,
    .release = adapter_release,
    .read = adapter_read,
    .write = adapter_write,
    .fsync = adapter_fsync,
    .fsyncdir = adapter_fsync,
    .fallocate = adapter_fallocate,
    .lseek = adapter_lseek,
    .opendir = adapter_opendir,
    .readdir = adapter_readdir,
    .readdirplus = adapter_readdirplus,
};
