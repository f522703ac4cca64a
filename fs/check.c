/*
 * check.c - see check.h. Two passes.
 *
 * The first goes from the root down. The array of objects is its queue: a directory that is met is
 * appended, and the loop over the array comes to it later. A directory's entries are read in order,
 * with whatever each leads to. The second (check_stray.c) asks of every key whether the first has met whom it
 * belongs to. When something could not be read, a name may be among that: then what the second pass and the link
 * counts would say about owners that are missing is left unsaid.
 *
 * Threads: one.
 */
#include "check_internal.h"
#include "data.h"
#include "ids.h"
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define PROGRESS_STEP 1024u /* files and directories between two calls of progress */

/* ---- one directory ---- */

struct directory {
    uint32_t index; /* in the table of objects */
    fs_id id;
    uint64_t entries, size, subdirs, smalls; /* found */
};

/* A directory entry and where it stands. */
struct place {
    struct directory *dir;
    const struct bucket *bucket;
    const struct bucket_entry *entry;
    bool drop; /* repair takes the name away */
};

__attribute__((format(printf, 3, 4))) static void problem(struct check *c, const struct place *p,
                                                          const char *format, ...)
{
    char what[200];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    problem_entry(c, p->dir->index, p->entry->name, p->entry->name_len, p->entry->id, "%s", what);
}

/* Contents that are not what was written must not stay where somebody relies on them. */
static int drop_damaged(struct check *c, struct place *p, const struct inode *ino)
{
    p->drop = true;
    if (!c->fix || ino->layout != LAYOUT_EXTENTS)
        return 0;
    struct object *o = object_get(c, ino->attr.id);
    if (!o)
        return -ENOMEM;
    o->flags |= OBJECT_DROPPED;
    return fix_detach(c, ino);
}

static int check_inode(struct check *c, struct place *p, struct inode *ino)
{
    struct file_place at = {p->dir->index, p->entry->name, p->entry->name_len};
    bool bad;
    ino->attr.id = p->entry->id;
    if ((ino->attr.mode & S_IFMT) != p->entry->type) {
        problem(c, p, "its inode is of another type than its name says");
        p->drop = true;
    }
    uint32_t flags =
        (ino->layout == LAYOUT_EXTENTS ? OBJECT_EXTENTS : 0) | (ino->large_xattrs ? OBJECT_XATTRS : 0);
    if (flags) {
        struct object *o = object_get(c, ino->attr.id);
        if (!o)
            return -ENOMEM;
        o->flags |= flags;
    }
    int r = check_contents(c, &at, ino, &bad);
    p->dir->smalls += ino->layout == LAYOUT_SMALL && !bad;
    return r == 0 && bad ? drop_damaged(c, p, ino) : r;
}

static int check_record(struct check *c, struct place *p)
{
    struct inode ino;
    if (record_inode_decode(p->entry->record, p->entry->record_len, &ino) < 0) {
        problem(c, p, "its inode can't be decoded");
        p->drop = true;
        return 0;
    }
    if (ino.attr.nlink != 1) {
        problem(c, p, "its inode counts %" PRIu32 " names, but has room for one", ino.attr.nlink);
        p->drop = true;
    }
    const struct object *o = object_find(c, p->entry->id);
    if (o && o->flags & (OBJECT_ORPHAN | OBJECT_OWN | OBJECT_DIR)) {
        problem(c, p, "its inode number belongs to something else, too");
        p->drop = true;
    }
    ino.home = (struct inode_home){HOME_ENTRY, p->bucket->dir, p->bucket->hash, p->entry->index};
    return check_inode(c, p, &ino);
}

/* The first name of a file of several; `o` is not used after objects were added. */
static int check_own(struct check *c, struct place *p, struct object *o)
{
    struct key key = key_plain(p->entry->id, KEY_INODE);
    struct lsm_value v;
    struct inode ino;
    int r = check_get(c, &key, &v);
    if (r == -ENOMEM)
        return r;
    bool decoded = r == 0 && record_inode_decode(v.data, v.len, &ino) == 0 && ino.layout != LAYOUT_SMALL;
    if (!decoded) {
        problem(c, p, "%s",
                r == -ENOENT ? "leads to an inode that does not exist"
                : r < 0      ? "its inode can't be read"
                             : "its inode can't be decoded");
        o->flags |= c->fix ? OBJECT_DROPPED : OBJECT_UNREADABLE;
        p->drop = true;
        if (c->fix)
            fix_delete(c, &key);
        r = 0;
    } else {
        o->nlink = ino.attr.nlink;
        ino.home = (struct inode_home){.kind = HOME_OWN};
        r = check_inode(c, p, &ino);
    }
    lsm_value_release(&v);
    return r;
}

