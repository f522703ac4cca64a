/*
 * compaction_pick.c - how large levels should be, and which tables to compact next.
 *
 * Targets are dynamic, after RocksDB's level_compaction_dynamic_level_bytes: the size of the largest
 * level stands for the last one, each level above it may hold 1/ratio of it, and the base level,
 * where L0 is compacted to, is the highest whose target is still over four write buffers. That
 * keeps space amplification near 1 + 1/ratio at any size of the store. Levels above the base level
 * are empty, or being emptied.
 *
 * Scores are size / target, for L0 files / 4. At 1.0 and above the highest wins. In L0 all files
 * are taken, as they overlap (the oldest L0_INPUTS_MAX); at L0_STOP and more nothing else comes first. In other levels the one that drags in least of the next level. A table
 * of many tombstones is a reason of its own: for reads they are in the way, for space they hold
 * what they hide.
 *
 * Each compaction of L0 rewrites about all of the base level, however few files bring it about. So while the shard is written
 * to fast, L0 is not due at 4 files but at 10 (L0_FILES_BUSY): the base level is rewritten less than half as
 * often. What can be moved is moved at once. At rest L0 is due as soon as it has an eighth of what it would be merged
 * with (REST_SHARE): its tables hide so much at most, and each byte of it has then nine written.
 *
 * Files of a level other than L0 share no user key (version.c), so all versions of a key in that
 * level are in one file, and choosing files never parts them.
 *
 * Threads: the shard's background thread; compactions of one shard do not overlap in time.
 */
#include "pressure.h"
#include "vset_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define LAST_LEVEL (LSM_LEVELS - 1u)
#define L0_FILES_TRIGGER 4 /* as in LevelDB: a point read probes that many filters more */
#define L0_FILES_BUSY 10   /* below L0_SLOWDOWN: a compaction that is only just begun holds nobody back */
#define REST_SHARE 8u
#define BASE_WRITE_BUFFERS 4   /* what one compaction of L0 brings */
#define DENSE_DELETES_MIN 1000 /* fewer cost a scan less than a millisecond */
#define EXPAND_TABLES_MAX 25   /* a compaction grows for free inputs up to that many tables */
#define L0_INPUTS_MAX 48       /* the oldest ones: each has an iterator with up to 256 KiB */
#define MANUAL_TABLES_MAX 10   /* taken at a time on the way to the last level: bounds the space used twice */

/* ---- targets ---- */

static uint64_t base_bytes_min(const struct vset *vs) { return vs->write_buffer_bytes * BASE_WRITE_BUFFERS; }

void version_targets(struct vset *vs, const struct version *v, uint64_t targets[LSM_LEVELS])
{
    uint64_t largest = base_bytes_min(vs) * vs->level_ratio;
    for (unsigned l = 1; l < LSM_LEVELS; l++) {
        targets[l] = 0;
        if (v->levels[l].bytes > largest)
            largest = v->levels[l].bytes;
    }
    targets[0] = 0;
    targets[LAST_LEVEL] = largest;
    for (unsigned l = LAST_LEVEL; l > 1 && targets[l] > base_bytes_min(vs) * vs->level_ratio; l--)
        targets[l - 1] = targets[l] / vs->level_ratio;
}

/* Where L0 goes: the base level, or a level above it that is not empty yet, which must stay older than L0. */
static unsigned base_level(const struct version *v, const uint64_t targets[LSM_LEVELS])
{
    unsigned l = 1;
    while (l < LAST_LEVEL && !targets[l] && !v->levels[l].count)
        l++;
    return l;
}

static double size_score(struct vset *vs, const struct version *v, const uint64_t targets[LSM_LEVELS],
                         unsigned l)
{
    const struct level *level = &v->levels[l];
    if (l == 0)
        return (double)level->count / L0_FILES_TRIGGER;
    if (l == LAST_LEVEL || !level->count)
        return 0;
    if (!targets[l]) /* to be emptied */
        return 1.0 + (double)level->bytes / (double)base_bytes_min(vs);
    return (double)level->bytes / (double)targets[l];
}

double version_score(struct vset *vs, const struct version *v)
{
    uint64_t targets[LSM_LEVELS];
    version_targets(vs, v, targets);
    double worst = 0;
    for (unsigned l = 0; l < LSM_LEVELS; l++) {
        double score = size_score(vs, v, targets, l);
        worst = score > worst ? score : worst;
    }
    return worst;
}

