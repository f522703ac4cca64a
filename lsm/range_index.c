/*
 * range_index.c - see range_index.h.
 */
#include "range_index.h"

#include <errno.h>

#define HEIGHT_MAX 20u /* with branching 2: good for a million bounds */

struct mark {
    uint64_t seq;
    uint32_t next, jump; /* older ones */
    uint32_t depth;      /* how many are below */
};

struct link {
    uint32_t next;  /* atomic */
    uint32_t marks; /* atomic */
};

struct node {
    uint32_t key_len;
    uint32_t height;
    struct link link[];
};

/* A range delete as it came. */
struct record {
    uint64_t seq;
    uint32_t start, end; /* nodes */
    uint32_t next;       /* of all */
    uint32_t loose;      /* of those kept aside */
};

static struct node *node_at(const struct range_index *x, uint32_t link) { return arena_at(x->arena, link); }
static uint8_t *node_key(const struct node *n) { return (uint8_t *)(n->link + n->height); }
static size_t node_bytes(unsigned height, size_t key_len)
{
    return arena_round(sizeof(struct node) + height * sizeof(struct link) + key_len);
}
static uint32_t load(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

static struct node *node_next(const struct range_index *x, const struct node *n, unsigned level)
{
    uint32_t next = load(&n->link[level].next);
    return next ? node_at(x, next) : NULL;
}

size_t range_index_bytes(size_t start_len, size_t end_len)
{
    return node_bytes(HEIGHT_MAX, 0) + node_bytes(HEIGHT_MAX, start_len) + node_bytes(HEIGHT_MAX, end_len) +
           arena_round(sizeof(struct record)) + RANGE_MARKS_MAX * arena_round(sizeof(struct mark));
}

/* ---- adding ---- */

static unsigned random_height(struct range_index *x)
{
    x->random ^= x->random << 13;
    x->random ^= x->random >> 7;
    x->random ^= x->random << 17;
    unsigned height = 1;
    for (uint64_t bits = x->random; height < HEIGHT_MAX && bits % 2 == 0; bits /= 2)
        height++;
    return height;
}

static struct node *new_node(struct range_index *x, const uint8_t *key, size_t len, unsigned height)
{
    struct node *n = arena_next(x->arena);
    arena_take(x->arena, node_bytes(height, len));
    n->key_len = (uint32_t)len;
    n->height = height;
    if (len)
        memcpy(node_key(n), key, len);
    return n;
}

/* The node of this bound; a new one splits the links over it. */
static struct node *bound_at(struct range_index *x, const uint8_t *key, size_t len)
{
    struct node *before[HEIGHT_MAX], *at = node_at(x, x->head), *next = NULL;
    for (unsigned level = HEIGHT_MAX; level-- > 0;) {
        while ((next = node_next(x, at, level)) && key_compare(node_key(next), next->key_len, key, len) < 0)
            at = next;
        before[level] = at;
    }
    if (next && key_compare(node_key(next), next->key_len, key, len) == 0)
        return next;
    unsigned height = random_height(x);
    struct node *n = new_node(x, key, len, height);
    if (height > x->height)
        __atomic_store_n(&x->height, height, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < height; i++) {
        n->link[i] = before[i]->link[i];
        __atomic_store_n(&before[i]->link[i].next, arena_link(x->arena, n), __ATOMIC_RELEASE);
    }
    return n;
}

/* The level of the longest link from `at` that does not go beyond `end`. */
static unsigned longest(const struct range_index *x, const struct node *at, const struct node *end)
{
    for (unsigned level = at->height - 1; level > 0; level--) {
        const struct node *next = node_next(x, at, level);
        if (next &&
            (next == end || key_compare(node_key(next), next->key_len, node_key(end), end->key_len) < 0))
            return level;
    }
    return 0;
}

static void push_mark(struct range_index *x, struct link *link, uint64_t seq)
{
    struct mark *m = arena_next(x->arena);
    arena_take(x->arena, sizeof *m);
    m->seq = seq;
    m->next = link->marks;
    if (m->next) {
        const struct mark *a = arena_at(x->arena, m->next);
        m->depth = a->depth + 1;
        m->jump = m->next;
        if (a->jump) { /* two skips of the same length are followed by one over both */
            const struct mark *b = arena_at(x->arena, a->jump);
            const struct mark *c = b->jump ? arena_at(x->arena, b->jump) : NULL;
            if (c && a->depth - b->depth == b->depth - c->depth)
                m->jump = b->jump;
        }
    }
    __atomic_store_n(&link->marks, arena_link(x->arena, m), __ATOMIC_RELEASE);
}

void range_index_add(struct range_index *x, const struct range_delete *d)
{
    if (!x->head) {
        x->random = 0x9e3779b97f4a7c15u;
        struct node *head = new_node(x, NULL, 0, HEIGHT_MAX);
        x->height = 1;
        __atomic_store_n(&x->head, arena_link(x->arena, head), __ATOMIC_RELEASE);
    }
    struct node *start = bound_at(x, d->start, d->start_len), *end = bound_at(x, d->end, d->end_len);
    struct record *r = arena_next(x->arena);
    arena_take(x->arena, sizeof *r);
    *r = (struct record){.seq = d->seq,
                         .start = arena_link(x->arena, start),
                         .end = arena_link(x->arena, end),
                         .next = x->newest,
                         .loose = x->loose};
    unsigned links = 0;
    for (const struct node *n = start; n != end; n = node_next(x, n, longest(x, n, end)))
        links++;
    if (links > x->marks_max) {
        __atomic_store_n(&x->loose, arena_link(x->arena, r), __ATOMIC_RELEASE);
    } else {
        for (struct node *n = start; n != end;) {
            unsigned level = longest(x, n, end);
            push_mark(x, &n->link[level], d->seq);
            n = node_next(x, n, level);
        }
    }
    __atomic_store_n(&x->newest, arena_link(x->arena, r), __ATOMIC_RELEASE);
    __atomic_store_n(&x->count, x->count + 1, __ATOMIC_RELEASE);
}

/* ---- asking ---- */

static uint64_t newest_mark(const struct range_index *x, uint32_t at, uint64_t seq)
{
    while (at) {
        const struct mark *m = arena_at(x->arena, at);
        if (m->seq <= seq)
            return m->seq;
        const struct mark *j = m->jump ? arena_at(x->arena, m->jump) : NULL;
        at = j && j->seq > seq ? m->jump : m->next;
    }
    return 0;
}

static uint64_t newest_loose(const struct range_index *x, const void *key, size_t len, uint64_t seq)
{
    for (uint32_t at = load(&x->loose); at;) {
        const struct record *r = arena_at(x->arena, at);
        const struct node *start = node_at(x, r->start), *end = node_at(x, r->end);
        if (r->seq <= seq && key_compare(node_key(start), start->key_len, key, len) <= 0 &&
            key_compare(node_key(end), end->key_len, key, len) > 0)
            return r->seq; /* newest first */
        at = r->loose;
    }
    return 0;
}

static void set_bounds(struct range_bounds *b, const struct node *lower, const struct node *upper)
{
    b->has_lower = b->has_upper = false;
    if (lower)
        bounds_set_lower(b, node_key(lower), lower->key_len);
    if (upper)
        bounds_set_upper(b, node_key(upper), upper->key_len);
}

uint64_t range_index_cover(const struct range_index *x, const void *key, size_t len, uint64_t seq,
                           struct range_bounds *bounds)
{
    uint32_t first = load(&x->head);
    if (!first) {
        if (bounds)
            set_bounds(bounds, NULL, NULL);
        return 0;
    }
    const struct node *head = node_at(x, first), *at = head, *next = NULL, *known = NULL;
    uint64_t best = newest_loose(x, key, len, seq);
    for (unsigned level = __atomic_load_n(&x->height, __ATOMIC_ACQUIRE); level-- > 0;) {
        while ((next = node_next(x, at, level)) && next != known &&
               key_compare(node_key(next), next->key_len, key, len) <= 0)
            at = next;
        known = next;
        uint64_t mark = newest_mark(x, load(&at->link[level].marks), seq);
        best = mark > best ? mark : best;
    }
    if (bounds)
        set_bounds(bounds, at == head ? NULL : at, next);
    return best;
}

int range_index_list(const struct range_index *x, struct ranges *out)
{
    int err = 0;
    for (uint32_t at = load(&x->newest); !err && at;) {
        const struct record *r = arena_at(x->arena, at);
        const struct node *start = node_at(x, r->start), *end = node_at(x, r->end);
        struct range_delete d = {node_key(start), node_key(end), start->key_len, end->key_len, r->seq};
        err = ranges_add(out, &d);
        at = r->next;
    }
    return err;
}
