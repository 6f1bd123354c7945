/*
 * cesql_parse.c
 *		Parsing of CESQL: from text to a tree.
 *
 * Runs wherever filters are read; keeps nothing.  The language is version 1.0.0 of the CloudEvents SQL Expression Language.  Where its
 * text and its grammar file differ, the text is followed: AND, OR and XOR have one precedence and group from left to right.  A
 * sign directly before digits belongs to the number where a value is expected, which makes the smallest integer writable, and is
 * an operator elsewhere.
 *
 * Length and depth are bounded, the depth of the tree too: a chain of operators is a deep tree, and an event must not meet the
 * stack's limit in an expression that was accepted.
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"

#include "arg.h"
#include "cesql.h"
#include "cesql_tree.h"
#include "compat.h"

#define MAX_DEPTH 1000

typedef enum TokenKind
{
	TOKEN_END,
	TOKEN_OPEN,
	TOKEN_CLOSE,
	TOKEN_COMMA,
	TOKEN_OPERATOR,				/* AND, OR and XOR too */
	TOKEN_NOT,
	TOKEN_LIKE,
	TOKEN_IN,
	TOKEN_EXISTS,
	TOKEN_TRUE,
	TOKEN_FALSE,
	TOKEN_INTEGER,				/* without its sign */
	TOKEN_STRING,
	TOKEN_WORD
} TokenKind;

typedef struct Token
{
	TokenKind	kind;
	CesqlKind	operator;
	const char *start;
	int			len;
} Token;

typedef struct Parser
{
	const char *what;
	bool		is_filter;
	const char *text;
	const char *end;
	Token		token;			/* the one that is next */
	int			depth;
} Parser;

static const struct
{
	const char *name;
	TokenKind	token;
	CesqlKind	operator;
}			keywords[] = {
	{"and", TOKEN_OPERATOR, CESQL_AND}, {"or", TOKEN_OPERATOR, CESQL_OR}, {"xor", TOKEN_OPERATOR, CESQL_XOR},
	{"not", TOKEN_NOT}, {"like", TOKEN_LIKE}, {"in", TOKEN_IN}, {"exists", TOKEN_EXISTS},
	{"true", TOKEN_TRUE}, {"false", TOKEN_FALSE}
};

/* longer ones first */
static const struct
{
	const char *name;
	CesqlKind	operator;
}			operators[] = {
	{"!=", CESQL_NOT_EQUAL}, {"<>", CESQL_NOT_EQUAL}, {"<=", CESQL_LESS_EQUAL}, {">=", CESQL_GREATER_EQUAL},
	{"=", CESQL_EQUAL}, {"<", CESQL_LESS}, {">", CESQL_GREATER},
	{"+", CESQL_ADD}, {"-", CESQL_SUBTRACT}, {"*", CESQL_MULTIPLY}, {"/", CESQL_DIVIDE}, {"%", CESQL_MODULO}
};

/* max: -1 for any number */
static const struct
{
	const char *name;
	CesqlFunction function;
	int			min;
	int			max;
	EsCesqlType type;
}			functions[] = {
	{"abs", CESQL_ABS, 1, 1, ES_CESQL_INTEGER},
	{"length", CESQL_LENGTH, 1, 1, ES_CESQL_INTEGER},
	{"concat", CESQL_CONCAT, 0, -1, ES_CESQL_STRING},
	{"concat_ws", CESQL_CONCAT_WS, 1, -1, ES_CESQL_STRING},
	{"lower", CESQL_LOWER, 1, 1, ES_CESQL_STRING},
	{"upper", CESQL_UPPER, 1, 1, ES_CESQL_STRING},
	{"trim", CESQL_TRIM, 1, 1, ES_CESQL_STRING},
	{"left", CESQL_LEFT, 2, 2, ES_CESQL_STRING},
	{"right", CESQL_RIGHT, 2, 2, ES_CESQL_STRING},
	{"substring", CESQL_SUBSTRING, 2, 3, ES_CESQL_STRING},
	{"int", CESQL_INT, 1, 1, ES_CESQL_INTEGER},
	{"bool", CESQL_BOOL, 1, 1, ES_CESQL_BOOLEAN},
	{"string", CESQL_STRING, 1, 1, ES_CESQL_STRING},
	{"is_int", CESQL_IS_INT, 1, 1, ES_CESQL_BOOLEAN},
	{"is_bool", CESQL_IS_BOOL, 1, 1, ES_CESQL_BOOLEAN},
};

