/*
 * cmd_scan.c - `shale scan`: the raw records of a store, in key order, one a line.
 *
 * For looking at what the filesystem really keeps; the keys are explained in fs/keys.h. Ids are
 * printed as st_ino shows them, hashes in hexadecimal.
 */
#include "keys.h"
#include "shale.h"
#include <ctype.h>
#include <string.h>

#define PREVIEW_BYTES 24u

struct scan {
    uint8_t lower[LSM_KEY_MAX], upper[LSM_KEY_MAX];
    size_t lower_len, upper_len; /* upper_len 0: no bound */
    bool keys_only;
};

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The range of all keys that begin with the bytes in `hex`. */
static bool parse_prefix(const char *hex, struct scan *s)
{
    size_t digits = strlen(hex);
    if (digits % 2 || digits / 2 > sizeof(s->lower))
        return false;
    s->lower_len = digits / 2;
    for (size_t i = 0; i < s->lower_len; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        s->lower[i] = (uint8_t)(high << 4 | low);
    }
    memcpy(s->upper, s->lower, s->lower_len);
    s->upper_len = s->lower_len;
    while (s->upper_len > 0 && s->upper[s->upper_len - 1] == 0xff)
        s->upper_len--;
    if (s->upper_len > 0)
        s->upper[s->upper_len - 1]++;
    return true;
}

static void print_hex(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        printf("%02x", p[i]);
}

static void print_text(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        putchar(p[i] >= 0x20 && p[i] < 0x7f ? p[i] : '.');
}

static unsigned long long be64_at(const uint8_t *p) { return (unsigned long long)get_be64(p); }

/* Keys of the reserved ids; false if it is none that we know. */
static bool print_reserved_key(const uint8_t *key, size_t len)
{
    fs_id id = get_be64(key);
    unsigned tag = key[8];
    if (id == ID_SUPER && len == 9 && tag == KEY_SUPER)
        fputs("super", stdout);
    else if (id == ID_SUPER && len == 9 && tag == KEY_LEASE)
        fputs("lease", stdout);
    else if ((id & ID_SERIAL_MASK) == ID_SERIAL_ORPHANS && len == 17 && tag == KEY_ORPHAN)
        printf("orphan %u %llu", id_vshard(id), be64_at(key + 9));
    else if ((id & ID_SERIAL_MASK) == ID_SERIAL_ORPHANS && len == 17 && tag == KEY_TRUNCATE)
        printf("truncate %u %llu", id_vshard(id), be64_at(key + 9));
    else
        return false;
    return true;
}

static bool print_object_key(const uint8_t *key, size_t len)
{
    unsigned long long id = be64_at(key);
    switch (key[8]) {
    case KEY_DIR:
        if (len != 9)
            return false;
        printf("dir %llu", id);
        return true;
    case KEY_BUCKET:
        if (len != 16)
            return false;
        printf("entry %llu/%014llx", id, (unsigned long long)key_bucket_hash(key));
        return true;
    case KEY_INODE:
        if (len != 9)
            return false;
        printf("inode %llu", id);
        return true;
    case KEY_EXTENT:
        if (len != 17)
            return false;
        printf("extent %llu %llu", id, be64_at(key + 9));
        return true;
    case KEY_XATTR:
        printf("xattr %llu ", id);
        print_text(key + 9, len - 9);
        return true;
    case KEY_SMALL:
        if (len != 17)
            return false;
        printf("small %llu/%014llx/%u", id, (unsigned long long)key_bucket_hash(key), key[16]);
        return true;
    default: return false;
    }
}

static void print_key(const uint8_t *key, size_t len)
{
    if (len >= 9 && (print_reserved_key(key, len) || print_object_key(key, len)))
        return;
    fputs("key ", stdout);
    print_hex(key, len);
}

static void print_record(const struct lsm_iter *it, bool keys_only)
{
    size_t key_len, value_len;
    const uint8_t *key = lsm_iter_key(it, &key_len);
    const uint8_t *value = lsm_iter_value(it, &value_len);
    print_key(key, key_len);
    if (!keys_only) {
        size_t shown = value_len < PREVIEW_BYTES ? value_len : PREVIEW_BYTES;
        printf("\t%zu\t", value_len);
        print_hex(value, shown);
        fputs(shown < value_len ? "...\t|" : "\t|", stdout);
        print_text(value, shown);
        putchar('|');
    }
    putchar('\n');
}

static int print_records(const struct command *cmd, const char *store, struct fs *fs, const struct scan *s)
{
    struct lsm_iter_options options = {
        .lower = s->lower_len ? s->lower : NULL,
        .lower_len = s->lower_len,
        .upper = s->upper_len ? s->upper : NULL,
        .upper_len = s->upper_len,
        .flags = LSM_NOFILL,
    };
    struct lsm_iter *it;
    int r = lsm_iter_new(fs_lsm(fs), &options, &it);
    if (r < 0)
        return cli_fail(cmd, "%s: %s", store, store_error(r));
    for (lsm_iter_first(it); lsm_iter_valid(it) && !ferror(stdout); lsm_iter_next(it))
        print_record(it, s->keys_only);
    r = lsm_iter_status(it);
    lsm_iter_free(it);
    if (r < 0)
        return cli_fail(cmd, "%s: %s", store, store_error(r));
    return cli_flush(cmd);
}

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {{"prefix", required_argument, NULL, 'p'},
                                          {"keys-only", no_argument, NULL, 'k'},
                                          OPTION_HELP_LONG,
                                          {0}};
    struct scan s = {0};
    int option;
    while ((option = cli_getopt(cmd, argc, argv, "", longs)) != -1) {
        switch (option) {
        case 'p':
            if (!parse_prefix(optarg, &s))
                return cli_usage(cmd, "--prefix: '%s' is no string of bytes in hexadecimal", optarg);
            break;
        case 'k': s.keys_only = true; break;
        default: return cli_option_exit(option);
        }
    }
    if (!cli_arguments(cmd, argc, 1, 1))
        return SHALE_USAGE;

    struct fs *fs;
    int status = store_open(cmd, argv[optind], LSM_RDONLY, &fs);
    if (status != SHALE_OK)
        return status;
    status = print_records(cmd, argv[optind], fs, &s);
    return store_close(cmd, argv[optind], fs, status);
}

const struct command cmd_scan = {
    .name = "scan",
    .arguments = "[--prefix HEX] [--keys-only] STORE",
    .summary = "Print the raw records of a store",
    .help =
        "  --prefix HEX  only keys that begin with these bytes\n"
        "  --keys-only   no values\n\n"
        "A line is: the decoded key, and behind tabs the value's length in bytes, its first bytes in\n"
        "hexadecimal and the same as ASCII. Keys: super, lease, dir ID, entry DIR/HASH, small "
        "DIR/HASH/INDEX,\n"
        "inode ID, extent ID END, xattr ID NAME, orphan SHARD ID, truncate SHARD ID; others are 'key HEX'.\n",
    .run = run,
};
