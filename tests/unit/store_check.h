/*
 * store_check.h - for tests: reads all keys of a filesystem and checks that they fit together.
 *
 *   - every inode with a key of its own has as many names as it counts, or none and an orphan record
 *   - a directory's entries, size and links are what its buckets say; it has one name
 *   - contents (0x04, 0x05, 0x06) belong to an inode that says it has them, or to an orphan
 *   - no truncation is pending
 *
 * Everything is kept in arrays and searched linearly: for small stores.
 */
#ifndef STORE_CHECK_H
#define STORE_CHECK_H

#include "bucket.h"
#include "data.h"
#include "record.h"
#include <stdio.h>
#include <stdlib.h>

struct checked {
    fs_id id;
    uint32_t mode, nlink;
    enum inode_layout layout;
    bool own, large_xattrs;
    fs_id parent;                                                             /* directories: as recorded */
    uint64_t entries, size, stored;                                           /* as recorded */
    uint64_t seen_entries, seen_size, seen_subdirs, seen_stored, seen_xattrs; /* as found */
    unsigned names;
    fs_id name_parent;
    struct inode_home home;
    uint32_t data_len, seen_small;
};

struct check {
    struct checked *inode;
    size_t count, cap;
    fs_id *orphan;
    size_t orphans;
    unsigned errors;
};

static struct checked *check_inode(struct check *c, fs_id id)
{
    for (size_t i = 0; i < c->count; i++)
        if (c->inode[i].id == id)
            return &c->inode[i];
    if (c->count == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 64;
        c->inode = realloc(c->inode, c->cap * sizeof(*c->inode));
    }
    c->inode[c->count] = (struct checked){.id = id};
    return &c->inode[c->count++];
}

