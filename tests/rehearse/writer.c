/*
 * writer.c - rehearse_writer: lives a history (history.h) in a directory and keeps a journal of it (journal.h).
 *
 *   rehearse_writer DIRECTORY JOURNAL --seed=N [--phase=mixed|grow|shrink] [--steps=N] [--until-full=N]
 *                   [--pause-us=N] [--may-fail] [--strict]
 *
 * Goes on where the journal ends. The directory must exist if the journal does not say that anything was done.
 * Ends after --steps operations, after --until-full operations that were refused for want of space, on SIGTERM
 * (after the operation under way), or when the filesystem dies under it. --may-fail: EIO and EROFS are an end,
 * too; ENOMEM is an answer. --strict: what makes things smaller must not be refused for want of space.
 *
 * Exit status: 0, or 1 when an answer was not what it had to be; that is said on stdout with what replays it.
 */
#include "history.h"
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1 << 0)
#define RENAME_EXCHANGE (1 << 1)
#endif
#define HELD_MAX 8u
#define FULL_PAUSE_NS 1000000L
#define DYING_PAUSE_NS 10000000L
#define DYING_TRIES 200u /* two seconds */

struct writer {
    int root; /* O_PATH would do, but fsync wants a real one */
    int held[HELD_MAX];
    unsigned next_held;
    unsigned char buffer[WRITE_BYTES_MAX];
};

static volatile sig_atomic_t asked_to_end;

static void on_term(int sig)
{
    (void)sig;
    asked_to_end = 1;
}

/* ---- operations as system calls: 0 or a negative errno ------------------------------------- */

static int result(int rc) { return rc < 0 ? -errno : 0; }

static ssize_t write_from(struct writer *w, int fd, const struct op *op, uint32_t from)
{
    return op->kind == OP_APPEND ? write(fd, w->buffer + from, op->len - from)
                                 : pwrite(fd, w->buffer + from, op->len - from, (off_t)(op->offset + from));
}

/*
 * *part, in the journal: how much was written if the rest was refused. Cut short, by a full disk, want of memory or
 * because the daemon died, the rest is tried again to learn why.
 */
static int write_bytes(struct writer *w, int fd, const struct op *op, uint32_t *part)
{
    ssize_t n;

    fill_bytes(op->fill, w->buffer, op->len);
    n = write_from(w, fd, op, 0);
    if (n < 0)
        return -errno;
    if ((uint32_t)n == op->len)
        return 0;
    __atomic_store_n(part, (uint32_t)n, __ATOMIC_RELEASE);
    n = write_from(w, fd, op, *part);
    if (n < 0)
        return errno == ENOSPC || errno == ENOMEM ? 0 : -errno;
    if (*part + (uint32_t)n != op->len)
        return -EMSGSIZE;
    __atomic_store_n(part, 0, __ATOMIC_RELEASE);
    return 0;
}

static int on_file(struct writer *w, const struct op *op, const char *path, uint32_t *part)
{
    int fd =
            openat(w->root, path, (op->kind == OP_APPEND ? O_APPEND : 0) | O_WRONLY | O_NOFOLLOW | O_CLOEXEC),
        rc = 0;

    if (fd < 0)
        return -errno;
    switch (op->kind) {
    case OP_WRITE:
    case OP_APPEND: rc = write_bytes(w, fd, op, part); break;
    case OP_TRUNCATE: rc = result(ftruncate(fd, (off_t)op->offset)); break;
    case OP_PUNCH:
        rc = result(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)op->offset, op->len));
        break;
    case OP_CHMOD: rc = result(fchmod(fd, op->mode)); break;
    case OP_SETXATTR: rc = result(fsetxattr(fd, "user.v", &op->fill, sizeof(op->fill), 0)); break;
    default: rc = result(fsync(fd)); break;
    }
    close(fd);
    return rc;
}

static int unlink_held(struct writer *w, const char *path)
{
    int fd = openat(w->root, path, O_RDWR | O_NOFOLLOW | O_CLOEXEC), rc;

    if (fd < 0)
        return -errno;
    rc = result(unlinkat(w->root, path, 0));
    if (rc < 0) {
        close(fd);
        return rc;
    }
    w->next_held = (w->next_held + 1) % HELD_MAX;
    if (w->held[w->next_held] >= 0)
        close(w->held[w->next_held]);
    w->held[w->next_held] = fd;
    return 0;
}

