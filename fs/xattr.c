/*
 * xattr.c - extended attributes: small ones in the inode's record (xattr.h), others under keys 0x05.
 *
 * `large_xattrs` of the inode says that there may be keys 0x05, and spares looking for them.
 */
#include "xattr.h"
#include "change.h"
#include "mutant.h"
#include "record.h"
#include "nowait.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#define XATTR_SMALL_MAX 128u    /* name and value of one that stands in the inode */
#define XATTR_LIST_BYTES 65536u /* XATTR_LIST_MAX of Linux: a longer list can't be read */

/* ---- the small ones ---- */

struct xattr {
    const char *name;
    size_t name_len;
    const uint8_t *value;
    size_t value_len;
    size_t begin, end; /* where it stands in the sequence */
};

/* The next one after x->end; false at the end, or with r->bad. */
static bool next_xattr(struct reader *r, const uint8_t *start, struct xattr *x)
{
    if (reader_left(r) == 0)
        return false;
    x->begin = (size_t)(r->p - start);
    x->name_len = read_u8(r);
    x->name = read_bytes(r, x->name_len);
    uint64_t len = read_varint(r);
    x->value = read_bytes(r, len > FS_XATTR_VALUE_MAX ? SIZE_MAX : (size_t)len);
    x->value_len = (size_t)len;
    x->end = r->bad ? x->begin : (size_t)(r->p - start);
    return !r->bad;
}

bool xattrs_valid(const uint8_t *xattrs, size_t len)
{
    if (len == 0)
        return true;
    struct reader r = reader_of(xattrs, len);
    struct xattr x;
    while (next_xattr(&r, xattrs, &x))
        if (x.name_len == 0 || memchr(x.name, '\0', x.name_len))
            return false;
    return !r.bad;
}

static bool find_small(const struct inode *ino, const char *name, size_t name_len, struct xattr *x)
{
    if (ino->xattrs_len == 0)
        return false;
    struct reader r = reader_of(ino->xattrs, ino->xattrs_len);
    while (next_xattr(&r, ino->xattrs, x))
        if (x->name_len == name_len && memcmp(x->name, name, name_len) == 0)
            return true;
    return false;
}

static void remove_small(struct inode *ino, const struct xattr *x)
{
    memmove(ino->xattrs + x->begin, ino->xattrs + x->end, ino->xattrs_len - x->end);
    ino->xattrs_len -= (uint32_t)(x->end - x->begin);
}

static size_t small_bytes(size_t name_len, size_t len) { return 1 + name_len + varint_len(len) + len; }

static int add_small(struct inode *ino, const char *name, size_t name_len, const void *value, size_t len)
{
    size_t total = ino->xattrs_len + small_bytes(name_len, len);
    uint8_t *all = realloc(ino->xattrs, total);
    if (!all)
        return -ENOMEM;
    uint8_t *p = all + ino->xattrs_len;
    *p++ = (uint8_t)name_len;
    memcpy(p, name, name_len);
    p = put_varint(p + name_len, len); /* as long as varint_len says, no more */
    if (len > 0)
        memcpy(p, value, len);
    ino->xattrs = all;
    ino->xattrs_len = (uint32_t)total;
    return 0;
}

/* ---- the large ones ---- */

/* 1 and the value (if out is not NULL), 0, or an error. */
static int get_large(struct fs *fs, const struct inode *ino, const char *name, size_t name_len,
                     struct lsm_value *out)
{
    struct key key = key_xattr(ino->attr.id, name, name_len);
    struct lsm_value v = {0};

    if (!ino->large_xattrs)
        return 0;
    int r = lsm_get(fs->db, key.bytes, key.len, NULL, nowait_flags(), &v);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    if (out)
        *out = v;
    else
        lsm_value_release(&v);
    return 1;
}

/* A receiver of names; with buf NULL it only counts. */
struct name_list {
    char *buf;
    size_t size, len, count;
};

static void list_add(struct name_list *l, const void *name, size_t len)
{
    if (l->buf && l->len + len + 1 <= l->size) {
        memcpy(l->buf + l->len, name, len);
        l->buf[l->len + len] = '\0';
    }
    l->len += len + 1;
    l->count++;
}

