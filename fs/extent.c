/*
 * extent.c - the extent map. Format, invariants and the rules for rewriting are in extent.h.
 *
 * Top: a scan, which walks decoded and checked extents. Then reading. Then the edit: one chunk's
 * bytes in memory, with the set of keys taken out of it and the spans to be stored instead; writing
 * and punching are expressed as edits. A batch is invisible to reads until it is committed, so an
 * edit works out everything from what is stored, and each chunk is edited once in a batch.
 */
#include "extent.h"
#include "mutant.h"
#include "nowait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define EXTENT_HEADER 8u /* le64 start */
#define CHUNK EXTENT_MAX
#define LENT_MIN (16u << 10) /* a write from which on it is not copied */
/*
 * What is longer is read where waiting is allowed, without a try. It would often come to nothing in the middle, where
 * the system's readahead of blob files ends; and so long a read would hold up others from its CPU.
 */
#define READ_NOWAIT_MAX (128u << 10)
#define RUN_MIN 8u /* extents in a row from which on one range delete takes less than a delete for each */

static_assert((EXTENT_MAX & (EXTENT_MAX - 1)) == 0 && EXTENT_MAX % EXTENT_BLOCK == 0, "chunks are aligned");
static_assert(EXTENT_CUT_MIN > EXTENT_SPAN_MIN, "a piece left by a cut must not be tiny");
static_assert(EXTENT_END_MAX % EXTENT_MAX == 0, "the last chunk is a whole one");

static uint64_t chunk_floor(uint64_t off) { return off & ~(uint64_t)(CHUNK - 1); }
static uint64_t chunk_ceil(uint64_t off) { return chunk_floor(off + CHUNK - 1); }
static uint32_t align_down(uint32_t v, uint32_t to) { return v & ~(to - 1); }
static uint32_t align_up(uint32_t v, uint32_t to) { return align_down(v + to - 1, to); }

/* The one place where damage of an extent is found: a breakpoint's place. */
static int extent_damaged(void) { return -EIO; }

/* ---- scanning ---- */

struct extent {
    uint64_t start, end;
    const uint8_t *bytes; /* valid until the scan moves; NULL: in a blob file, until scan_load */
};

struct scan {
    struct lsm_iter *it;
    fs_id id;
    uint64_t edge; /* end of the extent before, where known: none may begin before it */
    bool owed;     /* a step forward, made when it is looked at: who stops there has read nothing for it */
};

/* For extents whose end is in (from, to]. */
static int scan_open(struct scan *s, struct lsm *db, fs_id id, uint64_t from, uint64_t to)
{
    struct key lower = key_u64(id, KEY_EXTENT, from + 1), upper = key_u64(id, KEY_EXTENT, to + 1);
    struct lsm_iter_options options = {
        .lower = lower.bytes,
        .lower_len = lower.len,
        .upper = upper.bytes,
        .upper_len = upper.len,
        .route_key = lower.bytes,
        .route_key_len = lower.len,
        .flags = nowait_flags() | LSM_KEYS,
    };
    *s = (struct scan){.id = id};
    return lsm_iter_new(db, &options, &s->it);
}

static void scan_close(struct scan *s) { lsm_iter_free(s->it); }

/* To the first extent that ends after off. */
static void scan_seek(struct scan *s, uint64_t off)
{
    struct key k = key_u64(s->id, KEY_EXTENT, off + 1);
    lsm_iter_seek(s->it, k.bytes, k.len);
    s->edge = 0;
    s->owed = false;
}

/* To the last extent that ends at or before off. */
static void scan_seek_prev(struct scan *s, uint64_t off)
{
    struct key k = key_u64(s->id, KEY_EXTENT, off);
    lsm_iter_seek_prev(s->it, k.bytes, k.len);
    s->edge = 0;
    s->owed = false;
}

static void scan_next(struct scan *s, const struct extent *at)
{
    assert(!s->owed);
    s->edge = at->end;
    s->owed = true;
}

static void scan_prev(struct scan *s)
{
    assert(!s->owed);
    s->edge = 0;
    lsm_iter_prev(s->it);
}

