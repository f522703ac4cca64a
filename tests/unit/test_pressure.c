/*
 * test_pressure.c - back-pressure: the rates, the pacer, a shard simulated in time that takes no time, under loads that
 * are too much for it; and an open store whose compactions are slow.
 */
#include <shale/lsm.h>

#include "coding.h"
#include "pressure.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "rules_env.h"

#define KIB 1024u
#define MIB (1024u * 1024u)
#define SECOND UINT64_C(1000000000)

/* ---- rates ---- */

static uint64_t rate(double l0, double memtables, double log, enum lsm_stall_reason *why)
{
    struct debt debt = {l0, memtables, log};
    struct drain drain = {.l0 = 10 * MIB, .flush = 40 * MIB};
    return pressure_rate(&debt, &drain, why);
}

static void test_rates(void **unused)
{
    (void)unused;
    enum lsm_stall_reason why;
    assert_true(rate(11.9, 1.9, 1.9, &why) == PRESSURE_UNLIMITED && why == LSM_STALLS);
    /* Pacing begins above the rate of what is drained, ends far below, and never turns back. */
    assert_true(rate(12, 0, 0, &why) == 15 * MIB && why == LSM_STALL_LEVEL0);
    assert_true(rate(0, 2, 0, &why) == 80 * MIB && why == LSM_STALL_MEMTABLES);
    assert_true(rate(0, 0, 2, &why) == 80 * MIB && why == LSM_STALL_LOG);
    assert_true(rate(24, 0, 0, &why) <= 10 * MIB / 16);
    assert_true(rate(0, 3, 0, &why) == PRESSURE_RATE_MIN);
    assert_true(rate(0, 0, 4, &why) <= 40 * MIB / 16);
    uint64_t before = PRESSURE_UNLIMITED;
    for (double l0 = 0; l0 < 1000; l0 += 0.25) {
        uint64_t now = rate(l0, 0, 0, &why);
        assert_true(now <= before && now >= PRESSURE_RATE_MIN);
        before = now;
    }
    /* The scarcest decides, and is told. */
    (void)rate(23, 2.1, 2.1, &why);
    assert_int_equal(why, LSM_STALL_LEVEL0);
    (void)rate(12, 2.99, 2.1, &why);
    assert_int_equal(why, LSM_STALL_MEMTABLES);
    (void)rate(12, 2, 3.9, &why);
    assert_int_equal(why, LSM_STALL_LOG);
    struct debt debt = {.l0 = 12};
    struct drain none = {0};
    assert_int_equal(pressure_rate(&debt, &none, &why), PRESSURE_FIRST_RATE * 3 / 2);
}

static void test_meter(void **unused)
{
    (void)unused;
    struct meter m = {0};
    assert_int_equal(meter_rate(&m), 0);
    for (unsigned i = 0; i < 100; i++)
        meter_add(&m, 10 * MIB, SECOND);
    assert_true(meter_rate(&m) > 10 * MIB - 10 && meter_rate(&m) < 10 * MIB + 10);
    for (unsigned i = 0; i < 30; i++)
        meter_add(&m, MIB, SECOND);
    assert_true(meter_rate(&m) < 2 * MIB); /* what was long ago is forgotten */
}

/* ---- the pacer ---- */

