/*
 * send.c
 *		Sending messages, for SQL: send, send_batch, send_messages.
 *
 * Runs in backends.  Checks what it is given; enqueue.c does it.  Holds no lock and keeps nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "arg.h"
#include "catalog.h"
#include "cause.h"
#include "clock.h"
#include "compat.h"
#include "evtstore.h"
#include "options.h"
#include "queue.h"

#define MIN_PRIORITY (-PG_INT32_MAX)
/* a hundred years */
#define MAX_SECONDS (100.0 * 365 * 24 * 3600)

static const EsQueue *get_queue(const char *name);
static EsMessage *parse_messages(Jsonb *array, int *n);
static void parse_message(Jsonb *element, EsMessage *message, const char *what);
static Datum optional_text(Jsonb *element, const char *key, int max_bytes);
static void refuse_two_times(void);
static TimestampTz moment(TimestampTz at, const char *shown);
static void check_headers(Jsonb *headers);
static int32 get_priority(FunctionCallInfo fcinfo, int n);
static int64 get_delay_ms(FunctionCallInfo fcinfo, int n);
static void get_deliver_at(FunctionCallInfo fcinfo, int n, EsMessage *message);
static int64 get_expires_ms(FunctionCallInfo fcinfo, int n);
static int	get_array(FunctionCallInfo fcinfo, int n, const char *arg, Oid type, int expected, Datum **values,
					  bool **nulls);

PG_FUNCTION_INFO_V1(evtstore_send);
PG_FUNCTION_INFO_V1(evtstore_send_batch);
PG_FUNCTION_INFO_V1(evtstore_send_messages);

/*
 * send(queue text, body jsonb, key text, headers jsonb, delay interval, priority int, dedup_id text, deliver_at timestamptz,
 * expires_in interval) -> bigint; evtstore_writer
 */
Datum
evtstore_send(PG_FUNCTION_ARGS)
{
	EsMessage	message = {0};
	char	   *name;

	es_catalog_require_writable_or_replay("send");
	name = es_arg_name(fcinfo, 0, "queue", ES_MAX_NAME_BYTES);
	es_queue_refuse_reserved(name);
	es_arg_required(fcinfo, 1, "body");
	message.body = JsonbPGetDatum(PG_GETARG_JSONB_P(1));
	if (es_arg_optional_name(fcinfo, 2, "key", ES_MAX_KEY_BYTES) != NULL)
		message.key = PG_GETARG_DATUM(2);
	es_arg_required(fcinfo, 3, "headers");
	message.headers = JsonbPGetDatum(PG_GETARG_JSONB_P(3));
	check_headers(DatumGetJsonbP(message.headers));
	message.delay_ms = get_delay_ms(fcinfo, 4);
	message.priority = get_priority(fcinfo, 5);
	if (es_arg_optional_name(fcinfo, 6, "dedup_id", ES_MAX_KEY_BYTES) != NULL)
		message.dedup_id = PG_GETARG_DATUM(6);
	get_deliver_at(fcinfo, 7, &message);
	message.expires_ms = get_expires_ms(fcinfo, 8);

	if (es_cause_is_replay())
		PG_RETURN_NULL();
	es_queue_send(get_queue(name), &message, 1);
	PG_RETURN_INT64(message.id);
}

/*
 * send_batch(queue text, bodies jsonb[], keys text[], headers jsonb[], delay interval, priority int) -> bigint[];
 * evtstore_writer
 */
