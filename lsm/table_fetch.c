/*
 * table_fetch.c - reading the blocks that several lookups miss at once.
 *
 * A lookup that may not wait and does not find a block says which one (table_note) and gives up, having changed
 * nothing. When all have said so their blocks are read together, and the lookups begin anew: what they find now,
 * nobody can evict, since it is referenced. The list belongs to the thread, so that it need not go through every call
 * on the way down.
 *
 * Threads: a list belongs to one.
 */
#include "table_read.h"
#include <assert.h>
#include <stdlib.h>

static __thread struct table_wants *noted;

void table_note_in(struct table_wants *w) { noted = w; }

void table_note(const struct table *t, struct block_handle h)
{
    struct table_wants *w = noted;
    assert(w); /* TABLE_NOTE was passed without a list */
    if (w->count == TABLE_WANTS_MAX || (w->count && w->bytes + h.length > TABLE_WANTS_BYTES))
        return;
    for (unsigned i = 0; i < w->count; i++)
        if (w->list[i].table == t && w->list[i].offset == h.offset)
            return;
    w->list[w->count++] = (struct table_want){t, h.offset, h.length};
    w->bytes += h.length;
}

static struct cache_block *take(const struct table *t, struct block_handle h, const struct env_read *r)
{
    struct cache_block *block = NULL;
    uint8_t *data;
    size_t len;
    if (r->result != (ssize_t)r->len) { /* an error, or the end of the file: told to who reads it alone */
        free(r->buf);
        return NULL;
    }
    if (table_take_stored(t, h, r->buf, r->buf, &data, &len) ||
        cache_insert(t->cache, t->number, h.offset, data, len, true, &block))
        return NULL;
    return block;
}

void table_fetch(struct env *env, struct table_wants *w, struct cache_block *got[TABLE_WANTS_MAX])
{
    struct env_read reads[TABLE_WANTS_MAX];
    unsigned which[TABLE_WANTS_MAX], n = 0;
    for (unsigned i = 0; i < w->count; i++) {
        const struct table_want *want = &w->list[i];
        uint8_t *buf = table_block_memory(want->length);
        got[i] = NULL;
        if (!buf)
            continue;
        which[n] = i;
        reads[n++] =
            (struct env_read){want->table->file, buf, want->length + TABLE_TRAILER_BYTES, want->offset, 0};
    }
    env_read_many(env, reads, n);
    for (unsigned k = 0; k < n; k++) {
        const struct table_want *want = &w->list[which[k]];
        struct block_handle h = {want->offset, want->length};
        got[which[k]] = take(want->table, h, &reads[k]);
    }
    w->count = 0;
    w->bytes = 0;
}
