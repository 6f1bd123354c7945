/*
 * lane_layout.c
 *		Which lanes a subscription has, and which of them a key belongs to.
 *
 * Runs in consumers' backends and in workers.  docs/architecture-subscriptions.md, section 7, has the argument.  Rows of
 * evtstore_internal.lane_generation, read with the definition and kept with it; they are written by lane_change.c under the
 * subscription's lock, exclusive, or removed when they say nothing any more.  A crash leaves what was committed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/memutils.h"

#include "compat.h"
#include "lane_layout.h"
#include "spi.h"

static EsPlan read_plan = {
	.sql = "SELECT first_lane, lanes, ends FROM evtstore_internal.lane_generation WHERE subscription_id = $1 ORDER BY first_lane",
	.nargs = 1,
	.args = {INT4OID},
};

static void read_generation(EsLaneGeneration *generation, uint64 row);
static int64 end_of(const EsLaneGeneration *generation, int lane);
static bool is_begun(const EsLaneGeneration *before, int lane, const bool *is_over);

EsLaneLayout *
es_lane_layout_read(int32 subscription, int lanes)
{
	MemoryContext caller = CurrentMemoryContext;
	EsLaneLayout *layout = palloc0(sizeof(EsLaneLayout));
	EsSpiState	state;
	Datum		values[1] = {Int32GetDatum(subscription)};
	uint64		n;

	es_spi_begin(&state);
	n = es_spi_run_latest(&read_plan, values, NULL);
	layout->n = Max(n, 1);
	layout->generations = MemoryContextAllocZero(caller, layout->n * sizeof(EsLaneGeneration));
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		read_generation(&layout->generations[i], i);
		MemoryContextSwitchTo(spi);
	}
	es_spi_end(&state);
	if (n == 0)
		layout->generations[0].lanes = lanes;
	return layout;
}

const EsLaneGeneration *
es_lane_layout_newest(const EsLaneLayout *layout)
{
	return &layout->generations[layout->n - 1];
}

int
es_lane_layout_lane(const EsLaneLayout *layout, uint32 hash, int64 position)
{
	const EsLaneGeneration *generation = layout->generations;

	while (generation->ngroups > 0 && position > end_of(generation, hash % generation->lanes))
		generation++;
	return generation->first + hash % generation->lanes;
}

int
es_lane_layout_lanes_of(const EsLaneLayout *layout, uint32 hash, int *numbers)
{
	for (int i = 0; i < layout->n; i++)
		numbers[i] = layout->generations[i].first + hash % layout->generations[i].lanes;
	return layout->n;
}

int
es_lane_layout_serving(const EsLaneLayout *layout, uint32 hash, const bool *is_over)
{
	int			numbers[ES_LANE_SLOTS];
	int			n = es_lane_layout_lanes_of(layout, hash, numbers);

	for (int i = 0; i < n - 1; i++)
		if (!is_over[es_lane_place(numbers[i])])
			return numbers[i];
	return numbers[n - 1];
}

int64
es_lane_layout_end(const EsLaneLayout *layout, int number)
{
	for (int i = 0; i < layout->n; i++)
	{
		const EsLaneGeneration *generation = &layout->generations[i];

		if (number >= generation->first && number < generation->first + generation->lanes)
			return end_of(generation, number - generation->first);
	}
	return ES_LANE_NO_END;
}

void
es_lane_layout_see_over(const EsLaneLayout *layout, EsLanes *lanes, bool *is_over)
{
	for (int i = 0; i < layout->n - 1; i++)
	{
		const EsLaneGeneration *generation = &layout->generations[i];

		for (int lane = 0; lane < generation->lanes; lane++)
		{
			int			number = generation->first + lane;
			EsLane		copy;

			if (is_over[es_lane_place(number)])
				continue;
			copy = es_lane_copy(lanes, number);
			is_over[es_lane_place(number)] = copy.is_over && copy.over_at == end_of(generation, lane);
		}
	}
}

void
es_lane_layout_open(const EsLaneLayout *layout, const bool *is_over, EsOpenLanes *open)
{
	open->n = 0;
	for (int i = 0; i < layout->n; i++)
	{
		const EsLaneGeneration *generation = &layout->generations[i];

		for (int lane = 0; lane < generation->lanes; lane++)
		{
			if (is_over[es_lane_place(generation->first + lane)] || (i > 0 && !is_begun(generation - 1, lane, is_over)))
				continue;
			open->is_closing[open->n] = generation->ngroups > 0;
			open->numbers[open->n++] = generation->first + lane;
		}
	}
}

/* in the current context; the row of the last result */
static void
read_generation(EsLaneGeneration *generation, uint64 row)
{
	bool		isnull;
	Datum		ends = es_spi_value(row, 2, &isnull);

	generation->first = es_spi_int32(row, 0);
	generation->lanes = es_spi_int32(row, 1);
	if (!isnull)
	{
		ArrayType  *array = DatumGetArrayTypePCopy(ends);

		generation->ngroups = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
		generation->ends = (int64 *) ARR_DATA_PTR(array);
	}
}

static int64
end_of(const EsLaneGeneration *generation, int lane)
{
	return generation->ngroups == 0 ? ES_LANE_NO_END : generation->ends[lane % generation->ngroups];
}

/* are those over that a lane of the next generation has its keys from? */
static bool
is_begun(const EsLaneGeneration *before, int lane, const bool *is_over)
{
	for (int i = lane % before->ngroups; i < before->lanes; i += before->ngroups)
		if (!is_over[es_lane_place(before->first + i)])
			return false;
	return true;
}
