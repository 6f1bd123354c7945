/*
 * pattern_parse.c
 *		Reading of content patterns: from jsonb to a tree, or to an error that names the field.
 *
 * Runs wherever filters are read; keeps nothing.  What is accepted is what event patterns of Amazon EventBridge are, and somewhat more:
 * any scalar after "anything-but", bounds of numbers in any order, networks of a single address.  Refused is what they refuse, and
 * what can match nothing.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <sys/socket.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "arg.h"
#include "compat.h"
#include "options.h"
#include "pattern_tree.h"

/* patterns without "$or" that one with it may come to; as Amazon EventBridge has it */
#define MAX_COMBINATIONS 1000

/* what a compilation knows, for messages */
typedef struct Compiler
{
	const char *what;
	StringInfoData path;		/* of the key at hand: data.total */
	int			choices;		/* "$or" that it stands in */
} Compiler;

#define MATCHERS_HINT "A matcher is a string, number, true, false or null, or one of {\"prefix\"}, {\"suffix\"}, " \
	"{\"equals-ignore-case\"}, {\"wildcard\"}, {\"anything-but\"}, {\"numeric\"}, {\"cidr\"}, {\"exists\"}."
#define CHOICE_HINT "One of them has to match, and all that stands beside \"$or\"."

static PatternNode *compile_object(Compiler *compiler, JsonbContainer *object, bool is_root);
static void compile_field(Compiler *compiler, PatternNode *object, char *key, const JsonbValue *value, bool is_root);
static int	compile_choice(Compiler *compiler, PatternChoice *choice, const JsonbValue *value, bool is_root);
static int	multiply(Compiler *compiler, int a, int b);
static PatternNode *compile_matchers(Compiler *compiler, JsonbContainer *array);
static void compile_matcher(Compiler *compiler, PatternMatcher *matcher, const JsonbValue *value);
static void compile_named(Compiler *compiler, PatternMatcher *matcher, const char *name, const JsonbValue *value);
static bool find_text_operator(const char *name, PatternOperator *operator);
static void compile_text(Compiler *compiler, PatternMatcher *matcher, PatternOperator operator, const char *name, const JsonbValue *value);
static void compile_string(Compiler *compiler, PatternMatcher *matcher, PatternOperator operator, const char *name, const JsonbValue *value);
static void compile_numeric(Compiler *compiler, PatternMatcher *matcher, const JsonbValue *value);
static bool parse_comparison(const JsonbValue *value, PatternComparison *comparison);
static bool is_beyond(const PatternBound *low, const PatternBound *high);
static void compile_cidr(Compiler *compiler, PatternMatcher *matcher, const JsonbValue *value);
static void compile_anything_but(Compiler *compiler, PatternMatcher *matcher, const JsonbValue *value);
static bool compile_excluded(Compiler *compiler, PatternMatcher *matcher, PatternOperator operator, const char *name, const JsonbValue *value);
static char *find_only_key(const JsonbValue *object, JsonbValue *argument);
static void copy_scalar(JsonbValue *to, const JsonbValue *from);
static int	enter(Compiler *compiler, const char *key, int len);
static void leave(Compiler *compiler, int before);
static void refuse(Compiler *compiler, const char *problem, const char *hint) es_noreturn;
static char *show(const JsonbValue *value);

EsPattern *
es_pattern_compile(Jsonb *pattern, const char *what)
{
	EsPattern  *result = palloc0(sizeof(EsPattern));
	Compiler	compiler = {.what = what};

	initStringInfo(&compiler.path);
	if (!JB_ROOT_IS_OBJECT(pattern))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"pattern\" in %s must be an object, not %s", what, es_options_shown(pattern))));
	result->root = es_pattern_join(compile_object(&compiler, &pattern->root, true));
	pfree(compiler.path.data);
	return result;
}

static PatternNode *
compile_object(Compiler *compiler, JsonbContainer *object, bool is_root)
{
	PatternNode *node = palloc0(sizeof(PatternNode));
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;
	int			before = 0;

	check_stack_depth();
	if (JsonContainerSize(object) == 0)
		refuse(compiler, "says nothing", "Name a field, or leave the pattern out.");
	node->is_object = true;
	node->combinations = 1;
	node->fields = palloc(JsonContainerSize(object) * sizeof(PatternField));
	node->choices = palloc(JsonContainerSize(object) * sizeof(PatternChoice));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			before = enter(compiler, v.val.string.val, v.val.string.len);
			key = pnstrdup(v.val.string.val, v.val.string.len);
		}
		else if (token == WJB_VALUE)
		{
			compile_field(compiler, node, key, &v, is_root);
			leave(compiler, before);
		}
	}
	return node;
}

