/*
 * namespace.c - names: lookup, creation, links, removal. Renaming is in rename.c.
 *
 * Creation and removal hold the directory exclusively, lookup shared: under the directory's lock its
 * names stand still. The bucket's lock is needed beside it for changes, because the inodes in
 * a bucket are changed under that alone (change.h).
 *
 * What removes a name must lock the inode behind it, too, and learns which one that is only from the
 * bucket: it looks without a lock, locks all, and starts over if by then the name means another inode.
 * Each such round is somebody else's progress.
 */
#include "data.h"
#include "drop.h"
#include "mutant.h"
#include "txn.h"
#include "xattr.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- lookup ---- */

static int lookup_locked(struct fs *fs, fs_id parent, const char *name, size_t len, struct fs_attr *out)
{
    struct itable_info info;
    struct inode_view v;
    struct bucket b;

    int r = fs_dir_check(fs, parent, &info);
    if (r < 0)
        return r;
    r = bucket_load(fs, parent, fs_name_hash(fs, name, len), &b);
    struct bucket_entry *e = r == 0 ? bucket_find(&b, name, len) : NULL;
    if (r == 0 && !e)
        r = -ENOENT;
    if (r == 0) {
        r = inode_view_entry(fs, &b, e, &v);
        if (r == 0) {
            info = inode_info(&v.ino);
            r = itable_ref(fs->inodes, e->id, &info);
            *out = v.ino.attr;
        }
        inode_view_release(&v);
    }
    bucket_release(&b);
    return r;
}

int fs_lookup(struct fs *fs, fs_id parent, const char *name, size_t len, struct fs_attr *out)
{
    struct lockset locks;

    int r = fs_name_check(name, len, -EINVAL);
    if (r < 0)
        return r;
    lockset_init(&locks, fs->locks);
    lockset_inode(&locks, parent, false);
    r = lockset_acquire(&locks);
    if (r == 0)
        r = lookup_locked(fs, parent, name, len, out);
    lockset_release(&locks);
    return r;
}

void fs_forget(struct fs *fs, fs_id id, uint64_t count)
{
    struct itable_info last;

    if (!itable_forget(fs->inodes, id, count, &last))
        return;
    if (last.memory) {
        inode_release(last.memory);
        free(last.memory);
    }
    if (last.orphan)
        reaper_queue(fs->reaper, id);
}

/* ---- creation ---- */

/* Everything that creation needs; the same steps for each kind. */
struct creation {
    struct txn txn;
    struct lockset locks;
    fs_id parent;
    const char *name;
    size_t len;
    struct bucket bucket;
    struct itable_entry *entry;
    struct inode ino;
    uint32_t umask;
    bool inherits; /* the parent hands its group down, or perhaps an ACL */
};

/* A directory's virtual shard is a hash, so that directories spread; all else lies beside its parent. */
static int new_id(struct fs *fs, fs_id parent, bool dir, fs_id *id)
{
    uint64_t serial, vshard = id_vshard(parent);
    struct itable_info used;

    int r = ids_next(&fs->ids, &serial);
    if (r < 0)
        return r;
    if (dir)
        vshard = XXH3_64bits_withSeed(&serial, sizeof(serial), fs->hash_seed) & (ID_VSHARDS - 1);
    *id = vshard << 52 | serial;
    if (itable_find(fs->inodes, *id, &used)) {
        struct key lease = key_plain(ID_SUPER, KEY_LEASE);
        return fs_damaged(fs, &lease, "an id beyond all that were given out is in use");
    }
    return 0;
}

/*
 * In a directory with the setgid bit new files get its group, and new directories the bit as well. Permissions are by its
 * default ACL or the umask.
 */
