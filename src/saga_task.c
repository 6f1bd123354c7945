/*
 * saga_task.c
 *		Steps: Tasks and Waits that begin, end, fail and are tried again.
 *
 * Runs within a transition (saga_move.c), under the lock of its instance.  A step is a row; it is written when the transition ends.  What
 * runs here of others is a function of a step, in a savepoint (saga_call.c).
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "asl_value.h"
#include "compat.h"
#include "guc.h"
#include "saga_event.h"
#include "saga_move.h"
#include "saga_react.h"

static void refuse_open_child(EsMove *move, const EsStep *stop);
static void go_on_from(EsMove *move, EsStep *stop);
static EsNext begin_attempt(EsMove *move, EsNext at, const EsStep *previous, double delay);
static EsNext begin_work(EsMove *move, EsNext at, EsStep *step, double delay);
static EsNext wait_for_signal(EsMove *move, EsNext at, EsStep *step);
static EsNext run_now(EsMove *move, EsNext at, EsStep *step);
static EsNext run_child(EsMove *move, EsNext at, EsStep *step);
static bool read_timeout(EsMove *move, const EsStep *step, double *timeout, EsAslFault *fault);
static EsNext leave_attempt(EsMove *move, EsNext at, EsStep *step, const EsEnding *ending);
static bool is_below(EsMove *move, const EsStep *step, const EsStep *row);
static double retry_delay(const EsAslState *state, EsStep *step, const EsEnding *ending);
static void count_try(EsStep *step, int retrier, int nretriers);
static EsNext leave_wait(EsMove *move, EsNext at, EsStep *step);
static void be_late(EsMove *move, EsStep *step);
static bool is_moment(const char *text, TimestampTz *moment);

EsNext
es_task_enter(EsMove *move, EsNext at)
{
	return begin_attempt(move, at, NULL, 0);
}

EsNext
es_wait_enter(EsMove *move, EsNext at)
{
	const EsAslState *state = at.state;
	EsAslScope	scope = es_move_scope(move, state, at.input, 0, NULL);
	EsAslFault	fault = {0};
	Jsonb	   *selected = es_asl_state_input(state, &scope, &fault);
	EsAslScope	inner = {selected, scope.context};
	double		seconds = 0;
	char	   *moment = NULL;
	TimestampTz due = 0;

	if (selected == NULL ||
		!(state->seconds.is_set ? es_asl_number(&state->seconds, &inner, &seconds, &fault) : es_asl_text(&state->timestamp, &inner, &moment, &fault)))
		return es_state_fail(move, at, NULL, &(EsEnding) {.error = fault.error, .cause = fault.cause});
	if (state->seconds.is_set)
		due = es_move_later(move->now, seconds);
	else if (!is_moment(moment, &due))
		return es_state_fail(move, at, NULL, &(EsEnding) {.error = ES_ASL_RUNTIME,
			.cause = psprintf("\"%s\" of state \"%s\" is not a time", moment, state->name)});
	es_step_new(move, ES_STEP_WAIT, at, NULL)->due = due;
	return (EsNext) {NULL};
}

EsNext
es_state_leave(EsMove *move, EsNext at, EsStep *step, Jsonb *result)
{
	EsAslScope	scope = es_move_scope(move, at.state, at.input, step == NULL ? 0 : step->attempt - 1, NULL);
	EsAslFault	fault = {0};
	Jsonb	   *output = es_asl_state_output(at.state, &scope, result, &fault);

	/* what it did is done: to try again what comes of it would do that again */
	if (output == NULL)
		return es_state_fail(move, at, NULL, &(EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true});
	if (at.state->next != NULL)
		return (EsNext) {at.state->next, output, at.branch};
	if (at.branch != NULL)
		return es_branch_leave(move, at.branch, output);
	if (!es_undo_defers_end(move, output))
		es_move_finish(move, ES_SAGA_SUCCEEDED, output);
	return (EsNext) {NULL};
}

