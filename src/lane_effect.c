/*
 * lane_effect.c
 *		What the end of a transaction does to the lanes that it polled or settled in.
 *
 * Runs in consumers' backends and in workers.  Local to the process: the list of what was done (effect.c).  The lanes are
 * lane.c's and under its LWLocks, one of which is taken for each change, alone.
 *
 * What a poll put is undone when its (sub)transaction is rolled back, before the lane's heavyweight lock is released, so that nobody
 * else has changed it; then what it handed out counts as lost.  What is settled counts when the transaction has committed: a
 * checkpoint that everybody sees comes before the lane that is free.
 *
 * A crash ends every transaction without callbacks, and makes the shared memory anew that they would have changed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/lwlock.h"

#include "compat.h"
#include "effect.h"
#include "lane_effect.h"
#include "waiter.h"

typedef enum EffectKind
{
	EFFECT_PUT,					/* if it is rolled back: what was there before */
	EFFECT_SETTLED,				/* if it is committed: fewer in flight */
	EFFECT_RELEASED,			/* if it is committed: nobody's */
	EFFECT_FORGET				/* if it is committed: the whole entry */
} EffectKind;

typedef struct Effect
{
	EsEffect	base;
	EffectKind	kind;
	EsLanes    *lanes;
	int			number;
	EsLane		before;			/* EFFECT_PUT */
	uint64		epoch;			/* EFFECT_SETTLED, EFFECT_RELEASED */
	int			n;
	EsSlotKey	key;			/* EFFECT_FORGET */
} Effect;

static Effect *effect_at(int i);
static Effect *add_effect(EffectKind kind, EsLanes *lanes, int number);
static bool is_put(const Effect *effect, EsLanes *lanes, int number);
static bool is_settled(const Effect *effect, EsLanes *lanes, int number, uint64 epoch);
static void undo_put(const Effect *effect);
static void count_settled(const Effect *effect);
static void commit(const Effect *effect);
static void finish(int from, int to, bool is_commit);
static bool is_void(const EsEffect *base, int n);

static EsEffects effects = {
	.size = sizeof(Effect),
	.did = "polled or settled events of a subscription",
	.holds = "Lanes",
	.finish = finish,
	.is_void = is_void,
};

void
es_lane_effect_init(void)
{
	es_effects_register(&effects);
}

void
es_lane_effect_put(EsLanes *lanes, int number)
{
	int			level = GetCurrentTransactionNestLevel();

	for (int i = effects.n - 1; i >= 0; i--)
		if (effect_at(i)->base.level == level && is_put(effect_at(i), lanes, number))
			return;
	add_effect(EFFECT_PUT, lanes, number)->before = es_lane_copy(lanes, number);
}

void
es_lane_settled(EsLanes *lanes, int number, uint64 epoch, int n)
{
	Effect	   *effect = NULL;

	for (int i = effects.n - 1; i >= 0 && effect_at(i)->base.level == GetCurrentTransactionNestLevel() && effect == NULL; i--)
		if (is_settled(effect_at(i), lanes, number, epoch))
			effect = effect_at(i);
	if (effect == NULL)
		effect = add_effect(EFFECT_SETTLED, lanes, number);
	effect->epoch = epoch;
	effect->n += n;
}

void
es_lane_released(EsLanes *lanes, int number, uint64 epoch)
{
	add_effect(EFFECT_RELEASED, lanes, number)->epoch = epoch;
}

void
es_lanes_forget(int32 subscription)
{
	EsSlotKey	key = es_slot_key(subscription);

	es_lane_effect_forget(es_lanes_find(subscription), &key);
}

void
es_lane_effect_forget(EsLanes *lanes, const EsSlotKey *key)
{
	add_effect(EFFECT_FORGET, lanes, 0)->key = *key;
}

int
es_lane_settled_here(EsLanes *lanes, int number, uint64 epoch)
{
	int			n = 0;

	for (int i = 0; i < effects.n; i++)
		if (is_settled(effect_at(i), lanes, number, epoch))
			n += effect_at(i)->n;
	return n;
}

int
es_lane_in_flight(EsLanes *lanes, int number, uint64 epoch)
{
	EsLane		lane = es_lane_copy(lanes, number);

	return lane.epoch != epoch ? 0 : Max(lane.in_flight - es_lane_settled_here(lanes, number, epoch), 0);
}

