/*
 * fs_history.c - histories of the filesystem: see history.h.
 *
 * The wall clock stands still during an operation, so the model knows every time. After a crash the whole tree is
 * read and must be one of the model's moments, in every name, type, byte, attribute, time, link count and inode
 * number. Then fs_check must agree, on the crashed machine as it is and on the recovered one.
 */
#include "fs_history.h"

#include "check.h"
#include "fs_seen.h"
#include "nowait.h"
#include "store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_WALL_NS UINT64_C(1700000000000000000)
#define SECOND_NS UINT64_C(1000000000)
#define WORK_STEPS_MAX 10000u
#define STEPS_BEFORE 60u

/* ---- profiles ---- */

void profile_make(struct profile *p, uint64_t seed)
{
    struct run draws = {.random = seed_mix(seed, 78)};
    struct run *r = &draws;

    *p = (struct profile){
        .options =
            {
                .flags = LSM_CREATE | LSM_INLINE,
                .shards = (unsigned)(1 + run_below(r, 4)),
                .memory_bytes = 8u << 20,
                .write_buffer_bytes = (8u << 10) << run_below(r, 4),
                .table_bytes = (8u << 10) << run_below(r, 3),
                .block_bytes = (size_t)512 << run_below(r, 3),
                .log_segment_bytes = 1u << 20,
                .log_budget_bytes = (256u << 10) << (2 * run_below(r, 3)),
                .level_ratio = (unsigned)(2 + run_below(r, 3)),
                .commit_ms = 20,
                .log = proof_log,
                .blob_min_bytes = run_one_in(r, 4) ? LSM_BLOB_NEVER : (size_t)512 << run_below(r, 7),
                .blob_file_bytes = (16u << 10) << run_below(r, 6),
            },
        .hash_bits = run_one_in(r, 3) ? 2 : 0,
        .relatime = run_one_in(r, 3),
        .scattered = run_one_in(r, 3),
    };
}

static struct fs_options options_of(const struct run *r, struct env *env)
{
    struct fs_options o = {.lsm = r->profile->options,
                           .noatime = !r->profile->relatime,
                           .test_hash_bits = r->profile->hash_bits};

    o.lsm.env = env;
    return o;
}

/* ---- states ---- */

static struct model *state_at(struct run *r, size_t i)
{
    if (i >= r->capacity) {
        size_t old = r->capacity;
        r->capacity = 2 * i + 8;
        r->states = proof_memory(r->states, r->capacity * sizeof *r->states);
        memset(r->states + old, 0, (r->capacity - old) * sizeof *r->states);
    }
    return &r->states[i];
}

/* Takes over the reference. */
static void state_set(struct run *r, size_t i, struct tree *t)
{
    struct model *m = state_at(r, i);

    tree_unref(m->tree);
    m->tree = t;
}

static struct run *run_bare(const struct profile *profile, struct env *env, uint64_t seed)
{
    struct run *r = proof_memory(NULL, sizeof *r);

    r->own = proof_memory(NULL, sizeof *r->own);
    r->profile = profile;
    r->env = env;
    r->random = seed;
    r->op = "open";
    r->own->wall_ns = FIRST_WALL_NS;
    return r;
}

static struct timespec time_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / SECOND_NS), (long)(ns % SECOND_NS)};
}

struct run *run_new(const struct profile *profile, struct env *env, uint64_t seed)
{
    struct run *r = run_bare(profile, env, seed);

    state_set(r, 0, tree_new(geteuid(), getegid(), time_of(FIRST_WALL_NS)));
    return r;
}

struct run *run_branch(const struct run *from, struct env *env, size_t low, size_t high, uint64_t seed)
{
    struct run *r = run_bare(from->profile, env, seed);

    r->base = from->base + low;
    r->count = high - low;
    r->own->wall_ns = from->own->wall_ns;
    if (high == from->count + 1)
        r->own->part = from->own->part;
    for (size_t i = 0; i <= r->count; i++)
        state_set(r, i, tree_ref(from->states[low + i].tree));
    for (size_t i = 1; i <= r->count; i++)
        r->states[i].part = from->states[low + i].part;
    if (high == from->count + 1) /* it is under way there, and has come to an end, however far, here */
        r->states[r->count].part = from->own->part;
    return r;
}

