/*
 * itable.h - the inodes that somebody refers to: id, home, number of references. In memory only.
 *
 * An entry lives from the first reference (lookup, creation, readdir-plus) to the last forget. The root
 * always has one. Entries are 40 bytes; with malloc's header and the hash chains at most 64.
 *
 * An unlinked inode that is kept in memory (HOME_MEMORY: see inode.h) hangs off its entry, which
 * owns it. `orphan` says that an orphan record exists, so that the last forget has contents to remove.
 *
 * Threads: any; one mutex for each of the shards of the table, taken after all other locks of fs/ and
 * for a few instructions. What an entry says about a home is stable under the inode's lock, and so is
 * the inode in memory; references are not.
 */
#ifndef FS_ITABLE_H
#define FS_ITABLE_H

#include "inode.h"

struct itable;
struct itable_entry;

struct itable_info {
    struct inode_home home;
    struct inode *memory; /* HOME_MEMORY, else NULL; owned by the table */
    bool dir;             /* it is a directory, dead or alive */
    bool setgid;          /* a directory that hands its group down */
    bool default_acl;     /* a directory that may have a default ACL to hand down */
    bool orphan;
};

#define ITABLE_ENTRY_BYTES 64u /* what an entry costs, for statistics */

int itable_new(struct itable **out);
void itable_free(struct itable *t); /* releases inodes in memory, too; NULL is allowed */

bool itable_find(struct itable *t, fs_id id, struct itable_info *out);

/* Adds a reference; an entry made for it starts with `info`, one that exists keeps what it says. -ENOMEM */
int itable_ref(struct itable *t, fs_id id, const struct itable_info *info);

/*
 * For creation: what may fail comes before the commit, the insertion of a new id after it. On a damaged
 * store an id that is new may be in the table; then it gets a reference and stays what it is.
 */
struct itable_entry *itable_prepare(void);
void itable_insert(struct itable *t, struct itable_entry *prepared, fs_id id, const struct itable_info *info);
void itable_discard(struct itable_entry *prepared); /* NULL is allowed */

/*
 * Gives references back. Returns true if they were the last: the entry is gone, *out is what it
 * said and out->memory now belongs to the caller. An id that is not in the table is ignored.
 */
bool itable_forget(struct itable *t, fs_id id, uint64_t count, struct itable_info *out);

/* Replaces what an entry says; memory passes to the table, and what it had is released. False: not there. */
bool itable_update(struct itable *t, fs_id id, const struct itable_info *info);

uint64_t itable_count(struct itable *t);
uint64_t itable_orphans(struct itable *t); /* unlinked ones */

/* Up to max ids of HOME_ENTRY that were not looked at since this passed by them last. */
struct itable_cold {
    fs_id id;
    struct inode_home home;
};
size_t itable_cold(struct itable *t, struct itable_cold *out, size_t max);

size_t itable_entry_size(void); /* for the test of its promise */

#endif
