/* disk.c - see disk.h. */
#include "disk.h"

#include "coding.h"

#include <assert.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define BUCKETS 8192u
#define NONE UINT32_MAX

void *disk_take(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);

    if (!p)
        abort();
    return p;
}

void *disk_grow(void *list, size_t count, size_t *capacity, size_t item)
{
    if (count < *capacity)
        return list;
    *capacity = *capacity ? 2 * *capacity : 64;
    list = realloc(list, *capacity * item);
    if (!list)
        abort();
    return list;
}

/* ---- what records do to contents ---- */

bool event_is_metadata(const struct trace_record *r)
{
    return r->type == TRACE_TRUNCATE || r->type == TRACE_ALLOCATE;
}

uint32_t allocate_mode(const struct trace_record *r)
{
    return r->type == TRACE_ALLOCATE && r->data_len == 4 ? get_le32(r->data) : 0;
}

/* The bytes that a record replaces; NULL in *from: by zeros. */
static bool event_range(const struct trace_record *r, uint64_t *start, uint64_t *end, const uint8_t **from)
{
    *start = r->a;
    *from = NULL;
    switch (r->type) {
    case TRACE_WRITE:
        *end = r->a + r->data_len;
        *from = r->data;
        return true;
    case TRACE_TRUNCATE: *end = UINT64_MAX; return true;
    case TRACE_ALLOCATE:
        *end = r->a + r->b;
        return allocate_mode(r) & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
    default: return false;
    }
}

void event_apply_to_page(const struct trace_record *r, uint64_t page, int sector, uint8_t bytes[PAGE])
{
    uint64_t low = page * PAGE, high = low + PAGE, start, end;
    const uint8_t *from;

    if (!event_range(r, &start, &end, &from))
        return;
    if (sector >= 0) {
        low += (uint64_t)sector * SECTOR;
        high = low + SECTOR;
    }
    uint64_t s = start > low ? start : low, e = end < high ? end : high;
    if (s >= e)
        return;
    if (from)
        memcpy(bytes + (s - page * PAGE), from + (s - start), (size_t)(e - s));
    else
        memset(bytes + (s - page * PAGE), 0, (size_t)(e - s));
}

uint64_t event_size(const struct trace_record *r, uint64_t size)
{
    uint64_t end = r->type == TRACE_WRITE ? r->a + r->data_len : r->a + r->b;

    if (r->type == TRACE_TRUNCATE)
        return r->a;
    if (r->type == TRACE_ALLOCATE && (allocate_mode(r) & FALLOC_FL_KEEP_SIZE))
        return size;
    return end > size ? end : size;
}

static void make_durable(struct file *f, const struct trace_record *r)
{
    uint64_t start, end, limit;
    const uint8_t *from;

    f->size = event_size(r, f->size);
    if (!event_range(r, &start, &end, &from))
        return;
    limit = r->type == TRACE_WRITE ? end : (uint64_t)f->slots * PAGE;
    if (end > limit)
        end = limit;
    if (end > (uint64_t)f->slots * PAGE) {
        size_t slots = (size_t)(end / PAGE + 1) * 3 / 2;
        f->pages = realloc(f->pages, slots * sizeof(*f->pages));
        if (!f->pages)
            abort();
        memset(f->pages + f->slots, 0, (slots - f->slots) * sizeof(*f->pages));
        f->slots = slots;
    }
    for (uint64_t k = start / PAGE; k * PAGE < end; k++) {
        if (!f->pages[k] && !from)
            continue;
        if (!f->pages[k])
            f->pages[k] = disk_take(sizeof(struct page));
        event_apply_to_page(r, k, -1, f->pages[k]->bytes);
    }
}

/* Events below `bound` become durable. */
static void contents_sync(struct file *f, uint64_t bound)
{
    size_t done = 0;

    while (done < f->event_count && f->events[done]->number < bound)
        make_durable(f, f->events[done++]);
    if (done == 0)
        return;
    f->event_count -= done;
    memmove(f->events, f->events + done, f->event_count * sizeof(*f->events));
}

/* ---- names ---- */

static uint32_t *bucket(struct disk *d, uint64_t dir, const char *text, size_t len)
{
    return &d->buckets[XXH3_64bits_withSeed(text, len, dir) % BUCKETS];
}

