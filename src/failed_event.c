/*
 * failed_event.c
 *		Events of a subscription that failed, and those that wait behind one of their key.
 *
 * Runs in consumers' backends and in workers.  Rows of evtstore_internal.failed_event; docs/architecture-subscriptions.md,
 * section 6, says what becomes of them.  Each key has one row that stands in front, state retry or blocked, and any
 * number behind it that wait; a row without a key stands for itself.  Rows of a key are written under the heavyweight lock of
 * the lane that it is handed out by, and belong to the caller's transaction.  A crash leaves what was committed.
 *
 * Nothing here is on the way of success: statements by SPI are fast enough.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "dead_key.h"
#include "failed_event.h"
#include "index_scan.h"
#include "queue.h"
#include "spi.h"

/* columns of evtstore_internal.failed_event, from 1 */
enum
{
	COLUMN_SUBSCRIPTION = 1,
	COLUMN_POSITION,
	COLUMN_EPOCH,
	COLUMN_NEXT_ATTEMPT_AT,
	COLUMN_FAILED_AT,
	COLUMN_ATTEMPT,
	COLUMN_STATE,
	COLUMN_KEY,
	COLUMN_TENANT,
	COLUMN_FIRST_ERROR
};

/* the cause of a dead letter that follows another of its key */
#define KEY_GIVEN_UP "key given up"

/* $1 the subscription, $2 the position, in every plan */

static EsPlan add_plan = {
	.sql = "INSERT INTO evtstore_internal.failed_event (subscription_id, position, key, attempt, state, next_attempt_at,"
	" failed_at, first_failed_at, first_error, last_error, tenant, history)"
	" SELECT $1, $2, $3, attempt, $5, $6, $7, CASE WHEN $8 IS NOT NULL THEN $7 END, $8, $8, $9,"
	" CASE WHEN $8 IS NOT NULL THEN " ES_QUEUE_HISTORY("attempt", "$7", "$8") " END FROM (SELECT $4 AS attempt, NULL::jsonb AS history) one",
	.nargs = 9,
	.args = {INT4OID, INT8OID, TEXTOID, INT4OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TEXTOID},
};

static EsPlan behind_plan = {
	.sql = "SELECT position, attempt FROM evtstore_internal.failed_event"
	" WHERE subscription_id = $1 AND key = $3 AND tenant = $5 AND position > $2 ORDER BY position LIMIT $4",
	.nargs = 5,
	.args = {INT4OID, INT8OID, TEXTOID, INT8OID, TEXTOID},
};

/* what was handed out with an event that failed again, in that hold: it must not pass it */
static EsPlan withdraw_plan = {
	.sql = "UPDATE evtstore_internal.failed_event SET epoch = NULL, attempt = GREATEST(attempt - 1, 0)"
	" WHERE subscription_id = $1 AND key = $3 AND tenant = $4 AND position > $2 AND epoch = $5",
	.nargs = 5,
	.args = {INT4OID, INT8OID, TEXTOID, TEXTOID, INT8OID},
};

static EsPlan hand_out_plan = {
	.sql = "UPDATE evtstore_internal.failed_event SET epoch = $3, attempt = $4 WHERE subscription_id = $1 AND position = $2",
	.nargs = 4,
	.args = {INT4OID, INT8OID, INT8OID, INT4OID},
};

static EsPlan find_plan = {
	.sql = "SELECT key, attempt, COALESCE((SELECT o.position FROM evtstore_internal.failed_event o"
	" WHERE o.subscription_id = $1 AND o.tenant = f.tenant AND o.key = f.key ORDER BY o.position LIMIT 1) < f.position, false), tenant, COALESCE(first_failed_at, failed_at)"
	" FROM evtstore_internal.failed_event f"
	" WHERE subscription_id = $1 AND position = $2 AND ($3 IS NULL OR epoch = $3)",
	.nargs = 3,
	.args = {INT4OID, INT8OID, INT8OID},
};

static EsPlan unblock_plan = {
	.sql = "UPDATE evtstore_internal.failed_event SET epoch = NULL, state = 'retry', next_attempt_at = $3, attempt = 0, first_failed_at = NULL"
	" WHERE subscription_id = $1 AND position = $2 AND state = 'blocked'",
	.nargs = 3,
	.args = {INT4OID, INT8OID, TIMESTAMPTZOID},
};

