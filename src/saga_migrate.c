/*
 * saga_migrate.c
 *		An open instance of a saga goes on by another version of its definition.
 *
 * Runs in backends, in the caller's transaction, as a transition (saga_move.c).  Locks: the instance's row, to the transaction's end; versions are never
 * changed, and none goes while an instance of their saga is open.
 *
 * What decides are the rows that may go on or be undone: what waits, where it is stuck, and each Task that has an Undo, whatever became of it, because a late
 * answer may make it known to be done.  Each has to have a state of its kind in the new version, at the same place of what it is in.  Rows of states
 * that the map names are renamed, all of them, so that attempts at one entry stay together; the event of the transition tells the map.  A crash leaves nothing
 * of it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "arg.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "options.h"
#include "queue.h"
#include "saga_column.h"
#include "saga_event.h"
#include "saga_operate.h"
#include "spi.h"

#define MAX_FAULTS_TOLD 100

/* what is looked at of a step */
typedef struct Row
{
	int			seq;
	int			parent;
	int			place;
	EsStepKind	kind;
	EsStepStatus status;
	char	   *state;
} Row;

typedef struct Migration
{
	EsMove	   *move;
	const EsAslDefinition *from;
	const EsAslDefinition *to;
	Jsonb	   *map;
	Row		   *rows;			/* in order of seq */
	int			nrows;
	List	   *faults;			/* char *, each once */
} Migration;

static EsPlan rows_plan = {
	.sql = "SELECT seq, parent, place, kind, status, state FROM evtstore_internal.saga_step WHERE saga_id = $1 ORDER BY seq",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan rename_plan = {
	.sql = "UPDATE evtstore_internal.saga_step SET state = $2->>state WHERE saga_id = $1 AND $2 ? state",
	.nargs = 2,
	.args = {UUIDOID, JSONBOID},
};

static EsPlan version_plan = {
	.sql = "UPDATE evtstore_internal.saga SET version = $2 WHERE id = $1",
	.nargs = 2,
	.args = {UUIDOID, INT4OID},
};

static void read_migrate(FunctionCallInfo fcinfo, int first, EsOperation *what);
static void migrate(EsMove *move, EsOperation *what);
static const EsSagaVersion *find_version(EsMove *move, int version);
static void check_map(const EsAslDefinition *from, const EsAslDefinition *to, Jsonb *map);
static void read_rows(Migration *migration);
static void check_row(Migration *migration, const Row *row);
static void check_going_on(Migration *migration, const Row *row);
static void check_place(Migration *migration, const Row *row, const EsAslState *there);
static void check_container(Migration *migration, const Row *row, bool is_open);
static bool has_undo(const EsAslState *state);
static void check_done(Migration *migration, const Row *row);
static bool check_kind(Migration *migration, const Row *row, const EsAslState *here, const EsAslState *there);
static const EsAslState *find_there(Migration *migration, const char *state);
static const Row *find_row(const Migration *migration, int seq);
static void tell_renamed(Migration *migration);
static void add_fault(List **faults, const char *format,...) pg_attribute_printf(2, 3);
static char *join_faults(List *faults);
static void run(EsPlan *plan, Datum *values);

const EsVerb es_verb_migrate = {"migrate_saga", "ended_at IS NULL", read_migrate, NULL, migrate};

PG_FUNCTION_INFO_V1(evtstore_migrate_saga);

/* migrate_saga(id uuid, version int, map jsonb) -> void; evtstore_admin */
Datum
evtstore_migrate_saga(PG_FUNCTION_ARGS)
{
	EsOperation what = {0};

	es_operate_call(fcinfo, &es_verb_migrate, &what);
	PG_RETURN_VOID();
}

static void
read_migrate(FunctionCallInfo fcinfo, int first, EsOperation *what)
{
	es_arg_required(fcinfo, first, "version");
	what->version = PG_GETARG_INT32(first);
	es_arg_required(fcinfo, first + 1, "map");
	what->map = PG_GETARG_JSONB_P(first + 1);
	if (!JB_ROOT_IS_OBJECT(what->map))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("map is not an object"),
				 errhint("It gives states of this version their names in the other: {\"Old\": \"New\"}.")));
}

