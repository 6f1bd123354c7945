/*
 * asl_class.c
 *		Definitions of sagas as sequences of effects: what can be undone comes before the pivot, what cannot fail behind it.
 *
 * Runs where asl_parse.c does; keeps nothing.
 *
 * Of each state it is found out what may have been done when it is entered: of the pivot and of retriable Tasks, four combinations.  They
 * flow along the graph until nothing is new.  Branches of a Parallel, and items of a Map, run at the same time: whatever is done in one may have been
 * done when another begins, so a Map is a loop.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "asl.h"

/* what may have been done; a set of combinations has the bit (1 << combination) */
#define PIVOT 1
#define RETRIABLE 2
#define COMBINATIONS 4
#define NOTHING_DONE (1u << 0)

typedef struct Effects
{
	const EsAslDefinition *definition;
	unsigned   *entered;		/* by state: the combinations when it is entered */
	unsigned   *inside;			/* by machine: those anywhere in it, and in what it contains */
	const EsAslState **pivot;	/* by state: one that may have been done */
	const EsAslState **retriable;
	bool		is_changed;
} Effects;

static void flow(Effects *effects, EsAslState *state);
static unsigned after(const Effects *effects, const EsAslState *state);
static unsigned exit_of(const Effects *effects, const EsAslMachine *machine);
static unsigned join(unsigned a, unsigned b);
static unsigned with(unsigned combinations, unsigned effect);
static bool has(unsigned combinations, unsigned effect);
static void enter(Effects *effects, const EsAslState *from, const EsAslState *to, unsigned combinations);
static void keep_inside(Effects *effects, const EsAslState *state, unsigned combinations);
static void remember(Effects *effects, const EsAslState **known, const EsAslState *found);
static void enter_branches(Effects *effects, const EsAslState *state);
static void check_state(const Effects *effects, const EsAslState *state, StringInfo faults);
static void check_task(const Effects *effects, const EsAslState *state, StringInfo faults);
static bool is_caught(const EsAslState *state);
static bool has_all(const List *errors);
static bool *find_risks(const EsAslDefinition *definition);
static bool is_risky(const EsAslState *state, const bool *risks);
static bool may_fail_behind(const EsAslState *state, const bool *risks);
static bool machine_is_risky(const EsAslMachine *machine, const bool *risks);

void
es_asl_check_classes(EsAslDefinition *definition, StringInfo faults)
{
	Effects		effects = {.definition = definition};
	bool	   *risks;

	effects.entered = palloc0(definition->nstates * sizeof(unsigned));
	effects.inside = palloc0(definition->nmachines * sizeof(unsigned));
	effects.pivot = palloc0(definition->nstates * sizeof(EsAslState *));
	effects.retriable = palloc0(definition->nstates * sizeof(EsAslState *));
	effects.entered[definition->machine->start->number] = NOTHING_DONE;
	do
	{
		CHECK_FOR_INTERRUPTS();
		effects.is_changed = false;
		for (int i = 0; i < definition->nstates; i++)
			if (effects.entered[i] != 0)
				flow(&effects, definition->states[i]);
	} while (effects.is_changed);
	for (int i = 0; i < definition->nstates; i++)
		check_state(&effects, definition->states[i], faults);

	risks = find_risks(definition);
	for (int i = 0; i < definition->nstates && definition->on_fail == ES_ASL_COMPENSATE; i++)
	{
		const EsAslState *state = definition->states[i];

		/* a child undoes itself, and a signal has done nothing */
		if (state->type == ES_ASL_TASK && state->class == ES_ASL_UNDECLARED && state->call.kind != ES_ASL_SAGA && state->call.kind != ES_ASL_SIGNAL &&
			(effects.entered[i] & (NOTHING_DONE | 1u << RETRIABLE)) && may_fail_behind(state, risks))
			definition->undeclared = lappend(definition->undeclared, state->name);
	}
}

