/*
 * main.c - bench_fs: one phase of small or large file work in one directory, by one or more processes, timed.
 *
 *   bench_fs --dir=DIRECTORY --phase=NAME [--files=N] [--bytes=N] [--clients=N] [--pin]
 *
 * Prints a line of JSON: phase, clients, ops, seconds, ops_per_second, mb_per_second. Phases build on one another:
 * what "stat" looks at was made by "create" with the same numbers. Each client has a directory of its own, with at
 * most DIRECTORY_FILES files in each of its subdirectories. Any error ends it with status 1. tools/bench/fs calls it
 * for every place in turn.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 64u
#define DIRECTORY_FILES 10000u
#define LARGE_IO (1u << 20)
#define SMALL_IO 4096u

struct job {
    const char *dir;
    uint64_t files; /* of each client; of the random phases: operations */
    uint64_t bytes; /* of a file */
    unsigned client;
    uint64_t random, ops, moved; /* what was done */
    uint8_t *buffer;             /* LARGE_IO */
};

struct phase {
    const char *name;
    void (*run)(struct job *j);
    const char *what;
};

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list args;
    int error = errno;

    va_start(args, format);
    (void)fprintf(stderr, "bench_fs: ");
    (void)vfprintf(stderr, format, args);
    (void)fprintf(stderr, ": %s\n", strerror(error));
    va_end(args);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t draw(struct job *j)
{
    uint64_t x = j->random += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* ---- paths ---- */

static void directory_of(const struct job *j, uint64_t file, char path[4096])
{
    (void)snprintf(path, 4096, "%s/c%u/%04lu", j->dir, j->client, file / DIRECTORY_FILES);
}

static void path_of(const struct job *j, const char *prefix, uint64_t file, char path[4096])
{
    (void)snprintf(path, 4096, "%s/c%u/%04lu/%s%06lu", j->dir, j->client, file / DIRECTORY_FILES, prefix,
                   file);
}

static void large_path(const struct job *j, char path[4096])
{
    (void)snprintf(path, 4096, "%s/large%u", j->dir, j->client);
}

static int open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0644);

    if (fd < 0)
        fail("open %s", path);
    return fd;
}

/* With what no compression can make smaller, and no two files share. */
static void fill(struct job *j, uint64_t len)
{
    for (uint64_t at = 0; at < len; at += 8) {
        uint64_t v = draw(j);
        memcpy(j->buffer + at, &v, len - at < 8 ? len - at : 8);
    }
}

static void close_file(int fd, const char *path)
{
    if (close(fd))
        fail("close %s", path);
}

static void write_all(int fd, const uint8_t *data, uint64_t len, const char *path)
{
    if (write(fd, data, len) != (ssize_t)len)
        fail("write %s", path);
}

/* ---- phases of small files ---- */

static void make_directories(struct job *j)
{
    char path[4096];

    (void)snprintf(path, sizeof path, "%s/c%u", j->dir, j->client);
    if (mkdir(path, 0755) && errno != EEXIST)
        fail("mkdir %s", path);
    for (uint64_t i = 0; i < j->files; i += DIRECTORY_FILES) {
        directory_of(j, i, path);
        if (mkdir(path, 0755) && errno != EEXIST)
            fail("mkdir %s", path);
    }
}

static void write_files(struct job *j, int flags, bool sync)
{
    char path[4096];

    for (uint64_t i = 0; i < j->files; i++) {
        path_of(j, "f", i, path);
        int fd = open_file(path, flags);
        fill(j, j->bytes);
        write_all(fd, j->buffer, j->bytes, path);
        if (sync && fsync(fd))
            fail("fsync %s", path);
        close_file(fd, path);
        j->ops++;
        j->moved += j->bytes;
    }
}

static void run_create(struct job *j)
{
    make_directories(j);
    write_files(j, O_CREAT | O_EXCL | O_WRONLY, false);
}

static void run_create_fsync(struct job *j)
{
    make_directories(j);
    write_files(j, O_CREAT | O_EXCL | O_WRONLY, true);
}

static void run_overwrite(struct job *j) { write_files(j, O_TRUNC | O_WRONLY, false); }
static void run_append(struct job *j) { write_files(j, O_APPEND | O_WRONLY, false); }

static void run_stat(struct job *j)
{
    char path[4096];
    struct stat st;

    for (uint64_t i = 0; i < j->files; i++) {
        path_of(j, "f", draw(j) % j->files, path);
        if (stat(path, &st))
            fail("stat %s", path);
        j->ops++;
    }
}

static void run_stat_absent(struct job *j)
{
    char path[4096];
    struct stat st;

    for (uint64_t i = 0; i < j->files; i++) {
        path_of(j, "none", i, path);
        if (stat(path, &st) == 0) {
            errno = EEXIST;
            fail("stat %s", path);
        }
        j->ops++;
    }
}

