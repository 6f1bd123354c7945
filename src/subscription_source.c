/*
 * subscription_source.c
 *		The events that a subscription is about, in order of position, by the index that its filter allows.
 *
 * Runs in consumers' backends and in workers, within a reader (read_source.c), which owns what is opened here.
 *
 *	query, types, tags		the postings of tags, the index of types (search.c)
 *	categories, streams		the index of categories, several of them merged
 *	none					the positions; for a tenant, the postings that each of its events has
 *	of a projection			types: the index of types, several of them merged; else the positions
 *
 * As with the read functions a category means streams without a tenant, where the subscription has none; and so do types and
 * tags.  A projection is the store's and has the events of every tenant, which postings and categories do not give.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "feed.h"
#include "index_scan.h"
#include "query.h"
#include "search.h"
#include "subscription_source.h"

/* bytes; other sizes do no harm */
#define CACHE_LINE 64
#define MAX_EXPECTED 1024

/* events of several categories or types: each walk, of an index of those and positions, stands on its next one */
typedef struct Merge
{
	Oid			index;
	RegProcedure equal;
	int			n;
	Datum	   *keys;
	EsIndexScan *scans;
	bool	   *has_row;
	bool		is_started;
	int64		after;
	int64		head;
} Merge;

static List *categories_of(const EsFilter *filter);
static EsQuery *query_of(const EsFilter *filter);
static char **strings_of(List *list, int *n);
static bool merge_next(EsReader *reader, void *state, TupleTableSlot *slot);
static bool is_before(List *names, const ListCell *cell);
static Merge *make_merge(Oid index, RegProcedure equal, int n, int64 after, int64 head);
static void expect(TupleTableSlot *slot);
static bool is_selected_by(const EsCesql *expression, const text *stream, TupleTableSlot *slot);
static void merge_start(EsReader *reader, Merge *merge);
static void merge_restart(void *state);
static void merge_close(void *state);

static const EsReadSource merge_source = {
	.next = merge_next,
	.restart = merge_restart,
	.close = merge_close,
};

uint64
es_subscription_categories(const EsSubscription *subscription)
{
	List	   *categories = subscription->is_for_workers ? NIL : categories_of(subscription->filter);
	uint64		bits = 0;
	ListCell   *lc;

	foreach(lc, categories)
		bits |= es_feed_category_bit(es_stream_category_hash(subscription->tenant, lfirst(lc), strlen(lfirst(lc))));
	return categories == NIL ? ES_FEED_ALL_CATEGORIES : bits;
}

void
es_subscription_set_source(EsReader *reader, const EsSubscription *subscription, int64 after, int64 head)
{
	/* of every tenant, whose categories are none of another's */
	bool		is_for_workers = subscription->is_for_workers;
	EsQuery    *query = is_for_workers ? NULL : query_of(subscription->filter);
	List	   *categories = is_for_workers ? NIL : categories_of(subscription->filter);
	EsReadRange range = {.has_after = true, .after = after};
	Merge	   *merge = NULL;
	ListCell   *lc;

	if (is_for_workers && subscription->filter->types != NIL)
	{
		merge = make_merge(es_catalog()->event_type_idx, F_TEXTEQ, list_length(subscription->filter->types), after, head);
		foreach(lc, subscription->filter->types)
			if (!is_before(subscription->filter->types, lc))
				merge->keys[merge->n++] = CStringGetTextDatum(lfirst(lc));
	}
	else if (query != NULL || (categories == NIL && subscription->tenant[0] != '\0'))
		es_reader_search(reader, query != NULL ? query : palloc0(sizeof(EsQuery)), subscription->tenant, head, &range);
	else if (categories == NIL)
	{
		EsWalk	   *walk = es_reader_walk(reader, es_catalog()->event_pkey);

		es_walk_add_key(walk, 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(head));
		es_walk_add_range(walk, 1, &range);
	}
	else
	{
		merge = make_merge(es_catalog()->event_category, F_INT4EQ, list_length(categories), after, head);
		foreach(lc, categories)
			merge->keys[merge->n++] = Int32GetDatum(es_stream_category_hash(subscription->tenant, lfirst(lc), strlen(lfirst(lc))));
	}
	if (merge != NULL)
		es_reader_set_source(reader, &merge_source, merge);
}

