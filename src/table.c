/*
 * table.c
 *		Direct writes to our own tables, without parser, planner and executor.
 *
 * Runs in backends and workers, inside their transactions.  Relations are opened once per transaction, locked
 * RowExclusive and owned by the top transaction's resource owner, so that the end of a statement or savepoint does not
 * close them under us; they are closed before the transaction ends (pre-commit) or given up with it (abort), or with the
 * savepoint in which they were opened.  What was built for them lives in a context of the transaction's lifetime.  A
 * crash leaves what a crash of an INSERT leaves.
 *
 * Usual tables take the short way: form the tuple, insert it, insert its index entries; rows of a batch are collected and
 * put into their pages together.  A table that somebody gave
 * triggers, constraints, or columns of its own takes the long way, which does what the executor's INSERT does.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "table.h"

/* rows that wait are copied when they are written, so wide ones do not wait for each other */
#define MAX_WAITING_BYTES (256 * 1024)

/* columns that our SQL version defines; more are somebody else's */
static const int own_columns[ES_TABLE_COUNT] = {
	[ES_TABLE_EVENT] = 13,
	[ES_TABLE_STREAM] = 5,
	[ES_TABLE_EVENT_TAG] = 3,
	[ES_TABLE_MESSAGE] = 24,
	[ES_TABLE_CHECKPOINT] = 5,
};

/*
 * The long way's executor state.  Lives for one batch: made by es_table_begin, gone with es_table_end or, after an
 * error, with the (sub)transaction that failed.
 */
typedef struct LongWay
{
	EState	   *estate;
	ResultRelInfo *result_rel;
	TransitionCaptureState *capture;
	ExprState **defaults;
	SubTransactionId subid;
} LongWay;

struct EsTable
{
	Relation	rel;			/* NULL: not open in this transaction */
	EsTableId	which;
	uint64		generation;		/* of the catalog when it was opened */
	SubTransactionId subid;		/* in which it was opened */
	int			own_natts;
	int			nindexes;
	Relation	indexes[ES_TABLE_MAX_INDEXES];
	IndexInfo  *infos[ES_TABLE_MAX_INDEXES];
	AttrNumber	not_null[ES_TABLE_MAX_INDEXES];	/* a partial index WHERE this column IS NOT NULL; 0: none */
	TupleTableSlot *slot;
	TupleTableSlot *scan_slot;
	bool		needs_long_way;
	LongWay    *long_way;		/* set while a batch runs, where it is needed */
	int			nrows;			/* added and not written yet: in the table's rows */
};

/*
 * Rows that are written together.  Kept over transactions, because to make slots costs as much as to write a row; their
 * descriptor is a copy, so that they pin nothing.
 */
typedef struct Rows
{
	MemoryContext context;		/* of all of it; NULL: not made */
	MemoryContext row_context;	/* of what one write needs */
	uint64		generation;		/* of the catalog when they were made */
	TupleDesc	desc;
	int			nwide;			/* columns of variable length */
	AttrNumber *wide;
	Size		bytes;			/* of these in the rows that wait */
	int			nslots;
	TupleTableSlot *slots[ES_TABLE_MAX_ROWS];
	ItemPointer tids[ES_TABLE_MAX_ROWS];
	Datum	   *values;
	bool	   *nulls;
} Rows;

static EsTable tables[ES_TABLE_COUNT];
static Rows rows_of[ES_TABLE_COUNT];
static MemoryContext table_context = NULL;

static void open_table(EsTable *table, EsTableId which, Oid relid);
static void open_indexes(EsTable *table);
static AttrNumber not_null_column(IndexInfo *info);
static bool needs_long_way(EsTable *table);
static bool is_guard(const Trigger *trigger);
static bool has_user_triggers(const TriggerDesc *triggers);
static void disable_guard(TriggerDesc *triggers);
static void close_table(EsTable *table);
static void store(TupleTableSlot *slot, int own_natts, const Datum *values, const bool *nulls);
static Rows *get_rows(EsTable *table);
static void insert_index_entries(EsTable *table, const Datum *row, const bool *row_nulls, ItemPointer tid);
static ExprState **prepare_defaults(EsTable *table, EState *estate);
static void insert_long_way(EsTable *table);
static void run_before_row_triggers(EsTable *table, LongWay *way);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);

