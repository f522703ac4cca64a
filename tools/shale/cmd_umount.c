/*
 * cmd_umount.c - `shale umount`: unmounts, and returns when the store is durable and closed.
 *
 * umount(8) returns while the daemon may still be writing: Linux does not wait for a FUSE daemon.
 * Hence: fsync (its result is the promise of durability), unmount, then wait for the store's lock.
 */
#include "env.h"
#include "shale.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WAIT_STEP_MS 10u
#define WAIT_MESSAGE_MS 3000u

/*
 * Everything to the medium. A daemon that is dead can't tell: all it acknowledged is in the store's
 * files, yet perhaps not on the medium before the next mount has recovered it.
 */
static int sync_mount(const struct command *cmd, const char *point)
{
    int fd = open(point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 ? errno : 0;
    if (fd >= 0) {
        error = fsync(fd) == 0 ? 0 : errno;
        close(fd);
    }
    if (error == ENOTCONN || error == ECONNABORTED)
        return cli_fail(
            cmd, "%s: the daemon has died; unmounting. Mount the store again to bring it to order", point);
    if (error)
        return cli_fail(cmd, "%s: cannot sync, what was written last may not be durable: %s", point,
                        strerror(error));
    return SHALE_OK;
}

/* Keeps the first line of what the child says. */
static void read_first_line(int fd, char *line, size_t size)
{
    size_t len = 0;
    char c;
    bool ended = false;
    while (read(fd, &c, 1) == 1) {
        ended = ended || c == '\n';
        if (!ended && len + 1 < size)
            line[len++] = c;
    }
    line[len] = '\0';
}

/* Users other than root need the setuid helper. Its message goes to `message`. */
static int run_fusermount(const char *point, char *message, size_t size)
{
    int pipefd[2];
    message[0] = '\0';
    if (pipe2(pipefd, O_CLOEXEC) != 0)
        return -errno;
    pid_t pid = fork();
    if (pid < 0) {
        int r = -errno;
        close(pipefd[0]);
        close(pipefd[1]);
        return r;
    }
    if (pid == 0) {
        dup2(pipefd[1], STDERR_FILENO);
        execlp("fusermount3", "fusermount3", "-u", "--", point, (char *)NULL);
        dprintf(STDERR_FILENO, "cannot run fusermount3: %s\n", strerror(errno));
        _exit(127);
    }
    close(pipefd[1]);
    read_first_line(pipefd[0], message, size);
    close(pipefd[0]);
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int unmount(const struct command *cmd, const char *point)
{
    static const char busy[] =
        "busy: some process has a file open or its working directory there (fuser -vm finds it)";
    if (geteuid() == 0) {
        if (umount2(point, UMOUNT_NOFOLLOW) == 0)
            return SHALE_OK;
        return cli_fail(cmd, "%s: %s", point, errno == EBUSY ? busy : strerror(errno));
    }
    char message[256];
    int r = run_fusermount(point, message, sizeof(message));
    if (r == 0)
        return SHALE_OK;
    if (strstr(message, "busy"))
        return cli_fail(cmd, "%s: %s", point, busy);
    return cli_fail(cmd, "%s: %s", point, message[0] ? message : strerror(-r));
}

static bool match_same(const void *arg, const struct mount *m)
{
    const struct mount *gone = arg;
    return m->major == gone->major && m->minor == gone->minor;
}

/* Only a filesystem that is mounted nowhere any more ends its daemon. */
static int check_last(const struct command *cmd, const struct mount *gone)
{
    struct mount other;
    int status = SHALE_OK;
    if (mount_find(match_same, gone, &other) == 0)
        status = cli_fail(cmd, "%s: unmounted, but the same store is also mounted at %s", gone->point,
                          other.point);
    mount_release(&other);
    return status;
}

/* Waits until the daemon has closed the store, however long its last flush takes. */
static int wait_closed(const struct command *cmd, const char *store)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/LOCK", store);
    if (n < 0 || (size_t)n >= sizeof(path))
        return cli_fail(cmd, "%s: %s", store, strerror(ENAMETOOLONG));
    for (unsigned waited_ms = 0;; waited_ms += WAIT_STEP_MS) {
        struct env_lock *lock = NULL;
        int r = access(path, F_OK) == 0 ? env_lock(env_posix(), path, true, &lock) : -errno;
        if (r == 0) {
            env_unlock(env_posix(), lock);
            return SHALE_OK;
        }
        if (r != -EBUSY)
            return cli_fail(cmd, "%s: unmounted, but cannot see when the store is closed: %s", path,
                            strerror(-r));
        struct mount again;
        bool mounted = mount_find_store(store, &again) == 0;
        mount_release(&again);
        if (mounted)
            return SHALE_OK; /* somebody has mounted it again already, so it was closed */
        if (waited_ms && waited_ms % WAIT_MESSAGE_MS == 0)
            cli_note(cmd, "%s: waiting for the store to be closed (%u s)", store, waited_ms / 1000);
        struct timespec step = {0, WAIT_STEP_MS * 1000000L};
        nanosleep(&step, NULL);
    }
}

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {OPTION_HELP_LONG, {0}};
    int option = cli_getopt(cmd, argc, argv, "", longs);
    if (option != -1)
        return cli_option_exit(option);
    if (!cli_arguments(cmd, argc, 1, 1))
        return SHALE_USAGE;

    struct mount m;
    int r = mount_find_at(argv[optind], &m);
    if (r == -ENOENT)
        return cli_fail(cmd, "%s: no ShaleFS is mounted there", argv[optind]);
    if (r < 0)
        return cli_fail(cmd, "%s: %s", argv[optind], strerror(-r));

    int synced = sync_mount(cmd, m.point);
    int status = unmount(cmd, m.point);
    if (status == SHALE_OK)
        status = check_last(cmd, &m);
    if (status == SHALE_OK)
        status = wait_closed(cmd, m.source);
    mount_release(&m);
    return status == SHALE_OK ? synced : status;
}

const struct command cmd_umount = {
    .name = "umount",
    .arguments = "MOUNTPOINT",
    .summary = "Unmount, and wait until the store is durable and closed",
    .help = "Ends successfully only when everything is on the medium and the store may be mounted again,\n"
            "copied or moved. umount(8) and fusermount3(1) unmount as well, but do not wait for that.\n",
    .run = run,
};
