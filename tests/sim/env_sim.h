/*
 * env_sim.h - a simulated machine behind lsm/env.h: a disk that knows what is durable, a clock, randomness.
 *
 * A file's contents are pages of 4 KiB, shared and copied on write. Of every page the simulator keeps
 * what programs see now, what the medium holds for certain, and every image in between: whatever the
 * kernel may have written back, at any time and in any order. So are sizes and names kept. A crash
 * chooses for each 512-byte sector, size and name one of what the medium may hold:
 *
 *   - pwritev, and stores through a mapping, are durable once a sync of the file returned 0; till then any
 *     sector may have any of its images since, mixed at will within a page
 *   - a name (created, linked, renamed, removed; of files and of directories) is durable once a sync of
 *     the directory that holds it returned 0; a rename is on the medium as a whole or not at all
 *   - a failed sync leaves what the medium holds to chance, and the pages clean: a later sync that
 *     succeeds says nothing about them, and the kernel may forget them at any time (env_sim_evict). Names are
 *     not forgotten: a file system that fails to write its own structures stops, or tries again
 *   - a process that is killed loses nothing that was written: env_sim_clone is exactly that
 *
 * Everything is a function of the seed and of the calls: time passes only by calls and env_sim_sleep.
 * env_sim_clone copies a machine, at any moment and cheaply, without open files and locks: so a crash
 * can be tried at every call of a run without running it again.
 *
 * Threads: one at a time; threads can't be started (-ENOTSUP), so a store must be opened with LSM_INLINE.
 */
#ifndef ENV_SIM_H
#define ENV_SIM_H

#include "env.h"

#define SIM_PATH_MAX 64u /* longer ones are -ENAMETOOLONG */

enum sim_op {
    SIM_OPEN,
    SIM_PREAD,
    SIM_PWRITEV,
    SIM_SYNC,
    SIM_ALLOCATE,
    SIM_TRUNCATE,
    SIM_SIZE,
    SIM_MAP,
    SIM_MAP_STORE,
    SIM_MKDIR,
    SIM_LIST,
    SIM_UNLINK,
    SIM_RENAME,
    SIM_LINK,
    SIM_SYNC_DIR,
    SIM_LOCK,
    SIM_SPACE,
    SIM_RANDOM,
    SIM_OPS,
};

/* What the medium is left with by a power cut, of all that was not synced. */
enum sim_loss {
    SIM_LOSE_NOTHING,
    SIM_LOSE_ALL,
    SIM_LOSE_LATE,  /* all after some moment; what was written at that moment is torn */
    SIM_LOSE_SOME,  /* each page, size and name as it was last, or as it was synced */
    SIM_LOSE_ANY,   /* each sector, size and name as it was at any time since */
    SIM_LOSE_MIXED, /* each file in one of these ways, the names in another */
    SIM_LOSSES,
};

struct sim_call {
    uint64_t index;   /* of the calls of this env, from 1 */
    uint64_t changes; /* how many changed something before this one */
    bool may_change;  /* the disk: a crash before it may differ from one before the last such call */
    enum sim_op op;
    const char *path;
    uint64_t bytes; /* of reads and writes */
    /* of writes, for env_sim_begin */
    uint32_t file;
    uint64_t offset;
    const struct iovec *iov;
    int iov_count;
};

/* How a call ends: error 0 is as usual. `partial`: a write has written a part, a read finds a shorter
 * file, another change was made although the error is returned. */
struct sim_fault {
    int error;
    bool partial;
};

/* Called before each call's effect. It may clone the env and use other envs, not this one. */
typedef struct sim_fault (*sim_hook)(void *arg, const struct sim_call *call);

/* An empty disk with the directory "/" (the empty path is the same); NULL: no memory. */
struct env *env_sim_new(uint64_t seed);
struct env *env_sim_clone(struct env *e, uint64_t seed);
/* All files must be closed and locks released. NULL is allowed. */
void env_sim_free(struct env *e);

void env_sim_hook(struct env *e, sim_hook hook, void *arg);
const char *env_sim_op_name(enum sim_op op);
uint64_t env_sim_calls(struct env *e);

/* No file is open. Afterwards what is there is there to stay. */
void env_sim_power_cut(struct env *e, enum sim_loss loss);
/* In a clone made by the hook: the write that is about to happen has come half way. */
void env_sim_begin(struct env *e, const struct sim_call *call);
/* The kernel drops clean pages: of those that a failed sync left, what the medium has comes back. */
void env_sim_evict(struct env *e);
/* Some sync failed, and what programs see is not what the medium has or will get. */
bool env_sim_disagrees(struct env *e);

/* Bytes that files may take in all; more is -ENOSPC. Unlimited at first. */
void env_sim_capacity(struct env *e, uint64_t bytes);
uint64_t env_sim_used(struct env *e);
void env_sim_sleep(struct env *e, uint64_t ns);
/* The wall clock stands at this from now on; 0: it goes with the other one. */
void env_sim_wall(struct env *e, uint64_t ns);

/* Inverts `bits` random bits, neighbours, at `offset` of a file, on the medium and in memory. */
int env_sim_damage(struct env *e, const char *path, uint64_t offset, unsigned bits);

/* True inside of a call: memory taken there is the machine's own. */
extern volatile bool env_sim_inside;

#endif