/* ---- key ranges ---- */

struct range {
    const uint8_t *smallest, *largest; /* smallest NULL: empty */
    uint32_t smallest_len, largest_len;
    bool largest_exclusive;
};

static void range_add(struct range *r, const struct table_meta *m)
{
    if (!r->smallest || key_compare(m->smallest, m->smallest_len, r->smallest, r->smallest_len) < 0) {
        r->smallest = m->smallest;
        r->smallest_len = m->smallest_len;
    }
    int c = r->largest ? key_compare(m->largest, m->largest_len, r->largest, r->largest_len) : 1;
    if (c > 0 || (c == 0 && !m->largest_exclusive)) {
        r->largest = m->largest;
        r->largest_len = m->largest_len;
        r->largest_exclusive = m->largest_exclusive;
    }
}

static struct range range_of(struct table_file *const *files, size_t count)
{
    struct range r = {0};
    for (size_t i = 0; i < count; i++)
        range_add(&r, &files[i]->meta);
    return r;
}

static bool is_in_range(const struct range *r, const struct table_meta *m)
{
    int c = key_compare(m->smallest, m->smallest_len, r->largest, r->largest_len);
    return !table_ends_before(m, r->smallest, r->smallest_len) &&
           (c < 0 || (c == 0 && !r->largest_exclusive));
}

/* The files [*from, *to) of a sorted level that overlap the range. */
static void overlapping(const struct level *l, const struct range *r, size_t *from, size_t *to)
{
    *from = level_find(l, r->smallest, r->smallest_len);
    size_t end = level_find(l, r->largest, r->largest_len);
    if (end < l->count && is_in_range(r, &l->files[end]->meta))
        end++;
    *to = end;
}

static bool level_overlaps(const struct level *l, const struct range *r)
{
    size_t from, to;
    overlapping(l, r, &from, &to);
    return from < to;
}

static uint64_t bytes_of(struct table_file *const *files, size_t count)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += files[i]->meta.bytes;
    return bytes;
}

/* ---- tombstones ---- */

static double delete_ratio(const struct table_meta *m)
{
    return m->entries ? (double)m->deletes / (double)m->entries : 0;
}

static bool is_dense(const struct table_meta *m)
{
    return m->deletes > DENSE_DELETES_MIN && m->deletes > m->entries / 4;
}

/*
 * In the last level rewriting a file drops its tombstones for sure only if no snapshot is older than
 * any of its entries; anything less could rewrite it again and again in vain.
 */
static bool is_droppable(const struct table_meta *m, uint64_t oldest_snapshot)
{
    return m->deletes + m->range_deletes > 0 && m->seq_max <= oldest_snapshot;
}

static struct table_file *densest_file(const struct level *level, unsigned l, uint64_t oldest_snapshot)
{
    struct table_file *best = NULL;
    for (size_t i = 0; i < level->count; i++) {
        const struct table_meta *m = &level->files[i]->meta;
        if (is_dense(m) && (l < LAST_LEVEL || is_droppable(m, oldest_snapshot)) &&
            (!best || delete_ratio(m) > delete_ratio(&best->meta)))
            best = level->files[i];
    }
    return best;
}

/* In L0 a dense file counts twice: all of L0 moves with it, which is too much for a single one. */
static double tombstone_score(const struct level *level, unsigned l, uint64_t oldest_snapshot)
{
    if (l > 0) {
        const struct table_file *f = densest_file(level, l, oldest_snapshot);
        return f ? 1.0 + delete_ratio(&f->meta) : 0;
    }
    size_t weight = 0;
    for (size_t i = 0; i < level->count; i++)
        weight += is_dense(&level->files[i]->meta) ? 2 : 1;
    return weight > level->count ? (double)weight / L0_FILES_TRIGGER : 0;
}

/* ---- putting a compaction together ---- */

static int set_inputs(struct compaction *c, unsigned which, struct table_file *const *files, size_t count)
{
    free(c->inputs[which]);
    c->inputs[which] = malloc((count + 1) * sizeof(struct table_file *));
    c->count[which] = c->inputs[which] ? count : 0;
    if (!c->inputs[which])
        return -ENOMEM;
    if (count)
        memcpy(c->inputs[which], files, count * sizeof *files);
    return 0;
}

