/*
 * index_scan.h
 *		Rows of one of our tables by one of its indexes, without the executor.
 */
#ifndef ES_INDEX_SCAN_H
#define ES_INDEX_SCAN_H

#include "access/skey.h"
#include "access/sdir.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

/* fields are for index_scan.c, but for the slot */
typedef struct EsIndexScan
{
	Relation rel;
	Relation index;
	struct IndexScanDescData *scan; /* NULL until started */
	Snapshot snapshot;
	int nkeys;
	TupleTableSlot *slot; /* the row, after es_index_scan_next() said true */
} EsIndexScan;

/*
 * Opens table and index under AccessShareLock, on behalf of the current resource owner and in the current context, which
 * has to be that of every call to the close.  After an error the owner and the context clear it away.
 */
extern void es_index_scan_open(EsIndexScan *scan, Oid table, Oid index, Snapshot snapshot);
/* begins with the rows that fit the keys; may be called again */
extern void es_index_scan_start(EsIndexScan *scan, ScanKeyData *keys, int nkeys);
/* the next row is in the slot, or there is none */
extern bool es_index_scan_next(EsIndexScan *scan, ScanDirection direction);
/* gives the locks back too */
extern void es_index_scan_close(EsIndexScan *scan);

#endif
