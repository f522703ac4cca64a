/*
 * test_wal.c - writing to the log: order, the frontier, rollover and reuse, group commit, the commit
 * timer, final failures, full disks; and that what was written is found again.
 */
#include "wal_store.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

static void test_sizes(void **state)
{
    (void)state;
    struct store *s = store_new(false, false);
    struct wal_ticket t;

    assert_int_equal(wal_record_bytes(0), 56);
    assert_int_equal(wal_record_bytes(1), 64);
    assert_int_equal(wal_record_bytes(8), 64);
    reopen(s);
    assert_int_equal(wal_payload_max(s->wal), SEGMENT / 4 - WAL_HEADER_BYTES);
    assert_int_equal(wal_prepare(s->wal, wal_payload_max(s->wal) + 1, false), -E2BIG);
    assert_int_equal(wal_reserve(s->wal, wal_payload_max(s->wal) + 1, &t), -E2BIG);
    append_ok(s, wal_payload_max(s->wal), 1, NULL);
    append_ok(s, 0, 2, NULL);
    crash(s);
    assert_int_equal(reopen(s), 2);
    store_free(s);
}

/* Many rounds of random records and kills; everything is found again each time. */
static void test_reopen(void **state)
{
    (void)state;
    FOR_EACH_MODE(m)
    {
        struct store *s = store_new(modes[m].map, modes[m].threads);
        uint64_t rnd = base_seed + m, written = 0, bytes = 0;

        for (int round = 0; round < 6; round++) {
            assert_int_equal(reopen(s), written);
            assert_int_equal(wal_frontier(s->wal), wal_synced(s->wal));
            for (int i = 0; i < 150; i++) {
                uint64_t n = random_next(&rnd) % 100 == 0 ? random_next(&rnd) % (SEGMENT / 5)
                                                          : random_next(&rnd) % 9000;
                struct wal_ticket t;
                append_ok(s, n, written++, &t);
                assert_true(t.lsn % 8 == 0 && t.end == t.lsn + wal_record_bytes(n));
                assert_true(wal_frontier(s->wal) >= t.end);
                bytes += n;
                if (random_next(&rnd) % 40 == 0)
                    assert_int_equal(wal_sync(s->wal), 0);
            }
            crash(s);
        }
        assert_true(bytes > 2 * SEGMENT);
        assert_int_equal(reopen(s), written);
        store_free(s);
    }
}

/* A new store of which all but the last `rest` bytes of the first segment are used. */
static struct store *filled_store(uint64_t rest, uint64_t *index)
{
    struct store *s = store_new(rest % 16 == 0, false);
    uint64_t left = SEGMENT;
    reopen(s);
    for (*index = 0; left > 200000; left -= wal_record_bytes(100000))
        append_ok(s, 100000, (*index)++, NULL);
    append_ok(s, left - rest - WAL_HEADER_BYTES - 8, (*index)++, NULL);
    assert_int_equal(s->uses[0].base + SEGMENT - wal_frontier(s->wal), rest);
    return s;
}

/* Where the log came to its end there, that is recorded, and holds the next time. */
static void test_ends_with_a_segment(void **state)
{
    (void)state;
    for (uint64_t rest = 0; rest <= 128; rest += 8) {
        uint64_t index;
        struct store *s = filled_store(rest, &index);
        for (unsigned i = 0; i < 3; i++) {
            crash(s);
            assert_int_equal(reopen(s), index);
        }
        append_ok(s, 100, index++, NULL);
        crash(s);
        assert_int_equal(reopen(s), index);
        store_free(s);
    }
}

/* A segment's end in every alignment: with a pad, without, and exactly full. */
static void test_segment_end(void **state)
{
    (void)state;
    for (uint64_t rest = 0; rest <= 128; rest += 8) {
        uint64_t index;
        struct store *s = filled_store(rest, &index);
        struct wal_recovered r;
        assert_int_equal(recover(s, false, &r), 0); /* while it is exactly there */
        assert_int_equal(r.records, index);
        append_ok(s, 100, index++, NULL);
        append_ok(s, 100, index++, NULL);
        crash(s);
        assert_int_equal(s->use_count, 2);
        assert_int_equal(reopen(s), index);
        store_free(s);
    }
}

static int count_file(void *arg, const char *name)
{
    (void)name;
    ++*(unsigned *)arg;
    return 0;
}