static struct range whole_range(const struct compaction *c)
{
    struct range r = range_of(c->inputs[0], c->count[0]);
    for (size_t i = 0; i < c->count[1]; i++)
        range_add(&r, &c->inputs[1][i]->meta);
    return r;
}

/* Takes what of `to` overlaps the inputs of `from`. */
static int add_overlap(struct compaction *c)
{
    struct range r = range_of(c->inputs[0], c->count[0]);
    const struct level *to = &c->version->levels[c->to];
    size_t first, end;
    overlapping(to, &r, &first, &end);
    return set_inputs(c, 1, to->files + first, end - first);
}

/* More of `from` that comes for free: it drags in nothing more of `to` (as in LevelDB). */
static int expand(struct vset *vs, struct compaction *c)
{
    if (c->from == 0 || c->from == c->to || c->count[1] == 0)
        return 0;
    struct range r = whole_range(c);
    const struct level *from = &c->version->levels[c->from], *to = &c->version->levels[c->to];
    size_t first, end, to_first, to_end;
    overlapping(from, &r, &first, &end);
    if (end - first <= c->count[0])
        return 0;
    struct range wider = range_of(from->files + first, end - first);
    overlapping(to, &wider, &to_first, &to_end);
    uint64_t bytes = bytes_of(from->files + first, end - first) + bytes_of(c->inputs[1], c->count[1]);
    if (to_end - to_first != c->count[1] || bytes > EXPAND_TABLES_MAX * vs->table_bytes)
        return 0;
    return set_inputs(c, 0, from->files + first, end - first);
}

/* No file below `to`, and none of `to` outside the inputs, overlaps the inputs' range. */
static bool is_bottom(const struct compaction *c)
{
    struct range r = whole_range(c);
    size_t first, end;
    overlapping(&c->version->levels[c->to], &r, &first, &end);
    if (end - first != (c->from == c->to ? c->count[0] : c->count[1]))
        return false;
    for (unsigned l = c->to + 1; l < LSM_LEVELS; l++)
        if (level_overlaps(&c->version->levels[l], &r))
            return false;
    return true;
}

static void mark(struct compaction *c, bool compacting)
{
    for (unsigned w = 0; w < 2; w++)
        for (size_t i = 0; i < c->count[w]; i++) {
            assert(c->inputs[w][i]->compacting != compacting);
            c->inputs[w][i]->compacting = compacting;
        }
}

static void free_inputs(struct compaction *c)
{
    free(c->inputs[0]);
    free(c->inputs[1]);
    memset(c, 0, sizeof *c);
}

/* `rc`: of choosing the inputs of `from`. Fills what follows from them. 1, or a negative errno and nothing is chosen. */
static int complete(struct vset *vs, struct compaction *c, uint64_t oldest_snapshot, int rc)
{
    bool in_place = c->from == c->to;
    if (!rc)
        rc = in_place ? set_inputs(c, 1, NULL, 0) : add_overlap(c);
    if (!rc && !in_place)
        rc = expand(vs, c);
    if (rc) {
        free_inputs(c);
        return rc;
    }
    c->bottom = is_bottom(c);
    c->max_output_bytes = vs->table_bytes;
    /* A move would carry along tombstones that can go now. */
    c->trivial = !in_place && c->count[0] == 1 && c->count[1] == 0 &&
                 !(c->bottom && is_droppable(&c->inputs[0][0]->meta, oldest_snapshot));
    version_ref(c->version);
    mark(c, true);
    return 1;
}

void compaction_release(struct compaction *c)
{
    mark(c, false);
    version_unref(c->version);
    free_inputs(c);
}

static bool is_compacting(const struct version *v)
{
    for (unsigned l = 0; l < LSM_LEVELS; l++)
        for (size_t i = 0; i < v->levels[l].count; i++)
            if (v->levels[l].files[i]->compacting)
                return true;
    return false;
}

/* ---- choosing ---- */

/* The oldest L0 file that overlaps neither another one nor the level that L0 goes to: it can be moved. */
static struct table_file *movable_l0_file(const struct version *v, unsigned to)
{
    const struct level *l0 = &v->levels[0];
    for (size_t i = l0->count; i-- > 0;) {
        struct range r = range_of(&l0->files[i], 1);
        bool alone = !level_overlaps(&v->levels[to], &r);
        for (size_t j = 0; alone && j < l0->count; j++)
            alone = j == i || !is_in_range(&r, &l0->files[j]->meta);
        if (alone)
            return l0->files[i];
    }
    return NULL;
}

