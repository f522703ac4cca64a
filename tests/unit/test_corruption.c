/*
 * test_corruption.c - every kind of file of a store, damaged in every way: what comes out is the right
 * data or a clean error with a line in the log that names the place; lsm_verify finds it; repair makes
 * an openable store out of what is whole.
 *
 * A store with every kind of object is built once, closed, and kept as bytes. A trial changes them,
 * opens the store read-only and read-write, and reads everything: names, attributes, contents, links, extended
 * attributes. Since the store was closed cleanly, everything in it had been promised: nothing may be missing without
 * an error either.
 *
 * Quick form: a stride over the bytes, chosen by SHALE_SEED. With SHALE_LONG=1: every byte.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "store.h"
#include "store_image.h"
#include "wal_format.h"
#include <errno.h>
#include <time.h>
#include <xxhash.h>

#define STORE "/store"
#define SHARDS 2u

static const struct fs_caller me = {.uid = 1000, .gid = 2000};
static struct image closed;       /* the store, closed cleanly */
static uint64_t log_from, log_to; /* LSNs of what is needed of its log */
static bool thorough;
static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = random_state;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}
static uint64_t below(uint64_t n) { return next_random() % n; }

static char doing[120];  /* the damage of this trial */
static bool log_damaged; /* ... was in the log, and the store is open read-only up to there */
static bool repaired;    /* things may be missing, but what is there is right, and nothing is damaged */

#define wrong(...)                    \
    do {                              \
        print_message("%s\n", doing); \
        fail_msg(__VA_ARGS__);        \
    } while (0)

static bool has_suffix(const char *name, const char *suffix)
{
    size_t a = strlen(name), b = strlen(suffix);
    return a >= b && !strcmp(name + a - b, suffix);
}

/* ---- an env whose random numbers are those of the seed ---- */

static uint64_t env_random_state;
static struct env_ops seeded_ops;

static int seeded_random(struct env *e, void *buf, size_t len)
{
    (void)e;
    for (size_t i = 0; i < len; i++) {
        env_random_state = env_random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        ((uint8_t *)buf)[i] = (uint8_t)(env_random_state >> 56);
    }
    return 0;
}

static struct env *seeded_env(void)
{
    struct env *env = env_mem_new();
    assert_non_null(env);
    seeded_ops = *env->ops;
    seeded_ops.random = seeded_random;
    env->ops = &seeded_ops;
    return env;
}

/* ---- messages ---- */

static unsigned error_lines;
static char last_error[600], all_errors[2000];

static void on_log(void *arg, enum lsm_log_level level, const char *message)
{
    (void)arg;
    if (level != LSM_LOG_ERROR)
        return;
    error_lines++;
    size_t len = strlen(all_errors);
    snprintf(all_errors + len, sizeof(all_errors) - len, "%s\n", message);
    snprintf(last_error, sizeof(last_error), "%s", message);
}

static struct fs_options options_of(struct env *env, unsigned flags)
{
    return (struct fs_options){.lsm = {.flags = flags | LSM_INLINE,
                                       .shards = SHARDS,
                                       .memory_bytes = 16u << 20,
                                       .write_buffer_bytes = 1u << 20,
                                       .block_bytes = 1024,
                                       .env = env,
                                       .log = on_log,
                                       .log_segment_bytes = 1u << 20}};
}

/* ---- what the store holds ---- */

enum kind { FILE_PLAIN, FILE_LINKED, FILE_SYMLINK, FILE_DIR };

struct expected {
    const char *path;
    enum kind kind;
    size_t bytes;
    uint8_t fill;
    bool xattr;
};

/* Three generations: compacted, in a table of level 0, in the log only. */
static const struct expected tree[] = {
    {"/", FILE_DIR, 0, 0, false},
    {"/old", FILE_DIR, 0, 0, false},
    {"/old/inline", FILE_PLAIN, 100, 'a', false},
    {"/old/small", FILE_PLAIN, 900, 'b', false},
    {"/old/page", FILE_PLAIN, 4096, 'c', true},
    {"/old/large", FILE_PLAIN, 9000, 'd', false},
    {"/old/linked", FILE_LINKED, 6000, 'e', false},
    {"/old/link", FILE_LINKED, 6000, 'e', false},
    {"/old/sym", FILE_SYMLINK, 40, 'f', false},
    {"/old/changed", FILE_PLAIN, 700, 'H', false},
    {"/old/dir", FILE_DIR, 0, 0, false},
    {"/old/dir/deep", FILE_PLAIN, 300, 'g', false},
    {"/mid", FILE_DIR, 0, 0, false},
    {"/mid/inline", FILE_PLAIN, 0, 'a', false},
    {"/mid/small", FILE_PLAIN, 1100, 'i', true},
    {"/mid/large", FILE_PLAIN, 5000, 'j', false},
    {"/mid/sym", FILE_SYMLINK, 300, 'k', false},
    {"/new", FILE_DIR, 0, 0, false},
    {"/new/inline", FILE_PLAIN, 10, 'l', false},
    {"/new/small", FILE_PLAIN, 2000, 'm', false},
    {"/new/large", FILE_PLAIN, 7000, 'n', false},
};
#define TREE_SIZE (sizeof(tree) / sizeof(tree[0]))
#define XATTR_BYTES 500u

