/*
 * work.c - the workloads. Each works on the store that the ones before it left, and prints one line of JSON:
 *
 *   work, engine, threads, ops, seconds, ops_per_second, p50_us, p99_us, p999_us, max_us,
 *   user_bytes     keys and values that were handed over or handed out
 *   written_bytes  what the process dirtied in files meanwhile (/proc/self/io), background work included once it
 *                  has come to rest, which is not in `seconds`
 *   kept_bytes     blocks of all files of the store afterwards
 *   reserve_bytes  of these: set aside for a full disk, a file of ours that holds nothing
 *   live_bytes     keys and values that the store then holds
 */
#include "bench.h"
#include "histogram.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 64u
#define POOL_BYTES (4u << 20)
#define VALUE_MAX (1u << 20)
#define SCAN_KEYS 10u
#define STORES_TIMES 4u /* an overwrite writes the store so many times more, after the once that fills it */
#define QUIET_MS 700u   /* background work that wrote nothing for so long has come to an end */
#define REST_MS \
    3000u /* ... and what is done for a store at rest only, if it is to be measured what it keeps */
#define QUIET_MAX_S 120u
#define READERS_WRITES_PER_S 20000u

struct bench {
    const struct engine *engine;
    const struct config *c;
    void *db;
    uint64_t filled; /* keys 0 .. filled - 1 are there */
    uint64_t open_ns;
};

struct worker {
    struct bench *b;
    const struct work *work;
    unsigned index;
    pthread_t thread;
    uint64_t random, ops, bytes;
    struct histogram latency;
    const bool *stop;
};

struct work {
    const char *name;
    void (*run)(struct worker *w);
    bool fills; /* all keys are there afterwards */
    bool writes;
    unsigned threads; /* 0: as the command line says */
    const char *what;
};

static uint8_t *pool;

/* ---- small things ---- */

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The finaliser of splitmix64: a permutation of 64-bit numbers. */
static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t draw(struct worker *w) { return mix(w->random++); }

/* 24 bytes: 8 that all keys share, and 16 hexadecimal digits. */
static void key_make(char *key, uint64_t number)
{
    static const char digits[] = "0123456789abcdef";

    memcpy(key, "shelf/b/", 8);
    for (unsigned i = 0; i < 16; i++)
        key[8 + i] = digits[number >> (60 - 4 * i) & 15];
}

/* Values compress to about half, as those of db_bench do. */
static void pool_make(void)
{
    pool = malloc(POOL_BYTES + VALUE_MAX);
    if (!pool)
        fail("out of memory");
    for (size_t i = 0; i < POOL_BYTES + VALUE_MAX; i += 8) {
        uint64_t v = mix(i / 128 * 64 + i % 64);
        memcpy(pool + i, &v, 8);
    }
}

static const void *value_of(uint64_t n) { return pool + n * 64 % POOL_BYTES; }

static uint64_t written_bytes(void)
{
    FILE *f = fopen("/proc/self/io", "r");
    char line[128];
    uint64_t bytes = 0;

    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        (void)sscanf(line, "write_bytes: %lu", &bytes);
    (void)fclose(f);
    return bytes;
}

/* Calls fn for each file of the store. */
static void each_file(const char *dir, void (*fn)(int dirfd, const char *name, uint64_t *sum), uint64_t *sum)
{
    DIR *d = opendir(dir);

    if (!d)
        fail("%s: %m", dir);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            fn(dirfd(d), e->d_name, sum);
    (void)closedir(d);
}

static void add_blocks(int dirfd, const char *name, uint64_t *sum)
{
    struct stat st;

    if (!fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW))
        *sum += (uint64_t)st.st_blocks * 512;
}

static void add_reserve(int dirfd, const char *name, uint64_t *sum)
{
    if (!strcmp(name, "RESERVE"))
        add_blocks(dirfd, name, sum);
}

