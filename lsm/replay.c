/*
 * replay.c - see replay.h.
 */
#include "replay.h"
#include "db.h"
#include "mutant.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORKERS_MAX 16u
#define CHUNK_MIN (UINT64_C(1) << 20)
#define CHUNK_SMALL (UINT64_C(16) << 20)

struct record {
    lsn_t lsn, end;
};

/* A change of one shard. */
struct item {
    struct batch_change change;
    uint64_t seq;
    size_t record; /* of the chunk */
};

struct items {
    struct item *items;
    size_t count, capacity;
};

/* Place of an item in the order of keys. */
struct sorted {
    uint64_t prefix; /* of the key, past what all have in common */
    const struct item *item;
};

struct chunk {
    uint8_t *bytes; /* payloads */
    size_t used, capacity;
    struct record *records;
    size_t record_count, record_capacity;
    struct items shards[SHARDS_MAX];
};

struct worker {
    struct replay *rp;
    unsigned index;
    struct env_thread *thread;
    struct sorted *order;
    size_t order_capacity;
};

struct replay {
    struct lsm *db;
    size_t chunk_bytes;
    struct chunk chunks[2];
    unsigned filling; /* the chunk that takes records; the other is at work, or empty */
    struct worker workers[WORKERS_MAX];
    unsigned worker_count; /* 1 without threads */
    bool threads;          /* they were started */

    pthread_mutex_t lock;
    pthread_cond_t given, done;
    struct chunk *work; /* what is at work */
    uint64_t round;     /* chunks given out */
    unsigned busy;      /* workers that are not done with it */
    bool ending;
    int error; /* the first one */
};

/* ---- one shard's part ---- */

static int compare_sorted(const void *a, const void *b)
{
    const struct sorted *x = a, *y = b;
    if (x->prefix != y->prefix)
        return x->prefix < y->prefix ? -1 : 1;
    const struct batch_change *p = &x->item->change, *q = &y->item->change;
    int c = key_compare(p->key, p->key_len, q->key, q->key_len);
    return c ? c : (x->item->seq > y->item->seq) - (x->item->seq < y->item->seq);
}

/* Bytes that all keys begin with. */
static size_t common_prefix(const struct item *items, size_t n)
{
    size_t len = items[0].change.key_len;
    for (size_t i = 1; i < n; i++) {
        const struct batch_change *c = &items[i].change;
        len = c->key_len < len ? c->key_len : len;
        size_t at = 0;
        while (at < len && c->key[at] == items[0].change.key[at])
            at++;
        len = at;
    }
    return len;
}

/* Up to eight bytes of the key, so that they compare as it does; a shorter one is padded, and ties are looked at. */
static uint64_t key_prefix(const struct batch_change *c, size_t from)
{
    uint64_t prefix = 0;
    size_t left = c->key_len - from;
    if (left)
        memcpy(&prefix, c->key + from, left < sizeof prefix ? left : sizeof prefix);
    return be64toh(prefix);
}

static int order_items(struct worker *w, const struct item *items, size_t n)
{
    if (n > w->order_capacity) {
        free(w->order);
        w->order_capacity = 0;
        w->order = malloc((n + n / 2) * sizeof *w->order);
        if (!w->order)
            return -ENOMEM;
        w->order_capacity = n + n / 2;
    }
    size_t common = common_prefix(items, n);
    for (size_t i = 0; i < n; i++)
        w->order[i] = (struct sorted){key_prefix(&items[i].change, common), &items[i]};
    qsort(w->order, n, sizeof *w->order, compare_sorted);
    return 0;
}

static void begin_records(struct memtable *m, const struct chunk *c, const struct item *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (i == 0 || items[i].record != items[i - 1].record)
            memtable_begin_record(m, c->records[items[i].record].lsn, c->records[items[i].record].end);
}

