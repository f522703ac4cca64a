/*
 * inode.c - inodes to and from their homes (inode.h), whichever that is.
 *
 * Threads: the caller holds the locks that store.h names.
 */
#include "record.h"
#include "store.h"
#include "nowait.h"
#include "xattr.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

uint64_t inode_blocks(const struct inode *ino)
{
    uint64_t bytes = ino->layout == LAYOUT_EXTENTS ? ino->stored : ino->data_len;
    if (S_ISDIR(ino->attr.mode))
        bytes = ino->attr.size;
    return bytes / 512 + (bytes % 512 != 0);
}

void inode_release(struct inode *ino)
{
    free(ino->data);
    free(ino->xattrs);
    ino->data = ino->xattrs = NULL;
    ino->data_len = ino->xattrs_len = 0;
}

static int copy_bytes(uint8_t **to, const uint8_t *from, size_t len)
{
    *to = NULL;
    if (len == 0 || !from)
        return 0;
    *to = malloc(len);
    if (!*to)
        return -ENOMEM;
    memcpy(*to, from, len);
    return 0;
}

int inode_clone(struct inode *to, const struct inode *from)
{
    *to = *from;
    to->data = to->xattrs = NULL;
    int r = copy_bytes(&to->data, from->layout == LAYOUT_INLINE ? from->data : NULL, from->data_len);
    if (r == 0)
        r = copy_bytes(&to->xattrs, from->xattrs, from->xattrs_len);
    if (r < 0)
        inode_release(to);
    return r;
}

int inode_clone_new(const struct inode *from, struct inode **out)
{
    struct inode *ino = malloc(sizeof(*ino));
    if (!ino)
        return -ENOMEM;
    int r = inode_clone(ino, from);
    if (r < 0)
        free(ino);
    else
        *out = ino;
    return r;
}

struct itable_info inode_info(const struct inode *ino)
{
    struct itable_info info = {.home = ino->home};
    info.dir = S_ISDIR(ino->attr.mode);
    info.setgid = info.dir && ino->attr.mode & S_ISGID;
    info.default_acl = info.dir && xattr_may_hand_down(ino);
    return info;
}

/* ---- loading ---- */

static void view_complete(struct inode_view *v, fs_id id, const struct inode_home *home)
{
    v->ino.attr.id = id;
    if (home->kind != HOME_DIR)
        v->ino.home = *home;
    v->ino.attr.blocks = inode_blocks(&v->ino);
}

/* A record under a key of its own: 0x01 or 0x03. */
static int view_own(struct fs *fs, fs_id id, const struct inode_home *home, struct inode_view *out)
{
    bool dir = home->kind == HOME_DIR;
    struct key key = key_plain(id, dir ? KEY_DIR : KEY_INODE);

    int r = lsm_get(fs->db, key.bytes, key.len, NULL, nowait_flags(), &out->pin);
    if (r == -ENOENT)
        return fs_damaged(fs, &key, "the inode is missing");
    if (r < 0)
        return r;
    r = dir ? record_dir_decode(out->pin.data, out->pin.len, &out->ino)
            : record_inode_decode(out->pin.data, out->pin.len, &out->ino);
    if (r < 0 || (!dir && out->ino.layout == LAYOUT_SMALL))
        return fs_damaged(fs, &key, "the inode can't be decoded");
    view_complete(out, id, home);
    return 0;
}

static int view_record(struct fs *fs, const struct bucket *b, const struct bucket_entry *e,
                       struct inode_view *out)
{
    struct inode_home home = {HOME_ENTRY, b->dir, b->hash, e->index};
    struct key key = key_bucket(b->dir, b->hash);

    if (record_inode_decode(e->record, e->record_len, &out->ino) < 0 ||
        (out->ino.attr.mode & S_IFMT) != e->type || out->ino.attr.nlink != 1)
        return fs_damaged(fs, &key, "the inode of an entry can't be decoded");
    view_complete(out, e->id, &home);
    return 0;
}

int inode_view_entry(struct fs *fs, const struct bucket *b, const struct bucket_entry *e,
                     struct inode_view *out)
{
    struct inode_home home = {.kind = e->type == S_IFDIR ? HOME_DIR : HOME_OWN};

