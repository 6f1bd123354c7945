/*
 * asl_choice.c
 *		Choice rules of States Language: which state comes next.
 *
 * Runs in any backend; keeps nothing.  A rule is compiled once, with its definition: what a comparison is with is checked for its type then.
 * At run time a value of another type makes a comparison false.  A path that names nothing fails the state, as in Step Functions, but
 * for IsPresent, which is asked first in an And: what stands behind a false one is not looked at.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "asl_value.h"

typedef enum Kind
{
	KIND_AND,
	KIND_OR,
	KIND_NOT,
	KIND_COMPARE,
	KIND_MATCHES,
	KIND_IS
} Kind;

typedef enum Order
{
	ORDER_EQUAL,
	ORDER_LESS,
	ORDER_GREATER,
	ORDER_LESS_EQUAL,
	ORDER_GREATER_EQUAL
} Order;

typedef enum Type
{
	TYPE_STRING,
	TYPE_NUMBER,
	TYPE_BOOLEAN,
	TYPE_TIMESTAMP,
	TYPE_NULL,
	TYPE_PRESENT
} Type;

/* what is compared, and how many of the orders there are for it */
static const struct
{
	const char *name;
	Type		type;
	const char *said;
	int			norders;
}			types[] = {
	{"String", TYPE_STRING, "a string", 5},
	{"Numeric", TYPE_NUMBER, "a number", 5},
	{"Boolean", TYPE_BOOLEAN, "true or false", 1},
	{"Timestamp", TYPE_TIMESTAMP, "a timestamp, 2026-03-14T01:59:00Z", 5}
};

static const char *const orders[] = {
	[ORDER_EQUAL] = "Equals",
	[ORDER_LESS] = "LessThan",
	[ORDER_GREATER] = "GreaterThan",
	[ORDER_LESS_EQUAL] = "LessThanEquals",
	[ORDER_GREATER_EQUAL] = "GreaterThanEquals"
};

static const struct
{
	const char *name;
	Type		type;
}			tests[] = {
	{"IsString", TYPE_STRING}, {"IsNumeric", TYPE_NUMBER}, {"IsBoolean", TYPE_BOOLEAN}, {"IsTimestamp", TYPE_TIMESTAMP},
	{"IsNull", TYPE_NULL}, {"IsPresent", TYPE_PRESENT}
};

#define STAR (-1)

typedef struct Rule
{
	Kind		kind;
	List	   *rules;			/* of And, Or, Not: Rule */
	EsAslPath  *variable;
	Order		order;
	Type		type;
	EsAslPath  *path;			/* that the variable is compared with; NULL: constant */
	JsonbValue	constant;
	bool		expected;		/* of a test */
	int16	   *pattern;		/* bytes and STAR */
	int			npattern;
	char	   *next;
} Rule;

struct EsAslChoices
{
	List	   *rules;			/* Rule */
};

static Rule *compile_rule(const JsonbValue *value, bool is_top, const char *where, StringInfo faults);
static bool compile_field(Rule *rule, int *noperators, const char *key, const JsonbValue *value, const char *where, StringInfo faults);
static bool compile_group(Rule *rule, const char *key, const JsonbValue *value, const char *where, StringInfo faults);
static List *compile_list(const JsonbValue *value, bool is_top, const char *where, StringInfo faults);
static bool compile_test(Rule *rule, const char *key, const JsonbValue *value, const char *where, StringInfo faults);
static bool compile_comparison(Rule *rule, const char *key, const JsonbValue *value, const char *where, StringInfo faults);
static void compile_operand(Rule *rule, int type, bool is_path, const JsonbValue *value, const char *where, StringInfo faults);
static void compile_pattern(Rule *rule, const JsonbValue *value);
static bool is_of_type(const JsonbValue *value, Type type);
static EsAslPath *compile_path(const JsonbValue *value, const char *where, StringInfo faults);
static bool holds(const Rule *rule, const EsAslScope *scope, EsAslFault *fault);
static bool holds_group(const Rule *rule, const EsAslScope *scope, EsAslFault *fault);
static bool compare(const Rule *rule, const JsonbValue *a, const JsonbValue *b);
static bool order_of(Type type, const JsonbValue *a, const JsonbValue *b, int *order);
static bool matches(const Rule *rule, const JsonbValue *value);

