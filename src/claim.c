/*
 * claim.c
 *		Handing out messages: who gets which, one at a time per key.
 *
 * Runs in consumers' backends (receive) and in delivery workers.  A claim walks the queue's index in order of priority
 * and id, takes what is ready and whose row nobody has locked, and writes lease, epoch and attempt into the rows.  Rows
 * are locked by that to the end of the transaction; a rollback or a crash gives everything back as it was.
 *
 * It reads the table itself rather than through SELECT ... FOR UPDATE SKIP LOCKED, for two reasons.  That statement,
 * when it meets a row that somebody has just changed and committed, locks the new version before it looks whether it
 * still qualifies, and keeps the lock when it does not: a consumer that works in a long transaction would hold locks on
 * messages that others hold, and their acks would wait for it.  And its plan would be made once, perhaps while the
 * table is empty, and kept.
 *
 * Why no two consumers hold messages of one key at once.  Let S be the snapshot of a claim.
 *
 *	1. A message M is taken only where S shows no older message (lower id) of its key that is not settled.
 *	2. That is final: none can appear later.  Senders of a key have its lock from before they allocate the id to after
 *	   their commit (send.c), so whoever allocated a lower id was committed and visible, or gone, before M's sender
 *	   allocated M's, and M is in S.  Messages keep their ids until they are deleted.
 *	3. A message is deleted when it is settled or dead-lettered.  Until that commits every other snapshot shows it, so
 *	   an uncommitted ack frees nothing for others, and a rolled-back one never did.
 *	4. So at any time all that can be in flight of a key is its oldest message: taking a second one needs a snapshot in
 *	   which the first one's deletion is committed, and from then on the first one's receipt is stale.
 *	5. Of that one row there is one holder.  The row is locked as the version that S shows or not at all (no following
 *	   to newer versions: TM_Updated means somebody was faster, and the row is left alone), and it is that version which
 *	   was found free.  Whoever comes later finds the lease, or after its end takes the row over, and raises the epoch,
 *	   which makes the first one's receipt stale: fencing is by epoch, the lease only says when a take-over is allowed.
 *
 * The transaction's own uncommitted acks free the key for itself only, which is 3 and 4 seen from inside.  Priority
 * decides between keys, never within one, because 1 knows nothing of it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "evtstore.h"
#include "queue.h"
#include "table.h"
#include "wakeup.h"

#define MAX_RECEIVE 1000

/* how many messages of a queue are looked at for the end of their lease; beyond, the fallback poll finds it */
#define LEASES_LOOKED_AT 256

/* the message table, open for reading through its indexes */
typedef struct Source
{
	Relation	rel;
	TupleDesc	desc;
	Relation	queue_index;	/* queue_id, priority DESC, id */
	Relation	key_index;		/* queue_id, tenant, key, id; where there is a key */
	Relation	due_index;		/* queue_id, deliver_at; where there is one */
} Source;

/* one pass over a queue */
typedef struct Pass
{
	Source		source;
	Snapshot	snapshot;
	int32		queue_id;
	const char *tenant;			/* '': every tenant's */
	TimestampTz now;
	HTAB	   *heads;			/* KeyHead, made when the first key is met */
	TupleTableSlot *slot;		/* for locking */
} Pass;

/* tenant and key, '\0' between */
typedef struct KeyName
{
	const char *data;
	int			len;
} KeyName;

typedef struct KeyHead
{
	KeyName		name;			/* must be first */
	int64		id;				/* its oldest message */
} KeyHead;

static EsPlan take_plan = {
	.sql = "UPDATE evtstore_internal.message"
	" SET attempt = attempt + 1, epoch = epoch + 1, lease_until = $2, consumer = $3,"
	" first_error = CASE WHEN lease_until IS NULL THEN first_error ELSE COALESCE(first_error, 'lease expired') END,"
	" history = CASE WHEN lease_until IS NULL THEN history ELSE " ES_QUEUE_HISTORY("$4", "'lease expired'") " END"
	" WHERE id = ANY ($1)",
	.nargs = 4,
	.args = {INT8ARRAYOID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID},
};

static List *claim_pass(const EsQueue *queue, int want, TimestampTz now, TimestampTz lease_until, const char *consumer,
						int *buried);
