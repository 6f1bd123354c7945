/*
 * saga_arrival.c
 *		What is left for an instance that somebody else has: arrivals and timers, messages of an internal queue, and who brings them.
 *
 * Whoever has news for an instance and may not wait for its lock sends a message to the queue ES_QUEUE_SAGAS; delivery workers (es_saga_work)
 * receive it and make the transition, and so does run_pending() in its caller's transaction.  An instance's timer is such a message too, with a delay.  Claims, leases, wake-ups and retries are the
 * queue's, which loses no message: docs/architecture-queues.md.
 *
 * A batch of messages is settled in one transaction with what comes of them, a savepoint for each instance.  A worker
 * waits for no instance: whoever holds one may be idle, and the worker has others to serve.  Messages for one that somebody has come again in a moment.  A crash leaves instances and messages as
 * they were.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "compat.h"
#include "event.h"
#include "guc.h"
#include "options.h"
#include "queue.h"
#include "saga.h"
#include "saga_simulate.h"

/* of a turn */
#define MAX_ARRIVALS 100
/* until one whose instance somebody has is tried again, the first time and at most */
#define BUSY_MS 20
#define MAX_BUSY_MS 2000
#define BUSY "somebody else has the saga, or the command"

/* what came, from the message */
typedef struct Arrival
{
	EsDelivery *delivery;
	pg_uuid_t	saga;
	bool		is_timer;
	bool		is_lock;
	int			tries;
	char	   *signal;			/* NULL: none */
	char	   *dedup_id;
	bool		is_take_back;
	bool		compensates;
	int			parent;
	int			seq;
	EsEnding	ending;
	bool		is_busy;		/* a transaction is at its command: it comes again */
} Arrival;

/* those of one instance */
typedef struct Batch
{
	Arrival    *arrivals;
	int			n;
	bool		is_busy;
} Batch;

static int64 send(const pg_uuid_t *id, const char *tenant, Jsonb *body, TimestampTz deliver_at);
static bool read_arrival(EsDelivery *delivery, Arrival *arrival);
static int	compare_arrivals(const void *a, const void *b);
static bool serve(Batch *group);
static int64 busy_delay(const Arrival *arrival);
static void bring(void *arg);
static void settle(const Batch *group, EsSettle how, const char *reason, int64 delay_ms);

void
es_arrival_leave(const pg_uuid_t *id, const char *tenant, int parent, int seq, const EsEnding *ending)
{
	(void) send(id, tenant, es_arrival_of_answer(id, parent, seq, ending), 0);
}

void
es_arrival_leave_signal(const pg_uuid_t *id, const char *tenant, const char *name, Jsonb *payload, const char *dedup_id)
{
	(void) send(id, tenant, es_arrival_of_signal(id, name, payload, dedup_id), 0);
}

Jsonb *
es_arrival_of_answer(const pg_uuid_t *id, int parent, int seq, const EsEnding *ending)
{
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfo(&body, "{\"saga\": \"%s\", \"parent\": %d, \"seq\": %d, \"success\": %s, \"final\": %s",
					 DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id))), parent, seq, ending->is_success ? "true" : "false",
					 ending->is_final ? "true" : "false");
	if (ending->output != NULL)
		appendStringInfo(&body, ", \"output\": %s", JsonbToCString(NULL, &ending->output->root, VARSIZE(ending->output)));
	if (ending->error != NULL)
	{
		appendStringInfoString(&body, ", \"error\": ");
		escape_json(&body, ending->error);
	}
	if (ending->cause != NULL)
	{
		appendStringInfoString(&body, ", \"cause\": ");
		escape_json(&body, ending->cause);
	}
	if (ending->retry_after >= 0)
		appendStringInfo(&body, ", \"retry_after\": %.6f", ending->retry_after);
	appendStringInfoChar(&body, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(body.data)));
}

Jsonb *
es_arrival_of_signal(const pg_uuid_t *id, const char *name, Jsonb *payload, const char *dedup_id)
{
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfo(&body, "{\"saga\": \"%s\", \"signal\": ", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id))));
	escape_json(&body, name);
	appendStringInfo(&body, ", \"output\": %s", JsonbToCString(NULL, &payload->root, VARSIZE(payload)));
	if (dedup_id != NULL)
	{
		appendStringInfoString(&body, ", \"dedup_id\": ");
		escape_json(&body, dedup_id);
	}
	appendStringInfoChar(&body, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(body.data)));
}

void
es_arrival_leave_lock(const pg_uuid_t *id, const char *tenant, int parent, int seq, int tries, TimestampTz deliver_at)
{
	char	   *body = psprintf("{\"saga\": \"%s\", \"lock\": true, \"parent\": %d, \"seq\": %d, \"tries\": %d}",
								DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id))), parent, seq, tries);

	(void) send(id, tenant, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(body))), deliver_at);
}

