/*
 * main.c - shalefs: the life of the daemon.
 *
 * In the background the process that the user started waits on a pipe until its child, the daemon, says
 * that the mount answers; if the child ends before, it takes over its exit status. The
 * child is made first of all, before any thread. Everything that fails until then is one line on the
 * user's standard error.
 */
#include "log.h"
#include "options.h"
#include "place.h"
#include "privileges.h"
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define BUSY_WAIT_MS 10000 /* how long a daemon that was just unmounted may take to close the store */
#define BUSY_STEP_MS 50
#define PROGRESS_SECONDS 1

/* ---- the process --------------------------------------------------------------------------- */

/* The parent's part: returns the exit status. */
static int await_child(pid_t child, int ready_fd)
{
    int status;
    char byte;
    ssize_t n;

    do
        n = read(ready_fd, &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n == 1)
        return EXIT_SUCCESS;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return EXIT_FAILURE;
    if (WIFEXITED(status) && WEXITSTATUS(status) != EXIT_SUCCESS)
        return WEXITSTATUS(status); /* it has said why */
    if (WIFSIGNALED(status))
        log_tell("the daemon was killed by signal %d before the mount was ready", WTERMSIG(status));
    else
        log_tell("the daemon ended before the mount was ready");
    return EXIT_FAILURE;
}

/* Returns in the child, with *ready_fd to write to; the parent never returns. */
static int into_background(int *ready_fd)
{
    int ends[2];
    pid_t child;

    if (pipe2(ends, O_CLOEXEC) < 0 || (child = fork()) < 0) {
        int rc = -errno;
        log_tell("cannot start the daemon: %s", strerror(-rc));
        return rc;
    }
    if (child > 0) {
        close(ends[1]);
        exit(await_child(child, ends[0]));
    }
    close(ends[0]);
    *ready_fd = ends[1];
    return 0;
}

static void prepare_process(void)
{
    struct rlimit files;

    session_block_signals();
    signal(SIGCHLD, SIG_DFL); /* ignored, it would make the status of our own children unknown */
    signal(SIGPIPE, SIG_IGN); /* of a log that nobody reads */
    signal(SIGXFSZ, SIG_IGN); /* the starter's ulimit -f: an error, not our death */
    umask(0); /* modes come from the kernel, finished; files of the store are 0600 by themselves */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files); /* without it open tables are fewer */
    }
    /* Memory that we ask for must not wait for pages that only we can write. Needs CAP_SYS_RESOURCE;
       threads inherit it. */
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

/* The mount answers: let go of the terminal, the working directory and the parent. */
static void detach_from_terminal(int ready_fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), rc = 0;

    setsid();
    log_to_syslog();
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
        dup2(null, STDERR_FILENO) < 0)
        rc = -errno;
    if (chdir("/") < 0)
        rc = -errno;
    if (null > STDERR_FILENO)
        close(null);
    if (rc < 0)
        log_write(LSM_LOG_WARNING, "cannot let go of the terminal: %s", strerror(-rc));
    if (write(ready_fd, "R", 1) != 1) /* the parent was killed: the mount stays */
        log_write(LSM_LOG_INFO, "whoever started the daemon is gone");
    close(ready_fd);
}

/* ---- the store ----------------------------------------------------------------------------- */

static bool end_is_asked(void)
{
    sigset_t pending;

    return sigpending(&pending) == 0 &&
           (sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1 ||
            sigismember(&pending, SIGHUP) == 1);
}

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    static struct timespec begin, last; /* called by one thread, during fs_open */
    struct timespec now;

    (void)arg;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (begin.tv_sec == 0)
        begin = last = now;
    if (total == 0 || now.tv_sec - last.tv_sec < PROGRESS_SECONDS)
        return;
    last = now;
    log_tell("replaying the log: %u %%, %llu of %llu MiB", (unsigned)(100.0 * (double)done / (double)total),
             (unsigned long long)(done >> 20), (unsigned long long)(total >> 20));
}

static void tell_open_error(const char *store, int rc)
{
    const char *reason = log_reason(), *advice;
    char mounted[PATH_MAX];

    if (rc == -EBUSY && place_of_store(store, mounted)) {
        log_tell("the store %s is in use, mounted on %s; unmount it first: shale umount '%s'", store, mounted,
                 mounted);
        return;
    }
    switch (-rc) {
    case EBUSY: advice = "another process has the store open; end that first"; break;
    case ENOTEMPTY:
    case ENOTDIR: advice = "this is not a store; name a store, or an empty or absent directory"; break;
    case ENOENT: advice = "there is no store; mount it without ro once to create it"; break;
    case EUCLEAN:
    case EIO: advice = "the store is damaged or the disk failing; run: shale check"; break;
    case ENOTSUP: advice = "the store was written by a newer release; use that"; break;
    case EACCES:
    case EPERM: advice = "only the owner of the store may mount it"; break;
    case ENOSPC: advice = "the disk is full; make room"; break;
    case ELOOP:
        advice = "a file of the store is a symbolic link, which is not followed; put the file itself there";
        break;
    case EROFS: advice = "the disk is mounted read-only; mount with -o ro"; break;
    default: advice = "see the message";
    }
    log_tell("cannot open the store %s: %s%s%s%s; %s", store, strerror(-rc), reason[0] ? " (" : "", reason,
             reason[0] ? ")" : "", advice);
}

