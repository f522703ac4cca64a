/*
 * fs_ops.c - the operations of the filesystem's histories: what is called, and what the model says of it.
 *
 * An inode may be passed in only while a reference on it is held. So an operation looks up what it needs, as the kernel
 * would, and after it some references are given back.
 */
#include "fs_history.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define WRITE_MAX 70000u
#define SCATTERED 300u /* extents, more than DATA_STEP */

/* ---- choosing, and referring to it ---- */

static unsigned pick(struct run *r, bool dir)
{
    const struct tree *t = run_tree(r);
    unsigned found = TREE_ROOT, seen = 0;

    for (unsigned i = 0; i < TREE_NODES; i++) {
        const struct node *n = t->node[i];
        if (!n || (n->attr.nlink == 0 && !r->own->held[i]))
            continue;
        if ((!dir || S_ISDIR(n->attr.mode) || run_one_in(r, 40)) && run_one_in(r, ++seen))
            found = i;
    }
    return found;
}

/* A file, mostly; where one is scattered, often that one. */
static unsigned pick_file(struct run *r)
{
    const struct tree *t = run_tree(r);
    unsigned i = pick(r, false);

    if (r->profile->scattered && run_one_in(r, 3))
        i = t->child[TREE_ROOT][0];
    for (unsigned tries = 0; tries < 3 && !S_ISREG(t->node[i]->attr.mode); tries++)
        i = pick(r, false);
    return i;
}

static unsigned pick_name(struct run *r) { return (unsigned)run_below(r, TREE_NAMES); }

/* A name of a directory: most often one that is there. */
static unsigned pick_entry(struct run *r, unsigned dir)
{
    unsigned name = pick_name(r);

    for (unsigned tries = 0; tries < 4 && !run_tree(r)->child[dir][name]; tries++)
        name = pick_name(r);
    return name;
}

static fs_id id_of(struct run *r, unsigned i) { return run_tree(r)->node[i]->attr.id; }

static bool check_attr(struct run *r, unsigned i, const struct fs_attr *attr, const char *from)
{
    const struct node *n = run_tree(r)->node[i];
    struct node got = *n;
    const char *what;

    got.attr = *attr;
    if (n->attr.id != attr->id)
        proof_fail("%s: %s tells inode number %llx, which was %llx", r->op, from,
                   (unsigned long long)attr->id, (unsigned long long)n->attr.id);
    else if (!node_same(n, &got, &what))
        proof_fail("%s: %s tells a wrong %s", r->op, from, what);
    return !proof_failed;
}

/* The number of inode i, which was not known. */
static void learn(struct run *r, unsigned i, fs_id id)
{
    struct tree *t = run_tree_own(r);
    uint64_t digest = t->digest, serial = id & ((UINT64_C(1) << 52) - 1);

    if (serial <= t->node[i]->after)
        proof_fail("%s: inode number %llx was given out before", r->op, (unsigned long long)id);
    tree_own(t, i)->attr.id = id;
    t->digest = digest;
    t->serial = serial > t->serial ? serial : t->serial;
}

static int hold(struct run *r, unsigned i)
{
    struct fs_attr attr;
    unsigned dir, name;

    if (i == TREE_ROOT || r->own->held[i])
        return 0;
    if (!tree_place(run_tree(r), i, &dir, &name))
        abort();
    int err = hold(r, dir);
    if (err)
        return err;
    struct tree_name n = tree_name(name);
    err = fs_lookup(r->own->fs, id_of(r, dir), n.text, n.len, &attr);
    if (err)
        return run_failed(r, err);
    r->own->held[i]++;
    if (id_of(r, i) == 0)
        learn(r, i, attr.id);
    check_attr(r, i, &attr, "lookup");
    return 0;
}

/*
 * Now and then as a thread that may not wait: -EAGAIN has changed nothing, and the same is called again as one that may.
 */
