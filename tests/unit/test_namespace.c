/*
 * test_namespace.c - the filesystem's calls one by one: errors, attributes, what unlinked files do,
 * what a reopen finds; and many threads on few names, after which the store must still fit together.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store_check.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "env.h"

static const struct fs_caller me = {.uid = 1000, .gid = 2000};
static struct env *env;
static struct fs *fs;
static char last_log[600];
static unsigned hash_bits; /* few: names collide */

static void on_log(void *arg, enum lsm_log_level level, const char *message)
{
    (void)arg;
    if (level == LSM_LOG_ERROR)
        snprintf(last_log, sizeof(last_log), "%s", message);
}

static struct fs_options options_of(unsigned flags)
{
    return (struct fs_options){.lsm = {.flags = flags,
                                       .shards = 4,
                                       .memory_bytes = 32u << 20,
                                       .env = env,
                                       .log_segment_bytes = 8u << 20,
                                       .log = on_log},
                               .test_hash_bits = hash_bits};
}

static void start_with(unsigned flags)
{
    struct fs_options o = options_of(flags | LSM_CREATE);
    assert_int_equal(fs_open("/store", &o, &fs), 0);
}

static int setup(void **arg)
{
    (void)arg;
    env = env_mem_new();
    assert_non_null(env);
    start_with(LSM_INLINE);
    return 0;
}

static int teardown(void **arg)
{
    (void)arg;
    if (fs)
        assert_int_equal(fs_close(fs), 0);
    fs = NULL;
    hash_bits = 0;
    env_mem_free(env);
    return 0;
}

static void reopen(void)
{
    assert_int_equal(fs_close(fs), 0);
    start_with(LSM_INLINE);
}

static void check(size_t inodes, size_t orphans)
{
    size_t i, o;
    assert_int_equal(check_store(fs_lsm(fs), &i, &o), 0);
    assert_int_equal(i, inodes);
    assert_int_equal(o, orphans);
}

#define N(name) name, strlen(name)

static fs_id make(fs_id dir, const char *name, uint32_t mode)
{
    struct fs_attr a;
    if (S_ISDIR(mode))
        assert_int_equal(fs_mkdir(fs, &me, dir, N(name), mode, &a), 0);
    else
        assert_int_equal(fs_mknod(fs, &me, dir, N(name), mode, 0, &a), 0);
    return a.id;
}

static fs_id find(fs_id dir, const char *name)
{
    struct fs_attr a;
    assert_int_equal(fs_lookup(fs, dir, N(name), &a), 0);
    return a.id;
}

static struct fs_attr attr_of(fs_id id)
{
    struct fs_attr a;
    assert_int_equal(fs_getattr(fs, id, &a), 0);
    assert_int_equal(a.id, id);
    return a;
}

static int rename_in(fs_id from, const char *name, fs_id to, const char *new_name, unsigned flags)
{
    return fs_rename(fs, &me, from, N(name), to, N(new_name), flags);
}

static int missing(fs_id dir, const char *name)
{
    struct fs_attr a;
    return fs_lookup(fs, dir, N(name), &a);
}

static void fill(fs_id id, uint64_t off, size_t len, int c)
{
    char *p = malloc(len);
    memset(p, c, len);
    assert_int_equal(fs_write(fs, id, off, p, len), 0);
    free(p);
}

static void holds(fs_id id, uint64_t off, size_t len, int c)
{
    unsigned char *p = malloc(len);
    size_t got;
    assert_int_equal(fs_read(fs, id, off, p, len, &got), 0);
    assert_int_equal(got, len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(p[i], c);
    free(p);
}

/* ---- one by one ---- */

static void test_create(void **arg)
{
    struct fs_attr a, root = attr_of(FS_ID_ROOT);
    (void)arg;
    assert_int_equal(root.mode, S_IFDIR | 0755);
    assert_int_equal(root.nlink, 2);
    assert_int_equal(root.size, 0);
    assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, N("file"), S_IFREG | 0640, 0, &a), 0);
    assert_int_equal(a.mode, S_IFREG | 0640);
    assert_int_equal(a.uid, 1000);
    assert_int_equal(a.gid, 2000);
    assert_int_equal(a.nlink, 1);
    assert_int_equal(find(FS_ID_ROOT, "file"), a.id);
    assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, N("file"), S_IFREG, 0, &a), -EEXIST);
    assert_int_equal(fs_mkdir(fs, &me, FS_ID_ROOT, N("file"), 0755, &a), -EEXIST);
    assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, N("null"), S_IFCHR | 0666, 0x103, &a), 0);
    assert_int_equal(attr_of(a.id).rdev, 0x103);
    make(FS_ID_ROOT, "fifo", S_IFIFO | 0600);
    make(FS_ID_ROOT, "dir", S_IFDIR | 0700);
    root = attr_of(FS_ID_ROOT);
    assert_int_equal(root.nlink, 3);
    assert_int_equal(root.size, 4 * 24 + 4 + 4 + 4 + 3);
    fs_id file = find(FS_ID_ROOT, "file");
    assert_int_equal(fs_mknod(fs, &me, file, N("x"), S_IFREG, 0, &a), -ENOTDIR);
    assert_int_equal(fs_lookup(fs, file, N("x"), &a), -ENOTDIR);
    reopen();
    assert_int_equal(find(FS_ID_ROOT, "file"), file);
    assert_int_equal(attr_of(find(FS_ID_ROOT, "null")).mode, S_IFCHR | 0666);
    assert_true(make(FS_ID_ROOT, "later", S_IFREG) > file); /* numbers are not used again */
    check(6, 0);
}

static void test_names(void **arg)
{
    char longest[256];
    struct fs_attr a;
    (void)arg;
    memset(longest, 'n', 256);
    assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, longest, 255, S_IFREG, 0, &a), 0);
    assert_int_equal(fs_lookup(fs, FS_ID_ROOT, longest, 255, &a), 0);
    assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, longest, 256, S_IFREG, 0, &a), -ENAMETOOLONG);
    assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, N("a/b"), S_IFREG, 0, &a), -EINVAL);
    assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, "a\0b", 3, S_IFREG, 0, &a), -EINVAL);
    assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, "", 0, S_IFREG, 0, &a), -EINVAL);
    assert_int_equal(fs_mkdir(fs, &me, FS_ID_ROOT, N("."), 0755, &a), -EEXIST);
    assert_int_equal(fs_mkdir(fs, &me, FS_ID_ROOT, N(".."), 0755, &a), -EEXIST);
    assert_int_equal(fs_rmdir(fs, FS_ID_ROOT, N(".")), -EINVAL);
    assert_int_equal(fs_rmdir(fs, FS_ID_ROOT, N("..")), -ENOTEMPTY);
    assert_int_equal(fs_unlink(fs, FS_ID_ROOT, N("..")), -EISDIR);
    assert_int_equal(rename_in(FS_ID_ROOT, ".", FS_ID_ROOT, "x", 0), -EBUSY);
    make(FS_ID_ROOT, "...", S_IFREG);
    make(FS_ID_ROOT, ".a", S_IFREG);
    check(4, 0);
}

