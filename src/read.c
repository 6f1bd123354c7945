/*
 * read.c
 *		The read functions: read_stream, read_category, read_all, read_query, get_event, stream_version.
 *
 * Runs in backends.  Each function parses its arguments, takes its moment and chooses a source for a reader
 * (read_source.c), which hands out a row at a time.  In FROM the plan node of read_scan.c asks the reader; everywhere
 * else the functions below do, a row per call.  What is handed out is never past the head and is durable (feed.c takes
 * head, snapshot and flush in the right order); read_stream alone shows the caller's own uncommitted events.  Nothing is
 * locked but the tables against being dropped; nothing is kept.
 *
 * What deletion, truncation and policies took is gone for read_stream and stream_version at once (stream_policy.c); the
 * other reads show an event until it is removed from the table (scavenge.c).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "history.h"
#include "ledger.h"
#include "read.h"
#include "search.h"
#include "stream_policy.h"

PG_FUNCTION_INFO_V1(evtstore_read_stream);
PG_FUNCTION_INFO_V1(evtstore_read_category);
PG_FUNCTION_INFO_V1(evtstore_read_all);
PG_FUNCTION_INFO_V1(evtstore_read_query);
PG_FUNCTION_INFO_V1(evtstore_get_event);
PG_FUNCTION_INFO_V1(evtstore_stream_version);

static void open_stream(EsReader *reader, FunctionCallInfo fcinfo);
static void add_moment(EsWalk *walk, const EsStream *stream, const EsReadRange *range, int64 position, TimestampTz moment);
static void open_category(EsReader *reader, FunctionCallInfo fcinfo);
static void open_all(EsReader *reader, FunctionCallInfo fcinfo);
static void open_query(EsReader *reader, FunctionCallInfo fcinfo);
static bool search_next(EsReader *reader, void *state, TupleTableSlot *slot);
static void search_restart(void *state);
static void search_close(void *state);
static void open_event(EsReader *reader, FunctionCallInfo fcinfo);
static void open_version(EsReader *reader, FunctionCallInfo fcinfo);
struct History;
static void read_history(struct History *history, EsReadCallback callback, void *arg);
static void open_history(EsReader *reader, void *arg);
static Datum next_row(FunctionCallInfo fcinfo, const EsReadFunction *function);
static void stop_reading(Datum arg);

static const EsReadFunction functions[] = {
	{"evtstore_read_stream", 5, 2, 3, 4, open_stream},
	{"evtstore_read_category", 4, 2, 3, 1, open_category},
	{"evtstore_read_all", 3, 1, 2, 1, open_all},
	{"evtstore_read_query", 4, 2, 3, 1, open_query},
};

static const EsReadSource search_source = {
	.next = search_next,
	.restart = search_restart,
	.close = search_close,
};

/* these return no set */
static const EsReadFunction event_by_id = {.open = open_event};
static const EsReadFunction last_version = {.open = open_version};

/* evtstore.read_stream(stream, after_version, max_count, backwards, as_of) */
Datum
evtstore_read_stream(PG_FUNCTION_ARGS)
{
	return next_row(fcinfo, &functions[0]);
}

static void
open_stream(EsReader *reader, FunctionCallInfo fcinfo)
{
	char	   *name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	EsReadRange range = es_read_range_arguments(fcinfo, 1, "after_version");
	bool		has_moment = !PG_ARGISNULL(4);
	TimestampTz moment = has_moment ? es_ledger_moment(fcinfo, 4, "as_of") : 0;
	int64		position = has_moment ? es_ledger_position_at(moment) : 0;
	EsStream   *stream;
	EsWalk	   *walk;

	/* the past does not depend on who looks, so it is looked at with what is committed now */
	if (has_moment)
		es_reader_begin_latest(reader);
	else
		es_reader_begin_stream(reader);
	es_reader_set_max_count(reader, range.max_count);
	stream = es_stream_find(es_guc_tenant, name);
	if (stream->id == 0)
		return;
	walk = es_reader_walk(reader, es_catalog()->event_stream_version);
	es_walk_add_key(walk, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream->id));
	es_walk_add_range(walk, 2, &range);
	if (has_moment)
	{
		PushActiveSnapshot(es_reader_snapshot(reader));
		add_moment(walk, stream, &range, position, moment);
		PopActiveSnapshot();
	}
	else
		es_walk_add_key(walk, 2, BTGreaterEqualStrategyNumber, F_INT8GE,
						Int64GetDatum(es_stream_first_visible(stream, es_reader_snapshot(reader))));
}

