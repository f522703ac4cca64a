/*
 * commit.c - the write path.
 *
 * A commit has three parts. First everything that may wait, with no lock held: back-pressure, a
 * prepared log segment, large values written to blob files, room in the memtables. Then, under the locks of the shards it touches, all
 * that may still fail: a full memtable or log means letting go and waiting again, having changed
 * nothing. Then reserve, copy, insert, publish, which can't fail (but for the medium, which ends
 * the log). The reply waits until the frontier has passed the record: an older record of another
 * writer may still be on its way.
 *
 * On a full disk (space.h) a batch that grows the store is refused first of all. One that frees space
 * tries again as long as the background work that it waits for comes to anything. If it has large values (what is
 * left of one that is cut), they go into the log: its space is there, and a blob file would need more.
 */
#include "mutant.h"
#include "db.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHANGES_ON_STACK 32u
#define LENT_MIN_BYTES (16u << 10) /* of lsm_put: less is as well copied */
/* How long background work is waited for that might make space for a delete: a try that fails is repeated every 250 ms. */
#define SPACE_WAIT_NS UINT64_C(5000000000)

/* A value that goes past the log. */
struct large {
    uint32_t change; /* index */
    uint8_t pointer[BLOB_POINTER_MAX];
};

/* A batch taken apart: computed once, used for checking room and for inserting. */
struct plan {
    const struct lsm_batch *batch;
    const uint8_t *
        payload; /* of the record: the batch's, or a copy of it with pointers for large values, and what was lent */
    size_t payload_len; /* at most, while large values are not written */
    uint8_t *own_payload;
    struct large *large;
    struct blob_value *values; /* of each large one; file NULL: not written */
    size_t large_count;
    struct blob_file **kept; /* files of the values that are named in part, each held */
    size_t kept_count;
    bool paced;   /* it has waited as long as back-pressure demands */
    bool may_log; /* the large values may go into the log, if there is no space for them elsewhere */
    struct batch_change *changes;
    uint8_t *shard_of;
    uint64_t mask;        /* shards touched */
    uint64_t wants_flush; /* shards that the batch has given a reason to */
    size_t range_bytes;   /* of the bounds of range deletes */
    size_t largest_value;
    struct batch_change changes_stack[CHANGES_ON_STACK];
    uint8_t shard_stack[CHANGES_ON_STACK];
};

static void plan_free(struct plan *p)
{
    if (p->changes != p->changes_stack) {
        free(p->changes);
        free(p->shard_of);
    }
    while (p->kept_count > 0)
        blob_release(p->kept[--p->kept_count]);
    free(p->kept);
    free(p->large);
    free(p->values);
    free(p->own_payload);
}

static bool is_large(const struct lsm *db, const struct batch_change *c)
{
    return c->type == ENTRY_PUT && c->value_len + c->lent_len >= db->options.blob_min_bytes;
}

/* Sets the large ones of the changes apart: they become pointers, yet to be known. */
static int plan_large(struct lsm *db, struct plan *p)
{
    size_t n = 0;
    for (uint32_t i = 0; i < p->batch->count; i++)
        n += is_large(db, &p->changes[i]);
    if (!n)
        return 0;
    p->large = calloc(n, sizeof *p->large);
    p->values = calloc(n, sizeof *p->values);
    if (!p->large || !p->values)
        return -ENOMEM;
    for (uint32_t i = 0; i < p->batch->count; i++) {
        struct batch_change *c = &p->changes[i];
        if (!is_large(db, c))
            continue;
        p->values[p->large_count].bytes[0] = (struct iovec){(void *)c->value, c->value_len};
        p->values[p->large_count].bytes[1] = (struct iovec){(void *)c->lent, c->lent_len};
        p->large[p->large_count++].change = i;
        p->payload_len -= c->value_len + (c->lent_len ? c->lent_len + VARINT_MAX : 0);
        p->payload_len += BLOB_POINTER_MAX; /* its length takes a byte, as little as any */
        c->type = ENTRY_BLOB;
        c->value_len = BLOB_POINTER_MAX;
        c->lent = NULL;
        c->lent_len = 0;
    }
    return 0;
}

