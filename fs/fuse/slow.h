/*
 * slow.h - threads for what has to wait.
 *
 * A worker that takes requests hands over those that would make it wait, for the disk, for a lock, for room.
 * There are at most SLOW_THREADS_MAX threads for each worker that does so; what they can't do yet is queued.
 * The queue needs no bound of its own: each job is a request whose caller waits for the answer.
 *
 * Threads: slow_put from any; new and free from one, and nothing is put any more when free is called.
 */
#ifndef FUSE_SLOW_H
#define FUSE_SLOW_H

/*
 * Cold reads of this many are under way at a time for each CPU: disks like a queue, and each thread costs a
 * stack. The next ones wait; that holds up only what is slow itself.
 */
#define SLOW_THREADS_MAX 16u

struct slow;

struct slow_job { /* the owner's; not touched any more once run was called */
    struct slow_job *next;
    void (*run)(struct slow_job *job);
};

/* One thread is started at once, so that jobs are done whatever happens later. cpu: where, or -1. */
int slow_new(int cpu, struct slow **out);
void slow_put(struct slow *s, struct slow_job *job);
void slow_free(struct slow *s); /* when all jobs are done; NULL is allowed */

#endif
