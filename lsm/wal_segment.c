/*
 * wal_segment.c - makes segment files ready for the log before they are needed, and takes them back.
 *
 * A segment file lives through:  new file -> prepared -> in the log -> retired -> pool -> prepared ...
 *   - A new file is allocated, fully written with zeros, synced, and its directory is synced: appends
 *     into it later change no metadata, which is what makes them cheap to sync. It is to be written over in
 *     place (ENV_IN_PLACE), or a copy-on-write filesystem would need space for each record, and a full disk end the log.
 *   - Either kind is "prepared" by a use with a fresh salt and its base, recorded in the manifest and
 *     synced there (callback `use`) before the first record can go in.
 *   - A segment is retired when wal_release says that its records are flushed and the log is synced
 *     past it; only then its descriptor is closed.
 *   - Of the pool all but what makes one spare, with the prepared one, is removed once nothing was appended for
 *     WAL_REST_NS, and when the log is closed: after a burst of writes several segments would stay for good. The burst
 *     after that makes them anew, beside appends to the spare.
 *
 * A failure here never fails the log. It is returned to the writers that need the segment, and
 * tried again when one asks again or when a file comes free. A new file whose writing or
 * sync failed is deleted, never synced a second time; the next attempt makes another.
 *
 * Threads: with threads, one preparer does all of this (one segment ahead of need), and closes what is
 * retired, so that it may use a segment it looked up without holding the lock. Without, the callers
 * do it, one at a time through `preparing`.
 */
#include "mutant.h"
#include "wal_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

/*
 * Of one write into a new file. Linux keeps what is written at once in folios as large as that, and a later small
 * append into a folio looks at every block of it: puts of 400 bytes took 3.3 us (p50) into a file filled
 * 1 MiB at a time, 1.8 us with 16 or 64 KiB, 2.2 us with 4 KiB.
 */
#define FILL_BYTES (16u << 10)
#define WARM_BYTES (256u << 10)
/*
 * What is kept writable ahead of the tail, so that appends take no page faults. Each of its
 * pages is dirtied once more than needed, which a sync pays for; 256 KiB is 64 faults.
 */
#define WINDOW_BYTES (256u << 10)
#define WAL_REST_NS UINT64_C(2000000000)
#define TOUCH_BYTES 8192u /* made writable again at the tail after each sync: this page and the next */

struct segment *segment_new(uint64_t number)
{
    struct segment *s = calloc(1, sizeof(*s));

    if (s)
        s->use.number = number;
    return s;
}

void segment_free(struct segment *s)
{
    env_close(s->file);
    free(s);
}

static void push(struct segment **list, struct segment *s)
{
    s->next = *list;
    *list = s;
}

static struct segment *pop(struct segment **list)
{
    struct segment *s = *list;

    if (s) {
        *list = s->next;
        s->next = NULL;
    }
    return s;
}

/* ---- files ---- */

static char *path_new(const struct wal *wal, uint64_t number)
{
    size_t size = strlen(wal->dir) + WAL_PATH_EXTRA;
    char *path = malloc(size);

    if (path)
        wal_segment_path(wal->dir, number, path, size);
    return path;
}

int wal_segment_fill(struct env_file *file, uint64_t from, uint64_t bytes)
{
    int rc = env_allocate(file, 0, bytes); /* in one piece, and a full disk is found out before writing */

    if (rc && rc != -EOPNOTSUPP)
        return rc;
    uint8_t *zeros = calloc(1, FILL_BYTES);
    if (!zeros)
        return -ENOMEM;
    rc = 0;
    for (uint64_t off = from; off < bytes && !rc;) {
        uint64_t left = bytes - off, piece = FILL_BYTES - off % FILL_BYTES;
        piece = left < piece ? left : piece;
        rc = env_pwrite(file, zeros, (size_t)piece, off);
        off += piece;
    }
    free(zeros);
    return rc;
}

static int create_file(struct wal *wal, struct segment *s, const char *path)
{
    struct env *env = wal->options.env;

    int rc = env_open(env, path, ENV_READ | ENV_WRITE | ENV_CREATE | ENV_EXCL | ENV_IN_PLACE, &s->file);
    if (rc)
        return rc;
    rc = wal_segment_fill(s->file, 0, wal->options.segment_bytes);
    if (!rc)
        rc = env_sync(s->file);
    if (!rc && !mutant("directory not synced for a segment"))
        rc = env_sync_dir(env, wal->dir);
    if (rc) {
        env_close(s->file);
        s->file = NULL;
        int gone = env_unlink(env, path);
        if (gone)
            logger_write(&wal->options.log, LSM_LOG_WARNING, "cannot remove unfinished log segment %s: %s",
                         path, strerror(-gone));
    }
    return rc;
}

