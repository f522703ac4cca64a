/*
 * test_version.c - version sets with real tables: a shard's whole life against a naive model, with
 * flushes, compactions, reopening and orphans; faults at every call; readers beside a writer.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "compact.h"
#include "compact_model.h"
#include "coding.h"
#include "fault_env.h"
#include "vset_internal.h"

#include <inttypes.h>
#include <pthread.h>

#define DIR "/store"
#define SHARDS 2u
#define KEYS 1000u
#define HISTORY_MAX 60000u
#define SNAPSHOTS_MAX 3u

struct store {
    struct env *env;
    struct cache *cache;
    struct table_reader_stats stats;
    struct logger log;
    struct vset *vs;
    struct vset_options options;
    struct entries history[SHARDS]; /* everything ever flushed, in the order of compare_entries */
    uint64_t seq, number_max;
    uint64_t snapshots[SNAPSHOTS_MAX]; /* ascending */
    size_t snapshot_count;
};

static void quiet(void *arg, enum lsm_log_level level, const char *message)
{
    (void)level;
    if (getenv("SHALE_VERBOSE"))
        puts(message);
    ++*(unsigned *)arg;
}
static unsigned messages;

static void open_on(struct store *s, struct env *env)
{
    s->options.env = env;
    assert_int_equal(vset_open(&s->options, &s->vs), 0);
}

static void store_init(struct store *s, size_t table_bytes)
{
    memset(s, 0, sizeof *s);
    s->env = env_mem_new();
    s->log = (struct logger){.fn = quiet, .arg = &messages};
    assert_int_equal(env_mkdir(s->env, DIR), 0);
    assert_int_equal(cache_new(1 << 20, &s->cache), 0);
    s->options = (struct vset_options){.env = s->env,
                                       .dir = DIR,
                                       .cache = s->cache,
                                       .reader_stats = &s->stats,
                                       .log = s->log,
                                       .level_ratio = 3,
                                       .table_bytes = table_bytes,
                                       .write_buffer_bytes = table_bytes};
    struct store_identity identity = {.shards = SHARDS, .log_segment_bytes = WAL_SEGMENT_MIN};
    assert_int_equal(vset_create(&s->options, &identity), 0);
    assert_int_equal(vset_create(&s->options, &identity), -EEXIST);
    open_on(s, s->env);
    for (unsigned i = 0; i < SHARDS; i++)
        s->history[i].list = calloc(HISTORY_MAX, sizeof(struct entry));
    s->seq = 10;
}

static void store_free(struct store *s)
{
    if (s->vs)
        vset_close(s->vs);
    cache_free(s->cache);
    env_mem_free(s->env);
    for (unsigned i = 0; i < SHARDS; i++)
        free(s->history[i].list);
}

static int setup(void **state)
{
    model_reseed(NULL);
    struct store *s = malloc(sizeof *s);
    store_init(s, 1500);
    *state = s;
    return 0;
}
static int teardown(void **state)
{
    store_free(*state);
    free(*state);
    return 0;
}

/* ---- what the store does ---- */

/* Never twice, over all openings, if anything was ever named so. */
static void check_new_number(struct store *s)
{
    uint64_t n = vset_new_number(s->vs);
    assert_true(n > s->number_max);
    if (model_below(2))
        return;
    struct wal_use use = {n, 8, 1, 1 << 20, 0};
    assert_int_equal(vset_apply(s->vs, &(struct edit){.use = &use, .log_start = 1 << 21}, NULL, NULL), 0);
    s->number_max = n;
}

static void note_numbers(struct store *s, const struct compact_result *r)
{
    for (size_t i = 0; i < r->count; i++) {
        assert_true(r->tables[i].number > s->number_max);
        s->number_max = r->tables[i].number;
    }
}

static struct compact_job job_of(struct store *s, struct env *env, struct iter *input, uint64_t entries)
{
    return (struct compact_job){.env = env,
                                .dir = DIR,
                                .vs = s->vs,
                                .log = &s->log,
                                .input = input,
                                .expected_entries = entries,
                                .snapshots = s->snapshots,
                                .snapshot_count = s->snapshot_count,
                                .merge = affine,
                                .block_bytes = 512};
}

