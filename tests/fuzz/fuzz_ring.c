/*
 * fuzz_ring.c - what comes over a ring, before libfuse sees it: a header, and data whose length is said in it. And
 * the list of CPUs. Input: lengths, the header, the data; or the text.
 *
 * Checked: a request that is put together lies within its room and consists of the bytes that came.
 */
#include "cpu.h"
#include "fuzz.h"
#include "transport_internal.h"

#define PAYLOAD_MAX 8192u

static void list_of_cpus(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);

    fuzz_check(text);
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    (void)cpu_count_list(text);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct fuse_uring_req_header header = {0};
    const bool listed = in_u8(&in) & 1;
    size_t got, len, payload_bytes = in_u16(&in) % PAYLOAD_MAX;
    struct fuse_in_header head = {.len = (uint32_t)in_shaped(&in), .opcode = in_u32(&in)};

    if (listed) {
        list_of_cpus(in.p, in.left);
        return 0;
    }
    header.ring_ent_in_out.payload_sz = (uint32_t)in_shaped(&in);
    uint8_t *op = in_bytes(&in, sizeof(header.op_in), &got);
    uint8_t *room = calloc(1, HEADER_BYTES + payload_bytes);
    fuzz_check(room);
    memcpy(header.in_out, &head, sizeof(head));
    memcpy(header.op_in, op, got);
    uint8_t *request = uring_gather(&header, room + HEADER_BYTES, payload_bytes, &len);
    if (request) {
        size_t data_len = header.ring_ent_in_out.payload_sz;
        fuzz_check(request >= room && request + len <= room + HEADER_BYTES + payload_bytes);
        fuzz_check(len == head.len && len >= sizeof(head) + data_len);
        fuzz_check(memcmp(request, &head, sizeof(head)) == 0);
        fuzz_check(memcmp(request + sizeof(head), header.op_in, len - sizeof(head) - data_len) == 0);
    }
    free(room);
    free(op);
    return 0;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    static const uint8_t seeds[][20] = {
        {0, 0, 16, 0, 56, 1, 0, 0, 0, 0, 0},                 /* GETATTR: 16 bytes of its own */
        {0, 0, 16, 1, 144, 1, 16, 0, 0, 0, 0, 64},           /* WRITE */
        {0, 0, 16, 0, 45, 1, 0, 0, 0, 0, 5},                 /* a name only */
        {0, 0, 16, 0, 41, 1, 0, 0, 0, 1, 255, 255},          /* more data than there can be */
        {1, 0, 0, 0, 0, 0, 0, 0, 0, '0', '-', '3', ',', '8'} /* CPUs */
    };

    if (n >= sizeof(seeds) / sizeof(seeds[0]))
        return 0;
    memcpy(out, seeds[n], sizeof(seeds[n]));
    return sizeof(seeds[n]);
}
