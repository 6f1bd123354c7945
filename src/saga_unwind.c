/*
 * saga_unwind.c
 *		Compensation: in which order what was done is undone.
 *
 * Runs within a transition (saga_move.c), under the lock of its instance.  A thread is the saga's own sequence, or that of a branch of a Parallel
 * or Map.  Of each the last thing that was done is undone first; a Parallel or Map is one thing in the thread that it stands in, and the
 * threads of its branches are at it at the same time.  A branch, and what it is of, is "undoing" until it is through; the Parallel or Map
 * counts those that are not.  So whoever goes on with a thread reads the rows of that thread, and a crash leaves each as it was.
 *
 * How one thing is undone is saga_undo.c's.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "compat.h"
#include "saga_move.h"

static bool is_compensating(const EsMove *move);
static void ask_all(EsMove *move);
static void go_on(EsMove *move, EsStep *branch);
static bool unwind(EsMove *move, EsStep *branch);
static bool unwind_container(EsMove *move, EsStep *container);
static void begin_branches(EsMove *move, EsStep *container, int room);
static bool is_container(const EsStep *step);
static void set_status(EsMove *move, EsStep *step, EsStepStatus status);
static void leave_scope(EsMove *move, EsStep *container);
static void finish(EsMove *move);
static void finish_if_through(EsMove *move);
static bool has_to_undo(EsMove *move);

/* ending: what it is when all is undone.  With a pivot of which nobody knows it waits for a person, or the answer */
void
es_undo_begin(EsMove *move, EsSagaStatus ending)
{
	EsStep	   *pivot;
	bool		was_stuck = move->was == ES_SAGA_STUCK || move->saga.status == ES_SAGA_STUCK;

	move->saga.ending = ending;
	move->saga.reason = NULL;
	move->saga.ended_at = 0;
	move->saga.output = NULL;
	if (was_stuck)
		es_move_close_stops(move);
	es_steps_end_waiting(move, NULL, false);
	pivot = es_steps_unknown_pivot(move);
	if (pivot != NULL)
	{
		es_move_get_stuck(move, (EsNext) {es_asl_find_state(move->version->definition, pivot->state), pivot->input}, "pivot_unknown")->place = ES_STOP_TO_UNDO;
		return;
	}
	move->saga.status = ES_SAGA_COMPENSATING;
	ask_all(move);
}

void
es_undo_resume(EsMove *move)
{
	if (is_compensating(move))
		move->saga.status = ES_SAGA_COMPENSATING;
	else if (move->saga.reason != NULL && strcmp(move->saga.reason, "scope_undo_failed") == 0)
		move->saga.status = ES_SAGA_RUNNING;
	/* else it is stuck at something else, and stays there */
	if (move->saga.status != ES_SAGA_STUCK)
		move->saga.reason = NULL;
	ask_all(move);
}

void
es_undo_abandon(EsMove *move)
{
	ListCell   *lc;

	es_steps_write(move);
	foreach(lc, es_saga_undoing_branches(&move->saga))
	{
		EsStep	   *branch = es_move_adopt(move, lfirst(lc));

		set_status(move, branch, ES_STEP_FAILED);
		set_status(move, es_move_parent(move, branch), ES_STEP_FAILED);
	}
}

bool
es_undo_scope(EsMove *move, EsStep *container)
{
	es_steps_write(move);
	return unwind_container(move, container);
}

void
es_undo_leave(EsMove *move, EsStep *step)
{
	EsStep	   *branch = es_move_parent(move, step);

	if (branch != NULL && branch->status == ES_STEP_UNDOING)
		go_on(move, branch);
	else if (is_compensating(move))
		/* what has become known to be done when its thread was through, or the saga's own */
		go_on(move, NULL);
	else
		finish_if_through(move);
}

void
es_undo_child_ended(EsMove *move, EsStep *step)
{
	EsStep	   *branch = es_move_parent(move, step);
	EsStep	   *undo = es_saga_last_undo(&move->saga, step);

	/* who takes it back is told, too, and goes on then */
	if (undo != NULL && undo->status == ES_STEP_WAITING)
		return;
	if (branch != NULL && branch->status == ES_STEP_UNDOING)
		go_on(move, branch);
	else if (move->saga.status == ES_SAGA_COMPENSATING && branch == NULL)
		go_on(move, NULL);
}

