/*
 * saga_explain.c
 *		An instance of a saga as a drawing: its definition, and what became of each state.
 *
 * Runs in backends, in the caller's transaction; reads (saga_look.c) and writes nothing.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "arg.h"
#include "compat.h"
#include "saga_look.h"

PG_FUNCTION_INFO_V1(evtstore_explain_saga);

/* what there is to tell of a state */
typedef struct Seen
{
	const EsLookStep *newest;	/* attempt; NULL: it has no row */
	const EsLookStep *undo;		/* the newest; NULL: none */
	int			nentries;		/* that its rows are of */
	int			ndone;			/* of these */
	bool		is_passed;
	bool		is_stopped_at;
} Seen;

static Seen *see_states(const EsLook *look);
static void see_step(const EsLook *look, const EsLookStep *step, Seen *seen);
static void see_counts(const EsLook *look, Seen *seen);
static void see_end(const EsLook *look, Seen *seen);
static const char *live_status(const EsLook *look, const Seen *seen);
static char *live_note(const EsLook *look, const EsAslState *state, const Seen *seen);
static char *count_items(const EsLook *look, const EsLookStep *container);
static bool is_in_map(const EsAslState *state);
static bool is_done(const EsLookStep *step);
static void add_note(StringInfo notes, const char *format,...) pg_attribute_printf(2, 3);

/* explain_saga(id uuid) -> text; evtstore_reader */
Datum
evtstore_explain_saga(PG_FUNCTION_ARGS)
{
	EsLook	   *look;
	const EsAslDefinition *definition;
	Seen	   *seen;
	EsAslLive  *live;

	es_arg_required(fcinfo, 0, "id");
	look = es_saga_look(PG_GETARG_UUID_P(0));
	if (look->version->reactor != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("saga %s is an instance of reactor \"%s\", which has no states to draw", look->id, look->version->name),
				 errhint("evtstore.why_saga() says what it waits for.")));
	definition = look->version->definition;
	seen = see_states(look);
	live = palloc0(Max(definition->nstates, 1) * sizeof(EsAslLive));
	for (int i = 0; i < definition->nstates; i++)
	{
		live[i].status = live_status(look, &seen[i]);
		live[i].note = live_note(look, definition->states[i], &seen[i]);
	}
	PG_RETURN_TEXT_P(cstring_to_text(es_asl_draw(definition, live)));
}

/* by the number of the state */
static Seen *
see_states(const EsLook *look)
{
	Seen	   *seen = palloc0(Max(look->version->definition->nstates, 1) * sizeof(Seen));
	ListCell   *lc;

	foreach(lc, look->steps)
		see_step(look, lfirst(lc), seen);
	see_counts(look, seen);
	see_end(look, seen);
	return seen;
}

/* in order of seq: the last one stands */
static void
see_step(const EsLook *look, const EsLookStep *step, Seen *seen)
{
	const EsAslState *state = es_look_state(look, step);
	ListCell   *lc;

	foreach(lc, step->via)
	{
		const EsAslState *passed = es_asl_find_state(look->version->definition, lfirst(lc));

		if (passed != NULL)
			seen[passed->number].is_passed = true;
	}
	/* a branch has the name of what it is a branch of */
	if (state == NULL || ES_LOOK_IS(step->kind, "start") || ES_LOOK_IS(step->kind, "branch"))
		return;
	if (ES_LOOK_IS(step->kind, "undo"))
		seen[state->number].undo = step;
	else if (ES_LOOK_IS(step->kind, "stop"))
		seen[state->number].is_stopped_at = ES_LOOK_IS(look->status, "stuck") && !ES_LOOK_IS(step->status, "done");
	else
	{
		seen[state->number].newest = step;
		seen[state->number].is_stopped_at = false;
	}
}

/* entries into a state, each of which counts once, however many attempts it has */
static void
see_counts(const EsLook *look, Seen *seen)
{
	int			nsteps = list_length(look->steps);
	/* by the number of the first attempt: the last one */
	const EsLookStep **last = palloc0((nsteps + 2) * sizeof(EsLookStep *));
	ListCell   *lc;

	foreach(lc, look->steps)
	{
		const EsLookStep *step = lfirst(lc);

		if (step->undoes == 0 && step->first_seq >= 1 && step->first_seq <= nsteps)
			last[step->first_seq] = step;
	}
	for (int i = 1; i <= nsteps; i++)
	{
		const EsAslState *state = last[i] == NULL ? NULL : es_look_state(look, last[i]);

		if (state == NULL || ES_LOOK_IS(last[i]->kind, "start") || ES_LOOK_IS(last[i]->kind, "branch") || ES_LOOK_IS(last[i]->kind, "stop"))
			continue;
		seen[state->number].nentries++;
		if (is_done(last[i]))
			seen[state->number].ndone++;
	}
}

