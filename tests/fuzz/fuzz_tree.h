/*
 * fuzz_tree.h - a hostile filesystem in memory: a store with arbitrary pairs under filesystem keys.
 *
 * Pairs are made from the input so that most of them come close to what an encoder would have
 * written: names under their right hashes, records with plausible fields, ids that refer to each
 * other (also in circles), and some bytes that mean nothing. The base (superblock, root) is good
 * unless the input replaces it.
 */
#ifndef FUZZ_TREE_H
#define FUZZ_TREE_H

#include "fs.h"
#include "fuzz.h"

#define TREE_PATH "/s"
#define TREE_NAMES 12u

struct tree_name {
    const char *name;
    size_t len;
};

struct tree_name tree_name(struct input *in);
/* One of a few ids that pairs and operations have in common, rarely any number. */
fs_id tree_id(struct input *in);

struct env;
/* A store with pairs from the input, opened as the daemon would. NULL: it was refused. */
struct fs *tree_open(struct input *in, struct env *env);

/* A seed's pairs; returns the end. After it come the target's operations. */
uint8_t *tree_seed(unsigned n, uint8_t *p);
#define TREE_SEEDS 3u

#endif
