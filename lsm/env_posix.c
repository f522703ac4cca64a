/*
 * env_posix.c - the real system: Linux files, clock, randomness and threads.
 *
 * Appending by stores (map, map_store) works on a shared mapping. A store to a page that the kernel
 * can't provide (medium error, a hole on a full disk, a file cut short) raises SIGBUS, so one
 * handler for the process is installed at the first mapping. It acts only while the thread's guard
 * is armed, that is inside guarded_copy; any other SIGBUS goes to the handler that was there
 * before, or ends the process as it would have without us.
 *
 * Mappings are offered only on filesystems that are known to overwrite in place (fs_mappable): a
 * copy-on-write one would need new space for the first store to a page after each sync.
 *
 * Threads: as env.h says.
 */
#include "env.h"

#include "env_posix_dir.h"
#include "env_posix_thread.h"
#include "env_posix_uring.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* ThreadSanitizer runs handlers with every signal blocked, so there the jump must restore the mask. */
#if defined(__has_feature)
#define TSAN __has_feature(thread_sanitizer)
#elif defined(__SANITIZE_THREAD__)
#define TSAN 1
#else
#define TSAN 0
#endif

#define IOV_CHUNK 128 /* vectors per system call; the kernel's limit is 1024, a write of blobs has 96 */

struct posix_file {
    struct env_file base;
    int fd;
    uint8_t *map;
    uint64_t map_len;
};

struct env_lock {
    int fd;
    struct pin *pin; /* of the directory that the lock file is in */
};

static struct posix_file *posix_of(struct env_file *f) { return (struct posix_file *)f; }

/* ---- files: reading and writing ---- */

