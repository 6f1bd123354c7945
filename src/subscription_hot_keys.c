/*
 * subscription_hot_keys.c
 *		What is to come in a subscription: how many events, and the keys that most of them belong to.
 *
 * Runs in backends; keeps nothing and locks nothing.  It looks at events as a poll does, from the lowest checkpoint on, and at those that
 * stand aside, and counts by key.  What others settle meanwhile may still be counted.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "arg.h"
#include "checkpoint.h"
#include "clock.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "lane.h"
#include "lane_layout.h"
#include "queue.h"
#include "read.h"
#include "spi.h"
#include "subscription.h"
#include "subscription_source.h"

#define MAX_LOOK_AT 1000000

static EsPlan aside_plan = {
	.sql = "SELECT key, tenant, count(*) FROM evtstore_internal.failed_event WHERE subscription_id = $1 AND key IS NOT NULL"
	" GROUP BY tenant, key",
	.nargs = 1,
	.args = {INT4OID},
};

typedef struct HotKey
{
	uint64		hash;			/* of tenant and key */
	char	   *key;
	int64		unsettled;		/* to come, or out */
	int64		in_flight;		/* of these: out */
	int64		aside;			/* failed, or waiting behind one that did */
	TimestampTz oldest;			/* 0: not known */
} HotKey;

typedef struct Look
{
	const EsSubscription *subscription;
	HTAB	   *keys;
	MemoryContext context;		/* of the keys */
	EsCheckpoint *checkpoints[ES_LANE_SLOTS];	/* by es_lane_place */
	int64		delivered[ES_LANE_SLOTS];	/* up to here it is out, where it is not settled */
	/* of the present event */
	int64		position;
	char	   *tenant;
	char	   *key;			/* NULL: none */
	int			place;			/* of its lane */
	/* of those seen */
	int64		unsettled;
	TimestampTz oldest;
} Look;

static void open_unsettled(EsReader *reader, void *arg);
static void look_at_lanes(Look *look, Snapshot snapshot);
static void look_at_events(Look *look, EsReader *reader, int count);
static bool is_unsettled(Look *look, EsReader *reader, TupleTableSlot *slot);
static void look_aside(Look *look);
static HotKey *enter_key(Look *look, const char *tenant, const char *key);
static int	compare_keys(const void *a, const void *b);
static void put_keys(Look *look, ReturnSetInfo *result, int max_count);

PG_FUNCTION_INFO_V1(evtstore_hot_keys);
PG_FUNCTION_INFO_V1(evtstore_unsettled);

/* hot_keys(subscription text, max_count int, look_at int) -> table(key, unsettled, in_flight, aside, oldest); evtstore_reader */
Datum
evtstore_hot_keys(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "subscription", ES_MAX_NAME_BYTES);
	Look	   *look = palloc0(sizeof(Look));
	HASHCTL		info = {.keysize = sizeof(uint64), .entrysize = sizeof(HotKey), .hcxt = CurrentMemoryContext};
	EsReader   *reader;

	es_arg_required(fcinfo, 1, "max_count");
	es_arg_required(fcinfo, 2, "look_at");
	if (PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count must be positive: %d", PG_GETARG_INT32(1)),
				 errhint("It is how many keys are returned.")));
	if (PG_GETARG_INT32(2) < 1 || PG_GETARG_INT32(2) > MAX_LOOK_AT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("look_at is out of range: %d", PG_GETARG_INT32(2)),
				 errhint("It is how many events are looked at, between 1 and %d.", MAX_LOOK_AT)));
	InitMaterializedSRF(fcinfo, 0);
	look->subscription = es_subscription_get(name);
	look->context = CurrentMemoryContext;
	look->keys = hash_create("evtstore hot keys", 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	reader = es_reader_open_with(open_unsettled, look, CurrentMemoryContext);
	look_at_events(look, reader, PG_GETARG_INT32(2));
	es_reader_close(reader);
	look_aside(look);
	put_keys(look, (ReturnSetInfo *) fcinfo->resultinfo, PG_GETARG_INT32(1));
	PG_RETURN_NULL();
}

/* evtstore_internal.unsettled(subscription_id int, look_at int) -> table(events, oldest): of the next look_at events.  No row: there is no such one */
Datum
evtstore_unsettled(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Look	   *look = palloc0(sizeof(Look));
	EsReader   *reader;
	Datum		values[2];
	bool		nulls[2] = {0};
	int			n;
	const EsSubscription *all = es_subscription_all(&n);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
		if (all[i].definition.id == PG_GETARG_INT32(0))
			look->subscription = &all[i];
	if (look->subscription == NULL)
		PG_RETURN_NULL();
	reader = es_reader_open_with(open_unsettled, look, CurrentMemoryContext);
	look_at_events(look, reader, PG_GETARG_INT32(1));
	es_reader_close(reader);
	values[0] = Int64GetDatum(look->unsettled);
	values[1] = TimestampTzGetDatum(look->oldest);
	nulls[1] = look->unsettled == 0;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	PG_RETURN_NULL();
}

static void
open_unsettled(EsReader *reader, void *arg)
{
	Look	   *look = arg;
	const EsSubscription *subscription = look->subscription;
	int64		head = es_reader_begin_feed(reader, es_subscription_categories(subscription));
	int64		from = PG_INT64_MAX;

	es_reader_set_tenant(reader, subscription->tenant);
	look_at_lanes(look, es_reader_snapshot(reader));
	for (int i = 0; i < ES_LANE_SLOTS; i++)
		if (look->checkpoints[i] != NULL)
			from = Min(from, look->checkpoints[i]->position);
	if (from < head)
		es_subscription_set_source(reader, subscription, from, head);
}

