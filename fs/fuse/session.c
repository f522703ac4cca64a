/* session.c - see session.h. */
#include "session.h"

#include "adapter.h"
#include "log.h"
#include "place.h"
#include "reclaim.h"
#include "transport.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DRAIN_MS 500 /* after our own unmount: how long those who still use it may end what they do */
#define DRAIN_STEP_MS 5
#define SYNC_MS 10000 /* for all filesystems of the machine, where ours alone cannot be synced */
#define SYNC_STEP_MS 10
#define WRITES_MS \
    30000 /* for what syncfs handed over: a dozen requests; and for programs that go on writing */
#define UNMOUNTS_MAX 32 /* of ours, at the end: mount --bind makes more of one */

extern char **environ;

struct session {
    const char *store, *mountpoint;
    struct adapter adapter;
    struct control *control;
    struct fuse_session *fuse;
    struct transport *transport;
    struct reclaim *reclaim;
    int ended_fd; /* eventfd: the kernel has ended the connection */
    dev_t dev;    /* of the mount; 0: not seen yet */
    bool mounted; /* by us, and not known to be gone */
    bool ended;   /* nobody answers any more: unmounted, or the connection was lost */
    char why[TRANSPORT_WHY_MAX];
};

static const int end_signals[] = {SIGTERM, SIGINT, SIGHUP};

static void end_signal_set(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < sizeof(end_signals) / sizeof(end_signals[0]); i++)
        sigaddset(set, end_signals[i]);
}

void session_block_signals(void)
{
    sigset_t set;

    end_signal_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* ---- which mount is ours ------------------------------------------------------------------- */

/* The root of what is mounted there, of which the kernel alone is asked: nobody may be serving it. */
static int look_at(int fd, struct statx *st, dev_t *dev)
{
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO | STATX_MNT_ID, st) < 0)
        return -errno;
    *dev = makedev(st->stx_dev_major, st->stx_dev_minor);
    return st->stx_ino == FS_ID_ROOT ? 0 : -ENOTCONN;
}

/*
 * Notes the device of our mount, by which it is told from others. As the system lists it at the mount point: others may
 * have mounted something over it already. Without /proc, what is there: so as soon as it is mounted. -ENOTCONN: it is
 * not there any more.
 */
static int note_device(struct session *s)
{
    dev_t dev = 0;
    struct statx st;
    int rc, at;

    if (place_can_look()) {
        rc = place_device(s->store, s->mountpoint, &dev) ? 0 : -ENOTCONN;
    } else {
        rc = at = place_open_resolved(s->mountpoint);
        if (at >= 0) {
            rc = look_at(at, &st, &dev);
            close(at);
        }
    }
    if (rc == 0 && s->dev && dev != s->dev)
        rc = -ENOTCONN;
    if (rc == 0)
        s->dev = dev;
    return rc;
}

static bool is_ours(const struct session *s, dev_t dev)
{
    if (s->dev && dev != s->dev)
        return false;
    /* Numbers of devices are used again. */
    return place_can_look() ? place_is_of_store(dev, s->store) : s->dev != 0;
}

/* The topmost mount at `path`, if it is ours: a descriptor (O_PATH) of its root. Else -ENOTCONN, or why not. */
static int open_ours(const struct session *s, const char *path, struct statx *st)
{
    int at = place_open_resolved(path), rc;
    dev_t dev;

    if (at < 0)
        return at;
    rc = look_at(at, st, &dev);
    if (rc == 0 && is_ours(s, dev))
        return at;
    close(at);
    return rc < 0 ? rc : -ENOTCONN;
}

/* Whether the system lists it, and where: for the last one, if there are several. */
static bool is_mounted(const struct session *s, char path[PATH_MAX])
{
    if (!s->dev)
        return place_of_store(s->store, path);
    return place_is_of_store(s->dev, s->store) && place_of_device(s->dev, path);
}

/*
 * A mount of ours that can be reached by its path: at the mount point; or elsewhere, since a directory above it may have
 * been renamed, and others may have mounted it once more (mount --bind).
 */
static int find_ours(const struct session *s, char path[PATH_MAX], struct statx *st)
{
    int at;

    snprintf(path, PATH_MAX, "%s", s->mountpoint);
    at = open_ours(s, path, st);
    if (at < 0 && is_mounted(s, path))
        at = open_ours(s, path, st);
    return at;
}

/* ---- mounting ------------------------------------------------------------------------------ */

static int add_option(struct fuse_args *args, const char *option)
{
    return fuse_opt_add_arg(args, "-o") < 0 || fuse_opt_add_arg(args, option) < 0 ? -ENOMEM : 0;
}

