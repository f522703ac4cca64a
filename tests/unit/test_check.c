/*
 * test_check.c - fs_check and lsm_verify on stores that are whole, and on ones into which one
 * inconsistency after the other is planted by raw writes: each is found, by path, and nothing else is.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "bucket.h"
#include "check.h"
#include "data.h"
#include "record.h"
#include "store.h"
#include "store_image.h"
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define STORE "/store"

static const struct fs_caller me = {.uid = 1000, .gid = 2000};
static struct env *env;
static struct fs *fs;
static unsigned hash_bits;
static char last_log[600];

static void on_log(void *arg, enum lsm_log_level level, const char *message)
{
    (void)arg;
    if (level == LSM_LOG_ERROR)
        snprintf(last_log, sizeof(last_log), "%s", message);
}

static struct fs_options options_of(unsigned flags)
{
    return (struct fs_options){.lsm = {.flags = flags | LSM_INLINE,
                                       .shards = 3,
                                       .memory_bytes = 32u << 20,
                                       .env = env,
                                       .log = on_log,
                                       .log_segment_bytes = 4u << 20},
                               .test_hash_bits = hash_bits};
}

static void start(void)
{
    struct fs_options o = options_of(LSM_CREATE);
    assert_int_equal(fs_open(STORE, &o, &fs), 0);
}

static void stop(void)
{
    while (fs_work(fs) == 1)
        continue;
    assert_int_equal(fs_close(fs), 0);
    fs = NULL;
}

static int setup(void **state)
{
    (void)state;
    env = env_mem_new();
    assert_non_null(env);
    hash_bits = 0;
    start();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (fs)
        fs_close(fs);
    fs = NULL;
    env_mem_free(env);
    return 0;
}

/* ---- making things ---- */

static fs_id make(fs_id dir, const char *name, size_t bytes)
{
    struct fs_attr a;
    assert_int_equal(fs_mknod(fs, &me, dir, name, strlen(name), S_IFREG | 0644, 0, &a), 0);
    char *buf = malloc(bytes + 1);
    assert_non_null(buf);
    memset(buf, 'x', bytes);
    for (size_t at = 0; at < bytes; at += FS_WRITE_MAX) {
        size_t len = bytes - at < FS_WRITE_MAX ? bytes - at : FS_WRITE_MAX;
        assert_int_equal(fs_write(fs, a.id, at, buf + at, len), 0);
    }
    free(buf);
    return a.id;
}

static fs_id make_dir(fs_id dir, const char *name)
{
    struct fs_attr a;
    assert_int_equal(fs_mkdir(fs, &me, dir, name, strlen(name), 0755, &a), 0);
    return a.id;
}

static void make_link(fs_id id, fs_id dir, const char *name)
{
    struct fs_attr a;
    assert_int_equal(fs_link(fs, id, dir, name, strlen(name), &a), 0);
}

/* What the tests are about. */
struct tree {
    fs_id dir, sub, small, inline_file, large, linked, attrs;
};

static struct tree make_tree(void)
{
    struct tree t;
    static char value[3000];
    struct fs_attr a;
    t.dir = make_dir(FS_ID_ROOT, "dir");
    t.sub = make_dir(t.dir, "sub");
    t.small = make(t.dir, "small", 1000);
    t.inline_file = make(t.dir, "inline", 20);
    t.large = make(t.sub, "large", 300000);
    t.linked = make(t.dir, "linked", 5000);
    make_link(t.linked, t.sub, "link");
    t.attrs = make(t.sub, "attrs", 1);
    assert_int_equal(fs_setxattr(fs, t.attrs, "user.large", value, sizeof(value), 0), 0);
    assert_int_equal(fs_symlink(fs, &me, t.dir, "sym", 3, "small", 5, &a), 0);
    return t;
}

/* ---- reports ---- */

static char reports[20000];
static struct fs_checked checked;
static unsigned damaged;

