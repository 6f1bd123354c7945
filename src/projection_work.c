/*
 * projection_work.c
 *		Async projections: what a worker does with one.
 *
 * Runs in delivery workers.  An async projection has a subscription of its name (subscription.c), which knows its place, its lanes
 * and what failed; this polls it and applies what it gets in one transaction with the acknowledgement.  So tables and place
 * commit together: every event is applied exactly once, whatever is killed when.  docs/architecture-projections.md has the argument.
 *
 * Locks: those of the poll, to the end of the transaction; then whatever the handlers take.  Nothing is kept between two turns; a
 * crash leaves what was committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "dead_key.h"
#include "event.h"
#include "failed_event.h"
#include "projection.h"
#include "projection_apply.h"
#include "subscription.h"
#include "subscription_look.h"
#include "subscription_poll.h"
#include "subscription_settle.h"

/* the lanes are held by the transaction; a lease is only for what is out after it, which is nothing */
#define LEASE_MS 60000
/* what was to be had and could not be had is looked for again */
#define LOOK_AGAIN (50 * 1000)	/* us */
/* more events while a turn takes less than the one time, fewer when it takes the other */
#define SHORT_TURN (100 * 1000) /* us */
#define LONG_TURN (500 * 1000)
/* rows of a turn: where they are so large a smaller turn will do */
#define MAX_ROW_BYTES (16 * 1024 * 1024)

typedef struct WorkItem
{
	EsEventReceipt receipt;
	EsHandler  *handler;		/* NULL: nothing is done for it */
	Datum		row;
	Datum		type;
	const char *tenant;
	const char *key;			/* NULL: it has none */
	bool		is_applied;
} WorkItem;

typedef struct Work
{
	EsProjection *projection;
	MemoryContext context;		/* of the turn */
	int			n;
	WorkItem   *items;
	Size		bytes;
	bool		check;			/* what is deferred to the commit is checked with the events */
	WorkItem   *one;			/* for apply_one */
} Work;

/* keys that wait behind an event that failed in this turn */
typedef struct WaitingKeys
{
	const WorkItem **items;		/* one of each */
	int			n;
} WaitingKeys;

static MemoryContext turn_context = NULL;

static EsProjectionTurn take_turn(int32 id, int max_count);
static bool put(EsReader *reader, const EsPolled *event, void *arg);
static void add(EsApply *apply, const WorkItem *item);
static void apply_all(void *arg);
static void apply_one(void *arg);
static int	apply_each(Work *work);
static bool must_wait(const WaitingKeys *waiting, const WorkItem *item);
static bool key_waits(const WorkItem *item);
static void acknowledge(Work *work);

bool
es_projection_has_work(void)
{
	int			n;
	const EsSubscription *all = es_subscription_all(&n);

	for (int i = 0; i < n; i++)
		if (all[i].is_projection && !all[i].is_rebuild && !all[i].is_paused)
			return true;
	return false;
}

EsProjectionTurn
es_projection_work(int32 id, int *events)
{
	TimestampTz start = GetCurrentTimestamp();
	EsProjectionTurn turn = take_turn(id, *events);
	TimestampTz took = GetCurrentTimestamp() - start;

	if (took > LONG_TURN)
		*events = Max(*events / 2, 1);
	else if (took < SHORT_TURN && turn.handled == *events)
		*events = Min(*events * 2, ES_MAX_POLL);
	return turn;
}

