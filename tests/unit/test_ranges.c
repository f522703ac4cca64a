/*
 * test_ranges.c - range deletes: the two structures that say what covers a key against naive models, also while one
 * grows under its readers; how long a question takes among a hundred thousand; and readers, iterators and snapshots of a
 * store beside writers that delete ranges, with flushes and compactions going on.
 *
 * That a store answers rightly in every state it can get into is for tests/prove/model.c to show.
 */
#include "range_index.h"

#include "coding.h"
#include "env.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static uint64_t seed;
static __thread uint64_t state;

static uint64_t rnd(void) /* splitmix64 */
{
    uint64_t x = state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}
static size_t below(size_t n) { return (size_t)(rnd() % n); }

static int reseed(void **arg)
{
    (void)arg;
    state = seed;
    return 0;
}

/* ---- against a list of all ---- */

#define SPAN 200u /* keys are two bytes: a number below this, then maybe one more */

struct list {
    struct range_delete d[2000];
    uint8_t bytes[2000][2][2];
    size_t count;
};

static uint32_t some_key(uint8_t *out)
{
    out[0] = (uint8_t)below(SPAN);
    out[1] = (uint8_t)below(3);
    return (uint32_t)(1 + below(2));
}

/* Adds one to the list; false if it would be empty. */
static bool add(struct list *l, uint64_t seq)
{
    struct range_delete *d = &l->d[l->count];
    uint8_t(*b)[2] = l->bytes[l->count];
    *d = (struct range_delete){.start = b[0], .end = b[1], .seq = seq};
    d->start_len = some_key(b[0]);
    d->end_len = some_key(b[1]);
    if (key_compare(d->start, d->start_len, d->end, d->end_len) >= 0)
        return false;
    l->count++;
    return true;
}

/* The newest above `over` and at most seq. */
static uint64_t naive(const struct list *l, const uint8_t *key, size_t len, uint64_t over, uint64_t seq)
{
    uint64_t best = 0;
    for (size_t i = 0; i < l->count; i++) {
        const struct range_delete *d = &l->d[i];
        if (d->seq > over && d->seq <= seq && d->seq > best &&
            key_compare(d->start, d->start_len, key, len) <= 0 &&
            key_compare(d->end, d->end_len, key, len) > 0)
            best = d->seq;
    }
    return best;
}

static struct arena new_arena(size_t size)
{
    struct arena a = {.bytes = calloc(1, size), .size = size, .used = 8};
    assert_non_null(a.bytes);
    return a;
}

static void test_index(void **arg)
{
    (void)arg;
    static const unsigned marks[] = {0, 1, 3, RANGE_MARKS_MAX};
    struct list *l = malloc(sizeof *l);
    for (unsigned round = 0; round < 40; round++) {
        struct arena a = new_arena(16u << 20);
        struct range_index x = {.arena = &a, .marks_max = marks[round % 4]};
        size_t n = 1 + below(round % 3 ? 300 : 2000);
        l->count = 0;
        for (uint64_t seq = 10; l->count < n; seq += 1 + below(4)) {
            if (!add(l, seq))
                continue;
            size_t before = arena_left(&a),
                   room = range_index_bytes(l->d[l->count - 1].start_len, l->d[l->count - 1].end_len);
            range_index_add(&x, &l->d[l->count - 1]);
            assert_true(before - arena_left(&a) <= room);
            if (below(4))
                continue;
            struct range_bounds b;
            uint8_t key[2], other[2];
            uint32_t len = some_key(key), other_len = some_key(other);
            uint64_t at = below(3) ? SEQ_MAX : below((size_t)seq + 5);
            uint64_t found = range_index_cover(&x, key, len, at, &b);
            assert_int_equal(found, naive(l, key, len, 0, at));
            assert_true(bounds_have(&b, key, len));
            if (bounds_have(&b, other, other_len))
                assert_int_equal(found, naive(l, other, other_len, 0, at));
        }
        assert_int_equal(range_index_count(&x), n);
        struct ranges all = {0};
        assert_int_equal(range_index_list(&x, &all), 0);
        assert_int_equal(all.raw_count, n);
        ranges_free(&all);
        free(a.bytes);
    }
    free(l);
}