static void on_fs(void *arg, const struct fs_problem *p)
{
    (void)arg;
    size_t len = strlen(reports);
    snprintf(reports + len, sizeof(reports) - len, "%s: %s\n", p->path ? p->path : "-", p->what);
}

static void on_lsm(void *arg, const struct lsm_problem *p)
{
    (void)arg;
    size_t len = strlen(reports);
    snprintf(reports + len, sizeof(reports) - len, "%s @%llu: %s\n", p->file, (unsigned long long)p->offset,
             p->what);
    damaged += p->damage;
}

static void on_repair(void *arg, const struct fs_problem *p) { (void)arg, (void)p; }

/* A copy of the store is repaired: then nothing is wrong any more, and the root is still there. */
static void repair_copy(void)
{
    struct image im;
    struct fs_checked c;
    image_take(&im, env, STORE);
    struct fs_options o = options_of(0);
    o.lsm.env = image_env(&im, STORE, NULL);
    image_free(&im);
    int r = fs_repair_tree(STORE, &o, on_repair, NULL, &c);
    if (strstr(reports, "the superblock")) {
        assert_int_equal(r, -EUCLEAN);
    } else {
        assert_int_equal(r, 0);
        size_t before = strlen(reports);
        snprintf(reports + before, 20, "after repair:\n");
        assert_int_equal(fs_check(STORE, &o, on_fs, NULL, &c), 0);
        if (c.problems) {
            print_message("%s", reports);
            fail();
        }
        reports[before] = '\0';
        assert_int_equal(fs_repair_tree(STORE, &o, on_fs, NULL, &c), 0);
        assert_int_equal(c.problems, 0);
    }
    env_mem_free(o.lsm.env);
}

static unsigned long long check(void)
{
    struct fs_options o = options_of(0);
    struct lsm_verified v;
    bool open = fs != NULL;
    if (open)
        stop();
    reports[0] = '\0';
    damaged = 0;
    assert_int_equal(lsm_verify(STORE, &o.lsm, on_lsm, NULL, &v), 0);
    assert_int_equal(v.damaged, damaged);
    assert_int_equal(damaged, 0);
    assert_int_equal(fs_check(STORE, &o, on_fs, NULL, &checked), 0);
    repair_copy();
    return checked.problems;
}

static void expect_clean(void)
{
    if (check() != 0)
        print_message("%s", reports);
    assert_int_equal(checked.problems, 0);
}

/* Exactly one problem, which begins so and says that. */
static void expect_one(const char *path, const char *what)
{
    if (check() != 1 || strncmp(reports, path, strlen(path)) != 0 || !strstr(reports, what)) {
        print_message("expected '%s: ... %s', got:\n%s", path, what, reports);
        fail();
    }
}

/* ---- raw changes ---- */

static void put(struct key key, const void *value, size_t len)
{
    assert_int_equal(lsm_put(fs_lsm(fs), key.bytes, key.len, value, len, 0), 0);
}
static void delete (struct key key) { assert_int_equal(lsm_delete(fs_lsm(fs), key.bytes, key.len, 0), 0); }

/* A copy of a value; the caller frees. */
static uint8_t *get(struct key key, size_t *len)
{
    struct lsm_value v = {0};
    assert_int_equal(lsm_get(fs_lsm(fs), key.bytes, key.len, NULL, 0, &v), 0);
    uint8_t *copy = malloc(v.len + 1);
    assert_non_null(copy);
    memcpy(copy, v.data, v.len);
    *len = v.len;
    lsm_value_release(&v);
    return copy;
}

static uint64_t hash_of(const char *name) { return fs_name_hash(fs, name, strlen(name)); }

