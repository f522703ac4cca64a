/*
 * cmd_stats.c - `shale stats`: what a store holds and has been doing.
 *
 * A mounted store is asked through its control directory; one that is not is opened for reading.
 */
#include "shale.h"
#include "stats_text.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int print_stats_file(const struct command *cmd, const char *point, const char *name)
{
    char path[PATH_MAX], buf[4096];
    int n = snprintf(path, sizeof(path), "%s/.shale/%s", point, name);
    if (n < 0 || (size_t)n >= sizeof(path))
        return cli_fail(cmd, "%s: %s", point, strerror(ENAMETOOLONG));
    FILE *f = fopen(path, "re");
    if (!f)
        return cli_fail(cmd, "%s: %s", path,
                        errno == ENOENT ? "the mount has no control directory" : strerror(errno));
    size_t got;
    while ((got = fread(buf, 1, sizeof(buf), f)) > 0)
        fwrite(buf, 1, got, stdout);
    int error = ferror(f) ? errno : 0;
    fclose(f);
    return error ? cli_fail(cmd, "%s: %s", path, strerror(error)) : cli_flush(cmd);
}

static int print_store(const struct command *cmd, const char *store, enum stats_format format)
{
    struct fs *fs;
    int status = store_open(cmd, store, LSM_RDONLY, &fs);
    if (status != SHALE_OK)
        return status;
    char *text = NULL;
    size_t len;
    int r = stats_format(fs, store, NULL, format, &text, &len);
    if (r < 0) {
        status = cli_fail(cmd, "%s: %s", store, store_error(r));
    } else {
        fwrite(text, 1, len, stdout);
        status = cli_flush(cmd);
    }
    free(text);
    return store_close(cmd, store, fs, status);
}

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {{"json", no_argument, NULL, 'j'}, OPTION_HELP_LONG, {0}};
    enum stats_format format = STATS_TEXT;
    int option;
    while ((option = cli_getopt(cmd, argc, argv, "", longs)) != -1) {
        if (option != 'j')
            return cli_option_exit(option);
        format = STATS_JSON;
    }
    if (!cli_arguments(cmd, argc, 1, 1))
        return SHALE_USAGE;

    struct mount m;
    int r = mount_find_at(argv[optind], &m);
    int status = r == 0 ? print_stats_file(cmd, m.point, format == STATS_JSON ? "stats.json" : "stats")
                        : print_store(cmd, argv[optind], format);
    mount_release(&m);
    return status;
}

const struct command cmd_stats = {
    .name = "stats",
    .arguments = "[--json] STORE|MOUNTPOINT",
    .summary = "Print statistics",
    .help = "  --json  for programs: one object, whose names stay the same over releases\n",
    .run = run,
};
