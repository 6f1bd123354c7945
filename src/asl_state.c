/*
 * asl_state.c
 *		What a state does with its input, its result and its errors.
 *
 * Runs in any backend; keeps nothing.  A path of a state's own fields (InputPath, OutputPath, SecondsPath and their kin) that names nothing is
 * States.Runtime, which only a Retry or Catch that names it sees: it is a fault of the definition rather than of the task.
 */
#include "postgres.h"

#include <math.h>

#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "asl_value.h"
#include "options.h"

/* a retry is not later than that: a year; s */
#define MAX_DELAY 31622400.0

#define ES_ASL_DATA_LIMIT "States.DataLimitExceeded"

static Jsonb *select_from(const EsAslSelect *select, const EsAslScope *scope, const char *field, EsAslFault *fault);
static bool own_value(const EsAslExpression *expression, const EsAslScope *scope, const char *field, JsonbValue *value, EsAslFault *fault);
static bool matches_one(const char *pattern, const char *error);
static bool is_timeout(const char *error);
static Jsonb *empty_object(void);
static void push_string(JsonbParseState **state, JsonbIteratorToken token, const char *string);

Jsonb *
es_asl_state_input(const EsAslState *state, const EsAslScope *scope, EsAslFault *fault)
{
	EsAslScope	selected = {.input = select_from(&state->input_path, scope, "InputPath", fault), .context = scope->context};

	/* a Map's are its ItemSelector, for each of its items */
	if (selected.input == NULL || state->parameters == NULL || state->type == ES_ASL_MAP)
		return selected.input;
	return es_asl_payload_make(state->parameters, &selected, fault);
}

Jsonb *
es_asl_state_items(const EsAslState *state, const EsAslScope *scope, EsAslFault *fault)
{
	Jsonb	   *items = select_from(&state->items_path, scope, "ItemsPath", fault);

	if (items == NULL || (JB_ROOT_IS_ARRAY(items) && !JB_ROOT_IS_SCALAR(items)))
		return items;
	(void) es_asl_fail(fault, ES_ASL_RUNTIME, "ItemsPath: %s is no array", es_options_shown(items));
	return NULL;
}

Jsonb *
es_asl_item_input(const EsAslState *state, const EsAslScope *scope, int index, Jsonb *item, EsAslFault *fault)
{
	JsonbParseState *parse = NULL;
	EsAslScope	of_item = *scope;
	Jsonb	   *map;
	JsonbValue	v;

	if (state->parameters == NULL)
		return item;
	(void) pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	push_string(&parse, WJB_KEY, "Map");
	(void) pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	push_string(&parse, WJB_KEY, "Item");
	(void) pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	push_string(&parse, WJB_KEY, "Index");
	es_asl_value_set_integer(&v, index);
	(void) pushJsonbValue(&parse, WJB_VALUE, &v);
	push_string(&parse, WJB_KEY, "Value");
	es_asl_value_set_jsonb(&v, item);
	(void) pushJsonbValue(&parse, WJB_VALUE, &v);
	(void) pushJsonbValue(&parse, WJB_END_OBJECT, NULL);
	(void) pushJsonbValue(&parse, WJB_END_OBJECT, NULL);
	map = JsonbValueToJsonb(pushJsonbValue(&parse, WJB_END_OBJECT, NULL));
	of_item.context = scope->context == NULL ? map : es_options_merge(scope->context, map);
	return es_asl_payload_make(state->parameters, &of_item, fault);
}

Jsonb *
es_asl_state_output(const EsAslState *state, const EsAslScope *scope, Jsonb *result, EsAslFault *fault)
{
	EsAslScope	of_result = {.input = result, .context = scope->context};

	if (state->result_selector != NULL)
		of_result.input = es_asl_payload_make(state->result_selector, &of_result, fault);
	if (of_result.input != NULL && state->discards_result)
		of_result.input = scope->input;
	else if (of_result.input != NULL && state->result_path != NULL)
		of_result.input = es_asl_path_set(state->result_path, scope->input, of_result.input, fault);
	if (of_result.input == NULL)
		return NULL;
	return select_from(&state->output_path, &of_result, "OutputPath", fault);
}

Jsonb *
es_asl_catch_output(const EsAslCatcher *catcher, Jsonb *input, const char *error, const char *cause, EsAslFault *fault)
{
	JsonbParseState *state = NULL;
	Jsonb	   *output;

	if (catcher->discards)
		return input;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_string(&state, WJB_KEY, "Error");
	push_string(&state, WJB_VALUE, error);
	push_string(&state, WJB_KEY, "Cause");
	push_string(&state, WJB_VALUE, cause == NULL ? "" : cause);
	output = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return catcher->result_path == NULL ? output : es_asl_path_set(catcher->result_path, input, output, fault);
}

