/*
 * memtable.c - the skip list. See memtable.h.
 *
 * The arena is one anonymous mapping, filled from the front and never reused before the memtable
 * goes. A node is
 *
 *     { trailer: seq << 8 | type, key_len, value_len, folded_len, height, flags, next[height] } key value folded
 *
 * aligned to 8 bytes; links are as in arena.h. A link is stored with release after the node is
 * complete and loaded with acquire, which is all the synchronisation a reader needs.
 */
#include "memtable.h"
#include "mutant.h"
#include "range_index.h"

#include "blob_format.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HEIGHT_MAX MEMTABLE_HEIGHT_MAX
#define BRANCHING 4
#define TABLE_ENTRY_BYTES \
    24u /* of an entry in a table besides key and value: seq and type, lengths, filter, index */

struct node {
    uint64_t trailer;
    uint32_t key_len;
    uint32_t value_len;
    uint32_t folded_len; /* of an operand over operands */
    uint8_t height;
    bool has_folded;
    bool over_blob;  /* an operand, and under it and others, if any, lies a value in a blob file */
    uint32_t next[]; /* atomic */
};

struct memtable {
    unsigned refs;  /* atomic */
    unsigned state; /* atomic, enum memtable_state */
    struct arena arena;
    struct range_index ranges;
    size_t range_bytes; /* of the bounds in it; writer only */
    uint64_t count;     /* atomic: statistics read it */
    uint64_t deletes;   /* atomic */
    uint64_t born_s;
    unsigned height;      /* atomic: levels in use */
    uint64_t table_bytes; /* atomic */
    size_t block_bytes;   /* 0: unknown */
    uint64_t random;
    uint64_t blob_bytes;      /* atomic */
    lsn_t first_lsn, end_lsn; /* atomic */
    lsm_merge_fn merge;
    void *merge_arg;
};

static size_t node_bytes(unsigned height, size_t key_len, size_t value_len)
{
    return (sizeof(struct node) + height * sizeof(uint32_t) + key_len + value_len + 7) & ~(size_t)7;
}

static struct node *node_at(const struct memtable *m, uint32_t link) { return arena_at(&m->arena, link); }

static uint32_t link_of(const struct memtable *m, const struct node *n) { return arena_link(&m->arena, n); }

static struct node *node_next(const struct memtable *m, const struct node *n, unsigned level)
{
    uint32_t link = __atomic_load_n(&n->next[level], __ATOMIC_ACQUIRE);
    return link ? node_at(m, link) : NULL;
}

static uint8_t *node_key(const struct node *n) { return (uint8_t *)(n->next + n->height); }
static uint8_t *node_value(const struct node *n) { return node_key(n) + n->key_len; }
static uint8_t *node_folded(const struct node *n) { return node_value(n) + n->value_len; }
static uint64_t node_seq(const struct node *n) { return n->trailer >> 8; }

static struct ikey node_ikey(const struct node *n)
{
    return (struct ikey){node_key(n), n->key_len, (uint8_t)n->trailer, node_seq(n)};
}

/* The head is the first node of the arena: full height, no key. Offset 0 is the list's "none". */
static struct node *head_of(const struct memtable *m) { return node_at(m, 1); }

int memtable_new(size_t arena_bytes, lsm_merge_fn merge, void *merge_arg, struct memtable **out)
{
    size_t head_bytes = node_bytes(HEIGHT_MAX, 0, 0);
    arena_bytes += 8 + head_bytes;
    if (arena_bytes > ARENA_MAX)
        return -E2BIG;
    struct memtable *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    m->arena.bytes = mmap(NULL, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->arena.bytes == MAP_FAILED) {
        free(m);
        return -ENOMEM;
    }
    m->refs = 1;
    m->state = MEMTABLE_ACTIVE;
    m->arena.size = arena_bytes;
    m->arena.used = 8 + head_bytes;
    m->ranges.arena = &m->arena;
    m->ranges.marks_max = RANGE_MARKS_MAX;
    m->height = 1;
    m->random = 0x9e3779b97f4a7c15u;
    m->merge = merge;
    m->merge_arg = merge_arg;
    head_of(m)->height = HEIGHT_MAX;
    *out = m;
    return 0;
}

