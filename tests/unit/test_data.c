/*
 * test_data.c - contents of files (fs/data.h, fs/extent.h): edges one by one, what rewriting costs,
 * and random operations against a plain array of bytes. After every commit the keys themselves are
 * read and checked: sorted, apart, within chunk and size, `stored` exact, nothing left over in other
 * layouts.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "env.h"
#include "extent.h"

#define FILE_ID (UINT64_C(5) << 52 | 77)
#define BATCH_MAX (4u << 20) /* a quarter of a log segment of 16 MiB */
#define CHUNK_SPANS_MAX 513u

static uint64_t seed;

static uint64_t rnd(void) /* xorshift64* */
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * UINT64_C(0x2545F4914F6CDD1D);
}
static uint64_t below(uint64_t n) { return rnd() % n; }

static uint64_t seed_start(void)
{
    const char *s = getenv("SHALE_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    seed = s ? strtoull(s, NULL, 0) : (uint64_t)now.tv_sec * 1000003 + (uint64_t)now.tv_nsec;
    seed |= 1;
    printf("replay: SHALE_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

/* ---- one file in a store ---- */

struct file {
    struct env *env;
    struct lsm *db;
    struct lsm_batch *batch;
    struct inode ino;
    uint64_t put_bytes; /* of all batches committed */
    uint64_t batch_peak;
};

static uint64_t route(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len >= 8 ? get_be64(key) >> 52 : 0;
}

static const struct inode_home home_a = {HOME_ENTRY, UINT64_C(9) << 52 | 100, 0x1234, 3};
static const struct inode_home home_b = {HOME_ENTRY, UINT64_C(2) << 52 | 101, 0x99887766554433, 0};
static const struct inode_home home_own = {.kind = HOME_OWN};
static const struct inode_home home_memory = {.kind = HOME_MEMORY};

static void file_open(struct file *f)
{
    memset(f, 0, sizeof *f);
    f->env = env_mem_new();
    assert_non_null(f->env);
    struct lsm_options options = {
        .flags = LSM_CREATE | LSM_INLINE,
        .shards = 3,
        .memory_bytes = 32u << 20,
        .route = route,
        .env = f->env,
    };
    assert_int_equal(lsm_open("/store", &options, &f->db), 0);
    assert_int_equal(lsm_batch_new(&f->batch), 0);
    f->ino.attr.id = FILE_ID;
    f->ino.attr.mode = S_IFREG | 0644;
    f->ino.home = home_a;
}

static void file_close(struct file *f)
{
    free(f->ino.data);
    lsm_batch_free(f->batch);
    assert_int_equal(lsm_close(f->db), 0);
    env_mem_free(f->env);
}

static void file_commit(struct file *f)
{
    uint64_t bytes = lsm_batch_bytes(f->batch);
    assert_true(bytes < BATCH_MAX);
    f->put_bytes += bytes;
    f->batch_peak = bytes > f->batch_peak ? bytes : f->batch_peak;
    assert_int_equal(lsm_commit(f->db, f->batch, 0), 0);
    lsm_batch_clear(f->batch);
    for (unsigned i = 0; i < 4 && lsm_work(f->db) > 0; i++)
        ;
}

static void file_write(struct file *f, uint64_t off, const void *buf, size_t len)
{
    assert_int_equal(data_write(f->db, &f->ino, off, buf, len, f->batch), 0);
    file_commit(f);
}

static unsigned file_truncate(struct file *f, uint64_t size)
{
    bool more;
    unsigned steps = 1;
    assert_int_equal(data_truncate(f->db, &f->ino, size, f->batch, &more), 0);
    assert_true(lsm_batch_count(f->batch) <= DATA_STEP + 4);
    file_commit(f);
    for (; more; steps++) {
        assert_int_equal(f->ino.layout, LAYOUT_EXTENTS);
        assert_int_equal(data_trim(f->db, &f->ino, f->batch, &more), 0);
        assert_true(lsm_batch_count(f->batch) <= DATA_STEP + 4);
        file_commit(f);
    }
    return steps;
}

static unsigned file_punch(struct file *f, uint64_t off, uint64_t len)
{
    unsigned steps = 0;
    for (uint64_t at = off, end = off + len, next; at < end; at = next, steps++) {
        assert_int_equal(data_punch(f->db, &f->ino, at, end - at, f->batch, &next), 0);
        assert_true(next > at && next <= end);
        file_commit(f);
    }
    return steps;
}

static void file_rehome(struct file *f, const struct inode_home *to)
{
    assert_int_equal(data_rehome(f->db, &f->ino, to, f->batch), 0);
    file_commit(f);
}

static int file_seek(struct file *f, uint64_t off, int whence, uint64_t *out)
{
    return data_seek(f->db, &f->ino, off, whence, out);
}

/* ---- what is really stored ---- */

struct stored {
    struct {
        uint64_t start, end;
    } extents[70000];
    size_t extents_count;
    size_t small_count, small_len, others;
};

static struct stored *look(const struct file *f)
{
    static struct stored s;
    struct lsm_iter *it;
    struct lsm_iter_options options = {0};
    s.extents_count = s.small_count = s.small_len = s.others = 0;
    assert_int_equal(lsm_iter_new(f->db, &options, &it), 0);
    for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it)) {
        size_t key_len, len;
        const uint8_t *key = lsm_iter_key(it, &key_len), *value = lsm_iter_value(it, &len);
        if (key[8] == KEY_EXTENT && key_len == 17 && get_be64(key) == FILE_ID) {
            uint64_t end = get_be64(key + 9), start = end - (len - 8);
            assert_true(s.extents_count < 70000 && (lsm_iter_ref(it, NULL) || get_le64(value) == start));
            s.extents[s.extents_count].start = start;
            s.extents[s.extents_count++].end = end;
        } else if (key[8] == KEY_SMALL) {
            struct key k = key_small(f->ino.home.parent, f->ino.home.hash, f->ino.home.index);
            assert_int_equal(key_len, k.len);
            assert_memory_equal(key, k.bytes, k.len);
            s.small_count++;
            s.small_len = len;
        } else {
            s.others++;
        }
    }
    assert_int_equal(lsm_iter_status(it), 0);
    lsm_iter_free(it);
    return &s;
}

static void check_extents(const struct file *f, const struct stored *s)
{
    uint64_t sum = 0, edge = 0;
    size_t in_chunk = 0;
    for (size_t i = 0; i < s->extents_count; i++) {
        uint64_t start = s->extents[i].start, end = s->extents[i].end;
        assert_true(start < end && start >= edge && end <= f->ino.attr.size);
        assert_int_equal(start / EXTENT_MAX, (end - 1) / EXTENT_MAX);
        bool same_chunk = i && s->extents[i - 1].start / EXTENT_MAX == start / EXTENT_MAX;
        in_chunk = same_chunk ? in_chunk + 1 : 1;
        assert_true(in_chunk <= CHUNK_SPANS_MAX);
        assert_true(!same_chunk || end - s->extents[i - 1].start > EXTENT_SPAN_MIN);
        edge = end;
        sum += end - start;
    }
    assert_int_equal(sum, f->ino.stored);
}

static struct stored *check_stored(const struct file *f)
{
    struct stored *s = look(f);
    const struct inode *ino = &f->ino;
    assert_int_equal(s->others, 0);
    if (ino->layout == LAYOUT_EXTENTS) {
        assert_int_equal(s->small_count, 0);
        assert_true(ino->home.kind != HOME_MEMORY && !ino->data);
        check_extents(f, s);
    } else {
        assert_int_equal(s->extents_count, 0);
        assert_true(ino->data_len <= ino->attr.size);
        if (ino->layout == LAYOUT_SMALL) {
            assert_int_equal(ino->home.kind, HOME_ENTRY);
            assert_int_equal(s->small_count, 1);
            assert_int_equal(s->small_len, ino->data_len);
            assert_true(ino->data_len > INLINE_MAX && ino->data_len <= SMALL_MAX && !ino->data);
        } else {
            assert_int_equal(s->small_count, 0);
            assert_true(ino->data_len <= (ino->home.kind == HOME_MEMORY ? SMALL_MAX : INLINE_MAX));
        }
    }
    return s;
}

static void expect_bytes(struct file *f, uint64_t off, const uint8_t *want, size_t len)
{
    static uint8_t buf[FS_WRITE_MAX];
    size_t got = 0;
    assert_true(len <= sizeof buf);
    memset(buf, 0xAA, len);
    assert_int_equal(data_read(f->db, &f->ino, off, buf, len, &got), 0);
    assert_int_equal(got, len);
    assert_memory_equal(buf, want, len);
}

static uint8_t *pattern(size_t len, unsigned start)
{
    uint8_t *p = malloc(len ? len : 1);
    assert_non_null(p);
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(1 + (start + i * 7) % 255);
    return p;
}

/* ---- edges ---- */

static void test_growing_through_layouts(void **state)
{
    (void)state;
    struct file f;
    file_open(&f);
    uint8_t *p = pattern(8192, 1);

    check_stored(&f);
    file_write(&f, 0, p, 0);
    assert_int_equal(f.ino.attr.size, 0);
    file_write(&f, 0, p, INLINE_MAX);
    assert_int_equal(f.ino.layout, LAYOUT_INLINE);
    check_stored(&f);
    file_write(&f, INLINE_MAX, p + INLINE_MAX, 1);
    assert_int_equal(f.ino.layout, LAYOUT_SMALL);
    check_stored(&f);
    file_write(&f, INLINE_MAX + 1, p + INLINE_MAX + 1, SMALL_MAX - INLINE_MAX - 1);
    assert_int_equal(f.ino.layout, LAYOUT_SMALL);
    check_stored(&f);
    expect_bytes(&f, 0, p, SMALL_MAX);
    file_write(&f, SMALL_MAX, p + SMALL_MAX, 1);
    assert_int_equal(f.ino.layout, LAYOUT_EXTENTS);
    assert_int_equal(f.ino.stored, SMALL_MAX + 1);
    check_stored(&f);
    expect_bytes(&f, 0, p, SMALL_MAX + 1);

    file_truncate(&f, 1);
    assert_int_equal(f.ino.layout, LAYOUT_EXTENTS);
    check_stored(&f);
    file_truncate(&f, 0);
    assert_int_equal(f.ino.layout, LAYOUT_INLINE);
    check_stored(&f);
    free(p);
    file_close(&f);
}

static void test_prefix_with_holes(void **state)
{
    (void)state;
    struct file f;
    file_open(&f);
    uint8_t want[9000] = {0};
    memcpy(want, "abc", 3);
    file_write(&f, 0, "abc", 3);
    file_truncate(&f, 200);
    expect_bytes(&f, 0, want, 200);
    uint64_t at;
    assert_int_equal(file_seek(&f, 0, SEEK_HOLE, &at), 0);
    assert_int_equal(at, 3);
    assert_int_equal(file_seek(&f, 3, SEEK_DATA, &at), -ENXIO);
    assert_int_equal(file_seek(&f, 199, SEEK_HOLE, &at), 0);
    assert_int_equal(at, 199);
    assert_int_equal(file_seek(&f, 200, SEEK_HOLE, &at), -ENXIO);
    assert_int_equal(file_seek(&f, 0, SEEK_SET, &at), -EINVAL);

    memcpy(want + 8000, "xyz", 3); /* few bytes stored, yet beyond a prefix: extents with a hole */
    file_write(&f, 8000, "xyz", 3);
    struct stored *s = check_stored(&f);
    assert_int_equal(s->extents_count, 2);
    assert_int_equal(f.ino.stored, 6);
    expect_bytes(&f, 0, want, 8003);
    file_close(&f);
}

static void test_becoming_extents_overlaps(void **state)
{
    (void)state;
    /* {old length, offset, length}: before, inside, touching, apart, in another chunk, over all */
    static const uint32_t cases[][3] = {
        {4096, 0, 4097},   {4000, 0, 8192},     {4000, 100, 8000}, {4000, 4000, 97},  {4000, 4050, 60},
        {4000, 65536, 10}, {4000, 65000, 2000}, {10, 4096, 1},     {300, 1, 1 << 20}, {4096, 4095, 2},
    };
    uint8_t *p = pattern(4096, 3), *q = pattern(1 << 20, 9), *want = malloc(2 << 20);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct file f;
        file_open(&f);
        memset(want, 0, 2 << 20);
        file_write(&f, 0, p, cases[i][0]);
        memcpy(want, p, cases[i][0]);
        file_write(&f, cases[i][1], q, cases[i][2]);
        memcpy(want + cases[i][1], q, cases[i][2]);
        assert_int_equal(f.ino.layout, LAYOUT_EXTENTS);
        check_stored(&f);
        uint64_t size = cases[i][1] + cases[i][2];
        size = size > cases[i][0] ? size : cases[i][0];
        assert_int_equal(f.ino.attr.size, size);
        expect_bytes(&f, 0, want, size > FS_WRITE_MAX ? FS_WRITE_MAX : size);
        file_close(&f);
    }
    free(p);
    free(q);
    free(want);
}

