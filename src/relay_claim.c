/*
 * relay_claim.c
 *		What a route claims, and puts into envelopes.
 *
 * Runs in relay workers.  Each claim is a batch with a memory context of its own, in which its parcels and their envelopes are made in the
 * claiming transaction, while rows can be read.  A subscription is polled, which writes nothing.
 *
 * Several events go in one message where the endpoint wants that (format batched): a group, led by its first parcel.  Its receiver answers
 * for all of them; where that is no, who is to blame is found out by sending each alone (es_route_dissolve).
 *
 * Locks: those of polls and claims, to the end of the transaction.  An error leaves nothing of the claim but leases that the end of the
 * transaction gave back.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "clock.h"
#include "compat.h"
#include "definition.h"
#include "envelope.h"
#include "evtstore.h"
#include "process.h"
#include "queue.h"
#include "relay_route.h"
#include "rule.h"
#include "subscription.h"
#include "subscription_delivery.h"
#include "subscription_look.h"
#include "subscription_poll.h"
#include "subscription_turn.h"

/* events of one message, and bytes after which no more is added */
#define MAX_GROUP 100
#define MAX_GROUP_BYTES (1024 * 1024)
/* rows that a claim looks at: other routes want their turn */
#define MAX_WALK 20000
/* what was to be had and could not be had is looked for again */
#define LOOK_AGAIN (50 * 1000) /* us */
/* parcels that a batch has room for at first */
#define FIRST_SIZE 16

/* a claim under way */
typedef struct Claim
{
	EsRoute *route;
	EsBatch *batch;
	EsDelivery **deliveries;
	EsEvent    *events;			/* of a rule: what it shapes */
	int max_count;
	int			size;			/* of the arrays */
	int			made;			/* envelopes of so many are made, by the first attempt */
	bool		is_grouped;		/* several in a message */
	bool		has_put_off;	/* something whose endpoint takes nothing now */
	const EsRule *rule; /* NULL: it is none */
} Claim;

static bool put_event(EsReader *reader, const EsPolled *event, void *arg);
static void end_former(EsRoute *route);
static int	poll_events(Claim *claim);
static void end_replay(EsRoute *route);
static int	claim_messages(Claim *claim);
static EsParcel *add_parcel(Claim *claim, EsDelivery *delivery);
static void make_envelopes(Claim *claim);
static void refuse_no_lock(const char *error);
static void make_rest(void *arg);
static void make_one(Claim *claim, int i);
static void chain_keys(EsBatch *batch, bool keeps_order);
static void start_parcels(Claim *claim);
static void look_again(EsRoute *route, int claimed, bool has_more);
static void shape(Claim *claim, int i);
static void make_groups(void *arg);
static void chain_groups(EsBatch *batch);
static void make_table(EsBatch *batch);
static void put_behind(EsParcel *parcel, EsParcel *ahead);
static void let_go(EsParcel *parcel);
static void grow(Claim *claim);

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
	claim.max_count = es_route_room(route);
	PG_TRY();
	{
		es_process_start_transaction("claiming");
		if (!route->has_begun)
			end_former(route);
		n = route->is_queue ? claim_messages(&claim) : poll_events(&claim);
		make_envelopes(&claim);
		make_table(batch);
		es_process_commit();
	}
	PG_CATCH();
	{
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	route->has_begun = true;
	if (n == 0)
		MemoryContextDelete(context);
	else
	{
		if (route->renewed_at == 0 || route->held == 0)
			route->renewed_at = GetCurrentTimestamp();
		start_parcels(&claim);
	}
	return n;
}

/* it may have ended without a word.  Here, so that a lock that is not to be had keeps back this route alone */
static void
end_former(EsRoute *route)
{
	if (route->is_queue)
		es_queue_end_worker(route->id, ES_RELAY_CONSUMER);
	else if (es_subscription_lock(route->id, AccessShareLock) != NULL)
		(void) es_subscription_end_consumer(route->id, ES_RELAY_CONSUMER);
}

static int
poll_events(Claim *claim)
{
	EsRoute    *route = claim->route;
	bool		has_more = false;
	EsPollRequest request = {.consumer = ES_RELAY_CONSUMER, .max_count = claim->max_count, .lease_ms = es_route_lease(route), .put = put_event,
		.arg = claim, .max_walk = MAX_WALK, .has_more = &has_more};
	const EsSubscription *subscription = es_subscription_lock(route->id, AccessShareLock);
	int			n = 0;

	/* its definition may be another by now: the route leaves at the next look */
	claim->rule = route->is_rule ? es_rule_with_endpoint(route->id) : NULL;
	route->is_computed = claim->rule != NULL && es_rule_is_computed(claim->rule);
	if (subscription != NULL && (route->is_rule ? claim->rule != NULL :
								 subscription->endpoint != NULL && strcmp(subscription->endpoint, route->target->endpoint->name) == 0))
		n = es_subscription_poll(route->id, &request);
	look_again(route, n, has_more || n == claim->max_count);
	if (n == 0 && route->replay_to != 0 && route->held == 0 && es_subscription_is_done(route->id, route->replay_to))
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
		es_turn_read_event(reader, &claim->events[claim->batch->n - 1]);
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
	MemoryContext old;

	old = MemoryContextSwitchTo(claim->batch->context);
	if (queue != NULL && queue->endpoint != NULL && strcmp(queue->endpoint, route->target->endpoint->name) == 0)
		deliveries = es_queue_claim(queue, ES_RELAY_CONSUMER, claim->max_count, es_route_lease(route));
	MemoryContextSwitchTo(claim->batch->context);
	foreach(lc, deliveries)
	{
		EsDelivery *delivery = lfirst(lc);
		EsParcel   *parcel = add_parcel(claim, delivery);

		parcel->receipt = delivery->receipt;
		parcel->tenant = "";
		parcel->number = delivery->message_id;
	}
	MemoryContextSwitchTo(old);
	look_again(route, list_length(deliveries), list_length(deliveries) == claim->max_count);
	return list_length(deliveries);
}

