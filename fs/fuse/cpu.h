/*
 * cpu.h - the CPUs of this machine: how many there can be, and where a thread runs.
 */
#ifndef FUSE_CPU_H
#define FUSE_CPU_H

/* As many as can ever be there, as the kernel counts its queues. */
unsigned cpu_possible(void);
/* The first number of CPUs in text such as "0-3,8"; 0: it is none. Exposed for tests. */
unsigned cpu_count_list(const char *text);

/* The calling thread runs there from now on, if it may; -1: anywhere. It is not an error if it can't: a CPU may be
 * absent or not ours, and the thread works anywhere. Returns whether it is pinned. */
int cpu_pin(int cpu);

/* The calling thread works off requests that somebody waits for: it runs soon when there is one (lsm/env_posix_thread.h). */
void cpu_prompt(void);

/* The calling thread gets the policy of the process's first thread, whatever the one that started it is for now (yield.h). */
void cpu_ordinary(void);

#endif
