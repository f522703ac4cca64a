/* env_tap.c - see env_tap.h. */
#include "env_tap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAP_MIN_BYTES (1u << 20) /* the size of a log segment here: a smaller one is still being made */

struct tap_file {
    struct env_file base;
    struct env_file *real;
    int shadow, map_fd; /* map_fd -1: not to be mapped */
    uint8_t *map;
    uint64_t map_bytes;
};

static struct env tap;
static struct env_ops ops;
static const char *shadow_dir;
static bool use_map;
static uint64_t syncs;

static struct tap_file *tap_of(struct env_file *f) { return (struct tap_file *)f; }

static void must(bool good, const char *what)
{
    if (good)
        return;
    perror(what);
    abort();
}

static const char *shadow_path(const char *path, char out[4096])
{
    const char *slash = strrchr(path, '/');

    snprintf(out, 4096, "%s/%s", shadow_dir, slash ? slash + 1 : path);
    return out;
}

/* ---- files ---- */

static ssize_t tap_pread(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    return env_pread(tap_of(f)->real, buf, len, off);
}

/* Under a lock of the log's own: one file has one user that makes it ready. */
static bool mapped(struct tap_file *t, uint64_t end)
{
    struct stat st;

    if (t->map_fd < 0 || t->map)
        return t->map && end <= t->map_bytes;
    if (fstat(t->map_fd, &st) || st.st_size < (off_t)MAP_MIN_BYTES)
        return false;
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, t->map_fd, 0);
    must(map != MAP_FAILED, "mmap");
    t->map = map;
    t->map_bytes = (uint64_t)st.st_size;
    return end <= t->map_bytes;
}

static int tap_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    struct tap_file *t = tap_of(f);
    uint64_t at = off, bytes = 0;
    int rc = 0;

    for (int i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    if (mapped(t, off + bytes)) {
        for (int i = 0; i < n; i++) {
            memcpy(t->map + at, iov[i].iov_base, iov[i].iov_len);
            at += iov[i].iov_len;
        }
    } else {
        rc = env_pwritev(t->real, iov, n, off);
    }
    at = off;
    for (int i = 0; i < n && !rc; i++) {
        must(pwrite(t->shadow, iov[i].iov_base, iov[i].iov_len, (off_t)at) == (ssize_t)iov[i].iov_len,
             "shadow");
        at += iov[i].iov_len;
    }
    return rc;
}

static int tap_sync(struct env_file *f)
{
    __atomic_add_fetch(&syncs, 1, __ATOMIC_RELAXED);
    return env_sync(tap_of(f)->real);
}

static int tap_allocate(struct env_file *f, uint64_t off, uint64_t len)
{
    int rc = env_allocate(tap_of(f)->real, off, len);

    if (!rc)
        must(fallocate(tap_of(f)->shadow, 0, (off_t)off, (off_t)len) == 0, "shadow");
    return rc;
}

static int tap_truncate(struct env_file *f, uint64_t len)
{
    int rc = env_truncate(tap_of(f)->real, len);

    if (!rc)
        must(ftruncate(tap_of(f)->shadow, (off_t)len) == 0, "shadow");
    return rc;
}

static int tap_size(struct env_file *f, uint64_t *out) { return env_size(tap_of(f)->real, out); }

static int tap_map(struct env_file *f, uint64_t len)
{
    (void)f, (void)len;
    return -ENOTSUP;
}

static int tap_map_store(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    (void)f, (void)iov, (void)n, (void)off;
    abort(); /* nothing could be mapped */
}

static int tap_map_populate(struct env_file *f, uint64_t off, uint64_t len)
{
    (void)f, (void)off, (void)len;
    return 0;
}

static void tap_close(struct env_file *f)
{
    struct tap_file *t = tap_of(f);

    if (t->map)
        munmap(t->map, t->map_bytes);
    if (t->map_fd >= 0)
        close(t->map_fd);
    close(t->shadow);
    env_close(t->real);
    free(t);
}

static const struct env_file_ops file_ops = {
    .pread = tap_pread,
    .pwritev = tap_pwritev,
    .sync = tap_sync,
    .allocate = tap_allocate,
    .truncate = tap_truncate,
    .size = tap_size,
    .map = tap_map,
    .map_store = tap_map_store,
    .map_populate = tap_map_populate,
    .close = tap_close,
};

/* ---- names ---- */

static int tap_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    char other[4096];
    struct tap_file *t = calloc(1, sizeof(*t));
    size_t len = strlen(path);

    (void)e;
    must(t != NULL, "memory");
    int rc = env_open(env_posix(), path, flags, &t->real);
    if (rc) {
        free(t);
        return rc;
    }
    int how = O_RDWR | O_CLOEXEC | (flags & ENV_CREATE ? O_CREAT : 0) | (flags & ENV_TRUNC ? O_TRUNC : 0);
    t->base.ops = &file_ops;
    t->shadow = open(shadow_path(path, other), how, 0600);
    must(t->shadow >= 0, other);
    t->map_fd = -1;
    if (use_map && (flags & ENV_WRITE) && len > 4 && strcmp(path + len - 4, ".log") == 0) {
        t->map_fd = open(path, O_RDWR | O_CLOEXEC);
        must(t->map_fd >= 0, path);
    }
    *out = &t->base;
    return 0;
}

static int tap_unlink(struct env *e, const char *path)
{
    char other[4096];
    int rc = env_unlink(env_posix(), path);

    (void)e;
    if (!rc)
        must(unlink(shadow_path(path, other)) == 0, other);
    return rc;
}

static int tap_rename(struct env *e, const char *from, const char *to)
{
    char a[4096], b[4096];
    int rc = env_rename(env_posix(), from, to);

    (void)e;
    if (!rc)
        must(rename(shadow_path(from, a), shadow_path(to, b)) == 0, a);
    return rc;
}

static int tap_link(struct env *e, const char *from, const char *to)
{
    char a[4096], b[4096];
    int rc = env_link(env_posix(), from, to);

    (void)e;
    if (!rc)
        must(link(shadow_path(from, a), shadow_path(to, b)) == 0, a);
    return rc;
}

static int tap_sync_dir(struct env *e, const char *path)
{
    (void)e;
    __atomic_add_fetch(&syncs, 1, __ATOMIC_RELAXED);
    return env_sync_dir(env_posix(), path);
}

struct env *env_tap(const char *shadow, bool map)
{
    shadow_dir = shadow;
    use_map = map;
    ops = *env_posix()->ops; /* none of the others looks at its env */
    ops.open = tap_open;
    ops.unlink = tap_unlink;
    ops.rename = tap_rename;
    ops.link = tap_link;
    ops.sync_dir = tap_sync_dir;
    tap.ops = &ops;
    return &tap;
}

uint64_t env_tap_syncs(void) { return __atomic_load_n(&syncs, __ATOMIC_RELAXED); }
