/*
 * store.h - private: an open filesystem, and what all of its operations use.
 *
 * Threads: the fields above the line are set by fs_open and never change.
 */
#ifndef FS_STORE_H
#define FS_STORE_H

#include "bucket.h"
#include "env.h"
#include "ids.h"
#include "inode.h"
#include "itable.h"
#include "locks.h"
#include "orphan.h"
#include <pthread.h>

struct fs {
    struct lsm *db;
    struct env *env;
    char *path;
    bool read_only, noatime;
    uint64_t hash_seed, hash_mask;
    uint64_t incompat; /* atomic: features that the superblock names */
    uint64_t inode_bytes_max;
    void (*log)(void *arg, enum lsm_log_level level, const char *message);
    void *log_arg;
    struct itable *inodes;
    struct locks *locks;
    /* ---- */
    struct ids ids;
    struct reaper *reaper;
    pthread_mutex_t dir_rename; /* held while a directory changes its parent; before all other locks */
    uint64_t truncates_stuck;   /* atomic: truncations that met an error and are still pending */
};

__attribute__((format(printf, 3, 4))) void fs_log(struct fs *fs, enum lsm_log_level level, const char *format,
                                                  ...);

/* Reports damage below `key` and returns -EIO. All damage that fs/ finds passes through here. */
int fs_damaged(struct fs *fs, const struct key *key, const char *what);

/* Sets what makes a store of ours: where keys are routed, how TOUCH operands are folded. */
void fs_lsm_options(struct lsm_options *lsm);

/*
 * Before the first use of an incompatible feature: names it in the superblock, once in a store's life. It is in the log before
 * what uses it, and so on the medium. -EAGAIN where waiting is not allowed.
 */
int fs_require(struct fs *fs, uint64_t feature);

struct timespec fs_now(struct fs *fs);

/* An iterator over the keys of one id from lower, to upper exclusively. */
int fs_scan(struct fs *fs, const struct key *lower, const struct key *upper, struct lsm_iter **out);

/* The bucket of a name. */
uint64_t fs_name_hash(const struct fs *fs, const char *name, size_t len);

/* 0, -EINVAL (empty, '/', NUL) or -ENAMETOOLONG; `dots` is what "." and ".." are here. */
int fs_name_check(const char *name, size_t len, int dots);

/* 0 if id is a live directory; -ENOTDIR, -ENOENT (removed), -ESTALE (no reference). Its lock is held. */
int fs_dir_check(struct fs *fs, fs_id id, struct itable_info *info);

/* ---- inodes ---- */

/*
 * An inode as it is stored: data and xattrs are borrowed from `pin`, from the bucket or from the
 * inode in memory, so it is for reading. Release in any case. The caller holds the inode's lock or
 * that of the directory of a name of it, either shared.
 */
struct inode_view {
    struct inode ino;
    struct lsm_value pin;
};
int inode_view(struct fs *fs, fs_id id, const struct itable_info *info, struct inode_view *out);
/* The inode of an entry; the bucket must outlive the view. */
int inode_view_entry(struct fs *fs, const struct bucket *b, const struct bucket_entry *e,
                     struct inode_view *out);
void inode_view_release(struct inode_view *view);

/* What the table should say about an inode with a name. */
struct itable_info inode_info(const struct inode *ino);

/* The same with memory of its own, to be changed; release with inode_release. */
int inode_load(struct fs *fs, fs_id id, const struct itable_info *info, struct inode *out);
int inode_load_entry(struct fs *fs, const struct bucket *b, const struct bucket_entry *e, struct inode *out);
int inode_clone(struct inode *to, const struct inode *from);
int inode_clone_new(const struct inode *from, struct inode **out); /* malloc'ed */

/*
 * Adds the record to a batch, at its home; for HOME_MEMORY there is nothing to add. The caller holds
 * the inode exclusively and, for HOME_ENTRY, its bucket. -EIO, -ENOMEM
 */
int inode_store(struct fs *fs, const struct inode *ino, struct lsm_batch *batch);

#endif
