/* Keeps the weights of a model with a memory budget resident as planned: lets blocks of the mapped file go between
 * steps, and has a thread of its own map those that come next. */
#ifndef TENSORC_RESIDENCY_H
#define TENSORC_RESIDENCY_H

#include "executor.h"

#include <stdbool.h>

typedef struct residency residency;

/* For weights mapped from `weights` on. NULL if memory or a thread are not to be had. */
residency *residency_open(char *weights);
void residency_close(residency *r);

/* One change of the plan. `own` says whether this is the process that opened it: in a forked one there is no thread, and
 * what has not been fetched is mapped when it is touched. */
void residency_change(residency *r, const change *c, bool own);

/* Let go of blocks that nobody planned to be there. */
void residency_drop(residency *r, const block_run *runs, int32_t count);

#endif
