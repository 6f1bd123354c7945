/*
 * redirect.c
 *		Statements that name a table get another one.
 *
 * Runs in rebuild workers only: the hooks are installed there, and nowhere else.  The planner gets the query after parsing and
 * rewriting, with views, rules, policies and defaults in it, and with the table's OID where the rows are read and written;
 * that OID is exchanged for the shadow's, whose columns have the same numbers.  Functions of the language SQL are not inlined here,
 * so that each is planned by itself, and no plan is parallel, as other processes have no hooks.  The executor looks again: a plan
 * that has one of the tables in it, or writes what is none of their shadows, does not run.  Utility commands have no plan; those
 * that could write, or mean the table by its name, are refused.
 *
 * A plan that was made here is good for nothing else, as the OIDs in it are.  It stays in the process, which ends with its last
 * rebuild; between two of them the plan cache is emptied.  Nothing is shared; a crash leaves nothing.
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "evtstore.h"
#include "redirect.h"
#include "shadow.h"

static int64 current_key = 0;
static bool is_active = false;
/* tables and their indexes, and the other one of each; in place it is the same one */
static List *relations = NIL;
static List *others = NIL;

static planner_hook_type next_planner = NULL;
static ExecutorStart_hook_type next_executor_start = NULL;
static ProcessUtility_hook_type next_utility = NULL;
static needs_fmgr_hook_type next_needs_fmgr = NULL;

static PlannedStmt *redirect_planner(Query *query, const char *text, int options, ParamListInfo params);
static void check_plan(QueryDesc *query, int eflags);
static void check_utility(PlannedStmt *statement, const char *text, bool read_only, ProcessUtilityContext context,
						  ParamListInfo params, QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion);
static bool is_planned_alone(Oid function);
static bool redirect(Node *node, void *context);
static void redirect_query(Query *query);
static Oid	other_of(Oid relation);
static Oid	other_constraint(Oid constraint);
static bool may_write(Oid table);
static bool is_harmless(Node *statement);
static bool are_temporary(List *range_vars);
static bool are_temporary_names(List *names);

void
es_redirect_init(void)
{
	next_planner = planner_hook;
	planner_hook = redirect_planner;
	next_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = check_plan;
	next_needs_fmgr = needs_fmgr_hook;
	needs_fmgr_hook = is_planned_alone;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = check_utility;
}

void
es_redirect_use(int64 key, List *from, List *to)
{
	MemoryContext old_context;

	if (key != current_key)
		ResetPlanCache();
	list_free(relations);
	list_free(others);
	relations = others = NIL;
	old_context = MemoryContextSwitchTo(TopMemoryContext);
	relations = list_copy(from);
	others = list_copy(to);
	MemoryContextSwitchTo(old_context);
	current_key = key;
	is_active = true;
}

void
es_redirect_pause(void)
{
	is_active = false;
}

static PlannedStmt *
redirect_planner(Query *query, const char *text, int options, ParamListInfo params)
{
	if (is_active)
	{
		redirect_query(query);
		/* a parallel worker plans functions by itself, and has no hooks */
		options &= ~CURSOR_OPT_PARALLEL_OK;
	}
	return next_planner != NULL ? next_planner(query, text, options, params) : standard_planner(query, text, options, params);
}

/* what a hook wants to see is not inlined; ours wants to see nothing of it */
static bool
is_planned_alone(Oid function)
{
	HeapTuple	tuple;
	bool		is_sql = false;

	if (next_needs_fmgr != NULL && next_needs_fmgr(function))
		return true;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (HeapTupleIsValid(tuple))
	{
		is_sql = ((Form_pg_proc) GETSTRUCT(tuple))->prolang == SQLlanguageId;
		ReleaseSysCache(tuple);
	}
	return is_active && is_sql;
}

static bool
redirect(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		redirect_query((Query *) node);
		return false;
	}
	return expression_tree_walker(node, redirect, context);
}

/* and what is in it */
static void
redirect_query(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		Oid			other = rte->rtekind == RTE_RELATION ? other_of(rte->relid) : InvalidOid;

		if (!OidIsValid(other))
			continue;
		LockRelationOid(other, rte->rellockmode);
		/* both are locked, and stay as they are */
		es_shadow_check_columns(rte->relid, other);
		rte->relid = other;
	}
#ifdef ES_HAVE_PERMISSION_INFOS
	foreach(lc, query->rteperminfos)
	{
		RTEPermissionInfo *info = lfirst(lc);
		Oid			other = other_of(info->relid);

		if (OidIsValid(other))
			info->relid = other;
	}
