/*
 * saga_undo.c
 *		Compensation: how one thing that was done is undone.
 *
 * Runs within a transition (saga_move.c), under the lock of its instance.  What may be undone are the rows of Tasks and children that are
 * done, or of which nobody knows; an undo is a row of its own, tried again by its own Retry, and when it is done the row that it undoes is
 * undone.  So a row is undone once, and a crash leaves each as it was.  In which order is saga_unwind.c's.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "saga_move.h"

/* where a state does not say how its undo is tried again */
#define DEFAULT_MAX_ATTEMPTS 10
#define DEFAULT_MAX_DELAY 60.0

typedef enum Progress
{
	IS_UNDONE,
	IS_WAITING,					/* for somebody, or for a time */
	IS_STUCK,
	IS_LEFT						/* the saga goes on without */
} Progress;

static void mark_entry(EsMove *move, EsStep *step, EsStepStatus status);
static bool stands_for_all(EsMove *move, const EsStep *step);
static bool takes_back(const EsAslState *state, const EsStep *step);
static bool wants_undo(const EsAslState *state, const EsStep *step);
static Progress begin_undo(EsMove *move, const EsAslState *state, EsStep *step, const EsStep *previous, double delay);
static Progress run_undo(EsMove *move, const EsAslState *state, EsStep *step, EsStep *undo);
static double undo_timeout(const EsAslState *state);
static Progress failed(EsMove *move, const EsAslState *state, EsStep *step, EsStep *undo, const EsEnding *ending);
static double retry_delay(const EsAslState *state, EsStep *undo, const EsEnding *ending);
static Jsonb *undo_input(EsMove *move, const EsAslState *state, const EsStep *step, EsAslFault *fault);
static EsStep *undone_step(EsMove *move, const EsStep *undo);

bool
es_undo_step(EsMove *move, EsStep *step)
{
	const EsAslState *state = es_asl_find_state(move->version->definition, step->state);
	EsStep	   *previous;
	Progress	progress;

	/* it may have been undone with another since it was read */
	if ((step->status != ES_STEP_DONE && step->status != ES_STEP_UNKNOWN) || !wants_undo(state, step) || !stands_for_all(move, step))
		return true;
	/* it is taken back, and says what it has left when it has ended; then its Undo is for that */
	if (step->kind == ES_STEP_CHILD && step->status == ES_STEP_UNKNOWN && !takes_back(state, step) && es_child_is_there(move, step))
		return false;
	previous = es_saga_last_undo(&move->saga, step);
	if (previous != NULL && previous->status == ES_STEP_WAITING)
		return false;
	/* a person lets it be tried again: the same key, and all its retries */
	if (previous != NULL)
		previous->ntries = 0;
	progress = begin_undo(move, state, step, previous, 0);
	return progress == IS_UNDONE || progress == IS_LEFT;
}

/* of an undo that waits; ending NULL: the time of its retry has come */
void
es_undo_ended(EsMove *move, EsStep *undo, const EsEnding *ending)
{
	EsStep	   *step = undone_step(move, undo);
	const EsAslState *state = es_asl_find_state(move->version->definition, undo->state);
	Progress	progress;

	if (ending == NULL)
	{
		es_step_end(move, undo, ES_STEP_WITHDRAWN, NULL);
		progress = begin_undo(move, state, step, undo, 0);
	}
	else if (ending->is_success)
	{
		es_step_end(move, undo, ES_STEP_DONE, ending);
		es_undo_mark(move, step);
		progress = IS_UNDONE;
	}
	else
	{
		es_step_end(move, undo, ES_STEP_FAILED, ending);
		progress = failed(move, state, step, undo, ending);
	}
	if (progress == IS_UNDONE || progress == IS_LEFT)
		es_undo_leave(move, step);
}

/* attempts at one entry share their idempotency key, and with it their effect: all that may have had it are undone with this one */
void
es_undo_mark(EsMove *move, EsStep *step)
{
	mark_entry(move, step, ES_STEP_UNDONE);
}

static void
mark_entry(EsMove *move, EsStep *step, EsStepStatus status)
{
	ListCell   *lc;

	es_steps_write(move);
	foreach(lc, es_saga_entry(&move->saga, step))
	{
		EsStep	   *other = es_move_adopt(move, lfirst(lc));

		other->status = status;
		es_step_change(move, other);
	}
	step->status = status;
	es_step_change(move, step);
}

/* of the attempts at one entry that one which is known to be done stands for all, else the last */
static bool
stands_for_all(EsMove *move, const EsStep *step)
{
	ListCell   *lc;

	if (step->status == ES_STEP_DONE)
		return true;
	foreach(lc, es_saga_entry(&move->saga, step))
	{
		const EsStep *other = lfirst(lc);

		if (other->seq != step->seq && (other->status == ES_STEP_DONE || other->ended > step->ended))
			return false;
	}
	return true;
}

/* a child undoes itself, where nothing else is said */
static bool
takes_back(const EsAslState *state, const EsStep *step)
{
	return step->kind == ES_STEP_CHILD && !state->has_undo && state->class == ES_ASL_UNDECLARED;
}

static bool
wants_undo(const EsAslState *state, const EsStep *step)
{
	return state != NULL && (state->has_undo || takes_back(state, step)) && (step->status == ES_STEP_DONE || state->undo_unknown);
}