/* to the states behind it and in it */
static void
flow(Effects *effects, EsAslState *state)
{
	unsigned	entered = effects->entered[state->number];
	unsigned	left;

	keep_inside(effects, state, entered);
	enter_branches(effects, state);
	left = after(effects, state);
	keep_inside(effects, state, left);
	if (state->type == ES_ASL_CHOICE)
	{
		ListCell   *lc;

		foreach(lc, state->followers)
			enter(effects, state, lfirst(lc), entered);
		return;
	}
	if (state->next != NULL)
		enter(effects, state, state->next, left);
	for (int i = 0; i < state->ncatchers; i++)
	{
		/* a Task that failed has done nothing; branches, what they had done until then */
		unsigned	caught = entered;

		for (int j = 0; j < state->nbranches; j++)
			caught |= effects->inside[state->branches[j]->number];
		enter(effects, state, state->catchers[i].next, caught);
	}
}

/* the combinations when it is done */
static unsigned
after(const Effects *effects, const EsAslState *state)
{
	unsigned	result = effects->entered[state->number];

	if (state->type == ES_ASL_TASK && state->class == ES_ASL_PIVOT)
		return with(result, PIVOT);
	if (state->type == ES_ASL_TASK && state->class == ES_ASL_RETRIABLE)
		return with(result, RETRIABLE);
	if (state->type == ES_ASL_PARALLEL)
		for (int i = 0; i < state->nbranches; i++)
			result = join(result, exit_of(effects, state->branches[i]));
	/* of no item, of one, of several: the entry has been joined in where a next item begins */
	if (state->type == ES_ASL_MAP)
		result |= join(result, exit_of(effects, state->branches[0]));
	return result;
}

/* when it is through; 0: not known yet */
static unsigned
exit_of(const Effects *effects, const EsAslMachine *machine)
{
	unsigned	result = 0;

	for (int i = 0; i < machine->nstates; i++)
		if ((machine->states[i]->is_end || machine->states[i]->type == ES_ASL_SUCCEED) && effects->entered[machine->states[i]->number] != 0)
			result |= after(effects, machine->states[i]);
	return result;
}

/* both have been */
static unsigned
join(unsigned a, unsigned b)
{
	unsigned	result = 0;

	for (int i = 0; i < COMBINATIONS; i++)
		for (int j = 0; j < COMBINATIONS; j++)
			if ((a & 1u << i) && (b & 1u << j))
				result |= 1u << (i | j);
	return result;
}

static unsigned
with(unsigned combinations, unsigned effect)
{
	return join(combinations, 1u << effect);
}

/* may it have been done? */
static bool
has(unsigned combinations, unsigned effect)
{
	for (int i = 0; i < COMBINATIONS; i++)
		if ((combinations & 1u << i) && (i & effect))
			return true;
	return false;
}

static void
enter(Effects *effects, const EsAslState *from, const EsAslState *to, unsigned combinations)
{
	unsigned	all = effects->entered[to->number] | combinations;

	if (has(combinations, PIVOT))
		remember(effects, &effects->pivot[to->number], from->class == ES_ASL_PIVOT ? from : effects->pivot[from->number]);
	if (has(combinations, RETRIABLE))
		remember(effects, &effects->retriable[to->number], from->class == ES_ASL_RETRIABLE ? from : effects->retriable[from->number]);
	effects->is_changed |= all != effects->entered[to->number];
	effects->entered[to->number] = all;
}

/* in all machines that it is in, and with it what it was */
static void
keep_inside(Effects *effects, const EsAslState *state, unsigned combinations)
{
	const EsAslMachine *machine = state->machine;

	for (; machine != NULL; machine = machine->owner == NULL ? NULL : machine->owner->machine)
	{
		unsigned	all = effects->inside[machine->number] | combinations;

		effects->is_changed |= all != effects->inside[machine->number];
		effects->inside[machine->number] = all;
		if (machine->owner == NULL)
			continue;
		remember(effects, &effects->pivot[machine->owner->number], state->class == ES_ASL_PIVOT ? state : effects->pivot[state->number]);
		remember(effects, &effects->retriable[machine->owner->number],
				 state->class == ES_ASL_RETRIABLE ? state : effects->retriable[state->number]);
	}
}

/* the first that is found; for messages only */
static void
remember(Effects *effects, const EsAslState **known, const EsAslState *found)
{
	if (*known != NULL || found == NULL)
		return;
	*known = found;
	effects->is_changed = true;
}

static void
enter_branches(Effects *effects, const EsAslState *state)
{
	for (int i = 0; i < state->nbranches; i++)
	{
		unsigned	begun = effects->entered[state->number];

		for (int j = 0; j < state->nbranches; j++)
			if (j != i || state->type == ES_ASL_MAP)
				begun |= effects->inside[state->branches[j]->number];
		enter(effects, state, state->branches[i]->start, begun);
	}
}

