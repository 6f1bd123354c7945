/*
 * poll.c
 *		Handing out the events of subscriptions: which lanes a consumer gets, and what is next in them.
 *
 * Runs in consumers' backends (poll_call.c) and, for projections, in workers.  docs/architecture-subscriptions.md, section 4, has the steps (P1 to P9, named below) and
 * why they stand where they stand, section 7 what becomes of lanes that end.  Locks: the subscription's, shared; those of the lanes, tried and not waited for; both
 * to the end of the transaction.  In shared memory: the lanes' entries (lane.c).  On the way of success nothing is
 * written to a table, but how far a lane came that had nothing to hand out (PASSED_OVER); a rollback or a crash gives back what was handed out.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "checkpoint.h"
#include "clock.h"
#include "compat.h"
#include "dead_key.h"
#include "event.h"
#include "evtstore.h"
#include "failed_event.h"
#include "feed.h"
#include "lane.h"
#include "lane_layout.h"
#include "queue.h"
#include "read.h"
#include "subscription.h"
#include "subscription_look.h"
#include "subscription_poll.h"
#include "subscription_source.h"
#include "waiter.h"

/* what was passed over without an event to settle is written down once it is so much */
#define PASSED_OVER 1000

/* the error of an event whose consumers said nothing */
#define LOST "rolled back or lease expired"

/* a lane whose lock we have */
typedef struct PollLane
{
	int			number;
	EsLaneState state;
	EsLane		lane;			/* as it becomes */
	int			settled;		/* of those in flight: by this transaction */
	int64		from;			/* fetched before */
	int64		end;			/* ES_LANE_NO_END: none */
	EsCheckpoint *checkpoint;
	bool		is_full;		/* takes no more, for now */
	bool		has_settled;	/* the checkpoint has grown: by events that wait or failed */
	int			taken;
} PollLane;

typedef struct Poll
{
	const EsSubscription *subscription;
	int32		id;
	EsLanes    *lanes;
	int			consumer;
	int			max_count;
	TimestampTz now;
	int64		head;
	int64		upto;			/* the walk goes no further: the head, or where all of ours end */
	EsLaneFlags is_over;		/* for this transaction */
	int			nover;			/* found to be so here */
	bool		is_own_over;	/* one of them as long as this transaction is not rolled back */
	EsOpenLanes open;
	int			nheld;
	PollLane   *held;
	PollLane   *by_place[ES_LANE_SLOTS];	/* see es_lane_place */
	List	   *failed;			/* EsFailedEvent *: of our lanes, in front of their keys */
	HTAB	   *waiting_keys;	/* hashes of tenant and key; NULL: none */
	int			count;			/* handed out */
	const EsPollRequest *request;
} Poll;

static void poll_round(Poll *poll, const char *consumer, TimestampTz until);
static void take_lanes(Poll *poll, const int *numbers, int n, int give_up);
static void open_reader(EsReader *reader, void *arg);
static void read_checkpoints(Poll *poll, Snapshot snapshot);
static void find_over(Poll *poll, PollLane *held);
static void read_failed(Poll *poll, Snapshot snapshot);
static void read_dead_keys(Poll *poll);
static void hand_out_failed(Poll *poll);
static void hand_out_again(Poll *poll, PollLane *held, const EsFailedEvent *failed);
static int64 hand_out_next(Poll *poll, EsReader *reader);
static bool is_over(Poll *poll, const PollLane *held);
static bool may_take(PollLane *held, int max_in_flight, int64 position);
static bool key_waits(Poll *poll, const char *tenant, const char *key);
static bool set_aside(Poll *poll, PollLane *held, int64 position, const char *tenant, const char *key);
static void add_waiting_key(Poll *poll, const char *tenant, const char *key);
static bool all_full(Poll *poll);
static void hand_out(Poll *poll, EsReader *reader, const EsPolled *event);
static void put_lanes(Poll *poll, int64 passed);

