/*
 * projection_rebuild.c
 *		A rebuild begins, is cancelled, and is read by its workers.
 *
 * Runs in backends, and for the latter in rebuild workers (rebuilder.c); projection_swap.c ends one.  docs/architecture-projections.md
 * has the argument.  A rebuild is a definition of its own kind under the projection's name: the projection as it will be, and
 * under "rebuild" how its tables and their shadows are called.  With it goes a subscription, which begins at 0.
 *
 * Locks: the projection's name; in place its subscription, exclusive, so that nobody writes what is truncated.  All of it is in the
 * caller's transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "storage/lmgr.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "arg.h"
#include "attempt.h"
#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "identity.h"
#include "options.h"
#include "projection_rebuild.h"
#include "projection_tables.h"
#include "redirect.h"
#include "shadow.h"
#include "spi.h"
#include "subscription.h"
#include "wakeup.h"

static const EsOption options_allowed[] = {
	{"in_place", ES_OPTION_BOOL},
	{NULL}
};

/* the tables of another definition */
typedef struct Others
{
	EsDefinition *definition;
	List	   *tables;
} Others;

PG_FUNCTION_INFO_V1(evtstore_rebuild_projection);
PG_FUNCTION_INFO_V1(evtstore_cancel_rebuild);

static List *find_tables(const char *name, Jsonb *spec, const char *owner, const char *search_path);
static void refuse_shared(const char *name, List *tables, List *definitions);
static void look_tables(void *arg);
static void refuse_in_place(const EsDefinition *projection, Jsonb *spec);
static void stop_in_place(const EsDefinition *projection, List *tables, const char *owner);
static List *in_place_of(List *tables);
static Jsonb *with_rebuild(Jsonb *spec, const char *json);
static char *shadows_json(List *shadows, bool in_place);
static void refuse_snapshot(void);

/* rebuild_projection(name text, options jsonb) -> void; evtstore_admin */
Datum
evtstore_rebuild_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *projection;
	EsDefinition *rebuild;
	bool		in_place;

	es_catalog_require_writable("rebuild_projection");
	es_arg_required(fcinfo, 1, "options");
	es_options_check(PG_GETARG_JSONB_P(1), options_allowed, "options of a rebuild");
	in_place = es_options_bool(PG_GETARG_JSONB_P(1), "in_place", false);
	es_definition_lock("projection", name);
	AcceptInvalidationMessages();
	projection = es_definition_get("projection", name);
	rebuild = es_rebuild_find(name);
	/* what is begun in place can only be begun again */
	if (rebuild != NULL && es_rebuild_read(rebuild)->is_in_place && in_place)
	{
		Jsonb	   *spec = es_rebuild_spec(rebuild);

		es_rebuild_give_up(rebuild);
		es_rebuild_begin(projection, spec, rebuild->owner, rebuild->search_path, true);
		PG_RETURN_VOID();
	}
	es_rebuild_refuse(name, "rebuilt");
	es_rebuild_begin(projection, projection->spec, projection->owner, projection->search_path, in_place);
	PG_RETURN_VOID();
}

/* cancel_rebuild(name text) -> void; evtstore_admin */
Datum
evtstore_cancel_rebuild(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *rebuild;

	es_catalog_require_writable("cancel_rebuild");
	es_definition_lock("projection", name);
	AcceptInvalidationMessages();
	(void) es_definition_get("projection", name);
	rebuild = es_rebuild_find(name);
	if (rebuild == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is not being rebuilt", name),
				 errhint("A rebuild that has ended has taken the place of the old tables.")));
	if (es_rebuild_read(rebuild)->is_in_place)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is rebuilt in place, which cannot be cancelled", name),
				 errdetail("Its tables were truncated; there is nothing to go back to."),
				 errhint("Begin it again with evtstore.rebuild_projection(%s, '{\"in_place\": true}'), create the projection again with other "
						 "handlers, or drop it.", quote_literal_cstr(name))));
	es_rebuild_give_up(rebuild);
	PG_RETURN_VOID();
}

