/*
 * cmd_put.c - `shale put`: standard input becomes the contents of a file.
 *
 * The file appears whole or not at all: the bytes go to a new file with a name of its own, which is
 * then renamed over the old one. A put that is interrupted removes its file; one that is killed
 * leaves a file ".shale-put-*" behind.
 */
#include "shale.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NEW_FILE_MODE 0666u
#define NEW_DIR_MODE 0777u
#define TEMPORARY_BYTES 64

static volatile sig_atomic_t interrupted; /* a signal handler may touch nothing else */

static void on_signal(int signo)
{
    (void)signo;
    interrupted = 1;
}

static void catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal}; /* no SA_RESTART: a read of the terminal must end */
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGHUP, &sa, NULL);
}

static mode_t current_umask(void)
{
    mode_t mask = umask(0);
    umask(mask);
    return mask;
}

/* Fills the buffer from standard input; less only at its end. */
static int read_full(uint8_t *buf, size_t size, size_t *got)
{
    *got = 0;
    while (*got < size) {
        if (interrupted)
            return -EINTR;
        ssize_t n = read(STDIN_FILENO, buf + *got, size - *got);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            break;
        if (n > 0)
            *got += (size_t)n;
    }
    return 0;
}

static int copy_in(const struct command *cmd, struct fs *fs, const char *path, fs_id id)
{
    uint8_t *buf = malloc(FS_WRITE_MAX);
    if (!buf)
        return cli_fail(cmd, "%s: %s", path, strerror(ENOMEM));
    int status = SHALE_OK;
    uint64_t off = 0;
    size_t got = FS_WRITE_MAX;
    while (status == SHALE_OK && got == FS_WRITE_MAX) {
        int r = read_full(buf, FS_WRITE_MAX, &got);
        if (r < 0) {
            status = cli_fail(cmd, "standard input: %s", strerror(-r));
            break;
        }
        r = got ? fs_write(fs, id, off, buf, got) : 0;
        if (r < 0)
            status = cli_fail(cmd, "%s: %s", path, store_error(r));
        off += got;
    }
    free(buf);
    return status;
}

/* Makes the directories that lead to `path` and do not exist. */
static int make_parents(const struct command *cmd, struct fs *fs, const struct fs_caller *caller,
                        const char *path)
{
    uint32_t mode = NEW_DIR_MODE & ~(uint32_t)current_umask();
    fs_id dir = FS_ID_ROOT;
    int r = 0;
    const char *p = path + strspn(path, "/");
    for (;;) {
        size_t len = strcspn(p, "/");
        const char *next = p + len + strspn(p + len, "/");
        if (*next == '\0')
            break; /* the last component is the file itself */
        struct fs_attr attr;
        if (len > FS_NAME_MAX)
            r = -ENAMETOOLONG;
        else if ((len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.'))
            r = -EINVAL;
        else
            r = fs_lookup(fs, dir, p, len, &attr);
        if (r == -ENOENT)
            r = fs_mkdir(fs, caller, dir, p, len, S_IFDIR | mode, &attr);
        if (r < 0)
            break;
        if (dir != FS_ID_ROOT)
            fs_forget(fs, dir, 1);
        dir = attr.id;
        p = next;
    }
    if (dir != FS_ID_ROOT)
        fs_forget(fs, dir, 1);
    return r < 0 ? cli_fail(cmd, "%s: %s", path, store_error(r)) : SHALE_OK;
}

/* A file that is replaced keeps its owner and permissions. */
static int keep_attributes(struct fs *fs, fs_id id, const struct fs_attr *old)
{
    return fs_setattr(fs, id, FS_SET_MODE | FS_SET_UID | FS_SET_GID, old, NULL);
}

static int write_and_rename(const struct command *cmd, struct fs *fs, const struct fs_caller *caller,
                            const char *path, const struct fs_attr *dir, const char *name, size_t len)
{
    struct fs_attr old, made;
    int r = fs_lookup(fs, dir->id, name, len, &old);
    bool replaces = r == 0;
    if (replaces)
        fs_forget(fs, old.id, 1);
    if (r < 0 && r != -ENOENT)
        return cli_fail(cmd, "%s: %s", path, store_error(r));
    if (replaces && !S_ISREG(old.mode))
        return cli_fail(cmd, "%s: exists and is a %s", path, format_type(&old));

    char temporary[TEMPORARY_BYTES];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int n = snprintf(temporary, sizeof(temporary), ".shale-put-%d-%lld%09ld", (int)getpid(),
                     (long long)now.tv_sec, now.tv_nsec);
    uint32_t mode = S_IFREG | (NEW_FILE_MODE & ~(uint32_t)current_umask());
    r = fs_mknod(fs, caller, dir->id, temporary, (size_t)n, mode, 0, &made);
    if (r < 0)
        return cli_fail(cmd, "%s: %s", path, store_error(r));

    int status = copy_in(cmd, fs, path, made.id);
    if (status == SHALE_OK) {
        r = replaces ? keep_attributes(fs, made.id, &old) : 0;
        if (r == 0)
            r = fs_rename(fs, caller, dir->id, temporary, (size_t)n, dir->id, name, len, 0);
        if (r < 0)
            status = cli_fail(cmd, "%s: %s", path, store_error(r));
    }
    if (status != SHALE_OK) {
        r = fs_unlink(fs, dir->id, temporary, (size_t)n);
        if (r < 0)
            cli_note(cmd, "%s: cannot remove %s beside it: %s", path, temporary, store_error(r));
    }
    fs_forget(fs, made.id, 1);
    return status;
}

static int put_file(const struct command *cmd, struct fs *fs, const char *path, bool parents)
{
    struct fs_caller caller = {.uid = geteuid(), .gid = getegid()};
    int status = parents ? make_parents(cmd, fs, &caller, path) : SHALE_OK;
    if (status != SHALE_OK)
        return status;

    struct fs_attr dir;
    const char *name;
    size_t len;
    int r = path[0] && path[strlen(path) - 1] == '/' ? -EISDIR : store_split(fs, path, &dir, &name, &len);
    if (r < 0)
        return cli_fail(cmd, "%s: %s", path, store_error(r));
    status = write_and_rename(cmd, fs, &caller, path, &dir, name, len);
    fs_forget(fs, dir.id, 1);

    r = status == SHALE_OK ? fs_sync(fs) : 0;
    if (r < 0)
        status = cli_fail(cmd, "%s: written, but perhaps not durable: %s", path, store_error(r));
    return status;
}

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {{"parents", no_argument, NULL, 'p'}, OPTION_HELP_LONG, {0}};
    bool parents = false;
    int option;
    while ((option = cli_getopt(cmd, argc, argv, "p", longs)) != -1) {
        if (option != 'p')
            return cli_option_exit(option);
        parents = true;
    }
    if (!cli_arguments(cmd, argc, 2, 2))
        return SHALE_USAGE;

    struct fs *fs;
    int status = store_open(cmd, argv[optind], 0, &fs);
    if (status != SHALE_OK)
        return status;
    catch_signals();
    status = put_file(cmd, fs, argv[optind + 1], parents);
    return store_close(cmd, argv[optind], fs, status);
}

const struct command cmd_put = {
    .name = "put",
    .arguments = "[-p] STORE PATH",
    .summary = "Create or replace a file with what standard input gives",
    .help = "  -p, --parents  make the directories that lead to it\n\n"
            "The file changes at once, when all input has been read; it is on the medium when the command\n"
            "ends. A file that is replaced keeps its owner and permissions, not its other attributes.\n",
    .run = run,
};
