/*
 * compact.h - the loop that turns sorted entries into tables: flush and compaction are the same.
 *
 * Per user key, newest first, and with `snapshots` ascending: a version is dropped if a newer one
 * is visible to the same snapshots; merge operands are folded with what lies below them as far as
 * no snapshot stands between; a delete is dropped when `bottom` says that nothing older can exist
 * below and no snapshot older than it is live. An operand that meets the bottom becomes a put. Over a value that
 * lies in a blob file an operand stays what it is: folding would read and write that file.
 * A range delete is a delete of every key that it covers, and is itself written, cut at the bounds of the tables.
 * At the bottom it is dropped if no snapshot is older. Counts are checked: entries in = entries out + dropped + folded, else -EIO and nothing is kept.
 *
 * Threads: the shard's background thread.
 */
#ifndef LSM_COMPACT_H
#define LSM_COMPACT_H

#include "table.h"
#include "version.h"

struct compact_job {
    struct env *env;
    const char *dir;
    struct vset *vs; /* for file numbers */
    const struct logger *log;
    struct iter *input;          /* owned by the caller */
    uint64_t expected_entries;   /* of all inputs: must be met exactly */
    const struct ranges *ranges; /* of all inputs, built with `snapshots`; NULL: none */
    const uint64_t *snapshots;   /* ascending; seqs that must stay readable */
    size_t snapshot_count;
    bool bottom;
    lsm_merge_fn merge;
    void *merge_arg;
    size_t block_bytes;
    uint64_t deletes_since_s; /* for the tables' meta; no delete in the input is older */
    enum table_compression compression;
    unsigned filter_bits;
    struct table_writer_stats *writer_stats; /* or NULL */
    /*
     * May put another pointer in the place of this one (blob_collect.c): *len in and out, at most BLOB_POINTER_MAX. An
     * error aborts. NULL: pointers stay as they are.
     */
    int (*move)(void *arg, uint8_t *pointer, size_t *len);
    void *move_arg;
    uint64_t max_output_bytes; /* cut a table here (never between versions of one user key); 0: never */
    const struct level
        *grandparent; /* NULL, or the level below the output: cut where overlap grows over 10 tables */
    /* Called every 64 KiB of input: lets a flush in between. An error aborts. May be NULL. */
    int (*yield)(void *arg);
    void *yield_arg;
    /*
     * NULL, or the entries of newer tables in order, and their range deletes, owned by the caller: what they hide
     * from everybody is dropped, too. An operand hides nothing.
     */
    struct iter *above;
    const struct ranges *above_ranges;
    bool dry; /* writes nothing: dropped_bytes and dropped_blob_bytes are the result */
};

struct compact_result {
    struct table_meta *tables; /* malloc'ed, each synced; compact_result_free releases */
    size_t count;
    uint64_t entries_in, entries_out, dropped, bytes_read, bytes_written;
    uint64_t dropped_bytes;      /* keys and values of what `above` hides, as they are in the table */
    uint64_t dropped_blob_bytes; /* and what their pointers mean in blob files */
    bool bad_input;              /* with an error: the input is damaged; trying again is in vain */
};

/*
 * On error every output is removed again and *out is empty but for bad_input. The tables are synced, their directory
 * is not: vset_apply does that before it names them.
 */
int compact_run(const struct compact_job *job, struct compact_result *out);
void compact_result_free(struct compact_result *r);
void compact_result_discard(struct env *env, const char *dir, struct compact_result *r); /* also unlinks */

#endif