static ssize_t posix_pread(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(posix_of(f)->fd, (char *)buf + done, len - done, (off_t)(off + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static ssize_t posix_pread_nowait(struct env_file *f, void *buf, size_t len, uint64_t off)
{
    struct iovec v = {buf, len};
    ssize_t n = preadv2(posix_of(f)->fd, &v, 1, (off_t)off, RWF_NOWAIT);
    return n >= 0 && (size_t)n == len ? n : -EAGAIN;
}

/* Writes one chunk of vectors, which it consumes. */
static int write_chunk(int fd, struct iovec *v, int n, uint64_t off)
{
    while (n > 0) {
        if (v->iov_len == 0) {
            v++;
            n--;
            continue;
        }
        ssize_t wrote = pwritev(fd, v, n, (off_t)off);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return wrote < 0 ? -errno : -EIO;
        off += (uint64_t)wrote;
        for (size_t left = (size_t)wrote; left > 0;) {
            size_t step = left < v->iov_len ? left : v->iov_len;
            v->iov_base = (char *)v->iov_base + step;
            v->iov_len -= step;
            left -= step;
            if (v->iov_len == 0) {
                v++;
                n--;
            }
        }
    }
    return 0;
}

static int posix_pwritev(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    struct iovec chunk[IOV_CHUNK];

    while (n > 0) {
        int take = n < IOV_CHUNK ? n : IOV_CHUNK;
        uint64_t bytes = 0;
        for (int i = 0; i < take; i++) {
            chunk[i] = iov[i];
            bytes += iov[i].iov_len;
        }
        int rc = write_chunk(posix_of(f)->fd, chunk, take, off);
        if (rc)
            return rc;
        off += bytes;
        iov += take;
        n -= take;
    }
    return 0;
}

/* Exactly one fdatasync, whatever it says: after a failure the kernel has forgotten the error. */
static int posix_sync(struct env_file *f) { return fdatasync(posix_of(f)->fd) ? -errno : 0; }

/* The kernel keeps an error of the writeback for the next fdatasync of the descriptor; what this call says is no news. */
static void posix_write_out(struct env_file *f, uint64_t off, uint64_t len)
{
    (void)sync_file_range(posix_of(f)->fd, (off_t)off, (off_t)len, SYNC_FILE_RANGE_WRITE);
}

static void posix_read_ahead(struct env_file *f, uint64_t off, uint64_t len)
{
    (void)posix_fadvise(posix_of(f)->fd, (off_t)off, (off_t)len, POSIX_FADV_WILLNEED);
}

static int posix_allocate(struct env_file *f, uint64_t off, uint64_t len)
{
    while (fallocate(posix_of(f)->fd, 0, (off_t)off, (off_t)len)) {
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int posix_truncate(struct env_file *f, uint64_t len)
{
    while (ftruncate(posix_of(f)->fd, (off_t)len)) {
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int posix_size(struct env_file *f, uint64_t *out)
{
    struct stat st;

    if (fstat(posix_of(f)->fd, &st))
        return -errno;
    *out = (uint64_t)st.st_size;
    return 0;
}

static void posix_close(struct env_file *f)
{
    struct posix_file *p = posix_of(f);

    if (p->map)
        munmap(p->map, p->map_len);
    close(p->fd); /* errors of earlier writes were reported by sync; close reports nothing that counts */
    free(p);
}

/* ---- files: appending by stores ---- */

static pthread_once_t sigbus_once = PTHREAD_ONCE_INIT;
static struct sigaction sigbus_old;
static int sigbus_error;
/* initial-exec: reading it in a signal handler must never allocate */
static __thread sigjmp_buf *sigbus_guard __attribute__((tls_model("initial-exec")));

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    if (sigbus_guard)
        siglongjmp(*sigbus_guard, 1);
    if (sigbus_old.sa_flags & SA_SIGINFO) {
        sigbus_old.sa_sigaction(sig, info, context);
    } else if (sigbus_old.sa_handler != SIG_DFL && sigbus_old.sa_handler != SIG_IGN) {
        sigbus_old.sa_handler(sig);
    } else {
        struct sigaction fallback = {.sa_handler = SIG_DFL};
        sigaction(SIGBUS, &fallback, NULL);
        raise(sig);
    }
}

static void sigbus_install(void)
{
    /* NODEFER: the handler is left by a jump that does not restore the mask */
    struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

    sigemptyset(&sa.sa_mask);
    if (sigaction(SIGBUS, &sa, &sigbus_old))
        sigbus_error = -errno;
}

__attribute__((noinline)) static void copy_vectors(uint8_t *to, const struct iovec *iov, int n)
{
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len)
            memcpy(to, iov[i].iov_base, iov[i].iov_len);
        to += iov[i].iov_len;
    }
}

/* Apart from the callers, so that no local variable lives across the jump. */
__attribute__((noinline)) static int guarded_copy(uint8_t *to, const struct iovec *iov, int n)
{
    sigjmp_buf back;

    if (sigsetjmp(back, TSAN)) { /* saving the mask would cost a system call */
        sigbus_guard = NULL;
        return -EIO;
    }
    sigbus_guard = &back;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    copy_vectors(to, iov, n);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    sigbus_guard = NULL;
    return 0;
}

/* Overwrites in place, and keeps a shared mapping and pwrite coherent. */
static bool fs_mappable(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs))
        return false;
    switch ((uint32_t)fs.f_type) {
    case EXT4_SUPER_MAGIC: /* and ext2, ext3 */
    case XFS_SUPER_MAGIC:
    case TMPFS_MAGIC: return true;
    default: return false;
    }
}

static int posix_map(struct env_file *f, uint64_t len)
{
    struct posix_file *p = posix_of(f);

    if (p->map)
        return p->map_len >= len ? 0 : -EINVAL;
    if (!fs_mappable(p->fd))
        return -ENOTSUP;
    pthread_once(&sigbus_once, sigbus_install);
    if (sigbus_error)
        return sigbus_error;
    void *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
    if (map == MAP_FAILED)
        return errno == ENODEV || errno == EACCES ? -ENOTSUP : -errno;
    p->map = map;
    p->map_len = len;
    return 0;
}

static int posix_map_store(struct env_file *f, const struct iovec *iov, int n, uint64_t off)
{
    struct posix_file *p = posix_of(f);
    uint64_t bytes = 0;

    for (int i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    assert(p->map && off <= p->map_len && bytes <= p->map_len - off);
    return guarded_copy(p->map + off, iov, n);
}

static int posix_map_populate(struct env_file *f, uint64_t off, uint64_t len)
{
    struct posix_file *p = posix_of(f);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

    if (!p->map)
        return -EINVAL;
    if (off >= p->map_len)
        return 0;
    if (len > p->map_len - off)
        len = p->map_len - off;
    uint64_t from = off & ~(page - 1);
    return madvise(p->map + from, off + len - from, MADV_POPULATE_WRITE) ? -errno : 0;
}

/*
 * btrfs writes elsewhere what is written over, for which a full disk has no place; files with this attribute it writes
 * in place, without checksums of its own. It counts for files that are still empty. Where it can't be had, nothing is lost
 * but the room.
 */
static void ask_in_place(int fd)
{
    struct statfs fs;
    int flags = 0;

    if (fstatfs(fd, &fs) || (uint32_t)fs.f_type != BTRFS_SUPER_MAGIC || ioctl(fd, FS_IOC_GETFLAGS, &flags))
        return;
    flags |= FS_NOCOW_FL;
    (void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

static const struct env_file_ops posix_file_ops;

/* What the kernel left undone: the rest of a short read, or all of one that it would not take. */
static void finish_read(struct env_read *r, ssize_t done)
{
    size_t have = done > 0 ? (size_t)done : 0;

    if (done >= 0 && have == r->len) {
        r->result = done;
        return;
    }
    ssize_t rest = posix_pread(r->file, (char *)r->buf + have, r->len - have, r->off + have);
    r->result = rest < 0 ? rest : (ssize_t)have + rest;
}

/* Of files that are ours, at most URING_READS_MAX. */
static void read_batch(struct env_read *reads, unsigned n)
{
    struct uring_read u[URING_READS_MAX];

    for (unsigned i = 0; i < n; i++)
        u[i] = (struct uring_read){posix_of(reads[i].file)->fd, reads[i].buf, reads[i].len, reads[i].off, 0};
    bool done = n > 1 && uring_read_all(u, n) == 0;
    for (unsigned i = 0; i < n; i++)
        finish_read(&reads[i], done ? u[i].result : 0);
}

static void posix_read_many(struct env *e, struct env_read *reads, unsigned n)
{
    (void)e;
    while (n > 0) {
        unsigned take = 0, max = n < URING_READS_MAX ? n : URING_READS_MAX;
        while (take < max && reads[take].file->ops == &posix_file_ops)
            take++;
        if (take > 0) {
            read_batch(reads, take);
        } else { /* a file of an env around this one */
            take = 1;
            reads->result = env_pread(reads->file, reads->buf, reads->len, reads->off);
        }
        reads += take;
        n -= take;
    }
}

static int posix_read_many_status(struct env *e)
{
    (void)e;
    return uring_status();
}

static const struct env_file_ops posix_file_ops = {
    .pread = posix_pread,
    .pread_nowait = posix_pread_nowait,
    .pwritev = posix_pwritev,
    .sync = posix_sync,
    .write_out = posix_write_out,
    .read_ahead = posix_read_ahead,
    .allocate = posix_allocate,
    .truncate = posix_truncate,
    .size = posix_size,
    .map = posix_map,
    .map_store = posix_map_store,
    .map_populate = posix_map_populate,
    .close = posix_close,
};

/* ---- directories ---- */

static int posix_open(struct env *e, const char *path, unsigned flags, struct env_file **out)
{
    int how = O_RDONLY;

    (void)e;
    if (flags & ENV_WRITE)
        how |= flags & ENV_READ ? O_RDWR : O_WRONLY;
    how |= flags & ENV_CREATE ? O_CREAT : 0;
    how |= flags & ENV_EXCL ? O_EXCL : 0;
    how |= flags & ENV_TRUNC ? O_TRUNC : 0;
    struct posix_file *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->fd = place_open(path, how, 0600);
    if (p->fd < 0) {
        int rc = p->fd;
        free(p);
        return rc;
    }
    if (flags & ENV_IN_PLACE)
        ask_in_place(p->fd);
    p->base.ops = &posix_file_ops;
    *out = &p->base;
    return 0;
}

static int posix_mkdir(struct env *e, const char *path)
{
    (void)e;
    struct place at = place_of_file(path);
    int rc = mkdirat(at.fd, at.name, 0700) ? -errno : 0;
    place_release(&at);
    return rc;
}

/* A descriptor of its own, or a negative errno. */
static int open_directory(const char *path)
{
    struct place at = place_of_directory(path);
    int fd = openat(at.fd, at.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : fd;

    place_release(&at);
    return rc;
}

static int posix_list(struct env *e, const char *path, env_list_fn fn, void *arg)
{
    int rc = 0, fd = open_directory(path);

    (void)e;
    if (fd < 0)
        return fd;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        rc = -errno;
        close(fd);
        return rc;
    }
    while (!rc) {
        errno = 0;
        struct dirent *d = readdir(dir);
        if (!d) {
            rc = -errno;
            break;
        }
        if (strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
            rc = fn(arg, d->d_name);
    }
    closedir(dir);
    return rc;
}

static int posix_unlink(struct env *e, const char *path)
{
    (void)e;
    struct place at = place_of_file(path);
    int rc = unlinkat(at.fd, at.name, 0) ? -errno : 0;
    place_release(&at);
    return rc;
}

static int posix_rename(struct env *e, const char *from, const char *to)
{
    (void)e;
    struct place a = place_of_file(from), b = place_of_file(to);
    int rc = renameat(a.fd, a.name, b.fd, b.name) ? -errno : 0;
    place_release(&a);
    place_release(&b);
    return rc;
}

static int posix_link(struct env *e, const char *from, const char *to)
{
    (void)e;
    struct place a = place_of_file(from), b = place_of_file(to);
    int rc = linkat(a.fd, a.name, b.fd, b.name, 0) ? -errno : 0;
    place_release(&a);
    place_release(&b);
    return rc;
}

static int posix_sync_dir(struct env *e, const char *path)
{
    int rc = 0;
    int fd = open_directory(path);

    (void)e;
    if (fd < 0)
        return fd;
    if (fsync(fd))
        rc = -errno;
    close(fd);
    return rc;
}

/*
 * flock, not fcntl: it belongs to the open file, so that another open in the same process conflicts
 * as well. A shared lock needs no write access, except to create a file that is not there.
 */
static int posix_lock(struct env *e, const char *path, bool exclusive, struct env_lock **out)
{
    int fd = -1;

    (void)e;
    struct env_lock *lock = calloc(1, sizeof(*lock));
    if (!lock)
        return -ENOMEM;
    int rc = pin_directory(path, exclusive, &lock->pin);
    if (!rc && !exclusive)
        rc = fd = place_open(path, O_RDONLY, 0);
    if ((!rc && exclusive) || (rc == -ENOENT && lock->pin))
        rc = fd = place_open(path, O_RDWR | O_CREAT, 0600);
    rc = rc < 0 ? rc : 0;
    while (!rc && flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB)) {
        if (errno != EINTR)
            rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
    }
    if (rc) {
        if (fd >= 0)
            close(fd);
        pin_release(lock->pin);
        free(lock);
        return rc;
    }
    lock->fd = fd;
    *out = lock;
    return 0;
}

static void posix_unlock(struct env *e, struct env_lock *lock)
{
    (void)e;
    close(lock->fd);
    pin_release(lock->pin);
    free(lock);
}

static int posix_space(struct env *e, const char *path, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct statvfs v;

    (void)e;
    struct place at = place_of_directory(path);
    int rc = (at.pin ? fstatvfs(at.fd, &v) : statvfs(path, &v)) ? -errno : 0;
    place_release(&at);
    if (rc)
        return rc;
    *free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
    *total_bytes = (uint64_t)v.f_blocks * v.f_frsize;
    return 0;
}

/* ---- clock, randomness ---- */

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static uint64_t posix_mono_ns(struct env *e)
{
    (void)e;
    return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t posix_wall_ns(struct env *e)
{
    (void)e;
    return clock_ns(CLOCK_REALTIME);
}

static int posix_random(struct env *e, void *buf, size_t len)
{
    size_t done = 0;

    (void)e;
    while (done < len) {
        ssize_t n = getrandom((char *)buf + done, len - done, 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static const struct env_ops posix_ops = {
    .open = posix_open,
    .mkdir = posix_mkdir,
    .list = posix_list,
    .unlink = posix_unlink,
    .rename = posix_rename,
    .link = posix_link,
    .sync_dir = posix_sync_dir,
    .lock = posix_lock,
    .unlock = posix_unlock,
    .space = posix_space,
    .read_many = posix_read_many,
    .read_many_status = posix_read_many_status,
    .mono_ns = posix_mono_ns,
    .wall_ns = posix_wall_ns,
    .random = posix_random,
    .thread_start = posix_thread_start,
    .thread_join = posix_thread_join,
    .thread_near = posix_thread_near,
    .thread_prompt = posix_thread_prompt,
};

struct env *env_posix(void)
{
    static struct env posix = {&posix_ops};

    return &posix;
}