void
es_table_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

EsTable *
es_table_open(EsTableId which, Oid relid)
{
	EsTable    *table = &tables[which];

	if (table->rel != NULL && table->generation != es_catalog_generation() && table->long_way == NULL && table->nrows == 0)
		close_table(table);
	if (table->rel == NULL)
		open_table(table, which, relid);
	return table;
}

Relation
es_table_relation(EsTable *table)
{
	return table->rel;
}

TupleTableSlot *
es_table_scan_slot(EsTable *table)
{
	return table->scan_slot;
}

TupleTableSlot *
es_table_make_slot(EsTable *table)
{
	return table_slot_create(table->rel, NULL);
}

Relation
es_table_index(EsTable *table, Oid indexoid)
{
	for (int i = 0; i < table->nindexes; i++)
		if (RelationGetRelid(table->indexes[i]) == indexoid)
			return table->indexes[i];
	elog(ERROR, "table \"%s\" has no index %u", RelationGetRelationName(table->rel), indexoid);
}

void
es_table_insert(EsTable *table, const Datum *values, const bool *nulls)
{
	TupleTableSlot *slot = table->slot;

	es_table_write(table);
	store(slot, table->own_natts, values, nulls);
	if (table->needs_long_way)
	{
		insert_long_way(table);
		return;
	}
	table_tuple_insert(table->rel, slot, GetCurrentCommandId(true), 0, NULL);
	insert_index_entries(table, slot->tts_values, slot->tts_isnull, &slot->tts_tid);
}

void
es_table_add(EsTable *table, const Datum *values, const bool *nulls, ItemPointer tid)
{
	Rows	   *rows;

	if (table->needs_long_way)
	{
		es_table_insert(table, values, nulls);
		if (tid != NULL)
			*tid = es_table_inserted(table);
		return;
	}
	rows = get_rows(table);
	memcpy(rows->values + table->nrows * table->own_natts, values, table->own_natts * sizeof(Datum));
	memcpy(rows->nulls + table->nrows * table->own_natts, nulls, table->own_natts * sizeof(bool));
	rows->tids[table->nrows] = tid;
	if (table->nrows++ == 0)
		rows->bytes = 0;
	for (int i = 0; i < rows->nwide; i++)
		if (!nulls[rows->wide[i]])
			rows->bytes += VARSIZE_ANY(DatumGetPointer(values[rows->wide[i]]));
	if (table->nrows == ES_TABLE_MAX_ROWS || rows->bytes > MAX_WAITING_BYTES)
		es_table_write(table);
}

/*
 * What was added, with one WAL record a page in place of one a row (heap_multi_insert).  Index entries follow row by
 * row; an error takes the whole command back, rows without entries included.
 */
void
es_table_write(EsTable *table)
{
	Rows	   *rows = &rows_of[table->which];
	int			natts = table->own_natts;
	int			n = table->nrows;
	MemoryContext old_context;

	if (n == 0)
		return;
	table->nrows = 0;
	old_context = MemoryContextSwitchTo(rows->context);
	while (rows->nslots < n)
	{
		rows->slots[rows->nslots] = MakeTupleTableSlot(rows->desc, table_slot_callbacks(table->rel));
		rows->nslots++;
	}
	MemoryContextSwitchTo(rows->row_context);
	for (int i = 0; i < n; i++)
		store(rows->slots[i], natts, rows->values + i * natts, rows->nulls + i * natts);
	if (n == 1)
		table_tuple_insert(table->rel, rows->slots[0], GetCurrentCommandId(true), 0, NULL);
	else
		table_multi_insert(table->rel, rows->slots, n, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < n; i++)
	{
		ItemPointer tid = &rows->slots[i]->tts_tid;

		insert_index_entries(table, rows->values + i * natts, rows->nulls + i * natts, tid);
		if (rows->tids[i] != NULL)
			*rows->tids[i] = *tid;
		ExecClearTuple(rows->slots[i]);
	}
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(rows->row_context);
}

