/*
 * read.c
 *		Events out of the table: read_stream, read_category, read_all, get_event, stream_version.
 *
 * Runs in backends.  Each read walks one index in its order and stops at max_count; rows go into a tuplestore, which
 * spills to disk, so memory stays constant.  What is handed out is never past the head and is durable (feed.c takes
 * head, snapshot and flush in the right order); read_stream alone shows the caller's own uncommitted events.  Nothing
 * is locked but the tables against being dropped; nothing is kept.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "read.h"
#include "search.h"

PG_FUNCTION_INFO_V1(evtstore_read_stream);
PG_FUNCTION_INFO_V1(evtstore_read_category);
PG_FUNCTION_INFO_V1(evtstore_read_all);
PG_FUNCTION_INFO_V1(evtstore_read_query);
PG_FUNCTION_INFO_V1(evtstore_get_event);
PG_FUNCTION_INFO_V1(evtstore_stream_version);

/* one walk over an index of the event table */
typedef struct Walk
{
	Oid			index;
	ScanKeyData keys[4];
	int			nkeys;
	bool		backwards;
	int64		max_count;
	const char *tenant;			/* '': every tenant */
	const char *category;		/* NULL: every category */
} Walk;

/* the arguments that the read functions share: from where, how many, which way */
typedef struct Range
{
	bool		has_after;
	int64		after;
	int64		max_count;
	bool		backwards;
} Range;

static Range range_arguments(FunctionCallInfo fcinfo, int first, const char *after_name);
static void add_key(Walk *walk, int attno, StrategyNumber strategy, RegProcedure function, Datum value);
static void add_range(Walk *walk, int attno, const Range *range);
static void walk_events(Walk *walk, EsReadCallback callback, void *arg);
static bool wanted(const Walk *walk, TupleTableSlot *slot, EsEvent *event);
static void put_row(EsEvent *event, void *arg);

/* evtstore.read_stream(stream, after_version, max_count, backwards) */
Datum
evtstore_read_stream(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	Range		range = range_arguments(fcinfo, 1, "after_version");
	Walk		walk = {.index = es_catalog()->event_stream_version, .tenant = ""};
	EsStream   *stream;

	InitMaterializedSRF(fcinfo, 0);
	es_feed_begin_stream_read();
	stream = es_stream_find(es_guc_tenant, name);
	if (stream->id != 0)
	{
		add_key(&walk, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream->id));
		add_range(&walk, 2, &range);
		walk_events(&walk, put_row, fcinfo->resultinfo);
	}
	es_feed_end_read();
	return (Datum) 0;
}

/* evtstore.read_category(category, after_position, max_count, backwards) */
Datum
evtstore_read_category(PG_FUNCTION_ARGS)
{
	char	   *category = es_arg_name(fcinfo, 0, "category", ES_MAX_STREAM_BYTES);
	Range		range = range_arguments(fcinfo, 1, "after_position");
	int32		hash = es_stream_category_hash(es_guc_tenant, category, strlen(category));
	Walk		walk = {.index = es_catalog()->event_category, .tenant = es_guc_tenant, .category = category};
	int64		head;

	if (strchr(category, '-') != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("category must not contain \"-\": \"%s\"", category),
				 errhint("The category of a stream is the text before its first \"-\": \"%.*s\".",
						 es_stream_category_len(category, strlen(category)), category)));
	InitMaterializedSRF(fcinfo, 0);
	head = es_feed_begin_read(es_feed_category_bit(hash));
	add_key(&walk, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(hash));
	add_key(&walk, 2, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(head));
	add_range(&walk, 2, &range);
	walk_events(&walk, put_row, fcinfo->resultinfo);
	es_feed_end_read();
	return (Datum) 0;
}

/* evtstore.read_all(after_position, max_count, backwards) */
Datum
evtstore_read_all(PG_FUNCTION_ARGS)
{
	Range		range = range_arguments(fcinfo, 0, "after_position");
	Walk		walk = {.index = es_catalog()->event_pkey, .tenant = es_guc_tenant};
	int64		head;

	InitMaterializedSRF(fcinfo, 0);
	head = es_feed_begin_read(ES_FEED_ALL_CATEGORIES);
	add_key(&walk, 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(head));
	add_range(&walk, 1, &range);
	walk_events(&walk, put_row, fcinfo->resultinfo);
	es_feed_end_read();
	return (Datum) 0;
}

/* evtstore.read_query(query, after_position, max_count, backwards) */
Datum
evtstore_read_query(PG_FUNCTION_ARGS)
{
	Range		range = range_arguments(fcinfo, 1, "after_position");
	MemoryContext row_context;
	TupleTableSlot *slot;
	EsSearch   *search;
	EsQuery    *query;
	int64		head;
	int64		left = range.max_count;

	es_arg_required(fcinfo, 0, "query");
	query = es_query_parse(PG_GETARG_JSONB_P(0), "query");
	InitMaterializedSRF(fcinfo, 0);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "evtstore event", ALLOCSET_DEFAULT_SIZES);
	head = es_feed_begin_read(ES_FEED_ALL_CATEGORIES);
	/* nothing lies above the head, whatever after is */
	search = es_search_open(query, es_guc_tenant, range.has_after && !range.backwards ? Min(range.after, head) + 1 : 1,
							range.has_after && range.backwards ? Min(head, range.after - 1) : head,
							range.backwards, GetActiveSnapshot());
	while (left-- > 0 && (slot = es_search_next(search)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);
		EsEvent		event;

		es_event_from_slot(slot, &event);
		put_row(&event, fcinfo->resultinfo);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	es_search_close(search);
	es_feed_end_read();
	return (Datum) 0;
}

