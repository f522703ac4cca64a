/* env_posix_thread.c - see env_posix_thread.h. */
#include "env_posix_thread.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREAD_NAME_MAX 16 /* of Linux, with the terminating NUL */
#define SLICE_NS 100000u   /* the shortest that Linux takes */

/* struct sched_attr of the kernel's interface as of Linux 3.14; its header can't be had together with <sched.h>. */
struct scheduling {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};
static_assert(sizeof(struct scheduling) == 48, "SCHED_ATTR_SIZE_VER0");

struct env_thread {
    pthread_t id;
    void (*fn)(void *);
    void *arg;
    int near; /* the CPU that posix_thread_near put it on last; -1 */
    char name[THREAD_NAME_MAX];
};

static void *thread_main(void *arg)
{
    struct env_thread *t = arg;

    pthread_setname_np(pthread_self(), t->name); /* for people looking at the process; may fail */
    t->fn(t->arg);
    return NULL;
}

/* Everything but what a thread raises by its own fault: blocking those would kill without a trace. */
static void asynchronous_signals(sigset_t *set)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};

    sigfillset(set);
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
        sigdelset(set, own[i]);
}

static bool only_cpu(int cpu, cpu_set_t *out)
{
    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return false;
    CPU_ZERO(out);
    CPU_SET((size_t)cpu, out);
    return true;
}

static int create_pinned(struct env_thread *t, int cpu)
{
    pthread_attr_t attr;
    cpu_set_t cpus;

    if (!only_cpu(cpu, &cpus))
        return -EINVAL;
    int rc = -pthread_attr_init(&attr);
    if (rc)
        return rc;
    rc = -pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
    if (!rc)
        rc = -pthread_create(&t->id, &attr, thread_main, t);
    pthread_attr_destroy(&attr);
    return rc;
}

int posix_thread_start(struct env *e, const char *name, int cpu, void (*fn)(void *), void *arg,
                       struct env_thread **out)
{
    sigset_t block, before;

    (void)e;
    struct env_thread *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->fn = fn;
    t->arg = arg;
    t->near = -1;
    snprintf(t->name, sizeof(t->name), "%s", name);
    asynchronous_signals(&block);
    pthread_sigmask(SIG_SETMASK, &block, &before);
    int rc = create_pinned(t, cpu);
    if (rc == -EINVAL) /* no such CPU, or not allowed to us: pinning is an optimisation */
        rc = -pthread_create(&t->id, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void posix_thread_join(struct env *e, struct env_thread *t)
{
    (void)e;
    int rc = pthread_join(t->id, NULL);
    assert(rc == 0);
    free(t);
}

void posix_thread_near(struct env *e, struct env_thread *t)
{
    const int cpu = sched_getcpu();
    cpu_set_t cpus;

    (void)e;
    if (cpu == t->near || !only_cpu(cpu, &cpus))
        return;
    /* It works where it is, too: a failure is no error, and not tried again for the same CPU. */
    (void)pthread_setaffinity_np(t->id, sizeof(cpus), &cpus);
    t->near = cpu;
}

void posix_thread_prompt(struct env *e)
{
    struct scheduling s = {.size = sizeof(s)};

    (void)e;
    if (syscall(SYS_sched_getattr, 0, &s, sizeof(s), 0) || s.policy != SCHED_OTHER)
        return; /* somebody gave us a policy that knows no slices */
    s.runtime_ns = SLICE_NS;
    (void)syscall(SYS_sched_setattr, 0, &s, 0); /* an older kernel takes no notice */
}
