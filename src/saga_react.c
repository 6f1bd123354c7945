/*
 * saga_react.c
 *		Transitions of instances of reactors: a function gets the state and an event, and says what follows.
 *
 * Runs within a transition (saga_move.c), under the lock of its instance: in a delivery worker, or in the backend of who operates.  The function is called
 * in a savepoint as the definition's owner; what it asks for is done in the same savepoint: messages and events.  So an event is handled with all that comes of it, or not
 * at all.  Where it fails the event is a step that waits for its next attempt, and those that come later are steps behind it: their order is that
 * of their positions, whatever fails.  Timers are steps that wait for a time, and come to the function as events.
 *
 * Locks: those that the function, sending and appending take, to the end of the transaction.  A crash leaves the instance where it was.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "append.h"
#include "arg.h"
#include "cause.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "options.h"
#include "queue.h"
#include "saga_react.h"

/* of an instance at once */
#define MAX_TIMERS 1000

/* a timer that the function asked for */
typedef struct Timer
{
	char	   *name;
	TimestampTz due;
	Jsonb	   *data;
} Timer;

/* one call */
typedef struct Reaction
{
	EsMove	   *move;
	EsStep	   *step;
	MemoryContext context;
	Jsonb	   *result;			/* what the function returned; NULL: nothing */
	List	   *timers;			/* Timer * */
	List	   *cancelled;		/* char *: names of timers */
} Reaction;

static List *waiting_steps(EsMove *move);
static EsStep *new_step(EsMove *move, EsStepKind kind, const char *name, Jsonb *input);
static void go_on(EsMove *move);
static bool run(EsMove *move, EsStep *step);
static void react(void *arg);
static void react_caused(void *arg);
static EsCauseFacts tell_cause(const void *arg);
static void send_commands(Reaction *reaction, Jsonb *commands);
static Jsonb *command_headers(const EsMove *move, Jsonb *given);
static void append_events(Reaction *reaction, Jsonb *events);
static void read_timers(Reaction *reaction, Jsonb *timers);
static void failed(EsMove *move, EsStep *step, const EsEnding *failure);
static void handled(EsMove *move, EsStep *step, const Reaction *reaction);
static void end_timers(EsMove *move, List *names);
static void finish(EsMove *move, Jsonb *output);
static Jsonb *without(Jsonb *object, const char *key);
static Jsonb *timer_event(const EsStep *timer);
static Jsonb *empty_object(void);

static const EsOption result_keys[] = {
	{"state", ES_OPTION_ANY},
	{"commands", ES_OPTION_ARRAY},
	{"events", ES_OPTION_ARRAY},
	{"timers", ES_OPTION_ARRAY},
	{"cancel_timers", ES_OPTION_STRINGS},
	{"done", ES_OPTION_BOOL},
	{"output", ES_OPTION_ANY},
	{NULL}
};

void
es_react_take(EsMove *move, const char *type, Jsonb *doc)
{
	bool		waits = move->saga.status != ES_SAGA_RUNNING;
	EsStep	   *step;
	ListCell   *lc;

	foreach(lc, waiting_steps(move))
		waits |= ((EsStep *) lfirst(lc))->kind == ES_STEP_EVENT;
	step = new_step(move, ES_STEP_EVENT, type, doc);
	if (waits)
		step->status = ES_STEP_PENDING;
	else
		(void) run(move, step);
}

/* timers become events, in order of their times, behind the events that wait */
void
es_react_be_late(EsMove *move)
{
	ListCell   *lc;
	EsStep	   *timer;

	foreach(lc, waiting_steps(move))
	{
		EsStep	   *step = lfirst(lc);

		if (step->kind == ES_STEP_EVENT && step->due != 0 && step->due <= move->now)
			step->due = 0;
	}
	do
	{
		timer = NULL;
		foreach(lc, move->steps)
		{
			EsStep	   *step = lfirst(lc);

			if (step->kind == ES_STEP_WAIT && step->status == ES_STEP_WAITING && step->due <= move->now && (timer == NULL || step->due < timer->due))
				timer = step;
		}
		if (timer != NULL)
		{
			Jsonb	   *event = timer_event(timer);

			es_step_end(move, timer, ES_STEP_DONE, NULL);
			new_step(move, ES_STEP_EVENT, ES_TIMER_TYPE, event)->status = ES_STEP_PENDING;
		}
	} while (timer != NULL);
	go_on(move);
}

