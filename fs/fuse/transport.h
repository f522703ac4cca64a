/*
 * transport.h - how requests come from the kernel and replies go back.
 *
 * Takes requests of a mounted session from the kernel and calls libfuse's dispatcher, and with it the
 * adapter, on threads of its own. There are two ways, behind the same functions:
 *
 *   classic   read and write of /dev/fuse (transport_classic.c); every kernel has it
 *   uring     FUSE over io_uring (transport_uring.c), Linux 6.14 and later with the module parameter
 *             enable_uring: a queue and a pinned thread for each CPU, which handles what the programs on its CPU
 *             ask for, and answers and takes the next request in one system call. No other CPU has to be woken
 *
 * A worker never waits. It runs an operation in the filesystem's non-blocking mode (fs_nowait); one that would
 * have had to wait returns -EAGAIN, having changed nothing, and the adapter calls transport_defer. The whole
 * request is then run again on a slow thread (slow.h), where waiting is allowed.
 *
 * A reply may be sent from any thread, after the dispatcher has returned, too.
 *
 * Threads: start, quiesce and free from one thread; one transport at a time in a process. The functions for
 * the adapter inside of an operation.
 */
#ifndef FUSE_TRANSPORT_H
#define FUSE_TRANSPORT_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct transport;

enum transport_kind { TRANSPORT_AUTO, TRANSPORT_URING, TRANSPORT_CLASSIC };

struct transport_config {
    struct fuse_session *session; /* mounted, INIT not read yet; not owned */
    enum transport_kind kind;     /* AUTO: uring if it can be had */
    const char *why_classic;      /* the reason for CLASSIC; NULL: it was asked for */
    size_t max_write;             /* as the adapter's init op asks for */
    uint64_t init_flags;          /* FUSE_* of <linux/fuse.h> to add to the INIT reply where the kernel offers
                                     them: those that libfuse does not send */
    void (*ended)(void *arg);     /* called once, when the kernel has ended the connection (unmounted) or it
                                     is unusable; from a thread of the transport, must not block */
    void *arg;
};

#define TRANSPORT_WHY_MAX 256u

/*
 * Agrees with the kernel on the connection and serves it. `why` (TRANSPORT_WHY_MAX bytes) says, unless uring is live,
 * why it is not and what would enable it.
 * -ENOTSUP: kind is URING and it can't be had; the kernel is still waiting for an answer.
 * -ECANCELED: the kernel was promised queues that could not be made after all. It will send nothing over
 * this connection: unmount, mount again and start with CLASSIC.
 */
int transport_start(const struct transport_config *config, char *why, struct transport **out);

/* Whether the kernel has ended the connection, and the threads know. */
bool transport_ended(struct transport *t);

/* Requests that are being worked on are finished, no others begun. Replies can still be sent. */
void transport_quiesce(struct transport *t);

/* After transport_quiesce, when all replies have been sent. */
void transport_free(struct transport *t);

struct transport_info {
    enum transport_kind kind; /* the one that is live, not AUTO */
    const char *why;          /* as of transport_start; "" with uring */
    unsigned queues, depth;   /* uring: queues, and the requests that each can hold */
    unsigned threads;         /* that take requests */
    uint64_t requests;        /* taken since the start */
    uint64_t deferred;        /* of them handed to a slow thread */
    uint64_t yielded;         /* uring: of them taken while the threads gave way to clients (yield.h) */
};
void transport_info(struct transport *t, struct transport_info *out);

/* ---- inside of an operation ---------------------------------------------------------------- */

/* Whether -EAGAIN of fs.h means "run it where it may wait". */
bool transport_nowait(void);

/* Instead of a reply: the request is run again on a slow thread. `req` is gone, the operation must return. */
void transport_defer(fuse_req_t req);

/* What the kernel says of the request that libfuse 3.14 does not hand on: TRANSPORT_KILL_* */
#define TRANSPORT_KILL_SGID 1u    /* SETXATTR of an ACL: the setgid bit goes, if the mode has it */
#define TRANSPORT_KILL_SUIDGID 2u /* WRITE and SETATTR: setuid goes, and setgid as write() has it */
unsigned transport_request_flags(void);

/* Room for a reply of up to FS_WRITE_MAX bytes, until the operation returns; no copy is made of what is replied
 * from its start. Overwrites data of a WRITE. NULL: no memory. */
void *transport_reply_buffer(void);

#endif
