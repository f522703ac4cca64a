/*
 * env.h - the only door from the engine to the system: files, clock, randomness, threads.
 *
 * Nothing else in lsm/ makes a system call on a file, reads a clock, draws a random number or
 * starts a thread. That makes it possible to put the whole engine onto memory (env_mem_new), and
 * later onto a simulated disk that loses, tears and reorders what was not synced.
 *
 * Paths are ordinary strings. All functions return 0 (or a count) or a negative errno. Reads and
 * writes are complete: the implementation repeats short transfers and EINTR, so a short read means
 * end of file and a write either wrote everything or failed. Only regular files can be opened
 * (-EUCLEAN), and none through a symbolic link (-ELOOP).
 *
 * Threads: an env and its files may be used by any number of threads; closing a file while another
 * thread uses it is the caller's bug.
 */
#ifndef LSM_ENV_H
#define LSM_ENV_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum env_open_flags {
    ENV_READ = 1u << 0,
    ENV_WRITE = 1u << 1,
    ENV_CREATE = 1u << 2, /* mode 0600 */
    ENV_EXCL = 1u << 3,
    ENV_TRUNC = 1u << 4,
    /* With ENV_CREATE: what was written will be written over, and that must not need space: a hint to copy-on-write filesystems. */
    ENV_IN_PLACE = 1u << 5,
};

struct env_file {
    const struct env_file_ops *ops; /* implementation's fields follow */
};

struct env_lock;
struct env_thread;

struct env_file_ops {
    ssize_t (*pread)(struct env_file *f, void *buf, size_t len, uint64_t off);
    ssize_t (*pread_nowait)(struct env_file *f, void *buf, size_t len,
                            uint64_t off); /* NULL: always -EAGAIN */
    int (*pwritev)(struct env_file *f, const struct iovec *iov, int n, uint64_t off);
    int (*sync)(struct env_file *f);                                    /* fdatasync */
    void (*write_out)(struct env_file *f, uint64_t off, uint64_t len);  /* NULL: does nothing */
    void (*read_ahead)(struct env_file *f, uint64_t off, uint64_t len); /* NULL: does nothing */
    int (*allocate)(struct env_file *f, uint64_t off, uint64_t len);    /* reserve blocks; grows size */
    int (*truncate)(struct env_file *f, uint64_t len);
    int (*size)(struct env_file *f, uint64_t *out);
    int (*map)(struct env_file *f, uint64_t len);
    int (*map_store)(struct env_file *f, const struct iovec *iov, int n, uint64_t off);
    int (*map_populate)(struct env_file *f, uint64_t off, uint64_t len);
    void (*close)(struct env_file *f);
};

struct env {
    const struct env_ops *ops; /* implementation's fields follow */
};

/* Return non-zero to stop the listing; that value is passed on. */
typedef int (*env_list_fn)(void *arg, const char *name);

/* One of several reads. */
struct env_read {
    struct env_file *file;
    void *buf;
    size_t len;
    uint64_t off;
    ssize_t result; /* as env_pread returns it */
};

struct env_ops {
    int (*open)(struct env *e, const char *path, unsigned flags, struct env_file **out);
    int (*mkdir)(struct env *e, const char *path);                           /* mode 0700; -EEXIST */
    int (*list)(struct env *e, const char *path, env_list_fn fn, void *arg); /* without . and .. */
    int (*unlink)(struct env *e, const char *path);
    int (*rename)(struct env *e, const char *from, const char *to); /* replaces */
    int (*link)(struct env *e, const char *from, const char *to);
    int (*sync_dir)(struct env *e, const char *path);
    int (*lock)(struct env *e, const char *path, bool exclusive, struct env_lock **out); /* -EBUSY */
    void (*unlock)(struct env *e, struct env_lock *lock);
    int (*space)(struct env *e, const char *path, uint64_t *free_bytes, uint64_t *total_bytes);
    void (*read_many)(struct env *e, struct env_read *reads, unsigned n); /* NULL: one after the other */
    int (*read_many_status)(struct env *e);                               /* NULL: 0 */
    uint64_t (*mono_ns)(struct env *e);
    uint64_t (*wall_ns)(struct env *e);
    int (*random)(struct env *e, void *buf, size_t len);
    int (*thread_start)(
        struct env *e, const char *name, int cpu, void (*fn)(void *), void *arg,
        struct env_thread **out); /* cpu -1: not pinned; a cpu that is not there: not pinned */
    void (*thread_join)(struct env *e, struct env_thread *t); /* releases t */
    void (*thread_near)(struct env *e, struct env_thread *t); /* NULL: does nothing */
    void (*thread_prompt)(struct env *e);                     /* NULL: does nothing */
};

/* The real system; one object for the process, never released. */
struct env *env_posix(void);

/* Files in memory, for tests: nothing survives env_mem_free. Clock and threads are the real ones. */
struct env *env_mem_new(void);
void env_mem_free(struct env *e);

