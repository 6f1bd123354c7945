/*
 * relay_route.h
 *		A subscription or queue on its way out: what was claimed of it and is not settled.  Only for relay*.c.
 */
#ifndef ES_RELAY_ROUTE_H
#define ES_RELAY_ROUTE_H

#include "push.h"
#include "queue.h"
#include "relay_target.h"

/* the consumer that a relay is: there is one for a database */
#define ES_RELAY_CONSUMER ES_QUEUE_WORKER_PREFIX "relay"

typedef struct EsBatch
{
	struct EsRoute *route;
	MemoryContext context;
	int n;
	int left; /* not SETTLED */
	int held; /* of these not AWAY */
	TimestampTz claimed_at;
	EsParcel *parcels;
	bool is_dissolved; /* HELD, to be given back */
	bool is_waiting;   /* until what is withdrawn has come back */
	bool is_grouped;   /* several parcels in a message */
	EsParcel **keys;   /* a table for es_route_start_batch: the last parcel of each key */
	int nkeys;
	struct EsBatch *next;
} EsBatch;

typedef struct EsRoute
{
	MemoryContext context;
	int32 id;
	bool is_queue;
	bool is_rule;
	char *name;
	uint64 categories;
	int64 replay_to; /* 0: it is no replay */
	EsTarget *target; /* NULL: of a rule, where each parcel has its own */
	EsBatch *batches;
	int held;	/* parcels that are not settled */
	int out;	/* of these with the transport */
	int ready;	/* of these in the target's list */
	int done;	/* of these to be settled */
	int late;	/* of these that are out to be put off */
	dlist_head away; /* AWAY: not held any more */
	int to_write; /* of these with an answer to be written down */
	TimestampTz done_since; /* the oldest of what is to be settled */
	TimestampTz next_late; /* when something of it will have taken too long; DT_NOEND: nothing */
	bool is_computed; /* a rule, and its endpoint depends on the event */
	int put_off; /* parcels without a target, in vain */
	int singles;   /* so many claims are not put into groups */
	int dissolved; /* batches */
	bool has_begun; /* what a former relay held is ended */
	bool may_have; /* something to claim */
	TimestampTz due; /* by es_clock_now(): then it may have something; DT_NOEND: not by time */
	TimestampTz renewed_at;
	bool is_leaving;
	bool is_released; /* all that it held, lanes too */
	int withdrawn;	  /* parcels that are out and awaited: something in them is not ours any more */
	int failures; /* of transactions, in a row */
	int lock_failures; /* the same, of those that did not get a lock */
	TimestampTz not_before;
	struct EsRoute *next;
} EsRoute;

/* for a push whose target there is.  Takes no lock */
extern EsRoute *es_route_begin(const EsPush *push, EsTarget *target);
/* nothing is submitted of it any more */
extern void es_route_leave(EsRoute *route);
extern void es_route_free(EsRoute *route);

/* lets the parcels of a batch go, in order of their keys; not while something is withdrawn */
extern void es_route_start_batch(EsBatch *batch);
/* what is here of its lanes from a hold before is not ours any more */
extern void es_route_withdraw_older(EsBatch *batch);
/* is it to be settled, and how is known? */
extern bool es_route_is_to_settle(const EsParcel *parcel);
/* how many it may claim */
extern int es_route_room(const EsRoute *route);

/* these run a transaction of their own; called between transactions.  How many were claimed, or settled */
extern int es_route_claim(EsRoute *route); /* in relay_claim.c */
extern int es_route_settle(EsRoute *route);
/* the leases of what is held */
extern void es_route_renew(EsRoute *route);
/* gives back everything that is not out; settles what is done */
extern void es_route_release(EsRoute *route);

/* is it time to settle? */
extern bool es_route_wants_to_settle(const EsRoute *route, TimestampTz now);
/* the links are closed: what was out is given up */
extern void es_route_forget_out(EsRoute *route);
/* may it claim now, and is that worth it? */
extern bool es_route_may_claim(const EsRoute *route);
/* one came back from the transport and was judged */
extern void es_route_came_back(EsParcel *parcel, TimestampTz now);
/* what was done is to be settled, in some ms: *count is one of the counters of that */
extern void es_route_count(EsRoute *route, int *count, TimestampTz now);
extern int es_route_unsettled(const EsRoute *route);
/* it is no more business of its route */
extern void es_route_finish(EsParcel *parcel);
extern void es_route_free_empty_batches(EsRoute *route);
/* ms */
extern int64 es_route_lease(const EsRoute *route);

/*
 * In relay_away.c: of rules, what holds up a lane
 */

/* what cannot go out soon is put off; and where it is one of several endpoints, what takes long */
extern void es_route_postpone(EsRoute *route, TimestampTz now);
/* the same of what is ready for a target that does not get through with it */
extern void es_route_thin_out(EsTarget *target, TimestampTz now);
/* for how long, when one more was put off in vain; ms.  is_blocked: its target takes nothing */
extern int64 es_away_pace(int *put_off, bool is_blocked);
/* the event of one that is out was put off, and that is committed */
extern void es_away_begin(EsParcel *parcel);
/* it came back and was judged */
extern void es_away_came_back(EsParcel *parcel, TimestampTz now);
/* what was claimed just now and is away comes to what its answer says, or is put off once more */
extern void es_away_match(EsBatch *batch, TimestampTz now);
/* answers are written down, in the transaction of a settlement; after its commit they are done */
extern int es_away_write(EsRoute *route);
extern void es_away_written(EsRoute *route);
/* all of it that came back; the links are closed: all */
extern void es_away_forget(EsRoute *route, bool with_out);

#endif
