/*
 * checkpoint.c
 *		What is settled in the lanes of a subscription: rows that are inserted and never updated.
 *
 * Runs in consumers' backends and in workers.  The row of a lane that counts is the one with the highest number, the last
 * one of its part of the index.  The lane's heavyweight lock makes who writes it the only one, from before he reads the
 * row before to the end of his transaction.  A row is the caller's: a rollback or a crash leaves the one before.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/fmgroids.h"

#include "catalog.h"
#include "checkpoint.h"
#include "compat.h"
#include "index_scan.h"
#include "queue.h"
#include "spi.h"
#include "table.h"

/* columns of evtstore_internal.checkpoint, from 1 */
enum
{
	COLUMN_SUBSCRIPTION = 1,
	COLUMN_LANE,
	COLUMN_SEQ,
	COLUMN_POSITION,
	COLUMN_RANGES,
	COLUMNS = COLUMN_RANGES
};

/* where the newest row of a lane was found last, by this backend */
typedef struct Newest
{
	int32		subscription;	/* 0: of none */
	int			lane;
	int64		seq;
} Newest;

struct EsCheckpoints
{
	int32		subscription;
	EsIndexScan scan;
};

/* what is newest in the janitor's snapshot stays, so whoever has a later one finds that or a newer one */
static EsPlan trim_plan = {
	.sql = "DELETE FROM evtstore_internal.checkpoint WHERE (subscription_id, lane, seq) IN"
	" (SELECT c.subscription_id, c.lane, c.seq"
	" FROM evtstore_internal.lane_generation g"
	" CROSS JOIN LATERAL pg_catalog.generate_series(g.first_lane, g.first_lane + g.lanes - 1) n"
	" CROSS JOIN LATERAL (SELECT max(k.seq) AS seq FROM evtstore_internal.checkpoint k"
	" WHERE k.subscription_id = g.subscription_id AND k.lane = n) newest"
	" JOIN evtstore_internal.checkpoint c ON c.subscription_id = g.subscription_id AND c.lane = n AND c.seq < newest.seq LIMIT $1)",
	.nargs = 1,
	.args = {INT8OID},
};

#define REMEMBERED 256

static Newest remembered[REMEMBERED];

static bool find_newest(EsCheckpoints *checkpoints, int lane);
static bool find_last(EsCheckpoints *checkpoints, int lane, int64 from_seq);
static void read_ranges(EsCheckpoint *checkpoint, Datum datum);

EsCheckpoints *
es_checkpoints_open(int32 subscription, Snapshot snapshot)
{
	EsCheckpoints *checkpoints = palloc(sizeof(EsCheckpoints));

	checkpoints->subscription = subscription;
	es_index_scan_open(&checkpoints->scan, es_catalog()->checkpoint, es_catalog()->checkpoint_pkey, snapshot);
	return checkpoints;
}

EsCheckpoint *
es_checkpoints_read(EsCheckpoints *checkpoints, int lane)
{
	EsCheckpoint *checkpoint = palloc0(sizeof(EsCheckpoint));
	TupleTableSlot *slot = checkpoints->scan.slot;
	bool		isnull;

	if (find_newest(checkpoints, lane))
		checkpoint->seq = DatumGetInt64(slot_getattr(slot, COLUMN_SEQ, &isnull));
	else if (!find_newest(checkpoints, ES_CHECKPOINT_BEGIN))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("subscription %d has no checkpoint", checkpoints->subscription),
				 errhint("The tables of evtstore_internal are damaged: restore them from a backup.")));
	checkpoint->position = DatumGetInt64(slot_getattr(slot, COLUMN_POSITION, &isnull));
	checkpoint->is_own = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull)));
	read_ranges(checkpoint, slot_getattr(slot, COLUMN_RANGES, &isnull));
	ExecClearTuple(slot);
	return checkpoint;
}

void
es_checkpoints_close(EsCheckpoints *checkpoints)
{
	es_index_scan_close(&checkpoints->scan);
	pfree(checkpoints);
}

bool
es_checkpoint_covers(const EsCheckpoint *checkpoint, int64 position)
{
	if (position <= checkpoint->position)
		return true;
	for (int i = 0; i < checkpoint->nranges; i++)
		if (position > checkpoint->ranges[2 * i] && position <= checkpoint->ranges[2 * i + 1])
			return true;
	return false;
}

