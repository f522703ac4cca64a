/*
 * space.h - room on the disk: the reserve, the gate, and who has claimed what.
 *
 * A store that fills its disk must still be able to delete. For that it sets space aside: RESERVE, a file in
 * the store's directory that is allocated and holds nothing. While the disk has less free space than the reserve
 * lacks and the store owes ("debt"), the gate is closed: what grows the store gets -ENOSPC. Batches that free space
 * (LSM_SHRINK) pass, and the flushes and compactions that they bring about take what they need from the
 * reserve: the file is cut by that much. As soon as the disk has the space again, the file is made whole.
 *
 *     headroom = free + held - target - debt - SPACE_SLACK_BYTES            the gate is open while it is > 0
 *     target     what RESERVE is to have: the manifest; a flush of every memtable, and the largest step of a purge
 *                (compaction_purge.c), both no more than the store has data, and together at most an eighth of the
 *                disk; where there are blob files, moving what is alive in one of them (blob_collect.c), no more than
 *                they have, and at most an eighth again; and a segment of the log, in place of all but the
 *                manifest if the log has one to spare
 *     held       what it has
 *     debt       what is in memtables; claims of compactions at work; a segment of the log if none is spare;
 *                and a compaction that does not fit, once it holds up writers
 *
 * The estimate. Free space is asked of the system after every flush and compaction, once every
 * SPACE_LOOK_BYTES of log, and when a batch is refused (at most once in SPACE_LOOK_NS), never for each batch.
 * So it is wrong by no more than SPACE_LOOK_BYTES of log with what that takes in tables, which the slack covers, the batches
 * of other writers that are in between, and what other programs did to the disk since. What they took is what
 * the reserve makes good: as long as it is whole, it does not matter where the free space went.
 *
 * What it can't do. Between cutting RESERVE and writing what the space was wanted for, another program may
 * take it. Then that write fails and is tried again; the reserve is smaller until the disk has space. Nothing is lost
 * by that, but deletes may get -ENOSPC, too, until something else goes. On tmpfs and xfs the space is free at once; ext4
 * frees it with the next commit of its journal, for which it waits by itself before it says ENOSPC; btrfs
 * does so, too, and counts as free what can't be had yet; on other copy-on-write filesystems (zfs), and with snapshots of the
 * disk below, cutting a file may free nothing for a while, or at all. There the log is not written in place either
 * (ENV_IN_PLACE), and a full disk may end it. Where files can't be allocated there is no RESERVE, and the same amount is just left free.
 *
 * RESERVE is synced whenever it has grown, or a power cut might give its place back to files that had been deleted.
 *
 * At rest. While the gate is closed a memtable is flushed with an eighth of its size (SPACE_TIGHT_SHARE), so a flush of
 * every memtable, of which the reserve has to have the space, is what they hold when it closes, and deletes of so much. The
 * former may be all of their size while the store is written to: then the reserve is large beforehand, so that no
 * other program can take what a flush needs. When nobody has written for a while (background.c) it is cut to what the memtables
 * hold then, deletes of as much as above, and one batch as large as may be. It grows again once SPACE_REST_BYTES
 * were written, on a background thread.
 *
 * Segments of the log. With one to spare, all is well: an open after a crash takes it, and before anything is written to it
 * (commit.c) all is flushed, which gives the others back. So nothing but that flush needs space then. Killed between
 * the last record that fits into a segment and having the next one ready the log has none to spare, and a disk that
 * was filled in that moment none to give: so the reserve has always space for one.
 *
 * RESERVE carries no information: it may be missing, of any size, hold anything. It belongs to no format.
 *
 * Lock: `lock` is a leaf, held during the calls that look at the disk and that cut and allocate RESERVE.
 */
#ifndef LSM_SPACE_H
#define LSM_SPACE_H

#include "env.h"

#include <pthread.h>

struct lsm;
struct lsm_stats;
struct memtable;

#define SPACE_LOOK_BYTES (256u << 10)  /* of log between two looks: 1 us of statfs for each is nothing */
#define SPACE_SLACK_BYTES (512u << 10) /* what that can come to in tables, with index, filters and rounding */
#define SPACE_LOOK_NS 10000000u        /* between two looks of refused batches */
#define SPACE_WANTED_NS \
    UINT64_C(60000000000) /* how long deleted space is wanted back after the gate was closed */
