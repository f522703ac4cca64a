/* nodes.c - see nodes.h. */
#include "nodes.h"

#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define BUCKETS 4096u

static struct node *by_id[NODES_MAX];
static struct node *by_ino[BUCKETS];
static uint64_t next_id = TRACE_ROOT;
static dev_t device;

static struct node **bucket(ino_t ino) { return &by_ino[(ino * UINT64_C(0x9e3779b97f4a7c15)) >> 52]; }

struct node *node_of(uint64_t id)
{
    return id < NODES_MAX ? __atomic_load_n(&by_id[id], __ATOMIC_ACQUIRE) : NULL;
}

int node_add(int fd, const struct stat *st, struct node **out)
{
    struct node *n = next_id < NODES_MAX ? calloc(1, sizeof(*n)) : NULL;

    if (!n) {
        close(fd);
        return -ENOMEM;
    }
    *n = (struct node){.id = next_id++, .ino = st->st_ino, .fd = fd, .type = st->st_mode & S_IFMT};
    if (next_id == NODE_CONTROL)
        next_id++;
    n->next = *bucket(n->ino);
    *bucket(n->ino) = n;
    __atomic_store_n(&by_id[n->id], n, __ATOMIC_RELEASE);
    *out = n;
    return 0;
}

static int open_for(struct node *dir, const char *name, mode_t mode)
{
    int flags = O_CLOEXEC | O_NOFOLLOW, fd;

    if (S_ISDIR(mode))
        return openat(dir->fd, name, flags | O_RDONLY | O_DIRECTORY);
    if (!S_ISREG(mode))
        return openat(dir->fd, name, flags | O_PATH);
    fd = openat(dir->fd, name, flags | O_RDWR);
    return fd < 0 && errno == EACCES ? openat(dir->fd, name, flags | O_RDONLY) : fd;
}

int node_find(struct node *dir, const char *name, struct node **out, int *made)
{
    struct stat st;

    if (made)
        *made = 0;
    if (fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW))
        return -errno;
    if (st.st_dev != device)
        return -EXDEV;
    for (struct node *n = *bucket(st.st_ino); n; n = n->next) {
        if (n->ino == st.st_ino) {
            *out = n;
            return 0;
        }
    }
    int fd = open_for(dir, name, st.st_mode);
    if (fd < 0)
        return -errno;
    if (made)
        *made = 1;
    return node_add(fd, &st, out);
}

static void drop(struct node *n)
{
    by_id[n->id] = NULL;
    close(n->fd);
    free(n);
}

void node_unlinked(struct node *n)
{
    struct stat st;

    if (fstat(n->fd, &st) == 0 && st.st_nlink > 0)
        return;
    /* its inode number may be given to another file from now on */
    struct node **p = bucket(n->ino);
    while (*p && *p != n)
        p = &(*p)->next;
    if (*p)
        *p = n->next;
    n->ino = 0;
    if (n->uses == 0)
        drop(n);
}

void node_forget(struct node *n, uint64_t count)
{
    n->uses -= count < n->uses ? count : n->uses;
    if (n->uses == 0 && n->ino == 0)
        drop(n);
}

int nodes_open(const char *path)
{
    struct node *root;
    struct stat st;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st))
        return -errno;
    device = st.st_dev;
    return node_add(fd, &st, &root);
}
