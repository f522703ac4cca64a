/*
 * logger.c - formats messages and hands them to the opener's callback.
 *
 * A message is one line of at most LOGGER_LINE_MAX bytes, cut if longer; control characters become
 * spaces, so that a name out of a damaged file can't forge a second line.
 *
 * Threads: any; the callback is called on the thread that reports.
 */
#include "logger.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define LOGGER_LINE_MAX 512

static void send_line(const struct logger *log, enum lsm_log_level level, char *line)
{
    for (char *p = line; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = ' ';
    }
    log->fn(log->arg, level, line);
}

void logger_write(const struct logger *log, enum lsm_log_level level, const char *format, ...)
{
    char line[LOGGER_LINE_MAX];
    va_list args;

    if (!log || !log->fn)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    send_line(log, level, line);
}

int logger_corrupt(const struct logger *log, const char *file, uint64_t offset, const char *format, ...)
{
    char what[LOGGER_LINE_MAX / 2], line[LOGGER_LINE_MAX];
    va_list args;

    if (!log || !(log->fn || log->corrupt))
        return -EIO;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    if (log->corrupt) {
        log->corrupt(log->arg, file, offset, what);
        return -EIO;
    }
    snprintf(line, sizeof(line), "damaged: %s (file %s, offset %" PRIu64 ")", what, file, offset);
    send_line(log, LSM_LOG_ERROR, line);
    return -EIO;
}
