/*
 * endpoint_state.h
 *		What a relay does with its endpoints, for views: shared memory.
 */
#ifndef ES_ENDPOINT_STATE_H
#define ES_ENDPOINT_STATE_H

#include "datatype/timestamp.h"

typedef enum EsBreaker
{
	ES_BREAKER_CLOSED,
	ES_BREAKER_OPEN,
	ES_BREAKER_HALF_OPEN
} EsBreaker;

typedef struct EsEndpointState EsEndpointState;

/* one try to deliver */
typedef struct EsEndpointAttempt
{
	TimestampTz at;
	int64 us; /* how long it took */
	int32 route; /* id of the subscription or queue */
	int64 number; /* position or message id */
	int attempt;
	int outcome; /* EsOutcome */
	int status;
	char error[128]; /* '': none */
} EsEndpointAttempt;

/* attempts that are kept of an endpoint */
#define ES_ENDPOINT_ATTEMPTS 32
/* latencies: from this on, four buckets for each doubling, up to an hour or so */
#define ES_ENDPOINT_FIRST_US 50
#define ES_ENDPOINT_BUCKETS 104

/* an entry, as views see it */
typedef struct EsEndpointView
{
	EsBreaker breaker;
	int in_flight;
	TimestampTz not_before; /* nothing is sent until then; 0: at once */
	char fault[256];		/* why nothing can be sent; '': it can */
	int64 delivered;
	int64 failed;
	TimestampTz failed_at;
	char last_error[128];
	int64 latencies[ES_ENDPOINT_BUCKETS];
	uint64 nattempts; /* ever: the last ones are there */
	EsEndpointAttempt attempts[ES_ENDPOINT_ATTEMPTS];
} EsEndpointView;

/*
 * The relay's side: the entry of an endpoint of this database, new or as it was; NULL where evtstore.max_endpoints are in use.  Only the
 * relay of the database writes to it.
 */
extern EsEndpointState *es_endpoint_state_open(int32 endpoint);
extern void es_endpoint_state_set(EsEndpointState *state, EsBreaker breaker, int in_flight, TimestampTz not_before, const char *fault);
extern void es_endpoint_state_add(EsEndpointState *state, const EsEndpointAttempt *attempt);
/* those of this database whose endpoint is not among the ids are free again */
extern void es_endpoint_state_keep(const int32 *ids, int n);
/* launcher: forgets the entries of databases that are gone */
extern void es_endpoint_state_forget_databases(struct List *existing);

/* of this database; false: no relay has sent anything to it since the start of the server */
extern bool es_endpoint_state_look(int32 endpoint, EsEndpointView *view);
/* us within which that share of what was delivered was; -1: nothing was */
extern double es_endpoint_state_latency(const EsEndpointView *view, double share);

/* an operator wants the breaker closed */
extern void es_endpoint_state_ask_reset(int32 endpoint);
/* how often that was so; NULL: of all endpoints that have no entry */
extern uint64 es_endpoint_state_resets(EsEndpointState *state);
/* the name of an EsOutcome */
extern const char *es_endpoint_state_outcome(int outcome);

extern void es_endpoint_state_init(void);

#endif
