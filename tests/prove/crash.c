/*
 * crash.c - crashes: before every call that changes the disk (short histories), or some (long ones).
 *
 * The machine is copied at the moment of the crash, from within the env's hook; the copy is killed or
 * loses its power, is opened again and compared; the run itself never notices. What must be found:
 *
 *   killed                all that was acknowledged (P4)
 *   power lost            a prefix of the history that has all that was synced (P3, P2)
 *   then once more        the very same: what recovery showed is durable, even if nothing is written after it
 *   during recovery       the same again; after a kill, a power cut in recovery may still take what was unsynced
 *   gone on with          the history goes on from the state found, with crashes of its own
 */
#include "prove.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILL_BYTES (16u << 10) /* of one write into a new segment: wal_segment.c */
#define FILLS_PASSED 16u       /* a crash before one in so many of them: they are alike */
#define DEPTH_MAX 2u           /* crashes within recoveries within ... */
/* Crashes of a history, after which half as many are tried, then a third...: a compaction makes thousands of calls,
 * and other histories are worth more. */
#define THINNED 300u

struct crash {
    struct run *run;
    uint64_t one_in, seed;
    unsigned depth, tried;
};

static struct sim_fault crash_hook(void *arg, const struct sim_call *call);

static void crash_begin(struct crash *c, struct run *r, uint64_t one_in, uint64_t seed, unsigned depth)
{
    *c = (struct crash){r, one_in, seed, depth, 0};
    env_sim_hook(r->env, crash_hook, c);
}

void check_durable(struct run *r, uint64_t seed)
{
    struct env *image = env_sim_clone(r->env, seed);
    size_t mark = proof_enter("; power cut again");

    totals.power_cuts++;
    env_sim_power_cut(image, SIM_LOSE_ALL);
    struct run *again = run_branch(r, image, 0, 0, seed);
    if (run_open(again) == 0) {
        totals.recoveries++;
        run_settle(again, 0, 0);
    }
    run_free(again);
    env_sim_free(image);
    proof_leave(mark);
}

static void go_on(struct run *r, uint64_t seed, unsigned depth)
{
    struct crash c;
    unsigned steps = (unsigned)(1 + seed % 12);

    crash_begin(&c, r, depth ? 60 : 25, seed, depth + 1);
    for (unsigned i = 0; i < steps && !proof_failed; i++) {
        size_t mark = proof_enter("; went on, step %u", i);
        r->db ? run_step(r) : (void)run_open(r); /* on a full disk closing it may have been all that worked */
        proof_leave(mark);
    }
    env_sim_hook(r->env, NULL, NULL);
    if (!r->db) {
        if (r->deletes_work && r->last_error == -ENOSPC && !proof_failed)
            proof_fail("a full disk keeps the store from being opened");
        return;
    }
    if (!proof_failed)
        run_check(r);
    if (!proof_failed && seed % 3 == 0) {
        size_t mark = proof_enter("; closed");
        run_close(r);
        if (!proof_failed)
            check_durable(r, seed);
        proof_leave(mark);
    }
}

/*
 * Recovery of `image`, which has just come to what `found` is, is itself interrupted. After a power cut it must come to the
 * very same, also if that was an operation done in part; after a kill a power cut may take what was unsynced.
 */
static void interrupt(const struct run *found, struct env *image, const struct run *from, bool killed,
                      uint64_t seed, unsigned depth)
{
    struct run *r = killed ? run_branch(from, image, 0, (size_t)(found->base - from->base), seed)
                           : run_branch(found, image, found->count, found->count, seed);
    struct crash c;
    size_t mark = proof_enter("; recovery");

    crash_begin(&c, r, 1 + seed % 9, seed, depth + 1);
    if (run_open(r) == 0) {
        env_sim_hook(image, NULL, NULL);
        run_settle(r, r->count, r->count);
    }
    run_free(r);
    proof_leave(mark);
}

/* `image` has crashed. It must hold one of the states low .. high of `from`. */
static void recover(const struct run *from, struct env *image, size_t low, size_t high, bool killed,
                    uint64_t seed, unsigned depth)
{
    struct env *second = depth < DEPTH_MAX && seed % 4 == 0 ? env_sim_clone(image, seed) : NULL;
    struct run *r = run_branch(from, image, 0, high, seed);

    totals.recoveries++;
    bool right = run_open(r) == 0 && run_settle(r, low, high);
    r->errors_allowed = r->deletes_work = from->deletes_work; /* the disk is still full */
    if (right && second)
        interrupt(r, second, from, killed, seed / 256, depth);
    if (right && !proof_failed && seed / 4 % 4 == 0)
        check_durable(r, seed);
    if (right && !proof_failed && depth < DEPTH_MAX && seed / 16 % 3 == 0)
        go_on(r, seed / 64, depth);
    run_free(r);
    env_sim_free(second);
}

