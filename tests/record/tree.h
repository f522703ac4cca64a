/*
 * tree.h - a tree of files as a set of lines, so that two trees can be compared, and histories of such trees.
 *
 * A line is a path with all that counts of what it leads to. A tree's digest is the sum of its lines' hashes. A
 * history is a sequence of steps, each one system call that changes the tree or syncs something; it follows from
 * its seed alone. So a checker makes it again, and asks of which moment of it a tree is.
 *
 * Threads: one for each history.
 */
#ifndef RECORD_TREE_H
#define RECORD_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct tree {
    char **lines; /* not sorted */
    size_t count, capacity;
    uint64_t digest;
};
/* Of directories size and links are not looked at. contents: XXH3 of all bytes; of a symbolic link, of where it leads. */
void tree_add(struct tree *t, const char *path, mode_t type, uint64_t links, uint64_t size,
              uint64_t contents);
bool tree_has(const struct tree *t, const char *line);
void tree_free(struct tree *t);

/* 0 or a negative errno. */
int tree_of_directory(const char *path, struct tree *out);

struct history;
struct history *history_new(uint64_t seed);
void history_free(struct history *h);

enum step_type {
    STEP_CREATE,
    STEP_MKDIR,
    STEP_WRITE,
    STEP_TRUNCATE,
    STEP_PUNCH,
    STEP_LINK,
    STEP_SYMLINK,
    STEP_UNLINK,
    STEP_RMDIR,
    STEP_RENAME,
    STEP_EXCHANGE,
    STEP_FSYNC,
    STEP_FSYNC_DIRECTORY,
    STEPS,
};

#define STEP_BYTES_MAX 60000u
#define STEP_PATH_MAX 160u

/* The paths begin without a slash. */
struct step {
    enum step_type type;
    uint64_t number; /* from 1 */
    char path[STEP_PATH_MAX], to[STEP_PATH_MAX];
    uint64_t offset; /* of a write or a hole; the size of a truncation */
    size_t len;
    uint8_t data[STEP_BYTES_MAX];
};
/* The next step, which has happened to the history's tree on return. */
void history_step(struct history *h, struct step *out);
uint64_t history_digest(const struct history *h);
/*
 * Of a write that begins within a page and reaches beyond it, when its first page is there and no more; else 0. Linux
 * hands such a write to a FUSE filesystem as two if it does not have that page in memory.
 */
uint64_t history_half(const struct history *h);
/* Its lines; by tree_free. */
void history_tree(const struct history *h, struct tree *out);

/* Makes a step in a directory. 0 or a negative errno. */
int step_make(int directory, const struct step *s);

#endif
