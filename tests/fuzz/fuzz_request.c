/*
 * fuzz_request.c - requests as they come from the FUSE device, on a hostile filesystem (fuzz_tree.h).
 *
 * The session is not mounted: requests are given to libfuse's dispatcher as the transport does, and
 * what it answers passes through the transport's own function. A request is well formed, as the kernel
 * makes it (libfuse trusts it in that): its lengths are right and its strings end. Everything else in it is the input's: ids, names, offsets, sizes, flags.
 *
 * Checked: exactly one answer to each request that wants one, of the length that it says.
 */
#include "adapter.h"
#include "env.h"
#include "fuzz_tree.h"
/* For write_reply and note_init, which nobody else may call. */
#include "transport.c" // NOLINT(bugprone-suspicious-include)

#include <fcntl.h>
#include <linux/fuse.h>

#define REQUESTS_MAX 48u
#define NODES_MAX 48u
#define DATA_MAX 9000u
#define FORGETS_MAX 6u

static struct {
    struct fuse_session *fuse;
    struct adapter adapter;
    int null;
    unsigned answers; /* to the request that is being processed */
    uint32_t opcode;
    uint64_t node;
    uint64_t nodes[NODES_MAX]; /* each as often as it was given out */
    unsigned node_count;
} s;

/* ---- answers ------------------------------------------------------------------------------- */

static void note_node(uint64_t id)
{
    if (id != 0 && s.node_count < NODES_MAX)
        s.nodes[s.node_count++] = id;
}

static void note_listing(const char *p, size_t len)
{
    while (len >= FUSE_NAME_OFFSET_DIRENTPLUS) {
        const struct fuse_direntplus *e = (const void *)p;
        size_t bytes = FUSE_DIRENTPLUS_SIZE(e);
        fuzz_check(bytes <= len && e->dirent.namelen > 0 && e->dirent.namelen <= FS_NAME_MAX);
        note_node(e->entry_out.nodeid);
        p += bytes;
        len -= bytes;
    }
}

static void note_answer(const void *body, size_t len)
{
    const struct fuse_entry_out *entry = body;

    switch (s.opcode) {
    case FUSE_LOOKUP:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_CREATE:
        fuzz_check(len >= sizeof(*entry));
        note_node(entry->nodeid);
        break;
    case FUSE_READDIRPLUS: note_listing(body, len); break;
    case FUSE_OPEN: fuzz_check(len == sizeof(struct fuse_open_out)); break;
    default: break;
    }
}

static ssize_t take_answer(int fd, struct iovec *iov, int count, void *userdata)
{
    static uint8_t body[FS_WRITE_MAX + 4096];
    const struct fuse_out_header *head = iov[0].iov_base;
    size_t len = 0;

    fuzz_check(iov[0].iov_len == sizeof(*head));
    for (int i = 1; i < count; i++) {
        fuzz_check(len + iov[i].iov_len <= sizeof(body));
        if (iov[i].iov_len)
            memcpy(body + len, iov[i].iov_base, iov[i].iov_len); /* also: all of it can be read */
        len += iov[i].iov_len;
    }
    fuzz_check(head->len == sizeof(*head) + len && head->error <= 0 && head->error > -1000);
    s.answers++;
    if (head->error == 0)
        note_answer(body, len);
    return write_reply(fd, iov, count, userdata);
}

/* ---- requests ------------------------------------------------------------------------------ */

struct request {
    uint8_t bytes[sizeof(struct fuse_in_header) + 128 + DATA_MAX];
    size_t len;
};

static void *add(struct request *r, size_t len)
{
    void *p = r->bytes + r->len;
    memset(p, 0, len);
    r->len += len;
    return p;
}

static void add_bytes(struct request *r, struct input *in, size_t len)
{
    uint8_t *p = add(r, len);
    for (size_t i = 0; i < len; i++)
        p[i] = in_u8(in);
}

