/*
 * check_table.c - the objects that a check has met, their paths, and its reports. See check_internal.h.
 */
#include "check_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define DEPTH_MAX 1024u /* components of a path that are printed: 4096 bytes have no more than 2048 */

/* ---- the table ---- */

static size_t slot_of(const struct check *c, fs_id id)
{
    size_t mask = c->slot_count - 1, i = (size_t)XXH3_64bits(&id, sizeof(id)) & mask;
    while (c->slots[i] && c->objects[c->slots[i] - 1].id != id)
        i = (i + 1) & mask;
    return i;
}

struct object *object_find(struct check *c, fs_id id)
{
    if (!c->slot_count)
        return NULL;
    uint32_t index = c->slots[slot_of(c, id)];
    return index ? &c->objects[index - 1] : NULL;
}

/* Keeps the table at most half full. */
static int grow(struct check *c)
{
    size_t capacity = c->capacity ? c->capacity * 2 : 64;
    if (capacity >= UINT32_MAX / 2)
        return -ENOMEM;
    struct object *objects = realloc(c->objects, capacity * sizeof(*objects));
    if (!objects)
        return -ENOMEM;
    c->objects = objects;
    uint32_t *slots = calloc(capacity * 2, sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    free(c->slots);
    c->slots = slots;
    c->slot_count = capacity * 2;
    c->capacity = capacity;
    for (size_t i = 0; i < c->count; i++)
        c->slots[slot_of(c, c->objects[i].id)] = (uint32_t)i + 1;
    return 0;
}

struct object *object_get(struct check *c, fs_id id)
{
    struct object *o = object_find(c, id);
    if (o)
        return o;
    if (c->count == c->capacity && grow(c) < 0)
        return NULL;
    c->slots[slot_of(c, id)] = (uint32_t)c->count + 1;
    o = &c->objects[c->count++];
    *o = (struct object){.id = id, .parent = NO_PARENT};
    return o;
}

void objects_free(struct check *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->objects[i].name);
    free(c->objects);
    free(c->slots);
}

int object_name(struct object *o, uint32_t parent, const char *name, size_t len)
{
    if (o->name)
        return 0;
    o->name = strndup(name, len);
    o->parent = parent;
    return o->name ? 0 : -ENOMEM;
}

/* ---- paths ---- */

/* Builds a path from its end; what does not fit is left out, with "..." for it. */
struct path_builder {
    char *buf;
    size_t at;
};

static bool prepend(struct path_builder *p, const char *name, size_t len)
{
    if (len + 1 + 4 > p->at)
        return false;
    p->at -= len;
    memcpy(p->buf + p->at, name, len);
    p->buf[--p->at] = '/';
    return true;
}

/* The path of `name` (may be NULL) in the directory at index `dir`. */
static const char *path_of(struct check *c, uint32_t dir, const char *name, size_t len)
{
    struct path_builder p = {c->path, sizeof(c->path) - 1};
    bool whole = true;
    c->path[p.at] = '\0';
    if (name)
        whole = prepend(&p, name, len);
    for (unsigned depth = 0; whole && dir != NO_PARENT && c->objects[dir].name; depth++) {
        const struct object *o = &c->objects[dir];
        whole = depth < DEPTH_MAX && prepend(&p, o->name, strlen(o->name));
        dir = o->parent;
    }
    if (!whole) {
        p.at -= 3;
        memcpy(p.buf + p.at, "...", 3);
    }
    return c->path[p.at] ? c->path + p.at : "/";
}

/* ---- reports ---- */

__attribute__((format(printf, 4, 0))) static void send(struct check *c, const char *path, fs_id id,
                                                       const char *format, va_list args)
{
    char what[256];
    vsnprintf(what, sizeof(what), format, args);
    c->out->problems++;
    struct fs_problem p = {.path = path, .id = id, .what = what};
    c->fn(c->arg, &p);
}

void problem_object(struct check *c, const struct object *o, const char *format, ...)
{
    va_list args;
    const char *path = o->id == FS_ID_ROOT ? "/"
                       : o->name           ? path_of(c, o->parent, o->name, strlen(o->name))
                                           : NULL;
    va_start(args, format);
    send(c, path, o->id, format, args);
    va_end(args);
}

void problem_entry(struct check *c, uint32_t dir, const char *name, size_t len, fs_id id, const char *format,
                   ...)
{
    va_list args;
    va_start(args, format);
    send(c, path_of(c, dir, name, len), id, format, args);
    va_end(args);
}

void problem_id(struct check *c, fs_id id, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    send(c, NULL, id, format, args);
    va_end(args);
}

void report_fix(struct check *c, uint32_t dir, const char *name, size_t len, const char *format, ...)
{
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    struct fs_problem p = {.path = path_of(c, dir, name, len), .what = what};
    c->fn(c->arg, &p);
}
