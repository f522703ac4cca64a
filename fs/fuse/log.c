/* log.c - see log.h. */
#define FUSE_USE_VERSION 314
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024 /* longer messages are cut */

static struct {
    pthread_mutex_t lock;
    int fd; /* standard error of the start; -1: syslog */
    enum lsm_log_level most;
    bool holding;
    char held[LINE_MAX_BYTES], handed[LINE_MAX_BYTES];
} state = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = STDERR_FILENO, .most = LSM_LOG_INFO};

static void emit(enum lsm_log_level level, const char *text)
{
    static const int priority[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
    char line[LINE_MAX_BYTES + 16];
    int n;

    if (state.fd < 0) {
        syslog(priority[level], "%s", text);
        return;
    }
    n = snprintf(line, sizeof(line), "shalefs: %s\n", text);
    /* Nobody is left to be told that standard error cannot be written. */
    if (write(state.fd, line, n < (int)sizeof(line) ? (size_t)n : sizeof(line) - 1) < 0)
        return;
}

static void put(enum lsm_log_level level, char *text)
{
    size_t len = strlen(text);

    while (len > 0 && text[len - 1] == '\n')
        text[--len] = '\0';
    pthread_mutex_lock(&state.lock);
    if (level == LSM_LOG_ERROR && state.holding) {
        if (state.held[0] == '\0')
            memcpy(state.held, text, len + 1);
    } else if (level <= state.most && len > 0) {
        emit(level, text);
    }
    pthread_mutex_unlock(&state.lock);
}

static void put_fuse(enum fuse_log_level level, const char *format, va_list ap)
{
    char text[LINE_MAX_BYTES];

    vsnprintf(text, sizeof(text), format, ap);
    put(level <= FUSE_LOG_ERR       ? LSM_LOG_ERROR
        : level == FUSE_LOG_WARNING ? LSM_LOG_WARNING
        : level <= FUSE_LOG_INFO    ? LSM_LOG_INFO
                                    : LSM_LOG_DEBUG,
        text);
}

void log_open(bool verbose, bool quiet)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);

    if (fd >= 0)
        state.fd = fd;
    state.most = verbose ? LSM_LOG_DEBUG : quiet ? LSM_LOG_WARNING : LSM_LOG_INFO;
    fuse_set_log_func(put_fuse);
}

void log_to_syslog(void)
{
    pthread_mutex_lock(&state.lock);
    openlog("shalefs", LOG_PID | LOG_NDELAY, LOG_DAEMON);
    if (state.fd > STDERR_FILENO)
        close(state.fd);
    state.fd = -1;
    if (state.most < LSM_LOG_INFO)
        state.most = LSM_LOG_INFO;
    pthread_mutex_unlock(&state.lock);
}

void log_write(enum lsm_log_level level, const char *format, ...)
{
    char text[LINE_MAX_BYTES];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    put(level, text);
}

void log_engine(void *unused, enum lsm_log_level level, const char *message)
{
    (void)unused;
    log_write(level, "%s", message);
}

void log_tell(const char *format, ...)
{
    char text[LINE_MAX_BYTES];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    pthread_mutex_lock(&state.lock);
    emit(LSM_LOG_ERROR, text);
    pthread_mutex_unlock(&state.lock);
}

void log_hold(bool hold)
{
    pthread_mutex_lock(&state.lock);
    state.holding = hold;
    pthread_mutex_unlock(&state.lock);
}

const char *log_reason(void)
{
    pthread_mutex_lock(&state.lock);
    memcpy(state.handed, state.held, sizeof(state.handed));
    state.held[0] = '\0';
    pthread_mutex_unlock(&state.lock);
    return state.handed;
}
