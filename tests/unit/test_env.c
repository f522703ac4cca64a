/*
 * test_env.c - the contract of lsm/env.h, checked alike on the real system and on memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "env.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct fixture {
    struct env *env;
    bool real;
    char dir[64];
};

static int remove_one(void *arg, const char *name)
{
    struct fixture *f = arg;
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    return remove(path) ? -errno : 0;
}

static int setup_posix(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->env = env_posix();
    f->real = true;
    /* a filesystem that can map, where there is one */
    strcpy(f->dir, access("/dev/shm", W_OK) ? "/tmp/test_env.XXXXXX" : "/dev/shm/test_env.XXXXXX");
    *state = f;
    return mkdtemp(f->dir) ? 0 : -1;
}

static int teardown_posix(void **state)
{
    struct fixture *f = *state;

    env_list(f->env, f->dir, remove_one, f);
    rmdir(f->dir);
    free(f);
    return 0;
}

static int setup_mem(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->env = env_mem_new();
    strcpy(f->dir, "/m");
    *state = f;
    return env_mkdir(f->env, f->dir);
}

static int teardown_mem(void **state)
{
    struct fixture *f = *state;

    env_mem_free(f->env);
    free(f);
    return 0;
}

static char *path_in(const struct fixture *f, const char *name)
{
    static char paths[4][128];
    static unsigned turn;
    char *p = paths[turn++ % 4];

    snprintf(p, sizeof(paths[0]), "%s/%s", f->dir, name);
    return p;
}

