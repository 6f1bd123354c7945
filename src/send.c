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
 * Rows are transactional: a crash leaves what was committed.  At commit, while these locks are held, the callback tells who
 * receives (queue_state.c).
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
#include "async_commit.h"
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

/* so many messages of a transaction are told to who receives one by one; of more only where they begin */
#define MAX_SENT 4096

/* what this transaction sent, oldest first; in TopTransactionContext.  What a rolled-back savepoint sent is not found */
typedef struct Sent
{
	EsSlotKey	queue;
	EsReady		ready;			/* with an invalid tid: from there on */
} Sent;

static Sent *sent = NULL;
static int	nsent = 0;
static int	sent_size = 0;
static bool my_async = false;	/* counted as an asynchronous commit in flight */

/* how many key locks this transaction took; a rolled-back savepoint leaves it too high, which only takes fewer locks */
static int	key_locks = 0;

static void lock_for_sending(const EsQueue *queue, const char *tenant, const EsMessage *messages, int n);
static uint64 key_hash(int32 queue_id, const char *tenant, Datum key);
static int	unique_hashes(uint64 *hashes, int n);
static int	compare_hashes(const void *a, const void *b);
static void insert_message(EsTable *table, const EsSlotKey *queue, const char *tenant, Datum tenant_text, Datum no_headers,
						   const EsMessage *message, EsReady *ready, TimestampTz now);
