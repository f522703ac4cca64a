/*
 * fuzz_wal.c - log segments with good checksums and arbitrary contents, through recovery.
 *
 * Input: {u8 flags, u8 number of uses, for each use {u16 gap before its base / 8, u16 end / 8, u24
 * bytes of its file}, shaped start, shaped synced, then the files' bytes}. With FLAG_PLACE every
 * header that recovery comes to gets the magic and the LSN of its place: without that hardly any
 * changed length would be followed by another record.
 */
#include "batch.h"
#include "fuzz_files.h"
#include "wal_format.h"

#include <errno.h>

#define DIR "/w"
#define USES_MAX 3u
#define BASE_FIRST UINT64_C(4096)

enum { FLAG_PLACE = 1, FLAG_REWRITE = 2, FLAG_MISSING = 4 };

struct seen {
    lsn_t last;
    uint64_t records;
};

static int replay(void *arg, lsn_t lsn, const void *payload, size_t len)
{
    struct seen *s = arg;
    struct batch_reader br;
    struct batch_change change;
    int rc = batch_read_begin(&br, payload, len);

    fuzz_check(lsn > s->last);
    s->last = lsn;
    s->records++;
    while (rc == 0 && batch_read_next(&br, &change) == 1)
        fuzz_check(change.key_len <= len);
    return 0;
}

static void place_headers(uint8_t *bytes, size_t len, lsn_t base)
{
    for (uint64_t off = 0; off + WAL_HEADER_BYTES <= len;) {
        put_le32(bytes + off + WAL_AT_MAGIC, WAL_MAGIC);
        put_le64(bytes + off + WAL_AT_LSN, base + off);
        put_le64(bytes + off + WAL_AT_CHECKSUM, 0);
        off +=
            wal_align(WAL_HEADER_BYTES + (uint64_t)get_le32(bytes + off + WAL_AT_LENGTH) + WAL_TRAILER_BYTES);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct env *env = env_with(DIR);
    struct wal_use uses[USES_MAX];
    size_t bytes[USES_MAX];
    struct seen seen = {0};
    struct wal_recovered out;
    const uint8_t flags = in_u8(&in);
    const unsigned count = in_below(&in, USES_MAX + 1);
    lsn_t base = BASE_FIRST;

    for (unsigned i = 0; i < count; i++) {
        base += (uint64_t)in_u16(&in) * WAL_ALIGN;
        uses[i] = (struct wal_use){.number = i + 1, .base = base, .salt = i, .bytes = WAL_SEGMENT_MIN};
        uint64_t end = (uint64_t)in_u16(&in) * WAL_ALIGN;
        uses[i].end = end ? base + end : 0;
        bytes[i] = in_number(&in, 3);
        base += WAL_SEGMENT_MIN;
    }
    struct wal_recovery r = {.env = env,
                             .dir = DIR,
                             .uses = uses,
                             .use_count = count,
                             .start = BASE_FIRST + in_shaped(&in),
                             .synced = in_shaped(&in),
                             .rewrite = flags & FLAG_REWRITE,
                             .arg = &seen,
                             .replay = replay};
    for (unsigned i = 0; i < count; i++) {
        char path[64];
        size_t len;
        uint8_t *file = in_bytes(&in, bytes[i], &len);
        if (flags & FLAG_PLACE)
            place_headers(file, len, uses[i].base);
        wal_segment_path(DIR, uses[i].number, path, sizeof(path));
        if (!(flags & FLAG_MISSING) || i != 1)
            file_write(env, path, file, len);
        free(file);
    }
    int rc = wal_recover(&r, &out);
    fuzz_check(out.records == seen.records || rc < 0);
    fuzz_check(rc != 0 ||
               (out.end >= r.start && out.next >= out.end && out.next % WAL_ALIGN == 0 && !out.damaged));
    env_mem_free(env);
    return 0;
}

static uint8_t *put_record(uint8_t *p, enum wal_type type, lsn_t lsn, lsn_t synced, const void *payload,
                           uint32_t len)
{
    struct wal_header h = {.type = type, .length = len, .lsn = lsn, .synced = synced};
    uint64_t bytes = wal_align(WAL_HEADER_BYTES + (uint64_t)len + WAL_TRAILER_BYTES);

    memset(p, 0, bytes);
    wal_header_encode(p, &h, 0);
    if (len)
        memcpy(p + WAL_HEADER_BYTES, payload, len);
    return p + bytes;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    static const uint8_t batch[] = {1, 0, 0, 0, ENTRY_PUT, 1, 2, 'k', 'v', 'v'};
    uint8_t *head = out, *body, *p;
    const unsigned uses = n == 1 ? 2 : 1;

    if (n > 2)
        return 0;
    *head++ = n == 2 ? FLAG_PLACE | FLAG_REWRITE : FLAG_PLACE;
    *head++ = (uint8_t)uses;
    p = body = head + uses * 7 + 4;
    for (unsigned i = 0; i < uses; i++) {
        uint8_t *begin = p;
        lsn_t base = BASE_FIRST + i * WAL_SEGMENT_MIN;
        p = put_record(p, WAL_BATCH, base, 0, batch, sizeof(batch));
        p = put_record(p, WAL_MARK, base + (uint64_t)(p - begin), base, NULL, 0);
        p = put_record(p, WAL_BATCH, base + (uint64_t)(p - begin), base, batch, sizeof(batch));
        if (i + 1 < uses || n == 2) {
            struct wal_header pad = {.type = WAL_PAD, .lsn = base + (uint64_t)(p - begin), .synced = base};
            pad.length = (uint32_t)(WAL_SEGMENT_MIN - (uint64_t)(p - begin) - WAL_HEADER_BYTES);
            wal_header_encode(p, &pad, 0);
            p += WAL_HEADER_BYTES;
        }
        put_le32(head, 0); /* no gap, no end */
        put_le16(head + 4, (uint16_t)(p - begin));
        head[6] = 0;
        head += 7;
    }
    memset(head, 0, (size_t)(body - head)); /* start and synced: 0 */
    return (size_t)(p - out);
}