static void drop_pages(int dirfd, const char *name, uint64_t *sum)
{
    int fd = openat(dirfd, name, O_RDONLY);

    (void)sum;
    if (fd < 0)
        return;
    (void)fdatasync(fd);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    (void)close(fd);
}

static void rest(unsigned quiet_ms)
{
    uint64_t began = now_ns(), last = written_bytes(), quiet = began;

    while (now_ns() - quiet < quiet_ms * 1000000ull && now_ns() - began < QUIET_MAX_S * 1000000000ull) {
        (void)usleep(50000);
        uint64_t n = written_bytes();
        if (n != last)
            quiet = now_ns();
        last = n;
    }
}

/* ---- what threads do; each counts ops and bytes ---- */

static uint64_t share_from(const struct worker *w, uint64_t total)
{
    return total * w->index / w->b->c->threads;
}

static void timed(struct worker *w, uint64_t *last)
{
    uint64_t now = now_ns();

    histogram_add(&w->latency, now - *last);
    *last = now;
}

static void put_one(struct worker *w, uint64_t number, bool sync)
{
    char key[KEY_BYTES];

    key_make(key, number);
    w->b->engine->put(w->b->db, key, value_of(number + w->random), w->b->c->value_bytes, sync);
    w->ops++;
    w->bytes += KEY_BYTES + w->b->c->value_bytes;
}

static void fill(struct worker *w, bool random)
{
    uint64_t keys = w->b->c->keys, end = keys * (w->index + 1) / w->b->c->threads, last = now_ns();

    for (uint64_t i = share_from(w, keys); i < end; i++) {
        put_one(w, random ? mix(i) : i, false);
        timed(w, &last);
    }
}
static void run_fillseq(struct worker *w) { fill(w, false); }
static void run_fillrandom(struct worker *w) { fill(w, true); }

static void run_overwrite(struct worker *w)
{
    uint64_t ops = w->b->c->keys * STORES_TIMES / w->b->c->threads, last = now_ns();

    for (uint64_t i = 0; i < ops; i++) {
        put_one(w, mix(draw(w) % w->b->c->keys), false);
        timed(w, &last);
    }
}

static void run_fillsync(struct worker *w)
{
    uint64_t began = now_ns(), last = began;

    for (uint64_t i = 0; last - began < (uint64_t)(w->b->c->seconds * 1e9); i++) {
        put_one(w, mix(((uint64_t)w->index << 40) + i), true);
        timed(w, &last);
    }
}

static void read_some(struct worker *w, uint64_t base, bool present)
{
    char key[KEY_BYTES];
    uint64_t began = now_ns(), last = began;

    while (last - began < (uint64_t)(w->b->c->seconds * 1e9)) {
        size_t len = 0;
        key_make(key, mix(base + draw(w) % w->b->c->keys));
        if (w->b->engine->get(w->b->db, key, &len) != present)
            fail("%s: a key that is %s", w->b->engine->name, present ? "missing" : "too much");
        w->ops++;
        w->bytes += KEY_BYTES + len;
        timed(w, &last);
    }
}
static void run_read(struct worker *w) { read_some(w, 0, true); }
static void run_absent(struct worker *w) { read_some(w, UINT64_C(1) << 50, false); }

/* Thread 0 reads and is measured; another one writes at a fixed rate, the same for every engine. */
static void run_readwrite(struct worker *w)
{
    if (w->index == 0) {
        read_some(w, 0, true);
        return;
    }
    uint64_t began = now_ns();
    for (uint64_t n = 0; !__atomic_load_n(w->stop, __ATOMIC_RELAXED); n++) {
        uint64_t due = began + n * 1000000000u / READERS_WRITES_PER_S;
        put_one(w, mix(draw(w) % w->b->c->keys), false);
        if (due > now_ns() + 1000000)
            (void)usleep((useconds_t)((due - now_ns()) / 1000));
    }
}