/* New entries of a shard, also put into the model's history. */
static struct entries new_entries(struct store *s, unsigned shard, size_t count)
{
    bool few = model_below(2);
    struct entries e = random_entries(count, few ? KEYS / 20 : KEYS, 60);
    for (size_t i = 0; i < count; i++)
        e.list[i].seq += s->seq;
    s->seq += count + 20;
    struct entries *h = &s->history[shard];
    assert_true(h->count + count <= HISTORY_MAX);
    memcpy(h->list + h->count, e.list, count * sizeof *e.list);
    h->count += count;
    qsort(h->list, h->count, sizeof *h->list, compare_entries);
    return e;
}

static struct compact_result write_tables(struct store *s, struct env *env, const struct entries *e)
{
    struct array_iter it;
    array_iter_init(&it, e);
    struct compact_job job = job_of(s, env, &it.base, e->count);
    struct compact_result r;
    assert_int_equal(compact_run(&job, &r), 0);
    note_numbers(s, &r);
    return r;
}

struct published {
    unsigned calls;
    struct version *version;
};
static void publish(void *arg, struct version *v)
{
    struct published *p = arg;
    p->calls++;
    p->version = v;
}

static void apply(struct store *s, const struct edit *e, unsigned shard)
{
    struct published p = {0};
    assert_int_equal(vset_apply(s->vs, e, publish, &p), 0);
    assert_int_equal(p.calls, 1);
    assert_ptr_equal(p.version, vset_current(s->vs, shard));
}

static struct edit_file *files_of(const struct compact_result *r, unsigned shard, unsigned level)
{
    struct edit_file *f = calloc(r->count + 1, sizeof *f);
    for (size_t i = 0; i < r->count; i++)
        f[i] = (struct edit_file){shard, level, r->tables[i]};
    return f;
}

static struct edit flush_edit(struct store *s, const struct compact_result *r, unsigned shard)
{
    return (struct edit){.add = files_of(r, shard, 0),
                         .add_count = r->count,
                         .has_flushed = true,
                         .flushed_shard = shard,
                         .flushed = s->seq,
                         .synced = s->seq};
}

static void flush(struct store *s, unsigned shard)
{
    struct entries e = new_entries(s, shard, model_below(80));
    struct compact_result r = write_tables(s, s->env, &e);
    struct edit edit = flush_edit(s, &r, shard);
    apply(s, &edit, shard);
    assert_int_equal(vset_flushed(s->vs, shard), s->seq);
    assert_int_equal(vset_synced(s->vs), s->seq);
    free(edit.add);
    compact_result_free(&r);
    free(e.list);
}

static struct compact_result merge_inputs(struct store *s, const struct compaction *c)
{
    struct iter **children = calloc(c->count[0] + c->count[1], sizeof *children), *merged;
    size_t n = 0;
    uint64_t entries = 0;
    for (unsigned w = 0; w < 2; w++)
        for (size_t i = 0; i < c->count[w]; i++) {
            assert_int_equal(table_iter_new(c->inputs[w][i]->table, LSM_NOFILL, &children[n++]), 0);
            entries += c->inputs[w][i]->meta.entries;
        }
    assert_int_equal(merge_iter_new(children, n, &merged), 0);
    free(children);
    struct compact_job job = job_of(s, s->env, merged, entries);
    job.bottom = c->bottom;
    job.max_output_bytes = c->max_output_bytes;
    job.grandparent = c->to + 1 < LSM_LEVELS ? &c->version->levels[c->to + 1] : NULL;
    struct compact_result r;
    assert_int_equal(compact_run(&job, &r), 0);
    note_numbers(s, &r);
    iter_free(merged);
    return r;
}

