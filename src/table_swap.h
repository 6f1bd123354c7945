/*
 * table_swap.h
 *		Two tables that are made alike exchange their files.
 */
#ifndef ES_TABLE_SWAP_H
#define ES_TABLE_SWAP_H

#include "postgres_ext.h"

/*
 * The one has the rows of the other afterwards, and the other those of the one; OIDs, and all that is about a table by its OID, stay.
 * Index by index: es_table_swap_index.  Locks: both tables, AccessExclusive, held
 */
extern void es_table_swap(Oid a, Oid b);
extern void es_table_swap_index(Oid a, Oid b);
/* after the other one was dropped, whose name it has: the table's toast table is named after it.  Locks: the table, AccessExclusive, held */
extern void es_table_swap_name_toast(Oid table);

#endif