/* Changes the bucket of a name: `change` gets the entry; false removes it. */
static void change_entry(fs_id dir, const char *name, bool (*change)(struct bucket_entry *e, void *arg),
                         void *arg)
{
    struct bucket b;
    struct lsm_batch *batch;
    assert_int_equal(bucket_load(fs, dir, hash_of(name), &b), 0);
    struct bucket_entry *e = bucket_find(&b, name, strlen(name));
    assert_non_null(e);
    if (!change(e, arg))
        bucket_remove(&b, e->index);
    assert_int_equal(lsm_batch_new(&batch), 0);
    assert_int_equal(bucket_put(&b, batch), 0);
    assert_int_equal(lsm_commit(fs_lsm(fs), batch, 0), 0);
    lsm_batch_free(batch);
    bucket_release(&b);
}

static bool change_remove(struct bucket_entry *e, void *arg)
{
    (void)e, (void)arg;
    return false;
}
static bool change_id(struct bucket_entry *e, void *arg)
{
    e->id = *(fs_id *)arg;
    return true;
}
static bool change_name(struct bucket_entry *e, void *arg)
{
    e->name = arg;
    return true;
}
static bool change_type(struct bucket_entry *e, void *arg)
{
    e->type = *(uint32_t *)arg;
    return true;
}

/* ---- tests ---- */

static void test_clean(void **state)
{
    (void)state;
    expect_clean();
    start();
    make_tree();
    assert_int_equal(lsm_compact(fs_lsm(fs)), 0);
    expect_clean();
    assert_int_equal(checked.directories, 3);
    assert_int_equal(checked.files, 7);
    assert_int_equal(checked.bytes, 1000 + 20 + 300000 + 2 * 5000 + 1 - 5000);
}

static void test_clean_with_collisions(void **state)
{
    (void)state;
    stop();
    env_mem_free(env);
    env = env_mem_new();
    hash_bits = 3;
    start();
    make_tree();
    for (int i = 0; i < 60; i++) {
        char name[20];
        snprintf(name, sizeof(name), "f%d", i);
        make(FS_ID_ROOT, name, (size_t)i * 100);
    }
    expect_clean();
}

/* Unlinked while open, and the store closed without forgetting: what a crash leaves. */
static void test_orphan_is_no_problem(void **state)
{
    (void)state;
    struct tree t = make_tree();
    (void)t;
    assert_int_equal(fs_unlink(fs, t.sub, "large", 5), 0);
    assert_int_equal(fs_close(fs), 0);
    fs = NULL;
    expect_clean();
    assert_int_equal(checked.orphans, 1);
}

static void test_in_use(void **state)
{
    (void)state;
    struct fs_options o = options_of(0);
    struct lsm_verified v;
    assert_int_equal(lsm_verify(STORE, &o.lsm, on_lsm, NULL, &v), -EBUSY);
    assert_int_equal(fs_check(STORE, &o, on_fs, NULL, &checked), -EBUSY);
    assert_int_equal(lsm_verify("/nothing", &o.lsm, on_lsm, NULL, &v), -ENOENT);
}

static void test_directory_counts(void **state)
{
    (void)state;
    struct tree t = make_tree();
    struct touch touch = {.entries = 1};
    uint8_t operand[TOUCH_BYTES];
    struct key key = key_plain(t.dir, KEY_DIR);
    const char *const what[] = {"it counts 6 entries and has 5", "its size is",
                                "it counts 4 links and has 3"};
    for (int i = 0; i < 3; i++) {
        struct lsm_batch *b;
        touch = (struct touch){.entries = i == 0, .size = i == 1, .nlink = i == 2};
        for (int sign = 0; sign < 2; sign++) {
            record_touch_encode(&touch, operand);
            assert_int_equal(lsm_batch_new(&b), 0);
            lsm_batch_merge(b, key.bytes, key.len, operand, sizeof(operand));
            assert_int_equal(lsm_commit(fs_lsm(fs), b, 0), 0);
            lsm_batch_free(b);
            if (sign == 0)
                expect_one("/dir", what[i]);
            else
                expect_clean();
            start();
            touch = (struct touch){.entries = -touch.entries, .size = -touch.size, .nlink = -touch.nlink};
        }
    }
}

