/*
 * inode.h - one inode, decoded: what the layers of the filesystem hand each other.
 *
 * Where an inode's record lives is its home. It changes only under the inode's exclusive lock:
 *   HOME_ENTRY   in the directory entry itself: a file (or symlink, device...) with one name
 *   HOME_OWN     under its own key 0x03: a file with several names (or once had), or unlinked with
 *                extents or large xattrs left (then an orphan record exists)
 *   HOME_DIR     a directory: key 0x01
 *   HOME_MEMORY  unlinked, still referenced and nothing stored: lives in the inode table only, with
 *                all its contents in `data`
 *
 * Contents (also a symlink's target) are in one of these layouts. Bytes between what is stored and
 * `size` are zeros: a hole.
 *   LAYOUT_INLINE   `data`, data_len <= INLINE_MAX (SMALL_MAX for HOME_MEMORY), starting at offset 0
 *   LAYOUT_SMALL    HOME_ENTRY only: key 0x06 of the home, data_len (1..SMALL_MAX) bytes from offset 0
 *   LAYOUT_EXTENTS  keys 0x04
 * An inode with extents stays so until it is truncated to 0.
 */
#ifndef FS_INODE_H
#define FS_INODE_H

#include "keys.h"

#define INLINE_MAX 256u
#define SMALL_MAX 4096u

enum home_kind { HOME_ENTRY = 1, HOME_OWN, HOME_DIR, HOME_MEMORY };

struct inode_home {
    enum home_kind kind;
    fs_id parent;   /* HOME_ENTRY, HOME_DIR */
    uint64_t hash;  /* HOME_ENTRY */
    unsigned index; /* HOME_ENTRY */
};

enum inode_layout { LAYOUT_INLINE = 0, LAYOUT_SMALL = 1, LAYOUT_EXTENTS = 2 }; /* on disk */

struct inode {
    struct fs_attr attr; /* attr.blocks is derived: inode_blocks() */
    struct inode_home home;
    enum inode_layout layout;
    uint64_t stored;   /* LAYOUT_EXTENTS: bytes held by extents */
    uint8_t *data;     /* LAYOUT_INLINE: malloc'ed, may be NULL if data_len is 0 */
    uint32_t data_len; /* LAYOUT_INLINE, LAYOUT_SMALL: bytes stored */
    uint8_t *xattrs;   /* encoded small xattrs (record.h), malloc'ed */
    uint32_t xattrs_len;
    bool large_xattrs;    /* there are keys 0x05 */
    uint64_t dir_entries; /* HOME_DIR: number of entries */
};

void inode_release(struct inode *ino);          /* frees data and xattrs; not ino itself */
uint64_t inode_blocks(const struct inode *ino); /* attr.blocks */

#endif
