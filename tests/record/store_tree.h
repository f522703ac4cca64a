/*
 * store_tree.h - a store of ShaleFS that is not mounted: checked, and read as a tree (tree.h).
 */
#ifndef RECORD_STORE_TREE_H
#define RECORD_STORE_TREE_H

#include "fs.h"
#include "tree.h"

/* With `flags` (enum lsm_open_flags); messages go to stdout. */
struct fs_options store_options(unsigned flags);

/* As `shale check`: every byte, and that everything fits together. Says what does not; EXIT_GOOD or EXIT_BROKEN. */
int store_check(const char *store);

/* 0 or a negative errno. By tree_free, in either case. */
int tree_of_store(struct fs *fs, fs_id directory, struct tree *out);

#endif
