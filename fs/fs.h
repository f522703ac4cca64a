/*
 * fs.h - the filesystem proper: a tree of files and directories kept in an lsm store.
 *
 * Nothing here knows FUSE: the daemon, the command-line tools and the tests call the same
 * functions. Nothing here checks permissions either: the kernel does (default_permissions), and
 * tools run as the store's owner.
 *
 * Objects are named by id, a 64-bit inode number that is never reused. An operation that returns
 * an id in a `struct fs_attr` through lookup, creation or readdir-plus takes one reference on it;
 * fs_forget gives references back. An id may be passed in only while a reference is held (the root
 * needs none). An unlinked file lives on until its last reference goes.
 *
 * Errors: 0 or a negative errno, those of the system call of the same name, plus -EIO (damage,
 * medium), -EROFS (mounted so, or the store turned read-only) and -ENOSPC.
 *
 * Durability: a change is visible when the call returns, survives the death of the process, and is
 * on the medium after the next fs_sync. After a crash the tree is one moment of its history.
 *
 * Threads: every function from any thread. Lock order, here and in everything below it: inode
 * locks by stripe, then entry (bucket) locks by stripe, then the inode table's, then the engine's.
 * Callbacks run without any lock held unless it says otherwise.
 */
#ifndef FS_FS_H
#define FS_FS_H

#include <shale/lsm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

struct fs;
typedef uint64_t fs_id;

#define FS_ID_ROOT UINT64_C(1)
#define FS_ID_CONTROL_FIRST UINT64_C(8) /* 8..15 are never stored: for a control directory above us */
#define FS_ID_CONTROL_LAST UINT64_C(15)
#define FS_ID_TEXT_FIRST ((UINT64_C(1) << 52) - (1u << 20)) /* nor are these: for what that directory shows */
#define FS_ID_TEXT_LAST ((UINT64_C(1) << 52) - 1)

#define FS_NAME_MAX 255u
#define FS_LINK_MAX 1000000u /* names of one file */
#define FS_SYMLINK_MAX 4095u
#define FS_XATTR_NAME_MAX 255u
#define FS_XATTR_VALUE_MAX 65536u
#define FS_WRITE_MAX (1u << 20) /* bytes of one fs_write: it is one atomic batch */
#define FS_SIZE_MAX INT64_MAX

/*
 * From now on what the calling thread does never waits for the disk, a lock or room: what would have to
 * returns -EAGAIN, having changed nothing, and can be called again where waiting is allowed. Off to begin with.
 * fs_sync waits all the same; fs_sync_async and fs_forget never do.
 */
void fs_nowait(bool on);

struct fs_options {
    struct lsm_options lsm; /* flags, memory, log, env...; route, merge and callback_arg are set by fs_open */
    bool noatime;           /* never update atime on read; default is relatime */
    size_t inode_bytes;     /* our share of memory for the inode table; 0: an eighth of lsm.memory_bytes */
    unsigned test_hash_bits; /* tests only: keep just this many bits of a name's hash; 0: all 56 */
};

struct fs_attr {
    fs_id id;
    uint32_t mode; /* type and permissions, as st_mode */
    uint32_t nlink, uid, gid;
    uint64_t rdev;   /* dev_t of a device node */
    uint64_t size;   /* bytes */
    uint64_t blocks; /* of 512 bytes, as stored: holes take none */
    struct timespec atime, mtime, ctime, btime;
};

/* Who asks: owner of new files, and what these don't permit unless their directory's default ACL says it. */
struct fs_caller {
    uint32_t uid, gid;
    uint32_t umask;
};

/*
 * Opens the store at `path`, creating it with LSM_CREATE in lsm.flags. -ENOTDIR, -ENOTEMPTY: the
 * path is something else. Finishes removals that a crash interrupted (unless read-only).
 * Starts one thread for removing contents, unless LSM_INLINE.
 */
int fs_open(const char *path, const struct fs_options *options, struct fs **out);
int fs_close(struct fs *fs);
struct lsm *fs_lsm(struct fs *fs); /* for statistics and raw scans */

/* ---- names ---- */

int fs_lookup(struct fs *fs, fs_id parent, const char *name, size_t len, struct fs_attr *out);
void fs_forget(struct fs *fs, fs_id id, uint64_t count);

/* Regular file, fifo, socket or device. -EEXIST. Of mode, what the caller's umask or the directory's default ACL takes
 * away is taken away here. */
int fs_mknod(struct fs *fs, const struct fs_caller *caller, fs_id parent, const char *name, size_t len,
             uint32_t mode, uint64_t rdev, struct fs_attr *out);
int fs_mkdir(struct fs *fs, const struct fs_caller *caller, fs_id parent, const char *name, size_t len,
             uint32_t mode, struct fs_attr *out);
int fs_symlink(struct fs *fs, const struct fs_caller *caller, fs_id parent, const char *name, size_t len,
               const char *target, size_t target_len, struct fs_attr *out);
int fs_link(struct fs *fs, fs_id id, fs_id parent, const char *name, size_t len, struct fs_attr *out);
int fs_unlink(struct fs *fs, fs_id parent, const char *name, size_t len);
int fs_rmdir(struct fs *fs, fs_id parent, const char *name, size_t len);
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT of <linux/fs.h>; others -EINVAL. */
int fs_rename(struct fs *fs, const struct fs_caller *caller, fs_id parent, const char *name, size_t len,
              fs_id new_parent, const char *new_name, size_t new_len, unsigned flags);
/* Copies at most size bytes of the target (no NUL); *len is its whole length. */
int fs_readlink(struct fs *fs, fs_id id, char *buf, size_t size, size_t *len);

