/*
 * view.c - publishing and reading a shard's view. See db.h for the rules.
 *
 * RCU protects nothing but the moment between loading the pointer and taking the reference, and the counting by
 * thread: after the grace period that follows the retirement of a view nobody does either with it any more. The
 * pointer is stored and loaded with C atomics, so that sanitizers understand it; liburcu (the
 * "bulletproof" flavour, which needs no registration of threads that are not ours) provides the
 * grace period after which a replaced view loses the reference that its publication held.
 */
#include "db.h"
#include "mutant.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include <urcu/urcu-bp.h>

static struct view *view_new(struct shard *s, size_t sealed_count)
{
    struct view *v = calloc(1, sizeof *v + sealed_count * sizeof v->sealed[0]);
    if (!v)
        return NULL;
    v->refs = VIEW_PUBLISHED;
    v->shard = s;
    v->sealed_count = sealed_count;
    return v;
}

static void view_free(struct view *v)
{
    if (v->active)
        memtable_unref(v->active);
    for (size_t i = 0; i < v->sealed_count; i++)
        memtable_unref(v->sealed[i]);
    if (v->version)
        version_unref(v->version);
    free(v);
}

/* Inside of a read-side section; the slot was taken outside, which may take a lock. False: not by thread any more. */
static bool count_by_thread(struct view *v, unsigned slot, uint64_t n)
{
    if (__atomic_load_n(&v->retired, __ATOMIC_RELAXED))
        return false;
    slot_add(&v->slot[slot].refs, slot, n);
    return true;
}

static void drop(struct view *v, uint64_t n)
{
    uint64_t before = __atomic_fetch_sub(&v->refs, n, __ATOMIC_ACQ_REL);
    assert(before >= n);
    if (before == n)
        view_free(v);
}

void view_unref(struct view *v)
{
    unsigned slot = slot_mine();
    urcu_bp_read_lock();
    bool done = count_by_thread(v, slot, (uint64_t)-1);
    urcu_bp_read_unlock();
    if (!done)
        drop(v, 1);
}

/* Inside of a read-side section. */
static void take_ref(struct view *v, unsigned slot)
{
    if (!count_by_thread(v, slot, 1))
        __atomic_fetch_add(&v->refs, 1, __ATOMIC_RELAXED);
}

struct view *view_ref(struct view *v)
{
    unsigned slot = slot_mine();
    urcu_bp_read_lock();
    take_ref(v, slot);
    urcu_bp_read_unlock();
    return v;
}

struct view *view_get(struct shard *s)
{
    unsigned slot = slot_mine();
    urcu_bp_read_lock();
    struct view *v = __atomic_load_n(&s->view, __ATOMIC_ACQUIRE);
    take_ref(v, slot);
    urcu_bp_read_unlock();
    return v;
}

/* A grace period after it was replaced: what the threads have counted, in place of what being published counted. */
static void view_drop_published(struct view *v)
{
    uint64_t sum = 0;
    assert(__atomic_load_n(&v->retired, __ATOMIC_RELAXED));
    for (unsigned i = 0; i < SLOT_COUNT; i++)
        sum += slot_get(&v->slot[i].refs);
    assert(sum < VIEW_PUBLISHED);
    drop(v, VIEW_PUBLISHED - sum);
}

struct view *view_get_now(struct shard *s, uint64_t *seq)
{
    for (;;) {
        struct view *v = view_get(s);
        *seq = db_frontier(s->db) - 1;
        /* Still the current one: all that is below the frontier was inserted into what v holds. */
        if (__atomic_load_n(&s->view, __ATOMIC_ACQUIRE) == v)
            return v;
        view_unref(v);
    }
}

/* Replaces the published view, under the shard lock; returns the old one, to be retired without it. */
static struct view *publish(struct shard *s, struct view *v)
{
    struct view *old = s->view;
    __atomic_store_n(&s->view, v, __ATOMIC_RELEASE);
    if (old)
        __atomic_store_n(&old->retired, true, __ATOMIC_RELEASE);
    if (v)
        stall_shape(s, v->version->levels[0].count, v->sealed_count);
    return old;
}

