/*
 * asl_test.c
 *		evtstore.test_state: what a state would do with an input, without an instance.
 *
 * Runs in any backend; keeps nothing, writes nothing.  The state is put into a definition of its own, in which the states that it leads to are
 * there, too; so all that is checked of a definition is checked of it.  Work is not done: its result, or its error, is given.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "arg.h"
#include "asl_value.h"
#include "error.h"
#include "options.h"

PG_FUNCTION_INFO_V1(evtstore_test_state);

#define MAX_RETRIES 1000000000
#define OPTIONS "options of test_state"

/* what is known of it, and what came out */
typedef struct Trial
{
	const EsAslState *state;
	EsAslScope	scope;			/* input: as it came */
	Jsonb	   *result;			/* NULL: none was given */
	int			retries;
	const char *status;
	Jsonb	   *input;			/* of the work; NULL: it failed before */
	Jsonb	   *items;			/* of a Map: the inputs of its items */
	Jsonb	   *output;
	const char *next;
	EsAslFault	fault;
	double		retry_after;
	double		seconds;		/* of a Wait */
	char	   *timestamp;		/* NULL: seconds */
} Trial;

static const EsAslState *read_state(Jsonb *given);
static Jsonb *wrap(Jsonb *given, const char *name, List *targets);
static List *targets_of(Jsonb *state);
static List *targets_in(List *targets, Jsonb *state, const char *key);
static List *add_target(List *targets, JsonbContainer *object, const char *key);
static bool has_target(const List *targets, const char *name);
static char *relative(const char *faults, const char *name);
static void read_options(Trial *trial, Jsonb *options);
static bool is_work(const EsAslState *state);
static void run(Trial *trial);
static bool work(Trial *trial);
static bool look_at_numbers(Trial *trial, const EsAslScope *scope);
static bool look_at_items(Trial *trial, const EsAslScope *scope);
static bool choose(Trial *trial, const EsAslScope *scope);
static bool look_at_wait(Trial *trial, const EsAslScope *scope);
static void settle_fault(Trial *trial);
static Jsonb *show(const Trial *trial);
static void show_key(JsonbParseState **parse, const char *key);
static void show_string(JsonbParseState **parse, const char *key, const char *string);
static void show_jsonb(JsonbParseState **parse, const char *key, Jsonb *jsonb);
static void show_number(JsonbParseState **parse, const char *key, double number);

/* evtstore.test_state(state, input, options) */
Datum
evtstore_test_state(PG_FUNCTION_ARGS)
{
	Trial		trial = {0};

	for (int i = 0; i < 3; i++)
		es_arg_required(fcinfo, i, i == 0 ? "state" : i == 1 ? "input" : "options");
	trial.state = read_state(PG_GETARG_JSONB_P(0));
	trial.scope.input = PG_GETARG_JSONB_P(1);
	read_options(&trial, PG_GETARG_JSONB_P(2));
	run(&trial);
	PG_RETURN_JSONB_P(show(&trial));
}

static const EsAslState *
read_state(Jsonb *given)
{
	EsAslDefinition *definition;
	StringInfoData faults;
	char	   *name = "State";
	List	   *targets;

	if (!JB_ROOT_IS_OBJECT(given))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("state must be a JSON object, not %s", es_options_shown(given)),
				 errhint("Write {\"Type\": \"Pass\", \"End\": true}.")));
	targets = targets_of(given);
	while (has_target(targets, name))
		name = psprintf("%s_", name);
	initStringInfo(&faults);
	definition = es_asl_parse(wrap(given, name, targets), &faults);
	if (definition == NULL || faults.len > 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("the state is invalid"),
				 errdetail("%s", relative(faults.data, name)),
				 errhint("It is one state, as it stands in \"States\" of a definition.")));
	return es_asl_find_state(definition, name);
}