static void test_setgid(void **arg)
{
    struct fs_attr set = {.mode = 02775, .gid = 77};
    (void)arg;
    fs_id dir = make(FS_ID_ROOT, "d", S_IFDIR | 0755);
    assert_int_equal(attr_of(make(dir, "before", S_IFREG)).gid, 2000);
    assert_int_equal(fs_setattr(fs, dir, FS_SET_MODE | FS_SET_GID, &set, NULL), 0);
    assert_int_equal(attr_of(make(dir, "file", S_IFREG)).gid, 77);
    fs_id sub = make(dir, "sub", S_IFDIR | 0755);
    assert_int_equal(attr_of(sub).mode, S_IFDIR | 02755);
    assert_int_equal(attr_of(sub).gid, 77);
    reopen();
    dir = find(FS_ID_ROOT, "d");
    assert_int_equal(attr_of(make(dir, "after", S_IFREG)).gid, 77);
    set.mode = 0755;
    assert_int_equal(fs_setattr(fs, dir, FS_SET_MODE, &set, NULL), 0);
    assert_int_equal(attr_of(make(dir, "last", S_IFREG)).gid, 2000);
}

static void test_symlink(void **arg)
{
    char target[FS_SYMLINK_MAX + 1], buf[5000];
    static const size_t sizes[] = {1, 10, 256, 257, 4000, FS_SYMLINK_MAX};
    struct fs_attr a;
    size_t len;
    (void)arg;
    memset(target, 't', sizeof(target));
    for (unsigned i = 0; i < 6; i++) {
        char name[2] = {(char)('a' + i), 0};
        assert_int_equal(fs_symlink(fs, &me, FS_ID_ROOT, N(name), target, sizes[i], &a), 0);
        assert_int_equal(a.mode, S_IFLNK | 0777);
        assert_int_equal(a.size, sizes[i]);
        assert_int_equal(fs_readlink(fs, a.id, buf, sizeof(buf), &len), 0);
        assert_int_equal(len, sizes[i]);
        assert_memory_equal(buf, target, len);
        assert_int_equal(fs_readlink(fs, a.id, buf, 1, &len), 0);
        assert_int_equal(len, sizes[i]);
    }
    assert_int_equal(fs_symlink(fs, &me, FS_ID_ROOT, N("x"), target, FS_SYMLINK_MAX + 1, &a), -ENAMETOOLONG);
    assert_int_equal(fs_symlink(fs, &me, FS_ID_ROOT, N("x"), target, 0, &a), -ENOENT);
    assert_int_equal(fs_readlink(fs, FS_ID_ROOT, buf, 10, &len), -EINVAL);
    assert_int_equal(fs_walk(fs, "/a/b", &a), -ELOOP);
    assert_int_equal(fs_walk(fs, "//a", &a), 0);
    check(7, 0);
}

static void test_link(void **arg)
{
    static const size_t sizes[] = {0, 100, 3000, 100000};
    struct fs_attr a;
    (void)arg;
    fs_id dir = make(FS_ID_ROOT, "d", S_IFDIR | 0755);
    assert_int_equal(fs_link(fs, dir, FS_ID_ROOT, N("x"), &a), -EPERM);
    for (unsigned i = 0; i < 4; i++) {
        fs_id file = make(FS_ID_ROOT, "one", S_IFREG | 0644);
        if (sizes[i])
            fill(file, 0, sizes[i], 'x');
        assert_int_equal(fs_link(fs, file, FS_ID_ROOT, N("one"), &a), -EEXIST);
        assert_int_equal(fs_link(fs, file, dir, N("two"), &a), 0);
        assert_int_equal(a.id, file);
        assert_int_equal(a.nlink, 2);
        assert_int_equal(fs_link(fs, file, FS_ID_ROOT, N("three"), &a), 0);
        assert_int_equal(a.nlink, 3);
        assert_int_equal(find(FS_ID_ROOT, "one"), file);
        assert_int_equal(find(dir, "two"), file);
        if (sizes[i])
            holds(file, 0, sizes[i], 'x');
        assert_int_equal(rename_in(FS_ID_ROOT, "one", FS_ID_ROOT, "three", 0), 0); /* does nothing */
        check(3, 0);
        assert_int_equal(fs_unlink(fs, FS_ID_ROOT, N("one")), 0);
        assert_int_equal(attr_of(file).nlink, 2);
        assert_int_equal(fs_unlink(fs, dir, N("two")), 0);
        check(3, 0);
        reopen();
        assert_int_equal(find(FS_ID_ROOT, "three"), file);
        if (sizes[i])
            holds(file, 0, sizes[i], 'x');
        assert_int_equal(fs_unlink(fs, FS_ID_ROOT, N("three")), 0);
        assert_int_equal(attr_of(file).nlink, 0);
        assert_int_equal(fs_link(fs, file, FS_ID_ROOT, N("back"), &a), -ENOENT);
        fs_forget(fs, file, 1);
        while (fs_work(fs))
            ;
        dir = find(FS_ID_ROOT, "d");
        check(2, 0);
    }
}

/* An unlinked file works on, whatever its contents become, and leaves nothing behind. */
static void test_unlinked(void **arg)
{
    static const size_t sizes[] = {0, 10, 3000, 5000, 100000};
    struct fs_attr a, set = {.mode = 0600, .size = 7};
    struct fs_stats stats;
    size_t len;
    char buf[10];
    (void)arg;
    for (unsigned i = 0; i < 5; i++) {
        fs_id file = make(FS_ID_ROOT, "f", S_IFREG | 0644);
        if (sizes[i])
            fill(file, 0, sizes[i], 'x');
        assert_int_equal(fs_setxattr(fs, file, "user.a", "b", 1, 0), 0);
        assert_int_equal(fs_unlink(fs, FS_ID_ROOT, N("f")), 0);
        assert_int_equal(missing(FS_ID_ROOT, "f"), -ENOENT);
        fs_stats_get(fs, &stats);
        assert_int_equal(stats.orphans, 1);
        assert_int_equal(attr_of(file).nlink, 0);
        assert_int_equal(attr_of(file).size, sizes[i]);
        if (sizes[i])
            holds(file, 0, sizes[i], 'x');
        check(sizes[i] > SMALL_MAX ? 2 : 1, sizes[i] > SMALL_MAX);
        fill(file, 50, 100, 'y');
        holds(file, 50, 100, 'y');
        fill(file, 20000, 100, 'z'); /* by now it has a record of its own */
        holds(file, 50, 100, 'y');
        holds(file, 20000, 100, 'z');
        check(2, 1);
        assert_int_equal(fs_setattr(fs, file, FS_SET_SIZE | FS_SET_MODE, &set, &a), 0);
        assert_int_equal(a.size, 7);
        assert_int_equal(attr_of(file).mode, S_IFREG | 0600);
        assert_int_equal(fs_setxattr(fs, file, "user.c", "d", 1, 0), 0);
        assert_int_equal(fs_getxattr(fs, file, "user.a", buf, sizeof(buf), &len), 0);
        assert_int_equal(len, 1);
        while (fs_work(fs))
            ;
        holds(file, 0, 5, sizes[i] ? 'x' : 0); /* the reaper leaves it alone while it is in use */
        fs_forget(fs, file, 1);
        assert_int_equal(fs_getattr(fs, file, &a), -ESTALE);
        while (fs_work(fs))
            ;
        check(1, 0);
        fs_stats_get(fs, &stats);
        assert_int_equal(stats.orphans, 0);
    }
    assert_int_equal(attr_of(FS_ID_ROOT).size, 0);
}

/* Orphans that were in use when the filesystem ended are removed by the next one. */
static void test_orphans_at_open(void **arg)
{
    (void)arg;
    for (unsigned i = 0; i < 20; i++) {
        char name[8];
        snprintf(name, sizeof(name), "f%u", i);
        fs_id file = make(FS_ID_ROOT, name, S_IFREG);
        for (unsigned k = 0; k < (i == 3 ? 300 : 2); k++)
            fill(file, (uint64_t)k << 17, 10, 'x');
        if (i % 2)
            fs_forget(fs, file, 1);
        assert_int_equal(fs_unlink(fs, FS_ID_ROOT, N(name)), 0);
    }
    check(21, 20);
    reopen();
    check(21, 20);
    unsigned steps = 0;
    while (fs_work(fs))
        steps++;
    assert_int_equal(steps, 20); /* one each, whatever their size */
    check(1, 0);
}

