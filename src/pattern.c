/*
 * pattern.c
 *		Content patterns: what selects events by what is in their data and metadata.
 *
 * Runs wherever filters do.  A pattern is a tree in the shape of the document: objects, all of whose fields must match, and at their
 * ends arrays of matchers, any of which must.  It is compiled once, when a definition is read, and matched against jsonb as
 * it is stored: a field is found by binary search, nothing is copied.  Keeps nothing.
 *
 * Of an array in the document any element may match, and all that an object says must match in one element.  A field
 * that is not there matches {"exists": false} and nothing else.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "arg.h"
#include "compat.h"
#include "options.h"
#include "pattern.h"

typedef enum Operator
{
	MATCH_EXACT,
	MATCH_PREFIX,
	MATCH_SUFFIX,
	MATCH_IGNORE_CASE,
	MATCH_NUMERIC,
	MATCH_EXISTS,
	MATCH_ANYTHING_BUT
} Operator;

typedef enum Comparison
{
	COMPARE_EQUAL,
	COMPARE_LESS,
	COMPARE_LESS_EQUAL,
	COMPARE_GREATER,
	COMPARE_GREATER_EQUAL
} Comparison;

typedef struct Bound
{
	Comparison	comparison;
	Numeric		number;
} Bound;

typedef struct Matcher
{
	Operator	operator;
	JsonbValue	value;			/* EXACT; a string, in lower case for IGNORE_CASE, for PREFIX and SUFFIX too */
	bool		exists;			/* EXISTS */
	int			nbounds;		/* NUMERIC */
	Bound		bounds[2];
	int			nnot;			/* ANYTHING_BUT: none of these */
	struct Matcher *not;
} Matcher;

typedef struct PatternNode PatternNode;

typedef struct Field
{
	char	   *key;
	int			len;
	PatternNode	   *node;
} Field;

/* alternatives of a "$or": objects, one of which must match */
typedef struct Choice
{
	int			n;
	PatternNode	  **nodes;
} Choice;

/* an object, or the matchers of a field */
struct PatternNode
{
	bool		is_object;
	int			nfields;
	Field	   *fields;
	int			nchoices;
	Choice	   *choices;
	int			nmatchers;
	Matcher    *matchers;
};

struct EsPattern
{
	PatternNode	   *root;			/* its fields are data and metadata */
};

/* data and metadata, as they are needed */
enum
{
	DATA,
	METADATA,
	DOCUMENTS
};

static const char *const document_names[DOCUMENTS] = {"data", "metadata"};

typedef struct Document
{
	Datum		datum;
	Jsonb	   *jsonb;			/* NULL: not asked for yet */
	JsonbValue	value;
} Document;

/* what a compilation knows, for messages */
typedef struct Compiler
{
	const char *what;
	StringInfoData path;		/* of the key at hand: data.total */
} Compiler;

#define MATCHERS_HINT "A matcher is a string, number, true, false or null, or one of {\"prefix\"}, {\"suffix\"}, " \
	"{\"anything-but\"}, {\"numeric\"}, {\"exists\"}, {\"equals-ignore-case\"}."