int
es_subscription_poll(int32 id, const EsPollRequest *request)
{
	Poll	   *poll = palloc0(sizeof(Poll));
	TimestampTz until;
	int			nover;
	int			room = 0;
	TimestampTz next;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("events cannot be polled in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errdetail("Its snapshot does not show what others settled since it began."),
				 errhint("Use READ COMMITTED, the default isolation level.")));

	poll->id = id;
	poll->request = request;
	poll->max_count = request->max_count;
	poll->subscription = es_subscription_lock(id, AccessShareLock);
	if (poll->subscription == NULL || poll->subscription->is_paused)
		return 0;

	poll->now = es_clock_now();
	until = es_queue_deadline(poll->now, request->lease_ms, "lease");
	poll->lanes = es_lanes_open(id);
	if (poll->subscription->rate > 0)
	{
		poll->max_count = room = es_lanes_take_rate(poll->lanes, poll->subscription->rate, poll->max_count, poll->now, &next);
		if (room == 0)
			return 0;
	}
	/* where lanes came to their end, those that come after them begin */
	do
	{
		nover = poll->nover;
		poll_round(poll, request->consumer, until);
	} while (poll->nover > nover && poll->count < poll->max_count);
	if (poll->subscription->rate > 0)
		es_lanes_give_rate(poll->lanes, room - poll->count);
	if (poll->count > 0)
		es_subscription_look_anew(id);
	return poll->count;
}

/* P2 to P9 */
static void
poll_round(Poll *poll, const char *consumer, TimestampTz until)
{
	int			numbers[ES_LANE_SLOTS];
	int			n;
	int			give_up;
	EsReader   *reader;
	int64		passed;

	poll->nheld = 0;
	memset(poll->by_place, 0, sizeof(poll->by_place));
	poll->failed = NIL;
	poll->waiting_keys = NULL;
	es_lane_layout_see_over(poll->subscription->layout, poll->lanes, poll->is_over);
	es_lane_layout_open(poll->subscription->layout, poll->is_over, &poll->open);
	n = es_lanes_enter(poll->lanes, &poll->open, consumer, poll->now, until, numbers, &give_up, &poll->consumer);
	poll->held = palloc(Max(n, 1) * sizeof(PollLane));
	take_lanes(poll, numbers, n, give_up);
	if (poll->nheld == 0)
		return;

	reader = es_reader_open_with(open_reader, poll, CurrentMemoryContext);
	hand_out_failed(poll);
	passed = hand_out_next(poll, reader);
	put_lanes(poll, passed);
	es_reader_close(reader);
}

bool
es_subscription_end_consumer(int32 id, const char *consumer)
{
	EsLanes    *lanes = es_lanes_find(id);
	int			numbers[ES_LANE_SLOTS];
	int			n = lanes == NULL ? -1 : es_lanes_of_consumer(lanes, consumer, numbers);

	if (n < 0)
		return false;
	for (int i = 0; i < n; i++)
	{
		/* whoever settles or polls in it right now comes to his end first */
		es_subscription_lock_lane(id, numbers[i]);
		if (es_lane_copy(lanes, numbers[i]).epoch != 0)
			es_lane_give_up(lanes, numbers[i]);
	}
	es_lanes_forget_consumer(lanes, consumer);
	es_waiter_wake(id, INT_MAX);
	return true;
}

/* P3, P4.  What is more than the consumer's share is given up, or at least not fetched for */
static void
take_lanes(Poll *poll, const int *numbers, int n, int give_up)
{
	for (int i = 0; i < n; i++)
	{
		PollLane   *held = &poll->held[poll->nheld];

		if (!es_subscription_try_lane(poll->id, numbers[i]))
			continue;
		memset(held, 0, sizeof(PollLane));
		held->number = numbers[i];
		held->end = es_lane_layout_end(poll->subscription->layout, numbers[i]);
		held->state = es_lane_look(poll->lanes, numbers[i], held->end != ES_LANE_NO_END, poll->consumer, poll->now, &held->lane);
		/* while we came here it came to its end, and its rows may be gone by now */
		if (held->lane.is_over && held->lane.over_at == held->end)
		{
			poll->is_over[es_lane_place(numbers[i])] = true;
			poll->nover++;
			held->state = ES_LANE_TAKEN;
		}
		if (held->state == ES_LANE_TAKEN)
		{
			es_subscription_unlock_lane(poll->id, numbers[i]);
			continue;
		}
		held->settled = held->lane.in_flight - es_lane_in_flight(poll->lanes, numbers[i], held->lane.epoch);
		if (held->state == ES_LANE_MINE && give_up > 0 && held->lane.in_flight == 0)
		{
			es_lane_give_up(poll->lanes, numbers[i]);
			es_subscription_unlock_lane(poll->id, numbers[i]);
			give_up--;
			continue;
		}
		/* one batch at a time: what follows must not pass what is out */
		held->is_full = held->state == ES_LANE_MINE && held->lane.in_flight > held->settled;
		poll->by_place[es_lane_place(numbers[i])] = held;
		poll->nheld++;
	}
	for (int i = poll->nheld - 1; i >= 0 && give_up > 0; i--)
		if (poll->held[i].state == ES_LANE_MINE)
		{
			poll->held[i].is_full = true;
			give_up--;
		}
}