/*
 * What the stream's readers saw then, as far as it was not deleted or truncated; policies are of today and do not count.
 * What has to be shown must be there.
 */
static void
add_moment(EsWalk *walk, const EsStream *stream, const EsReadRange *range, int64 position, TimestampTz moment)
{
	int64		first = es_stream_state_at(stream->id, position, GetActiveSnapshot()).truncate_before;
	int64		last = es_history_version_at(stream, position, moment);
	int64		end = range->backwards && range->has_after ? Min(range->after - 1, last) : last;
	int64		from = range->backwards || !range->has_after ? first : Max(first, range->after + 1);

	if (range->backwards && range->max_count < end)
		from = Max(from, end - range->max_count + 1);
	es_history_require(stream, from, end);
	es_walk_add_key(walk, 2, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(first));
	es_walk_add_key(walk, 2, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(last));
}

/* evtstore.read_category(category, after_position, max_count, backwards) */
Datum
evtstore_read_category(PG_FUNCTION_ARGS)
{
	return next_row(fcinfo, &functions[1]);
}

static void
open_category(EsReader *reader, FunctionCallInfo fcinfo)
{
	char	   *category = es_arg_name(fcinfo, 0, "category", ES_MAX_STREAM_BYTES);
	EsReadRange range = es_read_range_arguments(fcinfo, 1, "after_position");
	int32		hash = es_stream_category_hash(es_guc_tenant, category, strlen(category));
	int64		head;
	EsWalk	   *walk;

	if (strchr(category, '-') != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("category must not contain \"-\": \"%s\"", category),
				 errhint("The category of a stream is the text before its first \"-\": \"%.*s\".",
						 es_stream_category_len(category, strlen(category)), category)));
	head = es_reader_begin_feed(reader, es_feed_category_bit(hash));
	es_reader_set_max_count(reader, range.max_count);
	es_reader_set_tenant(reader, es_guc_tenant);
	es_reader_set_category(reader, category);
	walk = es_reader_walk(reader, es_catalog()->event_category);
	es_walk_add_key(walk, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(hash));
	es_walk_add_key(walk, 2, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(head));
	es_walk_add_range(walk, 2, &range);
}

/* evtstore.read_all(after_position, max_count, backwards) */
Datum
evtstore_read_all(PG_FUNCTION_ARGS)
{
	return next_row(fcinfo, &functions[2]);
}

static void
open_all(EsReader *reader, FunctionCallInfo fcinfo)
{
	EsReadRange range = es_read_range_arguments(fcinfo, 0, "after_position");
	int64		head = es_reader_begin_feed(reader, ES_FEED_ALL_CATEGORIES);
	EsWalk	   *walk;

	es_reader_set_max_count(reader, range.max_count);
	/* a tenant's events have postings of their own: no walk over those of others */
	if (es_guc_tenant[0] != '\0')
	{
		es_reader_search(reader, palloc0(sizeof(EsQuery)), es_guc_tenant, head, &range);
		return;
	}
	walk = es_reader_walk(reader, es_catalog()->event_pkey);
	es_walk_add_key(walk, 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(head));
	es_walk_add_range(walk, 1, &range);
}

/* evtstore.read_query(query, after_position, max_count, backwards) */
Datum
evtstore_read_query(PG_FUNCTION_ARGS)
{
	return next_row(fcinfo, &functions[3]);
}

