/*
 * test_manifest.c - the manifest torn and flipped at every byte, appended to, replaced, and its codec.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "coding.h"
#include "entry_model.h"
#include "fault_env.h"
#include "manifest.h"

#include <xxhash.h>

#define DIR "/store"
#define HEADER_BYTES 128u
#define EDITS_MAX 64u

struct payload {
    uint8_t *data;
    size_t len;
};

/* A manifest and what it should hold. */
struct fixture {
    struct env *env;
    struct logger log;
    struct manifest_options options;
    struct payload edits[EDITS_MAX];
    uint64_t ends[EDITS_MAX + 1]; /* of the records; [0] is the header's */
    size_t count, snapshot_count;
    uint8_t *file;
    uint64_t file_bytes;
};

static void random_key(uint8_t **key, uint32_t *len, uint8_t first)
{
    *len = 1 + (uint32_t)model_below(20);
    *key = malloc(*len);
    for (uint32_t i = 0; i < *len; i++)
        (*key)[i] = (uint8_t)model_random();
    (*key)[0] = first;
}

static struct edit_file random_file(void)
{
    struct edit_file f = {.shard = (unsigned)model_below(4), .level = (unsigned)model_below(LSM_LEVELS)};
    struct table_meta *m = &f.meta;
    m->number = 1 + model_random() % 1000000;
    m->bytes = model_random() >> model_below(64);
    m->entries = 1 + model_below(1000000);
    m->deletes = model_below(m->entries);
    m->key_bytes = model_random();
    m->value_bytes = model_random();
    m->seq_max = model_random() & SEQ_MAX;
    m->seq_min = m->seq_max / 2;
    random_key(&m->smallest, &m->smallest_len, 10);
    random_key(&m->largest, &m->largest_len, 20);
    return f;
}

static struct payload random_edit(void)
{
    struct edit e = {0};
    struct edit_file add[3], remove[3];
    struct wal_use use;
    e.add = add;
    e.remove = remove;
    e.add_count = model_below(4);
    for (size_t i = 0; i < e.add_count; i++)
        add[i] = random_file();
    for (e.remove_count = 0; e.remove_count < model_below(4); e.remove_count++)
        remove[e.remove_count] = (struct edit_file){1, 2, {.number = 1 + model_below(1000)}};
    if (model_below(2)) {
        use = (struct wal_use){1 + model_below(100), 8 * (1 + model_below(1u << 30)), model_random(), 1 << 20,
                               0};
        if (model_below(2))
            use.end = use.base + 8 * model_below(1 << 17);
        e.use = &use;
    }
    if (model_below(2)) {
        e.has_log_end = true;
        e.log_end_number = 1 + model_below(100);
        e.log_end = 8 * model_below(1u << 30);
    }
    e.synced = model_below(2) ? model_random() : 0;
    e.log_start = model_below(2) ? model_random() : 0;
    if (model_below(2)) {
        e.has_flushed = true;
        e.flushed_shard = (unsigned)model_below(4);
        e.flushed = model_random();
    }
    struct payload p;
    assert_int_equal(edit_encode(&e, model_below(2) ? 1 + model_below(1000) : 0, &p.data, &p.len), 0);
    for (size_t i = 0; i < e.add_count; i++) {
        free(add[i].meta.smallest);
        free(add[i].meta.largest);
    }
    return p;
}

static void write_file(struct fixture *f, const uint8_t *data, uint64_t bytes)
{
    struct env_file *file;
    assert_int_equal(env_open(f->env, DIR "/MANIFEST", ENV_WRITE | ENV_CREATE | ENV_TRUNC, &file), 0);
    assert_int_equal(env_pwrite(file, data, bytes, 0), 0);
    env_close(file);
}

static void load_file(struct fixture *f)
{
    struct env_file *file;
    assert_int_equal(env_open(f->env, DIR "/MANIFEST", ENV_READ, &file), 0);
    assert_int_equal(env_size(file, &f->file_bytes), 0);
    free(f->file);
    f->file = malloc(f->file_bytes);
    assert_int_equal(env_pread(file, f->file, f->file_bytes, 0), f->file_bytes);
    env_close(file);
}

static void append(struct fixture *f, struct manifest *m)
{
    struct payload p = random_edit();
    assert_int_equal(manifest_append(m, p.data, p.len), 0);
    f->edits[f->count++] = p;
    f->ends[f->count] = manifest_bytes(m);
}

