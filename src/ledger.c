/*
 * ledger.c
 *		position_at: which positions belong to a moment of the past, for ever; and the ledger that it needs for it.
 *
 * Runs in backends; the scheduler writes a row (clock, head) in a transaction of its own, a janitor trims.
 *
 * A moment has the events in order of position up to the first that was recorded later.  That is a property of the
 * events alone, as soon as they are decided: no row is needed for it, and a dump, a crash or a standby changes nothing.
 * Undecided events above the head matter only where no decided one was recorded later, that is where the moment is the
 * present and an appender is in flight.  Then the answer is the head, and a row of the table closing says so to everybody
 * who asks later: nothing above it belongs to a moment up to then.  Such a row must be there as soon as the answer is,
 * whatever becomes of the transaction that asked: it is written frozen, that is visible to all at once, and flushed.
 *
 * The rows of the table head are where the search begins.  Which of them there are does not change the answer.
 *
 * Lock: ES_LOCK_LEDGER.  Who writes a closing holds it exclusively from the head to the row's flush; who answers without
 * one holds it shared from looking for closings to knowing the head; the scheduler holds it shared from the head to its
 * commit.  So closings come in order, and none is below a head that somebody relied on.  Nobody waits for anything else
 * under it but the disk.  A crash between the row and its index entries leaves a row that no search finds, and that no
 * answer was given by.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "error.h"
#include "event.h"
#include "feed.h"
#include "index_scan.h"
#include "ledger.h"
#include "lock.h"
#include "spi.h"

/* between two rows of the ledger that the janitor leaves are at most twice so many positions, where there were rows */
#define TRIM_DISTANCE "4096"
/* a moment is closed only after appenders in flight had so long to end */
#define GRACE_MS 250

PG_FUNCTION_INFO_V1(evtstore_position_at);
PG_FUNCTION_INFO_V1(evtstore_ledger_trim);

static EsPlan closing_plan = {
	.sql = "SELECT position FROM evtstore_internal.closing WHERE recorded_at >= $1 ORDER BY recorded_at LIMIT 1",
	.nargs = 1,
	.args = {TIMESTAMPTZOID},
};

static EsPlan newest_closing_plan = {
	.sql = "SELECT recorded_at FROM evtstore_internal.closing ORDER BY recorded_at DESC LIMIT 1",
};

static EsPlan newest_head_plan = {
	.sql = "SELECT position FROM evtstore_internal.head ORDER BY position DESC LIMIT 1",
};

static EsPlan start_plan = {
	.sql = "SELECT greatest("
	"(SELECT position FROM evtstore_internal.head WHERE recorded_at <= $1 ORDER BY recorded_at DESC LIMIT 1),"
	"(SELECT position FROM evtstore_internal.closing WHERE recorded_at <= $1 ORDER BY recorded_at DESC LIMIT 1))",
	.nargs = 1,
	.args = {TIMESTAMPTZOID},
};

static EsPlan record_plan = {
	.sql = "INSERT INTO evtstore_internal.head (position, recorded_at)"
	" SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM evtstore_internal.head WHERE position >= $1)",
	.nargs = 2,
	.args = {INT8OID, TIMESTAMPTZOID},
};

static EsPlan trim_heads_plan = {
	.sql = "DELETE FROM evtstore_internal.head WHERE position IN (SELECT r.position FROM"
	" (SELECT position, lead(position) OVER (ORDER BY position) AS next FROM evtstore_internal.head) r"
	" WHERE r.position / " TRIM_DISTANCE " = r.next / " TRIM_DISTANCE " LIMIT $1)",
	.nargs = 1,
	.args = {INT8OID},
};

static EsPlan trim_closings_plan = {
	.sql = "DELETE FROM evtstore_internal.closing WHERE recorded_at IN (SELECT c.recorded_at FROM"
	" (SELECT recorded_at, position, lead(position) OVER (ORDER BY recorded_at) AS next FROM evtstore_internal.closing) c"
	" WHERE c.next = c.position OR (c.next IS NOT NULL AND c.recorded_at <"
	" (SELECT e.recorded_at FROM evtstore_internal.event e WHERE e.position > c.position AND e.position <= $2"
	" ORDER BY e.position LIMIT 1)) LIMIT $1)",
	.nargs = 2,
	.args = {INT8OID, INT8OID},
};

