/*
 * append.c
 *		Appending to streams: lock, look, check, allocate, insert, tell.
 *
 * Runs in the caller's backend and transaction.  An append has parts, one for each stream that it names; nearly always
 * there is one.  The order matters:
 *
 *	1. invalidations are read and the event table is opened (RowExclusiveLock): a sync projection is created under a
 *	   conflicting lock, so from here on we know all of them;
 *	2. the streams are locked, to the end of the transaction, then the tags of the events and of the condition, then types:
 *	   within each kind in one order for everybody, so that two calls never wait for each other in a circle;
 *	3. versions are read: no other transaction has one in flight, so they are the versions, whatever our snapshot;
 *	4. idempotency, condition and expectations are checked; every refusal happens before anything was allocated;
 *	5. positions are allocated (feed.c publishes the floor first): with the locks held, so that their order is causal;
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
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "append.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "condition.h"
#include "error.h"
#include "event.h"
#include "feed.h"
#include "guc.h"
#include "lock.h"
#include "table.h"
#include "tag.h"

#define MAX_HOOKS 6

/* ids of one append, and of one transaction, that are locked: see lock_ids */
#define MAX_LOCKED_IDS 32
#define MAX_IDS_IN_TRANSACTION 512

static EsAppendHook hooks[MAX_HOOKS];
static int	nhooks = 0;
static bool appending_history = false;
static int	ids_locked = 0;		/* by this transaction, at least */
static uint64 calls = 0;		/* number of the latest check_expectations */
static emit_log_hook_type prev_emit_log_hook = NULL;

/* an event of the batch that is in the store already */
typedef struct Known
{
	bool		found;
	int64		version;
	int64		position;
} Known;

static void lock_streams(const char *tenant, EsAppendPart *parts, int nparts);
static void find_streams(const char *tenant, EsAppendPart *parts, int nparts);
static void lock_ids(const char *tenant, EsAppendPart *part);
static bool answer_duplicates(const char *tenant, EsAppendPart *parts, int nparts, EsEvent *events, int nevents);
static void answer_part(EsAppendPart *part, const Known *known);
static Known find_known(EsStream *stream, EsEvent *event);
static bool same_content(EsStream *stream, EsEvent *event, TupleTableSlot *slot);
static void refuse_known_id(const EsEvent *event) es_noreturn;
static void refuse_repeated_ids(EsEvent *events, int n);
static void check_expectations(EsAppendPart *parts, int nparts);
static void refuse_version(const EsAppendPart *part, const char *required) es_noreturn;
static void make_answer_durable(void);
static void insert_events(EsTable *table, const char *tenant, EsAppendPart *parts, int nparts, EsEvent *events, int nevents);
static void insert_part(EsTable *table, EsAppendPart *part, TimestampTz now);
static void insert_with_id(EsTable *table, const EsEvent *event, const Datum *values, const bool *nulls);
static void take_changes(EsEvent *event, const EsStream *stream, TupleTableSlot *row);
static void refuse_other_keys(const EsEvent *event, const EsStream *stream, TupleTableSlot *row);
static bool same_bytes(Datum a, Datum b);
static void xact_callback(XactEvent event, void *arg);
static void quiet_conflicts(ErrorData *edata);

void
es_append_init(void)
{
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = quiet_conflicts;
	RegisterXactCallback(xact_callback, NULL);
}

void
es_append_register_hook(EsAppendHook hook)
{
	Assert(nhooks < MAX_HOOKS);
	hooks[nhooks++] = hook;
}

void
es_append_set_history(bool history)
{
	appending_history = history;
}

bool
es_append_is_history(void)
{
	return appending_history;
}

bool
es_append_knows(EsStream *stream, EsEvent *event)
{
	return find_known(stream, event).found;
}

void
es_append(const char *tenant, const char *stream, EsEvent *events, int n, int64 expected, EsRequire require,
		  EsAppendResult *result)
{
	EsAppendPart part = {.stream = stream, .events = events, .n = n, .expected = expected, .require = require};

	es_append_parts(tenant, &part, 1, events, n, NULL);
	*result = part.result;
}

void
es_append_parts(const char *tenant, EsAppendPart *parts, int nparts, EsEvent *events, int nevents,
				const EsAppendCondition *condition)
{
	EsTable    *table;
	bool		types_locked;

	es_catalog_require_writable("append");
	AcceptInvalidationMessages();
	es_stream_expect(nparts);
	table = es_table_open(ES_TABLE_EVENT, es_catalog()->event);
	lock_streams(tenant, parts, nparts);
	for (int i = 0; i < nevents; i++)
		es_tag_prepare(&events[i], tenant);
	types_locked = es_condition_lock(tenant, events, nevents, condition == NULL ? NULL : condition->query);

	if (answer_duplicates(tenant, parts, nparts, events, nevents))
	{
		make_answer_durable();
		return;
	}
	if (condition != NULL)
		es_condition_check(tenant, condition->query, condition->after);
	check_expectations(parts, nparts);
	if (nevents == 0)
	{
		make_answer_durable();
		return;
	}

	if (!types_locked)
		es_condition_announce(tenant, events, nevents);
	insert_events(table, tenant, parts, nparts, events, nevents);
	for (int i = 0; i < nhooks; i++)
		hooks[i] (parts, nparts, nevents);
}

