/* cpu.c - see cpu.h. */
#include "cpu.h"

#include "env.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define POSSIBLE "/sys/devices/system/cpu/possible"
#define CPUS_MAX 4096u

unsigned cpu_count_list(const char *text)
{
    unsigned count = 0;
    char *end;

    for (;; text = end + 1) {
        if (*text < '0' || *text > '9')
            return 0;
        unsigned long first = strtoul(text, &end, 10), last = first;
        if (*end == '-') {
            if (end[1] < '0' || end[1] > '9')
                return 0;
            last = strtoul(end + 1, &end, 10);
        }
        if (last < first || last >= CPUS_MAX)
            return 0;
        count += (unsigned)(last - first) + 1;
        if (*end != ',')
            break;
    }
    return *end == '\0' || *end == '\n' ? count : 0;
}

unsigned cpu_possible(void)
{
    FILE *f = fopen(POSSIBLE, "re");
    char text[256];
    unsigned n = f && fgets(text, sizeof(text), f) ? cpu_count_list(text) : 0;
    long configured = n > 0 ? 0 : sysconf(_SC_NPROCESSORS_CONF);

    if (f)
        fclose(f);
    return n > 0 ? n : configured > 0 ? (unsigned)configured : 1;
}

int cpu_pin(int cpu)
{
    cpu_set_t set;

    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return 0;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof(set), &set) == 0;
}

void cpu_ordinary(void)
{
    const struct sched_param none = {0};

    /* Others than SCHED_IDLE are what somebody gave the whole process. */
    if (sched_getscheduler(0) == SCHED_IDLE && sched_getscheduler(getpid()) == SCHED_OTHER)
        (void)sched_setscheduler(0, SCHED_OTHER, &none); /* allowed, or there were no such threads */
}

void cpu_prompt(void) { env_thread_prompt(env_posix()); }
