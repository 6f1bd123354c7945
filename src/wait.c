/*
 * wait.c
 *		wait_for_work(): sleeping until a queue or a subscription has something to hand out.
 *
 * Runs in consumers' backends, outside of a transaction block.  Between two looks for work the transaction is ended, so who sleeps
 * holds no snapshot, no lock and no transaction id, and nobody's vacuum waits for him.  Each look is at what a claim or a poll
 * would find at that moment; it takes nothing.  What can happen between a look and the sleep is waiter.c's matter.
 *
 * A look may be wrong in one way: it finds work that somebody else takes first, or that a consumer may not take (a lane of
 * another one).  What becomes of that is subscription_look.c's matter.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "evtstore.h"
#include "guc.h"
#include "queue.h"
#include "spi.h"
#include "subscription.h"
#include "subscription_look.h"
#include "subscription_source.h"
#include "waiter.h"

typedef struct Named
{
	char	   *name;
	bool		is_queue;
	int32		id;
} Named;

typedef struct Wait
{
	int			n;
	Named		named[ES_WAITER_MAX_NAMES];
	EsWaitFor	wait_for;
	TimestampTz deadline;
	bool		was_woken;
	MemoryContext context;		/* of a look */
} Wait;

static void read_names(ArrayType *names, Wait *wait);
static void resolve(Wait *wait);
static bool look(const Wait *wait, TimestampTz *due);
static bool look_into_queue(const Named *named, TimestampTz *due);
static bool look_into_subscription(const Named *named, bool was_woken, TimestampTz *due);
static void wait_loop(Wait *wait);
static void leave_if_alone(void);
static long sleep_ms(const Wait *wait, TimestampTz due);
static void refuse_unknown(const char *name) es_noreturn;
static void stop_waiting(int code, Datum arg);

PG_FUNCTION_INFO_V1(evtstore_wait_for_work);

/* CALL wait_for_work(names text[], timeout interval); evtstore_writer */
Datum
evtstore_wait_for_work(PG_FUNCTION_ARGS)
{
	CallContext *context = (CallContext *) fcinfo->context;
	Wait		wait = {0};
	int64		timeout_ms;

	es_arg_required(fcinfo, 0, "names");
	read_names(PG_GETARG_ARRAYTYPE_P(0), &wait);
	timeout_ms = Min(es_arg_interval(fcinfo, 1, "timeout") / 1000, INT_MAX);
	PreventCommandDuringRecovery("wait_for_work");
	if (context == NULL || !IsA(context, CallContext) || context->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("wait_for_work cannot wait inside a transaction block"),
				 errdetail("Its snapshot would hold up every vacuum while it sleeps."),
				 errhint("CALL it outside a transaction, then receive or poll in one.")));
	resolve(&wait);
	wait.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	wait.context = AllocSetContextCreate(PortalContext, "evtstore wait", ALLOCSET_DEFAULT_SIZES);

	es_waiter_begin(&wait.wait_for);
	/* a terminated backend leaves by FATAL, which no PG_FINALLY sees */
	PG_ENSURE_ERROR_CLEANUP(stop_waiting, (Datum) 0);
	{
		wait_loop(&wait);
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, (Datum) 0);
	es_waiter_end();
	MemoryContextDelete(wait.context);
	PG_RETURN_VOID();
}

static void
stop_waiting(int code, Datum arg)
{
	es_waiter_end();
}

/* their memory outlives the transaction: that of the call may be the transaction's */
static void
read_names(ArrayType *names, Wait *wait)
{
	Datum	   *values;
	bool	   *nulls;
	int			n;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	if (n < 1 || n > ES_WAITER_MAX_NAMES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("names has %d elements", n),
				 errhint("Give 1 to %d names of queues and subscriptions.", ES_WAITER_MAX_NAMES)));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("names[%d] must not be NULL", i + 1),
					 errhint("Give the name of a queue or subscription.")));
		wait->named[wait->n].name = TextDatumGetCString(values[i]);
		es_arg_check_name(wait->named[wait->n].name, "names", ES_MAX_NAME_BYTES);
		wait->named[wait->n].name = MemoryContextStrdup(PortalContext, wait->named[wait->n].name);
		wait->n++;
	}
}

