/*
 * facts.h - what a load says of itself, and what a checker makes of it.
 *
 * A load is one or more streams, each with a letter and with steps that are numbered from 1. It writes, through
 * the recorder's control file:
 *   "a begin N"    step N of stream a is about to be made
 *   "a sync N"     the same, and it is a sync
 *   "a done N"     it was acknowledged: its calls have returned
 *   "a synced N"   the same, of a sync: what was promised before it began is durable
 * A checker reads those before the cut from the file that RECORD_FACTS names.
 */
#ifndef RECORD_FACTS_H
#define RECORD_FACTS_H

#include <stdbool.h>
#include <stdint.h>

enum verdict_exit { EXIT_GOOD = 0, EXIT_USAGE = 2, EXIT_LOST = 10, EXIT_BROKEN = 11 };

#define STREAMS_MAX 4u
#define KEPT_MAX 64u

/* Writing, from any thread. Ends the process if it fails: without facts nothing can be checked. */
void fact_open(const char *control);
void fact(unsigned stream, const char *what, uint64_t n);

void fact_kept(uint64_t n); /* "kept N": of the first stream's moment N something durable was made apart */

struct stream {
    uint64_t begun, done;
    uint64_t synced; /* the last step that a sync of any stream has covered */
};
struct facts {
    struct stream stream[STREAMS_MAX];
    uint64_t kept[KEPT_MAX]; /* steps of which something durable was made apart */
    unsigned kept_count;
    bool killed; /* nothing was lost: what is done must be there */
};
struct facts facts_read(void);

/* The oldest step that must be there. */
uint64_t facts_promised(const struct facts *f, unsigned stream);

bool facts_kept(const struct facts *f, uint64_t step);

/* A hash of a few numbers, for contents that are known from their place in the history. */
uint64_t mix(uint64_t a, uint64_t b, uint64_t c);

#endif
