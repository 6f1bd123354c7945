/*
 * search.c
 *		The events that match a query, in order of position: reads (read_query) and append conditions.
 *
 * Runs in backends.  Each item of the query becomes one branch for each of its types, or one where it names none.  A branch
 * is the intersection of lists of positions, each read from one index: (tag, position), (tag with type, position),
 * (type, position) or (position).  The lists of a branch are advanced in turn to the smallest position that none of them has
 * passed: with a rare tag beside a hot one the hot list is only touched where the rare one has an entry.  Branches are
 * merged by position.
 *
 *		cost of a match or of a miss: a descent of a B-tree for each list, whatever the length of the lists; for the AND of
 *		two hot tags that seldom meet: one for each change from one list to the other
 *
 * Lists come from index entries alone.  The event is then looked up by its position under the snapshot and compared by
 * name, so entries of rolled back transactions, scavenged events and colliding hashes are passed over.  Nothing is locked
 * but the tables against being dropped; nothing is kept.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "search.h"
#include "tag.h"

/* so many entries are stepped over before a list descends its tree again */
#define STEPS_BEFORE_SEEK 8

/* one list of positions; prefix: what is equal in all of its entries */
typedef struct Positions
{
	Relation	index;
	IndexScanDesc scan;
	int			nprefix;		/* 0 or 1 columns before the position */
	RegProcedure equal;			/* of the prefix */
	Datum		prefix;
	bool		started;
	int64		current;
} Positions;

/* where all of its lists stand at the same position */
typedef struct Branch
{
	Positions  *lists;
	int			nlists;
	bool		done;
	int64		current;
} Branch;

struct EsSearch
{
	const EsQuery *query;
	char	   *tenant;
	bool		backwards;
	int64		first;			/* the ends of the range, in the direction of the search */
	int64		last;
	Snapshot	snapshot;
	Relation	event;
	Relation	tag;
	Relation	pkey;
	Relation	tag_position;
	Relation	pair_position;
	Relation	type_position;
	IndexScanDesc fetch;		/* of events by position */
	MemoryContext row;			/* for looking at one event */
	Branch	   *branches;
	int			nbranches;
};

static void open_relations(EsSearch *search);
static void make_branches(EsSearch *search, const EsQuery *query);
static void make_branch(EsSearch *search, const EsQueryItem *item, const char *type);
static void add_list(EsSearch *search, Branch *branch, Relation index, RegProcedure equal, Datum prefix);
static void advance_branch(EsSearch *search, Branch *branch, int64 from);
static bool seek_list(EsSearch *search, Positions *list, int64 from);
static bool next_entry(EsSearch *search, Positions *list);
static bool passed(const EsSearch *search, int64 position, int64 limit);
static bool fetch_event(EsSearch *search, int64 position, TupleTableSlot *slot);
static bool is_wanted(EsSearch *search, TupleTableSlot *slot);

EsSearch *
es_search_open(const EsQuery *query, const char *tenant, int64 from, int64 upto, bool backwards, Snapshot snapshot)
{
	EsSearch   *search = palloc0(sizeof(EsSearch));

	search->query = query;
	search->tenant = pstrdup(tenant);
	search->backwards = backwards;
	search->first = backwards ? upto : from;
	search->last = backwards ? from : upto;
	search->snapshot = snapshot;
	search->row = AllocSetContextCreate(CurrentMemoryContext, "evtstore search", ALLOCSET_SMALL_SIZES);
	open_relations(search);
	make_branches(search, query);
	es_search_restart(search);
	return search;
}

void
es_search_restart(EsSearch *search)
{
	for (int i = 0; i < search->nbranches; i++)
	{
		Branch	   *b = &search->branches[i];

		b->done = false;
		for (int k = 0; k < b->nlists; k++)
			b->lists[k].started = false;
		advance_branch(search, b, search->first);
	}
}

