/*
 * test_acl.c - ACLs: what is one, how it and the mode go together, what new inodes get, small and large ones.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "acl.h"
#include "coding.h"
#include "env.h"
#include "store_check.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

enum { U = 1, USER = 2, G = 4, GROUP = 8, M = 16, O = 32 };
#define NOBODY UINT32_MAX

struct acl {
    uint8_t bytes[ACL_BYTES_MAX + 64];
    size_t len;
};

static struct env *env;
static struct fs *fs;

static void start(void)
{
    struct fs_options o = {
        .lsm = {.flags = LSM_CREATE | LSM_INLINE, .shards = 4, .memory_bytes = 32u << 20, .env = env}};
    assert_int_equal(fs_open("/store", &o, &fs), 0);
}

static int setup(void **arg)
{
    (void)arg;
    env = env_mem_new();
    assert_non_null(env);
    start();
    return 0;
}

static int teardown(void **arg)
{
    size_t inodes, orphans;
    (void)arg;
    assert_int_equal(check_store(fs_lsm(fs), &inodes, &orphans), 0);
    assert_int_equal(fs_close(fs), 0);
    env_mem_free(env);
    return 0;
}

static void reopen(void)
{
    assert_int_equal(fs_close(fs), 0);
    start();
}

/* ---- building ---- */

static void begin(struct acl *a)
{
    put_le32(a->bytes, 2);
    a->len = 4;
}

static void add(struct acl *a, unsigned tag, unsigned perm, uint32_t id)
{
    put_le16(a->bytes + a->len, (uint16_t)tag);
    put_le16(a->bytes + a->len + 2, (uint16_t)perm);
    put_le32(a->bytes + a->len + 4, id);
    a->len += 8;
}

/* user, named users, group, mask, other */
static struct acl acl(unsigned user, unsigned named, unsigned group, unsigned mask, unsigned other)
{
    struct acl a;
    begin(&a);
    add(&a, U, user, NOBODY);
    for (unsigned i = 0; i < named; i++)
        add(&a, USER, 7, 100 + i);
    add(&a, G, group, NOBODY);
    if (named)
        add(&a, M, mask, NOBODY);
    add(&a, O, other, NOBODY);
    return a;
}

static fs_id made(fs_id dir, const char *name, uint32_t mode, uint32_t umask, uint32_t *got)
{
    const struct fs_caller me = {.uid = 1, .gid = 2, .umask = umask};
    struct fs_attr attr;
    if (S_ISDIR(mode))
        assert_int_equal(fs_mkdir(fs, &me, dir, name, strlen(name), mode, &attr), 0);
    else if (S_ISLNK(mode))
        assert_int_equal(fs_symlink(fs, &me, dir, name, strlen(name), "x", 1, &attr), 0);
    else
        assert_int_equal(fs_mknod(fs, &me, dir, name, strlen(name), mode, 0, &attr), 0);
    *got = attr.mode & 07777;
    return attr.id;
}

static uint32_t mode_of(fs_id id)
{
    struct fs_attr attr;
    assert_int_equal(fs_getattr(fs, id, &attr), 0);
    return attr.mode & 07777;
}

static void chmod_to(fs_id id, uint32_t mode)
{
    struct fs_attr attr = {.mode = mode};
    assert_int_equal(fs_setattr(fs, id, FS_SET_MODE, &attr, NULL), 0);
}

static int set(fs_id id, const char *name, const struct acl *a)
{
    return fs_setxattr(fs, id, name, a->bytes, a->len, 0);
}

static void expect(fs_id id, const char *name, const struct acl *want)
{
    uint8_t got[ACL_BYTES_MAX];
    size_t len = 0, asked = 0;
    int r = fs_getxattr(fs, id, name, got, sizeof(got), &len);
    assert_int_equal(r, want ? 0 : -ENODATA);
    if (!want)
        return;
    assert_int_equal(len, want->len);
    assert_memory_equal(got, want->bytes, len);
    assert_int_equal(fs_getxattr(fs, id, name, NULL, 0, &asked), 0);
    assert_int_equal(asked, len);
}

/* ---- tests ---- */