static int create_segment(struct wal *wal, struct segment **out)
{
    struct segment *s = segment_new(wal->options.new_number(wal->options.arg));
    char *path = s ? path_new(wal, s->use.number) : NULL;
    int rc = path ? create_file(wal, s, path) : -ENOMEM;

    while (rc == -ENOSPC && wal->options.no_space && /* what it gives gets less each time */
           wal->options.no_space(wal->options.arg, wal->options.segment_bytes))
        rc = create_file(wal, s, path);
    free(path);
    if (rc) {
        if (s)
            segment_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

/* Reads the file once: a first store into a page that is not in memory took 16 ms beside a sync. */
static int warm(struct env_file *file, uint64_t bytes)
{
    ssize_t n = 0;
    uint8_t *buf = malloc(WARM_BYTES);

    if (!buf)
        return -ENOMEM;
    for (uint64_t off = 0; off < bytes && n >= 0; off += WARM_BYTES)
        n = env_pread(file, buf, WARM_BYTES, off);
    free(buf);
    return n < 0 ? (int)n : 0;
}

/* -ENODATA: the file can't be used, take another. */
static int reopen_file(struct wal *wal, struct segment *s, const char *path)
{
    uint64_t size = 0;

    int rc = env_open(wal->options.env, path, ENV_READ | ENV_WRITE, &s->file);
    if (rc == -ENOENT)
        return -ENODATA;
    if (rc)
        return rc;
    rc = env_size(s->file, &size);
    if (!rc && size != wal->options.segment_bytes)
        rc = -ENODATA;
    if (!rc && wal->options.threads) {
        rc = warm(s->file, size);
        rc = rc == -EIO ? -ENODATA : rc;
    }
    if (rc) {
        env_close(s->file);
        s->file = NULL;
    }
    return rc;
}

static int reopen_segment(struct wal *wal, struct segment *s)
{
    char *path = path_new(wal, s->use.number);

    if (!path)
        return -ENOMEM;
    int rc = reopen_file(wal, s, path);
    if (rc == -ENODATA)
        logger_write(&wal->options.log, LSM_LOG_WARNING,
                     "log segment %s is missing, unreadable or of a wrong size; not used again", path);
    free(path);
    return rc;
}

/* An open file of the right size: from the pool, else a new one. */
static int obtain(struct wal *wal, struct segment **out)
{
    for (;;) {
        pthread_mutex_lock(&wal->lock);
        struct segment *s = pop(&wal->pool);
        pthread_mutex_unlock(&wal->lock);
        if (!s)
            return create_segment(wal, out);
        int rc = s->file ? 0 : reopen_segment(wal, s);
        if (!rc) {
            *out = s;
            return 0;
        }
        if (rc == -ENODATA) {
            segment_free(s);
            continue;
        }
        pthread_mutex_lock(&wal->lock);
        push(&wal->pool, s);
        pthread_mutex_unlock(&wal->lock);
        return rc;
    }
}

/* ---- preparing ---- */

static void choose_way(struct wal *wal, struct segment *s)
{
    s->mapped = false;
    s->populated = s->use.bytes;
    if (!wal->options.map)
        return;
    int rc = env_map(s->file, s->use.bytes);
    if (rc && rc != -ENOTSUP)
        logger_write(&wal->options.log, LSM_LOG_WARNING,
                     "cannot map log segment %06" PRIu64 ": %s; appending by writes", s->use.number,
                     strerror(-rc));
    if (rc)
        return;
    s->mapped = true;
    s->populated = 0;
    if (wal->options.threads) {
        /* a hint: what is not populated is faulted in by the store */
        (void)env_map_populate(s->file, 0, WINDOW_BYTES);
        s->populated = WINDOW_BYTES;
    }
}

static int begin_use(struct wal *wal, struct segment *s, lsn_t base)
{
    struct wal_use use = {.number = s->use.number, .base = base, .bytes = wal->options.segment_bytes};

    int rc = env_random(wal->options.env, &use.salt, sizeof(use.salt));
    if (rc)
        return rc;
    if (mutant("stale records pass"))
        use.salt = 1;
    s->use = use;
    choose_way(wal, s);
    rc = wal->options.use(wal->options.arg, &s->use);
    s->unsure = rc != 0;
    return rc;
}

int segment_prepare(struct wal *wal)
{
    struct segment *s = NULL;

    pthread_mutex_lock(&wal->lock);
    if (wal->next || wal->preparing) {
        pthread_mutex_unlock(&wal->lock);
        return 0;
    }
    wal->preparing = true;
    wal->next_wanted = false;
    lsn_t base = wal->last ? segment_end(wal->last) : wal->tail;
    pthread_mutex_unlock(&wal->lock);

    int rc = obtain(wal, &s);
    if (!rc)
        rc = begin_use(wal, s, base);

    pthread_mutex_lock(&wal->lock);
    if (!rc)
        wal->next = s;
    else if (s)
        push(&wal->pool, s); /* whole, but its use was not recorded */
    wal->prepare_error = rc;
    wal->prepare_attempts++;
    wal->preparing = false;
    pthread_cond_broadcast(&wal->prepared);
    pthread_mutex_unlock(&wal->lock);
    if (rc)
        logger_write(&wal->options.log, LSM_LOG_WARNING, "cannot prepare a log segment in %s: %s", wal->dir,
                     strerror(-rc));
    return rc;
}

static bool has_spare(const struct wal *wal) { return wal->next || wal->pool || wal->retired; }

bool wal_is_long(const struct wal *wal)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&wal->lock; /* as below */

    pthread_mutex_lock(lock);
    bool is = wal->first != wal->last || wal->live;
    pthread_mutex_unlock(lock);
    return is;
}

bool wal_has_spare(const struct wal *wal)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&wal->lock; /* the caller's view is const, the mutex is not */

    pthread_mutex_lock(lock);
    bool any = has_spare(wal);
    pthread_mutex_unlock(lock);
    return any;
}

