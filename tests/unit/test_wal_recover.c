/*
 * test_wal_recover.c - what recovery makes of tears, damage, leftovers of earlier uses, failing media.
 */
#include "wal_store.h"

/* The last record, cut at every byte, zeros or noise behind: dropped, and what is before it kept. */
static void test_torn_tail(void **state)
{
    (void)state;
    struct store *s = store_new(true, false);
    struct wal_ticket t;
    struct wal_recovered r;
    uint8_t whole[512], torn[512];
    uint64_t rnd = base_seed;

    reopen(s);
    append_ok(s, 300, 1, NULL);
    append_ok(s, 3, 2, NULL);
    append_ok(s, 61, 3, &t);
    crash(s);
    size_t n = t.end - t.lsn;
    raw(s, t.lsn, whole, n, false);
    for (size_t cut = 0; cut <= n; cut++) {
        for (int noise = 0; noise < 2; noise++) {
            memcpy(torn, whole, n);
            for (size_t i = cut; i < n; i++)
                torn[i] = noise ? (uint8_t)random_next(&rnd) : 0;
            bool good = memcmp(torn, whole, n) == 0;
            raw(s, t.lsn, torn, n, true);
            assert_int_equal(recover(s, noise, &r), 0);
            assert_int_equal(r.records, good ? 3 : 2);
            assert_int_equal(r.end, good ? t.end : t.lsn);
            assert_int_equal(r.number, s->uses[0].number);
        }
    }
    raw(s, t.lsn, torn, n, true);
    /* in the middle of the log, never synced: everything from there on is void, even what is good */
    raw(s, t.lsn, whole, n, true);
    flip(s, s->uses[0].base + 60);
    assert_int_equal(recover(s, false, &r), 0);
    assert_int_equal(r.records, 0);
    assert_int_equal(r.end, s->uses[0].base);
    /* and it stays void after going on elsewhere */
    assert_int_equal(reopen(s), 0);
    append_ok(s, 10, 7, NULL);
    flip(s, s->uses[0].base + 60);
    crash(s);
    assert_int_equal(recover(s, false, &r), 0);
    assert_int_equal(r.records, 1);
    assert_int_equal(s->first_index, 7);
    store_free(s);
}

static void test_torn_segment_start(void **state)
{
    (void)state;
    struct store *s = store_new(false, false);
    struct wal_ticket t;
    struct wal_recovered r;
    uint64_t index = 0;

    reopen(s);
    do
        append_ok(s, 50000, index++, &t);
    while (s->use_count < 2 || t.lsn != s->uses[1].base);
    crash(s);
    flip(s, t.lsn + 50);
    assert_int_equal(recover(s, true, &r), 0);
    assert_int_equal(r.records, index - 1);
    assert_int_equal(r.end, s->uses[1].base);
    assert_int_equal(r.number, s->uses[1].number);
    reopen(s);
    append_ok(s, 20, index, NULL);
    crash(s);
    assert_int_equal(reopen(s), index);
    store_free(s);
}

/* Each byte of records that had been synced, flipped: refused, whatever the proof is. */
static void test_damage(void **state)
{
    (void)state;
    struct store *s = store_new(true, false);
    struct wal_ticket t[4];
    struct wal_recovered r;

    reopen(s);
    append_ok(s, 100, 0, &t[0]);
    append_ok(s, 13, 1, &t[1]);
    append_ok(s, 60, 2, &t[2]);
    assert_int_equal(wal_sync(s->wal), 0);
    append_ok(s, 60, 3, &t[3]); /* carries the proof */
    crash(s);
    lsn_t manifest = s->synced;
    for (unsigned i = 0; i < 4; i++) {
        for (lsn_t at = t[i].lsn; at < t[i].end; at++) {
            flip(s, at);
            assert_int_equal(recover(s, true, &r), i < 3 ? -EUCLEAN : 0);
            assert_int_equal(r.records, i);
            assert_int_equal(r.end, t[i].lsn);
            if (i < 3) {
                assert_int_equal(r.damage_number, s->uses[0].number);
                assert_int_equal(r.damage_offset, t[i].lsn - s->uses[0].base);
            } else {
                s->synced = t[3].end; /* the manifest knows better */
                assert_int_equal(recover(s, true, &r), -EUCLEAN);
                s->synced = manifest;
                s->uses[0].end = t[3].end; /* or an earlier recovery */
                assert_int_equal(recover(s, true, &r), -EUCLEAN);
                s->uses[0].end = 0;
            }
            flip(s, at);
        }
    }
    assert_int_equal(recover(s, true, &r), 0);
    assert_int_equal(r.records, 4);
    store_free(s);
}

