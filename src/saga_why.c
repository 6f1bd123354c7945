/*
 * saga_why.c
 *		Why an instance of a saga is where it is: for people, in sentences.
 *
 * Runs in backends, in the caller's transaction; reads (saga_look.c) and writes nothing.  Who has a message is in shared memory, and by itself: it may be a moment newer
 * than the rest (saga_why_message.c).  What would follow from a failure is what saga_task.c, saga_branch.c and saga_undo.c do.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "arg.h"
#include "clock.h"
#include "compat.h"
#include "saga_look.h"
#include "saga_why.h"

PG_FUNCTION_INFO_V1(evtstore_why_saga);

/* of those that wait as many are told one by one, and of one state */
#define MAX_TOLD 10
#define MAX_TOLD_OF_STATE 3
/* children within children */
#define MAX_TOLD_DEPTH 5

static void tell_saga(EsWhy *why);
static void tell_head(EsWhy *why);
static void tell_waiting(EsWhy *why);
static bool waits_for_something(const EsLookStep *step);
static bool waits_for_given_up(const EsLook *look, const EsLookStep *step);
static int	count_of_state(const List *steps, const EsLookStep *step);
static void tell_step(EsWhy *why, const EsLookStep *step);
static char *since(const EsWhy *why, const EsLookStep *step);
static void tell_reason(EsWhy *why, const EsLookStep *step, const EsAslState *state);
static void tell_end_of_time(EsWhy *why, const EsLookStep *step, const EsAslState *state);
static void tell_child(EsWhy *why, const EsLookStep *step, const pg_uuid_t *child, const char *what);
static void tell_items(EsWhy *why, const EsLookStep *container);
static void tell_deadline(EsWhy *why);

/* why_saga(id uuid) -> text; evtstore_reader */
Datum
evtstore_why_saga(PG_FUNCTION_ARGS)
{
	EsWhy		why = {.now = es_clock_now(), .text = makeStringInfo()};

	es_arg_required(fcinfo, 0, "id");
	why.look = es_saga_look(PG_GETARG_UUID_P(0));
	tell_saga(&why);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(why.text->data, Max(why.text->len - 1, 0)));
}

static void
tell_saga(EsWhy *why)
{
	const EsLook *look = why->look;

	tell_head(why);
	if (ES_LOOK_IS(look->status, "paused"))
	{
		es_why_tell(why, "It is paused: nothing of it goes on until somebody resumes it:");
		es_why_sql(why, "SELECT evtstore.resume_saga(%s)", quote_literal_cstr(look->id));
	}
	if (look->ended_at != 0)
	{
		if (!ES_LOOK_IS(look->status, "succeeded"))
			es_why_undone(why);
		return;
	}
	if (ES_LOOK_IS(look->status, "stuck"))
		es_why_stuck(why);
	tell_waiting(why);
	tell_deadline(why);
}

void
es_why_tell(EsWhy *why, const char *format,...)
{
	appendStringInfoSpaces(why->text, 4 * why->depth);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(why->text, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(why->text, needed);
	}
	appendStringInfoChar(why->text, '\n');
}

char *
es_why_time(TimestampTz time)
{
	return pstrdup(timestamptz_to_str(time));
}

/* 'Busy ("a bad day")' */
char *
es_why_error(const char *error, const char *cause)
{
	if (error == NULL)
		return pstrdup("without a name");
	return cause == NULL || cause[0] == '\0' ? pstrdup(error) : psprintf("%s (\"%s\")", error, cause);
}

static void
tell_head(EsWhy *why)
{
	const EsLook *look = why->look;
	StringInfoData head;

	initStringInfo(&head);
	appendStringInfo(&head, "Saga %s (\"%s\", version %d", look->id, look->version->name, look->version->version);
	if (look->business_key != NULL)
		appendStringInfo(&head, ", business key \"%s\"", look->business_key);
	appendStringInfo(&head, "): %s. It was started at %s", look->status, es_why_time(look->started_at));
	if (look->ended_at != 0)
		appendStringInfo(&head, " and ended at %s", es_why_time(look->ended_at));
	es_why_tell(why, "%s.", head.data);
	if (look->has_parent && why->depth == 0)
		es_why_tell(why, "It is a child of saga %s.", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&look->parent))));
	if (look->error != NULL)
		es_why_tell(why, "It failed: %s.", es_why_error(look->error, look->cause));
}

