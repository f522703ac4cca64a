/*
 * rename.c - one name takes the place of another, or two names change places, in one batch.
 *
 * Locks: both directories and both inodes exclusively, then the buckets of both names. The inodes
 * are learned without a lock and checked with it, as for unlink (namespace.c). While a directory
 * changes its parent fs->dir_rename is held, from before all other locks: so the chain of
 * parents stands still while it is searched for a loop.
 *
 * An inode that lives in its entry moves to a new home. It gets an index that is free while the
 * old entries are still there, or that of the name it replaces: so a key 0x06 is never written and deleted
 * for two files in one batch, except that the replaced file's is deleted first.
 */
#include "data.h"
#include "drop.h"
#include "mutant.h"
#include "txn.h"
#include "nowait.h"
#include <assert.h>
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* One of the two names, and what it means. */
struct side {
    fs_id dir;
    const char *name;
    size_t len;
    uint64_t hash;
    fs_id id; /* 0: the name does not exist */
    uint32_t type;
    unsigned index;        /* of the entry */
    struct bucket *bucket; /* both sides' may be the same */
    struct inode ino;
    uint8_t *record; /* of the inode that comes to this side */
};

struct renaming {
    struct txn txn;
    struct lockset locks;
    const struct fs_caller *caller;
    unsigned flags;
    bool tree_locked;
    struct side from, to;
    struct drop drop;  /* the inode that `to` named */
    uint8_t *whiteout; /* its record */
    struct bucket bucket[2];
};

/* ---- looking ---- */

static int side_load(struct fs *fs, struct side *s)
{
    struct itable_info info;

    int r = fs_dir_check(fs, s->dir, &info);
    if (r == 0)
        r = bucket_load(fs, s->dir, s->hash, s->bucket);
    return r;
}

static void side_find(const struct side *s, fs_id *id, uint32_t *type, unsigned *index)
{
    struct bucket_entry *e = bucket_find(s->bucket, s->name, s->len);
    *id = e ? e->id : 0;
    *type = e ? e->type : 0;
    *index = e ? e->index : 0;
}

static int side_peek(struct fs *fs, struct side *s)
{
    int r = side_load(fs, s);
    if (r == 0)
        side_find(s, &s->id, &s->type, &s->index);
    bucket_release(s->bucket);
    return r;
}

static int check_existence(const struct renaming *rn)
{
    if (rn->from.id == 0 || (rn->flags & RENAME_EXCHANGE && rn->to.id == 0))
        return -ENOENT;
    return rn->to.id != 0 && rn->flags & RENAME_NOREPLACE ? -EEXIST : 0;
}

static int check_kinds(const struct renaming *rn)
{
    const struct side *from = &rn->from, *to = &rn->to;

    if (to->id == 0 || rn->flags & RENAME_EXCHANGE)
        return 0;
    if (from->type == S_IFDIR && to->type != S_IFDIR)
        return -ENOTDIR;
    if (from->type != S_IFDIR && to->type == S_IFDIR)
        return -EISDIR;
    return 0;
}

/*
 * -EINVAL if `dir` is `id` or lies below it. Damage can make a loop of parents: as Brent has it (1980), an
 * ancestor is remembered at every power of two, and met again if there is a loop.
 */
static int check_not_below(struct fs *fs, fs_id dir, fs_id id)
{
    struct itable_info info = {.home = {.kind = HOME_DIR}};
    fs_id seen = 0;

    for (uint64_t steps = 1;; steps++) {
        struct inode_view v;
        if (dir == id)
            return -EINVAL;
        if (dir == FS_ID_ROOT)
            return 0;
        int r = inode_view(fs, dir, &info, &v);
        dir = v.ino.home.parent;
        inode_view_release(&v);
        if (r < 0)
            return r;
        if (dir == seen) {
            struct key key = key_plain(dir, KEY_DIR);
            return fs_damaged(fs, &key, "the directory lies in itself");
        }
        if ((steps & (steps - 1)) == 0)
            seen = dir;
    }
}

