/*
 * asl_function.c
 *		Expressions of States Language: a path, or an intrinsic function of paths, constants and other functions.
 *
 * Runs in any backend; keeps nothing.  An expression is parsed once, when its definition is read: names, the number of arguments and of
 * places in a template that stands there are checked then.  What functions do is in asl_intrinsic.c.
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/fmgrprotos.h"

#include "arg.h"
#include "asl_intrinsic.h"

/* as Step Functions has it */
#define MAX_NESTED 10
#define MAX_NUMBER_BYTES 100
#define MAX_EXPONENT_DIGITS 3

typedef enum Kind
{
	KIND_PATH,
	KIND_CONSTANT,
	KIND_FUNCTION
} Kind;

struct EsAslExpression
{
	Kind		kind;
	EsAslPath  *path;
	JsonbValue	constant;
	char	   *raw;			/* of a constant that is a text: with its escapes */
	const AslIntrinsic *intrinsic;
	EsAslExpression **args;
	int			nargs;
};

typedef struct Parser
{
	const char *text;
	const char *at;
	int			depth;			/* of functions */
	const char *where;
	StringInfo	faults;
} Parser;

static EsAslExpression *parse_function(Parser *parser);
static bool parse_arguments(Parser *parser, EsAslExpression *function);
static EsAslExpression *parse_argument(Parser *parser);
static EsAslExpression *parse_string(Parser *parser);
static EsAslExpression *parse_number(Parser *parser);
static EsAslExpression *parse_word(Parser *parser);
static void skip_digits(Parser *parser);
static bool check_arguments(Parser *parser, const EsAslExpression *function);
static EsAslExpression *make_expression(Kind kind);
static bool is_name_char(char c);
static void skip_space(Parser *parser);
static EsAslExpression *refuse(Parser *parser, const char *problem);
static bool evaluate(const EsAslExpression *expression, const AslIntrinsic *caller, const EsAslScope *scope, JsonbValue *value,
					 EsAslFault *fault);

EsAslExpression *
es_asl_expression_compile(const char *text, const char *where, StringInfo faults)
{
	Parser		parser = {.text = text, .at = text, .where = where, .faults = faults};
	EsAslExpression *expression;

	if (*text == '$')
	{
		expression = make_expression(KIND_PATH);
		expression->path = es_asl_path_compile(text, false, where, faults);
		return expression->path == NULL ? NULL : expression;
	}
	if (!isalpha((unsigned char) *text))
	{
		es_asl_add_fault(faults, where, "\"%s\" is neither a path, which begins with $, nor a function, States.Name(...)", es_arg_shown(text, strlen(text)));
		return NULL;
	}
	expression = parse_function(&parser);
	skip_space(&parser);
	if (expression != NULL && *parser.at != '\0')
		return refuse(&parser, "it goes on where it should end");
	return expression;
}

bool
es_asl_expression_is_function(const EsAslExpression *expression)
{
	return expression->kind == KIND_FUNCTION;
}

static EsAslExpression *
parse_function(Parser *parser)
{
	EsAslExpression *function = make_expression(KIND_FUNCTION);
	const char *start = parser->at;
	int			len;

	while (is_name_char(*parser->at))
		parser->at++;
	len = parser->at - start;
	function->intrinsic = es_asl_intrinsic_find(start, len);
	skip_space(parser);
	if (*parser->at != '(')
	{
		parser->at = start;
		return refuse(parser, "a path begins with $, a function is States.Name(...), a text stands in ''");
	}
	if (function->intrinsic == NULL)
	{
		es_asl_add_fault(parser->faults, parser->where, "there is no function %s", es_arg_shown(start, len));
		return NULL;
	}
	if (++parser->depth > MAX_NESTED)
		return refuse(parser, "functions are nested more than 10 deep");
	parser->at++;
	if (!parse_arguments(parser, function) || !check_arguments(parser, function))
		return NULL;
	parser->depth--;
	return function;
}

