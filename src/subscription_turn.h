/*
 * subscription_turn.h
 *		What a delivery worker does with a subscription that is nobody's to poll: a projection's, a rule's.
 */
#ifndef ES_SUBSCRIPTION_TURN_H
#define ES_SUBSCRIPTION_TURN_H

#include "subscription_poll.h"
#include "subscription_settle.h"

/* an event of a turn; what its user knows of it more is in a struct of his own that begins with this one */
typedef struct EsTurnEvent
{
	EsEventReceipt receipt;
	const char *tenant;
	const char *key; /* NULL: it has none */
	int attempt;
	bool is_applied;
} EsTurnEvent;

struct EsTurn;

/* whose events they are */
typedef struct EsTurnUser
{
	const char *kind; /* for messages */
	Size event_size;
	/* what the events are for, as it is now, with the subscription locked; NULL: nothing is to be done with them */
	void *(*find)(int32 id);
	/* what is his own of the event that the reader stands at, in the turn's memory; returns its bytes */
	Size (*put)(struct EsTurn *turn, EsReader *reader, EsTurnEvent *event);
	/* the effects of these, in this transaction; an error is that of one of them */
	void (*apply)(struct EsTurn *turn, EsTurnEvent *const *events, int n);
} EsTurnUser;

typedef struct EsTurn
{
	const EsTurnUser *user;
	int32 id;
	void *target; /* what find found */
	MemoryContext context;
	bool check; /* what is deferred to the commit is checked with the events */
	int n;
	EsTurnEvent **events;
	Size bytes;
	bool has_more;			  /* there may be more, though nothing was handed out */
	EsTurnEvent *const *some; /* for subscription_turn.c: those that are applied */
	int nsome;
} EsTurn;

/* so much of rows is enough for a turn */
#define ES_TURN_MAX_BYTES (16 * 1024 * 1024)
/* of the first turn: few, as nobody knows what one costs */
#define ES_TURN_FIRST_EVENTS 100

/* the event that the reader stands at, copied into the current context */
extern void es_turn_read_event(EsReader *reader, EsEvent *event);

/* what came of a turn */
typedef struct EsTurnResult
{
	int handled; /* events or messages that were taken */
	int failed;
	int delivered; /* the rest was given back, or was not ours any more, or waits behind one that failed */
	TimestampTz due; /* nothing now, but then, by es_clock_now(); DT_NOEND: not by time alone */
} EsTurnResult;

/*
 * Applies up to *events events of the subscription, in a transaction of its own or in the one that is around (attempt.h); *events is then
 * how many the next turn should have, by the time that this one took.  An error that is not an event's is raised: then nothing was
 * applied.
 */
extern EsTurnResult es_turn_take(const EsTurnUser *user, int32 id, int *events);

/*
 * The same by hand, in the caller's transaction, where an event's error is raised: polls up to max_count events, which are in the turn
 * then; acknowledges what is_applied.  user, id, target and context are set.  Locks: the subscription's
 */
extern int es_turn_poll(EsTurn *turn, int max_count);
extern void es_turn_apply(EsTurn *turn);
extern void es_turn_acknowledge(EsTurn *turn);

#endif