void view_retire(struct view *old)
{
    if (!old)
        return;
    urcu_bp_synchronize_rcu();
    view_drop_published(old);
}

int view_init(struct shard *s, size_t arena_bytes, struct version *version)
{
    struct view *v = view_new(s, 0);
    if (!v)
        return -ENOMEM;
    int err = memtable_new(arena_bytes, s->db->options.merge, s->db->options.callback_arg, &v->active);
    if (err) {
        view_free(v);
        return err;
    }
    memtable_set_born_s(v->active, env_wall_ns(s->db->env) / 1000000000u);
    memtable_set_block_bytes(v->active, s->db->options.block_bytes);
    version_ref(version);
    v->version = version;
    publish(s, v);
    return 0;
}

void view_retire_later(struct view *old)
{
    struct shard *s = old->shard;
    if (db_inline(s->db)) {
        view_retire(old);
        return;
    }
    pthread_mutex_lock(&s->work_lock);
    old->retired_next = s->retired;
    s->retired = old;
    pthread_mutex_unlock(&s->work_lock);
}

static void unref_list(struct view *v)
{
    while (v) {
        struct view *next = v->retired_next;
        view_drop_published(v);
        v = next;
    }
}

void view_retire_waiting(struct shard *s)
{
    pthread_mutex_lock(&s->work_lock);
    struct view *list = s->retired;
    s->retired = NULL;
    pthread_mutex_unlock(&s->work_lock);
    if (!list)
        return;
    urcu_bp_synchronize_rcu();
    unref_list(list);
}

void view_destroy(struct shard *s)
{
    unref_list(s->retired);
    s->retired = NULL;
    struct view *last = publish(s, NULL);
    if (last)
        view_drop_published(last);
}

int view_rotate(struct shard *s, size_t arena_bytes, struct view **retired)
{
    struct view *old = s->view;
    /* An empty one (too small for the batch to come) has nothing to flush and no LSN that would pin the log. */
    size_t sealing = !memtable_is_empty(old->active) || mutant("an empty memtable is sealed");
    struct view *v = view_new(s, old->sealed_count + sealing);
    if (!v)
        return -ENOMEM;
    int err = memtable_new(arena_bytes, s->db->options.merge, s->db->options.callback_arg, &v->active);
    if (err) {
        free(v); /* its sealed ones are not filled in yet */
        return err;
    }
    memtable_set_born_s(v->active, env_wall_ns(s->db->env) / 1000000000u);
    memtable_set_block_bytes(v->active, s->db->options.block_bytes);
    if (sealing) {
        memtable_set_state(old->active, MEMTABLE_SEALED);
        memtable_ref(old->active);
        v->sealed[0] = old->active;
    }
    for (size_t i = 0; i < old->sealed_count; i++) {
        memtable_ref(old->sealed[i]);
        v->sealed[i + sealing] = old->sealed[i];
    }
    version_ref(old->version);
    v->version = old->version;
    *retired = publish(s, v);
    return 0;
}

/*
 * Room for any view that may be current when it is installed: between now and then writers may
 * seal more memtables, but never more than SEALED_MAX (a replay may have left more than that).
 */
struct view *view_spare(struct shard *s)
{
    struct view *v = view_get(s);
    size_t count = v->sealed_count + SEALED_MAX;
    view_unref(v);
    return view_new(s, count);
}

void view_install(struct shard *s, struct view *spare, struct version *version, struct memtable *flushed)
{
    pthread_mutex_lock(&s->lock);
    struct view *old = s->view;
    size_t keep = old->sealed_count;
    if (flushed) {
        assert(keep > 0 && old->sealed[keep - 1] == flushed);
        keep--;
    }
    assert(keep <= spare->sealed_count);
    spare->sealed_count = keep;
    for (size_t i = 0; i < keep; i++) {
        memtable_ref(old->sealed[i]);
        spare->sealed[i] = old->sealed[i];
    }
    memtable_ref(old->active);
    spare->active = old->active;
    version_ref(version);
    spare->version = version;
    publish(s, spare);
    pthread_mutex_unlock(&s->lock);
    view_retire(old);
}