static bool settle(TimestampTz at, bool may_close, int64 *cap);
static bool settle_on_standby(TimestampTz at, int64 *cap);
static bool find_closing(TimestampTz at, int64 *position);
static void write_closing(TimestampTz at, int64 position);
static int64 search(TimestampTz at, int64 cap, bool *met_later);
static int64 walk(TimestampTz at, int64 from, int64 cap, bool *met_later);
static int64 ask(EsPlan *plan, TimestampTz *at);

/* evtstore.position_at(at) */
Datum
evtstore_position_at(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(es_ledger_position_at(es_ledger_moment(fcinfo, 0, "at")));
}

/* evtstore_internal.ledger_trim(max_rows) */
Datum
evtstore_ledger_trim(PG_FUNCTION_ARGS)
{
	es_arg_required(fcinfo, 0, "max_rows");
	es_catalog_require_writable("ledger_trim");
	PG_RETURN_INT64(es_ledger_trim(PG_GETARG_INT64(0)));
}

TimestampTz
es_ledger_moment(FunctionCallInfo fcinfo, int n, const char *arg)
{
	TimestampTz at;
	TimestampTz now;

	es_arg_required(fcinfo, n, arg);
	at = PG_GETARG_TIMESTAMPTZ(n);
	now = RecoveryInProgress() ? GetCurrentTimestamp() : es_feed_now();
	if (at > now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is in the future: %s", arg, timestamptz_to_str(at)),
				 errhint("Only of a past moment is it known what belongs to it. clock_timestamp() is the present one.")));
	return at;
}

int64
es_ledger_position_at(TimestampTz at)
{
	bool		may_close = !XactReadOnly && !IsInParallelMode();

	/* the clock of a machine that stores events is past the year 2000, which is 0 */
	if (at <= 0)
		return 0;
	for (int i = 0;; i++)
	{
		int64		cap;
		bool		met_later;
		bool		settled = RecoveryInProgress() ? settle_on_standby(at, &cap) : settle(at, may_close && i > 0, &cap);
		int64		position = search(at, cap, &met_later);

		if (settled || met_later || i > 0 || RecoveryInProgress())
			return position;
		/* nobody is left out of the moment only because somebody else's short transaction has a lower position */
		es_feed_give_time(GRACE_MS);
	}
}

int64
es_ledger_begin_read(TimestampTz at)
{
	int64		position = es_ledger_position_at(at);

	PushActiveSnapshot(GetLatestSnapshot());
	return position;
}

bool
es_ledger_record(void)
{
	static int64 recorded = 0;
	int64		head;
	EsSpiState	state;
	Datum		values[2];

	(void) es_lock_mode(ES_LOCK_LEDGER, 0, ShareLock);
	head = es_feed_head(ES_FEED_ALL_CATEGORIES);
	if (head == recorded || head == 0)
		return false;
	values[0] = Int64GetDatum(head);
	values[1] = TimestampTzGetDatum(es_feed_now());
	es_spi_begin(&state);
	es_spi_run(&record_plan, values, NULL, false, 0);
	es_spi_end(&state);
	recorded = head;
	return true;
}

/*
 * Rows of head are only where a search begins; the newest stays for REPEATABLE READ and standbys.  A closing is redundant
 * where the next one has the same position, and where the next event above it, decided, was recorded later: then every
 * search that the closing would stop ends there anyway.  The newest closing stays too: it tells the time to a server that
 * comes up with its clock set back.
 */
