/*
 * test_record.c - encodings of inodes, directories, TOUCH operands, buckets and the superblock:
 * round trips, and no decoder may read beyond its bytes or take damage for something valid by crashing.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "bucket.h"
#include "itable.h"
#include "record.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t seed, state;

static uint64_t rnd(void)
{
    state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = state;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
static uint64_t below(uint64_t n) { return rnd() % n; }
static uint64_t any_size(void) { return rnd() >> below(64); }

static struct timespec random_time(void)
{
    int64_t sec = below(4) ? (int64_t)below(2000000000) : (int64_t)rnd();
    return (struct timespec){(time_t)sec, (long)below(1000000000)};
}

static void random_xattrs(struct inode *ino, uint8_t *room)
{
    uint32_t n = 0;
    for (uint64_t i = below(4); i > 0; i--) {
        uint8_t name = (uint8_t)(1 + below(20)), value = (uint8_t)below(40);
        room[n++] = name;
        memset(room + n, 'a' + (int)i, name);
        n += name;
        room[n++] = value;
        memset(room + n, (int)below(256), value);
        n += value;
    }
    ino->xattrs_len = n;
    ino->xattrs = n ? room : NULL;
}

static void random_attr(struct fs_attr *a)
{
    a->mode |= (uint32_t)below(07777 + 1);
    a->uid = (uint32_t)any_size();
    a->gid = (uint32_t)any_size();
    a->size = any_size() & FS_SIZE_MAX;
    a->btime = random_time();
    a->ctime = below(2) ? a->btime : random_time();
    a->mtime = below(2) ? a->ctime : random_time();
    a->atime = below(2) ? a->btime : random_time();
}

static void random_inode(struct inode *ino, uint8_t *data, uint8_t *xattrs)
{
    static const uint32_t types[] = {S_IFREG, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};
    *ino = (struct inode){.attr = {.mode = types[below(6)]}};
    random_attr(&ino->attr);
    ino->attr.nlink = below(2) ? 1 : (uint32_t)below(1000);
    ino->attr.rdev = below(2) ? 0 : any_size();
    ino->layout = (enum inode_layout)below(3);
    ino->large_xattrs = below(4) == 0;
    random_xattrs(ino, xattrs);
    if (ino->layout == LAYOUT_EXTENTS) {
        ino->stored = any_size();
        return;
    }
    ino->data_len = (uint32_t)(ino->layout == LAYOUT_SMALL ? 1 + below(SMALL_MAX) : below(INLINE_MAX + 1));
    if (ino->attr.size < ino->data_len)
        ino->attr.size = ino->data_len;
    if (ino->layout == LAYOUT_INLINE && ino->data_len > 0) {
        for (unsigned i = 0; i < ino->data_len; i++)
            data[i] = (uint8_t)rnd();
        ino->data = data;
    }
}

static void same_time(const struct timespec *a, const struct timespec *b)
{
    assert_int_equal(a->tv_sec, b->tv_sec);
    assert_int_equal(a->tv_nsec, b->tv_nsec);
}

static void same_inode(const struct inode *a, const struct inode *b)
{
    assert_int_equal(a->attr.mode, b->attr.mode);
    assert_int_equal(a->attr.uid, b->attr.uid);
    assert_int_equal(a->attr.gid, b->attr.gid);
    assert_int_equal(a->attr.size, b->attr.size);
    assert_int_equal(a->attr.rdev, b->attr.rdev);
    assert_int_equal(a->attr.nlink, b->attr.nlink);
    same_time(&a->attr.btime, &b->attr.btime);
    same_time(&a->attr.ctime, &b->attr.ctime);
    same_time(&a->attr.mtime, &b->attr.mtime);
    same_time(&a->attr.atime, &b->attr.atime);
    assert_int_equal(a->layout, b->layout);
    assert_int_equal(a->stored, b->stored);
    assert_int_equal(a->data_len, b->data_len);
    assert_int_equal(a->large_xattrs, b->large_xattrs);
    assert_int_equal(a->xattrs_len, b->xattrs_len);
    if (a->data)
        assert_memory_equal(a->data, b->data, a->data_len);
    if (a->xattrs)
        assert_memory_equal(a->xattrs, b->xattrs, a->xattrs_len);
}

/* A copy of exactly its size, so that the sanitizer sees every read beyond it. */
static void *exact(const void *bytes, size_t len)
{
    void *p = malloc(len ? len : 1);
    memcpy(p, bytes, len);
    return p;
}

