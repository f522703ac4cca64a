/*
 * fuzz_files.h - files in an env_mem for fuzz targets. Failures of env_mem itself end the program.
 */
#ifndef FUZZ_FILES_H
#define FUZZ_FILES_H

#include "env.h"
#include "fuzz.h"

static inline void file_write(struct env *e, const char *path, const void *bytes, size_t len)
{
    struct env_file *f;

    fuzz_check(env_open(e, path, ENV_READ | ENV_WRITE | ENV_CREATE | ENV_TRUNC, &f) == 0);
    fuzz_check(len == 0 || env_pwrite(f, bytes, len, 0) == 0);
    fuzz_check(env_sync(f) == 0);
    env_close(f);
}

/* At most `room` bytes; how many. */
static inline size_t file_read(struct env *e, const char *path, void *out, size_t room)
{
    struct env_file *f;

    fuzz_check(env_open(e, path, ENV_READ, &f) == 0);
    ssize_t n = env_pread(f, out, room, 0);
    fuzz_check(n >= 0);
    env_close(f);
    return (size_t)n;
}

static inline struct env *env_with(const char *dir)
{
    struct env *e = env_mem_new();

    fuzz_check(e && env_mkdir(e, dir) == 0);
    return e;
}

#endif