EsAslChoices *
es_asl_choices_compile(const JsonbValue *rules, const char *where, StringInfo faults)
{
	EsAslChoices *choices = palloc0(sizeof(EsAslChoices));

	choices->rules = compile_list(rules, true, where, faults);
	return choices;
}

static List *
compile_list(const JsonbValue *value, bool is_top, const char *where, StringInfo faults)
{
	List	   *rules = NIL;
	JsonbIterator *it;
	JsonbValue	v;

	if (!es_asl_value_is_array(value) || JsonContainerSize(value->val.binary.data) == 0)
	{
		es_asl_add_fault(faults, where, "it is an array of rules, one at least, not %s", es_asl_value_shown(value));
		return NIL;
	}
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
		rules = lappend(rules, compile_rule(&v, is_top, psprintf("%s[%d]", where, list_length(rules)), faults));
	return rules;
}

/* only rules at the top say what comes next */
static Rule *
compile_rule(const JsonbValue *value, bool is_top, const char *where, StringInfo faults)
{
	Rule	   *rule = palloc0(sizeof(Rule));
	int			noperators = 0;
	bool		is_known = true;
	JsonbIterator *it;
	JsonbValue	v;

	check_stack_depth();
	if (!es_asl_value_is_object(value))
	{
		es_asl_add_fault(faults, where, "a rule is an object, not %s", es_asl_value_shown(value));
		return rule;
	}
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_KEY)
	{
		char	   *key = es_asl_value_string(&v);
		char	   *inner = es_asl_where(where, key);

		(void) JsonbIteratorNext(&it, &v, true);
		if (strcmp(key, "Next") != 0)
			is_known &= compile_field(rule, &noperators, key, &v, inner, faults);
		else if (!is_top)
			es_asl_add_fault(faults, inner, "only the rules of Choices themselves have it");
		else if (v.type != jbvString)
			es_asl_add_fault(faults, inner, "it is the name of a state, not %s", es_asl_value_shown(&v));
		else
			rule->next = es_asl_value_string(&v);
	}
	if (noperators != 1 && is_known)
		es_asl_add_fault(faults, where, "a rule has one comparison, or one of And, Or, Not; this has %d", noperators);
	else if (noperators == 1 && rule->kind >= KIND_COMPARE && rule->variable == NULL && getKeyJsonValueFromContainer(value->val.binary.data, "Variable", 8, &v) == NULL)
		es_asl_add_fault(faults, where, "\"Variable\" is missing");
	else if (noperators == 1 && rule->kind < KIND_COMPARE && rule->variable != NULL)
		es_asl_add_fault(faults, where, "And, Or and Not have no \"Variable\"");
	if (is_top && getKeyJsonValueFromContainer(value->val.binary.data, "Next", 4, &v) == NULL)
		es_asl_add_fault(faults, where, "\"Next\" is missing");
	return rule;
}

/* false: there is no such field */
static bool
compile_field(Rule *rule, int *noperators, const char *key, const JsonbValue *value, const char *where, StringInfo faults)
{
	if (strcmp(key, "Variable") == 0)
		rule->variable = compile_path(value, where, faults);
	else if (strcmp(key, "Comment") == 0)
	{
		if (value->type != jbvString)
			es_asl_add_fault(faults, where, "it is a string, not %s", es_asl_value_shown(value));
	}
	else if (compile_group(rule, key, value, where, faults) || compile_test(rule, key, value, where, faults) ||
			 compile_comparison(rule, key, value, where, faults))
		(*noperators)++;
	else
	{
		bool		is_jsonata = strcmp(key, "Condition") == 0 || strcmp(key, "Output") == 0;

		es_asl_add_fault(faults, where, is_jsonata ? "it belongs to JSONata, which is not supported: write comparisons of paths" :
						 strcmp(key, "Assign") == 0 ? "variables are not supported" : "a rule has no such field");
		return false;
	}
	return true;
}

static bool
compile_group(Rule *rule, const char *key, const JsonbValue *value, const char *where, StringInfo faults)
{
	if (strcmp(key, "Not") == 0)
	{
		rule->kind = KIND_NOT;
		rule->rules = list_make1(compile_rule(value, false, where, faults));
		return true;
	}
	if (strcmp(key, "And") != 0 && strcmp(key, "Or") != 0)
		return false;
	rule->kind = strcmp(key, "And") == 0 ? KIND_AND : KIND_OR;
	rule->rules = compile_list(value, false, where, faults);
	return true;
}

