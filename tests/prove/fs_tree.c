/*
 * fs_tree.c - see fs_tree.h: trees, comparing them. What operations do to them is in fs_model.c.
 */
#include "fs_tree.h"

#include "keys.h"
#include "prove.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define LONG_NAME "a name that is as long as names can be, which is two hundred and fifty-five bytes: "

/* ---- names ---- */

struct tree_name tree_name(unsigned i)
{
    static const char *const texts[TREE_NAMES] = {"a",     "b",          "c",        "d",         "file",
                                                  "other", ".shale-ish", "\xff\x01", "with space"};
    static char longest[FS_NAME_MAX + 1];

    if (i == TREE_NAMES - 1) {
        if (!longest[0]) {
            memset(longest, 'z', FS_NAME_MAX);
            memcpy(longest, LONG_NAME, sizeof LONG_NAME - 1);
        }
        return (struct tree_name){longest, FS_NAME_MAX};
    }
    return (struct tree_name){texts[i], strlen(texts[i])};
}

bool tree_name_find(const char *text, size_t len, unsigned *i)
{
    for (*i = 0; *i < TREE_NAMES; *i += 1) {
        struct tree_name n = tree_name(*i);
        if (n.len == len && !memcmp(n.text, text, len))
            return true;
    }
    return false;
}

const char *const tree_xattr_names[TREE_XATTRS] = {"user.a",
                                                   "user.another",
                                                   "trusted.b",
                                                   "trusted.long",
                                                   "security.c",
                                                   "security.longer than others",
                                                   "system.posix_acl_access",
                                                   "system.posix_acl_default"};

/* ---- bytes ---- */

struct bytes *bytes_new(size_t len)
{
    struct bytes *b = proof_memory(NULL, sizeof *b + len);

    b->refs = 1;
    b->len = len;
    return b;
}

struct bytes *bytes_done(struct bytes *b)
{
    b->sum = XXH3_64bits(b->at, b->len);
    return b;
}

struct bytes *bytes_random(size_t len, uint64_t seed)
{
    struct bytes *b = bytes_new(len);
    uint64_t word = seed_mix(seed, 5);

    for (size_t at = 0; at < len; at += 8, word = word * UINT64_C(6364136223846793005) + 1442695040888963407u)
        memcpy(b->at + at, &word, len - at < 8 ? len - at : 8);
    return bytes_done(b);
}

void bytes_unref(struct bytes *b)
{
    if (b && --b->refs == 0)
        free(b);
}

static struct bytes *bytes_ref(struct bytes *b)
{
    if (b)
        b->refs++;
    return b;
}

/* ---- nodes and trees ---- */

static void node_unref(struct node *n)
{
    if (!n || --n->refs > 0)
        return;
    bytes_unref(n->content);
    for (unsigned k = 0; k < TREE_XATTRS; k++)
        bytes_unref(n->xattr[k]);
    free(n);
}

struct tree *tree_new(uint32_t uid, uint32_t gid, struct timespec now)
{
    struct tree *t = proof_memory(NULL, sizeof *t);

    t->refs = 1;
    t->serial = ID_SERIAL_FIRST - 1;
    (void)tree_add(t, S_IFDIR | 0755);
    t->node[TREE_ROOT]->attr = (struct fs_attr){.id = FS_ID_ROOT,
                                                .mode = S_IFDIR | 0755,
                                                .nlink = 2,
                                                .uid = uid,
                                                .gid = gid,
                                                .atime = now,
                                                .mtime = now,
                                                .ctime = now,
                                                .btime = now};
    return t;
}

struct tree *tree_copy(const struct tree *from)
{
    struct tree *t = proof_memory(NULL, sizeof *t);

    *t = *from;
    t->refs = 1;
    for (unsigned i = 0; i < TREE_NODES; i++) {
        if (t->node[i])
            t->node[i]->refs++;
    }
    return t;
}

struct tree *tree_ref(struct tree *t)
{
    t->refs++;
    return t;
}

void tree_unref(struct tree *t)
{
    if (!t || --t->refs > 0)
        return;
    for (unsigned i = 0; i < TREE_NODES; i++)
        node_unref(t->node[i]);
    free(t);
}