    out->pin = (struct lsm_value){0};
    if (e->record)
        return view_record(fs, b, e, out);
    int r = view_own(fs, e->id, &home, out);
    if (r == 0 && (out->ino.attr.mode & S_IFMT) != e->type) {
        struct key key = key_plain(e->id, e->type == S_IFDIR ? KEY_DIR : KEY_INODE);
        r = fs_damaged(fs, &key, "the inode is of another type than its name says");
    }
    return r;
}

static int view_in_bucket(struct fs *fs, fs_id id, const struct inode_home *home, struct inode_view *out)
{
    struct bucket b;
    struct key key = key_bucket(home->parent, home->hash);

    int r = bucket_load(fs, home->parent, home->hash, &b);
    out->pin = b.value; /* the record lies in it */
    if (r < 0)
        return r;
    struct bucket_entry *e = bucket_at(&b, home->index);
    if (!e || e->id != id || !e->record)
        return fs_damaged(fs, &key, "the entry of an inode is missing");
    return view_record(fs, &b, e, out);
}

int inode_view(struct fs *fs, fs_id id, const struct itable_info *info, struct inode_view *out)
{
    memset(out, 0, sizeof(*out));
    switch (info->home.kind) {
    case HOME_ENTRY: return view_in_bucket(fs, id, &info->home, out);
    case HOME_OWN:
    case HOME_DIR: return view_own(fs, id, &info->home, out);
    case HOME_MEMORY: break;
    }
    out->ino = *info->memory;
    out->ino.attr.blocks = inode_blocks(&out->ino);
    return 0;
}

void inode_view_release(struct inode_view *view) { lsm_value_release(&view->pin); }

int inode_load(struct fs *fs, fs_id id, const struct itable_info *info, struct inode *out)
{
    struct inode_view v;
    memset(out, 0, sizeof(*out));
    int r = inode_view(fs, id, info, &v);
    if (r == 0)
        r = inode_clone(out, &v.ino);
    inode_view_release(&v);
    return r;
}

int inode_load_entry(struct fs *fs, const struct bucket *b, const struct bucket_entry *e, struct inode *out)
{
    struct inode_view v;
    memset(out, 0, sizeof(*out));
    int r = inode_view_entry(fs, b, e, &v);
    if (r == 0)
        r = inode_clone(out, &v.ino);
    inode_view_release(&v);
    return r;
}

/* ---- storing ---- */

static int store_entry(struct fs *fs, const struct inode *ino, uint8_t *record, struct lsm_batch *batch)
{
    const struct inode_home *home = &ino->home;
    struct bucket b;

    int r = bucket_load(fs, home->parent, home->hash, &b);
    struct bucket_entry *e = r == 0 ? bucket_at(&b, home->index) : NULL;
    if (r == 0 && (!e || e->id != ino->attr.id || !e->record)) {
        struct key key = key_bucket(home->parent, home->hash);
        r = fs_damaged(fs, &key, "the entry of an inode is missing");
    }
    if (r == 0) {
        e->record = record;
        e->record_len = (uint32_t)record_inode_encode(ino, record);
        r = bucket_put(&b, batch);
    }
    bucket_release(&b);
    return r;
}

int inode_store(struct fs *fs, const struct inode *ino, struct lsm_batch *batch)
{
    if (ino->home.kind == HOME_MEMORY)
        return 0;
    bool dir = ino->home.kind == HOME_DIR;
    struct key key = key_plain(ino->attr.id, dir ? KEY_DIR : KEY_INODE);
    uint8_t *record = malloc(dir ? record_dir_max(ino) : record_inode_max(ino));
    int r = 0;

    if (!record)
        return -ENOMEM;
    if (ino->home.kind == HOME_ENTRY)
        r = store_entry(fs, ino, record, batch);
    else
        lsm_batch_put(batch, key.bytes, key.len, record,
                      dir ? record_dir_encode(ino, record) : record_inode_encode(ino, record));
    free(record);
    return r;
}
