/*
 * blob_file.c - see blob_file.h; the format stands in blob_format.h.
 *
 * A part of a value is read together with the checksums in front of it where both lie within READ_SPAN_BYTES,
 * by one pread, else by two.
 */
#include "blob_file.h"

#include "mutant.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_SPAN_BYTES (32u << 10) /* copying so much in vain costs about what a second request does */
#define CHUNKS_MAX (LSM_VALUE_MAX / BLOB_CHUNK_BYTES)
static_assert(BLOB_WRITE_BYTES / BLOB_CHUNK_BYTES + BLOB_WRITE_VALUES <= CHUNKS_MAX, "nor do several");
static_assert(LSM_VALUE_MAX % BLOB_CHUNK_BYTES == 0, "an extent has at most CHUNKS_MAX chunks");

int blob_pointer_decode(const void *bytes, size_t len, struct blob_pointer *out)
{
    struct reader r = reader_of(bytes, len);
    uint64_t number = read_varint(&r), offset = read_varint(&r), extent = read_varint(&r),
             from = read_varint(&r), length = read_varint(&r);
    if (r.bad || reader_left(&r) || number == 0 || number > SEQ_MAX || offset < BLOB_HEADER_BYTES ||
        offset > BLOB_OFFSET_MAX || extent == 0 || extent > LSM_VALUE_MAX || from > extent ||
        length > extent - from)
        return -EBADMSG;
    *out = (struct blob_pointer){number, offset, (uint32_t)extent, (uint32_t)from, (uint32_t)length};
    return 0;
}

void blob_header_encode(uint64_t number, uint64_t salt, unsigned shard, struct blob_header *out)
{
    memset(out, 0, sizeof *out);
    memcpy(out->magic, BLOB_MAGIC, sizeof out->magic);
    put_le32(out->version, BLOB_VERSION);
    put_le64(out->number, number);
    put_le64(out->salt, salt);
    put_le32(out->shard, shard);
    put_le32(out->chunk_bytes, BLOB_CHUNK_BYTES);
    put_le64(out->checksum, XXH3_64bits(out, offsetof(struct blob_header, checksum)));
}

const char *blob_header_check(const struct blob_header *h, uint64_t number, uint64_t salt, unsigned shard,
                              bool *newer)
{
    *newer = false;
    if (memcmp(h->magic, BLOB_MAGIC, sizeof h->magic) != 0)
        return "this is not a blob file: wrong magic";
    if (get_le64(h->checksum) != XXH3_64bits(h, offsetof(struct blob_header, checksum)))
        return "the checksum of its header does not match";
    *newer = get_le32(h->version) > BLOB_VERSION || get_le32(h->incompat);
    if (*newer)
        return "written by a newer release";
    if (get_le64(h->number) != number || get_le64(h->salt) != salt || get_le32(h->shard) != shard ||
        get_le32(h->chunk_bytes) != BLOB_CHUNK_BYTES)
        return "its header is that of another blob file";
    return NULL;
}

void blob_path(const char *dir, uint64_t number, char *buf, size_t size)
{
    (void)snprintf(buf, size, "%s/%06" PRIu64 ".blob", dir, number);
}

/* ---- making and opening ---- */

static int file_new(struct env *env, const char *dir, const struct logger *log, const struct blob_meta *meta,
                    struct blob_file **out)
{
    size_t size = strlen(dir) + 40;
    struct blob_file *f = calloc(1, sizeof *f);
    if (!f || !(f->path = malloc(size))) {
        free(f);
        return -ENOMEM;
    }
    blob_path(dir, meta->number, f->path, size);
    f->number = meta->number;
    f->salt = meta->salt;
    f->shard = meta->shard;
    f->refs = 1;
    f->env = env;
    f->log = log;
    *out = f;
    return 0;
}

int blob_file_create(struct env *env, const char *dir, const struct logger *log, const struct blob_meta *meta,
                     struct blob_file **out)
{
    struct blob_file *f;
    struct blob_header header;
    int err = file_new(env, dir, log, meta, &f);
    if (err)
        return err;
    blob_header_encode(meta->number, meta->salt, meta->shard, &header);
    err = env_open(env, f->path, ENV_READ | ENV_WRITE | ENV_CREATE | ENV_EXCL, &f->file);
    bool created = !err;
    if (!err)
        err = env_pwrite(f->file, &header, sizeof header, 0);
    if (!err)
        err = env_sync(f->file);
    if (err) {
        if (created)
            (void)env_unlink(env, f->path); /* else the next open does it */
        blob_file_free(f);
        return err;
    }
    f->bytes = sizeof header;
    *out = f;
    return 0;
}