/* The store's path may hold commas and backslashes, which separate and escape options. */
static int add_fsname(struct fuse_args *args, const char *store)
{
    char *option = NULL, *list = NULL;
    int rc = -ENOMEM;

    if (asprintf(&option, "fsname=%s", store) < 0)
        return -ENOMEM;
    if (fuse_opt_add_opt_escaped(&list, option) == 0)
        rc = add_option(args, list);
    free(list);
    free(option);
    return rc;
}

static int build_args(const struct options *o, const char *store, struct fuse_args *args)
{
    int rc = fuse_opt_add_arg(args, "shalefs") < 0 ? -ENOMEM : 0;

    if (rc == 0)
        rc = add_fsname(args, store);
    if (rc == 0)
        rc = add_option(args, "subtype=shalefs,default_permissions");
    if (rc == 0 && o->debug)
        rc = add_option(args, "debug");
    /* libfuse adds nosuid,nodev; root gets what a local filesystem would give. */
    if (rc == 0 && geteuid() == 0 && !o->nodev)
        rc = add_option(args, "dev");
    if (rc == 0 && geteuid() == 0 && !o->nosuid)
        rc = add_option(args, "suid");
    for (unsigned i = 0; rc == 0 && i < o->mounts; i++)
        rc = add_option(args, o->mount[i]);
    return rc;
}

/* Sends descriptor 2 to a file in memory, so that words of fusermount3 can be part of our line. */
static int capture_stderr(int *saved)
{
    int fd = memfd_create("stderr", MFD_CLOEXEC);

    *saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    if (fd >= 0 && *saved >= 0)
        dup2(fd, STDERR_FILENO);
    return fd;
}

static void release_stderr(int fd, int saved, char *text, size_t room)
{
    ssize_t n = fd >= 0 ? pread(fd, text, room - 1, 0) : 0;

    text[n > 0 ? n : 0] = '\0';
    for (char *p = text; (p = strchr(p, '\n')) != NULL;)
        *p = p[1] ? ' ' : '\0';
    if (saved >= 0) {
        dup2(saved, STDERR_FILENO);
        close(saved);
    }
    if (fd >= 0)
        close(fd);
}

/*
 * Root mounts on the very directory that was checked, by descriptor: by path it could have become a link to
 * /etc meanwhile, if somebody else may rename there. fusermount3 sees to that itself.
 */
static int mount_at(struct session *s, bool by_path)
{
    char by_fd[64];
    int dir = place_open_resolved(s->mountpoint), rc;

    if (dir < 0)
        return dir;
    snprintf(by_fd, sizeof(by_fd), "/proc/self/fd/%d", dir);
    rc = fuse_session_mount(s->fuse, by_path || access(by_fd, F_OK) < 0 ? s->mountpoint : by_fd);
    close(dir);
    return rc < 0 ? -EIO : 0;
}

static int mount_fuse(struct session *s, const struct options *o)
{
    char said[512];
    const char *reason;
    int saved, fd, rc;

    fd = capture_stderr(&saved);
    rc = mount_at(s, geteuid() != 0 || o->auto_unmount);
    release_stderr(fd, saved, said, sizeof(said));
    if (rc == -ELOOP) {
        log_tell("the mount point %s has become a symbolic link; mount where nobody else can rename",
                 s->mountpoint);
        return rc;
    }
    reason = log_reason();
    if (rc < 0) {
        log_tell("cannot mount on %s: %s; see mount.fuse3(8) for what an ordinary user may do", s->mountpoint,
                 said[0]     ? said
                 : reason[0] ? reason
                             : "the system refused");
        return -EIO;
    }
    if (said[0] || reason[0])
        log_write(LSM_LOG_WARNING, "%s", said[0] ? said : reason);
    s->mounted = true;
    note_device(s); /* if it is gone by now, session_check will find that out */
    return 0;
}

static int new_fuse(struct session *s, const struct options *o, const char *store)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    const char *reason;
    int rc = build_args(o, store, &args);

    if (rc == 0) {
        s->fuse = fuse_session_new(&args, &adapter_ops, sizeof(adapter_ops), &s->adapter);
        rc = s->fuse ? 0 : -EINVAL;
    }
    reason = log_reason();
    if (rc < 0)
        log_tell("the mount options were refused: %s", reason[0] ? reason : strerror(-rc));
    fuse_opt_free_args(&args);
    return rc;
}

static void kernel_ended(void *arg)
{
    struct session *s = arg;
    const uint64_t one = 1;

    if (write(s->ended_fd, &one, sizeof(one)) < 0) /* cannot fail below 2^64 of them */
        abort();
}

