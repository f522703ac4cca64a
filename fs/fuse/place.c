/* place.c - see place.h. Mounts are looked up in /proc/self/mountinfo, proc(5). */
#include "place.h"

#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MOUNTINFO "/proc/self/mountinfo"
#define FUSE_DEVICE "/dev/fuse"
#define FUSE_MAJOR 10u /* Documentation/admin-guide/devices.txt of Linux */
#define FUSE_MINOR 229u
#define TYPE "fuse.shalefs"

/* ---- mountinfo ----------------------------------------------------------------------------- */

/* Undoes \040 and the like, in place. */
static void unescape(char *s)
{
    char *to = s;

    while (*s) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' &&
            s[3] <= '7') {
            *to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 4;
        } else {
            *to++ = *s++;
        }
    }
    *to = '\0';
}

struct line {
    char *id, *device, *root, *mountpoint, *type, *source;
};

struct found {
    char mountpoint[PATH_MAX], source[PATH_MAX];
    dev_t device;
};

/* Splits a line "ID parent MAJOR:MINOR ROOT MOUNTPOINT options ... - TYPE SOURCE options". */
static bool parse_line(char *line, struct line *out)
{
    char *tail = strstr(line, " - "), *save = NULL, *field = NULL;

    if (!tail)
        return false;
    *tail = '\0';
    out->id = field = strtok_r(line, " ", &save);
    for (int i = 0; i < 4 && field; i++) {
        field = strtok_r(NULL, " ", &save);
        if (i == 1)
            out->device = field;
        else if (i == 2)
            out->root = field;
    }
    out->mountpoint = field;
    out->type = strtok_r(tail + 3, " ", &save);
    out->source = strtok_r(NULL, " ", &save);
    if (!out->mountpoint || !out->type || !out->source)
        return false;
    unescape(out->mountpoint);
    unescape(out->source);
    return true;
}

/* Whether `value` is the wanted one; NULL is any. */
static bool suits(const char *wanted, const char *value) { return !wanted || strcmp(wanted, value) == 0; }

/* The last (topmost) shalefs mount with what is wanted. */
static bool find_mount(const struct line *wanted, struct found *out)
{
    FILE *f = fopen(MOUNTINFO, "re");
    struct line l = {0};
    char *text = NULL;
    size_t room = 0;
    bool found = false;

    if (!f)
        return false;
    while (getline(&text, &room, f) > 0) {
        unsigned device_major, device_minor;
        if (!parse_line(text, &l) || sscanf(l.device, "%u:%u", &device_major, &device_minor) != 2 ||
            !suits(wanted->id, l.id) || !suits(wanted->device, l.device) || !suits(wanted->root, l.root) ||
            !suits(wanted->mountpoint, l.mountpoint) || !suits(wanted->source, l.source))
            continue;
        found = strcmp(l.type, TYPE) == 0; /* something else mounted over it hides it */
        if (!found)
            continue;
        snprintf(out->mountpoint, PATH_MAX, "%s", l.mountpoint);
        snprintf(out->source, PATH_MAX, "%s", l.source);
        out->device = makedev(device_major, device_minor);
    }
    free(text);
    fclose(f);
    return found;
}

bool place_can_look(void) { return access(MOUNTINFO, R_OK) == 0; }

bool place_of_store(const char *store, char mountpoint[PATH_MAX])
{
    const struct line wanted = {.source = (char *)store};
    struct found found;

    if (!find_mount(&wanted, &found))
        return false;
    snprintf(mountpoint, PATH_MAX, "%s", found.mountpoint);
    return true;
}

bool place_of_device(dev_t device, char mountpoint[PATH_MAX])
{
    char number[40];
    const struct line wanted = {.device = number, .root = "/"};
    struct found found;

    snprintf(number, sizeof(number), "%u:%u", major(device), minor(device));
    if (!find_mount(&wanted, &found))
        return false;
    snprintf(mountpoint, PATH_MAX, "%s", found.mountpoint);
    return true;
}

bool place_device(const char *store, const char *mountpoint, dev_t *device)
{
    const struct line wanted = {.mountpoint = (char *)mountpoint, .source = (char *)store};
    struct found found;

    if (!find_mount(&wanted, &found))
        return false;
    *device = found.device;
    return true;
}

bool place_is_of_store(dev_t device, const char *store)
{
    char number[40];
    const struct line wanted = {.device = number, .source = (char *)store};
    struct found found;

    snprintf(number, sizeof(number), "%u:%u", major(device), minor(device));
    return find_mount(&wanted, &found);
}

bool place_has_mount(uint64_t id)
{
    char number[40];
    const struct line wanted = {.id = number};
    struct found found;

    snprintf(number, sizeof(number), "%" PRIu64, id);
    return find_mount(&wanted, &found);
}

/* ---- paths --------------------------------------------------------------------------------- */

/* The real path of something that may not exist yet, in a directory that does. */
static int resolve_new(const char *path, char out[PATH_MAX])
{
    char *dir_copy = strdup(path), *base_copy = strdup(path), *dir = NULL;
    const char *base;
    struct stat st;
    int rc = 0;

    if (!dir_copy || !base_copy) {
        rc = -ENOMEM;
        goto out;
    }
    if (lstat(path, &st) == 0) { /* there, but leads nowhere: a dangling link */
        rc = -ENOLINK;
        goto out;
    }
    base = basename(base_copy);
    dir = realpath(dirname(dir_copy), NULL);
    if (!dir) {
        rc = -errno;
        goto out;
    }
    if (snprintf(out, PATH_MAX, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, base) >= PATH_MAX)
        rc = -ENAMETOOLONG;
out:
    free(dir_copy);
    free(base_copy);
    free(dir);
    return rc;
}