/* what was passed behind the last row is in none: as far as there is one way only, of one that succeeded it is known */
static void
see_end(const EsLook *look, Seen *seen)
{
	const EsAslState *state = look->version->definition->machine->start;
	const EsLookStep *last = NULL;
	ListCell   *lc;

	if (!ES_LOOK_IS(look->status, "succeeded"))
		return;
	foreach(lc, look->steps)
	{
		const EsLookStep *step = lfirst(lc);

		if (step->parent == 0 && step->undoes == 0 && is_done(step) && (last == NULL || step->ended > last->ended) && !ES_LOOK_IS(step->kind, "start"))
			last = step;
	}
	if (last != NULL)
	{
		state = es_look_state(look, last);
		state = state == NULL ? NULL : state->next;
	}
	for (int i = 0; state != NULL && i < look->version->definition->nstates; i++)
	{
		if (state->type != ES_ASL_PASS && state->type != ES_ASL_CHOICE && state->type != ES_ASL_SUCCEED)
			return;
		seen[state->number].is_passed = true;
		state = state->next;
	}
}

static const char *
live_status(const EsLook *look, const Seen *seen)
{
	if (seen->is_stopped_at && (seen->newest == NULL || !ES_LOOK_IS(seen->newest->status, "unknown")))
		return "failed";
	if (seen->newest != NULL)
		return seen->newest->status;
	return seen->is_passed ? "done" : NULL;
}

static char *
live_note(const EsLook *look, const EsAslState *state, const Seen *seen)
{
	StringInfoData notes;

	initStringInfo(&notes);
	if (seen->newest != NULL && state->type == ES_ASL_MAP)
		add_note(&notes, "%s", count_items(look, seen->newest));
	if (seen->newest != NULL && state->type != ES_ASL_MAP && seen->nentries > 1)
	{
		if (is_in_map(state))
			add_note(&notes, "%d of %d done", seen->ndone, seen->nentries);
		else
			add_note(&notes, "entered %d times", seen->nentries);
	}
	if (seen->newest != NULL && seen->newest->attempt > 1)
		add_note(&notes, "attempt %d", seen->newest->attempt);
	if (seen->newest != NULL && seen->newest->error != NULL)
		add_note(&notes, "%s", seen->newest->error);
	if (seen->undo != NULL && !ES_LOOK_IS(seen->undo->status, "done"))
		add_note(&notes, "undo %s%s", seen->undo->status, seen->undo->attempt > 1 ? psprintf(", attempt %d", seen->undo->attempt) : "");
	if (seen->is_stopped_at)
		add_note(&notes, "stuck: %s", look->reason == NULL ? "?" : look->reason);
	return notes.len == 0 ? NULL : notes.data;
}

/* of this attempt at it */
static char *
count_items(const EsLook *look, const EsLookStep *container)
{
	int			n = 0;
	int			ndone = 0;
	int			nfailed = 0;
	ListCell   *lc;

	foreach(lc, look->steps)
	{
		const EsLookStep *step = lfirst(lc);

		if (step->parent != container->seq || !ES_LOOK_IS(step->kind, "branch"))
			continue;
		n++;
		ndone += is_done(step);
		nfailed += ES_LOOK_IS(step->status, "failed");
	}
	return nfailed > 0 ? psprintf("%d of %d done, %d failed", ndone, n, nfailed) : psprintf("%d of %d done", ndone, n);
}

static bool
is_in_map(const EsAslState *state)
{
	for (state = state->machine->owner; state != NULL; state = state->machine->owner)
		if (state->type == ES_ASL_MAP)
			return true;
	return false;
}

/* what is undone was done */
static bool
is_done(const EsLookStep *step)
{
	return ES_LOOK_IS(step->status, "done") || ES_LOOK_IS(step->status, "undone") || ES_LOOK_IS(step->status, "skipped");
}

/* in one line: the drawing takes care of what is not fit for it */
static void
add_note(StringInfo notes, const char *format,...)
{
	if (notes->len > 0)
		appendStringInfoString(notes, ", ");
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(notes, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(notes, needed);
	}
}
