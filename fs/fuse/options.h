/*
 * options.h - the command line of shalefs.
 *
 * Only parsing: nothing is looked at, created or mounted here, so that a mistyped option is refused
 * before anything has happened.
 */
#ifndef FUSE_OPTIONS_H
#define FUSE_OPTIONS_H

#include "fs.h"
#include "transport.h"

#define MEMORY_DEFAULT ((size_t)256 << 20)
#define MEMORY_MIN ((size_t)16 << 20)
#define COMMIT_SECONDS_MAX 300.0
#define SHARDS_MAX 64u
#define MOUNT_OPTIONS_MAX 64u

struct options {
    const char *store, *mountpoint; /* as given */
    bool foreground, debug;
    bool read_only, noatime;
    bool writeback; /* the kernel gathers writes */
    bool noacl;     /* no POSIX ACLs */
    bool control;   /* false: -o nocontrol */
    enum transport_kind transport;
    bool nodev, nosuid; /* given: root's default of dev,suid is off */
    bool auto_unmount;  /* given: fusermount3 mounts, for root, too */
    size_t memory_bytes, write_buffer_bytes;
    size_t max_read_bytes;      /* of one read request; 0: not given */
    unsigned shards, commit_ms; /* 0: not given */
    enum lsm_compression compression;
    char *mount[MOUNT_OPTIONS_MAX]; /* passed on to libfuse, owned */
    unsigned mounts;
};

/*
 * Returns 0 to go on, 1 when everything is done (help and version, printed to stdout), or -EINVAL,
 * after one line on stderr. options_free in any case.
 */
int options_parse(int argc, char **argv, struct options *out);
void options_free(struct options *o);

#endif
