/*
 * cause.h
 *		The event that is being handled: what is appended meanwhile is caused by it.
 */
#ifndef ES_CAUSE_H
#define ES_CAUSE_H

#include "utils/jsonb.h"

/* palloc'd */
typedef struct EsCauseFacts
{
	char *id;			  /* NULL: several events, none of them the one */
	char *correlation_id; /* NULL: none, or several */
	int depth;			  /* of the deepest: how many handlers were before it; 0: none appended it */
} EsCauseFacts;

/* what the metadata of an event says of them; the id is the event's */
extern EsCauseFacts es_cause_facts_of(Jsonb *metadata);

/* asked only when something is appended: to know it costs more than a small handler */
typedef struct EsCause
{
	EsCauseFacts (*tell)(const void *arg);
	const void *arg;
} EsCause;

/*
 * What runs is caused by cause.  Its effects are stamped with it (es_event_stamp).  Ends with an error, too; then what was before
 * is the cause again.
 */
extern void es_cause_run(const EsCause *cause, void (*run)(void *arg), void *arg);
/* NULL: nothing is being handled */
extern const EsCause *es_cause(void);

/*
 * Are events handled that were handled before, to build tables anew?  Then what their handlers append is in the store, and what
 * they send was sent: it is not done again.  Of this process, to its end.
 */
extern bool es_cause_is_replay(void);
extern void es_cause_set_replay(void);

#endif
