/*
 * cli.c - options, arguments and messages of the commands.
 */
#include "shale.h"
#include <errno.h>
#include <stdarg.h>
#include <string.h>

void cli_help(const struct command *cmd, FILE *out)
{
    fprintf(out, "Usage: shale %s %s\n%s.\n%s%s", cmd->name, cmd->arguments, cmd->summary,
            cmd->help[0] ? "\n" : "", cmd->help);
}

int cli_getopt(const struct command *cmd, int argc, char **argv, const char *shorts,
               const struct option *longs)
{
    opterr = 0;
    int option = getopt_long(argc, argv, shorts, longs, NULL);
    if (option == OPTION_HELP) {
        cli_help(cmd, stdout);
        if (fflush(stdout))
            return '?';
    }
    if (option == '?')
        cli_usage(cmd, "bad option '%s'", argv[optind - 1]);
    return option;
}

int cli_option_exit(int option) { return option == OPTION_HELP ? SHALE_OK : SHALE_USAGE; }

bool cli_arguments(const struct command *cmd, int argc, int min, int max)
{
    int n = argc - optind;
    if (n >= min && (max < 0 || n <= max))
        return true;
    cli_usage(cmd, "%s", n < min ? "an argument is missing" : "too many arguments");
    return false;
}

__attribute__((format(printf, 2, 0))) static void print_line(const struct command *cmd, const char *format,
                                                             va_list ap)
{
    fflush(stdout); /* so that both streams stay in order where they go to one place */
    fprintf(stderr, "shale: %s: ", cmd->name);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
}

int cli_fail(const struct command *cmd, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    print_line(cmd, format, ap);
    va_end(ap);
    return SHALE_FAILED;
}

int cli_usage(const struct command *cmd, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    print_line(cmd, format, ap);
    va_end(ap);
    fprintf(stderr, "Usage: shale %s %s\n", cmd->name, cmd->arguments);
    return SHALE_USAGE;
}

void cli_note(const struct command *cmd, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    print_line(cmd, format, ap);
    va_end(ap);
}

int cli_flush(const struct command *cmd)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return SHALE_OK;
    return cli_fail(cmd, "standard output: %s", errno ? strerror(errno) : "write error");
}
