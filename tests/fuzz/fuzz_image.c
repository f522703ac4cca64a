/*
 * fuzz_image.c - a whole store as somebody may hand it to root: manifest, log and tables with good
 * checksums and arbitrary contents, opened as a store, read from end to end, written to, compacted, and
 * opened again.
 *
 * Input: {u8 flags, files: {u8 name, u24 length, bytes}}. Flag 1: read-only.
 */
#include "fuzz_files.h"
#include "record.h"
#include "wal_format.h"

#include <shale/lsm.h>

#define DIR "/s"
#define FILES_MAX 8u
#define ENTRIES_MAX (1u << 20) /* more than an input of any size here can hold */
#define WORK_STEPS_MAX 10000u
#define SEGMENT_SANE (8u << 20) /* larger log segments are fine on a disk, but not in memory */

static const char *const names[] = {"MANIFEST",   "000001.log", "000002.log", "000003.sst",   "000004.sst",
                                    "000005.sst", "000006.log", "000007.sst", "MANIFEST.new", "other"};
#define NAMES (sizeof(names) / sizeof(names[0]))

static uint64_t route(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len ? *(const uint8_t *)key : 0;
}

static struct lsm_options options_of(struct env *env, unsigned flags)
{
    return (struct lsm_options){.flags = flags | LSM_INLINE,
                                .shards = 2,
                                .memory_bytes = 16 << 20,
                                .write_buffer_bytes = 1 << 20,
                                .log_segment_bytes = WAL_SEGMENT_MIN,
                                .route = route,
                                .merge = record_merge,
                                .env = env};
}

static uint64_t segment_bytes(struct env *env)
{
    uint8_t head[128] = {0};
    struct env_file *f;

    if (env_open(env, DIR "/MANIFEST", ENV_READ, &f) < 0)
        return 0;
    fuzz_check(env_pread(f, head, sizeof(head), 0) >= 0);
    env_close(f);
    return get_le64(head + 64); /* manifest.c */
}

static void walk(struct lsm *db, bool forward)
{
    const struct lsm_iter_options options = {0};
    struct lsm_iter *it;
    uint8_t last[LSM_KEY_MAX];
    size_t last_len = 0, len;
    uint64_t n = 0;

    if (lsm_iter_new(db, &options, &it) < 0)
        return;
    if (forward)
        lsm_iter_first(it);
    else
        lsm_iter_last(it);
    for (; lsm_iter_valid(it); forward ? lsm_iter_next(it) : lsm_iter_prev(it)) {
        const void *key = lsm_iter_key(it, &len);
        fuzz_check(len <= LSM_KEY_MAX && ++n < ENTRIES_MAX);
        memcpy(last, key, len);
        last_len = len;
        key = lsm_iter_value(it, &len);
        fuzz_check(len == 0 || key);
    }
    struct lsm_value v = {0};
    if (n > 0 && lsm_get(db, last, last_len, NULL, 0, &v) == 0)
        lsm_value_release(&v);
    lsm_iter_free(it);
}

static void use(struct lsm *db)
{
    struct lsm_stats stats;
    unsigned steps = 0;

    walk(db, true);
    walk(db, false);
    if (lsm_put(db, "k", 1, "v", 1, 0) == 0)
        (void)lsm_delete(db, "k03", 3, 0);
    while (lsm_work(db) == 1 && steps < WORK_STEPS_MAX)
        steps++;
    fuzz_check(steps < WORK_STEPS_MAX);
    (void)lsm_compact(db);
    walk(db, true);
    lsm_stats_get(db, &stats);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct env *env = env_with(DIR);
    const unsigned flags = in_u8(&in) & 1 ? LSM_RDONLY : 0;
    struct lsm_options options = options_of(env, flags);
    struct lsm *db;

    for (unsigned i = 0; i < FILES_MAX && in.left > 0; i++) {
        char path[64];
        size_t len;
        snprintf(path, sizeof(path), DIR "/%s", names[in_below(&in, NAMES)]);
        size_t want = in_number(&in, 3);
        uint8_t *bytes = in_bytes(&in, want, &len);
        file_write(env, path, bytes, len);
        free(bytes);
    }
    if (segment_bytes(env) <= SEGMENT_SANE)
        for (unsigned i = 0; i < 2 && lsm_open(DIR, &options, &db) == 0; i++) {
            use(db);
            (void)lsm_close(db);
        }
    env_mem_free(env);
    return 0;
}

/* ---- seeds --------------------------------------------------------------------------------- */

struct packing {
    struct env *env;
    uint8_t *p, *end;
};

/* Log segments are mostly zeros, which need not be kept: reading past the end of a file ends the log. */
static size_t trimmed(const uint8_t *bytes, size_t len)
{
    while (len > 0 && bytes[len - 1] == 0)
        len--;
    return len;
}

static void pack(struct packing *k, const char *file, unsigned name)
{
    static uint8_t bytes[WAL_SEGMENT_MIN];
    char path[64];

    snprintf(path, sizeof(path), DIR "/%s", file);
    size_t len = file_read(k->env, path, bytes, sizeof(bytes));
    if (strstr(file, ".log"))
        len = trimmed(bytes, len);
    if ((size_t)(k->end - k->p) < 4 + len)
        return;
    *k->p++ = (uint8_t)name;
    put_le32(k->p, (uint32_t)len);
    memcpy(k->p + 3, bytes, len);
    k->p += 3 + len;
}

static int pack_any(void *arg, const char *file)
{
    for (unsigned i = 0; i < NAMES; i++)
        if (strcmp(names[i], file) == 0)
            pack(arg, file, i);
    return 0;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    struct env *env;
    struct lsm *db;
    struct lsm_batch *batch;

    if (n > 3)
        return 0;
    env = env_mem_new();
    struct lsm_options options = options_of(env, LSM_CREATE);
    fuzz_check(env && lsm_open(DIR, &options, &db) == 0 && lsm_batch_new(&batch) == 0);
    for (unsigned i = 0; i < 30; i++) {
        char key[8];
        int len = snprintf(key, sizeof(key), "%c%02u", 'j' + (int)(i % 3), i);
        lsm_batch_put(batch, key, (size_t)len, key, (size_t)len);
        if (i % 5 == 4)
            lsm_batch_delete(batch, "k03", 3);
        fuzz_check(lsm_commit(db, batch, 0) == 0);
        lsm_batch_clear(batch);
        if (i == 10 && n >= 1)
            fuzz_check(lsm_flush(db) == 0);
        if (i == 20 && n >= 2)
            fuzz_check(lsm_compact(db) == 0);
    }
    lsm_batch_free(batch);
    fuzz_check(lsm_close(db) == 0);
    struct packing k = {env, out + 1, out + FUZZ_SEED_MAX};
    out[0] = n == 3;
    fuzz_check(env_list(env, DIR, pack_any, &k) == 0);
    env_mem_free(env);
    return (size_t)(k.p - out);
}
