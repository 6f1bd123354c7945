/*
 * deliver.h
 *		One batch of a queue or subscription to a function of this database (sql: endpoints).
 */
#ifndef ES_DELIVER_H
#define ES_DELIVER_H

#include <signal.h>

#include "push.h"
#include "subscription_turn.h"

/* how much of it, and for whom */
typedef struct EsBatch
{
	int slot;	   /* of the worker, in a transaction of its own */
	int max_count;
	volatile sig_atomic_t *stop; /* what is not finished when it becomes true, or after half a second, is given back; NULL: nothing is */
} EsBatch;

/*
 * Claims one batch, calls the function and settles; in a transaction of its own or in the one that is around (attempt.h).  Nothing is handled when
 * there is nothing to do.
 */
extern EsTurnResult es_deliver(const EsPush *push, const EsBatch *batch);

#endif
