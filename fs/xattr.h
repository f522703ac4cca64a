/*
 * xattr.h - small extended attributes as they stand in an inode's record.
 *
 * A sequence of {u8 name length 1..255, name, varint value length, value}, in no order, no name
 * twice. Values too large for it (XATTR_SMALL_MAX, XATTRS_INLINE_MAX) stand under keys 0x05.
 */
#ifndef FS_XATTR_H
#define FS_XATTR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool xattrs_valid(const uint8_t *xattrs, size_t len);

#endif
