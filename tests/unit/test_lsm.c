/*
 * test_lsm.c - the whole engine against a sorted array: random batches, reads, iterators, snapshots,
 * flushes, compactions and reopenings, on memory and on disk, with threads and without.
 */
#include <shale/lsm.h>

#include "coding.h"
#include "env.h"

#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define KEYS 300u
#define SNAPSHOTS 4u

static uint64_t seed;
static __thread uint64_t state;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/*
 * A value is {le64 sum, filler}; an operand the same: sums add, the longer filler length stays.
 * Associative, and the result is as long as the longer of the two.
 */
static size_t sum_merge(void *arg, const void *base, size_t base_len, bool base_is_operand,
                        const void *operand, size_t operand_len, void *out)
{
    (void)arg, (void)base_is_operand;
    uint64_t v = get_le64(operand);
    size_t len = operand_len;
    if (base) {
        v += get_le64(base);
        if (base_len > len)
            len = base_len;
    }
    memset(out, 'x', len);
    put_le64(out, v);
    return len;
}

static uint64_t route_first_byte(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len ? *(const uint8_t *)key : 0;
}

struct state {
    bool exists[KEYS];
    uint64_t sum[KEYS];
    size_t len[KEYS];
};

struct world {
    struct lsm *db;
    struct lsm_options options;
    char path[128];
    struct state now;
    struct lsm_snapshot *snapshots[SNAPSHOTS];
    struct state then[SNAPSHOTS];
};

/* Keys of varying length; the first byte spreads them over shards. */
static size_t key_of(unsigned i, uint8_t *key)
{
    key[0] = (uint8_t)(i % 7);
    return 1 + (size_t)sprintf((char *)key + 1, "%05u%.*s", i / 7, (int)(i % 11), "abcdefghijk");
}

/* Positions in key order. */
static unsigned order[KEYS];

static int by_key(const void *a, const void *b)
{
    uint8_t ka[64], kb[64];
    size_t la = key_of(*(const unsigned *)a, ka), lb = key_of(*(const unsigned *)b, kb);
    int c = memcmp(ka, kb, la < lb ? la : lb);
    return c ? c : (la > lb) - (la < lb);
}

static void make_value(uint8_t *buf, uint64_t sum, size_t len)
{
    memset(buf, 'x', len);
    put_le64(buf, sum);
}

static void open_world(struct world *w) { assert_int_equal(lsm_open(w->path, &w->options, &w->db), 0); }

static void write_batch(struct world *w)
{
    struct lsm_batch *b;
    static __thread uint8_t buf[8192];
    assert_int_equal(lsm_batch_new(&b), 0);
    unsigned n = 1 + (unsigned)(rnd() % (rnd() % 8 ? 4 : 60));
    struct state next = w->now;
    for (unsigned i = 0; i < n; i++) {
        unsigned k = (unsigned)(rnd() % (rnd() % 2 ? KEYS : 10));
        uint8_t key[64];
        size_t key_len = key_of(k, key);
        uint64_t sum = rnd() % 1000;
        size_t len = 8 + rnd() % (rnd() % 16 ? 120 : 6000);
        switch (rnd() % 4) {
        case 0:
            lsm_batch_delete(b, key, key_len);
            next.exists[k] = false;
            break;
        case 1:
            len = 8 + len % 40;
            make_value(buf, sum, len);
            lsm_batch_merge(b, key, key_len, buf, len);
            if (next.exists[k]) {
                next.sum[k] += sum;
                if (len > next.len[k])
                    next.len[k] = len;
            } else {
                next.exists[k] = true;
                next.sum[k] = sum;
                next.len[k] = len;
            }
            break;
        default:
            make_value(buf, sum, len);
            lsm_batch_put(b, key, key_len, buf, len);
            next.exists[k] = true;
            next.sum[k] = sum;
            next.len[k] = len;
        }
    }
    assert_int_equal(lsm_commit(w->db, b, rnd() % 50 ? 0 : LSM_SYNC), 0);
    w->now = next;
    lsm_batch_free(b);
}

static void check_value(const struct state *s, unsigned k, const void *data, size_t len)
{
    assert_true(s->exists[k]);
    assert_int_equal(len, s->len[k]);
    assert_int_equal(get_le64(data), s->sum[k]);
}