/*
 * Calls `fn` for each entry after position `off` (0: from the start; "." and ".." come first) until
 * it returns false: the entry it returned false for counts as not delivered. With `plus` attr is
 * filled and, if fn returned true, a reference taken on the entry, except on "." and "..";
 * otherwise only attr->id and the type bits of attr->mode are. The same, with nlink 0 and no reference,
 * goes for an entry whose inode can't be read: it is damaged, the others are not. `next` is the position after
 * the entry: unique, stable, valid for ever. fn runs with the directory locked: it must only copy.
 */
typedef bool (*fs_readdir_fn)(void *arg, const char *name, size_t len, uint64_t next,
                              const struct fs_attr *attr);
int fs_readdir(struct fs *fs, fs_id id, uint64_t off, bool plus, fs_readdir_fn fn, void *arg);

/* ---- attributes ---- */

int fs_getattr(struct fs *fs, fs_id id, struct fs_attr *out);

enum fs_set {
    FS_SET_MODE = 1u << 0, /* permissions only */
    FS_SET_UID = 1u << 1,
    FS_SET_GID = 1u << 2,
    FS_SET_SIZE = 1u << 3,
    FS_SET_ATIME = 1u << 4,
    FS_SET_MTIME = 1u << 5,
    FS_SET_CTIME = 1u << 6, /* else ctime becomes now */
    FS_SET_ATIME_NOW = 1u << 7,
    FS_SET_MTIME_NOW = 1u << 8,
    /* Takes setuid away, and setgid if the group may execute, after what else is set: who asks has no CAP_FSETID, or
     * the file changes hands. Not on directories. */
    FS_SET_KILL_SUIDGID = 1u << 9,
};
/* The fields named by `set` are taken from `in`; *out (may be NULL) is the result. */
int fs_setattr(struct fs *fs, fs_id id, unsigned set, const struct fs_attr *in, struct fs_attr *out);

/*
 * size 0: only the length. -ENODATA, -ERANGE, -E2BIG. flags: XATTR_CREATE, XATTR_REPLACE. Namespaces user., trusted.,
 * security.; others are -EOPNOTSUPP. user. only on files and directories (-EPERM).
 * And the two ACLs, system.posix_acl_access and, of directories, system.posix_acl_default (-EACCES): -EINVAL if it is
 * none. Setting an access ACL sets the mode, and what is read of one follows the mode (acl.h). flags are ignored but for
 * FS_XATTR_KILL_SGID: the setgid bit goes, since who asks is not of the file's group.
 */
#define FS_XATTR_KILL_SGID 0x100
int fs_setxattr(struct fs *fs, fs_id id, const char *name, const void *value, size_t len, int flags);
int fs_getxattr(struct fs *fs, fs_id id, const char *name, void *buf, size_t size, size_t *len);
int fs_listxattr(struct fs *fs, fs_id id, char *buf, size_t size, size_t *len); /* NUL-terminated names */
int fs_removexattr(struct fs *fs, fs_id id, const char *name);

/* ---- contents ---- */

/* Fewer bytes than asked for only at end of file; holes read as zeros. */
int fs_read(struct fs *fs, fs_id id, uint64_t off, void *buf, size_t len, size_t *got);
/* All or nothing, at most FS_WRITE_MAX. -EFBIG beyond FS_SIZE_MAX. */
int fs_write(struct fs *fs, fs_id id, uint64_t off, const void *buf, size_t len);
/* The same by somebody without CAP_FSETID: setuid and setgid go with it, as by FS_SET_KILL_SUIDGID. */
int fs_write_unprivileged(struct fs *fs, fs_id id, uint64_t off, const void *buf, size_t len);
/* mode: 0, FALLOC_FL_KEEP_SIZE, with FALLOC_FL_PUNCH_HOLE or FALLOC_FL_ZERO_RANGE; others -EOPNOTSUPP. */
int fs_fallocate(struct fs *fs, fs_id id, int mode, uint64_t off, uint64_t len);
/* whence: SEEK_DATA or SEEK_HOLE. -ENXIO. */
int fs_seek(struct fs *fs, fs_id id, uint64_t off, int whence, uint64_t *out);

/* ---- the whole ---- */

int fs_sync(struct fs *fs); /* everything that returned before the call is on the medium */
void fs_sync_async(struct fs *fs, void (*done)(void *arg, int result), void *arg);

struct fs_space {
    uint64_t block_bytes, total_bytes, free_bytes;
};
int fs_statfs(struct fs *fs, struct fs_space *out);

struct fs_stats {
    uint64_t inodes, inode_bytes, inode_bytes_max; /* in the table */
    uint64_t orphans;                              /* unlinked, still referenced */
};
void fs_stats_get(struct fs *fs, struct fs_stats *out);

/*
 * Cold inodes for the kernel to forget: up to max non-directories from the table, with the
 * name by which it knows them. Returns how many. For the daemon's reclaim thread; takes no reference.
 */
struct fs_cold {
    fs_id parent;
    char name[FS_NAME_MAX + 1];
    size_t len;
};
size_t fs_cold_inodes(struct fs *fs, struct fs_cold *out, size_t max);

/* Removes what is left of deleted files, one bounded step; 1 if there was something. For LSM_INLINE. */
int fs_work(struct fs *fs);

/* Resolves an absolute path ("/a/b"; extra slashes, no "..", symlinks in the middle are not followed: -ELOOP) for tools.
 * Takes a reference on the result. */
int fs_walk(struct fs *fs, const char *path, struct fs_attr *out);

#endif
