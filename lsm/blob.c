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

/*
 * Checksums of an extent depend on where it lies. So none begins where one began that was given back, or (but for
 * a rare coincidence of lengths) behind it: that one may be on the medium, and after a power cut would pass for its successor of the same length.
 */
static uint64_t skip_gap(struct blob_file *f)
{
    if (!f->gap)
        return 0;
    f->gap = false;
    return 1 + (f->given_back * 2654435761u >> 20); /* up to 4096, a different one each time */
}

/* Places in f, from its end on, for the first ones of these values: how many. The blob lock is held. */
static unsigned take_places(struct blob_file *f, uint64_t file_max, struct blob_value *values, unsigned count)
{
    const uint64_t start = blob_file_bytes(f) + skip_gap(f);
    uint64_t at = start;
    unsigned n = 0;
    for (; n < count && n < BLOB_WRITE_VALUES; n++) {
        const uint32_t len = (uint32_t)(values[n].bytes[0].iov_len + values[n].bytes[1].iov_len);
        const uint64_t end = at + blob_disk_bytes(len);
        /* One larger than a file gets a file of its own. */
        if ((end > file_max && at != BLOB_HEADER_BYTES) || (n > 0 && end - start > BLOB_WRITE_BYTES))
            break;
        values[n].file = f;
        values[n].pointer = (struct blob_pointer){f->number, at, len, 0, len};
        at = end;
    }
    __atomic_store_n(&f->bytes, at, __ATOMIC_RELEASE);
    (void)__atomic_fetch_add(&f->writers, n, __ATOMIC_ACQ_REL);
    return n;
}

/* Places in the active file; 0: there is none. *low: the next file should be made. */
static unsigned find_places(struct shard *s, struct blob_value *values, unsigned count, bool *low)
{
    struct shard_blobs *b = &s->blobs;
    unsigned n = 0;
    pthread_mutex_lock(&b->lock);
    for (;;) {
        if (b->active && !b->active->failed)
            n = take_places(b->active, s->db->options.blob_file_bytes, values, count);
        if (n > 0)
            break;
        if (!b->next) {
            b->wanted = true;
            break;
        }
        blob_seal(s, b->active);
        b->active = b->next;
        b->next = NULL;
    }
    *low = !b->next && is_low(s, b->active);
    pthread_mutex_unlock(&b->lock);
    return n;
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

static void leave(unsigned *count)
{
    unsigned before = __atomic_fetch_sub(count, 1, __ATOMIC_ACQ_REL);
    assert(before > 0);
}

int blob_write(struct shard *s, struct blob_value *values, unsigned count, bool nowait)
{
    struct shard_blobs *b = &s->blobs;
    bool low = false;
    unsigned n;
    while ((n = find_places(s, values, count, &low)) == 0) {
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
    struct blob_file *f = values[0].file;
    int err = blob_extents_write(f, values, n);
    if (err) {
        if (err != -ENOSPC) {
            pthread_mutex_lock(&b->lock);
            f->failed = true;
            pthread_mutex_unlock(&b->lock);
        }
        for (unsigned i = n; i-- > 0; values[i].file = NULL)
            blob_unwrite(s, &values[i]);
        return err;
    }
    mark_dirty(s->db, f);
    for (unsigned i = 0; i < n; i++)
        count_add(&b->written, blob_disk_bytes(values[i].pointer.extent_bytes));
    return (int)n;
}

int blob_retain(struct shard *s, const struct blob_pointer *p, struct blob_file **out)
{
    int err = -ESTALE;
    struct view *v = view_get(s);
    struct blob_file *f = version_blob(v->version, p->number);
    if (f) {
        pthread_mutex_lock(&s->blobs.lock);
        if (!f->doomed) {
            (void)__atomic_fetch_add(&f->holders, 1, __ATOMIC_ACQ_REL);
            *out = f; /* from now on every version has it, and a reference on it */
            err = 0;
        }
        pthread_mutex_unlock(&s->blobs.lock);
    }
    view_unref(v);
    for (unsigned i = 0; !f && i < s->db->shard_count && err == -ESTALE; i++) {
        v = view_get(&s->db->shards[i]);
        if (version_blob(v->version, p->number))
            err = -EINVAL;
        view_unref(v);
    }
    return err;
}

void blob_release(struct blob_file *f) { leave(&f->holders); }

static void raise(lsn_t *mark, lsn_t end)
{
    lsn_t now = __atomic_load_n(mark, __ATOMIC_RELAXED);
    while (now < end &&
           !__atomic_compare_exchange_n(mark, &now, end, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
}

void blob_note(struct blob_file *f, lsn_t end, bool first)
{
    if (first)
        raise(&f->written_until, end);
    if (first || !mutant("a record of parts keeps no blob file"))
        raise(&f->named_until, end);
}

void blob_named(const struct blob_value *v, lsn_t end)
{
    blob_note(v->file, end, true);
    leave(&v->file->writers);
}

void blob_renamed(struct blob_file *f, lsn_t end)
{
    blob_note(f, end, false);
    blob_release(f);
}

void blob_unwrite(struct shard *s, const struct blob_value *v)
{
    struct shard_blobs *b = &s->blobs;
    const struct blob_pointer *p = &v->pointer;
    pthread_mutex_lock(&b->lock);
    if (blob_file_bytes(v->file) == p->offset + blob_disk_bytes(p->extent_bytes)) {
        __atomic_store_n(&v->file->bytes, p->offset, __ATOMIC_RELEASE);
        v->file->given_back++;
        v->file->gap = true;
    }
    pthread_mutex_unlock(&b->lock);
    leave(&v->file->writers);
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
