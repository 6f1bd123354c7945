/*
 * saga_redrive.c
 *		Sagas that have ended without success, and are to run again.
 *
 * Runs in backends, in the caller's transaction, as a transition (saga_move.c).  docs/architecture-sagas.md, section 9, has the argument for what goes on
 * where.  Where nothing was undone, the instance goes on where it stopped, with the keys that its steps had; where it was undone, another one begins
 * in its place, because whatever comes late for this one is still to be undone.
 *
 * Locks: the definition (shared), then the instance's row, to the transaction's end; the business key by its row.  A crash leaves nothing of it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "queue.h"
#include "saga_operate.h"
#include "spi.h"

#define MAX_FAULTS_TOLD 100

/* where a machine stopped, the saga's own or that of a branch */
typedef struct Frontier
{
	EsStep	   *branch;			/* NULL: the saga's own */
	EsStep	   *step;			/* the last one in it; NULL: none began */
} Frontier;

static EsPlan definition_plan = {
	.sql = "SELECT definition_id, version FROM evtstore_internal.saga WHERE id = $1",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan redriven_plan = {
	.sql = "SELECT redriven_as FROM evtstore_internal.saga WHERE id = $1 AND redriven_as IS NOT NULL",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan redrive_plan = {
	.sql = "UPDATE evtstore_internal.saga SET redriven_as = $2 WHERE id = $1",
	.nargs = 2,
	.args = {UUIDOID, UUIDOID},
};

static EsPlan undoing_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.saga_step WHERE saga_id = $1 AND (kind = 'undo' OR status = 'undone') LIMIT 1",
	.nargs = 1,
	.args = {UUIDOID},
};

/* what has, or may have, an effect that was not undone */
static EsPlan standing_plan = {
	.sql = "SELECT seq, state, status FROM evtstore_internal.saga_step WHERE saga_id = $1 AND"
	" kind NOT IN ('start', 'wait', 'signal', 'undo', 'parallel', 'map', 'branch', 'stop') AND"
	" (status IN ('done', 'unknown') OR error = 'evtstore.UndoFailed' OR $2 AND kind = 'child' AND status = 'withdrawn') ORDER BY seq",
	.nargs = 2,
	.args = {UUIDOID, BOOLOID},
};

/* what was done under a semantic lock, which others may have had since */
static EsPlan was_locked_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.saga_step WHERE saga_id = $1 AND resource IS NOT NULL AND status IN ('done', 'unknown', 'skipped') LIMIT 1",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan again_plan = {
	.sql = "UPDATE evtstore_internal.saga_step SET tries = NULL WHERE saga_id = $1 AND parent = $2 AND seq = $3",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, INT4OID},
};

static void prepare(const pg_uuid_t *id);
static void redrive(EsMove *move, EsOperation *what);
static void refuse_redriven(const EsMove *move);
static bool run_exists(EsPlan *plan, const EsSaga *saga);
static void refuse_standing(EsMove *move);
static void begin_anew(EsMove *move, EsOperation *what);
static void go_on(EsMove *move);
static void find_frontiers(EsMove *move, EsStep *branch, List **frontiers);
static bool reopen(EsMove *move, EsStep *container, List **frontiers);
static void revive(EsMove *move, EsStep *step, EsStepStatus status);
static EsNext step_again(EsMove *move, const Frontier *frontier);

const EsVerb es_verb_redrive = {"redrive_saga", "status IN ('failed', 'compensated', 'cancelled') AND redriven_as IS NULL", NULL, prepare, redrive};

PG_FUNCTION_INFO_V1(evtstore_redrive_saga);

/* redrive_saga(id uuid) -> uuid; evtstore_admin.  The instance that goes on */
Datum
evtstore_redrive_saga(PG_FUNCTION_ARGS)
{
	EsOperation what = {0};
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));

	es_operate_call(fcinfo, &es_verb_redrive, &what);
	*id = what.goes_on;
	PG_RETURN_UUID_P(id);
}

