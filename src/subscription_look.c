/*
 * subscription_look.c
 *		Is there something to poll?  For who sleeps until there is (wait.c), and who tells others (notifier.c).
 *
 * Runs in consumers' backends, and in the scheduler.  Looks at the lanes in shared memory, each by itself, and under a snapshot that is taken after that at
 * checkpoints, failed events, and the events that follow: the first one that some consumer could be handed is the answer.  Lanes
 * that are out with somebody have nothing for anybody until he settles.  What it finds may be gone when somebody polls.
 *
 * It may also be something that whoever asks may not have: an event in a lane of a consumer who does not poll.  So that he does not
 * come back at once and for ever, a backend tells of the events up to a position once in evtstore.poll_interval, unless somebody has woken
 * it since (wait.c), or it was handed something, or settled something.
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
#include "failed_read.h"
#include "guc.h"
#include "lane.h"
#include "lane_layout.h"
#include "read.h"
#include "subscription_look.h"
#include "subscription_source.h"

/* a lane that somebody could poll */
typedef struct LookLane
{
	bool		is_open;
	bool		is_out;			/* something of it is with its holder */
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
	int64		told;			/* nothing up to here is news */
	int64		failed;			/* one that failed and is due again; 0: none */
	EsLaneFlags is_over;
	LookLane	lanes[ES_LANE_SLOTS];	/* see es_lane_place */
} Look;

/* what this backend told last of a subscription */
typedef struct Told
{
	int32		id;				/* 0: nothing */
	int64		position;
	TimestampTz at;
} Told;

static Told all_told[16];
static int	next_told = 0;

static bool may_go_out(const EsSubscription *subscription, TimestampTz now, TimestampTz *next);
static int64 first_news(Look *look);
static Told *told_of(int32 id);
static void tell(int32 id, int64 position, TimestampTz now);
static void open_look(EsReader *reader, void *arg);
static void look_at_lanes(Look *look);
static int64 open_lanes(Look *look, Snapshot snapshot);
static bool open_lane(Look *look, EsCheckpoints *checkpoints, int number);
static void look_at_failed(Look *look, Snapshot snapshot);
static bool could_be_handed_out(Look *look, EsReader *reader, TupleTableSlot *slot, int64 position);

bool
es_subscription_look(const EsSubscription *subscription, TimestampTz now, bool was_woken, TimestampTz *due)
{
	Look	   *look = palloc0(sizeof(Look));
	int32		id = subscription->definition.id;
	const Told *told = told_of(id);
	int64		found;

	look->subscription = subscription;
	look->now = now;
	look->due = DT_NOEND;
	if (told != NULL && !was_woken && now >= told->at && now < told->at + (TimestampTz) es_guc_poll_interval * 1000)
	{
		look->told = told->position;
		look->due = told->at + (TimestampTz) es_guc_poll_interval * 1000;
	}
	found = may_go_out(subscription, now, due) ? first_news(look) : 0;
	if (found != 0)
		tell(id, found, now);
	else if (look->due == DT_NOEND && *due != DT_NOEND)
		look->due = *due;
	*due = look->due;
	return found != 0;
}

EsSubscriptionNews
es_subscription_leases(const EsSubscription *subscription, TimestampTz since, TimestampTz now)
{
	EsLanes    *lanes = es_lanes_find(subscription->definition.id);
	EsSubscriptionNews news = {.due = DT_NOEND};
	int			numbers[ES_LANE_SLOTS];
	int			n = lanes == NULL ? 0 : es_lanes_numbers(lanes, numbers);

	for (int i = 0; i < n; i++)
	{
		EsLane		lane = es_lane_copy(lanes, numbers[i]);

		if (lane.epoch == 0)
			continue;
		if (lane.lease_until > now)
			news.due = Min(news.due, lane.lease_until);
		else
			news.lease_ended |= lane.lease_until > since;
	}
	return news;
}

void
es_subscription_news(const EsSubscription *subscription, int64 above, TimestampTz now, EsSubscriptionNews *news)
{
	Look	   *look = palloc0(sizeof(Look));
	TimestampTz next;

	look->subscription = subscription;
	look->now = now;
	look->due = DT_NOEND;
	look->told = above;
	if (!may_go_out(subscription, now, &next))
	{
		news->due = Min(news->due, next);
		return;
	}
	news->is_ready = first_news(look) != 0;
	news->head = look->head;
	news->due = Min(news->due, look->due);
}

void
es_subscription_look_anew(int32 id)
{
	Told	   *told = told_of(id);

	if (told != NULL)
		told->id = 0;
}

/* by its rate; if not, not before *next */
static bool
may_go_out(const EsSubscription *subscription, TimestampTz now, TimestampTz *next)
{
	EsLanes    *lanes = subscription->rate > 0 ? es_lanes_find(subscription->definition.id) : NULL;
	int			room;

	*next = DT_NOEND;
	if (lanes == NULL)
		return true;
	room = es_lanes_take_rate(lanes, subscription->rate, 1, now, next);
	es_lanes_give_rate(lanes, room);
	return room > 0;
}

static Told *
told_of(int32 id)
{
	for (int i = 0; i < lengthof(all_told); i++)
		if (all_told[i].id == id)
			return &all_told[i];
	return NULL;
}

