/*
 * saga_branch.c
 *		Parallel and Map: branches that begin, end and are joined.
 *
 * Runs within a transition (saga_move.c), under the lock of its instance.  A Parallel or Map has a row, and one for each branch or item, in
 * which its steps are.  Items get their rows at once, with their input, so that the array is read once; beyond MaxConcurrency they are pending.
 * What has not ended is counted in the row of the Parallel or Map, which a transition writes once, however many ended in it.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "asl_value.h"
#include "compat.h"
#include "saga_move.h"

static EsNext fail_container(EsMove *move, EsStep *container, const EsEnding *ending);
static EsNext begin_items(EsMove *move, EsStep *container, const EsAslState *state);
static bool read_items(const EsAslState *state, const EsAslScope *scope, Jsonb **selected, JsonbValue *items, EsAslFault *fault);
static EsStep *new_branch(EsMove *move, EsStep *container, int place, Jsonb *input, EsStepStatus status);
static Jsonb *item_input(EsMove *move, const EsAslState *state, Jsonb *selected, int place, const JsonbValue *item, EsAslFault *fault);
static bool is_tolerated(EsMove *move, const EsStep *container, const EsAslState *state);
static EsNext at_container(EsMove *move, const EsStep *container);
static Jsonb *error_document(const EsEnding *ending);

EsNext
es_branches_enter(EsMove *move, EsNext at)
{
	return es_branches_again(move, at, NULL, 0);
}

EsNext
es_branches_again(EsMove *move, EsNext at, EsStep *previous, double delay)
{
	EsStep	   *container = es_step_new(move, at.state->type == ES_ASL_MAP ? ES_STEP_MAP : ES_STEP_PARALLEL, at, previous);

	if (delay <= 0)
		return es_branches_begin(move, container);
	container->due = move->now + (TimestampTz) (delay * USECS_PER_SEC);
	return (EsNext) {NULL};
}

EsNext
es_branches_begin(EsMove *move, EsStep *container)
{
	EsNext		at = at_container(move, container);
	EsAslScope	scope;
	EsAslFault	fault = {0};
	Jsonb	   *input;

	container->due = 0;
	es_step_change(move, container);
	if (at.state->type == ES_ASL_MAP)
		return begin_items(move, container, at.state);
	scope = es_move_scope(move, at.state, at.input, container->attempt - 1, NULL);
	input = es_asl_state_input(at.state, &scope, &fault);
	if (input == NULL)
		return fail_container(move, container, &(EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true, .retry_after = -1});
	container->open = at.state->nbranches;
	for (int i = 0; i < at.state->nbranches; i++)
		es_move_fork(move, (EsNext) {at.state->branches[i]->start, input, new_branch(move, container, i, input, ES_STEP_WAITING)});
	return (EsNext) {NULL};
}

EsNext
es_branch_leave(EsMove *move, EsStep *branch, Jsonb *output)
{
	EsStep	   *container = es_move_parent(move, branch);
	EsNext		at = at_container(move, container);

	es_step_end(move, branch, ES_STEP_DONE, &(EsEnding) {.output = output});
	container->open--;
	es_step_change(move, container);
	if (container->kind == ES_STEP_MAP && container->open > 0 && at.state->max_concurrency.is_set)
	{
		EsStep	   *item;

		es_steps_write(move);
		item = es_saga_next_item(&move->saga, container);
		if (item == NULL)
			return (EsNext) {NULL};
		item = es_move_adopt(move, item);
		item->status = ES_STEP_WAITING;
		container->place = item->seq;
		es_step_change(move, item);
		/* behind those that have begun */
		es_move_fork(move, (EsNext) {at.state->branches[0]->start, item->input, item});
		return (EsNext) {NULL};
	}
	if (container->open > 0)
		return (EsNext) {NULL};
	es_steps_write(move);
	output = es_saga_branch_outputs(&move->saga, container);
	es_step_end(move, container, ES_STEP_DONE, &(EsEnding) {.output = output});
	return es_state_leave(move, at, container, output);
}

EsNext
es_branch_fail(EsMove *move, EsStep *branch, const EsEnding *ending)
{
	EsStep	   *container = es_move_parent(move, branch);
	EsNext		at = at_container(move, container);

	if (container->kind == ES_STEP_MAP)
	{
		container->failed++;
		if (is_tolerated(move, container, at.state))
			return es_branch_leave(move, branch, error_document(ending));
	}
	es_step_end(move, branch, ES_STEP_FAILED, ending);
	return fail_container(move, container, ending);
}

bool
es_branch_is_guarded(EsMove *move, EsStep *branch, const char *error)
{
	while (branch != NULL)
	{
		EsStep	   *container = es_move_parent(move, branch);
		const EsAslState *state = at_container(move, container).state;

		if (state->tolerated_count.is_set || state->tolerated_percentage.is_set || es_asl_find_catcher(state, error) >= 0 ||
			es_asl_find_retrier(state->retriers, state->nretriers, error) >= 0)
			return true;
		branch = es_move_parent(move, container);
	}
	return false;
}

/* what still goes on in it ends */
static EsNext
fail_container(EsMove *move, EsStep *container, const EsEnding *ending)
{
	EsEnding	own = {.error = pstrdup(ending->error), .cause = ending->cause, .retry_after = -1};

	es_steps_end_waiting(move, container, false);
	es_step_end(move, container, ES_STEP_FAILED, &own);
	/* behind a pivot nothing is undone */
	if (at_container(move, container).state->is_scope && !move->saga.has_pivot && !es_undo_scope(move, container))
		return (EsNext) {NULL};
	return es_state_fail(move, at_container(move, container), container, &own);
}

