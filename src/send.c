/*
 * send.c
 *		Putting messages into queues.
 *
 * Runs in backends: send and send_batch directly, es_queue_send from rules inside an append.
 *
 * Locks, held to the end of the transaction: the queue's (queue.c), and for a message with a key the key's, taken
 * before the message's id is allocated.  The next sender of that key gets it when this one is committed and visible, or
 * gone. So within a key the order of ids is the order of commits, and who sees a message of a key sees every older one
 * that is not settled: claim.c builds on this.  A key is one of a queue and a tenant.
 *
 * The lock table of the server is small, so a transaction that sends to very many keys takes one lock in place of
 * theirs: the queue's, in a mode that no other sender of keyed messages shares.
 *
 * Rows are transactional: a crash leaves what was committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "lock.h"
#include "options.h"
#include "queue.h"
#include "table.h"
#include "wakeup.h"

/* a transaction that locks more keys than this takes the queue's lock in their place */
#define MAX_KEY_LOCKS 256

/* how many key locks this transaction took; a rolled-back savepoint leaves it too high, which only takes fewer locks */
static int	key_locks = 0;

static void lock_for_sending(const EsQueue *queue, const char *tenant, const EsMessage *messages, int n);
static uint64 key_hash(int32 queue_id, const char *tenant, Datum key);
static int	unique_hashes(uint64 *hashes, int n);
static int	compare_hashes(const void *a, const void *b);
static void insert_message(EsTable *table, int32 queue_id, const char *tenant, const EsMessage *message, int64 id,
						   TimestampTz now);
static void check_headers(Jsonb *headers);
static int64 get_delay_ms(FunctionCallInfo fcinfo, int n);
static int	get_array(FunctionCallInfo fcinfo, int n, const char *arg, Oid type, int expected, Datum **values,
					  bool **nulls);
static void xact_callback(XactEvent event, void *arg);

PG_FUNCTION_INFO_V1(evtstore_send);
PG_FUNCTION_INFO_V1(evtstore_send_batch);

/* send(queue text, body jsonb, key text, headers jsonb, delay interval, priority int) -> bigint; evtstore_writer */
Datum
evtstore_send(PG_FUNCTION_ARGS)
{
	EsMessage	message = {0};
	char	   *name;
	char	   *key;
	int64		id;

	es_catalog_require_writable("send");
	name = es_arg_name(fcinfo, 0, "queue", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 1, "body");
	message.body = JsonbPGetDatum(PG_GETARG_JSONB_P(1));
	key = es_arg_optional_name(fcinfo, 2, "key", ES_MAX_KEY_BYTES);
	if (key != NULL)
		message.key = PG_GETARG_DATUM(2);
	es_arg_required(fcinfo, 3, "headers");
	message.headers = JsonbPGetDatum(PG_GETARG_JSONB_P(3));
	check_headers(DatumGetJsonbP(message.headers));
	message.delay_ms = get_delay_ms(fcinfo, 4);
	es_arg_required(fcinfo, 5, "priority");
	message.priority = PG_GETARG_INT32(5);

	es_queue_send(es_queue_get(name), &message, 1, &id);
	PG_RETURN_INT64(id);
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
	int			n;

	es_catalog_require_writable("send_batch");
	name = es_arg_name(fcinfo, 0, "queue", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 1, "bodies");
	n = get_array(fcinfo, 1, "bodies", JSONBOID, -1, &bodies, NULL);
	if (!PG_ARGISNULL(2))
		(void) get_array(fcinfo, 2, "keys", TEXTOID, n, &keys, &key_nulls);
	if (!PG_ARGISNULL(3))
		(void) get_array(fcinfo, 3, "headers", JSONBOID, n, &headers, NULL);
	delay_ms = get_delay_ms(fcinfo, 4);
	es_arg_required(fcinfo, 5, "priority");
	queue = es_queue_get(name);

	messages = palloc0(Max(n, 1) * sizeof(EsMessage));
	ids = palloc(Max(n, 1) * sizeof(int64));
	for (int i = 0; i < n; i++)
	{
		messages[i].body = bodies[i];
		messages[i].priority = PG_GETARG_INT32(5);
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
	es_queue_send(queue, messages, n, ids);
	PG_RETURN_DATUM(es_queue_id_array(ids, n));
}

void
es_queue_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}

void
es_queue_send(const EsQueue *queue, EsMessage *messages, int n, int64 *ids)
{
	const char *tenant = es_queue_tenant();
	int32		queue_id = queue->id;
	bool		pushed = queue->endpoint != NULL;
	TimestampTz now;
	EsTable    *table;
	Oid			sequence;

	if (n == 0)
		return;
	lock_for_sending(queue, tenant, messages, n);	/* the cache, and with it *queue, may be another after this */

	now = es_clock_now();
	sequence = es_catalog()->message_id_seq;
	table = es_table_open(ES_TABLE_MESSAGE, es_catalog()->message);
	es_table_begin(table);
	for (int i = 0; i < n; i++)
	{
		int64		id = nextval_internal(sequence, false);

		insert_message(table, queue_id, tenant, &messages[i], id, now);
		if (ids != NULL)
			ids[i] = id;
	}
	es_table_end(table);
	CommandCounterIncrement();
	if (pushed)
		es_wakeup_at_commit(n);
}

TimestampTz
es_queue_deadline(TimestampTz now, int64 ms, const char *arg)
{
	if (ms > (END_TIMESTAMP - 1 - now) / 1000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long: it would end after the last timestamp", arg),
				 errhint("Give a shorter interval.")));
	return now + ms * 1000;
}