/* 1: *x is where the scan stands; 0: there is none; or a negative errno. */
static int scan_get(struct scan *s, struct extent *x)
{
    if (s->owed)
        lsm_iter_next(s->it);
    s->owed = false;
    if (!lsm_iter_valid(s->it))
        return lsm_iter_status(s->it);
    size_t key_len, len;
    const uint8_t *key = lsm_iter_key(s->it, &key_len);
    const uint8_t *value = lsm_iter_value(s->it, &len);
    if (key_len != 17 || len <= EXTENT_HEADER)
        return extent_damaged();
    x->end = get_be64(key + 9);
    if (x->end > FS_SIZE_MAX || len - EXTENT_HEADER > x->end)
        return extent_damaged();
    x->start = x->end - (len - EXTENT_HEADER);
    x->bytes = value ? value + EXTENT_HEADER : NULL;
    if (chunk_floor(x->start) != chunk_floor(x->end - 1) || x->start < s->edge ||
        (value && !lsm_iter_ref(s->it, NULL) && get_le64(value) != x->start))
        return extent_damaged();
    return 1;
}

/* Makes the bytes of x, where the scan stands, known. */
static int scan_load(struct scan *s, struct extent *x)
{
    size_t len;
    if (x->bytes)
        return 0;
    int r = lsm_iter_load(s->it);
    if (r < 0)
        return r;
    x->bytes = (const uint8_t *)lsm_iter_value(s->it, &len) + EXTENT_HEADER;
    return len == x->end - x->start + EXTENT_HEADER ? 0 : extent_damaged();
}

/* ---- reading ---- */

int extent_read(struct lsm *db, const struct inode *ino, uint64_t off, uint8_t *buf, size_t len)
{
    const uint64_t end = off + len;
    uint64_t at = off; /* up to here buf is filled */
    struct scan s;
    struct extent x;
    if (nowait_on() && len > READ_NOWAIT_MAX)
        return -EAGAIN;
    int r = scan_open(&s, db, ino->attr.id, off, chunk_ceil(end));
    if (r < 0)
        return r;
    for (scan_seek(&s, off); at < end && (r = scan_get(&s, &x)) > 0 && x.start < end; scan_next(&s, &x)) {
        r = scan_load(&s, &x);
        if (r < 0)
            break;
        if (x.start > at) {
            memset(buf + (at - off), 0, x.start - at);
            at = x.start;
        }
        uint64_t stop = x.end < end ? x.end : end;
        memcpy(buf + (at - off), x.bytes + (at - x.start), stop - at);
        at = stop;
    }
    if (r >= 0)
        memset(buf + (at - off), 0, end - at);
    scan_close(&s);
    return r < 0 ? r : 0;
}

int extent_seek_data(struct lsm *db, const struct inode *ino, uint64_t off, uint64_t *out)
{
    struct scan s;
    struct extent x;
    int r = scan_open(&s, db, ino->attr.id, off, EXTENT_END_MAX);
    if (r < 0)
        return r;
    scan_seek(&s, off);
    r = scan_get(&s, &x);
    *out = EXTENT_END_MAX;
    if (r > 0)
        *out = x.start > off ? x.start : off;
    scan_close(&s);
    return r < 0 ? r : 0;
}

int extent_seek_hole(struct lsm *db, const struct inode *ino, uint64_t off, uint64_t *out)
{
    struct scan s;
    struct extent x;
    int r = scan_open(&s, db, ino->attr.id, off, EXTENT_END_MAX);
    if (r < 0)
        return r;
    *out = off;
    for (scan_seek(&s, off); (r = scan_get(&s, &x)) > 0 && x.start <= *out; scan_next(&s, &x))
        *out = x.end;
    scan_close(&s);
    return r < 0 ? r : 0;
}

/* ---- an edit of one chunk ---- */

struct span {
    uint32_t start, end;        /* within the chunk */
    const uint8_t *lent;        /* its bytes, if they are not in the edit */
    const struct lsm_ref *part; /* of a value in a blob file, from its byte `from` on; else NULL */
    uint32_t from;
};

/* A cut leaves at most log2(CHUNK / EXTENT_CUT_MIN) + 1 pieces on each side of the write. */
#define SPANS_MAX 16u

struct edit {
    struct inode *ino;
    struct lsm_batch *batch;
    uint64_t base;                /* of the chunk */
    struct span spans[SPANS_MAX]; /* to be stored, apart from each other */
    unsigned spans_count;
    struct lsm_ref parts[2]; /* what spans name: a write cuts two extents at most */
    unsigned parts_count;
    unsigned old_count;
    uint64_t old_ends[CHUNK / 64];       /* ends (less one) of extents whose keys exist and were taken */
    uint8_t room[EXTENT_HEADER + CHUNK]; /* the chunk's bytes where known, after room for a header */
};