/* Whole records without range deletes, for which there is room. */
static int insert_run(struct worker *w, struct shard *s, const struct chunk *c, const struct item *items,
                      size_t n)
{
    struct memtable_place place = {0};
    if (n == 0)
        return 0;
    int err = order_items(w, items, n);
    if (err)
        return err;
    begin_records(s->view->active, c, items, n);
    for (size_t i = 0; i < n; i++) {
        const struct batch_change *b = &w->order[i].item->change;
        memtable_insert_after(s->view->active, &place, w->order[i].item->seq, b->type, b->key, b->key_len,
                              b->value, b->value_len);
    }
    return 0;
}

static void insert_in_order(struct shard *s, const struct chunk *c, const struct item *items, size_t n)
{
    struct memtable *m = s->view->active;
    begin_records(m, c, items, n);
    for (size_t i = 0; i < n; i++) {
        const struct batch_change *b = &items[i].change;
        if (b->type != ENTRY_RANGE_DELETE)
            memtable_insert(m, items[i].seq, b->type, b->key, b->key_len, b->value, b->value_len);
        else if (!mutant("range deletes not replayed"))
            memtable_delete_range(m, items[i].seq, b->key, b->key_len, b->value, b->value_len);
    }
}

/* A memtable for what does not fit; flushes the oldest if too many wait, unless the store is read-only. */
static int make_room(struct shard *s, size_t need, size_t range_bytes)
{
    struct lsm *db = s->db;
    if (need <= memtable_free_bytes(s->view->active) && memtable_takes_ranges(s->view->active, range_bytes))
        return 0;
    struct view *retired = NULL;
    size_t arena = db->options.write_buffer_bytes;
    pthread_mutex_lock(&s->lock);
    int err = view_rotate(s, need > arena ? need : arena, &retired);
    pthread_mutex_unlock(&s->lock);
    view_retire(retired);
    while (!err && !db->read_only && s->view->sealed_count > SEALED_MAX) {
        int result = shard_flush_oldest(s);
        /* On a full disk more memtables wait than usual: what fitted into memory before the crash does so again. */
        if (result == -ENOSPC)
            break;
        err = result < 0 ? result : 0;
    }
    return err;
}

/* One record's changes in a shard, and what they take in its memtable. */
struct group {
    size_t count, need, range_bytes;
    size_t largest; /* value that an operand may be folded with: in the group, or before it in the run */
};

static void measure(struct shard *s, const struct item *items, size_t left, size_t largest, struct group *g)
{
    *g = (struct group){.largest = largest};
    for (; g->count < left && items[g->count].record == items[0].record; g->count++) {
        const struct batch_change *b = &items[g->count].change;
        if (b->type == ENTRY_RANGE_DELETE)
            g->range_bytes += b->key_len + b->value_len;
        else if (b->value_len > g->largest)
            g->largest = b->value_len;
    }
    for (size_t i = 0; i < g->count; i++) {
        const struct batch_change *b = &items[i].change;
        size_t value_len = b->value_len;
        if (b->type == ENTRY_MERGE) {
            size_t below = memtable_newest_len(s->view->active, b->key, b->key_len);
            value_len += below > g->largest ? below : g->largest;
        }
        g->need += b->type == ENTRY_RANGE_DELETE ? memtable_range_bytes(b->key_len, b->value_len)
                                                 : memtable_entry_bytes(b->key_len, value_len);
    }
}

/*
 * Records are added to a run as long as the memtable has room for all of it. An operand's need is known only roughly while
 * the run is not inserted: what does not fit is measured again when it is.
 */