static void test_homes(void **state)
{
    (void)state;
    struct file f;
    file_open(&f);
    uint8_t *p = pattern(SMALL_MAX, 5);
    file_write(&f, 0, p, 3000);
    file_rehome(&f, &home_a);
    check_stored(&f);
    file_rehome(&f, &home_b); /* the key moves */
    assert_int_equal(f.ino.layout, LAYOUT_SMALL);
    check_stored(&f);
    file_rehome(&f, &home_memory);
    assert_int_equal(f.ino.layout, LAYOUT_INLINE);
    assert_int_equal(f.ino.data_len, 3000);
    check_stored(&f);
    file_write(&f, 3000, p + 3000, SMALL_MAX - 3000);
    assert_int_equal(f.ino.home.kind, HOME_MEMORY);
    check_stored(&f);
    file_rehome(&f, &home_a);
    assert_int_equal(f.ino.layout, LAYOUT_SMALL);
    expect_bytes(&f, 0, p, SMALL_MAX);
    file_truncate(&f, INLINE_MAX); /* back into the inode */
    assert_int_equal(f.ino.layout, LAYOUT_INLINE);
    check_stored(&f);
    file_rehome(&f, &home_own);
    assert_int_equal(f.ino.layout, LAYOUT_INLINE);
    file_write(&f, INLINE_MAX, p, 1); /* no place beside an entry any more */
    assert_int_equal(f.ino.layout, LAYOUT_EXTENTS);
    check_stored(&f);
    file_truncate(&f, 0);

    file_rehome(&f, &home_memory);
    file_write(&f, 0, p, 2000);
    file_rehome(&f, &home_own);
    assert_int_equal(f.ino.layout, LAYOUT_EXTENTS);
    check_stored(&f);
    expect_bytes(&f, 0, p, 2000);
    file_truncate(&f, 0);
    file_rehome(&f, &home_memory);
    file_write(&f, 5000, p, 1); /* too large for memory */
    assert_int_equal(f.ino.home.kind, HOME_OWN);
    assert_int_equal(f.ino.layout, LAYOUT_EXTENTS);
    check_stored(&f);
    free(p);
    file_close(&f);
}

