/*
 * env_mem.c - files in memory, for tests: nothing survives env_mem_free.
 *
 * A name leads to a node: a directory, or a file with reference-counted contents, so that an open
 * file stays usable after its name is gone, and hard links share contents. Names are kept sorted.
 * Contents are chunks of CHUNK_BYTES that never move (a missing one is a hole), which is why
 * stores "through a mapping" are plain copies under the file's mutex.
 *
 * Everything is durable at once: sync and sync_dir succeed and do nothing. Directories can't be
 * renamed or removed; the engine does neither. "/" and the empty path exist from the start.
 *
 * Threads: as env.h says. `names` guards the table and the locks; each file's mutex its contents.
 * Order: names, then a file. Clock, randomness and threads are those of the real system.
 */
#include "env.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((uint64_t)65536)
#define FILE_BYTES_MAX (UINT64_C(1) << 40)
#define SPACE_BYTES (UINT64_C(1) << 40) /* what env_space calls the size of this disk */
#define PATH_BYTES_MAX 4096

struct contents {
    unsigned refs; /* atomic: names and open files */
    pthread_mutex_t lock;
    uint64_t *used; /* of the env: bytes in chunks, atomic */
    uint64_t size;
    uint8_t **chunks;
    size_t chunk_count;
};

struct node {
    char *path;
    struct contents *contents; /* NULL: a directory */
};

struct env_lock {
    char *path;
    bool exclusive;
    unsigned holders;
    struct env_lock *next;
};

struct mem_env {
    struct env base;
    pthread_mutex_t names;
    struct node *nodes; /* ascending path */
    size_t count, capacity;
    struct env_lock *locks;
    uint64_t used;
};

struct mem_file {
    struct env_file base;
    struct contents *contents;
    unsigned flags;
    uint64_t map_len; /* atomic */
};

static struct mem_env *mem_of(struct env *e) { return (struct mem_env *)e; }
static struct mem_file *file_of(struct env_file *f) { return (struct mem_file *)f; }

/* ---- contents ---- */

