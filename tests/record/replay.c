/*
 * replay.c - cuts the power at points of a trace, makes a directory of what is left, and has it checked.
 *
 *   replay [OPTION]... TRACE -- CHECKER [ARGUMENT]...
 *
 * {} in an argument stands for the directory. The checker may change it. Its environment has RECORD_FACTS, a file
 * with the facts of the trace before the cut, one a line; RECORD_LOSS, how much was lost: after "nothing", which is
 * a killed process, all that was acknowledged must be there; and RECORD_CUT. Its exit status says:
 *
 *   0   good      everything that must be there is, in good order
 *   10  lost      in good order, but something is missing that had been promised to be there
 *   11  broken    in no order
 *   else          the checker could not do its work, which is a failure of the test, always
 *
 * The exit status is 0 if only classes have come up that are allowed (--allow), and those that must (--need) have.
 * For others a line is printed that replays it, with what the checker said.
 */
#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUND 64u       /* cuts between two looks at the clock, from the front of the trace to its end */
#define REPORTS_MAX 3u  /* failures that are told of */
#define SAID_BYTES 4000 /* of what a checker said */
#define ARGUMENTS_MAX 64u
#define NEAR 4u /* records: how close to a sync or a fact a cut is that is meant to be close */

enum verdict { GOOD, LOST, BROKEN, FAILED, VERDICTS };
static const char *const verdicts[VERDICTS] = {"good", "lost", "broken", "failed"};

struct options {
    const char *program, *trace, *dir;
    char **checker;
    uint64_t cuts, seconds, seed, cut;
    bool one, harsh, lies, keep, fixed_loss, wrong;
    enum loss loss;
    bool allowed[VERDICTS], needed[VERDICTS];
};

struct cut {
    uint64_t position, seed;
    enum loss loss;
};

struct run {
    const struct options *o;
    struct trace trace;
    uint64_t base; /* cuts are at or after it */
    char work[4000], tree[4050], facts[4050], said[4050];
    uint64_t facts_written; /* records that were looked at for facts */
    uint64_t count[VERDICTS], by_loss[LOSSES][VERDICTS];
    unsigned reports;
};

static const char usage[] =
    "usage: replay [OPTION]... TRACE -- CHECKER [ARGUMENT]...\n"
    "       replay --print TRACE\n"
    "  --cuts=N         so many random cuts (default 100); --seconds=S: for so long instead\n"
    "  --cut=K          one cut, before record K, with --seed and --loss as given\n"
    "  --seed=N         default: from the clock, printed\n"
    "  --model=MODEL    ordered (default: metadata come to the medium in order) or harsh\n"
    "  --loss=LOSS      nothing, all, late, some, any or mixed (default: each at times)\n"
    "  --lies           syncs make nothing durable\n"
    "  --allow=CLASS,.. besides good: lost, broken\n"
    "  --need=CLASS,..  must come up at least once\n"
    "  --wrong          both are allowed, and one of them must come up\n"
    "  --dir=DIR        where directories are made (default $TMPDIR or /tmp)\n"
    "  --keep           leave the last directory behind\n";

/* ---- options ---- */

static bool parse_classes(const char *list, bool classes[VERDICTS])
{
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, ",");
        unsigned k = GOOD;
        while (k < FAILED && (strlen(verdicts[k]) != len || memcmp(verdicts[k], p, len) != 0))
            k++;
        if (k == FAILED)
            return false;
        classes[k] = true;
        p += len + (p[len] == ',');
    }
    return true;
}

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == 0 && errno == 0;
}

static bool parse_option(struct options *o, int c, const char *value)
{
    switch (c) {
    case 'n': return parse_number(value, &o->cuts);
    case 't': return parse_number(value, &o->seconds);
    case 'c': o->one = true; return parse_number(value, &o->cut);
    case 's': return parse_number(value, &o->seed);
    case 'm': o->harsh = strcmp(value, "harsh") == 0; return o->harsh || strcmp(value, "ordered") == 0;
    case 'l': o->fixed_loss = true; return loss_parse(value, &o->loss);
    case 'L': o->lies = true; return true;
    case 'a': return parse_classes(value, o->allowed);
    case 'N': return parse_classes(value, o->needed) && parse_classes(value, o->allowed);
    case 'w': o->wrong = o->allowed[LOST] = o->allowed[BROKEN] = true; return true;
    case 'd': o->dir = value; return true;
    case 'k': o->keep = true; return true;
    default: return false;
    }
}