static uint32_t name_index(struct disk *d, uint64_t dir, const char *text, unsigned len)
{
    uint32_t *head = bucket(d, dir, text, len);

    for (uint32_t i = *head; i != NONE; i = d->names[i].next) {
        const struct name *n = &d->names[i];
        if (n->dir == dir && strlen(n->text) == len && memcmp(n->text, text, len) == 0)
            return i;
    }
    d->names = disk_grow(d->names, d->name_count, &d->name_capacity, sizeof(*d->names));
    struct name *n = &d->names[d->name_count];
    *n = (struct name){.dir = dir, .next = *head};
    memcpy(n->text, text, len);
    *head = (uint32_t)d->name_count;
    return (uint32_t)d->name_count++;
}

static void concerns(struct disk *d, uint64_t id, uint64_t number)
{
    if (id < d->file_count && d->files[id])
        d->files[id]->last_metadata = number + 1;
}

static void metadata_note(struct disk *d, uint64_t number)
{
    d->metadata = disk_grow(d->metadata, d->metadata_count, &d->metadata_capacity, sizeof(*d->metadata));
    d->metadata[d->metadata_count++] = number;
}

static void names_change(struct disk *d, struct name_event e)
{
    for (unsigned k = 0; k < e.count; k++) {
        struct name *n = &d->names[e.change[k].name];
        concerns(d, n->dir, e.number);
        concerns(d, n->now, e.number);
        concerns(d, e.change[k].to, e.number);
        n->now = e.change[k].to;
    }
    d->events = disk_grow(d->events, d->event_count, &d->event_capacity, sizeof(*d->events));
    d->events[d->event_count++] = e;
    metadata_note(d, e.number);
}

static bool event_in(const struct disk *d, const struct name_event *e, uint64_t dir)
{
    for (unsigned k = 0; k < e->count; k++)
        if (d->names[e->change[k].name].dir == dir)
            return true;
    return false;
}

/* What older events, which still wait, would make of this name does not count any more. */
static void supersede(struct name_event *events, size_t n, uint32_t name)
{
    for (size_t i = 0; i < n; i++) {
        for (unsigned k = 0; k < events[i].count; k++)
            if (events[i].change[k].name == name)
                events[i].change[k--] = events[i].change[--events[i].count];
    }
}

/* Changes below `bound` become durable: all (dir 0) or those in a directory. */
static void names_sync(struct disk *d, uint64_t bound, uint64_t dir)
{
    size_t kept = 0;

    for (size_t i = 0; i < d->event_count; i++) {
        const struct name_event e = d->events[i];
        if (e.number >= bound || (dir && !event_in(d, &e, dir))) {
            d->events[kept++] = e;
            continue;
        }
        for (unsigned k = 0; k < e.count; k++) {
            d->names[e.change[k].name].durable = e.change[k].to;
            supersede(d->events, kept, e.change[k].name);
        }
    }
    d->event_count = kept;
}

static void one_name(struct disk *d, const struct trace_record *r, uint64_t to)
{
    struct name_event e = {.number = r->number, .count = 1};

    e.change[0].name = name_index(d, r->a, r->name, r->name_len);
    e.change[0].to = to;
    names_change(d, e);
}

static void two_names(struct disk *d, const struct trace_record *r)
{
    struct name_event e = {.number = r->number, .count = 2};
    uint32_t from = name_index(d, r->a, r->name, r->name_len),
             to = name_index(d, r->b, r->name2, r->name2_len);

    e.change[0].name = to;
    e.change[0].to = d->names[from].now;
    e.change[1].name = from;
    e.change[1].to = r->type == TRACE_EXCHANGE ? d->names[to].now : 0;
    names_change(d, e);
}

/* ---- records ---- */

static void create(struct disk *d, const struct trace_record *r, mode_t type)
{
    if (r->id >= d->file_count) {
        size_t count = (size_t)r->id * 2 + 16;
        d->files = realloc(d->files, count * sizeof(*d->files));
        if (!d->files)
            abort();
        memset(d->files + d->file_count, 0, (count - d->file_count) * sizeof(*d->files));
        d->file_count = count;
    }
    assert(!d->files[r->id]);
    struct file *f = d->files[r->id] = disk_take(sizeof(*f));
    f->id = r->id;
    f->mode = type | (mode_t)(r->b & 07777);
    f->target = (const char *)r->data;
    f->target_len = r->data_len;
    if (r->id != TRACE_ROOT)
        one_name(d, r, r->id);
}

static struct file *file_of(struct disk *d, const struct trace_record *r)
{
    return r->id < d->file_count ? d->files[r->id] : NULL;
}