static void check_get(struct world *w)
{
    unsigned k = (unsigned)(rnd() % KEYS), i = (unsigned)(rnd() % (SNAPSHOTS + 2));
    uint8_t key[64];
    size_t key_len = key_of(k, key);
    const struct state *s = &w->now;
    const struct lsm_snapshot *snapshot = NULL;
    if (i < SNAPSHOTS && w->snapshots[i]) {
        snapshot = w->snapshots[i];
        s = &w->then[i];
    }
    struct lsm_value v;
    int err = lsm_get(w->db, key, key_len, snapshot, 0, &v);
    assert_int_equal(err, s->exists[k] ? 0 : -ENOENT);
    if (!err)
        check_value(s, k, v.data, v.len);
    lsm_value_release(&v);
}

static void check_position(const struct state *s, struct lsm_iter *it, int rank)
{
    if (rank < 0 || rank >= (int)KEYS) {
        assert_int_equal(lsm_iter_status(it), 0);
        assert_false(lsm_iter_valid(it));
        return;
    }
    if (!lsm_iter_valid(it))
        fail_msg("iterator ended early: %d", lsm_iter_status(it));
    uint8_t key[64];
    size_t len, want = key_of(order[rank], key);
    const void *k = lsm_iter_key(it, &len);
    assert_int_equal(len, want);
    assert_memory_equal(k, key, len);
    const void *v = lsm_iter_value(it, &len);
    check_value(s, order[rank], v, len);
}

/* The nearest existing rank from r on (step +1 or -1) within [low, high). */
static int existing(const struct state *s, int r, int step, int low, int high)
{
    while (r >= low && r < high && !s->exists[order[r]])
        r += step;
    return r < low ? -1 : r >= high ? (int)KEYS : r;
}

static void check_iterator(struct world *w)
{
    unsigned i = (unsigned)(rnd() % (SNAPSHOTS + 2));
    const struct state *s = &w->now;
    struct lsm_iter_options o = {0};
    if (i < SNAPSHOTS && w->snapshots[i]) {
        o.snapshot = w->snapshots[i];
        s = &w->then[i];
    }
    int low = 0, high = KEYS;
    uint8_t low_key[64], high_key[64];
    if (rnd() % 2) {
        low = (int)(rnd() % KEYS);
        o.lower = low_key;
        o.lower_len = key_of(order[low], low_key);
    }
    if (rnd() % 2) {
        high = low + (int)(rnd() % (KEYS - (unsigned)low));
        o.upper = high_key;
        o.upper_len = key_of(order[high], high_key);
    }
    struct lsm_iter *it;
    assert_int_equal(lsm_iter_new(w->db, &o, &it), 0);
    struct state frozen = *s;
    int at = -1;
    bool placed = false;
    for (unsigned step = 0; step < 60; step++) {
        uint8_t key[64];
        unsigned r = (unsigned)(rnd() % KEYS);
        size_t len = key_of(order[r], key);
        switch (placed && at >= 0 && at < (int)KEYS ? rnd() % 12 : rnd() % 4) {
        case 0:
            lsm_iter_first(it);
            at = existing(&frozen, low, 1, low, high);
            break;
        case 1:
            lsm_iter_last(it);
            at = existing(&frozen, high - 1, -1, low, high);
            break;
        case 2:
            lsm_iter_seek(it, key, len);
            at = existing(&frozen, (int)r < low ? low : (int)r, 1, low, high);
            break;
        case 3:
            lsm_iter_seek_prev(it, key, len);
            at = existing(&frozen, (int)r >= high ? high - 1 : (int)r, -1, low, high);
            break;
        case 4:
        case 5:
        case 6:
        case 7:
            lsm_iter_next(it);
            at = existing(&frozen, at + 1, 1, low, high);
            break;
        default: lsm_iter_prev(it); at = existing(&frozen, at - 1, -1, low, high);
        }
        placed = true;
        check_position(&frozen, it, at);
        if (rnd() % 20 == 0 && !o.snapshot)
            write_batch(w); /* the iterator keeps its moment */
    }
    lsm_iter_free(it);
}

static void drop_snapshots(struct world *w)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        lsm_snapshot_free(w->db, w->snapshots[i]);
        w->snapshots[i] = NULL;
    }
}

