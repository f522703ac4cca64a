/*
 * mutants.c - prove_mutants, prove_fs_mutants: show that prove_engine and prove_fs can fail.
 *
 *   prove_mutants [--seconds=N] [--seed=N] [NAME]...
 *
 * Engine and filesystem are built once more with the hooks of lsm/mutant.h in them. Each deliberate defect of the table below
 * is turned on in a process of its own, as many at a time as there are CPUs, which runs provers until one fails or N seconds
 * (default 20) are over; a defect that survives is a failure. Without any defect nothing may fail: that is tried first. Prints a table:
 * what was wrong, which prover found it (or that an assertion of the engine did), after how many histories.
 */
#include "prove.h"

#include "mutant.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECONDS 20u
#define CONTROL_SECONDS 4u
#define JOBS_MAX 16u

/*
 * Name, and the prover that is to be tried most, "fs/" for one of prove_fs: others get every third turn. Of what is rarely
 * seen, a history of that prover that has shown it, which is tried first; it may show nothing once the prover has changed.
 */
static const struct defect {
    const char *name, *kind;
    uint64_t seen_in;
} defects[] = {
    {"log not synced", "short", 0},
    {"of several segments one synced", "long", 0x7b892fdb93d1ab92},
    {"failed sync of the log ignored", "fault", 0x7214ad29f22ec2e1},
    {"commit timer never fires", "long", 0},
    {"segments reused too early", "long", 0x227f43d597984088},
    {"stale records pass", "long", 0},
    {"directory not synced for a segment", "short", 0},
    {"directory not synced for a table", "short", 0},
    {"directory not synced for the manifest", "short", 0},
    {"directory of a new store not synced", "short", 0},
    {"table not synced", "short", 0},
    {"manifest edit not synced", "short", 0},
    {"manifest renamed without a sync", "short", 0},
    {"checksum of the manifest ignored", "damage", 0},
    {"checksum of a block ignored", "damage", 0},
    {"checksum of a packed block ignored", "damage", 0},
    {"a filter lacks a key", "long", 0},
    {"checksum of a record ignored", "short", 0},
    {"half a batch replayed", "short", 0},
    {"flushed records replayed again", "long", 0},
    {"end of the log not recorded", "short", 0},
    {"a read error ends the log", "fault", 0},
    {"recovery does not rewrite the log", "fault", 0},
    {"recovery does not sync the log", "short", 0},
    {"marks of the log believed too much", "short", 0},
    {"flush goes ahead of the log", "short", 0},
    {"flush forgets the snapshots", "long", 0},
    {"a named snapshot is not synced", "short", 0},
    {"log of a checkpoint not synced", "long", 0},
    {"an empty memtable is sealed", "long", 0},
    {"log start too high", "short", 0},
    {"deletes dropped too early", "long", 0x227f43d597984088},
    {"a full disk ends the store", "full", 0},
    {"gate ignored", "full", 0},
    {"reserve never given back", "full", 0},
    {"reserve not retaken", "full", 0},
    {"reserve not synced", "full", 0x51ed748bf4885828},
    {"purge forgets the snapshots", "full", 0},
    {"range deletes not replayed", "model", 0},
    {"range deletes of one shard only", "model", 0},
    {"flush forgets range deletes", "model", 0},
    {"range deletes not clipped", "model", 0},
    {"range deletes dropped too early", "model", 0},
    {"range deletes ignore snapshots", "model", 0},
    {"backward iterators ignore range deletes", "model", 0},
    {"an operand is folded over a range delete", "model", 0},
    {"gets ignore range deletes of tables", "model", 0},
    {"table bounds without range deletes", "model", 0},
    {"removing a name takes space", "fs/full", 0},
    {"a part of an extent begins where the extent does", "fs/short", 0},
    {"names and times of a directory in two batches", "fs/short", 0},
    {"a change of names touches no directory", "fs/short", 0},
    {"no orphan record", "fs/long", 0},
    {"the orphan record goes first", "fs/short", 0xcbfb6fe59d6a5f1},
    {"orphans are forgotten by a remount", "fs/long", 0},
    {"no record of a pending truncation", "fs/short", 0xcbfb6fe59d6a5f1},
    {"pending truncations are not finished", "fs/short", 0x34dc8596c7c2c235},
    {"a truncation cuts no extents", "fs/long", 0},
    {"contents are cut before the size is set", "fs/long", 0},
    {"small contents are not moved", "fs/short", 0},
    {"small contents are left behind", "fs/short", 0},
    {"large attributes are left behind", "fs/long", 0},
    {"a small attribute stays when it grows", "fs/short", 0},
    {"leases of inode numbers are not stored", "fs/short", 0},
    {"a replaced file is not dropped", "fs/short", 0},
    {"a moved directory keeps its parent", "fs/long", 0},
    {"a second name is not counted", "fs/short", 0},
    {"setgid is not inherited", "fs/short", 0},
    {"default ACLs are not inherited", "fs/short", 0},
    {"an ACL is set and the mode is not", "fs/short", 0},
    {"a directory with entries is removed", "fs/short", 0},
    {"what is unlinked is lost to who has it open", "fs/short", 0},
    {"setattr keeps the change time", "fs/short", 0},
    {"what could not be added to a batch is made good", "fs/memory", 0},
    {"sync does nothing", "fs/short", 0},
    {"blob not synced before the log", "short", 0},
    {"directory not synced for a blob", "short", 0},
    {"checksum of a blob ignored", "damage", 0},
    {"live bytes of blobs not counted", "long", 0},
    {"replay does not verify the blobs", "short", 0x7214ad29f22ec2e1},
    {"recovery does not rewrite the blobs", "fault", 0xddd89443ad33828b},
    {"a blob file is forgotten before it is flushed", "long", 0xf456c009cc7131cf},
    {"a blob file is forgotten with one pointer left", "long", 0},
    {"collection forgets the snapshots", "long", 0},
    {"moved values not synced", "long", 0},
    {"garbage stays at rest", "long", 0x842aead7b992208},
    {"blobs of a checkpoint forgotten", "long", 0},
    {"the log is cut at rest before it is flushed", "long", 0x2405b3c129ff3fa9},
    {"parts are not counted as alive", "long", 0x6826a8855afb35ab},
    {"a record of parts keeps no blob file", "long", 0xbeded0a9fca592},
};