static bool compact(struct store *s, unsigned shard, bool all)
{
    uint64_t oldest = s->snapshot_count ? s->snapshots[0] : SEQ_MAX;
    struct compaction c;
    struct version *v = vset_current(s->vs, shard);
    if (!(all ? compaction_pick_all(s->vs, v, oldest, SEQ_MAX, &c)
              : compaction_pick(s->vs, v, oldest, false, &c)))
        return false;
    struct edit_file *remove = calloc(c.count[0] + c.count[1], sizeof *remove);
    struct edit e = {.remove = remove};
    for (unsigned w = 0; w < 2; w++)
        for (size_t i = 0; i < c.count[w]; i++)
            remove[e.remove_count++] = (struct edit_file){shard, w ? c.to : c.from, c.inputs[w][i]->meta};
    struct compact_result r = {0};
    struct edit_file moved = {shard, c.to, c.inputs[0][0]->meta};
    if (!c.trivial)
        r = merge_inputs(s, &c);
    e.add = c.trivial ? &moved : files_of(&r, shard, c.to);
    e.add_count = c.trivial ? 1 : r.count;
    apply(s, &e, shard);
    if (!c.trivial)
        free(e.add);
    compact_result_free(&r);
    free(remove);
    compaction_release(&c);
    return true;
}

/* ---- checking ---- */

static struct reading get(struct version *v, const uint8_t *key, uint64_t seq)
{
    uint64_t a = 1, b = 0; /* what the operands seen so far do */
    bool operands = false;
    unsigned level = 0;
    size_t index = 0;
    for (;;) {
        struct ikey k;
        const uint8_t *value;
        size_t len;
        struct table *t;
        struct cache_block *pin;
        int rc = version_get(v, key, 8, seq, 0, &level, &index, &k, &value, &len, &t, &pin);
        if (rc == -ENOENT)
            return (struct reading){operands, a * NOTHING + b};
        assert_int_equal(rc, 0);
        assert_true(k.seq <= seq);
        uint64_t v0 = len >= 8 ? get_le64(value) : 0, v1 = len >= 16 ? get_le64(value + 8) : 0;
        table_release(t, pin);
        if (k.type == ENTRY_PUT)
            return (struct reading){true, a * v0 + b};
        if (k.type == ENTRY_DELETE)
            return (struct reading){operands, a * NOTHING + b};
        b += a * v1;
        a *= v0;
        operands = true;
        if (k.seq == 0)
            return (struct reading){true, a * NOTHING + b};
        seq = k.seq - 1;
    }
}

static void check_reads(struct store *s, unsigned shard, uint64_t seq)
{
    struct version *v = vset_current(s->vs, shard);
    for (uint64_t k = 0; k < KEYS + 1; k++) {
        uint8_t key[8];
        put_be64(key, k);
        struct reading expected = read_at(&s->history[shard], key, seq, (struct reading){0}),
                       found = get(v, key, seq);
        assert_int_equal(found.exists, expected.exists);
        if (expected.exists)
            assert_int_equal(found.value, expected.value);
    }
}

static struct iter *whole_iter(struct version *v)
{
    struct iter **children = calloc(version_iter_max(v) + 1, sizeof *children), *merged;
    size_t n = 0;
    assert_int_equal(version_iters(v, 0, children, &n), 0);
    assert_true(n <= version_iter_max(v));
    assert_int_equal(merge_iter_new(children, n, &merged), 0);
    free(children);
    return merged;
}

/* Forwards, backwards and by seeking the same entries come, as many as the tables say. */
static void check_iteration(struct store *s, unsigned shard)
{
    struct version *v = vset_current(s->vs, shard);
    uint64_t expected = 0;
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; i < v->levels[l].count; i++)
            expected += v->levels[l].files[i]->meta.entries;
    struct iter *it = whole_iter(v), *other = whole_iter(v);
    uint64_t n = 0;
    for (iter_first(it); it->valid; iter_next(it), n++) {
        if (n % 7)
            continue;
        iter_seek(other, it->key.key, it->key.len, it->key.seq);
        assert_true(other->valid);
        assert_int_equal(other->key.seq, it->key.seq);
    }
    assert_int_equal(it->status, 0);
    assert_int_equal(n, expected);
    for (iter_last(it); it->valid; iter_prev(it))
        n--;
    assert_int_equal(it->status, 0);
    assert_int_equal(n, 0);
    iter_free(it);
    iter_free(other);
}

struct directory {
    struct vset *vs;
    size_t tables, others;
};

static bool is_named(struct vset *vs, uint64_t number)
{
    for (unsigned sh = 0; sh < SHARDS; sh++)
        for (unsigned l = 0; l < LSM_LEVELS; l++)
            for (size_t i = 0; i < vset_current(vs, sh)->levels[l].count; i++)
                if (vset_current(vs, sh)->levels[l].files[i]->meta.number == number)
                    return true;
    return false;
}

