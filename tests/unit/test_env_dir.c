/*
 * test_env_dir.c - the real env does not let itself be led out of its directory: symbolic links, files
 * that are no regular ones, directories that are exchanged while they are in use, those of others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "env.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534

struct fixture {
    struct env *env;
    char top[64]; /* holds "store" and whatever a test needs */
};

/* Several at a time: of different calls in one expression. */
static const char *in_top(const struct fixture *f, const char *name)
{
    static char paths[8][PATH_MAX];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, PATH_MAX, "%s/%s", f->top, name);
    return path;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->env = env_posix();
    strcpy(f->top, "/tmp/test_env_dir.XXXXXX");
    *state = f;
    return mkdtemp(f->top) && chmod(f->top, 0755) == 0 && mkdir(in_top(f, "store"), 0700) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", f->top);
    int rc = system(command);
    free(f);
    return rc;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void expect_file(const char *path, const char *text)
{
    char buf[64] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t n = fread(buf, 1, sizeof(buf) - 1, file);
    fclose(file);
    buf[n] = '\0';
    assert_string_equal(buf, text);
}

static const unsigned ways[] = {ENV_READ, ENV_READ | ENV_WRITE, ENV_READ | ENV_WRITE | ENV_CREATE,
                                ENV_WRITE | ENV_CREATE | ENV_TRUNC};
#define FOR_EACH_WAY(i) for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)

static void test_symlinks(void **state)
{
    struct fixture *f = *state;
    struct env_file *file;
    struct env_lock *lock;

    write_file(in_top(f, "victim"), "precious");
    assert_int_equal(symlink(in_top(f, "victim"), in_top(f, "store/000001.log")), 0);
    assert_int_equal(symlink(in_top(f, "absent"), in_top(f, "store/000002.sst")), 0);
    FOR_EACH_WAY(i)
    {
        assert_int_equal(env_open(f->env, in_top(f, "store/000001.log"), ways[i], &file), -ELOOP);
        assert_int_equal(env_open(f->env, in_top(f, "store/000002.sst"), ways[i], &file), -ELOOP);
    }
    assert_int_equal(symlink(in_top(f, "victim"), in_top(f, "store/LOCK")), 0);
    assert_int_equal(env_lock(f->env, in_top(f, "store/LOCK"), true, &lock), -ELOOP);
    assert_int_equal(env_lock(f->env, in_top(f, "store/LOCK"), false, &lock), -ELOOP);
    expect_file(in_top(f, "victim"), "precious");
    assert_int_equal(access(in_top(f, "absent"), F_OK), -1);
}

static void test_irregular(void **state)
{
    struct fixture *f = *state;
    struct env_file *file;

    assert_int_equal(mkfifo(in_top(f, "store/fifo"), 0600), 0);
    assert_int_equal(mkdir(in_top(f, "store/dir"), 0700), 0);
    FOR_EACH_WAY(i)
    {
        assert_true(env_open(f->env, in_top(f, "store/fifo"), ways[i], &file) < 0); /* and does not hang */
        assert_true(env_open(f->env, in_top(f, "store/dir"), ways[i], &file) < 0);
    }
    assert_int_equal(env_open(f->env, in_top(f, "store/fifo"), ENV_READ | ENV_WRITE, &file), -EUCLEAN);
}

static int fail_on_victim(void *arg, const char *name)
{
    (void)arg;
    return strcmp(name, "victim") == 0 ? -EEXIST : 0;
}

