/*
 * saga_version.c
 *		The versions of definitions of sagas: define, drop, look up.
 *
 * Runs in backends that define sagas, and wherever one goes on.  The row of the name (definition.c) says which version is active; the rows
 * of versions are inserted and never updated.  Locks: the definition's name, from the look-up to the end of the transaction, so that concurrent identical
 * calls come to one version.  All of it is in the caller's transaction: a crash or a rollback takes name and version together.
 *
 * A version is compiled once per backend.  A number that was rolled back may come again with other content, so after each change of
 * definitions the hash of the row is looked at once.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "arg.h"
#include "attempt.h"
#include "catalog.h"
#include "compat.h"
#include "definition_cache.h"
#include "error.h"
#include "evtstore.h"
#include "identity.h"
#include "lock.h"
#include "options.h"
#include "queue.h"
#include "saga_version.h"
#include "spi.h"

#define MAX_FAULTS_TOLD 100
#define HINT "It is Amazon States Language with JSONPath and the key \"Saga\", or a list of steps: [{\"do\": \"queue:NAME\", \"undo\": \"queue:NAME\"}]."

PG_FUNCTION_INFO_V1(evtstore_define_saga);
PG_FUNCTION_INFO_V1(evtstore_drop_saga);

/* a definition as the name's row says */
typedef struct Saga
{
	int32		id;
	char	   *name;
	char	   *owner;
	char	   *search_path;
	int			version;		/* the active one */
	bool		is_paused;
	EsReactor  *reactor;		/* NULL: it is none */
} Saga;

typedef struct Key
{
	int32		id;
	int32		version;
} Key;

typedef struct Compiled
{
	Key			key;
	EsSagaVersion *shown;		/* NULL: not made yet */
	bytea	   *hash;
	MemoryContext context;		/* of the tree, and hash */
	MemoryContext shown_context;
	uint64		generation;		/* at which it was looked at */
} Compiled;

/* what a reference to something else in the database is looked up with */
typedef struct Reference
{
	const EsAslCall *call;
	const EsAslState *state;	/* whose Resource it is; NULL: an Undo */
	Oid			owner;
	const char *saga;			/* that is being defined */
} Reference;

static EsPlan equal_plan = {
	.sql = "SELECT max(version) FROM evtstore_internal.saga_version WHERE definition_id = $1 AND hash = sha256(convert_to($2::text, 'UTF8'))",
	.nargs = 2,
	.args = {INT4OID, JSONBOID},
};

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.saga_version (definition_id, version, spec, hash, created_at)"
	" VALUES ($1, $2, $3, sha256(convert_to($3::text, 'UTF8')), now())",
	.nargs = 3,
	.args = {INT4OID, INT4OID, JSONBOID},
};

static EsPlan last_plan = {
	.sql = "SELECT coalesce(max(version), 0) FROM evtstore_internal.saga_version WHERE definition_id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static EsPlan read_plan = {
	.sql = "SELECT spec, hash FROM evtstore_internal.saga_version WHERE definition_id = $1 AND version = $2",
	.nargs = 2,
	.args = {INT4OID, INT4OID},
};

/* also one that has ended, and could not give back a lock yet */
static EsPlan open_plan = {
	.sql = "WITH RECURSIVE above AS (SELECT parent_id AS id FROM evtstore_internal.saga WHERE definition_id = $1 AND parent_id IS NOT NULL"
	" UNION SELECT s.parent_id FROM above JOIN evtstore_internal.saga s ON s.id = above.id WHERE s.parent_id IS NOT NULL)"
	" SELECT 1 FROM evtstore_internal.saga WHERE definition_id = $1 AND ended_at IS NULL"
	" UNION ALL SELECT 1 FROM above JOIN evtstore_internal.saga s ON s.id = above.id WHERE s.ended_at IS NULL"
	" UNION ALL SELECT 1 FROM evtstore_internal.saga_lock l JOIN evtstore_internal.saga s ON s.id = l.saga_id WHERE s.definition_id = $1 LIMIT 1",
	.nargs = 1,
	.args = {INT4OID},
};

