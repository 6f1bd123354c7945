/*
 * stream_state.c
 *		Deleted, tombstoned, truncated: the state of streams, and what each backend remembers of it.
 *
 * Runs in backends.  Neither the stream's row nor an event is ever updated: each change of state is a row of its own,
 * with a position that is allocated under the stream's lock like that of an event.  So the newest row is the state, and
 * the newest one up to a position is the state as of that position.
 *
 * An append has to know the state, and must not look it up each time.  A backend remembers it with the stream, together
 * with a counter in shared memory, one of many, chosen by the stream's hash.  Who commits state rows raises their
 * counters in the callback that runs after his commit is visible and before his locks are released: the next holder of
 * the stream's lock reads another number and looks again.  docs/architecture-deletion.md has the argument.  What this
 * transaction wrote itself is given up with a savepoint or the transaction (epoch).
 *
 * Shared: the counters, atomics, raised only.  A crash makes them anew, together with every backend that remembered
 * one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "port/atomics.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "error.h"
#include "feed.h"
#include "index_scan.h"
#include "shmem.h"
#include "spi.h"
#include "stream.h"
#include "stream_state.h"

/* a deletion makes other backends look again at a stream in so many */
#define COUNTERS 4096

/* columns of evtstore_internal.stream_state, from 1 */
#define STATE_TRUNCATE_BEFORE 3
#define STATE_STATUS 5

static void *state_area = NULL;
static uint64 epoch = 1;

/* counters of the streams whose state this transaction wrote */
static bool wrote_any = false;
static uint64 written[COUNTERS / 64];

static void (*write_hook) (void) = NULL;

static Size state_size(void);
static void state_init(void *area);
static pg_atomic_uint64 *counter_of(const EsStream *stream);
static EsStreamState look_up_state(int64 stream_id, int64 position, Snapshot snapshot);
static EsStreamStatus parse_status(const char *status);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.stream_state (position, stream_id, truncate_before, recorded_at, status)"
	" VALUES ($1, $2, $3, clock_timestamp(), $4)",
	.nargs = 4,
	.args = {INT8OID, INT8OID, INT8OID, TEXTOID},
};

void
es_stream_state_init(void)
{
	static const EsShmemPart part = {
		.name = "stream states",
		.size = state_size,
		.init = state_init,
		.area = &state_area,
	};

	es_shmem_register(&part);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

void
es_stream_state_on_write(void (*hook) (void))
{
	write_hook = hook;
}

EsStreamState
es_stream_state(EsStream *stream)
{
	EsStreamStateMemo *memo = &stream->memo;
	uint64		raised;

	if (stream->id == 0)
		return (EsStreamState) {ES_STREAM_LIVE, 1};

	/* before the lookup: who raises it afterwards has had the stream's lock after us */
	raised = pg_atomic_read_u64(counter_of(stream));
	if (memo->epoch != epoch || memo->raised != raised)
	{
		memo->state = look_up_state(stream->id, PG_INT64_MAX, SnapshotSelf);
		memo->raised = raised;
		memo->epoch = epoch;
	}
	return memo->state;
}

EsStreamState
es_stream_state_at(int64 stream_id, int64 position, Snapshot snapshot)
{
	return look_up_state(stream_id, position, snapshot);
}

int64
es_stream_life_start(int64 stream_id, int64 version, Snapshot snapshot)
{
	EsIndexScan scan;
	ScanKeyData key;
	int64		start = 1;
	bool		isnull;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_id));
	es_index_scan_open(&scan, es_catalog()->stream_state, es_catalog()->stream_state_stream, snapshot);
	es_index_scan_start(&scan, &key, 1);
	while (start == 1 && es_index_scan_next(&scan, BackwardScanDirection))
	{
		int64		truncate_before = DatumGetInt64(slot_getattr(scan.slot, STATE_TRUNCATE_BEFORE, &isnull));
		char	   *status = TextDatumGetCString(slot_getattr(scan.slot, STATE_STATUS, &isnull));

		if (truncate_before <= version && parse_status(status) != ES_STREAM_LIVE)
			start = truncate_before;
	}
	es_index_scan_close(&scan);
	return start;
}

