/*
 * salvage.h - out of what can be read of damaged tables, new ones: the part of repair that handles entries.
 *
 * Strict: of a key whose newest version may have been in a block that can't be read, nothing is taken, not
 * even an older version that can. A key that is there afterwards has the value it had before the damage.
 *
 * Threads: one.
 */
#ifndef LSM_SALVAGE_H
#define LSM_SALVAGE_H

#include "compact.h"
#include "db.h"

struct salvage {
    struct env *env;
    const char *dir;
    struct vset *numbers; /* where file numbers come from */
    size_t table_bytes, block_bytes;
    enum table_compression compression;
    unsigned filter_bits;
    lsm_route_fn route; /* with `shards` > 0 only the keys of this shard are taken */
    void *callback_arg;
    unsigned shard, shards;
    /*
     * Who says what a key's value is: a store that is open for reading, by its levels; or, without one, the
     * versions in the input by their seqs, with the damaged tables asked what they may have had.
     */
    struct lsm *db;
    /* The blob file that a pointer names; NULL: there is none. What can't be read in it is lost with its key. */
    struct blob_file *(*blob)(void *arg, uint64_t number);
    void *blob_arg;
    struct table **damaged;
    size_t damaged_count;
    const struct ranges *ranges; /* all range deletes that can be read, without a store */
    lsm_merge_fn merge;
};

struct salvaged {
    uint64_t saved, lost; /* keys: lost are those of which something else could be read */
};

/* What lsm_options.route means, NULL included. */
uint64_t salvage_route(lsm_route_fn route, void *arg, const void *key, size_t len);

/*
 * Writes the value of every key of `input` (all versions that can be read, in order) into tables of one sorted run,
 * complete and synced, their directory not. On error nothing is left of them.
 */
int salvage_run(const struct salvage *s, struct iter *input, struct compact_result *out,
                struct salvaged *counts);

#endif
