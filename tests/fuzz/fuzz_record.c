/*
 * fuzz_record.c - the records of the filesystem: inodes, directories, buckets, superblock, pending
 * truncations, merge operands, small extended attributes, ACLs.
 *
 * What a decoder takes, the encoder must be able to write, and it must come back the same: an
 * operation that changes an inode does just that with what it found.
 */
#include "acl.h"
#include "bucket.h"
#include "fuzz.h"
#include "record.h"
#include "xattr.h"

#define DIR_ID (UINT64_C(5) << 52 | 77)

static bool same_inode(const struct inode *a, const struct inode *b)
{
    return memcmp(&a->attr, &b->attr, sizeof(a->attr)) == 0 && a->layout == b->layout &&
           a->stored == b->stored && a->data_len == b->data_len && a->xattrs_len == b->xattrs_len &&
           a->large_xattrs == b->large_xattrs && a->dir_entries == b->dir_entries &&
           (!a->data || memcmp(a->data, b->data, a->data_len) == 0) &&
           (a->xattrs_len == 0 || memcmp(a->xattrs, b->xattrs, a->xattrs_len) == 0);
}

static void inode(const uint8_t *data, size_t len)
{
    struct inode ino, again;

    if (record_inode_decode(data, len, &ino) < 0)
        return;
    uint8_t *record = malloc(record_inode_max(&ino));
    fuzz_check(record);
    size_t n = record_inode_encode(&ino, record);
    fuzz_check(record_inode_decode(record, n, &again) == 0);
    fuzz_check(ino.layout != LAYOUT_EXTENTS || ino.stored == again.stored);
    fuzz_check(same_inode(&ino, &again));
    free(record);
}

static void directory(const uint8_t *data, size_t len)
{
    struct inode ino, again;

    if (record_dir_decode(data, len, &ino) < 0)
        return;
    uint8_t *record = malloc(record_dir_max(&ino));
    fuzz_check(record);
    size_t n = record_dir_encode(&ino, record);
    fuzz_check(record_dir_decode(record, n, &again) == 0 && same_inode(&ino, &again));
    fuzz_check(ino.home.parent == again.home.parent);
    free(record);
}

static void bucket(const uint8_t *data, size_t len)
{
    static struct bucket b, again;

    b.dir = again.dir = DIR_ID;
    if (bucket_decode(data, len, &b) < 0)
        return;
    fuzz_check(b.count > 0 && b.count <= BUCKET_ENTRIES_MAX);
    uint8_t *value = malloc(bucket_encoded_max(&b));
    fuzz_check(value);
    size_t n = bucket_encode(&b, value);
    fuzz_check(bucket_decode(value, n, &again) == 0 && again.count == b.count);
    for (unsigned i = 0; i < b.count; i++) {
        struct bucket_entry *e = &b.entry[i];
        fuzz_check(bucket_at(&b, e->index) == e && bucket_find(&b, e->name, e->name_len));
        fuzz_check(again.entry[i].id == e->id && again.entry[i].record_len == e->record_len);
        if (e->record)
            inode(e->record, e->record_len);
    }
    (void)bucket_free_index(&b);
    while (b.count > 0)
        bucket_remove(&b, b.entry[0].index);
    free(value);
}

/* Room for the longer of the two, as memtables and compaction give it. */
static void merge(const uint8_t *data, size_t len)
{
    size_t base_len = len > 0 ? data[0] % len : 0, operand_len = len > 0 ? len - 1 - base_len : 0;
    const uint8_t *base = data + (len > 0), *operand = base + base_len;
    size_t room = base_len > operand_len ? base_len : operand_len;
    uint8_t *out = malloc(room ? room : 1);

    fuzz_check(out);
    fuzz_check(record_merge(NULL, base, base_len, false, operand, operand_len, out) <= room);
    fuzz_check(record_merge(NULL, NULL, 0, false, operand, operand_len, out) <= room);
    memcpy(out, base, base_len);
    fuzz_check(record_merge(NULL, out, base_len, true, operand, operand_len, out) <= room); /* in place */
    free(out);
}

