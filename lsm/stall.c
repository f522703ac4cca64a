/*
 * stall.c - holds writers back while a shard's background work lags behind, and counts who waited for what.
 *
 * pressure.h says how fast writes go. Here is what that needs to know of a shard: what it owes, which view.c and the
 * background thread keep up to date, and how fast the background thread gets rid of it.
 *
 * With LSM_INLINE the writer does the work itself, one step after the other, until level 0 is below L0_SLOWDOWN; there is
 * no bound, since nobody else would ever do it.
 *
 * Threads: stall_hold_back, stall_begin, stall_end any, without locks; stall_shape under the shard's lock; the
 * other ones the shard's background thread.
 */
#include "db.h"

#include <errno.h>
#include <time.h>

#define LOOK_NS UINT64_C(5000000) /* a writer that waits for longer looks so often whether it still must */
#define DONE_UNIT 1024u           /* l0_done counts tables in parts of that */

/* ---- what the shard owes ---- */

void stall_shape(struct shard *s, size_t l0_tables, size_t sealed)
{
    if (l0_tables <
        __atomic_load_n(&s->l0_tables, __ATOMIC_RELAXED)) /* the compaction at work is installed */
        __atomic_store_n(&s->l0_done, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&s->l0_tables, (unsigned)l0_tables, __ATOMIC_RELAXED);
    __atomic_store_n(&s->sealed, (unsigned)sealed, __ATOMIC_RELAXED);
}

static unsigned l0_tables(const struct shard *s) { return __atomic_load_n(&s->l0_tables, __ATOMIC_RELAXED); }

/* Nothing that writers could wait for would change anything. */
static bool l0_is_stuck(const struct shard *s)
{
    return __atomic_load_n(&s->compaction_broken, __ATOMIC_RELAXED) ||
           __atomic_load_n(&s->compaction_too_large, __ATOMIC_RELAXED);
}

static double log_debt(const struct lsm *db)
{
    lsn_t start = __atomic_load_n(&db->log_start, __ATOMIC_RELAXED), frontier = db_frontier(db);
    return frontier > start ? (double)(frontier - start) / (double)db->options.log_budget_bytes : 0;
}

static double memtable_debt(struct shard *s)
{
    double debt = __atomic_load_n(&s->sealed, __ATOMIC_RELAXED);
    if (debt < SEALED_MAX)
        return debt;
    struct view *v = view_get(s);
    size_t used = memtable_used_bytes(v->active), left = memtable_free_bytes(v->active);
    debt = v->sealed_count < SEALED_MAX ? (double)v->sealed_count
                                        : SEALED_MAX + (double)used / ((double)used + (double)left + 1);
    view_unref(v);
    return debt;
}

static uint64_t rate_of(struct shard *s, enum lsm_stall_reason *why)
{
    double done = (double)__atomic_load_n(&s->l0_done, __ATOMIC_RELAXED) / DONE_UNIT, l0 = l0_tables(s);
    struct debt debt = {.l0 = l0_is_stuck(s) || l0 < done ? 0 : l0 - done,
                        .memtables = memtable_debt(s),
                        .log = log_debt(s->db)};
    struct drain drain = {.l0 = count_get(&s->drain.l0), .flush = count_get(&s->drain.flush)};
    return pressure_rate(&debt, &drain, why);
}

/* ---- how fast it gets rid of it ---- */

void stall_flushed(struct shard *s, uint64_t bytes, uint64_t ns)
{
    s->table_bytes = s->table_bytes ? (3 * s->table_bytes + bytes) / 4 : bytes;
    meter_add(&s->flush_meter, (double)bytes, ns);
    __atomic_store_n(&s->drain.flush, meter_rate(&s->flush_meter), __ATOMIC_RELAXED);
}

void stall_l0_busy(struct shard *s) { s->l0_since_ns = env_mono_ns(s->db->env); }

void stall_l0_done(struct shard *s, size_t tables, uint64_t part, uint64_t whole)
{
    uint64_t done = whole ? tables * DONE_UNIT * (part < whole ? part : whole) / whole : 0;
    __atomic_store_n(&s->l0_done, done, __ATOMIC_RELAXED);
}

void stall_l0_drained(struct shard *s, size_t tables)
{
    uint64_t since = s->l0_since_ns;
    stall_l0_busy(s);
    if (!s->table_bytes || !since) /* what was there at open says nothing of what is written now */
        return;
    meter_add(&s->l0_meter, (double)tables * (double)s->table_bytes, s->l0_since_ns - since);
    __atomic_store_n(&s->drain.l0, meter_rate(&s->l0_meter), __ATOMIC_RELAXED);
}

/* ---- who waits ---- */

uint64_t stall_begin(struct shard *s, enum lsm_stall_reason why)
{
    __atomic_fetch_add(&s->stall[why].waiting, 1, __ATOMIC_RELAXED);
    return env_mono_ns(s->db->env);
}

