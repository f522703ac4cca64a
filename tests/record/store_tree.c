/* store_tree.c - see store_tree.h. */
#include "store_tree.h"

#include "check.h"
#include "facts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MEMORY_BYTES (32u << 20)

static void on_log(void *arg, enum lsm_log_level level, const char *message)
{
    (void)arg;
    if (level <= LSM_LOG_WARNING)
        printf("  engine: %s\n", message);
}

struct fs_options store_options(unsigned flags)
{
    return (struct fs_options){.lsm = {.flags = flags, .memory_bytes = MEMORY_BYTES, .log = on_log}};
}

static void on_lsm_problem(void *arg, const struct lsm_problem *p)
{
    (void)arg;
    if (p->damage)
        printf("  %s at %" PRIu64 ": %s\n", p->file, p->offset, p->what);
}

static void on_fs_problem(void *arg, const struct fs_problem *p)
{
    (void)arg;
    printf("  %s (%" PRIx64 "): %s\n", p->path ? p->path : "?", p->id, p->what);
}

int store_check(const char *store)
{
    struct fs_options o = store_options(0);
    struct lsm_verified v;
    struct fs_checked c;
    int rc = lsm_verify(store, &o.lsm, on_lsm_problem, NULL, &v);

    if (!rc && v.damaged)
        rc = -EUCLEAN;
    if (!rc)
        rc = fs_check(store, &o, on_fs_problem, NULL, &c);
    if (!rc && c.problems)
        rc = -EUCLEAN;
    if (rc)
        printf("check: %s\n", strerror(-rc));
    return rc ? EXIT_BROKEN : EXIT_GOOD;
}

/* ---- the tree ---- */

struct names {
    char (*name)[256];
    size_t count;
};

static bool on_name(void *arg, const char *name, size_t len, uint64_t next, const struct fs_attr *attr)
{
    struct names *n = arg;

    (void)next, (void)attr;
    if ((len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.'))
        return true;
    n->name = realloc(n->name, (n->count + 1) * sizeof(*n->name));
    if (!n->name)
        abort();
    memcpy(n->name[n->count], name, len);
    n->name[n->count++][len] = 0;
    return true;
}

static int hash_contents(struct fs *fs, const struct fs_attr *a, uint64_t *hash)
{
    size_t len = S_ISREG(a->mode) || S_ISLNK(a->mode) ? (size_t)a->size : 0, got = 0;
    uint8_t *buf = malloc(len + 1);
    int rc = buf ? 0 : -ENOMEM;

    if (!rc && S_ISREG(a->mode))
        rc = fs_read(fs, a->id, 0, buf, len, &got);
    if (!rc && S_ISLNK(a->mode))
        rc = fs_readlink(fs, a->id, (char *)buf, len, &got);
    if (!rc && got != len)
        rc = -EIO;
    *hash = rc ? 0 : XXH3_64bits(buf, len);
    free(buf);
    return rc;
}

static int add_below(struct fs *fs, struct tree *t, fs_id dir, const char *path)
{
    struct names names = {0};
    int rc = fs_readdir(fs, dir, 0, false, on_name, &names);

    for (size_t i = 0; i < names.count && !rc; i++) {
        char below[4096];
        struct fs_attr a;
        uint64_t hash;
        snprintf(below, sizeof(below), "%s%s%s", path, *path ? "/" : "", names.name[i]);
        rc = fs_lookup(fs, dir, names.name[i], strlen(names.name[i]), &a);
        if (rc)
            break;
        rc = hash_contents(fs, &a, &hash);
        if (!rc)
            tree_add(t, below, a.mode, a.nlink, a.size, hash);
        if (!rc && S_ISDIR(a.mode))
            rc = add_below(fs, t, a.id, below);
        fs_forget(fs, a.id, 1);
    }
    free(names.name);
    return rc;
}

int tree_of_store(struct fs *fs, fs_id directory, struct tree *out)
{
    *out = (struct tree){0};
    return add_below(fs, out, directory, "");
}
