/*
 * cesql_eval.c
 *		Evaluation of CESQL: an expression against the attributes of one event.
 *
 * Runs wherever filters do; keeps nothing.  The specification's fail-fast mode: the first error ends the evaluation, and what is
 * around it has the zero value of its type.  Operators and functions that fail themselves have the result that the specification
 * names.  Nothing here raises an error for what is in an event: an append must not fail because of a filter.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "common/int.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/formatting.h"

#include "cesql.h"
#include "cesql_tree.h"

/* bytes of a result of CONCAT, CONCAT_WS, LOWER, UPPER: attributes are not long, expressions that repeat them are */
#define MAX_STRING (16 * 1024 * 1024)

typedef struct Evaluation
{
	EsCesqlLookup lookup;
	void	   *arg;
	EsCesqlError error;
} Evaluation;

static void evaluate(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static bool evaluate_as(Evaluation *evaluation, const CesqlNode *node, EsCesqlType type, EsCesqlValue *result);
static bool cast(EsCesqlValue *value, EsCesqlType type);
static bool parse_int32(const EsCesqlValue *value, int32 *result);
static bool parse_boolean(const EsCesqlValue *value, bool *result);
static void set_string(EsCesqlValue *value, const char *string, int len);
static void evaluate_logic(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static void evaluate_equal(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static bool is_equal(const EsCesqlValue *a, const EsCesqlValue *b);
static void evaluate_order(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static void evaluate_arithmetic(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static void evaluate_like(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static bool matches_like(const CesqlNode *node, const char *s, const char *end);
static void evaluate_in(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static void evaluate_function(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static void concatenate(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static void change_case(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static void trim(EsCesqlValue *result);
static bool is_whitespace(const char *c, int len);
static void evaluate_part(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result);
static void skip_characters(EsCesqlValue *value, int n);
static void keep_characters(EsCesqlValue *value, int n);
static int	characters(const EsCesqlValue *value);

EsCesqlError
es_cesql_evaluate(const EsCesql *cesql, EsCesqlLookup lookup, void *arg, EsCesqlValue *result)
{
	Evaluation	evaluation = {.lookup = lookup, .arg = arg};

	evaluate(&evaluation, cesql->root, result);
	return evaluation.error;
}

/* the zero value of the node's type stands in the result until there is another */
static void
evaluate(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	check_stack_depth();
	*result = (EsCesqlValue) {.type = node->type, .string = ""};
	switch (node->kind)
	{
		case CESQL_LITERAL:
			*result = node->value;
			break;
		case CESQL_ATTRIBUTE:
			if (!evaluation->lookup(evaluation->arg, node->name, result))
			{
				*result = (EsCesqlValue) {.type = ES_CESQL_BOOLEAN};
				evaluation->error = ES_CESQL_MISSING_ATTRIBUTE;
			}
			break;
		case CESQL_EXISTS:
			{
				EsCesqlValue ignored;

				result->boolean = evaluation->lookup(evaluation->arg, node->name, &ignored);
				break;
			}
		case CESQL_NOT:
		case CESQL_AND:
		case CESQL_OR:
		case CESQL_XOR:
			evaluate_logic(evaluation, node, result);
			break;
		case CESQL_EQUAL:
		case CESQL_NOT_EQUAL:
			evaluate_equal(evaluation, node, result);
			break;
		case CESQL_LESS:
		case CESQL_LESS_EQUAL:
		case CESQL_GREATER:
		case CESQL_GREATER_EQUAL:
			evaluate_order(evaluation, node, result);
			break;
		case CESQL_MINUS:
		case CESQL_ADD:
		case CESQL_SUBTRACT:
		case CESQL_MULTIPLY:
		case CESQL_DIVIDE:
		case CESQL_MODULO:
			evaluate_arithmetic(evaluation, node, result);
			break;
		case CESQL_LIKE:
			evaluate_like(evaluation, node, result);
			break;
		case CESQL_IN:
			evaluate_in(evaluation, node, result);
			break;
		case CESQL_FUNCTION:
			evaluate_function(evaluation, node, result);
			break;
	}
}

/* false: there was an error */
static bool
evaluate_as(Evaluation *evaluation, const CesqlNode *node, EsCesqlType type, EsCesqlValue *result)
{
	evaluate(evaluation, node, result);
	if (evaluation->error == ES_CESQL_OK && !cast(result, type))
		evaluation->error = ES_CESQL_CAST;
	return evaluation->error == ES_CESQL_OK;
}

/* false: it cannot be; the value is then the zero value of that type */
static bool
cast(EsCesqlValue *value, EsCesqlType type)
{
	EsCesqlValue from = *value;
	bool		ok = true;

	if (from.type == type)
		return true;
	*value = (EsCesqlValue) {.type = type, .string = ""};
	switch (type)
	{
		case ES_CESQL_BOOLEAN:
			if (from.type == ES_CESQL_INTEGER)
				value->boolean = from.integer != 0;
			else
				ok = parse_boolean(&from, &value->boolean);
			break;
		case ES_CESQL_INTEGER:
			if (from.type == ES_CESQL_BOOLEAN)
				value->integer = from.boolean ? 1 : 0;
			else
				ok = parse_int32(&from, &value->integer);
			break;
		case ES_CESQL_STRING:
			if (from.type == ES_CESQL_BOOLEAN)
				value->string = from.boolean ? "true" : "false";
			else
				value->string = psprintf("%d", from.integer);
			value->len = strlen(value->string);
			break;
	}
	return ok;
}

/* digits, with a sign or without, and nothing around them */
static bool
parse_int32(const EsCesqlValue *value, int32 *result)
{
	int			i = value->len > 0 && (value->string[0] == '-' || value->string[0] == '+') ? 1 : 0;
	int64		number = 0;

	*result = 0;
	if (i == value->len)
		return false;
	for (; i < value->len; i++)
	{
		if (value->string[i] < '0' || value->string[i] > '9')
			return false;
		number = number * 10 + (value->string[i] - '0');
		if (number > (int64) PG_INT32_MAX + 1)
			return false;
	}
	if (value->string[0] == '-')
		number = -number;
	if (number != (int32) number)
		return false;
	*result = (int32) number;
	return true;
}

static bool
parse_boolean(const EsCesqlValue *value, bool *result)
{
	*result = value->len == 4 && pg_strncasecmp(value->string, "true", 4) == 0;
	return *result || (value->len == 5 && pg_strncasecmp(value->string, "false", 5) == 0);
}

static void
set_string(EsCesqlValue *value, const char *string, int len)
{
	*value = (EsCesqlValue) {.type = ES_CESQL_STRING, .string = string, .len = len};
}

static void
evaluate_logic(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	EsCesqlValue left;
	EsCesqlValue right;

	if (!evaluate_as(evaluation, node->args[0], ES_CESQL_BOOLEAN, &left))
		return;
	if (node->kind == CESQL_NOT)
		result->boolean = !left.boolean;
	else if ((node->kind == CESQL_AND && !left.boolean) || (node->kind == CESQL_OR && left.boolean))
		result->boolean = left.boolean;
	else if (evaluate_as(evaluation, node->args[1], ES_CESQL_BOOLEAN, &right))
		result->boolean = node->kind == CESQL_XOR ? left.boolean != right.boolean : right.boolean;
}

/* the right side says as what they are compared */
static void
evaluate_equal(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	EsCesqlValue left;
	EsCesqlValue right;

	evaluate(evaluation, node->args[0], &left);
	if (evaluation->error == ES_CESQL_OK)
		evaluate(evaluation, node->args[1], &right);
	if (evaluation->error != ES_CESQL_OK)
		return;
	if (!cast(&left, right.type))
		evaluation->error = ES_CESQL_CAST;
	else
		result->boolean = is_equal(&left, &right) == (node->kind == CESQL_EQUAL);
}

/* of one type */
static bool
is_equal(const EsCesqlValue *a, const EsCesqlValue *b)
{
	switch (a->type)
	{
		case ES_CESQL_BOOLEAN:
			return a->boolean == b->boolean;
		case ES_CESQL_INTEGER:
			return a->integer == b->integer;
		case ES_CESQL_STRING:
			return a->len == b->len && memcmp(a->string, b->string, a->len) == 0;
	}
	return false;
}

static void
evaluate_order(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	EsCesqlValue left;
	EsCesqlValue right;

	if (!evaluate_as(evaluation, node->args[0], ES_CESQL_INTEGER, &left) ||
		!evaluate_as(evaluation, node->args[1], ES_CESQL_INTEGER, &right))
		return;
	if (node->kind == CESQL_LESS)
		result->boolean = left.integer < right.integer;
	else if (node->kind == CESQL_LESS_EQUAL)
		result->boolean = left.integer <= right.integer;
	else if (node->kind == CESQL_GREATER)
		result->boolean = left.integer > right.integer;
	else
		result->boolean = left.integer >= right.integer;
}

/* what does not fit into 32 bits is an error, with 0 */
static void
evaluate_arithmetic(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	EsCesqlValue left = {.type = ES_CESQL_INTEGER};
	EsCesqlValue right;
	bool		is_unary = node->kind == CESQL_MINUS;
	bool		overflow = false;

	if ((!is_unary && !evaluate_as(evaluation, node->args[0], ES_CESQL_INTEGER, &left)) ||
		!evaluate_as(evaluation, node->args[is_unary ? 0 : 1], ES_CESQL_INTEGER, &right))
		return;
	switch (node->kind)
	{
		case CESQL_ADD:
			overflow = pg_add_s32_overflow(left.integer, right.integer, &result->integer);
			break;
		case CESQL_MULTIPLY:
			overflow = pg_mul_s32_overflow(left.integer, right.integer, &result->integer);
			break;
		case CESQL_DIVIDE:
			/* the second: its quotient does not fit, and processors trap */
			overflow = right.integer == 0 || (left.integer == PG_INT32_MIN && right.integer == -1);
			if (!overflow)
				result->integer = left.integer / right.integer;
			break;
		case CESQL_MODULO:
			overflow = right.integer == 0;
			if (!overflow && right.integer != -1)
				result->integer = left.integer % right.integer;
			break;
		default:				/* a difference, of 0 where it is a sign */
			overflow = pg_sub_s32_overflow(left.integer, right.integer, &result->integer);
			break;
	}
	if (overflow)
	{
		result->integer = 0;
		evaluation->error = ES_CESQL_MATH;
	}
}

static void
evaluate_like(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	EsCesqlValue left;

	if (evaluate_as(evaluation, node->args[0], ES_CESQL_STRING, &left))
		result->boolean = matches_like(node, left.string, left.string + left.len) != node->negated;
}

/* after a mismatch the last % takes one character more: those before it need never be looked at again */
static bool
matches_like(const CesqlNode *node, const char *s, const char *end)
{
	const char *taken_to = NULL;
	int			last_percent = -1;
	int			i = 0;

	while (s < end)
	{
		const CesqlLikeItem *item = i < node->nitems ? &node->items[i] : NULL;
		int			len = cesql_char_len(s, end);

		if (item != NULL && item->kind == '%')
		{
			last_percent = i++;
			taken_to = s;
		}
		else if (item != NULL && (item->kind == '_' || (item->len == len && memcmp(item->character, s, len) == 0)))
		{
			i++;
			s += len;
		}
		else if (last_percent >= 0)
		{
			CHECK_FOR_INTERRUPTS();
			taken_to += cesql_char_len(taken_to, end);
			s = taken_to;
			i = last_percent + 1;
		}
		else
			return false;
	}
	while (i < node->nitems && node->items[i].kind == '%')
		i++;
	return i == node->nitems;
}

/* the left side says as what they are compared; what stands after the one that is equal is not looked at */
static void
evaluate_in(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	EsCesqlValue left;
	EsCesqlValue element;
	bool		found = false;

	evaluate(evaluation, node->args[0], &left);
	if (evaluation->error != ES_CESQL_OK)
		return;
	for (int i = 1; i < node->nargs && !found; i++)
	{
		if (!evaluate_as(evaluation, node->args[i], left.type, &element))
			return;
		found = is_equal(&left, &element);
	}
	result->boolean = found != node->negated;
}

static void
evaluate_function(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	EsCesqlValue value;

	switch (node->function)
	{
		case CESQL_UNKNOWN_FUNCTION:
			evaluation->error = ES_CESQL_MISSING_FUNCTION;
			break;
		case CESQL_ABS:
			if (!evaluate_as(evaluation, node->args[0], ES_CESQL_INTEGER, &value))
				break;
			if (value.integer == PG_INT32_MIN)
				evaluation->error = ES_CESQL_MATH;
			result->integer = value.integer == PG_INT32_MIN ? PG_INT32_MAX : abs(value.integer);
			break;
		case CESQL_LENGTH:
			if (evaluate_as(evaluation, node->args[0], ES_CESQL_STRING, &value))
				result->integer = characters(&value);
			break;
		case CESQL_CONCAT:
		case CESQL_CONCAT_WS:
			concatenate(evaluation, node, result);
			break;
		case CESQL_LOWER:
		case CESQL_UPPER:
			change_case(evaluation, node, result);
			break;
		case CESQL_TRIM:
			if (evaluate_as(evaluation, node->args[0], ES_CESQL_STRING, &value))
			{
				trim(&value);
				*result = value;
			}
			break;
		case CESQL_LEFT:
		case CESQL_RIGHT:
		case CESQL_SUBSTRING:
			evaluate_part(evaluation, node, result);
			break;
		case CESQL_INT:
		case CESQL_BOOL:
		case CESQL_STRING:
			if (evaluate_as(evaluation, node->args[0], node->type, &value))
				*result = value;
			break;
		case CESQL_IS_INT:
		case CESQL_IS_BOOL:
			evaluate(evaluation, node->args[0], &value);
			if (evaluation->error == ES_CESQL_OK)
				result->boolean = cast(&value, node->function == CESQL_IS_INT ? ES_CESQL_INTEGER : ES_CESQL_BOOLEAN);
			break;
	}
}

static void
concatenate(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	int			first = node->function == CESQL_CONCAT_WS ? 1 : 0;
	EsCesqlValue delimiter = {.string = ""};
	EsCesqlValue value;
	StringInfoData buf;

	if (first == 1 && !evaluate_as(evaluation, node->args[0], ES_CESQL_STRING, &delimiter))
		return;
	initStringInfo(&buf);
	for (int i = first; i < node->nargs; i++)
	{
		if (!evaluate_as(evaluation, node->args[i], ES_CESQL_STRING, &value))
			return;
		if (buf.len + (int64) delimiter.len + value.len > MAX_STRING)
		{
			evaluation->error = ES_CESQL_FUNCTION_EVALUATION;
			return;
		}
		if (i > first)
			appendBinaryStringInfo(&buf, delimiter.string, delimiter.len);
		appendBinaryStringInfo(&buf, value.string, value.len);
	}
	set_string(result, buf.data, buf.len);
}

static void
change_case(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	EsCesqlValue value;
	char	   *changed;

	if (!evaluate_as(evaluation, node->args[0], ES_CESQL_STRING, &value))
		return;
	if (value.len > MAX_STRING)
	{
		evaluation->error = ES_CESQL_FUNCTION_EVALUATION;
		return;
	}
	changed = node->function == CESQL_LOWER ? str_tolower(value.string, value.len, DEFAULT_COLLATION_OID) :
		str_toupper(value.string, value.len, DEFAULT_COLLATION_OID);
	set_string(result, changed, strlen(changed));
}

static void
trim(EsCesqlValue *result)
{
	const char *c = result->string;
	const char *end = c + result->len;
	const char *kept = NULL;	/* the end of the last character that is no whitespace */
	const char *start = end;

	while (c < end)
	{
		int			len = cesql_char_len(c, end);

		if (!is_whitespace(c, len))
		{
			if (kept == NULL)
				start = c;
			kept = c + len;
		}
		c += len;
	}
	set_string(result, start, kept == NULL ? 0 : kept - start);
}

/* White_Space of Unicode; in other encodings than UTF-8 what of it is ASCII */
static bool
is_whitespace(const char *c, int len)
{
	pg_wchar	code = (unsigned char) *c;

	if (len > 1 && GetDatabaseEncoding() != PG_UTF8)
		return false;
	if (len > 1)
		code = utf8_to_unicode((const unsigned char *) c);
	else if (IS_HIGHBIT_SET(*c))
		return false;
	return (code >= 0x09 && code <= 0x0d) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
		(code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

/* LEFT, RIGHT, SUBSTRING */
static void
evaluate_part(Evaluation *evaluation, const CesqlNode *node, EsCesqlValue *result)
{
	EsCesqlValue value;
	EsCesqlValue number;
	EsCesqlValue len = {.integer = PG_INT32_MAX};
	int			n;

	if (!evaluate_as(evaluation, node->args[0], ES_CESQL_STRING, &value) ||
		!evaluate_as(evaluation, node->args[1], ES_CESQL_INTEGER, &number) ||
		(node->nargs > 2 && !evaluate_as(evaluation, node->args[2], ES_CESQL_INTEGER, &len)))
		return;
	n = characters(&value);
	if (node->function != CESQL_SUBSTRING)
	{
		if (number.integer < 0)
			evaluation->error = ES_CESQL_FUNCTION_EVALUATION;
		else if (node->function == CESQL_LEFT)
			keep_characters(&value, number.integer);
		else
			skip_characters(&value, n - Min(n, number.integer));
		*result = value;
		return;
	}
	if (len.integer < 0 || number.integer > n || number.integer < -n)
	{
		evaluation->error = ES_CESQL_FUNCTION_EVALUATION;
		return;
	}
	if (number.integer == 0)
		return;
	skip_characters(&value, number.integer > 0 ? number.integer - 1 : n + number.integer);
	keep_characters(&value, len.integer);
	*result = value;
}

static void
skip_characters(EsCesqlValue *value, int n)
{
	int			bytes = pg_mbcharcliplen(value->string, value->len, n);

	set_string(value, value->string + bytes, value->len - bytes);
}

static void
keep_characters(EsCesqlValue *value, int n)
{
	set_string(value, value->string, pg_mbcharcliplen(value->string, value->len, n));
}

static int
characters(const EsCesqlValue *value)
{
	return pg_mbstrlen_with_len(value->string, value->len);
}
