/*
 * env_sim.c - the simulated machine; env_sim.h says what it promises and what it loses.
 *
 * A disk is a table of inodes and a list of names. An inode has two arrays of pages, `now` and
 * `durable`, and the events since its last sync in order: "page i became this image", "the size
 * became n". A sync applies them to `durable`; a crash picks among them. Names work alike: a list of
 * changes since the directory's last sync. Inodes and pages are reference counted and shared by
 * clones, and copied when one of several owners changes them. A page of zeros is one for all.
 *
 * Memory of the machine itself is taken as for granted (abort if there is none): a test that lets
 * allocations fail spares those made inside of calls (env_sim_inside).
 *
 * Threads: one.
 */
#include "env_sim.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096u
#define SECTOR 512u
#define FILE_BYTES_MAX (UINT64_C(1) << 32)
#define CALL_NS_MAX 2000u /* a call takes up to that long */
#define UNLIMITED (UINT64_C(1) << 40)

enum { NO_FILE = -1, DIRECTORY = 0 }; /* what a name may lead to besides an inode's id */

struct page {
    unsigned refs;
    uint8_t bytes[PAGE];
};

static struct page zeros = {.refs = 1};

struct event {
    uint64_t time;
    uint64_t at; /* index of the page, or the new size */
    struct page *page;
    bool is_size;
};

struct inode {
    unsigned refs;
    uint64_t size, durable_size;
    struct page **now, **durable; /* NULL: a hole */
    size_t slots;
    uint64_t blocks; /* pages in `now` */
    struct event *events;
    size_t event_count, event_capacity;
    bool disagrees; /* a failed sync made now and durable differ for good */
};

struct entry {
    struct inode *inode;
    unsigned links, opens; /* while there are any it takes space */
};

struct name {
    char path[SIM_PATH_MAX];
    int32_t now, durable;
};

struct name_change {
    uint32_t name;
    int32_t to;
};

struct name_event {
    uint64_t time;
    unsigned count;
    struct name_change change[2];
};

struct env_lock {
    char path[SIM_PATH_MAX];
    bool exclusive;
    struct env_lock *next;
};

struct sim {
    struct env base;
    uint64_t random, clock_ns, time, calls, changes;
    struct entry *files; /* [0] is not used */
    uint32_t file_count, file_capacity;
    struct name *names;
    uint32_t name_count, name_capacity;
    struct name_event *events;
    size_t event_count, event_capacity;
    struct env_lock *locks;
    unsigned open_files;
    uint64_t capacity, used; /* in pages */
    sim_hook hook;
    void *hook_arg;
};

struct sim_file {
    struct env_file base;
    struct sim *sim;
    uint32_t id;
    unsigned flags;
    uint64_t map_len;
    char path[SIM_PATH_MAX];
};

volatile bool env_sim_inside;

static struct sim *sim_of(struct env *e) { return (struct sim *)e; }
static struct sim_file *file_of(struct env_file *f) { return (struct sim_file *)f; }

static uint64_t draw(struct sim *s) /* splitmix64 */
{
    uint64_t z = s->random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t below(struct sim *s, uint64_t n) { return draw(s) % n; }
static bool coin(struct sim *s) { return draw(s) >> 63; }

static void *grow(void *list, size_t count, size_t *capacity, size_t item)
{
    if (count < *capacity)
        return list;
    *capacity = *capacity ? 2 * *capacity : 16;
    list = realloc(list, *capacity * item);
    if (!list)
        abort();
    return list;
}

static void *take(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);

    if (!p)
        abort();
    return p;
}

/* ---- pages ---- */

static struct page *page_ref(struct page *p)
{
    if (p)
        p->refs++;
    return p;
}

static void page_unref(struct page *p)
{
    if (p && --p->refs == 0)
        free(p);
}

static void page_set(struct page **slot, struct page *p)
{
    page_ref(p);
    page_unref(*slot);
    *slot = p;
}

static const uint8_t *page_bytes(const struct page *p) { return p ? p->bytes : zeros.bytes; }

/* A new image of `old` with `len` bytes replaced; one reference. */
static struct page *page_patch(const struct page *old, size_t at, const uint8_t *data, size_t len)
{
    if (len == PAGE && data[0] == 0 && !memcmp(data, data + 1, PAGE - 1))
        return page_ref(&zeros);
    struct page *p = malloc(sizeof(*p));
    if (!p)
        abort();
    p->refs = 1;
    if (len < PAGE)
        memcpy(p->bytes, page_bytes(old), PAGE);
    memcpy(p->bytes + at, data, len);
    return p;
}

/* ---- inodes ---- */

static void events_clear(struct inode *i)
{
    for (size_t k = 0; k < i->event_count; k++)
        page_unref(i->events[k].page);
    i->event_count = 0;
}

static void inode_unref(struct inode *i)
{
    if (--i->refs > 0)
        return;
    for (size_t k = 0; k < i->slots; k++) {
        page_unref(i->now[k]);
        page_unref(i->durable[k]);
    }
    events_clear(i);
    free(i->events);
    free(i->now);
    free(i->durable);
    free(i);
}