static void
tell(int32 id, int64 position, TimestampTz now)
{
	Told	   *told = told_of(id);

	if (told == NULL)
	{
		told = &all_told[next_told];
		next_told = (next_told + 1) % lengthof(all_told);
	}
	*told = (Told) {id, position, now};
}

/* the position of the first event that is one; 0: there is none */
static int64
first_news(Look *look)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore look", ALLOCSET_DEFAULT_SIZES);
	EsReader   *reader;
	int64		found;

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
	return found;
}

/* before the snapshot: what was settled in a lane that is free by now shows in it */
static void
look_at_lanes(Look *look)
{
	EsLanes    *lanes = es_lanes_find(look->subscription->definition.id);
	const EsLaneLayout *layout = look->subscription->layout;
	const EsLaneGeneration *newest = es_lane_layout_newest(layout);

	if (lanes == NULL)
		return;
	es_lane_layout_see_over(layout, lanes, look->is_over);
	for (int number = layout->generations[0].first; number < newest->first + newest->lanes; number++)
	{
		LookLane   *mine = &look->lanes[es_lane_place(number)];
		EsLane		lane = es_lane_copy(lanes, number);

		if (lane.number != number || lane.epoch == 0 || lane.lease_until <= look->now)
			continue;
		mine->epoch = lane.epoch;
		mine->from = lane.fetched;
		mine->is_out = lane.in_flight > 0;
		if (mine->is_out)
			look->due = Min(look->due, lane.lease_until);
	}
}

static void
open_look(EsReader *reader, void *arg)
{
	Look	   *look = arg;
	int64		from;

	look->head = es_reader_begin_feed(reader, es_subscription_categories(look->subscription));
	if (look->subscription->replay_to != 0)
		look->head = Min(look->head, look->subscription->replay_to);
	es_reader_set_tenant(reader, look->subscription->tenant);
	from = open_lanes(look, es_reader_snapshot(reader));
	look_at_failed(look, es_reader_snapshot(reader));
	from = Max(from, look->told);
	if (look->failed == 0 && from < look->head)
		es_subscription_set_source(reader, look->subscription, from, look->head);
}

/* as a poll would find them: where lanes came to their end, those that come after them are open too.  The lowest place to go on from */
static int64
open_lanes(Look *look, Snapshot snapshot)
{
	EsCheckpoints *checkpoints = es_checkpoints_open(look->subscription->definition.id, snapshot);
	int64		from = PG_INT64_MAX;
	bool		again = true;

	while (again)
	{
		EsOpenLanes open;

		again = false;
		es_lane_layout_open(look->subscription->layout, look->is_over, &open);
		for (int i = 0; i < open.n; i++)
		{
			const LookLane *lane = &look->lanes[es_lane_place(open.numbers[i])];

			if (lane->is_open || lane->is_out)
				continue;
			if (open_lane(look, checkpoints, open.numbers[i]))
				from = Min(from, lane->from);
			else
				again = true;
		}
	}
	es_checkpoints_close(checkpoints);
	return from;
}

/* false: it is over */
static bool
open_lane(Look *look, EsCheckpoints *checkpoints, int number)
{
	LookLane   *lane = &look->lanes[es_lane_place(number)];
	int64		end = es_lane_layout_end(look->subscription->layout, number);

	lane->checkpoint = es_checkpoints_read(checkpoints, number);
	if (lane->checkpoint->position >= end)
	{
		look->is_over[es_lane_place(number)] = true;
		return false;
	}
	lane->from = Max(lane->from, lane->checkpoint->position);
	lane->is_open = true;
	return true;
}

static void
look_at_failed(Look *look, Snapshot snapshot)
{
	EsFailedReader *aside = es_failed_reader_open(look->subscription, snapshot);
	EsFailedEvent *failed;

	es_failed_reader_begin_due(aside, look->now);
	while ((failed = es_failed_reader_next_due(aside)) != NULL)
	{
		const LookLane *lane = &look->lanes[es_lane_place(es_lane_layout_serving(look->subscription->layout,
																				 es_subscription_hash(failed->tenant, failed->key, failed->position),
																				 look->is_over))];

		if (lane->is_open && (failed->epoch == 0 || failed->epoch != lane->epoch) && failed->position > look->told)
			look->failed = Max(look->failed, failed->position);
	}
	look->due = Min(look->due, es_failed_reader_due_after(aside, look->now));
	es_failed_reader_close(aside);
}

static bool
could_be_handed_out(Look *look, EsReader *reader, TupleTableSlot *slot, int64 position)
{
	const EsSubscription *subscription = look->subscription;
	const LookLane *lane;
	char	   *tenant;
	char	   *key;
	bool		isnull;

	if (!es_subscription_selects(subscription, reader, slot))
		return false;
	tenant = TextDatumGetCString(slot_getattr(slot, ES_EVENT_TENANT + 1, &isnull));
	key = es_subscription_key_of(subscription, reader);
	lane = &look->lanes[es_lane_place(es_subscription_lane(subscription, tenant, key, position))];
	return lane->is_open && position > lane->from && position > look->told && !es_checkpoint_covers(lane->checkpoint, position);
}
