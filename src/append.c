/*
 * append.c
 *		Appending to a stream: lock, look, check, allocate, insert, tell.
 *
 * Runs in the caller's backend and transaction.  The order matters:
 *
 *	1. invalidations are read and the event table is opened (RowExclusiveLock): a sync projection is created under a
 *	   conflicting lock, so from here on we know all of them;
 *	2. the stream is locked, to the end of the transaction;
 *	3. its version is read: no other transaction has one in flight, so it is the version, whatever our snapshot;
 *	4. expectation and idempotency are checked; every refusal happens before anything was allocated;
 *	5. positions are allocated (feed.c publishes the floor first): with the lock held, so that their order is causal;
 *	6. rows go in, then hooks run: rules, then sync projections.
 *
 * A crash at any line leaves nothing but a gap in the positions: rows become visible at commit.  Losing a race is an
 * error of class ST, whose log line is left out: it is the normal life of optimistic concurrency.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "append.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "error.h"
#include "event.h"
#include "feed.h"
#include "guc.h"
#include "table.h"

#define MAX_HOOKS 4

static EsAppendHook hooks[MAX_HOOKS];
static int	nhooks = 0;
static emit_log_hook_type prev_emit_log_hook = NULL;

/* an event of the batch that is in the store already */
typedef struct Known
{
	bool		found;
	int64		version;
	int64		position;
} Known;

static bool answer_duplicate(EsStream *stream, EsEvent *events, int n, int64 expected, int64 version,
							 EsAppendResult *result);
static Known find_known(EsStream *stream, EsEvent *event);
static bool same_content(EsStream *stream, EsEvent *event, TupleTableSlot *slot);
static void refuse_known_id(const EsEvent *event) es_noreturn;
static void refuse_repeated_ids(EsEvent *events, int n);
static void check_expectation(EsStream *stream, int64 expected, EsRequire require, int64 version);
static void refuse_version(EsStream *stream, int64 expected, const char *required, int64 version) es_noreturn;
static void make_answer_durable(void);
static void insert_events(EsTable *table, EsStream *stream, EsEvent *events, int n, int64 version);
static void insert_with_id(EsTable *table, const EsEvent *event, const Datum *values, const bool *nulls);
static void take_changes(EsEvent *event, TupleTableSlot *row);
static void quiet_conflicts(ErrorData *edata);

void
es_append_init(void)
{
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = quiet_conflicts;
}

void
es_append_register_hook(EsAppendHook hook)
{
	Assert(nhooks < MAX_HOOKS);
	hooks[nhooks++] = hook;
}

void
es_append(const char *tenant, const char *name, EsEvent *events, int n, int64 expected, EsRequire require,
		  EsAppendResult *result)
{
	EsTable    *table;
	EsStream   *stream;
	int64		version;

	es_catalog_require_writable("append");
	AcceptInvalidationMessages();
	table = es_table_open(ES_TABLE_EVENT, es_catalog()->event);
	stream = es_stream_lock(tenant, name);
	version = es_stream_current_version(stream);

	if (answer_duplicate(stream, events, n, expected, version, result))
	{
		make_answer_durable();
		return;
	}
	check_expectation(stream, expected, require, version);
	memset(result, 0, sizeof(*result));
	result->version = version;
	if (n == 0)
	{
		make_answer_durable();
		return;
	}

	if (stream->id == 0)
		es_stream_create(stream);
	insert_events(table, stream, events, n, version);

	result->first_version = version + 1;
	result->version = version + n;
	result->first_position = events[0].position;
	result->position = events[n - 1].position;
	for (int i = 0; i < nhooks; i++)
		hooks[i] (stream, events, n);
}

/*
 * True where the whole batch is in the store already, in this order and without others between, and at the version
 * that was expected: then the first call's answer is given again.  A batch of which only a part is known is a
 * conflict.  Only ids that callers gave can repeat.
 */
static bool
answer_duplicate(EsStream *stream, EsEvent *events, int n, int64 expected, int64 version, EsAppendResult *result)
{
	Known		first = {0};
	int			nknown = 0;
	bool		in_order = true;
	bool		any_id = false;

	for (int i = 0; i < n; i++)
		any_id |= events[i].has_id;
	if (!any_id)
		return false;
	refuse_repeated_ids(events, n);

	for (int i = 0; i < n; i++)
	{
		Known		known = {0};

		if (events[i].has_id)
			known = find_known(stream, &events[i]);
		if (known.found)
		{
			if (nknown++ == 0)
				first = known;
			events[i].position = known.position;
		}
		in_order &= known.found && known.version == first.version + i;
	}
	if (nknown == 0)
		return false;
	if (nknown < n || !in_order || (expected != ES_EXPECT_ANY && first.version != expected + 1))
		refuse_version(stream, expected, NULL, version);

	result->first_version = first.version;
	result->version = first.version + n - 1;
	result->first_position = first.position;
	result->position = events[n - 1].position;
	result->duplicate = true;
	return true;
}