/* versions are read once all locks are held */
static void
lock_streams(const char *tenant, EsAppendPart *parts, int nparts)
{
	const char *single;
	const char **names = nparts == 1 ? &single : palloc(nparts * sizeof(char *));
	int			n = 0;

	for (int p = 0; p < nparts; p++)
		if (parts[p].stream != NULL)
			names[n++] = parts[p].stream;
	if (n > 0)
		es_stream_lock(tenant, names, n);
	find_streams(tenant, parts, nparts);
	for (int p = 0; p < nparts; p++)
	{
		if (parts[p].stream == NULL)
		{
			lock_ids(tenant, &parts[p]);
			continue;
		}
		es_stream_refuse_tombstoned(parts[p].handle);
		parts[p].version = es_stream_current_version(parts[p].handle);
	}
	if (nparts > 1)
		pfree(names);
}

/*
 * A stream that is named twice has one handle, and all of them are of one memo: looking up reads invalidation messages,
 * and where they made the memo a new one in between, it is done again.
 */
static void
find_streams(const char *tenant, EsAppendPart *parts, int nparts)
{
	uint64		generation;

	do
	{
		CHECK_FOR_INTERRUPTS();
		generation = es_catalog_generation();
		for (int p = 0; p < nparts; p++)
			parts[p].handle = parts[p].stream == NULL ? es_stream_none() : es_stream_find(tenant, parts[p].stream);
	} while (generation != es_catalog_generation());
}

/*
 * Without a stream there is no lock that two calls of the same append share for certain: they share ids.  In one order for
 * everybody.  Of a long batch the first ones are enough, because who brings a part of it brings its beginning; and a
 * transaction of very many appends leaves it to the index, which then refuses the second of two calls.
 */
static void
lock_ids(const char *tenant, EsAppendPart *part)
{
	uint64		hashes[MAX_LOCKED_IDS];
	int			n = 0;

	for (int i = 0; i < part->n && n < MAX_LOCKED_IDS; i++)
		if (part->events[i].has_id)
			hashes[n++] = es_stream_hash(tenant, (const char *) part->events[i].id.data, UUID_LEN);
	qsort(hashes, n, sizeof(uint64), es_hash_compare);
	for (int i = 0; i < n && ids_locked < MAX_IDS_IN_TRANSACTION; i++)
		ids_locked += es_lock_mode(ES_LOCK_EVENT_ID, hashes[i], ExclusiveLock);
}

/*
 * True where every event is in the store already, those of each part in this order and without others between, and at
 * the version that was expected: then the first call's answer is given again, whatever else was to be checked.  Where
 * only some are known it is a conflict.  Only ids that callers gave can repeat.
 */
static bool
answer_duplicates(const char *tenant, EsAppendPart *parts, int nparts, EsEvent *events, int nevents)
{
	Known	   *known;
	int			nknown = 0;
	bool		any_id = false;

	for (int i = 0; i < nevents; i++)
		any_id |= events[i].has_id;
	if (!any_id)
		return false;
	refuse_repeated_ids(events, nevents);

	known = MemoryContextAllocExtended(CurrentMemoryContext, nevents * sizeof(Known), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int p = 0; p < nparts; p++)
		for (int i = 0; i < parts[p].n; i++)
		{
			EsEvent    *event = &parts[p].events[i];

			if (event->has_id)
				known[event - events] = find_known(parts[p].handle, event);
			nknown += known[event - events].found;
		}
	if (nknown > 0)
	{
		for (int p = 0; p < nparts; p++)
			answer_part(&parts[p], &known[parts[p].events - events]);
	}
	pfree(known);
	return nknown > 0;
}