void memtable_ref(struct memtable *m) { __atomic_fetch_add(&m->refs, 1, __ATOMIC_RELAXED); }

void memtable_unref(struct memtable *m)
{
    unsigned before = __atomic_fetch_sub(&m->refs, 1, __ATOMIC_ACQ_REL);
    assert(before > 0);
    if (before > 1)
        return;
    munmap(m->arena.bytes, m->arena.size);
    free(m);
}

size_t memtable_entry_bytes(size_t key_len, size_t value_len)
{
    return node_bytes(HEIGHT_MAX, key_len, value_len);
}

size_t memtable_used_bytes(const struct memtable *m) { return arena_used(&m->arena); }

size_t memtable_free_bytes(const struct memtable *m) { return arena_left(&m->arena); }

uint64_t memtable_table_bytes(const struct memtable *m)
{
    return __atomic_load_n(&m->table_bytes, __ATOMIC_RELAXED);
}

uint64_t memtable_blob_bytes(const struct memtable *m)
{
    return __atomic_load_n(&m->blob_bytes, __ATOMIC_RELAXED);
}

uint64_t memtable_count(const struct memtable *m) { return __atomic_load_n(&m->count, __ATOMIC_RELAXED); }

uint64_t memtable_deletes(const struct memtable *m) { return __atomic_load_n(&m->deletes, __ATOMIC_RELAXED); }

void memtable_set_block_bytes(struct memtable *m, size_t bytes) { m->block_bytes = bytes; }

void memtable_set_born_s(struct memtable *m, uint64_t s) { m->born_s = s; }
uint64_t memtable_born_s(const struct memtable *m) { return m->born_s; }

uint64_t memtable_range_count(const struct memtable *m) { return range_index_count(&m->ranges); }

bool memtable_is_empty(const struct memtable *m) { return !memtable_count(m) && !memtable_range_count(m); }

bool memtable_takes_ranges(const struct memtable *m, size_t bytes)
{
    return !bytes || !m->range_bytes || m->range_bytes + bytes <= MEMTABLE_RANGES_MAX;
}

size_t memtable_range_bytes(size_t start_len, size_t end_len)
{
    return range_index_bytes(start_len, end_len);
}

lsn_t memtable_first_lsn(const struct memtable *m)
{
    return __atomic_load_n(&m->first_lsn, __ATOMIC_RELAXED);
}

lsn_t memtable_end_lsn(const struct memtable *m) { return __atomic_load_n(&m->end_lsn, __ATOMIC_RELAXED); }

enum memtable_state memtable_state(const struct memtable *m)
{
    return (enum memtable_state)__atomic_load_n(&m->state, __ATOMIC_ACQUIRE);
}

void memtable_set_state(struct memtable *m, enum memtable_state state)
{
    enum memtable_state now = memtable_state(m);
    /* A flush that failed goes back to sealed, to be tried again. */
    assert(state == now + 1 || (now == MEMTABLE_FLUSHING && state == MEMTABLE_SEALED));
    __atomic_store_n(&m->state, (unsigned)state, __ATOMIC_RELEASE);
}

static int node_compare(const struct node *n, const void *key, size_t len, uint64_t seq)
{
    int c = key_compare(node_key(n), n->key_len, key, len);
    if (c)
        return c;
    uint64_t have = node_seq(n);
    return (have < seq) - (have > seq);
}

/* The last node before (key, seq) at each level into before[], if given; returns the one after. */
static struct node *seek_node(const struct memtable *m, const void *key, size_t len, uint64_t seq,
                              struct node **before)
{
    struct node *at = head_of(m);
    struct node *known_after = NULL; /* was compared one level up: need not be again */
    unsigned level = __atomic_load_n(&m->height, __ATOMIC_RELAXED);
    if (before)
        for (unsigned i = level; i < HEIGHT_MAX; i++)
            before[i] = at;
    for (;;) {
        level--;
        struct node *next;
        while ((next = node_next(m, at, level)) && next != known_after &&
               node_compare(next, key, len, seq) < 0)
            at = next;
        known_after = next;
        if (before)
            before[level] = at;
        if (level == 0)
            return next;
    }
}