struct node *tree_own(struct tree *t, unsigned i)
{
    struct node *old = t->node[i];

    t->digest = 0;
    if (old->refs == 1)
        return old;
    struct node *n = proof_memory(NULL, sizeof *n);
    *n = *old;
    n->refs = 1;
    bytes_ref(n->content);
    for (unsigned k = 0; k < TREE_XATTRS; k++)
        bytes_ref(n->xattr[k]);
    node_unref(old);
    return t->node[i] = n;
}

bool tree_has_room(const struct tree *t)
{
    for (unsigned i = 0; i < TREE_NODES; i++) {
        if (!t->node[i])
            return true;
    }
    return false;
}

unsigned tree_add(struct tree *t, uint32_t mode)
{
    unsigned i = 0;

    while (t->node[i])
        i++;
    t->node[i] = proof_memory(NULL, sizeof(struct node));
    t->node[i]->refs = 1;
    t->node[i]->attr.mode = mode;
    t->node[i]->after = t->serial;
    t->digest = 0;
    return i;
}

bool tree_place(const struct tree *t, unsigned i, unsigned *dir, unsigned *name)
{
    for (*dir = 0; *dir < TREE_NODES; *dir += 1) {
        for (*name = 0; *name < TREE_NAMES; *name += 1) {
            if (i != TREE_ROOT && t->child[*dir][*name] == i)
                return true;
        }
    }
    return false;
}

void tree_count(const struct tree *t, uint64_t *directories, uint64_t *names)
{
    *directories = *names = 0;
    for (unsigned i = 0; i < TREE_NODES; i++) {
        const struct node *n = t->node[i];
        if (n && n->attr.nlink > 0 && S_ISDIR(n->attr.mode))
            ++*directories;
        else if (n)
            *names += n->attr.nlink;
    }
}

void tree_forget(struct tree *t, const unsigned held[TREE_NODES])
{
    for (unsigned i = 1; i < TREE_NODES; i++) {
        if (!t->node[i] || t->node[i]->attr.nlink > 0 || (held && held[i]))
            continue;
        node_unref(t->node[i]);
        t->node[i] = NULL;
        memset(t->child[i], 0, sizeof t->child[i]);
    }
}

/* ---- comparing ---- */

static uint64_t mix_time(uint64_t h, struct timespec t)
{
    return seed_mix(seed_mix(h, (uint64_t)t.tv_sec), (uint64_t)t.tv_nsec);
}

static uint64_t node_digest(const struct node *n, uint64_t h)
{
    const struct fs_attr *a = &n->attr;

    h = seed_mix(h, (uint64_t)a->mode << 32 | a->nlink);
    h = seed_mix(h, (uint64_t)a->uid << 32 | a->gid);
    h = seed_mix(seed_mix(h, a->rdev), a->size);
    h = mix_time(mix_time(mix_time(mix_time(h, a->atime), a->mtime), a->ctime), a->btime);
    h = seed_mix(h, n->content && n->content->len ? n->content->sum : 0);
    for (unsigned k = 0; k < TREE_XATTRS; k++)
        h = seed_mix(h, n->xattr[k] ? n->xattr[k]->sum + 1 : 0);
    return h;
}

/* Inodes are numbered as they are met, so that names of one file are told from files that are alike. */
static uint64_t digest_below(const struct tree *t, unsigned i, unsigned met[TREE_NODES], unsigned *count,
                             uint64_t h)
{
    if (met[i])
        return seed_mix(h, met[i]);
    met[i] = ++*count;
    h = node_digest(t->node[i], h);
    for (unsigned k = 0; k < TREE_NAMES; k++) {
        if (t->child[i][k])
            h = digest_below(t, t->child[i][k], met, count, seed_mix(h, k));
    }
    return seed_mix(h, TREE_NAMES);
}