static struct inode *inode_copy(const struct inode *old)
{
    struct inode *i = take(sizeof(*i));

    *i = *old;
    i->refs = 1;
    i->now = take(i->slots * sizeof(*i->now));
    i->durable = take(i->slots * sizeof(*i->durable));
    i->events = take(i->event_capacity * sizeof(*i->events));
    for (size_t k = 0; k < i->slots; k++) {
        i->now[k] = page_ref(old->now[k]);
        i->durable[k] = page_ref(old->durable[k]);
    }
    for (size_t k = 0; k < i->event_count; k++) {
        i->events[k] = old->events[k];
        page_ref(i->events[k].page);
    }
    return i;
}

/* The inode, to be changed: shared with no other machine. */
static struct inode *own(struct sim *s, uint32_t id)
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
    i->events = grow(i->events, i->event_count, &i->event_capacity, sizeof(*i->events));
    i->events[i->event_count++] = (struct event){s->time, at, page_ref(page), is_size};
}

static void reach(struct inode *i, size_t slots)
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
static void put_page(struct sim *s, struct inode *i, size_t k, struct page *page)
{
    uint64_t before = i->blocks;

    i->blocks += (page != NULL) - (i->now[k] != NULL);
    s->used += i->blocks - before;
    add_event(s, i, false, k, page);
    page_unref(i->now[k]);
    i->now[k] = page;
}

static void set_size(struct sim *s, struct inode *i, uint64_t size)
{
    if (size == i->size)
        return;
    i->size = size;
    add_event(s, i, true, size, NULL);
}

static bool has_space(struct sim *s, const struct inode *i, size_t k)
{
    return (k < i->slots && i->now[k]) || s->used < s->capacity;
}

/* -ENOSPC: the bytes before are written. */
static int write_bytes(struct sim *s, struct inode *i, const uint8_t *data, size_t len, uint64_t off)
{
    while (len > 0) {
        size_t k = (size_t)(off / PAGE), at = (size_t)(off % PAGE);
        size_t step = len < PAGE - at ? len : PAGE - at;
        if (!has_space(s, i, k))
            return -ENOSPC;
        reach(i, k + 1);
        put_page(s, i, k, page_patch(i->now[k], at, data, step));
        data += step;
        off += step;
        len -= step;
        if (off > i->size)
            set_size(s, i, off);
    }
    return 0;
}

static int write_vectors(struct sim *s, uint32_t id, const struct iovec *iov, int n, uint64_t off,
                         uint64_t limit)
{
    struct inode *i = own(s, id);
    int rc = 0;

    for (int k = 0; k < n && !rc && limit > 0; k++) {
        size_t len = iov[k].iov_len < limit ? iov[k].iov_len : (size_t)limit;
        rc = write_bytes(s, i, iov[k].iov_base, len, off);
        off += len;
        limit -= len;
    }
    return rc;
}

