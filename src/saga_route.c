/*
 * saga_route.c
 *		Reactors: which instance an event is for, and the workers' turns with them.
 *
 * Runs in delivery workers, in their transaction.  A reactor has a subscription of its id (subscription.c), whose key is the value that its events are correlated by; a turn
 * (subscription_turn.c) brings each event to the open instance of that key, or starts one, in one transaction with the acknowledgement.  So every event is handled
 * exactly once, and those of a key in order of position: they are all in one lane, and a lane is one worker's at a time.
 *
 * Locks: the lane's, then an instance's, for which it does not wait: where somebody has it, the event and those of its key behind it are tried again in a moment.  A crash leaves
 * events and instances as they were.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "cause.h"
#include "clock.h"
#include "compat.h"
#include "event.h"
#include "lock.h"
#include "saga.h"
#include "saga_event.h"
#include "saga_react.h"
#include "subscription.h"

typedef struct ReactorEvent
{
	EsTurnEvent turn;			/* must be first */
	EsEvent		event;
} ReactorEvent;

/* an event on its way */
typedef struct Routed
{
	const EsSagaVersion *version;
	const ReactorEvent *event;
} Routed;

static void *find(int32 id);
static Size put(EsTurn *turn, EsReader *reader, EsTurnEvent *event);
static void apply(EsTurn *turn, EsTurnEvent *const *events, int n);
static void route(void *arg);
static EsCauseFacts tell_cause(const void *arg);
static void start(const EsSagaVersion *version, const char *tenant, const char *key, const char *type, Jsonb *doc);
static bool starts(const EsReactor *reactor, const char *type);
static void refuse_busy(const char *key) es_noreturn;

static const EsTurnUser user = {
	.kind = "reactor",
	.event_size = sizeof(ReactorEvent),
	.find = find,
	.put = put,
	.apply = apply,
};

bool
es_reactor_has_work(void)
{
	int			n;
	const EsSubscription *all = es_subscription_all(&n);

	for (int i = 0; i < n; i++)
		if (all[i].is_reactor && !all[i].is_paused)
			return true;
	return false;
}

EsTurnResult
es_reactor_work(int32 id, int *events)
{
	return es_turn_take(&user, id, events);
}

static void *
find(int32 id)
{
	return unconstify(EsSagaVersion *, es_saga_version_by_id(id, 0));
}

static Size
put(EsTurn *turn, EsReader *reader, EsTurnEvent *event)
{
	EsEvent    *e = &((ReactorEvent *) event)->event;

	es_turn_read_event(reader, e);
	return VARSIZE_ANY(DatumGetPointer(e->data)) + VARSIZE_ANY(DatumGetPointer(e->metadata));
}

/* an event without a key is meant for nobody */
static void
apply(EsTurn *turn, EsTurnEvent *const *events, int n)
{
	for (int i = 0; i < n; i++)
	{
		Routed		routed = {turn->target, (const ReactorEvent *) events[i]};

		if (events[i]->key != NULL)
			es_cause_run(&(EsCause) {tell_cause, &routed}, route, &routed);
	}
}

static void
route(void *arg)
{
	const Routed *routed = arg;

	es_route_event(routed->version, routed->event->turn.tenant, routed->event->turn.key, TextDatumGetCString(routed->event->event.type),
				   es_saga_event_doc(&routed->event->event));
}

static EsCauseFacts
tell_cause(const void *arg)
{
	const EsEvent *event = &((const Routed *) arg)->event->event;
	EsCauseFacts facts = es_cause_facts_of(DatumGetJsonbP(event->metadata));

	facts.id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&event->id)));
	return facts;
}

void
es_route_event(const EsSagaVersion *version, const char *tenant, const char *key, const char *type, Jsonb *doc)
{
	pg_uuid_t	id;

	while (es_saga_find_key(version->id, tenant, "business", key, &id))
	{
		EsMove		move;
		EsSagaFound found = es_move_begin(&move, &id, false);
		bool		has_ended;

		if (found == ES_SAGA_BUSY)
			refuse_busy(key);
		if (found == ES_SAGA_NONE)
			elog(ERROR, "the instance that has key \"%s\" is missing", key);
		/* it ended since its key was looked up: then the key is free now, or another one's */
		has_ended = ES_SAGA_HAS_ENDED(move.saga.status);
		if (!has_ended)
			es_react_take(&move, type, doc);
		es_move_end(&move);
		if (!has_ended)
			return;
		CHECK_FOR_INTERRUPTS();
	}
	if (starts(version->reactor, type))
		start(version, tenant, key, type, doc);
}

void
es_route_unhandled(EsMove *move)
{
	List	   *steps = move->unhandled;
	ListCell   *lc;

	move->unhandled = NIL;
	foreach(lc, steps)
	{
		const EsStep *step = lfirst(lc);

		es_route_event(move->version, move->saga.tenant, move->saga.business_key, step->state, step->input);
	}
}

static void
start(const EsSagaVersion *version, const char *tenant, const char *key, const char *type, Jsonb *doc)
{
	EsSaga		saga = {.tenant = pstrdup(tenant), .business_key = pstrdup(key), .input = doc};
	pg_uuid_t	holder;
	EsMove		move;

	/* against its drop */
	(void) es_lock_mode(ES_LOCK_SAGA, version->id, AccessShareLock);
	es_saga_fill(&saga, version, 0);
	es_clock_uuid(&saga.id, saga.started_at);
	if (!es_saga_take_key(&saga, "business", key, &holder))
		refuse_busy(key);
	es_move_start(&move, version, &saga);
	es_react_take(&move, type, doc);
	es_move_end(&move);
}

static bool
starts(const EsReactor *reactor, const char *type)
{
	ListCell   *lc;

	foreach(lc, reactor->starts)
		if (strcmp(lfirst(lc), type) == 0)
			return true;
	return false;
}

static void
refuse_busy(const char *key)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("somebody else has the instance with key \"%s\"", key),
			 errhint("The event is tried again.")));
}
