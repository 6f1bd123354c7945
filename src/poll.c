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
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "checkpoint.h"
#include "clock.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "failed_event.h"
#include "failed_read.h"
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
#include "watch.h"

/* what was passed over without an event to settle is written down once it is so much */
#define PASSED_OVER 1000

/* a poll that hands out n events puts aside at most so many times n that wait or fail */
#define ASIDE_FOR_EACH 10

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
	bool		has_failed;		/* one that was handed out again failed by what was lost */
	int			taken;
	int			again;			/* due ones that failed before: found; when they are handed out, chosen */
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
	EsFailedReader *aside;
	List	   *failed;			/* EsFailedEvent *: due, of our lanes, in front of their keys; not more than may be handed out */
	EsWaitingEvents waiting;
	int			naside;			/* put aside by this poll */
	int			nwalked;		/* rows looked at by it */
	int			count;			/* handed out */
	const EsPollRequest *request;
} Poll;

static void poll_round(Poll *poll, const char *consumer, TimestampTz until);
static void take_lanes(Poll *poll, const int *numbers, int n, int give_up);
static void open_reader(EsReader *reader, void *arg);
static void read_checkpoints(Poll *poll, Snapshot snapshot);
static void find_over(Poll *poll, PollLane *held);
static void read_failed(Poll *poll, Snapshot snapshot);
static void hand_out_failed(Poll *poll);
static bool is_spent(Poll *poll, PollLane *held, EsFailedEvent *front);
static void fail_lost(Poll *poll, PollLane *held, EsFailedEvent *front);
static bool choose(Poll *poll, PollLane *held, EsFailedEvent *front);
static void hand_out_again(Poll *poll, EsFailedEvent *const *chosen, int n);
static void forget_gone(Poll *poll, const EsFailedEvent *failed);
static int64 hand_out_next(Poll *poll, EsReader *reader);
static bool is_over(Poll *poll, const PollLane *held);
static bool may_take(PollLane *held, int max_in_flight, int64 position);
static bool set_aside(Poll *poll, PollLane *held, int64 position, const char *tenant, const char *key);
static bool has_walked(const Poll *poll);
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

	poll->waiting.context = CurrentMemoryContext;
	poll->now = es_clock_now();
	until = es_queue_deadline(poll->now, request->lease_ms, "lease");
	poll->lanes = es_lanes_open(id);
	if (poll->subscription->rate > 0)
	{
		poll->max_count = room = es_lanes_take_rate(poll->lanes, poll->subscription->rate, request->max_count, poll->now, &next);
		if (room == 0)
		{
			es_watch_tell(id, 0);
			return 0;
		}
	}
	/* where lanes came to their end, those that come after them begin */
	do
	{
		nover = poll->nover;
		poll_round(poll, request->consumer, until);
	} while (poll->nover > nover && poll->count < poll->max_count);
	if (poll->subscription->rate > 0)
	{
		es_lanes_give_rate(poll->lanes, room - poll->count);
		/* who got less than he wanted, by the rate, and listens: he is told when there may be more (notifier.c) */
		if (poll->count == room && room < request->max_count)
			es_watch_tell(id, 0);
	}
	if (request->has_more != NULL)
		*request->has_more = poll->naside >= ASIDE_FOR_EACH * poll->max_count || has_walked(poll);
	else if (poll->count == 0 && poll->naside >= ASIDE_FOR_EACH * poll->max_count)
		es_waiter_wake_at_commit(id, 1);	/* he takes it for the end, and there may be more */
	if (poll->count > 0 || poll->naside > 0)
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
	es_failed_event_put_waiting(poll->subscription, &poll->waiting);
	put_lanes(poll, passed);
	es_failed_reader_close(poll->aside);
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
	if (poll->subscription->replay_to != 0)
		poll->head = Min(poll->head, poll->subscription->replay_to);
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

