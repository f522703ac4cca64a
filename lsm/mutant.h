/*
 * mutant.h - deliberate defects, so that the provers can show that they would find them.
 *
 * `mutant("name")` is false, and costs nothing, in every build but that of tests/prove/mutants.c, which
 * turns on one name at a time and demands that a prover fails. The table of names is there.
 */
#ifndef LSM_MUTANT_H
#define LSM_MUTANT_H

#ifdef SHALE_MUTANTS
#include <stdbool.h>
bool mutant(const char *name);
#else
#define mutant(name) 0
#endif

#endif
