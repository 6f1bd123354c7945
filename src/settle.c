/*
 * settle.c
 *		Taking messages back: ack, nack, reject, release, extend, dead letters.
 *
 * Runs in consumers' backends (receipt.c) and in delivery workers.  A receipt names a message and the epoch of one hold; it
 * holds as long as nobody took the message over (queue_state.c): whether the lease's time is over does not matter until then.
 * Of two settlements of one receipt the second waits for the end of the first one's transaction, but for an answer to a saga that
 * may not (saga_answer.c), and for workers with commands for endpoints, who leave it to the end of the lease.  Several receipts are
 * settled in order of message id, so that two such calls cannot wait for each other.
 *
 * The row is the caller's transaction's: an acknowledgement deletes it where it is, a failure writes it, a release does not
 * touch it.  A rollback undoes it and the receipt holds again; after a crash no receipt does.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "error.h"
#include "queue.h"
#include "queue_walk.h"
#include "table.h"
#include "wakeup.h"

/* characters of a reason that are kept */
#define MAX_REASON 2000

/* what stands for a reason that was not given */
#define NO_REASON "no reason given"

/* the cause of who was rejected, whatever the retry policy */
#define REJECTED "rejected"

/* the row of a hold; $1 to $4 in every plan that has it */
#define HELD "queue_id = $1 AND share = $2 AND rank = $3 AND id = $4"
#define HELD_ARGS INT4OID, INT8OID, INT4OID, INT8OID

static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.message WHERE " HELD,
	.nargs = 4,
	.args = {HELD_ARGS},
};

static EsPlan attempt_plan = {
	.sql = "SELECT attempt, enqueued_at FROM evtstore_internal.message WHERE " HELD,
	.nargs = 4,
	.args = {HELD_ARGS},
};

static EsPlan retry_plan = {
	.sql = "UPDATE evtstore_internal.message SET attempt = $5, deliver_at = $6, first_error = COALESCE(first_error, $7),"
	" history = " ES_QUEUE_HISTORY("$5", "$8", "$7") " WHERE " HELD " RETURNING ctid",
	.nargs = 8,
	.args = {HELD_ARGS, INT4OID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID},
};

static EsPlan dead_letter_plan = {
	.sql = "WITH message AS (DELETE FROM evtstore_internal.message WHERE " HELD " RETURNING *)"
	" INSERT INTO evtstore_internal.dead_letter"
	" (id, message_id, position, version, enqueued_at, failed_at, occurred_at, recorded_at, source_id, priority, attempt,"
	" schema_version, event_id, tenant, kind, cause, key, stream, type, tags, body, headers,"
	" first_error, last_error, history)"
	" SELECT nextval('evtstore_internal.dead_letter_id_seq'),"
	" id, position, version, enqueued_at, $8, occurred_at, recorded_at, queue_id, -rank, $5,"
	" schema_version, event_id, tenant, 'queue', $6, key, stream, type, tags, body, headers,"
	" COALESCE(first_error, $7), $7, " ES_QUEUE_HISTORY("$5", "$8", "$7") " FROM message"
	" RETURNING type IS NULL AND event_id IS NOT NULL, event_id, position, version, tenant",
	.nargs = 8,
	.args = {HELD_ARGS, INT4OID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
};

/* for another queue: a message, in the order of ES_LETTER_COLUMNS, that says where it comes from */
static EsPlan take_plan = {
	.sql = "DELETE FROM evtstore_internal.message WHERE " HELD
	" RETURNING position, version, schema_version, -rank, event_id, occurred_at, recorded_at, tenant, key, stream, type, tags, body,"
	" headers || jsonb_build_object('dead_letter', jsonb_build_object('queue', $9, 'message_id', id, 'enqueued_at', enqueued_at,"
	" 'attempts', $5, 'cause', $6, 'first_error', COALESCE(first_error, $7), 'last_error', $7, 'failed_at', $8))",
	.nargs = 9,
	.args = {HELD_ARGS, INT4OID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID},
};

/* it was taken over in its last attempt, and is a dead letter */
static EsPlan was_lost_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.dead_letter WHERE message_id = $1 AND source_id = $2 AND kind = 'queue'"
	" AND cause = 'lease expired' AND ($3 = '' OR tenant = $3)",
	.nargs = 3,
	.args = {INT8OID, INT4OID, TEXTOID},
};

