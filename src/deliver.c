/*
 * deliver.c
 *		One batch of a queue or subscription to a function of this database (sql: endpoints).
 *
 * Runs in delivery workers, and in backends that call run_pending().  Claim or poll, call the function for each of what came in a subtransaction of its own, and settle, all in one
 * transaction.  The function's effect and the acknowledgement commit together: exactly once.  A crash undoes both.  What goes
 * outside of the database is the relay's (relay.c).
 *
 * Locks: the queue's or the subscription's, shared, and those of lanes, to the end of the transaction.  Memory: one context per
 * process, emptied at each batch, so that an error leaves nothing behind.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "definition.h"
#include "deliver.h"
#include "endpoint.h"
#include "error.h"
#include "guc.h"
#include "queue.h"
#include "spi.h"
#include "subscription.h"
#include "subscription_delivery.h"
#include "subscription_look.h"
#include "subscription_settle.h"

/* below the 64 subtransactions that fit into a process's cache, beyond which every snapshot is slower */
#define MAX_BATCH_INSIDE 50
/* a transaction around functions ends after this long: effects become visible, and others get the rest */
#define MAX_INSIDE_MS 500
/* longest error text kept with a message */
#define MAX_REASON_BYTES 1000
/* what was to be had and could not be had is looked for again */
#define LOOK_AGAIN (50 * 1000) /* us */

/* what came, for the call in a subtransaction */
typedef struct Action
{
	const EsEndpoint *endpoint;
	EsDelivery *delivery;
	EsEventReceipt *event;		/* of a subscription; NULL: a message */
	bool		is_stale;		/* it is not ours any more: one of its key failed before it */
} Action;

/* what a poll hands out */
typedef struct Polled
{
	int32		id;
	int			n;
	EsDelivery *deliveries[MAX_BATCH_INSIDE];
	EsEventReceipt receipts[MAX_BATCH_INSIDE];
} Polled;

/* the saved plan of a sql: function; one per function, for the life of the process */
typedef struct FunctionPlan
{
	char	   *fn;
	char	   *sql;
	SPIPlanPtr	plan;
	struct FunctionPlan *next;
} FunctionPlan;

static MemoryContext batch_context = NULL;
static FunctionPlan *function_plans = NULL;
static TimeoutId function_timeout = MAX_TIMEOUTS; /* MAX_TIMEOUTS: not registered */
static volatile sig_atomic_t function_timed_out = false;

static void deliver_messages(const EsPush *push, EsEndpoint *endpoint, const char *consumer, const EsBatch *batch, EsTurnResult *result);
static void deliver_events(const EsPush *push, EsEndpoint *endpoint, const EsBatch *batch, EsTurnResult *result);
static bool is_to_stop(const EsBatch *batch, TimestampTz start);
static bool put_event(EsReader *reader, const EsPolled *event, void *arg);
static void release(EsEventReceipt *receipts, int n);
static void settle(const EsDelivery *delivery, EsSettle how, const char *reason, int64 delay_ms);
static void call_function(Action *action);
static FunctionPlan *function_plan(const char *fn);
static void start_function_timeout(int64 timeout_ms);
static void stop_function_timeout(void);
static void function_timeout_handler(void);
static bool attempt(void (*run) (Action *action), Action *action, char **error);
static char *error_text(void);

