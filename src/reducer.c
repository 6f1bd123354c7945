/*
 * reducer.c
 *		Reducers: create, alter, drop, look up, and the fingerprint that tells one from what it was before.
 *
 * Runs in backends.  A reducer is a definition (definition.c) with a function of SQL, named by text.  The function is
 * looked up and its source is hashed at each use, so a snapshot made with another source, initial state, owner or
 * search_path is never taken for the reducer's.  What the function calls in turn is not looked at.  Rows are
 * transactional: a crash or a rollback leaves the definition as it was.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "evtstore.h"
#include "options.h"
#include "reducer.h"
#include "snapshot.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(evtstore_create_reducer);
PG_FUNCTION_INFO_V1(evtstore_alter_reducer);
PG_FUNCTION_INFO_V1(evtstore_drop_reducer);

static const EsOption reducer_options[] = {
	{"snapshot_every", ES_OPTION_INT, 1, 100000},
	{NULL}
};

static const EsOption reducer_changes[] = {
	{"fn", ES_OPTION_STRING},
	{"initial", ES_OPTION_ANY},
	{"snapshot_every", ES_OPTION_INT, 1, 100000},
	{NULL}
};

static Jsonb *build_spec(const char *fn, Jsonb *initial, Jsonb *options);
static Jsonb *initial_of(Jsonb *spec);
static Oid	find_function(const char *fn);
static EsReducerFold fold_of(const char *fn);
static int64 fingerprint_of(const EsReducer *reducer);
static uint64 add_hash(uint64 hash, const char *text);

/* evtstore.create_reducer(name, fn, initial, options) */
Datum
evtstore_create_reducer(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	char	   *fn = es_arg_name(fcinfo, 1, "fn", ES_MAX_NAME_BYTES);
	int32		id;

	es_catalog_require_writable("create_reducer");
	es_arg_required(fcinfo, 2, "initial");
	es_arg_required(fcinfo, 3, "options");
	es_options_check(PG_GETARG_JSONB_P(3), reducer_options, "options");
	(void) es_definition_create("reducer", name, build_spec(fn, PG_GETARG_JSONB_P(2), PG_GETARG_JSONB_P(3)), &id);
	PG_RETURN_VOID();
}

/* evtstore.alter_reducer(name, changes) */
Datum
evtstore_alter_reducer(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	Jsonb	   *changes;
	Jsonb	   *spec;

	es_catalog_require_writable("alter_reducer");
	es_arg_required(fcinfo, 1, "changes");
	changes = PG_GETARG_JSONB_P(1);
	es_options_check_changes(changes, reducer_changes, "changes");
	es_definition_lock("reducer", name);
	spec = es_options_merge(es_definition_get("reducer", name)->spec, changes);
	if (!es_options_has(spec, "fn"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"fn\" in changes must not be null"),
				 errhint("A reducer has a function: name it as schema.function.")));
	es_definition_alter("reducer", name, build_spec(es_options_string(spec, "fn", NULL), initial_of(spec), spec));
	PG_RETURN_VOID();
}

/* evtstore.drop_reducer(name) */
Datum
evtstore_drop_reducer(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);

	es_catalog_require_writable("drop_reducer");
	es_definition_drop("reducer", name);
	es_snapshot_forget(name);
	PG_RETURN_VOID();
}

EsReducer *
es_reducer_get(const char *name)
{
	EsDefinition *definition = es_definition_get("reducer", name);
	EsReducer  *reducer = palloc0(sizeof(EsReducer));
	EsSpiState	state;

	reducer->name = definition->name;
	reducer->fn = es_options_string(definition->spec, "fn", "");
	reducer->fold = fold_of(reducer->fn);
	reducer->owner = definition->owner;
	reducer->search_path = definition->search_path;
	/* as its owner, who may use the schema; for the built-in ones the owner does not matter */
	if (reducer->fold == ES_FOLD_FUNCTION)
		es_spi_become(&state, reducer->owner, reducer->search_path);
	reducer->function = find_function(reducer->fn);
	if (reducer->fold == ES_FOLD_FUNCTION)
		es_spi_unbecome(&state);
	reducer->initial = initial_of(definition->spec);
	reducer->snapshot_every = es_options_int(definition->spec, "snapshot_every", 0);
	reducer->fingerprint = fingerprint_of(reducer);
	return reducer;
}