static int look_at(void *arg, const char *name)
{
    struct directory *d = arg;
    if (!strstr(name, ".sst")) {
        d->others++;
        return 0;
    }
    d->tables++;
    assert_true(is_named(d->vs, strtoull(name, NULL, 10)));
    return 0;
}

/* Exactly the tables of the current versions are there; statistics agree. */
static void check_directory(struct store *s, size_t others)
{
    struct directory d = {s->vs, 0, 0};
    vset_collect(s->vs);
    assert_int_equal(env_list(s->env, DIR, look_at, &d), 0);
    struct lsm_stats *stats = calloc(1, sizeof *stats);
    vset_stats(s->vs, stats);
    size_t tables = 0;
    for (unsigned sh = 0; sh < SHARDS; sh++)
        for (unsigned l = 0; l < LSM_LEVELS; l++)
            tables += stats->shard[sh].files[l];
    assert_int_equal(d.tables, tables);
    assert_int_equal(d.others, others);
    assert_true(stats->manifest_bytes > 0);
    free(stats);
}

static void check_all(struct store *s, size_t others)
{
    for (unsigned shard = 0; shard < SHARDS; shard++) {
        check_reads(s, shard, SEQ_MAX);
        for (size_t i = 0; i < s->snapshot_count; i++)
            check_reads(s, shard, s->snapshots[i]);
        check_iteration(s, shard);
    }
    check_directory(s, others);
}

/* ---- tests ---- */

static void touch(struct env *env, const char *path)
{
    struct env_file *f;
    assert_int_equal(env_open(env, path, ENV_WRITE | ENV_CREATE, &f), 0);
    env_close(f);
}

static void reopen(struct store *s)
{
    if (model_below(2)) { /* output of a compaction that was not installed */
        struct entries e = random_entries(20, 5, 0);
        struct compact_result r = write_tables(s, s->env, &e);
        compact_result_free(&r);
        free(e.list);
    }
    lsn_t synced = vset_synced(s->vs), flushed = vset_flushed(s->vs, 0);
    assert_int_equal(vset_close(s->vs), 0);
    if (model_below(2))
        touch(s->env, DIR "/MANIFEST.new");
    open_on(s, s->env);
    assert_int_equal(vset_synced(s->vs), synced);
    assert_int_equal(vset_flushed(s->vs, 0), flushed);
}

static void change_snapshots(struct store *s)
{
    if (s->snapshot_count && model_below(2)) { /* release one */
        size_t i = model_below(s->snapshot_count--);
        memmove(&s->snapshots[i], &s->snapshots[i + 1], (s->snapshot_count - i) * sizeof s->snapshots[0]);
    } else if (s->snapshot_count < SNAPSHOTS_MAX) {
        s->snapshots[s->snapshot_count++] = s->seq;
    }
}

static void test_whole_life(void **state)
{
    struct store *s = *state;
    static const char *const foreign[] = {DIR "/notes.sst", DIR "/12.sst", DIR "/0000012.sst",
                                          DIR "/000012.sst.old"};
    touch(s->env, DIR "/lost+found");
    touch(s->env, DIR "/000777.log");
    s->number_max = 777; /* numbers of other files count as soon as the directory is read */
    assert_int_equal(vset_close(s->vs), 0);
    open_on(s, s->env);
    for (int round = 0; round < 600; round++) {
        switch (model_below(8)) {
        case 0: change_snapshots(s); break;
        case 1: reopen(s); break;
        case 2:
        case 3:
            while (compact(s, (unsigned)model_below(SHARDS), false))
                ;
            break;
        default: flush(s, (unsigned)model_below(SHARDS));
        }
        check_new_number(s);
        if (round % 20 == 19)
            check_all(s, 3);
    }
    while (compact(s, 0, true))
        ;
    check_all(s, 3);
    s->snapshot_count = 0;
    for (unsigned shard = 0; shard < SHARDS; shard++) {
        while (compact(s, shard, true))
            ;
        for (unsigned l = 0; l + 1 < LSM_LEVELS; l++)
            assert_int_equal(vset_current(s->vs, shard)->levels[l].count, 0);
    }
    check_all(s, 3);
    /* What only looks like a table is left alone. */
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        touch(s->env, foreign[i]);
    assert_int_equal(vset_close(s->vs), 0);
    open_on(s, s->env);
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        assert_int_equal(env_unlink(s->env, foreign[i]), 0);
    check_all(s, 3);
}

