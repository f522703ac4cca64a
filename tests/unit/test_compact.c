/*
 * test_compact.c - the compaction loop against a naive reading of its inputs and outputs; cuts,
 * counts and failures; and what compactions are chosen on random shapes.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "compact.h"
#include "compact_model.h"
#include "fault_env.h"
#include "vset_internal.h"

#define DIR "/store"

/* ---- the fixture ---- */

struct fixture {
    struct env *env;
    struct vset *vs;
    struct cache *cache;
    struct logger log;
    struct table_reader_stats stats;
};

static int setup(void **state)
{
    model_reseed(NULL);
    struct fixture *f = calloc(1, sizeof *f);
    f->env = env_mem_new();
    assert_int_equal(env_mkdir(f->env, DIR), 0);
    assert_int_equal(cache_new(1 << 20, &f->cache), 0);
    struct vset_options o = {.env = f->env,
                             .dir = DIR,
                             .cache = f->cache,
                             .reader_stats = &f->stats,
                             .level_ratio = 4,
                             .table_bytes = 1000,
                             .write_buffer_bytes = 1000};
    assert_int_equal(vset_new(&o, &f->vs), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    vset_free(f->vs);
    cache_free(f->cache);
    env_mem_free(f->env);
    free(f);
    return 0;
}

static int count_name(void *arg, const char *name)
{
    (void)name;
    ++*(size_t *)arg;
    return 0;
}

static size_t files_in(struct env *env)
{
    size_t n = 0;
    assert_int_equal(env_list(env, DIR, count_name, &n), 0);
    return n;
}

/* What the tables of a result hold; checks that no user key lies in two. */
static struct entries read_tables(struct fixture *f, const struct compact_result *r)
{
    struct entries e = {calloc(r->entries_out + 1, sizeof(struct entry)), 0};
    struct table_options o = {f->env, DIR, f->cache, &f->stats, f->log};
    for (size_t i = 0; i < r->count; i++) {
        const struct table_meta *m = &r->tables[i];
        if (i)
            assert_true(key_compare(m[-1].largest, m[-1].largest_len, m->smallest, m->smallest_len) < 0);
        struct table *t;
        struct iter *it;
        assert_int_equal(table_open(&o, m, &t), 0);
        assert_int_equal(table_iter_new(t, 0, &it), 0);
        for (iter_first(it); it->valid; iter_next(it)) {
            assert_true(e.count < r->entries_out);
            struct entry *x = &e.list[e.count++];
            memcpy(x->key, it->key.key, it->key.len);
            x->key_len = it->key.len;
            x->seq = it->key.seq;
            x->type = it->key.type;
            if (it->value_len >= 8)
                x->v[0] = get_le64(it->value);
            if (x->type == ENTRY_MERGE)
                x->v[1] = get_le64(it->value + 8);
        }
        assert_int_equal(it->status, 0);
        iter_free(it);
        table_close(t);
        cache_drop_file(f->cache, m->number);
    }
    assert_int_equal(e.count, r->entries_out);
    return e;
}

static void check_same(const struct entries *in, const struct entries *out, uint64_t seq, size_t keys,
                       bool bottom)
{
    for (size_t k = 0; k < keys; k++) {
        uint8_t key[8];
        put_be64(key, k);
        for (int below = 0; below < (bottom ? 1 : 2); below++) {
            struct reading lower = {below, 4711};
            struct reading a = read_at(in, key, seq, lower), b = read_at(out, key, seq, lower);
            assert_int_equal(a.exists, b.exists);
            if (a.exists)
                assert_int_equal(a.value, b.value);
        }
    }
}

static size_t stratum(const uint64_t *snapshots, size_t count, uint64_t seq)
{
    size_t n = 0;
    while (n < count && snapshots[n] < seq)
        n++;
    return n;
}

/* One version per key and stratum, nothing at the bottom that could go. */
static void check_minimal(const struct entries *out, const uint64_t *snapshots, size_t count, bool bottom)
{
    for (size_t i = 0; i < out->count; i++) {
        const struct entry *x = &out->list[i];
        bool last = i + 1 == out->count || memcmp(x->key, x[1].key, 8) != 0;
        if (!last)
            assert_true(stratum(snapshots, count, x->seq) != stratum(snapshots, count, x[1].seq));
        else if (bottom) /* an operand only where a snapshot parted it from a delete that is gone now */
            assert_true(x->type == ENTRY_PUT || (x->type == ENTRY_MERGE && count > 0));
    }
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int count_yield(void *arg)
{
    ++*(uint64_t *)arg;
    return 0;
}

static void one_random_run(struct fixture *f)
{
    size_t count = model_below(300), keys = 1 + model_below(40);
    struct entries in = random_entries(count, keys, model_below(2) ? 0 : 3000), out;
    uint64_t snapshots[6], yields = 0;
    size_t snapshot_count = model_below(7);
    for (size_t i = 0; i < snapshot_count; i++)
        snapshots[i] = 5 + model_below(count + 10);
    qsort(snapshots, snapshot_count, sizeof snapshots[0], compare_u64);
    struct array_iter it;
    array_iter_init(&it, &in);
    struct compact_job job = {
        .env = f->env,
        .dir = DIR,
        .vs = f->vs,
        .log = &f->log,
        .input = &it.base,
        .expected_entries = count,
        .snapshots = snapshots,
        .snapshot_count = snapshot_count,
        .bottom = model_below(2),
        .merge = affine,
        .block_bytes = 512,
        .max_output_bytes = model_below(2) ? 0 : 2000,
        .yield = count_yield,
        .yield_arg = &yields,
    };
    struct compact_result r;
    assert_int_equal(compact_run(&job, &r), 0);
    assert_int_equal(r.entries_in, count);
    assert_int_equal(r.entries_out + r.dropped, count);
    assert_int_equal(yields, r.bytes_read >= (64u << 10) ? yields : 0);
    assert_true(yields <= r.bytes_read / (64u << 10));
    out = read_tables(f, &r);
    for (size_t i = 0; i < snapshot_count; i++)
        check_same(&in, &out, snapshots[i], keys, job.bottom);
    check_same(&in, &out, SEQ_MAX, keys, job.bottom);
    check_minimal(&out, snapshots, snapshot_count, job.bottom);
    assert_int_equal(files_in(f->env), r.count);
    compact_result_discard(f->env, DIR, &r);
    assert_int_equal(files_in(f->env), 0);
    free(in.list);
    free(out.list);
}

static void test_random_runs(void **state)
{
    for (int i = 0; i < 1500; i++)
        one_random_run(*state);
}

/* Without a merge function operands go through as they are, and nothing that they need is dropped. */
static void test_without_merge(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 100; i++) {
        struct entries in = random_entries(200, 10, 0);
        struct array_iter it;
        array_iter_init(&it, &in);
        struct compact_job job = {.env = f->env,
                                  .dir = DIR,
                                  .vs = f->vs,
                                  .log = &f->log,
                                  .input = &it.base,
                                  .expected_entries = 200,
                                  .block_bytes = 512,
                                  .bottom = i & 1};
        struct compact_result r;
        assert_int_equal(compact_run(&job, &r), 0);
        struct entries out = read_tables(f, &r);
        check_same(&in, &out, SEQ_MAX, 10, job.bottom);
        compact_result_discard(f->env, DIR, &r);
        free(in.list);
        free(out.list);
    }
}

static int run_expecting(struct fixture *f, struct entries *in, size_t fail_at, uint64_t expected,
                         int (*yield)(void *))
{
    struct array_iter it;
    array_iter_init(&it, in);
    it.fail_at = fail_at;
    struct compact_job job = {.env = f->env,
                              .dir = DIR,
                              .vs = f->vs,
                              .log = &f->log,
                              .input = &it.base,
                              .expected_entries = expected,
                              .block_bytes = 512,
                              .max_output_bytes = 1000,
                              .merge = affine,
                              .yield = yield};
    struct compact_result r;
    int rc = compact_run(&job, &r);
    if (rc) {
        assert_null(r.tables);
        assert_int_equal(r.count, 0);
    } else {
        compact_result_discard(f->env, DIR, &r);
    }
    assert_int_equal(files_in(f->env), 0);
    return rc;
}

static int refuse(void *arg)
{
    (void)arg;
    return -ECANCELED;
}

static void test_refuses_bad_input(void **state)
{
    struct fixture *f = *state;
    struct entries in = random_entries(500, 400, 1000);
    assert_int_equal(run_expecting(f, &in, SIZE_MAX, 500, NULL), 0);
    assert_int_equal(run_expecting(f, &in, SIZE_MAX, 499, NULL), -EIO);
    assert_int_equal(run_expecting(f, &in, SIZE_MAX, 501, NULL), -EIO);
    assert_int_equal(run_expecting(f, &in, 400, 500, NULL), -EIO);
    assert_int_equal(run_expecting(f, &in, SIZE_MAX, 500, refuse), -ECANCELED);
    struct entry saved = in.list[300];
    in.list[300] = in.list[100];
    assert_int_equal(run_expecting(f, &in, SIZE_MAX, 500, NULL), -EIO);
    in.list[300] = in.list[299]; /* the same twice */
    assert_int_equal(run_expecting(f, &in, SIZE_MAX, 500, NULL), -EIO);
    in.list[300] = saved;
    in.list[300].type = ENTRY_RANGE_DELETE;
    assert_int_equal(run_expecting(f, &in, SIZE_MAX, 500, NULL), -EIO);
    free(in.list);
}

static void test_failing_disk_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct entries in = random_entries(300, 200, 500);
    struct fault_env faults;
    int rc = -1;
    for (uint64_t at = 1; rc; at++) {
        fault_env_init(&faults, f->env);
        faults.fail_from = at;
        faults.fail_count = 1;
        faults.error = at % 2 ? -ENOSPC : -EIO;
        struct array_iter it;
        array_iter_init(&it, &in);
        struct compact_job job = {.env = &faults.base,
                                  .dir = DIR,
                                  .vs = f->vs,
                                  .log = &f->log,
                                  .input = &it.base,
                                  .expected_entries = 300,
                                  .block_bytes = 512,
                                  .max_output_bytes = 20000,
                                  .merge = affine};
        struct compact_result r;
        rc = compact_run(&job, &r);
        if (rc)
            assert_int_equal(rc, faults.error);
        else
            compact_result_discard(f->env, DIR, &r);
        assert_int_equal(files_in(f->env), 0);
    }
    free(in.list);
}