static bool parse(int argc, char **argv, struct options *o, bool *print)
{
    static const struct option longs[] = {
        {"cuts", 1, NULL, 'n'},  {"seconds", 1, NULL, 't'}, {"cut", 1, NULL, 'c'},  {"seed", 1, NULL, 's'},
        {"model", 1, NULL, 'm'}, {"loss", 1, NULL, 'l'},    {"lies", 0, NULL, 'L'}, {"allow", 1, NULL, 'a'},
        {"need", 1, NULL, 'N'},  {"dir", 1, NULL, 'd'},     {"keep", 0, NULL, 'k'}, {"print", 0, NULL, 'p'},
        {"wrong", 0, NULL, 'w'}, {NULL, 0, NULL, 0}};
    struct timespec now;
    int c;

    clock_gettime(CLOCK_REALTIME, &now);
    *o = (struct options){
        .program = argv[0], .cuts = 100, .seed = (uint64_t)now.tv_nsec / 1000, .dir = getenv("TMPDIR")};
    o->dir = o->dir ? o->dir : "/tmp";
    o->allowed[GOOD] = true;
    while ((c = getopt_long(argc, argv, "+", longs, NULL)) != -1) {
        if (c == 'p')
            *print = true;
        else if (!parse_option(o, c, optarg))
            return false;
    }
    if (optind >= argc)
        return false;
    o->trace = argv[optind++];
    if (optind < argc && strcmp(argv[optind], "--") == 0)
        optind++;
    o->checker = argv + optind;
    return *print || optind < argc;
}

/* ---- the directory and the checker ---- */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static int remove_tree(const char *path)
{
    return nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) && errno != ENOENT ? -errno : 0;
}

/* The facts before a cut; cuts of a round ascend, so the file only grows. */
static int write_facts(struct run *run, uint64_t position)
{
    FILE *f = fopen(run->facts, run->facts_written ? "a" : "w");

    if (!f)
        return -errno;
    for (; run->facts_written < position; run->facts_written++) {
        const struct trace_record *r = &run->trace.records[run->facts_written];
        if (r->type == TRACE_FACT)
            fprintf(f, "%.*s\n", (int)r->data_len, (const char *)r->data);
    }
    return fclose(f) ? -errno : 0;
}

