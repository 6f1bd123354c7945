/*
 * saga_signal.c
 *		Signals: what sagas are told by name, before or after they wait for it.
 *
 * Runs in the backend of who signals, or in a worker for what was left, within a transition (saga_move.c) under the lock of the instance.  Each
 * signal is a row: it waits there for who asks for its name, the oldest first, and its dedup_id is known for the life of the instance.  A crash
 * leaves what was committed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "queue.h"
#include "saga_column.h"
#include "saga_simulate.h"
#include "spi.h"

static EsPlan take_plan = {
	.sql = "UPDATE evtstore_internal.saga_signal SET taken_by = $3 WHERE saga_id = $1 AND number ="
	" (SELECT number FROM evtstore_internal.saga_signal WHERE saga_id = $1 AND name = $2 AND taken_by IS NULL ORDER BY number LIMIT 1)"
	" RETURNING payload",
	.nargs = 3,
	.args = {UUIDOID, TEXTOID, INT4OID},
};

static EsPlan known_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.saga_signal WHERE saga_id = $1 AND dedup_id = $2 LIMIT 1",
	.nargs = 2,
	.args = {UUIDOID, TEXTOID},
};

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.saga_signal (saga_id, number, taken_by, sent_at, name, dedup_id, payload)"
	" SELECT $1, COALESCE(max(number), 0) + 1, $2, $3, $4, $5, $6 FROM evtstore_internal.saga_signal WHERE saga_id = $1",
	.nargs = 6,
	.args = {UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID},
};

static EsPlan untaken_plan = {
	.sql = "SELECT number, sent_at, name, payload FROM evtstore_internal.saga_signal WHERE saga_id = $1 AND taken_by IS NULL ORDER BY number",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan hand_plan = {
	.sql = "UPDATE evtstore_internal.saga_signal SET taken_by = $3 WHERE saga_id = $1 AND number = $2 AND taken_by IS NULL",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, INT4OID},
};

static void signal_saga(const pg_uuid_t *id, const char *name, Jsonb *payload, const char *dedup_id);
static bool is_known(EsMove *move, const char *dedup_id);
static EsStep *find_waiting(EsMove *move, const char *name);
static void keep(EsMove *move, const char *name, Jsonb *payload, const char *dedup_id, int taken_by);

PG_FUNCTION_INFO_V1(evtstore_signal_saga);
PG_FUNCTION_INFO_V1(evtstore_signal_saga_by_key);

/* signal_saga(id uuid, name text, payload jsonb, dedup_id text) -> void; evtstore_writer */
Datum
evtstore_signal_saga(PG_FUNCTION_ARGS)
{
	char	   *name;

	es_catalog_require_writable("signal_saga");
	es_arg_required(fcinfo, 0, "id");
	name = es_arg_name(fcinfo, 1, "name", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 2, "payload");
	signal_saga(PG_GETARG_UUID_P(0), name, PG_GETARG_JSONB_P(2), es_arg_optional_name(fcinfo, 3, "dedup_id", ES_MAX_NAME_BYTES));
	PG_RETURN_VOID();
}

/* signal_saga_by_key(saga text, business_key text, name text, payload jsonb, dedup_id text) -> void; evtstore_writer */
Datum
evtstore_signal_saga_by_key(PG_FUNCTION_ARGS)
{
	char	   *saga;
	char	   *key;
	char	   *name;
	pg_uuid_t	id;

	es_catalog_require_writable("signal_saga_by_key");
	saga = es_arg_name(fcinfo, 0, "saga", ES_MAX_NAME_BYTES);
	key = es_arg_name(fcinfo, 1, "business_key", ES_MAX_NAME_BYTES);
	name = es_arg_name(fcinfo, 2, "name", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 3, "payload");
	if (!es_saga_find_key(es_saga_version_get(saga, 0)->id, es_queue_tenant(), "business", key, &id))
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("no saga \"%s\" with business key \"%s\" is open", saga, key),
				 errhint("The view evtstore.sagas has them, with those that have ended.")));
	signal_saga(&id, name, PG_GETARG_JSONB_P(3), es_arg_optional_name(fcinfo, 4, "dedup_id", ES_MAX_NAME_BYTES));
	PG_RETURN_VOID();
}

Jsonb *
es_signal_take(EsMove *move, const char *name, int seq)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[3] = {UUIDPGetDatum(&move->saga.id), CStringGetTextDatum(name), Int32GetDatum(seq)};
	Jsonb	   *payload = NULL;
	EsSpiState	state;
	bool		isnull;

	if (move->simulation != NULL)
		es_simulation_wait_for_signal(move, seq);
	/* nobody knows its id yet */
	if (move->is_new)
		return NULL;
	es_queue_spi_begin(&state);
	if (es_spi_run(&take_plan, values, NULL, false, 0) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		payload = DatumGetJsonbPCopy(es_spi_value(0, 0, &isnull));
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&state);
	return payload;
}

