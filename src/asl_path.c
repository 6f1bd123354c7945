/*
 * asl_path.c
 *		Paths of States Language: JSONPath on jsonb, once they are parsed.
 *
 * Runs in any backend; keeps nothing.  What a path selects is as in Jayway's JsonPath, which the language was written for: negative indexes,
 * unions, filters, and fields that are looked for in objects only.  The server's jsonpath is another language: it
 * looks through arrays in lax mode and stops in strict mode, counts from "last", has no unions of fields, and its .** is not "..".  A
 * translation would have to say all of this around it, so parser (asl_path_parse.c) and walker are our own.
 *
 * A path of fields and single indexes is followed without a list of nodes; values are never copied.  After "..", a filter is asked of what
 * is in each array and each object, so that nothing is found twice; otherwise of the elements of an array, or of the object itself.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "asl_path_tree.h"

typedef struct Walk
{
	const EsAslPath *path;
	const EsAslScope *scope;
	List	   *found;			/* JsonbValue * */
} Walk;

static bool start_of(const EsAslPath *path, const EsAslScope *scope, const JsonbValue *node, JsonbValue *value);
static bool follow(const EsAslPath *path, JsonbValue *value);
static bool get_value(const EsAslPath *path, const EsAslScope *scope, const JsonbValue *node, JsonbValue *value);
static bool get_item(const JsonbValue *array, int32 place, JsonbValue *value);
static void walk(Walk *state, int n, const JsonbValue *at);
static void walk_children(Walk *state, int n, const JsonbValue *at);
static void walk_deep(Walk *state, int n, const JsonbValue *at);
static void walk_slice(Walk *state, int n, const JsonbValue *at);
static void walk_filter(Walk *state, int n, const JsonbValue *at);
static bool holds(const AslFilter *filter, const EsAslScope *scope, const JsonbValue *node);
static bool put(JsonbParseState **state, JsonbIteratorToken token, const JsonbValue *at, const EsAslPath *path, int n,
				JsonbValue *value, JsonbValue **result, EsAslFault *fault);
static bool put_field(JsonbParseState **state, const JsonbValue *at, const EsAslPath *path, int n, JsonbValue *value,
					  JsonbValue **result, EsAslFault *fault);
static bool put_item(JsonbParseState **state, const JsonbValue *at, const EsAslPath *path, int n, JsonbValue *value,
					 JsonbValue **result, EsAslFault *fault);