/* `why_classic`: why kind is CLASSIC, or NULL: it was asked for. */
static int serve(struct session *s, enum transport_kind kind, const char *why_classic)
{
    struct transport_config config = {.session = s->fuse,
                                      .kind = kind,
                                      .why_classic = why_classic,
                                      .max_write = FS_WRITE_MAX,
                                      .init_flags =
                                          FUSE_PARALLEL_DIROPS | FUSE_SETXATTR_EXT | FUSE_HANDLE_KILLPRIV_V2,
                                      .ended = kernel_ended,
                                      .arg = s};

    return transport_start(&config, s->why, &s->transport);
}

/* As far as a mount that is served; nothing of it is left if it fails. */
static int mount_and_serve(struct session *s, const struct options *o, const char *store,
                           enum transport_kind kind, const char *why_classic)
{
    int rc;

    log_hold(true);
    rc = new_fuse(s, o, store);
    if (rc == 0)
        rc = mount_fuse(s, o);
    log_hold(false);
    if (rc < 0)
        return rc;
    rc = serve(s, kind, why_classic);
    if (rc == -ENOTSUP)
        log_tell("transport=uring cannot be had: %s", s->why);
    else if (rc < 0 && rc != -ECANCELED)
        log_tell("cannot start the threads that serve the mount: %s", strerror(-rc));
    return rc;
}

/* An ordinary user's way to unmount: by path. */
static bool run_fusermount(const char *mountpoint)
{
    const char *argv[] = {"fusermount3", "-u", "-z", "-q", "--", mountpoint, NULL};
    pid_t pid;
    int status = 0, rc = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ);

    if (rc == 0)
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    if (rc != 0 || status != 0)
        log_write(LSM_LOG_WARNING, "fusermount3 could not unmount %s%s%s", mountpoint, rc ? ": " : "",
                  rc ? strerror(rc) : "");
    return rc == 0 && status == 0;
}

/*
 * Closes the device, which ends the connection for whoever still uses it, by putting a pipe without
 * a reader in its place: fuse_session_unmount takes that as "unmounted already" and only cleans
 * up. It would unmount by path otherwise, whatever is there by now. (Without descriptors for a pipe the device is closed
 * by fuse_session_destroy, which follows.)
 */
static void disconnect(struct session *s)
{
    int ends[2], fd = fuse_session_fd(s->fuse);

    if (fd >= 0) {
        if (pipe2(ends, O_CLOEXEC) < 0)
            return;
        close(ends[0]);
        dup2(ends[1], fd);
        close(ends[1]);
    }
    fuse_session_unmount(s->fuse);
}

/*
 * By descriptor, so that no link leads elsewhere; by path only where there is no /proc. What is mounted over that root is
 * unmounted in its place: the system has no call that would not do so.
 */
static int unmount_at(int at, const char *path)
{
    char by_fd[64];
    int rc;

    snprintf(by_fd, sizeof(by_fd), "/proc/self/fd/%d", at);
    rc = place_can_look() ? umount2(by_fd, MNT_DETACH) : umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW);
    return rc < 0 ? -errno : 0;
}

/* `at`, at `path`, was ours a moment ago. False if there is no use in going on. */
static bool unmount_one(int at, const char *path, const struct statx *st)
{
    int rc = unmount_at(at, path);

    if (rc == -EINVAL) /* not in the tree any more: somebody was faster */
        return true;
    if (rc == -EPERM && !run_fusermount(path))
        return false;
    if (rc < 0 && rc != -EPERM) {
        log_write(LSM_LOG_WARNING, "%s could not be unmounted: %s", path, strerror(-rc));
        return false;
    }
    /* We still hold it open, so the number is not another's by now. */
    if ((st->stx_mask & STATX_MNT_ID) && place_has_mount(st->stx_mnt_id))
        log_write(LSM_LOG_WARNING,
                  "%s: something was mounted there just now, and has been unmounted before ours", path);
    return true;
}

/*
 * Takes every mount of ours from the tree, as far as this namespace shows them and no other is mounted over it: each would
 * be dead. Nothing is asked of them: if nobody serves any more, we would wait for ourselves.
 */
static void unmount_ours(const struct session *s)
{
    char path[PATH_MAX];
    struct statx st;
    bool going_on = true;

    for (int i = 0; going_on && i < UNMOUNTS_MAX; i++) {
        int at = find_ours(s, path, &st);
        if (at < 0)
            break;
        going_on = unmount_one(at, path, &st);
        close(at);
    }
    if (going_on && is_mounted(s, path))
        log_write(LSM_LOG_WARNING,
                  "%s is covered by another mount; ours below it ends without being unmounted", path);
}

