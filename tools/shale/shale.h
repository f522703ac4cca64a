/*
 * shale.h - what the commands of `shale` share: their table, messages, opening a store.
 *
 * Tools hold argument parsing and printing and nothing else; the work is done by fs/ and lsm/.
 *
 * Exit codes: SHALE_OK, SHALE_FAILED (with one line on stderr, "shale: get: /x: No such file or
 * directory"), SHALE_USAGE. Data goes to stdout, and a failed write to it is a failure.
 *
 * Threads: one.
 */
#ifndef TOOLS_SHALE_H
#define TOOLS_SHALE_H

#include "fs.h"
#include <getopt.h>
#include <stdio.h>

enum shale_exit { SHALE_OK = 0, SHALE_FAILED = 1, SHALE_USAGE = 2 };

struct command {
    const char *name;
    const char *arguments; /* for the usage line */
    const char *summary;   /* one line */
    const char *help;      /* what --help adds: options and remarks, ending with a newline */
    int (*run)(const struct command *cmd, int argc, char **argv); /* argv[0] is the command's name */
};

extern const struct command cmd_check, cmd_get, cmd_put, cmd_rm, cmd_ls, cmd_stat, cmd_stats, cmd_scan,
    cmd_umount, cmd_sync;

/* ---- cli.c: arguments and messages ---- */

#define OPTION_HELP 1000
#define OPTION_HELP_LONG                       \
    {                                          \
        "help", no_argument, NULL, OPTION_HELP \
    }

void cli_help(const struct command *cmd, FILE *out);

/* getopt_long with our messages. What the caller does not know itself it passes to cli_option_exit. */
int cli_getopt(const struct command *cmd, int argc, char **argv, const char *shorts,
               const struct option *longs);
int cli_option_exit(int option); /* SHALE_OK after --help, else SHALE_USAGE */

/* Whether min..max arguments follow the options; complains if not. max -1: any number. */
bool cli_arguments(const struct command *cmd, int argc, int min, int max);

/* Prints "shale: CMD: MESSAGE" and returns SHALE_FAILED (cli_usage: and a hint; SHALE_USAGE). */
__attribute__((format(printf, 2, 3))) int cli_fail(const struct command *cmd, const char *format, ...);
__attribute__((format(printf, 2, 3))) int cli_usage(const struct command *cmd, const char *format, ...);
__attribute__((format(printf, 2, 3))) void cli_note(const struct command *cmd, const char *format, ...);

/* Flushes stdout; SHALE_FAILED with a message if anything written to it got lost. */
int cli_flush(const struct command *cmd);

/* ---- store.c: a store that is not mounted ---- */

/*
 * Opens the store for one command: without threads of its own, and with LSM_RDONLY in flags if it
 * only reads. On failure the message is printed and SHALE_FAILED returned.
 */
int store_open(const struct command *cmd, const char *path, unsigned flags, struct fs **out);

/* Finishes pending removals, syncs and closes. Keeps `status` unless that is SHALE_OK and closing fails. */
int store_close(const struct command *cmd, const char *path, struct fs *fs, int status);

/* Says that the store is in use, and where it is mounted. Returns SHALE_FAILED. */
int store_fail_busy(const struct command *cmd, const char *path);

/* Whether the directory looks like a store. */
bool store_exists(const char *path);

/* Text of a negative errno of fs/ or lsm/. */
const char *store_error(int error);

/*
 * A path within a store, taken apart: its directory, looked up, and the last component. The
 * directory's reference is the caller's (fs_forget). The path may lack the leading slash. -EINVAL
 * if there is no last component ("/") or it is "." or "..". `name` points into `path`.
 */
int store_split(struct fs *fs, const char *path, struct fs_attr *dir, const char **name, size_t *len);

/* As fs_walk, for paths with or without the leading slash. */
int store_walk(struct fs *fs, const char *path, struct fs_attr *out);

/* ---- format.c: attributes for people ---- */

#define MODE_TEXT_BYTES 11 /* "-rwxr-xr-x" */
void format_mode(uint32_t mode, char out[MODE_TEXT_BYTES]);
const char *format_type(const struct fs_attr *attr); /* "regular file" and so on, as stat(1) */
#define OWNER_TEXT_BYTES 64
void format_user(uint32_t uid, char out[OWNER_TEXT_BYTES]); /* name, or the number */
void format_group(uint32_t gid, char out[OWNER_TEXT_BYTES]);
/* A name or link target: control characters become '?' when stdout is a terminal. */
void print_name(const char *name, size_t len);

/* ---- mounts.c: what is mounted ---- */

struct mount {
    char *point, *source; /* source: the store's path as the daemon was given it */
    unsigned major, minor;
};

void mount_release(struct mount *m); /* of a zeroed one, too */

/* The newest ShaleFS mount for which `match` returns true; -ENOENT. mount_release(out) is the caller's. */
typedef bool (*mount_match_fn)(const void *arg, const struct mount *m);
int mount_find(mount_match_fn match, const void *arg, struct mount *out);

int mount_find_at(const char *point, struct mount *out);     /* mounted exactly there */
int mount_find_store(const char *store, struct mount *out);  /* whose store is this directory */
int mount_find_holding(const char *path, struct mount *out); /* that this existing path is on */

#endif