/* The changes that are not stored as they are in the batch. */
static uint8_t *put_pointer(uint8_t *q, struct batch_change *c, const struct blob_value *value,
                            struct large *l)
{
    c->value = l->pointer;
    c->value_len = blob_pointer_encode(&value->pointer, l->pointer);
    q = batch_put_head(q, ENTRY_BLOB, c->key, c->key_len, c->value_len);
    memcpy(q, c->value, c->value_len);
    return q + c->value_len;
}

static uint8_t *put_lent(uint8_t *q, struct batch_change *c, const struct batch_change *built)
{
    q = batch_put_head(q, c->type, c->key, c->key_len, c->value_len);
    c->value = q;
    if (built->value_len)
        memcpy(q, built->value, built->value_len);
    memcpy(q + built->value_len, built->lent, built->lent_len);
    return q + c->value_len;
}

/* All pointers are known: the payload is what the batch has, with them in the place of large values. */
static void plan_payload(struct plan *p)
{
    uint8_t *q = p->own_payload;
    put_le32(q, p->batch->count);
    q += BATCH_HEADER_BYTES;
    struct batch_built_reader br;
    struct batch_change built;
    batch_built_begin(&br, p->batch);
    for (uint32_t i = 0, next = 0; i < p->batch->count; i++) {
        const uint8_t *from = br.encoded.r.p;
        (void)batch_built_next(&br, &built);
        const size_t len = (size_t)(br.encoded.r.p - from);
        if (next < p->large_count && p->large[next].change == i) {
            q = put_pointer(q, &p->changes[i], &p->values[next], &p->large[next]);
            next++;
        } else if (built.lent) {
            q = put_lent(q, &p->changes[i], &built);
        } else { /* as it is: a change is more than it decodes to */
            memcpy(q, from, len);
            q += len;
        }
    }
    assert((size_t)(q - p->own_payload) <= p->payload_len);
    p->payload = p->own_payload;
    p->payload_len = (size_t)(q - p->own_payload);
}

/* They will not be named. */
static void unwrite_large(struct lsm *db, struct plan *p)
{
    for (size_t i = p->large_count; i-- > 0;) { /* backwards: each may then lie at the end of its file */
        if (p->values[i].file)
            blob_unwrite(&db->shards[p->shard_of[p->large[i].change]], &p->values[i]);
        p->values[i].file = NULL;
    }
}

/* How many large values from i on go to the same shard. */
static unsigned same_shard(const struct plan *p, size_t i)
{
    size_t n = 1;
    while (i + n < p->large_count && p->shard_of[p->large[i + n].change] == p->shard_of[p->large[i].change])
        n++;
    return (unsigned)n;
}

/* Once: before the first try for the locks. */
static int write_large(struct lsm *db, struct plan *p, bool nowait)
{
    if (p->payload)
        return 0;
    for (size_t i = 0; i < p->large_count;) {
        struct shard *s = &db->shards[p->shard_of[p->large[i].change]];
        int n = blob_write(s, &p->values[i], same_shard(p, i), nowait);
        if (n < 0) {
            unwrite_large(db, p);
            return n;
        }
        for (const size_t end = i + (size_t)n; i < end; i++)
            space_took(db, p->values[i].pointer.extent_bytes);
    }
    plan_payload(p);
    return 0;
}

static void name_large(struct plan *p, lsn_t end)
{
    for (size_t i = 0; i < p->large_count; i++) {
        blob_named(&p->values[i], end);
        p->values[i].file = NULL;
    }
    while (p->kept_count > 0)
        blob_renamed(p->kept[--p->kept_count], end);
}

/* What the batch names in part must stay until the record does. */
static int keep_parts(struct lsm *db, struct plan *p)
{
    struct blob_pointer pointer;
    struct batch_built_reader br;
    struct batch_change c;
    if (!p->batch->parts)
        return 0;
    p->kept = malloc(p->batch->parts * sizeof(struct blob_file *));
    if (!p->kept)
        return -ENOMEM;
    batch_built_begin(&br, p->batch);
    for (uint32_t i = 0; batch_built_next(&br, &c); i++) {
        if (c.type != ENTRY_BLOB || mutant("what a part names is not held"))
            continue;
        int err = blob_pointer_decode(c.value, c.value_len, &pointer);
        assert(!err);
        err = blob_retain(&db->shards[p->shard_of[i]], &pointer, &p->kept[p->kept_count]);
        if (err)
            return err;
        p->kept_count++;
    }
    return 0;
}

