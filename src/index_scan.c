/*
 * index_scan.c
 *		Rows of one of our tables by one of its indexes, without the executor.
 *
 * Runs in backends and workers, inside a transaction.  What is open belongs to the caller's resource owner and memory
 * context; nothing is shared, a crash leaves nothing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "utils/rel.h"

#include "compat.h"
#include "index_scan.h"

void
es_index_scan_open(EsIndexScan *scan, Oid table, Oid index, Snapshot snapshot)
{
	scan->rel = table_open(table, AccessShareLock);
	scan->index = index_open(index, AccessShareLock);
	scan->scan = NULL;
	scan->snapshot = snapshot;
	scan->nkeys = 0;
	scan->slot = table_slot_create(scan->rel, NULL);
}

void
es_index_scan_start(EsIndexScan *scan, ScanKeyData *keys, int nkeys)
{
	if (scan->scan != NULL && scan->nkeys != nkeys)
	{
		index_endscan(scan->scan);
		scan->scan = NULL;
	}
	if (scan->scan == NULL)
		scan->scan = es_index_beginscan(scan->rel, scan->index, scan->snapshot, nkeys);
	scan->nkeys = nkeys;
	index_rescan(scan->scan, keys, nkeys, NULL, 0);
}

bool
es_index_scan_next(EsIndexScan *scan, ScanDirection direction)
{
	return index_getnext_slot(scan->scan, direction, scan->slot);
}

void
es_index_scan_close(EsIndexScan *scan)
{
	if (scan->scan != NULL)
		index_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->slot);
	index_close(scan->index, AccessShareLock);
	table_close(scan->rel, AccessShareLock);
}
