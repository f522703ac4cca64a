/* slow.c - see slow.h. */
#include "slow.h"

#include "cpu.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct slow {
    int cpu;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct slow_job *first, **end; /* under lock, like all below */
    unsigned queued, idle, threads;
    bool stop;
    pthread_t thread[SLOW_THREADS_MAX];
};

static struct slow_job *take(struct slow *s)
{
    struct slow_job *job;

    pthread_mutex_lock(&s->lock);
    s->idle++;
    while (!s->first && !s->stop)
        pthread_cond_wait(&s->wake, &s->lock);
    s->idle--;
    job = s->first;
    if (job) {
        s->first = job->next;
        if (!s->first)
            s->end = &s->first;
        s->queued--;
    }
    pthread_mutex_unlock(&s->lock);
    return job;
}

static void *slow_main(void *arg)
{
    struct slow *s = arg;
    struct slow_job *job;

    pthread_setname_np(pthread_self(), "fuse-slow");
    cpu_ordinary();
    cpu_pin(s->cpu);
    cpu_prompt();
    while ((job = take(s)) != NULL)
        job->run(job);
    return NULL;
}

/* Lock held. */
static int add_thread(struct slow *s)
{
    int rc = -pthread_create(&s->thread[s->threads], NULL, slow_main, s);

    if (rc == 0)
        s->threads++;
    return rc;
}

int slow_new(int cpu, struct slow **out)
{
    struct slow *s = calloc(1, sizeof(*s));
    int rc;

    if (!s)
        return -ENOMEM;
    s->cpu = cpu;
    s->end = &s->first;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    pthread_mutex_lock(&s->lock);
    rc = add_thread(s);
    pthread_mutex_unlock(&s->lock);
    if (rc < 0) {
        slow_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void slow_put(struct slow *s, struct slow_job *job)
{
    pthread_mutex_lock(&s->lock);
    assert(!s->stop);
    job->next = NULL;
    *s->end = job;
    s->end = &job->next;
    s->queued++;
    if (s->queued > s->idle && s->threads < SLOW_THREADS_MAX)
        (void)add_thread(s); /* if it can't be had, those that there are do it, one after the other */
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void slow_free(struct slow *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true; /* with jobs left, take() gives them out first */
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->threads; i++)
        pthread_join(s->thread[i], NULL);
    assert(!s->first);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