void
es_react_unstick(EsMove *move)
{
	ListCell   *lc;

	move->saga.status = ES_SAGA_RUNNING;
	move->saga.reason = move->saga.error = move->saga.cause = NULL;
	foreach(lc, waiting_steps(move))
	{
		EsStep	   *step = lfirst(lc);

		if (step->kind == ES_STEP_EVENT && step->status == ES_STEP_WAITING)
		{
			step->failed = 0;
			step->due = 0;
		}
	}
	go_on(move);
}

EsStep *
es_react_find(EsMove *move, const char *type)
{
	ListCell   *lc;

	foreach(lc, waiting_steps(move))
	{
		EsStep	   *step = lfirst(lc);

		if (step->kind == ES_STEP_EVENT)
			return step->status == ES_STEP_WAITING && strcmp(step->state, type) == 0 ? step : NULL;
	}
	return NULL;
}

/* in the order in which they came, until one fails */
static void
go_on(EsMove *move)
{
	ListCell   *lc;

	foreach(lc, waiting_steps(move))
	{
		EsStep	   *step = lfirst(lc);

		if (step->kind != ES_STEP_EVENT || (step->status != ES_STEP_WAITING && step->status != ES_STEP_PENDING))
			continue;
		if (move->saga.status != ES_SAGA_RUNNING || step->due != 0 || !run(move, step))
			return;
	}
}

/* those of the table and of this transition, in order of seq; all of them are looked at, so that the timer is armed for the earliest */
static List *
waiting_steps(EsMove *move)
{
	List	   *waiting = NIL;
	ListCell   *lc;

	es_steps_write(move);
	if (move->is_new && move->saga.last_seq == 0)
		return NIL;
	foreach(lc, es_saga_waiting_steps(&move->saga))
		waiting = lappend(waiting, es_move_adopt(move, lfirst(lc)));
	return waiting;
}

static EsStep *
new_step(EsMove *move, EsStepKind kind, const char *name, Jsonb *input)
{
	EsAslState	state = {.name = pstrdup(name)};

	return es_step_new(move, kind, (EsNext) {&state, input}, NULL);
}

/* false: it failed */
static bool
run(EsMove *move, EsStep *step)
{
	Reaction	reaction = {.move = move, .step = step, .context = CurrentMemoryContext};
	EsEnding	failure = {.retry_after = -1};

	CHECK_FOR_INTERRUPTS();
	if (!es_call_attempt(react, &reaction, &failure))
	{
		failed(move, step, &failure);
		return false;
	}
	handled(move, step, &reaction);
	return true;
}

/* what is appended meanwhile is caused by the event, so that a loop ends */
static void
react(void *arg)
{
	es_cause_run(&(EsCause) {tell_cause, arg}, react_caused, arg);
}

static void
react_caused(void *arg)
{
	Reaction   *reaction = arg;
	EsMove	   *move = reaction->move;
	Datum		arguments[2] = {JsonbPGetDatum(move->saga.output != NULL ? move->saga.output : empty_object()), JsonbPGetDatum(reaction->step->input)};

	reaction->result = es_call_as_owner(move, move->version->reactor->fn, arguments, 2, reaction->context);
	MemoryContextSwitchTo(reaction->context);
	if (reaction->result == NULL)
		return;
	es_options_check(reaction->result, result_keys, "what the function returned");
	reaction->cancelled = es_options_strings(reaction->result, "cancel_timers");
	if (es_options_has(reaction->result, "timers"))
		read_timers(reaction, es_options_array(reaction->result, "timers"));
	if (es_options_has(reaction->result, "events"))
		append_events(reaction, es_options_array(reaction->result, "events"));
	if (es_options_has(reaction->result, "commands"))
		send_commands(reaction, es_options_array(reaction->result, "commands"));
	MemoryContextSwitchTo(reaction->context);
}

/* of a timer the instance's start is the cause */
static EsCauseFacts
tell_cause(const void *arg)
{
	const Reaction *reaction = arg;
	Jsonb	   *event = reaction->step->input;
	Jsonb	   *metadata = es_options_any(event, "metadata");
	EsCauseFacts facts = es_cause_facts_of(metadata != NULL ? metadata : reaction->move->saga.metadata);

	if (metadata != NULL)
		facts.id = es_options_string(event, "id", NULL);
	return facts;
}

