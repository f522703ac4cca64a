/*
 * fuzz_data.c - contents of one file: whatever stands under its keys, read, searched and changed.
 *
 * Input: an inode record, then the extents and small contents under its keys, then operations. One
 * store in memory serves many inputs, each under an id of its own.
 */
#include "data.h"
#include "fuzz_files.h"
#include "record.h"
#include "store.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define STORE_USES 500u /* inputs until the store is made anew, to bound its memory */
#define KEYS_MAX 40u
#define OPS_MAX 40u
#define READ_MAX (128u << 10)
#define PIECE_MAX 6000u
#define STEPS_MAX 100u /* of stepwise removal: far more than KEYS_MAX can need */

static struct env *env;
static struct lsm *db;
static unsigned uses;
static uint8_t buf[READ_MAX];

static uint64_t route(void *arg, const void *key, size_t len)
{
    (void)arg;
    return len < 8 ? 0 : get_be64(key) >> 52;
}

static void open_store(void)
{
    env = env_mem_new();
    const struct lsm_options o = {.flags = LSM_CREATE | LSM_INLINE,
                                  .shards = 1,
                                  .memory_bytes = 16 << 20,
                                  .write_buffer_bytes = 1 << 20,
                                  .log_segment_bytes = 4 << 20,
                                  .route = route,
                                  .merge = record_merge,
                                  .env = env};
    fuzz_check(env && lsm_open("/s", &o, &db) == 0);
}

static void close_store(void)
{
    fuzz_check(lsm_close(db) == 0);
    env_mem_free(env);
    db = NULL;
    uses = 0;
}

/* A place in the file: near a boundary of blocks or chunks, or anywhere. */
static uint64_t place(struct input *in)
{
    uint8_t how = in_u8(in);
    if (how & 1)
        return (uint64_t)in_u8(in) * EXTENT_MAX / 4 + (uint64_t)(how >> 1);
    return in_shaped(in);
}

static void put_extent(struct input *in, fs_id id)
{
    uint64_t start = place(in);
    size_t len;
    uint8_t *bytes = in_bytes(in, in_u16(in) % PIECE_MAX, &len);
    uint8_t *value = malloc(8 + len);
    uint8_t lie = in_u8(in);
    struct key k = key_u64(id, KEY_EXTENT, start + len + (lie == 1 ? 1 : 0));

    fuzz_check(value);
    put_le64(value, start + (lie == 2 ? 1 : 0));
    memcpy(value + 8, bytes, len);
    fuzz_check(lsm_put(db, k.bytes, k.len, value, lie == 3 ? in_u8(in) % (8 + len) : 8 + len, 0) == 0);
    free(value);
    free(bytes);
}

static void put_key(struct input *in, const struct inode *ino)
{
    struct key k = key_small(ino->home.parent, ino->home.hash, ino->home.index);
    size_t len;

    if (in_u8(in) % 4 != 0) {
        put_extent(in, ino->attr.id);
        return;
    }
    uint8_t *bytes = in_bytes(in, in_u8(in) & 1 ? ino->data_len : in_u16(in) % PIECE_MAX, &len);
    fuzz_check(lsm_put(db, k.bytes, k.len, bytes, len, 0) == 0);
    free(bytes);
}

/* As the callers do: the copy that was changed is kept if all went well, and thrown away otherwise. */
static int change(struct input *in, struct inode *ino, struct lsm_batch *batch)
{
    const struct inode_home homes[] = {
        {HOME_ENTRY, ino->home.parent, 5, 1}, {.kind = HOME_OWN}, {.kind = HOME_MEMORY}};
    uint64_t next = 0;
    bool more = true;
    int rc = 0;
    uint64_t off = place(in), len = place(in);

    switch (in_below(in, 5)) {
    case 0: return data_write(db, ino, off, buf, len % READ_MAX, batch);
    case 1:
        rc = data_truncate(db, ino, off, batch, &more);
        fuzz_check(rc < 0 || !more);
        return rc;
    case 2: return data_punch(db, ino, off, len, batch, &next);
    case 3: return data_rehome(db, ino, &homes[len % 3], batch);
    default: return data_trim(db, ino, batch, &more);
    }
}

static int apply_change(struct input *in, struct inode *ino)
{
    struct inode copy;
    struct lsm_batch *batch;
    uint8_t *record;

    fuzz_check(inode_clone(&copy, ino) == 0 && lsm_batch_new(&batch) == 0);
    int rc = change(in, &copy, batch);
    if (rc == 0 && lsm_batch_count(batch) > 0)
        rc = lsm_commit(db, batch, 0);
    fuzz_check(rc != -E2BIG && rc != -EINVAL);
    if (rc == 0) {
        inode_release(ino);
        *ino = copy;
        if (ino->home.kind != HOME_MEMORY) { /* it must still be an inode that can be stored */
            record = malloc(record_inode_max(ino));
            fuzz_check(record);
            struct inode again;
            fuzz_check(record_inode_decode(record, record_inode_encode(ino, record), &again) == 0);
            free(record);
        }
    } else {
        inode_release(&copy);
    }
    lsm_batch_free(batch);
    return rc;
}