static void
check_state(const Effects *effects, const EsAslState *state, StringInfo faults)
{
	if (state->type == ES_ASL_TASK)
		check_task(effects, state, faults);
	if (state->type == ES_ASL_FAIL && has(effects->entered[state->number], PIVOT) && !is_caught(state))
		es_asl_add_fault(faults, state->where, "it can be reached after the pivot %s, when nothing is undone any more", effects->pivot[state->number]->where);
}

static void
check_task(const Effects *effects, const EsAslState *state, StringInfo faults)
{
	unsigned	entered = effects->entered[state->number];
	const EsAslState *pivot = effects->pivot[state->number];
	const EsAslState *owner = state->machine->owner;
	const char *what = state->class == ES_ASL_PIVOT ? "a pivot" : "what can be undone";

	if (state->class == ES_ASL_PIVOT && owner != NULL)
		es_asl_add_fault(faults, state->where, "a pivot cannot stand in %s, which may be begun again as a whole", owner->where);
	else if (state->class == ES_ASL_PIVOT || state->class == ES_ASL_COMPENSATABLE)
	{
		if (has(entered, PIVOT))
			es_asl_add_fault(faults, state->where, "%s cannot come after the pivot %s", what, pivot->where);
		if (has(entered, RETRIABLE))
			es_asl_add_fault(faults, state->where, "%s cannot come after %s, which is retriable and never undone", what, effects->retriable[state->number]->where);
	}
	else if (state->class == ES_ASL_UNDECLARED && has(entered, PIVOT) && !is_caught(state))
		es_asl_add_fault(faults, state->where, "it may fail after the pivot %s, when nothing is undone any more: make it retriable, or catch States.ALL", pivot->where);
}

/* does a failure of it stay within the saga? */
static bool
is_caught(const EsAslState *state)
{
	for (; state != NULL; state = state->machine->owner)
	{
		for (int i = 0; i < state->ncatchers; i++)
			if (has_all(state->catchers[i].errors))
				return true;
		for (int i = 0; i < state->nretriers; i++)
			if (has_all(state->retriers[i].errors) && state->retriers[i].max_attempts < 0)
				return true;
		if (state->type == ES_ASL_MAP && state->tolerated_percentage.is_set && state->tolerated_percentage.expression == NULL &&
			state->tolerated_percentage.value >= 100)
			return true;
	}
	return false;
}

static bool
has_all(const List *errors)
{
	return list_length(errors) == 1 && strcmp(linitial(errors), ES_ASL_ALL) == 0;
}

/* by state: can something fail from it on, within its machine? */
static bool *
find_risks(const EsAslDefinition *definition)
{
	bool	   *risks = palloc0(definition->nstates * sizeof(bool));
	bool		is_changed = true;

	while (is_changed)
	{
		CHECK_FOR_INTERRUPTS();
		is_changed = false;
		for (int i = definition->nstates - 1; i >= 0; i--)
			if (!risks[i] && is_risky(definition->states[i], risks))
				is_changed = risks[i] = true;
	}
	return risks;
}

static bool
is_risky(const EsAslState *state, const bool *risks)
{
	ListCell   *lc;

	if (state->type == ES_ASL_FAIL || (state->type == ES_ASL_TASK && state->class != ES_ASL_RETRIABLE))
		return true;
	foreach(lc, state->followers)
		if (risks[((EsAslState *) lfirst(lc))->number])
			return true;
	for (int i = 0; i < state->nbranches; i++)
		if (machine_is_risky(state->branches[i], risks))
			return true;
	return false;
}

/* when it is done: behind it, beside it, and behind what it is in */
static bool
may_fail_behind(const EsAslState *state, const bool *risks)
{
	for (; state != NULL; state = state->machine->owner)
	{
		const EsAslState *owner = state->machine->owner;

		if (state->next != NULL && risks[state->next->number])
			return true;
		for (int i = 0; owner != NULL && i < owner->nbranches; i++)
			if ((owner->type == ES_ASL_MAP || i != state->machine->place) && machine_is_risky(owner->branches[i], risks))
				return true;
	}
	return false;
}

static bool
machine_is_risky(const EsAslMachine *machine, const bool *risks)
{
	return risks[machine->start->number];
}
