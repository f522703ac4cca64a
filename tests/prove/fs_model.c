/*
 * fs_model.c - what the calls of fs.h do to a tree of fs_tree.h.
 */
#include "fs_tree.h"

#include "record.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/xattr.h>

#define DAY_SECONDS (24 * 60 * 60)

static bool is_dir(const struct tree *t, unsigned i) { return S_ISDIR(t->node[i]->attr.mode); }

/* ---- names ---- */

static int dir_error(const struct tree *t, unsigned dir)
{
    if (!is_dir(t, dir))
        return -ENOTDIR;
    return t->node[dir]->attr.nlink == 0 ? -ENOENT : 0;
}

static void touch(struct tree *t, unsigned dir, struct timespec now)
{
    struct fs_attr *a = &tree_own(t, dir)->attr;

    a->mtime = a->ctime = now;
}

static void name_add(struct tree *t, unsigned dir, unsigned name, unsigned i, struct timespec now)
{
    touch(t, dir, now);
    t->child[dir][name] = (uint8_t)i;
    t->node[dir]->attr.size += tree_name(name).len + DIR_ENTRY_BYTES;
    t->node[dir]->attr.nlink += is_dir(t, i);
}

static void name_remove(struct tree *t, unsigned dir, unsigned name, struct timespec now)
{
    touch(t, dir, now);
    t->node[dir]->attr.size -= tree_name(name).len + DIR_ENTRY_BYTES;
    t->node[dir]->attr.nlink -= is_dir(t, t->child[dir][name]);
    t->child[dir][name] = 0;
}

/* An inode has lost a name. */
static void lose_link(struct tree *t, unsigned i, struct timespec now)
{
    struct fs_attr *a = &tree_own(t, i)->attr;

    a->ctime = now;
    a->nlink = S_ISDIR(a->mode) ? 0 : a->nlink - 1;
    if (S_ISDIR(a->mode))
        a->size = 0;
}

static unsigned entries(const struct tree *t, unsigned dir)
{
    unsigned n = 0;

    for (unsigned k = 0; k < TREE_NAMES; k++)
        n += t->child[dir][k] != 0;
    return n;
}

/* ---- ACLs ---- */

/* Where the permissions of the first, the last but one (mask, or the group's), and the last entry stand. */
static size_t acl_at(const struct bytes *acl, unsigned which)
{
    size_t entries = (acl->len - 4) / 8;
    size_t index = which == 0 ? 0 : entries - 3 + which;

    return 4 + 8 * index + 2;
}

struct bytes *acl_random(unsigned users, uint64_t seed)
{
    struct bytes *b = bytes_new(4 + 8 * (users + 3 + (users > 0))), *draw = bytes_random(b->len, seed);
    uint8_t tags[400] = {1};

    memset(tags + 1, 2, users);
    memcpy(tags + 1 + users, users ? "\4\20\40" : "\4\40", 3);
    b->at[0] = 2;
    for (size_t i = 0; 4 + 8 * i < b->len; i++) {
        b->at[4 + 8 * i] = tags[i];
        b->at[4 + 8 * i + 2] = draw->at[4 + 8 * i] & 7;
        memcpy(b->at + 4 + 8 * i + 4, draw->at + 4 + 8 * i + 4, 3);
    }
    bytes_unref(draw);
    return bytes_done(b);
}

static uint32_t acl_mode_bits(const struct bytes *acl)
{
    return (uint32_t)acl->at[acl_at(acl, 0)] << 6 | (uint32_t)acl->at[acl_at(acl, 1)] << 3 |
           acl->at[acl_at(acl, 2)];
}

/* What is read of an access ACL says what the mode does. */
static void acl_follow(struct node *n)
{
    struct bytes *was = n->xattr[TREE_ACL_ACCESS];

    if (!was)
        return;
    struct bytes *b = bytes_new(was->len);
    memcpy(b->at, was->at, was->len);
    for (unsigned k = 0; k < 3; k++)
        b->at[acl_at(b, k)] = n->attr.mode >> (6 - 3 * k) & 7;
    bytes_unref(was);
    n->xattr[TREE_ACL_ACCESS] = bytes_done(b);
}

