/*
 * locks.h - the locks of inodes and of directory buckets, and how several are taken at once.
 *
 * Both kinds are striped: an id or a bucket has the lock that its hash chooses, so that memory does
 * not grow with the number of inodes. Order: inode stripes ascending, then bucket stripes ascending.
 * A set knows which stripes coincide and takes each once, exclusive if anybody wants that.
 *
 * Use: lockset_init, lockset_inode for each id, lockset_acquire; then, with the homes read,
 * lockset_buckets at most once; lockset_release. One thread holds one set at a time.
 */
#ifndef FS_LOCKS_H
#define FS_LOCKS_H

#include "keys.h"

#define LOCKSET_INODES_MAX 5u
#define LOCKSET_BUCKETS_MAX 2u

struct locks;

int locks_new(struct locks **out);
void locks_free(struct locks *l); /* NULL is allowed */

struct bucket_name {
    fs_id dir;
    uint64_t hash;
};

struct lockset {
    struct locks *locks;
    unsigned inodes, buckets; /* in the arrays */
    unsigned inodes_held, buckets_held;
    bool held; /* all inodes */
    struct {
        uint16_t stripe;
        bool exclusive;
    } inode[LOCKSET_INODES_MAX];
    uint16_t bucket[LOCKSET_BUCKETS_MAX];
};

void lockset_init(struct lockset *s, struct locks *l);
void lockset_inode(struct lockset *s, fs_id id, bool exclusive);
/* -EAGAIN in non-blocking mode only (nowait.h); then release. */
int lockset_acquire(struct lockset *s);
int lockset_buckets(struct lockset *s, const struct bucket_name *names, unsigned count);
void lockset_release(struct lockset *s); /* of one that holds nothing, too; it is empty afterwards */

#endif
