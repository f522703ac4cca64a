/*
 * engine_ops.c - random operations on a store, and what they do to the model.
 */
#include "engine_history.h"

#include "blob_format.h"
#include "coding.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_MAX (200u << 10)
#define BATCH_MAX (240u << 10) /* below a quarter of the smallest segment */
#define BATCH_MEMORY_MAX (1u << 20)
#define WORK_STEPS_MAX 10000u
#define REST_NS UINT64_C(2500000000) /* after so long without a write a store is at rest */
#define REST_SLEEPS_MIN 3u
#define REST_SLEEPS_MAX 6u

/*
 * What a batch does not hold itself. Each has its own: a commit is interrupted, and what goes on after the crash commits
 * batches before the first one is done.
 */
struct lent {
    size_t used;
    uint8_t bytes[BATCH_MEMORY_MAX + VALUE_MAX];
};

static void put_lent(struct lsm_batch *b, struct lent *lent, const uint8_t *key, size_t key_len,
                     const uint8_t *value, size_t len, size_t head)
{
    assert(head <= len && len <= sizeof lent->bytes - lent->used);
    uint8_t *rest = lent->bytes + lent->used;
    lent->used += len - head;
    memcpy(rest, value + head, len - head);
    lsm_batch_put_lent(b, key, key_len, value, head, rest, len - head);
}

/*
 * The beginning of another value of the shard, now or as a snapshot shows it, if that lies in a blob file; false: it does not.
 * What is read may fail.
 */
static bool put_part(struct run *r, struct lsm_batch *b, struct model *next, unsigned i, uint64_t sum)
{
    const struct profile *p = r->profile;
    const unsigned shards = p->options.shards,
                   from = (unsigned)(sum / 8 % p->keys) / shards * shards + i % shards;
    const unsigned old = (unsigned)(sum >> 15) % RUN_SNAPSHOTS;
    const struct lsm_snapshot *then = sum >> 19 ? r->own->snapshots[old] : NULL;
    const struct model_value *m = then ? &r->own->then[old].value[from] : &r->states[r->count].value[from];
    uint8_t key[KEY_BYTES];
    size_t key_len = key_of(p, from, key);
    struct lsm_iter_options o = {.snapshot = then, .lower = key, .lower_len = key_len, .flags = LSM_KEYS};
    struct lsm_iter *it;
    struct lsm_ref ref = {0};
    bool found = false;

    if (!m->exists || lsm_batch_log_bytes(r->db, b) + 100 > BATCH_MAX || lsm_iter_new(r->db, &o, &it))
        return false;
    lsm_iter_seek(it, key, key_len);
    if (lsm_iter_valid(it)) {
        size_t len;
        const void *at = lsm_iter_key(it, &len);
        found = len == key_len && !memcmp(at, key, len) && lsm_iter_ref(it, &ref);
    }
    lsm_iter_free(it);
    if (!found)
        return false;
    size_t len = 8 + sum / 16 % (m->len - 7);
    key_len = key_of(p, i, key);
    lsm_batch_put_part(b, key, key_len, &ref, 0, len);
    next->value[i] = (struct model_value){true, true, (uint32_t)len, m->sum};
    return true;
}

static void change(struct run *r, struct lsm_batch *b, struct lent *lent, struct model *next, unsigned i)
{
    static uint8_t value[VALUE_MAX];
    uint8_t key[KEY_BYTES];
    const struct profile *p = r->profile;
    struct model_value *m = &next->value[i];
    size_t key_len = key_of(p, i, key), len = 8 + below(r, 100);
    uint64_t sum = below(r, 1u << 20), kind = below(r, 100);

    if (kind < p->deletes) {
        lsm_batch_delete(b, key, key_len);
        m->exists = false;
        return;
    }
    bool is_merge = kind < p->deletes + p->merges;
    if (!is_merge && one_in(r, 10))
        len = 8 + below(r, 6000);
    if (!is_merge && below(r, 1000) < p->large)
        len = 20000 + below(r, VALUE_MAX - 20000);
    if (!is_merge && sum % 8 == 3 && put_part(r, b, next, i, sum))
        return;
    size_t in_log = len < p->options.blob_min_bytes ? len : 64;
    if (lsm_batch_log_bytes(r->db, b) + key_len + in_log > BATCH_MAX || lsm_batch_bytes(b) > BATCH_MEMORY_MAX)
        return;
    make_value(value, sum, len);
    if (is_merge)
        lsm_batch_merge(b, key, key_len, value, len);
    else if (sum & 1)
        put_lent(b, lent, key, key_len, value, len, sum / 2 % 9);
    else
        lsm_batch_put(b, key, key_len, value, len);
    if (is_merge && m->exists) {
        sum += m->sum;
        len = m->len > len ? m->len : len;
    }
    *m = (struct model_value){true, is_merge && m->exists && m->part, (uint32_t)len, sum};
}

