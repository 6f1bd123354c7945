/*
 * asl_path_parse.c
 *		Parsing of paths of States Language: from text to steps.
 *
 * Runs in any backend, when a definition is read; keeps nothing.  Names that stand after a dot may have any character but those that mean something
 * in a path, and those too behind a \, as the specification shows.  Length and depth are bounded, so that an input does not meet the stack's
 * limit in a path that was accepted.
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/fmgrprotos.h"

#include "arg.h"
#include "asl_path_tree.h"

/* of a path; a filter within a filter's parentheses counts too */
#define MAX_STEPS 250
#define MAX_DEPTH 100
#define MAX_CONDITIONS 1000
#define MAX_NUMBER_BYTES 100

typedef struct Parser
{
	const char *text;
	const char *at;
	bool		is_reference;
	int			depth;			/* of filters and their parentheses; 0: none */
	int			nconditions;
	const char *where;
	StringInfo	faults;
} Parser;

static const struct
{
	const char *text;
	AslFilterKind	kind;
}			operators[] = {
	{"==", ASL_FILTER_EQUAL}, {"!=", ASL_FILTER_NOT_EQUAL}, {"<=", ASL_FILTER_LESS_EQUAL}, {">=", ASL_FILTER_GREATER_EQUAL},
	{"<", ASL_FILTER_LESS}, {">", ASL_FILTER_GREATER}
};

static EsAslPath *parse_path(Parser *parser);
static bool parse_root(Parser *parser, EsAslPath *path);
static bool parse_step(Parser *parser, EsAslPath *path);
static AslStep *add_step(EsAslPath *path, AslStepKind kind);
static bool parse_name(Parser *parser, EsAslPath *path);
static bool is_name_char(const Parser *parser, char c);
static bool parse_bracket(Parser *parser, EsAslPath *path);
static bool parse_quoted_names(Parser *parser, EsAslPath *path);
static char *parse_quoted(Parser *parser);
static bool parse_places(Parser *parser, EsAslPath *path);
static bool parse_place(Parser *parser, int32 *place);
static AslFilter *parse_or(Parser *parser);
static AslFilter *parse_and(Parser *parser);
static AslFilter *parse_unary(Parser *parser);
static AslFilter *parse_comparison(Parser *parser);
static bool parse_operand(Parser *parser, AslOperand *operand);
static bool parse_number(Parser *parser, JsonbValue *value);
static bool parse_operator(Parser *parser, AslFilterKind *kind);
static AslFilter *make_filter(AslFilterKind kind, AslFilter *left, AslFilter *right);
static void skip_space(Parser *parser);
static bool take(Parser *parser, const char *token);
static bool refuse(Parser *parser, const char *problem);
EsAslPath *
es_asl_path_compile(const char *text, bool is_reference, const char *where, StringInfo faults)
{
	Parser		parser = {.text = text, .at = text, .is_reference = is_reference, .where = where, .faults = faults};
	EsAslPath  *path = parse_path(&parser);

	if (path != NULL && *parser.at != '\0')
	{
		(void) refuse(&parser, "a field is .name or ['any name'], an index [0]");
		return NULL;
	}
	return path;
}

EsAslPath *
es_asl_path_parse(const char **at, const char *where, StringInfo faults)
{
	Parser		parser = {.text = *at, .at = *at, .where = where, .faults = faults};
	EsAslPath  *path = parse_path(&parser);

	*at = parser.at;
	return path;
}

const char *
es_asl_path_text(const EsAslPath *path)
{
	return path->text;
}

static EsAslPath *
parse_path(Parser *parser)
{
	EsAslPath  *path = palloc0(sizeof(EsAslPath));
	const char *start = parser->at;

	path->is_definite = true;
	path->steps = palloc(MAX_STEPS * sizeof(AslStep));
	if (!parse_root(parser, path))
		return NULL;
	while (*parser->at == '.' || *parser->at == '[')
		if (!parse_step(parser, path))
			return NULL;
	path->steps = repalloc(path->steps, Max(path->nsteps, 1) * sizeof(AslStep));
	path->text = pnstrdup(start, parser->at - start);
	return path;
}