void
es_arrival_leave_take_back(const pg_uuid_t *id, const char *tenant, const EsTakeBack *request)
{
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfo(&body, "{\"saga\": \"%s\", \"take_back\": true, \"compensates\": %s, \"parent\": %d, \"seq\": %d",
					 DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id))), request->compensates ? "true" : "false", request->parent, request->seq);
	if (request->error != NULL)
	{
		appendStringInfoString(&body, ", \"error\": ");
		escape_json(&body, request->error);
	}
	appendStringInfoChar(&body, '}');
	(void) send(id, tenant, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(body.data))), 0);
}

/*
 * One for the earliest time of all, when that is earlier than what is armed.  What waits and was not looked at in this transition is armed
 * since it began.
 */
void
es_arrival_arm_timer(EsMove *move)
{
	EsSaga	   *saga = &move->saga;
	TimestampTz earliest = 0;
	char	   *body;
	ListCell   *lc;

	if (saga->status == ES_SAGA_RUNNING && saga->deadline != 0 && !saga->has_pivot)
		earliest = saga->deadline;
	foreach(lc, move->steps)
	{
		EsStep	   *step = lfirst(lc);

		/* what is stuck or paused waits for a person */
		if (es_move_is_live(move, step) && step->due != 0 && (earliest == 0 || step->due < earliest))
			earliest = step->due;
	}
	if (saga->timer_id != 0 && (ES_SAGA_HAS_ENDED(saga->status) || (earliest != 0 && earliest < saga->timer_due)))
	{
		/* where a worker has it already, it finds nothing due */
		if (move->simulation != NULL)
			(void) es_simulation_withdraw(move->simulation, saga->timer_id);
		else
			(void) es_queue_withdraw(es_queue_get(ES_QUEUE_SAGAS)->id, saga->tenant, saga->timer_id, false);
		saga->timer_id = 0;
		saga->timer_due = 0;
	}
	if (ES_SAGA_HAS_ENDED(saga->status) || earliest == 0 || saga->timer_id != 0)
		return;
	body = psprintf("{\"saga\": \"%s\", \"timer\": true}", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&saga->id))));
	saga->timer_id = send(&saga->id, saga->tenant, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(body))), earliest);
	saga->timer_due = earliest;
}

EsTurnResult
es_saga_work(int slot, int max_count)
{
	EsTurnResult result = {.due = DT_NOEND};
	bool		is_own = es_turn_transaction_begin();
	List	   *deliveries;
	Arrival    *arrivals;
	int			n = 0;
	ListCell   *lc;

	deliveries = es_queue_claim(es_queue_get(ES_QUEUE_SAGAS), is_own ? es_queue_worker_consumer(slot) : NULL, Min(max_count, MAX_ARRIVALS),
								es_guc_lease);
	result.handled = list_length(deliveries);
	arrivals = palloc(Max(list_length(deliveries), 1) * sizeof(Arrival));
	foreach(lc, deliveries)
	{
		EsDelivery *delivery = lfirst(lc);

		if (read_arrival(delivery, &arrivals[n]))
			n++;
		else
			(void) es_queue_settle(delivery->receipt, ES_SETTLE_REJECT, "no arrival of a saga", -1);
	}
	qsort(arrivals, n, sizeof(Arrival), compare_arrivals);
	for (int i = 0; i < n;)
	{
		Batch		group = {.arrivals = &arrivals[i], .n = 1};

		while (i + group.n < n && memcmp(&arrivals[i].saga, &arrivals[i + group.n].saga, UUID_LEN) == 0)
			group.n++;
		if (serve(&group))
			result.delivered += group.n;
		else
			result.failed += group.n;
		i += group.n;
	}
	es_turn_transaction_end(is_own);
	return result;
}

void
es_arrival_bring(Jsonb *body, int64 timer_id)
{
	EsDelivery	delivery = {.body = body, .message_id = timer_id};
	Arrival		arrival;
	Batch		batch = {.arrivals = &arrival, .n = 1};

	if (!read_arrival(&delivery, &arrival))
		elog(ERROR, "no arrival of a saga");
	bring(&batch);
	if (batch.is_busy)
		elog(ERROR, "a saga to which something is brought is busy");
}

/* returns its id */
static int64
send(const pg_uuid_t *id, const char *tenant, Jsonb *body, TimestampTz deliver_at)
{
	EsSimulation *simulation = es_simulation_of(id);
	EsMessage	message = {.body = JsonbPGetDatum(body), .tenant = tenant, .deliver_at = deliver_at, .is_arrival = true};

	if (simulation != NULL)
		return es_simulation_leave(simulation, body, deliver_at);
	es_queue_send(es_queue_get(ES_QUEUE_SAGAS), &message, 1);
	return message.id;
}

