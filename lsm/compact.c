/*
 * compact.c - the loop that turns sorted entries into tables; flush and compaction are the same.
 *
 * The live snapshots cut the history into strata: two versions of a key in the same stratum are
 * seen by the same snapshots, so that of those only the newest is of use. Versions of a key come
 * newest first. For each one:
 *
 *   - below a put, or a delete, of the same stratum: dropped;
 *   - below an operand of the same stratum: folded into it. An operand over an operand stays an
 *     operand, over a put or a delete it becomes a put. It keeps the newest seq;
 *     Not over a pointer into a blob file: both are kept;
 *   - else it begins what its stratum keeps. A put or pointer goes out at once; an operand or a delete is
 *     held until it is known what follows below it. A held delete over another delete says nothing
 *     more, whatever snapshots lie between, and is dropped.
 *
 * Where a key ends with nothing of it left below, which `bottom` promises of the other levels, a held
 * delete has nothing to hide and is dropped, and a held operand becomes a put.
 *
 * A range delete counts as a delete of the key being worked on, at its place among the key's versions; it is
 * never held, since it is written by itself. A table's share of the range deletes goes into it when it is cut: all of
 * them below the cut, and of one that goes on there the part up to it. Tables are cut inside of range deletes, too,
 * where they would overlap too much of the level after.
 *
 * With `above` (a purge) what newer tables hide is dropped as well: a version with a put or a delete, also of
 * a range, of the same key and stratum in any of them. Nobody sees it now, and nobody can later: snapshots to come are younger than both.
 *
 * Each entry read is written, dropped or folded away, exactly one of these, and that is checked.
 * An input out of order or of a type that is not known ends the job: better no table than a wrong one.
 */
#include "compact.h"
#include "mutant.h"

#include "blob_format.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define YIELD_BYTES (64u << 10)
#define RANGE_ENTRY_BYTES 16u /* of a range delete in its block, beside its keys */
#define HIDDEN_MAX 8u         /* strata of one key that are remembered: what more would hide is kept */
#define ABOVE_STEPS_MAX 8u    /* entries of newer tables that are walked over; a seek costs about as much */
#define GRANDPARENT_TABLES_MAX 10 /* what one output may make a later compaction drag in (LevelDB's number) */

struct bytes {
    uint8_t *data;
    size_t len, capacity;
};

struct run {
    const struct compact_job *job;
    struct compact_result *result;
    struct table_builder *builder; /* NULL between tables */
    size_t grandparent;            /* index of the first file not yet passed */
    uint64_t grandparent_bytes;    /* passed since the current table began */
    uint64_t unyielded_bytes;
    uint64_t dropped, folded;
    bool bad_input;

    size_t range_out;                    /* fragment that is to be written next, from range_from on */
    size_t range_seen;                   /* fragments that start up to the key written last */
    size_t range_bytes;                  /* of those since the current table began */
    uint8_t range_from[LSM_KEY_MAX + 1]; /* where the current table begins */
    size_t range_from_len;
    bool has_range_from;

    /* The user key being worked on. */
    uint8_t key[LSM_KEY_MAX];
    size_t key_len;
    bool has_key, key_has_output;
    size_t cover;               /* index of the first fragment that ends above the key */
    size_t cover_at, cover_end; /* seqs of it that cover the key and were not come to yet; none: equal */
    uint64_t previous_seq;
    size_t closed_stratum; /* older versions in it are hidden; SIZE_MAX: none */

    /* The version held back: a delete or an operand. */
    bool held;
    enum entry_type held_type;
    uint64_t held_seq;
    size_t held_stratum;
    struct bytes operand, folding; /* folding: where the next fold goes, then they change places */

    /* Strata of the key in which a newer table has a put or a delete of it, or of a range with it. */
    size_t hidden[HIDDEN_MAX];
    unsigned hidden_count;
    bool above_begun;
    size_t above_cover; /* index of the first fragment of above_ranges not yet passed */
};

static int bad_input(struct run *r, const char *what)
{
    r->bad_input = true;
    logger_write(r->job->log, LSM_LOG_ERROR, "%s: compaction stopped, nothing was changed: %s", r->job->dir,
                 what);
    return -EIO;
}

/* ---- output ---- */

