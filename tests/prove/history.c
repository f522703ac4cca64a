/*
 * history.c - histories of the engine: runs, the model of what a store holds, and comparing the two.
 *
 * A value is {le64 sum, filler made from it}: a merge operand too, and folding adds the sums and keeps the
 * longer length. So any mixture of two values, and any value in a wrong place, is told from a right one.
 */
#include "engine_history.h"

#include "coding.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- keys and values ---- */

size_t key_of(const struct profile *p, unsigned i, uint8_t key[KEY_BYTES])
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

void make_value(uint8_t *out, uint64_t sum, size_t len)
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

struct model *state_at(struct run *r, size_t i)
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

int failed_with(struct run *r, int err)
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

bool read_failed(struct run *r, const char *what, int err)
{
    if (!r->errors_allowed)
        proof_fail("%s: %s", what, strerror(-err));
    return r->errors_allowed;
}

int compare_bytes(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
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
            if (len != m->value[i].len || (len < r->profile->options.blob_min_bytes && !m->value[i].part))
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

bool compare(struct run *r, const struct lsm_snapshot *snapshot, const struct model *m)
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

const char *name_of(unsigned i, char name[16])
{
    (void)snprintf(name, 16, "name %u", i);
    return name;
}

bool check_names(struct run *r)
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

void look_if_applied(struct run *r)
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