#define SPACE_MANIFEST_BYTES (UINT64_C(256) << 10) /* of the reserve, kept for edits of the manifest */
#define SPACE_SMALL_BYTES \
    (UINT64_C(256) << 10)    /* ... for what blocks and rounding add to many small tables */
#define SPACE_TIGHT_SHARE 8u /* with such a part of its size a memtable is flushed while the gate is closed */
#define SPACE_TIGHT_MIN (256u << 10)         /* ... but not before it has so much */
#define SPACE_REST_BYTES (UINT64_C(1) << 20) /* of log: so little is written in passing, by a store at rest */
#define SPACE_DISK_SHARE 8u /* tables, and blob files, have at most this part of the disk in the reserve */

struct space {
    pthread_mutex_t lock;
    struct env_file *file; /* RESERVE; NULL if it can't be made, or not yet */
    bool named;            /* its name is on the medium, as far as this open knows */
    bool no_file;          /* RESERVE failed, or files can't be allocated here: not tried again */
    bool unknown;          /* the system does not say what is free: the gate stays open */
    uint64_t target, held, claimed;
    uint64_t free_bytes, total_bytes, debt; /* as last seen */
    uint64_t given, taken;                  /* bytes, since open */
    uint64_t told_ns;                       /* the last message */
    uint64_t looked_ns;                     /* atomic: the last look of a refused batch */
    uint64_t tight_ns;                      /* atomic: when the gate was last seen closed; 0: never */
    uint64_t rested_lsn;                    /* atomic: where the log ended when the store was last at rest */
    unsigned is_short;                      /* atomic: RESERVE has less than it could have */
    uint64_t looked_lsn;                    /* atomic: where the log ended at the last look of a writer */
    int64_t headroom;                       /* atomic */
    uint64_t refused;                       /* atomic: batches */
    uint64_t progress;                      /* atomic: steps of background work that came to something */
    unsigned
        last_resort; /* atomic: the reserve may be used for a segment of the log: opening, or nothing else helps */
};

/* After the shards were made and before the log is replayed: takes what RESERVE is there. space_opened lets it grow. */
void space_open(struct lsm *db);
void space_opened(struct lsm *db);
void space_close(struct lsm *db); /* also of one that was never opened */

/* Looks at the disk, and makes the reserve whole as far as there is space for it. */
void space_look(struct lsm *db);

/* 0, or -ENOSPC: a batch of so many bytes would grow the store into what is set aside. */
int space_gate(struct lsm *db, uint64_t bytes);
bool space_is_tight(const struct lsm *db); /* the gate is closed */
/* It is, or was a moment ago: background work brings deleted space back at once, not when it suits the levels. */
bool space_is_wanted(const struct lsm *db);
/* While it is: the memtable has what one should have then, and is to be flushed. */
bool space_is_enough(const struct lsm *db, const struct memtable *m);
/* Nobody has written for a while: the next look cuts the reserve to what is needed then. */
void space_rest(struct lsm *db);
bool space_is_short(const struct lsm *db); /* a look by a background thread would let the reserve grow */
/* So many bytes were written past the log: the estimate learns of it at once. */
void space_took(struct lsm *db, uint64_t bytes);
/* After a commit whose record ends there. */
void space_appended(struct lsm *db, uint64_t end);

/*
 * Claims space for a table or several, cutting the reserve if the disk has less. False: not even that is enough, and
 * nothing was claimed. What was claimed is given up by space_unclaim, in one or in several parts.
 */
bool space_claim(struct lsm *db, uint64_t bytes);
/* For a flush, which goes on whatever comes of it: what is in memtables is counted already. */
void space_want(struct lsm *db, uint64_t bytes);
void space_unclaim(struct lsm *db, uint64_t bytes);
uint64_t space_claimable(struct lsm *db); /* how much that is at the moment */

/* Callbacks of manifest and log that found no space: true if the reserve gave some, and it is worth another try. */
bool space_for_manifest(void *db, uint64_t bytes);
bool space_for_segment(void *db, uint64_t bytes);

/* What users may still fill: free space less what the reserve lacks and the store owes. */
int space_usable(struct lsm *db, uint64_t *free_bytes, uint64_t *total_bytes);
void space_stats(struct lsm *db, struct lsm_stats *out);

#endif
