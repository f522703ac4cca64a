/*
 * fault_env.h - an env over another one whose changing calls can be made to fail, for tests.
 *
 * Counts the calls that change something (create, write, sync, truncate, rename, unlink, sync_dir).
 * From call number `fail_from` on, `fail_count` of them fail with `error`; a failing write has
 * written its first half. One thread at a time. Include after the cmocka headers.
 */
#ifndef FAULT_ENV_H
#define FAULT_ENV_H

#include "env.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct fault_env {
    struct env base;
    struct env_ops ops;
    struct env *inner;
    uint64_t calls, fail_from, fail_count; /* fail_from 0: never */
    int error;
    bool space_only; /* only what takes space fails: creating and writing */
};

struct fault_file {
    struct env_file base;
    struct env_file *inner;
    struct fault_env *env;
};

static int fault_due(struct fault_env *f, bool takes_space)
{
    if (f->space_only && !takes_space)
        return 0;
    f->calls++;
    return f->fail_from && f->calls >= f->fail_from && f->calls - f->fail_from < f->fail_count ? f->error : 0;
}

static struct fault_file *fault_file(struct env_file *f) { return (struct fault_file *)f; }
static ssize_t fault_pread(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    return env_pread(fault_file(f)->inner, buf, len, off);
}
static int fault_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    int rc = fault_due(fault_file(f)->env, true);
    if (!rc)
        return env_pwritev(fault_file(f)->inner, iov, n, off);
    size_t total = 0;
    for (int i = 0; i < n; i++)
        total += iov[i].iov_len;
    for (int i = 0, left = (int)(total / 2); i < n && left > 0; i++) {
        size_t len = iov[i].iov_len < (size_t)left ? iov[i].iov_len : (size_t)left;
        (void)env_pwrite(fault_file(f)->inner, iov[i].iov_base, len, off);
        off += len;
        left -= (int)len;
    }
    return rc;
}
static int fault_sync(struct env_file *f)
{
    int rc = fault_due(fault_file(f)->env, false);
    return rc ? rc : env_sync(fault_file(f)->inner);
}
static int fault_allocate(struct env_file *f, uint64_t off, uint64_t len)
{
    int rc = fault_due(fault_file(f)->env, true);
    return rc ? rc : env_allocate(fault_file(f)->inner, off, len);
}
static int fault_truncate(struct env_file *f, uint64_t len)
{
    int rc = fault_due(fault_file(f)->env, false);
    return rc ? rc : env_truncate(fault_file(f)->inner, len);
}
static int fault_size(struct env_file *f, uint64_t *out) { return env_size(fault_file(f)->inner, out); }
static void fault_close(struct env_file *f)
{
    env_close(fault_file(f)->inner);
    free(f);
}

static const struct env_file_ops fault_file_ops = {
    .pread = fault_pread,
    .pwritev = fault_pwritev,
    .sync = fault_sync,
    .allocate = fault_allocate,
    .truncate = fault_truncate,
    .size = fault_size,
    .close = fault_close,
};

static struct fault_env *fault_of(struct env *e) { return (struct fault_env *)e; }
static int fault_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    int rc = flags & (ENV_CREATE | ENV_TRUNC) ? fault_due(fault_of(e), true) : 0;
    struct fault_file *f = rc ? NULL : calloc(1, sizeof *f);
    if (!f)
        return rc ? rc : -ENOMEM;
    f->base.ops = &fault_file_ops;
    f->env = fault_of(e);
    rc = env_open(fault_of(e)->inner, path, flags, &f->inner);
    if (rc)
        free(f);
    else
        *out = &f->base;
    return rc;
}
static int fault_list(struct env *e, const char *path, env_list_fn fn, void *arg)
{
    return env_list(fault_of(e)->inner, path, fn, arg);
}
static int fault_unlink(struct env *e, const char *path)
{
    int rc = fault_due(fault_of(e), false);
    return rc ? rc : env_unlink(fault_of(e)->inner, path);
}
static int fault_rename(struct env *e, const char *from, const char *to)
{
    int rc = fault_due(fault_of(e), false);
    return rc ? rc : env_rename(fault_of(e)->inner, from, to);
}
static int fault_sync_dir(struct env *e, const char *path)
{
    int rc = fault_due(fault_of(e), false);
    return rc ? rc : env_sync_dir(fault_of(e)->inner, path);
}
static int fault_random(struct env *e, void *buf, size_t len)
{
    return env_random(fault_of(e)->inner, buf, len);
}

static inline void fault_env_init(struct fault_env *f, struct env *inner)
{
    memset(f, 0, sizeof *f);
    f->inner = inner;
    f->ops = (struct env_ops){
        .open = fault_open,
        .list = fault_list,
        .unlink = fault_unlink,
        .rename = fault_rename,
        .sync_dir = fault_sync_dir,
        .random = fault_random,
    };
    f->base.ops = &f->ops;
}

#endif
