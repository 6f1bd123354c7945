/*
 * participant.c
 *		The guard of who takes part in sagas: guard_step() says whether a command is to be done, guard_output() keeps what came of it.
 *
 * Runs in backends, in the transaction of the participant's effect; the janitor calls es_participant_trim.  Knows nothing of sagas: a participant
 * may have a database of its own.  A key has one row, in one of three states: done, undone (it was done before), refused (its undo came, and
 * it had not been done).  One upsert decides: it inserts the row, or makes undone what was done, or does nothing but lock the row.  So whoever comes second
 * waits at the unique key for the transaction of the first, finds what that left, and holds it to his own end: the janitor cannot take it away.
 *
 * The row commits or vanishes together with the effect, and its commit is synchronous: what is told to a saga, perhaps in another database, must
 * not be forgotten by a crash.  A crash leaves what was committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "evtstore.h"
#include "guc.h"
#include "participant.h"
#include "spi.h"

#define DONE "done"
#define UNDONE "undone"
#define REFUSED "refused"

/* a do inserts done, an undo refused; a row is what this call has made of it, none means that it was left as it is */
static EsPlan decide_plan = {
	.sql = "INSERT INTO evtstore_internal.guarded_step AS g (changed_at, tenant, key, state) VALUES ($1, $2, $3, $4)"
	" ON CONFLICT (tenant, key) DO UPDATE SET state = '" UNDONE "', changed_at = excluded.changed_at"
	" WHERE g.state = '" DONE "' AND excluded.state = '" REFUSED "' RETURNING state, output",
	.nargs = 4,
	.args = {TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID},
};

static EsPlan look_plan = {
	.sql = "SELECT state, CASE state WHEN '" DONE "' THEN output WHEN '" UNDONE "' THEN undo_output END, xmin"
	" FROM evtstore_internal.guarded_step WHERE tenant = $1 AND key = $2",
	.nargs = 2,
	.args = {TEXTOID, TEXTOID},
};

static EsPlan output_plan = {
	.sql = "UPDATE evtstore_internal.guarded_step SET output = CASE state WHEN '" DONE "' THEN $3 ELSE output END,"
	" undo_output = CASE state WHEN '" UNDONE "' THEN $3 END WHERE tenant = $1 AND key = $2",
	.nargs = 3,
	.args = {TEXTOID, TEXTOID, JSONBOID},
};

static EsPlan trim_plan = {
	.sql = "DELETE FROM evtstore_internal.guarded_step WHERE (tenant, key) IN"
	" (SELECT tenant, key FROM evtstore_internal.guarded_step WHERE changed_at < $1 ORDER BY changed_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
	" AND changed_at < $1",
	.nargs = 2,
	.args = {TIMESTAMPTZOID, INT8OID},
};

static bool is_undo(FunctionCallInfo fcinfo, int n);
static const char *decide(const char *key, bool undo, Datum *output, bool *has_output);
static const char *decision(const char *state, bool undo, bool changed);
static bool copy_output(MemoryContext context, Datum *output);

PG_FUNCTION_INFO_V1(evtstore_guard_step);
PG_FUNCTION_INFO_V1(evtstore_guard_output);
PG_FUNCTION_INFO_V1(evtstore_trim_guarded_steps);