static void test_check(void **arg)
{
    struct acl a = acl(7, 2, 5, 6, 1);
    (void)arg;
    assert_int_equal(acl_check(a.bytes, a.len), 0);
    assert_int_equal(acl_mode(a.bytes, a.len), 0761);
    assert_false(acl_is_minimal(a.len));
    for (size_t len = 1; len < a.len; len++) /* cut anywhere, it is none */
        assert_int_equal(acl_check(a.bytes, len), len == 4 ? 0 : -EINVAL);
    assert_true(acl_is_empty(0) && acl_is_empty(4));
    for (size_t i = 0; i < 4; i++) {
        struct acl other = a;
        other.bytes[i] ^= 1;
        assert_int_equal(acl_check(other.bytes, other.len), -EOPNOTSUPP);
    }
    struct acl plain = acl(6, 0, 4, 0, 2);
    assert_int_equal(acl_check(plain.bytes, plain.len), 0);
    assert_true(acl_is_minimal(plain.len));
    assert_int_equal(acl_mode(plain.bytes, plain.len), 0642);
    struct acl full = acl(7, ACL_ENTRIES_MAX - 4, 7, 7, 7);
    assert_int_equal(full.len, ACL_BYTES_MAX);
    assert_int_equal(acl_check(full.bytes, full.len), 0);
    full = acl(7, ACL_ENTRIES_MAX - 3, 7, 7, 7);
    assert_int_equal(acl_check(full.bytes, full.len), -E2BIG);
}

static void test_order(void **arg)
{
    static const struct {
        unsigned tags[8];
        bool good;
    } cases[] = {
        {{U, G, O}, true},
        {{U, G, M, O}, true},
        {{U, USER, G, GROUP, GROUP, M, O}, true},
        {{G, O}, false},
        {{U, O}, false},
        {{U, G}, false},
        {{U, U, G, O}, false},
        {{U, G, G, O}, false},
        {{U, G, O, O}, false},
        {{U, G, M, M, O}, false},
        {{U, USER, G, O}, false}, /* no mask */
        {{U, G, GROUP, O}, false},
        {{U, G, USER, M, O}, false},
        {{USER, U, G, M, O}, false},
        {{U, G, O, M}, false},
        {{U, 3, G, O}, false},
        {{U, G, O, 64}, false},
    };
    (void)arg;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct acl a;
        begin(&a);
        for (unsigned k = 0; cases[i].tags[k]; k++)
            add(&a, cases[i].tags[k], 7, 5);
        assert_int_equal(acl_check(a.bytes, a.len), cases[i].good ? 0 : -EINVAL);
        a.bytes[6] = 8; /* no such permission */
        assert_int_equal(acl_check(a.bytes, a.len), -EINVAL);
    }
    struct acl nobody = acl(7, 1, 7, 7, 7);
    put_le32(nobody.bytes + 16, NOBODY);
    assert_int_equal(acl_check(nobody.bytes, nobody.len), -EINVAL);
}

static void test_mode(void **arg)
{
    struct acl a = acl(6, 1, 4, 7, 1), plain = acl(4, 0, 2, 0, 1), none = {.len = 0};
    uint32_t mode;
    char list[100];
    size_t len;
    (void)arg;
    fs_id f = made(FS_ID_ROOT, "f", S_IFREG | 06644, 0, &mode);
    expect(f, ACL_ACCESS_NAME, NULL);
    assert_int_equal(set(f, ACL_ACCESS_NAME, &a), 0);
    assert_int_equal(mode_of(f), 06671);
    expect(f, ACL_ACCESS_NAME, &a);
    chmod_to(f, 02704);
    a = acl(7, 1, 4, 0, 4);
    expect(f, ACL_ACCESS_NAME, &a);
    assert_int_equal(fs_setxattr(fs, f, ACL_ACCESS_NAME, a.bytes, a.len, XATTR_CREATE | FS_XATTR_KILL_SGID),
                     0);
    assert_int_equal(mode_of(f), 0704);
    assert_int_equal(fs_listxattr(fs, f, list, sizeof(list), &len), 0);
    assert_string_equal(list, ACL_ACCESS_NAME);
    assert_int_equal(set(f, ACL_ACCESS_NAME, &plain), 0);
    expect(f, ACL_ACCESS_NAME, NULL);
    assert_int_equal(mode_of(f), 0421);
    assert_int_equal(set(f, ACL_ACCESS_NAME, &a), 0);
    assert_int_equal(set(f, ACL_ACCESS_NAME, &none), 0);
    assert_int_equal(mode_of(f), 0704);
    assert_int_equal(fs_removexattr(fs, f, ACL_ACCESS_NAME), 0);
    assert_int_equal(fs_listxattr(fs, f, list, sizeof(list), &len), 0);
    assert_int_equal(len, 0);
    assert_int_equal(set(f, ACL_DEFAULT_NAME, &a), -EACCES);
    assert_int_equal(set(f, ACL_DEFAULT_NAME, &none), 0);
    a.bytes[0] = 3;
    assert_int_equal(set(f, ACL_ACCESS_NAME, &a), -EOPNOTSUPP);
    fs_id link = made(FS_ID_ROOT, "link", S_IFLNK, 0, &mode);
    assert_int_equal(set(link, ACL_ACCESS_NAME, &plain), -EOPNOTSUPP);
}

