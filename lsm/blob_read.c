/*
 * blob_read.c - see blob_read.h.
 */
#include "blob_read.h"

#include <errno.h>
#include <stdlib.h>

/*
 * As much as a FUSE request has: of values of 32 KiB the kernel would read 128 KiB ahead by itself.
 */
#define READ_AHEAD_BYTES (1u << 20)

static void release_memory(void *pin, void *pin2)
{
    (void)pin2;
    free(pin);
}

static int bad_pointer(struct lsm *db)
{
    logger_write(&db->log, LSM_LOG_ERROR, "%s: an entry is no pointer into a blob file; run `shale check`",
                 db->path);
    return -EIO;
}

int blob_value_len(struct lsm *db, const uint8_t *pointer, size_t pointer_len, size_t *total)
{
    struct blob_pointer p;
    if (blob_pointer_decode(pointer, pointer_len, &p))
        return bad_pointer(db);
    *total = p.length;
    return 0;
}

void blob_walk_to(struct blob_walk *w, const struct version *v, const uint8_t *pointer, size_t pointer_len)
{
    struct blob_pointer p;
    if (blob_pointer_decode(pointer, pointer_len, &p)) /* blob_load tells */
        return;
    struct blob_file *f = version_blob(v, p.number);
    if (!f) /* another version knows it */
        return;
    const uint64_t end = p.offset + blob_disk_bytes(p.extent_bytes);
    const bool follows = p.number == w->number && p.offset == w->end;
    if (!follows)
        w->told = w->run = 0;
    w->run += end - p.offset;
    const uint64_t window = 2 * w->run < READ_AHEAD_BYTES ? 2 * w->run : READ_AHEAD_BYTES;
    if (follows && f->file && end + window / 2 > w->told) {
        const uint64_t from = w->told > p.offset ? w->told : p.offset;
        w->told = end + window;
        env_read_ahead(f->file, from, w->told - from);
    }
    w->number = p.number;
    w->end = end;
}

int blob_load(struct lsm *db, const struct version *v, const uint8_t *pointer, size_t pointer_len,
              struct blob_part part, unsigned flags, struct lsm_value *out, size_t *total)
{
    struct blob_pointer p;
    uint8_t *buf;
    if (blob_pointer_decode(pointer, pointer_len, &p))
        return bad_pointer(db);
    struct blob_file *f = version_blob(v, p.number);
    if (!f)
        return -ESTALE;
    part = blob_part_clip(part, p.length);
    *total = p.length;
    *out = (struct lsm_value){0};
    if (!part.len)
        return 0;
    const unsigned how = flags & LSM_NOWAIT ? BLOB_NOWAIT : 0;
    if (part.len == p.extent_bytes) { /* where it lies in the buffer it is handed out */
        int err = blob_extent_read(f, &p, how, &buf);
        if (err)
            return err == -EBADMSG ? -EIO : err;
        out->data = buf + (size_t)8 * blob_chunks(p.extent_bytes);
    } else {
        buf = malloc(part.len);
        int err = buf ? blob_read(f, &p, (uint32_t)part.offset, (uint32_t)part.len, how, buf) : -ENOMEM;
        if (err) {
            free(buf);
            return err;
        }
        out->data = buf;
    }
    count_add(&db->blob_reads, 1);
    count_add(&db->blob_bytes_read, part.len);
    out->len = part.len;
    out->pin = buf;
    out->release = release_memory;
    return 0;
}
