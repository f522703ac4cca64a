/*
 * model_main.c - prove_model: the randomized model test (model.h) by itself.
 *
 *   prove_model [--operations=N] [--seed=N]
 *
 * Histories of 4000 operations until N are done (default 300 000; with SHALE_LONG=1 ten million). Prints the seed, and
 * for a failure what prove_engine replays. Exit status 1 if anything failed, 2 for wrong arguments.
 */
#include "model.h"
#include "prove.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPERATIONS UINT64_C(300000)
#define OPERATIONS_LONG UINT64_C(10000000)

int main(int argc, char **argv)
{
    const char *given = getenv("SHALE_SEED"), *lengthy = getenv("SHALE_LONG");
    uint64_t seed = given ? strtoull(given, NULL, 0) : seed_mix(seconds_now_ms(), (uint64_t)getpid());
    uint64_t operations = lengthy && strcmp(lengthy, "0") != 0 ? OPERATIONS_LONG : OPERATIONS;

    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "--operations=", 13)) {
            operations = strtoull(argv[i] + 13, NULL, 0);
        } else if (!strncmp(argv[i], "--seed=", 7)) {
            seed = strtoull(argv[i] + 7, NULL, 0);
        } else {
            printf("usage: prove_model [--operations=N] [--seed=N]\n");
            return 2;
        }
    }
    printf("replay: prove_model --operations=%llu --seed=0x%llx\n", (unsigned long long)operations,
           (unsigned long long)seed);
    fflush(stdout);
    const struct kind *k = kind_find("model", 5);
    uint64_t began = seconds_now_ms();
    for (uint64_t round = 0; !totals.failures && totals.operations < operations; round++)
        kind_run(k, seed_mix(seed, round));
    printf("%llu operations in %llu histories, %llu s; %llu failures\n",
           (unsigned long long)totals.operations, (unsigned long long)totals.histories,
           (unsigned long long)(seconds_now_ms() - began) / 1000, (unsigned long long)totals.failures);
    return totals.failures > 0;
}
