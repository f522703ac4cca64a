/*
 * snapshot.c - the set of moments that are held on to: by readers, and by name. See db.h for lock order.
 *
 * A snapshot is a seq: what was published when it was taken. Its seq is sampled and its place in
 * the ring taken under one lock, under which compaction copies the ring: so a snapshot is either
 * seen by a compaction, or newer than everything in that compaction's inputs.
 *
 * A named one is held in the same ring by the store itself, from before the log is replayed. Saving goes: hold the
 * moment; sync the log past it; sync the edit that names it. So a name that is found is that of a whole moment.
 */
#include "db.h"
#include "mutant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Under the lock. The ring ascends; a new moment is nearly always the latest. */
static void insert(struct lsm *db, struct lsm_snapshot *s)
{
    struct lsm_snapshot *after = db->snapshots.prev;
    while (after != &db->snapshots && after->seq > s->seq)
        after = after->prev;
    s->prev = after;
    s->next = after->next;
    s->prev->next = s;
    s->next->prev = s;
}

uint64_t snapshot_add(struct lsm *db, struct lsm_snapshot *s)
{
    pthread_mutex_lock(&db->snapshot_lock);
    s->seq = db_frontier(db) - 1;
    insert(db, s);
    pthread_mutex_unlock(&db->snapshot_lock);
    return s->seq;
}

void snapshot_remove(struct lsm *db, struct lsm_snapshot *s)
{
    pthread_mutex_lock(&db->snapshot_lock);
    s->prev->next = s->next;
    s->next->prev = s->prev;
    pthread_mutex_unlock(&db->snapshot_lock);
}

int snapshot_list(struct lsm *db, uint64_t **seqs, size_t *count)
{
    int err = 0;
    *seqs = NULL;
    *count = 0;
    pthread_mutex_lock(&db->snapshot_lock);
    size_t n = 0;
    for (struct lsm_snapshot *s = db->snapshots.next; s != &db->snapshots; s = s->next)
        n++;
    if (n) {
        *seqs = malloc(n * sizeof **seqs);
        if (!*seqs)
            err = -ENOMEM;
        else
            for (struct lsm_snapshot *s = db->snapshots.next; s != &db->snapshots; s = s->next)
                if (!*count || (*seqs)[*count - 1] != s->seq)
                    (*seqs)[(*count)++] = s->seq;
    }
    pthread_mutex_unlock(&db->snapshot_lock);
    return err;
}

uint64_t snapshot_oldest(struct lsm *db)
{
    pthread_mutex_lock(&db->snapshot_lock);
    const struct lsm_snapshot *first = db->snapshots.next;
    uint64_t seq = first != &db->snapshots ? first->seq : SEQ_MAX;
    pthread_mutex_unlock(&db->snapshot_lock);
    return seq;
}

int lsm_snapshot_new(struct lsm *db, struct lsm_snapshot **out)
{
    struct lsm_snapshot *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    snapshot_add(db, s);
    *out = s;
    return 0;
}

void lsm_snapshot_free(struct lsm *db, struct lsm_snapshot *snapshot)
{
    if (!snapshot)
        return;
    snapshot_remove(db, snapshot);
    free(snapshot);
}

/* ---- named ones ---- */

static struct lsm_snapshot *held_new(const char *name)
{
    struct lsm_snapshot *s = calloc(1, sizeof *s);
    if (s)
        s->name = strdup(name);
    if (s && s->name)
        return s;
    free(s);
    return NULL;
}

static void held_free(struct lsm_snapshot *s)
{
    free(s->name);
    free(s);
}

static void hold(struct lsm *db, struct lsm_snapshot *s)
{
    s->held_next = db->held;
    db->held = s;
}

static struct lsm_snapshot **held_find(struct lsm *db, const char *name)
{
    struct lsm_snapshot **at = &db->held;
    while (*at && strcmp((*at)->name, name) != 0)
        at = &(*at)->held_next;
    return at;
}