/* Nothing at all is left of a directory: neither its record nor any of its entries. 1 or 0. */
static int directory_is_gone(struct check *c, fs_id id)
{
    struct key key = key_plain(id, KEY_DIR);
    struct lsm_value v;
    struct check_scan s;
    int r = check_get(c, &key, &v);
    lsm_value_release(&v);
    if (r != -ENOENT)
        return r == -ENOMEM ? r : 0;
    r = check_scan_open(&s, c, id, KEY_BUCKET, 7);
    if (r == 0)
        r = check_scan_next(&s);
    check_scan_close(&s);
    return r < 0 ? r : r == 0;
}

static int check_linked(struct check *c, struct place *p)
{
    const struct bucket_entry *e = p->entry;
    bool dir = e->type == S_IFDIR;
    int gone = dir && c->fix ? directory_is_gone(c, e->id) : 0;
    if (gone > 0) {
        problem(c, p, "leads to a directory that does not exist");
        p->drop = true;
    }
    if (gone)
        return gone < 0 ? gone : 0;
    struct object *o = object_get(c, e->id);
    int r = o ? object_name(o, p->dir->index, e->name, e->name_len) : -ENOMEM;
    if (r < 0)
        return r;
    if (o->flags & OBJECT_ORPHAN) {
        problem(c, p, "is on the list of deleted files, but has a name");
        if (c->fix) { /* it was never deleted: the name is worth more */
            struct key key = key_u64(id_orphans(id_vshard(e->id) % lsm_shards(c->db)), KEY_ORPHAN, e->id);
            fix_delete(c, &key);
            o->flags &= ~(uint32_t)OBJECT_ORPHAN;
        }
    }
    if (o->flags & (dir ? OBJECT_OWN : OBJECT_DIR)) {
        problem(c, p, "its inode is of another type than its name says");
        p->drop = true;
        return 0;
    }
    if (dir && o->names > 0) {
        problem(c, p, "is a second name of a directory");
        p->drop = true;
        return 0;
    }
    o->names++;
    if (o->names > 1) {
        p->drop = o->flags & OBJECT_DROPPED;
        return 0;
    }
    o->flags |= dir ? OBJECT_DIR : OBJECT_OWN;
    return dir ? 0 : check_own(c, p, o);
}

static void count_entry(struct directory *d, const struct bucket_entry *e)
{
    d->entries++;
    d->size += e->name_len + DIR_ENTRY_BYTES;
    d->subdirs += e->type == S_IFDIR;
}

static int check_entry(struct check *c, struct place *p)
{
    const struct bucket_entry *e = p->entry;
    if (fs_name_check(e->name, e->name_len, -EINVAL) < 0) {
        problem(c, p, "is no possible name");
        p->drop = true;
    }
    if (c->has_super &&
        (XXH3_64bits_withSeed(e->name, e->name_len, c->hash_seed) & c->hash_mask) != p->bucket->hash) {
        problem(c, p, "stands where no lookup of this name would find it");
        p->drop = true;
    }
    for (const struct bucket_entry *other = p->bucket->entry; other < e; other++)
        if (other->name_len == e->name_len && memcmp(other->name, e->name, e->name_len) == 0) {
            problem(c, p, "is there twice");
            p->drop = true;
        }
    c->out->files += e->type != S_IFDIR;
    if (c->lsm->progress && (c->out->files + c->out->directories) % PROGRESS_STEP == 0)
        c->lsm->progress(c->lsm->progress_arg, c->out->files + c->out->directories, 0);
    if (!check_id_is_leased(c, e->id)) {
        problem(c, p, "its inode number was never given out");
        p->drop = true;
        return 0;
    }
    return e->record ? check_record(c, p) : check_linked(c, p);
}