static void fill(uint8_t *buf, const struct expected *e)
{
    for (size_t i = 0; i < e->bytes; i++)
        buf[i] = (uint8_t)(e->fill + i % 7);
}

/* The directory of a path, and the name in it. A reference is taken. */
static fs_id parent_of(struct fs *fs, const char *path, const char **name)
{
    char dir[100];
    struct fs_attr a;
    *name = strrchr(path, '/') + 1;
    snprintf(dir, sizeof(dir), "%.*s", (int)(*name - path), path);
    assert_int_equal(fs_walk(fs, dir, &a), 0);
    return a.id;
}

static void make_one(struct fs *fs, const struct expected *e)
{
    uint8_t buf[16384], value[XATTR_BYTES];
    const char *name;
    struct fs_attr a, first;
    if (!e->path[1])
        return;
    fs_id dir = parent_of(fs, e->path, &name);
    size_t len = strlen(name);
    fill(buf, e);
    if (e->kind == FILE_DIR) {
        assert_int_equal(fs_mkdir(fs, &me, dir, name, len, 0755, &a), 0);
    } else if (e->kind == FILE_SYMLINK) {
        assert_int_equal(fs_symlink(fs, &me, dir, name, len, (char *)buf, e->bytes, &a), 0);
    } else if (!strcmp(e->path, "/old/link")) {
        assert_int_equal(fs_walk(fs, "/old/linked", &first), 0);
        assert_int_equal(fs_link(fs, first.id, dir, name, len, &a), 0);
        fs_forget(fs, first.id, 1);
    } else {
        assert_int_equal(fs_mknod(fs, &me, dir, name, len, S_IFREG | 0640, 0, &a), 0);
        if (e->bytes)
            assert_int_equal(fs_write(fs, a.id, 0, buf, e->bytes), 0);
        memset(value, e->fill, sizeof(value));
        if (e->xattr)
            assert_int_equal(fs_setxattr(fs, a.id, "user.test", value, sizeof(value), 0), 0);
    }
    fs_forget(fs, a.id, 1);
    fs_forget(fs, dir, 1);
}

static void make_matching(struct fs *fs, const char *prefix)
{
    for (size_t i = 0; i < TREE_SIZE; i++)
        if (strncmp(tree[i].path, prefix, strlen(prefix)) == 0)
            make_one(fs, &tree[i]);
}

static void remove_one(struct fs *fs, const char *path)
{
    const char *name;
    fs_id dir = parent_of(fs, path, &name);
    assert_int_equal(fs_unlink(fs, dir, name, strlen(name)), 0);
    fs_forget(fs, dir, 1);
}

static void work_off(struct fs *fs)
{
    while (fs_work(fs) == 1)
        continue;
}

/* Things that are deleted or overwritten later: they must never be seen again. */
static void make_old(struct fs *fs)
{
    static const struct expected doomed[] = {
        {"/gone", FILE_PLAIN, 800, 'y', false},
        {"/gone-large", FILE_PLAIN, 9000, 'z', false},
        {"/old/gone", FILE_PLAIN, 30, 'x', false},
    };
    make_matching(fs, "/old");
    for (size_t i = 0; i < sizeof(doomed) / sizeof(doomed[0]); i++)
        make_one(fs, &doomed[i]);
    struct fs_attr a;
    assert_int_equal(fs_walk(fs, "/old/changed", &a), 0);
    assert_int_equal(fs_write(fs, a.id, 0, "older contents", 14), 0);
    fs_forget(fs, a.id, 1);
}

static void make_mid(struct fs *fs)
{
    uint8_t buf[700];
    struct fs_attr a;
    make_matching(fs, "/mid");
    remove_one(fs, "/gone");
    remove_one(fs, "/gone-large");
    work_off(fs);
    assert_int_equal(fs_walk(fs, "/old/changed", &a), 0);
    fill(buf, &tree[9]);
    assert_int_equal(fs_write(fs, a.id, 0, buf, sizeof(buf)), 0);
    fs_forget(fs, a.id, 1);
}

static struct fs *open_fs(struct env *env, unsigned flags)
{
    struct fs_options o = options_of(env, flags);
    struct fs *fs;
    assert_int_equal(fs_open(STORE, &o, &fs), 0);
    return fs;
}

static void compact_all(struct fs *fs)
{
    assert_int_equal(lsm_flush(fs_lsm(fs)), 0);
    while (lsm_work(fs_lsm(fs)) == 1)
        continue;
}