/* the event with this id, committed or our own; the same id with other content is refused here */
static Known
find_known(EsStream *stream, EsEvent *event)
{
	EsTable    *table = es_table_open(ES_TABLE_EVENT, es_catalog()->event);
	Relation	index = es_table_index(table, es_catalog()->event_id);
	TupleTableSlot *slot = es_table_scan_slot(table);
	ScanKeyData keys[2];
	IndexScanDesc scan;
	Known		known = {0};
	bool		isnull;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(&event->id));
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid, index->rd_indcollation[1], F_TEXTEQ,
						   event->tenant);
	scan = es_index_beginscan(es_table_relation(table), index, SnapshotSelf, 2);
	index_rescan(scan, keys, 2, NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		if (!same_content(stream, event, slot))
			refuse_known_id(event);
		known.found = true;
		known.position = DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION + 1, &isnull));
		known.version = DatumGetInt64(slot_getattr(slot, ES_EVENT_VERSION + 1, &isnull));
	}
	index_endscan(scan);
	ExecClearTuple(slot);
	return known;
}

/* stream, type, schema version, data and tags; metadata may differ between a call and its retry */
static bool
same_content(EsStream *stream, EsEvent *event, TupleTableSlot *slot)
{
	bool		isnull;
	int64		stream_id = DatumGetInt64(slot_getattr(slot, ES_EVENT_STREAM_ID + 1, &isnull));

	if (isnull || stream->id == 0 || stream_id != stream->id)
		return false;
	if (DatumGetInt32(slot_getattr(slot, ES_EVENT_SCHEMA_VERSION + 1, &isnull)) != event->schema_version)
		return false;
	if (!DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID, slot_getattr(slot, ES_EVENT_TYPE + 1, &isnull), event->type)))
		return false;
	if (!DatumGetBool(DirectFunctionCall2(jsonb_eq, slot_getattr(slot, ES_EVENT_DATA + 1, &isnull), event->data)))
		return false;
	return es_event_same_tags(slot_getattr(slot, ES_EVENT_TAGS + 1, &isnull), event->tags);
}

static void
refuse_known_id(const EsEvent *event)
{
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&event->id)));

	ereport(ERROR,
			(errcode(ES_ERRCODE_ID_CONFLICT),
			 errmsg("event id %s exists with other content", id),
			 errdetail("{\"id\":\"%s\"}", id),
			 errhint("Give each event an id of its own; to retry, repeat stream, type, schema_version, data and tags exactly.")));
}

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(&(*(EsEvent *const *) a)->id, &(*(EsEvent *const *) b)->id, UUID_LEN);
}

static void
refuse_repeated_ids(EsEvent *events, int n)
{
	EsEvent   **sorted = palloc(n * sizeof(EsEvent *));
	int			given = 0;

	for (int i = 0; i < n; i++)
		if (events[i].has_id)
			sorted[given++] = &events[i];
	qsort(sorted, given, sizeof(EsEvent *), compare_ids);
	for (int i = 1; i < given; i++)
		if (compare_ids(&sorted[i - 1], &sorted[i]) == 0)
		{
			char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&sorted[i]->id)));

			ereport(ERROR,
					(errcode(ES_ERRCODE_ID_CONFLICT),
					 errmsg("event id %s stands twice in one batch", id),
					 errdetail("{\"id\":\"%s\"}", id),
					 errhint("Give each event an id of its own, or none.")));
		}
	pfree(sorted);
}

static void
check_expectation(EsStream *stream, int64 expected, EsRequire require, int64 version)
{
	if (expected != ES_EXPECT_ANY && expected != version)
		refuse_version(stream, expected, NULL, version);
	if (require == ES_REQUIRE_EXISTS && version == 0)
		refuse_version(stream, expected, "exists", version);
	/* a stream that was never deleted does not fit 'deleted' */
	if (require == ES_REQUIRE_DELETED)
		refuse_version(stream, expected, "deleted", version);
}

/* required names what was required; NULL: a version was expected (or a batch is partly known) */
static void
refuse_version(EsStream *stream, int64 expected, const char *required, int64 version)
{
	StringInfoData name;
	StringInfoData wanted;

	initStringInfo(&name);
	escape_json(&name, stream->name);
	initStringInfo(&wanted);
	if (required != NULL)
		escape_json(&wanted, required);
	else if (expected == ES_EXPECT_ANY)
		appendStringInfoString(&wanted, "null");
	else
		appendStringInfo(&wanted, INT64_FORMAT, expected);

	ereport(ERROR,
			(errcode(ES_ERRCODE_WRONG_EXPECTED_VERSION),
			 required != NULL ?
			 errmsg("stream \"%s\" does not fit require => '%s': it is at version " INT64_FORMAT, stream->name, required, version) :
			 expected == ES_EXPECT_ANY ?
			 errmsg("some of the events are in the store already, others are not: stream \"%s\" is at version " INT64_FORMAT,
					stream->name, version) :
			 errmsg("stream \"%s\" is at version " INT64_FORMAT ", expected " INT64_FORMAT, stream->name, version, expected),
			 errdetail("{\"stream\":%s,\"expected\":%s,\"actual\":" INT64_FORMAT "}", name.data, wanted.data, version),
			 errhint("Read the stream again and retry the whole transaction.")));
}