static void check_uses(struct store *s, const uint64_t *numbers, size_t n)
{
    for (int pass = 0; pass < 2; pass++) {
        size_t count;
        const struct wal_use *uses = vset_uses(s->vs, &count);
        assert_int_equal(count, n);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(uses[i].number, numbers[i]);
            assert_true(i == 0 || uses[i].base > uses[i - 1].base);
        }
        assert_int_equal(vset_close(s->vs), 0);
        open_on(s, s->env);
    }
}

static void test_log_bookkeeping(void **state)
{
    struct store *s = *state;
    const uint64_t mib = 1 << 20;
    for (uint64_t i = 1; i <= 4; i++) {
        struct wal_use use = {i, i * mib, 1000 + i, mib, 0};
        assert_int_equal(vset_apply(s->vs, &(struct edit){.use = &use}, NULL, NULL), 0);
    }
    check_uses(s, (uint64_t[]){1, 2, 3, 4}, 4);
    assert_true(vset_new_number(s->vs) > 4);
    /* Recovery found the end in segment 3 and goes on in 9: 4 holds nothing. */
    struct wal_use next = {9, 7 * mib, 1, mib, 0};
    struct edit end = {.use = &next, .has_log_end = true, .log_end_number = 3, .log_end = 3 * mib + 800};
    assert_int_equal(vset_apply(s->vs, &end, NULL, NULL), 0);
    check_uses(s, (uint64_t[]){1, 2, 3, 9}, 4);
    size_t count;
    assert_int_equal(vset_uses(s->vs, &count)[2].end, 3 * mib + 800);
    /* Segment 2 is used again, 1 is needed no more. */
    struct wal_use again = {2, 8 * mib, 1, mib, 0};
    assert_int_equal(vset_apply(s->vs, &(struct edit){.use = &again, .log_start = 2 * mib}, NULL, NULL), 0);
    check_uses(s, (uint64_t[]){3, 9, 2}, 3);
    assert_int_equal(vset_apply(s->vs, &(struct edit){.log_start = 3 * mib + 800}, NULL, NULL), 0);
    check_uses(s, (uint64_t[]){9, 2}, 2);
    /* Late news of older positions change nothing. */
    assert_int_equal(vset_apply(s->vs, &(struct edit){.log_start = mib, .synced = 5}, NULL, NULL), 0);
    assert_int_equal(vset_log_start(s->vs), 3 * mib + 800);
}

static uint64_t manifest_size(struct store *s)
{
    struct env_file *f;
    uint64_t bytes;
    assert_int_equal(env_open(s->env, DIR "/MANIFEST", ENV_READ, &f), 0);
    assert_int_equal(env_size(f, &bytes), 0);
    env_close(f);
    return bytes;
}

static void test_rollover_by_growth(void **state)
{
    struct store *s = *state;
    flush(s, 0);
    flush(s, 1);
    struct lsm_stats *stats = calloc(1, sizeof *stats);
    for (uint64_t i = 1; i <= 40000; i++)
        assert_int_equal(vset_apply(s->vs, &(struct edit){.synced = s->seq + i}, NULL, NULL), 0);
    vset_stats(s->vs, stats);
    assert_true(stats->manifest_rollovers >= 1);
    assert_true(manifest_size(s) < (1 << 20) + 1000);
    assert_int_equal(stats->manifest_bytes, manifest_size(s));
    free(stats);
    assert_int_equal(vset_close(s->vs), 0);
    open_on(s, s->env);
    assert_int_equal(vset_synced(s->vs), s->seq + 40000);
    check_all(s, 1);
}

static void first_table(struct store *s, char *path, size_t size)
{
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        if (vset_current(s->vs, 0)->levels[l].count) {
            table_path(DIR, vset_current(s->vs, 0)->levels[l].files[0]->meta.number, path, size);
            return;
        }
    fail();
}