static void require_use(const EsQueue *queue);
static const char *settle(const EsMessageReceipt *receipt, EsSettle how, const char *reason, int64 delay_ms, EsCommand *answered, bool takes_any, bool *is_busy);
static void parse_own(const char *receipt, EsMessageReceipt *parsed);
static bool *busy_of(EsMessageReceipt *receipt);
static Jsonb *answer_document(int status, Jsonb *body);
static void read_command(TupleTableSlot *slot, EsCommand *command);
static void refuse_acknowledgement(const EsMessageReceipt *receipt, bool is_command);
static bool fail(int32 queue_id, const EsHold *hold, const EsRetry *retry, EsSettle how, const char *reason, int64 delay_ms,
				 bool *is_gone);
static bool send_dead_letter(const char *target, Datum *values, EsCommand *command);
static bool keep_dead_letter(Datum *values, EsCommand *command);
static void bind_hold(Datum *values, int32 queue_id, const EsHold *hold);
static uint64 tenant_hash(void);
static const char *why_stale(const EsMessageReceipt *receipt, const char *why);

void
es_queue_settle_receipts(EsMessageReceipt *receipts, int n, EsSettle how, const char *reason, int64 delay_ms)
{
	if (n > 0 && how != ES_SETTLE_ACK && how != ES_SETTLE_RELEASE && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("messages can only be acknowledged or released in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errdetail("Its snapshot need not show the message."),
				 errhint("Use READ COMMITTED, the default isolation level.")));
	for (int i = 0; i < n; i++)
	{
		if (i == 0 || receipts[i].queue_id != receipts[i - 1].queue_id)
			require_use(es_queue_lock(receipts[i].queue_id, AccessShareLock));
		receipts[i].stale = settle(&receipts[i], how, reason, delay_ms, NULL, false, NULL);
	}
}

void
es_queue_extend(EsMessageReceipt *receipt, int64 lease_ms)
{
	const EsQueue *queue = es_queue_lock(receipt->queue_id, AccessShareLock);
	EsQueueState *state = queue == NULL ? NULL : es_queue_state_find(receipt->queue_id);
	TimestampTz now = es_clock_now();

	require_use(queue);
	if (state == NULL ||
		!es_queue_extend_lease(state, receipt->message_id, receipt->epoch, tenant_hash(), now, es_queue_deadline(now, lease_ms, "lease")))
		receipt->stale = why_stale(receipt, "claimed_again");
}

bool
es_queue_settle(const char *receipt, EsSettle how, const char *reason, int64 delay_ms)
{
	EsMessageReceipt parsed;

	parse_own(receipt, &parsed);
	return settle(&parsed, how, es_queue_clip_reason(reason), delay_ms, NULL, false, busy_of(&parsed)) == NULL && !parsed.is_busy;
}

/* of a worker, who has it from a claim */
static void
parse_own(const char *receipt, EsMessageReceipt *parsed)
{
	if (!es_queue_parse_receipt(receipt, parsed))
		elog(ERROR, "malformed receipt \"%s\"", receipt);
}

/*
 * Commands for endpoints are taken away by the transactions of sagas, whose clients may idle: a worker, who has others to serve, does not wait for those.  NULL:
 * it is in another queue
 */
static bool *
busy_of(EsMessageReceipt *receipt)
{
	const EsQueue *queue = es_queue_lock(receipt->queue_id, AccessShareLock);

	return queue != NULL && queue->is_for_steps ? &receipt->is_busy : NULL;
}

bool
es_queue_settle_delivered(const char *receipt, int status, Jsonb *body, bool is_outside)
{
	EsCommandEnd end = {.is_done = true, .is_pushed = true};
	EsCommand	command = {false};
	EsMessageReceipt parsed;
	const EsQueue *queue;

	parse_own(receipt, &parsed);
	parsed.stale = settle(&parsed, ES_SETTLE_ACK, NULL, -1, &command, true, busy_of(&parsed));
	/* where somebody is about to take it away, the step is told in any case; if he does not, who tells it takes it away */
	if (parsed.is_busy || (parsed.stale != NULL && is_outside))
	{
		queue = es_queue_lock(parsed.queue_id, AccessShareLock);
		if (queue != NULL && queue->is_for_steps)
			(void) es_queue_find_command(parsed.queue_id, parsed.message_id, &command);
	}
	if (command.is_one)
	{
		end.output = answer_document(status, body);
		(void) es_queue_tell_command_ended(&command, &end);
	}
	return parsed.stale == NULL && (!parsed.is_busy || command.is_one);
}

