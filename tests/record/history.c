/* history.c - random histories of a tree of files; see tree.h. */
#include "facts.h"
#include "tree.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xxhash.h>

#define ENTRIES_MAX 48u /* names at once */
#define DEPTH_MAX 3u
#define KERNEL_PAGE 4096u
#define SIZE_MAX_BYTES (300u << 10)

struct inode {
    mode_t type;
    unsigned links, depth;
    uint8_t *data; /* a symbolic link's: where it leads */
    size_t size;
    uint64_t hash;
};

struct entry {
    struct inode *dir, *inode;
    char name[16];
};

struct history {
    uint64_t seed, step, random, digest, half;
    struct inode root;
    struct entry entries[ENTRIES_MAX];
    unsigned count;
};

static uint64_t below(struct history *h, uint64_t n) { return mix(h->seed, h->step, ++h->random) % n; }

struct history *history_new(uint64_t seed)
{
    struct history *h = calloc(1, sizeof(*h));

    if (!h)
        abort();
    h->seed = seed;
    h->root.type = S_IFDIR;
    return h;
}

static void unlinked(struct inode *i)
{
    if (--i->links > 0)
        return;
    free(i->data);
    free(i);
}

void history_free(struct history *h)
{
    while (h->count > 0)
        unlinked(h->entries[--h->count].inode);
    free(h);
}

/* ---- the tree ---- */

static void path_of(const struct history *h, const struct inode *dir, const char *name,
                    char out[STEP_PATH_MAX])
{
    char parent[STEP_PATH_MAX] = "", whole[2 * STEP_PATH_MAX];

    for (unsigned i = 0; i < h->count && dir != &h->root; i++)
        if (h->entries[i].inode == dir)
            path_of(h, h->entries[i].dir, h->entries[i].name, parent);
    snprintf(whole, sizeof(whole), "%s%s%s", parent, *parent ? "/" : "", name);
    assert(strlen(whole) < STEP_PATH_MAX);
    strcpy(out, whole);
}

static void entry_path(const struct history *h, const struct entry *e, char out[STEP_PATH_MAX])
{
    path_of(h, e->dir, e->name, out);
}

void history_tree(const struct history *h, struct tree *out)
{
    char path[STEP_PATH_MAX];

    *out = (struct tree){0};
    for (unsigned i = 0; i < h->count; i++) {
        const struct entry *e = &h->entries[i];
        entry_path(h, e, path);
        tree_add(out, path, e->inode->type, e->inode->links, e->inode->size, e->inode->hash);
    }
}

uint64_t history_digest(const struct history *h) { return h->digest; }
uint64_t history_half(const struct history *h) { return h->half; }

static uint64_t digest_now(const struct history *h)
{
    struct tree t;

    history_tree(h, &t);
    uint64_t digest = t.digest;
    tree_free(&t);
    return digest;
}

static void contents_changed(struct inode *i) { i->hash = XXH3_64bits(i->data, i->size); }

static void resize(struct inode *i, size_t size)
{
    if (size > i->size) {
        i->data = realloc(i->data, size);
        if (!i->data)
            abort();
        memset(i->data + i->size, 0, size - i->size);
    }
    i->size = size;
}

static struct entry *add_entry(struct history *h, struct inode *dir, const char *name, struct inode *i)
{
    struct entry *e = &h->entries[h->count++];

    assert(h->count <= ENTRIES_MAX);
    *e = (struct entry){.dir = dir, .inode = i};
    strcpy(e->name, name);
    i->links++;
    return e;
}

static struct inode *new_inode(mode_t type, unsigned depth)
{
    struct inode *i = calloc(1, sizeof(*i));

    if (!i)
        abort();
    i->type = type;
    i->depth = depth;
    contents_changed(i);
    return i;
}

static void remove_entry(struct history *h, struct entry *e)
{
    unlinked(e->inode);
    *e = h->entries[--h->count];
}

/* ---- choosing ---- */

static struct entry *any_of(struct history *h, mode_t type)
{
    unsigned n = 0, k;

    for (unsigned i = 0; i < h->count; i++)
        n += h->entries[i].inode->type == type;
    if (n == 0)
        return NULL;
    k = (unsigned)below(h, n);
    for (unsigned i = 0;; i++)
        if (h->entries[i].inode->type == type && k-- == 0)
            return &h->entries[i];
}

static bool is_empty(const struct history *h, const struct inode *dir)
{
    for (unsigned i = 0; i < h->count; i++)
        if (h->entries[i].dir == dir)
            return false;
    return true;
}

/* A directory that may hold directories, with a name that is free there. */
static struct inode *free_name(struct history *h, char name[16])
{
    struct entry *e = below(h, 3) ? any_of(h, S_IFDIR) : NULL;