static int list_large(struct fs *fs, const struct inode *ino, struct name_list *l)
{
    struct key lower = key_plain(ino->attr.id, KEY_XATTR);
    struct key upper = key_plain(ino->attr.id, (enum key_tag)(KEY_XATTR + 1));
    struct lsm_iter *it = NULL;

    if (!ino->large_xattrs)
        return 0;
    int r = fs_scan(fs, &lower, &upper, &it);
    if (r < 0)
        return r;
    for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it)) {
        size_t len;
        const uint8_t *k = lsm_iter_key(it, &len);
        list_add(l, k + lower.len, len - lower.len);
    }
    r = lsm_iter_status(it);
    lsm_iter_free(it);
    return r;
}

static void list_small(const struct inode *ino, struct name_list *l)
{
    struct xattr x;
    if (ino->xattrs_len == 0)
        return;
    struct reader r = reader_of(ino->xattrs, ino->xattrs_len);
    while (next_xattr(&r, ino->xattrs, &x))
        list_add(l, x.name, x.name_len);
}

/* ---- names ---- */

static bool in_space(const char *name, const char *space)
{
    size_t len = strlen(space);
    return strncmp(name, space, len) == 0;
}

static int check_name(const char *name, size_t *len)
{
    static const char *const spaces[] = {"user.", "trusted.", "security."};

    *len = strlen(name);
    if (*len == 0 || *len > FS_XATTR_NAME_MAX)
        return -ERANGE;
    for (unsigned i = 0; i < 3; i++)
        if (in_space(name, spaces[i]))
            return name[strlen(spaces[i])] ? 0 : -EINVAL;
    return -EOPNOTSUPP;
}

/* user. attributes have no meaning on devices, fifos and symlinks (xattr(7)). */
static bool user_refused(const struct inode *ino, const char *name)
{
    return in_space(name, "user.") && !S_ISREG(ino->attr.mode) && !S_ISDIR(ino->attr.mode);
}

/* ---- changing ---- */

struct setting {
    const char *name;
    size_t name_len;
    const void *value;
    size_t len;
};

static int set_large(struct change *c, const struct setting *s, bool exists)
{
    struct key key = key_xattr(c->ino.attr.id, s->name, s->name_len);
    struct name_list all = {0};

    list_small(&c->ino, &all);
    int r = exists ? 0 : list_large(c->fs, &c->ino, &all);
    if (r < 0)
        return r;
    if (all.len + s->name_len + 1 > XATTR_LIST_BYTES)
        return -ENOSPC;
    lsm_batch_put(c->batch, key.bytes, key.len, s->value, s->len);
    c->ino.large_xattrs = true;
    c->needs_orphan = c->ino.home.kind == HOME_MEMORY;
    return 0;
}

static int remove_large(struct change *c, const char *name, size_t name_len)
{
    struct key key = key_xattr(c->ino.attr.id, name, name_len);
    struct name_list left = {0};

    lsm_batch_delete(c->batch, key.bytes, key.len);
    int r = list_large(c->fs, &c->ino, &left);
    c->ino.large_xattrs = left.count > 1; /* it is still among them */
    return r;
}

static int set_value(struct change *c, const struct setting *s, int flags)
{
    struct xattr x;
    bool small = find_small(&c->ino, s->name, s->name_len, &x);
    int large = small ? 0 : get_large(c->fs, &c->ino, s->name, s->name_len, NULL);

    if (large < 0)
        return large;
    if ((small || large) && flags & XATTR_CREATE)
        return -EEXIST;
    if (!small && !large && flags & XATTR_REPLACE)
        return -ENODATA;
    if (small && !mutant("a small attribute stays when it grows"))
        remove_small(&c->ino, &x);
    size_t bytes = small_bytes(s->name_len, s->len);
    if (s->name_len + s->len > XATTR_SMALL_MAX || c->ino.xattrs_len + bytes > XATTRS_INLINE_MAX)
        return set_large(c, s, large);
    if (large) {
        int r = remove_large(c, s->name, s->name_len);
        if (r < 0)
            return r;
    }
    return add_small(&c->ino, s->name, s->name_len, s->value, s->len);
}

