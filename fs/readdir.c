/*
 * readdir.c - listing a directory: a range scan of its buckets, from any position.
 *
 * A position is what comes after an entry: 1 after ".", 2 after "..", else (hash << 6 | index) + 3. It
 * depends on nothing but the name, so it stays valid while other entries come and go, and over remounts.
 *
 * The directory is locked shared: names stand still, so an iterator made under the lock shows all
 * that are there. Attributes are those of some moment since the lock was taken.
 */
#include "atime.h"
#include "store.h"
#include <errno.h>

#define POSITION_DOT 1u
#define POSITION_DOTDOT 2u
#define POSITION_FIRST 3u
#define INDEX_BITS 6

struct listing {
    struct fs *fs;
    fs_id dir;
    bool plus;
    fs_readdir_fn fn;
    void *arg;
    uint64_t delivered;
};

static uint64_t position_of(const struct bucket *b, const struct bucket_entry *e)
{
    return (b->hash << INDEX_BITS | e->index) + POSITION_FIRST;
}

/* "." and "..". 1: go on, 0: the receiver has enough. */
static int list_dots(struct listing *l, uint64_t off)
{
    struct itable_info info = {.home = {.kind = HOME_DIR}};
    struct inode_view self, parent;
    bool more = true;

    int r = inode_view(l->fs, l->dir, &info, &self);
    struct fs_attr attr = self.ino.attr;
    fs_id up = self.ino.home.parent;
    inode_view_release(&self);
    if (r < 0)
        return r;
    if (off < POSITION_DOT) {
        more = l->fn(l->arg, ".", 1, POSITION_DOT, &attr);
        l->delivered += more;
    }
    if (!more)
        return 0;
    if (l->plus) {
        r = inode_view(l->fs, up, &info, &parent);
        attr = parent.ino.attr;
        inode_view_release(&parent);
        if (r == -EIO) /* its damage is no reason not to list what is in here */
            attr = (struct fs_attr){.mode = S_IFDIR};
        else if (r < 0)
            return r;
    }
    attr.id = up;
    more = l->fn(l->arg, "..", 2, POSITION_DOTDOT, &attr);
    l->delivered += more;
    return more;
}

/* Attributes and a reference; of a damaged inode only what its name tells: the others stay readable. */
static int entry_attr(struct listing *l, const struct bucket *b, const struct bucket_entry *e,
                      struct fs_attr *attr)
{
    struct itable_info info;
    struct inode_view v;

    int r = inode_view_entry(l->fs, b, e, &v);
    if (r == 0) {
        *attr = v.ino.attr;
        info = inode_info(&v.ino);
        r = itable_ref(l->fs->inodes, e->id, &info);
    }
    inode_view_release(&v);
    return r == -EIO ? 0 : r;
}

static int list_entry(struct listing *l, const struct bucket *b, const struct bucket_entry *e)
{
    struct fs_attr attr = {.id = e->id, .mode = e->type};

    int r = l->plus ? entry_attr(l, b, e, &attr) : 0;
    if (r < 0)
        return r;
    bool more = l->fn(l->arg, e->name, e->name_len, position_of(b, e), &attr);
    if (!more && attr.nlink > 0)
        fs_forget(l->fs, e->id, 1); /* not delivered; it has a name, so nothing else goes with it */
    l->delivered += more;
    return more;
}

static int list_bucket(struct listing *l, struct lsm_iter *it, uint64_t off)
{
    struct bucket b = {.dir = l->dir};
    struct key key;
    size_t len;

    const uint8_t *k = lsm_iter_key(it, &len);
    if (len != 16) {
        key = key_plain(l->dir, KEY_BUCKET);
        return fs_damaged(l->fs, &key, "a key of its entries has the wrong length");
    }
    b.hash = key_bucket_hash(k);
    key = key_bucket(l->dir, b.hash);
    const void *value = lsm_iter_value(it, &len);
    if (bucket_decode(value, len, &b) < 0)
        return fs_damaged(l->fs, &key, "directory entries can't be decoded");
    for (unsigned i = 0; i < b.count; i++) {
        if (position_of(&b, &b.entry[i]) <= off)
            continue;
        int r = list_entry(l, &b, &b.entry[i]);
        if (r <= 0)
            return r;
    }
    return 1;
}

static int list_entries(struct listing *l, uint64_t off)
{
    uint64_t first = off <= POSITION_DOTDOT ? 0 : (off - POSITION_FIRST) >> INDEX_BITS;
    if (first > HASH_MASK)
        return 0;
    struct key lower = key_bucket(l->dir, first), upper = key_plain(l->dir, (enum key_tag)(KEY_BUCKET + 1));
    struct lsm_iter *it = NULL;

    int r = fs_scan(l->fs, &lower, &upper, &it);
    if (r < 0)
        return r;
    r = 1;
    for (lsm_iter_first(it); r > 0 && lsm_iter_valid(it); lsm_iter_next(it))
        r = list_bucket(l, it, off);
    if (r > 0)
        r = lsm_iter_status(it);
    lsm_iter_free(it);
    return r;
}

static int list_locked(struct listing *l, uint64_t off)
{
    struct itable_info info;

    int r = fs_dir_check(l->fs, l->dir, &info);
    if (r < 0)
        return r == -ENOENT ? 0 : r; /* a removed directory is empty, without dots, too */
    r = off < POSITION_DOTDOT ? list_dots(l, off) : 1;
    if (r > 0)
        r = list_entries(l, off);
    /* What was delivered must not be lost: the next call begins at the damage and reports it. */
    return r < 0 && l->delivered == 0 ? r : 0;
}

int fs_readdir(struct fs *fs, fs_id id, uint64_t off, bool plus, fs_readdir_fn fn, void *arg)
{
    struct listing l = {.fs = fs, .dir = id, .plus = plus, .fn = fn, .arg = arg};
    struct lockset locks;

    int r = atime_touch_dir(fs, id); /* first: what was delivered once can't be run again */
    if (r < 0)
        return r;
    lockset_init(&locks, fs->locks);
    lockset_inode(&locks, id, false);
    r = lockset_acquire(&locks);
    if (r == 0)
        r = list_locked(&l, off);
    lockset_release(&locks);
    return r;
}
