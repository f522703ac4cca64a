/*
 * test_hold.c - the hold on a blob file between the beginning of a commit that names parts of values in it
 * (lsm_batch_put_part) and its record in the log: blob_retain in blob.c.
 *
 *   - Between the two, where no other thread has to be lucky: what the commit writes to a blob file calls back, and
 *     everything that names the file is deleted and compacted away right there.
 *   - Many threads: objects of cells, stored as a filesystem stores the extents of a file. Small overwrites leave the rests of a
 *     large value where they lie, while others flush, collect and forget, and readers and named snapshots come and go.
 *     Of each object the store must show one moment, every byte of it.
 *
 * Two seconds; SHALE_LONG=1: thirty. To be run under ThreadSanitizer, too. With the deliberate defect "what a part names is not held"
 * (test_hold_mutants, and unit/test_hold_finds) both fail, the second one within seconds.
 */
#include <shale/lsm.h>

#include "coding.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "rules_env.h"

#define KIB 1024u
#define OBJECTS 24u
#define WRITERS 3u
#define READERS 2u
#define CELL 512u
#define CELLS 96u /* of an object */
#define WHOLE 24u /* cells of a value in a blob file: 12 KiB */
#define SMALL 8u  /* cells of a small overwrite, at most */
#define REWRITE_EVERY 64u
#define VERSIONS 100000u /* of an object */
#define PATIENCE_MS 100000u

static struct lsm *db;
static uint64_t seed;
static bool stop; /* atomic */

/* On any thread: cmocka's own may not be used beside the main one. */
#define CHECK(condition, ...)                                                                     \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                       \
            fprintf(stderr, __VA_ARGS__);                                                         \
            fprintf(stderr, "\nreplay: SHALE_SEED=0x%llx test_hold\n", (unsigned long long)seed); \
            _exit(1);                                                                             \
        }                                                                                         \
    } while (0)