ItemPointerData
es_table_inserted(EsTable *table)
{
	return table->slot->tts_tid;
}

bool
es_table_delete(EsTable *table, ItemPointer tid)
{
	const TriggerDesc *triggers = table->rel->trigdesc;
	TM_FailureData failure;

	if (triggers != NULL && (triggers->trig_delete_before_row || triggers->trig_delete_after_row ||
							 triggers->trig_delete_before_statement || triggers->trig_delete_after_statement))
		return false;
	return table_tuple_delete(table->rel, tid, GetCurrentCommandId(true), GetActiveSnapshot(), InvalidSnapshot, true, &failure,
							  false) == TM_Ok;
}

TupleTableSlot *
es_table_changed_row(EsTable *table)
{
	TriggerDesc *triggers = table->long_way == NULL ? NULL : table->long_way->result_rel->ri_TrigDesc;

	return triggers != NULL && triggers->trig_insert_before_row ? table->slot : NULL;
}

void
es_table_begin(EsTable *table)
{
	MemoryContext old_context;
	EState	   *estate;
	LongWay    *way;

	/* of a batch that failed */
	table->nrows = 0;
	if (!table->needs_long_way)
		return;
	if (table->long_way != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a BEFORE trigger on table \"%s\" writes to that table", RelationGetRelationName(table->rel)),
				 errhint("Write from an AFTER trigger.")));

	/* all of it goes with the executor state: a transaction may run very many batches */
	old_context = MemoryContextSwitchTo(TopTransactionContext);
	estate = CreateExecutorState();
	MemoryContextSwitchTo(estate->es_query_cxt);
	way = palloc0(sizeof(LongWay));
	way->subid = GetCurrentSubTransactionId();
	way->estate = estate;
	way->result_rel = makeNode(ResultRelInfo);
	InitResultRelInfo(way->result_rel, table->rel, 0, NULL, 0);
	disable_guard(way->result_rel->ri_TrigDesc);
	ExecOpenIndices(way->result_rel, false);
	way->defaults = prepare_defaults(table, way->estate);
	AfterTriggerBeginQuery();
	way->capture = MakeTransitionCaptureState(table->rel->trigdesc, RelationGetRelid(table->rel), CMD_INSERT);
	MemoryContextSwitchTo(old_context);

	table->long_way = way;
	ExecBSInsertTriggers(way->estate, way->result_rel);
}

/* AFTER triggers run here and may write to the table again: by then this batch is over */
void
es_table_end(EsTable *table)
{
	LongWay    *way = table->long_way;

	es_table_write(table);
	/* what an index keeps over the inserts of one command, such as pinned buffers, belongs to the command's owner */
	for (int i = 0; i < table->nindexes; i++)
		es_index_insert_cleanup(table->indexes[i], table->infos[i]);
	if (way == NULL)
		return;
	table->long_way = NULL;
	ExecASInsertTriggers(way->estate, way->result_rel, way->capture);
	AfterTriggerEndQuery(way->estate);
	ExecCloseIndices(way->result_rel);
	ExecCloseResultRelations(way->estate);
	/* slots of the AFTER triggers pin the table's descriptor */
	ExecResetTupleTable(way->estate->es_tupleTable, false);
	FreeExecutorState(way->estate);
}

/*
 * The lock comes before the relcache entry, and belongs to the top transaction: by then invalidation messages are
 * read, so what is built here describes the table as it is.
 */