static void build(void)
{
    struct env *env = seeded_env();
    struct fs *fs = open_fs(env, LSM_CREATE);
    make_old(fs);
    compact_all(fs);
    make_mid(fs);
    compact_all(fs);
    make_matching(fs, "/new");
    remove_one(fs, "/old/gone");
    work_off(fs);
    struct lsm_stats *st = malloc(sizeof(*st));
    assert_non_null(st);
    lsm_stats_get(fs_lsm(fs), st);
    log_from = st->log_start;
    log_to = st->log_frontier;
    free(st);
    assert_int_equal(fs_close(fs), 0);
    image_take(&closed, env, STORE);
    env_mem_free(env);
}

/* ---- reading everything ---- */

struct seen {
    unsigned good, errors;
};

/* A clean error; anything else is wrong data. */
static void saw_error(struct seen *s, int r, const char *what, const char *path)
{
    if ((r != -EIO && r != -EUCLEAN) || repaired)
        wrong("%s %s: error %d is neither data nor a report of damage", what, path, r);
    s->errors++;
}

static void read_contents(struct fs *fs, const struct expected *e, fs_id id, struct seen *s)
{
    uint8_t want[16384], got[16384];
    size_t n;
    fill(want, e);
    int r = e->kind == FILE_SYMLINK ? fs_readlink(fs, id, (char *)got, sizeof(got), &n)
                                    : fs_read(fs, id, 0, got, sizeof(got), &n);
    if (r < 0) {
        saw_error(s, r, "read", e->path);
        return;
    }
    bool older = log_damaged && (n < e->bytes || !strcmp(e->path, "/old/changed"));
    if (!older && (n != e->bytes || memcmp(got, want, n) != 0))
        wrong("%s: wrong contents", e->path);
    s->good++;
    if (!e->xattr)
        return;
    r = fs_getxattr(fs, id, "user.test", got, sizeof(got), &n);
    if (r == -ENODATA && (log_damaged || repaired))
        return;
    if (r < 0) {
        saw_error(s, r, "getxattr", e->path);
        return;
    }
    assert_int_equal(n, XATTR_BYTES);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(got[i], e->fill);
}

struct listed {
    const char *dir;
    uint64_t found; /* bits of tree[] */
    uint64_t next;
    bool called;
};

static bool list_one(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct listed *l = arg;
    char path[400];
    (void)attr;
    l->next = next;
    l->called = true;
    if (name[0] == '.')
        return true;
    snprintf(path, sizeof(path), "%s/%.*s", l->dir[1] ? l->dir : "", (int)len, name);
    for (size_t i = 0; i < TREE_SIZE; i++)
        if (!strcmp(tree[i].path, path)) {
            assert_false(l->found >> i & 1);
            l->found |= UINT64_C(1) << i;
            return true;
        }
    if ((log_damaged && strstr(path, "gone")) || (repaired && !strcmp(path, "/lost+found")))
        return true;
    wrong("%s must not be there", path);
    return false;
}

static void read_directory(struct fs *fs, const struct expected *e, fs_id id, struct seen *s)
{
    struct listed l = {.dir = e->path};
    size_t len = strlen(e->path);
    int r;
    do { /* an error behind entries that were delivered is for the next call */
        l.called = false;
        r = fs_readdir(fs, id, l.next, false, list_one, &l);
    } while (r == 0 && l.called);
    if (r < 0) {
        saw_error(s, r, "readdir", e->path);
        return;
    }
    for (size_t i = 1; i < TREE_SIZE; i++) {
        const char *rest = tree[i].path + (len == 1 ? 0 : len);
        bool inside =
            (len == 1 || !strncmp(tree[i].path, e->path, len)) && rest[0] == '/' && !strchr(rest + 1, '/');
        if (inside && !(l.found >> i & 1) && !log_damaged && !repaired)
            wrong("%s is missing in its directory", tree[i].path);
    }
    s->good++;
}

static void read_one(struct fs *fs, const struct expected *e, struct seen *s)
{
    struct fs_attr a;
    int r = fs_walk(fs, e->path, &a);
    if (r == -ENOENT && (log_damaged || repaired)) {
        s->errors += !repaired;
        return;
    }
    if (r < 0) {
        saw_error(s, r, "lookup", e->path);
        return;
    }
    static const uint32_t modes[] = {S_IFREG | 0640, S_IFREG | 0640, S_IFLNK | 0777, S_IFDIR | 0755};
    if (a.mode != modes[e->kind] && !(repaired && a.mode == (S_IFDIR | 0700)))
        wrong("%s has mode %o", e->path, a.mode);
    if (e->kind == FILE_LINKED && !log_damaged && !repaired)
        assert_int_equal(a.nlink, 2);
    if (e->kind == FILE_DIR) {
        read_directory(fs, e, a.id, s);
    } else {
        if (a.size != e->bytes && !log_damaged)
            wrong("%s has %llu bytes", e->path, (unsigned long long)a.size);
        read_contents(fs, e, a.id, s);
    }
    fs_forget(fs, a.id, 1);
}

