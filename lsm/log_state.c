/*
 * log_state.c - which segment files hold which part of the log, and how much of it is needed.
 *
 * Kept by the version set, changed by edits only: the same code runs when an edit is installed and
 * when it is read back. LSNs only grow here: a late edit with an older one changes nothing.
 */
#include "vset_internal.h"

#include <assert.h>
#include <stdlib.h>

int log_state_reserve(struct log_state *s)
{
    if (s->count < s->capacity)
        return 0;
    size_t capacity = s->capacity ? s->capacity * 2 : 16;
    struct wal_use *uses = realloc(s->uses, capacity * sizeof *uses);
    if (!uses)
        return -ENOMEM;
    s->uses = uses;
    s->capacity = capacity;
    return 0;
}

static void remove_use(struct log_state *s, size_t i)
{
    memmove(&s->uses[i], &s->uses[i + 1], (s->count - i - 1) * sizeof s->uses[0]);
    s->count--;
}

/*
 * The log ends here; what was put to use after it holds nothing that counts. Where a use ends and the next one
 * begins, the former has to say so: the latter's file may be put to use again, which forgets this use of it.
 */
static void end_log(struct log_state *s, lsn_t end)
{
    for (size_t i = s->count; i-- > 0;) {
        struct wal_use *u = &s->uses[i];
        if (u->base >= end)
            remove_use(s, i);
        else if (u->base + u->bytes >= end && (!u->end || u->end > end))
            u->end = end;
    }
}

static void add_use(struct log_state *s, const struct wal_use *use)
{
    for (size_t i = s->count; i-- > 0;)
        if (s->uses[i].number == use->number)
            remove_use(s, i);
    assert(s->count < s->capacity);
    size_t at = s->count;
    while (at > 0 && s->uses[at - 1].base > use->base)
        at--;
    memmove(&s->uses[at + 1], &s->uses[at], (s->count - at) * sizeof s->uses[0]);
    s->uses[at] = *use;
    s->count++;
}

static void forget_old_uses(struct log_state *s)
{
    for (size_t i = s->count; i-- > 0;) {
        const struct wal_use *u = &s->uses[i];
        if ((u->end ? u->end : u->base + u->bytes) <= s->start)
            remove_use(s, i);
    }
}

static void raise_to(lsn_t *to, lsn_t value)
{
    if (value > *to)
        __atomic_store_n(to, value, __ATOMIC_RELEASE);
}

void log_state_apply(struct log_state *s, const struct edit *e)
{
    if (e->has_log_end)
        end_log(s, e->log_end);
    if (e->use)
        add_use(s, e->use);
    raise_to(&s->synced, e->synced);
    if (e->has_flushed)
        raise_to(&s->flushed[e->flushed_shard], e->flushed);
    raise_to(&s->start, e->log_start);
    forget_old_uses(s);
}