static Jsonb *
wrap(Jsonb *given, const char *name, List *targets)
{
	JsonbParseState *parse = NULL;
	ListCell   *lc;

	(void) pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	show_string(&parse, "StartAt", name);
	show_key(&parse, "States");
	(void) pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	show_jsonb(&parse, name, given);
	foreach(lc, targets)
	{
		show_key(&parse, lfirst(lc));
		(void) pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
		show_string(&parse, "Type", "Succeed");
		(void) pushJsonbValue(&parse, WJB_END_OBJECT, NULL);
	}
	(void) pushJsonbValue(&parse, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(pushJsonbValue(&parse, WJB_END_OBJECT, NULL));
}

/* the names of states that it leads to, char *, each once */
static List *
targets_of(Jsonb *state)
{
	List	   *targets = add_target(NIL, &state->root, "Next");

	targets = add_target(targets, &state->root, "Default");
	targets = targets_in(targets, state, "Choices");
	return targets_in(targets, state, "Catch");
}

static List *
targets_in(List *targets, Jsonb *state, const char *key)
{
	JsonbIterator *it;
	JsonbValue	v;

	if (getKeyJsonValueFromContainer(&state->root, key, strlen(key), &v) == NULL || !es_asl_value_is_array(&v))
		return targets;
	it = JsonbIteratorInit(v.val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
		if (es_asl_value_is_object(&v))
			targets = add_target(targets, v.val.binary.data, "Next");
	return targets;
}

static List *
add_target(List *targets, JsonbContainer *object, const char *key)
{
	JsonbValue	v;

	if (getKeyJsonValueFromContainer(object, key, strlen(key), &v) == NULL || v.type != jbvString ||
		has_target(targets, es_asl_value_string(&v)))
		return targets;
	return lappend(targets, es_asl_value_string(&v));
}

static bool
has_target(const List *targets, const char *name)
{
	ListCell   *lc;

	foreach(lc, targets)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* faults and causes as if the state were all: $.Retry[0], not $.States.State.Retry[0] */
static char *
relative(const char *faults, const char *name)
{
	char	   *prefix = psprintf("$.States.%s", name);
	int			len = strlen(prefix);
	StringInfoData buf;

	initStringInfo(&buf);
	while (*faults != '\0')
	{
		const char *end = faults + strcspn(faults, "\n");

		if (strncmp(faults, prefix, len) == 0)
		{
			appendStringInfoChar(&buf, '$');
			faults += len;
		}
		appendBinaryStringInfo(&buf, faults, end - faults);
		if (*end == '\n')
			appendStringInfoChar(&buf, *end++);
		faults = end;
	}
	return buf.data;
}

static void
read_options(Trial *trial, Jsonb *options)
{
	static const EsOption allowed[] = {
		{"result", ES_OPTION_ANY},
		{"error", ES_OPTION_STRING},
		{"cause", ES_OPTION_STRING},
		{"context", ES_OPTION_OBJECT},
		{"retries", ES_OPTION_INT, 0, MAX_RETRIES},
		{NULL}
	};
	JsonbValue	v;

	es_options_check(options, allowed, OPTIONS);
	trial->scope.context = es_options_object(options, "context");
	trial->retries = es_options_int(options, "retries", 0);
	if (getKeyJsonValueFromContainer(&options->root, "result", 6, &v) != NULL)
		trial->result = es_asl_value_jsonb(&v);
	trial->fault.error = es_options_string(options, "error", NULL);
	trial->fault.cause = es_options_string(options, "cause", NULL);
	if (is_work(trial->state) == (trial->result == NULL && trial->fault.error == NULL) || (trial->result != NULL && trial->fault.error != NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(is_work(trial->state) ? "%s must have either \"result\" or \"error\" for a %s" :
						"%s must have neither \"result\" nor \"error\" for a %s", OPTIONS, es_asl_type_name(trial->state->type)),
				 errhint("Only a Task, a Parallel and a Map do work; give {\"result\": ...} or {\"error\": \"...\", \"cause\": \"...\"} in its place.")));
	if (trial->fault.cause != NULL && trial->fault.error == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not have \"cause\" without \"error\"", OPTIONS),
				 errhint("A cause belongs to an error.")));
}

static bool
is_work(const EsAslState *state)
{
	return state->type == ES_ASL_TASK || state->type == ES_ASL_PARALLEL || state->type == ES_ASL_MAP;
}

static void
run(Trial *trial)
{
	EsAslFault	given = trial->fault;

	trial->fault = (EsAslFault) {NULL};
	trial->status = "SUCCEEDED";
	trial->next = trial->state->next == NULL ? NULL : trial->state->next->name;
	trial->input = es_asl_state_input(trial->state, &trial->scope, &trial->fault);
	if (trial->input != NULL && work(trial))
	{
		if (given.error != NULL)
			trial->fault = given;
		else
			trial->output = es_asl_state_output(trial->state, &trial->scope, trial->result, &trial->fault);
	}
	if (trial->output == NULL)
		settle_fault(trial);
}

/* sets the result, where none was given; false: it failed */
static bool
work(Trial *trial)
{
	const EsAslState *state = trial->state;
	EsAslScope	scope = {.input = trial->input, .context = trial->scope.context};
	char	   *error;
	char	   *cause;

	if (trial->result == NULL)
		trial->result = state->type == ES_ASL_PASS && state->result != NULL ? state->result : trial->input;
	switch (state->type)
	{
		case ES_ASL_TASK:
		case ES_ASL_PARALLEL:
			return look_at_numbers(trial, &scope);
		case ES_ASL_MAP:
			return look_at_numbers(trial, &scope) && look_at_items(trial, &scope);
		case ES_ASL_CHOICE:
			return choose(trial, &scope);
		case ES_ASL_WAIT:
			return look_at_wait(trial, &scope);
		case ES_ASL_FAIL:
			if (!es_asl_text(&state->error, &scope, &error, &trial->fault) || !es_asl_text(&state->cause, &scope, &cause, &trial->fault))
				return false;
			trial->fault.error = error == NULL ? "" : error;
			trial->fault.cause = cause;
			return false;
		case ES_ASL_PASS:
		case ES_ASL_SUCCEED:
			break;
	}
	return true;
}

/* what their paths name has to be one */
static bool
look_at_numbers(Trial *trial, const EsAslScope *scope)
{
	const EsAslState *state = trial->state;
	const EsAslNumber *numbers[] = {&state->timeout, &state->heartbeat, &state->max_concurrency, &state->tolerated_count,
	&state->tolerated_percentage};
	double		value;

	for (int i = 0; i < lengthof(numbers); i++)
		if (!es_asl_number(numbers[i], scope, &value, &trial->fault))
			return false;
	return true;
}

static bool
look_at_items(Trial *trial, const EsAslScope *scope)
{
	Jsonb	   *items = es_asl_state_items(trial->state, scope, &trial->fault);
	JsonbParseState *parse = NULL;

	if (items == NULL)
		return false;
	(void) pushJsonbValue(&parse, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < JB_ROOT_COUNT(items); i++)
	{
		Jsonb	   *item = es_asl_value_jsonb(getIthJsonbValueFromContainer(&items->root, i));
		Jsonb	   *input = es_asl_item_input(trial->state, scope, i, item, &trial->fault);
		JsonbValue	v;

		if (input == NULL)
			return false;
		es_asl_value_set_jsonb(&v, input);
		(void) pushJsonbValue(&parse, WJB_ELEM, &v);
	}
	trial->items = JsonbValueToJsonb(pushJsonbValue(&parse, WJB_END_ARRAY, NULL));
	return true;
}

static bool
choose(Trial *trial, const EsAslScope *scope)
{
	trial->next = es_asl_choices_next(trial->state->choices, scope, &trial->fault);
	if (trial->fault.error != NULL)
		return false;
	if (trial->next == NULL && trial->state->fallback != NULL)
		trial->next = trial->state->fallback->name;
	return trial->next != NULL || es_asl_fail(&trial->fault, ES_ASL_NO_CHOICE, "no rule holds, and there is no Default");
}

static bool
look_at_wait(Trial *trial, const EsAslScope *scope)
{
	int64		seconds;
	int			nanoseconds;

	if (!es_asl_number(&trial->state->seconds, scope, &trial->seconds, &trial->fault) ||
		!es_asl_text(&trial->state->timestamp, scope, &trial->timestamp, &trial->fault))
		return false;
	return trial->timestamp == NULL || es_asl_instant(trial->timestamp, strlen(trial->timestamp), &seconds, &nanoseconds) ||
		es_asl_fail(&trial->fault, ES_ASL_RUNTIME, "\"%s\" is no timestamp", es_arg_shown(trial->timestamp, strlen(trial->timestamp)));
}

/* Retry, Catch, or the end */
static void
settle_fault(Trial *trial)
{
	const EsAslState *state = trial->state;
	EsAslFault	fault = {trial->fault.error, trial->fault.cause == NULL ? NULL : relative(trial->fault.cause, state->name)};
	int			retrier = es_asl_find_retrier(state->retriers, state->nretriers, fault.error);
	int			catcher = es_asl_find_catcher(state, fault.error);

	trial->status = "FAILED";
	trial->fault = fault;
	trial->next = NULL;
	if (retrier >= 0)
	{
		trial->retry_after = es_asl_retry_delay(&state->retriers[retrier], trial->retries);
		if (trial->retry_after >= 0)
		{
			trial->status = "RETRY";
			return;
		}
	}
	if (catcher < 0)
		return;
	trial->fault = (EsAslFault) {NULL};
	trial->output = es_asl_catch_output(&state->catchers[catcher], trial->scope.input, fault.error, fault.cause, &trial->fault);
	if (trial->output == NULL)
		return;
	trial->fault = fault;
	trial->status = "CAUGHT";
	trial->next = state->catchers[catcher].next->name;
}

static Jsonb *
show(const Trial *trial)
{
	JsonbParseState *parse = NULL;

	(void) pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	show_string(&parse, "status", trial->status);
	show_jsonb(&parse, "input", trial->input);
	show_jsonb(&parse, "output", trial->output);
	show_string(&parse, "next", trial->next);
	show_string(&parse, "error", trial->fault.error);
	show_string(&parse, "cause", trial->fault.cause);
	if (strcmp(trial->status, "RETRY") == 0)
		show_number(&parse, "retry_after", trial->retry_after);
	else
		show_jsonb(&parse, "retry_after", NULL);
	if (trial->state->type == ES_ASL_MAP)
		show_jsonb(&parse, "items", trial->items);
	if (trial->state->type == ES_ASL_WAIT && trial->output != NULL && trial->timestamp == NULL)
		show_number(&parse, "seconds", trial->seconds);
	if (trial->state->type == ES_ASL_WAIT && trial->output != NULL && trial->timestamp != NULL)
		show_string(&parse, "timestamp", trial->timestamp);
	return JsonbValueToJsonb(pushJsonbValue(&parse, WJB_END_OBJECT, NULL));
}

static void
show_key(JsonbParseState **parse, const char *key)
{
	JsonbValue	v;

	es_asl_value_set_string(&v, key, strlen(key));
	(void) pushJsonbValue(parse, WJB_KEY, &v);
}

static void
show_string(JsonbParseState **parse, const char *key, const char *string)
{
	JsonbValue	v = {.type = jbvNull};

	show_key(parse, key);
	if (string != NULL)
		es_asl_value_set_string(&v, string, strlen(string));
	(void) pushJsonbValue(parse, WJB_VALUE, &v);
}

static void
show_jsonb(JsonbParseState **parse, const char *key, Jsonb *jsonb)
{
	JsonbValue	v = {.type = jbvNull};

	show_key(parse, key);
	if (jsonb != NULL)
		es_asl_value_set_jsonb(&v, jsonb);
	(void) pushJsonbValue(parse, WJB_VALUE, &v);
}

static void
show_number(JsonbParseState **parse, const char *key, double number)
{
	JsonbValue	v = {.type = jbvNumeric};

	show_key(parse, key);
	v.val.numeric = DatumGetNumeric(DirectFunctionCall1(float8_numeric, Float8GetDatum(number)));
	(void) pushJsonbValue(parse, WJB_VALUE, &v);
}
