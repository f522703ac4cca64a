/*
 * load_sqlite.c - SQLite under a power cut: does the harness find what is known of it?
 *
 *   load_sqlite make DIRECTORY JOURNAL                           an empty database
 *   load_sqlite run DIRECTORY JOURNAL SYNCHRONOUS SEED STEPS     transactions; the control file lies in DIRECTORY
 *   load_sqlite check DIRECTORY SEED                             run by replay
 *
 * Every transaction writes its number to row 0, and a blob that follows from its number to a row between 1 and ROWS. So
 * the number in row 0 says what all others must hold. Each acknowledged transaction counts as promised: that
 * is what a program believes that does not know what its settings mean.
 */
#include "facts.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 40u
#define BLOB_MAX 9000u

static uint64_t seed;

static sqlite3 *open_db(const char *dir, int flags)
{
    char path[4096];
    sqlite3 *db = NULL;

    snprintf(path, sizeof(path), "%s/db", dir);
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | flags, NULL) != SQLITE_OK) {
        printf("%s: %s\n", path, sqlite3_errmsg(db));
        exit(EXIT_BROKEN);
    }
    return db;
}

static void do_or_die(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
        exit(EXIT_USAGE);
    }
}

static void pragma(sqlite3 *db, const char *name, const char *value)
{
    char sql[128];

    snprintf(sql, sizeof(sql), "pragma %s=%s", name, value);
    do_or_die(db, sql);
}

static uint64_t row_of(uint64_t step) { return 1 + mix(seed, step, 1) % ROWS; }

static size_t blob_of(uint64_t step, uint8_t *blob)
{
    size_t len = (size_t)(mix(seed, step, 2) % BLOB_MAX);

    memset(blob, (int)(mix(seed, step, 3) & 0xff), len);
    return len;
}

static int make(const char *dir, const char *journal)
{
    sqlite3 *db = open_db(dir, SQLITE_OPEN_CREATE);

    pragma(db, "journal_mode", journal);
    do_or_die(db, "create table t(k integer primary key, n integer, v blob); insert into t values(0, 0, '')");
    return sqlite3_close(db) == SQLITE_OK ? 0 : EXIT_USAGE;
}

static void put(sqlite3 *db, uint64_t row, uint64_t step, const uint8_t *blob, size_t len)
{
    sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(db, "insert or replace into t values(?, ?, ?)", -1, &s, NULL) != SQLITE_OK ||
        sqlite3_bind_int64(s, 1, (sqlite3_int64)row) != SQLITE_OK ||
        sqlite3_bind_int64(s, 2, (sqlite3_int64)step) != SQLITE_OK ||
        sqlite3_bind_blob(s, 3, blob, (int)len, SQLITE_STATIC) != SQLITE_OK ||
        sqlite3_step(s) != SQLITE_DONE) {
        fprintf(stderr, "insert: %s\n", sqlite3_errmsg(db));
        exit(EXIT_USAGE);
    }
    sqlite3_finalize(s);
}

static int run(const char *dir, const char *journal, const char *synchronous, uint64_t steps)
{
    char control[4096];
    uint8_t blob[BLOB_MAX];
    sqlite3 *db = open_db(dir, 0);

    snprintf(control, sizeof(control), "%s/.record", dir);
    fact_open(control);
    pragma(db, "journal_mode", journal);
    pragma(db, "synchronous", synchronous);
    pragma(db, "cache_size", "12"); /* so that a transaction writes to the database before it ends */
    pragma(db, "wal_autocheckpoint", "40");
    for (uint64_t i = 1; i <= steps; i++) {
        fact(0, "sync", i);
        do_or_die(db, "begin");
        put(db, row_of(i), i, blob, blob_of(i, blob));
        put(db, 0, i, NULL, 0);
        do_or_die(db, "commit");
        fact(0, "synced", i);
    }
    return sqlite3_close(db) == SQLITE_OK ? 0 : EXIT_USAGE;
}

/* ---- checking ---- */

static void broken(const char *what, const char *why)
{
    printf("%s: %s\n", what, why);
    exit(EXIT_BROKEN);
}

static int is_ok(void *arg, int columns, char **values, char **names)
{
    (void)arg, (void)names;
    if (columns != 1 || !values[0] || strcmp(values[0], "ok") != 0)
        broken("integrity_check", columns && values[0] ? values[0] : "?");
    return 0;
}

/* Row `row` holds what step `last` wrote, or is absent if that is 0. */
static void check_row(sqlite3 *db, uint64_t row, uint64_t last)
{
    uint8_t blob[BLOB_MAX];
    size_t len = last && row ? blob_of(last, blob) : 0;
    sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(db, "select n, v from t where k = ?", -1, &s, NULL) != SQLITE_OK ||
        sqlite3_bind_int64(s, 1, (sqlite3_int64)row) != SQLITE_OK)
        broken("select", sqlite3_errmsg(db));
    int rc = sqlite3_step(s);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        broken("select", sqlite3_errmsg(db));
    if ((rc == SQLITE_ROW) != (last > 0 || row == 0))
        broken("a row", last ? "is missing" : "is there too early");
    if (rc == SQLITE_ROW &&
        ((uint64_t)sqlite3_column_int64(s, 0) != last || (size_t)sqlite3_column_bytes(s, 1) != len ||
         (len && memcmp(sqlite3_column_blob(s, 1), blob, len) != 0)))
        broken("a row", "is of another moment");
    sqlite3_finalize(s);
}

static uint64_t moment(sqlite3 *db)
{
    sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(db, "select n from t where k = 0", -1, &s, NULL) != SQLITE_OK ||
        sqlite3_step(s) != SQLITE_ROW)
        broken("select", sqlite3_errmsg(db));
    uint64_t n = (uint64_t)sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return n;
}

static int check(const char *dir)
{
    struct facts f = facts_read();
    sqlite3 *db = open_db(dir, 0);
    uint64_t last[ROWS + 1] = {0};

    if (sqlite3_exec(db, "pragma integrity_check", is_ok, NULL, NULL) != SQLITE_OK)
        broken("integrity_check", sqlite3_errmsg(db));
    uint64_t n = moment(db);
    if (n > f.stream[0].begun)
        broken("the database", "is of a moment that has not been");
    last[0] = n;
    for (uint64_t i = 1; i <= n; i++)
        last[row_of(i)] = i;
    for (uint64_t row = 0; row <= ROWS; row++)
        check_row(db, row, last[row]);
    sqlite3_close(db);
    if (n < facts_promised(&f, 0)) {
        printf("%" PRIu64 " transactions are there, %" PRIu64 " were acknowledged\n", n,
               facts_promised(&f, 0));
        return f.killed ? EXIT_BROKEN : EXIT_LOST;
    }
    return EXIT_GOOD;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "make") == 0)
        return make(argv[2], argv[3]);
    if (argc == 7 && strcmp(argv[1], "run") == 0) {
        seed = strtoull(argv[5], NULL, 10);
        return run(argv[2], argv[3], argv[4], strtoull(argv[6], NULL, 10));
    }
    if (argc == 4 && strcmp(argv[1], "check") == 0) {
        seed = strtoull(argv[3], NULL, 10);
        return check(argv[2]);
    }
    fprintf(stderr,
            "usage: load_sqlite make DIRECTORY JOURNAL | run DIRECTORY JOURNAL SYNCHRONOUS SEED STEPS | "
            "check DIRECTORY SEED\n");
    return EXIT_USAGE;
}
