/*
 * journal.h - what a writer did and what the system answered, in a file outside of the store that is mapped, so
 * that it outlives the writer, too.
 *
 * Format: a header, then one record an operation, in the writer's own byte order: it is read on the same machine.
 * An operation's `begin` is written before its system call, rc and then `end` after it returned. An operation is
 * acknowledged if it has an end.
 */
#ifndef JOURNAL_H
#define JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#define JOURNAL_RECORDS_MAX (1u << 20) /* 32 MiB, sparse */

struct journal_record {
    uint64_t begin_ns, end_ns; /* CLOCK_MONOTONIC */
    int32_t rc;
    uint8_t phase, is_sync, unused[2];
    uint32_t part; /* bytes that a write came to, if not all: see op_part. Without an end: at least these */
    uint32_t unused2;
};

struct journal_header {
    uint64_t magic, seed;
};

struct journal {
    struct journal_header *header;
    struct journal_record *records;
};

/* Creates it if it is absent (with this seed). Says on stderr what is wrong. */
bool journal_open(const char *path, uint64_t seed, struct journal *out);
void journal_close(struct journal *j);
/* Number of operations that were begun, and that were acknowledged: equal, or one more. */
uint64_t journal_begun(const struct journal *j);
uint64_t journal_acknowledged(const struct journal *j);
/* Forgets all from record n on. */
void journal_cut(struct journal *j, uint64_t n);
uint64_t now_ns(void);

#endif
