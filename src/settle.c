/*
 * settle.c
 *		Taking messages back: ack, nack, reject, release, extend, dead letters.
 *
 * Runs in consumers' backends (receipt.c) and in delivery workers.  A receipt names a message and the epoch of one claim; it
 * holds as long as the message is there, at that epoch, with a lease (claim.c raises the epoch with each claim; nack and
 * release take the lease away).  Whether the lease's time is over does not matter: until somebody else took the message
 * over, the late ack is right.  Every statement here finds its row by primary key and locks it, waiting for whoever
 * changes it at the moment, and looks at the epoch of the version that it locked: of two settlements of one receipt the
 * second one finds it stale.  Several receipts are settled in order of message id, so that two such calls cannot wait
 * for each other.
 *
 * Everything is part of the caller's transaction; a rollback or a crash undoes it and the receipt holds again.
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
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "error.h"
#include "queue.h"
#include "shmem.h"
#include "wakeup.h"

/* characters of a reason that are kept */
#define MAX_REASON 2000

/* what stands for a reason that was not given */
#define NO_REASON "no reason given"

/* the row of a receipt that holds; $1 to $4 in every plan that has it */
#define HELD "id = $1 AND queue_id = $2 AND epoch = $3 AND lease_until IS NOT NULL AND ($4 = '' OR tenant = $4)"
#define HELD_ARGS INT8OID, INT4OID, INT4OID, TEXTOID

static EsPlan ack_plan = {
	.sql = "DELETE FROM evtstore_internal.message WHERE " HELD " RETURNING key IS NOT NULL",
	.nargs = 4,
	.args = {HELD_ARGS},
};

static EsPlan hold_plan = {
	.sql = "SELECT key IS NOT NULL, attempt FROM evtstore_internal.message WHERE " HELD " FOR UPDATE",
	.nargs = 4,
	.args = {HELD_ARGS},
};

static EsPlan retry_plan = {
	.sql = "UPDATE evtstore_internal.message SET lease_until = NULL, consumer = NULL, deliver_at = $2,"
	" first_error = COALESCE(first_error, $3), history = " ES_QUEUE_HISTORY("$4", "$3") " WHERE id = $1",
	.nargs = 4,
	.args = {INT8OID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID},
};

static EsPlan release_plan = {
	.sql = "UPDATE evtstore_internal.message SET lease_until = NULL, consumer = NULL, attempt = attempt - 1"
	" WHERE " HELD,
	.nargs = 4,
	.args = {HELD_ARGS},
};

static EsPlan extend_plan = {
	.sql = "UPDATE evtstore_internal.message SET lease_until = $5 WHERE " HELD,
	.nargs = 5,
	.args = {HELD_ARGS, TIMESTAMPTZOID},
};

