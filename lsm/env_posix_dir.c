/* env_posix_dir.c - see env_posix_dir.h. */
#include "env_posix_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct pin {
    struct pin *next;
    unsigned refs; /* under the mutex */
    int fd;
    uid_t owner;
    size_t len;
    char dir[]; /* as it was given: len bytes */
};

static pthread_mutex_t pins_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pin *pins; /* a handful: one for each open store */

/* Length of the directory's part of a file's path, without the slash; 0: there is none, or it is the root. */
static size_t directory_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

static struct pin *find_locked(const char *dir, size_t len)
{
    struct pin *p = pins;
    while (p && (p->len != len || memcmp(p->dir, dir, len) != 0))
        p = p->next;
    if (p)
        p->refs++;
    return p;
}

static struct pin *find(const char *dir, size_t len)
{
    pthread_mutex_lock(&pins_lock);
    struct pin *p = find_locked(dir, len);
    pthread_mutex_unlock(&pins_lock);
    return p;
}

void pin_release(struct pin *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&pins_lock);
    bool last = --p->refs == 0;
    if (last) {
        struct pin **at = &pins;
        while (*at != p)
            at = &(*at)->next;
        *at = p->next;
    }
    pthread_mutex_unlock(&pins_lock);
    if (last) {
        close(p->fd);
        free(p);
    }
}

/* ---- pinning ---- */

static int open_pin(const char *dir, size_t len, struct pin **out)
{
    struct stat st;
    struct pin *p = calloc(1, sizeof(*p) + len + 1);
    if (!p)
        return -ENOMEM;
    memcpy(p->dir, dir, len);
    p->len = len;
    p->refs = 1;
    p->fd = open(len ? p->dir : dir[0] == '/' ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->fd < 0 || fstat(p->fd, &st)) {
        int rc = -errno;
        if (p->fd >= 0)
            close(p->fd);
        free(p);
        return rc;
    }
    p->owner = st.st_uid;
    *out = p;
    return 0;
}

/* Only its owner, and that is us or somebody whom root trusts, may put files into it. */
static int check_owned(const struct pin *p)
{
    struct stat st;

    if (fstat(p->fd, &st))
        return -errno;
    if (st.st_uid != geteuid() && geteuid() != 0)
        return -EPERM;
    return st.st_mode & (S_IWGRP | S_IWOTH) ? -EPERM : 0;
}

int pin_directory(const char *path, bool for_writing, struct pin **out)
{
    const size_t len = directory_part(path);
    struct pin *p, *fresh = NULL;
    int rc = 0;

    pthread_mutex_lock(&pins_lock);
    p = find_locked(path, len);
    if (!p) {
        rc = open_pin(path, len, &fresh);
        if (!rc) {
            fresh->next = pins;
            p = pins = fresh;
        }
    }
    pthread_mutex_unlock(&pins_lock);
    if (!rc && for_writing)
        rc = check_owned(p);
    if (rc) {
        pin_release(p);
        return rc;
    }
    *out = p;
    return 0;
}

/* ---- using ---- */

struct place place_of_file(const char *path)
{
    const size_t len = directory_part(path);
    struct pin *p = find(path, len);

    if (!p)
        return (struct place){AT_FDCWD, path, NULL};
    const char *slash = strrchr(path, '/');
    return (struct place){p->fd, slash ? slash + 1 : path, p};
}

struct place place_of_directory(const char *path)
{
    struct pin *p = find(path, strlen(path));

    return p ? (struct place){p->fd, ".", p} : (struct place){AT_FDCWD, path, NULL};
}

void place_release(struct place *at)
{
    pin_release(at->pin);
    at->pin = NULL;
}

/*
 * In a directory of somebody else, which only root gets so far as to use, a file could be a hard link
 * to one that is not his.
 */
static int check_file(const struct place *at, int fd, int flags)
{
    struct stat st;

    if (fstat(fd, &st))
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EUCLEAN;
    if (!at->pin)
        return 0;
    if (st.st_uid != geteuid() && st.st_uid != at->pin->owner)
        return -EPERM;
    return (flags & O_ACCMODE) != O_RDONLY && at->pin->owner != geteuid() && st.st_nlink > 1 ? -EPERM : 0;
}

int place_open(const char *path, int flags, mode_t mode)
{
    /* NONBLOCK: a pipe in the place of a file must not hold us up; it means nothing for regular files. */
    const int how = (flags & ~O_TRUNC) | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    struct place at = place_of_file(path);
    int fd, rc;

    do
        fd = openat(at.fd, at.name, how, mode);
    while (fd < 0 && errno == EINTR);
    rc = fd < 0 ? -errno : check_file(&at, fd, flags);
    if (!rc && flags & O_TRUNC)
        while ((rc = ftruncate(fd, 0) ? -errno : 0) == -EINTR)
            ;
    place_release(&at);
    if (rc && fd >= 0)
        close(fd);
    return rc ? rc : fd;
}
