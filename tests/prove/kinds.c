/*
 * kinds.c - the provers of the engine.
 */
#include "prove.h"

const char proof_program[] = "prove_engine";
const unsigned proof_short_steps = 22;

const struct kind kinds[] = {
    {"short", prove_short, "short histories, a crash before every call that changes the disk"},
    {"long", prove_long, "long histories, crashes at random calls"},
    {"fault", prove_fault, "calls fail: EIO, ENOSPC, EINTR, short transfers; for once or from then on"},
    {"full", prove_full, "the disk fills up, and has space again"},
    {"memory", prove_memory, "allocations fail"},
    {"damage", prove_damage, "bits of files flip"},
    {"model", prove_model, "nothing fails: every operation, with all options varied, against a sorted array"},
};
const unsigned kind_count = sizeof kinds / sizeof kinds[0];