/* A store that no mount shows may be about to be closed by the daemon of the mount before. */
static int open_patiently(const char *store, const struct fs_options *options, struct fs **out)
{
    const struct timespec step = {0, BUSY_STEP_MS * 1000000L};
    char mounted[PATH_MAX];
    int rc;

    for (int ms = 0;; ms += BUSY_STEP_MS) {
        rc = fs_open(store, options, out);
        if (rc != -EBUSY || ms >= BUSY_WAIT_MS || place_of_store(store, mounted) || end_is_asked())
            return rc;
        log_reason(); /* what was said about the failed attempt */
        nanosleep(&step, NULL);
    }
}

static int check_shards(const struct options *o, const struct place *place, struct fs *fs)
{
    unsigned have = lsm_shards(fs_lsm(fs));

    if (o->shards == 0 || !place->store_existed)
        return 0;
    if (o->shards != have) {
        log_tell("the store %s has %u shards, which is fixed at its creation; leave out shards=%u",
                 place->store, have, o->shards);
        return -EINVAL;
    }
    log_write(LSM_LOG_WARNING, "shards=%u has no effect on a store that exists", o->shards);
    return 0;
}

static int open_store(const struct options *o, const struct place *place, struct fs **out)
{
    struct fs_options options = {
        .lsm = {.flags = o->read_only ? LSM_RDONLY : LSM_CREATE,
                .shards = place->store_existed ? 0 : o->shards,
                .memory_bytes = o->memory_bytes,
                .write_buffer_bytes = o->write_buffer_bytes,
                .compression = o->compression,
                .commit_ms = o->commit_ms,
                .log = log_engine,
                .progress = show_progress},
        .noatime = o->noatime || o->read_only,
    };
    const char *reason;
    int rc;

    log_hold(true);
    rc = open_patiently(place->store, &options, out);
    log_hold(false);
    if (rc < 0) {
        tell_open_error(place->store, rc);
        return rc;
    }
    reason = log_reason();
    if (reason[0]) /* it did not hinder the opening, but has to be known */
        log_write(LSM_LOG_ERROR, "%s", reason);
    rc = check_shards(o, place, *out);
    if (rc < 0) {
        fs_close(*out);
        *out = NULL;
    }
    return rc;
}

/* ---- all together -------------------------------------------------------------------------- */

/* From an open store to its unmount. */
static int mount_and_wait(const struct options *o, const struct place *place, struct fs *fs, int ready_fd)
{
    struct session *session;
    int rc = session_start(fs, o, place->store, place->mountpoint, &session);

    if (rc < 0)
        return rc;
    rc = session_check(session);
    if (rc == 0) {
        log_write(LSM_LOG_INFO, "%s mounted on %s", place->store, place->mountpoint);
        if (ready_fd >= 0)
            detach_from_terminal(ready_fd);
        session_wait(session);
    }
    session_stop(session);
    return rc;
}

static int run(const struct options *o, int ready_fd)
{
    static struct place place; /* twice PATH_MAX */
    struct fs *fs = NULL;
    int rc, close_rc;

    prepare_process();
    rc = place_check(o->store, o->mountpoint, &place);
    if (rc == 0)
        rc = place_check_fuse();
    if (rc == 0) {
        privileges_drop(place.store, o->debug);
        rc = open_store(o, &place, &fs);
    }
    if (rc < 0)
        return rc;
    rc = mount_and_wait(o, &place, fs, ready_fd);
    close_rc = fs_close(fs);
    if (close_rc < 0)
        log_write(LSM_LOG_ERROR,
                  "closing the store %s: %s; what was not synced before may be lost by a power cut",
                  place.store, strerror(-close_rc));
    else
        log_write(LSM_LOG_INFO, "%s closed", place.store);
    return rc < 0 ? rc : close_rc;
}

/*
 * An arena for each thread would keep what that thread once needed, many times over, beside memory=
 * (200 000 files, memory=32M: 93 MiB resident with the default, see many.bats for what is allowed).
 */
static void bound_heap(void)
{
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
}

int main(int argc, char **argv)
{
    struct options options;
    int ready_fd = -1, rc;

    bound_heap();
    rc = options_parse(argc, argv, &options);
    if (rc == 0) {
        log_open(options.debug, !options.foreground);
        if (!options.foreground)
            rc = into_background(&ready_fd);
        if (rc == 0)
            rc = run(&options, ready_fd);
    }
    options_free(&options);
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