static void test_missing_and_damaged_tables(void **state)
{
    struct store *s = *state;
    char path[64];
    do
        flush(s, 0);
    while (!vset_current(s->vs, 0)->levels[0].count);
    first_table(s, path, sizeof path);
    assert_int_equal(vset_close(s->vs), 0);
    struct env_file *f;
    uint64_t bytes;
    uint8_t byte;
    assert_int_equal(env_open(s->env, path, ENV_READ | ENV_WRITE, &f), 0);
    assert_int_equal(env_size(f, &bytes), 0);
    assert_int_equal(env_pread(f, &byte, 1, bytes - 1), 1);
    byte ^= 1;
    assert_int_equal(env_pwrite(f, &byte, 1, bytes - 1), 0);
    assert_int_equal(vset_open(&s->options, &s->vs), -EUCLEAN);
    byte ^= 1;
    assert_int_equal(env_pwrite(f, &byte, 1, bytes - 1), 0);
    env_close(f);
    open_on(s, s->env); /* nothing was deleted by the failed one */
    check_all(s, 1);
    assert_int_equal(vset_close(s->vs), 0);
    assert_int_equal(env_rename(s->env, path, DIR "/aside"), 0);
    assert_int_equal(vset_open(&s->options, &s->vs), -EUCLEAN);
    assert_int_equal(env_rename(s->env, DIR "/aside", path), 0);
    open_on(s, s->env);
    check_all(s, 1);
}

static void test_read_only_changes_nothing(void **state)
{
    struct store *s = *state;
    flush(s, 0);
    assert_int_equal(vset_close(s->vs), 0);
    touch(s->env, DIR "/555555.sst");
    touch(s->env, DIR "/MANIFEST.new");
    struct fault_env faults;
    fault_env_init(&faults, s->env);
    s->options.read_only = true;
    open_on(s, &faults.base);
    check_reads(s, 0, SEQ_MAX);
    assert_int_equal(vset_close(s->vs), 0);
    assert_int_equal(faults.calls, 0);
    s->options.read_only = false;
    open_on(s, s->env);
    check_all(s, 1);
}

/* One edit with a rollover behind it, with `count` failing calls from `at` on. Returns whether any call failed. */
static bool apply_with_fault(struct store *s, uint64_t at, uint64_t count, int error)
{
    struct fault_env faults;
    fault_env_init(&faults, s->env);
    assert_int_equal(vset_close(s->vs), 0);
    open_on(s, &faults.base);
    struct entries before = {malloc(HISTORY_MAX * sizeof(struct entry)), s->history[0].count};
    memcpy(before.list, s->history[0].list, before.count * sizeof(struct entry));
    struct entries e = new_entries(s, 0, 1 + model_below(20));
    struct compact_result r = write_tables(s, &faults.base, &e);
    struct edit edit = flush_edit(s, &r, 0);
    s->vs->rollover_bytes = model_below(2) ? 0 : UINT64_MAX;
    faults.error = error;
    faults.fail_from = faults.calls + at;
    faults.fail_count = count;
    int rc = vset_apply(s->vs, &edit, NULL, NULL);
    bool any = faults.calls >= faults.fail_from;
    faults.fail_from = 0;
    if (rc) {
        assert_true(any);
        struct entries now = s->history[0];
        s->history[0] = before;
        check_reads(s, 0, SEQ_MAX); /* not installed */
        s->history[0] = now;
    }
    if (rc && !vset_failed(s->vs))
        assert_int_equal(vset_apply(s->vs, &edit, NULL, NULL), 0); /* the same edit again */
    else if (vset_failed(s->vs))
        assert_int_equal(vset_apply(s->vs, &(struct edit){.synced = SEQ_MAX}, NULL, NULL),
                         vset_failed(s->vs));
    assert_int_not_equal(vset_failed(s->vs), -ENOSPC);
    int failed = vset_failed(s->vs);
    bool unknown = rc && failed;
    assert_int_equal(vset_close(s->vs), failed);
    open_on(s, s->env);
    if (unknown && vset_flushed(s->vs, 0) != s->seq) { /* it did not get there: then nothing of it did */
        free(s->history[0].list);
        s->history[0] = before;
        before.list = NULL;
    }
    assert_true(vset_synced(s->vs) < SEQ_MAX);
    check_all(s, 1);
    free(before.list);
    free(edit.add);
    free(e.list);
    compact_result_free(&r);
    return any;
}