static uint64_t rnd(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static bool is_over(void) { return __atomic_load_n(&stop, __ATOMIC_RELAXED); }

/* "o00/": the first three bytes are the route. */
static uint64_t route(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len < 3 ? 0 : ((const uint8_t *)key)[2];
}

static struct lsm_options options_of(struct env *env, unsigned flags)
{
    return (struct lsm_options){.flags = flags,
                                .shards = 2,
                                .memory_bytes = 8u << 20,
                                .write_buffer_bytes = 64u * KIB,
                                .table_bytes = 64u * KIB,
                                .log_segment_bytes = 1u << 20,
                                .blob_min_bytes = 8u * KIB,
                                .blob_file_bytes = 128u * KIB,
                                .commit_ms = 10,
                                .route = route,
                                .env = env};
}

static struct lsm *open_store(struct env *env, unsigned flags)
{
    struct lsm_options o = options_of(env, flags);
    struct lsm *out = NULL;
    int err = lsm_open("/s", &o, &out);
    CHECK(err == 0, "open: %s", strerror(-err));
    return out;
}

static void close_store(void)
{
    int err = lsm_close(db);
    CHECK(err == 0, "close: %s", strerror(-err));
    db = NULL;
}

/* ---- objects ---- */

/* What a version of an object has written. */
struct written {
    uint8_t start, end; /* cells */
};

/* Of version 1 and up: set before the version is committed. */
static struct written *history[OBJECTS];
static uint64_t acknowledged[OBJECTS], begun[OBJECTS]; /* atomic: versions */
static unsigned stale;                                 /* atomic: commits that were told to look again */

static size_t object_key(unsigned object, char key[24]) { return (size_t)snprintf(key, 24, "o%02u", object); }
/* Of the extent that ends before cell `end`. */
static size_t extent_key(unsigned object, unsigned end, char key[24])
{
    return (size_t)snprintf(key, 24, "o%02u/%03u", object, end);
}

static void cell_make(unsigned object, unsigned cell, uint64_t version, uint8_t out[CELL])
{
    uint64_t word = (version * OBJECTS + object) * CELLS + cell;
    put_le64(out, version);
    for (unsigned i = 8; i < CELL; i += 8)
        put_le64(out + i, word * UINT64_C(0x9e3779b97f4a7c15) + i);
}

static void cells_make(unsigned object, unsigned start, unsigned end, uint64_t version, uint8_t *out)
{
    for (unsigned c = start; c < end; c++, out += CELL)
        cell_make(object, c, version, out);
}

/* Which version each cell has, once `version` is in. */
static void versions_of(unsigned object, uint64_t version, uint64_t of[CELLS])
{
    unsigned left = CELLS;
    memset(of, 0, CELLS * sizeof *of);
    for (uint64_t v = version; v > 0 && left > 0; v--)
        for (unsigned c = history[object][v].start; c < history[object][v].end; c++)
            if (!of[c]) {
                of[c] = v;
                left--;
            }
    CHECK(left == 0, "version 1 is all of it");
}

/* ---- reading ---- */

static struct lsm_iter *extents(unsigned object, unsigned from, const struct lsm_snapshot *s, unsigned flags)
{
    static __thread char lower[24], upper[24];
    struct lsm_iter_options o = {.snapshot = s, .lower = lower, .upper = upper, .flags = flags};
    struct lsm_iter *it;
    o.lower_len = extent_key(object, from + 1, lower);
    o.upper_len = (size_t)snprintf(upper, sizeof upper, "o%02u/~", object);
    o.route_key = lower;
    o.route_key_len = o.lower_len;
    int err = lsm_iter_new(db, &o, &it);
    CHECK(err == 0, "iterator: %s", strerror(-err));
    lsm_iter_first(it);
    return it;
}

static unsigned end_of(const struct lsm_iter *it)
{
    size_t len;
    const char *key = lsm_iter_key(it, &len);
    CHECK(len == 7, "a key of %zu bytes", len);
    return (unsigned)(key[4] - '0') * 100 + (unsigned)(key[5] - '0') * 10 + (unsigned)(key[6] - '0');
}

/* The version of an object at a moment; every byte of it is checked. */
static uint64_t check_object(unsigned object, const struct lsm_snapshot *s, bool lazily)
{
    char key[24];
    struct lsm_value v;
    uint64_t of[CELLS];
    uint8_t right[CELL];
    int err = lsm_get(db, key, object_key(object, key), s, 0, &v);
    CHECK(err == 0 && v.len >= 8, "object %u: %s", object, strerror(-err));
    const uint64_t version = get_le64(v.data);
    lsm_value_release(&v);
    CHECK(version > 0 && version <= __atomic_load_n(&begun[object], __ATOMIC_ACQUIRE),
          "object %u version %llu", object, (unsigned long long)version);
    versions_of(object, version, of);
    struct lsm_iter *it = extents(object, 0, s, lazily ? LSM_KEYS : 0);
    unsigned at = 0;
    for (; lsm_iter_valid(it); lsm_iter_next(it)) {
        size_t len;
        const unsigned end = end_of(it);
        err = lsm_iter_load(it);
        CHECK(err == 0, "object %u version %llu, the extent before cell %u: %s", object,
              (unsigned long long)version, end, strerror(-err));
        const uint8_t *value = lsm_iter_value(it, &len);
        CHECK(len == (size_t)(end - at) * CELL, "object %u version %llu: cells %u to %u have %zu bytes",
              object, (unsigned long long)version, at, end, len);
        for (; at < end; at++, value += CELL) {
            cell_make(object, at, of[at], right);
            CHECK(!memcmp(right, value, CELL), "object %u version %llu: cell %u has version %llu, not %llu",
                  object, (unsigned long long)version, at, (unsigned long long)get_le64(value),
                  (unsigned long long)of[at]);
        }
    }
    err = lsm_iter_status(it);
    CHECK(err == 0 && at == CELLS, "object %u version %llu: %u cells, %s", object,
          (unsigned long long)version, at, strerror(-err));
    lsm_iter_free(it);
    return version;
}

static void check_moment(unsigned object, const struct lsm_snapshot *s, uint64_t from, bool lazily)
{
    uint64_t version = check_object(object, s, lazily);
    CHECK(version >= from, "object %u has version %llu, %llu was acknowledged before", object,
          (unsigned long long)version, (unsigned long long)from);
}

/* ---- writing ---- */

/* [start, end) of an extent that begins at cell `first`, where the iterator stands, is to stay: in part, or copied. */
static void put_rest(struct lsm_batch *b, struct lsm_iter *it, unsigned object, unsigned first,
                     unsigned start, unsigned end)
{
    char key[24];
    struct lsm_ref ref;
    size_t len = extent_key(object, end, key), value_len;
    const size_t from = (size_t)(start - first) * CELL, bytes = (size_t)(end - start) * CELL;
    if (lsm_iter_ref(it, &ref)) {
        lsm_batch_put_part(b, key, len, &ref, from, bytes);
        return;
    }
    const uint8_t *value = lsm_iter_value(it, &value_len);
    CHECK(from + bytes <= value_len, "object %u: an extent is too short", object);
    lsm_batch_put(b, key, len, value + from, bytes);
}

static void overwrite(struct lsm_batch *b, unsigned object, struct written w, uint64_t version)
{
    uint8_t value[SMALL * CELL];
    char key[24];
    struct lsm_iter *it = extents(object, w.start, NULL, LSM_KEYS);
    for (; lsm_iter_valid(it); lsm_iter_next(it)) {
        size_t len;
        const unsigned end = end_of(it);
        (void)lsm_iter_value(it, &len);
        const unsigned start = end - (unsigned)(len / CELL);
        if (start >= w.end)
            break;
        if (end <= w.end)
            lsm_batch_delete(b, key, extent_key(object, end, key));
        if (start < w.start)
            put_rest(b, it, object, start, start, w.start);
        if (end > w.end)
            put_rest(b, it, object, start, w.end, end);
    }
    CHECK(lsm_iter_status(it) == 0, "iterator: %s", strerror(-lsm_iter_status(it)));
    lsm_iter_free(it);
    cells_make(object, w.start, w.end, version, value);
    lsm_batch_put(b, key, extent_key(object, w.end, key), value, (size_t)(w.end - w.start) * CELL);
}

static void rewrite(struct lsm_batch *b, unsigned object, uint64_t version)
{
    uint8_t value[WHOLE * CELL];
    char key[24], end[24];
    size_t len = extent_key(object, 0, key), end_len = (size_t)snprintf(end, sizeof end, "o%02u/~", object);
    lsm_batch_delete_range(b, key, len, end, end_len, key, len);
    for (unsigned c = 0; c < CELLS; c += WHOLE) {
        cells_make(object, c, c + WHOLE, version, value);
        lsm_batch_put(b, key, extent_key(object, c + WHOLE, key), value, sizeof value);
    }
}

/* The object's own record is sometimes a large value: writing it is time in which others collect. */
static void put_version(struct lsm_batch *b, unsigned object, uint64_t version)
{
    static const uint8_t zero[9 * KIB];
    char key[24];
    uint8_t value[sizeof zero] = {0};
    put_le64(value, version);
    lsm_batch_put(b, key, object_key(object, key), value, version % 4 ? 8 : sizeof value);
}

static void write_object(unsigned object, uint64_t *state)
{
    const uint64_t version = acknowledged[object] + 1;
    struct written w = {0, CELLS};
    struct lsm_batch *b = NULL;
    int err;
    CHECK(version < VERSIONS, "more writes than there is room for");
    if (version % REWRITE_EVERY != 1) {
        w.start = (uint8_t)(rnd(state) % CELLS);
        w.end = (uint8_t)(w.start + 1 + rnd(state) % SMALL);
        w.end = w.end > CELLS ? CELLS : w.end;
    }
    history[object][version] = w;
    __atomic_store_n(&begun[object], version, __ATOMIC_RELEASE);
    CHECK(lsm_batch_new(&b) == 0, "no memory");
    unsigned tries = 0;
    do {
        lsm_batch_clear(b);
        if (version % REWRITE_EVERY == 1)
            rewrite(b, object, version);
        else
            overwrite(b, object, w, version);
        put_version(b, object, version);
        err = lsm_commit(db, b, version % 50 == 2 ? LSM_SYNC : 0);
        if (err == -ESTALE)
            (void)__atomic_fetch_add(&stale, 1, __ATOMIC_RELAXED);
    } while (err == -ESTALE && ++tries < 100);
    CHECK(err == 0, "commit: %s", strerror(-err));
    lsm_batch_free(b);
    __atomic_store_n(&acknowledged[object], version, __ATOMIC_RELEASE);
}

/* ---- threads ---- */

/* Each has its own objects: two that overwrite the same one would need a lock of theirs, as a filesystem has. */
static void *writer(void *arg)
{
    unsigned own = (unsigned)(uintptr_t)arg;
    uint64_t state = seed + 1000 + own;
    while (!is_over())
        write_object((unsigned)(rnd(&state) % (OBJECTS / WRITERS)) * WRITERS + own, &state);
    return NULL;
}

static void *reader(void *arg)
{
    uint64_t state = seed + 2000 + (uint64_t)(uintptr_t)arg;
    while (!is_over()) {
        struct lsm_snapshot *s;
        unsigned first = (unsigned)(rnd(&state) % OBJECTS);
        CHECK(lsm_snapshot_new(db, &s) == 0, "no memory");
        for (unsigned i = 0; i < 4; i++)
            check_object((first + i) % OBJECTS, s, i & 1);
        lsm_snapshot_free(db, s);
    }
    return NULL;
}

static void *keeper(void *arg)
{
    uint64_t from[OBJECTS];
    (void)arg;
    while (!is_over()) {
        struct lsm_snapshot *s;
        for (unsigned i = 0; i < OBJECTS; i++)
            from[i] = __atomic_load_n(&acknowledged[i], __ATOMIC_ACQUIRE);
        int err = lsm_snapshot_save(db, "moment");
        CHECK(err == 0, "save: %s", strerror(-err));
        (void)usleep(20000); /* overwritten and collected meanwhile */
        err = lsm_snapshot_open(db, "moment", &s);
        CHECK(err == 0, "open of a name: %s", strerror(-err));
        err = lsm_snapshot_drop(db, "moment");
        CHECK(err == 0, "drop: %s", strerror(-err));
        for (unsigned i = 0; i < OBJECTS; i++)
            check_moment(i, s, from[i], false);
        lsm_snapshot_free(db, s);
        (void)usleep(50000); /* nobody holds on to the past: files go */
    }
    return NULL;
}

static void *compactor(void *arg)
{
    (void)arg;
    for (unsigned n = 0; !is_over(); n++) {
        int err = n % 4 ? lsm_flush(db) : lsm_compact(db);
        CHECK(err == 0, "flush, compact: %s", strerror(-err));
    }
    return NULL;
}

/* What it is about takes place, however slow the machine is. */
static void let_run(unsigned seconds)
{
    static struct lsm_stats st;
    uint64_t moved = 0, deleted = 0;
    for (unsigned ms = 0; ms < seconds * 1000 || !moved || !deleted; ms += 100) {
        assert_true(ms < PATIENCE_MS);
        (void)usleep(100000);
        lsm_stats_get(db, &st);
        moved = deleted = 0;
        for (unsigned i = 0; i < st.shards; i++) {
            moved += st.shard[i].blob_bytes_moved;
            deleted += st.shard[i].blob_files_deleted;
        }
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    printf("%llu KiB moved, %llu blob files forgotten\n", (unsigned long long)(moved / KIB),
           (unsigned long long)deleted);
}

static void test_many_threads(void **unused)
{
    (void)unused;
    struct env *env = env_mem_new();
    pthread_t thread[WRITERS + READERS + 2];
    unsigned n = 0;
    uint64_t state = seed;
    for (unsigned i = 0; i < OBJECTS; i++) {
        history[i] = calloc(VERSIONS, sizeof *history[i]);
        assert_non_null(history[i]);
    }
    db = open_store(env, LSM_CREATE);
    for (unsigned i = 0; i < OBJECTS; i++)
        write_object(i, &state);
    for (uintptr_t i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&thread[n++], NULL, writer, (void *)i), 0);
    for (uintptr_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&thread[n++], NULL, reader, (void *)i), 0);
    assert_int_equal(pthread_create(&thread[n++], NULL, keeper, NULL), 0);
    assert_int_equal(pthread_create(&thread[n++], NULL, compactor, NULL), 0);
    const char *lengthy = getenv("SHALE_LONG");
    let_run(lengthy && *lengthy == '1' ? 30 : 2);
    while (n)
        assert_int_equal(pthread_join(thread[--n], NULL), 0);
    uint64_t writes = 0;
    for (unsigned i = 0; i < OBJECTS; i++)
        writes += acknowledged[i];
    printf("%llu writes, %u of them told to look again\n", (unsigned long long)writes, stale);
    for (unsigned round = 0; round < 3; round++) { /* as it is; after replay; from tables */
        for (unsigned i = 0; i < OBJECTS; i++)
            check_moment(i, NULL, acknowledged[i], round == 1);
        if (round == 1)
            assert_int_equal(lsm_compact(db), 0);
        close_store();
        db = open_store(env, 0);
    }
    close_store();
    for (unsigned i = 0; i < OBJECTS; i++)
        free(history[i]);
    env_mem_free(env);
}

