/*
 * history.c - random operations on a store, the model of what they do, and comparing the two.
 *
 * A value is {le64 sum, filler made from it}: a merge operand too, and folding adds the sums and keeps the
 * longer length. So any mixture of two values, and any value in a wrong place, is told from a right one.
 */
#include "prove.h"

#include "coding.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_MAX (200u << 10)
#define BATCH_MAX (240u << 10) /* below a quarter of the smallest segment */
#define BATCH_MEMORY_MAX (1u << 20)
#define KEY_BYTES (LSM_KEY_MAX)
#define DELETES 200u /* more than a small memtable holds */
#define WORK_STEPS_MAX 10000u
#define MODEL_SHARDS_MAX 4u
#define MODEL_KEYS 48u /* besides the counters */
#define MODEL_ALL (MODEL_KEYS + MODEL_SHARDS_MAX)
#define RUN_SNAPSHOTS 3u
#define RUN_NAMES 2u

static uint64_t below(struct run *r, uint64_t n) { return run_draw(r) % n; }
static bool one_in(struct run *r, uint64_t n) { return run_draw(r) % n == 0; }

struct model_value {
    bool exists;
    uint32_t len;
    uint64_t sum;
};

struct model {
    struct model_value value[MODEL_ALL];
};

/* Perhaps: a crash or a failure came while it was saved or dropped. */
enum name_state { NAME_ABSENT, NAME_PERHAPS, NAME_THERE };

struct run_own {
    struct lsm_snapshot *snapshots[RUN_SNAPSHOTS];
    struct model then[RUN_SNAPSHOTS];
    enum name_state named[RUN_NAMES];
    struct model named_then[RUN_NAMES];
    unsigned checkpoints;
};

/* ---- keys and values ---- */

static size_t key_of(const struct profile *p, unsigned i, uint8_t key[KEY_BYTES])
{
    unsigned shards = p->options.shards;
    size_t len = 0;

    if (i == 0 && !p->key_padding)
        return 0; /* the empty key is one like any other */
    key[len++] = (uint8_t)(i < MODEL_KEYS ? i % shards : i - MODEL_KEYS);
    len += (size_t)sprintf((char *)key + len, i < MODEL_KEYS ? "k%03u" : "number%u", i);
    memset(key + len, 'p', p->key_padding);
    return len + p->key_padding;
}

static uint64_t route(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len ? *(const uint8_t *)key : 0;
}

static void make_value(uint8_t *out, uint64_t sum, size_t len)
{
    uint64_t word = seed_mix(sum, 1);

    put_le64(out, sum);
    for (size_t at = 8; at < len; at += 8, word++)
        memcpy(out + at, &word, len - at < 8 ? len - at : 8);
}

static bool value_is(const struct model_value *m, const uint8_t *data, size_t len)
{
    uint64_t word = seed_mix(m->sum, 1);

    if (len != m->len || get_le64(data) != m->sum)
        return false;
    for (size_t at = 8; at < len; at += 8, word++) {
        if (memcmp(data + at, &word, len - at < 8 ? len - at : 8))
            return false;
    }
    return true;
}

static size_t merge(void *arg, const void *base, size_t base_len, bool base_is_operand, const void *operand,
                    size_t operand_len, void *out)
{
    uint64_t sum = get_le64(operand);
    size_t len = operand_len;

    (void)arg, (void)base_is_operand;
    if (base) {
        sum += get_le64(base);
        len = base_len > len ? base_len : len;
    }
    make_value(out, sum, len);
    return len;
}

