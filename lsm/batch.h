/*
 * batch.h - a batch, encoded as it goes into the log: what is built is what is written, as long as nothing is lent.
 *
 * Format of the payload of a log record (little-endian; varints as in coding.h):
 *     u32  number of changes
 *     per change: u8 type (enum entry_type), varint key length, varint value length (not for
 *                 deletes), key, value. Of an ENTRY_BLOB the value is a pointer (blob_format.h): commit.c
 *                 makes one of each large value, lsm_batch_put_part one to what is there already
 * Of a range delete the key is the start, which is part of the range, and the value is
 *     varint n  0: it concerns every shard; else the shard of a route key of n - 1 bytes
 *     route key, end (the rest; not part of the range, and above the start)
 *
 * A built batch is the same, but that it has only the beginning of values that were lent (struct batch_lent).
 *
 * Nothing follows the last change. A payload with more changes than bytes is impossible, which
 * keeps seqs (LSN + index) unique.
 */
#ifndef LSM_BATCH_H
#define LSM_BATCH_H

#include "coding.h"
#include "ikey.h"
#include <shale/lsm.h>
#include <string.h>

#define BATCH_HEADER_BYTES 4u

/* The end of a value that lsm_batch_put_lent left where it is. In `bytes` its change has the value's head only. */
struct batch_lent {
    uint32_t change; /* index */
    const uint8_t *bytes;
    size_t len;
};

struct lsm_batch {
    uint8_t *bytes; /* NULL until the first change */
    size_t len, capacity;
    uint32_t count;
    struct batch_lent *lent; /* by ascending change */
    size_t lent_count, lent_capacity;
    size_t lent_bytes; /* of all of them, and what longer lengths take when they are put into the log */
    int error;         /* the first that happened while building */
    bool has_merge, has_range;
    uint32_t parts;     /* changes by lsm_batch_put_part */
    size_t range_bytes; /* of the bounds of range deletes */
};

struct batch_change {
    enum entry_type type;
    const uint8_t *key, *value; /* of a range delete: start and end */
    size_t key_len, value_len;
    const uint8_t *lent; /* only from batch_built_next: the value goes on here; NULL: it does not */
    size_t lent_len;
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

/* The beginning of a change, up to its value; returns the byte after it. */
static inline uint8_t *batch_put_head(uint8_t *p, enum entry_type type, const void *key, size_t key_len,
                                      size_t value_len)
{
    *p++ = (uint8_t)type;
    p = put_varint(p, key_len);
    if (type != ENTRY_DELETE)
        p = put_varint(p, value_len);
    if (key_len)
        memcpy(p, key, key_len);
    return p + key_len;
}

/* Reads what was built in memory: nothing can be wrong with it. `begin` wants at least one change. */
struct batch_built_reader {
    struct batch_reader encoded;
    const struct lsm_batch *batch;
    uint32_t change;
    size_t lent; /* the next one */
};
void batch_built_begin(struct batch_built_reader *r, const struct lsm_batch *batch);
bool batch_built_next(struct batch_built_reader *r, struct batch_change *out);

#endif