static int check_loop(const struct renaming *rn)
{
    struct fs *fs = rn->txn.fs;
    int r = 0;

    if (rn->from.dir == rn->to.dir)
        return 0;
    if (rn->from.type == S_IFDIR)
        r = check_not_below(fs, rn->to.dir, rn->from.id);
    if (r == 0 && rn->flags & RENAME_EXCHANGE && rn->to.type == S_IFDIR)
        r = check_not_below(fs, rn->from.dir, rn->to.id);
    return r;
}

/* ---- locking ---- */

static int lock_all(struct renaming *rn)
{
    struct fs *fs = rn->txn.fs;
    struct bucket_name names[2] = {{rn->from.dir, rn->from.hash}, {rn->to.dir, rn->to.hash}};

    if (rn->from.dir != rn->to.dir && (rn->from.type == S_IFDIR || rn->to.type == S_IFDIR)) {
        int r = lock_mutex(&fs->dir_rename);
        if (r < 0)
            return r;
        rn->tree_locked = true;
    }
    lockset_inode(&rn->locks, rn->from.dir, true);
    lockset_inode(&rn->locks, rn->to.dir, true);
    lockset_inode(&rn->locks, rn->from.id, true);
    if (rn->to.id != 0)
        lockset_inode(&rn->locks, rn->to.id, true);
    int r = txn_lock(&rn->txn, &rn->locks);
    return r < 0 ? r : lockset_buckets(&rn->locks, names, 2);
}

static void unlock_all(struct renaming *rn)
{
    lockset_release(&rn->locks);
    if (rn->tree_locked)
        pthread_mutex_unlock(&rn->txn.fs->dir_rename);
    rn->tree_locked = false;
}

/* Reads again what was peeked at. -ERESTART: it has changed. */
static int load_all(struct renaming *rn)
{
    struct fs *fs = rn->txn.fs;
    struct side *sides[2] = {&rn->from, &rn->to};
    struct itable_info info;

    int r = side_load(fs, &rn->from);
    if (r == 0 && rn->from.dir == rn->to.dir && rn->from.hash == rn->to.hash)
        rn->to.bucket = rn->from.bucket;
    else if (r == 0)
        r = side_load(fs, &rn->to);
    if (r == 0)
        r = fs_dir_check(fs, rn->to.dir, &info);
    for (unsigned i = 0; i < 2 && r == 0; i++) {
        fs_id id;
        uint32_t type;
        side_find(sides[i], &id, &type, &sides[i]->index);
        if (id != sides[i]->id)
            r = -ERESTART;
    }
    return r;
}

/* ---- moving ---- */

/* The inode that `at` named gets the name of `to`: stores it there. `index` is free. */
static int move_inode(struct renaming *rn, struct side *at, struct side *to, unsigned index)
{
    struct txn *t = &rn->txn;
    struct inode *ino = &at->ino;
    struct bucket_entry e = {.name = to->name,
                             .name_len = (uint8_t)to->len,
                             .id = at->id,
                             .type = at->type,
                             .index = (uint8_t)index};
    int r = 0;

    ino->attr.ctime = t->now;
    if (ino->home.kind == HOME_ENTRY) {
        struct inode_home home = {HOME_ENTRY, to->dir, to->hash, index};
        r = data_rehome(t->fs->db, ino, &home, t->batch);
        to->record = r == 0 ? malloc(record_inode_max(ino)) : NULL;
        if (r == 0 && !to->record)
            r = -ENOMEM;
        if (r < 0)
            return r;
        e.record = to->record;
        e.record_len = (uint32_t)record_inode_encode(ino, to->record);
    } else {
        if (ino->home.kind == HOME_DIR && !mutant("a moved directory keeps its parent"))
            ino->home.parent = to->dir;
        r = inode_store(t->fs, ino, t->batch);
    }
    bucket_add(to->bucket, &e);
    txn_touch(t, to->dir, 1, to->len, at->type);
    return r;
}

