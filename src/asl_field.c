/*
 * asl_field.c
 *		Reading of the fields of definitions of sagas: one reader for each kind of value.
 *
 * Runs where asl_parse.c does; keeps nothing.  A reader adds what is wrong to the faults and leaves its field as it is.
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "arg.h"
#include "asl_tree.h"
#include "compat.h"
#include "evtstore.h"

#define MAX_ATTEMPTS 99999998

static const char *const resource_prefixes[] = {
	[ES_ASL_QUEUE] = "queue:",
	[ES_ASL_SQL] = "sql:",
	[ES_ASL_SAGA] = "saga:",
	[ES_ASL_SIGNAL] = "signal:",
	[ES_ASL_EVENT] = "event:",
	[ES_ASL_ENDPOINT] = "endpoint:",
};

/* of the language; those that only what we do not have can raise are there, too, so that a definition from elsewhere may name them */
static const char *const reserved_errors[] = {
	ES_ASL_ALL, ES_ASL_TASK_FAILED, ES_ASL_TIMEOUT, ES_ASL_HEARTBEAT_TIMEOUT, ES_ASL_RUNTIME, ES_ASL_PERMISSIONS, ES_ASL_RESULT_PATH,
	ES_ASL_PARAMETER_PATH, ES_ASL_BRANCH_FAILED, ES_ASL_NO_CHOICE, ES_ASL_INTRINSIC, ES_ASL_TOLERATED, "States.DataLimitExceeded",
	"States.ItemReaderFailed", "States.ResultWriterFailed", "States.QueryEvaluationError"
};