static bool
parse_root(Parser *parser, EsAslPath *path)
{
	if (take(parser, "$$"))
		path->root = ASL_ROOT_CONTEXT;
	else if (take(parser, "$"))
		path->root = ASL_ROOT_INPUT;
	else if (parser->depth > 0 && take(parser, "@"))
		path->root = ASL_ROOT_NODE;
	else
		return refuse(parser, "a path begins with $, or $$ for the context object");
	if (parser->is_reference && path->root == ASL_ROOT_CONTEXT)
		return refuse(parser, "the context object cannot be written to");
	if (is_name_char(parser, *parser->at))
		return refuse(parser, "variables are not supported; a field of the input is $.name");
	return true;
}

static bool
parse_step(Parser *parser, EsAslPath *path)
{
	bool		is_deep = take(parser, "..");

	if (path->nsteps + 2 > MAX_STEPS)
		return refuse(parser, "it has more steps than a path may have");
	if (is_deep)
		(void) add_step(path, ASL_STEP_DEEP);
	if ((is_deep || take(parser, ".")) && take(parser, "*"))
		(void) add_step(path, ASL_STEP_ALL);
	else if (*parser->at == '[' ? !parse_bracket(parser, path) : !parse_name(parser, path))
		return false;
	if (parser->is_reference && !path->is_definite)
		return refuse(parser, "a reference path names one node: no wildcards, slices, unions, filters");
	return true;
}

static AslStep *
add_step(EsAslPath *path, AslStepKind kind)
{
	AslStep    *step = &path->steps[path->nsteps++];

	memset(step, 0, sizeof(AslStep));
	step->kind = kind;
	if (kind != ASL_STEP_FIELDS && kind != ASL_STEP_ITEMS)
		path->is_definite = false;
	return step;
}

/* as it stands; \ makes any character a part of it */
static bool
parse_name(Parser *parser, EsAslPath *path)
{
	StringInfoData name;
	AslStep    *step;

	initStringInfo(&name);
	while (is_name_char(parser, *parser->at) || (*parser->at == '\\' && parser->at[1] != '\0'))
	{
		if (*parser->at == '\\')
			parser->at++;
		appendStringInfoChar(&name, *parser->at++);
	}
	if (name.len == 0)
		return refuse(parser, "a name is missing; names with other characters than letters and digits are written ['a name']");
	if (*parser->at == '(')
		return refuse(parser, "paths have no functions; there is States.ArrayLength and its kin");
	step = add_step(path, ASL_STEP_FIELDS);
	step->names = palloc(sizeof(char *));
	step->names[step->n++] = name.data;
	return true;
}

static bool
is_name_char(const Parser *parser, char c)
{
	if (IS_HIGHBIT_SET(c))
		return true;
	if ((unsigned char) c <= ' ' || c == 0x7f || strchr(".[]()*?@,:'\"\\", c) != NULL)
		return false;
	return parser->depth == 0 || strchr("<>=!&|~", c) == NULL;
}

static bool
parse_bracket(Parser *parser, EsAslPath *path)
{
	bool		is_read;

	(void) take(parser, "[");
	skip_space(parser);
	if (take(parser, "*"))
		is_read = add_step(path, ASL_STEP_ALL) != NULL;
	else if (*parser->at == '\'' || *parser->at == '"')
		is_read = parse_quoted_names(parser, path);
	else if (take(parser, "?"))
	{
		AslStep    *step = add_step(path, ASL_STEP_FILTER);

		skip_space(parser);
		if (*parser->at != '(')
			return refuse(parser, "a filter is [?(@.field == 'value')]");
		step->filter = parse_unary(parser);
		is_read = step->filter != NULL;
	}
	else if (*parser->at == '(')
		return refuse(parser, "scripts are not supported; the last element is [-1]");
	else
		is_read = parse_places(parser, path);
	if (!is_read)
		return false;
	skip_space(parser);
	return take(parser, "]") || refuse(parser, "a closing ] is expected");
}

static bool
parse_quoted_names(Parser *parser, EsAslPath *path)
{
	AslStep    *step = add_step(path, ASL_STEP_FIELDS);
	List	   *names = NIL;
	ListCell   *lc;

	do
	{
		char	   *name;

		skip_space(parser);
		name = parse_quoted(parser);
		if (name == NULL)
			return false;
		names = lappend(names, name);
		skip_space(parser);
	} while (take(parser, ","));
	step->names = palloc(list_length(names) * sizeof(char *));
	foreach(lc, names)
		step->names[step->n++] = lfirst(lc);
	path->is_definite &= step->n == 1;
	return true;
}

