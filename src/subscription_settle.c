/*
 * subscription_settle.c
 *		Receipts of events, and taking events back: ack, nack, reject, release, extend.
 *
 * Runs in consumers' backends.  docs/architecture-subscriptions.md, section 5, has the steps (S2 to S6, named below).
 * Locks: the subscription's, shared, then the lanes', in order of subscription and lane, to the end of the transaction.
 * Everything but extend is part of the caller's transaction; a rollback or a crash undoes it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "checkpoint.h"
#include "clock.h"
#include "compat.h"
#include "dead_key.h"
#include "event.h"
#include "failed_event.h"
#include "lane.h"
#include "read.h"
#include "subscription.h"
#include "subscription_look.h"
#include "subscription_settle.h"
#include "subscription_source.h"
#include "waiter.h"

/* what stands for a reason that was not given */
#define NO_REASON "no reason given"

/* the receipts of one lane */
typedef struct LaneSettlement
{
	const EsSubscription *subscription;
	EsLanes    *lanes;
	int			number;
	EsLane		lane;
	EsCheckpoint *checkpoint;
	bool		is_changed;
	int			settled;
	EsSettle	how;
	const char *reason;
	int64		delay_ms;
} LaneSettlement;

static int	lane_end(const EsEventReceipt *receipts, int n, int first);
static void settle_lane(EsEventReceipt *receipts, int n, EsSettle how, const char *reason, int64 delay_ms);
static EsCheckpoint *read_checkpoint(int32 subscription, int lane);
static bool release_all(LaneSettlement *settlement, EsEventReceipt *receipts, int n);
static void settle_one(LaneSettlement *settlement, EsEventReceipt *receipt);
static void ack_again(LaneSettlement *settlement, EsEventReceipt *receipts, int n);
static int	settle_again(LaneSettlement *settlement, const EsEventReceipt *receipt);
static void set_aside(LaneSettlement *settlement, const EsEventReceipt *receipt);
static bool all_stale(const EsEventReceipt *receipts, int n);
static void mark_stale(EsEventReceipt *receipts, int n, const char *why);

char *
es_subscription_receipt(int32 subscription, int lane, uint64 epoch, int64 before, int64 position)
{
	return psprintf("%c%d.%d.%016llx.%lld.%lld", ES_EVENT_RECEIPT_PREFIX, subscription, lane, (unsigned long long) epoch,
					(long long) before, (long long) position);
}

/* what it reads must print as what was given: no spaces, signs, leading zeros or overflow pass */
bool
es_subscription_parse_receipt(const char *text, EsEventReceipt *receipt)
{
	unsigned long long epoch;
	long long	before;
	long long	position;
	int			subscription;
	int			lane;

	memset(receipt, 0, sizeof(EsEventReceipt));
	receipt->text = text;
	if (text[0] != ES_EVENT_RECEIPT_PREFIX ||
		sscanf(text + 1, "%d.%d.%llx.%lld.%lld", &subscription, &lane, &epoch, &before, &position) != 5)
		return false;
	receipt->subscription = subscription;
	receipt->lane = lane;
	receipt->epoch = epoch;
	receipt->before = before;
	receipt->position = position;
	return strcmp(text, es_subscription_receipt(subscription, lane, epoch, before, position)) == 0 &&
		subscription > 0 && lane >= 0 && epoch != 0 && before >= 0 && before <= position;
}

int
es_subscription_compare_receipts(const void *a, const void *b)
{
	const EsEventReceipt *x = a;
	const EsEventReceipt *y = b;

	if (x->subscription != y->subscription)
		return x->subscription < y->subscription ? -1 : 1;
	if (x->lane != y->lane)
		return x->lane < y->lane ? -1 : 1;
	if (x->position != y->position)
		return x->position < y->position ? -1 : 1;
	if (x->epoch != y->epoch)
		return x->epoch < y->epoch ? -1 : 1;
	return x->before < y->before ? -1 : x->before > y->before;
}

void
es_subscription_settle(EsEventReceipt *receipts, int n, EsSettle how, const char *reason, int64 delay_ms)
{
	int			first = 0;

	if (n > 0 && how != ES_SETTLE_ACK && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("events can only be acknowledged in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errdetail("Its snapshot does not show what failed since it began."),
				 errhint("Use READ COMMITTED, the default isolation level.")));
	while (first < n)
	{
		int			end = lane_end(receipts, n, first);

		settle_lane(receipts + first, end - first, how, reason, delay_ms);
		first = end;
	}
}

