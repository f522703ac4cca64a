/*
 * load_tree.c - a history of a tree of files, made for real; and of which of its moments is what a crash has left?
 *
 *   load_tree make STORE                                   a store of ShaleFS with small log segments
 *   load_tree run DIRECTORY CONTROL STREAM SEED STEPS      one stream (a to d) makes its history in DIRECTORY/STREAM, or
 *                                                          goes on with it
 *   load_tree store STORE SEED STREAMS                     checks a store of ShaleFS; run by replay
 *   load_tree directory DIRECTORY SEED STREAMS             checks a directory, plain or a mount
 *
 * A stream's tree must be one moment of its history: not older than what was promised, not younger than what was begun.
 * What a sync of any stream promises is what the store does: everything before it, in all streams.
 * The store is checked as `shale check` does, opened for writing, compared, closed and checked again.
 */
#include "facts.h"
#include "store_tree.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEGMENT_BYTES (1u << 20)
#define SHARDS 2u
#define DIFFERENCES_MAX 12

static uint64_t seed_of(uint64_t seed, unsigned stream) { return mix(seed, stream, 77); }

/* ---- making ---- */

/* A store with small segments, so that its log goes round. */
static int make(const char *store)
{
    struct fs_options o = store_options(LSM_CREATE | LSM_INLINE);
    struct fs *fs;

    o.lsm.log_segment_bytes = SEGMENT_BYTES;
    o.lsm.shards = SHARDS;
    int rc = fs_open(store, &o, &fs);
    if (!rc)
        rc = fs_close(fs);
    if (rc)
        fprintf(stderr, "%s: %s\n", store, strerror(-rc));
    return rc ? EXIT_USAGE : 0;
}

/*
 * Where a load that was interrupted goes on: after the last moment that the directory can be of. A step of which
 * only half is there is made again. -1: it is of none.
 */
static int64_t position_in(const char *directory, const char *name, uint64_t seed, uint64_t steps)
{
    static struct step s;
    char path[4096];
    struct tree t;
    int64_t last = -1;
    struct history *h = history_new(seed);

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int rc = tree_of_directory(path, &t);
    for (uint64_t n = 0; n <= steps && !rc; n++) {
        if (n)
            history_step(h, &s);
        if (history_half(h) && history_half(h) == t.digest)
            last = (int64_t)n - 1;
        if (history_digest(h) == t.digest)
            last = (int64_t)n;
    }
    tree_free(&t);
    history_free(h);
    if (rc)
        fprintf(stderr, "%s: %s\n", path, strerror(-rc));
    return last;
}