void profile_make(struct profile *p, uint64_t seed)
{
    struct run draws = {.random = seed_mix(seed, 77)};
    struct run *r = &draws;

    *p = (struct profile){
        .options =
            {
                .flags = LSM_CREATE | LSM_INLINE,
                .shards = (unsigned)(1 + below(r, MODEL_SHARDS_MAX)),
                .memory_bytes = 8u << 20,
                .write_buffer_bytes = (8u << 10) << below(r, 4),
                .table_bytes = (8u << 10) << below(r, 3),
                .block_bytes = (size_t)512 << below(r, 3),
                .compression = (enum lsm_compression)below(r, LSM_COMPRESSION_ZSTD + 1),
                .log_segment_bytes = 1u << 20,
                .log_budget_bytes = (256u << 10) << (2 * below(r, 3)),
                .level_ratio = (unsigned)(2 + below(r, 3)),
                .commit_ms = 20,
                .merge = merge,
                .route = route,
                .log = proof_log,
            },
        .key_padding = one_in(r, 4) ? 300 + below(r, 600) : 0,
        .large = one_in(r, 3) ? 100 : 10,
        .keys = one_in(r, 3) ? 12 : MODEL_KEYS,
        .deletes = (unsigned)below(r, 60),
        .merges = (unsigned)below(r, 35),
        .ranges = one_in(r, 3) ? 0 : (unsigned)below(r, 40),
    };
    p->options.blob_min_bytes = one_in(r, 3) ? LSM_BLOB_NEVER : one_in(r, 2) ? 512u << below(r, 4) : 20000;
    p->options.blob_file_bytes = (16u << 10) << below(r, 6);
    if (one_in(r, 4)) { /* a cold shard pins much of the log */
        p->cold = 97;
        p->large = 200;
        p->options.log_budget_bytes = 16u << 20;
        p->options.blob_min_bytes = LSM_BLOB_NEVER; /* else most of it would not go into the log */
    }
}

/* ---- runs ---- */

static struct model *state_at(struct run *r, size_t i)
{
    if (i >= r->capacity) {
        r->capacity = 2 * i + 8;
        r->states = proof_memory(r->states, r->capacity * sizeof *r->states);
    }
    return &r->states[i];
}

static struct run *run_bare(const struct profile *profile, struct env *env, uint64_t seed)
{
    struct run *r = proof_memory(NULL, sizeof *r);

    r->own = proof_memory(NULL, sizeof *r->own);
    r->profile = profile;
    r->env = env;
    r->random = seed;
    r->op = "open";
    return r;
}

struct run *run_new(const struct profile *profile, struct env *env, uint64_t seed)
{
    struct run *r = run_bare(profile, env, seed);

    memset(state_at(r, 0), 0, sizeof *r->states);
    return r;
}

void run_prepare(struct run *r) { (void)r; }
unsigned run_suspend(void) { return 0; }
void run_resume(unsigned suspended) { (void)suspended; }

struct run *run_branch(const struct run *from, struct env *env, size_t low, size_t high, uint64_t seed)
{
    struct run *r = run_bare(from->profile, env, seed);

    r->base = from->base + low;
    r->count = high - low;
    state_at(r, r->count + 1);
    memcpy(r->states, from->states + low, (r->count + 1) * sizeof *r->states);
    memcpy(r->own->named, from->own->named, sizeof r->own->named);
    memcpy(r->own->named_then, from->own->named_then, sizeof r->own->named_then);
    r->own->checkpoints = from->own->checkpoints;
    return r;
}

void run_keep_in_doubt(struct run *r, const struct run *from)
{
    *state_at(r, r->count + 1) = from->states[from->count + 1];
    r->in_doubt = true;
}

void run_drop_snapshots(struct run *r)
{
    for (unsigned i = 0; i < RUN_SNAPSHOTS; i++) {
        if (r->db)
            lsm_snapshot_free(r->db, r->own->snapshots[i]);
        r->own->snapshots[i] = NULL;
    }
}

/* An operation has failed: is that all right? */
static int failed_with(struct run *r, int err)
{
    r->last_error = err;
    if (err && !r->errors_allowed)
        proof_fail("%s: %s", r->op, strerror(-err));
    return err;
}

void run_synced(struct run *r)
{
    if (r->count > 0) {
        struct model spare;
        bool keep = r->in_flight || r->in_doubt;
        if (keep)
            spare = r->states[r->count + 1];
        r->states[0] = r->states[r->count];
        if (keep)
            *state_at(r, 1) = spare;
    }
    r->base += r->count;
    r->count = 0;
}

int run_open(struct run *r)
{
    struct lsm_options options = r->profile->options;

    r->op = "open";
    options.env = r->env;
    int err = lsm_open(STORE, &options, &r->db);
    if (err)
        r->db = NULL;
    return failed_with(r, err);
}

void run_abandon(struct run *r)
{
    run_drop_snapshots(r);
    (void)lsm_close(r->db);
    r->db = NULL;
}

void run_free(struct run *r)
{
    if (!r)
        return;
    if (r->db)
        run_abandon(r);
    free(r->states);
    free(r->own);
    free(r);
}

