/* slot.c - which thread has which slot. See slot.h. */
#include "slot.h"

#include <pthread.h>

static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* a leaf; also hands a slot's contents over to the next thread */
static uint32_t taken;         /* a bit for each slot but the shared one */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* its destructor gives a slot back when a thread ends */
static int key_error;

__thread unsigned slot_own;

static void give_back(void *own)
{
    unsigned index = (unsigned)((uintptr_t)own - 1);
    slot_own = 0;
    pthread_mutex_lock(&lock);
    taken &= ~(1u << index);
    pthread_mutex_unlock(&lock);
}

static void make_key(void) { key_error = pthread_key_create(&key, give_back); }

unsigned slot_take(void)
{
    unsigned index = 0;
    pthread_once(&once, make_key);
    pthread_mutex_lock(&lock);
    while (index < SLOT_SHARED && taken >> index & 1)
        index++;
    if (key_error)
        index = SLOT_SHARED;
    if (index < SLOT_SHARED)
        taken |= 1u << index;
    pthread_mutex_unlock(&lock);
    slot_own = index + 1;
    /* The shared one is never given back; one of which nobody would be told that the thread has ended, not taken. */
    if (index < SLOT_SHARED && pthread_setspecific(key, (void *)(uintptr_t)slot_own)) {
        give_back((void *)(uintptr_t)slot_own);
        slot_own = SLOT_SHARED + 1;
    }
    return slot_own - 1;
}
