/*
 * txn.c - see txn.h.
 */
#include "txn.h"
#include "mutant.h"
#include "nowait.h"
#include <assert.h>
#include <errno.h>

int txn_begin(struct txn *t, struct fs *fs)
{
    *t = (struct txn){.fs = fs};
    if (fs->read_only)
        return -EROFS;
    return lsm_batch_new(&t->batch);
}

int txn_lock(struct txn *t, struct lockset *locks)
{
    int r = lockset_acquire(locks);

    if (r == 0)
        t->now = fs_now(t->fs);
    return r;
}

void txn_end(struct txn *t)
{
    lsm_batch_free(t->batch);
    t->batch = NULL;
}

static struct touch *touch_of(struct txn *t, fs_id dir)
{
    for (unsigned i = 0; i < t->dirs; i++)
        if (t->dir[i].id == dir)
            return &t->dir[i].touch;
    assert(t->dirs < TXN_DIRS_MAX);
    t->dir[t->dirs].id = dir;
    t->dir[t->dirs].touch = (struct touch){.time = t->now};
    return &t->dir[t->dirs++].touch;
}

void txn_touch(struct txn *t, fs_id dir, int sign, size_t name_len, uint32_t type)
{
    struct touch *touch = touch_of(t, dir);
    touch->entries += sign;
    touch->size += sign * (int64_t)(name_len + DIR_ENTRY_BYTES);
    if (S_ISDIR(type))
        touch->nlink += sign;
}

void txn_touch_times(struct txn *t, fs_id dir) { touch_of(t, dir); }

int txn_commit(struct txn *t)
{
    uint8_t operand[TOUCH_BYTES];
    if (mutant("names and times of a directory in two batches")) {
        int r = lsm_commit(t->fs->db, t->batch, 0);
        if (r < 0)
            return r;
        lsm_batch_clear(t->batch);
    }
    for (unsigned i = 0; i < t->dirs && !mutant("a change of names touches no directory"); i++) {
        struct key key = key_plain(t->dir[i].id, KEY_DIR);
        record_touch_encode(&t->dir[i].touch, operand);
        lsm_batch_merge(t->batch, key.bytes, key.len, operand, sizeof(operand));
    }
    return nowait_commit(t->fs->db, t->batch, t->shrinks);
}
