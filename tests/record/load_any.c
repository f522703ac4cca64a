/*
 * load_any.c - any program as a load: is what a crash left of the store below a moment of what it did above?
 *
 *   load_any STORE TRACE          run by replay
 *
 * A recorder above the filesystem has written TRACE, and told the one below the store of each step (record.c, --tell).
 * So the store must hold the tree of one moment of TRACE: not older than the last sync, not younger than what had begun.
 */
#include "facts.h"
#include "moments.h"
#include "store_tree.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DIFFERENCES_MAX 12

static void explain(struct moments *m, const struct tree *t)
{
    struct tree moment;
    int left = DIFFERENCES_MAX;

    moments_tree(m, &moment);
    for (size_t i = 0; i < t->count && left; i++)
        if (!tree_has(&moment, t->lines[i]) && left--)
            printf("  found   %s\n", t->lines[i]);
    for (size_t i = 0; i < moment.count && left; i++)
        if (!tree_has(t, moment.lines[i]) && left--)
            printf("  missing %s\n", moment.lines[i]);
    tree_free(&moment);
}

static bool found_between(struct moments *m, uint64_t from, uint64_t to, uint64_t digest)
{
    for (uint64_t n = from; n <= to; n++) {
        moments_advance(m, n);
        if (moments_digest(m) == digest || (n < to && moments_half(m) == digest))
            return true;
    }
    return false;
}

static int judge(const struct trace *trace, const struct facts *f, const struct tree *t)
{
    uint64_t promised = facts_promised(f, 0), begun = f->stream[0].begun;
    struct moments *m = moments_new(trace);
    int verdict = EXIT_GOOD;

    begun = begun < trace->count ? begun : trace->count;
    if (found_between(m, promised, begun, t->digest))
        goto out;
    printf("is none of the moments %" PRIu64 " to %" PRIu64 "\n", promised, begun);
    moments_free(m);
    m = moments_new(trace);
    verdict = found_between(m, 0, promised, t->digest) && !f->killed ? EXIT_LOST : EXIT_BROKEN;
    if (verdict == EXIT_BROKEN)
        explain(m, t);
out:
    moments_free(m);
    return verdict;
}

static int compare(const char *store, const struct trace *trace, const struct facts *f)
{
    struct fs_options o = store_options(LSM_INLINE);
    struct tree t = {0};
    struct fs *fs;
    int verdict = EXIT_BROKEN, rc = fs_open(store, &o, &fs);

    if (!rc) {
        rc = tree_of_store(fs, FS_ID_ROOT, &t);
        if (!rc)
            verdict = judge(trace, f, &t);
        int closed = fs_close(fs);
        rc = rc ? rc : closed;
    }
    if (rc) {
        printf("%s: %s\n", store, strerror(-rc));
        verdict = EXIT_BROKEN;
    }
    tree_free(&t);
    return verdict;
}

int main(int argc, char **argv)
{
    struct trace trace;

    if (argc != 3) {
        fprintf(stderr, "usage: load_any STORE TRACE\n");
        return EXIT_USAGE;
    }
    struct facts f = facts_read();
    if (f.stream[0].begun == 0)
        return EXIT_GOOD; /* not even mounted, perhaps */
    if (trace_load(argv[2], &trace))
        return EXIT_USAGE;
    int verdict = store_check(argv[1]);
    if (verdict == EXIT_GOOD)
        verdict = compare(argv[1], &trace, &f);
    if (verdict == EXIT_GOOD)
        verdict = store_check(argv[1]);
    trace_unload(&trace);
    return verdict;
}
