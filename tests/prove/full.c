/*
 * full.c - promise 7: a full disk, and what must work on it all the same.
 *
 * Somebody else fills the disk up to a few kilobytes or megabytes, at any moment of a store's life. From then
 * on what grows the store may get -ENOSPC, and must while it would take what is set aside. Deletes, opening the
 * store, and reading must work: the reserve was whole when it began. In the end all is deleted: the space must come
 * back, and growing must work, with the disk as small as it is. If the reserve was not there, as in a store that was
 * killed before it had one, only what holds for every fault is demanded.
 *
 * Of the filesystem's calls those count as deletes that it commits with LSM_SHRINK: unlink, rmdir, rename (but for
 * whiteouts), setattr with truncate to any size, removexattr; punching holes is not judged.
 */
#include "prove.h"

#include "space.h"
#include "wal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLACK_BYTES (INT64_C(1) << 20) /* by how much the engine's estimate may be wrong, and one batch */
#define GROW_BYTES \
    (INT64_C(1536) << 10) /* what must be free for the next batch: the engine's own slack, and the batch */

static int64_t headroom(struct run *r, struct lsm_stats *st)
{
    uint64_t free_bytes, total_bytes;

    if (env_space(r->env, STORE, &free_bytes, &total_bytes))
        abort();
    lsm_stats_get(r->db, st);
    return (int64_t)(free_bytes + st->reserve_bytes) -
           (int64_t)(st->reserve_target_bytes + st->space_debt_bytes);
}

static uint64_t batches(const struct run *r)
{
    struct lsm_stats st;

    if (!r->db)
        return 0;
    lsm_stats_get(r->db, &st);
    return st.batches;
}

/* Was the last step a change that can't do without space, and that is stored? */
static bool grew(const struct run *r, uint64_t before)
{
    static const char *const ops[] = {
        "commit", "commit with sync", "create",  "mkdir", "symlink", "mknod", "link",
        "write",  "append",           "setxattr"};
    bool grows = false;

    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        grows |= !strcmp(r->op, ops[i]);
    return grows && !r->last_error && batches(r) > before;
}

/* As disturbed_steps, with -ENOSPC; crashes in between; and the gate is watched. */
static void full_steps(struct run *r, unsigned steps, bool reserved, uint64_t seed)
{
    struct lsm_stats st;

    for (unsigned i = 0; i < steps && !proof_failed; i++) {
        bool open = r->db != NULL;
        int64_t before = open ? headroom(r, &st) : 0;
        uint64_t before_batches = batches(r);
        disturbed_steps(r, 1, -ENOSPC);
        if (grew(r, before_batches) && open && before < -SLACK_BYTES)
            proof_fail("a change grows the store by what is set aside: %lld bytes", (long long)before);
        if (!r->db && reserved && r->last_error == -ENOSPC && !strcmp(r->op, "open"))
            proof_fail("a full disk keeps the store from being opened");
        if (!proof_failed && reserved && r->db && seed_mix(seed, i) % 16 == 0)
            crash_now(r, (unsigned)(seed_mix(seed, i) / 16 % CRASH_WAYS), seed_mix(seed, i + 1));
    }
}

/* All is deleted: what was taken comes back, and growing works, if the disk is not just too small. */
static void empty_and_grow(struct run *r)
{
    struct lsm_stats st;
    size_t mark = proof_enter("; emptied");

    run_drop_snapshots(r);
    r->errors_allowed = false;
    run_drop_names(r);
    if (!proof_failed)
        run_delete_all(r);
    if (!proof_failed)
        run_compact(r);
    if (!proof_failed)
        run_check(r);
    for (unsigned i = 0; i < 100 && !proof_failed && lsm_work(r->db) > 0; i++)
        ;
    int64_t left = headroom(r, &st);
    if (left < GROW_BYTES)
        totals.full_small++;
    else if (!proof_failed)
        run_grow(r);
    if (left >= GROW_BYTES && !proof_failed && st.reserve_bytes < st.reserve_target_bytes)
        proof_fail("the reserve was not taken again: %llu of %llu bytes",
                   (unsigned long long)st.reserve_bytes, (unsigned long long)st.reserve_target_bytes);
    uint64_t live = 0;
    for (unsigned s = 0; s < st.shards; s++)
        for (unsigned l = 0; l < LSM_LEVELS; l++)
            live += st.shard[s].bytes[l];
    if (live > (64u << 10)) /* the counters, and what they weigh in tables */
        proof_fail("everything is deleted and compacted, and %llu bytes of tables are left",
                   (unsigned long long)live);
    r->errors_allowed = true;
    proof_leave(mark);
}

/* Somebody made room: growing works at once, and the reserve is made whole. */
static void check_released(struct run *r)
{
    struct lsm_stats st;
    size_t mark = proof_enter("; there is space again");

    r->errors_allowed = false;
    run_grow(r);
    if (!proof_failed)
        run_flush(r);
    (void)headroom(r, &st);
    if (!proof_failed && st.reserve_bytes < st.reserve_target_bytes)
        proof_fail("the reserve was not taken again: %llu of %llu bytes",
                   (unsigned long long)st.reserve_bytes, (unsigned long long)st.reserve_target_bytes);
    r->errors_allowed = true;
    proof_leave(mark);
}

/* The disk is about to be filled: is the reserve there? */
static bool is_reserved(struct env *env)
{
    struct env_file *f;
    uint64_t size = 0;

    if (env_open(env, STORE "/RESERVE", ENV_READ, &f))
        return false;
    if (env_size(f, &size))
        abort();
    env_close(f);
    return size >= WAL_SEGMENT_MIN + SPACE_MANIFEST_BYTES + SPACE_SMALL_BYTES;
}

static void fill_and_release(const struct base *b, uint64_t seed)
{
    struct run *r = base_branch(b, seed);
    struct env *env = r->env;
    static const uint64_t spares[] = {8u << 10, 96u << 10, 4u << 20};
    uint64_t spare = seed / 16 % spares[seed / 4 % 3];
    size_t mark = proof_enter("%llu bytes free", (unsigned long long)spare);
    bool reserved = is_reserved(env) && run_is_made(r);

    totals.full_disks++;
    totals.full_unreserved += !reserved;
    r->deletes_work = reserved;
    env_sim_capacity(env, env_sim_used(env) + spare);
    full_steps(r, 10 + (unsigned)(seed % 50), reserved, seed);
    if (!proof_failed && reserved && !r->db)
        run_open_again(r);
    if (!proof_failed && reserved && r->db)
        empty_and_grow(r);
    env_sim_capacity(env, UINT64_C(1) << 40);
    r->deletes_work = false;
    if (r->db && !proof_failed)
        check_released(r);
    if (r->db && seed % 4 == 0) /* as good without the process going on */
        run_abandon(r);
    check_aftermath(r, false, false, seed / 64);
    run_free(r);
    env_sim_free(env);
    proof_leave(mark);
}

void prove_full(uint64_t seed)
{
    struct base b;

    base_make(&b, seed, (unsigned)(seed / 128 % 100), (enum base_end)(seed % 3));
    for (unsigned i = 0; i < 8 && !proof_failed; i++)
        fill_and_release(&b, seed_mix(seed, i));
    base_free(&b);
}