bool wal_expects_spare(const struct wal *wal)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&wal->lock;

    pthread_mutex_lock(lock);
    bool any = has_spare(wal) || (wal->preparer && !wal->prepare_error);
    pthread_mutex_unlock(lock);
    return any;
}

int wal_make_spare(struct wal *wal)
{
    struct segment *s = NULL;

    pthread_mutex_lock(&wal->lock);
    while (wal->preparing && !wal->failed)
        pthread_cond_wait(&wal->prepared, &wal->lock);
    bool any = has_spare(wal);
    int rc = wal->failed;
    wal->preparing = !any && !rc;
    pthread_mutex_unlock(&wal->lock);
    if (any || rc)
        return rc;
    rc = create_segment(wal, &s);
    pthread_mutex_lock(&wal->lock);
    if (!rc)
        push(&wal->pool, s);
    wal->preparing = false;
    pthread_cond_broadcast(&wal->prepared);
    pthread_mutex_unlock(&wal->lock);
    return rc;
}

/* ---- taking back ---- */

static lsn_t use_end(const struct wal_use *u) { return u->end ? u->end : u->base + u->bytes; }

static void release_live(struct wal *wal, lsn_t lsn)
{
    for (struct segment **p = &wal->live; *p;) {
        struct segment *s = *p;
        if (use_end(&s->use) > lsn) {
            p = &s->next;
            continue;
        }
        *p = s->next;
        if (s->use.bytes == wal->options.segment_bytes)
            push(&wal->pool, s);
        else
            segment_free(s);
    }
}

void segments_release(struct wal *wal, lsn_t lsn)
{
    if (lsn > wal->synced)
        lsn = wal->synced;
    if (mutant("segments reused too early"))
        lsn = wal->synced;
    release_live(wal, lsn);
    while (wal->first != wal->last && segment_end(wal->first) <= lsn)
        push(&wal->retired, pop(&wal->first));
    if (!wal->next)
        wal->next_wanted = true;
}

void segments_close_retired(struct wal *wal)
{
    pthread_mutex_lock(&wal->lock);
    struct segment *s;
    while ((s = pop(&wal->retired))) {
        pthread_mutex_unlock(&wal->lock);
        env_close(s->file);
        s->file = NULL;
        pthread_mutex_lock(&wal->lock);
        push(&wal->pool, s);
    }
    pthread_mutex_unlock(&wal->lock);
}

