/*
 * stats_text.h - the statistics of a store as text for a person or as JSON for a program.
 *
 * One formatter for the file .shale/stats of a mount and for the command `shale stats STORE`.
 * The text may change with any release; the names in the JSON object stay.
 *
 * Threads: any; takes a copy of the counters, so that numbers of one call need not add up exactly.
 */
#ifndef FS_STATS_TEXT_H
#define FS_STATS_TEXT_H

#include "fs.h"

enum stats_format { STATS_TEXT, STATS_JSON };

/* How a mounted store is served; fs/ itself knows nothing of that. */
struct stats_mount {
    const char *transport;  /* "uring" or "classic" */
    const char *why;        /* with classic: why not uring, and what would enable it; else "" */
    unsigned queues, depth; /* uring: queues, and requests that each can hold */
    unsigned threads;       /* that take requests */
    uint64_t requests;      /* taken since the mount */
    uint64_t deferred;      /* of them handed to a slow thread, because they had to wait */
    uint64_t yielded;       /* of them taken while the threads gave way to clients, because a CPU was idle */
};

/*
 * Describes the open filesystem `fs`, whose store is the directory `store`; `mount` is NULL if it is not mounted. On success *out is
 * *len bytes (with a NUL behind them, not counted) to be released with free().
 */
int stats_format(struct fs *fs, const char *store, const struct stats_mount *mount, enum stats_format format,
                 char **out, size_t *len);

#endif