static void read_attempts(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_jitter(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_errors(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);
static void read_catcher_path(EsAslParser *, const EsAslField *, const char *, const JsonbValue *, void *);

static const EsAslField retrier_fields[] = {
	{.name = "ErrorEquals", .read = read_errors, .offset = offsetof(EsAslRetrier, errors), .is_required = true},
	{.name = "IntervalSeconds", .read = es_asl_read_double, .offset = offsetof(EsAslRetrier, interval), .min = ES_ASL_ABOVE_0, .max = ES_ASL_MAX_SECONDS},
	{.name = "MaxAttempts", .read = read_attempts, .offset = offsetof(EsAslRetrier, max_attempts), .min = 0, .max = MAX_ATTEMPTS, .is_whole = true},
	{.name = "BackoffRate", .read = es_asl_read_double, .offset = offsetof(EsAslRetrier, backoff), .min = 1, .max = ES_ASL_MAX_SECONDS},
	{.name = "MaxDelaySeconds", .read = es_asl_read_double, .offset = offsetof(EsAslRetrier, max_delay), .min = ES_ASL_ABOVE_0, .max = ES_ASL_MAX_SECONDS},
	{.name = "JitterStrategy", .read = read_jitter, .offset = offsetof(EsAslRetrier, full_jitter)},
	{.name = "Comment", .read = es_asl_read_comment},
	{NULL}
};

static const EsAslField catcher_fields[] = {
	{.name = "ErrorEquals", .read = read_errors, .offset = offsetof(EsAslCatcher, errors), .is_required = true},
	{.name = "Next", .read = es_asl_read_string, .offset = offsetof(EsAslCatcher, next_name), .is_required = true},
	{.name = "ResultPath", .read = read_catcher_path},
	{.name = "Comment", .read = es_asl_read_comment},
	{.name = "Assign", .read = es_asl_read_refused, .note = "variables are not supported: keep values in the state's output with \"ResultPath\""},
	{.name = "Output", .read = es_asl_read_refused, .note = "it belongs to JSONata, which is not supported: write paths"},
	{NULL}
};

static bool number_of(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, double *number);
static EsAslExpression *compile_path(EsAslParser *parser, const char *where, const JsonbValue *value, bool is_reference);
static void read_path(EsAslParser *parser, const char *where, const JsonbValue *value, EsAslPath **path, bool *discards);
static EsAslRetrier *read_retriers(EsAslParser *parser, const char *where, const JsonbValue *value, int *n);
static void check_all_is_last(EsAslParser *parser, const char *where, const List *errors, int i, int n);
static void fill_call(EsAslParser *parser, const char *where, const char *text, EsAslCall *call);

/* a plain key is one of letters, digits, "_" and "-" */
char *
es_asl_where(const char *where, const char *key)
{
	StringInfoData path;

	if (*key != '\0' && strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == strlen(key))
		return psprintf("%s.%s", where, key);
	initStringInfo(&path);
	appendStringInfo(&path, "%s['", where);
	for (; *key != '\0'; key++)
	{
		if (*key == '\'' || *key == '\\')
			appendStringInfoChar(&path, '\\');
		if ((unsigned char) *key < ' ')
			appendStringInfo(&path, "\\u%04x", *key);
		else
			appendStringInfoChar(&path, *key);
	}
	appendStringInfoString(&path, "']");
	return path.data;
}

bool
es_asl_is_string(const JsonbValue *value, const char *string)
{
	return value->type == jbvString && value->val.string.len == strlen(string) && memcmp(value->val.string.val, string, value->val.string.len) == 0;
}

JsonbValue *
es_asl_get(const JsonbValue *object, const char *key, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(object->val.binary.data, key, strlen(key), value);
}

JsonbValue *
es_asl_elements(EsAslParser *parser, const char *where, const JsonbValue *value, int *n)
{
	JsonbValue *elements;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	*n = 0;
	if (!es_asl_value_is_array(value) || JsonContainerSize(value->val.binary.data) == 0)
	{
		es_asl_add_fault(parser->faults, where, "it is an array with an element, at least");
		return NULL;
	}
	elements = palloc(JsonContainerSize(value->val.binary.data) * sizeof(JsonbValue));
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			elements[(*n)++] = v;
	return elements;
}

void
es_asl_read_comment(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (value->type != jbvString)
		es_asl_add_fault(parser->faults, where, "it is a string");
}

void
es_asl_read_nothing(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
}

void
es_asl_read_refused(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	es_asl_add_fault(parser->faults, where, "%s", field->note);
}

void
es_asl_read_string(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (value->type != jbvString)
		es_asl_add_fault(parser->faults, where, "it is a string");
	else
		*(char **) to = es_asl_value_string(value);
}

void
es_asl_read_strings(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	int			n;
	JsonbValue *elements = es_asl_elements(parser, where, value, &n);

	for (int i = 0; i < n; i++)
		if (elements[i].type != jbvString || elements[i].val.string.len == 0)
			es_asl_add_fault(parser->faults, psprintf("%s[%d]", where, i), "it is a string that is not empty");
		else
			*(List **) to = lappend(*(List **) to, es_asl_value_string(&elements[i]));
}

void
es_asl_read_bool(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (value->type != jbvBool)
		es_asl_add_fault(parser->faults, where, "it is true or false");
	else
		*(bool *) to = value->val.boolean;
}

void
es_asl_read_double(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	(void) number_of(parser, field, where, value, to);
}

void
es_asl_read_number(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslNumber *number = to;

	if (number_of(parser, field, where, value, &number->value))
		number->is_set = true;
}

void
es_asl_read_number_path(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslNumber *number = to;

	number->expression = compile_path(parser, where, value, true);
	number->is_set = true;
}

/* a number in the range of its field */
static bool
number_of(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, double *number)
{
	double		v;

	if (value->type == jbvNumeric)
	{
		v = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value->val.numeric)));
		if (v >= field->min && v <= field->max && (!field->is_whole || v == floor(v)))
		{
			*number = v;
			return true;
		}
	}
	if (field->min == ES_ASL_ABOVE_0)
		es_asl_add_fault(parser->faults, where, "it is a number above 0, up to %.0f", field->max);
	else
		es_asl_add_fault(parser->faults, where, "it is a %snumber from %.0f to %.0f", field->is_whole ? "whole " : "", field->min, field->max);
	return false;
}

void
es_asl_read_text(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	es_asl_read_string(parser, field, where, value, &((EsAslText *) to)->value);
}

/* of Error and Cause, which may be made by a function */
void
es_asl_read_text_path(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	es_asl_read_expression(parser, field, where, value, &((EsAslText *) to)->expression);
}

void
es_asl_read_time(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	int64		seconds;
	int			nanoseconds;

	if (value->type != jbvString || !es_asl_instant(value->val.string.val, value->val.string.len, &seconds, &nanoseconds))
		es_asl_add_fault(parser->faults, where, "it is a time like \"2026-01-31T14:00:00Z\"");
	else
		((EsAslText *) to)->value = es_asl_value_string(value);
}