#define FUNCTIONS_HINT "Functions: ABS, LENGTH, CONCAT, CONCAT_WS, LOWER, UPPER, TRIM, LEFT, RIGHT, SUBSTRING, INT, BOOL, STRING, IS_INT, IS_BOOL."
#define VALUE_HINT "A value is an attribute of the CloudEvent, a number, 'text', TRUE or FALSE, a function, or something in parentheses."

static CesqlNode *parse_expression(Parser *parser, int min_level);
static int	level_of(CesqlKind operator);
static CesqlNode *parse_postfix(Parser *parser);
static CesqlNode *parse_like(Parser *parser, CesqlNode *left);
static void compile_like(CesqlNode *node, const char *pattern, int len);
static CesqlNode *parse_in(Parser *parser, CesqlNode *left);
static CesqlNode *parse_unary(Parser *parser);
static CesqlNode *parse_primary(Parser *parser);
static CesqlNode *parse_integer(Parser *parser, const char *start, bool is_negative);
static CesqlNode *parse_exists(Parser *parser);
static CesqlNode *parse_function(Parser *parser, Token name);
static char *attribute_name(Parser *parser, const Token *word);
static CesqlNode *parse_list(Parser *parser, CesqlNode *node);
static CesqlNode *literal(EsCesqlType type);
static CesqlNode *make_node(Parser *parser, CesqlKind kind, EsCesqlType type, CesqlNode *left, CesqlNode *right);
static void add_argument(Parser *parser, CesqlNode *node, CesqlNode *arg);
static char *unquoted(const Token *token, int *len);
static bool is_word(const Token *token, const char *name);
static void next_token(Parser *parser);
static void scan_string(Parser *parser);
static void scan_word(Parser *parser);
static bool scan_symbol(Parser *parser);
static void enter(Parser *parser);
static void expect(Parser *parser, TokenKind kind, const char *problem, const char *hint);
static void refuse(Parser *parser, const char *problem, const Token *token, const char *hint) es_noreturn;

EsCesql *
es_cesql_parse(const char *expression, const char *what, bool is_filter)
{
	EsCesql    *result = palloc0(sizeof(EsCesql));
	Parser		parser = {.what = what, .is_filter = is_filter, .text = expression, .end = expression + strlen(expression)};
	Token		all = {.start = expression, .len = strlen(expression)};

	if (all.len > ES_CESQL_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"expression\" in %s has %d bytes, more than %d", what, all.len, ES_CESQL_MAX_BYTES),
				 errhint("Write x IN (...) for many alternatives, or put what selects the events into their tags.")));
	parser.token.start = expression;
	next_token(&parser);
	result->root = parse_expression(&parser, 0);
	if (parser.token.kind != TOKEN_END)
		refuse(&parser, "goes on where it should end, with", &parser.token, "Strings have \\' for a quote in them; comparisons are joined by AND, OR, XOR.");
	if (is_filter && (result->root->type != ES_CESQL_BOOLEAN || result->root->kind == CESQL_ATTRIBUTE))
		refuse(&parser, "is never true or false: it is the value of", &all, "Compare it with something, or write BOOL(...), EXISTS attribute.");
	return result;
}

/* operators of this level and those that bind tighter; equal ones group from left to right */
static CesqlNode *
parse_expression(Parser *parser, int min_level)
{
	CesqlNode  *left = parse_postfix(parser);

	while (parser->token.kind == TOKEN_OPERATOR && level_of(parser->token.operator) >= min_level)
	{
		CesqlKind	operator = parser->token.operator;
		int			level = level_of(operator);
		CesqlNode  *right;

		next_token(parser);
		right = parse_expression(parser, level + 1);
		left = make_node(parser, operator, level < 2 ? ES_CESQL_BOOLEAN : ES_CESQL_INTEGER, left, right);
	}
	return left;
}

static int
level_of(CesqlKind operator)
{
	switch (operator)
	{
		case CESQL_AND:
		case CESQL_OR:
		case CESQL_XOR:
			return 0;
		case CESQL_ADD:
		case CESQL_SUBTRACT:
			return 2;
		case CESQL_MULTIPLY:
		case CESQL_DIVIDE:
		case CESQL_MODULO:
			return 3;
		default:
			return 1;
	}
}

/* [NOT] LIKE and [NOT] IN bind tighter than any operator between two values, and looser than what stands before one */
static CesqlNode *
parse_postfix(Parser *parser)
{
	CesqlNode  *node = parse_unary(parser);

	for (;;)
	{
		bool		negated = parser->token.kind == TOKEN_NOT;

		if (negated)
			next_token(parser);
		if (parser->token.kind == TOKEN_LIKE)
			node = parse_like(parser, node);
		else if (parser->token.kind == TOKEN_IN)
			node = parse_in(parser, node);
		else if (negated)
			refuse(parser, "has NOT after a value, but neither LIKE nor IN before", &parser->token, "Write NOT before the value, or x NOT LIKE '...', x NOT IN (...).");
		else
			return node;
		node->negated = negated;
	}
}