static int edit_new(struct inode *ino, struct lsm_batch *batch, struct edit **out)
{
    struct edit *e = malloc(sizeof *e);
    if (!e)
        return -ENOMEM;
    e->ino = ino;
    e->batch = batch;
    e->spans_count = 0;
    e->parts_count = 0;
    e->old_count = 0;
    memset(e->old_ends, 0, sizeof e->old_ends); /* edit_store leaves it so */
    *out = e;
    return 0;
}

static uint8_t *edit_bytes(struct edit *e, uint32_t at) { return e->room + EXTENT_HEADER + at; }

static void edit_span(struct edit *e, uint32_t start, uint32_t end, const uint8_t *lent)
{
    assert(e->spans_count < SPANS_MAX && start < end && end <= CHUNK);
    e->spans[e->spans_count++] = (struct span){.start = start, .end = end, .lent = lent};
}

/* [start, end) stays in the blob file where x is, whose value is `part`; EXTENT_HEADER bytes before it go along. */
static void edit_part(struct edit *e, const struct extent *x, const struct lsm_ref *part, uint32_t start,
                      uint32_t end)
{
    assert(e->spans_count < SPANS_MAX && e->parts_count < 2 && start < end && end <= CHUNK);
    e->parts[e->parts_count] = *part;
    e->spans[e->spans_count++] =
        (struct span){.start = start,
                      .end = end,
                      .part = &e->parts[e->parts_count++],
                      .from = mutant("a part of an extent begins where the extent does")
                                  ? 0
                                  : start - (uint32_t)(x->start - e->base)};
}

/* An extent is to be replaced: notes its key. */
static int edit_take(struct edit *e, const struct extent *x)
{
    uint32_t end = (uint32_t)(x->end - e->base);
    assert(x->start >= e->base && end <= CHUNK);
    if (e->ino->stored < x->end - x->start)
        return extent_damaged();
    e->ino->stored -= x->end - x->start;
    e->old_ends[(end - 1) / 64] |= UINT64_C(1) << (end - 1) % 64;
    e->old_count++;
    return 0;
}

/* The same, and loads its bytes: the scan stands on x. */
static int edit_take_bytes(struct edit *e, struct scan *s, struct extent *x)
{
    int r = edit_take(e, x);
    if (r == 0)
        r = scan_load(s, x);
    if (r == 0)
        memcpy(edit_bytes(e, (uint32_t)(x->start - e->base)), x->bytes, x->end - x->start);
    return r;
}

static void edit_put(struct edit *e, struct span n)
{
    struct key k = key_u64(e->ino->attr.id, KEY_EXTENT, e->base + n.end);
    uint8_t *value = edit_bytes(e, n.start) - EXTENT_HEADER, saved[EXTENT_HEADER], header[EXTENT_HEADER];
    put_le64(header, e->base + n.start);
    if (n.part) {
        lsm_batch_put_part(e->batch, k.bytes, k.len, n.part, n.from, EXTENT_HEADER + n.end - n.start);
    } else if (n.lent) {
        lsm_batch_put_lent(e->batch, k.bytes, k.len, header, sizeof header, n.lent, n.end - n.start);
    } else {
        memcpy(saved, value, sizeof saved); /* the header borrows the place of the bytes before */
        memcpy(value, header, sizeof header);
        lsm_batch_put(e->batch, k.bytes, k.len, value, EXTENT_HEADER + n.end - n.start);
        memcpy(value, saved, sizeof saved);
    }
    e->ino->stored += n.end - n.start;

    uint64_t *word = &e->old_ends[(n.end - 1) / 64], bit = UINT64_C(1) << (n.end - 1) % 64;
    if (*word & bit) { /* overwritten: not to be deleted */
        *word &= ~bit;
        e->old_count--;
    }
}

/* Puts the result into the batch; the edit is empty again. */
static void edit_store(struct edit *e)
{
    for (unsigned i = 0; i < e->spans_count; i++)
        edit_put(e, e->spans[i]);
    e->spans_count = e->parts_count = 0;
    for (uint32_t i = 0; e->old_count; i++) {
        assert(i < CHUNK / 64);
        for (; e->old_ends[i]; e->old_count--) {
            uint32_t end = i * 64 + (uint32_t)__builtin_ctzll(e->old_ends[i]) + 1;
            struct key k = key_u64(e->ino->attr.id, KEY_EXTENT, e->base + end);
            lsm_batch_delete(e->batch, k.bytes, k.len);
            e->old_ends[i] &= e->old_ends[i] - 1;
        }
    }
}

