/*
 * lane.c
 *		Who holds the lanes of subscriptions, until when, and how far each was handed out.
 *
 * Runs in consumers' backends and in workers.  docs/architecture-subscriptions.md has the argument.
 *
 * Shared: an entry for each subscription that is in use, with its lanes and its consumers, under one of a few LWLocks; which
 * entry is whose, under another, that is held alone.  An entry goes only with its subscription, whose heavyweight lock
 * every poll and settlement holds.  A lane is changed only by who holds the lane's heavyweight lock, but for what time and
 * others do: a lease that is extended, events whose settlement was committed, a lane without a name that is free with its
 * last event.
 *
 * What a transaction puts is there at once, behind the lane's heavyweight lock; what its end makes of it is in lane_effect.c.
 *
 * A lane's number goes on growing over the generations (lane_layout.c), its place is the number modulo ES_LANE_SLOTS: a place
 * with another number in it is that of a lane that is over and gone.
 *
 * A crash makes all of it anew, empty: every lane is free, and no receipt fits.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"

#include "compat.h"
#include "definition_slot.h"
#include "guc.h"
#include "lane.h"
#include "lane_effect.h"
#include "rate.h"
#include "shmem.h"

#define MAX_CONSUMERS 128

#define ENTRY_LOCKS 16

/* the lock of the keys */
#define KEYS_LOCK (&locks[ENTRY_LOCKS].lock)

/* under an LWLock of its own */
struct EsLanes
{
	EsLane		lanes[ES_LANE_SLOTS];	/* by number, see es_lanes_place */
	EsConsumer	consumers[MAX_CONSUMERS];	/* with an empty name: free */
	EsRate		rate;
};

/* the entries follow the keys, which are under KEYS_LOCK */
static EsSlots *area = NULL;
static LWLockPadded *locks = NULL;

static Size area_size(void);
static void area_init(void *ptr);
static EsLanes *entry_at(int index);
static void begin_entry(int index, void *arg);
static EsLane get_lane(EsLanes *lanes, int number);
static int	find_consumer(EsLanes *lanes, const char *name);
static int	enter_consumer(EsLanes *lanes, const char *name, TimestampTz now);
static int	share_of(EsLanes *lanes, int nlanes, TimestampTz now);
static EsLaneState state_of(EsLanes *lanes, const EsLane *lane, bool is_closing, int consumer, TimestampTz now);
static bool is_held(const EsLane *lane, TimestampTz now);

void
es_lane_init(void)
{
	static const EsShmemPart part = {
		.name = "lanes",
		.size = area_size,
		.init = area_init,
		.area = (void **) &area,
		.nlocks = ENTRY_LOCKS + 1,
		.locks = &locks,
	};

	es_shmem_register(&part);
	es_lane_effect_init();
}

EsLanes *
es_lanes_open(int32 subscription)
{
	int			index = es_slots_take(area, KEYS_LOCK, "subscription", ES_LOCK_SUBSCRIPTION, subscription, begin_entry, NULL);

	if (index < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("%d subscriptions of this server are in use", area->nslots),
				 errhint("Raise evtstore.max_subscriptions and restart the server.")));
	return entry_at(index);
}

EsLanes *
es_lanes_find(int32 subscription)
{
	int			index = es_slots_find(area, KEYS_LOCK, subscription);

	return index < 0 ? NULL : entry_at(index);
}

int
es_lanes_enter(EsLanes *lanes, const EsOpenLanes *open, const char *consumer, TimestampTz now, TimestampTz until, int *numbers,
			   int *give_up, int *index)
{
	int			start = MyProcPid % open->n;
	int			n = 0;
	int			room;

	*give_up = 0;
	*index = ES_LANE_ANONYMOUS;
	LWLockAcquire(es_lanes_lock(lanes), LW_EXCLUSIVE);
	if (consumer != NULL)
	{
		*index = enter_consumer(lanes, consumer, now);
		if (*index < 0)
		{
			LWLockRelease(es_lanes_lock(lanes));
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("the subscription has %d consumers already", MAX_CONSUMERS),
					 errdetail("Consumer \"%s\" would be one more.", consumer),
					 errhint("Let consumers that end call evtstore.leave(); others are forgotten when their last lease is over.")));
		}
		lanes->consumers[*index].last_seen = now;
		lanes->consumers[*index].until = Max(lanes->consumers[*index].until, until);
		for (int i = 0; i < open->n; i++)
		{
			EsLane		lane = get_lane(lanes, open->numbers[i]);

			if (lane.consumer == *index && is_held(&lane, now))
				numbers[n++] = open->numbers[i];
		}
	}
	room = consumer == NULL ? open->n : share_of(lanes, open->n, now) - n;
	*give_up = Max(-room, 0);
	for (int i = 0; i < open->n && room > 0; i++)
	{
		int			next = (start + i) % open->n;
		EsLane		lane = get_lane(lanes, open->numbers[next]);

		if (state_of(lanes, &lane, open->is_closing[next], *index, now) != ES_LANE_FREE)
			continue;
		numbers[n++] = open->numbers[next];
		room--;
	}
	LWLockRelease(es_lanes_lock(lanes));
	return n;
}

