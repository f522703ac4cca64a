/* options.c - see options.h. */
#include "options.h"

#include "log.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: shalefs STORE MOUNTPOINT [-o OPTION[,OPTION...]] [-f] [-d]\n"
    "\n"
    "Mounts the store in the directory STORE, which is created if it is absent or empty.\n"
    "\n"
    "  -f              stay in the foreground, messages on standard error\n"
    "  -d              the same, with every request printed\n"
    "  -h, --help      this text\n"
    "  -V, --version   the version\n"
    "\n"
    "Options after -o:\n"
    "  memory=SIZE     memory for caches and write buffers (default 256M, at least 16M)\n"
    "  commit=SECONDS  how long an unsynced change may be lost by a power cut (default 1, at most 300)\n"
    "  shards=N        parts of a new store (default: number of CPUs, at least 2; at most 64)\n"
    "  compression=HOW auto (default: Zstandard for what is at rest, LZ4 above), none, lz4 or zstd\n"
    "  noatime         reading never updates access times; relatime is the default\n"
    "  transport=KIND  auto (default), uring (FUSE over io_uring) or classic (/dev/fuse)\n"
    "  noacl           no POSIX ACLs are shown, set or checked: a first 'ls -l' of many files is faster\n"
    "  writeback       the kernel gathers writes: they are safe from the daemon's death only after fsync or "
    "close\n"
    "  nocontrol       no control directory .shale in the root\n"
    "  write_buffer=SIZE   size of one write buffer, for tests\n"
    "  ro, rw, allow_other, allow_root, auto_unmount, dev, nodev, suid, nosuid, exec, noexec, sync, "
    "dirsync,\n"
    "  max_read=SIZE, context=...   as for any FUSE mount; see mount.fuse3(8)\n"
    "\n"
    "SIZE takes the suffixes K, M and G. Unmount with 'shale umount', 'umount' or 'fusermount3 -u'.\n";

/* What mount(8) and fstab pass along without meaning the filesystem. */
static const char *const ignored[] = {"defaults", "auto",     "noauto",   "user",
                                      "nouser",   "users",    "owner",    "group",
                                      "nofail",   "_netdev",  "relatime", "default_permissions",
                                      "async",    "diratime", "atime"};
/* What libfuse or the kernel understand. */
static const char *const passed[] = {"rw",          "dev",        "suid",        "exec",
                                     "noexec",      "sync",       "dirsync",     "nodiratime",
                                     "allow_other", "allow_root", "auto_unmount"};
static const char *const passed_with_value[] = {"context", "fscontext", "defcontext", "rootcontext"};

#define MAX_READ_MIN 4096u /* the kernel's */
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static bool listed(const char *const *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], name) == 0)
            return true;
    return false;
}

static int pass_on(struct options *o, const char *text)
{
    if (o->mounts == MOUNT_OPTIONS_MAX) {
        log_tell("more than %u mount options; leave some out", MOUNT_OPTIONS_MAX);
        return -EINVAL;
    }
    o->mount[o->mounts] = strdup(text);
    if (!o->mount[o->mounts])
        return -ENOMEM;
    o->mounts++;
    return 0;
}

static int parse_size(const char *name, const char *text, size_t min, size_t *out)
{
    unsigned long long n;
    unsigned shift = 0;
    char *end;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (errno || end == text || text[0] < '0' || text[0] > '9')
        goto bad;
    if (*end) {
        static const char suffixes[] = "KMGT";
        const char *s = strchr(suffixes, *end >= 'a' ? *end - 'a' + 'A' : *end);
        if (!s || end[1])
            goto bad;
        shift = 10 * (unsigned)(s - suffixes + 1);
    }
    if (n > SIZE_MAX >> shift)
        goto bad;
    *out = (size_t)n << shift;
    if (*out < min) {
        log_tell("option %s=%s is too small; give at least %zu bytes", name, text, min);
        return -EINVAL;
    }
    return 0;
bad:
    log_tell("option %s=%s is not a size; write for example %s=512M", name, text, name);
    return -EINVAL;
}

