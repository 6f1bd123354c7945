/*
 * outbox.c
 *		What an operator does with endpoints: reset_breaker, test_endpoint, replay.
 *
 * Runs in backends.  reset_breaker and replay change definitions, and the relay does the rest.  test_endpoint talks to the other side
 * itself, so that it shows what this server can reach; it is the one place where a session does, in the caller's transaction, for no
 * longer than the endpoint's time-out.
 */
#include "postgres.h"

#include <poll.h>

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "endpoint.h"
#include "endpoint_state.h"
#include "envelope.h"
#include "error.h"
#include "evtstore.h"
#include "feed.h"
#include "filter.h"
#include "guc.h"
#include "identity.h"
#include "ledger.h"
#include "options.h"
#include "read.h"
#include "subscription.h"
#include "subscription_source.h"
#include "transport/transport.h"
#include "wakeup.h"
#include "watch.h"

/* of the library's own patience, beyond the endpoint's time-out */
#define TEST_GRACE_MS 3000
#define TEST_SLICE_MS 50
#define TEST_TYPE "evtstore.test"

PG_FUNCTION_INFO_V1(evtstore_reset_breaker);
PG_FUNCTION_INFO_V1(evtstore_test_endpoint);
PG_FUNCTION_INFO_V1(evtstore_replay);

static EsEndpoint *get_endpoint(const char *name);
static void refuse_copy(const char *what);
static void send_test(EsEndpoint *endpoint, EsOutgoing *out);
static void end_transports(int code, Datum arg);
static void wait_for_answer(const EsTransport *transport, EsOutgoing *out, long ms);
static EsDelivery *test_delivery(void);
static Jsonb *describe(const EsOutgoing *out, double ms);
static char *free_name(const char *endpoint);
static int64 first_position(FunctionCallInfo fcinfo);
static int64 count_events(int32 id, int64 after, int64 up_to);

/* evtstore.reset_breaker(endpoint text) -> void; evtstore_admin.  Also enables one that was gone */
Datum
evtstore_reset_breaker(PG_FUNCTION_ARGS)
{
	char	   *name;
	EsDefinition *definition;

	es_catalog_require_writable("reset_breaker");
	name = es_arg_name(fcinfo, 0, "endpoint", ES_MAX_NAME_BYTES);
	es_definition_lock("endpoint", name);
	definition = es_definition_get("endpoint", name);
	if (strcmp(definition->state, ES_DEFINITION_ACTIVE) != 0)
	{
		es_definition_set_state("endpoint", name, ES_DEFINITION_ACTIVE);
		/* the scheduler may have to start a relay again */
		es_wakeup_at_commit(0);
	}
	/* at once, whatever becomes of this transaction: it is tried once more, that is all.  With the name's lock: see disable_gone() in relay.c */
	es_endpoint_state_ask_reset(definition->id);
	es_watch_rouse();
	PG_RETURN_VOID();
}

/* evtstore.test_endpoint(name text) -> jsonb; evtstore_admin */
Datum
evtstore_test_endpoint(PG_FUNCTION_ARGS)
{
	char	   *name;
	EsEndpoint *endpoint;
	EsOutgoing	out = {.retry_after_ms = -1};
	instr_time	start;
	instr_time	took;

	es_catalog_require_writable("test_endpoint");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	endpoint = get_endpoint(name);
	if (endpoint->is_sql)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("endpoint \"%s\" is a function of this database", name),
				 errhint("Call %s with a row of evtstore.delivery.", endpoint->fn)));
	refuse_copy("test_endpoint");
	INSTR_TIME_SET_CURRENT(start);
	send_test(endpoint, &out);
	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, start);
	PG_RETURN_JSONB_P(describe(&out, INSTR_TIME_GET_MILLISEC(took)));
}

static EsEndpoint *
get_endpoint(const char *name)
{
	(void) es_definition_get("endpoint", name);
	return es_endpoint_find(name);
}

static void
refuse_copy(const char *what)
{
	char	   *detail;

	if (es_identity_check(&detail) == ES_IDENTITY_ELSEWHERE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s is for the store that delivers, and this one is a copy", what),
				 errdetail_internal("%s", detail),
				 errhint("If this is the one to deliver now, run: SELECT evtstore.resume_delivery();")));
}

