/*
 * nodes.h - the files and directories of a recorded directory: which id stands for which of them.
 *
 * A node's id is its number in the trace and towards the kernel. It stays the same as long as the file has a name or
 * is in use, so nodes are kept until both has ended. Each holds an open descriptor of what it stands for.
 *
 * Threads: node_of from any; all else under record_lock.
 */
#ifndef RECORD_NODES_H
#define RECORD_NODES_H

#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#define NODE_CONTROL UINT64_C(2) /* the control file; it is not in the directory */
#define NODES_MAX (1u << 20)

struct node {
    uint64_t id, uses; /* uses: references that the kernel holds */
    ino_t ino;
    int fd; /* regular: for reading and writing; symbolic links: O_PATH */
    mode_t type;
    struct node *next; /* of the same hash */
};

/* The directory `path` as root. 0 or a negative errno. */
int nodes_open(const char *path);
struct node *node_of(uint64_t id);
/* What `name` in `dir` leads to: known already, or new. `made`, if not NULL, says which. */
int node_find(struct node *dir, const char *name, struct node **out, int *made);
/* A new one for a descriptor, which it takes over. */
int node_add(int fd, const struct stat *st, struct node **out);
/* A name of it has gone. */
void node_unlinked(struct node *n);
void node_forget(struct node *n, uint64_t count);

#endif
