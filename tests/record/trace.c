/* trace.c - see trace.h, which specifies the format. */
#include "trace.h"

#include "coding.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define MAGIC "SHALETRC"
#define VERSION 1u
#define HEADER_BYTES 64u
#define RECORD_BYTES 56u /* without names and data */
#define CHECKSUM_BYTES 8u
#define FLAG_ZEROS 1u

struct trace_writer {
    int fd, error;
    uint64_t salt, count, began_ns;
    uint8_t *buf;
};

static const char *const names[TRACE_TYPES] = {
    "?",     "mkdir",    "create",   "symlink", "link",       "unlink",   "rmdir", "rename", "exchange",
    "write", "truncate", "allocate", "mode",    "sync-begin", "sync-end", "fact",  "base",   "end"};

const char *trace_type_name(enum trace_type type) { return type < TRACE_TYPES ? names[type] : "?"; }

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* ---- writing ---- */

static int write_all(int fd, const uint8_t *p, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int trace_create(const char *path, struct trace_writer **out)
{
    uint8_t header[HEADER_BYTES] = {0};
    struct trace_writer *w = calloc(1, sizeof(*w));
    int rc = -ENOMEM;

    if (!w || !(w->buf = malloc(RECORD_BYTES + 2 * TRACE_NAME_MAX + TRACE_DATA_MAX + 8 + CHECKSUM_BYTES)))
        goto out;
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    rc = w->fd < 0 ? -errno : 0;
    if (!rc && getrandom(&w->salt, sizeof(w->salt), 0) != sizeof(w->salt))
        rc = -errno;
    memcpy(header, MAGIC, 8);
    put_le32(header + 8, VERSION);
    put_le64(header + 16, w->salt);
    put_le64(header + 56, XXH3_64bits(header, 56));
    if (!rc)
        rc = write_all(w->fd, header, sizeof(header));
    w->began_ns = now_ns();
    if (rc && w->fd >= 0)
        close(w->fd);
out:
    if (rc) {
        if (w)
            free(w->buf);
        free(w);
        return rc;
    }
    *out = w;
    return 0;
}

static bool all_zeros(const uint8_t *p, size_t len)
{
    return len > 0 && p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static size_t encode(const struct trace_writer *w, const struct trace_record *r, uint8_t *buf)
{
    bool zeros = r->type == TRACE_WRITE && (r->zeros || all_zeros(r->data, r->data_len));
    size_t stored = zeros ? 0 : r->data_len, at = RECORD_BYTES;

    memset(buf, 0, RECORD_BYTES);
    buf[4] = (uint8_t)r->type;
    buf[5] = zeros ? FLAG_ZEROS : 0;
    put_le16(buf + 6, (uint16_t)r->name_len);
    put_le64(buf + 8, r->number);
    put_le64(buf + 16, r->time_ns);
    put_le64(buf + 24, r->id);
    put_le64(buf + 32, r->a);
    put_le64(buf + 40, r->b);
    put_le32(buf + 48, r->data_len);
    put_le16(buf + 52, (uint16_t)r->name2_len);
    if (r->name_len)
        memcpy(buf + at, r->name, r->name_len);
    at += r->name_len;
    if (r->name2_len)
        memcpy(buf + at, r->name2, r->name2_len);
    at += r->name2_len;
    if (stored)
        memcpy(buf + at, r->data, stored);
    at += stored;
    while (at % 8)
        buf[at++] = 0;
    put_le32(buf, (uint32_t)(at + CHECKSUM_BYTES));
    put_le64(buf + at, XXH3_64bits_withSeed(buf, at, w->salt + r->number));
    return at + CHECKSUM_BYTES;
}

int64_t trace_append(struct trace_writer *w, struct trace_record *r)
{
    if (!w->error &&
        (r->name_len > TRACE_NAME_MAX || r->name2_len > TRACE_NAME_MAX || r->data_len > TRACE_DATA_MAX))
        w->error = -E2BIG;
    if (w->error)
        return w->error;
    r->number = w->count;
    r->time_ns = now_ns() - w->began_ns;
    w->error = write_all(w->fd, w->buf, encode(w, r, w->buf));
    if (w->error)
        return w->error;
    return (int64_t)w->count++;
}

uint64_t trace_count(const struct trace_writer *w) { return w->count; }

int trace_finish(struct trace_writer *w)
{
    struct trace_record end = {.type = TRACE_END};

    (void)trace_append(w, &end); /* its error stays in w */
    int rc = w->error;
    if (close(w->fd) && !rc)
        rc = -errno;
    free(w->buf);
    free(w);
    return rc;
}

/* ---- reading ---- */

static int bad(const char *path, uint64_t offset, const char *what)
{
    fprintf(stderr, "%s: at %" PRIu64 ": %s\n", path, offset, what);
    return -EUCLEAN;
}

/* 0, or 1 if the record is cut off, or a negative errno. */
static int decode(const char *path, const uint8_t *file, uint64_t bytes, uint64_t at, uint64_t salt,
                  struct trace_record *r, uint32_t *len)
{
    const uint8_t *p = file + at;
    uint64_t left = bytes - at, needed;

    if (left < RECORD_BYTES + CHECKSUM_BYTES)
        return 1;
    *len = get_le32(p);
    if (*len < RECORD_BYTES + CHECKSUM_BYTES || *len % 8 ||
        *len > RECORD_BYTES + 2 * TRACE_NAME_MAX + TRACE_DATA_MAX + 8 + CHECKSUM_BYTES)
        return bad(path, at, "a length that cannot be");
    if (*len > left)
        return 1;
    if (get_le64(p + *len - CHECKSUM_BYTES) !=
        XXH3_64bits_withSeed(p, *len - CHECKSUM_BYTES, salt + r->number))
        return bad(path, at, "a wrong checksum");
    if (get_le64(p + 8) != r->number)
        return bad(path, at, "a wrong number");
    *r = (struct trace_record){.type = p[4],
                               .zeros = p[5] & FLAG_ZEROS,
                               .number = r->number,
                               .time_ns = get_le64(p + 16),
                               .id = get_le64(p + 24),
                               .a = get_le64(p + 32),
                               .b = get_le64(p + 40),
                               .name_len = get_le16(p + 6),
                               .data_len = get_le32(p + 48),
                               .name2_len = get_le16(p + 52)};
    needed = RECORD_BYTES + r->name_len + r->name2_len + (r->zeros ? 0 : r->data_len) + CHECKSUM_BYTES;
    if (r->type == 0 || r->type >= TRACE_TYPES || (p[5] & ~FLAG_ZEROS) || r->name_len > TRACE_NAME_MAX ||
        r->name2_len > TRACE_NAME_MAX || r->data_len > TRACE_DATA_MAX || (needed + 7) / 8 * 8 != *len)
        return bad(path, at, "a record that cannot be");
    r->name = (const char *)p + RECORD_BYTES;
    r->name2 = r->name + r->name_len;
    r->data = r->zeros ? NULL : p + RECORD_BYTES + r->name_len + r->name2_len;
    return 0;
}

static int check_header(const char *path, const struct trace *t)
{
    const uint8_t *p = t->map;

    if (memcmp(p, MAGIC, 8) != 0 || get_le64(p + 56) != XXH3_64bits(p, 56))
        return bad(path, 0, "this is no trace");
    if (get_le32(p + 8) != VERSION || get_le32(p + 12) != 0)
        return bad(path, 8, "a version or a feature that this program does not know");
    return 0;
}

static int load_records(const char *path, struct trace *t)
{
    uint64_t at = HEADER_BYTES, capacity = 0, salt = get_le64((const uint8_t *)t->map + 16);

    while (at < t->bytes) {
        uint32_t len = 0;
        if (t->count == capacity) {
            capacity = capacity ? 2 * capacity : 1024;
            struct trace_record *more = realloc(t->records, capacity * sizeof(*more));
            if (!more)
                return -ENOMEM;
            t->records = more;
        }
        struct trace_record *r = &t->records[t->count];
        r->number = t->count;
        int rc = decode(path, t->map, t->bytes, at, salt, r, &len);
        t->cut_off = rc == 1;
        if (rc)
            return rc < 0 ? rc : 0;
        t->count++;
        at += len;
    }
    return 0;
}

int trace_load(const char *path, struct trace *out)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    *out = (struct trace){0};
    if (fd < 0 || fstat(fd, &st)) {
        int rc = -errno;
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    out->bytes = (uint64_t)st.st_size;
    out->map =
        out->bytes >= HEADER_BYTES ? mmap(NULL, out->bytes, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (out->map == MAP_FAILED) {
        out->map = NULL;
        return bad(path, 0, "this is no trace");
    }
    int rc = check_header(path, out);
    if (!rc)
        rc = load_records(path, out);
    if (rc)
        trace_unload(out);
    return rc;
}

void trace_unload(struct trace *t)
{
    free(t->records);
    if (t->map)
        munmap(t->map, t->bytes);
    *t = (struct trace){0};
}
