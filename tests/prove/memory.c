/*
 * memory.c - allocations that fail: -ENOMEM, with nothing lost and nothing changed for good.
 *
 * The linker gives the engine's calls of malloc and its kin to the functions here (-Wl,--wrap, see
 * tests/CMakeLists.txt). The machine's and the prover's own are passed on.
 */
#include "prove.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALLOCATIONS_MAX 400u

static struct {
    bool armed;
    uint64_t count, fail_from, fail_until;
} memory;

static bool refuse(void)
{
    if (!memory.armed || env_sim_inside || proof_own_memory)
        return false;
    memory.count++;
    bool no = memory.count >= memory.fail_from && memory.count < memory.fail_until;
    totals.no_memory += no;
    if (no)
        errno = ENOMEM;
    return no;
}

/* NOLINTBEGIN(bugprone-reserved-identifier): the names are the linker's */
void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n) { return refuse() ? NULL : __real_malloc(n); }

void *__real_calloc(size_t n, size_t each);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_calloc(size_t n, size_t each) { return refuse() ? NULL : __real_calloc(n, each); }

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n) { return refuse() ? NULL : __real_realloc(p, n); }

void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n)
{
    return refuse() ? NULL : __real_aligned_alloc(align, n);
}

char *__real_strdup(const char *s);
char *__wrap_strdup(const char *s);
char *__wrap_strdup(const char *s) { return refuse() ? NULL : __real_strdup(s); }

void *__real_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    return refuse() ? MAP_FAILED : __real_mmap64(at, n, prot, flags, fd, off);
}
/* NOLINTEND(bugprone-reserved-identifier) */

static uint64_t run_armed(const struct base *b, unsigned steps, uint64_t from, uint64_t until, uint64_t seed)
{
    struct run *r = base_branch(b, b->run->random);
    struct env *env = r->env;

    memory.count = 0;
    memory.fail_from = from;
    memory.fail_until = until;
    memory.armed = true;
    disturbed_steps(r, steps, -ENOMEM);
    memory.armed = false;
    if (until)
        check_aftermath(r, false, false, seed);
    run_free(r);
    env_sim_free(env);
    return memory.count;
}

void prove_memory(uint64_t seed)
{
    struct base b;
    unsigned steps = 3 + (unsigned)(seed / 8 % 10);

    base_make(&b, seed, (unsigned)(seed / 128 % 60), (enum base_end)(seed % 3));
    uint64_t count = proof_failed ? 0 : run_armed(&b, steps, UINT64_MAX, 0, seed);
    uint64_t stride = 1 + count / ALLOCATIONS_MAX;
    for (uint64_t at = 1 + seed % stride; at <= count && !proof_failed; at += stride) {
        uint64_t many = seed_mix(seed, at) % 4 ? 1 : 3;
        size_t mark =
            proof_enter("allocation %llu, %llu of them", (unsigned long long)at, (unsigned long long)many);
        run_armed(&b, steps, at, at + many, seed_mix(seed, at));
        proof_leave(mark);
    }
    base_free(&b);
}
