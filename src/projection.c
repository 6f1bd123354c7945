/*
 * projection.c
 *		The definitions of projections: create, alter, switch, drop.
 *
 * Runs in backends.  projection_sync.c applies in the append's transaction, projection_work.c in workers;
 * docs/architecture-projections.md has the argument for the changes from one to the other.  Locks: the definition's name; for an
 * async projection its subscription's, exclusive, which waits for the worker that is at it; then the event table against
 * writers, for a moment, where a sync one begins or ends.  All of it is in the caller's transaction: a rollback or a crash takes
 * definition, place and effects together.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "event.h"
#include "evtstore.h"
#include "feed.h"
#include "filter.h"
#include "identity.h"
#include "lane.h"
#include "lock.h"
#include "options.h"
#include "projection.h"
#include "projection_apply.h"
#include "projection_rebuild.h"
#include "projection_tables.h"
#include "retry.h"
#include "spi.h"
#include "subscription.h"
#include "wakeup.h"

/* of an async projection; a sync one has none */
static const EsOption options_allowed[] = {
	{"lanes", ES_OPTION_INT, 1, ES_MAX_LANES},
	{"key", ES_OPTION_STRING},
	{"on_failure", ES_OPTION_STRING},
	{"retry", ES_OPTION_OBJECT},
	{NULL}
};

/* the key decides which lane an event is in: to change it is to begin anew */
static const EsOption changes_allowed[] = {
	{"lanes", ES_OPTION_INT, 1, ES_MAX_LANES},
	{"on_failure", ES_OPTION_STRING},
	{"retry", ES_OPTION_OBJECT},
	{NULL}
};

static EsPlan failed_plan = {
	.sql = "SELECT (SELECT count(*) FROM evtstore_internal.failed_event WHERE subscription_id = $1),"
	" (SELECT count(*) FROM evtstore_internal.dead_letter WHERE source_id = $1 AND kind = 'subscription')",
	.nargs = 1,
	.args = {INT4OID},
};

PG_FUNCTION_INFO_V1(evtstore_create_projection);
PG_FUNCTION_INFO_V1(evtstore_alter_projection);
PG_FUNCTION_INFO_V1(evtstore_switch_projection);
PG_FUNCTION_INFO_V1(evtstore_drop_projection);

static bool replace_handlers(const EsDefinition *existing, Jsonb *spec);
static bool replace_tables(const EsDefinition *existing, Jsonb *spec);
static Jsonb *build_spec(FunctionCallInfo fcinfo);
static bool parse_mode(const char *mode);
static void append_options(StringInfo json, Jsonb *options, bool is_sync);
static void check_handlers(Jsonb *handlers);
static char *handler_fault(JsonbValue *value);
static bool is_sync(const EsDefinition *definition);
static void become_sync(const EsDefinition *definition);
static void become_async(const EsDefinition *definition);
static Jsonb *with_changes(Jsonb *spec, const char *changes);
static void refuse_own_events(void);
static void refuse_failed(int32 id, const char *name);

void
es_projection_init(void)
{
	es_projection_apply_init();
	es_projection_sync_init();
}

/* evtstore.create_projection(name, handlers, mode, filter, tables, options) */
Datum
evtstore_create_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	Jsonb	   *spec = build_spec(fcinfo);
	int32		id;

	es_catalog_require_writable("create_projection");
	check_handlers(es_options_object(spec, "handlers"));
	es_definition_lock("projection", name);
	AcceptInvalidationMessages();
	if (replace_handlers(es_definition_find("projection", name), spec))
		PG_RETURN_VOID();
	es_rebuild_refuse_tables(name, spec, GetUserNameFromId(GetUserId(), false), namespace_search_path);
	if (es_definition_create("projection", name, spec, &id))
	{
		es_identity_establish();
		if (strcmp(es_options_string(spec, "mode", ""), "sync") == 0)
			es_projection_apply_history(name);
		else
		{
			es_subscription_begin(id, 0, es_options_int(spec, "lanes", 1));
			es_wakeup_at_commit(1);
		}
	}
	PG_RETURN_VOID();
}