#define DEFECTS (sizeof defects / sizeof defects[0])

static const char *turned_on = "";

bool mutant(const char *name) { return !strcmp(name, turned_on); }

static bool is_fs(const struct defect *d) { return !strncmp(d->kind, "fs/", 3); }

/* What a child tells, up to its death. */
struct report {
    char kind[16], replay[160];
    uint64_t histories, ms;
    bool failed;
};

static void child(const struct defect *d, uint64_t seconds, uint64_t seed, struct report *report)
{
    uint64_t began = seconds_now_ms();
    int null = open("/dev/null", O_WRONLY);

    if (null < 0 || dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)
        _exit(2);
    signal(SIGABRT, SIG_DFL);
    turned_on = d ? d->name : "";
    for (uint64_t round = 0; !proof_failed && seconds_now_ms() - began < seconds * 1000; round++) {
        const struct kind *k = &kinds[round / 3 % kind_count];
        if (d && round % 3 < 2)
            k = kind_find(d->kind + (is_fs(d) ? 3 : 0), strlen(d->kind) - (is_fs(d) ? 3 : 0));
        (void)snprintf(report->kind, sizeof report->kind, "%s", k->name);
        report->histories++;
        uint64_t history = d && d->seen_in && round == 0 ? d->seen_in : seed_mix(seed, round);
        (void)snprintf(report->replay, sizeof report->replay, "%s:0x%llx", k->name,
                       (unsigned long long)history);
        kind_run(k, history);
        report->ms = seconds_now_ms() - began;
    }
    report->failed = proof_failed;
    _exit(proof_failed);
}

