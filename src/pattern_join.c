/*
 * pattern_join.c
 *		A "$or" of a content pattern, moved to where the walk of pattern.c answers as if it were several patterns.
 *
 * Runs wherever filters are read; keeps nothing.  A pattern with "$or" stands for several without, one of which has to match.
 * The walk takes it as it is, which costs a sum where they would cost a product.  Where arrays make a difference, this rewrites it.
 *
 * Of an array in the document one element has to match all that a pattern says about it.  The walk sees to that where each
 * field is named once.  A field that is named beside a "$or" and in it, or in two of them, is spoken of in several places:
 *
 *		"lines": {"sku": ["A"]}, "$or": [{"lines": {"n": [1]}}, {"lines": {"n": [2]}}]
 *
 * Here these are joined in each alternative: "$or": [{"lines": {"sku": ["A"], "n": [1]}}, ...].
 *
 * Of an absence the walk asks all elements of an array, and they have to agree on one alternative:
 *
 *		"lines": {"$or": [{"a": [{"exists": false}]}, {"b": [{"exists": false}]}]}
 *
 * So this becomes "$or": [{"lines": {"a": ...}}, {"lines": {"b": ...}}].
 *
 * Only what needs it is multiplied, and what is multiplied is bounded by the combinations that pattern_parse.c admits.  The
 * trees that came in are shared, and never changed but for what is noted in them, so that nothing is looked at again at each level.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "pattern_tree.h"

static void join_fields(PatternNode *node);
static void join_choices(PatternNode *node);
static int	find_unsure_field(const PatternNode *node);
static PatternNode *lift(PatternNode *node, int f);
static int	absences(PatternNode *node);
static int	choice_absences(const PatternChoice *choice);
static int	clip(int ways);
static int	find_shared_choice(const PatternNode *node);
static PatternNode *distribute(PatternNode *node, int c);
static PatternNode *merge(const PatternNode *a, const PatternNode *b);
static void add_field(PatternNode *node, const PatternField *field);
static bool names_any(const PatternNode *node, const PatternNode *other);
static bool choice_names_any(const PatternChoice *choice, const PatternNode *other);
static bool choice_names(const PatternChoice *choice, const PatternField *field);
static bool names(const PatternNode *node, const PatternField *field);
static bool is_same_key(const PatternField *a, const PatternField *b);

PatternNode *
es_pattern_join(PatternNode *node)
{
	int			found;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (!node->is_object || node->is_joined)
		return node;
	for (;;)
	{
		while ((found = find_shared_choice(node)) >= 0)
			node = distribute(node, found);
		node = merge(node, NULL);
		join_fields(node);
		if ((found = find_unsure_field(node)) < 0)
			break;
		node = lift(node, found);
	}
	join_choices(node);
	node->is_joined = true;
	return node;
}

static void
join_fields(PatternNode *node)
{
	for (int i = 0; i < node->nfields; i++)
		node->fields[i].node = es_pattern_join(node->fields[i].node);
}

static void
join_choices(PatternNode *node)
{
	for (int i = 0; i < node->nchoices; i++)
	{
		PatternChoice *choice = &node->choices[i];
		PatternNode **nodes = palloc(choice->n * sizeof(PatternNode *));

		for (int j = 0; j < choice->n; j++)
			nodes[j] = es_pattern_join(choice->nodes[j]);
		choice->nodes = nodes;
	}
}

/* one that absences alone can match, in more than one way; -1: none */
static int
find_unsure_field(const PatternNode *node)
{
	for (int i = 0; i < node->nfields; i++)
		if (node->fields[i].node->is_object && absences(node->fields[i].node) > 1)
			return i;
	return -1;
}

/* a "$or" of the field becomes one that stands beside it, with the field in each alternative */
static PatternNode *
lift(PatternNode *node, int f)
{
	PatternNode *result = merge(node, NULL);
	PatternField field = node->fields[f];
	PatternNode *rest = merge(field.node, NULL);
	PatternChoice *lifted = &result->choices[result->nchoices++];
	PatternChoice choice;
	int			c = 0;

	/* what is below the field has been lifted into it before: if it is unsure, one of these is */
	while (choice_absences(&rest->choices[c]) < 2)
		c++;
	choice = rest->choices[c];
	rest->choices[c] = rest->choices[--rest->nchoices];
	result->fields[f] = result->fields[--result->nfields];
	lifted->n = choice.n;
	lifted->nodes = palloc(choice.n * sizeof(PatternNode *));
	for (int i = 0; i < choice.n; i++)
	{
		PatternNode *alternative = palloc0(sizeof(PatternNode));

		field.node = merge(rest, choice.nodes[i]);
		alternative->is_object = true;
		alternative->fields = palloc(sizeof(PatternField));
		add_field(alternative, &field);
		lifted->nodes[i] = alternative;
	}
	return result;
}

/* in how many ways absences alone can match this; from two on it does not matter.  Counted once: parents ask at each level */
static int
absences(PatternNode *node)
{
	int			result = 1;

	check_stack_depth();
	if (!node->is_object)
		return node->takes_absence ? 1 : 0;
	if (node->absences > 0)
		return node->absences - 1;
	for (int i = 0; i < node->nfields && result > 0; i++)
		result = clip(result * absences(node->fields[i].node));
	for (int i = 0; i < node->nchoices && result > 0; i++)
		result = clip(result * choice_absences(&node->choices[i]));
	node->absences = result + 1;
	return result;
}