void
es_subscription_extend(EsEventReceipt *receipt, int64 lease_ms)
{
	const EsSubscription *subscription = es_subscription_lock(receipt->subscription, AccessShareLock);
	EsLanes    *lanes;
	EsLane		lane;

	if (subscription == NULL || !es_subscription_is_visible(subscription))
	{
		receipt->stale = "lease_expired";
		return;
	}
	es_use_require(&subscription->use, ES_USE_CONSUME, "subscription", subscription->definition.name);
	/* whoever polls in the lane right now may be taking it over */
	es_subscription_lock_lane(receipt->subscription, receipt->lane);
	lanes = es_lanes_find(receipt->subscription);
	if (lanes == NULL || !es_lane_is_held(lanes, receipt->lane, receipt->epoch, &lane) ||
		!es_lane_extend(lanes, receipt->lane, receipt->epoch, es_queue_deadline(es_clock_now(), lease_ms, "lease")))
		receipt->stale = "lease_expired";
	/* its lane may be held with the event settled, or set aside, long ago */
	else if (receipt->before != receipt->position && es_checkpoint_covers(read_checkpoint(receipt->subscription, receipt->lane), receipt->position))
		receipt->stale = es_failed_event_exists(subscription, receipt->position) ? "key_blocked" : "settled";
	es_subscription_unlock_lane(receipt->subscription, receipt->lane);
}

/* the receipts from first to before the result are of one lane */
static int
lane_end(const EsEventReceipt *receipts, int n, int first)
{
	int			end = first + 1;

	while (end < n && receipts[end].subscription == receipts[first].subscription && receipts[end].lane == receipts[first].lane)
		end++;
	return end;
}

/* S2 to S6 */
static void
settle_lane(EsEventReceipt *receipts, int n, EsSettle how, const char *reason, int64 delay_ms)
{
	int32		id = receipts[0].subscription;
	int			number = receipts[0].lane;
	LaneSettlement settlement = {.number = number, .how = how, .reason = reason != NULL ? reason : NO_REASON, .delay_ms = delay_ms};

	settlement.subscription = es_subscription_lock(id, AccessShareLock);
	if (settlement.subscription == NULL || !es_subscription_is_visible(settlement.subscription))
	{
		mark_stale(receipts, n, "lease_expired");
		return;
	}
	es_subscription_look_anew(id);
	es_use_require(&settlement.subscription->use, ES_USE_CONSUME, "subscription", settlement.subscription->definition.name);
	es_subscription_lock_lane(id, number);
	settlement.lanes = es_lanes_find(id);
	/* who has the lane's lock sees the same at each look: one for those of a hold */
	for (int i = 0; i < n; i++)
		if (i > 0 && receipts[i].epoch == receipts[i - 1].epoch)
			receipts[i].stale = receipts[i - 1].stale;
		else if (settlement.lanes == NULL || !es_lane_is_held(settlement.lanes, number, receipts[i].epoch, &settlement.lane))
			receipts[i].stale = "lease_expired";
	if (settlement.lanes == NULL || all_stale(receipts, n))
		return;

	/* others may have the lane then, or an event of it, now or when it is due again; or the lanes that come after it */
	if (how != ES_SETTLE_ACK || settlement.lane.consumer == ES_LANE_ANONYMOUS || receipts[0].before == receipts[0].position ||
		es_lane_layout_end(settlement.subscription->layout, number) != ES_LANE_NO_END)
		es_waiter_wake_at_commit(id, 1);
	/* who waits for what is settled (subscription_settled.c) */
	es_waiter_wake_at_commit(-id, INT_MAX);
	settlement.checkpoint = read_checkpoint(id, number);
	/* with a delay each by itself: it is one that has to wait, and not its consumer */
	if (how == ES_SETTLE_RELEASE && delay_ms <= 0 && release_all(&settlement, receipts, n))
		return;
	if (how == ES_SETTLE_ACK)
		ack_again(&settlement, receipts, n);
	for (int i = 0; i < n; i++)
		if (receipts[i].stale == NULL && !receipts[i].is_done)
			settle_one(&settlement, &receipts[i]);
	if (settlement.is_changed)
		es_checkpoint_write(id, number, settlement.checkpoint);
	if (settlement.settled > 0)
		es_lane_settled(settlement.lanes, number, settlement.lane.epoch, settlement.settled);
}

