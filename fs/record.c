/*
 * record.c - see record.h, which holds the formats.
 *
 * Threads: any; nothing here has state.
 */
#include "record.h"
#include "xattr.h"
#include <assert.h>
#include <errno.h>

#define RECORD_VERSION 1
#define NSEC_PER_SEC 1000000000u

enum inode_field {
    FIELD_MODE = 1,
    FIELD_UID,
    FIELD_GID,
    FIELD_SIZE,
    FIELD_TIMES,
    FIELD_RDEV,
    FIELD_LAYOUT,
    FIELD_STORED,
    FIELD_DATA,
    FIELD_DATA_LEN,
    FIELD_XATTRS,
    FIELD_LARGE_XATTRS,
    FIELD_NLINK,
    FIELD_KNOWN_END,
};
enum wire { WIRE_VARINT = 0, WIRE_BYTES = 1 };

#define TIMES_MAX (1 + 8 * VARINT_MAX)
static_assert(1 + 10 * (1 + VARINT_MAX) + 3 * (1 + VARINT_MAX) + TIMES_MAX - 8 * 5 <= INODE_RECORD_FIXED_MAX,
              "room for all fields; a nanosecond varint takes 5 bytes at most, of 10 counted");

/* ---- inode records ---- */

static uint64_t zigzag(int64_t v) { return (uint64_t)v << 1 ^ (uint64_t)(v >> 63); }
static int64_t unzigzag(uint64_t v) { return (int64_t)(v >> 1 ^ -(v & 1)); }

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static uint8_t *put_time(uint8_t *p, const struct timespec *t, int64_t since)
{
    p = put_varint(p, zigzag((int64_t)((uint64_t)t->tv_sec - (uint64_t)since)));
    return put_varint(p, (uint64_t)t->tv_nsec);
}

static struct timespec read_time(struct reader *r, int64_t since)
{
    struct timespec t;
    t.tv_sec = (time_t)((uint64_t)unzigzag(read_varint(r)) + (uint64_t)since);
    uint64_t nsec = read_varint(r);
    if (nsec >= NSEC_PER_SEC) {
        r->bad = true;
        nsec = 0;
    }
    t.tv_nsec = (long)nsec;
    return t;
}

static uint8_t *put_number(uint8_t *p, enum inode_field field, uint64_t v, uint64_t standard)
{
    if (v == standard)
        return p;
    p = put_varint(p, (uint64_t)field << 1 | WIRE_VARINT);
    return put_varint(p, v);
}

static uint8_t *put_field(uint8_t *p, enum inode_field field, const void *bytes, size_t len)
{
    p = put_varint(p, (uint64_t)field << 1 | WIRE_BYTES);
    p = put_varint(p, len);
    memcpy(p, bytes, len);
    return p + len;
}

static uint8_t *put_times(uint8_t *p, const struct fs_attr *a)
{
    uint8_t times[TIMES_MAX], *end = times + 1;
    int64_t birth = a->btime.tv_sec;
    bool c = !same_time(&a->ctime, &a->btime);
    bool m = !same_time(&a->mtime, &a->ctime);
    bool x = !same_time(&a->atime, &a->btime);

    times[0] = (uint8_t)(c | m << 1 | x << 2);
    end = put_time(end, &a->btime, 0);
    if (c)
        end = put_time(end, &a->ctime, birth);
    if (m)
        end = put_time(end, &a->mtime, birth);
    if (x)
        end = put_time(end, &a->atime, birth);
    return put_field(p, FIELD_TIMES, times, (size_t)(end - times));
}