/*
 * A range between two keys, any shard's or one's, as their first bytes are. The numbers in it go, too; the highest
 * one is put into the batch behind it.
 */
static void change_range(struct run *r, struct lsm_batch *b, struct model *next, unsigned home)
{
    const struct profile *p = r->profile;
    unsigned shards = p->options.shards, from = (unsigned)below(r, p->keys), to = (unsigned)below(r, p->keys);
    uint8_t start[KEY_BYTES], end[KEY_BYTES], key[KEY_BYTES];
    bool routed = one_in(r, 2);

    if (routed) {
        from = from / shards * shards + home;
        to = to / shards * shards + home;
    }
    size_t start_len = key_of(p, from, start), end_len = key_of(p, to, end);
    if (lsm_batch_bytes(b) + start_len + 2 * end_len > BATCH_MAX || (routed && (!start_len || !end_len)))
        return;
    lsm_batch_delete_range(b, start, start_len, end, end_len, routed ? start : NULL, routed ? 1 : 0);
    for (unsigned i = 0; i < MODEL_ALL; i++) {
        size_t len = key_of(p, i, key);
        if (compare_bytes(key, len, start, start_len) >= 0 && compare_bytes(key, len, end, end_len) < 0)
            next->value[i].exists = false;
    }
}

/* Of some shards or one; always with the number of the batch in a shard that it touches. */
static void fill_batch(struct run *r, struct lsm_batch *b, struct lent *lent, struct model *next)
{
    unsigned shards = r->profile->options.shards, n = (unsigned)(1 + below(r, one_in(r, 8) ? 30 : 4));
    bool cold = r->profile->cold && below(r, 100) < r->profile->cold; /* all but the first shard are */
    bool single = cold || one_in(r, 2);
    unsigned home = cold ? 0 : (unsigned)below(r, shards), touched = 1u << home;
    uint64_t number = r->base + r->count + 1;
    uint8_t key[KEY_BYTES], value[8];

    for (unsigned k = 0; k < n; k++) {
        unsigned i = (unsigned)below(r, r->profile->keys);
        if (single)
            i = i / shards * shards + home;
        if (i >= r->profile->keys)
            continue;
        change(r, b, lent, next, i);
        touched |= 1u << i % shards;
        if (below(r, 100 * n) < r->profile->ranges)
            change_range(r, b, next, home);
    }
    for (unsigned s = 0; s < shards; s++) {
        if (s != home && (!(touched >> s & 1) || one_in(r, 2)))
            continue;
        put_le64(value, number);
        lsm_batch_put(b, key, key_of(r->profile, MODEL_KEYS + s, key), value, sizeof value);
        next->value[MODEL_KEYS + s] = (struct model_value){true, false, sizeof value, number};
    }
}

/* A commit failed. Nothing of it may be seen, except that -EIO from LSM_SYNC means: applied, perhaps not durable. */
static void after_failed_commit(struct run *r, bool sync)
{
    r->in_flight = false;
    r->in_doubt = run_is_read_only(r);
    r->perhaps_applied = sync && r->in_doubt;
    look_if_applied(r);
}

/* Keys that exist, all or some, and the number of the batch in the shard of one of them. False: there are none. */
static bool fill_deletes(struct run *r, struct lsm_batch *b, struct model *next, bool all)
{
    unsigned shards = r->profile->options.shards, first = (unsigned)below(r, MODEL_KEYS), home = shards;
    unsigned left = all ? MODEL_KEYS : (unsigned)(1 + below(r, 4));
    uint8_t key[KEY_BYTES], value[8];

    for (unsigned k = 0; k < MODEL_KEYS && left > 0; k++) {
        unsigned i = (first + k) % MODEL_KEYS;
        if (!next->value[i].exists)
            continue;
        lsm_batch_delete(b, key, key_of(r->profile, i, key));
        next->value[i].exists = false;
        home = i % shards;
        left--;
    }
    if (home == shards)
        return false;
    put_le64(value, r->base + r->count + 1);
    lsm_batch_put(b, key, key_of(r->profile, MODEL_KEYS + home, key), value, sizeof value);
    next->value[MODEL_KEYS + home] = (struct model_value){true, false, sizeof value, r->base + r->count + 1};
    return true;
}

