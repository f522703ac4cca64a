/*
 * kinds.c - the table of provers.
 */
#include "prove.h"

#include <string.h>
#include <time.h>

const struct kind kinds[] = {
    {"short", prove_short, "short histories, a crash before every call that changes the disk"},
    {"long", prove_long, "long histories, crashes at random calls"},
    {"fault", prove_fault, "calls fail: EIO, ENOSPC, EINTR, short transfers; for once or from then on"},
    {"full", prove_full, "the disk fills up, and has space again"},
    {"memory", prove_memory, "allocations fail"},
    {"damage", prove_damage, "bits of files flip"},
};
const unsigned kind_count = sizeof kinds / sizeof kinds[0];

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
