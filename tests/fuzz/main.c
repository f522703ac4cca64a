/*
 * main.c - runs a fuzz target without libFuzzer: over stored inputs, as an ordinary test.
 *
 *   fuzz_NAME PATH...             each file, and each file of a directory, in order of their names;
 *                                 the target's own seeds first
 *   fuzz_NAME --write-seeds DIR   writes the seeds, which is how those of the corpus were made
 *
 * Says which input it is about to run when SHALE_FUZZ_VERBOSE is set; a crash is the failure.
 */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/stat.h>

#define INPUT_MAX (16u << 20) /* bytes; corpora are small */

static bool verbose;
static unsigned long inputs;

static int fail(const char *path)
{
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    return 1;
}

static void run(const char *name, const uint8_t *data, size_t len)
{
    if (verbose)
        fprintf(stderr, "%s (%zu bytes)\n", name, len);
    uint8_t *copy = malloc(len ? len : 1); /* of exactly that length, for sanitizers */
    if (!copy)
        abort();
    if (len)
        memcpy(copy, data, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
    inputs++;
}

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    uint8_t *data = NULL;
    int rc = 1;

    if (!f || fstat(fileno(f), &st) < 0)
        goto out;
    if (st.st_size > (off_t)INPUT_MAX) {
        errno = EFBIG;
        goto out;
    }
    data = malloc((size_t)st.st_size + 1);
    if (!data || fread(data, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
        goto out;
    run(path, data, (size_t)st.st_size);
    rc = 0;
out:
    if (rc)
        fail(path);
    free(data);
    if (f)
        fclose(f);
    return rc;
}

static int run_directory(const char *dir)
{
    struct dirent **names;
    int n = scandir(dir, &names, NULL, alphasort), rc = 0;

    if (n < 0)
        return fail(dir);
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];
        if (names[i]->d_name[0] != '.' &&
            snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name) < PATH_MAX)
            rc |= run_file(path);
        free(names[i]);
    }
    free(names);
    return rc;
}

static int run_path(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return fail(path);
    return S_ISDIR(st.st_mode) ? run_directory(path) : run_file(path);
}

static int write_seeds(const char *dir)
{
    static uint8_t seed[FUZZ_SEED_MAX];
    size_t len;

    for (unsigned n = 0; (len = fuzz_seed(n, seed)) > 0; n++) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s/seed-%02u", dir, n);
        FILE *f = fopen(path, "wb");
        bool good = f && fwrite(seed, 1, len, f) == len;
        if (f && fclose(f) != 0)
            good = false;
        if (!good)
            return fail(path);
    }
    return 0;
}

static void run_seeds(void)
{
    static uint8_t seed[FUZZ_SEED_MAX];
    size_t len;

    for (unsigned n = 0; (len = fuzz_seed(n, seed)) > 0; n++) {
        char name[32];
        snprintf(name, sizeof(name), "seed %u", n);
        run(name, seed, len);
    }
}

int main(int argc, char **argv)
{
    int rc = 0;

    verbose = getenv("SHALE_FUZZ_VERBOSE") != NULL;
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0)
        return write_seeds(argv[2]);
    run("nothing", NULL, 0);
    run_seeds();
    for (int i = 1; i < argc; i++)
        rc |= run_path(argv[i]);
    printf("%lu inputs\n", inputs);
    return rc;
}
