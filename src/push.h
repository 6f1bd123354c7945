/*
 * push.h
 *		What has an endpoint, so that workers deliver it: subscriptions, queues and rules.
 */
#ifndef ES_PUSH_H
#define ES_PUSH_H

#include "nodes/pg_list.h"

typedef struct EsPush
{
	int32 id;
	bool is_queue;
	bool is_for_sagas; /* what has arrived for them; endpoint is no endpoint */
	bool is_rule; /* each event has an endpoint of its own, and endpoint is NULL */
	char *name;
	char *endpoint;
	int64 replay_to; /* a replay up to there; 0: it is none */
	uint64 categories; /* of a subscription: of events that may be for it */
} EsPush;

/* inside: to a function of this database (sql:), which delivery workers call; else what a relay sends */
typedef enum EsPushKind
{
	ES_PUSH_INSIDE,
	ES_PUSH_OUTSIDE
} EsPushKind;

/* those that are not paused and whose endpoint there is, in order of id: EsPush *, in the current context */
extern List *es_push_list(EsPushKind kind);
/* is there any? */
extern bool es_push_has(EsPushKind kind);

#endif