static int run(const char *directory, const char *control, unsigned stream, uint64_t seed, uint64_t steps)
{
    static struct step s;
    char name[2] = {(char)('a' + stream), 0};
    struct history *h = history_new(seed_of(seed, stream));
    int top = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), dir;

    if (top < 0 || (mkdirat(top, name, 0755) && errno != EEXIST) ||
        (dir = openat(top, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
        perror(directory);
        return EXIT_USAGE;
    }
    int64_t begin = position_in(directory, name, seed_of(seed, stream), steps);
    if (begin < 0) {
        fprintf(stderr, "%s/%s is no moment of its history\n", directory, name);
        return EXIT_BROKEN;
    }
    fact_open(control);
    for (uint64_t n = 1; n <= steps; n++) {
        history_step(h, &s);
        if ((int64_t)n <= begin)
            continue;
        bool sync = s.type == STEP_FSYNC || s.type == STEP_FSYNC_DIRECTORY;
        fact(stream, sync ? "sync" : "begin", n);
        int rc = step_make(dir, &s);
        if (rc) {
            fprintf(stderr, "step %" PRIu64 ", type %d, %s %s: %s\n", n, s.type, s.path, s.to, strerror(-rc));
            return EXIT_USAGE;
        }
        fact(stream, sync ? "synced" : "done", n);
    }
    history_free(h);
    close(dir);
    close(top);
    return 0;
}

/* ---- of which moment is it? ---- */

/* Says how a tree differs from the moment that it is nearest to. */
static void explain(const struct tree *t, uint64_t seed, uint64_t begun)
{
    static struct step s;
    struct history *h = history_new(seed);
    uint64_t best = 0;
    size_t best_same = 0;
    struct tree moment;

    for (uint64_t n = 0; n <= begun; n++) {
        size_t same = 0;
        if (n)
            history_step(h, &s);
        history_tree(h, &moment);
        for (size_t i = 0; i < moment.count; i++)
            same += tree_has(t, moment.lines[i]);
        same = 1000 + 2 * same - moment.count; /* what is missing counts against it */
        if (same >= best_same) {
            best_same = same;
            best = n;
        }
        tree_free(&moment);
    }
    history_free(h);
    h = history_new(seed);
    for (uint64_t n = 1; n <= best; n++)
        history_step(h, &s);
    history_tree(h, &moment);
    printf("nearest is moment %" PRIu64 ":\n", best);
    int left = DIFFERENCES_MAX;
    for (size_t i = 0; i < t->count && left; i++)
        if (!tree_has(&moment, t->lines[i]) && left--)
            printf("  found   %s\n", t->lines[i]);
    for (size_t i = 0; i < moment.count && left; i++)
        if (!tree_has(t, moment.lines[i]) && left--)
            printf("  missing %s\n", moment.lines[i]);
    tree_free(&moment);
    history_free(h);
}

/* Without the stream's directory it is moment 0, an empty tree. */
static int judge(const struct tree *t, const struct facts *f, unsigned stream, uint64_t seed)
{
    static struct step s;
    uint64_t begun = f->stream[stream].begun, promised = facts_promised(f, stream);
    struct history *h = history_new(seed);
    int64_t last = -1;

    for (uint64_t n = 0; n <= begun; n++) {
        if (n)
            history_step(h, &s);
        if (n > promised && history_half(h) && history_half(h) == t->digest)
            last = (int64_t)n - 1 > (int64_t)promised ? (int64_t)n - 1 : (int64_t)promised;
        if (history_digest(h) == t->digest)
            last = (int64_t)n;
    }
    history_free(h);
    if (last >= (int64_t)promised)
        return EXIT_GOOD;
    printf("stream %c: begun %" PRIu64 ", promised %" PRIu64 ", found %" PRId64 "\n", 'a' + (int)stream,
           begun, promised, last);
    if (last >= 0)
        return f->killed ? EXIT_BROKEN : EXIT_LOST;
    explain(t, seed, begun);
    return EXIT_BROKEN;
}

static int worst(int a, int b) { return a > b ? a : b; }

/* ---- a directory ---- */

static int check_directory(const char *path, uint64_t seed, unsigned streams)
{
    struct facts f = facts_read();
    int verdict = EXIT_GOOD;

    for (unsigned k = 0; k < streams; k++) {
        char below[4096];
        struct tree t;
        snprintf(below, sizeof(below), "%s/%c", path, 'a' + (int)k);
        int rc = tree_of_directory(below, &t);
        if (rc && rc != -ENOENT) {
            printf("%s: %s\n", below, strerror(-rc));
            verdict = worst(verdict, EXIT_BROKEN);
        } else {
            verdict = worst(verdict, judge(&t, &f, k, seed_of(seed, k)));
        }
        tree_free(&t);
    }
    return verdict;
}

/* ---- a store ---- */

static int compare_stream(struct fs *fs, const struct facts *f, uint64_t seed, unsigned stream)
{
    char name = (char)('a' + stream);
    struct tree t = {0};
    struct fs_attr top;
    int verdict, rc = fs_lookup(fs, FS_ID_ROOT, &name, 1, &top);

    if (!rc) {
        rc = tree_of_store(fs, top.id, &t);
        fs_forget(fs, top.id, 1);
    }
    if (rc && rc != -ENOENT) {
        printf("reading stream %c: %s\n", name, strerror(-rc));
        verdict = EXIT_BROKEN;
    } else {
        verdict = judge(&t, f, stream, seed_of(seed, stream));
    }
    tree_free(&t);
    return verdict;
}

static int open_and_compare(const char *store, const struct facts *f, uint64_t seed, unsigned streams,
                            unsigned flags)
{
    struct fs_options o = store_options(flags | LSM_INLINE);
    struct fs *fs;
    int verdict = EXIT_GOOD, rc = fs_open(store, &o, &fs);

    if (rc) {
        printf("opening: %s\n", strerror(-rc));
        return EXIT_BROKEN;
    }
    for (unsigned k = 0; k < streams; k++)
        verdict = worst(verdict, compare_stream(fs, f, seed, k));
    rc = fs_close(fs);
    if (rc) {
        printf("closing: %s\n", strerror(-rc));
        return EXIT_BROKEN;
    }
    return verdict;
}

static int check_store(const char *store, uint64_t seed, unsigned streams)
{
    struct facts f = facts_read();
    bool ready = false; /* the store was mounted */

    for (unsigned k = 0; k < streams; k++)
        ready |= f.stream[k].begun > 0;
    int verdict = ready ? store_check(store) : EXIT_GOOD;
    if (verdict == EXIT_GOOD)
        verdict = open_and_compare(store, &f, seed, streams, ready ? 0 : LSM_CREATE);
    if (verdict == EXIT_GOOD)
        verdict = store_check(store);
    return verdict;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "make") == 0)
        return make(argv[2]);
    if (argc == 7 && strcmp(argv[1], "run") == 0 && argv[4][0] >= 'a' && argv[4][0] < 'a' + (int)STREAMS_MAX)
        return run(argv[2], argv[3], (unsigned)(argv[4][0] - 'a'), strtoull(argv[5], NULL, 10),
                   strtoull(argv[6], NULL, 10));
    if (argc == 5) {
        uint64_t seed = strtoull(argv[3], NULL, 10);
        unsigned streams = (unsigned)strtoul(argv[4], NULL, 10);
        if (strcmp(argv[1], "store") == 0)
            return check_store(argv[2], seed, streams);
        if (strcmp(argv[1], "directory") == 0)
            return check_directory(argv[2], seed, streams);
    }
    fprintf(
        stderr,
        "usage: load_tree make STORE | run DIRECTORY CONTROL STREAM SEED STEPS | store STORE SEED STREAMS | "
        "directory DIRECTORY SEED STREAMS\n");
    return EXIT_USAGE;
}
