/*
 * pressure.h - back-pressure: how fast a shard takes writes while its background work lags behind.
 *
 * Three debts hold writers back. Level 0: each table there is one more that reads look into. Memtables: all that may wait
 * for their flush do, and the active one fills up. The log: unflushed records pin more of it than its budget. Each
 * has a point from which writes are paced, and the pace comes from what was measured: the bytes that
 * compactions have taken out of level 0, or flushes out of memtables, by the time that the shard's thread needed.
 * At the point where pacing begins they are admitted faster than that, and from there on ever slower, so that a
 * load that is too much settles where both are equal, and its writers notice waits of about what their bytes cost:
 *
 *     level 0      1.5 x the rate of compaction at L0_SLOWDOWN tables, falling to a 16th at L0_STOP, halved with each 4 more.
 *                  Counted is what is left: of 12 tables in a compaction that is half done, 6
 *     memtables    2 x the rate of flushes with an empty active memtable, falling to nothing with a full one
 *     log          2 x the rate of flushes at twice the budget, falling to a 16th at four times
 *
 * The bound. For the sake of compaction and the log's budget no write waits longer than PRESSURE_WAIT_MAX_NS: what
 * could be admitted only later is admitted then, and level 0 grows beyond L0_STOP. That costs reads (a look into one more
 * filter a table) and descriptors, but no memory that writers could exhaust. Memtables are different: they are
 * memory. Writers that find them all full wait for a flush, which takes as long as the medium takes for one
 * table; a compaction lets it in after 64 KiB. Pacing makes that rare.
 *
 * Paces are kept by time: each write moves the moment `due_ns` on by what its bytes take at the current rate, and
 * waits for that moment if it is more than PRESSURE_QUANTUM_NS away (a sleep takes 50 us longer than asked for; the time
 * that was overslept is credited to the next ones). So small writes sleep now and then, not each, and all writers of a
 * shard share one queue.
 *
 * With LSM_INLINE there is no thread that could catch up: writers do the work themselves (stall.c).
 *
 * Threads: pacer_admit any; meters belong to the shard's background thread, rates are read by any.
 */
#ifndef LSM_PRESSURE_H
#define LSM_PRESSURE_H

#include <shale/lsm.h>
#include <stdbool.h>
#include <stdint.h>

#define SEALED_MAX 2u   /* full memtables of a shard that may wait for their flush */
#define L0_SLOWDOWN 12u /* tables in level 0 from which on writes are paced */
#define L0_STOP 24u /* ... from which on compaction does nothing else, and its errors are those of writers */
#define LOG_SLOWDOWN 2u /* budgets of the log, likewise */

#define PRESSURE_WAIT_MAX_NS UINT64_C(1000000000)
#define PRESSURE_QUANTUM_NS UINT64_C(100000) /* shorter waits are put off: to sleep at all takes half of it */
#define PRESSURE_CREDIT_NS UINT64_C(1000000) /* of time not used, at most */
#define PRESSURE_UNLIMITED UINT64_MAX
/* Until something was measured, and never less: a medium that is slower than that is no reason to write nothing. */
#define PRESSURE_FIRST_RATE (16u << 20)
#define PRESSURE_RATE_MIN (64u << 10)
#define LAST_SHARE (1.0 / 16) /* of what is drained, at the end of what a debt should stay in */

/* Amount by time, of late: what is METER_NS ago counts half. */
#define METER_NS UINT64_C(5000000000)
struct meter {
    double amount, ns;
};
void meter_add(struct meter *m, double amount, uint64_t ns);
uint64_t meter_rate(const struct meter *m); /* a second; 0: nothing was measured */

/* What a shard owes. */
struct debt {
    double l0;        /* tables, less what a compaction at work has done of them */
    double memtables; /* those that wait, and how full the active one is: at most SEALED_MAX + 1 */
    double log;       /* from the oldest unflushed record on, in budgets */
};
/* Bytes a second of late; 0: not known yet. */
struct drain {
    uint64_t l0, flush;
};

/* Bytes a second that may be admitted, or PRESSURE_UNLIMITED; *why is what limits most, or LSM_STALLS. */
uint64_t pressure_rate(const struct debt *debt, const struct drain *drain, enum lsm_stall_reason *why);

struct pacer {
    uint64_t due_ns; /* atomic */
};
/*
 * Admits so many bytes. Returns when the write may go on: not after now + PRESSURE_WAIT_MAX_NS, and `now_ns` if it
 * need not wait. With nowait, UINT64_MAX if it had to; then nothing was admitted.
 */
uint64_t pacer_admit(struct pacer *p, uint64_t now_ns, uint64_t bytes, uint64_t rate, bool nowait);
/* The reason is gone: nobody waits any longer for what was admitted. */
void pacer_forgive(struct pacer *p, uint64_t now_ns);

#endif