size_t record_inode_encode(const struct inode *ino, uint8_t *out)
{
    const struct fs_attr *a = &ino->attr;
    uint8_t *p = out;

    assert(!S_ISDIR(a->mode) && a->mode != 0);
    assert(ino->xattrs_len <= XATTRS_INLINE_MAX);
    *p++ = RECORD_VERSION;
    p = put_number(p, FIELD_MODE, a->mode, 0);
    p = put_number(p, FIELD_UID, a->uid, 0);
    p = put_number(p, FIELD_GID, a->gid, 0);
    p = put_number(p, FIELD_SIZE, a->size, 0);
    p = put_times(p, a);
    p = put_number(p, FIELD_RDEV, a->rdev, 0);
    p = put_number(p, FIELD_LAYOUT, ino->layout, LAYOUT_INLINE);
    p = put_number(p, FIELD_STORED, ino->layout == LAYOUT_EXTENTS ? ino->stored : 0, 0);
    if (ino->layout == LAYOUT_INLINE && ino->data_len > 0) {
        assert(ino->data_len <= INLINE_MAX);
        p = put_field(p, FIELD_DATA, ino->data, ino->data_len);
    }
    p = put_number(p, FIELD_DATA_LEN, ino->layout == LAYOUT_SMALL ? ino->data_len : 0, 0);
    if (ino->xattrs_len > 0)
        p = put_field(p, FIELD_XATTRS, ino->xattrs, ino->xattrs_len);
    p = put_number(p, FIELD_LARGE_XATTRS, ino->large_xattrs, 0);
    p = put_number(p, FIELD_NLINK, a->nlink, 1);
    assert((size_t)(p - out) <= record_inode_max(ino));
    return (size_t)(p - out);
}

static void read_times(struct reader times, struct fs_attr *a, bool *bad)
{
    uint8_t flags = read_u8(&times);
    a->btime = read_time(&times, 0);
    int64_t birth = a->btime.tv_sec;
    a->ctime = flags & 1 ? read_time(&times, birth) : a->btime;
    a->mtime = flags & 2 ? read_time(&times, birth) : a->ctime;
    a->atime = flags & 4 ? read_time(&times, birth) : a->btime;
    if (times.bad || reader_left(&times) != 0 || flags > 7)
        *bad = true;
}

static uint32_t narrow_u32(uint64_t v, bool *bad)
{
    if (v > UINT32_MAX)
        *bad = true;
    return (uint32_t)v;
}

static void take_number(struct inode *out, uint64_t field, uint64_t v, bool *bad)
{
    switch (field) {
    case FIELD_MODE: out->attr.mode = narrow_u32(v, bad); break;
    case FIELD_UID: out->attr.uid = narrow_u32(v, bad); break;
    case FIELD_GID: out->attr.gid = narrow_u32(v, bad); break;
    case FIELD_SIZE: out->attr.size = v; break;
    case FIELD_RDEV: out->attr.rdev = v; break;
    case FIELD_LAYOUT:
        out->layout = (enum inode_layout)v;
        *bad |= v > LAYOUT_EXTENTS;
        break;
    case FIELD_STORED: out->stored = v; break;
    case FIELD_DATA_LEN: out->data_len = narrow_u32(v, bad); break;
    case FIELD_LARGE_XATTRS:
        out->large_xattrs = v != 0;
        *bad |= v > 1;
        break;
    case FIELD_NLINK: out->attr.nlink = narrow_u32(v, bad); break;
    default: *bad |= field < FIELD_KNOWN_END; break; /* known, but with the wrong wire type */
    }
}

static void take_bytes(struct inode *out, uint64_t field, const uint8_t *bytes, size_t len, bool *bad)
{
    switch (field) {
    case FIELD_TIMES: read_times(reader_of(bytes, len), &out->attr, bad); break;
    case FIELD_DATA:
        out->data = (uint8_t *)bytes;
        out->data_len = narrow_u32(len, bad);
        break;
    case FIELD_XATTRS:
        out->xattrs = (uint8_t *)bytes;
        out->xattrs_len = narrow_u32(len, bad);
        break;
    default: *bad |= field < FIELD_KNOWN_END; break;
    }
}

/* Whether the fields fit together. */
static bool inode_plausible(const struct inode *ino, bool has_data, bool has_len)
{
    switch (ino->attr.mode & S_IFMT) {
    case S_IFREG:
    case S_IFLNK:
    case S_IFIFO:
    case S_IFSOCK:
    case S_IFCHR:
    case S_IFBLK: break;
    default: return false;
    }
    if (ino->attr.mode & ~(uint32_t)(S_IFMT | 07777) || ino->attr.size > FS_SIZE_MAX)
        return false;
    if (has_data != (ino->layout == LAYOUT_INLINE && ino->data_len > 0))
        return false;
    if (has_len != (ino->layout == LAYOUT_SMALL))
        return false;
    if (ino->layout == LAYOUT_INLINE && ino->data_len > INLINE_MAX)
        return false;
    if (ino->layout == LAYOUT_SMALL && (ino->data_len == 0 || ino->data_len > SMALL_MAX))
        return false;
    if (ino->layout != LAYOUT_EXTENTS && (ino->data_len > ino->attr.size || ino->stored != 0))
        return false;
    return ino->xattrs_len <= XATTRS_INLINE_MAX && xattrs_valid(ino->xattrs, ino->xattrs_len);
}