static void test_pacer(void **unused)
{
    (void)unused;
    struct pacer p = {0};
    uint64_t now = 1000 * SECOND;
    /* Time that was not used counts for a millisecond. */
    assert_int_equal(pacer_admit(&p, now, 1000, MIB, false), now);
    assert_true(p.due_ns < now);
    /* A writer alone goes on as fast as the rate says, however short each wait. */
    uint64_t began = now, bytes = 0;
    while (bytes < 10 * MIB) {
        uint64_t at = pacer_admit(&p, now, 1000, MIB, false);
        assert_true(at >= now && at - now <= PRESSURE_WAIT_MAX_NS);
        now = at + 1;
        bytes += 1000;
    }
    assert_true(now - began > 99 * SECOND / 10 && now - began < 101 * SECOND / 10);
    /* With nowait nothing is admitted that had to wait. */
    assert_true(pacer_admit(&p, now, MIB / 2, MIB, false) > now + SECOND / 3);
    uint64_t due = p.due_ns;
    assert_true(pacer_admit(&p, now, 1, MIB, true) == UINT64_MAX);
    assert_int_equal(p.due_ns, due);
    /* Nobody waits longer than the bound, whatever came before. */
    for (unsigned i = 0; i < 100; i++)
        assert_true(pacer_admit(&p, now, 100 * MIB, PRESSURE_RATE_MIN, false) <= now + PRESSURE_WAIT_MAX_NS);
    assert_int_equal(p.due_ns, now + PRESSURE_WAIT_MAX_NS);
    pacer_forgive(&p, now);
    assert_int_equal(pacer_admit(&p, now, 10, MIB, true), now);
}

struct admitting {
    struct pacer *p;
    uint64_t sum_ns;
};

static void *admit_many(void *arg)
{
    struct admitting *a = arg;
    for (unsigned i = 0; i < 10000; i++)
        (void)pacer_admit(a->p, SECOND, 8, 1000000000, false); /* 8 ns each */
    return NULL;
}

/* What several admit at once adds up. */
static void test_pacer_threads(void **unused)
{
    (void)unused;
    struct pacer p = {SECOND};
    struct admitting a = {.p = &p};
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, admit_many, &a), 0);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(p.due_ns, SECOND + 4 * 10000 * 8);
}

/* ---- a shard in simulated time ---- */

#define STEP_NS 20000u
#define WRITERS_MAX 64u

/*
 * One thread flushes, else compacts; a compaction takes all of level 0 and `base_bytes` of the next level. Writers write
 * without a pause, and their write costs `write_ns` besides.
 */
struct model {
    unsigned writers;
    uint64_t batch, buffer, write_ns;
    double flush_speed, compact_speed; /* bytes a second */
    double base_bytes;

    uint64_t now, ready[WRITERS_MAX];
    double active, flushed, compacted, total;
    unsigned sealed, l0, taken;
    uint64_t since, flush_since;
    struct meter l0_meter, flush_meter;
    struct pacer pacer;
    bool stopped[WRITERS_MAX];

    uint64_t written, longest_ns, stop_ns, idle_ns;
    unsigned l0_max;
};

static void model_work(struct model *m)
{
    double seconds = STEP_NS / 1e9;
    if (m->sealed) {
        m->flushed += m->flush_speed * seconds;
        if (!m->flush_since)
            m->flush_since = m->now;
        if (m->flushed >= (double)m->buffer) {
            meter_add(&m->flush_meter, (double)m->buffer, m->now - m->flush_since + STEP_NS);
            m->flushed = 0;
            m->flush_since = 0;
            m->sealed--;
            m->l0++;
        }
    } else if (m->taken) {
        m->compacted += m->compact_speed * seconds;
        if (m->compacted >= m->total) {
            meter_add(&m->l0_meter, m->taken * (double)m->buffer, m->now - m->since);
            m->since = m->now;
            m->l0 -= m->taken;
            m->taken = 0;
        }
    } else if (m->l0 >= 4) {
        m->taken = m->l0;
        m->compacted = 0;
        m->total = m->taken * (double)m->buffer + m->base_bytes;
    } else {
        m->since = m->now;
        m->idle_ns += STEP_NS;
    }
    m->l0_max = m->l0 > m->l0_max ? m->l0 : m->l0_max;
}

