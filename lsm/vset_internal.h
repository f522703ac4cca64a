/*
 * vset_internal.h - what version.c, vset.c, vset_open.c and compaction_pick.c share of a version set.
 */
#ifndef LSM_VSET_INTERNAL_H
#define LSM_VSET_INTERNAL_H

#include "manifest.h"
#include "version.h"

#include <pthread.h>

/* The log's bookkeeping, as edits change it. */
struct log_state {
    struct wal_use *uses; /* ascending base */
    size_t count, capacity;
    lsn_t start, synced, flushed[SHARDS_MAX]; /* atomic: read without the lock */
};

struct vset {
    struct env *env;
    char *dir;
    bool read_only;
    struct cache *cache;
    struct table_reader_stats *reader_stats;
    struct logger log;
    unsigned level_ratio;
    uint64_t table_bytes, write_buffer_bytes;
    bool (*no_space)(void *arg, uint64_t bytes);
    void *no_space_arg;
    struct store_identity identity;

    pthread_mutex_t lock; /* the manifest lock: guards everything below that is not said to be atomic */
    struct manifest *manifest;
    uint64_t rollover_bytes; /* the manifest is rewritten when it has grown to this */
    uint64_t rollovers;
    int failed;           /* atomic; 0, or the error that ended it */
    uint64_t next_number; /* atomic */
    struct log_state state;
    struct named_list named;
    struct version *current[SHARDS_MAX];
    struct blob_file *dead_blobs; /* atomic stack, linked by dead_next; likewise */
    struct table_file *dead;      /* atomic stack, linked by dead_next; popped only as a whole */
};

/* ---- log_state.c ---- */

/* Makes room so that log_state_apply can't fail. */
int log_state_reserve(struct log_state *s);
void log_state_apply(struct log_state *s, const struct edit *e);

/* ---- version.c ---- */

/* Opens the table, or with `damaged` a stand-in for it; the file has one reference. Copies meta. */
int table_file_open(struct vset *vs, unsigned shard, const struct table_meta *meta, bool damaged,
                    struct table_file **out);
void table_file_unref(struct vset *vs, struct table_file *f); /* the last one puts it on the dead list */
void table_file_free(struct table_file *f);                   /* closes the table */
struct table_file *vset_take_dead(struct vset *vs);

struct blob_file *vset_take_dead_blobs(struct vset *vs);

/* How the blob files of a version differ from those of the one it is made from. */
struct version_blob_change {
    struct blob_file *const *add; /* the version takes references of its own */
    size_t add_count;
    const struct blob_meta *remove;
    size_t remove_count;
};

struct version_add {
    struct table_file *file; /* the version takes a reference of its own */
    unsigned level;
};

/*
 * What `base` (NULL: nothing) becomes by removing and adding; `blobs` may be NULL. -EINVAL if a removed table is not
 * there or if the result would break the order of a level; -ENXIO if a table names a blob file that is not in the
 * result. A table that is removed and added moves.
 */
int version_build(struct vset *vs, unsigned shard, const struct version *base, const struct edit_file *remove,
                  size_t remove_count, const struct version_add *add, size_t add_count,
                  const struct version_blob_change *blobs, struct version **out);

/* ---- rollback.c ---- */

/* The end of what the state knows of the log: nothing was ever written there, no seq is as high. */
lsn_t log_state_top(const struct log_state *s);

/*
 * -EUCLEAN, with a line in the log, if files that the manifest does not name or know prove it to be older than they
 * are. `logs`: all segment files there are.
 */
int rollback_check(const struct vset *vs, const uint64_t *unnamed_tables, size_t table_count,
                   const uint64_t *logs, size_t log_count);

/* ---- vset_open.c ---- */

/* What of ours is in the store's directory. */
struct listing {
    uint64_t *tables, *logs, *blobs; /* numbers of all NNNNNN.sst, .log and .blob; malloc'ed */
    size_t table_count, table_capacity, log_count, log_capacity, blob_count, blob_capacity;
    uint64_t number_max; /* of any file of ours */
};
int listing_read(struct env *env, const char *dir, struct listing *out);
void listing_free(struct listing *l);
/* Keeps only the tables and blob files that no version names. */
int listing_keep_unnamed(const struct vset *vs, struct listing *l);

/* ---- vset.c ---- */

/* Writes the whole state into a new manifest in the place of the old one. An error is final once *renamed. */
int vset_rollover(struct vset *vs, bool *renamed);
/*
 * Under the manifest lock: the state as it is, with a log that is synced up to `end` and goes no further, in a new
 * dir/MANIFEST.new. The caller publishes or discards it.
 */
int vset_write_copy(struct vset *vs, const char *dir, lsn_t end, struct manifest **out);
/* Everything but the manifest's contents. */
int vset_new(const struct vset_options *options, struct vset **out);
void vset_free(struct vset *vs); /* closes all tables and deletes nothing, not even what is dead */

#endif