EsNext
es_state_fail(EsMove *move, EsNext at, EsStep *step, const EsEnding *ending)
{
	const EsAslState *state = at.state;
	double		delay = step == NULL ? -1 : retry_delay(state, step, ending);
	int			catcher;
	EsAslFault	fault = {0};
	EsNext		next = {.branch = at.branch};
	EsEnding	own;

	if (delay >= 0)
		return state->type == ES_ASL_TASK ? begin_attempt(move, at, step, delay) : es_branches_again(move, at, step, delay);
	/* an earlier attempt may be what nobody knows of */
	if (step != NULL && state->class == ES_ASL_PIVOT && es_steps_unknown_pivot(move) != NULL)
	{
		move->saga.error = pstrdup(ending->error);
		move->saga.cause = ending->cause == NULL ? NULL : pstrdup(ending->cause);
		es_move_get_stuck(move, at, "pivot_unknown");
		return (EsNext) {NULL};
	}
	catcher = es_asl_find_catcher(state, ending->error);
	if (catcher >= 0)
	{
		next.state = state->catchers[catcher].next;
		next.input = es_asl_catch_output(&state->catchers[catcher], at.input, ending->error, ending->cause, &fault);
		if (next.input != NULL)
			return next;
		own = (EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true, .retry_after = -1};
		ending = &own;
	}
	/* behind the pivot a branch stops where it is: with what it is in, the others would be done again */
	if (at.branch != NULL && (!move->saga.has_pivot || es_branch_is_guarded(move, at.branch, ending->error)))
		return es_branch_fail(move, at.branch, ending);
	es_move_fail(move, at, ending->error, ending->cause);
	return (EsNext) {NULL};
}

EsStep *
es_step_new(EsMove *move, EsStepKind kind, EsNext at, const EsStep *previous)
{
	EsStep	   *step = palloc0(sizeof(EsStep));

	step->seq = ++move->saga.last_seq;
	step->parent = at.branch == NULL ? 0 : at.branch->seq;
	step->above = at.branch == NULL ? 0 : at.branch->parent;
	step->first_seq = previous == NULL ? step->seq : previous->first_seq;
	step->attempt = previous == NULL ? 1 : previous->attempt + 1;
	step->undoes = previous == NULL ? 0 : previous->undoes;
	if (previous != NULL && previous->ntries > 0)
	{
		step->ntries = previous->ntries;
		step->tries = memcpy(palloc(step->ntries * sizeof(int)), previous->tries, step->ntries * sizeof(int));
	}
	step->kind = kind;
	step->status = ES_STEP_WAITING;
	step->state = at.state->name;
	step->input = at.input;
	step->sent = previous == NULL ? NULL : previous->sent;
	step->resource = previous == NULL ? NULL : previous->resource;
	step->started_at = es_move_clock(move);
	step->via = move->via;
	step->is_new = true;
	move->via = NIL;
	es_move_add_step(move, step);
	es_step_change(move, step);
	return step;
}

void
es_step_change(EsMove *move, EsStep *step)
{
	move->is_changed = true;
	step->is_told = true;
	es_step_write_later(move, step);
}

void
es_step_write_later(EsMove *move, EsStep *step)
{
	if (step->is_dirty)
		return;
	step->is_dirty = true;
	move->dirty = lappend(move->dirty, step);
}

void
es_step_end(EsMove *move, EsStep *step, EsStepStatus status, const EsEnding *ending)
{
	if (ES_WAITS_FOR_LOCK(step) && !step->has_lock)
		move->has_left_lock = true;
	step->status = status;
	step->ended = ++move->saga.last_ended;
	step->ended_at = es_move_clock(move);
	step->due = 0;
	es_step_change(move, step);
	if (ending == NULL)
		return;
	step->output = ending->output;
	step->error = ending->error == NULL ? NULL : pstrdup(ending->error);
	step->cause = ending->cause == NULL ? NULL : pstrdup(ending->cause);
}

void
es_steps_write(EsMove *move)
{
	ListCell   *lc;

	/* a row has the number of its command */
	es_call_send_all(move);
	foreach(lc, move->dirty)
	{
		EsStep	   *step = lfirst(lc);

		es_saga_write_step(&move->saga, step);
		es_saga_event_follow(move, step);
		step->is_dirty = false;
	}
	move->dirty = NIL;
}

