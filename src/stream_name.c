/*
 * stream_name.c
 *		The names of streams by id, for readers.
 *
 * Runs in backends and workers.  Each backend keeps the names it met in an array, a stream in the place that its id modulo the
 * size says.  Streams that are written to at the same time were mostly made at the same time, have ids in a row, and lie in
 * a row here: a reader that follows the feed finds them in memory that it has just touched, which a hash table would have
 * scattered.  The array grows while streams want places that are taken; at its full size they take them from each other.
 * So a backend that reads more streams than fit loses one for each that comes, never all of them at once.
 *
 * For the same reason they lie in a row in the table.  A reader that wants two streams with ids near to each other is given
 * the names of the whole page, which costs about as much as ten look-ups of one and saves a hundred.
 *
 * A stream never changes its name and an id is never given out twice, so what a backend has seen once is good as long as the
 * tables are the same (es_catalog_generation()).  Nothing is shared, a crash leaves nothing.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "index_scan.h"
#include "stream.h"
#include "stream_name.h"

/* places of the array, a power of two: 32 bytes each, and the name */
#define MIN_PLACES 1024
#define MAX_PLACES 16384

/* ids that are no further apart are near: their page is worth reading */
#define NEAR 16

typedef struct Place
{
	EsStreamName stream;		/* id 0: nobody has it */
	Size		size;			/* of what name points to, with the tenant in it; kept for the next one */
} Place;

struct EsStreamNames
{
	MemoryContext context;
	Snapshot	snapshot;
	bool		is_open;		/* from the first stream on that is not in the cache */
	EsIndexScan scan;
	TableScanDesc page;			/* NULL before the first page */
	TupleTableSlot *neighbour;
	int64		low;			/* what was taken last: ids from here */
	int64		high;			/* to here, not each of them */
};

static MemoryContext context = NULL;
static Place *places = NULL;
static int	nplaces = 0;
static uint64 generation = 0;

static void prepare_places(void);
static void grow_places(void);
static Place *place_of(int64 id);
static const EsStreamName *known(int64 id);
static bool is_near(const EsStreamNames *names, int64 id);
static void look_up(EsStreamNames *names, int64 id);
static void keep_page(EsStreamNames *names, BlockNumber block, bool is_backward);
static void keep(TupleTableSlot *slot);
static text *put(char *to, const text *value);

const EsStreamName *
es_stream_name(int64 id)
{
	const EsStreamName *stream;
	EsStreamNames *names;

	prepare_places();
	stream = known(id);
	if (stream != NULL)
		return stream;
	names = es_stream_names_open(GetActiveSnapshot());
	stream = es_stream_names_find(names, id);
	es_stream_names_close(names);
	return stream;
}

Datum
es_stream_name_datum(const EsStreamName *stream)
{
	return PointerGetDatum(put(palloc(VARSIZE(stream->name)), stream->name));
}

bool
es_stream_name_has_tenant(const EsStreamName *stream, const char *tenant)
{
	Size		len = strlen(tenant);

	return VARSIZE(stream->tenant) - VARHDRSZ == len && memcmp(VARDATA(stream->tenant), tenant, len) == 0;
}

EsStreamNames *
es_stream_names_open(Snapshot snapshot)
{
	EsStreamNames *names = palloc0(sizeof(EsStreamNames));

	names->context = CurrentMemoryContext;
	names->snapshot = snapshot;
	return names;
}

const EsStreamName *
es_stream_names_find(EsStreamNames *names, int64 id)
{
	const EsStreamName *stream;

	prepare_places();
	stream = known(id);
	if (stream != NULL)
		return stream;
	look_up(names, id);
	return known(id);
}

void
es_stream_names_close(EsStreamNames *names)
{
	if (names->page != NULL)
	{
		table_endscan(names->page);
		ExecDropSingleTupleTableSlot(names->neighbour);
	}
	if (names->is_open)
		es_index_scan_close(&names->scan);
	pfree(names);
}

static bool
is_near(const EsStreamNames *names, int64 id)
{
	return id >= names->low - NEAR && id <= names->high + NEAR;
}