static void check_fragments(const struct ranges *r, const struct list *l, const uint64_t *snapshots,
                            size_t count)
{
    for (size_t i = 0; i < r->count; i++) {
        const struct range_fragment *f = &r->fragments[i];
        assert_true(key_compare(f->start, f->start_len, f->end, f->end_len) < 0 && f->count > 0);
        if (i)
            assert_true(key_compare(f[-1].end, f[-1].end_len, f->start, f->start_len) <= 0);
        for (size_t j = 1; j < f->count; j++)
            assert_true(r->seqs[f->first + j] < r->seqs[f->first + j - 1]);
    }
    for (unsigned k = 0; k < 400; k++) {
        uint8_t key[2];
        uint32_t len = some_key(key);
        size_t left = 0; /* of every stratum the newest one, and nothing else */
        for (size_t s = 0; s <= count; s++) {
            uint64_t over = s ? snapshots[s - 1] : 0, seq = s < count ? snapshots[s] : SEQ_MAX;
            uint64_t best = naive(l, key, len, over, seq);
            left += best != 0;
            assert_int_equal(ranges_cover(r, key, len, seq), naive(l, key, len, 0, seq));
        }
        size_t i = ranges_find(r, key, len);
        bool in =
            i < r->count && key_compare(r->fragments[i].start, r->fragments[i].start_len, key, len) <= 0;
        assert_int_equal(in ? r->fragments[i].count : 0, left);
    }
}

static void test_fragments(void **arg)
{
    (void)arg;
    struct list *l = malloc(sizeof *l);
    for (unsigned round = 0; round < 60; round++) {
        struct ranges r = {0};
        uint64_t snapshots[5], seq = 10;
        size_t n = below(round % 3 ? 40 : 1500), count = 0;
        for (l->count = 0; l->count < n; seq += 1 + below(4)) {
            if (count < 5 && below(n / 4 + 1) == 0 && (!count || snapshots[count - 1] < seq))
                snapshots[count++] = seq;
            add(l, ++seq);
        }
        for (size_t i = n; i-- > 0;) /* in any order */
            assert_int_equal(ranges_add(&r, &l->d[i]), 0);
        assert_int_equal(ranges_build(&r, snapshots, count), 0);
        check_fragments(&r, l, snapshots, count);
        ranges_free(&r);
    }
    free(l);
}

/* ---- readers beside a writer ---- */

struct shared {
    struct range_index x;
    struct list *l;
    size_t published; /* atomic */
    uint64_t seed;
};

static void *read_index(void *arg)
{
    struct shared *s = arg;
    state = s->seed + 1;
    for (size_t n = 0; n < 1500;) {
        n = __atomic_load_n(&s->published, __ATOMIC_ACQUIRE);
        if (!n)
            continue;
        uint64_t seq = s->l->d[below(n)].seq;
        uint8_t key[2];
        uint32_t len = some_key(key);
        struct range_bounds b;
        struct list *l = s->l;
        uint64_t best = 0;
        for (size_t i = 0; i < n; i++)
            if (l->d[i].seq <= seq && key_compare(l->d[i].start, l->d[i].start_len, key, len) <= 0 &&
                key_compare(l->d[i].end, l->d[i].end_len, key, len) > 0)
                best = l->d[i].seq;
        if (range_index_cover(&s->x, key, len, seq, &b) != best || !bounds_have(&b, key, len))
            return "a reader beside the writer got a wrong answer";
    }
    return NULL;
}

static void test_index_readers(void **arg)
{
    (void)arg;
    struct arena a = new_arena(32u << 20);
    struct shared s = {
        .x = {.arena = &a, .marks_max = RANGE_MARKS_MAX}, .l = calloc(1, sizeof *s.l), .seed = rnd()};
    pthread_t reader[2];
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&reader[i], NULL, read_index, &s), 0);
    for (uint64_t seq = 10; s.l->count < 1500; seq++) {
        if (!add(s.l, seq))
            continue;
        range_index_add(&s.x, &s.l->d[s.l->count - 1]);
        __atomic_store_n(&s.published, s.l->count, __ATOMIC_RELEASE);
    }
    for (unsigned i = 0; i < 2; i++) {
        void *wrong;
        pthread_join(reader[i], &wrong);
        if (wrong)
            fail_msg("%s", (char *)wrong);
    }
    free(s.l);
    free(a.bytes);
}

/* ---- how long it takes among many ---- */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The fastest of several rounds, in seconds for a question. */
static double time_gets(struct lsm *db, unsigned keys)
{
    double best = 1e9;
    for (unsigned round = 0; round < 7; round++) {
        double began = now_s();
        for (unsigned i = 0; i < 1000; i++) {
            uint8_t key[9];
            struct lsm_value v;
            put_be64(key, below(keys));
            key[8] = 'k';
            int err = lsm_get(db, key, sizeof key, NULL, 0, &v);
            assert_true(!err || err == -ENOENT);
            lsm_value_release(&v);
        }
        double took = (now_s() - began) / 1000;
        best = took < best ? took : best;
    }
    return best;
}

