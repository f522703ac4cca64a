/*
 * wal_store.h - what the tests of the log share: an env with faults, a store that plays the manifest,
 * records.
 *
 * The store remembers uses as the callback records them, recovers and reopens as the engine does.
 * Underneath is memory, behind an env (`faulty`) that can fill the disk, fail or delay syncs,
 * stores and reads, and counts them. Payloads are made from their index, so what comes back can be
 * checked without keeping it.
 */
#ifndef TESTS_WAL_STORE_H
#define TESTS_WAL_STORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "wal.h"
#include "wal_format.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DIR_NAME "/log"
#define SEGMENT ((uint64_t)WAL_SEGMENT_MIN)
#define USES_MAX 256

/* How a log may be opened. */
static const struct {
    bool map, threads;
} modes[] = {{false, false}, {true, false}, {false, true}, {true, true}};
#define FOR_EACH_MODE(m) for (size_t m = 0; m < sizeof(modes) / sizeof(modes[0]); m++)

static uint64_t base_seed;

static inline uint64_t random_next(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- an env with faults ---- */

struct faulty {
    struct env base;
    struct env *inner;
    bool no_space;   /* atomic, as are all below */
    int sync_error;  /* returned by the next syncs of log segments */
    int store_error; /* by pwritev and map_store */
    int read_error;  /* by pread */
    unsigned sync_delay_us;
    unsigned syncs, writes, written_bytes;
    bool no_map;
};

struct faulty_file {
    struct env_file base;
    struct env_file *inner;
    struct faulty *env;
};

#define GET(field) __atomic_load_n(&(field), __ATOMIC_SEQ_CST)
#define SET(field, value) __atomic_store_n(&(field), value, __ATOMIC_SEQ_CST)
#define ADD(field, value) __atomic_fetch_add(&(field), value, __ATOMIC_SEQ_CST)

static inline struct faulty_file *ff(struct env_file *f) { return (struct faulty_file *)f; }
static inline struct faulty *fe(struct env *e) { return (struct faulty *)e; }

static inline ssize_t faulty_pread(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    int rc = GET(ff(f)->env->read_error);
    return rc ? rc : env_pread(ff(f)->inner, buf, len, off);
}
static inline int faulty_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    int rc = GET(ff(f)->env->store_error);
    if (rc)
        return rc;
    ADD(ff(f)->env->writes, 1);
    for (int i = 0; i < n; i++)
        ADD(ff(f)->env->written_bytes, (unsigned)iov[i].iov_len);
    return env_pwritev(ff(f)->inner, iov, n, off);
}
static inline int faulty_sync(struct env_file *f)
{
    struct faulty *e = ff(f)->env;
    ADD(e->syncs, 1);
    if (GET(e->sync_delay_us))
        usleep(GET(e->sync_delay_us));
    int rc = GET(e->sync_error);
    return rc ? rc : env_sync(ff(f)->inner);
}
static inline int faulty_allocate(struct env_file *f, uint64_t off, uint64_t len)
{
    return GET(ff(f)->env->no_space) ? -ENOSPC : env_allocate(ff(f)->inner, off, len);
}
static inline int faulty_truncate(struct env_file *f, uint64_t len)
{
    return env_truncate(ff(f)->inner, len);
}
static inline int faulty_size(struct env_file *f, uint64_t *out) { return env_size(ff(f)->inner, out); }
static inline int faulty_map(struct env_file *f, uint64_t len)
{
    return GET(ff(f)->env->no_map) ? -ENOTSUP : env_map(ff(f)->inner, len);
}
static inline int faulty_map_store(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    int rc = GET(ff(f)->env->store_error);
    return rc ? rc : env_map_store(ff(f)->inner, iov, n, off);
}
static inline int faulty_map_populate(struct env_file *f, uint64_t off, uint64_t len)
{
    return env_map_populate(ff(f)->inner, off, len);
}
static inline void faulty_close(struct env_file *f)
{
    env_close(ff(f)->inner);
    free(f);
}
static const struct env_file_ops faulty_file_ops = {
    .pread = faulty_pread,
    .pwritev = faulty_pwritev,
    .sync = faulty_sync,
    .allocate = faulty_allocate,
    .truncate = faulty_truncate,
    .size = faulty_size,
    .map = faulty_map,
    .map_store = faulty_map_store,
    .map_populate = faulty_map_populate,
    .close = faulty_close,
};