/* Two small files change places within one batch, by way of memory as data.h tells. */
static void test_exchange(void **state)
{
    (void)state;
    struct file f;
    struct inode other = {.attr = {.id = FILE_ID + 1}, .home = home_b};
    file_open(&f);
    uint8_t *p = pattern(1000, 5), *q = pattern(2000, 90), got[2000];
    size_t n;
    file_write(&f, 0, p, 1000);
    assert_int_equal(data_write(f.db, &other, 0, q, 2000, f.batch), 0);
    file_commit(&f);
    assert_int_equal(data_rehome(f.db, &f.ino, &home_memory, f.batch), 0);
    assert_int_equal(data_rehome(f.db, &other, &home_a, f.batch), 0);
    assert_int_equal(data_rehome(f.db, &f.ino, &home_b, f.batch), 0);
    file_commit(&f);
    expect_bytes(&f, 0, p, 1000);
    assert_int_equal(data_read(f.db, &other, 0, got, sizeof got, &n), 0);
    assert_int_equal(n, 2000);
    assert_memory_equal(got, q, 2000);

    assert_int_equal(data_delete(f.db, &f.ino, f.batch), 0);
    assert_int_equal(data_delete(f.db, &other, f.batch), 0);
    file_commit(&f);
    assert_int_equal(look(&f)->small_count, 0);
    free(p);
    free(q);
    file_close(&f);
}

