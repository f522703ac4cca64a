/*
 * ranges.c - fragments out of overlapping range deletes, by a sweep over their bounds. See ranges.h.
 *
 * From bound to bound: what starts there is put into the heap of its stratum, what has ended is taken off the
 * top when it gets there, and the tops are the seqs of the fragment. n log n, also where all are nested.
 */
#include "ranges.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define CHUNK_BYTES (64u << 10)

struct ranges_chunk {
    struct ranges_chunk *next;
    size_t used, size;
    uint8_t bytes[];
};

static const uint8_t *keep_key(struct ranges *r, const uint8_t *key, size_t len)
{
    struct ranges_chunk *c = r->chunks;
    if (!c || c->size - c->used < len + 1) {
        size_t size = len + 1 > CHUNK_BYTES ? len + 1 : CHUNK_BYTES;
        c = malloc(sizeof *c + size);
        if (!c)
            return NULL;
        *c = (struct ranges_chunk){.next = r->chunks, .size = size};
        r->chunks = c;
    }
    uint8_t *p = c->bytes + c->used;
    if (len)
        memcpy(p, key, len);
    c->used += len + 1; /* so that an empty key has a place, too */
    return p;
}

int ranges_add(struct ranges *r, const struct range_delete *d)
{
    assert(!r->fragments && key_compare(d->start, d->start_len, d->end, d->end_len) < 0);
    if (r->raw_count == r->raw_capacity) {
        size_t capacity = r->raw_capacity ? r->raw_capacity * 2 : 64;
        struct range_delete *raw = realloc(r->raw, capacity * sizeof *raw);
        if (!raw)
            return -ENOMEM;
        r->raw = raw;
        r->raw_capacity = capacity;
    }
    struct range_delete copy = *d;
    copy.start = keep_key(r, d->start, d->start_len);
    copy.end = keep_key(r, d->end, d->end_len);
    if (!copy.start || !copy.end)
        return -ENOMEM;
    r->raw[r->raw_count++] = copy;
    return 0;
}

