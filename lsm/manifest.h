/*
 * manifest.h - the file that says what the store consists of: an append-only log of edits.
 *
 * Two layers: the codec of one edit (edit.c), and the file of checksummed records that each hold
 * one (manifest.c, where the format stands). What edits mean is version.h's and vset.c's.
 *
 * Threads: none of this locks; the vset calls it under its manifest lock.
 */
#ifndef LSM_MANIFEST_H
#define LSM_MANIFEST_H

#include "env.h"
#include "logger.h"
#include "version.h"

/* No store gets there; what is above is damage or somebody else's file. */
#define FILE_NUMBER_MAX (UINT64_C(1) << 56)

/* ---- one edit as bytes (edit.c) ---- */

/* An edit that owns what it points to. */
struct decoded_edit {
    struct edit edit;
    struct wal_use use;               /* edit.use points here, if there is one */
    uint64_t next_number;             /* 0, or a number that is above all used when the edit was written */
    struct named_snapshot name_taken; /* edit.name_taken points here, if there is one */
    char name_dropped[LSM_SNAPSHOT_NAME_MAX + 1];
};

/* Allocates *out with malloc. -ENOMEM, or -E2BIG if it is over MANIFEST_RECORD_MAX. */
int edit_encode(const struct edit *edit, uint64_t next_number, uint8_t **out, size_t *len);
/* -ENOTSUP: a field that must be understood is unknown. -EUCLEAN: malformed. */
int edit_decode(const uint8_t *payload, size_t len, struct decoded_edit *out);
void decoded_edit_free(struct decoded_edit *d);

/* ---- the file ---- */

/* 30 000 tables with the longest keys in one edit, as a full compaction of one shard may produce. */
#define MANIFEST_RECORD_MAX (64u << 20)

struct manifest;

struct manifest_options {
    struct env *env;
    const char *dir;
    const struct logger *log;
};

struct manifest_contents {
    struct store_identity identity;
    uint64_t salt;           /* of this file, seeds its checksums */
    uint64_t snapshot_bytes; /* were on the medium before the file got its name */
    uint64_t records;
    uint64_t good_bytes; /* end of the last good record */
    uint64_t file_bytes; /* more than good_bytes: a torn tail */
};

/* Called for each edit in order. An error ends the reading and is returned. */
typedef int (*manifest_edit_fn)(void *arg, const struct decoded_edit *edit, uint64_t offset);

/*
 * Reads dir/MANIFEST. A torn tail is no error. out->identity is set before the first edit. -ENOENT: there is none. -ENOTSUP: written by a newer release. -EUCLEAN: damaged.
 */
int manifest_read(const struct manifest_options *o, bool read_only, manifest_edit_fn fn, void *arg,
                  struct manifest_contents *out);

/*
 * For repair: calls fn for every good record of a damaged dir/MANIFEST, whatever lies between them. *out is what the
 * header says, unverified if it is damaged itself; out->records counts the good ones, without which nothing of *out
 * is to be believed.
 */
int manifest_salvage(const struct manifest_options *o, manifest_edit_fn fn, void *arg,
                     struct manifest_contents *out);

/* Opens dir/MANIFEST for appending after what was read; cuts a torn tail off for good and syncs. */
int manifest_open(const struct manifest_options *o, const struct manifest_contents *contents,
                  struct manifest **out);

/*
 * Starts dir/MANIFEST.new. Append edits, then manifest_publish: header, sync, rename over MANIFEST,
 * sync of the directory. *renamed says whether an error came after the old file might have been
 * replaced; if not, manifest_discard and keep the old one.
 */
int manifest_create(const struct manifest_options *o, const struct store_identity *identity,
                    struct manifest **out);
int manifest_publish(struct manifest *m, bool *renamed);

/*
 * Appends one edit without syncing it. -ENOSPC: the file is as before, and it may be tried again.
 * After any other error of this or of manifest_sync the file must not be appended to any more.
 */
int manifest_append(struct manifest *m, const uint8_t *payload, size_t len);
int manifest_sync(struct manifest *m);
uint64_t manifest_bytes(const struct manifest *m);

void manifest_close(struct manifest *m);   /* NULL is allowed */
void manifest_discard(struct manifest *m); /* of manifest_create: closes and removes MANIFEST.new */
void manifest_remove_new(const struct manifest_options *o); /* a leftover of an interrupted rollover */

#endif
