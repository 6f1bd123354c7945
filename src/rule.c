/*
 * rule.c
 *		The definitions of rules: create, alter, drop; and trying one.
 *
 * Runs in backends.  rule_sync.c does what sync rules say, in the append's transaction; rule_work.c what async ones say, in workers.
 * Locks: the definition's name; the queue's or endpoint's that it names, so that the rule and its drop cannot pass each other; for an
 * async rule its subscription's, exclusive, where it is altered or dropped, which waits for the worker that is at it.  All of it is in
 * the caller's transaction: a rollback or a crash takes definition and place together.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "event.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "identity.h"
#include "lane.h"
#include "options.h"
#include "rule_apply.h"
#include "saga_version.h"
#include "subscription.h"
#include "waiter.h"
#include "wakeup.h"

#define ENDPOINT_LANES 8

PG_FUNCTION_INFO_V1(evtstore_create_rule);
PG_FUNCTION_INFO_V1(evtstore_alter_rule);
PG_FUNCTION_INFO_V1(evtstore_drop_rule);
PG_FUNCTION_INFO_V1(evtstore_test_rule);

static bool parse_mode(const char *mode);
static Jsonb *build_spec(EsRule *rule, Jsonb *filter, const char *target, Jsonb *transform);
static int	lanes_of(const EsRule *rule);
static void check_target(const EsRule *rule, Oid owner);
static void refuse_null(Jsonb *changes, const char *key);
static bool is_async(const EsDefinition *definition);
static void wait_for_worker(int32 id);
static const EsRule *find_rule(const char *name);
static EsStream parse_event(Jsonb *given, EsEvent *event);
static JsonbValue *event_field(Jsonb *given, const char *key, JsonbValue *value);
static char *event_text(Jsonb *given, const char *key, bool number);
static Jsonb *show(const EsRule *rule, const EsEvent *event, bool matches);
static void show_text(JsonbParseState **state, const char *key, const char *string);
static void show_jsonb(JsonbParseState **state, const char *key, Datum jsonb);
static void show_key(JsonbParseState **state, const char *key);
static void show_message(JsonbParseState **state, const EsRule *rule, const EsMessage *message);

/* evtstore.create_rule(name, filter, target, transform, mode) */
Datum
evtstore_create_rule(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsRule		rule = {0};
	char	   *target;
	Jsonb	   *spec;
	int32		id;

	es_catalog_require_writable("create_rule");
	es_arg_required(fcinfo, 1, "filter");
	target = es_arg_name(fcinfo, 2, "target", ES_MAX_NAME_BYTES + 64);
	rule.is_async = parse_mode(es_arg_name(fcinfo, 4, "mode", 16));
	spec = build_spec(&rule, PG_GETARG_JSONB_P(1), target, PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3));
	check_target(&rule, GetUserId());
	if (!es_definition_create("rule", name, spec, &id))
		PG_RETURN_VOID();
	es_identity_establish();
	if (rule.is_async)
	{
		/* what is committed from now on */
		es_subscription_begin(id, es_feed_head(ES_FEED_ALL_CATEGORIES), lanes_of(&rule));
		es_wakeup_at_commit(1);
	}
	PG_RETURN_VOID();
}

/*
 * evtstore.alter_rule(name, changes)
 *
 * The owner stays: a function goes on running as who created the rule.  So only a member of that role may name it.
 */
Datum
evtstore_alter_rule(PG_FUNCTION_ARGS)
{
	static const EsOption allowed[] = {
		{"filter", ES_OPTION_OBJECT},
		{"target", ES_OPTION_STRING},
		{"transform", ES_OPTION_OBJECT},
		{NULL}
	};
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *definition;
	EsRule		rule = {0};
	Jsonb	   *changes;
	Jsonb	   *spec;
	Oid			owner;

	es_catalog_require_writable("alter_rule");
	es_arg_required(fcinfo, 1, "changes");
	changes = PG_GETARG_JSONB_P(1);
	es_options_check_changes(changes, allowed, "changes");
	refuse_null(changes, "filter");
	refuse_null(changes, "target");
	es_definition_lock("rule", name);
	AcceptInvalidationMessages();
	definition = es_definition_get("rule", name);
	owner = get_role_oid(definition->owner, true);
	rule.is_async = is_async(definition);
	spec = es_options_merge(definition->spec, changes);
	spec = es_options_merge(spec, build_spec(&rule, es_options_object(spec, "filter"), es_options_string(spec, "target", ""),
											 es_options_object(spec, "transform")));
	if ((rule.kind == ES_RULE_FUNCTION || rule.kind == ES_RULE_SAGA) && !has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("rule \"%s\" runs its function as role \"%s\"", name, definition->owner),
				 errhint("Change it as a member of that role, or drop it and create it as yours.")));
	check_target(&rule, owner);
	if (rule.is_async && !is_async(definition))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rule \"%s\" is a sync one", name),
				 errdetail("It has no place in the feed that deliveries to an endpoint could go on from."),
				 errhint("Drop it and create it again.")));
	if (rule.is_async)
	{
		/* it has as many as it was created with */
		spec = es_options_merge(spec, es_options_of_int("lanes", es_options_int(definition->spec, "lanes", 1)));
		wait_for_worker(definition->id);
	}
	es_definition_alter("rule", name, spec);
	PG_RETURN_VOID();
}