/* the newest one, and what this transaction wrote.  Locks: the lane's, held, or the result may be old */
static EsCheckpoint *
read_checkpoint(int32 subscription, int lane)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EsCheckpoints *checkpoints = es_checkpoints_open(subscription, snapshot);
	EsCheckpoint *checkpoint = es_checkpoints_read(checkpoints, lane);

	es_checkpoints_close(checkpoints);
	UnregisterSnapshot(snapshot);
	return checkpoint;
}

/*
 * Where all that is in flight in a lane is given back, the lane itself is: the next holder begins at the checkpoint.  Not
 * where one of them failed before: its row says that it is handed out.
 */
static bool
release_all(LaneSettlement *settlement, EsEventReceipt *receipts, int n)
{
	if (n != es_lane_in_flight(settlement->lanes, settlement->number, settlement->lane.epoch))
		return false;
	for (int i = 0; i < n; i++)
		if (receipts[i].stale != NULL || receipts[i].before == receipts[i].position ||
			es_checkpoint_covers(settlement->checkpoint, receipts[i].position))
			return false;
	es_lane_released(settlement->lanes, settlement->number, settlement->lane.epoch);
	return true;
}

/* S5, S6 */
static void
settle_one(LaneSettlement *settlement, EsEventReceipt *receipt)
{
	const EsSubscription *subscription = settlement->subscription;

	if (receipt->before == receipt->position)
	{
		int			n = settlement->how == ES_SETTLE_ACK ? 0 : settle_again(settlement, receipt);
		bool		waits = n == 0 && es_failed_event_exists(subscription, receipt->position);

		settlement->settled += n;
		/* a batch that is given back: those behind the first one of their key are back already */
		if (n == 0 && !(waits && settlement->how == ES_SETTLE_RELEASE))
			receipt->stale = waits ? "key_blocked" : "settled";
		return;
	}
	if (es_checkpoint_covers(settlement->checkpoint, receipt->position))
	{
		bool		waits = es_failed_event_exists(subscription, receipt->position);

		/* a batch that is given back: those behind the first one of their key are aside already */
		if (!waits || settlement->how != ES_SETTLE_RELEASE)
			receipt->stale = waits ? "key_blocked" : "settled";
		return;
	}
	if (receipt->position > settlement->lane.delivered)
	{
		receipt->stale = "lease_expired";	/* rolled back with the poll that handed it out */
		return;
	}
	es_checkpoint_add(settlement->checkpoint, receipt->before, receipt->position);
	settlement->is_changed = true;
	settlement->settled++;
	if (settlement->how != ES_SETTLE_ACK)
		set_aside(settlement, receipt);
}

/* those that failed before and were handed out again, all at once */
static void
ack_again(LaneSettlement *settlement, EsEventReceipt *receipts, int n)
{
	int64	   *positions = palloc(n * sizeof(int64));
	int			given = 0;
	int			done;

	for (int i = 0; i < n; i++)
		if (receipts[i].stale == NULL && receipts[i].before == receipts[i].position)
			positions[given++] = receipts[i].position;
	if (given == 0)
		return;
	done = es_failed_event_ack(settlement->subscription, positions, given, settlement->lane.epoch);
	settlement->settled += done;
	/* both in order; the rest is looked at one by one: why is it not handed out? */
	for (int i = 0, next = 0; i < n; i++)
		if (receipts[i].stale == NULL && receipts[i].before == receipts[i].position && next < done && positions[next] == receipts[i].position)
		{
			receipts[i].is_done = true;
			next++;
		}
}

/* of an event that failed before and was handed out again: how many are settled by it; 0: it is not handed out */
static int
settle_again(LaneSettlement *settlement, const EsEventReceipt *receipt)
{
	switch (settlement->how)
	{
		case ES_SETTLE_ACK:
			break;				/* see ack_again */
		case ES_SETTLE_NACK:
		case ES_SETTLE_GIVE_UP:
			return es_failed_event_nack(settlement->subscription, receipt->position, receipt->epoch,
										settlement->how == ES_SETTLE_GIVE_UP, settlement->reason, settlement->delay_ms);
		case ES_SETTLE_REJECT:
			return es_failed_event_reject(settlement->subscription, receipt->position, receipt->epoch, settlement->reason);
		case ES_SETTLE_RELEASE:
			return es_failed_event_give_back(settlement->subscription, receipt->position, receipt->epoch, settlement->delay_ms);
	}
	return 0;
}

