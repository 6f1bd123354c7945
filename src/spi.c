/*
 * spi.c
 *		The only user of SPI.
 *
 * SQL of ours runs as the owner of our tables, whoever called, under search_path pg_catalog: nobody's operators or
 * functions can slip in.  SQL and functions of others run as their owner, under the search_path that they were defined
 * with and pg_temp at its end.  Both are undone by es_spi_end / es_spi_unbecome or, on an error, by the abort of the
 * (sub)transaction, which restores the current user, settings and SPI's stack.
 *
 * Plans are saved per backend; the server's plan cache keeps them valid.  Nothing is shared, a crash leaves nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "spi.h"

#define OWN_SEARCH_PATH "pg_catalog, pg_temp"

static void enter(EsSpiState *state, Oid role, const char *search_path, int extra_context);
static bool is_already(Oid role, const char *search_path);
static char *temporary_last(const char *search_path);
static void leave(EsSpiState *state);
static SPIPlanPtr prepare_foreign(const char *sql, int nargs, Oid *argtypes, int cursor_options);
static void prepare(EsPlan *plan);
static void check_result(int result, const char *sql);

void
es_spi_begin(EsSpiState *state)
{
	enter(state, es_catalog()->owner, OWN_SEARCH_PATH, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
}

void
es_spi_end(EsSpiState *state)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not leave SPI");
	leave(state);
}

uint64
es_spi_run(EsPlan *plan, Datum *values, const char *nulls, bool read_only, long limit)
{
	int			result;

	prepare(plan);
	if (read_only)
	{
		/* a fresh snapshot without a new command id: reading changes nothing */
		PushActiveSnapshot(GetTransactionSnapshot());
		result = SPI_execute_plan(plan->plan, values, nulls, true, limit);
		PopActiveSnapshot();
	}
	else
		result = SPI_execute_plan(plan->plan, values, nulls, false, limit);
	check_result(result, plan->sql);
	return SPI_processed;
}

uint64
es_spi_run_latest(EsPlan *plan, Datum *values, const char *nulls)
{
	int			result;

	prepare(plan);
	CommandCounterIncrement();
	result = SPI_execute_snapshot(plan->plan, values, nulls, GetLatestSnapshot(), InvalidSnapshot, true, false, 0);
	check_result(result, plan->sql);
	return SPI_processed;
}

void
es_spi_execute(const char *sql)
{
	check_result(SPI_execute(sql, false, 0), sql);
}

Datum
es_spi_value(uint64 row, int col, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, col + 1, isnull);
}

char *
es_spi_text(uint64 row, int col)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, col + 1);
}

int64
es_spi_int64(uint64 row, int col)
{
	bool		isnull;
	Datum		value = es_spi_value(row, col, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

int32
es_spi_int32(uint64 row, int col)
{
	bool		isnull;
	Datum		value = es_spi_value(row, col, &isnull);

	return isnull ? 0 : DatumGetInt32(value);
}

SPIPlanPtr
es_spi_prepare_foreign(const char *sql, int nargs, Oid *argtypes)
{
	return prepare_foreign(sql, nargs, argtypes, 0);
}

SPIPlanPtr
es_spi_prepare_foreign_generic(const char *sql, int nargs, Oid *argtypes)
{
	return prepare_foreign(sql, nargs, argtypes, CURSOR_OPT_GENERIC_PLAN);
}

static SPIPlanPtr
prepare_foreign(const char *sql, int nargs, Oid *argtypes, int cursor_options)
{
	SPIPlanPtr	plan;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	plan = SPI_prepare_cursor(sql, nargs, argtypes, cursor_options);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep the plan of \"%s\"", sql);
	SPI_finish();
	return plan;
}

void
es_spi_run_foreign(SPIPlanPtr plan, Datum *values, const char *sql)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	check_result(SPI_execute_plan(plan, values, NULL, false, 0), sql);
	SPI_finish();
}

Datum
es_spi_call_foreign(SPIPlanPtr plan, Datum *values, const char *sql, MemoryContext context, bool *isnull)
{
	Datum		result;
	MemoryContext old;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	check_result(SPI_execute_plan(plan, values, NULL, false, 2), sql);
	if (SPI_processed != 1)
		elog(ERROR, "\"%s\" has not one row", sql);
	result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
	old = MemoryContextSwitchTo(context);
	if (!*isnull)
		result = datumCopy(result, false, -1);
	MemoryContextSwitchTo(old);
	SPI_finish();
	return result;
}

void
es_spi_check_constraints(void)
{
	ConstraintsSetStmt *all_immediate = makeNode(ConstraintsSetStmt);

	AfterTriggerSetState(all_immediate);
}