static int apply_shard(struct worker *w, struct shard *s, const struct chunk *c)
{
    const struct item *items = c->shards[s->index].items;
    size_t count = c->shards[s->index].count, run = 0, need = 0, largest = 0;
    struct group g;
    for (size_t i = 0; i < count;) {
        int err = 0;
        measure(s, items + i, count - i, largest, &g);
        bool fits = !g.range_bytes && need + g.need <= memtable_free_bytes(s->view->active);
        if (!fits && i > run) {
            err = insert_run(w, s, c, items + run, i - run);
            if (err)
                return err;
            run = i;
            need = largest = 0;
            continue;
        }
        if (!fits)
            err = make_room(s, g.need, g.range_bytes);
        if (err)
            return err;
        if (g.range_bytes) {
            insert_in_order(s, c, items + i, g.count);
            run = i + g.count;
        } else {
            need += g.need;
            largest = g.largest;
        }
        i += g.count;
    }
    return run < count ? insert_run(w, s, c, items + run, count - run) : 0;
}

/* ---- workers ---- */

static int apply_part(struct worker *w, const struct chunk *c)
{
    struct replay *rp = w->rp;
    int err = 0;
    for (unsigned i = w->index; !err && i < rp->db->shard_count; i += rp->worker_count)
        err = apply_shard(w, &rp->db->shards[i], c);
    return err;
}

static void worker_main(void *arg)
{
    struct worker *w = arg;
    struct replay *rp = w->rp;
    uint64_t seen = 0;
    pthread_mutex_lock(&rp->lock);
    for (;;) {
        while (rp->round == seen && !rp->ending)
            pthread_cond_wait(&rp->given, &rp->lock);
        if (rp->round == seen)
            break;
        seen = rp->round;
        struct chunk *c = rp->work;
        pthread_mutex_unlock(&rp->lock);
        int err = apply_part(w, c);
        pthread_mutex_lock(&rp->lock);
        if (err && !rp->error)
            rp->error = err;
        if (--rp->busy == 0)
            pthread_cond_signal(&rp->done);
    }
    pthread_mutex_unlock(&rp->lock);
}

/* Waits for the chunk that is at work; returns the first error of any. */
static int await_workers(struct replay *rp)
{
    pthread_mutex_lock(&rp->lock);
    while (rp->busy)
        pthread_cond_wait(&rp->done, &rp->lock);
    int err = rp->error;
    pthread_mutex_unlock(&rp->lock);
    return err;
}

static void empty_chunk(struct replay *rp, struct chunk *c)
{
    c->used = c->record_count = 0;
    for (unsigned i = 0; i < rp->db->shard_count; i++)
        c->shards[i].count = 0;
}

static unsigned workers_wanted(const struct lsm *db)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned most = db->shard_count < WORKERS_MAX ? db->shard_count : WORKERS_MAX;
    return db_inline(db) || cpus < 1 ? 1 : (unsigned long)cpus < most ? (unsigned)cpus : most;
}

/* What fails here is ended with the rest: replay_finish. */
static int start_workers(struct replay *rp)
{
    struct lsm *db = rp->db;
    if (rp->threads || db_inline(db))
        return 0;
    unsigned count = workers_wanted(db);
    int err = 0;
    for (unsigned i = 0; !err && i < count; i++) {
        rp->workers[i] = (struct worker){.rp = rp, .index = i};
        err = env_thread_start(db->env, "replay", -1, worker_main, &rp->workers[i], &rp->workers[i].thread);
    }
    rp->worker_count = err ? 1 : count; /* they look at it when they are given a chunk */
    rp->threads = !err;
    return err;
}

/* Gives out the chunk that was filled, as soon as the one before it is done, which is the next to be filled. */
static int hand_over(struct replay *rp)
{
    struct chunk *c = &rp->chunks[rp->filling];
    int err = await_workers(rp);
    if (err || !c->record_count)
        return err;
    rp->db->replaying = c->records[0].lsn; /* nobody is at work who might look at it */
    rp->filling = !rp->filling;
    empty_chunk(rp, &rp->chunks[rp->filling]);
    if (!rp->threads) {
        rp->error = apply_part(&rp->workers[0], c);
        return rp->error;
    }
    pthread_mutex_lock(&rp->lock);
    rp->work = c;
    rp->busy = rp->worker_count;
    rp->round++;
    pthread_cond_broadcast(&rp->given);
    pthread_mutex_unlock(&rp->lock);
    return 0;
}

