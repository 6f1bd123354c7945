/*
 * definition.c
 *		The life cycle that queues, endpoints, rules and projections share.
 *
 * Runs in backends (create, alter, drop) and everywhere (look-ups).  A definition's name is locked from the look-up to
 * the end of the transaction, so concurrent identical calls queue up and all but the first find an equal one.  Look-ups
 * use the latest snapshot whatever the isolation level: what applies to an append is what is committed when it runs,
 * like a catalog, not what a REPEATABLE READ transaction saw when it began.  Rows are transactional: a crash or a
 * rollback leaves the definition as it was, and caches are told at commit (es_catalog_definitions_changed).
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "evtstore.h"
#include "lock.h"
#include "options.h"
#include "spi.h"

/* of a function that a definition names */
#define MAX_ARGUMENTS 2

#define COLUMNS "id, kind, name, owner, search_path, state, spec, grants, xmin"

static EsPlan find_plan = {
	.sql = "SELECT " COLUMNS " FROM evtstore_internal.definition WHERE namespace = $1 AND name = $2",
	.nargs = 2,
	.args = {TEXTOID, TEXTOID},
};

static EsPlan list_plan = {
	.sql = "SELECT " COLUMNS " FROM evtstore_internal.definition WHERE kind = $1 ORDER BY id",
	.nargs = 1,
	.args = {TEXTOID},
};

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.definition (id, kind, namespace, name, owner, search_path, spec, created_at)"
	" VALUES (nextval('evtstore_internal.definition_id_seq'), $1, $2, $3, $4, $5, $6, now()) RETURNING id",
	.nargs = 6,
	.args = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID},
};

static EsPlan update_plan = {
	.sql = "UPDATE evtstore_internal.definition SET spec = $2 WHERE id = $1",
	.nargs = 2,
	.args = {INT4OID, JSONBOID},
};

static EsPlan replace_plan = {
	.sql = "UPDATE evtstore_internal.definition SET owner = $2, search_path = $3, spec = $4 WHERE id = $1",
	.nargs = 4,
	.args = {INT4OID, TEXTOID, TEXTOID, JSONBOID},
};

static EsPlan state_plan = {
	.sql = "UPDATE evtstore_internal.definition SET state = $2 WHERE id = $1",
	.nargs = 2,
	.args = {INT4OID, TEXTOID},
};

static EsPlan try_state_plan = {
	.sql = "UPDATE evtstore_internal.definition d SET state = $2"
	" FROM (SELECT id FROM evtstore_internal.definition WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED) free WHERE d.id = free.id",
	.nargs = 2,
	.args = {INT4OID, TEXTOID},
};

static EsPlan name_plan = {
	.sql = "SELECT kind, name FROM evtstore_internal.definition WHERE id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static EsPlan grants_plan = {
	.sql = "UPDATE evtstore_internal.definition SET grants = $2 WHERE id = $1",
	.nargs = 2,
	.args = {INT4OID, JSONBOID},
};

static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.definition WHERE id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static void update(EsPlan *plan, const EsDefinition *existing, Datum value);
static uint64 name_hash(const char *kind, const char *name);
static char *arguments(Oid argtype, int nargs, bool is_qualified);
static const char *namespace_of(const char *kind);
static EsDefinition *find_any(const char *kind, const char *name);
static bool is_unseen(TransactionId xmin);
static EsDefinition *copy_row(uint64 row, MemoryContext context);
static void refuse_other(const EsDefinition *existing, const char *kind, Jsonb *spec) es_noreturn;
static void refuse_unseen(const EsDefinition *existing) es_noreturn;
static void describe_difference(StringInfo buf, Jsonb *existing, Jsonb *given);

bool
es_definition_create(const char *kind, const char *name, Jsonb *spec, int32 *id)
{
	const char *owner = GetUserNameFromId(GetUserId(), false);
	const char *search_path = namespace_search_path;
	EsDefinition *existing;

	es_arg_check_name(name, "name", ES_MAX_NAME_BYTES);
	es_definition_lock(kind, name);
	existing = find_any(kind, name);
	if (existing != NULL)
	{
		if (strcmp(existing->kind, kind) != 0 || compareJsonbContainers(&existing->spec->root, &spec->root) != 0)
			refuse_other(existing, kind, spec);
		*id = existing->id;
		return false;
	}

	*id = es_definition_create_as(kind, name, owner, search_path, spec);
	return true;
}

