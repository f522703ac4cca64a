/*
 * filter.h - "is this user key certainly not in the table?"
 *
 * Two kinds; the last 8 bytes tell which. Both are over the XXH3 hashes of the user keys.
 *
 * Fuse       A binary fuse filter with four places a key. `n` fingerprints of `bits` bits (4 to 24) each, packed
 *            little end first, then 4 bytes of zero, then {u64 seed, u32 segments, u8 0, u8 segment_bits, u8 bits,
 *            u8 0}. A segment is 2^segment_bits (at most 2^18) fingerprints long, and n = (segments + 3) <<
 *            segment_bits. With h = mix(hash + seed), mix being that of table_seed, a key's first place is the
 *            upper half of the 128-bit product h * (segments << segment_bits); the following three are each one segment
 *            further, with the lowest segment_bits bits xored with those of g, g >> 18 and g >> 36, where g = h *
 *            0x9e3779b97f4a7c15 >> 10. The key may be there if the xor of the four fingerprints is the lowest bits
 *            of h ^ h >> 32.
 *            False positives: 2^-bits. Space: 1.08 * bits a key for millions of keys, 1.18 for 20 000.
 *            A table with one has TABLE_FUSE_FILTER in its footer.
 *
 * Bloom      A blocked Bloom filter, what release 0.1 wrote, and what is written still where a fuse filter can't
 *            be made or not be recorded: lines of 64 bytes (one cache line, 512 bits), then {u32 number of lines, u8
 *            probes, 3 zero bytes}. The upper 32 bits of the hash choose the line, the lower 32 give
 *            `probes` bits in it: probe i is the upper 9 bits of low * 0x9e3779b9^(i+1). At 10 bits a
 *            key and 6 probes 0.95 % false positives (test_filter.c measures both).
 *
 * How many bits: filter_bits. A lookup of a key that is nowhere asks one table of each level, and what counts is
 * the sum of their rates. The same memory gives the least sum when a level's rate is proportional to its size: so
 * 8 bits in the last level, which has nine tenths of all keys, and 3 bits (log2 of 10) more in each level above.
 * That is 9.4 + 0.1 * 13 + ..., in all 10 bits a key, as Bloom filters of equal rate took: but 0.4 + 0.05 + ... %
 * instead of 0.95 % for each level and each table of level 0.
 *
 * Sources: Graf, Lemire, Binary Fuse Filters: Fast and Smaller Than Xor Filters (2022). Dayan, Athanassoulis, Idreos,
 * Monkey: Optimal Navigable Key-Value Store (2017). Putze, Sanders, Singler, Cache-, Hash- and Space-Efficient Bloom
 * Filters (2007).
 *
 * Threads: any; pure functions.
 */
#ifndef LSM_FILTER_H
#define LSM_FILTER_H

#include <stddef.h>
#include <stdint.h>

#define FILTER_BITS_MIN 4u
#define FILTER_BITS_MAX 24u
#define FILTER_BITS_LAST 8u /* in the last level */
#define FILTER_BITS_STEP 3u /* more in each above */
#define FILTER_BITS_TOP 16u /* and at most: level 0 has several tables, each of which is asked */

uint64_t filter_hash(const void *key, size_t len);

/* Of a fingerprint, for tables of this level. */
unsigned filter_bits(unsigned level);

/*
 * A filter of these hashes (in any order, which changes; twice the same does no harm) in memory of malloc, with
 * `room` bytes behind it. bits 0: Bloom. *is_fuse says what it became. -ENOMEM
 */
int filter_build(uint64_t *hashes, size_t count, unsigned bits, size_t room, uint8_t **out, size_t *len,
                 int *is_fuse);

/* 0: certainly not; 1: perhaps; -EIO: these bytes are no filter. */
int filter_test(const uint8_t *data, size_t len, uint64_t hash);

#endif