static void
migrate(EsMove *move, EsOperation *what)
{
	EsSaga	   *saga = &move->saga;
	const EsSagaVersion *version;
	Migration	migration = {.move = move, .map = what->map};
	Datum		values[2] = {UUIDPGetDatum(&saga->id), JsonbPGetDatum(what->map)};

	if (ES_SAGA_HAS_ENDED(saga->status))
		es_operate_refuse(move, "the saga has ended", "Only one that is open can be migrated.");
	if (move->version->reactor != NULL)
		es_operate_refuse(move, "an instance of a reactor is not migrated", "Its function is called in the version that it has then.");
	version = find_version(move, what->version);
	migration.from = move->version->definition;
	migration.to = version->definition;
	check_map(migration.from, migration.to, what->map);
	read_rows(&migration);
	for (int i = 0; i < migration.nrows; i++)
		check_row(&migration, &migration.rows[i]);
	if (migration.faults != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga cannot go on by version %d of \"%s\"", what->version, version->name),
				 errdetail_internal("%s", join_faults(migration.faults)),
				 errhint("Name the states that are theirs there in map, or define a version that has them.")));
	/* nothing waits for events, and nobody would end that */
	if (migration.to->correlation == NULL)
		es_saga_event_end(move);
	run(&rename_plan, values);
	tell_renamed(&migration);
	values[1] = Int32GetDatum(what->version);
	run(&version_plan, values);
	move->notes = lappend(move->notes, psprintf("\"from_version\": %d", saga->version));
	move->notes = lappend(move->notes, psprintf("\"map\": %s", JsonbToCString(NULL, &what->map->root, VARSIZE(what->map))));
	saga->version = what->version;
	move->version = version;
}

static const EsSagaVersion *
find_version(EsMove *move, int number)
{
	const EsSagaVersion *version = number < 1 ? NULL : es_saga_version_by_id(move->saga.definition_id, number);

	if (version == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("saga \"%s\" has no version %d", move->version->name, number),
				 errhint("Define it with evtstore.define_saga(), which returns its number.")));
	if (number == move->saga.version)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga is of version %d already", number),
				 errhint("Give the version by which it is to go on.")));
	return version;
}

/* names of states, of the one version and the other */
static void
check_map(const EsAslDefinition *from, const EsAslDefinition *to, Jsonb *map)
{
	JsonbIterator *it = JsonbIteratorInit(&map->root);
	List	   *faults = NIL;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			key = pnstrdup(v.val.string.val, v.val.string.len);
			if (es_asl_find_state(from, key) == NULL)
				add_fault(&faults, "\"%s\": this version has no such state", key);
		}
		else if (token == WJB_VALUE && v.type != jbvString)
			add_fault(&faults, "\"%s\": it is not given the name of a state", key);
		else if (token == WJB_VALUE && es_asl_find_state(to, pnstrdup(v.val.string.val, v.val.string.len)) == NULL)
			add_fault(&faults, "\"%s\": the other version has no state \"%s\"", key, pnstrdup(v.val.string.val, v.val.string.len));
	}
	if (faults != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("map names states that are not there"),
				 errdetail_internal("%s", join_faults(faults)),
				 errhint("It gives states of this version their names in the other: {\"Old\": \"New\"}. Names that stay are left out.")));
}

static void
read_rows(Migration *migration)
{
	const EsSaga *saga = &migration->move->saga;
	MemoryContext context = CurrentMemoryContext;
	Datum		values[1] = {UUIDPGetDatum(&saga->id)};
	EsSpiState	state;
	MemoryContext old;
	uint64		n;

	es_queue_spi_begin(&state);
	n = es_spi_run(&rows_plan, values, NULL, false, 0);
	old = MemoryContextSwitchTo(context);
	migration->rows = MemoryContextAllocHuge(context, Max(n, 1) * sizeof(Row));
	migration->nrows = (int) n;
	for (uint64 i = 0; i < n; i++)
	{
		Row		   *row = &migration->rows[i];
		EsColumnReader reader = {.row = i};

		row->seq = (int) es_column_next_int(&reader);
		row->parent = (int) es_column_next_int(&reader);
		row->place = (int) es_column_next_int(&reader);
		row->kind = es_step_kind_by_name(es_column_next_text(&reader));
		row->status = es_step_status_by_name(es_column_next_text(&reader));
		row->state = es_column_next_text(&reader);
	}
	MemoryContextSwitchTo(old);
	es_spi_end(&state);
}