/* What stays at the old name for an overlay filesystem: a character device 0:0. */
static int add_whiteout(struct renaming *rn, unsigned index)
{
    struct txn *t = &rn->txn;
    struct fs *fs = t->fs;
    struct side *from = &rn->from;
    struct itable_info dir = {.home = {.kind = HOME_DIR}};
    struct inode ino = {.attr = {.mode = S_IFCHR, .nlink = 1}};
    struct inode_view v;
    uint64_t serial;

    int r = inode_view(fs, from->dir, &dir, &v);
    ino.attr.uid = rn->caller->uid;
    ino.attr.gid = rn->caller->gid;
    if (r == 0 && v.ino.attr.mode & S_ISGID)
        ino.attr.gid = v.ino.attr.gid;
    inode_view_release(&v);
    if (r == 0)
        r = ids_next(&fs->ids, &serial);
    if (r < 0)
        return r;
    ino.attr.btime = ino.attr.ctime = ino.attr.mtime = ino.attr.atime = t->now;
    rn->whiteout = malloc(record_inode_max(&ino));
    if (!rn->whiteout)
        return -ENOMEM;
    struct bucket_entry e = {.name = from->name,
                             .name_len = (uint8_t)from->len,
                             .type = S_IFCHR,
                             .id = (uint64_t)id_vshard(from->dir) << 52 | serial,
                             .index = (uint8_t)index,
                             .record = rn->whiteout};
    e.record_len = (uint32_t)record_inode_encode(&ino, rn->whiteout);
    bucket_add(from->bucket, &e);
    txn_touch(t, from->dir, 1, from->len, S_IFCHR);
    return 0;
}

static int load_inode(struct renaming *rn, const struct side *s, struct inode *out)
{
    struct bucket_entry *e = bucket_at(s->bucket, s->index);
    assert(e && e->id == s->id);
    return inode_load_entry(rn->txn.fs, s->bucket, e, out);
}

static void take_name(struct renaming *rn, const struct side *s)
{
    bucket_remove(s->bucket, s->index);
    txn_touch(&rn->txn, s->dir, -1, s->len, s->type);
}

static int replace(struct renaming *rn)
{
    struct side *from = &rn->from, *to = &rn->to;
    int index = (int)to->index;

    int r = load_inode(rn, from, &from->ino);
    if (r == 0 && to->id != 0) {
        r = load_inode(rn, to, &rn->drop.ino);
        if (r == 0 && !mutant("a replaced file is not dropped"))
            r = drop_prepare(&rn->txn, &rn->drop);
        if (r == 0)
            take_name(rn, to);
    } else if (r == 0) {
        index = bucket_free_index(to->bucket);
        r = index < 0 ? index : 0;
    }
    if (r < 0)
        return r;
    take_name(rn, from);
    if (rn->flags & RENAME_WHITEOUT)
        r = add_whiteout(rn, from->index);
    return r < 0 ? r : move_inode(rn, from, to, (unsigned)index);
}

static int exchange(struct renaming *rn)
{
    struct side *from = &rn->from, *to = &rn->to;

    int r = load_inode(rn, from, &from->ino);
    if (r == 0)
        r = load_inode(rn, to, &to->ino);
    if (r < 0)
        return r;
    int to_index = bucket_free_index(to->bucket);
    if (to_index < 0)
        return to_index;
    r = move_inode(rn, from, to, (unsigned)to_index);
    if (r < 0)
        return r;
    int from_index = bucket_free_index(from->bucket);
    if (from_index < 0)
        return from_index;
    r = move_inode(rn, to, from, (unsigned)from_index);
    if (r < 0)
        return r;
    take_name(rn, from);
    take_name(rn, to);
    return 0;
}

