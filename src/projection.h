/*
 * projection.h
 *		Read models kept by SQL handlers: in the append's transaction (sync), or by workers after it (async).
 */
#ifndef ES_PROJECTION_H
#define ES_PROJECTION_H

#include "subscription_turn.h"

extern void es_projection_init(void);

/* is there one that workers keep? */
extern bool es_projection_has_work(void);

/* worker: what es_turn_take says, for the async projection with this id */
extern EsTurnResult es_projection_work(int32 id, int *events);

/*
 * Applies all that the async projection with this id has not applied, in the caller's transaction; an event's error is raised.
 * check: what its effects deferred to the commit is checked with them.  to_end: also what is appended meanwhile, until nothing is
 * left.  Locks: its subscription's, exclusive
 */
extern void es_projection_catch_up(int32 id, bool check, bool to_end);

#endif
