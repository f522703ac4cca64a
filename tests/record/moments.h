/*
 * moments.h - the trees that a trace (trace.h) goes through: moment N is what its first N records have made.
 *
 * Threads: one. Memory is taken as for granted.
 */
#ifndef RECORD_MOMENTS_H
#define RECORD_MOMENTS_H

#include "trace.h"
#include "tree.h"

struct moments;
struct moments *moments_new(const struct trace *t);
void moments_free(struct moments *m);
void moments_advance(struct moments *m, uint64_t n);
void moments_tree(struct moments *m, struct tree *out); /* by tree_free */
uint64_t moments_digest(struct moments *m);
/* If the next record is a write of which Linux may have handed on only the first page: the digest then; else 0. */
uint64_t moments_half(struct moments *m);

#endif