/* The inode went with its name: what it had belongs to nobody now. */
static void disown(struct check *c, fs_id id)
{
    struct object *o = object_find(c, id);
    if (o && !(o->flags & (OBJECT_OWN | OBJECT_DIR | OBJECT_ORPHAN | OBJECT_DROPPED)))
        o->flags &= ~(uint32_t)(OBJECT_EXTENTS | OBJECT_XATTRS);
}

static int check_bucket(struct check *c, struct directory *d, const struct lsm_iter *it)
{
    struct bucket b = {.dir = d->id};
    size_t key_len, len;
    const uint8_t *key = lsm_iter_key(it, &key_len);
    const void *value = lsm_iter_value(it, &len);
    if (key_len == 16)
        b.hash = key_bucket_hash(key);
    if (key_len != 16 || bucket_decode(value, len, &b) < 0) {
        problem_object(c, &c->objects[d->index], "some of its entries can't be decoded");
        if (c->fix) {
            lsm_batch_delete(c->fix, key, key_len);
            return check_fix(c);
        }
        c->objects[d->index].flags |= OBJECT_UNREADABLE;
        c->damage_seen++;
        return 0;
    }
    struct bucket left = b;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < b.count; i++) {
        struct place p = {d, &b, &b.entry[i], false};
        r = check_entry(c, &p);
        if (!p.drop || !c->fix) {
            count_entry(d, &b.entry[i]);
            continue;
        }
        report_fix(c, d->index, b.entry[i].name, b.entry[i].name_len, "removed");
        bucket_remove(&left, b.entry[i].index);
        disown(c, b.entry[i].id);
    }
    if (r == 0 && left.count < b.count)
        r = fix_bucket(c, &left);
    return r;
}

static int check_entries(struct check *c, struct directory *d)
{
    struct check_scan s;
    int r = check_scan_open(&s, c, d->id, KEY_BUCKET, 7);
    while (r == 0 && (r = check_scan_next(&s)) > 0)
        r = check_bucket(c, d, s.it);
    if (s.skipped) {
        problem_object(c, &c->objects[d->index], "some of its entries can't be read");
        c->objects[d->index].flags |= OBJECT_UNREADABLE;
    }
    check_scan_close(&s);
    return r;
}

/* Whether the file at this hash and index has small contents. -ENOENT: no. */
static int small_owner(struct check *c, fs_id dir, uint64_t hash, unsigned index)
{
    struct key key = key_bucket(dir, hash);
    struct bucket b = {.dir = dir, .hash = hash};
    struct lsm_value v;
    struct inode ino;
    int r = check_get(c, &key, &v);
    if (r == 0 && bucket_decode(v.data, v.len, &b) == 0) {
        const struct bucket_entry *e = bucket_at(&b, index);
        bool has = e && e->record && record_inode_decode(e->record, e->record_len, &ino) == 0 &&
                   ino.layout == LAYOUT_SMALL;
        r = has ? 0 : -ENOENT;
    }
    lsm_value_release(&v);
    return r;
}

/* Every key 0x06 has an owner. Whether there are more than owners is counted first, which is cheap. */
static int check_smalls(struct check *c, struct directory *d)
{
    struct check_scan s;
    uint64_t found = 0;
    int r = check_scan_open(&s, c, d->id, KEY_SMALL, 8);
    while (r == 0 && (r = check_scan_next(&s)) > 0) {
        found++;
        r = 0;
    }
    uint64_t skipped = s.skipped;
    check_scan_close(&s);
    if (r < 0 || skipped || found <= d->smalls || c->objects[d->index].flags & OBJECT_UNREADABLE)
        return r;
    r = check_scan_open(&s, c, d->id, KEY_SMALL, 8);
    while (r == 0 && (r = check_scan_next(&s)) > 0) {
        int owner = small_owner(c, d->id, s.last >> 8, (unsigned)(s.last & 0xff));
        if (owner == -ENOENT) {
            struct key key = check_scan_key(&s);
            problem_object(c, &c->objects[d->index],
                           "contents of a file that is not in it (hash %014" PRIx64 ")", s.last >> 8);
            if (c->fix)
                fix_delete(c, &key);
        }
        r = owner == -ENOMEM ? owner : 0;
    }
    check_scan_close(&s);
    return r;
}

