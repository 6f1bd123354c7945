/*
 * worker.h
 *		The delivery worker, and its turns.
 */
#ifndef ES_WORKER_H
#define ES_WORKER_H

#include "deliver.h"
#include "subscription.h"

extern PGDLLEXPORT void es_worker_main(Datum arg);

/* what has turns */
typedef struct EsWork
{
	const EsPush *push; /* NULL: an async projection, a rule or a reactor */
	int32 id;
	const char *kind;	/* of these three, which */
	EsTurnResult (*work)(int32 id, int *events);
} EsWork;

/* of the subscription of an async projection, a rule or a reactor: rebuilds have workers of their own, and those with an endpoint are for who delivers to it */
#define ES_WORKER_SERVES(subscription) \
	((subscription)->is_for_workers && !(subscription)->is_rebuild && !(subscription)->has_endpoint && !(subscription)->is_paused)

extern EsWork es_worker_work_of(const EsSubscription *subscription);

/*
 * One turn, in a transaction of its own or in the one that is around (attempt.h).  *events: of a projection or rule, how many it and then the next
 * turn should have
 */
extern EsTurnResult es_worker_turn(const EsWork *work, const EsBatch *batch, int *events);

#endif