static EsPlan dead_letter_plan = {
	.sql = "WITH message AS (DELETE FROM evtstore_internal.message WHERE id = $1 RETURNING *)"
	" INSERT INTO evtstore_internal.dead_letter"
	" (id, message_id, position, version, enqueued_at, failed_at, occurred_at, recorded_at, source_id, priority, attempt,"
	" schema_version, event_id, tenant, kind, cause, key, stream, type, tags, body, headers,"
	" first_error, last_error, history)"
	" SELECT nextval('evtstore_internal.dead_letter_id_seq'),"
	" id, position, version, enqueued_at, $4, occurred_at, recorded_at, queue_id, priority, attempt,"
	" schema_version, event_id, tenant, 'queue', $2, key, stream, type, tags, body, headers,"
	" COALESCE(first_error, $3), $3, " ES_QUEUE_HISTORY("$4", "$3") " FROM message",
	.nargs = 4,
	.args = {INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
};

static EsPlan why_stale_plan = {
	.sql = "SELECT CASE WHEN m.epoch > $3 THEN 'claimed_again' WHEN l.message_id IS NOT NULL THEN 'lease_expired'"
	" ELSE 'settled' END"
	" FROM (SELECT) one"
	" LEFT JOIN evtstore_internal.message m ON m.id = $1 AND m.queue_id = $2 AND ($4 = '' OR m.tenant = $4)"
	" LEFT JOIN evtstore_internal.dead_letter l ON l.message_id = $1 AND l.source_id = $2 AND l.kind = 'queue'"
	" AND l.cause = 'lease expired' AND ($4 = '' OR l.tenant = $4)",
	.nargs = 4,
	.args = {HELD_ARGS},
};

/*
 * '-infinity' ends the lease and keeps that there was one: the attempt counts, and the last one is a dead letter.
 */
static EsPlan recover_plan = {
	.sql = "UPDATE evtstore_internal.message SET lease_until = '-infinity'"
	" WHERE lease_until > '-infinity' AND starts_with(consumer, $1) AND NOT starts_with(consumer, $2)",
	.nargs = 2,
	.args = {TEXTOID, TEXTOID},
};

static bool settle(const EsMessageReceipt *receipt, EsSettle how, const char *reason, int64 delay_ms);
static bool give_back(const EsMessageReceipt *receipt, const EsRetry *retry, const char *reason, int64 delay_ms,
					  bool *makes_ready);
static bool bury(const EsMessageReceipt *receipt, const char *reason, bool *makes_ready);
static void bind_receipt(Datum *values, const EsMessageReceipt *receipt);
static char *worker_prefix(void);
static const char *why_stale(const EsMessageReceipt *receipt);

void
es_queue_settle_receipts(EsMessageReceipt *receipts, int n, EsSettle how, const char *reason, int64 delay_ms)
{
	for (int i = 0; i < n; i++)
		if (!settle(&receipts[i], how, reason, delay_ms))
			receipts[i].stale = why_stale(&receipts[i]);
}

void
es_queue_extend(EsMessageReceipt *receipt, int64 lease_ms)
{
	EsSpiState	state;
	Datum		values[5];
	bool		held = false;

	if (es_queue_lock(receipt->queue_id, AccessShareLock) != NULL)
	{
		bind_receipt(values, receipt);
		values[4] = TimestampTzGetDatum(es_queue_deadline(es_clock_now(), lease_ms, "lease"));
		es_queue_spi_begin(&state);
		held = es_spi_run(&extend_plan, values, NULL, false, 0) > 0;
		es_spi_end(&state);
	}
	if (!held)
		receipt->stale = why_stale(receipt);
}

bool
es_queue_settle(const char *receipt, EsSettle how, const char *reason, int64 delay_ms)
{
	EsMessageReceipt parsed;

	if (!es_queue_parse_receipt(receipt, &parsed))
		elog(ERROR, "malformed receipt \"%s\"", receipt);
	return settle(&parsed, how, es_queue_clip_reason(reason), delay_ms);
}

char *
es_queue_clip_reason(const char *reason)
{
	return reason == NULL ? NULL : pnstrdup(reason, pg_mbcharcliplen(reason, strlen(reason), MAX_REASON));
}

/* Inside es_queue_spi_begin.  Locks: the message's row */
void
es_queue_dead_letter(int64 message_id, const char *cause, const char *error, TimestampTz now)
{
	Datum		values[4];

	values[0] = Int64GetDatum(message_id);
	values[1] = CStringGetTextDatum(cause);
	values[2] = CStringGetTextDatum(error);
	values[3] = TimestampTzGetDatum(now);
	if (es_spi_run(&dead_letter_plan, values, NULL, false, 0) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("message %lld could not be moved to the dead letters", (long long) message_id),
				 errhint("A trigger on the tables of schema evtstore_internal suppresses it: let it return its row.")));
}

int64
es_queue_recover_leases(void)
{
	EsSpiState	state;
	Datum		values[2];
	int64		n;

	values[0] = CStringGetTextDatum(ES_QUEUE_WORKER_PREFIX);
	values[1] = CStringGetTextDatum(worker_prefix());
	es_spi_begin(&state);
	n = es_spi_run(&recover_plan, values, NULL, false, 0);
	es_spi_end(&state);
	if (n > 0)
		es_wakeup_at_commit((int) Min(n, INT_MAX));
	return n;
}

char *
es_queue_worker_consumer(int slot)
{
	return psprintf("%s%d", worker_prefix(), slot);
}

/* opaque to others; never begins with '{' */
char *
es_queue_receipt(int32 queue_id, int64 message_id, int32 epoch)
{
	return psprintf("q%d.%lld.%d", queue_id, (long long) message_id, epoch);
}

