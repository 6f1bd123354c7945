/*
 * saga_reactor.c
 *		The definitions of reactors: define and drop.
 *
 * Runs in backends.  Locks: the definition's name; its subscription's, exclusive, where it is changed or dropped, which waits for the worker
 * that is at it.  All of it is in the caller's transaction: a rollback or a crash takes definition and place together.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "arg.h"
#include "attempt.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "evtstore.h"
#include "feed.h"
#include "identity.h"
#include "lane.h"
#include "options.h"
#include "queue.h"
#include "retry.h"
#include "saga_react.h"
#include "subscription.h"
#include "wakeup.h"

#define DEFAULT_LANES 8

PG_FUNCTION_INFO_V1(evtstore_define_reactor);
PG_FUNCTION_INFO_V1(evtstore_drop_reactor);

/* what is checked in a savepoint */
typedef struct Check
{
	const char *fn;
	Oid			owner;
	const char *key;
} Check;

static const EsOption route_keys[] = {
	{"types", ES_OPTION_STRINGS},
	{"correlate", ES_OPTION_STRING},
	{"starts", ES_OPTION_BOOL},
	{NULL}
};

static const EsOption option_keys[] = {
	{"retry", ES_OPTION_OBJECT},
	{"lanes", ES_OPTION_INT, 1, ES_MAX_LANES},
	{"start_at", ES_OPTION_STRING},
	{NULL}
};

static Jsonb *make_spec(Jsonb *routes, const char *fn, Jsonb *options, List *types, int lanes);
static List *check_routes(Jsonb *routes, StringInfo faults);
static List *check_route(Jsonb *route, const char *where, List *known, StringInfo faults);
static bool is_known(const List *types, const char *type);
static void check_function(void *arg);
static void check_key(void *arg);
static int64 first_position(Jsonb *options);
static int	change(const EsDefinition *existing, Jsonb *spec);

/* evtstore.define_reactor(name text, routes jsonb, fn text, options jsonb) -> int; evtstore_admin */
Datum
evtstore_define_reactor(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	Check		check;
	StringInfoData faults;
	EsDefinition *existing;
	Jsonb	   *options;
	List	   *types;
	int64		position;
	Jsonb	   *spec;
	char	   *error;
	int			lanes;
	int32		id;

	es_catalog_require_writable("define_reactor");
	es_arg_required(fcinfo, 1, "routes");
	check.fn = es_arg_name(fcinfo, 2, "fn", 2 * ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 3, "options");
	options = PG_GETARG_JSONB_P(3);
	es_options_check(options, option_keys, "options");
	if (es_options_has(options, "retry"))
		es_retry_check(es_options_object(options, "retry"));
	position = first_position(options);
	es_definition_lock("reactor", name);
	AcceptInvalidationMessages();
	existing = es_definition_find("reactor", name);
	if (existing != NULL)
		es_saga_version_require_owner(existing);
	check.owner = existing == NULL ? GetUserId() : get_role_oid(existing->owner, true);
	initStringInfo(&faults);
	types = check_routes(PG_GETARG_JSONB_P(1), &faults);
	error = es_attempt(check_function, &check);
	if (error != NULL)
		es_asl_add_fault(&faults, "fn", "%s", error);
	if (faults.len > 0)
		es_saga_version_refuse_faults("reactor", name, &faults,
									  "Routes are an array of {\"types\": [\"OrderPlaced\"], \"correlate\": \"$.data.order\", \"starts\": true}.");
	lanes = existing != NULL ? es_options_int(existing->spec, "lanes", DEFAULT_LANES) : es_options_int(options, "lanes", DEFAULT_LANES);
	spec = make_spec(PG_GETARG_JSONB_P(1), check.fn, options, types, lanes);
	if (existing != NULL)
		PG_RETURN_INT32(change(existing, spec));
	id = es_definition_create_as("reactor", name, GetUserNameFromId(GetUserId(), false), namespace_search_path,
								 es_options_merge(spec, es_options_of_int("version", 1)));
	es_identity_establish();
	/* for their timers */
	es_queue_make_sagas();
	es_subscription_begin(id, position, lanes);
	es_wakeup_at_commit(1);
	PG_RETURN_INT32(1);
}

/* evtstore.drop_reactor(name text) -> void; evtstore_admin */
Datum
evtstore_drop_reactor(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *definition;

	es_catalog_require_writable("drop_reactor");
	es_definition_lock("reactor", name);
	AcceptInvalidationMessages();
	definition = es_definition_find("reactor", name);
	if (definition == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("reactor \"%s\" does not exist", name),
				 errhint("Define it with evtstore.define_reactor().")));
	es_saga_version_require_owner(definition);
	es_subscription_refuse_snapshot("a reactor cannot be dropped");
	es_subscription_end(definition->id);
	es_saga_version_drop_instances(definition);
	es_definition_drop("reactor", name);
	PG_RETURN_VOID();
}

