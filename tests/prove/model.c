/*
 * model.c - see model.h.
 *
 * The model is an array of all keys there can be, with the value of each, as it is now; snapshots and iterators have
 * a copy of it from when they were made. Values are functions of a number, and operands affine functions (a, b):
 * x -> a x + b, which do not commute: a fold in a wrong order, or with too few or too many, gives something else.
 *
 * The store lies in memory. With each opening the options are drawn anew. Operations are entries of a table.
 */
#include "model.h"

#include "prove.h"

#include "coding.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEYS_MAX 400u
#define IDS 6u /* keys begin with one of so many bytes, which the route goes by */
#define SNAPSHOTS_MAX 4u
#define ITERS_MAX 3u
#define NOTHING UINT64_C(77) /* what an operand takes for the value of a key that does not exist */
#define KEY_MAX 40u
#define VALUE_BYTES_MAX 3000u
#define DIR_OF_STORE "/model"

struct cell {
    bool exists;
    uint16_t len;
    uint64_t v;
};

struct world {
    struct cell cell[KEYS_MAX];
};

struct key {
    uint8_t bytes[KEY_MAX];
    size_t len;
};

struct cursor {
    struct lsm_iter *it; /* NULL: none */
    struct world world;
    unsigned low, high; /* indices of keys within the bounds: low <= i < high */
    int shard;          /* only its keys; negative: all */
    int at;             /* where it stands, negative: nowhere */
};

struct test {
    uint64_t random;
    struct env *env;
    struct lsm *db;
    struct lsm_options options;
    bool routed; /* by the first byte; for the life of the store */
    unsigned keys;
    struct key key[KEYS_MAX]; /* ascending */
    struct world now;
    struct lsm_snapshot *snapshot[SNAPSHOTS_MAX];
    struct world then[SNAPSHOTS_MAX];
    struct cursor cursor[ITERS_MAX];
};

static uint64_t draw(struct test *t)
{
    t->random += UINT64_C(0x9e3779b97f4a7c15);
    return seed_mix(t->random, 0);
}
static uint64_t below(struct test *t, uint64_t n) { return draw(t) % n; }
static bool one_in(struct test *t, uint64_t n) { return draw(t) % n == 0; }

/* ---- keys and values ---- */