void
es_steps_end_waiting(EsMove *move, const EsStep *below, bool undos_too)
{
	List	   *ending = NIL;
	const bool *taken_back;
	ListCell   *lc;

	es_steps_write(move);
	foreach(lc, es_saga_waiting_steps(&move->saga))
	{
		EsStep	   *step = es_move_adopt(move, lfirst(lc));

		if ((step->kind != ES_STEP_UNDO || undos_too) && is_below(move, step, below))
			ending = lappend(ending, step);
	}
	taken_back = es_steps_take_back(move, ending);
	foreach(lc, ending)
		es_step_end(move, lfirst(lc), taken_back[foreach_current_index(lc)] ? ES_STEP_WITHDRAWN : ES_STEP_UNKNOWN, NULL);
}

/* what is one, and may be undone by an Undo of its own, is none here */
EsStep *
es_steps_unknown_pivot(EsMove *move)
{
	ListCell   *lc;

	es_steps_write(move);
	foreach(lc, es_saga_undo_log(&move->saga))
	{
		EsStep	   *step = lfirst(lc);
		const EsAslState *state = es_asl_find_state(move->version->definition, step->state);

		/* of a state that a later version has not */
		if (state == NULL)
			continue;
		if (step->status == ES_STEP_UNKNOWN && state->class == ES_ASL_PIVOT && !state->undo_on_unknown)
			return es_move_adopt(move, step);
	}
	return NULL;
}

void
es_move_settle(EsMove *move, EsStep *step, const EsEnding *ending)
{
	EsNext		at = {.input = step->input};

	if (step->kind == ES_STEP_UNDO)
	{
		es_undo_ended(move, step, ending);
		return;
	}
	es_step_end(move, step, ending->is_success ? ES_STEP_DONE : ES_STEP_FAILED, ending);
	if (step->kind == ES_STEP_START)
	{
		at.state = move->version->definition->machine->start;
		es_move_walk(move, at);
		return;
	}
	at.state = es_asl_find_state(move->version->definition, step->state);
	at.branch = es_move_parent(move, step);
	if (ending->is_success && at.state->class == ES_ASL_PIVOT)
		move->saga.has_pivot = true;
	if (ending->is_success)
		es_move_walk(move, step->kind == ES_STEP_WAIT ? leave_wait(move, at, step) : es_state_leave(move, at, step, ending->output));
	else
		es_move_walk(move, es_state_fail(move, at, step, ending));
}

/* a Wait hands on what it was given, as InputPath has it */
static EsNext
leave_wait(EsMove *move, EsNext at, EsStep *step)
{
	EsAslScope	scope = es_move_scope(move, at.state, at.input, 0, NULL);
	EsAslFault	fault = {0};
	Jsonb	   *selected = es_asl_state_input(at.state, &scope, &fault);

	if (selected == NULL)
		return es_state_fail(move, at, NULL, &(EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true, .retry_after = -1});
	return es_state_leave(move, at, step, selected);
}

void
es_move_be_late(EsMove *move)
{
	EsSaga	   *saga = &move->saga;
	ListCell   *lc;

	/* this timer is spent, whatever it finds */
	saga->timer_id = 0;
	saga->timer_due = 0;
	/* of one that is paused they are looked at when it is resumed */
	if (ES_SAGA_HAS_ENDED(saga->status) || saga->status == ES_SAGA_PAUSED)
		return;
	if (move->version->reactor != NULL)
	{
		es_react_be_late(move);
		return;
	}
	foreach(lc, es_saga_waiting_steps(saga))
	{
		EsStep	   *step = es_move_adopt(move, lfirst(lc));

		if (es_move_is_live(move, step) && step->due != 0 && step->due <= move->now)
			be_late(move, step);
	}
	if (saga->deadline != 0 && saga->deadline <= move->now && saga->status == ES_SAGA_RUNNING && !saga->has_pivot)
		es_move_fail(move, (EsNext) {NULL}, ES_ASL_TIMEOUT, "the saga's time is over");
}

