/*
 * engine_history.h - private to the engine's histories: history.c holds them against the model, engine_ops.c has the
 * operations.
 */
#ifndef ENGINE_HISTORY_H
#define ENGINE_HISTORY_H

#include "prove.h"

#define KEY_BYTES (LSM_KEY_MAX)
#define MODEL_SHARDS_MAX 4u
#define MODEL_KEYS 48u /* besides the counters */
#define MODEL_ALL (MODEL_KEYS + MODEL_SHARDS_MAX)
#define RUN_SNAPSHOTS 3u
#define RUN_NAMES 2u

static inline uint64_t below(struct run *r, uint64_t n) { return run_draw(r) % n; }
static inline bool one_in(struct run *r, uint64_t n) { return run_draw(r) % n == 0; }

struct model_value {
    bool exists;
    bool part; /* of a value in a blob file: however short, it is in that file */
    uint32_t len;
    uint64_t sum;
};

struct model {
    struct model_value value[MODEL_ALL];
};

/* Perhaps: a crash or a failure came while it was saved or dropped. */
enum name_state { NAME_ABSENT, NAME_PERHAPS, NAME_THERE };

struct run_own {
    struct lsm_snapshot *snapshots[RUN_SNAPSHOTS];
    struct model then[RUN_SNAPSHOTS];
    enum name_state named[RUN_NAMES];
    struct model named_then[RUN_NAMES];
    unsigned checkpoints;
};

size_t key_of(const struct profile *p, unsigned i, uint8_t key[KEY_BYTES]);
/* Of a value: its sum, and the filler made from it. */
void make_value(uint8_t *out, uint64_t sum, size_t len);
int compare_bytes(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen);
/* Room for state i; other states may move. */
struct model *state_at(struct run *r, size_t i);
/* An operation has failed: is that all right? Returns err. */
int failed_with(struct run *r, int err);
/* An error while reading is no wrong answer, if faults are about. */
bool read_failed(struct run *r, const char *what, int err);
/* Of a batch in doubt: has it been applied? */
void look_if_applied(struct run *r);
/* What `snapshot`, or the store now, shows, by iterators and by gets. */
bool compare(struct run *r, const struct lsm_snapshot *snapshot, const struct model *m);
/* Named snapshots are there or not as they should be, and show what they did. */
bool check_names(struct run *r);
const char *name_of(unsigned i, char name[16]);

#endif
