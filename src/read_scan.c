/*
 * read_scan.c
 *		The plan node that stands for a read function in FROM: a row at a time out of a reader.
 *
 * Runs in backends, in the executor.  The reader is opened when the first row is asked for, with the arguments as they
 * are then, and stays of that one moment: to the end of the scan, and over rescans that do not change the arguments.  A
 * rescan that does is another call of the function, with a moment of its own.
 *
 * The node does what calling the function would: it checks EXECUTE when the executor starts, as the user that the plan
 * runs as.  Its reader belongs to the resource owner of the portal or statement, in which the executor also ends; an
 * error clears it away with that owner.  Nothing is shared, a crash leaves nothing.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/objectaccess.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "read.h"

typedef struct ReadScan
{
	CustomScanState css;		/* MUST BE FIRST */
	FuncExpr   *call;
	const EsReadFunction *function;
	FunctionCallInfo fcinfo;
	List	   *args;			/* ExprStates */
	Bitmapset  *params;			/* that the arguments use */
	bool		always_changed; /* they have a sub-select, which may use any */
	int			natts;
	int		   *attnos;			/* of evtstore.event, for each column of the scan tuple */
	EsReader   *reader;			/* NULL until the first row is asked for */
	TupleTableSlot *copied;		/* for rechecks: a row that was kept as a whole */
} ReadScan;

static Node *create_scan(CustomScan *plan);
static void begin_scan(CustomScanState *node, EState *estate, int eflags);
static TupleTableSlot *exec_scan(CustomScanState *node);
static void end_scan(CustomScanState *node);
static void rescan(CustomScanState *node);
static void explain_scan(CustomScanState *node, List *ancestors, ExplainState *es);
static void check_execute(Oid fn);
static bool note_params(Node *node, void *arg);
static TupleTableSlot *fetch_row(ScanState *node);
static bool recheck_row(ScanState *node, TupleTableSlot *slot);
static bool copy_kept_row(ReadScan *scan, TupleTableSlot *kept, TupleTableSlot *slot);
static void open_reader(ReadScan *scan);

static const CustomScanMethods scan_methods = {
	.CustomName = "EvtstoreRead",
	.CreateCustomScanState = create_scan,
};

static const CustomExecMethods exec_methods = {
	.CustomName = "EvtstoreRead",
	.BeginCustomScan = begin_scan,
	.ExecCustomScan = exec_scan,
	.EndCustomScan = end_scan,
	.ReScanCustomScan = rescan,
	.ExplainCustomScan = explain_scan,
};

void
es_read_scan_init(void)
{
	RegisterCustomScanMethods(&scan_methods);
}

/*
 * The call as a whole is kept in custom_exprs: what is done to expressions of a plan is done to its arguments, and the
 * plan depends on the function.
 */
CustomScan *
es_read_scan_make(Node *call, List *targetlist, List *quals, List *columns)
{
	CustomScan *plan = makeNode(CustomScan);

	plan->scan.plan.targetlist = targetlist;
	plan->scan.plan.qual = quals;
	plan->custom_exprs = list_make1(copyObject(call));
	plan->custom_scan_tlist = columns;
	plan->methods = &scan_methods;
	return plan;
}

static Node *
create_scan(CustomScan *plan)
{
	ReadScan   *scan = (ReadScan *) newNode(sizeof(ReadScan), T_CustomScanState);

	scan->css.methods = &exec_methods;
	scan->call = linitial(plan->custom_exprs);
	return (Node *) scan;
}

static void
begin_scan(CustomScanState *node, EState *estate, int eflags)
{
	ReadScan   *scan = (ReadScan *) node;
	List	   *columns = ((CustomScan *) node->ss.ps.plan)->custom_scan_tlist;
	int			nargs = list_length(scan->call->args);
	ListCell   *lc;

	check_execute(scan->call->funcid);
	scan->function = es_read_function(scan->call->funcid);
	if (scan->function == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("function %u was altered since the query was planned", scan->call->funcid),
				 errhint("Try again.")));
	scan->args = ExecInitExprList(scan->call->args, &node->ss.ps);
	note_params((Node *) scan->call->args, scan);
	scan->fcinfo = palloc0(SizeForFunctionCallInfo(nargs));
	InitFunctionCallInfoData(*scan->fcinfo, NULL, nargs, InvalidOid, NULL, NULL);

	scan->attnos = palloc(sizeof(int) * Max(list_length(columns), 1));
	foreach(lc, columns)
		scan->attnos[scan->natts++] = ((Var *) ((TargetEntry *) lfirst(lc))->expr)->varattno;
}

