/*
 * check_scan.c - reading for the check: one key, and ranges of keys with what can't be read stepped over.
 */
#include "check_internal.h"

#include <errno.h>
#include <string.h>

static struct key scan_key(const struct check_scan *s, uint64_t number)
{
    struct key k = key_u64(s->id, s->tag, s->digits == 8 ? number : number << 8);
    k.len = 9 + s->digits;
    return k;
}

static uint64_t scan_number(const struct check_scan *s)
{
    uint8_t be[8] = {0};
    size_t len;
    const uint8_t *key = lsm_iter_key(s->it, &len);
    memcpy(be + 8 - s->digits, key + 9, len - 9 < s->digits ? len - 9 : s->digits);
    return get_be64(be);
}

struct key check_scan_key(const struct check_scan *s) { return scan_key(s, s->last); }

int check_scan_open(struct check_scan *s, struct check *c, fs_id id, enum key_tag tag, unsigned digits)
{
    struct key lower = key_plain(id, tag), upper = key_plain(id, (enum key_tag)(tag + 1));
    struct lsm_iter_options o = {.lower = lower.bytes,
                                 .lower_len = lower.len,
                                 .upper = upper.bytes,
                                 .upper_len = upper.len,
                                 .route_key = lower.bytes,
                                 .route_key_len = lower.len,
                                 .flags = LSM_NOFILL};
    *s = (struct check_scan){.c = c, .id = id, .tag = tag, .digits = digits};
    return lsm_iter_new(c->db, &o, &s->it);
}

void check_scan_close(struct check_scan *s) { lsm_iter_free(s->it); }

static int scan_probe(struct check_scan *s, uint64_t number)
{
    struct key k = scan_key(s, number);
    lsm_iter_seek(s->it, k.bytes, k.len);
    return lsm_iter_status(s->it);
}

/* What follows `bad` can't be read: goes to about the first key that can. 0, or the error if none can. */
static int scan_step_over(struct check_scan *s, uint64_t bad)
{
    const uint64_t max = s->digits == 8 ? UINT64_MAX : HASH_MASK;
    uint64_t good = bad;
    int r = -EIO;
    for (uint64_t step = 1; r < 0; step *= 2) {
        if (r == -ENOMEM || good == max)
            return r;
        bad = good;
        good = step && step <= max - good ? good + step : max;
        r = scan_probe(s, good);
    }
    while (good - bad > 1) {
        uint64_t mid = bad + (good - bad) / 2;
        r = scan_probe(s, mid);
        if (r == -ENOMEM)
            return r;
        *(r < 0 ? &bad : &good) = mid;
    }
    return scan_probe(s, good);
}

int check_scan_next(struct check_scan *s)
{
    if (s->begun)
        lsm_iter_next(s->it);
    else
        lsm_iter_first(s->it);
    int r = lsm_iter_status(s->it);
    if (r < 0 && r != -ENOMEM) {
        s->skipped++;
        s->c->damage_seen++;
        r = scan_step_over(s, s->begun ? s->last : 0);
        r = r == -ENOMEM ? r : 0; /* the rest can't be read: the end, as far as we get */
    }
    if (r < 0 || !lsm_iter_valid(s->it))
        return r;
    s->begun = true;
    s->last = scan_number(s);
    return 1;
}

/* ---- one key ---- */

static int get(struct check *c, const void *key, size_t len, struct lsm_value *out)
{
    *out = (struct lsm_value){0};
    int r = lsm_get(c->db, key, len, NULL, LSM_NOFILL, out);
    if (r == 0 || r == -ENOENT || r == -ENOMEM)
        return r;
    c->damage_seen++;
    return -EIO;
}

int check_get(struct check *c, const struct key *key, struct lsm_value *out)
{
    return get(c, key->bytes, key->len, out);
}

int check_value(struct check *c, struct lsm_iter *it, struct lsm_value *out)
{
    size_t key_len;
    *out = (struct lsm_value){0};
    out->data = lsm_iter_value(it, &out->len); /* borrowed: to release it is nothing */
    if (out->data)
        return 0;
    const void *key = lsm_iter_key(it, &key_len);
    return get(c, key, key_len, out);
}