static EsPlan delete_instances_plan = {
	.sql = "WITH gone AS (DELETE FROM evtstore_internal.saga WHERE definition_id = $1 RETURNING id),"
	" keys AS (DELETE FROM evtstore_internal.saga_key WHERE definition_id = $1),"
	" answers AS (DELETE FROM evtstore_internal.saga_answer WHERE saga_id IN (SELECT id FROM gone)),"
	" signals AS (DELETE FROM evtstore_internal.saga_signal WHERE saga_id IN (SELECT id FROM gone))"
	" DELETE FROM evtstore_internal.saga_step WHERE saga_id IN (SELECT id FROM gone)",
	.nargs = 1,
	.args = {INT4OID},
};

static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.saga_version WHERE definition_id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static void fill_saga(void *entry, const EsDefinition *definition);

static EsDefinitionCache sagas = {
	.kind = "saga",
	/* for their instances, which are found by id */
	.aside_kinds = {"reactor"},
	.size = sizeof(Saga),
	.fill = fill_saga,
};

static HTAB *compiled = NULL;

static void refuse_if_targeted(const char *name);
static int	keep_version(const char *name, const EsDefinition *existing, Jsonb *spec);
static int32 run_int(EsPlan *plan, Datum *values);
static void make_queues(const EsAslDefinition *definition);
static void check_references(const char *name, const EsAslDefinition *definition, Oid owner, StringInfo faults);
static void check_reference(const Reference *reference, const char *where, StringInfo faults);
static bool has_pivot(const EsAslCall *call);
static void check_function(void *reference);
static void tell_undeclared(const char *name, const EsAslDefinition *definition);
static const EsSagaVersion *show_reactor(const Saga *saga, int version);
static EsReactor *read_reactor(Jsonb *spec);
static const EsSagaVersion *find_version(const Saga *saga, int version);
static Jsonb *read_version(int32 id, int version, bytea **hash);
static void compile(Compiled *entry, const Saga *saga, Jsonb *spec, bytea *hash);
static void show(Compiled *entry, const Saga *saga);
static void retire(MemoryContext *context);
static void forget_dropped(void);

/* evtstore.define_saga(name text, definition jsonb) -> int */
Datum
evtstore_define_saga(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsAslDefinition *definition;
	EsDefinition *existing;
	StringInfoData faults;
	Jsonb	   *spec;

	es_catalog_require_writable("define_saga");
	es_arg_required(fcinfo, 1, "definition");
	initStringInfo(&faults);
	spec = es_asl_expand_steps(PG_GETARG_JSONB_P(1), &faults);
	definition = spec == NULL ? NULL : es_asl_parse(spec, &faults);
	es_definition_lock("saga", name);
	AcceptInvalidationMessages();
	existing = es_definition_find("saga", name);
	if (existing != NULL)
		es_saga_version_require_owner(existing);
	if (definition != NULL)
		check_references(name, definition, existing == NULL ? GetUserId() : get_role_oid(existing->owner, true), &faults);
	if (faults.len > 0)
		es_saga_version_refuse_faults("saga", name, &faults, HINT);
	tell_undeclared(name, definition);
	make_queues(definition);
	PG_RETURN_INT32(keep_version(name, existing, spec));
}

/* evtstore.drop_saga(name text) */
Datum
evtstore_drop_saga(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *definition;

	es_catalog_require_writable("drop_saga");
	es_definition_lock("saga", name);
	AcceptInvalidationMessages();
	definition = es_definition_find("saga", name);
	if (definition == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("saga \"%s\" does not exist", name),
				 errhint("Define it with evtstore.define_saga().")));
	es_saga_version_require_owner(definition);
	refuse_if_targeted(name);
	es_saga_version_drop_instances(definition);
	es_definition_drop("saga", name);
	PG_RETURN_VOID();
}

