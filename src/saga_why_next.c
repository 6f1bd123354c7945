/*
 * saga_why_next.c
 *		What follows for an instance of a saga: from a failure, from being stuck, and of what is undone and what is left.
 *
 * Runs in backends, in the caller's transaction; reads what saga_look.c has read and writes nothing.  It says in words what saga_task.c, saga_branch.c and
 * saga_undo.c do, and has to follow them.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "compat.h"
#include "saga_why.h"

/* how an undo is tried again where its state does not say; as in saga_undo.c */
#define DEFAULT_UNDO_RETRIES 10

static int	used_tries(const EsLookStep *step, int retrier);
static char *limit_text(const EsAslRetrier *retrier);
static char *errors_text(const List *errors);
static bool is_guarded(const EsLook *look, const EsLookStep *branch, const char *error);
static char *after_branch(const EsWhy *why, const EsLookStep *branch, const char *error);
static List *effects(const EsLook *look, const char *const *statuses, int n);
static int	by_entry(const ListCell *a, const ListCell *b);
static int	by_ended(const ListCell *a, const ListCell *b);
static bool is_of_same_entry(const EsLookStep *a, const EsLookStep *b);
static bool wants_undo(const EsLook *look, const EsLookStep *step);
static char *names(List *steps);
static const EsLookStep *last_undo(const EsLook *look, const EsLookStep *step);
static const EsLookStep *stopped_at(const EsLook *look, const EsLookStep *stop);
static void stopped_by_failure(EsWhy *why, const EsLookStep *stop, const EsLookStep *step);
static bool stopped_at_child(EsWhy *why, const EsLookStep *stop, const EsLookStep *step);
static void stopped_pivot_unknown(EsWhy *why, const EsLookStep *stop, const EsLookStep *step);
static void stuck_undo_failed(EsWhy *why, const char *reason);

char *
es_why_after(const EsWhy *why, const EsAslState *state, const EsLookStep *step, const char *error)
{
	int			retrier = es_asl_find_retrier(state->retriers, state->nretriers, error);
	int			catcher = es_asl_find_catcher(state, error);
	const EsLookStep *branch = step->parent == 0 ? NULL : es_look_step(why->look, step->parent);

	if (retrier >= 0 && es_asl_retry_delay(&state->retriers[retrier], used_tries(step, retrier)) >= 0)
		return psprintf("it is tried again, as attempt %d (retry %d of %s for %s)", step->attempt + 1, used_tries(step, retrier) + 1,
						limit_text(&state->retriers[retrier]), errors_text(state->retriers[retrier].errors));
	if (state->class == ES_ASL_PIVOT && !state->undo_on_unknown)
		return pstrdup("where somebody has had it nobody knows then whether the pivot is done, and a person has to find out (stuck, pivot_unknown)");
	if (catcher >= 0)
		return psprintf("the saga goes on in state \"%s\" (Catch of %s)", state->catchers[catcher].next->name, errors_text(state->catchers[catcher].errors));
	/* behind the pivot a branch stops by itself, where nobody around it sees its failure */
	return branch == NULL || (why->look->has_pivot && !is_guarded(why->look, branch, error)) ? es_why_after_saga(why) : after_branch(why, branch, error);
}

static bool
is_guarded(const EsLook *look, const EsLookStep *branch, const char *error)
{
	while (branch != NULL)
	{
		const EsLookStep *container = es_look_step(look, branch->parent);
		const EsAslState *state = container == NULL ? NULL : es_look_state(look, container);

		if (state == NULL)
			return false;
		if (state->tolerated_count.is_set || state->tolerated_percentage.is_set || es_asl_find_catcher(state, error) >= 0 ||
			es_asl_find_retrier(state->retriers, state->nretriers, error) >= 0)
			return true;
		branch = container->parent == 0 ? NULL : es_look_step(look, container->parent);
	}
	return false;
}

