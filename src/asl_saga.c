/*
 * asl_saga.c
 *		Reading of the key "Saga" of definitions: what is ours, and what of it fits together.
 *
 * Runs where asl_parse.c does; keeps nothing.
 */
#include "postgres.h"

#include "asl_tree.h"


static void read_on_fail(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_on_compensate_fail(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_events(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_correlation(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_class(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_undo(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_on_unknown(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);

static const EsAslField definition_fields[] = {
	{.name = "OnFail", .read = read_on_fail, .offset = offsetof(EsAslDefinition, on_fail)},
	{.name = "OnCompensateFail", .read = read_on_compensate_fail, .offset = offsetof(EsAslDefinition, goes_on)},
	{.name = "Events", .read = read_events, .offset = offsetof(EsAslDefinition, is_silent)},
	{.name = "Correlation", .read = read_correlation, .offset = offsetof(EsAslDefinition, correlation)},
	{NULL}
};

#define TASK ES_ASL_OF(ES_ASL_TASK)
#define AT(field) .offset = offsetof(EsAslState, field)

static const EsAslField state_fields[] = {
	{.name = "Class", .types = TASK, .read = read_class, AT(class)},
	{.name = "Undo", .types = TASK, .read = read_undo},
	{.name = "UndoInput", .types = TASK, .read = es_asl_read_payload, AT(undo_input)},
	{.name = "UndoRetry", .types = TASK, .read = es_asl_read_undo_retry},
	{.name = "UndoTimeoutSeconds", .types = TASK, .read = es_asl_read_number, AT(undo_timeout), .min = ES_ASL_ABOVE_0, .max = ES_ASL_MAX_SECONDS},
	{.name = "UndoUnknown", .types = TASK, .read = es_asl_read_bool, AT(undo_unknown)},
	{.name = "OnUnknown", .types = TASK, .read = read_on_unknown, AT(undo_on_unknown)},
	{.name = "Lock", .types = TASK, .read = es_asl_read_expression, AT(lock)},
	{.name = "ReplyEvents", .types = TASK, .read = es_asl_read_strings, AT(reply_events)},
	{.name = "FailEvents", .types = TASK, .read = es_asl_read_strings, AT(fail_events)},
	{.name = "Correlate", .types = TASK, .read = es_asl_read_expression, AT(correlate)},
	{.name = "Scope", .types = ES_ASL_OF(ES_ASL_PARALLEL) | ES_ASL_OF(ES_ASL_MAP), .read = es_asl_read_bool, AT(is_scope)},
	{NULL}
};

static void finish_task(EsAslParser *parser, EsAslState *state, const JsonbValue *saga);
static char *key_of(const EsAslState *state, const char *key);
static bool list_member_string(const List *list, const char *string);

void
es_asl_read_saga(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	es_asl_read_object(parser, value, where, definition_fields, ES_ASL_NO_STATE, to);
}

void
es_asl_read_state_saga(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslState *state = to;

	if (es_asl_read_object(parser, value, where, state_fields, state->type, state) && state->type == ES_ASL_TASK)
		finish_task(parser, state, value);
	parser->definition->has_scopes |= state->is_scope;
}

static void
read_on_fail(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (es_asl_is_string(value, "stop"))
		*(EsAslOnFail *) to = ES_ASL_STOP;
	else if (!es_asl_is_string(value, "compensate"))
		es_asl_add_fault(parser->faults, where, "it is \"compensate\" or \"stop\"");
}

static void
read_on_compensate_fail(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	*(bool *) to = es_asl_is_string(value, "continue");
	if (!*(bool *) to && !es_asl_is_string(value, "stuck"))
		es_asl_add_fault(parser->faults, where, "it is \"stuck\" or \"continue\"");
}

static void
read_events(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	bool		events = true;

	es_asl_read_bool(parser, field, where, value, &events);
	*(bool *) to = !events;
}

static void
read_correlation(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (value->type != jbvString)
		es_asl_add_fault(parser->faults, where, "it is a path into an event: \"$.data.order\"");
	else
		*(EsAslPath **) to = es_asl_path_compile(es_asl_value_string(value), true, where, parser->faults);
}

static void
read_class(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslClass *class = to;

	if (es_asl_is_string(value, "compensatable"))
		*class = ES_ASL_COMPENSATABLE;
	else if (es_asl_is_string(value, "pivot"))
		*class = ES_ASL_PIVOT;
	else if (es_asl_is_string(value, "retriable"))
		*class = ES_ASL_RETRIABLE;
	else
		es_asl_add_fault(parser->faults, where, "it is \"compensatable\", \"pivot\" or \"retriable\"");
}

static void
read_undo(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslState *state = to;

	if (es_asl_is_string(value, "none"))
		return;
	es_asl_read_call(parser, field, where, value, &state->undo);
	state->has_undo = true;
	if (state->undo.name != NULL && state->undo.kind == ES_ASL_SIGNAL)
		es_asl_add_fault(parser->faults, where, "a signal undoes nothing: name who does");
}

static void
read_on_unknown(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	*(bool *) to = es_asl_is_string(value, "undo");
	if (!*(bool *) to && !es_asl_is_string(value, "retry"))
		es_asl_add_fault(parser->faults, where, "it is \"undo\" or \"retry\"");
}

/* the class, and what only a Task with an Undo may say */
static void
finish_task(EsAslParser *parser, EsAslState *state, const JsonbValue *saga)
{
	static const char *const of_undo[] = {"UndoInput", "UndoRetry", "UndoTimeoutSeconds", "UndoUnknown"};
	JsonbValue	v;

	for (int i = 0; i < lengthof(of_undo); i++)
		if (es_asl_get(saga, of_undo[i], &v) != NULL && !state->has_undo)
			es_asl_add_fault(parser->faults, key_of(state, of_undo[i]), "it says something of an \"Undo\", which is not there");
	if (es_asl_get(saga, "Class", &v) == NULL)
	{
		if (es_asl_get(saga, "Undo", &v) != NULL)
			state->class = ES_ASL_COMPENSATABLE;
	}
	else if (state->class == ES_ASL_COMPENSATABLE && es_asl_get(saga, "Undo", &v) == NULL)
		es_asl_add_fault(parser->faults, key_of(state, "Class"), "a compensatable Task has an \"Undo\", if only \"none\"");
	if (state->class == ES_ASL_RETRIABLE && es_asl_get(saga, "Undo", &v) != NULL)
		es_asl_add_fault(parser->faults, key_of(state, "Undo"), "what is retriable is never undone");
	if (es_asl_get(saga, "OnUnknown", &v) != NULL && state->class != ES_ASL_PIVOT)
		es_asl_add_fault(parser->faults, key_of(state, "OnUnknown"), "only a pivot has it; others say \"UndoUnknown\"");
	else if (state->undo_on_unknown && !state->has_undo)
		es_asl_add_fault(parser->faults, key_of(state, "OnUnknown"), "it needs an \"Undo\"");
	else if (state->class == ES_ASL_PIVOT && es_asl_get(saga, "Undo", &v) != NULL && !state->undo_on_unknown)
		es_asl_add_fault(parser->faults, key_of(state, "Undo"), "a pivot is undone only where it says \"OnUnknown\": \"undo\"");
}

void
es_asl_finish_saga(EsAslParser *parser, EsAslState *state)
{
	static const char *const keys[] = {"ReplyEvents", "FailEvents"};
	List	   *const events[] = {state->reply_events, state->fail_events};
	ListCell   *lc;

	if (state->heartbeat.is_set && state->call.kind != ES_ASL_QUEUE)
		es_asl_add_fault(parser->faults, es_asl_where(state->where, state->heartbeat.expression != NULL ? "HeartbeatSecondsPath" : "HeartbeatSeconds"),
						 "only who has a command of a queue shows signs of life");
	for (int i = 0; i < lengthof(keys); i++)
	{
		if (events[i] == NIL)
			continue;
		if (state->call.kind != ES_ASL_QUEUE && state->call.kind != ES_ASL_ENDPOINT)
			es_asl_add_fault(parser->faults, key_of(state, keys[i]), "only what a queue or an endpoint takes is answered by events");
		if (state->correlate == NULL)
			es_asl_add_fault(parser->faults, key_of(state, keys[i]), "it needs \"Correlate\": which events are meant for this instance");
		if (parser->definition->correlation == NULL)
			es_asl_add_fault(parser->faults, key_of(state, keys[i]), "it needs \"Correlation\" in the \"Saga\" of the definition: where in an event the value is");
	}
	foreach(lc, state->fail_events)
	{
		const char *type = lfirst(lc);

		if (list_member_string(state->reply_events, type))
			es_asl_add_fault(parser->faults, key_of(state, "FailEvents"), "\"%s\" is one of \"ReplyEvents\", too", type);
	}
	if (state->reply_events == NIL && state->fail_events == NIL && state->correlate != NULL)
		es_asl_add_fault(parser->faults, key_of(state, "Correlate"), "it is of use with \"ReplyEvents\" only");
}

static bool
list_member_string(const List *list, const char *string)
{
	ListCell   *lc;

	foreach(lc, list)
		if (strcmp(lfirst(lc), string) == 0)
			return true;
	return false;
}

static char *
key_of(const EsAslState *state, const char *key)
{
	return es_asl_where(es_asl_where(state->where, "Saga"), key);
}
