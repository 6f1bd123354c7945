/*
 * subscription_poll.h
 *		Handing out the events of subscriptions.
 */
#ifndef ES_SUBSCRIPTION_POLL_H
#define ES_SUBSCRIPTION_POLL_H

#include "read.h"
#include "subscription.h"

#define ES_MAX_POLL 10000

/* an event that is handed out; what it points to is good until put returns */
typedef struct EsPolled
{
	int lane;
	uint64 epoch;
	int64 before; /* of its receipt: see EsEventReceipt */
	int64 position;
	int attempt;
	const char *tenant;
	const char *key; /* NULL: it has none */
} EsPolled;

typedef struct EsPollRequest
{
	const char *consumer; /* NULL: no name, and no hold that outlives what is handed out */
	int max_count;
	int64 lease_ms;
	/* for each event in order of position, those that failed before first; the reader stands at its row.  False: no more */
	bool (*put)(EsReader *reader, const EsPolled *event, void *arg);
	void *arg;
	int max_walk; /* rows that it looks at, at most, so that it ends soon; then it has more.  0: any */
	bool *has_more; /* NULL: who cares; set where it ended with what it set aside or walked, so that there may be more */
} EsPollRequest;

/*
 * Hands out up to max_count events and returns how many; they are settled in this transaction or by their receipts later.
 * 25001 in a transaction with a snapshot of its own.  Locks: the subscription's, shared, and those of the lanes that have
 * something, to the end of the transaction.  In poll.c
 */
extern int es_subscription_poll(int32 id, const EsPollRequest *request);

#endif
