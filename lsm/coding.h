/*
 * coding.h - fixed-width little-endian and varint integers in byte buffers, and a bounded reader.
 *
 * Varints are LEB128: seven bits a byte, least significant first, at most ten bytes.
 * The reader never passes its end: after any failed read `bad` stays set and zeros come out, so
 * that a decoder can check once at its end.
 */
#ifndef LSM_CODING_H
#define LSM_CODING_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void put_le16(void *p, uint16_t v)
{
    v = htole16(v);
    memcpy(p, &v, 2);
}
static inline void put_le32(void *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, 4);
}
static inline void put_le64(void *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, 8);
}
static inline uint16_t get_le16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return le16toh(v);
}
static inline uint32_t get_le32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return le32toh(v);
}
static inline uint64_t get_le64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return le64toh(v);
}
static inline void put_be64(void *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, 8);
}
static inline uint64_t get_be64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return be64toh(v);
}

#define VARINT_MAX 10

/* Writes v at p, which has VARINT_MAX bytes of room; returns the byte after it. */
static inline uint8_t *put_varint(uint8_t *p, uint64_t v)
{
    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}
static inline size_t varint_len(uint64_t v)
{
    size_t n = 1;
    while (v >= 0x80) {
        v >>= 7;
        n++;
    }
    return n;
}

struct reader {
    const uint8_t *p, *end;
    bool bad;
};

static inline struct reader reader_of(const void *data, size_t len)
{
    return (struct reader){(const uint8_t *)data, (const uint8_t *)data + len, false};
}
static inline size_t reader_left(const struct reader *r) { return (size_t)(r->end - r->p); }

/* The next n bytes, or NULL if there are fewer. */
static inline const void *read_bytes(struct reader *r, size_t n)
{
    if (r->bad || reader_left(r) < n) {
        r->bad = true;
        return NULL;
    }
    const void *p = r->p;
    r->p += n;
    return p;
}
static inline uint8_t read_u8(struct reader *r)
{
    const uint8_t *p = read_bytes(r, 1);
    return p ? *p : 0;
}
static inline uint16_t read_le16(struct reader *r)
{
    const void *p = read_bytes(r, 2);
    return p ? get_le16(p) : 0;
}
static inline uint32_t read_le32(struct reader *r)
{
    const void *p = read_bytes(r, 4);
    return p ? get_le32(p) : 0;
}
static inline uint64_t read_le64(struct reader *r)
{
    const void *p = read_bytes(r, 8);
    return p ? get_le64(p) : 0;
}
static inline uint64_t read_varint(struct reader *r)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t b = read_u8(r);
        if (r->bad || (shift == 63 && b > 1))
            break;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return v;
    }
    r->bad = true;
    return 0;
}

#endif