static int refused_batch(struct run *r)
{
    int err = lsm_put(r->db, "k", 1, "", 0, 0);

    if (!err)
        proof_fail("a store takes a batch after one has ended it");
    return failed_with(r, err);
}

/* Commits b, which leads to states[count + 1]. */
static int commit(struct run *r, const struct lsm_batch *b, unsigned flags)
{
    unsigned nowait = one_in(r, 10) ? LSM_NOWAIT : 0;
    bool sync = flags & LSM_SYNC;
    int err;

    r->in_flight = true;
    do
        err = lsm_commit(r->db, b, nowait | flags);
    while (err == -EAGAIN && nowait && !(nowait = 0));
    r->in_flight = err == 0;
    if (err) {
        after_failed_commit(r, sync);
        return err;
    }
    r->in_flight = false;
    r->count++;
    totals.changes++;
    if (sync && r->sync_lost)
        proof_fail("a commit with sync succeeds after a sync has failed");
    if (sync)
        run_synced(r);
    return 0;
}

int run_batch(struct run *r, bool sync)
{
    struct lsm_batch *b;

    r->op = sync ? "commit with sync" : "commit";
    if (r->in_doubt) /* the store is read-only; what it left in states[] is still needed */
        return refused_batch(r);
    int err = lsm_batch_new(&b);
    if (err)
        return failed_with(r, err);
    struct model *next = state_at(r, r->count + 1);
    *next = r->states[r->count];
    proof_own_memory = true;
    struct lent *lent = malloc(sizeof *lent); /* not proof_memory, which would clear all of it */
    proof_own_memory = false;
    if (!lent)
        abort();
    lent->used = 0;
    fill_batch(r, b, lent, next);
    err = commit(r, b, sync ? LSM_SYNC : 0);
    lsm_batch_free(b);
    free(lent);
    return failed_with(r, err);
}

/* Keys that exist, some or all. */
static int run_delete(struct run *r, bool all)
{
    struct lsm_batch *b;

    r->op = "delete";
    if (r->in_doubt)
        return refused_batch(r);
    int err = lsm_batch_new(&b);
    if (err)
        return failed_with(r, err);
    struct model *next = state_at(r, r->count + 1);
    *next = r->states[r->count];
    if (fill_deletes(r, b, next, all))
        err = commit(r, b, LSM_SHRINK);
    lsm_batch_free(b);
    if (err == -ENOSPC && r->deletes_work)
        proof_fail("deletes find no space");
    return failed_with(r, err);
}

int run_delete_all(struct run *r) { return run_delete(r, true); }
int run_grow(struct run *r) { return run_batch(r, false); }
bool run_is_made(const struct run *r) { return r != NULL; }

int run_sync(struct run *r)
{
    r->op = "sync";
    int err = lsm_sync(r->db);
    if (!err && r->sync_lost && r->count > 0)
        proof_fail("a sync succeeds after one of the same data has failed");
    if (err)
        r->sync_lost = true;
    else
        run_synced(r);
    return failed_with(r, err);
}

static int op_batch(struct run *r) { return run_batch(r, false); }
static int op_delete(struct run *r) { return run_delete(r, one_in(r, 20)); }
static int op_synced_batch(struct run *r) { return run_batch(r, true); }

int run_flush(struct run *r)
{
    r->op = "flush";
    return failed_with(r, lsm_flush(r->db));
}

int run_compact(struct run *r)
{
    r->op = "compact";
    return failed_with(r, lsm_compact(r->db));
}

static int op_work(struct run *r)
{
    int did = lsm_work(r->db);

    return did < 0 ? failed_with(r, did) : 0;
}

static int op_sleep(struct run *r)
{
    env_sim_sleep(r->env, below(r, 2u * r->profile->options.commit_ms) * 1000000u);
    return op_work(r);
}