/* One table may not overlap more than ten tables' worth of the level below. */
static void test_cuts_by_grandparent(void **state)
{
    struct fixture *f = *state;
    struct table_file files[100];
    struct table_file *pointers[100];
    uint8_t keys[100][8];
    memset(files, 0, sizeof files);
    for (size_t i = 0; i < 100; i++) {
        put_be64(keys[i], i * 10);
        files[i].meta = (struct table_meta){
            .bytes = 100000, .smallest = keys[i], .largest = keys[i], .smallest_len = 8, .largest_len = 8};
        pointers[i] = &files[i];
    }
    struct level grandparent = {.files = pointers, .count = 100};
    struct entries in = {calloc(1000, sizeof(struct entry)), 1000};
    for (size_t i = 0; i < in.count; i++) {
        in.list[i] = (struct entry){.key_len = 8, .seq = 1, .type = ENTRY_PUT};
        put_be64(in.list[i].key, i);
    }
    struct array_iter it;
    array_iter_init(&it, &in);
    struct compact_job job = {.env = f->env,
                              .dir = DIR,
                              .vs = f->vs,
                              .log = &f->log,
                              .input = &it.base,
                              .expected_entries = in.count,
                              .block_bytes = 512,
                              .max_output_bytes = 100000,
                              .grandparent = &grandparent};
    struct compact_result r;
    assert_int_equal(compact_run(&job, &r), 0);
    assert_true(r.count >= 9 && r.count <= 11);
    compact_result_discard(f->env, DIR, &r);
    free(in.list);
}

