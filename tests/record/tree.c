/* tree.c - trees as lines; see tree.h. */
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define READ_BYTES (256u << 10)

static char type_letter(mode_t type)
{
    return S_ISDIR(type) ? 'd' : S_ISLNK(type) ? 'l' : S_ISREG(type) ? '-' : '?';
}

void tree_add(struct tree *t, const char *path, mode_t type, uint64_t links, uint64_t size, uint64_t contents)
{
    char *line = NULL;
    bool dir = S_ISDIR(type);

    if (asprintf(&line, "%s %c links %" PRIu64 " size %" PRIu64 " %016" PRIx64, path, type_letter(type),
                 dir ? 0 : links, dir ? 0 : size, dir ? 0 : contents) < 0)
        abort();
    if (t->count == t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 64;
        t->lines = realloc(t->lines, t->capacity * sizeof(*t->lines));
        if (!t->lines)
            abort();
    }
    t->lines[t->count++] = line;
    t->digest += XXH3_64bits(line, strlen(line));
}

bool tree_has(const struct tree *t, const char *line)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->lines[i], line) == 0)
            return true;
    return false;
}

void tree_free(struct tree *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->lines[i]);
    free(t->lines);
    *t = (struct tree){0};
}

/* ---- of a directory ---- */

static int hash_file(int at, const char *name, uint64_t *out)
{
    int fd = openat(at, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), rc = 0;
    XXH3_state_t *state = XXH3_createState();
    uint8_t *buf = malloc(READ_BYTES);
    ssize_t n = -1;

    if (fd < 0 || !state || !buf) {
        rc = fd < 0 ? -errno : -ENOMEM;
        goto out;
    }
    XXH3_64bits_reset(state);
    while ((n = read(fd, buf, READ_BYTES)) > 0)
        XXH3_64bits_update(state, buf, (size_t)n);
    rc = n < 0 ? -errno : 0;
    *out = XXH3_64bits_digest(state);
out:
    if (fd >= 0)
        close(fd);
    XXH3_freeState(state);
    free(buf);
    return rc;
}

static int add_directory(struct tree *t, int fd, const char *path);

static int add_entry(struct tree *t, int at, const char *name, const char *path)
{
    char target[4096];
    uint64_t hash = 0;
    struct stat st;
    int rc = 0;

    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW))
        return -errno;
    if (S_ISREG(st.st_mode)) {
        rc = hash_file(at, name, &hash);
    } else if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlinkat(at, name, target, sizeof(target));
        rc = n < 0 ? -errno : 0;
        hash = n < 0 ? 0 : XXH3_64bits(target, (size_t)n);
    }
    if (rc)
        return rc;
    tree_add(t, path, st.st_mode, st.st_nlink, (uint64_t)st.st_size, hash);
    if (!S_ISDIR(st.st_mode))
        return 0;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : add_directory(t, fd, path);
}

/* Takes over the descriptor. */
static int add_directory(struct tree *t, int fd, const char *path)
{
    DIR *d = fdopendir(fd);
    struct dirent *e;
    int rc = 0;

    if (!d) {
        rc = -errno;
        close(fd);
        return rc;
    }
    while (!rc && (errno = 0, e = readdir(d))) {
        char below[4096];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof(below), "%s%s%s", path, *path ? "/" : "", e->d_name);
        rc = add_entry(t, dirfd(d), e->d_name, below);
    }
    rc = rc ? rc : -errno;
    closedir(d);
    return rc;
}

int tree_of_directory(const char *path, struct tree *out)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    *out = (struct tree){0};
    return fd < 0 ? -errno : add_directory(out, fd, "");
}
