/*
 * saga_pause.c
 *		Sagas that are paused: nothing begins in them, and nothing that comes for them is lost.
 *
 * Runs in the backends of who operates and who answers, and in workers that bring what arrived, within a transition (saga_move.c).  Locks: the instance's
 * row, to the transaction's end: so an answer comes before the pause, and is taken, or after it, and is held.
 *
 * An answer to a paused instance is a row of saga_answer, 'held', written in the transaction that settles its message.  Signals are rows as they are of
 * any instance.  A timer that comes finds it paused, and is spent.  Resuming takes what was held in the order in which it came, then looks at
 * the time.  All of it is rows: a crash leaves what was committed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "queue.h"
#include "saga_column.h"
#include "saga_operate.h"
#include "saga_react.h"
#include "spi.h"

/* an answer that was held */
typedef struct Held
{
	int			number;
	int			parent;
	int			seq;
	TimestampTz answered_at;
	EsEnding	ending;
} Held;

static EsPlan hold_plan = {
	.sql = "INSERT INTO evtstore_internal.saga_answer (saga_id, number, parent, seq, answered_at, outcome, error, cause, output, is_final, retry_after)"
	" SELECT $1, COALESCE(max(number), 0) + 1, $2, $3, $4, 'held', $5, $6, $7, $8, $9 FROM evtstore_internal.saga_answer WHERE saga_id = $1",
	.nargs = 9,
	.args = {UUIDOID, INT4OID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID, BOOLOID, FLOAT8OID},
};

static EsPlan held_for_plan = {
	.sql = "SELECT count(*)::int, (count(*) FILTER (WHERE error IS NULL))::int FROM evtstore_internal.saga_answer"
	" WHERE saga_id = $1 AND seq = $2 AND outcome = 'held'",
	.nargs = 2,
	.args = {UUIDOID, INT4OID},
};

static EsPlan held_plan = {
	.sql = "SELECT number, parent, seq, answered_at, error, cause, output, is_final, retry_after FROM evtstore_internal.saga_answer"
	" WHERE saga_id = $1 AND outcome = 'held' ORDER BY number",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan taken_plan = {
	.sql = "UPDATE evtstore_internal.saga_answer SET outcome = $3 WHERE saga_id = $1 AND number = $2",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, TEXTOID},
};

static void begin_pause(EsMove *move, EsOperation *what);
static void end_pause(EsMove *move, EsOperation *what);
static List *read_held(const EsSaga *saga);
static const char *take(EsMove *move, const Held *held);
static const char *take_only(EsMove *move, const Held *held);
static EsStep *held_step(EsMove *move, const Held *held);
static bool is_pivot(EsMove *move, const EsStep *step);
static void note_taken(const EsSaga *saga, const Held *held, const char *outcome);
static void look_at_locks(EsMove *move);
static void look_at_times(EsMove *move);

const EsVerb es_verb_pause = {"pause_saga", "status IN ('running', 'compensating', 'stuck')", NULL, NULL, begin_pause};
const EsVerb es_verb_resume = {"resume_saga", "status = 'paused'", NULL, NULL, end_pause};

PG_FUNCTION_INFO_V1(evtstore_pause_saga);
PG_FUNCTION_INFO_V1(evtstore_resume_saga);

/* pause_saga(id uuid) -> void; evtstore_admin */
Datum
evtstore_pause_saga(PG_FUNCTION_ARGS)
{
	EsOperation what = {0};

	es_operate_call(fcinfo, &es_verb_pause, &what);
	PG_RETURN_VOID();
}

/* resume_saga(id uuid) -> void; evtstore_admin */
Datum
evtstore_resume_saga(PG_FUNCTION_ARGS)
{
	EsOperation what = {0};

	es_operate_call(fcinfo, &es_verb_resume, &what);
	PG_RETURN_VOID();
}

