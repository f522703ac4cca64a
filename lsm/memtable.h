/*
 * memtable.h - a skip list in a fixed arena: what was written and is not yet in a table.
 *
 * One writer at a time (the shard's lock), readers without a lock at any time. Every version of a
 * key is kept, newest first. A merge operand is folded with the version below it when it is
 * inserted: over a complete value it becomes a value; over another operand it is kept as it came,
 * for iterators and flushes (a snapshot may stand between the two), and folded with all operands
 * below it, for point reads, which therefore meet at most one operand per memtable and key. A value
 * that lies in a blob file is not read for that: it stays below its operands.
 *
 * Range deletes stand beside the list, in an index of their own (range_index.h). An operand that is inserted over
 * a range delete is folded with nothing. A reader asks for both: what covers a key hides the versions below its seq.
 *
 * Memory: one anonymous mapping of the size given; nothing else is allocated. memtable_room says
 * beforehand whether a change fits, so inserting can't fail.
 *
 * Source: W. Pugh, Skip Lists (1990); the lock-free reader as in LevelDB's skiplist.h.
 */
#ifndef LSM_MEMTABLE_H
#define LSM_MEMTABLE_H

#include "ranges.h"

struct memtable;
struct node; /* memtable.c */

#define MEMTABLE_RANGES_MAX (16u << 20) /* bytes of their bounds: they become one block of a table */

#define MEMTABLE_HEIGHT_MAX 12 /* with branching 4: good for 4^12 = 16 million entries */

/* Transitions only forwards, one step at a time, asserted. */
enum memtable_state { MEMTABLE_ACTIVE, MEMTABLE_SEALED, MEMTABLE_FLUSHING, MEMTABLE_FLUSHED };

int memtable_new(size_t arena_bytes, lsm_merge_fn merge, void *merge_arg, struct memtable **out);
void memtable_ref(struct memtable *m);
void memtable_unref(struct memtable *m);

/*
 * An upper bound of what a change takes in the arena. For a merge operand value_len is the length of
 * the operand plus that of the longest value that it may be folded with.
 */
size_t memtable_entry_bytes(size_t key_len, size_t value_len);
size_t memtable_free_bytes(const struct memtable *m);
size_t memtable_used_bytes(const struct memtable *m);
uint64_t memtable_count(const struct memtable *m); /* entries, without range deletes */
uint64_t memtable_range_count(const struct memtable *m);
uint64_t memtable_blob_bytes(const struct memtable *m); /* that its pointers into blob files mean */
uint64_t memtable_deletes(const struct memtable *m);
bool memtable_is_empty(const struct memtable *m);
/* Whether range deletes with bounds of so many bytes in all may still come. */
bool memtable_takes_ranges(const struct memtable *m, size_t bytes);
/* As memtable_entry_bytes, for a range delete. */
size_t memtable_range_bytes(size_t start_len, size_t end_len);
uint64_t memtable_table_bytes(const struct memtable *m); /* what a table of it takes, about; rather more */
/* Of the tables' blocks; before anything is added. Else memtable_table_bytes leaves the index out. */
void memtable_set_block_bytes(struct memtable *m, size_t bytes);

/* Length of the newest version's (folded) value in this memtable, 0 if none: what folding may need. Writer only. */
size_t memtable_newest_len(const struct memtable *m, const void *key, size_t len);

/* Writer only, before the inserts of a log record [lsn, end): what the memtable makes obsolete in the log. */
void memtable_begin_record(struct memtable *m, lsn_t lsn, lsn_t end);

/* Writer only; seqs must ascend. Room was checked by the caller. */
void memtable_insert(struct memtable *m, uint64_t seq, enum entry_type type, const void *key, size_t key_len,
                     const void *value, size_t value_len);

/*
 * Where the last one of ascending inserts went: the next is looked for from there, not from the top. All NULL: nowhere yet.
 * Random keys of 24 bytes into a list of a million, sorted by 10 000: 4 times as fast as one by one.
 */
struct memtable_place {
    struct node *before[MEMTABLE_HEIGHT_MAX];
};

/* memtable_insert of a key that is not below the last one inserted at `place`; nobody inserts anything in between. */
void memtable_insert_after(struct memtable *m, struct memtable_place *place, uint64_t seq,
                           enum entry_type type, const void *key, size_t key_len, const void *value,
                           size_t value_len);

/* The same as memtable_insert for a range delete of the keys >= start and < end. */
void memtable_delete_range(struct memtable *m, uint64_t seq, const void *start, size_t start_len,
                           const void *end, size_t end_len);

/* LSN of the first record and the end of the last one; 0 if empty. Any thread, once it is sealed; else the writer. */
lsn_t memtable_first_lsn(const struct memtable *m);
lsn_t memtable_end_lsn(const struct memtable *m);

/*
 * The newest version with seq <= seq; false if there is none. Of an operand the value is folded
 * with all older ones in this memtable: go on with the next one. The value lives as long as m.
 */
bool memtable_get(const struct memtable *m, const void *key, size_t len, uint64_t seq, struct ikey *out_key,
                  const uint8_t **value, size_t *value_len);

/* The value in a blob file that the operands of key with seq <= seq in this memtable apply to; false if there is none. */
bool memtable_blob_below(const struct memtable *m, const void *key, size_t len, uint64_t seq,
                         struct ikey *out_key, const uint8_t **value, size_t *value_len);
/* The newest range delete with seq <= seq that covers key; 0 if none. See range_index_cover. */
uint64_t memtable_cover(const struct memtable *m, const void *key, size_t len, uint64_t seq,
                        struct range_bounds *bounds);
/* Adds its range deletes to `out`. Nobody may be writing. */
int memtable_ranges(const struct memtable *m, struct ranges *out);

/* Holds a reference on m. Operands come as they were inserted over other operands: unfolded. */
int memtable_iter_new(struct memtable *m, struct iter **out);

/* When it began, in seconds since 1970: set once, before others see it. */
void memtable_set_born_s(struct memtable *m, uint64_t s);
uint64_t memtable_born_s(const struct memtable *m);

enum memtable_state memtable_state(const struct memtable *m);
void memtable_set_state(struct memtable *m, enum memtable_state state);

#endif
