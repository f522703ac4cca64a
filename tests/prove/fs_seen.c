/*
 * fs_seen.c - see fs_seen.h.
 */
#include "fs_seen.h"

#include "prove.h"
#include "store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- one inode ---- */

static int read_contents(struct fs *fs, fs_id id, struct node *n)
{
    bool link = S_ISLNK(n->attr.mode);
    size_t size = n->attr.size, got = 0;

    if ((!S_ISREG(n->attr.mode) && !link) || size == 0)
        return 0;
    if (size > TREE_FILE_MAX) {
        proof_fail("a file of %zu bytes: none is so large", size);
        return -EILSEQ;
    }
    n->content = bytes_new(size);
    int err = link ? fs_readlink(fs, id, (char *)n->content->at, size, &got)
                   : fs_read(fs, id, 0, n->content->at, size, &got);
    if (err)
        return err;
    if (got != size) {
        proof_fail("reading a file of %zu bytes gives %zu", size, got);
        return -EILSEQ;
    }
    bytes_done(n->content);
    return 0;
}

static int read_xattr(struct fs *fs, fs_id id, const char *name, struct node *n)
{
    size_t len = 0;
    unsigned k = 0;

    while (k < TREE_XATTRS && strcmp(tree_xattr_names[k], name) != 0)
        k++;
    if (k == TREE_XATTRS || n->xattr[k]) {
        proof_fail("an extended attribute that is not there, or twice: %s", name);
        return -EILSEQ;
    }
    int err = fs_getxattr(fs, id, name, NULL, 0, &len);
    if (err == 0) {
        n->xattr[k] = bytes_new(len);
        err = fs_getxattr(fs, id, name, n->xattr[k]->at, len, &len);
    }
    if (err == 0)
        bytes_done(n->xattr[k]);
    if (err == -ENODATA || err == -ERANGE) {
        proof_fail("%s is listed, and %s", name, err == -ENODATA ? "is not there" : "changes its length");
        return -EILSEQ;
    }
    return err;
}

static int read_xattrs(struct fs *fs, fs_id id, struct node *n)
{
    char names[TREE_XATTRS * 64];
    size_t len = 0;

    int err = fs_listxattr(fs, id, names, sizeof names, &len);
    for (size_t at = 0; err == 0 && at < len; at += strlen(names + at) + 1)
        err = read_xattr(fs, id, names + at, n);
    return err;
}

int seen_node(struct fs *fs, fs_id id, struct node *out)
{
    *out = (struct node){.refs = 1};
    int err = fs_getattr(fs, id, &out->attr);
    if (err == 0)
        err = read_contents(fs, id, out);
    if (err == 0)
        err = read_xattrs(fs, id, out);
    return err;
}

void seen_release(struct node *n)
{
    bytes_unref(n->content);
    for (unsigned k = 0; k < TREE_XATTRS; k++)
        bytes_unref(n->xattr[k]);
}

/* ---- the tree ---- */

struct listed {
    unsigned name;
    fs_id id;
    uint32_t nlink, mode;
};

struct seeing {
    struct fs *fs;
    struct tree *tree;
};

struct listing {
    struct listed entry[TREE_NAMES];
    unsigned count;
    fs_id self, parent;
    uint64_t next; /* where the last call came to */
    bool wrong;
};

static bool on_entry(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct listing *l = arg;

    if (len == 1 && name[0] == '.') {
        l->self = attr->id;
    } else if (len == 2 && name[0] == '.' && name[1] == '.') {
        l->parent = attr->id;
    } else if (l->count == TREE_NAMES || !tree_name_find(name, len, &l->entry[l->count].name)) {
        l->wrong = true;
        return false;
    } else {
        struct listed *e = &l->entry[l->count++];
        e->id = attr->id;
        e->nlink = attr->nlink;
        e->mode = attr->mode;
    }
    l->next = next;
    return true;
}

static int see_directory(struct seeing *s, unsigned dir, unsigned parent);

/* The inode of an entry, of which the caller holds a reference. */
static int see_entry(struct seeing *s, unsigned dir, const struct listed *e)
{
    struct tree *t = s->tree;
    struct node *n;
    unsigned i = 1;

    if (e->nlink == 0)
        return -EIO; /* it can't be read: see fs_readdir */
    while (i < TREE_NODES && !(t->node[i] && t->node[i]->attr.id == e->id))
        i++;
    if (t->child[dir][e->name] || (i == TREE_NODES && !tree_has_room(t))) {
        proof_fail("a name is listed twice, or there are too many inodes");
        return -EILSEQ;
    }
    if (i < TREE_NODES) {
        t->child[dir][e->name] = (uint8_t)i;
        return 0;
    }
    i = tree_add(t, 0);
    n = t->node[i];
    int err = seen_node(s->fs, e->id, n);
    t->child[dir][e->name] = (uint8_t)i;
    if (err == 0 && (n->attr.id != e->id || n->attr.mode != e->mode || n->attr.nlink != e->nlink)) {
        proof_fail("a listing and getattr tell different attributes");
        return -EILSEQ;
    }
    return err == 0 && S_ISDIR(n->attr.mode) ? see_directory(s, i, dir) : err;
}

/* As programs do: until nothing comes any more. A call that met an error after some entries does not tell. */
static int list(struct fs *fs, fs_id id, struct listing *l)
{
    uint64_t from;
    int err;

    do {
        from = l->next;
        err = fs_readdir(fs, id, from, true, on_entry, l);
    } while (err == 0 && !l->wrong && l->next != from);
    return err;
}

static int see_directory(struct seeing *s, unsigned dir, unsigned parent)
{
    struct listing l = {.count = 0};
    fs_id id = s->tree->node[dir]->attr.id;

    int err = list(s->fs, id, &l);
    if (err == 0 && (l.wrong || l.self != id || l.parent != s->tree->node[parent]->attr.id)) {
        proof_fail(l.wrong ? "a name that nobody gave" : "\".\" or \"..\" of a directory lead elsewhere");
        err = -EILSEQ;
    }
    for (unsigned k = 0; k < l.count; k++) {
        if (err == 0)
            err = see_entry(s, dir, &l.entry[k]);
        if (l.entry[k].nlink > 0)
            fs_forget(s->fs, l.entry[k].id, 1);
    }
    return err;
}

int seen_tree(struct fs *fs, struct tree **out)
{
    struct seeing s = {fs, tree_new(0, 0, (struct timespec){0})};
    bool noatime = fs->noatime;

    fs->noatime = true; /* looking must not change what is looked at */
    int err = seen_node(fs, FS_ID_ROOT, s.tree->node[TREE_ROOT]);
    if (err == 0)
        err = see_directory(&s, TREE_ROOT, TREE_ROOT);
    fs->noatime = noatime;
    if (err) {
        tree_unref(s.tree);
        return err;
    }
    *out = s.tree;
    return 0;
}