/* in '' or "" */
static char *
parse_quoted(Parser *parser)
{
	char		quote = *parser->at;
	StringInfoData string;

	if (quote != '\'' && quote != '"')
	{
		(void) refuse(parser, "a quoted name is expected");
		return NULL;
	}
	initStringInfo(&string);
	for (parser->at++; *parser->at != quote; parser->at++)
	{
		if (*parser->at == '\\' && parser->at[1] != '\0')
			parser->at++;
		if (*parser->at == '\0')
		{
			(void) refuse(parser, "a quote is not closed");
			return NULL;
		}
		appendStringInfoChar(&string, *parser->at);
	}
	parser->at++;
	return string.data;
}

/* indexes, or one slice */
static bool
parse_places(Parser *parser, EsAslPath *path)
{
	AslStep    *step = add_step(path, ASL_STEP_ITEMS);
	int			room = 4;

	step->places = palloc(room * sizeof(int32));
	step->places[0] = 0;
	if (*parser->at != ':')
		do
		{
			if (step->n == room)
				step->places = repalloc(step->places, (room *= 2) * sizeof(int32));
			skip_space(parser);
			if (!parse_place(parser, &step->places[step->n++]))
				return false;
			skip_space(parser);
		} while (take(parser, ","));
	if (step->n <= 1 && take(parser, ":"))
	{
		step->kind = ASL_STEP_SLICE;
		step->from = step->places[0];
		skip_space(parser);
		step->has_to = *parser->at != ']' && *parser->at != ':';
		if (step->has_to && !parse_place(parser, &step->to))
			return false;
		skip_space(parser);
		if (*parser->at == ':')
			return refuse(parser, "a slice is [from:to], without a step");
		path->is_definite = false;
	}
	path->is_definite &= step->n == 1;
	return true;
}

static bool
parse_place(Parser *parser, int32 *place)
{
	bool		is_negative = take(parser, "-");
	int64		number = 0;

	if (!isdigit((unsigned char) *parser->at))
		return refuse(parser, "in brackets there is an index, a 'name', *, a slice [1:3] or a filter [?(@.a == 1)]");
	for (; isdigit((unsigned char) *parser->at); parser->at++)
	{
		number = number * 10 + *parser->at - '0';
		if (number > PG_INT32_MAX)
			return refuse(parser, "an index is too large");
	}
	*place = is_negative ? -number : number;
	return true;
}

static AslFilter *
parse_or(Parser *parser)
{
	AslFilter  *left = parse_and(parser);

	for (;;)
	{
		AslFilter  *right;

		skip_space(parser);
		if (left == NULL || !take(parser, "||"))
			return left;
		right = parse_and(parser);
		left = right == NULL ? NULL : make_filter(ASL_FILTER_OR, left, right);
	}
}

static AslFilter *
parse_and(Parser *parser)
{
	AslFilter  *left = parse_unary(parser);

	for (;;)
	{
		AslFilter  *right;

		skip_space(parser);
		if (left == NULL || !take(parser, "&&"))
			return left;
		right = parse_unary(parser);
		left = right == NULL ? NULL : make_filter(ASL_FILTER_AND, left, right);
	}
}

static AslFilter *
parse_unary(Parser *parser)
{
	AslFilter  *filter = NULL;

	skip_space(parser);
	if (++parser->depth > MAX_DEPTH)
		(void) refuse(parser, "filters are nested too deep");
	else if (*parser->at == '!' && parser->at[1] != '=')
	{
		(void) take(parser, "!");
		filter = parse_unary(parser);
		if (filter != NULL)
			filter = make_filter(ASL_FILTER_NOT, filter, NULL);
	}
	else if (take(parser, "("))
	{
		filter = parse_or(parser);
		skip_space(parser);
		if (filter != NULL && !take(parser, ")"))
		{
			(void) refuse(parser, "a closing ) of the filter is expected; operators are == != < <= > >= && || !");
			filter = NULL;
		}
	}
	else
		filter = parse_comparison(parser);
	parser->depth--;
	return filter;
}