/*
 * Who is told of events that others committed asynchronously may rely on them, as after a read: this transaction writes
 * nothing, so its own commit would not flush them.
 */
static void
make_answer_durable(void)
{
	es_feed_begin_stream_read();
	es_feed_end_read();
}

static void
insert_events(EsTable *table, EsStream *stream, EsEvent *events, int n, int64 version)
{
	int64	   *positions = n == 1 ? &events[0].position : palloc(n * sizeof(int64));
	TimestampTz now;
	Datum		values[ES_EVENT_NATTS];
	bool		nulls[ES_EVENT_NATTS] = {0};

	now = es_feed_allocate(n, stream->category_hash, positions);
	es_table_begin(table);
	for (int i = 0; i < n; i++)
	{
		EsEvent    *e = &events[i];

		CHECK_FOR_INTERRUPTS();
		e->position = positions[i];
		e->version = version + 1 + i;
		e->recorded_at = now;
		if (!e->has_occurred_at)
			e->occurred_at = now;
		if (!e->has_id)
			es_clock_uuid(&e->id, now);

		values[ES_EVENT_POSITION] = Int64GetDatum(e->position);
		values[ES_EVENT_STREAM_ID] = Int64GetDatum(stream->id);
		values[ES_EVENT_VERSION] = Int64GetDatum(e->version);
		values[ES_EVENT_CATEGORY_HASH] = Int32GetDatum(stream->category_hash);
		values[ES_EVENT_SCHEMA_VERSION] = Int32GetDatum(e->schema_version);
		values[ES_EVENT_ID] = UUIDPGetDatum(&e->id);
		values[ES_EVENT_OCCURRED_AT] = TimestampTzGetDatum(e->occurred_at);
		values[ES_EVENT_RECORDED_AT] = TimestampTzGetDatum(e->recorded_at);
		values[ES_EVENT_TENANT] = e->tenant;
		values[ES_EVENT_TYPE] = e->type;
		values[ES_EVENT_TAGS] = e->tags;
		values[ES_EVENT_DATA] = e->data;
		values[ES_EVENT_METADATA] = e->metadata;
		if (e->has_id)
			insert_with_id(table, e, values, nulls);
		else
			es_table_insert(table, values, nulls);
		take_changes(e, es_table_changed_row(table));
	}
	/* before AFTER triggers, which may append to the same stream */
	es_stream_set_version(stream, version + n);
	es_table_end(table);
	CommandCounterIncrement();
	if (n > 1)
		pfree(positions);
}

/* the id may be in another stream, in a transaction that was in flight when we looked: its lock is not ours */
static void
insert_with_id(EsTable *table, const EsEvent *event, const Datum *values, const bool *nulls)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		es_table_insert(table, values, nulls);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		if (edata->sqlerrcode != ERRCODE_UNIQUE_VIOLATION || edata->constraint_name == NULL ||
			strcmp(edata->constraint_name, "event_id_key") != 0)
			PG_RE_THROW();
		FlushErrorState();
		refuse_known_id(event);
	}
	PG_END_TRY();
}

/* projections and rules get what is in the table, not what a BEFORE trigger took away */
static void
take_changes(EsEvent *event, TupleTableSlot *row)
{
	if (row == NULL)
		return;
	slot_getallattrs(row);
	event->schema_version = DatumGetInt32(row->tts_values[ES_EVENT_SCHEMA_VERSION]);
	event->id = *DatumGetUUIDP(row->tts_values[ES_EVENT_ID]);
	event->occurred_at = DatumGetTimestampTz(row->tts_values[ES_EVENT_OCCURRED_AT]);
	event->recorded_at = DatumGetTimestampTz(row->tts_values[ES_EVENT_RECORDED_AT]);
	event->type = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->tts_values[ES_EVENT_TYPE]));
	event->tags = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->tts_values[ES_EVENT_TAGS]));
	event->data = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->tts_values[ES_EVENT_DATA]));
	event->metadata = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->tts_values[ES_EVENT_METADATA]));
}

static void
quiet_conflicts(ErrorData *edata)
{
	if (edata->elevel == ERROR && edata->sqlerrcode == ES_ERRCODE_WRONG_EXPECTED_VERSION)
		edata->output_to_server = false;
	if (prev_emit_log_hook)
		prev_emit_log_hook(edata);
}