static void
check_row(Migration *migration, const Row *row)
{
	bool		is_open = row->status == ES_STEP_WAITING || row->status == ES_STEP_PENDING;
	const EsAslState *there = find_there(migration, row->state);

	switch (row->kind)
	{
		case ES_STEP_START:
		case ES_STEP_BRANCH:
			/* it begins where the version begins; a branch is what its Parallel or Map is */
			break;
		case ES_STEP_STOP:
			/* one that is closed is history */
			if (row->status == ES_STEP_FAILED)
				check_going_on(migration, row);
			break;
		case ES_STEP_UNDO:
			if (is_open && !has_undo(there))
				add_fault(&migration->faults, "\"%s\" is being undone, and has no Undo there", row->state);
			break;
		default:
			if (is_open)
				check_going_on(migration, row);
			/* what somebody has may be done, and undone then */
			if (row->kind == ES_STEP_TASK || row->kind == ES_STEP_CHILD)
				check_done(migration, row);
			else if (row->kind == ES_STEP_PARALLEL || row->kind == ES_STEP_MAP)
				check_container(migration, row, is_open);
	}
}

/* it waits, or is stuck: it is left by what the state there says */
static void
check_going_on(Migration *migration, const Row *row)
{
	const EsAslState *here = es_asl_find_state(migration->from, row->state);
	const EsAslState *there = find_there(migration, row->state);

	if (!check_kind(migration, row, here, there))
		return;
	check_place(migration, row, there);
	if (here->correlate != NULL && there->correlate == NULL)
		add_fault(&migration->faults, "\"%s\" is answered by events, and there it is not", row->state);
}

/* in the same branch of the same Parallel, in the same Map, or in none */
static void
check_place(Migration *migration, const Row *row, const EsAslState *there)
{
	const Row  *branch = find_row(migration, row->parent);
	const Row  *container = branch == NULL ? NULL : find_row(migration, branch->parent);
	const EsAslState *above = container == NULL ? NULL : find_there(migration, container->state);

	if (there->machine->owner != above)
		add_fault(&migration->faults, "\"%s\" is in %s, and there it is in %s", row->state,
				  container == NULL ? "no Parallel or Map" : psprintf("\"%s\"", container->state),
				  there->machine->owner == NULL ? "none" : psprintf("\"%s\"", there->machine->owner->name));
	else if (above != NULL && above->type == ES_ASL_PARALLEL && there->machine->place != branch->place)
		add_fault(&migration->faults, "\"%s\" is in branch %d of \"%s\", and there it is in branch %d", row->state, branch->place, container->state,
				  there->machine->place);
}

/* whoever undoes what is in it asks it how many branches at once; a scope that is undone goes on then */
static void
check_container(Migration *migration, const Row *row, bool is_open)
{
	if (row->status == ES_STEP_UNDOING)
		check_going_on(migration, row);
	else if (!is_open && row->status != ES_STEP_UNDONE && !migration->move->saga.has_pivot)
		(void) check_kind(migration, row, es_asl_find_state(migration->from, row->state), find_there(migration, row->state));
}

/* an Undo, or a child that undoes itself */
static bool
has_undo(const EsAslState *state)
{
	return state != NULL && (state->has_undo || (state->type == ES_ASL_TASK && state->call.kind == ES_ASL_SAGA && state->class == ES_ASL_UNDECLARED));
}

/* it may have to be undone, now or when it is known to be done */
static void
check_done(Migration *migration, const Row *row)
{
	const EsAslState *here = es_asl_find_state(migration->from, row->state);
	const EsAslState *there = find_there(migration, row->state);
	bool		has_pivot = migration->move->saga.has_pivot;

	if (here == NULL || row->status == ES_STEP_UNDONE || row->status == ES_STEP_SKIPPED)
		return;
	if ((has_undo(here) && !has_pivot) || (here->class == ES_ASL_PIVOT && row->status == ES_STEP_UNKNOWN))
	{
		if (!check_kind(migration, row, here, there))
			return;
		if (has_undo(here) && !has_pivot && !has_undo(there))
			add_fault(&migration->faults, "\"%s\" may have to be undone, and has no Undo there", row->state);
	}
	if (there == NULL || has_pivot || (row->status != ES_STEP_DONE && row->status != ES_STEP_UNKNOWN))
		return;
	if ((here->class == ES_ASL_PIVOT) != (there->class == ES_ASL_PIVOT))
		add_fault(&migration->faults, "\"%s\" is %s, and there it is %s pivot", row->state, row->status == ES_STEP_DONE ? "done" : "unknown",
				  there->class == ES_ASL_PIVOT ? "the" : "no");
}