static inline int faulty_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    struct env_file *inner;
    int rc = env_open(fe(e)->inner, path, flags, &inner);
    if (rc)
        return rc;
    struct faulty_file *f = calloc(1, sizeof(*f));
    f->base.ops = &faulty_file_ops;
    f->inner = inner;
    f->env = fe(e);
    *out = &f->base;
    return 0;
}
static inline int faulty_mkdir(struct env *e, const char *p) { return env_mkdir(fe(e)->inner, p); }
static inline int faulty_list(struct env *e, const char *p, env_list_fn fn, void *arg)
{
    return env_list(fe(e)->inner, p, fn, arg);
}
static inline int faulty_unlink(struct env *e, const char *p) { return env_unlink(fe(e)->inner, p); }
static inline int faulty_rename(struct env *e, const char *a, const char *b)
{
    return env_rename(fe(e)->inner, a, b);
}
static inline int faulty_link(struct env *e, const char *a, const char *b)
{
    return env_link(fe(e)->inner, a, b);
}
static inline int faulty_sync_dir(struct env *e, const char *p) { return env_sync_dir(fe(e)->inner, p); }
static inline uint64_t faulty_mono(struct env *e) { return env_mono_ns(fe(e)->inner); }
static inline uint64_t faulty_wall(struct env *e) { return env_wall_ns(fe(e)->inner); }
static inline int faulty_random(struct env *e, void *b, size_t n) { return env_random(fe(e)->inner, b, n); }
static inline int faulty_thread_start(struct env *e, const char *name, int cpu, void (*fn)(void *), void *arg,
                                      struct env_thread **out)
{
    return env_thread_start(fe(e)->inner, name, cpu, fn, arg, out);
}
static inline void faulty_thread_join(struct env *e, struct env_thread *t)
{
    env_thread_join(fe(e)->inner, t);
}

static const struct env_ops faulty_ops = {
    .open = faulty_open,
    .mkdir = faulty_mkdir,
    .list = faulty_list,
    .unlink = faulty_unlink,
    .rename = faulty_rename,
    .link = faulty_link,
    .sync_dir = faulty_sync_dir,
    .mono_ns = faulty_mono,
    .wall_ns = faulty_wall,
    .random = faulty_random,
    .thread_start = faulty_thread_start,
    .thread_join = faulty_thread_join,
};

/* ---- payloads ---- */

static inline void payload_make(uint8_t *p, size_t n, uint64_t index)
{
    uint64_t x = index * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 8; i < n; i++)
        p[i] = (uint8_t)(x >> (i % 8 * 8)) ^ (uint8_t)i;
    if (n >= 8)
        put_le64(p, index);
    else
        memset(p, 0x5a, n);
}

static inline int payload_check(const uint8_t *p, size_t n)
{
    uint64_t x = n >= 8 ? get_le64(p) * UINT64_C(0x9e3779b97f4a7c15) + 1 : 0;

    for (size_t i = 8; i < n; i++) {
        if (p[i] != ((uint8_t)(x >> (i % 8 * 8)) ^ (uint8_t)i))
            return 0;
    }
    for (size_t i = 0; n < 8 && i < n; i++) {
        if (p[i] != 0x5a)
            return 0;
    }
    return 1;
}

/* ---- a store: the manifest and a log ---- */

struct store {
    struct faulty env;
    const char *dir;
    struct env *files; /* where the bytes are, without faults */
    struct wal *wal;
    bool map, threads;
    unsigned commit_ms;
    pthread_mutex_t lock;
    struct wal_use uses[USES_MAX]; /* ascending base */
    size_t use_count;
    uint64_t last_number;
    lsn_t start, synced;
    int use_error;
    unsigned failures; /* calls of `failed` */
    int failure;
    unsigned corrupt_lines;
    /* what recovery replayed */
    uint64_t replayed, first_index;
    lsn_t last_lsn;
    int replay_error;
};

static inline void drop_use(struct store *s, size_t i)
{
    memmove(s->uses + i, s->uses + i + 1, (s->use_count - i - 1) * sizeof(s->uses[0]));
    s->use_count--;
}

