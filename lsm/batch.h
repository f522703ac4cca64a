/*
 * batch.h - a batch, encoded as it goes into the log: what is built is what is written.
 *
 * Format of the payload of a log record (little-endian; varints as in coding.h):
 *     u32  number of changes
 *     per change: u8 type (enum entry_type), varint key length, varint value length (not for
 *                 deletes), key, value. Of an ENTRY_BLOB the value is a pointer (blob_format.h): never
 *                 in what a caller builds, but commit.c makes one of each large value
 * Of a range delete the key is the start, which is part of the range, and the value is
 *     varint n  0: it concerns every shard; else the shard of a route key of n - 1 bytes
 *     route key, end (the rest; not part of the range, and above the start)
 *
 * Nothing follows the last change. A payload with more changes than bytes is impossible, which
 * keeps seqs (LSN + index) unique.
 */
#ifndef LSM_BATCH_H
#define LSM_BATCH_H

#include "coding.h"
#include "ikey.h"
#include <shale/lsm.h>

#define BATCH_HEADER_BYTES 4u

struct lsm_batch {
    uint8_t *bytes; /* NULL until the first change */
    size_t len, capacity;
    uint32_t count;
    int error; /* the first that happened while building */
    bool has_merge, has_range;
    size_t range_bytes; /* of the bounds of range deletes */
};

struct batch_change {
    enum entry_type type;
    const uint8_t *key, *value; /* of a range delete: start and end */
    size_t key_len, value_len;
    const uint8_t *route; /* of a range delete: the route key; NULL: every shard */
    size_t route_len;
};

struct batch_reader {
    struct reader r;
    uint32_t left;
};

/* 0, or -EBADMSG if the header is not there. */
int batch_read_begin(struct batch_reader *br, const void *payload, size_t len);
/* 1: *out is the next change; 0: end; -EBADMSG: not a batch. Bytes come from disk: nothing is trusted. */
int batch_read_next(struct batch_reader *br, struct batch_change *out);

#endif
