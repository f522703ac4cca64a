/*
 * fuzz_store.c - a hostile filesystem (fuzz_tree.h) under all operations of fs.h.
 *
 * Holds exactly the references that the operations gave it, as the kernel does.
 */
#include "env.h"
#include "fs.h"
#include "fuzz_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <unistd.h>

#define OPS_MAX 64u
#define REFS_MAX 48u
#define BUF_BYTES (70u << 10)
#define LIST_MAX 4096u /* entries of one listing: more than a tree can have */
#define WORK_STEPS_MAX 4096u

static uint8_t buf[BUF_BYTES];
static const struct fs_caller caller = {.uid = 1000, .gid = 1000};

struct session {
    struct fs *fs;
    struct input *in;
    fs_id refs[REFS_MAX]; /* one reference each */
    unsigned count;
};

static void take_ref(struct session *s, fs_id id)
{
    if (s->count < REFS_MAX)
        s->refs[s->count++] = id;
    else
        fs_forget(s->fs, id, 1);
}

static fs_id any(struct session *s)
{
    unsigned i = in_below(s->in, REFS_MAX);
    return i < s->count ? s->refs[i] : FS_ID_ROOT;
}

static void drop_ref(struct session *s)
{
    unsigned i = in_below(s->in, REFS_MAX);
    if (i >= s->count)
        return;
    fs_forget(s->fs, s->refs[i], 1);
    s->refs[i] = s->refs[--s->count];
}

/* ---- listings ---- */

struct listing {
    struct session *s;
    bool plus;
    unsigned seen, most;
    uint64_t last;
    fs_id found[LIST_MAX];
    unsigned founds;
};

static bool note(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct listing *l = arg;
    bool dots = name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'));

    fuzz_check(len > 0 && len <= FS_NAME_MAX && next <= INT64_MAX);
    fuzz_check(next > l->last); /* or a reader would never come to the end */
    fuzz_check(l->seen < LIST_MAX);
    if (l->seen == l->most)
        return false;
    l->last = next;
    l->seen++;
    if (l->plus && (!dots || next > 2))
        l->found[l->founds++] = attr->id;
    return true;
}

static void list(struct session *s, fs_id dir, bool plus, unsigned most)
{
    static struct listing l;
    int rc;

    l = (struct listing){.s = s, .plus = plus};
    do { /* in portions, as readers do */
        l.most = l.seen + most;
        unsigned before = l.seen;
        rc = fs_readdir(s->fs, dir, l.last, plus, note, &l);
        if (l.seen == before)
            break;
    } while (rc == 0);
    for (unsigned i = 0; i < l.founds; i++)
        take_ref(s, l.found[i]);
}

/* ---- operations ---- */

static void created(struct session *s, int rc, const struct fs_attr *attr)
{
    if (rc == 0)
        take_ref(s, attr->id);
}

static void name_op(struct session *s, unsigned op)
{
    struct input *in = s->in;
    struct fs *fs = s->fs;
    fs_id id = any(s);
    struct tree_name n = tree_name(in);
    struct fs_attr attr = {0};

    switch (op) {
    case 0: created(s, fs_lookup(fs, id, n.name, n.len, &attr), &attr); break;
    case 1: created(s, fs_mknod(fs, &caller, id, n.name, n.len, in_u16(in), in_u8(in), &attr), &attr); break;
    case 2: created(s, fs_mkdir(fs, &caller, id, n.name, n.len, in_u16(in), &attr), &attr); break;
    case 3:
        created(s, fs_symlink(fs, &caller, id, n.name, n.len, "target", in_u8(in) % 7, &attr), &attr);
        break;
    case 4: created(s, fs_link(fs, any(s), id, n.name, n.len, &attr), &attr); break;
    case 5: fs_unlink(fs, id, n.name, n.len); break;
    case 6: fs_rmdir(fs, id, n.name, n.len); break;
    default: {
        fs_id to = any(s);
        struct tree_name m = tree_name(in);
        fs_rename(fs, &caller, id, n.name, n.len, to, m.name, m.len, in_u8(in) % 8);
    }
    }
}

static void set_attributes(struct session *s, fs_id id)
{
    struct fs_attr in = {.mode = in_u16(s->in), .uid = in_u8(s->in), .size = in_shaped(s->in)}, out;
    unsigned set = in_u16(s->in);

    in.atime.tv_sec = (time_t)in_shaped(s->in);
    fs_setattr(s->fs, id, set & 0x1ff, &in, &out);
}

