/*
 * subscription_settle.h
 *		Receipts of events, and taking events back.
 */
#ifndef ES_SUBSCRIPTION_SETTLE_H
#define ES_SUBSCRIPTION_SETTLE_H

#include "queue.h"

#define ES_EVENT_RECEIPT_PREFIX 's'

/* what an event's receipt says */
typedef struct EsEventReceipt
{
	const char *text;
	int32 subscription;
	int lane;
	uint64 epoch;
	int64 before; /* between it and the event nothing is left to settle; the event itself: handed out again after it failed */
	int64 position;
	const char *stale; /* once settled: why it does not hold; NULL: it does */
	bool is_done;	   /* for subscription_settle.c */
} EsEventReceipt;

extern char *es_subscription_receipt(int32 subscription, int lane, uint64 epoch, int64 before, int64 position);
/* false: malformed */
extern bool es_subscription_parse_receipt(const char *text, EsEventReceipt *receipt);
/* for qsort: in the order that they are settled in */
extern int es_subscription_compare_receipts(const void *a, const void *b);

/*
 * Settles n receipts in that order, each once, and sets stale.  All or nothing is up to the caller: if one is stale he
 * raises an error.  reason may be NULL; delay_ms < 0: by the retry policy, and for a release at once.
 */
extern void es_subscription_settle(EsEventReceipt *receipts, int n, EsSettle how, const char *reason, int64 delay_ms);
/* does it hold, as this transaction sees it?  Locks: the lane's, held */
extern bool es_subscription_is_out(const EsEventReceipt *receipt);
/* the lease of its lane ends then; sets stale */
extern void es_subscription_extend(EsEventReceipt *receipt, int64 lease_ms);

#endif
