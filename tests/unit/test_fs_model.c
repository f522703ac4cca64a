/*
 * test_fs_model.c - random calls of the whole filesystem API, each compared with a naive tree in memory:
 * result, attributes, contents. Now and then everything is compared, the raw keys are checked
 * (store_check.h), memtables are flushed or compacted, and the filesystem is closed and opened again.
 *
 * Half of the calls are first made in non-blocking mode (fs_nowait), some of them while somebody else holds a
 * lock. What is turned away must have changed nothing; it is then made again as usual.
 *
 * The model keeps one reference for each node that it "holds" and calls only with such ids, as the
 * kernel does. A node without names lives while it is held.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store.h"
#include "store_check.h"
#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "env.h"

#define STEPS 6000
#define NODES_MAX 400
#define NAMES 9
#define FILE_MAX 300000u
#define XATTRS 3

struct node;
struct dirent_model {
    char name[256];
    size_t len;
    struct node *node;
};
struct node {
    bool used, held;
    fs_id id;
    uint32_t mode, uid, gid, nlink;
    uint64_t rdev;
    uint64_t size;
    uint8_t *data; /* of a file or symlink: FILE_MAX bytes, zero beyond size */
    struct node *parent;
    struct dirent_model entry[2 * NAMES];
    unsigned entries;
    struct {
        bool set;
        size_t len;
        int fill;
    } xattr[XATTRS];
    struct timespec ctime; /* the last one seen */
};

static struct node nodes[NODES_MAX];
static struct node *root;
static struct env *env;
static struct fs *fs;
static unsigned hash_bits;
static uint64_t state, seed;
static unsigned step;
static unsigned turned_away; /* calls that returned -EAGAIN */
static const struct fs_caller me = {.uid = 7, .gid = 8};
static const char *const xattr_names[XATTRS] = {"trusted.a", "security.bb", "trusted.ccc"};

