/*
 * itable.c - see itable.h. 64 shards, each a hash table with chains that doubles when it is full.
 */
#include "itable.h"
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define SHARD_BITS 6
#define SHARDS (1u << SHARD_BITS)
#define CHAINS_MIN 64u

struct itable_entry {
    fs_id id;
    union {
        fs_id parent;         /* HOME_ENTRY, HOME_DIR */
        struct inode *memory; /* HOME_MEMORY */
    };
    uint64_t hash : 56, index : 6, kind : 2; /* kind: enum home_kind - 1 */
    uint64_t refs : 59, dir : 1, setgid : 1, default_acl : 1, orphan : 1, hot : 1;
    struct itable_entry *chain;
};
static_assert(sizeof(struct itable_entry) == 40, "with 8 of malloc and at most 16 of chains: 64");
static_assert(HOME_MEMORY - HOME_ENTRY == 3, "the kind has two bits");

#define REFS_MAX ((UINT64_C(1) << 59) - 1)

struct shard {
    pthread_mutex_t lock;
    struct itable_entry **chains;
    size_t chain_count; /* a power of two */
    size_t count, orphans;
    size_t sweep; /* the chain that itable_cold looks at next */
} __attribute__((aligned(64)));

struct itable {
    unsigned sweep; /* atomic: the shard that itable_cold begins with */
    struct shard shards[SHARDS];
};

static uint64_t mix(fs_id id)
{
    uint64_t x = (id ^ id >> 32) * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 29;
}

static struct shard *shard_lock(struct itable *t, fs_id id)
{
    struct shard *s = &t->shards[mix(id) >> (64 - SHARD_BITS)];
    pthread_mutex_lock(&s->lock);
    return s;
}

static struct itable_entry **slot_of(struct shard *s, fs_id id)
{
    struct itable_entry **p = &s->chains[mix(id) & (s->chain_count - 1)];
    while (*p && (*p)->id != id)
        p = &(*p)->chain;
    return p;
}

static bool is_unlinked(const struct itable_entry *e) { return e->orphan || e->kind == HOME_MEMORY - 1; }

static void entry_get(const struct itable_entry *e, struct itable_info *out)
{
    *out = (struct itable_info){
        .dir = e->dir, .setgid = e->setgid, .default_acl = e->default_acl, .orphan = e->orphan};
    out->home.kind = (enum home_kind)(e->kind + 1);
    if (out->home.kind == HOME_MEMORY) {
        out->memory = e->memory;
        return;
    }
    out->home.parent = e->parent;
    out->home.hash = e->hash;
    out->home.index = e->index;
}

static void entry_set(struct itable_entry *e, const struct itable_info *info)
{
    assert(info->home.kind >= HOME_ENTRY && info->home.kind <= HOME_MEMORY);
    assert((info->home.kind == HOME_MEMORY) == (info->memory != NULL));
    e->kind = (unsigned)(info->home.kind - 1) & 3;
    e->hash = info->home.hash & HASH_MASK;
    e->index = info->home.index & (BUCKET_ENTRIES_MAX - 1);
    e->dir = info->dir;
    e->setgid = info->setgid;
    e->default_acl = info->default_acl;
    e->orphan = info->orphan;
    if (info->home.kind == HOME_MEMORY)
        e->memory = info->memory;
    else
        e->parent = info->home.parent;
}

/* Doubles the chains. Without memory they just get longer: no error. */
static void shard_grow(struct shard *s)
{
    size_t n = s->chain_count * 2;
    struct itable_entry **chains = calloc(n, sizeof(struct itable_entry *));
    if (!chains)
        return;
    for (size_t i = 0; i < s->chain_count; i++) {
        struct itable_entry *e = s->chains[i], *next;
        for (; e; e = next) {
            next = e->chain;
            struct itable_entry **to = &chains[mix(e->id) & (n - 1)];
            e->chain = *to;
            *to = e;
        }
    }
    free(s->chains);
    s->chains = chains;
    s->chain_count = n;
    s->sweep = 0;
}

static void shard_add(struct shard *s, struct itable_entry *e, fs_id id, const struct itable_info *info)
{
    if (s->count >= s->chain_count)
        shard_grow(s);
    struct itable_entry **slot = slot_of(s, id);
    assert(!*slot);
    e->id = id;
    e->refs = 1;
    e->hot = 1;
    e->chain = NULL;
    entry_set(e, info);
    *slot = e;
    s->count++;
    s->orphans += is_unlinked(e);
}

static void memory_free(struct inode *ino)
{
    if (!ino)
        return;
    inode_release(ino);
    free(ino);
}

int itable_new(struct itable **out)
{
    struct itable *t = aligned_alloc(64, sizeof(*t));
    if (!t)
        return -ENOMEM;
    memset(t, 0, sizeof(*t));
    for (unsigned i = 0; i < SHARDS; i++) {
        struct shard *s = &t->shards[i];
        pthread_mutex_init(&s->lock, NULL);
        s->chain_count = CHAINS_MIN;
        s->chains = calloc(CHAINS_MIN, sizeof(struct itable_entry *));
        if (!s->chains) {
            s->chain_count = 0;
            itable_free(t);
            return -ENOMEM;
        }
    }
    *out = t;
    return 0;
}