static void take_down(struct session *s)
{
    if (s->fuse && s->mounted) {
        unmount_ours(s);
        disconnect(s);
    }
    if (s->fuse)
        fuse_session_destroy(s->fuse);
    s->fuse = NULL;
    s->mounted = false;
    s->dev = 0;
}

/* The kernel was promised queues and refused one: that connection is lost, and nobody has used it yet. */
static int mount_again(struct session *s, const struct options *o, const char *store)
{
    char why[TRANSPORT_WHY_MAX];

    memcpy(why, s->why, sizeof(why));
    take_down(s);
    if (o->transport == TRANSPORT_URING) {
        log_tell("transport=uring cannot be had: %s", why);
        return -ENOTSUP;
    }
    return mount_and_serve(s, o, store, TRANSPORT_CLASSIC, why);
}

static void log_transport(struct session *s)
{
    struct transport_info info;

    transport_info(s->transport, &info);
    if (info.kind == TRANSPORT_URING)
        log_write(LSM_LOG_INFO, "transport: FUSE over io_uring, %u queues of %u requests", info.queues,
                  info.depth);
    else
        log_write(LSM_LOG_INFO, "transport: classic, %u threads; not FUSE over io_uring: %s", info.threads,
                  s->why);
}

int session_start(struct fs *fs, const struct options *options, const char *store, const char *mountpoint,
                  struct session **out)
{
    struct session *s = calloc(1, sizeof(*s));
    int rc = -ENOMEM;

    if (!s) {
        log_tell("out of memory");
        return rc;
    }
    s->store = store;
    s->mountpoint = mountpoint;
    s->ended_fd = eventfd(0, EFD_CLOEXEC);
    if (options->control && control_new(fs, store, &s->control) < 0)
        s->control = NULL;
    adapter_init(&s->adapter, fs, s->control);
    s->adapter.max_read = (unsigned)options->max_read_bytes;
    s->adapter.writeback = options->writeback;
    s->adapter.noacl = options->noacl;
    if (s->ended_fd < 0 || (options->control && !s->control)) {
        log_tell("out of memory or descriptors");
        goto out;
    }
    rc = mount_and_serve(s, options, store, options->transport, NULL);
    if (rc == -ECANCELED)
        rc = mount_again(s, options, store);
    if (rc == 0)
        log_transport(s);
    if (rc == 0 && s->control)
        control_serves(s->control, s->transport);
    if (rc == 0) {
        rc = reclaim_start(&s->adapter, s->fuse, &s->reclaim);
        if (rc < 0)
            log_tell("cannot start the threads that serve the mount: %s", strerror(-rc));
    }
out:
    if (rc < 0) {
        session_stop(s);
        return rc;
    }
    *out = s;
    return 0;
}

/* ---- living -------------------------------------------------------------------------------- */

#define END_MS 2000 /* between an unmounting and our seeing that the connection has ended */

/* A program that says nothing: 0, or a negative errno. */
static int spawn_quiet(const char *const argv[], pid_t *pid)
{
    posix_spawn_file_actions_t quiet;
    int rc = posix_spawn_file_actions_init(&quiet);

    if (rc != 0)
        return -rc;
    rc = posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&quiet, STDOUT_FILENO, STDERR_FILENO);
    if (rc == 0)
        rc = posix_spawnp(pid, argv[0], &quiet, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&quiet);
    return -rc;
}

/*
 * Has the mount asked by another program, and waits for it. Not by a thread of ours: if we are killed while it waits, the
 * kernel keeps the thread until it is answered, the device open as long as there is a thread, and so nobody answers.
 */
static int ask_from_outside(const char *mountpoint)
{
    const char *argv[] = {"stat", "--", mountpoint, NULL};
    pid_t pid;
    int status = 0, rc = spawn_quiet(argv, &pid);

    if (rc == -ENOENT) /* no such program here: then nobody asks, and the first user's request is the first */
        return 0;
    if (rc < 0)
        return rc;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status == 0 ? 0 : -ENOTCONN;
}

/*
 * As far as two read requests go, so that the disk works on one while the other is verified and handed over; INIT can only make
 * it less than the system's default of 128 KiB. It belongs to root: for other users it stays as it is.
 */
static void set_readahead(dev_t dev)
{
    char path[80];

    snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(dev), minor(dev));
    FILE *f = fopen(path, "we");
    if (!f)
        return;
    fprintf(f, "%u", 2 * FS_WRITE_MAX >> 10);
    if (fclose(f) != 0)
        log_write(LSM_LOG_DEBUG, "%s: %s", path, strerror(errno));
}