void
es_rebuild_begin(const EsDefinition *projection, Jsonb *spec, const char *owner, const char *search_path, bool in_place)
{
	List	   *tables;
	List	   *shadows;
	int32		id;

	refuse_snapshot();
	if (in_place)
		refuse_in_place(projection, spec);
	tables = find_tables(projection->name, spec, owner, search_path);
	es_definition_lock("rebuild", projection->name);
	id = es_definition_create_as("rebuild", projection->name, owner, search_path, spec);
	if (in_place)
	{
		stop_in_place(projection, tables, owner);
		shadows = in_place_of(tables);
	}
	else
		shadows = es_shadow_make(tables, psprintf("%d_", id));
	es_definition_alter("rebuild", projection->name, with_rebuild(spec, shadows_json(shadows, in_place)));
	es_identity_establish();
	es_subscription_begin(id, 0, es_options_int(spec, "lanes", 1));
	/* the scheduler starts who does it */
	es_wakeup_at_commit(0);
}

EsDefinition *
es_rebuild_find(const char *name)
{
	return es_definition_find("rebuild", name);
}

Jsonb *
es_rebuild_spec(const EsDefinition *rebuild)
{
	return es_options_merge(rebuild->spec, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{\"rebuild\": null}"))));
}

void
es_rebuild_give_up(const EsDefinition *rebuild)
{
	EsRebuild  *known = es_rebuild_read(rebuild);

	/* waits for the workers that are in a turn */
	es_subscription_end(rebuild->id);
	if (!known->is_in_place)
		es_shadow_drop(known->shadows);
	(void) es_definition_drop("rebuild", rebuild->name);
}

void
es_rebuild_refuse(const char *name, const char *what)
{
	if (es_rebuild_find(name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" cannot be %s while it is being rebuilt", name, what),
				 errhint("evtstore.projection_status shows how far it is; evtstore.cancel_rebuild() ends it.")));
}

List *
es_rebuild_list(void)
{
	List	   *rebuilds = NIL;
	ListCell   *lc;

	foreach(lc, es_definition_list("rebuild"))
		rebuilds = lappend(rebuilds, es_rebuild_read(lfirst(lc)));
	return rebuilds;
}

int
es_rebuild_lanes(void)
{
	int			lanes = 0;
	ListCell   *lc;

	foreach(lc, es_rebuild_list())
		if (!((EsRebuild *) lfirst(lc))->is_failed)
			lanes += ((EsRebuild *) lfirst(lc))->lanes;
	return lanes;
}

EsRebuild *
es_rebuild_read(const EsDefinition *definition)
{
	EsRebuild  *rebuild = palloc0(sizeof(EsRebuild));
	Jsonb	   *how = es_options_object(definition->spec, "rebuild");
	Jsonb	  **elements;
	int			n;

	rebuild->id = definition->id;
	rebuild->name = pstrdup(definition->name);
	rebuild->is_failed = strcmp(definition->state, ES_DEFINITION_FAILED) == 0;
	rebuild->lanes = es_options_int(definition->spec, "lanes", 1);
	rebuild->is_in_place = es_options_bool(how, "in_place", false);
	elements = es_options_elements(es_options_array(how, "shadows"), "shadows", "", &n);
	for (int i = 0; i < n; i++)
	{
		EsShadow   *shadow = palloc0(sizeof(EsShadow));

		shadow->table = es_options_string(elements[i], "table", NULL);
		shadow->shadow = es_options_string(elements[i], "shadow", NULL);
		shadow->fingerprint = es_options_string(elements[i], "fingerprint", NULL);
		rebuild->shadows = lappend(rebuild->shadows, shadow);
	}
	return rebuild;
}