static void test_unlinked_large_xattr(void **arg)
{
    char big[5000], back[5000];
    size_t len;
    (void)arg;
    memset(big, 'v', sizeof(big));
    fs_id file = make(FS_ID_ROOT, "f", S_IFREG), dir = make(FS_ID_ROOT, "d", S_IFDIR | 0755);
    fs_id late = make(FS_ID_ROOT, "late", S_IFREG);
    assert_int_equal(fs_setxattr(fs, file, "user.big", big, sizeof(big), 0), 0);
    assert_int_equal(fs_setxattr(fs, dir, "user.big", big, sizeof(big), 0), 0);
    fill(file, 0, 3000, 'x'); /* small contents and an attribute that is not */
    check(4, 0);
    assert_int_equal(fs_unlink(fs, FS_ID_ROOT, N("f")), 0);
    assert_int_equal(fs_rmdir(fs, FS_ID_ROOT, N("d")), 0);
    assert_int_equal(fs_unlink(fs, FS_ID_ROOT, N("late")), 0);
    assert_int_equal(fs_setxattr(fs, late, "user.big", big, sizeof(big), 0), 0);
    fs_id all[3] = {file, dir, late};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(fs_getxattr(fs, all[i], "user.big", back, sizeof(back), &len), 0);
        assert_int_equal(len, sizeof(big));
    }
    holds(file, 0, 3000, 'x');
    check(4, 3);
    for (unsigned i = 0; i < 3; i++)
        fs_forget(fs, all[i], 1);
    while (fs_work(fs))
        ;
    check(1, 0);
}

static void test_rmdir(void **arg)
{
    struct fs_attr a;
    (void)arg;
    fs_id dir = make(FS_ID_ROOT, "d", S_IFDIR | 0755), sub = make(dir, "sub", S_IFDIR | 0755);
    assert_int_equal(fs_unlink(fs, FS_ID_ROOT, N("d")), -EISDIR);
    assert_int_equal(fs_rmdir(fs, FS_ID_ROOT, N("d")), -ENOTEMPTY);
    assert_int_equal(fs_rmdir(fs, FS_ID_ROOT, N("none")), -ENOENT);
    assert_int_equal(fs_rmdir(fs, dir, N("sub")), 0);
    assert_int_equal(attr_of(dir).nlink, 2);
    assert_int_equal(attr_of(sub).nlink, 0);
    assert_int_equal(fs_mknod(fs, &me, sub, N("x"), S_IFREG, 0, &a), -ENOENT);
    assert_int_equal(fs_lookup(fs, sub, N("x"), &a), -ENOENT);
    make(dir, "file", S_IFREG);
    assert_int_equal(fs_rmdir(fs, dir, N("file")), -ENOTDIR);
    assert_int_equal(rename_in(dir, "file", sub, "x", 0), -ENOENT);
    assert_int_equal(fs_setattr(fs, sub, FS_SET_MODE, &(struct fs_attr){.mode = 0}, &a), 0);
    assert_int_equal(attr_of(sub).mode, S_IFDIR);
    check(3, 0);
    fs_forget(fs, sub, 1);
    assert_int_equal(fs_getattr(fs, sub, &a), -ESTALE);
}