static int
choice_absences(const PatternChoice *choice)
{
	int			result = 0;

	for (int i = 0; i < choice->n && result < 2; i++)
		result = clip(result + absences(choice->nodes[i]));
	return result;
}

/* no macro: Min() would count everything twice, at each level */
static int
clip(int ways)
{
	return ways > 2 ? 2 : ways;
}

/* one that names a field that is named elsewhere in this object; -1: none */
static int
find_shared_choice(const PatternNode *node)
{
	for (int i = 0; i < node->nchoices; i++)
	{
		for (int j = 0; j < node->nfields; j++)
			if (choice_names(&node->choices[i], &node->fields[j]))
				return i;
		for (int j = 0; j < node->nchoices; j++)
			for (int k = 0; k < node->choices[j].n && j != i; k++)
				if (choice_names_any(&node->choices[i], node->choices[j].nodes[k]))
					return i;
	}
	return -1;
}

/* what names fields of the choice goes into each of its alternatives; the rest stays */
static PatternNode *
distribute(PatternNode *node, int c)
{
	PatternChoice *choice = &node->choices[c];
	PatternNode *result = palloc0(sizeof(PatternNode));
	PatternNode *shared = palloc0(sizeof(PatternNode));
	PatternChoice *joined;

	result->is_object = shared->is_object = true;
	result->fields = palloc(Max(node->nfields, 1) * sizeof(PatternField));
	shared->fields = palloc(Max(node->nfields, 1) * sizeof(PatternField));
	result->choices = palloc(node->nchoices * sizeof(PatternChoice));
	shared->choices = palloc(node->nchoices * sizeof(PatternChoice));
	for (int i = 0; i < node->nfields; i++)
	{
		PatternNode *to = choice_names(choice, &node->fields[i]) ? shared : result;

		to->fields[to->nfields++] = node->fields[i];
	}
	for (int i = 0; i < node->nchoices; i++)
	{
		PatternNode *to = result;

		for (int j = 0; j < node->choices[i].n && i != c; j++)
			if (choice_names_any(choice, node->choices[i].nodes[j]))
				to = shared;
		if (i != c)
			to->choices[to->nchoices++] = node->choices[i];
	}
	joined = &result->choices[result->nchoices++];
	joined->n = choice->n;
	joined->nodes = palloc(choice->n * sizeof(PatternNode *));
	for (int i = 0; i < choice->n; i++)
		joined->nodes[i] = merge(shared, choice->nodes[i]);
	return result;
}

/* an object that says what both say; b may be NULL */
static PatternNode *
merge(const PatternNode *a, const PatternNode *b)
{
	PatternNode *result = palloc0(sizeof(PatternNode));

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	result->is_object = true;
	result->fields = palloc((a->nfields + (b == NULL ? 0 : b->nfields) + 1) * sizeof(PatternField));
	result->choices = palloc((a->nchoices + (b == NULL ? 0 : b->nchoices) + 1) * sizeof(PatternChoice));
	for (int i = 0; i < a->nfields; i++)
		result->fields[result->nfields++] = a->fields[i];
	for (int i = 0; i < a->nchoices; i++)
		result->choices[result->nchoices++] = a->choices[i];
	for (int i = 0; b != NULL && i < b->nfields; i++)
		add_field(result, &b->fields[i]);
	for (int i = 0; b != NULL && i < b->nchoices; i++)
		result->choices[result->nchoices++] = b->choices[i];
	return result;
}

/* matchers of a field that has some already stay beside them: both must match */
static void
add_field(PatternNode *node, const PatternField *field)
{
	for (int i = 0; i < node->nfields; i++)
		if (is_same_key(&node->fields[i], field) && node->fields[i].node->is_object && field->node->is_object)
		{
			node->fields[i].node = merge(node->fields[i].node, field->node);
			return;
		}
	node->fields[node->nfields++] = *field;
}

static bool
names_any(const PatternNode *node, const PatternNode *other)
{
	for (int i = 0; i < other->nfields; i++)
		if (names(node, &other->fields[i]))
			return true;
	for (int i = 0; i < other->nchoices; i++)
		for (int j = 0; j < other->choices[i].n; j++)
			if (names_any(node, other->choices[i].nodes[j]))
				return true;
	return false;
}

static bool
choice_names_any(const PatternChoice *choice, const PatternNode *other)
{
	for (int i = 0; i < choice->n; i++)
		if (names_any(choice->nodes[i], other))
			return true;
	return false;
}

static bool
choice_names(const PatternChoice *choice, const PatternField *field)
{
	for (int i = 0; i < choice->n; i++)
		if (names(choice->nodes[i], field))
			return true;
	return false;
}

/* itself or in a "$or" of it */
static bool
names(const PatternNode *node, const PatternField *field)
{
	check_stack_depth();
	for (int i = 0; i < node->nfields; i++)
		if (is_same_key(&node->fields[i], field))
			return true;
	for (int i = 0; i < node->nchoices; i++)
		if (choice_names(&node->choices[i], field))
			return true;
	return false;
}

static bool
is_same_key(const PatternField *a, const PatternField *b)
{
	return a->len == b->len && memcmp(a->key, b->key, a->len) == 0;
}