static PatternNode *compile_object(Compiler *compiler, JsonbContainer *object, bool is_root);
static void compile_choice(Compiler *compiler, Choice *choice, const JsonbValue *value, bool is_root);
static PatternNode *compile_matchers(Compiler *compiler, JsonbContainer *array);
static void compile_matcher(Compiler *compiler, Matcher *matcher, const JsonbValue *value);
static void compile_named(Compiler *compiler, Matcher *matcher, const char *name, const JsonbValue *value);
static void compile_text(Compiler *compiler, Matcher *matcher, Operator operator, const char *name, const JsonbValue *value);
static void compile_numeric(Compiler *compiler, Matcher *matcher, const JsonbValue *value);
static bool parse_comparison(const JsonbValue *value, Comparison *comparison);
static void compile_anything_but(Compiler *compiler, Matcher *matcher, const JsonbValue *value);
static void copy_scalar(JsonbValue *to, const JsonbValue *from);
static int	enter(Compiler *compiler, const char *key, int len);
static void leave(Compiler *compiler, int before);
static void refuse(Compiler *compiler, const char *problem, const char *hint) es_noreturn;
static char *show(const JsonbValue *value);
static bool is_object(const JsonbValue *value);
static bool is_array(const JsonbValue *value);
static bool matches_root(const PatternNode *node, Document *documents);
static JsonbValue *open_document(Document *document);
static bool matches_node(const PatternNode *node, JsonbValue *value);
static bool matches_in_elements(const PatternNode *node, JsonbContainer *array);
static bool matches_object(const PatternNode *node, JsonbContainer *object);
static bool matches_any(const PatternNode *node, JsonbValue *value);
static bool matches_value(const Matcher *matcher, const JsonbValue *value);
static bool is_same(const JsonbValue *a, const JsonbValue *b);
static bool is_same_without_case(const Matcher *matcher, const JsonbValue *value);
static bool is_within(const Matcher *matcher, Numeric number);

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
	result->root = compile_object(&compiler, &pattern->root, true);
	pfree(compiler.path.data);
	return result;
}

bool
es_pattern_matches(const EsPattern *pattern, Datum data, Datum metadata)
{
	Document	documents[DOCUMENTS] = {{.datum = data}, {.datum = metadata}};
	bool		result = matches_root(pattern->root, documents);

	for (int i = 0; i < DOCUMENTS; i++)
		if (documents[i].jsonb != NULL && (Pointer) documents[i].jsonb != DatumGetPointer(documents[i].datum))
			pfree(documents[i].jsonb);
	return result;
}

static PatternNode *
compile_object(Compiler *compiler, JsonbContainer *object, bool is_root)
{
	PatternNode	   *node = palloc0(sizeof(PatternNode));
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	v;
	int			before = 0;

	check_stack_depth();
	if (JsonContainerSize(object) == 0)
		refuse(compiler, "says nothing", "Name a field, or leave the pattern out.");
	node->is_object = true;
	node->fields = palloc(JsonContainerSize(object) * sizeof(Field));
	node->choices = palloc(JsonContainerSize(object) * sizeof(Choice));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			Field	   *field = &node->fields[node->nfields];

			before = enter(compiler, v.val.string.val, v.val.string.len);
			field->key = pnstrdup(v.val.string.val, v.val.string.len);
			field->len = v.val.string.len;
		}
		else if (token == WJB_VALUE)
		{
			Field	   *field = &node->fields[node->nfields];

			if (strcmp(field->key, "$or") == 0)
				compile_choice(compiler, &node->choices[node->nchoices++], &v, is_root);
			else if (is_root && strcmp(field->key, "data") != 0 && strcmp(field->key, "metadata") != 0)
				refuse(compiler, "is no part of an event that patterns look at",
					   "Known keys: \"data\", \"metadata\", \"$or\"; for the rest of an event the filter has \"types\", \"tags\" and others.");
			else if (is_object(&v))
			{
				field->node = compile_object(compiler, v.val.binary.data, false);
				node->nfields++;
			}
			else if (is_array(&v))
			{
				field->node = compile_matchers(compiler, v.val.binary.data);
				node->nfields++;
			}
			else
				refuse(compiler, psprintf("must be an object or an array of matchers, not %s", show(&v)), "Write [value] for one that is equal.");
			leave(compiler, before);
		}
	}
	return node;
}

static void
compile_choice(Compiler *compiler, Choice *choice, const JsonbValue *value, bool is_root)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (!is_array(value) || JsonContainerSize(value->val.binary.data) == 0)
		refuse(compiler, psprintf("must be an array of objects, not %s", show(value)), "One of them has to match, and all that stands beside \"$or\".");
	choice->n = 0;
	choice->nodes = palloc(JsonContainerSize(value->val.binary.data) * sizeof(PatternNode *));
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (!is_object(&v))
			refuse(compiler, psprintf("must be an array of objects, not of %s", show(&v)), "One of them has to match, and all that stands beside \"$or\".");
		choice->nodes[choice->n++] = compile_object(compiler, v.val.binary.data, is_root);
	}
}

