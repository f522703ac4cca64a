/*
 * env_sim.c - the calls of the simulated machine; env_sim.h says what it promises and what it loses.
 *
 * Every call passes through enter and leave: there it is counted, time goes by, and the hook decides
 * whether it fails. The disk is in sim_file.c and sim_names.c, its structure in sim_internal.h.
 *
 * Memory of the machine itself is taken as for granted (abort if there is none): a test that lets
 * allocations fail spares those made inside of calls (env_sim_inside).
 *
 * Threads: one.
 */
#include "sim_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define FILE_BYTES_MAX (UINT64_C(1) << 32)
#define CALL_NS_MAX 2000u /* a call takes up to that long */
#define UNLIMITED (UINT64_C(1) << 40)

struct env_lock {
    char path[SIM_PATH_MAX];
    bool exclusive;
    struct env_lock *next;
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

/* ---- calls ---- */

static const char *const op_names[SIM_OPS] = {
    "open",  "pread", "pwritev", "sync",   "allocate", "truncate", "size", "map",   "map_store",
    "mkdir", "list",  "unlink",  "rename", "link",     "sync_dir", "lock", "space", "random",
};

const char *env_sim_op_name(enum sim_op op) { return op_names[op]; }

static struct sim_fault enter_call(struct sim *s, struct sim_call call)
{
    struct sim_fault fault = {0};

    s->clock_ns += 1 + sim_below(s, CALL_NS_MAX);
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
        len = (size_t)sim_below(s, len + 1);
    for (size_t done = 0; done < len;) {
        size_t k = (size_t)((off + done) / PAGE), at = (size_t)((off + done) % PAGE);
        size_t step = len - done < PAGE - at ? len - done : PAGE - at;
        memcpy(out + done, sim_page_bytes(k < i->slots ? i->now[k] : NULL) + at, step);
        done += step;
    }
    leave(0);
    return (ssize_t)len;
}

static int store(struct sim_file *file, enum sim_op op, const struct iovec *iov, int n, uint64_t off)
{
    struct sim *s = file->sim;
    uint64_t bytes = sim_vector_bytes(iov, n);
    struct sim_call call = {.op = op,
                            .may_change = true,
                            .path = file->path,
                            .bytes = bytes,
                            .file = file->id,
                            .offset = off,
                            .iov = iov,
                            .iov_count = n};
    struct sim_fault fault = enter_call(s, call);
    uint64_t limit = fault.error ? (fault.partial ? sim_below(s, bytes + 1) : 0) : bytes;

    if (!(file->flags & ENV_WRITE))
        return leave(-EBADF);
    if (off > FILE_BYTES_MAX || bytes > FILE_BYTES_MAX - off)
        return leave(-EFBIG);
    if (op == SIM_MAP_STORE && off + bytes > s->files[file->id].inode->size)
        return leave(-EIO);
    return leave(result(sim_file_write_vectors(s, file->id, iov, n, off, limit), fault));
}

static int sim_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    return store(file_of(f), SIM_PWRITEV, iov, n, off);
}

static int sim_map_store(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    assert(off + sim_vector_bytes(iov, n) <= file_of(f)->map_len);
    return store(file_of(f), SIM_MAP_STORE, iov, n, off);
}