static uint64_t vector_bytes(const struct iovec *iov, int n)
{
    uint64_t bytes = 0;

    for (int i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

static void cut(struct sim *s, struct inode *i, uint64_t size)
{
    static const uint8_t nothing[PAGE];
    size_t keep = (size_t)((size + PAGE - 1) / PAGE);

    for (size_t k = keep; k < i->slots; k++) {
        if (i->now[k])
            put_page(s, i, k, NULL);
    }
    if (size % PAGE && keep <= i->slots && i->now[keep - 1])
        put_page(s, i, keep - 1, page_patch(i->now[keep - 1], size % PAGE, nothing, PAGE - size % PAGE));
    set_size(s, i, size);
}

static void sync_inode(struct inode *i)
{
    for (size_t k = 0; k < i->event_count; k++) {
        if (!i->events[k].is_size)
            page_set(&i->durable[i->events[k].at], i->events[k].page);
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
    case SIM_LOSE_SOME: return coin(s) ? n : 0;
    case SIM_LOSE_ANY: return (size_t)below(s, n + 1);
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
    struct page *p = take(sizeof(*p));

    p->refs = 1;
    for (size_t at = 0; at < PAGE; at += SECTOR) {
        size_t k = two ? chosen - coin(s) : (size_t)below(s, n + 1);
        memcpy(p->bytes + at, page_bytes(image(i, events, k)) + at, SECTOR);
    }
    return p;
}

static void resolve_page(struct sim *s, struct inode *i, struct event *const *events, size_t n,
                         enum sim_loss loss, uint64_t late)
{
    bool torn;
    size_t k = choose(s, events, n, loss, late, &torn);
    struct page *p;

    if (torn || (loss == SIM_LOSE_ANY && coin(s)))
        p = tear(s, i, events, n, k, torn);
    else
        p = page_ref(image(i, events, k));
    page_unref(i->durable[events[0]->at]);
    i->durable[events[0]->at] = p;
}

/* `durable` becomes what a crash would leave; the events are gone. */
static void resolve(struct sim *s, struct inode *i, enum sim_loss loss, uint64_t late)
{
    size_t n = i->event_count, from = 0;
    struct event **order = take(n * sizeof(*order));
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
        k -= torn && coin(s);
        if (k)
            i->durable_size = order[from + k - 1]->at;
    }
    free(order);
    events_clear(i);
}

/* What is beyond the size is gone; `now` becomes the same. */
static void settle(struct sim *s, struct inode *i)
{
    static const uint8_t nothing[PAGE];
    size_t keep = (size_t)((i->durable_size + PAGE - 1) / PAGE);

    reach(i, keep);
    for (size_t k = keep; k < i->slots; k++)
        page_set(&i->durable[k], NULL);
    if (i->durable_size % PAGE && i->durable[keep - 1]) {
        size_t at = (size_t)(i->durable_size % PAGE);
        struct page *p = page_patch(i->durable[keep - 1], at, nothing, PAGE - at);
        page_unref(i->durable[keep - 1]);
        i->durable[keep - 1] = p;
    }
    s->used -= i->blocks;
    i->blocks = 0;
    for (size_t k = 0; k < i->slots; k++) {
        page_set(&i->now[k], i->durable[k]);
        i->blocks += i->now[k] != NULL;
    }
    s->used += i->blocks;
    i->size = i->durable_size;
    i->disagrees = false;
}

/* ---- names ---- */

static int normalise(const char *path, char out[SIM_PATH_MAX])
{
    size_t n = 0;

    for (const char *p = path; *p; p++) {
        if (*p == '/' && n > 0 && out[n - 1] == '/')
            continue;
        if (n + 1 >= SIM_PATH_MAX)
            return -ENAMETOOLONG;
        out[n++] = *p;
    }
    if (n > 0 && out[n - 1] == '/')
        n--; /* the root is the empty path */
    out[n] = 0;
    return 0;
}

/* Length of the directory's part. */
static size_t parent_len(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? (size_t)(slash - path) : 0;
}

static bool lies_in(const char *path, const char *dir)
{
    size_t n = parent_len(path);

    return strlen(dir) == n && !memcmp(path, dir, n);
}

static struct name *lookup(struct sim *s, const char *path)
{
    for (uint32_t i = 0; i < s->name_count; i++) {
        if (!strcmp(s->names[i].path, path))
            return &s->names[i];
    }
    return NULL;
}

static int32_t leads_to(struct sim *s, const char *path)
{
    struct name *n = path[0] ? lookup(s, path) : NULL;

    if (!path[0])
        return DIRECTORY;
    return n ? n->now : NO_FILE;
}

static int parent_check(struct sim *s, const char *path)
{
    char parent[SIM_PATH_MAX];
    size_t n = parent_len(path);

    memcpy(parent, path, n);
    parent[n] = 0;
    int32_t to = leads_to(s, parent);
    return to == DIRECTORY ? 0 : to == NO_FILE ? -ENOENT : -ENOTDIR;
}

static void drop_names(struct sim *s)
{
    uint32_t kept = 0;

    if (s->event_count)
        return; /* events name them by index */
    for (uint32_t i = 0; i < s->name_count; i++) {
        if (s->names[i].now != NO_FILE || s->names[i].durable != NO_FILE)
            s->names[kept++] = s->names[i];
    }
    s->name_count = kept;
}

static uint32_t name_index(struct sim *s, const char *path)
{
    struct name *n = lookup(s, path);

    if (!n) {
        size_t capacity = s->name_capacity;
        s->names = grow(s->names, s->name_count, &capacity, sizeof(*s->names));
        s->name_capacity = (uint32_t)capacity;
        n = &s->names[s->name_count++];
        *n = (struct name){.now = NO_FILE, .durable = NO_FILE};
        strcpy(n->path, path);
    }
    return (uint32_t)(n - s->names);
}

static void maybe_released(struct sim *s, int32_t id)
{
    struct entry *e = &s->files[id];

    if (e->links == 0 && e->opens == 0)
        s->used -= e->inode->blocks;
}

static void set_now(struct sim *s, uint32_t name, int32_t to)
{
    int32_t old = s->names[name].now;

    s->names[name].now = to;
    if (to > DIRECTORY)
        s->files[to].links++;
    if (old > DIRECTORY) {
        s->files[old].links--;
        maybe_released(s, old);
    }
}

/* One or two names change together. */
static void change_names(struct sim *s, unsigned count, const struct name_change *change)
{
    s->events = grow(s->events, s->event_count, &s->event_capacity, sizeof(*s->events));
    struct name_event *e = &s->events[s->event_count++];
    *e = (struct name_event){.time = s->time, .count = count};
    for (unsigned k = 0; k < count; k++) {
        e->change[k] = change[k];
        set_now(s, change[k].name, change[k].to);
    }
}

static void change_name(struct sim *s, const char *path, int32_t to)
{
    struct name_change change = {name_index(s, path), to};

    change_names(s, 1, &change);
}

static void make_durable(struct sim *s, const struct name_event *e)
{
    for (unsigned k = 0; k < e->count; k++)
        s->names[e->change[k].name].durable = e->change[k].to;
}

static bool concerns(const struct sim *s, const struct name_event *e, const char *dir)
{
    bool in = false;

    for (unsigned k = 0; k < e->count; k++)
        in |= lies_in(s->names[e->change[k].name].path, dir);
    return in;
}

/* Inodes that nothing can lead to any more. */
static void drop_files(struct sim *s)
{
    bool *reachable = take(s->file_count * sizeof(*reachable));

    for (uint32_t i = 0; i < s->name_count; i++) {
        reachable[s->names[i].now > 0 ? s->names[i].now : 0] = true;
        reachable[s->names[i].durable > 0 ? s->names[i].durable : 0] = true;
    }
    for (size_t k = 0; k < s->event_count; k++)
        for (unsigned c = 0; c < s->events[k].count; c++)
            reachable[s->events[k].change[c].to > 0 ? s->events[k].change[c].to : 0] = true;
    for (uint32_t k = 1; k < s->file_count; k++) {
        if (reachable[k] || s->files[k].opens || !s->files[k].inode)
            continue;
        inode_unref(s->files[k].inode);
        s->files[k].inode = NULL;
    }
    free(reachable);
}

/* `failed`: of the changes some, from the first on, are on the medium; the rest still wait. */
static void sync_names(struct sim *s, const char *dir, bool failed)
{
    size_t kept = 0;
    bool stopped = false;

    for (size_t k = 0; k < s->event_count; k++) {
        stopped |= failed && below(s, 4) == 0;
        if (stopped || !concerns(s, &s->events[k], dir))
            s->events[kept++] = s->events[k];
        else
            make_durable(s, &s->events[k]);
    }
    s->event_count = kept;
    drop_names(s);
    drop_files(s);
}

static void resolve_names(struct sim *s, enum sim_loss loss, uint64_t late)
{
    for (size_t k = 0; k < s->event_count; k++) {
        const struct name_event *e = &s->events[k];
        bool kept = loss == SIM_LOSE_NOTHING || (loss == SIM_LOSE_LATE && e->time <= late) ||
                    ((loss == SIM_LOSE_SOME || loss == SIM_LOSE_ANY) && coin(s));
        if (kept)
            make_durable(s, e);
    }
    s->event_count = 0;
}

/* After a crash: what lies in a directory that is not there is not there either. */
static void settle_names(struct sim *s)
{
    for (bool again = true; again;) {
        again = false;
        for (uint32_t i = 0; i < s->name_count; i++) {
            char parent[SIM_PATH_MAX];
            struct name *n = &s->names[i], *dir;
            size_t len = parent_len(n->path);
            memcpy(parent, n->path, len);
            parent[len] = 0;
            dir = len ? lookup(s, parent) : NULL;
            if (n->durable == NO_FILE || len == 0 || (dir && dir->durable == DIRECTORY))
                continue;
            n->durable = NO_FILE;
            again = true;
        }
    }
    for (uint32_t k = 1; k < s->file_count; k++)
        s->files[k].links = 0;
    for (uint32_t i = 0; i < s->name_count; i++) {
        struct name *n = &s->names[i];
        n->now = n->durable;
        if (n->now > DIRECTORY)
            s->files[n->now].links++;
    }
    drop_names(s);
}

/* ---- calls ---- */

static const char *const op_names[SIM_OPS] = {
    "open",  "pread", "pwritev", "sync",   "allocate", "truncate", "size", "map",   "map_store",
    "mkdir", "list",  "unlink",  "rename", "link",     "sync_dir", "lock", "space", "random",
};

const char *env_sim_op_name(enum sim_op op) { return op_names[op]; }

static struct sim_fault enter_call(struct sim *s, struct sim_call call)
{
    struct sim_fault fault = {0};

    s->clock_ns += 1 + below(s, CALL_NS_MAX);
    call.index = ++s->calls;
    call.changes = s->changes;
    s->changes += call.may_change;
    s->time++;
    if (s->hook)
        fault = s->hook(s->hook_arg, &call);
    assert(!env_sim_inside);
    env_sim_inside = true;
    return fault;
}

static struct sim_fault enter(struct sim *s, enum sim_op op, bool may_change, const char *path)
{
    return enter_call(s, (struct sim_call){.op = op, .may_change = may_change, .path = path});
}

static int leave(int rc)
{
    assert(env_sim_inside);
    env_sim_inside = false;
    return rc;
}

/* The result of a change that a fault may have made, or not. */
static bool undone(struct sim_fault fault) { return fault.error && !fault.partial; }
static int result(int rc, struct sim_fault fault) { return fault.error ? fault.error : rc; }

/* ---- files ---- */

static ssize_t sim_pread(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    struct sim_file *file = file_of(f);
    struct sim *s = file->sim;
    uint8_t *out = buf;
    struct sim_fault fault =
        enter_call(s, (struct sim_call){.op = SIM_PREAD, .path = file->path, .bytes = len, .offset = off});
    const struct inode *i = s->files[file->id].inode;

    if (fault.error)
        return leave(fault.error);
    if (off >= i->size)
        len = 0;
    else if (len > i->size - off)
        len = (size_t)(i->size - off);
    if (fault.partial)
        len = (size_t)below(s, len + 1);
    for (size_t done = 0; done < len;) {
        size_t k = (size_t)((off + done) / PAGE), at = (size_t)((off + done) % PAGE);
        size_t step = len - done < PAGE - at ? len - done : PAGE - at;
        memcpy(out + done, page_bytes(k < i->slots ? i->now[k] : NULL) + at, step);
        done += step;
    }
    leave(0);
    return (ssize_t)len;
}

static int store(struct sim_file *file, enum sim_op op, const struct iovec *iov, int n, uint64_t off)
{
    struct sim *s = file->sim;
    uint64_t bytes = vector_bytes(iov, n);
    struct sim_call call = {.op = op,
                            .may_change = true,
                            .path = file->path,
                            .bytes = bytes,
                            .file = file->id,
                            .offset = off,
                            .iov = iov,
                            .iov_count = n};
    struct sim_fault fault = enter_call(s, call);
    uint64_t limit = fault.error ? (fault.partial ? below(s, bytes + 1) : 0) : bytes;

    if (!(file->flags & ENV_WRITE))
        return leave(-EBADF);
    if (off > FILE_BYTES_MAX || bytes > FILE_BYTES_MAX - off)
        return leave(-EFBIG);
    if (op == SIM_MAP_STORE && off + bytes > s->files[file->id].inode->size)
        return leave(-EIO);
    return leave(result(write_vectors(s, file->id, iov, n, off, limit), fault));
}

static int sim_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    return store(file_of(f), SIM_PWRITEV, iov, n, off);
}

static int sim_map_store(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    assert(off + vector_bytes(iov, n) <= file_of(f)->map_len);
    return store(file_of(f), SIM_MAP_STORE, iov, n, off);
}

static int sim_sync(struct env_file *f)
{
    struct sim *s = file_of(f)->sim;
    struct sim_fault fault = enter(s, SIM_SYNC, true, file_of(f)->path);
    struct inode *i = own(s, file_of(f)->id);

    if (fault.error) {
        i->disagrees |= i->event_count > 0;
        resolve(s, i, SIM_LOSE_ANY, 0);
    } else {
        sync_inode(i);
    }
    return leave(fault.error);
}

static int sim_allocate(struct env_file *f, uint64_t off, uint64_t len)
{
    struct sim *s = file_of(f)->sim;
    struct sim_fault fault = enter(s, SIM_ALLOCATE, true, file_of(f)->path);
    int rc = 0;

    if (!(file_of(f)->flags & ENV_WRITE))
        return leave(-EBADF);
    if (off > FILE_BYTES_MAX || len > FILE_BYTES_MAX - off)
        return leave(-EFBIG);
    if (undone(fault))
        return leave(fault.error);
    struct inode *i = own(s, file_of(f)->id);
    for (size_t k = (size_t)(off / PAGE); k < (off + len + PAGE - 1) / PAGE && !rc; k++) {
        if (!has_space(s, i, k)) {
            rc = -ENOSPC;
            break;
        }
        reach(i, k + 1);
        if (!i->now[k])
            put_page(s, i, k, page_ref(&zeros));
    }
    if (!rc && off + len > i->size)
        set_size(s, i, off + len);
    return leave(result(rc, fault));
}

static int sim_truncate(struct env_file *f, uint64_t len)
{
    struct sim *s = file_of(f)->sim;
    struct sim_fault fault = enter(s, SIM_TRUNCATE, true, file_of(f)->path);

    if (!(file_of(f)->flags & ENV_WRITE))
        return leave(-EINVAL);
    if (!undone(fault))
        cut(s, own(s, file_of(f)->id), len);
    return leave(fault.error);
}

static int sim_size(struct env_file *f, uint64_t *out)
{
    struct sim *s = file_of(f)->sim;
    struct sim_fault fault = enter(s, SIM_SIZE, false, file_of(f)->path);

    *out = s->files[file_of(f)->id].inode->size;
    return leave(fault.error);
}

static int sim_map(struct env_file *f, uint64_t len)
{
    struct sim *s = file_of(f)->sim;
    struct sim_fault fault = enter(s, SIM_MAP, false, file_of(f)->path);

    if (fault.error)
        return leave(fault.error);
    if (len == 0 || len > s->files[file_of(f)->id].inode->size)
        return leave(-EINVAL);
    if ((file_of(f)->flags & (ENV_READ | ENV_WRITE)) != (ENV_READ | ENV_WRITE))
        return leave(-ENOTSUP);
    file_of(f)->map_len = len;
    return leave(0);
}

static int sim_map_populate(struct env_file *f, uint64_t off, uint64_t len)
{
    (void)f, (void)off, (void)len;
    return 0;
}

static void sim_close(struct env_file *f)
{
    struct sim *s = file_of(f)->sim;

    s->open_files--;
    s->files[file_of(f)->id].opens--;
    maybe_released(s, (int32_t)file_of(f)->id);
    free(f);
}

static const struct env_file_ops sim_file_ops = {
    .pread = sim_pread,
    .pwritev = sim_pwritev,
    .sync = sim_sync,
    .allocate = sim_allocate,
    .truncate = sim_truncate,
    .size = sim_size,
    .map = sim_map,
    .map_store = sim_map_store,
    .map_populate = sim_map_populate,
    .close = sim_close,
};

/* ---- directories ---- */

static int32_t create(struct sim *s, const char *path)
{
    size_t capacity = s->file_capacity;

    s->files = grow(s->files, s->file_count, &capacity, sizeof(*s->files));
    s->file_capacity = (uint32_t)capacity;
    int32_t id = (int32_t)s->file_count++;
    struct inode *i = take(sizeof(*i));
    i->refs = 1;
    s->files[id] = (struct entry){.inode = i};
    change_name(s, path, id);
    return id;
}

/* Finds or creates. */
static int find_file(struct sim *s, const char *path, unsigned flags, uint32_t *id)
{
    int32_t to = leads_to(s, path);

    if (to == DIRECTORY)
        return -EISDIR;
    if (to > DIRECTORY && (flags & ENV_CREATE) && (flags & ENV_EXCL))
        return -EEXIST;
    if (to == NO_FILE) {
        int rc = flags & ENV_CREATE ? parent_check(s, path) : -ENOENT;
        if (rc)
            return rc;
        to = create(s, path);
    }
    *id = (uint32_t)to;
    if (flags & ENV_TRUNC)
        cut(s, own(s, *id), 0);
    return 0;
}

static int sim_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    struct sim *s = sim_of(e);
    char name[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_OPEN, flags & (ENV_CREATE | ENV_TRUNC), path);
    uint32_t id = 0;

    int rc = normalise(path, name);
    if (!rc && undone(fault))
        rc = fault.error;
    if (!rc)
        rc = find_file(s, name, flags, &id);
    rc = rc ? rc : fault.error;
    if (rc)
        return leave(rc);
    struct sim_file *f = take(sizeof(*f));
    *f = (struct sim_file){.base.ops = &sim_file_ops, .sim = s, .id = id};
    f->flags = flags & ENV_WRITE ? flags : flags | ENV_READ;
    strcpy(f->path, name);
    s->open_files++;
    s->files[id].opens++;
    *out = &f->base;
    return leave(0);
}

