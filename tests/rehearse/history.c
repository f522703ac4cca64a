/* history.c - see history.h. */
#include "history.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define NONE UINT32_MAX
#define NODES_MAX (ENTRIES_MAX + 1)
#define MIXED_BYTES_MAX (6u << 20)
#define PAGE_BYTES 4096u

struct node {
    enum node_kind kind;
    bool used;
    uint32_t links;
    uint32_t mode;
    unsigned char *bytes;
    uint32_t len;
    uint64_t content; /* hash; for links that of the target */
    bool hashed;
    uint64_t xattr;
    unsigned slot; /* of a directory */
};

struct dir {
    bool used;
    unsigned parent, name; /* where it hangs; not for slot 0 */
    uint32_t entry[NAMES_MAX];
};

struct history {
    uint64_t seed, steps, bytes;
    struct node nodes[NODES_MAX];
    struct dir dirs[DIRS_MAX];
};

const char *const op_names[OP_KINDS] = {"create",   "write",    "append",  "truncate", "punch",
                                        "unlink",   "unlink",   "write",   "rename",   "rename-noreplace",
                                        "exchange", "link",     "symlink", "mkdir",    "rmdir",
                                        "chmod",    "setxattr", "fsync",   "fsync-dir"};

/* In a hundred of each phase. */
static const unsigned char weights[PHASES][OP_KINDS] = {
    [PHASE_MIXED] = {[OP_CREATE] = 14,
                     [OP_WRITE] = 20,
                     [OP_APPEND] = 18,
                     [OP_TRUNCATE] = 5,
                     [OP_PUNCH] = 2,
                     [OP_UNLINK] = 7,
                     [OP_UNLINK_HELD] = 2,
                     [OP_WRITE_HELD] = 2,
                     [OP_RENAME] = 9,
                     [OP_RENAME_NOREPLACE] = 2,
                     [OP_EXCHANGE] = 2,
                     [OP_LINK] = 4,
                     [OP_SYMLINK] = 2,
                     [OP_MKDIR] = 3,
                     [OP_RMDIR] = 2,
                     [OP_CHMOD] = 2,
                     [OP_SETXATTR] = 2,
                     [OP_SYNC] = 1,
                     [OP_SYNC_DIR] = 1},
    [PHASE_GROW] = {[OP_CREATE] = 30,
                    [OP_WRITE] = 34,
                    [OP_APPEND] = 30,
                    [OP_MKDIR] = 2,
                    [OP_LINK] = 2,
                    [OP_SETXATTR] = 1,
                    [OP_SYNC] = 1},
    [PHASE_SHRINK] = {[OP_TRUNCATE] = 20, [OP_UNLINK] = 72, [OP_RMDIR] = 6, [OP_RENAME] = 1, [OP_SYNC] = 1},
};

/* ---- bytes and numbers --------------------------------------------------------------------- */

uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

void fill_bytes(uint64_t fill, unsigned char *out, size_t len)
{
    uint64_t x = mix(fill) | 1;

    for (size_t i = 0; i < len; i += sizeof(x)) {
        size_t n = len - i < sizeof(x) ? len - i : sizeof(x);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(out + i, &x, n);
    }
}

size_t fill_target(uint64_t fill, char *out, size_t room)
{
    int n = snprintf(out, room, "%0*llx", 16 + (int)(fill % 200), (unsigned long long)fill);

    assert(n > 0 && (size_t)n < room);
    return (size_t)n;
}

uint64_t hash_of(const void *bytes, size_t len) { return len ? XXH3_64bits(bytes, len) : 1; }

/* ---- the tree ------------------------------------------------------------------------------ */

struct history *history_new(uint64_t seed)
{
    struct history *h = calloc(1, sizeof(*h));

    if (!h)
        return NULL;
    h->seed = seed;
    h->dirs[0].used = true;
    for (unsigned d = 0; d < DIRS_MAX; d++)
        for (unsigned n = 0; n < NAMES_MAX; n++)
            h->dirs[d].entry[n] = NONE;
    return h;
}

void history_free(struct history *h)
{
    for (unsigned i = 0; h && i < NODES_MAX; i++)
        free(h->nodes[i].bytes);
    free(h);
}

uint64_t history_steps(const struct history *h) { return h->steps; }

static struct node *node_at(const struct history *h, unsigned dir, unsigned name)
{
    uint32_t i = h->dirs[dir].entry[name];

    return i == NONE ? NULL : (struct node *)&h->nodes[i];
}

