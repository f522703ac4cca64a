/*
 * drop.c - see drop.h.
 */
#include "drop.h"
#include "data.h"
#include "mutant.h"
#include <errno.h>
#include <stdlib.h>

static void delete_own(struct txn *t, fs_id id, enum key_tag tag)
{
    struct key key = key_plain(id, tag);
    lsm_batch_delete(t->batch, key.bytes, key.len);
}

static int drop_dir(struct txn *t, struct drop *d)
{
    struct inode *ino = &d->ino;

    if (ino->dir_entries > 0 && !mutant("a directory with entries is removed"))
        return -ENOTEMPTY;
    delete_own(t, ino->attr.id, KEY_DIR);
    d->orphan = ino->large_xattrs;
    ino->attr.nlink = 0;
    ino->attr.size = 0;
    if (!d->referenced)
        return 0;
    ino->home = (struct inode_home){.kind = HOME_MEMORY};
    return inode_clone_new(ino, &d->memory);
}

/*
 * The contents of a file that is being deleted can't be read, and so can't move to where it lives on.
 * They go; that it says LAYOUT_SMALL in a home that has none keeps every reader from taking them for zeros.
 */
static int drop_contents(struct txn *t, struct inode *ino, const struct inode_home *to)
{
    struct key key = key_small(ino->home.parent, ino->home.hash, ino->home.index);

    (void)fs_damaged(t->fs, &key, "the contents of a file that is being deleted can't be read");
    if (ino->layout == LAYOUT_SMALL)
        lsm_batch_delete(t->batch, key.bytes, key.len);
    ino->home = *to;
    return 0;
}

/* A file whose contents can go, or be kept in memory, in one batch. */
static int drop_light(struct txn *t, struct drop *d)
{
    struct inode_home memory = {.kind = HOME_MEMORY};
    struct inode *ino = &d->ino;

    if (ino->home.kind == HOME_OWN)
        delete_own(t, ino->attr.id, KEY_INODE);
    if (!d->referenced)
        return data_delete(t->fs->db, ino, t->batch);
    int r = data_rehome(t->fs->db, ino, &memory, t->batch);
    if (r == -EIO)
        r = drop_contents(t, ino, &memory);
    return r < 0 ? r : inode_clone_new(ino, &d->memory);
}

static int drop_heavy(struct txn *t, struct drop *d)
{
    struct inode_home own = {.kind = HOME_OWN};
    struct inode *ino = &d->ino;

    d->orphan = true;
    if (d->referenced) {
        int r = data_rehome(t->fs->db, ino, &own, t->batch);
        if (r == -EIO)
            r = drop_contents(t, ino, &own);
        return r < 0 ? r : inode_store(t->fs, ino, t->batch);
    }
    if (ino->home.kind == HOME_OWN)
        delete_own(t, ino->attr.id, KEY_INODE);
    return ino->layout == LAYOUT_EXTENTS ? 0 : data_delete(t->fs->db, ino, t->batch);
}

int drop_prepare(struct txn *t, struct drop *d)
{
    struct inode *ino = &d->ino;
    struct itable_info info;
    int r;

    ino->attr.ctime = t->now;
    if (!S_ISDIR(ino->attr.mode)) {
        if (ino->attr.nlink == 0) {
            struct key key = key_plain(ino->attr.id, KEY_INODE);
            return fs_damaged(t->fs, &key, "a file with a name has no links");
        }
        if (--ino->attr.nlink > 0)
            return inode_store(t->fs, ino, t->batch);
    }
    d->unlinked = true;
    d->referenced = !mutant("what is unlinked is lost to who has it open") &&
                    itable_find(t->fs->inodes, ino->attr.id, &info);
    if (S_ISDIR(ino->attr.mode))
        r = drop_dir(t, d);
    else if (ino->layout == LAYOUT_EXTENTS || ino->large_xattrs)
        r = drop_heavy(t, d);
    else
        r = drop_light(t, d);
    if (r == 0 && d->orphan)
        orphan_put(t->fs, ino->attr.id, t->batch);
    return r;
}

void drop_commit(struct fs *fs, struct drop *d)
{
    bool kept = false;

    if (!d->unlinked)
        return;
    if (d->referenced) {
        struct itable_info info = inode_info(&d->ino);
        info.memory = d->memory;
        info.orphan = d->orphan;
        kept = itable_update(fs->inodes, d->ino.attr.id, &info);
    }
    if (kept)
        d->memory = NULL; /* the table's now */
    else if (d->orphan)
        reaper_queue(fs->reaper, d->ino.attr.id); /* the last reference went meanwhile, or there was none */
}

void drop_release(struct drop *d)
{
    inode_release(&d->ino);
    if (d->memory) {
        inode_release(d->memory);
        free(d->memory);
        d->memory = NULL;
    }
}
