/*
 * data.c - contents of files: which layout they have, and how they change from one to another.
 *
 * Small contents are a prefix: data_len bytes from offset 0, at most SMALL_MAX, kept in the inode
 * (LAYOUT_INLINE) or under the home's key 0x06 (LAYOUT_SMALL); from there to attr.size is a hole. A
 * change of a prefix reads it as a whole, changes it in memory and stores it again where it now
 * belongs. Larger contents are extents (extent.h), from the write on that no longer fits a
 * prefix until the file is truncated to 0.
 *
 * Fields of an inode come from the medium: a length that can't be is -EIO, never asserted.
 */
#include "extent.h"
#include "mutant.h"
#include "nowait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- prefixes ---- */

/* The longest prefix that a home has room for. */
static uint32_t prefix_max(enum home_kind kind)
{
    return kind == HOME_ENTRY || kind == HOME_MEMORY ? SMALL_MAX : INLINE_MAX;
}

/* The longest that is kept in `data`. */
static uint32_t inline_max(enum home_kind kind) { return kind == HOME_MEMORY ? SMALL_MAX : INLINE_MAX; }

static struct key small_key(const struct inode_home *home)
{
    return key_small(home->parent, home->hash, home->index);
}

static int check_prefix(const struct inode *ino)
{
    assert(ino->layout != LAYOUT_EXTENTS);
    if (ino->layout != LAYOUT_INLINE && ino->layout != LAYOUT_SMALL)
        return -EIO;
    if (ino->layout == LAYOUT_SMALL && (ino->home.kind != HOME_ENTRY || ino->data_len == 0))
        return -EIO;
    if (ino->data_len > ino->attr.size || ino->data_len > SMALL_MAX)
        return -EIO;
    return ino->layout == LAYOUT_INLINE && ino->data_len && !ino->data ? -EIO : 0;
}

/* Copies [off, off+len) of the prefix, which lies within data_len; check_prefix was fine. */
static int load_prefix(struct lsm *db, const struct inode *ino, uint32_t off, uint8_t *out, uint32_t len)
{
    if (len == 0)
        return 0;
    if (ino->layout == LAYOUT_INLINE) {
        memcpy(out, ino->data + off, len);
        return 0;
    }
    struct key k = small_key(&ino->home);
    struct lsm_value v = {0};
    int r = lsm_get(db, k.bytes, k.len, NULL, nowait_flags(), &v);
    if (r < 0)
        return r == -ENOENT ? -EIO : r;
    if (v.len != ino->data_len)
        r = -EIO;
    else
        memcpy(out, (const uint8_t *)v.data + off, len);
    lsm_value_release(&v);
    return r;
}

/* The prefix is stored nowhere any more. */
static void drop_prefix(struct inode *ino, struct lsm_batch *batch)
{
    if (ino->layout == LAYOUT_SMALL && !mutant("small contents are left behind")) {
        struct key k = small_key(&ino->home);
        lsm_batch_delete(batch, k.bytes, k.len);
    }
    free(ino->data);
    ino->data = NULL;
    ino->data_len = 0;
    ino->layout = LAYOUT_INLINE;
}

/* Replaces the prefix: len <= prefix_max of the home. */
static int store_prefix(struct inode *ino, const uint8_t *bytes, uint32_t len, struct lsm_batch *batch)
{
    assert(len <= prefix_max(ino->home.kind));
    if (len > inline_max(ino->home.kind)) {
        struct key k = small_key(&ino->home);
        lsm_batch_put(batch, k.bytes, k.len, bytes, len);
        free(ino->data);
        ino->data = NULL;
        ino->layout = LAYOUT_SMALL;
    } else {
        uint8_t *copy = NULL;
        if (len) {
            copy = malloc(len);
            if (!copy)
                return -ENOMEM;
            memcpy(copy, bytes, len);
        }
        drop_prefix(ino, batch);
        ino->data = copy;
    }
    ino->data_len = len;
    return 0;
}

/* Keeps the first len bytes of the prefix, len <= data_len. */
static int cut_prefix(struct lsm *db, struct inode *ino, uint32_t len, struct lsm_batch *batch)
{
    uint8_t bytes[SMALL_MAX];
    if (len == ino->data_len)
        return 0;
    if (len == 0) {
        drop_prefix(ino, batch);
        return 0;
    }
    int r = load_prefix(db, ino, 0, bytes, len);
    return r < 0 ? r : store_prefix(ino, bytes, len, batch);
}

static int read_prefix(struct lsm *db, const struct inode *ino, uint64_t off, uint8_t *buf, size_t len)
{
    uint32_t n = 0;
    int r = check_prefix(ino);
    if (r < 0)
        return r;
    if (off < ino->data_len) {
        n = ino->data_len - (uint32_t)off;
        n = n < len ? n : (uint32_t)len;
        r = load_prefix(db, ino, (uint32_t)off, buf, n);
        if (r < 0)
            return r;
    }
    memset(buf + n, 0, len - n);
    return 0;
}