static int setup(void **state)
{
    model_reseed(NULL);
    struct fixture *f = calloc(1, sizeof *f);
    f->env = env_mem_new();
    f->options = (struct manifest_options){f->env, DIR, &f->log};
    assert_int_equal(env_mkdir(f->env, DIR), 0);
    struct store_identity identity = {.shards = 4, .log_segment_bytes = WAL_SEGMENT_MIN};
    memset(identity.uuid, 0xab, sizeof identity.uuid);
    struct manifest *m;
    assert_int_equal(manifest_create(&f->options, &identity, &m), 0);
    f->ends[0] = HEADER_BYTES;
    f->snapshot_count = 1 + model_below(3);
    while (f->count < f->snapshot_count)
        append(f, m);
    bool renamed;
    assert_int_equal(manifest_publish(m, &renamed), 0);
    assert_true(renamed);
    while (f->count < f->snapshot_count + 5)
        append(f, m);
    assert_int_equal(manifest_sync(m), 0);
    manifest_close(m);
    load_file(f);
    assert_int_equal(f->file_bytes, f->ends[f->count]);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < f->count; i++)
        free(f->edits[i].data);
    free(f->file);
    env_mem_free(f->env);
    free(f);
    return 0;
}

struct seen {
    struct fixture *f;
    size_t count;
};

static int compare_edit(void *arg, const struct decoded_edit *d, uint64_t offset)
{
    struct seen *s = arg;
    assert_true(s->count < s->f->count);
    assert_int_equal(offset, s->f->ends[s->count]);
    const struct payload *expected = &s->f->edits[s->count++];
    uint8_t *data;
    size_t len;
    assert_int_equal(edit_encode(&d->edit, d->next_number, &data, &len), 0);
    assert_int_equal(len, expected->len);
    if (len)
        assert_memory_equal(data, expected->data, len);
    free(data);
    return 0;
}

static int read_back(struct fixture *f, size_t *count, struct manifest_contents *c)
{
    struct seen s = {f, 0};
    int rc = manifest_read(&f->options, false, compare_edit, &s, c);
    *count = s.count;
    return rc;
}

/* How many records end at or before `bytes`. */
static size_t whole_records(const struct fixture *f, uint64_t bytes)
{
    size_t n = 0;
    while (n < f->count && f->ends[n + 1] <= bytes)
        n++;
    return n;
}

static void test_reads_back(void **state)
{
    struct fixture *f = *state;
    struct manifest_contents c;
    size_t n;
    assert_int_equal(read_back(f, &n, &c), 0);
    assert_int_equal(n, f->count);
    assert_int_equal(c.identity.shards, 4);
    assert_int_equal(c.identity.log_segment_bytes, WAL_SEGMENT_MIN);
    assert_int_equal(c.identity.uuid[15], 0xab);
    assert_int_equal(c.good_bytes, c.file_bytes);
    assert_int_equal(c.snapshot_bytes, f->ends[f->snapshot_count]);
}

/* What of a record did not get to the medium: nothing there, zeros, or anything. */
static void tear(struct fixture *f, uint64_t at, int kind, uint64_t *bytes, uint8_t *out)
{
    memcpy(out, f->file, f->file_bytes);
    size_t record = whole_records(f, at);
    uint64_t end = record < f->count ? f->ends[record + 1] : at;
    *bytes = kind == 0 ? at : end;
    for (uint64_t i = at; i < end; i++)
        out[i] = kind == 1 ? 0 : (uint8_t)model_random();
}

static void test_torn_anywhere(void **state)
{
    struct fixture *f = *state;
    uint8_t *torn = malloc(f->file_bytes);
    for (uint64_t at = 0; at < f->file_bytes; at++) {
        for (int kind = 0; kind < 3; kind++) {
            uint64_t bytes;
            tear(f, at, kind, &bytes, torn);
            if (kind && !memcmp(torn, f->file, bytes))
                continue; /* by chance the same */
            write_file(f, torn, bytes);
            struct manifest_contents c;
            size_t n, whole = whole_records(f, at);
            int rc = read_back(f, &n, &c);
            assert_int_equal(rc, at < f->ends[f->snapshot_count] ? -EUCLEAN : 0);
            if (at >= HEADER_BYTES)
                assert_int_equal(n, whole);
        }
    }
    free(torn);
}