static void test_dangling_and_lost(void **state)
{
    (void)state;
    struct tree t = make_tree();
    size_t len;
    struct key own = key_plain(t.linked, KEY_INODE), dir = key_plain(t.sub, KEY_DIR);
    uint8_t *inode = get(own, &len);
    delete (own);
    check();
    assert_non_null(strstr(reports, "/dir/linked: leads to an inode that does not exist"));
    start();
    put(own, inode, len);
    expect_clean();
    free(inode);

    start();
    uint8_t *record = get(dir, &len);
    delete (dir);
    expect_one("/dir/sub", "leads to a directory that does not exist");
    start();
    put(dir, record, len);
    record[0] = 99;
    put(dir, record, len);
    expect_one("/dir/sub", "its record can't be decoded");
    record[0] = 1;
    start();
    put(dir, record, len);
    free(record);
    expect_clean();

    start();
    fs_id nobody = 4711;
    uint32_t type = S_IFDIR;
    change_entry(t.dir, "sub", change_id, &nobody);
    check();
    assert_non_null(strstr(reports, "/dir/sub: leads to a directory that does not exist"));
    assert_non_null(strstr(reports, "-: a directory that no name leads to"));
    start();
    change_entry(t.dir, "sub", change_id, &t.sub);
    expect_clean();
    start();
    nobody = t.sub + 70000000;
    change_entry(t.dir, "sub", change_id, &nobody);
    check();
    assert_non_null(strstr(reports, "/dir/sub: its inode number was never given out"));
    start();
    change_entry(t.dir, "sub", change_id, &t.sub);
    change_entry(t.dir, "linked", change_type, &type);
    check();
    assert_non_null(strstr(reports, "its inode is of another type than its name says"));
}

static void test_links(void **state)
{
    (void)state;
    struct tree t = make_tree();
    size_t len;
    struct key own = key_plain(t.linked, KEY_INODE);
    uint8_t *bytes = get(own, &len), changed[400];
    struct inode ino;
    assert_int_equal(record_inode_decode(bytes, len, &ino), 0);
    ino.attr.nlink = 3;
    put(own, changed, record_inode_encode(&ino, changed));
    expect_one("/dir/linked", "it counts 3 names and has 2");
    start();
    ino.attr.nlink = 1; /* the walk meets "linked" and "link" in the order of their hashes and levels */
    put(own, changed, record_inode_encode(&ino, changed));
    expect_one("/dir/linked", "it counts 1 names and has 2");
    start();
    put(own, bytes, len);
    free(bytes);
    expect_clean();

    start();
    struct lsm_batch *b;
    assert_int_equal(lsm_batch_new(&b), 0);
    orphan_put(fs, t.linked, b);
    assert_int_equal(lsm_commit(fs_lsm(fs), b, 0), 0);
    lsm_batch_free(b);
    assert_int_equal(fs_close(fs), 0); /* before the reaper believes it */
    fs = NULL;
    check();
    assert_non_null(strstr(reports, "is on the list of deleted files, but has a name"));
    assert_non_null(strstr(reports, "is on the list of deleted files, but its inode says otherwise"));
}

static void test_second_name_of_directory(void **state)
{
    (void)state;
    struct tree t = make_tree();
    uint32_t type = S_IFDIR;
    make_dir(t.sub, "other");
    change_entry(t.sub, "other", change_id, &t.sub);
    check();
    assert_non_null(strstr(reports, "/dir/sub/other: is a second name of a directory"));
    assert_non_null(strstr(reports, "-: a directory that no name leads to"));
    (void)type;
}

static void test_names(void **state)
{
    (void)state;
    struct tree t = make_tree();
    change_entry(t.dir, "inline", change_name, "imline");
    expect_one("/dir/imline", "no lookup of this name would find it");
    start();
    struct key key = key_bucket(t.dir, hash_of("inline"));
    put(key, "\x01garbage", 8);
    check();
    assert_non_null(strstr(reports, "/dir: some of its entries can't be decoded"));
    assert_int_equal(checked.problems, 1);
    start();
    delete (key);
    check();
    assert_non_null(strstr(reports, "/dir: it counts 5 entries and has 4"));
}