/* ---- choosing ---- */

/* A shape in the model: tables without files behind them. */
struct shape {
    struct table_file *files[LSM_LEVELS][512];
    size_t count[LSM_LEVELS];
    uint64_t seq, number;
};

static struct table_file *fake_file(struct shape *s, uint64_t smallest, uint64_t largest, uint64_t bytes)
{
    struct table_file *t = calloc(1, sizeof *t);
    t->refs = 1;
    t->meta.number = ++s->number;
    t->meta.bytes = bytes;
    t->meta.entries = 1 + bytes / 10;
    t->meta.deletes = model_below(4) ? 0 : model_below(t->meta.entries);
    t->meta.seq_min = s->seq + 1;
    t->meta.seq_max = s->seq += 100;
    t->meta.smallest = malloc(8);
    t->meta.largest = malloc(8);
    t->meta.smallest_len = t->meta.largest_len = 8;
    put_be64(t->meta.smallest, smallest);
    put_be64(t->meta.largest, largest);
    return t;
}

static void drop_fake(struct table_file *t)
{
    assert_int_equal(t->refs, 1);
    table_meta_free(&t->meta);
    free(t);
}

static struct version *shape_version(struct vset *vs, const struct shape *s)
{
    struct version_add add[LSM_LEVELS * 512];
    size_t n = 0;
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; i < s->count[l]; i++)
            add[n++] = (struct version_add){s->files[l][i], l};
    struct version *v;
    assert_int_equal(version_build(vs, 0, NULL, NULL, 0, add, n, NULL, &v),
                     0); /* checks order and disjointness */
    return v;
}