void run_keep_in_doubt(struct run *r, const struct run *from)
{
    state_set(r, r->count + 1, tree_ref(from->states[from->count + 1].tree));
    r->own->part = from->own->part;
    r->in_doubt = true;
}

struct tree *run_tree_own(struct run *r)
{
    struct tree *t = run_tree(r);

    if (t->refs > 1) {
        t = tree_copy(t);
        state_set(r, r->count, t);
    }
    return t;
}

static void swap_states(struct run *r, size_t i, size_t j)
{
    struct model m = *state_at(r, i);

    r->states[i] = *state_at(r, j);
    r->states[j] = m;
}

/* The first n changes are on the medium, if not more. */
static void synced_to(struct run *r, size_t n)
{
    size_t last = r->count + (r->in_flight || r->in_doubt);

    for (size_t i = 0; n > 0 && n + i <= last; i++)
        swap_states(r, i, n + i);
    r->base += n;
    r->count -= n;
}

void run_synced(struct run *r) { synced_to(r, r->count); }

int run_failed(struct run *r, int err)
{
    r->last_error = err;
    if (err && !r->errors_allowed)
        proof_fail("%s: %s", r->op, strerror(-err));
    return err;
}

static bool read_failed(struct run *r, const char *what, int err)
{
    if (!r->errors_allowed)
        proof_fail("%s: %s", what, strerror(-err));
    return r->errors_allowed;
}

/* ---- opening and closing ---- */

static void on_problem(void *arg, const struct fs_problem *p)
{
    char *text = arg;

    if (!text[0])
        (void)snprintf(text, 200, "%.60s (%llx): %.100s", p->path ? p->path : "?", (unsigned long long)p->id,
                       p->what);
}

static void fsck(struct run *r, bool counts, bool settled)
{
    struct env *image = env_sim_clone(r->env, run_draw(r));
    struct fs_options o = options_of(r, image);
    struct fs_checked found = {0};
    uint64_t directories, names;
    char text[200] = "";

    int err = fs_check(STORE, &o, on_problem, text, &found);
    if (err)
        proof_fail("fs_check: %s", strerror(-err));
    else if (found.problems)
        proof_fail("fs_check finds %llu problems: %s", (unsigned long long)found.problems, text);
    tree_count(run_tree(r), &directories, &names);
    if (counts && !proof_failed && (found.directories != directories || found.files != names))
        proof_fail("fs_check counts %llu directories and %llu names of files; there are %llu and %llu",
                   (unsigned long long)found.directories, (unsigned long long)found.files,
                   (unsigned long long)directories, (unsigned long long)names);
    if (settled && !proof_failed && found.orphans)
        proof_fail("%llu deleted files are left for ever", (unsigned long long)found.orphans);
    totals.checks++;
    env_sim_free(image);
}

void run_fsck(struct run *r, bool settled)
{
    if (!r->errors_allowed && !proof_failed)
        fsck(r, true, settled);
}

int run_open(struct run *r)
{
    struct fs_options o = options_of(r, r->env);

    r->op = "open";
    if (r->base > 0 && !r->errors_allowed && run_one_in(r, 8))
        fsck(r, false, false);
    env_sim_wall(r->env, r->base + r->count ? r->own->wall_ns : FIRST_WALL_NS);
    memset(r->own->held, 0, sizeof r->own->held);
    int err = fs_open(STORE, &o, &r->own->fs);
    r->db = err ? NULL : fs_lsm(r->own->fs);
    if (!err)
        tree_forget(run_tree_own(r), NULL);
    return run_failed(r, err);
}

void run_drop_snapshots(struct run *r) { (void)r; }

int run_drop_names(struct run *r) { return (void)r, 0; }

void run_abandon(struct run *r)
{
    (void)fs_close(r->own->fs);
    r->db = NULL;
}

void run_free(struct run *r)
{
    if (!r)
        return;
    if (r->db)
        run_abandon(r);
    for (size_t i = 0; i < r->capacity; i++)
        tree_unref(r->states[i].tree);
    free(r->states);
    free(r->own);
    free(r);
}

