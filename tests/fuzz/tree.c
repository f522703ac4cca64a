/* tree.c - see fuzz_tree.h. */
#include "fuzz_tree.h"

#include "bucket.h"
#include "env.h"
#include "record.h"

#include <sys/stat.h>
#include <xxhash.h>

#define PAIRS_MAX 48u
#define VALUE_MAX 700u
#define EXTENT_BYTES_MAX 5000u
#define ENTRIES_MAX 4u
#define BATCH_BYTES (64u << 10) /* of a quarter of a log segment */

enum pair {
    PAIR_BUCKET,
    PAIR_DIR,
    PAIR_INODE,
    PAIR_EXTENT,
    PAIR_SMALL,
    PAIR_XATTR,
    PAIR_ORPHAN,
    PAIR_TRUNCATE,
    PAIR_TOUCH,
    PAIR_SUPER,
    PAIR_LEASE,
    PAIR_RAW,
    PAIRS
};

static const uint32_t types[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFREG};

struct tree_name tree_name(struct input *in)
{
    static char longest[FS_NAME_MAX + 1];
    static const struct tree_name names[TREE_NAMES] = {
        {"a", 1},   {"b", 1}, {"c", 1},  {"dir", 3},    {"..", 2}, {".", 1},
        {"x/y", 3}, {"", 0},  {"\0", 1}, {".shale", 6}, {"d", 1},  {longest, FS_NAME_MAX}};

    memset(longest, 'n', FS_NAME_MAX);
    return names[in_below(in, TREE_NAMES)];
}

fs_id tree_id(struct input *in)
{
    static const fs_id ids[] = {FS_ID_ROOT,
                                16,
                                17,
                                18,
                                UINT64_C(1) << 52 | 19,
                                UINT64_C(1) << 52 | 20,
                                UINT64_C(3) << 52 | 21,
                                FS_ID_CONTROL_FIRST + 1,
                                0,
                                2,
                                UINT64_MAX,
                                22};
    uint8_t which = in_u8(in);

    return which < 240 ? ids[which % (sizeof(ids) / sizeof(ids[0]))] : in_u64(in);
}

/* The seed of a store is part of its superblock; ours is 0 unless the input replaces that. */
static uint64_t hash_of(struct tree_name n) { return XXH3_64bits_withSeed(n.name, n.len, 0) & HASH_MASK; }

static uint8_t *put_number(uint8_t *p, unsigned field, uint64_t v)
{
    return put_varint(put_varint(p, field << 1), v);
}

static uint8_t *put_some(struct input *in, uint8_t *p, size_t want)
{
    size_t n = want < in->left ? want : in->left;

    if (n)
        memcpy(p, in->p, n);
    in->p += n;
    in->left -= n;
    return p + n;
}

/* An inode record, field by field as record.h has it: at most 600 bytes. */
static uint8_t *put_inode(struct input *in, uint8_t *p, uint32_t type)
{
    const uint8_t fields = in_u8(in), layout = in_u8(in) % 4;

    *p++ = 1;
    p = put_number(p, 1, type | (in_u16(in) & 07777));
    if (fields & 1)
        p = put_number(p, 4, in_shaped(in));
    p = put_varint(p, 5 << 1 | 1);
    memcpy(p, "\3\0\2\0", 4); /* all times are one second and 0 ns */
    p += 4;
    if (fields & 2)
        p = put_number(p, 6, in_u8(in));
    if (layout)
        p = put_number(p, 7, layout);
    if (fields & 4)
        p = put_number(p, 8, in_shaped(in));
    if (fields & 8) {
        size_t len = in_u16(in) % 300;
        p = put_varint(put_varint(p, 9 << 1 | 1), len);
        p = put_some(in, p, len);
    }
    if (fields & 16)
        p = put_number(p, 10, in_u16(in));
    if (fields & 32) {
        size_t len = in_u8(in);
        p = put_varint(put_varint(p, 11 << 1 | 1), len);
        p = put_some(in, p, len);
    }
    if (fields & 64)
        p = put_number(p, 12, 1);
    if (fields & 128)
        p = put_number(p, 13, in_shaped(in));
    return p;
}

/* Entries of one bucket; index ascends unless the input says otherwise. */
static uint8_t *put_bucket(struct input *in, uint8_t *p, fs_id dir, struct tree_name name)
{
    unsigned count = 1 + in_below(in, ENTRIES_MAX), index = 0;

    *p++ = 1;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t how = in_u8(in);
        const uint32_t type = types[how & 7];
        const bool inside = (how & 8) && type != S_IFDIR;
        if (i > 0)
            name = tree_name(in);
        *p++ = (uint8_t)(((how & 16 ? in_u8(in) : index) & 0x3f) | (inside ? 0x40 : 0));
        *p++ = (uint8_t)(type >> 12);
        *p++ = (uint8_t)name.len;
        memcpy(p, name.name, name.len);
        p = put_varint(p + name.len, tree_id(in) ^ (dir >> 52 << 52));
        index++;
        if (!inside)
            continue;
        uint8_t record[1024], *end = put_inode(in, record, how & 32 ? types[in_u8(in) & 7] : type);
        p = put_varint(p, (uint64_t)(end - record));
        memcpy(p, record, (size_t)(end - record));
        p += end - record;
    }
    return p;
}

