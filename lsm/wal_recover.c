/*
 * wal_recover.c - reads the log again after a crash.
 *
 * Replay goes through the uses in ascending base. A use ends at its segment's end, or where an
 * earlier recovery recorded it (`end`); the next use's base follows without a gap in the first case,
 * and may lie higher in the second. Uses that end at or below `start` are ignored.
 *
 * The first bad record, at X, ends the log. Whether that is a torn tail or damage is a question of proof:
 * had X been synced, then one of these may know it,
 *   - `synced` of the manifest lies above X,
 *   - a use's recorded end lies above X (that was recorded after a sync),
 *   - a later record with a valid header says that the log was synced above X. Any multiple of 8
 *     after X is tried, in X's segment and in all later ones: the length of what is bad can't be trusted.
 * With proof: -EUCLEAN. Without, what is after X was never promised and is void.
 * A segment file that is missing was synced together with its name before its use was recorded:
 * that is damage as well.
 *
 * Rewriting. After a kill, or a sync that failed, bytes may be in the page cache only, and clean: a
 * sync alone would not bring them out. So the very bytes that were verified and replayed are
 * written again to the same place, and then synced, through one descriptor that is open during all
 * of it. What lies below `synced` or in a use with a recorded end is on the medium already.
 * The same bytes go to the same place, so a crash in the middle changes nothing.
 *
 * Memory: one window of WINDOW_BYTES or the longest record, whichever is more.
 *
 * Threads: one, before the log is opened.
 */
#include "mutant.h"
#include "wal_format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define WINDOW_BYTES ((uint64_t)1 << 20)
#define PATH_EXTRA 32u

struct recovery {
    const struct wal_recovery *r;
    struct wal_recovered *out;
    char *path; /* of the open segment */
    size_t path_size;
    struct env_file *file;
    const struct wal_use *use; /* of the open segment */
    uint8_t *window;           /* bytes [window_off, window_off + window_len) of the file */
    uint64_t window_cap, window_off, window_len;
    uint64_t dirty_from, dirty_to; /* offsets in the window: verified, to be written again */
    bool wrote;                    /* something was rewritten since the file was opened */
    uint64_t progress_done, progress_total;
};

enum verdict {
    GOOD,     /* a record; *end is behind it */
    USE_ENDS, /* nothing more in this use */
    BAD,
};

struct record {
    struct wal_header header;
    const uint8_t *payload;
    lsn_t end;
};

static lsn_t use_top(const struct wal_use *u) { return u->base + u->bytes; }
static lsn_t use_limit(const struct wal_use *u) { return u->end ? u->end : use_top(u); }

/* ---- a segment file through a window ---- */

/* Writes the verified part of the window back. */
static int flush_window(struct recovery *c)
{
    if (c->dirty_to == c->dirty_from)
        return 0;
    size_t bytes = (size_t)(c->dirty_to - c->dirty_from);
    int rc = env_pwrite(c->file, c->window + (c->dirty_from - c->window_off), bytes, c->dirty_from);
    c->dirty_from = c->dirty_to;
    c->wrote = true;
    return rc;
}

static int grow_window(struct recovery *c, uint64_t need)
{
    if (need <= c->window_cap)
        return 0;
    uint8_t *window = realloc(c->window, need);
    if (!window)
        return -ENOMEM;
    c->window = window;
    c->window_cap = need;
    return 0;
}

/* Makes [off, off+len) of the file readable at *out; *got < len only at the end of the file. */
static int view(struct recovery *c, uint64_t off, uint64_t len, const uint8_t **out, uint64_t *got)
{
    bool inside = off >= c->window_off && off + len <= c->window_off + c->window_len;

    if (!inside) {
        int rc = flush_window(c);
        if (!rc)
            rc = grow_window(c, len > WINDOW_BYTES ? len : WINDOW_BYTES);
        if (rc)
            return rc;
        c->window_len = 0;
        ssize_t n = env_pread(c->file, c->window, c->window_cap, off);
        if (n < 0 && mutant("a read error ends the log"))
            n = 0;
        if (n < 0)
            return (int)n;
        c->window_off = off;
        c->window_len = (uint64_t)n;
        c->dirty_from = c->dirty_to = off;
    }
    *out = c->window + (off - c->window_off);
    *got = c->window_off + c->window_len - off;
    if (*got > len)
        *got = len;
    return 0;
}

