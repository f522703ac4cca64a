/* visits.c - counts how often it was run with a name, durably: visits STORE NAME. See shale-lsm(3). */
#include <shale/lsm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what, int error)
{
    fprintf(stderr, "visits: %s: %s\n", what, strerror(-error));
    return 1;
}

int main(int argc, char **argv)
{
    struct lsm_options options = {.flags = LSM_CREATE | LSM_INLINE};
    struct lsm *db;
    struct lsm_value value = {0};
    unsigned long count = 0;

    if (argc != 3) {
        fprintf(stderr, "usage: visits STORE NAME\n");
        return 2;
    }
    int error = lsm_open(argv[1], &options, &db);
    if (error)
        return fail(argv[1], error);
    error = lsm_get(db, argv[2], strlen(argv[2]), NULL, 0, &value);
    if (!error && value.len == sizeof count)
        memcpy(&count, value.data, sizeof count);
    lsm_value_release(&value);
    count++;
    error = lsm_put(db, argv[2], strlen(argv[2]), &count, sizeof count, LSM_SYNC);
    if (!error)
        printf("%s: %lu\n", argv[2], count);
    int closed = lsm_close(db);
    return error || closed ? fail(argv[1], error ? error : closed) : 0;
}