/* The file of a level >= 1 that drags in the fewest bytes of the next level for each byte of its own. */
static struct table_file *cheapest_file(const struct level *from, const struct level *to)
{
    struct table_file *best = NULL;
    double best_ratio = 0;
    for (size_t i = 0; i < from->count; i++) {
        struct table_file *f = from->files[i];
        struct range r = range_of(&f, 1);
        size_t first, end;
        overlapping(to, &r, &first, &end);
        double ratio = (double)bytes_of(to->files + first, end - first) / (double)(f->meta.bytes + 1);
        if (!best || ratio < best_ratio) {
            best = f;
            best_ratio = ratio;
        }
    }
    return best;
}

static int choose_l0(struct compaction *c)
{
    const struct level *l0 = &c->version->levels[0];
    struct table_file *movable = movable_l0_file(c->version, c->to);
    size_t count = l0->count < L0_INPUTS_MAX ? l0->count : L0_INPUTS_MAX;
    return movable ? set_inputs(c, 0, &movable, 1) : set_inputs(c, 0, l0->files + l0->count - count, count);
}

/* Of L0 by its size, at this tempo. */
static double l0_score(const struct version *v, const uint64_t targets[LSM_LEVELS], enum tempo tempo,
                       double score)
{
    const struct level *l0 = &v->levels[0];
    unsigned to = base_level(v, targets);
    bool put_off = tempo == TEMPO_BUSY && score >= 1.0 && l0->count < L0_FILES_BUSY;
    if (put_off && !movable_l0_file(v, to))
        return 0;
    bool much = tempo == TEMPO_REST && l0->count && l0->bytes * REST_SHARE >= v->levels[to].bytes;
    return much && score < 1.0 ? 1.0 : score;
}

int compaction_pick(struct vset *vs, struct version *v, uint64_t oldest_snapshot, enum tempo tempo,
                    struct compaction *out)
{
    memset(out, 0, sizeof *out);
    if (is_compacting(v))
        return 0;
    uint64_t targets[LSM_LEVELS];
    version_targets(vs, v, targets);
    double best = 0;
    struct compaction c = {.shard = v->shard, .version = v};
    for (unsigned l = 0; l < LSM_LEVELS; l++) {
        double size = size_score(vs, v, targets, l),
               tombstones = tombstone_score(&v->levels[l], l, oldest_snapshot);
        if (l == 0)
            size = l0_score(v, targets, tempo, size);
        double score = size > tombstones ? size : tombstones;
        if (score < 1.0 || score <= best)
            continue;
        best = score;
        c.from = l;
        c.reason = score == size ? (l ? "size" : "l0") : "tombstones";
        if (l == 0 &&
            v->levels[0].count >= L0_STOP) /* writers wait for it, and go too slowly to fill it again */
            break;
    }
    if (best < 1.0)
        return 0;
    c.to = c.from == 0 ? base_level(v, targets) : c.from < LAST_LEVEL ? c.from + 1 : c.from;
    struct table_file *f = NULL;
    if (c.from > 0)
        f = c.reason[0] == 't' ? densest_file(&v->levels[c.from], c.from, oldest_snapshot)
                               : cheapest_file(&v->levels[c.from], &v->levels[c.to]);
    *out = c;
    return complete(vs, out, oldest_snapshot, f ? set_inputs(out, 0, &f, 1) : choose_l0(out));
}

/* A file of the level whose deletes are from before old_s, the oldest first; it can be helped. */
static struct table_file *aged_file(const struct level *level, unsigned l, uint64_t oldest_snapshot,
                                    uint64_t old_s)
{
    struct table_file *best = NULL;
    for (size_t i = 0; i < level->count; i++) {
        const struct table_meta *m = &level->files[i]->meta;
        if (m->deletes + m->range_deletes > 0 && m->deletes_since_s <= old_s &&
            (l < LAST_LEVEL || is_droppable(m, oldest_snapshot)) &&
            (!best || m->deletes_since_s < best->meta.deletes_since_s))
            best = level->files[i];
    }
    return best;
}

static bool has_dense(const struct level *level)
{
    for (size_t i = 0; i < level->count; i++)
        if (is_dense(&level->files[i]->meta))
            return true;
    return false;
}