int place_open_resolved(const char *path)
{
    const struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS};
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

    if (fd < 0 && (errno == ENOSYS || errno == EPERM)) /* before Linux 5.6, or an old container's filter */
        fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static bool dir_has_entries(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    bool found = false;

    while (d && !found && (e = readdir(d)) != NULL)
        found = strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d)
        closedir(d);
    return found;
}

static int check_store(const char *path, struct place *out)
{
    struct stat st;
    int rc = 0;

    if (!realpath(path, out->store)) {
        rc = -errno;
        if (rc == -ENOENT)
            rc = resolve_new(path, out->store);
        if (rc == -ENOENT)
            log_tell("cannot create the store %s: its directory does not exist; create that first", path);
        else if (rc == -ENOLINK)
            log_tell("cannot create the store %s: it is a symbolic link to nothing; remove it", path);
        else if (rc < 0)
            log_tell("cannot reach the store %s: %s", path, strerror(-rc));
        return rc;
    }
    if (stat(out->store, &st) < 0 || !S_ISDIR(st.st_mode)) {
        log_tell("the store %s is not a directory; name a store, or an empty or absent directory", path);
        return -ENOTDIR;
    }
    out->store_existed = dir_has_entries(out->store);
    return 0;
}

static int tell_dead(const char *path)
{
    log_tell("the mount point %s holds a FUSE mount whose daemon has died; remove it: fusermount3 -u '%s'",
             path, path);
    return -ENOTCONN;
}

/* A dead mount may still show its root, from the kernel's cache; statvfs always asks the daemon. */
static bool is_dead(const char *path)
{
    struct statvfs st;

    return statvfs(path, &st) < 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

static int check_mountpoint(const char *path, struct place *out)
{
    const struct line wanted = {.mountpoint = out->mountpoint};
    struct found found;
    struct stat st;

    if (!realpath(path, out->mountpoint) || stat(out->mountpoint, &st) < 0) {
        int rc = -errno;
        if (rc == -ENOENT)
            log_tell("the mount point %s does not exist; create it: mkdir '%s'", path, path);
        else if (rc == -ENOTCONN || rc == -ECONNABORTED)
            return tell_dead(path);
        else
            log_tell("cannot reach the mount point %s: %s", path, strerror(-rc));
        return rc;
    }
    if (!S_ISDIR(st.st_mode)) {
        log_tell("the mount point %s is not a directory; name one", path);
        return -ENOTDIR;
    }
    if (is_dead(out->mountpoint))
        return tell_dead(path);
    if (find_mount(&wanted, &found)) {
        log_tell("%s is mounted already, from the store %s; unmount it first: shale umount '%s'", path,
                 found.source, path);
        return -EBUSY;
    }
    return 0;
}

/* Whether `inner` is `outer` or lies in it. Both are real paths. */
static bool lies_in(const char *inner, const char *outer)
{
    size_t n = strlen(outer);

    if (n == 1) /* the root */
        return true;
    return strncmp(inner, outer, n) == 0 && (inner[n] == '\0' || inner[n] == '/');
}

int place_check(const char *store, const char *mountpoint, struct place *out)
{
    int rc = check_mountpoint(mountpoint, out);

    if (rc == 0)
        rc = check_store(store, out);
    if (rc < 0)
        return rc;
    if (lies_in(out->store, out->mountpoint)) {
        log_tell("the store %s lies in the mount point %s, which would hide it; choose another mount point",
                 store, mountpoint);
        return -EINVAL;
    }
    if (lies_in(out->mountpoint, out->store)) {
        log_tell("the mount point %s lies in the store %s; choose a mount point outside", mountpoint, store);
        return -EINVAL;
    }
    return 0;
}

int place_check_fuse(void)
{
    struct stat st;
    int fd, rc;

    if (access(FUSE_DEVICE, F_OK) < 0) {
        log_tell(
            "%s does not exist; load the FUSE module (modprobe fuse) or, in a container, pass the device in",
            FUSE_DEVICE);
        return -ENODEV;
    }
    fd = open(FUSE_DEVICE, O_RDWR | O_CLOEXEC); /* libfuse does so before it asks fusermount3, too */
    if (fd < 0) {
        rc = -errno;
        log_tell("cannot open %s: %s; load the FUSE module (modprobe fuse), or have the administrator allow "
                 "the device",
                 FUSE_DEVICE, strerror(-rc));
        return rc;
    }
    rc = fstat(fd, &st) < 0 ? -errno : 0;
    close(fd);
    if (rc == 0 && (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(FUSE_MAJOR, FUSE_MINOR))) {
        log_tell("%s is not the FUSE device; have the administrator put it there: mknod %s c %u %u",
                 FUSE_DEVICE, FUSE_DEVICE, FUSE_MAJOR, FUSE_MINOR);
        rc = -ENODEV;
    }
    return rc;
}
