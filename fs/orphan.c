/*
 * orphan.c - see orphan.h.
 */
#include "data.h"
#include "mutant.h"
#include "record.h"
#include "store.h"
#include "nowait.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REAP_QUEUE_MAX 4096u /* ids; beyond, the store itself is the queue */
#define RETRY_SECONDS 1      /* after an error: something may have been freed, or mended */
#define REAP_TRIES 3u        /* after other errors than a want of space or memory */

struct reaper {
    struct fs *fs;
    struct env_thread *thread; /* NULL with LSM_INLINE */
    pthread_mutex_t step;      /* held by whoever works; guards current and the scan's position */
    fs_id current;             /* 0: none */
    unsigned failures;         /* in a row, of removing it, or of scans */
    int scan_error;            /* of the scan so far: it has to be made again */
    unsigned scan_shard;
    fs_id scan_after;
    pthread_mutex_t lock; /* guards what follows; taken after `step` */
    pthread_cond_t wake;
    fs_id queue[REAP_QUEUE_MAX];
    unsigned head, count;
    bool scan; /* the orphan lists are to be looked through */
    bool stop;
};

static unsigned shard_of(struct fs *fs, fs_id id) { return id_vshard(id) % lsm_shards(fs->db); }

static struct key orphan_key(struct fs *fs, enum key_tag tag, fs_id id)
{
    return key_u64(id_orphans(shard_of(fs, id)), tag, id);
}

void orphan_put(struct fs *fs, fs_id id, struct lsm_batch *batch)
{
    struct key key = orphan_key(fs, KEY_ORPHAN, id);
    if (!mutant("no orphan record"))
        lsm_batch_put(batch, key.bytes, key.len, "", 0);
}

/*
 * The first record after `after` in one shard's list: its id, and for a truncation where the inode
 * is. -ENOENT at the end.
 */
static int list_next(struct fs *fs, unsigned shard, enum key_tag tag, fs_id after, fs_id *id,
                     struct inode_home *home)
{
    struct key lower = key_u64(id_orphans(shard), tag, after + 1);
    struct key upper = key_plain(id_orphans(shard), (enum key_tag)(tag + 1));
    struct lsm_iter *it = NULL;
    size_t len;

    if (after == UINT64_MAX) /* only damage has such an id; it is the last one */
        return -ENOENT;
    int r = fs_scan(fs, &lower, &upper, &it);
    if (r < 0)
        return r;
    lsm_iter_first(it);
    if (!lsm_iter_valid(it)) {
        r = lsm_iter_status(it);
        lsm_iter_free(it);
        return r < 0 ? r : -ENOENT;
    }
    const uint8_t *key = lsm_iter_key(it, &len);
    if (len != lower.len) {
        r = fs_damaged(fs, &lower, "a key of an orphan list has the wrong length");
    } else {
        *id = get_be64(key + 9);
        const void *value = lsm_iter_value(it, &len);
        if (home && record_truncate_decode(value, len, home) < 0) {
            lower = key_u64(id_orphans(shard), tag, *id);
            home->kind = 0;
            fs_damaged(fs, &lower, "the record of a pending truncation can't be decoded");
        }
    }
    lsm_iter_free(it);
    return r;
}

/* ---- the reaper ---- */

void reaper_queue(struct reaper *r, fs_id id)
{
    if (!r)
        return; /* while opening and closing: the record stays */
    pthread_mutex_lock(&r->lock);
    if (r->count < REAP_QUEUE_MAX)
        r->queue[(r->head + r->count++) % REAP_QUEUE_MAX] = id;
    else
        r->scan = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
}

static fs_id queue_pop(struct reaper *r, bool *scan)
{
    fs_id id = 0;
    pthread_mutex_lock(&r->lock);
    if (r->count > 0) {
        id = r->queue[r->head];
        r->head = (r->head + 1) % REAP_QUEUE_MAX;
        r->count--;
    }
    *scan = r->scan;
    pthread_mutex_unlock(&r->lock);
    return id;
}

static void scan_begin(struct reaper *r, bool again)
{
    pthread_mutex_lock(&r->lock);
    r->scan = again;
    pthread_mutex_unlock(&r->lock);
}