static void
compile_field(Compiler *compiler, PatternNode *object, char *key, const JsonbValue *value, bool is_root)
{
	PatternField *field = &object->fields[object->nfields];
	PatternOperator ignored;
	bool		is_operator = find_text_operator(key, &ignored) || strcmp(key, "numeric") == 0 || strcmp(key, "cidr") == 0 ||
		strcmp(key, "exists") == 0 || strcmp(key, "anything-but") == 0;

	if (strcmp(key, "$or") == 0)
	{
		int			alternatives = compile_choice(compiler, &object->choices[object->nchoices++], value, is_root);

		object->combinations = multiply(compiler, object->combinations, alternatives);
		return;
	}
	if (is_root && strcmp(key, "data") != 0 && strcmp(key, "metadata") != 0)
		refuse(compiler, "is no part of an event that patterns look at",
			   "Known keys: \"data\", \"metadata\", \"$or\"; for the rest of an event the filter has \"types\", \"tags\" and others.");
	/* [{"prefix": ["a"]}] of a "$or" would else wait for a field of that name */
	if (compiler->choices > 0 && is_operator)
		refuse(compiler, "is a field in a \"$or\" with the name of a matcher", "A \"$or\" has objects with fields; several matchers of one field stand in its array.");
	if (!es_pattern_is_object(value) && !es_pattern_is_array(value))
		refuse(compiler, psprintf("must be an object or an array of matchers, not %s", show(value)), "Write [value] for one that is equal.");
	field->key = key;
	field->len = strlen(key);
	field->node = es_pattern_is_object(value) ? compile_object(compiler, value->val.binary.data, false) :
		compile_matchers(compiler, value->val.binary.data);
	object->nfields++;
	object->combinations = multiply(compiler, object->combinations, field->node->combinations);
}

/* the combinations that it comes to */
static int
compile_choice(Compiler *compiler, PatternChoice *choice, const JsonbValue *value, bool is_root)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	int			combinations = 0;

	if (!es_pattern_is_array(value) || JsonContainerSize(value->val.binary.data) < 2)
		refuse(compiler, psprintf("must be an array of two objects or more, not %s", show(value)), CHOICE_HINT);
	choice->n = 0;
	choice->nodes = palloc(JsonContainerSize(value->val.binary.data) * sizeof(PatternNode *));
	compiler->choices++;
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (!es_pattern_is_object(&v))
			refuse(compiler, psprintf("must be an array of objects, not of %s", show(&v)), CHOICE_HINT);
		choice->nodes[choice->n] = compile_object(compiler, v.val.binary.data, is_root);
		/* one that is too many is enough for multiply() */
		combinations = Min(combinations + choice->nodes[choice->n]->combinations, MAX_COMBINATIONS + 1);
		choice->n++;
	}
	compiler->choices--;
	return combinations;
}

static int
multiply(Compiler *compiler, int a, int b)
{
	if (a * b > MAX_COMBINATIONS)
		refuse(compiler, psprintf("comes to more than %d combinations of alternatives", MAX_COMBINATIONS),
			   "The numbers of alternatives of all \"$or\" that stand beside each other are multiplied.");
	return a * b;
}

static PatternNode *
compile_matchers(Compiler *compiler, JsonbContainer *array)
{
	PatternNode *node = palloc0(sizeof(PatternNode));
	JsonbIterator *it = JsonbIteratorInit(array);
	JsonbIteratorToken token;
	JsonbValue	v;

	if (JsonContainerSize(array) == 0)
		refuse(compiler, "has no matcher", MATCHERS_HINT);
	node->combinations = 1;
	node->matchers = palloc0(JsonContainerSize(array) * sizeof(PatternMatcher));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM)
		{
			PatternMatcher *matcher = &node->matchers[node->nmatchers++];

			compile_matcher(compiler, matcher, &v);
			node->takes_absence |= matcher->operator == MATCH_ABSENT;
		}
	return node;
}

