/*
 * relay_route.c
 *		A subscription or queue on its way out: claims, order of keys, settlement.
 *
 * Runs in relay workers.  Each claim is a batch with a memory context of its own, in which its parcels and their envelopes are made in the
 * claiming transaction; it goes when all of them are settled.  What is changed here by a settlement is changed after its commit: an error
 * leaves everything as it was, and the settlement is made again.
 *
 * Locks: those of polls, claims and settlements, to the end of their transactions.  A crash forgets it all; leases and holds go with
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

/* the consumer that a relay is for a subscription: there is one */
#define CONSUMER ES_QUEUE_WORKER_PREFIX "relay"
/* a batch of outcomes, or this long after the first one */
#define SETTLE_AFTER (5 * 1000) /* us */
#define SETTLE_BATCH 256
#define MAX_CLAIM 2000
/* parcels of a rule that are held, for whatever endpoints */
#define RULE_WINDOW 1000
/* of a rule: what can go out no sooner than this is put off, and for no less than the other */
#define SOON (200 * 1000) /* us */
#define MIN_POSTPONE_MS 1000
/* renewed in time, whatever the time-outs of its endpoints */
#define RULE_TIMEOUT_MS 10000

/* a claim under way */
typedef struct Claim
{
	EsRoute *route;
	EsBatch *batch;
	EsDelivery **deliveries;
	EsEvent    *events;			/* of a rule: what it shapes */
	int max_count;
	int made; /* envelopes of so many are made, by the first attempt */
	const EsRule *rule; /* NULL: it is none */
} Claim;

/* what a settlement found out, for after its commit */
typedef struct Fate
{
	EsParcel *parcel;
	bool key_waits;
} Fate;

static int	room(const EsRoute *route);
static bool put_event(EsReader *reader, const EsPolled *event, void *arg);
static int	poll_events(Claim *claim);
static void end_replay(EsRoute *route);
static int	claim_messages(Claim *claim);
static EsParcel *add_parcel(Claim *claim, EsDelivery *delivery);
static void make_envelopes(Claim *claim);
static void make_rest(void *arg);
static void make_one(Claim *claim, int i);
static void chain_keys(EsBatch *batch, bool keeps_order);
static void start_parcels(EsRoute *route, EsBatch *batch);
static void look_again(EsRoute *route, int claimed, bool has_more);
static void begin(const char *activity);
static int	settle_events(EsRoute *route, EsParcelState state, EsSettle how, Fate *fates);
static int	settle_messages(EsRoute *route, EsParcelState state, EsSettle how, Fate *fates);
static bool key_waits(const EsParcel *parcel);
static void finish(EsParcel *parcel);
static void finish_behind(EsParcel *parcel);
static bool is_to_settle(const EsParcel *parcel);
static void shape(Claim *claim, int i);
static void hold_back(EsParcel *parcel);
static void go_on(EsParcel *parcel);
static void free_empty_batches(EsRoute *route);

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
	route->due = DT_NOEND;
	/* a former relay may have ended without a word */
	if (push->is_queue)
		(void) es_queue_evict_consumer(push->name, CONSUMER);
	else if (es_subscription_lock(push->id, AccessShareLock) != NULL)
		(void) es_subscription_end_consumer(push->id, CONSUMER);
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
			else if (batch->parcels[i].state == ES_PARCEL_BEHIND)
				batch->parcels[i].state = ES_PARCEL_HELD;
		}
}

bool
es_route_is_over(const EsRoute *route)
{
	return route->is_leaving && route->held == 0;
}

void
es_route_free(EsRoute *route)
{
	Assert(route->batches == NULL);
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
		return room(route) >= RULE_WINDOW / 4;
	return es_target_takes(route->target) && es_target_wants(route->target);
}

static int
room(const EsRoute *route)
{
	if (route->is_rule)
		return RULE_WINDOW - route->held;
	if (route->target->breaker != ES_BREAKER_CLOSED)
		return 1;
	return Max(Min(es_target_room(route->target), MAX_CLAIM), 1);
}