int run_close(struct run *r)
{
    if (!r->errors_allowed && !r->table_unreadable && run_one_in(r, 3))
        run_reap(r); /* whatever failed before: what was deleted goes without a remount */
    r->op = "close";
    int err = fs_close(r->own->fs);
    r->db = NULL;
    if (!err && r->sync_lost && r->count > 0)
        proof_fail("close succeeds after a sync of the same data failed");
    if (!err)
        run_synced(r);
    return run_failed(r, err);
}

/* ---- comparing ---- */

/* A change that came as far as `seen` shows, if it can be that. */
static struct tree *partly(const struct part *p, const struct tree *before, const struct tree *seen)
{
    const struct bytes *old = before->node[p->node]->content, *now;
    unsigned dir, name;

    if (!old || !tree_place(before, p->node, &dir, &name))
        return NULL;
    for (unsigned i = 0; i < TREE_NODES; i++) {
        if (!seen->node[i] || seen->node[i]->attr.id != before->node[p->node]->attr.id)
            continue;
        now = seen->node[i]->content;
        uint64_t to = p->off, end = p->end < old->len ? p->end : old->len;
        while (now && now->len == old->len && to < end && now->at[to] == 0)
            to++;
        struct tree *t = tree_copy(before);
        tree_punch(t, p->node, p->off, to, p->now);
        return t;
    }
    return NULL;
}

/* Is it that; or, if it is of several batches (the last one: may not have been finished), that in part? */
static bool is_state(struct run *r, size_t i, bool unfinished, struct tree *seen)
{
    if (tree_digest(r->states[i].tree) == tree_digest(seen))
        return true;
    const struct part *p = unfinished && r->own->part.possible ? &r->own->part : &r->states[i].part;
    if (i == 0 || !p->possible)
        return false;
    struct tree *t = partly(p, r->states[i - 1].tree, seen);
    if (t && tree_digest(t) == tree_digest(seen)) {
        state_set(r, i, t);
        return true;
    }
    tree_unref(t);
    return false;
}

/* Deleted files that are open must be as in t. 1: they are, 0: one is not, and why; else an error. */
static int ghosts_are(struct run *r, const struct tree *t, const char **what)
{
    bool noatime = r->own->fs->noatime;
    int same = 1;

    r->own->fs->noatime = true;
    for (unsigned i = 1; i < TREE_NODES && same > 0; i++) {
        struct node n;
        if (!t->node[i] || t->node[i]->attr.nlink > 0 || !r->own->held[i])
            continue;
        same = seen_node(r->own->fs, t->node[i]->attr.id, &n);
        if (same == 0)
            same = node_same(t->node[i], &n, what);
        seen_release(&n);
    }
    r->own->fs->noatime = noatime;
    return same;
}

static bool compare_ghosts(struct run *r)
{
    const char *what = "";
    int same = ghosts_are(r, run_tree(r), &what);

    if (same < 0)
        return read_failed(r, "reading a deleted file that is open", same);
    if (!same)
        proof_fail("a deleted file that is open has a wrong %s", what);
    return same;
}

static bool compare(struct run *r)
{
    struct tree *seen;
    char text[300];

    int err = seen_tree(r->own->fs, &seen);
    if (err)
        return read_failed(r, "reading the tree", err);
    bool right = tree_digest(run_tree(r)) == tree_digest(seen);
    if (!right) {
        tree_explain(run_tree(r), seen, text, sizeof text);
        proof_fail("the tree is not what it should be: %s", text);
    } else {
        right = tree_learn(run_tree_own(r), seen);
    }
    tree_unref(seen);
    return right && compare_ghosts(r);
}

