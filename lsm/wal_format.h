/*
 * wal_format.h - what a segment of the write-ahead log holds; shared by writing and recovery.
 *
 * A segment is a sequence of records without gaps, from its first byte on. A record begins at a
 * multiple of 8. All integers are little-endian.
 *
 *   header, WAL_HEADER_BYTES:
 *      0  u32  magic       WAL_MAGIC
 *      4  u8   type        batch, pad or mark
 *      5  u8   flags       0 for now
 *      6  u16  reserved    0
 *      8  u32  length      of the payload, in bytes
 *     12  u32  reserved    0
 *     16  u64  lsn         base of the use + offset in the segment, or it is not a record
 *     24  u64  synced      everything below this LSN was on the medium when the record was written
 *     32  u64  reserved    0
 *     40  u64  checksum    XXH3 of bytes 0..39, seed: the use's salt
 *   payload, `length` bytes
 *   u64 checksum           XXH3 of the payload, seed: salt ^ lsn
 *   zeros to the next multiple of 8 (checked, too)
 *
 * A batch is what was committed. A mark has no payload: it is there to carry `synced`. A pad ends
 * a segment in which the next record does not fit: its length covers the rest of the segment, nothing
 * after its header is written or read, it has no second checksum. If less than a header is left
 * (WAL_HEADER_BYTES), there is no pad, and the log goes on in the next segment by itself.
 *
 * The salt is random for each use of a segment file, so neither what an earlier use left nor what a
 * user wrote into a payload can pass for a record. The header is verified before its length is used.
 */
#ifndef LSM_WAL_FORMAT_H
#define LSM_WAL_FORMAT_H

#include "coding.h"
#include "mutant.h"
#include "wal.h"

#include <assert.h>
#include <xxhash.h>

#define WAL_MAGIC UINT32_C(0x4c415753) /* "SWAL" */
#define WAL_TRAILER_BYTES 8u           /* payload checksum */
#define WAL_ALIGN 8u

enum wal_type { /* on disk: never renumber */
                WAL_BATCH = 1,
                WAL_PAD = 2,
                WAL_MARK = 3,
};

enum wal_header_offset {
    WAL_AT_MAGIC = 0,
    WAL_AT_TYPE = 4,
    WAL_AT_FLAGS = 5,
    WAL_AT_LENGTH = 8,
    WAL_AT_LSN = 16,
    WAL_AT_SYNCED = 24,
    WAL_AT_RESERVED = 32,
    WAL_AT_CHECKSUM = 40,
};
static_assert(WAL_AT_CHECKSUM + 8 == WAL_HEADER_BYTES, "log header size is part of the format");
static_assert(WAL_HEADER_BYTES % WAL_ALIGN == 0, "records stay aligned");

struct wal_header {
    enum wal_type type;
    uint8_t flags;
    uint32_t length;
    lsn_t lsn, synced;
};

static inline uint64_t wal_align(uint64_t n) { return (n + WAL_ALIGN - 1) & ~(uint64_t)(WAL_ALIGN - 1); }

static inline void wal_header_encode(uint8_t out[WAL_HEADER_BYTES], const struct wal_header *h, uint64_t salt)
{
    memset(out, 0, WAL_HEADER_BYTES);
    put_le32(out + WAL_AT_MAGIC, WAL_MAGIC);
    out[WAL_AT_TYPE] = (uint8_t)h->type;
    out[WAL_AT_FLAGS] = h->flags;
    put_le32(out + WAL_AT_LENGTH, h->length);
    put_le64(out + WAL_AT_LSN, h->lsn);
    put_le64(out + WAL_AT_SYNCED, h->synced);
    put_le64(out + WAL_AT_CHECKSUM, XXH3_64bits_withSeed(out, WAL_AT_CHECKSUM, salt));
}

/*
 * True if these bytes were written as the header of a record at `lsn`. Cheap tests first: recovery
 * asks this at every multiple of 8. Type and flags are not judged: a newer release may have more.
 */
static inline bool wal_header_decode(const uint8_t in[WAL_HEADER_BYTES], uint64_t salt, lsn_t lsn,
                                     struct wal_header *h)
{
    if (get_le32(in + WAL_AT_MAGIC) != WAL_MAGIC)
        return false;
    if (get_le64(in + WAL_AT_LSN) != lsn && !mutant("stale records pass"))
        return false;
    if (get_le64(in + WAL_AT_CHECKSUM) != XXH3_64bits_withSeed(in, WAL_AT_CHECKSUM, salt))
        return false;
    h->type = (enum wal_type)in[WAL_AT_TYPE];
    h->flags = in[WAL_AT_FLAGS];
    h->length = get_le32(in + WAL_AT_LENGTH);
    h->lsn = lsn;
    h->synced = get_le64(in + WAL_AT_SYNCED);
    return h->synced <= lsn;
}

static inline uint64_t wal_payload_seed(uint64_t salt, lsn_t lsn)
{
    return mutant("stale records pass") ? salt : salt ^ lsn;
}

#endif
