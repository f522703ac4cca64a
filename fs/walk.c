/*
 * walk.c - paths to inodes, for tools; the kernel walks for itself.
 */
#include "store.h"
#include <errno.h>
#include <string.h>

/* One component further. The reference on *at is given back, one on the result is taken. */
static int walk_step(struct fs *fs, struct fs_attr *at, const char *name, size_t len)
{
    fs_id dir = at->id;

    if (S_ISLNK(at->mode))
        return -ELOOP;
    if (len == 1 && name[0] == '.')
        return S_ISDIR(at->mode) ? 0 : -ENOTDIR;
    int r = fs_lookup(fs, dir, name, len, at);
    if (r == 0)
        fs_forget(fs, dir, 1);
    return r;
}

int fs_walk(struct fs *fs, const char *path, struct fs_attr *out)
{
    struct fs_attr at = {.id = FS_ID_ROOT};

    if (path[0] != '/')
        return -EINVAL;
    int r = fs_getattr(fs, FS_ID_ROOT, &at);
    while (r == 0) {
        path += strspn(path, "/");
        size_t len = strcspn(path, "/");
        if (len == 0)
            break;
        fs_id dir = at.id;
        r = walk_step(fs, &at, path, len);
        if (r < 0)
            fs_forget(fs, dir, 1);
        path += len;
    }
    /* As with path_resolution(7) a slash at the end asks for a directory. */
    if (r == 0 && path[-1] == '/' && !S_ISDIR(at.mode)) {
        fs_forget(fs, at.id, 1);
        r = -ENOTDIR;
    }
    if (r == 0)
        *out = at;
    return r;
}