void
es_saga_version_drop_instances(const EsDefinition *definition)
{
	Datum		values[1] = {Int32GetDatum(definition->id)};
	EsSpiState	state;

	/* who starts one has it shared */
	(void) es_lock_mode(ES_LOCK_SAGA, definition->id, AccessExclusiveLock);
	es_spi_begin(&state);
	if (es_spi_run_latest(&open_plan, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("%s \"%s\" cannot be dropped: instances of it are open", definition->kind, definition->name),
				 errhint("Wait until they have ended, or cancel them with evtstore.cancel_saga().")));
	es_spi_run(&delete_plan, values, NULL, false, 0);
	es_spi_run(&delete_instances_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

void
es_saga_version_refuse_faults(const char *what, const char *name, const StringInfo faults, const char *hint)
{
	StringInfoData detail;
	const char *fault = faults->data;
	const char *end;
	int			path_length;
	int			n = 0;

	initStringInfo(&detail);
	while ((end = es_asl_next_fault(fault, &path_length)) != NULL)
	{
		if (n++ < MAX_FAULTS_TOLD)
			appendStringInfo(&detail, "%s%.*s", n > 1 ? "\n" : "", (int) (end - fault), fault);
		fault = *end == '\n' ? end + 1 : end;
	}
	if (n > MAX_FAULTS_TOLD)
		appendStringInfo(&detail, "\nand %d more", n - MAX_FAULTS_TOLD);
	ereport(ERROR,
			(errcode(ES_ERRCODE_INVALID_DEFINITION),
			 errmsg("the definition of %s \"%s\" is invalid", what, name),
			 errdetail_internal("%s", detail.data),
			 errhint("%s", hint)));
}

/* Locks: the saga's name; create_rule takes it too */
static void
refuse_if_targeted(const char *name)
{
	char	   *target = psprintf("saga:%s", name);
	ListCell   *lc;

	foreach(lc, es_definition_list("rule"))
	{
		EsDefinition *rule = lfirst(lc);

		if (strcmp(es_options_string(rule->spec, "target", ""), target) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("saga \"%s\" cannot be dropped: rule \"%s\" starts it", name, rule->name),
					 errhint("Drop the rule first with evtstore.drop_rule().")));
	}
}

/* functions run as who defined it first: so only a member of that role may say which */
void
es_saga_version_require_owner(const EsDefinition *definition)
{
	if (!has_privs_of_role(GetUserId(), get_role_oid(definition->owner, true)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s \"%s\" belongs to role \"%s\"", definition->kind, definition->name, definition->owner),
				 errhint("Change it as a member of that role.")));
}

/* Locks: the name's, held */
static int
keep_version(const char *name, const EsDefinition *existing, Jsonb *spec)
{
	Datum		values[3];
	EsSpiState	state;
	int			version = 0;
	int32		id;

	id = existing != NULL ? existing->id :
		es_definition_create_as("saga", name, GetUserNameFromId(GetUserId(), false), namespace_search_path, es_options_of_int("version", 1));
	if (existing == NULL)
	{
		es_identity_establish();
		/* for what is left for its instances */
		es_queue_make_sagas();
	}
	values[0] = Int32GetDatum(id);
	values[1] = JsonbPGetDatum(spec);
	if (existing != NULL)
		version = run_int(&equal_plan, values);
	if (version == 0)
	{
		version = run_int(&last_plan, values) + 1;
		values[1] = Int32GetDatum(version);
		values[2] = JsonbPGetDatum(spec);
		es_spi_begin(&state);
		es_spi_run(&insert_plan, values, NULL, false, 0);
		es_spi_end(&state);
	}
	if (existing != NULL && es_options_int(existing->spec, "version", 0) != version)
		es_definition_alter("saga", name, es_options_of_int("version", version));
	return version;
}

/* of what is committed, whatever the isolation level; 0 for NULL */
static int32
run_int(EsPlan *plan, Datum *values)
{
	EsSpiState	state;
	bool		isnull;
	Datum		value;

	es_spi_begin(&state);
	es_spi_run_latest(plan, values, NULL);
	value = es_spi_value(0, 0, &isnull);
	es_spi_end(&state);
	return isnull ? 0 : DatumGetInt32(value);
}

/* for what its steps send to endpoints */
static void
make_queues(const EsAslDefinition *definition)
{
	for (int i = 0; i < definition->nstates; i++)
	{
		const EsAslState *state = definition->states[i];

		if (state->type == ES_ASL_TASK && state->call.kind == ES_ASL_ENDPOINT)
			es_queue_make_of_endpoint(state->call.name);
		if (state->has_undo && state->undo.kind == ES_ASL_ENDPOINT)
			es_queue_make_of_endpoint(state->undo.name);
	}
}