bool
es_search_next(EsSearch *search, TupleTableSlot *slot)
{
	for (;;)
	{
		Branch	   *first = NULL;
		int64		position;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < search->nbranches; i++)
		{
			Branch	   *b = &search->branches[i];

			if (!b->done && (first == NULL || passed(search, first->current, b->current)))
				first = b;
		}
		if (first == NULL)
			return false;

		/* several branches may select the same event */
		position = first->current;
		for (int i = 0; i < search->nbranches; i++)
		{
			Branch	   *b = &search->branches[i];

			if (!b->done && b->current == position)
				advance_branch(search, b, search->backwards ? position - 1 : position + 1);
		}
		if (fetch_event(search, position, slot))
			return true;
	}
}

void
es_search_close(EsSearch *search)
{
	for (int i = 0; i < search->nbranches; i++)
	{
		for (int k = 0; k < search->branches[i].nlists; k++)
			index_endscan(search->branches[i].lists[k].scan);
		pfree(search->branches[i].lists);
	}
	index_endscan(search->fetch);
	index_close(search->type_position, AccessShareLock);
	index_close(search->pair_position, AccessShareLock);
	index_close(search->tag_position, AccessShareLock);
	index_close(search->pkey, AccessShareLock);
	table_close(search->tag, AccessShareLock);
	table_close(search->event, AccessShareLock);
	if (search->branches != NULL)
		pfree(search->branches);
	MemoryContextDelete(search->row);
	pfree(search->tenant);
	pfree(search);
}

static void
open_relations(EsSearch *search)
{
	const EsCatalog *catalog;

	search->event = table_open(es_catalog()->event, AccessShareLock);
	search->tag = table_open(es_catalog()->event_tag, AccessShareLock);
	/* an index may have been replaced while we waited for a lock: now that the tables are locked, none can be */
	catalog = es_catalog();
	search->pkey = index_open(catalog->event_pkey, AccessShareLock);
	search->tag_position = index_open(catalog->event_tag_pkey, AccessShareLock);
	search->pair_position = index_open(catalog->event_tag_pair, AccessShareLock);
	search->type_position = index_open(catalog->event_type_idx, AccessShareLock);
	search->fetch = es_index_beginscan(search->event, search->pkey, search->snapshot, 1);
}

static void
make_branches(EsSearch *search, const EsQuery *query)
{
	int			n = query->nitems == 0 ? 1 : 0;

	for (int i = 0; i < query->nitems; i++)
		n += Max(query->items[i].ntypes, 1);
	search->branches = palloc0(n * sizeof(Branch));
	if (query->nitems == 0)
		make_branch(search, NULL, NULL);
	for (int i = 0; i < query->nitems; i++)
	{
		const EsQueryItem *item = &query->items[i];

		if (item->ntypes == 0)
			make_branch(search, item, NULL);
		for (int t = 0; t < item->ntypes; t++)
			make_branch(search, item, item->types[t]);
	}
}

/* item: NULL for every event; type: NULL for every type */
static void
make_branch(EsSearch *search, const EsQueryItem *item, const char *type)
{
	Branch	   *branch = &search->branches[search->nbranches++];
	int			ntags = item == NULL ? 0 : item->ntags;
	bool		by_tenant = ntags == 0 && search->tenant[0] != '\0';

	branch->lists = palloc0(Max(ntags, 1) * sizeof(Positions));
	for (int i = 0; i < ntags || (i == 0 && by_tenant); i++)
	{
		uint64		tag = by_tenant ? es_tag_tenant_hash(search->tenant) :
			es_tag_hash(search->tenant, item->tags[i], strlen(item->tags[i]));

		if (type != NULL)
			add_list(search, branch, search->pair_position, F_INT8EQ,
					 Int64GetDatum((int64) es_tag_pair_hash(tag, type, strlen(type))));
		else
			add_list(search, branch, search->tag_position, F_INT8EQ, Int64GetDatum((int64) tag));
	}
	if (branch->nlists > 0)
		return;
	if (type != NULL)
		add_list(search, branch, search->type_position, F_TEXTEQ, CStringGetTextDatum(type));
	else
		add_list(search, branch, search->pkey, InvalidOid, (Datum) 0);
}