static uint32_t node_new(struct history *h, enum node_kind kind, mode_t mode)
{
    for (uint32_t i = 0; i < NODES_MAX; i++) {
        struct node *n = &h->nodes[i];
        if (n->used)
            continue;
        memset(n, 0, sizeof(*n));
        n->used = true;
        n->kind = kind;
        n->mode = mode;
        n->links = 1;
        return i;
    }
    abort(); /* there are as many as there can be entries */
}

static void node_unlink(struct history *h, unsigned dir, unsigned name)
{
    struct node *n = node_at(h, dir, name);

    h->dirs[dir].entry[name] = NONE;
    if (n->kind == NODE_DIR)
        h->dirs[n->slot].used = false;
    if (--n->links > 0)
        return;
    h->bytes -= n->len;
    free(n->bytes);
    memset(n, 0, sizeof(*n));
}

static void node_resize(struct history *h, struct node *n, uint64_t len)
{
    assert(len <= FILE_BYTES_MAX);
    if (len > n->len) {
        unsigned char *bytes = realloc(n->bytes, len);
        if (!bytes)
            abort();
        memset(bytes + n->len, 0, len - n->len);
        n->bytes = bytes;
    }
    h->bytes += len;
    h->bytes -= n->len;
    n->len = (uint32_t)len;
    n->hashed = false;
}

static void node_write(struct history *h, struct node *n, uint64_t offset, uint32_t len, uint64_t fill)
{
    if (offset + len > n->len)
        node_resize(h, n, offset + len);
    fill_bytes(fill, n->bytes + offset, len);
    n->hashed = false;
}

static bool dir_empty(const struct history *h, unsigned slot)
{
    for (unsigned n = 0; n < NAMES_MAX; n++)
        if (h->dirs[slot].entry[n] != NONE)
            return false;
    return true;
}

/* Whether directory `inner` is `outer` or lies below it. */
static bool dir_within(const struct history *h, unsigned inner, unsigned outer)
{
    while (inner != outer && inner != 0)
        inner = h->dirs[inner].parent;
    return inner == outer;
}

static void put_entry(struct history *h, unsigned dir, unsigned name, uint32_t node)
{
    h->dirs[dir].entry[name] = node;
    if (node != NONE && h->nodes[node].kind == NODE_DIR) {
        h->dirs[h->nodes[node].slot].parent = dir;
        h->dirs[h->nodes[node].slot].name = name;
    }
}

/* ---- what must come of an operation -------------------------------------------------------- */

static int expect_rename(const struct history *h, const struct op *op)
{
    const struct node *from = node_at(h, op->dir, op->name), *to = node_at(h, op->dir2, op->name2);

    if (!from)
        return -ENOENT;
    if (op->kind == OP_RENAME_NOREPLACE && to)
        return -EEXIST;
    if (op->kind == OP_EXCHANGE && !to)
        return -ENOENT;
    if (from->kind == NODE_DIR && dir_within(h, op->dir2, from->slot))
        return -EINVAL;
    /* Onto one's own ancestor: an exchange would make a loop, a rename meets a directory that is not empty. */
    if (to && to->kind == NODE_DIR && dir_within(h, op->dir, to->slot))
        return op->kind == OP_EXCHANGE ? -EINVAL : -ENOTEMPTY;
    if (op->kind == OP_EXCHANGE || !to || from == to)
        return 0;
    if (from->kind == NODE_DIR && to->kind != NODE_DIR)
        return -ENOTDIR;
    if (from->kind != NODE_DIR && to->kind == NODE_DIR)
        return -EISDIR;
    return to->kind == NODE_DIR && !dir_empty(h, to->slot) ? -ENOTEMPTY : 0;
}

static int expect(const struct history *h, const struct op *op)
{
    const struct node *n = node_at(h, op->dir, op->name);

    switch (op->kind) {
    case OP_CREATE:
    case OP_SYMLINK:
    case OP_MKDIR: return n ? -EEXIST : 0;
    case OP_UNLINK:
    case OP_UNLINK_HELD: return !n ? -ENOENT : n->kind == NODE_DIR ? -EISDIR : 0;
    case OP_RMDIR:
        return !n ? -ENOENT : n->kind != NODE_DIR ? -ENOTDIR : dir_empty(h, n->slot) ? 0 : -ENOTEMPTY;
    case OP_RENAME:
    case OP_RENAME_NOREPLACE:
    case OP_EXCHANGE: return expect_rename(h, op);
    case OP_LINK: return !n ? -ENOENT : node_at(h, op->dir2, op->name2) ? -EEXIST : 0;
    case OP_WRITE_HELD:
    case OP_SYNC_DIR: return 0;
    default: return n ? 0 : -ENOENT; /* made for files only */
    }
}