/* those that are at their end need no look */
static void
look_at_lanes(Look *look, Snapshot snapshot)
{
	const EsLaneLayout *layout = look->subscription->layout;
	const EsLaneGeneration *newest = es_lane_layout_newest(layout);
	EsCheckpoints *checkpoints = es_checkpoints_open(look->subscription->definition.id, snapshot);
	EsLanes    *lanes = es_lanes_find(look->subscription->definition.id);
	TimestampTz now = es_clock_now();

	for (int number = layout->generations[0].first; number < newest->first + newest->lanes; number++)
	{
		EsCheckpoint *checkpoint = es_checkpoints_read(checkpoints, number);
		EsLane		lane = {0};

		if (checkpoint->position >= es_lane_layout_end(layout, number))
			continue;
		look->checkpoints[es_lane_place(number)] = checkpoint;
		if (lanes != NULL)
			lane = es_lane_copy(lanes, number);
		if (lane.epoch != 0 && lane.lease_until > now && lane.in_flight > 0)
			look->delivered[es_lane_place(number)] = lane.delivered;
	}
	es_checkpoints_close(checkpoints);
}

static void
look_at_events(Look *look, EsReader *reader, int count)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore hot keys", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TupleTableSlot *slot;

	while (count-- > 0)
	{
		bool		isnull;
		TimestampTz recorded_at;
		HotKey	   *hot;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		slot = es_reader_next(reader);
		if (slot == NULL)
			break;
		if (!is_unsettled(look, reader, slot))
			continue;
		recorded_at = DatumGetTimestampTz(slot_getattr(slot, ES_EVENT_RECORDED_AT + 1, &isnull));
		if (look->unsettled++ == 0)
			look->oldest = recorded_at;
		if (look->keys == NULL || look->key == NULL)
			continue;
		hot = enter_key(look, look->tenant, look->key);
		hot->unsettled++;
		hot->in_flight += look->position <= look->delivered[look->place] ? 1 : 0;
		if (hot->oldest == 0)
			hot->oldest = recorded_at;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static bool
is_unsettled(Look *look, EsReader *reader, TupleTableSlot *slot)
{
	const EsSubscription *subscription = look->subscription;
	const EsCheckpoint *checkpoint;
	bool		isnull;

	look->position = DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION + 1, &isnull));
	if (!es_subscription_selects(subscription, reader, slot))
		return false;
	look->tenant = TextDatumGetCString(slot_getattr(slot, ES_EVENT_TENANT + 1, &isnull));
	look->key = es_subscription_key_of(subscription, reader);
	look->place = es_lane_place(es_subscription_lane(subscription, look->tenant, look->key, look->position));
	checkpoint = look->checkpoints[look->place];
	return checkpoint != NULL && !es_checkpoint_covers(checkpoint, look->position);
}

static void
look_aside(Look *look)
{
	EsSpiState	state;
	Datum		values[1] = {Int32GetDatum(look->subscription->definition.id)};
	uint64		n;

	es_queue_spi_begin(&state);
	n = es_spi_run(&aside_plan, values, NULL, true, 0);
	for (uint64 i = 0; i < n; i++)
		enter_key(look, es_spi_text(i, 1), es_spi_text(i, 0))->aside = es_spi_int64(i, 2);
	es_spi_end(&state);
}

static HotKey *
enter_key(Look *look, const char *tenant, const char *key)
{
	uint64		hash = es_stream_hash(tenant, key, strlen(key));
	bool		found;
	HotKey	   *hot = hash_search(look->keys, &hash, HASH_ENTER, &found);

	if (!found)
	{
		memset(hot, 0, sizeof(HotKey));
		hot->hash = hash;
		hot->key = MemoryContextStrdup(look->context, key);
	}
	return hot;
}

/* the hottest first */
static int
compare_keys(const void *a, const void *b)
{
	const HotKey *x = *(HotKey *const *) a;
	const HotKey *y = *(HotKey *const *) b;
	int64		more = y->unsettled + y->aside - x->unsettled - x->aside;

	return more != 0 ? (more > 0 ? 1 : -1) : strcmp(x->key, y->key);
}

static void
put_keys(Look *look, ReturnSetInfo *result, int max_count)
{
	long		n = hash_get_num_entries(look->keys);
	HotKey	  **keys = palloc(Max(n, 1) * sizeof(HotKey *));
	HASH_SEQ_STATUS scan;
	HotKey	   *hot;
	int			count = 0;

	hash_seq_init(&scan, look->keys);
	while ((hot = hash_seq_search(&scan)) != NULL)
		keys[count++] = hot;
	qsort(keys, count, sizeof(HotKey *), compare_keys);
	for (int i = 0; i < count && i < max_count; i++)
	{
		Datum		values[5];
		bool		nulls[5] = {0};

		values[0] = CStringGetTextDatum(keys[i]->key);
		values[1] = Int64GetDatum(keys[i]->unsettled);
		values[2] = Int64GetDatum(keys[i]->in_flight);
		values[3] = Int64GetDatum(keys[i]->aside);
		values[4] = TimestampTzGetDatum(keys[i]->oldest);
		nulls[4] = keys[i]->oldest == 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}