static uint64_t rnd(void)
{
    state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = state;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
static uint64_t below(uint64_t n) { return rnd() % n; }

#define SAME(got, want)                                                                                    \
    do {                                                                                                   \
        long long got_ = (long long)(got), want_ = (long long)(want);                                      \
        if (got_ != want_) {                                                                               \
            fprintf(stderr, "step %u, %s:%d: %s is %lld, the model says %lld\n", step, __func__, __LINE__, \
                    #got, got_, want_);                                                                    \
            fail();                                                                                        \
        }                                                                                                  \
    } while (0)

/* ---- non-blocking mode ---- */

static fs_id somebody_s(void);

static bool turned_away_with(int r)
{
    fs_nowait(false);
    turned_away += r == -EAGAIN;
    return r == -EAGAIN;
}

/* A lock that somebody holds meanwhile. */
static void disturb(struct lockset *s)
{
    lockset_init(s, fs->locks);
    if (below(8) == 0)
        lockset_inode(s, somebody_s(), true);
    SAME(lockset_acquire(s), 0);
}

#define CALL(call)                                     \
    __extension__({                                    \
        int r_ = -EAGAIN;                              \
        bool tried_ = below(2);                        \
        if (tried_) {                                  \
            struct lockset others_;                    \
            disturb(&others_);                         \
            fs_nowait(true);                           \
            r_ = (call);                               \
            lockset_release(&others_);                 \
        }                                              \
        !tried_ || turned_away_with(r_) ? (call) : r_; \
    })

/* ---- the model ---- */

static struct node *node_new(uint32_t mode)
{
    for (unsigned i = 0; i < NODES_MAX; i++) {
        if (nodes[i].used)
            continue;
        nodes[i] = (struct node){
            .used = true, .mode = mode, .nlink = S_ISDIR(mode) ? 2 : 1, .uid = me.uid, .gid = me.gid};
        if (S_ISREG(mode) || S_ISLNK(mode))
            nodes[i].data = calloc(1, FILE_MAX);
        return &nodes[i];
    }
    return NULL;
}

static bool room(void)
{
    for (unsigned i = 0; i < NODES_MAX; i++)
        if (!nodes[i].used)
            return true;
    return false;
}

static void node_settle(struct node *n)
{
    if (n->nlink > 0 || n->held)
        return;
    free(n->data);
    n->used = false;
}

static struct dirent_model *find_entry(struct node *dir, const char *name, size_t len)
{
    for (unsigned i = 0; i < dir->entries; i++)
        if (dir->entry[i].len == len && memcmp(dir->entry[i].name, name, len) == 0)
            return &dir->entry[i];
    return NULL;
}

static void add_entry(struct node *dir, const char *name, size_t len, struct node *n)
{
    struct dirent_model *e = &dir->entry[dir->entries++];
    memcpy(e->name, name, len);
    e->len = len;
    e->node = n;
    dir->size += len + DIR_ENTRY_BYTES;
    if (S_ISDIR(n->mode)) {
        dir->nlink++;
        n->parent = dir;
    }
}

static void remove_entry(struct node *dir, struct dirent_model *e)
{
    dir->size -= e->len + DIR_ENTRY_BYTES;
    if (S_ISDIR(e->node->mode))
        dir->nlink--;
    *e = dir->entry[--dir->entries];
}

static void drop_link(struct node *n)
{
    n->nlink = S_ISDIR(n->mode) ? 0 : n->nlink - 1;
    if (S_ISDIR(n->mode))
        n->size = 0;
    node_settle(n);
}

/* ---- choosing ---- */

static struct node *pick(bool dir)
{
    struct node *found = root;
    unsigned seen = 0;
    for (unsigned i = 0; i < NODES_MAX; i++) {
        struct node *n = &nodes[i];
        if (n->used && n->held && (!dir || S_ISDIR(n->mode) || below(40) == 0) && below(++seen) == 0)
            found = n;
    }
    return found;
}

static fs_id somebody_s(void) { return pick(below(2))->id; }

static size_t pick_name(char name[256])
{
    uint64_t i = below(NAMES);
    size_t len = i == NAMES - 1 ? 255 : i + 1;
    memset(name, 'a' + (int)i, len);
    return len;
}

static void hold(struct node *n, fs_id id)
{
    if (n->id == 0)
        n->id = id;
    SAME(n->id, id);
    if (n->held && n != root)
        fs_forget(fs, id, 1); /* one is enough */
    n->held = true;
}

static int dir_error(const struct node *dir)
{
    if (!S_ISDIR(dir->mode))
        return -ENOTDIR;
    return dir->nlink == 0 ? -ENOENT : 0;
}

static void same_attr(const struct node *n, const struct fs_attr *a)
{
    SAME(a->id, n->id);
    SAME(a->mode, n->mode);
    SAME(a->nlink, n->nlink);
    SAME(a->uid, n->uid);
    SAME(a->gid, n->gid);
    SAME(a->rdev, n->rdev);
    SAME(a->size, n->size);
}

/* ctime never goes back, and an operation that changes must move it. */
static void changed(struct node *n)
{
    struct fs_attr a;
    if (!n->used || !n->held)
        return;
    SAME(CALL(fs_getattr(fs, n->id, &a)), 0);
    same_attr(n, &a);
    bool later = a.ctime.tv_sec > n->ctime.tv_sec ||
                 (a.ctime.tv_sec == n->ctime.tv_sec && a.ctime.tv_nsec > n->ctime.tv_nsec);
    SAME(later, 1);
    n->ctime = a.ctime;
}

/* ---- operations ---- */

static void do_create(void)
{
    static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFDIR,
                                     S_IFLNK, S_IFLNK, S_IFIFO, S_IFCHR};
    static char target[FS_SYMLINK_MAX];
    struct node *dir = pick(true);
    char name[256];
    size_t len = pick_name(name), target_len = 1 + below(below(2) ? 300 : FS_SYMLINK_MAX);
    uint32_t mode = types[below(9)] | (uint32_t)below(0777);
    uint64_t rdev = below(1000);
    struct fs_attr a;
    int want = dir_error(dir), got;

    if (!room())
        return;
    if (want == 0 && find_entry(dir, name, len))
        want = -EEXIST;
    memset(target, 'A' + (int)below(26), sizeof(target));
    if (S_ISLNK(mode)) {
        mode = S_IFLNK | 0777;
        got = CALL(fs_symlink(fs, &me, dir->id, name, len, target, target_len, &a));
    } else if (S_ISDIR(mode)) {
        got = CALL(fs_mkdir(fs, &me, dir->id, name, len, mode, &a));
    } else {
        got = CALL(fs_mknod(fs, &me, dir->id, name, len, mode, rdev, &a));
    }
    SAME(got, want);
    if (got < 0)
        return;
    struct node *n = node_new(mode);
    add_entry(dir, name, len, n);
    if (S_ISLNK(mode)) {
        n->size = target_len;
        memcpy(n->data, target, target_len);
    }
    if (S_ISCHR(mode))
        n->rdev = rdev;
    hold(n, a.id);
    same_attr(n, &a);
    n->ctime = a.ctime;
    changed(dir);
}

static void do_lookup(void)
{
    struct node *dir = pick(true);
    char name[256];
    size_t len = pick_name(name);
    struct fs_attr a;
    int want = dir_error(dir);
    struct dirent_model *e = want == 0 ? find_entry(dir, name, len) : NULL;

    if (want == 0 && !e)
        want = -ENOENT;
    SAME(CALL(fs_lookup(fs, dir->id, name, len, &a)), want);
    if (want < 0)
        return;
    hold(e->node, a.id);
    same_attr(e->node, &a);
}

static void do_forget(void)
{
    struct node *n = pick(false);
    if (n == root)
        return;
    fs_forget(fs, n->id, 1);
    n->held = false;
    node_settle(n);
}

static void do_link(void)
{
    struct node *n = pick(false), *dir = pick(true);
    char name[256];
    size_t len = pick_name(name);
    struct fs_attr a;
    int want = dir_error(dir);

    if (want == 0 && S_ISDIR(n->mode))
        want = -EPERM;
    if (want == 0 && n->nlink == 0)
        want = -ENOENT;
    if (want == 0 && find_entry(dir, name, len))
        want = -EEXIST;
    SAME(CALL(fs_link(fs, n->id, dir->id, name, len, &a)), want);
    if (want < 0)
        return;
    n->nlink++;
    add_entry(dir, name, len, n);
    hold(n, a.id);
    same_attr(n, &a);
    changed(n);
    changed(dir);
}

static void do_remove(bool rmdir)
{
    struct node *dir = pick(true);
    char name[256];
    size_t len = pick_name(name);
    int want = dir_error(dir);
    struct dirent_model *e = want == 0 ? find_entry(dir, name, len) : NULL;

    if (want == 0 && !e)
        want = -ENOENT;
    if (want == 0 && rmdir)
        want = !S_ISDIR(e->node->mode) ? -ENOTDIR : e->node->entries > 0 ? -ENOTEMPTY : 0;
    else if (want == 0)
        want = S_ISDIR(e->node->mode) ? -EISDIR : 0;
    SAME(CALL(rmdir ? fs_rmdir(fs, dir->id, name, len) : fs_unlink(fs, dir->id, name, len)), want);
    if (want < 0)
        return;
    struct node *n = e->node;
    remove_entry(dir, e);
    drop_link(n);
    changed(dir);
    changed(n);
}

static bool is_below(const struct node *dir, const struct node *top)
{
    for (; dir != top; dir = dir->parent)
        if (dir == root)
            return false;
    return true;
}

static int rename_error(struct node *from, struct dirent_model *f, struct node *to, struct dirent_model *t,
                        unsigned flags)
{
    bool exchange = flags & RENAME_EXCHANGE;

    if (!f || (exchange && !t))
        return -ENOENT;
    if (t && flags & RENAME_NOREPLACE)
        return -EEXIST;
    if (from != to && S_ISDIR(f->node->mode) && is_below(to, f->node))
        return -EINVAL;
    if (from != to && exchange && S_ISDIR(t->node->mode) && is_below(from, t->node))
        return -EINVAL;
    if (!t || t->node == f->node || exchange)
        return 0;
    if (S_ISDIR(f->node->mode) && !S_ISDIR(t->node->mode))
        return -ENOTDIR;
    if (!S_ISDIR(f->node->mode) && S_ISDIR(t->node->mode))
        return -EISDIR;
    return S_ISDIR(t->node->mode) && t->node->entries > 0 ? -ENOTEMPTY : 0;
}

static void do_rename(void)
{
    static const unsigned all_flags[] = {
        0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, RENAME_WHITEOUT};
    struct node *from = pick(true), *to = below(3) ? pick(true) : from;
    char name[256], new_name[256];
    size_t len = pick_name(name), new_len = pick_name(new_name);
    unsigned flags = all_flags[below(7)];
    int want = dir_error(from);

    if (flags & RENAME_WHITEOUT && !room())
        return;
    if (want == 0)
        want = dir_error(to);
    struct dirent_model *f = want == 0 ? find_entry(from, name, len) : NULL;
    struct dirent_model *t = want == 0 ? find_entry(to, new_name, new_len) : NULL;
    if (want == 0)
        want = rename_error(from, f, to, t, flags);
    SAME(CALL(fs_rename(fs, &me, from->id, name, len, to->id, new_name, new_len, flags)), want);
    if (want < 0 || (t && t->node == f->node))
        return;
    struct node *moved = f->node, *other = t ? t->node : NULL;
    remove_entry(from, f);
    if (other)
        remove_entry(to, find_entry(to, new_name, new_len));
    add_entry(to, new_name, new_len, moved);
    if (flags & RENAME_EXCHANGE)
        add_entry(from, name, len, other);
    else if (other)
        drop_link(other);
    if (flags & RENAME_WHITEOUT)
        add_entry(from, name, len, node_new(S_IFCHR));
    changed(from);
    if (to != from)
        changed(to);
    changed(moved);
    if (other)
        changed(other);
}

static void do_write(void)
{
    static uint8_t buf[100000];
    struct node *n = pick(false);
    uint64_t off = below(3) ? below(n->size + 100) : below(below(2) ? 5000 : 200000);
    size_t len = 1 + below(below(3) ? 600 : sizeof(buf));
    int want = S_ISDIR(n->mode) ? -EISDIR : S_ISREG(n->mode) ? 0 : -EINVAL;

    if (off + len > FILE_MAX)
        return;
    memset(buf, (int)below(256), len);
    SAME(CALL(fs_write(fs, n->id, off, buf, len)), want);
    if (want < 0)
        return;
    memcpy(n->data + off, buf, len);
    if (off + len > n->size)
        n->size = off + len;
    changed(n);
}

static void do_read(void)
{
    static uint8_t buf[FILE_MAX];
    struct node *n = pick(false);
    uint64_t off = below(n->size + 10);
    size_t len = 1 + below(FILE_MAX - 1), got = 0;
    int want = S_ISDIR(n->mode) ? -EISDIR : S_ISREG(n->mode) ? 0 : -EINVAL;

    SAME(CALL(fs_read(fs, n->id, off, buf, len, &got)), want);
    if (want == 0) {
        uint64_t left = off < n->size ? n->size - off : 0;
        SAME(got, left < len ? left : len);
        SAME(memcmp(buf, n->data + off, got), 0);
    }
    want = S_ISLNK(n->mode) ? 0 : -EINVAL;
    SAME(CALL(fs_readlink(fs, n->id, (char *)buf, sizeof(buf), &got)), want);
    if (want == 0) {
        SAME(got, n->size);
        SAME(memcmp(buf, n->data, got), 0);
    }
}

static void do_setattr(void)
{
    struct node *n = pick(false);
    struct fs_attr in = {.mode = (uint32_t)below(0777), .uid = (uint32_t)below(9), .gid = (uint32_t)below(9)},
                   out;
    unsigned set = (unsigned)below(8) | (below(2) ? FS_SET_ATIME_NOW : 0) | (below(2) ? FS_SET_MTIME_NOW : 0);
    int want = 0;

    if (below(2)) {
        set |= FS_SET_SIZE;
        in.size = below(4) ? below(5000) : below(FILE_MAX);
        want = S_ISDIR(n->mode) ? -EISDIR : S_ISREG(n->mode) ? 0 : -EINVAL;
    }
    SAME(CALL(fs_setattr(fs, n->id, set, &in, &out)), want);
    if (want < 0)
        return;
    if (set & FS_SET_MODE)
        n->mode = (n->mode & S_IFMT) | in.mode;
    if (set & FS_SET_UID)
        n->uid = in.uid;
    if (set & FS_SET_GID)
        n->gid = in.gid;
    if (set & FS_SET_SIZE) {
        if (in.size < n->size)
            memset(n->data + in.size, 0, n->size - in.size);
        n->size = in.size;
    }
    same_attr(n, &out);
    changed(n);
}

static void do_punch(void)
{
    struct node *n = pick(false);
    uint64_t off = below(FILE_MAX), len = 1 + below(FILE_MAX - off), end = off + len;
    int mode = below(2) ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;

    if (!S_ISREG(n->mode))
        return;
    SAME(CALL(fs_fallocate(fs, n->id, mode, off, len)), 0);
    memset(n->data + off, 0, len);
    if (mode == FALLOC_FL_ZERO_RANGE && end > n->size)
        n->size = end;
    changed(n);
}

static void do_xattr(void)
{
    static uint8_t buf[66000];
    struct node *n = pick(false);
    uint64_t i = below(XATTRS);
    size_t len = below(below(2) ? 60 : below(2) ? 300 : 65000);
    int flags = (int[]){0, 0, XATTR_CREATE, XATTR_REPLACE}[below(4)], want = 0;

    if (below(3) == 0) {
        want = n->xattr[i].set ? 0 : -ENODATA;
        SAME(CALL(fs_removexattr(fs, n->id, xattr_names[i])), want);
        n->xattr[i].set = false;
    } else {
        int fill = (int)below(256);
        want = n->xattr[i].set && flags == XATTR_CREATE     ? -EEXIST
               : !n->xattr[i].set && flags == XATTR_REPLACE ? -ENODATA
                                                            : 0;
        memset(buf, fill, len);
        SAME(CALL(fs_setxattr(fs, n->id, xattr_names[i], buf, len, flags)), want);
        if (want == 0) {
            n->xattr[i].set = true;
            n->xattr[i].len = len;
            n->xattr[i].fill = fill;
        }
    }
    if (want == 0)
        changed(n);
}

/* ---- comparing everything ---- */

static void same_xattrs(const struct node *n)
{
    static uint8_t buf[66000];
    size_t len, total = 0;
    for (unsigned i = 0; i < XATTRS; i++) {
        int r = CALL(fs_getxattr(fs, n->id, xattr_names[i], buf, sizeof(buf), &len));
        SAME(r, n->xattr[i].set ? 0 : -ENODATA);
        if (!n->xattr[i].set)
            continue;
        total += strlen(xattr_names[i]) + 1;
        SAME(len, n->xattr[i].len);
        for (size_t k = 0; k < len; k++)
            SAME(buf[k], n->xattr[i].fill);
    }
    SAME(CALL(fs_listxattr(fs, n->id, NULL, 0, &len)), 0);
    SAME(len, total);
}

struct listing {
    struct node *dir;
    unsigned entries, limit;
    uint64_t next;
    bool full, plus;
};

static bool on_entry(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct listing *l = arg;
    if (name[0] == '.' && len <= 2) {
        SAME(attr->id, len == 1 || l->dir == root ? l->dir->id : l->dir->parent->id);
        SAME(attr->mode & S_IFMT, S_IFDIR);
        l->next = next;
        return true;
    }
    if (l->limit-- == 0) {
        l->full = true;
        return false;
    }
    struct dirent_model *e = find_entry(l->dir, name, len);
    assert_non_null(e);
    if (e->node->id == 0)
        e->node->id = attr->id; /* a whiteout: made without telling its number */
    SAME(attr->id, e->node->id);
    if (l->plus)
        same_attr(e->node, attr);
    else
        SAME(attr->mode, e->node->mode & S_IFMT);
    SAME(next > l->next, 1);
    l->next = next;
    l->entries++;
    if (l->plus && e->node->held && e->node != root)
        fs_forget(fs, attr->id,
                  1); /* the reference taken for this entry counts once fn returned: one is left */
    else if (l->plus)
        e->node->held = true;
    return true;
}

static void same_listing(struct node *dir, bool plus)
{
    struct listing l = {.dir = dir, .plus = plus};
    uint64_t before;
    do { /* a listing that would have to wait in its middle ends there */
        before = l.next;
        l.full = false;
        l.limit = 1 + (unsigned)below(8);
        SAME(CALL(fs_readdir(fs, dir->id, l.next, plus, on_entry, &l)), 0);
    } while (l.full || l.next != before);
    SAME(l.entries, dir->entries);
}

static void same_node(struct node *n)
{
    static uint8_t buf[FILE_MAX];
    struct fs_attr a;
    size_t got;
    SAME(CALL(fs_getattr(fs, n->id, &a)), 0);
    same_attr(n, &a);
    same_xattrs(n);
    if (S_ISREG(n->mode)) {
        SAME(CALL(fs_read(fs, n->id, 0, buf, sizeof(buf), &got)), 0);
        SAME(got, n->size);
        SAME(memcmp(buf, n->data, got), 0);
    } else if (S_ISLNK(n->mode)) {
        SAME(CALL(fs_readlink(fs, n->id, (char *)buf, sizeof(buf), &got)), 0);
        SAME(got, n->size);
        SAME(memcmp(buf, n->data, got), 0);
    }
}

static void same_tree(struct node *dir)
{
    same_node(dir);
    same_listing(dir, below(2));
    same_listing(dir, true); /* holds all of it */
    for (unsigned i = 0; i < dir->entries; i++) {
        if (S_ISDIR(dir->entry[i].node->mode))
            same_tree(dir->entry[i].node);
        else
            same_node(dir->entry[i].node);
    }
}

static void compare_all(void)
{
    size_t inodes, orphans, linked = 0;
    same_tree(root);
    for (unsigned i = 0; i < NODES_MAX; i++) {
        struct node *n = &nodes[i];
        if (n->used && n->nlink == 0)
            same_node(n);
        linked += n->used && n->nlink > 0;
    }
    SAME(check_store(fs_lsm(fs), &inodes, &orphans), 0);
    SAME(inodes >= linked, 1);
}

static void open_again(void)
{
    struct fs_options o = {.lsm = {.flags = LSM_CREATE | LSM_INLINE,
                                   .shards = 3,
                                   .memory_bytes = 16u << 20,
                                   .env = env,
                                   .write_buffer_bytes = 1u << 20,
                                   .log_segment_bytes = 4u << 20},
                           .test_hash_bits = hash_bits};
    if (fs)
        SAME(fs_close(fs), 0);
    SAME(fs_open("/store", &o, &fs), 0);
    for (unsigned i = 0; i < NODES_MAX; i++) {
        struct node *n = &nodes[i];
        if (!n->used || n == root)
            continue;
        n->held = false;
        node_settle(n);
    }
}

static void do_rare(void)
{
    switch (below(12)) {
    case 0:
        open_again();
        compare_all();
        break;
    case 1:
    case 2: compare_all(); break;
    case 3: SAME(lsm_flush(fs_lsm(fs)), 0); break;
    case 4:
        if (below(6) == 0)
            SAME(lsm_compact(fs_lsm(fs)), 0);
        break;
    default: fs_work(fs);
    }
}

static void one_step(void)
{
    uint64_t which = below(100);
    if (which < 18)
        do_create();
    else if (which < 26)
        do_lookup();
    else if (which < 34)
        do_forget();
    else if (which < 41)
        do_link();
    else if (which < 51)
        do_remove(false);
    else if (which < 56)
        do_remove(true);
    else if (which < 66)
        do_rename();
    else if (which < 78)
        do_write();
    else if (which < 83)
        do_read();
    else if (which < 88)
        do_setattr();
    else if (which < 91)
        do_punch();
    else if (which < 97)
        do_xattr();
    else
        do_rare();
    while (lsm_work(fs_lsm(fs)) > 0)
        ;
}

/* Removes all that has a name; with all forgotten nothing may be left. */
static void clean_up(struct node *dir)
{
    while (dir->entries > 0) {
        struct dirent_model *e = &dir->entry[0];
        struct node *n = e->node;
        if (S_ISDIR(n->mode)) {
            clean_up(n);
            SAME(fs_rmdir(fs, dir->id, e->name, e->len), 0);
        } else {
            SAME(fs_unlink(fs, dir->id, e->name, e->len), 0);
        }
        remove_entry(dir, e);
        drop_link(n);
    }
}

static void run(unsigned bits)
{
    size_t inodes, orphans;
    struct fs_stats stats;

    memset(nodes, 0, sizeof(nodes));
    hash_bits = bits;
    env = env_mem_new();
    root = node_new(S_IFDIR | 0755);
    root->id = FS_ID_ROOT;
    root->held = true;
    root->uid = geteuid();
    root->gid = getegid();
    open_again();
    for (step = 0; step < STEPS; step++)
        one_step();
    compare_all();
    clean_up(root);
    for (unsigned i = 0; i < NODES_MAX; i++) {
        if (!nodes[i].used || &nodes[i] == root)
            continue;
        fs_forget(fs, nodes[i].id, 1);
        nodes[i].held = false;
        node_settle(&nodes[i]);
        SAME(nodes[i].used, 0);
    }
    while (fs_work(fs))
        ;
    fs_stats_get(fs, &stats);
    SAME(stats.inodes, 1);
    SAME(stats.orphans, 0);
    SAME(check_store(fs_lsm(fs), &inodes, &orphans), 0);
    SAME(inodes, root->xattr[0].set || root->xattr[1].set || root->xattr[2].set ? inodes : 1);
    SAME(orphans, 0);
    SAME(fs_close(fs), 0);
    fs = NULL;
    env_mem_free(env);
}

static void test_full_hash(void **arg)
{
    (void)arg;
    run(0);
}

static void test_colliding(void **arg)
{
    (void)arg;
    run(2);
    printf("%u calls would have had to wait\n", turned_away);
    assert_true(turned_away > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full_hash), cmocka_unit_test(test_colliding)};
    const char *given = getenv("SHALE_SEED");
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec % 1000;
    state = seed;
    printf("replay: SHALE_SEED=%llu test_fs_model\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