/* what it names is there, and the owner may call it: known only now, and asked again when it is used */
static void
check_references(const char *name, const EsAslDefinition *definition, Oid owner, StringInfo faults)
{
	for (int i = 0; i < definition->nstates; i++)
	{
		const EsAslState *state = definition->states[i];
		Reference	reference = {.call = &state->call, .owner = owner, .saga = name};

		if (state->type == ES_ASL_TASK)
			reference.state = state;
		if (state->type == ES_ASL_TASK)
			check_reference(&reference, es_asl_where(state->where, "Resource"), faults);
		reference.call = &state->undo;
		reference.state = NULL;
		if (state->has_undo)
			check_reference(&reference, es_asl_where(es_asl_where(state->where, "Saga"), "Undo"), faults);
	}
}

static void
check_reference(const Reference *reference, const char *where, StringInfo faults)
{
	const EsAslCall *call = reference->call;
	EsDefinition *child;
	bytea	   *hash;
	char	   *error;

	switch (call->kind)
	{
		case ES_ASL_QUEUE:
			if (strncmp(call->name, ES_QUEUE_WORKER_PREFIX, strlen(ES_QUEUE_WORKER_PREFIX)) == 0)
				es_asl_add_fault(faults, where, "queue \"%s\" is evtstore's own", call->name);
			else if (es_definition_find("queue", call->name) == NULL)
				es_asl_add_fault(faults, where, "queue \"%s\" does not exist", call->name);
			break;
		case ES_ASL_ENDPOINT:
			if (es_definition_find("endpoint", call->name) == NULL)
				es_asl_add_fault(faults, where, "endpoint \"%s\" does not exist", call->name);
			break;
		case ES_ASL_SAGA:
			child = es_definition_find("saga", call->name);
			if (child == NULL && (strcmp(call->name, reference->saga) != 0 || call->version > 0))
				es_asl_add_fault(faults, where, "saga \"%s\" does not exist", call->name);
			else if (child != NULL && call->version > 0 && read_version(child->id, call->version, &hash) == NULL)
				es_asl_add_fault(faults, where, "saga \"%s\" has no version %d", call->name, call->version);
			else if (child != NULL && reference->state != NULL && reference->state->class == ES_ASL_UNDECLARED && has_pivot(call))
				es_asl_add_fault(faults, where, "saga \"%s\" has a pivot, behind which it cannot be taken back: say \"Class\": \"pivot\", or name an \"Undo\"", call->name);
			break;
		case ES_ASL_SQL:
			error = es_attempt(check_function, unconstify(Reference *, reference));
			if (error != NULL)
				es_asl_add_fault(faults, where, "%s", error);
			break;
		case ES_ASL_SIGNAL:
		case ES_ASL_EVENT:
			break;
	}
}

/* as it is now: without a version, the one that is taken later may have another */
static bool
has_pivot(const EsAslCall *call)
{
	const EsSagaVersion *child = es_saga_version_find(call->name, call->version);

	for (int i = 0; child != NULL && i < child->definition->nstates; i++)
		if (child->definition->states[i]->class == ES_ASL_PIVOT)
			return true;
	return false;
}