int32
es_definition_create_as(const char *kind, const char *name, const char *owner, const char *search_path, Jsonb *spec)
{
	EsSpiState	state;
	Datum		values[6];
	int32		id;

	es_spi_begin(&state);
	values[0] = CStringGetTextDatum(kind);
	values[1] = CStringGetTextDatum(namespace_of(kind));
	values[2] = CStringGetTextDatum(name);
	values[3] = CStringGetTextDatum(owner);
	values[4] = CStringGetTextDatum(search_path);
	values[5] = JsonbPGetDatum(spec);
	es_spi_run(&insert_plan, values, NULL, false, 0);
	id = es_spi_int32(0, 0);
	es_spi_end(&state);
	es_catalog_definitions_changed();
	return id;
}

void
es_definition_replace(const EsDefinition *existing, const char *owner, const char *search_path, Jsonb *spec)
{
	EsSpiState	state;
	Datum		values[4] = {Int32GetDatum(existing->id), CStringGetTextDatum(owner), CStringGetTextDatum(search_path), JsonbPGetDatum(spec)};

	es_spi_begin(&state);
	if (es_spi_run(&replace_plan, values, NULL, false, 0) != 1)
		refuse_unseen(existing);
	es_spi_end(&state);
	es_catalog_definitions_changed();
}

void
es_definition_alter(const char *kind, const char *name, Jsonb *spec)
{
	es_definition_lock(kind, name);
	update(&update_plan, es_definition_get(kind, name), JsonbPGetDatum(spec));
}

void
es_definition_set_state(const char *kind, const char *name, const char *state)
{
	EsDefinition *existing;

	es_definition_lock(kind, name);
	existing = es_definition_get(kind, name);
	if (strcmp(existing->state, state) != 0)
		update(&state_plan, existing, CStringGetTextDatum(state));
}

bool
es_definition_try_state(const char *kind, const char *name, const char *state)
{
	EsDefinition *existing = es_definition_find(kind, name);
	EsSpiState	spi;
	Datum		values[2];
	bool		is_set;

	if (existing == NULL)
		return false;
	values[0] = Int32GetDatum(existing->id);
	values[1] = CStringGetTextDatum(state);
	es_spi_begin(&spi);
	is_set = es_spi_run(&try_state_plan, values, NULL, false, 0) == 1;
	es_spi_end(&spi);
	if (is_set)
		es_catalog_definitions_changed();
	return is_set;
}

bool
es_definition_quarantine(int32 id, char **kind, char **name)
{
	Datum		values[1] = {Int32GetDatum(id)};
	MemoryContext context = CurrentMemoryContext;
	EsSpiState	state;
	bool		found;

	es_spi_begin(&state);
	found = es_spi_run_latest(&name_plan, values, NULL) > 0;
	if (found)
	{
		*kind = MemoryContextStrdup(context, es_spi_text(0, 0));
		*name = MemoryContextStrdup(context, es_spi_text(0, 1));
	}
	es_spi_end(&state);
	if (found)
		es_definition_set_state(*kind, *name, strcmp(*kind, "rebuild") == 0 ? ES_DEFINITION_FAILED : ES_DEFINITION_QUARANTINED);
	return found;
}

void
es_definition_set_grants(const EsDefinition *definition, Jsonb *grants)
{
	update(&grants_plan, definition, JsonbPGetDatum(grants));
}

int32
es_definition_drop(const char *kind, const char *name)
{
	EsDefinition *existing;
	EsSpiState	state;
	Datum		values[1];

	es_definition_lock(kind, name);
	existing = es_definition_get(kind, name);
	values[0] = Int32GetDatum(existing->id);
	es_spi_begin(&state);
	if (es_spi_run(&delete_plan, values, NULL, false, 0) != 1)
		refuse_unseen(existing);
	es_spi_end(&state);
	es_catalog_definitions_changed();
	return existing->id;
}

EsDefinition *
es_definition_find(const char *kind, const char *name)
{
	EsDefinition *found = find_any(kind, name);

	return found != NULL && strcmp(found->kind, kind) == 0 ? found : NULL;
}

EsDefinition *
es_definition_get(const char *kind, const char *name)
{
	EsDefinition *found = es_definition_find(kind, name);

	if (found == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("%s \"%s\" does not exist", kind, name),
				 errhint("Create it with evtstore.create_%s().", kind)));
	return found;
}

