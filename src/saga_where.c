/*
 * saga_where.c
 *		A verb of operators for many sagas: those for which a condition holds.
 *
 * Runs in backends, in the caller's transaction.  The condition is the caller's own: it is asked with his rights under his search_path, in a query
 * that may write nothing, and gives ids.  Then each instance is a transition in a savepoint (saga_operate.c), in order of id.  Locks: the rows of the
 * instances, to the transaction's end, none of which is waited for, so that two such calls, or one and whoever answers, cannot wait for each other in a
 * circle.  A crash leaves nothing of it.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "access/xact.h"
#include "arg.h"
#include "attempt.h"
#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "saga_operate.h"
#include "spi.h"

/* ids that are fetched at a time */
#define FETCH 1000

/* one instance */
typedef struct Turn
{
	const pg_uuid_t *id;
	const EsVerb *verb;
	EsOperation *what;
	EsSagaFound found;
} Turn;

static Datum operate_where(FunctionCallInfo fcinfo, const EsVerb *verb);
static void check_condition(const char *predicate);
static void shift_error(void *sql);
static pg_uuid_t *find(const char *predicate, const EsVerb *verb, const EsOperation *what, int max_count, int *n);
static void operate(void *arg);
static bool is_refusal(int code);

PG_FUNCTION_INFO_V1(evtstore_cancel_saga_where);
PG_FUNCTION_INFO_V1(evtstore_pause_saga_where);
PG_FUNCTION_INFO_V1(evtstore_resume_saga_where);
PG_FUNCTION_INFO_V1(evtstore_retry_saga_where);
PG_FUNCTION_INFO_V1(evtstore_redrive_saga_where);
PG_FUNCTION_INFO_V1(evtstore_skip_step_where);
PG_FUNCTION_INFO_V1(evtstore_resolve_step_where);
PG_FUNCTION_INFO_V1(evtstore_migrate_saga_where);

/* cancel_saga_where(predicate text, max_count int, compensate boolean) -> table(id, result, reason); evtstore_admin, as all of them */
Datum
evtstore_cancel_saga_where(PG_FUNCTION_ARGS)
{
	return operate_where(fcinfo, &es_verb_cancel);
}

Datum
evtstore_pause_saga_where(PG_FUNCTION_ARGS)
{
	return operate_where(fcinfo, &es_verb_pause);
}

Datum
evtstore_resume_saga_where(PG_FUNCTION_ARGS)
{
	return operate_where(fcinfo, &es_verb_resume);
}

Datum
evtstore_retry_saga_where(PG_FUNCTION_ARGS)
{
	return operate_where(fcinfo, &es_verb_retry);
}

Datum
evtstore_redrive_saga_where(PG_FUNCTION_ARGS)
{
	return operate_where(fcinfo, &es_verb_redrive);
}

/* skip_step_where(predicate text, max_count int, state text, output jsonb) */
Datum
evtstore_skip_step_where(PG_FUNCTION_ARGS)
{
	return operate_where(fcinfo, &es_verb_skip);
}

/* resolve_step_where(predicate text, max_count int, state text, outcome text, output jsonb) */
Datum
evtstore_resolve_step_where(PG_FUNCTION_ARGS)
{
	return operate_where(fcinfo, &es_verb_resolve);
}

/* migrate_saga_where(predicate text, max_count int, version int, map jsonb) */
Datum
evtstore_migrate_saga_where(PG_FUNCTION_ARGS)
{
	return operate_where(fcinfo, &es_verb_migrate);
}

