/*
 * blob_read.h - from a pointer in the tree to the bytes of the value.
 *
 * Nothing is cached here: the bytes come out of the system's page cache or from the disk, and are verified every
 * time. So a read of one may wait; with LSM_NOWAIT it is -EAGAIN unless they are in the page cache.
 *
 * Threads: any; the caller pins the version.
 */
#ifndef LSM_BLOB_READ_H
#define LSM_BLOB_READ_H

#include "db.h"

/* The part of a value that is wanted. */
struct blob_part {
    uint64_t offset;
    size_t len;
};
#define BLOB_WHOLE ((struct blob_part){0, SIZE_MAX})

/* Cuts the part to what a value of `total` bytes has. */
static inline struct blob_part blob_part_clip(struct blob_part p, size_t total)
{
    uint64_t offset = p.offset < total ? p.offset : total;
    return (struct blob_part){offset, p.len < total - offset ? p.len : (size_t)(total - offset)};
}

/* *total is the length of the whole value. -ESTALE: `v` does not know the file: it is older than the pointer. */
int blob_load(struct lsm *db, const struct version *v, const uint8_t *pointer, size_t pointer_len,
              struct blob_part part, unsigned flags, struct lsm_value *out, size_t *total);

/* How far an iterator has come in a blob file, and up to where the system was told that it will read. */
struct blob_walk {
    uint64_t number, end, told;
    uint64_t run; /* bytes walked in a row: twice as much is asked for */
};
/* Before the value is loaded. From the second value in a row on the system is asked to read ahead. */
void blob_walk_to(struct blob_walk *w, const struct version *v, const uint8_t *pointer, size_t pointer_len);

/* For LSM_KEYS. -EIO: it is no pointer. */
int blob_value_len(struct lsm *db, const uint8_t *pointer, size_t pointer_len, size_t *total);

#endif
