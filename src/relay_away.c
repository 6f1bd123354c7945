/*
 * relay_away.c
 *		Of rules, what holds up a lane: put off, so that the events of other endpoints go on.
 *
 * Runs in relay workers.  The events of a rule may each have another endpoint, and a lane hands out no more before all that it handed
 * out is settled.  So what its endpoint does not take, and what takes its time, is put off: a row of failed_event that is due later, no attempt spent, with those of
 * its stream behind it.  docs/architecture-delivery.md, section 6, has the argument.
 *
 * A message that is with the transport for long stays there.  Its event is put off all the same, and the parcel is AWAY until the answer
 * comes.  Then the row goes with it, or is due; and when it is handed out again before that is written, it is known here.  No message of a
 * stream goes out while one of it is away.
 *
 * Locks: those of the lanes of the keys whose answers are written down, to the end of that transaction.  A crash leaves the rows: they are
 * due within seconds, and what was away goes out once more.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/timestamp.h"

#include "compat.h"
#include "failed_event.h"
#include "relay_route.h"
#include "subscription.h"
#include "waiter.h"

/* what can go out no sooner than this is put off, and for no less than the other */
#define SOON (200 * 1000) /* us */
#define MIN_POSTPONE_MS 1000
/* a lane does not wait longer for an answer, nor for those that are behind the share of their target */
#define PATIENCE (500 * 1000) /* us */
/* of one that was too much for its target a moment ago */
#define SHORT_PATIENCE (100 * 1000) /* us */
/* nor for anything longer than this */
#define MAX_HOLD (2 * USECS_PER_SEC)
/* what is put off only so that others have their turn */
#define TURN_MS 100
/* one target costs no more than a look in so many ms, however much waits for it; up to this, for the sake of who comes back */
#define LOOK_MS 1
#define MAX_PACE_MS (60 * 1000)
/* what is away is due within this: a crash forgets it */
#define MAX_AWAY_MS (10 * 1000)
/* an answer that nobody asks for is forgotten */
#define MAX_ANSWER (60 * USECS_PER_SEC)

static bool is_to_put_off(const EsParcel *parcel, TimestampTz now);
static bool is_blocked(const EsTarget *target, TimestampTz now);
static void put_off(EsParcel *parcel, TimestampTz now);
static bool look_late(EsParcel *parcel, TimestampTz now);
static void come_again(EsRoute *route, TimestampTz at);
static int64 away_ms(const EsParcel *parcel, TimestampTz now);
static bool is_of_key(const EsParcel *away, const EsParcel *parcel);
static void take_answer(EsParcel *parcel, EsParcel *away);
static void forget(EsParcel *away);

void
es_route_postpone(EsRoute *route, TimestampTz now)
{
	dlist_mutable_iter iter;

	route->next_late = DT_NOEND;
	dlist_foreach_modify(iter, &route->away)
	{
		EsParcel   *away = dlist_container(EsParcel, node, iter.cur);

		if (away->answer != ES_PARCEL_OUT && away->answered_at < now - MAX_ANSWER)
			forget(away);
	}
	for (EsBatch *batch = route->batches; batch != NULL && route->ready + route->out > 0; batch = batch->next)
		for (int i = 0; i < batch->n && batch->held > 0; i++)
		{
			EsParcel   *parcel = &batch->parcels[i];

			if (parcel->state == ES_PARCEL_READY && is_to_put_off(parcel, now))
				put_off(parcel, now);
			else if (parcel->state == ES_PARCEL_READY && route->is_computed)
				come_again(route, batch->claimed_at + MAX_HOLD);
			else if (look_late(parcel, now))
				es_route_count(route, &route->late, now);
		}
	es_route_free_empty_batches(route);
}

static bool
is_to_put_off(const EsParcel *parcel, TimestampTz now)
{
	if (is_blocked(parcel->target, now))
		return true;
	return parcel->route->is_computed && parcel->batch->claimed_at + MAX_HOLD <= now;
}

/* it takes nothing, or does not answer; nor anything else while a probe is out */
static bool
is_blocked(const EsTarget *target, TimestampTz now)
{
	return target->is_leaving || target->is_gone || target->not_before > now + SOON ||
		(target->breaker == ES_BREAKER_HALF_OPEN && target->in_flight > 0) ||
		(target->away > 0 && target->answered_at < now - PATIENCE);
}