/* The proof stands in another segment; then in the recorded end of another use. */
static void test_damage_far(void **state)
{
    (void)state;
    struct store *s = store_new(false, false);
    struct wal_ticket first, t;
    struct wal_recovered r;
    uint64_t index = 1;
    char path[128];

    reopen(s);
    append_ok(s, 1000, 0, &first);
    while (wal_frontier(s->wal) < s->uses[0].base + SEGMENT)
        append_ok(s, 30000, index++, &t);
    assert_int_equal(wal_sync(s->wal), 0);
    append_ok(s, 30000, index++, &t);
    while (s->use_count < 3)
        append_ok(s, 30000, index++, &t);
    crash(s);
    struct store before = *s;
    flip(s, first.lsn + 500);
    assert_int_equal(recover(s, false, &r), -EUCLEAN);
    assert_int_equal(r.records, 0);
    s->start = first.end; /* it does not matter once it is flushed */
    assert_int_equal(recover(s, false, &r), 0);
    assert_int_equal(r.records, index - 1);
    s->start = before.start;
    flip(s, first.lsn + 500);

    reopen(s);
    append_ok(s, 10, index++, NULL);
    crash(s);
    assert_int_equal(recover(s, false, &r), 0);
    assert_int_equal(r.records, index);
    flip(s, first.lsn + 4); /* in the header */
    assert_int_equal(recover(s, false, &r), -EUCLEAN);
    flip(s, first.lsn + 4);
    wal_segment_path(s->dir, s->uses[1].number, path, sizeof(path));
    assert_int_equal(env_unlink(s->files, path), 0);
    assert_int_equal(recover(s, false, &r), -EUCLEAN);
    assert_int_equal(r.damage_number, s->uses[1].number);
    drop_use(s, 1); /* a hole in the list */
    assert_int_equal(recover(s, false, &r), -EUCLEAN);
    store_free(s);
}

static void test_bad_arguments(void **state)
{
    (void)state;
    struct store *s = store_new(false, false);
    struct wal_recovered r;
    struct wal_use good = {.number = 1, .base = 8, .salt = 1, .bytes = SEGMENT},
                   bad[] = {good, good, good, good, good};

    bad[0].base = 0;
    bad[1].base = 12;
    bad[2].bytes = 4096;
    bad[3].end = 8 + SEGMENT + 8;
    bad[4].base = UINT64_MAX - 7;
    for (size_t i = 0; i < 5; i++) {
        s->uses[0] = bad[i];
        s->use_count = 1;
        struct wal_recovery v = {
            .env = &s->env.base, .dir = s->dir, .uses = s->uses, .use_count = 1, .start = 8};
        assert_int_equal(wal_recover(&v, &r), -EUCLEAN);
        assert_true(r.damaged);
    }
    s->use_count = 0;
    s->start = 0;
    assert_int_equal(recover(s, true, &r), 0);
    assert_int_equal(r.next, 8);
    assert_int_equal(r.number, 0);
    struct wal_options o = options_of(s);
    o.segment_bytes = 4096;
    assert_int_equal(wal_open(&o, 8, NULL, 0, NULL, 0, &s->wal), -EINVAL);
    o.segment_bytes = SEGMENT + 8;
    assert_int_equal(wal_open(&o, 8, NULL, 0, NULL, 0, &s->wal), -EINVAL);
    s->wal = NULL;
    store_free(s);
}

/* What an earlier use left is never replayed: neither by salt nor by position. */
static void test_stale(void **state)
{
    (void)state;
    struct store *s = store_new(true, false);
    struct wal_recovered r;
    struct wal_ticket t;

    reopen(s);
    for (uint64_t i = 0; i < 50; i++)
        append_ok(s, 100, i, &t);
    crash(s);
    struct wal_use use = s->uses[0];
    s->uses[0].salt++; /* a new use, at the very same position */
    assert_int_equal(recover(s, false, &r), 0);
    assert_int_equal(r.records, 0);
    s->uses[0] = use;
    s->uses[0].base += SEGMENT; /* the same salt, at another position */
    s->start = s->uses[0].base;
    assert_int_equal(recover(s, false, &r), 0);
    assert_int_equal(r.records, 0);
    s->uses[0] = use;
    s->start = t.end;
    /* a real reuse: the file's old records are longer than the new ones, and of equal sizes */
    uint64_t number = use.number;
    struct wal_options o = options_of(s);
    s->use_count = 0;
    assert_int_equal(wal_open(&o, use.base + SEGMENT, NULL, 0, &number, 1, &s->wal), 0);
    assert_int_equal(s->uses[0].number, number);
    for (uint64_t i = 100; i < 120; i++)
        append_ok(s, 100, i, &t);
    crash(s);
    assert_int_equal(recover(s, false, &r), 0);
    assert_int_equal(r.records, 20);
    assert_int_equal(s->first_index, 100);
    assert_int_equal(r.end, t.end);
    store_free(s);
}