static uint64_t low(const struct table_file *t) { return get_be64(t->meta.smallest); }
static uint64_t high(const struct table_file *t) { return get_be64(t->meta.largest); }

static bool contains(struct table_file *const *files, size_t count, const struct table_file *t)
{
    for (size_t i = 0; i < count; i++)
        if (files[i] == t)
            return true;
    return false;
}

/* Everything that must hold of a choice, found the slow way. */
static void check_choice(const struct compaction *c, uint64_t oldest)
{
    const struct version *v = c->version;
    assert_true(c->count[0] > 0);
    assert_true(c->to > c->from || (c->from == LSM_LEVELS - 1 && c->to == c->from && !c->count[1]));
    uint64_t from_low = UINT64_MAX, from_high = 0, all_low, all_high;
    for (size_t i = 0; i < c->count[0]; i++) {
        from_low = low(c->inputs[0][i]) < from_low ? low(c->inputs[0][i]) : from_low;
        from_high = high(c->inputs[0][i]) > from_high ? high(c->inputs[0][i]) : from_high;
    }
    all_low = from_low;
    all_high = from_high;
    for (size_t i = 0; i < c->count[1]; i++) {
        all_low = low(c->inputs[1][i]) < all_low ? low(c->inputs[1][i]) : all_low;
        all_high = high(c->inputs[1][i]) > all_high ? high(c->inputs[1][i]) : all_high;
    }
    bool bottom = true;
    for (unsigned l = 0; l < LSM_LEVELS; l++) {
        for (size_t i = 0; i < v->levels[l].count; i++) {
            struct table_file *t = v->levels[l].files[i];
            bool in0 = l == c->from && contains(c->inputs[0], c->count[0], t);
            bool in1 = l == c->to && contains(c->inputs[1], c->count[1], t);
            assert_int_equal(t->compacting, in0 || in1);
            bool overlaps_from = low(t) <= from_high && high(t) >= from_low;
            bool overlaps_all = low(t) <= all_high && high(t) >= all_low;
            if (l == c->to && c->to != c->from)
                assert_int_equal(in1, overlaps_from); /* all of `to` that overlaps, and no more */
            if (l > c->from && l < c->to)
                assert_false(overlaps_all); /* nothing is jumped over */
            if (l == 0 && c->from == 0 && !in0)
                assert_false(overlaps_from); /* what stays in L0 shares no key */
            if (l >= c->to && !in0 && !in1 && overlaps_all)
                bottom = false;
        }
    }
    assert_int_equal(c->bottom, bottom);
    const struct table_meta *first = &c->inputs[0][0]->meta;
    bool tombstones_can_go = bottom && first->deletes > 0 && first->seq_max <= oldest;
    assert_int_equal(c->trivial,
                     c->from != c->to && c->count[0] == 1 && c->count[1] == 0 && !tombstones_can_go);
}

static void take_out(struct shape *s, unsigned l, struct table_file *const *files, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->count[l]; i++)
        if (!contains(files, count, s->files[l][i]))
            s->files[l][kept++] = s->files[l][i];
    s->count[l] = kept;
}

static void put_in(struct shape *s, unsigned l, struct table_file *t)
{
    assert_true(s->count[l] < 512);
    s->files[l][s->count[l]++] = t;
}