static void test_rename(void **arg)
{
    (void)arg;
    fs_id a = make(FS_ID_ROOT, "a", S_IFDIR | 0755), b = make(a, "b", S_IFDIR | 0755);
    fs_id c = make(b, "c", S_IFDIR | 0755), f = make(a, "f", S_IFREG), g = make(b, "g", S_IFREG);
    fill(f, 0, 3000, 'f');
    fill(g, 0, 2000, 'g');
    assert_int_equal(rename_in(FS_ID_ROOT, "a", c, "x", 0), -EINVAL);
    assert_int_equal(rename_in(FS_ID_ROOT, "a", a, "x", 0), -EINVAL);
    assert_int_equal(rename_in(a, "f", a, "b", 0), -EISDIR);
    assert_int_equal(rename_in(a, "b", a, "f", 0), -ENOTDIR);
    assert_int_equal(rename_in(FS_ID_ROOT, "none", a, "f", 0), -ENOENT);
    assert_int_equal(rename_in(a, "f", b, "g", RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(rename_in(a, "f", b, "none", RENAME_EXCHANGE), -ENOENT);
    assert_int_equal(rename_in(FS_ID_ROOT, "a", b, "c", RENAME_EXCHANGE), -EINVAL);
    assert_int_equal(rename_in(b, "c", FS_ID_ROOT, "a", 0), -ENOTEMPTY);
    assert_int_equal(rename_in(b, "c", FS_ID_ROOT, "a", RENAME_EXCHANGE), -EINVAL);
    assert_int_equal(rename_in(a, "f", a, "g", 8), -EINVAL);
    assert_int_equal(rename_in(a, "f", a, "g", RENAME_EXCHANGE | RENAME_NOREPLACE), -EINVAL);
    check(6, 0);

    assert_int_equal(rename_in(a, "f", b, "g", RENAME_EXCHANGE), 0);
    assert_int_equal(find(a, "f"), g);
    assert_int_equal(find(b, "g"), f);
    holds(f, 0, 3000, 'f');
    holds(g, 0, 2000, 'g');
    check(6, 0);

    assert_int_equal(rename_in(b, "g", a, "f", 0), 0); /* over g, which is in use */
    assert_int_equal(find(a, "f"), f);
    holds(g, 0, 2000, 'g');
    holds(f, 0, 3000, 'f');
    assert_int_equal(attr_of(g).nlink, 0);
    check(5, 0);

    assert_int_equal(rename_in(b, "c", FS_ID_ROOT, "c", 0), 0);
    assert_int_equal(attr_of(FS_ID_ROOT).nlink, 4);
    assert_int_equal(attr_of(b).nlink, 2);
    assert_int_equal(rename_in(FS_ID_ROOT, "a", c, "a", 0), 0); /* what was above is now below */
    assert_int_equal(rename_in(FS_ID_ROOT, "c", b, "c", 0), -EINVAL);
    make(FS_ID_ROOT, "e", S_IFDIR | 0755);
    assert_int_equal(rename_in(a, "b", FS_ID_ROOT, "e", RENAME_EXCHANGE), 0);
    assert_int_equal(find(FS_ID_ROOT, "e"), b);
    check(6, 0);

    assert_int_equal(rename_in(a, "f", a, "h", RENAME_WHITEOUT), 0);
    assert_int_equal(find(a, "h"), f);
    assert_int_equal(attr_of(find(a, "f")).mode, S_IFCHR);
    holds(f, 0, 3000, 'f');
    check(7, 0);
    reopen();
    a = find(find(FS_ID_ROOT, "c"), "a");
    assert_int_equal(find(a, "h"), f);
    holds(f, 0, 3000, 'f');
    assert_int_equal(fs_rmdir(fs, FS_ID_ROOT, N("e")), 0);
    assert_int_equal(rename_in(FS_ID_ROOT, "c", FS_ID_ROOT, "e", 0), 0);
    check(6, 0);
}

static void test_attributes(void **arg)
{
    struct fs_attr set = {.mode = 0123, .uid = 5, .gid = 6, .size = 100}, a;
    (void)arg;
    fs_id f = make(FS_ID_ROOT, "f", S_IFREG | 0644), dir = make(FS_ID_ROOT, "d", S_IFDIR | 0755);
    set.atime = (struct timespec){-5, 7};
    set.mtime = (struct timespec){INT64_C(9000000000), 999999999};
    unsigned all = FS_SET_MODE | FS_SET_UID | FS_SET_GID | FS_SET_SIZE | FS_SET_ATIME | FS_SET_MTIME;
    assert_int_equal(fs_setattr(fs, f, all, &set, &a), 0);
    assert_int_equal(a.mode, S_IFREG | 0123);
    assert_int_equal(a.uid, 5);
    assert_int_equal(a.gid, 6);
    assert_int_equal(a.size, 100);
    assert_int_equal(a.atime.tv_sec, -5);
    assert_int_equal(a.atime.tv_nsec, 7);
    assert_int_equal(a.mtime.tv_sec, INT64_C(9000000000));
    assert_true(a.ctime.tv_sec > 1000000);
    reopen();
    f = find(FS_ID_ROOT, "f");
    a = attr_of(f);
    assert_int_equal(a.atime.tv_sec, -5);
    assert_int_equal(a.mtime.tv_nsec, 999999999);
    dir = find(FS_ID_ROOT, "d");
    assert_int_equal(fs_setattr(fs, dir, FS_SET_SIZE, &set, &a), -EISDIR);
    assert_int_equal(fs_setattr(fs, make(FS_ID_ROOT, "p", S_IFIFO), FS_SET_SIZE, &set, &a), -EINVAL);
    struct fs_attr times = {.mtime = {3, 4}, .ctime = {5, 6}};
    assert_int_equal(fs_setattr(fs, dir, FS_SET_MTIME | FS_SET_CTIME, &times, &a), 0);
    assert_int_equal(a.ctime.tv_sec, 5);
    make(dir, "new", S_IFREG);
    assert_true(attr_of(dir).mtime.tv_sec > 1000000);
    set.atime.tv_nsec = 1000000000;
    assert_int_equal(fs_setattr(fs, f, FS_SET_ATIME, &set, &a), -EINVAL);
    set.size = UINT64_C(1) << 63;
    assert_int_equal(fs_setattr(fs, f, FS_SET_SIZE, &set, &a), -EFBIG);
}

static void test_suidgid(void **arg)
{
    static const struct {
        uint32_t before, after;
    } cases[] = {{06777, 0777}, {06766, 02766}, {02710, 0710}, {02700, 02700}, {04644, 0644}, {0755, 0755}};
    struct fs_attr set = {.size = 3, .uid = 5}, a;
    (void)arg;
    fs_id f = make(FS_ID_ROOT, "f", S_IFREG), dir = make(FS_ID_ROOT, "dir", S_IFDIR);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        set.mode = cases[i].before;
        for (unsigned how = 0; how < 3; how++) {
            assert_int_equal(fs_setattr(fs, f, FS_SET_MODE, &set, NULL), 0);
            if (how == 0)
                assert_int_equal(fs_write_unprivileged(fs, f, 0, "x", 1), 0);
            else
                assert_int_equal(
                    fs_setattr(fs, f, FS_SET_KILL_SUIDGID | (how == 1 ? FS_SET_SIZE : FS_SET_UID), &set, &a),
                    0);
            assert_int_equal(attr_of(f).mode & 07777, cases[i].after);
        }
        assert_int_equal(fs_setattr(fs, f, FS_SET_MODE, &set, NULL), 0);
        assert_int_equal(fs_write(fs, f, 0, "x", 1), 0);
        assert_int_equal(attr_of(f).mode & 07777, cases[i].before);
    }
    set.mode = 02777;
    assert_int_equal(fs_setattr(fs, dir, FS_SET_MODE, &set, NULL), 0);
    assert_int_equal(fs_setattr(fs, dir, FS_SET_KILL_SUIDGID | FS_SET_UID, &set, &a), 0);
    assert_int_equal(a.mode & 07777, 02777);
}

static void test_atime(void **arg)
{
    struct fs_attr set = {.atime = {100, 0}}, a;
    char buf[10];
    size_t got;
    (void)arg;
    fs_id f = make(FS_ID_ROOT, "f", S_IFREG | 0644);
    fill(f, 0, 10, 'x');
    assert_int_equal(fs_setattr(fs, f, FS_SET_ATIME | FS_SET_MTIME | FS_SET_CTIME, &set, NULL), 0);
    assert_int_equal(fs_read(fs, f, 0, buf, 10, &got), 0);
    a = attr_of(f);
    assert_true(a.atime.tv_sec > 1000000);
    assert_int_equal(fs_read(fs, f, 0, buf, 10, &got), 0);
    assert_int_equal(attr_of(f).atime.tv_nsec, a.atime.tv_nsec); /* newer than the others, and of today */
}

static void test_xattr(void **arg)
{
    char value[70000], back[70000], name[300], list[2000];
    struct fs_attr a;
    size_t len;
    (void)arg;
    memset(value, 'v', sizeof(value));
    fs_id f = make(FS_ID_ROOT, "f", S_IFREG | 0644);
    assert_int_equal(fs_getxattr(fs, f, "user.x", back, 10, &len), -ENODATA);
    assert_int_equal(fs_setxattr(fs, f, "user.x", "1", 1, XATTR_REPLACE), -ENODATA);
    assert_int_equal(fs_setxattr(fs, f, "user.x", "1", 1, XATTR_CREATE), 0);
    assert_int_equal(fs_setxattr(fs, f, "user.x", "1", 1, XATTR_CREATE), -EEXIST);
    assert_int_equal(fs_setxattr(fs, f, "user.", "1", 1, 0), -EINVAL);
    assert_int_equal(fs_setxattr(fs, f, "system.x", "1", 1, 0), -EOPNOTSUPP);
    assert_int_equal(fs_setxattr(fs, f, "other.x", "1", 1, 0), -EOPNOTSUPP);
    assert_int_equal(fs_setxattr(fs, f, "user.y", value, FS_XATTR_VALUE_MAX + 1, 0), -E2BIG);
    memset(name, 'n', sizeof(name));
    memcpy(name, "user.", 5);
    name[256] = 0;
    assert_int_equal(fs_setxattr(fs, f, name, "1", 1, 0), -ERANGE);
    name[255] = 0;
    assert_int_equal(fs_setxattr(fs, f, name, "1", 1, 0), 0);
    static const size_t sizes[] = {0, 1, 100, 128, 129, 1000, 65536, 5, 65536, 0};
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(fs_setxattr(fs, f, "security.s", value, sizes[i], 0), 0);
        assert_int_equal(fs_getxattr(fs, f, "security.s", back, sizeof(back), &len), 0);
        assert_int_equal(len, sizes[i]);
        assert_memory_equal(back, value, len);
        check(2, 0);
    }
    assert_int_equal(fs_getxattr(fs, f, name, back, 0, &len), 0);
    assert_int_equal(len, 1);
    assert_int_equal(fs_setxattr(fs, f, "user.x", "123", 3, 0), 0);
    assert_int_equal(fs_getxattr(fs, f, "user.x", back, 2, &len), -ERANGE);
    assert_int_equal(fs_listxattr(fs, f, list, sizeof(list), &len), 0);
    assert_int_equal(len, 7 + 11 + 256);
    assert_int_equal(fs_listxattr(fs, f, list, 0, &len), 0);
    assert_int_equal(fs_listxattr(fs, f, list, 10, &len), -ERANGE);
    assert_int_equal(fs_removexattr(fs, f, name), 0);
    assert_int_equal(fs_removexattr(fs, f, name), -ENODATA);
    check(2, 0);
    for (unsigned i = 0; i < 10; i++) { /* more small ones than fit the inode */
        snprintf(name, sizeof(name), "trusted.number%u", i);
        assert_int_equal(fs_setxattr(fs, f, name, value, 60, 0), 0);
    }
    reopen();
    f = find(FS_ID_ROOT, "f");
    for (unsigned i = 0; i < 10; i++) {
        snprintf(name, sizeof(name), "trusted.number%u", i);
        assert_int_equal(fs_getxattr(fs, f, name, back, 100, &len), 0);
        assert_int_equal(len, 60);
        assert_int_equal(fs_removexattr(fs, f, name), 0);
        check(2, 0);
    }
    assert_int_equal(fs_symlink(fs, &me, FS_ID_ROOT, N("l"), "t", 1, &a), 0);
    assert_int_equal(fs_setxattr(fs, a.id, "user.x", "1", 1, 0), -EPERM);
    assert_int_equal(fs_setxattr(fs, a.id, "trusted.x", "1", 1, 0), 0);
    assert_int_equal(fs_setxattr(fs, FS_ID_ROOT, "user.x", value, 1000, 0), 0);
    assert_int_equal(fs_setxattr(fs, FS_ID_ROOT, "user.y", value, 10, 0), 0);
    make(FS_ID_ROOT, "more", S_IFREG); /* a TOUCH keeps the attributes */
    assert_int_equal(fs_getxattr(fs, FS_ID_ROOT, "user.y", back, 100, &len), 0);
    check(4, 0);
}