int blob_file_open(struct env *env, const char *dir, const struct logger *log, const struct blob_meta *meta,
                   bool write, struct blob_file **out)
{
    struct blob_file *f;
    int err = file_new(env, dir, log, meta, &f);
    if (err)
        return err;
    err = env_open(env, f->path, write ? ENV_READ | ENV_WRITE : ENV_READ, &f->file);
    if (err == -ENOENT) {
        (void)logger_corrupt(log, f->path, 0, "the manifest names this blob file, but it is missing");
        f->file = NULL;
        err = 0;
    } else if (!err) {
        err = env_size(f->file, &f->bytes);
    }
    if (err) {
        blob_file_free(f);
        return err;
    }
    if (f->bytes < BLOB_HEADER_BYTES) /* torn, and nothing is in it: extents stay off the header's place */
        f->bytes = BLOB_HEADER_BYTES;
    *out = f;
    return 0;
}

int blob_read_meta(struct env *env, const char *dir, uint64_t number, struct blob_meta *out)
{
    size_t size = strlen(dir) + 40;
    char *path = malloc(size);
    struct env_file *file = NULL;
    struct blob_header h;
    bool newer = false;
    if (!path)
        return -ENOMEM;
    blob_path(dir, number, path, size);
    int err = env_open(env, path, ENV_READ, &file);
    free(path);
    if (err)
        return err;
    ssize_t n = env_pread(file, &h, sizeof h, 0);
    env_close(file);
    if (n < 0)
        return (int)n;
    if ((size_t)n < sizeof h)
        return -EIO;
    *out = (struct blob_meta){number, get_le64(h.salt), get_le32(h.shard)};
    const char *wrong = blob_header_check(&h, number, out->salt, out->shard, &newer);
    return newer ? -ENOTSUP : wrong ? -EIO : 0;
}

const char *blob_file_check_header(struct blob_file *f)
{
    struct blob_header h;
    bool newer;
    if (!f->file)
        return "it is missing";
    ssize_t n = env_pread(f->file, &h, sizeof h, 0);
    if (n < (ssize_t)sizeof h)
        return n < 0 ? strerror((int)-n) : "it is shorter than its header";
    return blob_header_check(&h, f->number, f->salt, f->shard, &newer);
}

void blob_file_free(struct blob_file *f)
{
    if (!f)
        return;
    env_close(f->file);
    free(f->path);
    free(f);
}

/* ---- writing ---- */

static uint64_t checksum_at(const struct blob_file *f, const struct blob_pointer *p, uint32_t chunk,
                            const uint8_t *data, size_t len)
{
    return blob_chunk_checksum(f->number, f->salt, blob_data_offset(p) + (uint64_t)chunk * BLOB_CHUNK_BYTES,
                               data, len);
}

static uint32_t chunk_len(const struct blob_pointer *p, uint32_t chunk)
{
    uint32_t rest = p->extent_bytes - chunk * BLOB_CHUNK_BYTES;
    return rest < BLOB_CHUNK_BYTES ? rest : BLOB_CHUNK_BYTES;
}

/* Of a chunk of a value that may lie in two pieces. */
static uint64_t checksum_of_parts(const struct blob_file *f, const struct blob_value *v, uint32_t chunk)
{
    const struct blob_pointer *p = &v->pointer;
    const uint8_t *first = v->bytes[0].iov_base, *second = v->bytes[1].iov_base;
    const size_t from = (size_t)chunk * BLOB_CHUNK_BYTES, len = chunk_len(p, chunk),
                 cut = v->bytes[0].iov_len;
    if (from + len <= cut)
        return checksum_at(f, p, chunk, first + from, len);
    if (from >= cut)
        return checksum_at(f, p, chunk, second + (from - cut), len);
    uint8_t both[BLOB_CHUNK_BYTES];
    memcpy(both, first + from, cut - from);
    memcpy(both + (cut - from), second, len - (cut - from));
    return checksum_at(f, p, chunk, both, len);
}

