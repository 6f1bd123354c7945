/*
 * endpoint_state.c
 *		What a relay does with its endpoints, for views: shared memory.
 *
 * Written by the relay of the database, for each message that it sends or gets back; read by backends (endpoint_status.c).  Which entry is
 * whose is protected by the area's LWLock; what is in an entry by its spinlock, held for some copies.  A crash makes the area anew: what
 * is counted, is counted since the server's start.
 *
 * Nothing depends on what stands here.  Where all entries are taken, an endpoint is delivered to and shows nothing.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "endpoint_state.h"
#include "guc.h"
#include "shmem.h"
#include "transport/transport.h"

struct EsEndpointState
{
	/* under the area's lock */
	Oid			database;		/* InvalidOid: free */
	int32		endpoint;
	pg_atomic_uint64 resets;	/* grows for ever, also from endpoint to endpoint */
	/* under the mutex */
	slock_t		mutex;
	EsEndpointView view;
};

typedef struct StateArea
{
	int			n;				/* immutable */
	pg_atomic_uint64 other_resets;	/* of endpoints without an entry */
	EsEndpointState states[FLEXIBLE_ARRAY_MEMBER];
} StateArea;

static StateArea *area = NULL;
static LWLockPadded *locks = NULL;
#define STATES_LOCK (&locks[0].lock)

static Size area_size(void);
static void area_init(void *ptr);
static EsEndpointState *find(Oid database, int32 endpoint);
static int	bucket_of(int64 us);

static const EsShmemPart part = {
	.name = "endpoints",
	.size = area_size,
	.init = area_init,
	.area = (void **) &area,
	.nlocks = 1,
	.locks = &locks,
};

void
es_endpoint_state_init(void)
{
	es_shmem_register(&part);
}

EsEndpointState *
es_endpoint_state_open(int32 endpoint)
{
	EsEndpointState *state;

	LWLockAcquire(STATES_LOCK, LW_EXCLUSIVE);
	state = find(MyDatabaseId, endpoint);
	if (state == NULL && (state = find(InvalidOid, 0)) != NULL)
	{
		state->database = MyDatabaseId;
		state->endpoint = endpoint;
		memset(&state->view, 0, sizeof(EsEndpointView));
	}
	LWLockRelease(STATES_LOCK);
	return state;
}

void
es_endpoint_state_set(EsEndpointState *state, EsBreaker breaker, int in_flight, TimestampTz not_before, const char *fault)
{
	SpinLockAcquire(&state->mutex);
	state->view.breaker = breaker;
	state->view.in_flight = in_flight;
	state->view.not_before = not_before;
	strlcpy(state->view.fault, fault, sizeof(state->view.fault));
	SpinLockRelease(&state->mutex);
}

void
es_endpoint_state_add(EsEndpointState *state, const EsEndpointAttempt *attempt)
{
	EsEndpointView *view = &state->view;

	SpinLockAcquire(&state->mutex);
	if (attempt->outcome == ES_OUTCOME_DELIVERED)
	{
		view->delivered++;
		view->latencies[bucket_of(attempt->us)]++;
	}
	else
	{
		view->failed++;
		view->failed_at = attempt->at;
		strlcpy(view->last_error, attempt->error, sizeof(view->last_error));
	}
	view->attempts[view->nattempts++ % ES_ENDPOINT_ATTEMPTS] = *attempt;
	SpinLockRelease(&state->mutex);
}

void
es_endpoint_state_keep(const int32 *ids, int n)
{
	LWLockAcquire(STATES_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < area->n; i++)
	{
		bool		is_kept = area->states[i].database != MyDatabaseId;

		for (int j = 0; j < n && !is_kept; j++)
			is_kept = area->states[i].endpoint == ids[j];
		if (!is_kept)
			area->states[i].database = InvalidOid;
	}
	LWLockRelease(STATES_LOCK);
}

void
es_endpoint_state_forget_databases(List *existing)
{
	LWLockAcquire(STATES_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < area->n; i++)
		if (OidIsValid(area->states[i].database) && !list_member_oid(existing, area->states[i].database))
			area->states[i].database = InvalidOid;
	LWLockRelease(STATES_LOCK);
}

bool
es_endpoint_state_look(int32 endpoint, EsEndpointView *view)
{
	EsEndpointState *state;

	LWLockAcquire(STATES_LOCK, LW_SHARED);
	state = find(MyDatabaseId, endpoint);
	if (state != NULL)
	{
		SpinLockAcquire(&state->mutex);
		*view = state->view;
		SpinLockRelease(&state->mutex);
	}
	LWLockRelease(STATES_LOCK);
	return state != NULL;
}

void
es_endpoint_state_ask_reset(int32 endpoint)
{
	EsEndpointState *state;

	LWLockAcquire(STATES_LOCK, LW_SHARED);
	state = find(MyDatabaseId, endpoint);
	pg_atomic_fetch_add_u64(state != NULL ? &state->resets : &area->other_resets, 1);
	LWLockRelease(STATES_LOCK);
}

uint64
es_endpoint_state_resets(EsEndpointState *state)
{
	return pg_atomic_read_u64(state != NULL ? &state->resets : &area->other_resets);
}

const char *
es_endpoint_state_outcome(int outcome)
{
	static const char *const outcomes[] = {
		[ES_OUTCOME_DELIVERED] = "delivered",
		[ES_OUTCOME_RETRY] = "failed",
		[ES_OUTCOME_REJECT] = "rejected",
		[ES_OUTCOME_UNAVAILABLE] = "unavailable",
		[ES_OUTCOME_GONE] = "gone",
	};

	return outcomes[outcome];
}

double
es_endpoint_state_latency(const EsEndpointView *view, double share)
{
	int64		total = 0;
	int64		sum = 0;

	for (int i = 0; i < ES_ENDPOINT_BUCKETS; i++)
		total += view->latencies[i];
	for (int i = 0; i < ES_ENDPOINT_BUCKETS && total > 0; i++)
	{
		sum += view->latencies[i];
		/* the end of the bucket: no less than it was */
		if (sum >= total * share)
			return pow(2, (i + 1) / 4.0) * ES_ENDPOINT_FIRST_US;
	}
	return -1;
}

static Size
area_size(void)
{
	return add_size(offsetof(StateArea, states), mul_size(sizeof(EsEndpointState), es_guc_max_endpoints));
}

static void
area_init(void *ptr)
{
	StateArea  *a = ptr;

	a->n = es_guc_max_endpoints;
	pg_atomic_init_u64(&a->other_resets, 0);
	for (int i = 0; i < a->n; i++)
	{
		SpinLockInit(&a->states[i].mutex);
		pg_atomic_init_u64(&a->states[i].resets, 0);
	}
}

/* Locks: the area's, held.  With InvalidOid: a free one */
static EsEndpointState *
find(Oid database, int32 endpoint)
{
	for (int i = 0; i < area->n; i++)
		if (area->states[i].database == database && (!OidIsValid(database) || area->states[i].endpoint == endpoint))
			return &area->states[i];
	return NULL;
}

/* four for each doubling: within a fifth of what it was */
static int
bucket_of(int64 us)
{
	double		bucket = us <= ES_ENDPOINT_FIRST_US ? 0 : log2((double) us / ES_ENDPOINT_FIRST_US) * 4;

	return Min((int) bucket, ES_ENDPOINT_BUCKETS - 1);
}