static struct seen read_all(struct fs *fs)
{
    struct seen s = {0};
    static const char *const gone[] = {"/gone", "/gone-large", "/old/gone"};
    struct fs_attr a;
    unsigned lines = error_lines;
    for (size_t i = 0; i < TREE_SIZE; i++)
        read_one(fs, &tree[i], &s);
    for (size_t i = 0; i < 3; i++) {
        int r = fs_walk(fs, gone[i], &a);
        if (r != -ENOENT && !(r == 0 && log_damaged))
            saw_error(&s, r, "lookup", gone[i]);
    }
    if (s.errors && error_lines == lines && !log_damaged)
        wrong("%u errors and no line in the log; the last one was '%s'", s.errors, last_error);
    return s;
}

/* ---- trials ---- */

enum outcome { WHOLE, PARTLY, REFUSED };
static unsigned trials, outcomes[3], found_by_verify, noted_by_verify;

static enum outcome read_opened(struct env *env, unsigned flags)
{
    struct fs_options o = options_of(env, flags);
    struct fs *fs;
    error_lines = 0;
    last_error[0] = all_errors[0] = '\0';
    int r = fs_open(STORE, &o, &fs);
    if (r < 0) {
        bool empty = r == -EMEDIUMTYPE && flags & LSM_RDONLY && strstr(all_errors, ".log");
        if (r != -EUCLEAN && r != -EIO && r != -ENOENT && !empty)
            wrong("opening failed with %d", r);
        if (r != -ENOENT && !error_lines)
            wrong("opening failed with %d and no line in the log", r);
        return REFUSED;
    }
    /*
     * Read-only, a store whose log is damaged shows what is before the damage, after saying so. For
     * writing it is refused.
     */
    log_damaged = strstr(all_errors, ".log") != NULL;
    assert_true(!log_damaged || flags & LSM_RDONLY);
    struct seen s = read_all(fs);
    s.errors += log_damaged;
    log_damaged = false;
    if (!(flags & LSM_RDONLY)) { /* flush and compaction must not make anything worse */
        r = lsm_flush(fs_lsm(fs));
        for (int i = 0; r == 0 && i < 100 && lsm_work(fs_lsm(fs)) == 1; i++)
            continue;
        struct seen again = read_all(fs);
        if (again.errors > s.errors)
            wrong("after flush and compaction %u errors instead of %u", again.errors, s.errors);
    }
    (void)fs_close(fs); /* may report what could not be flushed */
    return s.errors ? PARTLY : WHOLE;
}

static void ignore_problem(void *arg, const struct lsm_problem *p)
{
    (void)arg;
    assert_non_null(p->file);
    assert_true(p->what[0]);
}

static void ignore_fs_problem(void *arg, const struct fs_problem *p)
{
    (void)arg;
    assert_true(p->what[0]);
}

static struct lsm_verified verify(struct env *env, uint64_t *tree_problems)
{
    struct fs_options o = options_of(env, 0);
    struct lsm_verified v;
    struct fs_checked checked = {0};
    assert_int_equal(lsm_verify(STORE, &o.lsm, ignore_problem, NULL, &v), 0);
    if (!v.unreadable) {
        int r = fs_check(STORE, &o, ignore_fs_problem, NULL, &checked);
        if (r != 0 && r != -EUCLEAN && r != -EIO && !(r == -EMEDIUMTYPE && v.damaged))
            wrong("fs_check: %d", r);
    }
    *tree_problems = checked.problems;
    return v;
}

/* ---- repair of the engine's files ---- */

struct pair {
    uint8_t key[KEY_FS_MAX];
    size_t key_len;
    uint64_t hash; /* of the value */
};
static struct pair *pairs; /* of the undamaged store, in order */
static size_t pair_count;
static uint64_t keys_before, keys_after;
static unsigned repairs, rebuilt, trees_repaired;

static struct lsm *open_engine(struct env *env, unsigned flags)
{
    struct fs_options o = options_of(env, flags);
    struct lsm *db;
    fs_lsm_options(&o.lsm);
    int r = lsm_open(STORE, &o.lsm, &db);
    if (r < 0)
        wrong("the engine does not open: %d, %s", r, last_error);
    return db;
}

/* Calls fn for each pair of the store; returns their number. */
static size_t scan_pairs(struct env *env, unsigned flags, void (*fn)(const struct pair *p, size_t i))
{
    struct lsm *db = open_engine(env, flags);
    struct lsm_iter_options options = {0};
    struct lsm_iter *it;
    size_t n = 0;
    assert_int_equal(lsm_iter_new(db, &options, &it), 0);
    for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it)) {
        struct pair p;
        size_t len;
        const void *key = lsm_iter_key(it, &p.key_len);
        assert_true(p.key_len <= sizeof(p.key));
        memcpy(p.key, key, p.key_len);
        const void *value = lsm_iter_value(it, &len);
        p.hash = XXH3_64bits_withSeed(value, len, len);
        fn(&p, n++);
    }
    if (lsm_iter_status(it) != 0)
        wrong("reading the repaired store: %d", lsm_iter_status(it));
    lsm_iter_free(it);
    assert_int_equal(lsm_close(db), 0);
    return n;
}

static void keep_pair(const struct pair *p, size_t i)
{
    pairs = realloc(pairs, (i + 1) * sizeof(*pairs));
    assert_non_null(pairs);
    pairs[i] = *p;
}