/* ---- taking records apart ---- */

/* The array with room for `need`, perhaps elsewhere; NULL, and the old one is as it was: no memory. */
static void *with_room(void *array, size_t *capacity, size_t need, size_t each)
{
    if (need <= *capacity)
        return array;
    size_t bigger = need + need / 2 + 64;
    void *grown = realloc(array, bigger * each);
    if (grown)
        *capacity = bigger;
    return grown;
}

static int add_item(struct items *to, const struct batch_change *change, uint64_t seq, size_t record)
{
    struct item *items = with_room(to->items, &to->capacity, to->count + 1, sizeof *items);
    if (!items)
        return -ENOMEM;
    to->items = items;
    to->items[to->count++] = (struct item){*change, seq, record};
    return 0;
}

/* A flush of what is replayed makes the pointers of tables, and keeps their files. */
static int note_blob(struct shard *s, const struct batch_change *c, const struct record *r)
{
    struct blob_pointer p;
    if (c->type != ENTRY_BLOB)
        return 0;
    struct view *v = view_get(s);
    struct blob_file *f =
        blob_pointer_decode(c->value, c->value_len, &p) ? NULL : version_blob(v->version, p.number);
    int err = 0;
    if (!f) {
        (void)logger_corrupt(&s->db->log, "log", r->lsn,
                             "the record at LSN %" PRIu64 " names a blob file that is not there", r->lsn);
        err = -EUCLEAN;
    } else { /* a part was cut from what an earlier record names, or a table */
        blob_note(f, r->end, p.length == p.extent_bytes);
    }
    view_unref(v);
    return err;
}

/* To every shard that it is for and that does not have it in its tables. */
static int add_change(struct replay *rp, struct chunk *c, const struct batch_change *change, uint64_t seq)
{
    const struct record *r = &c->records[c->record_count - 1];
    struct lsm *db = rp->db;
    if (change->type == ENTRY_MERGE && !db->options.merge)
        return -EINVAL;
    uint64_t mask = db_shard_mask(db, db_route_change(db, change));
    int err = 0;
    for (unsigned i = 0; !err && i < db->shard_count; i++) {
        if (!(mask >> i & 1) ||
            (r->lsn < vset_flushed(db->vset, i) && !mutant("flushed records replayed again")))
            continue;
        err = note_blob(&db->shards[i], change, r);
        if (!err)
            err = add_item(&c->shards[i], change, seq, c->record_count - 1);
    }
    return err;
}

static int take_apart(struct replay *rp, struct chunk *c, lsn_t lsn, const uint8_t *payload, size_t len)
{
    struct batch_reader br;
    struct batch_change change;
    int more = batch_read_begin(&br, payload, len);
    uint32_t total = more ? 0 : br.left, count = 0;
    if (mutant("half a batch replayed"))
        total /= 2;
    while (more >= 0 && (more = br.left || reader_left(&br.r) ? batch_read_next(&br, &change) : 0) > 0) {
        int err = count < total ? add_change(rp, c, &change, lsn + count) : 0;
        if (err)
            return err;
        count++;
    }
    if (more == -EBADMSG || count == 0)
        return logger_corrupt(&rp->db->log, "log", lsn, "the record at LSN %" PRIu64 " is no batch", lsn);
    return more;
}

/* The last record turned out to be bad: read-only, what was before it is shown, and nothing of it. */
static void take_back(struct chunk *c, unsigned shards)
{
    c->record_count--;
    for (unsigned i = 0; i < shards; i++)
        while (c->shards[i].count && c->shards[i].items[c->shards[i].count - 1].record == c->record_count)
            c->shards[i].count--;
}

