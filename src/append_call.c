/*
 * append_call.c
 *		append() and append_events() as SQL calls them: arguments in, one row out.  Runs in backends; keeps nothing.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "append.h"
#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "guc.h"

PG_FUNCTION_INFO_V1(evtstore_append);
PG_FUNCTION_INFO_V1(evtstore_append_events);

static Datum jsonb_argument(FunctionCallInfo fcinfo, int n, const char *arg);
static int64 expected_argument(FunctionCallInfo fcinfo, int n);
static EsRequire require_argument(FunctionCallInfo fcinfo, int n, int64 expected);
static Datum result_row(const char *stream, const EsAppendResult *result);

/* evtstore.append(stream, type, data, expected_version, metadata, tags, id, schema_version, occurred_at, require) */
Datum
evtstore_append(PG_FUNCTION_ARGS)
{
	EsEvent		event = {0};
	EsAppendResult result;
	char	   *stream;
	int64		expected;
	EsRequire	require;

	if (es_arg_second_call(fcinfo))
		ES_RETURN_DONE(fcinfo);
	stream = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	es_arg_name(fcinfo, 1, "type", ES_MAX_TYPE_BYTES);
	event.type = PointerGetDatum(PG_GETARG_TEXT_PP(1));
	es_arg_required(fcinfo, 2, "data");
	event.data = JsonbPGetDatum(PG_GETARG_JSONB_P(2));
	expected = expected_argument(fcinfo, 3);
	event.metadata = es_event_stamp(jsonb_argument(fcinfo, 4, "metadata"));
	event.tags = PG_ARGISNULL(5) ? es_event_no_tags() : PG_GETARG_DATUM(5);
	es_event_check_tags(event.tags);
	if (!PG_ARGISNULL(6))
	{
		event.id = *PG_GETARG_UUID_P(6);
		event.has_id = true;
	}
	event.schema_version = PG_ARGISNULL(7) ? 1 : PG_GETARG_INT32(7);
	if (event.schema_version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schema_version must be above 0, not %d", event.schema_version)));
	if (!PG_ARGISNULL(8))
	{
		event.occurred_at = PG_GETARG_TIMESTAMPTZ(8);
		event.has_occurred_at = true;
	}
	require = require_argument(fcinfo, 9, expected);
	event.stream = PG_GETARG_DATUM(0);
	event.tenant = CStringGetTextDatum(es_guc_tenant);

	es_append(es_guc_tenant, stream, &event, 1, expected, require, &result);
	ES_RETURN_ROW(fcinfo, result_row(stream, &result));
}

/* evtstore.append_events(stream, events, expected_version, require) */
Datum
evtstore_append_events(PG_FUNCTION_ARGS)
{
	EsEvent    *events;
	EsAppendResult result;
	char	   *stream;
	int64		expected;
	EsRequire	require;
	Datum		tenant;
	int			n;

	if (es_arg_second_call(fcinfo))
		ES_RETURN_DONE(fcinfo);
	stream = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	es_arg_required(fcinfo, 1, "events");
	expected = expected_argument(fcinfo, 2);
	require = require_argument(fcinfo, 3, expected);
	events = es_event_parse_array(PG_GETARG_JSONB_P(1), &n);
	tenant = CStringGetTextDatum(es_guc_tenant);
	for (int i = 0; i < n; i++)
	{
		events[i].stream = PG_GETARG_DATUM(0);
		events[i].tenant = tenant;
	}

	es_append(es_guc_tenant, stream, events, n, expected, require, &result);
	ES_RETURN_ROW(fcinfo, result_row(stream, &result));
}

/* NULL stands for the empty object; anything but an object is refused */
static Datum
jsonb_argument(FunctionCallInfo fcinfo, int n, const char *arg)
{
	Jsonb	   *value;

	if (PG_ARGISNULL(n))
		return DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	value = PG_GETARG_JSONB_P(n);
	if (!JB_ROOT_IS_OBJECT(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a JSON object, not %s", arg, JsonbToCString(NULL, &value->root, VARSIZE(value)))));
	return JsonbPGetDatum(value);
}

static int64
expected_argument(FunctionCallInfo fcinfo, int n)
{
	int64		expected;

	if (PG_ARGISNULL(n))
	{
		if (es_guc_require_expected_version)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("expected_version must not be NULL"),
					 errdetail("evtstore.require_expected_version is on."),
					 errhint("Give the version that you read; 0 for a new stream.")));
		return ES_EXPECT_ANY;
	}
	expected = PG_GETARG_INT64(n);
	if (expected < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expected_version must not be negative: " INT64_FORMAT, expected),
				 errhint("NULL: any version; 0: the stream must not exist; n: exactly n.")));
	return expected;
}

static EsRequire
require_argument(FunctionCallInfo fcinfo, int n, int64 expected)
{
	char	   *require;

	if (PG_ARGISNULL(n))
		return ES_REQUIRE_NONE;
	require = text_to_cstring(PG_GETARG_TEXT_PP(n));
	if (strcmp(require, "exists") == 0)
		return ES_REQUIRE_EXISTS;
	if (strcmp(require, "deleted") == 0)
		return ES_REQUIRE_DELETED;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown value of require: \"%s\"", require),
			 errhint("Known values: 'exists', 'deleted'.")));
}

static Datum
result_row(const char *stream, const EsAppendResult *result)
{
	Datum		values[6];
	bool		nulls[6] = {0};
	TupleDesc	desc = es_arg_row_desc(es_catalog()->append_result_type);

	values[0] = CStringGetTextDatum(stream);
	values[1] = Int64GetDatum(result->first_version);
	values[2] = Int64GetDatum(result->version);
	values[3] = Int64GetDatum(result->first_position);
	values[4] = Int64GetDatum(result->position);
	values[5] = BoolGetDatum(result->duplicate);
	/* an empty batch wrote nothing: only the version means something */
	nulls[1] = result->first_version == 0;
	nulls[3] = result->first_position == 0;
	nulls[4] = result->position == 0;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
