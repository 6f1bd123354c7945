/*
 * lane_change.c
 *		Another number of lanes for a subscription: where the old ones end and the new ones begin.
 *
 * Runs in backends, and in the scheduler for what the janitor does.  docs/architecture-subscriptions.md, section 7, has the
 * steps (A2 to A4, named below).  Who changes holds the subscription's lock, exclusive: nobody polls or settles.  Rows are
 * the caller's: a rollback or a crash leaves the lanes as they were.  Shared memory is only read.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "checkpoint.h"
#include "compat.h"
#include "lane_change.h"
#include "queue.h"
#include "spi.h"

/* $1 the subscription in every plan */

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.lane_generation (subscription_id, first_lane, lanes) VALUES ($1, $2, $3)",
	.nargs = 3,
	.args = {INT4OID, INT4OID, INT4OID},
};

static EsPlan end_plan = {
	.sql = "UPDATE evtstore_internal.lane_generation SET ends = $3 WHERE subscription_id = $1 AND first_lane = $2",
	.nargs = 3,
	.args = {INT4OID, INT4OID, INT8ARRAYOID},
};

/* lanes from $2 to before $3 */

static EsPlan delete_generations_plan = {
	.sql = "DELETE FROM evtstore_internal.lane_generation WHERE subscription_id = $1 AND first_lane >= $2 AND first_lane < $3",
	.nargs = 3,
	.args = {INT4OID, INT4OID, INT4OID},
};

static EsPlan delete_checkpoints_plan = {
	.sql = "DELETE FROM evtstore_internal.checkpoint WHERE subscription_id = $1 AND lane >= $2 AND lane < $3",
	.nargs = 3,
	.args = {INT4OID, INT4OID, INT4OID},
};

static int	count_over(const EsLaneLayout *layout, EsLanes *lanes);
static int	living(const EsLaneLayout *layout, EsLanes *lanes, EsCheckpoints *checkpoints);
static bool is_untouched(const EsLaneGeneration *generation, EsLanes *lanes, EsCheckpoints *checkpoints);
static int64 *ends_of(const EsLaneGeneration *generation, int ngroups, EsLanes *lanes, EsCheckpoints *checkpoints);
static void insert_generation(int32 subscription, int first, int lanes);
static void write_ends(int32 subscription, const EsLaneGeneration *generation, const int64 *ends, int ngroups);
static int64 remove_lanes(int32 subscription, int first, int end);
static int	greatest_divisor(int a, int b);

void
es_lane_change_begin(int32 subscription, int lanes)
{
	insert_generation(subscription, 0, lanes);
}

void
es_lane_change(int32 subscription, const EsLaneLayout *layout, int lanes)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EsCheckpoints *checkpoints = es_checkpoints_open(subscription, snapshot);
	EsLanes    *entry = es_lanes_find(subscription);
	int			n = living(layout, entry, checkpoints);
	const EsLaneGeneration *newest = &layout->generations[n - 1];
	const EsLaneGeneration *oldest = &layout->generations[Min(count_over(layout, entry), n - 1)];
	int			ngroups = greatest_divisor(newest->lanes, lanes);
	int			first = newest->first + newest->lanes;
	int64	   *ends = ends_of(newest, ngroups, entry, checkpoints);

	es_checkpoints_close(checkpoints);
	UnregisterSnapshot(snapshot);
	if (n < layout->n)
		(void) remove_lanes(subscription, first, PG_INT32_MAX);
	if (oldest->first > layout->generations[0].first)
		(void) remove_lanes(subscription, 0, oldest->first);
	/* back to what it was before a change that nobody has met yet */
	if (newest->lanes == lanes)
	{
		write_ends(subscription, newest, NULL, 0);
		return;
	}
	if (first + lanes - oldest->first > ES_LANE_SLOTS)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("%d lanes of former changes are not emptied yet, and %d more would be too many", first - oldest->first, lanes),
				 errdetail("A subscription has at most %d, with those that are being emptied.", ES_LANE_SLOTS),
				 errhint("Let its consumers poll, and try again later.")));
	write_ends(subscription, newest, ends, ngroups);
	insert_generation(subscription, first, lanes);
	for (int i = 0; i < lanes; i++)
	{
		EsCheckpoint begin = {.position = ends[i % ngroups]};

		es_checkpoint_write(subscription, first + i, &begin);
	}
}

void
es_lane_change_forget_past(int32 subscription, const EsLaneLayout *layout)
{
	if (layout->n > 1)
		(void) remove_lanes(subscription, 0, es_lane_layout_newest(layout)->first);
}

