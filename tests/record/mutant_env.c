/*
 * mutant_env.c - turns on the deliberate defect (lsm/mutant.h) that SHALE_MUTANT names, in load_lsm_mutants.
 */
#include "mutant.h"

#include <stdlib.h>
#include <string.h>

bool mutant(const char *name)
{
    const char *on = getenv("SHALE_MUTANT");

    return on && strcmp(on, name) == 0;
}
