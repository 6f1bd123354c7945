/*
 * saga_late.c
 *		Answers: to who waits for them, and to attempts that were given up, or whose instance has gone on.
 *
 * Runs within a transition (saga_move.c), under the lock of its instance.  An answer is for one attempt.  What that waits for goes on
 * (saga_task.c); else a success makes it known to be done, which ends a later attempt at the same, is a duplicate, or is undone where the
 * instance is; what changed nothing is written down.  docs/architecture-sagas.md, section 6.
 */
#include "postgres.h"

#include "compat.h"
#include "saga_move.h"

static const char *answer_known(EsMove *move, EsStep *step, const EsEnding *ending);
static const char *answer_unknown(EsMove *move, EsStep *step, const EsEnding *ending);
static const char *answer_undo(EsMove *move, EsStep *undo, const EsEnding *ending);

const char *
es_move_answer(EsMove *move, EsStep *step, const EsEnding *ending)
{
	const char *outcome;

	if (move->saga.status == ES_SAGA_PAUSED && !es_step_is_known(step))
		return es_pause_hold(move, step, ending);
	outcome = es_move_apply(move, step, ending);
	if (strcmp(outcome, "accepted") != 0)
		es_saga_write_answer(&move->saga, step->seq, outcome, ending->error, ending->cause, ending->output);
	return outcome;
}

const char *
es_move_apply(EsMove *move, EsStep *step, const EsEnding *ending)
{
	if (es_move_is_live(move, step))
	{
		es_move_settle(move, step, ending);
		return "accepted";
	}
	return es_step_is_known(step) ? answer_known(move, step, ending) : answer_unknown(move, step, ending);
}

bool
es_step_is_known(const EsStep *step)
{
	return step->status == ES_STEP_DONE || step->status == ES_STEP_UNDONE;
}

static const char *
answer_known(EsMove *move, EsStep *step, const EsEnding *ending)
{
	return ending->is_success ? "duplicate" : "late";
}

/*
 * The attempt was given up, or its instance has gone on.  A success makes it known to be done: then it ends a later attempt at the same, or
 * is undone where the instance compensates, or has.
 */
static const char *
answer_unknown(EsMove *move, EsStep *step, const EsEnding *ending)
{
	EsSaga	   *saga = &move->saga;
	const EsAslState *state = es_asl_find_state(move->version->definition, step->state);
	bool		is_open_pivot = saga->status == ES_SAGA_STUCK && strcmp(saga->reason, "pivot_unknown") == 0 &&
		state != NULL && state->class == ES_ASL_PIVOT;
	EsStep	   *other = es_saga_other_attempt(saga, step);
	EsStep	   *stop;

	if (is_open_pivot && step->status == ES_STEP_UNKNOWN && !ending->is_success)
	{
		es_pivot_failed(move, step, ending);
		return "accepted";
	}
	/* of a child it is known, then: it has undone what it did */
	if (!ending->is_success && step->kind == ES_STEP_CHILD && step->status == ES_STEP_UNKNOWN)
	{
		es_step_end(move, step, ES_STEP_FAILED, ending);
		es_undo_child_ended(move, step);
	}
	if (!ending->is_success)
		return "late";
	if (step->kind == ES_STEP_UNDO)
		return answer_undo(move, step, ending);
	if (other != NULL && es_step_is_known(other))
		return "duplicate";
	stop = saga->status == ES_SAGA_STUCK ? es_move_stop_of(move, step) : NULL;
	if (is_open_pivot || stop != NULL || (other != NULL && es_move_is_live(move, other)))
	{
		if (other != NULL)
		{
			other = es_move_adopt(move, other);
			(void) es_step_take_back(move, other);
			es_step_end(move, other, ES_STEP_WITHDRAWN, NULL);
		}
		es_move_leave_stop(move, stop);
		es_move_settle(move, step, ending);
		return "accepted";
	}
	es_step_end(move, step, ES_STEP_DONE, ending);
	es_undo_late(move, step);
	if (step->kind == ES_STEP_CHILD)
		es_undo_child_ended(move, step);
	return "late";
}

/*
 * It is known now that the pivot was not done in this attempt.  When that is known of all, what waited for it goes on: what was to be undone is, and
 * where the pivot had failed by itself, its saga fails as it would have in time.
 */
void
es_pivot_failed(EsMove *move, EsStep *step, const EsEnding *ending)
{
	EsSaga	   *saga = &move->saga;
	EsStep	   *stop;

	es_step_end(move, step, ES_STEP_FAILED, ending);
	if (es_steps_unknown_pivot(move) != NULL)
		return;
	stop = es_move_stop_of(move, step);
	/* a person who cancelled it wanted it undone, whatever the definition says */
	if (saga->ending == ES_SAGA_CANCELLED)
		es_undo_begin(move, saga->ending);
	else if (stop == NULL || stop->place == ES_STOP_TO_UNDO)
		es_move_fail(move, (EsNext) {NULL}, saga->error != NULL ? saga->error : ending->error, saga->cause);
	else
	{
		EsNext		at = {es_asl_find_state(move->version->definition, stop->state), stop->input, es_move_parent(move, stop)};

		es_move_leave_stop(move, stop);
		es_move_walk(move, es_state_fail(move, at, NULL, ending));
	}
}

/* an attempt at an undo that was given up, and succeeded after all */
static const char *
answer_undo(EsMove *move, EsStep *undo, const EsEnding *ending)
{
	EsStep	   *step = es_move_step(move, undo->parent, undo->undoes);
	EsStep	   *other = es_saga_other_attempt(&move->saga, undo);

	if (step->status == ES_STEP_UNDONE)
		return "duplicate";
	/* nothing more is undone, but this is */
	if (ES_SAGA_HAS_ENDED(move->saga.status))
	{
		es_step_end(move, undo, ES_STEP_DONE, ending);
		es_undo_mark(move, step);
		return "late";
	}
	if (other != NULL && other->status == ES_STEP_WAITING)
	{
		other = es_move_adopt(move, other);
		(void) es_step_take_back(move, other);
		es_step_end(move, other, ES_STEP_WITHDRAWN, NULL);
	}
	es_undo_ended(move, undo, ending);
	if (move->saga.status == ES_SAGA_STUCK)
		es_undo_resume(move);
	return "accepted";
}