/* one that is stuck, too: a late answer would let it go on */
static void
begin_pause(EsMove *move, EsOperation *what)
{
	EsSaga	   *saga = &move->saga;

	if (ES_SAGA_HAS_ENDED(saga->status))
		es_operate_refuse(move, "the saga has ended", "Only one that is running, compensating or stuck can be paused.");
	if (saga->status == ES_SAGA_PAUSED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga is paused already"),
				 errhint("evtstore.resume_saga() lets it go on.")));
	saga->resumes = saga->status;
	saga->status = ES_SAGA_PAUSED;
}

/* what was held, and the signals, in the order in which they came; then the time */
static void
end_pause(EsMove *move, EsOperation *what)
{
	EsSaga	   *saga = &move->saga;
	List	   *signals;
	ListCell   *signal;
	ListCell   *lc;

	if (saga->status != ES_SAGA_PAUSED)
		es_operate_refuse(move, "the saga is not paused", "Only one that is paused can be resumed.");
	saga->status = saga->resumes;
	signals = es_signals_untaken(saga);
	signal = list_head(signals);
	foreach(lc, read_held(saga))
	{
		Held	   *held = lfirst(lc);

		for (; signal != NULL && ((EsSignal *) lfirst(signal))->sent_at <= held->answered_at; signal = lnext(signals, signal))
			es_signal_hand(move, lfirst(signal));
		note_taken(saga, held, take(move, held));
	}
	for (; signal != NULL; signal = lnext(signals, signal))
		es_signal_hand(move, lfirst(signal));
	look_at_locks(move);
	look_at_times(move);
}

/* what the answer is told is by what is known now, as of one that is left for a busy instance */
const char *
es_pause_hold(EsMove *move, EsStep *step, const EsEnding *ending)
{
	EsColumnWriter writer = {.n = 0};
	Datum		values[2] = {UUIDPGetDatum(&move->saga.id), Int32GetDatum(step->seq)};
	EsSpiState	state;
	int			n;
	int			n_done;

	es_queue_spi_begin(&state);
	(void) es_spi_run(&held_for_plan, values, NULL, false, 1);
	n = es_spi_int32(0, 0);
	n_done = es_spi_int32(0, 1);
	es_spi_end(&state);
	es_column_put(&writer, values[0]);
	es_column_put(&writer, Int32GetDatum(step->parent));
	es_column_put(&writer, values[1]);
	es_column_put_time(&writer, GetCurrentTimestamp());
	es_column_put_text(&writer, ending->is_success ? NULL : ending->error);
	es_column_put_text(&writer, ending->cause);
	es_column_put_jsonb(&writer, ending->output);
	es_column_put(&writer, BoolGetDatum(ending->is_final));
	if (ending->retry_after >= 0)
		es_column_put(&writer, Float8GetDatum(ending->retry_after));
	else
		es_column_put_null(&writer);
	es_column_write(&hold_plan, &writer);
	if (step->status == ES_STEP_WAITING && n == 0)
		return "accepted";
	return ending->is_success && n_done > 0 ? "duplicate" : "late";
}

void
es_pause_end(EsMove *move)
{
	EsSaga	   *saga = &move->saga;
	ListCell   *lc;

	saga->status = saga->resumes;
	foreach(lc, read_held(saga))
		note_taken(saga, lfirst(lc), take_only(move, lfirst(lc)));
}

bool
es_pause_passes_pivot(EsMove *move)
{
	bool		result = move->saga.has_pivot;
	ListCell   *lc;

	foreach(lc, read_held(&move->saga))
	{
		const Held *held = lfirst(lc);

		result |= held->ending.is_success && is_pivot(move, held_step(move, held));
	}
	return result;
}