static EsPlan again_plan = {
	.sql = "UPDATE evtstore_internal.failed_event SET epoch = NULL, state = $3, next_attempt_at = $4, failed_at = $5,"
	" first_failed_at = COALESCE(first_failed_at, $5), first_error = COALESCE(first_error, $6), last_error = $6, history = " ES_QUEUE_HISTORY("attempt", "$5", "$6")
	" WHERE subscription_id = $1 AND position = $2",
	.nargs = 6,
	.args = {INT4OID, INT8OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID},
};

static EsPlan give_back_plan = {
	.sql = "UPDATE evtstore_internal.failed_event SET epoch = NULL, attempt = attempt - 1"
	" WHERE subscription_id = $1 AND position = $2 AND epoch = $3",
	.nargs = 3,
	.args = {INT4OID, INT8OID, INT8OID},
};

static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.failed_event WHERE subscription_id = $1 AND position = $2",
	.nargs = 2,
	.args = {INT4OID, INT8OID},
};

/* of the key, $2 of tenant $3 */
static EsPlan oldest_plan = {
	.sql = "SELECT position, state FROM evtstore_internal.failed_event WHERE subscription_id = $1 AND tenant = $3 AND key = $2"
	" ORDER BY position LIMIT 2",
	.nargs = 3,
	.args = {INT4OID, TEXTOID, TEXTOID},
};

static EsPlan stand_plan = {
	.sql = "UPDATE evtstore_internal.failed_event SET state = $3, next_attempt_at = $4 WHERE subscription_id = $1 AND position = $2",
	.nargs = 4,
	.args = {INT4OID, INT8OID, TEXTOID, TIMESTAMPTZOID},
};

/* an event that was scavenged meanwhile leaves nothing */
static EsPlan dead_letter_plan = {
	.sql = "INSERT INTO evtstore_internal.dead_letter"
	" (id, position, version, enqueued_at, failed_at, occurred_at, recorded_at, source_id, attempt, schema_version, event_id,"
	" tenant, kind, cause, key, stream, type, tags, body, headers, first_error, last_error, history)"
	" SELECT nextval('evtstore_internal.dead_letter_id_seq'),"
	" e.position, e.version, e.recorded_at, $3, e.occurred_at, e.recorded_at, $1, $4, e.schema_version, e.id,"
	" e.tenant, 'subscription', $5, $6, s.name, e.type, e.tags, e.data, e.metadata, COALESCE(f.first_error, $7), $7,"
	" (SELECT " ES_QUEUE_HISTORY("attempt", "$3", "$7") " FROM (SELECT $4 AS attempt, f.history) one)"
	" FROM evtstore_internal.event e"
	" LEFT JOIN evtstore_internal.stream s ON s.id = e.stream_id"
	" LEFT JOIN evtstore_internal.failed_event f ON f.subscription_id = $1 AND f.position = e.position"
	" WHERE e.position = $2",
	.nargs = 7,
	.args = {INT4OID, INT8OID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID, TEXTOID},
};

/* a row, as find finds it */
typedef struct Aside
{
	char	   *key;			/* both palloc'd; NULL: none */
	char	   *tenant;
	int			attempt;
	bool		is_behind;		/* an older one of its key stands aside */
	TimestampTz first_failed_at;
} Aside;

static void insert(const EsSubscription *subscription, int64 position, const char *tenant, const char *key, int attempt, const char *state,
				   TimestampTz next_attempt_at, TimestampTz now, const char *error);
static bool find(const EsSubscription *subscription, int64 position, uint64 epoch, Aside *aside);
static void bury(const EsSubscription *subscription, int64 position, const char *key, int attempt, const char *cause,
				 const char *error, TimestampTz now);
static int	bury_aside(const EsSubscription *subscription, int64 position, uint64 epoch, const Aside *aside, const char *cause,
					   const char *error, TimestampTz now);