int run_close(struct run *r)
{
    r->op = "close";
    run_drop_snapshots(r);
    int err = lsm_close(r->db);
    r->db = NULL;
    if (!err && r->sync_lost && r->count > 0)
        proof_fail("close succeeds after a sync of the same data failed");
    if (!err)
        run_synced(r);
    return failed_with(r, err);
}

/* ---- comparing ---- */

/* An error while reading is no wrong answer, if faults are about. */
static bool read_failed(struct run *r, const char *what, int err)
{
    if (!r->errors_allowed)
        proof_fail("%s: %s", what, strerror(-err));
    return r->errors_allowed;
}

static int compare_bytes(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
{
    int c = memcmp(a, b, alen < blen ? alen : blen);
    return c ? c : (alen > blen) - (alen < blen);
}

static void order_keys(const struct profile *p, unsigned order[MODEL_ALL])
{
    uint8_t a[KEY_BYTES], b[KEY_BYTES];

    for (unsigned i = 0; i < MODEL_ALL; i++) {
        unsigned at = i;
        size_t alen = key_of(p, i, a);
        for (; at > 0; at--) {
            size_t blen = key_of(p, order[at - 1], b);
            if (compare_bytes(b, blen, a, alen) < 0)
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
}

static bool compare_scan(struct run *r, struct lsm_iter *it, const struct model *m,
                         const unsigned order[MODEL_ALL], bool backwards)
{
    uint8_t key[KEY_BYTES];
    size_t len;

    backwards ? lsm_iter_last(it) : lsm_iter_first(it);
    for (unsigned n = 0; n < MODEL_ALL; n++) {
        unsigned i = order[backwards ? MODEL_ALL - 1 - n : n];
        if (!m->value[i].exists)
            continue;
        if (!lsm_iter_valid(it) && lsm_iter_status(it))
            return read_failed(r, "iterator", lsm_iter_status(it));
        size_t key_len = key_of(r->profile, i, key);
        const void *found = lsm_iter_valid(it) ? lsm_iter_key(it, &len) : NULL;
        if (!found || len != key_len || memcmp(found, key, len)) {
            proof_fail("%s: key %u is missing, or another before it is too many", "iterator", i);
            return false;
        }
        const void *value = lsm_iter_value(it, &len);
        if (!value) { /* LSM_KEYS */
            if (len != m->value[i].len || len < r->profile->options.blob_min_bytes)
                proof_fail("iterator: key %u has a value of %zu bytes, should have %u", i, len,
                           m->value[i].len);
        } else if (!value_is(&m->value[i], value, len)) {
            proof_fail(
                "iterator: key %u has a wrong value (%zu bytes, sum %llu; should be %u bytes, sum %llu)", i,
                len, len >= 8 ? (unsigned long long)get_le64(value) : 0, m->value[i].len,
                (unsigned long long)m->value[i].sum);
            return false;
        }
        backwards ? lsm_iter_prev(it) : lsm_iter_next(it);
    }
    if (lsm_iter_valid(it)) {
        proof_fail("iterator: a key that should not be there");
        return false;
    }
    return lsm_iter_status(it) ? read_failed(r, "iterator", lsm_iter_status(it)) : true;
}

/* All keys, one by one or all at once. */
static int get_all(struct run *r, const struct lsm_snapshot *snapshot, struct lsm_value values[MODEL_ALL],
                   int results[MODEL_ALL])
{
    static uint8_t bytes[MODEL_ALL][KEY_BYTES];
    struct lsm_key keys[MODEL_ALL];

    for (unsigned i = 0; i < MODEL_ALL; i++)
        keys[i] = (struct lsm_key){bytes[i], key_of(r->profile, i, bytes[i])};
    if (r->count % 2)
        return lsm_multi_get(r->db, keys, MODEL_ALL, snapshot, 0, values, results);
    for (unsigned i = 0; i < MODEL_ALL; i++)
        results[i] = lsm_get(r->db, keys[i].data, keys[i].len, snapshot, 0, &values[i]);
    return 0;
}

/* A part of a value is what the whole value has there. */
static bool part_is_right(struct run *r, const uint8_t *key, size_t key_len,
                          const struct lsm_snapshot *snapshot, const struct lsm_value *whole, int *err)
{
    uint64_t offset = below(r, whole->len + 10);
    size_t len = below(r, one_in(r, 2) ? 100 : whole->len + 10), total;
    struct lsm_value v;

    *err = lsm_get_range(r->db, key, key_len, snapshot, 0, offset, len, &v, &total);
    if (*err)
        return true;
    if (offset > whole->len)
        offset = whole->len;
    if (len > whole->len - offset)
        len = whole->len - offset;
    bool right = total == whole->len && v.len == len &&
                 (!len || !memcmp(v.data, (const uint8_t *)whole->data + offset, len));
    lsm_value_release(&v);
    return right;
}

static bool compare_gets(struct run *r, const struct lsm_snapshot *snapshot, const struct model *m)
{
    struct lsm_value values[MODEL_ALL];
    int results[MODEL_ALL];
    bool good[MODEL_ALL];
    uint8_t key[KEY_BYTES];

    (void)get_all(r, snapshot, values, results); /* each result is looked at */
    for (unsigned i = 0; i < MODEL_ALL; i++) {
        good[i] = results[i] ? !m->value[i].exists
                             : m->value[i].exists && value_is(&m->value[i], values[i].data, values[i].len);
        int part_err = 0;
        bool part_good = results[i] || !good[i] || !one_in(r, 4) ||
                         part_is_right(r, key, key_of(r->profile, i, key), snapshot, &values[i], &part_err);
        if (!part_good)
            proof_fail("lsm_get_range: key %u has a wrong part, or length", i);
        if (part_err)
            (void)read_failed(r, "lsm_get_range", part_err);
        if (!results[i])
            lsm_value_release(&values[i]);
    }
    for (unsigned i = 0; i < MODEL_ALL; i++) {
        int err = results[i];
        bool right = good[i];
        if (err && err != -ENOENT) {
            if (!read_failed(r, "get", err))
                return false;
        } else if (!right) {
            proof_fail("get: key %u %s", i, err ? "is missing" : "has a wrong value, or should not be there");
            return false;
        }
    }
    return true;
}

static bool compare(struct run *r, const struct lsm_snapshot *snapshot, const struct model *m)
{
    struct lsm_iter_options o = {.snapshot = snapshot, .flags = one_in(r, 4) ? LSM_KEYS : 0};
    struct lsm_iter *it;
    unsigned order[MODEL_ALL];

    int err = lsm_iter_new(r->db, &o, &it);
    if (err)
        return read_failed(r, "lsm_iter_new", err);
    order_keys(r->profile, order);
    bool right = compare_scan(r, it, m, order, false);
    if (right && one_in(r, 4))
        right = compare_scan(r, it, m, order, true);
    lsm_iter_free(it);
    return right && compare_gets(r, snapshot, m);
}

static const char *name_of(unsigned i, char name[16])
{
    (void)snprintf(name, 16, "name %u", i);
    return name;
}

/* Named snapshots are there or not as they should be, and show what they did. */
static bool check_names(struct run *r)
{
    char name[16];
    bool right = true;

    for (unsigned i = 0; i < RUN_NAMES && right; i++) {
        struct lsm_snapshot *s;
        if (r->own->named[i] == NAME_PERHAPS && run_is_read_only(r))
            continue; /* only the next open knows */
        int err = lsm_snapshot_open(r->db, name_of(i, name), &s);
        if (err && err != -ENOENT)
            return read_failed(r, "lsm_snapshot_open", err);
        if (r->own->named[i] == (err ? NAME_THERE : NAME_ABSENT)) {
            proof_fail("the snapshot \"%s\" is %s", name, err ? "lost" : "back");
            right = false;
        }
        r->own->named[i] = err ? NAME_ABSENT : NAME_THERE;
        if (err)
            continue;
        size_t mark = proof_enter(" (at \"%s\")", name);
        right = right && compare(r, s, &r->own->named_then[i]);
        proof_leave(mark);
        lsm_snapshot_free(r->db, s);
    }
    return right;
}

/* The highest batch number that the store knows of. Negative: an error. */
static int highest_number(struct run *r, uint64_t *out)
{
    uint8_t key[KEY_BYTES];

    *out = 0;
    for (unsigned i = 0; i < r->profile->options.shards; i++) {
        struct lsm_value v;
        int err = lsm_get(r->db, key, key_of(r->profile, MODEL_KEYS + i, key), NULL, 0, &v);
        if (err == -ENOENT)
            continue;
        if (err)
            return err;
        uint64_t number = v.len >= 8 ? get_le64(v.data) : UINT64_MAX;
        lsm_value_release(&v);
        *out = number > *out ? number : *out;
    }
    return 0;
}

static void look_if_applied(struct run *r)
{
    uint64_t number;

    if (!r->perhaps_applied || highest_number(r, &number))
        return; /* it can't be read now, and is looked at later */
    r->perhaps_applied = false;
    if (number != r->base + r->count + 1)
        return;
    r->count++;
    r->in_doubt = false;
    r->sync_lost = true;
}

bool run_check(struct run *r)
{
    look_if_applied(r);
    return r->perhaps_applied || compare(r, NULL, &r->states[r->count]);
}

bool run_settle(struct run *r, size_t low, size_t high)
{
    uint64_t number;

    int err = highest_number(r, &number);
    if (err) {
        (void)read_failed(r, "reading after a crash", err);
        return false;
    }
    if (number < r->base + low || number > r->base + high) {
        proof_fail("after a crash the store is at batch %llu; it must be at %llu (synced) to %llu",
                   (unsigned long long)number, (unsigned long long)(r->base + low),
                   (unsigned long long)(r->base + high));
        return false;
    }
    r->count = (size_t)(number - r->base);
    r->in_flight = r->in_doubt = r->perhaps_applied = r->sync_lost = false;
    if (!run_check(r))
        return false;
    run_synced(r);
    return check_names(r);
}

/* ---- operations ---- */

static void change(struct run *r, struct lsm_batch *b, struct model *next, unsigned i)
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
    size_t in_log = len < p->options.blob_min_bytes ? len : 64;
    if (lsm_batch_log_bytes(r->db, b) + key_len + in_log > BATCH_MAX || lsm_batch_bytes(b) > BATCH_MEMORY_MAX)
        return;
    make_value(value, sum, len);
    if (is_merge)
        lsm_batch_merge(b, key, key_len, value, len);
    else
        lsm_batch_put(b, key, key_len, value, len);
    if (is_merge && m->exists) {
        sum += m->sum;
        len = m->len > len ? m->len : len;
    }
    *m = (struct model_value){true, (uint32_t)len, sum};
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
static void fill_batch(struct run *r, struct lsm_batch *b, struct model *next)
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
        change(r, b, next, i);
        touched |= 1u << i % shards;
        if (below(r, 100 * n) < r->profile->ranges)
            change_range(r, b, next, home);
    }
    for (unsigned s = 0; s < shards; s++) {
        if (s != home && (!(touched >> s & 1) || one_in(r, 2)))
            continue;
        put_le64(value, number);
        lsm_batch_put(b, key, key_of(r->profile, MODEL_KEYS + s, key), value, sizeof value);
        next->value[MODEL_KEYS + s] = (struct model_value){true, sizeof value, number};
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
    next->value[MODEL_KEYS + home] = (struct model_value){true, sizeof value, r->base + r->count + 1};
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
    fill_batch(r, b, next);
    err = commit(r, b, sync ? LSM_SYNC : 0);
    lsm_batch_free(b);
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
        if (m->exists && m->len >= o->blob_min_bytes)
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

/* After commit_ms and the work it brings, everything is on the medium. */
static int op_settle(struct run *r)
{
    int did = 1;

    env_sim_sleep(r->env, 2u * r->profile->options.commit_ms * UINT64_C(1000000));
    for (unsigned i = 0; did > 0 && i < WORK_STEPS_MAX; i++)
        did = lsm_work(r->db);
    if (did > 0)
        proof_fail("background work does not end");
    if (did == 0 && !r->sync_lost && !r->errors_allowed) {
        check_blob_space(r);
        run_synced(r);
        check_durable(r, run_draw(r));
    }
    return did < 0 ? failed_with(r, did) : 0;
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

    options.env = env;
    options.flags = LSM_INLINE;
    r->db = NULL;
    int err = lsm_open(path, &options, &r->db);
    if (err) {
        (void)read_failed(r, "opening a checkpoint", err);
    } else {
        (void)(compare(r, NULL, &r->states[r->count]) && check_names(r));
        (void)lsm_close(r->db); /* of no interest any more */
    }
    r->db = own;
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