static void apply_rename(struct history *h, const struct op *op)
{
    uint32_t from = h->dirs[op->dir].entry[op->name], to = h->dirs[op->dir2].entry[op->name2];

    if (from == to) /* one inode, or one name: nothing happens */
        return;
    if (op->kind == OP_EXCHANGE) {
        put_entry(h, op->dir, op->name, to);
        put_entry(h, op->dir2, op->name2, from);
        return;
    }
    if (to != NONE)
        node_unlink(h, op->dir2, op->name2);
    h->dirs[op->dir].entry[op->name] = NONE;
    put_entry(h, op->dir2, op->name2, from);
}

static void apply_mkdir(struct history *h, const struct op *op)
{
    uint32_t i = node_new(h, NODE_DIR, S_IFDIR | op->mode);
    unsigned slot = 1;

    while (h->dirs[slot].used) /* history_next looked for one */
        slot++;
    assert(slot < DIRS_MAX);
    h->nodes[i].slot = slot;
    h->dirs[slot].used = true;
    put_entry(h, op->dir, op->name, i);
}

static void apply(struct history *h, const struct op *op)
{
    struct node *n = node_at(h, op->dir, op->name);
    char target[256];

    switch (op->kind) {
    case OP_CREATE: put_entry(h, op->dir, op->name, node_new(h, NODE_FILE, S_IFREG | op->mode)); break;
    case OP_WRITE: node_write(h, n, op->offset, op->len, op->fill); break;
    case OP_APPEND: node_write(h, n, n->len, op->len, op->fill); break;
    case OP_TRUNCATE: node_resize(h, n, op->offset); break;
    case OP_PUNCH:
        if (op->offset < n->len)
            memset(n->bytes + op->offset, 0,
                   n->len - op->offset < op->len ? n->len - (uint32_t)op->offset : op->len);
        n->hashed = false;
        break;
    case OP_UNLINK:
    case OP_UNLINK_HELD:
    case OP_RMDIR: node_unlink(h, op->dir, op->name); break;
    case OP_RENAME:
    case OP_RENAME_NOREPLACE:
    case OP_EXCHANGE: apply_rename(h, op); break;
    case OP_LINK:
        n->links++;
        put_entry(h, op->dir2, op->name2, h->dirs[op->dir].entry[op->name]);
        break;
    case OP_SYMLINK: {
        uint32_t i = node_new(h, NODE_LINK, S_IFLNK | 0777);
        h->nodes[i].content = hash_of(target, fill_target(op->fill, target, sizeof(target)));
        put_entry(h, op->dir, op->name, i);
        break;
    }
    case OP_MKDIR: apply_mkdir(h, op); break;
    case OP_CHMOD: n->mode = (n->mode & S_IFMT) | op->mode; break;
    case OP_SETXATTR: n->xattr = hash_of(&op->fill, sizeof(op->fill)); break;
    default: break;
    }
}

void history_done(struct history *h, const struct op *op, int rc)
{
    if (rc == 0)
        apply(h, op);
    h->steps++;
}

void history_part(struct history *h, struct op *op, uint32_t part)
{
    struct node *n = node_at(h, op->dir, op->name);

    if (op->kind == OP_APPEND) {
        op->kind = OP_WRITE;
        op->offset = n->len;
    }
    node_write(h, n, op->offset, part, op->fill);
}

/* ---- choosing the next --------------------------------------------------------------------- */

struct draw {
    uint64_t state;
};

static uint32_t below(struct draw *d, uint32_t n)
{
    d->state = mix(d->state);
    return (uint32_t)((d->state >> 32) % n);
}

static unsigned any_dir(const struct history *h, struct draw *d)
{
    unsigned slot = below(d, DIRS_MAX);

    while (!h->dirs[slot].used)
        slot = (slot + 1) % DIRS_MAX;
    return slot;
}

/* Looks from a random place on for an entry of this kind (any if < 0). False: there is none. */
static bool find_entry(const struct history *h, struct draw *d, int kind, unsigned *dir, unsigned *name)
{
    unsigned at = below(d, ENTRIES_MAX);

    for (unsigned i = 0; i < ENTRIES_MAX; i++, at = (at + 1) % ENTRIES_MAX) {
        const struct node *n =
            h->dirs[at / NAMES_MAX].used ? node_at(h, at / NAMES_MAX, at % NAMES_MAX) : NULL;
        if (n && (kind < 0 || n->kind == (enum node_kind)kind)) {
            *dir = at / NAMES_MAX;
            *name = at % NAMES_MAX;
            return true;
        }
    }
    return false;
}

