/* privileges.c - see privileges.h. capabilities(7), prctl(2); plain system calls spare a library. */
#include "privileges.h"

#include "log.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NICE_0 20u /* nice 0 in RLIMIT_NICE's units, setrlimit(2) */

/* LeakSanitizer traces its own process at the end. */
#if defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static uint64_t bit(unsigned capability) { return UINT64_C(1) << capability; }

/* Whether the store, or the directory in which it will be made, is our own. */
static bool is_own(const char *store)
{
    char parent[PATH_MAX];
    struct stat st;

    if (stat(store, &st) < 0) {
        snprintf(parent, sizeof(parent), "%s", store);
        if (stat(dirname(parent), &st) < 0)
            return false;
    }
    return st.st_uid == geteuid();
}

/* What programs that we start could get at most. Unknown capabilities end the loop. */
static void limit_bounding_set(uint64_t keep)
{
    for (unsigned c = 0; c < 64; c++) {
        int has = prctl(PR_CAPBSET_READ, c, 0, 0, 0);
        if (has < 0)
            break;
        if (has && !(keep & bit(c)))
            prctl(PR_CAPBSET_DROP, c, 0, 0, 0); /* without CAP_SETPCAP it stays; NO_NEW_PRIVS holds */
    }
}

static int limit_capabilities(uint64_t keep)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    if (syscall(SYS_capget, &head, data) < 0)
        return -errno;
    for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
        data[i].permitted &= (uint32_t)(keep >> 32 * i);
        data[i].effective &= (uint32_t)(keep >> 32 * i);
        data[i].inheritable = 0;
    }
    return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/*
 * What yield.h needs: threads of the lowest policy may become ordinary ones again. Returns the capability that is needed for it, if
 * the limit can't be raised (in some containers); 0: none.
 */
static uint64_t allow_ordinary_niceness(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NICE, &limit) < 0)
        return bit(CAP_SYS_NICE);
    if (limit.rlim_cur >= NICE_0)
        return 0;
    limit.rlim_cur = NICE_0;
    if (limit.rlim_max < NICE_0)
        limit.rlim_max = NICE_0;
    return setrlimit(RLIMIT_NICE, &limit) < 0 ? bit(CAP_SYS_NICE) : 0;
}

static void drop_root(const char *store)
{
    uint64_t keep = bit(CAP_SYS_ADMIN) | bit(CAP_DAC_READ_SEARCH);
    int rc;

    keep |= allow_ordinary_niceness();
    if (!is_own(store))
        keep |= bit(CAP_DAC_OVERRIDE);
    limit_bounding_set(keep);
    rc = limit_capabilities(keep);
    if (rc == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        rc = -errno;
    if (rc < 0)
        log_write(LSM_LOG_WARNING, "cannot give up privileges: %s", strerror(-rc));
}

void privileges_drop(const char *store, bool debug)
{
    if (geteuid() == 0)
        drop_root(store);
    if (!debug && !SANITIZED && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        log_write(LSM_LOG_WARNING, "cannot protect the daemon's memory: %s", strerror(errno));
}
