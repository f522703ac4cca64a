/*
 * blob.c - see blob.h.
 *
 * Where a write or sync fails. A write: the file takes no more, the writer gets the error; what else is in it
 * stays good. A sync: the log fails, as for a segment of its own (P6), and the file is never synced again.
 */
#include "blob.h"

#include "db.h"
#include "mutant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The next file is made when so much of the active one is left: 1/4. */
static bool is_low(const struct shard *s, const struct blob_file *f)
{
    uint64_t max = s->db->options.blob_file_bytes;
    return !f || blob_file_bytes(f) > max - max / 4;
}

/* ---- making files ---- */

int blob_make(struct shard *s, struct blob_file **out)
{
    struct lsm *db = s->db;
    struct blob_meta meta = {.shard = s->index};
    struct blob_file *f;
    int err = vset_require(db->vset, STORE_BLOBS);
    int failed = err ? vset_failed(db->vset) : 0;
    if (failed)
        db_fail(db, failed, "the manifest can't be written");
    if (!err)
        err = env_random(db->env, &meta.salt, sizeof meta.salt);
    if (err)
        return err;
    meta.number = vset_new_number(db->vset);
    err = blob_file_create(db->env, db->path, &db->log, &meta, &f);
    if (err)
        return err;
    f->open = true;
    struct edit edit = {.blob_add = &meta, .blob_add_count = 1, .blob_file = f};
    err = shard_apply(s, &edit, NULL);
    if (err) {
        if (!vset_failed(db->vset)) /* else the edit may be on the medium: the next open finds out */
            (void)env_unlink(db->env, f->path);
        blob_file_free(f);
        return err;
    }
    *out = f;
    return 0;
}

void blob_seal(struct shard *s, struct blob_file *f)
{
    if (!f)
        return;
    __atomic_store_n(&f->open, false, __ATOMIC_RELEASE);
    blob_file_unref(s->db->vset, f);
}

/* Under the make lock. */
static int make_next(struct shard *s)
{
    struct shard_blobs *b = &s->blobs;
    pthread_mutex_lock(&b->lock);
    bool there = b->next;
    pthread_mutex_unlock(&b->lock);
    if (there)
        return 0;
    struct blob_file *f;
    int err = blob_make(s, &f);
    if (err)
        return err;
    pthread_mutex_lock(&b->lock);
    b->next = f;
    b->wanted = false;
    pthread_mutex_unlock(&b->lock);
    return 1;
}

int blob_prepare(struct shard *s)
{
    struct shard_blobs *b = &s->blobs;
    pthread_mutex_lock(&b->lock);
    bool due = !b->next && (b->wanted || (b->active && is_low(s, b->active)));
    pthread_mutex_unlock(&b->lock);
    if (!due || pthread_mutex_trylock(&b->make_lock)) /* a writer is at it */
        return 0;
    int result = make_next(s);
    pthread_mutex_unlock(&b->make_lock);
    return result;
}

/* ---- writing ---- */

/* A place in the active file, or false. *low: the next file should be made. */
static bool take_place(struct shard *s, uint32_t len, struct blob_written *out, bool *low)
{
    struct shard_blobs *b = &s->blobs;
    uint64_t need = blob_disk_bytes(len), max = s->db->options.blob_file_bytes;
    pthread_mutex_lock(&b->lock);
    for (;;) {
        struct blob_file *f = b->active;
        uint64_t at = f ? blob_file_bytes(f) : 0;
        /* One larger than a file gets a file of its own. */
        if (f && !f->failed && (at + need <= max || at == BLOB_HEADER_BYTES)) {
            *out = (struct blob_written){f, {f->number, at, len, 0, len}};
            __atomic_store_n(&f->bytes, at + need, __ATOMIC_RELEASE);
            (void)__atomic_fetch_add(&f->writers, 1, __ATOMIC_ACQ_REL);
            break;
        }
        if (!b->next) {
            out->file = NULL;
            b->wanted = true;
            break;
        }
        blob_seal(s, b->active);
        b->active = b->next;
        b->next = NULL;
    }
    *low = !b->next && is_low(s, b->active);
    pthread_mutex_unlock(&b->lock);
    return out->file;
}