static Progress
begin_undo(EsMove *move, const EsAslState *state, EsStep *step, const EsStep *previous, double delay)
{
	EsStep	   *undo = es_step_new(move, ES_STEP_UNDO, (EsNext) {state, step->input, es_move_parent(move, step)}, previous);
	EsAslFault	fault = {0};
	EsEnding	ending = {.retry_after = -1};

	undo->undoes = step->seq;
	if (undo->sent == NULL)
		undo->sent = undo_input(move, state, step, &fault);
	if (undo->sent == NULL)
	{
		ending = (EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true};
		es_step_end(move, undo, ES_STEP_FAILED, &ending);
		return failed(move, state, step, undo, &ending);
	}
	if (!takes_back(state, step) && (state->undo.kind == ES_ASL_QUEUE || state->undo.kind == ES_ASL_ENDPOINT))
	{
		undo->due = move->now + (TimestampTz) ((delay + undo_timeout(state)) * USECS_PER_SEC);
		if (es_call_send(move, undo, &state->undo, delay, &ending))
			return IS_WAITING;
		es_step_end(move, undo, ES_STEP_FAILED, &ending);
		return failed(move, state, step, undo, &ending);
	}
	if (delay <= 0)
		return run_undo(move, state, step, undo);
	undo->due = move->now + (TimestampTz) (delay * USECS_PER_SEC);
	return IS_WAITING;
}

/* what is done in this transition, or by a child */
static Progress
run_undo(EsMove *move, const EsAslState *state, EsStep *step, EsStep *undo)
{
	EsEnding	ending = {.retry_after = -1};
	bool		is_over = true;

	if (takes_back(state, step))
		is_over = es_child_take_back(move, step, undo, NULL, &ending);
	else if (state->undo.kind == ES_ASL_SAGA)
		is_over = es_child_start(move, undo, &state->undo, &ending);
	else
		ending.is_success = es_call_now(move, &state->undo, undo->sent, &ending.output, &ending);
	if (!is_over)
	{
		if (!takes_back(state, step) && state->undo_timeout.is_set)
			undo->due = move->now + (TimestampTz) (undo_timeout(state) * USECS_PER_SEC);
		return IS_WAITING;
	}
	es_step_end(move, undo, ending.is_success ? ES_STEP_DONE : ES_STEP_FAILED, &ending);
	if (!ending.is_success)
		return failed(move, state, step, undo, &ending);
	es_undo_mark(move, step);
	return IS_UNDONE;
}

/* s */
static double
undo_timeout(const EsAslState *state)
{
	return state->undo_timeout.is_set && state->undo_timeout.expression == NULL ? state->undo_timeout.value : es_guc_saga_step_timeout;
}

static Progress
failed(EsMove *move, const EsAslState *state, EsStep *step, EsStep *undo, const EsEnding *ending)
{
	double		delay = retry_delay(state, undo, ending);

	if (delay >= 0)
		return begin_undo(move, state, step, undo, Max(delay, ending->retry_after));
	if (!move->version->definition->goes_on)
	{
		es_undo_get_stuck(move);
		return IS_STUCK;
	}
	/* it stays in the history as what could not be undone */
	step->error = pstrdup("evtstore.UndoFailed");
	step->cause = ending->cause == NULL ? NULL : pstrdup(ending->cause);
	mark_entry(move, step, ES_STEP_FAILED);
	es_move_note(move, "left", step->state);
	return IS_LEFT;
}

/* s; < 0: not again */
static double
retry_delay(const EsAslState *state, EsStep *undo, const EsEnding *ending)
{
	int			n = Max(state->nundo_retriers, 1);
	int			retrier = 0;
	int		   *tries = palloc0(n * sizeof(int));
	double		delay;

	if (ending->is_final)
		return -1;
	if (state->nundo_retriers > 0)
		retrier = es_asl_find_retrier(state->undo_retriers, state->nundo_retriers, ending->error);
	if (retrier < 0)
		return -1;
	if (undo->ntries > 0)
		memcpy(tries, undo->tries, Min(undo->ntries, n) * sizeof(int));
	undo->tries = tries;
	undo->ntries = n;
	tries[retrier]++;
	if (state->nundo_retriers > 0)
		return es_asl_retry_delay(&state->undo_retriers[retrier], tries[retrier] - 1);
	delay = (double) (1 << Min(tries[0] - 1, 6));
	return tries[0] > DEFAULT_MAX_ATTEMPTS ? -1 : Min(delay, DEFAULT_MAX_DELAY);
}

/* NULL: it cannot be made */
static Jsonb *
undo_input(EsMove *move, const EsAslState *state, const EsStep *step, EsAslFault *fault)
{
	JsonbParseState *build = NULL;
	JsonbValue	key = {.type = jbvString};
	JsonbValue	null = {.type = jbvNull};
	JsonbValue	part;
	Jsonb	   *both;
	EsAslScope	scope;

	(void) pushJsonbValue(&build, WJB_BEGIN_OBJECT, NULL);
	key.val.string.val = "input";
	key.val.string.len = strlen("input");
	(void) pushJsonbValue(&build, WJB_KEY, &key);
	JsonbToJsonbValue(step->sent != NULL ? step->sent : step->input, &part);
	(void) pushJsonbValue(&build, WJB_VALUE, &part);
	key.val.string.val = "output";
	key.val.string.len = strlen("output");
	(void) pushJsonbValue(&build, WJB_KEY, &key);
	if (step->output != NULL)
		JsonbToJsonbValue(step->output, &part);
	(void) pushJsonbValue(&build, WJB_VALUE, step->output != NULL ? &part : &null);
	both = JsonbValueToJsonb(pushJsonbValue(&build, WJB_END_OBJECT, NULL));
	if (state->undo_input == NULL)
		return both;
	scope = es_move_scope(move, state, both, 0, NULL);
	return es_asl_payload_make(state->undo_input, &scope, fault);
}

static EsStep *
undone_step(EsMove *move, const EsStep *undo)
{
	EsStep	   *step = es_move_step(move, undo->parent, undo->undoes);

	if (step == NULL)
		elog(ERROR, "step %d, which step %d undoes, is missing", undo->undoes, undo->seq);
	return step;
}
