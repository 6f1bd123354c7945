/*
 * subscription_turn.c
 *		What a delivery worker does with a subscription that is nobody's to poll: a projection's, a rule's.
 *
 * Runs in delivery workers, and in backends, by hand or by run_pending().  The subscription knows its place, its lanes and what failed; this polls it, has
 * the events applied and acknowledges them in one transaction.  So effects and place commit together: every event is applied
 * exactly once, whatever is killed when.  docs/architecture-projections.md has the argument.
 *
 * Locks: those of the poll, to the end of the transaction; then whatever the effects take.  Nothing is kept between two turns; a
 * crash leaves what was committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "clock.h"
#include "compat.h"
#include "dead_key.h"
#include "event.h"
#include "failed_event.h"
#include "subscription_look.h"
#include "subscription_turn.h"

/* the lanes are held by the transaction; a lease is only for what is out after it, which is nothing */
#define LEASE_MS 60000
/* what was to be had and could not be had is looked for again */
#define LOOK_AGAIN (50 * 1000)	/* us */
/* more events while a turn takes less than the one time, fewer when it takes the other */
#define SHORT_TURN (100 * 1000) /* us */
#define LONG_TURN (500 * 1000)

/* keys that wait behind an event that failed in this turn */
typedef struct WaitingKeys
{
	const EsTurnEvent **events; /* one of each */
	int			n;
} WaitingKeys;

static MemoryContext turn_context = NULL;

static EsTurnResult take(const EsTurnUser *user, int32 id, int max_count);
static void look_for_more(const EsTurn *turn, EsTurnResult *result);
static bool put(EsReader *reader, const EsPolled *polled, void *arg);
static void apply_some(void *arg);
static int	apply_each(EsTurn *turn);
static bool must_wait(const WaitingKeys *waiting, const EsTurnEvent *event);
static bool key_waits(const EsTurnEvent *event);

EsTurnResult
es_turn_take(const EsTurnUser *user, int32 id, int *events)
{
	TimestampTz start = GetCurrentTimestamp();
	EsTurnResult result = take(user, id, *events);
	TimestampTz took = GetCurrentTimestamp() - start;

	if (took > LONG_TURN)
		*events = Max(*events / 2, 1);
	else if (took < SHORT_TURN && result.handled == *events)
		*events = Min(*events * 2, ES_MAX_POLL);
	return result;
}

