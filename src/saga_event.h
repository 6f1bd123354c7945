/*
 * saga_event.h
 *		Within sagas only: steps that are answered by events.
 */
#ifndef ES_SAGA_EVENT_H
#define ES_SAGA_EVENT_H

#include "saga_move.h"
#include "stream.h"

/* a step that an event is meant for */
typedef struct EsAnswered
{
	pg_uuid_t saga_id;
	int parent;
	int seq;
	bool fails;
} EsAnswered;

/* what paths, functions and outputs have of an event: {"id", "type", "stream"?, "version"?, "position", "data", "metadata"} */
extern Jsonb *es_saga_event_doc(const EsEvent *event);
/* a Task begins: which events are meant for it, where events answer it.  scope: its input as it came.  False: it fails, *failure says how */
extern bool es_saga_event_expect(EsMove *move, EsStep *step, const EsAslState *state, const EsAslScope *scope, EsEnding *failure);
/* the row of a step is written */
extern void es_saga_event_follow(EsMove *move, EsStep *step);
/* the instance has ended */
extern void es_saga_event_end(EsMove *move);

extern void es_saga_event_init(void);

#endif
