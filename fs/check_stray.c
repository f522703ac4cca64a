/*
 * check_stray.c - the second pass of the check: records that belong to nobody, and what repair does with them.
 *
 * Every key is asked whether the first pass has met whom it belongs to. Repairing, inodes and directories without a
 * name get one in /lost+found, directories first whose parent is no such directory itself, so that what lies below
 * them stays there; what then still belongs to nobody is deleted.
 */
#include "acl.h"
#include "check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

bool check_id_is_leased(const struct check *c, fs_id id)
{
    uint64_t serial = id & ID_SERIAL_MASK;
    return serial >= ID_SERIAL_FIRST && (!c->has_lease || serial < c->leased);
}

static const char *stray_of_object(const struct object *o, unsigned tag)
{
    uint32_t flags = o ? o->flags : 0;
    bool named = o && o->names > 0 && !(flags & OBJECT_DROPPED), orphan = flags & OBJECT_ORPHAN;
    switch (tag) {
    case KEY_DIR: return named && flags & OBJECT_DIR ? NULL : "a directory that no name leads to";
    case KEY_BUCKET:
        return named && flags & OBJECT_DIR ? NULL : "entries of a directory that no name leads to";
    case KEY_SMALL:
        return named && flags & OBJECT_DIR ? NULL : "contents in a directory that no name leads to";
    case KEY_INODE: return orphan || (named && flags & OBJECT_OWN) ? NULL : "an inode that no name leads to";
    case KEY_EXTENT:
        return orphan || flags & (OBJECT_EXTENTS | OBJECT_UNREADABLE) ? NULL
                                                                      : "contents that belong to no file";
    case KEY_XATTR:
        return orphan || flags & (OBJECT_XATTRS | OBJECT_UNREADABLE) ? NULL
                                                                     : "an extended attribute of nothing";
    default: return "a key of an unknown kind";
    }
}

static const char *stray_of(const struct check *c, const uint8_t *key, size_t len)
{
    if (len < 9)
        return "a key of an unknown kind";
    fs_id id = get_be64(key);
    if (id == ID_SUPER)
        return len == 9 && key[8] <= KEY_LEASE ? NULL : "a key of an unknown kind";
    if ((id & ID_SERIAL_MASK) == ID_SERIAL_ORPHANS)
        return len == 17 && (key[8] == KEY_ORPHAN || key[8] == KEY_TRUNCATE) ? NULL
                                                                             : "a key of an unknown kind";
    return stray_of_object(object_find((struct check *)(uintptr_t)c, id), key[8]);
}

/* What the iterator stands at should not be there: it belongs to nobody, or is no value of its kind. */
static const char *wrong_of(struct check *c, struct lsm_iter *it)
{
    size_t len;
    struct lsm_value v;
    const uint8_t *key = lsm_iter_key(it, &len);
    const char *what = stray_of(c, key, len);
    if (what || key[8] != KEY_XATTR || acl_kind_of((const char *)key + 9, len - 9) == ACL_NONE)
        return what;
    int r = check_value(c, it, &v);
    if (r == -ENOMEM)
        return NULL;
    what = r < 0 || acl_check(v.data, v.len) < 0 ? "an ACL that can't be decoded" : NULL;
    lsm_value_release(&v);
    return what;
}

/* Once for each id and tag. Called only when everything could be read. */
int check_strays(struct check *c)
{
    struct lsm_iter_options o = {.flags = LSM_NOFILL | LSM_KEYS};
    struct lsm_iter *it;
    uint8_t last[9] = {0xff};
    int r = lsm_iter_new(c->db, &o, &it);
    if (r < 0)
        return r;
    for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it)) {
        size_t len;
        const uint8_t *key = lsm_iter_key(it, &len);
        const char *what = wrong_of(c, it);
        if (!what || (len >= 9 && memcmp(key, last, 9) == 0))
            continue;
        problem_id(c, len >= 8 ? get_be64(key) : 0, "%s", what);
        if (len >= 9)
            memcpy(last, key, 9);
    }
    r = lsm_iter_status(it);
    lsm_iter_free(it);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        problem_id(c, 0, "not all keys can be read");
    return 0;
}

