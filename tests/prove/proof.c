/*
 * proof.c - what all histories share, whatever they are of: failures and where they happened, randomness, memory
 * of the prover's own, choosing provers.
 */
#include "prove.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOG_LINES 12u

struct totals totals;
char proof_replay[160], proof_place[400];
bool proof_failed;

/* ---- failures ---- */

static char log_lines[LOG_LINES][240];
static unsigned log_next;

void proof_log(void *arg, enum lsm_log_level level, const char *message)
{
    (void)arg;
    if (level <= LSM_LOG_WARNING)
        (void)snprintf(log_lines[log_next++ % LOG_LINES], sizeof log_lines[0], "%s", message);
}

void proof_begin(const char *kind, uint64_t seed)
{
    (void)snprintf(proof_replay, sizeof proof_replay, "--history=%s:0x%llx", kind, (unsigned long long)seed);
    proof_place[0] = 0;
    proof_failed = false;
    memset(log_lines, 0, sizeof log_lines);
    totals.histories++;
}

size_t proof_enter(const char *format, ...)
{
    va_list args;
    size_t mark = strlen(proof_place);

    va_start(args, format);
    (void)vsnprintf(proof_place + mark, sizeof proof_place - mark, format, args);
    va_end(args);
    return mark;
}

void proof_leave(size_t mark)
{
    if (!proof_failed)
        proof_place[mark] = 0;
}

void proof_fail(const char *format, ...)
{
    va_list args;

    if (proof_failed)
        return;
    proof_failed = true;
    totals.failures++;
    printf("FAILED: ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n  where:  %s\n  replay: %s %s\n", proof_place, proof_program, proof_replay);
    for (unsigned i = 0; i < LOG_LINES; i++) {
        const char *line = log_lines[(log_next + i) % LOG_LINES];
        if (line[0])
            printf("  log:    %s\n", line);
    }
    fflush(stdout);
}

/* ---- randomness ---- */

uint64_t seed_mix(uint64_t a, uint64_t b)
{
    uint64_t z = (a ^ b * UINT64_C(0x9e3779b97f4a7c15)) + UINT64_C(0x632be59bd9b4e019);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t run_draw(struct run *r)
{
    r->random += UINT64_C(0x9e3779b97f4a7c15);
    return seed_mix(r->random, 0);
}

/* ---- memory ---- */

volatile bool proof_own_memory; /* the compiler thinks that realloc does not look at it */

/* Memory of the prover's own: never one of the allocations that are made to fail. */
void *proof_memory(void *old, size_t bytes)
{
    proof_own_memory = true;
    void *p = realloc(old, bytes);
    proof_own_memory = false;
    if (!p)
        abort();
    if (!old)
        memset(p, 0, bytes);
    return p;
}

/* ---- stores ---- */

bool run_is_read_only(struct run *r)
{
    struct lsm_stats *st = proof_memory(NULL, sizeof *st);

    lsm_stats_get(r->db, st);
    bool read_only = st->failed != 0 || st->read_only;
    free(st);
    return read_only;
}

/* ---- choosing ---- */

const struct kind *kind_find(const char *name, size_t len)
{
    for (unsigned i = 0; i < kind_count; i++) {
        if (strlen(kinds[i].name) == len && !memcmp(kinds[i].name, name, len))
            return &kinds[i];
    }
    return NULL;
}

void kind_run(const struct kind *k, uint64_t seed)
{
    proof_begin(k->name, seed);
    k->run(seed);
}

uint64_t seconds_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