/* a branch fails, and with it what it is a branch of */
static char *
after_branch(const EsWhy *why, const EsLookStep *branch, const char *error)
{
	const EsLookStep *container = es_look_step(why->look, branch->parent);
	const EsAslState *state = container == NULL ? NULL : es_look_state(why->look, container);

	if (state == NULL)
		return es_why_after_saga(why);
	return psprintf("%s\"%s\" fails with it, the rest of which ends%s, and %s",
					state->tolerated_count.is_set || state->tolerated_percentage.is_set ? "the item fails; where that is more than is tolerated " : "", state->name,
					state->is_scope ? ", what was done in it is undone" : "",
					es_why_after(why, state, container, error));
}

char *
es_why_after_undo(const EsWhy *why, const EsAslState *state, const EsLookStep *step, const char *error)
{
	int			retrier = state->nundo_retriers > 0 ? es_asl_find_retrier(state->undo_retriers, state->nundo_retriers, error) : 0;
	int			used = retrier < 0 ? 0 : used_tries(step, retrier);
	bool		is_left = retrier >= 0 &&
	(state->nundo_retriers > 0 ? es_asl_retry_delay(&state->undo_retriers[retrier], used) >= 0 : used < DEFAULT_UNDO_RETRIES);

	if (is_left)
		return psprintf("it is tried again, as attempt %d (retry %d of %s)", step->attempt + 1, used + 1,
						state->nundo_retriers > 0 ? limit_text(&state->undo_retriers[retrier]) : psprintf("%d", DEFAULT_UNDO_RETRIES));
	return pstrdup(why->look->version->definition->goes_on ? "it is left as it is, and the next undo follows" : "the saga is stuck until a person sees to it");
}

char *
es_why_after_saga(const EsWhy *why)
{
	static const char *const done[] = {"done", "unknown"};
	const EsLook *look = why->look;
	List	   *left = NIL;
	ListCell   *lc;

	if (look->has_pivot)
		return pstrdup("the saga is stuck (failed_after_pivot), for behind its pivot nothing is undone");
	if (look->version->definition->on_fail == ES_ASL_STOP)
		return pstrdup("the saga has failed, and nothing is undone (\"OnFail\": \"stop\")");
	foreach(lc, effects(look, done, lengthof(done)))
		if (wants_undo(look, lfirst(lc)))
			left = lappend(left, lfirst(lc));
	return left == NIL ? pstrdup("the saga fails, and nothing done so far is to be undone") : psprintf("the saga fails, and these are undone, in this order: %s", names(left));
}

char *
es_why_retrier(const EsWhy *why, const EsLookStep *step, const EsLookStep *previous)
{
	const EsAslState *state = es_look_state(why->look, step);
	bool		is_undo = ES_LOOK_IS(step->kind, "undo");
	const EsAslRetrier *retriers;
	int			n;

	if (state == NULL || previous == NULL)
		return "";
	retriers = is_undo ? state->undo_retriers : state->retriers;
	n = is_undo ? state->nundo_retriers : state->nretriers;
	for (int i = 0; i < step->ntries; i++)
		if (step->tries[i] > used_tries(previous, i))
			return i < n ? psprintf(", retry %d of %s for %s", step->tries[i], limit_text(&retriers[i]), errors_text(retriers[i].errors)) :
				is_undo ? psprintf(", retry %d of %d", step->tries[i], DEFAULT_UNDO_RETRIES) : "";
	return "";
}