static int sim_sync(struct env_file *f)
{
    struct sim *s = file_of(f)->sim;
    struct sim_fault fault = enter(s, SIM_SYNC, true, file_of(f)->path);
    struct inode *i = sim_inode_own(s, file_of(f)->id);

    if (fault.error) {
        i->disagrees |= i->event_count > 0;
        sim_inode_resolve(s, i, SIM_LOSE_ANY, 0);
    } else {
        sim_inode_sync(i);
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
    struct inode *i = sim_inode_own(s, file_of(f)->id);
    for (size_t k = (size_t)(off / PAGE); k < (off + len + PAGE - 1) / PAGE && !rc; k++) {
        if (!sim_inode_has_space(s, i, k)) {
            rc = -ENOSPC;
            break;
        }
        sim_inode_reach(i, k + 1);
        if (!i->now[k])
            sim_inode_put_page(s, i, k, sim_page_ref(&sim_page_zeros));
    }
    if (!rc && off + len > i->size)
        sim_inode_set_size(s, i, off + len);
    return leave(result(rc, fault));
}

static int sim_truncate(struct env_file *f, uint64_t len)
{
    struct sim *s = file_of(f)->sim;
    struct sim_fault fault = enter(s, SIM_TRUNCATE, true, file_of(f)->path);

    if (!(file_of(f)->flags & ENV_WRITE))
        return leave(-EINVAL);
    if (!undone(fault))
        sim_inode_cut(s, sim_inode_own(s, file_of(f)->id), len);
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
    sim_file_maybe_released(s, (int32_t)file_of(f)->id);
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

    s->files = sim_grow(s->files, s->file_count, &capacity, sizeof(*s->files));
    s->file_capacity = (uint32_t)capacity;
    int32_t id = (int32_t)s->file_count++;
    struct inode *i = sim_take(sizeof(*i));
    i->refs = 1;
    s->files[id] = (struct entry){.inode = i};
    sim_name_set(s, path, id);
    return id;
}

/* Finds or creates. */
static int find_file(struct sim *s, const char *path, unsigned flags, uint32_t *id)
{
    int32_t to = sim_name_leads_to(s, path);

    if (to == DIRECTORY)
        return -EISDIR;
    if (to > DIRECTORY && (flags & ENV_CREATE) && (flags & ENV_EXCL))
        return -EEXIST;
    if (to == NO_FILE) {
        int rc = flags & ENV_CREATE ? sim_name_check_parent(s, path) : -ENOENT;
        if (rc)
            return rc;
        to = create(s, path);
    }
    *id = (uint32_t)to;
    if (flags & ENV_TRUNC)
        sim_inode_cut(s, sim_inode_own(s, *id), 0);
    return 0;
}

static int sim_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    struct sim *s = sim_of(e);
    char name[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_OPEN, flags & (ENV_CREATE | ENV_TRUNC), path);
    uint32_t id = 0;

    int rc = sim_name_normalise(path, name);
    if (!rc && undone(fault))
        rc = fault.error;
    if (!rc)
        rc = find_file(s, name, flags, &id);
    rc = rc ? rc : fault.error;
    if (rc)
        return leave(rc);
    struct sim_file *f = sim_take(sizeof(*f));
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

    int rc = sim_name_normalise(path, name);
    if (!rc && undone(fault))
        rc = fault.error;
    if (!rc)
        rc = sim_name_leads_to(s, name) == NO_FILE ? sim_name_check_parent(s, name) : -EEXIST;
    if (!rc)
        sim_name_set(s, name, DIRECTORY);
    return leave(result(rc, fault));
}

