/*
 * subscription_place.c
 *		Where a subscription is: it begins, ends, is set elsewhere, or takes the place of another.
 *
 * Runs in backends, and in rebuild workers, whose rebuild ends as the projection that it was for.  The place is rows of checkpoint and
 * lane_generation, and of what failed; who holds lanes is in shared memory and goes with the commit.
 *
 * Locks: the subscription's, exclusive, but for one that begins, of which nobody knows; so nobody polls or settles.  Everything is
 * transactional.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/snapmgr.h"

#include "arg.h"
#include "catalog.h"
#include "checkpoint.h"
#include "compat.h"
#include "dead_key.h"
#include "evtstore.h"
#include "feed.h"
#include "lane.h"
#include "lane_change.h"
#include "ledger.h"
#include "spi.h"
#include "subscription.h"
#include "waiter.h"

static EsPlan delete_failed_plan = {
	.sql = "DELETE FROM evtstore_internal.failed_event WHERE subscription_id = $1 AND position >= $2",
	.nargs = 2,
	.args = {INT4OID, INT8OID},
};

static EsPlan delete_dead_letters_plan = {
	.sql = "DELETE FROM evtstore_internal.dead_letter WHERE source_id = $1 AND kind = 'subscription'",
	.nargs = 1,
	.args = {INT4OID},
};

/* all that has the id of a subscription */
#define MOVE(table, column) \
	{ \
		.sql = "UPDATE evtstore_internal." table " SET " column " = $1 WHERE " column " = $2", \
		.nargs = 2, \
		.args = {INT4OID, INT4OID}, \
	}
static EsPlan move_plans[] = {
	MOVE("checkpoint", "subscription_id"),
	MOVE("lane_generation", "subscription_id"),
	MOVE("failed_event", "subscription_id"),
	MOVE("dead_key", "subscription_id"),
	{
		.sql = "UPDATE evtstore_internal.dead_letter SET source_id = $1 WHERE source_id = $2 AND kind = 'subscription'",
		.nargs = 2,
		.args = {INT4OID, INT4OID},
	},
};

static void set_elsewhere(const EsSubscription *subscription, int64 position);

PG_FUNCTION_INFO_V1(evtstore_seek);

/* seek(subscription text, to_position bigint, to_time timestamptz) -> void; evtstore_admin */
Datum
evtstore_seek(PG_FUNCTION_ARGS)
{
	char	   *name;
	const EsSubscription *subscription;
	int32		id;
	int64		position;

	es_catalog_require_writable("seek");
	name = es_arg_name(fcinfo, 0, "subscription", ES_MAX_NAME_BYTES);
	es_subscription_refuse_snapshot("a subscription cannot be set elsewhere");
	if (PG_ARGISNULL(1) == PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(PG_ARGISNULL(1) ? ERRCODE_NULL_VALUE_NOT_ALLOWED : ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("seek takes to_position or to_time, one of the two"),
				 errhint("to_position => 0 is the beginning.")));
	id = es_subscription_get_own(name)->definition.id;
	if (PG_ARGISNULL(1))
		position = es_ledger_position_at(es_ledger_moment(fcinfo, 2, "to_time"));
	else
	{
		position = PG_GETARG_INT64(1);
		if (position < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("to_position must not be negative: " INT64_FORMAT, position),
					 errhint("0 is the beginning.")));
		if (position > es_feed_head(ES_FEED_ALL_CATEGORIES) + 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("to_position " INT64_FORMAT " is above the head", position),
					 errhint("evtstore.head_position() + 1 is the end: what is appended from now on.")));
		/* that position is the first one to come */
		position = Max(position - 1, 0);
	}
	subscription = es_subscription_lock(id, AccessExclusiveLock);
	if (subscription != NULL)
		set_elsewhere(subscription, position);
	PG_RETURN_VOID();
}

void
es_subscription_begin(int32 id, int64 position, int lanes)
{
	EsCheckpoint begin = {.position = position};

	es_checkpoint_write(id, ES_CHECKPOINT_BEGIN, &begin);
	es_lane_change_begin(id, lanes);
}

void
es_subscription_end(int32 id)
{
	EsSpiState	state;
	Datum		values[2] = {Int32GetDatum(id), Int64GetDatum(0)};

	(void) es_subscription_lock(id, AccessExclusiveLock);
	es_spi_begin(&state);
	es_spi_run(&delete_failed_plan, values, NULL, false, 0);
	es_spi_run(&delete_dead_letters_plan, values, NULL, false, 0);
	es_spi_end(&state);
	es_dead_key_forget(id);
	es_lane_change_end(id);
	es_lanes_forget(id);
	es_waiter_wake_at_commit(-id, INT_MAX);
}

void
es_subscription_take_place(int32 id, int32 from)
{
	EsSpiState	state;
	Datum		values[2] = {Int32GetDatum(id), Int32GetDatum(from)};

	es_subscription_end(id);
	es_spi_begin(&state);
	for (int i = 0; i < lengthof(move_plans); i++)
		es_spi_run(&move_plans[i], values, NULL, false, 0);
	es_spi_end(&state);
	es_lanes_forget(from);
	es_waiter_wake_at_commit(id, INT_MAX);
}

/*
 * Each lane gets a row of its own: which lanes have one already is not asked.  What failed at or above comes again by
 * itself; what failed below stays.  Locks: the subscription's, exclusive, so nobody polls or settles.
 */
static void
set_elsewhere(const EsSubscription *subscription, int64 position)
{
	int32		id = subscription->definition.id;
	int			n = es_lane_layout_newest(subscription->layout)->lanes;
	int			first = es_lane_layout_newest(subscription->layout)->first;
	EsCheckpoint **lanes = palloc(n * sizeof(EsCheckpoint *));
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EsCheckpoints *checkpoints = es_checkpoints_open(id, snapshot);
	EsSpiState	state;
	Datum		values[2];

	for (int i = 0; i < n; i++)
		lanes[i] = es_checkpoints_read(checkpoints, first + i);
	es_checkpoints_close(checkpoints);
	UnregisterSnapshot(snapshot);
	es_lane_change_forget_past(id, subscription->layout);
	for (int i = 0; i < n; i++)
	{
		lanes[i]->position = position;
		lanes[i]->nranges = 0;
		es_checkpoint_write(id, first + i, lanes[i]);
	}
	values[0] = Int32GetDatum(id);
	values[1] = Int64GetDatum(position + 1);
	es_spi_begin(&state);
	es_spi_run(&delete_failed_plan, values, NULL, false, 0);
	es_spi_end(&state);
	es_dead_key_forget(id);
	es_lanes_forget(id);
	es_waiter_wake_at_commit(id, INT_MAX);
}