/* is what stands in this cell named before it? */
static bool
is_before(List *names, const ListCell *cell)
{
	ListCell   *lc;

	foreach(lc, names)
		if (lc == cell)
			return false;
		else if (strcmp(lfirst(lc), lfirst(cell)) == 0)
			return true;
	return false;
}

static Merge *
make_merge(Oid index, RegProcedure equal, int n, int64 after, int64 head)
{
	Merge	   *merge = palloc0(sizeof(Merge));

	merge->index = index;
	merge->equal = equal;
	merge->keys = palloc(n * sizeof(Datum));
	merge->scans = palloc0(n * sizeof(EsIndexScan));
	merge->has_row = palloc0(n * sizeof(bool));
	merge->after = after;
	merge->head = head;
	return merge;
}

bool
es_subscription_selects(const EsSubscription *subscription, EsReader *reader, TupleTableSlot *slot)
{
	const EsFilter *filter = subscription->filter;
	const text *stream = NULL;
	Datum		type;
	Datum		tags;
	bool		isnull;

	if (filter->query == NULL && filter->categories == NIL && filter->streams == NIL && filter->types == NIL && filter->tags == NIL &&
		filter->pattern == NULL && filter->expression == NULL)
		return true;
	if (filter->categories != NIL || filter->streams != NIL || filter->expression != NULL)
		stream = es_reader_stream(reader);
	type = slot_getattr(slot, ES_EVENT_TYPE + 1, &isnull);
	tags = slot_getattr(slot, ES_EVENT_TAGS + 1, &isnull);
	if (!es_filter_selects(filter, stream == NULL ? "" : VARDATA(stream), stream == NULL ? 0 : VARSIZE(stream) - VARHDRSZ,
						   type, tags))
		return false;
	if (filter->pattern != NULL &&
		!es_pattern_matches(filter->pattern, slot_getattr(slot, ES_EVENT_DATA + 1, &isnull), slot_getattr(slot, ES_EVENT_METADATA + 1, &isnull)))
		return false;
	return filter->expression == NULL || is_selected_by(filter->expression, stream, slot);
}

/* what an expression can ask for, as it lies in the row */
static bool
is_selected_by(const EsCesql *expression, const text *stream, TupleTableSlot *slot)
{
	EsEvent		event = {0};

	slot_getallattrs(slot);
	event.position = DatumGetInt64(slot->tts_values[ES_EVENT_POSITION]);
	if (!slot->tts_isnull[ES_EVENT_VERSION])
		event.version = DatumGetInt64(slot->tts_values[ES_EVENT_VERSION]);
	event.schema_version = DatumGetInt32(slot->tts_values[ES_EVENT_SCHEMA_VERSION]);
	event.id = *DatumGetUUIDP(slot->tts_values[ES_EVENT_ID]);
	event.occurred_at = DatumGetTimestampTz(slot->tts_values[ES_EVENT_OCCURRED_AT]);
	event.recorded_at = DatumGetTimestampTz(slot->tts_values[ES_EVENT_RECORDED_AT]);
	event.type = slot->tts_values[ES_EVENT_TYPE];
	event.metadata = slot->tts_values[ES_EVENT_METADATA];
	return es_cesql_selects(expression, stream == NULL ? "" : VARDATA(stream), stream == NULL ? 0 : VARSIZE(stream) - VARHDRSZ, &event);
}

char *
es_subscription_key_of(const EsSubscription *subscription, EsReader *reader)
{
	const text *stream = es_reader_stream(reader);
	const EsPlaceholder *place;
	bool		isnull;
	Datum		data = (Datum) 0;
	Datum		metadata = (Datum) 0;

	place = es_subscription_key_place(subscription, subscription->is_reactor ? es_reader_value(reader, ES_EVENT_ROW_TYPE, &isnull) : (Datum) 0);
	if (place != NULL && place->root != ES_KEY_STREAM)
	{
		data = es_reader_value(reader, ES_EVENT_ROW_DATA, &isnull);
		metadata = es_reader_value(reader, ES_EVENT_ROW_METADATA, &isnull);
	}
	return es_subscription_key(place, stream == NULL ? NULL : VARDATA(stream), stream == NULL ? 0 : VARSIZE(stream) - VARHDRSZ,
							   data, metadata);
}

