/*
 * check_internal.h - private: what the parts of the check share: check.c (directories, the whole),
 * check_file.c (one file's contents), check_table.c (objects met, paths, reports).
 *
 * Threads: one.
 */
#ifndef FS_CHECK_INTERNAL_H
#define FS_CHECK_INTERNAL_H

#include "check.h"
#include "bucket.h"
#include "record.h"

#define NO_PARENT UINT32_MAX

enum object_flags {
    OBJECT_DIR = 1u << 0,
    OBJECT_OWN = 1u << 1,     /* a file whose inode has a key of its own */
    OBJECT_EXTENTS = 1u << 2, /* may have keys 0x04 */
    OBJECT_XATTRS = 1u << 3,  /* may have keys 0x05 */
    OBJECT_ORPHAN = 1u << 4,
    OBJECT_TRUNCATE = 1u << 5,   /* a truncation is pending: extents beyond the size are all right */
    OBJECT_UNREADABLE = 1u << 6, /* its record or entries can't be read: say no more about it */
    OBJECT_DROPPED = 1u << 7,    /* repair takes its names away */
    OBJECT_LOST_FOUND = 1u << 8, /* made by repair: nothing to check in it */
};

/* What has to be remembered until the end of the check. */
struct object {
    fs_id id;
    char *name;      /* one of its names; NULL: none known */
    uint32_t parent; /* index of the directory of that name, or NO_PARENT */
    uint32_t names;  /* found */
    uint32_t nlink;  /* OBJECT_OWN: as recorded */
    uint32_t flags;
};

struct check {
    struct lsm *db;
    fs_problem_fn fn;
    void *arg;
    struct fs_checked *out;
    const struct lsm_options *lsm;
    uint64_t hash_seed, hash_mask, leased;
    bool has_super, has_lease;
    uint64_t damage_seen; /* errors of reading so far */
    struct lsm_batch
        *fix; /* NULL: only looking. Else what repairs the problem at hand, until check_fix commits it */
    fs_id lost_found; /* the directory, once it is needed */
    struct object *objects;
    size_t count, capacity;
    uint32_t *slots; /* hash table of indices + 1; its size is a power of two */
    size_t slot_count;
    char path[8192]; /* of the last report */
};

/* ---- check_table.c ---- */

struct object *object_find(struct check *c, fs_id id);
/* Finds or adds; the pointer is valid until the next call. NULL: out of memory. */
struct object *object_get(struct check *c, fs_id id);
void objects_free(struct check *c);
/* Remembers a name of an object (its first one only). -ENOMEM */
int object_name(struct object *o, uint32_t parent, const char *name, size_t len);

/* Reports a problem of the object, or of `name` (may be NULL) in the directory at index `dir`. */
__attribute__((format(printf, 3, 4))) void problem_object(struct check *c, const struct object *o,
                                                          const char *format, ...);
__attribute__((format(printf, 6, 7))) void problem_entry(struct check *c, uint32_t dir, const char *name,
                                                         size_t len, fs_id id, const char *format, ...);
__attribute__((format(printf, 3, 4))) void problem_id(struct check *c, fs_id id, const char *format, ...);

/* Tells what repair does about it; no problem of its own. */
__attribute__((format(printf, 5, 6))) void report_fix(struct check *c, uint32_t dir, const char *name,
                                                      size_t len, const char *format, ...);

/* ---- check_file.c ---- */

/* A name that leads to a file: where reports of it go. */
struct file_place {
    uint32_t dir;
    const char *name;
    size_t name_len;
};
/*
 * The contents of a file. An error is only one of memory. *bad: they are not what was written. Repairing, bad extents
 * are deleted and ino->stored set to what is left.
 */
int check_contents(struct check *c, const struct file_place *at, struct inode *ino, bool *bad);

/* ---- check_repair.c; all of it adds to c->fix ---- */

int check_fix(struct check *c); /* commits what was added */
void fix_delete(struct check *c, const struct key *key);
/* The inode of a file whose contents are damaged gets a key of its own: without a name it comes to /lost+found. */
int fix_detach(struct check *c, const struct inode *ino);
int fix_bucket(struct check *c, const struct bucket *b);
/* A directory's record with what was found; `ino` is NULL if there is none to start from. */
int fix_directory(struct check *c, const struct object *o, fs_id parent, const struct inode *ino,
                  uint64_t entries, uint64_t size, uint64_t nlink);
int fix_nlink(struct check *c, const struct object *o);
/* Gives an inode or directory without a name one in /lost+found, and commits. *index: of the object. */
int fix_reattach(struct check *c, fs_id id, bool dir, uint32_t *index);
int fix_lease(struct check *c, uint64_t above);

/* ---- check_stray.c ---- */

/* Whether the id may have been given out. */
bool check_id_is_leased(const struct check *c, fs_id id);
/* Reports what belongs to nobody, once for each id and kind. Only when everything could be read, as the others. */
int check_strays(struct check *c);
/* Repair: names for what has none; *done as for check_queue. Then what is left goes. */
int reattach_strays(struct check *c, size_t *done);
int delete_strays(struct check *c);

/* ---- check.c ---- */

/* The directory at this index of the table of objects, which has a name. */
int check_directory(struct check *c, uint32_t index);
/* Every such directory from index *done on, and what they add to the table. */
int check_queue(struct check *c, size_t *done);

/* ---- check_scan.c ---- */

/* 0, -ENOENT, -ENOMEM, or -EIO: can't be read, which is counted. */
int check_get(struct check *c, const struct key *key, struct lsm_value *out);
/*
 * The value that the iterator stands at. With LSM_KEYS large ones are read only by this, so that a walk over all keys reads no
 * contents. On error *out may be released, too.
 */
int check_value(struct check *c, struct lsm_iter *it, struct lsm_value *out);

/*
 * A scan that steps over what can't be read. Keys are id, tag and a number of `digits` bytes behind them, which is what
 * is counted on when looking for the next readable key.
 */
struct check_scan {
    struct check *c;
    struct lsm_iter *it;
    fs_id id;
    enum key_tag tag;
    unsigned digits;
    uint64_t last;    /* number of the last key */
    bool begun;       /* there was one */
    uint64_t skipped; /* times something was stepped over */
};
int check_scan_open(struct check_scan *s, struct check *c, fs_id id, enum key_tag tag, unsigned digits);
/* 1: stands on the next key; 0: no more. */
int check_scan_next(struct check_scan *s);
void check_scan_close(struct check_scan *s);
struct key check_scan_key(const struct check_scan *s); /* where it stands */

#endif
