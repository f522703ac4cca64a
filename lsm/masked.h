/*
 * masked.h - an iterator's children without what range deletes hide.
 *
 * The children of an iterator over a view are its memtables and tables, from the newest: of any key, what a newer one
 * says is newer than all that an older one has. So where a range delete of one covers a stretch of keys, the older ones
 * have nothing to say there at all, and are put behind it by one seek. In its own memtable or table a range delete
 * hides what is older than it, entry by entry; flushes and compactions leave of that only what a snapshot needs.
 *
 * A view without range deletes has no masks, and its iterators cost what they cost without any of this.
 *
 * Threads: as the iterators, one.
 */
#ifndef LSM_MASKED_H
#define LSM_MASKED_H

#include "db.h"

/*
 * Puts masks on the children of an iterator over `v`, which stand in the order of view_children: what they show then
 * is what range deletes with seq <= seq leave. On error children are as they were or masked, and still the caller's.
 */
int view_mask(struct view *v, uint64_t seq, unsigned flags, struct iter **children, size_t count,
              uint64_t *skipped);

/* All memtables and tables of a view as iterators: at most view_children_max, from the newest. On error none. */
size_t view_children_max(const struct view *v);
int view_children(struct view *v, bool tables, unsigned flags, struct iter **children, size_t *count);

#endif
