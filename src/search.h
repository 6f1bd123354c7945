/*
 * search.h
 *		The events that match a query, one by one in order of position.
 */
#ifndef ES_SEARCH_H
#define ES_SEARCH_H

#include "executor/tuptable.h"
#include "query.h"
#include "utils/snapshot.h"

typedef struct EsSearch EsSearch;

/*
 * Events of one tenant that match, with from <= position <= upto, ascending, or descending when backwards.  Lives in the
 * current context, which must outlive it.  Locks: AccessShare on the tables, released by es_search_close.
 */
extern EsSearch *es_search_open(const EsQuery *query, const char *tenant, int64 from, int64 upto, bool backwards,
								Snapshot snapshot);
/* the next event's row into a slot of the event table; false: no more */
extern bool es_search_next(EsSearch *search, TupleTableSlot *slot);
/* from the beginning again */
extern void es_search_restart(EsSearch *search);
extern void es_search_close(EsSearch *search);

#endif