static int parse_commit(const char *text, unsigned *ms)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds > 0.0 && seconds <= COMMIT_SECONDS_MAX)) {
        log_tell("option commit=%s is not a time; give seconds, more than 0 and at most %.0f", text,
                 COMMIT_SECONDS_MAX);
        return -EINVAL;
    }
    *ms = (unsigned)(seconds * 1000.0 + 0.5);
    if (*ms == 0)
        *ms = 1;
    return 0;
}

static int parse_shards(const char *text, unsigned *out)
{
    char *end;
    long n = strtol(text, &end, 10);

    if (end == text || *end || n < 1 || n > (long)SHARDS_MAX) {
        log_tell("option shards=%s is not a number from 1 to %u", text, SHARDS_MAX);
        return -EINVAL;
    }
    *out = (unsigned)n;
    return 0;
}

static int parse_compression(const char *text, enum lsm_compression *out)
{
    static const char *const names[] = {
        [LSM_COMPRESSION_AUTO] = "auto",
        [LSM_COMPRESSION_NONE] = "none",
        [LSM_COMPRESSION_LZ4] = "lz4",
        [LSM_COMPRESSION_ZSTD] = "zstd",
    };

    for (unsigned i = 0; i < COUNT(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum lsm_compression)i;
            return 0;
        }
    }
    log_tell("option compression=%s is none of auto, none, lz4, zstd", text);
    return -EINVAL;
}

static int parse_transport(const char *text, enum transport_kind *out)
{
    static const char *const names[] = {
        [TRANSPORT_AUTO] = "auto", [TRANSPORT_URING] = "uring", [TRANSPORT_CLASSIC] = "classic"};

    for (unsigned i = 0; i < COUNT(names); i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (enum transport_kind)i;
            return 0;
        }
    log_tell("option transport=%s is none of auto, uring and classic", text);
    return -EINVAL;
}

static int parse_max_read(struct options *o, const char *text)
{
    char plain[40];
    int rc = parse_size("max_read", text, MAX_READ_MIN, &o->max_read_bytes);

    if (rc < 0)
        return rc;
    if (o->max_read_bytes > FS_WRITE_MAX)
        o->max_read_bytes = FS_WRITE_MAX; /* more than that is never asked for */
    snprintf(plain, sizeof(plain), "max_read=%zu", o->max_read_bytes);
    return pass_on(o, plain);
}

static int parse_valued(struct options *o, const char *text, const char *name, const char *value)
{
    if (strcmp(name, "memory") == 0)
        return parse_size(name, value, MEMORY_MIN, &o->memory_bytes);
    if (strcmp(name, "write_buffer") == 0)
        return parse_size(name, value, 1, &o->write_buffer_bytes);
    if (strcmp(name, "compression") == 0)
        return parse_compression(value, &o->compression);
    if (strcmp(name, "commit") == 0)
        return parse_commit(value, &o->commit_ms);
    if (strcmp(name, "shards") == 0)
        return parse_shards(value, &o->shards);
    if (strcmp(name, "max_read") == 0)
        return parse_max_read(o, value);
    if (strcmp(name, "transport") == 0)
        return parse_transport(value, &o->transport);
    if (listed(passed_with_value, COUNT(passed_with_value), name))
        return pass_on(o, text);
    if (strncmp(name, "x-", 2) == 0 || strcmp(name, "user") == 0 || strcmp(name, "comment") == 0)
        return 0; /* for mount(8) */
    log_tell("unknown option '%s'; 'shalefs --help' lists the options", text);
    return -EINVAL;
}