static void test_files(void **state)
{
    struct fixture *f = *state;
    struct env_file *file, *again;
    char buf[300000];
    uint64_t size;

    assert_int_equal(env_open(f->env, path_in(f, "a"), ENV_READ, &file), -ENOENT);
    assert_int_equal(env_open(f->env, path_in(f, "no/a"), ENV_WRITE | ENV_CREATE, &file), -ENOENT);
    assert_int_equal(env_open(f->env, path_in(f, "a"), ENV_READ | ENV_WRITE | ENV_CREATE | ENV_EXCL, &file),
                     0);
    assert_int_equal(env_open(f->env, path_in(f, "a"), ENV_WRITE | ENV_CREATE | ENV_EXCL, &again), -EEXIST);
    assert_int_equal(env_pwrite(file, "hello", 5, 100000), 0); /* a hole before it */
    assert_int_equal(env_size(file, &size), 0);
    assert_int_equal(size, 100005);
    memset(buf, 1, sizeof(buf));
    assert_int_equal(env_pread(file, buf, sizeof(buf), 0), 100005);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(buf[i], 0);
    assert_memory_equal(buf + 100000, "hello", 5);
    assert_int_equal(env_pread(file, buf, 10, 100005), 0);
    assert_int_equal(env_pread(file, buf, 10, UINT32_MAX), 0);
    /* What it gives is right; whether the system has it in memory is not ours to say. */
    memset(buf, 0x55, sizeof(buf));
    ssize_t seen = env_pread_nowait(file, buf, 20, 100000 - 15);
    assert_true(seen == -EAGAIN || seen == 20);
    if (seen == 20) {
        char same[20];
        assert_int_equal(env_pread(file, same, 20, 100000 - 15), 20);
        assert_memory_equal(buf, same, 20);
    }
    assert_int_equal(env_pread_nowait(file, buf, 10, 100000), -EAGAIN); /* not all of it is there */
    assert_int_equal(env_pread_nowait(file, buf, 10, UINT32_MAX), -EAGAIN);
    env_read_ahead(file, 0, UINT32_MAX);

    struct iovec many[200];
    for (int i = 0; i < 200; i++) {
        memset(buf + i * 1000, i, 1000);
        many[i] = (struct iovec){buf + i * 1000, i % 7 ? 1000 : 0};
    }
    assert_int_equal(env_pwritev(file, many, 200, 3), 0);
    uint64_t at = 3;
    for (int i = 0; i < 200; i++) {
        uint8_t got[1000];
        assert_int_equal(env_pread(file, got, many[i].iov_len, at), (ssize_t)many[i].iov_len);
        assert_memory_equal(got, many[i].iov_base, many[i].iov_len);
        at += many[i].iov_len;
    }
    assert_int_equal(env_truncate(file, 70001), 0);
    assert_int_equal(env_truncate(file, 80000), 0);
    assert_int_equal(env_pread(file, buf, 9999, 70001), 9999);
    for (int i = 0; i < 9999; i++)
        assert_int_equal(buf[i], 0);
    int rc = env_allocate(file, 0, 200000);
    assert_true(rc == 0 || rc == -EOPNOTSUPP);
    if (!rc) {
        assert_int_equal(env_size(file, &size), 0);
        assert_int_equal(size, 200000);
    }
    env_write_out(file, 0, UINT64_C(1) << 20); /* a hint, also about what is not there: changes nothing */
    assert_int_equal(env_sync(file), 0);
    env_close(file);
    env_close(NULL);
    if (f->real) {
        struct stat st;
        assert_int_equal(stat(path_in(f, "a"), &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    assert_int_equal(env_open(f->env, path_in(f, "a"), ENV_WRITE | ENV_TRUNC, &file), 0);
    assert_int_equal(env_size(file, &size), 0);
    assert_int_equal(size, 0);
    env_close(file);
}

static int count_name(void *arg, const char *name)
{
    char *seen = arg;

    strcat(seen, "<");
    strcat(seen, name);
    strcat(seen, ">");
    return strcmp(name, "stop") ? 0 : 77;
}

static void put(struct fixture *f, const char *name, const char *text)
{
    struct env_file *file;

    assert_int_equal(env_open(f->env, path_in(f, name), ENV_WRITE | ENV_CREATE | ENV_TRUNC, &file), 0);
    assert_int_equal(env_pwrite(file, text, strlen(text), 0), 0);
    env_close(file);
}

static void expect(struct fixture *f, const char *name, const char *text)
{
    struct env_file *file;
    char buf[64] = {0};

    assert_int_equal(env_open(f->env, path_in(f, name), ENV_READ, &file), 0);
    assert_int_equal(env_pread(file, buf, sizeof(buf), 0), strlen(text));
    assert_string_equal(buf, text);
    env_close(file);
}

static void test_names(void **state)
{
    struct fixture *f = *state;
    struct env_file *file;
    char seen[256] = {0}, buf[8] = {0};

    put(f, "a", "one");
    put(f, "b", "two");
    assert_int_equal(env_link(f->env, path_in(f, "a"), path_in(f, "b")), -EEXIST);
    assert_int_equal(env_link(f->env, path_in(f, "a"), path_in(f, "c")), 0);
    assert_int_equal(env_open(f->env, path_in(f, "b"), ENV_READ, &file), 0);
    assert_int_equal(env_rename(f->env, path_in(f, "a"), path_in(f, "b")), 0);
    assert_int_equal(env_pread(file, buf, 8, 0), 3); /* the replaced file lives on while open */
    assert_string_equal(buf, "two");
    env_close(file);
    expect(f, "b", "one");
    expect(f, "c", "one");
    assert_int_equal(env_rename(f->env, path_in(f, "a"), path_in(f, "b")), -ENOENT);
    assert_int_equal(env_unlink(f->env, path_in(f, "a")), -ENOENT);

    assert_int_equal(env_mkdir(f->env, path_in(f, "d")), 0);
    assert_int_equal(env_mkdir(f->env, path_in(f, "d")), -EEXIST);
    assert_int_equal(env_mkdir(f->env, path_in(f, "x/y")), -ENOENT);
    put(f, "d/inner", "x");
    assert_int_equal(env_list(f->env, f->dir, count_name, seen), 0);
    assert_int_equal(strlen(seen), strlen("<b><c><d>"));
    assert_non_null(strstr(seen, "<b>"));
    assert_non_null(strstr(seen, "<c>"));
    assert_non_null(strstr(seen, "<d>"));
    put(f, "stop", "");
    assert_int_equal(env_list(f->env, f->dir, count_name, seen), 77);
    assert_int_equal(env_list(f->env, path_in(f, "none"), count_name, seen), -ENOENT);
    assert_int_equal(env_sync_dir(f->env, f->dir), 0);
    assert_int_equal(env_sync_dir(f->env, path_in(f, "none")), -ENOENT);

    assert_int_equal(env_open(f->env, path_in(f, "b"), ENV_READ | ENV_WRITE, &file), 0);
    assert_int_equal(env_unlink(f->env, path_in(f, "b")), 0);
    assert_int_equal(env_pwrite(file, "later", 5, 0), 0);
    assert_int_equal(env_pread(file, buf, 8, 0), 5);
    env_close(file);
    expect(f, "c", "later"); /* the other name of the same file */
    assert_int_equal(env_unlink(f->env, path_in(f, "d/inner")), 0);
}

static void test_locks(void **state)
{
    struct fixture *f = *state;
    struct env_lock *a, *b, *c;

    assert_int_equal(env_lock(f->env, path_in(f, "L"), true, &a), 0);
    assert_int_equal(env_lock(f->env, path_in(f, "L"), true, &b), -EBUSY);
    assert_int_equal(env_lock(f->env, path_in(f, "L"), false, &b), -EBUSY);
    env_unlock(f->env, a);
    env_unlock(f->env, NULL);
    assert_int_equal(env_lock(f->env, path_in(f, "L"), false, &a), 0);
    assert_int_equal(env_lock(f->env, path_in(f, "L"), false, &b), 0);
    assert_int_equal(env_lock(f->env, path_in(f, "L"), true, &c), -EBUSY);
    env_unlock(f->env, a);
    env_unlock(f->env, b);
    if (f->real)
        assert_int_equal(chmod(path_in(f, "L"), 0400), 0);
    assert_int_equal(env_lock(f->env, path_in(f, "L"), false, &a), 0);
    env_unlock(f->env, a);
    assert_int_equal(env_lock(f->env, path_in(f, "new"), false, &a), 0);
    env_unlock(f->env, a);
}

/* Skips where the filesystem does not allow mappings. */
static void test_map(void **state)
{
    struct fixture *f = *state;
    struct env_file *file;
    char buf[16] = {0};
    struct iovec v[2] = {{"ab", 2}, {"cdef", 4}};

    assert_int_equal(env_open(f->env, path_in(f, "m"), ENV_READ | ENV_WRITE | ENV_CREATE, &file), 0);
    assert_int_equal(env_truncate(file, 3 * 65536), 0);
    int rc = env_map(file, 3 * 65536);
    if (rc == -ENOTSUP) {
        env_close(file);
        skip();
    }
    assert_int_equal(rc, 0);
    env_map_populate(file, 1, 5000);
    env_map_populate(file, 65536, UINT32_MAX);
    assert_int_equal(env_map_store(file, v, 2, 65533), 0);
    assert_int_equal(env_pread(file, buf, 6, 65533), 6);
    assert_string_equal(buf, "abcdef");
    assert_int_equal(env_pwrite(file, "X", 1, 65534), 0); /* both ways see each other */
    assert_int_equal(env_map_store(file, v, 1, 65540), 0);
    assert_int_equal(env_pread(file, buf, 8, 65533), 8);
    assert_memory_equal(buf, "aXcdef\0ab", 9 - 1);

    assert_int_equal(env_truncate(file, 65536), 0);
    for (int i = 0; i < 3; i++) { /* more than once: the signal must not stay blocked */
        assert_int_equal(env_map_store(file, v, 2, 2 * 65536), -EIO);
        assert_int_equal(env_map_store(file, v, 2, 16), 0);
    }
    env_close(file);
}

static sigjmp_buf jump;
static void own_handler(int sig)
{
    (void)sig;
    siglongjmp(jump, 1);
}

/* A SIGBUS that is not ours reaches the handler that was there before. */
static void test_sigbus_chain(void **state)
{
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        void *inner = NULL;
        struct env_file *file;
        struct sigaction sa = {.sa_handler = own_handler, .sa_flags = SA_NODEFER};
        sigaction(SIGBUS, &sa, NULL);
        if (setup_posix(&inner))
            _exit(2);
        struct fixture *f = inner;
        env_open(f->env, path_in(f, "m"), ENV_READ | ENV_WRITE | ENV_CREATE, &file);
        env_truncate(file, 4096);
        int rc = env_map(file, 4096);
        int code = rc && rc != -ENOTSUP;
        if (!sigsetjmp(jump, 1)) {
            raise(SIGBUS);
            code = 3;
        }
        env_close(file);
        teardown_posix(&inner);
        _exit(code);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_clock_random_space(void **state)
{
    struct fixture *f = *state;
    uint64_t a[4] = {0}, b[4] = {0}, avail, total;

    uint64_t before = env_mono_ns(f->env);
    usleep(2000);
    assert_true(env_mono_ns(f->env) - before >= 1000000);
    assert_true(env_wall_ns(f->env) > UINT64_C(1600000000) * 1000000000);
    assert_int_equal(env_random(f->env, a, sizeof(a)), 0);
    assert_int_equal(env_random(f->env, b, sizeof(b)), 0);
    assert_memory_not_equal(a, b, sizeof(a));
    assert_int_equal(env_space(f->env, f->dir, &avail, &total), 0);
    assert_true(total > 0 && avail <= total);
}

struct seen_thread {
    sigset_t blocked;
    char name[16];
    cpu_set_t cpus;
};

static void look_around(void *arg)
{
    struct seen_thread *s = arg;

    pthread_sigmask(SIG_SETMASK, NULL, &s->blocked);
    pthread_getname_np(pthread_self(), s->name, sizeof(s->name));
    sched_getaffinity(0, sizeof(s->cpus), &s->cpus);
}

static void test_threads(void **state)
{
    struct fixture *f = *state;
    struct env_thread *t;
    struct seen_thread seen;
    cpu_set_t ours;
    sigset_t before, after;

    sched_getaffinity(0, sizeof(ours), &ours);
    int cpu = 0;
    while (!CPU_ISSET((size_t)cpu, &ours))
        cpu++;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    assert_int_equal(env_thread_start(f->env, "a-name-that-is-too-long", cpu, look_around, &seen, &t), 0);
    env_thread_join(f->env, t);
    assert_string_equal(seen.name, "a-name-that-is-");
    assert_int_equal(CPU_COUNT(&seen.cpus), 1);
    assert_true(CPU_ISSET((size_t)cpu, &seen.cpus));
    assert_true(sigismember(&seen.blocked, SIGTERM));
    assert_true(sigismember(&seen.blocked, SIGINT));
    assert_false(sigismember(&seen.blocked, SIGBUS));
    assert_false(sigismember(&seen.blocked, SIGSEGV));
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    assert_int_equal(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
    static const int unpinned[] = {-1, 1000, 1 << 20};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(env_thread_start(f->env, "x", unpinned[i], look_around, &seen, &t), 0);
        env_thread_join(f->env, t);
        assert_true(CPU_EQUAL(&seen.cpus, &ours));
    }
}

/* A thread that runs where it is told to sleep and is moved by who wakes it. */
struct sleeper {
    struct env *env;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool asleep, woken;
    cpu_set_t cpus;
    uint64_t slice_ns; /* 0: this kernel has none */
};

static uint64_t slice_of_this_thread(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        uint32_t nice, priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } s = {0};

    return syscall(SYS_sched_getattr, 0, &s, sizeof(s), 0) ? 0 : s.runtime_ns;
}

static void sleeper_main(void *arg)
{
    struct sleeper *s = arg;

    env_thread_prompt(s->env);
    pthread_mutex_lock(&s->lock);
    s->asleep = true;
    pthread_cond_broadcast(&s->changed);
    while (!s->woken)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    s->slice_ns = slice_of_this_thread();
    pthread_getaffinity_np(pthread_self(), sizeof(s->cpus), &s->cpus);
}

/* On each of our CPUs in turn: a thread that this one wakes goes on there. */
static void test_near(void **state)
{
    struct fixture *f = *state;
    cpu_set_t ours;

    pthread_getaffinity_np(pthread_self(), sizeof(ours), &ours);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        struct sleeper s = {
            .env = f->env, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
        struct env_thread *t;
        cpu_set_t only;

        if (!CPU_ISSET((size_t)cpu, &ours))
            continue;
        CPU_ZERO(&only);
        CPU_SET((size_t)cpu, &only);
        assert_int_equal(env_thread_start(f->env, "sleeper", -1, sleeper_main, &s, &t), 0);
        pthread_mutex_lock(&s.lock);
        while (!s.asleep)
            pthread_cond_wait(&s.changed, &s.lock);
        pthread_mutex_unlock(&s.lock);
        assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof(only), &only), 0);
        env_thread_near(f->env, t);
        env_thread_near(f->env, t);
        assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof(ours), &ours), 0);
        pthread_mutex_lock(&s.lock);
        s.woken = true;
        pthread_cond_broadcast(&s.changed);
        pthread_mutex_unlock(&s.lock);
        env_thread_join(f->env, t);
        assert_true(CPU_EQUAL(&s.cpus, &only));
        /* Linux says what it made of it from 6.12 on. */
        assert_true(s.slice_ns == 0 || slice_of_this_thread() == 0 || s.slice_ns < slice_of_this_thread());
        pthread_cond_destroy(&s.changed);
        pthread_mutex_destroy(&s.lock);
    }
}

int main(void)
{
#define BOTH(test)                                                      \
    cmocka_unit_test_setup_teardown(test, setup_posix, teardown_posix), \
        cmocka_unit_test_setup_teardown(test, setup_mem, teardown_mem)
    const struct CMUnitTest tests[] = {
        BOTH(test_files),
        BOTH(test_names),
        BOTH(test_locks),
        BOTH(test_map),
        BOTH(test_clock_random_space),
        BOTH(test_threads),
        BOTH(test_near),
        cmocka_unit_test(test_sigbus_chain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
