/* test_yield.c - fuse/yield.h: when a CPU is to spare; threads become what they should be, and those started by them do not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu.h"
#include "yield.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>

static void test_decide(void **state)
{
    (void)state;
    assert_true(yield_decide(0.1, 0.1, false)); /* one whole CPU */
    assert_true(yield_decide(0.1, 1.5, false));
    assert_false(yield_decide(0.1, 0.05, false)); /* half of one: not yet */
    assert_true(yield_decide(0.1, 0.05, true));   /* and still */
    assert_false(yield_decide(0.1, 0.03, true));
    assert_false(yield_decide(0.1, 0, true));
    assert_false(yield_decide(0, 0.1, true)); /* a clock that stands still */
    assert_false(yield_decide(0.1, -1, true));
}

static void test_idle_ticks(void **state)
{
    (void)state;
    assert_true(yield_idle_ticks("cpu  1 2 3 400 50 6 7 8 9 0\ncpu0 1 2 3 4 5") == 450);
    assert_true(yield_idle_ticks("cpu  1 2 3 400") < 0);
    assert_true(yield_idle_ticks("") < 0);
    assert_true(yield_idle_ticks("intr 5 6 7 8 9") < 0);
}

static void *started(void *arg)
{
    (void)arg;
    cpu_ordinary();
    return (void *)(intptr_t)sched_getscheduler(0);
}

/* What a queue's thread does, with somebody else's thread started on the way. */
static void *queue(void *arg)
{
    struct yield *y = arg;
    struct yield_of self = {false};
    pthread_t other;
    void *policy;

    for (int i = 0; i < 200 && !self.idle; i++) { /* up to 4 s, for a CPU to be idle */
        yield_apply(y, &self);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    assert_int_equal(sched_getscheduler(0), self.idle ? SCHED_IDLE : SCHED_OTHER);
    assert_int_equal(pthread_create(&other, NULL, started, NULL), 0);
    assert_int_equal(pthread_join(other, &policy), 0);
    assert_int_equal((intptr_t)policy, SCHED_OTHER);
    return (void *)(intptr_t)self.idle;
}

static void test_thread(void **state)
{
    struct yield *y;
    pthread_t thread;
    void *was_idle;
    int rc = yield_new(&y);

    (void)state;
    assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
    if (rc == -ENOTSUP) {
        struct yield_of self = {false};
        assert_null(y);
        yield_apply(y, &self);
        assert_false(self.idle);
        print_message("not allowed here, or there is one CPU\n");
        skip();
    }
    assert_int_equal(rc, 0);
    assert_false(yield_state(y));
    assert_int_equal(pthread_create(&thread, NULL, queue, y), 0);
    assert_int_equal(pthread_join(thread, &was_idle), 0);
    yield_free(y);
    if (!was_idle) {
        print_message("no CPU was idle\n");
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decide),
        cmocka_unit_test(test_idle_ticks),
        cmocka_unit_test(test_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
