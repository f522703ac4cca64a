/*
 * store_image.h - for tests: all files of a store in an env, as bytes that can be changed and put
 * into another, fresh env. Pages of zeros are not copied, so that log segments cost little.
 * Include after the cmocka headers.
 */
#ifndef STORE_IMAGE_H
#define STORE_IMAGE_H

#include "env.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_FILES_MAX 64
#define IMAGE_PIECE 65536u

struct image_file {
    char name[40];
    uint8_t *bytes;
    uint64_t size;
};
struct image {
    struct image_file file[IMAGE_FILES_MAX];
    size_t count;
    struct env *env; /* while it is being taken */
    const char *dir;
};

static int image_take_file(void *arg, const char *name)
{
    struct image *im = arg;
    struct image_file *f = &im->file[im->count];
    struct env_file *file;
    char path[200];
    snprintf(path, sizeof(path), "%s/%s", im->dir, name);
    if (env_open(im->env, path, ENV_READ, &file) == -EISDIR)
        return 0;
    assert_true(im->count < IMAGE_FILES_MAX && strlen(name) < sizeof(f->name));
    snprintf(f->name, sizeof(f->name), "%s", name);
    assert_int_equal(env_size(file, &f->size), 0);
    f->bytes = calloc(1, f->size + 1);
    assert_non_null(f->bytes);
    assert_int_equal(env_pread(file, f->bytes, f->size, 0), f->size);
    env_close(file);
    im->count++;
    return 0;
}

static inline void image_take(struct image *im, struct env *env, const char *dir)
{
    memset(im, 0, sizeof(*im));
    im->env = env;
    im->dir = dir;
    assert_int_equal(env_list(env, dir, image_take_file, im), 0);
}

static inline void image_free(struct image *im)
{
    for (size_t i = 0; i < im->count; i++)
        free(im->file[i].bytes);
    memset(im, 0, sizeof(*im));
}

static inline struct image_file *image_find(struct image *im, const char *name)
{
    for (size_t i = 0; i < im->count; i++)
        if (strcmp(im->file[i].name, name) == 0)
            return &im->file[i];
    return NULL;
}

static inline void image_put_file(struct env *env, const char *dir, const struct image_file *f)
{
    static const uint8_t zeros[IMAGE_PIECE];
    struct env_file *file;
    char path[200];
    snprintf(path, sizeof(path), "%s/%s", dir, f->name);
    assert_int_equal(env_open(env, path, ENV_READ | ENV_WRITE | ENV_CREATE, &file), 0);
    assert_int_equal(env_truncate(file, f->size), 0);
    for (uint64_t at = 0; at < f->size; at += IMAGE_PIECE) {
        size_t len = f->size - at < IMAGE_PIECE ? (size_t)(f->size - at) : IMAGE_PIECE;
        if (memcmp(f->bytes + at, zeros, len) != 0)
            assert_int_equal(env_pwrite(file, f->bytes + at, len, at), 0);
    }
    env_close(file);
}

/* A fresh env that holds the store at `dir`, without the file `except` (NULL: with all). */
static inline struct env *image_env(const struct image *im, const char *dir, const struct image_file *except)
{
    struct env *env = env_mem_new();
    assert_non_null(env);
    assert_int_equal(env_mkdir(env, dir), 0);
    for (size_t i = 0; i < im->count; i++)
        if (&im->file[i] != except)
            image_put_file(env, dir, &im->file[i]);
    return env;
}

#endif
