/*
 * load_lsm.c - the engine without the filesystem: numbered batches from several threads, and what a crash leaves of them.
 *
 *   load_lsm run STORE CONTROL SEED STEPS STREAMS SHADOW write|map|calm
 *   load_lsm check STORE SEED STREAMS [mapped]            run by replay
 *
 * Each stream is a thread. Its batch N puts N under the stream's counter and changes some of its KEYS keys, on all
 * shards; so the counter says what the keys must hold. Now and then a batch is synced. A load that was killed goes on
 * when it is run again. Without a shadow the first stream now and then keeps a named snapshot and a checkpoint, which must
 * be of its moment. SHADOW is an empty directory, or - for none. It is the same as STORE at the end if all that was
 * written went through the env (env_tap.h); the line that is printed says how many syncs went through it. `mapped`: log
 * records were stored through a mapping, so a killed process has left some in memory only, which the recorder has not
 * seen. `calm`: nothing but the log, for long; no other file makes the names of its segments durable along with its own.
 */
#include "env_tap.h"
#include "facts.h"
#include <shale/lsm.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEYS 60u
#define CHANGES_MAX 6u
#define SMALL_MAX 2000u
#define LARGE_MAX 100000u
#define SEGMENT_BYTES (1u << 20)
#define CALM_BUFFER_BYTES (8u << 20)
#define CALM_BLOBS_BYTES (1u << 30)

static uint64_t seed;

struct change {
    unsigned key; /* 1 .. KEYS */
    bool deletes;
    size_t len;
};

static unsigned changes_of(unsigned stream, uint64_t step)
{
    return 1 + (unsigned)(mix(seed + stream, step, 1) % CHANGES_MAX);
}

static struct change change_of(unsigned stream, uint64_t step, unsigned n)
{
    uint64_t h = mix(seed + stream, step, 10 + n);

    return (struct change){.key = 1 + (unsigned)(h % KEYS),
                           .deletes = (h >> 32) % 6 == 0,
                           .len = (size_t)((h >> 16) % ((h >> 40) % 30 ? SMALL_MAX : LARGE_MAX))};
}

static bool is_sync(unsigned stream, uint64_t step) { return mix(seed + stream, step, 2) % 7 == 0; }

/* Of such moments the first stream keeps a named snapshot and a checkpoint, if there is no shadow. */
static bool is_kept(uint64_t step) { return step % 60 == 30; }

static const char *kept_name(const char *store, uint64_t n, char out[4200])
{
    snprintf(out, 4200, "%s%sat-%" PRIu64, store, *store ? "-" : "", n);
    return out;
}

static size_t key_of(unsigned stream, unsigned key, char out[32])
{
    return (size_t)snprintf(out, 32, "%c:%04u", 'a' + (int)stream, key);
}

static void value_of(unsigned stream, uint64_t step, unsigned n, uint8_t *out, size_t len)
{
    uint64_t word = mix(seed + stream, step, 100 + n);

    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)(word >> (i % 8 * 8)) ^ (uint8_t)(i / 8);
}

static void on_log(void *arg, enum lsm_log_level level, const char *message)
{
    (void)arg;
    if (level <= LSM_LOG_WARNING)
        printf("  engine: %s\n", message);
}

static struct lsm_options options_of(struct env *env, unsigned flags, bool calm)
{
    return (struct lsm_options){.flags = flags,
                                .shards = 2,
                                .memory_bytes = 16u << 20,
                                .write_buffer_bytes = calm ? CALM_BUFFER_BYTES : 64u << 10,
                                .blob_file_bytes = calm ? CALM_BLOBS_BYTES : 0,
                                .table_bytes = 256u << 10,
                                .log_segment_bytes = SEGMENT_BYTES,
                                .commit_ms = 40,
                                .log = on_log,
                                .env = env};
}

/* ---- making ---- */

struct thread {
    pthread_t id;
    struct lsm *db;
    const char *store; /* NULL: nothing is kept */
    unsigned stream;
    uint64_t steps;
    int rc;
};