/*
 * One that exists, and is given other events or other handlers: it is rebuilt with them, and they take its place when they have
 * come as far.  Where that is under way, nothing.  False: that is not what is wanted
 */
static bool
replace_handlers(const EsDefinition *existing, Jsonb *spec)
{
	const char *owner = GetUserNameFromId(GetUserId(), false);
	EsDefinition *rebuild;
	bool		in_place = false;

	if (existing == NULL || es_options_equal(existing->spec, spec))
		return false;
	rebuild = es_rebuild_find(existing->name);
	if (rebuild != NULL && es_options_equal(es_rebuild_spec(rebuild), spec) && !es_rebuild_read(rebuild)->is_failed)
		return true;
	if (es_options_equal(es_options_object(existing->spec, "handlers"), es_options_object(spec, "handlers")) &&
		es_options_equal(es_options_object(existing->spec, "filter"), es_options_object(spec, "filter")) && rebuild == NULL)
		return replace_tables(existing, spec);
	/* with none to rebuild it is another definition of that name */
	if (es_projection_tables(spec, owner, namespace_search_path) == NIL)
		return false;
	/* what is newer takes the place of what is on its way */
	if (rebuild != NULL)
	{
		in_place = es_rebuild_read(rebuild)->is_in_place;
		es_rebuild_give_up(rebuild);
	}
	es_rebuild_begin(existing, spec, owner, namespace_search_path, in_place);
	return true;
}

/* other tables, and nothing else: what is declared says only what a rebuild is about */
static bool
replace_tables(const EsDefinition *existing, Jsonb *spec)
{
	Jsonb	   *with_tables = es_options_merge(existing->spec, es_options_of("tables", es_options_array(spec, "tables")));

	if (!es_options_equal(with_tables, spec))
		return false;
	es_definition_alter("projection", existing->name, spec);
	return true;
}

/* evtstore.alter_projection(name, changes): the options of an async one */
Datum
evtstore_alter_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *definition;

	es_catalog_require_writable("alter_projection");
	es_arg_required(fcinfo, 1, "changes");
	es_options_check_changes(PG_GETARG_JSONB_P(1), changes_allowed, "changes of a projection");
	es_definition_lock("projection", name);
	AcceptInvalidationMessages();
	definition = es_definition_get("projection", name);
	es_rebuild_refuse(name, "altered");
	if (is_sync(definition))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is a sync one and has no options", name),
				 errdetail("Its handlers run in the append's transaction, which fails with them."),
				 errhint("Switch it to 'async' first.")));
	es_subscription_alter("projection", name, PG_GETARG_JSONB_P(1), 1);
	PG_RETURN_VOID();
}

/* evtstore.switch_projection(name, mode) */
Datum
evtstore_switch_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	bool		to_sync = parse_mode(es_arg_name(fcinfo, 1, "mode", 16));
	EsDefinition *definition;

	es_catalog_require_writable("switch_projection");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a projection cannot be switched in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errhint("Use READ COMMITTED, the default isolation level.")));
	es_definition_lock("projection", name);
	AcceptInvalidationMessages();
	definition = es_definition_get("projection", name);
	if (is_sync(definition) == to_sync)
		PG_RETURN_VOID();
	es_rebuild_refuse(name, "switched");
	if (to_sync)
		become_sync(definition);
	else
		become_async(definition);
	PG_RETURN_VOID();
}

/* evtstore.drop_projection(name) */
Datum
evtstore_drop_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *definition;

	es_catalog_require_writable("drop_projection");
	es_definition_lock("projection", name);
	AcceptInvalidationMessages();
	definition = es_definition_get("projection", name);
	if (es_rebuild_find(name) != NULL)
		es_rebuild_give_up(es_rebuild_find(name));
	if (!is_sync(definition))
		es_subscription_end(definition->id);
	es_definition_drop("projection", name);
	PG_RETURN_VOID();
}

static bool
is_sync(const EsDefinition *definition)
{
	return strcmp(es_options_string(definition->spec, "mode", ""), "sync") == 0;
}