EsLaneState
es_lane_look(EsLanes *lanes, int number, bool is_closing, int consumer, TimestampTz now, EsLane *lane)
{
	*lane = es_lane_copy(lanes, number);
	if (es_lane_is_forgotten(lanes, number))
	{
		memset(lane, 0, sizeof(EsLane));
		lane->number = number;
	}
	return state_of(lanes, lane, is_closing, consumer, now);
}

void
es_lane_begin(EsLane *lane, int consumer, int64 position)
{
	/* a lease that ran out over events that were handed out */
	if (lane->epoch != 0 && lane->in_flight > 0)
		es_lane_note_loss(lane, lane->delivered, lane->in_flight == 1);
	do
	{
		if (!pg_strong_random(&lane->epoch, sizeof(lane->epoch)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random number for the epoch of a lane")));
	} while (lane->epoch == 0);
	lane->consumer = consumer;
	lane->in_flight = 0;
	lane->is_over = false;
	lane->fetched = position;
	lane->delivered = position;
	lane->again = 0;
	lane->again_last = 0;
}

void
es_lane_put(EsLanes *lanes, int number, const EsLane *lane)
{
	/* before anything is changed: it may fail */
	es_lane_effect_put(lanes, number);
	LWLockAcquire(es_lanes_lock(lanes), LW_EXCLUSIVE);
	if (lane->consumer != ES_LANE_ANONYMOUS)
		lanes->consumers[lane->consumer].until = Max(lanes->consumers[lane->consumer].until, lane->lease_until);
	*es_lanes_place(lanes, number) = *lane;
	LWLockRelease(es_lanes_lock(lanes));
}

int
es_lane_attempt(const EsLane *lane, int64 position)
{
	return 1 + (position <= lane->lost_until ? lane->lost : 0) + (position == lane->suspect ? lane->suspect_lost : 0);
}

int
es_lane_lost_again(const EsLane *lane, int64 position)
{
	return (lane->again_left > 0 ? 1 : 0) + (position == lane->again_suspect ? lane->again_suspect_lost : 0);
}

void
es_lane_give_up(EsLanes *lanes, int number)
{
	EsLane	   *lane = es_lanes_place(lanes, number);

	LWLockAcquire(es_lanes_lock(lanes), LW_EXCLUSIVE);
	*lane = get_lane(lanes, number);
	lane->epoch = 0;
	lane->in_flight = 0;
	lane->consumer = ES_LANE_ANONYMOUS;
	LWLockRelease(es_lanes_lock(lanes));
}

void
es_lane_close(EsLanes *lanes, int number, int64 end)
{
	EsLane	   *lane = es_lanes_place(lanes, number);

	LWLockAcquire(es_lanes_lock(lanes), LW_EXCLUSIVE);
	memset(lane, 0, sizeof(EsLane));
	lane->consumer = ES_LANE_ANONYMOUS;
	lane->number = number;
	lane->is_over = true;
	lane->over_at = end;
	LWLockRelease(es_lanes_lock(lanes));
}

bool
es_lane_is_held(EsLanes *lanes, int number, uint64 epoch, EsLane *lane)
{
	*lane = es_lane_copy(lanes, number);
	return lane->epoch == epoch && epoch != 0;
}

bool
es_lane_extend(EsLanes *lanes, int number, uint64 epoch, TimestampTz until)
{
	EsLane	   *lane;
	bool		result;

	lane = es_lanes_place(lanes, number);
	LWLockAcquire(es_lanes_lock(lanes), LW_EXCLUSIVE);
	result = lane->number == number && lane->epoch == epoch && epoch != 0;
	if (result)
	{
		lane->lease_until = until;
		if (lane->consumer != ES_LANE_ANONYMOUS)
			lanes->consumers[lane->consumer].until = Max(lanes->consumers[lane->consumer].until, until);
	}
	LWLockRelease(es_lanes_lock(lanes));
	return result;
}

int
es_lanes_of_consumer(EsLanes *lanes, const char *consumer, int *numbers)
{
	int			index;
	int			n = 0;

	LWLockAcquire(es_lanes_lock(lanes), LW_SHARED);
	index = find_consumer(lanes, consumer);
	for (int i = 0; i < ES_LANE_SLOTS && index >= 0; i++)
		if (lanes->lanes[i].epoch != 0 && lanes->lanes[i].consumer == index)
			numbers[n++] = lanes->lanes[i].number;
	LWLockRelease(es_lanes_lock(lanes));
	return index < 0 ? -1 : n;
}

/* lanes that it got meanwhile stay as they are until their lease is over */
void
es_lanes_forget_consumer(EsLanes *lanes, const char *consumer)
{
	int			index;

	LWLockAcquire(es_lanes_lock(lanes), LW_EXCLUSIVE);
	index = find_consumer(lanes, consumer);
	if (index >= 0)
	{
		for (int i = 0; i < ES_LANE_SLOTS; i++)
			if (lanes->lanes[i].consumer == index)
				lanes->lanes[i].consumer = ES_LANE_ANONYMOUS;
		memset(&lanes->consumers[index], 0, sizeof(EsConsumer));
	}
	LWLockRelease(es_lanes_lock(lanes));
}

EsLane
es_lane_copy(EsLanes *lanes, int number)
{
	EsLane		lane;

	LWLockAcquire(es_lanes_lock(lanes), LW_SHARED);
	lane = get_lane(lanes, number);
	LWLockRelease(es_lanes_lock(lanes));
	return lane;
}

bool
es_lane_is_known(EsLanes *lanes, int number)
{
	bool		result;

	LWLockAcquire(es_lanes_lock(lanes), LW_SHARED);
	result = es_lanes_place(lanes, number)->number == number;
	LWLockRelease(es_lanes_lock(lanes));
	return result;
}

int
es_lanes_numbers(EsLanes *lanes, int *numbers)
{
	int			n = 0;

	LWLockAcquire(es_lanes_lock(lanes), LW_SHARED);
	for (int i = 0; i < ES_LANE_SLOTS; i++)
		if (lanes->lanes[i].lease_until != 0)
			numbers[n++] = lanes->lanes[i].number;
	LWLockRelease(es_lanes_lock(lanes));
	return n;
}

EsConsumer *
es_lanes_consumers(EsLanes *lanes, int *n)
{
	EsConsumer *copies = palloc(sizeof(lanes->consumers));

	LWLockAcquire(es_lanes_lock(lanes), LW_SHARED);
	memcpy(copies, lanes->consumers, sizeof(lanes->consumers));
	LWLockRelease(es_lanes_lock(lanes));
	*n = MAX_CONSUMERS;
	return copies;
}

static Size
area_size(void)
{
	return add_size(es_slots_size(es_guc_max_subscriptions), mul_size(es_guc_max_subscriptions, sizeof(EsLanes)));
}

static void
area_init(void *ptr)
{
	((EsSlots *) ptr)->nslots = es_guc_max_subscriptions;
}

static EsLanes *
entry_at(int index)
{
	return (EsLanes *) ((char *) area + es_slots_size(area->nslots)) + index;
}

LWLock *
es_lanes_lock(EsLanes *lanes)
{
	return &locks[(lanes - entry_at(0)) % ENTRY_LOCKS].lock;
}

/* Locks: KEYS_LOCK, exclusive */
static void
begin_entry(int index, void *arg)
{
	EsLanes    *lanes = entry_at(index);

	memset(lanes, 0, sizeof(EsLanes));
	for (int i = 0; i < ES_LANE_SLOTS; i++)
		lanes->lanes[i].consumer = ES_LANE_ANONYMOUS;
}

/* whatever number a receipt may name */
EsLane *
es_lanes_place(EsLanes *lanes, int number)
{
	return &lanes->lanes[(uint32) number % ES_LANE_SLOTS];
}

/* Locks: the entry's, held */
static EsLane
get_lane(EsLanes *lanes, int number)
{
	EsLane		lane = *es_lanes_place(lanes, number);

	if (lane.number == number)
		return lane;
	return (EsLane) {.consumer = ES_LANE_ANONYMOUS, .number = number};
}

void
es_lanes_forget_databases(List *existing)
{
	es_slots_forget_databases(area, KEYS_LOCK, existing, NULL);
}

void
es_lanes_forget_store(Oid definition)
{
	int			n;
	EsSlotKey  *keys = es_slots_lock_store(area, KEYS_LOCK, ES_LOCK_SUBSCRIPTION, definition, &n);

	for (int i = 0; i < n; i++)
		es_lane_effect_forget(entry_at(es_slots_find_key(area, KEYS_LOCK, &keys[i])), &keys[i]);
	pfree(keys);
}

void
es_lanes_forget_key(const EsSlotKey *key)
{
	es_slots_forget(area, KEYS_LOCK, key, NULL);
}

int32
es_lanes_subscription(EsLanes *lanes)
{
	return area->keys[lanes - entry_at(0)].id;
}

static int
find_consumer(EsLanes *lanes, const char *name)
{
	for (int i = 0; i < MAX_CONSUMERS; i++)
		if (strcmp(lanes->consumers[i].name, name) == 0)
			return i;
	return -1;
}

/* its number, a new one if need be; -1: no room.  One that was not heard of for its whole lease gives its place */
static int
enter_consumer(EsLanes *lanes, const char *name, TimestampTz now)
{
	int			index = find_consumer(lanes, name);

	for (int i = 0; i < MAX_CONSUMERS && index < 0; i++)
	{
		EsConsumer *consumer = &lanes->consumers[i];

		if (consumer->name[0] != '\0' && consumer->until > now)
			continue;
		for (int j = 0; j < ES_LANE_SLOTS; j++)
			if (lanes->lanes[j].consumer == i)
				lanes->lanes[j].consumer = ES_LANE_ANONYMOUS;
		memset(consumer, 0, sizeof(EsConsumer));
		strlcpy(consumer->name, name, sizeof(consumer->name));
		index = i;
	}
	return index;
}

/* lanes by consumers, rounded up */
static int
share_of(EsLanes *lanes, int nlanes, TimestampTz now)
{
	int			consumers = 0;

	for (int i = 0; i < MAX_CONSUMERS; i++)
		if (lanes->consumers[i].name[0] != '\0' && lanes->consumers[i].until > now)
			consumers++;
	return (nlanes + consumers - 1) / Max(consumers, 1);
}

static EsLaneState
state_of(EsLanes *lanes, const EsLane *lane, bool is_closing, int consumer, TimestampTz now)
{
	if (!is_held(lane, now))
		return ES_LANE_FREE;
	if (lane->consumer != ES_LANE_ANONYMOUS && lane->consumer == consumer)
		return ES_LANE_MINE;
	if (lane->consumer != ES_LANE_ANONYMOUS && !is_closing)
		return ES_LANE_TAKEN;
	/* what this transaction settled is settled for itself */
	return lane->in_flight <= es_lane_settled_here(lanes, lane->number, lane->epoch) ? ES_LANE_FREE : ES_LANE_TAKEN;
}

static bool
is_held(const EsLane *lane, TimestampTz now)
{
	return lane->epoch != 0 && lane->lease_until > now;
}

/*
 * What was handed out up to that position came back unsettled.  One event alone that comes back is the suspect: its
 * losses are its own.
 */
void
es_lane_note_loss(EsLane *lane, int64 until, bool alone)
{
	lane->lost_until = Max(lane->lost_until, until);
	if (lane->lost < ES_LANE_MAX_LOST)
		lane->lost++;
	else if (alone)
	{
		lane->suspect_lost = lane->suspect == until ? lane->suspect_lost + 1 : 1;
		lane->suspect = until;
	}
}

/*
 * Of those that failed before n came back, the last one alone or not.  Alone it is the suspect; else the next n, which are the
 * same ones, go one at a time, so that it shows which of them breaks its consumers.
 */
void
es_lane_note_lost_again(EsLane *lane, int64 last, int n, bool alone)
{
	if (alone)
	{
		lane->again_suspect_lost = lane->again_suspect == last ? lane->again_suspect_lost + 1 : 1;
		lane->again_suspect = last;
	}
	else
		lane->again_left = Max(lane->again_left, n);
}

int
es_lanes_take_rate(EsLanes *lanes, double per_second, int want, TimestampTz now, TimestampTz *next)
{
	int			room;

	LWLockAcquire(es_lanes_lock(lanes), LW_EXCLUSIVE);
	room = Min(want, es_rate_room(&lanes->rate, per_second, now));
	es_rate_spend(&lanes->rate, room);
	*next = room > 0 ? now : es_rate_next(&lanes->rate, per_second, now);
	LWLockRelease(es_lanes_lock(lanes));
	return room;
}

void
es_lanes_give_rate(EsLanes *lanes, int n)
{
	LWLockAcquire(es_lanes_lock(lanes), LW_EXCLUSIVE);
	es_rate_spend(&lanes->rate, -n);
	LWLockRelease(es_lanes_lock(lanes));
}