/* as for a start: a drop looks for those that are open.  What is not there is refused later */
static void
prepare(const pg_uuid_t *id)
{
	Datum		values[1] = {UUIDPGetDatum(id)};
	const EsSagaVersion *version = NULL;
	int32		definition_id = 0;
	int			number = 0;
	EsSpiState	state;

	es_queue_spi_begin(&state);
	if (es_spi_run(&definition_plan, values, NULL, false, 1) > 0)
	{
		definition_id = es_spi_int32(0, 0);
		number = es_spi_int32(0, 1);
	}
	es_spi_end(&state);
	if (definition_id != 0)
		version = es_saga_version_by_id(definition_id, number);
	if (version != NULL)
		es_saga_require(version);
}

static void
redrive(EsMove *move, EsOperation *what)
{
	EsSaga	   *saga = &move->saga;

	if (!ES_SAGA_HAS_ENDED(saga->status))
		es_operate_refuse(move, "the saga has not ended", "Only one that has failed, was compensated or cancelled can be redriven.");
	if (saga->status == ES_SAGA_SUCCEEDED)
		es_operate_refuse(move, "the saga did not fail", "Start another one with evtstore.start_saga().");
	if (move->version->reactor != NULL)
		es_operate_refuse(move, "an instance of a reactor is not redriven", "The next event with its key begins another.");
	/* who waited for it was told, and has gone on */
	if (saga->parent_seq != 0)
		es_operate_refuse(move, "the saga is a child", "Redrive the one that started it; the view evtstore.sagas has that as parent_id.");
	refuse_redriven(move);
	if (run_exists(&undoing_plan, saga))
	{
		refuse_standing(move);
		begin_anew(move, what);
		return;
	}
	if (saga->has_lock && run_exists(&was_locked_plan, saga))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga did something under a semantic lock, which it has given back"),
				 errhint("Others may have had it since: put right by hand what it left, and start another one with evtstore.start_saga().")));
	what->goes_on = saga->id;
	go_on(move);
}

static void
refuse_redriven(const EsMove *move)
{
	Datum		values[1] = {UUIDPGetDatum(&move->saga.id)};
	char	   *other = NULL;
	EsSpiState	state;
	bool		isnull;

	es_queue_spi_begin(&state);
	if (es_spi_run(&redriven_plan, values, NULL, false, 1) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(move->context);

		other = DatumGetCString(DirectFunctionCall1(uuid_out, es_spi_value(0, 0, &isnull)));
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&state);
	if (other != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga was redriven before"),
				 errdetail("{\"id\": \"%s\"}", other),
				 errhint("Redrive the one that began in its place.")));
}

static bool
run_exists(EsPlan *plan, const EsSaga *saga)
{
	Datum		values[1] = {UUIDPGetDatum(&saga->id)};
	EsSpiState	state;
	bool		result;

	es_queue_spi_begin(&state);
	result = es_spi_run(plan, values, NULL, false, 1) > 0;
	es_spi_end(&state);
	return result;
}

/* what would be done twice: it says of nothing that it may be */
static void
refuse_standing(EsMove *move)
{
	/* a child that was taken back has undone what it did, unless it was left as it was with this one */
	Datum		values[2] = {UUIDPGetDatum(&move->saga.id), BoolGetDatum(move->saga.ending == ES_SAGA_FAILED)};
	StringInfoData faults;
	int			n = 0;
	EsSpiState	spi;
	uint64		rows;

	initStringInfo(&faults);
	es_queue_spi_begin(&spi);
	rows = es_spi_run(&standing_plan, values, NULL, false, 0);
	for (uint64 i = 0; i < rows; i++)
	{
		const EsAslState *state = es_asl_find_state(move->version->definition, es_spi_text(i, 1));

		/* "Undo": "none" */
		if (state != NULL && state->class == ES_ASL_COMPENSATABLE && !state->has_undo)
			continue;
		if (n++ < MAX_FAULTS_TOLD)
			appendStringInfo(&faults, "%sstep %d, state \"%s\", is %s%s", n > 1 ? "\n" : "", es_spi_int32(i, 0), es_spi_text(i, 1), es_spi_text(i, 2),
							 state != NULL && state->has_undo ? ", and was not undone" : ", and does not say that there is nothing to undo");
	}
	es_spi_end(&spi);
	if (n > MAX_FAULTS_TOLD)
		appendStringInfo(&faults, "\nand %d more", n - MAX_FAULTS_TOLD);
	if (n > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga cannot begin anew: what it did was not all undone"),
				 errdetail_internal("%s", faults.data),
				 errhint("Where that may be done again, start another one with evtstore.start_saga() and the same input.")));
}