static void contents(struct disk *d, const struct trace_record *r)
{
    struct file *f = file_of(d, r);

    if (!f)
        return;
    f->events = disk_grow(f->events, f->event_count, &f->event_capacity, sizeof(const struct trace_record *));
    f->events[f->event_count++] = r;
    if (event_is_metadata(r)) {
        f->last_metadata = r->number + 1;
        metadata_note(d, r->number);
    }
}

static void sync_begin(struct disk *d, const struct trace_record *r)
{
    const struct file *f = file_of(d, r);

    d->syncs = disk_grow(d->syncs, d->sync_count, &d->sync_capacity, sizeof(*d->syncs));
    d->syncs[d->sync_count++] =
        (struct sync){.begin = r->number, .id = r->id, .last_metadata = f ? f->last_metadata : 0};
}

static void force_metadata(struct disk *d, uint64_t bound)
{
    size_t done = 0;

    if (bound <= d->forced)
        return;
    d->forced = bound;
    names_sync(d, bound, 0);
    while (done < d->metadata_count && d->metadata[done] < bound)
        done++;
    if (done == 0)
        return;
    d->metadata_count -= done;
    memmove(d->metadata, d->metadata + done, d->metadata_count * sizeof(*d->metadata));
}

static void sync_end(struct disk *d, const struct trace_record *r)
{
    size_t i = 0;

    while (i < d->sync_count && d->syncs[i].begin != r->a)
        i++;
    if (i == d->sync_count)
        return;
    struct sync s = d->syncs[i];
    d->syncs[i] = d->syncs[--d->sync_count];
    struct file *f = file_of(d, r);
    if (d->lies || !f)
        return;
    if (d->harsh && S_ISDIR(f->mode))
        names_sync(d, s.begin, f->id);
    else if (!d->harsh)
        force_metadata(d, s.last_metadata);
    contents_sync(f, s.begin);
}

static void reach_base(struct disk *d, const struct trace_record *r)
{
    for (size_t id = 0; id < d->file_count; id++)
        if (d->files[id])
            contents_sync(d->files[id], r->number);
    names_sync(d, r->number, 0);
    force_metadata(d, r->number);
    d->metadata_count = 0;
    d->base = r->number + 1;
}

static void happen(struct disk *d, const struct trace_record *r)
{
    switch (r->type) {
    case TRACE_MKDIR: create(d, r, S_IFDIR); break;
    case TRACE_CREATE: create(d, r, S_IFREG); break;
    case TRACE_SYMLINK: create(d, r, S_IFLNK); break;
    case TRACE_LINK: one_name(d, r, r->id); break;
    case TRACE_UNLINK:
    case TRACE_RMDIR: one_name(d, r, 0); break;
    case TRACE_RENAME:
    case TRACE_EXCHANGE: two_names(d, r); break;
    case TRACE_WRITE:
    case TRACE_TRUNCATE:
    case TRACE_ALLOCATE: contents(d, r); break;
    case TRACE_MODE:
        if (file_of(d, r))
            file_of(d, r)->mode = (file_of(d, r)->mode & S_IFMT) | (mode_t)(r->a & 07777);
        break;
    case TRACE_SYNC_BEGIN: sync_begin(d, r); break;
    case TRACE_SYNC_END: sync_end(d, r); break;
    case TRACE_BASE: reach_base(d, r); break;
    case TRACE_FACT:
    case TRACE_END:
    case TRACE_TYPES: break;
    }
}

struct disk *disk_new(const struct trace *trace, bool harsh, bool lies)
{
    struct disk *d = disk_take(sizeof(*d));
    const struct trace_record root = {.id = TRACE_ROOT, .b = 0755};

    d->trace = trace;
    d->harsh = harsh;
    d->lies = lies;
    d->buckets = disk_take(BUCKETS * sizeof(*d->buckets));
    memset(d->buckets, 0xff, BUCKETS * sizeof(*d->buckets));
    create(d, &root, S_IFDIR);
    return d;
}

void disk_advance(struct disk *d, uint64_t position)
{
    assert(position <= d->trace->count && position >= d->position);
    while (d->position < position)
        happen(d, &d->trace->records[d->position++]);
}

void disk_free(struct disk *d)
{
    for (size_t id = 0; id < d->file_count; id++) {
        struct file *f = d->files[id];
        if (!f)
            continue;
        for (size_t k = 0; k < f->slots; k++)
            free(f->pages[k]);
        free(f->pages);
        free(f->events);
        free(f);
    }
    free(d->files);
    free(d->names);
    free(d->events);
    free(d->metadata);
    free(d->syncs);
    free(d->buckets);
    free(d);
}
