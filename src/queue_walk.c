/*
 * queue_walk.c
 *		Reading the rows of a queue for what is ready.
 *
 * Runs in consumers' backends and in workers.  One process at a time walks a channel: it holds ES_LOCK_WALK of it, from before
 * it reads the mark to after it has set the new one, and gives it back then; others wait for as long as that takes.  The
 * snapshot is taken after queue_state.c knows that somebody walks, so that what commits later is told to it.  An error in
 * between leaves the mark where it was.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "index_scan.h"
#include "lock.h"
#include "queue.h"
#include "queue_walk.h"
#include "table.h"

/* a walk takes at least so many rows along for who comes next */
#define WALK_ROWS 256

static uint64 walk_lock(int32 queue_id, int64 share, EsQueueWalk which);
static int	set_keys(ScanKeyData *keys, int32 queue_id, int64 share, EsQueueWalk which, EsMark from, bool rest);
static int64 get_int64(TupleTableSlot *slot, int column, int64 missing);

bool
es_queue_walk(EsQueueState *state, int32 queue_id, int32 channel, int64 share, EsQueueWalk which, TimestampTz now, int want)
{
	int			size = es_queue_has_room() ? Max(want, WALK_ROWS) : want;
	EsReady    *found = palloc(size * sizeof(EsReady));
	EsMark		mark;
	EsMark		upto = which == ES_WALK_ORDER ? ES_MARK_END : (EsMark) {now + 1, PG_INT64_MIN};
	TimestampTz next_due = DT_NOEND;
	uint64		lock = walk_lock(queue_id, share, which);
	Snapshot	snapshot;
	EsIndexScan scan;
	int			n = 0;
	bool		ended = false;
	bool		result;

	(void) es_lock_mode(ES_LOCK_WALK, lock, ExclusiveLock);
	if (!es_channel_walk_begin(state, channel, which, &mark))
	{
		es_lock_release(ES_LOCK_WALK, lock, ExclusiveLock);
		pfree(found);
		return true;
	}
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	es_index_scan_open(&scan, es_catalog()->message, which == ES_WALK_ORDER ? es_catalog()->message_pkey : es_catalog()->message_due,
					   snapshot);
	/* those of the mark's rank or time that follow it, then the others */
	for (int rest = 0; rest < 2 && !ended; rest++)
	{
		ScanKeyData keys[4];

		if (mark.major == PG_INT64_MIN && rest == 0)
			continue;
		es_index_scan_start(&scan, keys, set_keys(keys, queue_id, share, which, mark, rest == 1));
		while (!ended && es_index_scan_next(&scan, ForwardScanDirection))
		{
			EsReady    *ready = es_queue_read_row(scan.slot, &found[n]);

			CHECK_FOR_INTERRUPTS();
			if (ready->deliver_at > now)
			{
				/* by time: all that follow are later still; by rank: it is found by time */
				if (which == ES_WALK_TIME)
				{
					next_due = ready->deliver_at;
					ended = true;
				}
				continue;
			}
			if (++n == size)
			{
				upto = (EsMark) {which == ES_WALK_ORDER ? ready->rank : ready->deliver_at, ready->id + 1};
				next_due = ready->deliver_at;
				ended = true;
			}
		}
	}
	es_index_scan_close(&scan);
	UnregisterSnapshot(snapshot);
	result = es_channel_walk_end(state, channel, which, found, n, upto, next_due);
	es_lock_release(ES_LOCK_WALK, lock, ExclusiveLock);
	pfree(found);
	return result;
}

bool
es_queue_find_shares(EsQueueState *state, int32 queue_id)
{
	uint64		wanted;
	int64		share = PG_INT64_MIN;
	Snapshot	snapshot;
	EsIndexScan scan;
	bool		has_room = true;

	if (!es_queue_state_must_look(state, &wanted))
		return true;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	es_index_scan_open(&scan, es_catalog()->message, es_catalog()->message_pkey, snapshot);
	for (bool first = true;; first = false)
	{
		ScanKeyData keys[2];
		bool		isnull;
		text	   *tenant;

		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
		ScanKeyInit(&keys[1], 2, first ? BTGreaterEqualStrategyNumber : BTGreaterStrategyNumber, first ? F_INT8GE : F_INT8GT,
					Int64GetDatum(share));
		es_index_scan_start(&scan, keys, 2);
		if (!es_index_scan_next(&scan, ForwardScanDirection))
			break;
		CHECK_FOR_INTERRUPTS();
		share = get_int64(scan.slot, ES_MESSAGE_SHARE, 0);
		tenant = DatumGetTextPP(slot_getattr(scan.slot, ES_MESSAGE_TENANT, &isnull));
		has_room &= es_queue_state_add_share(state, share, es_queue_tenant_hash(VARDATA_ANY(tenant), VARSIZE_ANY_EXHDR(tenant)));
	}
	es_index_scan_close(&scan);
	UnregisterSnapshot(snapshot);
	if (has_room)
		es_queue_state_found(state, wanted);
	return has_room;
}