/* `in_log`: with no large values set apart. */
static int plan_make(struct lsm *db, const struct lsm_batch *batch, bool in_log, struct plan *p)
{
    p->batch = batch;
    p->mask = p->wants_flush = 0;
    p->largest_value = 0;
    p->range_bytes = 0;
    p->payload = NULL;
    p->payload_len = lsm_batch_bytes(batch);
    p->own_payload = NULL;
    p->large = NULL;
    p->values = NULL;
    p->large_count = 0;
    p->kept = NULL;
    p->kept_count = 0;
    p->may_log = p->paced = false;
    p->changes = p->changes_stack;
    p->shard_of = p->shard_stack;
    if (batch->count > CHANGES_ON_STACK) {
        p->changes = malloc(batch->count * sizeof *p->changes);
        p->shard_of = malloc(batch->count);
        if (!p->changes || !p->shard_of) {
            plan_free(p);
            return -ENOMEM;
        }
    }
    struct batch_built_reader br;
    batch_built_begin(&br, batch);
    for (uint32_t i = 0; i < batch->count; i++) {
        struct batch_change *c = &p->changes[i];
        bool there = batch_built_next(&br, c);
        assert(there);
        p->shard_of[i] = db_route_change(db, c);
        p->mask |= db_shard_mask(db, p->shard_of[i]);
        if (c->type == ENTRY_RANGE_DELETE)
            p->range_bytes += c->key_len + c->value_len;
        else if (c->value_len + c->lent_len > p->largest_value && (in_log || !is_large(db, c)))
            p->largest_value = c->value_len + c->lent_len;
    }
    int err = keep_parts(db, p);
    if (!err && !in_log)
        err = plan_large(db, p);
    if (!err && p->payload_len > wal_payload_max(db->wal))
        err = -E2BIG;
    if (!err && !p->large_count && !batch->lent_count) {
        p->payload = batch->bytes;
    } else if (!err) {
        for (size_t i = 0; i < batch->lent_count;
             i++) { /* what plan_payload puts together: as long as it will be */
            struct batch_change *c = &p->changes[batch->lent[i].change];
            c->value_len += c->lent_len;
        }
        p->own_payload = malloc(p->payload_len);
        err = p->own_payload ? 0 : -ENOMEM;
    }
    if (err)
        plan_free(p);
    return err;
}

/* What the changes of one shard take in its memtable, at most. Under the shard's lock. */
static size_t plan_room(const struct plan *p, unsigned shard, const struct memtable *m)
{
    size_t room = 0;
    for (uint32_t i = 0; i < p->batch->count; i++) {
        const struct batch_change *c = &p->changes[i];
        if (p->shard_of[i] != shard && p->shard_of[i] != SHARD_EVERY)
            continue;
        if (c->type == ENTRY_RANGE_DELETE) {
            room += memtable_range_bytes(c->key_len, c->value_len);
            continue;
        }
        size_t value_len = c->value_len;
        if (c->type == ENTRY_MERGE) { /* what lies below may also come from this very batch */
            size_t below = memtable_newest_len(m, c->key, c->key_len);
            value_len += below > p->largest_value ? below : p->largest_value;
        }
        room += memtable_entry_bytes(c->key_len, value_len);
    }
    return room;
}

static void unlock_shards(struct lsm *db, uint64_t mask)
{
    for (unsigned i = 0; i < db->shard_count; i++)
        if (mask >> i & 1)
            pthread_mutex_unlock(&db->shards[i].lock);
}

/* Ascending by index. With nowait -EAGAIN if one is taken, none held. */
static int lock_shards(struct lsm *db, uint64_t mask, bool nowait)
{
    uint64_t held = 0;
    for (unsigned i = 0; i < db->shard_count; i++) {
        if (!(mask >> i & 1))
            continue;
        if (!nowait) {
            pthread_mutex_lock(&db->shards[i].lock);
        } else if (pthread_mutex_trylock(&db->shards[i].lock)) {
            unlock_shards(db, held);
            return -EAGAIN;
        }
        held |= UINT64_C(1) << i;
    }
    return 0;
}