static void turn_snapshot(struct world *w)
{
    unsigned i = (unsigned)(rnd() % SNAPSHOTS);
    if (w->snapshots[i]) {
        lsm_snapshot_free(w->db, w->snapshots[i]);
        w->snapshots[i] = NULL;
    } else {
        assert_int_equal(lsm_snapshot_new(w->db, &w->snapshots[i]), 0);
        w->then[i] = w->now;
    }
}

static void check_all(struct world *w)
{
    struct lsm_iter *it;
    assert_int_equal(lsm_iter_new(w->db, NULL, &it), 0);
    lsm_iter_first(it);
    for (int r = existing(&w->now, 0, 1, 0, KEYS); r < (int)KEYS; r = existing(&w->now, r + 1, 1, 0, KEYS)) {
        check_position(&w->now, it, r);
        lsm_iter_next(it);
    }
    assert_false(lsm_iter_valid(it));
    assert_int_equal(lsm_iter_status(it), 0);
    lsm_iter_free(it);
}

static void run_world(struct world *w, unsigned steps)
{
    open_world(w);
    for (unsigned i = 0; i < steps; i++) {
        switch (rnd() % 40) {
        case 0: turn_snapshot(w); break;
        case 1: check_iterator(w); break;
        case 2:
            if (rnd() % 10 == 0)
                assert_int_equal(lsm_flush(w->db), 0);
            break;
        case 3:
            if (rnd() % 40 == 0)
                assert_int_equal(lsm_compact(w->db), 0);
            break;
        case 4: lsm_work(w->db); break;
        case 5:
            if (rnd() % 60 == 0) {
                drop_snapshots(w);
                assert_int_equal(lsm_close(w->db), 0);
                open_world(w);
                check_all(w);
            }
            break;
        case 6: assert_int_equal(lsm_sync(w->db), 0); break;
        default:
            if (rnd() % 2)
                write_batch(w);
            else
                check_get(w);
        }
    }
    check_all(w);
    drop_snapshots(w);
    struct lsm_stats *st = calloc(1, sizeof *st);
    lsm_stats_get(w->db, st);
    assert_int_equal(st->shards, w->options.shards);
    free(st);
    assert_int_equal(lsm_close(w->db), 0);
}

static void log_line(void *arg, enum lsm_log_level level, const char *message)
{
    (void)arg;
    if (level <= LSM_LOG_WARNING)
        printf("engine: %s\n", message);
}

static struct world *new_world(struct env *env, const char *path, unsigned flags)
{
    struct world *w = calloc(1, sizeof *w);
    snprintf(w->path, sizeof w->path, "%s", path);
    w->options = (struct lsm_options){
        .flags = LSM_CREATE | flags,
        .shards = 3,
        .memory_bytes = 8 << 20,
        .write_buffer_bytes = 96 << 10,
        .table_bytes = 32 << 10,
        .block_bytes = 1024,
        .log_segment_bytes = 1 << 20,
        .level_ratio = 3,
        .commit_ms = 20,
        .merge = sum_merge,
        .route = route_first_byte,
        .log = log_line,
        .env = env,
    };
    return w;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static char *temp_path(void)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/test_lsm.XXXXXX");
    assert_non_null(mkdtemp(path));
    return path;
}

static void test_model_in_memory(void **unused)
{
    (void)unused;
    for (unsigned round = 0; round < 3; round++) {
        struct env *env = env_mem_new();
        assert_non_null(env);
        struct world *w = new_world(env, "/store", LSM_INLINE);
        run_world(w, 20000);
        free(w);
        env_mem_free(env);
    }
}

