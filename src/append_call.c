/*
 * append_call.c
 *		append(), append_events(), append_streams() and append_if() as SQL calls them: arguments in, rows out.  Runs in
 *		backends; keeps nothing.
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
#include "cause.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "options.h"

/* in a rebuild: the events are there already, and nobody knows where; one row of NULLs */
#define RETURN_NO_RESULT(fcinfo) \
	do { \
		(fcinfo)->isnull = true; \
		ES_RETURN_ROW(fcinfo, (Datum) 0); \
	} while (0)

PG_FUNCTION_INFO_V1(evtstore_append);
PG_FUNCTION_INFO_V1(evtstore_append_events);
PG_FUNCTION_INFO_V1(evtstore_append_streams);
PG_FUNCTION_INFO_V1(evtstore_append_if);

static EsAppendPart *parse_parts(Jsonb *appends, int *nparts, int *nevents);
static void parse_part(Jsonb *element, EsAppendPart *part, int number);
static Jsonb *without_null(Jsonb *object, const char *key);
static EsEvent *gather_events(EsAppendPart *parts, int nparts, int nevents);
static void own_events(EsEvent *events, int n, Datum stream);
static int64 check_after(int64 after);
static Datum jsonb_argument(FunctionCallInfo fcinfo, int n, const char *arg);
static void refuse_missing_version(const char *where) es_noreturn;
static EsRequire require_argument(FunctionCallInfo fcinfo, int n);
static EsRequire require_value(const char *require);
static void result_values(const char *stream, const EsAppendResult *result, Datum *values, bool *nulls);

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
	expected = es_append_expected_argument(fcinfo, 3);
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
	require = require_argument(fcinfo, 9);
	event.stream = PG_GETARG_DATUM(0);
	event.tenant = CStringGetTextDatum(es_guc_tenant);

	if (es_cause_is_replay())
		RETURN_NO_RESULT(fcinfo);
	es_append(es_guc_tenant, stream, &event, 1, expected, require, &result);
	ES_RETURN_ROW(fcinfo, es_append_result_row(stream, &result));
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
	int			n;

	if (es_arg_second_call(fcinfo))
		ES_RETURN_DONE(fcinfo);
	stream = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);
	es_arg_required(fcinfo, 1, "events");
	expected = es_append_expected_argument(fcinfo, 2);
	require = require_argument(fcinfo, 3);
	events = es_event_parse_array(PG_GETARG_JSONB_P(1), &n);
	own_events(events, n, PG_GETARG_DATUM(0));

	if (es_cause_is_replay())
		RETURN_NO_RESULT(fcinfo);
	es_append(es_guc_tenant, stream, events, n, expected, require, &result);
	ES_RETURN_ROW(fcinfo, es_append_result_row(stream, &result));
}

/* evtstore.append_streams(appends) */
Datum
evtstore_append_streams(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EsAppendPart *parts;
	EsEvent    *events;
	int			nparts;
	int			nevents;

	InitMaterializedSRF(fcinfo, 0);
	es_arg_required(fcinfo, 0, "appends");
	parts = parse_parts(PG_GETARG_JSONB_P(0), &nparts, &nevents);
	if (nparts == 0 || es_cause_is_replay())
		return (Datum) 0;
	events = gather_events(parts, nparts, nevents);
	es_append_parts(es_guc_tenant, parts, nparts, events, nevents, NULL);
	for (int p = 0; p < nparts; p++)
	{
		Datum		values[6];
		bool		nulls[6];

		result_values(parts[p].stream, &parts[p].result, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* evtstore.append_if(events, fail_if_events_match, after, stream) */
Datum
evtstore_append_if(PG_FUNCTION_ARGS)
{
	EsAppendPart part = {.expected = ES_EXPECT_ANY};
	EsAppendCondition condition;

	if (es_arg_second_call(fcinfo))
		ES_RETURN_DONE(fcinfo);
	es_arg_required(fcinfo, 0, "events");
	es_arg_required(fcinfo, 1, "fail_if_events_match");
	part.stream = es_arg_optional_name(fcinfo, 3, "stream", ES_MAX_STREAM_BYTES);
	part.events = es_event_parse_array(PG_GETARG_JSONB_P(0), &part.n);
	own_events(part.events, part.n, PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3));
	condition.query = es_query_parse(PG_GETARG_JSONB_P(1), "fail_if_events_match");
	condition.after = PG_ARGISNULL(2) ? 0 : check_after(PG_GETARG_INT64(2));

	if (es_cause_is_replay())
		RETURN_NO_RESULT(fcinfo);
	es_append_parts(es_guc_tenant, &part, 1, part.events, part.n, &condition);
	ES_RETURN_ROW(fcinfo, es_append_result_row(part.stream, &part.result));
}

static EsAppendPart *
parse_parts(Jsonb *appends, int *nparts, int *nevents)
{
	EsAppendPart *parts;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	element;
	int			n = 0;

	if (!JB_ROOT_IS_ARRAY(appends) || JB_ROOT_IS_SCALAR(appends))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("appends must be a JSON array"),
				 errhint("Write [{\"stream\": \"order-1\", \"events\": [], \"expected_version\": 0}].")));
	parts = palloc0(Max(JB_ROOT_COUNT(appends), 1) * sizeof(EsAppendPart));
	*nevents = 0;
	it = JsonbIteratorInit(&appends->root);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		parse_part(JsonbValueToJsonb(&element), &parts[n], n + 1);
		*nevents += parts[n].n;
		n++;
	}
	*nparts = n;
	return parts;
}

