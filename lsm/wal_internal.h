/*
 * wal_internal.h - the state of an open log, shared by wal.c (appending), wal_segment.c (making
 * segments ready) and wal_sync.c (syncs, the commit timer). Nobody else includes it.
 *
 * One mutex, `lock`, guards everything that is not marked otherwise. It is held for a few
 * instructions at a time, never during I/O and never while a callback runs. What is read without
 * it is atomic: frontier, synced, failed.
 *
 * Segments form a list in ascending base; the last one takes the appends. A segment leaves the list
 * only when it lies below `synced` and below what wal_release was told. Hence whoever works on bytes
 * at or above `synced` (a writer between reserve and publish, the one thread that syncs) may use
 * its segment without holding anything.
 */
#ifndef LSM_WAL_INTERNAL_H
#define LSM_WAL_INTERNAL_H

#include "wal.h"
#include "wal_format.h"

#include <pthread.h>

/*
 * Records between reserve and publish. One a thread at a time, two when a segment ends; 1024 is
 * far above the number of threads that the daemon runs. More wait in wal_prepare.
 */
#define WAL_IN_FLIGHT_MAX 1024u
#define WAL_PATH_EXTRA 32u /* of wal_segment_path, beyond the directory's length */

struct segment {
    struct wal_use use;
    struct env_file *file; /* open from before its first store until after its last sync; NULL in the pool */
    bool mapped;
    bool unsure;        /* its use may be in the manifest although recording it failed: not to be removed */
    uint64_t populated; /* offset below which a window was made writable; the preparer's */
    struct segment *next;
};

/* A record between reserve and publish. */
struct in_flight {
    lsn_t end;
    lsn_t carried; /* the synced-up-to LSN that went into it; written by its owner before it is done */
    bool done;
};

struct sync_request {
    void (*done)(void *arg, int result);
    void *arg;
    struct sync_request *next;
};

struct wal {
    struct wal_options options;
    char *dir;
    uint64_t commit_ns;

    lsn_t frontier; /* atomic; changed under lock */
    lsn_t synced;   /* atomic; changed under lock by the thread that syncs */
    int failed;     /* atomic; changed under lock, once */

    pthread_mutex_t lock;

    /* appending */
    lsn_t tail; /* LSN of the next reservation in the last segment */
    struct in_flight ring[WAL_IN_FLIGHT_MAX];
    uint64_t ring_head, ring_tail; /* oldest unpublished, next free; index modulo WAL_IN_FLIGHT_MAX */
    lsn_t published_end;           /* end of the furthest published record; the frontier may be behind */
    unsigned waiters;              /* on frontier_moved */
    pthread_cond_t frontier_moved;

    /* segments */
    struct segment *first, *last; /* the log, ascending base */
    struct segment *live;         /* uses of earlier opens with unflushed records; not open */
    struct segment *next;         /* prepared, not in use yet */
    struct segment *pool;         /* files free for use */
    struct segment *retired;      /* to be closed, then pooled */
    lsn_t rest_tail; /* the preparer's: where the log ended, and when, since which nothing was appended */
    uint64_t rest_ns;
    bool preparing;            /* somebody makes `next` */
    bool next_wanted;          /* a writer is held up: try again even if it failed the last time */
    int prepare_error;         /* of the last attempt */
    uint64_t prepare_attempts; /* completed */
    pthread_cond_t prepared;
    pthread_cond_t preparer_wake;
    struct env_thread *preparer; /* NULL without threads */

    /* syncs */
    bool syncing; /* a leader is at it; followers wait for sync_done */
    pthread_cond_t sync_done;
    struct sync_request *requests, **requests_end;
    lsn_t carried;     /* highest synced-up-to LSN in a published record */
    lsn_t batch_end;   /* end of the furthest published batch */
    bool timer_armed;  /* something is unsynced, or synced and not yet told by a record */
    uint64_t timer_ns; /* when the commit timer fires, if armed */
    pthread_cond_t syncer_wake;
    bool syncer_asleep; /* it waits for syncer_wake, and nobody is about to wake it for a request */
    struct env_thread *syncer;
    bool stopping;

    uint64_t bytes, records, syncs;
};

static inline lsn_t segment_end(const struct segment *s) { return s->use.base + s->use.bytes; }

/* Ends the log: frontier and synced freeze, everybody who waits gets the error. Lock not held. */
void wal_fail(struct wal *wal, int error, const char *what);

/* Appends one record of any type; used for marks. -EAGAIN if it can't be reserved now. */
int wal_append_mark(struct wal *wal);

/* wal_segment.c */
int segment_prepare(struct wal *wal); /* makes `next` unless there is one; serialised by `preparing` */
/* Lock held. Takes what lies below lsn out of the log; the preparer, or segments_close_retired, closes it. */
void segments_release(struct wal *wal, lsn_t lsn);
void segments_close_retired(struct wal *wal);
/* Removes the files of the pool that a burst of writes does not need: all, or all but one if none is prepared. */
void segments_trim(struct wal *wal);
bool segments_rest(
    struct wal *wal); /* the same, once nothing was appended for a while; without threads. True if it did */
void segment_free(struct segment *s);
struct segment *segment_new(uint64_t number);
void preparer_main(void *wal);
bool segment_window_low(const struct wal *wal); /* lock held: the tail nears the end of what is populated */
void segment_touch_tail(struct segment *s, uint64_t offset);

/* wal_sync.c */
void timer_arm(struct wal *wal); /* lock held */
void syncer_main(void *wal);

#endif
