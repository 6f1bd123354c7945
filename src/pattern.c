/*
 * pattern.c
 *		Content patterns: what selects events by what is in their data and metadata.
 *
 * Runs wherever filters do.  A pattern is a tree in the shape of the document: objects, all of whose fields must match, and at their
 * ends arrays of matchers, any of which must.  It is compiled once, when a definition is read (pattern_parse.c), and matched against
 * jsonb as it is stored: a field is found by binary search, nothing is copied.  Keeps nothing.
 *
 * What matches what is as in the event patterns of Amazon EventBridge.  Matchers see the values at the ends of a document, its strings, numbers,
 * booleans and nulls: of an array in the document any element may match, and all that an object says must match in one
 * element.  An absence, {"exists": false}, has no element to be found in.  It is asked of the element where something else of
 * the pattern was found, and where nothing else was asked for, of all of them.  So there are three answers, and an array
 * where some elements answer "absent" and none "yes" matches only if all do.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "pattern_tree.h"

typedef enum Answer
{
	ANSWER_NO,
	ANSWER_ABSENT,				/* what must not be there is not, and nothing was asked for that must */
	ANSWER_YES
} Answer;

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

/* where fields are looked for: in an object, in the event itself, or in neither, where there are none */
typedef struct Place
{
	JsonbContainer *object;
	Document   *documents;
} Place;

static Answer match_object(const PatternNode *node, const Place *place);
static JsonbValue *find_field(const PatternField *field, const Place *place, JsonbValue *store);
static JsonbValue *open_document(Document *document);
static Answer match_choice(const PatternChoice *choice, const Place *place);
static Answer match_node(const PatternNode *node, JsonbValue *value);
static Answer match_elements(const PatternNode *node, JsonbContainer *array);
static Answer match_values(const PatternNode *node, const JsonbValue *value);
static bool matches_value(const PatternMatcher *matcher, const JsonbValue *value);
static bool matches_text(const PatternMatcher *matcher, const char *text, int len);
static bool is_same(const JsonbValue *a, const JsonbValue *b);
static bool is_within(const PatternMatcher *matcher, Numeric number);
static bool is_in_network(const PatternNetwork *network, const char *text, int len);

bool
es_pattern_matches(const EsPattern *pattern, Datum data, Datum metadata)
{
	Document	documents[DOCUMENTS] = {{.datum = data}, {.datum = metadata}};
	Answer		answer = match_object(pattern->root, &(Place) {.documents = documents});

	for (int i = 0; i < DOCUMENTS; i++)
		if (documents[i].jsonb != NULL && (Pointer) documents[i].jsonb != DatumGetPointer(documents[i].datum))
			pfree(documents[i].jsonb);
	return answer != ANSWER_NO;
}

static Answer
match_object(const PatternNode *node, const Place *place)
{
	Answer		result = ANSWER_ABSENT;

	check_stack_depth();
	for (int i = 0; i < node->nfields + node->nchoices; i++)
	{
		JsonbValue	store;
		Answer		answer;

		if (i < node->nfields)
			answer = match_node(node->fields[i].node, find_field(&node->fields[i], place, &store));
		else
			answer = match_choice(&node->choices[i - node->nfields], place);
		if (answer == ANSWER_NO)
			return ANSWER_NO;
		result = Max(result, answer);
	}
	return result;
}