int record_inode_decode(const void *bytes, size_t len, struct inode *out)
{
    struct reader r = reader_of(bytes, len);
    bool bad = read_u8(&r) != RECORD_VERSION;
    uint64_t seen = 0, last = 0;

    memset(out, 0, sizeof(*out));
    out->attr.nlink = 1;
    while (!bad && !r.bad && reader_left(&r) > 0) {
        uint64_t tag = read_varint(&r), field = tag >> 1;
        bad = field <= last;
        last = field;
        if (field < 64)
            seen |= UINT64_C(1) << field;
        uint64_t v = read_varint(&r);
        if ((tag & 1) == WIRE_VARINT) {
            take_number(out, field, v, &bad);
            continue;
        }
        const uint8_t *p = read_bytes(&r, v > SIZE_MAX ? SIZE_MAX : (size_t)v);
        if (p)
            take_bytes(out, field, p, (size_t)v, &bad);
    }
    bool has_times = seen & UINT64_C(1) << FIELD_TIMES;
    bool has_data = seen & UINT64_C(1) << FIELD_DATA, has_len = seen & UINT64_C(1) << FIELD_DATA_LEN;
    if (bad || r.bad || !has_times || !inode_plausible(out, has_data, has_len))
        return -EIO;
    return 0;
}

/* ---- directory records ---- */

enum dir_offset {
    DIR_VERSION = 0,
    DIR_MAGIC = 1,
    DIR_MODE = 4, /* bytes 2 and 3 are zero */
    DIR_UID = 8,
    DIR_GID = 12,
    DIR_PARENT = 16,
    DIR_ENTRIES = 24,
    DIR_SIZE = 32,
    DIR_NLINK = 40,
    DIR_CTIME = 48, /* a time: i64 seconds, u32 nanoseconds */
    DIR_MTIME = 60,
    DIR_ATIME = 72,
    DIR_BTIME = 84,
    DIR_LARGE_XATTRS = 96,
    DIR_XATTRS = 97,
};
static_assert((int)DIR_XATTRS == (int)DIR_RECORD_FIXED, "the tail follows the fixed fields");

enum touch_offset {
    TOUCH_VERSION = 0,
    TOUCH_MAGIC = 1,
    TOUCH_NSEC = 4,
    TOUCH_SEC = 8,
    TOUCH_ENTRIES = 16,
    TOUCH_SIZE = 24,
    TOUCH_NLINK = 32,
};
static_assert((int)TOUCH_NLINK + 8 == (int)TOUCH_BYTES, "no gap at the end");

#define MAGIC_DIR 'D'
#define MAGIC_TOUCH 'T'

static void put_dir_time(uint8_t *p, const struct timespec *t)
{
    put_le64(p, (uint64_t)t->tv_sec);
    put_le32(p + 8, (uint32_t)t->tv_nsec);
}

static struct timespec get_dir_time(const uint8_t *p, bool *bad)
{
    uint32_t nsec = get_le32(p + 8);
    *bad |= nsec >= NSEC_PER_SEC;
    return (struct timespec){(time_t)get_le64(p), (long)nsec};
}

size_t record_dir_encode(const struct inode *ino, uint8_t *out)
{
    const struct fs_attr *a = &ino->attr;

    assert(S_ISDIR(a->mode) && ino->xattrs_len <= XATTRS_INLINE_MAX);
    memset(out, 0, DIR_RECORD_FIXED);
    out[DIR_VERSION] = RECORD_VERSION;
    out[DIR_MAGIC] = MAGIC_DIR;
    put_le32(out + DIR_MODE, a->mode);
    put_le32(out + DIR_UID, a->uid);
    put_le32(out + DIR_GID, a->gid);
    put_le64(out + DIR_PARENT, ino->home.parent);
    put_le64(out + DIR_ENTRIES, ino->dir_entries);
    put_le64(out + DIR_SIZE, a->size);
    put_le64(out + DIR_NLINK, a->nlink);
    put_dir_time(out + DIR_CTIME, &a->ctime);
    put_dir_time(out + DIR_MTIME, &a->mtime);
    put_dir_time(out + DIR_ATIME, &a->atime);
    put_dir_time(out + DIR_BTIME, &a->btime);
    out[DIR_LARGE_XATTRS] = ino->large_xattrs;
    if (ino->xattrs_len > 0)
        memcpy(out + DIR_XATTRS, ino->xattrs, ino->xattrs_len);
    return DIR_RECORD_FIXED + ino->xattrs_len;
}

