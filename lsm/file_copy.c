/* file_copy.c - a second file with the same bytes, and a second name for a file. See file_copy.h. */
#include "file_copy.h"

#include <errno.h>
#include <stdlib.h>

#define COPY_BYTES (1u << 20)

static int copy(struct env *env, const char *from, const char *to, uint64_t bytes, unsigned how, bool sync)
{
    struct env_file *in = NULL, *out = NULL;
    uint8_t *buf = malloc(COPY_BYTES);
    int err = buf ? env_open(env, from, ENV_READ, &in) : -ENOMEM;
    if (!err)
        err = env_open(env, to, ENV_READ | ENV_WRITE | ENV_CREATE | ENV_EXCL | how, &out);
    for (uint64_t at = 0; !err && at < bytes; at += COPY_BYTES) {
        uint64_t left = bytes - at;
        ssize_t n = env_pread(in, buf, left < COPY_BYTES ? (size_t)left : COPY_BYTES, at);
        err = n < 0 ? (int)n : n > 0 ? env_pwrite(out, buf, (size_t)n, at) : 0;
        if (n < (ssize_t)COPY_BYTES)
            break;
    }
    if (!err && sync)
        err = env_sync(out);
    env_close(in);
    env_close(out);
    free(buf);
    return err;
}

int file_copy(struct env *env, const char *from, const char *to, uint64_t bytes, unsigned how)
{
    return copy(env, from, to, bytes, how, false);
}

int file_link_or_copy(struct env *env, const char *from, const char *to)
{
    int err = env_link(env, from, to);
    return err && err != -EEXIST && err != -ENOENT ? copy(env, from, to, UINT64_MAX, 0, true) : err;
}