static fs_id parent_of(const struct check *c, const struct object *o)
{
    return o->parent == NO_PARENT ? FS_ID_ROOT : c->objects[o->parent].id;
}

static void compare_counts(struct check *c, const struct directory *d, const struct inode *ino)
{
    const struct object *o = &c->objects[d->index];
    fs_id parent = parent_of(c, o);
    if (ino->home.parent != parent)
        problem_object(c, o, "its record names %" PRIu64 " as its parent, its name is in %" PRIu64,
                       ino->home.parent, parent);
    if (o->flags & OBJECT_UNREADABLE)
        return;
    if (ino->dir_entries != d->entries)
        problem_object(c, o, "it counts %" PRIu64 " entries and has %" PRIu64, ino->dir_entries, d->entries);
    if (ino->attr.size != d->size)
        problem_object(c, o, "its size is %" PRIu64 ", its entries make %" PRIu64, ino->attr.size, d->size);
    if (ino->attr.nlink != 2 + d->subdirs)
        problem_object(c, o, "it counts %" PRIu32 " links and has %" PRIu64, ino->attr.nlink, 2 + d->subdirs);
}

int check_directory(struct check *c, uint32_t index)
{
    struct directory d = {.index = index, .id = c->objects[index].id};
    struct key key = key_plain(d.id, KEY_DIR);
    struct lsm_value v;
    struct inode ino;
    c->out->directories++;
    int r = check_get(c, &key, &v);
    if (r == -ENOMEM)
        return r;
    bool decoded = r == 0 && record_dir_decode(v.data, v.len, &ino) == 0;
    if (!decoded)
        problem_object(c, &c->objects[index], "%s",
                       r == -ENOENT ? "leads to a directory that does not exist"
                       : r < 0      ? "its record can't be read"
                                    : "its record can't be decoded");
    else if (ino.large_xattrs)
        c->objects[index].flags |= OBJECT_XATTRS;
    r = check_entries(c, &d);
    if (r == 0)
        r = check_smalls(c, &d);
    if (r == 0 && decoded)
        compare_counts(c, &d, &ino);
    const struct object *o = &c->objects[index];
    bool right = decoded && ino.home.parent == parent_of(c, o) && ino.dir_entries == d.entries &&
                 ino.attr.size == d.size && ino.attr.nlink == 2 + d.subdirs;
    if (r == 0 && c->fix && !right)
        r = fix_directory(c, o, parent_of(c, o), decoded ? &ino : NULL, d.entries, d.size, 2 + d.subdirs);
    lsm_value_release(&v);
    if (r == 0 && c->fix)
        r = check_fix(c);
    return r;
}

/* ---- link counts and lists ---- */

static int check_links(struct check *c)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->count; i++) {
        const struct object *o = &c->objects[i];
        bool countable =
            o->flags & OBJECT_OWN && !(o->flags & (OBJECT_UNREADABLE | OBJECT_DROPPED)) && o->names > 0;
        if (!countable || o->names == o->nlink || (o->names < o->nlink && c->damage_seen))
            continue;
        problem_object(c, o, "it counts %" PRIu32 " names and has %" PRIu32, o->nlink, o->names);
        if (c->fix)
            r = fix_nlink(c, o);
    }
    return r;
}

/* An inode without a name has no links left. */
static int check_orphans(struct check *c)
{
    for (size_t i = 0; i < c->count; i++) {
        if (!(c->objects[i].flags & OBJECT_ORPHAN))
            continue;
        struct key key = key_plain(c->objects[i].id, KEY_INODE);
        struct lsm_value v;
        struct inode ino;
        int r = check_get(c, &key, &v);
        if (r == 0 && (record_inode_decode(v.data, v.len, &ino) < 0 || ino.attr.nlink != 0)) {
            problem_id(c, c->objects[i].id, "is on the list of deleted files, but its inode says otherwise");
            if (c->fix)
                r = fix_nlink(c, &c->objects[i]);
        }
        lsm_value_release(&v);
        if (r < 0 && r != -ENOENT && r != -EIO)
            return r;
        c->out->orphans++;
    }
    return 0;
}

/* ---- the lists of deleted files and pending truncations ---- */