/* [{"queue", "body"?, "key"?, "headers"?, "delay"?}] */
static void
send_commands(Reaction *reaction, Jsonb *commands)
{
	static const EsOption keys[] = {
		{"queue", ES_OPTION_STRING},
		{"body", ES_OPTION_ANY},
		{"key", ES_OPTION_STRING},
		{"headers", ES_OPTION_OBJECT},
		{"delay", ES_OPTION_INTERVAL},
		{NULL}
	};
	int			n;
	Jsonb	  **elements = es_options_elements(commands, "commands", "It is an array of {\"queue\", \"body\"}.", &n);

	for (int i = 0; i < n; i++)
	{
		EsMessage	message = {.tenant = reaction->move->saga.tenant};
		char	   *queue;
		char	   *key;
		Jsonb	   *body;

		es_options_check(elements[i], keys, psprintf("commands[%d]", i));
		queue = es_options_string(elements[i], "queue", "");
		es_arg_check_name(queue, "queue", ES_MAX_NAME_BYTES);
		es_queue_refuse_reserved(queue);
		key = es_options_string(elements[i], "key", NULL);
		if (key != NULL)
		{
			es_arg_check_name(key, "key", ES_MAX_KEY_BYTES);
			message.key = CStringGetTextDatum(key);
		}
		body = es_options_any(elements[i], "body");
		message.body = JsonbPGetDatum(body != NULL ? body : empty_object());
		message.headers = JsonbPGetDatum(command_headers(reaction->move, es_options_object(elements[i], "headers")));
		message.delay_ms = es_options_interval_ms(elements[i], "delay", 0);
		es_queue_send(es_queue_get(queue), &message, 1);
	}
}

/* correlation and trace of the instance, and which one it is; what is given wins */
static Jsonb *
command_headers(const EsMove *move, Jsonb *given)
{
	StringInfoData buf;
	Datum		headers;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"saga_id\": \"%s\", \"saga\": ", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&move->saga.id))));
	escape_json(&buf, move->version->name);
	appendStringInfoChar(&buf, '}');
	headers = DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(move->saga.metadata), DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
	return DatumGetJsonbP(given == NULL ? headers : DirectFunctionCall2(jsonb_concat, headers, JsonbPGetDatum(given)));
}

/* [{"stream", "type", "data"?, "metadata"?, "tags"?, "expected_version"?}] */
static void
append_events(Reaction *reaction, Jsonb *events)
{
	int			n;
	Jsonb	  **elements = es_options_elements(events, "events", "It is an array of {\"stream\", \"type\", \"data\"}.", &n);

	for (int i = 0; i < n; i++)
	{
		EsAppendResult result;
		char	   *type = JB_ROOT_IS_OBJECT(elements[i]) && es_options_has(elements[i], "type") ? es_options_string(elements[i], "type", NULL) : NULL;

		if (type == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("events[%d] has no \"type\": %s", i, es_options_shown(elements[i])),
					 errhint("It is {\"stream\", \"type\", \"data\"}.")));
		es_call_append_one(reaction->move, type, without(elements[i], "type"), &result);
	}
}

/* [{"name", "after" or "at", "data"?}] */
static void
read_timers(Reaction *reaction, Jsonb *timers)
{
	static const EsOption keys[] = {
		{"name", ES_OPTION_STRING},
		{"after", ES_OPTION_INTERVAL},
		{"at", ES_OPTION_STRING},
		{"data", ES_OPTION_ANY},
		{NULL}
	};
	int			n;
	Jsonb	  **elements = es_options_elements(timers, "timers", "It is an array of {\"name\", \"after\"}.", &n);

	for (int i = 0; i < n; i++)
	{
		Timer	   *timer = palloc(sizeof(Timer));
		bool		has_after;

		es_options_check(elements[i], keys, psprintf("timers[%d]", i));
		timer->name = es_options_string(elements[i], "name", "");
		es_arg_check_name(timer->name, "name", ES_MAX_NAME_BYTES);
		has_after = es_options_has(elements[i], "after");
		if (has_after == es_options_has(elements[i], "at"))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("timers[%d] needs either \"after\" or \"at\": %s", i, es_options_shown(elements[i])),
					 errhint("\"after\" is an interval such as \"30 min\", \"at\" a time.")));
		timer->due = has_after ? es_queue_deadline(reaction->move->now, es_options_interval_ms(elements[i], "after", 0), "after") :
			es_options_moment(elements[i], "at", 0);
		timer->data = es_options_any(elements[i], "data");
		reaction->timers = lappend(reaction->timers, timer);
	}
	if (n > MAX_TIMERS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%d timers at once", n),
				 errhint("A call may set %d.", MAX_TIMERS)));
}