static void test_torn_tail_stays_dead(void **state)
{
    struct fixture *f = *state;
    size_t last = f->count - 1;
    for (uint64_t at = f->ends[last]; at < f->ends[last + 1]; at++) {
        write_file(f, f->file, at);
        struct manifest_contents c;
        struct manifest *m;
        size_t n;
        assert_int_equal(read_back(f, &n, &c), 0);
        assert_int_equal(n, last);
        assert_int_equal(manifest_open(&f->options, &c, &m), 0);
        struct payload kept = f->edits[last];
        uint64_t kept_end = f->ends[last + 1];
        f->count = last;
        append(f, m);
        manifest_close(m);
        assert_int_equal(read_back(f, &n, &c), 0);
        assert_int_equal(n, last + 1);
        assert_int_equal(c.file_bytes, f->ends[last + 1]);
        free(f->edits[last].data);
        f->edits[last] = kept;
        f->ends[last + 1] = kept_end;
    }
}

static void test_flipped_anywhere(void **state)
{
    struct fixture *f = *state;
    uint8_t *flipped = malloc(f->file_bytes);
    for (uint64_t at = 0; at < f->file_bytes; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            memcpy(flipped, f->file, f->file_bytes);
            flipped[at] ^= (uint8_t)(1u << bit);
            write_file(f, flipped, f->file_bytes);
            struct manifest_contents c;
            size_t n;
            int rc = read_back(f, &n, &c);
            bool in_last = at >= f->ends[f->count - 1];
            assert_int_equal(rc, in_last ? 0 : -EUCLEAN);
            if (in_last) {
                assert_int_equal(n, f->count - 1);
                assert_int_equal(c.good_bytes, f->ends[f->count - 1]);
            }
        }
    }
    free(flipped);
}

static void test_features(void **state)
{
    struct fixture *f = *state;
    static const struct {
        size_t offset;
        int rw, ro;
    } cases[] = {{8, -ENOTSUP, -ENOTSUP}, {16, 0, 0}, {24, -ENOTSUP, 0}, {32, -ENOTSUP, -ENOTSUP}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t header[HEADER_BYTES];
        memcpy(header, f->file, HEADER_BYTES);
        header[cases[i].offset + 1] ^= 0x10;
        put_le64(header + 120, XXH3_64bits(header, 120));
        uint8_t *copy = malloc(f->file_bytes);
        memcpy(copy, f->file, f->file_bytes);
        memcpy(copy, header, HEADER_BYTES);
        write_file(f, copy, f->file_bytes);
        free(copy);
        struct manifest_contents c;
        struct seen s = {f, 0};
        assert_int_equal(manifest_read(&f->options, false, compare_edit, &s, &c), cases[i].rw);
        s.count = 0;
        assert_int_equal(manifest_read(&f->options, true, compare_edit, &s, &c), cases[i].ro);
    }
}

static int decode_raw(const uint8_t *bytes, size_t len)
{
    struct decoded_edit d;
    int rc = edit_decode(bytes, len, &d);
    if (!rc)
        decoded_edit_free(&d);
    return rc;
}

static void test_unknown_fields(void **state)
{
    (void)state;
    assert_int_equal(decode_raw((const uint8_t[]){100, 2, 0xff, 0xff, 9, 1, 8}, 7), 0);
    assert_int_equal(decode_raw((const uint8_t[]){101, 2, 0xff, 0xff, 9, 1, 8}, 7), -ENOTSUP);
    assert_int_equal(decode_raw((const uint8_t[]){9, 1, 8, 9, 1, 8}, 6), -EUCLEAN); /* twice */
    assert_int_equal(decode_raw((const uint8_t[]){9, 2, 8, 8}, 4), -EUCLEAN);       /* bytes left over */
    assert_int_equal(decode_raw((const uint8_t[]){9, 1, 0x88}, 3), -EUCLEAN);       /* field too short */
    assert_int_equal(decode_raw((const uint8_t[]){9, 200, 1, 0x88}, 4), -EUCLEAN);  /* edit too short */
    assert_int_equal(decode_raw((const uint8_t[]){11, 2, 64, 1}, 4), -EUCLEAN);     /* no such shard */
    assert_int_equal(decode_raw((const uint8_t[]){3, 3, 1, 7, 1}, 5), -EUCLEAN);    /* no such level */
    assert_int_equal(decode_raw((const uint8_t[]){3, 3, 1, 6, 0}, 5), -EUCLEAN);    /* no such number */
}

