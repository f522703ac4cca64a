/*
 * faults.c - calls that fail.
 *
 * A store with some history behind it is opened and used while one of its calls fails, each in turn: with
 * EIO, ENOSPC or EINTR, having done nothing, a part, or all of its work; for once, or from then on. Operations
 * may return errors, never wrong data. Then the fault is over, and what must hold is in check_aftermath.
 */
#include "prove.h"

#include "wal.h"

#include <errno.h>
#include <string.h>

#define CALLS_MAX 400u /* of one history: the more the rarer tried */

/* ---- what is common to all disturbances ---- */

/* Takes a copy at some of the calls; the last one stays. */
struct capture {
    struct run *run, *copy;
    struct env *env;
    uint64_t seed;
};

static struct sim_fault capture_hook(void *arg, const struct sim_call *call)
{
    struct capture *c = arg;
    struct sim_fault none = {0};

    if (!call->may_change || seed_mix(c->seed, call->index) % 12)
        return none;
    run_free(c->copy);
    env_sim_free(c->env);
    c->env = env_sim_clone(c->run->env, c->seed);
    c->copy = run_branch(c->run, c->env, 0, c->run->count, c->run->random);
    if (c->run->in_flight)
        run_keep_in_doubt(c->copy, c->run);
    return none;
}

void base_make(struct base *b, uint64_t seed, unsigned steps, enum base_end end)
{
    profile_make(&b->profile, seed);
    b->env = env_sim_new(seed);
    b->run = run_new(&b->profile, b->env, seed);
    run_prepare(b->run);
    struct capture c = {.run = b->run, .seed = seed};
    bool while_opening = end == BASE_KILLED && seed / 4 % 2;
    if (end == BASE_KILLED && !while_opening)
        env_sim_hook(b->env, capture_hook, &c);
    if (!b->run->db)
        run_open(b->run);
    for (unsigned i = 0; i < steps && !proof_failed; i++)
        run_step(b->run);
    run_drop_snapshots(b->run);
    if ((end == BASE_CLOSED || while_opening) && !proof_failed)
        run_close(b->run);
    if (while_opening && !proof_failed) {
        env_sim_hook(b->env, capture_hook, &c);
        run_open(b->run);
    }
    env_sim_hook(b->env, NULL, NULL);
    if (!c.env)
        return;
    base_free(b);
    b->env = c.env;
    b->run = c.copy;
}

void base_free(struct base *b)
{
    run_free(b->run);
    env_sim_free(b->env);
}

struct run *base_branch(const struct base *b, uint64_t seed)
{
    struct env *env = env_sim_clone(b->env, seed);
    struct run *r = run_branch(b->run, env, 0, b->run->count, seed);

    if (b->run->in_doubt)
        run_keep_in_doubt(r, b->run);
    r->errors_allowed = true;
    return r;
}

/* The process starts again; nothing was lost but what a commit that failed may have left. */
void run_open_again(struct run *r)
{
    size_t high = r->count + (r->in_doubt || r->in_flight);

    if (run_open(r))
        return;
    if (!run_settle(r, r->count, high) && !proof_failed)
        run_abandon(r); /* it could not be read: another time */
}

void disturbed_steps(struct run *r, unsigned steps, int expected)
{
    for (unsigned i = 0; i < steps && !proof_failed; i++) {
        size_t mark = proof_enter(", step %u", i);
        if (r->db)
            run_step(r);
        else
            run_open_again(r);
        if (expected && r->last_error && r->last_error != expected)
            proof_fail("%s: %s, which was not the matter", r->op, strerror(-r->last_error));
        if (r->last_error == -EUCLEAN && !r->table_unreadable)
            proof_fail("%s: a call that failed was taken for damage", r->op);
        proof_leave(mark);
    }
}

static void check_works(struct run *r, bool may_be_broken)
{
    run_batch(r, false);
    if (!proof_failed)
        run_sync(r);
    if (!proof_failed)
        run_flush(r);
    r->errors_allowed = may_be_broken;
    if (!proof_failed && run_compact(r) && r->last_error != -EIO)
        proof_fail("compact: %s", strerror(-r->last_error));
    r->errors_allowed = false;
    if (!proof_failed)
        run_check(r);
}

