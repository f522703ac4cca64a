/*
 * disk.c - rehearse_disk: a disk with a volatile write cache, whose power can be cut.
 *
 *   rehearse_disk DIRECTORY BYTES SECTOR [--lie]
 *
 * Mounts (FUSE) at DIRECTORY; a loop device over its file `image` is the disk. In memory it keeps the image and, for
 * each write since the last flush (FSYNC; the loop driver sends one for every flush of the filesystem above),
 * what was there before. `ctl` takes commands, one a write:
 *
 *   cut SEED DIRECTORY   the power goes: this process forks, which is the moment; in the child each unflushed write is
 *                        kept, dropped or torn between sectors of SECTOR bytes, as SEED decides, and the
 *                        outcome is mounted at DIRECTORY, as another such disk. The original goes on.
 *   fail                 every write and flush is EIO from now on
 *   heal                 no more
 *
 * and `info` says in lines of name=value what happened: for a cut its moment (CLOCK_MONOTONIC, in ns) and
 * what became of the writes.
 *
 * A flush covers the writes that were answered before it came; all requests are served one after another, so
 * these are all. Any subset of unflushed writes, each sector of a torn one by itself, applied in their order: that
 * is what a disk may hold that reorders at will between two flushes. --lie: flushes are answered but do nothing,
 * which a rehearsal has to notice.
 */
#define FUSE_USE_VERSION 314
#include "history.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CACHE_BYTES_MAX (192u << 20) /* then the oldest writes reach the medium by themselves */
#define COMMAND_MAX 4096u

enum file { FILE_IMAGE = 2, FILE_CTL, FILE_INFO };
static const char *const file_names[] = {[FILE_IMAGE] = "image", [FILE_CTL] = "ctl", [FILE_INFO] = "info"};

/* A write that no flush has covered: what it replaced and what it wrote, one behind the other. */
struct unflushed {
    struct unflushed *newer, *older;
    size_t offset, len;
    unsigned char bytes[];
};

static struct disk {
    unsigned char *image;
    size_t bytes, sector;
    struct unflushed *newest, *oldest;
    size_t cached;
    bool lie, fail;
    unsigned long long cut_ns, writes, flushes, kept, dropped, torn;
    struct fuse_session *session;
} disk;

/* ---- the disk ------------------------------------------------------------------------------ */

static void forget_oldest(void)
{
    struct unflushed *u = disk.oldest;

    disk.oldest = u->newer;
    if (u->newer)
        u->newer->older = NULL;
    else
        disk.newest = NULL;
    disk.cached -= 2 * u->len;
    free(u);
}

static int disk_write(size_t offset, const char *bytes, size_t len)
{
    struct unflushed *u;

    if (disk.fail)
        return -EIO;
    if (offset > disk.bytes || len > disk.bytes - offset)
        return -ENOSPC;
    u = malloc(sizeof(*u) + 2 * len);
    if (!u)
        return -EIO;
    *u = (struct unflushed){.older = disk.newest, .offset = offset, .len = len};
    memcpy(u->bytes, disk.image + offset, len);
    memcpy(u->bytes + len, bytes, len);
    memcpy(disk.image + offset, bytes, len);
    if (disk.newest)
        disk.newest->newer = u;
    else
        disk.oldest = u;
    disk.newest = u;
    disk.cached += 2 * len;
    disk.writes++;
    while (disk.cached > CACHE_BYTES_MAX && !disk.lie)
        forget_oldest();
    return 0;
}

static int disk_flush(void)
{
    if (disk.fail)
        return -EIO;
    disk.flushes++;
    while (disk.oldest && !disk.lie)
        forget_oldest();
    return 0;
}

static void take_back(void)
{
    for (const struct unflushed *u = disk.newest; u; u = u->older)
        memcpy(disk.image + u->offset, u->bytes, u->len);
}

/* What the medium held when the power went. */
static void lose_power(uint64_t seed)
{
    uint64_t x = mix(seed);
    unsigned keep = (unsigned)(x % 5) * 25; /* in a hundred: all, none, or some of them */

    take_back();
    while (disk.oldest) {
        const struct unflushed *u = disk.oldest;
        bool tears;
        x = mix(x);
        tears = keep > 0 && keep < 100 && x % 8 == 0 && u->len > disk.sector;
        if (tears)
            disk.torn++;
        else if ((x >> 8) % 100 < keep)
            disk.kept++;
        else
            disk.dropped++;
        for (size_t at = 0, n; at < u->len; at += n) {
            n = disk.sector - (u->offset + at) % disk.sector;
            if (n > u->len - at)
                n = u->len - at;
            if (tears ? (x = mix(x)) & 1 : (x >> 8) % 100 < keep)
                memcpy(disk.image + u->offset + at, u->bytes + u->len + at, n);
        }
        forget_oldest();
    }
}

/* ---- cutting the power --------------------------------------------------------------------- */

static void serve(const char *directory, int ready_fd);

static int cut_power(const char *arguments)
{
    char directory[COMMAND_MAX], *end;
    uint64_t seed = strtoull(arguments, &end, 0);
    struct timespec now;
    int ends[2];
    pid_t child;
    char byte;
    ssize_t n;

    if (end == arguments || *end != ' ' || snprintf(directory, sizeof(directory), "%s", end + 1) < 2 ||
        pipe2(ends, O_CLOEXEC) < 0)
        return -EINVAL;
    clock_gettime(CLOCK_MONOTONIC, &now);
    child = fork();
    if (child == 0) {
        close(ends[0]);
        close(fuse_session_fd(disk.session)); /* the original's */
        disk.lie = disk.fail = false;
        disk.writes = disk.flushes = 0;
        disk.cut_ns = (unsigned long long)now.tv_sec * 1000000000ull + (unsigned long long)now.tv_nsec;
        lose_power(seed);
        serve(directory, ends[1]);
        _exit(0);
    }
    close(ends[1]);
    do
        n = child > 0 ? read(ends[0], &byte, 1) : -1;
    while (n < 0 && errno == EINTR);
    close(ends[0]);
    return n == 1 ? 0 : -EIO;
}

