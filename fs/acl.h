/*
 * acl.h - POSIX access control lists, as they are stored and as Linux hands them over: acl(5).
 *
 * An ACL is the value of an extended attribute, ACL_ACCESS_NAME (any inode but a symlink) or ACL_DEFAULT_NAME
 * (directories: what new entries get). Format, that of Linux (uapi/linux/posix_acl_xattr.h), little-endian:
 *
 *   u32 version 2, then up to ACL_ENTRIES_MAX entries {u16 tag, u16 permissions 0..7, u32 id}
 *
 * in this order of tags: USER_OBJ, any USER, GROUP_OBJ, any GROUP, MASK, OTHER. The OBJs and OTHER occur once; MASK at
 * most once, and it must if there is a USER or GROUP. Only USER and GROUP have an id, which is not 2^32 - 1.
 *
 * Of an access ACL the permissions of USER_OBJ, of MASK (without one, GROUP_OBJ) and of OTHER are the nine bits of the
 * inode's mode. The mode is where they live: what an attribute holds in their places is not looked at, and every reader
 * gets the mode's (acl_follow_mode). So chmod need not know of ACLs, and the two can't contradict each other, not even
 * after a release that knew no ACLs changed the mode. An access ACL that says no more than the mode is not stored.
 *
 * Threads: any; nothing here has state.
 */
#ifndef FS_ACL_H
#define FS_ACL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACL_ACCESS_NAME "system.posix_acl_access"
#define ACL_DEFAULT_NAME "system.posix_acl_default"
#define ACL_ENTRIES_MAX 511u /* one page of 4 KiB: more Linux can't fetch by FUSE */
#define ACL_BYTES_MAX (4u + 8u * ACL_ENTRIES_MAX)

enum acl_kind { ACL_NONE, ACL_ACCESS, ACL_DEFAULT };

enum acl_kind acl_kind_of(const char *name, size_t len); /* of an attribute; ACL_NONE: it is another one */

/* 0, also for one without entries, which means that there is no ACL; -EINVAL, -E2BIG, -EOPNOTSUPP (version). */
int acl_check(const void *acl, size_t len);

/* The following take what acl_check accepts. */
bool acl_is_empty(size_t len);
bool acl_is_minimal(size_t len);                            /* says no more than a mode */
uint32_t acl_mode(const void *acl, size_t len);             /* its nine bits; not of an empty one */
void acl_follow_mode(void *acl, size_t len, uint32_t mode); /* puts the mode's bits in their places */

#endif