static void
open_table(EsTable *table, EsTableId which, Oid relid)
{
	ResourceOwner old_owner = CurrentResourceOwner;
	MemoryContext old_context;

	if (table_context == NULL)
		table_context = AllocSetContextCreate(TopMemoryContext, "evtstore tables", ALLOCSET_DEFAULT_SIZES);
	old_context = MemoryContextSwitchTo(table_context);
	CurrentResourceOwner = TopTransactionResourceOwner;
	PG_TRY();
	{
		memset(table, 0, sizeof(EsTable));
		table->which = which;
		table->own_natts = own_columns[which];
		table->rel = table_open(relid, RowExclusiveLock);
		table->generation = es_catalog_generation();
		table->subid = GetCurrentSubTransactionId();
		open_indexes(table);
		table->slot = table_slot_create(table->rel, NULL);
		table->scan_slot = table_slot_create(table->rel, NULL);
		table->needs_long_way = needs_long_way(table);
	}
	PG_CATCH();
	{
		/* the transaction may live on after a savepoint, and must not find a table that is half open */
		close_table(table);
		CurrentResourceOwner = old_owner;
		MemoryContextSwitchTo(old_context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	CurrentResourceOwner = old_owner;
	MemoryContextSwitchTo(old_context);
}

static void
open_indexes(EsTable *table)
{
	List	   *oids = RelationGetIndexList(table->rel);
	ListCell   *lc;

	if (list_length(oids) > ES_TABLE_MAX_INDEXES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("table \"%s\" has more than %d indexes", RelationGetRelationName(table->rel), ES_TABLE_MAX_INDEXES),
				 errhint("Drop indexes that were added to it.")));
	foreach(lc, oids)
	{
		int			i = table->nindexes;

		table->indexes[i] = index_open(lfirst_oid(lc), RowExclusiveLock);
		table->nindexes++;
		table->infos[i] = BuildIndexInfo(table->indexes[i]);
		table->not_null[i] = not_null_column(table->infos[i]);
	}
	list_free(oids);
}

/* the column of a predicate "column IS NOT NULL", which insert_index_entries checks without the executor; else 0 */
static AttrNumber
not_null_column(IndexInfo *info)
{
	NullTest   *test;

	if (list_length(info->ii_Predicate) != 1 || !IsA(linitial(info->ii_Predicate), NullTest))
		return 0;
	test = linitial_node(NullTest, info->ii_Predicate);
	if (test->nulltesttype != IS_NOT_NULL || !IsA(test->arg, Var))
		return 0;
	return ((Var *) test->arg)->varattno;
}

/* somebody gave the table columns, constraints, triggers or indexes that only the executor can serve */
static bool
needs_long_way(EsTable *table)
{
	Relation	rel = table->rel;
	TupleConstr *constr = rel->rd_att->constr;

	for (int i = 0; i < table->nindexes; i++)
	{
		IndexInfo  *info = table->infos[i];

		if (info->ii_Expressions != NIL || info->ii_ExclusionOps != NULL || !table->indexes[i]->rd_index->indimmediate)
			return true;
		if (info->ii_Predicate != NIL && table->not_null[i] <= 0)
			return true;
	}
	if (rel->rd_att->natts != table->own_natts)
		return true;
	if (constr != NULL && (constr->num_check > 0 || constr->has_generated_stored))
		return true;
	return has_user_triggers(rel->trigdesc);
}

/* our own guard refuses other people's statements, and this is none: it does not count, and must not fire */
static bool
is_guard(const Trigger *trigger)
{
	return strcmp(trigger->tgname, "guard_immutable") == 0;
}

static bool
has_user_triggers(const TriggerDesc *triggers)
{
	if (triggers == NULL)
		return false;
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (TRIGGER_FOR_INSERT(trigger->tgtype) && !is_guard(trigger))
			return true;
	}
	return false;
}

/* in the long way's own copy of the descriptor */
static void
disable_guard(TriggerDesc *triggers)
{
	if (triggers == NULL)
		return;
	for (int i = 0; i < triggers->numtriggers; i++)
		if (is_guard(&triggers->triggers[i]))
			triggers->triggers[i].tgenabled = TRIGGER_DISABLED;
}