void
es_undo_late(EsMove *move, EsStep *step)
{
	EsSaga	   *saga = &move->saga;

	if (ES_SAGA_HAS_ENDED(saga->status) && saga->status != ES_SAGA_SUCCEEDED)
	{
		if (saga->ending != ES_SAGA_FAILED)
			es_undo_begin(move, saga->ending);
		return;
	}
	/* a saga that compensates comes to it by itself */
	if (is_compensating(move) || !es_undo_is_passed(move, step))
		return;
	if (saga->status == ES_SAGA_SUCCEEDED)
	{
		saga->status = ES_SAGA_RUNNING;
		saga->ended_at = 0;
		/* it came to its end in time */
		saga->deadline = 0;
	}
	if (es_undo_step(move, step))
		finish_if_through(move);
}

bool
es_undo_is_passed(EsMove *move, const EsStep *step)
{
	EsStep	   *branch = es_move_parent(move, step);
	EsStep	   *container = branch == NULL ? NULL : es_move_parent(move, branch);

	if (container == NULL || container->status == ES_STEP_UNDONE)
		return container != NULL;
	return container->status == ES_STEP_UNDOING && branch->status != ES_STEP_UNDOING && container->place != 0 && branch->seq >= container->place;
}

bool
es_undo_defers_end(EsMove *move, Jsonb *output)
{
	if (!move->version->definition->has_scopes)
		return false;
	if (!has_to_undo(move))
		return false;
	move->saga.output = output;
	/* it came to its end in time */
	move->saga.deadline = 0;
	return true;
}

/* where a saga that is stuck for another reason has an undo that failed, that reason stays; a scope stops nothing else */
void
es_undo_get_stuck(EsMove *move)
{
	if (is_compensating(move))
		es_move_get_stuck(move, (EsNext) {NULL}, "undo_failed");
	else if (move->saga.reason == NULL)
		es_move_get_stuck(move, (EsNext) {NULL}, "scope_undo_failed");
}

/* all of it, and not a scope */
static bool
is_compensating(const EsMove *move)
{
	return move->saga.status == ES_SAGA_COMPENSATING ||
		(move->saga.status == ES_SAGA_STUCK && move->saga.reason != NULL && strcmp(move->saga.reason, "undo_failed") == 0);
}

/* those that are at rest already stay there */
static void
ask_all(EsMove *move)
{
	ListCell   *lc;

	es_steps_write(move);
	foreach(lc, es_saga_undoing_branches(&move->saga))
	{
		EsStep	   *branch = es_move_adopt(move, lfirst(lc));

		if (branch->status == ES_STEP_UNDOING)
			go_on(move, branch);
	}
	if (move->saga.status == ES_SAGA_COMPENSATING)
	{
		go_on(move, NULL);
		return;
	}
	/* what became known to be done when its scope had been undone has no thread any more */
	if (move->version->definition->has_scopes)
		foreach(lc, es_saga_undo_log(&move->saga))
		{
			EsStep	   *step = es_move_adopt(move, lfirst(lc));

			if (es_undo_is_passed(move, step))
				(void) es_undo_step(move, step);
		}
	finish_if_through(move);
}

/* with a thread (NULL: the saga's own), and with those that it is in, as each is through */
static void
go_on(EsMove *move, EsStep *branch)
{
	while (unwind(move, branch))
	{
		EsStep	   *container;

		if (branch == NULL)
		{
			finish(move);
			return;
		}
		container = es_move_parent(move, branch);
		set_status(move, branch, ES_STEP_UNDONE);
		container->open--;
		es_step_change(move, container);
		begin_branches(move, container, 1);
		if (container->open > 0)
			return;
		set_status(move, container, ES_STEP_UNDONE);
		branch = es_move_parent(move, container);
		if (!is_compensating(move))
		{
			/* in a scope that is in the one that failed */
			if (branch != NULL && branch->status == ES_STEP_UNDOING)
				continue;
			leave_scope(move, container);
			return;
		}
		/* the thread that it is in comes to it later */
		if (branch != NULL && branch->status != ES_STEP_UNDOING)
			return;
	}
}