static void acl_inherit(struct node *n, struct bytes *acl, uint32_t umask)
{
    if (S_ISLNK(n->attr.mode))
        return;
    if (!acl) {
        n->attr.mode &= ~umask;
        return;
    }
    n->attr.mode &= ~0777u | acl_mode_bits(acl);
    if (acl->len > 4 + 3 * 8) {
        acl->refs++;
        n->xattr[TREE_ACL_ACCESS] = acl;
        acl_follow(n);
    }
    if (S_ISDIR(n->attr.mode)) {
        acl->refs++;
        n->xattr[TREE_ACL_DEFAULT] = acl;
    }
}

int tree_setacl(struct tree *t, unsigned i, unsigned which, struct bytes *acl, struct timespec now)
{
    uint32_t type = t->node[i]->attr.mode & S_IFMT;
    int err = type == S_IFLNK ? -EOPNOTSUPP : which == TREE_ACL_DEFAULT && type != S_IFDIR ? -EACCES : 0;

    if (err) {
        bytes_unref(acl);
        return err;
    }
    struct node *n = tree_own(t, i);
    n->attr.ctime = now;
    bytes_unref(n->xattr[which]);
    n->xattr[which] = acl;
    if (which == TREE_ACL_DEFAULT)
        return 0;
    n->attr.mode = (n->attr.mode & ~0777u) | acl_mode_bits(acl);
    if (acl->len == 4 + 3 * 8) { /* the mode says it all */
        bytes_unref(acl);
        n->xattr[which] = NULL;
    }
    return 0;
}

/* ---- names ---- */

int tree_create(struct tree *t, const struct tree_create *c, struct timespec now, unsigned *out)
{
    int err = dir_error(t, c->dir);

    if (err == 0 && t->child[c->dir][c->name])
        err = -EEXIST;
    if (err) {
        bytes_unref(c->target);
        return err;
    }
    unsigned i = *out = tree_add(t, c->mode);
    struct fs_attr *a = &t->node[i]->attr;
    a->nlink = S_ISDIR(a->mode) ? 2 : 1;
    a->uid = c->caller.uid;
    a->gid = c->caller.gid;
    a->rdev = S_ISCHR(a->mode) || S_ISBLK(a->mode) ? c->rdev : 0;
    a->atime = a->mtime = a->ctime = a->btime = now;
    if (t->node[c->dir]->attr.mode & S_ISGID) {
        a->gid = t->node[c->dir]->attr.gid;
        a->mode |= S_ISDIR(a->mode) ? S_ISGID : 0;
    }
    acl_inherit(t->node[i], t->node[c->dir]->xattr[TREE_ACL_DEFAULT], c->caller.umask);
    t->node[i]->content = c->target;
    a->size = c->target ? c->target->len : 0;
    name_add(t, c->dir, c->name, i, now);
    return 0;
}

int tree_link(struct tree *t, unsigned i, unsigned dir, unsigned name, struct timespec now)
{
    int err = dir_error(t, dir);

    if (err == 0 && is_dir(t, i))
        err = -EPERM;
    if (err == 0 && t->node[i]->attr.nlink == 0)
        err = -ENOENT;
    if (err == 0 && t->child[dir][name])
        err = -EEXIST;
    if (err)
        return err;
    struct fs_attr *a = &tree_own(t, i)->attr;
    a->nlink++;
    a->ctime = now;
    name_add(t, dir, name, i, now);
    return 0;
}

int tree_remove(struct tree *t, unsigned dir, unsigned name, bool rmdir, struct timespec now)
{
    int err = dir_error(t, dir);
    unsigned i = err ? 0 : t->child[dir][name];

    if (err == 0 && !i)
        err = -ENOENT;
    if (err == 0 && rmdir)
        err = !is_dir(t, i) ? -ENOTDIR : entries(t, i) ? -ENOTEMPTY : 0;
    else if (err == 0)
        err = is_dir(t, i) ? -EISDIR : 0;
    if (err)
        return err;
    name_remove(t, dir, name, now);
    lose_link(t, i, now);
    return 0;
}