static void
compile_matcher(Compiler *compiler, PatternMatcher *matcher, const JsonbValue *value)
{
	JsonbValue	argument;
	char	   *name;

	if (es_pattern_is_array(value))
		refuse(compiler, psprintf("has a matcher that is an array: %s", show(value)), MATCHERS_HINT);
	if (!es_pattern_is_object(value))
	{
		matcher->operator = MATCH_EXACT;
		copy_scalar(&matcher->value, value);
		return;
	}
	name = find_only_key(value, &argument);
	if (name == NULL)
		refuse(compiler, psprintf("has a matcher that does not have one key: %s", show(value)), MATCHERS_HINT);
	compile_named(compiler, matcher, name, &argument);
}

static void
compile_named(Compiler *compiler, PatternMatcher *matcher, const char *name, const JsonbValue *value)
{
	PatternOperator operator;

	if (find_text_operator(name, &operator))
		compile_text(compiler, matcher, operator, name, value);
	else if (strcmp(name, "numeric") == 0)
		compile_numeric(compiler, matcher, value);
	else if (strcmp(name, "cidr") == 0)
		compile_cidr(compiler, matcher, value);
	else if (strcmp(name, "anything-but") == 0)
		compile_anything_but(compiler, matcher, value);
	else if (strcmp(name, "exists") == 0)
	{
		if (value->type != jbvBool)
			refuse(compiler, psprintf("has \"exists\" with %s", show(value)), "It is true or false.");
		matcher->operator = value->val.boolean ? MATCH_PRESENT : MATCH_ABSENT;
	}
	else
		refuse(compiler, psprintf("has the unknown matcher \"%s\"", es_arg_shown(name, strlen(name))), MATCHERS_HINT);
}

/* those that compare with a string, and that "anything-but" takes */
static bool
find_text_operator(const char *name, PatternOperator *operator)
{
	static const struct
	{
		const char *name;
		PatternOperator operator;
	}			all[] = {
		{"prefix", MATCH_PREFIX}, {"suffix", MATCH_SUFFIX}, {"equals-ignore-case", MATCH_IGNORE_CASE}, {"wildcard", MATCH_WILDCARD}
	};

	for (int i = 0; i < lengthof(all); i++)
		if (strcmp(name, all[i].name) == 0)
		{
			*operator = all[i].operator;
			return true;
		}
	return false;
}

/* a string; for PREFIX and SUFFIX {"equals-ignore-case": string} too */
static void
compile_text(Compiler *compiler, PatternMatcher *matcher, PatternOperator operator, const char *name, const JsonbValue *value)
{
	bool		takes_object = operator == MATCH_PREFIX || operator == MATCH_SUFFIX;
	JsonbValue	argument;
	char	   *inner = takes_object ? find_only_key(value, &argument) : NULL;

	if (inner != NULL && strcmp(inner, "equals-ignore-case") == 0 && argument.type == jbvString)
		compile_string(compiler, matcher, operator == MATCH_PREFIX ? MATCH_PREFIX_IGNORE_CASE : MATCH_SUFFIX_IGNORE_CASE, name, &argument);
	else if (value->type == jbvString)
		compile_string(compiler, matcher, operator, name, value);
	else
		refuse(compiler, psprintf("has \"%s\" with %s", name, show(value)),
			   takes_object ? "It takes a string, or {\"equals-ignore-case\"} with a string." : "It takes a string.");
}

static void
compile_string(Compiler *compiler, PatternMatcher *matcher, PatternOperator operator, const char *name, const JsonbValue *value)
{
	const char *text = value->val.string.val;
	int			len = value->val.string.len;
	const char *problem;

	matcher->operator = operator;
	copy_scalar(&matcher->value, value);
	if (operator == MATCH_WILDCARD)
	{
		matcher->wildcard = es_wildcard_compile(text, len, &problem);
		if (matcher->wildcard == NULL)
			refuse(compiler, psprintf("has \"%s\" with %s, %s", name, show(value), problem),
				   "One \"*\" is any text; an asterisk is \\* and a backslash \\\\, in JSON written \\\\* and \\\\\\\\.");
	}
	else if (operator != MATCH_PREFIX && operator != MATCH_SUFFIX)
		matcher->caseless = es_caseless_compile(text, len);
}

