/*
 * bench.h - what the driver of tools/bench/engine consists of: engines behind one small interface, and
 * workloads that know only that interface.
 *
 * A new engine is one more file engine_NAME.c and one more line in the table in main.c; a new workload is one
 * more function and one more line in the table in work.c.
 *
 * Threads: every call of an engine may come from several threads at once, each with iterators of its own.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEY_BYTES 24u

struct config {
    const char *dir;
    uint64_t keys;      /* of the store */
    size_t value_bytes; /* of each value */
    unsigned threads;
    double seconds;            /* workloads that wait for the disk end after so long */
    size_t write_buffer_bytes; /* all that is buffered before a flush begins */
    size_t cache_bytes;        /* blocks, index and filters together */
    unsigned filter_bits;      /* for each key */
    const char *compression;   /* none, lz4 or zstd */
    bool pin;                  /* thread i stays on CPU i */
};

/* What an engine is asked to do. Errors end the program: a benchmark has nothing to save. */
struct engine {
    const char *name;
    const char *(*version)(void);
    void *(*open)(const struct config *c);
    void (*close)(void *db);
    void (*put)(void *db, const void *key, const void *value, size_t value_len, bool sync);
    void (*remove)(void *db, const void *key);
    bool (*get)(void *db, const void *key, size_t *value_len); /* the value was looked at */
    void *(*iter_new)(void *db);
    void (*iter_seek)(void *it, const void *key); /* NULL: to the first */
    void (*iter_next)(void *it);
    bool (*iter_get)(void *it, size_t *bytes); /* false: at the end */
    void (*iter_free)(void *it);
    void (*flush)(void *db); /* what is buffered goes to tables; compaction may go on */
};

extern const struct engine engine_shale;
#ifdef HAVE_ROCKSDB
extern const struct engine engine_rocksdb;
#endif
#ifdef HAVE_LEVELDB
extern const struct engine engine_leveldb;
#endif
#ifdef HAVE_LMDB
extern const struct engine engine_lmdb;
#endif

/* Prints what failed and ends the program with status 1. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

/* Reads one byte a cache line, so that a value that was "read" is in the CPU; kept from being optimised away. */
static inline void touch(const void *data, size_t len)
{
    const volatile unsigned char *p = data;
    for (size_t i = 0; i < len; i += 64)
        (void)p[i];
}

/* ---- work.c ---- */

/* Runs the comma-separated workloads one after another on one store, and prints a line of JSON for each. */
void work_run(const struct engine *e, const struct config *c, const char *names);
void work_list(void);

#endif
