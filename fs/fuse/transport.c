/*
 * transport.c - see transport.h. What both ways have in common: INIT, libfuse's way to the device, and which way.
 *
 * INIT is read and answered by transport_start, before there is any thread: it says what the kernel can do. Its
 * answer passes through write_reply, where flags are added that libfuse 3.14 does not know or forgets
 * (FUSE_PARALLEL_DIROPS, FUSE_OVER_IO_URING).
 *
 * Once the kernel was told FUSE_OVER_IO_URING it holds back every request until all CPUs' queues are
 * registered. So all that can fail is done before: rings, memory, threads. Should the kernel refuse a
 * queue even then, the connection is lost, and the caller has to mount again.
 *
 * SETXATTR has grown a field with FUSE_SETXATTR_EXT, without which the kernel does not say that an ACL is set by somebody
 * who may not keep the setgid bit. libfuse 3.14 knows the short form only: it gets that, and the field is handed
 * on beside it (transport_request_flags).
 *
 * INTERRUPT is dropped: no operation could be stopped in its middle, and those that wait are answered in any
 * case. Given to libfuse it would be remembered for a request that libfuse does not know.
 */
#include "transport_internal.h"

#include "fs.h"
#include "log.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- libfuse's way to the device ----------------------------------------------------------- */

static _Thread_local struct {
    bool pending;
    uint64_t unique, add;
} init_reply;

static ssize_t write_init(int fd, struct iovec *iov, int count)
{
    const struct fuse_out_header *head = iov[0].iov_base;
    struct fuse_init_out init = {0};

    if (count != 2 || head->error || iov[1].iov_len > sizeof(init))
        return writev(fd, iov, count);
    memcpy(&init, iov[1].iov_base, iov[1].iov_len);
    init.flags |= (uint32_t)init_reply.add;
    init.flags2 |= (uint32_t)(init_reply.add >> 32); /* with FUSE_INIT_EXT among what is added */
    struct iovec patched[2] = {iov[0], {&init, iov[1].iov_len}};
    return writev(fd, patched, 2);
}

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
    const struct fuse_out_header *head = iov[0].iov_base;

    (void)userdata;
    if (head->unique & URING_UNIQUE)
        return uring_reply(iov, count);
    if (!init_reply.pending || head->unique != init_reply.unique)
        return writev(fd, iov, count);
    init_reply.pending = false;
    return write_init(fd, iov, count);
}

/* Needed by fuse_session_custom_io; the workers read for themselves. */
static ssize_t read_request(int fd, void *buf, size_t len, void *userdata)
{
    (void)userdata;
    return read(fd, buf, len);
}

/* What the kernel offers in INIT; 0 if it is something else. */
static uint64_t init_offered(const void *request, size_t len)
{
    const struct fuse_in_header *head = request;
    const struct fuse_init_in *in = (const void *)(head + 1);
    uint64_t offered;

    if (len < sizeof(*head) + offsetof(struct fuse_init_in, flags) + sizeof(in->flags) ||
        head->opcode != FUSE_INIT)
        return 0;
    offered = in->flags;
    if (offered & FUSE_INIT_EXT &&
        len >= sizeof(*head) + offsetof(struct fuse_init_in, flags2) + sizeof(in->flags2))
        offered |= (uint64_t)in->flags2 << 32;
    return offered;
}

/* `wanted` of what is offered goes into the next reply, which is this thread's to INIT. */
static void note_init(const void *request, size_t len, uint64_t wanted)
{
    uint64_t offered = init_offered(request, len);

    if (offered == 0)
        return;
    init_reply.pending = true;
    init_reply.unique = ((const struct fuse_in_header *)request)->unique;
    init_reply.add = wanted & offered;
    if (init_reply.add >> 32)
        init_reply.add |= FUSE_INIT_EXT;
}

/* ---- a request ----------------------------------------------------------------------------- */

static _Thread_local struct running *current;

#define SETXATTR_SHORT FUSE_COMPAT_SETXATTR_IN_SIZE
#define SETXATTR_MORE (sizeof(struct fuse_setxattr_in) - SETXATTR_SHORT)