static int sim_mkdir(struct env *e, const char *path)
{
    struct sim *s = sim_of(e);
    char name[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_MKDIR, true, path);

    int rc = normalise(path, name);
    if (!rc && undone(fault))
        rc = fault.error;
    if (!rc)
        rc = leads_to(s, name) == NO_FILE ? parent_check(s, name) : -EEXIST;
    if (!rc)
        change_name(s, name, DIRECTORY);
    return leave(result(rc, fault));
}

/* Copies the names first: the callback may change the directory. */
static int sim_list(struct env *e, const char *path, env_list_fn fn, void *arg)
{
    struct sim *s = sim_of(e);
    char dir[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_LIST, false, path);
    uint32_t count = 0;

    int rc = fault.error ? fault.error : normalise(path, dir);
    if (!rc && leads_to(s, dir) != DIRECTORY)
        rc = -ENOENT;
    if (rc)
        return leave(rc);
    struct name *found = take(s->name_count * sizeof(*found));
    for (uint32_t i = 0; i < s->name_count; i++) {
        if (s->names[i].now != NO_FILE && lies_in(s->names[i].path, dir))
            found[count++] = s->names[i];
    }
    leave(0);
    for (uint32_t i = 0; i < count && !rc; i++)
        rc = fn(arg, found[i].path + strlen(dir) + 1);
    free(found);
    return rc;
}