static void
open_query(EsReader *reader, FunctionCallInfo fcinfo)
{
	EsReadRange range = es_read_range_arguments(fcinfo, 1, "after_position");
	EsQuery    *query;

	es_arg_required(fcinfo, 0, "query");
	query = es_query_parse(PG_GETARG_JSONB_P(0), "query");
	es_reader_set_max_count(reader, range.max_count);
	es_reader_search(reader, query, es_guc_tenant, es_reader_begin_feed(reader, ES_FEED_ALL_CATEGORIES), &range);
}

void
es_reader_search(EsReader *reader, const EsQuery *query, const char *tenant, int64 head, const EsReadRange *range)
{
	int64		from = range->has_after && !range->backwards ? range->after : 0;
	int64		upto = range->has_after && range->backwards ? Min(head, range->after - 1) : head;

	/* above the last position is nothing */
	es_reader_set_source(reader, &search_source,
						 es_search_open(query, tenant, Min(from, upto) + 1, upto, range->backwards, es_reader_snapshot(reader)));
}

static bool
search_next(EsReader *reader, void *state, TupleTableSlot *slot)
{
	return es_search_next(state, slot);
}

static void
search_restart(void *state)
{
	es_search_restart(state);
}

static void
search_close(void *state)
{
	es_search_close(state);
}

/* evtstore.get_event(id) */
Datum
evtstore_get_event(PG_FUNCTION_ARGS)
{
	EsReader   *reader = es_reader_open(&event_by_id, fcinfo, CurrentMemoryContext);
	bool		isnull = true;
	Datum		result = (Datum) 0;

	if (es_reader_next(reader) != NULL)
		result = es_reader_value(reader, 0, &isnull);
	es_reader_close(reader);
	if (isnull)
		PG_RETURN_NULL();
	return result;
}

static void
open_event(EsReader *reader, FunctionCallInfo fcinfo)
{
	EsWalk	   *walk;

	es_arg_required(fcinfo, 0, "id");
	es_reader_begin_stream(reader);
	es_reader_set_max_count(reader, 1);
	es_reader_set_tenant(reader, es_guc_tenant);
	walk = es_reader_walk(reader, es_catalog()->event_id);
	es_walk_add_key(walk, 1, BTEqualStrategyNumber, F_UUID_EQ, PG_GETARG_DATUM(0));
}

/* evtstore.stream_version(stream) */
Datum
evtstore_stream_version(PG_FUNCTION_ARGS)
{
	EsReader   *reader = es_reader_open(&last_version, fcinfo, CurrentMemoryContext);
	EsStream   *stream;
	int64		version = 0;
	bool		isnull;

	if (es_reader_next(reader) != NULL)
		version = DatumGetInt64(es_reader_value(reader, 4, &isnull));
	stream = es_stream_find(es_guc_tenant, es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES));
	version = es_stream_visible_version(stream, version, es_reader_snapshot(reader));
	es_reader_close(reader);
	PG_RETURN_INT64(version);
}