static int inherit(struct creation *c)
{
    struct itable_info info = {.home = {.kind = HOME_DIR}};
    uint32_t *mode = &c->ino.attr.mode;
    struct inode_view v;

    if (!c->inherits) {
        *mode &= S_ISLNK(*mode) ? ~0u : ~(c->umask & 0777u);
        return 0;
    }
    int r = inode_view(c->txn.fs, c->parent, &info, &v);
    if (r == 0 && v.ino.attr.mode & S_ISGID) {
        c->ino.attr.gid = v.ino.attr.gid;
        if (S_ISDIR(*mode) && !mutant("setgid is not inherited"))
            *mode |= S_ISGID;
    }
    if (r == 0)
        r = xattr_inherit(c->txn.fs, &v.ino, &c->ino, c->umask, c->txn.batch);
    inode_view_release(&v);
    return r;
}

/* Locks the directory and finds a place for the name. */
static int creation_place(struct creation *c, int *index)
{
    struct fs *fs = c->txn.fs;
    struct bucket_name place = {c->parent, fs_name_hash(fs, c->name, c->len)};
    struct itable_info info;

    lockset_inode(&c->locks, c->parent, true);
    int r = txn_lock(&c->txn, &c->locks);
    if (r == 0)
        r = fs_dir_check(fs, c->parent, &info);
    if (r != 0)
        return r;
    c->inherits = info.setgid || info.default_acl;
    r = lockset_buckets(&c->locks, &place, 1);
    if (r == 0)
        r = bucket_load(fs, place.dir, place.hash, &c->bucket);
    if (r < 0)
        return r;
    if (bucket_find(&c->bucket, c->name, c->len))
        return -EEXIST;
    *index = bucket_free_index(&c->bucket);
    return *index < 0 ? *index : 0;
}

static int creation_begin(struct creation *c, struct fs *fs, const struct fs_caller *caller, fs_id parent,
                          const char *name, size_t len, uint32_t mode)
{
    memset(c, 0, offsetof(struct creation, bucket));
    c->bucket.count = 0;
    c->bucket.value = (struct lsm_value){0};
    c->entry = NULL;
    c->ino = (struct inode){.attr = {.mode = mode, .uid = caller->uid, .gid = caller->gid}};
    c->ino.attr.nlink = S_ISDIR(mode) ? 2 : 1;
    c->parent = parent;
    c->umask = caller->umask;
    c->name = name;
    c->len = len;
    lockset_init(&c->locks, fs->locks);
    int r = txn_begin(&c->txn, fs);
    if (r == 0)
        r = fs_name_check(name, len, -EEXIST);
    if (r < 0)
        return r;
    int index = 0;
    r = creation_place(c, &index);
    if (r == 0)
        r = new_id(fs, parent, S_ISDIR(mode), &c->ino.attr.id);
    if (r == 0)
        r = inherit(c);
    struct fs_attr *a = &c->ino.attr;
    a->atime = a->mtime = a->ctime = a->btime = c->txn.now;
    c->ino.home = (struct inode_home){HOME_ENTRY, parent, c->bucket.hash, (unsigned)index};
    if (S_ISDIR(mode))
        c->ino.home = (struct inode_home){.kind = HOME_DIR, .parent = parent};
    return r;
}

static int creation_store(struct creation *c, unsigned index)
{
    struct fs *fs = c->txn.fs;
    uint8_t *record = NULL;
    int r = 0;
    struct bucket_entry e = {.name = c->name,
                             .name_len = (uint8_t)c->len,
                             .id = c->ino.attr.id,
                             .type = c->ino.attr.mode & S_IFMT,
                             .index = (uint8_t)index};

    if (c->ino.home.kind == HOME_DIR) {
        r = inode_store(fs, &c->ino, c->txn.batch);
    } else {
        record = malloc(record_inode_max(&c->ino));
        if (!record)
            return -ENOMEM;
        e.record = record;
        e.record_len = (uint32_t)record_inode_encode(&c->ino, record);
    }
    bucket_add(&c->bucket, &e);
    if (r == 0)
        r = bucket_put(&c->bucket, c->txn.batch);
    free(record);
    return r;
}