static bool log_was_cut;

static void compare_pair(const struct pair *p, size_t i)
{
    size_t low = 0, high = pair_count;
    (void)i;
    if (log_was_cut)
        return; /* then older values are right */
    while (low < high) {
        size_t mid = (low + high) / 2;
        int c =
            memcmp(pairs[mid].key, p->key, pairs[mid].key_len < p->key_len ? pairs[mid].key_len : p->key_len);
        c = c ? c : (pairs[mid].key_len > p->key_len) - (pairs[mid].key_len < p->key_len);
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == pair_count || pairs[low].key_len != p->key_len ||
        memcmp(pairs[low].key, p->key, p->key_len) != 0)
        wrong("a key that was not there");
    if (pairs[low].hash != p->hash)
        wrong("a key with another value");
}

static void note_repair(void *arg, const struct lsm_problem *p)
{
    (void)arg;
    log_was_cut |= p->damage && (has_suffix(p->file, ".log") || !strcmp(p->file, "MANIFEST"));
}

static char repair_reports[8000];

static void note_fs_problem(void *arg, const struct fs_problem *p)
{
    (void)arg;
    size_t len = strlen(repair_reports);
    snprintf(repair_reports + len, sizeof(repair_reports) - len, "  %s %llu: %s\n", p->path ? p->path : "-",
             (unsigned long long)p->id, p->what);
}

/* Then the tree: afterwards nothing is damaged, and what has its name still has its contents. */
static void repair_tree(struct env *env)
{
    struct fs_options o = options_of(env, 0);
    struct fs_checked checked;
    struct fs *fs;
    repair_reports[0] = '\0';
    int r = fs_repair_tree(STORE, &o, note_fs_problem, NULL, &checked);
    if (r == -EUCLEAN || r == -EMEDIUMTYPE)
        return; /* the superblock was in a block that is lost */
    if (r < 0)
        wrong("repairing the tree: %d", r);
    snprintf(repair_reports + strlen(repair_reports), 20, "after:\n");
    r = fs_check(STORE, &o, note_fs_problem, NULL, &checked);
    if (r < 0 || checked.problems)
        wrong("the tree is still damaged after its repair (%d):\n%s", r, repair_reports);
    trees_repaired++;
    repaired = true;
    log_damaged = log_was_cut;
    r = fs_open(STORE, &o, &fs);
    if (r < 0)
        wrong("the repaired store does not open: %d", r);
    read_all(fs);
    repaired = log_damaged = false;
    assert_int_equal(fs_close(fs), 0);
}

/* Repairs, and checks that what comes out opens, is whole, and holds nothing that was not there. */
static void repair_trial(const struct image *im, const struct image_file *except, const char *what)
{
    struct env *env = image_env(im, STORE, except);
    struct fs_options o = options_of(env, 0);
    struct lsm_repaired r;
    struct lsm_verified v;
    fs_lsm_options(&o.lsm);
    snprintf(doing, sizeof(doing), "repair: %s", what);
    log_was_cut = false;
    int err = lsm_repair(STORE, &o.lsm, note_repair, NULL, &r);
    if (err)
        wrong("repair failed with %d", err);
    repairs++;
    rebuilt += r.rebuilt;
    assert_int_equal(lsm_verify(STORE, &o.lsm, ignore_problem, NULL, &v), 0);
    if (v.damaged)
        wrong("still damaged after the repair");
    size_t left = scan_pairs(env, LSM_RDONLY, compare_pair);
    keys_before += pair_count;
    keys_after += left;
    if (getenv("SHALE_VERBOSE"))
        print_message("%s: %zu of %zu keys are left, %llu known to be lost\n", doing, left, pair_count,
                      (unsigned long long)r.keys_lost);
    scan_pairs(env, 0, compare_pair);
    repair_tree(env);
    err = lsm_repair(STORE, &o.lsm, note_repair, NULL, &r);
    if (err || r.done)
        wrong("repaired twice: %d", err);
    env_mem_free(env);
}

/* `im` holds damaged bytes. `must_find`: the check has to say so. `except` as for image_env. */
static void trial(const struct image *im, const struct image_file *except, bool must_find, const char *what)
{
    uint64_t tree_problems;
    trials++;
    snprintf(doing, sizeof(doing), "%s", what);
    struct env *env = image_env(im, STORE, except);
    struct lsm_verified v = verify(env, &tree_problems);
    enum outcome ro = read_opened(env, LSM_RDONLY);
    enum outcome rw = read_opened(env, 0);
    outcomes[rw]++;
    found_by_verify += v.damaged > 0;
    noted_by_verify += v.damaged == 0 && v.notes > 0;
    if ((ro != WHOLE || rw != WHOLE) && v.damaged + tree_problems == 0)
        wrong("reading failed, but the check found nothing");
    if (tree_problems && !v.damaged)
        wrong("the tree is damaged, the files are not");
    if (must_find && v.damaged + v.notes == 0)
        wrong("not found by the check");
    env_mem_free(env);
    if (v.damaged && (thorough || trials % 3 == 0))
        repair_trial(im, except, what);
}

