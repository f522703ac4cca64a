/*
 * rules_env.h - an env over memory that asks a rule before each call that changes something or reads from a file, and
 * that can die: from then on no call changes anything, and the next open finds what there was. For tests; include after
 * the cmocka headers.
 */
#ifndef RULES_ENV_H
#define RULES_ENV_H

#include "env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum op {
    OP_CREATE,
    OP_WRITE,
    OP_SYNC,
    OP_ALLOCATE,
    OP_RENAME,
    OP_UNLINK,
    OP_SYNC_DIR,
    OP_TRUNCATE,
    OP_THREAD,
    OP_READ
};

struct rules {
    struct env base;
    struct env_ops ops;
    struct env *inner;
    bool dead;                /* atomic */
    uint64_t changes, die_at; /* atomic; die_at 0: never */
    int (*rule)(struct rules *r, enum op op, const char *name,
                uint64_t offset); /* atomic; NULL: all goes well */
    unsigned hits;                /* atomic; of the rule's own */
    unsigned fail_call;           /* for rule fail_one */
    int fail_error;
};

struct ruled_file {
    struct env_file base;
    struct env_file *inner;
    struct rules *rules;
    char name[32];
};

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static inline bool is_kind(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static int ask(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    if (op != OP_READ) {
        uint64_t at = __atomic_add_fetch(&r->changes, 1, __ATOMIC_RELAXED),
                 die_at = __atomic_load_n(&r->die_at, __ATOMIC_RELAXED);
        if (die_at && at >= die_at)
            __atomic_store_n(&r->dead, true, __ATOMIC_RELAXED);
        if (__atomic_load_n(&r->dead, __ATOMIC_RELAXED))
            return -EIO;
    }
    int (*rule)(struct rules *, enum op, const char *, uint64_t) =
        __atomic_load_n(&r->rule, __ATOMIC_ACQUIRE);
    return rule ? rule(r, op, name, offset) : 0;
}

static inline void set_rule(struct rules *r, int (*rule)(struct rules *, enum op, const char *, uint64_t))
{
    __atomic_store_n(&r->hits, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&r->rule, rule, __ATOMIC_RELEASE);
}

static struct ruled_file *ruled(struct env_file *f) { return (struct ruled_file *)f; }
static ssize_t ruled_pread(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    int rc = ask(ruled(f)->rules, OP_READ, ruled(f)->name, off);
    return rc ? rc : env_pread(ruled(f)->inner, buf, len, off);
}
static int ruled_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    int rc = ask(ruled(f)->rules, OP_WRITE, ruled(f)->name, off);
    return rc ? rc : env_pwritev(ruled(f)->inner, iov, n, off);
}
static int ruled_sync(struct env_file *f)
{
    int rc = ask(ruled(f)->rules, OP_SYNC, ruled(f)->name, 0);
    return rc ? rc : env_sync(ruled(f)->inner);
}
static int ruled_allocate(struct env_file *f, uint64_t off, uint64_t len)
{
    int rc = ask(ruled(f)->rules, OP_ALLOCATE, ruled(f)->name, off);
    return rc ? rc : env_allocate(ruled(f)->inner, off, len);
}
static int ruled_truncate(struct env_file *f, uint64_t len)
{
    int rc = ask(ruled(f)->rules, OP_TRUNCATE, ruled(f)->name, len);
    return rc ? rc : env_truncate(ruled(f)->inner, len);
}
static int ruled_size(struct env_file *f, uint64_t *out) { return env_size(ruled(f)->inner, out); }
static void ruled_close(struct env_file *f)
{
    env_close(ruled(f)->inner);
    free(f);
}

static const struct env_file_ops ruled_file_ops = {
    .pread = ruled_pread,
    .pwritev = ruled_pwritev,
    .sync = ruled_sync,
    .allocate = ruled_allocate,
    .truncate = ruled_truncate,
    .size = ruled_size,
    .close = ruled_close,
};

static struct rules *rules_of(struct env *e) { return (struct rules *)e; }
static int ruled_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    struct rules *r = rules_of(e);
    int rc = flags & (ENV_CREATE | ENV_TRUNC) ? ask(r, OP_CREATE, last_part(path), 0) : 0;
    struct ruled_file *f = rc ? NULL : calloc(1, sizeof *f);
    if (!f)
        return rc ? rc : -ENOMEM;
    f->base.ops = &ruled_file_ops;
    f->rules = r;
    snprintf(f->name, sizeof f->name, "%s", last_part(path));
    rc = env_open(r->inner, path, flags, &f->inner);
    if (rc)
        free(f);
    else
        *out = &f->base;
    return rc;
}
static int ruled_mkdir(struct env *e, const char *path) { return env_mkdir(rules_of(e)->inner, path); }
static int ruled_list(struct env *e, const char *path, env_list_fn fn, void *arg)
{
    return env_list(rules_of(e)->inner, path, fn, arg);
}
static int ruled_unlink(struct env *e, const char *path)
{
    int rc = ask(rules_of(e), OP_UNLINK, last_part(path), 0);
    return rc ? rc : env_unlink(rules_of(e)->inner, path);
}
static int ruled_rename(struct env *e, const char *from, const char *to)
{
    int rc = ask(rules_of(e), OP_RENAME, last_part(to), 0);
    return rc ? rc : env_rename(rules_of(e)->inner, from, to);
}
static int ruled_sync_dir(struct env *e, const char *path)
{
    int rc = ask(rules_of(e), OP_SYNC_DIR, path, 0);
    return rc ? rc : env_sync_dir(rules_of(e)->inner, path);
}
static int ruled_lock(struct env *e, const char *path, bool exclusive, struct env_lock **out)
{
    return env_lock(rules_of(e)->inner, path, exclusive, out);
}
static void ruled_unlock(struct env *e, struct env_lock *lock) { env_unlock(rules_of(e)->inner, lock); }
static int ruled_space(struct env *e, const char *path, uint64_t *free_bytes, uint64_t *total_bytes)
{
    return env_space(rules_of(e)->inner, path, free_bytes, total_bytes);
}
static uint64_t ruled_mono_ns(struct env *e) { return env_mono_ns(rules_of(e)->inner); }
static uint64_t ruled_wall_ns(struct env *e) { return env_wall_ns(rules_of(e)->inner); }
static int ruled_random(struct env *e, void *buf, size_t len)
{
    return env_random(rules_of(e)->inner, buf, len);
}
static int ruled_thread_start(struct env *e, const char *name, int cpu, void (*fn)(void *), void *arg,
                              struct env_thread **out)
{
    int rc = ask(rules_of(e), OP_THREAD, name, 0);
    return rc ? rc : env_thread_start(rules_of(e)->inner, name, cpu, fn, arg, out);
}
static void ruled_thread_join(struct env *e, struct env_thread *t) { env_thread_join(rules_of(e)->inner, t); }

static inline void rules_init(struct rules *r)
{
    memset(r, 0, sizeof *r);
    r->inner = env_mem_new();
    assert_non_null(r->inner);
    r->ops = (struct env_ops){
        .open = ruled_open,
        .mkdir = ruled_mkdir,
        .list = ruled_list,
        .unlink = ruled_unlink,
        .rename = ruled_rename,
        .sync_dir = ruled_sync_dir,
        .lock = ruled_lock,
        .unlock = ruled_unlock,
        .space = ruled_space,
        .mono_ns = ruled_mono_ns,
        .wall_ns = ruled_wall_ns,
        .random = ruled_random,
        .thread_start = ruled_thread_start,
        .thread_join = ruled_thread_join,
    };
    r->base.ops = &r->ops;
}

#endif