static int creation_commit(struct creation *c, struct fs_attr *out)
{
    struct itable_info info = inode_info(&c->ino);
    int index = bucket_free_index(&c->bucket);

    c->entry = itable_prepare();
    if (!c->entry)
        return -ENOMEM;
    int r = creation_store(c, (unsigned)index);
    if (r < 0)
        return r;
    txn_touch(&c->txn, c->parent, 1, c->len, c->ino.attr.mode);
    r = txn_commit(&c->txn);
    if (r < 0)
        return r;
    itable_insert(c->txn.fs->inodes, c->entry, c->ino.attr.id, &info);
    c->entry = NULL;
    c->ino.attr.blocks = inode_blocks(&c->ino);
    *out = c->ino.attr;
    return 0;
}

static void creation_end(struct creation *c)
{
    lockset_release(&c->locks);
    bucket_release(&c->bucket);
    inode_release(&c->ino);
    itable_discard(c->entry);
    txn_end(&c->txn);
}

int fs_mknod(struct fs *fs, const struct fs_caller *caller, fs_id parent, const char *name, size_t len,
             uint32_t mode, uint64_t rdev, struct fs_attr *out)
{
    struct creation c;

    mode &= S_IFMT | 07777;
    switch (mode & S_IFMT) {
    case 0: mode |= S_IFREG; break; /* as mknod(2) has it */
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK:
    case S_IFCHR:
    case S_IFBLK: break;
    case S_IFDIR: return -EPERM;
    default: return -EINVAL;
    }
    int r = creation_begin(&c, fs, caller, parent, name, len, mode);
    if (S_ISCHR(mode) || S_ISBLK(mode))
        c.ino.attr.rdev = rdev;
    if (r == 0)
        r = creation_commit(&c, out);
    creation_end(&c);
    return r;
}

int fs_mkdir(struct fs *fs, const struct fs_caller *caller, fs_id parent, const char *name, size_t len,
             uint32_t mode, struct fs_attr *out)
{
    struct creation c;

    int r = creation_begin(&c, fs, caller, parent, name, len, S_IFDIR | (mode & 07777));
    if (r == 0)
        r = creation_commit(&c, out);
    creation_end(&c);
    return r;
}

int fs_symlink(struct fs *fs, const struct fs_caller *caller, fs_id parent, const char *name, size_t len,
               const char *target, size_t target_len, struct fs_attr *out)
{
    struct creation c;

    if (target_len == 0)
        return -ENOENT;
    if (target_len > FS_SYMLINK_MAX)
        return -ENAMETOOLONG;
    int r = creation_begin(&c, fs, caller, parent, name, len, S_IFLNK | 0777);
    if (r == 0)
        r = data_write(fs->db, &c.ino, 0, target, target_len, c.txn.batch);
    if (r == 0)
        r = creation_commit(&c, out);
    creation_end(&c);
    return r;
}

/* ---- link ---- */

struct linking {
    struct txn txn;
    struct lockset locks;
    struct inode_home old; /* of the inode, before */
    struct inode ino;
    struct bucket to, from; /* from: only if the inode leaves its entry, and not for the same bucket */
};

/*
 * Locks inode and new directory, and the directory of the only name, too: lookups there must not see the
 * inode in its entry and enter that into the table when it has left.
 */
static int link_lock(struct linking *l, fs_id id, fs_id parent, uint64_t hash)
{
    struct fs *fs = l->txn.fs;
    struct itable_info seen, now, dir;
    int r;

    for (;;) {
        if (!itable_find(fs->inodes, id, &seen))
            return -ESTALE;
        lockset_inode(&l->locks, id, true);
        lockset_inode(&l->locks, parent, true);
        if (seen.home.kind == HOME_ENTRY)
            lockset_inode(&l->locks, seen.home.parent, true);
        r = txn_lock(&l->txn, &l->locks);
        if (r < 0)
            return r;
        if (!itable_find(fs->inodes, id, &now))
            return -ESTALE;
        if (now.home.kind != HOME_ENTRY ||
            (seen.home.kind == HOME_ENTRY && now.home.parent == seen.home.parent))
            break;
        lockset_release(&l->locks);
    }
    r = fs_dir_check(fs, parent, &dir);
    if (r < 0)
        return r;
    if (now.dir)
        return -EPERM;
    if (now.home.kind == HOME_MEMORY || now.orphan)
        return -ENOENT;
    struct bucket_name names[2] = {{parent, hash}, {now.home.parent, now.home.hash}};
    r = lockset_buckets(&l->locks, names, now.home.kind == HOME_ENTRY ? 2 : 1);
    l->old = now.home;
    return r < 0 ? r : inode_load(fs, id, &now, &l->ino);
}