static bool
parse_arguments(Parser *parser, EsAslExpression *function)
{
	int			room = 4;

	function->args = palloc(room * sizeof(EsAslExpression *));
	skip_space(parser);
	while (*parser->at != ')')
	{
		EsAslExpression *arg;

		if (function->nargs > 0 && *parser->at++ != ',')
		{
			parser->at--;
			return refuse(parser, "a comma or a closing ) is expected") != NULL;
		}
		arg = parse_argument(parser);
		if (arg == NULL)
			return false;
		if (function->nargs == room)
			function->args = repalloc(function->args, (room *= 2) * sizeof(EsAslExpression *));
		function->args[function->nargs++] = arg;
		skip_space(parser);
	}
	parser->at++;
	return true;
}

static EsAslExpression *
parse_argument(Parser *parser)
{
	EsAslExpression *arg;

	skip_space(parser);
	if (*parser->at == '$')
	{
		arg = make_expression(KIND_PATH);
		arg->path = es_asl_path_parse(&parser->at, parser->where, parser->faults);
		return arg->path == NULL ? NULL : arg;
	}
	if (*parser->at == '\'')
		return parse_string(parser);
	if (isdigit((unsigned char) *parser->at) || *parser->at == '-')
		return parse_number(parser);
	arg = parse_word(parser);
	return arg != NULL ? arg : parse_function(parser);
}

/* escapes are \' \{ \} \\ */
static EsAslExpression *
parse_string(Parser *parser)
{
	EsAslExpression *arg = make_expression(KIND_CONSTANT);
	StringInfoData string;
	const char *start = ++parser->at;

	initStringInfo(&string);
	for (; *parser->at != '\''; parser->at++)
	{
		if (*parser->at == '\\')
		{
			if (parser->at[1] == '\0' || strchr("'{}\\", parser->at[1]) == NULL)
				return refuse(parser, "a backslash stands before ' { } or another backslash");
			parser->at++;
		}
		if (*parser->at == '\0')
			return refuse(parser, "a quote is not closed");
		appendStringInfoChar(&string, *parser->at);
	}
	arg->raw = pnstrdup(start, parser->at - start);
	es_asl_value_set_string(&arg->constant, string.data, string.len);
	parser->at++;
	return arg;
}

/* as JSON writes it */
static EsAslExpression *
parse_number(Parser *parser)
{
	EsAslExpression *arg = make_expression(KIND_CONSTANT);
	const char *start = parser->at;
	const char *digits;
	const char *exponent;

	if (*parser->at == '-')
		parser->at++;
	digits = parser->at;
	skip_digits(parser);
	if (*parser->at == '.' && isdigit((unsigned char) parser->at[1]))
	{
		parser->at++;
		skip_digits(parser);
	}
	exponent = parser->at;
	if (*parser->at == 'e' || *parser->at == 'E')
	{
		parser->at += parser->at[1] == '+' || parser->at[1] == '-' ? 2 : 1;
		exponent = parser->at;
		skip_digits(parser);
	}
	if (!isdigit((unsigned char) *digits) || !isdigit((unsigned char) parser->at[-1]) || is_name_char(*parser->at))
	{
		parser->at = start;
		return refuse(parser, "a number is written as in JSON");
	}
	if (parser->at - start > MAX_NUMBER_BYTES || parser->at - exponent > MAX_EXPONENT_DIGITS)
	{
		parser->at = start;
		return refuse(parser, "a number is too long");
	}
	arg->constant.type = jbvNumeric;
	arg->constant.val.numeric =
		DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(pnstrdup(start, parser->at - start)),
											ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	return arg;
}

static void
skip_digits(Parser *parser)
{
	while (isdigit((unsigned char) *parser->at))
		parser->at++;
}

/* NULL, and no fault: it is none of these */
static EsAslExpression *
parse_word(Parser *parser)
{
	static const struct
	{
		const char *text;
		enum jbvType type;
		bool		boolean;
	}			words[] = {{"true", jbvBool, true}, {"false", jbvBool, false}, {"null", jbvNull, false}};

	for (int i = 0; i < lengthof(words); i++)
	{
		int			len = strlen(words[i].text);
		EsAslExpression *arg;

		if (strncmp(parser->at, words[i].text, len) != 0 || is_name_char(parser->at[len]))
			continue;
		arg = make_expression(KIND_CONSTANT);
		arg->constant.type = words[i].type;
		arg->constant.val.boolean = words[i].boolean;
		parser->at += len;
		return arg;
	}
	return NULL;
}