/* {"status", "body"}, as far as they are known */
static Jsonb *
answer_document(int status, Jsonb *body)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	if (status != 0)
		appendStringInfo(&buf, "\"status\": %d", status);
	if (body != NULL)
		appendStringInfo(&buf, "%s\"body\": %s", status != 0 ? ", " : "", JsonbToCString(NULL, &body->root, VARSIZE(body)));
	appendStringInfoChar(&buf, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

void
es_queue_settle_command(EsMessageReceipt *receipt, bool waits, EsCommand *command)
{
	memset(command, 0, sizeof(EsCommand));
	require_use(es_queue_lock(receipt->queue_id, AccessShareLock));
	receipt->stale = settle(receipt, ES_SETTLE_ACK, NULL, -1, command, false, waits ? NULL : &receipt->is_busy);
}

char *
es_queue_clip_reason(const char *reason)
{
	return reason == NULL ? NULL : pnstrdup(reason, pg_mbcharcliplen(reason, strlen(reason), MAX_REASON));
}

bool
es_queue_dead_letter(int32 queue_id, const EsHold *hold, int attempt, const char *cause, const char *error, TimestampTz now)
{
	const EsQueue *queue = es_queue_lock(queue_id, AccessShareLock);
	char	   *target = queue->dead_letter_queue == NULL ? NULL : pstrdup(queue->dead_letter_queue);
	EsCommandEnd end = {.is_pushed = queue->endpoint != NULL, .is_rejected = strcmp(cause, REJECTED) == 0, .error = error};
	Datum		values[9];
	EsCommand	command = {false};

	bind_hold(values, queue_id, hold);
	values[4] = Int32GetDatum(attempt);
	values[5] = CStringGetTextDatum(cause);
	values[6] = CStringGetTextDatum(error);
	values[7] = TimestampTzGetDatum(now);
	values[8] = CStringGetTextDatum(queue->name);
	if (target != NULL ? send_dead_letter(target, values, &command) : keep_dead_letter(values, &command))
	{
		/* the step that waits for it is told */
		(void) es_queue_tell_command_ended(&command, &end);
		return true;
	}
	if (es_spi_run(&attempt_plan, values, NULL, false, 0) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("message %lld could not be moved to the dead letters", (long long) hold->id),
				 errhint("A trigger on the tables of schema evtstore_internal suppresses it: let it return its row.")));
	return false;
}

/* a new message there, of its old tenant and key; false: there is no row.  Inside es_queue_spi_begin */
static bool
send_dead_letter(const char *target, Datum *values, EsCommand *command)
{
	Datum		columns[ES_LETTER_COLUMNS];
	bool		nulls[ES_LETTER_COLUMNS];
	EsMessage	message;

	if (es_spi_run(&take_plan, values, NULL, false, 0) != 1)
		return false;
	for (int i = 0; i < ES_LETTER_COLUMNS; i++)
		columns[i] = es_spi_value(0, i, &nulls[i]);
	es_queue_fill_message(&message, columns, nulls);
	/* its step has failed: in that queue it is a message like others */
	*command = (EsCommand) {message.is_command, message.event_id, (int) message.position, (int) message.version, message.tenant, true};
	message.is_command = false;
	es_queue_send(es_queue_get(target), &message, 1);
	return true;
}

static bool
keep_dead_letter(Datum *values, EsCommand *command)
{
	bool		isnull;

	if (es_spi_run(&dead_letter_plan, values, NULL, false, 0) != 1)
		return false;
	command->is_one = DatumGetBool(es_spi_value(0, 0, &isnull));
	if (!command->is_one)
		return true;
	command->saga_id = *DatumGetUUIDP(es_spi_value(0, 1, &isnull));
	command->parent = (int) es_spi_int64(0, 2);
	command->seq = (int) es_spi_int64(0, 3);
	command->tenant = es_spi_text(0, 4);
	return true;
}

char *
es_queue_worker_consumer(int slot)
{
	return psprintf("%s%d", ES_QUEUE_WORKER_PREFIX, slot);
}

/* opaque to others; never begins with '{' */
char *
es_queue_receipt(int32 queue_id, int64 message_id, uint64 epoch)
{
	return psprintf("q%d.%lld.%llu", queue_id, (long long) message_id, (unsigned long long) epoch);
}

/* what it reads must print as what was given: no spaces, signs, leading zeros or overflow pass */
bool
es_queue_parse_receipt(const char *text, EsMessageReceipt *receipt)
{
	char	   *end = NULL;

	memset(receipt, 0, sizeof(EsMessageReceipt));
	receipt->text = text;
	if (text[0] != 'q')
		return false;
	receipt->queue_id = (int32) strtol(text + 1, &end, 10);
	if (*end != '.')
		return false;
	receipt->message_id = strtoll(end + 1, &end, 10);
	if (*end != '.')
		return false;
	receipt->epoch = strtoull(end + 1, &end, 10);
	return strcmp(text, es_queue_receipt(receipt->queue_id, receipt->message_id, receipt->epoch)) == 0;
}