/* Whoever owns the directory above exchanges it: what is open goes on where it was. */
static void test_exchanged(void **state)
{
    struct fixture *f = *state;
    struct env_lock *lock;
    struct env_file *file;
    uint64_t avail, total;

    assert_int_equal(env_lock(f->env, in_top(f, "store/LOCK"), true, &lock), 0);
    assert_int_equal(mkdir(in_top(f, "elsewhere"), 0700), 0);
    write_file(in_top(f, "elsewhere/victim"), "precious");
    assert_int_equal(rename(in_top(f, "store"), in_top(f, "moved")), 0);
    assert_int_equal(symlink(in_top(f, "elsewhere"), in_top(f, "store")), 0);

    assert_int_equal(env_open(f->env, in_top(f, "store/a"), ENV_READ | ENV_WRITE | ENV_CREATE, &file), 0);
    assert_int_equal(env_pwrite(file, "text", 4, 0), 0);
    env_close(file);
    expect_file(in_top(f, "moved/a"), "text");
    assert_int_equal(env_rename(f->env, in_top(f, "store/a"), in_top(f, "store/b")), 0);
    assert_int_equal(env_link(f->env, in_top(f, "store/b"), in_top(f, "store/c")), 0);
    assert_int_equal(env_sync_dir(f->env, in_top(f, "store")), 0);
    assert_int_equal(env_space(f->env, in_top(f, "store"), &avail, &total), 0);
    assert_int_equal(env_list(f->env, in_top(f, "store"), fail_on_victim, NULL), 0);
    assert_int_equal(env_unlink(f->env, in_top(f, "store/victim")), -ENOENT);
    assert_int_equal(env_mkdir(f->env, in_top(f, "store/sub")), 0);
    assert_int_equal(access(in_top(f, "moved/b"), F_OK), 0);
    assert_int_equal(access(in_top(f, "moved/c"), F_OK), 0);
    assert_int_equal(access(in_top(f, "moved/sub"), F_OK), 0);
    assert_int_equal(access(in_top(f, "elsewhere/c"), F_OK), -1);
    env_unlock(f->env, lock);
    /* unlocked, the path is a path again */
    assert_int_equal(env_list(f->env, in_top(f, "store"), fail_on_victim, NULL), -EEXIST);
}

static void test_open_to_others(void **state)
{
    struct fixture *f = *state;
    static const mode_t refused[] = {0720, 0702, 0777, 01777, 0770}, taken[] = {0700, 0755, 0711};
    struct env_lock *lock;

    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_int_equal(chmod(in_top(f, "store"), refused[i]), 0);
        assert_int_equal(env_lock(f->env, in_top(f, "store/LOCK"), true, &lock), -EPERM);
        assert_int_equal(access(in_top(f, "store/LOCK"), F_OK), -1);
    }
    for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        assert_int_equal(chmod(in_top(f, "store"), taken[i]), 0);
        assert_int_equal(env_lock(f->env, in_top(f, "store/LOCK"), true, &lock), 0);
        env_unlock(f->env, lock);
    }
    /* for reading it need not be ours: nothing is put there */
    assert_int_equal(chmod(in_top(f, "store"), 0777), 0);
    assert_int_equal(env_lock(f->env, in_top(f, "store/LOCK"), false, &lock), 0);
    env_unlock(f->env, lock);
}

/* Runs in a child as nobody; returns what it returned. */
static int as_nobody(int (*fn)(const struct fixture *f), const struct fixture *f)
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(setgid(NOBODY) || setuid(NOBODY) ? 100 : fn(f));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int try_lock(const struct fixture *f)
{
    struct env_lock *lock;
    return -env_lock(f->env, in_top(f, "store/LOCK"), true, &lock);
}

static void test_of_others(void **state)
{
    struct fixture *f = *state;
    struct env_lock *lock;
    struct env_file *file;

    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(in_top(f, "store"), 0755), 0);
    write_file(in_top(f, "store/LOCK"), "");
    assert_int_equal(as_nobody(try_lock, f), EPERM);

    /* Root uses nobody's directory, but no hard links there, and no files of a third. */
    write_file(in_top(f, "victim"), "precious");
    assert_int_equal(link(in_top(f, "victim"), in_top(f, "store/linked")), 0);
    write_file(in_top(f, "store/third"), "");
    assert_int_equal(chown(in_top(f, "store/third"), 12345, 12345), 0);
    write_file(in_top(f, "store/his"), "his");
    assert_int_equal(chown(in_top(f, "store/his"), NOBODY, NOBODY), 0);
    assert_int_equal(chown(in_top(f, "store"), NOBODY, NOBODY), 0);
    assert_int_equal(env_lock(f->env, in_top(f, "store/LOCK"), true, &lock), 0);
    assert_int_equal(env_open(f->env, in_top(f, "store/linked"), ENV_WRITE | ENV_CREATE | ENV_TRUNC, &file),
                     -EPERM);
    assert_int_equal(env_open(f->env, in_top(f, "store/third"), ENV_READ, &file), -EPERM);
    assert_int_equal(env_open(f->env, in_top(f, "store/his"), ENV_READ | ENV_WRITE, &file), 0);
    env_close(file);
    env_unlock(f->env, lock);
    expect_file(in_top(f, "victim"), "precious");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_symlinks),       TEST(test_irregular), TEST(test_exchanged),
        TEST(test_open_to_others), TEST(test_of_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