int64
es_ledger_trim(int64 limit)
{
	EsSpiState	state;
	Datum		values[2];
	int64		deleted;

	/* the head comes before the snapshot, as in every read of the feed */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("the ledger cannot be trimmed in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errhint("Use READ COMMITTED, the default isolation level.")));
	values[0] = Int64GetDatum(limit);
	values[1] = Int64GetDatum(es_feed_head(ES_FEED_ALL_CATEGORIES));
	es_spi_begin(&state);
	deleted = es_spi_run(&trim_heads_plan, values, NULL, false, 0);
	deleted += es_spi_run(&trim_closings_plan, values, NULL, false, 0);
	es_spi_end(&state);
	return deleted;
}

/*
 * Up to where the moment can reach.  True: that is final, though the search may stop before.  False: an appender is in
 * flight, and the answer is final only if the search meets an event that was recorded later.
 */
static bool
settle(TimestampTz at, bool may_close, int64 *cap)
{
	LOCKMODE	mode = may_close ? ExclusiveLock : ShareLock;
	bool		settled;

	(void) es_lock_mode(ES_LOCK_LEDGER, 0, mode);
	settled = find_closing(at, cap) || es_feed_settle(at, cap);
	if (!settled && may_close)
	{
		write_closing(at, *cap);
		settled = true;
	}
	es_lock_release(ES_LOCK_LEDGER, 0, mode);
	return settled;
}

/*
 * The head's row first: closings that were written before it are replayed by then, and those written after it do not
 * reach below it.
 */
static bool
settle_on_standby(TimestampTz at, int64 *cap)
{
	*cap = ask(&newest_head_plan, NULL);
	return find_closing(at, cap);
}

static bool
find_closing(TimestampTz at, int64 *position)
{
	EsSpiState	state;
	Datum		values[1] = {TimestampTzGetDatum(at)};
	bool		found;

	es_spi_begin(&state);
	found = es_spi_run_latest(&closing_plan, values, NULL) > 0;
	if (found)
		*position = es_spi_int64(0, 0);
	es_spi_end(&state);
	return found;
}

/* Locks: the ledger's, exclusive, held */
static void
write_closing(TimestampTz at, int64 position)
{
	Relation	rel = table_open(es_catalog()->closing, RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *info = makeNode(ResultRelInfo);
	TimestampTz recorded_at = Max(es_feed_now(), ask(&newest_closing_plan, NULL) + 1);

	Assert(recorded_at >= at);
	InitResultRelInfo(info, rel, 1, NULL, 0);
	ExecOpenIndices(info, false);
	ExecClearTuple(slot);
	memset(slot->tts_isnull, false, slot->tts_tupleDescriptor->natts * sizeof(bool));
	slot->tts_values[0] = TimestampTzGetDatum(recorded_at);
	slot->tts_values[1] = Int64GetDatum(position);
	ExecStoreVirtualTuple(slot);
	table_tuple_insert(rel, slot, GetCurrentCommandId(true), TABLE_INSERT_FROZEN, NULL);
	es_exec_insert_index_tuples(info, slot, estate);
	XLogFlush(XactLastRecEnd);

	ExecCloseIndices(info);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	table_close(rel, RowExclusiveLock);
}

/* what is at or below cap is decided; the snapshot is the latest, because the past does not depend on who looks */
static int64
search(TimestampTz at, int64 cap, bool *met_later)
{
	int64		from = Min(ask(&start_plan, &at), cap);
	int64		position;

	PushActiveSnapshot(GetLatestSnapshot());
	es_feed_flush_shown();
	position = walk(at, from, cap, met_later);
	PopActiveSnapshot();
	return position;
}

/* from is known to belong to the moment, if there is an event of that position */
static int64
walk(TimestampTz at, int64 from, int64 cap, bool *met_later)
{
	EsIndexScan scan;
	ScanKeyData keys[2];
	int64		position = 0;
	bool		isnull;

	es_index_scan_open(&scan, es_catalog()->event, es_catalog()->event_pkey, GetActiveSnapshot());
	ScanKeyInit(&keys[0], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(from));
	es_index_scan_start(&scan, keys, 1);
	if (es_index_scan_next(&scan, BackwardScanDirection))
		position = DatumGetInt64(slot_getattr(scan.slot, ES_EVENT_POSITION + 1, &isnull));

	*met_later = false;
	ScanKeyInit(&keys[0], 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(from));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(cap));
	es_index_scan_start(&scan, keys, 2);
	while (!*met_later && es_index_scan_next(&scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		*met_later = DatumGetTimestampTz(slot_getattr(scan.slot, ES_EVENT_RECORDED_AT + 1, &isnull)) > at;
		if (!*met_later)
			position = DatumGetInt64(slot_getattr(scan.slot, ES_EVENT_POSITION + 1, &isnull));
	}
	es_index_scan_close(&scan);
	return position;
}

/* one number, 0 where there is none, under the latest snapshot; at is the parameter of the plan, if it has one */
static int64
ask(EsPlan *plan, TimestampTz *at)
{
	EsSpiState	state;
	Datum		values[1] = {at == NULL ? (Datum) 0 : TimestampTzGetDatum(*at)};
	int64		result;

	es_spi_begin(&state);
	result = es_spi_run_latest(plan, values, NULL) > 0 ? es_spi_int64(0, 0) : 0;
	es_spi_end(&state);
	return result;
}
