/*
 * check_file.c - the contents of one file: are they there, and are they what its inode says.
 */
#include "check_internal.h"
#include "data.h"
#include "extent.h"

#include <errno.h>
#include <inttypes.h>

#define EXTENT_HEADER_BYTES 8u

static void problem_at(struct check *c, const struct file_place *at, const struct inode *ino,
                       const char *what)
{
    problem_entry(c, at->dir, at->name, at->name_len, ino->attr.id, "%s", what);
}

static int check_small(struct check *c, const struct file_place *at, const struct inode *ino, bool *bad)
{
    struct key key = key_small(ino->home.parent, ino->home.hash, ino->home.index);
    struct lsm_value v = {0};
    int r = lsm_get(c->db, key.bytes, key.len, NULL, LSM_NOFILL, &v);
    if (r == -ENOENT)
        problem_at(c, at, ino, "its contents are missing");
    else if (r < 0 && r != -ENOMEM)
        problem_at(c, at, ino, "its contents can't be read");
    else if (r == 0 && v.len != ino->data_len)
        problem_at(c, at, ino, "its contents have another length than its inode says");
    *bad = r < 0 || v.len != ino->data_len;
    lsm_value_release(&v);
    if (*bad && c->fix)
        fix_delete(c, &key);
    return r == -ENOMEM ? r : 0;
}

/* One extent; `edge` is where the one before ended. */
static const char *judge_extent(const struct inode *ino, bool truncating, uint64_t edge, uint64_t end,
                                const uint8_t *value, size_t len, bool in_blob)
{
    if (len <= EXTENT_HEADER_BYTES)
        return "an extent is too short";
    if (end > FS_SIZE_MAX || len - EXTENT_HEADER_BYTES > end)
        return "an extent has impossible bounds";
    uint64_t start = end - (len - EXTENT_HEADER_BYTES);
    if (!in_blob && get_le64(value) != start)
        return "an extent has impossible bounds";
    if (start / EXTENT_MAX != (end - 1) / EXTENT_MAX)
        return "an extent crosses the border of its chunk";
    if (start < edge)
        return "two extents overlap";
    return end > ino->attr.size && !truncating ? "an extent lies beyond the end of the file" : NULL;
}

static int check_extents(struct check *c, const struct file_place *at, struct inode *ino, bool *bad)
{
    struct check_scan s;
    uint64_t edge = 0, stored = 0;
    const struct object *o = object_find(c, ino->attr.id);
    bool truncating = o && o->flags & OBJECT_TRUNCATE;
    int r = check_scan_open(&s, c, ino->attr.id, KEY_EXTENT, 8);
    while (r == 0 && (r = check_scan_next(&s)) > 0) {
        size_t key_len, len;
        const uint8_t *key = lsm_iter_key(s.it, &key_len), *value = lsm_iter_value(s.it, &len);
        const char *what = key_len == 17 ? judge_extent(ino, truncating, edge, get_be64(key + 9), value, len,
                                                        lsm_iter_ref(s.it, NULL))
                                         : "the key of an extent has the wrong length";
        if (what && !*bad)
            problem_at(c, at, ino, what);
        *bad |= what != NULL;
        if (what && c->fix)
            lsm_batch_delete(c->fix, key, key_len);
        if (!what) {
            edge = get_be64(key + 9);
            stored += len - EXTENT_HEADER_BYTES;
        }
        r = 0;
    }
    if (s.skipped)
        problem_at(c, at, ino, "a part of its contents can't be read");
    else if (r == 0 && !*bad && stored != ino->stored)
        problem_entry(c, at->dir, at->name, at->name_len, ino->attr.id,
                      "%" PRIu64 " bytes are stored of it, %" PRIu64 " its inode says%s", stored, ino->stored,
                      stored < ino->stored ? ": a part of its contents is missing" : "");
    *bad |= s.skipped || stored != ino->stored;
    if (c->fix)
        ino->stored = stored;
    check_scan_close(&s);
    return r;
}

int check_contents(struct check *c, const struct file_place *at, struct inode *ino, bool *bad)
{
    *bad = false;
    if (S_ISREG(ino->attr.mode))
        c->out->bytes += ino->attr.size;
    switch (ino->layout) {
    case LAYOUT_SMALL: return check_small(c, at, ino, bad);
    case LAYOUT_EXTENTS: return check_extents(c, at, ino, bad);
    case LAYOUT_INLINE: return 0; /* it stands in the record, which was decoded */
    }
    return 0;
}
