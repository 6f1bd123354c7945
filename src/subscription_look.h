/*
 * subscription_look.h
 *		Is there something to poll?
 */
#ifndef ES_SUBSCRIPTION_LOOK_H
#define ES_SUBSCRIPTION_LOOK_H

#include "datatype/timestamp.h"

#include "subscription.h"

/*
 * The position of an event that a poll could hand out now, or would set aside; 0: there is none.  *due: then it may be different by
 * time, where a lease ends or an event that failed is due again; DT_NOEND: not by time alone.  Takes no lane and writes nothing.
 * Locks: the subscription's, shared
 */
extern int64 es_subscription_look(const EsSubscription *subscription, TimestampTz now, TimestampTz *due);

#endif