bool
es_signal_bring(EsMove *move, const char *name, Jsonb *payload, const char *dedup_id)
{
	EsStep	   *step;

	if (dedup_id != NULL && is_known(move, dedup_id))
		return false;
	step = find_waiting(move, name);
	keep(move, name, payload, dedup_id, step == NULL ? 0 : step->seq);
	if (step != NULL)
		es_move_settle(move, step, &(EsEnding) {.is_success = true, .output = payload, .retry_after = -1});
	return true;
}

List *
es_signals_untaken(const EsSaga *saga)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[1] = {UUIDPGetDatum(&saga->id)};
	List	   *signals = NIL;
	EsSpiState	state;
	MemoryContext old;
	uint64		n;

	es_queue_spi_begin(&state);
	n = es_spi_run(&untaken_plan, values, NULL, false, 0);
	old = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < n; i++)
	{
		EsSignal   *signal = palloc(sizeof(EsSignal));
		EsColumnReader reader = {.row = i};

		signal->number = (int) es_column_next_int(&reader);
		signal->sent_at = es_column_next_time(&reader);
		signal->name = es_column_next_text(&reader);
		signal->payload = es_column_next_jsonb(&reader);
		signals = lappend(signals, signal);
	}
	MemoryContextSwitchTo(old);
	es_spi_end(&state);
	return signals;
}

void
es_signal_hand(EsMove *move, const EsSignal *signal)
{
	EsStep	   *step = find_waiting(move, signal->name);
	Datum		values[3] = {UUIDPGetDatum(&move->saga.id), Int32GetDatum(signal->number)};
	EsSpiState	state;
	bool		is_taken;

	if (step == NULL)
		return;
	values[2] = Int32GetDatum(step->seq);
	es_queue_spi_begin(&state);
	/* a step that began meanwhile may have had it */
	is_taken = es_spi_run(&hand_plan, values, NULL, false, 0) == 0;
	es_spi_end(&state);
	if (!is_taken)
		es_move_settle(move, step, &(EsEnding) {.is_success = true, .output = signal->payload, .retry_after = -1});
}

static void
signal_saga(const pg_uuid_t *id, const char *name, Jsonb *payload, const char *dedup_id)
{
	EsMove		move;

	es_move_refuse_old_snapshot("signal_saga");
	switch (es_move_begin(&move, id, true))
	{
		case ES_SAGA_BUSY:
			es_arrival_leave_signal(id, es_queue_tenant(), name, payload, dedup_id);
			return;
		case ES_SAGA_NONE:
			es_move_refuse_unknown(id);
			break;
		case ES_SAGA_FOUND:
			break;
	}
	if (ES_SAGA_HAS_ENDED(move.saga.status))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga has ended: it is %s", es_saga_status_name(move.saga.status)),
				 errhint("Signals are for sagas that are open.")));
	(void) es_signal_bring(&move, name, payload, dedup_id);
	es_move_end(&move);
}

static bool
is_known(EsMove *move, const char *dedup_id)
{
	Datum		values[2] = {UUIDPGetDatum(&move->saga.id), CStringGetTextDatum(dedup_id)};
	EsSpiState	state;
	bool		known;

	es_queue_spi_begin(&state);
	known = es_spi_run(&known_plan, values, NULL, false, 1) > 0;
	es_spi_end(&state);
	return known;
}

/* the step that has waited for it longest; NULL: none */
static EsStep *
find_waiting(EsMove *move, const char *name)
{
	ListCell   *lc;

	/* those, too, that this transition came to */
	es_steps_write(move);
	foreach(lc, es_saga_waiting_steps(&move->saga))
	{
		EsStep	   *step = es_move_adopt(move, lfirst(lc));

		if (step->kind == ES_STEP_SIGNAL && es_move_is_live(move, step) &&
			strcmp(es_asl_find_state(move->version->definition, step->state)->call.name, name) == 0)
			return step;
	}
	return NULL;
}

/* taken_by 0: nobody has waited for it yet */
static void
keep(EsMove *move, const char *name, Jsonb *payload, const char *dedup_id, int taken_by)
{
	Datum		values[6] = {UUIDPGetDatum(&move->saga.id), Int32GetDatum(taken_by), TimestampTzGetDatum(GetCurrentTimestamp()),
		CStringGetTextDatum(name), dedup_id == NULL ? (Datum) 0 : CStringGetTextDatum(dedup_id), JsonbPGetDatum(payload)};
	char		nulls[7] = "      ";
	EsSpiState	state;

	if (taken_by == 0)
		nulls[1] = 'n';
	if (dedup_id == NULL)
		nulls[4] = 'n';
	es_queue_spi_begin(&state);
	es_spi_run(&insert_plan, values, nulls, false, 0);
	es_spi_end(&state);
}
