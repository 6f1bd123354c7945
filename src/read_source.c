/*
 * read_source.c
 *		Readers: rows of the event table one at a time, of one moment, from a source such as the walk over an index.
 *
 * Runs in backends, and lasts as long as the query that it belongs to: a cursor may stand in the middle of it for hours.
 * So the moment is kept as a registered snapshot, taken in the order that the feed needs (feed.c) and never pushed
 * active: who needs a snapshot gets it as an argument.  The tenant is that of the moment too, whatever is set later.
 * Nothing is kept per row: what a row needs while it is looked at is in a context that the next row resets.
 *
 * Relations are locked against being dropped while the reader is open.  Snapshot, locks and pins belong to the resource
 * owner of the query; an error or a rolled back savepoint clears them away without close.  A crash leaves nothing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "feed.h"
#include "read.h"
#include "stream_name.h"

struct EsReader
{
	MemoryContext context;		/* holds all of it */
	MemoryContext row_context;	/* reset for each row */
	Snapshot	snapshot;
	const char *tenant;			/* '': every tenant */
	const char *category;		/* NULL: every category */
	int64		max_count;
	int64		left;
	Relation	rel;
	TupleTableSlot *slot;
	EsStreamNames *streams;
	TupleDesc	row_desc;		/* of evtstore.event, once somebody asked for a whole row */
	const EsReadSource *source; /* NULL: no rows */
	void	   *source_state;
};

struct EsWalk
{
	Relation	index;
	IndexScanDesc scan;			/* NULL before the first row */
	ScanKeyData keys[7];
	int			nkeys;
	bool		backwards;
};

static EsReader *make_reader(MemoryContext parent);
static void finish_open(EsReader *reader);
static bool walk_next(EsReader *reader, void *state, TupleTableSlot *slot);
static void walk_restart(void *state);
static void walk_close(void *state);
static bool wanted(EsReader *reader);
static const EsStreamName *stream_of_row(EsReader *reader);
static Datum whole_row(EsReader *reader);

static const EsReadSource walk_source = {
	.next = walk_next,
	.restart = walk_restart,
	.close = walk_close,
};

/* where the attributes of evtstore.event lie in the event table; the stream has only its id there */
static const int column_of[ES_EVENT_ROW_NATTS] = {
	ES_EVENT_POSITION, ES_EVENT_TENANT, ES_EVENT_STREAM_ID, ES_EVENT_VERSION, ES_EVENT_ID, ES_EVENT_TYPE,
	ES_EVENT_SCHEMA_VERSION, ES_EVENT_DATA, ES_EVENT_METADATA, ES_EVENT_TAGS, ES_EVENT_OCCURRED_AT,
	ES_EVENT_RECORDED_AT
};

EsReader *
es_reader_open(const EsReadFunction *function, FunctionCallInfo fcinfo, MemoryContext parent)
{
	EsReader   *reader = make_reader(parent);
	MemoryContext old = MemoryContextSwitchTo(reader->context);

	function->open(reader, fcinfo);
	finish_open(reader);
	MemoryContextSwitchTo(old);
	return reader;
}

EsReader *
es_reader_open_with(void (*open) (EsReader *reader, void *arg), void *arg, MemoryContext parent)
{
	EsReader   *reader = make_reader(parent);
	MemoryContext old = MemoryContextSwitchTo(reader->context);

	open(reader, arg);
	finish_open(reader);
	MemoryContextSwitchTo(old);
	return reader;
}

static EsReader *
make_reader(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "evtstore reader", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsReader   *reader = palloc0(sizeof(EsReader));

	reader->context = context;
	reader->row_context = AllocSetContextCreate(context, "evtstore event", ALLOCSET_DEFAULT_SIZES);
	reader->tenant = "";
	reader->max_count = PG_INT64_MAX;
	reader->rel = table_open(es_catalog()->event, AccessShareLock);
	reader->slot = table_slot_create(reader->rel, NULL);
	MemoryContextSwitchTo(old);
	return reader;
}

static void
finish_open(EsReader *reader)
{
	Assert(reader->snapshot != NULL);
	reader->left = reader->max_count;
	reader->streams = es_stream_names_open(reader->snapshot);
}

TupleTableSlot *
es_reader_next(EsReader *reader)
{
	MemoryContext old;
	bool		found = false;

	if (reader->left <= 0 || reader->source == NULL)
		return NULL;
	old = MemoryContextSwitchTo(reader->context);
	while (!found && reader->source->next(reader, reader->source_state, reader->slot))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(reader->row_context);
		MemoryContextSwitchTo(reader->row_context);
		found = wanted(reader);
		MemoryContextSwitchTo(reader->context);
	}
	MemoryContextSwitchTo(old);
	reader->left = found ? reader->left - 1 : 0;
	return found ? reader->slot : NULL;
}

Datum
es_reader_value(EsReader *reader, int attno, bool *isnull)
{
	const EsStreamName *stream;

	*isnull = false;
	if (attno == 0)
		return whole_row(reader);
	if (attno != ES_EVENT_ROW_STREAM)
		return slot_getattr(reader->slot, column_of[attno - 1] + 1, isnull);
	stream = stream_of_row(reader);
	*isnull = stream == NULL;
	return stream == NULL ? (Datum) 0 : es_stream_name_datum(stream);
}

const text *
es_reader_stream(EsReader *reader)
{
	const EsStreamName *stream = stream_of_row(reader);

	return stream == NULL ? NULL : stream->name;
}

void
es_reader_restart(EsReader *reader)
{
	ExecClearTuple(reader->slot);
	if (reader->source != NULL)
		reader->source->restart(reader->source_state);
	reader->left = reader->max_count;
}