/* Far more data than segments: files are used again, and the rest of the log is always readable. */
static void test_rollover_reuse(void **state)
{
    (void)state;
    FOR_EACH_MODE(m)
    {
        struct store *s = store_new(modes[m].map, modes[m].threads);
        struct wal_stats stats;
        struct wal_recovered r;
        uint64_t rnd = base_seed, index = 0, kept = 0;
        unsigned files = 0;

        reopen(s);
        while (wal_frontier(s->wal) < 40 * SEGMENT) {
            struct wal_ticket t;
            append_ok(s, random_next(&rnd) % 60000, index++, &t);
            kept++;
            if (index % 40 == 0) {
                wal_release(s->wal, t.end); /* not synced: nothing may happen */
                assert_int_equal(wal_sync(s->wal), 0);
                pthread_mutex_lock(&s->lock);
                s->start = t.end;
                pthread_mutex_unlock(&s->lock);
                wal_release(s->wal, t.end);
                kept = 0;
            }
        }
        assert_int_equal(wal_failed(s->wal), 0);
        wal_stats_get(s->wal, &stats);
        assert_int_equal(stats.records, index);
        assert_true(stats.bytes >= 39 * SEGMENT);
        crash(s);
        assert_int_equal(env_list(s->files, s->dir, count_file, &files), 0);
        assert_in_range(files, 2, 8);
        assert_int_equal(recover(s, false, &r), 0);
        assert_int_equal(r.records, kept);
        store_free(s);
    }
}

static void test_release_live(void **state)
{
    (void)state;
    struct store *s = store_new(false, false);
    struct wal_stats stats;
    struct wal_ticket t;

    reopen(s);
    append_ok(s, 100, 0, &t);
    crash(s);
    reopen(s);
    wal_release(s->wal, t.lsn);
    wal_stats_get(s->wal, &stats);
    assert_int_equal(stats.free_segments, 0);
    wal_release(s->wal, t.end); /* where that use ends */
    wal_stats_get(s->wal, &stats);
    assert_int_equal(stats.free_segments, 1);
    assert_int_equal(stats.segments, 1);
    store_free(s);
}

static void test_frontier_order(void **state)
{
    (void)state;
    FOR_EACH_MODE(m)
    {
        struct store *s = store_new(modes[m].map, modes[m].threads);
        struct wal_ticket t[3];
        struct wal_recovered r;

        reopen(s);
        lsn_t f = wal_frontier(s->wal);
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(reserve(s->wal, 100, &t[i]), 0);
        assert_int_equal(copy(s->wal, &t[2], 100, 2), 0);
        wal_publish(s->wal, &t[2]);
        assert_int_equal(copy(s->wal, &t[1], 100, 1), 0);
        wal_publish(s->wal, &t[1]);
        assert_int_equal(wal_frontier(s->wal), f); /* a hole at the first */
        assert_int_equal(recover(s, false, &r), 0);
        assert_int_equal(r.records, 0);
        assert_int_equal(copy(s->wal, &t[0], 100, 0), 0);
        wal_publish(s->wal, &t[0]);
        assert_int_equal(wal_frontier(s->wal), t[2].end);
        assert_int_equal(wal_wait(s->wal, t[2].end), 0);
        assert_int_equal(wal_sync_to(s->wal, t[1].end), 0);
        assert_true(wal_synced(s->wal) >= t[1].end);
        crash(s);
        assert_int_equal(reopen(s), 3);
        store_free(s);
    }
}

static void test_in_flight_bound(void **state)
{
    (void)state;
    struct store *s = store_new(true, false);
    struct wal_ticket *t = calloc(5000, sizeof(*t));
    size_t n = 0;

    reopen(s);
    while (wal_prepare(s->wal, 8, true) == 0) {
        assert_true(n < 5000);
        assert_int_equal(wal_reserve(s->wal, 8, &t[n]), 0);
        n++;
    }
    assert_in_range(n, 100, 4999);
    assert_int_equal(wal_reserve(s->wal, 8, &t[n]), -EAGAIN);
    for (size_t i = n; i-- > 0;) {
        assert_int_equal(copy(s->wal, &t[i], 8, i), 0);
        wal_publish(s->wal, &t[i]);
    }
    assert_int_equal(wal_frontier(s->wal), t[n - 1].end);
    assert_int_equal(wal_prepare(s->wal, 8, true), 0);
    crash(s);
    assert_int_equal(reopen(s), n);
    free(t);
    store_free(s);
}