int
es_route_claim(EsRoute *route)
{
	Claim		claim = {.route = route};
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "evtstore relay batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = CurrentMemoryContext;
	EsBatch    *batch = MemoryContextAllocZero(context, sizeof(EsBatch));
	int			n;

	batch->context = context;
	batch->route = route;
	claim.batch = batch;
	claim.max_count = room(route);
	PG_TRY();
	{
		begin("claiming");
		MemoryContextSwitchTo(context);
		batch->parcels = palloc(claim.max_count * sizeof(EsParcel));
		claim.deliveries = palloc(claim.max_count * sizeof(EsDelivery *));
		if (route->is_rule)
			claim.events = palloc(claim.max_count * sizeof(EsEvent));
		n = route->is_queue ? claim_messages(&claim) : poll_events(&claim);
		make_envelopes(&claim);
		es_process_commit();
	}
	PG_CATCH();
	{
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	if (n == 0)
		MemoryContextDelete(context);
	else
	{
		if (route->renewed_at == 0 || route->held == 0)
			route->renewed_at = GetCurrentTimestamp();
		start_parcels(route, batch);
	}
	return n;
}

static int
poll_events(Claim *claim)
{
	EsRoute    *route = claim->route;
	bool		has_more = false;
	EsPollRequest request = {.consumer = CONSUMER, .max_count = claim->max_count, .lease_ms = es_route_lease(route), .put = put_event,
		.arg = claim, .has_more = &has_more};
	const EsSubscription *subscription = es_subscription_lock(route->id, AccessShareLock);
	int			n = 0;

	/* its definition may be another by now: the route leaves at the next look */
	claim->rule = route->is_rule ? es_rule_with_endpoint(route->id) : NULL;
	if (subscription != NULL && (route->is_rule ? claim->rule != NULL :
								 subscription->endpoint != NULL && strcmp(subscription->endpoint, route->target->endpoint->name) == 0))
		n = es_subscription_poll(route->id, &request);
	look_again(route, n, has_more || n == claim->max_count);
	if (n == 0 && route->replay_to != 0 && route->held == 0 && es_subscription_is_settled(route->id, route->replay_to))
		end_replay(route);
	return n;
}

/* everything that was to be replayed is settled */
static void
end_replay(EsRoute *route)
{
	es_definition_lock("subscription", route->name);
	if (es_definition_find("subscription", route->name) == NULL)
		return;
	es_subscription_end(route->id);
	(void) es_definition_drop("subscription", route->name);
	ereport(LOG,
			(errmsg("replay \"%s\" to endpoint \"%s\" has come to its end", route->name, route->target->endpoint->name)));
}

static bool
put_event(EsReader *reader, const EsPolled *event, void *arg)
{
	Claim	   *claim = arg;
	MemoryContext old = MemoryContextSwitchTo(claim->batch->context);
	EsParcel   *parcel = add_parcel(claim, es_subscription_delivery(reader, event));

	parcel->event = (EsEventReceipt) {.subscription = claim->route->id, .lane = event->lane, .epoch = event->epoch,
		.before = event->before, .position = event->position};
	parcel->tenant = pstrdup(event->tenant);
	parcel->number = event->position;
	if (claim->rule != NULL)
		es_rule_read_event(reader, &claim->events[claim->batch->n - 1]);
	MemoryContextSwitchTo(old);
	return true;
}

static int
claim_messages(Claim *claim)
{
	EsRoute    *route = claim->route;
	const EsQueue *queue = es_queue_lock(route->id, AccessShareLock);
	List	   *deliveries = NIL;
	ListCell   *lc;

	if (queue != NULL && queue->endpoint != NULL && strcmp(queue->endpoint, route->target->endpoint->name) == 0)
		deliveries = es_queue_claim(queue, CONSUMER, claim->max_count, es_route_lease(route));
	foreach(lc, deliveries)
	{
		EsDelivery *delivery = lfirst(lc);
		EsParcel   *parcel = add_parcel(claim, delivery);

		parcel->receipt = delivery->receipt;
		parcel->tenant = "";
		parcel->number = delivery->message_id;
	}
	look_again(route, list_length(deliveries), list_length(deliveries) == claim->max_count);
	return list_length(deliveries);
}

static EsParcel *
add_parcel(Claim *claim, EsDelivery *delivery)
{
	EsBatch    *batch = claim->batch;
	EsParcel   *parcel = &batch->parcels[batch->n];

	memset(parcel, 0, sizeof(EsParcel));
	claim->deliveries[batch->n++] = delivery;
	parcel->route = claim->route;
	parcel->batch = batch;
	parcel->target = claim->route->target;
	parcel->state = ES_PARCEL_BEHIND;
	parcel->key = delivery->key;
	parcel->attempt = delivery->attempt;
	return parcel;
}

/* what is not told by watch.c: until when nothing more is there */
static void
look_again(EsRoute *route, int claimed, bool has_more)
{
	const EsSubscription *subscription;

	route->may_have = has_more;
	route->due = DT_NOEND;
	if (has_more)
		return;
	if (route->is_queue)
	{
		EsQueueState *state = es_queue_state_find(route->id);
		TimestampTz due = state == NULL ? 0 : es_queue_state_next_due(state);

		if (due != 0)
			route->due = due;
		return;
	}
	subscription = es_subscription_lock(route->id, AccessShareLock);
	/* with lanes that are out something may be there that a poll cannot have: the settlement says so */
	if (subscription != NULL && !subscription->is_paused)
		(void) es_subscription_look(subscription, es_clock_now(), true, &route->due);
}

/* all at once; where one cannot be made, one by one */
static void
make_envelopes(Claim *claim)
{
	EsBatch    *batch = claim->batch;

	while (claim->made < batch->n)
	{
		char	   *error = es_attempt(make_rest, claim);
		EsParcel   *parcel = &batch->parcels[claim->made];

		if (error == NULL)
			break;
		parcel->state = ES_PARCEL_REJECTED;
		parcel->reason = psprintf("could not be put into an envelope: %s", error);
		claim->made++;
	}
}

static void
make_rest(void *arg)
{
	Claim	   *claim = arg;

	for (; claim->made < claim->batch->n; claim->made++)
		make_one(claim, claim->made);
}

static void
make_one(Claim *claim, int i)
{
	MemoryContext old = MemoryContextSwitchTo(claim->batch->context);
	EsTarget   *target;

	if (claim->rule != NULL)
		shape(claim, i);
	target = claim->batch->parcels[i].target;
	if (target == NULL)
	{
		MemoryContextSwitchTo(old);
		return;
	}
	if (target->transport == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("endpoint \"%s\" takes nothing: %s", target->endpoint->name, target->fault)));
	es_envelope_make(claim->deliveries[i], claim->route->name, claim->route->replay_to != 0, target->endpoint, target->transport, &claim->batch->parcels[i].out);
	MemoryContextSwitchTo(old);
}

