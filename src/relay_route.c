/*
 * relay_route.c
 *		A subscription, queue or rule on its way out: order of keys, settlement.
 *
 * Runs in relay workers.  What was claimed together is a batch (relay_claim.c), which goes when all of it is settled.  What is changed here by
 * a settlement is changed after its commit: an error leaves everything as it was, and the settlement is made again.
 *
 * Locks: those of settlements, to the end of their transactions.  A crash forgets it all; leases and holds go with
 * shared memory, and what was not settled is claimed again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "catalog.h"
#include "clock.h"
#include "cloudevent.h"
#include "compat.h"
#include "dead_key.h"
#include "definition.h"
#include "envelope.h"
#include "evtstore.h"
#include "failed_event.h"
#include "guc.h"
#include "process.h"
#include "queue.h"
#include "registry.h"
#include "rule.h"
#include "relay_route.h"
#include "subscription.h"
#include "subscription_delivery.h"
#include "subscription_look.h"
#include "subscription_poll.h"

/* a batch of outcomes, or this long after the first one */
#define SETTLE_AFTER (5 * 1000) /* us */
#define SETTLE_BATCH 256
#define MAX_CLAIM 2000
/* parcels of a rule that are held, for whatever endpoints */
#define RULE_WINDOW 1000
/* renewed in time, whatever the time-outs of its endpoints */
#define RULE_TIMEOUT_MS 10000

/* what a settlement found out, for after its commit */
typedef struct Fate
{
	EsParcel *parcel;
	bool is_failed; /* or put off: what is behind it may have been taken back with it */
} Fate;

static void give_back(EsRoute *route, bool only_dissolved);
static bool is_to_give_back(const EsParcel *parcel, bool only_dissolved);
static int	settle_events(EsRoute *route, EsParcelState state, EsSettle how, Fate *fates);
static int	settle_messages(EsRoute *route, EsParcelState state, EsSettle how, Fate *fates);
static bool is_to_settle_so(const EsParcel *parcel, EsParcelState state);
static bool is_done(const EsParcel *parcel);
static bool is_free(EsParcel *parcel);
static void came_back(EsParcel *parcel, TimestampTz now);
static void riders_arrived(EsParcel *leader, TimestampTz now);
static void came_back_withdrawn(EsParcel *parcel, TimestampTz now);
static void withdraw(EsParcel *parcel);
static void hold_back(EsParcel *parcel);
static void go_on(EsParcel *parcel);
static void dissolve(EsBatch *batch);

EsRoute *
es_route_begin(const EsPush *push, EsTarget *target)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "evtstore relay route", ALLOCSET_SMALL_SIZES);
	EsRoute    *route = MemoryContextAllocZero(context, sizeof(EsRoute));

	route->context = context;
	route->id = push->id;
	route->is_queue = push->is_queue;
	route->is_rule = push->is_rule;
	route->name = MemoryContextStrdup(context, push->name);
	route->categories = push->categories;
	route->replay_to = push->replay_to;
	route->target = target;
	route->may_have = true;
	route->due = route->next_late = DT_NOEND;
	dlist_init(&route->away);
	if (target != NULL)
		target->nroutes++;
	return route;
}

void
es_route_leave(EsRoute *route)
{
	if (route->is_leaving)
		return;
	route->is_leaving = true;
	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
		{
			if (batch->parcels[i].state == ES_PARCEL_READY)
				es_target_take_back(&batch->parcels[i]);
			else if (batch->parcels[i].state == ES_PARCEL_BEHIND || batch->parcels[i].state == ES_PARCEL_RIDING)
				batch->parcels[i].state = ES_PARCEL_HELD;
		}
}

void
es_route_free(EsRoute *route)
{
	Assert(route->batches == NULL);
	if (route->target != NULL)
		route->target->nroutes--;
	MemoryContextDelete(route->context);
}

int64
es_route_lease(const EsRoute *route)
{
	return es_guc_lease + (route->is_rule ? RULE_TIMEOUT_MS : route->target->endpoint->timeout_ms);
}

bool
es_route_may_claim(const EsRoute *route)
{
	if (!route->may_have || route->is_leaving)
		return false;
	if (route->is_rule)
		return es_route_room(route) >= RULE_WINDOW / 4;
	return es_target_takes(route->target) && (route->held == 0 || es_target_wants(route->target)) && es_route_room(route) > 0;
}