static int remember_table(struct run *r, const struct table_meta *meta)
{
    struct compact_result *out = r->result;
    if ((out->count & (out->count - 1)) == 0) {
        struct table_meta *grown = realloc(out->tables, (out->count ? out->count * 2 : 1) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        out->tables = grown;
    }
    out->tables[out->count++] = *meta;
    out->entries_out += meta->entries;
    out->bytes_written += meta->bytes;
    return 0;
}

static void remove_table(struct env *env, const char *dir, uint64_t number)
{
    size_t size = strlen(dir) + 32;
    char *path = malloc(size);
    if (!path)
        return; /* the next open deletes it */
    table_path(dir, number, path, size);
    (void)env_unlink(env, path); /* likewise */
    free(path);
}

static int begin_table(struct run *r)
{
    const struct compact_job *job = r->job;
    struct table_builder_options options = {
        .env = job->env,
        .dir = job->dir,
        .block_bytes = job->block_bytes,
        .compression = job->compression,
        .filter_bits = job->filter_bits,
        .stats = job->writer_stats,
        .expected_entries = job->max_output_bytes ? 0 : job->expected_entries,
    };
    return table_builder_new(&options, vset_new_number(job->vs), &r->builder);
}

/* ---- range deletes ---- */

static size_t fragment_count(const struct run *r) { return r->job->ranges ? r->job->ranges->count : 0; }

static const struct range_fragment *fragment(const struct run *r, size_t i)
{
    return i < fragment_count(r) ? &r->job->ranges->fragments[i] : NULL;
}

/* Nothing is left below that the range delete could hide. */
static bool is_spent(const struct run *r, uint64_t seq)
{
    const struct compact_job *job = r->job;
    return mutant("range deletes dropped too early") ||
           (job->bottom && (ranges_stratum(job->snapshots, job->snapshot_count, seq) == 0 ||
                            mutant("range deletes ignore snapshots")));
}

static int write_fragment(struct run *r, const struct range_fragment *f, struct range_delete d)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < f->count; i++) {
        d.seq = r->job->ranges->seqs[f->first + i];
        if (is_spent(r, d.seq))
            continue;
        if (!r->builder)
            rc = begin_table(r);
        if (!rc)
            rc = table_builder_add_range(r->builder, &d);
    }
    return rc;
}

/* Writes what the table that ends at `cut` (NULL: the last one) has of the range deletes. */
static int write_ranges(struct run *r, const uint8_t *cut, size_t cut_len)
{
    const struct range_fragment *f;
    int rc = 0;
    for (; !rc && (f = fragment(r, r->range_out)); r->range_out++) {
        if (cut && key_compare(f->start, f->start_len, cut, cut_len) >= 0)
            break;
        struct range_delete d = {f->start, f->end, f->start_len, f->end_len, 0};
        if (r->has_range_from && key_compare(r->range_from, r->range_from_len, d.start, d.start_len) > 0) {
            d.start = r->range_from;
            d.start_len = (uint32_t)r->range_from_len;
        }
        bool goes_on = cut && key_compare(f->end, f->end_len, cut, cut_len) > 0;
        if (goes_on && !mutant("range deletes not clipped")) {
            d.end = cut;
            d.end_len = (uint32_t)cut_len;
        }
        if (key_compare(d.start, d.start_len, d.end, d.end_len) < 0)
            rc = write_fragment(r, f, d);
        if (goes_on)
            break;
    }
    r->range_bytes = 0;
    r->has_range_from = cut != NULL;
    if (cut && cut_len)
        memmove(r->range_from, cut, cut_len);
    r->range_from_len = cut_len;
    return rc;
}

/* Ends the current table: what follows is at or above `cut`; NULL: nothing follows. */
static int finish_table(struct run *r, const uint8_t *cut, size_t cut_len)
{
    struct table_meta meta;
    r->grandparent_bytes = 0;
    int written = write_ranges(r, cut, cut_len);
    if (written || !r->builder)
        return written;
    int rc = table_builder_finish(r->builder, &meta);
    if (rc)
        return rc; /* the builder is still there to be aborted */
    r->builder = NULL;
    if (meta.deletes + meta.range_deletes > 0)
        meta.deletes_since_s = r->job->deletes_since_s;
    rc = remember_table(r, &meta);
    if (rc) {
        remove_table(r->job->env, r->job->dir, meta.number);
        table_meta_free(&meta);
    }
    return rc;
}

