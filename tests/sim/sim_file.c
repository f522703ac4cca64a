/*
 * sim_file.c - the contents of files on a simulated disk: pages, inodes, and what a crash leaves of them.
 *
 * Threads: one.
 */
#include "sim_internal.h"

#include <errno.h>
#include <string.h>

#define SECTOR 512u

struct page sim_page_zeros = {.refs = 1};

/* ---- pages ---- */

struct page *sim_page_ref(struct page *p)
{
    if (p)
        p->refs++;
    return p;
}

void sim_page_unref(struct page *p)
{
    if (p && --p->refs == 0)
        free(p);
}

void sim_page_set(struct page **slot, struct page *p)
{
    sim_page_ref(p);
    sim_page_unref(*slot);
    *slot = p;
}

const uint8_t *sim_page_bytes(const struct page *p) { return p ? p->bytes : sim_page_zeros.bytes; }

/* A new image of `old` with `len` bytes replaced; one reference. */
struct page *sim_page_patch(const struct page *old, size_t at, const uint8_t *data, size_t len)
{
    if (len == PAGE && data[0] == 0 && !memcmp(data, data + 1, PAGE - 1))
        return sim_page_ref(&sim_page_zeros);
    struct page *p = malloc(sizeof(*p));
    if (!p)
        abort();
    p->refs = 1;
    if (len < PAGE)
        memcpy(p->bytes, sim_page_bytes(old), PAGE);
    memcpy(p->bytes + at, data, len);
    return p;
}

/* ---- inodes ---- */

static void events_clear(struct inode *i)
{
    for (size_t k = 0; k < i->event_count; k++)
        sim_page_unref(i->events[k].page);
    i->event_count = 0;
}

void sim_inode_unref(struct inode *i)
{
    if (--i->refs > 0)
        return;
    for (size_t k = 0; k < i->slots; k++) {
        sim_page_unref(i->now[k]);
        sim_page_unref(i->durable[k]);
    }
    events_clear(i);
    free(i->events);
    free(i->now);
    free(i->durable);
    free(i);
}

static struct inode *inode_copy(const struct inode *old)
{
    struct inode *i = sim_take(sizeof(*i));

    *i = *old;
    i->refs = 1;
    i->now = sim_take(i->slots * sizeof(*i->now));
    i->durable = sim_take(i->slots * sizeof(*i->durable));
    i->events = sim_take(i->event_capacity * sizeof(*i->events));
    for (size_t k = 0; k < i->slots; k++) {
        i->now[k] = sim_page_ref(old->now[k]);
        i->durable[k] = sim_page_ref(old->durable[k]);
    }
    for (size_t k = 0; k < i->event_count; k++) {
        i->events[k] = old->events[k];
        sim_page_ref(i->events[k].page);
    }
    return i;
}

/* The inode, to be changed: shared with no other machine. */
struct inode *sim_inode_own(struct sim *s, uint32_t id)
{
    struct entry *e = &s->files[id];

    if (e->inode->refs > 1) {
        struct inode *copy = inode_copy(e->inode);
        e->inode->refs--;
        e->inode = copy;
    }
    return e->inode;
}

static void add_event(struct sim *s, struct inode *i, bool is_size, uint64_t at, struct page *page)
{
    i->events = sim_grow(i->events, i->event_count, &i->event_capacity, sizeof(*i->events));
    i->events[i->event_count++] = (struct event){s->time, at, sim_page_ref(page), is_size};
}

void sim_inode_reach(struct inode *i, size_t slots)
{
    if (slots <= i->slots)
        return;
    size_t grown = slots > 2 * i->slots ? slots : 2 * i->slots;
    i->now = realloc(i->now, grown * sizeof(*i->now));
    i->durable = realloc(i->durable, grown * sizeof(*i->durable));
    if (!i->now || !i->durable)
        abort();
    memset(i->now + i->slots, 0, (grown - i->slots) * sizeof(*i->now));
    memset(i->durable + i->slots, 0, (grown - i->slots) * sizeof(*i->durable));
    i->slots = grown;
}

/* Page k looks like this now, and may on the medium. Takes over the reference. */
void sim_inode_put_page(struct sim *s, struct inode *i, size_t k, struct page *page)
{
    uint64_t before = i->blocks;

    i->blocks += (page != NULL) - (i->now[k] != NULL);
    s->used += i->blocks - before;
    add_event(s, i, false, k, page);
    sim_page_unref(i->now[k]);
    i->now[k] = page;
}

void sim_inode_set_size(struct sim *s, struct inode *i, uint64_t size)
{
    if (size == i->size)
        return;
    i->size = size;
    add_event(s, i, true, size, NULL);
}

bool sim_inode_has_space(struct sim *s, const struct inode *i, size_t k)
{
    return (k < i->slots && i->now[k]) || s->used < s->capacity;
}

/* -ENOSPC: the bytes before are written. */
static int write_bytes(struct sim *s, struct inode *i, const uint8_t *data, size_t len, uint64_t off)
{
    while (len > 0) {
        size_t k = (size_t)(off / PAGE), at = (size_t)(off % PAGE);
        size_t step = len < PAGE - at ? len : PAGE - at;
        if (!sim_inode_has_space(s, i, k))
            return -ENOSPC;
        sim_inode_reach(i, k + 1);
        sim_inode_put_page(s, i, k, sim_page_patch(i->now[k], at, data, step));
        data += step;
        off += step;
        len -= step;
        if (off > i->size)
            sim_inode_set_size(s, i, off);
    }
    return 0;
}