static void add_string(struct request *r, const char *text, size_t len)
{
    memcpy(add(r, len + 1), text, strnlen(text, len));
}

static void add_name(struct request *r, struct input *in)
{
    struct tree_name n = tree_name(in);
    add_string(r, n.name, n.len);
}

static uint64_t any_node(struct input *in)
{
    uint8_t i = in_u8(in);
    if (i < s.node_count)
        return s.nodes[i];
    return i < 200 ? FS_ID_ROOT : tree_id(in);
}

/* What of a request comes in the payload: what does not fit beside the header. */
static size_t data_of(const struct request *r)
{
    size_t body = r->len - sizeof(struct fuse_in_header), op = body & ~(size_t)7;

    return body - (op < FUSE_URING_OP_IN_OUT_SZ ? op : FUSE_URING_OP_IN_OUT_SZ);
}

/* The request as it comes over a ring, in two parts, put together by the transport. */
static void *over_a_ring(const struct request *r, uint8_t *room, size_t *len)
{
    struct fuse_uring_req_header header = {0};
    size_t data = data_of(r), op = r->len - sizeof(struct fuse_in_header) - data;

    memcpy(header.in_out, r->bytes, sizeof(struct fuse_in_header));
    memcpy(header.op_in, r->bytes + sizeof(struct fuse_in_header), op);
    memcpy(room + HEADER_BYTES, r->bytes + r->len - data, data);
    header.ring_ent_in_out.payload_sz = (uint32_t)data;
    return uring_gather(&header, room + HEADER_BYTES, data, len);
}

static void send(struct request *r, uint32_t opcode, uint64_t node, bool answered)
{
    static uint64_t unique = 1;
    struct fuse_in_header *head = (void *)r->bytes;
    uint8_t *room = malloc(HEADER_BYTES + data_of(r)); /* ends where the request does, for sanitizers */
    size_t len;

    fuzz_check(room);
    *head =
        (struct fuse_in_header){.len = (uint32_t)r->len, .opcode = opcode, .unique = unique, .nodeid = node};
    head->uid = head->gid = 1000;
    head->pid = 1;
    void *copy = over_a_ring(r, room, &len);
    fuzz_check(copy && len == r->len && memcmp(copy, r->bytes, len) == 0);
    struct fuse_buf buf = {.size = len, .mem = copy};
    unique++;
    s.answers = 0;
    s.opcode = opcode;
    s.node = node;
    note_init(copy, r->len, FUSE_PARALLEL_DIROPS);
    fuse_session_process_buf(s.fuse, &buf);
    adapter_drain(&s.adapter);
    fuzz_check(s.answers == answered);
    free(room);
}

static void forget_some(struct request *r, struct input *in)
{
    struct fuse_batch_forget_in *batch = add(r, sizeof(*batch));

    batch->count = in_below(in, FORGETS_MAX);
    for (unsigned i = 0; i < batch->count; i++) {
        struct fuse_forget_one *one = add(r, sizeof(*one));
        one->nodeid = any_node(in);
        one->nlookup = in_shaped(in);
    }
    send(r, FUSE_BATCH_FORGET, 0, false);
}