/* A process that looks for fault. */
struct search {
    const struct defect *defect; /* NULL: there is none to be found */
    struct report *report;       /* shared with it */
    uint64_t began;
    pid_t pid;
};

static void search_begin(struct search *s, const struct defect *d, uint64_t seconds, uint64_t seed)
{
    s->defect = d;
    s->report = mmap(NULL, sizeof *s->report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    s->began = seconds_now_ms();
    fflush(stdout);
    s->pid = s->report == MAP_FAILED ? -1 : fork();
    if (s->pid == 0)
        child(d, seconds, seed, s->report);
    if (s->pid < 0) {
        perror("prove_mutants");
        exit(2);
    }
}

/* True if the provers found fault. */
static bool search_end(struct search *s, int status)
{
    const struct report *r = s->report;
    bool died = WIFSIGNALED(status), caught = died || r->failed;

    printf("%-40s %-10s %-6s %6llu %8.2f s  %s\n", s->defect ? s->defect->name : "(none)",
           died     ? "assertion"
           : caught ? "found"
                    : "NOTHING",
           caught ? r->kind : "", (unsigned long long)r->histories,
           (double)(seconds_now_ms() - s->began) / 1000, caught ? r->replay : "");
    return caught;
}

/* Waits for any one of them. */
static struct search *search_wait(struct search *searches, unsigned count, int *status)
{
    pid_t pid = wait(status);

    for (unsigned i = 0; i < count; i++)
        if (pid > 0 && searches[i].pid == pid)
            return &searches[i];
    perror("prove_mutants");
    exit(2);
}

static bool wanted(const struct defect *d, int argc, char **argv)
{
    const char *name = d->name;
    bool any = false;

    if (is_fs(d) != !strcmp(proof_program, "prove_fs"))
        return false;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-')
            continue;
        any = true;
        if (!strcmp(argv[i], name))
            return true;
    }
    return !any;
}

int main(int argc, char **argv)
{
    uint64_t seconds = SECONDS, seed = seed_mix(seconds_now_ms(), (uint64_t)getpid());
    unsigned missed = 0, tried = 0;

    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "--seconds=", 10)) {
            seconds = strtoull(argv[i] + 10, NULL, 0);
        } else if (!strncmp(argv[i], "--seed=", 7)) {
            seed = strtoull(argv[i] + 7, NULL, 0);
        } else if (argv[i][0] == '-') {
            printf("usage: %s [--seconds=N] [--seed=N] [NAME]...\n", argv[0]);
            return 2;
        }
    }
    printf("replay: %s --seed=0x%llx\n%-40s %-10s %-6s %6s %10s  %s\n", argv[0], (unsigned long long)seed,
           "defect", "caught by", "prover", "after", "took", "history");
    struct search searches[JOBS_MAX];
    int status;
    search_begin(&searches[0], NULL, CONTROL_SECONDS, seed);
    (void)search_wait(searches, 1, &status);
    if (search_end(&searches[0], status)) {
        printf("Without a defect it fails: %s --history=%s\n", proof_program, searches[0].report->replay);
        return 1;
    }
    munmap(searches[0].report, sizeof *searches[0].report);
    unsigned cpus = (unsigned)get_nprocs(), jobs = cpus < JOBS_MAX ? cpus : JOBS_MAX, running = 0;
    for (size_t i = 0; i < DEFECTS || running > 0;) {
        if (i < DEFECTS && running < jobs) {
            if (wanted(&defects[i], argc, argv)) {
                search_begin(&searches[running++], &defects[i], seconds, seed);
                tried++;
            }
            i++;
            continue;
        }
        struct search *s = search_wait(searches, running, &status);
        missed += !search_end(s, status);
        munmap(s->report, sizeof *s->report);
        *s = searches[--running];
    }
    printf("%u deliberate defects, %u not found\n", tried, missed);
    return missed > 0 || tried == 0;
}