/* where the event goes, and what of it */
static void
shape(Claim *claim, int i)
{
	EsParcel   *parcel = &claim->batch->parcels[i];
	EsDelivery *delivery = claim->deliveries[i];
	char	   *endpoint = es_rule_endpoint(claim->rule, &claim->events[i]);
	Datum		body;
	Datum		headers;

	es_rule_shape(claim->rule, &claim->events[i], &body, &headers);
	delivery->body = DatumGetJsonbP(body);
	delivery->headers = DatumGetJsonbP(headers);
	parcel->target = es_target_get(endpoint);
	if (parcel->target != NULL)
		return;
	parcel->state = ES_PARCEL_POSTPONED;
	parcel->out.retry_after_ms = MIN_POSTPONE_MS;
	if (es_definition_find("endpoint", endpoint) != NULL)
		return;
	parcel->state = ES_PARCEL_FAILED;
	parcel->out.retry_after_ms = -1;
	parcel->reason = psprintf("endpoint \"%s\" does not exist", endpoint);
}

void
es_route_postpone(EsRoute *route, TimestampTz now)
{
	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
		{
			EsParcel   *parcel = &batch->parcels[i];
			EsTarget   *target = parcel->target;

			if (parcel->state != ES_PARCEL_READY || !(target->is_leaving || target->is_gone || target->not_before > now + SOON))
				continue;
			es_target_take_back(parcel);
			parcel->state = ES_PARCEL_POSTPONED;
			parcel->out.retry_after_ms = Max((target->not_before - now) / 1000, MIN_POSTPONE_MS);
			es_route_came_back(parcel, now);
		}
}

/* after the claim's commit */
static void
start_parcels(EsRoute *route, EsBatch *batch)
{
	TimestampTz now = GetCurrentTimestamp();

	batch->left = batch->n;
	batch->next = route->batches;
	route->batches = batch;
	route->held += batch->n;
	for (int i = 0; i < batch->n; i++)
		if (batch->parcels[i].target != NULL)
			batch->parcels[i].target->held++;
	/* those of a key may go to several targets */
	chain_keys(batch, !route->is_rule && route->target->transport->keeps_order);
	for (int i = 0; i < batch->n; i++)
		if (is_to_settle(&batch->parcels[i]))
			es_route_came_back(&batch->parcels[i], now);
}

/*
 * The first of each key is ready, the next one waits for it.  Where the transport keeps the order all are ready; the chain is there
 * for what fails.
 */