static void test_decoder_survives_anything(void **state)
{
    struct fixture *f = *state;
    for (unsigned round = 0; round < 20000; round++) {
        const struct payload *p = &f->edits[model_below(f->count)];
        size_t len = p->len ? 1 + model_below(p->len) : 0;
        uint8_t *mutant = malloc(len + 1);
        if (len)
            memcpy(mutant, p->data, len);
        for (size_t n = model_below(4); len && n > 0; n--)
            mutant[model_below(len)] = (uint8_t)model_random();
        struct decoded_edit d;
        if (!edit_decode(mutant, len, &d)) {
            uint8_t *again;
            size_t again_len;
            assert_int_equal(edit_encode(&d.edit, d.next_number, &again, &again_len), 0);
            free(again);
            decoded_edit_free(&d);
        }
        free(mutant);
    }
}

/* A shard that the header does not have is damage though the edit alone is fine. */
static void test_shard_out_of_range(void **state)
{
    struct fixture *f = *state;
    struct manifest_contents c;
    struct manifest *m;
    size_t n;
    assert_int_equal(read_back(f, &n, &c), 0);
    assert_int_equal(manifest_open(&f->options, &c, &m), 0);
    assert_int_equal(manifest_append(m, (const uint8_t[]){11, 2, 4, 1}, 4), 0);
    manifest_close(m);
    assert_int_equal(read_back(f, &n, &c), -EUCLEAN);
}

static void test_no_space_leaves_no_trace(void **state)
{
    struct fixture *f = *state;
    struct fault_env faults;
    fault_env_init(&faults, f->env);
    struct manifest_options options = {&faults.base, DIR, &f->log};
    struct manifest_contents c;
    struct manifest *m;
    size_t n;
    assert_int_equal(read_back(f, &n, &c), 0);
    assert_int_equal(manifest_open(&options, &c, &m), 0);
    for (unsigned round = 0; round < 20; round++) {
        struct payload p = random_edit();
        faults.fail_from = faults.calls + 1;
        faults.fail_count = 1;
        faults.error = -ENOSPC;
        assert_int_equal(manifest_append(m, p.data, p.len), -ENOSPC);
        free(p.data);
        assert_int_equal(read_back(f, &n, &c), 0);
        assert_int_equal(n, f->count);
        assert_int_equal(c.file_bytes, c.good_bytes);
        append(f, m);
    }
    struct payload p = random_edit();
    faults.fail_from = faults.calls + 1;
    faults.fail_count = 2; /* the truncation, too */
    assert_int_equal(manifest_append(m, p.data, p.len), -EIO);
    free(p.data);
    manifest_close(m);
    assert_int_equal(read_back(f, &n, &c), 0);
    assert_int_equal(n, f->count);
}

static void test_replacing_is_atomic(void **state)
{
    struct fixture *f = *state;
    struct fault_env faults;
    struct store_identity identity = {.shards = 4, .log_segment_bytes = WAL_SEGMENT_MIN};
    for (uint64_t at = 1;; at++) {
        write_file(f, f->file, f->file_bytes);
        fault_env_init(&faults, f->env);
        faults.fail_from = at;
        faults.fail_count = 1;
        faults.error = -EIO;
        struct manifest_options options = {&faults.base, DIR, &f->log};
        struct manifest *m = NULL;
        bool renamed = false;
        int rc = manifest_create(&options, &identity, &m);
        for (size_t i = 0; !rc && i < 3; i++)
            rc = manifest_append(m, f->edits[i].data, f->edits[i].len);
        if (!rc)
            rc = manifest_publish(m, &renamed);
        if (m && !renamed)
            manifest_discard(m);
        else
            manifest_close(m);
        struct manifest_contents c;
        size_t n;
        assert_int_equal(read_back(f, &n, &c), 0);
        if (rc && !renamed) {
            assert_int_equal(n, f->count);
            struct env_file *left;
            assert_int_equal(env_open(f->env, DIR "/MANIFEST.new", ENV_READ, &left), -ENOENT);
        } else if (!rc) {
            assert_int_equal(n, 3);
            assert_int_equal(c.snapshot_bytes, c.file_bytes);
            return;
        }
    }
}

int main(void)
{
    model_start("test_manifest");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reads_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_tail_stays_dead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flipped_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_features, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(test_decoder_survives_anything, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shard_out_of_range, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_space_leaves_no_trace, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replacing_is_atomic, setup, teardown),
    };
    return model_end("test_manifest", cmocka_run_group_tests(tests, NULL, NULL));
}