static void open_source(Source *source);
static Relation find_index(EsTable *table, Relation rel, const char *name);
static List *pick(const Source *source, int32 queue_id, TimestampTz now, int want);
static bool is_ready(Pass *pass, HeapTuple tuple);
static bool is_oldest_of_key(Pass *pass, HeapTuple tuple);
static int64 find_oldest(Pass *pass, Datum tenant, Datum key);
static void make_heads(Pass *pass);
static uint32 hash_name(const void *key, Size keysize);
static int	match_name(const void *a, const void *b, Size keysize);
static bool lock_row(Pass *pass, HeapTuple tuple);
static Datum get_column(Source *source, HeapTuple tuple, int column, bool *isnull);
static bool is_spent(Source *source, HeapTuple tuple, const EsRetry *retry);
static void take(List *deliveries, TimestampTz now, TimestampTz lease_until, const char *consumer);
static EsDelivery *make_delivery(HeapTuple tuple, TupleDesc desc);
static TimestampTz next_delay_end(Source *source, Snapshot snapshot, int32 queue_id, TimestampTz now);
static TimestampTz next_lease_end(Source *source, Snapshot snapshot, int32 queue_id, TimestampTz now);

PG_FUNCTION_INFO_V1(evtstore_receive);

/* receive(queue text, consumer text, max_count int, lease interval) -> setof delivery; evtstore_writer */
Datum
evtstore_receive(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *name;
	char	   *consumer;
	int			max_count;
	int64		lease_ms;
	ListCell   *lc;

	es_catalog_require_writable("receive");
	name = es_arg_name(fcinfo, 0, "queue", ES_MAX_NAME_BYTES);
	consumer = es_arg_optional_name(fcinfo, 1, "consumer", ES_MAX_NAME_BYTES);
	if (consumer != NULL && strncmp(consumer, ES_QUEUE_WORKER_PREFIX, strlen(ES_QUEUE_WORKER_PREFIX)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("consumer \"%s\" begins with \"%s\"", consumer, ES_QUEUE_WORKER_PREFIX),
				 errhint("Such names belong to background workers; choose another one.")));
	es_arg_required(fcinfo, 2, "max_count");
	max_count = PG_GETARG_INT32(2);
	if (max_count < 1 || max_count > MAX_RECEIVE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count is out of range: %d", max_count),
				 errhint("It lies between 1 and %d.", MAX_RECEIVE)));
	lease_ms = es_arg_interval(fcinfo, 3, "lease") / 1000;
	if (lease_ms < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must be at least one millisecond"),
				 errhint("Give the time that the work may take, such as '30s'.")));

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, es_queue_claim(es_queue_get(name), consumer, max_count, lease_ms))
	{
		HeapTupleHeader row = DatumGetHeapTupleHeader(es_queue_delivery_datum(lfirst(lc)));
		HeapTupleData tuple;

		tuple.t_len = HeapTupleHeaderGetDatumLength(row);
		ItemPointerSetInvalid(&tuple.t_self);
		tuple.t_tableOid = InvalidOid;
		tuple.t_data = row;
		tuplestore_puttuple(rsi->setResult, &tuple);
	}
	PG_RETURN_NULL();
}

/*
 * Passes over the queue until enough is taken or nothing more is ready.  A second pass is made only where the first one
 * buried messages, which took places of max_count and may have freed keys.
 *
 * What was taken goes out of the database (to a consumer, to an endpoint) when this transaction commits: a commit that
 * could be lost in a crash would hand out the same epoch again, and an old receipt would settle a new delivery.
 */
List *
es_queue_claim(const EsQueue *queue, const char *consumer, int max_count, int64 lease_ms)
{
	EsQueue		own;
	List	   *deliveries = NIL;
	TimestampTz now;
	TimestampTz lease_until;
	int			buried;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("messages cannot be received in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errdetail("Its snapshot does not show what others received and settled since it began."),
				 errhint("Use READ COMMITTED, the default isolation level.")));
	queue = es_queue_lock(queue->id, AccessShareLock);
	/* dropped a moment ago, with its messages */
	if (queue == NULL || queue->is_paused)
		return NIL;
	own = *queue;				/* the cache may be rebuilt below; of what it points to, only is-there is asked */

	now = es_clock_now();
	lease_until = es_queue_deadline(now, lease_ms, "lease");
	do
	{
		buried = 0;
		deliveries = list_concat(deliveries, claim_pass(&own, max_count - list_length(deliveries), now, lease_until,
														consumer, &buried));
		if (buried > 0 && own.endpoint != NULL)
			es_wakeup_at_commit(buried);
	} while (buried > 0 && list_length(deliveries) < max_count);

	if (deliveries != NIL)
		ForceSyncCommit();
	return deliveries;
}

