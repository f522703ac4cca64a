/*
 * check.h - does everything in a store fit together? What `shale check` does on top of lsm_verify.
 *
 * Checked, by path:
 *   - every record decodes; superblock and lease are there; every id lies below the lease
 *   - every name hashes to the bucket it stands in, once; every directory entry leads to an inode of its type
 *   - a directory has one name, its record names the right parent; its entry count, size and links agree with its entries
 *   - a file of several names has as many as it counts
 *   - contents: small ones are there, with the right length; extents lie within their chunk and the file's size, are
 *     ordered, do not overlap, and add up to `stored`; large extended attributes belong to a file that says so
 *   - what has a record but no name is on the orphan list, and nothing on the orphan list has a name
 *   - no directory is unreachable, no record, extent, attribute or small contents belong to nobody
 * Damage is stepped over: the next key that can be read is searched by halving the distance, so one bad block costs what
 * is in it, and the rest is still checked. What could not be read is never taken for absent.
 *
 * Memory: about 100 bytes for each directory, file of several names and file with extents or large
 * attributes; nothing for other files.
 */
#ifndef FS_CHECK_H
#define FS_CHECK_H

#include "fs.h"

struct fs_problem {
    const char *path; /* of the file or directory; NULL: it has no name that is known */
    fs_id id;         /* 0: it is about the store as a whole */
    const char *what;
};
typedef void (*fs_problem_fn)(void *arg, const struct fs_problem *problem);

struct fs_checked {
    uint64_t problems;
    uint64_t directories, files; /* files: of any type but directory, once for each name */
    uint64_t bytes;              /* of contents, as sizes say */
    uint64_t orphans;            /* unlinked, contents not removed yet: no problem */
};

/*
 * Checks the store at `path`; nothing is changed. Of `options` env, memory_bytes, log (for warnings) and progress (in files and
 * directories; the total is not known and 0) are used. 0 if everything could be looked at, whatever was
 * found; -EUCLEAN if the store can't even be opened for reading, -EBUSY if it is open for writing, -EMEDIUMTYPE if it holds no
 * filesystem.
 */
int fs_check(const char *path, const struct fs_options *options, fs_problem_fn fn, void *arg,
             struct fs_checked *out);

/*
 * Repairs the files of the store: lsm_repair with what the filesystem's keys need. What the tree has lost by the
 * damage fs_check says afterwards, by path.
 */
int fs_repair_files(const char *path, const struct fs_options *options, lsm_problem_fn fn, void *arg,
                    struct lsm_repaired *out);

/*
 * Makes everything fit together again, in a store whose files are whole: names that lead nowhere go, what has no name
 * comes to /lost+found, counts are set right; a file that has lost a part of its contents moves to /lost+found, one
 * that has lost all of it goes. `fn` is told of each problem and, where something goes or moves, of that. What
 * fs_check finds afterwards could not be repaired. -EUCLEAN: the superblock is lost, and with it where names are.
 */
int fs_repair_tree(const char *path, const struct fs_options *options, fs_problem_fn fn, void *arg,
                   struct fs_checked *out);

#endif