/* Some range delete that is not written yet begins below key. */
static bool range_reaches(const struct run *r, const uint8_t *key, size_t len)
{
    const struct range_fragment *f = fragment(r, r->range_out);
    return f && key_compare(f->start, f->start_len, key, len) < 0;
}

/*
 * Goes past the grandparent's files that end before `key` (NULL: at the end, those that range deletes still cover), and
 * cuts between them where a range delete alone would overlap too many.
 */
static int pass_grandparents(struct run *r, const uint8_t *key, size_t key_len)
{
    const struct level *g = r->job->grandparent;
    uint64_t max = r->job->max_output_bytes;
    while (g && r->grandparent < g->count) {
        const struct table_meta *m = &g->files[r->grandparent]->meta;
        if (key ? !table_ends_before(m, key, key_len) : r->range_out == fragment_count(r))
            break;
        r->grandparent_bytes += m->bytes;
        r->grandparent++;
        if (!max || r->grandparent_bytes <= GRANDPARENT_TABLES_MAX * max || r->grandparent == g->count)
            continue;
        m = &g->files[r->grandparent]->meta;
        bool before_key = !key || key_compare(m->smallest, m->smallest_len, key, key_len) < 0;
        bool behind = !r->has_range_from ||
                      key_compare(m->smallest, m->smallest_len, r->range_from, r->range_from_len) > 0;
        if (before_key && behind && range_reaches(r, m->smallest, m->smallest_len)) {
            int rc = finish_table(r, m->smallest, m->smallest_len);
            if (rc)
                return rc;
        }
    }
    return 0;
}

/* Counts the range deletes that begin up to `key` (NULL: all), and cuts where there are enough for a table. */
static int pass_ranges(struct run *r, const uint8_t *key, size_t key_len)
{
    const struct range_fragment *f;
    uint64_t max = r->job->max_output_bytes;
    for (; (f = fragment(r, r->range_seen)); r->range_seen++) {
        if (key && key_compare(f->start, f->start_len, key, key_len) > 0)
            break;
        bool behind =
            !r->has_range_from || key_compare(f->start, f->start_len, r->range_from, r->range_from_len) > 0;
        if (max && r->range_bytes >= max && behind) {
            int rc = finish_table(r, f->start, f->start_len);
            if (rc)
                return rc;
        }
        r->range_bytes += f->count * ((size_t)f->start_len + f->end_len + RANGE_ENTRY_BYTES);
    }
    return 0;
}

/* Before the first output of a user key: the only place where a table may be cut. */
static int cut_if_due(struct run *r)
{
    uint64_t max = r->job->max_output_bytes;
    int rc = pass_grandparents(r, r->key, r->key_len);
    if (!rc)
        rc = pass_ranges(r, r->key, r->key_len);
    if (rc)
        return rc;
    if (!r->builder && !range_reaches(r, r->key, r->key_len)) {
        r->grandparent_bytes = 0;
        return 0;
    }
    bool full = max && (r->builder ? table_builder_bytes(r->builder) : 0) + r->range_bytes >= max;
    bool wide = max && r->grandparent_bytes > GRANDPARENT_TABLES_MAX * max;
    return full || wide ? finish_table(r, r->key, r->key_len) : 0;
}

static int emit(struct run *r, uint64_t seq, enum entry_type type, const void *value, size_t value_len)
{
    int rc = 0;
    if (r->job->dry)
        return 0;
    if (!r->key_has_output)
        rc = cut_if_due(r);
    if (!rc && !r->builder)
        rc = begin_table(r);
    if (rc)
        return rc;
    r->key_has_output = true;
    uint8_t pointer[BLOB_POINTER_MAX];
    if (type == ENTRY_BLOB && r->job->move) {
        if (value_len > sizeof pointer)
            return bad_input(r, "an entry is no pointer into a blob file");
        size_t old_len = value_len;
        memcpy(pointer, value, old_len);
        rc = r->job->move(r->job->move_arg, pointer, &value_len);
        struct blob_pointer to;
        if (!rc && (value_len != old_len || memcmp(pointer, value, old_len) != 0) &&
            !blob_pointer_decode(pointer, value_len, &to))
            r->unyielded_bytes += to.length;
        if (rc)
            return rc;
        value = pointer;
    }
    struct ikey key = {.key = r->key, .len = (uint32_t)r->key_len, .type = (uint8_t)type, .seq = seq};
    return table_builder_add(r->builder, &key, value, value_len);
}

