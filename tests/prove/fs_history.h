/*
 * fs_history.h - private to the filesystem's histories: fs_history.c holds them against the model, fs_ops.c has the
 * operations.
 */
#ifndef FS_HISTORY_H
#define FS_HISTORY_H

#include "fs_tree.h"
#include "prove.h"

/* A change that is several batches, of which a crash may leave some: [off, x) punched out, x <= end. */
struct part {
    bool possible;
    unsigned node;
    uint64_t off, end;
    struct timespec now;
};

struct model {
    struct tree *tree;
    struct part part;         /* how it was come to, if in more than one batch */
    uint64_t acknowledged_ns; /* of the clock that the commit timer goes by */
};

struct run_own {
    struct fs *fs;
    unsigned held[TREE_NODES]; /* references on inodes of the current tree */
    bool scattered;            /* just now */
    uint64_t wall_ns;          /* the time that the next operation sees */
    struct part part;          /* of the change that is in flight or in doubt */
};

static inline uint64_t run_below(struct run *r, uint64_t n) { return run_draw(r) % n; }
static inline bool run_one_in(struct run *r, uint64_t n) { return run_draw(r) % n == 0; }

/* What names and reads must see now. Not to be changed. */
static inline struct tree *run_tree(const struct run *r) { return r->states[r->count].tree; }
/* The same, to be changed without that being a change: numbers learned, ghosts gone. */
struct tree *run_tree_own(struct run *r);
/* A copy to be changed by an operation, and the time it happens at. */
struct tree *run_next(struct run *r, struct timespec *now);
/*
 * The operation begins, of which the model says that it fails with `want`, or comes to `next`, which this takes
 * over. Then it ends, having returned `got`. `maybe`: an error, or nothing at all, does not mean that nothing was changed.
 */
void run_begin(struct run *r, struct tree *next, int want);
int run_end(struct run *r, int got, int want, bool maybe);
/* An operation has failed: is that all right? */
int run_failed(struct run *r, int err);
/* Some unlinked files, and others, are not referred to any more. */
void run_forget(struct run *r, bool all);
/* With nobody left who refers to them, all that deleted files left behind must go. */
void run_reap(struct run *r);
/* `shale check` must find nothing in what the store would be after a crash. `settled`: and no orphans. */
void run_fsck(struct run *r, bool settled);
/* Drains background work; then what is older than commit_ms must be on the medium (P3). */
int run_work(struct run *r);

/* ---- fs_ops.c ---- */

void op_change(struct run *r); /* one that commits something */
/* A file of so many extents that to remove them takes several steps; which is what may be done next. */
void op_scatter(struct run *r);

#endif