static void give_up_key(const EsSubscription *subscription, const char *tenant, const char *key, const char *error, TimestampTz now);
static int	withdraw(const EsSubscription *subscription, int64 position, uint64 epoch, const char *tenant, const char *key);
static void put_front(const EsSubscription *subscription, int64 position, const char *tenant, const char *key, TimestampTz now);
static void let_stand(const EsSubscription *subscription, int64 position, const char *state_name, TimestampTz next_attempt_at);
static void remove_row(const EsSubscription *subscription, int64 position, const char *tenant, const char *key, TimestampTz now);
static void bind(Datum *values, const EsSubscription *subscription, int64 position);

List *
es_failed_event_heads(int32 subscription, Snapshot snapshot, TimestampTz now)
{
	List	   *heads = NIL;
	EsIndexScan scan;
	ScanKeyData key;

	es_index_scan_open(&scan, es_catalog()->failed_event, es_catalog()->failed_event_head, snapshot);
	ScanKeyInit(&key, COLUMN_SUBSCRIPTION, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(subscription));
	es_index_scan_start(&scan, &key, 1);
	while (es_index_scan_next(&scan, ForwardScanDirection))
	{
		EsFailedEvent *event = palloc0(sizeof(EsFailedEvent));
		bool		isnull;
		Datum		value;

		CHECK_FOR_INTERRUPTS();
		event->position = DatumGetInt64(slot_getattr(scan.slot, COLUMN_POSITION, &isnull));
		event->attempt = DatumGetInt32(slot_getattr(scan.slot, COLUMN_ATTEMPT, &isnull));
		value = slot_getattr(scan.slot, COLUMN_EPOCH, &isnull);
		event->epoch = isnull ? 0 : (uint64) DatumGetInt64(value);
		value = slot_getattr(scan.slot, COLUMN_NEXT_ATTEMPT_AT, &isnull);
		event->next_attempt_at = isnull ? 0 : DatumGetTimestampTz(value);
		event->is_due = !isnull && event->next_attempt_at <= now;
		value = slot_getattr(scan.slot, COLUMN_KEY, &isnull);
		event->key = isnull ? NULL : TextDatumGetCString(value);
		event->tenant = TextDatumGetCString(slot_getattr(scan.slot, COLUMN_TENANT, &isnull));
		(void) slot_getattr(scan.slot, COLUMN_FIRST_ERROR, &isnull);
		event->has_failed = !isnull;
		heads = lappend(heads, event);
	}
	es_index_scan_close(&scan);
	return heads;
}

List *
es_failed_event_behind(int32 subscription, const EsFailedEvent *front, int max_count)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *behind = NIL;
	EsSpiState	state;
	Datum		values[5];
	uint64		n;

	values[0] = Int32GetDatum(subscription);
	values[1] = Int64GetDatum(front->position);
	values[2] = CStringGetTextDatum(front->key);
	values[3] = Int64GetDatum(max_count);
	values[4] = CStringGetTextDatum(front->tenant);
	es_queue_spi_begin(&state);
	n = es_spi_run(&behind_plan, values, NULL, true, 0);
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		EsFailedEvent *event = palloc0(sizeof(EsFailedEvent));

		event->position = es_spi_int64(i, 0);
		event->attempt = es_spi_int32(i, 1);
		event->lane = front->lane;
		event->key = front->key;
		event->tenant = front->tenant;
		behind = lappend(behind, event);
		MemoryContextSwitchTo(spi);
	}
	es_spi_end(&state);
	return behind;
}

void
es_failed_event_add(const EsSubscription *subscription, int64 position, const char *tenant, const char *key, int attempt,
					const char *cause,
					const char *error, int64 delay_ms)
{
	TimestampTz now = es_clock_now();
	bool		is_rejected = strcmp(cause, "rejected") == 0;
	const char *over = es_retry_over(&subscription->retry, attempt, 0, error);

	if (is_rejected || (over != NULL && subscription->on_failure != ES_FAILURE_BLOCK))
	{
		bury(subscription, position, key, attempt, is_rejected ? cause : over, error, now);
		give_up_key(subscription, tenant, key, error, now);
	}
	else if (over != NULL)
		insert(subscription, position, tenant, key, attempt, "blocked", 0, now, error);
	else
		insert(subscription, position, tenant, key, attempt, "retry",
			   es_queue_deadline(now, delay_ms >= 0 ? delay_ms : es_retry_delay(&subscription->retry, attempt), "delay"), now, error);
}

