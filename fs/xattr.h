/*
 * xattr.h - small extended attributes as they stand in an inode's record.
 *
 * A sequence of {u8 name length 1..255, name, varint value length, value}, in no order, no name
 * twice. Values too large for it (XATTR_SMALL_MAX, XATTRS_INLINE_MAX) stand under keys 0x05.
 */
#ifndef FS_XATTR_H
#define FS_XATTR_H

#include "inode.h"

/* ACLs among them are valid, too (acl.h). */
bool xattrs_valid(const uint8_t *xattrs, size_t len);

/* Whether a directory may have a default ACL; false is certain. */
bool xattr_may_hand_down(const struct inode *dir);

/*
 * Gives a new inode, whose id is set, its permissions in the directory `dir`: by dir's default ACL or, if it has none,
 * by the umask. acl(5), "Object creation and default ACLs"; symlinks are left alone. What does not fit into the inode
 * goes into the batch.
 */
int xattr_inherit(struct fs *fs, const struct inode *dir, struct inode *ino, uint32_t umask,
                  struct lsm_batch *batch);

#endif
