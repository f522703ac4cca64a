/*
 * fuzz_manifest.c - a manifest with good checksums and arbitrary contents, opened as a store does.
 *
 * The directory holds one good table, which the seeds name. First byte: 1 opens it read-only.
 */
#include "fuzz_files.h"
#include "manifest.h"
#include "version.h"

#define DIR "/m"
#define TABLE_NUMBER 7u
#define CACHE_BYTES (1u << 20)
#define WRITE_BUFFER_BYTES (1u << 20)

static uint8_t table_bytes[8192];
static size_t table_len;
static struct table_meta table_meta;

static void make_table(void)
{
    struct env *env;
    struct table_builder *b;
    char path[64];
    const struct ikey key = {.key = (const uint8_t *)"key", .len = 3, .seq = 9, .type = ENTRY_PUT};

    if (table_len)
        return;
    env = env_with(DIR);
    const struct table_builder_options options = {.env = env, .dir = DIR, .block_bytes = 4096};
    fuzz_check(table_builder_new(&options, TABLE_NUMBER, &b) == 0);
    fuzz_check(table_builder_add(b, &key, "value", 5) == 0);
    fuzz_check(table_builder_finish(b, &table_meta) == 0);
    table_path(DIR, TABLE_NUMBER, path, sizeof(path));
    table_len = file_read(env, path, table_bytes, sizeof(table_bytes));
    env_mem_free(env);
}

static void put_table(struct env *env)
{
    char path[64];

    make_table();
    table_path(DIR, TABLE_NUMBER, path, sizeof(path));
    file_write(env, path, table_bytes, table_len);
}

static struct vset_options options_of(struct env *env, struct cache *cache, bool read_only)
{
    return (struct vset_options){.env = env,
                                 .dir = DIR,
                                 .read_only = read_only,
                                 .cache = cache,
                                 .level_ratio = 10,
                                 .table_bytes = 1 << 20,
                                 .write_buffer_bytes = WRITE_BUFFER_BYTES};
}

/* What an opened store would ask for. */
static void use(struct vset *vs)
{
    struct lsm_stats stats = {0};
    size_t count;
    const struct wal_use *uses = vset_uses(vs, &count);

    for (size_t i = 0; i < count; i++)
        fuzz_check(uses[i].number > 0);
    for (unsigned i = 0; i < vset_identity(vs)->shards; i++) {
        struct version *v = vset_current(vs, i);
        struct compaction c;
        uint64_t targets[LSM_LEVELS];
        version_targets(vs, v, targets);
        (void)version_score(vs, v);
        if (compaction_pick(vs, v, SEQ_MAX, false, &c))
            compaction_release(&c);
    }
    vset_stats(vs, &stats);
    (void)vset_new_number(vs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    const bool read_only = in_u8(&in) & 1;
    struct env *env = env_with(DIR);
    struct cache *cache;
    struct vset *vs;

    fuzz_check(cache_new(CACHE_BYTES, &cache) == 0);
    put_table(env);
    file_write(env, DIR "/MANIFEST", in.p, in.left);
    const struct vset_options options = options_of(env, cache, read_only);
    for (unsigned i = 0; i < 2 && vset_open(&options, &vs) == 0; i++) { /* what it wrote must open as well */
        use(vs);
        vset_close(vs);
    }
    cache_free(cache);
    env_mem_free(env);
    return 0;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    struct env *env;
    struct cache *cache;
    struct vset *vs;
    size_t len = 0;
    const struct store_identity identity = {.shards = 2, .log_segment_bytes = WAL_SEGMENT_MIN};
    const struct wal_use use1 = {.number = 3, .base = 8, .salt = 1, .bytes = WAL_SEGMENT_MIN};

    if (n > 2)
        return 0;
    env = env_with(DIR);
    put_table(env);
    fuzz_check(cache_new(CACHE_BYTES, &cache) == 0);
    const struct vset_options options = options_of(env, cache, false);
    struct edit_file add = {.shard = 1, .level = 0, .meta = table_meta};
    struct edit_file moved = {.shard = 1, .level = 6, .meta = table_meta};
    struct edit first = {.use = &use1, .synced = 64};
    struct edit flush = {.add = &add, .add_count = 1, .has_flushed = true, .flushed_shard = 1, .flushed = 64};
    struct edit move = {.remove = &add, .remove_count = 1, .add = &moved, .add_count = 1, .log_start = 64};
    fuzz_check(vset_create(&options, &identity) == 0);
    put_table(env); /* an unnamed one would be deleted by opening */
    fuzz_check(vset_open(&options, &vs) == 0);
    put_table(env);
    if (n >= 1)
        fuzz_check(vset_apply(vs, &first, NULL, NULL) == 0 && vset_apply(vs, &flush, NULL, NULL) == 0);
    if (n >= 2)
        fuzz_check(vset_apply(vs, &move, NULL, NULL) == 0);
    out[0] = n == 1;
    len = 1 + file_read(env, DIR "/MANIFEST", out + 1, FUZZ_SEED_MAX - 1);
    vset_close(vs);
    cache_free(cache);
    env_mem_free(env);
    return len;
}
