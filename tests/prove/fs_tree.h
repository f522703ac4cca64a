/*
 * fs_tree.h - the model filesystem: a tree of files in arrays, small enough to be obviously right.
 *
 * A tree is one moment. It has up to TREE_NODES inodes, of which number 0 is the root, and a matrix that says for each
 * directory and each of TREE_NAMES names which inode the name leads to. Inodes without a name that somebody
 * still refers to are in it as well ("ghosts"), but are no part of the tree: no comparison looks at them.
 *
 * Trees and what they consist of are counted and shared: copying one costs an array of pointers, and changing a
 * copy copies the inode that is changed. A tree that others share (refs > 1) must not be changed.
 *
 * The operations do what the calls of fs.h of the same name do, and return the same errors; an error leaves the tree
 * as it was. `now` is the one time that all of an operation sees.
 */
#ifndef FS_TREE_H
#define FS_TREE_H

#include "fs.h"

#define TREE_NODES 40u
#define TREE_NAMES 10u
#define TREE_XATTRS_PLAIN 6u /* the first ones; then the ACLs */
#define TREE_ACL_ACCESS 6u
#define TREE_ACL_DEFAULT 7u
#define TREE_XATTRS 8u
#define TREE_ROOT 0u
#define TREE_FILE_MAX (320u << 10)

struct bytes {
    unsigned refs;
    size_t len;
    uint64_t sum;
    uint8_t at[];
};

struct node {
    unsigned refs;
    struct fs_attr attr;              /* id 0: not known yet; blocks are not used */
    struct bytes *content;            /* of files and symlinks, attr.size bytes; NULL: none */
    struct bytes *xattr[TREE_XATTRS]; /* NULL: not set */
    uint64_t after;                   /* its number must be higher than this serial */
};

struct tree {
    unsigned refs;
    struct node *node[TREE_NODES];
    uint8_t child[TREE_NODES][TREE_NAMES]; /* 0: no such name */
    uint64_t serial;                       /* the highest of an inode number that was ever given out */
    uint64_t digest;                       /* 0: not computed */
};

/* The names of the model: their numbers are those of the matrix. */
struct tree_name {
    const char *text;
    size_t len;
};
struct tree_name tree_name(unsigned i);
bool tree_name_find(const char *text, size_t len, unsigned *i);
extern const char *const tree_xattr_names[TREE_XATTRS];

struct bytes *bytes_new(size_t len); /* zeros; call bytes_done when filled */
struct bytes *bytes_done(struct bytes *b);
struct bytes *bytes_random(size_t len, uint64_t seed);
void bytes_unref(struct bytes *b);

struct tree *tree_new(uint32_t uid, uint32_t gid, struct timespec now);
struct tree *tree_copy(const struct tree *t);
struct tree *tree_ref(struct tree *t);
void tree_unref(struct tree *t);                   /* NULL is allowed */
struct node *tree_own(struct tree *t, unsigned i); /* node i, to be changed */
bool tree_has_room(const struct tree *t);
unsigned tree_add(struct tree *t, uint32_t mode); /* an inode without a name */

/* A name of inode i. False: it has none. */
bool tree_place(const struct tree *t, unsigned i, unsigned *dir, unsigned *name);
void tree_count(const struct tree *t, uint64_t *directories, uint64_t *names);
/* Removes the ghosts that are not in `held` (NULL: all). */
void tree_forget(struct tree *t, const unsigned held[TREE_NODES]);

/* Two trees are the same if their digests are. Inode numbers are no part of it. */
uint64_t tree_digest(struct tree *t);
/* Says in what they differ. */
void tree_explain(struct tree *want, struct tree *got, char *out, size_t size);
/* The inode numbers of `seen`, which has the same digest, must be t's; those that t does not know it learns. */
bool tree_learn(struct tree *t, const struct tree *seen);
bool node_same(const struct node *a, const struct node *b, const char **what);

/* ---- operations ---- */

struct tree_create {
    unsigned dir, name;
    uint32_t mode;
    uint64_t rdev;
    struct bytes *target; /* of a symlink; taken over */
    struct fs_caller caller;
};
int tree_create(struct tree *t, const struct tree_create *c, struct timespec now, unsigned *out);
int tree_link(struct tree *t, unsigned i, unsigned dir, unsigned name, struct timespec now);
int tree_remove(struct tree *t, unsigned dir, unsigned name, bool rmdir, struct timespec now);
int tree_rename(struct tree *t, unsigned from, unsigned name, unsigned to, unsigned new_name, unsigned flags,
                const struct fs_caller *caller, struct timespec now);
int tree_write(struct tree *t, unsigned i, uint64_t off, const void *buf, size_t len, struct timespec now);
int tree_setattr(struct tree *t, unsigned i, unsigned set, const struct fs_attr *in, struct timespec now);
int tree_fallocate(struct tree *t, unsigned i, int mode, uint64_t off, uint64_t len, struct timespec now);
/* A fallocate that has come as far as `to`. */
void tree_punch(struct tree *t, unsigned i, uint64_t off, uint64_t to, struct timespec now);
int tree_setxattr(struct tree *t, unsigned i, unsigned name, struct bytes *value, int flags,
                  struct timespec now);
int tree_removexattr(struct tree *t, unsigned i, unsigned name, struct timespec now);
/* An ACL (which: TREE_ACL_*) with that many named users: user, users, group, mask if there are users, other. */
struct bytes *acl_random(unsigned users, uint64_t seed);
int tree_setacl(struct tree *t, unsigned i, unsigned which, struct bytes *acl, struct timespec now);
/* What reading does to access times, as relatime has it. */
void tree_accessed(struct tree *t, unsigned i, struct timespec now);

#endif