/* ---- from prefix to extents ---- */

/*
 * The first len bytes of the file, and nothing else, are to be extents. `bytes` may be longer than a
 * prefix: the old prefix under a write that overlaps or follows it. `stays` as in extent_write.
 */
static int become_extents(struct lsm *db, struct inode *ino, const uint8_t *bytes, size_t len, bool stays,
                          struct lsm_batch *batch)
{
    drop_prefix(ino, batch);
    if (ino->home.kind == HOME_MEMORY)
        ino->home = (struct inode_home){.kind = HOME_OWN};
    ino->layout = LAYOUT_EXTENTS;
    ino->stored = 0;
    return len == 0 ? 0 : extent_write(db, ino, 0, bytes, len, stays, batch);
}

/* A write that leaves no room for a prefix. */
static int write_becoming_extents(struct lsm *db, struct inode *ino, uint64_t off, const uint8_t *buf,
                                  size_t len, struct lsm_batch *batch)
{
    const uint32_t old_len = ino->data_len;
    uint8_t old[SMALL_MAX];
    int r = load_prefix(db, ino, 0, old, old_len);
    if (r < 0)
        return r;
    if (off == 0 && len >= old_len)
        return become_extents(db, ino, buf, len, true, batch);
    if (off > old_len) { /* the hole between them stays one */
        r = become_extents(db, ino, old, old_len, false, batch);
        return r < 0 ? r : extent_write(db, ino, off, buf, len, true, batch);
    }
    size_t total = off + len > old_len ? (size_t)off + len : old_len;
    uint8_t *joined = malloc(total);
    if (!joined)
        return -ENOMEM;
    memcpy(joined, old, old_len);
    memcpy(joined + off, buf, len);
    r = become_extents(db, ino, joined, total, false, batch);
    free(joined);
    return r;
}

/* ---- reading and writing ---- */

int data_read(struct lsm *db, const struct inode *ino, uint64_t off, void *buf, size_t len, size_t *got)
{
    *got = 0;
    if (off >= ino->attr.size || len == 0)
        return 0;
    if (len > ino->attr.size - off)
        len = (size_t)(ino->attr.size - off);
    int r = ino->layout == LAYOUT_EXTENTS ? extent_read(db, ino, off, buf, len)
                                          : read_prefix(db, ino, off, buf, len);
    if (r == 0)
        *got = len;
    return r;
}

static int write_prefix(struct lsm *db, struct inode *ino, uint64_t off, const uint8_t *buf, size_t len,
                        struct lsm_batch *batch)
{
    int r = check_prefix(ino);
    if (r < 0)
        return r;
    const uint64_t end = off + len;
    if (end > prefix_max(ino->home.kind) || ino->data_len > prefix_max(ino->home.kind))
        return write_becoming_extents(db, ino, off, buf, len, batch);

    const uint32_t old_len = ino->data_len, at = (uint32_t)off;
    uint8_t bytes[SMALL_MAX];
    if (off > 0 || len < old_len) { /* else all of it is replaced */
        r = load_prefix(db, ino, 0, bytes, old_len);
        if (r < 0)
            return r;
    }
    if (at > old_len)
        memset(bytes + old_len, 0, at - old_len);
    memcpy(bytes + at, buf, len);
    return store_prefix(ino, bytes, end > old_len ? (uint32_t)end : old_len, batch);
}

int data_write(struct lsm *db, struct inode *ino, uint64_t off, const void *buf, size_t len,
               struct lsm_batch *batch)
{
    assert(ino->home.kind != HOME_DIR);
    if (len == 0)
        return 0;
    if (len > FS_WRITE_MAX)
        return -EINVAL;
    if (off > FS_SIZE_MAX || len > FS_SIZE_MAX - off)
        return -EFBIG;
    int r = ino->layout == LAYOUT_EXTENTS ? extent_write(db, ino, off, buf, len, true, batch)
                                          : write_prefix(db, ino, off, buf, len, batch);
    if (r == 0 && off + len > ino->attr.size)
        ino->attr.size = off + len;
    return r;
}

/* ---- truncating and punching ---- */

int data_trim(struct lsm *db, struct inode *ino, struct lsm_batch *batch, bool *more)
{
    *more = false;
    if (ino->layout != LAYOUT_EXTENTS)
        return 0;
    if (ino->attr.size == 0) { /* looks into no extent, so that a damaged file can be emptied */
        extent_delete_keys(ino->attr.id, KEY_EXTENT, KEY_EXTENT, batch);
        ino->layout = LAYOUT_INLINE;
        ino->stored = 0;
        return 0;
    }
    uint64_t next = EXTENT_END_MAX;
    int r = extent_punch(db, ino, ino->attr.size, EXTENT_END_MAX, batch, &next);
    *more = next < EXTENT_END_MAX;
    return r;
}