/* The last batch that is there, so that a load that was killed goes on. */
static int counter_of(struct lsm *db, const struct lsm_snapshot *snapshot, unsigned stream, uint64_t *n)
{
    struct lsm_value v = {0};
    char name[32];
    int rc = lsm_get(db, name, key_of(stream, 0, name), snapshot, 0, &v);

    *n = 0;
    if (rc == 0 && v.len == sizeof(*n))
        memcpy(n, v.data, sizeof(*n));
    lsm_value_release(&v);
    return rc == -ENOENT ? 0 : rc;
}

/* -EEXIST: made before this process was killed, or half of it. */
static int keep(struct thread *t, uint64_t n)
{
    char name[4200];
    int a = lsm_snapshot_save(t->db, kept_name("", n, name));
    int b = lsm_checkpoint(t->db, kept_name(t->store, n, name));

    if (!a && !b)
        fact_kept(n);
    return a && a != -EEXIST ? a : b && b != -EEXIST ? b : 0;
}

static void *thread_main(void *arg)
{
    struct thread *t = arg;
    struct lsm_batch *batch = NULL;
    uint8_t *value = malloc(LARGE_MAX);
    char key[32];

    t->rc = value ? lsm_batch_new(&batch) : -ENOMEM;
    uint64_t n = 0;
    if (!t->rc)
        t->rc = counter_of(t->db, NULL, t->stream, &n);
    while (++n <= t->steps && !t->rc) {
        bool sync = is_sync(t->stream, n);
        lsm_batch_clear(batch);
        lsm_batch_put(batch, key, key_of(t->stream, 0, key), &n, sizeof(n));
        for (unsigned k = 0; k < changes_of(t->stream, n); k++) {
            struct change c = change_of(t->stream, n, k);
            value_of(t->stream, n, k, value, c.len);
            if (c.deletes)
                lsm_batch_delete(batch, key, key_of(t->stream, c.key, key));
            else
                lsm_batch_put(batch, key, key_of(t->stream, c.key, key), value, c.len);
        }
        fact(t->stream, sync ? "sync" : "begin", n);
        t->rc = lsm_commit(t->db, batch, sync ? LSM_SYNC : 0);
        if (!t->rc)
            fact(t->stream, sync ? "synced" : "done", n);
        if (!t->rc && t->stream == 0 && t->store && is_kept(n))
            t->rc = keep(t, n);
    }
    lsm_batch_free(batch);
    free(value);
    return NULL;
}

static int run(char **argv)
{
    struct thread threads[STREAMS_MAX] = {{0}};
    bool tapped = strcmp(argv[5], "-") != 0, calm = strcmp(argv[6], "calm") == 0;
    unsigned streams = (unsigned)strtoul(argv[4], NULL, 10);
    struct lsm_options o =
        options_of(tapped ? env_tap(argv[5], strcmp(argv[6], "map") == 0) : NULL, LSM_CREATE, calm);
    struct lsm *db;

    fact_open(argv[1]);
    int rc = lsm_open(argv[0], &o, &db);
    if (rc) {
        fprintf(stderr, "%s: %s\n", argv[0], strerror(-rc));
        return EXIT_USAGE;
    }
    for (unsigned k = 0; k < streams && k < STREAMS_MAX; k++) {
        threads[k] = (struct thread){.db = db,
                                     .store = tapped || calm ? NULL : argv[0],
                                     .stream = k,
                                     .steps = strtoull(argv[3], NULL, 10)};
        if (pthread_create(&threads[k].id, NULL, thread_main, &threads[k]))
            abort();
    }
    for (unsigned k = 0; k < streams && k < STREAMS_MAX; k++) {
        pthread_join(threads[k].id, NULL);
        rc = rc ? rc : threads[k].rc;
    }
    int closed = lsm_close(db);
    rc = rc ? rc : closed;
    if (rc)
        fprintf(stderr, "%s: %s\n", argv[0], strerror(-rc));
    printf("%" PRIu64 " syncs\n", env_tap_syncs());
    return rc ? EXIT_USAGE : 0;
}

