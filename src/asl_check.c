/*
 * asl_check.c
 *		Definitions of sagas as graphs: states in the place of their names, and whether each is reached, and ends.
 *
 * Runs where asl_parse.c does; keeps nothing.
 */
#include "postgres.h"

#include "arg.h"
#include "asl.h"

static void sort_by_name(EsAslDefinition *definition, StringInfo faults);
static int	compare_names(const void *a, const void *b);
static int	find_name(const EsAslDefinition *definition, const char *name);
static EsAslState *find_target(const EsAslDefinition *definition, const EsAslMachine *machine, const char *name, const char *where, StringInfo faults);
static bool link_state(const EsAslDefinition *definition, EsAslState *state, StringInfo faults);
static void follow(EsAslState *state, EsAslState *target);
static void check_reached(const EsAslDefinition *definition, StringInfo faults);
static void check_ends(const EsAslDefinition *definition, const bool *is_open, StringInfo faults);
static void push(EsAslState **stack, int *depth, bool *is_known, EsAslState *state);
static void tell_endless(const EsAslMachine *machine, const bool *ends, StringInfo faults);
static bool is_end(const EsAslState *state);

void
es_asl_link(EsAslDefinition *definition, StringInfo faults)
{
	bool	   *is_open = palloc0(definition->nstates * sizeof(bool));

	sort_by_name(definition, faults);
	for (int i = 0; i < definition->nmachines; i++)
	{
		EsAslMachine *machine = definition->machines[i];

		machine->start = find_target(definition, machine, machine->start_name, es_asl_where(machine->where, "StartAt"), faults);
	}
	for (int i = 0; i < definition->nstates; i++)
		is_open[i] = !link_state(definition, definition->states[i], faults);
	check_reached(definition, faults);
	check_ends(definition, is_open, faults);
}

EsAslState *
es_asl_find_state(const EsAslDefinition *definition, const char *name)
{
	int			i = find_name(definition, name);

	return i < definition->nstates && strcmp(definition->by_name[i]->name, name) == 0 ? definition->by_name[i] : NULL;
}

/* what is there twice is not found by its name alone */
static void
sort_by_name(EsAslDefinition *definition, StringInfo faults)
{
	definition->by_name = palloc(definition->nstates * sizeof(EsAslState *));
	memcpy(definition->by_name, definition->states, definition->nstates * sizeof(EsAslState *));
	qsort(definition->by_name, definition->nstates, sizeof(EsAslState *), compare_names);
	for (int i = 1; i < definition->nstates; i++)
		if (strcmp(definition->by_name[i - 1]->name, definition->by_name[i]->name) == 0)
			es_asl_add_fault(faults, definition->by_name[i]->where, "another state has this name: %s", definition->by_name[i - 1]->where);
}

static int
compare_names(const void *a, const void *b)
{
	const EsAslState *x = *(EsAslState *const *) a;
	const EsAslState *y = *(EsAslState *const *) b;
	int			result = strcmp(x->name, y->name);

	return result != 0 ? result : x->number - y->number;
}

