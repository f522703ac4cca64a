/* fuzz_batch.c - the payload of a log record: what recovery inserts into memtables. */
#include "batch.h"
#include "fuzz.h"

#include <errno.h>

static void check_inside(const uint8_t *data, size_t size, const uint8_t *p, size_t len)
{
    fuzz_check(len == 0 || (p >= data && len <= size && (size_t)(p - data) <= size - len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct batch_reader br;
    struct batch_change change;
    size_t changes = 0;
    int rc = batch_read_begin(&br, data, size);

    while (rc == 0 && (rc = batch_read_next(&br, &change)) == 1) {
        check_inside(data, size, change.key, change.key_len);
        check_inside(data, size, change.value, change.value_len);
        fuzz_check(change.key_len <= LSM_KEY_MAX && change.value_len <= LSM_VALUE_MAX);
        fuzz_check(change.type <= ENTRY_RANGE_DELETE);
        if (change.route)
            check_inside(data, size, change.route, change.route_len);
        if (change.type == ENTRY_RANGE_DELETE)
            fuzz_check(key_compare(change.key, change.key_len, change.value, change.value_len) < 0);
        fuzz_check(++changes <= size); /* or seqs would not be unique */
        rc = 0;
    }
    fuzz_check(rc == 0 || rc == -EBADMSG);
    return 0;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    struct lsm_batch *b;
    size_t len = 0;

    if (n > 2 || lsm_batch_new(&b) < 0)
        return 0;
    lsm_batch_put(b, "key", 3, "value", 5);
    if (n == 1) {
        lsm_batch_delete(b, "key2", 4);
        lsm_batch_merge(b, "", 0, "operand", 7);
        lsm_batch_put(b, "k", 1, "", 0);
    }
    if (n == 2) {
        lsm_batch_delete_range(b, "a", 1, "b", 1, NULL, 0);
        lsm_batch_delete_range(b, "id", 2, "ie", 2, "id", 2);
    }
    len = b->len;
    memcpy(out, b->bytes, len);
    lsm_batch_free(b);
    return len;
}
