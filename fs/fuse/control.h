/*
 * control.h - the control directory: MOUNT/.shale and the files in it.
 *
 * It exists above the filesystem, under ids that are never stored (FS_ID_CONTROL_FIRST...). It is
 * found by name in the root but not listed there. Its contents are made when a file is opened, so
 * that one open sees one moment. Nothing in it can be changed, and no entry of the root can be called
 * .shale while it is there (one made under -o nocontrol is hidden).
 *
 * Threads: any, except new and free.
 */
#ifndef FUSE_CONTROL_H
#define FUSE_CONTROL_H

#include "fs.h"
#include "transport.h"

#define CONTROL_OPEN_MAX 256u /* open files at a time: each holds its text in memory */

struct control;
struct control_file; /* one open file */

int control_new(struct fs *fs, const char *store, struct control **out);
/* Whose figures the statistics show from now on. Not owned; no requests must be served any more when it ends. */
void control_serves(struct control *c, struct transport *t);
void control_free(struct control *c); /* NULL is allowed */

static inline bool control_owns(fs_id id) { return id >= FS_ID_CONTROL_FIRST && id <= FS_ID_CONTROL_LAST; }
/* Whether `name` in `parent` is the control directory's own. `c` NULL: there is none. */
bool control_owns_name(const struct control *c, fs_id parent, const char *name, size_t len);

/* For the parents that control_owns, and the root with a name that control_owns_name. -ENOENT. */
int control_lookup(const struct control *c, fs_id parent, const char *name, size_t len, struct fs_attr *out);
int control_getattr(const struct control *c, fs_id id, struct fs_attr *out);
/* As fs_readdir with plus; there are no references to take. */
int control_readdir(const struct control *c, fs_id id, uint64_t off, fs_readdir_fn fn, void *arg);

/* -EPERM for writing, -ENFILE over CONTROL_OPEN_MAX. */
int control_open(struct control *c, fs_id id, int flags, struct control_file **out);
/* A pointer into the text: at most size bytes from off; *len is how many there are. */
const char *control_read(const struct control_file *file, uint64_t off, size_t size, size_t *len);
void control_close(struct control *c, struct control_file *file);

#endif