int blob_extents_write(struct blob_file *f, const struct blob_value *values, unsigned count)
{
    uint8_t sums[8 * CHUNKS_MAX];
    struct iovec iov[3 * BLOB_WRITE_VALUES];
    size_t done = 0;
    assert(count > 0 && count <= BLOB_WRITE_VALUES);
    for (unsigned i = 0; i < count; i++) {
        const struct blob_value *v = &values[i];
        const uint32_t n = blob_chunks(v->pointer.extent_bytes);
        assert(done + n <= CHUNKS_MAX &&
               v->bytes[0].iov_len + v->bytes[1].iov_len == v->pointer.extent_bytes);
        iov[3 * i] = (struct iovec){sums + 8 * done, (size_t)8 * n};
        iov[3 * i + 1] = v->bytes[0];
        iov[3 * i + 2] = v->bytes[1];
        for (uint32_t chunk = 0; chunk < n; chunk++, done++)
            put_le64(sums + 8 * done, checksum_of_parts(f, v, chunk));
    }
    return env_pwritev(f->file, iov, (int)(3 * count), values[0].pointer.offset);
}

/* ---- reading ---- */

static int bad(const struct blob_file *f, unsigned how, uint64_t offset, const char *what)
{
    if (!(how & BLOB_QUIET))
        (void)logger_corrupt(f->log, f->path, offset, "%s", what);
    return -EBADMSG;
}

static int read_exactly(struct blob_file *f, void *buf, size_t len, uint64_t offset, unsigned how)
{
    if (!f->file)
        return bad(f, how, offset, "the blob file is missing, and a value in it with it");
    ssize_t n = how & BLOB_NOWAIT ? env_pread_nowait(f->file, buf, len, offset)
                                  : env_pread(f->file, buf, len, offset);
    if (n < 0)
        return (int)n;
    return (size_t)n == len ? 0 : bad(f, how, offset, "the file ends inside a value");
}

static int verify_chunks(const struct blob_file *f, const struct blob_pointer *p, uint32_t first,
                         uint32_t count, const uint8_t *sums, const uint8_t *data, unsigned how)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t is =
            checksum_at(f, p, first + i, data + (size_t)i * BLOB_CHUNK_BYTES, chunk_len(p, first + i));
        if (get_le64(sums + (size_t)8 * i) != is && !mutant("checksum of a blob ignored"))
            return bad(f, how, blob_data_offset(p) + (uint64_t)(first + i) * BLOB_CHUNK_BYTES,
                       "the checksum of a value does not match");
    }
    return 0;
}

int blob_extent_read(struct blob_file *f, const struct blob_pointer *p, unsigned how, uint8_t **extent)
{
    size_t len = blob_disk_bytes(p->extent_bytes);
    uint32_t n = blob_chunks(p->extent_bytes);
    uint8_t *buf = malloc(len);
    int err = buf ? read_exactly(f, buf, len, p->offset, how) : -ENOMEM;
    if (!err)
        err = verify_chunks(f, p, 0, n, buf, buf + (size_t)8 * n, how);
    if (err)
        free(buf);
    else
        *extent = buf;
    return err;
}

int blob_read(struct blob_file *f, const struct blob_pointer *p, uint32_t from, uint32_t len, unsigned how,
              void *buf)
{
    assert(from <= p->length && len <= p->length - from);
    if (!len)
        return 0;
    uint32_t start = p->from + from;
    uint32_t first = start / BLOB_CHUNK_BYTES, last = (start + len - 1) / BLOB_CHUNK_BYTES;
    uint64_t data_at = blob_data_offset(p) + (uint64_t)first * BLOB_CHUNK_BYTES;
    uint64_t sums_at = p->offset + UINT64_C(8) * first;
    size_t sums_len = (size_t)8 * (last - first + 1);
    size_t data_len = (size_t)(last - first) * BLOB_CHUNK_BYTES + chunk_len(p, last);
    size_t skip = start - first * BLOB_CHUNK_BYTES;
    bool whole = skip == 0 && data_len == len; /* the caller's buffer is as good as one of ours */
    bool together = !whole && data_at + data_len - sums_at <= READ_SPAN_BYTES;
    size_t need = sums_len + data_len;
    if (together)
        need = (size_t)(data_at + data_len - sums_at);
    else if (whole)
        need = sums_len;
    uint8_t *own = malloc(need);
    if (!own)
        return -ENOMEM;
    const uint8_t *data = whole ? buf : together ? own + (data_at - sums_at) : own + sums_len;
    int err = read_exactly(f, own, together ? need : sums_len, sums_at, how);
    if (!err && !together)
        err = read_exactly(f, whole ? buf : own + sums_len, data_len, data_at, how);
    if (!err)
        err = verify_chunks(f, p, first, last - first + 1, own, data, how);
    if (!err && !whole)
        memcpy(buf, data + skip, len);
    free(own);
    return err == -EBADMSG ? -EIO : err;
}