Datum
es_queue_delivery_datum(const EsDelivery *delivery)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(es_catalog()->delivery_type, -1);
	Datum		values[15];
	bool		nulls[15] = {0};
	HeapTuple	tuple;
	int			i = 0;

	Assert(desc->natts == lengthof(values));
	values[i++] = CStringGetTextDatum(delivery->receipt);
	values[i++] = Int32GetDatum(delivery->attempt);
	nulls[i] = delivery->key == NULL;
	values[i++] = delivery->key != NULL ? CStringGetTextDatum(delivery->key) : (Datum) 0;
	values[i++] = Int64GetDatum(delivery->message_id);
	values[i++] = JsonbPGetDatum(delivery->body);
	values[i++] = JsonbPGetDatum(delivery->headers);
	values[i++] = TimestampTzGetDatum(delivery->enqueued_at);
	if (delivery->has_event)
	{
		values[i++] = Int64GetDatum(delivery->position);
		nulls[i] = nulls[i + 1] = delivery->stream == NULL;
		values[i++] = delivery->stream != NULL ? CStringGetTextDatum(delivery->stream) : (Datum) 0;
		values[i++] = Int64GetDatum(delivery->version);
		values[i++] = UUIDPGetDatum(&delivery->event_id);
		values[i++] = CStringGetTextDatum(delivery->type);
		values[i++] = Int32GetDatum(delivery->schema_version);
		nulls[i] = delivery->tags == (Datum) 0;
		values[i++] = delivery->tags;
		values[i++] = TimestampTzGetDatum(delivery->recorded_at);
	}
	else
		for (; i < lengthof(values); i++)
			nulls[i] = true;
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

/*
 * Delays and backoff are found through their index.  The end of leases has none, because an index on a column that each
 * claim writes would cost every claim its HOT update: messages in flight are at the front of the queue's order, so a
 * bounded look there finds them, but for those behind many that are delayed.
 */
TimestampTz
es_queue_next_due(void)
{
	TimestampTz now = es_clock_now();
	TimestampTz next = 0;
	Source		source;
	Snapshot	snapshot;
	ListCell   *lc;
	List	   *queues = es_queue_list_pushed();

	if (queues == NIL)
		return 0;
	open_source(&source);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	foreach(lc, queues)
	{
		EsQueue    *queue = lfirst(lc);
		TimestampTz delay_end = next_delay_end(&source, snapshot, queue->id, now);
		TimestampTz lease_end = next_lease_end(&source, snapshot, queue->id, now);

		if (delay_end != 0 && (next == 0 || delay_end < next))
			next = delay_end;
		if (lease_end != 0 && (next == 0 || lease_end < next))
			next = lease_end;
	}
	UnregisterSnapshot(snapshot);
	return next;
}

/* takes up to want messages; those whose lease ran out in their last attempt go to the dead letters instead */
static List *
claim_pass(const EsQueue *queue, int want, TimestampTz now, TimestampTz lease_until, const char *consumer, int *buried)
{
	int64	   *spent = palloc(want * sizeof(int64));
	int			nspent = 0;
	List	   *deliveries = NIL;
	EsSpiState	state;
	Source		source;
	List	   *picked;
	ListCell   *lc;

	/* active until the bodies are fetched: they may be toasted */
	PushActiveSnapshot(GetTransactionSnapshot());
	open_source(&source);
	picked = pick(&source, queue->id, now, want);
	foreach(lc, picked)
	{
		bool		isnull;

		if (is_spent(&source, lfirst(lc), &queue->retry))
			spent[nspent++] = DatumGetInt64(get_column(&source, lfirst(lc), ES_MESSAGE_ID, &isnull));
		else
			deliveries = lappend(deliveries, make_delivery(lfirst(lc), source.desc));
	}
	PopActiveSnapshot();

	if (picked != NIL)
	{
		es_queue_spi_begin(&state);
		for (int i = 0; i < nspent; i++)
			es_queue_dead_letter(spent[i], "lease expired", "lease expired", now);
		if (deliveries != NIL)
			take(deliveries, now, lease_until, consumer);
		es_spi_end(&state);
	}
	*buried = nspent;
	list_free_deep(picked);
	pfree(spent);
	return deliveries;
}