static int sim_unlink(struct env *e, const char *path)
{
    struct sim *s = sim_of(e);
    char name[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_UNLINK, true, path);

    int rc = normalise(path, name);
    if (!rc && undone(fault))
        rc = fault.error;
    if (!rc && leads_to(s, name) <= DIRECTORY)
        rc = leads_to(s, name) == DIRECTORY ? -EISDIR : -ENOENT;
    if (!rc)
        change_name(s, name, NO_FILE);
    return leave(result(rc, fault));
}

static int two_names(struct sim *s, const char *from, const char *to, char source[SIM_PATH_MAX],
                     char target[SIM_PATH_MAX])
{
    int rc = normalise(from, source);

    if (!rc)
        rc = normalise(to, target);
    if (!rc && leads_to(s, source) <= DIRECTORY)
        rc = leads_to(s, source) == DIRECTORY ? -EISDIR : -ENOENT;
    if (!rc && leads_to(s, target) == DIRECTORY)
        rc = -EISDIR;
    return rc ? rc : parent_check(s, target);
}

static int sim_rename(struct env *e, const char *from, const char *to)
{
    struct sim *s = sim_of(e);
    char source[SIM_PATH_MAX], target[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_RENAME, true, to);

    int rc = two_names(s, from, to, source, target);
    if (!rc && undone(fault))
        rc = fault.error;
    if (!rc && strcmp(source, target)) {
        struct name_change change[2] = {{name_index(s, target), leads_to(s, source)},
                                        {name_index(s, source), NO_FILE}};
        change_names(s, 2, change);
    }
    return leave(result(rc, fault));
}