/* The next orphan in the lists that nobody refers to; 0 at the end of all lists. */
static fs_id scan_next(struct reaper *r)
{
    struct fs *fs = r->fs;
    while (r->scan_shard < lsm_shards(fs->db)) {
        struct itable_info info;
        fs_id id = 0;
        int e = list_next(fs, r->scan_shard, KEY_ORPHAN, r->scan_after, &id, NULL);
        if (e < 0) {
            if (e != -ENOENT) {
                fs_log(fs, LSM_LOG_ERROR, "can't read the list of deleted files: %s", strerror(-e));
                r->scan_error = e;
            }
            r->scan_shard++;
            r->scan_after = 0;
            continue;
        }
        r->scan_after = id;
        if (!itable_find(fs->inodes, id, &info))
            return id;
    }
    r->scan_shard = 0;
    r->scan_after = 0;
    return 0;
}

static bool scanning(const struct reaper *r) { return r->scan_shard != 0 || r->scan_after != 0; }

static fs_id next_orphan(struct reaper *r)
{
    bool scan;
    fs_id id = queue_pop(r, &scan);
    if (id != 0)
        return id;
    if (!scanning(r)) {
        if (!scan)
            return 0;
        scan_begin(r, false); /* what is queued from now on and does not fit asks for another scan */
    }
    return scan_next(r);
}

/* All that is left of the inode, in one batch. */
static int reap(struct fs *fs, fs_id id)
{
    struct lsm_batch *batch = NULL;
    int r = lsm_batch_new(&batch);
    if (r < 0)
        return r;
    struct key own = key_plain(id, KEY_INODE), orphan = orphan_key(fs, KEY_ORPHAN, id);
    if (mutant("the orphan record goes first")) {
        lsm_batch_delete(batch, orphan.bytes, orphan.len);
        r = lsm_commit(fs->db, batch, 0);
        lsm_batch_clear(batch);
    }
    data_reap(id, batch);
    lsm_batch_delete(batch, own.bytes, own.len);
    lsm_batch_delete(batch, orphan.bytes, orphan.len);
    if (__atomic_load_n(&fs->truncates_stuck, __ATOMIC_ACQUIRE) > 0)
        truncate_delete(fs, id, batch);
    if (r == 0)
        r = lsm_commit(fs->db, batch, LSM_SHRINK);
    lsm_batch_free(batch);
    return r;
}

/* Whether another try may go better: what has failed for want of something always, what failed otherwise a few times. */
static bool is_worth_another(struct reaper *r, int error)
{
    if (error == -ENOSPC || error == -ENOMEM)
        return true;
    return error != -EROFS && ++r->failures < REAP_TRIES;
}

/* One step. 1: go on, 0: nothing to do, an error: try again later. */
static int work(struct reaper *r)
{
    int e;

    if (r->current == 0)
        r->current = next_orphan(r);
    if (r->current == 0) {
        e = r->scan_error;
        r->scan_error = 0;
        if (e < 0 && is_worth_another(r, e)) {
            scan_begin(r, true);
            return e;
        }
        r->failures = 0;
        return 0;
    }
    e = reap(r->fs, r->current);
    if (e < 0 && is_worth_another(r, e))
        return e;
    r->failures = 0;
    if (e < 0)
        fs_log(r->fs, LSM_LOG_ERROR,
               "removing the contents of deleted inode %llx failed: %s; the next mount tries again",
               (unsigned long long)r->current, strerror(-e));
    r->current = 0;
    return 1;
}

int reaper_work(struct reaper *r)
{
    if (!r)
        return 0;
    pthread_mutex_lock(&r->step);
    int e = work(r);
    pthread_mutex_unlock(&r->step);
    return e > 0;
}

static void wait_for_work(struct reaper *r, bool retry)
{
    if (retry) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += RETRY_SECONDS;
        if (!r->stop)
            pthread_cond_timedwait(&r->wake, &r->lock, &until);
        return;
    }
    while (!r->stop && r->count == 0 && !r->scan)
        pthread_cond_wait(&r->wake, &r->lock);
}

static void reaper_thread(void *arg)
{
    struct reaper *r = arg;
    for (;;) {
        pthread_mutex_lock(&r->step);
        int e = work(r);
        pthread_mutex_unlock(&r->step);

        pthread_mutex_lock(&r->lock);
        if (e <= 0)
            wait_for_work(r, e < 0);
        bool stop = r->stop;
        pthread_mutex_unlock(&r->lock);
        if (stop)
            return;
    }
}