static void test_truncate_many(void **arg)
{
    struct fs_attr set = {.size = 5}, a;
    uint64_t at;
    (void)arg;
    fs_id f = make(FS_ID_ROOT, "f", S_IFREG | 0644);
    for (unsigned k = 0; k < 600; k++)
        fill(f, (uint64_t)k << 17, 10, 'x');
    assert_int_equal(fs_setattr(fs, f, FS_SET_SIZE, &set, &a), 0);
    assert_int_equal(a.size, 5);
    assert_int_equal(a.blocks, 1);
    check(2, 0); /* nothing is pending */
    set.size = 600u << 17;
    assert_int_equal(fs_setattr(fs, f, FS_SET_SIZE, &set, &a), 0);
    assert_int_equal(fs_seek(fs, f, 5, SEEK_DATA, &at), -ENXIO);
    holds(f, 0, 5, 'x');
    holds(f, 5, 5, 0);
    for (unsigned k = 0; k < 600; k++)
        fill(f, (uint64_t)k << 17, 10, 'y');
    assert_int_equal(fs_fallocate(fs, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5, 700u << 17), 0);
    assert_int_equal(attr_of(f).size, 600u << 17);
    assert_int_equal(fs_seek(fs, f, 5, SEEK_DATA, &at), -ENXIO);
    assert_int_equal(fs_fallocate(fs, f, 0, 1u << 30, 10), 0);
    assert_int_equal(attr_of(f).size, (1u << 30) + 10);
    assert_int_equal(fs_fallocate(fs, f, FALLOC_FL_KEEP_SIZE, 1u << 31, 10), 0);
    assert_int_equal(attr_of(f).size, (1u << 30) + 10);
    assert_int_equal(fs_fallocate(fs, f, FALLOC_FL_ZERO_RANGE, 2, 1u << 31), 0);
    assert_int_equal(attr_of(f).size, (UINT64_C(1) << 31) + 2);
    holds(f, 0, 2, 'y');
    holds(f, 2, 100, 0);
    assert_int_equal(fs_fallocate(fs, f, FALLOC_FL_PUNCH_HOLE, 0, 1), -EOPNOTSUPP);
    assert_int_equal(fs_fallocate(fs, f, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), -EOPNOTSUPP);
    check(2, 0);
}

/* A crash between the steps of a truncation: the record is there, and the next open goes on. */
static void test_truncate_pending(void **arg)
{
    struct lsm_batch *batch;
    struct inode_home home = {.kind = HOME_OWN};
    uint8_t value[TRUNCATE_BYTES];
    struct fs_attr a;
    (void)arg;
    fs_id f = make(FS_ID_ROOT, "f", S_IFREG | 0644);
    fill(f, 0, 100000, 'x');
    assert_int_equal(fs_link(fs, f, FS_ID_ROOT, N("g"), &a), 0);
    /* As data_truncate leaves it: size set, extents beyond it. */
    struct key own = key_plain(f, KEY_INODE);
    struct lsm_value v = {0};
    struct inode ino;
    uint8_t record[1000];
    assert_int_equal(lsm_get(fs_lsm(fs), own.bytes, own.len, NULL, 0, &v), 0);
    assert_int_equal(record_inode_decode(v.data, v.len, &ino), 0);
    ino.attr.size = 70000;
    size_t len = record_inode_encode(&ino, record);
    lsm_value_release(&v);
    assert_int_equal(lsm_batch_new(&batch), 0);
    lsm_batch_put(batch, own.bytes, own.len, record, len);
    record_truncate_encode(&home, value);
    struct key pending = key_u64(id_orphans(id_vshard(f) % 4), KEY_TRUNCATE, f);
    lsm_batch_put(batch, pending.bytes, pending.len, value, sizeof(value));
    assert_int_equal(lsm_commit(fs_lsm(fs), batch, 0), 0);
    lsm_batch_free(batch);
    reopen();
    check(2, 0);
    f = find(FS_ID_ROOT, "f");
    assert_int_equal(fs_setattr(fs, f, FS_SET_SIZE, &(struct fs_attr){.size = 100000}, &a), 0);
    holds(f, 0, 70000, 'x');
    holds(f, 70000, 30000, 0);
}

/*
 * A pending truncation that can't be finished because an extent is damaged: the store opens, the file can't grow
 * (old bytes would come back), and emptying it, which reads no extent, makes it whole.
 */
static void test_truncate_stuck(void **arg)
{
    struct inode_home home = {.kind = HOME_OWN};
    struct fs_attr a, set = {.size = 100000};
    struct lsm_value v = {0};
    struct inode ino;
    uint8_t value[TRUNCATE_BYTES], record[1000];
    (void)arg;
    fs_id f = make(FS_ID_ROOT, "f", S_IFREG | 0644);
    fill(f, 0, 100000, 'x');
    assert_int_equal(fs_link(fs, f, FS_ID_ROOT, N("g"), &a), 0);
    struct key own = key_plain(f, KEY_INODE),
               pending = key_u64(id_orphans(id_vshard(f) % 4), KEY_TRUNCATE, f);
    struct key extent = key_u64(f, KEY_EXTENT, 100000);
    assert_int_equal(lsm_get(fs_lsm(fs), own.bytes, own.len, NULL, 0, &v), 0);
    assert_int_equal(record_inode_decode(v.data, v.len, &ino), 0);
    ino.attr.size = 70000;
    size_t len = record_inode_encode(&ino, record);
    lsm_value_release(&v);
    record_truncate_encode(&home, value);
    assert_int_equal(lsm_put(fs_lsm(fs), own.bytes, own.len, record, len, 0), 0);
    assert_int_equal(lsm_put(fs_lsm(fs), pending.bytes, pending.len, value, sizeof(value), 0), 0);
    assert_int_equal(lsm_put(fs_lsm(fs), extent.bytes, extent.len, "bad", 3, 0), 0);
    last_log[0] = 0;
    reopen();
    assert_non_null(strstr(last_log, "truncation"));
    f = find(FS_ID_ROOT, "f");
    holds(f, 0, 60000, 'x');
    assert_int_equal(fs_setattr(fs, f, FS_SET_SIZE, &set, &a), -EIO);
    assert_int_equal(fs_write(fs, f, 90000, "y", 1), -EIO);
    assert_int_equal(fs_fallocate(fs, f, 0, 0, 90000), -EIO);
    assert_int_equal(attr_of(f).size, 70000);
    fill(f, 0, 10, 'y'); /* within its size it works on */
    fs_id other = make(FS_ID_ROOT, "other", S_IFREG | 0644);
    fill(other, 0, 10000, 'z'); /* and others do not notice */
    set.size = 0;
    assert_int_equal(fs_setattr(fs, f, FS_SET_SIZE, &set, &a), 0);
    set.size = 100000;
    assert_int_equal(fs_setattr(fs, f, FS_SET_SIZE, &set, &a), 0);
    holds(f, 0, 100000, 0);
    check(3, 0); /* the record is gone */
}

