/*
 * table.h - SSTs: sorted, immutable, checksummed files of entries. The format stands in table_format.h.
 *
 * A builder belongs to one thread. An open table may be used by any number of threads.
 */
#ifndef LSM_TABLE_H
#define LSM_TABLE_H

#include "cache.h"
#include "env.h"
#include "ikey.h"
#include "logger.h"
#include "ranges.h"
#include "slot.h"
#include "table_format.h"
#include <shale/lsm.h>

struct table;
struct table_builder;

/* How much of a blob file a table names. */
struct blob_ref {
    uint64_t number, pointers, bytes; /* bytes: what the pointers mean */
};

/* What the manifest keeps of a table. Keys and `blobs` are malloc'ed; table_meta_free releases them. */
struct table_meta {
    uint64_t number; /* of the file: NNNNNN.sst */
    uint64_t bytes;
    uint64_t entries, deletes, merges;
    uint64_t range_deletes;          /* fragments and seqs, not among the entries; one of both is above 0 */
    uint64_t key_bytes, value_bytes; /* uncompressed user bytes */
    uint64_t seq_min, seq_max;
    uint64_t
        deletes_since_s; /* no delete in it is older: seconds since 1970; 0: not known. Not in the file */
    uint8_t *smallest, *largest; /* user keys: nothing in the table concerns others */
    uint32_t smallest_len, largest_len;
    bool largest_exclusive; /* the largest is the end of a range delete: it is not concerned itself */
    struct blob_ref *blobs; /* ascending number; of the manifest's word only: files do not say it */
    size_t blob_count;
    uint64_t
        part_bytes; /* of what `blobs` says, what pointers to a part of an extent mean; 0 may be: not known */
    bool blobs_unknown; /* there was no manifest to say it (table_read_meta) */
};
/* Counts one pointer in. -ENOMEM */
int table_meta_add_blob(struct table_meta *m, uint64_t number, uint64_t bytes);
void table_meta_free(struct table_meta *m);
int table_meta_copy(const struct table_meta *from, struct table_meta *to);

/* Nothing in the table concerns key, or what is above it. */
static inline bool table_ends_before(const struct table_meta *m, const void *key, size_t len)
{
    int c = key_compare(m->largest, m->largest_len, key, len);
    return c < 0 || (c == 0 && m->largest_exclusive);
}

/* "NNNNNN.sst" under dir. */
void table_path(const char *dir, uint64_t number, char *buf, size_t size);

/* ---- writing ---- */

struct table_builder_options {
    struct env *env;
    const char *dir;
    size_t block_bytes;
    uint64_t expected_entries;          /* 0: unknown; sizes the hash array of the filter */
    enum table_compression compression; /* of data and index blocks, where it pays */
    unsigned filter_bits;               /* of a fingerprint: filter.h; 0: the filter of release 0.1 */
    struct table_writer_stats *stats;   /* or NULL */
};

struct table_writer_stats {           /* updated with relaxed atomics when a table is complete */
    uint64_t raw_bytes, stored_bytes; /* of data and index blocks, before and after compression */
};

/* Creates the file. On any later error call table_builder_abort, which removes it. */
int table_builder_new(const struct table_builder_options *options, uint64_t number,
                      struct table_builder **out);
/* Entries in ascending internal-key order (checked: -EINVAL). */
int table_builder_add(struct table_builder *b, const struct ikey *key, const void *value, size_t value_len);
/*
 * Range deletes as fragments, ascending, each with its seqs newest first (checked: -EINVAL). Any time before the end, and
 * in no order relative to the entries.
 */
int table_builder_add_range(struct table_builder *b, const struct range_delete *d);
uint64_t table_builder_bytes(const struct table_builder *b); /* written and buffered so far */
uint64_t table_builder_entries(const struct table_builder *b);
/* Writes index, filter, properties and footer, syncs the file. The directory is the caller's to sync. Releases b on success. */
int table_builder_finish(struct table_builder *b, struct table_meta *out);
void table_builder_abort(struct table_builder *b); /* NULL is allowed */

