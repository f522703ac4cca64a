/*
 * verify.h - lsm_verify for who holds the store's lock already. See verify.c.
 */
#ifndef LSM_VERIFY_H
#define LSM_VERIFY_H

#include <shale/lsm.h>

/* As lsm_verify; the caller holds the lock, shared or exclusively. */
int verify_locked(const char *path, const struct lsm_options *options, lsm_problem_fn fn, void *arg,
                  struct lsm_verified *out);

#endif