static bool lies_in(const struct tree *t, unsigned dir, unsigned top)
{
    unsigned name;

    while (dir != top) {
        unsigned i = dir;
        if (!tree_place(t, i, &dir, &name))
            return false;
    }
    return true;
}

static int rename_error(const struct tree *t, unsigned from, unsigned f, unsigned to, unsigned o,
                        unsigned flags)
{
    bool exchange = flags & RENAME_EXCHANGE;

    if (!f || (exchange && !o))
        return -ENOENT;
    if (o && flags & RENAME_NOREPLACE)
        return -EEXIST;
    if (from != to && is_dir(t, f) && lies_in(t, to, f))
        return -EINVAL;
    if (from != to && exchange && is_dir(t, o) && lies_in(t, from, o))
        return -EINVAL;
    if (!o || o == f || exchange)
        return 0;
    if (is_dir(t, f) != is_dir(t, o))
        return is_dir(t, f) ? -ENOTDIR : -EISDIR;
    return is_dir(t, o) && entries(t, o) ? -ENOTEMPTY : 0;
}

static void add_whiteout(struct tree *t, unsigned dir, unsigned name, const struct fs_caller *caller,
                         struct timespec now)
{
    unsigned i = tree_add(t, S_IFCHR);
    struct fs_attr *a = &t->node[i]->attr;

    a->nlink = 1;
    a->uid = caller->uid;
    a->gid = t->node[dir]->attr.mode & S_ISGID ? t->node[dir]->attr.gid : caller->gid;
    a->atime = a->mtime = a->ctime = a->btime = now;
    name_add(t, dir, name, i, now);
}

int tree_rename(struct tree *t, unsigned from, unsigned name, unsigned to, unsigned new_name, unsigned flags,
                const struct fs_caller *caller, struct timespec now)
{
    int err = dir_error(t, from);

    if (err == 0)
        err = dir_error(t, to);
    unsigned f = err ? 0 : t->child[from][name], o = err ? 0 : t->child[to][new_name];
    if (err == 0)
        err = rename_error(t, from, f, to, o, flags);
    if (err || f == o)
        return err;
    name_remove(t, from, name, now);
    if (o)
        name_remove(t, to, new_name, now);
    name_add(t, to, new_name, f, now);
    tree_own(t, f)->attr.ctime = now;
    if (flags & RENAME_EXCHANGE) {
        name_add(t, from, name, o, now);
        tree_own(t, o)->attr.ctime = now;
    } else if (o) {
        lose_link(t, o, now);
    }
    if (flags & RENAME_WHITEOUT)
        add_whiteout(t, from, name, caller, now);
    return 0;
}

/* ---- contents ---- */

static int file_error(const struct tree *t, unsigned i)
{
    return is_dir(t, i) ? -EISDIR : S_ISREG(t->node[i]->attr.mode) ? 0 : -EINVAL;
}

/* The contents become `size` bytes, of which [from, from + len) are replaced by buf, or by zeros. */
static void set_contents(struct node *n, size_t size, size_t from, const void *buf, size_t len)
{
    struct bytes *old = n->content, *b = size ? bytes_new(size) : NULL;

    if (b) {
        if (old)
            memcpy(b->at, old->at, old->len < size ? old->len : size);
        if (len && buf)
            memcpy(b->at + from, buf, len);
        else if (len)
            memset(b->at + from, 0, len);
        bytes_done(b);
    }
    bytes_unref(old);
    n->content = b;
    n->attr.size = size;
}

int tree_write(struct tree *t, unsigned i, uint64_t off, const void *buf, size_t len, struct timespec now)
{
    int err = file_error(t, i);

    if (err)
        return err;
    struct node *n = tree_own(t, i);
    set_contents(n, off + len > n->attr.size ? off + len : n->attr.size, off, buf, len);
    n->attr.mtime = n->attr.ctime = now;
    return 0;
}

