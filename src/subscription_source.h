/*
 * subscription_source.h
 *		The events that a subscription is about, in order of position.
 */
#ifndef ES_SUBSCRIPTION_SOURCE_H
#define ES_SUBSCRIPTION_SOURCE_H

#include "read.h"
#include "subscription.h"

/* which appenders in flight have to be waited for: for es_reader_begin_feed */
extern uint64 es_subscription_categories(const EsSubscription *subscription);
/* events above a position and up to the head; more of them than the filter selects.  In a reader's open */
extern void es_subscription_set_source(EsReader *reader, const EsSubscription *subscription, int64 after, int64 head);
/* does the filter select the reader's present row? */
extern bool es_subscription_selects(const EsSubscription *subscription, EsReader *reader, TupleTableSlot *slot);

/* the key of that row's event, palloc'd; NULL where it has none */
extern char *es_subscription_key_of(const EsSubscription *subscription, EsReader *reader);

#endif
