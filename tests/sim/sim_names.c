/*
 * sim_names.c - the directories of a simulated disk: names, changes that are not durable yet, and what a crash
 * leaves of them.
 *
 * Threads: one.
 */
#include "sim_internal.h"

#include <errno.h>
#include <string.h>

int sim_name_normalise(const char *path, char out[SIM_PATH_MAX])
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

bool sim_name_lies_in(const char *path, const char *dir)
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

int32_t sim_name_leads_to(struct sim *s, const char *path)
{
    struct name *n = path[0] ? lookup(s, path) : NULL;

    if (!path[0])
        return DIRECTORY;
    return n ? n->now : NO_FILE;
}

int sim_name_check_parent(struct sim *s, const char *path)
{
    char parent[SIM_PATH_MAX];
    size_t n = parent_len(path);

    memcpy(parent, path, n);
    parent[n] = 0;
    int32_t to = sim_name_leads_to(s, parent);
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

uint32_t sim_name_index(struct sim *s, const char *path)
{
    struct name *n = lookup(s, path);

    if (!n) {
        size_t capacity = s->name_capacity;
        s->names = sim_grow(s->names, s->name_count, &capacity, sizeof(*s->names));
        s->name_capacity = (uint32_t)capacity;
        n = &s->names[s->name_count++];
        *n = (struct name){.now = NO_FILE, .durable = NO_FILE};
        strcpy(n->path, path);
    }
    return (uint32_t)(n - s->names);
}

void sim_file_maybe_released(struct sim *s, int32_t id)
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
        sim_file_maybe_released(s, old);
    }
}

/* One or two names change together. */
void sim_names_change(struct sim *s, unsigned count, const struct name_change *change)
{
    s->events = sim_grow(s->events, s->event_count, &s->event_capacity, sizeof(*s->events));
    struct name_event *e = &s->events[s->event_count++];
    *e = (struct name_event){.time = s->time, .count = count};
    for (unsigned k = 0; k < count; k++) {
        e->change[k] = change[k];
        set_now(s, change[k].name, change[k].to);
    }
}

void sim_name_set(struct sim *s, const char *path, int32_t to)
{
    struct name_change change = {sim_name_index(s, path), to};

    sim_names_change(s, 1, &change);
}

static void make_durable(struct sim *s, const struct name_event *e)
{
    for (unsigned k = 0; k < e->count; k++)
        s->names[e->change[k].name].durable = e->change[k].to;
}

/*
 * What older changes, which still wait, would make of this name does not count any more: a rename from another
 * directory may have come to the medium with that one.
 */
static void supersede(struct sim *s, size_t n, uint32_t name)
{
    for (size_t i = 0; i < n; i++) {
        struct name_event *e = &s->events[i];
        for (unsigned k = 0; k < e->count; k++)
            if (e->change[k].name == name)
                e->change[k--] = e->change[--e->count];
    }
}

static bool concerns(const struct sim *s, const struct name_event *e, const char *dir)
{
    bool in = false;

    for (unsigned k = 0; k < e->count; k++)
        in |= sim_name_lies_in(s->names[e->change[k].name].path, dir);
    return in;
}

/* Inodes that nothing can lead to any more. */
void sim_files_drop(struct sim *s)
{
    bool *reachable = sim_take(s->file_count * sizeof(*reachable));

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
        sim_inode_unref(s->files[k].inode);
        s->files[k].inode = NULL;
    }
    free(reachable);
}

/* `failed`: of the changes some, from the first on, are on the medium; the rest still wait. */
void sim_names_sync(struct sim *s, const char *dir, bool failed)
{
    size_t kept = 0;
    bool stopped = false;

    for (size_t k = 0; k < s->event_count; k++) {
        struct name_event e = s->events[k];
        stopped |= failed && sim_below(s, 4) == 0;
        if (stopped || !concerns(s, &e, dir)) {
            s->events[kept++] = e;
            continue;
        }
        make_durable(s, &e);
        for (unsigned c = 0; c < e.count; c++)
            supersede(s, kept, e.change[c].name);
    }
    s->event_count = kept;
    drop_names(s);
    sim_files_drop(s);
}

void sim_names_resolve(struct sim *s, enum sim_loss loss, uint64_t late)
{
    for (size_t k = 0; k < s->event_count; k++) {
        const struct name_event *e = &s->events[k];
        bool kept = loss == SIM_LOSE_NOTHING || (loss == SIM_LOSE_LATE && e->time <= late) ||
                    ((loss == SIM_LOSE_SOME || loss == SIM_LOSE_ANY) && sim_coin(s));
        if (kept)
            make_durable(s, e);
    }
    s->event_count = 0;
}

/* After a crash: what lies in a directory that is not there is not there either. */
void sim_names_settle(struct sim *s)
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