static void model_write(struct model *m, unsigned i)
{
    if (m->active + (double)m->batch > (double)m->buffer) {
        if (m->sealed == SEALED_MAX) {
            m->ready[i] = m->now + STEP_NS;
            m->stop_ns += STEP_NS;
            return;
        }
        m->sealed++;
        m->active = 0;
    }
    m->active += (double)m->batch;
    m->written += m->batch;
    struct debt debt = {.l0 = m->l0 - (m->taken ? m->taken * m->compacted / m->total : 0),
                        .memtables =
                            m->sealed < SEALED_MAX ? m->sealed : m->sealed + m->active / (double)m->buffer};
    struct drain drain = {meter_rate(&m->l0_meter), meter_rate(&m->flush_meter)};
    enum lsm_stall_reason why;
    uint64_t allowed = pressure_rate(&debt, &drain, &why), at = m->ready[i] + m->write_ns;
    if (allowed != PRESSURE_UNLIMITED) {
        uint64_t go = pacer_admit(&m->pacer, at, m->batch, allowed, false);
        m->longest_ns = go - at > m->longest_ns ? go - at : m->longest_ns;
        at = go;
    }
    m->ready[i] = at;
}

/* Runs for so long; returns bytes a second. */
static double model_run(struct model *m, uint64_t ns)
{
    uint64_t end = m->now + ns, before = m->written;
    for (; m->now < end; m->now += STEP_NS) {
        model_work(m);
        for (unsigned i = 0; i < m->writers; i++) {
            if (m->ready[i] + SECOND < m->now)
                m->ready[i] = m->now;
            while (m->ready[i] <= m->now)
                model_write(m, i);
        }
    }
    return (double)(m->written - before) * 1e9 / (double)ns;
}

static void model_start(struct model *m)
{
    m->now = m->since = 10 * SECOND;
    for (unsigned i = 0; i < m->writers; i++)
        m->ready[i] = m->now;
}

/* Throughput settles, at what the background thread can do: it is never idle, and writers are hardly ever stopped. */
static void check_settles(struct model *m, const char *name)
{
    model_start(m);
    (void)model_run(m, 60 * SECOND);
    double sum = 0, least = 1e18, most = 0;
    m->stop_ns = m->idle_ns = 0;
    m->l0_max = 0;
    assert_true(m->longest_ns <= PRESSURE_WAIT_MAX_NS);
    m->longest_ns = 0;
    for (unsigned i = 0; i < 8; i++) {
        double speed = model_run(m, 15 * SECOND);
        sum += speed / 8;
        least = speed < least ? speed : least;
        most = speed > most ? speed : most;
    }
    if (getenv("SHALE_TEST_LOG"))
        printf("%s: %.2f MiB/s, %.2f to %.2f; the longest wait %.3f ms, stopped %.2f s, at most %u tables, "
               "idle %.2f s\n",
               name, sum / MIB, least / MIB, most / MIB, (double)m->longest_ns / 1e6,
               (double)m->stop_ns / 1e9, m->l0_max, (double)m->idle_ns / 1e9);
    assert_true(least > 0.7 * sum && most < 1.3 * sum);
    /* What all writers' bytes cost, a few times over. */
    assert_true((double)m->longest_ns < 1e7 + 1e9 * 8 * m->writers * (double)m->batch / sum);
    assert_true(m->stop_ns < 120 * SECOND * m->writers / 100);
    assert_true(m->idle_ns < 120 * SECOND / 50);
    assert_true(m->l0_max <= 2 * L0_STOP);
}

static void test_settles(void **unused)
{
    (void)unused;
    struct model one = {.writers = 1,
                        .batch = 424,
                        .buffer = 4 * MIB,
                        .write_ns = 5000,
                        .flush_speed = 80 * MIB,
                        .compact_speed = 60 * MIB,
                        .base_bytes = 64 * MIB};
    check_settles(&one, "one writer");
    struct model many = {.writers = 16,
                         .batch = 4 * KIB,
                         .buffer = 16 * MIB,
                         .write_ns = 30000,
                         .flush_speed = 200 * MIB,
                         .compact_speed = 100 * MIB,
                         .base_bytes = 256 * MIB};
    check_settles(&many, "16 writers");
    struct model slow = {.writers = 4,
                         .batch = 64 * KIB,
                         .buffer = 8 * MIB,
                         .write_ns = 100000,
                         .flush_speed = 30 * MIB,
                         .compact_speed = 10 * MIB,
                         .base_bytes = 40 * MIB};
    check_settles(&slow, "slow compaction");
    struct model flushes = {.writers = 2,
                            .batch = 4 * KIB,
                            .buffer = 8 * MIB,
                            .write_ns = 10000,
                            .flush_speed = 20 * MIB,
                            .compact_speed = 2000 * MIB,
                            .base_bytes = MIB};
    check_settles(&flushes, "slow flushes");
}