uint64_t tree_digest(struct tree *t)
{
    unsigned met[TREE_NODES] = {0}, count = 0;

    if (!t->digest)
        t->digest = digest_below(t, TREE_ROOT, met, &count, 1) | 1;
    return t->digest;
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool node_same(const struct node *a, const struct node *b, const char **what)
{
    const struct fs_attr *x = &a->attr, *y = &b->attr;
    uint64_t xs = a->content && a->content->len ? a->content->sum : 0;
    uint64_t ys = b->content && b->content->len ? b->content->sum : 0;

    *what = x->mode != y->mode                     ? "mode"
            : x->nlink != y->nlink                 ? "number of links"
            : x->uid != y->uid || x->gid != y->gid ? "owner"
            : x->rdev != y->rdev                   ? "device"
            : x->size != y->size                   ? "size"
            : xs != ys                             ? "contents"
            : !same_time(x->atime, y->atime)       ? "access time"
            : !same_time(x->mtime, y->mtime)       ? "modification time"
            : !same_time(x->ctime, y->ctime)       ? "change time"
            : !same_time(x->btime, y->btime)       ? "birth time"
                                                   : NULL;
    for (unsigned k = 0; k < TREE_XATTRS && !*what; k++) {
        if ((a->xattr[k] ? a->xattr[k]->sum + 1 : 0) != (b->xattr[k] ? b->xattr[k]->sum + 1 : 0))
            *what = tree_xattr_names[k];
    }
    return !*what;
}

static bool explain_below(const struct tree *a, const struct tree *b, unsigned i, unsigned j,
                          unsigned met[TREE_NODES], char *out, size_t size)
{
    size_t len = strlen(out);
    const char *what;

    if (met[i])
        return met[i] == j + 1 || snprintf(out + len, size - len, " is another file") < 0;
    met[i] = j + 1;
    for (unsigned k = 0; k < TREE_NAMES; k++) {
        unsigned x = a->child[i][k], y = b->child[j][k];
        (void)snprintf(out + len, size - len, "/%.10s", tree_name(k).text);
        if (!x != !y) {
            (void)snprintf(out + strlen(out), size - strlen(out), x ? " is missing" : " is too many");
            return false;
        }
        if (x && !explain_below(a, b, x, y, met, out, size))
            return false;
        out[len] = 0;
    }
    if (node_same(a->node[i], b->node[j], &what))
        return true;
    (void)snprintf(out + len, size - len, " differs in: %s (size %llu for %llu, links %u for %u, mode %o)",
                   what, (unsigned long long)b->node[j]->attr.size, (unsigned long long)a->node[i]->attr.size,
                   b->node[j]->attr.nlink, a->node[i]->attr.nlink, a->node[i]->attr.mode);
    return false;
}

void tree_explain(struct tree *want, struct tree *got, char *out, size_t size)
{
    unsigned met[TREE_NODES] = {0};

    out[0] = 0;
    if (explain_below(want, got, TREE_ROOT, TREE_ROOT, met, out, size))
        (void)snprintf(out, size, "nothing that could be found");
}

static bool learn_below(struct tree *t, const struct tree *seen, unsigned i, unsigned j)
{
    fs_id id = seen->node[j]->attr.id;

    if (t->node[i]->attr.id == 0) {
        if ((id & ID_SERIAL_MASK) <= t->node[i]->after) {
            proof_fail("inode number %llx was given out before", (unsigned long long)id);
            return false;
        }
        uint64_t digest = t->digest;
        tree_own(t, i)->attr.id = id;
        t->digest = digest;
    } else if (t->node[i]->attr.id != id) {
        proof_fail("a file has inode number %llx, which was %llx", (unsigned long long)id,
                   (unsigned long long)t->node[i]->attr.id);
        return false;
    }
    for (unsigned k = 0; k < TREE_NAMES; k++) {
        if (t->child[i][k] && !learn_below(t, seen, t->child[i][k], seen->child[j][k]))
            return false;
    }
    return true;
}

bool tree_learn(struct tree *t, const struct tree *seen)
{
    if (!learn_below(t, seen, TREE_ROOT, TREE_ROOT))
        return false;
    for (unsigned i = 0; i < TREE_NODES; i++) {
        uint64_t serial = t->node[i] ? t->node[i]->attr.id & ID_SERIAL_MASK : 0;
        t->serial = serial > t->serial ? serial : t->serial;
    }
    return true;
}