/* evtstore.drop_rule(name) */
Datum
evtstore_drop_rule(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *definition;

	es_catalog_require_writable("drop_rule");
	es_definition_lock("rule", name);
	AcceptInvalidationMessages();
	definition = es_definition_get("rule", name);
	if (is_async(definition))
	{
		es_subscription_refuse_snapshot("an async rule cannot be dropped");
		es_subscription_end(definition->id);
	}
	es_definition_drop("rule", name);
	PG_RETURN_VOID();
}

static bool
is_async(const EsDefinition *definition)
{
	return strcmp(es_options_string(definition->spec, "mode", ""), "async") == 0;
}

/* what it has taken it does by the old definition; what is handed out comes again, chosen by the new one */
static void
wait_for_worker(int32 id)
{
	(void) es_subscription_lock(id, AccessExclusiveLock);
	es_lanes_forget(id);
	es_waiter_wake_at_commit(id, INT_MAX);
	es_wakeup_at_commit(1);
}

static bool
parse_mode(const char *mode)
{
	if (strcmp(mode, "sync") != 0 && strcmp(mode, "async") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown mode \"%s\"", mode),
				 errhint("Known modes: 'sync', 'async'.")));
	return strcmp(mode, "async") == 0;
}

/* in one form, checked but for what the target is; fills the rule.  What has an endpoint is async, whatever was said */
static Jsonb *
build_spec(EsRule *rule, Jsonb *filter, const char *target, Jsonb *transform)
{
	StringInfoData json;
	Jsonb	   *spec;

	es_filter_parse(filter, "filter");
	es_rule_compile(rule, target, transform);
	rule->is_async |= rule->kind == ES_RULE_ENDPOINT;
	initStringInfo(&json);
	appendStringInfo(&json, "{\"mode\":\"%s\",\"target\":", rule->is_async ? "async" : "sync");
	escape_json(&json, target);
	if (rule->is_async)
		appendStringInfo(&json, ",\"lanes\":%d", lanes_of(rule));
	appendStringInfoChar(&json, '}');
	spec = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
	spec = es_options_merge(spec, es_options_of("filter", filter));
	return transform == NULL ? spec : es_options_merge(spec, es_options_of("transform", transform));
}

/* a slow endpoint holds up its lane until what waits for it is put off */
static int
lanes_of(const EsRule *rule)
{
	return rule->kind == ES_RULE_ENDPOINT ? ENDPOINT_LANES : 1;
}

/* what it names stays locked against its drop until the rule is committed; what is computed is looked up for each event */
static void
check_target(const EsRule *rule, Oid owner)
{
	const char *kind = rule->kind == ES_RULE_QUEUE ? "queue" : rule->kind == ES_RULE_SAGA ? "saga" : "endpoint";

	if (rule->kind == ES_RULE_FUNCTION)
		es_definition_check_function(rule->constant, es_catalog()->delivery_type, owner, "rule");
	else if (rule->kind == ES_RULE_SAGA)
	{
		es_definition_lock(kind, rule->constant);
		(void) es_saga_version_get(rule->constant, 0);
	}
	else if (rule->constant != NULL)
	{
		es_definition_lock(kind, rule->constant);
		es_definition_get(kind, rule->constant);
	}
}

static void
refuse_null(Jsonb *changes, const char *key)
{
	if (es_options_is_null(changes, key))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", key),
				 errhint("A rule has no default for it.")));
}

/*
 * evtstore.test_rule(name text, event jsonb) -> jsonb; evtstore_admin.  Sends nothing and calls nothing
 */
Datum
evtstore_test_rule(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	const EsRule *rule;
	EsEvent		event;
	EsStream	stream;

	es_arg_required(fcinfo, 1, "event");
	rule = find_rule(name);
	stream = parse_event(PG_GETARG_JSONB_P(1), &event);
	PG_RETURN_JSONB_P(show(rule, &event, es_filter_matches(rule->filter, &stream, &event)));
}

static const EsRule *
find_rule(const char *name)
{
	int32		id = es_definition_get("rule", name)->id;
	const EsRule *rule = es_rule_by_id(id);

	if (rule == NULL)
		elog(ERROR, "rule \"%s\" is gone", name);
	return rule;
}