bool
es_lane_is_forgotten(EsLanes *lanes, int number)
{
	for (int i = effects.n - 1; i >= 0; i--)
		if (is_put(effect_at(i), lanes, number))
			return false;
		else if (effect_at(i)->kind == EFFECT_FORGET && effect_at(i)->lanes == lanes)
			return true;
	return false;
}

static Effect *
effect_at(int i)
{
	return es_effects_at(&effects, i);
}

static Effect *
add_effect(EffectKind kind, EsLanes *lanes, int number)
{
	Effect	   *effect = es_effects_add(&effects);

	effect->kind = kind;
	effect->lanes = lanes;
	effect->number = number;
	return effect;
}

static bool
is_put(const Effect *effect, EsLanes *lanes, int number)
{
	return effect->kind == EFFECT_PUT && effect->lanes == lanes && effect->number == number;
}

static bool
is_settled(const Effect *effect, EsLanes *lanes, int number, uint64 epoch)
{
	return effect->kind == EFFECT_SETTLED && effect->lanes == lanes && effect->number == number && effect->epoch == epoch;
}

/* Locks: the lane's, held, so that it is still what we put, but for an extended lease */
static void
undo_put(const Effect *effect)
{
	EsLane	   *lane = es_lanes_place(effect->lanes, effect->number);
	EsLane		after;
	int			handed_out;
	int			again;
	bool		alone;

	LWLockAcquire(es_lanes_lock(effect->lanes), LW_EXCLUSIVE);
	after = *lane;
	handed_out = after.in_flight;
	again = after.again;
	*lane = effect->before;
	if (after.epoch == lane->epoch)
	{
		lane->lease_until = Max(lane->lease_until, after.lease_until);
		handed_out = after.in_flight - lane->in_flight;
		again = after.again - lane->again;
	}
	/* what this transaction settled of it was not what broke it */
	alone = handed_out - es_lane_settled_here(effect->lanes, effect->number, after.epoch) <= 1;
	if (handed_out > again)
		es_lane_note_loss(lane, after.delivered, alone && after.again_last == 0);
	if (handed_out > 0 && again > 0)
		es_lane_note_lost_again(lane, after.again_last, again, after.again_last != 0 && alone);
	LWLockRelease(es_lanes_lock(effect->lanes));
	if (handed_out > 0)
		es_waiter_wake(es_lanes_subscription(effect->lanes), 1);
}

static void
count_settled(const Effect *effect)
{
	EsLane	   *lane = es_lanes_place(effect->lanes, effect->number);

	LWLockAcquire(es_lanes_lock(effect->lanes), LW_EXCLUSIVE);
	if (lane->epoch == effect->epoch)
	{
		lane->in_flight -= Min(effect->n, lane->in_flight);
		if (effect->kind == EFFECT_RELEASED || (lane->in_flight == 0 && lane->consumer == ES_LANE_ANONYMOUS))
		{
			lane->epoch = 0;
			lane->in_flight = 0;
			lane->consumer = ES_LANE_ANONYMOUS;
		}
	}
	LWLockRelease(es_lanes_lock(effect->lanes));
}

static void
commit(const Effect *effect)
{
	if (effect->kind == EFFECT_SETTLED || effect->kind == EFFECT_RELEASED)
		count_settled(effect);
	else if (effect->kind == EFFECT_FORGET)
		es_lanes_forget_key(&effect->key);
}

/* at a rollback in the reverse order; all of them are there until the last is undone: see es_lane_settled_here */
static void
finish(int from, int to, bool is_commit)
{
	for (int i = from; i < to && is_commit; i++)
		commit(effect_at(i));
	for (int i = to - 1; i >= from && !is_commit; i--)
		if (effect_at(i)->kind == EFFECT_PUT)
			undo_put(effect_at(i));
}

/* where the level outside has put the lane already, what was there before that counts */
static bool
is_void(const EsEffect *base, int n)
{
	const Effect *effect = (const Effect *) base;

	for (int i = 0; i < n && effect->kind == EFFECT_PUT; i++)
		if (effect_at(i)->base.level == base->level && is_put(effect_at(i), effect->lanes, effect->number))
			return true;
	return false;
}
