/*
 * claim.c
 *		Handing out messages: who gets which, one at a time per key.
 *
 * Runs in consumers' backends (receive) and in delivery workers.  A claim writes nothing into the table: it takes messages
 * in shared memory (queue_state.c), reads their rows by where they are, and hands them out.  docs/architecture-queues.md
 * has the argument why none is lost, none has two holders, and none of a key passes an older one.
 *
 * Locks: the queue's, shared, to the end of the transaction.  A rollback gives back what was taken, and counts the
 * attempt; a crash forgets who holds what, and all of it is ready again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "evtstore.h"
#include "queue.h"
#include "queue_walk.h"
#include "table.h"
#include "waiter.h"
#include "wakeup.h"
#include "watch.h"

#define MAX_RECEIVE 1000

/* one call */
typedef struct Claim
{
	EsQueue		queue;			/* of what it points to, only is-there is asked */
	EsQueueState *state;
	EsTake		take;			/* want: of one turn */
	int			max_count;
	bool		is_over;
	bool		no_room;		/* of the server, for what there is */
	int			buried;
	bool		is_turned_away; /* by the rate, among others */
	bool		has_walked_time;
	bool		again;			/* the next of a key is in a share that was passed already */
	List	   *deliveries;
	MemoryContext result_context;
} Claim;

static uint64 hash_consumer(const char *consumer);
static void claim_in_turns(Claim *claim, uint64 tenant_hash);
static void claim_channel(Claim *claim, int32 channel);
static void claim_own(Claim *claim);
static void use_all(Claim *claim, const EsHold *holds, int n);
static void use(Claim *claim, const EsHold *hold, Snapshot snapshot, TupleTableSlot *slot);
static void put_back(Claim *claim, const EsHold *hold);
static void look_again(Claim *claim, const EsHold *hold, TupleTableSlot *slot);
static void follow_key(Claim *claim, const EsHold *hold, Snapshot snapshot);
static bool is_oldest_of_key(Claim *claim, const EsHold *hold, Snapshot snapshot);
static void bury(Claim *claim, const EsHold *hold, int attempt, const char *cause);
static EsDelivery *make_delivery(int32 queue_id, const EsHold *hold, TupleTableSlot *slot);

PG_FUNCTION_INFO_V1(evtstore_receive);

/* receive(queue text, consumer text, max_count int, lease interval) -> setof delivery; evtstore_writer */
Datum
evtstore_receive(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *name;
	char	   *consumer;
	int			max_count;
	int64		lease_ms;
	const EsQueue *queue;
	ListCell   *lc;

	es_catalog_require_writable("receive");
	name = es_arg_name(fcinfo, 0, "queue", ES_MAX_NAME_BYTES);
	es_queue_refuse_reserved(name);
	consumer = es_arg_optional_name(fcinfo, 1, "consumer", ES_MAX_NAME_BYTES);
	if (consumer != NULL && strncmp(consumer, ES_QUEUE_WORKER_PREFIX, strlen(ES_QUEUE_WORKER_PREFIX)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("consumer \"%s\" begins with \"%s\"", consumer, ES_QUEUE_WORKER_PREFIX),
				 errhint("Such names belong to background workers; choose another one.")));
	es_arg_required(fcinfo, 2, "max_count");
	max_count = PG_GETARG_INT32(2);
	if (max_count < 1 || max_count > MAX_RECEIVE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count is out of range: %d", max_count),
				 errhint("It lies between 1 and %d.", MAX_RECEIVE)));
	lease_ms = es_arg_interval(fcinfo, 3, "lease") / 1000;
	if (lease_ms < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must be at least one millisecond"),
				 errhint("Give the time that the work may take, such as '30s'.")));

	InitMaterializedSRF(fcinfo, 0);
	queue = es_queue_get(name);
	es_use_require(&queue->use, ES_USE_CONSUME, "queue", queue->name);
	foreach(lc, es_queue_claim(queue, consumer, max_count, lease_ms))
	{
		HeapTupleHeader row = DatumGetHeapTupleHeader(es_queue_delivery_datum(lfirst(lc)));
		HeapTupleData tuple;

		tuple.t_len = HeapTupleHeaderGetDatumLength(row);
		ItemPointerSetInvalid(&tuple.t_self);
		tuple.t_tableOid = InvalidOid;
		tuple.t_data = row;
		tuplestore_puttuple(rsi->setResult, &tuple);
	}
	PG_RETURN_NULL();
}