/* ---- checking ---- */

static void on_problem(void *arg, const struct lsm_problem *p)
{
    (void)arg;
    if (p->damage)
        printf("  %s at %" PRIu64 ": %s\n", p->file, p->offset, p->what);
}

static int verify(const char *store)
{
    struct lsm_options o = options_of(NULL, 0, false);
    struct lsm_verified v;
    int rc = lsm_verify(store, &o, on_problem, NULL, &v);

    if (!rc && !v.damaged)
        return EXIT_GOOD;
    printf("verify: %s\n", rc ? strerror(-rc) : "damaged");
    return EXIT_BROKEN;
}

/* The step and change that key's value at moment `n` comes from; step 0: it has none. */
static void origin(unsigned stream, unsigned key, uint64_t n, uint64_t *step, unsigned *change)
{
    for (*step = n; *step > 0; --*step) {
        for (unsigned k = changes_of(stream, *step); k-- > 0;) {
            struct change c = change_of(stream, *step, k);
            if (c.key != key)
                continue;
            *change = k;
            if (c.deletes)
                *step = 0;
            return;
        }
    }
}

static bool key_is_right(struct lsm *db, const struct lsm_snapshot *snapshot, unsigned stream, unsigned key,
                         uint64_t n)
{
    static uint8_t expected[LARGE_MAX];
    struct lsm_value v = {0};
    uint64_t step;
    unsigned change = 0;
    char name[32];

    origin(stream, key, n, &step, &change);
    int rc = lsm_get(db, name, key_of(stream, key, name), snapshot, 0, &v);
    bool right = step ? rc == 0 : rc == -ENOENT;
    if (right && step) {
        size_t len = change_of(stream, step, change).len;
        value_of(stream, step, change, expected, len);
        right = v.len == len && memcmp(v.data, expected, len) == 0;
    }
    lsm_value_release(&v);
    if (!right)
        printf("stream %c: counter %" PRIu64 ", but key %u is not of that moment (%s)\n", 'a' + (int)stream,
               n, key, rc ? strerror(-rc) : "value");
    return right;
}

static bool keys_are_right(struct lsm *db, const struct lsm_snapshot *snapshot, unsigned stream, uint64_t n)
{
    for (unsigned key = 1; key <= KEYS; key++)
        if (!key_is_right(db, snapshot, stream, key, n))
            return false;
    return true;
}

/* What the first stream has kept of its moment n is there, and of that moment. */
static int compare_kept(struct lsm *db, const struct lsm_snapshot *snapshot, uint64_t n, const char *what)
{
    uint64_t found = 0;
    int rc = counter_of(db, snapshot, 0, &found);

    if (!rc && found == n && keys_are_right(db, snapshot, 0, n))
        return EXIT_GOOD;
    printf("%s of moment %" PRIu64 ": found %" PRIu64 " (%s)\n", what, n, found, strerror(-rc));
    return EXIT_BROKEN;
}

static int check_snapshot(struct lsm *db, uint64_t n, bool promised)
{
    struct lsm_snapshot *snapshot;
    char name[4200];
    int rc = lsm_snapshot_open(db, kept_name("", n, name), &snapshot);

    if (rc == -ENOENT && !promised)
        return EXIT_GOOD;
    if (rc) {
        printf("snapshot of moment %" PRIu64 ": %s\n", n, strerror(-rc));
        return rc == -ENOENT ? EXIT_LOST : EXIT_BROKEN;
    }
    int verdict = compare_kept(db, snapshot, n, "snapshot");
    lsm_snapshot_free(db, snapshot);
    return verdict;
}