static void mark_dirty(struct lsm *db, struct blob_file *f)
{
    pthread_mutex_lock(&db->dirty_lock);
    if (!f->dirty) {
        f->dirty = true;
        blob_file_ref(f);
        f->dirty_next = db->dirty_blobs;
        db->dirty_blobs = f;
    }
    pthread_mutex_unlock(&db->dirty_lock);
}

static void leave(struct blob_file *f)
{
    unsigned before = __atomic_fetch_sub(&f->writers, 1, __ATOMIC_ACQ_REL);
    assert(before > 0);
}

int blob_write(struct shard *s, const void *data, size_t len, bool nowait, struct blob_written *out)
{
    struct shard_blobs *b = &s->blobs;
    bool low = false;
    assert(len > 0 && len <= LSM_VALUE_MAX);
    while (!take_place(s, (uint32_t)len, out, &low)) {
        if (nowait) {
            shard_kick(s);
            return -EAGAIN;
        }
        pthread_mutex_lock(&b->make_lock);
        int made = make_next(s);
        pthread_mutex_unlock(&b->make_lock);
        if (made < 0)
            return made;
    }
    if (low)
        shard_kick(s);
    int err = blob_extent_write(out->file, &out->pointer, data);
    if (err) {
        if (err != -ENOSPC) {
            pthread_mutex_lock(&b->lock);
            out->file->failed = true;
            pthread_mutex_unlock(&b->lock);
        }
        blob_unwrite(s, out);
        return err;
    }
    mark_dirty(s->db, out->file);
    count_add(&b->written, blob_disk_bytes((uint32_t)len));
    return 0;
}

void blob_named(struct shard *s, const struct blob_written *w, lsn_t end)
{
    (void)s;
    lsn_t now = __atomic_load_n(&w->file->named_until, __ATOMIC_RELAXED);
    while (now < end && !__atomic_compare_exchange_n(&w->file->named_until, &now, end, true, __ATOMIC_RELEASE,
                                                     __ATOMIC_RELAXED))
        ;
    leave(w->file);
}

void blob_unwrite(struct shard *s, const struct blob_written *w)
{
    struct shard_blobs *b = &s->blobs;
    const struct blob_pointer *p = &w->pointer;
    pthread_mutex_lock(&b->lock);
    if (blob_file_bytes(w->file) == p->offset + blob_disk_bytes(p->extent_bytes))
        __atomic_store_n(&w->file->bytes, p->offset, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&b->lock);
    leave(w->file);
}

/* ---- syncing ---- */

int blob_sync(struct lsm *db)
{
    pthread_mutex_lock(&db->dirty_lock);
    struct blob_file *list = db->dirty_blobs;
    db->dirty_blobs = NULL;
    for (struct blob_file *f = list; f; f = f->dirty_next) {
        f->dirty =
            false; /* what is written from now on is for the next sync, which may put it on the list again */
        f->sync_next = f->dirty_next;
    }
    pthread_mutex_unlock(&db->dirty_lock);
    int err = 0;
    while (list) {
        struct blob_file *f = list;
        list = f->sync_next;
        if (!err && !mutant("blob not synced before the log"))
            err = env_sync(f->file);
        blob_file_unref(db->vset, f);
    }
    return err;
}

/* ---- beginning and end ---- */

void blob_init(struct shard *s)
{
    pthread_mutex_init(&s->blobs.lock, NULL);
    pthread_mutex_init(&s->blobs.make_lock, NULL);
}

void blob_forget_dirty(struct lsm *db)
{
    for (struct blob_file *f = db->dirty_blobs, *next; f; f = next) {
        next = f->dirty_next;
        blob_file_unref(db->vset, f);
    }
    db->dirty_blobs = NULL;
}

void blob_destroy(struct shard *s)
{
    struct shard_blobs *b = &s->blobs;
    blob_seal(s, b->active);
    blob_seal(s, b->next);
    blob_seal(s, b->moved);
    pthread_mutex_destroy(&b->lock);
    pthread_mutex_destroy(&b->make_lock);
    memset(b, 0, sizeof *b);
}
