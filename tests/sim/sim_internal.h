/*
 * sim_internal.h - the state of a simulated machine, shared by sim_file.c (contents of files), sim_names.c
 * (directories) and env_sim.c (the calls). Nobody else includes it; env_sim.h says what it is for.
 *
 * A disk is a table of inodes and a list of names. An inode has two arrays of pages, `now` and
 * `durable`, and the events since its last sync in order: "page i became this image", "the size
 * became n". A sync applies them to `durable`; a crash picks among them. Names work alike: a list of
 * changes since the directory's last sync. Inodes and pages are reference counted and shared by
 * clones, and copied when one of several owners changes them. A page of zeros is one for all.
 */
#ifndef SIM_INTERNAL_H
#define SIM_INTERNAL_H

#include "env_sim.h"

#include <stdlib.h>

#define PAGE 4096u

enum { NO_FILE = -1, DIRECTORY = 0 }; /* what a name may lead to besides an inode's id */

struct page {
    unsigned refs;
    uint8_t bytes[PAGE];
};

struct event {
    uint64_t time;
    uint64_t at; /* index of the page, or the new size */
    struct page *page;
    bool is_size;
};

struct inode {
    unsigned refs;
    uint64_t size, durable_size;
    struct page **now, **durable; /* NULL: a hole */
    size_t slots;
    uint64_t blocks; /* pages in `now` */
    struct event *events;
    size_t event_count, event_capacity;
    bool disagrees; /* a failed sync made now and durable differ for good */
};

struct entry {
    struct inode *inode;
    unsigned links, opens; /* while there are any it takes space */
};

struct name {
    char path[SIM_PATH_MAX];
    int32_t now, durable;
};

struct name_change {
    uint32_t name;
    int32_t to;
};

struct name_event {
    uint64_t time;
    unsigned count;
    struct name_change change[2];
};

struct sim {
    struct env base;
    uint64_t random, clock_ns, wall_ns, time, calls, changes;
    struct entry *files; /* [0] is not used */
    uint32_t file_count, file_capacity;
    struct name *names;
    uint32_t name_count, name_capacity;
    struct name_event *events;
    size_t event_count, event_capacity;
    struct env_lock *locks;
    unsigned open_files;
    uint64_t capacity, used; /* in pages */
    sim_hook hook;
    void *hook_arg;
};

static inline uint64_t sim_draw(struct sim *s) /* splitmix64 */
{
    uint64_t z = s->random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline uint64_t sim_below(struct sim *s, uint64_t n) { return sim_draw(s) % n; }
static inline bool sim_coin(struct sim *s) { return sim_draw(s) >> 63; }

static inline void *sim_grow(void *list, size_t count, size_t *capacity, size_t item)
{
    if (count < *capacity)
        return list;
    *capacity = *capacity ? 2 * *capacity : 16;
    list = realloc(list, *capacity * item);
    if (!list)
        abort();
    return list;
}

static inline void *sim_take(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);

    if (!p)
        abort();
    return p;
}

static inline uint64_t sim_vector_bytes(const struct iovec *iov, int n)
{
    uint64_t bytes = 0;

    for (int i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* ---- sim_file.c ---- */

extern struct page sim_page_zeros;

struct page *sim_page_ref(struct page *p); /* NULL is allowed */
void sim_page_unref(struct page *p);
void sim_page_set(struct page **slot, struct page *p);
const uint8_t *sim_page_bytes(const struct page *p);
/* A new image of `old` with `len` bytes replaced; one reference. */
struct page *sim_page_patch(const struct page *old, size_t at, const uint8_t *data, size_t len);

void sim_inode_unref(struct inode *i);
/* The inode, to be changed: shared with no other machine. */
struct inode *sim_inode_own(struct sim *s, uint32_t id);
void sim_inode_reach(struct inode *i, size_t slots);
/* Page k looks like this now, and may on the medium. Takes over the reference. */
void sim_inode_put_page(struct sim *s, struct inode *i, size_t k, struct page *page);
void sim_inode_set_size(struct sim *s, struct inode *i, uint64_t size);
bool sim_inode_has_space(struct sim *s, const struct inode *i, size_t k);
/* At most `limit` bytes. -ENOSPC: the bytes before are written. */
int sim_file_write_vectors(struct sim *s, uint32_t id, const struct iovec *iov, int n, uint64_t off,
                           uint64_t limit);
void sim_inode_cut(struct sim *s, struct inode *i, uint64_t size);
void sim_inode_sync(struct inode *i);
/* `durable` becomes what a crash would leave; the events are gone. `late`: the last moment that counts. */
void sim_inode_resolve(struct sim *s, struct inode *i, enum sim_loss loss, uint64_t late);
/* After a crash: `now` becomes the same, and what is beyond the size is gone. */
void sim_inode_settle(struct sim *s, struct inode *i);

/* ---- sim_names.c ---- */

int sim_name_normalise(const char *path, char out[SIM_PATH_MAX]);
bool sim_name_lies_in(const char *path, const char *dir);
/* An inode's id, DIRECTORY or NO_FILE. */
int32_t sim_name_leads_to(struct sim *s, const char *path);
int sim_name_check_parent(struct sim *s, const char *path);
uint32_t sim_name_index(struct sim *s, const char *path);
void sim_file_maybe_released(struct sim *s, int32_t id);
/* One or two names change together. */
void sim_names_change(struct sim *s, unsigned count, const struct name_change *change);
void sim_name_set(struct sim *s, const char *path, int32_t to);
/* `failed`: of the changes some, from the first on, are on the medium; the rest still wait. */
void sim_names_sync(struct sim *s, const char *dir, bool failed);
void sim_names_resolve(struct sim *s, enum sim_loss loss, uint64_t late);
void sim_names_settle(struct sim *s);
void sim_files_drop(struct sim *s); /* inodes that nothing can lead to any more */

#endif