/* false: it is none; nobody but we should send such messages */
static bool
read_arrival(EsDelivery *delivery, Arrival *arrival)
{
	Jsonb	   *body = delivery->body;
	char	   *saga = JB_ROOT_IS_OBJECT(body) && es_options_has(body, "saga") ? es_options_string(body, "saga", NULL) : NULL;

	memset(arrival, 0, sizeof(Arrival));
	arrival->delivery = delivery;
	if (saga == NULL || !es_event_is_uuid(saga))
		return false;
	arrival->saga = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(saga)));
	arrival->is_timer = es_options_bool(body, "timer", false);
	arrival->is_take_back = es_options_bool(body, "take_back", false);
	arrival->compensates = es_options_bool(body, "compensates", false);
	arrival->is_lock = es_options_bool(body, "lock", false);
	arrival->tries = es_options_int(body, "tries", 0);
	arrival->signal = es_options_string(body, "signal", NULL);
	arrival->dedup_id = es_options_string(body, "dedup_id", NULL);
	arrival->parent = es_options_int(body, "parent", 0);
	arrival->seq = es_options_int(body, "seq", 0);
	arrival->ending.is_success = es_options_bool(body, "success", false);
	arrival->ending.is_final = es_options_bool(body, "final", false);
	arrival->ending.output = es_options_any(body, "output");
	arrival->ending.error = es_options_string(body, "error", NULL);
	arrival->ending.cause = es_options_string(body, "cause", NULL);
	arrival->ending.retry_after = es_options_number(body, "retry_after", -1);
	return true;
}

/* those of an instance together, in the order in which they came */
static int
compare_arrivals(const void *a, const void *b)
{
	const Arrival *x = a;
	const Arrival *y = b;
	int			order = memcmp(&x->saga, &y->saga, UUID_LEN);

	if (order != 0)
		return order;
	return x->delivery->message_id < y->delivery->message_id ? -1 : x->delivery->message_id > y->delivery->message_id;
}

/* false: nothing has come of it yet */
static bool
serve(Batch *group)
{
	char	   *error = es_attempt(bring, group);

	if (error != NULL)
		settle(group, ES_SETTLE_NACK, error, -1);
	else if (group->is_busy)
		settle(group, ES_SETTLE_NACK, BUSY, busy_delay(&group->arrivals[0]));
	else
		settle(group, ES_SETTLE_ACK, NULL, -1);
	return error == NULL && !group->is_busy;
}

/* ms */
static int64
busy_delay(const Arrival *arrival)
{
	return Min(BUSY_MS << Min(arrival->delivery->attempt - 1, 10), MAX_BUSY_MS);
}

/* what the instance appends and sends is its tenant's */
static void
bring(void *arg)
{
	Batch	   *group = arg;
	EsMove		move;
	EsSagaFound found;

	found = es_move_begin(&move, &group->arrivals[0].saga, false);
	group->is_busy = found == ES_SAGA_BUSY;
	if (found != ES_SAGA_FOUND)
		return;
	for (int i = 0; i < group->n; i++)
	{
		Arrival    *arrival = &group->arrivals[i];
		EsStep	   *step;

		if (arrival->is_timer)
		{
			if (move.saga.timer_id == arrival->delivery->message_id)
				move.saga.timer_id = move.saga.timer_due = 0;
			es_move_be_late(&move);
		}
		else if (arrival->is_lock)
			es_semantic_lock_arrived(&move, arrival->parent, arrival->seq, arrival->tries);
		else if (arrival->is_take_back)
			es_child_be_taken_back(&move, &(EsTakeBack) {.compensates = arrival->compensates, .error = arrival->ending.error, .parent = arrival->parent,
										   .seq = arrival->seq});
		else if (arrival->signal != NULL)
			(void) es_signal_bring(&move, arrival->signal, arrival->ending.output, arrival->dedup_id);
		else if ((step = es_move_step(&move, arrival->parent, arrival->seq)) != NULL)
		{
			/* who answered may not have had it any more; what somebody settles right now would come back with his rollback */
			if (step->status == ES_STEP_WAITING && step->message_id != 0)
				arrival->is_busy = !es_step_take_back(&move, step) && es_queue_is_left(step->queue_id, step->message_id);
			if (!arrival->is_busy)
				(void) es_move_answer(&move, step, &arrival->ending);
		}
	}
	es_move_end(&move);
}

static void
settle(const Batch *group, EsSettle how, const char *reason, int64 delay_ms)
{
	for (int i = 0; i < group->n; i++)
	{
		const Arrival *arrival = &group->arrivals[i];

		if (how == ES_SETTLE_ACK && arrival->is_busy)
			(void) es_queue_settle(arrival->delivery->receipt, ES_SETTLE_NACK, BUSY, busy_delay(arrival));
		else
			(void) es_queue_settle(arrival->delivery->receipt, how, reason, delay_ms);
	}
}
