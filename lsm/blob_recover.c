/*
 * blob_recover.c - see blob_recover.h.
 */
#include "blob_recover.h"

#include "batch.h"
#include "mutant.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

struct blob_file *vset_find_blob(const struct vset *vs, uint64_t number)
{
    struct blob_file *f = NULL;
    for (unsigned i = 0; !f && i < vs->identity.shards; i++)
        f = version_blob(vs->current[i], number);
    return f;
}

static int touch(struct blob_recovery *r, struct blob_file *f)
{
    for (size_t i = r->count; i-- > 0;)
        if (r->touched[i] == f)
            return 0;
    if (r->count == r->capacity) {
        size_t capacity = r->capacity ? r->capacity * 2 : 8;
        struct blob_file **grown = realloc(r->touched, capacity * sizeof(struct blob_file *));
        if (!grown)
            return -ENOMEM;
        r->touched = grown;
        r->capacity = capacity;
    }
    r->touched[r->count++] = f;
    return 0;
}

/* The whole extent, whatever part of it is named: it was written by one call, and is written again by one. */
static int check_value(struct blob_recovery *r, const struct blob_pointer *p, bool *good)
{
    struct blob_file *f = vset_find_blob(r->vset, p->number);
    uint8_t *extent;
    struct blob_place *checked = &r->checked[(p->number * 31 + p->offset / BLOB_CHUNK_BYTES) % BLOB_CHECKED];
    *good = checked->number == p->number && checked->offset == p->offset;
    if (*good)
        return 0;
    if (!f) {
        (void)logger_corrupt(&r->vset->log, r->vset->dir, 0,
                             "the log names blob file %06" PRIu64
                             ", which MANIFEST does not know: it is older "
                             "than the rest of the store",
                             p->number);
        return -EUCLEAN;
    }
    if (!f->file) { /* a crash can't have taken it: its name was on the medium before the first value */
        (void)logger_corrupt(&r->vset->log, f->path, p->offset,
                             "the log names a value in this blob file, but the file is missing");
        return -EUCLEAN;
    }
    if (p->offset + blob_disk_bytes(p->extent_bytes) > blob_file_bytes(f))
        return 0;
    int err = blob_extent_read(f, p, BLOB_QUIET, &extent);
    if (err) /* what can't be read is no end of the log: it may be there */
        return err == -EBADMSG ? 0 : err;
    if (r->rewrite && !mutant("recovery does not rewrite the blobs"))
        err = env_pwrite(f->file, extent, blob_disk_bytes(p->extent_bytes), p->offset);
    free(extent);
    if (!err && r->rewrite)
        err = touch(r, f);
    *good = !err;
    if (!err)
        *checked = (struct blob_place){p->number, p->offset};
    return err;
}

int blob_recovery_record(struct blob_recovery *r, const void *payload, size_t len, bool *good)
{
    struct batch_reader br;
    struct batch_change c;
    struct blob_pointer p;
    int err = 0;
    *good = true;
    if (mutant("replay does not verify the blobs"))
        return 0;
    /* What is no batch is found by whoever applies it. */
    if (batch_read_begin(&br, payload, len))
        return 0;
    while (!err && *good && br.left && batch_read_next(&br, &c) > 0)
        if (c.type == ENTRY_BLOB && !blob_pointer_decode(c.value, c.value_len, &p))
            err = check_value(r, &p, good);
    return err;
}

int blob_recovery_finish(struct blob_recovery *r, int err)
{
    for (size_t i = 0; !err && i < r->count; i++)
        err = env_sync(r->touched[i]->file);
    free(r->touched);
    r->touched = NULL;
    r->count = r->capacity = 0;
    return err;
}