static int sim_link(struct env *e, const char *from, const char *to)
{
    struct sim *s = sim_of(e);
    char source[SIM_PATH_MAX], target[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_LINK, true, to);

    int rc = two_names(s, from, to, source, target);
    if (!rc && undone(fault))
        rc = fault.error;
    if (!rc && leads_to(s, target) != NO_FILE)
        rc = -EEXIST;
    if (!rc)
        change_name(s, target, leads_to(s, source));
    return leave(result(rc, fault));
}

static int sim_sync_dir(struct env *e, const char *path)
{
    struct sim *s = sim_of(e);
    char dir[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_SYNC_DIR, true, path);

    int rc = normalise(path, dir);
    if (!rc && leads_to(s, dir) != DIRECTORY)
        rc = -ENOENT;
    if (!rc)
        sync_names(s, dir, fault.error);
    return leave(result(rc, fault));
}

static int sim_lock(struct env *e, const char *path, bool exclusive, struct env_lock **out)
{
    struct sim *s = sim_of(e);
    char name[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_LOCK, true, path);
    uint32_t id;

    int rc = fault.error ? fault.error : normalise(path, name);
    if (!rc)
        rc = find_file(s, name, ENV_CREATE, &id);
    for (struct env_lock *l = s->locks; l && !rc; l = l->next) {
        if (!strcmp(l->path, name) && (exclusive || l->exclusive))
            rc = -EBUSY;
    }
    if (rc)
        return leave(rc);
    struct env_lock *l = take(sizeof(*l));
    strcpy(l->path, name);
    l->exclusive = exclusive;
    l->next = s->locks;
    s->locks = l;
    *out = l;
    return leave(0);
}