/*
 * Makes room in one shard, under its lock: 0, or -EAGAIN if its flush must catch up first.
 * A batch that is larger than a memtable gets a memtable of its own size.
 */
static int make_room(struct shard *s, const struct plan *p, struct view **retired)
{
    struct view *v = s->view;
    size_t need = plan_room(p, s->index, v->active);
    bool fits = need <= memtable_free_bytes(v->active) && memtable_takes_ranges(v->active, p->range_bytes);
    if (fits && !blob_wants_flush(s, v) &&
        !(v->sealed_count < SEALED_MAX && space_is_enough(s->db, v->active)))
        return 0;
    if (v->sealed_count >= SEALED_MAX)
        return -EAGAIN;
    size_t arena = s->db->options.write_buffer_bytes;
    /* Folding with what lies below is over: in an empty memtable there is nothing below. */
    return view_rotate(s, need > arena ? need : arena, retired);
}

/* A shard whose memtables are full, and how many of its flushes had ended when that was found. */
struct full {
    struct shard *shard; /* NULL: none */
    uint64_t since;
};

/* Locks held: makes room in every shard of the plan. On -EAGAIN *full must be waited for. */
static int make_all_room(struct lsm *db, const struct plan *p, struct view *retired[], struct full *full)
{
    for (unsigned i = 0; i < db->shard_count; i++) {
        if (!(p->mask >> i & 1))
            continue;
        struct shard *s = &db->shards[i];
        int err = make_room(s, p, &retired[i]);
        if (err == -EAGAIN) /* counted under the lock: a flush that ends from now on has not made room yet */
            *full = (struct full){s, shard_count(s, SHARD_FLUSHES)};
        if (err)
            return err;
    }
    return 0;
}

static void retire_all(struct lsm *db, struct view *retired[])
{
    for (unsigned i = 0; i < db->shard_count; i++) {
        if (!retired[i])
            continue;
        view_retire_later(retired[i]);
        retired[i] = NULL;
        shard_kick(&db->shards[i]);
    }
}

uint8_t db_route_change(const struct lsm *db, const struct batch_change *c)
{
    if (c->type != ENTRY_RANGE_DELETE)
        return (uint8_t)db_route(db, c->key, c->key_len);
    if (mutant("range deletes of one shard only"))
        return (uint8_t)db_route(db, c->key, c->key_len);
    return c->route ? (uint8_t)db_route(db, c->route, c->route_len) : SHARD_EVERY;
}

static void insert_range(struct lsm *db, const struct batch_change *c, uint64_t seq, uint64_t mask)
{
    for (unsigned i = 0; i < db->shard_count; i++)
        if (mask >> i & 1)
            memtable_delete_range(db->shards[i].view->active, seq, c->key, c->key_len, c->value,
                                  c->value_len);
}

void db_insert(struct lsm *db, const struct batch_change *changes, const uint8_t *shard_of, uint32_t count,
               lsn_t lsn, lsn_t end, uint64_t mask)
{
    for (unsigned i = 0; i < db->shard_count; i++)
        if (mask >> i & 1)
            memtable_begin_record(db->shards[i].view->active, lsn, end);
    for (uint32_t i = 0; i < count; i++) {
        const struct batch_change *c = &changes[i];
        if (c->type == ENTRY_RANGE_DELETE && db->replaying && mutant("range deletes not replayed"))
            continue;
        if (c->type == ENTRY_RANGE_DELETE)
            insert_range(db, c, lsn + i, mask & db_shard_mask(db, shard_of[i]));
        else if (mask >> shard_of[i] & 1)
            memtable_insert(db->shards[shard_of[i]].view->active, lsn + i, c->type, c->key, c->key_len,
                            c->value, c->value_len);
    }
}

/* ---- waiting for room ---- */

