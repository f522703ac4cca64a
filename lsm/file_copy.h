/*
 * file_copy.h - a second file with the same bytes, and a second name for a file.
 *
 * Threads: any.
 */
#ifndef LSM_FILE_COPY_H
#define LSM_FILE_COPY_H

#include "env.h"

/* Makes `to` (-EEXIST) of the first `bytes` of `from`, or of all of it if it is shorter; `how`: 0 or ENV_IN_PLACE. Not synced. */
int file_copy(struct env *env, const char *from, const char *to, uint64_t bytes, unsigned how);
/* A hard link, or where there can't be one (other filesystem, no links there, too many) a synced copy. -EEXIST. */
int file_link_or_copy(struct env *env, const char *from, const char *to);

#endif