EsTurnResult
es_deliver(const EsPush *push, const EsBatch *batch)
{
	MemoryContext caller = CurrentMemoryContext;
	EsTurnResult result = {.due = DT_NOEND};
	EsEndpoint *endpoint;
	bool		is_own;

	if (batch_context == NULL)
		batch_context = AllocSetContextCreate(TopMemoryContext, "evtstore delivery batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(batch_context);
	MemoryContextSwitchTo(batch_context);

	is_own = es_turn_transaction_begin();
	endpoint = es_endpoint_find(push->endpoint);
	/* it may have gone, or become another, since the worker read the definitions */
	if (endpoint != NULL && endpoint->is_sql && !endpoint->is_disabled)
	{
		if (push->is_queue)
			deliver_messages(push, endpoint, is_own ? es_queue_worker_consumer(batch->slot) : NULL, batch, &result);
		else
			deliver_events(push, endpoint, batch, &result);
	}
	es_turn_transaction_end(is_own);

	MemoryContextReset(batch_context);
	MemoryContextSwitchTo(caller);
	return result;
}

/*
 * A stale receipt is no error: the lease ran out and somebody else has the message, or it was purged.  What was
 * delivered is delivered once more.
 */
static void
settle(const EsDelivery *delivery, EsSettle how, const char *reason, int64 delay_ms)
{
	if (!es_queue_settle(delivery->receipt, how, how == ES_SETTLE_ACK ? NULL : reason, delay_ms))
		ereport(DEBUG1,
				(errmsg_internal("receipt %s is stale", delivery->receipt)));
}

static void
deliver_messages(const EsPush *push, EsEndpoint *endpoint, const char *consumer, const EsBatch *batch, EsTurnResult *result)
{
	TimestampTz start = GetCurrentTimestamp();
	const EsQueue *queue = es_queue_lock(push->id, AccessShareLock);
	List	   *deliveries = queue == NULL ? NIL : es_queue_claim(queue, consumer, Min(batch->max_count, MAX_BATCH_INSIDE),
																	endpoint->timeout_ms * MAX_BATCH_INSIDE + es_guc_lease);
	ListCell   *lc;

	result->handled = list_length(deliveries);
	foreach(lc, deliveries)
	{
		EsDelivery *delivery = lfirst(lc);
		Action		action = {endpoint, delivery};
		char	   *error;

		if (is_to_stop(batch, start))
			settle(delivery, ES_SETTLE_RELEASE, NULL, -1);
		else if (attempt(call_function, &action, &error))
			result->delivered++;
		else
		{
			settle(delivery, ES_SETTLE_NACK, error, -1);
			result->failed++;
		}
		CHECK_FOR_INTERRUPTS();
	}
}

/* the rest is for others, or for later */
static bool
is_to_stop(const EsBatch *batch, TimestampTz start)
{
	return batch->stop != NULL && (*batch->stop || TimestampDifferenceExceeds(start, GetCurrentTimestamp(), MAX_INSIDE_MS));
}

/*
 * The same for events.  What fails is given back with its error; where its key waits for it now, the engine has taken those of the key
 * back that come after it, whose receipts are stale.
 */
static void
deliver_events(const EsPush *push, EsEndpoint *endpoint, const EsBatch *batch, EsTurnResult *result)
{
	TimestampTz start = GetCurrentTimestamp();
	Polled	   *polled = palloc0(sizeof(Polled));
	bool		has_more = false;
	EsPollRequest request = {.max_count = Min(batch->max_count, MAX_BATCH_INSIDE), .lease_ms = es_guc_lease, .put = put_event, .arg = polled, .has_more = &has_more};
	const EsSubscription *subscription = es_subscription_lock(push->id, AccessShareLock);

	polled->id = push->id;
	if (subscription != NULL && subscription->endpoint != NULL && strcmp(subscription->endpoint, endpoint->name) == 0)
		(void) es_subscription_poll(push->id, &request);
	for (int i = 0; i < polled->n; i++)
	{
		Action		action = {endpoint, polled->deliveries[i], &polled->receipts[i]};
		char	   *error;

		if (is_to_stop(batch, start))
		{
			release(polled->receipts + i, polled->n - i);
			break;
		}
		if (attempt(call_function, &action, &error))
			result->delivered += !action.is_stale;
		else
		{
			/* what the acknowledgement left there was undone with it */
			polled->receipts[i].stale = NULL;
			polled->receipts[i].is_done = false;
			es_subscription_settle(&polled->receipts[i], 1, ES_SETTLE_NACK, error, -1);
			result->failed++;
		}
		CHECK_FOR_INTERRUPTS();
	}
	result->handled = polled->n;
	subscription = es_subscription_lock(push->id, AccessShareLock);
	if (polled->n == 0 && subscription != NULL && !subscription->is_paused)
	{
		/* somebody's lane may be free by now, whose end was told before its lock was given back */
		if (es_subscription_look(subscription, es_clock_now(), true, &result->due))
			result->due = es_clock_now() + LOOK_AGAIN;
		if (has_more)
			result->due = es_clock_now();
	}
}

static bool
put_event(EsReader *reader, const EsPolled *event, void *arg)
{
	Polled	   *polled = arg;
	MemoryContext old = MemoryContextSwitchTo(batch_context);
	EsDelivery *delivery = es_subscription_delivery(reader, event);

	delivery->receipt = es_subscription_receipt(polled->id, event->lane, event->epoch, event->before, event->position);
	polled->deliveries[polled->n] = delivery;
	polled->receipts[polled->n++] = (EsEventReceipt) {.subscription = polled->id, .lane = event->lane, .epoch = event->epoch,
		.before = event->before, .position = event->position};
	MemoryContextSwitchTo(old);
	return true;
}

static void
release(EsEventReceipt *receipts, int n)
{
	qsort(receipts, n, sizeof(EsEventReceipt), es_subscription_compare_receipts);
	es_subscription_settle(receipts, n, ES_SETTLE_RELEASE, NULL, -1);
}

/*
 * The acknowledgement stands in the subtransaction of the effect: where it is refused, the effect goes too, or is never made.  The
 * server checks the owner's permission at each call, because the function is called by a statement.
 */
static void
call_function(Action *action)
{
	EsSpiState	state;
	Datum		argument;
	FunctionPlan *function;

	if (action->event != NULL)
	{
		es_subscription_settle(action->event, 1, ES_SETTLE_ACK, NULL, -1);
		action->is_stale = action->event->stale != NULL;
		if (action->is_stale)
			return;
	}
	es_spi_become(&state, action->endpoint->owner, action->endpoint->search_path);
	function = function_plan(action->endpoint->fn);
	argument = es_queue_delivery_datum(action->delivery);
	start_function_timeout(action->endpoint->timeout_ms);
	es_spi_run_foreign(function->plan, &argument, function->sql);
	es_spi_check_constraints();
	stop_function_timeout();
	es_spi_unbecome(&state);
	if (action->event == NULL && !es_queue_settle_delivered(action->delivery->receipt, 0, NULL, false))
		ereport(ERROR,
				(errcode(ES_ERRCODE_STALE_RECEIPT),
				 errmsg("receipt %s is stale", action->delivery->receipt)));
}

/* the plan follows the function when that is replaced: it is saved under the name, as endpoints keep it */
static FunctionPlan *
function_plan(const char *fn)
{
	Oid			type = es_catalog()->delivery_type;
	FunctionPlan *function;
	Oid			oid;
	char	   *sql;
	SPIPlanPtr	plan;

	for (function = function_plans; function != NULL; function = function->next)
		if (strcmp(function->fn, fn) == 0)
			return function;

	oid = es_definition_function(fn, type);
	sql = psprintf("SELECT %s($1)",
				   quote_qualified_identifier(get_namespace_name(get_func_namespace(oid)), get_func_name(oid)));
	plan = es_spi_prepare_foreign(sql, 1, &type);
	function = MemoryContextAllocZero(TopMemoryContext, sizeof(FunctionPlan));
	function->fn = MemoryContextStrdup(TopMemoryContext, fn);
	function->sql = MemoryContextStrdup(TopMemoryContext, sql);
	function->plan = plan;
	function->next = function_plans;
	function_plans = function;
	return function;
}

/* a function that never returns would take the worker with it */
static void
start_function_timeout(int64 timeout_ms)
{
	if (function_timeout == MAX_TIMEOUTS)
		function_timeout = RegisterTimeout(USER_TIMEOUT, function_timeout_handler);
	function_timed_out = false;
	enable_timeout_after(function_timeout, (int) timeout_ms);
}

/* also after an error; does nothing where none runs */
static void
stop_function_timeout(void)
{
	if (function_timeout == MAX_TIMEOUTS)
		return;
	disable_timeout(function_timeout, false);
	/* it went off when the function was through already */
	if (function_timed_out)
		QueryCancelPending = false;
}

/* in a signal handler */
static void
function_timeout_handler(void)
{
	function_timed_out = true;
	QueryCancelPending = true;
	InterruptPending = true;
}

/*
 * Runs the action in a subtransaction.  False when it failed: its effects are undone, *error says why.  A cancel or a
 * shutdown is not the action's failure and goes on up.
 */
static bool
attempt(void (*run) (Action *action), Action *action, char **error)
{
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = true;

	function_timed_out = false;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(batch_context);
	PG_TRY();
	{
		run(action);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		int			code = geterrcode();

		stop_function_timeout();
		if ((code == ERRCODE_QUERY_CANCELED && !function_timed_out) || code == ERRCODE_ADMIN_SHUTDOWN ||
			code == ERRCODE_CRASH_SHUTDOWN)
			PG_RE_THROW();
		MemoryContextSwitchTo(batch_context);
		*error = error_text();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(batch_context);
	CurrentResourceOwner = owner;
	return ok;
}

/* "SQLSTATE: message" of the current error */
static char *
error_text(void)
{
	ErrorData  *edata = CopyErrorData();
	const char *message = edata->message ? edata->message : "missing error text";
	char	   *text;

	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
		message = "the function ran longer than the endpoint's timeout";
	text = psprintf("%s: %s", unpack_sql_state(edata->sqlerrcode), message);
	text[pg_mbcliplen(text, strlen(text), MAX_REASON_BYTES)] = '\0';
	return text;
}