static Jsonb *
select_from(const EsAslSelect *select, const EsAslScope *scope, const char *field, EsAslFault *fault)
{
	JsonbValue	value;

	if (select->is_null)
		return empty_object();
	if (select->expression == NULL)
		return scope->input;
	return own_value(select->expression, scope, field, &value, fault) ? es_asl_value_jsonb(&value) : NULL;
}

/* of a field of the state itself; its name, or NULL: for the cause */
static bool
own_value(const EsAslExpression *expression, const EsAslScope *scope, const char *field, JsonbValue *value, EsAslFault *fault)
{
	EsAslFault	own = {NULL};

	if (es_asl_expression_value(expression, scope, value, &own))
		return true;
	return es_asl_fail(fault, strcmp(own.error, ES_ASL_PARAMETER_PATH) == 0 ? ES_ASL_RUNTIME : own.error, "%s%s%s",
					   field == NULL ? "" : field, field == NULL ? "" : ": ", own.cause);
}

int
es_asl_find_retrier(const EsAslRetrier *retriers, int n, const char *error)
{
	for (int i = 0; i < n; i++)
		if (es_asl_error_matches(retriers[i].errors, error))
			return i;
	return -1;
}

int
es_asl_find_catcher(const EsAslState *state, const char *error)
{
	for (int i = 0; i < state->ncatchers; i++)
		if (es_asl_error_matches(state->catchers[i].errors, error))
			return i;
	return -1;
}

bool
es_asl_error_matches(const List *errors, const char *error)
{
	ListCell   *lc;

	foreach(lc, errors)
		if (matches_one(lfirst(lc), error))
			return true;
	return false;
}

/* States.Timeout is that of a heartbeat, too; the wildcards match no error that only says that the definition is wrong */
static bool
matches_one(const char *pattern, const char *error)
{
	const char *space = strchr(error, ' ');

	if (strcmp(pattern, error) == 0)
		return true;
	if (space != NULL && ((strlen(pattern) == space - error && strncmp(pattern, error, space - error) == 0) || strcmp(pattern, space + 1) == 0))
		return true;
	if (strcmp(pattern, ES_ASL_TIMEOUT) == 0)
		return is_timeout(error);
	if (strcmp(error, ES_ASL_RUNTIME) == 0 || strcmp(error, ES_ASL_DATA_LIMIT) == 0)
		return false;
	return strcmp(pattern, ES_ASL_ALL) == 0 || (strcmp(pattern, ES_ASL_TASK_FAILED) == 0 && !is_timeout(error));
}

static bool
is_timeout(const char *error)
{
	return strcmp(error, ES_ASL_TIMEOUT) == 0 || strcmp(error, ES_ASL_HEARTBEAT_TIMEOUT) == 0;
}

double
es_asl_retry_delay(const EsAslRetrier *retrier, int used)
{
	double		delay;

	if (retrier->max_attempts >= 0 && used >= retrier->max_attempts)
		return -1;
	/* an interval of 0 stays one, however large the rest becomes */
	delay = retrier->interval == 0 ? 0 : Min(retrier->interval * pow(retrier->backoff, used), MAX_DELAY);
	if (retrier->max_delay > 0)
		delay = Min(delay, retrier->max_delay);
	return retrier->full_jitter ? delay * pg_prng_double(&pg_global_prng_state) : delay;
}

bool
es_asl_number(const EsAslNumber *number, const EsAslScope *scope, double *value, EsAslFault *fault)
{
	JsonbValue	v;

	*value = number->value;
	if (number->expression == NULL)
		return true;
	if (!own_value(number->expression, scope, NULL, &v, fault))
		return false;
	if (v.type == jbvNumeric)
		*value = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(v.val.numeric)));
	if (v.type != jbvNumeric || *value < 0 || isinf(*value))
		return es_asl_fail(fault, ES_ASL_RUNTIME, "%s is no number from 0 on", es_asl_value_shown(&v));
	return true;
}

bool
es_asl_text(const EsAslText *text, const EsAslScope *scope, char **value, EsAslFault *fault)
{
	JsonbValue	v;

	*value = text->value;
	if (text->expression == NULL)
		return true;
	if (!own_value(text->expression, scope, NULL, &v, fault))
		return false;
	if (v.type != jbvString)
		return es_asl_fail(fault, ES_ASL_RUNTIME, "%s is no string", es_asl_value_shown(&v));
	*value = es_asl_value_string(&v);
	return true;
}

static Jsonb *
empty_object(void)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
push_string(JsonbParseState **state, JsonbIteratorToken token, const char *string)
{
	JsonbValue	v;

	es_asl_value_set_string(&v, string, strlen(string));
	(void) pushJsonbValue(state, token, &v);
}