/* false: a fault */
static bool
check_kind(Migration *migration, const Row *row, const EsAslState *here, const EsAslState *there)
{
	const char *kind;

	if (here == NULL)
		elog(ERROR, "state \"%s\" of step %d is not in the version of its saga", row->state, row->seq);
	if (there == NULL)
		add_fault(&migration->faults, "\"%s\" is not there", row->state);
	else if (here->type != there->type)
		add_fault(&migration->faults, "\"%s\" is a %s, and there it is a %s", row->state, es_asl_type_name(here->type), es_asl_type_name(there->type));
	else if (here->type == ES_ASL_TASK && here->call.kind != there->call.kind)
	{
		kind = es_asl_call_text(&here->call);
		add_fault(&migration->faults, "\"%s\" has the Resource %s, and there %s", row->state, kind, es_asl_call_text(&there->call));
	}
	else if (here->type == ES_ASL_PARALLEL && here->nbranches != there->nbranches)
		add_fault(&migration->faults, "\"%s\" has %d branches, and there %d", row->state, here->nbranches, there->nbranches);
	else
		return true;
	return false;
}

/* its state in the other version; NULL: none */
static const EsAslState *
find_there(Migration *migration, const char *state)
{
	return es_asl_find_state(migration->to, es_options_string(migration->map, state, state));
}

/* NULL: seq is 0 */
static const Row *
find_row(const Migration *migration, int seq)
{
	int			from = 0;
	int			to = migration->nrows;

	while (from < to)
	{
		int			middle = from + (to - from) / 2;

		if (migration->rows[middle].seq == seq)
			return &migration->rows[middle];
		if (migration->rows[middle].seq < seq)
			from = middle + 1;
		else
			to = middle;
	}
	if (seq != 0)
		elog(ERROR, "step %d, in which others are, is missing", seq);
	return NULL;
}

/* who reads the history finds the new names from here on */
static void
tell_renamed(Migration *migration)
{
	EsMove	   *move = migration->move;

	for (int i = 0; i < migration->nrows; i++)
	{
		const Row  *row = &migration->rows[i];
		EsStep	   *step;

		if (!es_options_has(migration->map, row->state))
			continue;
		CHECK_FOR_INTERRUPTS();
		step = es_move_step(move, row->parent, row->seq);
		if (step == NULL)
			elog(ERROR, "step %d, which has another state now, is missing", row->seq);
		step->is_told = true;
	}
}

/* items of a Map have the same ones */
static void
add_fault(List **faults, const char *format,...)
{
	StringInfoData fault;
	ListCell   *lc;
	int			needed;

	initStringInfo(&fault);
	do
	{
		va_list		args;

		va_start(args, format);
		needed = appendStringInfoVA(&fault, format, args);
		va_end(args);
		if (needed > 0)
			enlargeStringInfo(&fault, needed);
	} while (needed > 0);
	foreach(lc, *faults)
		if (strcmp(lfirst(lc), fault.data) == 0)
			return;
	*faults = lappend(*faults, fault.data);
}

static char *
join_faults(List *faults)
{
	StringInfoData all;
	ListCell   *lc;

	initStringInfo(&all);
	foreach(lc, faults)
	{
		int			n = foreach_current_index(lc);

		if (n < MAX_FAULTS_TOLD)
			appendStringInfo(&all, "%s%s", n > 0 ? "\n" : "", (char *) lfirst(lc));
	}
	if (list_length(faults) > MAX_FAULTS_TOLD)
		appendStringInfo(&all, "\nand %d more", list_length(faults) - MAX_FAULTS_TOLD);
	return all.data;
}

static void
run(EsPlan *plan, Datum *values)
{
	EsSpiState	state;

	es_queue_spi_begin(&state);
	es_spi_run(plan, values, NULL, false, 0);
	es_spi_end(&state);
}
