/*
 * repair.h - private to repair.c and rebuild.c, the two ways to repair a store.
 */
#ifndef LSM_REPAIR_H
#define LSM_REPAIR_H

#include "salvage.h"
#include "vset_internal.h"

/* Numbers of files. */
struct numbers {
    uint64_t *list;
    size_t count, capacity;
};
int numbers_add(struct numbers *n, uint64_t number); /* -ENOMEM */
bool numbers_have(const struct numbers *n, uint64_t number);

struct repair {
    struct env *env;
    const char *path;
    const struct lsm_options *options;
    lsm_problem_fn fn;
    void *arg;
    struct lsm_repaired *out;
    struct cache *cache;
    size_t table_bytes, block_bytes;
    struct numbers bad_tables, bad_logs; /* what verifying found */
    struct numbers bad_blobs;
    struct numbers written; /* tables of ours, to be removed if it fails */

    /* what the store is to be */
    struct vset *result;
    struct version_add *add[SHARDS_MAX]; /* grown by powers of two; their tables are open */
    size_t add_count[SHARDS_MAX];
    struct blob_file **blobs; /* what there is of blob files, of all shards: they stay as they are */
    size_t blob_count;
    struct numbers replaced;               /* tables all of whose entries are in new ones: deleted */
    struct numbers keep_tables, keep_logs; /* files to be moved to "lost" */
};

__attribute__((format(printf, 4, 5))) void repair_report(struct repair *r, const char *file, bool damage,
                                                         const char *format, ...);

/* Makes the table a part of the result. */
int repair_add(struct repair *r, unsigned shard, unsigned level, const struct table_meta *meta);
/* The same for what salvage or compaction has written; frees what it held in any case. */
int repair_add_written(struct repair *r, unsigned shard, unsigned level, struct compact_result *written);
/* Makes the blob file known to the result, unless it is. */
int repair_add_blob(struct repair *r, const struct blob_meta *meta);
struct blob_file *repair_find_blob(void *repair, uint64_t number);
/* The bounds of the result's log: it has none, and goes on at `top`. */
void repair_set_log(struct repair *r, lsn_t top);

/* How tables of this level are to be compressed: not at all if the store has never been. */
enum table_compression repair_compression(const struct repair *r, unsigned level);
unsigned repair_filter_bits(const struct repair *r, unsigned level); /* likewise */

/* ---- rebuild.c: the manifest is no good ---- */

int rebuild(struct repair *r);

#endif