/* also one that open_table did not finish */
static void
close_table(EsTable *table)
{
	ResourceOwner old_owner = CurrentResourceOwner;

	if (table->rel == NULL)
		return;
	CurrentResourceOwner = TopTransactionResourceOwner;
	if (table->slot != NULL)
		ExecDropSingleTupleTableSlot(table->slot);
	if (table->scan_slot != NULL)
		ExecDropSingleTupleTableSlot(table->scan_slot);
	for (int i = 0; i < table->nindexes; i++)
		index_close(table->indexes[i], NoLock);
	table_close(table->rel, NoLock);
	CurrentResourceOwner = old_owner;
	table->rel = NULL;
}

/* columns that are not ours are NULL, until the long way gives them their defaults */
static void
store(TupleTableSlot *slot, int own_natts, const Datum *values, const bool *nulls)
{
	ExecClearTuple(slot);
	memcpy(slot->tts_values, values, own_natts * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, own_natts * sizeof(bool));
	for (int i = own_natts; i < slot->tts_tupleDescriptor->natts; i++)
	{
		slot->tts_values[i] = (Datum) 0;
		slot->tts_isnull[i] = true;
	}
	ExecStoreVirtualTuple(slot);
}

/* made anew when the table was opened anew, which does not happen while rows wait */
static Rows *
get_rows(EsTable *table)
{
	Rows	   *rows = &rows_of[table->which];
	MemoryContext old_context;

	if (rows->context != NULL && rows->generation == table->generation)
		return rows;
	if (rows->context != NULL)
		MemoryContextDelete(rows->context);
	memset(rows, 0, sizeof(Rows));
	rows->context = AllocSetContextCreate(TopMemoryContext, "evtstore rows", ALLOCSET_DEFAULT_SIZES);
	rows->row_context = AllocSetContextCreate(rows->context, "evtstore rows being written", ALLOCSET_DEFAULT_SIZES);
	old_context = MemoryContextSwitchTo(rows->context);
	rows->desc = CreateTupleDescCopy(RelationGetDescr(table->rel));
	rows->values = palloc(ES_TABLE_MAX_ROWS * table->own_natts * sizeof(Datum));
	rows->nulls = palloc(ES_TABLE_MAX_ROWS * table->own_natts * sizeof(bool));
	rows->wide = palloc(table->own_natts * sizeof(AttrNumber));
	for (int i = 0; i < table->own_natts; i++)
		if (es_attr(rows->desc, i)->attlen == -1)
			rows->wide[rows->nwide++] = i;
	MemoryContextSwitchTo(old_context);
	rows->generation = table->generation;
	return rows;
}

static void
insert_index_entries(EsTable *table, const Datum *row, const bool *row_nulls, ItemPointer tid)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < table->nindexes; i++)
	{
		Relation	index = table->indexes[i];
		IndexInfo  *info = table->infos[i];

		if (!info->ii_ReadyForInserts || (table->not_null[i] > 0 && row_nulls[table->not_null[i] - 1]))
			continue;
		for (int k = 0; k < info->ii_NumIndexAttrs; k++)
		{
			int			attno = info->ii_IndexAttrNumbers[k] - 1;

			values[k] = row[attno];
			nulls[k] = row_nulls[attno];
		}
		index_insert(index, values, nulls, tid, table->rel, index->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
					 false, info);
	}
}

/* defaults of the columns that are not ours */
static ExprState **
prepare_defaults(EsTable *table, EState *estate)
{
	TupleDesc	desc = RelationGetDescr(table->rel);
	ExprState **defaults = palloc0(desc->natts * sizeof(ExprState *));

	for (int i = table->own_natts; i < desc->natts; i++)
	{
		Form_pg_attribute att = es_attr(desc, i);
		Node	   *expr = att->attisdropped || att->attgenerated ? NULL : build_column_default(table->rel, i + 1);

		if (expr != NULL)
			defaults[i] = ExecPrepareExpr((Expr *) expr, estate);
	}
	return defaults;
}