/*
 * Takes from one channel after the other, those whose turn it is first, and in turns of equal size where there are several.
 *
 * What goes out of the database survives a crash: what was committed asynchronously is flushed first.
 */
List *
es_queue_claim(const EsQueue *queue, const char *consumer, int max_count, int64 lease_ms)
{
	Claim		claim = {.max_count = max_count, .result_context = CurrentMemoryContext};
	const char *tenant = es_queue_tenant();
	char	   *name;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("messages cannot be received in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errdetail("Its snapshot does not show what others received and settled since it began."),
				 errhint("Use READ COMMITTED, the default isolation level.")));
	queue = es_queue_lock(queue->id, AccessShareLock);
	/* dropped a moment ago, with its messages */
	if (queue == NULL || queue->is_paused)
		return NIL;
	claim.queue = *queue;		/* the cache may be rebuilt below */
	name = pstrdup(queue->name);
	claim.take.now = es_clock_now();
	claim.take.until = es_queue_deadline(claim.take.now, lease_ms, "lease");
	claim.take.consumer = consumer == NULL ? 0 : hash_consumer(consumer);
	claim.take.max_in_flight = claim.queue.max_in_flight;
	claim.take.rate = claim.queue.rate;

	claim.state = es_queue_state_open(claim.queue.id);
	claim.no_room = !es_queue_find_shares(claim.state, claim.queue.id);
	do
		claim_in_turns(&claim, es_queue_tenant_hash(tenant, strlen(tenant)));
	while (claim.again && !claim.is_over && list_length(claim.deliveries) < max_count);
	if (!claim.is_over && list_length(claim.deliveries) < max_count)
		claim_own(&claim);

	if (claim.deliveries == NIL && claim.no_room)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("there is no room in shared memory for more messages of queue \"%s\"", name),
				 errhint("Let consumers settle what they hold, or raise evtstore.max_messages_in_flight, or evtstore.max_queues where there "
						 "are very many tenants, and restart the server.")));
	/* who listens and got less than there is, or waits for what is due next, is told when (notifier.c) */
	if (claim.is_turned_away && claim.queue.rate > 0)
		es_watch_tell(claim.queue.id, 0);
	else if (claim.has_walked_time)
		es_watch_tell_look(claim.queue.id);
	if (claim.buried > 0 && claim.queue.endpoint != NULL)
		es_wakeup_at_commit(claim.buried);
	if (claim.deliveries != NIL)
		es_async_make_durable(es_queue_async_commits());
	return claim.deliveries;
}

int
es_queue_evict_consumer(const char *name, const char *consumer)
{
	const EsQueue *queue = es_queue_lock(es_queue_get(name)->id, AccessShareLock);
	EsQueueState *state = queue == NULL ? NULL : es_queue_state_find(queue->id);
	int			n = state == NULL ? 0 : es_queue_evict(state, hash_consumer(consumer), true);

	if (n > 0)
		es_waiter_wake(queue->id, n);
	if (n > 0 && queue->endpoint != NULL)
		es_wakeup_at_commit(n);
	return n;
}

void
es_queue_end_worker(int32 id, const char *consumer)
{
	EsQueueState *state = es_queue_state_find(id);

	if (state != NULL)
		(void) es_queue_evict(state, hash_consumer(consumer), false);
}

static uint64
hash_consumer(const char *consumer)
{
	return hash_bytes_extended((const unsigned char *) consumer, strlen(consumer), 0);
}

Datum
es_queue_delivery_datum(const EsDelivery *delivery)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(es_catalog()->delivery_type, -1);
	Datum		values[15];
	bool		nulls[15] = {0};
	HeapTuple	tuple;
	int			i = 0;

	Assert(desc->natts == lengthof(values));
	values[i++] = CStringGetTextDatum(delivery->receipt);
	values[i++] = Int32GetDatum(delivery->attempt);
	nulls[i] = delivery->key == NULL;
	values[i++] = delivery->key != NULL ? CStringGetTextDatum(delivery->key) : (Datum) 0;
	values[i++] = Int64GetDatum(delivery->message_id);
	values[i++] = JsonbPGetDatum(delivery->body);
	values[i++] = JsonbPGetDatum(delivery->headers);
	values[i++] = TimestampTzGetDatum(delivery->enqueued_at);
	if (delivery->has_event)
	{
		values[i++] = Int64GetDatum(delivery->position);
		nulls[i] = nulls[i + 1] = delivery->stream == NULL;
		values[i++] = delivery->stream != NULL ? CStringGetTextDatum(delivery->stream) : (Datum) 0;
		values[i++] = Int64GetDatum(delivery->version);
		values[i++] = UUIDPGetDatum(&delivery->event_id);
		values[i++] = CStringGetTextDatum(delivery->type);
		values[i++] = Int32GetDatum(delivery->schema_version);
		nulls[i] = delivery->tags == (Datum) 0;
		values[i++] = delivery->tags;
		values[i++] = TimestampTzGetDatum(delivery->recorded_at);
	}
	else
		for (; i < lengthof(values); i++)
			nulls[i] = true;
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