static void run_read(struct job *j)
{
    char path[4096];

    for (uint64_t i = 0; i < j->files; i++) {
        path_of(j, "f", draw(j) % j->files, path);
        int fd = open_file(path, O_RDONLY);
        ssize_t n = read(fd, j->buffer, LARGE_IO);
        if (n < 0)
            fail("read %s", path);
        close_file(fd, path);
        j->ops++;
        j->moved += (uint64_t)n;
    }
}

static void run_readdir(struct job *j)
{
    char path[4096];
    struct stat st;

    for (uint64_t i = 0; i < j->files; i += DIRECTORY_FILES) {
        directory_of(j, i, path);
        DIR *d = opendir(path);
        if (!d)
            fail("opendir %s", path);
        for (struct dirent *e; (e = readdir(d));) {
            if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
                fail("stat %s/%s", path, e->d_name);
            j->ops++;
        }
        (void)closedir(d);
    }
}

static void run_rename(struct job *j)
{
    char from[4096], to[4096];

    for (uint64_t i = 0; i < j->files; i++) {
        path_of(j, "f", i, from);
        path_of(j, "r", i, to);
        if (rename(from, to))
            fail("rename %s", from);
        j->ops++;
    }
}

static void run_unlink(struct job *j)
{
    char path[4096];

    for (uint64_t i = 0; i < j->files; i++) {
        path_of(j, "r", i, path);
        if (unlink(path))
            fail("unlink %s", path);
        j->ops++;
    }
}

/* ---- phases of one large file for each client ---- */

static void run_write_large(struct job *j)
{
    char path[4096];

    large_path(j, path);
    int fd = open_file(path, O_CREAT | O_TRUNC | O_WRONLY);
    for (uint64_t at = 0; at < j->bytes; at += LARGE_IO) {
        memcpy(j->buffer, &at, sizeof at);
        write_all(fd, j->buffer, LARGE_IO, path);
        j->moved += LARGE_IO;
    }
    if (fsync(fd)) /* written out: what stays in memory is no result */
        fail("fsync %s", path);
    close_file(fd, path);
    j->ops = j->moved / LARGE_IO;
}

static void run_read_large(struct job *j)
{
    char path[4096];
    ssize_t n;

    large_path(j, path);
    int fd = open_file(path, O_RDONLY);
    while ((n = read(fd, j->buffer, LARGE_IO)) > 0)
        j->moved += (uint64_t)n;
    if (n < 0)
        fail("read %s", path);
    close_file(fd, path);
    j->ops = j->moved / LARGE_IO;
}

static void random_io(struct job *j, bool writes, bool sync)
{
    char path[4096];

    large_path(j, path);
    int fd = open_file(path, writes ? O_WRONLY : O_RDONLY);
    for (uint64_t i = 0; i < j->files; i++) {
        off_t at = (off_t)(draw(j) % (j->bytes / SMALL_IO) * SMALL_IO);
        ssize_t n =
            writes ? pwrite(fd, j->buffer + i % 512, SMALL_IO, at) : pread(fd, j->buffer, SMALL_IO, at);
        if (n != (ssize_t)SMALL_IO)
            fail("%s %s", writes ? "write" : "read", path);
        if (sync && fdatasync(fd))
            fail("fdatasync %s", path);
        j->ops++;
        j->moved += SMALL_IO;
    }
    if (writes && !sync && fsync(fd))
        fail("fsync %s", path);
    close_file(fd, path);
}
static void run_random_read(struct job *j) { random_io(j, false, false); }
static void run_random_write(struct job *j) { random_io(j, true, false); }
static void run_random_write_fsync(struct job *j) { random_io(j, true, true); }

static const struct phase phases[] = {
    {"create", run_create, "--files of --bytes"},
    {"create-fsync", run_create_fsync, "the same, each synced"},
    {"stat", run_stat, "random ones of them"},
    {"stat-absent", run_stat_absent, "names that are not there"},
    {"read", run_read, "open, read, close random ones"},
    {"readdir-stat", run_readdir, "all, in the order of the directory"},
    {"overwrite", run_overwrite, "truncated and written again"},
    {"append", run_append, "--bytes to each"},
    {"rename", run_rename, "each, in its directory"},
    {"unlink", run_unlink, "each, after rename"},
    {"write-large", run_write_large, "one file of --bytes a client, 1 MiB at a time, synced at the end"},
    {"read-large", run_read_large, "the same"},
    {"random-read", run_random_read, "--files times 4 KiB of it"},
    {"random-write", run_random_write, "the same, synced at the end"},
    {"random-write-fsync", run_random_write_fsync, "the same, each synced"},
};
#define PHASES (sizeof phases / sizeof phases[0])