static void run_seek(struct worker *w)
{
    char key[KEY_BYTES];
    const struct engine *e = w->b->engine;
    uint64_t began = now_ns(), last = began;
    void *it = e->iter_new(w->b->db);

    while (last - began < (uint64_t)(w->b->c->seconds * 1e9)) {
        size_t len;
        key_make(key, mix(draw(w) % w->b->c->keys));
        e->iter_seek(it, key);
        for (unsigned n = 0; n <= SCAN_KEYS && e->iter_get(it, &len); n++) {
            w->bytes += len;
            e->iter_next(it);
        }
        w->ops++;
        timed(w, &last);
    }
    e->iter_free(it);
}

static void run_scan(struct worker *w)
{
    const struct engine *e = w->b->engine;
    void *it = e->iter_new(w->b->db);
    size_t len;

    e->iter_seek(it, NULL);
    for (; e->iter_get(it, &len); e->iter_next(it)) {
        w->ops++;
        w->bytes += len;
    }
    e->iter_free(it);
}

static void run_delete(struct worker *w)
{
    char key[KEY_BYTES];
    uint64_t keys = w->b->c->keys, end = keys * (w->index + 1) / w->b->c->threads, last = now_ns();

    for (uint64_t i = share_from(w, keys); i < end; i++) {
        key_make(key, mix(i));
        w->b->engine->remove(w->b->db, key);
        w->ops++;
        w->bytes += KEY_BYTES;
        timed(w, &last);
    }
}

/* ---- what is no loop ---- */

/* Fills, and vanishes with what is in its log and memory. */
static void run_fillkill(struct worker *w)
{
    fill(w, true);
    (void)kill(getpid(), SIGKILL);
}

/* How long it took to open the store when this process began. */
static void run_open(struct worker *w)
{
    histogram_add(&w->latency, w->b->open_ns);
    w->ops = 1;
}

/* Everything in tables and at rest, nothing in memory. */
static void run_cold(struct worker *w)
{
    w->b->engine->flush(w->b->db);
    rest(QUIET_MS);
    w->b->engine->close(w->b->db);
    each_file(w->b->c->dir, drop_pages, NULL);
    w->b->db = w->b->engine->open(w->b->c);
}

static void run_settle(struct worker *w)
{
    w->b->engine->flush(w->b->db);
    rest(QUIET_MS);
}

static const struct work works[] = {
    {"fillseq", run_fillseq, true, true, 0, "every key once, ascending, not synced"},
    {"fillrandom", run_fillrandom, true, true, 0, "every key once, in random order, not synced"},
    {"overwrite", run_overwrite, true, true, 0, "random keys, four times as many as there are"},
    {"fillsync", run_fillsync, false, true, 0, "new keys, each synced"},
    {"read", run_read, false, false, 0, "random keys that are there"},
    {"absent", run_absent, false, false, 0, "random keys that are not there"},
    {"readwrite", run_readwrite, false, true, 2, "one thread reads, another writes 20 000 a second"},
    {"seek", run_seek, false, false, 0, "seek to a random key, and 10 steps"},
    {"scan", run_scan, false, false, 1, "all keys in order"},
    {"delete", run_delete, false, true, 0, "every key"},
    {"fillkill", run_fillkill, true, false, 1, "as fillrandom, then dies by SIGKILL; prints nothing"},
    {"open", run_open, true, false, 1, "how long opening took when this process began"},
    {"settle", run_settle, false, false, 1, "flush, and wait for the background to come to rest"},
    {"cold", run_cold, false, false, 1, "close, drop the system's pages, open"},
};
#define WORKS (sizeof works / sizeof works[0])

void work_list(void)
{
    for (unsigned i = 0; i < WORKS; i++)
        printf("  %-12s %s\n", works[i].name, works[i].what);
}

/* ---- running ---- */

static void *thread_main(void *arg)
{
    struct worker *w = arg;

    if (w->b->c->pin) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(w->index % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
        (void)sched_setaffinity(0, sizeof set, &set);
    }
    w->work->run(w);
    return NULL;
}