static int make_tree(struct run *run, struct disk *d, const struct cut *cut)
{
    int rc = remove_tree(run->tree), dir;

    if (!rc && mkdir(run->tree, 0700))
        rc = -errno;
    if (rc)
        return rc;
    dir = open(run->tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    rc = crash_make(d, cut->loss, cut->seed, dir);
    close(dir);
    return rc ? rc : write_facts(run, cut->position);
}

/* An argument with the directory in the place of {}. */
static char *fill_in(const struct run *run, const char *argument)
{
    const char *at = strstr(argument, "{}");
    char *out = NULL;

    if (asprintf(&out, "%.*s%s%s", at ? (int)(at - argument) : (int)strlen(argument), argument,
                 at ? run->tree : "", at ? at + 2 : "") < 0)
        abort();
    return out;
}

static enum verdict call_checker(struct run *run, const struct cut *cut)
{
    char number[24], *argv[ARGUMENTS_MAX + 1];
    size_t n = 0;
    posix_spawn_file_actions_t files;
    pid_t pid;
    int status = 0;

    snprintf(number, sizeof(number), "%" PRIu64, cut->position);
    setenv("RECORD_FACTS", run->facts, 1);
    setenv("RECORD_LOSS", loss_name(cut->loss), 1);
    setenv("RECORD_CUT", number, 1);
    for (; run->o->checker[n] && n < ARGUMENTS_MAX; n++)
        argv[n] = fill_in(run, run->o->checker[n]);
    argv[n] = NULL;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, run->said, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    int rc = posix_spawnp(&pid, argv[0], &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    while (n > 0)
        free(argv[--n]);
    if (rc) {
        fprintf(stderr, "replay: %s: %s\n", run->o->checker[0], strerror(rc));
        return FAILED;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status))
        return FAILED;
    switch (WEXITSTATUS(status)) {
    case 0: return GOOD;
    case 10: return LOST;
    case 11: return BROKEN;
    default: return FAILED;
    }
}

static void report(struct run *run, const struct cut *cut, enum verdict v)
{
    const struct options *o = run->o;
    char text[SAID_BYTES];
    FILE *f;

    if (run->reports++ >= REPORTS_MAX)
        return;
    printf("%s: %s --cut=%" PRIu64 " --seed=%" PRIu64 " --loss=%s --model=%s%s --keep %s --", verdicts[v],
           o->program, cut->position, cut->seed, loss_name(cut->loss), o->harsh ? "harsh" : "ordered",
           o->lies ? " --lies" : "", o->trace);
    for (char **p = o->checker; *p; p++)
        printf(strstr(*p, "{}") ? " '%s'" : " %s", *p);
    printf("\n");
    f = fopen(run->said, "r");
    size_t n = f ? fread(text, 1, sizeof(text), f) : 0;
    if (f)
        fclose(f);
    printf("%.*s", (int)n, text);
    fflush(stdout);
}

static int try_cut(struct run *run, struct disk *d, const struct cut *cut)
{
    disk_advance(d, cut->position);
    int rc = make_tree(run, d, cut);
    if (rc) {
        fprintf(stderr, "replay: cannot make %s: %s\n", run->tree, strerror(-rc));
        return rc;
    }
    enum verdict v = call_checker(run, cut);
    run->count[v]++;
    run->by_loss[cut->loss][v]++;
    if (!run->o->allowed[v])
        report(run, cut, v);
    return 0;
}

/* ---- choosing cuts ---- */

static int by_position(const void *a, const void *b)
{
    const struct cut *x = a, *y = b;

    return x->position < y->position ? -1 : x->position > y->position;
}

/* Half of them anywhere, half close behind a sync or a fact, where promises begin to hold. The end of the trace at times. */
static uint64_t choose_position(const struct run *run, uint64_t *random)
{
    uint64_t span = run->trace.count - run->base, at = run->base + draw_below(random, span + 1);

    if (draw_below(random, 40) == 0)
        return run->trace.count;
    if (draw_below(random, 2))
        return at;
    while (at > run->base && run->trace.records[at - 1].type != TRACE_SYNC_END &&
           run->trace.records[at - 1].type != TRACE_FACT)
        at--;
    at += draw_below(random, NEAR);
    return at < run->trace.count ? at : run->trace.count;
}

static int try_round(struct run *run, const struct cut *cuts, size_t n)
{
    struct disk *d = disk_new(&run->trace, run->o->harsh, run->o->lies);
    int rc = 0;

    run->facts_written = 0;
    for (size_t k = 0; k < n && !rc; k++)
        rc = try_cut(run, d, &cuts[k]);
    disk_free(d);
    return rc;
}

static int try_many(struct run *run)
{
    const struct options *o = run->o;
    uint64_t random = o->seed, done = 0;
    struct timespec began, now;
    int rc = 0;

    clock_gettime(CLOCK_MONOTONIC, &began);
    for (bool more = true; more && !rc; done += ROUND) {
        struct cut cuts[ROUND];
        size_t n = !o->seconds && o->cuts - done < ROUND ? (size_t)(o->cuts - done) : ROUND;
        for (size_t k = 0; k < n; k++)
            cuts[k] = (struct cut){choose_position(run, &random), draw(&random),
                                   o->fixed_loss ? o->loss : (enum loss)draw_below(&random, LOSSES)};
        qsort(cuts, n, sizeof(*cuts), by_position);
        rc = try_round(run, cuts, n);
        clock_gettime(CLOCK_MONOTONIC, &now);
        more = o->seconds ? (uint64_t)(now.tv_sec - began.tv_sec) < o->seconds : done + ROUND < o->cuts;
    }
    return rc;
}

/* ---- all of it ---- */

static int prepare(struct run *run)
{
    uint64_t n = 0;

    while (n < run->trace.count && run->trace.records[n].type != TRACE_BASE)
        n++;
    if (n == run->trace.count) {
        fprintf(stderr, "replay: %s: ends before the recorder was ready\n", run->o->trace);
        return -EUCLEAN;
    }
    run->base = n + 1;
    if (run->o->one && (run->o->cut < run->base || run->o->cut > run->trace.count)) {
        fprintf(stderr, "replay: cuts are from %" PRIu64 " to %" PRIu64 "\n", run->base, run->trace.count);
        return -EINVAL;
    }
    snprintf(run->work, sizeof(run->work), "%s/replay.XXXXXX", run->o->dir);
    if (!mkdtemp(run->work)) {
        fprintf(stderr, "replay: %s: %s\n", run->work, strerror(errno));
        return -EIO;
    }
    snprintf(run->tree, sizeof(run->tree), "%s/tree", run->work);
    snprintf(run->facts, sizeof(run->facts), "%s/facts", run->work);
    snprintf(run->said, sizeof(run->said), "%s/said", run->work);
    return 0;
}

static bool conclude(const struct run *run)
{
    const struct options *o = run->o;
    bool fine = true;

    printf("%s%s: %" PRIu64 " records; cuts: ", o->harsh ? "harsh" : "ordered", o->lies ? ", lies" : "",
           run->trace.count);
    for (unsigned v = 0; v < VERDICTS; v++)
        printf("%s%" PRIu64 " %s", v ? ", " : "", run->count[v], verdicts[v]);
    for (unsigned l = 0; l < LOSSES; l++)
        if (run->by_loss[l][LOST] + run->by_loss[l][BROKEN] + run->by_loss[l][FAILED])
            printf("; %s: %" PRIu64 " lost %" PRIu64 " broken", loss_name((enum loss)l),
                   run->by_loss[l][LOST], run->by_loss[l][BROKEN]);
    printf("; seed %" PRIu64 "\n", o->seed);
    for (unsigned v = 0; v < VERDICTS; v++) {
        if (run->count[v] && !o->allowed[v])
            fine = false;
        if (o->needed[v] && !run->count[v]) {
            printf("none was %s: this test cannot see what it is made to see\n", verdicts[v]);
            fine = false;
        }
    }
    if (o->wrong && run->count[LOST] + run->count[BROKEN] == 0) {
        printf("nothing was wrong: this test cannot see what it is made to see\n");
        fine = false;
    }
    return fine;
}

static void print_trace(const struct trace *t)
{
    for (uint64_t n = 0; n < t->count; n++) {
        const struct trace_record *r = &t->records[n];
        printf("%8" PRIu64 " %10.6f %-10s id %" PRIu64 " a %" PRIu64 " b %" PRIu64, n,
               (double)r->time_ns / 1e9, trace_type_name(r->type), r->id, r->a, r->b);
        if (r->name_len)
            printf(" %.*s", (int)r->name_len, r->name);
        if (r->name2_len)
            printf(" %.*s", (int)r->name2_len, r->name2);
        if (r->type == TRACE_FACT)
            printf(" %.*s", (int)r->data_len, (const char *)r->data);
        else if (r->data_len)
            printf(" %" PRIu32 " bytes%s", r->data_len, r->zeros ? " of zeros" : "");
        printf("\n");
    }
    if (t->cut_off)
        printf("the last record is cut off\n");
}

int main(int argc, char **argv)
{
    struct options o;
    struct run run = {.o = &o};
    bool print = false, fine = false;

    if (!parse(argc, argv, &o, &print)) {
        fputs(usage, stderr);
        return 2;
    }
    if (trace_load(o.trace, &run.trace))
        return 2;
    if (print) {
        print_trace(&run.trace);
        trace_unload(&run.trace);
        return 0;
    }
    int rc = prepare(&run);
    if (!rc) {
        struct cut cut = {o.cut, o.seed, o.loss};
        rc = o.one ? try_round(&run, &cut, 1) : try_many(&run);
        fine = !rc && conclude(&run);
        if (o.keep)
            printf("left behind: %s\n", run.work);
        else if (remove_tree(run.work))
            fprintf(stderr, "replay: cannot remove %s\n", run.work);
    }
    trace_unload(&run.trace);
    return rc ? 2 : !fine;
}