/* ---- running ---- */

struct shared {
    unsigned ready; /* clients that wait to begin */
    bool go;
    struct {
        uint64_t ops, moved, ended_ns;
    } client[CLIENTS_MAX];
};

static void client(const struct phase *p, struct job j, struct shared *s, bool pin)
{
    if (pin) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(j.client % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
        (void)sched_setaffinity(0, sizeof set, &set);
    }
    j.buffer = malloc(LARGE_IO);
    if (!j.buffer)
        fail("memory");
    j.random = j.client + 1;
    for (size_t i = 0; i < LARGE_IO; i += 8) {
        uint64_t v = draw(&j);
        memcpy(j.buffer + i, &v, 8);
    }
    __atomic_fetch_add(&s->ready, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&s->go, __ATOMIC_ACQUIRE))
        (void)usleep(100);
    p->run(&j);
    s->client[j.client].ops = j.ops;
    s->client[j.client].moved = j.moved;
    s->client[j.client].ended_ns = now_ns();
    exit(0);
}

static int run(const struct phase *p, const struct job *j, unsigned clients, bool pin)
{
    struct shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t ops = 0, moved = 0, ended = 0;
    int status, failed = 0;

    if (s == MAP_FAILED)
        fail("memory");
    for (unsigned i = 0; i < clients; i++) {
        pid_t pid = fork();
        if (pid < 0)
            fail("fork");
        if (pid == 0) {
            struct job mine = *j;
            mine.client = i;
            client(p, mine, s, pin);
        }
    }
    while (__atomic_load_n(&s->ready, __ATOMIC_ACQUIRE) < clients)
        (void)usleep(100);
    uint64_t began = now_ns();
    __atomic_store_n(&s->go, true, __ATOMIC_RELEASE);
    while (wait(&status) > 0)
        failed |= status != 0;
    for (unsigned i = 0; i < clients; i++) {
        ops += s->client[i].ops;
        moved += s->client[i].moved;
        ended = s->client[i].ended_ns > ended ? s->client[i].ended_ns : ended;
    }
    if (failed)
        return 1;
    double seconds = (double)(ended - began) / 1e9;
    printf("{\"phase\": \"%s\", \"clients\": %u, \"ops\": %lu, \"seconds\": %.6f, \"ops_per_second\": %.1f, "
           "\"mb_per_second\": %.2f}\n",
           p->name, clients, ops, seconds, (double)ops / seconds, (double)moved / seconds / 1e6);
    return 0;
}

static void usage(void)
{
    printf("usage: bench_fs --dir=DIRECTORY --phase=NAME [--files=N] [--bytes=N] [--clients=N] "
           "[--pin]\nPhases:\n");
    for (unsigned i = 0; i < PHASES; i++)
        printf("  %-20s %s\n", phases[i].name, phases[i].what);
}

static uint64_t number(const char *text)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);

    if (end == text || *end || *text == '-' || n == 0) {
        (void)fprintf(stderr, "bench_fs: '%s' is no number over 0\n", text);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    enum { DIR_ = 1, PHASE, FILES, BYTES, CLIENTS, PIN, HELP };
    static const struct option options[] = {
        {"dir", 1, NULL, DIR_},        {"phase", 1, NULL, PHASE},
        {"files", 1, NULL, FILES},     {"bytes", 1, NULL, BYTES},
        {"clients", 1, NULL, CLIENTS}, {"pin", 0, NULL, PIN},
        {"help", 0, NULL, HELP},       {0},
    };
    struct job j = {.files = 10000, .bytes = 1024};
    unsigned clients = 1, i = 0;
    const char *phase = NULL;
    bool pin = false;

    for (int o; (o = getopt_long(argc, argv, "h", options, NULL)) >= 0;) {
        switch (o) {
        case DIR_: j.dir = optarg; break;
        case PHASE: phase = optarg; break;
        case FILES: j.files = number(optarg); break;
        case BYTES: j.bytes = number(optarg); break;
        case CLIENTS: clients = (unsigned)number(optarg); break;
        case PIN: pin = true; break;
        case HELP:
        case 'h': usage(); return 0;
        default: usage(); return 2;
        }
    }
    while (phase && i < PHASES && strcmp(phases[i].name, phase) != 0)
        i++;
    if (!j.dir || !phase || i == PHASES || optind < argc || clients > CLIENTS_MAX) {
        usage();
        return 2;
    }
    bool large = strstr(phase, "large") || strstr(phase, "random");
    if ((large && j.bytes < LARGE_IO) || (!large && j.bytes > LARGE_IO / 2)) {
        (void)fprintf(stderr, "bench_fs: --bytes does not suit the phase\n");
        return 2;
    }
    return run(&phases[i], &j, clients, pin);
}