void
es_asl_read_time_path(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	((EsAslText *) to)->expression = compile_path(parser, where, value, true);
}

void
es_asl_read_expression(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (value->type != jbvString)
		es_asl_add_fault(parser->faults, where, "it is a path or a function");
	else
		*(EsAslExpression **) to = es_asl_expression_compile(es_asl_value_string(value), where, parser->faults);
}

void
es_asl_read_select(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslSelect *select = to;

	select->is_null = value->type == jbvNull;
	if (!select->is_null && !es_asl_is_string(value, "$"))
		select->expression = compile_path(parser, where, value, false);
}

void
es_asl_read_items(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (!es_asl_is_string(value, "$"))
		((EsAslSelect *) to)->expression = compile_path(parser, where, value, true);
}

/* a path, and no function; is_reference: that can name one node only, though it may be of the context */
static EsAslExpression *
compile_path(EsAslParser *parser, const char *where, const JsonbValue *value, bool is_reference)
{
	EsAslExpression *expression;
	char	   *text;
	int			before = parser->faults->len;

	if (value->type != jbvString)
	{
		es_asl_add_fault(parser->faults, where, "it is a path");
		return NULL;
	}
	text = es_asl_value_string(value);
	if (strncmp(text, "States.", strlen("States.")) == 0)
	{
		es_asl_add_fault(parser->faults, where, "it is a path; functions stand in \"Parameters\", \"ItemSelector\" and \"ResultSelector\"");
		return NULL;
	}
	if (is_reference)
		(void) es_asl_path_compile(strncmp(text, "$$", 2) == 0 ? text + 1 : text, true, where, parser->faults);
	if (parser->faults->len > before)
		return NULL;
	expression = es_asl_expression_compile(text, where, parser->faults);
	if (expression != NULL && es_asl_expression_is_function(expression))
		es_asl_add_fault(parser->faults, where, "it is a path");
	return expression;
}

void
es_asl_read_payload(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	*(EsAslPayload **) to = es_asl_payload_compile(value, where, parser->faults);
}

void
es_asl_read_json(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	*(Jsonb **) to = JsonbValueToJsonb(unconstify(JsonbValue *, value));
}

void
es_asl_read_result_path(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslState *state = to;

	read_path(parser, where, value, &state->result_path, &state->discards_result);
}

static void
read_catcher_path(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslCatcher *catcher = to;

	read_path(parser, where, value, &catcher->result_path, &catcher->discards);
}

static void
read_path(EsAslParser *parser, const char *where, const JsonbValue *value, EsAslPath **path, bool *discards)
{
	*discards = value->type == jbvNull;
	if (*discards || es_asl_is_string(value, "$"))
		return;
	if (value->type != jbvString)
		es_asl_add_fault(parser->faults, where, "it is a path, or null");
	else
		*path = es_asl_path_compile(es_asl_value_string(value), true, where, parser->faults);
}

void
es_asl_read_retry(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslState *state = to;

	state->retriers = read_retriers(parser, where, value, &state->nretriers);
}

void
es_asl_read_undo_retry(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslState *state = to;

	state->undo_retriers = read_retriers(parser, where, value, &state->nundo_retriers);
}

static EsAslRetrier *
read_retriers(EsAslParser *parser, const char *where, const JsonbValue *value, int *n)
{
	JsonbValue *elements;
	EsAslRetrier *retriers;

	elements = es_asl_elements(parser, where, value, n);
	retriers = palloc0(Max(*n, 1) * sizeof(EsAslRetrier));
	for (int i = 0; i < *n; i++)
	{
		char	   *path = psprintf("%s[%d]", where, i);

		/* the defaults of the language */
		retriers[i].interval = 1;
		retriers[i].max_attempts = 3;
		retriers[i].backoff = 2;
		es_asl_read_object(parser, &elements[i], path, retrier_fields, ES_ASL_NO_STATE, &retriers[i]);
		check_all_is_last(parser, path, retriers[i].errors, i, *n);
	}
	return retriers;
}