static uint8_t *put_dir(struct input *in, uint8_t *p)
{
    uint8_t record[DIR_RECORD_FIXED];
    struct inode dir = {.attr = {.mode = S_IFDIR | (in_u16(in) & 07777)}, .home = {.kind = HOME_DIR}};

    dir.home.parent = tree_id(in);
    dir.attr.nlink = (uint32_t)in_shaped(in);
    dir.dir_entries = in_shaped(in);
    dir.attr.size = in_shaped(in);
    dir.large_xattrs = in_u8(in) & 1;
    memcpy(p, record, record_dir_encode(&dir, record));
    return put_some(in, p + DIR_RECORD_FIXED, in_u8(in) % 32);
}

static uint8_t *put_touch(struct input *in, uint8_t *p)
{
    struct touch t = {.time = {5, 5}};

    t.entries = (int64_t)in_shaped(in);
    t.size = (int64_t)in_shaped(in);
    t.nlink = (int64_t)in_shaped(in);
    record_touch_encode(&t, p);
    return p + TOUCH_BYTES;
}

static uint8_t *put_super(struct input *in, uint8_t *p)
{
    struct super s = {.version = in_u8(in), .compat = in_u8(in)};

    s.incompat = in_u8(in) == 1;
    s.ro_compat = in_u8(in) == 1;
    record_super_encode(&s, p);
    return p + SUPER_BYTES;
}

static uint8_t *put_truncate(struct input *in, uint8_t *p)
{
    struct inode_home home = {in_u8(in) & 1 ? HOME_ENTRY : HOME_OWN, tree_id(in), hash_of(tree_name(in)),
                              in_u8(in)};

    record_truncate_encode(&home, p);
    return p + TRUNCATE_BYTES;
}

static void put_pair(struct input *in, struct lsm_batch *batch)
{
    uint8_t value[8192], *end = value;
    const enum pair kind = (enum pair)in_below(in, PAIRS);
    fs_id id = tree_id(in);
    struct tree_name name = {"", 0};
    struct key k = key_plain(id, KEY_DIR);

    switch (kind) {
    case PAIR_BUCKET:
        name = tree_name(in);
        k = key_bucket(id, hash_of(name));
        end = put_bucket(in, value, id, name);
        break;
    case PAIR_DIR: end = put_dir(in, value); break;
    case PAIR_INODE:
        k = key_plain(id, KEY_INODE);
        end = put_inode(in, value, types[in_u8(in) & 7]);
        break;
    case PAIR_EXTENT: {
        uint64_t start = in_shaped(in);
        size_t len = in_u16(in) % EXTENT_BYTES_MAX;
        put_le64(value, start);
        end = put_some(in, value + 8, len);
        k = key_u64(id, KEY_EXTENT, start + (uint64_t)(end - value) - 8 + (in_u8(in) == 1));
        break;
    }
    case PAIR_SMALL:
        k = key_small(id, hash_of(tree_name(in)), in_u8(in) & 3);
        end = put_some(in, value, in_u16(in) % EXTENT_BYTES_MAX);
        break;
    case PAIR_XATTR:
        name = in_u8(in) & 1 ? tree_name(in) : (struct tree_name){"user.a", 6};
        k = key_xattr(id, name.name, name.len);
        end = put_some(in, value, in_u16(in) % VALUE_MAX);
        break;
    case PAIR_ORPHAN: k = key_u64(id_orphans((unsigned)(id >> 52) & 1), KEY_ORPHAN, id); break;
    case PAIR_TRUNCATE:
        k = key_u64(id_orphans((unsigned)(id >> 52) & 1), KEY_TRUNCATE, id);
        end = put_truncate(in, value);
        break;
    case PAIR_TOUCH: end = put_touch(in, value); break;
    case PAIR_SUPER:
        k = key_plain(ID_SUPER, KEY_SUPER);
        end = put_super(in, value);
        break;
    case PAIR_LEASE:
        k = key_plain(ID_SUPER, KEY_LEASE);
        put_le64(value, in_shaped(in));
        end = value + LEASE_BYTES;
        break;
    default:
        k = key_plain(id, (enum key_tag)(in_u8(in) % 10));
        k.len = (size_t)(put_some(in, k.bytes + k.len, in_u8(in) % 20) - k.bytes);
        end = put_some(in, value, in_u16(in) % VALUE_MAX);
    }
    if (kind == PAIR_TOUCH)
        lsm_batch_merge(batch, k.bytes, k.len, value, (size_t)(end - value));
    else
        lsm_batch_put(batch, k.bytes, k.len, value, (size_t)(end - value));
}

static uint64_t route(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len < 8 ? 0 : get_be64(key) >> 52;
}