/* The inode leaves its entry for a key of its own; the entry keeps id and type. */
static int link_leave_entry(struct linking *l, struct bucket *b)
{
    struct inode_home own = {.kind = HOME_OWN};
    struct bucket_entry *e = bucket_at(b, l->old.index);

    if (!e || e->id != l->ino.attr.id)
        return -EIO; /* inode_load found it there under the same locks; only the medium can differ */
    e->record = NULL;
    e->record_len = 0;
    return data_rehome(l->txn.fs->db, &l->ino, &own, l->txn.batch);
}

static int link_store(struct linking *l, const char *name, size_t len)
{
    struct fs *fs = l->txn.fs;
    bool moves = l->ino.home.kind == HOME_ENTRY;
    bool same = moves && l->old.parent == l->to.dir && l->old.hash == l->to.hash;
    struct bucket_entry e = {
        .name = name, .name_len = (uint8_t)len, .id = l->ino.attr.id, .type = l->ino.attr.mode & S_IFMT};
    int r = 0;

    if (bucket_find(&l->to, name, len))
        return -EEXIST;
    if (l->ino.attr.nlink >= FS_LINK_MAX)
        return -EMLINK;
    int index = bucket_free_index(&l->to);
    if (index < 0)
        return index;
    if (moves && !same) {
        r = bucket_load(fs, l->old.parent, l->old.hash, &l->from);
        if (r == 0)
            r = link_leave_entry(l, &l->from);
        if (r == 0)
            r = bucket_put(&l->from, l->txn.batch);
    } else if (moves) {
        r = link_leave_entry(l, &l->to);
    }
    if (r < 0)
        return r;
    e.index = (uint8_t)index;
    bucket_add(&l->to, &e);
    l->ino.attr.nlink += !mutant("a second name is not counted");
    l->ino.attr.ctime = l->txn.now;
    r = bucket_put(&l->to, l->txn.batch);
    return r < 0 ? r : inode_store(fs, &l->ino, l->txn.batch);
}

static int link_run(struct linking *l, fs_id id, fs_id parent, const char *name, size_t len,
                    struct fs_attr *out)
{
    struct fs *fs = l->txn.fs;
    uint64_t hash = fs_name_hash(fs, name, len);

    int r = link_lock(l, id, parent, hash);
    if (r == 0)
        r = bucket_load(fs, parent, hash, &l->to);
    if (r == 0)
        r = link_store(l, name, len);
    if (r < 0)
        return r;
    txn_touch(&l->txn, parent, 1, len, l->ino.attr.mode);
    r = txn_commit(&l->txn);
    if (r < 0)
        return r;
    struct itable_info info = inode_info(&l->ino);
    itable_update(fs->inodes, id, &info);
    r = itable_ref(fs->inodes, id, &info); /* there is an entry: it can't fail */
    l->ino.attr.blocks = inode_blocks(&l->ino);
    *out = l->ino.attr;
    return r;
}

int fs_link(struct fs *fs, fs_id id, fs_id parent, const char *name, size_t len, struct fs_attr *out)
{
    struct linking l;

    memset(&l, 0, offsetof(struct linking, to));
    l.to.count = l.from.count = 0;
    l.to.value = l.from.value = (struct lsm_value){0};
    lockset_init(&l.locks, fs->locks);
    int r = txn_begin(&l.txn, fs);
    if (r == 0)
        r = fs_name_check(name, len, -EEXIST);
    if (r == 0)
        r = link_run(&l, id, parent, name, len, out);
    lockset_release(&l.locks);
    bucket_release(&l.to);
    bucket_release(&l.from);
    inode_release(&l.ino);
    txn_end(&l.txn);
    return r;
}

