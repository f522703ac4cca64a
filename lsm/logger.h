/*
 * logger.h - messages of the engine for a person, and the one place where damage is reported.
 *
 * Threads: any. Messages are single lines without a trailing newline.
 */
#ifndef LSM_LOGGER_H
#define LSM_LOGGER_H

#include <errno.h>
#include <shale/lsm.h>
#include <stdint.h>

struct logger {
    void (*fn)(void *arg, enum lsm_log_level level, const char *message);
    void *arg;
    /* If set, gets what logger_corrupt reports instead of `fn`: for who collects damage (verify.c). */
    void (*corrupt)(void *arg, const char *file, uint64_t offset, const char *what);
};

__attribute__((format(printf, 3, 4))) void logger_write(const struct logger *log, enum lsm_log_level level,
                                                        const char *format, ...);

/*
 * Reports that bytes of `file` at `offset` are not what was written there, and returns -EIO.
 * Every detected corruption passes through here, so that a debugger needs one breakpoint.
 */
__attribute__((format(printf, 4, 5))) int logger_corrupt(const struct logger *log, const char *file,
                                                         uint64_t offset, const char *format, ...);

#endif
