/*
 * manifest.c - the file MANIFEST: format, reading, appending, replacing.
 *
 * All integers are little-endian. A header of 128 bytes, which keeps this layout and this checksum
 * in every later format, so that an older release can refuse it by name instead of calling it damaged:
 *
 *     0  magic "SHALELSM"
 *     8  u32 format version (1)           12  u32 zero
 *    16  u64 compatible features: an older release may ignore, and at a rollover lose, them
 *    24  u64 read-only-compatible features: unknown ones allow reading only
 *    32  u64 incompatible features: unknown ones allow nothing
 *    40  uuid of the store (16 bytes)
 *    56  u32 shards                       60  u32 zero
 *    64  u64 bytes of a log segment
 *    72  u64 salt, random, of this file
 *    80  u64 snapshot bytes: how long the file was when it got its name
 *    88  zeros
 *   120  u64 XXH3 of bytes 0..119
 *
 * then records, back to back:
 *
 *     0  u32 length of the payload
 *     4  u32 type: 1 = edit (edit.c). An unknown even type may be skipped, an odd one must be known
 *     8  u64 sequence number: 1, 2, 3 ... within the file
 *    16  u64 XXH3 of the payload, seeded with XXH3 of bytes 0..15, seeded with XXH3(uuid, salt) + sequence number
 *    24  payload
 *
 * Writing. A record is synced before anything that depends on it is done and before the next one is
 * written. The file is created as MANIFEST.new with everything known in its first records, synced,
 * renamed over MANIFEST, and the directory synced: a rollover after a crash is done or not done.
 *
 * Reading. The first bad record ends the file. If it is the last, it is a torn write that nobody
 * acted upon, and is dropped: never before something is appended without being cut off first, so
 * that it can't come back to life. It is damage, -EUCLEAN, if it lies within the snapshot bytes, or
 * if any good record with a higher number stands behind it, at whatever position.
 */
#include "manifest.h"

#include "coding.h"
#include "mutant.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#define MAGIC "SHALELSM"
#define FORMAT_VERSION 1u
#define HEADER_BYTES 128u
#define RECORD_HEADER_BYTES 24u
#define RECORD_EDIT 1u

/* Feature bits that this release understands: enum store_feature. */
#define KNOWN_RO_COMPAT UINT64_C(0)
#define KNOWN_INCOMPAT \
    ((uint64_t)(STORE_COMPRESSION | STORE_RANGE_DELETES | STORE_BLOBS | STORE_SNAPSHOTS | STORE_FUSE_FILTERS))

enum header_offset {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_COMPAT = 16,
    AT_RO_COMPAT = 24,
    AT_INCOMPAT = 32,
    AT_UUID = 40,
    AT_SHARDS = 56,
    AT_SEGMENT_BYTES = 64,
    AT_SALT = 72,
    AT_SNAPSHOT_BYTES = 80,
    AT_CHECKSUM = 120,
};
static_assert(AT_CHECKSUM + sizeof(uint64_t) == HEADER_BYTES, "the checksum ends the header");
static_assert(AT_UUID + sizeof(((struct store_identity *)0)->uuid) == AT_SHARDS, "a uuid has 16 bytes");

struct manifest {
    struct env *env;
    struct env_file *file;
    char *dir;
    struct store_identity identity;
    uint64_t salt;
    uint64_t seed;
    uint64_t bytes;    /* where the next record goes */
    uint64_t sequence; /* of the next record */
};

