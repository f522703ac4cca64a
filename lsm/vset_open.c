/*
 * vset_open.c - from a manifest to a version set: replaying edits, opening tables, cleaning up.
 *
 * Opened for writing, the manifest is always rewritten: what a killed process appended last may be
 * in the page cache only, and a torn record must be gone before anything is appended or any table
 * deleted on its word. On a full disk the old file is used on, cut and synced (manifest_open).
 *
 * Then the directory is cleaned: NNNNNN.sst that no version names is the output of a flush or
 * compaction that was not installed, and a NNNNNN.blob that the manifest does not know was never written to or is
 * not named by anything any more. Logs are their owner's, names we do not know are anybody's.
 */
#include "vset_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct file_list {
    struct edit_file *files;
    size_t count, capacity;
};

struct blob_list {
    struct blob_meta *files;
    size_t count, capacity;
};

struct replay {
    struct vset *vs;
    struct file_list shards[SHARDS_MAX];
    struct blob_list blobs[SHARDS_MAX];
};

/* ---- replaying ---- */

static int unfit(struct vset *vs, uint64_t offset, uint64_t number)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/MANIFEST", vs->dir);
    (void)logger_corrupt(&vs->log, path, offset, "edit of file %06" PRIu64 " does not fit what came before",
                         number);
    return -EUCLEAN;
}

static int unfit_name(struct vset *vs, uint64_t offset, const struct edit *e)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/MANIFEST", vs->dir);
    (void)logger_corrupt(&vs->log, path, offset, "edit of snapshot \"%s\" does not fit what came before",
                         e->name_taken ? e->name_taken->name : e->name_dropped);
    return -EUCLEAN;
}

static struct edit_file *find(struct file_list *list, uint64_t number)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->files[i].meta.number == number)
            return &list->files[i];
    return NULL;
}

static bool remove_file(struct file_list *list, const struct edit_file *f)
{
    struct edit_file *found = find(list, f->meta.number);
    if (!found || found->level != f->level)
        return false;
    table_meta_free(&found->meta);
    *found = list->files[--list->count];
    return true;
}

static int add_file(struct file_list *list, const struct edit_file *f)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 16;
        struct edit_file *files = realloc(list->files, capacity * sizeof *files);
        if (!files)
            return -ENOMEM;
        list->files = files;
        list->capacity = capacity;
    }
    struct edit_file copy = {.shard = f->shard, .level = f->level};
    int rc = table_meta_copy(&f->meta, &copy.meta);
    if (!rc)
        list->files[list->count++] = copy;
    return rc;
}

static int add_blob(struct blob_list *list, const struct blob_meta *m)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 16;
        struct blob_meta *files = realloc(list->files, capacity * sizeof *files);
        if (!files)
            return -ENOMEM;
        list->files = files;
        list->capacity = capacity;
    }
    list->files[list->count++] = *m;
    return 0;
}

static struct blob_meta *find_blob(const struct blob_list *list, uint64_t number)
{
    for (size_t i = list->count; i-- > 0;)
        if (list->files[i].number == number)
            return &list->files[i];
    return NULL;
}

static void raise_next_number(struct vset *vs, uint64_t above)
{
    if (above > vs->next_number)
        vs->next_number = above;
}