static bool is_dir_record(const uint8_t *p, size_t len)
{
    return len >= DIR_RECORD_FIXED && p[DIR_VERSION] == RECORD_VERSION && p[DIR_MAGIC] == MAGIC_DIR;
}

static bool is_touch(const uint8_t *p, size_t len)
{
    return len == TOUCH_BYTES && p[TOUCH_VERSION] == RECORD_VERSION && p[TOUCH_MAGIC] == MAGIC_TOUCH;
}

int record_dir_decode(const void *bytes, size_t len, struct inode *out)
{
    const uint8_t *p = bytes;
    bool bad = false;

    memset(out, 0, sizeof(*out));
    if (!is_dir_record(p, len))
        return -EIO;
    out->attr.mode = get_le32(p + DIR_MODE);
    out->attr.uid = get_le32(p + DIR_UID);
    out->attr.gid = get_le32(p + DIR_GID);
    out->home.kind = HOME_DIR;
    out->home.parent = get_le64(p + DIR_PARENT);
    out->dir_entries = get_le64(p + DIR_ENTRIES);
    out->attr.size = get_le64(p + DIR_SIZE);
    out->attr.nlink = narrow_u32(get_le64(p + DIR_NLINK), &bad);
    out->attr.ctime = get_dir_time(p + DIR_CTIME, &bad);
    out->attr.mtime = get_dir_time(p + DIR_MTIME, &bad);
    out->attr.atime = get_dir_time(p + DIR_ATIME, &bad);
    out->attr.btime = get_dir_time(p + DIR_BTIME, &bad);
    out->large_xattrs = p[DIR_LARGE_XATTRS] != 0;
    out->xattrs_len = (uint32_t)(len - DIR_RECORD_FIXED);
    out->xattrs = out->xattrs_len > 0 ? (uint8_t *)p + DIR_XATTRS : NULL;
    bad |= !S_ISDIR(out->attr.mode) || out->attr.mode & ~(uint32_t)(S_IFMT | 07777);
    bad |= p[DIR_LARGE_XATTRS] > 1 || out->attr.size > FS_SIZE_MAX || out->attr.nlink < 2;
    bad |= len - DIR_RECORD_FIXED > XATTRS_INLINE_MAX;
    return bad || !xattrs_valid(out->xattrs, out->xattrs_len) ? -EIO : 0;
}

/* ---- TOUCH ---- */

void record_touch_encode(const struct touch *touch, uint8_t out[TOUCH_BYTES])
{
    memset(out, 0, TOUCH_BYTES);
    out[TOUCH_VERSION] = RECORD_VERSION;
    out[TOUCH_MAGIC] = MAGIC_TOUCH;
    put_le32(out + TOUCH_NSEC, (uint32_t)touch->time.tv_nsec);
    put_le64(out + TOUCH_SEC, (uint64_t)touch->time.tv_sec);
    put_le64(out + TOUCH_ENTRIES, (uint64_t)touch->entries);
    put_le64(out + TOUCH_SIZE, (uint64_t)touch->size);
    put_le64(out + TOUCH_NLINK, (uint64_t)touch->nlink);
}

static void add_le64(uint8_t *p, const uint8_t *delta) { put_le64(p, get_le64(p) + get_le64(delta)); }

static void touch_dir(uint8_t *dir, const uint8_t *touch)
{
    add_le64(dir + DIR_ENTRIES, touch + TOUCH_ENTRIES);
    add_le64(dir + DIR_SIZE, touch + TOUCH_SIZE);
    add_le64(dir + DIR_NLINK, touch + TOUCH_NLINK);
    memcpy(dir + DIR_MTIME, touch + TOUCH_SEC, 8);
    memcpy(dir + DIR_MTIME + 8, touch + TOUCH_NSEC, 4);
    memcpy(dir + DIR_CTIME, touch + TOUCH_SEC, 8);
    memcpy(dir + DIR_CTIME + 8, touch + TOUCH_NSEC, 4);
}