/* guard_step(idempotency_key text, direction text) -> table(decision text, output jsonb); evtstore_writer */
Datum
evtstore_guard_step(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *key = es_arg_name(fcinfo, 0, "idempotency_key", ES_MAX_KEY_BYTES);
	bool		undo = is_undo(fcinfo, 1);
	Datum		values[2] = {0};
	bool		nulls[2] = {false, false};
	bool		has_output = false;

	es_catalog_require_writable("guard_step");
	InitMaterializedSRF(fcinfo, 0);
	values[0] = CStringGetTextDatum(decide(key, undo, &values[1], &has_output));
	nulls[1] = !has_output;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/*
 * guard_output(idempotency_key text, output jsonb) -> void; evtstore_writer
 *
 * A row that this transaction has written is one that it was told to run, or one that it refused.
 */
Datum
evtstore_guard_output(PG_FUNCTION_ARGS)
{
	char	   *key = es_arg_name(fcinfo, 0, "idempotency_key", ES_MAX_KEY_BYTES);
	Datum		values[3];
	EsSpiState	state;
	bool		isnull;

	es_arg_required(fcinfo, 1, "output");
	es_catalog_require_writable("guard_output");
	values[0] = CStringGetTextDatum(es_guc_tenant);
	values[1] = CStringGetTextDatum(key);
	values[2] = PG_GETARG_DATUM(1);
	es_spi_begin(&state);
	if (es_spi_run(&look_plan, values, NULL, false, 0) == 0 || strcmp(es_spi_text(0, 0), REFUSED) == 0 ||
		!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(es_spi_value(0, 2, &isnull))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this transaction was not told to run step \"%s\"", key),
				 errhint("Call guard_step first, in the same transaction and for the same tenant; where it says anything but run, there is no output to keep.")));
	es_spi_run(&output_plan, values, NULL, false, 0);
	es_spi_end(&state);
	PG_RETURN_VOID();
}

/* evtstore_internal.trim_guarded_steps(max_count int) -> bigint; nobody */
Datum
evtstore_trim_guarded_steps(PG_FUNCTION_ARGS)
{
	es_catalog_require_writable("trim_guarded_steps");
	es_arg_required(fcinfo, 0, "max_count");
	PG_RETURN_INT64(es_participant_trim(PG_GETARG_INT32(0)));
}

int64
es_participant_trim(int limit)
{
	Datum		values[2] = {TimestampTzGetDatum(es_clock_now() - (int64) es_guc_guard_retention * USECS_PER_SEC), Int64GetDatum(limit)};
	EsSpiState	state;
	int64		rows;

	es_spi_begin(&state);
	rows = (int64) es_spi_run(&trim_plan, values, NULL, false, 0);
	es_spi_end(&state);
	return rows;
}

static bool
is_undo(FunctionCallInfo fcinfo, int n)
{
	char	   *direction;

	es_arg_required(fcinfo, n, "direction");
	direction = text_to_cstring(PG_GETARG_TEXT_PP(n));
	if (strcmp(direction, "do") != 0 && strcmp(direction, "undo") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown direction \"%s\"", es_arg_shown(direction, strlen(direction))),
				 errhint("It is do, with the idempotency_key of the command, or undo, with its forward_key.")));
	return strcmp(direction, "undo") == 0;
}

static const char *
decide(const char *key, bool undo, Datum *output, bool *has_output)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[4] = {TimestampTzGetDatum(es_clock_now()), CStringGetTextDatum(es_guc_tenant), CStringGetTextDatum(key),
		CStringGetTextDatum(undo ? REFUSED : DONE)};
	const char *result;
	EsSpiState	state;
	bool		changed;

	es_spi_begin(&state);
	changed = es_spi_run(&decide_plan, values, NULL, false, 0) > 0;
	if (changed)
		ForceSyncCommit();
	else if (es_spi_run(&look_plan, values + 1, NULL, false, 0) == 0)
		elog(ERROR, "guard of step \"%s\" is gone", key);
	result = decision(es_spi_text(0, 0), undo, changed);
	/* what a row that is undone has is of its undo */
	*has_output = strcmp(result, "rejected") != 0 && copy_output(caller, output);
	es_spi_end(&state);
	return result;
}

/* of a row in that state, which this call has made or found */
static const char *
decision(const char *state, bool undo, bool changed)
{
	if (strcmp(state, REFUSED) == 0)
		return undo ? "empty" : "rejected";
	if (changed)
		return "run";
	return undo || strcmp(state, DONE) == 0 ? "duplicate" : "rejected";
}

/* the output in the last result, if there is one */
static bool
copy_output(MemoryContext context, Datum *output)
{
	bool		isnull;
	Datum		value = es_spi_value(0, 1, &isnull);
	MemoryContext spi;

	if (isnull)
		return false;
	spi = MemoryContextSwitchTo(context);
	*output = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	MemoryContextSwitchTo(spi);
	return true;
}
