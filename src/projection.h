/*
 * projection.h
 *		Read models kept by SQL handlers: in the append's transaction (sync), or by workers after it (async).
 */
#ifndef ES_PROJECTION_H
#define ES_PROJECTION_H

#include "datatype/timestamp.h"

extern void es_projection_init(void);

/* is there one that workers keep? */
extern bool es_projection_has_work(void);

/* what a turn of a worker made of a projection */
typedef struct EsProjectionTurn
{
	int handled; /* events applied or failed */
	int failed;
	TimestampTz due; /* nothing now, but then, by es_clock_now(); DT_NOEND: not by time alone */
} EsProjectionTurn;

/* of the first turn: small, as nobody knows what a handler costs */
#define ES_PROJECTION_FIRST_EVENTS 100

/*
 * Worker: applies up to *events events of the async projection with this id, in a transaction of its own, which none may be
 * around; *events is then how many the next turn should have, by the time that this one took.  An error that is not an event's
 * is raised: then nothing was applied.
 */
extern EsProjectionTurn es_projection_work(int32 id, int *events);

/*
 * Applies all that the async projection with this id has not applied, in the caller's transaction; an event's error is raised.
 * check: what its effects deferred to the commit is checked with them.  to_end: also what is appended meanwhile, until nothing is
 * left.  Locks: its subscription's, exclusive
 */
extern void es_projection_catch_up(int32 id, bool check, bool to_end);

#endif