#define CALL(r, got, call)           \
    do {                             \
        fs_nowait(run_one_in(r, 3)); \
        (got) = (call);              \
        fs_nowait(false);            \
        if ((got) == -EAGAIN)        \
            (got) = (call);          \
    } while (0)

/* Of a call that must find space on a full disk, too. */
static int end_freeing(struct run *r, int got, int want, bool maybe)
{
    if (got == -ENOSPC && want == 0 && r->deletes_work)
        proof_fail("%s finds no space on a full disk, and must", r->op);
    return run_end(r, got, want, maybe);
}

/* ---- names ---- */

static int make_at(struct run *r, unsigned dir_index, unsigned name_index, uint32_t mode)
{
    struct tree_create c = {.dir = dir_index, .name = name_index, .mode = mode};
    struct fs *fs = r->own->fs;
    struct timespec now;
    struct fs_attr attr;
    unsigned i = 0;
    int got;

    if (!tree_has_room(run_tree(r)) || hold(r, c.dir))
        return r->last_error;
    c.caller = (struct fs_caller){(uint32_t)run_below(r, 5), (uint32_t)run_below(r, 5),
                                  (uint32_t)run_below(r, 01000)};
    c.rdev = run_below(r, 1000);
    size_t len = 1 + run_below(r, run_one_in(r, 3) ? FS_SYMLINK_MAX : 300);
    if (S_ISLNK(mode))
        c.target = bytes_random(len, run_draw(r));
    struct bytes *target = c.target;
    if (target)
        target->refs++; /* the model takes one over */
    struct tree *next = run_next(r, &now);
    int want = tree_create(next, &c, now, &i);
    run_begin(r, next, want);
    struct tree_name name = tree_name(c.name);
    fs_id dir = id_of(r, c.dir);
    if (target)
        got =
            fs_symlink(fs, &c.caller, dir, name.text, name.len, (const char *)target->at, target->len, &attr);
    else if (S_ISDIR(mode))
        CALL(r, got, fs_mkdir(fs, &c.caller, dir, name.text, name.len, mode, &attr));
    else
        CALL(r, got, fs_mknod(fs, &c.caller, dir, name.text, name.len, mode, c.rdev, &attr));
    bytes_unref(target);
    run_end(r, got, want, false);
    if (got || proof_failed)
        return got;
    r->own->held[i] = 1;
    learn(r, i, attr.id);
    check_attr(r, i, &attr, "it");
    return 0;
}

static int make(struct run *r, uint32_t mode)
{
    unsigned dir = pick(r, true);

    return make_at(r, dir, pick_name(r), mode);
}

static int op_create(struct run *r) { return make(r, S_IFREG | (uint32_t)run_below(r, 01000)); }
static int op_symlink(struct run *r) { return make(r, S_IFLNK | 0777); }

static int op_mkdir(struct run *r)
{
    return make(r, S_IFDIR | (run_one_in(r, 6) ? S_ISGID : 0) | (uint32_t)run_below(r, 01000));
}

static int op_mknod(struct run *r)
{
    static const uint32_t types[] = {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};

    return make(r, types[run_below(r, 4)] | (uint32_t)run_below(r, 01000));
}

static int op_link(struct run *r)
{
    unsigned i = pick_file(r), dir = pick(r, true), name = pick_name(r);
    struct tree_name n = tree_name(name);
    struct timespec now;
    struct fs_attr attr;

    if (hold(r, i) || hold(r, dir))
        return r->last_error;
    struct tree *next = run_next(r, &now);
    int want = tree_link(next, i, dir, name, now);
    run_begin(r, next, want);
    int got;
    CALL(r, got, fs_link(r->own->fs, id_of(r, i), id_of(r, dir), n.text, n.len, &attr));
    run_end(r, got, want, false);
    if (got == 0 && !proof_failed) {
        r->own->held[i]++;
        check_attr(r, i, &attr, "it");
    }
    return got;
}