/* [">", 0] or [">=", 0, "<", 100] */
static void
compile_numeric(Compiler *compiler, PatternMatcher *matcher, const JsonbValue *value)
{
	int			n = es_pattern_is_array(value) ? JsonContainerSize(value->val.binary.data) : 0;

	matcher->operator = MATCH_NUMERIC;
	for (int i = 0; i + 1 < n && i < 4; i += 2)
	{
		JsonbValue *comparison = getIthJsonbValueFromContainer(value->val.binary.data, i);
		JsonbValue *number = getIthJsonbValueFromContainer(value->val.binary.data, i + 1);
		PatternBound *bound = &matcher->bounds[matcher->nbounds];

		if (!parse_comparison(comparison, &bound->comparison) || number->type != jbvNumeric)
			break;
		bound->number = DatumGetNumericCopy(NumericGetDatum(number->val.numeric));
		matcher->nbounds++;
	}
	if (n == 0 || n > 4 || matcher->nbounds * 2 != n)
		refuse(compiler, psprintf("has \"numeric\" with %s", show(value)),
			   "It takes one or two pairs of \"=\", \"<\", \"<=\", \">\", \">=\" and a number, such as [\">\", 0, \"<=\", 100].");
	if (matcher->nbounds == 2 && (is_beyond(&matcher->bounds[0], &matcher->bounds[1]) || is_beyond(&matcher->bounds[1], &matcher->bounds[0])))
		refuse(compiler, psprintf("has \"numeric\" with %s, which no number is", show(value)), "The lower bound has to be below the upper one.");
}

static bool
parse_comparison(const JsonbValue *value, PatternComparison *comparison)
{
	static const struct
	{
		const char *name;
		PatternComparison comparison;
	}			all[] = {
		{"=", COMPARE_EQUAL}, {"<", COMPARE_LESS}, {"<=", COMPARE_LESS_EQUAL}, {">", COMPARE_GREATER}, {">=", COMPARE_GREATER_EQUAL}
	};

	for (int i = 0; i < lengthof(all) && value->type == jbvString; i++)
		if (value->val.string.len == strlen(all[i].name) && memcmp(value->val.string.val, all[i].name, value->val.string.len) == 0)
		{
			*comparison = all[i].comparison;
			return true;
		}
	return false;
}

/* is low a lower bound that is above high, an upper one? */
static bool
is_beyond(const PatternBound *low, const PatternBound *high)
{
	int			order = DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(low->number), NumericGetDatum(high->number)));
	bool		is_strict = low->comparison == COMPARE_GREATER || high->comparison == COMPARE_LESS;

	if (low->comparison == COMPARE_LESS || low->comparison == COMPARE_LESS_EQUAL ||
		high->comparison == COMPARE_GREATER || high->comparison == COMPARE_GREATER_EQUAL)
		return false;
	return order > 0 || (order == 0 && is_strict);
}

/* "10.0.0.0/24"; bits behind the mask do not count */
static void
compile_cidr(Compiler *compiler, PatternMatcher *matcher, const JsonbValue *value)
{
	PatternNetwork *network = &matcher->network;
	const char *text = value->val.string.val;
	int			len = value->type == jbvString ? value->val.string.len : 0;
	const char *slash = len == 0 ? NULL : memchr(text, '/', len);
	int			digits = slash == NULL ? 0 : text + len - slash - 1;

	matcher->operator = MATCH_CIDR;
	if (slash != NULL)
		network->family = es_pattern_parse_address(text, slash - text, network->address);
	for (int i = 1; i <= digits && digits <= 3 && network->bits >= 0; i++)
		network->bits = isdigit((unsigned char) slash[i]) ? network->bits * 10 + slash[i] - '0' : -1;
	if (network->family == 0 || digits == 0 || digits > 3 || network->bits < 0 || network->bits > (network->family == AF_INET ? 32 : 128))
		refuse(compiler, psprintf("has \"cidr\" with %s", show(value)),
			   "It takes a network, such as \"10.0.0.0/24\" or \"2001:db8::/32\": an address, a slash, and how many bits of it count.");
}