/* as append_events takes it, or as to_jsonb shows one that was read */
static EsStream
parse_event(Jsonb *given, EsEvent *event)
{
	static const char *const own[] = {"stream", "position", "version", "tenant", "recorded_at"};
	EsStream	stream = *es_stream_none();
	JsonbParseState *state = NULL;
	JsonbValue	element = {.type = jbvBinary};
	Jsonb	   *rest = given;
	char	   *name;
	char	   *number;
	char	   *at;
	int			n;

	if (!JB_ROOT_IS_OBJECT(given))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event must be a JSON object, not %s", es_options_shown(given)),
				 errhint("Write {\"stream\": \"order-1\", \"type\": \"OrderPlaced\", \"data\": {}}.")));
	for (int i = 0; i < lengthof(own); i++)
		rest = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(rest), CStringGetTextDatum(own[i])));
	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	element.val.binary.data = &rest->root;
	element.val.binary.len = VARSIZE(rest) - VARHDRSZ;
	(void) pushJsonbValue(&state, WJB_ELEM, &element);
	*event = *es_event_parse_array(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)), &n);

	name = event_text(given, "stream", false);
	if (name != NULL)
	{
		es_arg_check_name(name, "stream", ES_MAX_STREAM_BYTES);
		stream.name = name;
		event->stream = CStringGetTextDatum(name);
	}
	stream.tenant = event_text(given, "tenant", false);
	if (stream.tenant == NULL)
		stream.tenant = pstrdup(es_guc_tenant);
	event->tenant = CStringGetTextDatum(stream.tenant);
	number = event_text(given, "position", true);
	event->position = number == NULL ? 0 : DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(number)));
	number = event_text(given, "version", true);
	event->version = number == NULL ? 0 : DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(number)));
	at = event_text(given, "recorded_at", false);
	event->recorded_at = at == NULL ? es_clock_now() :
		DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(at), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	if (!event->has_occurred_at)
		event->occurred_at = event->recorded_at;
	return stream;
}

/* NULL: absent, or null */
static JsonbValue *
event_field(Jsonb *given, const char *key, JsonbValue *value)
{
	if (getKeyJsonValueFromContainer(&given->root, key, strlen(key), value) == NULL || value->type == jbvNull)
		return NULL;
	return value;
}

static char *
event_text(Jsonb *given, const char *key, bool number)
{
	JsonbValue	v;

	if (event_field(given, key, &v) == NULL)
		return NULL;
	if (v.type != jbvString && !(number && v.type == jbvNumeric))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of the event must be a %s, not %s", key, number ? "number" : "string", es_options_shown(JsonbValueToJsonb(&v)))));
	return es_placeholder_value_text(&v);
}

/* what does not match has no parts */
static Jsonb *
show(const EsRule *rule, const EsEvent *event, bool matches)
{
	JsonbParseState *state = NULL;
	JsonbValue	v = {.type = jbvBool};
	EsMessage	message = {0};
	char	   *target = NULL;

	if (matches)
	{
		target = psprintf("%s%s", es_rule_prefix(rule->kind), es_rule_endpoint(rule, event));
		es_rule_fill_message(rule, event, &message);
	}
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	v.val.boolean = matches;
	show_key(&state, "matches");
	(void) pushJsonbValue(&state, WJB_VALUE, &v);
	show_text(&state, "target", target);
	show_jsonb(&state, "body", message.body);
	show_jsonb(&state, "headers", message.headers);
	show_text(&state, "key", message.key == (Datum) 0 ? NULL : TextDatumGetCString(message.key));
	show_message(&state, rule, &message);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* what only a transform gives */
static void
show_message(JsonbParseState **state, const EsRule *rule, const EsMessage *message)
{
	JsonbValue	v = {.type = jbvNumeric};

	if (rule->transform.delay != NULL)
		show_text(state, "delay", message->type == (Datum) 0 ? NULL : psprintf(INT64_FORMAT "ms", message->delay_ms));
	if (rule->transform.priority != NULL)
	{
		v.val.numeric = int64_to_numeric(message->priority);
		if (message->type == (Datum) 0)
			v.type = jbvNull;
		show_key(state, "priority");
		(void) pushJsonbValue(state, WJB_VALUE, &v);
	}
	if (rule->transform.dedup_id != NULL)
		show_text(state, "dedup_id", message->dedup_id == (Datum) 0 ? NULL : TextDatumGetCString(message->dedup_id));
}

static void
show_key(JsonbParseState **state, const char *key)
{
	JsonbValue	v = {.type = jbvString};

	v.val.string.val = unconstify(char *, key);
	v.val.string.len = strlen(key);
	(void) pushJsonbValue(state, WJB_KEY, &v);
}

static void
show_text(JsonbParseState **state, const char *key, const char *string)
{
	JsonbValue	v = {.type = string == NULL ? jbvNull : jbvString};

	show_key(state, key);
	if (string != NULL)
	{
		v.val.string.val = unconstify(char *, string);
		v.val.string.len = strlen(string);
	}
	(void) pushJsonbValue(state, WJB_VALUE, &v);
}

static void
show_jsonb(JsonbParseState **state, const char *key, Datum jsonb)
{
	JsonbValue	v = {.type = jbvNull};
	Jsonb	   *document;

	show_key(state, key);
	if (jsonb != (Datum) 0)
	{
		document = DatumGetJsonbP(jsonb);
		if (!JB_ROOT_IS_SCALAR(document) || !JsonbExtractScalar(&document->root, &v))
		{
			v.type = jbvBinary;
			v.val.binary.data = &document->root;
			v.val.binary.len = VARSIZE(document) - VARHDRSZ;
		}
	}
	(void) pushJsonbValue(state, WJB_VALUE, &v);
}