/* what was done in a thread, the last first.  True: nothing is left in it */
static bool
unwind(EsMove *move, EsStep *branch)
{
	int			before = 0;
	List	   *items;
	ListCell   *lc;

	check_stack_depth();
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		es_steps_write(move);
		items = es_saga_undo_items(&move->saga, branch == NULL ? 0 : branch->seq, before);
		if (items == NIL)
			return true;
		foreach(lc, items)
		{
			EsStep	   *item = es_move_adopt(move, lfirst(lc));

			before = item->ended;
			if (is_container(item) ? unwind_container(move, item) : es_undo_step(move, item))
				continue;
			if (branch != NULL)
				set_status(move, branch, ES_STEP_UNDOING);
			return false;
		}
	}
}

/* true: nothing is left in it */
static bool
unwind_container(EsMove *move, EsStep *container)
{
	/* its threads are at it */
	if (container->status == ES_STEP_UNDOING)
		return false;
	set_status(move, container, ES_STEP_UNDOING);
	container->open = 0;
	container->place = 0;
	begin_branches(move, container, es_branches_at_once(move, container));
	if (container->open > 0)
		return false;
	set_status(move, container, ES_STEP_UNDONE);
	return true;
}

/* those that nobody has been at, the last first, until so many wait */
static void
begin_branches(EsMove *move, EsStep *container, int room)
{
	EsStep	   *branch;

	while (room > 0)
	{
		es_steps_write(move);
		branch = es_saga_previous_branch(&move->saga, container, container->place);
		if (branch == NULL)
			return;
		branch = es_move_adopt(move, branch);
		container->place = branch->seq;
		es_step_change(move, container);
		if (unwind(move, branch))
			continue;
		container->open++;
		es_step_change(move, container);
		room--;
	}
}

static bool
is_container(const EsStep *step)
{
	return step->kind == ES_STEP_PARALLEL || step->kind == ES_STEP_MAP;
}

static void
set_status(EsMove *move, EsStep *step, EsStepStatus status)
{
	if (step->status == status)
		return;
	step->status = status;
	es_step_change(move, step);
}

/* what it failed with is for Retry and Catch, unless that thread has ended meanwhile */
static void
leave_scope(EsMove *move, EsStep *container)
{
	EsEnding	ending = {.error = container->error, .cause = container->cause, .retry_after = -1};
	EsNext		at = {es_asl_find_state(move->version->definition, container->state), container->input, es_move_parent(move, container)};

	if (at.branch != NULL && at.branch->status != ES_STEP_WAITING)
		finish_if_through(move);
	else
		es_move_walk(move, es_state_fail(move, at, container, &ending));
}

/* the saga's own thread is through */
static void
finish(EsMove *move)
{
	ListCell   *lc;

	es_steps_write(move);
	/* what has become known to be done in a place that its thread had passed */
	foreach(lc, es_saga_undo_log(&move->saga))
		if (!es_undo_step(move, es_move_adopt(move, lfirst(lc))))
			return;
	es_steps_write(move);
	es_move_finish(move, move->saga.ending == ES_SAGA_CANCELLED ? ES_SAGA_CANCELLED :
				   es_saga_has_undone(&move->saga) ? ES_SAGA_COMPENSATED : ES_SAGA_FAILED, NULL);
}

/* a saga that had nothing left to do but that */
static void
finish_if_through(EsMove *move)
{
	if (move->saga.status != ES_SAGA_RUNNING || move->saga.output == NULL)
		return;
	if (!has_to_undo(move))
		es_move_finish(move, ES_SAGA_SUCCEEDED, move->saga.output);
}

/* a scope, or what became known to be done in one that was undone */
static bool
has_to_undo(EsMove *move)
{
	es_steps_write(move);
	if (!es_saga_has_failed_undo(&move->saga))
		return es_saga_is_undoing(&move->saga);
	/* it was stuck at something else when that failed */
	if (move->saga.reason == NULL)
		es_move_get_stuck(move, (EsNext) {NULL}, "scope_undo_failed");
	return true;
}
