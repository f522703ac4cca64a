/* crash.c - see crash.h. */
#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTORS (PAGE / SECTOR)
#define PATH_BYTES 4096u

static const char *const names[LOSSES] = {"nothing", "all", "late", "some", "any", "mixed"};

const char *loss_name(enum loss loss) { return names[loss]; }

bool loss_parse(const char *name, enum loss *out)
{
    for (unsigned k = 0; k < LOSSES; k++) {
        if (strcmp(name, names[k]) == 0) {
            *out = (enum loss)k;
            return true;
        }
    }
    return false;
}

uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t draw_below(uint64_t *state, uint64_t n) { return n ? draw(state) % n : 0; }

struct crash {
    struct disk *disk;
    enum loss loss;
    uint64_t random;
    uint64_t late;     /* records below it have reached the medium */
    uint64_t metadata; /* ordered: metadata of records below it are there */
    int error;
};

static bool coin(struct crash *c) { return draw(&c->random) >> 63; }

/* ---- which metadata ---- */

/* The oldest thing that is not durable, or the position. */
static uint64_t oldest(const struct disk *d)
{
    uint64_t first = d->metadata_count ? d->metadata[0] : d->position;

    for (size_t id = 0; id < d->file_count; id++)
        if (d->files[id] && d->files[id]->event_count && d->files[id]->events[0]->number < first)
            first = d->files[id]->events[0]->number;
    return first;
}

static void choose_moments(struct crash *c)
{
    const struct disk *d = c->disk;
    uint64_t k = draw_below(&c->random, d->metadata_count + 1), first = oldest(d);

    c->late = first + draw_below(&c->random, d->position - first + 1);
    switch (c->loss) {
    case LOSS_NOTHING: c->metadata = d->position; break;
    case LOSS_ALL: c->metadata = d->forced; break;
    case LOSS_LATE: c->metadata = c->late > d->forced ? c->late : d->forced; break;
    default: c->metadata = k < d->metadata_count ? d->metadata[k] : d->position;
    }
}

static bool name_kept(struct crash *c, const struct name_event *e)
{
    if (!c->disk->harsh)
        return e->number < c->metadata;
    switch (c->loss) {
    case LOSS_NOTHING: return true;
    case LOSS_ALL: return false;
    case LOSS_LATE: return e->number < c->late;
    default: return coin(c);
    }
}

static void choose_names(struct crash *c)
{
    struct disk *d = c->disk;

    for (size_t i = 0; i < d->name_count; i++)
        d->names[i].image = d->names[i].durable;
    for (size_t i = 0; i < d->event_count; i++) {
        if (!name_kept(c, &d->events[i]))
            continue;
        for (unsigned k = 0; k < d->events[i].count; k++)
            d->names[d->events[i].change[k].name].image = d->events[i].change[k].to;
    }
}

/* ---- one file ---- */

struct touch {
    uint64_t page;
    size_t event;
};

/* A file's events, and which of them have a chance. */
struct contents {
    const struct file *file;
    enum loss loss;
    bool *live;    /* of each event; metadata: is there */
    size_t *metas; /* events of metadata that are there, */
    size_t meta_count;
    size_t *lost; /* and those that are not */
    size_t lost_count;
    struct touch *touches;
    size_t touch_count, touch_capacity;
    uint64_t size;
};

static bool overlaps(const struct trace_record *w, const struct trace_record *m)
{
    uint64_t end = m->type == TRACE_TRUNCATE ? UINT64_MAX : m->a + m->b;

    return w->a < end && w->a + w->data_len > m->a;
}

static bool on_lost_ground(const struct contents *f, const struct trace_record *w)
{
    for (size_t i = 0; i < f->lost_count; i++)
        if (overlaps(w, f->file->events[f->lost[i]]))
            return true;
    return false;
}