static inline int on_use(void *arg, const struct wal_use *use)
{
    struct store *s = arg;

    if (GET(s->use_error))
        return GET(s->use_error);
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->use_count; i++) {
        if (s->uses[i].number == use->number)
            drop_use(s, i--);
    }
    assert_true(s->use_count < USES_MAX);
    assert_true(s->use_count == 0 || use->base >= s->uses[s->use_count - 1].base + SEGMENT);
    assert_int_equal(use->base % 8, 0);
    assert_int_equal(use->end, 0);
    s->uses[s->use_count++] = *use;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static inline uint64_t on_number(void *arg)
{
    struct store *s = arg;
    return __atomic_add_fetch(&s->last_number, 1, __ATOMIC_SEQ_CST);
}

static inline void on_failed(void *arg, int error)
{
    struct store *s = arg;
    ADD(s->failures, 1);
    SET(s->failure, error);
}

static inline void on_log(void *arg, enum lsm_log_level level, const char *message)
{
    struct store *s = arg;

    (void)level;
    if (getenv("SHALE_TEST_LOG"))
        fprintf(stderr, "    %s\n", message);
    if (strncmp(message, "damaged:", 8) == 0)
        s->corrupt_lines++;
}

static inline struct store *store_new(bool map, bool threads)
{
    struct store *s = calloc(1, sizeof(*s));

    s->env.base.ops = &faulty_ops;
    s->env.inner = s->files = env_mem_new();
    s->dir = DIR_NAME;
    s->map = map;
    s->threads = threads;
    s->commit_ms = 100000;
    s->start = 8;
    pthread_mutex_init(&s->lock, NULL);
    assert_int_equal(env_mkdir(s->files, s->dir), 0);
    return s;
}