static void test_faults_while_applying(void **state)
{
    struct store *s = *state;
    static const int errors[] = {-EIO, -ENOSPC};
    for (unsigned i = 0; i < 2; i++)
        for (uint64_t count = 1; count <= 100; count += 99)
            for (uint64_t at = 1; at < 16; at++)
                (void)apply_with_fault(s, at, count, errors[i]);
    assert_false(apply_with_fault(s, 1000, 1, -EIO));
}

/* No edit names a table before the directory is synced; if that fails nobody knows what names it has. */
static void test_directory_is_synced_first(void **state)
{
    struct store *s = *state;
    struct fault_env faults;
    fault_env_init(&faults, s->env);
    assert_int_equal(vset_close(s->vs), 0);
    open_on(s, &faults.base);
    struct entries e = random_entries(20, 5, 0);
    struct compact_result r = write_tables(s, &faults.base, &e);
    struct edit edit = flush_edit(s, &r, 0);
    uint64_t bytes = manifest_size(s);
    faults.fail_from = faults.calls + 1;
    faults.fail_count = 1;
    faults.error = -EIO;
    assert_int_equal(vset_apply(s->vs, &edit, NULL, NULL), -EIO);
    assert_int_equal(vset_failed(s->vs), -EIO);
    assert_int_equal(manifest_size(s), bytes);
    free(edit.add);
    free(e.list);
    compact_result_free(&r);
}

static void test_faults_while_opening(void **state)
{
    struct store *s = *state;
    flush(s, 0);
    flush(s, 1);
    struct fault_env faults;
    int rc = -1;
    for (uint64_t at = 1; rc; at++) {
        touch(s->env, DIR "/555555.sst");
        vset_close(s->vs);
        fault_env_init(&faults, s->env);
        faults.fail_from = at;
        faults.fail_count = UINT64_MAX;
        faults.error = -EIO;
        s->options.env = &faults.base;
        rc = vset_open(&s->options, &s->vs);
        if (!rc)
            vset_close(s->vs);
        open_on(s, s->env);
        check_all(s, 1);
    }
}

/* A full disk must not keep a store from being opened: `rm` needs it. */
static void test_opens_on_a_full_disk(void **state)
{
    struct store *s = *state;
    flush(s, 0);
    assert_int_equal(vset_close(s->vs), 0);
    struct env_file *f; /* with a torn record at its end */
    assert_int_equal(env_open(s->env, DIR "/MANIFEST", ENV_WRITE, &f), 0);
    assert_int_equal(env_pwrite(f, "torn", 4, manifest_size(s)), 0);
    env_close(f);
    struct fault_env faults;
    fault_env_init(&faults, s->env);
    faults.space_only = true;
    faults.fail_from = 1;
    faults.fail_count = UINT64_MAX;
    faults.error = -ENOSPC;
    open_on(s, &faults.base);
    assert_int_equal(vset_apply(s->vs, &(struct edit){.synced = s->seq + 1}, NULL, NULL), -ENOSPC);
    faults.fail_from = 0;
    assert_int_equal(vset_apply(s->vs, &(struct edit){.synced = s->seq + 1}, NULL, NULL), 0);
    assert_int_equal(vset_close(s->vs), 0);
    open_on(s, s->env);
    assert_int_equal(vset_synced(s->vs), s->seq + 1);
    check_all(s, 1);
}

static uint64_t features_on_disk(struct store *s)
{
    uint8_t bits[8];
    struct env_file *f;
    assert_int_equal(env_open(s->env, DIR "/MANIFEST", ENV_READ, &f), 0);
    assert_int_equal(env_pread(f, bits, sizeof bits, 32), sizeof bits);
    env_close(f);
    return get_le64(bits);
}

/* A feature is named by the manifest before it is used, and for ever after; on a full disk it is not used. */
static bool end_faults(void *arg, uint64_t bytes)
{
    struct fault_env *faults = arg;
    assert_true(bytes > 0);
    faults->fail_from = 0;
    return true;
}