/* Damaged and cut copies: whatever the decoder says, it must not crash. */
static void torture(const uint8_t *bytes, size_t len, void (*decode)(const void *bytes, size_t len))
{
    for (unsigned i = 0; i < 6; i++) {
        size_t n = below(2) ? len : below(len + 1);
        uint8_t *copy = exact(bytes, n);
        if (n > 0 && i > 0)
            for (uint64_t flips = 1 + below(3); flips > 0; flips--)
                copy[below(n)] = (uint8_t)(below(2) ? rnd() : copy[below(n)] ^ 1u << below(8));
        decode(copy, n);
        free(copy);
    }
}

static void decode_inode(const void *bytes, size_t len)
{
    struct inode ino;
    uint8_t out[INODE_RECORD_FIXED_MAX + INLINE_MAX + XATTRS_INLINE_MAX + SMALL_MAX];
    if (record_inode_decode(bytes, len, &ino) == 0)
        record_inode_encode(&ino, out); /* what is taken for valid can be stored again */
}

static void test_inode(void **arg)
{
    uint8_t data[INLINE_MAX], xattrs[256],
        out[INODE_RECORD_FIXED_MAX + SMALL_MAX + INLINE_MAX + XATTRS_INLINE_MAX];
    struct inode ino, back;
    (void)arg;
    for (unsigned i = 0; i < 20000; i++) {
        random_inode(&ino, data, xattrs);
        size_t len = record_inode_encode(&ino, out);
        assert_true(len <= record_inode_max(&ino));
        uint8_t *copy = exact(out, len);
        assert_int_equal(record_inode_decode(copy, len, &back), 0);
        same_inode(&ino, &back);
        free(copy);
        torture(out, len, decode_inode);
    }
}

static void test_inode_compact(void **arg)
{
    uint8_t out[512];
    struct timespec now = {1700000000, 123456789};
    struct inode ino = {.attr = {.mode = S_IFREG | 0644, .nlink = 1, .uid = 1000, .gid = 1000, .size = 1500}};
    (void)arg;
    ino.attr.atime = ino.attr.btime = ino.attr.ctime = ino.attr.mtime = now;
    ino.attr.ctime.tv_nsec = ino.attr.mtime.tv_nsec = 223456789;
    ino.layout = LAYOUT_SMALL;
    ino.data_len = 1500;
    assert_true(record_inode_encode(&ino, out) <= 40);
}

/* A field that a later release adds is skipped; a known one with a wrong type is not. */
static void test_inode_unknown(void **arg)
{
    static const uint8_t extra_number[] = {40 << 1, 77}, extra_bytes[] = {41 << 1 | 1, 3, 'x', 'y', 'z'};
    static const uint8_t wrong[] = {13 << 1 | 1, 1, 1}, repeated[] = {1 << 1, 1};
    uint8_t out[600], data[INLINE_MAX], xattrs[256];
    struct inode ino, back;
    (void)arg;
    random_inode(&ino, data, xattrs);
    ino.attr.nlink = 1;
    size_t len = record_inode_encode(&ino, out);
    memcpy(out + len, wrong, sizeof(wrong));
    assert_int_equal(record_inode_decode(out, len + sizeof(wrong), &back), -EIO);
    memcpy(out + len, repeated, sizeof(repeated));
    assert_int_equal(record_inode_decode(out, len + sizeof(repeated), &back), -EIO);
    memcpy(out + len, extra_number, sizeof(extra_number));
    len += sizeof(extra_number);
    memcpy(out + len, extra_bytes, sizeof(extra_bytes));
    len += sizeof(extra_bytes);
    assert_int_equal(record_inode_decode(out, len, &back), 0);
    same_inode(&ino, &back);
    out[0]++;
    assert_int_equal(record_inode_decode(out, len, &back), -EIO);
}

