/*
 * history.h - what a writer of a rehearsal does, and the tree that must come of it.
 *
 * A writer has a directory of its own. Its n-th operation follows from its seed, n, the phase, and the tree that
 * the operations before it made, so the tree after any number of operations can be made again from the
 * journal (journal.h), which says of each what the system answered. That is what a tree found after a crash is
 * compared with (verify.c).
 *
 * Each operation is one change, one FUSE request: after a crash it is there as a whole or not at all. Only a write
 * may be two (op_part): Linux sends what goes to a first page of which it does not know the rest by itself. Names: 12
 * directories (slot 0 is the writer's own, always there) with up to 24 entries each. Times are not modelled.
 */
#ifndef HISTORY_H
#define HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DIRS_MAX 12u
#define NAMES_MAX 24u
#define ENTRIES_MAX (DIRS_MAX * NAMES_MAX)
#define FILE_BYTES_MAX (512u << 10)
#define WRITE_BYTES_MAX (256u << 10) /* one request, wherever it begins */
#define PATH_BYTES 128u              /* DIRS_MAX names of at most 4 bytes and their slashes */

enum op_kind {
    OP_CREATE,
    OP_WRITE,
    OP_APPEND,
    OP_TRUNCATE,
    OP_PUNCH,
    OP_UNLINK,
    OP_UNLINK_HELD, /* unlinked while open; the descriptor is kept for a while */
    OP_WRITE_HELD,  /* to such a descriptor: nothing of it may ever be seen */
    OP_RENAME,
    OP_RENAME_NOREPLACE,
    OP_EXCHANGE,
    OP_LINK,
    OP_SYMLINK,
    OP_MKDIR,
    OP_RMDIR,
    OP_CHMOD,
    OP_SETXATTR,
    OP_SYNC,
    OP_SYNC_DIR,
    OP_KINDS
};
extern const char *const op_names[OP_KINDS];

enum phase {
    PHASE_MIXED,  /* everything, at most 6 MiB in all */
    PHASE_GROW,   /* files grow and grow: fills a disk */
    PHASE_SHRINK, /* only what makes things smaller, and rename */
    PHASES
};

struct op {
    enum op_kind kind;
    unsigned dir, name;   /* what */
    unsigned dir2, name2; /* where to, for rename and link */
    uint64_t offset;      /* bytes; the new size for truncate */
    uint32_t len;         /* bytes */
    uint64_t fill;        /* seed of the bytes written, of a target, of a value */
    mode_t mode;
};

struct history;

/* Whether it may be refused for want of space on a full disk. */
bool op_needs_space(const struct op *op);

/* Bytes in the first request of a write if there may be two, else 0. */
uint32_t op_part(const struct history *h, const struct op *op);

enum node_kind { NODE_DIR, NODE_FILE, NODE_LINK };

/* What can be seen of one name. */
struct sight {
    char path[PATH_BYTES]; /* below the writer's directory */
    uint32_t mode;         /* with the type */
    uint32_t links;
    uint64_t bytes;
    uint64_t content; /* hash of contents, or of a link's target */
    uint64_t xattr;   /* hash of user.v, 0: none */
    uint32_t first;   /* index of the first sight of the same inode */
};

/* All of a tree, by path in the order of strcmp. */
struct sights {
    unsigned n;
    struct sight at[ENTRIES_MAX];
};

struct history *history_new(uint64_t seed);
void history_free(struct history *h);
uint64_t history_steps(const struct history *h); /* operations so far */

/* The next operation, and what must come of it: 0 or a negative errno. */
void history_next(const struct history *h, enum phase phase, struct op *op, int *expected);
/* Takes it as done. rc: what the system answered; the tree changes only if that is 0. */
void history_done(struct history *h, const struct op *op, int rc);
/* Only the first `part` bytes of a write. *op is then the whole write, to be done over it. */
void history_part(struct history *h, struct op *op, uint32_t part);
/* Where a directory is, or an entry in it; the empty string for slot 0 itself. */
void history_dir_path(const struct history *h, unsigned dir, char path[PATH_BYTES]);
void history_path(const struct history *h, unsigned dir, unsigned name, char path[PATH_BYTES]);
void history_look(struct history *h, struct sights *out);

void sights_finish(struct sights *s, const uint64_t *ids); /* sorts, and makes `first` of inode numbers */
bool sight_equal(const struct sight *a, const struct sight *b);

uint64_t mix(uint64_t x); /* splitmix64 */
void fill_bytes(uint64_t fill, unsigned char *out, size_t len);
size_t fill_target(uint64_t fill, char *out, size_t room); /* of a symbolic link; returns its length */
uint64_t hash_of(const void *bytes, size_t len);

#endif