static EsProjectionTurn
take_turn(int32 id, int max_count)
{
	EsProjectionTurn turn = {.due = DT_NOEND};
	MemoryContext caller = CurrentMemoryContext;
	Work		work = {0};
	bool		has_more = false;
	EsPollRequest request = {.max_count = max_count, .lease_ms = LEASE_MS, .put = put, .arg = &work, .has_more = &has_more};

	if (turn_context == NULL)
		turn_context = AllocSetContextCreate(TopMemoryContext, "evtstore projection turn", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(turn_context);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(turn_context);

	work.context = turn_context;
	work.check = true;
	work.items = palloc(max_count * sizeof(WorkItem));
	/* the lock first: who replaces the handlers has it, and what they are after him is known after it */
	(void) es_subscription_lock(id, AccessShareLock);
	work.projection = es_projection_by_id(id);
	if (work.projection != NULL && !work.projection->is_sync)
		turn.handled = es_subscription_poll(id, &request);
	if (turn.handled > 0)
	{
		if (es_attempt(apply_all, &work) != NULL)
			turn.failed = apply_each(&work);
		acknowledge(&work);
	}
	else if (work.projection != NULL)
	{
		const EsSubscription *subscription = es_subscription_lock(id, AccessShareLock);

		/* somebody's lane may be free by now, whose end was told before its lock was given back */
		if (subscription != NULL && !subscription->is_paused &&
			es_subscription_look(subscription, es_clock_now(), true, &turn.due))
			turn.due = es_clock_now() + LOOK_AGAIN;
		if (has_more)
			turn.due = es_clock_now();
	}

	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return turn;
}

void
es_projection_catch_up(int32 id, bool check, bool to_end)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore projection catching up", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	int			n;
	bool		has_more = false;
	bool		is_full;

	do
	{
		Work		work = {.context = context, .check = check};
		EsPollRequest request = {.max_count = ES_MAX_POLL, .lease_ms = LEASE_MS, .put = put, .arg = &work, .has_more = &has_more};

		CHECK_FOR_INTERRUPTS();
		has_more = false;
		work.items = palloc(ES_MAX_POLL * sizeof(WorkItem));
		work.projection = es_projection_by_id(id);
		n = es_subscription_poll(id, &request);
		apply_all(&work);
		acknowledge(&work);
		CommandCounterIncrement();
		is_full = n == ES_MAX_POLL || work.bytes >= MAX_ROW_BYTES;
		MemoryContextReset(context);
	} while (to_end ? n > 0 || has_more : is_full || has_more);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

static bool
put(EsReader *reader, const EsPolled *event, void *arg)
{
	Work	   *work = arg;
	WorkItem   *item = &work->items[work->n++];
	MemoryContext old_context;
	bool		isnull;
	Datum		type = es_reader_value(reader, ES_EVENT_ROW_TYPE, &isnull);

	memset(item, 0, sizeof(WorkItem));
	item->receipt = (EsEventReceipt) {.subscription = work->projection->id, .lane = event->lane, .epoch = event->epoch,
		.before = event->before, .position = event->position};
	item->handler = es_projection_handler(work->projection, type);
	old_context = MemoryContextSwitchTo(work->context);
	item->tenant = event->tenant[0] == '\0' ? "" : pstrdup(event->tenant);
	item->key = event->key == NULL ? NULL : pstrdup(event->key);
	if (item->handler == NULL)
	{
		MemoryContextSwitchTo(old_context);
		return true;
	}
	item->row = es_reader_value(reader, 0, &isnull);
	/* for the error of that event; a batch has none of its own */
	if (!item->handler->is_batch)
		item->type = PointerGetDatum(PG_DETOAST_DATUM_COPY(type));
	MemoryContextSwitchTo(old_context);
	work->bytes += VARSIZE_ANY(DatumGetPointer(item->row));
	return work->bytes < MAX_ROW_BYTES;
}

static void
add(EsApply *apply, const WorkItem *item)
{
	es_apply_add(apply, &(EsApplied) {item->handler, item->row, item->receipt.position, item->type, item->tenant});
}

/* in a subtransaction */
static void
apply_all(void *arg)
{
	Work	   *work = arg;
	EsApply		apply;

	es_apply_begin(&apply, work->projection);
	for (int i = 0; i < work->n; i++)
		if (work->items[i].handler != NULL)
			add(&apply, &work->items[i]);
	es_apply_end(&apply, work->check);
	for (int i = 0; i < work->n; i++)
		work->items[i].is_applied = true;
}

static void
apply_one(void *arg)
{
	Work	   *work = arg;
	EsApply		apply;

	es_apply_begin(&apply, work->projection);
	add(&apply, work->one);
	es_apply_end(&apply, work->check);
}

/*
 * One of them failed: each by itself, to see which.  What fails is given back with its error.  Where its key waits for it now, the
 * engine has taken those of the key back that come after it, so they are left alone here; else they go on.  How many failed.
 */
static int
apply_each(Work *work)
{
	int			failed = 0;
	WaitingKeys waiting = {.items = palloc(work->n * sizeof(WorkItem *))};

	for (int i = 0; i < work->n; i++)
	{
		WorkItem   *item = &work->items[i];
		char	   *error;

		CHECK_FOR_INTERRUPTS();
		item->is_applied = false;
		if (must_wait(&waiting, item))
			continue;
		work->one = item;
		error = item->handler == NULL ? NULL : es_attempt(apply_one, work);
		item->is_applied = error == NULL;
		if (error == NULL)
			continue;
		failed++;
		es_subscription_settle(&item->receipt, 1, ES_SETTLE_NACK, error, -1);
		if (key_waits(item))
			waiting.items[waiting.n++] = item;
	}
	return failed;
}

static bool
must_wait(const WaitingKeys *waiting, const WorkItem *item)
{
	for (int i = 0; i < waiting->n && item->key != NULL; i++)
		if (strcmp(waiting->items[i]->key, item->key) == 0 && strcmp(waiting->items[i]->tenant, item->tenant) == 0)
			return true;
	return false;
}

/* not where the event went to the dead letters, and its key goes on */
static bool
key_waits(const WorkItem *item)
{
	int32		id = item->receipt.subscription;
	const EsSubscription *subscription = es_subscription_lock(id, AccessShareLock);

	return item->key != NULL && subscription != NULL &&
		(es_failed_event_key_waits(subscription, item->tenant, item->key) || es_dead_key_find(id, item->tenant, item->key, NULL));
}

/* all that was applied, in the transaction of its effects */
static void
acknowledge(Work *work)
{
	EsEventReceipt *receipts = palloc(work->n * sizeof(EsEventReceipt));
	int			n = 0;

	for (int i = 0; i < work->n; i++)
		if (work->items[i].is_applied)
			receipts[n++] = work->items[i].receipt;
	qsort(receipts, n, sizeof(EsEventReceipt), es_subscription_compare_receipts);
	es_subscription_settle(receipts, n, ES_SETTLE_ACK, NULL, -1);
	for (int i = 0; i < n; i++)
		if (receipts[i].stale != NULL)
			elog(ERROR, "event at position " INT64_FORMAT " of projection \"%s\" was applied, but cannot be acknowledged: %s",
				 receipts[i].position, work->projection->name, receipts[i].stale);
}