/* NULL: it is not there */
static JsonbValue *
find_field(const PatternField *field, const Place *place, JsonbValue *store)
{
	if (place->documents != NULL)
		return open_document(&place->documents[strcmp(field->key, document_names[DATA]) == 0 ? DATA : METADATA]);
	if (place->object != NULL)
		return getKeyJsonValueFromContainer(place->object, field->key, field->len, store);
	return NULL;
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

static Answer
match_choice(const PatternChoice *choice, const Place *place)
{
	Answer		result = ANSWER_NO;

	for (int i = 0; i < choice->n && result != ANSWER_YES; i++)
	{
		Answer		answer = match_object(choice->nodes[i], place);

		result = Max(result, answer);
	}
	return result;
}

/* value NULL: there is none */
static Answer
match_node(const PatternNode *node, JsonbValue *value)
{
	if (!node->is_object)
		return match_values(node, value);
	if (value != NULL && es_pattern_is_array(value))
		return match_elements(node, value->val.binary.data);
	return match_object(node, &(Place) {.object = value != NULL && es_pattern_is_object(value) ? value->val.binary.data : NULL});
}

/* without an object in it, it is as if it were not there */
static Answer
match_elements(const PatternNode *node, JsonbContainer *array)
{
	int			n = JsonContainerSize(array);
	bool		has_object = false;
	Answer		result = ANSWER_ABSENT;

	check_stack_depth();
	for (int i = 0; i < n && result != ANSWER_YES; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(array, i);

		if (element->type == jbvBinary)
		{
			Answer		answer = match_node(node, element);

			has_object = true;
			result = answer == ANSWER_YES ? ANSWER_YES : Min(result, answer);
		}
		pfree(element);
	}
	return has_object ? result : match_object(node, &(Place) {.object = NULL});
}

/* does any of the matchers match the value, or an element of it?  An object has no value of its own */
static Answer
match_values(const PatternNode *node, const JsonbValue *value)
{
	Answer		result = node->takes_absence ? ANSWER_ABSENT : ANSWER_NO;

	if (value == NULL || es_pattern_is_object(value))
		return result;
	if (es_pattern_is_array(value))
	{
		int			n = JsonContainerSize(value->val.binary.data);

		check_stack_depth();
		for (int i = 0; i < n && result != ANSWER_YES; i++)
		{
			JsonbValue *element = getIthJsonbValueFromContainer(value->val.binary.data, i);
			Answer		answer = match_values(node, element);

			result = answer == ANSWER_YES ? ANSWER_YES : Min(result, answer);
			pfree(element);
		}
		return result;
	}
	for (int i = 0; i < node->nmatchers; i++)
		if (matches_value(&node->matchers[i], value))
			return ANSWER_YES;
	return ANSWER_NO;
}

/* a scalar */
static bool
matches_value(const PatternMatcher *matcher, const JsonbValue *value)
{
	switch (matcher->operator)
	{
		case MATCH_EXACT:
			return is_same(&matcher->value, value);
		case MATCH_NUMERIC:
			return value->type == jbvNumeric && is_within(matcher, value->val.numeric);
		case MATCH_PRESENT:
			return true;
		case MATCH_ABSENT:
			return false;		/* it is there */
		case MATCH_ANYTHING_BUT:
			for (int i = 0; i < matcher->nnot; i++)
				if (matches_value(&matcher->not[i], value))
					return false;
			return true;
		default:
			return value->type == jbvString && matches_text(matcher, value->val.string.val, value->val.string.len);
	}
}

static bool
matches_text(const PatternMatcher *matcher, const char *text, int len)
{
	int			wanted = matcher->value.val.string.len;

	switch (matcher->operator)
	{
		case MATCH_PREFIX:
			return len >= wanted && memcmp(text, matcher->value.val.string.val, wanted) == 0;
		case MATCH_SUFFIX:
			return len >= wanted && memcmp(text + len - wanted, matcher->value.val.string.val, wanted) == 0;
		case MATCH_IGNORE_CASE:
			return es_caseless_equal(matcher->caseless, text, len);
		case MATCH_PREFIX_IGNORE_CASE:
			return es_caseless_begins(matcher->caseless, text, len);
		case MATCH_SUFFIX_IGNORE_CASE:
			return es_caseless_ends(matcher->caseless, text, len);
		case MATCH_WILDCARD:
			return es_wildcard_matches(matcher->wildcard, text, len, NULL);
		case MATCH_CIDR:
			return is_in_network(&matcher->network, text, len);
		default:
			elog(ERROR, "operator %d of a pattern does not compare texts", matcher->operator);
	}
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
is_within(const PatternMatcher *matcher, Numeric number)
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

/* what is no address is in none */
static bool
is_in_network(const PatternNetwork *network, const char *text, int len)
{
	unsigned char address[sizeof(network->address)];
	int			whole = network->bits / 8;
	int			rest = network->bits % 8;

	if (es_pattern_parse_address(text, len, address) != network->family)
		return false;
	return memcmp(address, network->address, whole) == 0 &&
		(rest == 0 || (address[whole] ^ network->address[whole]) >> (8 - rest) == 0);
}
