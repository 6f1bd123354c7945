/*
 * stream_policy.c
 *		What streams keep: set_stream_policy(), set_category_policy(), and the first version that readers see.
 *
 * Runs in backends, and in the scheduler where it scavenges.  A policy is a row by tenant and name of the stream or
 * category; it takes no lock of the stream and holds nobody.  Readers apply it when they read, so it is in force with
 * the commit, whenever events are removed.  One that is taken back gives back what was not removed yet.
 *
 * The age of an event is the time since its recorded_at.  Along a stream these grow, because they are taken with the
 * stream locked, unless the machine's clock is set back; so where the old events end is found by halving, and not by
 * reading them.
 *
 * Nothing is cached or shared; a crash leaves a policy or none.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "evtstore.h"
#include "guc.h"
#include "index_scan.h"
#include "options.h"
#include "spi.h"
#include "stream_policy.h"

PG_FUNCTION_INFO_V1(evtstore_set_stream_policy);
PG_FUNCTION_INFO_V1(evtstore_set_category_policy);

/* columns of evtstore_internal.policy and event that are looked at, from 1 */
#define POLICY_MAX_AGE 4
#define POLICY_MAX_COUNT 5
#define POLICY_TRUNCATE_BEFORE 6
#define EVENT_VERSION 3
#define EVENT_RECORDED_AT 8

#define KIND_STREAM "stream"
#define KIND_CATEGORY "category"

/* integers that a JSON number holds exactly in a double */
#define MAX_EXACT 9007199254740992.0

static const EsOption policy_options[] = {
	{"max_age", ES_OPTION_INTERVAL, 0.001, 100.0 * 366 * SECS_PER_DAY},
	{"max_count", ES_OPTION_NUMBER, 1, MAX_EXACT},
	{"truncate_before", ES_OPTION_NUMBER, 1, MAX_EXACT},
	{NULL}
};

/* events of one stream by version, under one snapshot */
typedef struct Events
{
	int64		stream_id;
	EsIndexScan scan;
} Events;

static void set_policy(const char *kind, const char *name, Jsonb *policy);
static Jsonb *without_nulls(Jsonb *policy);
static int64 whole_number(Jsonb *policy, const char *key, const char *what);
static bool look_up(const char *tenant, const char *kind, const char *name, int len, Snapshot snapshot,
					EsStreamPolicy *policy);
static int64 field(TupleTableSlot *slot, AttrNumber attno);
static int64 policy_start(const EsStream *stream, const EsStreamPolicy *policy, int64 from, Snapshot snapshot,
						  int64 *last);
static int64 first_young(Events *events, int64 from, int64 last, TimestampTz cutoff);
static void open_events(Events *events, int64 stream_id, Snapshot snapshot);
static bool event_at(Events *events, int64 from, ScanDirection direction, int64 *version, TimestampTz *recorded_at);
static void close_events(Events *events);

static EsPlan upsert_plan = {
	.sql = "INSERT INTO evtstore_internal.policy (tenant, kind, name, max_age_ms, max_count, truncate_before, recorded_at)"
	" VALUES ($1, $2, $3, nullif($4, 0), nullif($5, 0), nullif($6, 0), clock_timestamp())"
	" ON CONFLICT (tenant, kind, name) DO UPDATE SET max_age_ms = excluded.max_age_ms, max_count = excluded.max_count,"
	" truncate_before = excluded.truncate_before, recorded_at = excluded.recorded_at",
	.nargs = 6,
	.args = {TEXTOID, TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID},
};

static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.policy WHERE tenant = $1 AND kind = $2 AND name = $3",
	.nargs = 3,
	.args = {TEXTOID, TEXTOID, TEXTOID},
};

/* evtstore.set_stream_policy(stream, policy) */
Datum
evtstore_set_stream_policy(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "stream", ES_MAX_STREAM_BYTES);

	es_arg_required(fcinfo, 1, "policy");
	set_policy(KIND_STREAM, name, PG_GETARG_JSONB_P(1));
	PG_RETURN_VOID();
}

/* evtstore.set_category_policy(category, policy) */
Datum
evtstore_set_category_policy(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "category", ES_MAX_STREAM_BYTES);

	if (strchr(name, '-') != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("category must not contain \"-\": \"%s\"", name),
				 errhint("The category of a stream is the text before its first \"-\": \"%.*s\".",
						 es_stream_category_len(name, strlen(name)), name)));
	es_arg_required(fcinfo, 1, "policy");
	set_policy(KIND_CATEGORY, name, PG_GETARG_JSONB_P(1));
	PG_RETURN_VOID();
}