/* {"fn", "initial", "snapshot_every"?}, every part checked */
static Jsonb *
build_spec(const char *fn, Jsonb *initial, Jsonb *options)
{
	StringInfoData json;

	(void) find_function(fn);
	initStringInfo(&json);
	appendStringInfoString(&json, "{\"fn\":");
	escape_json(&json, fn);
	appendStringInfo(&json, ",\"initial\":%s", es_options_text(initial));
	if (es_options_has(options, "snapshot_every"))
		appendStringInfo(&json, ",\"snapshot_every\":%d", es_options_int(options, "snapshot_every", 0));
	appendStringInfoChar(&json, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* {} where changes took it away */
static Jsonb *
initial_of(Jsonb *spec)
{
	JsonbValue	v;

	if (getKeyJsonValueFromContainer(&spec->root, "initial", strlen("initial"), &v) != NULL)
		return JsonbValueToJsonb(&v);
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
}

/* qualified, because what runs later must not depend on a search_path */
static Oid
find_function(const char *fn)
{
	Oid			argtypes[2] = {JSONBOID, es_catalog()->event_type};
	List	   *names = es_qualified_name(fn);
	Oid			function;

	if (list_length(names) < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("function name \"%s\" is not qualified", fn),
				 errhint("Write it as schema.function.")));
	function = LookupFuncName(names, 2, argtypes, true);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s(jsonb, evtstore.event) does not exist", fn),
				 errhint("Create it first; it takes the state and an event, and returns the next state.")));
	if (get_func_rettype(function) != JSONBOID || get_func_retset(function))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s(jsonb, evtstore.event) does not return jsonb", fn),
				 errhint("A reducer takes the state and an event, and returns the next state.")));
	return function;
}

static EsReducerFold
fold_of(const char *fn)
{
	if (strcmp(fn, ES_SCHEMA ".merge_data") == 0)
		return ES_FOLD_MERGE_DATA;
	return strcmp(fn, ES_SCHEMA ".merge_patch") == 0 ? ES_FOLD_MERGE_PATCH : ES_FOLD_FUNCTION;
}

static int64
fingerprint_of(const EsReducer *reducer)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(reducer->function));
	uint64		hash = 0;
	static const AttrNumber sources[] = {Anum_pg_proc_prosrc, Anum_pg_proc_probin, Anum_pg_proc_prosqlbody};

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", reducer->function);
	hash = add_hash(hash, reducer->fn);
	hash = add_hash(hash, reducer->owner);
	hash = add_hash(hash, reducer->search_path);
	hash = add_hash(hash, es_options_text(reducer->initial));
	hash = add_hash(hash, get_language_name(((Form_pg_proc) GETSTRUCT(tuple))->prolang, false));
	/* the library of our own functions moves with every installation */
	for (int i = 0; reducer->fold == ES_FOLD_FUNCTION && i < lengthof(sources); i++)
	{
		bool		isnull;
		Datum		source = SysCacheGetAttr(PROCOID, tuple, sources[i], &isnull);

		hash = add_hash(hash, isnull ? "" : TextDatumGetCString(source));
	}
	ReleaseSysCache(tuple);
	return hash == 0 ? 1 : (int64) hash;
}

/* with its end, so that no two sequences of texts are alike */
static uint64
add_hash(uint64 hash, const char *text)
{
	return DatumGetUInt64(hash_any_extended((const unsigned char *) text, strlen(text) + 1, hash));
}