static void sim_unlock(struct env *e, struct env_lock *lock)
{
    struct env_lock **p = &sim_of(e)->locks;

    while (*p != lock)
        p = &(*p)->next;
    *p = lock->next;
    free(lock);
}

static int sim_space(struct env *e, const char *path, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct sim *s = sim_of(e);
    struct sim_fault fault = enter(s, SIM_SPACE, false, path);

    *total_bytes = s->capacity * PAGE;
    *free_bytes = s->used < s->capacity ? (s->capacity - s->used) * PAGE : 0;
    return leave(fault.error);
}

/* ---- clock, randomness ---- */

static uint64_t sim_mono_ns(struct env *e) { return sim_of(e)->clock_ns += 1 + below(sim_of(e), 100); }
static uint64_t sim_wall_ns(struct env *e) { return UINT64_C(1700000000000000000) + sim_mono_ns(e); }

static int sim_random(struct env *e, void *buf, size_t len)
{
    struct sim *s = sim_of(e);
    struct sim_fault fault = enter(s, SIM_RANDOM, false, "");

    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)draw(s);
    return leave(fault.error);
}

static int sim_thread_start(struct env *e, const char *name, int cpu, void (*fn)(void *), void *arg,
                            struct env_thread **out)
{
    (void)e, (void)name, (void)cpu, (void)fn, (void)arg, (void)out;
    return -ENOTSUP;
}

static void sim_thread_join(struct env *e, struct env_thread *t) { (void)e, (void)t; }

static const struct env_ops sim_ops = {
    .open = sim_open,
    .mkdir = sim_mkdir,
    .list = sim_list,
    .unlink = sim_unlink,
    .rename = sim_rename,
    .link = sim_link,
    .sync_dir = sim_sync_dir,
    .lock = sim_lock,
    .unlock = sim_unlock,
    .space = sim_space,
    .mono_ns = sim_mono_ns,
    .wall_ns = sim_wall_ns,
    .random = sim_random,
    .thread_start = sim_thread_start,
    .thread_join = sim_thread_join,
};

/* ---- machines ---- */

struct env *env_sim_new(uint64_t seed)
{
    struct sim *s = take(sizeof(*s));

    s->base.ops = &sim_ops;
    s->random = seed;
    s->clock_ns = 1000000000u;
    s->capacity = UNLIMITED / PAGE;
    s->file_count = 1;
    s->file_capacity = 16;
    s->files = take(s->file_capacity * sizeof(*s->files));
    return &s->base;
}

struct env *env_sim_clone(struct env *e, uint64_t seed)
{
    struct sim *old = sim_of(e), *s = take(sizeof(*s));

    *s = *old;
    s->random = seed;
    s->hook = NULL;
    s->locks = NULL;
    s->open_files = 0;
    s->calls = s->changes = 0;
    s->name_capacity = s->name_count;
    s->names = take(s->name_count * sizeof(*s->names));
    memcpy(s->names, old->names, s->name_count * sizeof(*s->names));
    s->event_capacity = s->event_count;
    s->events = take(s->event_count * sizeof(*s->events));
    memcpy(s->events, old->events, s->event_count * sizeof(*s->events));
    s->file_capacity = s->file_count;
    s->files = take(s->file_count * sizeof(*s->files));
    s->used = 0;
    for (uint32_t k = 1; k < s->file_count; k++) {
        s->files[k] = (struct entry){.inode = old->files[k].inode, .links = old->files[k].links};
        if (!s->files[k].inode)
            continue;
        s->files[k].inode->refs++;
        s->used += s->files[k].links ? s->files[k].inode->blocks : 0;
    }
    drop_files(s);
    return &s->base;
}