int
es_route_room(const EsRoute *route)
{
	int			share;

	if (route->is_rule)
		return RULE_WINDOW - route->held;
	if (route->target->breaker != ES_BREAKER_CLOSED)
		return 1;
	/* a share for each that has the same target, and be the window full by others */
	share = Max(es_target_window(route->target) / Max(route->target->nroutes, 1), 1) - route->held;
	return Min(Max(es_target_room(route->target), route->held == 0 ? share : 0), Min(share, MAX_CLAIM));
}

void
es_route_came_back(EsParcel *parcel, TimestampTz now)
{
	EsRoute    *route = parcel->route;
	bool		was_awaited = parcel->is_awaited;
	bool		was_withdrawn = parcel->is_withdrawn;

	if (parcel->is_away)
	{
		es_away_came_back(parcel, now);
		return;
	}
	if (parcel->is_late)
		route->late--;
	parcel->is_late = parcel->is_awaited = false;
	if (was_withdrawn)
		came_back_withdrawn(parcel, now);
	else
		came_back(parcel, now);
	/* what was claimed meanwhile may go when all of these have come back */
	if (was_awaited && --route->withdrawn == 0)
		for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
			if (batch->is_waiting)
				es_route_start_batch(batch);
	if (was_withdrawn)
		es_route_free_empty_batches(route);
}

static void
came_back(EsParcel *parcel, TimestampTz now)
{
	EsRoute    *route = parcel->route;

	if ((parcel->rider != NULL && (parcel->state == ES_PARCEL_FAILED || parcel->state == ES_PARCEL_REJECTED)) ||
		(parcel->batch->is_dissolved && parcel->state == ES_PARCEL_READY))
	{
		if (parcel->state != ES_PARCEL_READY)
			parcel->state = ES_PARCEL_HELD;
		dissolve(parcel->batch);
		return;
	}
	if (parcel->state == ES_PARCEL_DELIVERED)
	{
		riders_arrived(parcel, now);
		go_on(parcel);
	}
	else
		hold_back(parcel);
	if (parcel->state == ES_PARCEL_READY && parcel->must_wait)
	{
		es_target_take_back(parcel);
		parcel->state = ES_PARCEL_BEHIND;
	}
	if (!es_route_is_to_settle(parcel))
		return;
	es_route_count(route, &route->done, now);
	if (parcel->rider != NULL)
		route->done_since = now;
}

/* those that are still ours */
static void
riders_arrived(EsParcel *leader, TimestampTz now)
{
	for (EsParcel *rider = leader->rider; rider != NULL; rider = rider->rider)
		if (rider->state == ES_PARCEL_RIDING || rider->state == ES_PARCEL_HELD)
		{
			rider->state = ES_PARCEL_DELIVERED;
			es_route_count(rider->route, &rider->route->done, now);
		}
}

/*
 * A group is refused, and nobody knows for whose sake.  All that was claimed with it is given back, and the next claim is sent one by
 * one: what is refused then is refused by itself.
 */
static void
dissolve(EsBatch *batch)
{
	for (int i = 0; i < batch->n; i++)
	{
		EsParcel   *parcel = &batch->parcels[i];

		if (parcel->state == ES_PARCEL_READY)
			es_target_take_back(parcel);
		else if (parcel->state == ES_PARCEL_BEHIND || (parcel->state == ES_PARCEL_RIDING && parcel->leader->state != ES_PARCEL_OUT))
			parcel->state = ES_PARCEL_HELD;
	}
	batch->is_dissolved = true;
	batch->route->singles = 1;
	batch->route->dissolved++;
}

bool
es_route_is_to_settle(const EsParcel *parcel)
{
	return parcel->state == ES_PARCEL_DELIVERED || parcel->state == ES_PARCEL_FAILED || parcel->state == ES_PARCEL_REJECTED ||
		parcel->state == ES_PARCEL_POSTPONED;
}

/*
 * It is not delivered: none of its key may pass it.  That is so already but where the transport keeps the order, and all of them were let
 * go; those that are out come back, too.
 */
static void
hold_back(EsParcel *parcel)
{
	for (EsParcel *behind = parcel->behind; behind != NULL; behind = behind->behind)
	{
		if (behind->state == ES_PARCEL_READY)
		{
			es_target_take_back(behind);
			behind->state = ES_PARCEL_BEHIND;
		}
		else if (behind->state == ES_PARCEL_OUT)
			behind->must_wait = true;
	}
}

