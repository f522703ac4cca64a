/*
 * damage.c - bits that flip on the medium while a store is closed: an error or the right answer, never a wrong one.
 *
 * The store was closed in good order, so everything in it was synced, and it knows: a shortened log is as wrong
 * as a wrong value. One file at a time: the end of the log is known from two, of which the manifest may end
 * in a torn record. Opening may be refused. What opens answers each question rightly or with an error.
 */
#include "prove.h"

#include <errno.h>
#include <stdio.h>

#define FILES_MAX 64u
#define TRIES 40u

struct files {
    char path[FILES_MAX][SIM_PATH_MAX];
    size_t count;
};

static int note(void *arg, const char *name)
{
    struct files *f = arg;

    if (f->count < FILES_MAX)
        (void)snprintf(f->path[f->count++], SIM_PATH_MAX, STORE "/%.40s", name);
    return 0;
}

static uint64_t size_of(struct env *env, const char *path)
{
    struct env_file *f;
    uint64_t size = 0;

    if (env_open(env, path, ENV_READ, &f))
        return 0;
    (void)env_size(f, &size);
    env_close(f);
    return size;
}

/* Half of the time near the beginning, where the used part of a log segment is. */
static void flip(struct run *r, const char *path)
{
    uint64_t size = size_of(r->env, path);

    if (!size)
        return;
    if (run_draw(r) % 2 && size > 8192)
        size = 8192;
    uint64_t at = run_draw(r) % size;
    proof_enter(", %s at %llu", path, (unsigned long long)at);
    if (env_sim_damage(r->env, path, at, 1 + (unsigned)(run_draw(r) % 3)))
        proof_fail("the prover can't damage %s", path);
    totals.damages++;
}

static void look_read_only(struct run *r)
{
    struct profile p = *r->profile;

    p.options.flags = LSM_RDONLY | LSM_INLINE;
    p.options.env = r->env;
    struct lsm *db;
    struct lsm_iter *it;
    if (lsm_open(STORE, &p.options, &db))
        return;
    if (lsm_iter_new(db, NULL, &it) == 0) {
        for (lsm_iter_first(it); lsm_iter_valid(it); lsm_iter_next(it))
            ;
        lsm_iter_free(it);
    }
    (void)lsm_close(db);
}

void prove_damage(uint64_t seed)
{
    struct base b;
    struct files files = {0};

    base_make(&b, seed, (unsigned)(20 + seed / 128 % 200), BASE_CLOSED);
    if (!proof_failed && env_list(b.env, STORE, note, &files))
        proof_fail("the prover can't list the store");
    for (unsigned i = 0; i < TRIES && !proof_failed; i++) {
        struct run *r = base_branch(&b, seed_mix(seed, i));
        struct env *env = r->env;
        size_t mark = proof_enter("try %u", i);
        env_sim_power_cut(env, SIM_LOSE_ALL); /* all is durable: flips are in what is there */
        const char *path = files.path[run_draw(r) % files.count];
        for (uint64_t n = 1 + run_draw(r) % 3; n > 0 && !proof_failed; n--)
            flip(r, path);
        if (!proof_failed && run_open(r))
            look_read_only(r);
        else if (!proof_failed && run_check(r) && run_compact(r) == 0)
            run_check(r);
        run_free(r);
        env_sim_free(env);
        proof_leave(mark);
    }
    base_free(&b);
}
