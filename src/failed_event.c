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
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "dead_key.h"
#include "failed_event.h"
#include "queue.h"
#include "spi.h"

/* the cause of a dead letter that follows another of its key */
#define KEY_GIVEN_UP "key given up"

/* the same of one that its receiver will never take */
#define REFUSED "refused by the receiver"

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

/*
 * Sets of rows are found one by one, by LATERAL and LIMIT: a join would be planned by statistics that may be of a time when the
 * subscription had none, and read all of its rows.  The locks of the lanes keep the row where it was found.
 */
#define ROW_AT "LATERAL (SELECT r.ctid FROM evtstore_internal.failed_event r WHERE r.subscription_id = $1 AND r.position = u.position LIMIT 1) r"

static EsPlan hand_out_plan = {
	.sql = "UPDATE evtstore_internal.failed_event f SET epoch = NULLIF(u.epoch, 0), attempt = u.attempt"
	" FROM unnest($2, $3, $4) u (position, epoch, attempt), " ROW_AT " WHERE f.ctid = r.ctid",
	.nargs = 4,
	.args = {INT4OID, INT8ARRAYOID, INT8ARRAYOID, INT4ARRAYOID},
};

static EsPlan find_plan = {
	.sql = "SELECT key, attempt, state = 'waiting', tenant, COALESCE(first_failed_at, failed_at)"
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
	.sql = "UPDATE evtstore_internal.failed_event SET epoch = NULL, attempt = attempt - 1,"
	" next_attempt_at = CASE WHEN state = 'retry' THEN GREATEST(next_attempt_at, $4) ELSE next_attempt_at END"
	" WHERE subscription_id = $1 AND position = $2 AND epoch = $3",
	.nargs = 4,
	.args = {INT4OID, INT8OID, INT8OID, TIMESTAMPTZOID},
};

static EsPlan hasten_plan = {
	.sql = "UPDATE evtstore_internal.failed_event f SET next_attempt_at = $3 FROM unnest($2) u (position), " ROW_AT
	" WHERE f.ctid = r.ctid AND f.state = 'retry' AND f.epoch IS NULL AND f.next_attempt_at > $3",
	.nargs = 3,
	.args = {INT4OID, INT8ARRAYOID, TIMESTAMPTZOID},
};

/* $3 NULL: in whatever hold; 0: in none */
static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.failed_event f USING unnest($2) u (position), " ROW_AT
	" WHERE f.ctid = r.ctid AND ($3 IS NULL OR COALESCE(f.epoch, 0) = $3) RETURNING f.position, CASE WHEN f.state <> 'waiting' THEN f.key END, f.tenant",
	.nargs = 3,
	.args = {INT4OID, INT8ARRAYOID, INT8OID},
};

/*
 * Those that stood in front of their keys, at positions $2, are gone: the next ones stand there.  None is looked for below
 * them, where the entries of all that went before may still lie in the index.
 */
static EsPlan advance_plan = {
	.sql = "UPDATE evtstore_internal.failed_event f SET state = 'retry', next_attempt_at = $5"
	" FROM unnest($2, $3, $4) u (position, tenant, key), LATERAL (SELECT n.ctid FROM evtstore_internal.failed_event n"
	"  WHERE n.subscription_id = $1 AND n.tenant = u.tenant AND n.key = u.key AND n.position > u.position ORDER BY n.position LIMIT 1) n"
	" WHERE f.ctid = n.ctid AND f.state = 'waiting'",
	.nargs = 5,
	.args = {INT4OID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID},
};

/* events that wait, $2 of tenants $3 and keys $4; a key that was given up has none */
#define WAITING "unnest($2, $3, $4) u (position, tenant, key)"
#define DEAD_KEY "LATERAL (SELECT d.error FROM evtstore_internal.dead_key d" \
	" WHERE d.subscription_id = $1 AND d.tenant = u.tenant AND d.key = u.key LIMIT 1) d"