int
es_pattern_parse_address(const char *text, int len, unsigned char *address)
{
	char		terminated[INET6_ADDRSTRLEN];

	if (len >= sizeof(terminated))
		return 0;
	memcpy(terminated, text, len);
	terminated[len] = '\0';
	return inet_pton(AF_INET, terminated, address) == 1 ? AF_INET : inet_pton(AF_INET6, terminated, address) == 1 ? AF_INET6 : 0;
}

/* a value, several, or one of the matchers of text with one string or several */
static void
compile_anything_but(Compiler *compiler, PatternMatcher *matcher, const JsonbValue *value)
{
	PatternOperator operator = MATCH_EXACT;
	JsonbValue	argument = *value;
	char	   *name = find_only_key(value, &argument);
	bool		ok = name != NULL ? find_text_operator(name, &operator) : !es_pattern_is_object(value);
	int			n = 1;

	matcher->operator = MATCH_ANYTHING_BUT;
	if (ok && es_pattern_is_array(&argument))
	{
		n = JsonContainerSize(argument.val.binary.data);
		matcher->not = palloc0(n * sizeof(PatternMatcher));
		for (int i = 0; i < n && ok; i++)
			ok = compile_excluded(compiler, &matcher->not[matcher->nnot++], operator, name,
								  getIthJsonbValueFromContainer(argument.val.binary.data, i));
	}
	else if (ok)
	{
		matcher->not = palloc0(sizeof(PatternMatcher));
		ok = compile_excluded(compiler, &matcher->not[matcher->nnot++], operator, name, &argument);
	}
	if (!ok || n == 0)
		refuse(compiler, psprintf("has \"anything-but\" with %s", show(value)),
			   "It takes a value, an array of them, or {\"prefix\"}, {\"suffix\"}, {\"equals-ignore-case\"}, {\"wildcard\"} with a string or an array of strings; "
			   "the first two with none that is empty.");
}

/* false: not that */
static bool
compile_excluded(Compiler *compiler, PatternMatcher *matcher, PatternOperator operator, const char *name, const JsonbValue *value)
{
	if (operator == MATCH_EXACT)
	{
		if (value->type == jbvBinary)
			return false;
		compile_matcher(compiler, matcher, value);
		return true;
	}
	/* every string begins and ends with nothing */
	if (value->type != jbvString || (value->val.string.len == 0 && (operator == MATCH_PREFIX || operator == MATCH_SUFFIX)))
		return false;
	compile_string(compiler, matcher, operator, name, value);
	return true;
}

/* NULL: it is no object with one key */
static char *
find_only_key(const JsonbValue *object, JsonbValue *argument)
{
	JsonbIterator *it;
	JsonbValue	key;

	if (!es_pattern_is_object(object) || JsonContainerSize(object->val.binary.data) != 1)
		return NULL;
	it = JsonbIteratorInit(object->val.binary.data);
	(void) JsonbIteratorNext(&it, &key, true);
	(void) JsonbIteratorNext(&it, &key, true);
	(void) JsonbIteratorNext(&it, argument, true);
	return pnstrdup(key.val.string.val, key.val.string.len);
}

static void
copy_scalar(JsonbValue *to, const JsonbValue *from)
{
	*to = *from;
	if (from->type == jbvString)
		to->val.string.val = pnstrdup(from->val.string.val, from->val.string.len);
	else if (from->type == jbvNumeric)
		to->val.numeric = DatumGetNumericCopy(NumericGetDatum(from->val.numeric));
}

/* the path goes on with this key; what leave() takes back */
static int
enter(Compiler *compiler, const char *key, int len)
{
	int			before = compiler->path.len;

	appendStringInfo(&compiler->path, "%s%s", before == 0 ? "" : ".", es_arg_shown(key, len));
	return before;
}

static void
leave(Compiler *compiler, int before)
{
	compiler->path.len = before;
	compiler->path.data[before] = '\0';
}

static void
refuse(Compiler *compiler, const char *problem, const char *hint)
{
	if (compiler->path.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"pattern\" in %s %s", compiler->what, problem),
				 errhint("%s", hint)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" in the pattern of %s %s", compiler->path.data, compiler->what, problem),
			 errhint("%s", hint)));
}

static char *
show(const JsonbValue *value)
{
	return es_options_shown(JsonbValueToJsonb(unconstify(JsonbValue *, value)));
}