    /* names come back: what one leads to must never be taken for what it led to before */
    for (;;) {
        struct inode *dir = e ? e->inode : &h->root;
        bool taken = false;
        snprintf(name, 16, "n%u", (unsigned)below(h, ENTRIES_MAX + 1)); /* one is free */
        for (unsigned i = 0; i < h->count; i++)
            taken |= h->entries[i].dir == dir && strcmp(h->entries[i].name, name) == 0;
        if (!taken)
            return dir;
    }
}

static void fill(struct step *s, uint64_t seed)
{
    /* a pattern that says where it belongs, and of which step it is */
    for (size_t i = 0; i < s->len; i++)
        s->data[i] = (uint8_t)(mix(seed, s->number, (s->offset + i) / 8) >> (8 * ((s->offset + i) % 8)));
}

static bool choose_new(struct history *h, struct step *s, enum step_type type)
{
    char name[16];

    if (h->count == ENTRIES_MAX)
        return false;
    struct inode *dir = free_name(h, name);
    if (type == STEP_MKDIR && dir->depth >= DEPTH_MAX)
        return false;
    path_of(h, dir, name, s->path);
    if (type == STEP_LINK) {
        struct entry *from = any_of(h, S_IFREG);
        if (!from)
            return false;
        strcpy(s->to, s->path);
        entry_path(h, from, s->path);
        add_entry(h, dir, name, from->inode);
        return true;
    }
    struct inode *i = new_inode(type == STEP_MKDIR     ? S_IFDIR
                                : type == STEP_SYMLINK ? S_IFLNK
                                                       : S_IFREG,
                                dir->depth + 1);
    if (type == STEP_SYMLINK) {
        snprintf(s->to, sizeof(s->to), "target-%u", (unsigned)s->number);
        resize(i, strlen(s->to));
        memcpy(i->data, s->to, i->size);
        contents_changed(i);
    }
    add_entry(h, dir, name, i);
    return true;
}

static void put_bytes(struct inode *i, uint64_t offset, const uint8_t *data, size_t len)
{
    if (offset + len > i->size)
        resize(i, (size_t)offset + len);
    memcpy(i->data + offset, data, len);
    contents_changed(i);
}

static bool choose_contents(struct history *h, struct step *s, enum step_type type)
{
    struct entry *e = any_of(h, S_IFREG);

    if (!e)
        return false;
    struct inode *i = e->inode;
    entry_path(h, e, s->path);
    s->offset = below(h, 3) ? i->size : below(h, i->size + 1);
    s->len = 1 + (size_t)below(h, below(h, 3) ? 3000 : STEP_BYTES_MAX);
    if (type == STEP_WRITE && s->offset + s->len > SIZE_MAX_BYTES)
        type = s->type = STEP_TRUNCATE;
    if (type == STEP_WRITE) {
        fill(s, h->seed);
        size_t first = KERNEL_PAGE - s->offset % KERNEL_PAGE;
        if (s->offset % KERNEL_PAGE && first < s->len) {
            put_bytes(i, s->offset, s->data, first);
            h->half = digest_now(h);
        }
        put_bytes(i, s->offset, s->data, s->len);
    } else if (type == STEP_TRUNCATE) {
        s->offset = below(h, 2) ? below(h, i->size + 1) : below(h, i->size + 5000);
        resize(i, (size_t)s->offset);
    } else {
        s->offset = below(h, i->size + 1);
        size_t end = (size_t)s->offset + s->len < i->size ? (size_t)s->offset + s->len : i->size;
        if (end > s->offset)
            memset(i->data + s->offset, 0, end - s->offset);
    }
    contents_changed(i);
    return true;
}

static bool choose_removal(struct history *h, struct step *s, enum step_type type)
{
    struct entry *e = any_of(h, type == STEP_RMDIR ? S_IFDIR : below(h, 8) ? S_IFREG : S_IFLNK);

    if (!e || (type == STEP_RMDIR && !is_empty(h, e->inode)))
        return false;
    entry_path(h, e, s->path);
    remove_entry(h, e);
    return true;
}

static bool lies_below(const struct history *h, const struct inode *dir, const struct inode *top)
{
    while (dir != top && dir != &h->root) {
        for (unsigned i = 0; i < h->count; i++) {
            if (h->entries[i].inode == dir) {
                dir = h->entries[i].dir;
                break;
            }
        }
    }
    return dir == top;
}

/* To a new name, mostly over an existing one; of files and, within one directory, of directories. */
static bool choose_rename(struct history *h, struct step *s, enum step_type type)
{
    struct entry *from = any_of(h, below(h, 4) ? S_IFREG : S_IFDIR), *over;
    char name[16];

    if (!from)
        return false;
    over = below(h, 3) || type == STEP_EXCHANGE ? any_of(h, from->inode->type) : NULL;
    if (over && (over == from || over->inode == from->inode))
        return false;
    if (over && S_ISDIR(from->inode->type) &&
        (over->dir != from->dir || (type == STEP_RENAME && !is_empty(h, over->inode))))
        return false;
    if (type == STEP_EXCHANGE && !over)
        return false;
    entry_path(h, from, s->path);
    if (!over) {
        struct inode *dir = free_name(h, name);
        if (S_ISDIR(from->inode->type) && (dir != from->dir || lies_below(h, dir, from->inode)))
            return false;
        path_of(h, dir, name, s->to);
        from->dir = dir;
        strcpy(from->name, name);
        return true;
    }
    entry_path(h, over, s->to);
    struct inode *moved = from->inode, *replaced = over->inode;
    over->inode = moved;
    from->inode = replaced;
    if (type == STEP_RENAME)
        remove_entry(h, from);
    return true;
}