static unsigned random_height(struct memtable *m)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    unsigned height = 1;
    for (uint64_t bits = m->random; height < HEIGHT_MAX && bits % BRANCHING == 0; bits /= BRANCHING)
        height++;
    return height;
}

static bool same_key(const struct node *n, const void *key, size_t len)
{
    return n && n->key_len == len && memcmp(node_key(n), key, len) == 0;
}

size_t memtable_newest_len(const struct memtable *m, const void *key, size_t len)
{
    struct node *n = seek_node(m, key, len, SEQ_MAX, NULL);
    if (!same_key(n, key, len))
        return 0;
    return n->has_folded ? n->folded_len : n->value_len;
}

void memtable_begin_record(struct memtable *m, lsn_t lsn, lsn_t end)
{
    assert(memtable_state(m) == MEMTABLE_ACTIVE);
    assert(lsn >= m->end_lsn && end > lsn);
    if (!m->first_lsn)
        __atomic_store_n(&m->first_lsn, lsn, __ATOMIC_RELAXED);
    __atomic_store_n(&m->end_lsn, end, __ATOMIC_RELAXED);
}

/* Writes the value of a new node: as given, folded with the value below it, or both. */
static void fill_value(struct memtable *m, struct node *n, enum entry_type type, const struct node *below,
                       const void *value, size_t value_len)
{
    enum entry_type below_type = below ? (enum entry_type)(uint8_t)below->trailer : ENTRY_MERGE;
    if (type == ENTRY_MERGE && memtable_range_count(m) &&
        !mutant("an operand is folded over a range delete") &&
        memtable_cover(m, node_key(n), n->key_len, SEQ_MAX, NULL) > (below ? node_seq(below) : 0))
        below_type = ENTRY_DELETE;
    if (type == ENTRY_MERGE && below_type != ENTRY_MERGE && below_type != ENTRY_BLOB) {
        const void *base = below_type == ENTRY_PUT ? node_value(below) : NULL;
        size_t base_len = base ? below->value_len : 0;
        size_t len = m->merge(m->merge_arg, base, base_len, false, value, value_len, node_value(n));
        assert(len <= (value_len > base_len ? value_len : base_len));
        n->value_len = (uint32_t)len;
        n->trailer |= ENTRY_PUT;
        return;
    }
    n->trailer |= (uint64_t)type;
    n->value_len = (uint32_t)value_len;
    if (value_len)
        memcpy(node_value(n), value, value_len);
    if (type == ENTRY_MERGE && below && below_type == ENTRY_MERGE) {
        const uint8_t *base = below->has_folded ? node_folded(below) : node_value(below);
        size_t base_len = below->has_folded ? below->folded_len : below->value_len;
        size_t len = m->merge(m->merge_arg, base, base_len, true, value, value_len, node_folded(n));
        assert(len <= (value_len > base_len ? value_len : base_len));
        n->folded_len = (uint32_t)len;
        n->has_folded = true;
    }
    n->over_blob = type == ENTRY_MERGE && below &&
                   (below_type == ENTRY_BLOB || (below_type == ENTRY_MERGE && below->over_blob));
}

/* What is to be known of blobs that this may make garbage of. */
static void count_hidden(struct memtable *m, enum entry_type type, const void *value, size_t value_len)
{
    struct blob_pointer p;
    if (type == ENTRY_DELETE)
        __atomic_store_n(&m->deletes, m->deletes + 1, __ATOMIC_RELAXED);
    else if (type == ENTRY_BLOB && !blob_pointer_decode(value, value_len, &p) && p.length == p.extent_bytes)
        /* a part was there before: it takes the place of more, but that is still alive */
        __atomic_store_n(&m->blob_bytes, m->blob_bytes + p.length, __ATOMIC_RELAXED);
}

/* The index has a key for each block; so where keys are as long as blocks, nearly all of them once more. */
static size_t table_entry_bytes(const struct memtable *m, size_t key_len, size_t value_len)
{
    size_t bytes = key_len + value_len + TABLE_ENTRY_BYTES;
    size_t part = bytes < m->block_bytes ? bytes : m->block_bytes;
    return m->block_bytes ? bytes + key_len * part / m->block_bytes : bytes;
}