static EsTurnResult
take(const EsTurnUser *user, int32 id, int max_count)
{
	EsTurnResult result = {.due = DT_NOEND};
	MemoryContext caller = CurrentMemoryContext;
	bool		is_own = es_turn_transaction_begin();
	EsTurn		turn = {.user = user, .id = id, .check = true};

	if (turn_context == NULL)
		turn_context = AllocSetContextCreate(TopMemoryContext, "evtstore turn", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(turn_context);
	MemoryContextSwitchTo(turn_context);

	turn.context = turn_context;
	/* the lock first: who replaces what the events are for has it, and what they are for after him is known after it */
	(void) es_subscription_lock(id, AccessShareLock);
	turn.target = user->find(id);
	if (turn.target != NULL)
		result.handled = es_turn_poll(&turn, max_count);
	if (result.handled > 0)
	{
		turn.some = turn.events;
		turn.nsome = turn.n;
		if (es_attempt(apply_some, &turn) != NULL)
			result.failed = apply_each(&turn);
		for (int i = 0; i < turn.n; i++)
			result.delivered += turn.events[i]->is_applied;
		es_turn_acknowledge(&turn);
	}
	else if (turn.target != NULL)
		look_for_more(&turn, &result);

	MemoryContextSwitchTo(caller);
	es_turn_transaction_end(is_own);
	return result;
}

/* nothing was handed out */
static void
look_for_more(const EsTurn *turn, EsTurnResult *result)
{
	const EsSubscription *subscription = es_subscription_lock(turn->id, AccessShareLock);

	/* somebody's lane may be free by now, whose end was told before its lock was given back */
	if (subscription != NULL && !subscription->is_paused &&
		es_subscription_look(subscription, es_clock_now(), true, &result->due))
		result->due = es_clock_now() + LOOK_AGAIN;
	if (turn->has_more)
		result->due = es_clock_now();
}

int
es_turn_poll(EsTurn *turn, int max_count)
{
	EsPollRequest request = {.max_count = max_count, .lease_ms = LEASE_MS, .put = put, .arg = turn, .has_more = &turn->has_more};

	turn->n = 0;
	turn->bytes = 0;
	turn->has_more = false;
	turn->events = MemoryContextAlloc(turn->context, max_count * sizeof(EsTurnEvent *));
	return es_subscription_poll(turn->id, &request);
}

static bool
put(EsReader *reader, const EsPolled *polled, void *arg)
{
	EsTurn	   *turn = arg;
	MemoryContext old_context = MemoryContextSwitchTo(turn->context);
	EsTurnEvent *event = palloc0(turn->user->event_size);

	turn->events[turn->n++] = event;
	event->receipt = (EsEventReceipt) {.subscription = turn->id, .lane = polled->lane, .epoch = polled->epoch,
		.before = polled->before, .position = polled->position};
	event->tenant = polled->tenant[0] == '\0' ? "" : pstrdup(polled->tenant);
	event->key = polled->key == NULL ? NULL : pstrdup(polled->key);
	event->attempt = polled->attempt;
	turn->bytes += turn->user->put(turn, reader, event);
	MemoryContextSwitchTo(old_context);
	return turn->bytes < ES_TURN_MAX_BYTES;
}

void
es_turn_apply(EsTurn *turn)
{
	turn->some = turn->events;
	turn->nsome = turn->n;
	apply_some(turn);
}

static void
apply_some(void *arg)
{
	EsTurn	   *turn = arg;

	turn->user->apply(turn, turn->some, turn->nsome);
	for (int i = 0; i < turn->nsome; i++)
		turn->some[i]->is_applied = true;
}

/*
 * One of them failed: each by itself, to see which.  What fails is given back with its error.  Where its key waits for it now, the
 * engine has taken those of the key back that come after it, so they are left alone here; else they go on.  How many failed.
 */
static int
apply_each(EsTurn *turn)
{
	int			failed = 0;
	WaitingKeys waiting = {.events = palloc(turn->n * sizeof(EsTurnEvent *))};

	for (int i = 0; i < turn->n; i++)
	{
		EsTurnEvent *event = turn->events[i];
		char	   *error;

		CHECK_FOR_INTERRUPTS();
		event->is_applied = false;
		if (must_wait(&waiting, event))
			continue;
		turn->some = &turn->events[i];
		turn->nsome = 1;
		error = es_attempt(apply_some, turn);
		if (error == NULL)
			continue;
		event->is_applied = false;
		failed++;
		es_subscription_settle(&event->receipt, 1, ES_SETTLE_NACK, error, -1);
		if (key_waits(event))
			waiting.events[waiting.n++] = event;
	}
	return failed;
}

static bool
must_wait(const WaitingKeys *waiting, const EsTurnEvent *event)
{
	for (int i = 0; i < waiting->n && event->key != NULL; i++)
		if (strcmp(waiting->events[i]->key, event->key) == 0 && strcmp(waiting->events[i]->tenant, event->tenant) == 0)
			return true;
	return false;
}

/* not where the event went to the dead letters, and its key goes on */
static bool
key_waits(const EsTurnEvent *event)
{
	int32		id = event->receipt.subscription;
	const EsSubscription *subscription = es_subscription_lock(id, AccessShareLock);

	return event->key != NULL && subscription != NULL &&
		(es_failed_event_key_waits(subscription, event->tenant, event->key) || es_dead_key_find(id, event->tenant, event->key, NULL));
}

/* all that was applied, in the transaction of its effects */
void
es_turn_acknowledge(EsTurn *turn)
{
	EsEventReceipt *receipts = palloc(Max(turn->n, 1) * sizeof(EsEventReceipt));
	int			n = 0;

	for (int i = 0; i < turn->n; i++)
		if (turn->events[i]->is_applied)
			receipts[n++] = turn->events[i]->receipt;
	qsort(receipts, n, sizeof(EsEventReceipt), es_subscription_compare_receipts);
	es_subscription_settle(receipts, n, ES_SETTLE_ACK, NULL, -1);
	for (int i = 0; i < n; i++)
		if (receipts[i].stale != NULL)
			elog(ERROR, "event at position " INT64_FORMAT " of %s %d was applied, but cannot be acknowledged: %s",
				 receipts[i].position, turn->user->kind, turn->id, receipts[i].stale);
}

void
es_turn_read_event(EsReader *reader, EsEvent *event)
{
	bool		isnull;
	Datum		value;

	memset(event, 0, sizeof(EsEvent));
	event->position = DatumGetInt64(es_reader_value(reader, ES_EVENT_ROW_POSITION, &isnull));
	event->schema_version = DatumGetInt32(es_reader_value(reader, ES_EVENT_ROW_SCHEMA_VERSION, &isnull));
	event->id = *DatumGetUUIDP(es_reader_value(reader, ES_EVENT_ROW_ID, &isnull));
	event->has_id = event->has_occurred_at = true;
	event->occurred_at = DatumGetTimestampTz(es_reader_value(reader, ES_EVENT_ROW_OCCURRED_AT, &isnull));
	event->recorded_at = DatumGetTimestampTz(es_reader_value(reader, ES_EVENT_ROW_RECORDED_AT, &isnull));
	event->tenant = PointerGetDatum(PG_DETOAST_DATUM_COPY(es_reader_value(reader, ES_EVENT_ROW_TENANT, &isnull)));
	event->type = PointerGetDatum(PG_DETOAST_DATUM_COPY(es_reader_value(reader, ES_EVENT_ROW_TYPE, &isnull)));
	event->tags = PointerGetDatum(PG_DETOAST_DATUM_COPY(es_reader_value(reader, ES_EVENT_ROW_TAGS, &isnull)));
	event->data = PointerGetDatum(PG_DETOAST_DATUM_COPY(es_reader_value(reader, ES_EVENT_ROW_DATA, &isnull)));
	event->metadata = PointerGetDatum(PG_DETOAST_DATUM_COPY(es_reader_value(reader, ES_EVENT_ROW_METADATA, &isnull)));
	value = es_reader_value(reader, ES_EVENT_ROW_STREAM, &isnull);
	if (isnull)
		return;
	event->stream = value;
	event->version = DatumGetInt64(es_reader_value(reader, ES_EVENT_ROW_VERSION, &isnull));
}