bool
es_asl_path_get(const EsAslPath *path, const EsAslScope *scope, JsonbValue *value)
{
	JsonbParseState *state = NULL;
	Walk		found = {.path = path, .scope = scope};
	JsonbValue	start;
	ListCell   *lc;

	if (path->is_definite)
		return get_value(path, scope, NULL, value);
	if (start_of(path, scope, NULL, &start))
		walk(&found, 0, &start);
	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach(lc, found.found)
		(void) pushJsonbValue(&state, WJB_ELEM, lfirst(lc));
	es_asl_value_set_jsonb(value, JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
	return true;
}

static bool
start_of(const EsAslPath *path, const EsAslScope *scope, const JsonbValue *node, JsonbValue *value)
{
	Jsonb	   *document = path->root == ASL_ROOT_CONTEXT ? scope->context : scope->input;

	if (path->root == ASL_ROOT_NODE)
		*value = *node;
	else if (document != NULL)
		es_asl_value_set_jsonb(value, document);
	else
		return false;
	return true;
}

/* of a path that names one node */
static bool
get_value(const EsAslPath *path, const EsAslScope *scope, const JsonbValue *node, JsonbValue *value)
{
	return start_of(path, scope, node, value) && follow(path, value);
}

static bool
follow(const EsAslPath *path, JsonbValue *value)
{
	for (int i = 0; i < path->nsteps; i++)
	{
		const AslStep *step = &path->steps[i];
		JsonbValue	next;

		if (step->kind == ASL_STEP_FIELDS)
		{
			if (!es_asl_value_is_object(value) ||
				getKeyJsonValueFromContainer(value->val.binary.data, step->names[0], strlen(step->names[0]), &next) == NULL)
				return false;
		}
		else if (!get_item(value, step->places[0], &next))
			return false;
		*value = next;
	}
	return true;
}

static bool
get_item(const JsonbValue *array, int32 place, JsonbValue *value)
{
	int			n;
	JsonbValue *item;

	if (!es_asl_value_is_array(array))
		return false;
	n = JsonContainerSize(array->val.binary.data);
	if (place < 0)
		place += n;
	if (place < 0 || place >= n)
		return false;
	item = getIthJsonbValueFromContainer(array->val.binary.data, place);
	*value = *item;
	return true;
}

/* from there on with the n-th step */
static void
walk(Walk *state, int n, const JsonbValue *at)
{
	const AslStep *step = &state->path->steps[n];
	JsonbValue	next;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (n == state->path->nsteps)
	{
		JsonbValue *copy = palloc(sizeof(JsonbValue));

		*copy = *at;
		state->found = lappend(state->found, copy);
		return;
	}
	switch (step->kind)
	{
		case ASL_STEP_FIELDS:
			for (int i = 0; i < step->n && es_asl_value_is_object(at); i++)
				if (getKeyJsonValueFromContainer(at->val.binary.data, step->names[i], strlen(step->names[i]), &next) != NULL)
					walk(state, n + 1, &next);
			break;
		case ASL_STEP_ITEMS:
			for (int i = 0; i < step->n; i++)
				if (get_item(at, step->places[i], &next))
					walk(state, n + 1, &next);
			break;
		case ASL_STEP_SLICE:
			walk_slice(state, n, at);
			break;
		case ASL_STEP_ALL:
			walk_children(state, n, at);
			break;
		case ASL_STEP_DEEP:
			walk_deep(state, n, at);
			break;
		case ASL_STEP_FILTER:
			walk_filter(state, n, at);
			break;
	}
}

static void
walk_slice(Walk *state, int n, const JsonbValue *at)
{
	const AslStep *step = &state->path->steps[n];
	JsonbValue	item;
	int64		size;
	int64		from = step->from;
	int64		to = step->to;

	if (!es_asl_value_is_array(at))
		return;
	size = JsonContainerSize(at->val.binary.data);
	if (from < 0)
		from = Max(from + size, 0);
	if (!step->has_to)
		to = size;
	else if (to < 0)
		to += size;
	for (; from < Min(to, size); from++)
		if (get_item(at, from, &item))
			walk(state, n + 1, &item);
}

/* what is in it, for the step that follows the n-th */
static void
walk_children(Walk *state, int n, const JsonbValue *at)
{
	const AslFilter *filter = state->path->steps[n].filter;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (at->type != jbvBinary)
		return;
	it = JsonbIteratorInit(at->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if ((token == WJB_ELEM || token == WJB_VALUE) && (filter == NULL || holds(filter, state->scope, &v)))
			walk(state, n + 1, &v);
}

static void
walk_deep(Walk *state, int n, const JsonbValue *at)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	check_stack_depth();
	if (at->type != jbvBinary)
		return;
	if (state->path->steps[n + 1].kind == ASL_STEP_FILTER)
		walk_children(state, n + 1, at);
	else
		walk(state, n + 1, at);
	it = JsonbIteratorInit(at->val.binary.data);
	(void) JsonbIteratorNext(&it, &v, true);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM || token == WJB_VALUE)
			walk_deep(state, n, &v);
}

static void
walk_filter(Walk *state, int n, const JsonbValue *at)
{
	if (es_asl_value_is_array(at))
		walk_children(state, n, at);
	else if (es_asl_value_is_object(at) && holds(state->path->steps[n].filter, state->scope, at))
		walk(state, n + 1, at);
}

/* what is not there is equal to nothing, and has no order */
static bool
holds(const AslFilter *filter, const EsAslScope *scope, const JsonbValue *node)
{
	JsonbValue	a = filter->a.constant;
	JsonbValue	b = filter->b.constant;
	bool		has_both;
	int			order;

	check_stack_depth();
	if (filter->kind == ASL_FILTER_OR)
		return holds(filter->left, scope, node) || holds(filter->right, scope, node);
	if (filter->kind == ASL_FILTER_AND)
		return holds(filter->left, scope, node) && holds(filter->right, scope, node);
	if (filter->kind == ASL_FILTER_NOT)
		return !holds(filter->left, scope, node);
	has_both = filter->a.path == NULL || get_value(filter->a.path, scope, node, &a);
	if (filter->kind == ASL_FILTER_EXISTS)
		return has_both;
	has_both = has_both && (filter->b.path == NULL || get_value(filter->b.path, scope, node, &b));
	if (filter->kind == ASL_FILTER_EQUAL || filter->kind == ASL_FILTER_NOT_EQUAL)
		return (has_both && es_asl_value_equal(&a, &b)) == (filter->kind == ASL_FILTER_EQUAL);
	if (!has_both || !es_asl_value_order(&a, &b, &order))
		return false;
	return filter->kind == ASL_FILTER_LESS ? order < 0 : filter->kind == ASL_FILTER_LESS_EQUAL ? order <= 0 :
		filter->kind == ASL_FILTER_GREATER ? order > 0 : order >= 0;
}