List *
es_definition_list(const char *kind)
{
	MemoryContext context = CurrentMemoryContext;
	EsSpiState	state;
	Datum		values[1];
	List	   *result = NIL;
	uint64		n;

	es_spi_begin(&state);
	values[0] = CStringGetTextDatum(kind);
	n = es_spi_run_latest(&list_plan, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		EsDefinition *definition = copy_row(i, context);
		MemoryContext old = MemoryContextSwitchTo(context);

		result = lappend(result, definition);
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&state);
	return result;
}

void
es_definition_lock(const char *kind, const char *name)
{
	es_lock(ES_LOCK_DEFINITION, name_hash(kind, name));
}

bool
es_definition_try_lock(const char *kind, const char *name)
{
	return es_lock_try(ES_LOCK_DEFINITION, name_hash(kind, name));
}

static uint64
name_hash(const char *kind, const char *name)
{
	const char *space = namespace_of(kind);
	uint64		seed = DatumGetUInt64(hash_any_extended((const unsigned char *) space, strlen(space), 0));

	return DatumGetUInt64(hash_any_extended((const unsigned char *) name, strlen(name), seed));
}

/*
 * The name is looked up as in SQL, except that it must be qualified: what runs later must not depend on a
 * search_path.
 */
Oid
es_definition_function(const char *fn, Oid argtype)
{
	return es_definition_function_of(fn, argtype, 1);
}

Oid
es_definition_function_of(const char *fn, Oid argtype, int nargs)
{
	List	   *names = es_qualified_name(fn);
	Oid			types[MAX_ARGUMENTS];
	Oid			oid;

	Assert(nargs <= MAX_ARGUMENTS);
	for (int i = 0; i < nargs; i++)
		types[i] = argtype;
	if (list_length(names) < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("function name \"%s\" is not qualified", fn),
				 errhint("Write it as schema.function.")));
	oid = LookupFuncName(names, nargs, types, true);
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s(%s) does not exist", fn, arguments(argtype, nargs, false)),
				 nargs == 1 ? errhint("Create it first; it takes one argument of type %s.", format_type_be_qualified(argtype)) :
				 errhint("Create it first; it takes %d arguments of type %s.", nargs, format_type_be_qualified(argtype))));
	return oid;
}

void
es_definition_check_function(const char *fn, Oid argtype, Oid owner, const char *kind)
{
	es_definition_check_function_of(fn, argtype, 1, owner, kind);
}

void
es_definition_check_function_of(const char *fn, Oid argtype, int nargs, Oid owner, const char *kind)
{
	Oid			oid = es_definition_function_of(fn, argtype, nargs);

	if (get_func_prokind(oid) != PROKIND_FUNCTION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not a plain function", fn),
				 nargs == 1 ? errhint("Name a function that takes one %s.", format_type_be_qualified(argtype)) :
				 errhint("Name a function that takes %d of %s.", nargs, format_type_be_qualified(argtype))));
	if (!OidIsValid(owner) || !es_may_execute(oid, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", fn),
				 errdetail("The owner of the %s may not execute it.", kind),
				 errhint("Run: GRANT EXECUTE ON FUNCTION %s(%s) TO the owner.", fn, arguments(argtype, nargs, true))));
}

/* the types, as they stand between parentheses */
static char *
arguments(Oid argtype, int nargs, bool is_qualified)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < nargs; i++)
		appendStringInfo(&buf, "%s%s", i > 0 ? ", " : "", is_qualified ? format_type_be_qualified(argtype) : format_type_be(argtype));
	return buf.data;
}

/* Locks: the name's, held */
static void
update(EsPlan *plan, const EsDefinition *existing, Datum value)
{
	EsSpiState	state;
	Datum		values[2] = {Int32GetDatum(existing->id), value};

	es_spi_begin(&state);
	if (es_spi_run(plan, values, NULL, false, 0) != 1)
		refuse_unseen(existing);
	es_spi_end(&state);
	es_catalog_definitions_changed();
}

static const char *
namespace_of(const char *kind)
{
	if (strcmp(kind, "queue") == 0 || strcmp(kind, "subscription") == 0 || strcmp(kind, "projection") == 0)
		return "feed";
	return kind;
}