/* those whose events the filter selects, each once; NIL: of every category, or of none */
static List *
categories_of(const EsFilter *filter)
{
	List	   *names = filter->categories;
	List	   *result = NIL;
	ListCell   *lc;

	if (names == NIL)
		foreach(lc, filter->streams)
		{
			const char *stream = lfirst(lc);

			names = lappend(names, pnstrdup(stream, es_stream_category_len(stream, strlen(stream))));
		}
	foreach(lc, names)
	{
		ListCell   *other;
		bool		is_known = false;

		foreach(other, result)
			is_known |= strcmp(lfirst(other), lfirst(lc)) == 0;
		if (!is_known)
			result = lappend(result, lfirst(lc));
	}
	return result;
}

/* NULL: neither a query nor types nor tags */
static EsQuery *
query_of(const EsFilter *filter)
{
	EsQuery    *query;

	if (filter->query != NULL)
		return filter->query;
	if (filter->types == NIL && filter->tags == NIL)
		return NULL;
	query = palloc0(sizeof(EsQuery));
	query->nitems = 1;
	query->items = palloc0(sizeof(EsQueryItem));
	query->items->types = strings_of(filter->types, &query->items->ntypes);
	query->items->tags = strings_of(filter->tags, &query->items->ntags);
	return query;
}

static char **
strings_of(List *list, int *n)
{
	char	  **strings = palloc(Max(list_length(list), 1) * sizeof(char *));
	ListCell   *lc;

	*n = 0;
	foreach(lc, list)
		strings[(*n)++] = lfirst(lc);
	return strings;
}

static bool
merge_next(EsReader *reader, void *state, TupleTableSlot *slot)
{
	Merge	   *merge = state;
	int			first = -1;
	int64		lowest = PG_INT64_MAX;

	if (!merge->is_started)
		merge_start(reader, merge);
	for (int i = 0; i < merge->n; i++)
	{
		bool		isnull;
		int64		position;

		if (!merge->has_row[i])
			continue;
		position = DatumGetInt64(slot_getattr(merge->scans[i].slot, ES_EVENT_POSITION + 1, &isnull));
		if (first < 0 || position < lowest)
		{
			first = i;
			lowest = position;
		}
	}
	if (first < 0)
		return false;
	ExecCopySlot(slot, merge->scans[first].slot);
	merge->has_row[first] = es_index_scan_next(&merge->scans[first], ForwardScanDirection);
	if (merge->has_row[first])
		expect(merge->scans[first].slot);
	return true;
}

/*
 * Its row is looked at when the one ahead of it is done with: by then the processor can have it, or the beginning of a long one, in
 * its cache.  Else a poll spends a seventh of its time waiting for memory.
 */
static void
expect(TupleTableSlot *slot)
{
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, NULL);
	uint32		len = Min(tuple->t_len, MAX_EXPECTED);

	for (uint32 i = CACHE_LINE; i < len; i += CACHE_LINE)
		__builtin_prefetch((const char *) tuple->t_data + i);
}

static void
merge_start(EsReader *reader, Merge *merge)
{
	for (int i = 0; i < merge->n; i++)
	{
		ScanKeyData keys[3];

		if (merge->scans[i].rel == NULL)
			es_index_scan_open(&merge->scans[i], es_catalog()->event, merge->index, es_reader_snapshot(reader));
		ScanKeyEntryInitialize(&keys[0], 0, 1, BTEqualStrategyNumber, InvalidOid, merge->scans[i].index->rd_indcollation[0],
							   merge->equal, merge->keys[i]);
		ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(merge->after));
		ScanKeyInit(&keys[2], 2, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(merge->head));
		es_index_scan_start(&merge->scans[i], keys, 3);
		merge->has_row[i] = es_index_scan_next(&merge->scans[i], ForwardScanDirection);
	}
	merge->is_started = true;
}

static void
merge_restart(void *state)
{
	((Merge *) state)->is_started = false;
}

static void
merge_close(void *state)
{
	Merge	   *merge = state;

	for (int i = 0; i < merge->n; i++)
		if (merge->scans[i].rel != NULL)
			es_index_scan_close(&merge->scans[i]);
}