static int remove_this(struct run *r, unsigned dir, unsigned name, bool rmdir)
{
    struct tree_name n = tree_name(name);
    struct timespec now;

    if (hold(r, dir))
        return r->last_error;
    unsigned i = run_tree(r)->child[dir][name];
    if (i && run_one_in(r, 3) && hold(r, i)) /* it lives on */
        return r->last_error;
    struct tree *next = run_next(r, &now);
    int want = tree_remove(next, dir, name, rmdir, now);
    run_begin(r, next, want);
    int got;
    CALL(r, got,
         rmdir ? fs_rmdir(r->own->fs, id_of(r, dir), n.text, n.len)
               : fs_unlink(r->own->fs, id_of(r, dir), n.text, n.len));
    end_freeing(r, got, want, false);
    tree_forget(run_tree_own(r), r->own->held);
    return got;
}

static int remove_name(struct run *r, bool rmdir)
{
    unsigned dir = pick(r, true);

    return remove_this(r, dir, pick_entry(r, dir), rmdir);
}

static int op_unlink(struct run *r) { return remove_name(r, false); }
static int op_rmdir(struct run *r) { return remove_name(r, true); }

static int op_rename(struct run *r)
{
    static const unsigned all_flags[] = {
        0, 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, RENAME_WHITEOUT};
    unsigned from = pick(r, true), to = run_one_in(r, 3) ? from : pick(r, true),
             flags = all_flags[run_below(r, 8)];
    unsigned name = pick_entry(r, from), new_name = run_one_in(r, 2) ? pick_entry(r, to) : pick_name(r);
    struct tree_name n = tree_name(name), m = tree_name(new_name);
    struct fs_caller caller = {(uint32_t)run_below(r, 5), (uint32_t)run_below(r, 5), 0};
    struct timespec now;

    if (flags & RENAME_WHITEOUT && !tree_has_room(run_tree(r)))
        return 0;
    if (hold(r, from) || hold(r, to))
        return r->last_error;
    unsigned target = run_tree(r)->child[to][new_name];
    if (target && run_one_in(r, 3) && hold(r, target))
        return r->last_error;
    struct tree *next = run_next(r, &now);
    int want = tree_rename(next, from, name, to, new_name, flags, &caller, now);
    run_begin(r, next, want);
    int got;
    CALL(r, got,
         fs_rename(r->own->fs, &caller, id_of(r, from), n.text, n.len, id_of(r, to), m.text, m.len, flags));
    flags &RENAME_WHITEOUT ? run_end(r, got, want, false) : end_freeing(r, got, want, false);
    tree_forget(run_tree_own(r), r->own->held);
    return got;
}

static int op_lookup(struct run *r)
{
    unsigned dir = pick(r, true), name = pick_name(r);
    struct tree_name n = tree_name(name);
    struct fs_attr attr;
    int want = 0;

    if (hold(r, dir))
        return r->last_error;
    const struct tree *t = run_tree(r);
    unsigned i = t->child[dir][name];
    if (!S_ISDIR(t->node[dir]->attr.mode))
        want = -ENOTDIR;
    else if (!i)
        want = -ENOENT;
    int got;
    CALL(r, got, fs_lookup(r->own->fs, id_of(r, dir), n.text, n.len, &attr));
    if (got == 0 && want == 0) {
        r->own->held[i]++;
        if (id_of(r, i) == 0) /* made by a call whose answer was lost */
            learn(r, i, attr.id);
        check_attr(r, i, &attr, "it");
    } else if (got != want && !r->errors_allowed) {
        proof_fail("lookup: %s; it must be: %s", strerror(-got), strerror(-want));
    }
    return r->last_error = got != want ? got : 0;
}

/* ---- contents ---- */

static uint64_t pick_offset(struct run *r, uint64_t size)
{
    switch (run_below(r, 4)) {
    case 0: return size;
    case 1: return run_below(r, 5000);
    case 2: return run_below(r, size + 100);
    default: return run_one_in(r, 3) ? run_below(r, 200000) : run_below(r, size + 1);
    }
}