static void test_limits(void **state)
{
    (void)state;
    struct file f;
    file_open(&f);
    uint64_t at;
    bool more;
    const uint64_t last = FS_SIZE_MAX - 1;
    assert_int_equal(data_write(f.db, &f.ino, FS_SIZE_MAX, "x", 1, f.batch), -EFBIG);
    assert_int_equal(data_write(f.db, &f.ino, UINT64_MAX, "xy", 2, f.batch), -EFBIG);
    assert_int_equal(data_write(f.db, &f.ino, last, "xy", 2, f.batch), -EFBIG);
    assert_int_equal(data_truncate(f.db, &f.ino, UINT64_C(1) << 63, f.batch, &more), -EFBIG);
    assert_int_equal(data_punch(f.db, &f.ino, 5, FS_SIZE_MAX, f.batch, &at), -EFBIG);
    assert_int_equal(lsm_batch_count(f.batch), 0);
    file_write(&f, last, "x", 1);
    assert_int_equal(f.ino.attr.size, FS_SIZE_MAX);
    assert_int_equal(f.ino.stored, 1);
    check_stored(&f);
    expect_bytes(&f, last, (const uint8_t *)"x", 1);
    assert_int_equal(file_seek(&f, 0, SEEK_DATA, &at), 0);
    assert_int_equal(at, last);
    assert_int_equal(file_seek(&f, last, SEEK_HOLE, &at), 0);
    assert_int_equal(at, FS_SIZE_MAX);
    assert_int_equal(file_seek(&f, FS_SIZE_MAX, SEEK_HOLE, &at), -ENXIO);
    file_write(&f, last - 100000, "yyyy", 4);
    file_punch(&f, 0, FS_SIZE_MAX);
    assert_int_equal(f.ino.stored, 0);
    assert_int_equal(check_stored(&f)->extents_count, 0);
    assert_int_equal(f.ino.layout, LAYOUT_EXTENTS);
    uint8_t one;
    size_t got = 1;
    assert_int_equal(data_read(f.db, &f.ino, FS_SIZE_MAX, &one, 1, &got), 0);
    assert_int_equal(got, 0);
    file_close(&f);
}

static void test_cuts(void **state)
{
    (void)state;
    struct file f;
    file_open(&f);
    uint8_t *want = pattern(EXTENT_MAX * 3, 1), *q = pattern(EXTENT_MAX, 60);
    file_write(&f, 0, want, EXTENT_MAX * 3);
    assert_int_equal(check_stored(&f)->extents_count, 6);
    file_write(&f, 0, want, EXTENT_MAX * 3); /* the same keys again */
    assert_int_equal(check_stored(&f)->extents_count, 6);
    static const uint32_t writes[][2] = {
        {0, 1},         {EXTENT_MAX - 1, 2}, {100000, 100},         {EXTENT_MAX * 3 - 1, 1},
        {70000, 60000}, {131072, 4096},      {131072 + 8192, 4096}, {1, 1}};
    for (size_t i = 0; i < sizeof writes / sizeof *writes; i++) {
        memcpy(want + writes[i][0], q, writes[i][1]);
        file_write(&f, writes[i][0], q, writes[i][1]);
        check_stored(&f);
        expect_bytes(&f, 0, want, EXTENT_MAX * 3);
        assert_int_equal(f.ino.stored, EXTENT_MAX * 3);
    }
    static const uint32_t holes[][2] = {
        {5, 1}, {EXTENT_MAX - 1, 2}, {100001, 98}, {131072, EXTENT_MAX}, {0, 40},
    };
    for (size_t i = 0; i < sizeof holes / sizeof *holes; i++) {
        memset(want + holes[i][0], 0, holes[i][1]);
        file_punch(&f, holes[i][0], holes[i][1]);
        check_stored(&f);
        expect_bytes(&f, 0, want, EXTENT_MAX * 3);
    }
    for (uint32_t size = EXTENT_MAX * 3; size > 0; size -= size > 9973 ? 9973 : size) {
        file_truncate(&f, size);
        check_stored(&f);
        file_truncate(&f, EXTENT_MAX * 3);
        memset(want + size, 0, EXTENT_MAX * 3 - size);
        expect_bytes(&f, 0, want, EXTENT_MAX * 3);
    }
    free(want);
    free(q);
    file_close(&f);
}

