/*
 * verify.c - rehearse_verify: is a tree found after a crash one moment of the histories that were lived in it?
 *
 *   rehearse_verify [--cut=NS | --killed] [--adopt] [--live] MOUNT/W0 JOURNAL0 [MOUNT/W1 JOURNAL1]...
 *
 * Each directory must be the tree of its history after some number n of operations, and the numbers must go
 * together: one moment is a line through all histories, so no operation may be absent that returned before one that is
 * there was begun.
 *
 *   --killed    the daemon died, the machine did not: everything acknowledged must be there
 *   --cut=NS    the power went at this time (CLOCK_MONOTONIC; or `now`): everything that returned before a sync was
 *               begun, which had returned by then, must be there; nothing may be that was begun later
 *   --live      nothing happened at all: exactly what was acknowledged
 *   --adopt     writes what was found to the journals: the histories go on from there
 *
 * Prints one line with the counts and how much was lost (of a cut: how old the moment is). Exit status 1 and
 * FAILED if it is not so, with the names that differ from the moment that is nearest.
 */
#include "history.h"
#include "journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define WRITERS_MAX 16u
#define FITS_MAX 64u /* neighbouring moments that look the same; more than that are not told apart */
#define DIFFERENCES_SHOWN 8u

enum way { WAY_LIVE, WAY_KILLED, WAY_CUT };

/* After operation n - 1; `part`: and the first of two requests of operation n. */
struct moment {
    uint64_t n;
    uint32_t part;
};

struct writer {
    const char *directory, *journal_path;
    struct journal journal;
    struct sights found;
    uint64_t low, high;           /* n must be in here */
    struct moment fits[FITS_MAX]; /* those whose tree is the one that was found */
    unsigned fit_count;
    struct moment chosen, nearest;
    uint64_t nearest_differs;
};

static struct writer writers[WRITERS_MAX];
static unsigned writer_count;

static uint64_t ended(const struct writer *w, uint64_t i)
{
    return __atomic_load_n(&w->journal.records[i].end_ns, __ATOMIC_ACQUIRE);
}

/* ---- what is there ------------------------------------------------------------------------- */

struct scan {
    struct sights *out;
    uint64_t ids[ENTRIES_MAX];
    char failed[PATH_BYTES];
    int rc;
};

static int fail_scan(struct scan *s, const char *path, int rc)
{
    if (s->rc == 0) {
        s->rc = rc;
        snprintf(s->failed, sizeof(s->failed), "%s", path);
    }
    return rc;
}