static void choose_live(struct crash *c, struct contents *f)
{
    const struct file *file = f->file;
    uint64_t metas = 0, seen = 0;

    for (size_t j = 0; j < file->event_count; j++)
        metas += event_is_metadata(file->events[j]);
    f->live = disk_take(file->event_count * sizeof(*f->live));
    f->metas = disk_take(metas * sizeof(*f->metas));
    f->lost = disk_take(metas * sizeof(*f->lost));
    uint64_t kept = f->loss == LOSS_NOTHING ? metas
                    : f->loss == LOSS_ALL   ? 0
                                            : draw_below(&c->random, metas + 1);
    for (size_t j = 0; j < file->event_count; j++) {
        const struct trace_record *r = file->events[j];
        if (!event_is_metadata(r)) {
            f->live[j] = !on_lost_ground(f, r);
            continue;
        }
        f->live[j] = !c->disk->harsh        ? r->number < c->metadata
                     : f->loss == LOSS_LATE ? r->number < c->late
                                            : seen < kept;
        seen++;
        if (f->live[j])
            f->metas[f->meta_count++] = j;
        else
            f->lost[f->lost_count++] = j;
    }
}

static void choose_size(struct crash *c, struct contents *f)
{
    const struct file *file = f->file;
    size_t kept = file->event_count;

    if (f->loss == LOSS_ALL || (f->loss == LOSS_SOME && coin(c)))
        kept = 0;
    else if (f->loss == LOSS_ANY && coin(c))
        kept = (size_t)draw_below(&c->random, kept + 1);
    f->size = file->size;
    for (size_t j = 0; j < file->event_count; j++) {
        const struct trace_record *r = file->events[j];
        bool there = event_is_metadata(r) || (j < kept && (f->loss != LOSS_LATE || r->number < c->late));
        if (f->live[j] && there)
            f->size = event_size(r, f->size);
    }
}

static int by_page(const void *a, const void *b)
{
    const struct touch *x = a, *y = b;

    if (x->page != y->page)
        return x->page < y->page ? -1 : 1;
    return x->event < y->event ? -1 : x->event > y->event;
}

static void collect_touches(struct contents *f)
{
    for (size_t j = 0; j < f->file->event_count; j++) {
        const struct trace_record *r = f->file->events[j];
        if (r->type != TRACE_WRITE || !f->live[j] || r->data_len == 0)
            continue;
        for (uint64_t k = r->a / PAGE; k * PAGE < r->a + r->data_len; k++) {
            f->touches = disk_grow(f->touches, f->touch_count, &f->touch_capacity, sizeof(*f->touches));
            f->touches[f->touch_count++] = (struct touch){k, j};
        }
    }
    if (f->touch_count)
        qsort(f->touches, f->touch_count, sizeof(*f->touches), by_page);
}

/* How many of the n writes to a page have reached each of its sectors. */
static void choose_versions(struct crash *c, const struct contents *f, const struct touch *t, size_t n,
                            size_t version[SECTORS])
{
    size_t v = n;
    bool torn = false;

    switch (f->loss) {
    case LOSS_ALL: v = 0; break;
    case LOSS_LATE:
        for (v = 0; v < n && f->file->events[t[v].event]->number < c->late; v++)
            ;
        torn = v > 0 && f->file->events[t[v - 1].event]->number + 1 == c->late;
        break;
    case LOSS_SOME: v = coin(c) ? n : 0; break;
    case LOSS_ANY: v = (size_t)draw_below(&c->random, n + 1); break;
    default: break;
    }
    bool mix = f->loss == LOSS_ANY && coin(c);
    for (unsigned s = 0; s < SECTORS; s++)
        version[s] = mix ? (size_t)draw_below(&c->random, n + 1) : v - (torn && coin(c));
}

/* The page as it is on the medium, in `bytes`; n writes have touched it. */
static void make_page(const struct contents *f, uint64_t page, const struct touch *t, size_t n,
                      const size_t version[SECTORS], uint8_t bytes[PAGE])
{
    const struct file *file = f->file;
    size_t w = 0, m = 0;

    if (page < file->slots && file->pages[page])
        memcpy(bytes, file->pages[page]->bytes, PAGE);
    else
        memset(bytes, 0, PAGE);
    while (w < n || m < f->meta_count) {
        if (w == n || (m < f->meta_count && f->metas[m] < t[w].event)) {
            event_apply_to_page(file->events[f->metas[m++]], page, -1, bytes);
            continue;
        }
        for (int s = 0; s < (int)SECTORS; s++)
            if (w < version[s])
                event_apply_to_page(file->events[t[w].event], page, s, bytes);
        w++;
    }
}

static bool is_zero(const uint8_t bytes[PAGE])
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, PAGE - 1) == 0;
}