static char *
worker_prefix(void)
{
	return psprintf("%s%016llx:", ES_QUEUE_WORKER_PREFIX, (unsigned long long) es_shmem_incarnation());
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
	receipt->epoch = (int32) strtol(end + 1, &end, 10);
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

/* false: the receipt is stale.  Workers are woken where this makes a message ready, now or after a time */
static bool
settle(const EsMessageReceipt *receipt, EsSettle how, const char *reason, int64 delay_ms)
{
	const EsQueue *queue = es_queue_lock(receipt->queue_id, AccessShareLock);
	EsRetry		retry;
	bool		pushed;
	bool		held = false;
	bool		makes_ready = true;
	EsSpiState	state;
	Datum		values[4];

	if (queue == NULL)
		return false;
	retry = queue->retry;		/* the cache may be rebuilt below */
	pushed = queue->endpoint != NULL;
	bind_receipt(values, receipt);
	es_queue_spi_begin(&state);
	switch (how)
	{
		case ES_SETTLE_ACK:
			held = es_spi_run(&ack_plan, values, NULL, false, 0) > 0;
			if (held)
			{
				bool		isnull;

				makes_ready = DatumGetBool(es_spi_value(0, 0, &isnull));	/* the next one of its key */
			}
			break;
		case ES_SETTLE_NACK:
			held = give_back(receipt, &retry, reason, delay_ms, &makes_ready);
			break;
		case ES_SETTLE_REJECT:
			held = bury(receipt, reason, &makes_ready);
			break;
		case ES_SETTLE_RELEASE:
			held = es_spi_run(&release_plan, values, NULL, false, 0) > 0;
			break;
	}
	es_spi_end(&state);
	if (held && pushed && makes_ready)
		es_wakeup_at_commit(1);
	return held;
}

/* nack */
static bool
give_back(const EsMessageReceipt *receipt, const EsRetry *retry, const char *reason, int64 delay_ms, bool *makes_ready)
{
	TimestampTz now = es_clock_now();
	Datum		values[4];
	char		nulls[5] = "    ";
	bool		isnull;
	int			attempt;

	bind_receipt(values, receipt);
	if (es_spi_run(&hold_plan, values, NULL, false, 0) == 0)
		return false;
	attempt = es_spi_int32(0, 1);
	if (reason == NULL)
		reason = NO_REASON;
	if (retry->max_attempts > 0 && attempt >= retry->max_attempts)
	{
		*makes_ready = DatumGetBool(es_spi_value(0, 0, &isnull));
		es_queue_dead_letter(receipt->message_id, "attempts spent", reason, now);
		return true;
	}

	if (delay_ms < 0)
		delay_ms = es_retry_delay(retry, attempt);
	values[0] = Int64GetDatum(receipt->message_id);
	values[1] = TimestampTzGetDatum(es_queue_deadline(now, delay_ms, "delay"));
	nulls[1] = delay_ms > 0 ? ' ' : 'n';
	values[2] = CStringGetTextDatum(reason);
	values[3] = TimestampTzGetDatum(now);
	es_spi_run(&retry_plan, values, nulls, false, 0);
	return true;
}

/* reject */
static bool
bury(const EsMessageReceipt *receipt, const char *reason, bool *makes_ready)
{
	Datum		values[4];
	bool		isnull;

	bind_receipt(values, receipt);
	if (es_spi_run(&hold_plan, values, NULL, false, 0) == 0)
		return false;
	*makes_ready = DatumGetBool(es_spi_value(0, 0, &isnull));
	es_queue_dead_letter(receipt->message_id, "rejected", reason != NULL ? reason : NO_REASON, es_clock_now());
	return true;
}

static void
bind_receipt(Datum *values, const EsMessageReceipt *receipt)
{
	values[0] = Int64GetDatum(receipt->message_id);
	values[1] = Int32GetDatum(receipt->queue_id);
	values[2] = Int32GetDatum(receipt->epoch);
	values[3] = CStringGetTextDatum(es_queue_tenant());
}

static const char *
why_stale(const EsMessageReceipt *receipt)
{
	EsSpiState	state;
	Datum		values[4];
	const char *reason = "settled";

	bind_receipt(values, receipt);
	es_queue_spi_begin(&state);
	if (es_spi_run(&why_stale_plan, values, NULL, true, 1) > 0)
	{
		char	   *found = es_spi_text(0, 0);

		if (strcmp(found, "claimed_again") == 0)
			reason = "claimed_again";
		else if (strcmp(found, "lease_expired") == 0)
			reason = "lease_expired";
	}
	es_spi_end(&state);
	return reason;
}