/* what ExecInsert does for a plain table, in the same order */
static void
insert_long_way(EsTable *table)
{
	LongWay    *way = table->long_way;
	EState	   *estate = way->estate;
	ResultRelInfo *rri = way->result_rel;
	TupleTableSlot *slot = table->slot;
	TupleConstr *constr = table->rel->rd_att->constr;
	List	   *recheck = NIL;

	ResetPerTupleExprContext(estate);
	estate->es_output_cid = GetCurrentCommandId(true);
	for (int i = table->own_natts; i < slot->tts_tupleDescriptor->natts; i++)
		if (way->defaults[i] != NULL)
			slot->tts_values[i] = ExecEvalExpr(way->defaults[i], GetPerTupleExprContext(estate), &slot->tts_isnull[i]);

	slot->tts_tableOid = RelationGetRelid(table->rel);
	run_before_row_triggers(table, way);
	if (constr != NULL)
	{
		if (constr->has_generated_stored)
			ExecComputeStoredGenerated(rri, estate, slot, CMD_INSERT);
		ExecConstraints(rri, slot, estate);
	}
	table_tuple_insert(table->rel, slot, estate->es_output_cid, 0, NULL);
	if (rri->ri_NumIndices > 0)
		recheck = es_exec_insert_index_tuples(rri, slot, estate);
	ExecARInsertTriggers(estate, rri, slot, recheck, way->capture);
	list_free(recheck);
}

static void
run_before_row_triggers(EsTable *table, LongWay *way)
{
	TupleTableSlot *slot = table->slot;
	TriggerDesc *triggers = way->result_rel->ri_TrigDesc;
	Datum		keys[3];

	if (triggers == NULL || !triggers->trig_insert_before_row)
		return;
	memcpy(keys, slot->tts_values, sizeof(keys));
	if (!ExecBRInsertTriggers(way->estate, way->result_rel, slot))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("a BEFORE INSERT trigger on table \"%s\" suppressed a row", RelationGetRelationName(table->rel)),
				 errdetail("A suppressed event would leave a gap in the versions of its stream."),
				 errhint("Let the trigger return NEW, or raise an error to refuse the write.")));
	slot_getallattrs(slot);
	if (table->which == ES_TABLE_EVENT && memcmp(keys, slot->tts_values, sizeof(keys)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("a BEFORE INSERT trigger on table \"%s\" changed position, stream_id or version",
						RelationGetRelationName(table->rel)),
				 errhint("These columns are given by the append.")));
}

/*
 * Before commit everything is closed in order, so that the resource owner finds nothing to warn of; on abort it has
 * released relations and locks by itself and only our pointers are left.
 */
static void
xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE && event != XACT_EVENT_ABORT)
		return;
	for (int t = 0; t < ES_TABLE_COUNT; t++)
	{
		if (tables[t].rel != NULL && event != XACT_EVENT_ABORT)
			close_table(&tables[t]);
		tables[t].rel = NULL;
		tables[t].long_way = NULL;
	}
	if (table_context != NULL)
		MemoryContextReset(table_context);
}

/*
 * Relations outlive a savepoint, unless they were opened in it: then they may have been made in it.  A batch that failed
 * in it is over; none is open around it, where rows wait.  Pins of a scan or of an index that failed in it are released by its resource owner: they are forgotten
 * here.
 */
static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (int t = 0; t < ES_TABLE_COUNT; t++)
	{
		if (tables[t].rel == NULL)
			continue;
		tables[t].nrows = 0;
		if (tables[t].long_way != NULL && tables[t].long_way->subid >= subid)
			tables[t].long_way = NULL;
		if (!TTS_EMPTY(tables[t].scan_slot) && TTS_IS_BUFFERTUPLE(tables[t].scan_slot))
		{
			((BufferHeapTupleTableSlot *) tables[t].scan_slot)->buffer = InvalidBuffer;
			ExecClearTuple(tables[t].scan_slot);
		}
		for (int i = 0; i < tables[t].nindexes; i++)
			tables[t].infos[i]->ii_AmCache = NULL;
		if (tables[t].subid >= subid)
			close_table(&tables[t]);
	}
}