/* Carries the compaction out on the model: the inputs' range in tables of table_bytes. */
static void carry_out(struct shape *s, struct compaction *c, uint64_t oldest)
{
    struct table_file *old[1024];
    size_t n = 0;
    uint64_t bytes = 0, deletes = 0, from = UINT64_MAX, to = 0, seq_max = 0;
    for (unsigned w = 0; w < 2; w++)
        for (size_t i = 0; i < c->count[w]; i++) {
            struct table_file *t = c->inputs[w][i];
            old[n++] = t;
            bytes += t->meta.bytes;
            deletes += t->meta.deletes;
            seq_max = t->meta.seq_max > seq_max ? t->meta.seq_max : seq_max;
            from = low(t) < from ? low(t) : from;
            to = high(t) > to ? high(t) : to;
        }
    take_out(s, c->from, c->inputs[0], c->count[0]);
    take_out(s, c->to, c->inputs[1], c->count[1]);
    unsigned level = c->to;
    bool trivial = c->trivial;
    if (c->bottom && seq_max <= oldest)
        deletes = 0;
    uint64_t max = c->max_output_bytes;
    compaction_release(c);
    if (trivial) {
        put_in(s, level, old[0]);
        return;
    }
    uint64_t tables = bytes / max + 1, width = (to - from) / tables + 1;
    for (uint64_t at = from; at <= to; at += width) {
        struct table_file *t =
            fake_file(s, at, at + width - 1 < to ? at + width - 1 : to, bytes / tables + 1);
        t->meta.deletes = deletes / tables < t->meta.entries ? deletes / tables : t->meta.entries;
        t->meta.seq_min = 1;
        t->meta.seq_max = seq_max;
        put_in(s, level, t);
    }
    for (size_t i = 0; i < n; i++)
        drop_fake(old[i]);
}

static void check_targets(struct vset *vs, const struct version *v)
{
    uint64_t t[LSM_LEVELS], low_bound = vs->write_buffer_bytes * 4;
    version_targets(vs, v, t);
    unsigned base = 1;
    while (!t[base])
        base++;
    for (unsigned l = base; l < LSM_LEVELS; l++) {
        assert_true(t[l] >= low_bound);
        if (l > base)
            assert_int_equal(t[l - 1], t[l] / vs->level_ratio);
    }
    assert_true(base == 1 || t[base] <= low_bound * vs->level_ratio);
}

/* Compacts until the shape is good: that must come to an end. */
static void settle(struct fixture *f, struct shape *s, bool all, uint64_t oldest)
{
    for (unsigned steps = 0;; steps++) {
        assert_true(steps < 2000);
        struct version *v = shape_version(f->vs, s);
        struct compaction c, second;
        check_targets(f->vs, v);
        bool found = all ? compaction_pick_all(f->vs, v, oldest, SEQ_MAX, &c)
                         : compaction_pick(f->vs, v, oldest, false, &c);
        if (!found) {
            if (!all)
                assert_true(version_score(f->vs, v) < 1.0);
            version_unref(v);
            return;
        }
        check_choice(&c, oldest);
        assert_false(compaction_pick(f->vs, v, oldest, false, &second)); /* one at a time */
        version_unref(v);
        carry_out(s, &c, oldest);
    }
}

static void empty_level(struct shape *s, unsigned l)
{
    while (s->count[l])
        drop_fake(s->files[l][--s->count[l]]);
}

static void test_choices_on_random_shapes(void **state)
{
    struct fixture *f = *state;
    f->vs->table_bytes = 50000;
    f->vs->write_buffer_bytes = 40000;
    for (int round = 0; round < 12; round++) {
        struct shape *s = calloc(1, sizeof *s);
        bool sequential = model_below(3) == 0;
        for (int flush = 0; flush < 150; flush++) {
            uint64_t from = sequential ? (uint64_t)flush * 1000 : model_below(1u << 20);
            uint64_t span = sequential ? 999 : (uint64_t)1 << model_below(20);
            put_in(s, 0, fake_file(s, from, from + span, 20000 + model_below(30000)));
            uint64_t oldest = model_below(2) ? SEQ_MAX : model_below(s->seq + 1);
            if (model_below(25) == 0) /* as if all of it had been deleted: the base level moves down */
                empty_level(s, LSM_LEVELS - 1 - (unsigned)model_below(2));
            if (model_below(3) == 0)
                settle(f, s, false, oldest);
        }
        settle(f, s, false, SEQ_MAX);
        settle(f, s, true, s->seq / 2);
        settle(f, s, true, SEQ_MAX);
        for (unsigned l = 0; l < LSM_LEVELS; l++) {
            assert_true(l == LSM_LEVELS - 1 || s->count[l] == 0);
            for (size_t i = 0; i < s->count[l]; i++) {
                assert_int_equal(s->files[l][i]->meta.deletes, 0);
                drop_fake(s->files[l][i]);
            }
        }
        free(s);
    }
}

