/*
 * xattr.c - extended attributes: small ones in the inode's record (xattr.h), others under keys 0x05.
 *
 * `large_xattrs` of the inode says that there may be keys 0x05, and spares looking for them.
 *
 * ACLs are attributes that are checked, and change the mode when they are set (acl.h).
 */
#include "xattr.h"
#include "acl.h"
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
        if (x.name_len == 0 || memchr(x.name, '\0', x.name_len) ||
            (acl_kind_of(x.name, x.name_len) != ACL_NONE && acl_check(x.value, x.value_len) < 0))
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

struct found {
    const void *value;
    size_t len;
};

/* Wherever it is; a large one is pinned in `pin`, to be released in any case. -ENODATA */
static int find_value(struct fs *fs, const struct inode *ino, const char *name, size_t name_len,
                      struct lsm_value *pin, struct found *out)
{
    struct xattr x;

    *pin = (struct lsm_value){0};
    if (find_small(ino, name, name_len, &x)) {
        *out = (struct found){x.value, x.value_len};
        return 0;
    }
    int r = get_large(fs, ino, name, name_len, pin);
    *out = (struct found){pin->data, pin->len};
    return r == 0 ? -ENODATA : r < 0 ? r : 0;
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
    if (acl_kind_of(name, *len) != ACL_NONE)
        return 0;
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

static bool is_large(const struct inode *ino, size_t name_len, size_t len)
{
    return name_len + len > XATTR_SMALL_MAX ||
           ino->xattrs_len + small_bytes(name_len, len) > XATTRS_INLINE_MAX;
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
    if (is_large(&c->ino, s->name_len, s->len))
        return set_large(c, s, large);
    if (large) {
        int r = remove_large(c, s->name, s->name_len);
        if (r < 0)
            return r;
    }
    return add_small(&c->ino, s->name, s->name_len, s->value, s->len);
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

/* As setxattr(2) of a disk's filesystem: whether there was one before makes no difference. */
static int set_acl(struct change *c, const struct setting *s, int flags)
{
    const enum acl_kind kind = acl_kind_of(s->name, s->name_len);
    uint32_t *mode = &c->ino.attr.mode;

    if (S_ISLNK(*mode))
        return -EOPNOTSUPP;
    int r = acl_check(s->value, s->len);
    if (r < 0)
        return r;
    bool none = acl_is_empty(s->len);
    if (kind == ACL_DEFAULT && !S_ISDIR(*mode) && !none)
        return -EACCES;
    if (kind == ACL_ACCESS && !none && !mutant("an ACL is set and the mode is not")) {
        *mode = (*mode & ~0777u) | acl_mode(s->value, s->len);
        if (flags & FS_XATTR_KILL_SGID)
            *mode &= ~(uint32_t)S_ISGID;
    }
    if (!none && (kind == ACL_DEFAULT || !acl_is_minimal(s->len)))
        return set_value(c, s, 0);
    r = remove_value(c, s->name, s->name_len);
    return r == -ENODATA ? 0 : r;
}

int fs_setxattr(struct fs *fs, fs_id id, const char *name, const void *value, size_t len, int flags)
{
    struct setting s = {.name = name, .value = value, .len = len};
    struct change c;

    if (flags & ~(XATTR_CREATE | XATTR_REPLACE | FS_XATTR_KILL_SGID))
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
        r = acl_kind_of(name, s.name_len) != ACL_NONE ? set_acl(&c, &s, flags) : set_value(&c, &s, flags);
    if (r == 0) {
        c.ino.attr.ctime = c.now;
        r = change_commit(&c);
    }
    change_end(&c);
    return r;
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
    return r == -ENODATA && acl_kind_of(name, name_len) != ACL_NONE ? 0 : r; /* as of a disk's filesystem */
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

/* Checks what is stored, and gives what was copied of it to buf, if it was, the mode's bits. */
static int read_acl(struct fs *fs, const struct inode *ino, enum acl_kind kind, const struct found *acl,
                    void *buf, size_t size)
{
    if (acl_check(acl->value, acl->len) < 0) {
        struct key key = key_plain(ino->attr.id, KEY_XATTR);
        return fs_damaged(fs, &key, "an ACL can't be decoded");
    }
    if (size > 0 && kind == ACL_ACCESS)
        acl_follow_mode(buf, acl->len, ino->attr.mode);
    return 0;
}

int fs_getxattr(struct fs *fs, fs_id id, const char *name, void *buf, size_t size, size_t *len)
{
    struct lsm_value value = {0};
    struct found found;
    struct lockset locks;
    struct inode_view v;
    size_t name_len;

    int r = check_name(name, &name_len);
    if (r < 0)
        return r;
    const enum acl_kind kind = acl_kind_of(name, name_len);
    r = view_begin(fs, id, &locks, &v);
    if (r == 0)
        r = find_value(fs, &v.ino, name, name_len, &value, &found);
    if (r == 0)
        r = copy_out(found.value, found.len, buf, size, len);
    if (r == 0 && kind != ACL_NONE)
        r = read_acl(fs, &v.ino, kind, &found, buf, size);
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

/* ---- what new inodes get ---- */

bool xattr_may_hand_down(const struct inode *dir)
{
    struct xattr x;

    return dir->large_xattrs || find_small(dir, ACL_DEFAULT_NAME, strlen(ACL_DEFAULT_NAME), &x);
}

static int add_value(struct inode *ino, const char *name, const struct found *f, struct lsm_batch *batch)
{
    size_t name_len = strlen(name);

    if (!is_large(ino, name_len, f->len))
        return add_small(ino, name, name_len, f->value, f->len);
    struct key key = key_xattr(ino->attr.id, name, name_len);
    lsm_batch_put(batch, key.bytes, key.len, f->value, f->len);
    ino->large_xattrs = true;
    return 0;
}

/* The mode that was asked for bounds what the ACL gives, and the ACL the mode. */
static int inherit_acl(struct inode *ino, const struct found *acl, struct lsm_batch *batch)
{
    uint32_t *mode = &ino->attr.mode;
    int r = 0;

    *mode &= ~0777u | acl_mode(acl->value, acl->len);
    if (!acl_is_minimal(acl->len))
        r = add_value(ino, ACL_ACCESS_NAME, acl, batch);
    if (r == 0 && S_ISDIR(*mode))
        r = add_value(ino, ACL_DEFAULT_NAME, acl, batch);
    return r;
}

int xattr_inherit(struct fs *fs, const struct inode *dir, struct inode *ino, uint32_t umask,
                  struct lsm_batch *batch)
{
    struct lsm_value pin = {0};
    struct found acl = {0};

    if (S_ISLNK(ino->attr.mode))
        return 0;
    int r = find_value(fs, dir, ACL_DEFAULT_NAME, strlen(ACL_DEFAULT_NAME), &pin, &acl);
    if (r == 0 && acl_check(acl.value, acl.len) < 0) {
        struct key key = key_plain(dir->attr.id, KEY_XATTR);
        r = fs_damaged(fs, &key, "a default ACL can't be decoded");
    } else if (r == 0 && !acl_is_empty(acl.len) && !mutant("default ACLs are not inherited")) {
        r = inherit_acl(ino, &acl, batch);
    } else if (r == 0 || r == -ENODATA) {
        ino->attr.mode &= ~(umask & 0777u);
        r = 0;
    }
    lsm_value_release(&pin);
    return r;
}