static CesqlNode *
parse_like(Parser *parser, CesqlNode *left)
{
	CesqlNode  *node = make_node(parser, CESQL_LIKE, ES_CESQL_BOOLEAN, left, NULL);
	char	   *pattern;
	int			len;

	next_token(parser);
	expect(parser, TOKEN_STRING, "needs a quoted pattern after LIKE, not", "Write x LIKE 'prefix%'; % is any text, _ one character, \\% and \\_ are themselves.");
	pattern = unquoted(&parser->token, &len);
	compile_like(node, pattern, len);
	next_token(parser);
	return node;
}

static void
compile_like(CesqlNode *node, const char *pattern, int len)
{
	const char *end = pattern + len;

	node->items = palloc0(Max(len, 1) * sizeof(CesqlLikeItem));
	while (pattern < end)
	{
		CesqlLikeItem *item = &node->items[node->nitems++];
		bool		escaped = *pattern == '\\' && pattern + 1 < end && (pattern[1] == '%' || pattern[1] == '_');

		if (escaped)
			pattern++;
		item->kind = !escaped && (*pattern == '%' || *pattern == '_') ? *pattern : 'c';
		item->len = cesql_char_len(pattern, end);
		memcpy(item->character, pattern, item->len);
		pattern += item->len;
	}
}

static CesqlNode *
parse_in(Parser *parser, CesqlNode *left)
{
	CesqlNode  *node = make_node(parser, CESQL_IN, ES_CESQL_BOOLEAN, left, NULL);

	next_token(parser);
	expect(parser, TOKEN_OPEN, "needs a set after IN, not", "Write x IN ('a', 'b').");
	next_token(parser);
	if (parser->token.kind == TOKEN_CLOSE)
		refuse(parser, "has an empty set before", &parser->token, "Write x IN ('a', 'b').");
	return parse_list(parser, node);
}

static CesqlNode *
parse_unary(Parser *parser)
{
	Token		token = parser->token;
	CesqlNode  *node;

	if (token.kind != TOKEN_NOT && !(token.kind == TOKEN_OPERATOR && (token.operator == CESQL_SUBTRACT || token.operator == CESQL_ADD)))
		return parse_primary(parser);
	next_token(parser);
	if (token.kind == TOKEN_OPERATOR && parser->token.kind == TOKEN_INTEGER && parser->token.start == token.start + 1)
		return parse_integer(parser, token.start, token.operator == CESQL_SUBTRACT);
	if (token.kind == TOKEN_OPERATOR && token.operator == CESQL_ADD)
		refuse(parser, "has + where a value is expected, before", &parser->token, VALUE_HINT);
	enter(parser);
	node = parse_unary(parser);
	parser->depth--;
	return token.kind == TOKEN_NOT ? make_node(parser, CESQL_NOT, ES_CESQL_BOOLEAN, node, NULL) :
		make_node(parser, CESQL_MINUS, ES_CESQL_INTEGER, node, NULL);
}

static CesqlNode *
parse_primary(Parser *parser)
{
	Token		token = parser->token;
	CesqlNode  *node;

	switch (token.kind)
	{
		case TOKEN_OPEN:
			next_token(parser);
			enter(parser);
			node = parse_expression(parser, 0);
			parser->depth--;
			expect(parser, TOKEN_CLOSE, "needs a closing parenthesis, not", "Each ( has its ).");
			break;
		case TOKEN_TRUE:
		case TOKEN_FALSE:
			node = literal(ES_CESQL_BOOLEAN);
			node->value.boolean = token.kind == TOKEN_TRUE;
			break;
		case TOKEN_STRING:
			node = literal(ES_CESQL_STRING);
			node->value.string = unquoted(&token, &node->value.len);
			break;
		case TOKEN_INTEGER:
			return parse_integer(parser, token.start, false);
		case TOKEN_EXISTS:
			return parse_exists(parser);
		case TOKEN_WORD:
			next_token(parser);
			if (parser->token.kind == TOKEN_OPEN)
				return parse_function(parser, token);
			node = make_node(parser, CESQL_ATTRIBUTE, ES_CESQL_BOOLEAN, NULL, NULL);
			node->name = attribute_name(parser, &token);
			return node;
		default:
			refuse(parser, "needs a value, not", &token, VALUE_HINT);
	}
	next_token(parser);
	return node;
}