static void test_features(void **state)
{
    struct store *s = *state;
    assert_int_equal(vset_close(s->vs), 0);
    struct fault_env faults;
    fault_env_init(&faults, s->env);
    faults.space_only = true;
    faults.error = -ENOSPC;
    open_on(s, &faults.base);
    assert_int_equal(features_on_disk(s), 0);
    faults.fail_from = 1;
    faults.fail_count = UINT64_MAX;
    assert_int_equal(vset_require(s->vs, STORE_COMPRESSION), -ENOSPC);
    assert_false(vset_has(s->vs, STORE_COMPRESSION));
    assert_int_equal(vset_failed(s->vs), 0);
    assert_int_equal(features_on_disk(s), 0);
    /* Where somebody has space to give, it is asked for. */
    s->vs->no_space = end_faults;
    s->vs->no_space_arg = &faults;
    assert_int_equal(vset_require(s->vs, STORE_COMPRESSION), 0);
    assert_int_equal(faults.fail_from, 0);
    assert_true(vset_has(s->vs, STORE_COMPRESSION));
    assert_int_equal(features_on_disk(s), STORE_COMPRESSION);
    uint64_t calls = faults.calls;
    assert_int_equal(vset_require(s->vs, STORE_COMPRESSION), 0);
    assert_int_equal(faults.calls, calls);
    assert_int_equal(vset_close(s->vs), 0);
    open_on(s, s->env);
    assert_true(vset_has(s->vs, STORE_COMPRESSION));
    assert_int_equal(features_on_disk(s), STORE_COMPRESSION);
    check_all(s, 1);
}

/* ---- readers beside a writer ---- */

struct shared {
    struct store *store;
    pthread_mutex_t lock;
    struct version *version;
    bool stop; /* atomic */
};

static void share(void *arg, struct version *v)
{
    struct shared *sh = arg;
    pthread_mutex_lock(&sh->lock);
    struct version *old = sh->version;
    version_ref(v);
    sh->version = v;
    pthread_mutex_unlock(&sh->lock);
    if (old)
        version_unref(old);
}

static void *read_on(void *arg)
{
    struct shared *sh = arg;
    uint64_t k = 0;
    while (!__atomic_load_n(&sh->stop, __ATOMIC_RELAXED)) {
        pthread_mutex_lock(&sh->lock);
        struct version *v = sh->version;
        version_ref(v);
        pthread_mutex_unlock(&sh->lock);
        uint8_t key[8];
        put_be64(key, k++ % KEYS);
        (void)get(v, key, SEQ_MAX);
        version_unref(v);
    }
    return NULL;
}

static void test_readers_beside_a_writer(void **state)
{
    struct store *s = *state;
    struct shared sh = {.store = s};
    pthread_mutex_init(&sh.lock, NULL);
    share(&sh, vset_current(s->vs, 0));
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, read_on, &sh);
    for (int round = 0; round < 200; round++) {
        struct entries e = random_entries(1 + model_below(20), KEYS, 100);
        for (size_t i = 0; i < e.count; i++)
            e.list[i].seq += s->seq;
        s->seq += 100;
        struct compact_result r = write_tables(s, s->env, &e);
        struct edit edit = flush_edit(s, &r, 0);
        const struct level *l0 = &vset_current(s->vs, 0)->levels[0];
        struct edit_file old = {0};
        if (l0->count > 5) {
            old = (struct edit_file){0, 0, {.number = l0->files[l0->count - 1]->meta.number}};
            edit.remove = &old;
            edit.remove_count = 1;
        }
        assert_int_equal(vset_apply(s->vs, &edit, share, &sh), 0);
        vset_collect(s->vs);
        free(edit.add);
        free(e.list);
        compact_result_free(&r);
    }
    __atomic_store_n(&sh.stop, true, __ATOMIC_RELAXED);
    for (size_t i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    version_unref(sh.version);
    pthread_mutex_destroy(&sh.lock);
    check_directory(s, 1);
}

int main(void)
{
    model_start("test_version");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whole_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_bookkeeping, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rollover_by_growth, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_and_damaged_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults_while_applying, setup, teardown),
        cmocka_unit_test_setup_teardown(test_directory_is_synced_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults_while_opening, setup, teardown),
        cmocka_unit_test_setup_teardown(test_opens_on_a_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_features, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readers_beside_a_writer, setup, teardown),
    };
    return model_end("test_version", cmocka_run_group_tests(tests, NULL, NULL));
}