static PatternNode *
compile_matchers(Compiler *compiler, JsonbContainer *array)
{
	PatternNode	   *node = palloc0(sizeof(PatternNode));
	JsonbIterator *it = JsonbIteratorInit(array);
	JsonbIteratorToken token;
	JsonbValue	v;

	if (JsonContainerSize(array) == 0)
		refuse(compiler, "has no matcher", MATCHERS_HINT);
	node->matchers = palloc0(JsonContainerSize(array) * sizeof(Matcher));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			compile_matcher(compiler, &node->matchers[node->nmatchers++], &v);
	return node;
}

static void
compile_matcher(Compiler *compiler, Matcher *matcher, const JsonbValue *value)
{
	JsonbIterator *it;
	JsonbValue	key;
	JsonbValue	argument;

	if (is_array(value))
		refuse(compiler, psprintf("has a matcher that is an array: %s", show(value)), MATCHERS_HINT);
	if (!is_object(value))
	{
		matcher->operator = MATCH_EXACT;
		copy_scalar(&matcher->value, value);
		return;
	}
	if (JsonContainerSize(value->val.binary.data) != 1)
		refuse(compiler, psprintf("has a matcher that does not have one key: %s", show(value)), MATCHERS_HINT);
	it = JsonbIteratorInit(value->val.binary.data);
	(void) JsonbIteratorNext(&it, &key, true);
	(void) JsonbIteratorNext(&it, &key, true);
	(void) JsonbIteratorNext(&it, &argument, true);
	compile_named(compiler, matcher, pnstrdup(key.val.string.val, key.val.string.len), &argument);
}

static void
compile_named(Compiler *compiler, Matcher *matcher, const char *name, const JsonbValue *value)
{
	if (strcmp(name, "prefix") == 0)
		compile_text(compiler, matcher, MATCH_PREFIX, name, value);
	else if (strcmp(name, "suffix") == 0)
		compile_text(compiler, matcher, MATCH_SUFFIX, name, value);
	else if (strcmp(name, "equals-ignore-case") == 0)
		compile_text(compiler, matcher, MATCH_IGNORE_CASE, name, value);
	else if (strcmp(name, "numeric") == 0)
		compile_numeric(compiler, matcher, value);
	else if (strcmp(name, "anything-but") == 0)
		compile_anything_but(compiler, matcher, value);
	else if (strcmp(name, "exists") == 0)
	{
		if (value->type != jbvBool)
			refuse(compiler, psprintf("has \"exists\" with %s", show(value)), "It is true or false.");
		matcher->operator = MATCH_EXISTS;
		matcher->exists = value->val.boolean;
	}
	else
		refuse(compiler, psprintf("has the unknown matcher \"%s\"", es_arg_shown(name, strlen(name))), MATCHERS_HINT);
}

static void
compile_text(Compiler *compiler, Matcher *matcher, Operator operator, const char *name, const JsonbValue *value)
{
	if (value->type != jbvString)
		refuse(compiler, psprintf("has \"%s\" with %s", name, show(value)), "It takes a string.");
	matcher->operator = operator;
	copy_scalar(&matcher->value, value);
	if (operator == MATCH_IGNORE_CASE)
	{
		matcher->value.val.string.val = str_tolower(value->val.string.val, value->val.string.len, DEFAULT_COLLATION_OID);
		matcher->value.val.string.len = strlen(matcher->value.val.string.val);
	}
}