/* Who unmounts as soon as the mount is there is before us: it answered, and no more was asked of it. */
static bool ends_soon(const struct session *s)
{
    struct pollfd fd = {.fd = s->ended_fd, .events = POLLIN};

    return poll(&fd, 1, END_MS) > 0;
}

int session_check(struct session *s)
{
    char path[PATH_MAX];
    int rc = ask_from_outside(s->mountpoint);

    if (rc == 0)
        rc = note_device(s);
    if (rc == -ENOTCONN && ends_soon(s) && !is_mounted(s, path)) /* not aborted, which would leave it there */
        return 0;
    if (rc < 0)
        log_tell("the mount on %s does not answer: %s", s->mountpoint, strerror(-rc));
    else
        set_readahead(s->dev);
    return rc;
}

void session_wait(struct session *s)
{
    struct signalfd_siginfo info;
    struct pollfd fds[2] = {{.fd = s->ended_fd, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    sigset_t set;

    end_signal_set(&set);
    fds[1].fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (fds[1].fd < 0)
        log_write(LSM_LOG_ERROR, "no descriptor for signals: %s; only unmounting ends the daemon",
                  strerror(errno));
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    if (fds[0].revents)
        s->ended = true;
    else if (fds[1].revents && read(fds[1].fd, &info, sizeof(info)) == sizeof(info))
        log_write(LSM_LOG_INFO, "signal %u: unmounting %s", info.ssi_signo, s->mountpoint);
    if (fds[1].fd >= 0)
        close(fds[1].fd);
}

/* ---- unmounting ---------------------------------------------------------------------------- */

/*
 * By another program, and not for ever: one of the machine's filesystems may hang, a network's for example, and a thread of
 * ours that waits for it could not end.
 */
static void sync_all(void)
{
    const struct timespec step = {0, SYNC_STEP_MS * 1000000L};
    const char *argv[] = {"sync", NULL};
    pid_t pid;
    int ms = 0;

    if (spawn_quiet(argv, &pid) < 0) {
        sync();
        return;
    }
    for (; ms < SYNC_MS && waitpid(pid, NULL, WNOHANG) == 0; ms += SYNC_STEP_MS)
        nanosleep(&step, NULL);
    if (ms >= SYNC_MS)
        log_write(LSM_LOG_WARNING, "sync takes long: what programs changed through mappings may be lost");
}

/*
 * Has the kernel write back what programs changed through mappings; what fails there is told to them. Newer Linux's syncfs (seen on 6.18)
 * of a FUSE filesystem hands all over and does not wait for the answers: that is for us to do, before the connection goes.
 */
static void flush_mappings(struct session *s)
{
    char path[PATH_MAX];
    struct statx st;
    int at = find_ours(s, path, &st), fd;

    if (at < 0)
        return;
    fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        syncfs(fd);
        close(fd);
    } else if (errno == EACCES) { /* its owner may not read it himself, and syncfs wants more than O_PATH */
        sync_all();
    }
    close(at);
    if (!adapter_await_writes(&s->adapter, WRITES_MS))
        log_write(LSM_LOG_WARNING, "%s is still being written to after %u s: what comes later is lost",
                  s->mountpoint, WRITES_MS / 1000);
}

static void wait_for_end(struct session *s)
{
    const struct timespec step = {0, DRAIN_STEP_MS * 1000000L};

    for (int ms = 0; ms < DRAIN_MS && !transport_ended(s->transport); ms += DRAIN_STEP_MS)
        nanosleep(&step, NULL);
}

void session_stop(struct session *s)
{
    reclaim_stop(s->reclaim);
    if (s->mounted && s->ended) {
        unmount_ours(
            s); /* nothing, after umount(8); but if somebody aborted the connection, a dead mount is there */
        s->mounted = false;
    }
    /* While it is still served. What took long is before the last look at what is mounted there. Busy or not, nobody can
       come in any more. */
    if (s->mounted && s->transport) {
        flush_mappings(s);
        unmount_ours(s);
    }
    if (s->transport) {
        if (s->mounted)
            wait_for_end(s);
        transport_quiesce(s->transport);
        adapter_drain(&s->adapter);
        transport_free(s->transport);
        disconnect(s);
        s->mounted = false;
    }
    take_down(s);
    adapter_destroy(&s->adapter);
    control_free(s->control);
    if (s->ended_fd >= 0)
        close(s->ended_fd);
    free(s);
}
