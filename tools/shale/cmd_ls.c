/*
 * cmd_ls.c - `shale ls`: what a directory holds.
 *
 * Names are sorted in memory, up to SORT_MAX of them; a larger directory is printed as it is stored.
 */
#include "shale.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#define SORT_MAX 1000000u /* about 200 MB with attributes */
#define BATCH_ENTRIES 256u

struct entry {
    char *name;
    size_t len;
    struct fs_attr attr;
};

struct listing {
    const struct command *cmd;
    struct fs *fs;
    const char *path;
    bool details, all, unsorted;
    struct entry *entries; /* owned, with their names */
    size_t count, cap;
    size_t batch_start; /* entries before it were delivered by an earlier call */
    uint64_t off;
    int error; /* in the callback */
};

static int print_details(struct fs *fs, const struct entry *e)
{
    char mode[MODE_TEXT_BYTES], user[OWNER_TEXT_BYTES], group[OWNER_TEXT_BYTES], size[32], when[32];
    struct tm tm;
    format_mode(e->attr.mode, mode);
    format_user(e->attr.uid, user);
    format_group(e->attr.gid, group);
    if (S_ISCHR(e->attr.mode) || S_ISBLK(e->attr.mode))
        snprintf(size, sizeof(size), "%u, %u", major(e->attr.rdev), minor(e->attr.rdev));
    else
        snprintf(size, sizeof(size), "%llu", (unsigned long long)e->attr.size);
    if (!localtime_r(&e->attr.mtime.tv_sec, &tm) || !strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm))
        snprintf(when, sizeof(when), "%lld", (long long)e->attr.mtime.tv_sec);
    printf("%s %3u %-8s %-8s %12s %s ", mode, e->attr.nlink, user, group, size, when);
    print_name(e->name, e->len);
    if (S_ISLNK(e->attr.mode)) {
        char target[FS_SYMLINK_MAX];
        size_t len;
        int r = fs_readlink(fs, e->attr.id, target, sizeof(target), &len);
        if (r < 0)
            return r;
        fputs(" -> ", stdout);
        print_name(target, len < sizeof(target) ? len : sizeof(target));
    }
    return 0;
}

static int print_entry(struct listing *l, const struct entry *e)
{
    int r = 0;
    if (l->details)
        r = print_details(l->fs, e);
    else
        print_name(e->name, e->len);
    putchar('\n');
    return r;
}

static void release_entry(struct listing *l, struct entry *e)
{
    bool dot = e->name[0] == '.' && (e->len == 1 || (e->len == 2 && e->name[1] == '.'));
    if (l->details && !dot)
        fs_forget(l->fs, e->attr.id, 1);
    free(e->name);
}

static bool grow(struct listing *l)
{
    size_t cap = l->cap ? l->cap * 2 : BATCH_ENTRIES;
    struct entry *entries = realloc(l->entries, cap * sizeof(*entries));
    if (!entries)
        return false;
    l->entries = entries;
    l->cap = cap;
    return true;
}

static bool collect(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct listing *l = arg;
    if (l->count - l->batch_start == BATCH_ENTRIES)
        return false;
    char *copy = malloc(len + 1);
    if (!copy || (l->count == l->cap && !grow(l))) {
        free(copy);
        l->error = -ENOMEM;
        return false;
    }
    memcpy(copy, name, len);
    copy[len] = '\0';
    struct entry *e = &l->entries[l->count++];
    e->name = copy;
    e->len = len;
    e->attr = *attr;
    l->off = next;
    return true;
}

/* Prints and releases what has been collected. */
static int print_all(struct listing *l)
{
    int r = 0;
    for (size_t i = 0; i < l->count; i++) {
        struct entry *e = &l->entries[i];
        if (r == 0 && (l->all || e->name[0] != '.'))
            r = print_entry(l, e);
        release_entry(l, e);
    }
    l->count = 0;
    return r;
}

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int list_directory(struct listing *l, fs_id id)
{
    int r = 0;
    for (;;) {
        l->batch_start = l->count;
        r = fs_readdir(l->fs, id, l->off, l->details, collect, l);
        if (r == 0)
            r = l->error;
        if (r < 0 || l->count == l->batch_start)
            break;
        if (!l->unsorted && l->count > SORT_MAX) {
            cli_note(l->cmd, "%s: more than %u names, not sorted", l->path, SORT_MAX);
            l->unsorted = true;
        }
        if (l->unsorted && (r = print_all(l)) < 0)
            break;
    }
    if (l->count)
        qsort(l->entries, l->count, sizeof(*l->entries), by_name);
    int printed = print_all(l);
    return r < 0 ? r : printed;
}

static int list_path(const struct listing *how, const char *path)
{
    struct listing l = *how;
    struct fs_attr attr;
    l.path = path;
    int r = store_walk(l.fs, path, &attr);
    if (r < 0)
        return cli_fail(l.cmd, "%s: %s", path, store_error(r));
    if (S_ISDIR(attr.mode)) {
        r = list_directory(&l, attr.id);
        free(l.entries);
    } else {
        struct entry e = {(char *)(uintptr_t)path, strlen(path), attr};
        r = print_entry(&l, &e);
    }
    fs_forget(l.fs, attr.id, 1);
    if (r < 0)
        return cli_fail(l.cmd, "%s: %s", path, store_error(r));
    return SHALE_OK;
}

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {{"all", no_argument, NULL, 'a'}, OPTION_HELP_LONG, {0}};
    struct listing base = {.cmd = cmd};
    int option;
    while ((option = cli_getopt(cmd, argc, argv, "alU", longs)) != -1) {
        switch (option) {
        case 'a': base.all = true; break;
        case 'l': base.details = true; break;
        case 'U': base.unsorted = true; break;
        default: return cli_option_exit(option);
        }
    }
    if (!cli_arguments(cmd, argc, 1, -1))
        return SHALE_USAGE;

    const char *store = argv[optind];
    int status = store_open(cmd, store, LSM_RDONLY, &base.fs);
    if (status != SHALE_OK)
        return status;
    int paths = argc - optind - 1;
    for (int i = 0; i < (paths ? paths : 1); i++) {
        const char *path = paths ? argv[optind + 1 + i] : "/";
        if (paths > 1)
            printf("%s%s:\n", i ? "\n" : "", path);
        if (list_path(&base, path) != SHALE_OK)
            status = SHALE_FAILED;
    }
    int flushed = cli_flush(cmd);
    return store_close(cmd, store, base.fs, status == SHALE_OK ? flushed : status);
}

const struct command cmd_ls = {
    .name = "ls",
    .arguments = "[-alU] STORE [PATH]...",
    .summary = "List directories",
    .help = "  -a, --all  also names that begin with a dot\n"
            "  -l         with type, permissions, links, owner, group, size and time\n"
            "  -U         do not sort\n",
    .run = run,
};