static int replay_edit(void *arg, const struct decoded_edit *d, uint64_t offset)
{
    struct replay *r = arg;
    struct vset *vs = r->vs;
    const struct edit *e = &d->edit;
    for (size_t i = 0; i < e->remove_count; i++)
        if (!remove_file(&r->shards[e->remove[i].shard], &e->remove[i]))
            return unfit(vs, offset, e->remove[i].meta.number);
    for (size_t i = 0; i < e->blob_add_count; i++) {
        struct blob_list *list = &r->blobs[e->blob_add[i].shard];
        if (find_blob(list, e->blob_add[i].number))
            return unfit(vs, offset, e->blob_add[i].number);
        int rc = add_blob(list, &e->blob_add[i]);
        if (rc)
            return rc;
        raise_next_number(vs, e->blob_add[i].number + 1);
    }
    for (size_t i = 0; i < e->blob_remove_count; i++) {
        struct blob_list *list = &r->blobs[e->blob_remove[i].shard];
        struct blob_meta *m = find_blob(list, e->blob_remove[i].number);
        if (!m)
            return unfit(vs, offset, e->blob_remove[i].number);
        *m = list->files[--list->count];
    }
    for (size_t i = 0; i < e->add_count; i++) {
        struct file_list *list = &r->shards[e->add[i].shard];
        if (find(list, e->add[i].meta.number))
            return unfit(vs, offset, e->add[i].meta.number);
        int rc = add_file(list, &e->add[i]);
        if (rc)
            return rc;
        raise_next_number(vs, e->add[i].meta.number + 1);
    }
    if (e->use)
        raise_next_number(vs, e->use->number + 1);
    raise_next_number(vs, d->next_number);
    int rc = log_state_reserve(&vs->state);
    if (!rc)
        rc = named_reserve(&vs->named);
    if (rc)
        return rc;
    log_state_apply(&vs->state, e);
    return named_apply(&vs->named, e) ? 0 : unfit_name(vs, offset, e);
}

static void replay_free(struct replay *r)
{
    for (unsigned i = 0; i < SHARDS_MAX; i++) {
        for (size_t j = 0; j < r->shards[i].count; j++)
            table_meta_free(&r->shards[i].files[j].meta);
        free(r->shards[i].files);
        free(r->blobs[i].files);
    }
}

/* ---- opening the tables ---- */

/*
 * Damage to one table must not make the others unreadable: opened for reading only, a stand-in takes
 * its place. For writing the store is refused, since nothing should be built upon what is lost.
 */
static int open_table(struct vset *vs, const struct edit_file *f, struct version_add *out)
{
    char path[4096];
    out->level = f->level;
    int rc = table_file_open(vs, f->shard, &f->meta, false, &out->file);
    if (!rc)
        return 0;
    (void)snprintf(path, sizeof path, "%s/%06" PRIu64 ".sst", vs->dir, f->meta.number);
    if (rc == -ENOENT)
        (void)logger_corrupt(&vs->log, path, 0, "the manifest names this table, but the file is missing");
    else
        logger_write(&vs->log, LSM_LOG_ERROR, "%s: named by the manifest, but can't be opened: %s%s", path,
                     strerror(-rc), rc == -EIO ? "; run `shale check`" : "");
    if (rc != -ENOENT && rc != -EIO)
        return rc;
    return vs->read_only ? table_file_open(vs, f->shard, &f->meta, true, &out->file) : -EUCLEAN;
}

static int build_shard(struct vset *vs, unsigned shard, const struct file_list *list,
                       const struct blob_list *blobs)
{
    struct version_add *add = calloc(list->count + 1, sizeof *add);
    struct blob_file **files = calloc(blobs->count + 1, sizeof *files);
    if (!add || !files) {
        free(add);
        free(files);
        return -ENOMEM;
    }
    int rc = 0;
    size_t opened = 0, blobs_opened = 0;
    while (!rc && blobs_opened < blobs->count) {
        rc = blob_file_open(vs->env, vs->dir, &vs->log, &blobs->files[blobs_opened], !vs->read_only,
                            &files[blobs_opened]);
        blobs_opened += !rc;
    }
    while (!rc && opened < list->count) {
        rc = open_table(vs, &list->files[opened], &add[opened]);
        opened += !rc;
    }
    struct version_blob_change change = {.add = files, .add_count = blobs_opened};
    if (!rc)
        rc = version_build(vs, shard, NULL, NULL, 0, add, opened, &change, &vs->current[shard]);
    if (rc == -EINVAL || rc == -ENXIO) {
        char path[4096];
        (void)snprintf(path, sizeof path, "%s/MANIFEST", vs->dir);
        (void)logger_corrupt(&vs->log, path, 0,
                             rc == -EINVAL ? "tables of shard %u overlap"
                                           : "tables of shard %u name a blob file that it does not know",
                             shard);
        rc = -EUCLEAN;
    }
    for (size_t i = 0; i < opened; i++)
        table_file_unref(vs, add[i].file);
    for (size_t i = 0; i < blobs_opened; i++)
        blob_file_unref(vs, files[i]);
    free(add);
    free(files);
    return rc;
}