Datum
evtstore_send_batch(PG_FUNCTION_ARGS)
{
	char	   *name;
	const EsQueue *queue;
	EsMessage  *messages;
	Datum	   *bodies;
	Datum	   *keys = NULL;
	Datum	   *headers = NULL;
	bool	   *key_nulls = NULL;
	int64	   *ids;
	int64		delay_ms;
	int32		priority;
	int			n;

	es_catalog_require_writable_or_replay("send_batch");
	name = es_arg_name(fcinfo, 0, "queue", ES_MAX_NAME_BYTES);
	es_queue_refuse_reserved(name);
	es_arg_required(fcinfo, 1, "bodies");
	n = get_array(fcinfo, 1, "bodies", JSONBOID, -1, &bodies, NULL);
	if (!PG_ARGISNULL(2))
		(void) get_array(fcinfo, 2, "keys", TEXTOID, n, &keys, &key_nulls);
	if (!PG_ARGISNULL(3))
		(void) get_array(fcinfo, 3, "headers", JSONBOID, n, &headers, NULL);
	delay_ms = get_delay_ms(fcinfo, 4);
	priority = get_priority(fcinfo, 5);
	queue = get_queue(name);

	messages = MemoryContextAllocExtended(CurrentMemoryContext, Max(n, 1) * sizeof(EsMessage), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	ids = palloc(Max(n, 1) * sizeof(int64));
	for (int i = 0; i < n; i++)
	{
		messages[i].body = bodies[i];
		messages[i].priority = priority;
		messages[i].delay_ms = delay_ms;
		if (keys != NULL && !key_nulls[i])
		{
			es_arg_check_name(TextDatumGetCString(keys[i]), "key", ES_MAX_KEY_BYTES);
			messages[i].key = keys[i];
		}
		if (headers != NULL)
		{
			check_headers(DatumGetJsonbP(headers[i]));
			messages[i].headers = headers[i];
		}
	}
	if (es_cause_is_replay())
		PG_RETURN_NULL();
	es_queue_send(queue, messages, n);
	for (int i = 0; i < n; i++)
		ids[i] = messages[i].id;
	PG_RETURN_DATUM(es_queue_id_array(ids, n));
}

/* send_messages(queue text, messages jsonb) -> table(message_id bigint, duplicate boolean), in their order; evtstore_writer */
Datum
evtstore_send_messages(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *name;
	EsMessage  *messages;
	int			n;

	es_catalog_require_writable_or_replay("send_messages");
	name = es_arg_name(fcinfo, 0, "queue", ES_MAX_NAME_BYTES);
	es_queue_refuse_reserved(name);
	es_arg_required(fcinfo, 1, "messages");
	messages = parse_messages(PG_GETARG_JSONB_P(1), &n);
	InitMaterializedSRF(fcinfo, 0);
	if (es_cause_is_replay())
		PG_RETURN_NULL();
	es_queue_send(get_queue(name), messages, n);

	for (int i = 0; i < n; i++)
	{
		Datum		values[2] = {Int64GetDatum(messages[i].id), BoolGetDatum(messages[i].is_duplicate)};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	}
	PG_RETURN_NULL();
}

/* one that the current user may send to */
static const EsQueue *
get_queue(const char *name)
{
	const EsQueue *queue = es_queue_get(name);

	es_use_require(&queue->use, ES_USE_SEND, "queue", queue->name);
	return queue;
}

static EsMessage *
parse_messages(Jsonb *array, int *n)
{
	Jsonb	  **elements = es_options_elements(array, "messages", "Give them as [{\"body\": …}, …].", n);
	EsMessage  *messages;

	messages = MemoryContextAllocExtended(CurrentMemoryContext, Max(*n, 1) * sizeof(EsMessage), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < *n; i++)
		parse_message(elements[i], &messages[i], psprintf("messages[%d]", i + 1));
	return messages;
}

static void
parse_message(Jsonb *element, EsMessage *message, const char *what)
{
	static const EsOption allowed[] = {
		{"body", ES_OPTION_ANY},
		{"key", ES_OPTION_STRING},
		{"headers", ES_OPTION_OBJECT},
		{"delay", ES_OPTION_INTERVAL, 0, MAX_SECONDS},
		{"priority", ES_OPTION_INT, MIN_PRIORITY, PG_INT32_MAX},
		{"dedup_id", ES_OPTION_STRING},
		{"deliver_at", ES_OPTION_STRING},
		{"expires_in", ES_OPTION_INTERVAL, 0.001, MAX_SECONDS},
		{NULL}
	};

	es_options_check(element, allowed, what);
	if (!es_options_has(element, "body"))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s has no \"body\"", what),
				 errhint("Give a JSON value, null for nothing.")));
	message->body = JsonbPGetDatum(es_options_object(element, "body"));
	message->key = optional_text(element, "key", ES_MAX_KEY_BYTES);
	if (es_options_has(element, "headers"))
		message->headers = JsonbPGetDatum(es_options_object(element, "headers"));
	message->delay_ms = es_options_interval_ms(element, "delay", 0);
	message->priority = es_options_int(element, "priority", 0);
	message->dedup_id = optional_text(element, "dedup_id", ES_MAX_KEY_BYTES);
	message->expires_ms = es_options_interval_ms(element, "expires_in", 0);
	if (es_options_has(element, "deliver_at"))
	{
		if (message->delay_ms > 0)
			refuse_two_times();
		message->deliver_at = moment(es_options_moment(element, "deliver_at", 0), es_options_string(element, "deliver_at", NULL));
	}
}