/* ---- the held version ---- */

static int reserve(struct bytes *b, size_t capacity)
{
    if (b->data && b->capacity >= capacity)
        return 0;
    uint8_t *grown = realloc(b->data, capacity + 1);
    if (!grown)
        return -ENOMEM;
    b->data = grown;
    b->capacity = capacity;
    return 0;
}

static int hold(struct run *r, const struct iter *it, size_t stratum)
{
    assert(!r->held);
    if (it->key.type == ENTRY_MERGE) {
        int rc = reserve(&r->operand, it->value_len);
        if (rc)
            return rc;
        if (it->value_len)
            memcpy(r->operand.data, it->value, it->value_len);
        r->operand.len = it->value_len;
    }
    r->held = true;
    r->held_type = it->key.type;
    r->held_seq = it->key.seq;
    r->held_stratum = stratum;
    return 0;
}

/* The held operand becomes what it makes of `base`; NULL: of nothing. */
static int fold(struct run *r, const void *base, size_t base_len, bool base_is_operand)
{
    const struct compact_job *job = r->job;
    size_t room = base_len > r->operand.len ? base_len : r->operand.len;
    int rc = reserve(&r->folding, room);
    if (rc)
        return rc;
    size_t len = job->merge(job->merge_arg, base, base_len, base_is_operand, r->operand.data, r->operand.len,
                            r->folding.data);
    assert(len <= room);
    struct bytes folded = r->folding;
    folded.len = len;
    r->folding = r->operand;
    r->operand = folded;
    return 0;
}

static int emit_held(struct run *r, enum entry_type type)
{
    r->held = false;
    bool has_value = type != ENTRY_DELETE;
    return emit(r, r->held_seq, type, has_value ? r->operand.data : NULL, has_value ? r->operand.len : 0);
}

/* ---- one version, one key ---- */

static size_t stratum_of(const struct compact_job *job, uint64_t seq)
{
    return ranges_stratum(job->snapshots, job->snapshot_count, seq);
}

/* ---- newer tables ---- */

static void hide(struct run *r, uint64_t seq)
{
    size_t stratum = stratum_of(r->job, seq);
    if (r->hidden_count < HIDDEN_MAX)
        r->hidden[r->hidden_count++] = stratum;
}

static void look_at_ranges_above(struct run *r)
{
    const struct ranges *a = r->job->above_ranges;
    const struct range_fragment *f;
    while ((f = r->above_cover < a->count ? &a->fragments[r->above_cover] : NULL) &&
           key_compare(f->end, f->end_len, r->key, r->key_len) <= 0)
        r->above_cover++;
    if (f && key_compare(f->start, f->start_len, r->key, r->key_len) <= 0)
        for (size_t i = 0; i < f->count; i++)
            hide(r, a->seqs[f->first + i]);
}

/* Finds out in which strata newer tables hide the key. */
static int look_above(struct run *r)
{
    struct iter *it = r->job->above;
    r->hidden_count = 0;
    if (!it)
        return 0;
    look_at_ranges_above(r);
    unsigned steps = r->above_begun ? 0 : ABOVE_STEPS_MAX;
    r->above_begun = true;
    while (steps < ABOVE_STEPS_MAX && it->valid &&
           key_compare(it->key.key, it->key.len, r->key, r->key_len) < 0) {
        iter_next(it);
        steps++;
    }
    if (steps == ABOVE_STEPS_MAX)
        iter_seek(it, r->key, r->key_len, SEQ_MAX);
    for (; it->valid && key_compare(it->key.key, it->key.len, r->key, r->key_len) == 0; iter_next(it)) {
        if (it->key.type == ENTRY_PUT || it->key.type == ENTRY_DELETE || it->key.type == ENTRY_BLOB)
            hide(r, it->key.seq);
    }
    r->bad_input = it->status == -EIO || it->status == -ENOTSUP;
    return it->status;
}