static void print_result(const struct bench *b, const struct work *k, const struct worker *all,
                         double seconds, unsigned threads, uint64_t written)
{
    static struct histogram h;
    uint64_t ops = 0, bytes = 0, kept = 0, reserve = 0;
    /* With "readwrite" only the reader counts. */
    unsigned counted = k->run == run_readwrite ? 1 : threads;

    memset(&h, 0, sizeof h);
    for (unsigned i = 0; i < counted; i++) {
        ops += all[i].ops;
        bytes += all[i].bytes;
        histogram_merge(&h, &all[i].latency);
    }
    each_file(b->c->dir, add_blocks, &kept);
    each_file(b->c->dir, add_reserve, &reserve);
    printf("{\"engine\": \"%s\", \"work\": \"%s\", \"threads\": %u, \"value\": %zu, \"ops\": %lu, "
           "\"seconds\": %.6f, \"ops_per_second\": %.1f, \"p50_us\": %.2f, \"p99_us\": %.2f, "
           "\"p999_us\": %.2f, \"max_us\": %.2f, \"user_bytes\": %lu, \"written_bytes\": %lu, "
           "\"kept_bytes\": %lu, \"reserve_bytes\": %lu, \"live_bytes\": %lu}\n",
           b->engine->name, k->name, threads, b->c->value_bytes, ops, seconds, (double)ops / seconds,
           histogram_at(&h, 0.5) / 1e3, histogram_at(&h, 0.99) / 1e3, histogram_at(&h, 0.999) / 1e3,
           (double)h.max_ns / 1e3, bytes, written, kept, reserve,
           b->filled * (KEY_BYTES + b->c->value_bytes));
    (void)fflush(stdout);
}

static void run_one(struct bench *b, const struct work *k)
{
    unsigned threads = k->threads ? k->threads : b->c->threads;
    struct worker *all = calloc(threads, sizeof *all);
    bool stop = false;

    if (!all)
        fail("out of memory");
    uint64_t before = written_bytes(), began = now_ns();
    for (unsigned i = 0; i < threads; i++) {
        all[i] = (struct worker){.b = b, .work = k, .index = i, .stop = &stop};
        all[i].random = mix((uint64_t)i << 32 | (uint64_t)(k - works));
        if (k->threads == 1 && k->run != run_scan)
            thread_main(&all[i]);
        else if (pthread_create(&all[i].thread, NULL, thread_main, &all[i]))
            fail("no thread");
    }
    for (unsigned i = 0; i < threads; i++) {
        if (all[i].thread)
            (void)pthread_join(all[i].thread, NULL);
        if (k->run == run_readwrite)
            __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    }
    double seconds = (double)(now_ns() - began) / 1e9;
    if (k->run == run_open)
        seconds = (double)b->open_ns / 1e9;
    if (k->fills)
        b->filled = b->c->keys;
    if (k->run == run_delete)
        b->filled = 0;
    if (k->writes)
        rest(k->fills ? REST_MS : QUIET_MS);
    print_result(b, k, all, seconds, threads, written_bytes() - before);
    free(all);
}

void work_run(const struct engine *e, const struct config *c, const char *names)
{
    struct bench b = {.engine = e, .c = c};
    char *list = strdup(names), *save = NULL;

    if (!list || c->threads > THREADS_MAX || c->threads == 0 || c->value_bytes > VALUE_MAX)
        fail("no memory, or too many threads, or values over %u bytes", VALUE_MAX);
    pool_make();
    uint64_t began = now_ns();
    b.db = e->open(c);
    b.open_ns = now_ns() - began;
    for (char *name = strtok_r(list, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
        unsigned i = 0;
        while (i < WORKS && strcmp(works[i].name, name))
            i++;
        if (i == WORKS)
            fail("no workload is called '%s'", name);
        run_one(&b, &works[i]);
    }
    e->close(b.db);
    free(list);
    free(pool);
}