static void
open_version(EsReader *reader, FunctionCallInfo fcinfo)
{
	char	   *name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	EsReadRange range = {.backwards = true};
	int64		id;
	EsWalk	   *walk;

	es_reader_begin_stream(reader);
	es_reader_set_max_count(reader, 1);
	id = es_stream_find(es_guc_tenant, name)->id;
	if (id == 0)
		return;
	walk = es_reader_walk(reader, es_catalog()->event_stream_version);
	es_walk_add_key(walk, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	es_walk_add_range(walk, 2, &range);
}

typedef struct History
{
	bool		to_head;
	int64		after;
	int64		head;
} History;

int64
es_read_history_to_head(EsReadCallback callback, void *arg)
{
	History		history = {.to_head = true};

	read_history(&history, callback, arg);
	return history.head;
}

void
es_read_history(int64 after, EsReadCallback callback, void *arg)
{
	History		history = {.after = after};

	read_history(&history, callback, arg);
}

static void
read_history(History *history, EsReadCallback callback, void *arg)
{
	EsReader   *reader = es_reader_open_with(open_history, history, CurrentMemoryContext);
	MemoryContext event_context = AllocSetContextCreate(CurrentMemoryContext, "evtstore history", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(event_context);
	TupleTableSlot *slot;

	PushActiveSnapshot(es_reader_snapshot(reader));
	while ((slot = es_reader_next(reader)) != NULL)
	{
		EsEvent		event;

		es_event_from_slot(slot, &event);
		callback(&event, arg);
		MemoryContextReset(event_context);
	}
	PopActiveSnapshot();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(event_context);
	es_reader_close(reader);
}

static void
open_history(EsReader *reader, void *arg)
{
	History    *history = arg;
	EsReadRange range = {.has_after = true, .after = history->after};
	EsWalk	   *walk;

	if (history->to_head)
		history->head = es_reader_begin_feed(reader, ES_FEED_ALL_CATEGORIES);
	else
		es_reader_begin_latest(reader);
	walk = es_reader_walk(reader, es_catalog()->event_pkey);
	if (history->to_head)
		es_walk_add_key(walk, 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(history->head));
	es_walk_add_range(walk, 1, &range);
}

EsReadRange
es_read_range_arguments(FunctionCallInfo fcinfo, int first, const char *after_name)
{
	EsReadRange range = {.max_count = PG_INT64_MAX};

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

const EsReadFunction *
es_read_function(Oid fn)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(fn));
	const EsReadFunction *found = NULL;
	Form_pg_proc proc;
	char	   *schema;
	Datum		symbol;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	symbol = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
	for (int i = 0; i < lengthof(functions) && proc->prolang == ClanguageId; i++)
		if (proc->pronargs == functions[i].nargs && strcmp(TextDatumGetCString(symbol), functions[i].symbol) == 0)
			found = &functions[i];
	/* somebody's ALTER FUNCTION: then only the call does what it says */
	if (proc->prosecdef || proc->proisstrict || !heap_attisnull(tuple, Anum_pg_proc_proconfig, NULL) || FmgrHookIsNeeded(fn))
		found = NULL;
	schema = found != NULL ? get_namespace_name(proc->pronamespace) : NULL;
	if (schema == NULL || strcmp(schema, ES_SCHEMA) != 0 || proc->prorettype != es_catalog()->event_type)
		found = NULL;
	ReleaseSysCache(tuple);
	return found;
}

/* a row per call; the executor's callback closes the reader where it stops early, after a LIMIT or for a rescan */
static Datum
next_row(FunctionCallInfo fcinfo, const EsReadFunction *function)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	FmgrInfo   *flinfo = fcinfo->flinfo;
	bool		isnull;

	if (rsi == NULL || !IsA(rsi, ReturnSetInfo) || (rsi->allowedModes & SFRM_ValuePerCall) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	rsi->returnMode = SFRM_ValuePerCall;
	if (flinfo->fn_extra == NULL)
	{
		flinfo->fn_extra = es_reader_open(function, fcinfo, flinfo->fn_mcxt);
		RegisterExprContextCallback(rsi->econtext, stop_reading, PointerGetDatum(flinfo));
	}
	if (es_reader_next(flinfo->fn_extra) != NULL)
	{
		rsi->isDone = ExprMultipleResult;
		return es_reader_value(flinfo->fn_extra, 0, &isnull);
	}
	UnregisterExprContextCallback(rsi->econtext, stop_reading, PointerGetDatum(flinfo));
	stop_reading(PointerGetDatum(flinfo));
	rsi->isDone = ExprEndResult;
	PG_RETURN_NULL();
}

static void
stop_reading(Datum arg)
{
	FmgrInfo   *flinfo = (FmgrInfo *) DatumGetPointer(arg);
	EsReader   *reader = flinfo->fn_extra;

	flinfo->fn_extra = NULL;
	es_reader_close(reader);
}