int reaper_new(struct fs *fs, bool thread, struct reaper **out)
{
    struct reaper *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->fs = fs;
    r->scan = !mutant("orphans are forgotten by a remount");
    pthread_mutex_init(&r->step, NULL);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, NULL);
    int e = thread ? env_thread_start(fs->env, "shale-reap", -1, reaper_thread, r, &r->thread) : 0;
    if (e < 0) {
        reaper_free(r);
        return e;
    }
    *out = r;
    return 0;
}

void reaper_free(struct reaper *r)
{
    if (!r)
        return;
    if (r->thread) {
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_cond_broadcast(&r->wake);
        pthread_mutex_unlock(&r->lock);
        env_thread_join(r->fs->env, r->thread);
    }
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->step);
    free(r);
}

/* ---- truncations ---- */

void truncate_put(struct fs *fs, const struct inode *ino, struct lsm_batch *batch)
{
    struct key key = orphan_key(fs, KEY_TRUNCATE, ino->attr.id);
    uint8_t value[TRUNCATE_BYTES];
    record_truncate_encode(&ino->home, value);
    if (!mutant("no record of a pending truncation"))
        lsm_batch_put(batch, key.bytes, key.len, value, sizeof(value));
}

void truncate_delete(struct fs *fs, fs_id id, struct lsm_batch *batch)
{
    struct key key = orphan_key(fs, KEY_TRUNCATE, id);
    lsm_batch_delete(batch, key.bytes, key.len);
}

int truncate_finish(struct fs *fs, struct inode *ino, struct lsm_batch *batch)
{
    bool more = true;
    int r = 0;

    while (more && r == 0) {
        lsm_batch_clear(batch);
        r = data_trim(fs->db, ino, batch, &more);
        if (r == 0 && !more)
            truncate_delete(fs, ino->attr.id, batch);
        if (r == 0)
            r = inode_store(fs, ino, batch);
        if (r == 0)
            r = lsm_commit(fs->db, batch, LSM_SHRINK);
    }
    lsm_batch_clear(batch);
    return r;
}

int truncate_retry(struct fs *fs, struct inode *ino, struct lsm_batch *batch)
{
    struct key key = orphan_key(fs, KEY_TRUNCATE, ino->attr.id);
    struct lsm_value v = {0};

    if (__atomic_load_n(&fs->truncates_stuck, __ATOMIC_ACQUIRE) == 0)
        return 0;
    if (nowait_on()) /* several commits */
        return -EAGAIN;
    int r = lsm_get(fs->db, key.bytes, key.len, NULL, 0, &v);
    lsm_value_release(&v);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    r = truncate_finish(fs, ino, batch);
    if (r == 0)
        __atomic_fetch_sub(&fs->truncates_stuck, 1, __ATOMIC_RELEASE);
    return r;
}

static int truncate_finish_one(struct fs *fs, fs_id id, const struct inode_home *home)
{
    struct itable_info info = {.home = *home};
    struct lsm_batch *batch = NULL;
    struct inode ino;

    int r = inode_load(fs, id, &info, &ino);
    if (r < 0)
        return r;
    r = lsm_batch_new(&batch);
    if (r == 0)
        r = truncate_finish(fs, &ino, batch);
    lsm_batch_free(batch);
    inode_release(&ino);
    return r;
}

int truncates_finish(struct fs *fs)
{
    for (unsigned shard = 0; shard < lsm_shards(fs->db) && !mutant("pending truncations are not finished");
         shard++) {
        for (fs_id after = 0;;) {
            struct inode_home home = {0};
            fs_id id = 0;
            int r = list_next(fs, shard, KEY_TRUNCATE, after, &id, &home);
            if (r == -ENOENT)
                break;
            if (r < 0)
                return r;
            after = id;
            r = home.kind == 0 ? -EIO : truncate_finish_one(fs, id, &home);
            if (r < 0) {
                fs_log(fs, LSM_LOG_ERROR,
                       "the truncation of inode %llx can't be finished: %s; it will not grow until it is",
                       (unsigned long long)id, strerror(-r));
                fs->truncates_stuck++;
            }
        }
    }
    return 0;
}