static void one_request(struct input *in)
{
    static struct request r;
    const uint64_t node = any_node(in);

    r.len = sizeof(struct fuse_in_header);
    switch (in_below(in, 29)) {
    case 0:
        add_name(&r, in);
        send(&r, FUSE_LOOKUP, node, true);
        break;
    case 1:
        add_bytes(&r, in, sizeof(struct fuse_forget_in));
        send(&r, FUSE_FORGET, node, false);
        break;
    case 2: forget_some(&r, in); break;
    case 3:
        add_bytes(&r, in, sizeof(struct fuse_getattr_in));
        send(&r, FUSE_GETATTR, node, true);
        break;
    case 4:
        add_bytes(&r, in, sizeof(struct fuse_setattr_in));
        send(&r, FUSE_SETATTR, node, true);
        break;
    case 5: send(&r, FUSE_READLINK, node, true); break;
    case 6:
        add_name(&r, in);
        add_string(&r, "target", in_below(in, 7));
        send(&r, FUSE_SYMLINK, node, true);
        break;
    case 7:
        add_bytes(&r, in, sizeof(struct fuse_mknod_in));
        add_name(&r, in);
        send(&r, FUSE_MKNOD, node, true);
        break;
    case 8:
        add_bytes(&r, in, sizeof(struct fuse_mkdir_in));
        add_name(&r, in);
        send(&r, FUSE_MKDIR, node, true);
        break;
    case 9:
        add_name(&r, in);
        send(&r, FUSE_UNLINK, node, true);
        break;
    case 10:
        add_name(&r, in);
        send(&r, FUSE_RMDIR, node, true);
        break;
    case 11: {
        struct fuse_rename2_in *body = add(&r, sizeof(*body));
        body->newdir = any_node(in);
        body->flags = in_u8(in);
        add_name(&r, in);
        add_name(&r, in);
        send(&r, FUSE_RENAME2, node, true);
        break;
    }
    case 12: {
        struct fuse_link_in *body = add(&r, sizeof(*body));
        body->oldnodeid = any_node(in);
        add_name(&r, in);
        send(&r, FUSE_LINK, node, true);
        break;
    }
    case 13: {
        struct fuse_open_in *body = add(&r, sizeof(*body));
        body->flags = in_u16(in);
        send(&r, FUSE_OPEN, node, true);
        break;
    }
    case 14:
    case 15:
    case 16: {
        struct fuse_read_in *body = add(&r, sizeof(*body));
        const bool data = s.node_count % 2 == in_below(in, 2);
        body->offset = in_shaped(in);
        body->size = (uint32_t)in_shaped(in);
        body->read_flags = in_u8(in);
        if (data)
            send(&r, FUSE_READ, node, true);
        else
            send(&r, in_u8(in) & 1 ? FUSE_READDIR : FUSE_READDIRPLUS, node, true);
        break;
    }
    case 17:
    case 18: {
        struct fuse_write_in *body = add(&r, sizeof(*body));
        body->offset = in_shaped(in);
        body->write_flags = in_u8(in);
        body->size = in_u16(in) % DATA_MAX;
        add(&r, body->size);
        send(&r, FUSE_WRITE, node, true);
        break;
    }
    case 19: send(&r, FUSE_STATFS, node, true); break;
    case 20: {
        add(&r, sizeof(struct fuse_release_in));
        send(&r, FUSE_RELEASE, node, true);
        break;
    }
    case 21:
        add_bytes(&r, in, sizeof(struct fuse_fsync_in));
        send(&r, FUSE_FSYNC, node, true);
        break;
    case 22: {
        struct {
            uint32_t size, flags;
        } *body = add(&r, 8); /* as long as SETXATTR_EXT was not agreed on */
        body->size = in_u16(in) % 300;
        body->flags = in_below(in, 4);
        if (in_u8(in) & 1)
            add_string(&r, "user.a", 6);
        else
            add_string(&r, "trusted.b", 9);
        add_bytes(&r, in, body->size);
        send(&r, FUSE_SETXATTR, node, true);
        break;
    }
    case 23:
    case 24: {
        struct fuse_getxattr_in *body = add(&r, sizeof(*body));
        body->size = in_u16(in);
        const bool get = in_u8(in) & 1;
        if (get)
            add_string(&r, "user.a", 6);
        send(&r, get ? FUSE_GETXATTR : FUSE_LISTXATTR, node, true);
        break;
    }
    case 25:
        add_string(&r, "user.a", 6);
        send(&r, FUSE_REMOVEXATTR, node, true);
        break;
    case 26:
        add_bytes(&r, in, sizeof(struct fuse_create_in));
        add_name(&r, in);
        send(&r, FUSE_CREATE, node, true);
        break;
    case 27: {
        struct fuse_fallocate_in *body = add(&r, sizeof(*body));
        body->offset = in_shaped(in);
        body->length = in_shaped(in);
        body->mode = in_u8(in);
        send(&r, FUSE_FALLOCATE, node, true);
        break;
    }
    default: {
        struct fuse_lseek_in *body = add(&r, sizeof(*body));
        body->offset = in_shaped(in);
        body->whence = in_u8(in);
        send(&r, FUSE_LSEEK, node, true);
    }
    }
}