/* as ExecInitFunc does */
static void
check_execute(Oid fn)
{
	if (!es_may_execute(fn, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(fn));
	InvokeFunctionExecuteHook(fn);
}

static bool
note_params(Node *node, void *arg)
{
	ReadScan   *scan = arg;

	if (node == NULL)
		return false;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXEC)
		scan->params = bms_add_member(scan->params, ((Param *) node)->paramid);
	if (IsA(node, SubPlan) || IsA(node, AlternativeSubPlan))
		scan->always_changed = true;
	return expression_tree_walker(node, note_params, arg);
}

static TupleTableSlot *
exec_scan(CustomScanState *node)
{
	return ExecScan(&node->ss, fetch_row, recheck_row);
}

/* in the context that ExecScan resets for each row */
static TupleTableSlot *
fetch_row(ScanState *node)
{
	ReadScan   *scan = (ReadScan *) node;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;
	MemoryContext old = MemoryContextSwitchTo(node->ps.ps_ExprContext->ecxt_per_tuple_memory);

	ExecClearTuple(slot);
	if (scan->reader == NULL)
		open_reader(scan);
	if (es_reader_next(scan->reader) != NULL)
	{
		for (int i = 0; i < scan->natts; i++)
			slot->tts_values[i] = es_reader_value(scan->reader, scan->attnos[i], &slot->tts_isnull[i]);
		ExecStoreVirtualTuple(slot);
	}
	MemoryContextSwitchTo(old);
	return slot;
}

static void
open_reader(ReadScan *scan)
{
	ExprContext *econtext = scan->css.ss.ps.ps_ExprContext;
	int			n = 0;
	ListCell   *lc;

	foreach(lc, scan->args)
	{
		scan->fcinfo->args[n].value = ExecEvalExpr(lfirst(lc), econtext, &scan->fcinfo->args[n].isnull);
		n++;
	}
	scan->reader = es_reader_open(scan->function, scan->fcinfo, scan->css.ss.ps.state->es_query_cxt);
}

/*
 * A row that somebody locked was changed meanwhile, and the executor looks whether the join still holds.  Of ours it kept
 * a copy.  Without one the scan is part of a sub-select, which is run anew.
 */
static bool
recheck_row(ScanState *node, TupleTableSlot *slot)
{
	ReadScan   *scan = (ReadScan *) node;
	EPQState   *epq = node->ps.state->es_epq_active;
	int			rti = bms_singleton_member(((CustomScan *) node->ps.plan)->custom_relids);

	if (epq->relsubs_done[rti - 1])
		return false;
	if (epq->relsubs_slot[rti - 1] != NULL)
	{
		epq->relsubs_done[rti - 1] = true;
		return copy_kept_row(scan, epq->relsubs_slot[rti - 1], slot);
	}
	if (epq->relsubs_rowmark[rti - 1] != NULL)
	{
		epq->relsubs_done[rti - 1] = true;
		if (scan->copied == NULL)
			scan->copied = ExecInitExtraTupleSlot(node->ps.state,
												  CreateTupleDescCopy(es_arg_row_desc(es_catalog()->event_type)),
												  &TTSOpsVirtual);
		return EvalPlanQualFetchRowMark(epq, rti, scan->copied) && copy_kept_row(scan, scan->copied, slot);
	}
	return !TupIsNull(fetch_row(node));
}

/* the columns of the scan out of a whole row */
static bool
copy_kept_row(ReadScan *scan, TupleTableSlot *kept, TupleTableSlot *slot)
{
	ExecClearTuple(slot);
	if (TupIsNull(kept))
		return false;
	for (int i = 0; i < scan->natts; i++)
	{
		if (scan->attnos[i] != 0)
			slot->tts_values[i] = slot_getattr(kept, scan->attnos[i], &slot->tts_isnull[i]);
		else
		{
			slot->tts_values[i] = ExecFetchSlotHeapTupleDatum(kept);
			slot->tts_isnull[i] = false;
		}
	}
	ExecStoreVirtualTuple(slot);
	return true;
}

static void
end_scan(CustomScanState *node)
{
	ReadScan   *scan = (ReadScan *) node;

	/* the last row points into the reader's page */
	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	if (scan->reader != NULL)
		es_reader_close(scan->reader);
	scan->reader = NULL;
}

static void
rescan(CustomScanState *node)
{
	ReadScan   *scan = (ReadScan *) node;
	Bitmapset  *changed = node->ss.ps.chgParam;

	ExecScanReScan(&node->ss);
	if (scan->reader == NULL)
		return;
	if (bms_overlap(changed, scan->params) || (scan->always_changed && !bms_is_empty(changed)))
	{
		es_reader_close(scan->reader);
		scan->reader = NULL;
	}
	else
		es_reader_restart(scan->reader);
}

static void
explain_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	List	   *context = set_deparse_context_plan(es->deparse_cxt, node->ss.ps.plan, ancestors);
	bool		prefix = list_length(es->rtable) > 1 || es->verbose;

	ExplainPropertyText("Function Call", deparse_expression((Node *) ((ReadScan *) node)->call, context, prefix, false), es);
}