static int command(const char *bytes, size_t len)
{
    char text[COMMAND_MAX];

    if (len >= sizeof(text))
        return -E2BIG;
    memcpy(text, bytes, len);
    text[len] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (strncmp(text, "cut ", 4) == 0)
        return cut_power(text + 4);
    if (strcmp(text, "fail") == 0)
        disk.fail = true;
    else if (strcmp(text, "heal") == 0)
        disk.fail = false;
    else
        return -EINVAL;
    return 0;
}

/* ---- FUSE ---------------------------------------------------------------------------------- */

static size_t info_text(char *out, size_t room)
{
    int n = snprintf(
        out, room, "pid=%d\ncut_ns=%llu\nwrites=%llu\nflushes=%llu\nkept=%llu\ndropped=%llu\ntorn=%llu\n",
        (int)getpid(), disk.cut_ns, disk.writes, disk.flushes, disk.kept, disk.dropped, disk.torn);

    return n > 0 && (size_t)n < room ? (size_t)n : 0;
}

static void stat_of(fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_ino = ino;
    st->st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0700 : S_IFREG | 0600;
    st->st_nlink = 1;
    st->st_uid = getuid();
    st->st_size = ino == FILE_IMAGE ? (off_t)disk.bytes : ino == FILE_INFO ? (off_t)COMMAND_MAX : 0;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param e = {.attr_timeout = 3600, .entry_timeout = 3600};

    for (fuse_ino_t ino = FILE_IMAGE; parent == FUSE_ROOT_ID && ino <= FILE_INFO; ino++) {
        if (strcmp(file_names[ino], name) != 0)
            continue;
        e.ino = ino;
        stat_of(ino, &e.attr);
        fuse_reply_entry(req, &e);
        return;
    }
    fuse_reply_err(req, ENOENT);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;

    (void)fi;
    stat_of(ino, &st);
    fuse_reply_attr(req, &st, 3600);
}

/* Truncation of ctl by a shell's > changes nothing. */
static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    (void)attr;
    (void)to_set;
    op_getattr(req, ino, fi);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fi->direct_io = ino != FILE_IMAGE;
    fuse_reply_open(req, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    char text[COMMAND_MAX];
    size_t have = disk.bytes, at = (size_t)off;
    const char *from = (const char *)disk.image;

    (void)fi;
    if (ino != FILE_IMAGE) {
        have = ino == FILE_INFO ? info_text(text, sizeof(text)) : 0;
        from = text;
    }
    if (at > have)
        at = have;
    fuse_reply_buf(req, from + at, size < have - at ? size : have - at);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    int rc = -EPERM;

    (void)fi;
    if (ino == FILE_IMAGE)
        rc = disk_write((size_t)off, bytes, size);
    else if (ino == FILE_CTL)
        rc = command(bytes, size);
    if (rc < 0)
        fuse_reply_err(req, -rc);
    else
        fuse_reply_write(req, size);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)datasync;
    (void)fi;
    fuse_reply_err(req, ino == FILE_IMAGE ? -disk_flush() : 0);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    conn->max_write = 1 << 20;
    conn->want &= ~(unsigned)FUSE_CAP_WRITEBACK_CACHE;
}

static const struct fuse_lowlevel_ops operations = {.init = op_init,
                                                    .lookup = op_lookup,
                                                    .getattr = op_getattr,
                                                    .setattr = op_setattr,
                                                    .open = op_open,
                                                    .read = op_read,
                                                    .write = op_write,
                                                    .fsync = op_fsync};

/* Mounts and serves until it is unmounted. */
static void serve(const char *directory, int ready_fd)
{
    char *argv[] = {(char *)"rehearse_disk", (char *)"-o",
                    (char *)"fsname=rehearse_disk,subtype=rehearse_disk"};
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    struct fuse_session *s = fuse_session_new(&args, &operations, sizeof(operations), NULL);

    if (!s || fuse_session_mount(s, directory) != 0)
        _exit(1);
    disk.session = s;
    if (write(ready_fd, "R", 1) != 1)
        _exit(1);
    close(ready_fd);
    fuse_session_loop(s);
    fuse_session_unmount(s);
    fuse_session_destroy(s);
}

int main(int argc, char **argv)
{
    int ends[2];
    pid_t child;
    char byte;

    if (argc == 5 && strcmp(argv[4], "--lie") == 0)
        disk.lie = true;
    disk.sector = argc > 3 ? strtoull(argv[3], NULL, 0) : 0;
    if (argc != 4 + disk.lie || disk.sector < 512 || (disk.sector & (disk.sector - 1)) != 0) {
        fprintf(stderr, "usage: rehearse_disk DIRECTORY BYTES SECTOR [--lie]\n");
        return 2;
    }
    signal(SIGCHLD, SIG_IGN); /* cuts end when they are unmounted */
    disk.bytes = strtoull(argv[2], NULL, 0) / disk.sector * disk.sector;
    disk.image =
        mmap(NULL, disk.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (disk.image == MAP_FAILED || pipe2(ends, O_CLOEXEC) < 0 || (child = fork()) < 0) {
        perror("rehearse_disk");
        return 1;
    }
    if (child == 0) { /* serves on in the background */
        setsid();
        close(ends[0]);
        serve(argv[1], ends[1]);
        return 0;
    }
    close(ends[1]);
    return read(ends[0], &byte, 1) == 1 ? 0 : 1;
}
