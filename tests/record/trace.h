/*
 * trace.h - the trace of a directory: every change and every sync of what lies in it, in order.
 *
 * Written by `record` (a filesystem, record.c), read by `replay` (replay.c). All integers are little-endian.
 *
 *   header, 64 bytes
 *      0  8  magic "SHALETRC"
 *      8  4  version, 1
 *     12  4  incompatible features: bits that a reader must know; none so far
 *     16  8  salt, random: seeds every checksum
 *     24 32  zero
 *     56  8  XXH3 of bytes 0 to 55
 *
 *   records, one after the other, numbered from 0 without a gap
 *      0  4  bytes of the record, a multiple of 8
 *      4  1  type (enum trace_type)
 *      5  1  flags: 1 = the data is so many zeros, and is not stored
 *      6  2  length of the name
 *      8  8  number
 *     16  8  nanoseconds since the trace began
 *     24  8  id
 *     32  8  a
 *     40  8  b
 *     48  4  length of the data
 *     52  2  length of the second name
 *     54  2  zero
 *     56     name, second name, data, zeros up to a multiple of 8
 *    end  8  XXH3 of everything before, seeded with salt + number
 *
 * An id is a file or a directory, never used again for another one; the root is 1. What id, a and b mean is told
 * with each type. The order of the records is the order in which things happened: each is written before the
 * call that it tells of returns, and calls that change something are made one at a time.
 *
 * A record cut off at the end of a trace (the recorder was killed) is no error: it ends the trace. Anything else
 * that does not fit is.
 */
#ifndef RECORD_TRACE_H
#define RECORD_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_ROOT UINT64_C(1)
#define TRACE_NAME_MAX 255u
#define TRACE_DATA_MAX (4u << 20)
/* Below the root of a recorded directory, not listed: what is written to it at once becomes a fact. */
#define TRACE_CONTROL ".record"
#define TRACE_FACT_MAX 4096u

enum trace_type {
    TRACE_MKDIR = 1,  /* directory `a` gets `name`, a new directory `id` with mode b */
    TRACE_CREATE,     /* the same for a regular file */
    TRACE_SYMLINK,    /* the same; data: where it leads */
    TRACE_LINK,       /* directory `a` gets `name` for the file `id` */
    TRACE_UNLINK,     /* `name` leaves directory `a`; id: what it led to */
    TRACE_RMDIR,      /* the same for a directory */
    TRACE_RENAME,     /* `name` of directory a becomes `name2` of directory b; id: what moves */
    TRACE_EXCHANGE,   /* the two change places; id: what was the first */
    TRACE_WRITE,      /* data to offset a of file id */
    TRACE_TRUNCATE,   /* file id has size a */
    TRACE_ALLOCATE,   /* fallocate of b bytes from a of file id; data: the mode, 4 bytes */
    TRACE_MODE,       /* id has the permissions a */
    TRACE_SYNC_BEGIN, /* fsync of id (file or directory) was called; b: 1 for fdatasync */
    TRACE_SYNC_END,   /* the one that record number a began has succeeded */
    TRACE_FACT,       /* data: a line of text, from outside: "X has been acknowledged" */
    TRACE_BASE,       /* all before was there when the recorder started: it is durable */
    TRACE_END,        /* the recorder was unmounted in good order */
    TRACE_TYPES,
};

struct trace_record {
    enum trace_type type;
    bool zeros;
    uint64_t number, time_ns, id, a, b;
    const char *name, *name2; /* not terminated by a zero */
    unsigned name_len, name2_len;
    const uint8_t *data; /* NULL if zeros */
    uint32_t data_len;
};

/* ---- writing; one thread at a time ---- */

struct trace_writer;
int trace_create(const char *path, struct trace_writer **out);
/* Gives the record its number and time; its number, or a negative errno: after one, all later ones are the same. */
int64_t trace_append(struct trace_writer *w, struct trace_record *r);
uint64_t trace_count(const struct trace_writer *w); /* records so far */
int trace_finish(struct trace_writer *w);           /* writes TRACE_END, releases; 0 or the first error */

/* ---- reading ---- */

struct trace {
    struct trace_record *records; /* they point into the file, which stays mapped */
    uint64_t count;
    bool cut_off; /* the last record is not whole */
    void *map;
    uint64_t bytes;
};
/* 0 or a negative errno; says on stderr what is wrong and where. */
int trace_load(const char *path, struct trace *out);
void trace_unload(struct trace *t);

const char *trace_type_name(enum trace_type type);

#endif
