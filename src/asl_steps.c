/*
 * asl_steps.c
 *		The short form of a definition: a list of steps, one after the other, and the States Language that it stands for.
 *
 * Runs where asl_parse.c does; keeps nothing.  What it makes is what a person would have written: explain_definition() and the tree know no
 * difference.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/json.h"

#include "asl_tree.h"


/* behind the pivot: until it is done */
#define ENDLESS_RETRY "[{\"ErrorEquals\":[\"States.ALL\"],\"MaxAttempts\":\"unlimited\",\"MaxDelaySeconds\":300,\"JitterStrategy\":\"FULL\"}]"

typedef struct Step
{
	char	   *name;
	EsAslCall	work;
	Jsonb	   *undo;
	Jsonb	   *input;
	Jsonb	   *undo_input;
	Jsonb	   *retry;
	bool		is_pivot;
	bool		is_retriable;
	double		timeout;
	const char *where;
} Step;

typedef struct Steps
{
	Step	   *steps;
	int			n;
	double		timeout;
	char	   *comment;
} Steps;

static void read_steps(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);

static const EsAslField steps_fields[] = {
	{.name = "steps", .read = read_steps, .is_required = true},
	{.name = "timeout", .read = es_asl_read_double, .offset = offsetof(Steps, timeout), .min = ES_ASL_ABOVE_0, .max = ES_ASL_MAX_SECONDS},
	{.name = "comment", .read = es_asl_read_string, .offset = offsetof(Steps, comment)},
	{NULL}
};

static const EsAslField step_fields[] = {
	{.name = "name", .read = es_asl_read_string, .offset = offsetof(Step, name)},
	{.name = "do", .read = es_asl_read_call, .offset = offsetof(Step, work), .is_required = true},
	{.name = "undo", .read = es_asl_read_json, .offset = offsetof(Step, undo)},
	{.name = "input", .read = es_asl_read_json, .offset = offsetof(Step, input)},
	{.name = "undo_input", .read = es_asl_read_json, .offset = offsetof(Step, undo_input)},
	{.name = "retry", .read = es_asl_read_json, .offset = offsetof(Step, retry)},
	{.name = "pivot", .read = es_asl_read_bool, .offset = offsetof(Step, is_pivot)},
	{.name = "timeout", .read = es_asl_read_double, .offset = offsetof(Step, timeout), .min = ES_ASL_ABOVE_0, .max = ES_ASL_MAX_SECONDS},
	{NULL}
};

static void name_steps(EsAslParser *parser, Steps *steps);
static Jsonb *write_definition(const Steps *steps);
static void write_step(StringInfo json, const Step *step, const Step *next);
static void write_key(StringInfo json, const char *key, Jsonb *value);

Jsonb *
es_asl_expand_steps(Jsonb *definition, StringInfo faults)
{
	EsAslParser parser = {.faults = faults};
	Steps		steps = {0};
	JsonbValue	value = {.type = jbvBinary};
	JsonbValue	v;
	int			before = faults->len;

	value.val.binary.data = &definition->root;
	value.val.binary.len = VARSIZE(definition) - VARHDRSZ;
	if (es_asl_value_is_array(&value))
		read_steps(&parser, NULL, "$", &value, &steps);
	else if (es_asl_value_is_object(&value) && es_asl_get(&value, "steps", &v) != NULL)
		es_asl_read_object(&parser, &value, "$", steps_fields, ES_ASL_NO_STATE, &steps);
	else
		return definition;
	name_steps(&parser, &steps);
	return faults->len > before ? NULL : write_definition(&steps);
}

static void
read_steps(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	Steps	   *steps = to;
	JsonbValue *elements = es_asl_elements(parser, where, value, &steps->n);

	steps->steps = palloc0(Max(steps->n, 1) * sizeof(Step));
	for (int i = 0; i < steps->n; i++)
	{
		steps->steps[i].where = psprintf("%s[%d]", where, i);
		es_asl_read_object(parser, &elements[i], steps->steps[i].where, step_fields, ES_ASL_NO_STATE, &steps->steps[i]);
	}
}

