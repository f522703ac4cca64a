/*
 * main.c - prove_engine, prove_fs: try to show that the engine, or the filesystem, breaks its promises, on a
 * simulated machine.
 *
 *   prove_engine [KIND]... [--quick | --seconds=N | --histories=N] [--seed=N] [-v]
 *   prove_engine --history=KIND:SEED          replays one history; that is what a failure prints
 *
 * Without a KIND all are run in turn. One history after another until the time is over, each made from a seed
 * of its own; the first is --seed, SHALE_SEED, or the clock. Prints counts; exit status 1 if anything failed,
 * 2 for wrong arguments.
 */
#include "prove.h"

#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUICK_SECONDS 40u
#define FAILURES_MAX 10u /* then it is time to look at them */

static bool chosen[16];

/* An assertion, or a wild pointer: at least say which history it was. */
static void on_fatal(int sig)
{
    static const char text[] = "\nFAILED: it died\n  where:  ", replay[] = "\n  replay: ";

    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0 ||
        write(STDOUT_FILENO, proof_place, strlen(proof_place)) < 0 ||
        write(STDOUT_FILENO, replay, sizeof replay - 1) < 0 ||
        write(STDOUT_FILENO, proof_program, strlen(proof_program)) < 0 || write(STDOUT_FILENO, " ", 1) < 0 ||
        write(STDOUT_FILENO, proof_replay, strlen(proof_replay)) < 0 || write(STDOUT_FILENO, "\n", 1) < 0)
        _exit(1);
    signal(sig, SIG_DFL);
    raise(sig);
}

static int usage(void)
{
    printf("usage: %s [KIND]... [--quick | --seconds=N | --histories=N] [--seed=N] [-v]\n"
           "       %s --history=KIND:SEED\n\nkinds:\n",
           proof_program, proof_program);
    for (unsigned i = 0; i < kind_count; i++)
        printf("  %-8s %s\n", kinds[i].name, kinds[i].what);
    return 2;
}

static int replay(const char *text)
{
    const char *colon = strchr(text, ':');
    const struct kind *k = colon ? kind_find(text, (size_t)(colon - text)) : NULL;

    if (!k)
        return usage();
    kind_run(k, strtoull(colon + 1, NULL, 0));
    printf("%s\n", proof_failed ? "failed" : "nothing wrong");
    return proof_failed;
}

static void print_totals(uint64_t ms)
{
    const struct totals *t = &totals;

    printf("%llu histories, %llu operations, %llu changes; %llu kills, %llu power cuts, %llu recoveries "
           "(%llu/s); "
           "%llu calls failed, %llu full disks (%llu "
           "without a reserve, %llu too small for more), %llu allocations "
           "failed, %llu damages; %llu checks; %llu failures\n",
           (unsigned long long)t->histories, (unsigned long long)t->operations,
           (unsigned long long)t->changes, (unsigned long long)t->kills, (unsigned long long)t->power_cuts,
           (unsigned long long)t->recoveries, (unsigned long long)(t->recoveries * 1000 / (ms + 1)),
           (unsigned long long)t->faults, (unsigned long long)t->full_disks,
           (unsigned long long)t->full_unreserved, (unsigned long long)t->full_small,
           (unsigned long long)t->no_memory, (unsigned long long)t->damages, (unsigned long long)t->checks,
           (unsigned long long)t->failures);
}

/* Time is shared evenly; or, with a number of histories, they take turns, so that the same seed is the same work. */
static unsigned whose_turn(const uint64_t spent[], bool in_turn, uint64_t rounds)
{
    unsigned next = kind_count;

    if (in_turn) {
        for (next = (unsigned)(rounds % kind_count); !chosen[next];)
            next = (next + 1) % kind_count;
        return next;
    }
    for (unsigned i = 0; i < kind_count; i++) {
        if (chosen[i] && (next == kind_count || spent[i] < spent[next]))
            next = i;
    }
    return next;
}

/* `histories` many, or if 0 for `seconds`. */
static int run_for(uint64_t seconds, uint64_t histories, uint64_t seed, bool verbose)
{
    uint64_t began = seconds_now_ms(), spent[16] = {0}, rounds = 0;

    printf("replay: %s --seed=0x%llx\n", proof_program, (unsigned long long)seed);
    fflush(stdout);
    while ((histories ? rounds < histories : seconds_now_ms() - began < seconds * 1000) &&
           totals.failures < FAILURES_MAX) {
        unsigned next = whose_turn(spent, histories > 0, rounds);
        uint64_t start = seconds_now_ms();
        kind_run(&kinds[next], seed_mix(seed, rounds++));
        uint64_t took = seconds_now_ms() - start;
        spent[next] += took + 1;
        if (verbose)
            printf("%s %llu ms\n", proof_replay, (unsigned long long)took);
    }
    print_totals(seconds_now_ms() - began);
    return totals.failures > 0;
}

int main(int argc, char **argv)
{
    const char *from_environment = getenv("SHALE_SEED");
    uint64_t seconds = QUICK_SECONDS, seed = seed_mix(seconds_now_ms(), (uint64_t)getpid());
    uint64_t histories = 0;
    bool any = false, verbose = false;

    if (from_environment)
        seed = strtoull(from_environment, NULL, 0);
    mallopt(M_MMAP_THRESHOLD, 64 << 20); /* thousands of stores are opened: their memory is used again */
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    signal(SIGABRT, on_fatal);
    signal(SIGSEGV, on_fatal);
    signal(SIGBUS, on_fatal);
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        const struct kind *k = kind_find(a, strlen(a));
        if (k)
            any = chosen[k - kinds] = true;
        else if (!strncmp(a, "--history=", 10))
            return replay(a + 10);
        else if (!strncmp(a, "--seconds=", 10))
            seconds = strtoull(a + 10, NULL, 0);
        else if (!strncmp(a, "--histories=", 12))
            histories = strtoull(a + 12, NULL, 0);
        else if (!strncmp(a, "--seed=", 7))
            seed = strtoull(a + 7, NULL, 0);
        else if (!strcmp(a, "-v"))
            verbose = true;
        else if (strcmp(a, "--quick"))
            return usage();
    }
    for (unsigned i = 0; i < kind_count && !any; i++)
        chosen[i] = true;
    return run_for(seconds, histories, seed, verbose);
}
