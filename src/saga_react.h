/*
 * saga_react.h
 *		Within sagas only: instances of reactors.
 */
#ifndef ES_SAGA_REACT_H
#define ES_SAGA_REACT_H

#include "saga_move.h"

/* the type of the event that a timer is */
#define ES_TIMER_TYPE "evtstore.timer"

/* an event for the instance, with its type: handled now, or behind those that wait */
extern void es_react_take(EsMove *move, const char *type, Jsonb *doc);
/* the times that are over by now */
extern void es_react_be_late(EsMove *move);
/* what it is stuck at is tried again, or was taken out of the way */
extern void es_react_unstick(EsMove *move);
/* the event that it is stuck at, or tries again; NULL: none, or of another type */
extern EsStep *es_react_find(EsMove *move, const char *type);

/*
 * In saga_route.c: an event for whoever has the key: the open instance, or a new one where it starts one.  55P03: somebody else has the
 * instance
 */
extern void es_route_event(const EsSagaVersion *version, const char *tenant, const char *key, const char *type, Jsonb *doc);
/* events that waited for an instance that is done */
extern void es_route_unhandled(EsMove *move);

#endif
