/*
 * cmd_sync.c - `shale sync`: everything written to a mount so far is on the medium.
 *
 * Linux does not pass sync(2) and syncfs(2) on to FUSE filesystems of our kind, but it does pass
 * fsync of any directory, and any fsync covers the whole store.
 */
#include "shale.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {OPTION_HELP_LONG, {0}};
    int option = cli_getopt(cmd, argc, argv, "", longs);
    if (option != -1)
        return cli_option_exit(option);
    if (!cli_arguments(cmd, argc, 1, 1))
        return SHALE_USAGE;

    const char *path = argv[optind];
    struct mount m;
    int r = mount_find_holding(path, &m);
    mount_release(&m);
    if (r == -ENOENT && access(path, F_OK) == 0)
        return cli_fail(cmd, "%s: not on a mounted ShaleFS", path);
    if (r < 0)
        return cli_fail(cmd, "%s: %s", path, strerror(-r));

    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return cli_fail(cmd, "%s: %s", path, strerror(errno));
    r = fsync(fd) == 0 ? 0 : -errno;
    close(fd);
    return r < 0 ? cli_fail(cmd, "%s: not everything is on the medium: %s", path, strerror(-r)) : SHALE_OK;
}

const struct command cmd_sync = {
    .name = "sync",
    .arguments = "MOUNTPOINT",
    .summary = "Bring everything written to a mount to the medium",
    .help =
        "Ends successfully only when all that was written before is durable. sync(1) can't do that here:\n"
        "Linux does not pass it on to filesystems of this kind.\n",
    .run = run,
};
