/*
 * table.h
 *		Direct writes to our own tables, without parser, planner and executor.
 */
#ifndef ES_TABLE_H
#define ES_TABLE_H

#include "executor/tuptable.h"
#include "utils/relcache.h"

#define ES_TABLE_MAX_INDEXES 16
/* rows that are written together; some pages of usual ones */
#define ES_TABLE_MAX_ROWS 128

typedef struct EsTable EsTable;

/*
 * The table with its indexes, open and locked (RowExclusiveLock) to the end of the transaction; the second call in a
 * transaction is a pointer comparison.
 */
typedef enum EsTableId
{
	ES_TABLE_EVENT,
	ES_TABLE_STREAM,
	ES_TABLE_EVENT_TAG,
	ES_TABLE_MESSAGE,
	ES_TABLE_CHECKPOINT,
	ES_TABLE_COUNT
} EsTableId;

extern EsTable *es_table_open(EsTableId which, Oid relid);
extern Relation es_table_relation(EsTable *table);
/* a slot for reading one row of an open table; clear it after use */
extern TupleTableSlot *es_table_scan_slot(EsTable *table);
/* one of the caller's own, in the current context: the table may be opened anew while it is in use.  ExecDropSingleTupleTableSlot */
extern TupleTableSlot *es_table_make_slot(EsTable *table);
/* an index of an open table by its oid */
extern Relation es_table_index(EsTable *table, Oid indexoid);

/*
 * Inserts one row: values and nulls are as long as the columns that our SQL version defines.  Does what the executor
 * would: constraints, defaults of columns that somebody added, user triggers.
 */
extern void es_table_insert(EsTable *table, const Datum *values, const bool *nulls);
/*
 * Inserts one row, together with others that are added before the batch ends: what values point to must be there until
 * then, and *tid (or NULL), where the row is, is known only then.  Errors of the row come then, too.
 */
extern void es_table_add(EsTable *table, const Datum *values, const bool *nulls, ItemPointer tid);
/* writes what was added, before the batch ends */
extern void es_table_write(EsTable *table);
/* where the row just inserted is */
extern ItemPointerData es_table_inserted(EsTable *table);
/*
 * Deletes the row that is there, if it is, waiting for who changes it; false: it is another's or gone, or the table has triggers
 * that only a statement runs.
 */
extern bool es_table_delete(EsTable *table, ItemPointer tid);
/* the row just inserted, where BEFORE triggers may have changed it; else NULL.  Good until the next insert */
extern TupleTableSlot *es_table_changed_row(EsTable *table);
/* around a batch of inserts: statement triggers and queued AFTER triggers */
extern void es_table_begin(EsTable *table);
extern void es_table_end(EsTable *table);

extern void es_table_init(void);

#endif