/*
 * With all work done and nobody who holds on to the past, blob files take no more than half as much again as
 * what is in them, and two files a shard; one value may be larger than a file.
 */
static void check_blob_space(struct run *r)
{
    const struct lsm_options *o = &r->profile->options;
    uint64_t alive = 0, bytes = 0, files = 0, file = o->blob_file_bytes;
    struct lsm_stats *st = proof_memory(NULL, sizeof *st);

    for (unsigned i = 0; i < RUN_SNAPSHOTS; i++)
        alive += r->own->snapshots[i] ? UINT64_C(1) << 40 : 0;
    for (unsigned i = 0; i < RUN_NAMES; i++)
        alive += r->own->named[i] != NAME_ABSENT ? UINT64_C(1) << 40 : 0;
    for (unsigned i = 0; i < MODEL_ALL; i++) {
        const struct model_value *m = &r->states[r->count].value[i];
        if (m->exists && (m->part || m->len >= o->blob_min_bytes))
            alive += m->len;
        if (m->exists && m->len > file)
            file = m->len;
    }
    if (file < VALUE_MAX && r->profile->large)
        file = VALUE_MAX;
    lsm_stats_get(r->db, st);
    for (unsigned i = 0; i < o->shards; i++) {
        bytes += st->shard[i].blob_bytes;
        files += st->shard[i].blob_files;
        alive += st->shard[i].range_deletes ? UINT64_C(1) << 40 : 0; /* they may wait some time */
    }
    if (bytes > alive * 3 / 2 + 2 * o->shards * file)
        proof_fail("%llu bytes in %llu blob files for %llu bytes alive", (unsigned long long)bytes,
                   (unsigned long long)files, (unsigned long long)alive);
    free(st);
}

static int work_until_done(struct run *r)
{
    int did = 1;

    for (unsigned i = 0; did > 0 && i < WORK_STEPS_MAX; i++)
        did = lsm_work(r->db);
    if (did > 0)
        proof_fail("background work does not end");
    return did;
}

/* After commit_ms and the work it brings, everything is on the medium. */
static int op_settle(struct run *r)
{
    env_sim_sleep(r->env, 2u * r->profile->options.commit_ms * UINT64_C(1000000));
    int did = work_until_done(r);
    if (did == 0 && !r->sync_lost && !r->errors_allowed) {
        check_blob_space(r);
        run_synced(r);
        check_durable(r, run_draw(r));
    }
    return did < 0 ? failed_with(r, did) : 0;
}

/*
 * Of a store at rest: beside what tables name a sixth of it and half a file more, with headers, checksums and what fewer than
 * 16 bytes for each pointer may come to. What snapshots keep is named.
 */
static void check_blob_space_at_rest(struct run *r)
{
    struct lsm_stats *st = proof_memory(NULL, sizeof *st);

    lsm_stats_get(r->db, st);
    for (unsigned i = 0; i < r->profile->options.shards; i++) {
        const struct lsm_shard_stats *s = &st->shard[i];
        if (s->blob_bytes > s->blob_live_bytes + s->blob_live_bytes / 5 +
                                r->profile->options.blob_file_bytes / 16 + s->blob_files * BLOB_HEADER_BYTES +
                                16u * 2 * MODEL_ALL)
            proof_fail("at rest: %llu bytes in %llu blob files of shard %u, for %llu that tables name",
                       (unsigned long long)s->blob_bytes, (unsigned long long)s->blob_files, i,
                       (unsigned long long)s->blob_live_bytes);
    }
    free(st);
}

/* Bytes that anything has written to tables, blob files or the log: grows with every write. */
static uint64_t bytes_written(struct run *r)
{
    struct lsm_stats *st = proof_memory(NULL, sizeof *st);

    lsm_stats_get(r->db, st);
    uint64_t bytes = st->log_bytes + st->log_frontier + st->manifest_bytes;
    for (unsigned i = 0; i < r->profile->options.shards; i++)
        bytes +=
            st->shard[i].flush_bytes + st->shard[i].compact_bytes_written + st->shard[i].blob_bytes_moved;
    free(st);
    return bytes;
}

/*
 * Nobody writes for some seconds: garbage of blob files is collected down to the bound of a store at rest, and after that
 * nothing is written any more, however long it lasts. Somebody may write in the midst of it.
 */