/* [">", 0] or [">=", 0, "<", 100] */
static void
compile_numeric(Compiler *compiler, Matcher *matcher, const JsonbValue *value)
{
	int			n = is_array(value) ? JsonContainerSize(value->val.binary.data) : 0;

	matcher->operator = MATCH_NUMERIC;
	for (int i = 0; i + 1 < n && i < 4; i += 2)
	{
		JsonbValue *comparison = getIthJsonbValueFromContainer(value->val.binary.data, i);
		JsonbValue *number = getIthJsonbValueFromContainer(value->val.binary.data, i + 1);
		Bound	   *bound = &matcher->bounds[matcher->nbounds];

		if (!parse_comparison(comparison, &bound->comparison) || number->type != jbvNumeric)
			break;
		bound->number = DatumGetNumericCopy(NumericGetDatum(number->val.numeric));
		matcher->nbounds++;
	}
	if (n == 0 || n > 4 || matcher->nbounds * 2 != n)
		refuse(compiler, psprintf("has \"numeric\" with %s", show(value)),
			   "It takes one or two pairs of \"=\", \"<\", \"<=\", \">\", \">=\" and a number, such as [\">\", 0, \"<=\", 100].");
}

static bool
parse_comparison(const JsonbValue *value, Comparison *comparison)
{
	static const struct
	{
		const char *name;
		Comparison	comparison;
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

/* a value, several, or one of the matchers of text */
static void
compile_anything_but(Compiler *compiler, Matcher *matcher, const JsonbValue *value)
{
	bool		is_empty = is_array(value) && JsonContainerSize(value->val.binary.data) == 0;

	matcher->operator = MATCH_ANYTHING_BUT;
	if (!is_empty && is_array(value))
	{
		PatternNode	   *node = compile_matchers(compiler, value->val.binary.data);

		matcher->nnot = node->nmatchers;
		matcher->not = node->matchers;
	}
	else if (!is_empty)
	{
		matcher->nnot = 1;
		matcher->not = palloc0(sizeof(Matcher));
		compile_matcher(compiler, matcher->not, value);
	}
	for (int i = 0; i < matcher->nnot; i++)
		is_empty |= matcher->not[i].operator == MATCH_ANYTHING_BUT || matcher->not[i].operator == MATCH_EXISTS ||
			matcher->not[i].operator == MATCH_NUMERIC;
	if (is_empty)
		refuse(compiler, psprintf("has \"anything-but\" with %s", show(value)),
			   "It takes a value, an array of them, or {\"prefix\"}, {\"suffix\"}, {\"equals-ignore-case\"}.");
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

static bool
is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

static bool
is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

static bool
matches_root(const PatternNode *node, Document *documents)
{
	for (int i = 0; i < node->nfields; i++)
	{
		Document   *document = &documents[strcmp(node->fields[i].key, document_names[DATA]) == 0 ? DATA : METADATA];

		if (!matches_node(node->fields[i].node, open_document(document)))
			return false;
	}
	for (int i = 0; i < node->nchoices; i++)
	{
		bool		any = false;

		for (int j = 0; j < node->choices[i].n && !any; j++)
			any = matches_root(node->choices[i].nodes[j], documents);
		if (!any)
			return false;
	}
	return true;
}

static JsonbValue *
open_document(Document *document)
{
	if (document->jsonb == NULL)
	{
		document->jsonb = DatumGetJsonbP(document->datum);
		if (!JsonbExtractScalar(&document->jsonb->root, &document->value))
		{
			document->value.type = jbvBinary;
			document->value.val.binary.data = &document->jsonb->root;
			document->value.val.binary.len = VARSIZE(document->jsonb) - VARHDRSZ;
		}
	}
	return &document->value;
}

/* value NULL: there is none */
static bool
matches_node(const PatternNode *node, JsonbValue *value)
{
	if (!node->is_object)
		return matches_any(node, value);
	if (value != NULL && is_array(value))
		return matches_in_elements(node, value->val.binary.data);
	return matches_object(node, value != NULL && is_object(value) ? value->val.binary.data : NULL);
}

/* without an object in it, it is as if it were not there */
static bool
matches_in_elements(const PatternNode *node, JsonbContainer *array)
{
	int			n = JsonContainerSize(array);
	bool		has_object = false;

	for (int i = 0; i < n; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(array, i);
		bool		found = false;

		if (element->type == jbvBinary)
		{
			has_object = true;
			found = matches_node(node, element);
		}
		pfree(element);
		if (found)
			return true;
	}
	return !has_object && matches_object(node, NULL);
}

static bool
matches_object(const PatternNode *node, JsonbContainer *object)
{
	check_stack_depth();
	for (int i = 0; i < node->nfields; i++)
	{
		const Field *field = &node->fields[i];
		JsonbValue	value;

		if (!matches_node(field->node, object == NULL ? NULL : getKeyJsonValueFromContainer(object, field->key, field->len, &value)))
			return false;
	}
	for (int i = 0; i < node->nchoices; i++)
	{
		bool		any = false;

		for (int j = 0; j < node->choices[i].n && !any; j++)
			any = matches_object(node->choices[i].nodes[j], object);
		if (!any)
			return false;
	}
	return true;
}

/* does any of the matchers match the value, or an element of it? */
static bool
matches_any(const PatternNode *node, JsonbValue *value)
{
	bool		found = false;

	for (int i = 0; i < node->nmatchers; i++)
		if (node->matchers[i].operator == MATCH_EXISTS && node->matchers[i].exists == (value != NULL))
			return true;
	if (value == NULL || is_object(value))
		return false;
	if (is_array(value))
	{
		int			n = JsonContainerSize(value->val.binary.data);

		check_stack_depth();
		for (int i = 0; i < n && !found; i++)
		{
			JsonbValue *element = getIthJsonbValueFromContainer(value->val.binary.data, i);

			found = matches_any(node, element);
			pfree(element);
		}
		return found;
	}
	for (int i = 0; i < node->nmatchers && !found; i++)
		found = matches_value(&node->matchers[i], value);
	return found;
}

/* a scalar */
static bool
matches_value(const Matcher *matcher, const JsonbValue *value)
{
	int			len = matcher->value.val.string.len;

	switch (matcher->operator)
	{
		case MATCH_EXACT:
			return is_same(&matcher->value, value);
		case MATCH_PREFIX:
			return value->type == jbvString && value->val.string.len >= len &&
				memcmp(value->val.string.val, matcher->value.val.string.val, len) == 0;
		case MATCH_SUFFIX:
			return value->type == jbvString && value->val.string.len >= len &&
				memcmp(value->val.string.val + value->val.string.len - len, matcher->value.val.string.val, len) == 0;
		case MATCH_IGNORE_CASE:
			return value->type == jbvString && is_same_without_case(matcher, value);
		case MATCH_NUMERIC:
			return value->type == jbvNumeric && is_within(matcher, value->val.numeric);
		case MATCH_EXISTS:
			return false;		/* said before */
		case MATCH_ANYTHING_BUT:
			for (int i = 0; i < matcher->nnot; i++)
				if (matches_value(&matcher->not[i], value))
					return false;
			return true;
	}
	return false;
}

static bool
is_same(const JsonbValue *a, const JsonbValue *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvString:
			return a->val.string.len == b->val.string.len && memcmp(a->val.string.val, b->val.string.val, a->val.string.len) == 0;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(a->val.numeric), NumericGetDatum(b->val.numeric)));
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		default:
			return a->type == jbvNull;
	}
}

static bool
is_same_without_case(const Matcher *matcher, const JsonbValue *value)
{
	char	   *lower = str_tolower(value->val.string.val, value->val.string.len, DEFAULT_COLLATION_OID);
	int			len = strlen(lower);
	bool		result = len == matcher->value.val.string.len && memcmp(lower, matcher->value.val.string.val, len) == 0;

	pfree(lower);
	return result;
}

static bool
is_within(const Matcher *matcher, Numeric number)
{
	for (int i = 0; i < matcher->nbounds; i++)
	{
		int			order = DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(number), NumericGetDatum(matcher->bounds[i].number)));
		bool		ok = false;

		switch (matcher->bounds[i].comparison)
		{
			case COMPARE_EQUAL:
				ok = order == 0;
				break;
			case COMPARE_LESS:
				ok = order < 0;
				break;
			case COMPARE_LESS_EQUAL:
				ok = order <= 0;
				break;
			case COMPARE_GREATER:
				ok = order > 0;
				break;
			case COMPARE_GREATER_EQUAL:
				ok = order >= 0;
				break;
		}
		if (!ok)
			return false;
	}
	return true;
}