/* ---- unlink, rmdir ---- */

/* What a name means now; no lock is held. */
static int peek(struct fs *fs, fs_id parent, const char *name, size_t len, fs_id *id, uint32_t *type)
{
    struct itable_info info;
    struct bucket b;

    int r = fs_dir_check(fs, parent, &info);
    if (r < 0)
        return r;
    r = bucket_load(fs, parent, fs_name_hash(fs, name, len), &b);
    struct bucket_entry *e = r == 0 ? bucket_find(&b, name, len) : NULL;
    if (e) {
        *id = e->id;
        *type = e->type;
    } else if (r == 0) {
        r = -ENOENT;
    }
    bucket_release(&b);
    return r;
}

/* Everything is locked. -ERESTART: the name means another inode by now. */
static int remove_locked(struct txn *t, struct bucket *b, const char *name, size_t len, fs_id id,
                         struct drop *d)
{
    struct fs *fs = t->fs;
    struct itable_info info;

    int r = fs_dir_check(fs, b->dir, &info);
    if (r < 0)
        return r;
    r = bucket_load(fs, b->dir, b->hash, b);
    if (r < 0)
        return r;
    struct bucket_entry *e = bucket_find(b, name, len);
    if (!e || e->id != id)
        return -ERESTART;
    r = inode_load_entry(fs, b, e, &d->ino);
    if (r < 0)
        return r;
    uint32_t type = e->type;
    r = drop_prepare(t, d);
    if (r < 0)
        return r;
    bucket_remove(b, e->index);
    r = bucket_put(b, t->batch);
    if (r < 0)
        return r;
    txn_touch(t, b->dir, -1, len, type);
    t->shrinks = !mutant("removing a name takes space");
    r = txn_commit(t);
    if (r == 0)
        drop_commit(fs, d);
    return r;
}

static int remove_once(struct fs *fs, fs_id parent, const char *name, size_t len, fs_id id)
{
    struct bucket_name place = {parent, fs_name_hash(fs, name, len)};
    struct bucket b = {.dir = place.dir, .hash = place.hash};
    struct drop d = {0};
    struct lockset locks;
    struct txn t;

    lockset_init(&locks, fs->locks);
    int r = txn_begin(&t, fs);
    if (r == 0) {
        lockset_inode(&locks, parent, true);
        lockset_inode(&locks, id, true);
        r = txn_lock(&t, &locks);
        if (r == 0)
            r = lockset_buckets(&locks, &place, 1);
        if (r == 0)
            r = remove_locked(&t, &b, name, len, id, &d);
    }
    lockset_release(&locks);
    bucket_release(&b);
    drop_release(&d);
    txn_end(&t);
    return r;
}

static int remove_name(struct fs *fs, fs_id parent, const char *name, size_t len, bool dir)
{
    uint32_t type = 0;
    fs_id id = 0;
    int r;

    if (fs->read_only)
        return -EROFS;
    do {
        r = peek(fs, parent, name, len, &id, &type);
        if (r < 0)
            return r;
        if (dir && type != S_IFDIR)
            return -ENOTDIR;
        if (!dir && type == S_IFDIR)
            return -EISDIR;
        r = remove_once(fs, parent, name, len, id);
    } while (r == -ERESTART);
    return r;
}

int fs_unlink(struct fs *fs, fs_id parent, const char *name, size_t len)
{
    int r = fs_name_check(name, len, -EISDIR);
    return r < 0 ? r : remove_name(fs, parent, name, len, false);
}

int fs_rmdir(struct fs *fs, fs_id parent, const char *name, size_t len)
{
    int r = fs_name_check(name, len, len == 1 ? -EINVAL : -ENOTEMPTY);
    return r < 0 ? r : remove_name(fs, parent, name, len, true);
}