static int perform(struct writer *w, const struct history *h, const struct op *op, uint32_t *part)
{
    char path[PATH_BYTES], path2[PATH_BYTES], target[256];
    unsigned flags;
    int fd, rc;

    history_path(h, op->dir, op->name, path);
    history_path(h, op->dir2, op->name2, path2);
    switch (op->kind) {
    case OP_CREATE:
        fd = openat(w->root, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, op->mode);
        if (fd < 0)
            return -errno;
        close(fd);
        return 0;
    case OP_UNLINK: return result(unlinkat(w->root, path, 0));
    case OP_UNLINK_HELD: return unlink_held(w, path);
    case OP_WRITE_HELD:
        if (w->held[w->next_held] < 0)
            return 0;
        return write_bytes(w, w->held[w->next_held], op, part);
    case OP_RENAME:
    case OP_RENAME_NOREPLACE:
    case OP_EXCHANGE:
        flags = op->kind == OP_RENAME ? 0 : op->kind == OP_EXCHANGE ? RENAME_EXCHANGE : RENAME_NOREPLACE;
        return result(renameat2(w->root, path, w->root, path2, flags));
    case OP_LINK: return result(linkat(w->root, path, w->root, path2, 0));
    case OP_SYMLINK:
        target[fill_target(op->fill, target, sizeof(target))] = '\0';
        return result(symlinkat(target, w->root, path));
    case OP_MKDIR: return result(mkdirat(w->root, path, op->mode));
    case OP_RMDIR: return result(unlinkat(w->root, path, AT_REMOVEDIR));
    case OP_SYNC_DIR:
        history_dir_path(h, op->dir, path);
        fd = openat(w->root, path[0] ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        rc = result(fsync(fd));
        close(fd);
        return rc;
    default: return on_file(w, op, path, part);
    }
}

/* ---- the history --------------------------------------------------------------------------- */

struct plan {
    const char *directory, *journal;
    uint64_t seed, steps, until_full;
    enum phase phase;
    long pause_us;
    bool may_fail, strict;
};

static void pause_ns(long ns)
{
    const struct timespec t = {ns / 1000000000L, ns % 1000000000L};

    nanosleep(&t, NULL);
}

/*
 * Linux ends a request with EIO that the daemon was just taking or answering when it was killed (fs/fuse/dev.c); over io_uring with
 * ECANCELED, or with EINTR when it found no page for what it copied to him (fs/fuse/dev_uring.c, mm/gup.c).
 */
static bool is_dying(const struct plan *p, const struct writer *w)
{
    struct statvfs st;

    for (unsigned i = 0; i < DYING_TRIES; i++) { /* statfs is never answered from a cache */
        int rc = w->root < 0 ? statvfs(p->directory, &st) : fstatvfs(w->root, &st);
        if (rc && (errno == ENOTCONN || errno == ECONNABORTED))
            return true;
        pause_ns(DYING_PAUSE_NS);
    }
    return false;
}

static bool died(int rc, const struct plan *p, const struct writer *w)
{
    if (rc == -ENOTCONN || rc == -ECONNABORTED || (p->may_fail && (rc == -EIO || rc == -EROFS)))
        return true;
    return (rc == -EIO || rc == -ECANCELED || rc == -EINTR) && is_dying(p, w);
}

/* A refusal that changed nothing, and that is no surprise. */
static bool refused(int rc, const struct op *op, const struct plan *p)
{
    if (rc == -ENOSPC)
        return op_needs_space(op) || !p->strict;
    return p->may_fail && (rc == -ENOMEM);
}

static int surprise(const struct plan *p, const struct history *h, const struct op *op, int rc, int expected)
{
    char path[PATH_BYTES];

    history_path(h, op->dir, op->name, path);
    printf("FAILED: %s: operation %llu of seed %llu, %s %s: %s, expected %s\n", p->directory,
           (unsigned long long)history_steps(h), (unsigned long long)p->seed, op_names[op->kind], path,
           rc ? strerror(-rc) : "success", expected ? strerror(-expected) : "success");
    return 1;
}

/* The tree as it was when the journal ended. */
static void replay(struct history *h, const struct journal *j)
{
    uint64_t n = journal_acknowledged(j);
    struct op op;
    int expected;

    for (uint64_t i = 0; i < n; i++) {
        history_next(h, j->records[i].phase, &op, &expected);
        if (j->records[i].part)
            op.len = j->records[i].part;
        history_done(h, &op, j->records[i].rc);
    }
}

static int live(struct writer *w, struct history *h, struct journal *j, const struct plan *p)
{
    uint64_t full = 0;

    for (uint64_t i = 0; i < p->steps && !asked_to_end && full < p->until_full; i++) {
        struct journal_record *r = &j->records[history_steps(h)];
        struct op op;
        int expected, rc;
        if (history_steps(h) == JOURNAL_RECORDS_MAX)
            return 0;
        history_next(h, p->phase, &op, &expected);
        r->phase = (uint8_t)p->phase;
        r->is_sync = op.kind == OP_SYNC || op.kind == OP_SYNC_DIR;
        __atomic_store_n(&r->begin_ns, now_ns(), __ATOMIC_RELEASE);
        rc = perform(w, h, &op, &r->part);
        if (died(rc, p, w))
            return 0; /* it stays without an end: there, or not there */
        r->rc = rc;
        __atomic_store_n(&r->end_ns, now_ns(), __ATOMIC_RELEASE);
        /* The second request of a write may fail; no other part of one may be missing. */
        if (r->part && op.kind != OP_WRITE_HELD && r->part != op_part(h, &op))
            return surprise(p, h, &op, -EMSGSIZE, expected);
        if (r->part)
            op.len = r->part;
        if (expected == 0 && refused(rc, &op, p)) {
            full++;
            pause_ns(FULL_PAUSE_NS);
        } else if (rc != expected) {
            return surprise(p, h, &op, rc, expected);
        }
        history_done(h, &op, rc);
        if (p->pause_us)
            pause_ns(p->pause_us * 1000);
    }
    return 0;
}

static bool parse(int argc, char **argv, struct plan *p)
{
    static const struct option longs[] = {{"seed", 1, NULL, 's'},     {"phase", 1, NULL, 'p'},
                                          {"steps", 1, NULL, 'n'},    {"until-full", 1, NULL, 'f'},
                                          {"pause-us", 1, NULL, 'u'}, {"may-fail", 0, NULL, 'm'},
                                          {"strict", 0, NULL, 'S'},   {NULL, 0, NULL, 0}};
    int c;

    *p = (struct plan){.steps = UINT64_MAX, .until_full = UINT64_MAX};
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 's': p->seed = strtoull(optarg, NULL, 0); break;
        case 'p':
            p->phase = optarg[0] == 'g' ? PHASE_GROW : optarg[0] == 's' ? PHASE_SHRINK : PHASE_MIXED;
            break;
        case 'n': p->steps = strtoull(optarg, NULL, 0); break;
        case 'f': p->until_full = strtoull(optarg, NULL, 0); break;
        case 'u': p->pause_us = strtol(optarg, NULL, 0); break;
        case 'm': p->may_fail = true; break;
        case 'S': p->strict = true; break;
        default: return false;
        }
    }
    if (argc - optind != 2)
        return false;
    p->directory = argv[optind];
    p->journal = argv[optind + 1];
    return true;
}

int main(int argc, char **argv)
{
    static struct writer w;
    struct sigaction action = {.sa_handler = on_term};
    struct history *h;
    struct journal j;
    struct plan p;
    int rc;

    if (!parse(argc, argv, &p)) {
        fprintf(stderr, "usage: rehearse_writer DIRECTORY JOURNAL --seed=N [OPTION]...\n");
        return 2;
    }
    umask(0);
    sigaction(SIGTERM, &action, NULL);
    w.root = open(p.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w.root < 0) {
        rc = -errno;
        if (died(rc, &p, &w)) /* before we came to anything */
            return 0;
        fprintf(stderr, "rehearse_writer: %s: %s\n", p.directory, strerror(-rc));
        return 1;
    }
    memset(w.held, -1, sizeof(w.held));
    if (!journal_open(p.journal, p.seed, &j))
        return 1;
    h = history_new(j.header->seed);
    if (!h)
        return 1;
    journal_cut(&j, journal_acknowledged(&j)); /* what was under way is begun anew */
    replay(h, &j);
    rc = live(&w, h, &j, &p);
    history_free(h);
    journal_close(&j);
    return rc;
}