void
es_reader_close(EsReader *reader)
{
	if (reader->source != NULL)
		reader->source->close(reader->source_state);
	es_stream_names_close(reader->streams);
	ExecDropSingleTupleTableSlot(reader->slot);
	table_close(reader->rel, AccessShareLock);
	es_feed_close_read(reader->snapshot);
	MemoryContextDelete(reader->context);
}

int64
es_reader_begin_feed(EsReader *reader, uint64 categories)
{
	return es_feed_open_read(categories, &reader->snapshot);
}

void
es_reader_begin_stream(EsReader *reader)
{
	reader->snapshot = es_feed_open_stream_read();
}

void
es_reader_begin_latest(EsReader *reader)
{
	reader->snapshot = RegisterSnapshot(GetLatestSnapshot());
}

void
es_reader_set_tenant(EsReader *reader, const char *tenant)
{
	reader->tenant = pstrdup(tenant);
}

void
es_reader_set_category(EsReader *reader, const char *category)
{
	reader->category = pstrdup(category);
}

void
es_reader_set_max_count(EsReader *reader, int64 max_count)
{
	reader->max_count = max_count;
}

void
es_reader_set_source(EsReader *reader, const EsReadSource *source, void *state)
{
	Assert(reader->source == NULL);
	reader->source = source;
	reader->source_state = state;
}

Snapshot
es_reader_snapshot(EsReader *reader)
{
	return reader->snapshot;
}

Relation
es_reader_relation(EsReader *reader)
{
	return reader->rel;
}

EsWalk *
es_reader_walk(EsReader *reader, Oid index)
{
	EsWalk	   *walk = palloc0(sizeof(EsWalk));

	walk->index = index_open(index, AccessShareLock);
	es_reader_set_source(reader, &walk_source, walk);
	return walk;
}

void
es_walk_add_key(EsWalk *walk, int attno, StrategyNumber strategy, RegProcedure function, Datum value)
{
	Assert(walk->nkeys < lengthof(walk->keys));
	ScanKeyInit(&walk->keys[walk->nkeys++], attno, strategy, function, value);
}

void
es_walk_add_range(EsWalk *walk, int attno, const EsReadRange *range)
{
	walk->backwards = range->backwards;
	if (!range->has_after)
		return;
	if (range->backwards)
		es_walk_add_key(walk, attno, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(range->after));
	else
		es_walk_add_key(walk, attno, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(range->after));
}

static bool
walk_next(EsReader *reader, void *state, TupleTableSlot *slot)
{
	EsWalk	   *walk = state;

	if (walk->scan == NULL)
	{
		walk->scan = es_index_beginscan(reader->rel, walk->index, reader->snapshot, walk->nkeys);
		index_rescan(walk->scan, walk->keys, walk->nkeys, NULL, 0);
	}
	return index_getnext_slot(walk->scan, walk->backwards ? BackwardScanDirection : ForwardScanDirection, slot);
}

static void
walk_restart(void *state)
{
	EsWalk	   *walk = state;

	if (walk->scan != NULL)
		index_rescan(walk->scan, walk->keys, walk->nkeys, NULL, 0);
}

static void
walk_close(void *state)
{
	EsWalk	   *walk = state;

	if (walk->scan != NULL)
		index_endscan(walk->scan);
	index_close(walk->index, AccessShareLock);
}

/* categories are found by their hash: the name decides */
static bool
wanted(EsReader *reader)
{
	if (reader->tenant[0] != '\0')
	{
		bool		isnull;
		text	   *tenant = DatumGetTextPP(slot_getattr(reader->slot, ES_EVENT_TENANT + 1, &isnull));

		if (VARSIZE_ANY_EXHDR(tenant) != strlen(reader->tenant) ||
			memcmp(VARDATA_ANY(tenant), reader->tenant, strlen(reader->tenant)) != 0)
			return false;
	}
	if (reader->category != NULL)
	{
		const EsStreamName *stream = stream_of_row(reader);
		size_t		len = strlen(reader->category);

		if (stream == NULL || es_stream_category_len(VARDATA(stream->name), VARSIZE(stream->name) - VARHDRSZ) != len ||
			memcmp(VARDATA(stream->name), reader->category, len) != 0)
			return false;
	}
	return true;
}

/* NULL where the event has none */
static const EsStreamName *
stream_of_row(EsReader *reader)
{
	bool		isnull;
	int64		id = DatumGetInt64(slot_getattr(reader->slot, ES_EVENT_STREAM_ID + 1, &isnull));
	const EsStreamName *stream;

	if (isnull)
		return NULL;
	stream = es_stream_names_find(reader->streams, id);
	if (stream == NULL)
		es_event_refuse_lost_stream(id, DatumGetInt64(slot_getattr(reader->slot, ES_EVENT_POSITION + 1, &isnull)));
	return stream;
}

static Datum
whole_row(EsReader *reader)
{
	Datum		values[ES_EVENT_ROW_NATTS];
	bool		nulls[ES_EVENT_ROW_NATTS];

	if (reader->row_desc == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(reader->context);

		reader->row_desc = CreateTupleDescCopy(es_arg_row_desc(es_catalog()->event_type));
		MemoryContextSwitchTo(old);
	}
	slot_getallattrs(reader->slot);
	for (int i = 0; i < ES_EVENT_ROW_NATTS; i++)
	{
		values[i] = reader->slot->tts_values[column_of[i]];
		nulls[i] = reader->slot->tts_isnull[column_of[i]];
	}
	if (!nulls[ES_EVENT_ROW_STREAM - 1])
		values[ES_EVENT_ROW_STREAM - 1] = PointerGetDatum(stream_of_row(reader)->name);
	/* fetches what is toasted: a row inside another must not point into our TOAST table */
	return HeapTupleGetDatum(heap_form_tuple(reader->row_desc, values, nulls));
}
