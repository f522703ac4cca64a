/*
 * cmd_stat.c - `shale stat`: all attributes of a file, as stat(1) prints them.
 */
#include "shale.h"
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#define IO_BLOCK 4096 /* st_blksize on a mount */

static void print_time(const char *what, const struct timespec *t)
{
    char text[64], zone[16];
    struct tm tm;
    if (localtime_r(&t->tv_sec, &tm) && strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm) &&
        strftime(zone, sizeof(zone), "%z", &tm))
        printf("%s: %s.%09ld %s\n", what, text, t->tv_nsec, zone);
    else
        printf("%s: @%lld.%09ld\n", what, (long long)t->tv_sec, t->tv_nsec);
}

static int print_attributes(struct fs *fs, const char *path, const struct fs_attr *a)
{
    char mode[MODE_TEXT_BYTES], user[OWNER_TEXT_BYTES], group[OWNER_TEXT_BYTES];
    format_mode(a->mode, mode);
    format_user(a->uid, user);
    format_group(a->gid, group);
    fputs("  File: ", stdout);
    print_name(path, strlen(path));
    if (S_ISLNK(a->mode)) {
        char target[FS_SYMLINK_MAX];
        size_t len;
        int r = fs_readlink(fs, a->id, target, sizeof(target), &len);
        if (r < 0)
            return r;
        fputs(" -> ", stdout);
        print_name(target, len < sizeof(target) ? len : sizeof(target));
    }
    printf("\n  Size: %-15llu Blocks: %-10llu IO Block: %-6d %s\n", (unsigned long long)a->size,
           (unsigned long long)a->blocks, IO_BLOCK, format_type(a));
    printf(" Inode: %-15llu Links: %-10u", (unsigned long long)a->id, a->nlink);
    if (S_ISCHR(a->mode) || S_ISBLK(a->mode))
        printf(" Device type: %u,%u", major(a->rdev), minor(a->rdev));
    printf("\nAccess: (%04o/%s)  Uid: (%5u/%8s)   Gid: (%5u/%8s)\n", a->mode & 07777u, mode, a->uid, user,
           a->gid, group);
    print_time("Access", &a->atime);
    print_time("Modify", &a->mtime);
    print_time("Change", &a->ctime);
    print_time(" Birth", &a->btime);
    return 0;
}

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {OPTION_HELP_LONG, {0}};
    int option = cli_getopt(cmd, argc, argv, "", longs);
    if (option != -1)
        return cli_option_exit(option);
    if (!cli_arguments(cmd, argc, 2, -1))
        return SHALE_USAGE;

    const char *store = argv[optind];
    struct fs *fs;
    int status = store_open(cmd, store, LSM_RDONLY, &fs);
    if (status != SHALE_OK)
        return status;
    for (int i = optind + 1; i < argc; i++) {
        struct fs_attr attr;
        int r = store_walk(fs, argv[i], &attr);
        if (r == 0) {
            r = print_attributes(fs, argv[i], &attr);
            fs_forget(fs, attr.id, 1);
        }
        if (r < 0)
            status = cli_fail(cmd, "%s: %s", argv[i], store_error(r));
    }
    int flushed = cli_flush(cmd);
    return store_close(cmd, store, fs, status == SHALE_OK ? flushed : status);
}

const struct command cmd_stat = {
    .name = "stat",
    .arguments = "STORE PATH...",
    .summary = "Print the attributes of files",
    .help = "",
    .run = run,
};
