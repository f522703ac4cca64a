/*
 * fs_kinds.c - the provers of the filesystem.
 */
#include "prove.h"

const char proof_program[] = "prove_fs";
const unsigned proof_short_steps = 6; /* on a tree that run_prepare has made */

const struct kind kinds[] = {
    {"short", prove_short, "short histories, a crash before every call that changes the disk"},
    {"long", prove_long, "long histories, crashes at random calls"},
    {"fault", prove_fault, "calls fail: EIO, ENOSPC, EINTR, short transfers; for once or from then on"},
    {"full", prove_full, "the disk fills up, and has space again"},
    {"memory", prove_memory, "allocations fail"},
};
const unsigned kind_count = sizeof kinds / sizeof kinds[0];