bool
es_queue_fetch(int32 queue_id, const EsHold *hold, Snapshot snapshot, TupleTableSlot *slot)
{
	EsTable    *table = es_table_open(ES_TABLE_MESSAGE, es_catalog()->message);
	Relation	rel = es_table_relation(table);
	ItemPointerData tid = hold->tid;
	ScanKeyData keys[4];
	IndexScanDesc scan;
	bool		found;

	/* where it was when it was sent; a table that was rewritten has it elsewhere */
	ExecClearTuple(slot);
	if (ItemPointerIsValid(&tid) && ItemPointerGetBlockNumber(&tid) < RelationGetNumberOfBlocks(rel) &&
		table_tuple_fetch_row_version(rel, &tid, snapshot, slot) &&
		get_int64(slot, ES_MESSAGE_ID, 0) == hold->id)
		return true;
	ExecClearTuple(slot);

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(hold->share));
	ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(hold->rank));
	ScanKeyInit(&keys[3], 4, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(hold->id));
	scan = es_index_beginscan(rel, es_table_index(table, es_catalog()->message_pkey), snapshot, 4);
	index_rescan(scan, keys, 4, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	if (found)
		ExecMaterializeSlot(slot);
	index_endscan(scan);
	return found;
}

bool
es_queue_first_of_key(int32 queue_id, uint64 key_hash, int64 above, Snapshot snapshot, EsReady *ready)
{
	EsIndexScan scan;
	ScanKeyData keys[3];
	bool		found;

	es_index_scan_open(&scan, es_catalog()->message, es_catalog()->message_key, snapshot);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum((int64) key_hash));
	ScanKeyInit(&keys[2], 3, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(above));
	es_index_scan_start(&scan, keys, 3);
	found = es_index_scan_next(&scan, ForwardScanDirection);
	if (found)
		es_queue_read_row(scan.slot, ready);
	es_index_scan_close(&scan);
	return found;
}

static uint64
walk_lock(int32 queue_id, int64 share, EsQueueWalk which)
{
	return ((uint64) share * 2 + which) ^ ((uint64) queue_id << 32);
}

/* rest: of later ranks or times than the mark's; else of the mark's, from its id on */
static int
set_keys(ScanKeyData *keys, int32 queue_id, int64 share, EsQueueWalk which, EsMark from, bool rest)
{
	int			n = 3;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(share));
	if (from.major == PG_INT64_MIN)
		return which == ES_WALK_ORDER ? 2 : (ScanKeyInit(&keys[2], 3, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE,
														 TimestampTzGetDatum(DT_NOBEGIN)), 3);
	if (which == ES_WALK_ORDER)
		ScanKeyInit(&keys[2], 3, rest ? BTGreaterStrategyNumber : BTEqualStrategyNumber, rest ? F_INT4GT : F_INT4EQ,
					Int32GetDatum((int32) from.major));
	else
		ScanKeyInit(&keys[2], 3, rest ? BTGreaterStrategyNumber : BTEqualStrategyNumber, rest ? F_TIMESTAMPTZ_GT : F_TIMESTAMPTZ_EQ,
					TimestampTzGetDatum(from.major));
	if (!rest)
		ScanKeyInit(&keys[n++], 4, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from.id));
	return n;
}

EsReady *
es_queue_read_row(TupleTableSlot *slot, EsReady *ready)
{
	bool		isnull;
	text	   *tenant;

	memset(ready, 0, sizeof(EsReady));
	ready->id = get_int64(slot, ES_MESSAGE_ID, 0);
	ready->share = get_int64(slot, ES_MESSAGE_SHARE, 0);
	tenant = DatumGetTextPP(slot_getattr(slot, ES_MESSAGE_TENANT, &isnull));
	ready->tenant_hash = es_queue_tenant_hash(VARDATA_ANY(tenant), VARSIZE_ANY_EXHDR(tenant));
	ready->key_hash = (uint64) get_int64(slot, ES_MESSAGE_KEY_HASH, 0);
	ready->deliver_at = get_int64(slot, ES_MESSAGE_DELIVER_AT, 0);
	ready->rank = DatumGetInt32(slot_getattr(slot, ES_MESSAGE_RANK, &isnull));
	ready->tid = slot->tts_tid;
	return ready;
}

static int64
get_int64(TupleTableSlot *slot, int column, int64 missing)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column, &isnull);

	return isnull ? missing : DatumGetInt64(value);
}