/* ---- reading ---- */

struct table_reads {
    uint64_t blocks_read, block_bytes_read, filter_checks, filter_negatives;
};

struct table_reader_stats { /* zeroed at first */
    struct {
        struct table_reads n;
        uint8_t apart[SLOT_STRIDE - sizeof(struct table_reads)];
    } slot[SLOT_COUNT];
};
struct table_reads table_reader_stats_sum(const struct table_reader_stats *s);

struct table_options {
    struct env *env;
    const char *dir;
    struct cache *cache;
    struct table_reader_stats *stats;
    struct logger log;
};

/* Opens and verifies footer and properties against meta (entries, size); index and filter are read through the cache. */
int table_open(const struct table_options *options, const struct table_meta *meta, struct table **out);
void table_close(struct table *t);

/*
 * A stand-in for a table that table_open refused: whatever asks it for what may lie in it, by meta's
 * bounds, gets -EIO and a line in the log. So one bad table leaves the others readable.
 */
int table_open_damaged(const struct table_options *options, const struct table_meta *meta,
                       struct table **out);

bool table_is_damaged(const struct table *t); /* it is such a stand-in */
const struct table_meta *table_meta_of(const struct table *t);

/* What a table file says of itself, when there is no manifest to say it: verified footer and properties. -EIO, -ENOENT */
int table_read_meta(const struct table_options *options, uint64_t number, struct table_meta *out);

/*
 * The newest version of key with seq <= seq. -ENOENT: none here. flags: LSM_NOWAIT, LSM_NOFILL.
 * On success *pin keeps the value alive: release it with table_release.
 */
int table_get(struct table *t, const void *key, size_t len, uint64_t seq, unsigned flags,
              struct ikey *out_key, const uint8_t **value, size_t *value_len, struct cache_block **pin);
void table_release(struct table *t, struct cache_block *pin);

/*
 * With this flag table iterators pass over blocks that can't be read, where others end with -EIO. For
 * salvage only: what comes out has holes. Above the flags of lsm.h, never passed in from outside.
 */
#define LSM_SALVAGE (1u << 28)

/*
 * The newest range delete with seq <= seq that covers key into *cover, 0 if none; bounds (may be NULL): where that is
 * the answer. flags as for table_get. In table_ranges.c, as is the next.
 */
int table_cover(struct table *t, const void *key, size_t len, uint64_t seq, unsigned flags, uint64_t *cover,
                struct range_bounds *bounds);
/* Adds its range deletes to `out`, as fragments. */
int table_ranges(struct table *t, struct ranges *out);

/*
 * Blocks that lookups of this thread with LSM_NOWAIT and TABLE_NOTE did not find in the cache, to be read all at once; zeroed at
 * first. Bounded in number and bytes: what finds no room is missed again next time.
 */
#define TABLE_NOTE (1u << 27)
#define TABLE_WANTS_MAX 64u
#define TABLE_WANTS_BYTES (4u << 20)

struct table_wants {
    unsigned count;
    size_t bytes;
    struct table_want {
        const struct table *table;
        uint64_t offset, length;
    } list[TABLE_WANTS_MAX];
};

void table_note_in(struct table_wants *w); /* from now on, on this thread; NULL: nowhere */
/*
 * Reads them in as few calls as env can, into the cache. got[i] is the block, referenced (table_release), or NULL, if it can't
 * be had: who reads it alone is told why. Empties w.
 */
void table_fetch(struct env *env, struct table_wants *w, struct cache_block *got[TABLE_WANTS_MAX]);

/* The table must outlive the iterator. */
int table_iter_new(struct table *t, unsigned flags, struct iter **out);

/* Reads and verifies every block, order, counts and bounds. *bad_offset is set on -EIO. */
int table_verify(struct table *t, uint64_t *bad_offset);

#endif
