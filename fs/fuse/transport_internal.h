/*
 * transport_internal.h - private to transport*.c: what both ways have in common, and each way's functions.
 */
#ifndef FUSE_TRANSPORT_INTERNAL_H
#define FUSE_TRANSPORT_INTERNAL_H

#include "fuse_uring_abi.h"
#include "transport.h"

#include <sys/uio.h>

#define HEADER_BYTES 4096u /* more than any request has beside the data of a WRITE */

struct transport {
    struct transport_config config;
    int fd;
    char why[TRANSPORT_WHY_MAX];
    struct classic *classic; /* with uring, too: FORGET and INTERRUPT come this way */
    struct uring *uring;     /* NULL: not live */
    bool told;               /* atomic: `ended` was called */
    bool long_setxattr;      /* SETXATTR requests have flags of their own: FUSE_SETXATTR_EXT was agreed on */
    bool kills_suidgid;      /* it is for us to take setuid and setgid away: FUSE_HANDLE_KILLPRIV_V2 was */
};

/* A request on its way through libfuse and the adapter. */
struct running {
    void *bytes;
    size_t len;
    void *reply_room; /* of max_write bytes, where a reply needs no copy; NULL: there is none */
    bool may_wait;
    bool deferred;  /* out: not answered; to be run again with may_wait */
    unsigned flags; /* set by transport_run: transport_request_flags */
};
void transport_run(struct transport *t, struct running *r);

/* The connection is over: tells the session, once. */
void transport_tell_ended(struct transport *t);

/* ---- transport_classic.c ---- */

int classic_start(struct transport *t, unsigned threads, struct classic **out);
unsigned classic_threads_wanted(void);
bool classic_ended(const struct classic *c);
void classic_stop(
    struct classic *c); /* requests that are being worked on are finished; replies still can be sent */
void classic_free(struct classic *c);
void classic_info(const struct classic *c, struct transport_info *out);

/* ---- transport_uring.c ---- */

/* Whether the kernel would offer it; if not, what would help is in `why`. */
bool uring_offered(uint64_t init_flags, char *why, size_t room);

/* Everything that can fail, but for telling the kernel. On failure `why` says what. */
int uring_prepare(struct transport *t, struct uring **out);
/* After INIT was answered: gives the queues to the kernel. On failure only uring_free is left. */
int uring_register(struct uring *u);
void uring_quiesce(struct uring *u);
void uring_free(struct uring *u);
void uring_info(const struct uring *u, struct transport_info *out);

/* Requests that came over a ring go through libfuse with a number of ours, which has this bit. */
#define URING_UNIQUE (UINT64_C(1) << 63)
ssize_t uring_reply(const struct iovec *iov, int count);

/*
 * Puts a request together before `payload`, in whose place its data already are: *len bytes from the returned
 * pointer are as read() of the device would have given them. There are HEADER_BYTES of room before `payload`, of
 * payload_bytes. NULL: the lengths in it contradict each other.
 */
void *uring_gather(const struct fuse_uring_req_header *header, void *payload, size_t payload_bytes,
                   size_t *len);

#endif