static int open_segment(struct recovery *c, const struct wal_use *use, bool write)
{
    wal_segment_path(c->r->dir, use->number, c->path, c->path_size);
    c->use = use;
    c->window_off = c->window_len = c->dirty_from = c->dirty_to = 0;
    c->wrote = false;
    return env_open(c->r->env, c->path, write ? ENV_READ | ENV_WRITE : ENV_READ, &c->file);
}

/* With what was rewritten on the medium, unless the caller has an error already. */
static int close_segment(struct recovery *c, int rc)
{
    if (!rc)
        rc = flush_window(c);
    if (!rc && c->wrote && !mutant("recovery does not sync the log"))
        rc = env_sync(c->file);
    env_close(c->file);
    c->file = NULL;
    return rc;
}

/* ---- records ---- */

static int unknown_record(const struct recovery *c, lsn_t pos, const struct wal_header *h)
{
    logger_write(&c->r->log, LSM_LOG_ERROR,
                 "%s, offset %" PRIu64 ": log record of type %u, flags %u: written by a newer release",
                 c->path, pos - c->use->base, (unsigned)h->type, (unsigned)h->flags);
    return -ENOTSUP;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i])
            return false;
    }
    return true;
}

/* Payload, its checksum and the padding of a record whose header is good. */
static int check_payload(struct recovery *c, lsn_t pos, struct record *rec, enum verdict *verdict)
{
    const uint8_t *p;
    uint64_t got, length = rec->header.length, bytes = wal_record_bytes(length);

    *verdict = BAD;
    if (bytes > use_limit(c->use) - pos)
        return 0;
    int rc = view(c, pos - c->use->base, bytes, &p, &got);
    if (rc || got < bytes)
        return rc;
    if (!wal_header_decode(p, c->use->salt, pos, &rec->header) || rec->header.length != length)
        return 0; /* the window was read again, and what is rewritten must be what was verified */
    const uint8_t *trailer = p + WAL_HEADER_BYTES + length;
    size_t padding = (size_t)(bytes - WAL_HEADER_BYTES - length - WAL_TRAILER_BYTES);
    uint64_t checksum =
        XXH3_64bits_withSeed(p + WAL_HEADER_BYTES, length, wal_payload_seed(c->use->salt, pos));
    bool good = get_le64(trailer) == checksum && all_zero(trailer + WAL_TRAILER_BYTES, padding);
    if (!good && !mutant("checksum of a record ignored"))
        return 0;
    rec->payload = p + WAL_HEADER_BYTES;
    rec->end = pos + bytes;
    if (c->r->verify && rec->header.type == WAL_BATCH && !c->use->end && rec->end > c->r->synced) {
        rc = c->r->verify(c->r->arg, rec->payload, length, &good);
        if (rc || !good)
            return rc;
    }
    *verdict = GOOD;
    return 0;
}

/* Judges what stands at pos. An error is one of reading, or of a newer format. */
static int read_record(struct recovery *c, lsn_t pos, struct record *rec, enum verdict *verdict)
{
    const uint8_t *p;
    uint64_t got, rest = use_top(c->use) - pos;

    *verdict = BAD;
    /* What is too short for a header ends a segment also where an earlier recovery recorded that the log came to its end. */
    if (pos == use_limit(c->use) || (use_limit(c->use) == use_top(c->use) && rest < WAL_HEADER_BYTES)) {
        *verdict = USE_ENDS;
        return 0;
    }
    if (use_limit(c->use) - pos < WAL_HEADER_BYTES)
        return 0;
    int rc = view(c, pos - c->use->base, WAL_HEADER_BYTES, &p, &got);
    if (rc || got < WAL_HEADER_BYTES || !wal_header_decode(p, c->use->salt, pos, &rec->header))
        return rc;
    if (rec->header.flags || rec->header.type < WAL_BATCH || rec->header.type > WAL_MARK)
        return unknown_record(c, pos, &rec->header);
    if (rec->header.type != WAL_PAD)
        return check_payload(c, pos, rec, verdict);
    if (rec->header.length == rest - WAL_HEADER_BYTES && use_limit(c->use) == use_top(c->use)) {
        rec->end = use_top(c->use);
        *verdict = GOOD;
    }
    return 0;
}

/* ---- is X damage? ---- */

