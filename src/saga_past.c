/*
 * saga_past.c
 *		Instances of sagas as they were at a moment, from their events.
 *
 * Runs in backends, in the caller's transaction, and reads what is committed.  Each event of the stream saga-ID has the instance and those of its steps that its
 * transition changed, as they were then (saga_move.c); so of each the last word up to a moment is how it was, and no state has to be
 * computed.  Takes no lock; writes at most the row of the ledger that position_at may need.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

#include "arg.h"
#include "compat.h"
#include "error.h"
#include "feed.h"
#include "history.h"
#include "ledger.h"
#include "queue.h"
#include "saga_move.h"
#include "spi.h"
#include "stream.h"

PG_FUNCTION_INFO_V1(evtstore_saga_at);
PG_FUNCTION_INFO_V1(evtstore_sagas_at);

#define SAGA_AT_COLUMNS 10
#define SAGAS_AT_COLUMNS 9

static EsPlan instance_plan = {
	.sql = "SELECT definition_id, version, tenant FROM evtstore_internal.saga WHERE id = $1 AND ($2 = '' OR tenant = $2)",
	.nargs = 2,
	.args = {UUIDOID, TEXTOID},
};

/* what an application appended to the stream is none of ours */
#define TOLD "type LIKE 'Saga%' AND pg_catalog.jsonb_typeof(data->'status') = 'string'"

static EsPlan begins_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.event WHERE stream_id = $1 AND version = $2 AND type = 'SagaStarted'",
	.nargs = 2,
	.args = {INT8OID, INT8OID},
};

/* the instance, as number 0; then its steps */
static EsPlan fold_plan = {
	.sql = "WITH told AS MATERIALIZED (SELECT version, recorded_at, data FROM evtstore_internal.event"
	" WHERE stream_id = $1 AND version BETWEEN $2 AND $3 AND " TOLD ")"
	" (SELECT 0, 'saga', NULL, data->>'status', NULL::int, NULL::int, data->>'error', data->>'cause', data->>'reason', recorded_at"
	" FROM told ORDER BY version DESC LIMIT 1)"
	" UNION ALL"
	" (SELECT DISTINCT ON (t.seq) t.seq, COALESCE(t.step->>'kind', 'task'), t.step->>'state', t.step->>'status', (t.step->>'attempt')::int,"
	" COALESCE((t.step->>'undoes')::int, 0), t.step->>'error', t.step->>'cause', NULL, t.recorded_at"
	" FROM (SELECT (s.step->>'seq')::int AS seq, s.step, told.version, told.recorded_at"
	" FROM told CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(told.data->'steps') AS s(step)) t"
	" WHERE t.step->>'kind' IS DISTINCT FROM 'stop'"
	" ORDER BY t.seq, t.version DESC)",
	.nargs = 3,
	.args = {INT8OID, INT8OID, INT8OID},
};

/* $1: the position, $2: the tenant */
static EsPlan all_plan = {
	.sql = "SELECT pg_catalog.substr(s.name, 6)::uuid, e.data->>'saga', (e.data->>'version')::int, e.data->>'business_key', e.data->>'status', e.data->>'error',"
	" e.data->>'reason', e.recorded_at, s.tenant"
	" FROM evtstore_internal.stream s"
	" CROSS JOIN LATERAL (SELECT data, recorded_at FROM evtstore_internal.event WHERE stream_id = s.id AND position <= $1 AND " TOLD
	" ORDER BY version DESC LIMIT 1) e"
	" WHERE s.category = 'saga' AND ($2 = '' OR s.tenant = $2)"
	" AND s.name ~ '^saga-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'",
	.nargs = 2,
	.args = {INT8OID, TEXTOID},
};

static void fold(FunctionCallInfo fcinfo, const pg_uuid_t *id, const EsStream *stream, int64 position, TimestampTz at);
static bool find_instance(const pg_uuid_t *id, char **tenant);
static void refuse_incomplete(const pg_uuid_t *id, const char *detail) es_noreturn;
static bool begins_with_start(const EsStream *stream, int64 version);
static void put_rows(FunctionCallInfo fcinfo, EsPlan *plan, Datum *values, int ncolumns);

/*
 * saga_at(id uuid, at timestamptz) -> table(seq int, kind text, state text, status text, attempt int, undoes int, error text, cause text, reason text,
 * recorded_at timestamptz); evtstore_reader
 */