static struct lsm_options options_of(struct env *env)
{
    return (struct lsm_options){.flags = LSM_CREATE | LSM_INLINE,
                                .shards = 2,
                                .memory_bytes = 16 << 20,
                                .write_buffer_bytes = 1 << 20,
                                .log_segment_bytes = 1 << 20, /* written as a whole at each opening */
                                .route = route,
                                .merge = record_merge,
                                .env = env};
}

static void put_base(struct lsm_batch *batch)
{
    struct key super_key = key_plain(ID_SUPER, KEY_SUPER), root_key = key_plain(FS_ID_ROOT, KEY_DIR);
    struct super super = {.version = SUPER_VERSION};
    struct inode root = {.attr = {.mode = S_IFDIR | 0755, .nlink = 2},
                         .home = {.kind = HOME_DIR, .parent = FS_ID_ROOT}};
    uint8_t record[DIR_RECORD_FIXED];

    record_super_encode(&super, record);
    lsm_batch_put(batch, super_key.bytes, super_key.len, record, SUPER_BYTES);
    lsm_batch_put(batch, root_key.bytes, root_key.len, record, record_dir_encode(&root, record));
}

struct fs *tree_open(struct input *in, struct env *env)
{
    struct fs_options options = {.lsm = options_of(env)};
    struct lsm_batch *batch;
    struct lsm *db;
    struct fs *fs;

    fuzz_check(lsm_open(TREE_PATH, &options.lsm, &db) == 0 && lsm_batch_new(&batch) == 0);
    put_base(batch);
    for (unsigned n = in_below(in, PAIRS_MAX); n > 0; n--) {
        put_pair(in, batch);
        if (lsm_batch_bytes(batch) < BATCH_BYTES && n > 1)
            continue;
        fuzz_check(lsm_commit(db, batch, 0) == 0);
        lsm_batch_clear(batch);
    }
    fuzz_check(lsm_batch_count(batch) == 0 || lsm_commit(db, batch, 0) == 0);
    lsm_batch_free(batch);
    fuzz_check(lsm_close(db) == 0);
    return fs_open(TREE_PATH, &options, &fs) == 0 ? fs : NULL;
}

/* ---- seeds: what put_pair reads back ---- */

static uint8_t *seed_u16(uint8_t *p, unsigned v)
{
    put_le16(p, (uint16_t)v);
    return p + 2;
}

/* A bucket in directory `dir` (index into the ids) with one entry. */
static uint8_t *seed_bucket(uint8_t *p, unsigned dir, unsigned name, unsigned type, unsigned id)
{
    *p++ = PAIR_BUCKET;
    *p++ = (uint8_t)dir;
    *p++ = (uint8_t)name;
    *p++ = 0;                                     /* one entry */
    *p++ = (uint8_t)(type | (type != 1 ? 8 : 0)); /* with its record, if it is no directory */
    *p++ = (uint8_t)id;
    if (type == 1)
        return p;
    *p++ = 1 | 8; /* fields: size and data */
    *p++ = 0;     /* inline */
    p = seed_u16(p, 0644);
    *p++ = 0; /* shaped: one byte */
    *p++ = 5;
    p = seed_u16(p, 5);
    memcpy(p, "hello", 5);
    return p + 5;
}

static uint8_t *seed_dir(uint8_t *p, unsigned id, unsigned parent)
{
    *p++ = PAIR_DIR;
    *p++ = (uint8_t)id;
    p = seed_u16(p, 0755);
    *p++ = (uint8_t)parent;
    memcpy(p, "\0\2\0\1\0\30\0\0", 8); /* nlink 2, one entry, size 24, no xattrs, no tail */
    return p + 8;
}

/* 0: files and directories. 1: two directories that contain each other. 2: orphans, truncations, extents. */
uint8_t *tree_seed(unsigned n, uint8_t *p)
{
    uint8_t *count = p++;

    switch (n) {
    case 0:
        *count = 4;
        p = seed_bucket(p, 0, 0, 0, 1);
        p = seed_bucket(p, 0, 3, 1, 4);
        p = seed_dir(p, 4, 0);
        p = seed_bucket(p, 4, 1, 2, 2);
        break;
    case 1:
        *count = 5;
        p = seed_bucket(p, 0, 3, 1, 4);
        p = seed_dir(p, 4, 5);
        p = seed_bucket(p, 4, 3, 1, 5);
        p = seed_dir(p, 5, 4);
        p = seed_bucket(p, 5, 3, 1, 4);
        break;
    default:
        *count = 4;
        *p++ = PAIR_ORPHAN;
        *p++ = 2;
        *p++ = PAIR_TRUNCATE;
        *p++ = 1;
        *p++ = 0; /* HOME_OWN */
        *p++ = 0;
        *p++ = 0;
        *p++ = 0;
        *p++ = PAIR_EXTENT;
        *p++ = 2;
        *p++ = 0;
        *p++ = 0;
        p = seed_u16(p, 10);
        memcpy(p, "0123456789", 10);
        p += 10;
        *p++ = 0;
        p = seed_bucket(p, 0, 0, 0, 1);
    }
    return p;
}