TimestampTz
es_queue_next_due(void)
{
	TimestampTz next = 0;
	ListCell   *lc;

	foreach(lc, es_queue_list_pushed())
	{
		EsQueueState *state = es_queue_state_find(((EsQueue *) lfirst(lc))->id);
		TimestampTz due = state == NULL ? 0 : es_queue_state_next_due(state);

		if (due != 0 && (next == 0 || due < next))
			next = due;
	}
	return next;
}

/* from all shares that may have something */
static void
claim_in_turns(Claim *claim, uint64 tenant_hash)
{
	int			nchannels;
	int32	   *channels = es_queue_channels(claim->state, tenant_hash, claim->take.now, &nchannels);

	claim->again = false;
	while (!claim->is_over && nchannels > 0 && list_length(claim->deliveries) < claim->max_count)
	{
		int			turn = Max(1, (claim->max_count - list_length(claim->deliveries)) / nchannels);
		int			kept = 0;

		for (int i = 0; i < nchannels && !claim->is_over && list_length(claim->deliveries) < claim->max_count; i++)
		{
			int			before = list_length(claim->deliveries);

			claim->take.want = Min(turn, claim->max_count - before);
			claim_channel(claim, channels[i]);
			/* who had less than his turn has no more */
			if (list_length(claim->deliveries) - before >= turn)
				channels[kept++] = channels[i];
		}
		nchannels = kept;
	}
}

/* up to take.want deliveries more */
static void
claim_channel(Claim *claim, int32 channel)
{
	int			want = claim->take.want;
	int			end = list_length(claim->deliveries) + want;
	EsHold	   *holds = palloc(want * sizeof(EsHold));

	claim->take.ignore_due = false;
	while (!claim->is_over && list_length(claim->deliveries) < end)
	{
		EsTaken		taken;
		int64		share = es_channel_share(channel);

		claim->take.want = end - list_length(claim->deliveries);
		claim->take.taken = list_length(claim->deliveries);
		taken = es_channel_take(claim->state, channel, &claim->take, holds);
		use_all(claim, holds, taken.n);
		claim->is_turned_away |= taken.is_last;
		claim->has_walked_time |= taken.walk[ES_WALK_TIME];
		/* where some of them were none, there is room again */
		if (taken.is_last && list_length(claim->deliveries) > 0 && list_length(claim->deliveries) == claim->take.taken + taken.n)
			claim->is_over = true;
		else if (taken.walk[ES_WALK_TIME])
		{
			if (!es_queue_walk(claim->state, claim->queue.id, channel, share, ES_WALK_TIME, claim->take.now, want))
				claim->take.ignore_due = true;
		}
		else if (taken.walk[ES_WALK_ORDER] && list_length(claim->deliveries) < end)
		{
			if (!es_queue_walk(claim->state, claim->queue.id, channel, share, ES_WALK_ORDER, claim->take.now, want))
			{
				claim->no_room = true;
				break;
			}
		}
		else if (taken.n == 0)
			break;
	}
	pfree(holds);
}

/*
 * What only this transaction can see: what it sent itself, and what follows in the keys of which it settled a message.
 */