void
es_rebuild_use(const EsRebuild *rebuild)
{
	List	   *relations = NIL;
	List	   *others = NIL;
	ListCell   *lc;

	es_shadow_resolve(rebuild->shadows);
	foreach(lc, rebuild->shadows)
	{
		const EsShadow *shadow = lfirst(lc);
		EsIndexPair *pairs;
		int			n;

		if (rebuild->is_in_place)
		{
			/* itself, and its partitions */
			List	   *all = find_all_inheritors(shadow->table_oid, NoLock, NULL);

			relations = list_concat(relations, all);
			others = list_concat(others, all);
			continue;
		}
		LockRelationOid(shadow->table_oid, AccessShareLock);
		LockRelationOid(shadow->shadow_oid, AccessShareLock);
		es_shadow_check_columns(shadow->table_oid, shadow->shadow_oid);
		relations = lappend_oid(relations, shadow->table_oid);
		others = lappend_oid(others, shadow->shadow_oid);
		/* one that is being built beside another one has no pair for a while */
		pairs = es_shadow_indexes(shadow, false, &n);
		for (int i = 0; i < n; i++)
		{
			relations = lappend_oid(relations, pairs[i].index);
			others = lappend_oid(others, pairs[i].shadow);
		}
	}
	es_redirect_use(rebuild->id, relations, others);
}

bool
es_rebuild_exists(const EsRebuild *rebuild)
{
	const EsDefinition *definition = es_rebuild_find(rebuild->name);

	return definition != NULL && definition->id == rebuild->id;
}

void
es_rebuild_fail(const EsRebuild *rebuild, const char *error)
{
	EsDefinition *definition;
	StringInfoData json;
	Jsonb	   *how;

	es_definition_lock("rebuild", rebuild->name);
	if (!es_rebuild_exists(rebuild))
		return;
	definition = es_rebuild_find(rebuild->name);
	initStringInfo(&json);
	appendStringInfoString(&json, "{\"error\": ");
	escape_json(&json, error);
	appendStringInfoChar(&json, '}');
	how = es_options_merge(es_options_object(definition->spec, "rebuild"),
						   DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data))));
	es_definition_alter("rebuild", rebuild->name, with_rebuild(es_rebuild_spec(definition), es_options_text(how)));
	es_definition_set_state("rebuild", rebuild->name, ES_DEFINITION_FAILED);
}

/* whose files are exchanged, so they must be the owner's */
static List *
find_tables(const char *name, Jsonb *spec, const char *owner, const char *search_path)
{
	List	   *tables = es_projection_tables(spec, owner, search_path);
	Oid			role = get_role_oid(owner, false);
	ListCell   *lc;

	if (tables == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no tables of projection \"%s\" are known", name),
				 errdetail("It declares none, and no SQL statement of it writes one; what a function writes is not known before it runs."),
				 errhint("Create the projection again with the same handlers and its tables.")));
	foreach(lc, tables)
	{
		char	   *table = es_shadow_table_name(lfirst_oid(lc));

		if (!es_owns_table(lfirst_oid(lc), role))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be owner of table %s", table),
					 errdetail("Projection \"%s\" belongs to role \"%s\".", name, owner)));
		if (get_rel_persistence(lfirst_oid(lc)) != RELPERSISTENCE_PERMANENT || get_rel_namespace(lfirst_oid(lc)) == get_namespace_oid(ES_SCHEMA_INTERNAL, false))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("table %s cannot be rebuilt", table),
					 errdetail("It is not logged, so that a crash would empty it and leave the place of the projection, or it is a table of evtstore.")));
	}
	refuse_shared(name, tables, list_concat(es_definition_list("projection"), es_definition_list("rebuild")));
	return tables;
}

void
es_rebuild_refuse_tables(const char *name, Jsonb *spec, const char *owner, const char *search_path)
{
	List	   *rebuilds = es_definition_list("rebuild");

	if (rebuilds != NIL)
		refuse_shared(name, es_projection_tables(spec, owner, search_path), rebuilds);
}