void
es_checkpoint_add(EsCheckpoint *checkpoint, int64 from, int64 to)
{
	int64	   *merged;
	int			n = 0;
	bool		is_in = false;

	if (to <= checkpoint->position)
		return;
	if (from <= checkpoint->position)
	{
		int			passed = 0;

		checkpoint->position = to;
		while (passed < checkpoint->nranges && checkpoint->ranges[2 * passed] <= checkpoint->position)
		{
			checkpoint->position = Max(checkpoint->position, checkpoint->ranges[2 * passed + 1]);
			passed++;
		}
		checkpoint->ranges += 2 * passed;
		checkpoint->nranges -= passed;
		return;
	}

	merged = palloc((checkpoint->nranges + 1) * 2 * sizeof(int64));
	for (int i = 0; i < checkpoint->nranges; i++)
	{
		int64		low = checkpoint->ranges[2 * i];
		int64		high = checkpoint->ranges[2 * i + 1];

		if (high >= from && low <= to)
		{
			from = Min(from, low);
			to = Max(to, high);
			continue;
		}
		if (low > to && !is_in)
		{
			merged[2 * n] = from;
			merged[2 * n++ + 1] = to;
			is_in = true;
		}
		merged[2 * n] = low;
		merged[2 * n++ + 1] = high;
	}
	if (!is_in)
	{
		merged[2 * n] = from;
		merged[2 * n++ + 1] = to;
	}
	checkpoint->ranges = merged;
	checkpoint->nranges = n;
}

void
es_checkpoint_write(int32 subscription, int lane, EsCheckpoint *checkpoint)
{
	EsTable    *table = es_table_open(ES_TABLE_CHECKPOINT, es_catalog()->checkpoint);
	Datum	   *numbers = palloc(Max(checkpoint->nranges, 1) * 2 * sizeof(Datum));
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS] = {0};

	for (int i = 0; i < checkpoint->nranges * 2; i++)
		numbers[i] = Int64GetDatum(checkpoint->ranges[i]);
	checkpoint->seq++;
	checkpoint->is_own = true;
	values[COLUMN_SUBSCRIPTION - 1] = Int32GetDatum(subscription);
	values[COLUMN_LANE - 1] = Int32GetDatum(lane);
	values[COLUMN_SEQ - 1] = Int64GetDatum(checkpoint->seq);
	values[COLUMN_POSITION - 1] = Int64GetDatum(checkpoint->position);
	values[COLUMN_RANGES - 1] = PointerGetDatum(construct_array(numbers, checkpoint->nranges * 2, INT8OID, sizeof(int64),
																FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	es_table_begin(table);
	es_table_insert(table, values, nulls);
	es_table_end(table);
	/* the next look of this transaction has to show it */
	CommandCounterIncrement();
}

int64
es_checkpoint_trim(int64 limit)
{
	EsSpiState	state;
	Datum		values[1];
	int64		n;

	values[0] = Int64GetDatum(limit);
	es_queue_spi_begin(&state);
	n = (int64) es_spi_run(&trim_plan, values, NULL, false, 0);
	es_spi_end(&state);
	return n;
}

/*
 * A scan from the end of a lane looks at as many rows of it as the last page of the index has, where no bound stops it.  What
 * was found once is such a bound: whatever is newest by now is not older.  If nothing is there (it was rolled back, or the
 * extension is another by now), the whole lane is looked at.
 */
static bool
find_newest(EsCheckpoints *checkpoints, int lane)
{
	Newest	   *newest = &remembered[((uint32) checkpoints->subscription * 31 + (uint32) lane) % REMEMBERED];
	bool		isnull;

	if (newest->subscription != checkpoints->subscription || newest->lane != lane)
		*newest = (Newest) {.subscription = checkpoints->subscription,.lane = lane,.seq = PG_INT64_MIN};
	if (!find_last(checkpoints, lane, newest->seq) &&
		(newest->seq == PG_INT64_MIN || !find_last(checkpoints, lane, PG_INT64_MIN)))
	{
		newest->subscription = 0;
		return false;
	}
	newest->seq = DatumGetInt64(slot_getattr(checkpoints->scan.slot, COLUMN_SEQ, &isnull));
	return true;
}

static bool
find_last(EsCheckpoints *checkpoints, int lane, int64 from_seq)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], COLUMN_SUBSCRIPTION, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(checkpoints->subscription));
	ScanKeyInit(&keys[1], COLUMN_LANE, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(lane));
	ScanKeyInit(&keys[2], COLUMN_SEQ, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from_seq));
	es_index_scan_start(&checkpoints->scan, keys, 3);
	return es_index_scan_next(&checkpoints->scan, BackwardScanDirection);
}

static void
read_ranges(EsCheckpoint *checkpoint, Datum datum)
{
	ArrayType  *array = DatumGetArrayTypeP(datum);
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));

	checkpoint->nranges = n / 2;
	checkpoint->ranges = palloc(Max(n, 1) * sizeof(int64));
	memcpy(checkpoint->ranges, ARR_DATA_PTR(array), n * sizeof(int64));
}