static void
send_test(EsEndpoint *endpoint, EsOutgoing *out)
{
	const EsTransport *transport = es_transport_for_url(endpoint->url);
	EsLinkConfig config;
	char		fault[256] = "no transport takes its url";
	EsLink	   *volatile link = NULL;
	static bool ends_transports = false;

	if (!ends_transports)
	{
		on_proc_exit(end_transports, (Datum) 0);
		ends_transports = true;
	}
	es_endpoint_link_config(endpoint, &config);
	if (transport != NULL && transport->startup(fault, sizeof(fault)))
		link = transport->open(&config, fault, sizeof(fault));
	if (link == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("endpoint \"%s\" cannot be delivered to: %s", endpoint->name, fault)));
	PG_TRY();
	{
		es_envelope_make(test_delivery(), "test_endpoint", false, endpoint, transport, out);
		out->retry_after_ms = -1;
		strlcpy(out->error, "no answer in time", sizeof(out->error));
		out->outcome = ES_OUTCOME_UNAVAILABLE;
		if (transport->submit(link, out))
			wait_for_answer(transport, out, out->timeout_ms + TEST_GRACE_MS);
	}
	PG_FINALLY();
	{
		transport->close(link);
	}
	PG_END_TRY();
}

/* a link that was closed may have a thread yet: exit() takes down what that still uses, and a crash is everybody's */
static void
end_transports(int code, Datum arg)
{
	const EsTransport *transport;

	for (int i = 0; (transport = es_transport_loaded(i)) != NULL; i++)
		transport->shutdown();
}

static void
wait_for_answer(const EsTransport *transport, EsOutgoing *out, long ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	EsOutgoing *done;

	for (;;)
	{
		struct pollfd wait = {.fd = transport->wait_fd(), .events = POLLIN};
		long		slice = transport->wait_ms();

		transport->pump();
		while ((done = transport->next_done()) != NULL)
			if (done == out)
				return;
		CHECK_FOR_INTERRUPTS();
		if (GetCurrentTimestamp() >= deadline)
			return;
		(void) poll(&wait, 1, slice < 0 || slice > TEST_SLICE_MS ? TEST_SLICE_MS : (int) slice);
	}
}

/* an event of no stream that was never appended */
static EsDelivery *
test_delivery(void)
{
	EsDelivery *delivery = palloc0(sizeof(EsDelivery));
	pg_uuid_t  *id = DatumGetUUIDP(DirectFunctionCall1(gen_random_uuid, (Datum) 0));

	delivery->attempt = 1;
	delivery->has_event = true;
	delivery->type = TEST_TYPE;
	delivery->event_id = *id;
	delivery->schema_version = 1;
	delivery->body = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{\"test\": true}")));
	delivery->headers = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	delivery->occurred_at = delivery->recorded_at = delivery->enqueued_at = GetCurrentTimestamp();
	return delivery;
}