/* the steps that it stopped at are tried again */
void
es_move_unstick(EsMove *move)
{
	EsSaga	   *saga = &move->saga;
	List	   *stops;
	ListCell   *lc;

	if (move->version->reactor != NULL)
	{
		es_react_unstick(move);
		return;
	}
	if (strcmp(saga->reason, "undo_failed") == 0 || strcmp(saga->reason, "scope_undo_failed") == 0)
	{
		es_undo_resume(move);
		return;
	}
	stops = es_saga_open_stops(saga);
	if (stops == NIL)
		elog(ERROR, "a stuck saga does not say where");
	foreach(lc, stops)
		refuse_open_child(move, lfirst(lc));
	foreach(lc, stops)
		es_move_leave_stop(move, es_move_adopt(move, lfirst(lc)));
	foreach(lc, stops)
		go_on_from(move, lfirst(lc));
}

/* another one beside a child that may do it yet would do it twice */
static void
refuse_open_child(EsMove *move, const EsStep *stop)
{
	EsStep	   *step = es_saga_stopped_at(&move->saga, stop);

	if (step != NULL && step->kind == ES_STEP_CHILD && step->status == ES_STEP_UNKNOWN && es_child_is_there(move, step))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("state \"%s\" is another saga, which says itself what becomes of it", step->state),
				 errhint("Put that one right; the view evtstore.sagas has it, by parent_id.")));
}

/* with the same key where it is a step; a state without a row is entered anew */
static void
go_on_from(EsMove *move, EsStep *stop)
{
	EsStep	   *step = es_saga_stopped_at(&move->saga, stop);
	EsNext		at = {es_asl_find_state(move->version->definition, stop->state), stop->input, es_move_parent(move, stop)};

	if (step == NULL || (at.state->type == ES_ASL_WAIT && step->status == ES_STEP_FAILED))
		es_move_walk(move, at);
	else if (step->status == ES_STEP_DONE || step->status == ES_STEP_SKIPPED)
		/* what came of it was of no use: to do it again would not mend that.  A Wait has no output */
		es_move_walk(move, step->output == NULL ? leave_wait(move, at, step) : es_state_leave(move, at, step, step->output));
	else
	{
		step->ntries = 0;
		es_move_walk(move, at.state->type == ES_ASL_TASK ? begin_attempt(move, at, step, 0) : es_branches_again(move, at, step, 0));
	}
}

EsNext
es_task_again(EsMove *move, EsNext at, const EsStep *previous)
{
	return begin_attempt(move, at, previous, 0);
}

EsNext
es_task_leave(EsMove *move, EsNext at, EsStep *step)
{
	/* it may have become known when its saga had ended */
	if (at.state->class == ES_ASL_PIVOT)
		move->saga.has_pivot = true;
	return step->kind == ES_STEP_WAIT && step->status == ES_STEP_DONE ? leave_wait(move, at, step) : es_state_leave(move, at, step, step->output);
}

/* the first attempt, or one after previous; delay in s */
static EsNext
begin_attempt(EsMove *move, EsNext at, const EsStep *previous, double delay)
{
	const EsAslState *state = at.state;
	EsStep	   *step = es_step_new(move, ES_STEP_TASK, at, previous);
	EsAslScope	scope = es_move_scope(move, state, at.input, step->attempt - 1, NULL);
	EsAslFault	fault = {0};
	EsAslScope	inner;
	double		timeout;
	bool		has_end = state->timeout.is_set || (state->call.kind != ES_ASL_SIGNAL && state->call.kind != ES_ASL_SAGA);

	/* the same for all attempts, whatever functions are in it */
	if (step->sent == NULL)
		step->sent = es_asl_state_input(state, &scope, &fault);
	inner = (EsAslScope) {step->sent, scope.context};
	if (step->sent == NULL || !read_timeout(move, step, &timeout, &fault) || !es_heartbeat_of(state, step, &inner, &fault) ||
		!es_semantic_lock_of(move, state, step, &scope, &fault))
		return leave_attempt(move, at, step, &(EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true, .retry_after = -1});
	/* without a time a signal is waited for without an end, and so is the lock before it */
	step->due = has_end ? es_move_later(move->now, delay + timeout) : 0;
	if (step->resource != NULL)
		step->deadline = step->due;
	else if (state->call.kind == ES_ASL_SAGA)
		step->kind = ES_STEP_CHILD;
	if (delay > 0 && (step->resource != NULL || ES_CALL_IS_NOW(&state->call) || step->kind == ES_STEP_CHILD))
	{
		step->due = es_move_later(move->now, delay);
		return (EsNext) {NULL};
	}
	return begin_work(move, at, step, delay);
}