#endif
	if (query->onConflict != NULL && OidIsValid(query->onConflict->constraint))
		query->onConflict->constraint = other_constraint(query->onConflict->constraint);
	(void) query_tree_walker(query, redirect, NULL, 0);
}

static void
check_plan(QueryDesc *query, int eflags)
{
	PlannedStmt *plan = query->plannedstmt;
	ListCell   *lc;

	foreach(lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (is_active && rte->rtekind == RTE_RELATION && OidIsValid(other_of(rte->relid)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("table \"%s\" is read in a way that a rebuild cannot see", get_rel_name(rte->relid)),
					 errdetail("It came into the plan after the statement was planned.")));
	}
	foreach(lc, plan->resultRelations)
	{
		Oid			table = rt_fetch(lfirst_int(lc), plan->rtable)->relid;

		if (is_active && !may_write(table))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("a handler writes table \"%s\", which is not a table of the projection", get_rel_name(table)),
					 errdetail("In a rebuild it would be written once more."),
					 errhint("Declare it: create the projection again with it among its tables.")));
	}
	if (next_executor_start != NULL)
		next_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

static void
check_utility(PlannedStmt *statement, const char *text, bool read_only, ProcessUtilityContext context,
			  ParamListInfo params, QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion)
{
	/* who listens has heard it */
	if (is_active && IsA(statement->utilityStmt, NotifyStmt))
		return;
	if (is_active && !is_harmless(statement->utilityStmt))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s cannot be run by a handler while its projection is rebuilt", GetCommandTagName(CreateCommandTag(statement->utilityStmt))),
				 errhint("Temporary tables can be created, truncated and dropped, and settings can be set.")));
	/* the shadow's constraints have other names */
	if (is_active && IsA(statement->utilityStmt, ConstraintsSetStmt))
	{
		statement = copyObject(statement);
		((ConstraintsSetStmt *) statement->utilityStmt)->constraints = NIL;
	}
	if (next_utility != NULL)
		next_utility(statement, text, read_only, context, params, environment, receiver, completion);
	else
		standard_ProcessUtility(statement, text, read_only, context, params, environment, receiver, completion);
}

static Oid
other_of(Oid relation)
{
	ListCell   *lc;
	ListCell   *lc2;

	forboth(lc, relations, lc2, others)
		if (lfirst_oid(lc) == relation && lfirst_oid(lc2) != relation)
			return lfirst_oid(lc2);
	return InvalidOid;
}

/* ON CONFLICT ON CONSTRAINT: by its index, as the two have other names */
static Oid
other_constraint(Oid constraint)
{
	Oid			index = get_constraint_index(constraint);

	return OidIsValid(other_of(index)) ? get_index_constraint(other_of(index)) : constraint;
}

static bool
may_write(Oid table)
{
	/* of a view its trigger writes something, or nothing */
	return list_member_oid(others, table) || get_rel_relkind(table) == RELKIND_VIEW || get_rel_persistence(table) == RELPERSISTENCE_TEMP ||
		get_rel_namespace(table) == get_namespace_oid(ES_SCHEMA_INTERNAL, true);
}

static bool
is_harmless(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_VariableSetStmt:
		case T_VariableShowStmt:
		case T_ConstraintsSetStmt:
		case T_CallStmt:
		case T_DoStmt:
			return true;
		case T_CreateStmt:
			return ((CreateStmt *) statement)->relation->relpersistence == RELPERSISTENCE_TEMP && ((CreateStmt *) statement)->inhRelations == NIL;
		case T_CreateTableAsStmt:
			return ((CreateTableAsStmt *) statement)->into->rel->relpersistence == RELPERSISTENCE_TEMP;
		case T_TruncateStmt:
			return are_temporary(((TruncateStmt *) statement)->relations);
		case T_DropStmt:
			return ((DropStmt *) statement)->removeType == OBJECT_TABLE && are_temporary_names(((DropStmt *) statement)->objects);
		case T_IndexStmt:
			return are_temporary(list_make1(((IndexStmt *) statement)->relation));
		default:
			return false;
	}
}

/* one that is not there is the command's own error */
static bool
are_temporary(List *range_vars)
{
	ListCell   *lc;

	foreach(lc, range_vars)
	{
		Oid			table = RangeVarGetRelid(lfirst(lc), NoLock, true);

		if (OidIsValid(table) && get_rel_persistence(table) != RELPERSISTENCE_TEMP)
			return false;
	}
	return true;
}

static bool
are_temporary_names(List *names)
{
	List	   *range_vars = NIL;
	ListCell   *lc;

	foreach(lc, names)
		range_vars = lappend(range_vars, makeRangeVarFromNameList(lfirst(lc)));
	return are_temporary(range_vars);
}