int
es_queue_compare_receipts(const void *a, const void *b)
{
	const EsMessageReceipt *x = a;
	const EsMessageReceipt *y = b;

	if (x->message_id != y->message_id)
		return x->message_id < y->message_id ? -1 : 1;
	if (x->queue_id != y->queue_id)
		return x->queue_id < y->queue_id ? -1 : 1;
	return x->epoch < y->epoch ? -1 : x->epoch > y->epoch;
}

/* NULL: it was dropped, and the receipt is stale */
static void
require_use(const EsQueue *queue)
{
	if (queue != NULL)
		es_use_require(&queue->use, ES_USE_CONSUME, "queue", queue->name);
}

/* NULL, or why the receipt is stale.  Workers are woken where this makes a message ready, now or after a time */
static const char *
settle(const EsMessageReceipt *receipt, EsSettle how, const char *reason, int64 delay_ms, EsCommand *answered, bool takes_any, bool *is_busy)
{
	EsCommand	command = {false};
	const EsQueue *queue = es_queue_lock(receipt->queue_id, AccessShareLock);
	EsQueueState *state = queue == NULL ? NULL : es_queue_state_find(receipt->queue_id);
	EsRetry		retry;
	bool		pushed;
	bool		is_gone = false;
	bool		found = true;
	EsHold		hold;
	const char *why;

	if (state == NULL)
		return why_stale(receipt, queue == NULL ? "settled" : "claimed_again");
	retry = es_retry_copy(&queue->retry);	/* the cache may be rebuilt below */
	pushed = queue->endpoint != NULL;
	why = es_queue_hold(state, receipt->message_id, receipt->epoch, tenant_hash(), &hold, is_busy);
	if (why != NULL)
		return why_stale(receipt, why);
	if (is_busy != NULL && *is_busy)
		return NULL;
	switch (how)
	{
		case ES_SETTLE_ACK:
			is_gone = found = es_queue_delete_row(receipt->queue_id, &hold, &command);
			if (found && !takes_any && command.is_one != (answered != NULL) && !(command.is_one && es_queue_may_acknowledge(&command)))
				refuse_acknowledgement(receipt, command.is_one);
			if (answered != NULL)
				*answered = command;
			break;
		case ES_SETTLE_NACK:
		case ES_SETTLE_REJECT:
		case ES_SETTLE_GIVE_UP:
			found = fail(receipt->queue_id, &hold, &retry, how, reason, delay_ms, &is_gone);
			break;
		case ES_SETTLE_RELEASE:
			es_queue_given_back(&hold);
			break;
	}
	/* somebody deleted its row by hand, or a trigger keeps it: the hold stays as it is, and the end of the lease finds out */
	if (!found)
		return "settled";
	if (is_gone)
		es_queue_gone(&hold);
	if (pushed && (!is_gone || hold.key_hash != 0))
		es_wakeup_at_commit(1);
	return NULL;
}

/* what would leave a step waiting for ever, or answer what nobody asked */
static void
refuse_acknowledgement(const EsMessageReceipt *receipt, bool is_command)
{
	const char *name = es_queue_lock(receipt->queue_id, AccessShareLock)->name;

	if (is_command)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("message %lld of queue \"%s\" is a command of a saga, which waits for an answer", (long long) receipt->message_id, name),
				 errhint("Answer it with evtstore.reply() or evtstore.fail(); nack() and release() give it back.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("message %lld of queue \"%s\" is no command of a saga", (long long) receipt->message_id, name),
			 errhint("Settle it with evtstore.ack(), nack() or reject().")));
}

static void
read_command(TupleTableSlot *slot, EsCommand *command)
{
	bool		has_no_type;
	bool		isnull;
	Datum		id = slot_getattr(slot, ES_MESSAGE_EVENT_ID, &isnull);

	if (isnull)
		return;
	(void) slot_getattr(slot, ES_MESSAGE_TYPE, &has_no_type);
	command->is_one = has_no_type;
	if (!has_no_type)
		return;
	command->saga_id = *DatumGetUUIDP(id);
	command->parent = (int) DatumGetInt64(slot_getattr(slot, ES_MESSAGE_POSITION, &isnull));
	command->seq = (int) DatumGetInt64(slot_getattr(slot, ES_MESSAGE_VERSION, &isnull));
	command->tenant = TextDatumGetCString(slot_getattr(slot, ES_MESSAGE_TENANT, &isnull));
	/* who had it before a crash is forgotten */
	command->was_had = DatumGetInt32(slot_getattr(slot, ES_MESSAGE_ATTEMPT, &isnull)) > 0 ||
		DatumGetTimestampTz(slot_getattr(slot, ES_MESSAGE_ENQUEUED_AT, &isnull)) < es_queue_remembers_since();
}

