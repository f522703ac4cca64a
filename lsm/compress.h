/*
 * compress.h - the contents of one block, compressed and back: LZ4 or Zstandard (liblz4, libzstd).
 *
 * LZ4 block format for what is soon merged again, Zstandard frames (level 1, no dictionary, no checksum of its
 * own) for the last level, where nine tenths of the data lie and stay. Each block by itself, so that reading one
 * never needs another. Where it would save less than an eighth it is left alone: unpacking would cost every reader
 * more than the few bytes are worth.
 *
 * Measured on blocks of 8 KiB of C headers (and of JSON records of random words), bytes saved and time of one block:
 *     LZ4          2.6x (1.35x)   17 us to pack,  3.4 us to unpack
 *     Zstandard 1  3.65x (2.07x)  32 us          11 us
 *     Zstandard 3  3.8x (2.07x)   39 us (84 us)  11 us
 *     Zstandard 1, dictionary of 16 KiB:  4.0x (2.66x), and 0.9 s to train it on 16 MiB
 * No dictionary: training one for a table of 8 MiB would cost thirty times what packing it does, and one for the
 * whole store would be something else that can be damaged, and that must be kept as long as any table of its time.
 *
 * Threads: a compressor belongs to one; block_decompress keeps what it needs for each thread.
 */
#ifndef LSM_COMPRESS_H
#define LSM_COMPRESS_H

#include "table_format.h"
#include <stddef.h>
#include <stdint.h>

struct compressor;

/* NULL for TABLE_COMPRESSION_NONE. */
int compressor_new(enum table_compression how, struct compressor **out);
void compressor_free(struct compressor *c); /* NULL is allowed */

/*
 * The packed bytes (until the next call), with room for a trailer behind them. 0: packing is not worth it, or there is no memory
 * for it.
 */
size_t compressor_pack(struct compressor *c, const uint8_t *data, size_t len, uint8_t **out);

/* Whether a block of `len` packed bytes can be one of raw_len bytes: asked before memory is taken for it. */
bool block_raw_len_is_sane(enum table_compression how, const uint8_t *data, size_t len, uint64_t raw_len);

/* Exactly raw_len bytes to out. -EIO: these bytes are not that. -ENOMEM */
int block_decompress(enum table_compression how, const uint8_t *data, size_t len, uint8_t *out,
                     size_t raw_len);

#endif