/* More extents than one step deletes. */
static void test_steps(void **state)
{
    (void)state;
    struct file f;
    file_open(&f);
    const unsigned n = 3 * DATA_STEP + 10;
    for (unsigned round = 0; round < 4; round++) {
        for (uint64_t i = 0; i < n; i++)
            file_write(&f, i * EXTENT_MAX + 5, "data", 4);
        check_stored(&f);
        if (round == 0) {
            assert_int_equal(file_truncate(&f, 0), 1);
            assert_int_equal(f.ino.layout, LAYOUT_INLINE);
        } else if (round == 1) {
            assert_int_equal(file_truncate(&f, 7), 4);
            assert_int_equal(f.ino.stored, 7);
        } else if (round == 2) {
            assert_int_equal(file_punch(&f, 6, (n - 1) * (uint64_t)EXTENT_MAX), 4);
            assert_int_equal(f.ino.stored, 6 + 3);
        } else {
            lsm_batch_put(f.batch, key_xattr(FILE_ID, "user.a", 6).bytes, 15, "v", 1);
            file_commit(&f);
            data_reap(FILE_ID, f.batch);
            assert_int_equal(lsm_batch_count(f.batch), 1);
            file_commit(&f);
            struct stored *s = look(&f);
            assert_int_equal(s->extents_count + s->others + s->small_count, 0);
            break;
        }
        check_stored(&f);
    }
    file_close(&f);
}

static void test_seek(void **state)
{
    (void)state;
    struct file f;
    file_open(&f);
    uint8_t *p = pattern(EXTENT_MAX * 2, 1);
    uint64_t at;
    file_write(&f, 10000, p, EXTENT_MAX * 2);
    const uint64_t end = 10000 + EXTENT_MAX * 2;
    file_truncate(&f, end + 50000);
    assert_int_equal(file_seek(&f, 0, SEEK_HOLE, &at), 0);
    assert_int_equal(at, 0);
    assert_int_equal(file_seek(&f, 0, SEEK_DATA, &at), 0);
    assert_int_equal(at, 10000);
    assert_int_equal(file_seek(&f, 10000, SEEK_HOLE, &at), 0); /* over several extents */
    assert_int_equal(at, end);
    assert_int_equal(file_seek(&f, end - 1, SEEK_DATA, &at), 0);
    assert_int_equal(at, end - 1);
    assert_int_equal(file_seek(&f, end, SEEK_DATA, &at), -ENXIO);
    assert_int_equal(file_seek(&f, end, SEEK_HOLE, &at), 0);
    assert_int_equal(at, end);
    file_truncate(&f, end);
    file_write(&f, 0, p, 10000); /* dense: the hole is the one at the end */
    assert_int_equal(f.ino.stored, f.ino.attr.size);
    assert_int_equal(file_seek(&f, 5, SEEK_HOLE, &at), 0);
    assert_int_equal(at, end);
    free(p);
    file_close(&f);
}