/* ---- the directory ---- */

/* Only names that we would write ourselves: six digits or more, no other leading zeros, a known suffix. */
static const char *parse_name(const char *name, uint64_t *number)
{
    static const char *const suffixes[] = {"sst", "log", "blob"};
    *number = strtoull(name, NULL, 10);
    if (name[0] < '0' || name[0] > '9' || *number == 0 || *number > FILE_NUMBER_MAX)
        return NULL;
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char canonical[40];
        (void)snprintf(canonical, sizeof canonical, "%06" PRIu64 ".%s", *number, suffixes[i]);
        if (!strcmp(name, canonical))
            return suffixes[i];
    }
    return NULL;
}

static int add_number(uint64_t **numbers, size_t *count, size_t *capacity, uint64_t number)
{
    if (*count == *capacity) {
        size_t grown = *capacity ? *capacity * 2 : 64;
        uint64_t *p = realloc(*numbers, grown * sizeof *p);
        if (!p)
            return -ENOMEM;
        *numbers = p;
        *capacity = grown;
    }
    (*numbers)[(*count)++] = number;
    return 0;
}

static int take_name(void *arg, const char *name)
{
    struct listing *l = arg;
    uint64_t number;
    const char *suffix = parse_name(name, &number);
    if (!suffix)
        return 0;
    if (number > l->number_max)
        l->number_max = number;
    if (!strcmp(suffix, "sst"))
        return add_number(&l->tables, &l->table_count, &l->table_capacity, number);
    if (!strcmp(suffix, "blob"))
        return add_number(&l->blobs, &l->blob_count, &l->blob_capacity, number);
    return strcmp(suffix, "log") ? 0 : add_number(&l->logs, &l->log_count, &l->log_capacity, number);
}

int listing_read(struct env *env, const char *dir, struct listing *out)
{
    memset(out, 0, sizeof *out);
    return env_list(env, dir, take_name, out);
}