static void begin_count(void)
{
    repairs = rebuilt = trees_repaired = 0;
    keys_before = keys_after = 0;
    trials = found_by_verify = noted_by_verify = 0;
    memset(outcomes, 0, sizeof(outcomes));
}
static void end_count(const char *what)
{
    print_message("%s: %u trials; read-write %u whole, %u partly, %u refused; check: %u damage, %u noted\n",
                  what, trials, outcomes[WHOLE], outcomes[PARTLY], outcomes[REFUSED], found_by_verify,
                  noted_by_verify);
    print_message(
        "  repaired %u times, %u of them without a manifest, %u trees: %.1f %% of all keys are left\n",
        repairs, rebuilt, trees_repaired,
        100.0 * (double)keys_after / (double)(keys_before ? keys_before : 1));
}

/* The bytes of a file that mean something: [*from, result). */
static uint64_t meaningful(const struct image_file *f, uint64_t *from)
{
    *from = 0;
    if (!strcmp(f->name, "LOCK") || !strcmp(f->name, "RESERVE"))
        return 0;
    if (!has_suffix(f->name, ".log"))
        return f->size;
    uint64_t base = get_le64(f->bytes + WAL_AT_LSN);
    if (get_le32(f->bytes) != WAL_MAGIC || base >= log_to || base + f->size <= log_from)
        return 0;
    *from = log_from > base ? log_from - base : 0;
    return log_to - base < f->size ? log_to - base : f->size;
}

static uint64_t stride(uint64_t bytes, uint64_t wanted)
{
    return thorough || bytes <= wanted ? 1 : bytes / wanted;
}

static void flip_bytes(struct image_file *f, uint64_t wanted)
{
    uint64_t from, end = meaningful(f, &from), step = stride(end - from, wanted);
    char what[100];
    for (uint64_t at = from + (step > 1 ? below(step) : 0); at < end; at += step) {
        uint8_t flip = (uint8_t)(1u << below(8));
        f->bytes[at] ^= flip;
        snprintf(what, sizeof(what), "%s: bit %#x flipped at %llu", f->name, flip, (unsigned long long)at);
        trial(&closed, NULL, true, what);
        f->bytes[at] ^= flip;
    }
}

static void test_flipped(void **state)
{
    (void)state;
    for (int log = 0; log < 2; log++) {
        begin_count();
        for (size_t i = 0; i < closed.count; i++)
            if (has_suffix(closed.file[i].name, ".log") == (bool)log)
                flip_bytes(&closed.file[i], log ? 300 : 150);
        end_count(log ? "flipped, log" : "flipped, tables and manifest");
    }
}

/* Ranges overwritten by zeros or by other bytes of the same store. */
static void test_ranges(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {8, 64, 512, 4096};
    char what[100];
    uint8_t saved[4096];
    begin_count();
    for (size_t i = 0; i < closed.count; i++) {
        struct image_file *f = &closed.file[i];
        uint64_t from, end = meaningful(f, &from), bytes = end - from;
        for (unsigned n = 0; bytes && n < (thorough ? 400u : 24u); n++) {
            uint64_t len = lengths[below(4)], at = from + (below(bytes) & ~UINT64_C(7));
            len = len < end - at ? len : end - at;
            memcpy(saved, f->bytes + at, len);
            if (n % 2)
                memset(f->bytes + at, 0, len);
            else
                memmove(f->bytes + at, f->bytes + (below(end - len + 1) & ~UINT64_C(7)), len);
            bool same = memcmp(saved, f->bytes + at, len) == 0;
            snprintf(what, sizeof(what), "%s: %llu bytes %s at %llu", f->name, (unsigned long long)len,
                     n % 2 ? "zeroed" : "from elsewhere", (unsigned long long)at);
            trial(&closed, NULL, !same, what);
            memcpy(f->bytes + at, saved, len);
        }
    }
    end_count("ranges");
}

static void test_truncated(void **state)
{
    (void)state;
    char what[100];
    begin_count();
    for (size_t i = 0; i < closed.count; i++) {
        struct image_file *f = &closed.file[i];
        uint64_t from, end = meaningful(f, &from), size = f->size, step = stride(end, 40);
        for (uint64_t at = 0; at < end; at += step) {
            f->size = at;
            snprintf(what, sizeof(what), "%s: cut at %llu", f->name, (unsigned long long)at);
            /* A manifest cut between two records is an older one; what it lacks, the log has. */
            trial(&closed, NULL, strcmp(f->name, "MANIFEST") != 0, what);
        }
        f->size = size;
    }
    end_count("truncated");
}