static bool
parse_mode(const char *mode)
{
	if (strcmp(mode, "sync") != 0 && strcmp(mode, "async") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown mode \"%s\"", mode),
				 errhint("Known modes: 'sync', 'async'.")));
	return strcmp(mode, "sync") == 0;
}

/* {"handlers", "mode", "filter", "tables", "options"}, every part checked but the handlers' SQL */
static Jsonb *
build_spec(FunctionCallInfo fcinfo)
{
	Jsonb	   *handlers;
	Jsonb	   *filter;
	Jsonb	   *options;
	char	   *mode;
	StringInfoData json;
	char	   *tables;

	es_arg_required(fcinfo, 1, "handlers");
	handlers = PG_GETARG_JSONB_P(1);
	mode = es_arg_name(fcinfo, 2, "mode", 16);
	(void) parse_mode(mode);
	es_arg_required(fcinfo, 3, "filter");
	filter = PG_GETARG_JSONB_P(3);
	es_filter_parse(filter, "filter");
	es_arg_required(fcinfo, 4, "tables");
	tables = es_projection_tables_json(PG_GETARG_DATUM(4));
	es_arg_required(fcinfo, 5, "options");
	options = PG_GETARG_JSONB_P(5);
	if (!JB_ROOT_IS_OBJECT(handlers) || JB_ROOT_COUNT(handlers) == 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("handlers must be a JSON object with at least one event type"),
				 errhint("Write {\"OrderPlaced\": \"INSERT INTO ... VALUES (($1).stream, ...)\"}.")));

	initStringInfo(&json);
	appendStringInfo(&json, "{\"mode\":\"%s\",\"filter\":%s,\"tables\":%s,\"handlers\":", mode, es_options_text(filter),
					 tables);
	appendStringInfoString(&json, es_options_text(handlers));
	append_options(&json, options, parse_mode(mode));
	appendStringInfoChar(&json, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* in one form, defaults included; a sync projection has no place, no lanes and no failures of its own */
static void
append_options(StringInfo json, Jsonb *options, bool is_sync)
{
	static const EsOption none[] = {{NULL}};
	char	   *key;
	char	   *on_failure;

	es_options_check(options, is_sync ? none : options_allowed, is_sync ? "options of a sync projection" : "options of a projection");
	if (is_sync)
		return;
	on_failure = es_options_string(options, "on_failure", "block");
	es_subscription_check_on_failure(on_failure);
	appendStringInfo(json, ", \"lanes\": %d, \"on_failure\": \"%s\"", es_options_int(options, "lanes", 1), on_failure);
	key = es_options_string(options, "key", NULL);
	if (key != NULL)
	{
		es_subscription_check_key(key);
		appendStringInfoString(json, ", \"key\": ");
		escape_json(json, key);
	}
	if (es_options_has(options, "retry"))
	{
		es_retry_check(es_options_object(options, "retry"));
		appendStringInfoString(json, ", \"retry\": ");
		es_retry_append(json, es_options_object(options, "retry"));
	}
}

/* every fault is reported, not only the first; each handler is parsed and planned as it will run */
static void
check_handlers(Jsonb *handlers)
{
	JsonbIterator *it = JsonbIteratorInit(&handlers->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;
	StringInfoData faults;

	initStringInfo(&faults);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
		{
			char	   *fault = handler_fault(&v);

			if (fault != NULL)
				appendStringInfo(&faults, "%shandlers.%s: %s", faults.len > 0 ? "; " : "", key, fault);
		}
	}
	if (faults.len > 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("the projection has invalid handlers"),
				 errdetail("%s", faults.data),
				 errhint("A handler is one SQL statement with $1 of type evtstore.event, {\"fn\": \"schema.function\"}, or {\"batch\": "
						 "\"schema.function\"} of evtstore.event[].")));
}

