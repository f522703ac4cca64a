/*
 * transport.h - how requests come from the kernel and replies go back.
 *
 * Takes requests of a mounted session from its device and calls libfuse's dispatcher, and with it the
 * adapter, on threads of its own. This is the only file that knows that the device is read() and written:
 * another way (FUSE over io_uring) replaces transport.c behind the same functions.
 *
 * A reply may be sent from any thread, after the dispatcher has returned, too.
 *
 * Threads: start and stop from one thread; one transport at a time in a process.
 */
#ifndef FUSE_TRANSPORT_H
#define FUSE_TRANSPORT_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct transport;

struct transport_config {
    struct fuse_session *session; /* mounted; not owned */
    size_t max_write;             /* as the adapter's init op asks for */
    uint64_t init_flags;          /* FUSE_* of <linux/fuse.h> to add to the INIT reply where the kernel offers
                                     them: those that libfuse does not send */
    void (*ended)(void *arg);     /* called once, when the kernel has ended the connection (unmounted) or it
                                     is unusable; from a thread of the transport, must not block */
    void *arg;
};

int transport_start(const struct transport_config *config, struct transport **out);

/* Whether all threads have returned, because the kernel ended the connection. */
bool transport_ended(struct transport *t);

/* Requests that are being worked on are finished, then the threads joined, and t released. */
void transport_stop(struct transport *t);

#endif