/*
 * With it go those that are behind it.  The more of a target was put off in vain, the longer it is: rows that are due come before new
 * events, and those of one that takes nothing must not be all that is ever looked at.
 */
static void
put_off(EsParcel *parcel, TimestampTz now)
{
	EsTarget   *target = parcel->target;
	bool		blocked = is_blocked(target, now);

	/* a stream that only gives others their turn is not to wait for its length */
	for (EsParcel *it = parcel; it == parcel || (blocked && it != NULL); it = it->behind)
		parcel->delay_ms = es_away_pace(&target->put_off, blocked);
	parcel->delay_ms = Max(parcel->delay_ms, (target->not_before - now) / 1000);
	es_target_take_back(parcel);
	parcel->state = ES_PARCEL_POSTPONED;
	es_route_came_back(parcel, now);
}

int64
es_away_pace(int *put_off, bool is_blocked)
{
	*put_off = Min(*put_off + 1, MAX_PACE_MS / LOOK_MS);
	return Max(is_blocked ? MIN_POSTPONE_MS : TURN_MS, *put_off * LOOK_MS);
}

/* is it out for too long? */
static bool
look_late(EsParcel *parcel, TimestampTz now)
{
	EsRoute    *route = parcel->route;

	if (parcel->state != ES_PARCEL_OUT || parcel->is_late || parcel->is_withdrawn || parcel->is_awaited || route->is_leaving || !route->is_computed)
		return false;
	come_again(route, parcel->submitted_at + PATIENCE);
	if (parcel->submitted_at + PATIENCE > now)
		return false;
	parcel->is_late = true;
	parcel->delay_ms = away_ms(parcel, now);
	return true;
}

static void
come_again(EsRoute *route, TimestampTz at)
{
	route->next_late = Min(route->next_late, at);
}

/* a moment longer than an answer may take, but a crash of ours must not cost that much */
static int64
away_ms(const EsParcel *parcel, TimestampTz now)
{
	int64		left = parcel->out.timeout_ms - (now - parcel->submitted_at) / 1000;

	return Min(Max(left, 0) + MIN_POSTPONE_MS, MAX_AWAY_MS);
}

/*
 * A target that answers, and is slower than its events come, keeps the window to itself and all lanes that they are in.  It may have as
 * much as goes out while some of that is under way.
 */
void
es_route_thin_out(EsTarget *target, TimestampTz now)
{
	int			share = 2 * target->endpoint->max_in_flight;
	TimestampTz patience = target->put_off > 0 ? SHORT_PATIENCE : PATIENCE;
	int			n = 0;
	dlist_mutable_iter iter;

	if (target->endpoint->rate > 0)
		share = Min(share, Max((int) target->endpoint->rate, 1));
	if (target->nready <= share)
		return;
	dlist_foreach_modify(iter, &target->ready)
	{
		EsParcel   *parcel = dlist_container(EsParcel, node, iter.cur);

		if (n++ < share || !parcel->route->is_computed)
			continue;
		if (parcel->batch->claimed_at + patience <= now)
			put_off(parcel, now);
		else
			come_again(parcel->route, parcel->batch->claimed_at + patience);
	}
}

void
es_away_begin(EsParcel *parcel)
{
	Assert(parcel->state == ES_PARCEL_OUT);
	parcel->is_late = false;
	parcel->is_away = true;
	parcel->state = ES_PARCEL_AWAY;
	parcel->answer = ES_PARCEL_OUT;
	parcel->batch->held--;
	parcel->route->held--;
	parcel->target->held--;
	parcel->target->away++;
	dlist_push_tail(&parcel->route->away, &parcel->node);
}

/* of "not now" nothing is kept: the event is due, and goes out when its target takes it */
void
es_away_came_back(EsParcel *parcel, TimestampTz now)
{
	parcel->target->away--;
	parcel->answered_at = now;
	parcel->answer = parcel->is_void || !es_route_is_to_settle(parcel) ? ES_PARCEL_HELD : parcel->state;
	parcel->state = ES_PARCEL_AWAY;
	parcel->is_to_write = true;
	es_route_count(parcel->route, &parcel->route->to_write, now);
}