static void test_inherit(void **arg)
{
    struct acl d = acl(7, 1, 5, 6, 4), want, plain = acl(7, 0, 5, 0, 1);
    uint32_t mode;
    (void)arg;
    fs_id dir = made(FS_ID_ROOT, "d", S_IFDIR | 0755, 022, &mode);
    made(dir, "before", S_IFREG | 0666, 027, &mode);
    assert_int_equal(mode, 0640);
    assert_int_equal(set(dir, ACL_DEFAULT_NAME, &d), 0);
    assert_int_equal(mode_of(dir), 0755);
    fs_id f = made(dir, "f", S_IFREG | 04666, 077, &mode);
    assert_int_equal(mode, 04664);
    want = acl(6, 1, 5, 6, 4);
    expect(f, ACL_ACCESS_NAME, &want);
    expect(f, ACL_DEFAULT_NAME, NULL);
    fs_id sub = made(dir, "sub", S_IFDIR | 0750, 077, &mode);
    assert_int_equal(mode, 0740);
    want = acl(7, 1, 5, 4, 0);
    expect(sub, ACL_ACCESS_NAME, &want);
    expect(sub, ACL_DEFAULT_NAME, &d);
    made(dir, "link", S_IFLNK | 0777, 077, &mode);
    assert_int_equal(mode, 0777);
    reopen(); /* the table learns of default ACLs by looking */
    struct fs_attr attr;
    assert_int_equal(fs_walk(fs, "/d/sub", &attr), 0);
    f = made(attr.id, "g", S_IFREG | 0640, 0777, &mode);
    assert_int_equal(mode, 0640);
    want = acl(6, 1, 5, 4, 0);
    expect(f, ACL_ACCESS_NAME, &want);
    assert_int_equal(fs_walk(fs, "/d", &attr), 0);
    assert_int_equal(set(attr.id, ACL_DEFAULT_NAME, &plain), 0); /* minimal: a default one is kept */
    expect(attr.id, ACL_DEFAULT_NAME, &plain);
    f = made(attr.id, "h", S_IFREG | 0666, 0777, &mode);
    assert_int_equal(mode, 0640);
    expect(f, ACL_ACCESS_NAME, NULL);
    assert_int_equal(fs_removexattr(fs, attr.id, ACL_DEFAULT_NAME), 0);
    made(attr.id, "i", S_IFREG | 0666, 066, &mode);
    assert_int_equal(mode, 0600);
    chmod_to(attr.id, 02755); /* what is asked for the group is asked without an ACL, too */
    made(attr.id, "j", S_IFDIR | 0777, 022, &mode);
    assert_int_equal(mode, 02755);
}

/* ACLs that do not fit into the inode, of files with one name, with several, and with none. */
static void test_large(void **arg)
{
    struct acl d = acl(7, 300, 7, 7, 7), want = acl(6, 300, 7, 6, 0);
    uint32_t mode;
    struct fs_attr attr;
    (void)arg;
    fs_id dir = made(FS_ID_ROOT, "d", S_IFDIR | 0755, 0, &mode);
    assert_int_equal(set(dir, ACL_DEFAULT_NAME, &d), 0);
    fs_id f = made(dir, "f", S_IFREG | 0660, 0, &mode);
    expect(f, ACL_ACCESS_NAME, &want);
    fs_id sub = made(dir, "sub", S_IFDIR | 0770, 0, &mode);
    expect(sub, ACL_DEFAULT_NAME, &d);
    assert_int_equal(fs_link(fs, f, FS_ID_ROOT, "g", 1, &attr), 0);
    reopen();
    assert_int_equal(fs_walk(fs, "/g", &attr), 0);
    expect(attr.id, ACL_ACCESS_NAME, &want);
    assert_int_equal(fs_unlink(fs, FS_ID_ROOT, "g", 1), 0);
    assert_int_equal(fs_walk(fs, "/d", &attr), 0);
    assert_int_equal(fs_unlink(fs, attr.id, "f", 1), 0);
    assert_int_equal(fs_walk(fs, "/d/sub", &attr), 0);
    f = made(attr.id, "own", S_IFREG | 0600, 0, &mode);
    want = acl(6, 300, 7, 0, 0);
    expect(f, ACL_ACCESS_NAME, &want);
    assert_int_equal(fs_unlink(fs, attr.id, "own", 3), 0);
    expect(f, ACL_ACCESS_NAME, &want); /* it lives on */
    struct acl small = acl(7, 1, 7, 7, 7);
    assert_int_equal(set(f, ACL_ACCESS_NAME, &small), 0);
    expect(f, ACL_ACCESS_NAME, &small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_order),
        cmocka_unit_test_setup_teardown(test_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_inherit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
