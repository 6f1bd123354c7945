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

#endif