static void test_recovery_errors(void **state)
{
    (void)state;
    struct store *s = store_new(true, false);
    struct wal_recovered r;

    reopen(s);
    for (uint64_t i = 0; i < 30; i++)
        append_ok(s, 1000, i, NULL);
    crash(s);
    SET(s->env.read_error, -EIO); /* never taken for the end of the log */
    assert_int_equal(recover(s, true, &r), -EIO);
    SET(s->env.read_error, 0);
    SET(s->env.sync_error, -EIO); /* nor is what could not be synced called recovered */
    assert_int_equal(recover(s, true, &r), -EIO);
    assert_int_equal(recover(s, false, &r), 0); /* reading only syncs nothing */
    SET(s->env.sync_error, 0);
    s->replay_error = -ENOMEM;
    assert_int_equal(recover(s, false, &r), -ENOMEM);
    s->replay_error = 0;
    unsigned syncs = GET(s->env.syncs), bytes = GET(s->env.written_bytes);
    assert_int_equal(recover(s, false, &r), 0);
    assert_int_equal(GET(s->env.syncs), syncs);
    assert_int_equal(GET(s->env.written_bytes), bytes);
    assert_int_equal(recover(s, true, &r), 0);
    assert_int_equal(GET(s->env.syncs), syncs + 1);
    assert_int_equal(GET(s->env.written_bytes) - bytes, 30 * wal_record_bytes(1000)); /* all, once */
    s->synced = r.end; /* known to be durable: not again */
    assert_int_equal(recover(s, true, &r), 0);
    assert_int_equal(GET(s->env.syncs), syncs + 1);
    assert_int_equal(r.records, 30);
    store_free(s);
}

/* A record of a newer release is neither replayed nor taken for a tear. */
static void test_newer_record(void **state)
{
    (void)state;
    struct store *s = store_new(false, false);
    struct wal_recovered r;
    struct wal_ticket t;
    uint8_t header[WAL_HEADER_BYTES];

    reopen(s);
    append_ok(s, 10, 0, &t);
    crash(s);
    struct wal_header h = {.type = (enum wal_type)9, .length = 8, .lsn = t.end, .synced = 8};
    wal_header_encode(header, &h, s->uses[0].salt);
    raw(s, t.end, header, sizeof(header), true);
    assert_int_equal(recover(s, false, &r), -ENOTSUP);
    store_free(s);
}

/* Random damage anywhere: recovery returns a prefix, or refuses, and never invents. */
static void test_random_damage(void **state)
{
    (void)state;
    uint64_t rnd = base_seed;

    for (int round = 0; round < 12; round++) {
        struct store *s = store_new(round % 2, false);
        struct wal_recovered r;
        lsn_t ends[400] = {0};
        uint64_t index = 0;
        lsn_t synced = 0;
        reopen(s);
        lsn_t first = wal_frontier(s->wal);
        while (index < 300) {
            struct wal_ticket t;
            append_ok(s, random_next(&rnd) % 12000, index, &t);
            ends[index++] = t.end;
            if (random_next(&rnd) % 50 == 0) {
                assert_int_equal(wal_sync(s->wal), 0);
                synced = wal_synced(s->wal);
            }
        }
        lsn_t last = wal_frontier(s->wal);
        crash(s);
        lsn_t told = ends[index - 1] > synced ? synced : 0; /* by the last record */
        for (int hit = 0; hit < 6; hit++) {
            lsn_t at = first + random_next(&rnd) % (last - first);
            flip(s, at);
            int rc = recover(s, true, &r);
            uint64_t n = r.records;
            assert_true(n <= index);
            if (n < index) { /* it stopped before what was hit, never after */
                lsn_t x = n ? ends[n - 1] : first;
                assert_true(x <= at && r.end >= x);
                if (told > r.end)
                    assert_int_equal(rc, -EUCLEAN);
                else
                    assert_int_equal(rc, r.damaged ? -EUCLEAN : 0);
            } else {
                assert_int_equal(rc, 0); /* in the void behind a pad's header */
            }
            flip(s, at);
        }
        store_free(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torn_tail),       cmocka_unit_test(test_torn_segment_start),
        cmocka_unit_test(test_damage),          cmocka_unit_test(test_damage_far),
        cmocka_unit_test(test_bad_arguments),   cmocka_unit_test(test_stale),
        cmocka_unit_test(test_recovery_errors), cmocka_unit_test(test_newer_record),
        cmocka_unit_test(test_random_damage),
    };

    return RUN_TESTS("test_wal_recover", tests);
}
