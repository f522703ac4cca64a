/*
 * ikey.h - internal keys and internal iterators: what memtables, tables and merges speak.
 *
 * A stored entry is (user key, seq, type) -> value. `seq` is the LSN of the batch's record plus the
 * index of the change within the batch (a record is longer than the number of its changes, so seqs
 * are unique and ordered as the history was). Order: user key ascending (memcmp, then length), then
 * seq DESCENDING, so that the newest version of a key comes first.
 */
#ifndef LSM_IKEY_H
#define LSM_IKEY_H

#include "coding.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t lsn_t;

#define SEQ_MAX ((UINT64_C(1) << 56) - 1) /* a seq shares 8 bytes with the type: seq << 8 | type */

/* On disk in log and tables: never renumber. */
enum entry_type {
    ENTRY_DELETE = 0,
    ENTRY_PUT = 1,
    ENTRY_MERGE = 2,
    ENTRY_BLOB = 3, /* value is a pointer into a blob file: blob_format.h */
    ENTRY_RANGE_DELETE =
        4, /* key is the start; the value has the end: batch.h in the log, table_format.h in a table */
};

struct ikey {
    const uint8_t *key;
    uint32_t len;
    uint8_t type;
    uint64_t seq;
};

/* As memcmp, eight bytes at a time: keys are short, and to call it costs more than to compare them. */
static inline int key_compare(const void *a, size_t alen, const void *b, size_t blen)
{
    const uint8_t *p = a, *q = b;
    size_t n = alen < blen ? alen : blen;
    for (; n >= 8; n -= 8, p += 8, q += 8) {
        uint64_t x = get_be64(p), y = get_be64(q);
        if (x != y)
            return x < y ? -1 : 1;
    }
    for (; n; n--, p++, q++)
        if (*p != *q)
            return *p < *q ? -1 : 1;
    return (alen > blen) - (alen < blen);
}
static inline int ikey_compare(const struct ikey *a, const struct ikey *b)
{
    int c = key_compare(a->key, a->len, b->key, b->len);
    return c ? c : (a->seq < b->seq) - (a->seq > b->seq);
}

/*
 * An internal iterator. Concrete iterators embed this as their first member. `key` and `value` are
 * valid while `valid` and until the next call. After an error valid is false and status is set;
 * running off an end leaves status 0. With LSM_NOWAIT a block that is not in memory makes status
 * -EAGAIN.
 */
struct iter {
    const struct iter_ops *ops;
    bool valid;
    int status;
    struct ikey key;
    const uint8_t *value;
    size_t value_len;
};

struct iter_ops {
    void (*first)(struct iter *it);
    void (*last)(struct iter *it);
    /* First entry >= (key, seq) in the order above; seq SEQ_MAX finds the newest version. */
    void (*seek)(struct iter *it, const uint8_t *key, size_t len, uint64_t seq);
    void (*next)(struct iter *it);
    void (*prev)(struct iter *it);
    void (*free)(struct iter *it);
};

static inline void iter_first(struct iter *it) { it->ops->first(it); }
static inline void iter_last(struct iter *it) { it->ops->last(it); }
static inline void iter_seek(struct iter *it, const uint8_t *key, size_t len, uint64_t seq)
{
    it->ops->seek(it, key, len, seq);
}
static inline void iter_next(struct iter *it) { it->ops->next(it); }
static inline void iter_prev(struct iter *it) { it->ops->prev(it); }
static inline void iter_free(struct iter *it)
{
    if (it)
        it->ops->free(it);
}

/*
 * Merges n iterators into one in internal-key order. Takes ownership of the children (also on
 * failure). Children's errors become its own. In merge.c.
 */
int merge_iter_new(struct iter **children, size_t n, struct iter **out);

#endif