void
es_why_undone(EsWhy *why)
{
	static const char *const undone[] = {"undone"};
	static const char *const done[] = {"done", "unknown"};
	static const char *const failed[] = {"failed"};
	const EsLook *look = why->look;
	bool		goes_on = look->ended_at == 0;
	List	   *steps = effects(look, undone, lengthof(undone));
	List	   *left = NIL;
	ListCell   *lc;

	if (steps != NIL)
		es_why_tell(why, "Undone%s: %s.", goes_on ? " so far" : "", names(steps));
	foreach(lc, effects(look, done, lengthof(done)))
		if (wants_undo(look, lfirst(lc)))
			left = lappend(left, lfirst(lc));
	if (left != NIL)
		es_why_tell(why, goes_on ? "To be undone, in this order: %s." : "Left as it is, though it has an Undo: %s.", names(left));
	left = NIL;
	foreach(lc, effects(look, failed, lengthof(failed)))
		if (((EsLookStep *) lfirst(lc))->error != NULL && ES_LOOK_IS(((EsLookStep *) lfirst(lc))->error, "evtstore.UndoFailed"))
			left = lappend(left, lfirst(lc));
	if (left != NIL)
		es_why_tell(why, "Left, because it could not be undone: %s.", names(left));
}

void
es_why_stuck(EsWhy *why)
{
	const EsLook *look = why->look;
	const char *reason = look->reason == NULL ? "?" : look->reason;
	bool		waits_for_pivot_child = false;
	ListCell   *lc;

	if (ES_LOOK_IS(reason, "undo_failed") || ES_LOOK_IS(reason, "scope_undo_failed"))
		stuck_undo_failed(why, reason);
	else
		es_why_tell(why, "It is stuck (%s).", reason);
	/* one for each sequence that stopped */
	foreach(lc, look->steps)
	{
		const EsLookStep *stop = lfirst(lc);

		if (!ES_LOOK_IS(stop->kind, "stop") || ES_LOOK_IS(stop->status, "done"))
			continue;
		if (ES_LOOK_IS(reason, "pivot_unknown") && stopped_at_child(why, stop, stopped_at(look, stop)))
			waits_for_pivot_child = true;
		else if (ES_LOOK_IS(reason, "pivot_unknown"))
			stopped_pivot_unknown(why, stop, stopped_at(look, stop));
		else
			stopped_by_failure(why, stop, stopped_at(look, stop));
	}
	/* of a reactor: the event that it could not take */
	foreach(lc, look->steps)
		if (ES_LOOK_IS(reason, "reactor_failed") && ES_LOOK_IS(((EsLookStep *) lfirst(lc))->kind, "event") && ES_LOOK_IS(((EsLookStep *) lfirst(lc))->status, "waiting"))
		{
			const EsLookStep *event = lfirst(lc);

			es_why_tell(why, "Its function failed with an event of type \"%s\": %s. Events behind it wait. To leave it out:", event->state, es_why_error(event->error, event->cause));
			es_why_sql(why, "SELECT evtstore.skip_step(%s, %s, '{}')", quote_literal_cstr(look->id), quote_literal_cstr(event->state));
		}
	if (!waits_for_pivot_child)
	{
		es_why_tell(why, "%s, with the same idempotency keys and all retries, by:", ES_LOOK_IS(reason, "pivot_unknown") ?
					"For a participant that knows the key, the command is sent once more" : "Once the cause is gone it tries again");
		es_why_sql(why, "SELECT evtstore.retry_saga(%s)", quote_literal_cstr(look->id));
	}
	es_why_tell(why, "To give it up and leave everything as it is:");
	es_why_sql(why, "SELECT evtstore.cancel_saga(%s, compensate => false)", quote_literal_cstr(look->id));
}

static void
stopped_by_failure(EsWhy *why, const EsLookStep *stop, const EsLookStep *step)
{
	const char *id = quote_literal_cstr(why->look->id);
	const char *state = quote_literal_cstr(stop->state);

	es_why_tell(why, "State \"%s\" failed at %s%s%s: %s.", stop->state, es_why_time(stop->started_at), step == NULL || step->attempt < 2 ? "" :
				psprintf(", after %d attempts", step->attempt), why->look->has_pivot ? ", behind the pivot, where nothing is undone" : "",
				es_why_error(stop->error, stop->cause));
	if (step == NULL || ES_LOOK_IS(step->status, "done"))
		return;
	es_why_tell(why, "    If it turns out that it was done, or somebody does it by hand, the saga goes on with its output by:");
	es_why_sql(why, "    SELECT evtstore.resolve_step(%s, %s, 'done', '{}')", id, state);
	es_why_tell(why, "    If it is not needed, by:");
	es_why_sql(why, "    SELECT evtstore.skip_step(%s, %s, '{}')", id, state);
}