/* NULL where the handler is good; its plan is thrown away with the subtransaction that made it */
static char *
handler_fault(JsonbValue *value)
{
	static const EsOption allowed[] = {{"fn", ES_OPTION_STRING}, {"batch", ES_OPTION_STRING}, {NULL}};
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile fault = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		char	   *sql;
		SPIPlanPtr	plan;
		bool		is_batch;
		Oid			type;

		if (value->type != jbvString)
		{
			Jsonb	   *object = JsonbValueToJsonb(value);

			es_options_check(object, allowed, "handler");
			if (es_options_has(object, "fn") == es_options_has(object, "batch"))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg(es_options_has(object, "fn") ? "\"fn\" and \"batch\" exclude each other" : "\"fn\" or \"batch\" is missing")));
			is_batch = es_options_has(object, "batch");
			(void) es_definition_function(es_options_string(object, is_batch ? "batch" : "fn", NULL), es_projection_handler_type(is_batch));
		}
		sql = es_projection_handler_sql(value, &is_batch);
		type = es_projection_handler_type(is_batch);
		plan = es_spi_prepare_foreign(sql, 1, &type);
		if (!es_spi_plan_is_single(plan))
			fault = pstrdup("more than one statement");
		es_spi_free_plan(plan);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		/* who catches it rolls back one subtransaction, its own: ours must be gone */
		if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(edata);
		MemoryContextSwitchTo(caller);
		fault = psprintf("%s", edata->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return fault;
}

/*
 * The worker's turn is over when the lock is there, and what it left is applied here; then, with nobody appending, the rest.
 * Whoever appends next waits for that lock and then knows the projection as a sync one.
 */
static void
become_sync(const EsDefinition *definition)
{
	int32		id = definition->id;
	const EsSubscription *subscription = es_subscription_lock(id, AccessExclusiveLock);

	if (subscription != NULL && subscription->is_paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is paused", definition->name),
				 errhint("Resume it with evtstore.resume_projection().")));
	refuse_failed(id, definition->name);
	refuse_own_events();
	es_projection_catch_up(id, false, true);
	es_lock_relation(es_catalog()->event, ShareRowExclusiveLock, CurTransactionResourceOwner);
	es_projection_catch_up(id, false, true);
	/* nobody else appends: what is not settled now is nobody's */
	refuse_own_events();
	refuse_failed(id, definition->name);
	if (!es_subscription_is_settled(id, es_feed_last_position()))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has not applied all events", definition->name),
				 errdetail("A worker that ended left some of them under a lease."),
				 errhint("Try again in a minute.")));
	es_subscription_end(id);
	es_definition_alter("projection", definition->name, with_changes(definition->spec, "{\"mode\": \"sync\", \"lanes\": null,"
																		" \"on_failure\": null, \"key\": null, \"retry\": null}"));
}

/* its own events are above its own head: it would miss them */
static void
refuse_own_events(void)
{
	if (es_feed_has_own_floor())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this transaction has appended"),
				 errdetail("The projection would miss the events of its own transaction, also those that its handlers append."),
				 errhint("Switch the projection in a transaction of its own, when its workers have nothing left to do.")));
}

/* with nobody appending, what is allocated is applied; whoever appends next knows that he need not */
static void
become_async(const EsDefinition *definition)
{
	es_lock_relation(es_catalog()->event, ShareRowExclusiveLock, CurTransactionResourceOwner);
	es_subscription_begin(definition->id, es_feed_last_position(), 1);
	es_definition_alter("projection", definition->name, with_changes(definition->spec, "{\"mode\": \"async\", \"lanes\": 1,"
																		" \"on_failure\": \"block\"}"));
	es_wakeup_at_commit(1);
}

static Jsonb *
with_changes(Jsonb *spec, const char *changes)
{
	return es_options_merge(spec, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(changes))));
}

/* nobody would come back to them */
static void
refuse_failed(int32 id, const char *name)
{
	EsSpiState	state;
	Datum		values[1] = {Int32GetDatum(id)};
	int64		failed;
	int64		dead;

	es_spi_begin(&state);
	es_spi_run_latest(&failed_plan, values, NULL);
	failed = es_spi_int64(0, 0);
	dead = es_spi_int64(0, 1);
	es_spi_end(&state);
	if (failed > 0 || dead > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has events that it did not apply", name),
				 errdetail(INT64_FORMAT " failed or wait behind one that did, " INT64_FORMAT " are dead letters.", failed, dead),
				 errhint("evtstore.blocked_keys and evtstore.dead_letters show them; redrive, skip or discard them first.")));
}
