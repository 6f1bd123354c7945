/*
 * subscription_status.c
 *		What the views of subscriptions show of shared memory.  Runs in backends; keeps nothing.
 */
#include "postgres.h"

#include "funcapi.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "clock.h"
#include "compat.h"
#include "lane.h"
#include "subscription.h"

typedef void (*Show) (ReturnSetInfo *rsi, int32 id, EsLanes *lanes, TimestampTz now);

static void show_each(FunctionCallInfo fcinfo, Show show);
static void show_lanes(ReturnSetInfo *rsi, int32 id, EsLanes *lanes, TimestampTz now);
static void show_consumers(ReturnSetInfo *rsi, int32 id, EsLanes *lanes, TimestampTz now);

PG_FUNCTION_INFO_V1(evtstore_lane_status);
PG_FUNCTION_INFO_V1(evtstore_consumer_status);

/* evtstore_internal.lane_status() */
Datum
evtstore_lane_status(PG_FUNCTION_ARGS)
{
	show_each(fcinfo, show_lanes);
	PG_RETURN_NULL();
}

/* evtstore_internal.consumer_status() */
Datum
evtstore_consumer_status(PG_FUNCTION_ARGS)
{
	show_each(fcinfo, show_consumers);
	PG_RETURN_NULL();
}

/* of the subscriptions that are in use */
static void
show_each(FunctionCallInfo fcinfo, Show show)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = es_clock_now();
	int			n;
	const EsSubscription *all = es_subscription_all(&n);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
	{
		EsLanes    *lanes = es_lanes_find(all[i].definition.id);

		if (lanes != NULL)
			show(rsi, all[i].definition.id, lanes, now);
	}
}

static void
show_lanes(ReturnSetInfo *rsi, int32 id, EsLanes *lanes, TimestampTz now)
{
	int			nconsumers;
	EsConsumer *consumers = es_lanes_consumers(lanes, &nconsumers);
	int			numbers[ES_LANE_SLOTS];
	int			n = es_lanes_numbers(lanes, numbers);

	for (int i = 0; i < n; i++)
	{
		EsLane		lane = es_lane_copy(lanes, numbers[i]);
		bool		is_held = lane.epoch != 0 && lane.lease_until > now;
		Datum		values[7];
		bool		nulls[7] = {0};

		nulls[2] = lane.epoch == 0 || lane.consumer == ES_LANE_ANONYMOUS || consumers[lane.consumer].name[0] == '\0';
		nulls[3] = nulls[4] = lane.epoch == 0;
		values[0] = Int32GetDatum(id);
		values[1] = Int32GetDatum(lane.number);
		values[2] = nulls[2] ? (Datum) 0 : CStringGetTextDatum(consumers[lane.consumer].name);
		values[3] = TimestampTzGetDatum(lane.lease_until);
		values[4] = Int64GetDatum(lane.fetched);
		values[5] = Int32GetDatum(is_held ? lane.in_flight : 0);
		values[6] = BoolGetDatum(is_held);
		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	}
}

static void
show_consumers(ReturnSetInfo *rsi, int32 id, EsLanes *lanes, TimestampTz now)
{
	int			n;
	EsConsumer *consumers = es_lanes_consumers(lanes, &n);

	for (int i = 0; i < n; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {0};

		if (consumers[i].name[0] == '\0' || consumers[i].until <= now)
			continue;
		values[0] = Int32GetDatum(id);
		values[1] = CStringGetTextDatum(consumers[i].name);
		values[2] = TimestampTzGetDatum(consumers[i].last_seen);
		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	}
}
