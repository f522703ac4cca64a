/*
 * snapshot.c - the set of moments that readers hold on to. See db.h for lock order.
 *
 * A snapshot is a seq: what was published when it was taken. Its seq is sampled and its place in
 * the ring taken under one lock, under which compaction copies the ring: so a snapshot is either
 * seen by a compaction, or newer than everything in that compaction's inputs.
 */
#include "db.h"

#include <errno.h>
#include <stdlib.h>

uint64_t snapshot_add(struct lsm *db, struct lsm_snapshot *s)
{
    pthread_mutex_lock(&db->snapshot_lock);
    s->seq = db_frontier(db) - 1;
    s->prev = db->snapshots.prev;
    s->next = &db->snapshots;
    s->prev->next = s;
    s->next->prev = s;
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
