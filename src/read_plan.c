/*
 * read_plan.c
 *		The planner's side of the read functions: how many rows, what they cost, in which order; and the node that walks.
 *
 * Runs in backends, in the planner; keeps nothing.  A function in FROM is run to its end before its first row goes on: a
 * LIMIT, a cursor or an aggregate over it pays for the whole store.  So where one of ours stands there, alone, the only
 * path is a custom scan that hands out a row at a time (read_scan.c).  Everywhere else, in ROWS FROM, WITH ORDINALITY or a
 * SELECT list, the function is called.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "utils/selfuncs.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "read.h"

PG_FUNCTION_INFO_V1(evtstore_read_support);

/* what a reader takes at a time, where it is not known */
#define PAGE_ROWS 1000

static set_rel_pathlist_hook_type previous_hook = NULL;

static void add_read_path(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte);
static FuncExpr *read_call(RelOptInfo *rel, RangeTblEntry *rte, const EsReadFunction **function);
static List *pathkeys_of(PlannerInfo *root, RelOptInfo *rel, Index rti, FuncExpr *call, const EsReadFunction *function);
static void set_cost(PlannerInfo *root, RelOptInfo *rel, Path *path, const EsReadFunction *function);
static Plan *plan_read(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist, List *clauses, List *custom_plans);
static List *columns_needed(RelOptInfo *rel, List *tlist, List *quals);
static double estimate_rows(FuncExpr *call, const EsReadFunction *function);
static double share_after(FuncExpr *call, const EsReadFunction *function, double count);
static bool table_size(double *rows, double *pages);
static double distinct_values(int column, double rows);

static const CustomPathMethods path_methods = {
	.CustomName = "EvtstoreRead",
	.PlanCustomPath = plan_read,
};

void
es_read_init(void)
{
	previous_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = add_read_path;
	es_read_scan_init();
}

/* evtstore_internal.read_support(internal): the planner asks how many rows a call returns */
Datum
evtstore_read_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	SupportRequestRows *rows;
	const EsReadFunction *function;

	if (!IsA(request, SupportRequestRows))
		PG_RETURN_POINTER(NULL);
	rows = (SupportRequestRows *) request;
	function = rows->node != NULL && IsA(rows->node, FuncExpr) ? es_read_function(rows->funcid) : NULL;
	if (function == NULL)
		PG_RETURN_POINTER(NULL);
	rows->rows = estimate_rows((FuncExpr *) rows->node, function);
	PG_RETURN_POINTER(rows);
}

static void
add_read_path(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	const EsReadFunction *function;
	FuncExpr   *call;
	CustomPath *path;

	if (previous_hook != NULL)
		previous_hook(root, rel, rti, rte);
	call = read_call(rel, rte, &function);
	if (call == NULL)
		return;

	path = makeNode(CustomPath);
	path->path.pathtype = T_CustomScan;
	path->path.parent = rel;
	path->path.pathtarget = rel->reltarget;
	path->path.param_info = get_baserel_parampathinfo(root, rel, rel->lateral_relids);
	path->path.pathkeys = pathkeys_of(root, rel, rti, call, function);
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->custom_private = list_make1(call);
	path->methods = &path_methods;
	set_cost(root, rel, &path->path, function);

	/* in place of calling the function, which is never better */
	rel->pathlist = NIL;
	add_path(rel, &path->path);
}

/* the call of a read function that this table of the query is, and nothing else; NULL where it is not */
static FuncExpr *
read_call(RelOptInfo *rel, RangeTblEntry *rte, const EsReadFunction **function)
{
	RangeTblFunction *in_from;

	if (rte->rtekind != RTE_FUNCTION || rte->funcordinality || list_length(rte->functions) != 1 || IS_DUMMY_REL(rel))
		return NULL;
	in_from = linitial(rte->functions);
	if (in_from->funccolnames != NIL || !IsA(in_from->funcexpr, FuncExpr) ||
		in_from->funccolcount != ES_EVENT_ROW_NATTS ||
		((FuncExpr *) in_from->funcexpr)->funcid < FirstNormalObjectId)
		return NULL;
	*function = es_read_function(((FuncExpr *) in_from->funcexpr)->funcid);
	return *function == NULL ? NULL : (FuncExpr *) in_from->funcexpr;
}