static int wait_for_room(const struct full *full, bool nowait)
{
    struct shard *s = full->shard;
    shard_kick(s);
    if (nowait)
        return -EAGAIN;
    uint64_t began = stall_begin(s, LSM_STALL_MEMTABLES);
    int err = shard_wait(s, SHARD_FLUSHES, full->since);
    stall_end(s, LSM_STALL_MEMTABLES, began);
    return err;
}

/* Waits are counted in the first shard of the batch. */
static struct shard *first_shard(struct lsm *db, const struct plan *p)
{
    return &db->shards[__builtin_ctzll(p->mask)];
}

/*
 * On a full disk nothing goes into the log's last segment file: the next open would need another to go on after
 * a crash. Flushing gives used ones back; if there is but one, the reserve has space for a second.
 */
static int make_spare(struct lsm *db)
{
    if (wal_make_spare(db->wal) == 0)
        return 0;
    int err = lsm_flush(db);
    if (err || wal_has_spare(db->wal))
        return err;
    __atomic_add_fetch(&db->space.last_resort, 1, __ATOMIC_RELAXED);
    err = wal_make_spare(db->wal);
    __atomic_sub_fetch(&db->space.last_resort, 1, __ATOMIC_RELAXED);
    return err;
}

static int prepare_spare(struct lsm *db, const struct plan *p, bool nowait)
{
    if (!space_is_tight(db) || wal_has_spare(db->wal))
        return 0;
    if (nowait)
        return -EAGAIN;
    uint64_t began = stall_begin(first_shard(db, p), LSM_STALL_DISK);
    int err = make_spare(db);
    stall_end(first_shard(db, p), LSM_STALL_DISK, began);
    return err;
}

/* Where a full disk has no space for another segment, flushing gives used ones back. */
static int flush_for_segment(struct lsm *db, const struct plan *p)
{
    uint64_t began = stall_begin(first_shard(db, p), LSM_STALL_DISK);
    int err = lsm_flush(db);
    if (!err)
        err = wal_prepare(db->wal, p->payload_len, false);
    stall_end(first_shard(db, p), LSM_STALL_DISK, began);
    return err;
}

/* Room in the log. */
static int prepare_log(struct lsm *db, const struct plan *p, bool nowait)
{
    int err = prepare_spare(db, p, nowait);
    if (!err)
        err = wal_prepare(db->wal, p->payload_len, true);
    if (err == -EAGAIN && !nowait) {
        uint64_t began = stall_begin(first_shard(db, p), LSM_STALL_LOG);
        err = wal_prepare(db->wal, p->payload_len, false);
        stall_end(first_shard(db, p), LSM_STALL_LOG, began);
    }
    return err == -ENOSPC && !nowait ? flush_for_segment(db, p) : err;
}

int db_wait_for_space(struct lsm *db)
{
    uint64_t since = count_get(&db->space.progress), until = env_mono_ns(db->env) + SPACE_WAIT_NS;
    do {
        for (unsigned i = 0; i < db->shard_count; i++) {
            struct shard *s = &db->shards[i];
            int err = shard_wait(s, SHARD_STEPS, shard_count(s, SHARD_STEPS));
            if (err && err != -ENOSPC)
                return err;
            if (count_get(&db->space.progress) != since)
                return db_writable(db);
        }
    } while (!db_inline(db) && env_mono_ns(db->env) < until);
    return -ENOSPC;
}

/* ---- the commit ---- */

/* Under the locks, room made: writes the record and applies it. */
static int append_and_insert(struct lsm *db, struct plan *p, lsn_t *end)
{
    struct wal_ticket ticket;
    int err = wal_reserve(db->wal, p->payload_len, &ticket);
    if (err)
        return err;
    struct iovec iov = {(void *)p->payload, p->payload_len};
    err = wal_copy(db->wal, &ticket, &iov, 1);
    if (err) {
        /* The log has failed: the frontier stays below this record. It may be whole on the medium, and named by the next open. */
        name_large(p, SEQ_MAX);
        return err;
    }
    db_insert(db, p->changes, p->shard_of, p->batch->count, ticket.lsn, ticket.end, p->mask);
    name_large(p, ticket.end);
    wal_publish(db->wal, &ticket);
    for (unsigned i = 0; i < db->shard_count; i++)
        if (p->mask >> i & 1 && blob_wants_flush(&db->shards[i], db->shards[i].view))
            p->wants_flush |= UINT64_C(1) << i;
    *end = ticket.end;
    return 0;
}

