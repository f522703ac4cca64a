/*
 * file.c - contents of files and symlinks: locks, checks and times; what is stored where is data.h's.
 */
#include "atime.h"
#include "change.h"
#include "data.h"
#include "nowait.h"
#include "record.h"
#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>

/* ---- damage ---- */

/* Contents that can't be read: the engine has named the place in its file, this names the object. */
static int note_damage(struct fs *fs, const struct inode *ino, uint64_t off, int r)
{
    char what[80];
    struct key key = key_plain(ino->attr.id, KEY_EXTENT);

    if (r != -EIO)
        return r;
    if (ino->layout == LAYOUT_SMALL)
        key = key_small(ino->home.parent, ino->home.hash, ino->home.index);
    snprintf(what, sizeof(what), "contents of inode %llu at offset %llu can't be read",
             (unsigned long long)ino->attr.id, (unsigned long long)off);
    return fs_damaged(fs, &key, what);
}

/* ---- reading ---- */

struct reading {
    struct lockset locks;
    struct inode_view view;
};

static int reading_begin(struct reading *rd, struct fs *fs, fs_id id)
{
    struct itable_info info;

    memset(&rd->view, 0, sizeof(rd->view));
    lockset_init(&rd->locks, fs->locks);
    lockset_inode(&rd->locks, id, false);
    int r = lockset_acquire(&rd->locks);
    if (r < 0)
        return r;
    if (!itable_find(fs->inodes, id, &info))
        return -ESTALE;
    return inode_view(fs, id, &info, &rd->view);
}

static void reading_end(struct reading *rd)
{
    lockset_release(&rd->locks);
    inode_view_release(&rd->view);
}

static int check_regular(uint32_t mode)
{
    if (S_ISDIR(mode))
        return -EISDIR;
    return S_ISREG(mode) ? 0 : -EINVAL;
}

int fs_read(struct fs *fs, fs_id id, uint64_t off, void *buf, size_t len, size_t *got)
{
    struct reading rd;

    *got = 0;
    int r = reading_begin(&rd, fs, id);
    if (r == 0)
        r = check_regular(rd.view.ino.attr.mode);
    if (r == 0)
        r = note_damage(fs, &rd.view.ino, off, data_read(fs->db, &rd.view.ino, off, buf, len, got));
    struct fs_attr seen = rd.view.ino.attr;
    reading_end(&rd);
    return r == 0 && len > 0 ? atime_touch(fs, &seen) : r;
}

int fs_readlink(struct fs *fs, fs_id id, char *buf, size_t size, size_t *len)
{
    struct reading rd;
    size_t got;

    *len = 0;
    int r = reading_begin(&rd, fs, id);
    if (r == 0 && !S_ISLNK(rd.view.ino.attr.mode))
        r = -EINVAL;
    if (r == 0)
        r = note_damage(fs, &rd.view.ino, 0, data_read(fs->db, &rd.view.ino, 0, buf, size, &got));
    if (r == 0)
        *len = rd.view.ino.attr.size;
    struct fs_attr seen = rd.view.ino.attr;
    reading_end(&rd);
    return r == 0 ? atime_touch(fs, &seen) : r;
}

int fs_seek(struct fs *fs, fs_id id, uint64_t off, int whence, uint64_t *out)
{
    struct reading rd;

    int r = reading_begin(&rd, fs, id);
    if (r == 0)
        r = check_regular(rd.view.ino.attr.mode);
    if (r == 0)
        r = note_damage(fs, &rd.view.ino, off, data_seek(fs->db, &rd.view.ino, off, whence, out));
    reading_end(&rd);
    return r;
}

/* ---- writing ---- */

/* A compaction moved what a write was to name, between looking it up and the commit: that can't happen so often. */
#define WRITE_TRIES 10u

static int write_begun(struct change *c, uint64_t off, const void *buf, size_t len)
{
    int r = check_regular(c->ino.attr.mode);
    if (r == 0 && off + len > c->ino.attr.size)
        r = truncate_retry(c->fs, &c->ino, c->batch);
    if (r == 0 && c->ino.layout == LAYOUT_EXTENTS &&
        off < c->ino.attr.size) /* it may leave parts of extents */
        r = fs_require(c->fs, SUPER_INCOMPAT_PARTS);
    if (r == 0)
        r = note_damage(c->fs, &c->ino, off, data_write(c->fs->db, &c->ino, off, buf, len, c->batch));
    if (r < 0)
        return r;
    c->ino.attr.mtime = c->ino.attr.ctime = c->now;
    return change_commit(c);
}