int snapshot_hold_named(struct lsm *db)
{
    const struct named_list *named = vset_named(db->vset);
    for (size_t i = 0; i < named->count; i++) {
        struct lsm_snapshot *s = held_new(named->list[i].name);
        if (!s)
            return -ENOMEM;
        s->seq = named->list[i].seq;
        pthread_mutex_lock(&db->snapshot_lock);
        insert(db, s);
        pthread_mutex_unlock(&db->snapshot_lock);
        hold(db, s);
    }
    return 0;
}

void snapshot_let_go(struct lsm *db)
{
    for (struct lsm_snapshot *s = db->held, *next; s; s = next) {
        next = s->held_next;
        snapshot_remove(db, s);
        held_free(s);
    }
    db->held = NULL;
}

/* The moment is in the ring: makes it last. */
static int save(struct lsm *db, const struct lsm_snapshot *s)
{
    struct named_snapshot named = {.seq = s->seq, .created_ns = env_wall_ns(db->env)};
    memcpy(named.name, s->name, strlen(s->name) + 1);
    int err = vset_require(db->vset, STORE_SNAPSHOTS);
    if (!err && !mutant("a named snapshot is not synced"))
        err = lsm_sync(db);
    struct edit edit = {.name_taken = &named};
    return err ? err : vset_apply(db->vset, &edit, NULL, NULL);
}

/* The manifest may have failed for good: then nothing more is taken. */
static int named_failed(struct lsm *db, int err)
{
    int failed = vset_failed(db->vset);
    if (failed)
        db_fail(db, failed, "the manifest can't be written");
    return err;
}

int lsm_snapshot_save(struct lsm *db, const char *name)
{
    if (!named_is_valid(name, strlen(name)))
        return -EINVAL;
    int err = db_writable(db);
    if (err)
        return err;
    struct lsm_snapshot *s = held_new(name);
    if (!s)
        return -ENOMEM;
    pthread_mutex_lock(&db->named_lock);
    if (*held_find(db, name))
        err = -EEXIST;
    else if (vset_named(db->vset)->count >= LSM_SNAPSHOTS_MAX)
        err = -EMLINK;
    if (!err) {
        snapshot_add(db, s);
        err = save(db, s);
        if (err)
            snapshot_remove(db, s);
        else
            hold(db, s);
    }
    pthread_mutex_unlock(&db->named_lock);
    if (err)
        held_free(s);
    return err ? named_failed(db, err) : 0;
}

int lsm_snapshot_drop(struct lsm *db, const char *name)
{
    int err = db_writable(db);
    if (err)
        return err;
    pthread_mutex_lock(&db->named_lock);
    struct lsm_snapshot **at = held_find(db, name), *s = *at;
    if (s) {
        struct edit edit = {.name_dropped = name};
        err = vset_apply(db->vset, &edit, NULL, NULL);
    } else {
        err = -ENOENT;
    }
    if (!err) {
        *at = s->held_next;
        snapshot_remove(db, s);
        held_free(s);
    }
    pthread_mutex_unlock(&db->named_lock);
    return err ? named_failed(db, err) : 0;
}

int lsm_snapshot_open(struct lsm *db, const char *name, struct lsm_snapshot **out)
{
    struct lsm_snapshot *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    pthread_mutex_lock(&db->named_lock);
    const struct lsm_snapshot *held = *held_find(db, name);
    if (held) {
        s->seq = held->seq;
        pthread_mutex_lock(&db->snapshot_lock);
        insert(db, s);
        pthread_mutex_unlock(&db->snapshot_lock);
    }
    pthread_mutex_unlock(&db->named_lock);
    if (!held) {
        free(s);
        return -ENOENT;
    }
    *out = s;
    return 0;
}

int lsm_snapshot_each(struct lsm *db, int (*fn)(void *arg, const struct lsm_snapshot_info *info), void *arg)
{
    int err = 0;
    pthread_mutex_lock(&db->named_lock);
    const struct named_list *named = vset_named(db->vset);
    for (size_t i = 0; !err && i < named->count; i++) {
        const struct named_snapshot *n = &named->list[i];
        struct lsm_snapshot_info info = {.name = n->name, .created_ns = n->created_ns, .position = n->seq};
        err = fn(arg, &info);
    }
    pthread_mutex_unlock(&db->named_lock);
    return err;
}