static bool is_hidden(const struct run *r, size_t stratum)
{
    if (r->hidden_count && mutant("purge forgets the snapshots"))
        return true;
    for (unsigned i = 0; i < r->hidden_count; i++)
        if (r->hidden[i] == stratum)
            return true;
    return false;
}

/* ---- one version, one key, continued ---- */

/* A version below a held operand of its own stratum. */
static int fold_version(struct run *r, const struct iter *it)
{
    bool is_operand = it->key.type == ENTRY_MERGE, is_delete = it->key.type == ENTRY_DELETE;
    static const uint8_t empty[1];
    const void *base = is_delete       ? NULL
                       : it->value_len ? it->value
                                       : empty; /* NULL says that there is none */
    r->folded++;
    int rc = fold(r, base, is_delete ? 0 : it->value_len, is_operand);
    if (rc || is_operand)
        return rc;
    r->closed_stratum = r->held_stratum;
    return emit_held(r, ENTRY_PUT);
}

/* A range delete that covers the key, come to in the order of seqs. */
static int take_range(struct run *r, uint64_t seq)
{
    size_t stratum = stratum_of(r->job, seq);
    if (stratum == r->closed_stratum)
        return 0;
    r->closed_stratum = stratum;
    if (!r->held)
        return 0;
    if (r->held_type == ENTRY_DELETE) { /* says nothing that this one does not say */
        r->held = false;
        r->dropped++;
        return 0;
    }
    if (r->held_stratum != stratum)
        return 0;
    int rc = fold(r, NULL, 0, false);
    return rc ? rc : emit_held(r, ENTRY_PUT);
}

/* Those that are newer than `seq`. */
static int take_ranges(struct run *r, uint64_t seq)
{
    int rc = 0;
    for (; !rc && r->cover_at < r->cover_end && r->job->ranges->seqs[r->cover_at] > seq; r->cover_at++)
        rc = take_range(r, r->job->ranges->seqs[r->cover_at]);
    return rc;
}

/* Finds what covers the key that begins. */
static void begin_cover(struct run *r)
{
    const struct range_fragment *f;
    while ((f = fragment(r, r->cover)) && key_compare(f->end, f->end_len, r->key, r->key_len) <= 0)
        r->cover++;
    r->cover_at = r->cover_end = 0;
    if (f && key_compare(f->start, f->start_len, r->key, r->key_len) <= 0) {
        r->cover_at = f->first;
        r->cover_end = f->first + f->count;
    }
}

/* What dropping it gives back sooner or later, beside what it has in the table. */
static uint64_t blob_bytes(const struct iter *it)
{
    struct blob_pointer p;
    bool is_blob = it->key.type == ENTRY_BLOB && !blob_pointer_decode(it->value, it->value_len, &p);
    return is_blob ? p.length : 0;
}

static int take_version(struct run *r, const struct iter *it)
{
    int err = take_ranges(r, it->key.seq);
    if (err)
        return err;
    size_t stratum = stratum_of(r->job, it->key.seq);
    if (is_hidden(r, stratum)) {
        r->dropped++;
        r->result->dropped_bytes += it->key.len + it->value_len;
        r->result->dropped_blob_bytes += blob_bytes(it);
        return 0;
    }
    if (stratum == r->closed_stratum) {
        r->dropped++;
        return 0;
    }
    if (r->held && r->held_type == ENTRY_MERGE && r->held_stratum == stratum && it->key.type != ENTRY_BLOB)
        return fold_version(r, it);
    if (r->held && r->held_type == ENTRY_DELETE && it->key.type == ENTRY_DELETE) {
        r->held = false;
        r->dropped++;
    }
    if (r->held) {
        int rc = emit_held(r, r->held_type);
        if (rc)
            return rc;
    }
    if (it->key.type == ENTRY_MERGE)
        return r->job->merge ? hold(r, it, stratum)
                             : emit(r, it->key.seq, ENTRY_MERGE, it->value, it->value_len);
    r->closed_stratum = stratum;
    return it->key.type == ENTRY_DELETE ? hold(r, it, stratum)
                                        : emit(r, it->key.seq, it->key.type, it->value, it->value_len);
}