static void
chain_keys(EsBatch *batch, bool keeps_order)
{
	int			size = 64;
	EsParcel  **last;

	while (size < 2 * batch->n)
		size *= 2;
	last = MemoryContextAllocZero(batch->context, size * sizeof(EsParcel *));
	for (int i = 0; i < batch->n; i++)
	{
		EsParcel   *parcel = &batch->parcels[i];
		bool		is_first = true;

		if (parcel->key != NULL)
		{
			uint32		at = es_subscription_hash(parcel->tenant, parcel->key, 0) & (size - 1);

			while (last[at] != NULL && (strcmp(last[at]->key, parcel->key) != 0 || strcmp(last[at]->tenant, parcel->tenant) != 0))
				at = (at + 1) & (size - 1);
			if (last[at] != NULL)
				last[at]->behind = parcel;
			is_first = last[at] == NULL;
			last[at] = parcel;
		}
		if (parcel->state == ES_PARCEL_BEHIND && (is_first || keeps_order))
			es_target_put_ready(parcel);
	}
	pfree(last);
}

void
es_route_came_back(EsParcel *parcel, TimestampTz now)
{
	EsRoute    *route = parcel->route;

	if (parcel->is_withdrawn)
	{
		if (parcel->state == ES_PARCEL_READY)
			es_target_take_back(parcel);
		finish(parcel);
		free_empty_batches(route);
		return;
	}
	if (parcel->state == ES_PARCEL_DELIVERED)
		go_on(parcel);
	else
		hold_back(parcel);
	if (parcel->state == ES_PARCEL_READY && parcel->must_wait)
	{
		es_target_take_back(parcel);
		parcel->state = ES_PARCEL_BEHIND;
	}
	if (!is_to_settle(parcel))
		return;
	if (route->done++ == 0)
		route->done_since = now;
}

static bool
is_to_settle(const EsParcel *parcel)
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

/* nothing of its key is in front of the next one any more */
static void
go_on(EsParcel *parcel)
{
	EsParcel   *next = parcel->behind;

	if (next == NULL)
		return;
	next->must_wait = false;
	if (next->state != ES_PARCEL_BEHIND)
		return;
	if (next->route->is_leaving || (next->target->is_leaving && !next->route->is_rule))
		next->state = ES_PARCEL_HELD;
	else
		es_target_put_ready(next);
}

bool
es_route_wants_to_settle(const EsRoute *route, TimestampTz now)
{
	if (route->done == 0)
		return false;
	return route->done >= SETTLE_BATCH || route->ready + route->out == 0 || now - route->done_since >= SETTLE_AFTER;
}

int
es_route_settle(EsRoute *route)
{
	Fate	   *fates;
	int			nfates = 0;
	int			failed = 0;
	int			(*settle) (EsRoute *, EsParcelState, EsSettle, Fate *) = route->is_queue ? settle_messages : settle_events;

	if (route->done == 0)
		return 0;
	begin("settling");
	/* what a crash forgets goes out once more */
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	fates = palloc(route->done * sizeof(Fate));
	nfates += settle(route, ES_PARCEL_DELIVERED, ES_SETTLE_ACK, fates);
	failed = settle(route, ES_PARCEL_FAILED, ES_SETTLE_NACK, fates + nfates);
	failed += settle(route, ES_PARCEL_REJECTED, ES_SETTLE_GIVE_UP, fates + nfates + failed);
	nfates += failed;
	nfates += settle(route, ES_PARCEL_POSTPONED, ES_SETTLE_RELEASE, fates + nfates);
	es_process_commit();

	for (int i = 0; i < nfates; i++)
	{
		EsParcel   *parcel = fates[i].parcel;
		bool		was_delivered = parcel->state == ES_PARCEL_DELIVERED;

		/* withdrawn by one of its key that failed, in this settlement */
		if (parcel->state == ES_PARCEL_SETTLED)
			continue;
		finish(parcel);
		if (was_delivered)
			continue;
		if (fates[i].key_waits)
			finish_behind(parcel);
		else
			go_on(parcel);
	}
	route->done = 0;
	free_empty_batches(route);
	/* lanes may have come free, and what failed is due again some time */
	route->may_have = true;
	es_registry_count(nfates - failed, failed);
	return nfates;
}