/* A file is missing, or another of its kind stands in its place. */
static void test_swapped_files(void **state)
{
    (void)state;
    char what[100];
    begin_count();
    for (size_t i = 0; i < closed.count; i++) {
        struct image_file *f = &closed.file[i];
        uint64_t from;
        if (!meaningful(f, &from))
            continue;
        snprintf(what, sizeof(what), "%s: missing", f->name);
        trial(&closed, f, true, what);
        for (size_t j = 0; j < closed.count; j++) {
            struct image_file kept = *f, *other = &closed.file[j];
            if (i == j || !has_suffix(other->name, strchr(f->name, '.') ? strchr(f->name, '.') : f->name))
                continue;
            f->bytes = other->bytes;
            f->size = other->size;
            snprintf(what, sizeof(what), "%s: replaced by %s", f->name, other->name);
            trial(&closed, NULL, true, what);
            *f = kept;
        }
    }
    end_count("missing or swapped files");
}

/* Blocks of one table exchanged. */
static void test_swapped_blocks(void **state)
{
    (void)state;
    char what[100];
    begin_count();
    for (size_t i = 0; i < closed.count; i++) {
        struct image_file *f = &closed.file[i];
        for (unsigned n = 0; has_suffix(f->name, ".sst") && f->size > 4096 && n < (thorough ? 200u : 20u);
             n++) {
            uint8_t a[512], b[512];
            uint64_t x = below(f->size / 512) * 512, y = below(f->size / 512) * 512;
            memcpy(a, f->bytes + x, sizeof(a));
            memcpy(b, f->bytes + y, sizeof(b));
            memcpy(f->bytes + x, b, sizeof(b));
            memcpy(f->bytes + y, a, sizeof(a));
            snprintf(what, sizeof(what), "%s: %llu and %llu exchanged", f->name, (unsigned long long)x,
                     (unsigned long long)y);
            trial(&closed, NULL, memcmp(a, b, sizeof(a)) != 0, what);
            memcpy(f->bytes + x, a, sizeof(a));
            memcpy(f->bytes + y, b, sizeof(b));
        }
    }
    end_count("exchanged blocks");
}

/* ---- older versions of a file ---- */

#define MOMENTS_MAX 40u

/*
 * A file that grows along with the store while it is being used, with flushes, so that segments are used again and
 * tables come and go. At each moment the store is closed and kept.
 */
static unsigned live_history(struct image *moments, uint8_t *contents)
{
    struct env *env = seeded_env();
    static uint8_t buf[FS_WRITE_MAX / 8];
    struct fs_attr a;
    unsigned n = 0;
    for (; n < MOMENTS_MAX; n++) {
        struct fs *fs = open_fs(env, LSM_CREATE);
        memset(buf, (int)(n + 1), sizeof(buf));
        if (n == 0)
            assert_int_equal(fs_mknod(fs, &me, FS_ID_ROOT, "f", 1, S_IFREG | 0644, 0, &a), 0);
        else
            assert_int_equal(fs_walk(fs, "/f", &a), 0);
        assert_int_equal(fs_write(fs, a.id, 0, buf, n % 3 ? sizeof(buf) : 100), 0);
        if (n % 4 == 3)
            compact_all(fs);
        fs_forget(fs, a.id, 1);
        assert_int_equal(fs_close(fs), 0);
        contents[n] = (uint8_t)(n + 1);
        image_take(&moments[n], env, STORE);
    }
    env_mem_free(env);
    return n;
}

/* The first byte of the file; 0: not there; negative: an error. */
static int first_byte(struct env *env, unsigned flags)
{
    struct fs_options o = options_of(env, flags);
    struct fs *fs;
    struct fs_attr a;
    uint8_t byte = 0;
    size_t got;
    error_lines = 0;
    all_errors[0] = '\0';
    int r = fs_open(STORE, &o, &fs);
    if (r < 0) {
        if ((r != -EUCLEAN && r != -EIO && r != -EMEDIUMTYPE) || !error_lines)
            wrong("opening failed with %d and %u lines in the log", r, error_lines);
        return r;
    }
    if (flags & LSM_RDONLY &&
        strstr(all_errors, ".log")) { /* it says so, and shows what is before the damage */
        fs_close(fs);
        return -EUCLEAN;
    }
    r = fs_walk(fs, "/f", &a);
    if (r == 0) {
        r = fs_read(fs, a.id, 0, &byte, 1, &got);
        fs_forget(fs, a.id, 1);
    } else if (r == -ENOENT) {
        r = 0;
    }
    (void)fs_close(fs);
    return r < 0 ? r : byte;
}