static char *path_of(const char *dir, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

static uint64_t seed_of(const struct store_identity *identity, uint64_t salt)
{
    uint8_t bytes[24];
    memcpy(bytes, identity->uuid, 16);
    put_le64(bytes + 16, salt);
    return XXH3_64bits(bytes, sizeof bytes);
}

static uint64_t record_checksum(uint64_t seed, uint64_t sequence, const uint8_t *header,
                                const uint8_t *payload, size_t len)
{
    return XXH3_64bits_withSeed(payload, len, XXH3_64bits_withSeed(header, 16, seed + sequence));
}

/* ---- reading ---- */

/* Reports damage; the error that says that what had been promised is not there. */
static int damaged(const struct manifest_options *o, const char *path, uint64_t offset, const char *what)
{
    (void)logger_corrupt(o->log, path, offset, "%s", what);
    return -EUCLEAN;
}

/*
 * The whole file in memory: a rollover keeps it within a few times what the open tables' own
 * descriptions take (vset.c).
 */
static int load(const struct manifest_options *o, const char *path, uint8_t **data, uint64_t *bytes)
{
    struct env_file *f;
    int rc = env_open(o->env, path, ENV_READ, &f);
    if (rc)
        return rc;
    uint8_t *buf = NULL;
    uint64_t size;
    rc = env_size(f, &size);
    if (rc)
        goto out;
    buf = malloc(size + 1);
    if (!buf) {
        rc = -ENOMEM;
        goto out;
    }
    ssize_t n = env_pread(f, buf, size, 0);
    rc = n < 0 ? (int)n : (uint64_t)n != size ? -EIO : 0;
    if (rc)
        goto out;
    *data = buf;
    *bytes = size;
    buf = NULL;
out:
    free(buf);
    env_close(f);
    return rc;
}

static int check_features(const struct manifest_options *o, const char *path, const uint8_t *h,
                          bool read_only)
{
    uint32_t version = get_le32(h + AT_VERSION);
    uint64_t incompat = get_le64(h + AT_INCOMPAT) & ~KNOWN_INCOMPAT;
    uint64_t ro_compat = get_le64(h + AT_RO_COMPAT) & ~KNOWN_RO_COMPAT;
    if (version != FORMAT_VERSION)
        logger_write(o->log, LSM_LOG_ERROR,
                     "%s: format version %" PRIu32 "; this release knows only %u: use a newer one", path,
                     version, FORMAT_VERSION);
    else if (incompat)
        logger_write(o->log, LSM_LOG_ERROR,
                     "%s: needs features unknown to this release (0x%" PRIx64 "): use a newer one", path,
                     incompat);
    else if (ro_compat && !read_only)
        logger_write(o->log, LSM_LOG_ERROR,
                     "%s: needs features unknown to this release for writing (0x%" PRIx64
                     "): open it read-only or use a newer one",
                     path, ro_compat);
    else
        return 0;
    return -ENOTSUP;
}

static void read_header(const uint8_t *h, struct manifest_contents *out)
{
    memcpy(out->identity.uuid, h + AT_UUID, sizeof out->identity.uuid);
    out->identity.shards = get_le32(h + AT_SHARDS);
    out->identity.log_segment_bytes = get_le64(h + AT_SEGMENT_BYTES);
    out->identity.incompat = get_le64(h + AT_INCOMPAT);
    out->salt = get_le64(h + AT_SALT);
}

static int check_header(const struct manifest_options *o, const char *path, const uint8_t *h, uint64_t bytes,
                        bool read_only, struct manifest_contents *out)
{
    if (bytes < HEADER_BYTES)
        return damaged(o, path, bytes, "shorter than its header");
    if (memcmp(h + AT_MAGIC, MAGIC, 8))
        return damaged(o, path, AT_MAGIC, "not a manifest");
    if (XXH3_64bits(h, AT_CHECKSUM) != get_le64(h + AT_CHECKSUM))
        return damaged(o, path, AT_CHECKSUM, "checksum of the header does not match");
    int rc = check_features(o, path, h, read_only);
    if (rc)
        return rc;
    read_header(h, out);
    out->snapshot_bytes = get_le64(h + AT_SNAPSHOT_BYTES);
    if (out->identity.shards == 0 || out->identity.shards > SHARDS_MAX)
        return damaged(o, path, AT_SHARDS, "impossible number of shards");
    if (out->identity.log_segment_bytes < WAL_SEGMENT_MIN)
        return damaged(o, path, AT_SEGMENT_BYTES, "impossible size of log segments");
    return 0;
}

/* Is a whole, good record with this number at p? */
static bool record_is_good(const uint8_t *p, uint64_t left, uint64_t seed, uint64_t sequence)
{
    if (left < RECORD_HEADER_BYTES || get_le64(p + 8) != sequence)
        return false;
    uint32_t len = get_le32(p);
    return len <= left - RECORD_HEADER_BYTES && len <= MANIFEST_RECORD_MAX &&
           (record_checksum(seed, sequence, p, p + RECORD_HEADER_BYTES, len) == get_le64(p + 16) ||
            mutant("checksum of the manifest ignored"));
}

/* Does any good record numbered above `sequence` stand after `from`? */
static bool good_record_follows(const uint8_t *data, uint64_t from, uint64_t bytes, uint64_t seed,
                                uint64_t sequence)
{
    uint64_t sequence_max = sequence + (bytes - from) / RECORD_HEADER_BYTES; /* more do not fit */
    for (uint64_t at = from; at + RECORD_HEADER_BYTES <= bytes; at++) {
        uint64_t found = get_le64(data + at + 8);
        if (found > sequence && found <= sequence_max && record_is_good(data + at, bytes - at, seed, found))
            return true;
    }
    return false;
}

static int take_record(const struct manifest_options *o, const char *path, const uint8_t *p, uint64_t offset,
                       uint32_t shards, manifest_edit_fn fn, void *arg)
{
    uint32_t type = get_le32(p + 4);
    if (type != RECORD_EDIT) {
        if (!(type & 1))
            return 0;
        logger_write(o->log, LSM_LOG_ERROR,
                     "%s: the record at offset %" PRIu64 " has type %" PRIu32
                     ", unknown to this release: use a newer one",
                     path, offset, type);
        return -ENOTSUP;
    }
    struct decoded_edit d;
    int rc = edit_decode(p + RECORD_HEADER_BYTES, get_le32(p), &d);
    if (rc == -ENOTSUP)
        logger_write(o->log, LSM_LOG_ERROR,
                     "%s: the edit at offset %" PRIu64
                     " has a field unknown to this release: use a newer one",
                     path, offset);
    if (rc == -EUCLEAN)
        return damaged(o, path, offset, "edit with a good checksum makes no sense");
    if (rc)
        return rc;
    bool in_range = !d.edit.has_flushed || d.edit.flushed_shard < shards;
    for (size_t i = 0; i < d.edit.add_count; i++)
        in_range &= d.edit.add[i].shard < shards;
    for (size_t i = 0; i < d.edit.remove_count; i++)
        in_range &= d.edit.remove[i].shard < shards;
    rc = in_range ? fn(arg, &d, offset) : damaged(o, path, offset, "edit of a shard that does not exist");
    decoded_edit_free(&d);
    return rc;
}

int manifest_read(const struct manifest_options *o, bool read_only, manifest_edit_fn fn, void *arg,
                  struct manifest_contents *out)
{
    memset(out, 0, sizeof *out);
    uint8_t *data = NULL;
    uint64_t bytes = 0;
    char *path = path_of(o->dir, "MANIFEST");
    int rc = path ? load(o, path, &data, &bytes) : -ENOMEM;
    if (!rc)
        rc = check_header(o, path, data, bytes, read_only, out);
    if (rc)
        goto out;
    uint64_t seed = seed_of(&out->identity, out->salt), at = HEADER_BYTES, sequence = 1;
    while (record_is_good(data + at, bytes - at, seed, sequence)) {
        rc = take_record(o, path, data + at, at, out->identity.shards, fn, arg);
        if (rc)
            goto out;
        at += RECORD_HEADER_BYTES + get_le32(data + at);
        sequence++;
    }
    out->records = sequence - 1;
    out->good_bytes = at;
    out->file_bytes = bytes;
    if (at < out->snapshot_bytes)
        rc = damaged(o, path, at, "bad record below what was on the medium when the file was made");
    else if (at < bytes && good_record_follows(data, at + 1, bytes, seed, sequence))
        rc = damaged(o, path, at, "bad record with good ones behind it");
    else if (at < bytes)
        logger_write(o->log, LSM_LOG_WARNING,
                     "%s: dropped a torn record of %" PRIu64 " bytes at offset %" PRIu64, path, bytes - at,
                     at);
out:
    free(data);
    free(path);
    return rc;
}

int manifest_salvage(const struct manifest_options *o, manifest_edit_fn fn, void *arg,
                     struct manifest_contents *out)
{
    memset(out, 0, sizeof *out);
    uint8_t *data = NULL;
    uint64_t bytes = 0;
    char *path = path_of(o->dir, "MANIFEST");
    int rc = path ? load(o, path, &data, &bytes) : -ENOMEM;
    if (rc || bytes < HEADER_BYTES)
        goto out;
    read_header(data, out);
    uint64_t seed = seed_of(&out->identity, out->salt);
    for (uint64_t at = HEADER_BYTES; !rc && at + RECORD_HEADER_BYTES <= bytes;) {
        uint64_t sequence = get_le64(data + at + 8);
        if (!sequence || sequence > bytes / RECORD_HEADER_BYTES ||
            !record_is_good(data + at, bytes - at, seed, sequence)) {
            at++;
            continue;
        }
        rc = take_record(o, path, data + at, at, SHARDS_MAX, fn, arg);
        rc = rc == -EUCLEAN ? 0 : rc; /* reported; the others may still be of use */
        at += RECORD_HEADER_BYTES + get_le32(data + at);
        out->records++;
    }
out:
    out->identity.incompat = KNOWN_INCOMPAT; /* the header may be damaged: better one too many */
    free(data);
    free(path);
    return rc;
}

/* ---- writing ---- */

static int manifest_new(const struct manifest_options *o, const struct store_identity *identity,
                        uint64_t salt, const char *name, unsigned flags, struct manifest **out)
{
    struct manifest *m = calloc(1, sizeof *m);
    char *path = path_of(o->dir, name);
    int rc = -ENOMEM;
    if (!m || !path)
        goto out;
    m->env = o->env;
    m->dir = strdup(o->dir);
    m->identity = *identity;
    m->salt = salt;
    m->seed = seed_of(identity, salt);
    m->bytes = HEADER_BYTES;
    m->sequence = 1;
    if (!m->dir)
        goto out;
    rc = env_open(o->env, path, flags, &m->file);
    if (rc)
        goto out;
    *out = m;
    m = NULL;
out:
    free(path);
    manifest_close(m);
    return rc;
}

/*
 * Writes what was read once more. Bytes that a dead process appended may be in the page cache only,
 * even marked clean by a sync that failed; only a new write makes the next sync speak for them.
 * Writing the same bytes in place can't tear anything. Where even that finds no space
 * (copy-on-write filesystems) the sync has to do.
 */
static int rewrite(struct manifest *m)
{
    enum { CHUNK = 64 << 10 };
    uint8_t *buf = malloc(CHUNK);
    int rc = buf ? 0 : -ENOMEM;
    for (uint64_t at = 0; !rc && at < m->bytes;) {
        size_t len = m->bytes - at < CHUNK ? (size_t)(m->bytes - at) : CHUNK;
        ssize_t n = env_pread(m->file, buf, len, at);
        rc = n < 0 ? (int)n : (size_t)n != len ? -EIO : env_pwrite(m->file, buf, len, at);
        at += len;
    }
    free(buf);
    return rc == -ENOSPC ? 0 : rc;
}

int manifest_open(const struct manifest_options *o, const struct manifest_contents *c, struct manifest **out)
{
    struct manifest *m;
    int rc = manifest_new(o, &c->identity, c->salt, "MANIFEST", ENV_READ | ENV_WRITE, &m);
    if (rc)
        return rc;
    m->bytes = c->good_bytes;
    m->sequence = c->records + 1;
    if (c->file_bytes > c->good_bytes)
        rc = env_truncate(m->file, c->good_bytes);
    if (!rc)
        rc = rewrite(m);
    if (!rc)
        rc = env_sync(m->file);
    if (!rc) /* its name, and those of log segments, may be as new as its last bytes */
        rc = env_sync_dir(m->env, m->dir);
    if (rc) {
        manifest_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

int manifest_create(const struct manifest_options *o, const struct store_identity *identity,
                    struct manifest **out)
{
    uint64_t salt;
    int rc = env_random(o->env, &salt, sizeof salt);
    return rc ? rc
              : manifest_new(o, identity, salt, "MANIFEST.new", ENV_READ | ENV_WRITE | ENV_CREATE | ENV_TRUNC,
                             out);
}

static int write_header(struct manifest *m)
{
    uint8_t h[HEADER_BYTES] = {0};
    memcpy(h + AT_MAGIC, MAGIC, 8);
    put_le32(h + AT_VERSION, FORMAT_VERSION);
    put_le64(h + AT_INCOMPAT, m->identity.incompat);
    memcpy(h + AT_UUID, m->identity.uuid, sizeof m->identity.uuid);
    put_le32(h + AT_SHARDS, m->identity.shards);
    put_le64(h + AT_SEGMENT_BYTES, m->identity.log_segment_bytes);
    put_le64(h + AT_SALT, m->salt);
    put_le64(h + AT_SNAPSHOT_BYTES, m->bytes);
    put_le64(h + AT_CHECKSUM, XXH3_64bits(h, AT_CHECKSUM));
    return env_pwrite(m->file, h, sizeof h, 0);
}

int manifest_publish(struct manifest *m, bool *renamed)
{
    *renamed = false;
    char *from = path_of(m->dir, "MANIFEST.new"), *to = path_of(m->dir, "MANIFEST");
    int rc = from && to ? write_header(m) : -ENOMEM;
    if (!rc && !mutant("manifest renamed without a sync"))
        rc = env_sync(m->file);
    if (!rc) {
        rc = env_rename(m->env, from, to);
        *renamed = rc != -ENOSPC; /* any other failure leaves open which name the medium has */
        if (!rc && !mutant("directory not synced for the manifest"))
            rc = env_sync_dir(m->env, m->dir);
    }
    free(from);
    free(to);
    return rc;
}

int manifest_append(struct manifest *m, const uint8_t *payload, size_t len)
{
    assert(len <= MANIFEST_RECORD_MAX);
    uint8_t header[RECORD_HEADER_BYTES];
    put_le32(header, (uint32_t)len);
    put_le32(header + 4, RECORD_EDIT);
    put_le64(header + 8, m->sequence);
    put_le64(header + 16, record_checksum(m->seed, m->sequence, header, payload, len));
    struct iovec iov[2] = {{header, sizeof header}, {(void *)payload, len}};
    int rc = env_pwritev(m->file, iov, 2, m->bytes);
    if (rc == -ENOSPC && env_truncate(m->file, m->bytes))
        rc = -EIO; /* bytes of unknown length stand where the next record would go */
    if (rc)
        return rc;
    m->bytes += sizeof header + len;
    m->sequence++;
    return 0;
}

int manifest_sync(struct manifest *m) { return mutant("manifest edit not synced") ? 0 : env_sync(m->file); }

uint64_t manifest_bytes(const struct manifest *m) { return m->bytes; }

void manifest_close(struct manifest *m)
{
    if (!m)
        return;
    env_close(m->file);
    free(m->dir);
    free(m);
}

static void remove_new(struct env *env, const char *dir)
{
    char *path = path_of(dir, "MANIFEST.new");
    if (path)
        (void)env_unlink(env, path); /* a leftover is overwritten by the next rollover */
    free(path);
}

void manifest_discard(struct manifest *m)
{
    struct env *env = m->env;
    env_close(m->file);
    m->file = NULL;
    remove_new(env, m->dir);
    manifest_close(m);
}

void manifest_remove_new(const struct manifest_options *o) { remove_new(o->env, o->dir); }