/* keeps the stream, and those on its page if the reader has just been there */
static void
look_up(EsStreamNames *names, int64 id)
{
	ScanKeyData key;
	/* the scans allocate while they run */
	MemoryContext old = MemoryContextSwitchTo(names->context);

	if (!names->is_open)
		es_index_scan_open(&names->scan, es_catalog()->stream, es_catalog()->stream_pkey, names->snapshot);
	names->is_open = true;
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	es_index_scan_start(&names->scan, &key, 1);
	if (es_index_scan_next(&names->scan, ForwardScanDirection))
	{
		/*
		 * A page shows streams that nobody asked for, made by transactions that have not ended yet among them: for a
		 * SERIALIZABLE reader each of those could be a conflict.
		 */
		bool		is_run = is_near(names, id) && !IsolationIsSerializable();
		bool		is_backward = id < names->low;

		names->low = names->high = id;
		if (is_run)
			keep_page(names, ItemPointerGetBlockNumber(&names->scan.slot->tts_tid), is_backward);
		/* at the end: another of the page may have its place */
		keep(names->scan.slot);
	}
	ExecClearTuple(names->scan.slot);
	MemoryContextSwitchTo(old);
}

/* those of the page that lie ahead of names->low, which is names->high */
static void
keep_page(EsStreamNames *names, BlockNumber block, bool is_backward)
{
	int64		from = names->low;
	ItemPointerData first;
	ItemPointerData last;

	ItemPointerSet(&first, block, FirstOffsetNumber);
	ItemPointerSet(&last, block, MaxOffsetNumber);
	if (names->page == NULL)
	{
		names->page = table_beginscan_tidrange(names->scan.rel, names->snapshot, &first, &last);
		names->neighbour = table_slot_create(names->scan.rel, NULL);
	}
	else
		table_rescan_tidrange(names->page, &first, &last);
	while (table_scan_getnextslot_tidrange(names->page, ForwardScanDirection, names->neighbour))
	{
		bool		isnull;
		int64		id = DatumGetInt64(slot_getattr(names->neighbour, ES_STREAM_ID + 1, &isnull));

		if (is_backward ? id > from : id < from)
			continue;
		keep(names->neighbour);
		names->low = Min(names->low, id);
		names->high = Max(names->high, id);
	}
}

static void
keep(TupleTableSlot *slot)
{
	bool		isnull;
	int64		id = DatumGetInt64(slot_getattr(slot, ES_STREAM_ID + 1, &isnull));
	Place	   *place = place_of(id);
	text	   *tenant;
	text	   *name;
	Size		name_size;
	Size		size;

	if (place->stream.id == id)
		return;
	if (place->stream.id != 0 && nplaces < MAX_PLACES)
	{
		grow_places();
		place = place_of(id);
	}
	name = DatumGetTextPP(slot_getattr(slot, ES_STREAM_NAME + 1, &isnull));
	tenant = DatumGetTextPP(slot_getattr(slot, ES_STREAM_TENANT + 1, &isnull));
	name_size = INTALIGN(VARSIZE_ANY_EXHDR(name) + VARHDRSZ);
	size = name_size + VARSIZE_ANY_EXHDR(tenant) + VARHDRSZ;
	if (place->size < size)
	{
		text	   *bytes = MemoryContextAlloc(context, size);

		if (place->size > 0)
			pfree(place->stream.name);
		place->stream.name = bytes;
		place->size = size;
	}
	put((char *) place->stream.name, name);
	place->stream.tenant = put((char *) place->stream.name + name_size, tenant);
	place->stream.id = id;
}

/* with a four-byte header, whatever it had */
static text *
put(char *to, const text *value)
{
	Size		len = VARSIZE_ANY_EXHDR(value);

	SET_VARSIZE(to, len + VARHDRSZ);
	memcpy(VARDATA(to), VARDATA_ANY(value), len);
	return (text *) to;
}

static const EsStreamName *
known(int64 id)
{
	Place	   *place = place_of(id);

	return place->stream.id == id ? &place->stream : NULL;
}

static Place *
place_of(int64 id)
{
	return &places[id & (nplaces - 1)];
}

static void
prepare_places(void)
{
	if (places != NULL && generation == es_catalog_generation())
		return;
	places = NULL;
	if (context != NULL)
		MemoryContextDelete(context);
	context = NULL;
	context = AllocSetContextCreate(TopMemoryContext, "evtstore names of streams", ALLOCSET_DEFAULT_SIZES);
	places = MemoryContextAllocZero(context, sizeof(Place) * MIN_PLACES);
	nplaces = MIN_PLACES;
	generation = es_catalog_generation();
}

/* to twice the size: what lay in one place lies in one of two */
static void
grow_places(void)
{
	Place	   *old = places;
	int			nold = nplaces;
	Place	   *grown = MemoryContextAllocZero(context, sizeof(Place) * nold * 2);

	places = grown;
	nplaces = nold * 2;
	for (int i = 0; i < nold; i++)
		if (old[i].stream.id != 0)
			*place_of(old[i].stream.id) = old[i];
	pfree(old);
}