static void test_model_on_disk(void **unused)
{
    (void)unused;
    char *dir = temp_path();
    char path[128];
    snprintf(path, sizeof path, "%s/store", dir);
    struct world *w = new_world(NULL, path, 0);
    run_world(w, 15000);
    free(w);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- several threads: pairs of keys on different shards always agree ---- */

#define PAIRS 64u
#define THREADS 4u

struct race {
    struct lsm *db;
    unsigned index;
    bool stop;
    const char *wrong;
    unsigned rounds;
};

static void pair_keys(unsigned pair, uint8_t *a, uint8_t *b)
{
    a[0] = (uint8_t)pair;
    b[0] = (uint8_t)(pair + 1); /* routes to another shard */
    a[1] = b[1] = (uint8_t)pair;
    a[2] = 'a';
    b[2] = 'b';
}

static void *race_write(void *arg)
{
    struct race *r = arg;
    state = seed + r->index * 77 + 1;
    struct lsm_batch *batch;
    if (lsm_batch_new(&batch))
        return NULL;
    for (unsigned i = 0; i < r->rounds && !r->wrong; i++) {
        uint8_t a[3], b[3], value[200];
        pair_keys((unsigned)(rnd() % PAIRS), a, b);
        memset(value, 0, sizeof value);
        put_le64(value, rnd());
        lsm_batch_clear(batch);
        lsm_batch_put(batch, a, 3, value, sizeof value);
        lsm_batch_put(batch, b, 3, value, sizeof value);
        uint8_t one[8];
        put_le64(one, 1);
        lsm_batch_merge(batch, "counter", 7, one, 8);
        unsigned flags = rnd() % 100 ? 0 : LSM_SYNC;
        int err;
        do
            err = lsm_commit(r->db, batch, flags | (rnd() % 4 ? 0 : LSM_NOWAIT));
        while (err == -EAGAIN);
        if (err)
            r->wrong = "commit";
    }
    lsm_batch_free(batch);
    return NULL;
}

static void *race_read(void *arg)
{
    struct race *r = arg;
    state = seed + r->index * 77 + 1;
    while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED) && !r->wrong) {
        uint8_t a[3], b[3];
        pair_keys((unsigned)(rnd() % PAIRS), a, b);
        struct lsm_snapshot *snapshot;
        if (lsm_snapshot_new(r->db, &snapshot)) {
            r->wrong = "snapshot";
            break;
        }
        struct lsm_value va, vb;
        int ea = lsm_get(r->db, a, 3, snapshot, 0, &va), eb = lsm_get(r->db, b, 3, snapshot, 0, &vb);
        if (ea != eb || (ea && ea != -ENOENT))
            r->wrong = "half a batch is visible";
        else if (!ea && memcmp(va.data, vb.data, 8) != 0)
            r->wrong = "two batches are mixed";
        lsm_value_release(&va);
        lsm_value_release(&vb);
        if (rnd() % 16 == 0) {
            struct lsm_iter *it;
            if (lsm_iter_new(r->db, NULL, &it)) {
                r->wrong = "iterator";
            } else {
                uint64_t first[PAIRS] = {0};
                bool have[PAIRS] = {0};
                for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it)) {
                    size_t len;
                    const uint8_t *key = lsm_iter_key(it, &len);
                    const void *value = lsm_iter_value(it, &len);
                    if (key[0] == 'c' && key[1] == 'o')
                        continue;
                    if (have[key[1]] && first[key[1]] != get_le64(value))
                        r->wrong = "an iterator mixes two moments";
                    have[key[1]] = true;
                    first[key[1]] = get_le64(value);
                }
                if (lsm_iter_status(it))
                    r->wrong = "iterator status";
                lsm_iter_free(it);
            }
        }
        lsm_snapshot_free(r->db, snapshot);
    }
    return NULL;
}

