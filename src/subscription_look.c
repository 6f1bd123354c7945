/*
 * subscription_look.c
 *		Is there something to poll?  For who sleeps until there is (wait.c).
 *
 * Runs in consumers' backends.  Looks at the lanes in shared memory, each by itself, and under a snapshot that is taken after that at
 * checkpoints, failed events, and the events that follow: the first one that some consumer could be handed is the answer.  Lanes
 * that are out with somebody have nothing for anybody until he settles.  What it finds may be gone when somebody polls.
 *
 * Locks: the subscription's, held by the caller.  Nothing is written; a crash leaves nothing.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "checkpoint.h"
#include "compat.h"
#include "event.h"
#include "failed_event.h"
#include "lane.h"
#include "read.h"
#include "subscription_look.h"
#include "subscription_source.h"

/* a lane that somebody could poll */
typedef struct LookLane
{
	bool		is_open;
	uint64		epoch;			/* of who has it; 0: nobody */
	int64		from;			/* what it handed out or passed over ends here */
	EsCheckpoint *checkpoint;
} LookLane;

typedef struct Look
{
	const EsSubscription *subscription;
	TimestampTz now;
	TimestampTz due;
	int64		head;
	int64		failed;			/* one that failed and is due again; 0: none */
	LookLane	lanes[ES_MAX_LANES];
} Look;

static void open_look(EsReader *reader, void *arg);
static void look_at_lanes(Look *look);
static void look_at_failed(Look *look, Snapshot snapshot);
static bool could_be_handed_out(Look *look, EsReader *reader, TupleTableSlot *slot, int64 position);

int64
es_subscription_look(const EsSubscription *subscription, TimestampTz now, TimestampTz *due)
{
	Look	   *look = palloc0(sizeof(Look));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore look", ALLOCSET_DEFAULT_SIZES);
	EsReader   *reader;
	int64		found;

	look->subscription = subscription;
	look->now = now;
	look->due = DT_NOEND;
	look_at_lanes(look);
	reader = es_reader_open_with(open_look, look, CurrentMemoryContext);
	found = look->failed;
	while (found == 0)
	{
		TupleTableSlot *slot;
		int64		position;
		bool		isnull;
		MemoryContext old = MemoryContextSwitchTo(context);

		MemoryContextReset(context);
		slot = es_reader_next(reader);
		if (slot != NULL)
		{
			position = DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION + 1, &isnull));
			if (could_be_handed_out(look, reader, slot, position))
				found = position;
		}
		MemoryContextSwitchTo(old);
		if (slot == NULL)
			break;
	}
	es_reader_close(reader);
	MemoryContextDelete(context);
	*due = look->due;
	return found;
}

/* before the snapshot: what was settled in a lane that is free by now shows in it */
static void
look_at_lanes(Look *look)
{
	EsLanes    *lanes = es_lanes_find(look->subscription->definition.id);

	for (int i = 0; i < look->subscription->lanes; i++)
	{
		LookLane   *mine = &look->lanes[i];
		EsLane		lane = {0};

		if (lanes != NULL)
			lane = es_lane_copy(lanes, i);
		mine->is_open = lane.epoch == 0 || lane.lease_until <= look->now || lane.in_flight == 0;
		if (lane.epoch != 0 && lane.lease_until > look->now)
		{
			mine->epoch = lane.epoch;
			mine->from = lane.fetched;
			if (!mine->is_open)
				look->due = Min(look->due, lane.lease_until);
		}
	}
}

static void
open_look(EsReader *reader, void *arg)
{
	Look	   *look = arg;
	int64		from = PG_INT64_MAX;
	EsCheckpoints *checkpoints;

	look->head = es_reader_begin_feed(reader, es_subscription_categories(look->subscription));
	es_reader_set_tenant(reader, look->subscription->tenant);
	checkpoints = es_checkpoints_open(look->subscription->definition.id, es_reader_snapshot(reader));
	for (int i = 0; i < look->subscription->lanes; i++)
		if (look->lanes[i].is_open)
		{
			LookLane   *lane = &look->lanes[i];

			lane->checkpoint = es_checkpoints_read(checkpoints, i);
			lane->from = Max(lane->from, lane->checkpoint->position);
			from = Min(from, lane->from);
		}
	es_checkpoints_close(checkpoints);
	look_at_failed(look, es_reader_snapshot(reader));
	if (look->failed == 0 && from < look->head)
		es_subscription_set_source(reader, look->subscription, from, look->head);
}

static void
look_at_failed(Look *look, Snapshot snapshot)
{
	ListCell   *lc;

	foreach(lc, es_failed_event_heads(look->subscription->definition.id, snapshot, look->now))
	{
		const EsFailedEvent *failed = lfirst(lc);
		const LookLane *lane = &look->lanes[failed->lane];

		if (lane->is_open && failed->is_due && (failed->epoch == 0 || failed->epoch != lane->epoch))
			look->failed = failed->position;
		else if (failed->next_attempt_at != 0 && !failed->is_due)
			look->due = Min(look->due, failed->next_attempt_at);
	}
}

static bool
could_be_handed_out(Look *look, EsReader *reader, TupleTableSlot *slot, int64 position)
{
	const EsSubscription *subscription = look->subscription;
	const LookLane *lane;
	const text *stream;
	char	   *tenant;
	char	   *key;
	bool		isnull;
	Datum		data = (Datum) 0;
	Datum		metadata = (Datum) 0;

	if (!es_subscription_selects(subscription, reader, slot))
		return false;
	tenant = TextDatumGetCString(slot_getattr(slot, ES_EVENT_TENANT + 1, &isnull));
	stream = es_reader_stream(reader);
	if (subscription->key->root != ES_KEY_STREAM)
	{
		data = es_reader_value(reader, ES_EVENT_ROW_DATA, &isnull);
		metadata = es_reader_value(reader, ES_EVENT_ROW_METADATA, &isnull);
	}
	key = es_subscription_key(subscription, stream == NULL ? NULL : VARDATA(stream), stream == NULL ? 0 : VARSIZE(stream) - VARHDRSZ,
							  data, metadata);
	lane = &look->lanes[es_subscription_lane(subscription, tenant, key, position)];
	return lane->is_open && position > lane->from && !es_checkpoint_covers(lane->checkpoint, position);
}