/* start: the sign's place, where it has one */
static CesqlNode *
parse_integer(Parser *parser, const char *start, bool is_negative)
{
	CesqlNode  *node = literal(ES_CESQL_INTEGER);
	int64		number = 0;

	for (int i = 0; i < parser->token.len && number <= PG_INT32_MAX; i++)
		number = number * 10 + (parser->token.start[i] - '0');
	if (is_negative)
		number = -number;
	if (number != (int32) number)
		refuse(parser, "has a number beyond 32 bits:",
			   &(Token) {.start = start, .len = parser->token.start + parser->token.len - start},
			   "Numbers go from -2147483648 to 2147483647. Compare longer ones as strings, in quotes.");
	node->value.integer = (int32) number;
	next_token(parser);
	return node;
}

static CesqlNode *
parse_exists(Parser *parser)
{
	CesqlNode  *node = make_node(parser, CESQL_EXISTS, ES_CESQL_BOOLEAN, NULL, NULL);

	next_token(parser);
	expect(parser, TOKEN_WORD, "needs the name of an attribute after EXISTS, not", "Write EXISTS subject, without quotes and parentheses.");
	node->name = attribute_name(parser, &parser->token);
	next_token(parser);
	return node;
}

static CesqlNode *
parse_function(Parser *parser, Token name)
{
	CesqlNode  *node = make_node(parser, CESQL_FUNCTION, ES_CESQL_BOOLEAN, NULL, NULL);
	bool		is_known = false;

	for (int i = 0; i < name.len; i++)
		if (!isalpha((unsigned char) name.start[i]) && (i == 0 || name.start[i] != '_'))
			refuse(parser, "has something before a parenthesis that is no name of a function:", &name, FUNCTIONS_HINT);
	next_token(parser);
	if (parser->token.kind == TOKEN_CLOSE)
		next_token(parser);
	else
		parse_list(parser, node);
	for (int i = 0; i < lengthof(functions); i++)
	{
		if (!is_word(&name, functions[i].name))
			continue;
		is_known = true;
		if (node->nargs < functions[i].min || (functions[i].max >= 0 && node->nargs > functions[i].max))
			continue;
		node->function = functions[i].function;
		node->type = functions[i].type;
	}
	if (parser->is_filter && node->function == CESQL_UNKNOWN_FUNCTION)
		refuse(parser, is_known ? "has too many or too few arguments for the function" : "has the unknown function", &name, FUNCTIONS_HINT);
	return node;
}

/* names of attributes are lower case in CloudEvents; expressions are not that strict */
static char *
attribute_name(Parser *parser, const Token *word)
{
	char	   *name = pnstrdup(word->start, word->len);

	for (int i = 0; i < word->len; i++)
	{
		if (name[i] == '_')
			refuse(parser, "has a name that no attribute can have:", word, "Attributes of CloudEvents have letters and digits: correlationid, not correlation_id.");
		name[i] = pg_ascii_tolower((unsigned char) name[i]);
	}
	return name;
}

/* expressions up to the closing parenthesis */
static CesqlNode *
parse_list(Parser *parser, CesqlNode *node)
{
	enter(parser);
	for (;;)
	{
		add_argument(parser, node, parse_expression(parser, 0));
		if (parser->token.kind != TOKEN_COMMA)
			break;
		next_token(parser);
	}
	parser->depth--;
	expect(parser, TOKEN_CLOSE, "needs a comma or a closing parenthesis, not", "Each ( has its ).");
	next_token(parser);
	return node;
}

static CesqlNode *
literal(EsCesqlType type)
{
	CesqlNode  *node = palloc0(sizeof(CesqlNode));

	node->kind = CESQL_LITERAL;
	node->type = type;
	node->depth = 1;
	node->value.type = type;
	return node;
}

static CesqlNode *
make_node(Parser *parser, CesqlKind kind, EsCesqlType type, CesqlNode *left, CesqlNode *right)
{
	CesqlNode  *node = literal(type);

	node->kind = kind;
	if (left != NULL)
		add_argument(parser, node, left);
	if (right != NULL)
		add_argument(parser, node, right);
	return node;
}

/* there is room for the next one wherever their number is a power of two, or none */
static void
add_argument(Parser *parser, CesqlNode *node, CesqlNode *arg)
{
	if (node->nargs == 0)
		node->args = palloc(2 * sizeof(CesqlNode *));
	else if (node->nargs > 1 && (node->nargs & (node->nargs - 1)) == 0)
		node->args = repalloc(node->args, 2 * node->nargs * sizeof(CesqlNode *));
	node->args[node->nargs++] = arg;
	node->depth = Max(node->depth, arg->depth + 1);
	if (node->depth > MAX_DEPTH)
		refuse(parser, "is nested too deeply, or a chain too long, before", &parser->token, "Write x IN (...) for many alternatives.");
}

