/*
 * change.c - see change.h.
 */
#include "change.h"
#include "mutant.h"
#include "nowait.h"
#include <errno.h>
#include <stdlib.h>

int change_begin(struct change *c, struct fs *fs, fs_id id)
{
    *c = (struct change){.fs = fs};
    lockset_init(&c->locks, fs->locks);
    if (fs->read_only)
        return -EROFS;
    int r = lsm_batch_new(&c->batch);
    if (r < 0)
        return r;
    lockset_inode(&c->locks, id, true);
    r = lockset_acquire(&c->locks);
    if (r < 0)
        return r;
    c->now = fs_now(fs); /* under the lock: times go the way history does */
    if (!itable_find(fs->inodes, id, &c->info))
        return -ESTALE;
    if (c->info.home.kind == HOME_ENTRY) {
        struct bucket_name name = {c->info.home.parent, c->info.home.hash};
        r = lockset_buckets(&c->locks, &name, 1);
        if (r < 0)
            return r;
    }
    return inode_load(fs, id, &c->info, &c->ino);
}

/* What the table is to say after the commit; in `memory` what it will own. */
static int settle_prepare(struct change *c, struct itable_info *info, struct inode **memory)
{
    *info = inode_info(&c->ino);
    info->orphan = c->info.orphan;
    *memory = NULL;
    bool loses_memory = c->info.home.kind == HOME_MEMORY && c->ino.home.kind == HOME_OWN;
    if ((loses_memory || c->needs_orphan) && !info->orphan) {
        orphan_put(c->fs, c->ino.attr.id, c->batch);
        info->orphan = true;
    }
    if (c->ino.home.kind != HOME_MEMORY)
        return 0;
    int r = inode_clone_new(&c->ino, memory);
    info->memory = *memory;
    return r;
}

int change_commit(struct change *c)
{
    struct itable_info info;
    struct inode *memory;

    int r = settle_prepare(c, &info, &memory);
    if (r == 0)
        r = inode_store(c->fs, &c->ino, c->batch);
    bool none = mutant("what could not be added to a batch is made good") && lsm_batch_count(c->batch) == 0;
    if (r == 0 && !none) /* also an empty one: it may be empty for want of memory, which the commit tells */
        r = nowait_commit(c->fs->db, c->batch, c->shrinks);
    lsm_batch_clear(c->batch);
    if (r == -ESTALE)
        r = -ERESTART;
    if (r < 0) {
        if (memory) {
            inode_release(memory);
            free(memory);
        }
        return r;
    }
    c->ino.attr.blocks = inode_blocks(&c->ino);
    c->info = info;
    if (info.memory || info.dir || info.orphan)
        itable_update(c->fs->inodes, c->ino.attr.id, &info);
    return 0;
}

void change_kill_suidgid(struct change *c)
{
    uint32_t *mode = &c->ino.attr.mode;

    if (S_ISDIR(*mode))
        return;
    *mode &= ~(uint32_t)S_ISUID;
    if (*mode & S_IXGRP)
        *mode &= ~(uint32_t)S_ISGID;
}

void change_end(struct change *c)
{
    lockset_release(&c->locks);
    lsm_batch_free(c->batch);
    inode_release(&c->ino);
}