static bool is_long_setxattr(const struct transport *t, const struct running *r)
{
    const struct fuse_in_header *head = r->bytes;

    return t->long_setxattr && r->len >= sizeof(*head) + sizeof(struct fuse_setxattr_in) &&
           head->opcode == FUSE_SETXATTR;
}

/* Moves what stands before the new fields over them. The request as it came is kept in `was`. */
static void shorten_setxattr(struct running *r, struct fuse_buf *request,
                             uint8_t was[sizeof(struct fuse_in_header) + sizeof(struct fuse_setxattr_in)])
{
    const size_t head = sizeof(struct fuse_in_header), whole = head + sizeof(struct fuse_setxattr_in);
    struct fuse_setxattr_in in;
    uint8_t *bytes = r->bytes;

    memcpy(was, bytes, whole);
    memcpy(&in, bytes + head, sizeof(in));
    if (in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID)
        r->flags |= TRANSPORT_KILL_SGID;
    memmove(bytes + SETXATTR_MORE, bytes, head + SETXATTR_SHORT);
    ((struct fuse_in_header *)(void *)(bytes + SETXATTR_MORE))->len -= (uint32_t)SETXATTR_MORE;
    request->mem = bytes + SETXATTR_MORE;
    request->size -= SETXATTR_MORE;
}

/*
 * With FUSE_HANDLE_KILLPRIV_V2 a SETATTR that sets nothing at all is Linux's request to take setuid and setgid away, before
 * a write or fallocate, or for chown(-1, -1): it forgets to say so. The reply tells it of the new mode, which it would not
 * look at again before an exec. It sends the same when a file had a capability to be taken away, also for a writer who may
 * keep setuid; nothing tells the two apart, so such a file loses setuid then, too (README.md).
 */
static unsigned kill_flag(const struct running *r)
{
    const struct fuse_in_header *head = r->bytes;
    const uint32_t says_nothing = FATTR_FH | FATTR_LOCKOWNER | FATTR_CTIME;
    uint32_t said = 0;

    if (r->len >= sizeof(*head) + sizeof(struct fuse_write_in) && head->opcode == FUSE_WRITE) {
        said = ((const struct fuse_write_in *)(const void *)(head + 1))->write_flags;
        return said & FUSE_WRITE_KILL_SUIDGID ? TRANSPORT_KILL_SUIDGID : 0;
    }
    if (r->len < sizeof(*head) + sizeof(struct fuse_setattr_in) || head->opcode != FUSE_SETATTR)
        return 0;
    said = ((const struct fuse_setattr_in *)(const void *)(head + 1))->valid;
    return said & FATTR_KILL_SUIDGID || !(said & ~says_nothing) ? TRANSPORT_KILL_SUIDGID : 0;
}

void transport_run(struct transport *t, struct running *r)
{
    uint8_t was[sizeof(struct fuse_in_header) + sizeof(struct fuse_setxattr_in)];
    struct fuse_buf request = {.size = r->len, .mem = r->bytes};
    const bool shorten = is_long_setxattr(t, r);

    assert(!current);
    r->deferred = false;
    r->flags = t->kills_suidgid ? kill_flag(r) : 0;
    if (shorten)
        shorten_setxattr(r, &request, was);
    current = r;
    fs_nowait(!r->may_wait);
    fuse_session_process_buf(t->config.session, &request);
    current = NULL;
    if (shorten && r->deferred) /* it is run again from its bytes */
        memcpy(r->bytes, was, sizeof(was));
}

unsigned transport_request_flags(void) { return current ? current->flags : 0; }

bool transport_nowait(void) { return current && !current->may_wait; }

void transport_defer(fuse_req_t req)
{
    assert(transport_nowait());
    current->deferred = true;
    fuse_reply_none(req); /* sends nothing */
}

void transport_tell_ended(struct transport *t)
{
    if (!__atomic_exchange_n(&t->told, true, __ATOMIC_ACQ_REL))
        t->config.ended(t->config.arg);
}

/*
 * A buffer for each thread that answers a classic request with contents, made at its first use and kept: a fresh
 * megabyte from malloc() is fresh pages from the kernel each time.
 */
static pthread_key_t reply_key;
static pthread_once_t reply_once = PTHREAD_ONCE_INIT;
static int reply_key_error;

static void reply_key_make(void) { reply_key_error = pthread_key_create(&reply_key, free); }