static struct contents *contents_new(uint64_t *used)
{
    struct contents *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->refs = 1;
    c->used = used;
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void drop_chunks(struct contents *c, size_t from)
{
    for (size_t i = from; i < c->chunk_count; i++) {
        if (c->chunks[i])
            __atomic_fetch_sub(c->used, CHUNK_BYTES, __ATOMIC_RELAXED);
        free(c->chunks[i]);
        c->chunks[i] = NULL;
    }
}

static void contents_unref(struct contents *c)
{
    if (__atomic_sub_fetch(&c->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    drop_chunks(c, 0);
    free(c->chunks);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* Changes the size; what comes into being is a hole. Lock held. */
static int contents_resize(struct contents *c, uint64_t size)
{
    if (size > FILE_BYTES_MAX)
        return -EFBIG;
    size_t need = (size_t)((size + CHUNK_BYTES - 1) / CHUNK_BYTES);
    if (need > c->chunk_count) {
        size_t grown = need > 2 * c->chunk_count ? need : 2 * c->chunk_count;
        uint8_t **chunks = realloc(c->chunks, grown * sizeof(*chunks));
        if (!chunks)
            return -ENOMEM;
        memset(chunks + c->chunk_count, 0, (grown - c->chunk_count) * sizeof(*chunks));
        c->chunks = chunks;
        c->chunk_count = grown;
    }
    if (size < c->size) {
        drop_chunks(c, need);
        if (size % CHUNK_BYTES && c->chunks[need - 1])
            memset(c->chunks[need - 1] + size % CHUNK_BYTES, 0, CHUNK_BYTES - size % CHUNK_BYTES);
    }
    c->size = size;
    return 0;
}

/* Writes below the size. Lock held. */
static int contents_write(struct contents *c, const uint8_t *data, size_t len, uint64_t off)
{
    while (len > 0) {
        size_t i = (size_t)(off / CHUNK_BYTES), at = (size_t)(off % CHUNK_BYTES);
        size_t step = len < CHUNK_BYTES - at ? len : (size_t)CHUNK_BYTES - at;
        if (!c->chunks[i]) {
            c->chunks[i] = calloc(1, CHUNK_BYTES);
            if (!c->chunks[i])
                return -ENOMEM;
            __atomic_fetch_add(c->used, CHUNK_BYTES, __ATOMIC_RELAXED);
        }
        memcpy(c->chunks[i] + at, data, step);
        data += step;
        off += step;
        len -= step;
    }
    return 0;
}

static void contents_read(const struct contents *c, uint8_t *out, size_t len, uint64_t off)
{
    while (len > 0) {
        size_t i = (size_t)(off / CHUNK_BYTES), at = (size_t)(off % CHUNK_BYTES);
        size_t step = len < CHUNK_BYTES - at ? len : (size_t)CHUNK_BYTES - at;
        if (c->chunks[i])
            memcpy(out, c->chunks[i] + at, step);
        else
            memset(out, 0, step);
        out += step;
        off += step;
        len -= step;
    }
}

static int write_vectors(struct contents *c, const struct iovec *iov, int n, uint64_t off)
{
    int rc = 0;

    for (int i = 0; i < n && !rc; i++) {
        rc = contents_write(c, iov[i].iov_base, iov[i].iov_len, off);
        off += iov[i].iov_len;
    }
    return rc;
}

/* ---- files ---- */

static ssize_t mem_pread(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    struct contents *c = file_of(f)->contents;

    if (!(file_of(f)->flags & ENV_READ))
        return -EBADF;
    pthread_mutex_lock(&c->lock);
    if (off >= c->size)
        len = 0;
    else if (len > c->size - off)
        len = (size_t)(c->size - off);
    contents_read(c, buf, len, off);
    pthread_mutex_unlock(&c->lock);
    return (ssize_t)len;
}

static uint64_t vector_bytes(const struct iovec *iov, int n)
{
    uint64_t bytes = 0;

    for (int i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

static int mem_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    struct contents *c = file_of(f)->contents;
    uint64_t bytes = vector_bytes(iov, n);
    int rc = 0;

    if (!(file_of(f)->flags & ENV_WRITE))
        return -EBADF;
    if (off > FILE_BYTES_MAX || bytes > FILE_BYTES_MAX - off)
        return -EFBIG;
    pthread_mutex_lock(&c->lock);
    if (bytes > 0 && off + bytes > c->size)
        rc = contents_resize(c, off + bytes);
    if (!rc)
        rc = write_vectors(c, iov, n, off);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static int mem_sync(struct env_file *f)
{
    (void)f;
    return 0;
}

static int mem_truncate(struct env_file *f, uint64_t len)
{
    struct contents *c = file_of(f)->contents;

    if (!(file_of(f)->flags & ENV_WRITE))
        return -EINVAL;
    pthread_mutex_lock(&c->lock);
    int rc = contents_resize(c, len);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static int mem_allocate(struct env_file *f, uint64_t off, uint64_t len)
{
    struct contents *c = file_of(f)->contents;
    int rc = 0;

    if (!(file_of(f)->flags & ENV_WRITE))
        return -EBADF;
    if (off > FILE_BYTES_MAX || len > FILE_BYTES_MAX - off)
        return -EFBIG;
    pthread_mutex_lock(&c->lock);
    if (off + len > c->size)
        rc = contents_resize(c, off + len);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static int mem_size(struct env_file *f, uint64_t *out)
{
    struct contents *c = file_of(f)->contents;

    pthread_mutex_lock(&c->lock);
    *out = c->size;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

static int mem_map(struct env_file *f, uint64_t len)
{
    uint64_t size;

    mem_size(f, &size);
    if (len == 0 || len > size)
        return -EINVAL;
    if ((file_of(f)->flags & (ENV_READ | ENV_WRITE)) != (ENV_READ | ENV_WRITE))
        return -ENOTSUP;
    __atomic_store_n(&file_of(f)->map_len, len, __ATOMIC_RELEASE);
    return 0;
}

/* Beyond the end of a file that was cut short since: what SIGBUS is on the real system. */
static int mem_map_store(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    struct contents *c = file_of(f)->contents;
    uint64_t bytes = vector_bytes(iov, n), len = __atomic_load_n(&file_of(f)->map_len, __ATOMIC_ACQUIRE);
    int rc = -EIO;

    assert(off <= len && bytes <= len - off);
    pthread_mutex_lock(&c->lock);
    if (off + bytes <= c->size)
        rc = write_vectors(c, iov, n, off);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static int mem_map_populate(struct env_file *f, uint64_t off, uint64_t len)
{
    (void)f;
    (void)off;
    (void)len;
    return 0;
}

static void mem_close(struct env_file *f)
{
    contents_unref(file_of(f)->contents);
    free(f);
}

static const struct env_file_ops mem_file_ops = {
    .pread = mem_pread,
    .pwritev = mem_pwritev,
    .sync = mem_sync,
    .allocate = mem_allocate,
    .truncate = mem_truncate,
    .size = mem_size,
    .map = mem_map,
    .map_store = mem_map_store,
    .map_populate = mem_map_populate,
    .close = mem_close,
};

/* ---- names ---- */

/* Without doubled and trailing slashes; "/" stays. */
static int normalise(const char *path, char out[PATH_BYTES_MAX])
{
    size_t n = 0;

    for (const char *p = path; *p; p++) {
        if (*p == '/' && n > 0 && out[n - 1] == '/')
            continue;
        if (n + 1 >= PATH_BYTES_MAX)
            return -ENAMETOOLONG;
        out[n++] = *p;
    }
    if (n > 1 && out[n - 1] == '/')
        n--;
    out[n] = 0;
    return 0;
}

/* Where path is, or would be. */
static size_t position(const struct mem_env *m, const char *path)
{
    size_t low = 0, high = m->count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (strcmp(m->nodes[mid].path, path) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct node *lookup(struct mem_env *m, const char *path)
{
    size_t i = position(m, path);

    return i < m->count && strcmp(m->nodes[i].path, path) == 0 ? &m->nodes[i] : NULL;
}

static bool is_root(const char *path) { return path[0] == 0 || strcmp(path, "/") == 0; }

static int directory_check(struct mem_env *m, const char *path)
{
    if (is_root(path))
        return 0;
    struct node *n = lookup(m, path);
    if (!n)
        return -ENOENT;
    return n->contents ? -ENOTDIR : 0;
}

static int parent_check(struct mem_env *m, const char *path)
{
    char parent[PATH_BYTES_MAX];
    const char *slash = strrchr(path, '/');

    if (is_root(path))
        return -EEXIST;
    if (!slash)
        return 0;
    memcpy(parent, path, (size_t)(slash - path));
    parent[slash - path] = 0;
    return directory_check(m, parent);
}

/* Takes over the reference to contents only if it succeeds. */
static int node_add(struct mem_env *m, const char *path, struct contents *contents)
{
    if (m->count == m->capacity) {
        size_t grown = m->capacity ? 2 * m->capacity : 16;
        struct node *nodes = realloc(m->nodes, grown * sizeof(*nodes));
        if (!nodes)
            return -ENOMEM;
        m->nodes = nodes;
        m->capacity = grown;
    }
    char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    size_t i = position(m, path);
    memmove(m->nodes + i + 1, m->nodes + i, (m->count - i) * sizeof(*m->nodes));
    m->nodes[i] = (struct node){copy, contents};
    m->count++;
    return 0;
}

static void node_remove(struct mem_env *m, struct node *n)
{
    if (n->contents)
        contents_unref(n->contents);
    free(n->path);
    size_t i = (size_t)(n - m->nodes);
    memmove(n, n + 1, (m->count - i - 1) * sizeof(*n));
    m->count--;
}

static int truncate_opened(struct contents *c)
{
    pthread_mutex_lock(&c->lock);
    int rc = contents_resize(c, 0);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

/* Finds or creates; *out carries a new reference. */
static int open_contents(struct mem_env *m, const char *path, unsigned flags, struct contents **out)
{
    struct node *n = lookup(m, path);

    if (is_root(path) || (n && !n->contents))
        return -EISDIR;
    if (n && (flags & ENV_EXCL) && (flags & ENV_CREATE))
        return -EEXIST;
    int rc = parent_check(m, path);
    if (rc)
        return rc;
    if (!n) {
        if (!(flags & ENV_CREATE))
            return -ENOENT;
        struct contents *c = contents_new(&m->used);
        if (!c)
            return -ENOMEM;
        rc = node_add(m, path, c);
        if (rc) {
            contents_unref(c);
            return rc;
        }
        n = lookup(m, path);
    }
    if (flags & ENV_TRUNC) {
        rc = truncate_opened(n->contents);
        if (rc)
            return rc;
    }
    __atomic_fetch_add(&n->contents->refs, 1, __ATOMIC_RELAXED);
    *out = n->contents;
    return 0;
}

static int mem_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    struct mem_env *m = mem_of(e);
    char name[PATH_BYTES_MAX];

    int rc = normalise(path, name);
    if (rc)
        return rc;
    struct mem_file *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->base.ops = &mem_file_ops;
    f->flags = flags & ENV_WRITE ? flags : flags | ENV_READ;
    pthread_mutex_lock(&m->names);
    rc = open_contents(m, name, flags, &f->contents);
    pthread_mutex_unlock(&m->names);
    if (rc) {
        free(f);
        return rc;
    }
    *out = &f->base;
    return 0;
}

static int mem_mkdir(struct env *e, const char *path)
{
    struct mem_env *m = mem_of(e);
    char name[PATH_BYTES_MAX];

    int rc = normalise(path, name);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->names);
    rc = parent_check(m, name);
    if (!rc)
        rc = lookup(m, name) ? -EEXIST : node_add(m, name, NULL);
    pthread_mutex_unlock(&m->names);
    return rc;
}

/* The name of a direct child of dir, or NULL. */
static const char *child_name(const char *dir, const char *path)
{
    size_t n = strcmp(dir, "/") == 0 ? 0 : strlen(dir);

    if (dir[0] == 0)
        return strchr(path, '/') ? NULL : path;
    if (strncmp(path, dir, n) || path[n] != '/' || strchr(path + n + 1, '/'))
        return NULL;
    return path + n + 1;
}

/* Copies the names first: the callback may change the directory. */
static int mem_list(struct env *e, const char *path, env_list_fn fn, void *arg)
{
    struct mem_env *m = mem_of(e);
    char dir[PATH_BYTES_MAX];
    char **names = NULL;
    size_t count = 0;

    int rc = normalise(path, dir);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->names);
    rc = directory_check(m, dir);
    if (!rc) {
        names = calloc(m->count + 1, sizeof(*names));
        rc = names ? 0 : -ENOMEM;
    }
    for (size_t i = 0; !rc && i < m->count; i++) {
        const char *name = child_name(dir, m->nodes[i].path);
        if (!name)
            continue;
        names[count] = strdup(name);
        if (names[count])
            count++;
        else
            rc = -ENOMEM;
    }
    pthread_mutex_unlock(&m->names);
    for (size_t i = 0; i < count; i++) {
        if (!rc)
            rc = fn(arg, names[i]);
        free(names[i]);
    }
    free(names);
    return rc;
}

static int mem_unlink(struct env *e, const char *path)
{
    struct mem_env *m = mem_of(e);
    char name[PATH_BYTES_MAX];

    int rc = normalise(path, name);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->names);
    struct node *n = lookup(m, name);
    if (!n)
        rc = is_root(name) ? -EISDIR : -ENOENT;
    else if (!n->contents)
        rc = -EISDIR;
    else
        node_remove(m, n);
    pthread_mutex_unlock(&m->names);
    return rc;
}

/* Gives the contents of `from` the name `to`. Lock held. */
static int link_locked(struct mem_env *m, const char *from, const char *to, bool replace)
{
    struct node *source = lookup(m, from), *target = lookup(m, to);

    if (!source)
        return -ENOENT;
    if (!source->contents || (replace && target && !target->contents))
        return -EISDIR;
    if (target && !replace)
        return -EEXIST;
    int rc = parent_check(m, to);
    if (rc)
        return rc;
    struct contents *c = source->contents;
    __atomic_fetch_add(&c->refs, 1, __ATOMIC_RELAXED);
    if (target) {
        contents_unref(target->contents);
        target->contents = c;
        return 0;
    }
    rc = node_add(m, to, c);
    if (rc)
        contents_unref(c);
    return rc;
}

static int mem_rename(struct env *e, const char *from, const char *to)
{
    struct mem_env *m = mem_of(e);
    char source[PATH_BYTES_MAX], target[PATH_BYTES_MAX];

    int rc = normalise(from, source);
    if (!rc)
        rc = normalise(to, target);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->names);
    rc = link_locked(m, source, target, true);
    if (!rc && strcmp(source, target))
        node_remove(m, lookup(m, source));
    pthread_mutex_unlock(&m->names);
    return rc;
}

static int mem_link(struct env *e, const char *from, const char *to)
{
    struct mem_env *m = mem_of(e);
    char source[PATH_BYTES_MAX], target[PATH_BYTES_MAX];

    int rc = normalise(from, source);
    if (!rc)
        rc = normalise(to, target);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->names);
    rc = link_locked(m, source, target, false);
    pthread_mutex_unlock(&m->names);
    return rc;
}

static int mem_sync_dir(struct env *e, const char *path)
{
    struct mem_env *m = mem_of(e);
    char name[PATH_BYTES_MAX];

    int rc = normalise(path, name);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->names);
    rc = directory_check(m, name);
    pthread_mutex_unlock(&m->names);
    return rc;
}

/* ---- locks ---- */

static int lock_take(struct mem_env *m, const char *path, bool exclusive, struct env_lock **out)
{
    struct env_lock *l = m->locks;

    while (l && strcmp(l->path, path))
        l = l->next;
    if (l && (exclusive || l->exclusive))
        return -EBUSY;
    if (!l) {
        l = calloc(1, sizeof(*l));
        if (!l || !(l->path = strdup(path))) {
            free(l);
            return -ENOMEM;
        }
        l->exclusive = exclusive;
        l->next = m->locks;
        m->locks = l;
    }
    l->holders++;
    *out = l;
    return 0;
}

static int mem_lock(struct env *e, const char *path, bool exclusive, struct env_lock **out)
{
    struct mem_env *m = mem_of(e);
    struct contents *c = NULL;
    char name[PATH_BYTES_MAX];

    int rc = normalise(path, name);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->names);
    rc = open_contents(m, name, ENV_READ | ENV_CREATE, &c); /* the lock file, as on a real disk */
    if (!rc) {
        contents_unref(c);
        rc = lock_take(m, name, exclusive, out);
    }
    pthread_mutex_unlock(&m->names);
    return rc;
}

static void mem_unlock(struct env *e, struct env_lock *lock)
{
    struct mem_env *m = mem_of(e);

    pthread_mutex_lock(&m->names);
    if (--lock->holders == 0) {
        struct env_lock **p = &m->locks;
        while (*p != lock)
            p = &(*p)->next;
        *p = lock->next;
        free(lock->path);
        free(lock);
    }
    pthread_mutex_unlock(&m->names);
}

/* ---- the rest ---- */

static int mem_space(struct env *e, const char *path, uint64_t *free_bytes, uint64_t *total_bytes)
{
    uint64_t used = __atomic_load_n(&mem_of(e)->used, __ATOMIC_RELAXED);

    (void)path;
    *total_bytes = SPACE_BYTES;
    *free_bytes = used < SPACE_BYTES ? SPACE_BYTES - used : 0;
    return 0;
}

static uint64_t mem_mono_ns(struct env *e)
{
    (void)e;
    return env_mono_ns(env_posix());
}

static uint64_t mem_wall_ns(struct env *e)
{
    (void)e;
    return env_wall_ns(env_posix());
}

static int mem_random(struct env *e, void *buf, size_t len)
{
    (void)e;
    return env_random(env_posix(), buf, len);
}

static int mem_thread_start(struct env *e, const char *name, int cpu, void (*fn)(void *), void *arg,
                            struct env_thread **out)
{
    (void)e;
    return env_thread_start(env_posix(), name, cpu, fn, arg, out);
}

static void mem_thread_join(struct env *e, struct env_thread *t)
{
    (void)e;
    env_thread_join(env_posix(), t);
}

static void mem_thread_near(struct env *e, struct env_thread *t)
{
    (void)e;
    env_thread_near(env_posix(), t);
}

static void mem_thread_prompt(struct env *e)
{
    (void)e;
    env_thread_prompt(env_posix());
}

static const struct env_ops mem_ops = {
    .open = mem_open,
    .mkdir = mem_mkdir,
    .list = mem_list,
    .unlink = mem_unlink,
    .rename = mem_rename,
    .link = mem_link,
    .sync_dir = mem_sync_dir,
    .lock = mem_lock,
    .unlock = mem_unlock,
    .space = mem_space,
    .mono_ns = mem_mono_ns,
    .wall_ns = mem_wall_ns,
    .random = mem_random,
    .thread_start = mem_thread_start,
    .thread_join = mem_thread_join,
    .thread_near = mem_thread_near,
    .thread_prompt = mem_thread_prompt,
};

struct env *env_mem_new(void)
{
    struct mem_env *m = calloc(1, sizeof(*m));

    if (!m)
        return NULL;
    m->base.ops = &mem_ops;
    pthread_mutex_init(&m->names, NULL);
    return &m->base;
}

void env_mem_free(struct env *e)
{
    struct mem_env *m = mem_of(e);

    if (!m)
        return;
    assert(!m->locks);
    while (m->count > 0)
        node_remove(m, &m->nodes[m->count - 1]);
    assert(m->used == 0); /* every file was closed */
    free(m->nodes);
    pthread_mutex_destroy(&m->names);
    free(m);
}