Datum
evtstore_saga_at(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *id;
	TimestampTz at;
	char	   *tenant;
	bool		is_there;
	int64		position;
	EsStream   *stream;

	es_arg_required(fcinfo, 0, "id");
	id = PG_GETARG_UUID_P(0);
	at = es_ledger_moment(fcinfo, 1, "at");
	InitMaterializedSRF(fcinfo, 0);
	is_there = find_instance(id, &tenant);
	position = es_ledger_begin_read(at);
	stream = es_stream_find(tenant, psprintf("saga-%s", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)))));
	/* one that was removed is known by its events */
	if (stream->id == 0 && !is_there)
		es_move_refuse_unknown(id);
	if (stream->id != 0)
		fold(fcinfo, id, stream, position, at);
	es_feed_end_read();
	return (Datum) 0;
}

/* what readers of the stream saw then, all of which has to be there */
static void
fold(FunctionCallInfo fcinfo, const pg_uuid_t *id, const EsStream *stream, int64 position, TimestampTz at)
{
	EsStreamState state = es_stream_state_at(stream->id, position, GetActiveSnapshot());
	int64		last = es_history_version_at(stream, position, at);
	Datum		values[3] = {Int64GetDatum(stream->id), Int64GetDatum(state.truncate_before), Int64GetDatum(last)};

	if (last == 0)
		return;
	es_history_require(stream, state.truncate_before, last);
	if (state.status != ES_STREAM_LIVE || !begins_with_start(stream, state.truncate_before))
		refuse_incomplete(id, "The first event of its stream is not that of its start.");
	put_rows(fcinfo, &fold_plan, values, SAGA_AT_COLUMNS);
}

/*
 * sagas_at(at timestamptz) -> table(id uuid, name text, version int, business_key text, status text, error text, reason text, recorded_at
 * timestamptz, tenant text); evtstore_reader
 */
Datum
evtstore_sagas_at(PG_FUNCTION_ARGS)
{
	TimestampTz at = es_ledger_moment(fcinfo, 0, "at");
	Datum		values[2];

	InitMaterializedSRF(fcinfo, 0);
	values[0] = Int64GetDatum(es_ledger_begin_read(at));
	values[1] = CStringGetTextDatum(es_queue_tenant());
	put_rows(fcinfo, &all_plan, values, SAGAS_AT_COLUMNS);
	es_feed_end_read();
	return (Datum) 0;
}

/* ST012 where its definition says that it has no events.  False: it is not there, or is another tenant's */
static bool
find_instance(const pg_uuid_t *id, char **tenant)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[2] = {UUIDPGetDatum(id), CStringGetTextDatum(es_queue_tenant())};
	const EsSagaVersion *version = NULL;
	EsSpiState	state;
	bool		found;

	*tenant = pstrdup(es_queue_tenant());
	es_queue_spi_begin(&state);
	found = es_spi_run_latest(&instance_plan, values, NULL) > 0;
	if (found)
	{
		int32		definition_id = es_spi_int32(0, 0);
		int			number = es_spi_int32(0, 1);

		*tenant = MemoryContextStrdup(context, es_spi_text(0, 2));
		version = es_saga_version_by_id(definition_id, number);
	}
	es_spi_end(&state);
	if (version != NULL && version->definition->is_silent)
		refuse_incomplete(id, "Its definition has \"Events\": false.");
	return found;
}

static void
refuse_incomplete(const pg_uuid_t *id, const char *detail)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_HISTORY_GONE),
			 errmsg("saga %s has no events that tell how it was", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)))),
			 errdetail("%s", detail),
			 errhint("The views evtstore.sagas and evtstore.saga_steps tell how it is.")));
}

static bool
begins_with_start(const EsStream *stream, int64 version)
{
	Datum		values[2] = {Int64GetDatum(stream->id), Int64GetDatum(version)};
	EsSpiState	state;
	bool		result;

	es_queue_spi_begin(&state);
	result = es_spi_run(&begins_plan, values, NULL, true, 1) > 0;
	es_spi_end(&state);
	return result;
}

/* of the active snapshot */
static void
put_rows(FunctionCallInfo fcinfo, EsPlan *plan, Datum *values, int ncolumns)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EsSpiState	state;
	uint64		n;

	es_queue_spi_begin(&state);
	n = es_spi_run(plan, values, NULL, true, 0);
	for (uint64 row = 0; row < n; row++)
	{
		Datum		columns[SAGA_AT_COLUMNS];
		bool		nulls[SAGA_AT_COLUMNS];

		for (int i = 0; i < ncolumns; i++)
			columns[i] = es_spi_value(row, i, &nulls[i]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, columns, nulls);
	}
	es_spi_end(&state);
}