/* What may be removed of the pool, one that comes after the first if that is the spare. Lock held. */
static struct segment **excess(struct wal *wal)
{
    struct segment **p = &wal->pool;

    if (!wal->next && *p)
        p = &(*p)->next;
    while (*p && (*p)->unsure)
        p = &(*p)->next;
    return p;
}

void segments_trim(struct wal *wal)
{
    struct segment *s;

    do {
        pthread_mutex_lock(&wal->lock);
        s = pop(excess(wal));
        pthread_mutex_unlock(&wal->lock);
        char *path = s ? path_new(wal, s->use.number) : NULL;
        /* Nothing names it: the edit that did without its records is on the medium. Else the next open finds it. */
        int rc = path ? env_unlink(wal->options.env, path) : 0;
        if (rc && rc != -ENOENT)
            logger_write(&wal->options.log, LSM_LOG_WARNING, "cannot remove log segment %s: %s", path,
                         strerror(-rc));
        free(path);
        if (s)
            segment_free(s);
    } while (s);
}

/* ---- the preparer ---- */

/* Lock held. True if nothing was appended for a while, and there is something to remove. */
static bool is_at_rest(struct wal *wal)
{
    uint64_t now = env_mono_ns(wal->options.env);

    if (wal->rest_tail != wal->tail) {
        wal->rest_tail = wal->tail;
        wal->rest_ns = now + WAL_REST_NS;
    }
    return now >= wal->rest_ns && *excess(wal);
}

bool segments_rest(struct wal *wal)
{
    pthread_mutex_lock(&wal->lock);
    bool due = is_at_rest(wal);
    pthread_mutex_unlock(&wal->lock);
    if (due)
        segments_trim(wal);
    return due;
}

/* Lock held. As above; else waits, for that, too. */
static bool wait_for_rest(struct wal *wal)
{
    if (!*excess(wal)) {
        pthread_cond_wait(&wal->preparer_wake, &wal->lock);
        return false;
    }
    if (is_at_rest(wal))
        return true;
    /* An env that starts threads counts its clock as CLOCK_MONOTONIC does. */
    struct timespec until = {(time_t)(wal->rest_ns / 1000000000u), (long)(wal->rest_ns % 1000000000u)};
    pthread_cond_timedwait(&wal->preparer_wake, &wal->lock, &until);
    return false;
}

bool segment_window_low(const struct wal *wal)
{
    const struct segment *s = wal->last;

    return s->mapped && s->populated < s->use.bytes &&
           wal->tail - s->use.base + WINDOW_BYTES / 2 > s->populated;
}

/* Lock held; dropped meanwhile. Only this thread closes segments, so s stays. */
static void extend_window(struct wal *wal)
{
    struct segment *s = wal->last;
    uint64_t tail = wal->tail - s->use.base, from = s->populated > tail ? s->populated : tail;
    uint64_t to = tail + WINDOW_BYTES < s->use.bytes ? tail + WINDOW_BYTES : s->use.bytes;

    pthread_mutex_unlock(&wal->lock);
    (void)env_map_populate(s->file, from, to - from); /* a hint */
    pthread_mutex_lock(&wal->lock);
    s->populated = to;
}

void segment_touch_tail(struct segment *s, uint64_t offset)
{
    (void)env_map_populate(s->file, offset, TOUCH_BYTES); /* a hint */
}

void preparer_main(void *arg)
{
    struct wal *wal = arg;

    pthread_mutex_lock(&wal->lock);
    while (!wal->stopping) {
        bool prepare = !wal->next && !wal->failed && (wal->next_wanted || !wal->prepare_error);
        if (wal->retired || prepare) {
            pthread_mutex_unlock(&wal->lock);
            segments_close_retired(wal);
            if (prepare)
                segment_prepare(wal); /* its result is in prepare_error, for those who wait */
            pthread_mutex_lock(&wal->lock);
        } else if (segment_window_low(wal)) {
            extend_window(wal);
        } else if (wait_for_rest(wal)) {
            pthread_mutex_unlock(&wal->lock);
            segments_trim(wal);
            pthread_mutex_lock(&wal->lock);
        }
    }
    pthread_mutex_unlock(&wal->lock);
}