static void
open_source(Source *source)
{
	EsTable    *table = es_table_open(ES_TABLE_MESSAGE, es_catalog()->message);

	source->rel = es_table_relation(table);
	source->desc = RelationGetDescr(source->rel);
	source->queue_index = find_index(table, source->rel, "message_queue_idx");
	source->key_index = find_index(table, source->rel, "message_key_idx");
	source->due_index = find_index(table, source->rel, "message_due_idx");
}

static Relation
find_index(EsTable *table, Relation rel, const char *name)
{
	return es_table_index(table, get_relname_relid(name, RelationGetNamespace(rel)));
}

/* up to want messages that are ready in the active snapshot, locked; list of HeapTuple in the current context */
static List *
pick(const Source *source, int32 queue_id, TimestampTz now, int want)
{
	MemoryContext result_context = CurrentMemoryContext;
	MemoryContext pass_context = AllocSetContextCreate(result_context, "evtstore claim", ALLOCSET_DEFAULT_SIZES);
	Pass		pass = {.source = *source, .queue_id = queue_id, .tenant = es_queue_tenant(), .now = now};
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *picked = NIL;

	MemoryContextSwitchTo(pass_context);
	pass.snapshot = GetActiveSnapshot();
	pass.slot = table_slot_create(pass.source.rel, NULL);

	ScanKeyInit(&key, ES_MESSAGE_QUEUE_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	scan = systable_beginscan_ordered(pass.source.rel, pass.source.queue_index, pass.snapshot, 1, &key);
	while (list_length(picked) < want && HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		CHECK_FOR_INTERRUPTS();
		if (!is_ready(&pass, tuple) || !is_oldest_of_key(&pass, tuple) || !lock_row(&pass, tuple))
			continue;
		MemoryContextSwitchTo(result_context);
		picked = lappend(picked, heap_copytuple(tuple));
		MemoryContextSwitchTo(pass_context);
	}
	systable_endscan_ordered(scan);

	ExecDropSingleTupleTableSlot(pass.slot);
	MemoryContextSwitchTo(result_context);
	MemoryContextDelete(pass_context);
	return picked;
}

static bool
is_ready(Pass *pass, HeapTuple tuple)
{
	bool		isnull;
	Datum		value;

	value = get_column(&pass->source, tuple, ES_MESSAGE_DELIVER_AT, &isnull);
	if (!isnull && DatumGetTimestampTz(value) > pass->now)
		return false;
	value = get_column(&pass->source, tuple, ES_MESSAGE_LEASE_UNTIL, &isnull);
	if (!isnull && DatumGetTimestampTz(value) > pass->now)
		return false;
	if (pass->tenant[0] != '\0')
	{
		text	   *tenant = DatumGetTextPP(get_column(&pass->source, tuple, ES_MESSAGE_TENANT, &isnull));

		return VARSIZE_ANY_EXHDR(tenant) == strlen(pass->tenant) &&
			memcmp(VARDATA_ANY(tenant), pass->tenant, VARSIZE_ANY_EXHDR(tenant)) == 0;
	}
	return true;
}

/* the oldest message of each key is looked up once per pass: a long tail of one key costs one look-up, not one each */
static bool
is_oldest_of_key(Pass *pass, HeapTuple tuple)
{
	bool		isnull;
	Datum		key = get_column(&pass->source, tuple, ES_MESSAGE_KEY, &isnull);
	Datum		tenant;
	text	   *key_text;
	text	   *tenant_text;
	KeyName		name;
	char	   *data;
	KeyHead    *head;
	bool		found;

	if (isnull)
		return true;
	tenant = get_column(&pass->source, tuple, ES_MESSAGE_TENANT, &isnull);
	key_text = DatumGetTextPP(key);
	tenant_text = DatumGetTextPP(tenant);
	name.len = VARSIZE_ANY_EXHDR(tenant_text) + 1 + VARSIZE_ANY_EXHDR(key_text);
	name.data = data = palloc(name.len);
	memcpy(data, VARDATA_ANY(tenant_text), VARSIZE_ANY_EXHDR(tenant_text));
	data[VARSIZE_ANY_EXHDR(tenant_text)] = '\0';
	memcpy(data + VARSIZE_ANY_EXHDR(tenant_text) + 1, VARDATA_ANY(key_text), VARSIZE_ANY_EXHDR(key_text));

	if (pass->heads == NULL)
		make_heads(pass);
	head = hash_search(pass->heads, &name, HASH_ENTER, &found);
	if (found)
		pfree(data);			/* else the entry keeps it */
	else
		head->id = find_oldest(pass, tenant, key);
	return head->id == DatumGetInt64(get_column(&pass->source, tuple, ES_MESSAGE_ID, &isnull));
}

/* in the pass's snapshot, which shows at least the message that is asked for */
static int64
find_oldest(Pass *pass, Datum tenant, Datum key)
{
	Source	   *source = &pass->source;
	ScanKeyData keys[3];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	int64		id;

	ScanKeyInit(&keys[0], ES_MESSAGE_QUEUE_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(pass->queue_id));
	ScanKeyEntryInitialize(&keys[1], 0, ES_MESSAGE_TENANT, BTEqualStrategyNumber, InvalidOid,
						   source->key_index->rd_indcollation[1], F_TEXTEQ, tenant);
	ScanKeyEntryInitialize(&keys[2], 0, ES_MESSAGE_KEY, BTEqualStrategyNumber, InvalidOid,
						   source->key_index->rd_indcollation[2], F_TEXTEQ, key);
	scan = systable_beginscan_ordered(source->rel, source->key_index, pass->snapshot, 3, keys);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "index \"%s\" lacks a message", RelationGetRelationName(source->key_index));
	id = DatumGetInt64(get_column(source, tuple, ES_MESSAGE_ID, &isnull));
	systable_endscan_ordered(scan);
	return id;
}

