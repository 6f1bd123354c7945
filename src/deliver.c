/*
 * deliver.c
 *		One batch of a pushed queue to its endpoint.
 *
 * Runs in delivery workers.  Two ways:
 *
 * Outside (http, https): claim in one transaction, talk in none, settle in another.  While a receiver takes its time
 * the worker holds no snapshot, no lock and no transaction, only leases.  A crash of the server between claim
 * and settlement forgets the leases, and the messages go out again with the same event id: at least once.
 *
 * Inside (sql:): claim, call the function for each message in a subtransaction of its own, and settle, all in one
 * transaction.  The function's effect and the acknowledgement commit together: exactly once.  A crash undoes both.
 *
 * Locks: the queue's, shared, to the end of each transaction.  Memory: one context per process, emptied at each
 * batch, so that an error leaves nothing behind.
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

#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "deliver.h"
#include "endpoint.h"
#include "envelope.h"
#include "error.h"
#include "guc.h"
#include "identity.h"
#include "queue.h"
#include "registry.h"
#include "spi.h"
#include "transport/transport.h"

/* messages of one batch to the outside; one endpoint's max_in_flight may ask for fewer */
#define MAX_BATCH_OUTSIDE 100
/* to functions: below the 64 subtransactions that fit into a process's cache, beyond which every snapshot is slower */
#define MAX_BATCH_INSIDE 50
/* a transaction around functions ends after this long: effects become visible, and others get the rest */
#define MAX_INSIDE_MS 500
/* longest error text kept with a message */
#define MAX_REASON_BYTES 1000
/* how often a queue that cannot be delivered is logged */
#define COMPLAIN_EVERY_MS 60000

/* a claimed message and what came of it */
typedef struct Parcel
{
	EsDelivery *delivery;
	EsRequest  *request; /* NULL: nothing was sent */
	EsSettle	how;
	const char *reason;
	int64		delay_ms;
} Parcel;

/* arguments of the two actions that run in a subtransaction */
typedef struct Action
{
	const EsQueue *queue;
	const EsEndpoint *endpoint;
	EsDelivery *delivery;
	EsRequest  *request;
} Action;

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

static EsEndpoint *find_endpoint(const EsQueue *queue);
static void complain(const EsQueue *queue, const char *why);
static int	deliver_outside(const EsQueue *queue, EsEndpoint *endpoint, int slot, volatile sig_atomic_t *stop);
static Parcel *claim_outside(const EsQueue *queue, const EsEndpoint *endpoint, int slot, EsRequest **requests,
							 int *nparcels, int *nrequests);
static void make_request(Action *action);
static void send_requests(const EsQueue *queue, const EsEndpoint *endpoint, EsRequest *requests, int n,
						  volatile sig_atomic_t *stop);
static void shutdown_transport(int code, Datum transport);
static void settle_outside(Parcel *parcels, int n);
static void decide(Parcel *parcel);
static int	deliver_inside(const EsQueue *queue, EsEndpoint *endpoint, int slot, volatile sig_atomic_t *stop);
static void settle(const EsDelivery *delivery, EsSettle how, const char *reason, int64 delay_ms);
static void call_function(Action *action);
static FunctionPlan *function_plan(const char *fn);
static void start_function_timeout(int64 timeout_ms);
static void stop_function_timeout(void);
static void function_timeout_handler(void);
static bool attempt(void (*run) (Action *action), Action *action, char **error);
static char *error_text(void);
static void begin_transaction(void);
static void commit_transaction(void);