/* ---- repair: what has no name ---- */

/* Whether the directory's recorded parent is a directory without a name itself, which will bring it along. */
static int parent_is_lost(struct check *c, fs_id id, bool *lost)
{
    struct key key = key_plain(id, KEY_DIR);
    struct lsm_value v, parent = {0};
    struct inode ino;
    *lost = false;
    int r = check_get(c, &key, &v);
    if (r == 0 && record_dir_decode(v.data, v.len, &ino) == 0) {
        const struct object *o = object_find(c, ino.home.parent);
        key = key_plain(ino.home.parent, KEY_DIR);
        r = check_get(c, &key, &parent);
        *lost = r == 0 && ino.home.parent != id && !(o && o->names > 0);
    }
    lsm_value_release(&v);
    lsm_value_release(&parent);
    return r == -ENOMEM ? r : 0;
}

/* One pass over all keys; `all` takes directories whose parents are without a name, too: those in a circle. */
static int reattach_pass(struct check *c, size_t *done, bool all)
{
    struct lsm_iter_options options = {.flags = LSM_NOFILL | LSM_KEYS};
    struct lsm_iter *it;
    int r = lsm_iter_new(c->db, &options, &it);
    if (r < 0)
        return r;
    for (lsm_iter_first(it); r == 0 && lsm_iter_valid(it); lsm_iter_next(it)) {
        size_t len;
        const uint8_t *key = lsm_iter_key(it, &len);
        bool dir = len >= 9 && (key[8] == KEY_DIR || key[8] == KEY_BUCKET), lost = false;
        if (len < 9 || !(dir || (len == 9 && key[8] == KEY_INODE)) || !stray_of(c, key, len) ||
            !check_id_is_leased(c, get_be64(key)))
            continue;
        fs_id id = get_be64(key);
        uint32_t index;
        if (dir && !all)
            r = parent_is_lost(c, id, &lost);
        if (r < 0 || lost)
            continue;
        problem_id(c, id, "%s", stray_of(c, key, len));
        r = fix_reattach(c, id, dir, &index);
        if (r == -EIO || r == -EEXIST || r == -ENOSPC) { /* it can't have a name; what can't be read goes */
            r = 0;
            continue;
        }
        if (r == 0)
            report_fix(c, index, NULL, 0, "here is what inode %" PRIu64 " is now", id);
        if (r == 0 && dir && index < *done) /* it was passed while it had no name */
            r = check_directory(c, index);
        if (r == 0)
            r = check_queue(c, done);
    }
    if (r == 0)
        r = lsm_iter_status(it);
    lsm_iter_free(it);
    return r;
}

int reattach_strays(struct check *c, size_t *done)
{
    int r = reattach_pass(c, done, false);
    return r ? r : reattach_pass(c, done, true);
}

/* What still belongs to nobody, or can't be decoded, goes. */
int delete_strays(struct check *c)
{
    struct lsm_iter_options o = {.flags = LSM_NOFILL | LSM_KEYS};
    struct lsm_iter *it;
    int r = lsm_iter_new(c->db, &o, &it);
    if (r < 0)
        return r;
    for (lsm_iter_first(it); r == 0 && lsm_iter_valid(it); lsm_iter_next(it)) {
        size_t len;
        const uint8_t *key = lsm_iter_key(it, &len);
        const char *what = wrong_of(c, it);
        if (!what)
            continue;
        problem_id(c, len >= 8 ? get_be64(key) : 0, "%s: removed", what);
        lsm_batch_delete(c->fix, key, len);
        r = check_fix(c);
    }
    if (r == 0)
        r = lsm_iter_status(it);
    lsm_iter_free(it);
    return r;
}