static void
check_function(void *arg)
{
	const Reference *reference = arg;
	Oid			result;

	es_definition_check_function(reference->call->name, JSONBOID, reference->owner, "saga");
	result = get_func_rettype(es_definition_function(reference->call->name, JSONBOID));
	if (result != JSONBOID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s(jsonb) returns %s, and not jsonb", reference->call->name, format_type_be(result))));
}

static void
tell_undeclared(const char *name, const EsAslDefinition *definition)
{
	StringInfoData names;
	ListCell   *lc;

	if (definition->undeclared == NIL)
		return;
	initStringInfo(&names);
	foreach(lc, definition->undeclared)
		appendStringInfo(&names, "%s\"%s\"", foreach_current_index(lc) > 0 ? ", " : "", (char *) lfirst(lc));
	ereport(NOTICE,
			(errmsg("saga \"%s\" may fail after Tasks that say nothing of an undo: %s", name, names.data),
			 errhint("Say \"Saga\": {\"Undo\": \"queue:NAME\"}, or {\"Undo\": \"none\"} where nothing is to be undone.")));
}

const EsSagaVersion *
es_saga_version_get(const char *name, int version)
{
	const Saga *saga = es_definition_cache_by_name(&sagas, name);
	const EsSagaVersion *found;

	if (saga == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("saga \"%s\" does not exist", es_arg_shown(name, strlen(name))),
				 errhint("Define it with evtstore.define_saga().")));
	found = find_version(saga, version == 0 ? saga->version : version);
	if (found == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("saga \"%s\" has no version %d", name, version),
				 errhint("The active one is %d.", saga->version)));
	return found;
}

const EsSagaVersion *
es_saga_version_find(const char *name, int version)
{
	const Saga *saga = es_definition_cache_by_name(&sagas, name);

	return saga == NULL ? NULL : find_version(saga, version == 0 ? saga->version : version);
}

const EsSagaVersion *
es_saga_version_by_id(int32 definition_id, int version)
{
	const Saga *saga = es_definition_cache_by_id(&sagas, definition_id);

	return saga == NULL ? NULL : saga->reactor != NULL ? show_reactor(saga, version) : find_version(saga, version);
}

/* a copy in the current context: what it is made from goes when a definition changes, as the function may do */
static const EsSagaVersion *
show_reactor(const Saga *saga, int version)
{
	EsSagaVersion *shown = palloc0(sizeof(EsSagaVersion));
	EsReactor  *reactor = palloc0(sizeof(EsReactor));
	ListCell   *lc;

	shown->id = saga->id;
	shown->name = pstrdup(saga->name);
	shown->owner = pstrdup(saga->owner);
	shown->search_path = pstrdup(saga->search_path);
	shown->version = version == 0 ? saga->version : version;
	shown->is_paused = saga->is_paused;
	shown->definition = palloc0(sizeof(EsAslDefinition));
	reactor->fn = pstrdup(saga->reactor->fn);
	reactor->retry = es_retry_copy(&saga->reactor->retry);
	foreach(lc, saga->reactor->starts)
		reactor->starts = lappend(reactor->starts, pstrdup(lfirst(lc)));
	shown->reactor = reactor;
	return shown;
}

static EsReactor *
read_reactor(Jsonb *spec)
{
	EsReactor  *reactor = palloc0(sizeof(EsReactor));
	int			n;
	Jsonb	  **routes = es_options_elements(es_options_array(spec, "routes"), "routes", "", &n);

	reactor->fn = es_options_string(spec, "fn", "");
	reactor->retry = es_retry_read(es_options_object(spec, "retry"));
	for (int i = 0; i < n; i++)
		if (es_options_bool(routes[i], "starts", false))
			reactor->starts = list_concat(reactor->starts, es_options_strings(routes[i], "types"));
	return reactor;
}

static void
fill_saga(void *entry, const EsDefinition *definition)
{
	Saga	   *saga = entry;

	saga->owner = pstrdup(definition->owner);
	saga->search_path = pstrdup(definition->search_path);
	saga->version = es_options_int(definition->spec, "version", 1);
	saga->is_paused = strcmp(definition->state, ES_DEFINITION_ACTIVE) != 0;
	if (strcmp(definition->kind, "reactor") == 0)
		saga->reactor = read_reactor(definition->spec);
}