enum shape { DISJOINT, NESTED, SHAPES };

/* A store with n range deletes, a half of them in tables, of keys that stay; every second key is beside them. */
static struct lsm *store_of(struct env *env, const char *dir, unsigned n, enum shape shape)
{
    struct lsm_options o = {.flags = LSM_CREATE | LSM_INLINE,
                            .shards = 1,
                            .memory_bytes = 512u << 20,
                            .write_buffer_bytes = 256u << 20,
                            .log_budget_bytes = 1u << 30,
                            .env = env};
    struct lsm *db;
    struct lsm_batch *b;
    assert_int_equal(lsm_open(dir, &o, &db), 0);
    assert_int_equal(lsm_batch_new(&b), 0);
    for (unsigned i = 0; i < n; i++) {
        uint8_t start[8], end[8], key[9];
        put_be64(start, shape == NESTED ? i : i * UINT64_C(2));
        put_be64(end, shape == NESTED ? 4 * (uint64_t)n - i : i * UINT64_C(2) + 1);
        put_be64(key, i * UINT64_C(2) + 1);
        key[8] = 'k';
        lsm_batch_put(b, key, sizeof key, "value", 5);
        lsm_batch_delete_range(b, start, sizeof start, end, sizeof end, NULL, 0);
        if (lsm_batch_count(b) >= 200 || i + 1 == n) {
            assert_int_equal(lsm_commit(db, b, 0), 0);
            lsm_batch_clear(b);
        }
        if (i == n / 2)
            assert_int_equal(lsm_flush(db), 0);
    }
    lsm_batch_free(b);
    return db;
}

/* A hundred times the range deletes: were they looked through one by one, a get took a hundred times as long. */
static void test_gets_among_many(void **arg)
{
    (void)arg;
    for (unsigned shape = 0; shape < SHAPES; shape++) {
        struct env *env = env_mem_new();
        struct lsm *few = store_of(env, "/few", 1000, (enum shape)shape),
                   *many = store_of(env, "/many", 100000, (enum shape)shape);
        double a = time_gets(few, 2000), b = time_gets(many, 200000);
        print_message("%s: a get among 1000 range deletes %.2f us, among 100000 %.2f us\n",
                      shape == NESTED ? "nested" : "disjoint", a * 1e6, b * 1e6);
        assert_true(b < a * 25);
        assert_int_equal(lsm_close(few), 0);
        assert_int_equal(lsm_close(many), 0);
        env_mem_free(env);
    }
}

/* ---- a store under readers and writers ---- */

#define OWNERS 2u
#define GROUP_KEYS 40u
#define GENERATIONS 150u

/*
 * Each writer owns a group of keys. A batch of his deletes the group by a range and puts all of its keys with the number
 * of the batch. So whoever reads sees all keys of a group with the same number, or he has seen half a batch, or a range
 * delete at a wrong place in history.
 */
struct owner {
    struct lsm *db;
    unsigned group;
    const char *wrong;
};
static bool writers_done; /* atomic */

static void group_key(uint8_t key[3], unsigned group, unsigned i)
{
    key[0] = (uint8_t)group;
    key[1] = 0;
    key[2] = (uint8_t)i;
}

static void *write_group(void *arg)
{
    struct owner *o = arg;
    struct lsm_batch *b;
    if (lsm_batch_new(&b))
        return NULL;
    for (uint64_t generation = 1; generation <= GENERATIONS && !o->wrong; generation++) {
        uint8_t start = (uint8_t)o->group, end = (uint8_t)(o->group + 1), key[3], value[300] = {0};
        lsm_batch_delete_range(b, &start, 1, &end, 1, generation % 2 ? &start : NULL, 1);
        put_le64(value, generation);
        for (unsigned i = 0; i < GROUP_KEYS; i++) {
            group_key(key, o->group, i);
            lsm_batch_put(b, key, sizeof key, value, sizeof value);
        }
        if (lsm_commit(o->db, b, 0))
            o->wrong = "a commit failed";
        lsm_batch_clear(b);
    }
    lsm_batch_free(b);
    return NULL;
}

