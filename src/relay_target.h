/*
 * relay_target.h
 *		An endpoint as the relay knows it, and the parcels that go there.  Only for relay*.c.
 */
#ifndef ES_RELAY_TARGET_H
#define ES_RELAY_TARGET_H

#include "datatype/timestamp.h"
#include "lib/ilist.h"

#include "endpoint.h"
#include "endpoint_state.h"
#include "rate.h"
#include "subscription_settle.h"
#include "transport/transport.h"

struct EsRoute;
struct EsBatch;

typedef struct EsTarget
{
	MemoryContext context;
	EsEndpoint *endpoint;
	const EsTransport *transport; /* NULL: there is a fault */
	EsLink *link;				  /* NULL: not open */
	char fault[256];			  /* why it takes nothing; '': it does */
	int in_flight;
	int nroutes; /* that have no other target */
	int64 successes;
	int held; /* parcels of it that are not settled, out or not; without those that are away */
	int away; /* parcels that are, with the transport (relay_away.c) */
	int put_off; /* parcels of rules, in vain: less two for each that was delivered */
	TimestampTz answered_at; /* when something came back last, whatever it was */
	int nready;
	dlist_head ready; /* EsParcel: may be submitted, in this order */
	EsBreaker breaker;
	int failures;			/* in a row */
	int64 open_ms;			/* how long it is open the next time */
	TimestampTz not_before; /* nothing is submitted until then: breaker, Retry-After; 0: at once */
	EsRate rate;
	EsEndpointState *state; /* NULL: no room in shared memory; then nobody sees it */
	bool is_leaving;		/* its definition is another by now, or gone: nothing is submitted any more */
	bool is_gone;			/* the other side wants nothing any more: the definition is to say so */
	uint64 resets;			/* by operators, that it knows of */
	TimestampTz reset_at;	/* the last of these */
	struct EsTarget *next;
} EsTarget;

typedef enum EsParcelState
{
	ES_PARCEL_BEHIND,	/* an older one of its key is not delivered yet */
	ES_PARCEL_READY,	/* in the target's list */
	ES_PARCEL_OUT,		/* the transport has it */
	ES_PARCEL_RIDING,	/* in the message of another one, of its group */
	ES_PARCEL_HELD,		/* not to be submitted: its route or target leaves */
	ES_PARCEL_DELIVERED, /* the rest: to be settled so */
	ES_PARCEL_FAILED,
	ES_PARCEL_REJECTED,
	ES_PARCEL_POSTPONED, /* of a rule: its target can take nothing now, and others go on */
	ES_PARCEL_SETTLED,
	ES_PARCEL_AWAY		/* of a rule: its event is put off, and the transport has it yet, or had (relay_away.c) */
} EsParcelState;

/* an event or a message that was claimed; lives in its batch */
typedef struct EsParcel
{
	EsOutgoing out; /* must be first */
	struct EsRoute *route;
	struct EsBatch *batch;
	EsTarget *target; /* NULL: of a rule, and there is no such endpoint */
	dlist_node node; /* READY: in the target's list */
	EsParcelState state;
	bool is_withdrawn; /* OUT, and not ours any more: the engine took it back */
	bool is_awaited;   /* OUT, with an event that was taken back: its own, or a rider's */
	bool must_wait;	   /* OUT, and one of its key that was in front came back undelivered */
	bool is_late;	   /* OUT for so long that its event is to be put off */
	EsEventReceipt event; /* of a subscription */
	const char *receipt;  /* of a queue */
	const char *tenant;	  /* of a subscription */
	const char *key;	  /* NULL: none */
	int64 number;		  /* position or message id */
	int attempt;
	const char *reason;		 /* FAILED, REJECTED */
	int64 delay_ms;			 /* POSTPONED, late: for so long */
	TimestampTz submitted_at;
	int probes;				 /* so often it failed while the breaker was not closed */
	int refusals;			 /* so often it was told "not now", though others were taken */
	int64 seen;				 /* successes of the target when it was submitted last */
	bool was_taken_back;	 /* by the engine, as the settlement under way has seen */
	struct EsParcel *ahead;	 /* the one that has it behind */
	struct EsParcel *behind; /* the next one of its key, in the same batch; of who leads a group: the leader of the next one */
	struct EsParcel *rider;	 /* the next one of its group */
	struct EsParcel *leader; /* of its group; NULL: it is in none */
	/* AWAY, also while it is judged; node is in the route's list */
	bool is_away;
	EsParcelState answer;	/* what came of it: DELIVERED, FAILED or REJECTED; OUT: nothing yet */
	TimestampTz answered_at;
	bool is_void;		  /* its hold is over: the answer is not for the event that is there now */
	bool is_to_write;	  /* the answer is to be written down, or the event is due */
	bool is_written;	  /* nothing is left to be known of it, if the settlement under way commits */
} EsParcel;

/* the target of that endpoint, made where it is new, in a transaction; NULL: there is none, or it is disabled, a function, or leaves */
extern EsTarget *es_target_get(const char *endpoint);
/* are definition and secrets what they were?  In a transaction */
extern bool es_target_is_current(const EsTarget *target);
/* did an operator reset it, and it does not know of that yet? */
extern bool es_target_is_reset(const EsTarget *target);
/* Without parcels */
extern void es_target_free(EsTarget *target);
/* the first of all; by next */
extern EsTarget *es_target_first(void);

/* may parcels be submitted to it, now or soon?  If not, nothing is claimed for it */
extern bool es_target_takes(const EsTarget *target);
/* how many more parcels it can use, and is it worth a claim? */
extern int es_target_room(const EsTarget *target);
extern bool es_target_wants(const EsTarget *target);
/* how many may be held at a time */
extern int es_target_window(const EsTarget *target);

extern void es_target_put_ready(EsParcel *parcel);
extern void es_target_take_back(EsParcel *parcel); /* READY to HELD */
/* submits what may be submitted: how many */
extern int es_target_submit(EsTarget *target, TimestampTz now);
/* a parcel came back: its state becomes READY again, DELIVERED, FAILED or REJECTED */
extern void es_target_judge(EsParcel *parcel, TimestampTz now);
/* when submit may do something that it may not do now; DT_NOEND: not by time */
extern TimestampTz es_target_due(const EsTarget *target);
/* closes the links of all: what is out is given up, and HELD */
extern void es_target_close_all(void);

#endif