int replay_record(void *arg, lsn_t lsn, const void *payload, size_t len)
{
    struct replay *rp = arg;
    struct lsm *db = rp->db;
    struct chunk *c = &rp->chunks[rp->filling];
    if (c->used && c->used + len > rp->chunk_bytes) {
        int err = start_workers(rp); /* a log of one chunk is not worth them */
        if (!err)
            err = hand_over(rp);
        if (err)
            return err;
        c = &rp->chunks[rp->filling];
    }
    if (c->used + len > c->capacity) { /* nothing points there yet */
        assert(!c->used);
        free(c->bytes);
        c->capacity = 0;
        size_t capacity = len > rp->chunk_bytes ? len : rp->chunk_bytes;
        c->bytes = malloc(capacity);
        if (!c->bytes)
            return -ENOMEM;
        c->capacity = capacity;
    }
    struct record *records = with_room(c->records, &c->record_capacity, c->record_count + 1, sizeof *records);
    if (!records)
        return -ENOMEM;
    c->records = records;
    uint8_t *copy = c->bytes + c->used;
    memcpy(copy, payload, len);
    c->used += len;
    c->records[c->record_count++] = (struct record){lsn, lsn + wal_record_bytes(len)};
    int err = take_apart(rp, c, lsn, copy, len);
    if (err) {
        take_back(c, db->shard_count);
        return err;
    }
    db->replayed_batches++;
    db->replayed_bytes += len;
    return 0;
}

/* ---- beginning and ending ---- */

static void end_workers(struct replay *rp)
{
    pthread_mutex_lock(&rp->lock);
    rp->ending = true;
    pthread_cond_broadcast(&rp->given);
    pthread_mutex_unlock(&rp->lock);
    for (unsigned i = 0; i < WORKERS_MAX; i++)
        if (rp->workers[i].thread)
            env_thread_join(rp->db->env, rp->workers[i].thread);
}

static void replay_free(struct replay *rp)
{
    for (unsigned i = 0; i < 2; i++) {
        struct chunk *c = &rp->chunks[i];
        for (unsigned k = 0; k < SHARDS_MAX; k++)
            free(c->shards[k].items);
        free(c->records);
        free(c->bytes);
    }
    for (unsigned i = 0; i < WORKERS_MAX; i++)
        free(rp->workers[i].order);
    pthread_cond_destroy(&rp->given);
    pthread_cond_destroy(&rp->done);
    pthread_mutex_destroy(&rp->lock);
    free(rp);
}

/*
 * About what a memtable takes: large enough for its keys to be sorted as a whole, if it is small. In a large memtable
 * the way from one key to the next is the shorter the more of them there are (1 GiB of log: 64 MiB instead of 16
 * take a fifth less time of processors).
 */
static size_t chunk_wanted(const struct lsm *db)
{
    size_t buffer = db->options.write_buffer_bytes;
    size_t bytes = buffer < CHUNK_SMALL ? buffer : buffer / 16 < CHUNK_SMALL ? CHUNK_SMALL : buffer / 16;
    return bytes < CHUNK_MIN ? CHUNK_MIN : bytes > REPLAY_CHUNK_MAX ? REPLAY_CHUNK_MAX : bytes;
}

int replay_new(struct lsm *db, struct replay **out)
{
    struct replay *rp = calloc(1, sizeof *rp);
    if (!rp)
        return -ENOMEM;
    rp->db = db;
    rp->chunk_bytes = chunk_wanted(db);
    rp->worker_count = 1;
    rp->workers[0].rp = rp;
    pthread_mutex_init(&rp->lock, NULL);
    pthread_cond_init(&rp->given, NULL);
    pthread_cond_init(&rp->done, NULL);
    *out = rp;
    return 0;
}

int replay_finish(struct replay *rp, int err)
{
    if (!err)
        err = hand_over(rp);
    int last = await_workers(rp);
    end_workers(rp);
    rp->db->replaying = 0;
    replay_free(rp);
    return err ? err : last;
}
