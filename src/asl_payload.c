/*
 * asl_payload.c
 *		Payload templates of States Language: JSON whose fields that end in .$ are computed.
 *
 * Runs in any backend; keeps nothing.  A template is compiled once, with its definition.  What has no expression in it stays the JSON that it
 * is, and is taken over in one piece.  Objects in arrays are templates too.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "asl_value.h"

typedef enum Kind
{
	KIND_CONSTANT,				/* nothing in it is computed */
	KIND_EXPRESSION,
	KIND_ARRAY,
	KIND_OBJECT
} Kind;

struct EsAslPayload
{
	Kind		kind;
	Jsonb	   *constant;
	EsAslExpression *expression;
	char	   *where;			/* it stands in the definition: for the cause */
	List	   *items;			/* of an array and an object: EsAslPayload */
	List	   *keys;			/* of an object: char *, without .$ */
};

static EsAslPayload *compile_items(const JsonbValue *value, const char *where, StringInfo faults);
static EsAslPayload *compile_field(EsAslPayload *payload, char *key, JsonbIterator **it, const char *where, StringInfo faults);
static EsAslPayload *compile_expression(const JsonbValue *value, const char *where, StringInfo faults);
static void check_keys(const EsAslPayload *payload, const char *where, StringInfo faults);
static int	compare_keys(const ListCell *a, const ListCell *b);
static EsAslPayload *make_constant(const JsonbValue *value);
static bool push(JsonbParseState **state, JsonbIteratorToken token, const EsAslPayload *payload, const EsAslScope *scope,
				 JsonbValue **result, EsAslFault *fault);

EsAslPayload *
es_asl_payload_compile(const JsonbValue *value, const char *where, StringInfo faults)
{
	check_stack_depth();
	return es_asl_value_is_object(value) || es_asl_value_is_array(value) ? compile_items(value, where, faults) : make_constant(value);
}

static EsAslPayload *
compile_items(const JsonbValue *value, const char *where, StringInfo faults)
{
	EsAslPayload *payload = palloc0(sizeof(EsAslPayload));
	bool		is_object = es_asl_value_is_object(value);
	JsonbIterator *it = JsonbIteratorInit(value->val.binary.data);
	bool		is_constant = true;
	JsonbValue	v;

	payload->kind = is_object ? KIND_OBJECT : KIND_ARRAY;
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == (is_object ? WJB_KEY : WJB_ELEM))
	{
		EsAslPayload *item = is_object ? compile_field(payload, es_asl_value_string(&v), &it, where, faults) :
			es_asl_payload_compile(&v, psprintf("%s[%d]", where, list_length(payload->items)), faults);

		is_constant &= item->kind == KIND_CONSTANT;
		payload->items = lappend(payload->items, item);
	}
	if (is_constant)
		return make_constant(value);
	check_keys(payload, where, faults);
	return payload;
}

/* of an object: its value is next */
static EsAslPayload *
compile_field(EsAslPayload *payload, char *key, JsonbIterator **it, const char *where, StringInfo faults)
{
	int			len = strlen(key);
	char	   *inner = es_asl_where(where, key);
	EsAslPayload *item;
	JsonbValue	v;

	payload->keys = lappend(payload->keys, key);
	(void) JsonbIteratorNext(it, &v, true);
	if (len < 2 || strcmp(key + len - 2, ".$") != 0)
		return es_asl_payload_compile(&v, inner, faults);
	item = compile_expression(&v, inner, faults);
	key[len - 2] = '\0';
	if (len == 2)
		es_asl_add_fault(faults, inner, "there is no name before .$");
	return item;
}

static EsAslPayload *
compile_expression(const JsonbValue *value, const char *where, StringInfo faults)
{
	EsAslPayload *payload = palloc0(sizeof(EsAslPayload));

	payload->kind = KIND_EXPRESSION;
	payload->where = pstrdup(where);
	if (value->type == jbvString)
		payload->expression = es_asl_expression_compile(es_asl_value_string(value), where, faults);
	else
		es_asl_add_fault(faults, where, "it is a path or a function, in a string, not %s", es_asl_value_shown(value));
	return payload;
}

/* x and x.$ would be the same field */
static void
check_keys(const EsAslPayload *payload, const char *where, StringInfo faults)
{
	List	   *sorted = list_copy(payload->keys);

	list_sort(sorted, compare_keys);
	for (int i = 1; i < list_length(sorted); i++)
		if (strcmp(list_nth(sorted, i - 1), list_nth(sorted, i)) == 0)
			es_asl_add_fault(faults, where, "\"%s\" and \"%s.$\" are the same field", (char *) list_nth(sorted, i), (char *) list_nth(sorted, i));
}

static int
compare_keys(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

static EsAslPayload *
make_constant(const JsonbValue *value)
{
	EsAslPayload *payload = palloc0(sizeof(EsAslPayload));

	payload->kind = KIND_CONSTANT;
	payload->constant = es_asl_value_jsonb(value);
	return payload;
}

Jsonb *
es_asl_payload_make(const EsAslPayload *payload, const EsAslScope *scope, EsAslFault *fault)
{
	JsonbParseState *state = NULL;
	JsonbValue *result = NULL;

	if (payload->kind == KIND_CONSTANT)
		return payload->constant;
	if (!push(&state, WJB_VALUE, payload, scope, &result, fault))
		return NULL;
	return JsonbValueToJsonb(result);
}

static bool
push(JsonbParseState **state, JsonbIteratorToken token, const EsAslPayload *payload, const EsAslScope *scope, JsonbValue **result,
	 EsAslFault *fault)
{
	bool		is_object = payload->kind == KIND_OBJECT;
	EsAslFault	own = {NULL};
	JsonbValue	value;

	check_stack_depth();
	if (payload->kind == KIND_EXPRESSION && !es_asl_expression_value(payload->expression, scope, &value, &own))
		return es_asl_fail(fault, own.error, "%s: %s", payload->where, own.cause);
	if (payload->kind == KIND_CONSTANT)
		es_asl_value_set_jsonb(&value, payload->constant);
	if (payload->kind == KIND_EXPRESSION || payload->kind == KIND_CONSTANT)
	{
		*result = pushJsonbValue(state, token, &value);
		return true;
	}
	(void) pushJsonbValue(state, is_object ? WJB_BEGIN_OBJECT : WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < list_length(payload->items); i++)
	{
		if (is_object)
		{
			const char *key = list_nth(payload->keys, i);

			es_asl_value_set_string(&value, key, strlen(key));
			(void) pushJsonbValue(state, WJB_KEY, &value);
		}
		if (!push(state, is_object ? WJB_VALUE : WJB_ELEM, list_nth(payload->items, i), scope, result, fault))
			return false;
	}
	*result = pushJsonbValue(state, is_object ? WJB_END_OBJECT : WJB_END_ARRAY, NULL);
	return true;
}