static const char *look_at_group(struct lsm *db, unsigned group, const struct lsm_snapshot *snapshot,
                                 bool backward, uint64_t *generation)
{
    uint8_t low = (uint8_t)group, high = (uint8_t)(group + 1);
    struct lsm_iter_options o = {
        .snapshot = snapshot, .lower = &low, .lower_len = 1, .upper = &high, .upper_len = 1};
    struct lsm_iter *it;
    unsigned seen = 0;
    const char *wrong = NULL;
    if (lsm_iter_new(db, &o, &it))
        return "no iterator";
    for (backward ? lsm_iter_last(it) : lsm_iter_first(it); lsm_iter_valid(it);
         backward ? lsm_iter_prev(it) : lsm_iter_next(it)) {
        size_t len;
        uint64_t g = get_le64(lsm_iter_value(it, &len));
        if (seen++ && g != *generation)
            wrong = "keys of two batches at once";
        *generation = g;
    }
    if (lsm_iter_status(it))
        wrong = "an iterator failed";
    if (!wrong && seen && seen != GROUP_KEYS)
        wrong = "a part of a batch";
    lsm_iter_free(it);
    return wrong;
}

static void *read_groups(void *arg)
{
    struct owner *o = arg;
    state = o->group;
    uint64_t last[OWNERS] = {0};
    while (!__atomic_load_n(&writers_done, __ATOMIC_ACQUIRE) && !o->wrong) {
        unsigned group = (unsigned)below(OWNERS);
        struct lsm_snapshot *s;
        uint64_t now = 0, then = 0, again = 0;
        if (lsm_snapshot_new(o->db, &s))
            break;
        o->wrong = look_at_group(o->db, group, s, rnd() & 1, &then);
        if (!o->wrong)
            o->wrong = look_at_group(o->db, group, NULL, rnd() & 1, &now);
        if (!o->wrong)
            o->wrong = look_at_group(o->db, group, s, rnd() & 1, &again);
        lsm_snapshot_free(o->db, s);
        if (!o->wrong && then != again)
            o->wrong = "a snapshot changed";
        if (!o->wrong && (now < then || then < last[group]))
            o->wrong = "history went back";
        last[group] = now;
        uint8_t key[3];
        struct lsm_value v;
        group_key(key, group, (unsigned)below(GROUP_KEYS));
        int err = lsm_get(o->db, key, sizeof key, NULL, 0, &v);
        if (!o->wrong && now && (err || get_le64(v.data) < now))
            o->wrong = "a get finds less than an iterator before it";
        lsm_value_release(&v);
    }
    return NULL;
}

static void *compact_again_and_again(void *arg)
{
    struct owner *o = arg;
    while (!__atomic_load_n(&writers_done, __ATOMIC_ACQUIRE) && !o->wrong)
        if (lsm_compact(o->db))
            o->wrong = "a compaction failed";
    return NULL;
}

static uint64_t route_first_byte(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len ? *(const uint8_t *)key : 0;
}

static void test_threads(void **arg)
{
    (void)arg;
    struct lsm_options o = {.flags = LSM_CREATE,
                            .shards = 2,
                            .memory_bytes = 16u << 20,
                            .write_buffer_bytes = 64u << 10,
                            .table_bytes = 32u << 10,
                            .route = route_first_byte,
                            .env = env_mem_new()};
    struct owner people[OWNERS + 3];
    pthread_t thread[OWNERS + 3];
    struct lsm *db;
    writers_done = false;
    assert_int_equal(lsm_open("/threads", &o, &db), 0);
    for (unsigned i = 0; i < OWNERS + 3; i++) {
        people[i] = (struct owner){.db = db, .group = i};
        assert_int_equal(pthread_create(&thread[i], NULL,
                                        i < OWNERS       ? write_group
                                        : i < OWNERS + 2 ? read_groups
                                                         : compact_again_and_again,
                                        &people[i]),
                         0);
    }
    for (unsigned i = 0; i < OWNERS + 3; i++) {
        if (i == OWNERS)
            __atomic_store_n(&writers_done, true, __ATOMIC_RELEASE);
        pthread_join(thread[i], NULL);
    }
    for (unsigned i = 0; i < OWNERS + 3; i++)
        if (people[i].wrong)
            fail_msg("%s", people[i].wrong);
    assert_int_equal(lsm_close(db), 0);
    env_mem_free(o.env);
}

int main(void)
{
    const char *s = getenv("SHALE_SEED");
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    seed = s ? strtoull(s, NULL, 0) : (uint64_t)t.tv_sec * 1000000007u + (uint64_t)t.tv_nsec;
    print_message("replay: SHALE_SEED=%llu test_ranges\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_index, reseed),
        cmocka_unit_test_setup(test_fragments, reseed),
        cmocka_unit_test_setup(test_index_readers, reseed),
        cmocka_unit_test_setup(test_gets_among_many, reseed),
        cmocka_unit_test_setup(test_threads, reseed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