/* `after` is the first node not below (key, SEQ_MAX), and before[] the last one below it, at each level. */
static void insert_between(struct memtable *m, struct node **before, struct node *after, uint64_t seq,
                           enum entry_type type, const void *key, size_t key_len, const void *value,
                           size_t value_len)
{
    assert(seq <= SEQ_MAX && seq >= m->first_lsn && seq < m->end_lsn);
    /* The newest version of the key so far, if there is one. */
    struct node *below = same_key(after, key, key_len) ? after : NULL;
    assert(!below || node_seq(below) < seq);

    unsigned height = random_height(m);
    size_t room = value_len;
    if (type == ENTRY_MERGE && below && (uint8_t)below->trailer != ENTRY_BLOB)
        room += below->has_folded ? below->folded_len : below->value_len;
    assert(node_bytes(height, key_len, room) <= memtable_free_bytes(m));

    struct node *n = arena_next(&m->arena);
    n->trailer = seq << 8;
    n->key_len = (uint32_t)key_len;
    n->height = (uint8_t)height;
    memcpy(node_key(n), key, key_len);
    fill_value(m, n, type, below, value, value_len);
    arena_take(&m->arena, node_bytes(height, key_len, n->value_len + n->folded_len));
    __atomic_store_n(&m->count, m->count + 1, __ATOMIC_RELAXED);
    __atomic_store_n(&m->table_bytes, m->table_bytes + table_entry_bytes(m, key_len, n->value_len),
                     __ATOMIC_RELAXED);
    count_hidden(m, type, value, value_len);
    if (height > m->height)
        __atomic_store_n(&m->height, height, __ATOMIC_RELAXED);

    uint32_t link = link_of(m, n);
    for (unsigned i = 0; i < height; i++) {
        n->next[i] = __atomic_load_n(&before[i]->next[i], __ATOMIC_RELAXED);
        __atomic_store_n(&before[i]->next[i], link, __ATOMIC_RELEASE);
    }
}

void memtable_insert(struct memtable *m, uint64_t seq, enum entry_type type, const void *key, size_t key_len,
                     const void *value, size_t value_len)
{
    struct node *before[HEIGHT_MAX];
    struct node *after = seek_node(m, key, key_len, SEQ_MAX, before);
    insert_between(m, before, after, seq, type, key, key_len, value, value_len);
}

/*
 * As seek_node, from before[]: what is before a key that is not above this one. Up to the lowest level where nothing lies
 * in between (then nothing does on those above), and down again.
 */
static struct node *seek_on(const struct memtable *m, const void *key, size_t len, struct node **before)
{
    unsigned level = 0;
    struct node *next, *at = NULL; /* where the level above has led to, if anywhere */
    while (level < m->height && (next = node_next(m, before[level], level)) &&
           node_compare(next, key, len, SEQ_MAX) < 0)
        level++;
    while (level-- > 0) {
        struct node *from = at ? at : before[level];
        before[level] = from;
        while ((next = node_next(m, before[level], level)) && node_compare(next, key, len, SEQ_MAX) < 0)
            before[level] = at = next;
    }
    return node_next(m, before[0], 0);
}

void memtable_insert_after(struct memtable *m, struct memtable_place *place, uint64_t seq,
                           enum entry_type type, const void *key, size_t key_len, const void *value,
                           size_t value_len)
{
    struct node **before = place->before;
    struct node *after =
        before[0] ? seek_on(m, key, key_len, before) : seek_node(m, key, key_len, SEQ_MAX, before);
    insert_between(m, before, after, seq, type, key, key_len, value, value_len);
}

void memtable_delete_range(struct memtable *m, uint64_t seq, const void *start, size_t start_len,
                           const void *end, size_t end_len)
{
    assert(seq <= SEQ_MAX && seq >= m->first_lsn && seq < m->end_lsn);
    struct range_delete d = {start, end, (uint32_t)start_len, (uint32_t)end_len, seq};
    m->range_bytes += start_len + end_len;
    __atomic_store_n(&m->table_bytes, m->table_bytes + 2 * (start_len + end_len + TABLE_ENTRY_BYTES),
                     __ATOMIC_RELAXED); /* it may be cut in pieces */
    range_index_add(&m->ranges, &d);
}