/* P5, P6, and where the walk of P8 begins */
static void
open_reader(EsReader *reader, void *arg)
{
	Poll	   *poll = arg;
	int64		from = PG_INT64_MAX;

	poll->upto = 0;
	poll->head = es_reader_begin_feed(reader, es_subscription_categories(poll->subscription));
	es_reader_set_tenant(reader, poll->subscription->tenant);
	read_checkpoints(poll, es_reader_snapshot(reader));
	read_failed(poll, es_reader_snapshot(reader));
	for (int i = 0; i < poll->nheld; i++)
		if (!poll->held[i].is_full)
		{
			from = Min(from, poll->held[i].from);
			poll->upto = Max(poll->upto, Min(poll->head, poll->held[i].end));
		}
	if (from < poll->upto)
		es_subscription_set_source(reader, poll->subscription, from, poll->upto);
}

static void
read_checkpoints(Poll *poll, Snapshot snapshot)
{
	EsCheckpoints *checkpoints = es_checkpoints_open(poll->id, snapshot);

	for (int i = 0; i < poll->nheld; i++)
	{
		PollLane   *held = &poll->held[i];

		held->checkpoint = es_checkpoints_read(checkpoints, held->number);
		find_over(poll, held);
		if (is_over(poll, held))
			continue;
		if (held->state == ES_LANE_FREE)
		{
			if (held->settled >= held->lane.in_flight)
				held->lane.in_flight = 0;	/* nothing was lost with the hold before */
			es_lane_begin(&held->lane, poll->consumer, held->checkpoint->position);
			held->settled = 0;
		}
		held->from = held->lane.fetched;
		if (held->checkpoint->position >= held->lane.lost_until)
			held->lane.lost = held->lane.suspect_lost = 0;
	}
	es_checkpoints_close(checkpoints);
}

/*
 * Did the lane come to its end, with nothing in flight?  Others are told at once where it is so whatever becomes of this
 * transaction.
 */
static void
find_over(Poll *poll, PollLane *held)
{
	bool		is_out = held->state == ES_LANE_MINE && held->lane.in_flight > held->settled;

	if (held->checkpoint->position < held->end || is_out || is_over(poll, held))
		return;
	poll->is_over[es_lane_place(held->number)] = true;
	poll->nover++;
	held->is_full = true;
	/* a lane that was opened by what this transaction closed is over no more than that one */
	if (held->settled == 0 && !held->checkpoint->is_own && !poll->is_own_over)
		es_lane_close(poll->lanes, held->number, held->end);
	else
	{
		poll->is_own_over = true;
		/* what a hold that ran out still has of events that failed, the next lane hands out: its receipts are over */
		held->lane.epoch = 0;
		held->lane.in_flight = 0;
		held->lane.consumer = ES_LANE_ANONYMOUS;
		es_lane_put(poll->lanes, held->number, &held->lane);
	}
}

static bool
is_over(Poll *poll, const PollLane *held)
{
	return poll->is_over[es_lane_place(held->number)];
}

static void
read_failed(Poll *poll, Snapshot snapshot)
{
	ListCell   *lc;

	foreach(lc, es_failed_event_heads(poll->id, snapshot, poll->now))
	{
		EsFailedEvent *failed = lfirst(lc);
		uint32		hash = es_subscription_hash(failed->tenant, failed->key, failed->position);

		failed->lane = es_lane_layout_serving(poll->subscription->layout, hash, poll->is_over);
		if (poll->by_place[es_lane_place(failed->lane)] == NULL)
			continue;
		poll->failed = lappend(poll->failed, failed);
		if (failed->key != NULL)
			add_waiting_key(poll, failed->tenant, failed->key);
	}
	if (poll->subscription->on_failure == ES_FAILURE_DEAD_LETTER_KEY)
		read_dead_keys(poll);
}

/* what comes of them is not handed out either: see es_failed_event_wait */
static void
read_dead_keys(Poll *poll)
{
	const char *tenant = NULL;
	ListCell   *lc;

	foreach(lc, es_dead_key_list(poll->id))
		if (tenant == NULL)
			tenant = lfirst(lc);
		else
		{
			add_waiting_key(poll, tenant, lfirst(lc));
			tenant = NULL;
		}
}

/* the reader of one event */
typedef struct OneEvent
{
	const EsSubscription *subscription;
	int64		position;
} OneEvent;

