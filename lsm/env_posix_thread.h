/*
 * env_posix_thread.h - private to env_posix: threads, and where and when they run.
 *
 * Threads started here take no asynchronous signals: those belong to the program that embeds us.
 *
 * Near. A thread that sleeps is bound to the caller's CPU before the caller wakes it. On a virtual machine of two CPUs waking
 * an idle CPU took 60 us, and a switch on the same one 7 us.
 *
 * Prompt. Linux (6.12 and later) lets a thread that wakes up interrupt a running one at once if its slice is shorter;
 * otherwise the one that runs may finish its slice, which is looked at once a tick: up to 4 ms. Beside two threads that
 * computed all the time (one of them at nice 10), on two CPUs, 600 bytes written and synced took in the median 1000 to 1700 us with the
 * default slice and 130 to 150 with the shortest. What share of the CPU a thread gets stays the same.
 *
 * Threads: any; `near` only while nobody else calls it for the same thread.
 */
#ifndef LSM_ENV_POSIX_THREAD_H
#define LSM_ENV_POSIX_THREAD_H

#include "env.h"

int posix_thread_start(struct env *e, const char *name, int cpu, void (*fn)(void *), void *arg,
                       struct env_thread **out);
void posix_thread_join(struct env *e, struct env_thread *t);
void posix_thread_near(struct env *e, struct env_thread *t);
void posix_thread_prompt(struct env *e);

#endif