static bool choose_sync(struct history *h, struct step *s, enum step_type type)
{
    struct entry *e = any_of(h, type == STEP_FSYNC ? S_IFREG : S_IFDIR);

    if (!e && type == STEP_FSYNC)
        return false;
    strcpy(s->path, ".");
    if (e)
        entry_path(h, e, s->path);
    return true;
}

static bool choose(struct history *h, struct step *s, enum step_type type)
{
    switch (type) {
    case STEP_CREATE:
    case STEP_MKDIR:
    case STEP_SYMLINK:
    case STEP_LINK: return choose_new(h, s, type);
    case STEP_WRITE:
    case STEP_TRUNCATE:
    case STEP_PUNCH: return choose_contents(h, s, type);
    case STEP_UNLINK:
    case STEP_RMDIR: return choose_removal(h, s, type);
    case STEP_RENAME:
    case STEP_EXCHANGE: return choose_rename(h, s, type);
    default: return choose_sync(h, s, type);
    }
}

void history_step(struct history *h, struct step *out)
{
    static const unsigned char weights[STEPS] = {
        [STEP_CREATE] = 14,        [STEP_MKDIR] = 4,   [STEP_WRITE] = 32,   [STEP_TRUNCATE] = 4,
        [STEP_PUNCH] = 2,          [STEP_LINK] = 3,    [STEP_SYMLINK] = 2,  [STEP_UNLINK] = 8,
        [STEP_RMDIR] = 3,          [STEP_RENAME] = 12, [STEP_EXCHANGE] = 3, [STEP_FSYNC] = 8,
        [STEP_FSYNC_DIRECTORY] = 3};
    unsigned all = 0;

    for (unsigned k = 0; k < STEPS; k++)
        all += weights[k];
    h->step++;
    h->random = 0;
    do {
        unsigned w = (unsigned)below(h, all), type = 0;
        while (w >= weights[type])
            w -= weights[type++];
        out->type = (enum step_type)type;
        out->number = h->step;
        out->path[0] = out->to[0] = 0;
        out->len = 0;
        out->offset = 0;
        h->half = 0;
    } while (!choose(h, out, out->type));
    h->digest = digest_now(h);
}

/* ---- for real ---- */

static int on_file(int directory, const struct step *s)
{
    int fd = openat(directory, s->path, s->type == STEP_FSYNC ? O_RDONLY | O_CLOEXEC : O_WRONLY | O_CLOEXEC),
        rc = 0;

    if (fd < 0)
        return -errno;
    if (s->type == STEP_WRITE) {
        ssize_t n = pwrite(fd, s->data, s->len, (off_t)s->offset);
        rc = n < 0 ? -errno : n == (ssize_t)s->len ? 0 : -EIO;
    } else if (s->type == STEP_TRUNCATE)
        rc = ftruncate(fd, (off_t)s->offset) ? -errno : 0;
    else if (s->type == STEP_PUNCH)
        rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)s->offset, (off_t)s->len)
                 ? -errno
                 : 0;
    else
        rc = (s->number % 2 ? fsync(fd) : fdatasync(fd)) ? -errno : 0;
    close(fd);
    return rc;
}

static int sync_directory(int directory, const char *path)
{
    int fd = openat(directory, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) ? -errno : 0;

    if (fd >= 0)
        close(fd);
    return rc;
}

int step_make(int directory, const struct step *s)
{
    int fd;

    switch (s->type) {
    case STEP_CREATE:
        fd = openat(directory, s->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        return fd < 0 || close(fd) ? -errno : 0;
    case STEP_MKDIR: return mkdirat(directory, s->path, 0755) ? -errno : 0;
    case STEP_LINK: return linkat(directory, s->path, directory, s->to, 0) ? -errno : 0;
    case STEP_SYMLINK: return symlinkat(s->to, directory, s->path) ? -errno : 0;
    case STEP_UNLINK: return unlinkat(directory, s->path, 0) ? -errno : 0;
    case STEP_RMDIR: return unlinkat(directory, s->path, AT_REMOVEDIR) ? -errno : 0;
    case STEP_RENAME: return renameat(directory, s->path, directory, s->to) ? -errno : 0;
    case STEP_EXCHANGE:
        return syscall(SYS_renameat2, directory, s->path, directory, s->to, RENAME_EXCHANGE) ? -errno : 0;
    case STEP_FSYNC_DIRECTORY: return sync_directory(directory, s->path);
    default: return on_file(directory, s);
    }
}