static enum op_kind any_kind(struct draw *d, enum phase phase)
{
    unsigned total = 0, x;

    for (unsigned k = 0; k < OP_KINDS; k++)
        total += weights[phase][k];
    x = below(d, total);
    for (unsigned k = 0;; k++) {
        if (x < weights[phase][k])
            return (enum op_kind)k;
        x -= weights[phase][k];
    }
}

/* Most writes are small; the layouts of a file (inline, small, extents) are all met, and their borders. */
static uint32_t any_len(struct draw *d)
{
    static const uint32_t edge[] = {256, 257, 4096, 4097, 65536, 65537};
    uint32_t x = below(d, 100);

    if (x < 45)
        return 1 + below(d, 300);
    if (x < 70)
        return 1 + below(d, 5000);
    if (x < 75)
        return edge[below(d, 6)];
    if (x < 95)
        return 1 + below(d, 40000);
    return 1 + below(d, WRITE_BYTES_MAX);
}

static unsigned dirs_used(const struct history *h)
{
    unsigned n = 0;

    for (unsigned i = 0; i < DIRS_MAX; i++)
        n += h->dirs[i].used;
    return n;
}

/* Whether the operation wants an entry that is there, and of which kind. */
static bool wants_entry(enum op_kind kind, int *node)
{
    switch (kind) {
    case OP_CREATE:
    case OP_SYMLINK:
    case OP_MKDIR:
    case OP_WRITE_HELD:
    case OP_SYNC_DIR: return false;
    case OP_UNLINK:
    case OP_RENAME:
    case OP_RENAME_NOREPLACE:
    case OP_EXCHANGE: *node = -1; return true;
    case OP_RMDIR: *node = NODE_DIR; return true;
    default: *node = NODE_FILE; return true;
    }
}

static void draw_range(const struct history *h, struct draw *d, struct op *op)
{
    const struct node *n = node_at(h, op->dir, op->name);
    uint32_t have = n ? n->len : 0;

    if (op->kind == OP_APPEND && have == FILE_BYTES_MAX)
        op->kind = OP_WRITE;
    op->len = any_len(d);
    op->fill = mix(d->state);
    switch (op->kind) {
    case OP_WRITE: /* somewhere in it or at its end; now and then behind, which makes a hole */
        op->offset = below(d, have + (below(d, 8) == 0 ? 20000 : 1));
        break;
    case OP_PUNCH: op->offset = below(d, have + 1); break;
    case OP_TRUNCATE: op->offset = below(d, have + 1); break;
    default: op->offset = have; break;
    }
    if (op->kind == OP_TRUNCATE && below(d, 4) == 0)
        op->offset = have + below(d, 10000);
    if (op->offset >= FILE_BYTES_MAX)
        op->offset = FILE_BYTES_MAX - 1;
    if (op->offset + op->len > FILE_BYTES_MAX)
        op->len = FILE_BYTES_MAX - (uint32_t)op->offset;
}

void history_next(const struct history *h, enum phase phase, struct op *op, int *expected)
{
    struct draw d = {mix(h->seed ^ mix(h->steps))};
    int node = -1;

    memset(op, 0, sizeof(*op));
    op->kind = any_kind(&d, phase);
    if (phase == PHASE_MIXED && h->bytes > MIXED_BYTES_MAX && op->kind <= OP_APPEND)
        op->kind = below(&d, 2) ? OP_UNLINK : OP_TRUNCATE;
    if (op->kind == OP_MKDIR && dirs_used(h) == DIRS_MAX)
        op->kind = OP_RMDIR;
    op->dir = any_dir(h, &d);
    op->name = below(&d, NAMES_MAX);
    if (wants_entry(op->kind, &node) && !(node < 0 && below(&d, 16) == 0) &&
        !find_entry(h, &d, node, &op->dir, &op->name)) {
        op->kind = phase == PHASE_SHRINK ? OP_SYNC_DIR : OP_CREATE; /* an empty tree */
    }
    if (op->kind == OP_UNLINK_HELD && node_at(h, op->dir, op->name)->links > 1)
        op->kind = OP_UNLINK; /* what is written to it would be seen under the other names */
    op->dir2 = any_dir(h, &d);
    op->name2 = below(&d, NAMES_MAX);
    op->mode = op->kind == OP_MKDIR ? 0700 | below(&d, 0100) : 0600 | below(&d, 0100);
    draw_range(h, &d, op);
    if (phase == PHASE_SHRINK && op->kind == OP_TRUNCATE)
        op->offset = op->offset / 2;
    *expected = expect(h, op);
}