size_t ranges_stratum(const uint64_t *snapshots, size_t count, uint64_t seq)
{
    size_t from = 0, to = count;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (snapshots[mid] < seq)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

/* ---- the sweep ---- */

/* The range deletes of one stratum that may still be open, the newest on top. */
struct heap {
    size_t stratum;
    const struct range_delete **list;
    size_t count;
};

static void heap_push(struct heap *h, const struct range_delete *d)
{
    size_t i = h->count++;
    for (; i > 0 && h->list[(i - 1) / 2]->seq < d->seq; i = (i - 1) / 2)
        h->list[i] = h->list[(i - 1) / 2];
    h->list[i] = d;
}

static void heap_pop(struct heap *h)
{
    const struct range_delete *last = h->list[--h->count];
    size_t i = 0;
    for (;;) {
        size_t below = 2 * i + 1;
        if (below >= h->count)
            break;
        if (below + 1 < h->count && h->list[below + 1]->seq > h->list[below]->seq)
            below++;
        if (h->list[below]->seq <= last->seq)
            break;
        h->list[i] = h->list[below];
        i = below;
    }
    h->list[i] = last;
}

struct bound {
    const uint8_t *key;
    uint32_t len;
};

static int compare_bounds(const void *a, const void *b)
{
    const struct bound *x = a, *y = b;
    return key_compare(x->key, x->len, y->key, y->len);
}

static int compare_starts(const void *a, const void *b)
{
    const struct range_delete *x = a, *y = b;
    return key_compare(x->start, x->start_len, y->start, y->start_len);
}

static int compare_sizes(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

struct sweep {
    struct bound *bounds; /* ascending, all different */
    size_t bound_count;
    struct heap *heaps; /* of the strata that occur, ascending */
    size_t heap_count;
    const struct range_delete **room; /* the heaps' lists, one after the other */
    size_t seq_capacity;
};

static int sweep_bounds(struct sweep *s, const struct ranges *r)
{
    s->bounds = malloc((2 * r->raw_count + 1) * sizeof *s->bounds);
    if (!s->bounds)
        return -ENOMEM;
    size_t n = 0;
    for (size_t i = 0; i < r->raw_count; i++) {
        s->bounds[n++] = (struct bound){r->raw[i].start, r->raw[i].start_len};
        s->bounds[n++] = (struct bound){r->raw[i].end, r->raw[i].end_len};
    }
    qsort(s->bounds, n, sizeof *s->bounds, compare_bounds);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || compare_bounds(&s->bounds[s->bound_count - 1], &s->bounds[i]) != 0)
            s->bounds[s->bound_count++] = s->bounds[i];
    return 0;
}

static struct heap *heap_of(const struct sweep *s, size_t stratum)
{
    size_t from = 0, to = s->heap_count;
    while (to - from > 1) {
        size_t mid = from + (to - from) / 2;
        if (s->heaps[mid].stratum <= stratum)
            from = mid;
        else
            to = mid;
    }
    assert(s->heaps[from].stratum == stratum);
    return &s->heaps[from];
}

static int sweep_heaps(struct sweep *s, const struct ranges *r, const uint64_t *snapshots, size_t count)
{
    size_t n = r->raw_count;
    size_t *strata = malloc((n + 1) * sizeof *strata);
    s->heaps = calloc(n + 1, sizeof *s->heaps);
    s->room = malloc((n + 1) * sizeof *s->room);
    if (!strata || !s->heaps || !s->room) {
        free(strata);
        return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++)
        strata[i] = ranges_stratum(snapshots, count, r->raw[i].seq);
    qsort(strata, n, sizeof *strata, compare_sizes);
    for (size_t i = 0; i < n; i++) {
        if (i && strata[i] == strata[i - 1])
            continue;
        s->heaps[s->heap_count++] = (struct heap){.stratum = strata[i], .list = s->room + i};
    }
    free(strata);
    return 0;
}

static bool same_seqs(const struct ranges *r, const struct range_fragment *f, const uint64_t *seqs, size_t n)
{
    return f->count == n && memcmp(r->seqs + f->first, seqs, n * sizeof *seqs) == 0;
}

/* Adds the fragment between two bounds, from what is on top of the heaps; joins it with the one before it if it can. */
static int sweep_emit(struct sweep *s, struct ranges *r, const struct bound *from, const struct bound *to)
{
    if (s->seq_capacity - r->seq_count < s->heap_count) {
        s->seq_capacity = (s->seq_capacity + s->heap_count) * 2;
        uint64_t *seqs = realloc(r->seqs, s->seq_capacity * sizeof *seqs);
        if (!seqs)
            return -ENOMEM;
        r->seqs = seqs;
    }
    size_t n = 0;
    for (size_t i = s->heap_count; i-- > 0;) {
        struct heap *h = &s->heaps[i];
        while (h->count && key_compare(h->list[0]->end, h->list[0]->end_len, from->key, from->len) <= 0)
            heap_pop(h);
        if (h->count)
            r->seqs[r->seq_count + n++] = h->list[0]->seq;
    }
    if (!n)
        return 0;
    struct range_fragment *last = r->count ? &r->fragments[r->count - 1] : NULL;
    if (last && key_compare(last->end, last->end_len, from->key, from->len) == 0 &&
        same_seqs(r, last, r->seqs + r->seq_count, n)) {
        last->end = to->key;
        last->end_len = to->len;
        return 0;
    }
    r->fragments[r->count++] =
        (struct range_fragment){from->key, to->key, from->len, to->len, r->seq_count, n};
    r->seq_count += n;
    return 0;
}

int ranges_build(struct ranges *r, const uint64_t *snapshots, size_t snapshot_count)
{
    assert(!r->fragments);
    struct sweep s = {0};
    if (!r->raw_count)
        return 0;
    int err = sweep_bounds(&s, r);
    if (!err)
        err = sweep_heaps(&s, r, snapshots, snapshot_count);
    if (!err && !(r->fragments = malloc(s.bound_count * sizeof *r->fragments)))
        err = -ENOMEM;
    if (!err)
        qsort(r->raw, r->raw_count, sizeof *r->raw, compare_starts);
    size_t next = 0;
    for (size_t i = 0; !err && i + 1 < s.bound_count; i++) {
        for (; next < r->raw_count; next++) {
            const struct range_delete *d = &r->raw[next];
            if (key_compare(d->start, d->start_len, s.bounds[i].key, s.bounds[i].len) > 0)
                break;
            heap_push(heap_of(&s, ranges_stratum(snapshots, snapshot_count, d->seq)), d);
        }
        err = sweep_emit(&s, r, &s.bounds[i], &s.bounds[i + 1]);
    }
    free(s.bounds);
    free(s.heaps);
    free(s.room);
    return err;
}

void ranges_free(struct ranges *r)
{
    for (struct ranges_chunk *c = r->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(r->raw);
    free(r->fragments);
    free(r->seqs);
    memset(r, 0, sizeof *r);
}

/* ---- asking ---- */

size_t ranges_find(const struct ranges *r, const void *key, size_t len)
{
    size_t from = 0, to = r->count;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (key_compare(r->fragments[mid].end, r->fragments[mid].end_len, key, len) <= 0)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

uint64_t ranges_cover(const struct ranges *r, const void *key, size_t len, uint64_t seq)
{
    size_t i = ranges_find(r, key, len);
    if (i == r->count || key_compare(r->fragments[i].start, r->fragments[i].start_len, key, len) > 0)
        return 0;
    const struct range_fragment *f = &r->fragments[i];
    for (size_t j = 0; j < f->count; j++)
        if (r->seqs[f->first + j] <= seq)
            return r->seqs[f->first + j];
    return 0;
}
