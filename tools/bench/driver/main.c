/*
 * main.c - bench_engine: runs workloads on one engine, in one process, and prints what came of them as lines of
 * JSON. tools/bench/engine calls it for every engine in turn and makes tables and plots of the lines.
 */
#include "bench.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct engine *const engines[] = {
    &engine_shale,
#ifdef HAVE_ROCKSDB
    &engine_rocksdb,
#endif
#ifdef HAVE_LEVELDB
    &engine_leveldb,
#endif
#ifdef HAVE_LMDB
    &engine_lmdb,
#endif
};
#define ENGINES (sizeof engines / sizeof engines[0])

void fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)fprintf(stderr, "bench_engine: ");
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void usage(void)
{
    printf("usage: bench_engine --engine=NAME --dir=DIRECTORY --work=NAME[,NAME]... [OPTION]...\n"
           "  --keys=N --value=BYTES --threads=N --seconds=N --write-buffer=BYTES --cache=BYTES\n"
           "  --filter-bits=N --compression=none|lz4|zstd --pin\n"
           "Engines:\n");
    for (unsigned i = 0; i < ENGINES; i++)
        printf("  %-12s %s\n", engines[i]->name, engines[i]->version());
    printf("Workloads, on one store in the order given:\n");
    work_list();
}

static uint64_t number(const char *text)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);

    if (end == text || *end || *text == '-')
        fail("'%s' is not a number", text);
    return n;
}

int main(int argc, char **argv)
{
    enum {
        ENGINE = 1,
        DIR_,
        WORK,
        KEYS,
        VALUE,
        THREADS,
        SECONDS,
        BUFFER,
        CACHE,
        FILTER,
        COMPRESSION,
        PIN,
        HELP
    };
    static const struct option options[] = {{"engine", 1, NULL, ENGINE},
                                            {"dir", 1, NULL, DIR_},
                                            {"work", 1, NULL, WORK},
                                            {"keys", 1, NULL, KEYS},
                                            {"value", 1, NULL, VALUE},
                                            {"threads", 1, NULL, THREADS},
                                            {"seconds", 1, NULL, SECONDS},
                                            {"write-buffer", 1, NULL, BUFFER},
                                            {"cache", 1, NULL, CACHE},
                                            {"filter-bits", 1, NULL, FILTER},
                                            {"compression", 1, NULL, COMPRESSION},
                                            {"pin", 0, NULL, PIN},
                                            {"help", 0, NULL, HELP},
                                            {0}};
    struct config c = {.keys = 100000,
                       .value_bytes = 400,
                       .threads = 1,
                       .seconds = 2,
                       .write_buffer_bytes = 8u << 20,
                       .cache_bytes = 64u << 20,
                       .filter_bits = 10,
                       .compression = "none"};
    const char *engine = "shale", *work = NULL;

    for (int o; (o = getopt_long(argc, argv, "h", options, NULL)) >= 0;) {
        switch (o) {
        case ENGINE: engine = optarg; break;
        case DIR_: c.dir = optarg; break;
        case WORK: work = optarg; break;
        case KEYS: c.keys = number(optarg); break;
        case VALUE: c.value_bytes = number(optarg); break;
        case THREADS: c.threads = (unsigned)number(optarg); break;
        case SECONDS: c.seconds = (double)number(optarg); break;
        case BUFFER: c.write_buffer_bytes = number(optarg); break;
        case CACHE: c.cache_bytes = number(optarg); break;
        case FILTER: c.filter_bits = (unsigned)number(optarg); break;
        case COMPRESSION: c.compression = optarg; break;
        case PIN: c.pin = true; break;
        case HELP:
        case 'h': usage(); return 0;
        default: usage(); return 2;
        }
    }
    if (!c.dir || !work || optind < argc || c.keys == 0) {
        usage();
        return 2;
    }
    for (unsigned i = 0; i < ENGINES; i++) {
        if (strcmp(engines[i]->name, engine) == 0) {
            work_run(engines[i], &c, work);
            return 0;
        }
    }
    fail("no engine is called '%s' (was it installed when this program was built?)", engine);
}