/* the first that is not below it */
static int
find_name(const EsAslDefinition *definition, const char *name)
{
	int			low = 0;
	int			high = definition->nstates;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (strcmp(definition->by_name[middle]->name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* the one of the same machine; NULL: there is none, which is a fault */
static EsAslState *
find_target(const EsAslDefinition *definition, const EsAslMachine *machine, const char *name, const char *where, StringInfo faults)
{
	bool		elsewhere = false;

	for (int i = find_name(definition, name); i < definition->nstates && strcmp(definition->by_name[i]->name, name) == 0; i++)
	{
		if (definition->by_name[i]->machine == machine)
			return definition->by_name[i];
		elsewhere = true;
	}
	es_asl_add_fault(faults, where, elsewhere ? "state \"%s\" is in another branch: a branch is left at its end only, and entered at its start" :
					 "there is no state \"%s\"", es_arg_shown(name, strlen(name)));
	return NULL;
}

/* false: it leads somewhere that is not there, so what is behind it is not known */
static bool
link_state(const EsAslDefinition *definition, EsAslState *state, StringInfo faults)
{
	bool		is_linked = true;
	ListCell   *lc;

	if (state->next_name != NULL)
	{
		state->next = find_target(definition, state->machine, state->next_name, es_asl_where(state->where, "Next"), faults);
		is_linked &= state->next != NULL;
		follow(state, state->next);
	}
	foreach(lc, state->choices == NULL ? NIL : es_asl_choices_targets(state->choices))
	{
		EsAslState *target = find_target(definition, state->machine, lfirst(lc),
										 psprintf("%s.Choices[%d].Next", state->where, foreach_current_index(lc)), faults);

		is_linked &= target != NULL;
		follow(state, target);
	}
	if (state->fallback_name != NULL)
	{
		state->fallback = find_target(definition, state->machine, state->fallback_name, es_asl_where(state->where, "Default"), faults);
		is_linked &= state->fallback != NULL;
		follow(state, state->fallback);
	}
	for (int i = 0; i < state->ncatchers; i++)
	{
		EsAslCatcher *catcher = &state->catchers[i];

		if (catcher->next_name == NULL)
			continue;
		catcher->next = find_target(definition, state->machine, catcher->next_name, psprintf("%s.Catch[%d].Next", state->where, i), faults);
		is_linked &= catcher->next != NULL;
		follow(state, catcher->next);
	}
	/* what neither goes on nor ends is a fault already */
	return is_linked && (state->followers != NIL || is_end(state));
}

static void
follow(EsAslState *state, EsAslState *target)
{
	if (target != NULL)
		state->followers = list_append_unique_ptr(state->followers, target);
}

/* from the starts of all machines, forward */
static void
check_reached(const EsAslDefinition *definition, StringInfo faults)
{
	bool	   *is_reached = palloc0(definition->nstates * sizeof(bool));
	EsAslState **stack = palloc(definition->nstates * sizeof(EsAslState *));
	int			depth = 0;

	for (int i = 0; i < definition->nmachines; i++)
		push(stack, &depth, is_reached, definition->machines[i]->start);
	while (depth > 0)
	{
		EsAslState *state = stack[--depth];
		ListCell   *lc;

		foreach(lc, state->followers)
			push(stack, &depth, is_reached, lfirst(lc));
	}
	for (int i = 0; i < definition->nstates; i++)
		if (!is_reached[i])
			es_asl_add_fault(faults, definition->states[i]->where, "no state leads to it");
}

/* from the ends of all machines, backward.  is_open: what is behind it is not known */
static void
check_ends(const EsAslDefinition *definition, const bool *is_open, StringInfo faults)
{
	bool	   *ends = palloc0(definition->nstates * sizeof(bool));
	List	  **before = palloc0(definition->nstates * sizeof(List *));
	EsAslState **stack = palloc(definition->nstates * sizeof(EsAslState *));
	int			depth = 0;
	ListCell   *lc;

	for (int i = 0; i < definition->nstates; i++)
	{
		EsAslState *state = definition->states[i];

		foreach(lc, state->followers)
		{
			EsAslState *target = lfirst(lc);

			before[target->number] = lappend(before[target->number], state);
		}
		if (is_end(state) || is_open[i])
			push(stack, &depth, ends, state);
	}
	while (depth > 0)
	{
		EsAslState *state = stack[--depth];

		foreach(lc, before[state->number])
			push(stack, &depth, ends, lfirst(lc));
	}
	for (int i = 0; i < definition->nmachines; i++)
		tell_endless(definition->machines[i], ends, faults);
}

static void
push(EsAslState **stack, int *depth, bool *is_known, EsAslState *state)
{
	if (state == NULL || is_known[state->number])
		return;
	is_known[state->number] = true;
	stack[(*depth)++] = state;
}

static void
tell_endless(const EsAslMachine *machine, const bool *ends, StringInfo faults)
{
	bool		has_end = false;

	for (int i = 0; i < machine->nstates; i++)
		has_end |= ends[machine->states[i]->number];
	if (!has_end)
		es_asl_add_fault(faults, es_asl_where(machine->where, "States"), "no state ends it: one has \"End\": true, or is a Succeed or a Fail");
	for (int i = 0; has_end && i < machine->nstates; i++)
		if (!ends[machine->states[i]->number])
			es_asl_add_fault(faults, machine->states[i]->where, "no way leads from it to an end");
}

static bool
is_end(const EsAslState *state)
{
	return state->is_end || state->type == ES_ASL_SUCCEED || state->type == ES_ASL_FAIL;
}
