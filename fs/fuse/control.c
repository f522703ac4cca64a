/* control.c - see control.h. A new file of the directory is one line in `files` and its function. */
#include "control.h"

#include "stats_text.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DIR_NAME ".shale"
#define ID_DIR FS_ID_CONTROL_FIRST
#define ID_FILES (ID_DIR + 1)

/* A file's contents as they were when its name was looked up. */
struct text {
    fs_id id;
    uint64_t references; /* the kernel's */
    char *bytes;
    size_t len;
};

struct control {
    struct fs *fs;
    const char *store;           /* the caller's */
    struct transport *transport; /* atomic; or NULL */
    uint32_t uid, gid;
    struct timespec born;
    pthread_mutex_t lock; /* of what follows */
    struct text texts[CONTROL_TEXTS_MAX];
    unsigned count;
    fs_id next_id;
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
                                 .deferred = info.deferred,
                                 .yielded = info.yielded};
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
    c->next_id = FS_ID_TEXT_FIRST;
    pthread_mutex_init(&c->lock, NULL);
    clock_gettime(CLOCK_REALTIME, &c->born);
    *out = c;
    return 0;
}

void control_serves(struct control *c, struct transport *t)
{
    __atomic_store_n(&c->transport, t, __ATOMIC_RELEASE);
}

void control_free(struct control *c)
{
    if (!c)
        return;
    for (unsigned i = 0; i < c->count; i++)
        free(c->texts[i].bytes);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static bool equal(const char *name, size_t len, const char *wanted)
{
    return len == strlen(wanted) && memcmp(name, wanted, len) == 0;
}

bool control_owns_name(const struct control *c, fs_id parent, const char *name, size_t len)
{
    return c && parent == FS_ID_ROOT && equal(name, len, DIR_NAME);
}

/* ---- texts --------------------------------------------------------------------------------- */

/* Lock held. NULL: there is none. */
static struct text *find_text(const struct control *c, fs_id id)
{
    for (unsigned i = 0; i < c->count; i++)
        if (c->texts[i].id == id)
            return (struct text *)&c->texts[i];
    return NULL;
}

/* Lock held. */
static fs_id free_id(struct control *c)
{
    fs_id id;

    do {
        id = c->next_id;
        c->next_id = id == FS_ID_TEXT_LAST ? FS_ID_TEXT_FIRST : id + 1;
    } while (find_text(c, id));
    return id;
}

static int add_text(struct control *c, size_t file, fs_id *id, uint64_t *size)
{
    struct text text = {.references = 1};
    int rc = files[file].make(c, &text.bytes, &text.len);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&c->lock);
    if (c->count == CONTROL_TEXTS_MAX) {
        rc = -ENFILE;
    } else {
        *id = text.id = free_id(c);
        *size = text.len;
        c->texts[c->count++] = text;
    }
    pthread_mutex_unlock(&c->lock);
    if (rc < 0)
        free(text.bytes);
    return rc;
}

void control_forget(struct control *c, fs_id id, uint64_t count)
{
    struct text *text;

    pthread_mutex_lock(&c->lock);
    text = find_text(c, id);
    if (text && text->references <= count) {
        free(text->bytes);
        *text = c->texts[--c->count];
    } else if (text) {
        text->references -= count;
    }
    pthread_mutex_unlock(&c->lock);
}

int control_read(struct control *c, fs_id id, uint64_t off, void *buf, size_t size, size_t *len)
{
    const struct text *text;
    int rc = 0;

    *len = 0;
    pthread_mutex_lock(&c->lock);
    text = find_text(c, id);
    if (!text) {
        rc = id == ID_DIR ? -EISDIR : -ENOENT;
    } else if (off < text->len) {
        *len = size < text->len - off ? size : text->len - (size_t)off;
        memcpy(buf, text->bytes + off, *len);
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

/* ---- names and attributes ------------------------------------------------------------------ */

static void make_attr(const struct control *c, fs_id id, uint64_t size, struct fs_attr *out)
{
    memset(out, 0, sizeof(*out));
    out->id = id;
    out->mode = id == ID_DIR ? S_IFDIR | 0555 : S_IFREG | 0444;
    out->nlink = id == ID_DIR ? 2 : 1;
    out->size = size;
    out->uid = c->uid;
    out->gid = c->gid;
    out->atime = out->mtime = out->ctime = out->btime = c->born;
}

int control_getattr(struct control *c, fs_id id, struct fs_attr *out)
{
    const struct text *text;
    uint64_t size = 0;
    int rc = 0;

    if (id != ID_DIR) {
        pthread_mutex_lock(&c->lock);
        text = find_text(c, id);
        if (text)
            size = text->len;
        else
            rc = -ENOENT;
        pthread_mutex_unlock(&c->lock);
    }
    if (rc == 0)
        make_attr(c, id, size, out);
    return rc;
}

int control_lookup(struct control *c, fs_id parent, const char *name, size_t len, struct fs_attr *out)
{
    uint64_t size;
    fs_id id;

    if (control_owns_name(c, parent, name, len)) {
        make_attr(c, ID_DIR, 0, out);
        return 0;
    }
    for (size_t i = 0; parent == ID_DIR && i < FILES; i++) {
        if (!equal(name, len, files[i].name))
            continue;
        int rc = add_text(c, i, &id, &size);
        if (rc == 0)
            make_attr(c, id, size, out);
        return rc;
    }
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
        make_attr(c, i < 2 ? ID_DIR : ID_FILES + i - 2, 0, &attr);
        attr.nlink = 0; /* its text is made when it is looked up */
        if (i == 1)
            attr.id = FS_ID_ROOT;
        if (!fn(arg, name, strlen(name), i + 1, &attr))
            break;
    }
    return 0;
}