void *transport_reply_buffer(void)
{
    void *buf;

    if (current && current->reply_room)
        return current->reply_room;
    pthread_once(&reply_once, reply_key_make);
    if (reply_key_error)
        return NULL;
    buf = pthread_getspecific(reply_key);
    if (buf)
        return buf;
    buf = malloc(FS_WRITE_MAX);
    if (buf && pthread_setspecific(reply_key, buf) != 0) {
        free(buf);
        buf = NULL;
    }
    return buf;
}

/* ---- starting ------------------------------------------------------------------------------ */

static int read_init(int fd, void *buffer, size_t room, size_t *len)
{
    ssize_t n;

    do
        n = read(fd, buffer, room);
    while (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT));
    if (n < 0)
        return -errno;
    *len = (size_t)n;
    return init_offered(buffer, *len) ? 0 : -EPROTO;
}

/* Makes the queues, if uring is wanted and offered; else says in t->why why it is not to be. */
static int choose(struct transport *t, uint64_t offered)
{
    int rc;

    if (t->config.kind == TRANSPORT_CLASSIC) {
        snprintf(t->why, sizeof(t->why), "%s",
                 t->config.why_classic ? t->config.why_classic : "transport=classic was asked for");
        return 0;
    }
    rc = uring_offered(offered, t->why, sizeof(t->why)) ? uring_prepare(t, &t->uring) : -ENOTSUP;
    return rc < 0 && t->config.kind == TRANSPORT_URING ? -ENOTSUP : 0;
}

static int agree(struct transport *t)
{
    size_t room = t->config.max_write + HEADER_BYTES, len = 0;
    uint64_t wanted = t->config.init_flags;
    void *buffer = malloc(room);
    int rc = buffer ? read_init(t->fd, buffer, room, &len) : -ENOMEM;

    if (rc == 0)
        rc = choose(t, init_offered(buffer, len));
    if (rc == 0) /* there is nothing to read before INIT is answered */
        rc = classic_start(t, t->uring ? 1 : classic_threads_wanted(), &t->classic);
    if (rc == 0) {
        struct running r = {.bytes = buffer, .len = len, .may_wait = true};
        if (t->uring)
            wanted |= FUSE_OVER_IO_URING;
        note_init(buffer, len, wanted);
        t->long_setxattr = init_reply.add & FUSE_SETXATTR_EXT;
        t->kills_suidgid = init_reply.add & FUSE_HANDLE_KILLPRIV_V2;
        transport_run(t, &r);
        if (t->uring && uring_register(t->uring) < 0)
            rc = -ECANCELED;
    }
    free(buffer);
    return rc;
}

int transport_start(const struct transport_config *config, char *why, struct transport **out)
{
    static const struct fuse_custom_io io = {.read = read_request, .writev = write_reply};
    struct transport *t = calloc(1, sizeof(*t));
    int rc;

    if (!t)
        return -ENOMEM;
    t->config = *config;
    t->fd = fuse_session_fd(config->session);
    rc = fuse_session_custom_io(config->session, &io, t->fd) != 0 ? -EINVAL : 0;
    if (rc == 0)
        rc = agree(t);
    memcpy(why, t->why, sizeof(t->why));
    if (rc < 0) { /* no request has come in yet, so no reply is still to be sent */
        if (t->classic) {
            classic_stop(t->classic);
            classic_free(t->classic);
        }
        uring_free(t->uring);
        free(t);
        return rc;
    }
    *out = t;
    return 0;
}

/* ---- living and ending --------------------------------------------------------------------- */

bool transport_ended(struct transport *t) { return classic_ended(t->classic); }

void transport_info(struct transport *t, struct transport_info *out)
{
    *out = (struct transport_info){.kind = t->uring ? TRANSPORT_URING : TRANSPORT_CLASSIC, .why = t->why};
    if (t->uring)
        uring_info(t->uring, out);
    else
        classic_info(t->classic, out);
}

void transport_quiesce(struct transport *t)
{
    if (t->uring)
        uring_quiesce(t->uring);
    classic_stop(t->classic);
}

void transport_free(struct transport *t)
{
    uring_free(t->uring);
    classic_free(t->classic);
    free(t);
}
