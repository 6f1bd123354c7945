/*
 * saga_operate.c
 *		What a person does about a saga: cancel it, and put right what is stuck.
 *
 * Runs in backends, in the caller's transaction, as a transition (saga_move.c).  Locks: the instance's row, to its end.  Each verb is told in the
 * event of the transition, with the role that said it.  A crash leaves nothing of it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "saga_move.h"

static void begin_operating(FunctionCallInfo fcinfo, const char *verb, EsMove *move);
static EsStep *find_step(EsMove *move, const char *state, EsStep **stop);
static void refuse(EsMove *move, const char *what, const char *hint);
static EsNext at_step(EsMove *move, EsStep *step);

PG_FUNCTION_INFO_V1(evtstore_cancel_saga);
PG_FUNCTION_INFO_V1(evtstore_retry_saga);
PG_FUNCTION_INFO_V1(evtstore_skip_step);
PG_FUNCTION_INFO_V1(evtstore_resolve_step);
PG_FUNCTION_INFO_V1(evtstore_mark_undone);

/* cancel_saga(id uuid, compensate boolean) -> void; evtstore_admin */
Datum
evtstore_cancel_saga(PG_FUNCTION_ARGS)
{
	EsMove		move;

	es_arg_required(fcinfo, 1, "compensate");
	begin_operating(fcinfo, "cancel_saga", &move);
	if (ES_SAGA_HAS_ENDED(move.saga.status))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga has ended: it is %s", es_saga_status_name(move.saga.status)),
				 errhint("Only one that is running, compensating or stuck can be cancelled.")));
	if (move.saga.has_pivot && PG_GETARG_BOOL(1))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga has passed its pivot, behind which nothing is undone"),
				 errhint("Let it go on, or cancel it with compensate => false and put right by hand what it leaves.")));
	if (PG_GETARG_BOOL(1))
		es_undo_begin(&move, ES_SAGA_CANCELLED);
	else
		es_move_abandon(&move, ES_SAGA_CANCELLED);
	es_move_end(&move);
	PG_RETURN_VOID();
}

/* retry_saga(id uuid) -> void; evtstore_admin.  What it is stuck at is tried again, with fresh retries */
Datum
evtstore_retry_saga(PG_FUNCTION_ARGS)
{
	EsMove		move;

	begin_operating(fcinfo, "retry_saga", &move);
	if (move.saga.status != ES_SAGA_STUCK)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga is not stuck: it is %s", es_saga_status_name(move.saga.status)),
				 errhint("Only a saga that is stuck waits for this.")));
	es_move_unstick(&move);
	es_move_end(&move);
	PG_RETURN_VOID();
}

/* skip_step(id uuid, state text, output jsonb) -> void; evtstore_admin.  It counts as done, and there is nothing to undo */
Datum
evtstore_skip_step(PG_FUNCTION_ARGS)
{
	char	   *state = NULL;
	EsMove		move;
	EsStep	   *step;
	EsStep	   *stop;
	EsEnding	ending = {.is_success = true};

	begin_operating(fcinfo, "skip_step", &move);
	state = es_arg_name(fcinfo, 1, "state", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 2, "output");
	ending.output = PG_GETARG_JSONB_P(2);
	step = find_step(&move, state, &stop);
	(void) es_step_take_back(&move, step);
	es_move_leave_stop(&move, stop);
	es_step_end(&move, step, ES_STEP_SKIPPED, &ending);
	es_move_walk(&move, es_state_leave(&move, at_step(&move, step), step, ending.output));
	es_move_end(&move);
	PG_RETURN_VOID();
}

/* resolve_step(id uuid, state text, outcome text, output jsonb) -> void; evtstore_admin.  A person has found out what became of it */
Datum
evtstore_resolve_step(PG_FUNCTION_ARGS)
{
	char	   *state;
	char	   *outcome;
	EsMove		move;
	EsStep	   *step;
	EsStep	   *stop;
	EsEnding	ending = {.retry_after = -1};

	begin_operating(fcinfo, "resolve_step", &move);
	state = es_arg_name(fcinfo, 1, "state", ES_MAX_NAME_BYTES);
	outcome = es_arg_name(fcinfo, 2, "outcome", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 3, "output");
	ending.is_success = strcmp(outcome, "done") == 0;
	if (!ending.is_success && strcmp(outcome, "failed") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown outcome: \"%s\"", es_arg_shown(outcome, strlen(outcome))),
				 errhint("It is 'done' or 'failed'.")));
	es_move_note(&move, "outcome", outcome);
	step = find_step(&move, state, &stop);
	if (step->kind == ES_STEP_CHILD && step->status == ES_STEP_WAITING)
		refuse(&move, psprintf("the saga waits in state \"%s\" for another, which says itself what becomes of it", state),
			   "Cancel that one, or resolve its step; the view evtstore.sagas has it, by parent_id.");
	(void) es_step_take_back(&move, step);
	es_move_leave_stop(&move, stop);
	if (ending.is_success)
		ending.output = PG_GETARG_JSONB_P(3);
	else
	{
		ending.error = ES_ASL_TASK_FAILED;
		ending.cause = "an operator found that it failed";
		ending.is_final = true;
	}
	es_move_settle(&move, step, &ending);
	es_move_end(&move);
	PG_RETURN_VOID();
}