static int write_page(int fd, uint64_t page, const uint8_t bytes[PAGE], uint64_t size)
{
    uint64_t left = page * PAGE < size ? size - page * PAGE : 0;
    size_t len = left < PAGE ? (size_t)left : PAGE;

    if (len == 0 || is_zero(bytes))
        return 0;
    ssize_t n = pwrite(fd, bytes, len, (off_t)(page * PAGE));
    return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

static int write_pages(struct crash *c, struct contents *f, int fd)
{
    const struct file *file = f->file;
    size_t at = 0, version[SECTORS];
    uint8_t bytes[PAGE];
    int rc = 0;

    for (uint64_t k = 0; k * PAGE < f->size && !rc; k++) {
        size_t n = 0;
        while (at + n < f->touch_count && f->touches[at + n].page == k)
            n++;
        if (n == 0 && f->meta_count == 0) {
            if (k < file->slots && file->pages[k])
                rc = write_page(fd, k, file->pages[k]->bytes, f->size);
            continue;
        }
        choose_versions(c, f, f->touches + at, n, version);
        make_page(f, k, f->touches + at, n, version, bytes);
        rc = write_page(fd, k, bytes, f->size);
        at += n;
    }
    return rc;
}

static int make_contents(struct crash *c, const struct file *file, int fd)
{
    struct contents f = {.file = file, .loss = c->loss};

    if (f.loss == LOSS_MIXED)
        f.loss = (enum loss)draw_below(&c->random, LOSS_MIXED);
    choose_live(c, &f);
    choose_size(c, &f);
    collect_touches(&f);
    int rc = write_pages(c, &f, fd);
    if (!rc && ftruncate(fd, (off_t)f.size))
        rc = -errno;
    free(f.live);
    free(f.metas);
    free(f.lost);
    free(f.touches);
    return rc;
}

/* ---- the tree ---- */

static int make_directory(struct crash *c, const struct file *dir, int at, const char *path);

static int make_file(struct crash *c, struct file *f, int at, const char *path)
{
    int fd = openat(at, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return -errno;
    int rc = make_contents(c, f, fd);
    if (!rc && fchmod(fd, f->mode & 07777))
        rc = -errno;
    close(fd);
    return rc;
}

static int make_symlink(const struct file *f, int at, const char *path)
{
    char target[PATH_BYTES];

    if (f->target_len >= sizeof(target))
        return -ENAMETOOLONG;
    memcpy(target, f->target, f->target_len);
    target[f->target_len] = 0;
    return symlinkat(target, at, path) ? -errno : 0;
}

static int make_entry(struct crash *c, struct file *f, int at, const char *path)
{
    if (f->out_path) /* a second name; a directory can get one by harsh losses, which is then not there */
        return S_ISDIR(f->mode) ? 0 : linkat(at, f->out_path, at, path, 0) ? -errno : 0;
    f->out_path = strdup(path);
    if (!f->out_path)
        return -ENOMEM;
    if (S_ISLNK(f->mode))
        return make_symlink(f, at, path);
    if (S_ISREG(f->mode))
        return make_file(c, f, at, path);
    if (mkdirat(at, path, f->mode & 07777))
        return -errno;
    return make_directory(c, f, at, path);
}

static int make_directory(struct crash *c, const struct file *dir, int at, const char *path)
{
    struct disk *d = c->disk;
    int rc = 0;

    for (size_t i = 0; i < d->name_count && !rc; i++) {
        char below[PATH_BYTES];
        const struct name *n = &d->names[i];
        if (n->dir != dir->id || n->image == 0)
            continue;
        if (snprintf(below, sizeof(below), "%s%s%s", path, *path ? "/" : "", n->text) >= (int)sizeof(below))
            return -ENAMETOOLONG;
        rc = make_entry(c, d->files[n->image], at, below);
    }
    return rc;
}

int crash_make(struct disk *d, enum loss loss, uint64_t seed, int dir)
{
    struct crash c = {.disk = d, .loss = loss, .random = seed};

    choose_moments(&c);
    choose_names(&c);
    int rc = make_directory(&c, d->files[TRACE_ROOT], dir, "");
    for (size_t id = 0; id < d->file_count; id++) {
        if (!d->files[id])
            continue;
        free(d->files[id]->out_path);
        d->files[id]->out_path = NULL;
    }
    return rc;
}
