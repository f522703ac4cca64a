/*
 * crash.h - a power cut: chooses what a disk (disk.h) is left with, and makes a directory of it.
 *
 * What is durable is there. Of the rest:
 *
 *   nothing  nothing is lost: a process that was killed
 *   all      all of it is lost
 *   late     what came after some moment is lost; the last write before it is torn
 *   some     each page and size is as it was last, or as it was synced
 *   any      each sector of 512 bytes and each size is as it was at any time since the last sync
 *   mixed    each file in one of these ways
 *
 * Metadata: in the ordered model a prefix, in the harsh one each name and truncation by itself.
 *
 * Sectors hold what the page cache held at some moment, so a write reaches a sector only with all earlier writes to it.
 * A write into a range that was truncated or allocated before is lost if that truncation or allocation is: its place on
 * the medium depends on it. A size may be there without the data: then it reads as zeros.
 */
#ifndef RECORD_CRASH_H
#define RECORD_CRASH_H

#include "disk.h"

enum loss { LOSS_NOTHING, LOSS_ALL, LOSS_LATE, LOSS_SOME, LOSS_ANY, LOSS_MIXED, LOSSES };

const char *loss_name(enum loss loss);
bool loss_parse(const char *name, enum loss *out);

/* Makes what is left in the empty directory `dir`. 0 or a negative errno. The disk stays as it is. */
int crash_make(struct disk *d, enum loss loss, uint64_t seed, int dir);

uint64_t draw(uint64_t *state);                   /* splitmix64 */
uint64_t draw_below(uint64_t *state, uint64_t n); /* 0 for n = 0 */

#endif