/* it is done: is the next one of its key, now that nothing is in front of it any more? */
static void
go_on(EsParcel *parcel)
{
	EsParcel   *next = parcel->behind;

	while (next != NULL && is_done(next))
		next = next->behind;
	if (next == NULL || !is_free(next))
		return;
	next->must_wait = false;
	if (next->state != ES_PARCEL_BEHIND)
		return;
	if (next->route->is_leaving || (next->target->is_leaving && !next->route->is_rule))
		next->state = ES_PARCEL_HELD;
	else
		es_target_put_ready(next);
}

static bool
is_done(const EsParcel *parcel)
{
	return parcel->state == ES_PARCEL_DELIVERED || parcel->state == ES_PARCEL_SETTLED;
}

/* those that are done are taken out of the chain on the way */
static bool
is_free(EsParcel *parcel)
{
	while (parcel->ahead != NULL && is_done(parcel->ahead))
		parcel->ahead = parcel->ahead->ahead;
	return parcel->ahead == NULL;
}

/* riders of other lanes may still be ours */
static void
came_back_withdrawn(EsParcel *parcel, TimestampTz now)
{
	EsBatch    *batch = parcel->batch;
	bool		was_delivered = parcel->state == ES_PARCEL_DELIVERED;

	if (parcel->state == ES_PARCEL_READY)
		es_target_take_back(parcel);
	if (was_delivered)
		riders_arrived(parcel, now);
	es_route_finish(parcel);
	if (batch->is_grouped)
		dissolve(batch);
}

/* of a group the rest is given back: its message has what is not ours */
static void
withdraw(EsParcel *parcel)
{
	EsParcel   *leader = parcel->leader != NULL ? parcel->leader : parcel;

	/* it is not waited for: nothing of its key goes before it is back (es_away_match) */
	if (parcel->state == ES_PARCEL_AWAY)
		parcel->is_void = true;
	if (parcel->state == ES_PARCEL_SETTLED || parcel->state == ES_PARCEL_AWAY)
		return;
	if (parcel->is_late)
	{
		parcel->is_late = false;
		parcel->route->late--;
	}
	if (leader->state == ES_PARCEL_OUT && !leader->is_awaited)
	{
		leader->is_awaited = true;
		parcel->route->withdrawn++;
	}
	if (parcel->state == ES_PARCEL_READY)
		es_target_take_back(parcel);
	if (parcel->state == ES_PARCEL_OUT)
		parcel->is_withdrawn = true;
	else
	{
		if (es_route_is_to_settle(parcel) && !parcel->batch->is_waiting)
			parcel->route->done--;
		es_route_finish(parcel);
	}
	if (parcel->batch->is_grouped)
		dissolve(parcel->batch);
}

/*
 * A lane that was taken from us, by seek or because its lease ran out, and that we have again: what is left of the hold before is not ours to
 * settle, and the new one has the same events.  Those are not sent before the old ones have come back.
 */
void
es_route_withdraw_older(EsBatch *batch)
{
	uint64		epochs[ES_LANE_SLOTS] = {0};

	if (batch->route->is_queue)
		return;
	for (int i = 0; i < batch->n; i++)
		epochs[es_lane_place(batch->parcels[i].event.lane)] = batch->parcels[i].event.epoch;
	for (EsBatch *older = batch->route->batches; older != NULL; older = older->next)
		for (int i = 0; i < older->n && older != batch; i++)
		{
			const EsEventReceipt *event = &older->parcels[i].event;
			uint64		epoch = epochs[es_lane_place(event->lane)];

			if (epoch != 0 && epoch != event->epoch)
				withdraw(&older->parcels[i]);
		}
}

void
es_route_count(EsRoute *route, int *count, TimestampTz now)
{
	if (es_route_unsettled(route) == 0)
		route->done_since = now;
	(*count)++;
}

int
es_route_unsettled(const EsRoute *route)
{
	return route->done + route->late + route->to_write;
}

bool
es_route_wants_to_settle(const EsRoute *route, TimestampTz now)
{
	int			unsettled = es_route_unsettled(route);

	if (route->dissolved > 0)
		return true;
	if (unsettled == 0)
		return false;
	return unsettled >= SETTLE_BATCH || route->ready + route->out == 0 || now - route->done_since >= SETTLE_AFTER;
}