static void
make_heads(Pass *pass)
{
	HASHCTL		info = {
		.keysize = sizeof(KeyName),
		.entrysize = sizeof(KeyHead),
		.hash = hash_name,
		.match = match_name,
		.hcxt = CurrentMemoryContext,
	};

	pass->heads = hash_create("evtstore keys of a claim", 64, &info,
							  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

static uint32
hash_name(const void *key, Size keysize)
{
	const KeyName *name = key;

	return hash_bytes((const unsigned char *) name->data, name->len);
}

static int
match_name(const void *a, const void *b, Size keysize)
{
	const KeyName *x = a;
	const KeyName *y = b;

	return x->len != y->len || memcmp(x->data, y->data, x->len) != 0;
}

/* the version that the snapshot shows, or nothing: see 5 in the header of this file */
static bool
lock_row(Pass *pass, HeapTuple tuple)
{
	ItemPointerData tid = tuple->t_self;
	TM_FailureData failure;
	TM_Result	result;

	result = table_tuple_lock(pass->source.rel, &tid, pass->snapshot, pass->slot, GetCurrentCommandId(true),
							  LockTupleExclusive, LockWaitSkip, 0, &failure);
	ExecClearTuple(pass->slot);
	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_WouldBlock:		/* somebody claims or settles it right now */
		case TM_Updated:		/* or did so since the snapshot */
		case TM_Deleted:
			return false;
		default:
			elog(ERROR, "unexpected result %d of locking a message", result);
	}
}

static Datum
get_column(Source *source, HeapTuple tuple, int column, bool *isnull)
{
	return heap_getattr(tuple, column, source->desc, isnull);
}

/* a message that was given back by nack, or released, is not: it has no lease */
static bool
is_spent(Source *source, HeapTuple tuple, const EsRetry *retry)
{
	bool		isnull;

	(void) get_column(source, tuple, ES_MESSAGE_LEASE_UNTIL, &isnull);
	if (isnull || retry->max_attempts == 0)
		return false;
	return DatumGetInt32(get_column(source, tuple, ES_MESSAGE_ATTEMPT, &isnull)) >= retry->max_attempts;
}

/* Locks: the rows.  Inside es_queue_spi_begin */
static void
take(List *deliveries, TimestampTz now, TimestampTz lease_until, const char *consumer)
{
	int64	   *ids = palloc(list_length(deliveries) * sizeof(int64));
	Datum		values[4];
	char		nulls[5] = "    ";
	int			n = 0;
	ListCell   *lc;

	foreach(lc, deliveries)
		ids[n++] = ((EsDelivery *) lfirst(lc))->message_id;
	values[0] = es_queue_id_array(ids, n);
	values[1] = TimestampTzGetDatum(lease_until);
	values[2] = consumer != NULL ? CStringGetTextDatum(consumer) : (Datum) 0;
	nulls[2] = consumer != NULL ? ' ' : 'n';
	values[3] = TimestampTzGetDatum(now);
	if (es_spi_run(&take_plan, values, nulls, false, 0) != n)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("a trigger on table \"%s.message\" suppressed a claim", ES_SCHEMA_INTERNAL),
				 errhint("Let the trigger return NEW.")));
}