static void
open_one(EsReader *reader, void *arg)
{
	OneEvent   *one = arg;
	EsReadRange range = {.has_after = true, .after = one->position - 1};
	EsWalk	   *walk;

	/* it was handed out before, so it is decided, whatever the head of all categories is */
	es_reader_begin_latest(reader);
	es_reader_set_max_count(reader, 1);
	walk = es_reader_walk(reader, es_catalog()->event_pkey);
	es_walk_add_key(walk, 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(one->position));
	es_walk_add_range(walk, 1, &range);
}

/*
 * P7.  One that failed goes alone, to show whether it does now.  One that waited and is in front by now brings those behind
 * it along: a key that was held up catches up.
 */
static void
hand_out_failed(Poll *poll)
{
	int			max_attempts = poll->subscription->retry.max_attempts;
	ListCell   *lc;

	foreach(lc, poll->failed)
	{
		EsFailedEvent *front = lfirst(lc);
		PollLane   *held = poll->by_place[es_lane_place(front->lane)];
		ListCell   *behind;

		if (held->is_full || !front->is_due || front->epoch == held->lane.epoch || poll->count >= poll->max_count)
			continue;
		/* handed out in a hold that is over, for the last time, and never heard of again */
		if (front->epoch != 0 && max_attempts > 0 && front->attempt >= max_attempts)
		{
			(void) es_failed_event_nack(poll->subscription, front->position, front->epoch, LOST, -1);
			continue;
		}
		hand_out_again(poll, held, front);
		if (front->has_failed || front->key == NULL || poll->count >= poll->max_count)
			continue;
		foreach(behind, es_failed_event_behind(poll->id, front, poll->max_count - poll->count))
			hand_out_again(poll, held, lfirst(behind));
	}
}

static void
hand_out_again(Poll *poll, PollLane *held, const EsFailedEvent *failed)
{
	OneEvent	one = {poll->subscription, failed->position};
	EsReader   *reader;

	es_failed_event_hand_out(poll->subscription, failed->position, held->lane.epoch, failed->attempt + 1);
	reader = es_reader_open_with(open_one, &one, CurrentMemoryContext);
	if (es_reader_next(reader) != NULL)
	{
		hand_out(poll, reader, &(EsPolled) {.lane = held->number, .epoch = held->lane.epoch, .before = failed->position,
				 .position = failed->position, .attempt = failed->attempt + 1, .tenant = failed->tenant, .key = failed->key});
		held->lane.in_flight++;
		held->taken++;
	}
	else
	{
		/* scavenged: nothing is left to do about it */
		(void) es_failed_event_ack(poll->subscription, failed->position, held->lane.epoch);
		if (failed->key != NULL && !es_failed_event_key_waits(poll->subscription, failed->tenant, failed->key))
		{
			uint64		hash = es_stream_hash(failed->tenant, failed->key, strlen(failed->key));

			(void) hash_search(poll->waiting_keys, &hash, HASH_REMOVE, NULL);
		}
	}
	es_reader_close(reader);
}

/* P8; how far the walk came */
static int64
hand_out_next(Poll *poll, EsReader *reader)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore poll", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int64		passed = 0;
	TupleTableSlot *slot;

	while (poll->count < poll->max_count && !all_full(poll))
	{
		int64		position;
		char	   *tenant;
		char	   *key;
		PollLane   *held;
		bool		isnull;

		MemoryContextReset(context);
		slot = es_reader_next(reader);
		if (slot == NULL)
		{
			passed = poll->upto;
			break;
		}
		passed = position = DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION + 1, &isnull));
		if (!es_subscription_selects(poll->subscription, reader, slot))
			continue;
		tenant = TextDatumGetCString(slot_getattr(slot, ES_EVENT_TENANT + 1, &isnull));
		key = es_subscription_key_of(poll->subscription, reader);
		held = poll->by_place[es_lane_place(es_subscription_lane(poll->subscription, tenant, key, position))];
		if (held == NULL || held->is_full || position <= held->from || es_checkpoint_covers(held->checkpoint, position))
			continue;
		if (!may_take(held, poll->subscription->max_in_flight, position))
			continue;
		if (set_aside(poll, held, position, tenant, key))
		{
			/* nothing is left to settle from what was handed out last to here */
			MemoryContextSwitchTo(old);
			es_checkpoint_add(held->checkpoint, held->lane.delivered, position);
			MemoryContextSwitchTo(context);
			held->has_settled = true;
		}
		else
		{
			hand_out(poll, reader, &(EsPolled) {.lane = held->number, .epoch = held->lane.epoch, .before = held->lane.delivered,
					 .position = position, .attempt = es_lane_attempt(&held->lane, position), .tenant = tenant, .key = key});
			held->lane.delivered = position;
			held->lane.in_flight++;
			held->taken++;
		}
		held->lane.fetched = position;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return passed;
}

