/*
 * cmd_get.c - `shale get`: contents of a file to standard output.
 */
#include "shale.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int copy_out(const struct command *cmd, struct fs *fs, const char *path, fs_id id)
{
    uint8_t *buf = malloc(FS_WRITE_MAX);
    if (!buf)
        return cli_fail(cmd, "%s: %s", path, strerror(ENOMEM));
    int status = SHALE_OK;
    uint64_t off = 0;
    for (;;) {
        size_t got;
        int r = fs_read(fs, id, off, buf, FS_WRITE_MAX, &got);
        if (r < 0) {
            status = cli_fail(cmd, "%s: at offset %llu: %s", path, (unsigned long long)off, store_error(r));
            break;
        }
        if (got == 0)
            break;
        if (fwrite(buf, 1, got, stdout) != got) {
            status = cli_fail(cmd, "standard output: %s", strerror(errno));
            break;
        }
        off += got;
    }
    free(buf);
    return status == SHALE_OK ? cli_flush(cmd) : status;
}

static int get_file(const struct command *cmd, struct fs *fs, const char *path)
{
    struct fs_attr attr;
    int r = store_walk(fs, path, &attr);
    if (r < 0)
        return cli_fail(cmd, "%s: %s", path, store_error(r));
    int status;
    if (S_ISREG(attr.mode))
        status = copy_out(cmd, fs, path, attr.id);
    else if (S_ISDIR(attr.mode))
        status = cli_fail(cmd, "%s: %s", path, strerror(EISDIR));
    else
        status = cli_fail(cmd, "%s: is a %s", path, format_type(&attr));
    fs_forget(fs, attr.id, 1);
    return status;
}

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {OPTION_HELP_LONG, {0}};
    int option = cli_getopt(cmd, argc, argv, "", longs);
    if (option != -1)
        return cli_option_exit(option);
    if (!cli_arguments(cmd, argc, 2, 2))
        return SHALE_USAGE;

    struct fs *fs;
    int status = store_open(cmd, argv[optind], LSM_RDONLY, &fs);
    if (status != SHALE_OK)
        return status;
    status = get_file(cmd, fs, argv[optind + 1]);
    return store_close(cmd, argv[optind], fs, status);
}

const struct command cmd_get = {
    .name = "get",
    .arguments = "STORE PATH",
    .summary = "Write the contents of a file to standard output",
    .help = "",
    .run = run,
};