Datum
es_queue_id_array(const int64 *ids, int n)
{
	ArrayBuildState *array = initArrayResult(INT8OID, CurrentMemoryContext, false);

	for (int i = 0; i < n; i++)
		array = accumArrayResult(array, Int64GetDatum(ids[i]), false, INT8OID, CurrentMemoryContext);
	return makeArrayResult(array, CurrentMemoryContext);
}

/*
 * Takes the locks that the header of this file describes; ST008 when the queue was dropped meanwhile.  Key locks are
 * taken in order of their hash, so that two batches cannot wait for each other.
 */
static void
lock_for_sending(const EsQueue *queue, const char *tenant, const EsMessage *messages, int n)
{
	int32		id = queue->id;
	char	   *name = pstrdup(queue->name);
	uint64	   *hashes = palloc(n * sizeof(uint64));
	int			nkeys = 0;
	LOCKMODE	mode;

	for (int i = 0; i < n; i++)
		if (messages[i].key != (Datum) 0)
			hashes[nkeys++] = key_hash(id, tenant, messages[i].key);
	nkeys = unique_hashes(hashes, nkeys);

	if (nkeys == 0)
		mode = AccessShareLock;
	else if (key_locks + nkeys <= MAX_KEY_LOCKS)
		mode = RowExclusiveLock;
	else
	{
		mode = ShareRowExclusiveLock;
		nkeys = 0;
	}
	if (es_queue_lock(id, mode) == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("queue \"%s\" does not exist", name),
				 errdetail("It was dropped a moment ago."),
				 errhint("Create it with evtstore.create_queue().")));
	for (int i = 0; i < nkeys; i++)
		if (es_lock_mode(ES_LOCK_KEY, hashes[i], ExclusiveLock))
			key_locks++;
	pfree(hashes);
	pfree(name);
}

/* two keys of one hash only wait for each other more than they need */
static uint64
key_hash(int32 queue_id, const char *tenant, Datum key)
{
	text	   *text_key = DatumGetTextPP(key);
	uint64		seed = hash_bytes_extended((const unsigned char *) tenant, strlen(tenant), queue_id);

	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(text_key), VARSIZE_ANY_EXHDR(text_key), seed);
}

static int
unique_hashes(uint64 *hashes, int n)
{
	int			kept = 0;

	if (n > 1)
		qsort(hashes, n, sizeof(uint64), compare_hashes);
	for (int i = 0; i < n; i++)
		if (i == 0 || hashes[i] != hashes[kept - 1])
			hashes[kept++] = hashes[i];
	return kept;
}

static int
compare_hashes(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* Locks: the queue's, and where there is a key, the key's */
static void
insert_message(EsTable *table, int32 queue_id, const char *tenant, const EsMessage *message, int64 id, TimestampTz now)
{
	Datum		values[ES_MESSAGE_COLUMNS];
	bool		nulls[ES_MESSAGE_COLUMNS];

#define SET(column, datum) (values[(column) - 1] = (datum), nulls[(column) - 1] = false)
	memset(nulls, true, sizeof(nulls));
	memset(values, 0, sizeof(values));
	SET(ES_MESSAGE_ID, Int64GetDatum(id));
	SET(ES_MESSAGE_ENQUEUED_AT, TimestampTzGetDatum(now));
	if (message->delay_ms > 0)
		SET(ES_MESSAGE_DELIVER_AT, TimestampTzGetDatum(es_queue_deadline(now, message->delay_ms, "delay")));
	SET(ES_MESSAGE_QUEUE_ID, Int32GetDatum(queue_id));
	SET(ES_MESSAGE_PRIORITY, Int32GetDatum(message->priority));
	SET(ES_MESSAGE_ATTEMPT, Int32GetDatum(0));
	SET(ES_MESSAGE_EPOCH, Int32GetDatum(0));
	SET(ES_MESSAGE_TENANT, CStringGetTextDatum(tenant));
	if (message->key != (Datum) 0)
		SET(ES_MESSAGE_KEY, message->key);
	SET(ES_MESSAGE_BODY, message->body);
	if (message->headers != (Datum) 0)
		SET(ES_MESSAGE_HEADERS, message->headers);
	else
		SET(ES_MESSAGE_HEADERS, DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	if (message->type != (Datum) 0)
	{
		SET(ES_MESSAGE_POSITION, Int64GetDatum(message->position));
		SET(ES_MESSAGE_OCCURRED_AT, TimestampTzGetDatum(message->occurred_at));
		SET(ES_MESSAGE_RECORDED_AT, TimestampTzGetDatum(message->recorded_at));
		SET(ES_MESSAGE_SCHEMA_VERSION, Int32GetDatum(message->schema_version));
		SET(ES_MESSAGE_EVENT_ID, UUIDPGetDatum(&message->event_id));
		SET(ES_MESSAGE_TYPE, message->type);
		SET(ES_MESSAGE_TAGS, message->tags);
	}
	if (message->stream != (Datum) 0)
	{
		SET(ES_MESSAGE_STREAM, message->stream);
		SET(ES_MESSAGE_VERSION, Int64GetDatum(message->version));
	}
#undef SET
	es_table_insert(table, values, nulls);
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

static int64
get_delay_ms(FunctionCallInfo fcinfo, int n)
{
	int64		usec = es_arg_interval(fcinfo, n, "delay");

	return usec / 1000 + (usec % 1000 != 0 ? 1 : 0);
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

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		key_locks = 0;
}