static void
add_list(EsSearch *search, Branch *branch, Relation index, RegProcedure equal, Datum prefix)
{
	Positions  *list = &branch->lists[branch->nlists++];
	Relation	heap = index == search->tag_position || index == search->pair_position ? search->tag : search->event;

	list->index = index;
	list->nprefix = equal == InvalidOid ? 0 : 1;
	list->equal = equal;
	list->prefix = prefix;
	list->scan = es_index_beginscan(heap, index, search->snapshot, list->nprefix + 1);
	/* the entry is all that is wanted: the heap is never looked at */
	list->scan->xs_want_itup = true;
}

/* to the first position, at or after from, that all of its lists have */
static void
advance_branch(EsSearch *search, Branch *branch, int64 from)
{
	int			agreed = 0;

	for (int i = 0; agreed < branch->nlists; i = (i + 1) % branch->nlists)
	{
		Positions  *list = &branch->lists[i];

		if (!seek_list(search, list, from) || passed(search, list->current, search->last))
		{
			branch->done = true;
			return;
		}
		agreed = list->current == from ? agreed + 1 : 1;
		from = list->current;
	}
	branch->current = from;
}

/* to the first position of the list at or after from; false: there is none */
static bool
seek_list(EsSearch *search, Positions *list, int64 from)
{
	ScanKeyData keys[2];
	int			n = 0;

	if (list->started)
	{
		for (int i = 0; i <= STEPS_BEFORE_SEEK; i++)
		{
			if (!passed(search, from, list->current))
				return true;
			if (i < STEPS_BEFORE_SEEK && !next_entry(search, list))
				return false;
		}
	}
	if (list->nprefix > 0)
		ScanKeyEntryInitialize(&keys[n++], 0, 1, BTEqualStrategyNumber, InvalidOid, list->index->rd_indcollation[0],
							   list->equal, list->prefix);
	if (search->backwards)
		ScanKeyInit(&keys[n], n + 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(from));
	else
		ScanKeyInit(&keys[n], n + 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
	index_rescan(list->scan, keys, n + 1, NULL, 0);
	list->started = true;
	return next_entry(search, list);
}

static bool
next_entry(EsSearch *search, Positions *list)
{
	bool		isnull;

	CHECK_FOR_INTERRUPTS();
	if (index_getnext_tid(list->scan, search->backwards ? BackwardScanDirection : ForwardScanDirection) == NULL)
		return false;
	list->current = DatumGetInt64(index_getattr(list->scan->xs_itup, list->nprefix + 1,
												RelationGetDescr(list->index), &isnull));
	return true;
}

/* does position lie beyond limit, in the direction of the search? */
static bool
passed(const EsSearch *search, int64 position, int64 limit)
{
	return search->backwards ? position < limit : position > limit;
}

/* into the slot, if it is there for the snapshot and is what its hashes promised */
static bool
fetch_event(EsSearch *search, int64 position, TupleTableSlot *slot)
{
	ScanKeyData key;
	MemoryContext old;
	bool		matches;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(position));
	index_rescan(search->fetch, &key, 1, NULL, 0);
	if (!index_getnext_slot(search->fetch, ForwardScanDirection, slot))
		return false;
	old = MemoryContextSwitchTo(search->row);
	matches = is_wanted(search, slot);
	MemoryContextSwitchTo(old);
	MemoryContextReset(search->row);
	return matches;
}

static bool
is_wanted(EsSearch *search, TupleTableSlot *slot)
{
	int			len = strlen(search->tenant);
	bool		isnull;
	text	   *tenant = DatumGetTextPP(slot_getattr(slot, ES_EVENT_TENANT + 1, &isnull));

	return VARSIZE_ANY_EXHDR(tenant) == len && memcmp(VARDATA_ANY(tenant), search->tenant, len) == 0 &&
		es_query_matches(search->query, slot_getattr(slot, ES_EVENT_TYPE + 1, &isnull),
						 slot_getattr(slot, ES_EVENT_TAGS + 1, &isnull));
}