int
es_route_settle(EsRoute *route)
{
	Fate	   *fates;
	int			nfates;
	int			delivered;
	int			failed;
	int			(*settle) (EsRoute *, EsParcelState, EsSettle, Fate *) = route->is_queue ? settle_messages : settle_events;

	if (route->dissolved > 0)
		give_back(route, true);
	if (es_route_unsettled(route) == 0)
		return 0;
	/* they outlive the transaction */
	fates = palloc((route->done + route->late) * sizeof(Fate));
	es_process_start_transaction("settling");
	nfates = delivered = settle(route, ES_PARCEL_DELIVERED, ES_SETTLE_ACK, fates);
	nfates += settle(route, ES_PARCEL_FAILED, ES_SETTLE_NACK, fates + nfates);
	nfates += settle(route, ES_PARCEL_REJECTED, ES_SETTLE_GIVE_UP, fates + nfates);
	failed = nfates - delivered;
	nfates += settle(route, ES_PARCEL_POSTPONED, ES_SETTLE_RELEASE, fates + nfates);
	nfates += settle(route, ES_PARCEL_AWAY, ES_SETTLE_RELEASE, fates + nfates);
	delivered += es_away_write(route);
	es_process_commit();

	for (int i = 0; i < nfates; i++)
	{
		EsParcel   *parcel = fates[i].parcel;
		bool		was_delivered = parcel->state == ES_PARCEL_DELIVERED;

		/* withdrawn by one of its key that failed, in this settlement */
		if (parcel->state == ES_PARCEL_SETTLED)
			continue;
		if (parcel->is_late)
			es_away_begin(parcel);
		else
			es_route_finish(parcel);
		if (was_delivered)
			continue;
		for (EsParcel *behind = parcel->behind; behind != NULL && fates[i].is_failed; behind = behind->behind)
			if (behind->was_taken_back)
				withdraw(behind);
		go_on(parcel);
	}
	route->done = route->late = 0;
	es_away_written(route);
	es_route_free_empty_batches(route);
	/* lanes may have come free, and what failed is due again some time */
	route->may_have = true;
	es_registry_count(delivered, failed);
	return nfates;
}

/* AWAY: those that are to become so */
static bool
is_to_settle_so(const EsParcel *parcel, EsParcelState state)
{
	return state == ES_PARCEL_AWAY ? parcel->is_late : parcel->state == state;
}

/* those in a state, in the order of receipts; how many */
static int
settle_events(EsRoute *route, EsParcelState state, EsSettle how, Fate *fates)
{
	EsEventReceipt *receipts = palloc((route->done + route->late) * sizeof(EsEventReceipt));
	int			n = 0;

	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n && !batch->is_waiting; i++)
			if (is_to_settle_so(&batch->parcels[i], state))
			{
				fates[n].parcel = &batch->parcels[i];
				fates[n].is_failed = false;
				receipts[n++] = batch->parcels[i].event;
			}
	if (how == ES_SETTLE_ACK)
	{
		qsort(receipts, n, sizeof(EsEventReceipt), es_subscription_compare_receipts);
		es_subscription_settle(receipts, n, how, NULL, -1);
		for (int i = 0; i < n; i++)
			if (receipts[i].stale != NULL)
				ereport(DEBUG1,
						(errmsg_internal("event at position " INT64_FORMAT " was delivered, but cannot be acknowledged: %s",
										 receipts[i].position, receipts[i].stale)));
		return n;
	}
	for (int i = 0; i < n; i++)
	{
		EsParcel   *parcel = fates[i].parcel;

		int64		delay_ms = how == ES_SETTLE_RELEASE ? parcel->delay_ms : parcel->out.retry_after_ms;

		es_subscription_settle(&receipts[i], 1, how, parcel->reason, delay_ms > 0 ? delay_ms : -1);
		fates[i].is_failed = true;
		for (EsParcel *behind = parcel->behind; behind != NULL; behind = behind->behind)
			behind->was_taken_back = behind->state != ES_PARCEL_SETTLED && !es_subscription_is_out(&behind->event);
	}
	return n;
}

