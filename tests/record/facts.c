/* facts.c - see facts.h. */
#include "facts.h"

#include "trace.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int control_fd = -1;

void fact_open(const char *control)
{
    control_fd = open(control, O_WRONLY | O_CLOEXEC);
    if (control_fd < 0) {
        perror(control);
        exit(EXIT_USAGE);
    }
}

static void write_line(const char *line, int len)
{
    if (pwrite(control_fd, line, (size_t)len, 0) != len) {
        perror("writing a fact");
        exit(EXIT_USAGE);
    }
}

void fact(unsigned stream, const char *what, uint64_t n)
{
    char line[64];
    int len = snprintf(line, sizeof(line), "%c %s %" PRIu64, 'a' + (int)stream, what, n);

    write_line(line, len);
}

void fact_kept(uint64_t n)
{
    char line[64];

    write_line(line, snprintf(line, sizeof(line), "kept %" PRIu64, n));
}

static void read_line(struct facts *f, uint64_t covered[STREAMS_MAX][STREAMS_MAX], const char *line)
{
    unsigned s = (unsigned)(line[0] - 'a');
    char what[16];
    uint64_t n;

    if (sscanf(line, "kept %" SCNu64, &n) == 1)
        f->kept[f->kept_count++ % KEPT_MAX] = n;
    if (s >= STREAMS_MAX || sscanf(line + 1, " %15s %" SCNu64, what, &n) != 2)
        return;
    struct stream *own = &f->stream[s];
    if (strcmp(what, "begin") == 0 || strcmp(what, "sync") == 0)
        own->begun = n > own->begun ? n : own->begun;
    else
        own->done = n > own->done ? n : own->done;
    if (strcmp(what, "sync") == 0)
        for (unsigned k = 0; k < STREAMS_MAX; k++)
            covered[s][k] = k == s ? n : f->stream[k].done;
    if (strcmp(what, "synced") == 0)
        covered[s][s] = n; /* several may be under way */
    if (strcmp(what, "synced") == 0)
        for (unsigned k = 0; k < STREAMS_MAX; k++)
            if (covered[s][k] > f->stream[k].synced)
                f->stream[k].synced = covered[s][k];
}

struct facts facts_read(void)
{
    const char *path = getenv("RECORD_FACTS"), *loss = getenv("RECORD_LOSS");
    struct facts f = {.killed = loss && strcmp(loss, "nothing") == 0};
    uint64_t covered[STREAMS_MAX][STREAMS_MAX] = {{0}}; /* by the sync that each has begun */
    char line[TRACE_FACT_MAX + 2];
    FILE *file = path ? fopen(path, "r") : NULL;

    if (!file) {
        fprintf(stderr, "RECORD_FACTS is not set, or names no file: run this by replay\n");
        exit(EXIT_USAGE);
    }
    while (fgets(line, sizeof(line), file))
        read_line(&f, covered, line);
    fclose(file);
    return f;
}

uint64_t facts_promised(const struct facts *f, unsigned stream)
{
    const struct stream *s = &f->stream[stream];

    return f->killed && s->done > s->synced ? s->done : s->synced;
}

bool facts_kept(const struct facts *f, uint64_t step)
{
    for (unsigned k = 0; k < f->kept_count && k < KEPT_MAX; k++)
        if (f->kept[k] == step)
            return true;
    return false;
}

uint64_t mix(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t z = a * UINT64_C(0x9e3779b97f4a7c15) + b * UINT64_C(0xbf58476d1ce4e5b9) + c;

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