static int take_list(struct check *c, unsigned shard, enum key_tag tag, uint32_t flag)
{
    struct check_scan s;
    struct inode_home home;
    int r = check_scan_open(&s, c, id_orphans(shard), tag, 8);
    while (r == 0 && (r = check_scan_next(&s)) > 0) {
        size_t key_len, len;
        (void)lsm_iter_key(s.it, &key_len);
        const void *value = lsm_iter_value(s.it, &len);
        bool good = key_len == 17 && (tag == KEY_ORPHAN || record_truncate_decode(value, len, &home) == 0);
        if (!good)
            problem_id(c, s.last, "%s",
                       tag == KEY_ORPHAN ? "an entry in the list of deleted files makes no sense"
                                         : "the record of its pending truncation can't be decoded");
        if (!good && c->fix) {
            struct key key = check_scan_key(&s);
            fix_delete(c, &key);
            r = check_fix(c);
            continue;
        }
        struct object *o = object_get(c, s.last);
        if (o)
            o->flags |= flag;
        r = o ? 0 : -ENOMEM;
    }
    if (s.skipped)
        problem_id(c, 0, "the list of %s of shard %u can't be read",
                   tag == KEY_ORPHAN ? "deleted files" : "pending truncations", shard);
    check_scan_close(&s);
    return r;
}

static int take_lists(struct check *c)
{
    int r = 0;
    for (unsigned shard = 0; r == 0 && shard < lsm_shards(c->db); shard++) {
        r = take_list(c, shard, KEY_ORPHAN, OBJECT_ORPHAN);
        if (r == 0)
            r = take_list(c, shard, KEY_TRUNCATE, OBJECT_TRUNCATE);
    }
    return r;
}

/* -EMEDIUMTYPE: this is some other store. */
static int check_super(struct check *c)
{
    struct key key = key_plain(ID_SUPER, KEY_SUPER), lease = key_plain(ID_SUPER, KEY_LEASE);
    struct lsm_value v;
    struct super super;
    int r = check_get(c, &key, &v);
    if (r == 0 && record_super_decode(v.data, v.len, &super) == 0) {
        c->has_super = true;
        c->hash_seed = super.hash_seed;
    }
    lsm_value_release(&v);
    if (r == -ENOMEM)
        return r;
    if (r == -ENOENT) {
        key = key_plain(FS_ID_ROOT, KEY_DIR);
        int root = check_get(c, &key, &v);
        lsm_value_release(&v);
        if (root == -ENOENT && !c->damage_seen)
            return -EMEDIUMTYPE;
    }
    if (c->has_super && (super.version > SUPER_VERSION || super.incompat & ~SUPER_INCOMPAT_KNOWN))
        return -ENOTSUP;
    if (!c->has_super)
        problem_id(c, 0, "the superblock %s",
                   r == -ENOENT ? "is missing"
                   : r < 0      ? "can't be read"
                                : "can't be decoded");
    r = check_get(c, &lease, &v);
    c->leased = r == 0 && v.len == LEASE_BYTES ? get_le64(v.data) : 0;
    c->has_lease = c->leased >= ID_SERIAL_FIRST && c->leased <= ID_SERIAL_MASK;
    lsm_value_release(&v);
    if (!c->has_lease && r != -ENOMEM)
        problem_id(c, 0, "the record of the last inode number given out %s",
                   r == -ENOENT ? "is missing"
                   : r < 0      ? "can't be read"
                                : "makes no sense");
    return r == -ENOMEM ? r : 0;
}

/* Every directory from index *done on that has a name, and what they add to the table. */
int check_queue(struct check *c, size_t *done)
{
    int r = 0;
    for (; r == 0 && *done < c->count; *done += 1)
        if (c->objects[*done].flags & OBJECT_DIR && c->objects[*done].names > 0 &&
            !(c->objects[*done].flags & OBJECT_LOST_FOUND))
            r = check_directory(c, (uint32_t)*done);
    return r;
}

static int check_tree(struct check *c)
{
    struct object *root = object_get(c, FS_ID_ROOT);
    if (!root)
        return -ENOMEM;
    root->flags |= OBJECT_DIR;
    root->names = 1;
    size_t done = 0;
    int r = take_lists(c);
    if (r == 0)
        r = check_queue(c, &done);
    if (r == 0 && c->fix && !c->damage_seen)
        r = reattach_strays(c, &done);
    if (r == 0)
        r = check_orphans(c);
    if (r == 0)
        r = check_links(c);
    if (r == 0 && !c->damage_seen)
        r = c->fix ? delete_strays(c) : check_strays(c);
    return r;
}

