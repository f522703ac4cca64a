/*
 * main.c - `shale`: the command table and what is common to all commands.
 */
#include "shale.h"
#include <string.h>

static const struct command *const commands[] = {
    &cmd_get,   &cmd_put,  &cmd_rm,     &cmd_ls,   &cmd_stat,
    &cmd_stats, &cmd_scan, &cmd_umount, &cmd_sync, &cmd_check,
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void print_help(FILE *out)
{
    fputs("Usage: shale COMMAND [OPTION]... ARGUMENT...\n"
          "Looks into a ShaleFS store that is not mounted, and helps with those that are.\n\n",
          out);
    for (size_t i = 0; i < COMMANDS; i++) {
        char usage[64];
        snprintf(usage, sizeof(usage), "%s %s", commands[i]->name, commands[i]->arguments);
        fprintf(out, "  %-32s  %s\n", usage, commands[i]->summary);
    }
    fputs("\n'shale COMMAND --help' tells more. STORE is the store's directory, MOUNTPOINT where one is "
          "mounted,\n"
          "PATH a path within the store. Exit status: 0 done, 1 failed, 2 wrong usage.\n",
          out);
}

static const struct command *command_find(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return SHALE_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return fflush(stdout) ? SHALE_FAILED : SHALE_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        puts("shale " SHALE_VERSION);
        return fflush(stdout) ? SHALE_FAILED : SHALE_OK;
    }
    const struct command *cmd = command_find(argv[1]);
    if (!cmd) {
        fprintf(stderr, "shale: no command '%s'; see shale --help\n", argv[1]);
        return SHALE_USAGE;
    }
    return cmd->run(cmd, argc - 1, argv + 1);
}