static void touch_touch(uint8_t *older, const uint8_t *touch)
{
    add_le64(older + TOUCH_ENTRIES, touch + TOUCH_ENTRIES);
    add_le64(older + TOUCH_SIZE, touch + TOUCH_SIZE);
    add_le64(older + TOUCH_NLINK, touch + TOUCH_NLINK);
    memcpy(older + TOUCH_NSEC, touch + TOUCH_NSEC, 4);
    memcpy(older + TOUCH_SEC, touch + TOUCH_SEC, 8);
}

/*
 * It can't fail, so what makes no sense is kept for the decoder to find: a base that is neither record nor
 * operand stays as it is, and an operand on nothing stays an operand, which is no valid record.
 */
size_t record_merge(void *arg, const void *base, size_t base_len, bool base_is_operand, const void *operand,
                    size_t operand_len, void *out)
{
    (void)arg;
    (void)base_is_operand; /* the bytes tell, and hold for an operand that was folded into nothing, too */
    if (!base) {
        memcpy(out, operand, operand_len);
        return operand_len;
    }
    memmove(out, base, base_len);
    if (!is_touch(operand, operand_len))
        return base_len;
    if (is_touch(out, base_len))
        touch_touch(out, operand);
    else if (is_dir_record(out, base_len))
        touch_dir(out, operand);
    return base_len;
}

/* ---- the superblock and the rest ---- */

static const uint8_t super_magic[8] = {'S', 'h', 'a', 'l', 'e', 'F', 'S', 0x1a};

enum super_offset {
    SUPER_OFF_VERSION = 8,
    SUPER_OFF_COMPAT = 16, /* bytes 12..15 are zero */
    SUPER_OFF_RO_COMPAT = 24,
    SUPER_OFF_INCOMPAT = 32,
    SUPER_OFF_UUID = 40,
    SUPER_OFF_SEED = 56,
};
static_assert((int)SUPER_OFF_SEED + 8 == (int)SUPER_BYTES, "no gap at the end");

void record_super_encode(const struct super *super, uint8_t out[SUPER_BYTES])
{
    memset(out, 0, SUPER_BYTES);
    memcpy(out, super_magic, sizeof(super_magic));
    put_le32(out + SUPER_OFF_VERSION, super->version);
    put_le64(out + SUPER_OFF_COMPAT, super->compat);
    put_le64(out + SUPER_OFF_RO_COMPAT, super->ro_compat);
    put_le64(out + SUPER_OFF_INCOMPAT, super->incompat);
    memcpy(out + SUPER_OFF_UUID, super->uuid, sizeof(super->uuid));
    put_le64(out + SUPER_OFF_SEED, super->hash_seed);
}

void record_super_set_incompat(uint8_t *bytes, uint64_t incompat)
{
    put_le64(bytes + SUPER_OFF_INCOMPAT, incompat);
}

/* A later version may be longer; whether we understand it is the caller's to say. */
int record_super_decode(const void *bytes, size_t len, struct super *out)
{
    const uint8_t *p = bytes;

    if (len < SUPER_BYTES || memcmp(p, super_magic, sizeof(super_magic)) != 0)
        return -EIO;
    out->version = get_le32(p + SUPER_OFF_VERSION);
    out->compat = get_le64(p + SUPER_OFF_COMPAT);
    out->ro_compat = get_le64(p + SUPER_OFF_RO_COMPAT);
    out->incompat = get_le64(p + SUPER_OFF_INCOMPAT);
    memcpy(out->uuid, p + SUPER_OFF_UUID, sizeof(out->uuid));
    out->hash_seed = get_le64(p + SUPER_OFF_SEED);
    return out->version == 0 ? -EIO : 0;
}

/* A pending truncation says where its inode is: {u8 kind, u64 parent, u64 hash, u8 index}. */
void record_truncate_encode(const struct inode_home *home, uint8_t out[TRUNCATE_BYTES])
{
    out[0] = (uint8_t)home->kind;
    put_le64(out + 1, home->parent);
    put_le64(out + 9, home->hash);
    out[17] = (uint8_t)home->index;
}

int record_truncate_decode(const void *bytes, size_t len, struct inode_home *out)
{
    const uint8_t *p = bytes;

    if (len != TRUNCATE_BYTES || (p[0] != HOME_ENTRY && p[0] != HOME_OWN))
        return -EIO;
    out->kind = (enum home_kind)p[0];
    out->parent = get_le64(p + 1);
    out->hash = get_le64(p + 9);
    out->index = p[17];
    return out->hash > HASH_MASK || out->index >= BUCKET_ENTRIES_MAX ? -EIO : 0;
}