static Datum
optional_text(Jsonb *element, const char *key, int max_bytes)
{
	char	   *value = es_options_string(element, key, NULL);

	if (value == NULL)
		return (Datum) 0;
	es_arg_check_name(value, key, max_bytes);
	return CStringGetTextDatum(value);
}

static void
refuse_two_times(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("delay and deliver_at exclude each other"),
			 errhint("Give one of them.")));
}

static TimestampTz
moment(TimestampTz at, const char *shown)
{
	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("deliver_at must be a moment, not %s", shown),
				 errhint("Leave it out to deliver at once.")));
	return at;
}

static void
check_headers(Jsonb *headers)
{
	if (!JB_ROOT_IS_OBJECT(headers))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object, not %s", es_options_text(headers)),
				 errhint("Give them as {\"name\": \"value\"}.")));
}

static int32
get_priority(FunctionCallInfo fcinfo, int n)
{
	es_arg_required(fcinfo, n, "priority");
	/* its negative is stored */
	if (PG_GETARG_INT32(n) < MIN_PRIORITY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("priority is out of range: %d", PG_GETARG_INT32(n)),
				 errhint("It is at least -2147483647.")));
	return PG_GETARG_INT32(n);
}

static int64
get_delay_ms(FunctionCallInfo fcinfo, int n)
{
	int64		usec = es_arg_interval(fcinfo, n, "delay");

	return usec / 1000 + (usec % 1000 != 0 ? 1 : 0);
}

static void
get_deliver_at(FunctionCallInfo fcinfo, int n, EsMessage *message)
{
	if (PG_ARGISNULL(n))
		return;
	if (message->delay_ms > 0)
		refuse_two_times();
	message->deliver_at = moment(PG_GETARG_TIMESTAMPTZ(n), TIMESTAMP_IS_NOBEGIN(PG_GETARG_TIMESTAMPTZ(n)) ? "-infinity" : "infinity");
}

/* 0: never */
static int64
get_expires_ms(FunctionCallInfo fcinfo, int n)
{
	int64		ms;

	if (PG_ARGISNULL(n))
		return 0;
	ms = es_arg_interval(fcinfo, n, "expires_in") / 1000;
	if (ms < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expires_in must be at least one millisecond"),
				 errhint("Leave it NULL for a message that never expires.")));
	return ms;
}

/*
 * The elements of a one-dimensional array argument.  expected < 0: any number of them; nulls NULL: none may be NULL.
 */
static int
get_array(FunctionCallInfo fcinfo, int n, const char *arg, Oid type, int expected, Datum **values, bool **nulls)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(n);
	bool	   *element_nulls;
	int			count;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be an array of one dimension, not %d", arg, ARR_NDIM(array))));
	deconstruct_array(array, type, -1, false, TYPALIGN_INT, values, &element_nulls, &count);
	if (expected >= 0 && count != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s and bodies differ in length: %d and %d", arg, count, expected),
				 errhint("Give one element of %s for each body, or NULL for all.", arg)));
	for (int i = 0; nulls == NULL && i < count; i++)
		if (element_nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s[%d] must not be NULL", arg, i + 1),
					 errhint("Give a JSON value.")));
	if (nulls != NULL)
		*nulls = element_nulls;
	return count;
}