static AslFilter *
parse_comparison(Parser *parser)
{
	AslFilter  *filter = make_filter(ASL_FILTER_EXISTS, NULL, NULL);

	if (++parser->nconditions > MAX_CONDITIONS)
	{
		(void) refuse(parser, "filters have too many conditions");
		return NULL;
	}
	if (!parse_operand(parser, &filter->a))
		return NULL;
	skip_space(parser);
	if (parse_operator(parser, &filter->kind))
	{
		skip_space(parser);
		if (!parse_operand(parser, &filter->b))
			return NULL;
	}
	else if (filter->a.path == NULL)
	{
		(void) refuse(parser, "a constant alone is no condition; operators are == != < <= > >= && || !");
		return NULL;
	}
	else if (strncmp(parser->at, "=~", 2) == 0 || isalpha((unsigned char) *parser->at))
	{
		(void) refuse(parser, "regular expressions and operators that are words are not supported; operators are == != < <= > >= && || !");
		return NULL;
	}
	return filter;
}

static bool
parse_operand(Parser *parser, AslOperand *operand)
{
	char	   *string;

	if (*parser->at == '@' || *parser->at == '$')
	{
		operand->path = parse_path(parser);
		if (operand->path != NULL && !operand->path->is_definite)
			return refuse(parser, "in a filter a path names one node");
		return operand->path != NULL;
	}
	if (*parser->at == '\'' || *parser->at == '"')
	{
		string = parse_quoted(parser);
		if (string != NULL)
			es_asl_value_set_string(&operand->constant, string, strlen(string));
		return string != NULL;
	}
	if (take(parser, "null"))
		operand->constant.type = jbvNull;
	else if (take(parser, "true") || take(parser, "false"))
	{
		operand->constant.type = jbvBool;
		operand->constant.val.boolean = parser->at[-2] == 'u';
	}
	else
		return parse_number(parser, &operand->constant);
	return true;
}

static bool
parse_number(Parser *parser, JsonbValue *value)
{
	const char *start = parser->at;
	char	   *text;

	(void) take(parser, "-");
	while (isdigit((unsigned char) *parser->at))
		parser->at++;
	if (isdigit((unsigned char) parser->at[-1]) && *parser->at == '.' && isdigit((unsigned char) parser->at[1]))
		for (parser->at++; isdigit((unsigned char) *parser->at);)
			parser->at++;
	if (parser->at == start || !isdigit((unsigned char) parser->at[-1]) || parser->at - start > MAX_NUMBER_BYTES)
	{
		parser->at = start;
		return refuse(parser, "a filter compares @.field, a number, 'text', true, false or null");
	}
	text = pnstrdup(start, parser->at - start);
	value->type = jbvNumeric;
	value->val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
															 Int32GetDatum(-1)));
	return true;
}

static bool
parse_operator(Parser *parser, AslFilterKind *kind)
{
	for (int i = 0; i < lengthof(operators); i++)
		if (take(parser, operators[i].text))
		{
			*kind = operators[i].kind;
			return true;
		}
	return false;
}

static AslFilter *
make_filter(AslFilterKind kind, AslFilter *left, AslFilter *right)
{
	AslFilter  *filter = palloc0(sizeof(AslFilter));

	filter->kind = kind;
	filter->left = left;
	filter->right = right;
	return filter;
}

static void
skip_space(Parser *parser)
{
	while (isspace((unsigned char) *parser->at))
		parser->at++;
}

static bool
take(Parser *parser, const char *token)
{
	int			len = strlen(token);

	if (strncmp(parser->at, token, len) != 0)
		return false;
	parser->at += len;
	return true;
}

static bool
refuse(Parser *parser, const char *problem)
{
	int			len = strlen(parser->at);

	if (len == 0)
		es_asl_add_fault(parser->faults, parser->where, "path %s is wrong at its end: %s", es_arg_shown(parser->text, strlen(parser->text)), problem);
	else
		es_asl_add_fault(parser->faults, parser->where, "path %s is wrong at \"%s\": %s",
						 es_arg_shown(parser->text, strlen(parser->text)), es_arg_shown(parser->at, len), problem);
	return false;
}