static List *
read_held(const EsSaga *saga)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[1] = {UUIDPGetDatum(&saga->id)};
	List	   *all = NIL;
	EsSpiState	state;
	MemoryContext old;
	uint64		n;

	es_queue_spi_begin(&state);
	n = es_spi_run(&held_plan, values, NULL, false, 0);
	old = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < n; i++)
	{
		Held	   *held = palloc0(sizeof(Held));
		EsColumnReader reader = {.row = i};
		Datum		value;
		bool		isnull;

		held->number = (int) es_column_next_int(&reader);
		held->parent = (int) es_column_next_int(&reader);
		held->seq = (int) es_column_next_int(&reader);
		held->answered_at = es_column_next_time(&reader);
		held->ending.error = es_column_next_text(&reader);
		held->ending.is_success = held->ending.error == NULL;
		held->ending.cause = es_column_next_text(&reader);
		held->ending.output = es_column_next_jsonb(&reader);
		held->ending.is_final = DatumGetBool(es_column_next(&reader, &isnull));
		value = es_column_next(&reader, &isnull);
		held->ending.retry_after = isnull ? -1 : DatumGetFloat8(value);
		all = lappend(all, held);
	}
	MemoryContextSwitchTo(old);
	es_spi_end(&state);
	return all;
}

/* as if it came now */
static const char *
take(EsMove *move, const Held *held)
{
	return es_move_apply(move, held_step(move, held), &held->ending);
}

/* of one that is to be ended: what it says of the step is known, and nothing begins because of it */
static const char *
take_only(EsMove *move, const Held *held)
{
	EsStep	   *step = held_step(move, held);
	bool		of_pivot = is_pivot(move, step);

	if (es_step_is_known(step))
		return held->ending.is_success ? "duplicate" : "late";
	if (!held->ending.is_success && step->status != ES_STEP_WAITING && !((of_pivot || step->kind == ES_STEP_CHILD) && step->status == ES_STEP_UNKNOWN))
		return "late";
	es_step_end(move, step, held->ending.is_success ? ES_STEP_DONE : ES_STEP_FAILED, &held->ending);
	if (held->ending.is_success && of_pivot)
		move->saga.has_pivot = true;
	if (held->ending.is_success && step->kind == ES_STEP_UNDO)
		es_undo_mark(move, es_move_step(move, step->parent, step->undoes));
	return "accepted";
}

static EsStep *
held_step(EsMove *move, const Held *held)
{
	EsStep	   *step = es_move_step(move, held->parent, held->seq);

	if (step == NULL)
		elog(ERROR, "step %d, whose answer was held, is missing", held->seq);
	return step;
}

static bool
is_pivot(EsMove *move, const EsStep *step)
{
	const EsAslState *state = es_asl_find_state(move->version->definition, step->state);

	return (step->kind == ES_STEP_TASK || step->kind == ES_STEP_CHILD) && state != NULL && state->class == ES_ASL_PIVOT;
}

static void
note_taken(const EsSaga *saga, const Held *held, const char *outcome)
{
	EsColumnWriter writer = {.n = 0};

	es_column_put(&writer, UUIDPGetDatum(&saga->id));
	es_column_put(&writer, Int32GetDatum(held->number));
	es_column_put_text(&writer, outcome);
	es_column_write(&taken_plan, &writer);
}

/* semantic locks that it was given meanwhile: it has them, and was not woken */
static void
look_at_locks(EsMove *move)
{
	ListCell   *lc;

	if (!move->saga.has_lock)
		return;
	es_steps_write(move);
	foreach(lc, es_saga_waiting_steps(&move->saga))
	{
		EsStep	   *step = es_move_adopt(move, lfirst(lc));

		if (ES_WAITS_FOR_LOCK(step) && es_move_is_live(move, step))
			es_move_walk(move, es_task_go_on(move, step));
	}
}

/* a timer that came meanwhile was spent; one that is to come yet is for the earliest of what waited before */
static void
look_at_times(EsMove *move)
{
	EsSaga	   *saga = &move->saga;

	if (saga->timer_id != 0 && saga->timer_due > move->now)
	{
		/* its events have waited for no time */
		if (move->version->reactor != NULL)
			es_react_be_late(move);
		return;
	}
	if (saga->timer_id != 0)
		(void) es_queue_withdraw(es_queue_get(ES_QUEUE_SAGAS)->id, saga->tenant, saga->timer_id, false);
	es_move_be_late(move);
}
