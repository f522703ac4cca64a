/* control.c - see control.h. A new file of the directory is one line in `files` and its function. */
#include "control.h"

#include "stats_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DIR_NAME ".shale"
#define ID_DIR FS_ID_CONTROL_FIRST
#define ID_FILES (ID_DIR + 1)

struct control {
    struct fs *fs;
    const char *store;           /* the caller's */
    struct transport *transport; /* or NULL */
    uint32_t uid, gid;
    struct timespec born;
    unsigned open; /* atomic */
};

struct control_file {
    char *text;
    size_t len;
};

static int format_stats(const struct control *c, enum stats_format format, char **text, size_t *len)
{
    struct transport *t = __atomic_load_n(&c->transport, __ATOMIC_ACQUIRE);
    struct transport_info info = {0};
    struct stats_mount mount;

    if (t)
        transport_info(t, &info);
    mount = (struct stats_mount){.transport = info.kind == TRANSPORT_URING ? "uring" : "classic",
                                 .why = info.why ? info.why : "",
                                 .queues = info.queues,
                                 .depth = info.depth,
                                 .threads = info.threads,
                                 .requests = info.requests,
                                 .deferred = info.deferred};
    return stats_format(c->fs, c->store, t ? &mount : NULL, format, text, len);
}

static int make_stats(const struct control *c, char **text, size_t *len)
{
    return format_stats(c, STATS_TEXT, text, len);
}

static int make_stats_json(const struct control *c, char **text, size_t *len)
{
    return format_stats(c, STATS_JSON, text, len);
}

static const struct {
    const char *name;
    int (*make)(const struct control *c, char **text, size_t *len);
} files[] = {
    {"stats", make_stats}, {"stats.json", make_stats_json}, /* `shale stats --json` of a mounted store */
};
#define FILES (sizeof(files) / sizeof(files[0]))
_Static_assert(ID_FILES + FILES - 1 <= FS_ID_CONTROL_LAST, "every file needs an id");

int control_new(struct fs *fs, const char *store, struct control **out)
{
    struct control *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->fs = fs;
    c->store = store;
    c->uid = geteuid();
    c->gid = getegid();
    clock_gettime(CLOCK_REALTIME, &c->born);
    *out = c;
    return 0;
}

void control_serves(struct control *c, struct transport *t)
{
    __atomic_store_n(&c->transport, t, __ATOMIC_RELEASE);
}

void control_free(struct control *c) { free(c); }

static bool equal(const char *name, size_t len, const char *wanted)
{
    return len == strlen(wanted) && memcmp(name, wanted, len) == 0;
}

bool control_owns_name(const struct control *c, fs_id parent, const char *name, size_t len)
{
    return c && parent == FS_ID_ROOT && equal(name, len, DIR_NAME);
}

int control_getattr(const struct control *c, fs_id id, struct fs_attr *out)
{
    if (id >= ID_FILES + FILES)
        return -ENOENT;
    memset(out, 0, sizeof(*out));
    out->id = id;
    out->mode = id == ID_DIR ? S_IFDIR | 0555 : S_IFREG | 0444;
    out->nlink = id == ID_DIR ? 2 : 1;
    out->uid = c->uid;
    out->gid = c->gid;
    out->atime = out->mtime = out->ctime = out->btime = c->born;
    return 0;
}

int control_lookup(const struct control *c, fs_id parent, const char *name, size_t len, struct fs_attr *out)
{
    if (control_owns_name(c, parent, name, len))
        return control_getattr(c, ID_DIR, out);
    if (parent == ID_DIR)
        for (size_t i = 0; i < FILES; i++)
            if (equal(name, len, files[i].name))
                return control_getattr(c, ID_FILES + i, out);
    return -ENOENT;
}

int control_readdir(const struct control *c, fs_id id, uint64_t off, fs_readdir_fn fn, void *arg)
{
    static const char *const dots[] = {".", ".."};
    struct fs_attr attr;

    if (id != ID_DIR)
        return -ENOTDIR;
    for (uint64_t i = off; i < 2 + FILES; i++) {
        const char *name = i < 2 ? dots[i] : files[i - 2].name;
        control_getattr(c, i < 2 ? ID_DIR : ID_FILES + i - 2, &attr);
        if (i == 1)
            attr.id = FS_ID_ROOT;
        if (!fn(arg, name, strlen(name), i + 1, &attr))
            break;
    }
    return 0;
}

int control_open(struct control *c, fs_id id, int flags, struct control_file **out)
{
    struct control_file *file = NULL;
    int rc;

    if (id < ID_FILES || id >= ID_FILES + FILES)
        return -EISDIR;
    if ((flags & O_ACCMODE) != O_RDONLY)
        return -EPERM;
    if (__atomic_add_fetch(&c->open, 1, __ATOMIC_RELAXED) > CONTROL_OPEN_MAX) {
        rc = -ENFILE;
        goto out;
    }
    file = calloc(1, sizeof(*file));
    rc = file ? files[id - ID_FILES].make(c, &file->text, &file->len) : -ENOMEM;
out:
    if (rc < 0) {
        free(file);
        __atomic_sub_fetch(&c->open, 1, __ATOMIC_RELAXED);
        return rc;
    }
    *out = file;
    return 0;
}

const char *control_read(const struct control_file *file, uint64_t off, size_t size, size_t *len)
{
    size_t left = off < file->len ? file->len - (size_t)off : 0;

    *len = size < left ? size : left;
    return file->text + (file->len - left);
}

void control_close(struct control *c, struct control_file *file)
{
    free(file->text);
    free(file);
    __atomic_sub_fetch(&c->open, 1, __ATOMIC_RELAXED);
}
