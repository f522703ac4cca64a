/* journal.c - see journal.h. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x316c61756f6a6873)
#define BYTES (sizeof(struct journal_header) + JOURNAL_RECORDS_MAX * sizeof(struct journal_record))

uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

bool journal_open(const char *path, uint64_t seed, struct journal *out)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *map = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, BYTES) == 0)
        map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    close(fd);
    out->header = map;
    out->records = (void *)(out->header + 1);
    if (out->header->magic == 0) {
        out->header->magic = MAGIC;
        out->header->seed = seed;
    }
    if (out->header->magic != MAGIC) {
        fprintf(stderr, "%s is no journal\n", path);
        journal_close(out);
        return false;
    }
    return true;
}

void journal_close(struct journal *j) { munmap(j->header, BYTES); }

uint64_t journal_begun(const struct journal *j)
{
    uint64_t low = 0, high = JOURNAL_RECORDS_MAX;

    while (low < high) { /* the first record without a begin */
        uint64_t mid = (low + high) / 2;
        if (__atomic_load_n(&j->records[mid].begin_ns, __ATOMIC_ACQUIRE))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

uint64_t journal_acknowledged(const struct journal *j)
{
    uint64_t n = journal_begun(j);

    return n > 0 && __atomic_load_n(&j->records[n - 1].end_ns, __ATOMIC_ACQUIRE) == 0 ? n - 1 : n;
}

void journal_cut(struct journal *j, uint64_t n)
{
    for (uint64_t i = n; i < JOURNAL_RECORDS_MAX && j->records[i].begin_ns; i++)
        memset(&j->records[i], 0, sizeof(j->records[i]));
}