/* ids of definitions do not change; what a subscription filters may, and is looked at again each time somebody waits */
static void
resolve(Wait *wait)
{
	for (int i = 0; i < wait->n; i++)
	{
		Named	   *named = &wait->named[i];

		named->is_queue = es_definition_find("queue", named->name) != NULL;
		if (named->is_queue)
		{
			const EsQueue *queue = es_queue_get(named->name);

			named->id = queue->id;
			es_use_require(&queue->use, ES_USE_CONSUME, "queue", queue->name);
		}
		else if (es_definition_find("subscription", named->name) != NULL)
		{
			const EsSubscription *subscription = es_subscription_get(named->name);

			named->id = subscription->definition.id;
			es_use_require(&subscription->use, ES_USE_CONSUME, "subscription", subscription->definition.name);
			wait->wait_for.categories |= es_subscription_categories(subscription);
		}
		else
			refuse_unknown(named->name);
		wait->wait_for.ids[wait->wait_for.n++] = named->id;
	}
}

static void
wait_loop(Wait *wait)
{
	for (;;)
	{
		TimestampTz due = DT_NOEND;
		bool		found;
		long		left;
		MemoryContext old_context;

		MemoryContextReset(wait->context);
		es_spi_ensure_snapshot();
		old_context = MemoryContextSwitchTo(wait->context);
		found = look(wait, &due);
		MemoryContextSwitchTo(old_context);
		/* nothing of the look is held while this sleeps, and the next one sees what was committed */
		es_spi_drop_snapshots();
		if (found)
			return;
		left = sleep_ms(wait, due);
		if (left <= 0)
			return;
		wait->was_woken |= es_waiter_sleep(left);
		leave_if_alone();
	}
}

/* a client that is gone would be slept for to the end: FATAL, as with client_connection_check_interval */
static void
leave_if_alone(void)
{
	if (MyBackendType == B_BACKEND && !pq_check_connection())
	{
		ClientConnectionLost = true;
		InterruptPending = true;
		CHECK_FOR_INTERRUPTS();
	}
}

/* 0: the time is over */
static long
sleep_ms(const Wait *wait, TimestampTz due)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wait->deadline);

	if (left <= 0)
		return 0;
	left = Min(left, es_guc_poll_interval);
	if (due != DT_NOEND)
		left = Min(left, Max(TimestampDifferenceMilliseconds(es_clock_now(), due), 0) + 1);
	return left;
}

static bool
look(const Wait *wait, TimestampTz *due)
{
	bool		found = false;

	for (int i = 0; i < wait->n; i++)
	{
		const Named *named = &wait->named[i];

		found |= named->is_queue ? look_into_queue(named, due) : look_into_subscription(named, wait->was_woken, due);
	}
	return found;
}

static bool
look_into_queue(const Named *named, TimestampTz *due)
{
	const EsQueue *queue = es_queue_lock(named->id, AccessShareLock);
	const char *tenant = es_queue_tenant();
	EsQueueState *state;
	EsTake		take = {.want = 1};
	TimestampTz next;
	bool		found;

	if (queue == NULL)
		refuse_unknown(named->name);
	if (queue->is_paused)
		return false;
	take.now = es_clock_now();
	take.max_in_flight = queue->max_in_flight;
	take.rate = queue->rate;
	state = es_queue_state_find(named->id);
	/* nobody has received since the start of the server: who does finds out */
	if (state == NULL)
		return true;
	found = es_queue_has_work(state, es_queue_tenant_hash(tenant, strlen(tenant)), &take, &next);
	*due = Min(*due, next);
	return found;
}

static bool
look_into_subscription(const Named *named, bool was_woken, TimestampTz *due)
{
	const EsSubscription *subscription = es_subscription_lock(named->id, AccessShareLock);
	TimestampTz now = es_clock_now();
	TimestampTz next;
	bool		found;

	if (subscription == NULL)
		refuse_unknown(named->name);
	if (subscription->is_paused)
		return false;
	found = es_subscription_look(subscription, now, was_woken, &next);
	*due = Min(*due, next);
	return found;
}

static void
refuse_unknown(const char *name)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_NOT_FOUND),
			 errmsg("there is no queue or subscription \"%s\"", name),
			 errhint("evtstore.queue_status and evtstore.subscription_status list them.")));
}