/* the only escape is that of the quote that ends the string; what LIKE escapes, it finds as it was written */
static char *
unquoted(const Token *token, int *len)
{
	char		quote = token->start[0];
	char	   *result = palloc(token->len);

	*len = 0;
	for (int i = 1; i < token->len - 1; i++)
	{
		if (token->start[i] == '\\' && i + 1 < token->len - 1)
		{
			if (token->start[i + 1] != quote)
				result[(*len)++] = '\\';
			i++;
		}
		result[(*len)++] = token->start[i];
	}
	result[*len] = '\0';
	return result;
}

static bool
is_word(const Token *token, const char *name)
{
	return token->len == strlen(name) && pg_strncasecmp(token->start, name, token->len) == 0;
}

static void
next_token(Parser *parser)
{
	const char *c = parser->token.start + parser->token.len;

	while (*c == ' ' || *c == '\t' || *c == '\r' || *c == '\n')
		c++;
	parser->token = (Token) {.kind = TOKEN_END, .start = c};
	if (*c == '\0')
		return;
	if (*c == '\'' || *c == '"')
		scan_string(parser);
	else if (isalnum((unsigned char) *c) && !IS_HIGHBIT_SET(*c))
		scan_word(parser);
	else if (!scan_symbol(parser))
	{
		parser->token.len = cesql_char_len(c, parser->end);
		refuse(parser, "has a character that belongs to no word or operator:", &parser->token, "Text is put in quotes. Expressions see the attributes of the CloudEvent; what is in its data, a \"pattern\" looks for.");
	}
}

/* a backslash takes the next character with it, so that \' does not end the string */
static void
scan_string(Parser *parser)
{
	const char *start = parser->token.start;
	const char *c = start + 1;

	while (*c != '\0' && *c != *start)
		c += *c == '\\' && c[1] != '\0' ? 2 : 1;
	parser->token.kind = TOKEN_STRING;
	parser->token.len = c - start + (*c == '\0' ? 0 : 1);
	if (*c == '\0')
		refuse(parser, "has a string without its closing quote:", &parser->token, "A quote in a string is written \\' or \\\".");
}

static void
scan_word(Parser *parser)
{
	const char *c = parser->token.start;
	bool		is_number = true;

	for (; (isalnum((unsigned char) *c) && !IS_HIGHBIT_SET(*c)) || *c == '_'; c++)
		is_number &= *c >= '0' && *c <= '9';
	parser->token.len = c - parser->token.start;
	parser->token.kind = is_number ? TOKEN_INTEGER : TOKEN_WORD;
	for (int i = 0; i < lengthof(keywords); i++)
		if (is_word(&parser->token, keywords[i].name))
		{
			parser->token.kind = keywords[i].token;
			parser->token.operator = keywords[i].operator;
		}
}

static bool
scan_symbol(Parser *parser)
{
	static const char others[] = "(),";
	const char *other = strchr(others, *parser->token.start);

	if (other != NULL)
	{
		parser->token.kind = TOKEN_OPEN + (other - others);
		parser->token.len = 1;
		return true;
	}
	for (int i = 0; i < lengthof(operators); i++)
		if (strncmp(parser->token.start, operators[i].name, strlen(operators[i].name)) == 0)
		{
			parser->token.kind = TOKEN_OPERATOR;
			parser->token.operator = operators[i].operator;
			parser->token.len = strlen(operators[i].name);
			return true;
		}
	return false;
}

/* one level deeper; parentheses leave no node behind that could be counted */
static void
enter(Parser *parser)
{
	check_stack_depth();
	if (++parser->depth > MAX_DEPTH)
		refuse(parser, "is nested too deeply, at", &parser->token, psprintf("The limit is %d.", MAX_DEPTH));
}

static void
expect(Parser *parser, TokenKind kind, const char *problem, const char *hint)
{
	if (parser->token.kind != kind)
		refuse(parser, problem, &parser->token, hint);
}

static void
refuse(Parser *parser, const char *problem, const Token *token, const char *hint)
{
	int			place = pg_mbstrlen_with_len(parser->text, token->start - parser->text) + 1;

	if (token->len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"expression\" in %s %s its end, at character %d", parser->what, problem, place),
				 errhint("%s", hint)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"expression\" in %s %s \"%s\", at character %d", parser->what, problem, es_arg_shown(token->start, token->len), place),
			 errhint("%s", hint)));
}