static void
claim_own(Claim *claim)
{
	EsReady    *ready;
	int			n = es_queue_sent_here(claim->queue.id, &ready);
	const char *tenant = es_queue_tenant();
	uint64		tenant_hash = es_queue_tenant_hash(tenant, strlen(tenant));
	EsHold		hold;
	EsHold	   *settled;

	claim->take.want = 1;
	for (int i = 0; i < n && list_length(claim->deliveries) < claim->max_count; i++)
		if (ready[i].deliver_at == 0 && (tenant_hash == 0 || tenant_hash == ready[i].tenant_hash) &&
			es_queue_take_own(claim->state, &ready[i], &claim->take, &hold))
			use_all(claim, &hold, 1);
	pfree(ready);

	settled = es_queue_settled_here(claim->state, &n);
	for (int i = 0; i < n && list_length(claim->deliveries) < claim->max_count; i++)
	{
		EsReady		next;
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		bool		found = es_queue_first_of_key(claim->queue.id, settled[i].key_hash, settled[i].id, snapshot, &next);

		UnregisterSnapshot(snapshot);
		if (found && next.deliver_at <= claim->take.now && (tenant_hash == 0 || tenant_hash == next.tenant_hash) && es_queue_take_own(claim->state, &next, &claim->take, &hold))
			use_all(claim, &hold, 1);
	}
	pfree(settled);
}

/* the snapshot comes after they were taken: it shows what was committed before that */
static void
use_all(Claim *claim, const EsHold *holds, int n)
{
	TupleTableSlot *slot;
	Snapshot	snapshot;

	if (n == 0)
		return;
	slot = es_table_make_slot(es_table_open(ES_TABLE_MESSAGE, es_catalog()->message));
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	for (int i = 0; i < n; i++)
	{
		use(claim, &holds[i], snapshot, slot);
		ExecClearTuple(slot);
	}
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
}

/* one that was taken: hands it out, or says what else it is */
static void
use(Claim *claim, const EsHold *hold, Snapshot snapshot, TupleTableSlot *slot)
{
	int			attempt;
	bool		isnull;
	TimestampTz deliver_at;
	TimestampTz expires_at;
	int64		age;

	if (hold->is_key)
		follow_key(claim, hold, snapshot);
	else if (!es_queue_fetch(claim->queue.id, hold, snapshot, slot))
		look_again(claim, hold, slot);
	else if (hold->key_hash != 0 && !is_oldest_of_key(claim, hold, snapshot))
		put_back(claim, hold);
	else
	{
		attempt = DatumGetInt32(slot_getattr(slot, ES_MESSAGE_ATTEMPT, &isnull)) + hold->lost;
		deliver_at = DatumGetTimestampTz(slot_getattr(slot, ES_MESSAGE_DELIVER_AT, &isnull));
		if (isnull)
			deliver_at = 0;
		expires_at = DatumGetTimestampTz(slot_getattr(slot, ES_MESSAGE_EXPIRES_AT, &isnull));
		if (isnull)
			expires_at = DT_NOEND;
		age = (claim->take.now - DatumGetTimestampTz(slot_getattr(slot, ES_MESSAGE_ENQUEUED_AT, &isnull))) / 1000;
		if (deliver_at > claim->take.now)
		{
			/* the clock went back */
			EsReady		ready = {.id = hold->id, .share = hold->share, .key_hash = hold->key_hash, .deliver_at = deliver_at, .rank = hold->rank};

			es_queue_drop(claim->state, hold);
			es_queue_announce(claim->state, &ready);
		}
		else if (expires_at <= claim->take.now)
			bury(claim, hold, attempt, "expired");
		else if (hold->lost > 0 && es_retry_over(&claim->queue.retry, attempt, age, NULL) != NULL)
			bury(claim, hold, attempt, hold->rolled_back ? "rolled back" : "lease expired");
		else
		{
			MemoryContext old_context = MemoryContextSwitchTo(claim->result_context);

			/* active while the body is fetched: it may be toasted */
			PushActiveSnapshot(snapshot);
			claim->deliveries = lappend(claim->deliveries, make_delivery(claim->queue.id, hold, slot));
			PopActiveSnapshot();
			MemoryContextSwitchTo(old_context);
		}
	}
}

/*
 * An older one of its key shows it when that is settled.  If that happened while we had this one, nobody could announce what
 * was known: so we look once more when it is not.
 */
static void
put_back(Claim *claim, const EsHold *hold)
{
	Snapshot	snapshot;
	EsReady		oldest;

	es_queue_drop(claim->state, hold);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (es_queue_first_of_key(claim->queue.id, hold->key_hash, es_queue_key_floor(claim->state, hold->key_hash), snapshot, &oldest) &&
		oldest.id == hold->id)
		es_queue_announce(claim->state, &oldest);
	UnregisterSnapshot(snapshot);
}

/*
 * It is gone, or of a transaction that made it known here by receiving what it had sent itself.  If that has committed while we
 * had it, its callback found it known: so we look once more when it is not.
 */
