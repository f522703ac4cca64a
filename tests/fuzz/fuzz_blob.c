/* fuzz_blob.c - a blob file and a pointer into it: the pointer's decoder, and reading what it names. */
#include "blob_file.h"
#include "fuzz.h"

#include <errno.h>

#define PATH "/000007.blob"

/* The first byte says how long the pointer is that follows; the rest is the file behind its header. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct logger silent = {0};
    struct blob_meta meta = {7, 1, 0};
    struct blob_pointer p, again;
    struct blob_file *f;
    struct env_file *file;
    uint8_t bytes[BLOB_POINTER_MAX], *extent;
    if (size < 1 || size - 1 < data[0])
        return 0;
    size_t len = data[0];
    const uint8_t *contents = data + 1 + len;
    if (blob_pointer_decode(data + 1, len, &p))
        return 0;
    fuzz_check(p.from <= p.extent_bytes && p.length <= p.extent_bytes - p.from);
    fuzz_check(p.extent_bytes <= LSM_VALUE_MAX && p.offset >= BLOB_HEADER_BYTES);
    size_t n = blob_pointer_encode(&p, bytes);
    fuzz_check(blob_pointer_decode(bytes, n, &again) == 0 && again.offset == p.offset);

    struct env *env = env_mem_new();
    fuzz_check(env_open(env, PATH, ENV_READ | ENV_WRITE | ENV_CREATE, &file) == 0);
    fuzz_check(env_pwrite(file, contents, size - 1 - len, 0) == 0);
    env_close(file);
    fuzz_check(blob_file_open(env, "", &silent, &meta, false, &f) == 0);
    (void)blob_file_check_header(f);
    p.number = 7;
    int err = blob_extent_read(f, &p, 0, &extent);
    fuzz_check(err == 0 || err == -EBADMSG);
    if (!err)
        free(extent);
    uint8_t *value = malloc((size_t)p.length + 1);
    fuzz_check(value != NULL);
    uint32_t from = p.length / 3, rest = p.length - from;
    err = blob_read(f, &p, from, rest, 0, value);
    fuzz_check(err == 0 || err == -EIO);
    free(value);
    blob_file_free(f);
    env_mem_free(env);
    return 0;
}

/* A file with one value and a pointer to all of it, and one with a part of a value of several chunks. */
size_t fuzz_seed(unsigned n, uint8_t *out)
{
    static uint8_t value[3 * BLOB_CHUNK_BYTES];
    struct blob_pointer p = {7, BLOB_HEADER_BYTES, n ? (uint32_t)sizeof value - 5 : 600, n ? 20000 : 0, 600};
    if (n > 1)
        return 0;
    size_t len = blob_pointer_encode(&p, out + 1);
    out[0] = (uint8_t)len;
    uint8_t *file = out + 1 + len;
    blob_header_encode(7, 1, 0, (struct blob_header *)file);
    uint8_t *sums = file + BLOB_HEADER_BYTES, *bytes = sums + (size_t)8 * blob_chunks(p.extent_bytes);
    for (size_t i = 0; i < p.extent_bytes; i++)
        bytes[i] = (uint8_t)(i * 3);
    for (uint32_t i = 0; i < blob_chunks(p.extent_bytes); i++) {
        uint64_t at = (uint64_t)i * BLOB_CHUNK_BYTES;
        size_t chunk =
            p.extent_bytes - at < BLOB_CHUNK_BYTES ? (size_t)(p.extent_bytes - at) : BLOB_CHUNK_BYTES;
        put_le64(sums + (size_t)8 * i,
                 blob_chunk_checksum(7, 1, blob_data_offset(&p) + at, bytes + at, chunk));
    }
    return (size_t)(bytes + p.extent_bytes - out);
}
