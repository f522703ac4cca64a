/*
 * fuzz_options.c - the command line of shalefs. Input: the arguments, each ended by a NUL.
 *
 * What it says about a mistake goes through log_tell, which is replaced here, so that nothing is printed.
 */
#include "fuzz.h"
#include "log.h"
#include "options.h"

#include <getopt.h>
#include <stdarg.h>

#define ARGUMENTS_MAX 32

static unsigned told;

void log_tell(const char *format, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    told++;
}

static void check(const struct options *o, int rc)
{
    fuzz_check(rc == 1 || (rc == 0) == (told == 0));
    if (rc != 0)
        return;
    fuzz_check(o->store && o->mountpoint && o->mounts <= MOUNT_OPTIONS_MAX);
    fuzz_check(o->memory_bytes >= MEMORY_MIN && o->shards <= SHARDS_MAX);
    fuzz_check(o->commit_ms <= COMMIT_SECONDS_MAX * 1000);
    for (unsigned i = 0; i < o->mounts; i++)
        fuzz_check(!strchr(o->mount[i], ','));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *argv[ARGUMENTS_MAX + 2] = {"shalefs"}, *text = malloc(size + 1);
    struct options options;
    int argc = 1;

    fuzz_check(text);
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    for (char *p = text; p < text + size && argc <= ARGUMENTS_MAX; p += strlen(p) + 1) {
        argv[argc] = strdup(p); /* of its own length, for sanitizers */
        fuzz_check(argv[argc++]);
    }
    optind = 0; /* getopt(3): anew */
    told = 0;
    FILE *saved = stdout, *null = fopen("/dev/null", "w");
    fuzz_check(null);
    stdout = null; /* --help */
    int rc = options_parse(argc, argv, &options);
    stdout = saved;
    fclose(null);
    check(&options, rc);
    options_free(&options);
    for (int i = 1; i < ARGUMENTS_MAX + 2; i++) /* getopt sorts them; all are ours */
        free(argv[i]);
    free(text);
    return 0;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    static const struct {
        const char *text;
        size_t len;
    } seeds[] = {
#define SEED(s) {s, sizeof(s)}
        SEED("store\0mnt\0-o\0memory=64M,commit=0.5,shards=4,noatime,nocontrol"),
        SEED("store\0mnt\0-o\0ro,allow_other,max_read=131072,nodev,nosuid,x-gvfs-hide,user"),
        SEED("store\0mnt\0-f\0-owrite_buffer=1M,compression=zstd\0-o\0context=system_u:object_r:tmp_t:s0"),
        SEED("--help"),
        SEED("-V"),
        SEED("-d\0--\0-store\0-mnt"),
        SEED("store\0mnt\0-o\0memory=,commit=nan,shards=-1"),
#undef SEED
    };

    if (n >= sizeof(seeds) / sizeof(seeds[0]))
        return 0;
    memcpy(out, seeds[n].text, seeds[n].len);
    return seeds[n].len;
}
