/*
 * cmd_rm.c - `shale rm`: removes files, and directories with all that is in them.
 *
 * A tree is removed depth first with a stack of our own (a path may be deeper than any C stack
 * should be), a few names of one directory at a time.
 */
#include "shale.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_NAMES 64u
#define DEPTH_MAX \
    65536u /* directories within each other; 64 times what PATH_MAX lets programs make at once */

struct name {
    char bytes[FS_NAME_MAX + 1];
    size_t len;
    uint64_t next;
    bool directory;
};

/* A directory being emptied. */
struct frame {
    fs_id id;     /* referenced, except for the root */
    uint64_t off; /* where to go on reading it */
    struct name name;
};

struct tree {
    struct fs *fs;
    struct frame *stack;
    size_t depth, cap;
    struct name batch[BATCH_NAMES];
    size_t count;
};

static bool collect(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct tree *t = arg;
    if ((len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.'))
        return true;
    if (t->count == BATCH_NAMES)
        return false;
    struct name *n = &t->batch[t->count++];
    memcpy(n->bytes, name, len);
    n->bytes[len] = '\0';
    n->len = len;
    n->next = next;
    n->directory = S_ISDIR(attr->mode);
    return true;
}

static int push(struct tree *t, fs_id parent, const struct name *name)
{
    if (t->depth == DEPTH_MAX)
        return -ENAMETOOLONG;
    if (t->depth == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 16;
        struct frame *stack = realloc(t->stack, cap * sizeof(*stack));
        if (!stack)
            return -ENOMEM;
        t->stack = stack;
        t->cap = cap;
    }
    struct fs_attr attr;
    int r = fs_lookup(t->fs, parent, name->bytes, name->len, &attr);
    if (r < 0)
        return r;
    t->stack[t->depth++] = (struct frame){.id = attr.id, .name = *name};
    return 0;
}

/* Removes some of the top directory's entries, or enters the first directory among them. */
static int remove_some(struct tree *t, bool *empty)
{
    struct frame *top = &t->stack[t->depth - 1];
    t->count = 0;
    int r = fs_readdir(t->fs, top->id, top->off, false, collect, t);
    *empty = r == 0 && t->count == 0;
    for (size_t i = 0; r == 0 && i < t->count; i++) {
        const struct name *n = &t->batch[i];
        top->off = n->next;
        if (n->directory)
            return push(t, top->id, n); /* comes back to what follows it; `top` is void now */
        r = fs_unlink(t->fs, top->id, n->bytes, n->len);
    }
    return r;
}

/* Empties and removes the directory `name` of `parent`. */
static int remove_tree(struct tree *t, fs_id parent, const struct name *name)
{
    int r = push(t, parent, name);
    while (r == 0 && t->depth > 0) {
        bool empty;
        r = remove_some(t, &empty);
        if (r < 0 || !empty)
            continue;
        struct frame done = t->stack[--t->depth];
        fs_id above = t->depth ? t->stack[t->depth - 1].id : parent;
        r = fs_rmdir(t->fs, above, done.name.bytes, done.name.len);
        fs_forget(t->fs, done.id, 1);
        while (r == 0 && fs_work(t->fs) == 1)
            continue;
    }
    while (t->depth > 0)
        fs_forget(t->fs, t->stack[--t->depth].id, 1);
    return r;
}

static int remove_path(struct fs *fs, const char *path, bool recursive)
{
    struct fs_attr dir, attr;
    struct name name = {0};
    const char *last;
    int r = store_split(fs, path, &dir, &last, &name.len);
    if (r < 0)
        return r;
    memcpy(name.bytes, last, name.len);
    r = fs_lookup(fs, dir.id, name.bytes, name.len, &attr);
    if (r == 0) {
        fs_forget(fs, attr.id, 1);
        if (!S_ISDIR(attr.mode)) {
            r = fs_unlink(fs, dir.id, name.bytes, name.len);
        } else if (!recursive) {
            r = -EISDIR;
        } else {
            struct tree *t = calloc(1, sizeof(*t));
            if (t)
                t->fs = fs;
            r = t ? remove_tree(t, dir.id, &name) : -ENOMEM;
            if (t)
                free(t->stack);
            free(t);
        }
    }
    fs_forget(fs, dir.id, 1);
    return r;
}

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {{"recursive", no_argument, NULL, 'r'}, OPTION_HELP_LONG, {0}};
    bool recursive = false;
    int option;
    while ((option = cli_getopt(cmd, argc, argv, "rR", longs)) != -1) {
        if (option != 'r' && option != 'R')
            return cli_option_exit(option);
        recursive = true;
    }
    if (!cli_arguments(cmd, argc, 2, -1))
        return SHALE_USAGE;

    const char *store = argv[optind];
    struct fs *fs;
    int status = store_open(cmd, store, 0, &fs);
    if (status != SHALE_OK)
        return status;
    for (int i = optind + 1; i < argc; i++) {
        int r = remove_path(fs, argv[i], recursive);
        if (r < 0)
            status = cli_fail(cmd, "%s: %s", argv[i], store_error(r));
    }
    int r = fs_sync(fs);
    if (r < 0 && status == SHALE_OK)
        status = cli_fail(cmd, "%s: %s", store, store_error(r));
    return store_close(cmd, store, fs, status);
}

const struct command cmd_rm = {
    .name = "rm",
    .arguments = "[-r] STORE PATH...",
    .summary = "Remove files, with -r also directories",
    .help = "  -r, --recursive  remove directories and all that is in them\n",
    .run = run,
};