/* as many as the function takes, or as its template has places and one more */
static bool
check_arguments(Parser *parser, const EsAslExpression *function)
{
	const AslIntrinsic *intrinsic = function->intrinsic;

	if (function->nargs < intrinsic->min || (intrinsic->max >= 0 && function->nargs > intrinsic->max))
	{
		es_asl_add_fault(parser->faults, parser->where, "%s takes %s%d argument%s, not %d", intrinsic->name,
						 intrinsic->max == intrinsic->min ? "" : intrinsic->max < 0 ? "at least " : psprintf("%d or ", intrinsic->min),
						 intrinsic->max < 0 ? intrinsic->min : intrinsic->max,
						 intrinsic->max == 1 || (intrinsic->max < 0 && intrinsic->min == 1) ? "" : "s", function->nargs);
		return false;
	}
	for (int i = 0; i < function->nargs && intrinsic->of_numbers; i++)
		if (function->args[i]->kind == KIND_CONSTANT && function->args[i]->constant.type != jbvNumeric)
		{
			es_asl_add_fault(parser->faults, parser->where, "%s takes numbers, and paths to numbers", intrinsic->name);
			return false;
		}
	if (es_asl_intrinsic_is_format(intrinsic) && function->args[0]->raw != NULL)
	{
		const char *template = function->args[0]->raw;
		int			nplaces = es_asl_intrinsic_count_places(template, strlen(template), true);

		if (nplaces != function->nargs - 1)
		{
			es_asl_add_fault(parser->faults, parser->where, "%s: '%s' has %d {}, and %d values follow", intrinsic->name,
							 es_arg_shown(template, strlen(template)), nplaces, function->nargs - 1);
			return false;
		}
	}
	return true;
}

static EsAslExpression *
make_expression(Kind kind)
{
	EsAslExpression *expression = palloc0(sizeof(EsAslExpression));

	expression->kind = kind;
	return expression;
}

static bool
is_name_char(char c)
{
	return isalnum((unsigned char) c) || c == '_' || c == '.';
}

static void
skip_space(Parser *parser)
{
	while (isspace((unsigned char) *parser->at))
		parser->at++;
}

static EsAslExpression *
refuse(Parser *parser, const char *problem)
{
	int			len = strlen(parser->at);
	char	   *text = es_arg_shown(parser->text, strlen(parser->text));

	if (len == 0)
		es_asl_add_fault(parser->faults, parser->where, "%s is wrong at its end: %s", text, problem);
	else
		es_asl_add_fault(parser->faults, parser->where, "%s is wrong at \"%s\": %s", text, es_arg_shown(parser->at, len), problem);
	return NULL;
}

bool
es_asl_expression_value(const EsAslExpression *expression, const EsAslScope *scope, JsonbValue *value, EsAslFault *fault)
{
	return evaluate(expression, NULL, scope, value, fault);
}

/* caller NULL: the expression itself, else an argument of that function */
static bool
evaluate(const EsAslExpression *expression, const AslIntrinsic *caller, const EsAslScope *scope, JsonbValue *value, EsAslFault *fault)
{
	const AslIntrinsic *intrinsic = expression->intrinsic;
	const EsAslExpression *first;
	JsonbValue *args;

	if (expression->kind == KIND_CONSTANT)
		*value = expression->constant;
	if (expression->kind == KIND_PATH && !es_asl_path_get(expression->path, scope, value))
	{
		if (caller == NULL)
			return es_asl_fail(fault, ES_ASL_PARAMETER_PATH, "path %s names nothing", es_asl_path_text(expression->path));
		return es_asl_fail(fault, ES_ASL_INTRINSIC, "%s: path %s names nothing", caller->name, es_asl_path_text(expression->path));
	}
	if (expression->kind != KIND_FUNCTION)
		return true;

	args = palloc(Max(expression->nargs, 1) * sizeof(JsonbValue));
	for (int i = 0; i < expression->nargs; i++)
		if (!evaluate(expression->args[i], intrinsic, scope, &args[i], fault))
			return false;
	first = expression->nargs > 0 ? expression->args[0] : NULL;
	if (es_asl_intrinsic_is_format(intrinsic) && first->raw != NULL)
		return es_asl_intrinsic_format(intrinsic, first->raw, strlen(first->raw), true, args + 1, expression->nargs - 1, value, fault);
	return intrinsic->run(intrinsic, args, expression->nargs, value, fault);
}