/* Extents that can't be: refused, and the file can still be emptied. */
static void test_damage(void **state)
{
    (void)state;
    static const struct {
        uint64_t start, end;
        size_t len;
    } cases[] = {
        {200, 100, 100},
        {100, 100, 0},
        {100, 200, 99},
        {100, 200, 101},
        {0, 65537, 65537},
        {65000, 66000, 1000},
        {5000, 6000, 1000} /* overlaps */,
        {UINT64_MAX - 10, 5, 15},
        {0, 9000, 1},
        {UINT64_MAX, 100, 101},
    };
    uint8_t *p = pattern(80000, 1), buf[9000];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct file f;
        file_open(&f);
        file_write(&f, 5500, p, 500);
        file_truncate(&f, 1 << 20);
        uint8_t *value = calloc(1, cases[i].len + 8);
        put_le64(value, cases[i].start);
        struct key k = key_u64(FILE_ID, KEY_EXTENT, cases[i].end == 6000 ? 5900 : cases[i].end);
        lsm_batch_put(f.batch, k.bytes, k.len, value, cases[i].len + (cases[i].end == 6000 ? 8 - 100 : 8));
        file_commit(&f);
        size_t got;
        uint64_t at;
        bool more;
        int r = data_read(f.db, &f.ino, 0, buf, sizeof buf, &got);
        int r2 = data_read(f.db, &f.ino, 65000, buf, sizeof buf, &got);
        assert_true(r == -EIO || r2 == -EIO);
        r = data_write(f.db, &f.ino, 0, p, 80000, f.batch);
        assert_true(r == -EIO || r == 0);
        r = data_punch(f.db, &f.ino, 1, 80000, f.batch, &at);
        assert_true(r == -EIO || r == 0);
        r = data_seek(f.db, &f.ino, 0, SEEK_HOLE, &at);
        assert_true(r == -EIO || r == 0);
        lsm_batch_clear(f.batch);
        f.ino.stored = 1 << 20;
        assert_int_equal(data_truncate(f.db, &f.ino, 0, f.batch, &more), 0);
        file_commit(&f);
        check_stored(&f);
        assert_int_equal(f.ino.stored, 0);
        free(value);
        file_close(&f);
    }
    struct file f;
    file_open(&f);
    file_write(&f, 0, p, 1000);
    struct key k = key_small(home_a.parent, home_a.hash, home_a.index);
    size_t got;
    assert_int_equal(lsm_put(f.db, k.bytes, k.len, p, 999, 0), 0); /* not as long as the inode says */
    assert_int_equal(data_read(f.db, &f.ino, 0, buf, 10, &got), -EIO);
    assert_int_equal(lsm_delete(f.db, k.bytes, k.len, 0), 0);
    assert_int_equal(data_read(f.db, &f.ino, 0, buf, 10, &got), -EIO);
    f.ino.data_len = 1001;
    assert_int_equal(data_write(f.db, &f.ino, 5, p, 10, f.batch), -EIO);
    f.ino.layout = (enum inode_layout)7;
    assert_int_equal(data_read(f.db, &f.ino, 0, buf, 10, &got), -EIO);
    f.ino.layout = LAYOUT_INLINE;
    assert_int_equal(data_read(f.db, &f.ino, 0, buf, 10, &got), -EIO);
    file_close(&f);
    free(p);
}

/* ---- what rewriting costs ---- */

static void report(const char *what, const struct file *f, uint64_t user_bytes, size_t extents)
{
    printf("%-42s %6.2fx the bytes, %zu extents\n", what, (double)f->put_bytes / (double)user_bytes, extents);
}

static void append_all(size_t step, size_t total, double factor_max, size_t extents_max)
{
    struct file f;
    char what[64];
    file_open(&f);
    uint8_t *p = pattern(step, 1);
    for (size_t at = 0; at < total; at += step)
        file_write(&f, at, p, step);
    size_t n = check_stored(&f)->extents_count;
    snprintf(what, sizeof what, "appends of %zu", step);
    report(what, &f, total, n);
    assert_true((double)f.put_bytes < factor_max * (double)total);
    assert_true(n <= extents_max);
    free(p);
    file_close(&f);
}

static void test_cost_of_appends(void **state)
{
    (void)state;
    append_all(10, 100000, 32, 40); /* a third of it is the small file that it was at first */
    append_all(100, 1000000, 6, 60);
    append_all(1000, 2000000, 4, 90);
    append_all(4096, 4u << 20, 2.1, 128);
    append_all(5000, 4u << 20, 2.5, 160);
    append_all(16384, 4u << 20, 1.1, 256);
    append_all(131072, 8u << 20, 1.1, 256);
    append_all(1u << 20, 16u << 20, 1.01, 512);
}

/* Writes of `step` bytes at a time over a dense file, in sequence, backwards or at random. */
static void overwrite_all(const char *how, size_t step, unsigned writes, double factor_max,
                          size_t extents_max)
{
    const size_t size = 4u << 20;
    struct file f;
    char what[64];
    file_open(&f);
    uint8_t *p = pattern(1u << 20, 1);
    for (size_t at = 0; at < size; at += 1u << 20)
        file_write(&f, at, p, 1u << 20);
    f.put_bytes = 0;
    size_t slots = size / step;
    for (unsigned i = 0; i < writes; i++) {
        size_t slot = how[0] == 's' ? i % slots : how[0] == 'b' ? slots - 1 - i % slots : below(slots);
        file_write(&f, slot * step, p, step);
    }
    size_t n = check_stored(&f)->extents_count;
    snprintf(what, sizeof what, "%s overwrites of %zu", how, step);
    report(what, &f, (uint64_t)writes * step, n);
    assert_int_equal(f.ino.stored, size);
    assert_true((double)f.put_bytes < factor_max * (double)writes * (double)step);
    assert_true(n <= extents_max);
    free(p);
    file_close(&f);
}