/* ---- taking in neighbours: the rules "tiny" and "fill" of extent.h ---- */

/* The length below which a left neighbour that touches n is taken in because n completes a block. */
static uint32_t fill_limit_left(struct span n)
{
    if (n.end == CHUNK && n.start != 0)
        return CHUNK / 4;
    if (n.start % EXTENT_BLOCK && align_down(n.end, EXTENT_BLOCK) > n.start)
        return EXTENT_BLOCK / 4;
    return 0;
}

static uint32_t fill_limit_right(struct span n)
{
    if (n.start == 0 && n.end != CHUNK)
        return CHUNK / 4;
    if (n.end % EXTENT_BLOCK && align_up(n.start, EXTENT_BLOCK) < n.end)
        return EXTENT_BLOCK / 4;
    return 0;
}

static int take_left(struct edit *e, struct scan *s, bool fill, struct span *n)
{
    struct extent x;
    int r = 0;
    for (bool first = true; n->start > 0; first = false) {
        uint32_t limit = fill ? fill_limit_left(*n) : 0;
        if (!limit && n->end - n->start >= EXTENT_SPAN_MIN)
            return 0; /* saves the lookup */
        if (first)
            scan_seek_prev(s, e->base + n->start);
        else
            scan_prev(s);
        r = scan_get(s, &x);
        if (r <= 0 || x.end <= e->base)
            return r < 0 ? r : 0;
        if (x.end > e->base + n->start)
            return extent_damaged();
        uint32_t start = (uint32_t)(x.start - e->base), end = (uint32_t)(x.end - e->base);
        if (n->end - start > EXTENT_SPAN_MIN && (end < n->start || end - start >= limit))
            return 0;
        r = edit_take_bytes(e, s, &x);
        if (r < 0)
            return r;
        memset(edit_bytes(e, end), 0, n->start - end);
        n->start = start;
    }
    return r < 0 ? r : 0;
}

/* The scan stands on the first extent behind n, or at its end. */
static int take_right(struct edit *e, struct scan *s, bool fill, struct span *n)
{
    struct extent x;
    int r = 0;
    for (; n->end < CHUNK; scan_next(s, &x)) {
        uint32_t limit = fill ? fill_limit_right(*n) : 0;
        if (!limit && n->end - n->start >= EXTENT_SPAN_MIN)
            return 0;
        r = scan_get(s, &x);
        if (r <= 0 || x.start >= e->base + CHUNK)
            return r < 0 ? r : 0;
        if (x.start < e->base + n->end)
            return extent_damaged();
        uint32_t start = (uint32_t)(x.start - e->base), end = (uint32_t)(x.end - e->base);
        if (end - n->start > EXTENT_SPAN_MIN && (start > n->end || end - start >= limit))
            return 0;
        r = edit_take_bytes(e, s, &x);
        if (r < 0)
            return r;
        memset(edit_bytes(e, n->end), 0, start - n->end);
        n->end = end;
    }
    return r < 0 ? r : 0;
}

/* ---- writing ---- */

/* What a write of one chunk found in its place. */
struct covered {
    uint32_t bytes;      /* already stored of the range written */
    uint32_t start, end; /* the range with the rests of the first and last extent it cuts, but for parts */
    bool part_left, part_right; /* a rest stays where it is: rule "part" */
};

/*
 * x, where the scan stands, is covered by n but for a rest on the left, or right, or both. A rest in a blob file that is
 * long enough stays there.
 */
static int take_cut(struct edit *e, struct scan *s, struct extent *x, struct span n, struct covered *c)
{
    const uint32_t start = (uint32_t)(x->start - e->base), end = (uint32_t)(x->end - e->base);
    const uint32_t left = start < n.start ? n.start - start : 0, right = end > n.end ? end - n.end : 0;
    struct lsm_ref ref;
    const bool blob = lsm_iter_ref(s->it, &ref);
    const bool part_left = blob && left >= EXTENT_PART_MIN, part_right = blob && right >= EXTENT_PART_MIN;
    const bool copies = (left && !part_left) || (right && !part_right);
    int r = copies ? edit_take_bytes(e, s, x) : edit_take(e, x);
    if (r < 0)
        return r;
    if (part_left)
        edit_part(e, x, &ref, start, n.start);
    else if (left)
        c->start = start;
    if (part_right)
        edit_part(e, x, &ref, n.end, end);
    else if (right)
        c->end = end;
    c->part_left |= part_left;
    c->part_right |= part_right;
    return 0;
}