/* The engine's word about damage is lsm_verify's to pass on, with every place only once. */
static void on_log(void *arg, enum lsm_log_level level, const char *message)
{
    const struct lsm_options *lsm = arg;
    if (lsm->log && level == LSM_LOG_WARNING)
        lsm->log(lsm->log_arg, level, message);
}

/* The highest serial of any id in a key or an entry. */
static int highest_serial(struct check *c, uint64_t *out)
{
    struct lsm_iter_options o = {.flags = LSM_NOFILL | LSM_KEYS};
    struct lsm_iter *it;
    *out = ID_SERIAL_FIRST;
    int r = lsm_iter_new(c->db, &o, &it);
    if (r < 0)
        return r;
    for (lsm_iter_first(it); r == 0 && lsm_iter_valid(it); lsm_iter_next(it)) {
        size_t key_len;
        struct lsm_value v;
        const uint8_t *key = lsm_iter_key(it, &key_len);
        struct bucket b = {.dir = key_len >= 9 ? get_be64(key) : 0};
        uint64_t serial = b.dir & ID_SERIAL_MASK;
        *out = serial > *out ? serial : *out;
        if (key_len != 16 || key[8] != KEY_BUCKET)
            continue;
        r = check_value(c, it, &v);
        if (r == 0 && bucket_decode(v.data, v.len, &b) == 0)
            for (unsigned i = 0; i < b.count; i++) {
                serial = b.entry[i].id & ID_SERIAL_MASK;
                *out = serial > *out ? serial : *out;
            }
        lsm_value_release(&v);
    }
    if (r == 0)
        r = lsm_iter_status(it);
    lsm_iter_free(it);
    return r;
}

/* What must be there before names can be looked at. -EUCLEAN: without the superblock no name can be found. */
static int repair_super(struct check *c)
{
    uint64_t serial;
    if (!c->has_super)
        return -EUCLEAN;
    if (c->has_lease)
        return 0;
    int r = highest_serial(c, &serial);
    if (r == 0)
        r = fix_lease(c, serial + 1);
    return r < 0 ? r : check_fix(c);
}

static int run_check(const char *path, const struct fs_options *options, bool repair, fs_problem_fn fn,
                     void *arg, struct fs_checked *out)
{
    struct lsm_options lsm = options->lsm;
    struct check c = {.fn = fn, .arg = arg, .out = out, .lsm = &options->lsm, .hash_mask = HASH_MASK};
    memset(out, 0, sizeof(*out));
    if (options->test_hash_bits > 0 && options->test_hash_bits < HASH_BITS)
        c.hash_mask = (UINT64_C(1) << options->test_hash_bits) - 1;
    fs_lsm_options(&lsm);
    lsm.flags = LSM_INLINE | (repair ? 0 : LSM_RDONLY);
    lsm.log = on_log;
    lsm.log_arg = (void *)(uintptr_t)&options->lsm;
    lsm.progress = NULL;
    int r = lsm_open(path, &lsm, &c.db);
    if (r < 0)
        return r;
    if (repair)
        r = lsm_batch_new(&c.fix);
    if (r == 0)
        r = check_super(&c);
    if (r == 0 && repair)
        r = repair_super(&c);
    if (r == 0)
        r = check_tree(&c);
    objects_free(&c);
    lsm_batch_free(c.fix);
    int closed = lsm_close(c.db);
    return r < 0 ? r : closed;
}

int fs_check(const char *path, const struct fs_options *options, fs_problem_fn fn, void *arg,
             struct fs_checked *out)
{
    return run_check(path, options, false, fn, arg, out);
}

int fs_repair_tree(const char *path, const struct fs_options *options, fs_problem_fn fn, void *arg,
                   struct fs_checked *out)
{
    return run_check(path, options, true, fn, arg, out);
}

int fs_repair_files(const char *path, const struct fs_options *options, lsm_problem_fn fn, void *arg,
                    struct lsm_repaired *out)
{
    struct lsm_options lsm = options->lsm;
    fs_lsm_options(&lsm);
    return lsm_repair(path, &lsm, fn, arg, out);
}