/* of each key the first of them, and the one that stands in front, where it is not older: NULL if there is none */
static EsPlan new_fronts_plan = {
	.sql = "SELECT u.position, f.position FROM (SELECT min(u.position), u.tenant, u.key FROM " WAITING " GROUP BY u.tenant, u.key) u (position, tenant, key)"
	" LEFT JOIN LATERAL (SELECT o.position FROM evtstore_internal.failed_event o"
	"  WHERE o.subscription_id = $1 AND o.tenant = u.tenant AND o.key = u.key ORDER BY o.position LIMIT 1) f ON true"
	" LEFT JOIN " DEAD_KEY " ON true WHERE (f.position IS NULL OR f.position > u.position) AND d.error IS NULL",
	.nargs = 4,
	.args = {INT4OID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID},
};

static EsPlan wait_plan = {
	.sql = "INSERT INTO evtstore_internal.failed_event (subscription_id, position, key, attempt, state, failed_at, tenant)"
	" SELECT $1, u.position, u.key, 0, 'waiting', $5, u.tenant FROM " WAITING " LEFT JOIN " DEAD_KEY " ON true"
	" WHERE d.error IS NULL",
	.nargs = 5,
	.args = {INT4OID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID},
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

/*
 * Dead letters of the events in dead (position, key, attempt, cause, error), at $2, in their order; an event that was scavenged
 * meanwhile leaves nothing.
 */
#define DEAD_LETTERS(dead) \
	"INSERT INTO evtstore_internal.dead_letter" \
	" (id, position, version, enqueued_at, failed_at, occurred_at, recorded_at, source_id, attempt, schema_version, event_id," \
	" tenant, kind, cause, key, stream, type, tags, body, headers, first_error, last_error, history)" \
	" SELECT nextval('evtstore_internal.dead_letter_id_seq')," \
	" e.position, e.version, e.recorded_at, $2, e.occurred_at, e.recorded_at, $1, dead.attempt, e.schema_version, e.id," \
	" e.tenant, 'subscription', dead.cause, dead.key, s.name, e.type, e.tags, e.data, e.metadata, COALESCE(f.first_error, dead.error), dead.error," \
	" (SELECT " ES_QUEUE_HISTORY("dead.attempt", "$2", "dead.error") " FROM (SELECT f.history) one)" \
	" FROM (" dead ") dead (position, key, attempt, cause, error)" \
	" JOIN LATERAL (SELECT * FROM evtstore_internal.event e WHERE e.position = dead.position LIMIT 1) e ON true" \
	" LEFT JOIN LATERAL (SELECT name FROM evtstore_internal.stream s WHERE s.id = e.stream_id LIMIT 1) s ON true" \
	" LEFT JOIN LATERAL (SELECT history, first_error FROM evtstore_internal.failed_event f" \
	"  WHERE f.subscription_id = $1 AND f.position = e.position LIMIT 1) f ON true" \
	" ORDER BY dead.position"

static EsPlan dead_letter_plan = {
	.sql = DEAD_LETTERS("SELECT $3, $4, $5, $6, $7"),
	.nargs = 7,
	.args = {INT4OID, TIMESTAMPTZOID, INT8OID, TEXTOID, INT4OID, TEXTOID, TEXTOID},
};

/* all that stands aside of key $4 of tenant $3 */
static EsPlan give_up_plan = {
	.sql = DEAD_LETTERS("SELECT a.position, a.key, a.attempt, '" KEY_GIVEN_UP "', $5 FROM evtstore_internal.failed_event a"
						" WHERE a.subscription_id = $1 AND a.tenant = $3 AND a.key = $4"),
	.nargs = 5,
	.args = {INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID},
};

static EsPlan delete_key_plan = {
	.sql = "DELETE FROM evtstore_internal.failed_event WHERE subscription_id = $1 AND tenant = $2 AND key = $3",
	.nargs = 3,
	.args = {INT4OID, TEXTOID, TEXTOID},
};

/* of events that wait, $3 of tenants $4 and keys $5: those whose key was given up */
static EsPlan follow_plan = {
	.sql = DEAD_LETTERS("SELECT u.position, u.key, 0, '" KEY_GIVEN_UP "', d.error FROM unnest($3, $4, $5) u (position, tenant, key), " DEAD_KEY),
	.nargs = 5,
	.args = {INT4OID, TIMESTAMPTZOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID},
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
static void put_in_line(const EsSubscription *subscription, int64 position, const char *tenant, const char *key);
static void let_stand(const EsSubscription *subscription, int64 position, const char *state_name, TimestampTz next_attempt_at);
static int	remove_rows(const EsSubscription *subscription, int64 *positions, int n, uint64 epoch, bool in_any_hold, TimestampTz now);
static void advance(const EsSubscription *subscription, Datum positions, Datum tenants, Datum keys, TimestampTz now);
static int	compare_positions(const void *a, const void *b);
static void bind(Datum *values, const EsSubscription *subscription, int64 position);

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
					const char *cause, bool is_final, const char *error, int64 delay_ms)
{
	TimestampTz now = es_clock_now();
	bool		is_rejected = strcmp(cause, "rejected") == 0;
	const char *over = is_final ? REFUSED : es_retry_over(&subscription->retry, attempt, 0, error);

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
es_failed_event_wait(EsWaitingEvents *waiting, int64 position, const char *tenant, const char *key)
{
	waiting->positions = accumArrayResult(waiting->positions, Int64GetDatum(position), false, INT8OID, waiting->context);
	waiting->tenants = accumArrayResult(waiting->tenants, CStringGetTextDatum(tenant), false, TEXTOID, waiting->context);
	waiting->keys = accumArrayResult(waiting->keys, CStringGetTextDatum(key), false, TEXTOID, waiting->context);
	waiting->n++;
}

/*
 * Of all that wait only the first of a key can be the oldest one of it, because it was handed out before those that failed and
 * comes back after them: then it stands in front, and who stood there waits.
 */
void
es_failed_event_put_waiting(const EsSubscription *subscription, EsWaitingEvents *waiting)
{
	TimestampTz now = es_clock_now();
	MemoryContext caller = CurrentMemoryContext;
	EsSpiState	state;
	Datum		values[5];
	int64	   *fronts;
	uint64		n;

	if (waiting->n == 0)
		return;
	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = makeArrayResult(waiting->positions, caller);
	values[2] = makeArrayResult(waiting->tenants, caller);
	values[3] = makeArrayResult(waiting->keys, caller);
	values[4] = TimestampTzGetDatum(now);
	es_queue_spi_begin(&state);
	if (subscription->on_failure == ES_FAILURE_DEAD_LETTER_KEY)
	{
		Datum		followers[5] = {values[0], values[4], values[1], values[2], values[3]};

		es_spi_run(&follow_plan, followers, NULL, false, 0);
	}
	n = es_spi_run(&new_fronts_plan, values, NULL, true, 0);
	fronts = MemoryContextAlloc(caller, Max(n, 1) * 2 * sizeof(int64));
	for (uint64 i = 0; i < 2 * n; i++)
		fronts[i] = es_spi_int64(i / 2, i % 2);
	es_spi_run(&wait_plan, values, NULL, false, 0);
	es_spi_end(&state);
	for (uint64 i = 0; i < n; i++)
	{
		let_stand(subscription, fronts[2 * i], "retry", now);
		if (fronts[2 * i + 1] != 0)
			let_stand(subscription, fronts[2 * i + 1], "waiting", 0);
	}
	waiting->n = 0;
	waiting->positions = waiting->tenants = waiting->keys = NULL;
}

void
es_failed_event_release(const EsSubscription *subscription, int64 position, const char *tenant, const char *key, int64 delay_ms)
{
	TimestampTz now = es_clock_now();

	insert(subscription, position, tenant, key, 0, "retry", es_queue_deadline(now, Max(delay_ms, 0), "delay"), now, NULL);
}

void
es_failed_event_hand_out(const EsSubscription *subscription, EsFailedEvent *const *events, int n)
{
	ArrayBuildState *columns[3] = {NULL, NULL, NULL};
	EsSpiState	state;
	Datum		values[4];

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
	{
		columns[0] = accumArrayResult(columns[0], Int64GetDatum(events[i]->position), false, INT8OID, CurrentMemoryContext);
		columns[1] = accumArrayResult(columns[1], Int64GetDatum((int64) events[i]->epoch), false, INT8OID, CurrentMemoryContext);
		columns[2] = accumArrayResult(columns[2], Int32GetDatum(events[i]->attempt), false, INT4OID, CurrentMemoryContext);
	}
	values[0] = Int32GetDatum(subscription->definition.id);
	for (int i = 0; i < 3; i++)
		values[1 + i] = makeArrayResult(columns[i], CurrentMemoryContext);
	es_queue_spi_begin(&state);
	es_spi_run(&hand_out_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

int
es_failed_event_ack(const EsSubscription *subscription, int64 *positions, int n, uint64 epoch)
{
	return remove_rows(subscription, positions, n, epoch, false, es_clock_now());
}

void
es_failed_event_hasten(const EsSubscription *subscription, int64 *positions, int n)
{
	EsSpiState	state;
	Datum		values[3];

	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = es_queue_id_array(positions, n);
	values[2] = TimestampTzGetDatum(es_clock_now());
	es_queue_spi_begin(&state);
	es_spi_run(&hasten_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

int
es_failed_event_nack(const EsSubscription *subscription, int64 position, uint64 epoch, bool is_final, const char *error,
					 int64 delay_ms)
{
	TimestampTz now = es_clock_now();
	EsSpiState	state;
	Datum		values[6];
	Aside		aside;
	const char *over;

	if (!find(subscription, position, epoch, &aside))
		return 0;
	over = is_final ? REFUSED : es_retry_over(&subscription->retry, aside.attempt, (now - aside.first_failed_at) / 1000, error);
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
es_failed_event_give_back(const EsSubscription *subscription, int64 position, uint64 epoch, int64 delay_ms)
{
	EsSpiState	state;
	Datum		values[4];
	Aside		aside;

	if (!find(subscription, position, epoch, &aside))
		return 0;
	bind(values, subscription, position);
	values[2] = Int64GetDatum((int64) epoch);
	values[3] = TimestampTzGetDatum(es_queue_deadline(es_clock_now(), Max(delay_ms, 0), "delay"));
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

bool
es_failed_event_is_out(const EsSubscription *subscription, int64 position, uint64 epoch)
{
	Aside		aside;

	return find(subscription, position, epoch, &aside);
}

void
es_failed_event_skip(const EsSubscription *subscription, int64 position, const char *reason)
{
	TimestampTz now = es_clock_now();
	Aside		aside;

	if (!find(subscription, position, 0, &aside))
		return;
	bury(subscription, position, aside.key, aside.attempt, "skipped", reason, now);
	(void) remove_rows(subscription, &position, 1, 0, true, now);
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
	put_in_line(subscription, position, tenant, key);
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

	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = TimestampTzGetDatum(now);
	values[2] = Int64GetDatum(position);
	values[3] = key == NULL ? (Datum) 0 : CStringGetTextDatum(key);
	values[4] = Int32GetDatum(attempt);
	values[5] = CStringGetTextDatum(cause);
	values[6] = CStringGetTextDatum(error);
	es_queue_spi_begin(&state);
	es_spi_run(&dead_letter_plan, values, key == NULL ? "   n   " : NULL, false, 0);
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
	(void) remove_rows(subscription, &position, 1, 0, true, now);
	give_up_key(subscription, aside->tenant, aside->key, error, now);
	return n;
}

/* where the policy says so: all that stands aside of it follows, in order, and so will what comes later */
static void
give_up_key(const EsSubscription *subscription, const char *tenant, const char *key, const char *error, TimestampTz now)
{
	EsSpiState	state;
	Datum		values[5];

	if (subscription->on_failure != ES_FAILURE_DEAD_LETTER_KEY || key == NULL)
		return;
	es_dead_key_add(subscription->definition.id, tenant, key, error);
	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = TimestampTzGetDatum(now);
	values[2] = CStringGetTextDatum(tenant);
	values[3] = CStringGetTextDatum(key);
	values[4] = CStringGetTextDatum(error);
	es_queue_spi_begin(&state);
	es_spi_run(&give_up_plan, values, NULL, false, 0);
	values[1] = values[2];
	values[2] = values[3];
	es_spi_run(&delete_key_plan, values, NULL, false, 0);
	es_spi_end(&state);
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
 * Of a key the oldest one stands in front and no other.  The one at that position is new and does not wait: it was handed out before
 * those that failed, and who stood in front is the second now, or it comes behind them.  All others are known to wait, so however many
 * those are, no more than two are looked at.
 */
static void
put_in_line(const EsSubscription *subscription, int64 position, const char *tenant, const char *key)
{
	EsSpiState	state;
	Datum		values[3];
	int64		second = 0;
	bool		waits = true;

	if (key == NULL)
		return;
	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = CStringGetTextDatum(key);
	values[2] = CStringGetTextDatum(tenant);
	es_queue_spi_begin(&state);
	if (es_spi_run(&oldest_plan, values, NULL, true, 0) > 1)
	{
		second = es_spi_int64(1, 0);
		waits = strcmp(es_spi_text(1, 1), "waiting") == 0;
	}
	es_spi_end(&state);
	if (!waits)
		let_stand(subscription, second, "waiting", 0);
	if (second != 0 && position > second)
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

/*
 * And lets the next ones of their keys come.  Those that are not handed out in that hold stay, unless any will do; 0: those that are handed
 * out.  How many went; positions says which
 */
static int
remove_rows(const EsSubscription *subscription, int64 *positions, int n, uint64 epoch, bool in_any_hold, TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;
	ArrayBuildState *fronts[3] = {NULL, NULL, NULL};
	EsSpiState	state;
	Datum		values[3];

	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = es_queue_id_array(positions, n);
	values[2] = Int64GetDatum((int64) epoch);
	es_queue_spi_begin(&state);
	n = (int) es_spi_run(&delete_plan, values, in_any_hold ? "  n" : NULL, false, 0);
	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		Datum		key = es_spi_value(i, 1, &isnull);

		positions[i] = es_spi_int64(i, 0);
		if (isnull)
			continue;
		fronts[0] = accumArrayResult(fronts[0], Int64GetDatum(positions[i]), false, INT8OID, caller);
		fronts[1] = accumArrayResult(fronts[1], es_spi_value(i, 2, &isnull), false, TEXTOID, caller);
		fronts[2] = accumArrayResult(fronts[2], key, false, TEXTOID, caller);
	}
	es_spi_end(&state);
	qsort(positions, n, sizeof(int64), compare_positions);
	if (fronts[0] != NULL)
		advance(subscription, makeArrayResult(fronts[0], caller), makeArrayResult(fronts[1], caller), makeArrayResult(fronts[2], caller), now);
	return n;
}

static void
advance(const EsSubscription *subscription, Datum positions, Datum tenants, Datum keys, TimestampTz now)
{
	EsSpiState	state;
	Datum		values[5] = {Int32GetDatum(subscription->definition.id), positions, tenants, keys, TimestampTzGetDatum(now)};

	es_queue_spi_begin(&state);
	es_spi_run(&advance_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

static int
compare_positions(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

static void
bind(Datum *values, const EsSubscription *subscription, int64 position)
{
	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = Int64GetDatum(position);
}