/* those in a state, in the order of receipts; how many */
static int
settle_events(EsRoute *route, EsParcelState state, EsSettle how, Fate *fates)
{
	EsEventReceipt *receipts = palloc(route->done * sizeof(EsEventReceipt));
	int			n = 0;

	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->parcels[i].state == state)
			{
				fates[n].parcel = &batch->parcels[i];
				fates[n].key_waits = false;
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

		es_subscription_settle(&receipts[i], 1, how, parcel->reason, parcel->out.retry_after_ms > 0 ? parcel->out.retry_after_ms : -1);
		fates[i].key_waits = receipts[i].stale != NULL || key_waits(parcel);
	}
	return n;
}

static int
settle_messages(EsRoute *route, EsParcelState state, EsSettle how, Fate *fates)
{
	int			n = 0;

	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
		{
			EsParcel   *parcel = &batch->parcels[i];

			if (parcel->state != state)
				continue;
			fates[n].parcel = parcel;
			fates[n++].key_waits = false;
			/* a stale receipt is no error: it was purged, or the lease ran out */
			(void) es_queue_settle(parcel->receipt, how, how == ES_SETTLE_ACK ? NULL : parcel->reason,
								   parcel->out.retry_after_ms > 0 ? parcel->out.retry_after_ms : -1);
		}
	return n;
}

/* not where the event went to the dead letters, and its key goes on */
static bool
key_waits(const EsParcel *parcel)
{
	const EsSubscription *subscription = es_subscription_lock(parcel->event.subscription, AccessShareLock);

	if (parcel->key == NULL)
		return false;
	return subscription == NULL || es_failed_event_key_waits(subscription, parcel->tenant, parcel->key) ||
		es_dead_key_find(parcel->event.subscription, parcel->tenant, parcel->key, NULL);
}

/* it is no more business of ours */
static void
finish(EsParcel *parcel)
{
	Assert(parcel->state != ES_PARCEL_READY && parcel->state != ES_PARCEL_SETTLED);
	parcel->state = ES_PARCEL_SETTLED;
	parcel->batch->left--;
	parcel->route->held--;
	if (parcel->target != NULL)
		parcel->target->held--;
}

/* the engine took back all of the key that came after it */
static void
finish_behind(EsParcel *parcel)
{
	for (parcel = parcel->behind; parcel != NULL; parcel = parcel->behind)
	{
		if (parcel->state == ES_PARCEL_READY)
			es_target_take_back(parcel);
		if (parcel->state == ES_PARCEL_OUT)
			parcel->is_withdrawn = true;
		else if (parcel->state != ES_PARCEL_SETTLED)
			finish(parcel);
	}
}

static void
free_empty_batches(EsRoute *route)
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
				batch->parcels[i].state = ES_PARCEL_HELD;
	route->out = 0;
}

void
es_route_renew(EsRoute *route)
{
	bool		seen[ES_LANE_SLOTS] = {0};
	int64		lease = es_route_lease(route);

	begin("renewing leases");
	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
		{
			EsParcel   *parcel = &batch->parcels[i];
			EsEventReceipt receipt = parcel->event;
			EsMessageReceipt message;

			if (parcel->state == ES_PARCEL_SETTLED)
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
	EsEventReceipt *receipts;
	int			n = 0;

	(void) es_route_settle(route);
	begin("giving back");
	receipts = palloc(Max(route->held, 1) * sizeof(EsEventReceipt));
	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
		{
			EsParcel   *parcel = &batch->parcels[i];

			if (parcel->state == ES_PARCEL_SETTLED || parcel->state == ES_PARCEL_OUT)
				continue;
			if (route->is_queue)
				(void) es_queue_settle(parcel->receipt, ES_SETTLE_RELEASE, NULL, -1);
			else
				receipts[n++] = parcel->event;
		}
	qsort(receipts, n, sizeof(EsEventReceipt), es_subscription_compare_receipts);
	es_subscription_settle(receipts, n, ES_SETTLE_RELEASE, NULL, -1);
	/* nothing is out: then the lanes are whoever's comes next */
	if (!route->is_queue && route->out == 0 && es_subscription_lock(route->id, AccessShareLock) != NULL)
		(void) es_subscription_end_consumer(route->id, CONSUMER);
	es_process_commit();

	for (EsBatch *batch = route->batches; batch != NULL; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->parcels[i].state != ES_PARCEL_SETTLED && batch->parcels[i].state != ES_PARCEL_OUT)
			{
				if (batch->parcels[i].state == ES_PARCEL_READY)
					es_target_take_back(&batch->parcels[i]);
				finish(&batch->parcels[i]);
			}
	free_empty_batches(route);
}

static void
begin(const char *activity)
{
	es_process_start_transaction(activity);
}