/* One try. -EAGAIN: another writer took the room, or something was waited for: from the start. */
static int try_plan(struct lsm *db, struct plan *p, bool nowait, bool shrinks, lsn_t *end)
{
    struct view *retired[SHARDS_MAX] = {0};
    int err = db_writable(db);
    if (!err && !p->paced) {
        err = stall_hold_back(db, p->mask, p->payload_len / (unsigned)__builtin_popcountll(p->mask), nowait,
                              shrinks);
        p->paced = err == 0;
    }
    if (!err)
        err = prepare_log(db, p, nowait);
    if (!err && nowait && p->large_count) { /* what is written and then turned away was written in vain */
        err = lock_shards(db, p->mask, true);
        if (!err)
            unlock_shards(db, p->mask);
    }
    if (!err)
        err = write_large(db, p, nowait);
    if (!err)
        err = lock_shards(db, p->mask, nowait);
    if (err)
        return err;
    struct full full = {0};
    err = make_all_room(db, p, retired, &full);
    if (!err)
        err = append_and_insert(db, p, end);
    unlock_shards(db, p->mask);
    retire_all(db, retired);
    if (!full.shard)
        return err;
    err = wait_for_room(&full, nowait);
    return err ? err : -EAGAIN;
}

static int wait_for_space(struct lsm *db, const struct plan *p)
{
    uint64_t began = stall_begin(first_shard(db, p), LSM_STALL_DISK);
    int err = db_wait_for_space(db);
    stall_end(first_shard(db, p), LSM_STALL_DISK, began);
    return err;
}

static int commit_plan(struct lsm *db, struct plan *p, unsigned flags, lsn_t *end)
{
    bool nowait = flags & LSM_NOWAIT, shrinks = flags & LSM_SHRINK;
    int err = shrinks ? 0 : space_gate(db, lsm_batch_bytes(p->batch));
    if (err)
        return err;
    do {
        err = try_plan(db, p, nowait, shrinks, end);
        if (err == -ENOSPC && shrinks && !p->may_log && (nowait || wait_for_space(db, p) == 0))
            err = -EAGAIN;
    } while (err == -EAGAIN && !nowait);
    return err;
}

/*
 * The batch is in: what its shards have to do about a log that is too long, and on a full disk about
 * deletes, which free nothing before they are in a table.
 */
static void mind_log(struct lsm *db, uint64_t mask, bool nowait)
{
    bool over_budget = log_over_budget(db);
    if (!over_budget && !space_is_wanted(db))
        return;
    for (unsigned i = 0; i < db->shard_count; i++)
        if (mask >> i & 1)
            shard_kick(&db->shards[i]);
    if (!db_inline(db) || nowait || !over_budget)
        return;
    int err = lsm_flush(db);
    if (err) /* of no concern to this batch; the next one tries again */
        logger_write(&db->log, LSM_LOG_WARNING, "the log is over its budget and can't be flushed: %s",
                     strerror(-err));
}

/* The manifest may have failed for good meanwhile. */
static int require_failed(struct lsm *db, int err)
{
    int failed = vset_failed(db->vset);
    if (failed)
        db_fail(db, failed, "the manifest can't be written");
    return err;
}

/*
 * What the system said of a file of ours that a commit waited for (its directory is gone, no descriptor is left)
 * would mean something else to a caller: "no such key". The log has the reason.
 */
static int for_caller(int err)
{
    switch (err) {
    case 0:
    case -EAGAIN:
    case -ENOSPC:
    case -EDQUOT:
    case -ENOMEM:
    case -EROFS:
    case -E2BIG:
    case -ESTALE:
    case -EUCLEAN: return err;
    default: return -EIO;
    }
}