/* in one form, but for the version */
static Jsonb *
make_spec(Jsonb *routes, const char *fn, Jsonb *options, List *types, int lanes)
{
	StringInfoData buf;
	Jsonb	   *spec;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"lanes\": %d, \"fn\": ", lanes);
	escape_json(&buf, fn);
	appendStringInfoString(&buf, ", \"filter\": {\"types\": [");
	foreach(lc, types)
	{
		appendStringInfoString(&buf, foreach_current_index(lc) > 0 ? ", " : "");
		escape_json(&buf, lfirst(lc));
	}
	appendStringInfoString(&buf, "]}");
	if (es_options_has(options, "retry"))
	{
		appendStringInfoString(&buf, ", \"retry\": ");
		es_retry_append(&buf, es_options_object(options, "retry"));
	}
	appendStringInfoChar(&buf, '}');
	spec = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
	return es_options_merge(spec, es_options_of("routes", routes));
}

/* the types of all of them; each is in one, so that an event has one key */
static List *
check_routes(Jsonb *routes, StringInfo faults)
{
	List	   *types = NIL;
	Jsonb	  **elements;
	int			n;

	if (!JB_ROOT_IS_ARRAY(routes) || JB_ROOT_IS_SCALAR(routes) || JB_ROOT_COUNT(routes) == 0)
	{
		es_asl_add_fault(faults, "routes", "it is an array that is not empty");
		return NIL;
	}
	elements = es_options_elements(routes, "routes", "", &n);
	for (int i = 0; i < n; i++)
		types = list_concat(types, check_route(elements[i], psprintf("routes[%d]", i), types, faults));
	return types;
}

/* its types */
static List *
check_route(Jsonb *route, const char *where, List *known, StringInfo faults)
{
	Check		check;
	char	   *error;
	char	   *correlate;
	List	   *types;
	ListCell   *lc;

	es_options_check(route, route_keys, where);
	types = es_options_strings(route, "types");
	if (types == NIL)
		es_asl_add_fault(faults, psprintf("%s.types", where), "it is an array of types of events");
	foreach(lc, types)
	{
		char	   *type = lfirst(lc);

		if (type[0] == '\0')
			es_asl_add_fault(faults, psprintf("%s.types", where), "a type is not empty");
		else if (is_known(known, type))
			es_asl_add_fault(faults, psprintf("%s.types", where), "\"%s\" is there twice: an event has one key", es_arg_shown(type, strlen(type)));
		known = lappend(list_copy(known), type);
	}
	correlate = es_options_string(route, "correlate", NULL);
	if (correlate == NULL || strncmp(correlate, "$.", 2) != 0)
	{
		es_asl_add_fault(faults, psprintf("%s.correlate", where), "it is a path into an event: \"$.data.order\", \"$.metadata.tenant\" or \"$.stream\"");
		return types;
	}
	check.key = es_subscription_key_of_path(correlate);
	error = es_attempt(check_key, &check);
	if (error != NULL)
		es_asl_add_fault(faults, psprintf("%s.correlate", where), "\"%s\" is no path of fields: \"$.data.order\", \"$.metadata.tenant\" or \"$.stream\"",
						 es_arg_shown(correlate, strlen(correlate)));
	return types;
}

static bool
is_known(const List *types, const char *type)
{
	ListCell   *lc;

	foreach(lc, types)
		if (strcmp(lfirst(lc), type) == 0)
			return true;
	return false;
}

static void
check_function(void *arg)
{
	const Check *check = arg;
	Oid			result;

	es_definition_check_function_of(check->fn, JSONBOID, 2, check->owner, "reactor");
	result = get_func_rettype(es_definition_function_of(check->fn, JSONBOID, 2));
	if (result != JSONBOID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s(jsonb, jsonb) returns %s, and not jsonb", check->fn, format_type_be(result))));
}

static void
check_key(void *arg)
{
	es_subscription_check_key(((const Check *) arg)->key);
}

/* it begins behind that */
static int64
first_position(Jsonb *options)
{
	const char *start_at = es_options_string(options, "start_at", "now");

	if (strcmp(start_at, "beginning") == 0)
		return 0;
	if (strcmp(start_at, "now") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown \"start_at\": \"%s\"", es_arg_shown(start_at, strlen(start_at))),
				 errhint("It is \"now\" or \"beginning\".")));
	return es_feed_head(ES_FEED_ALL_CATEGORIES);
}

/* the version that it has then.  Locks: the name's, held */
static int
change(const EsDefinition *existing, Jsonb *spec)
{
	int			version = es_options_int(existing->spec, "version", 1);

	if (es_options_equal(existing->spec, es_options_merge(spec, es_options_of_int("version", version))))
		return version;
	es_subscription_refuse_snapshot("a reactor cannot be changed");
	/* waits for the worker, and what is handed out was chosen by the old routes */
	(void) es_subscription_lock(existing->id, AccessExclusiveLock);
	es_lanes_forget(existing->id);
	es_definition_alter("reactor", existing->name, es_options_merge(spec, es_options_of_int("version", version + 1)));
	es_wakeup_at_commit(1);
	return version + 1;
}