static inline void store_free(struct store *s)
{
    if (s->wal)
        wal_close(s->wal);
    env_mem_free(s->files);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static inline struct wal_options options_of(struct store *s)
{
    return (struct wal_options){
        .env = &s->env.base,
        .dir = s->dir,
        .segment_bytes = SEGMENT,
        .map = s->map,
        .threads = s->threads,
        .commit_ms = s->commit_ms,
        .log = {.fn = on_log, .arg = s},
        .arg = s,
        .use = on_use,
        .new_number = on_number,
        .failed = on_failed,
    };
}

static inline int on_replay(void *arg, lsn_t lsn, const void *payload, size_t bytes)
{
    struct store *s = arg;

    assert_true(lsn > s->last_lsn);
    s->last_lsn = lsn;
    assert_true(payload_check(payload, bytes));
    if (bytes >= 8 && s->replayed == 0)
        s->first_index = get_le64(payload);
    s->replayed++;
    return s->replay_error;
}

static inline size_t copy_uses(struct store *s, struct wal_use uses[USES_MAX])
{
    pthread_mutex_lock(&s->lock);
    size_t count = s->use_count;
    memcpy(uses, s->uses, count * sizeof(*uses));
    pthread_mutex_unlock(&s->lock);
    return count;
}

/* Also of a log that is open, as far as its frontier. */
static inline int recover(struct store *s, bool rewrite, struct wal_recovered *out)
{
    struct wal_use uses[USES_MAX];
    struct wal_recovery r = {
        .env = &s->env.base,
        .dir = s->dir,
        .uses = uses,
        .use_count = copy_uses(s, uses),
        .start = s->start,
        .synced = s->synced,
        .rewrite = rewrite,
        .log = {.fn = on_log, .arg = s},
        .arg = s,
        .replay = on_replay,
    };

    s->replayed = 0;
    s->last_lsn = 0;
    s->corrupt_lines = 0;
    int rc = wal_recover(&r, out);
    assert_int_equal(out->records, s->replayed);
    assert_int_equal(out->next % 8, 0);
    assert_true(out->next >= out->end);
    for (size_t i = 0; i < r.use_count; i++)
        assert_true(out->next >= uses[i].base + uses[i].bytes);
    assert_int_equal(s->corrupt_lines, rc == -EUCLEAN && out->damage_number ? 1 : 0);
    assert_int_equal(out->damaged, rc == -EUCLEAN);
    return rc;
}

/* "The log ends at X": as the engine records it after recovery. */
static inline void record_end(struct store *s, const struct wal_recovered *r)
{
    for (size_t i = 0; i < s->use_count; i++) {
        if (s->uses[i].number == r->number) {
            s->uses[i].end = r->end;
            s->use_count = i + 1;
        }
    }
    s->synced = r->end;
}

static inline int open_at(struct store *s, lsn_t next)
{
    struct wal_options o = options_of(s);
    struct wal_use live[USES_MAX];
    size_t count = copy_uses(s, live);

    return wal_open(&o, next, live, count, NULL, 0, &s->wal);
}

/* Recovers with rewriting and goes on, as the engine does. */
static inline uint64_t reopen(struct store *s)
{
    struct wal_recovered r;

    assert_int_equal(recover(s, true, &r), 0);
    record_end(s, &r);
    assert_int_equal(open_at(s, r.next), 0);
    return r.records;
}

static inline void crash(struct store *s)
{
    /* memory keeps everything: what a kill leaves. Tears are made by hand. */
    wal_close(s->wal);
    s->wal = NULL;
}

/* ---- records ---- */

static inline int reserve(struct wal *wal, size_t n, struct wal_ticket *t)
{
    int rc;

    do {
        rc = wal_prepare(wal, n, false);
        if (!rc)
            rc = wal_reserve(wal, n, t);
    } while (rc == -EAGAIN);
    return rc;
}

/* In one to forty vectors, by index. */
static inline int copy(struct wal *wal, struct wal_ticket *t, size_t n, uint64_t index)
{
    uint8_t *p = malloc(n + 1);
    struct iovec iov[40];
    int pieces = index % 3 == 0 ? 1 : (int)(index % 40) + 1;

    payload_make(p, n, index);
    for (int i = 0; i < pieces; i++) {
        size_t from = n * (size_t)i / (size_t)pieces, to = n * (size_t)(i + 1) / (size_t)pieces;
        iov[i] = (struct iovec){p + from, to - from};
    }
    int rc = wal_copy(wal, t, iov, pieces);
    free(p);
    return rc;
}

static inline int append(struct wal *wal, size_t n, uint64_t index, struct wal_ticket *out)
{
    struct wal_ticket t;

    if (out)
        *out = (struct wal_ticket){0};
    int rc = reserve(wal, n, &t);
    if (!rc)
        rc = copy(wal, &t, n, index);
    if (rc)
        return rc;
    wal_publish(wal, &t);
    if (out)
        *out = t;
    return wal_wait(wal, t.end);
}

static inline void append_ok(struct store *s, size_t n, uint64_t index, struct wal_ticket *out)
{
    assert_int_equal(append(s->wal, n, index, out), 0);
}

/* ---- bytes of a segment, by LSN ---- */

static const struct wal_use *use_of(struct store *s, lsn_t lsn)
{
    for (size_t i = s->use_count; i-- > 0;) {
        if (lsn >= s->uses[i].base && lsn < s->uses[i].base + s->uses[i].bytes)
            return &s->uses[i];
    }
    fail_msg("no use for LSN %" PRIu64, lsn);
    return NULL;
}

static inline void raw(struct store *s, lsn_t lsn, void *buf, size_t n, bool write)
{
    const struct wal_use *u = use_of(s, lsn);
    struct env_file *f;
    char path[128];

    wal_segment_path(s->dir, u->number, path, sizeof(path));
    assert_int_equal(env_open(s->files, path, ENV_READ | ENV_WRITE, &f), 0);
    if (write)
        assert_int_equal(env_pwrite(f, buf, n, lsn - u->base), 0);
    else
        assert_int_equal(env_pread(f, buf, n, lsn - u->base), n);
    env_close(f);
}

static inline void flip(struct store *s, lsn_t lsn)
{
    uint8_t b;

    raw(s, lsn, &b, 1, false);
    b ^= 0x10;
    raw(s, lsn, &b, 1, true);
}

/* Seeds, runs, and says how to run again what failed. */
#define RUN_TESTS(name, tests)                                               \
    __extension__({                                                          \
        const char *given = getenv("SHALE_SEED");                            \
        base_seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL); \
        printf("seed %" PRIu64 "\n", base_seed);                             \
        int failed = cmocka_run_group_tests(tests, NULL, NULL);              \
        if (failed)                                                          \
            printf("replay: SHALE_SEED=%" PRIu64 " " name "\n", base_seed);  \
        failed;                                                              \
    })

#endif