void check_aftermath(struct run *r, bool may_end, bool may_be_broken, uint64_t seed)
{
    size_t mark = proof_enter("; afterwards");

    r->errors_allowed = false;
    if (!proof_failed)
        crash_now(r, (unsigned)(seed % CRASH_WAYS), seed / CRASH_WAYS);
    if (!proof_failed && !r->db)
        run_open_again(r);
    if (!proof_failed)
        run_check(r);
    bool ended = !proof_failed && run_is_read_only(r);
    if (ended && !may_end)
        proof_fail("the store has turned read-only, for no such reason");
    if (ended && !proof_failed) {
        r->errors_allowed = true;
        if (run_batch(r, false) == 0)
            proof_fail("a read-only store takes a batch");
        run_sync(r);
        r->errors_allowed = false;
        run_check(r);
        run_abandon(r);
        run_open_again(r);
    }
    if (!proof_failed)
        check_works(r, may_be_broken && !ended);
    if (!proof_failed)
        run_close(r);
    if (!proof_failed)
        check_durable(r, seed);
    proof_leave(mark);
}

/* ---- calls that fail ---- */

struct plan {
    struct run *run;
    uint64_t from, until; /* numbers of calls */
    struct sim_fault fault;
    bool may_end, reads; /* what was hit */
};

/* Appends to the log do not: a segment was fully written before, which is when it may find no space. */
static bool takes_space(const struct sim_call *call)
{
    bool append = strstr(call->path, ".log") && call->bytes < WAL_SEGMENT_MIN;

    return (call->op == SIM_PWRITEV && !append) || call->op == SIM_ALLOCATE || call->op == SIM_MKDIR ||
           call->op == SIM_RENAME || (call->op == SIM_OPEN && call->may_change);
}

static bool is_table(const char *path) { return strstr(path, ".sst") || strstr(path, ".blob"); }

static struct sim_fault plan_hook(void *arg, const struct sim_call *call)
{
    struct plan *p = arg;
    struct sim_fault none = {0}, fault = p->fault;

    if (call->index < p->from || call->index >= p->until || (fault.error == -ENOSPC && !takes_space(call)))
        return none;
    totals.faults++;
    if (fault.error == -ENOSPC && call->op != SIM_PWRITEV)
        fault.partial = false; /* of names it is known that nothing was changed then */
    p->reads |= !call->may_change;
    p->run->table_unreadable |= !call->may_change && is_table(call->path);
    /* The log, with the values that it names, the manifest and the directory are what everything hangs on; for space
     * one can wait. */
    bool promised = call->op == SIM_SYNC && strstr(call->path, ".blob");
    if (fault.error != -ENOSPC && call->may_change && (promised || !is_table(call->path)))
        p->may_end = true;
    return fault;
}

static struct plan plan_make(uint64_t at, uint64_t seed)
{
    static const int errors[] = {-EIO, -EIO, -ENOSPC, -EINTR};
    uint64_t lengths[] = {1, 1, 5, UINT64_MAX - at};

    return (struct plan){
        .from = at,
        .until = at + lengths[seed / 4 % 4],
        .fault = {.error = errors[seed % 4], .partial = seed / 16 % 2},
    };
}

static void fault_at(const struct base *b, uint64_t at, unsigned steps, uint64_t seed)
{
    struct plan plan = plan_make(at, seed);
    struct run *r = base_branch(b, b->run->random);
    struct env *env = r->env;
    size_t mark = proof_enter("call %llu to %llu: %s%s", (unsigned long long)plan.from,
                              (unsigned long long)plan.until - 1, strerror(-plan.fault.error),
                              plan.fault.partial ? ", in part" : "");

    plan.run = r;
    env_sim_hook(env, plan_hook, &plan);
    disturbed_steps(r, steps, plan.fault.error == -ENOSPC ? -ENOSPC : 0);
    env_sim_hook(env, NULL, NULL);
    check_aftermath(r, plan.may_end, plan.reads, seed / 64);
    run_free(r);
    env_sim_free(env);
    proof_leave(mark);
}

/* How many calls the same steps make if nothing fails. */
static uint64_t count_calls(const struct base *b, unsigned steps)
{
    struct run *r = base_branch(b, b->run->random);
    struct env *env = r->env;

    disturbed_steps(r, steps, 0);
    run_free(r);
    uint64_t calls = env_sim_calls(env);
    env_sim_free(env);
    return calls;
}

void prove_fault(uint64_t seed)
{
    struct base b;
    unsigned steps = 3 + (unsigned)(seed / 8 % 10);

    base_make(&b, seed, (unsigned)(seed / 128 % 60), (enum base_end)(seed % 3));
    uint64_t calls = proof_failed ? 0 : count_calls(&b, steps);
    uint64_t stride = 1 + calls / CALLS_MAX;
    for (uint64_t at = 1 + seed % stride; at <= calls && !proof_failed; at += stride)
        fault_at(&b, at, steps, seed_mix(seed, at));
    base_free(&b);
}
