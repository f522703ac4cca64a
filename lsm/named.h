/*
 * named.h - names of snapshots that outlive the process: a list that edits of the manifest change.
 *
 * A named snapshot is a seq, like any other; what makes it last is that the manifest tells it to the next open
 * before anything is flushed or compacted there. Its name is a file name: 1 to 255 bytes, without NUL and slash,
 * neither "." nor "..".
 *
 * Threads: none of this locks; the list is guarded by the manifest lock.
 */
#ifndef LSM_NAMED_H
#define LSM_NAMED_H

#include <shale/lsm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct named_snapshot {
    uint64_t seq; /* the newest seq that is visible */
    uint64_t created_ns;
    char name[LSM_SNAPSHOT_NAME_MAX + 1];
};

struct named_list {
    struct named_snapshot *list; /* in the order of creation */
    size_t count, capacity;
};

struct edit;

bool named_is_valid(const char *name, size_t len);
/* NULL if there is none of that name. */
const struct named_snapshot *named_find(const struct named_list *l, const char *name);
/* Makes room so that named_apply can't fail. */
int named_reserve(struct named_list *l);
/* False: the edit takes a name that is taken, or drops one that is not there. Then nothing was changed. */
bool named_apply(struct named_list *l, const struct edit *e);

#endif
