/*
 * place.h - whether a store and a mount point can be used together, before anything is touched.
 *
 * Each function tells on standard error (log_tell) what is wrong and what to do, and returns a
 * negative errno. Looks at the system only; changes nothing.
 */
#ifndef FUSE_PLACE_H
#define FUSE_PLACE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct place {
    char store[PATH_MAX];      /* absolute, without symbolic links; need not exist */
    char mountpoint[PATH_MAX]; /* likewise; is a directory */
    bool store_existed;        /* and was not empty */
};

int place_check(const char *store, const char *mountpoint, struct place *out);

/* Is there a FUSE device, and a way to mount? */
int place_check_fuse(void);

/* Whether mounts can be looked up: there is a /proc. Without it the functions below find nothing. */
bool place_can_look(void);

/* Where the store is mounted by a shalefs, as far as this mount namespace shows: true, and the path. */
bool place_of_store(const char *store, char mountpoint[PATH_MAX]);

/*
 * A descriptor (O_PATH) of the directory at a real path, as place_check found it. -ELOOP if a part of it has become
 * a symbolic link meanwhile: somebody wants the path to lead elsewhere.
 */
int place_open_resolved(const char *path);

/* Where the filesystem with this device number is mounted, as a whole; the last such mount. */
bool place_of_device(dev_t device, char mountpoint[PATH_MAX]);

/* The device number of the mount of that store at that mount point, also if something else is mounted over it. */
bool place_device(const char *store, const char *mountpoint, dev_t *device);

/* Whether what has this device number is a mount of that store. */
bool place_is_of_store(dev_t device, const char *store);

/* Whether the mount with this number (STATX_MNT_ID) is in the tree, and a shalefs. */
bool place_has_mount(uint64_t id);

#endif