static void
parse_part(Jsonb *element, EsAppendPart *part, int number)
{
	static const EsOption allowed[] = {
		{"stream", ES_OPTION_STRING},
		{"events", ES_OPTION_ARRAY},
		{"expected_version", ES_OPTION_VERSION},
		{"require", ES_OPTION_STRING},
		{NULL}
	};
	char	   *where = psprintf("element %d of appends", number);
	char	   *stream;
	char	   *require;

	element = without_null(without_null(element, "expected_version"), "require");
	es_options_check(element, allowed, where);
	if (!es_options_has(element, "stream") || !es_options_has(element, "events"))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s has no \"%s\"", where, es_options_has(element, "stream") ? "events" : "stream"),
				 errhint("Each element has \"stream\" and \"events\"; an empty array of events only checks the stream.")));
	stream = es_options_string(element, "stream", "");
	es_arg_check_name(stream, "stream", ES_MAX_STREAM_BYTES);
	part->stream = stream;
	part->events = es_event_parse_array(es_options_array(element, "events"), &part->n);
	own_events(part->events, part->n, CStringGetTextDatum(stream));
	part->expected = es_options_version(element, "expected_version", ES_EXPECT_ANY);
	if (part->expected == ES_EXPECT_ANY && es_guc_require_expected_version)
		refuse_missing_version(psprintf("expected_version in %s", where));
	require = es_options_string(element, "require", NULL);
	part->require = require == NULL ? ES_REQUIRE_NONE : require_value(require);
}

/* drivers write what was not given as null */
static Jsonb *
without_null(Jsonb *object, const char *key)
{
	JsonbValue	v;

	if (!JB_ROOT_IS_OBJECT(object) || getKeyJsonValueFromContainer(&object->root, key, strlen(key), &v) == NULL ||
		v.type != jbvNull)
		return object;
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(object), CStringGetTextDatum(key)));
}

/* in one array, part after part */
static EsEvent *
gather_events(EsAppendPart *parts, int nparts, int nevents)
{
	EsEvent    *all = MemoryContextAllocHuge(CurrentMemoryContext, Max(nevents, 1) * sizeof(EsEvent));
	EsEvent    *next = all;

	for (int p = 0; p < nparts; p++)
	{
		memcpy(next, parts[p].events, parts[p].n * sizeof(EsEvent));
		pfree(parts[p].events);
		parts[p].events = next;
		next += parts[p].n;
	}
	return all;
}

static void
own_events(EsEvent *events, int n, Datum stream)
{
	Datum		tenant = CStringGetTextDatum(es_guc_tenant);

	for (int i = 0; i < n; i++)
	{
		events[i].stream = stream;
		events[i].tenant = tenant;
	}
}

/* a head of the future would let everything pass that comes until then */
static int64
check_after(int64 after)
{
	int64		last;

	if (after < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("after must not be negative: " INT64_FORMAT, after),
				 errhint("Give the head that you took before you read; NULL: anywhere.")));
	last = es_feed_last_allocated();
	if (after > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("after lies above every position: " INT64_FORMAT ", the last is " INT64_FORMAT, after, last),
				 errhint("Give the head that you took before you read: evtstore.head_position().")));
	return after;
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
				 errmsg("%s must be a JSON object, not %s", arg, es_options_shown(value))));
	return JsonbPGetDatum(value);
}

int64
es_append_expected_argument(FunctionCallInfo fcinfo, int n)
{
	int64		expected;

	if (PG_ARGISNULL(n))
	{
		if (es_guc_require_expected_version)
			refuse_missing_version("expected_version");
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

static void
refuse_missing_version(const char *where)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be NULL", where),
			 errdetail("evtstore.require_expected_version is on."),
			 errhint("Give the version that you read; 0 for a new stream.")));
}

static EsRequire
require_argument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return ES_REQUIRE_NONE;
	return require_value(text_to_cstring(PG_GETARG_TEXT_PP(n)));
}

static EsRequire
require_value(const char *require)
{
	if (strcmp(require, "exists") == 0)
		return ES_REQUIRE_EXISTS;
	if (strcmp(require, "deleted") == 0)
		return ES_REQUIRE_DELETED;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown value of require: \"%s\"", es_arg_shown(require, strlen(require))),
			 errhint("Known values: 'exists', 'deleted'.")));
}

/* what was not written is NULL: versions of events without a stream, positions where nothing was written */
static void
result_values(const char *stream, const EsAppendResult *result, Datum *values, bool *nulls)
{
	nulls[0] = stream == NULL;
	values[0] = stream == NULL ? (Datum) 0 : CStringGetTextDatum(stream);
	values[1] = Int64GetDatum(result->first_version);
	values[2] = Int64GetDatum(result->version);
	values[3] = Int64GetDatum(result->first_position);
	values[4] = Int64GetDatum(result->position);
	values[5] = BoolGetDatum(result->duplicate);
	nulls[1] = result->first_version == 0;
	nulls[2] = stream == NULL;
	nulls[3] = result->first_position == 0;
	nulls[4] = result->position == 0;
	nulls[5] = false;
}

Datum
es_append_result_row(const char *stream, const EsAppendResult *result)
{
	Datum		values[6];
	bool		nulls[6];
	TupleDesc	desc = es_arg_row_desc(es_catalog()->append_result_type);

	result_values(stream, result, values, nulls);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