/* the order of the index, if anybody asks for it; known only where the direction is */
static List *
pathkeys_of(PlannerInfo *root, RelOptInfo *rel, Index rti, FuncExpr *call, const EsReadFunction *function)
{
	Const	   *backwards = list_nth(call->args, function->backwards_arg);
	TypeCacheEntry *type = lookup_type_cache(INT8OID, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	Var		   *column = makeVar(rti, function->order, INT8OID, -1, InvalidOid, 0);
	bool		descending;

	if (!IsA(backwards, Const))
		return NIL;
	descending = !backwards->constisnull && DatumGetBool(backwards->constvalue);
	return es_build_expression_pathkey(root, (Expr *) column, descending ? type->gt_opr : type->lt_opr, rel->relids);
}

/*
 * An index scan's: events lie in the table in the order of their positions, those of one stream each on a page of its
 * own.  The call itself is a few page accesses.
 */
static void
set_cost(PlannerInfo *root, RelOptInfo *rel, Path *path, const EsReadFunction *function)
{
	double		rows;
	double		pages;
	Cost		per_row = cpu_tuple_cost + cpu_index_tuple_cost + rel->baserestrictcost.per_tuple;
	Cost		page_cost = 0;

	if (table_size(&rows, &pages) && rows > 0)
		page_cost = function->order == 1 ? Min(rel->tuples, rows) / rows * pages * seq_page_cost
			: Min(rel->tuples, pages) * random_page_cost;
	path->rows = path->param_info != NULL ? path->param_info->ppi_rows : rel->rows;
	path->startup_cost = random_page_cost + rel->baserestrictcost.startup + path->pathtarget->cost.startup;
	path->total_cost = path->startup_cost + page_cost + per_row * rel->tuples +
		path->pathtarget->cost.per_tuple * path->rows;
}

static Plan *
plan_read(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist, List *clauses, List *custom_plans)
{
	List	   *quals = extract_actual_clauses(clauses, false);
	CustomScan *scan = es_read_scan_make(linitial(path->custom_private), tlist, quals, columns_needed(rel, tlist, quals));

	scan->flags = path->flags;
	return &scan->scan.plan;
}

/*
 * What the node has to fill in.  Not only what the target list names: that may be replaced by another one over the same
 * columns of the table.
 */
static List *
columns_needed(RelOptInfo *rel, List *tlist, List *quals)
{
	int			flags = PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS | PVC_RECURSE_PLACEHOLDERS;
	List	   *vars = NIL;
	List	   *columns = NIL;
	ListCell   *lc;

	vars = list_concat(vars, pull_var_clause((Node *) rel->reltarget->exprs, flags));
	vars = list_concat(vars, pull_var_clause((Node *) tlist, flags));
	vars = list_concat(vars, pull_var_clause((Node *) quals, flags));
	foreach(lc, vars)
	{
		Var		   *var = lfirst(lc);
		bool		known = false;
		ListCell   *lc2;

		/* those of other tables are parameters by the time that the node runs */
		if (var->varno != rel->relid)
			continue;
		foreach(lc2, columns)
			known |= ((Var *) ((TargetEntry *) lfirst(lc2))->expr)->varattno == var->varattno;
		if (!known)
			columns = lappend(columns, makeTargetEntry(copyObject(&var->xpr), list_length(columns) + 1, NULL, false));
	}
	return columns;
}

static double
estimate_rows(FuncExpr *call, const EsReadFunction *function)
{
	Node	   *max_count = list_nth(call->args, function->max_count_arg);
	double		all;
	double		pages;
	double		rows;

	if (!table_size(&all, &pages))
		all = 1000;
	rows = all;
	if (strcmp(function->symbol, "evtstore_read_stream") == 0)
		rows /= distinct_values(ES_EVENT_STREAM_ID, all);
	else if (strcmp(function->symbol, "evtstore_read_category") == 0)
		rows /= distinct_values(ES_EVENT_CATEGORY_HASH, all);
	else if (strcmp(function->symbol, "evtstore_read_query") == 0)
		rows *= DEFAULT_RANGE_INEQ_SEL;
	rows *= share_after(call, function, function->order == 1 ? all : rows);
	if (!IsA(max_count, Const))
		rows = Min(rows, PAGE_ROWS);
	else if (!((Const *) max_count)->constisnull)
		rows = Min(rows, DatumGetInt64(((Const *) max_count)->constvalue));
	/* who reads from a position that is known only later follows the feed: JIT of a plan for the whole store would cost more */
	if (!IsA(list_nth(call->args, function->max_count_arg - 1), Const))
		rows = Min(rows, PAGE_ROWS);
	return clamp_row_est(rows);
}

/* how much is left of count numbers, as if they had no gaps; never nothing, because they may have */
static double
share_after(FuncExpr *call, const EsReadFunction *function, double count)
{
	Node	   *after = list_nth(call->args, function->max_count_arg - 1);
	Node	   *backwards = list_nth(call->args, function->backwards_arg);
	double		share;

	if (!IsA(after, Const) || !IsA(backwards, Const))
		return DEFAULT_INEQ_SEL;
	if (((Const *) after)->constisnull)
		return 1.0;
	share = DatumGetInt64(((Const *) after)->constvalue) / Max(count, 1.0);
	if (((Const *) backwards)->constisnull || !DatumGetBool(((Const *) backwards)->constvalue))
		share = 1.0 - share;
	return Min(Max(share, DEFAULT_RANGE_INEQ_SEL), 1.0);
}

/* of the event table, as of its last VACUUM or ANALYZE; false where there was none */
static bool
table_size(double *rows, double *pages)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(es_catalog()->event));
	Form_pg_class class;

	if (!HeapTupleIsValid(tuple))
		return false;
	class = (Form_pg_class) GETSTRUCT(tuple);
	*rows = class->reltuples;
	*pages = class->relpages;
	ReleaseSysCache(tuple);
	return *rows >= 0;
}

static double
distinct_values(int column, double rows)
{
	HeapTuple	tuple = SearchSysCache3(STATRELATTINH, ObjectIdGetDatum(es_catalog()->event), Int16GetDatum(column + 1),
										BoolGetDatum(false));
	double		distinct = DEFAULT_NUM_DISTINCT;

	if (!HeapTupleIsValid(tuple))
		return distinct;
	distinct = ((Form_pg_statistic) GETSTRUCT(tuple))->stadistinct;
	ReleaseSysCache(tuple);
	return clamp_row_est(distinct < 0 ? -distinct * rows : distinct);
}