static void look(struct input *in, const struct inode *ino)
{
    uint64_t off = place(in), found;
    size_t got = 0;
    uint8_t how = in_u8(in);

    if (how & 1) {
        int rc = data_seek(db, ino, off, how & 2 ? SEEK_DATA : SEEK_HOLE, &found);
        fuzz_check(rc < 0 || (found >= off && found <= ino->attr.size));
    } else {
        size_t len = place(in) % READ_MAX;
        int rc = data_read(db, ino, off, buf, len, &got);
        fuzz_check(rc < 0 || got <= len);
    }
}

static void remove_all(const struct inode *ino)
{
    struct key k = key_small(ino->home.parent, ino->home.hash, ino->home.index);
    struct lsm_batch *batch;

    fuzz_check(lsm_batch_new(&batch) == 0);
    data_reap(ino->attr.id, batch);
    lsm_batch_delete(batch, k.bytes, k.len);
    fuzz_check(lsm_commit(db, batch, 0) == 0);
    lsm_batch_free(batch);
}

static bool read_inode(struct input *in, struct inode *out)
{
    static const uint8_t kinds[] = {HOME_ENTRY, HOME_OWN, HOME_ENTRY, HOME_MEMORY};
    size_t len;
    enum home_kind kind = kinds[in_u8(in) % 4];
    uint8_t *record = in_bytes(in, in_u8(in), &len);
    struct inode view;
    bool good = record_inode_decode(record, len, &view) == 0;

    if (good) {
        view.attr.id = 16 + uses;
        view.home.kind = kind;
        if (kind == HOME_ENTRY)
            view.home = (struct inode_home){HOME_ENTRY, 16 + uses, 5, 0};
        /* as fs/ makes sure of: a record under a key of its own with LAYOUT_SMALL is refused */
        good = view.layout != LAYOUT_SMALL || kind == HOME_ENTRY;
        good = good && (kind != HOME_MEMORY || view.layout == LAYOUT_INLINE);
    }
    if (good)
        fuzz_check(inode_clone(out, &view) == 0);
    free(record);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct inode ino;

    if (!db)
        open_store();
    uses++;
    if (read_inode(&in, &ino)) {
        for (unsigned n = in_below(&in, KEYS_MAX); n > 0; n--)
            put_key(&in, &ino);
        for (unsigned n = 0; n < OPS_MAX && in.left > 0; n++) {
            if (in_u8(&in) & 1)
                apply_change(&in, &ino);
            else
                look(&in, &ino);
        }
        remove_all(&ino);
        inode_release(&ino);
    }
    if (uses == STORE_USES)
        close_store();
    return 0;
}

__attribute__((destructor)) static void end(void)
{
    if (db)
        close_store();
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    struct inode ino = {.attr = {.mode = S_IFREG | 0600, .nlink = 1, .size = 200000},
                        .layout = LAYOUT_EXTENTS};
    uint8_t *p = out;

    if (n > 2)
        return 0;
    ino.attr.btime = ino.attr.ctime = ino.attr.mtime = ino.attr.atime = (struct timespec){1, 2};
    ino.stored = 2000;
    if (n == 1) {
        ino.layout = LAYOUT_SMALL;
        ino.data_len = 1000;
    }
    *p++ = 0;
    *p = (uint8_t)record_inode_encode(&ino, p + 1);
    p += 1 + *p;
    *p++ = n == 1 ? 1 : 2; /* keys */
    for (unsigned i = 0; i < (n == 1 ? 1u : 2u); i++) {
        if (n == 1) { /* small contents of data_len bytes */
            *p++ = 0;
            *p++ = 1;
        } else { /* an extent of 1000 bytes at the i-th chunk */
            *p++ = 1;
            *p++ = 1;
            *p++ = (uint8_t)(4 * i);
            put_le16(p, 1000);
            p += 2;
        }
        memset(p, 'x', 1000);
        p += 1000;
        if (n != 1)
            *p++ = 0;
    }
    const uint8_t ops[] = {1, 1, 0, 0, 10, 0, 0, 0, 1, 0, 2, 1, 100, 0, 1,
                           1, 3, 1, 2, 2,  0, 0, 0, 1, 1, 1, 1, 0,   0, 1};
    memcpy(p, ops, sizeof(ops));
    return (size_t)(p - out) + sizeof(ops);
}