uint32_t op_part(const struct history *h, const struct op *op)
{
    const struct node *n = node_at(h, op->dir, op->name);
    uint64_t begin = op->kind == OP_APPEND && n ? n->len : op->offset;
    uint32_t first = PAGE_BYTES - (uint32_t)(begin % PAGE_BYTES);

    return (op->kind == OP_WRITE || op->kind == OP_APPEND) && first < PAGE_BYTES && first < op->len ? first
                                                                                                    : 0;
}

bool op_needs_space(const struct op *op)
{
    switch (op->kind) {
    case OP_UNLINK:
    case OP_UNLINK_HELD:
    case OP_RMDIR:
    case OP_TRUNCATE: return false;
    default: return true;
    }
}

/* ---- what is seen -------------------------------------------------------------------------- */

void history_dir_path(const struct history *h, unsigned dir, char path[PATH_BYTES])
{
    char tail[PATH_BYTES] = "", longer[PATH_BYTES];

    for (; dir != 0; dir = h->dirs[dir].parent) {
        int n = snprintf(longer, sizeof(longer), "n%u%s%.*s", h->dirs[dir].name, tail[0] ? "/" : "",
                         (int)sizeof(tail) - 8, tail);
        assert(n > 0 && n < (int)sizeof(longer));
        memcpy(tail, longer, sizeof(tail));
    }
    memcpy(path, tail, PATH_BYTES);
}

void history_path(const struct history *h, unsigned dir, unsigned name, char path[PATH_BYTES])
{
    char parent[PATH_BYTES];
    int n;

    history_dir_path(h, dir, parent);
    n = snprintf(path, PATH_BYTES, "%.*s%sn%u", (int)PATH_BYTES - 8, parent, parent[0] ? "/" : "", name);
    assert(n > 0 && n < (int)PATH_BYTES);
}

static uint32_t subdirs(const struct history *h, unsigned slot)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < NAMES_MAX; i++) {
        const struct node *at = node_at(h, slot, i);
        n += at && at->kind == NODE_DIR;
    }
    return n;
}

void history_look(struct history *h, struct sights *out)
{
    uint64_t ids[ENTRIES_MAX];

    out->n = 0;
    for (unsigned dir = 0; dir < DIRS_MAX; dir++) {
        for (unsigned name = 0; h->dirs[dir].used && name < NAMES_MAX; name++) {
            struct node *n = node_at(h, dir, name);
            struct sight *s = &out->at[out->n];
            if (!n)
                continue;
            if (n->kind == NODE_FILE && !n->hashed) {
                n->content = hash_of(n->bytes, n->len);
                n->hashed = true;
            }
            history_path(h, dir, name, s->path);
            s->mode = n->mode;
            s->links = n->kind == NODE_DIR ? 2 + subdirs(h, n->slot) : n->links;
            s->bytes = n->kind == NODE_FILE ? n->len : 0;
            s->content = n->kind == NODE_DIR ? 0 : n->content;
            s->xattr = n->xattr;
            ids[out->n++] = h->dirs[dir].entry[name];
        }
    }
    sights_finish(out, ids);
}

struct pair {
    struct sight sight;
    uint64_t id;
};

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct pair *)a)->sight.path, ((const struct pair *)b)->sight.path);
}

void sights_finish(struct sights *s, const uint64_t *ids)
{
    static struct pair pairs[ENTRIES_MAX];

    for (unsigned i = 0; i < s->n; i++)
        pairs[i] = (struct pair){s->at[i], ids[i]};
    qsort(pairs, s->n, sizeof(pairs[0]), by_path);
    for (unsigned i = 0; i < s->n; i++) {
        s->at[i] = pairs[i].sight;
        s->at[i].first = i;
        for (unsigned j = 0; j < i && s->at[i].first == i; j++)
            if (pairs[j].id == pairs[i].id)
                s->at[i].first = j;
    }
}

bool sight_equal(const struct sight *a, const struct sight *b)
{
    return strcmp(a->path, b->path) == 0 && a->mode == b->mode && a->links == b->links &&
           a->bytes == b->bytes && a->content == b->content && a->xattr == b->xattr && a->first == b->first;
}