/* the same event may be the first of a part only at the version that was expected */
static void
answer_part(EsAppendPart *part, const Known *known)
{
	bool		has_stream = part->stream != NULL;

	memset(&part->result, 0, sizeof(part->result));
	part->result.duplicate = true;
	if (part->n == 0)
	{
		part->result.version = part->version;
		return;
	}
	for (int i = 0; i < part->n; i++)
	{
		bool		in_order = known[i].found &&
			(has_stream ? known[i].version == known[0].version + i : i == 0 || known[i].position > known[i - 1].position);

		if (!in_order || (i == 0 && part->expected != ES_EXPECT_ANY && known[0].version != part->expected + 1))
			refuse_version(part, NULL);
		part->events[i].position = known[i].position;
	}
	part->result.first_version = known[0].version;
	part->result.version = known[part->n - 1].version;
	part->result.first_position = known[0].position;
	part->result.position = known[part->n - 1].position;
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
		if (isnull)
			known.version = 0;
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

	if (isnull != (stream == es_stream_none()) || (!isnull && (stream->id == 0 || stream_id != stream->id)))
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

/* a part is checked against what the stream will be when its turn comes */
static void
check_expectations(EsAppendPart *parts, int nparts)
{
	calls++;
	for (int p = 0; p < nparts; p++)
	{
		EsAppendPart *part = &parts[p];
		EsStream   *stream = part->handle;
		bool		deleted;

		CHECK_FOR_INTERRUPTS();
		memset(&part->result, 0, sizeof(part->result));
		if (part->stream == NULL)
			continue;
		deleted = es_stream_state(stream).status == ES_STREAM_DELETED;
		if (stream->pending_call == calls)
		{
			deleted &= stream->pending_version == part->version;
			part->version = stream->pending_version;
		}
		/* a deleted stream does not exist, and its versions go on: both may be expected of it */
		if (part->expected != ES_EXPECT_ANY && part->expected != part->version && !(deleted && part->expected == 0))
			refuse_version(part, NULL);
		if (part->require == ES_REQUIRE_EXISTS && (part->version == 0 || deleted))
			refuse_version(part, "exists");
		if (part->require == ES_REQUIRE_DELETED && !deleted)
			refuse_version(part, "deleted");
		part->result.version = part->version + part->n;
		stream->pending_version = part->result.version;
		stream->pending_call = calls;
	}
}

/* required names what was required; NULL: a version was expected (or a batch is partly known) */
static void
refuse_version(const EsAppendPart *part, const char *required)
{
	StringInfoData name;
	StringInfoData wanted;

	make_answer_durable();
	initStringInfo(&name);
	initStringInfo(&wanted);
	if (part->stream == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_WRONG_EXPECTED_VERSION),
				 errmsg("some of the events are in the store already, others are not, or in another order"),
				 errdetail("{\"stream\":null,\"expected\":null,\"actual\":null}"),
				 errhint("To retry an append, repeat all of its events in the same order.")));
	escape_json(&name, part->stream);
	if (required != NULL)
		escape_json(&wanted, required);
	else if (part->expected == ES_EXPECT_ANY)
		appendStringInfoString(&wanted, "null");
	else
		appendStringInfo(&wanted, INT64_FORMAT, part->expected);

	ereport(ERROR,
			(errcode(ES_ERRCODE_WRONG_EXPECTED_VERSION),
			 required != NULL ?
			 errmsg("stream \"%s\" does not fit require => '%s': it is at version " INT64_FORMAT, part->stream, required, part->version) :
			 part->expected == ES_EXPECT_ANY ?
			 errmsg("some of the events are in the store already, others are not: stream \"%s\" is at version " INT64_FORMAT,
					part->stream, part->version) :
			 errmsg("stream \"%s\" is at version " INT64_FORMAT ", expected " INT64_FORMAT, part->stream, part->version,
					part->expected),
			 errdetail("{\"stream\":%s,\"expected\":%s,\"actual\":" INT64_FORMAT "}", name.data, wanted.data, part->version),
			 errhint("Read the stream again and retry the whole transaction.")));
}

/*
 * Who is told of events that others committed asynchronously may rely on them, as after a read, also where the answer is a
 * refusal: this transaction writes nothing, so its own commit would not flush them.
 */
static void
make_answer_durable(void)
{
	es_feed_begin_stream_read();
	es_feed_end_read();
}

/*
 * Positions of all parts are allocated at once, with every lock held.  AFTER triggers of the table run in es_table_end:
 * by then versions are known and postings written, and they may append.
 */
static void
insert_events(EsTable *table, const char *tenant, EsAppendPart *parts, int nparts, EsEvent *events, int nevents)
{
	int64		single;
	int64	   *positions = nevents == 1 ? &single :
		MemoryContextAllocHuge(CurrentMemoryContext, nevents * sizeof(int64));
	uint64		categories = 0;
	TimestampTz now;

	for (int p = 0; p < nparts; p++)
	{
		EsStream   *stream = parts[p].handle;

		if (parts[p].n == 0 || parts[p].stream == NULL)
			continue;
		if (stream->id == 0)
			es_stream_create(stream);
		es_stream_undelete(stream);
		categories |= es_feed_category_bit(stream->category_hash);
	}
	now = es_feed_allocate(nevents, categories, positions);
	for (int i = 0; i < nevents; i++)
		events[i].position = positions[i];
	if (nevents > 1)
		pfree(positions);

	es_table_begin(table);
	for (int p = 0; p < nparts; p++)
		insert_part(table, &parts[p], now);
	es_tag_insert(tenant, events, nevents);
	es_table_end(table);
	CommandCounterIncrement();
}

