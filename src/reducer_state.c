/*
 * reducer_state.c
 *		state_of: the state of a stream, now, at a version, or at a moment of the past.
 *
 * Runs in backends.  The newest usable snapshot, then the events behind it in order of version; each step's garbage is
 * thrown away with its event, so memory is that of two states and one event.  The function of a reducer runs as its owner
 * under the search_path of its creator, like the handlers of projections.  Where events are folded that no snapshot covers,
 * one may be kept (snapshot.c).  Takes no lock that an appender waits for; a crash leaves nothing but kept snapshots.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "history.h"
#include "index_scan.h"
#include "ledger.h"
#include "reducer.h"
#include "snapshot.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(evtstore_state_of);

typedef struct Fold
{
	EsReducer  *reducer;
	EsStream   *stream;
	FmgrInfo	function;
	MemoryContext contexts[2];	/* the state is in that of turn; the next one is made in the other */
	int			turn;
	MemoryContext event_context;
	Jsonb	   *state;
	EsMerge    *merge;			/* has the state instead while it is not NULL */
	int64		version;		/* of the event that went in last */
	int64		folded;
} Fold;

/* which state is wanted */
typedef struct Aim
{
	bool		has_moment;
	TimestampTz moment;
	int64		position;		/* of the moment */
	bool		has_version;
	int64		version;
} Aim;

static Aim	aim_arguments(FunctionCallInfo fcinfo);
static int64 find_version(const EsStream *stream, const Aim *aim);
static void begin_fold(Fold *fold, EsReducer *reducer, EsStream *stream);
static void fold_events(Fold *fold, int64 last);
static void fold_one(Fold *fold, TupleTableSlot *slot);
static Jsonb *merge_one(Fold *fold, Jsonb *data);
static Jsonb *call_function(Fold *fold, TupleTableSlot *slot);
static void describe_place(void *arg);

/* evtstore.state_of(stream, reducer, as_of, as_of_version) */
Datum
evtstore_state_of(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	EsReducer  *reducer = es_reducer_get(es_arg_name(fcinfo, 1, "reducer", ES_MAX_NAME_BYTES));
	Aim			aim = aim_arguments(fcinfo);
	EsStream   *stream;
	Fold		fold;
	int64		start;
	int64		last;
	Datum		state;
	Jsonb	   *result;

	if (aim.has_moment)
		aim.position = es_ledger_begin_read(aim.moment);
	else
		es_feed_begin_stream_read();
	stream = es_stream_find(es_guc_tenant, name);
	last = stream->id == 0 ? 0 : find_version(stream, &aim);
	if (last == 0)
	{
		es_feed_end_read();
		PG_RETURN_NULL();
	}

	begin_fold(&fold, reducer, stream);
	start = es_stream_life_start(stream->id, last, GetActiveSnapshot());
	if (es_snapshot_find(stream, ES_SNAPSHOT_REDUCER, reducer->name, reducer->fingerprint, last, &fold.version, &state) &&
		fold.version >= start)
		fold.state = DatumGetJsonbP(state);
	else
		fold.version = start - 1;
	es_history_require(stream, fold.version + 1, last);
	if (fold.version < last)
		fold_events(&fold, last);
	es_feed_end_read();

	if (!aim.has_moment && !aim.has_version && reducer->snapshot_every > 0 && fold.folded >= reducer->snapshot_every &&
		!XactReadOnly && !RecoveryInProgress() && !IsInParallelMode())
		es_snapshot_keep(stream, reducer->name, reducer->fingerprint, fold.version, JsonbPGetDatum(fold.state));
	result = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(fold.state));
	MemoryContextDelete(fold.event_context);
	MemoryContextDelete(fold.contexts[0]);
	MemoryContextDelete(fold.contexts[1]);
	PG_RETURN_JSONB_P(result);
}

static Aim
aim_arguments(FunctionCallInfo fcinfo)
{
	Aim			aim = {.has_moment = !PG_ARGISNULL(2), .has_version = !PG_ARGISNULL(3)};

	if (aim.has_moment && aim.has_version)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("as_of and as_of_version exclude each other"),
				 errhint("Give the moment or the version.")));
	if (aim.has_moment)
		aim.moment = es_ledger_moment(fcinfo, 2, "as_of");
	if (aim.has_version)
		aim.version = PG_GETARG_INT64(3);
	if (aim.version < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("as_of_version must not be negative: " INT64_FORMAT, aim.version),
				 errhint("NULL: the version that the stream is at.")));
	return aim;
}

/* the version that the state is of; 0 where there was no event yet, or the stream was deleted */
static int64
find_version(const EsStream *stream, const Aim *aim)
{
	EsStreamState state = es_stream_state_at(stream->id, aim->has_moment ? aim->position : PG_INT64_MAX, GetActiveSnapshot());
	int64		last;

	if (state.status != ES_STREAM_LIVE)
		return 0;
	if (aim->has_moment)
		return es_history_version_at(stream, aim->position, aim->moment);
	last = Max(es_history_last_version(stream), state.truncate_before - 1);
	if (!aim->has_version)
		return last;
	if (last > 0 && aim->version > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("as_of_version is in the future: stream \"%s\" is at version " INT64_FORMAT ", not " INT64_FORMAT,
						stream->name, last, aim->version),
				 errhint("Only of a past version it is known what belongs to it.")));
	return Min(aim->version, last);
}