/* replaces what was there; nothing given, nothing stays */
static void
set_policy(const char *kind, const char *name, Jsonb *given)
{
	char	   *what = psprintf("policy of %s \"%s\"", kind, name);
	Jsonb	   *policy = without_nulls(given);
	Datum		values[6] = {CStringGetTextDatum(es_guc_tenant), CStringGetTextDatum(kind), CStringGetTextDatum(name)};
	int64		max_age_ms;
	int64		max_count;
	int64		truncate_before;
	EsSpiState	state;

	es_options_check(policy, policy_options, what);
	max_age_ms = es_options_interval_ms(policy, "max_age", 0);
	max_count = whole_number(policy, "max_count", what);
	truncate_before = whole_number(policy, "truncate_before", what);
	es_catalog_require_writable(kind[0] == 's' ? "set_stream_policy" : "set_category_policy");
	values[3] = Int64GetDatum(max_age_ms);
	values[4] = Int64GetDatum(max_count);
	values[5] = Int64GetDatum(truncate_before);
	es_spi_begin(&state);
	es_spi_run(max_age_ms == 0 && max_count == 0 && truncate_before == 0 ? &delete_plan : &upsert_plan,
			   values, NULL, false, 0);
	es_spi_end(&state);
}

/* a known key that is null is one that is not given; others are left for es_options_check to refuse */
static Jsonb *
without_nulls(Jsonb *policy)
{
	if (!JB_ROOT_IS_OBJECT(policy))
		return policy;
	for (const EsOption *o = policy_options; o->name != NULL; o++)
	{
		JsonbValue	store;
		JsonbValue *value = getKeyJsonValueFromContainer(&policy->root, o->name, strlen(o->name), &store);

		if (value != NULL && value->type == jbvNull)
			policy = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(policy), CStringGetTextDatum(o->name)));
	}
	return policy;
}

/* 0 where the key is absent */
static int64
whole_number(Jsonb *policy, const char *key, const char *what)
{
	double		value = es_options_number(policy, key, 0);

	if (value != (double) (int64) value)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" in %s must be an integer, not %g", key, what, value),
				 errhint("It is a number of events or a version.")));
	return (int64) value;
}

EsStreamPolicy
es_stream_policy(const EsStream *stream, Snapshot snapshot)
{
	EsStreamPolicy own = {0};
	EsStreamPolicy category = {0};
	int			len = strlen(stream->name);
	int			category_len = es_stream_category_len(stream->name, len);

	look_up(stream->tenant, KIND_STREAM, stream->name, len, snapshot, &own);
	if (look_up(stream->tenant, KIND_CATEGORY, stream->name, category_len, snapshot, &category))
	{
		if (own.max_age_ms == 0)
			own.max_age_ms = category.max_age_ms;
		if (own.max_count == 0)
			own.max_count = category.max_count;
		if (own.truncate_before == 0)
			own.truncate_before = category.truncate_before;
	}
	return own;
}

bool
es_stream_policy_is_empty(const EsStreamPolicy *policy)
{
	return policy->max_age_ms == 0 && policy->max_count == 0 && policy->truncate_before == 0;
}

int64
es_stream_first_visible(const EsStream *stream, Snapshot snapshot)
{
	EsStreamState state = es_stream_state_at(stream->id, PG_INT64_MAX, snapshot);
	EsStreamPolicy policy;
	int64		last;

	/* a deleted stream is truncated behind its last event, so there is nothing more to ask */
	if (state.status != ES_STREAM_LIVE)
		return state.truncate_before;
	policy = es_stream_policy(stream, snapshot);
	if (es_stream_policy_is_empty(&policy))
		return state.truncate_before;
	return policy_start(stream, &policy, state.truncate_before, snapshot, &last);
}

int64
es_stream_visible_version(const EsStream *stream, int64 last_event, Snapshot snapshot)
{
	EsStreamState state = es_stream_state_at(stream->id, PG_INT64_MAX, snapshot);

	return state.status == ES_STREAM_LIVE ? Max(last_event, state.truncate_before - 1) : 0;
}