/* another instance, of the same version with the same input and keys, whose idempotency keys are its own */
static void
begin_anew(EsMove *move, EsOperation *what)
{
	const EsSaga *old = &move->saga;
	EsSaga		saga = {.tenant = old->tenant, .business_key = old->business_key, .input = old->input, .metadata = old->metadata};
	Datum		values[2];
	EsSpiState	state;
	EsMove		fresh;

	es_saga_fill(&saga, move->version, 0);
	es_clock_uuid(&saga.id, saga.started_at);
	if (saga.business_key != NULL)
		es_saga_take_business_key(&saga);
	values[0] = UUIDPGetDatum(&old->id);
	values[1] = UUIDPGetDatum(&saga.id);
	es_queue_spi_begin(&state);
	es_spi_run(&redrive_plan, values, NULL, false, 0);
	es_spi_end(&state);
	es_move_note(move, "redriven_as", DatumGetCString(DirectFunctionCall1(uuid_out, values[1])));
	what->goes_on = saga.id;

	es_move_start(&fresh, move->version, &saga);
	es_operate_note(&fresh, es_verb_redrive.name);
	es_move_note(&fresh, "redrive_of", DatumGetCString(DirectFunctionCall1(uuid_out, values[0])));
	es_move_walk(&fresh, (EsNext) {move->version->definition->machine->start, saga.input});
	es_move_end(&fresh);
}

/* where it stopped, with the keys that its steps had */
static void
go_on(EsMove *move)
{
	EsSaga	   *saga = &move->saga;
	List	   *frontiers = NIL;
	int			last_seq = saga->last_seq;
	ListCell   *lc;

	if (saga->business_key != NULL)
		es_saga_take_business_key(saga);
	es_move_close_stops(move);
	saga->status = move->was = ES_SAGA_RUNNING;
	saga->ending = ES_SAGA_COMPENSATED;
	saga->reason = saga->error = saga->cause = NULL;
	saga->ended_at = 0;
	saga->deadline = move->version->definition->timeout > 0 ?
		move->now + (TimestampTz) (move->version->definition->timeout * USECS_PER_SEC) : 0;
	find_frontiers(move, NULL, &frontiers);
	foreach(lc, frontiers)
	{
		Frontier   *frontier = lfirst(lc);

		if (saga->status == ES_SAGA_RUNNING && (frontier->branch == NULL || frontier->branch->status == ES_STEP_WAITING))
			es_move_walk(move, step_again(move, frontier));
	}
	if (saga->status != ES_SAGA_FAILED || saga->last_seq > last_seq)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the saga would fail again at once: %s", saga->error),
			 saga->cause == NULL ? 0 : errdetail("%s", saga->cause),
			 errhint("It failed by what it is, and not by what it called. Define it otherwise, and start another one with evtstore.start_saga().")));
}

/* a Parallel or Map goes on in those of its branches that are not done */
static void
find_frontiers(EsMove *move, EsStep *branch, List **frontiers)
{
	EsStep	   *step = es_saga_last_step(&move->saga, branch == NULL ? 0 : branch->seq);
	Frontier   *frontier = palloc(sizeof(Frontier));

	CHECK_FOR_INTERRUPTS();
	if (step != NULL)
		step = es_move_adopt(move, step);
	if (step != NULL && (step->kind == ES_STEP_PARALLEL || step->kind == ES_STEP_MAP) && step->status != ES_STEP_DONE &&
		reopen(move, step, frontiers))
		return;
	*frontier = (Frontier) {branch, step};
	*frontiers = lappend(*frontiers, frontier);
}