static void note_sent(const EsSlotKey *queue, const EsReady *ready);
static void announce_sent(void);
static void check_headers(Jsonb *headers);
static int32 get_priority(FunctionCallInfo fcinfo, int n);
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
	message.priority = get_priority(fcinfo, 5);

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
	int32		priority;
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
	priority = get_priority(fcinfo, 5);
	queue = es_queue_get(name);

	messages = palloc0(Max(n, 1) * sizeof(EsMessage));
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
	uint64		tenant_hash = es_queue_tenant_hash(tenant, strlen(tenant));
	TimestampTz now;
	EsTable    *table;
	Oid			sequence;
	EsSlotKey	slot_key;
	Datum		tenant_text;
	Datum		no_headers;

	if (n == 0)
		return;
	lock_for_sending(queue, tenant, messages, n);	/* the cache, and with it *queue, may be another after this */

	now = es_clock_now();
	sequence = es_catalog()->message_id_seq;
	table = es_table_open(ES_TABLE_MESSAGE, es_catalog()->message);
	es_table_begin(table);
	slot_key = es_slot_key(queue_id);
	tenant_text = CStringGetTextDatum(tenant);
	no_headers = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	for (int i = 0; i < n; i++)
	{
		EsReady		ready = {.id = nextval_internal(sequence, false), .tenant_hash = tenant_hash, .share = (int64) tenant_hash};

		insert_message(table, &slot_key, tenant, tenant_text, no_headers, &messages[i], &ready, now);
		if (ids != NULL)
			ids[i] = ready.id;
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

/* messages of two keys of one hash only wait for each other more than they need; it is stored */
static uint64
key_hash(int32 queue_id, const char *tenant, Datum key)
{
	text	   *text_key = DatumGetTextPP(key);
	uint64		seed = hash_bytes_extended((const unsigned char *) tenant, strlen(tenant), queue_id);
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(text_key), VARSIZE_ANY_EXHDR(text_key), seed);

	return hash == 0 ? 1 : hash;	/* 0 is no key */
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
insert_message(EsTable *table, const EsSlotKey *queue, const char *tenant, Datum tenant_text, Datum no_headers,
			   const EsMessage *message, EsReady *ready, TimestampTz now)
{
	Datum		values[ES_MESSAGE_COLUMNS];
	bool		nulls[ES_MESSAGE_COLUMNS];

	ready->rank = -message->priority;
	if (message->delay_ms > 0)
		ready->deliver_at = es_queue_deadline(now, message->delay_ms, "delay");
	if (message->key != (Datum) 0)
		ready->key_hash = key_hash(queue->id, tenant, message->key);
#define SET(column, datum) (values[(column) - 1] = (datum), nulls[(column) - 1] = false)
	memset(nulls, true, sizeof(nulls));
	memset(values, 0, sizeof(values));
	SET(ES_MESSAGE_ID, Int64GetDatum(ready->id));
	SET(ES_MESSAGE_SHARE, Int64GetDatum(ready->share));
	SET(ES_MESSAGE_ENQUEUED_AT, TimestampTzGetDatum(now));
	if (ready->deliver_at != 0)
		SET(ES_MESSAGE_DELIVER_AT, TimestampTzGetDatum(ready->deliver_at));
	SET(ES_MESSAGE_QUEUE_ID, Int32GetDatum(queue->id));
	SET(ES_MESSAGE_RANK, Int32GetDatum(ready->rank));
	SET(ES_MESSAGE_ATTEMPT, Int32GetDatum(0));
	SET(ES_MESSAGE_TENANT, tenant_text);
	if (message->key != (Datum) 0)
	{
		SET(ES_MESSAGE_KEY, message->key);
		SET(ES_MESSAGE_KEY_HASH, Int64GetDatum((int64) ready->key_hash));
	}
	SET(ES_MESSAGE_BODY, message->body);
	if (message->headers != (Datum) 0)
		SET(ES_MESSAGE_HEADERS, message->headers);
	else
		SET(ES_MESSAGE_HEADERS, no_headers);
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
	ready->tid = es_table_inserted(table);
	note_sent(queue, ready);
}

/* for the commit, which tells who receives */
static void
note_sent(const EsSlotKey *queue, const EsReady *ready)
{
	Sent	   *last = NULL;

	for (int i = nsent - 1; i >= MAX_SENT && last == NULL; i--)
		if (sent[i].queue.id == queue->id && sent[i].ready.share == ready->share &&
			(sent[i].ready.deliver_at != 0) == (ready->deliver_at != 0))
			last = &sent[i];
	if (last != NULL)
	{
		last->ready.rank = Min(last->ready.rank, ready->rank);
		last->ready.deliver_at = Min(last->ready.deliver_at, ready->deliver_at);
		return;
	}
	if (nsent == sent_size)
	{
		int			size = Max(16, sent_size * 2);

		sent = sent == NULL ? MemoryContextAlloc(TopTransactionContext, size * sizeof(Sent)) : repalloc(sent, size * sizeof(Sent));
		sent_size = size;
	}
	last = &sent[nsent++];
	last->queue = *queue;
	last->ready = *ready;
	if (nsent > MAX_SENT)
		ItemPointerSetInvalid(&last->ready.tid);
}

int
es_queue_sent_here(int32 queue_id, EsReady **ready)
{
	int			n = 0;

	*ready = palloc(Max(nsent, 1) * sizeof(EsReady));
	for (int i = 0; i < Min(nsent, MAX_SENT); i++)
		if (sent[i].queue.id == queue_id)
			(*ready)[n++] = sent[i].ready;
	return n;
}

uint64
es_queue_tenant_hash(const char *tenant, int len)
{
	uint64		hash = len == 0 ? 0 : hash_bytes_extended((const unsigned char *) tenant, len, 0);

	return len > 0 && hash == 0 ? 1 : hash;
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
	if (PG_GETARG_INT32(n) == PG_INT32_MIN)
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
	EsAsyncCommits *commits = nsent > 0 ? es_queue_async_commits() : NULL;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (nsent > 0)
				es_async_before_commit(commits, &my_async);
			return;
		case XACT_EVENT_PRE_PREPARE:
			if (nsent > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that sent messages"),
						 errdetail("Who receives is told by the transaction that sent, when it commits."),
						 errhint("Commit it in one phase.")));
			return;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			if (nsent > 0)
			{
				es_async_after_end(commits, &my_async, event == XACT_EVENT_COMMIT);
				if (event == XACT_EVENT_COMMIT)
					announce_sent();
			}
			break;
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	key_locks = 0;
	sent = NULL;
	nsent = sent_size = 0;
}

/* the rows are visible to everybody by now, and the locks of their keys still held */
static void
announce_sent(void)
{
	EsQueueState *state = NULL;

	for (int i = 0; i < nsent; i++)
	{
		if (i == 0 || sent[i].queue.id != sent[i - 1].queue.id)
			state = es_queue_state_of(&sent[i].queue);
		if (state != NULL)
			es_queue_announce(state, &sent[i].ready);
	}
}