static void random_dir(struct inode *ino, uint8_t *xattrs)
{
    *ino = (struct inode){.attr = {.mode = S_IFDIR}};
    random_attr(&ino->attr);
    ino->attr.nlink = (uint32_t)(2 + below(100));
    ino->home = (struct inode_home){.kind = HOME_DIR, .parent = rnd()};
    ino->dir_entries = any_size();
    ino->large_xattrs = below(2);
    random_xattrs(ino, xattrs);
}

static void decode_dir(const void *bytes, size_t len)
{
    struct inode ino;
    record_dir_decode(bytes, len, &ino);
}

static void test_dir(void **arg)
{
    uint8_t xattrs[256], out[DIR_RECORD_FIXED + 256];
    struct inode ino, back;
    (void)arg;
    for (unsigned i = 0; i < 5000; i++) {
        random_dir(&ino, xattrs);
        size_t len = record_dir_encode(&ino, out);
        uint8_t *copy = exact(out, len);
        assert_int_equal(record_dir_decode(copy, len, &back), 0);
        same_inode(&ino, &back);
        assert_int_equal(ino.home.parent, back.home.parent);
        assert_int_equal(ino.dir_entries, back.dir_entries);
        free(copy);
        torture(out, len, decode_dir);
    }
}

/* Folding in any grouping gives the same; the last operand's time counts. */
static void test_touch(void **arg)
{
    uint8_t xattrs[256], dir[DIR_RECORD_FIXED + 256], op[3][TOUCH_BYTES], left[512], right[512], folded[512];
    struct touch touch[3];
    struct inode ino, back;
    (void)arg;
    for (unsigned i = 0; i < 3000; i++) {
        random_dir(&ino, xattrs);
        ino.attr.size = 1000000;
        ino.dir_entries = 1000;
        size_t len = record_dir_encode(&ino, dir);
        for (unsigned k = 0; k < 3; k++) {
            touch[k] = (struct touch){random_time(), (int64_t)below(20) - 10, (int64_t)below(600) - 300,
                                      (int64_t)below(3)};
            record_touch_encode(&touch[k], op[k]);
        }
        size_t n = record_merge(NULL, dir, len, false, op[0], TOUCH_BYTES, left);
        assert_int_equal(n, len);
        n = record_merge(NULL, left, n, false, op[1], TOUCH_BYTES, folded);
        n = record_merge(NULL, folded, n, false, op[2], TOUCH_BYTES, left);
        size_t m = record_merge(NULL, op[1], TOUCH_BYTES, true, op[2], TOUCH_BYTES, folded);
        assert_int_equal(m, TOUCH_BYTES);
        m = record_merge(NULL, op[0], TOUCH_BYTES, true, folded, m, right);
        m = record_merge(NULL, dir, len, false, right, m, folded);
        assert_int_equal(n, m);
        assert_memory_equal(left, folded, n);
        assert_int_equal(record_dir_decode(left, n, &back), 0);
        assert_int_equal(back.dir_entries, 1000 + touch[0].entries + touch[1].entries + touch[2].entries);
        assert_int_equal(back.attr.size, 1000000 + touch[0].size + touch[1].size + touch[2].size);
        assert_int_equal(back.attr.nlink, ino.attr.nlink + touch[0].nlink + touch[1].nlink + touch[2].nlink);
        same_time(&back.attr.mtime, &touch[2].time);
        same_time(&back.attr.ctime, &touch[2].time);
        same_time(&back.attr.atime, &ino.attr.atime);
    }
    assert_int_equal(record_merge(NULL, NULL, 0, false, op[0], TOUCH_BYTES, left), TOUCH_BYTES);
    assert_int_equal(record_dir_decode(left, TOUCH_BYTES, &back), -EIO);
    assert_int_equal(record_merge(NULL, "junk", 4, false, op[0], TOUCH_BYTES, left), 4);
    assert_memory_equal(left, "junk", 4);
}