/* A disk that is suddenly a tenth as fast: the rates follow. */
static void test_follows(void **unused)
{
    (void)unused;
    struct model m = {.writers = 4,
                      .batch = 4 * KIB,
                      .buffer = 4 * MIB,
                      .write_ns = 10000,
                      .flush_speed = 100 * MIB,
                      .compact_speed = 60 * MIB,
                      .base_bytes = 40 * MIB};
    check_settles(&m, "fast disk");
    m.flush_speed /= 10;
    m.compact_speed /= 10;
    check_settles(&m, "a tenth as fast");
    m.flush_speed *= 10;
    m.compact_speed *= 10;
    check_settles(&m, "fast again");
}

/* More at once than the rate takes in the bound: it is admitted, and level 0 grows; nobody waits longer. */
static void test_bound(void **unused)
{
    (void)unused;
    struct model m = {.writers = 64,
                      .batch = 256 * KIB,
                      .buffer = MIB,
                      .write_ns = 10000,
                      .flush_speed = 40 * MIB,
                      .compact_speed = MIB,
                      .base_bytes = 64 * MIB};
    model_start(&m);
    (void)model_run(&m, 60 * SECOND);
    assert_true(m.l0_max > 2 * L0_STOP);
    assert_true(m.longest_ns > PRESSURE_WAIT_MAX_NS / 2 && m.longest_ns <= PRESSURE_WAIT_MAX_NS);
}

/* ---- a store ---- */

struct store {
    struct rules rules;
    struct lsm_options options;
    struct lsm *db;
};

static void store_open(struct store *s, size_t write_buffer_bytes)
{
    memset(s, 0, sizeof *s);
    rules_init(&s->rules);
    s->options = (struct lsm_options){.flags = LSM_CREATE,
                                      .shards = 1,
                                      .memory_bytes = 32 * MIB,
                                      .write_buffer_bytes = write_buffer_bytes,
                                      .table_bytes = 16 * MIB,
                                      .log_segment_bytes = 4 * MIB,
                                      .commit_ms = 10000,
                                      .compression = LSM_COMPRESSION_NONE,
                                      .env = &s->rules.base};
    assert_int_equal(lsm_open("/store", &s->options, &s->db), 0);
}

static void store_close(struct store *s)
{
    assert_int_equal(lsm_close(s->db), 0);
    env_mem_free(s->rules.inner);
}

static const struct lsm_shard_stats *shard_stats(struct store *s)
{
    static struct lsm_stats stats;
    lsm_stats_get(s->db, &stats);
    return &stats.shard[0];
}

static int put(struct store *s, unsigned n, unsigned flags)
{
    char key[16], value[1000];
    memset(value, (int)n, sizeof value);
    return lsm_put(s->db, key, (size_t)sprintf(key, "%08u", n * 7919 % 4000), value, sizeof value, flags);
}

/* Memtables of 64 KiB make smaller tables than this, compactions larger ones. */
static int slow_compactions(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r;
    if (op == OP_WRITE && is_kind(name, ".sst") && offset >= 256 * KIB)
        usleep(100000);
    return 0;
}

static int slow_flushes(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r, (void)offset;
    if (op == OP_SYNC && is_kind(name, ".sst"))
        usleep(100000);
    return 0;
}

