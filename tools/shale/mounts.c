/*
 * mounts.c - the ShaleFS mounts of this mount namespace, from /proc/self/mountinfo.
 *
 * A line there is (proc_pid_mountinfo(5)):
 *     36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
 *     ids       dev   root  point options  [tags]  - type source superoptions
 * with blanks and backslashes in paths written as \040 and so on.
 */
#include "shale.h"
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#define MOUNT_TYPE "fuse.shalefs"

void mount_release(struct mount *m)
{
    free(m->point);
    free(m->source);
    *m = (struct mount){0};
}

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

/* True if the line is a ShaleFS mount; the fields then point into it. */
static bool parse_line(char *line, struct mount *m)
{
    char *dash = strstr(line, " - ");
    if (!dash)
        return false;
    *dash = '\0';
    char *save = NULL;
    const char *type = strtok_r(dash + 3, " \n", &save);
    char *source = strtok_r(NULL, " \n", &save);
    if (!type || !source || strcmp(type, MOUNT_TYPE) != 0)
        return false;

    char *fields[5] = {0};
    save = NULL;
    for (int i = 0; i < 5; i++) {
        fields[i] = strtok_r(i ? NULL : line, " ", &save);
        if (!fields[i])
            return false;
    }
    char *colon = NULL;
    m->major = (unsigned)strtoul(fields[2], &colon, 10);
    m->minor = *colon == ':' ? (unsigned)strtoul(colon + 1, NULL, 10) : 0;
    unescape(fields[4]);
    unescape(source);
    m->point = fields[4];
    m->source = source;
    return true;
}

static int mount_copy(const struct mount *from, struct mount *to)
{
    mount_release(to);
    *to = *from;
    to->point = strdup(from->point);
    to->source = strdup(from->source);
    if (to->point && to->source)
        return 0;
    mount_release(to);
    return -ENOMEM;
}

int mount_find(mount_match_fn match, const void *arg, struct mount *out)
{
    *out = (struct mount){0};
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return -errno;
    char *line = NULL;
    size_t cap = 0;
    int r = -ENOENT;
    while (r != -ENOMEM && getline(&line, &cap, f) > 0) {
        struct mount m;
        if (parse_line(line, &m) && match(arg, &m))
            r = mount_copy(&m, out); /* later lines are mounted over earlier ones */
    }
    free(line);
    fclose(f);
    return r;
}

static bool match_point(const void *arg, const struct mount *m) { return strcmp(arg, m->point) == 0; }

/* The directory that leads to it, resolved: the mount point itself can't be looked at if its daemon is dead. */
static char *resolve_point(const char *point)
{
    char *full = realpath(point, NULL);
    if (full || errno == ENOENT || errno == ENOTDIR)
        return full;
    char copy1[PATH_MAX], copy2[PATH_MAX];
    if (strlen(point) >= PATH_MAX)
        return NULL;
    snprintf(copy1, sizeof(copy1), "%s", point); /* dirname and basename write into them */
    snprintf(copy2, sizeof(copy2), "%s", point);
    char *dir = realpath(dirname(copy1), NULL);
    if (!dir)
        return NULL;
    if (asprintf(&full, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, basename(copy2)) < 0)
        full = NULL;
    free(dir);
    return full;
}

int mount_find_at(const char *point, struct mount *out)
{
    *out = (struct mount){0};
    char *full = resolve_point(point);
    if (!full)
        return -ENOENT;
    int r = mount_find(match_point, full, out);
    free(full);
    return r;
}

static bool match_source(const void *arg, const struct mount *m)
{
    const struct stat *store = arg;
    struct stat st;
    return m->source[0] == '/' && stat(m->source, &st) == 0 && st.st_dev == store->st_dev &&
           st.st_ino == store->st_ino;
}

int mount_find_store(const char *store, struct mount *out)
{
    struct stat st;
    *out = (struct mount){0};
    if (stat(store, &st) != 0)
        return -errno;
    return mount_find(match_source, &st, out);
}

static bool match_device(const void *arg, const struct mount *m)
{
    const struct stat *st = arg;
    return major(st->st_dev) == m->major && minor(st->st_dev) == m->minor;
}

int mount_find_holding(const char *path, struct mount *out)
{
    struct stat st;
    *out = (struct mount){0};
    if (stat(path, &st) != 0)
        return -errno;
    return mount_find(match_device, &st, out);
}