static size_t pick_length(struct run *r)
{
    switch (run_below(r, 8)) {
    case 0: return 1 + run_below(r, WRITE_MAX);
    case 1:
    case 2: return 1 + run_below(r, 5000);
    default: return 1 + run_below(r, 400);
    }
}

static int write_at(struct run *r, unsigned i, uint64_t off, size_t len)
{
    struct timespec now;

    if (off + len > TREE_FILE_MAX || hold(r, i))
        return r->last_error;
    struct bytes *b = bytes_random(len, run_draw(r));
    struct tree *next = run_next(r, &now);
    int want = tree_write(next, i, off, b->at, len, now);
    run_begin(r, next, want);
    int got;
    CALL(r, got, fs_write(r->own->fs, id_of(r, i), off, b->at, len));
    bytes_unref(b);
    return run_end(r, got, want, false);
}

static int op_write(struct run *r)
{
    unsigned i = pick_file(r);

    return write_at(r, i, pick_offset(r, run_tree(r)->node[i]->attr.size), pick_length(r));
}

static int op_append(struct run *r)
{
    unsigned i = pick_file(r);

    return write_at(r, i, run_tree(r)->node[i]->attr.size, pick_length(r));
}

static int set_attributes(struct run *r, unsigned i, unsigned set, const struct fs_attr *in)
{
    bool shrinks = set & FS_SET_SIZE && in->size < run_tree(r)->node[i]->attr.size;
    struct timespec now;
    struct fs_attr attr;

    if (hold(r, i))
        return r->last_error;
    struct tree *next = run_next(r, &now);
    int want = tree_setattr(next, i, set, in, now);
    run_begin(r, next, want);
    int got;
    CALL(r, got, fs_setattr(r->own->fs, id_of(r, i), set, in, &attr));
    end_freeing(r, got, want, shrinks && got); /* what lies beyond the new size may go in steps */
    if (got == 0 && !proof_failed && !r->perhaps_applied)
        check_attr(r, i, &attr, "it");
    return got;
}

static int op_truncate(struct run *r)
{
    unsigned i = pick_file(r);
    uint64_t size = run_tree(r)->node[i]->attr.size;
    struct fs_attr in = {.size = pick_offset(r, size)};

    if (size && run_one_in(r, 2))
        in.size = run_below(r, run_one_in(r, 3) ? 1 : size);
    return in.size > TREE_FILE_MAX ? 0 : set_attributes(r, i, FS_SET_SIZE, &in);
}

static int fallocate(struct run *r, unsigned i, int mode, uint64_t off, uint64_t len)
{
    struct timespec now;

    if (off + len > TREE_FILE_MAX || hold(r, i))
        return r->last_error;
    struct tree *next = run_next(r, &now);
    int want = tree_fallocate(next, i, mode, off, len, now);
    bool punches = mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
    r->own->part = (struct part){punches && want == 0, i, off, off + len, now};
    run_begin(r, next, want);
    int got;
    CALL(r, got, fs_fallocate(r->own->fs, id_of(r, i), mode, off, len));
    return run_end(r, got, want, punches && got);
}