/* ---- readdir ---- */

struct list {
    char name[600][8];
    uint64_t next[600];
    fs_id id[600];
    size_t count, limit;
};

static bool on_entry(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct list *l = arg;
    if (l->count == l->limit)
        return false;
    assert_true(len < 8 && next > 0 && next <= INT64_MAX);
    memcpy(l->name[l->count], name, len);
    l->name[l->count][len] = 0;
    l->id[l->count] = attr->id;
    assert_true(attr->mode & S_IFMT);
    l->next[l->count++] = next;
    return true;
}

static void test_readdir(void **arg)
{
    static struct list all, part;
    struct fs_stats stats;
    char name[8];
    (void)arg;
    fs_id dir = make(FS_ID_ROOT, "d", S_IFDIR | 0755);
    for (unsigned i = 0; i < 500; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        fs_id id = make(dir, name, i % 10 ? S_IFREG | 0644 : S_IFDIR | 0755);
        fs_forget(fs, id, 1);
    }
    memset(&all, 0, sizeof(all));
    all.limit = 600;
    assert_int_equal(fs_readdir(fs, dir, 0, false, on_entry, &all), 0);
    assert_int_equal(all.count, 502);
    assert_string_equal(all.name[0], ".");
    assert_string_equal(all.name[1], "..");
    assert_int_equal(all.id[0], dir);
    assert_int_equal(all.id[1], FS_ID_ROOT);
    for (size_t i = 1; i < all.count; i++)
        assert_true(all.next[i] > all.next[i - 1]);
    for (size_t from = 0; from < all.count; from += 7) { /* from anywhere, in pieces, with attributes */
        memset(&part, 0, sizeof(part));
        part.limit = 5;
        assert_int_equal(fs_readdir(fs, dir, from ? all.next[from - 1] : 0, true, on_entry, &part), 0);
        assert_true(part.count == 5 || from + part.count == all.count);
        for (size_t k = 0; k < part.count; k++) {
            assert_string_equal(part.name[k], all.name[from + k]);
            assert_int_equal(part.next[k], all.next[from + k]);
            if (from + k > 1)
                fs_forget(fs, part.id[k], 1);
        }
    }
    fs_stats_get(fs, &stats);
    assert_int_equal(stats.inodes, 2);          /* root and dir */
    for (size_t i = 2; i < all.count; i += 2) { /* positions survive removals, also of their own entry */
        if (fs_unlink(fs, dir, N(all.name[i])) == -EISDIR)
            assert_int_equal(fs_rmdir(fs, dir, N(all.name[i])), 0);
    }
    memset(&part, 0, sizeof(part));
    part.limit = 600;
    assert_int_equal(fs_readdir(fs, dir, all.next[100], false, on_entry, &part), 0);
    assert_int_equal(part.count, 201);
    assert_string_equal(part.name[0], all.name[101]);
    assert_int_equal(fs_readdir(fs, dir, INT64_MAX, false, on_entry, &part), 0);
    assert_int_equal(part.count, 201);
    check(252, 0);
    fs_id sub = make(FS_ID_ROOT, "gone", S_IFDIR | 0755);
    assert_int_equal(fs_rmdir(fs, FS_ID_ROOT, N("gone")), 0);
    memset(&part, 0, sizeof(part));
    part.limit = 10;
    assert_int_equal(fs_readdir(fs, sub, 0, false, on_entry, &part), 0);
    assert_int_equal(part.count, 0);

    /* What is no directory is not read by it. (prove_fs long:0x5b3c57fbd96cbe14) */
    struct fs_attr old = {.atime = {100, 0}};
    fs_id f = make(FS_ID_ROOT, "plain", S_IFREG | 0644);
    assert_int_equal(fs_setattr(fs, f, FS_SET_ATIME, &old, NULL), 0);
    assert_int_equal(fs_readdir(fs, f, 0, false, on_entry, &part), -ENOTDIR);
    assert_int_equal(attr_of(f).atime.tv_sec, 100);
}

static void test_full_bucket(void **arg)
{
    struct fs_attr a;
    char name[8];
    int r = 0;
    (void)arg;
    hash_bits = 1;
    reopen();
    unsigned made = 0, refused = 0;
    for (unsigned i = 0; i < 150; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        r = fs_mknod(fs, &me, FS_ID_ROOT, N(name), S_IFREG, 0, &a);
        assert_true(r == 0 || r == -ENOSPC);
        made += r == 0;
        refused += r != 0;
    }
    assert_true(made <= 128 && refused >= 22);
    check(made + 1, 0);
}

/* ---- the store as a whole ---- */

static void test_foreign_store(void **arg)
{
    struct lsm_options o = {.flags = LSM_CREATE | LSM_INLINE, .shards = 2, .env = env};
    struct fs_options fo = options_of(LSM_CREATE | LSM_INLINE);
    struct fs *other = NULL;
    struct lsm *db;
    (void)arg;
    assert_int_equal(lsm_open("/plain", &o, &db), 0);
    assert_int_equal(lsm_put(db, "key", 3, "value", 5, 0), 0);
    assert_int_equal(lsm_close(db), 0);
    last_log[0] = 0;
    assert_int_equal(fs_open("/plain", &fo, &other), -EMEDIUMTYPE);
    assert_non_null(strstr(last_log, "/plain"));
    fo.lsm.flags = LSM_INLINE;
    assert_int_equal(fs_open("/none", &fo, &other), -ENOENT);
}

static void test_features(void **arg)
{
    struct fs_options o = options_of(LSM_INLINE);
    struct key key = key_plain(ID_SUPER, KEY_SUPER);
    struct super super;
    struct lsm_value v = {0};
    uint8_t bytes[SUPER_BYTES];
    (void)arg;
    make(FS_ID_ROOT, "f", S_IFREG);
    assert_int_equal(lsm_get(fs_lsm(fs), key.bytes, key.len, NULL, 0, &v), 0);
    assert_int_equal(record_super_decode(v.data, v.len, &super), 0);
    lsm_value_release(&v);
    super.compat = super.ro_compat = 1;
    record_super_encode(&super, bytes);
    assert_int_equal(lsm_put(fs_lsm(fs), key.bytes, key.len, bytes, sizeof(bytes), 0), 0);
    assert_int_equal(fs_close(fs), 0);
    fs = NULL;
    assert_int_equal(fs_open("/store", &o, &fs), -ENOTSUP);
    o.lsm.flags |= LSM_RDONLY;
    assert_int_equal(fs_open("/store", &o, &fs), 0);
    struct fs_attr a;
    assert_int_equal(fs_lookup(fs, FS_ID_ROOT, N("f"), &a), 0);
    assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, N("x"), S_IFREG, 0, &a), -EROFS);
    assert_int_equal(fs_unlink(fs, FS_ID_ROOT, N("f")), -EROFS);
    assert_int_equal(rename_in(FS_ID_ROOT, "f", FS_ID_ROOT, "g", 0), -EROFS);
    assert_int_equal(fs_link(fs, a.id, FS_ID_ROOT, N("g"), &a), -EROFS);
    assert_int_equal(fs_write(fs, a.id, 0, "x", 1), -EROFS);
    assert_int_equal(fs_setattr(fs, a.id, FS_SET_MODE, &a, NULL), -EROFS);
    assert_int_equal(fs_setxattr(fs, a.id, "user.x", "", 0, 0), -EROFS);
    assert_int_equal(fs_removexattr(fs, a.id, "user.x"), -EROFS);
    assert_int_equal(fs_sync(fs), 0);
}