/* what another projection wrote would be gone, and nobody would write it again */
static void
refuse_shared(const char *name, List *tables, List *definitions)
{
	ListCell   *lc;

	foreach(lc, definitions)
	{
		Others		others = {.definition = lfirst(lc)};
		ListCell   *lc2;

		/* one whose handlers cannot be planned any more writes nothing, either */
		if (strcmp(others.definition->name, name) == 0 || es_attempt(look_tables, &others) != NULL)
			continue;
		foreach(lc2, tables)
			if (list_member_oid(others.tables, lfirst_oid(lc2)))
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("projection \"%s\" shares table %s with projection \"%s\"", name, es_shadow_table_name(lfirst_oid(lc2)),
								others.definition->name),
						 errdetail("A rebuild of the one would lose what the other wrote."),
						 errhint("Let one projection write it, with the handlers of both.")));
	}
}

static void
look_tables(void *arg)
{
	Others	   *others = arg;

	others->tables = es_projection_tables(others->definition->spec, others->definition->owner, others->definition->search_path);
}

/* what it would refuse would pass meanwhile, and then never be applied */
static void
refuse_in_place(const EsDefinition *projection, Jsonb *spec)
{
	if (strcmp(projection->state, ES_DEFINITION_PAUSED) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is paused", projection->name),
				 errhint("Resume it with evtstore.resume_projection(); or rebuild it beside itself.")));
	if (strcmp(es_options_string(projection->spec, "mode", ""), "sync") == 0 || strcmp(es_options_string(spec, "mode", ""), "sync") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a sync projection cannot be rebuilt in place"),
				 errdetail("What is appended meanwhile would not be seen by its handlers, which may refuse it."),
				 errhint("Switch it to 'async', rebuild it, and switch it back; or rebuild it beside itself.")));
}

/*
 * Nobody writes the tables from here to the commit, and after it who would have knows that he must not.  As their owner: triggers on
 * TRUNCATE are his.
 */
static void
stop_in_place(const EsDefinition *projection, List *tables, const char *owner)
{
	StringInfoData sql;
	EsSpiState	state;
	SPIPlanPtr	plan;
	ListCell   *lc;

	(void) es_subscription_lock(projection->id, AccessExclusiveLock);
	es_definition_set_state("projection", projection->name, ES_DEFINITION_REBUILDING);
	initStringInfo(&sql);
	foreach(lc, tables)
		appendStringInfo(&sql, "%s %s", sql.len == 0 ? "TRUNCATE" : ",", es_shadow_table_name(lfirst_oid(lc)));
	es_spi_become(&state, owner, "pg_catalog");
	plan = es_spi_prepare_foreign(sql.data, 0, NULL);
	es_spi_run_foreign(plan, NULL, sql.data);
	es_spi_free_plan(plan);
	es_spi_unbecome(&state);
}

static List *
in_place_of(List *tables)
{
	List	   *shadows = NIL;
	ListCell   *lc;

	foreach(lc, tables)
	{
		EsShadow   *shadow = palloc0(sizeof(EsShadow));

		shadow->table = shadow->shadow = es_shadow_table_name(lfirst_oid(lc));
		shadow->fingerprint = "";
		shadows = lappend(shadows, shadow);
	}
	return shadows;
}

static Jsonb *
with_rebuild(Jsonb *spec, const char *json)
{
	return es_options_merge(spec, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(psprintf("{\"rebuild\": %s}", json)))));
}

static char *
shadows_json(List *shadows, bool in_place)
{
	StringInfoData json;
	ListCell   *lc;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"in_place\": %s, \"shadows\": [", in_place ? "true" : "false");
	foreach(lc, shadows)
	{
		const EsShadow *shadow = lfirst(lc);

		appendStringInfoString(&json, lc == list_head(shadows) ? "{\"table\": " : ", {\"table\": ");
		escape_json(&json, shadow->table);
		appendStringInfoString(&json, ", \"shadow\": ");
		escape_json(&json, shadow->shadow);
		appendStringInfoString(&json, ", \"fingerprint\": ");
		escape_json(&json, shadow->fingerprint);
		appendStringInfoChar(&json, '}');
	}
	appendStringInfoString(&json, "]}");
	return json.data;
}

/* what it writes, and what it makes the old workers see, is of now */
static void
refuse_snapshot(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a projection cannot be rebuilt in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errhint("Use READ COMMITTED, the default isolation level.")));
}