/* A call failed, or may have done less than it said: what has become of it? */
static void look_if_applied(struct run *r)
{
    struct tree *seen;
    char text[300];
    const char *what;

    if (!r->perhaps_applied || seen_tree(r->own->fs, &seen))
        return; /* it can't be read now, and is looked at later */
    int before = ghosts_are(r, run_tree(r), &what),
        after = ghosts_are(r, r->states[r->count + 1].tree, &what);
    if (before < 0 || after < 0) {
        tree_unref(seen);
        return;
    }
    struct tree *whole = tree_ref(r->states[r->count + 1].tree);
    bool ended = run_is_read_only(r);
    r->perhaps_applied = false;
    if (before && tree_digest(run_tree(r)) == tree_digest(seen)) {
        r->in_doubt = ended; /* what a store that has ended did is known only when it is reopened */
    } else if (after && is_state(r, r->count + 1, true, seen)) {
        r->count++;
        r->states[r->count].part = r->own->part;
        r->states[r->count].acknowledged_ns = env_mono_ns(r->env);
        /* Done in part: the step that failed and ended the store may be found, too. */
        r->in_doubt = ended && tree_digest(whole) != tree_digest(seen);
        if (r->in_doubt)
            state_set(r, r->count + 1, tree_ref(whole));
        tree_learn(run_tree_own(r), seen);
        tree_forget(run_tree_own(r), r->own->held);
    } else {
        tree_explain(run_tree(r), seen, text, sizeof text);
        proof_fail("a call that failed has done something else: %s", text);
    }
    tree_unref(whole);
    tree_unref(seen);
    r->own->part.possible &= r->in_doubt;
}

bool run_check(struct run *r)
{
    look_if_applied(r);
    return r->perhaps_applied || proof_failed || compare(r);
}

static void explain_all(struct run *r, size_t low, size_t high, struct tree *seen)
{
    char text[2][300];

    tree_explain(r->states[low].tree, seen, text[0], sizeof text[0]);
    tree_explain(r->states[high].tree, seen, text[1], sizeof text[1]);
    for (size_t i = low; i-- > 0;) {
        if (tree_digest(r->states[i].tree) == tree_digest(seen)) {
            proof_fail("after a crash the tree is at moment %llu; it must be at %llu (synced) to %llu",
                       (unsigned long long)(r->base + i), (unsigned long long)(r->base + low),
                       (unsigned long long)(r->base + high));
            return;
        }
    }
    proof_fail("after a crash the tree is no moment of its history (%llu to %llu); from the first of them it "
               "differs in %s; from the last in %s",
               (unsigned long long)(r->base + low), (unsigned long long)(r->base + high), text[0], text[1]);
}

bool run_settle(struct run *r, size_t low, size_t high)
{
    struct tree *seen;
    size_t at = high;

    int err = seen_tree(r->own->fs, &seen);
    if (err) {
        (void)read_failed(r, "reading after a crash", err);
        return false;
    }
    while (at > low && !is_state(r, at, at == high, seen))
        at--;
    bool right = is_state(r, at, at == high, seen);
    if (!right)
        explain_all(r, low, high, seen);
    r->count = at;
    r->own->part.possible = false;
    r->in_flight = r->in_doubt = r->perhaps_applied = r->sync_lost = false;
    if (right) {
        tree_forget(run_tree_own(r), NULL);
        right = tree_learn(run_tree_own(r), seen);
    }
    tree_unref(seen);
    if (!right)
        return false;
    run_synced(r);
    if (run_one_in(r, 4))
        run_fsck(r, false);
    return !proof_failed;
}

/* ---- operations ---- */

struct tree *run_next(struct run *r, struct timespec *now)
{
    struct run_own *own = r->own;
    uint64_t step = run_one_in(r, 3) ? run_below(r, 1000) : run_below(r, 3 * SECOND_NS);

    if (run_one_in(r, 30))
        own->wall_ns += 2 * 24 * 3600 * SECOND_NS;
    own->wall_ns += step + 1;
    if (run_one_in(r, 30)) /* somebody sets the clock back */
        own->wall_ns -= run_below(r, 5 * SECOND_NS);
    env_sim_wall(r->env, own->wall_ns);
    *now = time_of(own->wall_ns);
    return tree_copy(run_tree(r));
}

void run_begin(struct run *r, struct tree *next, int want)
{
    if (want) {
        tree_unref(next);
        return;
    }
    state_set(r, r->count + 1, next);
    r->states[r->count + 1].part.possible = false;
    (void)tree_digest(next);
    r->in_flight = true;
}