void listing_free(struct listing *l)
{
    free(l->tables);
    free(l->logs);
    free(l->blobs);
    memset(l, 0, sizeof *l);
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Ascending numbers of all tables in all versions. */
static int live_tables(const struct vset *vs, uint64_t **out, size_t *count)
{
    size_t n = 0;
    for (unsigned i = 0; i < vs->identity.shards; i++)
        for (unsigned l = 0; l < LSM_LEVELS; l++)
            n += vs->current[i]->levels[l].count;
    uint64_t *numbers = malloc((n + 1) * sizeof *numbers);
    if (!numbers)
        return -ENOMEM;
    *count = n;
    n = 0;
    for (unsigned i = 0; i < vs->identity.shards; i++)
        for (unsigned l = 0; l < LSM_LEVELS; l++)
            for (size_t j = 0; j < vs->current[i]->levels[l].count; j++)
                numbers[n++] = vs->current[i]->levels[l].files[j]->meta.number;
    qsort(numbers, n, sizeof *numbers, compare_numbers);
    *out = numbers;
    return 0;
}

int listing_keep_unnamed(const struct vset *vs, struct listing *l)
{
    uint64_t *live;
    size_t live_count, kept = 0;
    int rc = live_tables(vs, &live, &live_count);
    if (rc)
        return rc;
    for (size_t i = 0; i < l->table_count; i++)
        if (!bsearch(&l->tables[i], live, live_count, sizeof *live, compare_numbers))
            l->tables[kept++] = l->tables[i];
    l->table_count = kept;
    free(live);
    kept = 0;
    for (size_t i = 0; i < l->blob_count; i++) {
        bool named = false;
        for (unsigned s = 0; !named && s < vs->identity.shards; s++)
            named = version_blob(vs->current[s], l->blobs[i]);
        if (!named)
            l->blobs[kept++] = l->blobs[i];
    }
    l->blob_count = kept;
    return 0;
}

/* A file that can't be deleted now costs space, nothing else: the next open tries again. */
static void delete_orphan(struct vset *vs, const char *path)
{
    int error = env_unlink(vs->env, path);
    if (error)
        logger_write(&vs->log, LSM_LOG_WARNING, "%s: not in use, but can't be deleted: %s", path,
                     strerror(-error));
    else
        logger_write(&vs->log, LSM_LOG_DEBUG, "%s: deleted, was not in use", path);
}

/* Tables that were not installed; blob files that the manifest did not come to know, or that it has forgotten. */
static int delete_orphans(struct vset *vs, const struct listing *unnamed)
{
    size_t path_size = strlen(vs->dir) + 32;
    char *path = malloc(path_size);
    if (!path)
        return -ENOMEM;
    for (size_t i = 0; i < unnamed->table_count; i++) {
        table_path(vs->dir, unnamed->tables[i], path, path_size);
        delete_orphan(vs, path);
    }
    for (size_t i = 0; i < unnamed->blob_count; i++) {
        blob_path(vs->dir, unnamed->blobs[i], path, path_size);
        delete_orphan(vs, path);
    }
    free(path);
    return 0;
}

/* ---- opening ---- */

static int take_for_writing(struct vset *vs, const struct manifest_options *o,
                            const struct manifest_contents *contents)
{
    bool renamed;
    int rc = vset_rollover(vs, &renamed);
    if (rc != -ENOSPC || renamed)
        return rc;
    logger_write(&vs->log, LSM_LOG_WARNING, "%s/MANIFEST: no space to rewrite it; the old one stays in use",
                 vs->dir);
    rc = manifest_open(o, contents, &vs->manifest);
    if (!rc) /* the next chance comes when it has doubled */
        vs->rollover_bytes = 2 * contents->good_bytes;
    return rc;
}

/* Looks round in the directory; for writing, tidies it up. */
static int take_directory(struct vset *vs, const struct manifest_options *o,
                          const struct manifest_contents *contents)
{
    struct listing listing;
    int rc = listing_read(vs->env, vs->dir, &listing);
    if (!rc)
        rc = listing_keep_unnamed(vs, &listing);
    if (!rc)
        rc = rollback_check(vs, listing.tables, listing.table_count, listing.logs, listing.log_count);
    if (!rc)
        raise_next_number(vs, listing.number_max + 1);
    if (!rc && !vs->read_only) {
        rc = take_for_writing(vs, o, contents);
        if (!rc)
            rc = delete_orphans(vs, &listing);
        if (!rc)
            manifest_remove_new(o);
    }
    listing_free(&listing);
    return rc;
}

int vset_open(const struct vset_options *options, struct vset **out)
{
    struct vset *vs;
    int rc = vset_new(options, &vs);
    if (rc)
        return rc;
    struct replay replay = {.vs = vs};
    struct manifest_options o = {vs->env, vs->dir, &vs->log};
    struct manifest_contents contents;
    rc = manifest_read(&o, vs->read_only, replay_edit, &replay, &contents);
    if (!rc) {
        vs->identity = contents.identity;
        for (unsigned i = 0; !rc && i < vs->identity.shards; i++)
            rc = build_shard(vs, i, &replay.shards[i], &replay.blobs[i]);
    }
    replay_free(&replay);
    if (!rc)
        rc = take_directory(vs, &o, &contents);
    if (rc) {
        vset_free(vs);
        return rc;
    }
    *out = vs;
    return 0;
}