static void
tell_waiting(EsWhy *why)
{
	List	   *told = NIL;
	int			nleft = 0;
	ListCell   *lc;

	if (ES_LOOK_IS(why->look->status, "compensating"))
		es_why_undone(why);
	foreach(lc, why->look->steps)
	{
		const EsLookStep *step = lfirst(lc);

		if (!waits_for_something(step) && !waits_for_given_up(why->look, step))
			continue;
		if (list_length(told) >= MAX_TOLD || count_of_state(told, step) >= MAX_TOLD_OF_STATE)
			nleft++;
		else
		{
			tell_step(why, step);
			told = lappend(told, (void *) step);
		}
	}
	if (nleft > 0)
		es_why_tell(why, "%d more wait, which the view evtstore.saga_steps has.", nleft);
	if (told == NIL && !ES_LOOK_IS(why->look->status, "stuck"))
		es_why_tell(why, "It waits for nothing that is known here.");
}

/* a branch, or a Parallel that has begun, waits for what is in it, and so does what is being undone */
static bool
waits_for_something(const EsLookStep *step)
{
	if (!ES_LOOK_IS(step->status, "waiting"))
		return false;
	return !ES_LOOK_IS(step->kind, "branch") && (!ES_LOOK_IS(step->kind, "parallel") || step->due != 0);
}

/* a child with an Undo of its own, which is not asked for before that has ended */
static bool
waits_for_given_up(const EsLook *look, const EsLookStep *step)
{
	const EsAslState *state = es_look_state(look, step);
	pg_uuid_t	child;

	return ES_LOOK_IS(step->kind, "child") && ES_LOOK_IS(step->status, "unknown") && !ES_LOOK_IS(look->status, "stuck") &&
		state != NULL && state->has_undo && es_look_child(look, step, &child);
}

static int
count_of_state(const List *steps, const EsLookStep *step)
{
	int			n = 0;
	ListCell   *lc;

	foreach(lc, steps)
		if (ES_LOOK_IS(((EsLookStep *) lfirst(lc))->state, step->state) && ES_LOOK_IS(((EsLookStep *) lfirst(lc))->kind, step->kind))
			n++;
	return n;
}

static void
tell_step(EsWhy *why, const EsLookStep *step)
{
	const EsAslState *state = es_look_state(why->look, step);

	tell_reason(why, step, state);
	if (step->due != 0 && step->due <= why->now)
		es_why_tell(why, "    That time is over: a delivery worker is about to bring it. Where none does, SELECT * FROM evtstore.health() says why.");
	if (state != NULL && step->due != 0)
		tell_end_of_time(why, step, state);
}

/* '(since T)', or with the attempt and how the last one ended */
static char *
since(const EsWhy *why, const EsLookStep *step)
{
	const EsLookStep *previous = es_look_previous(why->look, step);

	if (step->attempt < 2)
		return psprintf("since %s", es_why_time(step->started_at));
	return psprintf("attempt %d%s, since %s%s", step->attempt, es_why_retrier(why, step, previous), es_why_time(step->started_at),
					previous == NULL || previous->error == NULL ? "" : psprintf(", after %s", es_why_error(previous->error, previous->cause)));
}

static void
tell_reason(EsWhy *why, const EsLookStep *step, const EsAslState *state)
{
	char	   *what = since(why, step);
	const char *who = ES_LOOK_IS(step->kind, "undo") ? "The undo of state" : "State";
	pg_uuid_t	child;

	if (ES_LOOK_IS(step->kind, "start"))
		es_why_tell(why, "It waits for its beginning, at %s.", es_why_time(step->due));
	else if (ES_LOOK_IS(step->kind, "wait"))
		es_why_tell(why, "State \"%s\" (%s) waits until %s.", step->state, what, es_why_time(step->due));
	else if (ES_LOOK_IS(step->kind, "signal") && state != NULL)
	{
		es_why_tell(why, "State \"%s\" (%s) waits for the signal \"%s\"%s. It is sent by:", step->state, what, state->call.name,
					step->due == 0 ? ", without an end" : "");
		es_why_sql(why, "SELECT evtstore.signal_saga(%s, %s, '{}')", quote_literal_cstr(why->look->id), quote_literal_cstr(state->call.name));
	}
	else if (ES_LOOK_IS(step->kind, "map") && step->due == 0)
		tell_items(why, step);
	else if (es_look_child(why->look, step, &child))
		tell_child(why, step, &child, what);
	else if (step->message_id != 0)
		es_why_message(why, step, psprintf("%s \"%s\" (%s)", who, step->state, what));
	else if (es_look_waits_for_lock(step))
		es_why_lock(why, step, psprintf("%s \"%s\" (%s)", who, step->state, what));
	else if (step->due != 0)
		es_why_tell(why, "%s \"%s\" (%s) is in backoff: it is tried again at %s.", who, step->state, what, es_why_time(step->due));
	else
		es_why_tell(why, "%s \"%s\" (%s) waits: kind %s.", who, step->state, what, step->kind);
}