/* ---- between the beginning of a commit and its record ---- */

static void work(void)
{
    int did;
    for (unsigned i = 0; (did = lsm_work(db)) > 0; i++)
        CHECK(i < 10000, "background work does not end");
    CHECK(did == 0, "work: %s", strerror(-did));
}

static struct lsm_ref ref_of(const char *key)
{
    struct lsm_iter_options o = {.lower = key, .lower_len = strlen(key), .flags = LSM_KEYS};
    struct lsm_iter *it;
    struct lsm_ref ref = {0};
    assert_int_equal(lsm_iter_new(db, &o, &it), 0);
    lsm_iter_first(it);
    assert_true(lsm_iter_valid(it) && lsm_iter_ref(it, &ref));
    lsm_iter_free(it);
    return ref;
}

static void put_values(void)
{
    static uint8_t value[30 * KIB];
    char key[24];
    for (unsigned i = 0; i < 16; i++) { /* several files are filled and closed */
        memset(value, (int)(i + 1), sizeof value);
        assert_int_equal(
            lsm_put(db, key, (size_t)snprintf(key, sizeof key, "v%02u", i), value, sizeof value, 0), 0);
    }
    assert_int_equal(lsm_flush(db), 0);
    work();
}

static void delete_values(void)
{
    char key[24];
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(lsm_delete(db, key, (size_t)snprintf(key, sizeof key, "v%02u", i), 0), 0);
    assert_int_equal(lsm_compact(db), 0);
    work();
}