static int try_write(struct fs *fs, fs_id id, uint64_t off, const void *buf, size_t len, bool privileged)
{
    struct change c;

    int r = change_begin(&c, fs, id);
    if (r == 0 && !privileged)
        change_kill_suidgid(&c);
    if (r == 0)
        r = write_begun(&c, off, buf, len);
    change_end(&c);
    return r;
}

static int write_by(struct fs *fs, fs_id id, uint64_t off, const void *buf, size_t len, bool privileged)
{
    int r = -ERESTART;

    if (len > FS_WRITE_MAX)
        return -EINVAL;
    if (off > FS_SIZE_MAX || len > FS_SIZE_MAX - off)
        return -EFBIG;
    if (len == 0)
        return 0;
    for (unsigned i = 0; r == -ERESTART && i < WRITE_TRIES; i++)
        r = try_write(fs, id, off, buf, len, privileged);
    return r == -ERESTART ? -EIO : r;
}

int fs_write(struct fs *fs, fs_id id, uint64_t off, const void *buf, size_t len)
{
    return write_by(fs, id, off, buf, len, true);
}

int fs_write_unprivileged(struct fs *fs, fs_id id, uint64_t off, const void *buf, size_t len)
{
    return write_by(fs, id, off, buf, len, false);
}

/* ---- fallocate ---- */

/*
 * Makes a hole, each DATA_STEP extents a commit of its own: a crash may leave a part of it, as on any
 * filesystem. Space is not reserved: a later write may still meet ENOSPC, as on others that never overwrite.
 */
static int punch(struct change *c, uint64_t off, uint64_t len)
{
    uint64_t end = off + len, next = off;
    int r = 0;

    c->shrinks = true;

    while (r == 0 && next < end) {
        r = note_damage(c->fs, &c->ino, next,
                        data_punch(c->fs->db, &c->ino, next, end - next, c->batch, &next));
        c->ino.attr.mtime = c->ino.attr.ctime = c->now;
        if (r == 0 && next < end)
            r = nowait_on() ? -EAGAIN : change_commit(c);
    }
    return r; /* the last step goes with the new size */
}

static int allocate_begun(struct change *c, int mode, uint64_t off, uint64_t len)
{
    bool keep = mode & FALLOC_FL_KEEP_SIZE, more = false;
    uint64_t end = off + len, size = c->ino.attr.size;

    if (S_ISDIR(c->ino.attr.mode))
        return -EISDIR;
    if (S_ISFIFO(c->ino.attr.mode))
        return -ESPIPE;
    if (!S_ISREG(c->ino.attr.mode))
        return -ENODEV;
    if (mode == FALLOC_FL_KEEP_SIZE)
        return 0; /* a hint only */
    bool grows = !keep && end > size;
    int r = grows ? truncate_retry(c->fs, &c->ino, c->batch) : 0;
    uint64_t hole_end = end < size ? end : size;
    if (r == 0 && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && off < hole_end)
        r = punch(c, off, hole_end - off);
    c->shrinks &= !grows; /* ENOSPC is what fallocate is called for */
    if (r == 0 && grows)
        r = data_truncate(c->fs->db, &c->ino, end, c->batch, &more);
    if (r < 0)
        return r;
    c->ino.attr.mtime = c->ino.attr.ctime = c->now;
    return change_commit(c);
}

int fs_fallocate(struct fs *fs, fs_id id, int mode, uint64_t off, uint64_t len)
{
    struct change c;

    switch (mode) {
    case 0:
    case FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE:
    case FALLOC_FL_ZERO_RANGE:
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE: break;
    default: return -EOPNOTSUPP;
    }
    if (len == 0)
        return -EINVAL;
    if (off > FS_SIZE_MAX || len > FS_SIZE_MAX - off)
        return -EFBIG;
    int r = change_begin(&c, fs, id);
    if (r == 0)
        r = allocate_begun(&c, mode, off, len);
    change_end(&c);
    return r;
}