static void test_older_file(void **state)
{
    (void)state;
    static struct image moments[MOMENTS_MAX];
    static uint8_t contents[MOMENTS_MAX];
    unsigned n = live_history(moments, contents), whole = 0, refused = 0;
    for (unsigned now = 1; now < n; now += thorough ? 1 : 3)
        for (size_t i = 0; i < moments[now].count; i++)
            for (unsigned before = 0; before < now; before += thorough ? 1 : 2) {
                struct image_file *f = &moments[now].file[i], kept = *f;
                struct image_file *old = image_find(&moments[before], f->name);
                uint64_t problems;
                if (!old || (old->size == f->size && !memcmp(old->bytes, f->bytes, f->size)))
                    continue;
                f->bytes = old->bytes;
                f->size = old->size;
                snprintf(doing, sizeof(doing), "%s of moment %u in moment %u", f->name, before, now);
                struct env *env = image_env(&moments[now], STORE, NULL);
                struct lsm_verified v = verify(env, &problems);
                for (int mode = 0; mode < 2; mode++) {
                    int got = first_byte(env, mode ? 0 : LSM_RDONLY);
                    if (got >= 0 && got != contents[now])
                        wrong("contents of moment %d", got - 1);
                    if (got < 0 && !v.damaged)
                        wrong("refused, but the check found nothing");
                    whole += got >= 0;
                    refused += got < 0;
                }
                env_mem_free(env);
                *f = kept;
            }
    for (unsigned i = 0; i < n; i++)
        image_free(&moments[i]);
    print_message("older files: %u times the right contents, %u times refused\n", whole, refused);
    assert_true(whole > 0 && refused > 0);
}

/* ---- torn against corrupt ---- */

/* A store that was killed: its last changes are not promised. */
static void test_torn_tail(void **state)
{
    (void)state;
    struct env *env = seeded_env();
    struct fs *fs = open_fs(env, LSM_CREATE);
    struct image im;
    unsigned torn = 0, corrupt = 0;
    make_matching(fs, "/old");
    assert_int_equal(fs_sync(fs), 0);
    struct lsm_stats *st = malloc(sizeof(*st));
    assert_non_null(st);
    lsm_stats_get(fs_lsm(fs), st);
    make_matching(fs, "/mid");
    uint64_t synced = st->log_synced;
    lsm_stats_get(fs_lsm(fs), st);
    uint64_t frontier = st->log_frontier;
    image_take(&im, env, STORE); /* as a killed process leaves it */
    assert_int_equal(fs_close(fs), 0);
    env_mem_free(env);
    assert_true(frontier > synced);
    struct image_file *f = NULL;
    for (size_t i = 0; i < im.count && !f; i++)
        if (has_suffix(im.file[i].name, ".log") && get_le32(im.file[i].bytes) == WAL_MAGIC)
            f = &im.file[i];
    assert_non_null(f);
    uint64_t base = get_le64(f->bytes + WAL_AT_LSN), step = stride(frontier - base, 400);
    for (uint64_t at = below(step); at < frontier - base; at += step) {
        f->bytes[at] ^= 0x10;
        struct env *e = image_env(&im, STORE, NULL);
        struct fs_options o = options_of(e, 0);
        struct lsm_verified v;
        error_lines = 0;
        assert_int_equal(lsm_verify(STORE, &o.lsm, ignore_problem, NULL, &v), 0);
        int r = fs_open(STORE, &o, &fs);
        bool promised = base + at < synced;
        /* Who knows what was promised is a later record or the manifest: neither may have been written yet. */
        if (!promised) {
            assert_int_equal(r, 0);
            assert_int_equal(v.damaged, 0);
            torn++;
        } else if (r < 0) {
            assert_int_equal(r, -EUCLEAN);
            assert_true(v.damaged > 0 && strstr(last_error, f->name));
            corrupt++;
        } else {
            assert_int_equal(v.damaged, 0);
            torn++;
        }
        if (r == 0)
            assert_int_equal(fs_close(fs), 0);
        env_mem_free(e);
        f->bytes[at] ^= 0x10;
    }
    print_message("torn or corrupt: %u torn, %u corrupt; synced %llu of %llu bytes\n", torn, corrupt,
                  (unsigned long long)(synced - base), (unsigned long long)(frontier - base));
    assert_true(torn > 0 && corrupt > 0);
    free(st);
    image_free(&im);
}

static void test_undamaged(void **state)
{
    (void)state;
    uint64_t problems;
    struct env *env = image_env(&closed, STORE, NULL);
    struct lsm_verified v = verify(env, &problems);
    assert_int_equal(v.damaged + v.notes + problems, 0);
    assert_true(v.tables >= 2 && v.log_records > 0);
    assert_int_equal(read_opened(env, LSM_RDONLY), WHOLE);
    assert_int_equal(read_opened(env, 0), WHOLE);
    env_mem_free(env);
}

static int setup(void **state)
{
    (void)state;
    const char *seed = getenv("SHALE_SEED"), *lengthy = getenv("SHALE_LONG");
    random_state = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    env_random_state = random_state;
    thorough = lengthy && *lengthy && strcmp(lengthy, "0") != 0;
    print_message("replay with SHALE_SEED=%llu%s test_corruption\n", (unsigned long long)random_state,
                  thorough ? " SHALE_LONG=1" : "");
    build();
    struct env *env = image_env(&closed, STORE, NULL);
    pair_count = scan_pairs(env, LSM_RDONLY, keep_pair);
    env_mem_free(env);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    image_free(&closed);
    free(pairs);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_undamaged),     cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_ranges),        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_swapped_files), cmocka_unit_test(test_swapped_blocks),
        cmocka_unit_test(test_older_file),    cmocka_unit_test(test_torn_tail),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