static void
take_event(EsEvent *event, void *arg)
{
	*(Datum *) arg = es_event_datum(event);
}

/* evtstore.get_event(id) */
Datum
evtstore_get_event(PG_FUNCTION_ARGS)
{
	Walk		walk = {.index = es_catalog()->event_id, .tenant = es_guc_tenant};
	Range		range = {.max_count = 1};
	Datum		result = (Datum) 0;

	es_arg_required(fcinfo, 0, "id");
	es_feed_begin_stream_read();
	add_key(&walk, 1, BTEqualStrategyNumber, F_UUID_EQ, PG_GETARG_DATUM(0));
	add_range(&walk, 0, &range);
	walk_events(&walk, take_event, &result);
	es_feed_end_read();
	if (result == (Datum) 0)
		PG_RETURN_NULL();
	return result;
}

static void
take_version(EsEvent *event, void *arg)
{
	*(int64 *) arg = event->version;
}

/* evtstore.stream_version(stream) */
Datum
evtstore_stream_version(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	Walk		walk = {.index = es_catalog()->event_stream_version, .tenant = ""};
	Range		range = {.max_count = 1, .backwards = true};
	int64		version = 0;
	EsStream   *stream;

	es_feed_begin_stream_read();
	stream = es_stream_find(es_guc_tenant, name);
	if (stream->id != 0)
	{
		add_key(&walk, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream->id));
		add_range(&walk, 2, &range);
		walk_events(&walk, take_version, &version);
	}
	es_feed_end_read();
	PG_RETURN_INT64(version);
}

void
es_read_history(EsReadCallback callback, void *arg)
{
	Walk		walk = {.index = es_catalog()->event_pkey, .tenant = ""};
	Range		range = {.max_count = PG_INT64_MAX};

	PushActiveSnapshot(GetLatestSnapshot());
	add_range(&walk, 1, &range);
	walk_events(&walk, callback, arg);
	PopActiveSnapshot();
}

static Range
range_arguments(FunctionCallInfo fcinfo, int first, const char *after_name)
{
	Range		range = {.max_count = PG_INT64_MAX};

	if (!PG_ARGISNULL(first))
	{
		range.has_after = true;
		range.after = PG_GETARG_INT64(first);
		if (range.after < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must not be negative: " INT64_FORMAT, after_name, range.after),
					 errhint("NULL: from the start, or from the end when backwards.")));
	}
	if (!PG_ARGISNULL(first + 1))
	{
		range.max_count = PG_GETARG_INT64(first + 1);
		if (range.max_count < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("max_count must not be negative: " INT64_FORMAT, range.max_count),
					 errhint("NULL: no limit.")));
	}
	range.backwards = !PG_ARGISNULL(first + 2) && PG_GETARG_BOOL(first + 2);
	return range;
}

static void
add_key(Walk *walk, int attno, StrategyNumber strategy, RegProcedure function, Datum value)
{
	Assert(walk->nkeys < lengthof(walk->keys));
	ScanKeyInit(&walk->keys[walk->nkeys++], attno, strategy, function, value);
}

/* after is exclusive in both directions */
static void
add_range(Walk *walk, int attno, const Range *range)
{
	walk->backwards = range->backwards;
	walk->max_count = range->max_count;
	if (!range->has_after)
		return;
	if (range->backwards)
		add_key(walk, attno, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(range->after));
	else
		add_key(walk, attno, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(range->after));
}

/* calls back for each event that is wanted, in the index's order; what the callback allocates is reset each time */
static void
walk_events(Walk *walk, EsReadCallback callback, void *arg)
{
	Relation	rel = table_open(es_catalog()->event, AccessShareLock);
	Relation	index = index_open(walk->index, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = es_index_beginscan(rel, index, GetActiveSnapshot(), walk->nkeys);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "evtstore event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = CurrentMemoryContext;
	int64		left = walk->max_count;

	index_rescan(scan, walk->keys, walk->nkeys, NULL, 0);
	while (left > 0 && index_getnext_slot(scan, walk->backwards ? BackwardScanDirection : ForwardScanDirection, slot))
	{
		EsEvent		event;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(row_context);
		if (wanted(walk, slot, &event))
		{
			/* a single result is built where the caller can keep it */
			if (walk->max_count == 1)
				MemoryContextSwitchTo(caller);
			callback(&event, arg);
			left--;
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(row_context);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	MemoryContextDelete(row_context);
}

/* categories are found by their hash: the name decides */
static bool
wanted(const Walk *walk, TupleTableSlot *slot, EsEvent *event)
{
	es_event_from_slot(slot, event);
	if (walk->tenant[0] != '\0' && strcmp(TextDatumGetCString(event->tenant), walk->tenant) != 0)
		return false;
	if (walk->category != NULL)
	{
		char	   *stream;

		if (DatumGetPointer(event->stream) == NULL)
			return false;
		stream = TextDatumGetCString(event->stream);
		if (es_stream_category_len(stream, strlen(stream)) != strlen(walk->category) ||
			strncmp(stream, walk->category, strlen(walk->category)) != 0)
			return false;
	}
	return true;
}

static void
put_row(EsEvent *event, void *arg)
{
	ReturnSetInfo *rsinfo = arg;
	Datum		values[ES_EVENT_ROW_NATTS];
	bool		nulls[ES_EVENT_ROW_NATTS];

	es_event_values(event, values, nulls);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}