static Jsonb *
describe(const EsOutgoing *out, double ms)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"outcome\": \"%s\", \"status\": ", es_endpoint_state_outcome(out->outcome));
	if (out->status != 0)
		appendStringInfo(&json, "%d", out->status);
	else
		appendStringInfoString(&json, "null");
	appendStringInfo(&json, ", \"ms\": %.1f, \"error\": ", ms);
	if (out->outcome == ES_OUTCOME_DELIVERED)
		appendStringInfoString(&json, "null");
	else
		escape_json(&json, out->error);
	appendStringInfoChar(&json, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/*
 * evtstore.replay(endpoint text, filter jsonb, from_position bigint, from_time timestamptz, to_position bigint, rate int) -> bigint;
 * evtstore_admin.  A subscription of its own, which the relay drops at its end: so it is seen, paused and given up like any other
 */
Datum
evtstore_replay(PG_FUNCTION_ARGS)
{
	char	   *endpoint;
	Jsonb	   *filter;
	int64		head;
	int64		up_to;
	int64		after;
	int32		id;
	StringInfoData spec;

	es_catalog_require_writable("replay");
	endpoint = es_arg_name(fcinfo, 0, "endpoint", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 1, "filter");
	filter = PG_GETARG_JSONB_P(1);
	(void) es_filter_parse(filter, "filter");
	es_subscription_refuse_snapshot("events cannot be replayed");
	es_definition_lock("endpoint", endpoint);
	(void) es_definition_get("endpoint", endpoint);
	head = es_feed_head(ES_FEED_ALL_CATEGORIES);
	up_to = PG_ARGISNULL(4) ? head : PG_GETARG_INT64(4);
	if (up_to < 0 || up_to > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("to_position is out of range: " INT64_FORMAT, up_to),
				 errhint("It lies between 0 and the head, now " INT64_FORMAT ".", head)));
	if (!PG_ARGISNULL(5) && PG_GETARG_INT32(5) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rate must be positive: %d", PG_GETARG_INT32(5)),
				 errhint("It is events a second; NULL: as fast as the endpoint takes them.")));
	after = Min(first_position(fcinfo), up_to);

	initStringInfo(&spec);
	appendStringInfo(&spec, "{\"filter\": %s, \"lanes\": 8, \"on_failure\": \"block\", \"start_position\": \"" INT64_FORMAT
					 "\", \"replay_to\": \"" INT64_FORMAT "\", \"endpoint\": ", es_options_text(filter), after + 1, up_to);
	escape_json(&spec, endpoint);
	if (!PG_ARGISNULL(5))
		appendStringInfo(&spec, ", \"rate\": %d", PG_GETARG_INT32(5));
	if (es_guc_tenant[0] != '\0')
	{
		appendStringInfoString(&spec, ", \"tenant\": ");
		escape_json(&spec, es_guc_tenant);
	}
	appendStringInfoChar(&spec, '}');
	es_identity_establish();
	es_wakeup_at_commit(0);
	(void) es_definition_create("subscription", free_name(endpoint), DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(spec.data))),
								&id);
	es_subscription_begin(id, after, 8);
	PG_RETURN_INT64(count_events(id, after, up_to));
}

/* of those that nobody has */
static char *
free_name(const char *endpoint)
{
	for (int i = 1;; i++)
	{
		char	   *name = psprintf("%.200s replay %d", endpoint, i);

		es_definition_lock("subscription", name);
		if (es_definition_find("subscription", name) == NULL)
			return name;
	}
}

/* everything at or below it is left out */
static int64
first_position(FunctionCallInfo fcinfo)
{
	if (!PG_ARGISNULL(2) && !PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_position and from_time exclude each other"),
				 errhint("Give one of them; none: from the beginning.")));
	if (!PG_ARGISNULL(3))
		return es_ledger_position_at(es_ledger_moment(fcinfo, 3, "from_time"));
	if (PG_ARGISNULL(2))
		return 0;
	if (PG_GETARG_INT64(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_position must not be negative: " INT64_FORMAT, PG_GETARG_INT64(2)),
				 errhint("0 is the beginning.")));
	return Max(PG_GETARG_INT64(2) - 1, 0);
}

/* what of the store it is about */
typedef struct Range
{
	const EsSubscription *subscription;
	int64		after;
	int64		up_to;
} Range;

static void
open_range(EsReader *reader, void *arg)
{
	Range	   *range = arg;

	es_reader_begin_latest(reader);
	es_reader_set_tenant(reader, range->subscription->tenant);
	es_subscription_set_source(reader, range->subscription, range->after, range->up_to);
}

static int64
count_events(int32 id, int64 after, int64 up_to)
{
	Range		range = {es_subscription_lock(id, AccessShareLock), after, up_to};
	EsReader   *reader;
	TupleTableSlot *slot;
	int64		n = 0;

	if (range.subscription == NULL || after >= up_to)
		return 0;
	reader = es_reader_open_with(open_range, &range, CurrentMemoryContext);
	while ((slot = es_reader_next(reader)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		n += es_subscription_selects(range.subscription, reader, slot);
	}
	es_reader_close(reader);
	return n;
}