static void
insert_part(EsTable *table, EsAppendPart *part, TimestampTz now)
{
	bool		has_stream = part->stream != NULL;
	Datum		values[ES_EVENT_NATTS];
	bool		nulls[ES_EVENT_NATTS] = {0};

	nulls[ES_EVENT_STREAM_ID] = nulls[ES_EVENT_VERSION] = nulls[ES_EVENT_CATEGORY_HASH] = !has_stream;
	values[ES_EVENT_STREAM_ID] = Int64GetDatum(part->handle->id);
	values[ES_EVENT_CATEGORY_HASH] = Int32GetDatum(part->handle->category_hash);
	for (int i = 0; i < part->n; i++)
	{
		EsEvent    *e = &part->events[i];

		CHECK_FOR_INTERRUPTS();
		e->version = has_stream ? part->version + 1 + i : 0;
		e->recorded_at = now;
		if (!e->has_occurred_at)
			e->occurred_at = now;
		if (!e->has_id)
			es_clock_uuid(&e->id, now);

		values[ES_EVENT_POSITION] = Int64GetDatum(e->position);
		values[ES_EVENT_VERSION] = Int64GetDatum(e->version);
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
		else if (part->n > 1)
			es_table_add(table, values, nulls, NULL);
		else
			es_table_insert(table, values, nulls);
		take_changes(e, part->handle, es_table_changed_row(table));
	}
	if (part->n == 0)
		return;
	if (has_stream)
		es_stream_set_version(part->handle, part->version + part->n);
	part->result.first_version = has_stream ? part->version + 1 : 0;
	part->result.version = has_stream ? part->version + part->n : 0;
	part->result.first_position = part->events[0].position;
	part->result.position = part->events[part->n - 1].position;
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
take_changes(EsEvent *event, const EsStream *stream, TupleTableSlot *row)
{
	if (row == NULL)
		return;
	slot_getallattrs(row);
	refuse_other_keys(event, stream, row);
	event->schema_version = DatumGetInt32(row->tts_values[ES_EVENT_SCHEMA_VERSION]);
	event->id = *DatumGetUUIDP(row->tts_values[ES_EVENT_ID]);
	event->occurred_at = DatumGetTimestampTz(row->tts_values[ES_EVENT_OCCURRED_AT]);
	event->recorded_at = DatumGetTimestampTz(row->tts_values[ES_EVENT_RECORDED_AT]);
	event->data = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->tts_values[ES_EVENT_DATA]));
	event->metadata = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->tts_values[ES_EVENT_METADATA]));
}

/*
 * Type and tags were locked before the position was allocated: a condition that looked for others meanwhile has passed
 * already, and nothing could be done about it any more.
 */
static void
refuse_other_keys(const EsEvent *event, const EsStream *stream, TupleTableSlot *row)
{
	bool		has_category = !row->tts_isnull[ES_EVENT_CATEGORY_HASH];

	if (same_bytes(event->type, row->tts_values[ES_EVENT_TYPE]) && same_bytes(event->tags, row->tts_values[ES_EVENT_TAGS]) &&
		same_bytes(event->tenant, row->tts_values[ES_EVENT_TENANT]) && has_category == (stream != es_stream_none()) &&
		(!has_category || DatumGetInt32(row->tts_values[ES_EVENT_CATEGORY_HASH]) == stream->category_hash))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("a BEFORE INSERT trigger on table \"event\" changed type, tags, tenant or category_hash"),
			 errdetail("They decide who waits for the append, and were locked before the trigger ran."),
			 errhint("Give them to the append. A trigger may change data, metadata, schema_version, id and the times.")));
}

static bool
same_bytes(Datum a, Datum b)
{
	struct varlena *x = PG_DETOAST_DATUM_PACKED(a);
	struct varlena *y = PG_DETOAST_DATUM_PACKED(b);

	return VARSIZE_ANY_EXHDR(x) == VARSIZE_ANY_EXHDR(y) && memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x)) == 0;
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		ids_locked = 0;
}

static void
quiet_conflicts(ErrorData *edata)
{
	if (edata->elevel == ERROR && (edata->sqlerrcode == ES_ERRCODE_WRONG_EXPECTED_VERSION ||
								   edata->sqlerrcode == ES_ERRCODE_APPEND_CONDITION_FAILED))
		edata->output_to_server = false;
	if (prev_emit_log_hook)
		prev_emit_log_hook(edata);
}