void
es_asl_read_catch(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	EsAslState *state = to;
	JsonbValue *elements;

	elements = es_asl_elements(parser, where, value, &state->ncatchers);
	state->catchers = palloc0(Max(state->ncatchers, 1) * sizeof(EsAslCatcher));
	for (int i = 0; i < state->ncatchers; i++)
	{
		char	   *path = psprintf("%s[%d]", where, i);

		es_asl_read_object(parser, &elements[i], path, catcher_fields, ES_ASL_NO_STATE, &state->catchers[i]);
		check_all_is_last(parser, path, state->catchers[i].errors, i, state->ncatchers);
	}
}

static void
check_all_is_last(EsAslParser *parser, const char *where, const List *errors, int i, int n)
{
	ListCell   *lc;

	foreach(lc, errors)
		if (strcmp(lfirst(lc), ES_ASL_ALL) == 0 && (list_length(errors) > 1 || i < n - 1))
			es_asl_add_fault(parser->faults, es_asl_where(where, "ErrorEquals"), "%s stands alone, and comes last", ES_ASL_ALL);
}

static void
read_errors(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	List	  **errors = to;
	ListCell   *lc;

	es_asl_read_strings(parser, field, where, value, errors);
	foreach(lc, *errors)
	{
		const char *error = lfirst(lc);
		bool		is_known = strncmp(error, "States.", strlen("States.")) != 0;

		for (int i = 0; i < lengthof(reserved_errors); i++)
			is_known |= strcmp(error, reserved_errors[i]) == 0;
		if (!is_known)
			es_asl_add_fault(parser->faults, where, "\"%s\" is none of the errors that begin with \"States.\"", es_arg_shown(error, strlen(error)));
	}
}

static void
read_attempts(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	double		n;

	if (es_asl_is_string(value, "unlimited"))
		*(int *) to = -1;
	else if (value->type == jbvString)
		es_asl_add_fault(parser->faults, where, "it is a whole number from 0 on, or \"unlimited\"");
	else if (number_of(parser, field, where, value, &n))
		*(int *) to = (int) n;
}

static void
read_jitter(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	*(bool *) to = es_asl_is_string(value, "FULL");
	if (!*(bool *) to && !es_asl_is_string(value, "NONE"))
		es_asl_add_fault(parser->faults, where, "it is \"FULL\" or \"NONE\"");
}

void
es_asl_read_call(EsAslParser *parser, const EsAslField *field, const char *where, const JsonbValue *value, void *to)
{
	if (value->type != jbvString)
		es_asl_add_fault(parser->faults, where, "it is a string");
	else
		fill_call(parser, where, es_asl_value_string(value), to);
}

static void
fill_call(EsAslParser *parser, const char *where, const char *text, EsAslCall *call)
{
	char	   *at;

	for (int i = 0; i < lengthof(resource_prefixes); i++)
		if (strncmp(text, resource_prefixes[i], strlen(resource_prefixes[i])) == 0)
		{
			call->kind = i;
			call->name = pstrdup(text + strlen(resource_prefixes[i]));
		}
	if (call->name == NULL)
	{
		es_asl_add_fault(parser->faults, where,
						 "\"%s\" is no queue:NAME, sql:schema.function, saga:NAME, signal:NAME, event:TYPE or endpoint:NAME; "
						 "work that is done elsewhere is a command in a queue, or goes to an endpoint", es_arg_shown(text, strlen(text)));
		return;
	}
	at = call->kind == ES_ASL_SAGA ? strrchr(call->name, '@') : NULL;
	if (at != NULL)
	{
		call->version = strspn(at + 1, "0123456789") == strlen(at + 1) && strlen(at + 1) < 10 ? atoi(at + 1) : 0;
		if (call->version < 1)
			es_asl_add_fault(parser->faults, where, "the version behind \"@\" is a number from 1 on");
		*at = '\0';
	}
	if (*call->name == '\0' || strlen(call->name) > ES_MAX_NAME_BYTES)
		es_asl_add_fault(parser->faults, where, "a name of 1 to %d bytes stands behind the colon", ES_MAX_NAME_BYTES);
	else if (call->kind == ES_ASL_SQL && strchr(call->name, '.') == NULL)
		es_asl_add_fault(parser->faults, where, "a function's name is qualified: sql:schema.function");
}

char *
es_asl_call_text(const EsAslCall *call)
{
	return call->version > 0 ? psprintf("%s%s@%d", resource_prefixes[call->kind], call->name, call->version) :
		psprintf("%s%s", resource_prefixes[call->kind], call->name);
}