static int op_fallocate(struct run *r)
{
    static const int modes[] = {0,
                                FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE,
                                FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
    unsigned i = pick_file(r);
    uint64_t off = pick_offset(r, run_tree(r)->node[i]->attr.size), len = 1 + run_below(r, 100000);

    if (run_one_in(r, 4))
        off = run_below(r, 2000);
    if (run_one_in(r, 2))
        len = pick_length(r);
    return fallocate(r, i, modes[run_below(r, 6)], off, len);
}

static int op_reap(struct run *r)
{
    (void)fs_work(r->own->fs);
    return 0;
}

/* What takes several steps, if it is done to the scattered file. */
static int op_cut(struct run *r)
{
    unsigned i = run_tree(r)->child[TREE_ROOT][0];
    struct node *n = i ? run_tree(r)->node[i] : NULL;
    struct fs_attr in = {.size = run_below(r, 3) * run_below(r, 6000)};

    if (!n || !S_ISREG(n->attr.mode) || n->attr.size < 80000)
        return op_truncate(r);
    if (run_one_in(r, 4))
        return fallocate(r, i, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, run_below(r, 5000), 100000);
    if (!run_one_in(r, 3))
        return set_attributes(r, i, FS_SET_SIZE, &in);
    int err = remove_this(r, TREE_ROOT, 0, false);
    for (unsigned steps = 0; !err && !proof_failed && steps < 4; steps++)
        err = op_reap(r);
    return err;
}

void op_scatter(struct run *r)
{
    struct fs_attr in = {.size = 0};
    unsigned i = run_tree(r)->child[TREE_ROOT][0];

    r->op = "scatter";
    if (!i)
        make_at(r, TREE_ROOT, 0, S_IFREG | 0644);
    i = run_tree(r)->child[TREE_ROOT][0];
    if (!i || !S_ISREG(run_tree(r)->node[i]->attr.mode) || set_attributes(r, i, FS_SET_SIZE, &in))
        return;
    for (unsigned k = 0; k < SCATTERED && !proof_failed && !r->last_error; k++) {
        write_at(r, i, 300 * k, 9);
        run_work(r);
    }
    r->own->scattered = run_one_in(r, 2);
}

static int op_setattr(struct run *r)
{
    struct fs_attr in = {.mode = (uint32_t)run_below(r, 010000),
                         .uid = (uint32_t)run_below(r, 9),
                         .gid = (uint32_t)run_below(r, 9),
                         .atime = {(time_t)run_below(r, 2000000000), 5},
                         .mtime = {(time_t)run_below(r, 2000000000) - 1000000000, 999999999},
                         .ctime = {(time_t)run_below(r, 2000000000), 0}};
    unsigned set = (unsigned)run_draw(r) & ~(unsigned)FS_SET_SIZE & (2 * FS_SET_MTIME_NOW - 1);

    if (!run_one_in(r, 8))
        set &= ~(unsigned)FS_SET_CTIME;
    return set_attributes(r, pick(r, false), set, &in);
}

void op_change(struct run *r)
{
    struct fs_attr in = {.mode = (uint32_t)run_below(r, 01000)}, out;

    r->op = "setattr";
    if (!r->in_doubt) {
        set_attributes(r, TREE_ROOT, FS_SET_MODE, &in);
        return;
    }
    /* The store is read-only, and what it left in states[] is still needed. */
    int err = fs_setattr(r->own->fs, FS_ID_ROOT, FS_SET_MODE, &in, &out);
    if (!err)
        proof_fail("a filesystem takes a change after one has ended it");
    run_failed(r, err);
}

/* Access times change by a change of its own, which may fail and fails nothing. */
static struct tree *begin_access(struct run *r, unsigned i, bool happens)
{
    struct timespec now;
    struct tree *next = run_next(r, &now);

    if (happens && r->profile->relatime)
        tree_accessed(next, i, now);
    return next;
}

static int op_read(struct run *r)
{
    unsigned i = pick_file(r);

    if (hold(r, i))
        return r->last_error;
    const struct node *n = run_tree(r)->node[i];
    bool link = S_ISLNK(n->attr.mode), dir = S_ISDIR(n->attr.mode);
    uint64_t size = n->attr.size, off = link ? 0 : run_below(r, size + 10);
    size_t len = link ? size : 1 + run_below(r, size + 10), got_bytes = 0,
           expected = off < size ? size - off : 0;
    int want = link || S_ISREG(n->attr.mode) ? 0 : dir ? -EISDIR : -EINVAL;

    expected = expected < len ? expected : len;
    struct bytes *content = n->content, *b = bytes_new(len);
    run_begin(r, begin_access(r, i, want == 0), want);
    int got;
    CALL(r, got,
         link ? fs_readlink(r->own->fs, id_of(r, i), (char *)b->at, len, &got_bytes)
              : fs_read(r->own->fs, id_of(r, i), off, b->at, len, &got_bytes));
    if (got == 0 && want == 0 &&
        (got_bytes != expected || (expected && memcmp(b->at, content->at + off, expected))))
        proof_fail("reading %zu bytes at %llu gives %zu, or others than were written", len,
                   (unsigned long long)off, got_bytes);
    bytes_unref(b);
    return run_end(r, got, want, r->profile->relatime);
}

struct listing {
    unsigned limit, count;
    uint64_t next;
};

static bool on_entry(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct listing *l = arg;

    (void)name, (void)len, (void)attr;
    if (l->count == l->limit)
        return false;
    l->count++;
    l->next = next;
    return true;
}

static int op_list(struct run *r)
{
    unsigned i = pick(r, true), entries = 2;
    struct listing l = {.limit = 1 + (unsigned)run_below(r, TREE_NAMES + 3)};

    if (hold(r, i))
        return r->last_error;
    for (unsigned k = 0; k < TREE_NAMES; k++)
        entries += run_tree(r)->child[i][k] != 0;
    bool dir = S_ISDIR(run_tree(r)->node[i]->attr.mode), alive = run_tree(r)->node[i]->attr.nlink > 0;
    int want = dir ? 0 : -ENOTDIR;
    entries = alive ? entries : 0;
    run_begin(r, begin_access(r, i, want == 0 && alive), want);
    uint64_t from;
    int got;
    do { /* a listing may stop anywhere, and goes on where it stopped */
        from = l.next;
        CALL(r, got, fs_readdir(r->own->fs, id_of(r, i), from, false, on_entry, &l));
    } while (got == 0 && l.next != from && l.count < l.limit);
    run_end(r, got, want, r->profile->relatime);
    if (got || proof_failed || r->errors_allowed)
        return got;
    if (l.count != (entries < l.limit ? entries : l.limit))
        proof_fail("a listing gives %u entries of %u, with room for %u", l.count, entries, l.limit);
    return 0;
}

/* ---- extended attributes ---- */

static int op_setxattr(struct run *r)
{
    static const int all_flags[] = {0, 0, 0, XATTR_CREATE, XATTR_REPLACE};
    unsigned i = pick(r, false), name = (unsigned)run_below(r, TREE_XATTRS_PLAIN);
    int flags = all_flags[run_below(r, 5)];
    size_t len = run_one_in(r, 2)   ? run_below(r, 100)
                 : run_one_in(r, 6) ? run_below(r, 65000)
                                    : run_below(r, 400);
    struct timespec now;

    if (hold(r, i))
        return r->last_error;
    struct bytes *value = bytes_random(len, run_draw(r));
    value->refs++;
    struct tree *next = run_next(r, &now);
    int want = tree_setxattr(next, i, name, value, flags, now);
    run_begin(r, next, want);
    int got;
    CALL(r, got, fs_setxattr(r->own->fs, id_of(r, i), tree_xattr_names[name], value->at, len, flags));
    bytes_unref(value);
    return run_end(r, got, want, false);
}

/* Small ones, and ones that don't fit into an inode. */
static int op_setacl(struct run *r)
{
    unsigned which = run_one_in(r, 2) ? TREE_ACL_ACCESS : TREE_ACL_DEFAULT;
    unsigned i = pick(r, which == TREE_ACL_DEFAULT);
    unsigned users = run_one_in(r, 4) ? (unsigned)run_below(r, 40) : (unsigned)run_below(r, 4);
    struct timespec now;

    if (hold(r, i))
        return r->last_error;
    struct bytes *acl = acl_random(users, run_draw(r));
    acl->refs++;
    struct tree *next = run_next(r, &now);
    int want = tree_setacl(next, i, which, acl, now);
    run_begin(r, next, want);
    int got;
    CALL(r, got, fs_setxattr(r->own->fs, id_of(r, i), tree_xattr_names[which], acl->at, acl->len, 0));
    bytes_unref(acl);
    return run_end(r, got, want, false);
}

static int remove_attribute(struct run *r, unsigned i, unsigned name)
{
    struct timespec now;

    if (hold(r, i))
        return r->last_error;
    struct tree *next = run_next(r, &now);
    int want = tree_removexattr(next, i, name, now);
    run_begin(r, next, want);
    int got;
    CALL(r, got, fs_removexattr(r->own->fs, id_of(r, i), tree_xattr_names[name]));
    return end_freeing(r, got, want, false);
}

static int op_removexattr(struct run *r)
{
    unsigned i = pick(r, false), name = (unsigned)run_below(r, TREE_XATTRS);

    for (unsigned tries = 0; tries < 10 && !run_tree(r)->node[i]->xattr[name]; tries++) {
        i = pick(r, false);
        name = (unsigned)run_below(r, TREE_XATTRS);
    }
    return remove_attribute(r, i, name);
}

/* ---- the whole ---- */

static int op_forget(struct run *r)
{
    run_forget(r, run_one_in(r, 2));
    return 0;
}

static void on_synced(void *arg, int result) { *(int *)arg = result; }

/* As FSYNC of a file or a directory comes: the answer is given by background work. */
static int op_fsync(struct run *r)
{
    int result = 1;

    fs_sync_async(r->own->fs, on_synced, &result);
    for (unsigned k = 0; result > 0 && k < 100 && lsm_work(r->db) >= 0; k++)
        ;
    if (result > 0) {
        proof_fail("a sync is never answered");
        return 0;
    }
    if (result == 0 && r->sync_lost && r->count > 0)
        proof_fail("an fsync succeeds after one of the same data has failed");
    if (result)
        r->sync_lost = true;
    else
        run_synced(r);
    return run_failed(r, result);
}

static int op_work(struct run *r)
{
    int did = lsm_work(r->db);

    return did < 0 ? run_failed(r, did) : 0;
}

static int op_sleep(struct run *r)
{
    env_sim_sleep(r->env, run_below(r, 2u * r->profile->options.commit_ms) * 1000000u);
    return run_work(r);
}

/* After commit_ms and the work it brings, everything is on the medium. */
static int op_settle(struct run *r)
{
    env_sim_sleep(r->env, 2u * r->profile->options.commit_ms * UINT64_C(1000000));
    int err = run_work(r);
    if (err == 0 && !r->sync_lost && !r->errors_allowed) {
        run_synced(r);
        check_durable(r, run_draw(r));
    }
    return err;
}

static int op_reap_all(struct run *r)
{
    run_reap(r);
    return 0;
}

static int op_check(struct run *r)
{
    run_check(r);
    return 0;
}

static int op_fsck(struct run *r)
{
    run_fsck(r, false);
    return 0;
}

static int op_reopen(struct run *r)
{
    int err = run_close(r);

    if (err || r->errors_allowed) /* what is found next is not so sure: left to who allowed them */
        return err;
    err = run_open(r);
    if (!err)
        run_check(r);
    return err;
}

bool run_is_made(const struct run *r) { return r->base + r->count > 0; }

int run_grow(struct run *r)
{
    r->op = "create";
    r->last_error = 0;
    return make_at(r, TREE_ROOT, pick_name(r), S_IFREG | 0644);
}

/* Removes the names that can go now: files, of which half are emptied before, and empty directories. */
static bool remove_some(struct run *r)
{
    struct fs_attr in = {.size = 0};
    unsigned dir, name;
    bool any = false;

    for (unsigned i = 1; i < TREE_NODES && !proof_failed && !r->last_error; i++) {
        const struct tree *t = run_tree(r);
        if (!t->node[i] || !tree_place(t, i, &dir, &name))
            continue;
        bool is_dir = S_ISDIR(t->node[i]->attr.mode), empty = true;
        for (unsigned k = 0; k < TREE_NAMES; k++)
            empty &= !is_dir || t->child[i][k] == 0;
        if (!empty)
            continue;
        if (S_ISREG(t->node[i]->attr.mode) && run_one_in(r, 2))
            r->last_error = set_attributes(r, i, FS_SET_SIZE, &in);
        if (!proof_failed && !r->last_error)
            r->last_error = remove_this(r, dir, name, is_dir);
        any = true;
    }
    return any && !proof_failed && !r->last_error;
}

int run_delete_all(struct run *r)
{
    run_check(r); /* what has become of the last call that failed */
    r->op = "delete";
    r->last_error = 0;
    while (!proof_failed && remove_some(r))
        ;
    for (unsigned name = 0; name < TREE_XATTRS && !proof_failed && !r->last_error; name++)
        if (run_tree(r)->node[TREE_ROOT]->xattr[name])
            r->last_error = remove_attribute(r, TREE_ROOT, name);
    int err = r->last_error;
    if (!proof_failed)
        run_reap(r);
    return err;
}

static const struct operation {
    const char *name;
    unsigned weight;
    int (*run)(struct run *r);
    bool changes; /* not to be tried once the store has ended */
} operations[] = {
    {"create", 10, op_create, true},    {"mkdir", 5, op_mkdir, true},
    {"symlink", 3, op_symlink, true},   {"mknod", 2, op_mknod, true},
    {"link", 5, op_link, true},         {"unlink", 7, op_unlink, true},
    {"rmdir", 3, op_rmdir, true},       {"rename", 10, op_rename, true},
    {"write", 9, op_write, true},       {"append", 6, op_append, true},
    {"truncate", 6, op_truncate, true}, {"cut", 5, op_cut, true},
    {"setattr", 3, op_setattr, true},   {"fallocate", 5, op_fallocate, true},
    {"read", 3, op_read, true},         {"list", 1, op_list, true},
    {"setxattr", 6, op_setxattr, true}, {"removexattr", 3, op_removexattr, true},
    {"setacl", 4, op_setacl, true},     {"lookup", 1, op_lookup, false},
    {"forget", 3, op_forget, false},    {"sync", 2, run_sync, false},
    {"fsync", 2, op_fsync, false},      {"work", 8, op_work, false},
    {"sleep", 3, op_sleep, false},      {"settle", 1, op_settle, false},
    {"flush", 3, run_flush, false},     {"compact", 1, run_compact, false},
    {"reap", 4, op_reap, false},        {"reap all", 1, op_reap_all, false},
    {"check", 1, op_check, false},      {"fsck", 1, op_fsck, false},
    {"reopen", 2, op_reopen, false},
};

void run_step(struct run *r)
{
    unsigned sum = 0;
    const struct operation *op = operations;

    if (proof_failed)
        return;
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
        sum += operations[i].weight;
    for (uint64_t at = run_below(r, sum); at >= op->weight; op++)
        at -= op->weight;
    if (r->own->scattered) {
        for (op = operations; op->run != op_cut;)
            op++;
        r->own->scattered = false;
    }
    r->op = op->name;
    r->last_error = 0;
    size_t mark = proof_enter(", %s", op->name);
    totals.operations++;
    if (r->perhaps_applied) /* nothing can be foretold until that is known */
        run_check(r);
    if (proof_failed || (r->perhaps_applied && op->changes)) {
        proof_leave(mark);
        return;
    }
    if (op->changes && r->in_doubt)
        op_change(r);
    else
        op->run(r);
    if (r->db && !proof_failed && run_one_in(r, 3))
        run_forget(r, false);
    if (r->db && !proof_failed && !r->last_error && run_one_in(r, 3))
        run_work(r);
    proof_leave(mark);
}
