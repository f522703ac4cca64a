/*
 * check_repair.c - what the check changes when it repairs: the raw keys, in small batches.
 *
 * Nothing is invented: a name that leads nowhere is taken away, what has no name is given one in
 * /lost+found (its inode number in decimal), counts become what was counted. A file whose contents are not all there
 * any more does not stay in its place, where somebody would take holes for zeros: it moves to /lost+found with what
 * is left; small contents are all there or gone.
 *
 * Threads: one; the store is open for writing, and nobody else has it.
 */
#include "check_internal.h"
#include "ids.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define LOST_FOUND "lost+found"

int check_fix(struct check *c)
{
    int r = lsm_commit(c->db, c->fix, 0); /* tells also if something could not be added to it */
    lsm_batch_clear(c->fix);
    return r;
}

void fix_delete(struct check *c, const struct key *key) { lsm_batch_delete(c->fix, key->bytes, key->len); }

static int put_inode(struct check *c, const struct inode *ino)
{
    bool dir = S_ISDIR(ino->attr.mode);
    struct key key = key_plain(ino->attr.id, dir ? KEY_DIR : KEY_INODE);
    uint8_t *record = malloc(dir ? record_dir_max(ino) : record_inode_max(ino));
    if (!record)
        return -ENOMEM;
    lsm_batch_put(c->fix, key.bytes, key.len, record,
                  dir ? record_dir_encode(ino, record) : record_inode_encode(ino, record));
    free(record);
    return 0;
}

int fix_detach(struct check *c, const struct inode *ino)
{
    struct inode own = *ino;
    own.attr.nlink = 1;
    return put_inode(c, &own);
}

int fix_bucket(struct check *c, const struct bucket *b)
{
    int r = bucket_put(b, c->fix);
    return r < 0 ? r : check_fix(c);
}

int fix_directory(struct check *c, const struct object *o, fs_id parent, const struct inode *ino,
                  uint64_t entries, uint64_t size, uint64_t nlink)
{
    struct inode dir = {.attr = {.mode = S_IFDIR | 0700, .uid = geteuid(), .gid = getegid()}};
    if (ino) {
        dir = *ino;
    } else {
        clock_gettime(CLOCK_REALTIME, &dir.attr.btime);
        dir.attr.ctime = dir.attr.mtime = dir.attr.atime = dir.attr.btime;
    }
    dir.attr.id = o->id;
    dir.home = (struct inode_home){.kind = HOME_DIR, .parent = parent};
    dir.dir_entries = entries;
    dir.attr.size = size;
    dir.attr.nlink = nlink < UINT32_MAX ? (uint32_t)nlink : UINT32_MAX;
    return put_inode(c, &dir);
}

/* The inode of a file with a key of its own; its bytes are in *pin. */
static int load_own(struct check *c, fs_id id, struct inode *ino, struct lsm_value *pin)
{
    struct key key = key_plain(id, KEY_INODE);
    *pin = (struct lsm_value){0};
    int r = lsm_get(c->db, key.bytes, key.len, NULL, LSM_NOFILL, pin);
    if (r == 0 && record_inode_decode(pin->data, pin->len, ino) < 0)
        r = -EIO;
    if (r == 0)
        ino->attr.id = id;
    return r;
}

int fix_nlink(struct check *c, const struct object *o)
{
    struct lsm_value pin;
    struct inode ino;
    int r = load_own(c, o->id, &ino, &pin);
    if (r == 0) {
        ino.attr.nlink = o->names;
        r = put_inode(c, &ino);
    } else if (r == -EIO) {
        struct key key = key_plain(o->id, KEY_INODE);
        fix_delete(c, &key);
        r = 0;
    }
    lsm_value_release(&pin);
    if (r == -ENOENT)
        r = 0;
    return r < 0 ? r : check_fix(c);
}

int fix_lease(struct check *c, uint64_t above)
{
    struct key key = key_plain(ID_SUPER, KEY_LEASE);
    uint8_t value[LEASE_BYTES];
    if (above + IDS_LEASE > ID_SERIAL_MASK)
        return -ENOSPC;
    c->leased = above + IDS_LEASE;
    c->has_lease = true;
    put_le64(value, c->leased);
    lsm_batch_put(c->fix, key.bytes, key.len, value, sizeof(value));
    return 0;
}

/* ---- /lost+found ---- */

/* Adds a name to a directory: its bucket and its counts. -EEXIST, -ENOSPC: the bucket is full. */
static int add_name(struct check *c, fs_id dir, const char *name, fs_id id, uint32_t type)
{
    uint64_t hash = XXH3_64bits_withSeed(name, strlen(name), c->hash_seed) & c->hash_mask;
    struct bucket b = {.dir = dir, .hash = hash};
    struct key key = key_bucket(dir, hash), own = key_plain(dir, KEY_DIR);
    struct touch touch = {
        .entries = 1, .size = (int64_t)(strlen(name) + DIR_ENTRY_BYTES), .nlink = S_ISDIR(type)};
    uint8_t operand[TOUCH_BYTES];
    int r = lsm_get(c->db, key.bytes, key.len, NULL, LSM_NOFILL, &b.value);
    if (r == 0)
        r = bucket_decode(b.value.data, b.value.len, &b);
    else if (r == -ENOENT)
        r = 0;
    int index = r == 0 ? bucket_free_index(&b) : r;
    if (r == 0 && bucket_find(&b, name, strlen(name)))
        r = -EEXIST;
    else if (index < 0)
        r = index;
    if (r == 0) {
        struct bucket_entry e = {.name = name, .id = id, .type = type, .index = (uint8_t)index};
        e.name_len = (uint8_t)strlen(name);
        bucket_add(&b, &e);
        r = bucket_put(&b, c->fix);
        clock_gettime(CLOCK_REALTIME, &touch.time);
        record_touch_encode(&touch, operand);
        lsm_batch_merge(c->fix, own.bytes, own.len, operand, sizeof(operand));
    }
    bucket_release(&b);
    return r;
}

