/*
 * scavenge.c
 *		Removing the events that deletion, truncation and policies took from the readers of streams.
 *
 * Runs in the scheduler, a step at a time in transactions of its own (janitor.c), and in backends that call
 * evtstore.scavenge().  A round goes over the rows of stream_state since the last one, each of which allows by itself
 * the removal of what lies below it, because truncate_before never falls; then over the policies, and for a policy of a
 * category over its streams by name.  A step does a bounded part of it.
 *
 * No stream is locked, and no appender waits.  Appends write above all that is removed, and take versions from the state
 * where events are gone; a policy leaves the last event of its stream.  So a stream that is never at rest is scavenged
 * too.  No position is allocated and no floor published: readers of the feed find a hole, and those whose snapshot is
 * older still find the event.  One lock keeps scavengers apart, which could otherwise wait for each other's rows.
 *
 * Where a round is, is kept in memory.  A crash, or a rollback, leaves events that the next round removes.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "event.h"
#include "guc.h"
#include "index_scan.h"
#include "lock.h"
#include "scavenge.h"
#include "spi.h"
#include "stream_name.h"
#include "stream_policy.h"
#include "tag.h"

PG_FUNCTION_INFO_V1(evtstore_scavenge);

/* events that evtstore.scavenge() removes by one command */
#define BATCH 1000
/* streams that a step looks at: a few milliseconds where nothing is to be removed */
#define MAX_LOOKS 300

/* what one step found to remove */
typedef struct Batch
{
	int64	   *positions;
	int			n;
	int			limit;
	int			looks;			/* left */
} Batch;

static void remove_postings(uint64 row);
static void remove_snapshots(int64 stream_id, int64 before_version);
static void walk_states(EsScavengeRound *round, Batch *batch);
static void walk_policies(EsScavengeRound *round, Batch *batch);
static bool next_policy(EsScavengeRound *round);
static bool walk_policy(EsScavengeRound *round, Batch *batch);
static bool take_by_policy(const EsStream *stream, Batch *batch);
static bool take_below(int64 stream_id, int64 version, Batch *batch);
static void begin_spi(EsSpiState *state);

static EsPlan states_plan = {
	.sql = "SELECT position, stream_id, truncate_before, status <> 'live' FROM evtstore_internal.stream_state"
	" WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3",
	.nargs = 3,
	.args = {INT8OID, INT8OID, INT8OID},
};

static EsPlan policy_plan = {
	.sql = "SELECT tenant, kind, name FROM evtstore_internal.policy WHERE (tenant, kind, name) > ($1, $2, $3)"
	" AND $4 IN ('', tenant) ORDER BY tenant, kind, name LIMIT 1",
	.nargs = 4,
	.args = {TEXTOID, TEXTOID, TEXTOID, TEXTOID},
};

/* what states of a deleted stream hold of its events goes with them; those of a truncated one stand for them */
static EsPlan snapshots_plan = {
	.sql = "DELETE FROM evtstore_internal.snapshot WHERE stream_id = $1 AND version < $2",
	.nargs = 2,
	.args = {INT8OID, INT8OID},
};

/* streams of a category: their names begin with it and a '-', and '.' comes next after '-' */
static EsPlan streams_plan = {
	.sql = "SELECT id, name FROM evtstore_internal.stream"
	" WHERE tenant = $1 AND category = $2 AND name > $3 AND name < $2 || '.' ORDER BY name LIMIT $4",
	.nargs = 4,
	.args = {TEXTOID, TEXTOID, TEXTOID, INT8OID},
};

static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.event WHERE position = ANY ($1) RETURNING position, tenant, type, tags",
	.nargs = 1,
	.args = {INT8ARRAYOID},
};

