/*
 * log.h - where the daemon's messages go.
 *
 * Until log_to_syslog is called messages go to the standard error of the start, whatever happens
 * to descriptor 2 meanwhile; afterwards to syslog(3), facility daemon. Errors that the engine or libfuse
 * report while the mount is being made are held back, so that the one line that tells of the
 * failure can carry the reason: log_reason hands it over.
 *
 * Threads: any, except log_open, which comes first of all.
 */
#ifndef FUSE_LOG_H
#define FUSE_LOG_H

#include <shale/lsm.h>

/*
 * `verbose`: debug messages, too. `quiet`: nothing less than a warning, until log_to_syslog. Takes
 * over libfuse's messages as well.
 */
void log_open(bool verbose, bool quiet);
void log_to_syslog(void);

__attribute__((format(printf, 2, 3))) void log_write(enum lsm_log_level level, const char *format, ...);
void log_engine(void *unused, enum lsm_log_level level, const char *message); /* lsm_options.log */

/*
 * One line for the user who waits for the start, never held back or left out. Of a failure: what,
 * where, what to do.
 */
__attribute__((format(printf, 1, 2))) void log_tell(const char *format, ...);

/* From now on errors are held back (the first of them), or no longer. */
void log_hold(bool hold);
/* What was held back, or ""; forgets it. The text stays valid until the next call. */
const char *log_reason(void);

#endif
