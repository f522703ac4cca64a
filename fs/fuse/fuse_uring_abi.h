/*
 * fuse_uring_abi.h - what <linux/fuse.h> says of FUSE over io_uring since Linux 6.14 (FUSE 7.42), for older headers.
 *
 * Part of the kernel's interface: never to be changed.
 */
#ifndef FUSE_URING_ABI_H
#define FUSE_URING_ABI_H

#include <assert.h>
#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>

#ifndef FUSE_OVER_IO_URING

#define FUSE_OVER_IO_URING (1ULL << 41) /* of the INIT flags */

#define FUSE_URING_IN_OUT_HEADER_SZ 128
#define FUSE_URING_OP_IN_OUT_SZ 128

struct fuse_uring_ent_in_out {
    uint64_t flags;
    uint64_t commit_id;  /* of a request: goes into the command that answers it */
    uint32_t payload_sz; /* bytes in the payload buffer, both ways */
    uint32_t padding;
    uint64_t reserved;
};

struct fuse_uring_req_header {
    char in_out[FUSE_URING_IN_OUT_HEADER_SZ]; /* struct fuse_in_header; of a reply struct fuse_out_header */
    char op_in[FUSE_URING_OP_IN_OUT_SZ];      /* the operation's own header, e.g. struct fuse_write_in */
    struct fuse_uring_ent_in_out ring_ent_in_out;
};

enum fuse_uring_cmd {
    FUSE_IO_URING_CMD_INVALID = 0,
    FUSE_IO_URING_CMD_REGISTER = 1,         /* an entry, in which a request may come */
    FUSE_IO_URING_CMD_COMMIT_AND_FETCH = 2, /* the answer to one; the entry is free for the next */
};

struct fuse_uring_cmd_req { /* in the 80 bytes of a large submission entry */
    uint64_t flags;
    uint64_t commit_id;
    uint16_t qid; /* the queue: a CPU's number */
    uint8_t padding[6];
};

#endif

static_assert(sizeof(struct fuse_uring_ent_in_out) == 32, "the kernel's");
static_assert(sizeof(struct fuse_uring_req_header) == 288, "the kernel's");
static_assert(offsetof(struct fuse_uring_req_header, op_in) == 128, "the kernel's");
static_assert(offsetof(struct fuse_uring_req_header, ring_ent_in_out) == 256, "the kernel's");
static_assert(offsetof(struct fuse_uring_ent_in_out, commit_id) == 8, "the kernel's");
static_assert(offsetof(struct fuse_uring_ent_in_out, payload_sz) == 16, "the kernel's");
static_assert(sizeof(struct fuse_uring_cmd_req) == 24, "the kernel's");
static_assert(offsetof(struct fuse_uring_cmd_req, qid) == 16, "the kernel's");
static_assert(sizeof(struct fuse_in_header) <= FUSE_URING_IN_OUT_HEADER_SZ, "the kernel's");
static_assert(sizeof(struct fuse_out_header) <= FUSE_URING_IN_OUT_HEADER_SZ, "the kernel's");

#endif