uint64_t memtable_cover(const struct memtable *m, const void *key, size_t len, uint64_t seq,
                        struct range_bounds *bounds)
{
    return range_index_cover(&m->ranges, key, len, seq, bounds);
}

int memtable_ranges(const struct memtable *m, struct ranges *out)
{
    return range_index_list(&m->ranges, out);
}

bool memtable_get(const struct memtable *m, const void *key, size_t len, uint64_t seq, struct ikey *out_key,
                  const uint8_t **value, size_t *value_len)
{
    struct node *n = seek_node(m, key, len, seq, NULL);
    if (!same_key(n, key, len))
        return false;
    *out_key = node_ikey(n);
    *value = n->has_folded ? node_folded(n) : node_value(n);
    *value_len = n->has_folded ? n->folded_len : n->value_len;
    return true;
}

bool memtable_blob_below(const struct memtable *m, const void *key, size_t len, uint64_t seq,
                         struct ikey *out_key, const uint8_t **value, size_t *value_len)
{
    struct node *n = seek_node(m, key, len, seq, NULL);
    /* Not by walking: a directory's inode has an operand for each name that came or went since the last flush. */
    if (!same_key(n, key, len) || ((uint8_t)n->trailer != ENTRY_BLOB && !n->over_blob))
        return false;
    while ((uint8_t)n->trailer == ENTRY_MERGE)
        n = node_next(m, n, 0);
    assert(same_key(n, key, len) && (uint8_t)n->trailer == ENTRY_BLOB);
    *out_key = node_ikey(n);
    *value = node_value(n);
    *value_len = n->value_len;
    return true;
}

/* ---- iterator ---- */

struct memtable_iter {
    struct iter base;
    struct memtable *m;
    struct node *at;
};

static void set_position(struct memtable_iter *it, struct node *n)
{
    it->at = n;
    it->base.valid = n != NULL;
    if (n) {
        it->base.key = node_ikey(n);
        it->base.value = node_value(n);
        it->base.value_len = n->value_len;
    }
}

static void iter_op_first(struct iter *base)
{
    struct memtable_iter *it = (struct memtable_iter *)base;
    set_position(it, node_next(it->m, head_of(it->m), 0));
}

static void iter_op_last(struct iter *base)
{
    struct memtable_iter *it = (struct memtable_iter *)base;
    struct node *at = head_of(it->m), *next;
    for (unsigned level = HEIGHT_MAX; level-- > 0;)
        while ((next = node_next(it->m, at, level)))
            at = next;
    set_position(it, at == head_of(it->m) ? NULL : at);
}

static void iter_op_seek(struct iter *base, const uint8_t *key, size_t len, uint64_t seq)
{
    struct memtable_iter *it = (struct memtable_iter *)base;
    set_position(it, seek_node(it->m, key, len, seq, NULL));
}

static void iter_op_next(struct iter *base)
{
    struct memtable_iter *it = (struct memtable_iter *)base;
    assert(it->base.valid);
    set_position(it, node_next(it->m, it->at, 0));
}

static void iter_op_prev(struct iter *base)
{
    struct memtable_iter *it = (struct memtable_iter *)base;
    assert(it->base.valid);
    struct node *before[HEIGHT_MAX];
    seek_node(it->m, node_key(it->at), it->at->key_len, node_seq(it->at), before);
    set_position(it, before[0] == head_of(it->m) ? NULL : before[0]);
}

static void iter_op_free(struct iter *base)
{
    struct memtable_iter *it = (struct memtable_iter *)base;
    memtable_unref(it->m);
    free(it);
}

static const struct iter_ops memtable_iter_ops = {
    .first = iter_op_first,
    .last = iter_op_last,
    .seek = iter_op_seek,
    .next = iter_op_next,
    .prev = iter_op_prev,
    .free = iter_op_free,
};

int memtable_iter_new(struct memtable *m, struct iter **out)
{
    struct memtable_iter *it = calloc(1, sizeof *it);
    if (!it)
        return -ENOMEM;
    it->base.ops = &memtable_iter_ops;
    it->m = m;
    memtable_ref(m);
    *out = &it->base;
    return 0;
}
