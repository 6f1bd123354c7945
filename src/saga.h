/*
 * saga.h
 *		Sagas: instances of versioned definitions, with compensation.
 */
#ifndef ES_SAGA_H
#define ES_SAGA_H

#include "subscription_turn.h"

extern void es_saga_init(void);
extern void es_saga_move_init(void);

/*
 * A worker's turn: brings instances what has arrived for them, up to max_count arrivals, in a transaction of its own or in the one that is
 * around.  Failed are also those for instances that somebody has.  slot is that of the worker, in a transaction of its own
 */
extern EsTurnResult es_saga_work(int slot, int max_count);

/* in saga_route.c: reactors, which workers give their events */
extern bool es_reactor_has_work(void);
extern EsTurnResult es_reactor_work(int32 id, int *events);

/*
 * Janitor: removes instances that ended longer ago than evtstore.saga_retention, the first to end first, with all their rows; about limit rows.
 * Returns how many; as many as the limit mean that there may be more
 */
extern int64 es_saga_trim(int64 limit);

#endif