static int
settle_messages(EsRoute *route, EsParcelState state, EsSettle how, Fate *fates)
{
	int			n = 0;

	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n && !batch->is_waiting; i++)
		{
			EsParcel   *parcel = &batch->parcels[i];

			if (parcel->state != state)
				continue;
			fates[n].parcel = parcel;
			fates[n++].is_failed = false;
			/* a stale receipt is no error: it was purged, or the lease ran out */
			if (how == ES_SETTLE_ACK)
				(void) es_queue_settle_delivered(parcel->receipt, parcel->out.status, NULL, true);
			else
				(void) es_queue_settle(parcel->receipt, how, parcel->reason, parcel->out.retry_after_ms > 0 ? parcel->out.retry_after_ms : -1);
		}
	return n;
}

void
es_route_finish(EsParcel *parcel)
{
	Assert(parcel->state != ES_PARCEL_READY && parcel->state != ES_PARCEL_SETTLED);
	parcel->state = ES_PARCEL_SETTLED;
	parcel->batch->left--;
	parcel->batch->held--;
	parcel->route->held--;
	if (parcel->target != NULL)
		parcel->target->held--;
}

void
es_route_free_empty_batches(EsRoute *route)
{
	EsBatch   **place = &route->batches;

	while (*place != NULL)
	{
		EsBatch    *batch = *place;

		if (batch->left > 0)
		{
			place = &batch->next;
			continue;
		}
		*place = batch->next;
		MemoryContextDelete(batch->context);
	}
}

void
es_route_forget_out(EsRoute *route)
{
	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->parcels[i].state == ES_PARCEL_OUT)
			{
				batch->parcels[i].state = ES_PARCEL_HELD;
				batch->parcels[i].is_late = false;
			}
	es_away_forget(route, true);
	route->out = route->late = 0;
}

void
es_route_renew(EsRoute *route)
{
	bool		seen[ES_LANE_SLOTS] = {0};
	int64		lease = es_route_lease(route);

	es_process_start_transaction("renewing leases");
	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
		{
			EsParcel   *parcel = &batch->parcels[i];
			EsEventReceipt receipt = parcel->event;
			EsMessageReceipt message;

			if (parcel->state == ES_PARCEL_SETTLED || parcel->state == ES_PARCEL_AWAY)
				continue;
			if (route->is_queue)
			{
				if (es_queue_parse_receipt(parcel->receipt, &message))
					es_queue_extend(&message, lease);
			}
			else if (!seen[es_lane_place(receipt.lane)])
			{
				seen[es_lane_place(receipt.lane)] = true;
				es_subscription_extend(&receipt, lease);
			}
		}
	es_process_commit();
	route->renewed_at = GetCurrentTimestamp();
}

void
es_route_release(EsRoute *route)
{
	(void) es_route_settle(route);
	give_back(route, false);
	es_away_forget(route, false);
	route->is_released = route->out == 0;
}

static void
give_back(EsRoute *route, bool only_dissolved)
{
	EsEventReceipt *receipts;
	int			n = 0;

	es_process_start_transaction("giving back");
	receipts = palloc(Max(route->held, 1) * sizeof(EsEventReceipt));
	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
		{
			EsParcel   *parcel = &batch->parcels[i];

			if (!is_to_give_back(parcel, only_dissolved))
				continue;
			if (route->is_queue)
				(void) es_queue_settle(parcel->receipt, ES_SETTLE_RELEASE, NULL, -1);
			else
				receipts[n++] = parcel->event;
		}
	qsort(receipts, n, sizeof(EsEventReceipt), es_subscription_compare_receipts);
	es_subscription_settle(receipts, n, ES_SETTLE_RELEASE, NULL, -1);
	/* nothing is out: then the lanes are whoever's comes next */
	if (!only_dissolved && !route->is_queue && route->out == 0 && es_subscription_lock(route->id, AccessShareLock) != NULL)
		(void) es_subscription_end_consumer(route->id, ES_RELAY_CONSUMER);
	es_process_commit();

	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (is_to_give_back(&batch->parcels[i], only_dissolved))
			{
				if (batch->parcels[i].state == ES_PARCEL_READY)
					es_target_take_back(&batch->parcels[i]);
				es_route_finish(&batch->parcels[i]);
			}
	route->dissolved = 0;
	es_route_free_empty_batches(route);
}

static bool
is_to_give_back(const EsParcel *parcel, bool only_dissolved)
{
	if (only_dissolved)
		return parcel->batch->is_dissolved && parcel->state == ES_PARCEL_HELD;
	return parcel->state != ES_PARCEL_SETTLED && parcel->state != ES_PARCEL_OUT && parcel->state != ES_PARCEL_AWAY;
}
