/*
 * blob_recover.h - recovery's look at the large values behind the records of the log.
 *
 * Above the synced mark a record may have survived a crash that a value it names did not: such a record ends
 * the log, as one with a bad checksum does. And where recovery writes the surviving records again, because after
 * a kill they may be in the page cache only, the same is due for the values they name: the very bytes that
 * were verified are written to the same place, and synced before the edit that says where the log ends.
 *
 * A file that the manifest does not know (any more) is named by nothing above the synced mark: it was made known
 * before its first use, and the edit that forgets one carries a synced mark above all that named it. So a record that
 * does name one proves that somebody has replaced the manifest by an older copy. A known file that is missing is damage
 * as well: it had its name on the medium before its first use. And a value that can't be read is an error, not an end.
 *
 * Threads: one, before the log is opened.
 */
#ifndef LSM_BLOB_RECOVER_H
#define LSM_BLOB_RECOVER_H

#include "vset_internal.h"

#define BLOB_CHECKED 256u /* small writes into a few extents name each of them many times */

struct blob_place {
    uint64_t number, offset; /* 0: none */
};

struct blob_recovery {
    const struct vset *vset;
    bool rewrite;
    struct blob_file **touched; /* malloc'ed; borrowed files */
    size_t count, capacity;
    struct blob_place
        checked[BLOB_CHECKED]; /* extents that were good, and written again, at a place by hash */
};

/*
 * *good: every value that the batch names is as it was written. -EUCLEAN: it names a file that nobody knows, or that is
 * missing. Else errors are of reading or writing.
 */
int blob_recovery_record(struct blob_recovery *r, const void *payload, size_t len, bool *good);
/* Brings what was written again to the medium; releases what r holds in any case. */
int blob_recovery_finish(struct blob_recovery *r, int err);

/* The file of that number, of whichever shard; NULL if there is none. */
struct blob_file *vset_find_blob(const struct vset *vs, uint64_t number);

#endif