static void test_dense_tombstones_move_on(void **state)
{
    struct fixture *f = *state;
    struct shape *s = calloc(1, sizeof *s);
    f->vs->table_bytes = f->vs->write_buffer_bytes = 1 << 20;
    put_in(s, LSM_LEVELS - 1, fake_file(s, 0, 100, 100000));
    put_in(s, LSM_LEVELS - 1, fake_file(s, 200, 300, 100000));
    s->files[LSM_LEVELS - 1][0]->meta.deletes = 0;
    s->files[LSM_LEVELS - 1][1]->meta.deletes = 9000;
    struct version *v = shape_version(f->vs, s);
    struct compaction c;
    assert_false(compaction_pick(f->vs, v, 150, false, &c)); /* a snapshot needs them */
    assert_true(compaction_pick(f->vs, v, SEQ_MAX, false, &c));
    assert_string_equal(c.reason, "tombstones");
    assert_int_equal(c.from, LSM_LEVELS - 1);
    assert_int_equal(c.to, LSM_LEVELS - 1);
    assert_ptr_equal(c.inputs[0][0], s->files[LSM_LEVELS - 1][1]);
    assert_true(c.bottom && !c.trivial && c.count[0] == 1);
    compaction_release(&c);
    version_unref(v);
    for (size_t i = 0; i < 2; i++)
        drop_fake(s->files[LSM_LEVELS - 1][i]);
    free(s);
}

static int pick_from_l0(struct fixture *f, const struct shape *s, bool busy, bool *trivial)
{
    struct version *v = shape_version(f->vs, s);
    struct compaction c;
    int any = compaction_pick(f->vs, v, SEQ_MAX, busy, &c);
    if (any) {
        assert_int_equal(c.from, 0);
        assert_true(c.trivial || c.count[0] == s->count[0]);
        *trivial = c.trivial;
        compaction_release(&c);
    }
    version_unref(v);
    return any;
}

/* Without deletes, which are a reason of their own. */
static struct table_file *file_of_puts(struct shape *s, uint64_t smallest, uint64_t largest)
{
    struct table_file *t = fake_file(s, smallest, largest, 100000);
    t->meta.deletes = 0;
    return t;
}

static void test_busy_level0_waits_for_more(void **state)
{
    struct fixture *f = *state;
    struct shape *s = calloc(1, sizeof *s);
    bool trivial;
    f->vs->table_bytes = f->vs->write_buffer_bytes = 1 << 20;
    put_in(s, LSM_LEVELS - 1, file_of_puts(s, 0, 1000));
    while (s->count[0] < 12) {
        put_in(s, 0, file_of_puts(s, 0, 900));
        assert_int_equal(pick_from_l0(f, s, false, &trivial), s->count[0] >= 4);
        assert_int_equal(pick_from_l0(f, s, true, &trivial), s->count[0] >= 10);
    }
    assert_false(trivial);
    while (s->count[0] > 3)
        drop_fake(s->files[0][--s->count[0]]);
    put_in(s, 0, file_of_puts(s, 2000, 3000)); /* to move it costs nothing, so it does not wait */
    assert_true(pick_from_l0(f, s, true, &trivial));
    assert_true(trivial);
    empty_level(s, 0);
    empty_level(s, LSM_LEVELS - 1);
    free(s);
}

int main(void)
{
    model_start("test_compact");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_random_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_merge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refuses_bad_input, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failing_disk_leaves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cuts_by_grandparent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_choices_on_random_shapes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dense_tombstones_move_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_busy_level0_waits_for_more, setup, teardown),
    };
    return model_end("test_compact", cmocka_run_group_tests(tests, NULL, NULL));
}