static void decode_bucket(const void *bytes, size_t len)
{
    struct bucket b = {.dir = rnd()};
    if (bucket_decode(bytes, len, &b) == 0)
        assert_true(b.count > 0 && b.count <= BUCKET_ENTRIES_MAX);
}

static void random_bucket(struct bucket *b, char names[BUCKET_ENTRIES_MAX][256])
{
    static const uint32_t types[] = {S_IFREG, S_IFLNK, S_IFDIR, S_IFCHR};
    *b = (struct bucket){.dir = rnd(), .hash = rnd() & HASH_MASK};
    for (uint64_t n = 1 + below(below(4) ? 3 : BUCKET_ENTRIES_MAX); n > 0; n--) {
        struct bucket_entry e = {.id = below(2) ? rnd() : (b->dir & ~ID_SERIAL_MASK) | below(100000),
                                 .type = types[below(4)]};
        if ((e.id & ID_SERIAL_MASK) < ID_SERIAL_FIRST)
            e.id += ID_SERIAL_FIRST;
        do
            e.index = (uint8_t)below(BUCKET_ENTRIES_MAX);
        while (bucket_at(b, e.index));
        e.name_len = (uint8_t)(1 + below(255));
        memset(names[e.index], 'a' + (int)below(26), e.name_len);
        e.name = names[e.index];
        if (e.type != S_IFDIR && below(2)) {
            e.record = (const uint8_t *)names[e.index];
            e.record_len = e.name_len;
        }
        bucket_add(b, &e);
    }
}

static void test_bucket(void **arg)
{
    static char names[BUCKET_ENTRIES_MAX][256];
    static struct bucket b, back;
    (void)arg;
    for (unsigned i = 0; i < 3000; i++) {
        random_bucket(&b, names);
        size_t len = bucket_encoded_max(&b);
        uint8_t *room = malloc(len);
        len = bucket_encode(&b, room);
        uint8_t *out = exact(room, len);
        free(room);
        back.dir = b.dir;
        assert_int_equal(bucket_decode(out, len, &back), 0);
        assert_int_equal(back.count, b.count);
        for (unsigned k = 0; k < b.count; k++) {
            const struct bucket_entry *x = &b.entry[k], *y = &back.entry[k];
            assert_true(x->index == y->index && x->id == y->id && x->type == y->type &&
                        x->name_len == y->name_len);
            assert_memory_equal(x->name, y->name, x->name_len);
            assert_true(!x->record == !y->record && x->record_len == y->record_len);
            if (k > 0)
                assert_true(x->index > b.entry[k - 1].index);
        }
        int index = bucket_free_index(&b);
        assert_int_equal(index < 0, b.count == BUCKET_ENTRIES_MAX);
        assert_true(index < 0 || !bucket_at(&b, (unsigned)index));
        torture(out, len, decode_bucket);
        free(out);
    }
}

/* Names that lead elsewhere and ids with a meaning of their own: nothing wrote them. */
static void test_bucket_refuses(void **arg)
{
    static const struct {
        const char *name;
        uint8_t len;
        fs_id serial;
        int expected;
    } cases[] = {{"good", 4, ID_SERIAL_FIRST, 0},
                 {"...", 3, 77, 0},
                 {".", 1, 77, -EIO},
                 {"..", 2, 77, -EIO},
                 {"a/b", 3, 77, -EIO},
                 {"/", 1, 77, -EIO},
                 {"a\0b", 3, 77, -EIO},
                 {"root", 4, FS_ID_ROOT, -EIO},
                 {"zero", 4, 0, -EIO},
                 {"control", 7, FS_ID_CONTROL_FIRST, -EIO}};
    static struct bucket b, back;
    (void)arg;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct bucket_entry e = {.name = cases[i].name, .name_len = cases[i].len, .type = S_IFREG};
        uint8_t out[64];
        e.id = UINT64_C(3) << 52 | cases[i].serial;
        b.count = 0;
        b.dir = back.dir = UINT64_C(3) << 52 | 99;
        bucket_add(&b, &e);
        assert_int_equal(bucket_decode(out, bucket_encode(&b, out), &back), cases[i].expected);
    }
}

