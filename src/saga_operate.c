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
#include "saga_operate.h"
#include "saga_react.h"

static void begin_operating(FunctionCallInfo fcinfo, const char *verb, EsMove *move);
static void read_cancel(FunctionCallInfo fcinfo, int first, EsOperation *what);
static void cancel(EsMove *move, EsOperation *what);
static void retry(EsMove *move, EsOperation *what);
static void read_skip(FunctionCallInfo fcinfo, int first, EsOperation *what);
static void skip(EsMove *move, EsOperation *what);
static void read_resolve(FunctionCallInfo fcinfo, int first, EsOperation *what);
static void resolve(EsMove *move, EsOperation *what);
static EsStep *find_step(EsMove *move, const char *state, EsStep **stop);
static EsNext at_step(EsMove *move, EsStep *step);
static void fail_pivot(EsMove *move, const EsEnding *ending);
static bool is_being_undone(EsMove *move, const EsStep *step);

const EsVerb es_verb_cancel = {"cancel_saga", "ended_at IS NULL", read_cancel, NULL, cancel};
const EsVerb es_verb_retry = {"retry_saga", "status = 'stuck'", NULL, NULL, retry};
const EsVerb es_verb_skip = {"skip_step", "status IN ('running', 'stuck')", read_skip, NULL, skip};
const EsVerb es_verb_resolve = {"resolve_step", "status IN ('running', 'stuck')", read_resolve, NULL, resolve};

PG_FUNCTION_INFO_V1(evtstore_cancel_saga);
PG_FUNCTION_INFO_V1(evtstore_retry_saga);
PG_FUNCTION_INFO_V1(evtstore_skip_step);
PG_FUNCTION_INFO_V1(evtstore_resolve_step);
PG_FUNCTION_INFO_V1(evtstore_mark_undone);

/* cancel_saga(id uuid, compensate boolean) -> void; evtstore_admin */
Datum
evtstore_cancel_saga(PG_FUNCTION_ARGS)
{
	EsOperation what = {0};

	es_operate_call(fcinfo, &es_verb_cancel, &what);
	PG_RETURN_VOID();
}

static void
read_cancel(FunctionCallInfo fcinfo, int first, EsOperation *what)
{
	es_arg_required(fcinfo, first, "compensate");
	what->compensate = PG_GETARG_BOOL(first);
}

static void
cancel(EsMove *move, EsOperation *what)
{
	if (ES_SAGA_HAS_ENDED(move->saga.status))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga has ended: it is %s", es_saga_status_name(move->saga.status)),
				 errhint("Only one that is running, compensating, paused or stuck can be cancelled.")));
	if (move->saga.status == ES_SAGA_PAUSED)
		es_pause_end(move);
	if (move->saga.has_pivot && what->compensate)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga has passed its pivot, behind which nothing is undone"),
				 errhint("Let it go on, or cancel it with compensate => false and put right by hand what it leaves.")));
	/* a reactor has nothing to undo: its function says what follows from what */
	if (what->compensate && move->version->reactor == NULL)
		es_undo_begin(move, ES_SAGA_CANCELLED);
	else
		es_move_abandon(move, ES_SAGA_CANCELLED);
}

/* retry_saga(id uuid) -> void; evtstore_admin.  What it is stuck at is tried again, with fresh retries */
Datum
evtstore_retry_saga(PG_FUNCTION_ARGS)
{
	EsOperation what = {0};

	es_operate_call(fcinfo, &es_verb_retry, &what);
	PG_RETURN_VOID();
}

static void
retry(EsMove *move, EsOperation *what)
{
	if (move->saga.status != ES_SAGA_STUCK)
		es_operate_refuse(move, "the saga is not stuck", "Only a saga that is stuck waits for this.");
	es_move_unstick(move);
}

/* skip_step(id uuid, state text, output jsonb) -> void; evtstore_admin.  It counts as done, and there is nothing to undo */
Datum
evtstore_skip_step(PG_FUNCTION_ARGS)
{
	EsOperation what = {0};

	es_operate_call(fcinfo, &es_verb_skip, &what);
	PG_RETURN_VOID();
}

static void
read_skip(FunctionCallInfo fcinfo, int first, EsOperation *what)
{
	what->state = es_arg_name(fcinfo, first, "state", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, first + 1, "output");
	what->output = PG_GETARG_JSONB_P(first + 1);
}

static void
skip(EsMove *move, EsOperation *what)
{
	EsStep	   *stop;
	EsStep	   *step = find_step(move, what->state, &stop);
	EsEnding	ending = {.is_success = true, .output = what->output};

	(void) es_step_take_back(move, step);
	es_move_leave_stop(move, stop);
	es_step_end(move, step, ES_STEP_SKIPPED, &ending);
	if (move->version->reactor != NULL)
	{
		es_react_unstick(move);
		return;
	}
	/* the saga is behind it, whoever did what it was to do */
	if (es_asl_find_state(move->version->definition, step->state)->class == ES_ASL_PIVOT)
		move->saga.has_pivot = true;
	es_move_walk(move, es_state_leave(move, at_step(move, step), step, ending.output));
}

/* resolve_step(id uuid, state text, outcome text, output jsonb) -> void; evtstore_admin.  A person has found out what became of it */
Datum
evtstore_resolve_step(PG_FUNCTION_ARGS)
{
	EsOperation what = {0};

	es_operate_call(fcinfo, &es_verb_resolve, &what);
	PG_RETURN_VOID();
}

