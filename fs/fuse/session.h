/*
 * session.h - one mount: from mount(2) to the last reply.
 *
 * Order of the parts: the session mounts, the transport serves, the reclaim thread helps. Taken
 * down the other way round, with the transport serving until the kernel needs it no more.
 *
 * Threads: all functions from the main thread, with SIGTERM, SIGINT and SIGHUP blocked in every thread
 * (session_block_signals before the first one is started).
 */
#ifndef FUSE_SESSION_H
#define FUSE_SESSION_H

#include "fs.h"
#include "options.h"

struct session;

void session_block_signals(void);

/*
 * Mounts and starts to serve. Tells (log_tell) what failed. `store` and `mountpoint` are real
 * paths that stay valid; the store's is shown as the source of the mount.
 */
int session_start(struct fs *fs, const struct options *options, const char *store, const char *mountpoint,
                  struct session **out);

/*
 * Has the mount's root asked for by another program, as a user would: 0 once that was answered, or if the filesystem has
 * been unmounted already. Tells (log_tell) otherwise.
 */
int session_check(struct session *s);

/* Until a signal asks for the end or the filesystem was unmounted. */
void session_wait(struct session *s);

/*
 * Unmounts, if that was not done from outside: all mounts of this filesystem in our namespace that no other covers, and only
 * those; what is in use gets ENOTCONN. All replies have been
 * sent and nothing calls into the fs any more when it returns. Releases s.
 */
void session_stop(struct session *s);

#endif
