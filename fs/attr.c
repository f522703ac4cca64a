/*
 * attr.c - reading and setting attributes, and access times.
 */
#include "atime.h"
#include "change.h"
#include "data.h"
#include "mutant.h"
#include "nowait.h"
#include <errno.h>

#define ATIME_MAX_AGE_SECONDS (24 * 60 * 60)

int fs_getattr(struct fs *fs, fs_id id, struct fs_attr *out)
{
    struct lockset locks;
    struct itable_info info;
    struct inode_view v = {.pin = {0}};

    lockset_init(&locks, fs->locks);
    lockset_inode(&locks, id, false);
    int r = lockset_acquire(&locks);
    if (r == 0)
        r = itable_find(fs->inodes, id, &info) ? inode_view(fs, id, &info, &v) : -ESTALE;
    if (r == 0)
        *out = v.ino.attr;
    lockset_release(&locks);
    inode_view_release(&v);
    return r;
}

/* ---- setattr ---- */

static void set_times(struct fs_attr *a, unsigned set, const struct fs_attr *in, struct timespec now)
{
    if (set & FS_SET_SIZE)
        a->mtime = now;
    if (set & FS_SET_ATIME)
        a->atime = in->atime;
    if (set & FS_SET_MTIME)
        a->mtime = in->mtime;
    if (set & FS_SET_ATIME_NOW)
        a->atime = now;
    if (set & FS_SET_MTIME_NOW)
        a->mtime = now;
    if (!mutant("setattr keeps the change time"))
        a->ctime = set & FS_SET_CTIME ? in->ctime : now;
}

static bool time_valid(const struct timespec *t) { return t->tv_nsec >= 0 && t->tv_nsec < 1000000000; }

static int check_set(unsigned set, const struct fs_attr *in)
{
    if ((set & FS_SET_ATIME && !time_valid(&in->atime)) || (set & FS_SET_MTIME && !time_valid(&in->mtime)) ||
        (set & FS_SET_CTIME && !time_valid(&in->ctime)))
        return -EINVAL;
    return set & FS_SET_SIZE && in->size > FS_SIZE_MAX ? -EFBIG : 0;
}

static int set_size(struct change *c, uint64_t size, bool *more)
{
    if (S_ISDIR(c->ino.attr.mode))
        return -EISDIR;
    if (!S_ISREG(c->ino.attr.mode))
        return -EINVAL;
    int r = size > c->ino.attr.size ? truncate_retry(c->fs, &c->ino, c->batch) : 0;
    if (r == 0)
        r = data_truncate(c->fs->db, &c->ino, size, c->batch, more);
    if (r == 0 && *more)
        truncate_put(c->fs, &c->ino, c->batch);
    return r;
}

static int set_all(struct change *c, unsigned set, const struct fs_attr *in)
{
    struct fs_attr *a = &c->ino.attr;
    bool more = false;
    int r = 0;

    if (set & FS_SET_SIZE)
        r = set_size(c, in->size, &more);
    if (r < 0)
        return r;
    if (set & FS_SET_MODE)
        a->mode = (a->mode & S_IFMT) | (in->mode & 07777);
    if (set & FS_SET_UID)
        a->uid = in->uid;
    if (set & FS_SET_GID)
        a->gid = in->gid;
    if (set & FS_SET_KILL_SUIDGID)
        change_kill_suidgid(c);
    set_times(a, set, in, c->now);
    c->shrinks = true;       /* longer, a file has a hole at its end */
    if (more && nowait_on()) /* several commits, which can't be run again after the first */
        return -EAGAIN;
    if (mutant("contents are cut before the size is set")) {
        r = lsm_commit(c->fs->db, c->batch, 0);
        lsm_batch_clear(c->batch);
    }
    if (r == 0)
        r = change_commit(c);
    if (r < 0 || !more)
        return r;
    r = truncate_finish(c->fs, &c->ino, c->batch);
    if (r < 0) /* the size is set; what lies beyond it must not come back */
        __atomic_fetch_add(&c->fs->truncates_stuck, 1, __ATOMIC_RELEASE);
    c->ino.attr.blocks = inode_blocks(&c->ino);
    return r;
}

int fs_setattr(struct fs *fs, fs_id id, unsigned set, const struct fs_attr *in, struct fs_attr *out)
{
    struct change c;

    int r = check_set(set, in);
    if (r < 0)
        return r;
    r = change_begin(&c, fs, id);
    if (r == 0)
        r = set_all(&c, set, in);
    if (r == 0 && out)
        *out = c.ino.attr;
    change_end(&c);
    return r;
}

/* ---- access times ---- */

static bool not_after(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec < b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec <= b->tv_nsec);
}

static bool atime_due(const struct fs_attr *a, const struct timespec *now)
{
    return not_after(&a->atime, &a->mtime) || not_after(&a->atime, &a->ctime) ||
           now->tv_sec - a->atime.tv_sec >= ATIME_MAX_AGE_SECONDS;
}

int atime_touch(struct fs *fs, const struct fs_attr *seen)
{
    struct timespec now;
    struct change c;

    if (fs->noatime)
        return 0;
    now = fs_now(fs);
    if (!atime_due(seen, &now))
        return 0;
    int r = change_begin(&c, fs, seen->id);
    if (r == 0 && atime_due(&c.ino.attr, &c.now)) {
        c.ino.attr.atime = c.now;
        r = change_commit(&c);
    }
    change_end(&c);
    return r == -EAGAIN ? r : 0; /* an access time is not worth failing a read */
}

int atime_touch_dir(struct fs *fs, fs_id id)
{
    struct fs_attr attr;
    int r = fs->noatime ? 0 : fs_getattr(fs, id, &attr);

    if (r < 0)
        return r == -EAGAIN ? r : 0;
    bool listed = !fs->noatime && S_ISDIR(attr.mode) && attr.nlink > 0; /* else there is nothing to read */
    return listed ? atime_touch(fs, &attr) : 0;
}