int
es_deliver_queue(const EsQueue *queue, int slot, volatile sig_atomic_t *stop)
{
	MemoryContext caller = CurrentMemoryContext;
	EsEndpoint *endpoint;
	int			handled = 0;

	if (batch_context == NULL)
		batch_context = AllocSetContextCreate(TopMemoryContext, "evtstore delivery batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(batch_context);

	begin_transaction();
	endpoint = find_endpoint(queue);
	if (endpoint == NULL)
		commit_transaction();
	else if (endpoint->is_sql)
		handled = deliver_inside(queue, endpoint, slot, stop);
	else
		handled = deliver_outside(queue, endpoint, slot, stop);

	MemoryContextReset(batch_context);
	MemoryContextSwitchTo(caller);
	return handled;
}

/* NULL when this queue is not to be delivered now */
static EsEndpoint *
find_endpoint(const EsQueue *queue)
{
	EsEndpoint *endpoint = es_endpoint_find(queue->endpoint);

	if (endpoint == NULL)
		complain(queue, "its endpoint does not exist");
	else if (!endpoint->is_sql && es_identity_check(NULL) != ES_IDENTITY_HERE)
		endpoint = NULL;		/* a copy of the database talks to nobody's customers */
	else if (!endpoint->is_sql && es_transport_for_url(endpoint->url) == NULL)
	{
		complain(queue, "no transport takes the url of its endpoint");
		endpoint = NULL;
	}
	return endpoint;
}

/* the worker comes by every second or so: say it once a minute */
static void
complain(const EsQueue *queue, const char *why)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (last != 0 && !TimestampDifferenceExceeds(last, now, COMPLAIN_EVERY_MS))
		return;
	last = now;
	ereport(LOG,
			(errcode(ES_ERRCODE_NOT_FOUND),
			 errmsg("queue \"%s\" is not delivered: %s", queue->name, why),
			 errdetail("The endpoint is \"%s\".", queue->endpoint),
			 errhint("Create the endpoint, or give the queue another with evtstore.alter_queue().")));
}

/* the claiming transaction is open; returns outside any */
static int
deliver_outside(const EsQueue *queue, EsEndpoint *endpoint, int slot, volatile sig_atomic_t *stop)
{
	EsRequest  *requests;
	int			nparcels;
	int			nrequests;
	Parcel	   *parcels = claim_outside(queue, endpoint, slot, &requests, &nparcels, &nrequests);

	commit_transaction();
	if (nparcels == 0)
		return 0;
	send_requests(queue, endpoint, requests, nrequests, stop);
	settle_outside(parcels, nparcels);
	return nparcels;
}

/* the batch, with a request for each message that can be put into one */
static Parcel *
claim_outside(const EsQueue *queue, const EsEndpoint *endpoint, int slot, EsRequest **requests,
			  int *nparcels, int *nrequests)
{
	List	   *deliveries = es_queue_claim(queue, es_queue_worker_consumer(slot),
											Min(endpoint->max_in_flight, MAX_BATCH_OUTSIDE),
											endpoint->timeout_ms + es_guc_lease);
	Parcel	   *parcels = palloc0(sizeof(Parcel) * Max(list_length(deliveries), 1));
	ListCell   *lc;

	*requests = palloc0(sizeof(EsRequest) * Max(list_length(deliveries), 1));
	*nparcels = 0;
	*nrequests = 0;
	foreach(lc, deliveries)
	{
		Parcel	   *parcel = &parcels[(*nparcels)++];
		Action		action = {queue, endpoint, lfirst(lc), &(*requests)[*nrequests]};
		char	   *error;

		parcel->delivery = lfirst(lc);
		if (attempt(make_request, &action, &error))
		{
			parcel->request = action.request;
			(*nrequests)++;
		}
		else
		{
			parcel->how = ES_SETTLE_REJECT;
			parcel->reason = psprintf("could not be put into a CloudEvent: %s", error);
			parcel->delay_ms = -1;
		}
	}
	return parcels;
}

static void
make_request(Action *action)
{
	EsRequest  *request = action->request;
	EsEnvelope	envelope;
	EsHeader   *headers;

	es_envelope_http(action->delivery, action->queue->name, action->endpoint, &envelope);
	headers = palloc(sizeof(EsHeader) * envelope.nheaders);
	for (int i = 0; i < envelope.nheaders; i++)
	{
		headers[i].name = envelope.headers[i].name;
		headers[i].value = envelope.headers[i].value;
	}
	request->url = action->endpoint->url;
	request->headers = headers;
	request->nheaders = envelope.nheaders;
	request->body = envelope.body;
	request->body_len = envelope.body_len;
	request->timeout_ms = action->endpoint->timeout_ms;
}