static int end_key(struct run *r)
{
    int err = take_ranges(r, 0);
    if (err || !r->held)
        return err;
    if (!r->job->bottom)
        return emit_held(r, r->held_type);
    if (r->held_type == ENTRY_DELETE) {
        r->held = false;
        r->dropped++;
        return 0;
    }
    int rc = fold(r, NULL, 0, false);
    return rc ? rc : emit_held(r, ENTRY_PUT);
}

static int begin_key(struct run *r, const struct ikey *key)
{
    int rc = r->has_key ? end_key(r) : 0;
    if (rc)
        return rc;
    memcpy(r->key, key->key, key->len);
    r->key_len = key->len;
    r->has_key = true;
    r->key_has_output = false;
    r->closed_stratum = SIZE_MAX;
    begin_cover(r);
    return look_above(r);
}

/* ---- the loop ---- */

static int step(struct run *r, const struct iter *it)
{
    const struct ikey *k = &it->key;
    if (k->len > LSM_KEY_MAX || k->type > ENTRY_BLOB)
        return bad_input(r, "an entry has a key too long or a type unknown to this release");
    int order = r->has_key ? key_compare(r->key, r->key_len, k->key, k->len) : -1;
    if (order > 0 || (order == 0 && r->previous_seq <= k->seq))
        return bad_input(r, "entries out of order");
    int rc = order < 0 ? begin_key(r, k) : 0;
    r->previous_seq = k->seq;
    return rc ? rc : take_version(r, it);
}

static int yield_if_due(struct run *r, const struct iter *it)
{
    uint64_t bytes = it->key.len + it->value_len;
    r->result->bytes_read += bytes;
    r->unyielded_bytes += bytes;
    if (!r->job->yield || r->unyielded_bytes < YIELD_BYTES)
        return 0;
    r->unyielded_bytes = 0;
    return r->job->yield(r->job->yield_arg);
}

static int check_counts(struct run *r)
{
    const struct compact_result *out = r->result;
    uint64_t accounted = out->entries_out + r->dropped + r->folded;
    if (out->entries_in == r->job->expected_entries && out->entries_in == accounted)
        return 0;
    char what[160];
    (void)snprintf(what, sizeof what,
                   "%" PRIu64 " entries expected, %" PRIu64 " read, %" PRIu64 " written, dropped or folded",
                   r->job->expected_entries, out->entries_in, accounted);
    return bad_input(r, what);
}

static int run_all(struct run *r)
{
    struct iter *it = r->job->input;
    int rc = 0;
    for (iter_first(it); it->valid; iter_next(it)) {
        r->result->entries_in++;
        rc = step(r, it);
        if (!rc)
            rc = yield_if_due(r, it);
        if (rc)
            return rc;
    }
    rc = it->status;
    r->bad_input |= rc == -EIO || rc == -ENOTSUP;
    if (!rc && r->has_key)
        rc = end_key(r);
    if (r->job->dry)
        return rc;
    if (!rc)
        rc = pass_ranges(r, NULL, 0);
    if (!rc)
        rc = pass_grandparents(r, NULL, 0);
    if (!rc)
        rc = finish_table(r, NULL, 0);
    return rc ? rc : check_counts(r);
}

int compact_run(const struct compact_job *job, struct compact_result *out)
{
    memset(out, 0, sizeof *out);
    struct run *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->job = job;
    r->result = out;
    int rc = run_all(r);
    out->dropped = r->dropped + r->folded;
    if (rc) {
        table_builder_abort(r->builder);
        compact_result_discard(job->env, job->dir, out);
        out->bad_input = r->bad_input;
    }
    free(r->operand.data);
    free(r->folding.data);
    free(r);
    return rc;
}

void compact_result_free(struct compact_result *result)
{
    for (size_t i = 0; i < result->count; i++)
        table_meta_free(&result->tables[i]);
    free(result->tables);
    memset(result, 0, sizeof *result);
}

void compact_result_discard(struct env *env, const char *dir, struct compact_result *result)
{
    for (size_t i = 0; i < result->count; i++)
        remove_table(env, dir, result->tables[i].number);
    compact_result_free(result);
}