static Datum
operate_where(FunctionCallInfo fcinfo, const EsVerb *verb)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *name = psprintf("%s_where", verb->name);
	EsOperation what = {0};
	MemoryContext old = CurrentMemoryContext;
	MemoryContext turn_context;
	pg_uuid_t  *ids;
	int			max_count;
	int			n;

	es_catalog_require_writable(name);
	es_arg_required(fcinfo, 0, "predicate");
	es_arg_required(fcinfo, 1, "max_count");
	max_count = PG_GETARG_INT32(1);
	if (max_count < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count is out of range: %d", max_count),
				 errhint("It is 1 or more: so many sagas are looked at, in order of their ids.")));
	if (verb->read != NULL)
		verb->read(fcinfo, 2, &what);
	es_move_refuse_old_snapshot(name);
	ids = find(text_to_cstring(PG_GETARG_TEXT_PP(0)), verb, &what, max_count, &n);
	InitMaterializedSRF(fcinfo, 0);
	turn_context = AllocSetContextCreate(CurrentMemoryContext, "evtstore saga where", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < n; i++)
	{
		Turn		turn = {&ids[i], verb, &what};
		Datum		values[3] = {UUIDPGetDatum(&ids[i])};
		bool		nulls[3] = {false, false, true};
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(turn_context);
		error = es_attempt_error(operate, &turn);
		if (error != NULL && !is_refusal(error->sqlerrcode))
			ReThrowError(error);
		values[1] = CStringGetTextDatum(error != NULL ? "refused" : turn.found == ES_SAGA_FOUND ? "done" : "busy");
		nulls[2] = error == NULL;
		if (error != NULL)
			values[2] = CStringGetTextDatum(error->detail == NULL ? error->message : psprintf("%s: %s", error->message, error->detail));
		/* one that was removed since is nobody's */
		if (error != NULL || turn.found != ES_SAGA_NONE)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextSwitchTo(old);
		MemoryContextReset(turn_context);
	}
	return (Datum) 0;
}

/* one expression that stands for itself, so that what is put around it means what it says */
static void
check_condition(const char *predicate)
{
	char	   *sql = psprintf("SELECT\n%s", predicate);
	ErrorContextCallback context = {error_context_stack, shift_error, sql};
	List	   *statements;
	SelectStmt *select = NULL;

	error_context_stack = &context;
	statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	error_context_stack = context.previous;
	if (list_length(statements) == 1 && IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (select == NULL || select->op != SETOP_NONE || list_length(select->targetList) != 1 || select->fromClause != NIL || select->whereClause != NULL ||
		select->groupClause != NIL || select->havingClause != NULL || select->windowClause != NIL || select->sortClause != NIL ||
		select->limitCount != NULL || select->limitOffset != NULL || select->lockingClause != NIL || select->intoClause != NULL ||
		linitial_node(ResTarget, select->targetList)->name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the predicate is not one condition: %s", es_arg_shown(predicate, strlen(predicate))),
				 errhint("It is what follows WHERE in SELECT … FROM evtstore.sagas.")));
}

/* the place of a syntax error is in the condition, and not in the caller's statement */
static void
shift_error(void *sql)
{
	int			position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery(sql);
}

/* of what is there, so many, in order */
static pg_uuid_t *
find(const char *predicate, const EsVerb *verb, const EsOperation *what, int max_count, int *n)
{
	bool		was_read_only = XactReadOnly;
	MemoryContext caller = CurrentMemoryContext;
	pg_uuid_t  *ids = NULL;
	int			size = 0;
	StringInfoData sql;
	Portal		query;
	uint64		fetched;
	bool		isnull;

	check_condition(predicate);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT s.id FROM evtstore.sagas s WHERE (\n%s\n) AND (%s)", predicate, verb->applies);
	/* those that it was said of are not found again */
	if (verb == &es_verb_migrate)
		appendStringInfo(&sql, " AND s.version <> %d", what->version);
	appendStringInfo(&sql, " ORDER BY s.id LIMIT %d", max_count);
	/* an error takes it back with the (sub)transaction */
	XactReadOnly = true;
	query = es_spi_open_query(sql.data, 0, NULL, NULL);
	*n = 0;
	while ((fetched = es_spi_fetch(query, FETCH)) > 0)
	{
		if (*n + (int) fetched > size)
		{
			size = Max(2 * size, *n + (int) fetched);
			ids = ids == NULL ? MemoryContextAllocHuge(caller, size * sizeof(pg_uuid_t)) : repalloc_huge(ids, size * sizeof(pg_uuid_t));
		}
		for (uint64 i = 0; i < fetched; i++)
			ids[(*n)++] = *DatumGetUUIDP(es_spi_value(i, 0, &isnull));
	}
	es_spi_close_query(query);
	XactReadOnly = was_read_only;
	return ids;
}

static void
operate(void *arg)
{
	Turn	   *turn = arg;

	turn->found = es_operate_try(turn->id, turn->verb, turn->what);
}

/* of that instance, and not of the call: it may have gone on since it was looked for */
static bool
is_refusal(int code)
{
	return code == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE || code == ERRCODE_UNIQUE_VIOLATION || code == ES_ERRCODE_NOT_FOUND ||
		code == ERRCODE_FEATURE_NOT_SUPPORTED;
}