static uint64_t incompat_now(void)
{
    struct key key = key_plain(ID_SUPER, KEY_SUPER);
    struct super super;
    struct lsm_value v = {0};
    assert_int_equal(lsm_get(fs_lsm(fs), key.bytes, key.len, NULL, 0, &v), 0);
    assert_int_equal(record_super_decode(v.data, v.len, &super), 0);
    lsm_value_release(&v);
    return super.incompat;
}

/* A store says so before it has what release 0.1 would not read; until then it stays one of that. */
static void test_feature_named(void **arg)
{
    struct fs_options o = options_of(LSM_INLINE);
    static uint8_t bytes[128 << 10], got_bytes[sizeof bytes];
    size_t got;
    (void)arg;
    fs_id f = make(FS_ID_ROOT, "f", S_IFREG);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251);
    assert_int_equal(fs_write(fs, f, 0, bytes, sizeof bytes), 0);
    assert_int_equal(incompat_now(), 0);
    fs_nowait(true);
    assert_int_equal(fs_write(fs, f, 40000, "small", 5), -EAGAIN);
    fs_nowait(false);
    assert_int_equal(incompat_now(), 0);
    assert_int_equal(fs_write(fs, f, 40000, "small", 5), 0);
    memcpy(bytes + 40000, "small", 5);
    assert_int_equal(incompat_now(), SUPER_INCOMPAT_PARTS);
    for (unsigned round = 0; round < 2; round++) {
        struct fs_attr a;
        assert_int_equal(fs_read(fs, f, 0, got_bytes, sizeof got_bytes, &got), 0);
        assert_int_equal(got, sizeof got_bytes);
        assert_memory_equal(bytes, got_bytes, sizeof bytes);
        if (round)
            break;
        assert_int_equal(fs_close(fs), 0);
        fs = NULL;
        assert_int_equal(fs_open("/store", &o, &fs), 0);
        assert_int_equal(fs_lookup(fs, FS_ID_ROOT, N("f"), &a), 0);
    }
    fs_nowait(true); /* once in a store's life */
    assert_int_equal(fs_write(fs, f, 90000, "small", 5), 0);
    fs_nowait(false);
}

static void test_damage(void **arg)
{
    struct fs_attr a;
    (void)arg;
    fs_id dir = make(FS_ID_ROOT, "d", S_IFDIR | 0755);
    make(FS_ID_ROOT, "fine", S_IFREG);
    struct key key = key_plain(dir, KEY_DIR);
    assert_int_equal(lsm_put(fs_lsm(fs), key.bytes, key.len, "damage", 6, 0), 0);
    last_log[0] = 0;
    assert_int_equal(fs_getattr(fs, dir, &a), -EIO);
    assert_non_null(strstr(last_log, "damaged"));
    assert_int_equal(fs_lookup(fs, FS_ID_ROOT, N("d"), &a), -EIO);
    assert_int_equal(fs_lookup(fs, FS_ID_ROOT, N("fine"), &a), 0);
    static struct list l;
    struct fs_stats before, after;
    fs_stats_get(fs, &before);
    l.limit = 10;
    assert_int_equal(fs_readdir(fs, FS_ID_ROOT, 0, true, on_entry, &l), 0);
    assert_int_equal(l.count, 4); /* the names, with that of the damaged one */
    fs_stats_get(fs, &after);
    assert_int_equal(after.inodes, before.inodes);
}

static void test_cold(void **arg)
{
    struct fs_cold cold[10];
    struct fs_space space;
    (void)arg;
    make(FS_ID_ROOT, "d", S_IFDIR | 0755);
    fs_id f = make(FS_ID_ROOT, "file", S_IFREG);
    fs_cold_inodes(fs, cold, 10);
    assert_int_equal(fs_cold_inodes(fs, cold, 10), 1);
    assert_string_equal(cold[0].name, "file");
    assert_int_equal(cold[0].parent, FS_ID_ROOT);
    attr_of(f);
    assert_int_equal(fs_cold_inodes(fs, cold, 10), 0);
    assert_int_equal(fs_statfs(fs, &space), 0);
    assert_true(space.free_bytes <= space.total_bytes);
}

/* ---- many threads ---- */

#define THREADS 4
#define DIRS 3
#define STRESS_SECONDS 2

static fs_id stress_dir[DIRS];
static bool stress_stop;
static uint64_t stress_seed, stress_done;

/*
 * How often each kind of call worked. A workload whose directories only fill up ends in a state where every
 * name is a directory that can't be removed, and tests nothing any more: so this is asserted.
 */
enum stress_kind { MADE, MADE_DIR, LINKED, UNLINKED, REMOVED_DIR, RENAMED, LOOKED_UP, STRESS_KINDS };
static const char *const stress_names[STRESS_KINDS] = {"mknod", "mkdir",  "link",  "unlink",
                                                       "rmdir", "rename", "lookup"};
static uint64_t stress_worked[STRESS_KINDS];

static void count_if(enum stress_kind kind, int r)
{
    if (r == 0)
        __atomic_fetch_add(&stress_worked[kind], 1, __ATOMIC_RELAXED);
}

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void expect_one_of(const char *what, int r, const int *allowed)
{
    for (; *allowed; allowed++)
        if (r == *allowed)
            return;
    if (r == 0)
        return;
    fprintf(stderr, "%s: unexpected %d\n", what, r);
    abort();
}

#define EXPECT(what, r, ...) expect_one_of(what, r, (const int[]){__VA_ARGS__, 0})

static bool drop_entry(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    uint64_t *ids = arg; /* ids[0]: how many follow */
    (void)name;
    (void)next;
    if (name[0] == '.' && len <= 2)
        return true;
    if (ids[0] == 30)
        return false;
    ids[++ids[0]] = attr->id;
    return true;
}

/* Empties a directory as far as others let us. */
static void stress_empty(fs_id dir)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f"};
    for (unsigned i = 0; i < 6; i++) {
        int r = fs_unlink(fs, dir, N(names[i]));
        EXPECT("unlink below", r, -ENOENT, -EISDIR, -ENOTDIR);
        count_if(UNLINKED, r);
        r = fs_rmdir(fs, dir, N(names[i]));
        EXPECT("rmdir below", r, -ENOENT, -ENOTDIR, -ENOTEMPTY);
        count_if(REMOVED_DIR, r);
    }
}