/* due is when its time is over */
static EsNext
begin_work(EsMove *move, EsNext at, EsStep *step, double delay)
{
	const EsAslCall *call = &at.state->call;
	EsAslScope	scope;
	EsEnding	failure;

	if (step->resource != NULL)
		switch (es_semantic_lock_take(move, step, &failure))
		{
			case ES_SEMANTIC_HELD:
				es_step_change(move, step);
				break;
			case ES_SEMANTIC_WAITS:
				return (EsNext) {NULL};
			case ES_SEMANTIC_DEADLOCK:
				return leave_attempt(move, at, step, &failure);
		}
	if (ES_CALL_IS_NOW(call))
		return run_now(move, at, step);
	if (call->kind == ES_ASL_SAGA)
	{
		step->kind = ES_STEP_CHILD;
		return run_child(move, at, step);
	}
	es_heartbeat_begin(move, step, delay);
	if (call->kind == ES_ASL_SIGNAL)
		return wait_for_signal(move, at, step);
	scope = es_move_scope(move, at.state, at.input, step->attempt - 1, NULL);
	if (!es_saga_event_expect(move, step, at.state, &scope, &failure) || !es_call_send(move, step, call, delay, &failure))
		return leave_attempt(move, at, step, &failure);
	return (EsNext) {NULL};
}

EsNext
es_task_go_on(EsMove *move, EsStep *step)
{
	EsNext		at = {es_asl_find_state(move->version->definition, step->state), step->input, es_move_parent(move, step)};

	if (step->resource != NULL && step->due != step->deadline)
	{
		step->due = step->deadline;
		es_step_write_later(move, step);
	}
	return begin_work(move, at, step, 0);
}

/* it may have come already */
static EsNext
wait_for_signal(EsMove *move, EsNext at, EsStep *step)
{
	Jsonb	   *payload = es_signal_take(move, at.state->call.name, step->seq);

	step->kind = ES_STEP_SIGNAL;
	if (payload == NULL)
		return (EsNext) {NULL};
	es_step_end(move, step, ES_STEP_DONE, &(EsEnding) {.is_success = true, .output = payload});
	if (at.state->class == ES_ASL_PIVOT)
		move->saga.has_pivot = true;
	return es_state_leave(move, at, step, payload);
}

static EsNext
run_now(EsMove *move, EsNext at, EsStep *step)
{
	EsEnding	ending = {.retry_after = -1};

	ending.is_success = es_call_now(move, &at.state->call, step->sent, &ending.output, &ending);
	return leave_attempt(move, at, step, &ending);
}

/* its time begins with it; without one it has all the time that it wants */
static EsNext
run_child(EsMove *move, EsNext at, EsStep *step)
{
	EsEnding	ending = {.retry_after = -1};
	EsAslFault	fault = {0};
	double		timeout;

	if (!read_timeout(move, step, &timeout, &fault))
		ending = (EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true, .retry_after = -1};
	else if (!es_child_start(move, step, &at.state->call, &ending))
	{
		step->due = at.state->timeout.is_set ? es_move_later(move->now, timeout) : 0;
		es_step_change(move, step);
		return (EsNext) {NULL};
	}
	return leave_attempt(move, at, step, &ending);
}

/* s.  False: it cannot be told */
static bool
read_timeout(EsMove *move, const EsStep *step, double *timeout, EsAslFault *fault)
{
	const EsAslState *state = es_asl_find_state(move->version->definition, step->state);
	EsAslScope	scope = es_move_scope(move, state, step->sent, step->attempt - 1, NULL);

	*timeout = es_guc_saga_step_timeout;
	return !state->timeout.is_set || es_asl_number(&state->timeout, &scope, timeout, fault);
}

/* of what was over at once */
static EsNext
leave_attempt(EsMove *move, EsNext at, EsStep *step, const EsEnding *ending)
{
	es_step_end(move, step, ending->is_success ? ES_STEP_DONE : ES_STEP_FAILED, ending);
	if (!ending->is_success)
		return es_state_fail(move, at, step, ending);
	if (at.state->class == ES_ASL_PIVOT)
		move->saga.has_pivot = true;
	return es_state_leave(move, at, step, ending->output);
}