/* Looks for a header at or after `from` that says synced > x, in the open segment. */
static int scan_segment(struct recovery *c, lsn_t from, lsn_t x, bool *proof)
{
    struct wal_header h;
    const uint8_t *p = NULL;
    uint64_t got = 0;

    for (uint64_t off = from - c->use->base; off + WAL_HEADER_BYTES <= c->use->bytes;) {
        int rc = view(c, off, WAL_HEADER_BYTES, &p, &got);
        if (rc)
            return rc;
        if (got < WAL_HEADER_BYTES)
            return 0;
        /* Through what is in the window at once: a segment is mostly zeros, and this is every recovery's longest loop. */
        uint64_t left = c->window_off + c->window_len - off;
        for (; left >= WAL_HEADER_BYTES; off += WAL_ALIGN, p += WAL_ALIGN, left -= WAL_ALIGN) {
            if (wal_header_decode(p, c->use->salt, c->use->base + off, &h) && h.synced > x) {
                *proof = true;
                return 0;
            }
        }
    }
    return 0;
}

/* The segment of use `i` is open if there is one; later ones are opened here. */
static int find_proof(struct recovery *c, size_t i, lsn_t x, bool *proof)
{
    int rc = 0;

    *proof = c->r->synced > x;
    for (size_t j = i; j < c->r->use_count && !*proof; j++)
        *proof = c->r->uses[j].end > x;
    if (!*proof && c->file)
        rc = scan_segment(c, x + WAL_ALIGN, x, proof);
    for (size_t j = i + 1; j < c->r->use_count && !rc && !*proof; j++) {
        if (c->file)
            rc = close_segment(c, 0);
        if (!rc)
            rc = open_segment(c, &c->r->uses[j], false);
        if (rc == -ENOENT) {
            rc = 0; /* says nothing about x */
            continue;
        }
        if (!rc)
            rc = scan_segment(c, c->use->base, x, proof);
    }
    return rc;
}

static int report_damage(struct recovery *c, const struct wal_use *use, lsn_t x, const char *what)
{
    c->out->damaged = true;
    c->out->damage_number = use->number;
    c->out->damage_offset = x - use->base;
    wal_segment_path(c->r->dir, use->number, c->path, c->path_size);
    (void)logger_corrupt(&c->r->log, c->path, x - use->base, "%s at LSN %" PRIu64 "; run `shale check`", what,
                         x);
    return -EUCLEAN;
}

/* The log stops at x in use i. Closes what is open; what survived is synced unless x is damage. */
static int judge(struct recovery *c, size_t i, lsn_t x)
{
    const struct wal_use *use = &c->r->uses[i];
    bool proof;

    int rc = find_proof(c, i, x, &proof);
    if (!rc && proof)
        rc = report_damage(c, use, x, "a log record that had been synced is bad");
    return c->file ? close_segment(c, rc) : rc;
}

/* ---- replay ---- */

static void progress(struct recovery *c, uint64_t bytes)
{
    uint64_t before = c->progress_done / WINDOW_BYTES;

    c->progress_done += bytes;
    if (c->r->progress && c->progress_done / WINDOW_BYTES != before)
        c->r->progress(c->r->arg, c->progress_done, c->progress_total);
}

static int replay_record(struct recovery *c, lsn_t pos, const struct record *rec)
{
    int rc = 0;

    if (rec->header.type == WAL_BATCH) {
        rc = c->r->replay(c->r->arg, pos, rec->payload, rec->header.length);
        c->out->records++;
    }
    if (rc)
        return rc;
    /* of a pad only the header was verified and matters */
    uint64_t off = pos - c->use->base;
    uint64_t bytes = rec->header.type == WAL_PAD ? WAL_HEADER_BYTES : rec->end - pos;
    if (c->r->rewrite && !c->use->end && rec->end > c->r->synced) {
        if (c->dirty_to == c->dirty_from)
            c->dirty_from = off;
        c->dirty_to = off + bytes;
    }
    c->out->bytes += rec->end - pos;
    c->out->end = rec->end;
    if (rec->header.synced > c->out->synced)
        c->out->synced = rec->header.synced;
    progress(c, rec->end - pos);
    return 0;
}

/* Replays use i from *pos on; *bad says whether it stopped at a bad record. The segment stays open. */
static int replay_use(struct recovery *c, size_t i, lsn_t *pos, bool *bad)
{
    struct record rec;
    enum verdict verdict = GOOD;

    for (;;) {
        int rc = read_record(c, *pos, &rec, &verdict);
        if (!rc && verdict == GOOD)
            rc = replay_record(c, *pos, &rec);
        if (rc)
            return rc;
        if (verdict != GOOD)
            break;
        *pos = rec.end;
    }
    *bad = verdict == BAD;
    if (!*bad)
        *pos = use_limit(&c->r->uses[i]);
    return 0;
}