void stall_end(struct shard *s, enum lsm_stall_reason why, uint64_t began_ns)
{
    struct lsm_stall *stall = &s->stall[why];
    uint64_t ns = env_mono_ns(s->db->env) - began_ns, longest = count_get(&stall->longest_ns);
    __atomic_fetch_sub(&stall->waiting, 1, __ATOMIC_RELAXED);
    count_add(&stall->count, 1);
    count_add(&stall->ns, ns);
    while (ns > longest && !__atomic_compare_exchange_n(&stall->longest_ns, &longest, ns, true,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

void stall_stats(struct shard *s, struct lsm_shard_stats *out)
{
    for (unsigned i = 0; i < LSM_STALLS; i++) {
        const struct lsm_stall *stall = &s->stall[i];
        out->stall[i] = (struct lsm_stall){.count = count_get(&stall->count),
                                           .ns = count_get(&stall->ns),
                                           .longest_ns = count_get(&stall->longest_ns),
                                           .waiting = count_get(&stall->waiting)};
    }
    out->limited_by = LSM_STALLS;
    uint64_t rate = s->db->wal && !db_inline(s->db) ? rate_of(s, &out->limited_by) : PRESSURE_UNLIMITED;
    out->limit_bytes_per_s = rate == PRESSURE_UNLIMITED ? 0 : rate;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    nanosleep(&t, NULL);
}

static void wait_until(struct shard *s, enum lsm_stall_reason why, uint64_t until_ns)
{
    struct env *env = s->db->env;
    enum lsm_stall_reason now_why;
    uint64_t began = stall_begin(s, why);
    for (uint64_t now = began; now < until_ns; now = env_mono_ns(env)) {
        bool last = until_ns - now <= LOOK_NS;
        sleep_ns(last ? until_ns - now : LOOK_NS);
        if (!last && (db_writable(s->db) || rate_of(s, &now_why) == PRESSURE_UNLIMITED)) {
            pacer_forgive(&s->pacer, env_mono_ns(env));
            break;
        }
    }
    stall_end(s, why, began);
}

/* ---- holding back ---- */

/* A compaction that can't be is no reason to wait; with level 0 as full as it should be it is one to refuse. */
static int at_stop(struct shard *s, bool nowait, bool patient, bool shrinks)
{
    if (l0_tables(s) < L0_STOP || __atomic_load_n(&s->compaction_broken, __ATOMIC_RELAXED))
        return 0;
    if (__atomic_load_n(&s->compaction_too_large, __ATOMIC_RELAXED))
        return shrinks ? 0 : -ENOSPC;
    if (!__atomic_load_n(&s->compaction_fails, __ATOMIC_RELAXED))
        return 0;
    if (nowait)
        return -EAGAIN;
    if (!patient)
        return 0;
    uint64_t since = shard_count(s, SHARD_STEPS), began = stall_begin(s, LSM_STALL_LEVEL0);
    int err = shard_wait(s, SHARD_STEPS, since);
    stall_end(s, LSM_STALL_LEVEL0, began);
    return err;
}

static int work_inline(struct shard *s, bool nowait, bool shrinks)
{
    int err = 0;
    while (!err && l0_tables(s) >= L0_SLOWDOWN && !l0_is_stuck(s)) {
        if (nowait)
            return -EAGAIN;
        uint64_t since = shard_count(s, SHARD_STEPS), began = stall_begin(s, LSM_STALL_LEVEL0);
        err = shard_wait(s, SHARD_STEPS, since);
        stall_end(s, LSM_STALL_LEVEL0, began);
    }
    return err ? err : at_stop(s, nowait, true, shrinks);
}

static bool owes_little(const struct shard *s)
{
    return l0_tables(s) < L0_SLOWDOWN && __atomic_load_n(&s->sealed, __ATOMIC_RELAXED) < SEALED_MAX;
}

int stall_hold_back(struct lsm *db, uint64_t mask, uint64_t bytes, bool nowait, bool shrinks)
{
    struct shard *slowest = NULL;
    enum lsm_stall_reason why = LSM_STALLS;
    uint64_t entered = 0, until = 0;
    bool log = !db_inline(db) && log_debt(db) >= LOG_SLOWDOWN;
    int err = 0;
    for (unsigned i = 0; !err && i < db->shard_count; i++) {
        struct shard *s = &db->shards[i];
        if (!(mask >> i & 1) || (!log && owes_little(s)))
            continue;
        if (db_inline(db)) {
            err = work_inline(s, nowait, shrinks);
            continue;
        }
        if (!entered)
            entered = env_mono_ns(db->env);
        enum lsm_stall_reason reason;
        bool patient = env_mono_ns(db->env) - entered < PRESSURE_WAIT_MAX_NS; /* once, not for each shard */
        err = at_stop(s, nowait, patient, shrinks);
        uint64_t rate = err ? PRESSURE_UNLIMITED : rate_of(s, &reason);
        if (rate == PRESSURE_UNLIMITED)
            continue;
        uint64_t now = env_mono_ns(db->env), at = pacer_admit(&s->pacer, now, bytes, rate, nowait);
        if (nowait && at == UINT64_MAX)
            err = -EAGAIN;
        if (at > now && at > until) {
            slowest = s;
            until = at;
            why = reason;
        }
    }
    if (err || !slowest)
        return err;
    uint64_t last = entered + PRESSURE_WAIT_MAX_NS;
    wait_until(slowest, why, until < last ? until : last);
    return 0;
}