/* in the batch's context.  Nothing points to a parcel before the claim is complete */
static EsParcel *
add_parcel(Claim *claim, EsDelivery *delivery)
{
	EsBatch    *batch = claim->batch;
	EsParcel   *parcel;

	if (batch->n == claim->size)
		grow(claim);
	parcel = &batch->parcels[batch->n];
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

/* a claim may be of one, where there is room for thousands */
static void
grow(Claim *claim)
{
	EsBatch    *batch = claim->batch;
	int			size = claim->size == 0 ? FIRST_SIZE : 2 * claim->size;

	if (claim->size == 0)
	{
		batch->parcels = palloc(size * sizeof(EsParcel));
		claim->deliveries = palloc(size * sizeof(EsDelivery *));
		claim->events = claim->route->is_rule ? palloc(size * sizeof(EsEvent)) : NULL;
	}
	else
	{
		batch->parcels = repalloc_huge(batch->parcels, size * sizeof(EsParcel));
		claim->deliveries = repalloc(claim->deliveries, size * sizeof(EsDelivery *));
		if (claim->events != NULL)
			claim->events = repalloc(claim->events, size * sizeof(EsEvent));
	}
	claim->size = size;
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
		const EsQueue *queue = es_queue_lock(route->id, AccessShareLock);
		EsQueueState *state = es_queue_state_find(route->id);
		EsTake		take = {.want = 1, .now = es_clock_now()};

		if (queue == NULL || state == NULL)
			return;
		take.max_in_flight = queue->max_in_flight;
		take.rate = queue->rate;
		if (es_queue_has_work(state, 0, &take, &route->due) && claimed == 0)
			route->due = take.now + LOOK_AGAIN;
		return;
	}
	subscription = es_subscription_lock(route->id, AccessShareLock);
	/* with lanes that are out something may be there that a poll cannot have: the settlement says so */
	if (claimed == 0 && subscription != NULL && !subscription->is_paused &&
		es_subscription_look(subscription, es_clock_now(), true, &route->due) && route->held == 0)
		route->due = es_clock_now() + LOOK_AGAIN;
}

/* all at once; where one cannot be made, one by one */
static void
make_envelopes(Claim *claim)
{
	EsBatch    *batch = claim->batch;
	EsRoute    *route = claim->route;

	if (!route->is_rule && route->target->endpoint->format == ES_FORMAT_BATCHED && route->singles == 0)
	{
		char	   *error = es_attempt(make_groups, claim);

		claim->is_grouped = error == NULL;
		if (claim->is_grouped)
			return;
		refuse_no_lock(error);
		for (int i = 0; i < batch->n; i++)
		{
			batch->parcels[i].rider = batch->parcels[i].leader = NULL;
			batch->parcels[i].state = ES_PARCEL_BEHIND;
		}
	}
	else if (route->singles > 0 && batch->n > 0)
		route->singles--;
	while (claim->made < batch->n)
	{
		char	   *error = es_attempt(make_rest, claim);
		EsParcel   *parcel = &batch->parcels[claim->made];

		if (error == NULL)
			break;
		refuse_no_lock(error);
		parcel->state = ES_PARCEL_REJECTED;
		/* until it is settled, in another transaction */
		parcel->reason = MemoryContextStrdup(batch->context, psprintf("could not be put into an envelope: %s", error));
		claim->made++;
	}
}

/* somebody has a lock that we do not wait for: that says nothing of the event */
static void
refuse_no_lock(const char *error)
{
	if (strncmp(error, "55P03:", 6) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg_internal("%s", error)));
}

static void
make_rest(void *arg)
{
	Claim	   *claim = arg;

	for (; claim->made < claim->batch->n; claim->made++)
		make_one(claim, claim->made);
}