int sim_file_write_vectors(struct sim *s, uint32_t id, const struct iovec *iov, int n, uint64_t off,
                           uint64_t limit)
{
    struct inode *i = sim_inode_own(s, id);
    int rc = 0;

    for (int k = 0; k < n && !rc && limit > 0; k++) {
        size_t len = iov[k].iov_len < limit ? iov[k].iov_len : (size_t)limit;
        rc = write_bytes(s, i, iov[k].iov_base, len, off);
        off += len;
        limit -= len;
    }
    return rc;
}

void sim_inode_cut(struct sim *s, struct inode *i, uint64_t size)
{
    static const uint8_t nothing[PAGE];
    size_t keep = (size_t)((size + PAGE - 1) / PAGE);

    for (size_t k = keep; k < i->slots; k++) {
        if (i->now[k])
            sim_inode_put_page(s, i, k, NULL);
    }
    if (size % PAGE && keep <= i->slots && i->now[keep - 1])
        sim_inode_put_page(s, i, keep - 1,
                           sim_page_patch(i->now[keep - 1], size % PAGE, nothing, PAGE - size % PAGE));
    sim_inode_set_size(s, i, size);
}

void sim_inode_sync(struct inode *i)
{
    for (size_t k = 0; k < i->event_count; k++) {
        if (!i->events[k].is_size)
            sim_page_set(&i->durable[i->events[k].at], i->events[k].page);
    }
    events_clear(i);
    i->durable_size = i->size;
}

/* ---- what a crash leaves of an inode ---- */

static int by_page_and_time(const void *a, const void *b)
{
    const struct event *x = *(const struct event *const *)a, *y = *(const struct event *const *)b;

    if (x->is_size != y->is_size)
        return x->is_size - y->is_size;
    if (!x->is_size && x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return (x > y) - (x < y);
}

/*
 * Which of the images 0 (durable), 1 .. n the medium has. *torn: the one before may stand in some sectors.
 * `late` is the last moment that counts.
 */
static size_t choose(struct sim *s, struct event *const *events, size_t n, enum sim_loss loss, uint64_t late,
                     bool *torn)
{
    size_t k = 0;

    *torn = false;
    switch (loss) {
    case SIM_LOSE_NOTHING: return n;
    case SIM_LOSE_LATE:
        while (k < n && events[k]->time <= late)
            k++;
        *torn = k > 0 && events[k - 1]->time == late;
        return k;
    case SIM_LOSE_SOME: return sim_coin(s) ? n : 0;
    case SIM_LOSE_ANY: return (size_t)sim_below(s, n + 1);
    default: return 0;
    }
}

static struct page *image(const struct inode *i, struct event *const *events, size_t k)
{
    return k ? events[k - 1]->page : i->durable[events[0]->at];
}

/* A page of which each sector is one of two, or of all, images. One reference. */
static struct page *tear(struct sim *s, const struct inode *i, struct event *const *events, size_t n,
                         size_t chosen, bool two)
{
    struct page *p = sim_take(sizeof(*p));

    p->refs = 1;
    for (size_t at = 0; at < PAGE; at += SECTOR) {
        size_t k = two ? chosen - sim_coin(s) : (size_t)sim_below(s, n + 1);
        memcpy(p->bytes + at, sim_page_bytes(image(i, events, k)) + at, SECTOR);
    }
    return p;
}

static void resolve_page(struct sim *s, struct inode *i, struct event *const *events, size_t n,
                         enum sim_loss loss, uint64_t late)
{
    bool torn;
    size_t k = choose(s, events, n, loss, late, &torn);
    struct page *p;

    if (torn || (loss == SIM_LOSE_ANY && sim_coin(s)))
        p = tear(s, i, events, n, k, torn);
    else
        p = sim_page_ref(image(i, events, k));
    sim_page_unref(i->durable[events[0]->at]);
    i->durable[events[0]->at] = p;
}

/* `durable` becomes what a crash would leave; the events are gone. */
void sim_inode_resolve(struct sim *s, struct inode *i, enum sim_loss loss, uint64_t late)
{
    size_t n = i->event_count, from = 0;
    struct event **order = sim_take(n * sizeof(*order));
    bool torn;

    for (size_t k = 0; k < n; k++)
        order[k] = &i->events[k];
    qsort(order, n, sizeof(*order), by_page_and_time);
    while (from < n && !order[from]->is_size) {
        size_t to = from + 1;
        while (to < n && !order[to]->is_size && order[to]->at == order[from]->at)
            to++;
        resolve_page(s, i, order + from, to - from, loss, late);
        from = to;
    }
    if (from < n) {
        size_t k = choose(s, order + from, n - from, loss, late, &torn);
        k -= torn && sim_coin(s);
        if (k)
            i->durable_size = order[from + k - 1]->at;
    }
    free(order);
    events_clear(i);
}

/* What is beyond the size is gone; `now` becomes the same. */
void sim_inode_settle(struct sim *s, struct inode *i)
{
    static const uint8_t nothing[PAGE];
    size_t keep = (size_t)((i->durable_size + PAGE - 1) / PAGE);

    sim_inode_reach(i, keep);
    for (size_t k = keep; k < i->slots; k++)
        sim_page_set(&i->durable[k], NULL);
    if (i->durable_size % PAGE && i->durable[keep - 1]) {
        size_t at = (size_t)(i->durable_size % PAGE);
        struct page *p = sim_page_patch(i->durable[keep - 1], at, nothing, PAGE - at);
        sim_page_unref(i->durable[keep - 1]);
        i->durable[keep - 1] = p;
    }
    s->used -= i->blocks;
    i->blocks = 0;
    for (size_t k = 0; k < i->slots; k++) {
        sim_page_set(&i->now[k], i->durable[k]);
        i->blocks += i->now[k] != NULL;
    }
    s->used += i->blocks;
    i->size = i->durable_size;
    i->disagrees = false;
}