/* what has no name has that of its resource; behind the pivot all is retriable */
static void
name_steps(EsAslParser *parser, Steps *steps)
{
	const Step *pivot = NULL;

	for (int i = 0; i < steps->n; i++)
	{
		Step	   *step = &steps->steps[i];

		if (step->name == NULL && step->work.name != NULL)
		{
			/* of schema.function the function */
			char	   *point = step->work.kind == ES_ASL_SQL ? strrchr(step->work.name, '.') : NULL;

			step->name = point != NULL ? point + 1 : step->work.name;
		}
		for (int j = 0; step->name != NULL && j < i; j++)
			if (steps->steps[j].name != NULL && strcmp(steps->steps[j].name, step->name) == 0)
				es_asl_add_fault(parser->faults, step->where, "step %d has the name \"%s\", too: say \"name\"", j + 1, step->name);
		if (step->is_pivot && pivot != NULL)
			es_asl_add_fault(parser->faults, es_asl_where(step->where, "pivot"), "%s is the pivot already", pivot->where);
		else if (pivot != NULL && step->undo != NULL)
			es_asl_add_fault(parser->faults, es_asl_where(step->where, "undo"), "nothing is undone after the pivot %s", pivot->where);
		step->is_retriable = pivot != NULL;
		if (step->is_pivot)
			pivot = step;
	}
}

static Jsonb *
write_definition(const Steps *steps)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"StartAt\":");
	escape_json(&json, steps->steps[0].name);
	if (steps->timeout > 0)
		appendStringInfo(&json, ",\"TimeoutSeconds\":%.15g", steps->timeout);
	if (steps->comment != NULL)
	{
		appendStringInfoString(&json, ",\"Comment\":");
		escape_json(&json, steps->comment);
	}
	appendStringInfoString(&json, ",\"States\":{");
	for (int i = 0; i < steps->n; i++)
	{
		if (i > 0)
			appendStringInfoChar(&json, ',');
		write_step(&json, &steps->steps[i], i + 1 < steps->n ? &steps->steps[i + 1] : NULL);
	}
	appendStringInfoString(&json, "}}");
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* its output is put at $.NAME */
static void
write_step(StringInfo json, const Step *step, const Step *next)
{
	const char *class = step->is_pivot ? "pivot" : step->is_retriable ? "retriable" : NULL;

	escape_json(json, step->name);
	appendStringInfoString(json, ":{\"Type\":\"Task\",\"Resource\":");
	escape_json(json, es_asl_call_text(&step->work));
	appendStringInfoString(json, ",\"ResultPath\":");
	escape_json(json, es_asl_where("$", step->name));
	write_key(json, "Parameters", step->input);
	if (step->timeout > 0)
		appendStringInfo(json, ",\"TimeoutSeconds\":%.15g", step->timeout);
	write_key(json, "Retry", step->retry);
	if (step->retry == NULL && step->is_retriable)
		appendStringInfoString(json, ",\"Retry\":" ENDLESS_RETRY);
	if (class != NULL || step->undo != NULL || step->undo_input != NULL)
	{
		appendStringInfo(json, ",\"Saga\":{\"Class\":\"%s\"", class != NULL ? class : "compensatable");
		write_key(json, "Undo", step->undo);
		write_key(json, "UndoInput", step->undo_input);
		appendStringInfoChar(json, '}');
	}
	if (next == NULL)
		appendStringInfoString(json, ",\"End\":true}");
	else
	{
		appendStringInfoString(json, ",\"Next\":");
		escape_json(json, next->name);
		appendStringInfoChar(json, '}');
	}
}

/* NULL: it is not there */
static void
write_key(StringInfo json, const char *key, Jsonb *value)
{
	if (value != NULL)
		appendStringInfo(json, ",\"%s\":%s", key, JsonbToCString(NULL, &value->root, VARSIZE(value)));
}