static void test_super(void **arg)
{
    struct super s = {.version = 1,
                      .compat = 2,
                      .ro_compat = 3,
                      .incompat = 4,
                      .uuid = {9, 8},
                      .hash_seed = 5},
                 back;
    uint8_t out[SUPER_BYTES];
    (void)arg;
    record_super_encode(&s, out);
    assert_int_equal(record_super_decode(out, sizeof(out), &back), 0);
    assert_int_equal(back.version, 1);
    assert_int_equal(back.compat, 2);
    assert_int_equal(back.ro_compat, 3);
    assert_int_equal(back.incompat, 4);
    assert_memory_equal(back.uuid, s.uuid, 16);
    assert_int_equal(back.hash_seed, 5);
    assert_int_equal(record_super_decode(out, sizeof(out) - 1, &back), -EIO);
    out[0] ^= 1;
    assert_int_equal(record_super_decode(out, sizeof(out), &back), -EIO);
}

static void test_truncate(void **arg)
{
    struct inode_home home = {HOME_ENTRY, 0x123456789abcdef, 0xfedcba9876543, 63}, back;
    uint8_t out[TRUNCATE_BYTES];
    (void)arg;
    record_truncate_encode(&home, out);
    assert_int_equal(record_truncate_decode(out, sizeof(out), &back), 0);
    assert_true(back.kind == home.kind && back.parent == home.parent && back.hash == home.hash &&
                back.index == home.index);
    out[0] = HOME_MEMORY;
    assert_int_equal(record_truncate_decode(out, sizeof(out), &back), -EIO);
    assert_int_equal(record_truncate_decode(out, 3, &back), -EIO);
}

/* 64 bytes an inode: the entry, malloc's header, and two pointers of chain at the worst load. */
static void test_itable(void **arg)
{
    struct itable_info info = {.home = {HOME_ENTRY, 77, HASH_MASK, 63}}, got;
    struct itable *t;
    (void)arg;
    assert_true(itable_entry_size() + 8 + 16 <= ITABLE_ENTRY_BYTES);
    assert_int_equal(itable_new(&t), 0);
    for (fs_id id = 100; id < 20100; id++)
        assert_int_equal(itable_ref(t, id, &info), 0);
    assert_int_equal(itable_ref(t, 100, &(struct itable_info){.home = {.kind = HOME_OWN}}), 0);
    assert_int_equal(itable_count(t), 20000);
    assert_true(itable_find(t, 100, &got));
    assert_true(got.home.kind == HOME_ENTRY && got.home.parent == 77 && got.home.hash == HASH_MASK &&
                got.home.index == 63);
    assert_false(itable_forget(t, 100, 1, &got));
    assert_true(itable_forget(t, 100, 1, &got));
    assert_false(itable_find(t, 100, &got));
    assert_false(itable_update(t, 100, &info));
    struct itable_cold cold[16];
    assert_int_equal(itable_cold(t, cold, 16), 0); /* all were new: the first pass spares them */
    assert_int_equal(itable_cold(t, cold, 16), 16);
    for (fs_id id = 101; id < 20100; id++)
        assert_true(itable_forget(t, id, 5, &got));
    assert_int_equal(itable_count(t), 0);
    itable_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inode),         cmocka_unit_test(test_inode_compact),
        cmocka_unit_test(test_inode_unknown), cmocka_unit_test(test_dir),
        cmocka_unit_test(test_touch),         cmocka_unit_test(test_bucket),
        cmocka_unit_test(test_super),         cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_itable),        cmocka_unit_test(test_bucket_refuses),
    };
    const char *env = getenv("SHALE_SEED");
    seed = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);
    state = seed;
    printf("seed %llu\n", (unsigned long long)seed);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed)
        printf("replay: SHALE_SEED=%llu test_record\n", (unsigned long long)seed);
    return failed ? 1 : 0;
}