int run_end(struct run *r, int got, int want, bool maybe)
{
    r->in_flight = false;
    if (want) {
        if (got == 0)
            proof_fail("%s succeeds; it must fail: %s", r->op, strerror(-want));
        else if (got != want && !r->errors_allowed)
            proof_fail("%s: %s; it must be: %s", r->op, strerror(-got), strerror(-want));
        r->own->part.possible = false;
        r->last_error = got != want ? got : 0;
        return got;
    }
    if (got == 0 && !(maybe && r->errors_allowed)) {
        r->count++;
        r->states[r->count].part = r->own->part;
        r->own->part.possible = false;
        r->states[r->count].acknowledged_ns = env_mono_ns(r->env);
        totals.changes++;
        return 0;
    }
    r->in_doubt = run_is_read_only(r);
    r->perhaps_applied = maybe;
    r->in_doubt |= maybe; /* until it can be looked at */
    look_if_applied(r);
    return got ? run_failed(r, got) : 0;
}

void run_forget(struct run *r, bool all)
{
    const struct tree *t = run_tree(r);

    for (unsigned i = 1; i < TREE_NODES; i++) {
        if (!r->own->held[i] || !t->node[i] || (!all && !run_one_in(r, t->node[i]->attr.nlink ? 2 : 6)))
            continue;
        fs_forget(r->own->fs, t->node[i]->attr.id, r->own->held[i]);
        r->own->held[i] = 0;
    }
    tree_forget(run_tree_own(r), r->own->held);
}

void run_reap(struct run *r)
{
    unsigned steps = 0;

    run_forget(r, true);
    while (fs_work(r->own->fs) && steps++ < WORK_STEPS_MAX)
        ;
    if (steps > WORK_STEPS_MAX)
        proof_fail("removing deleted files does not end");
    run_fsck(r, true);
}

int run_sync(struct run *r)
{
    r->op = "sync";
    int err = fs_sync(r->own->fs);
    if (!err && r->sync_lost && r->count > 0)
        proof_fail("a sync succeeds after one of the same data has failed");
    if (err)
        r->sync_lost = true;
    else
        run_synced(r);
    return run_failed(r, err);
}

int run_batch(struct run *r, bool sync)
{
    op_change(r);
    int err = r->last_error;
    return sync && !err && !proof_failed ? run_sync(r) : err;
}

int run_flush(struct run *r)
{
    r->op = "flush";
    return run_failed(r, lsm_flush(r->db));
}

int run_compact(struct run *r)
{
    r->op = "compact";
    return run_failed(r, lsm_compact(r->db));
}

int run_work(struct run *r)
{
    uint64_t now = env_mono_ns(r->env), limit = r->profile->options.commit_ms * UINT64_C(1000000);
    int did = 1;

    for (unsigned i = 0; did > 0 && i < WORK_STEPS_MAX; i++)
        did = lsm_work(r->db);
    if (did > 0)
        proof_fail("background work does not end");
    /* By the timer, which may have gone off for the first of them and begun anew: whoever crashes now shows it. */
    size_t due = 0;
    while (due < r->count && r->states[due + 1].acknowledged_ns + limit <= now)
        due++;
    if (did == 0 && !r->errors_allowed)
        synced_to(r, due);
    return did < 0 ? run_failed(r, did) : 0;
}

/* ---- what a history begins with ---- */

unsigned run_suspend(void)
{
    bool nowait = nowait_on();

    fs_nowait(false);
    return nowait;
}

void run_resume(unsigned suspended) { fs_nowait(suspended); }

/* A tree to begin with, mostly: what the first operations on an empty one come to is soon known. */
void run_prepare(struct run *r)
{
    unsigned steps = run_one_in(r, 4) ? 0 : (unsigned)run_below(r, STEPS_BEFORE);

    if ((!r->profile->scattered && !steps) || run_open(r))
        return;
    for (unsigned i = 0; i < steps && r->db && !proof_failed; i++)
        run_step(r);
    if (r->profile->scattered && r->db && !proof_failed)
        op_scatter(r);
    if (r->db && !proof_failed)
        run_sync(r);
}
