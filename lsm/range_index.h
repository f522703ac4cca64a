/*
 * range_index.h - the range deletes of a memtable: which of them cover a key, while more are added.
 *
 * An interval skip list (E. Hanson, The Interval Skip List, 1991). Its nodes are the bounds of all range
 * deletes. A link from node p to node q stands for [p, q); a range delete is entered, by its seq, in the marks of
 * the few links that together make up its range, the longest there are. The links that stand over a key are those on
 * the way of a search for it, one a level; whatever covers the key is in the marks of one of them.
 *
 * Here marks are a list that only grows at its head, newest first, and is shared: a new node splits the links of
 * its levels by taking over the head of each. So nothing ever moves, and a reader that knows which seqs it may
 * see is not disturbed by a writer: what it looks for is below what is being added. Marks have a second link that skips
 * (E. Myers, An applicative random-access stack, 1983), so that a reader at an old snapshot finds his place in
 * log n steps, too.
 *
 * Adding and asking cost O(log n), for any number of range deletes, however nested. The one exception: a range that
 * would take more than RANGE_MARKS_MAX links, which random heights make as good as impossible, is kept aside
 * and compared each time. It bounds what adding takes of the arena beforehand.
 *
 * Threads: one writer at a time, seqs ascending; any readers, who see seqs <= theirs if those were published to them.
 */
#ifndef LSM_RANGE_INDEX_H
#define LSM_RANGE_INDEX_H

#include "arena.h"
#include "ranges.h"

#define RANGE_MARKS_MAX 96u /* on average one for each level up and one down: 40 for a million */

/* Zero-initialised is empty. */
struct range_index {
    struct arena *arena; /* set before the first add */
    unsigned marks_max;  /* RANGE_MARKS_MAX; tests set less */
    uint32_t head;       /* atomic; the node before all bounds */
    uint32_t newest;     /* atomic; of all range deletes, linked */
    uint32_t loose;      /* atomic; of those kept aside, linked */
    unsigned height;     /* atomic; levels in use */
    uint64_t count;      /* atomic */
    uint64_t random;
};

/* What adding one takes of the arena, at most. */
size_t range_index_bytes(size_t start_len, size_t end_len);
void range_index_add(struct range_index *x, const struct range_delete *d);
static inline uint64_t range_index_count(const struct range_index *x)
{
    return __atomic_load_n(&x->count, __ATOMIC_ACQUIRE);
}

/* The newest seq <= seq that covers key, 0 if none. bounds (may be NULL): where that is the answer at this seq, for good. */
uint64_t range_index_cover(const struct range_index *x, const void *key, size_t len, uint64_t seq,
                           struct range_bounds *bounds);
/* Adds all to `out`. Only when nobody adds any more. */
int range_index_list(const struct range_index *x, struct ranges *out);

#endif