bool
es_queue_delete_row(int32 queue_id, const EsHold *hold, EsCommand *command)
{
	EsTable    *table = es_table_open(ES_TABLE_MESSAGE, es_catalog()->message);
	TupleTableSlot *slot = es_table_make_slot(table);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = es_queue_fetch(queue_id, hold, snapshot, slot);
	bool		deleted = false;

	if (found)
	{
		ItemPointerData tid = slot->tts_tid;

		read_command(slot, command);
		ExecClearTuple(slot);
		PushActiveSnapshot(snapshot);
		deleted = es_table_delete(es_table_open(ES_TABLE_MESSAGE, es_catalog()->message), &tid);
		PopActiveSnapshot();
	}
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	if (found && !deleted)
	{
		EsSpiState	state;
		Datum		values[4];

		bind_hold(values, queue_id, hold);
		es_queue_spi_begin(&state);
		deleted = es_spi_run(&delete_plan, values, NULL, false, 0) == 1;
		es_spi_end(&state);
	}
	else if (deleted)
		CommandCounterIncrement();
	return deleted;
}

/* nack and reject; false: there is no row */
static bool
fail(int32 queue_id, const EsHold *hold, const EsRetry *retry, EsSettle how, const char *reason, int64 delay_ms, bool *is_gone)
{
	TimestampTz now = es_clock_now();
	EsSpiState	state;
	Datum		values[8];
	char		nulls[9] = "        ";
	bool		isnull;
	bool		found;
	int			attempt;
	TimestampTz enqueued_at;
	const char *cause;

	if (reason == NULL)
		reason = NO_REASON;
	bind_hold(values, queue_id, hold);
	es_queue_spi_begin(&state);
	found = es_spi_run(&attempt_plan, values, NULL, false, 0) > 0;
	attempt = found ? es_spi_int32(0, 0) + hold->lost + 1 : 0;
	enqueued_at = found ? DatumGetTimestampTz(es_spi_value(0, 1, &isnull)) : now;
	cause = how != ES_SETTLE_NACK ? REJECTED : es_retry_over(retry, attempt, (now - enqueued_at) / 1000, reason);
	if (found && cause != NULL)
	{
		*is_gone = found = es_queue_dead_letter(queue_id, hold, attempt, cause, reason, now);
	}
	else if (found)
	{
		TimestampTz deliver_at = 0;

		if (delay_ms < 0)
			delay_ms = es_retry_delay(retry, attempt);
		if (delay_ms > 0)
			deliver_at = es_queue_deadline(now, delay_ms, "delay");
		values[4] = Int32GetDatum(attempt);
		values[5] = TimestampTzGetDatum(deliver_at);
		nulls[5] = deliver_at != 0 ? ' ' : 'n';
		values[6] = CStringGetTextDatum(reason);
		values[7] = TimestampTzGetDatum(now);
		found = es_spi_run(&retry_plan, values, nulls, false, 0) == 1;
		if (found)
			es_queue_again(hold, (ItemPointer) DatumGetPointer(es_spi_value(0, 0, &isnull)), deliver_at);
	}
	es_spi_end(&state);
	return found;
}

static void
bind_hold(Datum *values, int32 queue_id, const EsHold *hold)
{
	values[0] = Int32GetDatum(queue_id);
	values[1] = Int64GetDatum(hold->share);
	values[2] = Int32GetDatum(hold->rank);
	values[3] = Int64GetDatum(hold->id);
}

/* of the tenant that the session is confined to; 0: none */
static uint64
tenant_hash(void)
{
	const char *tenant = es_queue_tenant();

	return es_queue_tenant_hash(tenant, strlen(tenant));
}

static const char *
why_stale(const EsMessageReceipt *receipt, const char *why)
{
	EsSpiState	state;
	Datum		values[3];

	values[0] = Int64GetDatum(receipt->message_id);
	values[1] = Int32GetDatum(receipt->queue_id);
	values[2] = CStringGetTextDatum(es_queue_tenant());
	es_queue_spi_begin(&state);
	if (es_spi_run(&was_lost_plan, values, NULL, true, 1) > 0)
		why = "lease_expired";
	es_spi_end(&state);
	return why;
}