/* those that are due, no more than may be handed out: what is blocked or due later costs nothing */
static void
read_failed(Poll *poll, Snapshot snapshot)
{
	int			room = poll->max_count - poll->count;
	EsFailedEvent *failed;

	poll->aside = es_failed_reader_open(poll->subscription, snapshot);
	es_failed_reader_begin_due(poll->aside, poll->now);
	while (room > 0 && (failed = es_failed_reader_next_due(poll->aside)) != NULL)
	{
		uint32		hash = es_subscription_hash(failed->tenant, failed->key, failed->position);
		PollLane   *held;

		failed->lane = es_lane_layout_serving(poll->subscription->layout, hash, poll->is_over);
		held = poll->by_place[es_lane_place(failed->lane)];
		if (held == NULL || held->is_full || failed->epoch == held->lane.epoch || (held->again > 0 && held->lane.again_left > 0))
			continue;
		poll->failed = lappend(poll->failed, failed);
		held->again++;
		room--;
	}
	for (int i = 0; i < poll->nheld && room > 0; i++)
		if (poll->held[i].again == 0 && !poll->held[i].is_full)
			poll->held[i].lane.again_left = 0;	/* others have handed out those that were lost, or they are gone */
}

/*
 * P7.  One that failed goes alone of its key, to show whether it does now.  One that waited and is in front by now brings those
 * behind it along: a key that was held up catches up.
 */
static void
hand_out_failed(Poll *poll)
{
	EsFailedEvent **chosen = palloc((poll->max_count + 1) * sizeof(EsFailedEvent *));
	int			n = 0;
	ListCell   *lc;

	for (int i = 0; i < poll->nheld; i++)
		poll->held[i].again = 0;
	foreach(lc, poll->failed)
	{
		EsFailedEvent *front = lfirst(lc);
		PollLane   *held = poll->by_place[es_lane_place(front->lane)];
		int			room = poll->max_count - poll->count - n;
		ListCell   *behind;

		if (held->is_full || room <= 0)
			continue;
		if (is_spent(poll, held, front))
		{
			fail_lost(poll, held, front);
			continue;
		}
		if (!choose(poll, held, front))
			continue;
		chosen[n++] = front;
		if (front->has_failed || front->key == NULL || held->is_full || room == 1)
			continue;
		foreach(behind, es_failed_event_behind(poll->id, front, room - 1))
		{
			(void) choose(poll, held, lfirst(behind));
			chosen[n++] = lfirst(behind);
		}
	}
	hand_out_again(poll, chosen, n);
}

/* is it known to be lost with its last attempt?  It was alone, or in a hold that is over, and never heard of again */
static bool
is_spent(Poll *poll, PollLane *held, EsFailedEvent *front)
{
	int			max_attempts = poll->subscription->retry.max_attempts;

	return max_attempts > 0 && (front->epoch != 0 || front->position == held->lane.again_suspect) &&
		front->attempt + es_lane_lost_again(&held->lane, front->position) >= max_attempts;
}

static void
fail_lost(Poll *poll, PollLane *held, EsFailedEvent *front)
{
	front->attempt += es_lane_lost_again(&held->lane, front->position);
	if (front->epoch == 0)
		front->epoch = held->lane.epoch;
	es_failed_event_hand_out(poll->subscription, &front, 1);
	(void) es_failed_event_nack(poll->subscription, front->position, front->epoch, false, LOST, -1);
	poll->naside++;
	held->has_failed = true;
	if (held->lane.again_left > 0)
		held->lane.again_left--;
	if (held->lane.again_suspect != front->position)
		return;
	/* what follows may be the next one to break: if this is rolled back, it is still the one that is known */
	held->lane.again_suspect = 0;
	held->is_full = true;
}

/* false: not with what is chosen already */
static bool
choose(Poll *poll, PollLane *held, EsFailedEvent *failed)
{
	bool		is_suspect = failed->position == held->lane.again_suspect;
	bool		alone = is_suspect || held->lane.again_left > 0;

	if (alone && held->again > 0)
		return false;
	failed->attempt += 1 + es_lane_lost_again(&held->lane, failed->position);
	failed->epoch = held->lane.epoch;
	held->again++;
	if (held->lane.again_left > 0)
		held->lane.again_left--;
	/* from here on its row counts what was lost */
	if (is_suspect)
		held->lane.again_suspect = 0;
	if (alone)
		held->is_full = true;
	return true;
}