int data_truncate(struct lsm *db, struct inode *ino, uint64_t size, struct lsm_batch *batch, bool *more)
{
    assert(ino->home.kind != HOME_DIR);
    *more = false;
    if (size > FS_SIZE_MAX)
        return -EFBIG;
    const bool shrink = size < ino->attr.size;
    if (ino->layout == LAYOUT_EXTENTS) {
        ino->attr.size = size;
        return (shrink && !mutant("a truncation cuts no extents")) || size == 0
                   ? data_trim(db, ino, batch, more)
                   : 0;
    }
    int r = check_prefix(ino);
    if (r < 0)
        return r;
    if (size < ino->data_len)
        r = cut_prefix(db, ino, (uint32_t)size, batch);
    if (r == 0)
        ino->attr.size = size;
    return r;
}

static int punch_prefix(struct lsm *db, struct inode *ino, uint64_t off, uint64_t end,
                        struct lsm_batch *batch)
{
    int r = check_prefix(ino);
    if (r < 0 || off >= ino->data_len || off == end)
        return r;
    if (end >= ino->data_len)
        return cut_prefix(db, ino, (uint32_t)off, batch);
    uint8_t bytes[SMALL_MAX];
    r = load_prefix(db, ino, 0, bytes, ino->data_len);
    if (r < 0)
        return r;
    memset(bytes + off, 0, end - off);
    return store_prefix(ino, bytes, ino->data_len, batch);
}

int data_punch(struct lsm *db, struct inode *ino, uint64_t off, uint64_t len, struct lsm_batch *batch,
               uint64_t *next)
{
    assert(ino->home.kind != HOME_DIR);
    if (off > FS_SIZE_MAX || len > FS_SIZE_MAX - off)
        return -EFBIG;
    *next = off + len;
    if (ino->layout == LAYOUT_EXTENTS)
        return extent_punch(db, ino, off, off + len, batch, next);
    return punch_prefix(db, ino, off, off + len, batch);
}

/* ---- seeking ---- */

static int seek_data(struct lsm *db, const struct inode *ino, uint64_t off, uint64_t *out)
{
    if (ino->layout == LAYOUT_EXTENTS) {
        int r = extent_seek_data(db, ino, off, out);
        return r == 0 && *out >= ino->attr.size ? -ENXIO : r;
    }
    *out = off;
    return off < ino->data_len ? 0 : -ENXIO;
}

static int seek_hole(struct lsm *db, const struct inode *ino, uint64_t off, uint64_t *out)
{
    int r = 0;
    if (ino->layout != LAYOUT_EXTENTS)
        *out = off < ino->data_len ? ino->data_len : off;
    else if (ino->stored == ino->attr.size) /* the usual file: spares reading all of it */
        *out = ino->attr.size;
    else
        r = extent_seek_hole(db, ino, off, out);
    if (r == 0 && *out > ino->attr.size)
        *out = ino->attr.size;
    return r;
}

int data_seek(struct lsm *db, const struct inode *ino, uint64_t off, int whence, uint64_t *out)
{
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return -EINVAL;
    if (off >= ino->attr.size)
        return -ENXIO;
    if (ino->layout != LAYOUT_EXTENTS) {
        int r = check_prefix(ino);
        if (r < 0)
            return r;
    }
    return whence == SEEK_DATA ? seek_data(db, ino, off, out) : seek_hole(db, ino, off, out);
}

/* ---- moving and removing ---- */

static bool same_home(const struct inode_home *a, const struct inode_home *b)
{
    return a->kind == b->kind && a->parent == b->parent && a->hash == b->hash && a->index == b->index;
}

int data_rehome(struct lsm *db, struct inode *ino, const struct inode_home *to, struct lsm_batch *batch)
{
    const bool stays_inline = ino->layout == LAYOUT_INLINE && ino->data_len <= inline_max(to->kind);
    if (ino->layout == LAYOUT_EXTENTS || stays_inline || same_home(&ino->home, to) ||
        mutant("small contents are not moved")) {
        ino->home = *to;
        return 0;
    }
    int r = check_prefix(ino);
    if (r < 0)
        return r;
    uint8_t bytes[SMALL_MAX];
    const uint32_t len = ino->data_len;
    r = load_prefix(db, ino, 0, bytes, len);
    if (r < 0)
        return r;
    drop_prefix(ino, batch); /* at the old home */
    ino->home = *to;
    if (len <= prefix_max(to->kind))
        return store_prefix(ino, bytes, len, batch);
    return become_extents(db, ino, bytes, len, false, batch);
}

int data_delete(struct lsm *db, struct inode *ino, struct lsm_batch *batch)
{
    (void)db; /* the key to delete is known without reading */
    assert(ino->layout != LAYOUT_EXTENTS);
    drop_prefix(ino, batch);
    return 0;
}

void data_reap(fs_id id, struct lsm_batch *batch)
{
    static_assert(KEY_XATTR == KEY_EXTENT + 1, "one range has both");
    extent_delete_keys(id, KEY_EXTENT, mutant("large attributes are left behind") ? KEY_EXTENT : KEY_XATTR,
                       batch);
}
