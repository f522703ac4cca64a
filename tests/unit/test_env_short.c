/*
 * test_env_short.c - the real env over system calls that transfer less than they were asked to, and are interrupted.
 *
 * The env promises complete transfers, so the engine never sees these: every one of the calls is disturbed here,
 * at random, and what was written must be there and be read.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t state;
static unsigned interrupted, shortened;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int interrupt(void)
{
    if (rnd() % 3)
        return 0;
    interrupted++;
    errno = EINTR;
    return -1;
}

static size_t shorten(size_t len)
{
    if (len < 2 || rnd() % 2)
        return len;
    shortened++;
    return 1 + rnd() % (len - 1);
}

static ssize_t disturbed_pread(int fd, void *buf, size_t len, off_t off)
{
    return interrupt() ? -1 : pread(fd, buf, shorten(len), off);
}

/* A short vector: its first element alone, or a part of it. */
static ssize_t disturbed_pwritev(int fd, const struct iovec *iov, int n, off_t off)
{
    if (interrupt())
        return -1;
    if (rnd() % 2)
        return pwritev(fd, iov, n, off);
    shortened++;
    return pwrite(fd, iov[0].iov_base, shorten(iov[0].iov_len), off);
}

static int disturbed_fallocate(int fd, int mode, off_t off, off_t len)
{
    return interrupt() ? -1 : fallocate(fd, mode, off, len);
}

static int disturbed_ftruncate(int fd, off_t len) { return interrupt() ? -1 : ftruncate(fd, len); }

#include "../../lsm/env_posix_uring.h"

/* io_uring: short ones, some that were not taken, or no ring at all. */
static int disturbed_uring_read(struct uring_read *reads, unsigned n)
{
    size_t wanted[URING_READS_MAX];

    if (rnd() % 4 == 0)
        return -ENOSYS;
    for (unsigned i = 0; i < n; i++) {
        wanted[i] = reads[i].len;
        reads[i].len = shorten(reads[i].len);
    }
    int rc = uring_read_all(reads, n);
    for (unsigned i = 0; i < n; i++) {
        reads[i].len = wanted[i];
        if (rnd() % 5 == 0)
            reads[i].result = -EAGAIN;
    }
    return rc;
}

#define pread disturbed_pread
#define pwritev disturbed_pwritev
#define fallocate disturbed_fallocate
#define ftruncate disturbed_ftruncate
#define uring_read_all disturbed_uring_read
#include "../../lsm/env_posix.c"

#define FILE_BYTES 20000u
#define VECTORS 100 /* more than go into one system call of the env */

static void write_random(struct env_file *f, uint8_t *model)
{
    struct iovec iov[VECTORS];
    int n = 1 + (int)(rnd() % VECTORS);
    uint64_t from = rnd() % (FILE_BYTES / 2), at = from;

    for (int i = 0; i < n; i++) {
        size_t len = rnd() % (FILE_BYTES / 2 / VECTORS);
        for (size_t k = 0; k < len; k++)
            model[at + k] = (uint8_t)rnd();
        iov[i] = (struct iovec){model + at, len};
        at += len;
    }
    assert_int_equal(env_pwritev(f, iov, n, from), 0);
}

/* Reads of all lengths, also of none, up to the end and beyond it. */
static void check_read_many(struct env_file *f, const uint8_t *model)
{
    enum { READS = 150 };
    static uint8_t got[READS][300];
    struct env_read reads[READS];
    unsigned n = (unsigned)(rnd() % (READS + 1));

    for (unsigned i = 0; i < n; i++)
        reads[i] = (struct env_read){f, got[i], rnd() % 301, rnd() % (FILE_BYTES + 100), -1};
    env_read_many(env_posix(), reads, n);
    for (unsigned i = 0; i < n; i++) {
        uint64_t left = reads[i].off < FILE_BYTES ? FILE_BYTES - reads[i].off : 0;
        size_t expected = reads[i].len < left ? reads[i].len : (size_t)left;
        assert_int_equal(reads[i].result, expected);
        assert_memory_equal(got[i], model + reads[i].off, expected);
    }
}

static void test_everything_arrives(void **unused)
{
    char path[] = "/tmp/test_env_short.XXXXXX";
    static uint8_t model[FILE_BYTES + 400], read[FILE_BYTES];
    struct env_file *f;
    uint64_t size;

    (void)unused;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(env_open(env_posix(), path, ENV_READ | ENV_WRITE, &f), 0);
    int rc = env_allocate(f, 0, FILE_BYTES);
    if (rc == -EOPNOTSUPP)
        rc = env_truncate(f, FILE_BYTES);
    assert_int_equal(rc, 0);
    for (unsigned i = 0; i < 300; i++) {
        write_random(f, model);
        uint64_t at = rnd() % FILE_BYTES;
        size_t len = rnd() % (FILE_BYTES - at + 1);
        assert_int_equal(env_pread(f, read, len, at), len);
        assert_memory_equal(read, model + at, len);
        check_read_many(f, model);
    }
    assert_int_equal(env_pread(f, read, FILE_BYTES, FILE_BYTES - 5), 5); /* short only at the end */
    assert_int_equal(env_truncate(f, 100), 0);
    assert_int_equal(env_size(f, &size), 0);
    assert_int_equal(size, 100);
    env_close(f);
    unlink(path);
    assert_true(interrupted > 100 && shortened > 100);
}

int main(void)
{
    const char *s = getenv("SHALE_SEED");
    uint64_t seed = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u;

    state = seed | 1;
    printf("replay: SHALE_SEED=0x%llx test_env_short\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_everything_arrives)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