/* ---- concurrency ---- */

struct writer {
    struct store *s;
    uint64_t seed, first, count;
    bool sync;
};

static void *write_records(void *arg)
{
    struct writer *w = arg;
    uint64_t rnd = w->seed;

    for (uint64_t i = 0; i < w->count; i++) {
        struct wal_ticket t;
        if (append(w->s->wal, 8 + random_next(&rnd) % 2000, w->first + i, &t))
            abort();
        if (wal_frontier(w->s->wal) < t.end)
            abort();
        if (w->sync || random_next(&rnd) % 64 == 0) {
            if (wal_sync_to(w->s->wal, t.end) || wal_synced(w->s->wal) < t.end)
                abort();
        }
        if (random_next(&rnd) % 64 == 0)
            wal_tick(w->s->wal);
    }
    return NULL;
}

static void run_writers(struct store *s, unsigned threads, uint64_t each, bool sync)
{
    pthread_t id[16];
    struct writer w[16];

    for (unsigned i = 0; i < threads; i++) {
        w[i] = (struct writer){s, base_seed + i, i * each, each, sync};
        assert_int_equal(pthread_create(&id[i], NULL, write_records, &w[i]), 0);
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(id[i], NULL);
}

static void test_concurrent(void **state)
{
    (void)state;
    FOR_EACH_MODE(m)
    {
        struct store *s = store_new(modes[m].map, modes[m].threads);
        s->commit_ms = 5;
        reopen(s);
        run_writers(s, 6, 500, false);
        crash(s);
        assert_int_equal(reopen(s), 3000);
        store_free(s);
    }
}

/* Until nothing was synced for a while: the next segment has been prepared. */
static void wait_until_quiet(struct store *s)
{
    unsigned last = GET(s->env.syncs);

    for (unsigned quiet = 0; quiet < 25; quiet++) {
        usleep(20000);
        if (GET(s->env.syncs) != last)
            quiet = 0;
        last = GET(s->env.syncs);
    }
}

static void test_group_commit(void **state)
{
    (void)state;
    struct store *s = store_new(true, true);

    reopen(s);
    wait_until_quiet(s);
    SET(s->env.sync_delay_us, 2000);
    unsigned before = GET(s->env.syncs);
    for (uint64_t i = 0; i < 10; i++) {
        append_ok(s, 100, i, NULL);
        assert_int_equal(wal_sync(s->wal), 0);
    }
    assert_int_equal(GET(s->env.syncs) - before, 10); /* alone: one each */
    assert_int_equal(wal_sync(s->wal), 0);
    assert_int_equal(GET(s->env.syncs) - before, 10); /* nothing new: none */
    before = GET(s->env.syncs);
    run_writers(s, 8, 20, true);
    assert_in_range(GET(s->env.syncs) - before, 20, 80); /* 160 requests */
    store_free(s);
}

struct async_wait {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned done;
    int result;
};

static void async_done(void *arg, int result)
{
    struct async_wait *w = arg;

    pthread_mutex_lock(&w->lock);
    w->done++;
    if (result)
        w->result = result;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static void async_await(struct async_wait *w, unsigned n)
{
    pthread_mutex_lock(&w->lock);
    while (w->done < n)
        pthread_cond_wait(&w->cond, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static void test_async(void **state)
{
    (void)state;
    FOR_EACH_MODE(m)
    {
        struct store *s = store_new(modes[m].map, modes[m].threads);
        struct async_wait w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
        lsn_t f = 0;

        reopen(s);
        wal_sync_async(s->wal, async_done, &w);
        assert_int_equal(w.done, 1); /* nothing to wait for: from within the call */
        for (uint64_t i = 0; i < 100; i++) {
            append_ok(s, 50, i, NULL);
            f = wal_frontier(s->wal);
            wal_sync_async(s->wal, async_done, &w);
        }
        async_await(&w, 101);
        assert_int_equal(w.result, 0);
        assert_int_equal(wal_synced(s->wal), f);
        append_ok(s, 50, 100, NULL);
        SET(s->env.sync_error, -EIO);
        wal_sync_async(s->wal, async_done, &w);
        async_await(&w, 102);
        assert_int_equal(w.result, -EIO);
        wal_sync_async(s->wal, async_done, &w);
        assert_int_equal(w.done, 103);
        append(s->wal, 50, 101, NULL);
        store_free(s);
    }
}

/* ---- the commit timer ---- */

static void await_idle(struct store *s, lsn_t target)
{
    for (int i = 0; i < 5000 && wal_synced(s->wal) < target; i++)
        usleep(1000);
    assert_true(wal_synced(s->wal) >= target);
}

static void test_commit_timer(void **state)
{
    (void)state;
    struct store *s = store_new(true, true);
    struct wal_recovered r;
    struct wal_ticket t;

    s->commit_ms = 20;
    reopen(s);
    append_ok(s, 100, 0, &t);
    await_idle(s, t.end + wal_record_bytes(0)); /* the record, and then a mark that tells of it */
    unsigned syncs = GET(s->env.syncs);
    lsn_t f = wal_frontier(s->wal);
    assert_int_equal(f, t.end + wal_record_bytes(0));
    usleep(150000);
    assert_int_equal(GET(s->env.syncs), syncs); /* idle is idle */
    assert_int_equal(wal_frontier(s->wal), f);
    append_ok(s, 100, 1, &t);
    await_idle(s, t.end + wal_record_bytes(0));
    crash(s);
    assert_int_equal(recover(s, false, &r), 0);
    assert_int_equal(r.records, 2);
    flip(s, t.lsn + 60); /* the mark is what tells this from a torn tail */
    assert_int_equal(recover(s, false, &r), -EUCLEAN);
    store_free(s);
}

static void test_tick(void **state)
{
    (void)state;
    struct store *s = store_new(false, false);
    struct wal_ticket t;

    s->commit_ms = 5;
    reopen(s);
    assert_int_equal(wal_tick(s->wal), 0);
    append_ok(s, 10, 0, &t);
    assert_int_equal(wal_sync(s->wal), 0);
    usleep(6000);
    assert_int_equal(wal_tick(s->wal), 1); /* a mark, synced */
    assert_int_equal(wal_synced(s->wal), t.end + wal_record_bytes(0));
    usleep(6000);
    assert_int_equal(wal_tick(s->wal), 0);
    append_ok(s, 10, 1, &t); /* carries it all; then one more sync and one more mark */
    usleep(6000);
    int did = 0;
    for (int i = 0; i < 10; i++) {
        did += wal_tick(s->wal);
        usleep(6000);
    }
    assert_int_equal(did, 2);
    assert_int_equal(wal_synced(s->wal), t.end + wal_record_bytes(0));
    store_free(s);
}

/* ---- failures ---- */

static void test_sync_failure_is_final(void **state)
{
    (void)state;
    FOR_EACH_MODE(m)
    {
        struct store *s = store_new(modes[m].map, modes[m].threads);
        struct wal_ticket t, late;
        struct wal_stats stats;

        s->commit_ms = 5;
        reopen(s);
        append_ok(s, 100, 0, &t);
        assert_int_equal(wal_sync(s->wal), 0);
        lsn_t synced = wal_synced(s->wal);
        do {
            usleep(20000); /* the next segment is prepared, the mark is written */
            synced = wal_synced(s->wal);
            wal_stats_get(s->wal, &stats);
        } while (modes[m].threads && stats.segments < 2);
        SET(s->env.sync_error, -EIO);
        assert_int_equal(reserve(s->wal, 100, &t), 0);
        assert_int_equal(reserve(s->wal, 100, &late), 0); /* in the middle while it happens */
        assert_int_equal(copy(s->wal, &t, 100, 1), 0);
        wal_publish(s->wal, &t);
        lsn_t f = wal_frontier(s->wal);
        assert_int_equal(f, t.end);
        assert_int_equal(wal_sync(s->wal), -EIO); /* ours, or the timer's */
        SET(s->env.sync_error, 0);                /* the kernel would claim success now */
        unsigned syncs = GET(s->env.syncs);
        assert_int_equal(wal_sync(s->wal), -EIO);
        assert_int_equal(wal_sync_to(s->wal, f), -EIO);
        assert_int_equal(wal_synced(s->wal), synced);
        assert_int_equal(wal_failed(s->wal), -EIO);
        assert_int_equal(wal_prepare(s->wal, 10, false), -EIO);
        assert_int_equal(wal_prepare(s->wal, 10, true), -EIO);
        assert_int_equal(wal_reserve(s->wal, 10, &t), -EIO);
        assert_int_equal(copy(s->wal, &late, 100, 2), -EIO);
        wal_publish(s->wal, &late);
        assert_int_equal(wal_frontier(s->wal), f);
        assert_int_equal(wal_wait(s->wal, f + 8), -EIO);
        usleep(20000);
        wal_tick(s->wal);
        assert_int_equal(GET(s->env.syncs), syncs); /* and it is never asked again */
        assert_int_equal(s->failures, 1);
        assert_int_equal(s->failure, -EIO);
        assert_int_equal(wal_close(s->wal), -EIO);
        assert_int_equal(GET(s->env.syncs), syncs);
        s->wal = NULL;
        store_free(s);
    }
}

struct sync_waiter {
    struct store *s;
    int result;
};

static void *sync_once(void *arg)
{
    struct sync_waiter *w = arg;
    w->result = wal_sync(w->s->wal);
    return NULL;
}

/* Whoever shares the failing sync, or queues behind it, gets its error. */
static void test_sync_failure_shared(void **state)
{
    (void)state;
    struct store *s = store_new(true, false);
    pthread_t id[6];
    struct sync_waiter w[6];

    reopen(s);
    append_ok(s, 100, 0, NULL);
    SET(s->env.sync_delay_us, 30000);
    SET(s->env.sync_error, -EIO);
    for (int i = 0; i < 6; i++) {
        w[i] = (struct sync_waiter){s, 0};
        pthread_create(&id[i], NULL, sync_once, &w[i]);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(id[i], NULL);
        assert_int_equal(w[i].result, -EIO);
    }
    assert_int_equal(s->failures, 1);
    store_free(s);
}

static void test_store_failure(void **state)
{
    (void)state;
    for (int map = 0; map < 2; map++) {
        struct store *s = store_new(map, false);
        struct wal_ticket before, t, after;
        struct wal_recovered r;

        reopen(s);
        append_ok(s, 100, 0, &before);
        assert_int_equal(reserve(s->wal, 100, &t), 0);
        assert_int_equal(reserve(s->wal, 100, &after), 0);
        assert_int_equal(copy(s->wal, &after, 100, 2), 0);
        SET(s->env.store_error, -EIO);
        assert_int_equal(copy(s->wal, &t, 100, 1), -EIO);
        SET(s->env.store_error, 0);
        wal_publish(s->wal, &after);
        assert_int_equal(wal_frontier(s->wal), before.end);
        assert_int_equal(wal_wait(s->wal, after.end), -EIO);
        assert_int_equal(wal_wait(s->wal, before.end), 0);
        assert_int_equal(wal_sync(s->wal), -EIO);
        assert_int_equal(s->failures, 1);
        assert_int_equal(wal_close(s->wal), -EIO);
        s->wal = NULL;
        assert_int_equal(recover(s, true, &r), 0);
        assert_int_equal(r.records, 1);
        store_free(s);
    }
}

static void test_full_disk(void **state)
{
    (void)state;
    FOR_EACH_MODE(m)
    {
        struct store *s = store_new(modes[m].map, modes[m].threads);
        struct wal_ticket t;
        uint64_t index = 0;
        int rc;

        SET(s->env.no_space, true);
        assert_int_equal(open_at(s, 8), -ENOSPC);
        s->wal = NULL;
        SET(s->env.no_space, false);
        reopen(s);
        append_ok(s, 100, index++, &t);
        SET(s->env.no_space, true);
        while (!(rc = append(s->wal, 100000, index, &t)))
            index++;
        assert_int_equal(rc, -ENOSPC);
        assert_int_equal(wal_failed(s->wal), 0);
        assert_int_equal(wal_prepare(s->wal, 100000, true), -EAGAIN);
        assert_int_equal(wal_reserve(s->wal, 100000, &t), -EAGAIN);
        assert_int_equal(wal_prepare(s->wal, 100000, false), -ENOSPC);
        append_ok(s, 10, index++, &t); /* what fits still goes in */
        assert_int_equal(wal_sync(s->wal), 0);
        SET(s->use_error, -ENOSPC); /* the manifest has no room either */
        SET(s->env.no_space, false);
        assert_int_equal(wal_prepare(s->wal, 100000, false), -ENOSPC);
        SET(s->use_error, 0);
        for (int i = 0; i < 30; i++) /* and with space it goes on by itself */
            append_ok(s, 100000, index++, &t);
        /* a released file helps as well as free space does */
        SET(s->env.no_space, true);
        while (!(rc = append(s->wal, 100000, index, &t)))
            index++;
        assert_int_equal(rc, -ENOSPC);
        assert_int_equal(wal_sync(s->wal), 0);
        s->start = wal_frontier(s->wal);
        wal_release(s->wal, s->start);
        append_ok(s, 100000, index++, &t);
        crash(s);
        struct wal_recovered r;
        assert_int_equal(recover(s, true, &r), 0);
        assert_int_equal(r.records, 1);
        store_free(s);
    }
}

/* On the real system, too; both ways, with threads. */
static void test_posix(void **state)
{
    (void)state;
    static const char *const places[] = {"/dev/shm", "/tmp"};

    for (unsigned p = 0; p < 4; p++) {
        char dir[64];
        snprintf(dir, sizeof(dir), "%s/test_wal.XXXXXX", places[p / 2]);
        if (access(places[p / 2], W_OK) || !mkdtemp(dir))
            continue;
        struct store *s = store_new(p % 2, true);
        env_mem_free(s->files);
        s->env.inner = s->files = env_posix();
        s->dir = dir;
        s->commit_ms = 5;
        reopen(s);
        run_writers(s, 4, 1200, false);
        crash(s);
        assert_int_equal(reopen(s), 4800);
        wal_release(s->wal, wal_synced(s->wal));
        append_ok(s, 100, 4800, NULL);
        crash(s);
        s->use_count = 0;
        for (uint64_t n = 1; n <= s->last_number; n++) {
            char path[128];
            wal_segment_path(dir, n, path, sizeof(path));
            unlink(path);
        }
        assert_int_equal(rmdir(dir), 0);
        s->files = env_mem_new(); /* for store_free */
        store_free(s);
    }
}

/* A child of its own writes until it is killed; what it had acknowledged is there, in order (P4). */
static void kill_one(bool map, unsigned run_us)
{
    char dir[] = "/tmp/test_wal.XXXXXX";
    struct store *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t *acked = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct store *made = store_new(map, true);

    assert_true(shared != MAP_FAILED && acked != MAP_FAILED);
    assert_non_null(mkdtemp(dir));
    env_mem_free(made->files);
    *shared = *made;
    free(made);
    shared->env.inner = shared->files = env_posix();
    shared->dir = dir;
    shared->commit_ms = 10;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (open_at(shared, 8))
            _exit(1);
        for (uint64_t i = 1;; i++) {
            if (append(shared->wal, 8 + i * 7919 % 3000, i, NULL))
                _exit(1);
            SET(*acked, i);
        }
    }
    for (int i = 0; i < 20000 && GET(*acked) < 100; i++)
        usleep(500);
    usleep(run_us);
    kill(pid, SIGKILL);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    pthread_mutex_init(&shared->lock, NULL); /* the child may have held it */
    shared->wal = NULL;
    struct wal_recovered r;
    assert_int_equal(recover(shared, true, &r), 0);
    assert_true(r.records >= GET(*acked) && r.records <= GET(*acked) + 1);
    assert_int_equal(shared->first_index, 1);
    for (uint64_t n = 1; n <= shared->last_number; n++) {
        char path[128];
        wal_segment_path(dir, n, path, sizeof(path));
        unlink(path);
    }
    assert_int_equal(rmdir(dir), 0);
    munmap(shared, sizeof(*shared));
    munmap(acked, 4096);
}

static void test_kill(void **state)
{
    (void)state;
    uint64_t rnd = base_seed;

    for (int i = 0; i < 8; i++)
        kill_one(i % 2, (unsigned)(random_next(&rnd) % 30000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_reopen),
        cmocka_unit_test(test_segment_end),
        cmocka_unit_test(test_ends_with_a_segment),
        cmocka_unit_test(test_rollover_reuse),
        cmocka_unit_test(test_release_live),
        cmocka_unit_test(test_frontier_order),
        cmocka_unit_test(test_in_flight_bound),
        cmocka_unit_test(test_concurrent),
        cmocka_unit_test(test_group_commit),
        cmocka_unit_test(test_async),
        cmocka_unit_test(test_commit_timer),
        cmocka_unit_test(test_tick),
        cmocka_unit_test(test_sync_failure_is_final),
        cmocka_unit_test(test_sync_failure_shared),
        cmocka_unit_test(test_store_failure),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_posix),
        cmocka_unit_test(test_kill),
    };

    return RUN_TESTS("test_wal", tests);
}