static int compare_keys(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    int c = memcmp(x->bytes, y->bytes, x->len < y->len ? x->len : y->len);
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

/* Short and long ones, some a prefix of others. */
static void make_keys(struct test *t)
{
    unsigned n = (unsigned)(20 + below(t, KEYS_MAX - 20));
    for (unsigned i = 0; i < n; i++) {
        struct key *k = &t->key[i];
        k->bytes[0] = (uint8_t)('a' + below(t, IDS));
        k->len = 1 + (size_t)sprintf((char *)k->bytes + 1, "%llu", (unsigned long long)below(t, 500));
        for (size_t more = one_in(t, 4) ? below(t, 24) : 0; more > 0; more--)
            k->bytes[k->len++] = (uint8_t) "\0m\xff"[below(t, 3)];
    }
    qsort(t->key, n, sizeof t->key[0], compare_keys);
    t->keys = 0;
    for (unsigned i = 0; i < n; i++)
        if (!t->keys || compare_keys(&t->key[t->keys - 1], &t->key[i]))
            t->key[t->keys++] = t->key[i];
}

/* One of the keys, or something beside one: a bound. */
static struct key any_bound(struct test *t)
{
    struct key k = t->key[below(t, t->keys)];
    switch (below(t, 6)) {
    case 0: k.bytes[k.len++] = 0; break;
    case 1: k.len = 1 + below(t, k.len); break;
    case 2:
        k.bytes[0]++;
        k.len = 1;
        break;
    default: break;
    }
    return k;
}

static unsigned first_at_or_above(const struct test *t, const struct key *k)
{
    unsigned from = 0, to = t->keys;
    while (from < to) {
        unsigned mid = from + (to - from) / 2;
        if (compare_keys(&t->key[mid], k) < 0)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

static size_t affine(void *arg, const void *base, size_t base_len, bool base_is_operand, const void *operand,
                     size_t operand_len, void *out)
{
    (void)arg, (void)base_len, (void)operand_len;
    uint64_t a = get_le64(operand), b = get_le64((const uint8_t *)operand + 8);
    if (base_is_operand) {
        uint64_t a1 = get_le64(base), b1 = get_le64((const uint8_t *)base + 8);
        put_le64(out, a * a1);
        put_le64((uint8_t *)out + 8, a * b1 + b);
        return 16;
    }
    put_le64(out, a * (base ? get_le64(base) : NOTHING) + b);
    return 8;
}

static uint64_t first_byte(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len ? *(const uint8_t *)key : 0;
}

static void make_value(uint8_t *out, uint64_t v, size_t len)
{
    memset(out, (int)(v & 0xff), len);
    put_le64(out, v);
}

static bool value_is(const struct cell *c, const void *data, size_t len)
{
    return len == c->len && get_le64(data) == c->v &&
           (len == 8 || ((const uint8_t *)data)[len - 1] == (uint8_t)c->v);
}

/* ---- opening ---- */

static void draw_options(struct test *t, bool create)
{
    struct lsm_options *o = &t->options;
    *o = (struct lsm_options){
        .flags = (create ? LSM_CREATE : 0) | (one_in(t, 5) ? 0 : LSM_INLINE),
        .shards = create ? (unsigned)(1 + below(t, 4)) : o->shards,
        .memory_bytes = (8u << 20) << below(t, 3),
        .write_buffer_bytes = (16u << 10) << below(t, 4),
        .table_bytes = (size_t)(1u << 10) << below(t, 7),
        .block_bytes = (size_t)256 << below(t, 5),
        .log_segment_bytes = create ? (1u << 20) << below(t, 2) : o->log_segment_bytes,
        .log_budget_bytes = (256u << 10) << (2 * below(t, 3)),
        .level_ratio = (unsigned)(2 + below(t, 5)),
        .commit_ms = (unsigned)(1 + below(t, 100)),
        .delete_age_s = one_in(t, 3) ? 1 : 0,
        .route = t->routed ? first_byte : NULL,
        .merge = affine,
        .env = t->env,
    };
}

static bool failed(const char *what, int err)
{
    if (err)
        proof_fail("%s: %s", what, strerror(-err));
    return err != 0;
}

static void free_cursor(struct cursor *c)
{
    lsm_iter_free(c->it);
    c->it = NULL;
}

static void let_go(struct test *t)
{
    for (unsigned i = 0; i < ITERS_MAX; i++)
        free_cursor(&t->cursor[i]);
    for (unsigned i = 0; i < SNAPSHOTS_MAX; i++) {
        lsm_snapshot_free(t->db, t->snapshot[i]);
        t->snapshot[i] = NULL;
    }
}

static void on_problem(void *arg, const struct lsm_problem *p)
{
    (void)arg;
    if (p->damage)
        proof_fail("verify: %s: %s", p->file, p->what);
}

static void reopen(struct test *t)
{
    struct lsm_verified verified;
    let_go(t);
    int err = lsm_close(t->db);
    t->db = NULL;
    if (failed("close", err))
        return;
    if (one_in(t, 3))
        (void)failed("verify", lsm_verify(DIR_OF_STORE, &t->options, on_problem, NULL, &verified));
    draw_options(t, false);
    (void)failed("open", lsm_open(DIR_OF_STORE, &t->options, &t->db));
}

/* ---- operations ---- */

static void delete_range(struct test *t, struct lsm_batch *b, struct world *next)
{
    struct key start = any_bound(t), end = any_bound(t);
    bool one_shard = t->routed && one_in(t, 2);
    if (one_shard) /* all of the range begins with the same byte */
        end.bytes[0] = start.bytes[0];
    if (one_in(t, 3)) { /* a short one */
        unsigned i = (unsigned)below(t, t->keys), to = i + (unsigned)below(t, 4);
        start = t->key[i];
        end = t->key[to < t->keys ? to : t->keys - 1];
        one_shard = false;
    }
    lsm_batch_delete_range(b, start.bytes, start.len, end.bytes, end.len, one_shard ? start.bytes : NULL,
                           one_shard ? start.len : 0);
    for (unsigned i = first_at_or_above(t, &start); i < t->keys && compare_keys(&t->key[i], &end) < 0; i++)
        next->cell[i].exists = false;
}

static void change(struct test *t, struct lsm_batch *b, struct world *next)
{
    uint8_t value[VALUE_BYTES_MAX];
    unsigned i = (unsigned)below(t, t->keys);
    const struct key *k = &t->key[i];
    struct cell *c = &next->cell[i];
    unsigned kind = (unsigned)below(t, 100);

    if (kind < 12) {
        lsm_batch_delete(b, k->bytes, k->len);
        c->exists = false;
    } else if (kind < 20) {
        delete_range(t, b, next);
    } else if (kind < 40) {
        uint64_t x = draw(t) | 1, y = draw(t);
        put_le64(value, x);
        put_le64(value + 8, y);
        lsm_batch_merge(b, k->bytes, k->len, value, 16);
        *c = (struct cell){true, 8, x * (c->exists ? c->v : NOTHING) + y};
    } else {
        *c = (struct cell){
            true, (uint16_t)(8 + (one_in(t, 20) ? below(t, VALUE_BYTES_MAX - 8) : below(t, 60))), draw(t)};
        make_value(value, c->v, c->len);
        lsm_batch_put(b, k->bytes, k->len, value, c->len);
    }
}

static void op_batch(struct test *t)
{
    static struct world next;
    struct lsm_batch *b;
    unsigned flags = one_in(t, 30) ? LSM_SYNC : one_in(t, 10) ? LSM_NOWAIT : 0;
    if (failed("batch", lsm_batch_new(&b)))
        return;
    next = t->now;
    for (uint64_t n = 1 + (one_in(t, 10) ? below(t, 60) : below(t, 4)); n > 0; n--)
        change(t, b, &next);
    int err = lsm_commit(t->db, b, flags);
    if (err == -EAGAIN && flags & LSM_NOWAIT)
        err = lsm_commit(t->db, b, 0);
    lsm_batch_free(b);
    if (!failed("commit", err))
        t->now = next;
}

static void op_get(struct test *t)
{
    unsigned i = (unsigned)below(t, t->keys), s = (unsigned)below(t, 2 * SNAPSHOTS_MAX);
    struct lsm_snapshot *snapshot = s < SNAPSHOTS_MAX ? t->snapshot[s] : NULL;
    const struct cell *c = snapshot ? &t->then[s].cell[i] : &t->now.cell[i];
    struct lsm_value v;
    int err = lsm_get(t->db, t->key[i].bytes, t->key[i].len, snapshot, one_in(t, 8) ? LSM_NOFILL : 0, &v);
    if (err ? err != -ENOENT || c->exists : !c->exists || !value_is(c, v.data, v.len))
        proof_fail("get of key %u%s: %s; it should %s", i, snapshot ? " at a snapshot" : "",
                   err ? strerror(-err) : "a value", c->exists ? "have another" : "not be there");
    lsm_value_release(&v);
}

static void op_snapshot(struct test *t)
{
    unsigned i = (unsigned)below(t, SNAPSHOTS_MAX);
    if (t->snapshot[i]) {
        lsm_snapshot_free(t->db, t->snapshot[i]);
        t->snapshot[i] = NULL;
    } else {
        t->then[i] = t->now;
        (void)failed("snapshot", lsm_snapshot_new(t->db, &t->snapshot[i]));
    }
}

static void op_flush(struct test *t) { (void)failed("flush", lsm_flush(t->db)); }
static void op_compact(struct test *t) { (void)failed("compact", lsm_compact(t->db)); }
static void op_work(struct test *t)
{
    int did = lsm_work(t->db);
    (void)failed("work", did < 0 ? did : 0);
}

/* ---- iterators ---- */

static bool shown(const struct test *t, const struct cursor *c, int i)
{
    return i >= (int)c->low && i < (int)c->high && c->world.cell[i].exists &&
           (c->shard < 0 || (int)lsm_shard_of(t->db, t->key[i].bytes, t->key[i].len) == c->shard);
}

/* The next key that is shown from i on in a direction; -1 if there is none. */
static int nearest(const struct test *t, const struct cursor *c, int i, int step)
{
    for (; i >= 0 && i < (int)t->keys; i += step)
        if (shown(t, c, i))
            return i;
    return -1;
}

static void check_cursor(const struct test *t, struct cursor *c, int at, const char *how)
{
    c->at = at;
    if (lsm_iter_valid(c->it) != (at >= 0) || lsm_iter_status(c->it)) {
        proof_fail("iterator, %s: %s (%s), should be at key %d", how,
                   lsm_iter_valid(c->it) ? "valid" : "at its end", strerror(-lsm_iter_status(c->it)), at);
        return;
    }
    if (at < 0)
        return;
    size_t len;
    struct key found = {.len = 0};
    const void *key = lsm_iter_key(c->it, &len);
    found.len = len < KEY_MAX ? len : KEY_MAX;
    memcpy(found.bytes, key, found.len);
    if (compare_keys(&found, &t->key[at])) {
        proof_fail("iterator, %s: stands at another key than %d", how, at);
        return;
    }
    const void *value = lsm_iter_value(c->it, &len);
    if (!value_is(&c->world.cell[at], value, len))
        proof_fail("iterator, %s: key %d has a wrong value", how, at);
}

static void new_cursor(struct test *t, struct cursor *c)
{
    struct lsm_iter_options o = {.flags = one_in(t, 4) ? LSM_NOFILL : 0};
    struct key low = any_bound(t), high = any_bound(t);
    const struct key *route = &t->key[below(t, t->keys)];
    unsigned s = (unsigned)below(t, 2 * SNAPSHOTS_MAX);
    c->world = t->now;
    if (s < SNAPSHOTS_MAX && t->snapshot[s]) {
        o.snapshot = t->snapshot[s];
        c->world = t->then[s];
    }
    c->low = 0;
    c->high = t->keys;
    if (one_in(t, 3)) {
        o.lower = low.bytes;
        o.lower_len = low.len;
        c->low = first_at_or_above(t, &low);
    }
    if (one_in(t, 3)) {
        o.upper = high.bytes;
        o.upper_len = high.len;
        c->high = first_at_or_above(t, &high);
    }
    c->shard = -1;
    if (one_in(t, 2)) {
        o.route_key = route->bytes;
        o.route_key_len = route->len;
        c->shard = (int)lsm_shard_of(t->db, route->bytes, route->len);
    }
    c->at = -1;
    (void)failed("lsm_iter_new", lsm_iter_new(t->db, &o, &c->it));
}

static void move_cursor(struct test *t, struct cursor *c)
{
    struct key k = any_bound(t);
    unsigned at = first_at_or_above(t, &k), how = (unsigned)below(t, 20);
    if (c->at >= 0 && how < 8) {
        int to = nearest(t, c, c->at + 1, 1);
        lsm_iter_next(c->it);
        check_cursor(t, c, to, "next");
    } else if (c->at >= 0 && how < 16) {
        int to = nearest(t, c, c->at - 1, -1);
        lsm_iter_prev(c->it);
        check_cursor(t, c, to, "prev");
    } else if (how % 4 == 0) {
        lsm_iter_first(c->it);
        check_cursor(t, c, nearest(t, c, 0, 1), "first");
    } else if (how % 4 == 1) {
        lsm_iter_last(c->it);
        check_cursor(t, c, nearest(t, c, (int)t->keys - 1, -1), "last");
    } else if (how % 4 == 2) {
        lsm_iter_seek(c->it, k.bytes, k.len);
        check_cursor(t, c, nearest(t, c, (int)at, 1), "seek");
    } else {
        bool equal = at < t->keys && compare_keys(&t->key[at], &k) == 0;
        lsm_iter_seek_prev(c->it, k.bytes, k.len);
        check_cursor(t, c, nearest(t, c, equal ? (int)at : (int)at - 1, -1), "seek_prev");
    }
}

static void op_iterate(struct test *t)
{
    struct cursor *c = &t->cursor[below(t, ITERS_MAX)];
    if (c->it && one_in(t, 6))
        free_cursor(c);
    else if (!c->it)
        new_cursor(t, c);
    for (uint64_t n = 1 + below(t, 12); c->it && n > 0 && !proof_failed; n--)
        move_cursor(t, c);
}

/* All of it, by a new iterator, in both directions. */
static void op_scan(struct test *t)
{
    struct cursor c = {.high = t->keys, .shard = -1, .world = t->now};
    if (failed("lsm_iter_new", lsm_iter_new(t->db, NULL, &c.it)))
        return;
    lsm_iter_first(c.it);
    check_cursor(t, &c, nearest(t, &c, 0, 1), "first");
    while (c.at >= 0 && !proof_failed) {
        int to = nearest(t, &c, c.at + 1, 1);
        lsm_iter_next(c.it);
        check_cursor(t, &c, to, "next");
    }
    lsm_iter_last(c.it);
    check_cursor(t, &c, nearest(t, &c, (int)t->keys - 1, -1), "last");
    while (c.at >= 0 && !proof_failed) {
        int to = nearest(t, &c, c.at - 1, -1);
        lsm_iter_prev(c.it);
        check_cursor(t, &c, to, "prev");
    }
    lsm_iter_free(c.it);
}

/* A further operation is one more line. */
static const struct operation {
    const char *name;
    unsigned weight; /* of a thousand, about */
    void (*run)(struct test *t);
} operations[] = {
    {"batch", 450, op_batch}, {"get", 250, op_get},       {"iterate", 200, op_iterate},
    {"work", 60, op_work},    {"scan", 2, op_scan},       {"snapshot", 20, op_snapshot},
    {"flush", 6, op_flush},   {"compact", 2, op_compact}, {"reopen", 1, reopen},
};

static void step(struct test *t)
{
    const struct operation *op = operations;
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
        sum += operations[i].weight;
    for (uint64_t at = below(t, sum); at >= op->weight; op++)
        at -= op->weight;
    size_t mark = proof_enter(", %s", op->name);
    totals.operations++;
    op->run(t);
    proof_leave(mark);
}

void model_run(uint64_t seed, uint64_t count)
{
    struct test *t = calloc(1, sizeof *t);
    if (!t)
        abort();
    t->random = seed;
    t->env = env_mem_new();
    t->routed = one_in(t, 2);
    make_keys(t);
    draw_options(t, true);
    if (!failed("open", lsm_open(DIR_OF_STORE, &t->options, &t->db)))
        t->options.shards = lsm_shards(t->db);
    for (uint64_t i = 0; i < count && !proof_failed; i++) {
        size_t mark = proof_enter("operation %llu", (unsigned long long)i);
        step(t);
        proof_leave(mark);
    }
    if (t->db) {
        let_go(t);
        (void)lsm_close(t->db);
    }
    env_mem_free(t->env);
    free(t);
}

void prove_model(uint64_t seed) { model_run(seed, 4000); }