static int op_rest(struct run *r)
{
    uint64_t before;
    int did;

    for (unsigned i = 0;; i++) {
        before = bytes_written(r);
        env_sim_sleep(r->env, REST_NS);
        if (one_in(r, 6))
            return op_work(r);
        did = work_until_done(r);
        if (did < 0)
            return failed_with(r, did);
        /* The first sleep is noticed after it; a mark in the log, which the commit timer brings, begins it anew. */
        if (i >= REST_SLEEPS_MIN && bytes_written(r) == before)
            break;
        if (i == REST_SLEEPS_MAX) {
            proof_fail("a store at rest goes on writing");
            return 0;
        }
    }
    if (!r->sync_lost && !r->errors_allowed && !proof_failed) {
        check_blob_space(r);
        check_blob_space_at_rest(r);
    }
    return 0;
}

static int op_snapshot(struct run *r)
{
    unsigned i = (unsigned)below(r, RUN_SNAPSHOTS);

    if (r->own->snapshots[i])
        return 0;
    r->own->then[i] = r->states[r->count];
    return failed_with(r, lsm_snapshot_new(r->db, &r->own->snapshots[i]));
}

static int op_drop_snapshot(struct run *r)
{
    unsigned i = (unsigned)below(r, RUN_SNAPSHOTS);

    lsm_snapshot_free(r->db, r->own->snapshots[i]);
    r->own->snapshots[i] = NULL;
    return 0;
}

static int op_save_name(struct run *r)
{
    unsigned i = (unsigned)below(r, RUN_NAMES);
    char name[16];

    if (r->own->named[i] != NAME_ABSENT || r->in_doubt)
        return 0;
    r->own->named_then[i] = r->states[r->count];
    r->own->named[i] = NAME_PERHAPS;
    int err = lsm_snapshot_save(r->db, name_of(i, name));
    if (!err && r->sync_lost && r->count > 0)
        proof_fail("a snapshot is saved after a sync of what it shows has failed");
    if (!err) {
        r->own->named[i] = NAME_THERE;
        run_synced(r);
    } else if (!run_is_read_only(r)) {
        r->own->named[i] = NAME_ABSENT;
    } /* else the sync has failed, or the manifest, after which the log may still be synced: the next open knows */
    return failed_with(r, err);
}

static int op_drop_name(struct run *r)
{
    unsigned i = (unsigned)below(r, RUN_NAMES);
    char name[16];

    if (r->own->named[i] != NAME_THERE)
        return 0;
    r->own->named[i] = NAME_PERHAPS;
    int err = lsm_snapshot_drop(r->db, name_of(i, name));
    if (!err)
        r->own->named[i] = NAME_ABSENT;
    else if (!run_is_read_only(r))
        r->own->named[i] = NAME_THERE;
    return failed_with(r, err);
}

int run_drop_names(struct run *r)
{
    char name[16];

    r->op = "drop all names";
    for (unsigned i = 0; i < RUN_NAMES; i++) {
        int err = lsm_snapshot_drop(r->db, name_of(i, name));
        if (err && err != -ENOENT)
            return failed_with(r, err);
        r->own->named[i] = NAME_ABSENT;
    }
    return 0;
}

static void check_copy(struct run *r, struct env *env, const char *path)
{
    struct lsm_options options = r->profile->options;
    struct lsm *own = r->db;
    enum name_state named[RUN_NAMES];

    options.env = env;
    options.flags = LSM_INLINE;
    memcpy(named, r->own->named, sizeof named); /* what became of a call in doubt is another matter here */
    r->db = NULL;
    int err = lsm_open(path, &options, &r->db);
    if (err) {
        (void)read_failed(r, "opening a checkpoint", err);
    } else {
        (void)(compare(r, NULL, &r->states[r->count]) && check_names(r));
        (void)lsm_close(r->db); /* of no interest any more */
    }
    r->db = own;
    memcpy(r->own->named, named, sizeof named);
}

struct sim_path {
    struct env *env;
    const char *dir;
};

static int remove_file(void *arg, const char *name)
{
    char path[SIM_PATH_MAX];
    struct sim_path *p = arg;

    (void)snprintf(path, sizeof path, "%.20s/%.40s", p->dir, name);
    (void)env_unlink(p->env, path); /* clutter, at worst */
    return 0;
}