/* what take writes is counted here: the tuple is the row before it */
static EsDelivery *
make_delivery(HeapTuple tuple, TupleDesc desc)
{
	EsDelivery *delivery = palloc0(sizeof(EsDelivery));
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));

#define VALUE(column) values[(column) - 1]
#define IS_NULL(column) nulls[(column) - 1]
	heap_deform_tuple(tuple, desc, values, nulls);
	delivery->message_id = DatumGetInt64(VALUE(ES_MESSAGE_ID));
	delivery->attempt = DatumGetInt32(VALUE(ES_MESSAGE_ATTEMPT)) + 1;
	delivery->receipt = es_queue_receipt(DatumGetInt32(VALUE(ES_MESSAGE_QUEUE_ID)), delivery->message_id,
										 DatumGetInt32(VALUE(ES_MESSAGE_EPOCH)) + 1);
	if (!IS_NULL(ES_MESSAGE_KEY))
		delivery->key = TextDatumGetCString(VALUE(ES_MESSAGE_KEY));
	delivery->body = DatumGetJsonbPCopy(VALUE(ES_MESSAGE_BODY));
	delivery->headers = DatumGetJsonbPCopy(VALUE(ES_MESSAGE_HEADERS));
	delivery->enqueued_at = DatumGetTimestampTz(VALUE(ES_MESSAGE_ENQUEUED_AT));
	delivery->has_event = !IS_NULL(ES_MESSAGE_EVENT_ID);
	if (delivery->has_event)
	{
		delivery->position = DatumGetInt64(VALUE(ES_MESSAGE_POSITION));
		delivery->schema_version = DatumGetInt32(VALUE(ES_MESSAGE_SCHEMA_VERSION));
		if (!IS_NULL(ES_MESSAGE_STREAM))
		{
			delivery->stream = TextDatumGetCString(VALUE(ES_MESSAGE_STREAM));
			delivery->version = DatumGetInt64(VALUE(ES_MESSAGE_VERSION));
		}
		delivery->type = TextDatumGetCString(VALUE(ES_MESSAGE_TYPE));
		delivery->event_id = *DatumGetUUIDP(VALUE(ES_MESSAGE_EVENT_ID));
		if (!IS_NULL(ES_MESSAGE_TAGS))
			delivery->tags = PointerGetDatum(PG_DETOAST_DATUM_COPY(VALUE(ES_MESSAGE_TAGS)));
		delivery->occurred_at = DatumGetTimestampTz(VALUE(ES_MESSAGE_OCCURRED_AT));
		delivery->recorded_at = DatumGetTimestampTz(VALUE(ES_MESSAGE_RECORDED_AT));
	}
#undef VALUE
#undef IS_NULL
	pfree(values);
	pfree(nulls);
	return delivery;
}

/* 0: none */
static TimestampTz
next_delay_end(Source *source, Snapshot snapshot, int32 queue_id, TimestampTz now)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	TimestampTz result = 0;

	ScanKeyInit(&keys[0], ES_MESSAGE_QUEUE_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	ScanKeyInit(&keys[1], ES_MESSAGE_DELIVER_AT, BTGreaterStrategyNumber, F_TIMESTAMPTZ_GT, TimestampTzGetDatum(now));
	scan = systable_beginscan_ordered(source->rel, source->due_index, snapshot, 2, keys);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (HeapTupleIsValid(tuple))
		result = DatumGetTimestampTz(get_column(source, tuple, ES_MESSAGE_DELIVER_AT, &isnull));
	systable_endscan_ordered(scan);
	return result;
}

/* 0: none among the first LEASES_LOOKED_AT messages */
static TimestampTz
next_lease_end(Source *source, Snapshot snapshot, int32 queue_id, TimestampTz now)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	TimestampTz result = 0;

	ScanKeyInit(&key, ES_MESSAGE_QUEUE_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	scan = systable_beginscan_ordered(source->rel, source->queue_index, snapshot, 1, &key);
	for (int i = 0; i < LEASES_LOOKED_AT; i++)
	{
		bool		isnull;
		TimestampTz lease_until;

		tuple = systable_getnext_ordered(scan, ForwardScanDirection);
		if (!HeapTupleIsValid(tuple))
			break;
		lease_until = DatumGetTimestampTz(get_column(source, tuple, ES_MESSAGE_LEASE_UNTIL, &isnull));
		if (!isnull && lease_until > now && (result == 0 || lease_until < result))
			result = lease_until;
	}
	systable_endscan_ordered(scan);
	return result;
}