static void xattr_op(struct session *s, fs_id id)
{
    static const char *const names[] = {"user.a", "user.b", "trusted.c", "security.d", "system.e", "user."};
    struct input *in = s->in;
    const char *name = names[in_below(in, 6)];
    size_t len;

    switch (in_below(in, 4)) {
    case 0: fs_setxattr(s->fs, id, name, buf, in_u16(in), in_u8(in) % 4); break;
    case 1: fs_getxattr(s->fs, id, name, buf, in_u16(in), &len); break;
    case 2: fs_listxattr(s->fs, id, (char *)buf, in_u16(in), &len); break;
    default: fs_removexattr(s->fs, id, name);
    }
}

static void data_op(struct session *s, fs_id id)
{
    struct input *in = s->in;
    uint64_t off = in_shaped(in), found;
    size_t len = in_u16(in), got;
    static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
                                FALLOC_FL_ZERO_RANGE};

    switch (in_below(in, 4)) {
    case 0:
        if (fs_read(s->fs, id, off, buf, len, &got) == 0)
            fuzz_check(got <= len);
        break;
    case 1: fs_write(s->fs, id, off, buf, len); break;
    case 2: fs_fallocate(s->fs, id, modes[in_u8(in) % 4], off, in_shaped(in)); break;
    default: fs_seek(s->fs, id, off, in_u8(in) & 1 ? SEEK_DATA : SEEK_HOLE, &found);
    }
}

static void other_op(struct session *s, fs_id id)
{
    struct fs_cold cold[8];
    struct fs_stats stats;
    struct fs_space space;
    struct fs_attr attr;
    size_t len;

    switch (in_below(s->in, 8)) {
    case 0: fs_getattr(s->fs, id, &attr); break;
    case 1: fs_readlink(s->fs, id, (char *)buf, in_u16(s->in), &len); break;
    case 2: drop_ref(s); break;
    case 3: fs_sync(s->fs); break;
    case 4: fs_work(s->fs); break;
    case 5: fs_cold_inodes(s->fs, cold, 8); break;
    case 6:
        if (fs_walk(s->fs, "/dir/dir/a", &attr) == 0)
            take_ref(s, attr.id);
        break;
    default: fs_stats_get(s->fs, &stats); fs_statfs(s->fs, &space);
    }
}

static void operate(struct session *s)
{
    unsigned op = in_below(s->in, 16);

    if (op < 8)
        name_op(s, op);
    else if (op == 8)
        list(s, any(s), in_u8(s->in) & 1, 1 + in_below(s->in, 4));
    else if (op == 9)
        set_attributes(s, any(s));
    else if (op == 10)
        xattr_op(s, any(s));
    else if (op < 14)
        data_op(s, any(s));
    else
        other_op(s, any(s));
}

static void end(struct session *s)
{
    unsigned steps = 0;

    while (s->count > 0)
        fs_forget(s->fs, s->refs[--s->count], 1);
    while (fs_work(s->fs) == 1)
        fuzz_check(++steps < WORK_STEPS_MAX);
    fuzz_check(fs_close(s->fs) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct env *env = env_mem_new();
    static struct session s;

    fuzz_check(env);
    s = (struct session){.fs = tree_open(&in, env), .in = &in};
    if (s.fs) {
        for (unsigned n = 0; n < OPS_MAX && in.left > 0; n++)
            operate(&s);
        end(&s);
    }
    env_mem_free(env);
    return 0;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    static const uint8_t ops[][48] = {
        /* list with references, look up, read, write, link, rename, unlink */
        {8, 0, 1, 3, 0, 47, 0, 0,  47, 3, 11, 0, 0, 0, 5, 0, 0, 11, 0,
         0, 9, 0, 1, 1, 4,  0, 10, 1,  7, 0,  0, 0, 1, 0, 5, 0, 1},
        {0, 47, 3, 0, 0, 3, 0, 1, 3, 7, 47, 3, 1, 0, 0, 8, 1, 1, 1, 2, 2, 0, 1, 0, 6, 47, 3, 14, 0, 6},
        {0, 47, 0, 11, 0,  0, 0, 8, 0,  1, 9, 0,  0, 0, 0, 0,   8,
         0, 14, 0, 4,  10, 0, 0, 0, 44, 1, 0, 10, 0, 0, 1, 255, 0},
    };
    if (n >= TREE_SEEDS)
        return 0;
    uint8_t *p = tree_seed(n, out);
    memcpy(p, ops[n], sizeof(ops[n]));
    return (size_t)(p - out) + sizeof(ops[n]);
}
