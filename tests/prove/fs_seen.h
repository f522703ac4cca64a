/*
 * fs_seen.h - what an open filesystem holds, as a tree of fs_tree.h.
 */
#ifndef FS_SEEN_H
#define FS_SEEN_H

#include "fs_tree.h"

/*
 * Reads the whole tree, through the calls that programs use, and changes nothing but the cache of inodes: what
 * it refers to it forgets. An error of the filesystem is returned; what no error excuses is a proof_fail, and -EILSEQ.
 */
int seen_tree(struct fs *fs, struct tree **out);
/* Attributes, contents and extended attributes of an inode that somebody refers to. */
int seen_node(struct fs *fs, fs_id id, struct node *out);
void seen_release(struct node *n);

#endif