static void crash_once(struct run *r, const struct sim_call *call, unsigned way, uint64_t seed,
                       unsigned depth)
{
    static const char *const losses[SIM_LOSSES] = {"nothing", "all", "late", "some", "any", "mixed"};
    struct env *image = env_sim_clone(r->env, seed);
    size_t high = r->count + (r->in_flight || r->in_doubt), low = 0, mark;
    bool killed = way == 0;

    if (call && seed % 2)
        env_sim_begin(image, call);
    if (killed) {
        mark = proof_enter(", killed");
        totals.kills++;
        low = r->count;
        if (env_sim_disagrees(image) &&
            seed / 2 % 2) { /* a sync has failed, and the kernel may forget the pages */
            env_sim_evict(image);
            low = 0;
        }
    } else {
        enum sim_loss loss = way == 1   ? SIM_LOSE_ALL
                             : way == 2 ? SIM_LOSE_LATE
                                        : (enum sim_loss)(seed / 2 % SIM_LOSSES);
        mark = proof_enter(", power cut, lost: %s", losses[loss]);
        totals.power_cuts++;
        env_sim_power_cut(image, loss);
    }
    recover(r, image, low, high, killed, seed / 16, depth);
    env_sim_free(image);
    proof_leave(mark);
}

/* One of the many equal writes that fill a new segment of the log. */
static bool is_filling(const struct sim_call *call)
{
    return call->op == SIM_PWRITEV && call->bytes == FILL_BYTES && call->offset &&
           call->offset % FILL_BYTES == 0;
}

static struct sim_fault crash_hook(void *arg, const struct sim_call *call)
{
    struct crash *c = arg;
    struct sim_fault none = {0};
    uint64_t seed = seed_mix(c->seed, call->index);

    if (proof_failed || !call->may_change || seed % (c->one_in * (1 + c->tried / THINNED)))
        return none;
    if (is_filling(call) && seed / c->one_in % FILLS_PASSED)
        return none;
    c->tried++;
    seed = seed_mix(seed, 1);
    size_t mark = proof_enter("; before call %llu (%s %s)", (unsigned long long)call->index,
                              env_sim_op_name(call->op), call->path);
    unsigned ways = c->depth ? 1 : 3, doing = run_suspend();
    for (unsigned i = 0; i < ways && !proof_failed; i++) {
        unsigned way = c->depth ? (unsigned)(seed % 4) : i < 2 ? i * (unsigned)(1 + seed % 2) : 3;
        crash_once(c->run, call, way, seed_mix(seed, i + 2), c->depth);
    }
    run_resume(doing);
    proof_leave(mark);
    return none;
}

struct crash *crash_at(struct run *r, uint64_t one_in, uint64_t seed)
{
    struct crash *c = malloc(sizeof *c);

    if (!c)
        abort();
    crash_begin(c, r, one_in, seed, 0);
    return c;
}

void crash_stop(struct crash *c)
{
    env_sim_hook(c->run->env, NULL, NULL);
    free(c);
}

void crash_now(struct run *r, unsigned way, uint64_t seed) { crash_once(r, NULL, way, seed, 1); }

/* ---- the provers ---- */

static void history(uint64_t seed, unsigned steps, uint64_t one_in)
{
    struct profile profile;
    struct env *env = env_sim_new(seed);

    profile_make(&profile, seed);
    if (profile.cold && one_in > 1)
        one_in *= 4; /* much log to read again each time */
    struct run *r = run_new(&profile, env, seed);
    run_prepare(r);
    struct crash *c = crash_at(r, one_in, seed);
    if (!r->db)
        run_open(r);
    for (unsigned i = 0; i < steps && !proof_failed; i++) {
        size_t mark = proof_enter("step %u", i);
        run_step(r);
        proof_leave(mark);
    }
    if (!proof_failed)
        run_check(r);
    if (!proof_failed)
        run_close(r);
    crash_stop(c);
    run_free(r);
    env_sim_free(env);
}

void prove_short(uint64_t seed) { history(seed, 3 + (unsigned)(seed % proof_short_steps), 1); }
void prove_long(uint64_t seed) { history(seed, 100 + (unsigned)(seed % 500), 50); }