static void test_small_contents(void **state)
{
    (void)state;
    struct tree t = make_tree();
    struct bucket b;
    size_t len;
    assert_int_equal(bucket_load(fs, t.dir, hash_of("small"), &b), 0);
    struct key key = key_small(t.dir, b.hash, bucket_find(&b, "small", 5)->index);
    bucket_release(&b);
    uint8_t *bytes = get(key, &len);
    assert_int_equal(len, 1000);
    delete (key);
    expect_one("/dir/small", "its contents are missing");
    start();
    put(key, bytes, 999);
    expect_one("/dir/small", "its contents have another length");
    start();
    put(key, bytes, 1000);
    free(bytes);
    expect_clean();
    start();
    key.bytes[16] = 7;
    put(key, "stray", 5);
    expect_one("/dir", "contents of a file that is not in it");
    start();
    delete (key);
    change_entry(t.dir, "small", change_remove, NULL);
    check();
    assert_non_null(strstr(reports, "/dir: contents of a file that is not in it"));
}

static void test_extents(void **state)
{
    (void)state;
    struct tree t = make_tree();
    size_t len;
    struct key key = key_u64(t.large, KEY_EXTENT, EXTENT_MAX);
    uint8_t *bytes = get(key, &len);
    delete (key);
    expect_one("/dir/sub/large", "a part of its contents is missing");
    start();
    put(key, bytes, 1000); /* too short for a blob file, where the length alone says where it starts */
    expect_one("/dir/sub/large", "an extent has impossible bounds");
    start();
    put(key, bytes, len);
    expect_clean();
    start();
    uint8_t small[8 + 100] = {0};
    put_le64(small, 10);
    put(key_u64(t.large, KEY_EXTENT, 110), small, sizeof(small));
    expect_one("/dir/sub/large", "two extents overlap");
    start();
    delete (key_u64(t.large, KEY_EXTENT, 110));
    put_le64(small, 300000);
    put(key_u64(t.large, KEY_EXTENT, 300100), small, sizeof(small));
    expect_one("/dir/sub/large", "an extent lies beyond the end of the file");
    start();
    delete (key_u64(t.large, KEY_EXTENT, 300100));
    put(key_u64(t.inline_file, KEY_EXTENT, 300100), small, sizeof(small));
    expect_one("-", "contents that belong to no file");
    start();
    delete (key_u64(t.inline_file, KEY_EXTENT, 300100));
    put(key_xattr(t.small, "user.x", 6), "x", 1);
    expect_one("-", "an extended attribute of nothing");
    start();
    delete (key_xattr(t.small, "user.x", 6));
    put(key_plain(t.dir, (enum key_tag)0x33), "x", 1);
    expect_one("-", "a key of an unknown kind");
    free(bytes);
}

static void test_super(void **state)
{
    (void)state;
    make_tree();
    size_t len;
    struct key key = key_plain(ID_SUPER, KEY_SUPER), lease = key_plain(ID_SUPER, KEY_LEASE);
    uint8_t *bytes = get(key, &len), low[LEASE_BYTES];
    put_le64(low, ID_SERIAL_FIRST);
    put(lease, low, sizeof(low));
    check();
    assert_non_null(strstr(reports, "/dir: its inode number was never given out"));
    start();
    delete (lease);
    expect_one("-", "the record of the last inode number given out is missing");
    start();
    put_le64(low, 100000);
    put(lease, low, sizeof(low));
    put(key, "?", 1);
    assert_int_equal(fs_close(fs), 0);
    fs = NULL;
    expect_one("-", "the superblock can't be decoded");
    free(bytes);
}