/* no transaction is open */
static void
send_requests(const EsQueue *queue, const EsEndpoint *endpoint, EsRequest *requests, int n, volatile sig_atomic_t *stop)
{
	static bool hooked = false;
	const EsTransport *transport = es_transport_for_url(endpoint->url);
	char	   *activity = psprintf("delivering %d messages of queue \"%s\" to endpoint \"%s\"", n, queue->name,
									endpoint->name);

	Assert(!IsTransactionOrTransactionBlock());
	if (!hooked)
	{
		on_proc_exit(shutdown_transport, PointerGetDatum(transport));
		hooked = true;
	}
	pgstat_report_activity(STATE_RUNNING, activity);
	transport->startup();
	transport->perform(requests, n, endpoint->max_in_flight, stop);
	pgstat_report_activity(STATE_IDLE, NULL);
	Assert(!IsTransactionOrTransactionBlock());
}

static void
shutdown_transport(int code, Datum transport)
{
	((const EsTransport *) DatumGetPointer(transport))->shutdown();
}

static void
settle_outside(Parcel *parcels, int n)
{
	int			delivered = 0;
	int			failed = 0;

	begin_transaction();
	for (int i = 0; i < n; i++)
	{
		if (parcels[i].request != NULL)
			decide(&parcels[i]);
		settle(parcels[i].delivery, parcels[i].how, parcels[i].reason, parcels[i].delay_ms);
		delivered += parcels[i].how == ES_SETTLE_ACK;
		failed += parcels[i].how == ES_SETTLE_NACK || parcels[i].how == ES_SETTLE_REJECT;
	}
	commit_transaction();
	es_registry_count(delivered, failed);
}

static void
decide(Parcel *parcel)
{
	static const EsSettle verdicts[] = {
		[ES_OUTCOME_DELIVERED] = ES_SETTLE_ACK,
		[ES_OUTCOME_RETRY] = ES_SETTLE_NACK,
		[ES_OUTCOME_REJECT] = ES_SETTLE_REJECT,
	};
	const EsRequest *request = parcel->request;

	parcel->how = request->unfinished ? ES_SETTLE_RELEASE : verdicts[request->outcome];
	parcel->reason = request->error;
	parcel->delay_ms = request->retry_after_ms;
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

/* the claiming transaction is open; returns outside any */
static int
deliver_inside(const EsQueue *queue, EsEndpoint *endpoint, int slot, volatile sig_atomic_t *stop)
{
	TimestampTz start = GetCurrentTimestamp();
	List	   *deliveries = es_queue_claim(queue, es_queue_worker_consumer(slot), MAX_BATCH_INSIDE,
											endpoint->timeout_ms * MAX_BATCH_INSIDE + es_guc_lease);
	int			delivered = 0;
	int			failed = 0;
	ListCell   *lc;

	foreach(lc, deliveries)
	{
		EsDelivery *delivery = lfirst(lc);
		Action		action = {queue, endpoint, delivery};
		char	   *error;

		if (*stop || TimestampDifferenceExceeds(start, GetCurrentTimestamp(), MAX_INSIDE_MS))
			settle(delivery, ES_SETTLE_RELEASE, NULL, -1);
		else if (attempt(call_function, &action, &error))
			delivered++;
		else
		{
			settle(delivery, ES_SETTLE_NACK, error, -1);
			failed++;
		}
		CHECK_FOR_INTERRUPTS();
	}
	commit_transaction();
	es_registry_count(delivered, failed);
	return list_length(deliveries);
}

/*
 * The acknowledgement stands in the subtransaction of the effect: where it is refused, the effect goes too.  The server
 * checks the owner's permission at each call, because the function is called by a statement.
 */
static void
call_function(Action *action)
{
	EsSpiState	state;
	Datum		argument;
	FunctionPlan *function;

	es_spi_become(&state, action->endpoint->owner, action->endpoint->search_path);
	function = function_plan(action->endpoint->fn);
	argument = es_queue_delivery_datum(action->delivery);
	start_function_timeout(action->endpoint->timeout_ms);
	es_spi_run_foreign(function->plan, &argument, function->sql);
	es_spi_check_constraints();
	stop_function_timeout();
	es_spi_unbecome(&state);
	if (!es_queue_settle(action->delivery->receipt, ES_SETTLE_ACK, NULL, -1))
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

/* leaves the batch's context current; what is read may be toasted, which takes a snapshot */
static void
begin_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(batch_context);
}

static void
commit_transaction(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(batch_context);
}
