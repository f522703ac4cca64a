/*
 * model.h - the randomized model test: every operation of the engine's API against a sorted array, with every option
 * varied. Unlike the other provers it makes nothing fail; it looks for wrong answers, and does so fast.
 */
#ifndef PROVE_MODEL_H
#define PROVE_MODEL_H

#include <stdint.h>

/* One history of so many operations, over as many openings as come about. */
void model_run(uint64_t seed, uint64_t operations);

#endif
