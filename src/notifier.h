/*
 * notifier.h
 *		NOTIFY for queues and subscriptions that have a channel.
 */
#ifndef ES_NOTIFIER_H
#define ES_NOTIFIER_H

#include "datatype/timestamp.h"
#include "utils/palloc.h"

/*
 * Looks at what it was told of, and notifies.  Returns when, by es_clock_now(), something may be ready by time; 0: nothing will.
 * Called without a transaction, ten times a second at most, after a transaction that has read invalidation messages; context lives
 * to the end of the scheduler's pass.
 */
extern TimestampTz es_notifier_turn(MemoryContext context);

#endif