/* Takes every extent that overlaps n; the scan then stands behind the last one. */
static int take_covered(struct edit *e, struct scan *s, struct span n, struct covered *c)
{
    struct extent x;
    int r;
    scan_seek(s, e->base + n.start);
    for (; (r = scan_get(s, &x)) > 0 && x.start < e->base + n.end; scan_next(s, &x)) {
        uint32_t start = (uint32_t)(x.start - e->base), end = (uint32_t)(x.end - e->base);
        bool whole = start >= n.start && end <= n.end;
        r = whole ? edit_take(e, &x) : take_cut(e, s, &x, n, c);
        if (r < 0)
            break;
        c->bytes += (end < n.end ? end : n.end) - (start > n.start ? start : n.start);
        if (end >= n.end) {
            scan_next(s, &x);
            break;
        }
    }
    return r < 0 ? r : 0;
}

/* The unit that cuts for a write of this length are aligned to. */
static uint32_t cut_unit(uint32_t len)
{
    uint32_t unit = EXTENT_CUT_MIN;
    while (unit < len)
        unit *= 2;
    return unit;
}

/*
 * What is left of a cut extent at [start, n->start): up to one unit and a fragment go into n, the
 * rest becomes pieces that double in size. True if there are pieces.
 */
static bool cut_left(struct edit *e, uint32_t start, uint32_t unit, struct span *n)
{
    uint32_t at = align_down(n->start, unit);
    if (at < start + unit) {
        n->start = start;
        return false;
    }
    n->start = at;
    while (at > start) {
        uint32_t size = at & -at;
        uint32_t to = at >= start + size + unit ? at - size : start;
        edit_span(e, to, at, NULL);
        at = to;
    }
    return true;
}

static bool cut_right(struct edit *e, uint32_t end, uint32_t unit, struct span *n)
{
    uint32_t at = align_up(n->end, unit);
    if (at + unit > end) {
        n->end = end;
        return false;
    }
    n->end = at;
    while (at < end) {
        uint32_t size = at & -at;
        uint32_t to = at + size + unit <= end ? at + size : end;
        edit_span(e, at, to, NULL);
        at = to;
    }
    return true;
}

/* `append`: nothing is stored at or after n.start. `stays` as in extent_write. */
static int write_chunk(struct edit *e, struct scan *s, struct span n, const uint8_t *buf, bool append,
                       bool stays)
{
    const struct span written = n;
    struct covered c = {.start = n.start, .end = n.end};
    const uint32_t len = n.end - n.start, unit = cut_unit(len);
    int r = append ? 0 : take_covered(e, s, n, &c);
    if (r < 0)
        return r;
    const bool fill = c.bytes < len;
    const bool pieces_left = c.part_left || (c.start < n.start && cut_left(e, c.start, unit, &n));
    const bool pieces_right = c.part_right || (c.end > n.end && cut_right(e, c.end, unit, &n));
    if (!append && !pieces_right)
        r = take_right(e, s, fill, &n);
    if (r == 0 && !pieces_left)
        r = take_left(e, s, fill, &n);
    if (r < 0)
        return r;
    const bool lend = stays && len >= LENT_MIN && n.start == written.start && n.end == written.end;
    if (!lend)
        memcpy(edit_bytes(e, written.start), buf, len);
    if (n.start == 0 && n.end == CHUNK) {
        edit_span(e, 0, EXTENT_WHOLE, lend ? buf : NULL);
        edit_span(e, EXTENT_WHOLE, CHUNK, lend ? buf + EXTENT_WHOLE : NULL);
    } else {
        edit_span(e, n.start, n.end, lend ? buf : NULL);
    }
    edit_store(e);
    return 0;
}

int extent_write(struct lsm *db, struct inode *ino, uint64_t off, const uint8_t *buf, size_t len, bool stays,
                 struct lsm_batch *batch)
{
    const uint64_t end = off + len;
    struct edit *e = NULL;
    struct scan s;
    assert(len > 0 && end <= FS_SIZE_MAX);
    int r = scan_open(&s, db, ino->attr.id, chunk_floor(off), chunk_ceil(end));
    if (r < 0)
        return r;
    r = edit_new(ino, batch, &e);
    for (uint64_t at = off; r == 0 && at < end;) {
        e->base = chunk_floor(at);
        uint64_t stop = end - e->base < CHUNK ? end : e->base + CHUNK;
        struct span n = {.start = (uint32_t)(at - e->base), .end = (uint32_t)(stop - e->base)};
        r = write_chunk(e, &s, n, buf + (at - off), at >= ino->attr.size, stays);
        at = stop;
    }
    free(e);
    scan_close(&s);
    return r;
}