/* a pivot that is a saga itself, which no person can answer for.  False: it is none */
static bool
stopped_at_child(EsWhy *why, const EsLookStep *stop, const EsLookStep *step)
{
	pg_uuid_t	child;
	char	   *id;

	if (step == NULL || !ES_LOOK_IS(step->kind, "child") || !es_look_child(why->look, step, &child))
		return false;
	id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&child)));
	es_why_tell(why, "Since %s nobody knows whether the pivot \"%s\" was done. It is saga %s, which says so when it has ended. What that waits for:",
				es_why_time(stop->started_at), stop->state, id);
	es_why_sql(why, "SELECT evtstore.why_saga(%s)", quote_literal_cstr(id));
	return true;
}

static void
stopped_pivot_unknown(EsWhy *why, const EsLookStep *stop, const EsLookStep *step)
{
	const char *id = quote_literal_cstr(why->look->id);
	const char *state = quote_literal_cstr(stop->state);

	es_why_tell(why, "Since %s nobody knows whether the pivot \"%s\" was done, for somebody had it and no answer came.%s", es_why_time(stop->started_at), stop->state,
				step == NULL ? "" : psprintf(" Ask whoever does it; its idempotency key is %s/%d.", why->look->id, step->first_seq));
	es_why_tell(why, "    If it was done, the saga goes on with its output by:");
	es_why_sql(why, "    SELECT evtstore.resolve_step(%s, %s, 'done', '{}')", id, state);
	es_why_tell(why, "    If it was not, then %s, by:", es_why_after_saga(why));
	es_why_sql(why, "    SELECT evtstore.resolve_step(%s, %s, 'failed')", id, state);
}

static void
stuck_undo_failed(EsWhy *why, const char *reason)
{
	static const char *const done[] = {"done", "unknown"};
	const EsLook *look = why->look;
	ListCell   *lc;

	if (ES_LOOK_IS(reason, "scope_undo_failed"))
		es_why_tell(why, "It is stuck (scope_undo_failed): what was done in a scope that failed cannot be undone. What is beside it goes on.");
	else
	{
		es_why_tell(why, "It is stuck (undo_failed) in the middle of its compensation.");
		es_why_undone(why);
	}
	foreach(lc, effects(look, done, lengthof(done)))
	{
		const EsLookStep *step = lfirst(lc);
		const EsLookStep *undo = last_undo(look, step);

		if (undo == NULL || !ES_LOOK_IS(undo->status, "failed"))
			continue;
		es_why_tell(why, "The undo of \"%s\" (step %d, input and output in evtstore.saga_steps) failed at %s, attempt %d: %s. If somebody undoes it by hand, the rest follows by:",
					step->state, step->seq, es_why_time(undo->ended_at), undo->attempt, es_why_error(undo->error, undo->cause));
		es_why_sql(why, "SELECT evtstore.mark_undone(%s, %d, 'how it was undone')", quote_literal_cstr(look->id), step->seq);
	}
}

static int
used_tries(const EsLookStep *step, int retrier)
{
	return retrier < step->ntries ? step->tries[retrier] : 0;
}

static char *
limit_text(const EsAslRetrier *retrier)
{
	return retrier->max_attempts < 0 ? pstrdup("any number") : psprintf("%d", retrier->max_attempts);
}

static char *
errors_text(const List *errors)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, errors)
		appendStringInfo(&text, "%s%s", foreach_current_index(lc) > 0 ? ", " : "", (char *) lfirst(lc));
	return text.data;
}

