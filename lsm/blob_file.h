/*
 * blob_file.h - one blob file: making it, reading and verifying what pointers name, writing an extent.
 *
 * A file object is counted: the versions of its shard that know the file hold a reference each, so whoever
 * pins a version reads from all of its files, and one is deleted when the last of those that knew it is gone.
 * Its descriptor stays open as long as the object lives, which is from before its first store until after its
 * last sync.
 *
 * Threads: reading and reference counting from any; who may write is blob.h's matter.
 */
#ifndef LSM_BLOB_FILE_H
#define LSM_BLOB_FILE_H

#include "blob_format.h"
#include "env.h"
#include "logger.h"

struct blob_file {
    uint64_t number, salt;
    unsigned shard;
    unsigned refs; /* atomic */
    struct env *env;
    const struct logger *log;
    struct env_file *file; /* NULL: it is missing; reads are -EIO */
    char *path;
    uint64_t bytes; /* atomic: where the next extent goes */
    struct blob_file *dead_next;

    /* blob.c's: under the shard's blob lock, or atomic where it says so */
    bool open;                    /* atomic: extents may still be added */
    bool failed;                  /* a write or sync failed: takes no more, and is not synced again */
    bool dirty;                   /* it is in the list of what the next sync has to bring to the medium */
    struct blob_file *dirty_next; /* holds a reference */
    struct blob_file *sync_next;  /* link of the list that is being synced */
    unsigned given_back;          /* places */
    bool gap;                     /* the next place is not to begin where one was given back */
    bool doomed;                  /* it is being forgotten: nothing may name it any more */
    unsigned writers;             /* atomic: extents written, or being written, whose record is not in yet */
    unsigned holders;    /* atomic: what is in it already is to be named by a record that is not in yet */
    lsn_t written_until; /* atomic: no record at or above is the first to name something in it */
    lsn_t named_until;   /* atomic: ... or names anything in it at all; not below written_until */

    /* the background thread's own */
    bool collecting; /* what is alive in it is to be moved away */
    bool at_rest;    /* ... only as long as nobody writes to the store */
    bool unreadable; /* some of that can't be read: it stays */
};

/* "NNNNNN.blob" under dir. */
void blob_path(const char *dir, uint64_t number, char *buf, size_t size);

/* What the manifest knows of a file. */
struct blob_meta {
    uint64_t number, salt;
    unsigned shard;
};

/* Creates the file with its header, synced; its directory is not. On an error nothing is left of it. */
int blob_file_create(struct env *env, const char *dir, const struct logger *log, const struct blob_meta *meta,
                     struct blob_file **out);
/*
 * Opens what is there; for writing, so that it can be appended to. A file that is missing is no error but a line in
 * the log and a stand-in, so that everything else stays readable.
 */
int blob_file_open(struct env *env, const char *dir, const struct logger *log, const struct blob_meta *meta,
                   bool write, struct blob_file **out);
/* What the file says of itself, where there is no manifest to say it. -EIO: its header is damaged. */
int blob_read_meta(struct env *env, const char *dir, uint64_t number, struct blob_meta *out);
/* NULL if its header is right, else what is wrong. */
const char *blob_file_check_header(struct blob_file *f);
void blob_file_free(struct blob_file *f); /* closes; NULL is allowed */

static inline uint64_t blob_file_bytes(const struct blob_file *f)
{
    return __atomic_load_n(&f->bytes, __ATOMIC_ACQUIRE);
}

/* A value on its way into a file, and from then on until its record is in the log. */
struct blob_value {
    struct iovec bytes[2];  /* one after the other; together not empty */
    struct blob_file *file; /* NULL: not written */
    struct blob_pointer pointer;
};

#define BLOB_WRITE_VALUES 32u       /* of one call at most */
#define BLOB_WRITE_BYTES (4u << 20) /* of several values in one call */

/* Writes values whose pointers are set, each right behind the one before: checksums and bytes. One call to the system. */
int blob_extents_write(struct blob_file *f, const struct blob_value *values, unsigned count);

/* How to read. */
#define BLOB_QUIET 1u  /* damage is no line in the log: the caller has its own */
#define BLOB_NOWAIT 2u /* -EAGAIN unless the system has it in memory */

/*
 * Reads [from, from + len) of what the pointer means into buf, verifying the chunks that this touches and no
 * more. The range must lie inside. -EIO: they are not what was written, with a line in the log unless BLOB_QUIET.
 */
int blob_read(struct blob_file *f, const struct blob_pointer *p, uint32_t from, uint32_t len, unsigned how,
              void *buf);

/*
 * The whole extent as it is in the file, in *extent (malloc'ed, blob_disk_bytes(extent_bytes)), verified: for
 * recovery, which writes it again. -EBADMSG: it is not what was written, or the file ends in it, or is missing. Any
 * other error, -EIO too, is of reading it, and says nothing about what is there.
 */
int blob_extent_read(struct blob_file *f, const struct blob_pointer *p, unsigned how, uint8_t **extent);

#endif