static bool
compile_test(Rule *rule, const char *key, const JsonbValue *value, const char *where, StringInfo faults)
{
	for (int i = 0; i < lengthof(tests); i++)
	{
		if (strcmp(key, tests[i].name) != 0)
			continue;
		if (value->type != jbvBool)
			es_asl_add_fault(faults, where, "it is true or false, not %s", es_asl_value_shown(value));
		rule->kind = KIND_IS;
		rule->type = tests[i].type;
		rule->expected = value->type == jbvBool && value->val.boolean;
		return true;
	}
	return false;
}

static bool
compile_comparison(Rule *rule, const char *key, const JsonbValue *value, const char *where, StringInfo faults)
{
	if (strcmp(key, "StringMatches") == 0)
	{
		rule->kind = KIND_MATCHES;
		if (value->type == jbvString)
			compile_pattern(rule, value);
		else
			es_asl_add_fault(faults, where, "it is a string, not %s", es_asl_value_shown(value));
		return true;
	}
	for (int i = 0; i < lengthof(types); i++)
	{
		int			len = strlen(types[i].name);

		if (strncmp(key, types[i].name, len) != 0)
			continue;
		for (int j = 0; j < types[i].norders; j++)
		{
			const char *rest = key + len;
			int			order_len = strlen(orders[j]);

			if (strncmp(rest, orders[j], order_len) != 0 || (rest[order_len] != '\0' && strcmp(rest + order_len, "Path") != 0))
				continue;
			rule->kind = KIND_COMPARE;
			rule->order = j;
			compile_operand(rule, i, rest[order_len] != '\0', value, where, faults);
			return true;
		}
	}
	return false;
}

static void
compile_operand(Rule *rule, int type, bool is_path, const JsonbValue *value, const char *where, StringInfo faults)
{
	rule->type = types[type].type;
	if (is_path)
		rule->path = compile_path(value, where, faults);
	else if (!is_of_type(value, rule->type))
		es_asl_add_fault(faults, where, "it is %s, not %s", types[type].said, es_asl_value_shown(value));
	else if (value->type == jbvString)
		es_asl_value_set_string(&rule->constant, es_asl_value_string(value), value->val.string.len);
	else
		es_asl_value_set_jsonb(&rule->constant, es_asl_value_jsonb(value));
}

/* * is any text, \* a star, \\ a backslash; any other backslash is itself */
static void
compile_pattern(Rule *rule, const JsonbValue *value)
{
	const char *at = value->val.string.val;
	const char *end = at + value->val.string.len;

	rule->pattern = palloc(Max(end - at, 1) * sizeof(int16));
	for (; at < end; at++)
	{
		if (*at == '\\' && at + 1 < end && (at[1] == '*' || at[1] == '\\'))
			rule->pattern[rule->npattern++] = (unsigned char) *++at;
		else
			rule->pattern[rule->npattern++] = *at == '*' ? STAR : (unsigned char) *at;
	}
}

static bool
is_of_type(const JsonbValue *value, Type type)
{
	int64		seconds;
	int			nanoseconds;

	switch (type)
	{
		case TYPE_STRING:
			return value->type == jbvString;
		case TYPE_NUMBER:
			return value->type == jbvNumeric;
		case TYPE_BOOLEAN:
			return value->type == jbvBool;
		case TYPE_TIMESTAMP:
			return value->type == jbvString && es_asl_instant(value->val.string.val, value->val.string.len, &seconds, &nanoseconds);
		case TYPE_NULL:
			return value->type == jbvNull;
		case TYPE_PRESENT:
			return true;
	}
	return false;
}

static EsAslPath *
compile_path(const JsonbValue *value, const char *where, StringInfo faults)
{
	if (value->type == jbvString)
		return es_asl_path_compile(es_asl_value_string(value), false, where, faults);
	es_asl_add_fault(faults, where, "it is a path, not %s", es_asl_value_shown(value));
	return NULL;
}

List *
es_asl_choices_targets(const EsAslChoices *choices)
{
	List	   *targets = NIL;
	ListCell   *lc;

	foreach(lc, choices->rules)
	{
		const Rule *rule = lfirst(lc);

		if (rule->next != NULL)
			targets = lappend(targets, rule->next);
	}
	return targets;
}