static int commit(struct renaming *rn)
{
    struct fs *fs = rn->txn.fs;
    struct side *sides[2] = {&rn->from, &rn->to};

    int r = bucket_put(rn->from.bucket, rn->txn.batch);
    if (r == 0 && rn->to.bucket != rn->from.bucket)
        r = bucket_put(rn->to.bucket, rn->txn.batch);
    rn->txn.shrinks = !(rn->flags & RENAME_WHITEOUT); /* as many names as before, or one less */
    if (r == 0)
        r = txn_commit(&rn->txn);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < 2; i++) {
        if (sides[i]->ino.attr.id == 0)
            continue; /* nothing moved from there */
        struct itable_info info = inode_info(&sides[i]->ino);
        itable_update(fs->inodes, sides[i]->id, &info);
    }
    drop_commit(fs, &rn->drop);
    return 0;
}

static int rename_locked(struct renaming *rn)
{
    int r = load_all(rn);
    if (r == 0)
        r = check_existence(rn);
    if (r == 0)
        r = check_loop(rn);
    if (r < 0 || rn->from.id == rn->to.id)
        return r; /* two names of one file: POSIX has nothing happen */
    r = check_kinds(rn);
    if (r == 0)
        r = rn->flags & RENAME_EXCHANGE ? exchange(rn) : replace(rn);
    return r < 0 ? r : commit(rn);
}

/* ---- the call ---- */

static void renaming_init(struct renaming *rn, struct fs *fs)
{
    lockset_init(&rn->locks, fs->locks);
    for (unsigned i = 0; i < 2; i++) {
        rn->bucket[i].count = 0;
        rn->bucket[i].value = (struct lsm_value){0};
    }
    rn->from.bucket = &rn->bucket[0];
    rn->to.bucket = &rn->bucket[1];
}

static void renaming_end(struct renaming *rn)
{
    unlock_all(rn);
    bucket_release(&rn->bucket[0]);
    bucket_release(&rn->bucket[1]);
    inode_release(&rn->from.ino);
    inode_release(&rn->to.ino);
    drop_release(&rn->drop);
    free(rn->from.record);
    free(rn->to.record);
    free(rn->whiteout);
    txn_end(&rn->txn);
}

static int rename_once(struct fs *fs, const struct fs_caller *caller, const struct side *from,
                       const struct side *to, unsigned flags)
{
    struct renaming rn;

    memset(&rn, 0, offsetof(struct renaming, bucket));
    rn.caller = caller;
    rn.flags = flags;
    rn.from = *from;
    rn.to = *to;
    renaming_init(&rn, fs);
    int r = txn_begin(&rn.txn, fs);
    if (r == 0)
        r = side_peek(fs, &rn.from);
    if (r == 0)
        r = side_peek(fs, &rn.to);
    if (r == 0 && rn.from.id == 0)
        r = -ENOENT;
    if (r == 0) {
        r = lock_all(&rn);
        if (r == 0)
            r = rename_locked(&rn);
    }
    renaming_end(&rn);
    return r;
}

static int check_arguments(const struct side *from, const struct side *to, unsigned flags)
{
    if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
        return -EINVAL;
    if (flags & RENAME_EXCHANGE && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT))
        return -EINVAL;
    int r = fs_name_check(from->name, from->len, -EBUSY);
    if (r == 0)
        r = fs_name_check(to->name, to->len, flags & RENAME_NOREPLACE ? -EEXIST : -EBUSY);
    return r;
}

int fs_rename(struct fs *fs, const struct fs_caller *caller, fs_id parent, const char *name, size_t len,
              fs_id new_parent, const char *new_name, size_t new_len, unsigned flags)
{
    struct side from = {.dir = parent, .name = name, .len = len};
    struct side to = {.dir = new_parent, .name = new_name, .len = new_len};

    int r = check_arguments(&from, &to, flags);
    if (r < 0)
        return r;
    from.hash = fs_name_hash(fs, name, len);
    to.hash = fs_name_hash(fs, new_name, new_len);
    do
        r = rename_once(fs, caller, &from, &to, flags);
    while (r == -ERESTART);
    return r;
}
