/*
 * endpoint_status.c
 *		What endpoints do, for views: the rows of evtstore.endpoint_status and evtstore.endpoint_attempts.
 *
 * Runs in backends; reads copies out of shared memory (endpoint_state.c).  Writes nothing.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "definition.h"
#include "endpoint_state.h"
#include "evtstore.h"

PG_FUNCTION_INFO_V1(evtstore_endpoint_figures);
PG_FUNCTION_INFO_V1(evtstore_endpoint_tries);

static void put_figures(ReturnSetInfo *result, int32 id, const EsEndpointView *view);
static void put_tries(ReturnSetInfo *result, int32 id, const EsEndpointView *view);
static void for_each(ReturnSetInfo *result, void (*put) (ReturnSetInfo *, int32, const EsEndpointView *));
static void put_text(Datum *values, bool *nulls, int i, const char *text);
static void put_time(Datum *values, bool *nulls, int i, TimestampTz at);
static void put_interval(Datum *values, bool *nulls, int i, double us);

/* evtstore_internal.endpoint_figures(): one row for each endpoint that a relay has had since the start of the server */
Datum
evtstore_endpoint_figures(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for_each((ReturnSetInfo *) fcinfo->resultinfo, put_figures);
	PG_RETURN_NULL();
}

/* evtstore_internal.endpoint_tries(): the last attempts of each */
Datum
evtstore_endpoint_tries(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for_each((ReturnSetInfo *) fcinfo->resultinfo, put_tries);
	PG_RETURN_NULL();
}

static void
for_each(ReturnSetInfo *result, void (*put) (ReturnSetInfo *, int32, const EsEndpointView *))
{
	EsEndpointView *view = palloc(sizeof(EsEndpointView));
	ListCell   *lc;

	foreach(lc, es_definition_list("endpoint"))
	{
		int32		id = ((EsDefinition *) lfirst(lc))->id;

		if (es_endpoint_state_look(id, view))
			put(result, id, view);
	}
}

static void
put_figures(ReturnSetInfo *result, int32 id, const EsEndpointView *view)
{
	static const char *const breakers[] = {
		[ES_BREAKER_CLOSED] = "closed",
		[ES_BREAKER_OPEN] = "open",
		[ES_BREAKER_HALF_OPEN] = "half_open",
	};
	Datum		values[11];
	bool		nulls[11] = {0};

	values[0] = Int32GetDatum(id);
	put_text(values, nulls, 1, breakers[view->breaker]);
	values[2] = Int32GetDatum(view->in_flight);
	values[3] = Int64GetDatum(view->delivered);
	values[4] = Int64GetDatum(view->failed);
	put_interval(values, nulls, 5, es_endpoint_state_latency(view, 0.5));
	put_interval(values, nulls, 6, es_endpoint_state_latency(view, 0.99));
	put_text(values, nulls, 7, view->fault[0] != '\0' ? view->fault : view->last_error);
	put_time(values, nulls, 8, view->failed_at);
	put_time(values, nulls, 9, view->not_before > GetCurrentTimestamp() ? view->not_before : 0);
	values[10] = BoolGetDatum(view->fault[0] != '\0');
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
put_tries(ReturnSetInfo *result, int32 id, const EsEndpointView *view)
{
	for (uint64 n = Min(view->nattempts, ES_ENDPOINT_ATTEMPTS); n > 0; n--)
	{
		const EsEndpointAttempt *attempt = &view->attempts[(view->nattempts - n) % ES_ENDPOINT_ATTEMPTS];
		Datum		values[9];
		bool		nulls[9] = {0};

		values[0] = Int32GetDatum(id);
		values[1] = Int32GetDatum(attempt->route);
		values[2] = Int64GetDatum(attempt->number);
		values[3] = Int32GetDatum(attempt->attempt);
		put_time(values, nulls, 4, attempt->at);
		put_interval(values, nulls, 5, attempt->us);
		put_text(values, nulls, 6, es_endpoint_state_outcome(attempt->outcome));
		values[7] = Int32GetDatum(attempt->status);
		nulls[7] = attempt->status == 0;
		put_text(values, nulls, 8, attempt->error);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

static void
put_text(Datum *values, bool *nulls, int i, const char *text)
{
	nulls[i] = text[0] == '\0';
	values[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(text);
}

static void
put_time(Datum *values, bool *nulls, int i, TimestampTz at)
{
	nulls[i] = at == 0;
	values[i] = TimestampTzGetDatum(at);
}

static void
put_interval(Datum *values, bool *nulls, int i, double us)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = (TimeOffset) us;
	nulls[i] = us < 0;
	values[i] = IntervalPGetDatum(interval);
}
