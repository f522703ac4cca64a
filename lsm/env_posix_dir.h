/*
 * env_posix_dir.h - private to env_posix: directories that are held by descriptor while they are locked.
 *
 * A store is opened under a path, and used under it for weeks. Whoever may change a directory above it
 * could meanwhile put another one, or a symbolic link, in its place, and have a daemon that runs as root
 * create, overwrite and delete files elsewhere. Therefore env_lock pins the directory that the lock is in:
 * from then until env_unlock, names in it are looked up relative to its descriptor and not by path
 * (which also means that it may be renamed in use). Other paths are used as they are.
 *
 * Files are never reached through a symbolic link, must be regular, and in a pinned directory must
 * belong to its owner or to us.
 *
 * Threads: any.
 */
#ifndef LSM_ENV_POSIX_DIR_H
#define LSM_ENV_POSIX_DIR_H

#include <stdbool.h>
#include <sys/types.h>

struct pin;

/*
 * Pins the directory in which the file at `path` is. `for_writing` refuses with -EPERM one in which others may change names: it must be
 * ours (or we are root) and writable for its owner only. Released by pin_release.
 */
int pin_directory(const char *path, bool for_writing, struct pin **out);
void pin_release(struct pin *p); /* NULL is allowed */

/* Where a path leads: name relative to fd, as for openat(2). Release with place_release. */
struct place {
    int fd;
    const char *name; /* borrowed from the path, or "." */
    struct pin *pin;  /* referenced, or NULL */
};

/* Of a file: its directory may be pinned. */
struct place place_of_file(const char *path);
/* Of a directory, which may be pinned itself. */
struct place place_of_directory(const char *path);
void place_release(struct place *at);

/* Opens a file as open(2) would, with the rules above. O_TRUNC is obeyed only once they hold. Returns the descriptor. */
int place_open(const char *path, int flags, mode_t mode);

#endif