void
es_stream_refuse_tombstoned(EsStream *stream)
{
	StringInfoData name;

	if (es_stream_state(stream).status != ES_STREAM_TOMBSTONED)
		return;
	initStringInfo(&name);
	escape_json(&name, stream->name);
	ereport(ERROR,
			(errcode(ES_ERRCODE_STREAM_DELETED),
			 errmsg("stream \"%s\" was deleted for ever", stream->name),
			 errdetail("{\"stream\":%s}", name.data),
			 errhint("Its name cannot be used again: use another one.")));
}

void
es_stream_undelete(EsStream *stream)
{
	EsStreamState state = es_stream_state(stream);

	if (state.status != ES_STREAM_DELETED)
		return;
	state.status = ES_STREAM_LIVE;
	es_stream_set_state(stream, state);
}

/*
 * The position comes from the feed, with a floor: a head that covers the row says that it is decided, as for events, so
 * that the state as of a position below the head never changes.
 */
void
es_stream_set_state(EsStream *stream, EsStreamState state)
{
	static const char *const names[] = {"live", "deleted", "tombstoned"};
	int			slot = stream->hash % COUNTERS;
	int64		position;
	EsSpiState	spi;

	es_feed_allocate(1, es_feed_category_bit(stream->category_hash), &position);
	wrote_any = true;
	written[slot / 64] |= UINT64CONST(1) << (slot % 64);
	epoch++;
	es_spi_begin(&spi);
	es_spi_run(&insert_plan, (Datum[])
			   {
				   Int64GetDatum(position), Int64GetDatum(stream->id), Int64GetDatum(state.truncate_before),
				   CStringGetTextDatum(names[state.status])
			   }, NULL, false, 0);
	es_spi_end(&spi);
	if (write_hook != NULL)
		write_hook();
}

static Size
state_size(void)
{
	return COUNTERS * sizeof(pg_atomic_uint64);
}

static void
state_init(void *area)
{
	pg_atomic_uint64 *counters = area;

	for (int i = 0; i < COUNTERS; i++)
		pg_atomic_init_u64(&counters[i], 0);
}

/* streams of other databases may share it: they look once more than they need to */
static pg_atomic_uint64 *
counter_of(const EsStream *stream)
{
	return (pg_atomic_uint64 *) state_area + stream->hash % COUNTERS;
}

/* the newest row of the stream up to the position */
static EsStreamState
look_up_state(int64 stream_id, int64 position, Snapshot snapshot)
{
	EsIndexScan scan;
	EsStreamState state = {ES_STREAM_LIVE, 1};
	ScanKeyData keys[2];
	bool		isnull;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_id));
	ScanKeyInit(&keys[1], 2, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(position));
	es_index_scan_open(&scan, es_catalog()->stream_state, es_catalog()->stream_state_stream, snapshot);
	es_index_scan_start(&scan, keys, 2);
	if (es_index_scan_next(&scan, BackwardScanDirection))
	{
		state.truncate_before = DatumGetInt64(slot_getattr(scan.slot, STATE_TRUNCATE_BEFORE, &isnull));
		state.status = parse_status(TextDatumGetCString(slot_getattr(scan.slot, STATE_STATUS, &isnull)));
	}
	es_index_scan_close(&scan);
	return state;
}

static EsStreamStatus
parse_status(const char *status)
{
	if (strcmp(status, "live") == 0)
		return ES_STREAM_LIVE;
	return strcmp(status, "deleted") == 0 ? ES_STREAM_DELETED : ES_STREAM_TOMBSTONED;
}

/* at commit the rows are visible by now, and our locks are still held */
static void
xact_callback(XactEvent event, void *arg)
{
	if (!wrote_any || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	if (event == XACT_EVENT_COMMIT)
		for (int i = 0; i < COUNTERS; i++)
			if (written[i / 64] & (UINT64CONST(1) << (i % 64)))
				pg_atomic_fetch_add_u64((pg_atomic_uint64 *) state_area + i, 1);
	memset(written, 0, sizeof(written));
	wrote_any = false;
	epoch++;
}

/* a counter that is raised for a row that is gone costs others a look and nothing else */
static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && wrote_any)
		epoch++;
}