static void
read_resolve(FunctionCallInfo fcinfo, int first, EsOperation *what)
{
	what->state = es_arg_name(fcinfo, first, "state", ES_MAX_NAME_BYTES);
	what->outcome = es_arg_name(fcinfo, first + 1, "outcome", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, first + 2, "output");
	what->output = PG_GETARG_JSONB_P(first + 2);
	if (strcmp(what->outcome, "done") != 0 && strcmp(what->outcome, "failed") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown outcome: \"%s\"", es_arg_shown(what->outcome, strlen(what->outcome))),
				 errhint("It is 'done' or 'failed'.")));
}

static void
resolve(EsMove *move, EsOperation *what)
{
	EsEnding	ending = {.is_success = strcmp(what->outcome, "done") == 0, .retry_after = -1};
	EsStep	   *step;
	EsStep	   *stop;

	if (move->version->reactor != NULL)
		es_operate_refuse(move, "an instance of a reactor has no step to resolve",
						  "Let it try again with evtstore.retry_saga(), or leave the event out with evtstore.skip_step().");
	es_move_note(move, "outcome", what->outcome);
	step = find_step(move, what->state, &stop);
	if (step->kind == ES_STEP_CHILD && (step->status == ES_STEP_WAITING || (step->status == ES_STEP_UNKNOWN && es_child_is_there(move, step))))
		es_operate_refuse(move, psprintf("the saga waits in state \"%s\" for another, which says itself what becomes of it", what->state),
						  "Cancel that one, or resolve its step; the view evtstore.sagas has it, by parent_id.");
	(void) es_step_take_back(move, step);
	if (ending.is_success)
		ending.output = what->output;
	else
	{
		ending.error = ES_ASL_TASK_FAILED;
		ending.cause = "an operator found that it failed";
		ending.is_final = true;
	}
	if (!ending.is_success && move->saga.status == ES_SAGA_STUCK && strcmp(move->saga.reason, "pivot_unknown") == 0)
		fail_pivot(move, &ending);
	else
	{
		es_move_leave_stop(move, stop);
		es_move_settle(move, step, &ending);
	}
}

/* in no attempt was it done */
static void
fail_pivot(EsMove *move, const EsEnding *ending)
{
	EsStep	   *attempt;

	while (move->saga.status == ES_SAGA_STUCK && (attempt = es_steps_unknown_pivot(move)) != NULL)
		es_pivot_failed(move, attempt, ending);
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
		es_operate_refuse(&move, "only what a saga that compensates has to undo can be marked", "Cancel it first, or wait until it fails.");
	step = seq < 1 || seq > move.saga.last_seq ? NULL : es_saga_find_step(&move.saga, (int) seq);
	if (step == NULL || (step->kind != ES_STEP_TASK && step->kind != ES_STEP_CHILD) || (step->status != ES_STEP_DONE && step->status != ES_STEP_UNKNOWN) ||
		!is_being_undone(&move, step))
		es_operate_refuse(&move, psprintf("step %lld is not one that is to be undone", (long long) seq), "The view evtstore.saga_steps has them: those that are done or unknown.");
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

/* all of the saga, or a scope that it is in */
static bool
is_being_undone(EsMove *move, const EsStep *step)
{
	if (move->saga.status == ES_SAGA_COMPENSATING || strcmp(move->saga.reason, "undo_failed") == 0)
		return true;
	if (es_undo_is_passed(move, step) && es_saga_last_undo(&move->saga, step) != NULL)
		return true;
	while ((step = es_move_parent(move, step)) != NULL)
		if (step->status == ES_STEP_UNDOING)
			return true;
	return false;
}

void
es_operate_call(FunctionCallInfo fcinfo, const EsVerb *verb, EsOperation *what)
{
	EsMove		move;

	es_arg_required(fcinfo, 0, "id");
	if (verb->read != NULL)
		verb->read(fcinfo, 1, what);
	if (verb->prepare != NULL)
		verb->prepare(PG_GETARG_UUID_P(0));
	begin_operating(fcinfo, verb->name, &move);
	verb->run(&move, what);
	es_move_end(&move);
}

EsSagaFound
es_operate_try(const pg_uuid_t *id, const EsVerb *verb, EsOperation *what)
{
	EsMove		move;
	EsSagaFound found;

	if (verb->prepare != NULL)
		verb->prepare(id);
	found = es_move_begin(&move, id, false);
	if (found != ES_SAGA_FOUND)
		return found;
	es_operate_note(&move, verb->name);
	verb->run(&move, what);
	es_move_end(&move);
	return found;
}

void
es_operate_note(EsMove *move, const char *verb)
{
	es_move_note(move, "verb", verb);
	es_move_note(move, "role", GetUserNameFromId(GetSessionUserId(), false));
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
			es_operate_note(move, verb);
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
	if (move->saga.status == ES_SAGA_PAUSED)
		es_operate_refuse(move, "no step can be decided", NULL);
	if (move->version->reactor != NULL)
		found = es_react_find(move, state);
	else if (move->saga.status == ES_SAGA_RUNNING || (move->saga.status == ES_SAGA_STUCK && es_saga_goes_on(&move->saga)))
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
		es_operate_refuse(move, psprintf("the saga neither waits in state \"%s\" nor is it stuck there", es_arg_shown(state, strlen(state))),
			   "The view evtstore.sagas says where it is.");
	return es_move_adopt(move, found);
}

void
es_operate_refuse(EsMove *move, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s: it is %s", what, es_saga_status_name(move->saga.status)),
			 errhint("%s", move->saga.status == ES_SAGA_PAUSED ? "Resume it first with evtstore.resume_saga()." : hint)));
}

static EsNext
at_step(EsMove *move, EsStep *step)
{
	return (EsNext) {es_asl_find_state(move->version->definition, step->state), step->input, es_move_parent(move, step)};
}