static void test_slow_compactions(void **unused)
{
    (void)unused;
    struct store s;
    store_open(&s, 64 * KIB);
    for (unsigned i = 0; i < 4000; i++)
        assert_int_equal(put(&s, i, 0), 0);
    assert_int_equal(lsm_compact(s.db), 0);
    set_rule(&s.rules, slow_compactions);
    bool limited = false, refused = false;
    for (unsigned i = 0; i < 8000; i++) {
        int err = put(&s, i, LSM_NOWAIT);
        assert_true(err == 0 || err == -EAGAIN);
        const struct lsm_shard_stats *st = err ? shard_stats(&s) : NULL;
        if (st && st->limited_by == LSM_STALL_LEVEL0) {
            refused = true;
            limited |= st->limit_bytes_per_s > 0;
        }
        if (err)
            assert_int_equal(put(&s, i, 0), 0);
    }
    set_rule(&s.rules, NULL);
    const struct lsm_shard_stats *st = shard_stats(&s);
    const struct lsm_stall *l0 = &st->stall[LSM_STALL_LEVEL0];
    if (getenv("SHALE_TEST_LOG"))
        for (unsigned i = 0; i < LSM_STALLS; i++)
            printf("reason %u: %lu, %lu ms, longest %lu ms; level 0 has %lu\n", i,
                   (unsigned long)st->stall[i].count, (unsigned long)(st->stall[i].ns / 1000000),
                   (unsigned long)(st->stall[i].longest_ns / 1000000), (unsigned long)st->files[0]);
    assert_true(limited && refused);
    assert_true(l0->count > 0 && l0->ns > 0 && l0->longest_ns > 0 && l0->longest_ns <= l0->ns);
    /* What a sleep may be late on a busy machine is not ours: twice the bound is far below what one compaction takes. */
    assert_true(l0->longest_ns <= 2 * PRESSURE_WAIT_MAX_NS);
    assert_int_equal(l0->waiting, 0);
    assert_int_equal(st->stall[LSM_STALL_DISK].count, 0);
    assert_int_equal(lsm_compact(s.db), 0); /* it catches up */
    assert_int_equal(shard_stats(&s)->limited_by, LSM_STALLS);
    assert_int_equal(shard_stats(&s)->files[0], 0);
    store_close(&s);
}

static void test_slow_flushes(void **unused)
{
    (void)unused;
    struct store s;
    store_open(&s, 64 * KIB);
    set_rule(&s.rules, slow_flushes);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(put(&s, i, 0), 0);
    set_rule(&s.rules, NULL);
    const struct lsm_stall *stall = shard_stats(&s)->stall;
    assert_true(stall[LSM_STALL_MEMTABLES].count > 0 && stall[LSM_STALL_MEMTABLES].ns > 0);
    assert_int_equal(stall[LSM_STALL_DISK].count, 0);
    store_close(&s);
}

/* No segment of the log is made before that. */
static int released;

static int held_segments(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r, (void)offset;
    for (unsigned i = 0; op == OP_CREATE && is_kind(name, ".log") && i < 6000; i++) {
        if (__atomic_load_n(&released, __ATOMIC_ACQUIRE))
            break;
        usleep(10000);
    }
    return 0;
}

/* None at all, and nothing is flushed before that. */
static int no_segments(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r, (void)offset;
    for (unsigned i = 0; op == OP_SYNC && is_kind(name, ".sst") && i < 6000; i++) {
        if (__atomic_load_n(&released, __ATOMIC_ACQUIRE))
            break;
        usleep(10000);
    }
    return op == OP_CREATE && is_kind(name, ".log") ? -ENOSPC : 0;
}

static void *fill_log(void *arg)
{
    struct store *s = arg;
    for (unsigned i = 0; i < 12000; i++) {
        int err = put(s, i, 0);
        assert_true(err == 0 || err == -ENOSPC);
    }
    return NULL;
}

/* Somebody writes until he waits for that reason; then what he waits for is done. Was he seen waiting? */
static bool write_until_waiting(struct store *s, enum lsm_stall_reason why)
{
    pthread_t writer;
    bool waits = false;
    assert_int_equal(pthread_create(&writer, NULL, fill_log, s), 0);
    for (unsigned i = 0; i < 6000 && !waits; i++) {
        usleep(10000);
        waits = shard_stats(s)->stall[why].waiting > 0;
    }
    __atomic_store_n(&released, 1, __ATOMIC_RELEASE);
    assert_int_equal(pthread_join(writer, NULL), 0);
    set_rule(&s->rules, NULL);
    return waits;
}

