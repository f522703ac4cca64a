/* moments.c - see moments.h. */
#include "moments.h"

#include "coding.h"

#include <assert.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define PATH_BYTES 4096u
#define KERNEL_PAGE 4096u

struct inode {
    mode_t type;
    uint64_t links;
    uint8_t *data;
    size_t size;
    uint64_t hash;
    bool stale; /* the hash */
};

struct entry {
    uint64_t dir, id;
    char name[TRACE_NAME_MAX + 1];
};

struct moments {
    const struct trace *trace;
    uint64_t position;
    struct inode *inodes; /* by id */
    size_t inode_count;
    struct entry *entries;
    size_t count, capacity;
};

struct moments *moments_new(const struct trace *t)
{
    struct moments *m = calloc(1, sizeof(*m));
    uint64_t highest = TRACE_ROOT;

    for (uint64_t n = 0; n < t->count; n++)
        if (t->records[n].id > highest)
            highest = t->records[n].id;
    if (m) {
        m->trace = t;
        m->inode_count = (size_t)highest + 1;
        m->inodes = calloc(m->inode_count, sizeof(*m->inodes));
    }
    if (!m || !m->inodes)
        abort();
    m->inodes[TRACE_ROOT].type = S_IFDIR;
    return m;
}

void moments_free(struct moments *m)
{
    for (size_t i = 0; i < m->inode_count; i++)
        free(m->inodes[i].data);
    free(m->inodes);
    free(m->entries);
    free(m);
}

/* ---- contents ---- */

static void resize(struct inode *i, uint64_t size)
{
    if (size > i->size) {
        i->data = realloc(i->data, (size_t)size);
        if (!i->data)
            abort();
        memset(i->data + i->size, 0, (size_t)size - i->size);
    }
    i->size = (size_t)size;
    i->stale = true;
}

static void put(struct inode *i, uint64_t offset, const uint8_t *data, size_t len)
{
    if (offset + len > i->size)
        resize(i, offset + len);
    if (len && data)
        memcpy(i->data + offset, data, len);
    else if (len)
        memset(i->data + offset, 0, len);
    i->stale = true;
}

static void allocate(struct inode *i, const struct trace_record *r)
{
    uint32_t mode = r->data_len == 4 ? get_le32(r->data) : 0;
    uint64_t end = r->a + r->b;

    if (!(mode & FALLOC_FL_KEEP_SIZE) && end > i->size)
        resize(i, end);
    if (end > i->size)
        end = i->size;
    if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) && r->a < end)
        put(i, r->a, NULL, (size_t)(end - r->a));
}

/* ---- names ---- */

static struct entry *find(struct moments *m, uint64_t dir, const char *name, unsigned len)
{
    for (size_t k = 0; k < m->count; k++) {
        struct entry *e = &m->entries[k];
        if (e->dir == dir && strlen(e->name) == len && memcmp(e->name, name, len) == 0)
            return e;
    }
    return NULL;
}

static void add(struct moments *m, uint64_t dir, const char *name, unsigned len, uint64_t id)
{
    if (m->count == m->capacity) {
        m->capacity = m->capacity ? 2 * m->capacity : 64;
        m->entries = realloc(m->entries, m->capacity * sizeof(*m->entries));
        if (!m->entries)
            abort();
    }
    struct entry *e = &m->entries[m->count++];
    *e = (struct entry){.dir = dir, .id = id};
    memcpy(e->name, name, len);
    m->inodes[id].links++;
}

static void remove_entry(struct moments *m, struct entry *e)
{
    if (!e)
        return;
    m->inodes[e->id].links--;
    *e = m->entries[--m->count];
}

static void create(struct moments *m, const struct trace_record *r, mode_t type)
{
    struct inode *i = &m->inodes[r->id];

    i->type = type;
    i->stale = true;
    if (type == S_IFLNK)
        put(i, 0, r->data, r->data_len);
    add(m, r->a, r->name, r->name_len, r->id);
}

static void move(struct moments *m, const struct trace_record *r)
{
    struct entry *from = find(m, r->a, r->name, r->name_len), *to = find(m, r->b, r->name2, r->name2_len);

    if (!from)
        return;
    uint64_t id = from->id;
    if (r->type == TRACE_EXCHANGE && to) {
        from->id = to->id;
        to->id = id;
        return;
    }
    remove_entry(m, to);
    remove_entry(m, find(m, r->a, r->name, r->name_len));
    add(m, r->b, r->name2, r->name2_len, id);
}

static void happen(struct moments *m, const struct trace_record *r)
{
    struct inode *i = &m->inodes[r->id];

    switch (r->type) {
    case TRACE_MKDIR: create(m, r, S_IFDIR); break;
    case TRACE_CREATE: create(m, r, S_IFREG); break;
    case TRACE_SYMLINK: create(m, r, S_IFLNK); break;
    case TRACE_LINK: add(m, r->a, r->name, r->name_len, r->id); break;
    case TRACE_UNLINK:
    case TRACE_RMDIR: remove_entry(m, find(m, r->a, r->name, r->name_len)); break;
    case TRACE_RENAME:
    case TRACE_EXCHANGE: move(m, r); break;
    case TRACE_WRITE: put(i, r->a, r->data, r->data_len); break;
    case TRACE_TRUNCATE: resize(i, r->a); break;
    case TRACE_ALLOCATE: allocate(i, r); break;
    default: break;
    }
}

void moments_advance(struct moments *m, uint64_t n)
{
    assert(n >= m->position);
    while (m->position < n && m->position < m->trace->count)
        happen(m, &m->trace->records[m->position++]);
}

/* ---- trees ---- */

static bool path_of(const struct moments *m, const struct entry *e, char *out, size_t room)
{
    char parent[PATH_BYTES] = "";

    for (size_t k = 0; k < m->count && e->dir != TRACE_ROOT; k++)
        if (m->entries[k].id == e->dir && !path_of(m, &m->entries[k], parent, sizeof(parent)))
            return false;
    return snprintf(out, room, "%s%s%s", parent, *parent ? "/" : "", e->name) < (int)room;
}

void moments_tree(struct moments *m, struct tree *out)
{
    char path[PATH_BYTES];

    *out = (struct tree){0};
    for (size_t k = 0; k < m->count; k++) {
        struct inode *i = &m->inodes[m->entries[k].id];
        if (i->stale)
            i->hash = XXH3_64bits(i->data, i->size);
        i->stale = false;
        if (path_of(m, &m->entries[k], path, sizeof(path)))
            tree_add(out, path, i->type, i->links, i->size, i->hash);
    }
}

uint64_t moments_digest(struct moments *m)
{
    struct tree t;

    moments_tree(m, &t);
    uint64_t digest = t.digest;
    tree_free(&t);
    return digest;
}

uint64_t moments_half(struct moments *m)
{
    const struct trace_record *r = m->position < m->trace->count ? &m->trace->records[m->position] : NULL;
    size_t first = r ? KERNEL_PAGE - (size_t)(r->a % KERNEL_PAGE) : 0;

    if (!r || r->type != TRACE_WRITE || r->a % KERNEL_PAGE == 0 || first >= r->data_len)
        return 0;
    /* the whole write, made after this one, covers it */
    struct inode *i = &m->inodes[r->id];
    struct inode before = *i;
    i->data = malloc(before.size + 1);
    if (!i->data)
        abort();
    memcpy(i->data, before.data ? before.data : (const uint8_t *)"", before.size);
    put(i, r->a, r->data, first);
    uint64_t digest = moments_digest(m);
    free(i->data);
    *i = before;
    i->stale = true;
    return digest;
}
