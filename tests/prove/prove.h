/*
 * prove.h - the provers. Each takes a seed, makes one history from it, and reports what is wrong through
 * proof_fail. A new prover is one more function here and one more entry in the tables in kinds.c (of the engine) and
 * fs_kinds.c (of the filesystem).
 */
#ifndef PROVE_H
#define PROVE_H

#include "history.h"

struct kind {
    const char *name;
    void (*run)(uint64_t seed);
    const char *what;
};
extern const struct kind kinds[];
extern const unsigned kind_count;

const struct kind *kind_find(const char *name, size_t len);
void kind_run(const struct kind *k, uint64_t seed);
uint64_t seconds_now_ms(void);

void prove_short(uint64_t seed);
void prove_long(uint64_t seed);
void prove_fault(uint64_t seed);
void prove_full(uint64_t seed);
void prove_memory(uint64_t seed);
void prove_damage(uint64_t seed);
void prove_model(uint64_t seed);

/* ---- crash.c ---- */

/* Lets the machine of r crash before about one in `one_in` of its changes, in several ways, until crash_stop. */
struct crash;
struct crash *crash_at(struct run *r, uint64_t one_in, uint64_t seed);
void crash_stop(struct crash *c);
/* What r's machine would come to at this moment: by a kill (way 0) or a power cut (1 to CRASH_WAYS - 1). */
#define CRASH_WAYS 4u
void crash_now(struct run *r, unsigned way, uint64_t seed);
/* A power cut now must change nothing. */
void check_durable(struct run *r, uint64_t seed);

/* ---- faults.c ---- */

/* A store after some history. */
enum base_end {
    BASE_OPEN,   /* the process vanishes between two operations */
    BASE_CLOSED, /* in good order */
    BASE_KILLED, /* in the middle of an operation */
};
struct base {
    struct profile profile;
    struct env *env;
    struct run *run;
};
void base_make(struct base *b, uint64_t seed, unsigned steps, enum base_end end);
void base_free(struct base *b);
/* A run from there, on a copy of the machine, on which operations may fail. Its store is not open. */
struct run *base_branch(const struct base *b, uint64_t seed);
/* `steps` operations, opening the store whenever it is not open. `expected` < 0: the only error that may be seen. */
void disturbed_steps(struct run *r, unsigned steps, int expected);
/* The process starts again; nothing was lost but what a commit that failed may have left. */
void run_open_again(struct run *r);
/* All is well again: everything must be, too. may_end: the store may have turned read-only. */
void check_aftermath(struct run *r, bool may_end, bool may_be_broken, uint64_t seed);

#endif