static void test_threads(void **unused)
{
    (void)unused;
    char *dir = temp_path();
    char path[128];
    snprintf(path, sizeof path, "%s/store", dir);
    struct world *w = new_world(NULL, path, 0);
    open_world(w);
    struct race races[2 * THREADS] = {0};
    pthread_t threads[2 * THREADS];
    for (unsigned i = 0; i < 2 * THREADS; i++) {
        races[i].db = w->db;
        races[i].index = i;
        races[i].rounds = 3000;
        assert_int_equal(pthread_create(&threads[i], NULL, i < THREADS ? race_write : race_read, &races[i]),
                         0);
    }
    for (unsigned i = 0; i < 2 * THREADS; i++) {
        if (i >= THREADS)
            __atomic_store_n(&races[i].stop, true, __ATOMIC_RELAXED);
        pthread_join(threads[i], NULL);
        if (races[i].wrong)
            fail_msg("%s", races[i].wrong);
    }
    for (unsigned round = 0; round < 2; round++) {
        struct lsm_value v;
        assert_int_equal(lsm_get(w->db, "counter", 7, NULL, 0, &v), 0);
        assert_int_equal(get_le64(v.data), THREADS * 3000);
        lsm_value_release(&v);
        assert_int_equal(lsm_close(w->db), 0);
        open_world(w);
    }
    assert_int_equal(lsm_compact(w->db), 0);
    assert_int_equal(lsm_close(w->db), 0);
    free(w);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- killed again and again: what was acknowledged is found, and nothing else ---- */

#define KILLS 12u
#define KILL_KEYS 500u

/* Batch n puts n under a key that n determines, and counts itself; a state is a number of batches. */
static int write_numbered(struct lsm *db, struct lsm_batch *batch, uint64_t n)
{
    uint8_t key[3] = {(uint8_t)n, (uint8_t)(n % KILL_KEYS), (uint8_t)(n % KILL_KEYS >> 8)}, value[300] = {0},
            one[8];
    put_le64(value, n);
    put_le64(one, 1);
    lsm_batch_clear(batch);
    lsm_batch_put(batch, key + 1, 2, value, 8 + n % 290);
    lsm_batch_merge(batch, "count", 5, one, 8);
    return lsm_commit(db, batch, 0);
}

static void write_until_killed(struct world *w, uint64_t from, uint64_t *acknowledged, uint64_t to)
{
    struct lsm_batch *batch;
    if (lsm_open(w->path, &w->options, &w->db) || lsm_batch_new(&batch))
        _exit(1);
    for (uint64_t n = from; n < to; n++) {
        if (write_numbered(w->db, batch, n))
            _exit(2);
        __atomic_store_n(acknowledged, n + 1, __ATOMIC_RELEASE);
    }
    _exit(0); /* as good as a kill: nothing is closed */
}

static uint64_t check_numbered(struct world *w, uint64_t acknowledged)
{
    open_world(w);
    struct lsm_value v;
    uint64_t count = 0;
    if (lsm_get(w->db, "count", 5, NULL, 0, &v) == 0)
        count = get_le64(v.data);
    lsm_value_release(&v);
    assert_true(count >= acknowledged);
    for (uint64_t n = count > KILL_KEYS ? count - KILL_KEYS : 0; n < count; n++) {
        uint8_t key[2] = {(uint8_t)(n % KILL_KEYS), (uint8_t)(n % KILL_KEYS >> 8)};
        if (lsm_get(w->db, key, 2, NULL, 0, &v))
            fail_msg("batch %llu of %llu is lost", (unsigned long long)n, (unsigned long long)count);
        assert_int_equal(get_le64(v.data), n);
        assert_int_equal(v.len, 8 + n % 290);
        lsm_value_release(&v);
    }
    return count;
}

static void kill_rounds(unsigned flags)
{
    char *dir = temp_path();
    char path[128];
    snprintf(path, sizeof path, "%s/store", dir);
    uint64_t *acknowledged = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(acknowledged != MAP_FAILED);
    struct world *w = new_world(NULL, path, flags);
    w->options.route = NULL;
    uint64_t count = 0;
    for (unsigned i = 0; i < KILLS; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            write_until_killed(w, count, acknowledged, count + rnd() % 9000);
        usleep((useconds_t)(rnd() % 60000));
        if (rnd() % 2)
            kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        /* The check is killed, too, in two of three cases, having replayed and flushed a part. */
        uint64_t *shared = acknowledged + 1;
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            *shared = check_numbered(w, *acknowledged);
            if (rnd() % 3 == 0)
                lsm_close(w->db);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        count = *acknowledged = *shared;
        rnd();
    }
    count = check_numbered(w, *acknowledged);
    assert_int_equal(lsm_close(w->db), 0);
    munmap(acknowledged, 4096);
    free(w);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void test_kills_with_threads(void **unused)
{
    (void)unused;
    kill_rounds(0);
}

static void test_kills_inline(void **unused)
{
    (void)unused;
    kill_rounds(LSM_INLINE);
}

/* ---- the edges ---- */

static void test_edges(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct world *w = new_world(env, "/s", LSM_INLINE);
    w->options.blob_min_bytes = LSM_BLOB_NEVER;
    struct lsm *second;
    struct lsm_value v;
    w->options.flags &= ~(unsigned)LSM_CREATE;
    assert_int_equal(lsm_open("/s", &w->options, &second), -ENOENT);
    w->options.flags |= LSM_CREATE;
    open_world(w);
    assert_int_equal(lsm_open("/s", &w->options, &second), -EBUSY);

    assert_int_equal(lsm_put(w->db, "", 0, "", 0, 0), 0);
    assert_int_equal(lsm_get(w->db, "", 0, NULL, 0, &v), 0);
    assert_int_equal(v.len, 0);
    lsm_value_release(&v);
    lsm_value_release(&v);
    uint8_t *big = calloc(1, LSM_VALUE_MAX);
    assert_int_equal(lsm_put(w->db, big, LSM_KEY_MAX + 1, "", 0, 0), -E2BIG);
    assert_int_equal(lsm_put(w->db, "k", 1, big, LSM_VALUE_MAX, 0), -E2BIG);
    size_t most = lsm_batch_bytes_max(w->db) - 32;
    assert_int_equal(lsm_put(w->db, "k", 1, big, most, 0), 0); /* larger than a memtable */
    assert_int_equal(lsm_put(w->db, "k2", 2, big, most, LSM_SYNC), 0);
    assert_int_equal(lsm_close(w->db), 0);
    open_world(w);
    assert_int_equal(lsm_get(w->db, "k", 1, NULL, 0, &v), 0);
    assert_int_equal(v.len, most);
    lsm_value_release(&v);
    free(big);
    assert_int_equal(lsm_delete(w->db, "k", 1, 0), 0);
    assert_int_equal(lsm_get(w->db, "k", 1, NULL, 0, &v), -ENOENT);
    assert_int_equal(lsm_close(w->db), 0);

    /* Read-only: shows the unflushed, changes nothing, and several at once. */
    w->options.flags = LSM_RDONLY | LSM_INLINE;
    open_world(w);
    assert_int_equal(lsm_open("/s", &w->options, &second), 0);
    assert_int_equal(lsm_get(second, "k2", 2, NULL, 0, &v), 0);
    lsm_value_release(&v);
    assert_int_equal(lsm_get(second, "k", 1, NULL, 0, &v), -ENOENT);
    assert_int_equal(lsm_put(second, "k", 1, "v", 1, 0), -EROFS);
    assert_int_equal(lsm_sync(second), 0);
    assert_int_equal(lsm_close(second), 0);
    assert_int_equal(lsm_close(w->db), 0);

    /* Something that is no store stays untouched. */
    struct env_file *f;
    assert_int_equal(env_mkdir(env, "/other"), 0);
    assert_int_equal(env_open(env, "/other/file", ENV_CREATE | ENV_WRITE, &f), 0);
    env_close(f);
    w->options.flags = LSM_CREATE | LSM_INLINE;
    assert_int_equal(lsm_open("/other", &w->options, &second), -ENOTEMPTY);
    free(w);
    env_mem_free(env);
}

static void test_empty_reopens(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    struct world *w = new_world(env, "/s", LSM_INLINE);
    for (unsigned i = 0; i < 20; i++) {
        open_world(w);
        check_all(w);
        if (i == 10) {
            uint8_t key[64];
            size_t len = key_of(5, key);
            assert_int_equal(lsm_put(w->db, key, len, "01234567", 8, 0), 0);
            w->now.exists[5] = true;
            w->now.len[5] = 8;
            w->now.sum[5] = get_le64("01234567");
        }
        assert_int_equal(lsm_close(w->db), 0);
    }
    free(w);
    env_mem_free(env);
}

int main(void)
{
    const char *s = getenv("SHALE_SEED");
    seed = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u;
    state = seed | 1;
    printf("replay: SHALE_SEED=0x%llx test_lsm\n", (unsigned long long)seed);
    for (unsigned i = 0; i < KEYS; i++)
        order[i] = i;
    qsort(order, KEYS, sizeof order[0], by_key);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edges),           cmocka_unit_test(test_empty_reopens),
        cmocka_unit_test(test_model_in_memory), cmocka_unit_test(test_model_on_disk),
        cmocka_unit_test(test_threads),         cmocka_unit_test(test_kills_with_threads),
        cmocka_unit_test(test_kills_inline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