/* evtstore.scavenge(max_count) */
Datum
evtstore_scavenge(PG_FUNCTION_ARGS)
{
	int64		left = PG_ARGISNULL(0) ? PG_INT64_MAX : PG_GETARG_INT32(0);
	MemoryContext context;
	MemoryContext caller;
	EsScavengeRound round;
	int64		removed = 0;

	if (left < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count must not be negative: " INT64_FORMAT, left),
				 errhint("NULL: no limit.")));
	es_catalog_require_writable("scavenge");
	(void) es_scavenge_lock(true);
	context = AllocSetContextCreate(CurrentMemoryContext, "evtstore scavenge", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	/* every row that is visible: this round has no successor that goes on behind it */
	es_scavenge_begin(&round, es_guc_tenant, 0, PG_INT64_MAX);
	while (round.phase != ES_SCAVENGE_DONE && removed < left)
	{
		CHECK_FOR_INTERRUPTS();
		removed += es_scavenge_step(&round, Min(BATCH, left - removed));
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	PG_RETURN_INT64(removed);
}

void
es_scavenge_begin(EsScavengeRound *round, const char *tenant, int64 state_position, int64 state_limit)
{
	memset(round, 0, sizeof(*round));
	round->tenant = tenant;
	round->state_position = state_position;
	round->state_limit = state_limit;
}

/* the table first, as everybody who locks it does; a projection that is created holds it for as long as that takes */
bool
es_scavenge_lock(bool wait)
{
	if (wait)
	{
		LockRelationOid(es_catalog()->event, RowExclusiveLock);
		es_lock(ES_LOCK_SCAVENGE, 0);
		return true;
	}
	return ConditionalLockRelationOid(es_catalog()->event, RowExclusiveLock) && es_lock_try(ES_LOCK_SCAVENGE, 0);
}

int64
es_scavenge_step(EsScavengeRound *round, int limit)
{
	Batch		batch = {.limit = limit, .looks = MAX_LOOKS};
	int64		removed;

	batch.positions = palloc(limit * sizeof(int64));
	PushActiveSnapshot(GetTransactionSnapshot());
	if (round->phase == ES_SCAVENGE_STATES)
		walk_states(round, &batch);
	if (round->phase == ES_SCAVENGE_POLICIES)
		walk_policies(round, &batch);
	PopActiveSnapshot();
	removed = es_scavenge_remove(batch.positions, batch.n);
	pfree(batch.positions);
	return removed;
}

int64
es_scavenge_remove(const int64 *positions, int n)
{
	Datum	   *elements;
	Datum		values[1];
	EsSpiState	state;
	int64		removed;

	if (n == 0)
		return 0;
	elements = palloc(n * sizeof(Datum));
	for (int i = 0; i < n; i++)
		elements[i] = Int64GetDatum(positions[i]);
	values[0] = PointerGetDatum(construct_array(elements, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	begin_spi(&state);
	removed = es_spi_run(&delete_plan, values, NULL, false, 0);
	for (int64 i = 0; i < removed; i++)
		remove_postings(i);
	es_spi_end(&state);
	/* else the same ones would be found again, for ever */
	if (removed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("a BEFORE DELETE trigger on table \"event\" suppressed the removal of events"),
				 errdetail("The first of them has position " INT64_FORMAT ".", positions[0]),
				 errhint("Let the trigger return OLD, or raise an error.")));
	return removed;
}

/* of an event that was just removed, by its row in the result */
static void
remove_postings(uint64 row)
{
	EsEvent		event = {.position = es_spi_int64(row, 0)};
	bool		isnull;

	event.tenant = es_spi_value(row, 1, &isnull);
	event.type = es_spi_value(row, 2, &isnull);
	event.tags = es_spi_value(row, 3, &isnull);
	es_tag_remove(TextDatumGetCString(event.tenant), &event);
}

static void
remove_snapshots(int64 stream_id, int64 before_version)
{
	Datum		values[2] = {Int64GetDatum(stream_id), Int64GetDatum(before_version)};
	EsSpiState	state;

	es_spi_begin(&state);
	es_spi_run(&snapshots_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

/* a row of which not all was found stays the next one */
static void
walk_states(EsScavengeRound *round, Batch *batch)
{
	EsSpiState	state;
	uint64		rows;
	uint64		done = 0;

	begin_spi(&state);
	rows = es_spi_run(&states_plan, (Datum[])
					  {
						  Int64GetDatum(round->state_position), Int64GetDatum(round->state_limit),
						  Int64GetDatum(batch->looks)
					  }, NULL, true, 0);
	for (; done < rows; done++)
	{
		int64		stream_id = es_spi_int64(done, 1);
		int64		truncate_before = es_spi_int64(done, 2);
		bool		isnull;
		bool		deleted = DatumGetBool(es_spi_value(done, 3, &isnull));

		if (round->tenant[0] != '\0')
		{
			const EsStreamName *stream = es_stream_name(stream_id);

			if (stream == NULL || !es_stream_name_has_tenant(stream, round->tenant))
				continue;
		}
		if (deleted)
			remove_snapshots(stream_id, truncate_before);
		if (!take_below(stream_id, truncate_before, batch))
			break;
	}
	if (done > 0)
		round->state_position = es_spi_int64(done - 1, 0);
	es_spi_end(&state);
	if (done == rows && rows < batch->looks)
		round->phase = ES_SCAVENGE_POLICIES;
	batch->looks -= done;
}

static void
walk_policies(EsScavengeRound *round, Batch *batch)
{
	while (batch->looks > 0)
	{
		if (!round->policy_open && !next_policy(round))
		{
			round->phase = ES_SCAVENGE_DONE;
			return;
		}
		if (!walk_policy(round, batch))
			return;
		round->policy_open = false;
	}
}

/* in the order of the primary key; false where there is none left */
static bool
next_policy(EsScavengeRound *round)
{
	EsSpiState	state;
	bool		found;

	begin_spi(&state);
	found = es_spi_run(&policy_plan, (Datum[])
					   {
						   CStringGetTextDatum(round->policy_tenant), CStringGetTextDatum(round->policy_kind),
						   CStringGetTextDatum(round->policy_name), CStringGetTextDatum(round->tenant)
					   }, NULL, true, 1) > 0;
	if (found)
	{
		strlcpy(round->policy_tenant, es_spi_text(0, 0), sizeof(round->policy_tenant));
		strlcpy(round->policy_kind, es_spi_text(0, 1), sizeof(round->policy_kind));
		strlcpy(round->policy_name, es_spi_text(0, 2), sizeof(round->policy_name));
		round->stream_name[0] = '\0';
		round->policy_open = true;
	}
	es_spi_end(&state);
	return found;
}

/* false where it is not finished: the next step goes on at the stream that was not */
static bool
walk_policy(EsScavengeRound *round, Batch *batch)
{
	EsSpiState	state;
	uint64		rows;
	uint64		done = 0;
	bool		all;

	if (round->stream_name[0] == '\0')
	{
		EsStream   *stream = es_stream_find(round->policy_tenant, round->policy_name);

		/* of a category, this is the stream that is named like it */
		batch->looks--;
		if (!take_by_policy(stream, batch))
			return false;
		if (strcmp(round->policy_kind, "stream") == 0)
			return true;
		/* ',' comes just before '-': the names that follow begin with the category and a '-' */
		snprintf(round->stream_name, sizeof(round->stream_name), "%s,", round->policy_name);
	}

	begin_spi(&state);
	rows = es_spi_run(&streams_plan, (Datum[])
					  {
						  CStringGetTextDatum(round->policy_tenant), CStringGetTextDatum(round->policy_name),
						  CStringGetTextDatum(round->stream_name), Int64GetDatum(batch->looks)
					  }, NULL, true, 0);
	for (; done < rows; done++)
	{
		EsStream	stream = {.id = es_spi_int64(done, 0), .name = es_spi_text(done, 1), .tenant = round->policy_tenant};

		if (!take_by_policy(&stream, batch))
			break;
		strlcpy(round->stream_name, stream.name, sizeof(round->stream_name));
	}
	es_spi_end(&state);
	all = done == rows && rows < batch->looks;
	batch->looks -= done;
	return all;
}

/* as take_below */
static bool
take_by_policy(const EsStream *stream, Batch *batch)
{
	return stream->id == 0 || take_below(stream->id, es_stream_policy_cut(stream, GetActiveSnapshot()), batch);
}

/* the stream's events of lower versions, oldest first; false where the batch is full before that */
static bool
take_below(int64 stream_id, int64 version, Batch *batch)
{
	EsIndexScan scan;
	ScanKeyData keys[2];
	bool		all = true;
	bool		isnull;

	if (version <= 1)
		return true;
	es_index_scan_open(&scan, es_catalog()->event, es_catalog()->event_stream_version, GetActiveSnapshot());
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_id));
	ScanKeyInit(&keys[1], 2, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(version));
	es_index_scan_start(&scan, keys, 2);
	while (es_index_scan_next(&scan, ForwardScanDirection))
	{
		if (batch->n == batch->limit)
		{
			all = false;
			break;
		}
		batch->positions[batch->n++] = DatumGetInt64(slot_getattr(scan.slot, ES_EVENT_POSITION + 1, &isnull));
	}
	es_index_scan_close(&scan);
	return all;
}

/* plans are kept: one that was made while a table was small must not read all of it when it has grown */
static void
begin_spi(EsSpiState *state)
{
	static const char *const off[] = {"enable_seqscan", "enable_bitmapscan"};

	es_spi_begin(state);
	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}