void
es_lane_change_end(int32 subscription)
{
	(void) remove_lanes(subscription, ES_CHECKPOINT_BEGIN, PG_INT32_MAX);
}

int64
es_lane_change_retire(int32 subscription, const EsLaneLayout *layout)
{
	int			n = count_over(layout, es_lanes_find(subscription));

	return n == 0 ? 0 : remove_lanes(subscription, 0, layout->generations[n].first);
}

/* how many generations are over, from the oldest on */
static int
count_over(const EsLaneLayout *layout, EsLanes *lanes)
{
	EsLaneFlags is_over = {0};
	int			n = 0;

	if (layout->n == 1 || lanes == NULL)
		return 0;
	es_lane_layout_see_over(layout, lanes, is_over);
	for (; n < layout->n - 1; n++)
	{
		const EsLaneGeneration *generation = &layout->generations[n];

		for (int i = 0; i < generation->lanes; i++)
			if (!is_over[es_lane_place(generation->first + i)])
				return n;
	}
	return n;
}

/* A2: how many generations count */
static int
living(const EsLaneLayout *layout, EsLanes *lanes, EsCheckpoints *checkpoints)
{
	int			n = layout->n;

	while (n > 1 && is_untouched(&layout->generations[n - 1], lanes, checkpoints))
		n--;
	return n;
}

/* nobody holds or held anything in it: its numbers may mean something else from now on */
static bool
is_untouched(const EsLaneGeneration *generation, EsLanes *lanes, EsCheckpoints *checkpoints)
{
	for (int number = generation->first; number < generation->first + generation->lanes; number++)
	{
		if (es_checkpoints_read(checkpoints, number)->seq > 1)
			return false;
		if (lanes != NULL && es_lane_is_known(lanes, number))
			return false;
	}
	return true;
}

/* A3 */
static int64 *
ends_of(const EsLaneGeneration *generation, int ngroups, EsLanes *lanes, EsCheckpoints *checkpoints)
{
	int64	   *ends = palloc0(ngroups * sizeof(int64));

	for (int i = 0; i < generation->lanes; i++)
	{
		EsCheckpoint *checkpoint = es_checkpoints_read(checkpoints, generation->first + i);
		int64	   *end = &ends[i % ngroups];

		*end = Max(*end, checkpoint->position);
		if (checkpoint->nranges > 0)
			*end = Max(*end, checkpoint->ranges[2 * checkpoint->nranges - 1]);
		if (lanes != NULL)
			*end = Max(*end, es_lane_copy(lanes, generation->first + i).delivered);
	}
	return ends;
}

static void
insert_generation(int32 subscription, int first, int lanes)
{
	EsSpiState	state;
	Datum		values[3] = {Int32GetDatum(subscription), Int32GetDatum(first), Int32GetDatum(lanes)};

	es_queue_spi_begin(&state);
	es_spi_run(&insert_plan, values, NULL, false, 0);
	es_spi_end(&state);
	es_catalog_definitions_changed();
}

/* ends NULL: it has none */
static void
write_ends(int32 subscription, const EsLaneGeneration *generation, const int64 *ends, int ngroups)
{
	Datum	   *numbers = palloc(Max(ngroups, 1) * sizeof(Datum));
	EsSpiState	state;
	Datum		values[3];

	for (int i = 0; i < ngroups; i++)
		numbers[i] = Int64GetDatum(ends[i]);
	values[0] = Int32GetDatum(subscription);
	values[1] = Int32GetDatum(generation->first);
	values[2] = PointerGetDatum(construct_array(numbers, ngroups, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	es_queue_spi_begin(&state);
	es_spi_run(&end_plan, values, ends == NULL ? "  n" : NULL, false, 0);
	es_spi_end(&state);
	es_catalog_definitions_changed();
}

/* from first to before end */
static int64
remove_lanes(int32 subscription, int first, int end)
{
	EsSpiState	state;
	Datum		values[3] = {Int32GetDatum(subscription), Int32GetDatum(first), Int32GetDatum(end)};
	int64		n;

	es_queue_spi_begin(&state);
	n = (int64) es_spi_run(&delete_generations_plan, values, NULL, false, 0);
	n += (int64) es_spi_run(&delete_checkpoints_plan, values, NULL, false, 0);
	es_spi_end(&state);
	es_catalog_definitions_changed();
	return n;
}

static int
greatest_divisor(int a, int b)
{
	return b == 0 ? a : greatest_divisor(b, a % b);
}