int compaction_pick_deletes(struct vset *vs, struct version *v, uint64_t oldest_snapshot, bool urgent,
                            uint64_t old_s, struct compaction *out)
{
    memset(out, 0, sizeof *out);
    if (is_compacting(v))
        return 0;
    struct compaction c = {.shard = v->shard, .version = v, .reason = "reads"};
    struct table_file *f = NULL;
    if (!urgent || !has_dense(&v->levels[0])) {
        c.reason = "age";
        while (c.from < LSM_LEVELS && !(f = aged_file(&v->levels[c.from], c.from, oldest_snapshot, old_s)))
            c.from++;
        if (!f)
            return 0;
    }
    uint64_t targets[LSM_LEVELS];
    version_targets(vs, v, targets);
    c.to = c.from == 0 ? base_level(v, targets) : c.from < LAST_LEVEL ? c.from + 1 : c.from;
    *out = c;
    return complete(vs, out, oldest_snapshot, c.from ? set_inputs(out, 0, &f, 1) : choose_l0(out));
}

int compaction_pick_down(struct vset *vs, struct version *v, unsigned level, struct table_file *f,
                         uint64_t oldest_snapshot, struct compaction *out)
{
    memset(out, 0, sizeof *out);
    if (is_compacting(v) || level == LAST_LEVEL)
        return 0;
    uint64_t targets[LSM_LEVELS];
    version_targets(vs, v, targets);
    struct compaction c = {.shard = v->shard, .version = v, .from = level, .reason = "blobs"};
    c.to = level == 0 ? base_level(v, targets) : level + 1;
    *out = c;
    return complete(vs, out, oldest_snapshot, level ? set_inputs(out, 0, &f, 1) : choose_l0(out));
}

/*
 * Nothing is merged, so nothing may be dropped for the sake of other tables; the output is one table, however long:
 * in L0 two would share their range of seqs.
 */
int compaction_pick_rewrite(struct version *v, unsigned level, struct table_file *f, struct compaction *out)
{
    memset(out, 0, sizeof *out);
    if (is_compacting(v))
        return 0;
    struct compaction c = {.shard = v->shard, .version = v, .from = level, .to = level, .reason = "blobs"};
    int rc = set_inputs(&c, 0, &f, 1);
    if (!rc)
        rc = set_inputs(&c, 1, NULL, 0);
    if (rc) {
        free_inputs(&c);
        return rc;
    }
    version_ref(v);
    mark(&c, true);
    *out = c;
    return 1;
}

/* From the first file on as many as make a compaction of moderate size. */
static size_t run_length(const struct vset *vs, const struct level *level, size_t first)
{
    uint64_t bytes = 0;
    size_t n = 0;
    while (first + n < level->count && (n == 0 || bytes < MANUAL_TABLES_MAX * vs->table_bytes))
        bytes += level->files[first + n++]->meta.bytes;
    return n;
}

static bool has_older(const struct level *level, uint64_t until)
{
    for (size_t i = 0; i < level->count; i++)
        if (level->files[i]->meta.seq_min < until)
            return true;
    return false;
}

int compaction_pick_all(struct vset *vs, struct version *v, uint64_t oldest_snapshot, uint64_t until,
                        struct compaction *out)
{
    memset(out, 0, sizeof *out);
    if (is_compacting(v))
        return 0;
    struct compaction c = {.shard = v->shard, .version = v, .reason = "manual"};
    while (c.from < LAST_LEVEL && !has_older(&v->levels[c.from], until))
        c.from++;
    c.to = c.from < LAST_LEVEL ? c.from + 1 : c.from;
    while (c.to < LAST_LEVEL && !v->levels[c.to].count)
        c.to++;
    const struct level *from = &v->levels[c.from];
    size_t first = 0;
    if (c.from == LAST_LEVEL)
        while (first < from->count && !is_droppable(&from->files[first]->meta, oldest_snapshot))
            first++;
    if (first == from->count)
        return 0;
    *out = c;
    int rc = c.from == 0           ? choose_l0(out)
             : c.from < LAST_LEVEL ? set_inputs(out, 0, from->files, run_length(vs, from, 0))
                                   : set_inputs(out, 0, from->files + first, 1);
    return complete(vs, out, oldest_snapshot, rc);
}