static int parse_plain(struct options *o, const char *name)
{
    if (strcmp(name, "ro") == 0) {
        o->read_only = true;
        return pass_on(o, name);
    }
    if (strcmp(name, "rw") == 0)
        o->read_only = false;
    if (strcmp(name, "noatime") == 0) {
        o->noatime = true;
        return pass_on(o, name);
    }
    if (strcmp(name, "relatime") == 0 || strcmp(name, "atime") == 0)
        o->noatime = false;
    if (strcmp(name, "nodev") == 0 || strcmp(name, "dev") == 0)
        o->nodev = name[0] == 'n';
    if (strcmp(name, "nosuid") == 0 || strcmp(name, "suid") == 0)
        o->nosuid = name[0] == 'n';
    if (strcmp(name, "auto_unmount") == 0)
        o->auto_unmount = true;
    if (strcmp(name, "nodev") == 0 || strcmp(name, "nosuid") == 0 || listed(passed, COUNT(passed), name))
        return pass_on(o, name);
    if (strcmp(name, "nocontrol") == 0) {
        o->control = false;
        return 0;
    }
    if (strcmp(name, "acl") == 0 || strcmp(name, "noacl") == 0) {
        o->noacl = name[0] == 'n';
        return 0;
    }
    if (strcmp(name, "writeback") == 0) {
        o->writeback = true;
        return 0;
    }
    if (strcmp(name, "debug") == 0) {
        o->debug = o->foreground = true;
        return 0;
    }
    if (listed(ignored, COUNT(ignored), name) || strncmp(name, "x-", 2) == 0)
        return 0;
    if (strcmp(name, "memory") == 0 || strcmp(name, "write_buffer") == 0 || strcmp(name, "commit") == 0 ||
        strcmp(name, "shards") == 0 || strcmp(name, "max_read") == 0 || strcmp(name, "compression") == 0 ||
        strcmp(name, "transport") == 0 || listed(passed_with_value, COUNT(passed_with_value), name))
        log_tell("option '%s' needs a value; 'shalefs --help' tells which", name);
    else
        log_tell("unknown option '%s'; 'shalefs --help' lists the options", name);
    return -EINVAL;
}

static int parse_list(struct options *o, const char *list)
{
    char *copy = strdup(list), *save = NULL;
    int rc = copy ? 0 : -ENOMEM;

    for (char *item = copy ? strtok_r(copy, ",", &save) : NULL; item && rc == 0;
         item = strtok_r(NULL, ",", &save)) {
        char *value = strchr(item, '=');
        if (value) {
            char *name = strndup(item, (size_t)(value - item));
            rc = name ? parse_valued(o, item, name, value + 1) : -ENOMEM;
            free(name);
        } else {
            rc = parse_plain(o, item);
        }
    }
    free(copy);
    if (rc == -ENOMEM)
        log_tell("out of memory");
    return rc;
}

static int parse_places(struct options *o, int argc, char **argv)
{
    if (argc - optind < 2) {
        log_tell("%s; usage: shalefs STORE MOUNTPOINT [-o OPTIONS] [-f]",
                 argc == optind ? "store and mount point are missing" : "the mount point is missing");
        return -EINVAL;
    }
    if (argc - optind > 2) {
        log_tell("argument '%s' is one too many; usage: shalefs STORE MOUNTPOINT [-o OPTIONS] [-f]",
                 argv[optind + 2]);
        return -EINVAL;
    }
    o->store = argv[optind];
    o->mountpoint = argv[optind + 1];
    return 0;
}

int options_parse(int argc, char **argv, struct options *out)
{
    static const struct option longs[] = {
        {"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {NULL, 0, NULL, 0}};
    int c, rc = 0;

    memset(out, 0, sizeof(*out));
    out->control = true;
    out->memory_bytes = MEMORY_DEFAULT;
    opterr = 0;
    while (rc == 0 && (c = getopt_long(argc, argv, ":hVfdo:", longs, NULL)) != -1) {
        switch (c) {
        case 'h': fputs(usage, stdout); return 1;
        case 'V': printf("shalefs %s (libfuse %s)\n", SHALE_VERSION, fuse_pkgversion()); return 1;
        case 'd':
            out->debug = true;
            out->foreground = true;
            break;
        case 'f': out->foreground = true; break;
        case 'o': rc = parse_list(out, optarg); break;
        case ':':
            log_tell("-%c needs a value; 'shalefs --help' tells which", optopt);
            rc = -EINVAL;
            break;
        default:
            log_tell("unknown option '%s'; 'shalefs --help' lists the options",
                     optopt ? (char[]){'-', (char)optopt, '\0'} : argv[optind - 1]);
            rc = -EINVAL;
        }
    }
    return rc ? rc : parse_places(out, argc, argv);
}

void options_free(struct options *o)
{
    for (unsigned i = 0; i < o->mounts; i++)
        free(o->mount[i]);
    o->mounts = 0;
}
