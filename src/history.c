/*
 * history.c
 *		What of one stream existed at a position, and what of it is still there.
 *
 * Runs in backends, under the active snapshot.  Versions and positions of a stream grow together, so the version at a
 * position is found by bisection over the index; events that were taken away are missing from the beginning on.  Holds
 * nothing but the tables open; a crash leaves nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "event.h"
#include "history.h"
#include "index_scan.h"
#include "spi.h"

static EsPlan created_plan = {
	.sql = "SELECT created_at FROM evtstore_internal.stream WHERE id = $1",
	.nargs = 1,
	.args = {INT8OID},
};

static int64 probe(const EsStream *stream, int64 from, ScanDirection direction, int64 *position);
static bool existed(const EsStream *stream, TimestampTz at);
static void refuse_gone(const EsStream *stream, int64 first) es_noreturn;

int64
es_history_first_version(const EsStream *stream)
{
	int64		position;

	return probe(stream, 1, ForwardScanDirection, &position);
}

int64
es_history_last_version(const EsStream *stream)
{
	int64		position;

	return probe(stream, 1, BackwardScanDirection, &position);
}

int64
es_history_version_at(const EsStream *stream, int64 position, TimestampTz at)
{
	int64		found;
	int64		low = probe(stream, 1, ForwardScanDirection, &found);
	int64		high;

	if (low == 0)
		return 0;
	if (found > position)
	{
		if (low > 1 && existed(stream, at))
			refuse_gone(stream, low);
		return 0;
	}
	high = probe(stream, 1, BackwardScanDirection, &found);
	if (found <= position)
		return high;

	/* low is at or below the position, and the first that is there from high on is above */
	while (high - low > 1)
	{
		int64		middle = low + (high - low) / 2;
		int64		version = probe(stream, middle, ForwardScanDirection, &found);

		if (version < high && found <= position)
			low = version;
		else
			high = middle;
	}
	return low;
}

/* the one place that knows how events go: from the beginning of their stream, so what is missing is below the first */
void
es_history_require(const EsStream *stream, int64 from, int64 last)
{
	int64		first;

	if (from > last)
		return;
	first = es_history_first_version(stream);
	if (first > from)
		refuse_gone(stream, first);
}

/* the first version that is there at or above from, or the last of all; 0 where there is none */
static int64
probe(const EsStream *stream, int64 from, ScanDirection direction, int64 *position)
{
	EsIndexScan scan;
	ScanKeyData keys[2];
	int64		version = 0;
	bool		isnull;

	es_index_scan_open(&scan, es_catalog()->event, es_catalog()->event_stream_version, GetActiveSnapshot());
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream->id));
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
	es_index_scan_start(&scan, keys, 2);
	if (es_index_scan_next(&scan, direction))
	{
		version = DatumGetInt64(slot_getattr(scan.slot, ES_EVENT_VERSION + 1, &isnull));
		*position = DatumGetInt64(slot_getattr(scan.slot, ES_EVENT_POSITION + 1, &isnull));
	}
	es_index_scan_close(&scan);
	return version;
}

static bool
existed(const EsStream *stream, TimestampTz at)
{
	EsSpiState	state;
	Datum		values[1] = {Int64GetDatum(stream->id)};
	bool		result;

	es_spi_begin(&state);
	result = es_spi_run_latest(&created_plan, values, NULL) > 0 && es_spi_int64(0, 0) <= at;
	es_spi_end(&state);
	return result;
}

static void
refuse_gone(const EsStream *stream, int64 first)
{
	StringInfoData name;

	initStringInfo(&name);
	escape_json(&name, stream->name);
	ereport(ERROR,
			(errcode(ES_ERRCODE_HISTORY_GONE),
			 errmsg("events of stream \"%s\" below version " INT64_FORMAT " are gone", stream->name, first),
			 errdetail("{\"stream\":%s,\"first_version\":" INT64_FORMAT "}", name.data, first),
			 errhint("Ask for a later moment or version, or keep snapshots: a snapshot stands for the events below it.")));
}