void itable_free(struct itable *t)
{
    if (!t)
        return;
    for (unsigned i = 0; i < SHARDS; i++) {
        struct shard *s = &t->shards[i];
        for (size_t c = 0; c < s->chain_count; c++) {
            struct itable_entry *e = s->chains[c], *next;
            for (; e; e = next) {
                next = e->chain;
                if (e->kind == HOME_MEMORY - 1)
                    memory_free(e->memory);
                free(e);
            }
        }
        free(s->chains);
    }
    free(t);
}

bool itable_find(struct itable *t, fs_id id, struct itable_info *out)
{
    struct shard *s = shard_lock(t, id);
    struct itable_entry *e = *slot_of(s, id);
    if (e) {
        e->hot = 1;
        entry_get(e, out);
    }
    pthread_mutex_unlock(&s->lock);
    return e != NULL;
}

static bool ref_existing(struct shard *s, fs_id id)
{
    struct itable_entry *e = *slot_of(s, id);
    if (!e)
        return false;
    assert(e->refs < REFS_MAX);
    e->refs++;
    e->hot = 1;
    return true;
}

int itable_ref(struct itable *t, fs_id id, const struct itable_info *info)
{
    struct shard *s = shard_lock(t, id);
    int r = 0;
    if (!ref_existing(s, id)) {
        struct itable_entry *e = itable_prepare();
        if (e)
            shard_add(s, e, id, info);
        else
            r = -ENOMEM;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

struct itable_entry *itable_prepare(void) { return calloc(1, sizeof(struct itable_entry)); }
void itable_discard(struct itable_entry *prepared) { free(prepared); }

void itable_insert(struct itable *t, struct itable_entry *prepared, fs_id id, const struct itable_info *info)
{
    struct shard *s = shard_lock(t, id);
    bool there = ref_existing(s, id);
    if (!there)
        shard_add(s, prepared, id, info);
    pthread_mutex_unlock(&s->lock);
    if (there)
        itable_discard(prepared);
}

bool itable_forget(struct itable *t, fs_id id, uint64_t count, struct itable_info *out)
{
    if (id == FS_ID_ROOT)
        return false;
    struct shard *s = shard_lock(t, id);
    struct itable_entry **slot = slot_of(s, id), *e = *slot, *last = NULL;
    if (e && e->refs > count) {
        e->refs = (e->refs - count) & REFS_MAX;
    } else if (e) {
        entry_get(e, out);
        *slot = e->chain;
        s->count--;
        s->orphans -= is_unlinked(e);
        last = e;
    }
    pthread_mutex_unlock(&s->lock);
    free(last);
    return last != NULL;
}

bool itable_update(struct itable *t, fs_id id, const struct itable_info *info)
{
    struct shard *s = shard_lock(t, id);
    struct itable_entry *e = *slot_of(s, id);
    struct inode *old = NULL;
    if (e) {
        if (e->kind == HOME_MEMORY - 1 && e->memory != info->memory)
            old = e->memory;
        s->orphans -= is_unlinked(e);
        entry_set(e, info);
        s->orphans += is_unlinked(e);
    }
    pthread_mutex_unlock(&s->lock);
    memory_free(old);
    return e != NULL;
}

uint64_t itable_count(struct itable *t)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&t->shards[i].lock);
        n += t->shards[i].count;
        pthread_mutex_unlock(&t->shards[i].lock);
    }
    return n;
}

uint64_t itable_orphans(struct itable *t)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&t->shards[i].lock);
        n += t->shards[i].orphans;
        pthread_mutex_unlock(&t->shards[i].lock);
    }
    return n;
}

static size_t sweep_chain(struct itable_entry *e, struct itable_cold *out, size_t max)
{
    size_t n = 0;
    for (; e && n < max; e = e->chain) {
        if (e->kind == HOME_ENTRY - 1 && !e->hot) {
            struct itable_info info;
            entry_get(e, &info);
            out[n].id = e->id;
            out[n++].home = info.home;
        }
        e->hot = 0;
    }
    return n;
}

/* CLOCK: an entry that was used since the last pass gets a second chance. At most one whole pass. */
size_t itable_cold(struct itable *t, struct itable_cold *out, size_t max)
{
    size_t n = 0;
    for (unsigned i = 0; i < SHARDS && n < max; i++) {
        struct shard *s = &t->shards[__atomic_fetch_add(&t->sweep, 1, __ATOMIC_RELAXED) % SHARDS];
        pthread_mutex_lock(&s->lock);
        for (size_t c = 0; c < s->chain_count && n < max; c++) {
            n += sweep_chain(s->chains[s->sweep & (s->chain_count - 1)], out + n, max - n);
            s->sweep++;
        }
        pthread_mutex_unlock(&s->lock);
    }
    return n;
}

size_t itable_entry_size(void) { return sizeof(struct itable_entry); }