static void
look_again(Claim *claim, const EsHold *hold, TupleTableSlot *slot)
{
	Snapshot	snapshot;
	EsReady		ready;

	es_queue_drop(claim->state, hold);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (es_queue_fetch(claim->queue.id, hold, snapshot, slot))
		es_queue_announce(claim->state, es_queue_read_row(slot, &ready));
	ExecClearTuple(slot);
	UnregisterSnapshot(snapshot);
}

/* a message of a key was settled: the next one is ready, if there is one */
static void
follow_key(Claim *claim, const EsHold *hold, Snapshot snapshot)
{
	EsReady		next;

	if (es_queue_first_of_key(claim->queue.id, hold->key_hash, hold->id, snapshot, &next))
	{
		if (next.deliver_at <= claim->take.now)
			next.deliver_at = 0;
		es_queue_announce(claim->state, &next);
		claim->again |= next.deliver_at == 0 && next.share != hold->share;
	}
	es_queue_drop(claim->state, hold);
}

static bool
is_oldest_of_key(Claim *claim, const EsHold *hold, Snapshot snapshot)
{
	EsReady		oldest;

	return es_queue_first_of_key(claim->queue.id, hold->key_hash, es_queue_key_floor(claim->state, hold->key_hash), snapshot,
								 &oldest) && oldest.id == hold->id;
}

/* to the dead letters, with this transaction */
static void
bury(Claim *claim, const EsHold *hold, int attempt, const char *cause)
{
	EsHold		settled;
	EsSpiState	state;

	if (es_queue_hold(claim->state, hold->id, hold->epoch, 0, &settled, NULL) != NULL)
		elog(ERROR, "message is not held by who took it");
	es_queue_spi_begin(&state);
	if (es_queue_dead_letter(claim->queue.id, &settled, attempt, cause, cause, claim->take.now))
		claim->buried++;
	es_spi_end(&state);
	es_queue_gone(&settled);
	es_queue_did_not_go_out(claim->state);
}

/* in the current context */
static EsDelivery *
make_delivery(int32 queue_id, const EsHold *hold, TupleTableSlot *slot)
{
	EsDelivery *delivery = palloc0(sizeof(EsDelivery));

	slot_getallattrs(slot);
#define VALUE(column) slot->tts_values[(column) - 1]
#define IS_NULL(column) slot->tts_isnull[(column) - 1]
	delivery->message_id = hold->id;
	delivery->attempt = DatumGetInt32(VALUE(ES_MESSAGE_ATTEMPT)) + hold->lost + 1;
	delivery->receipt = es_queue_receipt(queue_id, hold->id, hold->epoch);
	if (!IS_NULL(ES_MESSAGE_KEY))
		delivery->key = TextDatumGetCString(VALUE(ES_MESSAGE_KEY));
	delivery->body = DatumGetJsonbPCopy(VALUE(ES_MESSAGE_BODY));
	delivery->headers = DatumGetJsonbPCopy(VALUE(ES_MESSAGE_HEADERS));
	delivery->enqueued_at = DatumGetTimestampTz(VALUE(ES_MESSAGE_ENQUEUED_AT));
	/* a command has an id, of its saga, and no type */
	delivery->has_event = !IS_NULL(ES_MESSAGE_TYPE);
	if (delivery->has_event)
	{
		delivery->position = DatumGetInt64(VALUE(ES_MESSAGE_POSITION));
		delivery->schema_version = DatumGetInt32(VALUE(ES_MESSAGE_SCHEMA_VERSION));
		if (!IS_NULL(ES_MESSAGE_STREAM))
		{
			delivery->stream = TextDatumGetCString(VALUE(ES_MESSAGE_STREAM));
			delivery->version = DatumGetInt64(VALUE(ES_MESSAGE_VERSION));
		}
		delivery->type = TextDatumGetCString(VALUE(ES_MESSAGE_TYPE));
		delivery->event_id = *DatumGetUUIDP(VALUE(ES_MESSAGE_EVENT_ID));
		if (!IS_NULL(ES_MESSAGE_TAGS))
			delivery->tags = PointerGetDatum(PG_DETOAST_DATUM_COPY(VALUE(ES_MESSAGE_TAGS)));
		delivery->occurred_at = DatumGetTimestampTz(VALUE(ES_MESSAGE_OCCURRED_AT));
		delivery->recorded_at = DatumGetTimestampTz(VALUE(ES_MESSAGE_RECORDED_AT));
	}
#undef VALUE
#undef IS_NULL
	return delivery;
}