static void
begin_fold(Fold *fold, EsReducer *reducer, EsStream *stream)
{
	memset(fold, 0, sizeof(*fold));
	fold->reducer = reducer;
	fold->stream = stream;
	fold->state = reducer->initial;
	for (int i = 0; i < 2; i++)
		fold->contexts[i] = AllocSetContextCreate(CurrentMemoryContext, "evtstore state", ALLOCSET_DEFAULT_SIZES);
	fold->event_context = AllocSetContextCreate(CurrentMemoryContext, "evtstore event", ALLOCSET_DEFAULT_SIZES);
	fmgr_info(reducer->function, &fold->function);
}

/* those behind the fold's version, up to last, under the active snapshot */
static void
fold_events(Fold *fold, int64 last)
{
	EsIndexScan scan;
	ErrorContextCallback context = {.callback = describe_place, .arg = fold, .previous = error_context_stack};
	ScanKeyData keys[3];
	EsSpiState	state;

	es_index_scan_open(&scan, es_catalog()->event, es_catalog()->event_stream_version, GetActiveSnapshot());
	error_context_stack = &context;
	if (fold->reducer->fold == ES_FOLD_FUNCTION)
	{
		es_spi_become(&state, fold->reducer->owner, fold->reducer->search_path);
		if (!es_may_execute(fold->reducer->function, GetUserId()))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for function %s", fold->reducer->fn),
					 errhint("Grant EXECUTE on it to \"%s\", the owner of the reducer.", fold->reducer->owner)));
	}
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(fold->stream->id));
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(fold->version));
	ScanKeyInit(&keys[2], 2, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(last));
	es_index_scan_start(&scan, keys, 3);
	if (fold->reducer->fold == ES_FOLD_MERGE_DATA)
		fold->merge = es_reducer_merge_begin(fold->state);
	while (es_index_scan_next(&scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		fold_one(fold, scan.slot);
	}
	if (fold->merge != NULL)
		fold->state = es_reducer_merge_end(fold->merge);
	if (fold->reducer->fold == ES_FOLD_FUNCTION)
		es_spi_unbecome(&state);
	error_context_stack = context.previous;
	es_index_scan_close(&scan);
}

static void
fold_one(Fold *fold, TupleTableSlot *slot)
{
	MemoryContext next = fold->contexts[1 - fold->turn];
	MemoryContext caller = MemoryContextSwitchTo(fold->event_context);
	Jsonb	   *made;
	bool		isnull;

	fold->version = DatumGetInt64(slot_getattr(slot, ES_EVENT_VERSION + 1, &isnull));
	if (fold->reducer->fold == ES_FOLD_FUNCTION)
		made = call_function(fold, slot);
	else
		made = merge_one(fold, DatumGetJsonbP(slot_getattr(slot, ES_EVENT_DATA + 1, &isnull)));
	if (made != fold->state)
	{
		MemoryContextSwitchTo(next);
		fold->state = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(made));
		MemoryContextReset(fold->contexts[fold->turn]);
		fold->turn = 1 - fold->turn;
	}
	fold->folded++;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(fold->event_context);
}

static Jsonb *
merge_one(Fold *fold, Jsonb *data)
{
	if (fold->merge != NULL && es_reducer_merge_add(fold->merge, data))
		return fold->state;
	if (fold->merge != NULL)
	{
		/* from now on the state is no object: where || makes an array of it, it stays one */
		MemoryContext old = MemoryContextSwitchTo(fold->contexts[fold->turn]);

		fold->state = es_reducer_merge_end(fold->merge);
		fold->merge = NULL;
		MemoryContextSwitchTo(old);
	}
	return es_reducer_merge(fold->reducer->fold, fold->state, data);
}

static Jsonb *
call_function(Fold *fold, TupleTableSlot *slot)
{
	LOCAL_FCINFO(call, 2);
	EsEvent		event;
	Datum		result;

	es_event_from_slot(slot, &event);
	InitFunctionCallInfoData(*call, &fold->function, 2, InvalidOid, NULL, NULL);
	call->args[0].value = JsonbPGetDatum(fold->state);
	call->args[0].isnull = false;
	call->args[1].value = es_event_datum(&event);
	call->args[1].isnull = false;
	result = FunctionCallInvoke(call);
	if (call->isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("reducer \"%s\" returned NULL", fold->reducer->name),
				 errhint("Return the state as it is for events that do not change it.")));
	return DatumGetJsonbP(result);
}

static void
describe_place(void *arg)
{
	Fold	   *fold = arg;

	errcontext("reducer \"%s\" of stream \"%s\" at version " INT64_FORMAT, fold->reducer->name, fold->stream->name,
			   fold->version);
}
