/*
 * asl_parse.c
 *		Reading of definitions of sagas: from jsonb to a tree, or to all that is wrong with it.
 *
 * Runs in backends that define sagas, and wherever a version is used for the first time; keeps nothing.  A field that belongs to the
 * language but that we do not have is refused by its name, so that nobody takes it for a slip of the pen.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "arg.h"
#include "asl_tree.h"

/* as Amazon Step Functions has it */
#define MAX_NAME_CHARACTERS 80
#define MAX_COUNT 1000000000

#define JSONATA "it belongs to JSONata, which is not supported: write paths"
#define VARIABLES "variables are not supported: keep values in the state's output with \"ResultPath\""
#define DISTRIBUTED "distributed maps are not supported: read the items in a state before, and pass them with \"ItemsPath\""
#define CREDENTIALS "credentials are not supported: those of an endpoint are set with set_endpoint_secret(), functions run as who defines the saga"

static void read_version(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_start(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_states(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_choices(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_branches(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_processor(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_processor_config(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_mode(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);

/* a machine: of the definition, of a branch, of a Map */
#define MACHINE_FIELDS \
	{.name = "StartAt", .read = read_start, .is_required = true}, \
	{.name = "States", .read = read_states, .is_required = true}

static const EsAslField definition_fields[] = {
	MACHINE_FIELDS,
	{.name = "Comment", .read = es_asl_read_string, .offset = offsetof(EsAslDefinition, comment)},
	{.name = "Version", .read = read_version},
	{.name = "QueryLanguage", .read = es_asl_read_nothing},
	{.name = "TimeoutSeconds", .read = es_asl_read_double, .offset = offsetof(EsAslDefinition, timeout), .min = ES_ASL_ABOVE_0, .max = ES_ASL_MAX_SECONDS},
	{.name = "Saga", .read = es_asl_read_saga},
	{NULL}
};

static const EsAslField branch_fields[] = {
	MACHINE_FIELDS,
	{.name = "Comment", .read = es_asl_read_comment},
	{NULL}
};

static const EsAslField processor_fields[] = {
	MACHINE_FIELDS,
	{.name = "Comment", .read = es_asl_read_comment},
	{.name = "ProcessorConfig", .read = read_processor_config},
	{NULL}
};

static const EsAslField config_fields[] = {
	{.name = "Mode", .read = read_mode},
	{.name = "ExecutionType", .read = es_asl_read_refused, .note = DISTRIBUTED},
	{NULL}
};

#define TASK ES_ASL_OF(ES_ASL_TASK)
#define PASS ES_ASL_OF(ES_ASL_PASS)
#define CHOICE ES_ASL_OF(ES_ASL_CHOICE)
#define WAIT ES_ASL_OF(ES_ASL_WAIT)
#define SUCCEED ES_ASL_OF(ES_ASL_SUCCEED)
#define FAIL ES_ASL_OF(ES_ASL_FAIL)
#define PARALLEL ES_ASL_OF(ES_ASL_PARALLEL)
#define MAP ES_ASL_OF(ES_ASL_MAP)
#define WORK (TASK | PARALLEL | MAP)
#define GOES_ON (WORK | PASS | WAIT)
#define AT(field) .offset = offsetof(EsAslState, field)
#define SECONDS .min = ES_ASL_ABOVE_0, .max = ES_ASL_MAX_SECONDS
#define COUNT .min = 0, .max = MAX_COUNT, .is_whole = true

static const EsAslField state_fields[] = {
	{.name = "Type", .read = es_asl_read_nothing, .is_required = true},
	{.name = "Comment", .read = es_asl_read_comment},
	{.name = "QueryLanguage", .read = es_asl_read_nothing},
	{.name = "Next", .types = GOES_ON, .read = es_asl_read_string, AT(next_name), .excludes = "End"},
	{.name = "End", .types = GOES_ON, .read = es_asl_read_bool, AT(is_end)},
	{.name = "InputPath", .types = ~FAIL, .read = es_asl_read_select, AT(input_path)},
	{.name = "OutputPath", .types = ~FAIL, .read = es_asl_read_select, AT(output_path)},
	{.name = "Parameters", .types = WORK | PASS, .read = es_asl_read_payload, AT(parameters)},
	{.name = "ResultSelector", .types = WORK, .read = es_asl_read_payload, AT(result_selector)},
	{.name = "ResultPath", .types = WORK | PASS, .read = es_asl_read_result_path},
	{.name = "Retry", .types = WORK, .read = es_asl_read_retry},
	{.name = "Catch", .types = WORK, .read = es_asl_read_catch},
	{.name = "Resource", .types = TASK, .read = es_asl_read_call, AT(call), .is_required = true},
	{.name = "TimeoutSeconds", .types = TASK, .read = es_asl_read_number, AT(timeout), SECONDS, .excludes = "TimeoutSecondsPath"},
	{.name = "TimeoutSecondsPath", .types = TASK, .read = es_asl_read_number_path, AT(timeout)},
	{.name = "HeartbeatSeconds", .types = TASK, .read = es_asl_read_number, AT(heartbeat), SECONDS, .excludes = "HeartbeatSecondsPath"},
	{.name = "HeartbeatSecondsPath", .types = TASK, .read = es_asl_read_number_path, AT(heartbeat)},
	{.name = "Credentials", .types = TASK, .read = es_asl_read_refused, .note = CREDENTIALS},
	{.name = "Result", .types = PASS, .read = es_asl_read_json, AT(result)},
	{.name = "Choices", .types = CHOICE, .read = read_choices, .is_required = true},
	{.name = "Default", .types = CHOICE, .read = es_asl_read_string, AT(fallback_name)},
	{.name = "Seconds", .types = WAIT, .read = es_asl_read_number, AT(seconds), .min = 0, .max = ES_ASL_MAX_SECONDS},
	{.name = "SecondsPath", .types = WAIT, .read = es_asl_read_number_path, AT(seconds)},
	{.name = "Timestamp", .types = WAIT, .read = es_asl_read_time, AT(timestamp)},
	{.name = "TimestampPath", .types = WAIT, .read = es_asl_read_time_path, AT(timestamp)},
	{.name = "Error", .types = FAIL, .read = es_asl_read_text, AT(error), .excludes = "ErrorPath"},
	{.name = "ErrorPath", .types = FAIL, .read = es_asl_read_text_path, AT(error)},
	{.name = "Cause", .types = FAIL, .read = es_asl_read_text, AT(cause), .excludes = "CausePath"},
	{.name = "CausePath", .types = FAIL, .read = es_asl_read_text_path, AT(cause)},
	{.name = "Branches", .types = PARALLEL, .read = read_branches, .is_required = true},
	{.name = "ItemProcessor", .types = MAP, .read = read_processor, .excludes = "Iterator"},
	{.name = "Iterator", .types = MAP, .read = read_processor},
	{.name = "ItemsPath", .types = MAP, .read = es_asl_read_items, AT(items_path)},
	{.name = "ItemSelector", .types = MAP, .read = es_asl_read_payload, AT(parameters), .excludes = "Parameters"},
	{.name = "MaxConcurrency", .types = MAP, .read = es_asl_read_number, AT(max_concurrency), COUNT, .excludes = "MaxConcurrencyPath"},
	{.name = "MaxConcurrencyPath", .types = MAP, .read = es_asl_read_number_path, AT(max_concurrency)},
	{.name = "ToleratedFailureCount", .types = MAP, .read = es_asl_read_number, AT(tolerated_count), COUNT, .excludes = "ToleratedFailureCountPath"},
	{.name = "ToleratedFailureCountPath", .types = MAP, .read = es_asl_read_number_path, AT(tolerated_count)},
	{.name = "ToleratedFailurePercentage", .types = MAP, .read = es_asl_read_number, AT(tolerated_percentage), .min = 0, .max = 100,
	.excludes = "ToleratedFailurePercentagePath"},
	{.name = "ToleratedFailurePercentagePath", .types = MAP, .read = es_asl_read_number_path, AT(tolerated_percentage)},
	{.name = "ItemReader", .types = MAP, .read = es_asl_read_refused, .note = DISTRIBUTED},
	{.name = "ItemBatcher", .types = MAP, .read = es_asl_read_refused, .note = DISTRIBUTED},
	{.name = "ResultWriter", .types = MAP, .read = es_asl_read_refused, .note = DISTRIBUTED},
	{.name = "Label", .types = MAP, .read = es_asl_read_refused, .note = DISTRIBUTED},
	{.name = "Assign", .read = es_asl_read_refused, .note = VARIABLES},
	{.name = "Arguments", .types = TASK | PARALLEL, .read = es_asl_read_refused, .note = JSONATA},
	{.name = "Output", .types = ~FAIL, .read = es_asl_read_refused, .note = JSONATA},
	{.name = "Items", .types = MAP, .read = es_asl_read_refused, .note = JSONATA},
	{.name = "Saga", .read = es_asl_read_state_saga},
	{NULL}
};

static const char *const type_names[] = {
	[ES_ASL_TASK] = "Task",
	[ES_ASL_PASS] = "Pass",
	[ES_ASL_CHOICE] = "Choice",
	[ES_ASL_WAIT] = "Wait",
	[ES_ASL_SUCCEED] = "Succeed",
	[ES_ASL_FAIL] = "Fail",
	[ES_ASL_PARALLEL] = "Parallel",
	[ES_ASL_MAP] = "Map",
};

static void number(EsAslParser *parser);
static EsAslMachine *read_machine(EsAslParser *parser, EsAslState *owner, const char *where, const JsonbValue *value, const EsAslField *fields, void *to);
static void read_state(EsAslParser *parser, const char *name, const JsonbValue *value, const char *where);
static bool is_jsonata(EsAslParser *parser, const char *where, const JsonbValue *value);
static int find_type(const JsonbValue *value);
static void finish_state(EsAslParser *parser, EsAslState *state, const JsonbValue *value);
static const EsAslField *find_field(const EsAslField *fields, const JsonbValue *key);
static void finish_object(EsAslParser *parser, const JsonbValue *value, const char *where, const EsAslField *fields, int type);

EsAslDefinition *
es_asl_parse(Jsonb *definition, StringInfo faults)
{
	int			before = faults->len;
	EsAslParser parser = {.faults = faults};
	JsonbValue	value = {.type = jbvBinary};

	parser.definition = palloc0(sizeof(EsAslDefinition));
	definition = es_asl_expand_steps(definition, faults);
	if (definition == NULL)
		return NULL;
	value.val.binary.data = &definition->root;
	value.val.binary.len = VARSIZE(definition) - VARHDRSZ;
	if (JB_ROOT_IS_OBJECT(definition) && is_jsonata(&parser, "$", &value))
		return NULL;
	parser.definition->machine = read_machine(&parser, NULL, "$", &value, definition_fields, parser.definition);
	number(&parser);
	if (parser.is_partial)
		return NULL;
	for (int i = 0; i < parser.definition->nstates; i++)
		es_asl_finish_saga(&parser, parser.definition->states[i]);
	/* of what is not linked no path is known */
	es_asl_link(parser.definition, faults);
	if (faults->len > before)
		return NULL;
	parser.definition->uses_context = strstr(JsonbToCString(NULL, &definition->root, VARSIZE(definition)), "$$") != NULL;
	es_asl_check_classes(parser.definition, faults);
	return faults->len > before ? NULL : parser.definition;
}

/* arrays of what was found */
static void
number(EsAslParser *parser)
{
	EsAslDefinition *definition = parser->definition;
	ListCell   *lc;

	definition->nstates = list_length(parser->states);
	definition->states = palloc(Max(definition->nstates, 1) * sizeof(EsAslState *));
	foreach(lc, parser->states)
		definition->states[foreach_current_index(lc)] = lfirst(lc);
	definition->nmachines = list_length(parser->machines);
	definition->machines = palloc(definition->nmachines * sizeof(EsAslMachine *));
	foreach(lc, parser->machines)
		definition->machines[foreach_current_index(lc)] = lfirst(lc);
}

const char *
es_asl_type_name(EsAslType type)
{
	return type_names[type];
}

static EsAslMachine *
read_machine(EsAslParser *parser, EsAslState *owner, const char *where, const JsonbValue *value, const EsAslField *fields, void *to)
{
	EsAslMachine *outer = parser->machine;
	EsAslMachine *machine = palloc0(sizeof(EsAslMachine));

	check_stack_depth();
	machine->owner = owner;
	machine->number = list_length(parser->machines);
	parser->machines = lappend(parser->machines, machine);
	machine->where = pstrdup(where);
	parser->machine = machine;
	if (!es_asl_read_object(parser, value, where, fields, ES_ASL_NO_STATE, to))
		parser->is_partial = true;
	if (machine->start_name == NULL || machine->states == NULL)
		parser->is_partial = true;
	parser->machine = outer;
	return machine;
}

static void
read_version(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (!es_asl_is_string(value, "1.0"))
		es_asl_add_fault(parser->faults, where, "only \"1.0\" is supported");
}

static void
read_start(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	es_asl_read_string(parser, field, where, value, &parser->machine->start_name);
}

static void
read_states(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;

	if (!es_asl_value_is_object(value) || JsonContainerSize(value->val.binary.data) == 0)
	{
		es_asl_add_fault(parser->faults, where, "it is an object with a state, at least");
		return;
	}
	parser->machine->states = palloc(JsonContainerSize(value->val.binary.data) * sizeof(EsAslState *));
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
			read_state(parser, name, &v, es_asl_where(where, name));
}

static void
read_state(EsAslParser *parser, const char *name, const JsonbValue *value, const char *where)
{
	EsAslState *state = palloc0(sizeof(EsAslState));
	JsonbValue	v;
	int			type;

	if (*name == '\0' || pg_mbstrlen(name) > MAX_NAME_CHARACTERS)
		es_asl_add_fault(parser->faults, where, "a state's name has 1 to %d characters", MAX_NAME_CHARACTERS);
	if (!es_asl_value_is_object(value))
	{
		es_asl_add_fault(parser->faults, where, "a state is an object");
		parser->is_partial = true;
		return;
	}
	if (is_jsonata(parser, where, value))
		return;
	type = find_type(es_asl_get(value, "Type", &v));
	if (type < 0)
	{
		es_asl_add_fault(parser->faults, es_asl_where(where, "Type"),
						 "a state is a \"Task\", \"Pass\", \"Choice\", \"Wait\", \"Succeed\", \"Fail\", \"Parallel\" or \"Map\"");
		parser->is_partial = true;
		return;
	}
	state->name = pstrdup(name);
	state->where = pstrdup(where);
	state->type = type;
	state->number = list_length(parser->states);
	state->machine = parser->machine;
	state->undo_unknown = true;
	parser->states = lappend(parser->states, state);
	parser->machine->states[parser->machine->nstates++] = state;
	es_asl_read_object(parser, value, where, state_fields, type, state);
	finish_state(parser, state, value);
}

/* says so; the rest would be read in the wrong language */
static bool
is_jsonata(EsAslParser *parser, const char *where, const JsonbValue *value)
{
	JsonbValue	v;

	if (es_asl_get(value, "QueryLanguage", &v) == NULL || es_asl_is_string(&v, "JSONPath"))
		return false;
	es_asl_add_fault(parser->faults, es_asl_where(where, "QueryLanguage"),
					 es_asl_is_string(&v, "JSONata") ? "JSONata is not supported: write paths, and leave this out" : "it is \"JSONPath\", if anything");
	parser->is_partial = true;
	return true;
}

static int
find_type(const JsonbValue *value)
{
	for (int i = 0; value != NULL && i < lengthof(type_names); i++)
		if (es_asl_is_string(value, type_names[i]))
			return i;
	return -1;
}

/* what its fields have to be together */
static void
finish_state(EsAslParser *parser, EsAslState *state, const JsonbValue *value)
{
	static const char *const durations[] = {"Seconds", "SecondsPath", "Timestamp", "TimestampPath"};
	JsonbValue	v;
	int			n = 0;

	if ((GOES_ON & ES_ASL_OF(state->type)) && es_asl_get(value, "Next", &v) == NULL && !state->is_end)
		es_asl_add_fault(parser->faults, state->where, "it needs \"Next\" or \"End\": true");
	for (int i = 0; i < lengthof(durations); i++)
		n += es_asl_get(value, durations[i], &v) != NULL;
	if (state->type == ES_ASL_WAIT && n != 1)
		es_asl_add_fault(parser->faults, state->where, "it needs one of \"Seconds\", \"SecondsPath\", \"Timestamp\" and \"TimestampPath\"");
	if (state->type == ES_ASL_MAP && es_asl_get(value, "ItemProcessor", &v) == NULL && es_asl_get(value, "Iterator", &v) == NULL)
	{
		es_asl_add_fault(parser->faults, state->where, "\"ItemProcessor\" is missing");
		parser->is_partial = true;
	}
	if (state->timeout.is_set && state->timeout.expression == NULL && state->heartbeat.is_set && state->heartbeat.expression == NULL &&
		state->heartbeat.value >= state->timeout.value)
		es_asl_add_fault(parser->faults, es_asl_where(state->where, "HeartbeatSeconds"), "it is less than \"TimeoutSeconds\"");
	if (state->type == ES_ASL_CHOICE && state->choices == NULL)
		parser->is_partial = true;
}

static void
read_choices(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslState *state = to;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	state->choices = es_asl_choices_compile(value, where, parser->faults);
	if (state->choices == NULL || !es_asl_value_is_array(value))
		return;
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			state->conditions = lappend(state->conditions, es_asl_condition_text(&v));
}

static void
read_branches(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslState *state = to;
	JsonbValue *elements;
	int			n;

	elements = es_asl_elements(parser, where, value, &n);
	if (elements == NULL)
	{
		parser->is_partial = true;
		return;
	}
	state->branches = palloc(n * sizeof(EsAslMachine *));
	for (int i = 0; i < n; i++)
	{
		state->branches[i] = read_machine(parser, state, psprintf("%s[%d]", where, i), &elements[i], branch_fields, NULL);
		state->branches[i]->place = i;
	}
	state->nbranches = n;
}

static void
read_processor(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslState *state = to;

	state->branches = palloc(sizeof(EsAslMachine *));
	state->branches[0] = read_machine(parser, state, where, value, processor_fields, NULL);
	state->nbranches = 1;
}

static void
read_processor_config(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	es_asl_read_object(parser, value, where, config_fields, ES_ASL_NO_STATE, NULL);
}

static void
read_mode(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (es_asl_is_string(value, "DISTRIBUTED"))
		es_asl_add_fault(parser->faults, where, DISTRIBUTED);
	else if (!es_asl_is_string(value, "INLINE"))
		es_asl_add_fault(parser->faults, where, "it is \"INLINE\", if anything");
}

bool
es_asl_read_object(EsAslParser *parser, const JsonbValue *value, const char *where, const EsAslField *fields, int type, void *to)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *path = NULL;
	const EsAslField *field = NULL;

	if (!es_asl_value_is_object(value))
	{
		es_asl_add_fault(parser->faults, where, "it is an object");
		return false;
	}
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			path = es_asl_where(where, es_asl_value_string(&v));
			field = find_field(fields, &v);
		}
		else if (token != WJB_VALUE)
			continue;
		else if (field == NULL)
			es_asl_add_fault(parser->faults, path, "unknown field");
		else if (type >= 0 && field->types != 0 && !(field->types & ES_ASL_OF(type)))
			es_asl_add_fault(parser->faults, path, "a %s has no such field", type_names[type]);
		else
			field->read(parser, field, path, &v, (char *) to + field->offset);
	}
	finish_object(parser, value, where, fields, type);
	return true;
}

static const EsAslField *
find_field(const EsAslField *fields, const JsonbValue *key)
{
	for (; fields->name != NULL; fields++)
		if (es_asl_is_string(key, fields->name))
			return fields;
	return NULL;
}

/* what is missing, and what must not stand beside something else */
static void
finish_object(EsAslParser *parser, const JsonbValue *value, const char *where, const EsAslField *fields, int type)
{
	JsonbValue	v;

	for (; fields->name != NULL; fields++)
	{
		bool		has = es_asl_get(value, fields->name, &v) != NULL;

		if (!has && fields->is_required && (type < 0 || fields->types == 0 || (fields->types & ES_ASL_OF(type))))
		{
			es_asl_add_fault(parser->faults, where, "\"%s\" is missing", fields->name);
			if (fields->read == read_branches)
				parser->is_partial = true;
		}
		if (has && fields->excludes != NULL && es_asl_get(value, fields->excludes, &v) != NULL)
			es_asl_add_fault(parser->faults, where, "\"%s\" and \"%s\" exclude each other", fields->name, fields->excludes);
	}
}
