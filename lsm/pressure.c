/* pressure.c - see pressure.h. */
#include "pressure.h"

void meter_add(struct meter *m, double amount, uint64_t ns)
{
    m->amount += amount;
    m->ns += (double)ns;
    while (m->ns > (double)METER_NS) {
        m->amount /= 2;
        m->ns /= 2;
    }
}

uint64_t meter_rate(const struct meter *m) { return m->ns > 0 ? (uint64_t)(m->amount * 1e9 / m->ns) : 0; }

/* From `first` at the beginning of what a debt should stay in, to `last` at its end and beyond. */
static double share(double debt, double from, double to, double first, double last)
{
    double way = (debt - from) / (to - from);
    return way < 1 ? first + (last - first) * way : last;
}

static double of_level0(double tables)
{
    double x = share(tables, L0_SLOWDOWN, L0_STOP, 1.5, LAST_SHARE);
    for (double over = tables - L0_STOP; over >= 4 && x > LAST_SHARE / 256; over -= 4)
        x /= 2;
    return x;
}

uint64_t pressure_rate(const struct debt *debt, const struct drain *drain, enum lsm_stall_reason *why)
{
    double least = 0, l0 = (double)(drain->l0 ? drain->l0 : PRESSURE_FIRST_RATE),
           flush = (double)(drain->flush ? drain->flush : PRESSURE_FIRST_RATE);
    *why = LSM_STALLS;
    if (debt->l0 >= L0_SLOWDOWN) {
        *why = LSM_STALL_LEVEL0;
        least = l0 * of_level0(debt->l0);
    }
    if (debt->memtables >= SEALED_MAX) {
        double rate = flush * share(debt->memtables, SEALED_MAX, SEALED_MAX + 1, 2, 0);
        if (*why == LSM_STALLS || rate < least) {
            *why = LSM_STALL_MEMTABLES;
            least = rate;
        }
    }
    if (debt->log >= LOG_SLOWDOWN) {
        double rate = flush * share(debt->log, LOG_SLOWDOWN, 2 * LOG_SLOWDOWN, 2, LAST_SHARE);
        if (*why == LSM_STALLS || rate < least) {
            *why = LSM_STALL_LOG;
            least = rate;
        }
    }
    if (*why == LSM_STALLS)
        return PRESSURE_UNLIMITED;
    return least > PRESSURE_RATE_MIN ? (uint64_t)least : PRESSURE_RATE_MIN;
}

uint64_t pacer_admit(struct pacer *p, uint64_t now_ns, uint64_t bytes, uint64_t rate, bool nowait)
{
    uint64_t due = __atomic_load_n(&p->due_ns, __ATOMIC_RELAXED), next;
    double takes = (double)bytes * 1e9 / (double)rate;
    uint64_t cost = takes < (double)PRESSURE_WAIT_MAX_NS ? (uint64_t)takes : PRESSURE_WAIT_MAX_NS;
    uint64_t earliest = now_ns > PRESSURE_CREDIT_NS ? now_ns - PRESSURE_CREDIT_NS : 0;
    do {
        next = (due > earliest ? due : earliest) + cost;
        if (next > now_ns + PRESSURE_WAIT_MAX_NS)
            next = now_ns + PRESSURE_WAIT_MAX_NS;
        if (nowait && next > now_ns + PRESSURE_QUANTUM_NS)
            return UINT64_MAX;
    } while (!__atomic_compare_exchange_n(&p->due_ns, &due, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return next > now_ns + PRESSURE_QUANTUM_NS ? next : now_ns;
}

void pacer_forgive(struct pacer *p, uint64_t now_ns)
{
    __atomic_store_n(&p->due_ns, now_ns, __ATOMIC_RELAXED);
}
