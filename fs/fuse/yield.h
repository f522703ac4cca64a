/*
 * yield.h - keeping a client and its queue's thread on one CPU.
 *
 * A client sleeps while its queue's thread, on the same CPU, works for it. Linux puts a thread that is woken on an idle
 * CPU, if there is one, and takes the CPU of who wakes it for busy; so the answer sends the client to another CPU, where it
 * asks that one's queue, and so on. Each time an idle CPU has to be woken, which costs more than the request: on a virtual
 * machine of two CPUs one program made 5 to 10 thousand files a second, and 22 thousand when it was bound to a CPU.
 *
 * A CPU that runs nothing but threads of SCHED_IDLE counts as idle (sched(7); Linux 5.4 and later). So the queues' threads
 * are that while the machine has a CPU to spare: a client is woken where it was, at once, and the thread waits for it. With
 * that one free program made 20 thousand files a second.
 *
 * When no CPU is idle nobody is sent away, and SCHED_IDLE would let what computes go before the requests (measured: 0.3 times
 * as many). So a thread watches, ten times a second while requests come in, how long the CPUs are idle (/proc/stat), and
 * the queues' threads are ordinary ones when that is less than a third of a CPU's time.
 *
 * Who became SCHED_IDLE needs RLIMIT_NICE (setrlimit(2)) or CAP_SYS_NICE to come back. privileges.h sees to that for root;
 * where it is not allowed, or somebody gave us another policy, or there is one CPU, all stays as it was.
 *
 * Threads: yield_new and yield_free from one, yield_apply from each queue's own, yield_state from any.
 */
#ifndef FUSE_YIELD_H
#define FUSE_YIELD_H

#include <stdbool.h>
#include <stddef.h>

struct yield;

/* What a queue's thread is; its own, zero at first. */
struct yield_of {
    bool idle;
};

/* 0, or a negative errno. -ENOTSUP: it can't be had here; *out is NULL, which the other functions take for "never". */
int yield_new(struct yield **out);
/* When no thread calls yield_apply any more. */
void yield_free(struct yield *y);

/* A queue's thread, after it served requests and before it answers: becomes what it should be now. */
void yield_apply(struct yield *y, struct yield_of *self);

bool yield_state(const struct yield *y); /* whether a CPU is to spare */

/*
 * Whether a CPU is to spare after `wall` seconds in which the CPUs were idle for `idle` seconds in all, if one `was` before.
 * Exposed for tests, as is the reading of /proc/stat: how long all CPUs have been idle; negative: `text` does not say.
 */
bool yield_decide(double wall, double idle, bool was);
double yield_idle_ticks(const char *text);

#endif