/* steps with an effect that have one of these statuses, one for each entry, the last to end first */
static List *
effects(const EsLook *look, const char *const *statuses, int n)
{
	List	   *found = NIL;
	const EsLookStep *last = NULL;
	ListCell   *lc;

	foreach(lc, look->steps)
	{
		const EsLookStep *step = lfirst(lc);

		if (!ES_LOOK_IS(step->kind, "task") && !ES_LOOK_IS(step->kind, "child"))
			continue;
		for (int i = 0; i < n; i++)
			if (ES_LOOK_IS(step->status, statuses[i]))
				found = lappend(found, (void *) step);
	}
	/* of the attempts at one entry the one that is done stands for all, else the last */
	list_sort(found, by_entry);
	foreach(lc, found)
	{
		if (last != NULL && is_of_same_entry(last, lfirst(lc)))
			found = foreach_delete_current(found, lc);
		else
			last = lfirst(lc);
	}
	list_sort(found, by_ended);
	return found;
}

/* those of one entry together, the one that stands for it first */
static int
by_entry(const ListCell *a, const ListCell *b)
{
	const EsLookStep *x = lfirst(a);
	const EsLookStep *y = lfirst(b);

	if (x->parent != y->parent)
		return x->parent < y->parent ? -1 : 1;
	if (x->first_seq != y->first_seq)
		return x->first_seq < y->first_seq ? -1 : 1;
	if (ES_LOOK_IS(x->status, "done") != ES_LOOK_IS(y->status, "done"))
		return ES_LOOK_IS(x->status, "done") ? -1 : 1;
	return by_ended(a, b);
}

static int
by_ended(const ListCell *a, const ListCell *b)
{
	const EsLookStep *x = lfirst(a);
	const EsLookStep *y = lfirst(b);

	return x->ended < y->ended ? 1 : x->ended > y->ended ? -1 : 0;
}

static bool
is_of_same_entry(const EsLookStep *a, const EsLookStep *b)
{
	return a->parent == b->parent && a->first_seq == b->first_seq;
}

static bool
wants_undo(const EsLook *look, const EsLookStep *step)
{
	const EsAslState *state = es_look_state(look, step);

	if (state == NULL)
		return false;
	/* a child without an Undo is taken back */
	return (state->has_undo || (ES_LOOK_IS(step->kind, "child") && state->class == ES_ASL_UNDECLARED)) && (ES_LOOK_IS(step->status, "done") || state->undo_unknown);
}

/* '"Charge" (unknown), "Reserve"'; what was done needs no word */
static char *
names(List *steps)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, steps)
	{
		const EsLookStep *step = lfirst(lc);

		if (foreach_current_index(lc) >= 20)
		{
			appendStringInfo(&text, " and %d more", list_length(steps) - foreach_current_index(lc));
			break;
		}
		appendStringInfo(&text, "%s\"%s\"%s", foreach_current_index(lc) > 0 ? ", " : "", step->state,
						 ES_LOOK_IS(step->status, "unknown") ? " (nobody knows whether it was done)" : "");
	}
	return text.data;
}

static const EsLookStep *
last_undo(const EsLook *look, const EsLookStep *step)
{
	const EsLookStep *found = NULL;
	ListCell   *lc;

	foreach(lc, look->steps)
		if (((EsLookStep *) lfirst(lc))->undoes == step->seq)
			found = lfirst(lc);
	return found;
}

/* the step whose failure that is; NULL: it had no row */
static const EsLookStep *
stopped_at(const EsLook *look, const EsLookStep *stop)
{
	const EsLookStep *found = NULL;
	ListCell   *lc;

	foreach(lc, look->steps)
	{
		const EsLookStep *step = lfirst(lc);

		if (step->seq < stop->seq && step->parent == stop->parent && ES_LOOK_IS(step->state, stop->state) && step->undoes == 0 && !ES_LOOK_IS(step->kind, "start") &&
			!ES_LOOK_IS(step->kind, "stop") && !ES_LOOK_IS(step->kind, "branch"))
			found = step;
	}
	return found;
}