/* {u8 kind, the record} */
/* Given its own mode it is what it was, and given another one it is one, too, of that mode. */
static void acl(const uint8_t *data, size_t len)
{
    uint8_t copy[ACL_BYTES_MAX];

    if (acl_check(data, len) < 0 || acl_is_empty(len))
        return;
    fuzz_check(len <= sizeof(copy));
    memcpy(copy, data, len);
    acl_follow_mode(copy, len, acl_mode(data, len));
    fuzz_check(memcmp(copy, data, len) == 0);
    acl_follow_mode(copy, len, 0527);
    fuzz_check(acl_check(copy, len) == 0 && acl_mode(copy, len) == 0527);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    const unsigned kind = in_below(&in, 7);
    size_t len;
    uint8_t *bytes = in_bytes(&in, in.left, &len);
    struct super super;
    struct inode_home home;
    uint8_t again[SUPER_BYTES];

    switch (kind) {
    case 0: inode(bytes, len); break;
    case 1: directory(bytes, len); break;
    case 2: bucket(bytes, len); break;
    case 3: merge(bytes, len); break;
    case 4:
        if (record_super_decode(bytes, len, &super) == 0)
            record_super_encode(&super, again);
        break;
    case 5:
        if (record_truncate_decode(bytes, len, &home) == 0) {
            record_truncate_encode(&home, again);
            fuzz_check(memcmp(again, bytes, TRUNCATE_BYTES) == 0);
        }
        break;
    default: xattrs_valid(bytes, len); acl(bytes, len);
    }
    free(bytes);
    return 0;
}

static size_t seed_inode(uint8_t *out, bool small)
{
    uint8_t data[] = "contents", xattrs[] = {6, 'u', 's', 'e', 'r', '.', 'a', 1, 'v'};
    struct inode ino = {.attr = {.mode = S_IFREG | 0644, .uid = 1000, .gid = 1000, .nlink = 1, .size = 8}};

    ino.attr.btime = ino.attr.ctime = ino.attr.mtime = ino.attr.atime = (struct timespec){1700000000, 5};
    if (small) {
        ino.layout = LAYOUT_SMALL;
        ino.attr.size = ino.data_len = 300;
        ino.attr.mtime.tv_sec++;
        ino.large_xattrs = true;
    } else {
        ino.data = data;
        ino.data_len = 8;
        ino.xattrs = xattrs;
        ino.xattrs_len = sizeof(xattrs);
    }
    return record_inode_encode(&ino, out);
}

static size_t seed_bucket(uint8_t *out)
{
    static struct bucket b = {.dir = DIR_ID};
    uint8_t record[256];
    struct bucket_entry file = {.name = "file", .name_len = 4, .id = DIR_ID + 1, .type = S_IFREG, .index = 0};
    struct bucket_entry dir = {.name = "d", .name_len = 1, .id = DIR_ID + 2, .type = S_IFDIR, .index = 3};

    file.record = record;
    file.record_len = (uint32_t)seed_inode(record, false);
    b.count = 0;
    bucket_add(&b, &file);
    bucket_add(&b, &dir);
    return bucket_encode(&b, out);
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    struct inode dir = {.attr = {.mode = S_IFDIR | 0755, .nlink = 2},
                        .home = {.kind = HOME_DIR, .parent = 1}};
    struct touch touch = {.time = {5, 6}, .entries = 1, .size = 30, .nlink = 1};
    struct super super = {.version = SUPER_VERSION};
    struct inode_home home = {HOME_ENTRY, DIR_ID, 77, 3};

    switch (n) {
    case 0: out[0] = 0; return 1 + seed_inode(out + 1, false);
    case 1: out[0] = 0; return 1 + seed_inode(out + 1, true);
    case 2: out[0] = 1; return 1 + record_dir_encode(&dir, out + 1);
    case 3: out[0] = 2; return 1 + seed_bucket(out + 1);
    case 4:
        out[0] = 3;
        out[1] = (uint8_t)record_dir_encode(&dir, out + 2);
        record_touch_encode(&touch, out + 2 + out[1]);
        return 2 + (size_t)out[1] + TOUCH_BYTES;
    case 5:
        out[0] = 4;
        record_super_encode(&super, out + 1);
        return 1 + SUPER_BYTES;
    case 6:
        out[0] = 5;
        record_truncate_encode(&home, out + 1);
        return 1 + TRUNCATE_BYTES;
    case 7: memcpy(out, "\6\6user.a\1v", 10); return 10;
    default: return 0;
    }
}
