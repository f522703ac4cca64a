/*
 * store.c - opening a store that is not mounted, for the time of one command.
 */
#include "shale.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A command needs little: it looks at a few objects, or streams. */
#define TOOL_MEMORY_BYTES (64u << 20)

const char *store_error(int error)
{
    switch (error) {
    case -EUCLEAN: return "the store is damaged below what had been synced";
    case -ENOTSUP: return "the store was written by a newer release (or the operation is not supported)";
    case -EIO: return "damaged, or the medium failed (Input/output error)";
    case -EROFS: return "the store is read-only";
    default: return strerror(-error);
    }
}

static void print_log(void *arg, enum lsm_log_level level, const char *message)
{
    const struct command *cmd = arg;
    if (level == LSM_LOG_ERROR)
        cli_note(cmd, "%s", message);
    else if (level == LSM_LOG_WARNING)
        cli_note(cmd, "warning: %s", message);
}

bool store_exists(const char *path)
{
    char lock[PATH_MAX];
    struct stat st;
    int n = snprintf(lock, sizeof(lock), "%s/LOCK", path);
    return n > 0 && (size_t)n < sizeof(lock) && stat(lock, &st) == 0 && S_ISREG(st.st_mode);
}

int store_fail_busy(const struct command *cmd, const char *path)
{
    struct mount m = {0};
    if (mount_find_store(path, &m) == 0)
        cli_fail(cmd, "%s: the store is mounted at %s: use the files there, or 'shale umount' it first", path,
                 m.point);
    else
        cli_fail(cmd, "%s: the store is in use by another process: if it is mounted, use the mount", path);
    mount_release(&m);
    return SHALE_FAILED;
}

int store_open(const struct command *cmd, const char *path, unsigned flags, struct fs **out)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return cli_fail(cmd, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode) || !store_exists(path))
        return cli_fail(cmd, "%s: not a ShaleFS store", path);

    struct fs_options options = {0};
    options.lsm.flags = flags | LSM_INLINE;
    options.lsm.memory_bytes = TOOL_MEMORY_BYTES;
    options.lsm.log = print_log;
    options.lsm.log_arg = (void *)(uintptr_t)cmd;
    options.noatime = true; /* looking at a store from outside is no access */
    int r = fs_open(path, &options, out);
    if (r == -EBUSY)
        return store_fail_busy(cmd, path);
    if (r < 0)
        return cli_fail(cmd, "%s: cannot open the store: %s", path, store_error(r));
    return SHALE_OK;
}

int store_close(const struct command *cmd, const char *path, struct fs *fs, int status)
{
    int r = 0;
    while ((r = fs_work(fs)) == 1)
        continue;
    int closed = fs_close(fs);
    if (r == 0)
        r = closed;
    if (r < 0 && status == SHALE_OK)
        return cli_fail(cmd, "%s: closing the store: %s", path, store_error(r));
    return status;
}

/* "/" + path, without trailing slashes, except for the root itself. -ENAMETOOLONG. */
static int normalise(const char *path, size_t len, char out[PATH_MAX])
{
    while (len > 0 && path[len - 1] == '/')
        len--;
    int n = snprintf(out, PATH_MAX, "/%.*s", (int)len, path);
    return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

int store_walk(struct fs *fs, const char *path, struct fs_attr *out)
{
    char full[PATH_MAX];
    if (!path[0])
        return -ENOENT;
    int r = normalise(path, strlen(path), full);
    if (r < 0)
        return r;
    return fs_walk(fs, full, out);
}

int store_split(struct fs *fs, const char *path, struct fs_attr *dir, const char **name, size_t *len)
{
    char full[PATH_MAX];
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    *name = path + start;
    *len = end - start;
    if (*len == 0 || (*len == 1 && path[start] == '.') || (*len == 2 && memcmp(*name, "..", 2) == 0))
        return -EINVAL;
    if (*len > FS_NAME_MAX)
        return -ENAMETOOLONG;
    int r = normalise(path, start, full);
    if (r < 0)
        return r;
    r = fs_walk(fs, full, dir);
    if (r < 0)
        return r;
    if (!S_ISDIR(dir->mode)) {
        fs_forget(fs, dir->id, 1);
        return -ENOTDIR;
    }
    return 0;
}
