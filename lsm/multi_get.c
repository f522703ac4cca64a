/*
 * multi_get.c - many point reads at once.
 *
 * In rounds: each key is looked up as far as memory goes, without waiting, and says which block it misses; all those
 * blocks are read in one submission (table_fetch); then the keys that are not done begin anew. A round brings every key
 * a block further: with a warm cache of filters and indexes, two rounds do it. What a round has read is kept until
 * the next one is over. A key that has not got there after ROUNDS_MAX rounds (the cache is far too small), or whose block
 * can't be read, is read alone, as lsm_get does, which finds out what is wrong with it.
 *
 * All keys see one moment: the views are taken first, the frontier after them.
 */
#include "db.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GROUP 64u      /* keys in flight; each misses one block a round */
#define ROUNDS_MAX 16u /* filter, index and data of a few levels */

struct multi {
    struct lsm *db;
    struct view *views[SHARDS_MAX]; /* of the shards that are asked */
    uint64_t seq;
    unsigned flags;
    struct table_wants wants;
    struct cache_block *kept[TABLE_WANTS_MAX], *got[TABLE_WANTS_MAX];
    unsigned kept_count;
};

static void release_kept(struct multi *m)
{
    for (unsigned i = 0; i < m->kept_count; i++)
        if (m->kept[i])
            cache_release(m->db->cache, m->kept[i]);
    m->kept_count = 0;
}

static int get_one(struct multi *m, const struct lsm_key *k, unsigned flags, struct lsm_value *out)
{
    struct view *v = m->views[db_route(m->db, k->data, k->len)];
    *out = (struct lsm_value){0};
    return get_in_view(m->db, view_ref(v), k->data, k->len, m->seq, flags, out);
}

/* Looks up what is not done (-EAGAIN), and how many that leaves. */
static size_t round_of(struct multi *m, const struct lsm_key *keys, size_t n, unsigned flags,
                       struct lsm_value *values, int *results)
{
    size_t left = 0;
    for (size_t i = 0; i < n; i++) {
        if (results[i] == -EAGAIN)
            results[i] = get_one(m, &keys[i], flags, &values[i]);
        left += results[i] == -EAGAIN;
    }
    return left;
}

static void get_group(struct multi *m, const struct lsm_key *keys, size_t n, struct lsm_value *values,
                      int *results)
{
    bool all_read = true;
    size_t left = n;
    for (size_t i = 0; i < n; i++)
        results[i] = -EAGAIN;
    if (m->flags & (LSM_NOWAIT | LSM_NOFILL)) { /* what may not stay in the cache can't be fetched into it */
        round_of(m, keys, n, m->flags, values, results);
        return;
    }
    table_note_in(&m->wants);
    for (unsigned round = 0; left > 0 && all_read && round < ROUNDS_MAX; round++) {
        left = round_of(m, keys, n, m->flags | LSM_NOWAIT | TABLE_NOTE, values, results);
        release_kept(m);
        unsigned wanted = m->wants.count;
        table_fetch(m->db->env, &m->wants, m->got);
        memcpy(m->kept, m->got, wanted * sizeof m->kept[0]);
        m->kept_count = wanted;
        all_read = wanted > 0;
        for (unsigned i = 0; i < wanted; i++)
            all_read &= m->kept[i] != NULL;
    }
    table_note_in(NULL);
    round_of(m, keys, n, m->flags, values, results);
    release_kept(m);
}

static void release_views(struct multi *m)
{
    for (unsigned i = 0; i < m->db->shard_count; i++) {
        if (m->views[i])
            view_unref(m->views[i]);
        m->views[i] = NULL;
    }
}

/* So the views know every blob file that an entry below the frontier names. */
static bool are_current(const struct multi *m)
{
    for (unsigned i = 0; i < m->db->shard_count; i++)
        if (m->views[i] && __atomic_load_n(&m->db->shards[i].view, __ATOMIC_ACQUIRE) != m->views[i])
            return false;
    return true;
}

int lsm_multi_get(struct lsm *db, const struct lsm_key *keys, size_t count,
                  const struct lsm_snapshot *snapshot, unsigned flags, struct lsm_value *values, int *results)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = (struct lsm_value){0};
        results[i] = -ENOMEM;
    }
    struct multi *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    m->db = db;
    m->flags = flags;
    do {
        release_views(m);
        for (size_t i = 0; i < count; i++) {
            unsigned s = db_route(db, keys[i].data, keys[i].len);
            if (!m->views[s])
                m->views[s] = view_get(&db->shards[s]);
        }
        m->seq = snapshot ? snapshot->seq : db_frontier(db) - 1;
    } while (!are_current(m));
    for (size_t at = 0; at < count; at += GROUP)
        get_group(m, keys + at, count - at < GROUP ? count - at : GROUP, values + at, results + at);
    int err = 0;
    uint64_t done = 0, found = 0;
    for (size_t i = 0; i < count; i++) {
        done += results[i] != -EAGAIN;
        found += results[i] == 0;
        if (!err && results[i] && results[i] != -ENOENT)
            err = results[i];
    }
    DB_COUNT(db, gets, done);
    DB_COUNT(db, gets_found, found);
    release_views(m);
    free(m);
    return err;
}
