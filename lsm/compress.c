/*
 * compress.c - see compress.h.
 */
#include "compress.h"

#include <assert.h>
#include <errno.h>
#include <lz4.h>
#include <pthread.h>
#include <stdlib.h>
#include <zstd.h>

#define SAVE_MIN_SHIFT 3    /* at least an eighth, 12.5 % */
#define PACK_MIN 64u        /* nothing shorter is tried */
#define LZ4_RATIO_MAX 255u  /* of its format */
#define ZSTD_LEVEL 1        /* level 3: 4 % smaller, 1.7 times the time */
#define KEEP_MAX (1u << 20) /* a buffer that one huge value has blown up is not kept */

struct compressor {
    enum table_compression how;
    ZSTD_CCtx *zstd; /* owned */
    uint8_t *buf;    /* owned */
    size_t cap;
};

int compressor_new(enum table_compression how, struct compressor **out)
{
    *out = NULL;
    if (how == TABLE_COMPRESSION_NONE)
        return 0;
    struct compressor *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->how = how;
    if (how == TABLE_COMPRESSION_ZSTD) {
        c->zstd = ZSTD_createCCtx();
        if (!c->zstd || ZSTD_isError(ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL))) {
            compressor_free(c);
            return -ENOMEM;
        }
    }
    *out = c;
    return 0;
}

void compressor_free(struct compressor *c)
{
    if (!c)
        return;
    ZSTD_freeCCtx(c->zstd);
    free(c->buf);
    free(c);
}

static bool reserve(struct compressor *c, size_t need)
{
    if (c->cap >= need && (c->cap <= KEEP_MAX || need > KEEP_MAX))
        return true;
    free(c->buf);
    c->buf = malloc(need);
    c->cap = c->buf ? need : 0;
    return c->buf;
}

size_t compressor_pack(struct compressor *c, const uint8_t *data, size_t len, uint8_t **out)
{
    if (!c || len < PACK_MIN || len > TABLE_BLOCK_MAX)
        return 0;
    size_t most = len - (len >> SAVE_MIN_SHIFT), n;
    if (!reserve(c, most + TABLE_TRAILER_BYTES))
        return 0;
    if (c->how == TABLE_COMPRESSION_LZ4) {
        int packed = LZ4_compress_default((const char *)data, (char *)c->buf, (int)len, (int)most);
        n = packed > 0 ? (size_t)packed : 0;
    } else {
        n = ZSTD_compress2(c->zstd, c->buf, most, data, len);
        n = ZSTD_isError(n) ? 0 : n; /* most often: it does not fit into `most` */
    }
    assert(n <= most);
    *out = c->buf;
    return n;
}

/* ---- back ---- */

bool block_raw_len_is_sane(enum table_compression how, const uint8_t *data, size_t len, uint64_t raw_len)
{
    if (raw_len <= len || raw_len > TABLE_BLOCK_MAX)
        return false;
    if (how == TABLE_COMPRESSION_LZ4)
        return raw_len <= (uint64_t)len * LZ4_RATIO_MAX;
    return ZSTD_getFrameContentSize(data, len) == raw_len;
}

/* A decompression context takes 160 KiB and would be set up for every block: one for each thread that ever reads one. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t context_key;
static int key_error;

static void free_context(void *context) { ZSTD_freeDCtx(context); }
static void make_key(void) { key_error = -pthread_key_create(&context_key, free_context); }

static ZSTD_DCtx *context(void)
{
    static __thread ZSTD_DCtx *mine;
    if (mine)
        return mine;
    pthread_once(&once, make_key);
    ZSTD_DCtx *made = key_error ? NULL : ZSTD_createDCtx();
    if (made && pthread_setspecific(context_key, made)) {
        ZSTD_freeDCtx(made);
        made = NULL;
    }
    return mine = made;
}

int block_decompress(enum table_compression how, const uint8_t *data, size_t len, uint8_t *out,
                     size_t raw_len)
{
    assert(len <= TABLE_BLOCK_MAX && raw_len <= TABLE_BLOCK_MAX);
    if (how == TABLE_COMPRESSION_LZ4) {
        int n = LZ4_decompress_safe((const char *)data, (char *)out, (int)len, (int)raw_len);
        return n >= 0 && (size_t)n == raw_len ? 0 : -EIO;
    }
    assert(how == TABLE_COMPRESSION_ZSTD);
    ZSTD_DCtx *d = context();
    if (!d)
        return -ENOMEM;
    size_t n = ZSTD_decompressDCtx(d, out, raw_len, data, len);
    return !ZSTD_isError(n) && n == raw_len ? 0 : -EIO;
}