/* what it did is undone; it waits for its next attempt, or for a person */
static void
failed(EsMove *move, EsStep *step, const EsEnding *failure)
{
	const EsRetry *retry = &move->version->reactor->retry;
	int64		age = (GetCurrentTimestamp() - step->started_at) / 1000;
	const char *error = psprintf("%s: %s", failure->error, failure->cause);

	step->status = ES_STEP_WAITING;
	step->failed++;
	step->error = pstrdup(failure->error);
	step->cause = failure->cause == NULL ? NULL : pstrdup(failure->cause);
	es_step_change(move, step);
	if (es_retry_over(retry, step->failed, age, error) == NULL)
	{
		step->due = move->now + es_retry_delay(retry, step->failed) * 1000;
		return;
	}
	step->due = 0;
	move->saga.error = step->error;
	move->saga.cause = step->cause;
	es_move_get_stuck(move, (EsNext) {NULL}, "reactor_failed");
}

static void
handled(EsMove *move, EsStep *step, const Reaction *reaction)
{
	Jsonb	   *result = reaction->result;
	List	   *replaced = list_copy(reaction->cancelled);
	ListCell   *lc;

	es_step_end(move, step, ES_STEP_DONE, &(EsEnding) {.is_success = true, .output = result == NULL ? NULL : without(result, "state")});
	if (result == NULL)
		return;
	if (es_options_has(result, "state"))
		move->saga.output = es_options_any(result, "state");
	foreach(lc, reaction->timers)
		replaced = lappend(replaced, ((Timer *) lfirst(lc))->name);
	end_timers(move, replaced);
	foreach(lc, reaction->timers)
	{
		Timer	   *timer = lfirst(lc);

		/* of two with a name the last one counts */
		end_timers(move, list_make1(timer->name));
		new_step(move, ES_STEP_WAIT, timer->name, timer->data != NULL ? timer->data : empty_object())->due = timer->due;
	}
	if (es_options_bool(result, "done", false))
		finish(move, es_options_any(result, "output"));
}

static void
end_timers(EsMove *move, List *names)
{
	ListCell   *lc;
	ListCell   *name;

	foreach(name, names)
		foreach(lc, move->steps)
		{
			EsStep	   *step = lfirst(lc);

			if (step->kind == ES_STEP_WAIT && step->status == ES_STEP_WAITING && strcmp(step->state, lfirst(name)) == 0)
				es_step_end(move, step, ES_STEP_WITHDRAWN, NULL);
		}
}

/* events that wait behind the last one are for whoever has the key next */
static void
finish(EsMove *move, Jsonb *output)
{
	ListCell   *lc;

	foreach(lc, move->steps)
	{
		EsStep	   *step = lfirst(lc);

		if (step->status != ES_STEP_WAITING && step->status != ES_STEP_PENDING)
			continue;
		es_step_end(move, step, ES_STEP_WITHDRAWN, NULL);
		if (step->kind == ES_STEP_EVENT && strcmp(step->state, ES_TIMER_TYPE) != 0)
			move->unhandled = lappend(move->unhandled, step);
	}
	es_move_finish(move, ES_SAGA_SUCCEEDED, output != NULL ? output : move->saga.output);
}

static Jsonb *
without(Jsonb *object, const char *key)
{
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(object), CStringGetTextDatum(key)));
}

static Jsonb *
timer_event(const EsStep *timer)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"type\": \"%s\", \"data\": {\"name\": ", ES_TIMER_TYPE);
	escape_json(&buf, timer->state);
	appendStringInfo(&buf, ", \"due\": %s, \"data\": ", es_move_json_time(timer->due));
	(void) JsonbToCString(&buf, &timer->input->root, VARSIZE(timer->input));
	appendStringInfoString(&buf, "}}");
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

static Jsonb *
empty_object(void)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
}