/* What repair does with a large file of which a part is missing, and with a directory that lost its name. */
static void test_lost_and_found(void **state)
{
    (void)state;
    struct tree t = make_tree();
    struct fs_checked c;
    struct fs_attr a;
    char path[100];
    uint8_t byte;
    size_t got;
    delete (key_u64(t.large, KEY_EXTENT, EXTENT_MAX));
    make(t.sub, "below", 1000);
    change_entry(t.dir, "sub", change_remove, NULL);
    check();
    struct fs_options o = options_of(0);
    assert_int_equal(fs_repair_tree(STORE, &o, on_repair, NULL, &c), 0);
    start();
    assert_int_equal(fs_walk(fs, "/dir/sub", &a), -ENOENT);
    snprintf(path, sizeof(path), "/lost+found/%llu/below", (unsigned long long)t.sub);
    assert_int_equal(fs_walk(fs, path, &a), 0);
    assert_int_equal(a.size, 1000);
    fs_forget(fs, a.id, 1);
    snprintf(path, sizeof(path), "/lost+found/%llu", (unsigned long long)t.large);
    assert_int_equal(fs_walk(fs, path, &a), 0);
    assert_int_equal(a.size, 300000);
    assert_int_equal(fs_read(fs, a.id, 299999, &byte, 1, &got), 0);
    assert_int_equal(byte, 'x');
    fs_forget(fs, a.id, 1);
    assert_int_equal(fs_walk(fs, "/dir/linked", &a), 0);
    assert_int_equal(a.nlink, 2);
    fs_forget(fs, a.id, 1);
    expect_clean();
}

/* A file whose small contents are damaged can be deleted while it is open; it is never read as zeros. */
static void test_delete_damaged(void **state)
{
    (void)state;
    uint8_t buf[1000];
    char value[500] = {0};
    size_t got;
    for (int heavy = 0; heavy < 2; heavy++) {
        fs_id id = make(FS_ID_ROOT, "f", sizeof(buf));
        if (heavy)
            assert_int_equal(fs_setxattr(fs, id, "user.x", value, sizeof(value), 0), 0);
        struct key key = key_small(FS_ID_ROOT, hash_of("f"), 0);
        size_t len;
        free(get(key, &len));
        put(key, "damage", 6);
        last_log[0] = '\0';
        assert_int_equal(fs_read(fs, id, 0, buf, sizeof(buf), &got), -EIO);
        assert_non_null(strstr(last_log, "can't be read"));
        last_log[0] = '\0';
        assert_int_equal(fs_unlink(fs, FS_ID_ROOT, "f", 1), 0);
        assert_non_null(strstr(last_log, "being deleted"));
        assert_int_equal(fs_read(fs, id, 0, buf, sizeof(buf), &got), -EIO);
        fs_forget(fs, id, 1);
        expect_clean();
        assert_int_equal(checked.files + checked.orphans, 0);
        start();
    }
}

/* A store of somebody else, and one that holds nothing. */
static void test_no_filesystem(void **state)
{
    (void)state;
    struct fs_options o = options_of(LSM_CREATE);
    struct lsm_options lsm = o.lsm;
    struct lsm *db;
    assert_int_equal(lsm_open("/other", &lsm, &db), 0);
    assert_int_equal(lsm_put(db, "key", 3, "value", 5, 0), 0);
    assert_int_equal(lsm_close(db), 0);
    assert_int_equal(fs_check("/other", &o, on_fs, NULL, &checked), -EMEDIUMTYPE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_clean),
        TEST(test_clean_with_collisions),
        TEST(test_orphan_is_no_problem),
        TEST(test_in_use),
        TEST(test_directory_counts),
        TEST(test_dangling_and_lost),
        TEST(test_links),
        TEST(test_second_name_of_directory),
        TEST(test_names),
        TEST(test_small_contents),
        TEST(test_extents),
        TEST(test_super),
        TEST(test_lost_and_found),
        TEST(test_delete_damaged),
        TEST(test_no_filesystem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