void
es_spi_free_plan(SPIPlanPtr plan)
{
	SPI_freeplan(plan);
}

bool
es_spi_plan_is_single(SPIPlanPtr plan)
{
	return list_length(SPI_plan_get_plan_sources(plan)) == 1;
}

List *
es_spi_plan_queries(SPIPlanPtr plan)
{
	List	   *queries = NIL;
	ListCell   *lc;

	foreach(lc, SPI_plan_get_plan_sources(plan))
		queries = list_concat(queries, ((CachedPlanSource *) lfirst(lc))->query_list);
	return queries;
}

void
es_spi_become(EsSpiState *state, const char *role, const char *search_path)
{
	Oid			roleid = get_role_oid(role, true);

	if (!OidIsValid(roleid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("owner \"%s\" of the handler does not exist", role),
				 errhint("Create the role again, or drop the definition and create it as another role.")));
	if (is_already(roleid, search_path))
	{
		/* what the handler sets is undone, and nothing else */
		GetUserIdAndSecContext(&state->userid, &state->sec_context);
		state->guc_level = NewGUCNestLevel();
		return;
	}
	enter(state, roleid, temporary_last(search_path), roleid != GetUserId() ? SECURITY_RESTRICTED_OPERATION : 0);
}

void
es_spi_unbecome(EsSpiState *state)
{
	leave(state);
}

void
es_spi_drop_snapshots(void)
{
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	SPI_commit();
	SPI_finish();
}

TupleDesc
es_spi_describe_query(const char *sql)
{
	MemoryContext caller = CurrentMemoryContext;
	TupleDesc	desc = NULL;
	SPIPlanPtr	plan;
	List	   *sources;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	plan = SPI_prepare(sql, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	sources = SPI_plan_get_plan_sources(plan);
	if (list_length(sources) == 1)
	{
		CachedPlanSource *source = linitial(sources);
		MemoryContext spi = MemoryContextSwitchTo(caller);

		if (source->commandTag == CMDTAG_SELECT && source->resultDesc != NULL)
			desc = CreateTupleDescCopy(source->resultDesc);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return desc;
}

Portal
es_spi_open_query(const char *sql, int nargs, Oid *argtypes, Datum *values)
{
	Portal		query;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	query = SPI_cursor_open_with_args(NULL, sql, nargs, argtypes, values, NULL, false, CURSOR_OPT_NO_SCROLL);
	if (query == NULL)
		elog(ERROR, "could not open \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	return query;
}

uint64
es_spi_fetch(Portal query, long count)
{
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
	SPI_cursor_fetch(query, true, count);
	return SPI_processed;
}

void
es_spi_close_query(Portal query)
{
	SPI_cursor_close(query);
	SPI_finish();
}

void
es_spi_ensure_snapshot(void)
{
	EnsurePortalSnapshotExists();
}

static void
enter(EsSpiState *state, Oid role, const char *search_path, int extra_context)
{
	GetUserIdAndSecContext(&state->userid, &state->sec_context);
	if (role != state->userid || extra_context != 0)
		SetUserIdAndSecContext(role, state->sec_context | SECURITY_LOCAL_USERID_CHANGE | extra_context);
	state->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", search_path, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Where a search_path does not name pg_temp, temporary tables come first.  The session is another's: with a temporary
 * table of the same name, and a trigger on it, it would run its code as the role.
 */
static char *
temporary_last(const char *search_path)
{
	if (search_path[strspn(search_path, " \t\n\r\f\v")] == '\0')
		return pstrdup("pg_temp");
	return psprintf("%s, pg_temp", search_path);
}

/*
 * The session is the role's, with his search_path, and has no temporary table that could come first: there is nothing to
 * change.  To set search_path and set it back costs more than a small statement.
 */
static bool
is_already(Oid role, const char *search_path)
{
	Oid			temporary;
	Oid			toast;

	GetTempNamespaceState(&temporary, &toast);
	return role == GetUserId() && !OidIsValid(temporary) && strcmp(namespace_search_path, search_path) == 0;
}

static void
leave(EsSpiState *state)
{
	AtEOXact_GUC(false, state->guc_level);
	SetUserIdAndSecContext(state->userid, state->sec_context);
}

static void
prepare(EsPlan *plan)
{
	if (plan->plan != NULL)
		return;
	plan->plan = SPI_prepare(plan->sql, plan->nargs, plan->args);
	if (plan->plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", plan->sql, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan->plan) != 0)
	{
		plan->plan = NULL;
		elog(ERROR, "could not keep the plan of \"%s\"", plan->sql);
	}
}

static void
check_result(int result, const char *sql)
{
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql, SPI_result_code_string(result));
}