/* mark_undone(id uuid, seq bigint, note text) -> void; evtstore_admin.  A person has undone it */
Datum
evtstore_mark_undone(PG_FUNCTION_ARGS)
{
	EsMove		move;
	EsStep	   *step;
	EsStep	   *undo;
	int64		seq;

	begin_operating(fcinfo, "mark_undone", &move);
	es_arg_required(fcinfo, 1, "seq");
	seq = PG_GETARG_INT64(1);
	es_move_note(&move, "note", es_arg_name(fcinfo, 2, "note", ES_MAX_NAME_BYTES));
	if (move.saga.status != ES_SAGA_COMPENSATING && move.saga.status != ES_SAGA_STUCK)
		refuse(&move, "only what a saga that compensates has to undo can be marked", "Cancel it first, or wait until it fails.");
	step = seq < 1 || seq > move.saga.last_seq ? NULL : es_saga_find_step(&move.saga, (int) seq);
	if (step == NULL || (step->kind != ES_STEP_TASK && step->kind != ES_STEP_CHILD) || (step->status != ES_STEP_DONE && step->status != ES_STEP_UNKNOWN))
		refuse(&move, psprintf("step %lld is not one that is to be undone", (long long) seq), "The view evtstore.saga_steps has them: those that are done or unknown.");
	step = es_move_adopt(&move, step);
	undo = es_saga_last_undo(&move.saga, step);
	if (undo != NULL && undo->status == ES_STEP_WAITING)
	{
		undo = es_move_adopt(&move, undo);
		(void) es_step_take_back(&move, undo);
		es_step_end(&move, undo, ES_STEP_WITHDRAWN, NULL);
	}
	es_undo_mark(&move, step);
	if (move.saga.status == ES_SAGA_STUCK)
		es_undo_resume(&move);
	else
		es_undo_leave(&move, step);
	es_move_end(&move);
	PG_RETURN_VOID();
}

/* waits for the lock: an operator has one saga at a time */
static void
begin_operating(FunctionCallInfo fcinfo, const char *verb, EsMove *move)
{
	pg_uuid_t  *id;

	es_catalog_require_writable(verb);
	es_arg_required(fcinfo, 0, "id");
	id = PG_GETARG_UUID_P(0);
	es_move_refuse_old_snapshot(verb);
	switch (es_move_begin(move, id, true))
	{
		case ES_SAGA_FOUND:
			es_move_note(move, "verb", verb);
			es_move_note(move, "role", GetUserNameFromId(GetSessionUserId(), false));
			break;
		case ES_SAGA_NONE:
			es_move_refuse_unknown(id);
			break;
		case ES_SAGA_BUSY:
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("saga %s is changed by another transaction, for which this one may not wait",
							DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)))),
					 errdetail("This transaction has changed another saga."),
					 errhint("Change one saga in a transaction, or try again.")));
	}
}

/* the step of that state that waits, or at which the saga is stuck */
static EsStep *
find_step(EsMove *move, const char *state, EsStep **stop)
{
	EsStep	   *found = NULL;
	ListCell   *lc;

	*stop = NULL;
	if (move->saga.status == ES_SAGA_RUNNING || (move->saga.status == ES_SAGA_STUCK && es_saga_goes_on(&move->saga)))
		foreach(lc, es_saga_waiting_steps(&move->saga))
		{
			EsStep	   *step = lfirst(lc);

			if (strcmp(step->state, state) == 0 &&
				(step->kind == ES_STEP_TASK || step->kind == ES_STEP_WAIT || step->kind == ES_STEP_SIGNAL || step->kind == ES_STEP_CHILD))
				found = step;
		}
	if (found == NULL && move->saga.status == ES_SAGA_STUCK)
		foreach(lc, es_saga_open_stops(&move->saga))
			if (strcmp(((EsStep *) lfirst(lc))->state, state) == 0)
			{
				*stop = es_move_adopt(move, lfirst(lc));
				found = es_saga_stopped_at(&move->saga, *stop);
				if (found != NULL && found->status == ES_STEP_DONE)
					found = NULL;
			}
	if (found == NULL)
		refuse(move, psprintf("the saga neither waits in state \"%s\" nor is it stuck there", es_arg_shown(state, strlen(state))),
			   "The view evtstore.sagas says where it is.");
	return es_move_adopt(move, found);
}

static void
refuse(EsMove *move, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s: it is %s", what, es_saga_status_name(move->saga.status)),
			 errhint("%s", hint)));
}

static EsNext
at_step(EsMove *move, EsStep *step)
{
	return (EsNext) {es_asl_find_state(move->version->definition, step->state), step->input, es_move_parent(move, step)};
}
