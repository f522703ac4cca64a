/*
 * acl.c - see acl.h.
 */
#include "acl.h"
#include "coding.h"
#include <errno.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <string.h>
#include <sys/stat.h>

#define HEADER_BYTES 4u
#define ENTRY_BYTES 8u
_Static_assert(HEADER_BYTES == sizeof(struct posix_acl_xattr_header), "Linux's format");
_Static_assert(ENTRY_BYTES == sizeof(struct posix_acl_xattr_entry), "Linux's format");

#define MINIMAL_ENTRIES \
    3u /* USER_OBJ, GROUP_OBJ, OTHER; a MASK alone would still differ from the mode by GROUP_OBJ */
#define PERMISSIONS 7u

struct entry {
    uint16_t tag, perm;
    uint32_t id;
};

static size_t entries_of(size_t len) { return len < HEADER_BYTES ? 0 : (len - HEADER_BYTES) / ENTRY_BYTES; }

static struct entry entry_at(const uint8_t *acl, size_t i)
{
    const uint8_t *p = acl + HEADER_BYTES + i * ENTRY_BYTES;

    return (struct entry){get_le16(p), get_le16(p + 2), get_le32(p + 4)};
}

static bool is(const char *name, size_t len, const char *wanted)
{
    return len == strlen(wanted) && memcmp(name, wanted, len) == 0;
}

enum acl_kind acl_kind_of(const char *name, size_t len)
{
    if (is(name, len, ACL_ACCESS_NAME))
        return ACL_ACCESS;
    return is(name, len, ACL_DEFAULT_NAME) ? ACL_DEFAULT : ACL_NONE;
}

/* Whether this tag may follow the one before. Ascending as numbers: only USER and GROUP may come again. */
static bool tag_follows(uint16_t before, uint16_t tag)
{
    switch (tag) {
    case ACL_USER_OBJ:
    case ACL_GROUP_OBJ:
    case ACL_MASK:
    case ACL_OTHER: return tag > before;
    case ACL_USER:
    case ACL_GROUP: return tag >= before;
    default: return false;
    }
}

int acl_check(const void *acl, size_t len)
{
    const unsigned required = ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_OTHER;
    unsigned seen = 0;
    uint16_t before = 0;

    if (len == 0)
        return 0;
    if (len < HEADER_BYTES || (len - HEADER_BYTES) % ENTRY_BYTES != 0)
        return -EINVAL;
    if (get_le32(acl) != POSIX_ACL_XATTR_VERSION)
        return -EOPNOTSUPP;
    if (entries_of(len) > ACL_ENTRIES_MAX)
        return -E2BIG;
    for (size_t i = 0; i < entries_of(len); i++) {
        struct entry e = entry_at(acl, i);
        bool named = e.tag == ACL_USER || e.tag == ACL_GROUP;
        if (!tag_follows(before, e.tag) || e.perm > PERMISSIONS ||
            (named && e.id == (uint32_t)ACL_UNDEFINED_ID))
            return -EINVAL;
        before = e.tag;
        seen |= e.tag;
    }
    if (entries_of(len) == 0)
        return 0;
    if ((seen & required) != required || (seen & (ACL_USER | ACL_GROUP) && !(seen & ACL_MASK)))
        return -EINVAL;
    return 0;
}

bool acl_is_empty(size_t len) { return entries_of(len) == 0; }
bool acl_is_minimal(size_t len) { return entries_of(len) <= MINIMAL_ENTRIES; }

/* How far left in the mode the permissions of an entry stand, or -1 if they are not there. */
static int shift_of(uint16_t tag, bool masked)
{
    switch (tag) {
    case ACL_USER_OBJ: return 6;
    case ACL_GROUP_OBJ: return masked ? -1 : 3;
    case ACL_MASK: return 3;
    case ACL_OTHER: return 0;
    default: return -1;
    }
}

static bool has_mask(const uint8_t *acl, size_t len)
{
    return entries_of(len) > 1 && entry_at(acl, entries_of(len) - 2).tag == ACL_MASK; /* OTHER is the last */
}

uint32_t acl_mode(const void *acl, size_t len)
{
    const bool masked = has_mask(acl, len);
    uint32_t mode = 0;

    for (size_t i = 0; i < entries_of(len); i++) {
        struct entry e = entry_at(acl, i);
        int shift = shift_of(e.tag, masked);
        if (shift >= 0)
            mode |= (uint32_t)(e.perm & PERMISSIONS) << shift;
    }
    return mode;
}

void acl_follow_mode(void *acl, size_t len, uint32_t mode)
{
    const bool masked = has_mask(acl, len);

    for (size_t i = 0; i < entries_of(len); i++) {
        uint8_t *p = (uint8_t *)acl + HEADER_BYTES + i * ENTRY_BYTES;
        int shift = shift_of(get_le16(p), masked);
        if (shift >= 0)
            put_le16(p + 2, (uint16_t)(mode >> shift & PERMISSIONS));
    }
}