/* false: its branches did not all begin, so none of them did anything */
static bool
reopen(EsMove *move, EsStep *container, List **frontiers)
{
	int			all = es_saga_count_branches(&move->saga, container);
	List	   *left = es_saga_left_branches(&move->saga, container);
	List	   *begun = NIL;
	Datum		values[3] = {UUIDPGetDatum(&move->saga.id), Int32GetDatum(container->parent), Int32GetDatum(container->seq)};
	EsSpiState	state;
	ListCell   *lc;

	if (left == NIL || list_length(left) != container->open || all == 0)
		return false;
	foreach(lc, left)
	{
		EsStep	   *branch = es_move_adopt(move, lfirst(lc));
		bool		has_begun = container->kind == ES_STEP_PARALLEL || branch->seq <= container->place;

		/* it was counted when it failed, and may do so again */
		if (container->kind == ES_STEP_MAP && branch->status == ES_STEP_FAILED)
			container->failed--;
		revive(move, branch, has_begun ? ES_STEP_WAITING : ES_STEP_PENDING);
		if (has_begun)
			begun = lappend(begun, branch);
	}
	revive(move, container, ES_STEP_WAITING);
	/* all its retries */
	es_queue_spi_begin(&state);
	es_spi_run(&again_plan, values, NULL, false, 0);
	es_spi_end(&state);
	container->ntries = 0;
	foreach(lc, begun)
		find_frontiers(move, lfirst(lc), frontiers);
	return true;
}

static void
revive(EsMove *move, EsStep *step, EsStepStatus status)
{
	step->status = status;
	step->ended = 0;
	step->ended_at = 0;
	step->error = step->cause = NULL;
	step->output = NULL;
	es_step_change(move, step);
}

static EsNext
step_again(EsMove *move, const Frontier *frontier)
{
	EsStep	   *step = frontier->step;
	EsStep	   *other = step == NULL ? NULL : es_saga_other_attempt(&move->saga, step);
	EsNext		at = {.branch = frontier->branch};

	if (step == NULL || step->kind == ES_STEP_START)
	{
		EsStep	   *container = at.branch == NULL ? NULL : es_move_parent(move, at.branch);

		if (container == NULL)
			return (EsNext) {move->version->definition->machine->start, move->saga.input};
		at.state = es_asl_find_state(move->version->definition, container->state);
		return (EsNext) {at.state->branches[container->kind == ES_STEP_MAP ? 0 : at.branch->place]->start, at.branch->input, at.branch};
	}
	/* an earlier attempt may have become known to be done since */
	if (other != NULL && es_step_is_known(other))
		step = es_move_adopt(move, other);
	at.state = es_asl_find_state(move->version->definition, step->state);
	at.input = step->input;
	if (step->status == ES_STEP_DONE || step->status == ES_STEP_SKIPPED)
		return es_task_leave(move, at, step);
	step->ntries = 0;
	switch (step->kind)
	{
		case ES_STEP_TASK:
		case ES_STEP_SIGNAL:
			return es_task_again(move, at, step);
		case ES_STEP_WAIT:
			return es_wait_enter(move, at);
		case ES_STEP_CHILD:
			/* one that failed has told so; of another nobody knows what it has left */
			if (step->status == ES_STEP_FAILED)
				return es_task_again(move, at, step);
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the child in state \"%s\" was left as it was", step->state),
					 errhint("See to what it did, by parent_id in the view evtstore.sagas, and start another one with evtstore.start_saga().")));
			break;
		case ES_STEP_PARALLEL:
		case ES_STEP_MAP:
			return es_branches_again(move, at, step, 0);
		default:
			es_operate_refuse(move, psprintf("step %d, at which the saga ended, cannot be begun again", step->seq),
							  "Start another one with evtstore.start_saga().");
	}
}
