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
/* this backend was handed something of it, or settled something: what it was told before may be news again */
extern void es_subscription_look_anew(int32 id);

#endif
