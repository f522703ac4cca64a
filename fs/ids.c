/*
 * ids.c - see ids.h.
 */
#include "ids.h"
#include "mutant.h"
#include "record.h"
#include "nowait.h"
#include <errno.h>

int ids_open(struct ids *ids, struct lsm *db)
{
    struct key key = key_plain(ID_SUPER, KEY_LEASE);
    struct lsm_value v = {0};
    uint64_t leased = ID_SERIAL_FIRST;

    int r = lsm_get(db, key.bytes, key.len, NULL, 0, &v);
    if (r < 0 && r != -ENOENT)
        return r;
    if (r == 0) {
        leased = v.len == LEASE_BYTES ? get_le64(v.data) : 0;
        lsm_value_release(&v);
        if (leased < ID_SERIAL_FIRST || leased > ID_SERIAL_MASK)
            return -EIO;
    }
    ids->db = db;
    ids->next = ids->leased = leased;
    pthread_mutex_init(&ids->extend, NULL);
    return 0;
}

void ids_close(struct ids *ids) { pthread_mutex_destroy(&ids->extend); }

/* Extends the lease until it contains `serial`; others who wait here find it done. */
static int extend(struct ids *ids, uint64_t serial)
{
    struct key key = key_plain(ID_SUPER, KEY_LEASE);
    uint8_t value[LEASE_BYTES];
    int r = 0;

    r = lock_mutex(&ids->extend);
    if (r < 0)
        return r;
    uint64_t leased = __atomic_load_n(&ids->leased, __ATOMIC_RELAXED);
    if (serial >= leased) {
        uint64_t end = serial + IDS_LEASE;
        if (end > FS_ID_TEXT_FIRST)
            r = -ENOSPC;
        put_le64(value, end);
        if (r == 0 && !mutant("leases of inode numbers are not stored"))
            r = lsm_put(ids->db, key.bytes, key.len, value, sizeof(value), nowait_flags());
        if (r == 0)
            __atomic_store_n(&ids->leased, end, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&ids->extend);
    return r;
}

int ids_next(struct ids *ids, uint64_t *serial)
{
    *serial = __atomic_fetch_add(&ids->next, 1, __ATOMIC_RELAXED);
    if (*serial < __atomic_load_n(&ids->leased, __ATOMIC_ACQUIRE))
        return 0;
    return extend(ids, *serial); /* on failure, also -EAGAIN, the serial is lost, not reused */
}