int tree_setattr(struct tree *t, unsigned i, unsigned set, const struct fs_attr *in, struct timespec now)
{
    int err = set & FS_SET_SIZE ? file_error(t, i) : 0;

    if (err)
        return err;
    struct node *n = tree_own(t, i);
    struct fs_attr *a = &n->attr;
    if (set & FS_SET_SIZE) {
        set_contents(n, in->size, 0, NULL, 0);
        a->mtime = now;
    }
    if (set & FS_SET_MODE)
        a->mode = (a->mode & S_IFMT) | (in->mode & 07777);
    acl_follow(n);
    if (set & FS_SET_UID)
        a->uid = in->uid;
    if (set & FS_SET_GID)
        a->gid = in->gid;
    if (set & (FS_SET_ATIME | FS_SET_ATIME_NOW))
        a->atime = set & FS_SET_ATIME_NOW ? now : in->atime;
    if (set & (FS_SET_MTIME | FS_SET_MTIME_NOW))
        a->mtime = set & FS_SET_MTIME_NOW ? now : in->mtime;
    a->ctime = set & FS_SET_CTIME ? in->ctime : now;
    return 0;
}

void tree_punch(struct tree *t, unsigned i, uint64_t off, uint64_t to, struct timespec now)
{
    struct node *n = tree_own(t, i);
    uint64_t end = to < n->attr.size ? to : n->attr.size;

    if (off < end)
        set_contents(n, n->attr.size, off, NULL, end - off);
    n->attr.mtime = n->attr.ctime = now;
}

int tree_fallocate(struct tree *t, unsigned i, int mode, uint64_t off, uint64_t len, struct timespec now)
{
    uint32_t type = t->node[i]->attr.mode & S_IFMT;

    if (type != S_IFREG)
        return type == S_IFDIR ? -EISDIR : type == S_IFIFO ? -ESPIPE : -ENODEV;
    if (mode == FALLOC_FL_KEEP_SIZE)
        return 0;
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        tree_punch(t, i, off, off + len, now);
    struct node *n = tree_own(t, i);
    if (!(mode & FALLOC_FL_KEEP_SIZE) && off + len > n->attr.size)
        set_contents(n, off + len, 0, NULL, 0);
    n->attr.mtime = n->attr.ctime = now;
    return 0;
}

/* ---- extended attributes, access times ---- */

int tree_setxattr(struct tree *t, unsigned i, unsigned name, struct bytes *value, int flags,
                  struct timespec now)
{
    const struct node *is = t->node[i];
    bool user = !strncmp(tree_xattr_names[name], "user.", 5);
    int err = 0;

    if (user && !S_ISREG(is->attr.mode) && !S_ISDIR(is->attr.mode))
        err = -EPERM;
    else if (is->xattr[name] && flags & XATTR_CREATE)
        err = -EEXIST;
    else if (!is->xattr[name] && flags & XATTR_REPLACE)
        err = -ENODATA;
    if (err) {
        bytes_unref(value);
        return err;
    }
    struct node *n = tree_own(t, i);
    bytes_unref(n->xattr[name]);
    n->xattr[name] = value;
    n->attr.ctime = now;
    return 0;
}

int tree_removexattr(struct tree *t, unsigned i, unsigned name, struct timespec now)
{
    if (!t->node[i]->xattr[name])
        return name >= TREE_XATTRS_PLAIN ? 0 : -ENODATA;
    struct node *n = tree_own(t, i);
    bytes_unref(n->xattr[name]);
    n->xattr[name] = NULL;
    n->attr.ctime = now;
    return 0;
}

static bool not_after(struct timespec a, struct timespec b)
{
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec <= b.tv_nsec);
}

void tree_accessed(struct tree *t, unsigned i, struct timespec now)
{
    const struct fs_attr *a = &t->node[i]->attr;

    if (not_after(a->atime, a->mtime) || not_after(a->atime, a->ctime) ||
        now.tv_sec - a->atime.tv_sec >= DAY_SECONDS)
        tree_own(t, i)->attr.atime = now;
}