/* The id of /lost+found if there is such a directory; 0: no such name. -EEXIST: it is something else. */
static int find_lost_found(struct check *c, fs_id *id)
{
    uint64_t hash = XXH3_64bits_withSeed(LOST_FOUND, strlen(LOST_FOUND), c->hash_seed) & c->hash_mask;
    struct bucket b = {.dir = FS_ID_ROOT, .hash = hash};
    struct key key = key_bucket(FS_ID_ROOT, hash);
    *id = 0;
    int r = lsm_get(c->db, key.bytes, key.len, NULL, LSM_NOFILL, &b.value);
    if (r == 0)
        r = bucket_decode(b.value.data, b.value.len, &b);
    const struct bucket_entry *e = r == 0 ? bucket_find(&b, LOST_FOUND, strlen(LOST_FOUND)) : NULL;
    if (e && e->type == S_IFDIR)
        *id = e->id;
    else if (e)
        r = -EEXIST;
    bucket_release(&b);
    return r == -ENOENT ? 0 : r;
}

static int make_lost_found(struct check *c, fs_id *id)
{
    uint64_t serial = c->leased;
    int r = fix_lease(c, serial + 1);
    if (r < 0)
        return r;
    *id = (XXH3_64bits_withSeed(&serial, sizeof(serial), c->hash_seed) & (ID_VSHARDS - 1)) << 52 | serial;
    const struct object *root = object_find(c, FS_ID_ROOT);
    uint32_t root_index = (uint32_t)(root - c->objects);
    struct object *o = object_get(c, *id);
    if (!o)
        return -ENOMEM;
    o->flags |= OBJECT_DIR | OBJECT_LOST_FOUND;
    o->names = 1;
    r = object_name(o, root_index, LOST_FOUND, strlen(LOST_FOUND));
    if (r == 0)
        r = fix_directory(c, o, FS_ID_ROOT, NULL, 0, 0, 2);
    if (r == 0)
        r = add_name(c, FS_ID_ROOT, LOST_FOUND, *id, S_IFDIR);
    return r < 0 ? r : check_fix(c);
}

static int need_lost_found(struct check *c)
{
    if (c->lost_found)
        return 0;
    fs_id id = 0;
    int r = find_lost_found(c, &id);
    if (r == 0 && id == 0)
        r = make_lost_found(c, &id);
    if (r == 0)
        c->lost_found = id;
    return r;
}

/* The object is what has the name `id` in /lost+found. */
static int rename_object(struct check *c, fs_id id, bool dir, const char *name, uint32_t *index)
{
    struct object *o = object_get(c, id), *home = object_find(c, c->lost_found);
    if (!o || !home)
        return -ENOMEM;
    free(o->name);
    o->name = NULL;
    o->flags =
        (o->flags & ~(uint32_t)(OBJECT_DROPPED | OBJECT_OWN | OBJECT_DIR)) | (dir ? OBJECT_DIR : OBJECT_OWN);
    o->names = o->nlink = 1;
    *index = (uint32_t)(o - c->objects);
    return object_name(o, (uint32_t)(home - c->objects), name, strlen(name));
}

/* The inode of a file with what is left of its contents. -EIO: nothing is; the inode goes. */
static int put_what_is_left(struct check *c, fs_id id, const char *name, struct inode *ino)
{
    struct file_place at = {(uint32_t)(object_find(c, c->lost_found) - c->objects), name, strlen(name)};
    struct key key = key_plain(id, KEY_INODE);
    struct lsm_value pin;
    bool bad = false;
    int r = load_own(c, id, ino, &pin);
    if (r == 0 && ino->layout == LAYOUT_SMALL) /* there is no place where they could be */
        r = -EIO;
    if (r == 0)
        r = check_contents(c, &at, ino, &bad);
    if (r == -EIO || (r == 0 && bad && ino->stored == 0)) {
        fix_delete(c, &key);
        r = check_fix(c);
        r = r == 0 ? -EIO : r;
    } else if (r == 0) {
        ino->attr.nlink = 1;
        r = put_inode(c, ino);
    }
    lsm_value_release(&pin);
    return r;
}

int fix_reattach(struct check *c, fs_id id, bool dir, uint32_t *index)
{
    char name[24];
    struct inode ino = {.attr = {.mode = S_IFDIR}};
    int r = need_lost_found(c);
    snprintf(name, sizeof(name), "%" PRIu64, id);
    if (r == 0 && !object_find(c, c->lost_found))
        r = -EEXIST;
    if (r == 0 && !dir)
        r = put_what_is_left(c, id, name, &ino);
    uint32_t type = ino.attr.mode & S_IFMT;
    if (r == 0)
        r = add_name(c, c->lost_found, name, id, type);
    if (r == 0)
        r = check_fix(c);
    if (r == 0)
        r = rename_object(c, id, dir, name, index);
    if (r < 0)
        lsm_batch_clear(c->fix);
    if (r == 0 && !dir) {
        struct object *o = &c->objects[*index];
        o->flags |=
            (ino.layout == LAYOUT_EXTENTS ? OBJECT_EXTENTS : 0) | (ino.large_xattrs ? OBJECT_XATTRS : 0);
    }
    return r;
}