/* One that was not finished has no MANIFEST, and is no store. */
static int check_checkpoint(const char *store, uint64_t n, bool promised)
{
    struct lsm_options o = options_of(NULL, LSM_INLINE, false);
    char path[4200], manifest[4300];
    struct lsm *db;

    snprintf(manifest, sizeof(manifest), "%s/MANIFEST", kept_name(store, n, path));
    if (!promised && access(manifest, F_OK))
        return EXIT_GOOD;
    int rc = lsm_open(path, &o, &db);
    if (rc) {
        printf("checkpoint of moment %" PRIu64 ": %s\n", n, strerror(-rc));
        return EXIT_BROKEN;
    }
    int verdict = compare_kept(db, NULL, n, "checkpoint");
    rc = lsm_close(db);
    return rc ? EXIT_BROKEN : verdict;
}

static int check_kept(struct lsm *db, const char *store, const struct facts *f)
{
    int verdict = EXIT_GOOD;

    for (uint64_t n = 1; n <= f->stream[0].begun; n++) {
        if (!is_kept(n))
            continue;
        int a = check_snapshot(db, n, facts_kept(f, n)), b = check_checkpoint(store, n, facts_kept(f, n));
        verdict = a > verdict ? a : verdict;
        verdict = b > verdict ? b : verdict;
    }
    return verdict;
}

static int compare(struct lsm *db, const struct facts *f, unsigned stream, bool mapped)
{
    uint64_t n = 0, promised = mapped ? f->stream[stream].synced : facts_promised(f, stream);
    int rc = counter_of(db, NULL, stream, &n);

    if (rc || n > f->stream[stream].begun) {
        printf("stream %c: counter %" PRIu64 ", begun %" PRIu64 " (%s)\n", 'a' + (int)stream, n,
               f->stream[stream].begun, strerror(-rc));
        return EXIT_BROKEN;
    }
    if (!keys_are_right(db, NULL, stream, n))
        return EXIT_BROKEN;
    if (n >= promised)
        return EXIT_GOOD;
    printf("stream %c: %" PRIu64 " batches are there, %" PRIu64 " were promised\n", 'a' + (int)stream, n,
           promised);
    return f->killed && !mapped ? EXIT_BROKEN : EXIT_LOST;
}

static int check(const char *store, unsigned streams, bool mapped)
{
    struct facts f = facts_read();
    bool ready = false;
    int verdict = EXIT_GOOD;
    struct lsm *db;

    for (unsigned k = 0; k < streams; k++)
        ready |= f.stream[k].begun > 0;
    if (ready && (verdict = verify(store)) != EXIT_GOOD)
        return verdict;
    struct lsm_options o = options_of(NULL, LSM_INLINE | (ready ? 0u : (unsigned)LSM_CREATE), false);
    int rc = lsm_open(store, &o, &db);
    if (rc) {
        printf("opening: %s\n", strerror(-rc));
        return EXIT_BROKEN;
    }
    for (unsigned k = 0; k < streams; k++) {
        int v = compare(db, &f, k, mapped);
        verdict = v > verdict ? v : verdict;
    }
    int kept = check_kept(db, store, &f);
    verdict = kept > verdict ? kept : verdict;
    rc = lsm_close(db);
    if (rc) {
        printf("closing: %s\n", strerror(-rc));
        return EXIT_BROKEN;
    }
    return verdict == EXIT_GOOD ? verify(store) : verdict;
}

int main(int argc, char **argv)
{
    if (argc == 9 && strcmp(argv[1], "run") == 0) {
        seed = strtoull(argv[4], NULL, 10);
        return run(argv + 2); /* STORE CONTROL SEED STEPS STREAMS SHADOW way */
    }
    if ((argc == 5 || argc == 6) && strcmp(argv[1], "check") == 0) {
        seed = strtoull(argv[3], NULL, 10);
        return check(argv[2], (unsigned)strtoul(argv[4], NULL, 10), argc == 6);
    }
    fprintf(stderr, "usage: load_lsm run STORE CONTROL SEED STEPS STREAMS SHADOW write|map|calm | "
                    "check STORE SEED STREAMS [mapped]\n");
    return EXIT_USAGE;
}