/* of what waits for somebody; what waits for a time is told already */
static void
tell_end_of_time(EsWhy *why, const EsLookStep *step, const EsAslState *state)
{
	bool		is_undo = ES_LOOK_IS(step->kind, "undo");
	pg_uuid_t	child;

	if (ES_LOOK_IS(step->kind, "child") && es_look_child(why->look, step, &child))
		es_why_tell(why, "    If it has not ended at %s it is taken back, and what it did is undone; then that is " ES_ASL_TIMEOUT ": %s.", es_why_time(step->due),
					es_why_after(why, state, step, ES_ASL_TIMEOUT));
	if (step->message_id == 0 && !ES_LOOK_IS(step->kind, "signal") && !es_look_waits_for_lock(step))
		return;
	if (step->heartbeat > 0 && step->message_id != 0)
		es_why_tell(why, "    Without a sign of life for %g s of whoever has it, looked for at %s, it is " ES_ASL_HEARTBEAT_TIMEOUT ": %s.", step->heartbeat,
					es_why_time(step->due), es_why_after(why, state, step, ES_ASL_HEARTBEAT_TIMEOUT));
	es_why_tell(why, "    Without %s until %s it is " ES_ASL_TIMEOUT ": %s.", step->message_id == 0 ? "it" : "an answer",
				es_why_time(step->deadline != 0 ? step->deadline : step->due),
				is_undo ? es_why_after_undo(why, state, step, ES_ASL_TIMEOUT) : es_why_after(why, state, step, ES_ASL_TIMEOUT));
}

/* and what that one waits for */
static void
tell_child(EsWhy *why, const EsLookStep *step, const pg_uuid_t *child, const char *what)
{
	EsWhy		inner = {.now = why->now, .depth = why->depth + 1, .text = why->text};

	es_why_tell(why, "%s \"%s\" (%s) waits until saga %s has %s:", ES_LOOK_IS(step->kind, "undo") ? "The undo of state" : "State", step->state, what,
				DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(child))), ES_LOOK_IS(step->kind, "undo") ? "undone what it did" : "ended");
	if (inner.depth > MAX_TOLD_DEPTH)
		return;
	inner.look = es_saga_look(child);
	tell_saga(&inner);
}

static void
tell_items(EsWhy *why, const EsLookStep *container)
{
	int			n = 0;
	int			ndone = 0;
	int			nfailed = 0;
	int			npending = 0;
	ListCell   *lc;

	foreach(lc, why->look->steps)
	{
		const EsLookStep *step = lfirst(lc);

		if (step->parent != container->seq || !ES_LOOK_IS(step->kind, "branch"))
			continue;
		n++;
		ndone += ES_LOOK_IS(step->status, "done");
		nfailed += ES_LOOK_IS(step->status, "failed");
		npending += ES_LOOK_IS(step->status, "pending");
	}
	es_why_tell(why, "State \"%s\" (%s) is a Map: %d of %d items are done, %d are under way, %d have not begun%s.", container->state, since(why, container), ndone, n,
				n - ndone - nfailed - npending, npending, nfailed > 0 ? psprintf(", %d have failed", nfailed) : "");
}

static void
tell_deadline(EsWhy *why)
{
	const EsLook *look = why->look;

	if (look->deadline == 0 || look->has_pivot || !ES_LOOK_IS(look->status, "running"))
		return;
	es_why_tell(why, "The saga has time until %s; then it is " ES_ASL_TIMEOUT ": %s.", es_why_time(look->deadline), es_why_after_saga(why));
}