/* Something with an inode that is referenced but perhaps has no name any more. */
static void stress_inode(uint64_t *s, const struct fs_attr *a, fs_id dir, const char *name)
{
    static const size_t sizes[] = {10, 300, 5000, 70000};
    static char data[70000];
    char *buf = malloc(sizeof(data));
    struct fs_attr out;
    size_t got, size = sizes[next_random(s) % 4];
    int r;

    if (S_ISDIR(a->mode) && next_random(s) % 2) {
        stress_empty(a->id);
        free(buf);
        return;
    }
    switch (next_random(s) % 7) {
    case 0: EXPECT("write", fs_write(fs, a->id, next_random(s) % 5000, data, size), -EISDIR, -EINVAL); break;
    case 1: EXPECT("read", fs_read(fs, a->id, 0, buf, size, &got), -EISDIR, -EINVAL); break;
    case 2: EXPECT("getattr", fs_getattr(fs, a->id, &out), -1000); break;
    case 3:
        out = (struct fs_attr){.size = next_random(s) % 10000, .mode = 0600};
        r = fs_setattr(fs, a->id, next_random(s) % 2 ? FS_SET_SIZE : FS_SET_MODE, &out, NULL);
        EXPECT("setattr", r, -EISDIR, -EINVAL);
        break;
    case 4:
        r = fs_link(fs, a->id, dir, N(name), &out);
        EXPECT("link", r, -EPERM, -EEXIST, -ENOENT);
        count_if(LINKED, r);
        if (r == 0)
            fs_forget(fs, a->id, 1);
        break;
    case 5: EXPECT("setxattr", fs_setxattr(fs, a->id, "trusted.t", data, size % 4000, 0), -1000); break;
    case 6: EXPECT("removexattr", fs_removexattr(fs, a->id, "trusted.t"), -ENODATA); break;
    }
    free(buf);
}

static void stress_step(uint64_t *s)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f"};
    fs_id dir = stress_dir[next_random(s) % DIRS], to = stress_dir[next_random(s) % DIRS];
    const char *name = names[next_random(s) % 6], *other = names[next_random(s) % 6];
    uint64_t ids[32] = {0};
    struct fs_attr a;
    int r;

    switch (next_random(s) % 12) {
    case 0:
    case 1:
        r = fs_mknod(fs, &me, dir, N(name), S_IFREG | 0644, 0, &a);
        EXPECT("mknod", r, -EEXIST);
        count_if(MADE, r);
        if (r == 0)
            fs_forget(fs, a.id, 1);
        break;
    case 2:
        r = fs_mkdir(fs, &me, dir, N(name), 0755, &a);
        EXPECT("mkdir", r, -EEXIST);
        count_if(MADE_DIR, r);
        if (r == 0) {
            struct fs_attr inner;
            r = fs_mkdir(fs, &me, a.id, N(other), 0755, &inner);
            EXPECT("mkdir below", r, -EEXIST, -ENOENT);
            count_if(MADE_DIR, r);
            if (r == 0) {
                stress_inode(s, &inner, to, other);
                fs_forget(fs, inner.id, 1);
            }
            fs_forget(fs, a.id, 1);
        }
        break;
    case 3:
        r = fs_unlink(fs, dir, N(name));
        EXPECT("unlink", r, -ENOENT, -EISDIR);
        count_if(UNLINKED, r);
        break;
    case 4:
        r = fs_rmdir(fs, dir, N(name));
        EXPECT("rmdir", r, -ENOENT, -ENOTDIR, -ENOTEMPTY);
        count_if(REMOVED_DIR, r);
        break;
    case 5:
    case 6: {
        static const unsigned flags[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT};
        r = rename_in(dir, name, to, other, flags[next_random(s) % 5]);
        EXPECT("rename", r, -ENOENT, -EEXIST, -ENOTDIR, -EISDIR, -ENOTEMPTY, -EINVAL);
        count_if(RENAMED, r);
        break;
    }
    case 7:
        EXPECT("readdir", fs_readdir(fs, dir, 0, true, drop_entry, ids), -1000);
        for (uint64_t i = 1; i <= ids[0]; i++)
            fs_forget(fs, ids[i], 1);
        break;
    default:
        r = fs_lookup(fs, dir, N(name), &a);
        EXPECT("lookup", r, -ENOENT);
        count_if(LOOKED_UP, r);
        if (r == 0) {
            stress_inode(s, &a, to, other);
            stress_inode(s, &a, to, other);
            fs_forget(fs, a.id, 1);
        }
    }
}

static void *stress_thread(void *arg)
{
    uint64_t s = stress_seed + (uintptr_t)arg * 7919, n = 0;
    while (!__atomic_load_n(&stress_stop, __ATOMIC_RELAXED)) {
        stress_step(&s);
        n++;
    }
    __atomic_fetch_add(&stress_done, n, __ATOMIC_RELAXED);
    return NULL;
}

/* Removes everything below a directory; there may be directories in it. */
static void remove_below(fs_id dir)
{
    static struct list l;
    do {
        memset(&l, 0, sizeof(l));
        l.limit = 100;
        assert_int_equal(fs_readdir(fs, dir, 2, false, on_entry, &l), 0);
        size_t count = l.count;
        for (size_t i = 0; i < count; i++) {
            char name[8];
            struct fs_attr a;
            struct list saved;
            memcpy(name, l.name[i], 8);
            if (fs_unlink(fs, dir, N(name)) == 0)
                continue;
            assert_int_equal(fs_lookup(fs, dir, N(name), &a), 0);
            saved = l;
            remove_below(a.id);
            l = saved;
            assert_int_equal(fs_rmdir(fs, dir, N(name)), 0);
            fs_forget(fs, a.id, 1);
        }
        l.count = count;
    } while (l.count > 0);
}

static void test_stress(void **arg)
{
    pthread_t thread[THREADS];
    struct fs_stats stats;
    size_t inodes, orphans;
    (void)arg;
    assert_int_equal(fs_close(fs), 0);
    hash_bits = stress_seed % 2 ? 1 : 0;
    struct fs_options o = options_of(0);
    assert_int_equal(fs_open("/store", &o, &fs), 0);
    stress_dir[0] = FS_ID_ROOT;
    stress_dir[1] = make(FS_ID_ROOT, "x", S_IFDIR | 0755);
    stress_dir[2] = make(stress_dir[1], "y", S_IFDIR | 0755);
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, stress_thread, (void *)i);
    sleep(STRESS_SECONDS);
    __atomic_store_n(&stress_stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    printf("%llu operations, of which worked:", (unsigned long long)stress_done);
    for (unsigned i = 0; i < STRESS_KINDS; i++)
        printf(" %s %llu", stress_names[i], (unsigned long long)stress_worked[i]);
    printf("\n");
    for (unsigned i = 0; i < STRESS_KINDS; i++)
        assert_true(stress_worked[i] >= stress_done / 200);
    fs_stats_get(fs, &stats);
    assert_int_equal(stats.inodes, DIRS); /* every reference was given back, but those on the directories */
    assert_int_equal(check_store(fs_lsm(fs), &inodes, &orphans), 0);
    reopen(); /* forgets all references */
    assert_int_equal(check_store(fs_lsm(fs), &inodes, &orphans), 0);
    remove_below(FS_ID_ROOT);
    while (fs_work(fs))
        ;
    assert_int_equal(check_store(fs_lsm(fs), &inodes, &orphans), 0);
    assert_int_equal(inodes, 1);
    assert_int_equal(orphans, 0);
    fs_stats_get(fs, &stats);
    assert_int_equal(stats.inodes, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_create),
        TEST(test_names),
        TEST(test_setgid),
        TEST(test_symlink),
        TEST(test_link),
        TEST(test_unlinked),
        TEST(test_orphans_at_open),
        TEST(test_unlinked_large_xattr),
        TEST(test_rmdir),
        TEST(test_rename),
        TEST(test_attributes),
        TEST(test_suidgid),
        TEST(test_atime),
        TEST(test_xattr),
        TEST(test_truncate_many),
        TEST(test_truncate_pending),
        TEST(test_truncate_stuck),
        TEST(test_readdir),
        TEST(test_full_bucket),
        TEST(test_foreign_store),
        TEST(test_features),
        TEST(test_feature_named),
        TEST(test_damage),
        TEST(test_cold),
        TEST(test_stress),
    };
    const char *given = getenv("SHALE_SEED");
    stress_seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    printf("replay: SHALE_SEED=%llu test_namespace\n", (unsigned long long)stress_seed);
    return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