const char *
es_asl_choices_next(const EsAslChoices *choices, const EsAslScope *scope, EsAslFault *fault)
{
	ListCell   *lc;

	foreach(lc, choices->rules)
	{
		const Rule *rule = lfirst(lc);

		if (holds(rule, scope, fault))
			return rule->next;
		if (fault->error != NULL)
			return NULL;
	}
	return NULL;
}

/* false with a fault: it failed */
static bool
holds(const Rule *rule, const EsAslScope *scope, EsAslFault *fault)
{
	JsonbValue	value;
	JsonbValue	other = rule->constant;

	check_stack_depth();
	if (rule->kind < KIND_COMPARE)
		return holds_group(rule, scope, fault);
	if (!es_asl_path_get(rule->variable, scope, &value))
	{
		if (rule->kind == KIND_IS && rule->type == TYPE_PRESENT)
			return !rule->expected;
		return es_asl_fail(fault, ES_ASL_RUNTIME, "the variable %s of a choice rule names nothing", es_asl_path_text(rule->variable));
	}
	if (rule->kind == KIND_IS)
		return is_of_type(&value, rule->type) == rule->expected;
	if (rule->kind == KIND_MATCHES)
		return matches(rule, &value);
	if (rule->path != NULL && !es_asl_path_get(rule->path, scope, &other))
		return es_asl_fail(fault, ES_ASL_RUNTIME, "the path %s of a choice rule names nothing", es_asl_path_text(rule->path));
	return compare(rule, &value, &other);
}

static bool
holds_group(const Rule *rule, const EsAslScope *scope, EsAslFault *fault)
{
	bool		result = false;
	ListCell   *lc;

	foreach(lc, rule->rules)
	{
		result = holds(lfirst(lc), scope, fault);
		if (fault->error != NULL)
			return false;
		if (rule->kind != KIND_NOT && result == (rule->kind == KIND_OR))
			break;
	}
	return rule->kind == KIND_NOT ? !result : result;
}

static bool
compare(const Rule *rule, const JsonbValue *a, const JsonbValue *b)
{
	int			order;

	if (!is_of_type(a, rule->type) || !is_of_type(b, rule->type) || !order_of(rule->type, a, b, &order))
		return false;
	switch (rule->order)
	{
		case ORDER_EQUAL:
			return order == 0;
		case ORDER_LESS:
			return order < 0;
		case ORDER_GREATER:
			return order > 0;
		case ORDER_LESS_EQUAL:
			return order <= 0;
		case ORDER_GREATER_EQUAL:
			return order >= 0;
	}
	return false;
}

static bool
order_of(Type type, const JsonbValue *a, const JsonbValue *b, int *order)
{
	int64		seconds[2];
	int			nanoseconds[2];

	if (type == TYPE_BOOLEAN)
		*order = a->val.boolean - b->val.boolean;
	else if (type != TYPE_TIMESTAMP)
		return es_asl_value_order(a, b, order);
	else if (es_asl_instant(a->val.string.val, a->val.string.len, &seconds[0], &nanoseconds[0]) &&
			 es_asl_instant(b->val.string.val, b->val.string.len, &seconds[1], &nanoseconds[1]))
	{
		if (seconds[0] != seconds[1])
			*order = seconds[0] < seconds[1] ? -1 : 1;
		else
			*order = nanoseconds[0] - nanoseconds[1];
	}
	else
		return false;
	return true;
}

/* where a part does not fit, what the last star stands for is made longer */
static bool
matches(const Rule *rule, const JsonbValue *value)
{
	int			at = 0;
	int			item = 0;
	int			star = -1;
	int			star_end = 0;

	if (value->type != jbvString)
		return false;
	while (at < value->val.string.len)
	{
		if (item < rule->npattern && rule->pattern[item] == STAR)
		{
			star = item++;
			star_end = at;
		}
		else if (item < rule->npattern && rule->pattern[item] == (unsigned char) value->val.string.val[at])
		{
			item++;
			at++;
		}
		else if (star < 0)
			return false;
		else
		{
			item = star + 1;
			at = ++star_end;
		}
	}
	while (item < rule->npattern && rule->pattern[item] == STAR)
		item++;
	return item == rule->npattern;
}
