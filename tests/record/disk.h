/*
 * disk.h - what a disk holds at a point of a trace: for certain, and perhaps.
 *
 * A disk goes through a trace record by record. Of each file it keeps the contents that are durable, and what was
 * done to it since: writes, truncations, allocations. Of names it keeps where each leads for certain, and the
 * changes since, in order. A power cut (crash.h) chooses among them.
 *
 * When a sync that began at record B has ended, what came before B is durable:
 *
 *   model      sync of a file                              sync of a directory
 *   ordered    its writes, and all metadata of the         all metadata up to its last change
 *              filesystem up to the last that concerns it
 *   harsh      its writes and its own size, not its names  the names in it
 *
 * Metadata are names, and truncations and allocations; not the size that a write gives a file. In the ordered model,
 * that of journalling filesystems (ext4, xfs), metadata come to the medium in the order in which they were made, as
 * a prefix. In the harsh one each name is on its own, in any order, and so is each file's size.
 *
 * With `lies` a sync makes nothing durable, as with a disk that acknowledges a flush which it does not do.
 *
 * Permissions are durable at once, owners and times are not looked at: nothing here depends on them.
 *
 * Memory: taken as for granted; the process ends if there is none. Threads: one.
 */
#ifndef RECORD_DISK_H
#define RECORD_DISK_H

#include "trace.h"

#include <sys/types.h>

#define PAGE 4096u
#define SECTOR 512u

struct page {
    uint8_t bytes[PAGE];
};

struct file {
    uint64_t id;
    mode_t mode;        /* with type */
    const char *target; /* of a symbolic link */
    size_t target_len;
    struct page **pages; /* durable; NULL: zeros */
    size_t slots;
    uint64_t size;                      /* durable */
    const struct trace_record **events; /* since: writes, truncations, allocations */
    size_t event_count, event_capacity;
    uint64_t last_metadata; /* number + 1 of the last record of metadata that concerns it */
    char *out_path;         /* while a tree is made: its first name there */
};

struct name {
    uint64_t dir, durable, now; /* ids; 0: leads nowhere */
    uint64_t image;             /* after a crash */
    char text[TRACE_NAME_MAX + 1];
    uint32_t next; /* of the same hash */
};

/* One change of one or two names, that is on the medium as a whole or not at all. */
struct name_event {
    uint64_t number;
    unsigned count;
    struct {
        uint32_t name;
        uint64_t to;
    } change[2];
};

struct sync {
    uint64_t begin, id, last_metadata;
};

struct disk {
    const struct trace *trace;
    bool harsh, lies;
    uint64_t position;   /* records before it have happened */
    uint64_t base;       /* the first record after TRACE_BASE; 0: not reached */
    struct file **files; /* by id; NULL: none */
    size_t file_count;
    struct name *names;
    size_t name_count, name_capacity;
    struct name_event *events;
    size_t event_count, event_capacity;
    uint64_t *metadata; /* numbers of the records of metadata that are not durable for certain */
    size_t metadata_count, metadata_capacity;
    uint64_t forced;    /* ordered: metadata of records below it are durable */
    struct sync *syncs; /* that have begun */
    size_t sync_count, sync_capacity;
    uint32_t *buckets;
};

struct disk *disk_new(const struct trace *trace, bool harsh, bool lies);
void disk_free(struct disk *d);
/* Records below `position` happen. */
void disk_advance(struct disk *d, uint64_t position);

bool event_is_metadata(const struct trace_record *r);
uint32_t allocate_mode(const struct trace_record *r);
/* What a record of contents does to the bytes of one page (or of sector `sector` of it, if that is not -1). */
void event_apply_to_page(const struct trace_record *r, uint64_t page, int sector, uint8_t bytes[PAGE]);
/* What it makes of a file's size. */
uint64_t event_size(const struct trace_record *r, uint64_t size);

void *disk_grow(void *list, size_t count, size_t *capacity, size_t item);
void *disk_take(size_t bytes);

#endif