/* if not, the lane is full from here on */
static bool
may_take(PollLane *held, int max_in_flight, int64 position)
{
	bool		alone = held->lane.lost >= ES_LANE_MAX_LOST && position <= held->lane.lost_until;

	if (held->lane.in_flight - held->settled < (alone ? 1 : max_in_flight))
		return true;
	held->lane.fetched = Max(held->lane.fetched, position - 1);
	held->is_full = true;
	return false;
}

/* two keys of one hash only wait for each other more than they need */
static bool
key_waits(Poll *poll, const char *tenant, const char *key)
{
	uint64		hash = es_stream_hash(tenant, key, strlen(key));

	return poll->waiting_keys != NULL && hash_search(poll->waiting_keys, &hash, HASH_FIND, NULL) != NULL;
}

/*
 * An event that waits behind an older one of its key, or one that spent its attempts without a word: its consumers rolled
 * back or did not come back.
 */
static bool
set_aside(Poll *poll, PollLane *held, int64 position, const char *tenant, const char *key)
{
	int			max_attempts = poll->subscription->retry.max_attempts;
	int			attempts = es_lane_attempt(&held->lane, position) - 1;

	if (key != NULL && key_waits(poll, tenant, key))
	{
		es_failed_event_wait(poll->subscription, position, tenant, key);
		return true;
	}
	if (max_attempts == 0 || attempts < max_attempts || position != held->lane.suspect)
		return false;
	es_failed_event_add(poll->subscription, position, tenant, key, attempts, "lease expired", LOST, -1);
	if (key != NULL && poll->subscription->on_failure != ES_FAILURE_DEAD_LETTER)
		add_waiting_key(poll, tenant, key);
	/* what follows may be the next one to break: if this is rolled back, it is still the one that is known */
	held->is_full = true;
	return true;
}

static void
add_waiting_key(Poll *poll, const char *tenant, const char *key)
{
	uint64		hash = es_stream_hash(tenant, key, strlen(key));

	if (poll->waiting_keys == NULL)
	{
		HASHCTL		info = {.keysize = sizeof(uint64), .entrysize = sizeof(uint64), .hcxt = GetMemoryChunkContext(poll)};

		poll->waiting_keys = hash_create("evtstore waiting keys", 64, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(poll->waiting_keys, &hash, HASH_ENTER, NULL);
}

static bool
all_full(Poll *poll)
{
	for (int i = 0; i < poll->nheld; i++)
		if (!poll->held[i].is_full)
			return false;
	return true;
}

static void
hand_out(Poll *poll, EsReader *reader, const EsPolled *event)
{
	poll->count++;
	if (!poll->request->put(reader, event, poll->request->arg))
		poll->max_count = poll->count;
}

/* P9.  The lease begins now: the walk may have been long */
static void
put_lanes(Poll *poll, int64 passed)
{
	TimestampTz until = es_queue_deadline(es_clock_now(), poll->request->lease_ms, "lease");

	for (int i = 0; i < poll->nheld; i++)
	{
		PollLane   *held = &poll->held[i];
		bool		is_out = held->state == ES_LANE_MINE && held->lane.in_flight > held->settled && held->taken == 0;

		if (is_over(poll, held))
			continue;
		/* what is above its end is not its own: the change that ended it may be undone */
		if (!held->is_full)
			held->lane.fetched = Max(held->lane.fetched, Min(passed, held->end));
		/* so that the next holder need not walk all that again; or nobody needs to, because it is the end */
		if ((held->lane.in_flight == 0 && held->lane.fetched - held->checkpoint->position >= PASSED_OVER) ||
			(held->lane.in_flight <= held->settled && held->lane.fetched >= held->end && held->checkpoint->position < held->end))
		{
			es_checkpoint_add(held->checkpoint, held->checkpoint->position, held->lane.fetched);
			held->has_settled = true;
		}
		if (held->has_settled)
			es_checkpoint_write(poll->id, held->number, held->checkpoint);
		if (held->lane.in_flight <= held->settled)
			find_over(poll, held);
		if (is_over(poll, held))
			continue;

		/* a batch that was forgotten must come to the end of its lease, however often its consumer polls */
		if (!is_out && (poll->consumer != ES_LANE_ANONYMOUS || held->taken > 0))
		{
			held->lane.lease_until = until;
			es_lane_put(poll->lanes, held->number, &held->lane);
		}
		else if (!held->has_settled)
			/* nothing was done with it: others may try, and who settles the batch does not wait for us */
			es_subscription_unlock_lane(poll->id, held->number);
	}
}