int64
es_stream_policy_cut(const EsStream *stream, Snapshot snapshot)
{
	EsStreamPolicy policy = es_stream_policy(stream, snapshot);
	int64		last = 0;
	int64		start;

	if (es_stream_policy_is_empty(&policy))
		return 1;
	start = policy_start(stream, &policy, 1, snapshot, &last);
	/* without the last event nobody would know the version any more */
	return Max(Min(start, last), 1);
}

/* the first version at or above from that the policy leaves; *last: the last event's version, 0 where there is none */
static int64
policy_start(const EsStream *stream, const EsStreamPolicy *policy, int64 from, Snapshot snapshot, int64 *last)
{
	Events		events;
	TimestampTz recorded_at;
	int64		start = Max(from, policy->truncate_before);

	open_events(&events, stream->id, snapshot);
	if (!event_at(&events, from, BackwardScanDirection, last, &recorded_at))
		*last = 0;
	else
	{
		if (policy->max_count > 0)
			start = Max(start, *last - policy->max_count + 1);
		if (policy->max_age_ms > 0)
			start = first_young(&events, start, *last, es_clock_now() - policy->max_age_ms * 1000);
	}
	close_events(&events);
	return start;
}

/* the first version at or above from whose event is not older than the cutoff; one above the last where all are */
static int64
first_young(Events *events, int64 from, int64 last, TimestampTz cutoff)
{
	int64		low;			/* all below are old, or not asked for */
	int64		high = last + 1;	/* it is young, or above all */
	int64		version;
	TimestampTz recorded_at;

	/* where old events are removed in time the first one is young */
	if (!event_at(events, from, ForwardScanDirection, &version, &recorded_at) || recorded_at >= cutoff)
		return from;
	low = version + 1;
	while (low < high)
	{
		int64		middle = low + (high - low) / 2;

		if (!event_at(events, middle, ForwardScanDirection, &version, &recorded_at) || recorded_at >= cutoff)
			high = middle;
		else
			low = version + 1;
	}
	return low;
}

/* false where there is none */
static bool
look_up(const char *tenant, const char *kind, const char *name, int len, Snapshot snapshot, EsStreamPolicy *policy)
{
	EsIndexScan scan;
	Datum		wanted[3];
	ScanKeyData keys[3];
	bool		found;

	wanted[0] = CStringGetTextDatum(tenant);
	wanted[1] = CStringGetTextDatum(kind);
	wanted[2] = PointerGetDatum(cstring_to_text_with_len(name, len));
	for (int i = 0; i < 3; i++)
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID, F_TEXTEQ, wanted[i]);
	es_index_scan_open(&scan, es_catalog()->policy, es_catalog()->policy_pkey, snapshot);
	es_index_scan_start(&scan, keys, 3);
	found = es_index_scan_next(&scan, ForwardScanDirection);
	if (found)
	{
		policy->max_age_ms = field(scan.slot, POLICY_MAX_AGE);
		policy->max_count = field(scan.slot, POLICY_MAX_COUNT);
		policy->truncate_before = field(scan.slot, POLICY_TRUNCATE_BEFORE);
	}
	es_index_scan_close(&scan);
	return found;
}

static int64
field(TupleTableSlot *slot, AttrNumber attno)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, attno, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

static void
open_events(Events *events, int64 stream_id, Snapshot snapshot)
{
	events->stream_id = stream_id;
	es_index_scan_open(&events->scan, es_catalog()->event, es_catalog()->event_stream_version, snapshot);
}

/* the first, or going backwards the last, event at or above a version */
static bool
event_at(Events *events, int64 from, ScanDirection direction, int64 *version, TimestampTz *recorded_at)
{
	ScanKeyData keys[2];
	bool		found;
	bool		isnull;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(events->stream_id));
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
	es_index_scan_start(&events->scan, keys, 2);
	found = es_index_scan_next(&events->scan, direction);
	if (found)
	{
		*version = DatumGetInt64(slot_getattr(events->scan.slot, EVENT_VERSION, &isnull));
		*recorded_at = DatumGetTimestampTz(slot_getattr(events->scan.slot, EVENT_RECORDED_AT, &isnull));
	}
	ExecClearTuple(events->scan.slot);
	return found;
}

static void
close_events(Events *events)
{
	es_index_scan_close(&events->scan);
}