static void
hand_out_again(Poll *poll, EsFailedEvent *const *chosen, int n)
{
	int64	   *positions = palloc(Max(n, 1) * sizeof(int64));
	EsReader   *reader;
	int			next = 0;
	TupleTableSlot *slot;

	if (n == 0)
		return;
	es_failed_event_hand_out(poll->subscription, chosen, n);
	for (int i = 0; i < n; i++)
		positions[i] = chosen[i]->position;
	reader = es_failed_reader_events(positions, n);
	while (poll->count < poll->max_count && (slot = es_reader_next(reader)) != NULL)
	{
		bool		isnull;
		int64		position = DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION + 1, &isnull));
		PollLane   *held;

		for (; positions[next] != position; next++)
			forget_gone(poll, chosen[next]);
		held = poll->by_place[es_lane_place(chosen[next]->lane)];
		hand_out(poll, reader, &(EsPolled) {.lane = held->number, .epoch = held->lane.epoch, .before = position,
				 .position = position, .attempt = chosen[next]->attempt, .tenant = chosen[next]->tenant, .key = chosen[next]->key});
		held->lane.in_flight++;
		held->lane.again++;
		held->lane.again_last = held->taken == 0 ? position : 0;
		held->taken++;
		next++;
	}
	es_reader_close(reader);
	if (poll->count < poll->max_count)
	{
		for (; next < n; next++)
			forget_gone(poll, chosen[next]);
		return;
	}
	/* whoever polls wants no more: these stay where they were */
	for (int i = next; i < n; i++)
	{
		chosen[i]->epoch = 0;
		chosen[i]->attempt--;
	}
	es_failed_event_hand_out(poll->subscription, chosen + next, n - next);
}

/* scavenged: nothing is left to do about it */
static void
forget_gone(Poll *poll, const EsFailedEvent *failed)
{
	int64		position = failed->position;

	(void) es_failed_event_ack(poll->subscription, &position, 1, failed->epoch);
	if (failed->key != NULL && !es_failed_event_key_waits(poll->subscription, failed->tenant, failed->key))
		es_failed_reader_set_key(poll->aside, failed->tenant, failed->key, false);
}

/* P8; how far the walk came */
static int64
hand_out_next(Poll *poll, EsReader *reader)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore poll", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int64		passed = 0;
	TupleTableSlot *slot;

	while (poll->count < poll->max_count && poll->naside < ASIDE_FOR_EACH * poll->max_count && !all_full(poll) && !has_walked(poll))
	{
		int64		position;
		char	   *tenant;
		char	   *key;
		PollLane   *held;
		bool		isnull;

		MemoryContextReset(context);
		slot = es_reader_next(reader);
		poll->nwalked++;
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
			poll->naside++;
		}
		else
		{
			hand_out(poll, reader, &(EsPolled) {.lane = held->number, .epoch = held->lane.epoch, .before = held->lane.delivered,
					 .position = position, .attempt = es_lane_attempt(&held->lane, position), .tenant = tenant, .key = key});
			held->lane.delivered = position;
			held->lane.again_last = 0;
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

/*
 * An event that waits behind an older one of its key, or one that spent its attempts without a word: its consumers rolled
 * back or did not come back.
 */
static bool
set_aside(Poll *poll, PollLane *held, int64 position, const char *tenant, const char *key)
{
	int			max_attempts = poll->subscription->retry.max_attempts;
	int			attempts = es_lane_attempt(&held->lane, position) - 1;

	if (key != NULL && es_failed_reader_key_waits(poll->aside, tenant, key))
	{
		es_failed_event_wait(&poll->waiting, position, tenant, key);
		return true;
	}
	if (max_attempts == 0 || attempts < max_attempts || position != held->lane.suspect)
		return false;
	es_failed_event_add(poll->subscription, position, tenant, key, attempts, "lease expired", false, LOST, -1);
	if (key != NULL && poll->subscription->on_failure != ES_FAILURE_DEAD_LETTER)
		es_failed_reader_set_key(poll->aside, tenant, key, true);
	/* what follows may be the next one to break: if this is rolled back, it is still the one that is known */
	held->is_full = true;
	return true;
}

static bool
has_walked(const Poll *poll)
{
	return poll->request->max_walk > 0 && poll->nwalked >= poll->request->max_walk;
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
	/* of a rebuild everybody looks how far it is, and it polls no more often than its worker naps */
	int64		passed_over = poll->subscription->is_rebuild ? 1 : PASSED_OVER;

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
		if ((held->lane.in_flight == 0 && held->lane.fetched - held->checkpoint->position >= passed_over) ||
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
		else if (held->has_failed && !is_out)
		{
			/* what was lost is written down: nobody's, and without the memory of it */
			held->lane.epoch = 0;
			held->lane.in_flight = 0;
			es_lane_put(poll->lanes, held->number, &held->lane);
		}
		else if (!held->has_settled)
			/* nothing was done with it: others may try, and who settles the batch does not wait for us */
			es_subscription_unlock_lane(poll->id, held->number);
	}
}