/* ---- deleting ---- */

/* The hole [from, to) begins or ends within x, where the scan stands. Moves the scan. */
static int punch_within(struct edit *e, struct scan *s, struct extent *x, uint64_t from, uint64_t to)
{
    e->base = chunk_floor(x->start);
    uint32_t start = (uint32_t)(x->start - e->base), end = (uint32_t)(x->end - e->base);
    struct span left = {.start = start, .end = x->start < from ? (uint32_t)(from - e->base) : start};
    struct span right = {.start = x->end > to ? (uint32_t)(to - e->base) : end, .end = end};
    int r = edit_take_bytes(e, s, x);
    if (r < 0)
        return r;
    if (left.start < left.end && right.start < right.end && end - start <= EXTENT_SPAN_MIN) {
        memset(edit_bytes(e, left.end), 0, right.start - left.end); /* too small to be a hole */
        edit_span(e, start, end, NULL);
    } else {
        if (right.start < right.end) {
            scan_next(s, x);
            r = take_right(e, s, false, &right);
            edit_span(e, right.start, right.end, NULL);
        }
        if (r == 0 && left.start < left.end) {
            r = take_left(e, s, false, &left);
            edit_span(e, left.start, left.end, NULL);
        }
    }
    if (r == 0)
        edit_store(e);
    return r;
}

/* Extents that go as a whole, one after the other. */
struct doomed {
    uint64_t end[RUN_MIN]; /* of the first ones */
    uint64_t last_end;
    unsigned count;
};

static int punch_whole(struct inode *ino, const struct extent *x, struct doomed *d)
{
    if (ino->stored < x->end - x->start)
        return extent_damaged();
    ino->stored -= x->end - x->start;
    if (d->count < RUN_MIN)
        d->end[d->count] = x->end;
    d->last_end = x->end;
    d->count++;
    return 0;
}

/* No other extent ends where these do, nor between: they are what lies between the first and the last key. */
static void delete_doomed(const struct inode *ino, const struct doomed *d, struct lsm_batch *batch)
{
    if (d->count >= RUN_MIN) {
        struct key from = key_u64(ino->attr.id, KEY_EXTENT, d->end[0]),
                   to = key_u64(ino->attr.id, KEY_EXTENT, d->last_end + 1);
        lsm_batch_delete_range(batch, from.bytes, from.len, to.bytes, to.len, from.bytes, from.len);
        return;
    }
    for (unsigned i = 0; i < d->count; i++) {
        struct key k = key_u64(ino->attr.id, KEY_EXTENT, d->end[i]);
        lsm_batch_delete(batch, k.bytes, k.len);
    }
}

int extent_punch(struct lsm *db, struct inode *ino, uint64_t from, uint64_t to, struct lsm_batch *batch,
                 uint64_t *next)
{
    struct edit *e = NULL;
    struct scan s;
    struct extent x;
    struct doomed doomed = {.count = 0};
    assert(from <= to && to <= EXTENT_END_MAX);
    *next = to;
    int r = scan_open(&s, db, ino->attr.id, chunk_floor(from), chunk_ceil(to));
    if (r < 0)
        return r;
    scan_seek(&s, from);
    for (unsigned n = 0; (r = scan_get(&s, &x)) > 0 && x.start < to; n++) {
        if (n == DATA_STEP) {
            *next = x.start > from ? x.start : from;
            break;
        }
        if (x.start >= from && x.end <= to) {
            r = punch_whole(ino, &x, &doomed);
            scan_next(&s, &x);
        } else {
            r = e ? 0 : edit_new(ino, batch, &e);
            if (r == 0)
                r = punch_within(e, &s, &x, from, to);
            scan_seek(&s, x.end);
            s.edge = x.end;
        }
        if (r < 0)
            break;
    }
    delete_doomed(ino, &doomed, batch);
    free(e);
    scan_close(&s);
    return r < 0 ? r : 0;
}

void extent_delete_keys(fs_id id, enum key_tag first, enum key_tag last, struct lsm_batch *batch)
{
    struct key lower = key_plain(id, first), upper = key_plain(id, (enum key_tag)(last + 1));
    lsm_batch_delete_range(batch, lower.bytes, lower.len, upper.bytes, upper.len, lower.bytes, lower.len);
}