int lsm_commit(struct lsm *db, const struct lsm_batch *batch, unsigned flags)
{
    if (batch->error)
        return batch->error;
    if (batch->has_merge && !db->options.merge)
        return -EINVAL;
    int err = db_writable(db);
    if (err)
        return err;
    if (flags & LSM_SYNC && flags & LSM_NOWAIT) /* a sync always waits */
        return -EAGAIN;
    if (batch->count == 0)
        return flags & LSM_SYNC ? lsm_sync(db) : 0;
    if (batch->range_bytes > MEMTABLE_RANGES_MAX)
        return -E2BIG;

    if (batch->has_range && !vset_has(db->vset, STORE_RANGE_DELETES)) { /* once in a store's life */
        err = flags & LSM_NOWAIT ? -EAGAIN : vset_require(db->vset, STORE_RANGE_DELETES);
        if (err)
            return require_failed(db, err);
    }

    struct plan p;
    bool may_log = flags & LSM_SHRINK && lsm_batch_bytes(batch) <= wal_payload_max(db->wal);
    err = plan_make(db, batch, may_log && space_is_tight(db), &p);
    if (err)
        return err;
    p.may_log = may_log && p.large_count;
    struct shard *first = first_shard(db, &p);
    uint64_t began = db_latency_begin(db, LSM_OP_COMMIT);
    lsn_t end = 0;
    err = commit_plan(db, &p, flags, &end);
    if (err && p.payload)
        unwrite_large(db, &p);
    if (err == -ENOSPC && p.may_log) { /* fuller than it seemed */
        plan_free(&p);
        err = plan_make(db, batch, true, &p);
        if (err)
            return err;
        err = commit_plan(db, &p, flags, &end);
    }
    uint64_t mask = p.mask;
    for (unsigned i = 0; !err && p.wants_flush && i < db->shard_count; i++)
        if (p.wants_flush >> i & 1)
            shard_kick(&db->shards[i]);
    plan_free(&p);
    if (err)
        return for_caller(err);
    space_appended(db, end);

    DB_COUNT(db, batches, 1);
    DB_COUNT(db, batch_bytes, lsm_batch_bytes(batch));
    err = wal_wait(db->wal, end);
    if (!err)
        mind_log(db, mask, flags & LSM_NOWAIT);
    if (!err && flags & LSM_SYNC)
        err = wal_sync_to(db->wal, end);
    latency_end(&first->latency[LSM_OP_COMMIT], db->env, began);
    return err;
}

size_t lsm_batch_log_bytes(const struct lsm *db, const struct lsm_batch *batch)
{
    struct batch_built_reader br;
    struct batch_change c;
    size_t bytes = lsm_batch_bytes(batch);
    if (batch->error || !batch->count)
        return bytes;
    batch_built_begin(&br, batch);
    while (batch_built_next(&br, &c))
        if (is_large(db, &c))
            bytes -= c.value_len + c.lent_len - BLOB_POINTER_MAX;
    return bytes;
}

size_t lsm_batch_bytes_max(const struct lsm *db) { return db->wal ? wal_payload_max(db->wal) : 0; }

static int commit_one(struct lsm *db, struct lsm_batch *batch, unsigned flags)
{
    int err = lsm_commit(db, batch, flags);
    free(batch->bytes);
    free(batch->lent);
    return err;
}

int lsm_put(struct lsm *db, const void *key, size_t key_len, const void *value, size_t value_len,
            unsigned flags)
{
    struct lsm_batch batch = {0};
    if (value_len >= LENT_MIN_BYTES)
        lsm_batch_put_lent(&batch, key, key_len, NULL, 0, value, value_len);
    else
        lsm_batch_put(&batch, key, key_len, value, value_len);
    return commit_one(db, &batch, flags);
}

int lsm_delete(struct lsm *db, const void *key, size_t key_len, unsigned flags)
{
    struct lsm_batch batch = {0};
    lsm_batch_delete(&batch, key, key_len);
    return commit_one(db, &batch, flags);
}

int lsm_sync(struct lsm *db)
{
    if (!db->wal) /* everything a read-only store shows is as durable as it will get */
        return 0;
    uint64_t began = env_mono_ns(db->env);
    int err = wal_sync(db->wal);
    latency_add(&db->sync_latency, env_mono_ns(db->env) - began);
    return err;
}

void lsm_sync_async(struct lsm *db, void (*done)(void *arg, int result), void *arg)
{
    if (!db->wal)
        done(arg, 0);
    else
        wal_sync_async(db->wal, done, arg);
}
