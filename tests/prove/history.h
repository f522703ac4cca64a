/*
 * history.h - random histories on a simulated machine, and the model that they are held against.
 *
 * A run is an open store together with what it must contain: one model state for each change since the last
 * sync, the last one being what reads must see now. After a crash the store must hold one of them as a whole.
 * What crashes (crash.c), failing calls (faults.c) and failing allocations (memory.c) demand is the same for
 * every store; what a store holds and what is done with it is behind the functions named run_*, of which a
 * program has one of two sets:
 *
 *   history.c      the engine (prove_engine)       changes are batches of keys
 *   fs_history.c   the filesystem (prove_fs)       changes are system calls; the model is a tree of files
 *
 * A new operation is one more entry in the table in engine_ops.c, or in fs_ops.c.
 */
#ifndef HISTORY_H
#define HISTORY_H

#include "env.h"
#include "env_sim.h"
#include <shale/lsm.h>
#include <stdio.h>

#define STORE "/s"

/* Everything that is the same all through one history. Made from its seed. */
struct profile {
    struct lsm_options options;
    unsigned cold; /* of 100 changes so many go to the first shard, which leaves the others cold */
    /* of the engine's histories */
    size_t key_padding;       /* bytes that make every key longer */
    unsigned large;           /* of 1000 values so many are 20..200 KiB */
    unsigned keys;            /* that are used */
    unsigned deletes, merges; /* of 100 changes */
    unsigned ranges;          /* of 100 batches so many delete ranges */
    /* of the filesystem's */
    unsigned hash_bits; /* of a name's hash that are kept: with few of them names collide; 0: all */
    bool relatime;      /* reading changes access times */
    bool scattered;     /* many small writes into one file: truncating it takes several steps */
};

struct model;   /* what a store holds at one moment */
struct run_own; /* what else a run of one of the two sets needs */

struct run {
    const struct profile *profile;
    struct env *env;
    struct lsm *db; /* NULL: not open */
    struct run_own *own;
    uint64_t random;

    uint64_t base;        /* changes before states[0], which is synced */
    struct model *states; /* [0 .. count], and [count + 1] while a batch is in flight or in doubt */
    size_t count, capacity;
    bool in_flight;
    bool in_doubt;        /* a commit failed and ended the store: its batch may be found after reopening */
    bool perhaps_applied; /* in doubt, and may be seen already: reading it failed so far */
    bool sync_lost;       /* a sync failed: no later one may succeed while count > 0 */
    bool errors_allowed;  /* faults are being injected: an operation may fail */
    bool deletes_work;    /* ... but deletes may not for want of space */

    bool table_unreadable; /* a fault has hit the reading of a table, which is damage for all one can know */

    int last_error; /* of the last operation */
    const char *op; /* its name */
};

extern const char proof_program[];       /* its name, for replays */
extern const unsigned proof_short_steps; /* of a short history, at most */

/* Totals, printed at the end. */
struct totals {
    uint64_t histories, operations, changes, kills, power_cuts, recoveries, faults, full_disks, no_memory,
        damages, full_unreserved, full_small, checks, failures;
};
extern struct totals totals;

/* ---- failures ---- */

/* Where in a history we are; set by those who drive one, printed with a failure. */
extern char proof_replay[160];
extern char proof_place[400];
/* Nothing of a history goes on after the first. */
extern bool proof_failed;
extern volatile bool proof_own_memory; /* true while the prover allocates for itself */
/* realloc, or zeroed memory if `old` is NULL: never one of the allocations that are made to fail. */
void *proof_memory(void *old, size_t bytes);
void proof_log(void *arg, enum lsm_log_level level, const char *message); /* keeps the last messages */
__attribute__((format(printf, 1, 2))) void proof_fail(const char *format, ...);
void proof_begin(const char *kind, uint64_t seed);
/* Adds to / cuts off the description of the place. */
__attribute__((format(printf, 1, 2))) size_t proof_enter(const char *format, ...);
void proof_leave(size_t mark);

/* ---- randomness: one stream a run, and seeds made from numbers ---- */

uint64_t run_draw(struct run *r);
uint64_t seed_mix(uint64_t a, uint64_t b);

/* ---- runs ---- */

void profile_make(struct profile *p, uint64_t seed);
/* A run of an empty store. `env` stays the caller's. */
struct run *run_new(const struct profile *profile, struct env *env, uint64_t seed);
/* A run that knows of r's states from..to (indices); its store is not open. */
struct run *run_branch(const struct run *r, struct env *env, size_t from, size_t to, uint64_t seed);
/* r, a branch of `from` up to its count, may also find the batch that was in flight there. */
void run_keep_in_doubt(struct run *r, const struct run *from);
void run_free(struct run *r);    /* closes the store, whatever comes of it */
void run_abandon(struct run *r); /* closing, of which nothing is expected */

/* What the history begins with, before there are crashes. The store may be open afterwards. */
void run_prepare(struct run *r);
/* Opens the store. Without errors_allowed an error is a failure. */
int run_open(struct run *r);
int run_close(struct run *r); /* everything is synced if it returns 0 */
/* One random operation of the table. The store is open. */
void run_step(struct run *r);
/* A batch, with LSM_SYNC if `sync`. */
int run_batch(struct run *r, bool sync);
/* For full disks: what grows the store; deleting all that is in it; and all named snapshots, which only the engine's have. */
/* Something was acknowledged already, or need not be: opening the store writes nothing that grows it. */
bool run_is_made(const struct run *r);
int run_grow(struct run *r);
int run_delete_all(struct run *r);
int run_drop_names(struct run *r);
int run_sync(struct run *r);
int run_flush(struct run *r);
int run_compact(struct run *r);
void run_drop_snapshots(struct run *r);
bool run_is_read_only(struct run *r);
/* From within an operation of one run others are about to be used, and then it goes on. */
unsigned run_suspend(void);
void run_resume(unsigned suspended);
/* Everything acknowledged is on the medium now. */
void run_synced(struct run *r);

/* The store must hold exactly states[count]. Compares all keys by iterators and gets. */
bool run_check(struct run *r);
/* After a crash: the store must hold one of states[low..high]; that becomes states[0], the only one. */
bool run_settle(struct run *r, size_t low, size_t high);

#endif