/* ---- files ---- */
static inline int env_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    return e->ops->open(e, path, flags, out);
}
/* Bytes read; fewer than len only at end of file. */
static inline ssize_t env_pread(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    return f->ops->pread(f, buf, len, off);
}
/* len, if the system has all of it in memory; else -EAGAIN, whatever the reason: env_pread tells. */
static inline ssize_t env_pread_nowait(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    return f->ops->pread_nowait ? f->ops->pread_nowait(f, buf, len, off) : -EAGAIN;
}
/* Several ranges of several files at once; returns when all are done, whatever their results. */
static inline void env_read_many(struct env *e, struct env_read *reads, unsigned n)
{
    if (e->ops->read_many) {
        e->ops->read_many(e, reads, n);
        return;
    }
    for (unsigned i = 0; i < n; i++)
        reads[i].result = env_pread(reads[i].file, reads[i].buf, reads[i].len, reads[i].off);
}
/* 0, or why several reads are done one after the other here: for a message. */
static inline int env_read_many_status(struct env *e)
{
    return e->ops->read_many_status ? e->ops->read_many_status(e) : 0;
}
static inline int env_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    return f->ops->pwritev(f, iov, n, off);
}
static inline int env_pwrite(struct env_file *f, const void *buf, size_t len, uint64_t off)
{
    struct iovec v = {(void *)buf, len};
    return f->ops->pwritev(f, &v, 1, off);
}
static inline int env_sync(struct env_file *f) { return f->ops->sync(f); }
/*
 * Begins to bring these bytes to the medium, so that a later env_sync has less to do: a hint. Nothing is durable by it,
 * and an error shows in env_sync.
 */
static inline void env_write_out(struct env_file *f, uint64_t off, uint64_t len)
{
    if (f->ops->write_out)
        f->ops->write_out(f, off, len);
}
/* These bytes will be read soon: a hint. */
static inline void env_read_ahead(struct env_file *f, uint64_t off, uint64_t len)
{
    if (f->ops->read_ahead)
        f->ops->read_ahead(f, off, len);
}
static inline int env_allocate(struct env_file *f, uint64_t off, uint64_t len)
{
    return f->ops->allocate(f, off, len);
}
static inline int env_truncate(struct env_file *f, uint64_t len) { return f->ops->truncate(f, len); }
static inline int env_size(struct env_file *f, uint64_t *out) { return f->ops->size(f, out); }
/* Releases the file, unmapping it; NULL is allowed. Errors are those of the last sync, seen there. */
static inline void env_close(struct env_file *f)
{
    if (f)
        f->ops->close(f);
}

/*
 * Appending by stores. env_map maps the first len bytes (which must exist) shared and writable;
 * -ENOTSUP where that is impossible. env_map_store copies to the mapping; a page that can't be had
 * (SIGBUS) is -EIO. env_map_populate makes [off, off+len) writable without faults, as a hint.
 */
static inline int env_map(struct env_file *f, uint64_t len) { return f->ops->map(f, len); }
static inline int env_map_store(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    return f->ops->map_store(f, iov, n, off);
}
static inline int env_map_populate(struct env_file *f, uint64_t off, uint64_t len)
{
    return f->ops->map_populate(f, off, len);
}

/* ---- directories ---- */
static inline int env_mkdir(struct env *e, const char *path) { return e->ops->mkdir(e, path); }
static inline int env_list(struct env *e, const char *path, env_list_fn fn, void *arg)
{
    return e->ops->list(e, path, fn, arg);
}
static inline int env_unlink(struct env *e, const char *path) { return e->ops->unlink(e, path); }
static inline int env_rename(struct env *e, const char *from, const char *to)
{
    return e->ops->rename(e, from, to);
}
static inline int env_link(struct env *e, const char *from, const char *to)
{
    return e->ops->link(e, from, to);
}
static inline int env_sync_dir(struct env *e, const char *path) { return e->ops->sync_dir(e, path); }
/*
 * -EBUSY: held by another. -EPERM: exclusive, in a directory in which others than its owner may make files,
 * or that is not ours. While it is held the directory stays the same, whatever its path leads to.
 */
static inline int env_lock(struct env *e, const char *path, bool exclusive, struct env_lock **out)
{
    return e->ops->lock(e, path, exclusive, out);
}
static inline void env_unlock(struct env *e, struct env_lock *lock)
{
    if (lock)
        e->ops->unlock(e, lock);
}
static inline int env_space(struct env *e, const char *path, uint64_t *free_bytes, uint64_t *total_bytes)
{
    return e->ops->space(e, path, free_bytes, total_bytes);
}

/* ---- clock, randomness, threads ---- */
static inline uint64_t env_mono_ns(struct env *e) { return e->ops->mono_ns(e); }
static inline uint64_t env_wall_ns(struct env *e) { return e->ops->wall_ns(e); }
static inline int env_random(struct env *e, void *buf, size_t len) { return e->ops->random(e, buf, len); }
static inline int env_thread_start(struct env *e, const char *name, int cpu, void (*fn)(void *), void *arg,
                                   struct env_thread **out)
{
    return e->ops->thread_start(e, name, cpu, fn, arg, out);
}
static inline void env_thread_join(struct env *e, struct env_thread *t) { e->ops->thread_join(e, t); }
/*
 * The thread t, which sleeps and is about to be woken by the caller, goes on where the caller runs: a hint. Waking another
 * CPU that is idle takes longer than most of what there is to do.
 */
static inline void env_thread_near(struct env *e, struct env_thread *t)
{
    if (e->ops->thread_near)
        e->ops->thread_near(e, t);
}
/* The calling thread mostly waits, and others wait for it: it is to run soon once it can, for a short time. A hint. */
static inline void env_thread_prompt(struct env *e)
{
    if (e->ops->thread_prompt)
        e->ops->thread_prompt(e);
}

#endif
