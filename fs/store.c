/*
 * store.c - opening, creating and closing a filesystem; what concerns it as a whole.
 *
 * Creation is one synced batch: superblock, first lease, root directory. A store without a superblock
 * but with other keys belongs to somebody else and is refused; one without any key is a creation
 * that a crash interrupted, and is created anew if the caller asks for it.
 */
#include "store.h"
#include "mutant.h"
#include "record.h"
#include "nowait.h"
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define MEMORY_DEFAULT_BYTES (UINT64_C(256) << 20) /* as in lsm.h */
#define INODE_MEMORY_SHARE 8                       /* an eighth */
#define STATFS_BLOCK_BYTES 4096u
/*
 * Below, an fsync costs more by the second sync of a growing file than the log and compactions by copying: README.md,
 * "Large contents".
 */
#define BLOB_MIN_BYTES (32u << 10)

/* ---- messages ---- */

void fs_log(struct fs *fs, enum lsm_log_level level, const char *format, ...)
{
    char line[512];
    va_list args;

    if (!fs->log)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    fs->log(fs->log_arg, level, line);
}

int fs_damaged(struct fs *fs, const struct key *key, const char *what)
{
    char hex[2 * 24 + 1] = "";

    for (size_t i = 0; i < key->len && i < 24; i++)
        snprintf(hex + 2 * i, 3, "%02x", key->bytes[i]);
    fs_log(fs, LSM_LOG_ERROR, "inode %llx is damaged: %s (key %s)", (unsigned long long)get_be64(key->bytes),
           what, hex);
    return -EIO;
}

/* ---- what all operations use ---- */