static uint64_t files_forgotten(void)
{
    static struct lsm_stats st;
    uint64_t n = 0;
    lsm_stats_get(db, &st);
    for (unsigned i = 0; i < st.shards; i++)
        n += st.shard[i].blob_files_deleted;
    return n;
}

/* The commit is writing its large value: no lock is held, its parts are known, its record is not in the log. */
static int delete_then(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)offset;
    if (op != OP_WRITE || !is_kind(name, ".blob"))
        return 0;
    set_rule(r, NULL);
    delete_values();
    r->hits = 1;
    return 0;
}

static void check_part(void)
{
    struct lsm_value v = {0};
    int err = lsm_get(db, "v/part", 6, NULL, 0, &v);
    CHECK(err == 0, "what a commit has named while it was in progress: %s", strerror(-err));
    assert_int_equal(v.len, 9 * KIB);
    for (size_t i = 0; i < v.len; i++)
        assert_int_equal(((const uint8_t *)v.data)[i], 1);
    lsm_value_release(&v);
}

static void test_between(void **unused)
{
    (void)unused;
    static uint8_t large[20 * KIB];
    struct rules rules;
    struct lsm_batch *b;
    rules_init(&rules);
    db = open_store(&rules.base, LSM_CREATE | LSM_INLINE);
    put_values();
    struct lsm_ref ref = ref_of("v00");
    assert_int_equal(lsm_batch_new(&b), 0);
    lsm_batch_put_part(b, "v/part", 6, &ref, 100, 9 * KIB);
    lsm_batch_put(b, "v/large", 7, large, sizeof large);
    const uint64_t before = files_forgotten();
    set_rule(&rules, delete_then);
    assert_int_equal(lsm_commit(db, b, 0), 0);
    assert_int_equal(rules.hits, 1);
    const uint64_t between = files_forgotten();
    assert_true(between > before); /* those that nobody holds */
    check_part();
    work();
    check_part();
    for (unsigned round = 0; round < 2; round++) { /* after replay; from a table */
        close_store();
        db = open_store(&rules.base, LSM_INLINE);
        check_part();
        assert_int_equal(lsm_compact(db), 0);
        work();
        check_part();
    }

    /* The hold ended with the commit: now that file goes as well, and is no more to be named. */
    assert_int_equal(lsm_delete(db, "v/part", 6, 0), 0);
    assert_int_equal(lsm_compact(db), 0);
    work();
    assert_int_equal(lsm_commit(db, b, 0), -ESTALE);

    /* So it does when a commit is turned away. */
    put_values();
    struct lsm_ref good = ref_of("v00");
    const uint64_t late = files_forgotten();
    lsm_batch_clear(b);
    lsm_batch_put_part(b, "v/part", 6, &good, 0, 10);
    lsm_batch_put_part(b, "v/part", 6, &ref, 0, 10);
    assert_int_equal(lsm_commit(db, b, 0), -ESTALE);
    delete_values();
    assert_true(files_forgotten() > late);
    lsm_batch_clear(b);
    lsm_batch_put_part(b, "v/part", 6, &good, 0, 10);
    assert_int_equal(lsm_commit(db, b, 0), -ESTALE);
    lsm_batch_free(b);
    close_store();
    env_mem_free(rules.inner);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_between),
        cmocka_unit_test(test_many_threads),
    };
    const char *given = getenv("SHALE_SEED");
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
    seed |= 1;
    printf("seed 0x%llx\n", (unsigned long long)seed);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
