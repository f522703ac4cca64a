/*
 * control.h - the control directory: MOUNT/.shale and the files in it.
 *
 * It exists above the filesystem, under ids that are never stored (FS_ID_CONTROL_FIRST...). It is
 * found by name in the root but not listed there. Nothing in it can be changed, and no entry of the root can be called
 * .shale while it is there (one made under -o nocontrol is hidden).
 *
 * The kernel does not tell of opens (adapter.h). So each lookup of a file's name makes its text anew, under an id of its own
 * (FS_ID_TEXT_FIRST...), which lives until the kernel forgets it: who has opened it sees one moment, and the
 * next one another. The name must not be remembered by the kernel.
 *
 * Threads: any, except new and free.
 */
#ifndef FUSE_CONTROL_H
#define FUSE_CONTROL_H

#include "fs.h"
#include "transport.h"

#define CONTROL_TEXTS_MAX 256u /* at a time: each is in memory */

struct control;

int control_new(struct fs *fs, const char *store, struct control **out);
/* Whose figures the statistics show from now on. Not owned; no requests must be served any more when it ends. */
void control_serves(struct control *c, struct transport *t);
void control_free(struct control *c); /* NULL is allowed */

static inline bool control_owns_text(fs_id id) { return id >= FS_ID_TEXT_FIRST && id <= FS_ID_TEXT_LAST; }
static inline bool control_owns(fs_id id)
{
    return (id >= FS_ID_CONTROL_FIRST && id <= FS_ID_CONTROL_LAST) || control_owns_text(id);
}
/* Whether `name` in `parent` is the control directory's own. `c` NULL: there is none. */
bool control_owns_name(const struct control *c, fs_id parent, const char *name, size_t len);

/* For the parents that control_owns, and the root with a name that control_owns_name. -ENOENT; -ENFILE over
 * CONTROL_TEXTS_MAX. Takes a reference, which control_forget gives back, on what control_owns_text. */
int control_lookup(struct control *c, fs_id parent, const char *name, size_t len, struct fs_attr *out);
void control_forget(struct control *c, fs_id id, uint64_t count);
int control_getattr(struct control *c, fs_id id, struct fs_attr *out);
/* As fs_readdir without plus; nlink is 0: there are no references to take. */
int control_readdir(const struct control *c, fs_id id, uint64_t off, fs_readdir_fn fn, void *arg);
/* Copies at most size bytes from off; *len is how many. */
int control_read(struct control *c, fs_id id, uint64_t off, void *buf, size_t size, size_t *len);

#endif