struct timespec fs_now(struct fs *fs)
{
    uint64_t ns = env_wall_ns(fs->env);
    return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

int fs_scan(struct fs *fs, const struct key *lower, const struct key *upper, struct lsm_iter **out)
{
    struct lsm_iter_options o = {.lower = lower->bytes, .lower_len = lower->len};
    o.upper = upper->bytes;
    o.upper_len = upper->len;
    o.route_key = lower->bytes;
    o.route_key_len = lower->len;
    o.flags = nowait_flags();
    return lsm_iter_new(fs->db, &o, out);
}

uint64_t fs_name_hash(const struct fs *fs, const char *name, size_t len)
{
    return XXH3_64bits_withSeed(name, len, fs->hash_seed) & fs->hash_mask;
}

int fs_name_check(const char *name, size_t len, int dots)
{
    if (len > FS_NAME_MAX)
        return -ENAMETOOLONG;
    if (len == 0 || memchr(name, '/', len) || memchr(name, '\0', len))
        return -EINVAL;
    if (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')))
        return dots;
    return 0;
}

int fs_dir_check(struct fs *fs, fs_id id, struct itable_info *info)
{
    if (!itable_find(fs->inodes, id, info))
        return -ESTALE;
    if (!info->dir)
        return -ENOTDIR;
    return info->home.kind == HOME_DIR ? 0 : -ENOENT;
}

static uint64_t route(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len < 8 ? 0 : get_be64(key) >> 52;
}

void fs_lsm_options(struct lsm_options *lsm)
{
    lsm->route = route;
    lsm->merge = record_merge;
    lsm->callback_arg = NULL;
    if (!lsm->blob_min_bytes)
        lsm->blob_min_bytes = BLOB_MIN_BYTES;
}

/* ---- opening ---- */

static int check_super(struct fs *fs, const struct super *super)
{
    uint64_t incompat = super->incompat & ~SUPER_INCOMPAT_KNOWN;
    uint64_t ro = super->ro_compat & ~SUPER_RO_COMPAT_KNOWN;

    if (super->version > SUPER_VERSION || incompat) {
        fs_log(fs, LSM_LOG_ERROR,
               "%s was written by a newer release (format %u, features %llx); this one knows format %u",
               fs->path, super->version, (unsigned long long)incompat, SUPER_VERSION);
        return -ENOTSUP;
    }
    if (ro && !fs->read_only) {
        fs_log(fs, LSM_LOG_ERROR,
               "%s uses features %llx of a newer release: this one can only read it, open it read-only",
               fs->path, (unsigned long long)ro);
        return -ENOTSUP;
    }
    return 0;
}

/* Whether the store holds no key at all: 1, 0 or an error. */
static int store_empty(struct fs *fs)
{
    struct lsm_iter_options o = {0};
    struct lsm_iter *it = NULL;

    int r = lsm_iter_new(fs->db, &o, &it);
    if (r < 0)
        return r;
    lsm_iter_first(it);
    r = lsm_iter_valid(it) ? 0 : lsm_iter_status(it);
    if (r == 0)
        r = !lsm_iter_valid(it);
    lsm_iter_free(it);
    return r;
}

static void put_root(struct fs *fs, struct lsm_batch *batch)
{
    struct key key = key_plain(FS_ID_ROOT, KEY_DIR);
    struct inode root = {.attr = {.id = FS_ID_ROOT, .mode = S_IFDIR | 0755, .nlink = 2}};
    uint8_t record[DIR_RECORD_FIXED];

    root.attr.uid = geteuid();
    root.attr.gid = getegid();
    root.attr.btime = root.attr.ctime = root.attr.mtime = root.attr.atime = fs_now(fs);
    root.home = (struct inode_home){.kind = HOME_DIR, .parent = FS_ID_ROOT};
    lsm_batch_put(batch, key.bytes, key.len, record, record_dir_encode(&root, record));
}

static int create_store(struct fs *fs, struct super *super)
{
    struct key key = key_plain(ID_SUPER, KEY_SUPER), lease = key_plain(ID_SUPER, KEY_LEASE);
    uint8_t bytes[SUPER_BYTES], lease_bytes[LEASE_BYTES];
    struct lsm_batch *batch = NULL;

    *super = (struct super){.version = SUPER_VERSION};
    int r = env_random(fs->env, super->uuid, sizeof(super->uuid));
    if (r >= 0)
        r = env_random(fs->env, &super->hash_seed, sizeof(super->hash_seed));
    if (r < 0)
        return r;
    super->uuid[6] = (uint8_t)((super->uuid[6] & 0x0f) | 0x40); /* RFC 4122, version 4 */
    super->uuid[8] = (uint8_t)((super->uuid[8] & 0x3f) | 0x80);
    r = lsm_batch_new(&batch);
    if (r < 0)
        return r;
    record_super_encode(super, bytes);
    lsm_batch_put(batch, key.bytes, key.len, bytes, sizeof(bytes));
    put_le64(lease_bytes, ID_SERIAL_FIRST);
    lsm_batch_put(batch, lease.bytes, lease.len, lease_bytes, sizeof(lease_bytes));
    put_root(fs, batch);
    r = lsm_commit(fs->db, batch, LSM_SYNC);
    lsm_batch_free(batch);
    return r;
}

static int load_super(struct fs *fs, bool create)
{
    struct key key = key_plain(ID_SUPER, KEY_SUPER);
    struct lsm_value v = {0};
    struct super super;

    int r = lsm_get(fs->db, key.bytes, key.len, NULL, 0, &v);
    if (r == -ENOENT) {
        r = store_empty(fs);
        if (r < 0)
            return r;
        if (r == 0 || !create) {
            fs_log(fs, LSM_LOG_ERROR, "%s is a key-value store, but holds no filesystem", fs->path);
            return -EMEDIUMTYPE;
        }
        r = create_store(fs, &super);
    } else if (r == 0) {
        r = record_super_decode(v.data, v.len, &super);
        if (r < 0)
            fs_damaged(fs, &key, "the superblock can't be decoded");
        lsm_value_release(&v);
    }
    if (r == 0)
        r = check_super(fs, &super);
    if (r == 0) {
        fs->hash_seed = super.hash_seed;
        fs->incompat = super.incompat;
    }
    return r;
}

int fs_require(struct fs *fs, uint64_t feature)
{
    struct key key = key_plain(ID_SUPER, KEY_SUPER);
    struct lsm_value v = {0};
    struct lsm_batch *batch = NULL;
    uint8_t *bytes = NULL;

    if (__atomic_load_n(&fs->incompat, __ATOMIC_ACQUIRE) & feature)
        return 0;
    if (nowait_on())
        return -EAGAIN;
    int r = lsm_get(fs->db, key.bytes, key.len, NULL, 0, &v);
    if (r == 0)
        r = lsm_batch_new(&batch);
    if (r == 0)
        r = (bytes = malloc(v.len)) ? 0 : -ENOMEM;
    if (r == 0) { /* several threads at once say the same */
        uint64_t all = __atomic_load_n(&fs->incompat, __ATOMIC_ACQUIRE) | feature;
        memcpy(bytes, v.data, v.len); /* load_super has looked at it */
        record_super_set_incompat(bytes, all);
        lsm_batch_put(batch, key.bytes, key.len, bytes, v.len);
        r = mutant("a feature is used before the superblock names it") ? 0
                                                                       : nowait_commit(fs->db, batch, false);
        if (r == 0)
            __atomic_store_n(&fs->incompat, all, __ATOMIC_RELEASE);
    }
    free(bytes);
    lsm_batch_free(batch);
    lsm_value_release(&v);
    return r;
}

static int add_root(struct fs *fs)
{
    struct itable_info info = {.home = {.kind = HOME_DIR, .parent = FS_ID_ROOT}};
    struct inode_view v;

    int r = inode_view(fs, FS_ID_ROOT, &info, &v);
    if (r == 0) {
        info = inode_info(&v.ino);
        r = itable_ref(fs->inodes, FS_ID_ROOT, &info);
    }
    inode_view_release(&v);
    return r;
}

static void configure(struct fs *fs, const struct fs_options *options)
{
    uint64_t memory = options->lsm.memory_bytes ? options->lsm.memory_bytes : MEMORY_DEFAULT_BYTES;

    fs->env = options->lsm.env ? options->lsm.env : env_posix();
    fs->read_only = options->lsm.flags & LSM_RDONLY;
    fs->noatime = options->noatime || fs->read_only;
    fs->hash_mask = HASH_MASK;
    if (options->test_hash_bits > 0 && options->test_hash_bits < HASH_BITS)
        fs->hash_mask = (UINT64_C(1) << options->test_hash_bits) - 1;
    fs->inode_bytes_max = options->inode_bytes ? options->inode_bytes : memory / INODE_MEMORY_SHARE;
    fs->log = options->lsm.log;
    fs->log_arg = options->lsm.log_arg;
}

static int start(struct fs *fs, const struct fs_options *options)
{
    int r = load_super(fs, options->lsm.flags & LSM_CREATE);
    if (r == 0)
        r = ids_open(&fs->ids, fs->db);
    if (r < 0)
        return r;
    r = add_root(fs);
    if (r == 0 && !fs->read_only)
        r = truncates_finish(fs);
    if (r == 0 && !fs->read_only)
        r = reaper_new(fs, !(options->lsm.flags & LSM_INLINE), &fs->reaper);
    if (r < 0)
        ids_close(&fs->ids);
    return r;
}

static void release(struct fs *fs)
{
    itable_free(fs->inodes);
    locks_free(fs->locks);
    pthread_mutex_destroy(&fs->dir_rename);
    free(fs->path);
    free(fs);
}

int fs_open(const char *path, const struct fs_options *options, struct fs **out)
{
    static const struct fs_options defaults;
    struct fs *fs = calloc(1, sizeof(*fs));
    int r = -ENOMEM;

    if (!fs)
        return r;
    if (!options)
        options = &defaults;
    pthread_mutex_init(&fs->dir_rename, NULL);
    configure(fs, options);
    fs->path = strdup(path);
    if (!fs->path || locks_new(&fs->locks) < 0 || itable_new(&fs->inodes) < 0)
        goto out;
    struct lsm_options lsm = options->lsm;
    fs_lsm_options(&lsm);
    r = lsm_open(path, &lsm, &fs->db);
    if (r < 0)
        goto out;
    r = start(fs, options);
    if (r < 0) {
        lsm_close(fs->db);
        goto out;
    }
    *out = fs;
    return 0;
out:
    release(fs);
    return r;
}

int fs_close(struct fs *fs)
{
    reaper_free(fs->reaper);
    fs->reaper = NULL;
    ids_close(&fs->ids);
    int r = lsm_close(fs->db);
    release(fs);
    return r;
}

struct lsm *fs_lsm(struct fs *fs) { return fs->db; }

/* ---- the whole ---- */

int fs_sync(struct fs *fs) { return fs->read_only || mutant("sync does nothing") ? 0 : lsm_sync(fs->db); }

void fs_sync_async(struct fs *fs, void (*done)(void *arg, int result), void *arg)
{
    if (fs->read_only)
        done(arg, 0);
    else
        lsm_sync_async(fs->db, done, arg);
}

int fs_statfs(struct fs *fs, struct fs_space *out)
{
    out->block_bytes = STATFS_BLOCK_BYTES;
    return lsm_space(fs->db, &out->free_bytes, &out->total_bytes);
}

void fs_stats_get(struct fs *fs, struct fs_stats *out)
{
    *out = (struct fs_stats){0};
    out->inodes = itable_count(fs->inodes);
    out->inode_bytes = out->inodes * ITABLE_ENTRY_BYTES;
    out->inode_bytes_max = fs->inode_bytes_max;
    out->orphans = itable_orphans(fs->inodes);
}

int fs_work(struct fs *fs) { return reaper_work(fs->reaper); }

static bool cold_name(struct fs *fs, const struct itable_cold *cold, struct fs_cold *out)
{
    struct bucket b;
    bool found = false;

    if (bucket_load(fs, cold->home.parent, cold->home.hash, &b) == 0) {
        struct bucket_entry *e = bucket_at(&b, cold->home.index);
        found = e && e->id == cold->id; /* it may have moved since: then it is not cold */
        if (found) {
            out->parent = cold->home.parent;
            out->len = e->name_len;
            memcpy(out->name, e->name, e->name_len);
            out->name[e->name_len] = '\0';
        }
    }
    bucket_release(&b);
    return found;
}

size_t fs_cold_inodes(struct fs *fs, struct fs_cold *out, size_t max)
{
    struct itable_cold *cold = malloc(max * sizeof(*cold));
    size_t n = 0;

    if (!cold)
        return 0;
    size_t found = itable_cold(fs->inodes, cold, max);
    for (size_t i = 0; i < found; i++)
        n += cold_name(fs, &cold[i], &out[n]);
    free(cold);
    return n;
}