/* A copy, `dir` of the machine `env`, holds what the store does, and a power cut takes nothing of it. */
static void check_copy_after_cut(struct run *r, struct env *env, const char *dir)
{
    struct env *image = env_sim_clone(env, run_draw(r));
    size_t mark = proof_enter(" (in a checkpoint)");

    env_sim_power_cut(image, SIM_LOSE_ALL);
    check_copy(r, image, dir);
    proof_leave(mark);
    env_sim_free(image);
}

static int op_checkpoint(struct run *r)
{
    char dir[24];

    if (r->in_doubt)
        return 0;
    (void)snprintf(dir, sizeof dir, "/c%u", r->own->checkpoints++);
    int err = lsm_checkpoint(r->db, dir);
    if (!err) {
        proof_own_memory = true;
        check_copy_after_cut(r, r->env, dir);
        proof_own_memory = false;
        (void)env_list(r->env, dir, remove_file, &(struct sim_path){r->env, dir});
    }
    return failed_with(r, err);
}

/* The process is killed, and somebody who only reads makes the copy: all that is in the log is in that of the copy. */
static int op_checkpoint_by_reader(struct run *r)
{
    struct lsm_options options = r->profile->options;
    struct lsm *db;

    if (r->in_doubt)
        return 0;
    proof_own_memory = true;
    options.env = env_sim_clone(r->env, run_draw(r));
    options.flags = LSM_INLINE | LSM_RDONLY;
    int err = lsm_open(STORE, &options, &db);
    if (!err) {
        err = lsm_checkpoint(db, "/copy");
        (void)lsm_close(db);
    }
    if (!err)
        check_copy_after_cut(r, options.env, "/copy");
    else if (err != -ENOSPC) /* the copy's own files are no matter of the reserve */
        proof_fail("a checkpoint by a reader: %s", strerror(-err));
    env_sim_free(options.env);
    proof_own_memory = false;
    return 0;
}

static int op_check(struct run *r)
{
    run_check(r);
    for (unsigned i = 0; i < RUN_SNAPSHOTS; i++) {
        size_t mark = proof_enter(" (at a snapshot)");
        if (r->own->snapshots[i])
            compare(r, r->own->snapshots[i], &r->own->then[i]);
        proof_leave(mark);
    }
    if (!proof_failed)
        check_names(r);
    return 0;
}

static int op_reopen(struct run *r)
{
    int err = run_close(r);

    if (err || r->errors_allowed) /* what is found next is not so sure: left to who allowed them */
        return err;
    err = run_open(r);
    if (!err)
        run_check(r);
    return err;
}

static const struct operation {
    const char *name;
    unsigned weight;
    int (*run)(struct run *r);
    bool flushes; /* everything: not wanted where shards are to stay cold */
} operations[] = {
    {"batch", 60, op_batch, false},
    {"batch with sync", 4, op_synced_batch, false},
    {"sync", 5, run_sync, false},
    {"work", 14, op_work, false},
    {"sleep", 4, op_sleep, false},
    {"settle", 1, op_settle, false},
    {"rest", 1, op_rest, true},
    {"flush", 3, run_flush, true},
    {"compact", 1, run_compact, true},
    {"snapshot", 3, op_snapshot, false},
    {"drop snapshot", 3, op_drop_snapshot, false},
    {"save a name", 2, op_save_name, false},
    {"drop a name", 1, op_drop_name, false},
    {"checkpoint", 1, op_checkpoint, true},
    {"checkpoint by a reader", 1, op_checkpoint_by_reader, false},
    {"check", 2, op_check, false},
    {"reopen", 1, op_reopen, true},
    {"delete", 6, op_delete, false},
};

void run_step(struct run *r)
{
    unsigned sum = 0;
    const struct operation *op = operations;

    if (proof_failed)
        return;
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
        sum += operations[i].weight;
    for (uint64_t at = below(r, sum); at >= op->weight; op++)
        at -= op->weight;
    if (op->flushes && r->profile->cold && !one_in(r, 20))
        op = operations;
    r->op = op->name;
    r->last_error = 0;
    size_t mark = proof_enter(", %s", op->name);
    totals.operations++;
    op->run(r);
    proof_leave(mark);
}