/* All uses from `first` on. On return the log's end is known; damage is -EUCLEAN. */
static int replay_uses(struct recovery *c, size_t first)
{
    const struct wal_use *uses = c->r->uses;
    lsn_t pos = c->r->start;

    for (size_t i = first; i < c->r->use_count; i++) {
        bool follows = i == first || uses[i - 1].end || uses[i].base == use_top(&uses[i - 1]);
        bool bad = false;
        if (!follows) /* a use between is not recorded: the log ended before it, or it is lost */
            return judge(c, i - 1, pos);
        if (pos < uses[i].base)
            pos = uses[i].base;
        c->out->number = uses[i].number;
        c->out->end = pos;
        if (pos >= use_limit(&uses[i])) /* an earlier recovery found it empty */
            continue;
        int rc = open_segment(c, &uses[i], c->r->rewrite && !uses[i].end && use_top(&uses[i]) > c->r->synced);
        if (rc == -ENOENT)
            return report_damage(c, &uses[i], pos, "the file of a log segment is missing, needed from");
        if (rc)
            return rc;
        rc = replay_use(c, i, &pos, &bad);
        if (!rc)
            c->out->end = pos;
        if (!rc && bad)
            return judge(c, i, pos);
        rc = close_segment(c, rc);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- */

/* What the manifest says must make sense; it is checked data, but other code wrote it. */
static bool uses_valid(const struct wal_recovery *r)
{
    if (r->start % WAL_ALIGN || r->synced % WAL_ALIGN)
        return false;
    for (size_t i = 0; i < r->use_count; i++) {
        const struct wal_use *u = &r->uses[i];
        if (u->base == 0 || u->base % WAL_ALIGN || u->bytes % WAL_ALIGN || u->bytes < WAL_SEGMENT_MIN ||
            u->bytes > WAL_SEGMENT_MAX || u->base > UINT64_MAX - u->bytes)
            return false;
        if (u->end && (u->end < u->base || u->end > use_top(u) || u->end % WAL_ALIGN))
            return false;
        if (i > 0 && u->base < use_top(&r->uses[i - 1]))
            return false;
    }
    return true;
}

static lsn_t lsn_above_all(const struct wal_recovery *r)
{
    lsn_t next = r->start > r->synced ? r->start : r->synced;

    if (r->use_count && use_top(&r->uses[r->use_count - 1]) > next)
        next = use_top(&r->uses[r->use_count - 1]);
    return next ? wal_align(next) : WAL_ALIGN;
}

int wal_recover(const struct wal_recovery *r, struct wal_recovered *out)
{
    struct recovery c = {.r = r, .out = out};
    size_t first = 0;
    int rc = 0;

    *out = (struct wal_recovered){.end = r->start, .next = lsn_above_all(r)};
    if (!uses_valid(r)) {
        logger_write(&r->log, LSM_LOG_ERROR, "the manifest's list of log segments in %s makes no sense",
                     r->dir);
        out->damaged = true;
        return -EUCLEAN;
    }
    if (r->use_count)
        out->number = r->uses[r->use_count - 1].number;
    while (first < r->use_count && use_limit(&r->uses[first]) <= r->start)
        first++;
    for (size_t i = first; i < r->use_count; i++) {
        lsn_t from = r->start > r->uses[i].base ? r->start : r->uses[i].base;
        c.progress_total += use_limit(&r->uses[i]) - from;
    }
    c.path_size = strlen(r->dir) + PATH_EXTRA;
    c.path = malloc(c.path_size);
    if (!c.path)
        rc = -ENOMEM;
    if (!rc)
        rc = replay_uses(&c, first);
    if (!rc && r->progress)
        r->progress(r->arg, c.progress_total, c.progress_total);
    free(c.window);
    free(c.path);
    return rc;
}

static int ignore(void *arg, lsn_t lsn, const void *payload, size_t payload_bytes)
{
    (void)arg, (void)lsn, (void)payload, (void)payload_bytes;
    return 0;
}

int wal_recover_synced(const struct wal_recovery *r, lsn_t *out)
{
    struct wal_recovery marks = *r;
    struct wal_recovered found;

    marks.rewrite = false;
    marks.log = (struct logger){0};
    marks.verify = NULL;
    marks.replay = ignore;
    marks.progress = NULL;
    int rc = wal_recover(&marks, &found);
    *out = found.synced > r->synced ? found.synced : r->synced;
    return rc == -EUCLEAN ? 0 : rc; /* what is damaged the real pass tells */
}