/* the events of the lane from a position on, up to what was handed out */
typedef struct Rest
{
	const EsSubscription *subscription;
	int64		after;
	int64		upto;
} Rest;

static void
open_rest(EsReader *reader, void *arg)
{
	Rest	   *rest = arg;

	es_reader_begin_latest(reader);
	es_reader_set_tenant(reader, rest->subscription->tenant);
	es_subscription_set_source(reader, rest->subscription, rest->after - 1, rest->upto);
}

/*
 * An event that comes again later, or never, and with it those of its key that are handed out: they are withdrawn.  They
 * must not pass it, even where a dead letter has taken its place by now: then nothing holds them up.
 */
static void
set_aside(LaneSettlement *settlement, const EsEventReceipt *receipt)
{
	const EsSubscription *subscription = settlement->subscription;
	int			attempt = es_lane_attempt(&settlement->lane, receipt->position);
	Rest		rest = {subscription, receipt->position, settlement->lane.delivered};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext row_context;
	EsWaitingEvents waiting = {.context = caller};
	EsReader   *reader = es_reader_open_with(open_rest, &rest, caller);
	char	   *key = NULL;
	char	   *tenant = NULL;
	int64		before = receipt->position;
	TupleTableSlot *slot;

	row_context = AllocSetContextCreate(caller, "evtstore withdrawn event", ALLOCSET_DEFAULT_SIZES);
	while ((slot = es_reader_next(reader)) != NULL)
	{
		bool		isnull;
		int64		position = DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION + 1, &isnull));
		char	   *its_tenant;
		char	   *its_key;

		if (tenant == NULL && position != receipt->position)
			break;				/* scavenged meanwhile: nothing to keep */
		MemoryContextReset(row_context);
		MemoryContextSwitchTo(row_context);
		if (!es_subscription_selects(subscription, reader, slot))
		{
			MemoryContextSwitchTo(caller);
			continue;
		}
		its_tenant = TextDatumGetCString(slot_getattr(slot, ES_EVENT_TENANT + 1, &isnull));
		its_key = es_subscription_key_of(subscription, reader);
		MemoryContextSwitchTo(caller);
		if (tenant == NULL)
		{
			tenant = pstrdup(its_tenant);
			key = its_key == NULL ? NULL : pstrdup(its_key);
			if (settlement->how == ES_SETTLE_RELEASE)
				es_failed_event_release(subscription, position, tenant, key, settlement->delay_ms);
			else
				es_failed_event_add(subscription, position, tenant, key, attempt,
									settlement->how == ES_SETTLE_REJECT ? "rejected" : "attempts spent",
									settlement->how == ES_SETTLE_GIVE_UP, settlement->reason, settlement->delay_ms);
			if (key == NULL || (!es_failed_event_exists(subscription, position) &&
								!es_dead_key_find(subscription->definition.id, tenant, key, NULL)))
				break;
			continue;
		}
		if (es_subscription_lane(subscription, its_tenant, its_key, position) != settlement->number)
			continue;
		if (its_key != NULL && strcmp(its_key, key) == 0 && strcmp(its_tenant, tenant) == 0 &&
			!es_checkpoint_covers(settlement->checkpoint, position))
		{
			es_failed_event_wait(&waiting, position, tenant, key);
			es_checkpoint_add(settlement->checkpoint, before, position);
			settlement->settled++;
		}
		before = position;
	}
	MemoryContextDelete(row_context);
	es_failed_event_put_waiting(subscription, &waiting);
	es_reader_close(reader);
}

static bool
all_stale(const EsEventReceipt *receipts, int n)
{
	for (int i = 0; i < n; i++)
		if (receipts[i].stale == NULL)
			return false;
	return true;
}

bool
es_subscription_is_out(const EsEventReceipt *receipt)
{
	const EsSubscription *subscription = es_subscription_lock(receipt->subscription, AccessShareLock);
	EsLanes    *lanes = es_lanes_find(receipt->subscription);
	EsLane		lane;

	if (subscription == NULL || lanes == NULL || !es_lane_is_held(lanes, receipt->lane, receipt->epoch, &lane))
		return false;
	if (receipt->before == receipt->position)
		return es_failed_event_is_out(subscription, receipt->position, receipt->epoch);
	return !es_checkpoint_covers(read_checkpoint(receipt->subscription, receipt->lane), receipt->position);
}

static void
mark_stale(EsEventReceipt *receipts, int n, const char *why)
{
	for (int i = 0; i < n; i++)
		receipts[i].stale = why;
}