/* Copies the names first: the callback may change the directory. In any order, as directories have them. */
static int sim_list(struct env *e, const char *path, env_list_fn fn, void *arg)
{
    struct sim *s = sim_of(e);
    char dir[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_LIST, false, path);
    uint32_t count = 0;

    int rc = fault.error ? fault.error : sim_name_normalise(path, dir);
    if (!rc && sim_name_leads_to(s, dir) != DIRECTORY)
        rc = -ENOENT;
    if (rc)
        return leave(rc);
    struct name *found = sim_take(s->name_count * sizeof(*found));
    for (uint32_t i = 0; i < s->name_count; i++) {
        if (s->names[i].now != NO_FILE && sim_name_lies_in(s->names[i].path, dir))
            found[count++] = s->names[i];
    }
    for (uint32_t i = count; i > 1; i--) {
        uint32_t other = (uint32_t)sim_below(s, i);
        struct name last = found[i - 1];
        found[i - 1] = found[other];
        found[other] = last;
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

    int rc = sim_name_normalise(path, name);
    if (!rc && undone(fault))
        rc = fault.error;
    if (!rc && sim_name_leads_to(s, name) <= DIRECTORY)
        rc = sim_name_leads_to(s, name) == DIRECTORY ? -EISDIR : -ENOENT;
    if (!rc)
        sim_name_set(s, name, NO_FILE);
    return leave(result(rc, fault));
}

static int two_names(struct sim *s, const char *from, const char *to, char source[SIM_PATH_MAX],
                     char target[SIM_PATH_MAX])
{
    int rc = sim_name_normalise(from, source);

    if (!rc)
        rc = sim_name_normalise(to, target);
    if (!rc && sim_name_leads_to(s, source) <= DIRECTORY)
        rc = sim_name_leads_to(s, source) == DIRECTORY ? -EISDIR : -ENOENT;
    if (!rc && sim_name_leads_to(s, target) == DIRECTORY)
        rc = -EISDIR;
    return rc ? rc : sim_name_check_parent(s, target);
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
        struct name_change change[2] = {{sim_name_index(s, target), sim_name_leads_to(s, source)},
                                        {sim_name_index(s, source), NO_FILE}};
        sim_names_change(s, 2, change);
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
    if (!rc && sim_name_leads_to(s, target) != NO_FILE)
        rc = -EEXIST;
    if (!rc)
        sim_name_set(s, target, sim_name_leads_to(s, source));
    return leave(result(rc, fault));
}

static int sim_sync_dir(struct env *e, const char *path)
{
    struct sim *s = sim_of(e);
    char dir[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_SYNC_DIR, true, path);

    int rc = sim_name_normalise(path, dir);
    if (!rc && sim_name_leads_to(s, dir) != DIRECTORY)
        rc = -ENOENT;
    if (!rc)
        sim_names_sync(s, dir, fault.error);
    return leave(result(rc, fault));
}

static int sim_lock(struct env *e, const char *path, bool exclusive, struct env_lock **out)
{
    struct sim *s = sim_of(e);
    char name[SIM_PATH_MAX];
    struct sim_fault fault = enter(s, SIM_LOCK, true, path);
    uint32_t id;

    int rc = fault.error ? fault.error : sim_name_normalise(path, name);
    if (!rc)
        rc = find_file(s, name, ENV_CREATE, &id);
    for (struct env_lock *l = s->locks; l && !rc; l = l->next) {
        if (!strcmp(l->path, name) && (exclusive || l->exclusive))
            rc = -EBUSY;
    }
    if (rc)
        return leave(rc);
    struct env_lock *l = sim_take(sizeof(*l));
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

static uint64_t sim_mono_ns(struct env *e) { return sim_of(e)->clock_ns += 1 + sim_below(sim_of(e), 100); }
static uint64_t sim_wall_ns(struct env *e)
{
    uint64_t wall_ns = sim_of(e)->wall_ns;

    return wall_ns ? wall_ns : UINT64_C(1700000000000000000) + sim_mono_ns(e);
}

static int sim_random(struct env *e, void *buf, size_t len)
{
    struct sim *s = sim_of(e);
    struct sim_fault fault = enter(s, SIM_RANDOM, false, "");

    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)sim_draw(s);
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
    struct sim *s = sim_take(sizeof(*s));

    s->base.ops = &sim_ops;
    s->random = seed;
    s->clock_ns = 1000000000u;
    s->capacity = UNLIMITED / PAGE;
    s->file_count = 1;
    s->file_capacity = 16;
    s->files = sim_take(s->file_capacity * sizeof(*s->files));
    return &s->base;
}

struct env *env_sim_clone(struct env *e, uint64_t seed)
{
    struct sim *old = sim_of(e), *s = sim_take(sizeof(*s));

    *s = *old;
    s->random = seed;
    s->hook = NULL;
    s->locks = NULL;
    s->open_files = 0;
    s->calls = s->changes = 0;
    s->name_capacity = s->name_count;
    s->names = sim_take(s->name_count * sizeof(*s->names));
    if (s->name_count)
        memcpy(s->names, old->names, s->name_count * sizeof(*s->names));
    s->event_capacity = s->event_count;
    s->events = sim_take(s->event_count * sizeof(*s->events));
    if (s->event_count)
        memcpy(s->events, old->events, s->event_count * sizeof(*s->events));
    s->file_capacity = s->file_count;
    s->files = sim_take(s->file_count * sizeof(*s->files));
    s->used = 0;
    for (uint32_t k = 1; k < s->file_count; k++) {
        s->files[k] = (struct entry){.inode = old->files[k].inode, .links = old->files[k].links};
        if (!s->files[k].inode)
            continue;
        s->files[k].inode->refs++;
        s->used += s->files[k].links ? s->files[k].inode->blocks : 0;
    }
    sim_files_drop(s);
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
            sim_inode_unref(s->files[k].inode);
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
    return oldest + sim_below(s, s->time - oldest + 1);
}

static enum sim_loss one_of(struct sim *s, enum sim_loss loss)
{
    return loss == SIM_LOSE_MIXED ? (enum sim_loss)sim_below(s, SIM_LOSE_MIXED) : loss;
}

void env_sim_power_cut(struct env *e, enum sim_loss loss)
{
    struct sim *s = sim_of(e);
    uint64_t late = some_moment(s);

    assert(s->open_files == 0 && !s->locks);
    sim_names_resolve(s, one_of(s, loss), late);
    for (uint32_t k = 1; k < s->file_count; k++) {
        const struct inode *i = s->files[k].inode;
        if (!i || (!i->event_count && !i->disagrees && i->size == i->durable_size))
            continue;
        sim_inode_resolve(s, sim_inode_own(s, k), one_of(s, loss), late);
        sim_inode_settle(s, s->files[k].inode);
    }
    sim_names_settle(s);
    sim_files_drop(s);
    s->used = 0;
    for (uint32_t k = 1; k < s->file_count; k++)
        s->used += s->files[k].inode ? s->files[k].inode->blocks : 0;
    if (s->used > s->capacity) /* names that come back may take more than there was: no disk does that */
        s->capacity = s->used;
}

void env_sim_begin(struct env *e, const struct sim_call *call)
{
    struct sim *s = sim_of(e);

    if (!call->iov_count || !s->files[call->file].inode)
        return;
    (void)sim_file_write_vectors(s, call->file, call->iov, call->iov_count, call->offset,
                                 sim_below(s, call->bytes + 1));
}

void env_sim_evict(struct env *e)
{
    struct sim *s = sim_of(e);

    for (uint32_t k = 1; k < s->file_count; k++) {
        if (!s->files[k].inode || !s->files[k].inode->disagrees)
            continue;
        struct inode *i = sim_inode_own(s, k);
        bool *dirty = sim_take(i->slots * sizeof(*dirty));
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
            sim_page_set(&i->now[n], i->durable[n]);
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
void env_sim_wall(struct env *e, uint64_t ns) { sim_of(e)->wall_ns = ns; }
void env_sim_sleep(struct env *e, uint64_t ns) { sim_of(e)->clock_ns += ns; }

int env_sim_damage(struct env *e, const char *path, uint64_t offset, unsigned bits)
{
    struct sim *s = sim_of(e);
    char name[SIM_PATH_MAX];

    int rc = sim_name_normalise(path, name);
    int32_t id = rc ? NO_FILE : sim_name_leads_to(s, name);
    if (id <= DIRECTORY)
        return rc ? rc : -ENOENT;
    struct inode *i = sim_inode_own(s, (uint32_t)id);
    if (offset >= i->size)
        return -EINVAL;
    assert(i->event_count == 0);
    size_t k = (size_t)(offset / PAGE);
    uint8_t byte = sim_page_bytes(i->now[k])[offset % PAGE];
    unsigned first = (unsigned)sim_below(s, 8);
    for (unsigned b = 0; b < bits && first + b < 8; b++)
        byte ^= (uint8_t)(1u << (first + b));
    struct page *p = sim_page_patch(i->now[k], (size_t)(offset % PAGE), &byte, 1);
    sim_page_set(&i->now[k], p);
    sim_page_set(&i->durable[k], p);
    sim_page_unref(p);
    return 0;
}