void env_sim_free(struct env *e)
{
    struct sim *s = sim_of(e);

    if (!s)
        return;
    assert(s->open_files == 0 && !s->locks);
    for (uint32_t k = 1; k < s->file_count; k++) {
        if (s->files[k].inode)
            inode_unref(s->files[k].inode);
    }
    free(s->files);
    free(s->names);
    free(s->events);
    free(s);
}

void env_sim_hook(struct env *e, sim_hook hook, void *arg)
{
    sim_of(e)->hook = hook;
    sim_of(e)->hook_arg = arg;
}

uint64_t env_sim_calls(struct env *e) { return sim_of(e)->calls; }

/* Some moment between the oldest thing that is not durable and now. */
static uint64_t some_moment(struct sim *s)
{
    uint64_t oldest = s->time;

    for (uint32_t k = 1; k < s->file_count; k++) {
        const struct inode *i = s->files[k].inode;
        if (i && i->event_count && i->events[0].time < oldest)
            oldest = i->events[0].time;
    }
    if (s->event_count && s->events[0].time < oldest)
        oldest = s->events[0].time;
    return oldest + below(s, s->time - oldest + 1);
}

static enum sim_loss one_of(struct sim *s, enum sim_loss loss)
{
    return loss == SIM_LOSE_MIXED ? (enum sim_loss)below(s, SIM_LOSE_MIXED) : loss;
}

void env_sim_power_cut(struct env *e, enum sim_loss loss)
{
    struct sim *s = sim_of(e);
    uint64_t late = some_moment(s);

    assert(s->open_files == 0 && !s->locks);
    resolve_names(s, one_of(s, loss), late);
    for (uint32_t k = 1; k < s->file_count; k++) {
        const struct inode *i = s->files[k].inode;
        if (!i || (!i->event_count && !i->disagrees && i->size == i->durable_size))
            continue;
        resolve(s, own(s, k), one_of(s, loss), late);
        settle(s, s->files[k].inode);
    }
    settle_names(s);
    drop_files(s);
    s->used = 0;
    for (uint32_t k = 1; k < s->file_count; k++)
        s->used += s->files[k].inode ? s->files[k].inode->blocks : 0;
}

void env_sim_begin(struct env *e, const struct sim_call *call)
{
    struct sim *s = sim_of(e);

    if (!call->iov_count || !s->files[call->file].inode)
        return;
    (void)write_vectors(s, call->file, call->iov, call->iov_count, call->offset, below(s, call->bytes + 1));
}

void env_sim_evict(struct env *e)
{
    struct sim *s = sim_of(e);

    for (uint32_t k = 1; k < s->file_count; k++) {
        if (!s->files[k].inode || !s->files[k].inode->disagrees)
            continue;
        struct inode *i = own(s, k);
        bool *dirty = take(i->slots * sizeof(*dirty));
        for (size_t n = 0; n < i->event_count; n++) {
            if (!i->events[n].is_size)
                dirty[i->events[n].at] = true;
        }
        for (size_t n = 0; n < i->slots; n++) {
            if (dirty[n] || i->now[n] == i->durable[n])
                continue;
            uint64_t before = i->blocks;
            i->blocks += (i->durable[n] != NULL) - (i->now[n] != NULL);
            s->used += i->blocks - before;
            page_set(&i->now[n], i->durable[n]);
        }
        free(dirty);
    }
}

bool env_sim_disagrees(struct env *e)
{
    struct sim *s = sim_of(e);
    bool any = false;

    for (uint32_t k = 1; k < s->file_count; k++)
        any |= s->files[k].inode && s->files[k].inode->disagrees;
    return any;
}

void env_sim_capacity(struct env *e, uint64_t bytes) { sim_of(e)->capacity = bytes / PAGE; }
uint64_t env_sim_used(struct env *e) { return sim_of(e)->used * PAGE; }
void env_sim_sleep(struct env *e, uint64_t ns) { sim_of(e)->clock_ns += ns; }

int env_sim_damage(struct env *e, const char *path, uint64_t offset, unsigned bits)
{
    struct sim *s = sim_of(e);
    char name[SIM_PATH_MAX];

    int rc = normalise(path, name);
    int32_t id = rc ? NO_FILE : leads_to(s, name);
    if (id <= DIRECTORY)
        return rc ? rc : -ENOENT;
    struct inode *i = own(s, (uint32_t)id);
    if (offset >= i->size)
        return -EINVAL;
    assert(i->event_count == 0);
    size_t k = (size_t)(offset / PAGE);
    uint8_t byte = page_bytes(i->now[k])[offset % PAGE];
    unsigned first = (unsigned)below(s, 8);
    for (unsigned b = 0; b < bits && first + b < 8; b++)
        byte ^= (uint8_t)(1u << (first + b));
    struct page *p = page_patch(i->now[k], (size_t)(offset % PAGE), &byte, 1);
    page_set(&i->now[k], p);
    page_set(&i->durable[k], p);
    page_unref(p);
    return 0;
}