/* is it in that Parallel or Map? */
static bool
is_below(EsMove *move, const EsStep *step, const EsStep *row)
{
	if (row == NULL)
		return true;
	for (step = es_move_parent(move, step); step != NULL; step = es_move_parent(move, step))
		if (step->seq == row->seq)
			return true;
	return false;
}

/* s; < 0: not again */
static double
retry_delay(const EsAslState *state, EsStep *step, const EsEnding *ending)
{
	int			retrier;
	double		delay;

	if (ending->is_final)
		return -1;
	retrier = es_asl_find_retrier(state->retriers, state->nretriers, ending->error);
	if (retrier < 0)
		return -1;
	count_try(step, retrier, state->nretriers);
	delay = es_asl_retry_delay(&state->retriers[retrier], step->tries[retrier] - 1);
	return delay < 0 ? -1 : Max(delay, ending->retry_after);
}

static void
count_try(EsStep *step, int retrier, int nretriers)
{
	int		   *tries = palloc0(nretriers * sizeof(int));

	if (step->ntries > 0)
		memcpy(tries, step->tries, Min(step->ntries, nretriers) * sizeof(int));
	tries[retrier]++;
	step->tries = tries;
	step->ntries = nretriers;
}

/* of a step that waits */
static void
be_late(EsMove *move, EsStep *step)
{
	EsEnding	ending = {.error = ES_ASL_TIMEOUT, .cause = "no answer in time", .retry_after = -1};
	EsNext		at = {.input = step->input};

	if (step->kind == ES_STEP_WAIT || step->kind == ES_STEP_START)
	{
		es_move_settle(move, step, &(EsEnding) {.is_success = true, .output = NULL});
		return;
	}
	if ((step->kind == ES_STEP_CHILD || (step->kind == ES_STEP_UNDO && step->message_id == 0)) && es_child_is_there(move, step))
	{
		/* it says so when it has undone what it did */
		step->due = 0;
		es_step_change(move, step);
		if (es_child_take_back(move, step, NULL, ES_ASL_TIMEOUT, &ending))
			es_move_settle(move, step, &ending);
		return;
	}
	if (step->kind == ES_STEP_UNDO)
	{
		if (step->message_id != 0)
			(void) es_step_take_back(move, step);
		es_undo_ended(move, step, step->message_id != 0 ? &ending : NULL);
		return;
	}
	if (es_heartbeat_goes_on(move, step))
		return;
	if (step->deadline > move->now)
		ending = (EsEnding) {.error = ES_ASL_HEARTBEAT_TIMEOUT, .cause = "no sign of life in time", .retry_after = -1};
	if (ES_WAITS_FOR_LOCK(step))
		ending.cause = psprintf("lock \"%s\" was not free in time", step->resource);
	at.state = es_asl_find_state(move->version->definition, step->state);
	at.branch = es_move_parent(move, step);
	/* the time of a function, or of branches, that are tried again; a command that was just made has no message yet */
	if (step->kind == ES_STEP_PARALLEL || step->kind == ES_STEP_MAP)
		es_move_walk(move, es_branches_begin(move, step));
	else if (step->kind == ES_STEP_CHILD)
		es_move_walk(move, run_child(move, at, step));
	else if (step->queue_id == 0 && step->kind == ES_STEP_TASK && !ES_WAITS_FOR_LOCK(step))
		es_move_walk(move, es_task_go_on(move, step));
	else
	{
		es_step_end(move, step, es_step_take_back(move, step) ? ES_STEP_WITHDRAWN : ES_STEP_UNKNOWN, &ending);
		es_move_walk(move, es_state_fail(move, at, step, &ending));
	}
}

static bool
is_moment(const char *text, TimestampTz *moment)
{
	int64		seconds;
	int			nanoseconds;

	if (!es_asl_instant(text, strlen(text), &seconds, &nanoseconds))
		return false;
	*moment = seconds * USECS_PER_SEC + nanoseconds / 1000;
	return true;
}

TimestampTz
es_move_later(TimestampTz time, double seconds)
{
	return seconds >= (double) (END_TIMESTAMP - 1 - time) / USECS_PER_SEC ? END_TIMESTAMP - 1 : time + (TimestampTz) rint(seconds * USECS_PER_SEC);
}
