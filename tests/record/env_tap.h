/*
 * env_tap.h - an env (lsm/env.h) of the real system that does everything twice: the second time in another directory.
 *
 * Below a recorder this shows that no byte reaches a store but through the env: at the end both directories
 * are the same, and the recorder has seen as many syncs as were asked for here.
 *
 * With `map` what goes into existing bytes of a log segment is stored through a shared mapping of ours; elsewhere, and
 * without it, by pwritev. Linux lets env_posix map nothing on a FUSE filesystem, which is why the mapping is made here.
 *
 * A store is one directory of files. Threads: as env.h.
 */
#ifndef RECORD_ENV_TAP_H
#define RECORD_ENV_TAP_H

#include "env.h"

/* `shadow`: an existing directory. One at a time, never released. Ends the process if the second time fails. */
struct env *env_tap(const char *shadow, bool map);
uint64_t env_tap_syncs(void);

#endif