#define CHECK_THAT(c, id, condition)                                                                    \
    do {                                                                                                \
        if (!(condition)) {                                                                             \
            fprintf(stderr, "store: inode %llx: not true: %s\n", (unsigned long long)(id), #condition); \
            (c)->errors++;                                                                              \
        }                                                                                               \
    } while (0)

static void check_take_inode(struct check *c, fs_id id, const struct inode *ino, bool own)
{
    struct checked *k = check_inode(c, id);
    CHECK_THAT(c, id, k->mode == 0);
    k->mode = ino->attr.mode;
    k->nlink = ino->attr.nlink;
    k->layout = ino->layout;
    k->own = own;
    k->large_xattrs = ino->large_xattrs;
    k->parent = ino->home.parent;
    k->entries = ino->dir_entries;
    k->size = ino->attr.size;
    k->stored = ino->stored;
    k->data_len = ino->data_len;
}

static void check_bucket(struct check *c, const uint8_t *key, size_t key_len, const void *value, size_t len)
{
    struct bucket b = {.dir = get_be64(key)};
    CHECK_THAT(c, b.dir, key_len == 16);
    b.hash = key_bucket_hash(key);
    CHECK_THAT(c, b.dir, bucket_decode(value, len, &b) == 0);
    for (unsigned i = 0; i < b.count; i++) {
        const struct bucket_entry *e = &b.entry[i];
        if (e->record) {
            struct inode ino;
            CHECK_THAT(c, e->id, record_inode_decode(e->record, e->record_len, &ino) == 0);
            CHECK_THAT(c, e->id, (ino.attr.mode & S_IFMT) == e->type);
            check_take_inode(c, e->id, &ino, false);
            check_inode(c, e->id)->home = (struct inode_home){HOME_ENTRY, b.dir, b.hash, e->index};
        }
        struct checked *k = check_inode(c, e->id);
        k->names++;
        k->name_parent = b.dir;
        k = check_inode(c, b.dir);
        k->seen_entries++;
        k->seen_size += e->name_len + DIR_ENTRY_BYTES;
        k->seen_subdirs += e->type == S_IFDIR;
    }
}

static void check_small(struct check *c, const uint8_t *key, size_t key_len, size_t len)
{
    fs_id dir = get_be64(key);
    uint64_t hash = key_bucket_hash(key);
    bool found = false;
    CHECK_THAT(c, dir, key_len == 17);
    for (size_t i = 0; i < c->count; i++) {
        struct checked *k = &c->inode[i];
        if (k->home.kind != HOME_ENTRY || k->home.parent != dir || k->home.hash != hash ||
            k->home.index != key[16])
            continue;
        found = true;
        CHECK_THAT(c, k->id, k->layout == LAYOUT_SMALL && k->data_len == len);
        k->seen_small++;
    }
    CHECK_THAT(c, dir, found); /* a key 0x06 has an entry */
}

static void check_key(struct check *c, const uint8_t *key, size_t key_len, const void *value, size_t len)
{
    fs_id id = get_be64(key);
    struct inode ino;

    if (id == ID_SUPER)
        return;
    if ((id & ID_SERIAL_MASK) == ID_SERIAL_ORPHANS) {
        CHECK_THAT(c, id, key[8] == KEY_ORPHAN);
        c->orphan = realloc(c->orphan, (c->orphans + 1) * sizeof(fs_id));
        c->orphan[c->orphans++] = get_be64(key + 9);
        return;
    }
    switch (key[8]) {
    case KEY_DIR:
        CHECK_THAT(c, id, record_dir_decode(value, len, &ino) == 0);
        check_take_inode(c, id, &ino, true);
        break;
    case KEY_BUCKET: check_bucket(c, key, key_len, value, len); break;
    case KEY_INODE:
        CHECK_THAT(c, id, record_inode_decode(value, len, &ino) == 0);
        check_take_inode(c, id, &ino, true);
        break;
    case KEY_EXTENT: check_inode(c, id)->seen_stored += len - 8; break;
    case KEY_XATTR: check_inode(c, id)->seen_xattrs++; break;
    case KEY_SMALL: check_small(c, key, key_len, len); break;
    default: CHECK_THAT(c, id, key[8] < KEY_ORPHAN); /* a known tag */
    }
}

static bool check_is_orphan(const struct check *c, fs_id id)
{
    for (size_t i = 0; i < c->orphans; i++)
        if (c->orphan[i] == id)
            return true;
    return false;
}

static void check_one(struct check *c, const struct checked *k)
{
    if (check_is_orphan(c, k->id)) {
        CHECK_THAT(c, k->id, k->names == 0);
        CHECK_THAT(c, k->id, k->mode == 0 || (k->own && k->nlink == 0));
        return;
    }
    CHECK_THAT(c, k->id, k->mode != 0);
    CHECK_THAT(c, k->id, (k->seen_xattrs > 0) == k->large_xattrs);
    if (S_ISDIR(k->mode)) {
        CHECK_THAT(c, k->id, k->entries == k->seen_entries);
        CHECK_THAT(c, k->id, k->size == k->seen_size);
        CHECK_THAT(c, k->id, k->nlink == 2 + k->seen_subdirs);
        CHECK_THAT(c, k->id, k->names == (k->id == FS_ID_ROOT ? 0 : 1));
        CHECK_THAT(c, k->id, k->id == FS_ID_ROOT || k->parent == k->name_parent);
        return;
    }
    CHECK_THAT(c, k->id, k->names == k->nlink);
    CHECK_THAT(c, k->id, k->stored == k->seen_stored);
    CHECK_THAT(c, k->id, k->seen_small == (k->layout == LAYOUT_SMALL));
}

/* The number of inconsistencies, each printed; *inodes: how many inodes and orphans there are. */
static unsigned check_store(struct lsm *db, size_t *inodes, size_t *orphans)
{
    struct check c = {0};
    struct lsm_iter_options o = {0};
    struct lsm_iter *it = NULL;

    if (lsm_iter_new(db, &o, &it) < 0)
        return 1;
    for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it)) {
        size_t key_len, len;
        const uint8_t *key = lsm_iter_key(it, &key_len);
        const void *value = lsm_iter_value(it, &len);
        check_key(&c, key, key_len, value, len);
    }
    CHECK_THAT(&c, 0, lsm_iter_status(it) == 0);
    lsm_iter_free(it);
    for (size_t i = 0; i < c.count; i++)
        check_one(&c, &c.inode[i]);
    *inodes = c.count;
    *orphans = c.orphans;
    free(c.inode);
    free(c.orphan);
    return c.errors;
}

#endif