void
es_failed_event_wait(const EsSubscription *subscription, int64 position, const char *tenant, const char *key)
{
	char	   *error;

	if (subscription->on_failure == ES_FAILURE_DEAD_LETTER_KEY &&
		es_dead_key_find(subscription->definition.id, tenant, key, &error))
		bury(subscription, position, key, 0, KEY_GIVEN_UP, error, es_clock_now());
	else
		insert(subscription, position, tenant, key, 0, "waiting", 0, es_clock_now(), NULL);
}

void
es_failed_event_release(const EsSubscription *subscription, int64 position, const char *tenant, const char *key)
{
	TimestampTz now = es_clock_now();

	insert(subscription, position, tenant, key, 0, "retry", now, now, NULL);
}

void
es_failed_event_hand_out(const EsSubscription *subscription, int64 position, uint64 epoch, int attempt)
{
	EsSpiState	state;
	Datum		values[4];

	bind(values, subscription, position);
	values[2] = Int64GetDatum((int64) epoch);
	values[3] = Int32GetDatum(attempt);
	es_queue_spi_begin(&state);
	es_spi_run(&hand_out_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

bool
es_failed_event_ack(const EsSubscription *subscription, int64 position, uint64 epoch)
{
	Aside		aside;

	if (!find(subscription, position, epoch, &aside))
		return false;
	remove_row(subscription, position, aside.tenant, aside.key, es_clock_now());
	return true;
}

int
es_failed_event_nack(const EsSubscription *subscription, int64 position, uint64 epoch, const char *error, int64 delay_ms)
{
	TimestampTz now = es_clock_now();
	EsSpiState	state;
	Datum		values[6];
	Aside		aside;
	const char *over;

	if (!find(subscription, position, epoch, &aside))
		return 0;
	over = es_retry_over(&subscription->retry, aside.attempt, (now - aside.first_failed_at) / 1000, error);
	if (over != NULL && subscription->on_failure != ES_FAILURE_BLOCK)
		return bury_aside(subscription, position, epoch, &aside, over, error, now);
	if (delay_ms < 0)
		delay_ms = es_retry_delay(&subscription->retry, aside.attempt);
	bind(values, subscription, position);
	/* one that was brought along by an older one of its key must not come before it */
	values[2] = CStringGetTextDatum(aside.is_behind ? "waiting" : over != NULL ? "blocked" : "retry");
	values[3] = TimestampTzGetDatum(es_queue_deadline(now, delay_ms, "delay"));
	values[4] = TimestampTzGetDatum(now);
	values[5] = CStringGetTextDatum(error);
	es_queue_spi_begin(&state);
	es_spi_run(&again_plan, values, aside.is_behind || over != NULL ? "   n  " : "      ", false, 0);
	es_spi_end(&state);
	return 1 + withdraw(subscription, position, epoch, aside.tenant, aside.key);
}

int
es_failed_event_reject(const EsSubscription *subscription, int64 position, uint64 epoch, const char *error)
{
	TimestampTz now = es_clock_now();
	Aside		aside;

	if (!find(subscription, position, epoch, &aside))
		return 0;
	return bury_aside(subscription, position, epoch, &aside, "rejected", error, now);
}

int
es_failed_event_give_back(const EsSubscription *subscription, int64 position, uint64 epoch)
{
	EsSpiState	state;
	Datum		values[3];
	Aside		aside;

	if (!find(subscription, position, epoch, &aside))
		return 0;
	bind(values, subscription, position);
	values[2] = Int64GetDatum((int64) epoch);
	es_queue_spi_begin(&state);
	es_spi_run(&give_back_plan, values, NULL, false, 0);
	es_spi_end(&state);
	return 1 + withdraw(subscription, position, epoch, aside.tenant, aside.key);
}

bool
es_failed_event_key_waits(const EsSubscription *subscription, const char *tenant, const char *key)
{
	EsFailedEvent front = {.position = -1, .tenant = unconstify(char *, tenant), .key = unconstify(char *, key)};

	return es_failed_event_behind(subscription->definition.id, &front, 1) != NIL;
}

void
es_failed_event_skip(const EsSubscription *subscription, int64 position, const char *reason)
{
	TimestampTz now = es_clock_now();
	Aside		aside;

	if (!find(subscription, position, 0, &aside))
		return;
	bury(subscription, position, aside.key, aside.attempt, "skipped", reason, now);
	remove_row(subscription, position, aside.tenant, aside.key, now);
}

void
es_failed_event_unblock(const EsSubscription *subscription, int64 position)
{
	EsSpiState	state;
	Datum		values[3];

	bind(values, subscription, position);
	values[2] = TimestampTzGetDatum(es_clock_now());
	es_queue_spi_begin(&state);
	es_spi_run(&unblock_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

bool
es_failed_event_exists(const EsSubscription *subscription, int64 position)
{
	Aside		aside;

	return find(subscription, position, 0, &aside);
}

static void
insert(const EsSubscription *subscription, int64 position, const char *tenant, const char *key, int attempt, const char *state_name,
	   TimestampTz next_attempt_at, TimestampTz now, const char *error)
{
	EsSpiState	state;
	Datum		values[9];
	char		nulls[10] = "         ";

	bind(values, subscription, position);
	values[2] = key == NULL ? (Datum) 0 : CStringGetTextDatum(key);
	nulls[2] = key == NULL ? 'n' : ' ';
	values[3] = Int32GetDatum(attempt);
	values[4] = CStringGetTextDatum(state_name);
	values[5] = TimestampTzGetDatum(next_attempt_at);
	nulls[5] = next_attempt_at == 0 ? 'n' : ' ';
	values[6] = TimestampTzGetDatum(now);
	values[7] = error == NULL ? (Datum) 0 : CStringGetTextDatum(error);
	nulls[7] = error == NULL ? 'n' : ' ';
	values[8] = CStringGetTextDatum(tenant);
	es_queue_spi_begin(&state);
	es_spi_run(&add_plan, values, nulls, false, 0);
	es_spi_end(&state);
	put_front(subscription, strcmp(state_name, "waiting") == 0 ? 0 : position, tenant, key, now);
}

/* epoch 0: in whatever hold */
static bool
find(const EsSubscription *subscription, int64 position, uint64 epoch, Aside *aside)
{
	MemoryContext caller = CurrentMemoryContext;
	EsSpiState	state;
	Datum		values[3];
	bool		found;

	memset(aside, 0, sizeof(Aside));
	bind(values, subscription, position);
	values[2] = Int64GetDatum((int64) epoch);
	es_queue_spi_begin(&state);
	found = es_spi_run(&find_plan, values, epoch == 0 ? "  n" : "   ", true, 1) > 0;
	if (found)
	{
		char	   *text = es_spi_text(0, 0);
		bool		isnull;

		aside->key = text == NULL ? NULL : MemoryContextStrdup(caller, text);
		aside->tenant = MemoryContextStrdup(caller, es_spi_text(0, 3));
		aside->attempt = es_spi_int32(0, 1);
		aside->is_behind = DatumGetBool(es_spi_value(0, 2, &isnull));
		aside->first_failed_at = DatumGetTimestampTz(es_spi_value(0, 4, &isnull));
	}
	es_spi_end(&state);
	return found;
}

static void
bury(const EsSubscription *subscription, int64 position, const char *key, int attempt, const char *cause, const char *error,
	 TimestampTz now)
{
	EsSpiState	state;
	Datum		values[7];

	bind(values, subscription, position);
	values[2] = TimestampTzGetDatum(now);
	values[3] = Int32GetDatum(attempt);
	values[4] = CStringGetTextDatum(cause);
	values[5] = key == NULL ? (Datum) 0 : CStringGetTextDatum(key);
	values[6] = CStringGetTextDatum(error);
	es_queue_spi_begin(&state);
	es_spi_run(&dead_letter_plan, values, key == NULL ? "     n " : "       ", false, 0);
	es_spi_end(&state);
}

/* how many that were handed out are settled by it */
static int
bury_aside(const EsSubscription *subscription, int64 position, uint64 epoch, const Aside *aside, const char *cause, const char *error,
		   TimestampTz now)
{
	int			n = 1;

	bury(subscription, position, aside->key, aside->attempt, cause, error, now);
	if (subscription->on_failure == ES_FAILURE_DEAD_LETTER_KEY)
		n += withdraw(subscription, position, epoch, aside->tenant, aside->key);
	remove_row(subscription, position, aside->tenant, aside->key, now);
	give_up_key(subscription, aside->tenant, aside->key, error, now);
	return n;
}

/* where the policy says so: all that stands aside of it follows, in order, and so will what comes later */
static void
give_up_key(const EsSubscription *subscription, const char *tenant, const char *key, const char *error, TimestampTz now)
{
	EsFailedEvent front = {.position = -1, .tenant = unconstify(char *, tenant), .key = unconstify(char *, key)};
	ListCell   *lc;

	if (subscription->on_failure != ES_FAILURE_DEAD_LETTER_KEY || key == NULL)
		return;
	es_dead_key_add(subscription->definition.id, tenant, key, error);
	foreach(lc, es_failed_event_behind(subscription->definition.id, &front, INT_MAX))
	{
		const EsFailedEvent *event = lfirst(lc);
		EsSpiState	state;
		Datum		values[2];

		bury(subscription, event->position, key, event->attempt, KEY_GIVEN_UP, error, now);
		bind(values, subscription, event->position);
		es_queue_spi_begin(&state);
		es_spi_run(&delete_plan, values, NULL, false, 0);
		es_spi_end(&state);
	}
}

/* how many that were handed out are not any more */
static int
withdraw(const EsSubscription *subscription, int64 position, uint64 epoch, const char *tenant, const char *key)
{
	EsSpiState	state;
	Datum		values[5];
	int			n;

	if (key == NULL)
		return 0;
	bind(values, subscription, position);
	values[2] = CStringGetTextDatum(key);
	values[3] = CStringGetTextDatum(tenant);
	values[4] = Int64GetDatum((int64) epoch);
	es_queue_spi_begin(&state);
	n = (int) es_spi_run(&withdraw_plan, values, NULL, false, 0);
	es_spi_end(&state);
	return n;
}

/*
 * Of a key the oldest one stands in front and no other: the oldest may be new, because it was handed out before those that
 * failed, or because the one before it is done.  All others are known to wait, but for the second, which was in front, and the
 * one at that position, which is new and does not wait (0: there is none).  So however many wait, no more are looked at.
 */
static void
put_front(const EsSubscription *subscription, int64 position, const char *tenant, const char *key, TimestampTz now)
{
	EsSpiState	state;
	Datum		values[3];
	int64		oldest[2] = {0, 0};
	bool		waits[2] = {true, true};
	int			n;

	if (key == NULL)
		return;
	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = CStringGetTextDatum(key);
	values[2] = CStringGetTextDatum(tenant);
	es_queue_spi_begin(&state);
	n = (int) es_spi_run(&oldest_plan, values, NULL, true, 0);
	for (int i = 0; i < n; i++)
	{
		oldest[i] = es_spi_int64(i, 0);
		waits[i] = strcmp(es_spi_text(i, 1), "waiting") == 0;
	}
	es_spi_end(&state);
	if (n > 0 && waits[0])
		let_stand(subscription, oldest[0], "retry", now);
	if (n > 1 && !waits[1])
		let_stand(subscription, oldest[1], "waiting", 0);
	if (n > 1 && position > oldest[1])
		let_stand(subscription, position, "waiting", 0);
}

/* next_attempt_at 0: none */
static void
let_stand(const EsSubscription *subscription, int64 position, const char *state_name, TimestampTz next_attempt_at)
{
	EsSpiState	state;
	Datum		values[4];

	bind(values, subscription, position);
	values[2] = CStringGetTextDatum(state_name);
	values[3] = TimestampTzGetDatum(next_attempt_at);
	es_queue_spi_begin(&state);
	es_spi_run(&stand_plan, values, next_attempt_at == 0 ? "   n" : NULL, false, 0);
	es_spi_end(&state);
}

/* and lets the next one of its key come */
static void
remove_row(const EsSubscription *subscription, int64 position, const char *tenant, const char *key, TimestampTz now)
{
	EsSpiState	state;
	Datum		values[2];

	bind(values, subscription, position);
	es_queue_spi_begin(&state);
	es_spi_run(&delete_plan, values, NULL, false, 0);
	es_spi_end(&state);
	put_front(subscription, 0, tenant, key, now);
}

static void
bind(Datum *values, const EsSubscription *subscription, int64 position)
{
	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = Int64GetDatum(position);
}