/* ---- a session ----------------------------------------------------------------------------- */

static void quiet(enum fuse_log_level level, const char *format, va_list ap)
{
    (void)level;
    (void)format;
    (void)ap;
}

static void send_init(struct input *in)
{
    static struct request r;

    r.len = sizeof(struct fuse_in_header);
    struct fuse_init_in *body = add(&r, sizeof(*body));
    body->major = FUSE_KERNEL_VERSION;
    body->minor = FUSE_KERNEL_MINOR_VERSION - in_below(in, 4);
    body->max_readahead = in_u32(in);
    body->flags = in_u32(in) | FUSE_BIG_WRITES;
    body->flags2 = in_u32(in);
    send(&r, FUSE_INIT, 0, true);
}

static void begin(struct fs *fs, struct input *in)
{
    static const struct fuse_custom_io io = {.read = read_request, .writev = take_answer};
    char *argv[] = {"fuzz", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    struct control *control;

    s.node_count = 0;
    fuzz_check(control_new(fs, TREE_PATH, &control) == 0);
    adapter_init(&s.adapter, fs, control);
    fuse_set_log_func(quiet);
    s.fuse = fuse_session_new(&args, &adapter_ops, sizeof(adapter_ops), &s.adapter);
    fuse_opt_free_args(&args);
    s.null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    fuzz_check(s.fuse && s.null >= 0 && fuse_session_custom_io(s.fuse, &io, s.null) == 0);
    send_init(in);
}

static void end(struct fs *fs)
{
    unsigned steps = 0;

    fuse_session_destroy(s.fuse); /* closes s.null */
    control_free(s.adapter.control);
    adapter_destroy(&s.adapter);
    while (fs_work(fs) == 1)
        fuzz_check(++steps < 4096);
    fuzz_check(fs_close(fs) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct env *env = env_mem_new();
    struct fs *fs;

    fuzz_check(env);
    fs = tree_open(&in, env);
    if (fs) {
        begin(fs, &in);
        for (unsigned n = 0; n < REQUESTS_MAX && in.left > 0; n++)
            one_request(&in);
        end(fs);
    }
    env_mem_free(env);
    return 0;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    /* after 13 bytes of INIT: LOOKUP a, READDIRPLUS, OPEN and READ, LOOKUP .shale, CREATE, RENAME2, UNLINK */
    static const uint8_t requests[] = {
        0,   0,  1,   0,  8,  255, 255, 255, 255, 0, 0, 0, 0, /* INIT */
        250, 0,  0,   0,                                      /* LOOKUP a */
        100, 14, 1,   0,  0,  1,   0,   16,  0,   0,          /* a listing, or READ */
        0,   13, 0,   0,                                      /* OPEN */
        0,   14, 0,   0,  0,  1,   0,   16,  0,               /* READ */
        100, 0,  9,                                           /* LOOKUP .shale */
        100, 12, 0,   2,                                      /* LINK */
        100, 11, 100, 0,  0,  1,                              /* RENAME2 */
        0,   22, 10,  0,  0,  0,   1,   1,   2,   3, 4, 5, 6,
        7,   8,  9,   10, 11, 12,  0,   23,  100, 0, 1, /* GETXATTR */
        100, 9,  1,                                     /* UNLINK */
    };
    if (n >= TREE_SEEDS)
        return 0;
    uint8_t *p = tree_seed(n, out);
    memcpy(p, requests, sizeof(requests));
    return (size_t)(p - out) + sizeof(requests);
}