static void test_cost_of_overwrites(void **state)
{
    (void)state;
    seed_start();
    overwrite_all("random", 4096, 64, 1.1, 1024); /* what they leave of an extent stays in its blob file */
    overwrite_all("random", 4096, 1024, 1.1, 1024);
    overwrite_all("random", 4096, 4096, 1.1, 1024);
    overwrite_all("sequential", 4096, 1024, 1.1, 1024);
    overwrite_all("backward", 4096, 1024, 1.1, 1024);
    overwrite_all("sequential", 100, 5000, 5, 4096);
    overwrite_all("random", 100, 5000, 25, 5000);
    overwrite_all("random", 65536, 256, 1.1, 128);
}

/* Bytes far apart in one chunk, the worst an adversary can do: the next large write stays a batch. */
static void test_cost_of_crumbs(void **state)
{
    (void)state;
    struct file f;
    file_open(&f);
    for (uint32_t at = 0; at < 2 * EXTENT_MAX; at += 2)
        file_write(&f, at % 4 ? at : 2 * EXTENT_MAX - at, "x", 1);
    size_t n = check_stored(&f)->extents_count;
    printf("crumbs: %zu extents in 2 chunks\n", n);
    file_punch(&f, 0, f.ino.attr.size);
    for (uint32_t at = 0; at < 4 * EXTENT_MAX; at += 129)
        file_write(&f, at, "x", 1);
    n = check_stored(&f)->extents_count;
    assert_true(n <= 4 * CHUNK_SPANS_MAX);
    uint8_t *p = pattern(EXTENT_MAX * 4, 1);
    file_write(&f, 0, p, 4 * EXTENT_MAX);
    assert_int_equal(check_stored(&f)->extents_count, 8);
    for (uint32_t at = 0; at + 128 < 4 * EXTENT_MAX; at += 128) /* what holes leave */
        file_punch(&f, at + 1, 127);
    check_stored(&f);
    free(p);
    file_close(&f);
}

/* ---- random operations against a plain model ---- */

#define NEAR_MAX (4u << 20)
#define FAR_BYTES (1u << 20)

struct model {
    uint64_t size, far_base;
    uint8_t *near_bytes, *far_bytes; /* [0, NEAR_MAX), [far_base, far_base + FAR_BYTES) */
};

static uint8_t *model_at(struct model *m, uint64_t off)
{
    if (off < NEAR_MAX)
        return m->near_bytes + off;
    assert_true(off >= m->far_base && off <= m->far_base + FAR_BYTES);
    return m->far_bytes + (off - m->far_base);
}

static void zero_part(uint8_t *bytes, uint64_t base, uint64_t bytes_len, uint64_t from, uint64_t to)
{
    from = from < base ? base : from;
    to = to > base + bytes_len ? base + bytes_len : to;
    if (from < to)
        memset(bytes + (from - base), 0, to - from);
}

static void model_zero(struct model *m, uint64_t from, uint64_t to)
{
    zero_part(m->near_bytes, 0, NEAR_MAX, from, to);
    zero_part(m->far_bytes, m->far_base, FAR_BYTES, from, to);
}

static void model_expect(struct model *m, struct file *f, uint64_t off, uint64_t len)
{
    assert_int_equal(m->size, f->ino.attr.size);
    if (off >= m->size)
        return;
    len = len > m->size - off ? m->size - off : len;
    if (off < NEAR_MAX && len > NEAR_MAX - off)
        len = NEAR_MAX - off;
    if (off >= NEAR_MAX && (off < m->far_base || off >= m->far_base + FAR_BYTES))
        return;
    for (uint64_t at = off; at < off + len; at += FS_WRITE_MAX) {
        uint64_t n = off + len - at < FS_WRITE_MAX ? off + len - at : FS_WRITE_MAX;
        expect_bytes(f, at, model_at(m, at), n);
    }
}

struct profile {
    const char *name;
    uint64_t span;    /* writes begin within it */
    uint32_t len_max; /* of a write */
    unsigned far_in;  /* one in so many operations goes far out; 0: none */
    unsigned ops;
};

static uint64_t pick_len(const struct profile *p)
{
    uint64_t len = 1 + below(UINT64_C(1) << below(21));
    return len > p->len_max ? 1 + below(p->len_max) : len;
}

static uint64_t pick_off(const struct profile *p, const struct model *m, uint64_t room)
{
    if (p->far_in && below(p->far_in) == 0)
        return m->far_base + below(FAR_BYTES - room);
    uint64_t off = below(3) ? below(p->span) : below(1 + (m->size < p->span ? m->size : p->span));
    if (below(3) == 0)
        off &= ~(UINT64_C(1) << (8 + below(9))) + 1; /* aligned to 256 .. 64 Ki */
    return off + room > NEAR_MAX ? NEAR_MAX - room : off;
}

