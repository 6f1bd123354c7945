/*
 * poll_call.c
 *		Polling, for SQL: poll, leave.
 *
 * Runs in consumers' backends.  Checks what it is given and makes rows of what poll.c hands out; holds no lock of its own and
 * keeps nothing.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "event.h"
#include "evtstore.h"
#include "read.h"
#include "subscription.h"
#include "subscription_poll.h"
#include "subscription_settle.h"

#define DELIVERY_NATTS 15

typedef struct Call
{
	int32		id;
	ReturnSetInfo *result;
} Call;

static const EsSubscription *get_subscription(const char *name);
static bool put_delivery(EsReader *reader, const EsPolled *event, void *arg);
static Datum without_toast(Datum value, bool isnull);

PG_FUNCTION_INFO_V1(evtstore_poll);
PG_FUNCTION_INFO_V1(evtstore_leave);

/* poll(subscription text, consumer text, max_count int, lease interval) -> setof delivery; evtstore_writer */
Datum
evtstore_poll(PG_FUNCTION_ARGS)
{
	EsPollRequest request = {.put = put_delivery};
	Call		call;
	char	   *name;

	es_catalog_require_writable("poll");
	name = es_arg_name(fcinfo, 0, "subscription", ES_MAX_NAME_BYTES);
	request.consumer = es_arg_optional_name(fcinfo, 1, "consumer", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 2, "max_count");
	request.max_count = PG_GETARG_INT32(2);
	if (request.max_count < 1 || request.max_count > ES_MAX_POLL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count is out of range: %d", request.max_count),
				 errhint("It lies between 1 and %d.", ES_MAX_POLL)));
	request.lease_ms = es_arg_interval(fcinfo, 3, "lease") / 1000;
	if (request.lease_ms < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must be at least one millisecond"),
				 errhint("Give the time that the work may take, such as '30s'.")));

	InitMaterializedSRF(fcinfo, 0);
	call.id = get_subscription(name)->definition.id;
	call.result = (ReturnSetInfo *) fcinfo->resultinfo;
	request.arg = &call;
	(void) es_subscription_poll(call.id, &request);
	PG_RETURN_NULL();
}

/* leave(subscription text, consumer text) -> void; evtstore_writer.  At once, whatever becomes of the transaction */
Datum
evtstore_leave(PG_FUNCTION_ARGS)
{
	char	   *name;
	char	   *consumer;
	int32		id;

	es_catalog_require_writable("leave");
	name = es_arg_name(fcinfo, 0, "subscription", ES_MAX_NAME_BYTES);
	consumer = es_arg_name(fcinfo, 1, "consumer", ES_MAX_NAME_BYTES);
	id = get_subscription(name)->definition.id;
	if (es_subscription_lock(id, AccessShareLock) != NULL)
		(void) es_subscription_end_consumer(id, consumer);
	PG_RETURN_VOID();
}

/* one that the current user may consume */
static const EsSubscription *
get_subscription(const char *name)
{
	const EsSubscription *subscription = es_subscription_get_own(name);

	es_use_require(&subscription->use, ES_USE_CONSUME, "subscription", subscription->definition.name);
	if (subscription->endpoint != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the events of subscription \"%s\" are delivered to endpoint \"%s\"", name, subscription->endpoint),
				 errhint("To consume the same events create a subscription without an endpoint.")));
	return subscription;
}

static bool
put_delivery(EsReader *reader, const EsPolled *event, void *arg)
{
	/* the attributes of evtstore.event that the rest of evtstore.delivery is, from its fifth on; 0: not from the event */
	static const int source[DELIVERY_NATTS] = {0, 0, 0, 0, ES_EVENT_ROW_DATA, ES_EVENT_ROW_METADATA, ES_EVENT_ROW_RECORDED_AT,
		ES_EVENT_ROW_POSITION, ES_EVENT_ROW_STREAM, ES_EVENT_ROW_VERSION, ES_EVENT_ROW_ID, ES_EVENT_ROW_TYPE,
		ES_EVENT_ROW_SCHEMA_VERSION, ES_EVENT_ROW_TAGS, ES_EVENT_ROW_RECORDED_AT};
	Call	   *call = arg;
	TupleDesc	desc = call->result->setDesc;
	Datum		values[DELIVERY_NATTS];
	bool		nulls[DELIVERY_NATTS] = {0};

	values[0] = CStringGetTextDatum(es_subscription_receipt(call->id, event->lane, event->epoch, event->before, event->position));
	values[1] = Int32GetDatum(event->attempt);
	nulls[2] = event->key == NULL;
	values[2] = event->key == NULL ? (Datum) 0 : CStringGetTextDatum(event->key);
	nulls[3] = true;
	values[3] = (Datum) 0;
	for (int i = 4; i < DELIVERY_NATTS; i++)
	{
		values[i] = es_reader_value(reader, source[i], &nulls[i]);
		if (TupleDescAttr(desc, i)->attlen == -1)
			values[i] = without_toast(values[i], nulls[i]);
	}
	tuplestore_putvalues(call->result->setResult, desc, values, nulls);
	return true;
}

/* what is handed out may be put into another row, which must not point into our TOAST table */
static Datum
without_toast(Datum value, bool isnull)
{
	return isnull || !VARATT_IS_EXTERNAL(DatumGetPointer(value)) ? value : PointerGetDatum(PG_DETOAST_DATUM(value));
}