void
es_away_match(EsBatch *batch, TimestampTz now)
{
	EsRoute    *route = batch->route;

	for (int i = 0; i < batch->n && !dlist_is_empty(&route->away); i++)
	{
		EsParcel   *parcel = &batch->parcels[i];
		dlist_mutable_iter iter;
		EsParcel   *under_way = NULL;

		dlist_foreach_modify(iter, &route->away)
		{
			EsParcel   *away = dlist_container(EsParcel, node, iter.cur);

			if (!is_of_key(away, parcel))
				continue;
			if (away->answer == ES_PARCEL_OUT)
				under_way = away;
			else if (away->event.position == parcel->event.position)
				take_answer(parcel, away);
		}
		if (under_way == NULL)
			continue;
		parcel->state = ES_PARCEL_POSTPONED;
		parcel->delay_ms = away_ms(under_way, now);
	}
}

static bool
is_of_key(const EsParcel *away, const EsParcel *parcel)
{
	if (away->event.position == parcel->event.position)
		return true;
	return away->key != NULL && parcel->key != NULL && strcmp(away->key, parcel->key) == 0 && strcmp(away->tenant, parcel->tenant) == 0;
}

static void
take_answer(EsParcel *parcel, EsParcel *away)
{
	if (!away->is_void && away->answer != ES_PARCEL_HELD)
	{
		parcel->state = away->answer;
		parcel->out.status = away->out.status;
		parcel->out.retry_after_ms = away->out.retry_after_ms;
		strlcpy(parcel->out.error, away->out.error, sizeof(parcel->out.error));
		parcel->reason = parcel->out.error;
	}
	forget(away);
}

/*
 * Locks: the subscription's, shared, then those of the lanes of the keys.  A row that is handed out at this very moment stays; it is matched
 * when it comes again.  How many are done
 */
int
es_away_write(EsRoute *route)
{
	const EsSubscription *subscription;
	uint32	   *hashes;
	int64	   *delivered;
	int64	   *due;
	int			n = 0;
	int			ndelivered = 0;
	int			ndue = 0;
	dlist_iter	iter;

	if (route->to_write == 0 || (subscription = es_subscription_lock(route->id, AccessShareLock)) == NULL)
		return 0;
	hashes = palloc(route->to_write * sizeof(uint32));
	delivered = palloc(route->to_write * sizeof(int64));
	due = palloc(route->to_write * sizeof(int64));
	dlist_foreach(iter, &route->away)
	{
		EsParcel   *away = dlist_container(EsParcel, node, iter.cur);

		if (!away->is_to_write)
			continue;
		hashes[n++] = es_subscription_hash(away->tenant, away->key, away->event.position);
		if (away->answer == ES_PARCEL_DELIVERED && !away->is_void)
			delivered[ndelivered++] = away->event.position;
		else
			due[ndue++] = away->event.position;
	}
	es_subscription_lock_keys(subscription, hashes, n);
	if (ndelivered > 0)
		ndelivered = es_failed_event_ack(subscription, delivered, ndelivered, 0);
	if (ndue > 0)
		es_failed_event_hasten(subscription, due, ndue);
	dlist_foreach(iter, &route->away)
	{
		EsParcel   *away = dlist_container(EsParcel, node, iter.cur);

		away->is_written = away->is_void || away->answer == ES_PARCEL_HELD;
		for (int i = 0; i < ndelivered && away->is_to_write; i++)
			away->is_written |= delivered[i] == away->event.position;
	}
	/* who waits for what is settled */
	es_waiter_wake_at_commit(-route->id, INT_MAX);
	return ndelivered;
}

void
es_away_written(EsRoute *route)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &route->away)
	{
		EsParcel   *away = dlist_container(EsParcel, node, iter.cur);

		if (!away->is_to_write)
			continue;
		away->is_to_write = false;
		route->to_write--;
		if (away->is_written)
			forget(away);
	}
}

void
es_away_forget(EsRoute *route, bool with_out)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &route->away)
	{
		EsParcel   *away = dlist_container(EsParcel, node, iter.cur);

		if (away->answer == ES_PARCEL_OUT && !with_out)
			continue;
		if (away->answer == ES_PARCEL_OUT)
			away->target->away--;
		forget(away);
	}
	es_route_free_empty_batches(route);
}

/* its batch may go; not here, its caller may be at it */
static void
forget(EsParcel *away)
{
	if (away->is_to_write)
		away->route->to_write--;
	away->is_to_write = away->is_away = false;
	away->state = ES_PARCEL_SETTLED;
	dlist_delete(&away->node);
	away->batch->left--;
}