/* Faster than a new segment of the log can be made. */
static void test_slow_log(void **unused)
{
    (void)unused;
    struct store s;
    store_open(&s, 64 * KIB);
    __atomic_store_n(&released, 0, __ATOMIC_RELEASE);
    set_rule(&s.rules, held_segments);
    bool waited = write_until_waiting(&s, LSM_STALL_LOG);
    const struct lsm_stall *stall = shard_stats(&s)->stall;
    assert_true(waited && stall[LSM_STALL_LOG].count > 0 && stall[LSM_STALL_LOG].longest_ns > 0);
    assert_int_equal(stall[LSM_STALL_LOG].waiting, 0);
    assert_int_equal(stall[LSM_STALL_DISK].count, 0);
    store_close(&s);
}

/* Where no segment can be made, flushing gives used ones back: who waits for that waits for the disk. */
static void test_full_disk(void **unused)
{
    (void)unused;
    struct store s;
    store_open(&s, 4 * MIB); /* three of them take more than the two segments that there may be */
    __atomic_store_n(&released, 0, __ATOMIC_RELEASE);
    set_rule(&s.rules, no_segments);
    bool waited = write_until_waiting(&s, LSM_STALL_DISK);
    const struct lsm_stall *stall = shard_stats(&s)->stall;
    assert_true(waited && stall[LSM_STALL_DISK].count > 0 && stall[LSM_STALL_DISK].ns > 0);
    assert_int_equal(stall[LSM_STALL_DISK].waiting, 0);
    assert_int_equal(put(&s, 1, 0), 0);
    store_close(&s);
}

static void make_tables(struct store *s, unsigned tables)
{
    for (unsigned i = 0; i < tables; i++) {
        for (unsigned n = 0; n < 20; n++)
            assert_int_equal(put(s, i * 20 + n, 0), 0);
        assert_int_equal(lsm_flush(s->db), 0);
        usleep(10000);
    }
}

/* While writers are fast, level 0 is compacted at 10 tables, not at 4. Once they are not, what was put off is done. */
static void test_busy(void **unused)
{
    (void)unused;
    struct store s;
    store_open(&s, 64 * KIB);
    make_tables(&s, 60); /* is seen to be fast after 250 ms */
    struct lsm_shard_stats before = *shard_stats(&s);
    make_tables(&s, 60);
    const struct lsm_shard_stats *after = shard_stats(&s);
    uint64_t flushes = after->flushes - before.flushes, compactions = after->compactions - before.compactions;
    assert_true(flushes >= 60 && compactions > 0 && 8 * compactions <= flushes);
    make_tables(&s, 5);
    unsigned waited_ms = 0;
    for (; shard_stats(&s)->files[0] >= 4 && waited_ms < 60000; waited_ms += 10)
        usleep(10000);
    assert_true(waited_ms < 60000);
    store_close(&s);
}

static int failed_syncs(struct rules *r, enum op op, const char *name, uint64_t offset)
{
    (void)r, (void)name, (void)offset;
    return op == OP_SYNC ? -EIO : 0;
}

/* A store that has failed while writers were fast has nothing more to do, and does nothing. */
static void test_failed_while_busy(void **unused)
{
    (void)unused;
    struct store s;
    struct timespec before, after;
    store_open(&s, 64 * KIB);
    make_tables(&s, 60);
    set_rule(&s.rules, failed_syncs);
    assert_int_equal(put(&s, 1, LSM_SYNC), -EIO);
    usleep(600000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(1000000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    assert_true((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 < 300);
    set_rule(&s.rules, NULL);
    assert_true(lsm_close(s.db) < 0);
    env_mem_free(s.rules.inner);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_meter),
        cmocka_unit_test(test_pacer),
        cmocka_unit_test(test_pacer_threads),
        cmocka_unit_test(test_settles),
        cmocka_unit_test(test_follows),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_slow_compactions),
        cmocka_unit_test(test_slow_flushes),
        cmocka_unit_test(test_slow_log),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_failed_while_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
