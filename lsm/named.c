/* named.c - names of persistent snapshots. See named.h. */
#include "named.h"

#include "version.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool named_is_valid(const char *name, size_t len)
{
    return len > 0 && len <= LSM_SNAPSHOT_NAME_MAX && !memchr(name, '\0', len) && !memchr(name, '/', len) &&
           !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

static size_t index_of(const struct named_list *l, const char *name)
{
    size_t i = 0;

    while (i < l->count && strcmp(l->list[i].name, name) != 0)
        i++;
    return i;
}

const struct named_snapshot *named_find(const struct named_list *l, const char *name)
{
    size_t i = index_of(l, name);

    return i < l->count ? &l->list[i] : NULL;
}

int named_reserve(struct named_list *l)
{
    if (l->count < l->capacity)
        return 0;
    size_t capacity = l->capacity ? l->capacity * 2 : 4;
    struct named_snapshot *list = realloc(l->list, capacity * sizeof *list);
    if (!list)
        return -ENOMEM;
    l->list = list;
    l->capacity = capacity;
    return 0;
}

bool named_apply(struct named_list *l, const struct edit *e)
{
    if (e->name_taken && (named_find(l, e->name_taken->name) || l->count >= LSM_SNAPSHOTS_MAX))
        return false;
    if (e->name_dropped) {
        size_t i = index_of(l, e->name_dropped);
        if (i == l->count)
            return false;
        memmove(&l->list[i], &l->list[i + 1], (l->count - i - 1) * sizeof l->list[0]);
        l->count--;
    }
    if (e->name_taken) {
        assert(l->count < l->capacity);
        l->list[l->count++] = *e->name_taken;
    }
    return true;
}