static int read_contents(int dir, const char *name, struct sight *s)
{
    static unsigned char buffer[FILE_BYTES_MAX + 1];
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    size_t have = 0;
    ssize_t n = 0;

    if (fd < 0)
        return -errno;
    while (have < sizeof(buffer) && (n = read(fd, buffer + have, sizeof(buffer) - have)) > 0)
        have += (size_t)n;
    if (n < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    n = fgetxattr(fd, "user.v", &s->xattr, sizeof(s->xattr));
    if (n == (ssize_t)sizeof(s->xattr))
        s->xattr = hash_of(&s->xattr, sizeof(s->xattr));
    else if (n >= 0 || errno != ENODATA)
        s->xattr = UINT64_MAX;
    close(fd);
    s->content = hash_of(buffer, have);
    if (have != s->bytes) /* size and contents must agree */
        s->bytes = UINT64_MAX;
    return 0;
}

static int scan_dir(struct scan *s, int parent, const char *name, const char *path);

static int scan_entry(struct scan *s, int dir, const char *name, const char *dir_path)
{
    struct sight *at = &s->out->at[s->out->n];
    char target[4096];
    struct stat st;
    int rc = 0, n;

    if (s->out->n == ENTRIES_MAX)
        return fail_scan(s, name, -EFBIG);
    memset(at, 0, sizeof(*at));
    n = snprintf(at->path, sizeof(at->path), "%s%s%s", dir_path, dir_path[0] ? "/" : "", name);
    if (n >= (int)sizeof(at->path))
        return fail_scan(s, name, -ENAMETOOLONG);
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_scan(s, at->path, -errno);
    at->mode = st.st_mode;
    at->links = (uint32_t)st.st_nlink;
    at->bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    s->ids[s->out->n++] = st.st_ino;
    if (S_ISREG(st.st_mode)) {
        rc = read_contents(dir, name, at);
    } else if (S_ISLNK(st.st_mode)) {
        ssize_t len = readlinkat(dir, name, target, sizeof(target));
        rc = len < 0 ? -errno : 0;
        at->content = rc == 0 ? hash_of(target, (size_t)len) : 0;
    } else if (S_ISDIR(st.st_mode)) {
        return scan_dir(s, dir, name, at->path);
    }
    return rc < 0 ? fail_scan(s, at->path, rc) : 0;
}

static int scan_dir(struct scan *s, int parent, const char *name, const char *path)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;

    if (!d)
        return fail_scan(s, path, -errno);
    while (errno = 0, (e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            scan_entry(s, fd, e->d_name, path);
    if (errno)
        fail_scan(s, path, -errno);
    closedir(d);
    return s->rc;
}

static bool scan(struct writer *w)
{
    static struct scan s;

    memset(&s, 0, sizeof(s));
    s.out = &w->found;
    w->found.n = 0;
    if (scan_dir(&s, AT_FDCWD, w->directory, "") < 0) {
        printf("FAILED: %s: reading '%s': %s\n", w->directory, s.failed, strerror(-s.rc));
        return false;
    }
    sights_finish(&w->found, s.ids);
    return true;
}

/* ---- which moment it is -------------------------------------------------------------------- */

/* Number of names that differ; prints the first of them if `show`. */
static uint64_t differences(const struct sights *found, const struct sights *model, bool show)
{
    uint64_t n = 0;

    for (unsigned i = 0, j = 0; i < found->n || j < model->n;) {
        int order = i == found->n ? 1 : j == model->n ? -1 : strcmp(found->at[i].path, model->at[j].path);
        const struct sight *a = order <= 0 ? &found->at[i] : NULL, *b = order >= 0 ? &model->at[j] : NULL;
        i += a != NULL;
        j += b != NULL;
        if (a && b && sight_equal(a, b))
            continue;
        if (show && n < DIFFERENCES_SHOWN) {
            for (int k = 0; k < 2; k++) {
                const struct sight *s = k ? b : a;
                if (s)
                    printf("  %s %s: mode %o links %u bytes %llu content %llx xattr %llx inode of %u\n",
                           k ? "history" : "found  ", s->path, s->mode, s->links,
                           (unsigned long long)s->bytes, (unsigned long long)s->content,
                           (unsigned long long)s->xattr, s->first);
                else
                    printf("  %s %s: absent\n", k ? "history" : "found  ", k ? a->path : b->path);
            }
        }
        n++;
    }
    return n;
}

static struct history *history_of(const struct writer *w)
{
    struct history *h = history_new(w->journal.header->seed);

    if (!h)
        abort();
    return h;
}

/* Operation n of the journal. One under way, if it is there, went well. */
static void next_of(const struct writer *w, const struct history *h, struct op *op, int *rc)
{
    const struct journal_record *r = &w->journal.records[history_steps(h)];

    history_next(h, r->phase, op, rc);
    if (!ended(w, history_steps(h)))
        return;
    *rc = r->rc;
    if (r->part)
        op->len = r->part;
}

static void compare(struct writer *w, struct history *h, struct moment moment)
{
    static struct sights model;
    uint64_t differs;

    history_look(h, &model);
    differs = differences(&w->found, &model, false);
    if (differs == 0 && w->fit_count < FITS_MAX)
        w->fits[w->fit_count++] = moment;
    if (differs < w->nearest_differs) {
        w->nearest_differs = differs;
        w->nearest = moment;
    }
}

/* The tree at a moment, lived again from the beginning. */
static struct history *live_again(const struct writer *w, struct moment moment)
{
    struct history *h = history_of(w);
    struct op op;
    int rc;

    while (history_steps(h) < moment.n) {
        next_of(w, h, &op, &rc);
        history_done(h, &op, rc);
    }
    if (moment.part) {
        next_of(w, h, &op, &rc);
        history_part(h, &op, moment.part);
    }
    return h;
}

/* Looks for the tree that was found among the moments from `low` to `high`. */
static bool search(struct writer *w)
{
    struct history *h = live_again(w, (struct moment){w->low, 0});
    struct op op;
    uint32_t part;
    int rc;

    w->fit_count = 0;
    w->nearest_differs = UINT64_MAX;
    for (uint64_t n = w->low;; n++) {
        if (n == w->high || ended(w, n) || !w->journal.records[n].part) /* a part was acknowledged */
            compare(w, h, (struct moment){n, 0});
        if (n >= w->high)
            break;
        next_of(w, h, &op, &rc);
        part = rc == 0 ? op_part(h, &op) : 0;
        if (part && part < op.len) {
            history_part(h, &op, part);
            compare(w, h, (struct moment){n, part});
        }
        history_done(h, &op, rc);
    }
    history_free(h);
    return w->fit_count > 0;
}

static void show_nearest(struct writer *w)
{
    static struct sights model;
    struct history *h = live_again(w, w->nearest);

    history_look(h, &model);
    differences(&w->found, &model, true);
    history_free(h);
}

/* ---- which moments are legal --------------------------------------------------------------- */

/* When the last sync was begun that had returned before `cut`; of all writers. */
static uint64_t last_sync(uint64_t cut)
{
    uint64_t last = 0;

    for (unsigned k = 0; k < writer_count; k++)
        for (uint64_t i = journal_begun(&writers[k].journal); i-- > 0;) {
            const struct journal_record *r = &writers[k].journal.records[i];
            if (r->is_sync && r->rc == 0 && ended(&writers[k], i) && ended(&writers[k], i) < cut) {
                last = r->begin_ns > last ? r->begin_ns : last;
                break;
            }
        }
    return last;
}

static void bounds(struct writer *w, enum way way, uint64_t cut, uint64_t sync)
{
    w->low = journal_acknowledged(&w->journal);
    w->high = way == WAY_LIVE ? w->low : journal_begun(&w->journal);
    if (way != WAY_CUT)
        return;
    while (w->high > 0 && w->journal.records[w->high - 1].begin_ns > cut)
        w->high--;
    while (w->low > 0 && (w->low > w->high || ended(w, w->low - 1) >= sync))
        w->low--;
}

/* When the last operation was begun of which something is there. */
static uint64_t present(const struct writer *w)
{
    uint64_t n = w->chosen.n + (w->chosen.part != 0);

    return n > 0 ? w->journal.records[n - 1].begin_ns : 0;
}

/* Whether the moments chosen so far go together: nothing absent that ended before something present began. */
static bool together(unsigned count)
{
    for (unsigned a = 0; a < count; a++) {
        uint64_t end = writers[a].chosen.n < writers[a].high ? ended(&writers[a], writers[a].chosen.n) : 0;
        for (unsigned b = 0; end && b < count; b++)
            if (present(&writers[b]) > end)
                return false;
    }
    return true;
}

static bool choose(unsigned k)
{
    if (k == writer_count)
        return true;
    for (unsigned i = 0; i < writers[k].fit_count; i++) {
        writers[k].chosen = writers[k].fits[i];
        if (together(k + 1) && choose(k + 1))
            return true;
    }
    return false;
}

/* ---- all together -------------------------------------------------------------------------- */

static bool verify(enum way way, uint64_t cut)
{
    uint64_t sync = way == WAY_CUT ? last_sync(cut) : 0;
    bool good = true;

    for (unsigned k = 0; k < writer_count; k++) {
        struct writer *w = &writers[k];
        bounds(w, way, cut, sync);
        if (!scan(w)) {
            good = false;
        } else if (!search(w)) {
            good = false;
            printf("FAILED: %s is no moment of its history (seed %llu) from operation %llu to %llu; nearest "
                   "is %llu, "
                   "%llu names differ\n",
                   w->directory, (unsigned long long)w->journal.header->seed, (unsigned long long)w->low,
                   (unsigned long long)w->high, (unsigned long long)w->nearest.n,
                   (unsigned long long)w->nearest_differs);
            show_nearest(w);
        }
    }
    if (good && !choose(0)) {
        good = false;
        printf("FAILED: the directories are not of one moment:");
        for (unsigned k = 0; k < writer_count; k++)
            printf(" %llu", (unsigned long long)writers[k].fits[0].n);
        printf("\n");
    }
    return good;
}

static void report(uint64_t cut)
{
    uint64_t operations = 0, lost = 0, under_way = 0, halves = 0, age = 0;

    for (unsigned k = 0; k < writer_count; k++) {
        const struct writer *w = &writers[k];
        uint64_t acknowledged = 0;
        operations += w->chosen.n;
        for (uint64_t i = w->chosen.n; i < w->high; i++)
            if (ended(w, i) && (!cut || ended(w, i) < cut)) {
                acknowledged++;
                if (cut && cut - ended(w, i) > age)
                    age = cut - ended(w, i);
            }
        lost += acknowledged;
        under_way += w->chosen.n > journal_acknowledged(&w->journal);
        halves += w->chosen.part != 0;
    }
    printf("operations=%llu under_way_kept=%llu halves=%llu", (unsigned long long)operations,
           (unsigned long long)under_way, (unsigned long long)halves);
    if (cut)
        printf(" unsynced_lost=%llu moment_age_ms=%llu", (unsigned long long)lost,
               (unsigned long long)(age / 1000000));
    printf("\n");
}

/* Takes what is there of an operation that was under way as its answer. */
static void adopt(void)
{
    for (unsigned k = 0; k < writer_count; k++) {
        struct writer *w = &writers[k];
        uint64_t n = w->chosen.n + (w->chosen.part != 0);
        if (n > 0 && (w->chosen.part || ended(w, n - 1) == 0)) {
            w->journal.records[n - 1].rc = 0;
            w->journal.records[n - 1].part = w->chosen.part;
            w->journal.records[n - 1].end_ns = now_ns();
        }
        journal_cut(&w->journal, n);
    }
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"cut", 1, NULL, 'c'},
                                          {"killed", 0, NULL, 'k'},
                                          {"adopt", 0, NULL, 'a'},
                                          {"live", 0, NULL, 'l'},
                                          {NULL, 0, NULL, 0}};
    enum way way = WAY_LIVE;
    bool adopting = false, good;
    uint64_t cut = 0;
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'c':
            way = WAY_CUT;
            cut = strcmp(optarg, "now") == 0 ? now_ns() : strtoull(optarg, NULL, 10);
            break;
        case 'k': way = WAY_KILLED; break;
        case 'a': adopting = true; break;
        case 'l': way = WAY_LIVE; break;
        default: optind = argc;
        }
    }
    if (optind >= argc || (argc - optind) % 2 != 0 || (argc - optind) / 2 > (int)WRITERS_MAX) {
        fprintf(stderr,
                "usage: rehearse_verify [--cut=NS | --killed | --live] [--adopt] DIRECTORY JOURNAL...\n");
        return 2;
    }
    for (; optind < argc; optind += 2) {
        struct writer *w = &writers[writer_count++];
        w->directory = argv[optind];
        w->journal_path = argv[optind + 1];
        if (!journal_open(w->journal_path, 0, &w->journal))
            return 2;
    }
    good = verify(way, cut);
    if (good) {
        report(cut);
        if (adopting)
            adopt();
    }
    return good ? 0 : 1;
}