/* each led by its first parcel, which has the message */
static void
make_groups(void *arg)
{
	Claim	   *claim = arg;
	EsBatch    *batch = claim->batch;
	EsTarget   *target = claim->route->target;
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	int			n;

	for (int first = 0; first < batch->n; first += n)
	{
		Size		bytes = 0;

		for (n = 0; first + n < batch->n && n < MAX_GROUP && bytes < MAX_GROUP_BYTES; n++)
			bytes += VARSIZE(claim->deliveries[first + n]->body);
		for (int i = first; i < first + n; i++)
		{
			batch->parcels[i].leader = &batch->parcels[first];
			batch->parcels[i].rider = i + 1 < first + n ? &batch->parcels[i + 1] : NULL;
			batch->parcels[i].state = i == first ? ES_PARCEL_BEHIND : ES_PARCEL_RIDING;
		}
		es_envelope_make_batch((const EsDelivery *const *) &claim->deliveries[first], n, claim->route->name, claim->route->replay_to != 0,
							   target->endpoint, target->transport, &batch->parcels[first].out);
	}
	MemoryContextSwitchTo(old);
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
	if (parcel->target != NULL && parcel->target->transport != NULL)
		return;
	/* one with a fault is waited for */
	parcel->target = NULL;
	parcel->state = ES_PARCEL_POSTPONED;
	parcel->delay_ms = es_away_pace(&claim->route->put_off, true);
	claim->has_put_off = true;
	if (es_definition_find("endpoint", endpoint) != NULL)
		return;
	parcel->state = ES_PARCEL_FAILED;
	parcel->out.retry_after_ms = -1;
	parcel->reason = psprintf("endpoint \"%s\" does not exist", endpoint);
}

/* after the claim's commit */
static void
start_parcels(Claim *claim)
{
	EsRoute    *route = claim->route;
	EsBatch    *batch = claim->batch;

	batch->left = batch->held = batch->n;
	batch->claimed_at = GetCurrentTimestamp();
	batch->next = route->batches;
	route->batches = batch;
	route->held += batch->n;
	for (int i = 0; i < batch->n; i++)
		if (batch->parcels[i].target != NULL)
			batch->parcels[i].target->held++;
	batch->is_grouped = claim->is_grouped;
	es_route_withdraw_older(batch);
	es_away_match(batch, batch->claimed_at);
	if (!claim->has_put_off)
		route->put_off = 0;
	es_route_start_batch(batch);
}

/* twice as many places as parcels, and a power of two */
static void
make_table(EsBatch *batch)
{
	batch->nkeys = 64;
	while (batch->nkeys < 2 * batch->n)
		batch->nkeys *= 2;
	batch->keys = MemoryContextAllocZero(batch->context, batch->nkeys * sizeof(EsParcel *));
}

/* allocates nothing: what is counted by now must not be lost to an error */
void
es_route_start_batch(EsBatch *batch)
{
	EsRoute    *route = batch->route;

	batch->is_waiting = route->withdrawn > 0;
	if (batch->is_waiting)
		return;
	if (batch->is_grouped)
		chain_groups(batch);
	else
		/* those of a key may go to several targets */
		chain_keys(batch, !route->is_rule && route->target->transport->keeps_order);
	for (int i = 0; i < batch->n; i++)
		if (es_route_is_to_settle(&batch->parcels[i]))
			es_route_came_back(&batch->parcels[i], GetCurrentTimestamp());
}

/* one after the other: a key may be in several */
static void
chain_groups(EsBatch *batch)
{
	EsParcel   *last = NULL;

	for (int i = 0; i < batch->n; i++)
	{
		EsParcel   *parcel = &batch->parcels[i];

		if (parcel->state != ES_PARCEL_BEHIND)
			continue;
		if (last == NULL)
			let_go(parcel);
		else
			put_behind(parcel, last);
		last = parcel;
	}
}

/*
 * The first of each key is ready, the next one waits for it.  Where the transport keeps the order all are ready; the chain is there
 * for what fails.
 */
static void
chain_keys(EsBatch *batch, bool keeps_order)
{
	for (int i = 0; i < batch->n; i++)
	{
		EsParcel   *parcel = &batch->parcels[i];
		bool		is_first = true;

		/* withdrawn while it waited */
		if (parcel->state == ES_PARCEL_SETTLED)
			continue;
		if (parcel->key != NULL)
		{
			uint32		at = es_subscription_hash(parcel->tenant, parcel->key, 0) & (batch->nkeys - 1);

			while (batch->keys[at] != NULL && (strcmp(batch->keys[at]->key, parcel->key) != 0 ||
											   strcmp(batch->keys[at]->tenant, parcel->tenant) != 0))
				at = (at + 1) & (batch->nkeys - 1);
			is_first = batch->keys[at] == NULL;
			if (!is_first)
				put_behind(parcel, batch->keys[at]);
			batch->keys[at] = parcel;
		}
		if (parcel->state == ES_PARCEL_BEHIND && (is_first || keeps_order))
			let_go(parcel);
	}
}

static void
put_behind(EsParcel *parcel, EsParcel *ahead)
{
	ahead->behind = parcel;
	parcel->ahead = ahead;
}

static void
let_go(EsParcel *parcel)
{
	if (parcel->route->is_leaving)
		parcel->state = ES_PARCEL_HELD;
	else
		es_target_put_ready(parcel);
}