int
es_branches_at_once(EsMove *move, const EsStep *container)
{
	const EsAslState *state = at_container(move, container).state;
	EsAslScope	scope = es_move_scope(move, state, container->input, container->attempt - 1, NULL);
	EsAslFault	fault = {0};
	double		most = 0;

	if (state->max_concurrency.is_set)
	{
		scope.input = es_asl_state_input(state, &scope, &fault);
		if (scope.input == NULL || !es_asl_number(&state->max_concurrency, &scope, &most, &fault))
			most = 0;
	}
	return most >= 1 && most < PG_INT32_MAX ? (int) most : PG_INT32_MAX;
}

static EsNext
begin_items(EsMove *move, EsStep *container, const EsAslState *state)
{
	EsAslScope	scope = es_move_scope(move, state, container->input, container->attempt - 1, NULL);
	EsAslFault	fault = {0};
	Jsonb	   *selected;
	EsAslScope	inner;
	JsonbValue	items;
	double		most = 0;
	int			n;

	if (!read_items(state, &scope, &selected, &items, &fault))
		return fail_container(move, container, &(EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true, .retry_after = -1});
	inner = (EsAslScope) {selected, scope.context};
	if (state->max_concurrency.is_set && !es_asl_number(&state->max_concurrency, &inner, &most, &fault))
		return fail_container(move, container, &(EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true, .retry_after = -1});
	n = JsonContainerSize(items.val.binary.data);
	container->open = n;
	if (n == 0)
	{
		Jsonb	   *none = es_saga_branch_outputs(&move->saga, container);

		es_step_end(move, container, ES_STEP_DONE, &(EsEnding) {.output = none});
		return es_state_leave(move, at_container(move, container), container, none);
	}
	for (int i = 0; i < n; i++)
	{
		JsonbValue *item = getIthJsonbValueFromContainer(items.val.binary.data, i);
		Jsonb	   *input = item_input(move, state, selected, i, item, &fault);
		EsStep	   *branch;

		if (input == NULL)
			return fail_container(move, container, &(EsEnding) {.error = fault.error, .cause = fault.cause, .is_final = true, .retry_after = -1});
		branch = new_branch(move, container, i, input, most > 0 && i >= most ? ES_STEP_PENDING : ES_STEP_WAITING);
		if (branch->status == ES_STEP_WAITING)
			container->place = branch->seq;
		if (branch->status == ES_STEP_WAITING)
			es_move_fork(move, (EsNext) {state->branches[0]->start, input, branch});
	}
	return (EsNext) {NULL};
}

/* InputPath, then ItemsPath, which is to be an array */
static bool
read_items(const EsAslState *state, const EsAslScope *scope, Jsonb **selected, JsonbValue *items, EsAslFault *fault)
{
	EsAslScope	inner;

	*selected = es_asl_state_input(state, scope, fault);
	if (*selected == NULL)
		return false;
	inner = (EsAslScope) {*selected, scope->context};
	if (state->items_path.expression == NULL)
		es_asl_value_set_jsonb(items, *selected);
	else if (!es_asl_expression_value(state->items_path.expression, &inner, items, fault))
		return false;
	return es_asl_value_is_array(items) ||
		es_asl_fail(fault, ES_ASL_RUNTIME, "the items of \"%s\" are no array: %s", state->name, es_asl_value_shown(items));
}

static EsStep *
new_branch(EsMove *move, EsStep *container, int place, Jsonb *input, EsStepStatus status)
{
	EsNext		at = {es_asl_find_state(move->version->definition, container->state), input, container};
	EsStep	   *branch = es_step_new(move, ES_STEP_BRANCH, at, NULL);

	branch->place = place;
	branch->status = status;
	return branch;
}

/* NULL: it failed */
static Jsonb *
item_input(EsMove *move, const EsAslState *state, Jsonb *selected, int place, const JsonbValue *item, EsAslFault *fault)
{
	Jsonb	   *value = es_asl_value_jsonb(item);
	EsAslScope	scope;

	if (state->parameters == NULL)
		return value;
	scope = es_move_scope(move, state, selected, 0, psprintf("{\"Item\": {\"Index\": %d, \"Value\": %s}}", place,
															 JsonbToCString(NULL, &value->root, VARSIZE(value))));
	return es_asl_payload_make(state->parameters, &scope, fault);
}

/* may that many items have failed? */
static bool
is_tolerated(EsMove *move, const EsStep *container, const EsAslState *state)
{
	EsAslScope	scope = es_move_scope(move, state, container->input, 0, NULL);
	EsAslFault	fault = {0};
	double		count = 0;
	double		percentage = 0;
	int			n;

	es_steps_write(move);
	n = es_saga_count_branches(&move->saga, container);
	if (state->tolerated_count.is_set && es_asl_number(&state->tolerated_count, &scope, &count, &fault) && container->failed <= count)
		return true;
	return state->tolerated_percentage.is_set && es_asl_number(&state->tolerated_percentage, &scope, &percentage, &fault) &&
		container->failed * 100.0 <= percentage * n;
}

static EsNext
at_container(EsMove *move, const EsStep *container)
{
	return (EsNext) {es_asl_find_state(move->version->definition, container->state), container->input, es_move_parent(move, container)};
}

static Jsonb *
error_document(const EsEnding *ending)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"Error\": ");
	escape_json(&buf, ending->error);
	appendStringInfoString(&buf, ", \"Cause\": ");
	escape_json(&buf, ending->cause != NULL ? ending->cause : "");
	appendStringInfoChar(&buf, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}