/* NULL: there is none */
static const EsSagaVersion *
find_version(const Saga *saga, int version)
{
	Key			key = {.id = saga->id, .version = version};
	uint64		generation = sagas.generation;
	Compiled   *entry;
	Jsonb	   *spec;
	bytea	   *hash;

	if (compiled == NULL)
	{
		HASHCTL		info = {.keysize = sizeof(Key), .entrysize = sizeof(Compiled), .hcxt = TopMemoryContext};

		compiled = hash_create("evtstore sagas", 16, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(compiled, &key, HASH_FIND, NULL);
	if (entry != NULL && entry->shown != NULL && entry->generation == generation)
		return entry->shown;
	spec = read_version(saga->id, version, &hash);
	if (spec == NULL)
		return NULL;
	if (entry == NULL)
	{
		forget_dropped();
		entry = hash_search(compiled, &key, HASH_ENTER, NULL);
		entry->shown = NULL;
		entry->hash = NULL;
		entry->context = entry->shown_context = NULL;
	}
	if (entry->hash == NULL || VARSIZE(hash) != VARSIZE(entry->hash) || memcmp(hash, entry->hash, VARSIZE(hash)) != 0)
		compile(entry, saga, spec, hash);
	show(entry, saga);
	entry->generation = generation;
	return entry->shown;
}

static Jsonb *
read_version(int32 id, int version, bytea **hash)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[2] = {Int32GetDatum(id), Int32GetDatum(version)};
	Jsonb	   *spec = NULL;
	EsSpiState	state;
	bool		isnull;

	es_spi_begin(&state);
	if (es_spi_run_latest(&read_plan, values, NULL) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		spec = DatumGetJsonbPCopy(es_spi_value(0, 0, &isnull));
		*hash = DatumGetByteaPCopy(es_spi_value(0, 1, &isnull));
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&state);
	return spec;
}

/* the tree, in a context of its own; what it takes the place of stays to the end of the transaction */
static void
compile(Compiled *entry, const Saga *saga, Jsonb *spec, bytea *hash)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore saga", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsSagaVersion *shown = palloc0(sizeof(EsSagaVersion));
	StringInfoData faults;
	bytea	   *copy;

	initStringInfo(&faults);
	shown->definition = es_asl_parse(spec, &faults);
	/* it was good when it was defined */
	if (shown->definition == NULL)
		es_saga_version_refuse_faults("saga", saga->name, &faults, HINT);
	copy = (bytea *) DatumGetPointer(datumCopy(PointerGetDatum(hash), false, -1));
	MemoryContextSwitchTo(old);

	MemoryContextSetParent(context, TopMemoryContext);
	retire(&entry->shown_context);
	retire(&entry->context);
	entry->context = context;
	entry->shown = shown;
	entry->hash = copy;
}

/* names as the row has them now */
static void
show(Compiled *entry, const Saga *saga)
{
	const EsSagaVersion *before = entry->shown;
	MemoryContext context;
	EsSagaVersion *shown;

	if (before->name != NULL && strcmp(before->name, saga->name) == 0 && strcmp(before->owner, saga->owner) == 0 &&
		strcmp(before->search_path, saga->search_path) == 0 && before->is_paused == saga->is_paused)
		return;
	context = AllocSetContextCreate(TopMemoryContext, "evtstore saga's names", ALLOCSET_SMALL_SIZES);
	shown = MemoryContextAllocZero(context, sizeof(EsSagaVersion));
	shown->id = entry->key.id;
	shown->version = entry->key.version;
	shown->name = MemoryContextStrdup(context, saga->name);
	shown->owner = MemoryContextStrdup(context, saga->owner);
	shown->search_path = MemoryContextStrdup(context, saga->search_path);
	shown->is_paused = saga->is_paused;
	shown->definition = before->definition;
	retire(&entry->shown_context);
	entry->shown_context = context;
	entry->shown = shown;
}

/* it goes with the transaction, in which somebody may still look at it */
static void
retire(MemoryContext *context)
{
	if (*context != NULL)
		MemoryContextSetParent(*context, TopTransactionContext);
	*context = NULL;
}

/* ids do not come again, so nobody else would */
static void
forget_dropped(void)
{
	HASH_SEQ_STATUS status;
	Compiled   *entry;
	/* not looked up again: who asks holds one of these */
	const Saga *all = (const Saga *) sagas.entries;

	hash_seq_init(&status, compiled);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		bool		is_there = false;

		for (int i = 0; i < sagas.n; i++)
			is_there |= all[i].id == entry->key.id;
		if (is_there)
			continue;
		retire(&entry->shown_context);
		retire(&entry->context);
		hash_search(compiled, &entry->key, HASH_REMOVE, NULL);
	}
}
