/*
 * privileges.h - what a daemon that was started by root gives up.
 *
 * The daemon parses what programs write and what lies in the store. Should somebody find a way to make it
 * run his code, it should not be root in all its power. It keeps CAP_SYS_ADMIN, for mounting and
 * unmounting, CAP_DAC_READ_SEARCH, to reach both paths, and, if the store belongs to another user,
 * CAP_DAC_OVERRIDE, to write there. Where RLIMIT_NICE can't be raised to nice 0 (a container without CAP_SYS_RESOURCE), it keeps
 * CAP_SYS_NICE (yield.h). Nothing else, and no program that it might start can have more.
 *
 * An ordinary user's daemon keeps what it has: it needs the setuid program fusermount3 for unmounting.
 *
 * Nobody but root may look into the daemon's memory (ptrace, core dumps), which holds files of others;
 * with -d, for who debugs it, that stays as it was.
 *
 * Threads: before the first thread is started: each thread has privileges of its own and inherits them.
 */
#ifndef FUSE_PRIVILEGES_H
#define FUSE_PRIVILEGES_H

#include <stdbool.h>

/* A failure is logged and the daemon goes on as it is: a kernel may lack a feature. `store` need not exist. */
void privileges_drop(const char *store, bool debug);

#endif