static void check_seek(struct file *f, const struct stored *s, uint64_t off)
{
    if (off >= f->ino.attr.size)
        return;
    uint64_t data = UINT64_MAX, hole = off, got;
    if (f->ino.layout != LAYOUT_EXTENTS) {
        data = off < f->ino.data_len ? off : UINT64_MAX;
        hole = off < f->ino.data_len ? f->ino.data_len : off;
    }
    for (size_t i = 0; i < s->extents_count; i++) {
        if (s->extents[i].end > off && data == UINT64_MAX)
            data = s->extents[i].start > off ? s->extents[i].start : off;
        if (s->extents[i].start <= hole && s->extents[i].end > hole)
            hole = s->extents[i].end;
    }
    int r = file_seek(f, off, SEEK_DATA, &got);
    assert_int_equal(r, data == UINT64_MAX ? -ENXIO : 0);
    assert_true(r || got == data);
    assert_int_equal(file_seek(f, off, SEEK_HOLE, &got), 0);
    assert_int_equal(got, hole);
}

/* An operation that fails later (no commit) must leave nothing behind. */
static void abandoned_write(struct file *f, uint64_t off, const uint8_t *buf, size_t len)
{
    struct inode saved = f->ino;
    if (saved.data) {
        saved.data = malloc(saved.data_len ? saved.data_len : 1);
        memcpy(saved.data, f->ino.data, saved.data_len);
    }
    assert_int_equal(data_write(f->db, &f->ino, off, buf, len, f->batch), 0);
    lsm_batch_clear(f->batch);
    free(f->ino.data);
    f->ino = saved;
}

static void random_op(const struct profile *p, struct file *f, struct model *m)
{
    static uint8_t buf[FS_WRITE_MAX];
    static const struct inode_home *homes[] = {&home_a, &home_b, &home_own, &home_memory};
    uint64_t len = pick_len(p), off = pick_off(p, m, len), kind = below(100);
    if (kind < 50) {
        if (kind < 15 && m->size + len <= NEAR_MAX)
            off = m->size;
        memset(buf, (int)(1 + below(255)), len);
        for (uint64_t i = 0; i < 16 && i < len; i++)
            buf[below(len)] = (uint8_t)rnd();
        if (below(20) == 0)
            abandoned_write(f, off, buf, len);
        file_write(f, off, buf, len);
        memcpy(model_at(m, off), buf, len);
        m->size = off + len > m->size ? off + len : m->size;
    } else if (kind < 65) {
        uint64_t size = kind == 50 ? 0 : off;
        file_truncate(f, size);
        model_zero(m, size, UINT64_MAX);
        m->size = size;
    } else if (kind < 85) {
        len = kind == 65 && off < m->far_base ? FS_SIZE_MAX - off : len;
        file_punch(f, off, len);
        model_zero(m, off, off + len);
    } else if (kind < 95) {
        model_expect(m, f, off, len);
    } else {
        const struct inode_home *to = homes[below(4)];
        if (to->kind != HOME_MEMORY || f->ino.layout != LAYOUT_EXTENTS)
            file_rehome(f, to);
    }
}

static void run_profile(const struct profile *p)
{
    struct file f;
    struct model m = {.far_base = below(2) ? FS_SIZE_MAX - FAR_BYTES : (UINT64_C(1) << (30 + below(30)))};
    m.near_bytes = calloc(1, NEAR_MAX);
    m.far_bytes = calloc(1, FAR_BYTES);
    assert_true(m.near_bytes && m.far_bytes);
    file_open(&f);
    for (unsigned i = 0; i < p->ops; i++) {
        random_op(p, &f, &m);
        struct stored *s = check_stored(&f);
        check_seek(&f, s, below(m.size + 1));
        check_seek(&f, s, below(p->span));
        model_expect(&m, &f, below(p->span), 20000);
        if (i % 64 == 0) {
            model_expect(&m, &f, 0, NEAR_MAX);
            model_expect(&m, &f, m.far_base, FAR_BYTES);
        }
    }
    model_expect(&m, &f, 0, NEAR_MAX);
    model_expect(&m, &f, m.far_base, FAR_BYTES);
    printf("%s: %u operations, largest batch %llu bytes\n", p->name, p->ops,
           (unsigned long long)f.batch_peak);
    free(m.near_bytes);
    free(m.far_bytes);
    file_close(&f);
}

static void test_random(void **state)
{
    (void)state;
    static const struct profile profiles[] = {
        {"inline", 300, 100, 0, 3000},           {"small", 6000, 3000, 0, 3000},
        {"one chunk", 70000, 9000, 0, 3000},     {"crumbs", 70000, 40, 0, 6000},
        {"some chunks", 300000, 70000, 0, 2000}, {"large", 3u << 20, 1u << 20, 0, 400},
        {"sparse", 1u << 20, 200000, 5, 1000},   {"small and far", 3000, 500, 20, 3000},
    };
    seed_start();
    for (size_t i = 0; i < sizeof profiles / sizeof *profiles; i++)
        run_profile(&profiles[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growing_through_layouts),
        cmocka_unit_test(test_prefix_with_holes),
        cmocka_unit_test(test_becoming_extents_overlaps),
        cmocka_unit_test(test_homes),
        cmocka_unit_test(test_exchange),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_seek),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_cost_of_appends),
        cmocka_unit_test(test_cost_of_overwrites),
        cmocka_unit_test(test_cost_of_crumbs),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