Jsonb *
es_asl_path_set(const EsAslPath *path, Jsonb *input, Jsonb *value, EsAslFault *fault)
{
	JsonbParseState *state = NULL;
	JsonbValue *result = NULL;
	JsonbValue	at;
	JsonbValue	v;

	if (path->nsteps == 0)
		return value;
	es_asl_value_set_jsonb(&at, input);
	es_asl_value_set_jsonb(&v, value);
	if (!put(&state, WJB_VALUE, &at, path, 0, &v, &result, fault))
		return NULL;
	return JsonbValueToJsonb(result);
}

/* at NULL: there is nothing, an object is made */
static bool
put(JsonbParseState **state, JsonbIteratorToken token, const JsonbValue *at, const EsAslPath *path, int n, JsonbValue *value,
	JsonbValue **result, EsAslFault *fault)
{
	if (n == path->nsteps)
	{
		*result = pushJsonbValue(state, token, value);
		return true;
	}
	if (path->steps[n].kind == ASL_STEP_FIELDS && (at == NULL || es_asl_value_is_object(at)))
		return put_field(state, at, path, n, value, result, fault);
	if (path->steps[n].kind == ASL_STEP_ITEMS && at != NULL && es_asl_value_is_array(at))
		return put_item(state, at, path, n, value, result, fault);
	return es_asl_fail(fault, ES_ASL_RESULT_PATH, "nothing can be put at %s of the input: %s", path->text,
					   at == NULL ? "there is no array" :
					   psprintf("%s is no %s", es_asl_value_shown(at), path->steps[n].kind == ASL_STEP_FIELDS ? "object" : "array"));
}

static bool
put_field(JsonbParseState **state, const JsonbValue *at, const EsAslPath *path, int n, JsonbValue *value, JsonbValue **result,
		  EsAslFault *fault)
{
	const char *name = path->steps[n].names[0];
	bool		is_there = false;
	JsonbValue	key;

	(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	if (at != NULL)
	{
		JsonbIterator *it = JsonbIteratorInit(at->val.binary.data);
		JsonbIteratorToken token;
		JsonbValue	v;

		(void) JsonbIteratorNext(&it, &v, true);
		while ((token = JsonbIteratorNext(&it, &v, true)) == WJB_KEY)
		{
			bool		is_it = v.val.string.len == strlen(name) && memcmp(v.val.string.val, name, v.val.string.len) == 0;

			(void) pushJsonbValue(state, WJB_KEY, &v);
			(void) JsonbIteratorNext(&it, &v, true);
			is_there |= is_it;
			if (!is_it)
				(void) pushJsonbValue(state, WJB_VALUE, &v);
			else if (!put(state, WJB_VALUE, &v, path, n + 1, value, result, fault))
				return false;
		}
	}
	if (!is_there)
	{
		es_asl_value_set_string(&key, name, strlen(name));
		(void) pushJsonbValue(state, WJB_KEY, &key);
		if (!put(state, WJB_VALUE, NULL, path, n + 1, value, result, fault))
			return false;
	}
	*result = pushJsonbValue(state, WJB_END_OBJECT, NULL);
	return true;
}

/* arrays are not made longer */
static bool
put_item(JsonbParseState **state, const JsonbValue *at, const EsAslPath *path, int n, JsonbValue *value, JsonbValue **result,
		 EsAslFault *fault)
{
	int			size = JsonContainerSize(at->val.binary.data);
	int			place = path->steps[n].places[0];

	if (place < 0)
		place += size;
	if (place < 0 || place >= size)
		return es_asl_fail(fault, ES_ASL_RESULT_PATH, "nothing can be put at %s of the input: the array has %d elements", path->text, size);
	(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < size; i++)
	{
		JsonbValue *item = getIthJsonbValueFromContainer(at->val.binary.data, i);

		if (i != place)
			(void) pushJsonbValue(state, WJB_ELEM, item);
		else if (!put(state, WJB_ELEM, item, path, n + 1, value, result, fault))
			return false;
	}
	*result = pushJsonbValue(state, WJB_END_ARRAY, NULL);
	return true;
}