int fs_setxattr(struct fs *fs, fs_id id, const char *name, const void *value, size_t len, int flags)
{
    struct setting s = {.name = name, .value = value, .len = len};
    struct change c;

    if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    int r = check_name(name, &s.name_len);
    if (r < 0)
        return r;
    if (len > FS_XATTR_VALUE_MAX)
        return -E2BIG;
    r = change_begin(&c, fs, id);
    if (r == 0 && user_refused(&c.ino, name))
        r = -EPERM;
    if (r == 0)
        r = set_value(&c, &s, flags);
    if (r == 0) {
        c.ino.attr.ctime = c.now;
        r = change_commit(&c);
    }
    change_end(&c);
    return r;
}

static int remove_value(struct change *c, const char *name, size_t name_len)
{
    struct xattr x;

    if (find_small(&c->ino, name, name_len, &x)) {
        remove_small(&c->ino, &x);
        return 0;
    }
    int r = get_large(c->fs, &c->ino, name, name_len, NULL);
    if (r <= 0)
        return r < 0 ? r : -ENODATA;
    return remove_large(c, name, name_len);
}

int fs_removexattr(struct fs *fs, fs_id id, const char *name)
{
    struct change c;
    size_t name_len;

    int r = check_name(name, &name_len);
    if (r < 0)
        return r;
    r = change_begin(&c, fs, id);
    if (r == 0)
        r = remove_value(&c, name, name_len);
    if (r == 0) {
        c.shrinks = true;
        c.ino.attr.ctime = c.now;
        r = change_commit(&c);
    }
    change_end(&c);
    return r;
}

/* ---- reading ---- */

/* Locks and views the inode; the lock is given back by view_end. */
static int view_begin(struct fs *fs, fs_id id, struct lockset *locks, struct inode_view *v)
{
    struct itable_info info;

    v->pin = (struct lsm_value){0};
    lockset_init(locks, fs->locks);
    lockset_inode(locks, id, false);
    int r = lockset_acquire(locks);
    if (r < 0)
        return r;
    return itable_find(fs->inodes, id, &info) ? inode_view(fs, id, &info, v) : -ESTALE;
}

static void view_end(struct lockset *locks, struct inode_view *v)
{
    lockset_release(locks);
    inode_view_release(v);
}

static int copy_out(const void *value, size_t len, void *buf, size_t size, size_t *out_len)
{
    *out_len = len;
    if (size == 0)
        return 0;
    if (len > size)
        return -ERANGE;
    if (len > 0)
        memcpy(buf, value, len);
    return 0;
}

int fs_getxattr(struct fs *fs, fs_id id, const char *name, void *buf, size_t size, size_t *len)
{
    struct lsm_value value = {0};
    struct lockset locks;
    struct inode_view v;
    struct xattr x;
    size_t name_len;

    int r = check_name(name, &name_len);
    if (r < 0)
        return r;
    r = view_begin(fs, id, &locks, &v);
    if (r == 0 && find_small(&v.ino, name, name_len, &x)) {
        r = copy_out(x.value, x.value_len, buf, size, len);
    } else if (r == 0) {
        r = get_large(fs, &v.ino, name, name_len, &value);
        if (r == 1)
            r = copy_out(value.data, value.len, buf, size, len);
        else if (r == 0)
            r = -ENODATA;
    }
    view_end(&locks, &v);
    lsm_value_release(&value);
    return r;
}

int fs_listxattr(struct fs *fs, fs_id id, char *buf, size_t size, size_t *len)
{
    struct name_list l = {.buf = size > 0 ? buf : NULL, .size = size};
    struct lockset locks;
    struct inode_view v;

    int r = view_begin(fs, id, &locks, &v);
    if (r == 0) {
        list_small(&v.ino, &l);
        r = list_large(fs, &v.ino, &l);
    }
    view_end(&locks, &v);
    *len = l.len;
    return r == 0 && size > 0 && l.len > size ? -ERANGE : r;
}
