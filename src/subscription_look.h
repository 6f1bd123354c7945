/*
 * subscription_look.h
 *		Is there something to poll?
 */
#ifndef ES_SUBSCRIPTION_LOOK_H
#define ES_SUBSCRIPTION_LOOK_H

#include "datatype/timestamp.h"

#include "subscription.h"

/*
 * Is there an event that a poll could hand out now, or would set aside?  *due: then it may be different by time, where a lease ends or
 * an event that failed is due again; DT_NOEND: not by time alone.  Takes no lane and writes nothing.  Locks: the subscription's,
 * shared
 */
extern bool es_subscription_look(const EsSubscription *subscription, TimestampTz now, bool was_woken, TimestampTz *due);
/* for who tells others (notifier.c) */
typedef struct EsSubscriptionNews
{
	bool is_ready;	  /* an event above the position, or one that failed and is due */
	bool lease_ended; /* since the last look: what is not above the position may be ready again */
	int64 head;		  /* looked up to here; 0: the rate allows nothing */
	TimestampTz due;  /* then it may be different by time; DT_NOEND: not by time alone */
} EsSubscriptionNews;

/* what the leases say, which reads nothing: lease_ended and due.  since: the time of the last look */
extern EsSubscriptionNews es_subscription_leases(const EsSubscription *subscription, TimestampTz since, TimestampTz now);
/* as es_subscription_look, of what is above a position; keeps nothing.  Adds to what _leases said.  Locks: the subscription's, shared */
extern void es_subscription_news(const EsSubscription *subscription, int64 above, TimestampTz now, EsSubscriptionNews *news);
/* this backend was handed something of it, or settled something: what it was told before may be news again */
extern void es_subscription_look_anew(int32 id);

#endif