/* whatever holds the name in the kind's namespace */
static EsDefinition *
find_any(const char *kind, const char *name)
{
	MemoryContext context = CurrentMemoryContext;
	EsSpiState	state;
	Datum		values[2];
	EsDefinition *result = NULL;

	es_spi_begin(&state);
	values[0] = CStringGetTextDatum(namespace_of(kind));
	values[1] = CStringGetTextDatum(name);
	if (es_spi_run_latest(&find_plan, values, NULL) > 0)
		result = copy_row(0, context);
	es_spi_end(&state);
	return result;
}

static EsDefinition *
copy_row(uint64 row, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	EsDefinition *definition = palloc0(sizeof(EsDefinition));
	bool		isnull;

	definition->id = es_spi_int32(row, 0);
	definition->kind = es_spi_text(row, 1);
	definition->name = es_spi_text(row, 2);
	definition->owner = es_spi_text(row, 3);
	definition->search_path = es_spi_text(row, 4);
	definition->state = es_spi_text(row, 5);
	definition->spec = DatumGetJsonbPCopy(es_spi_value(row, 6, &isnull));
	definition->grants = DatumGetJsonbPCopy(es_spi_value(row, 7, &isnull));
	definition->is_unseen = IsolationUsesXactSnapshot() && is_unseen(DatumGetTransactionId(es_spi_value(row, 8, &isnull)));
	MemoryContextSwitchTo(old);
	return definition;
}

static bool
is_unseen(TransactionId xmin)
{
	return TransactionIdIsNormal(xmin) && !TransactionIdIsCurrentTransactionId(xmin) && XidInMVCCSnapshot(xmin, GetTransactionSnapshot());
}

static void
refuse_other(const EsDefinition *existing, const char *kind, Jsonb *spec)
{
	StringInfoData detail;

	if (strcmp(existing->kind, kind) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("name \"%s\" is taken by a %s", existing->name, existing->kind),
				 errhint("Queues, subscriptions and projections share one namespace: choose another name.")));
	initStringInfo(&detail);
	describe_difference(&detail, existing->spec, spec);
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("%s \"%s\" exists with another definition", kind, existing->name),
			 errdetail("%s", detail.data),
			 strcmp(kind, "projection") == 0 ?
			 errhint("With other handlers, and tables that are declared or written by SQL statements, it is rebuilt; change it with "
					 "evtstore.alter_projection() or switch_projection(), or drop it first: its tables stay.") :
			 errhint("Change it with evtstore.alter_%s(), or drop it first with evtstore.drop_%s().", kind, kind)));
}

/* the look-up sees the latest row, but a REPEATABLE READ transaction writes only what was there when it began */
static void
refuse_unseen(const EsDefinition *existing)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("%s \"%s\" was created after this transaction began", existing->kind, existing->name),
			 errhint("Run the whole transaction again.")));
}

/* top-level keys that differ: {"key": [existing, given]} in words */
static void
describe_difference(StringInfo buf, Jsonb *existing, Jsonb *given)
{
	Jsonb	   *both = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(existing), JsonbPGetDatum(given)));
	JsonbIterator *it = JsonbIteratorInit(&both->root);
	JsonbValue	v;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		JsonbValue	a;
		JsonbValue	b;
		char	   *old = NULL;
		char	   *new = NULL;

		if (token != WJB_KEY)
			continue;
		if (getKeyJsonValueFromContainer(&existing->root, v.val.string.val, v.val.string.len, &a))
			old = es_options_text(JsonbValueToJsonb(&a));
		if (getKeyJsonValueFromContainer(&given->root, v.val.string.val, v.val.string.len, &b))
			new = es_options_text(JsonbValueToJsonb(&b));
		if (old != NULL && new != NULL && strcmp(old, new) == 0)
			continue;
		/* headers carry credentials of receivers, and errors go into logs */
		if (v.val.string.len == strlen("headers") && memcmp(v.val.string.val, "headers", v.val.string.len) == 0)
			appendStringInfo(buf, "%s\"headers\" differ", buf->len > 0 ? "; " : "");
		else
			appendStringInfo(buf, "%s\"%.*s\" is %s, given %s", buf->len > 0 ? "; " : "",
							 v.val.string.len, v.val.string.val, old ? old : "absent", new ? new : "absent");
	}
	appendStringInfoChar(buf, '.');
}
