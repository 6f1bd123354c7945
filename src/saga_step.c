/*
 * saga_step.c
 *		The rows of steps of sagas: what instances did, and what they wait for.
 *
 * Runs within a transition, under the lock of its instance (saga_row.c), which is that of its steps as well: nobody else writes them.  Everything is
 * a row: a crash leaves what was committed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "compat.h"
#include "queue.h"
#include "saga_column.h"
#include "saga_row.h"
#include "spi.h"

static const char *const kind_names[] = {
	[ES_STEP_START] = "start",
	[ES_STEP_TASK] = "task",
	[ES_STEP_WAIT] = "wait",
	[ES_STEP_UNDO] = "undo",
	[ES_STEP_SIGNAL] = "signal",
	[ES_STEP_PARALLEL] = "parallel",
	[ES_STEP_MAP] = "map",
	[ES_STEP_BRANCH] = "branch",
	[ES_STEP_STOP] = "stop",
	[ES_STEP_CHILD] = "child",
	[ES_STEP_EVENT] = "event",
};

static const char *const step_status_names[] = {
	[ES_STEP_WAITING] = "waiting",
	[ES_STEP_PENDING] = "pending",
	[ES_STEP_DONE] = "done",
	[ES_STEP_FAILED] = "failed",
	[ES_STEP_UNKNOWN] = "unknown",
	[ES_STEP_WITHDRAWN] = "withdrawn",
	[ES_STEP_UNDONE] = "undone",
	[ES_STEP_SKIPPED] = "skipped",
	[ES_STEP_UNDOING] = "undoing",
};

#define STEP_COLUMNS \
	"parent, seq, above, place, first_seq, undoes, attempt, queue_id, message_id, ended, open, failed, due, started_at, ended_at, kind, status, state, error, cause," \
	" tries, via, input, sent, output, deadline, heartbeat, resource"

static EsPlan insert_step_plan = {
	.sql = "INSERT INTO evtstore_internal.saga_step (saga_id, " STEP_COLUMNS ") VALUES"
	" ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)",
	.nargs = 29,
	.args = {UUIDOID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, INT8OID, INT4OID, INT4OID, INT4OID, TIMESTAMPTZOID,
		TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4ARRAYOID, TEXTARRAYOID, JSONBOID, JSONBOID, JSONBOID, TIMESTAMPTZOID, FLOAT8OID, TEXTOID},
};

static EsPlan update_step_plan = {
	.sql = "UPDATE evtstore_internal.saga_step SET ended = $4, due = $5, ended_at = $6, status = $7, error = $8, cause = $9, output = $10,"
	" open = $11, failed = $12, place = $13, queue_id = $14, message_id = $15, kind = $16, deadline = $17, heartbeat = $18"
	" WHERE saga_id = $1 AND parent = $2 AND seq = $3",
	.nargs = 18,
	.args = {UUIDOID, INT4OID, INT4OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, INT4OID, INT4OID, INT4OID,
		INT4OID, INT8OID, TEXTOID, TIMESTAMPTZOID, FLOAT8OID},
};

static EsPlan read_step_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND seq = $3",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, INT4OID},
};

static EsPlan find_step_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND seq = $2",
	.nargs = 2,
	.args = {UUIDOID, INT4OID},
};

static EsPlan waiting_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND status IN ('waiting', 'pending') ORDER BY seq",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan next_item_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND seq > $3 AND status = 'pending' ORDER BY seq LIMIT 1",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, INT4OID},
};

static EsPlan outputs_plan = {
	.sql = "SELECT COALESCE(jsonb_agg(COALESCE(output, 'null') ORDER BY place), '[]') FROM evtstore_internal.saga_step"
	" WHERE saga_id = $1 AND parent = $2 AND kind = 'branch'",
	.nargs = 2,
	.args = {UUIDOID, INT4OID},
};

static EsPlan count_plan = {
	.sql = "SELECT count(*)::int FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND kind = 'branch'",
	.nargs = 2,
	.args = {UUIDOID, INT4OID},
};

static EsPlan undo_log_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND kind IN ('task', 'child') AND status IN ('done', 'unknown')"
	" ORDER BY ended DESC",
	.nargs = 1,
	.args = {UUIDOID},
};

/* a few: who undoes them comes back for more */
static EsPlan undo_items_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND (kind IN ('task', 'child') AND status IN ('done', 'unknown')"
	" OR kind IN ('parallel', 'map') AND status IN ('done', 'failed', 'withdrawn', 'undoing')) AND ($3 = 0 OR ended < $3) ORDER BY ended DESC LIMIT 10",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, INT4OID},
};

static EsPlan entry_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND first_seq = $3 AND kind IN ('task', 'child')"
	" AND status IN ('done', 'unknown') ORDER BY ended DESC",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, INT4OID},
};

static EsPlan previous_branch_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND kind = 'branch' AND ($3 = 0 OR seq < $3)"
	" AND status <> 'pending' ORDER BY seq DESC LIMIT 1",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, INT4OID},
};

static EsPlan undoing_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND kind = 'branch' AND status = 'undoing' ORDER BY seq DESC",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan is_undoing_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.saga_step WHERE saga_id = $1 AND (status = 'undoing' OR kind = 'undo' AND status = 'waiting') LIMIT 1",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan failed_undo_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.saga_step u JOIN evtstore_internal.saga_step t ON t.saga_id = $1 AND t.parent = u.parent AND t.seq = u.undoes"
	" WHERE u.saga_id = $1 AND u.kind = 'undo' AND u.status = 'failed' AND t.status IN ('done', 'unknown')"
	" AND NOT EXISTS (SELECT FROM evtstore_internal.saga_step l WHERE l.saga_id = $1 AND l.parent = u.parent AND l.first_seq = u.first_seq AND l.seq > u.seq) LIMIT 1",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan other_attempt_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND first_seq = $3 AND seq <> $4"
	" AND status IN ('waiting', 'done', 'undone') ORDER BY seq DESC",
	.nargs = 4,
	.args = {UUIDOID, INT4OID, INT4OID, INT4OID},
};

static EsPlan open_stops_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND kind = 'stop' AND status = 'failed' ORDER BY seq",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan stopped_at_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $4 AND seq < $2 AND state = $3"
	" AND kind NOT IN ('start', 'undo', 'stop', 'branch') ORDER BY seq DESC LIMIT 1",
	.nargs = 4,
	.args = {UUIDOID, INT4OID, TEXTOID, INT4OID},
};

static EsPlan last_step_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND kind NOT IN ('undo', 'stop')"
	" ORDER BY seq DESC LIMIT 1",
	.nargs = 2,
	.args = {UUIDOID, INT4OID},
};

static EsPlan left_branches_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND kind = 'branch' AND status <> 'done'"
	" ORDER BY seq",
	.nargs = 2,
	.args = {UUIDOID, INT4OID},
};

static EsPlan last_undo_plan = {
	.sql = "SELECT " STEP_COLUMNS " FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND undoes IN"
	" (SELECT seq FROM evtstore_internal.saga_step WHERE saga_id = $1 AND parent = $2 AND first_seq = $3) AND undoes > 0 ORDER BY seq DESC LIMIT 1",
	.nargs = 3,
	.args = {UUIDOID, INT4OID, INT4OID},
};

static EsPlan has_undone_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.saga_step WHERE saga_id = $1 AND status = 'undone' AND kind IN ('task', 'child') LIMIT 1",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan of_message_plan = {
	.sql = "SELECT saga_id, parent, seq FROM evtstore_internal.saga_step WHERE message_id = $1 AND queue_id = $2",
	.nargs = 2,
	.args = {INT8OID, INT4OID},
};

static EsStep *read_step(uint64 row, MemoryContext context);
static List *read_steps(EsPlan *plan, Datum *values, long limit);
static bool has_row(EsPlan *plan, const EsSaga *saga);
static void put_tries(EsColumnWriter *writer, const EsStep *step);
static void put_via(EsColumnWriter *writer, List *via);
static void put_times(EsColumnWriter *writer, const EsStep *step);

const char *
es_step_status_name(EsStepStatus status)
{
	return step_status_names[status];
}

const char *
es_step_kind_name(EsStepKind kind)
{
	return kind_names[kind];
}

EsStepKind
es_step_kind_by_name(const char *name)
{
	return es_column_name(kind_names, lengthof(kind_names), name);
}

EsStepStatus
es_step_status_by_name(const char *name)
{
	return es_column_name(step_status_names, lengthof(step_status_names), name);
}

void
es_saga_write_step(const EsSaga *saga, EsStep *step)
{
	EsColumnWriter 	writer = {.n = 0};

	es_column_put(&writer, UUIDPGetDatum(&saga->id));
	es_column_put(&writer, Int32GetDatum(step->parent));
	es_column_put(&writer, Int32GetDatum(step->seq));
	if (!step->is_new)
	{
		es_column_put_int(&writer, step->ended, false);
		es_column_put_time(&writer, step->due);
		es_column_put_time(&writer, step->ended_at);
		es_column_put_text(&writer, step_status_names[step->status]);
		es_column_put_text(&writer, step->error);
		es_column_put_text(&writer, step->cause);
		es_column_put_jsonb(&writer, step->output);
		es_column_put_int(&writer, step->open, false);
		es_column_put_int(&writer, step->failed, false);
		es_column_put(&writer, Int32GetDatum(step->place));
		/* of a step that begins when its lock is free */
		es_column_put_int(&writer, step->queue_id, false);
		es_column_put_int(&writer, step->message_id, true);
		es_column_put_text(&writer, kind_names[step->kind]);
		put_times(&writer, step);
		es_column_write(&update_step_plan, &writer);
	}
	else
	{
		es_column_put(&writer, Int32GetDatum(step->above));
		es_column_put(&writer, Int32GetDatum(step->place));
		es_column_put(&writer, Int32GetDatum(step->first_seq));
		es_column_put(&writer, Int32GetDatum(step->undoes));
		es_column_put(&writer, Int32GetDatum(step->attempt));
		es_column_put_int(&writer, step->queue_id, false);
		es_column_put_int(&writer, step->message_id, true);
		es_column_put_int(&writer, step->ended, false);
		es_column_put_int(&writer, step->open, false);
		es_column_put_int(&writer, step->failed, false);
		es_column_put_time(&writer, step->due);
		es_column_put_time(&writer, step->started_at);
		es_column_put_time(&writer, step->ended_at);
		es_column_put_text(&writer, kind_names[step->kind]);
		es_column_put_text(&writer, step_status_names[step->status]);
		es_column_put_text(&writer, step->state);
		es_column_put_text(&writer, step->error);
		es_column_put_text(&writer, step->cause);
		put_tries(&writer, step);
		put_via(&writer, step->via);
		es_column_put_jsonb(&writer, step->input);
		es_column_put_jsonb(&writer, step->sent);
		es_column_put_jsonb(&writer, step->output);
		put_times(&writer, step);
		es_column_put_text(&writer, step->resource);
		es_column_write(&insert_step_plan, &writer);
	}
	step->is_new = false;
}

EsStep *
es_saga_read_step(const EsSaga *saga, int parent, int seq)
{
	Datum		values[3] = {UUIDPGetDatum(&saga->id), Int32GetDatum(parent), Int32GetDatum(seq)};
	List	   *steps = read_steps(&read_step_plan, values, 1);

	return steps == NIL ? NULL : linitial(steps);
}

EsStep *
es_saga_find_step(const EsSaga *saga, int seq)
{
	Datum		values[2] = {UUIDPGetDatum(&saga->id), Int32GetDatum(seq)};
	List	   *steps = read_steps(&find_step_plan, values, 1);

	return steps == NIL ? NULL : linitial(steps);
}

List *
es_saga_waiting_steps(const EsSaga *saga)
{
	Datum		values[1] = {UUIDPGetDatum(&saga->id)};

	return read_steps(&waiting_plan, values, 0);
}

EsStep *
es_saga_next_item(const EsSaga *saga, const EsStep *map)
{
	Datum		values[3] = {UUIDPGetDatum(&saga->id), Int32GetDatum(map->seq), Int32GetDatum(map->place)};
	List	   *steps = read_steps(&next_item_plan, values, 1);

	return steps == NIL ? NULL : linitial(steps);
}

/* those that are written */
int
es_saga_count_branches(const EsSaga *saga, const EsStep *container)
{
	Datum		values[2] = {UUIDPGetDatum(&saga->id), Int32GetDatum(container->seq)};
	EsSpiState	state;
	int			n;

	es_queue_spi_begin(&state);
	(void) es_spi_run(&count_plan, values, NULL, false, 1);
	n = es_spi_int32(0, 0);
	es_spi_end(&state);
	return n;
}

Jsonb *
es_saga_branch_outputs(const EsSaga *saga, const EsStep *container)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[2] = {UUIDPGetDatum(&saga->id), Int32GetDatum(container->seq)};
	EsSpiState	state;
	MemoryContext old;
	Jsonb	   *outputs;
	bool		isnull;

	es_queue_spi_begin(&state);
	(void) es_spi_run(&outputs_plan, values, NULL, false, 1);
	old = MemoryContextSwitchTo(context);
	outputs = DatumGetJsonbPCopy(es_spi_value(0, 0, &isnull));
	MemoryContextSwitchTo(old);
	es_spi_end(&state);
	return outputs;
}

List *
es_saga_undo_log(const EsSaga *saga)
{
	Datum		values[1] = {UUIDPGetDatum(&saga->id)};

	return read_steps(&undo_log_plan, values, 0);
}

EsStep *
es_saga_other_attempt(const EsSaga *saga, const EsStep *step)
{
	Datum		values[4] = {UUIDPGetDatum(&saga->id), Int32GetDatum(step->parent), Int32GetDatum(step->first_seq), Int32GetDatum(step->seq)};
	List	   *steps = read_steps(&other_attempt_plan, values, 1);

	return steps == NIL ? NULL : linitial(steps);
}

EsStep *
es_saga_last_undo(const EsSaga *saga, const EsStep *step)
{
	Datum		values[3] = {UUIDPGetDatum(&saga->id), Int32GetDatum(step->parent), Int32GetDatum(step->first_seq)};
	List	   *steps = read_steps(&last_undo_plan, values, 1);

	return steps == NIL ? NULL : linitial(steps);
}

List *
es_saga_open_stops(const EsSaga *saga)
{
	Datum		values[1] = {UUIDPGetDatum(&saga->id)};

	return read_steps(&open_stops_plan, values, 0);
}

EsStep *
es_saga_stopped_at(const EsSaga *saga, const EsStep *stop)
{
	Datum		values[4] = {UUIDPGetDatum(&saga->id), Int32GetDatum(stop->seq), CStringGetTextDatum(stop->state), Int32GetDatum(stop->parent)};
	List	   *steps = read_steps(&stopped_at_plan, values, 1);

	return steps == NIL ? NULL : linitial(steps);
}

List *
es_saga_undo_items(const EsSaga *saga, int parent, int before)
{
	Datum		values[3] = {UUIDPGetDatum(&saga->id), Int32GetDatum(parent), Int32GetDatum(before)};

	return read_steps(&undo_items_plan, values, 0);
}

List *
es_saga_entry(const EsSaga *saga, const EsStep *step)
{
	Datum		values[3] = {UUIDPGetDatum(&saga->id), Int32GetDatum(step->parent), Int32GetDatum(step->first_seq)};

	return read_steps(&entry_plan, values, 0);
}

EsStep *
es_saga_previous_branch(const EsSaga *saga, const EsStep *container, int before)
{
	Datum		values[3] = {UUIDPGetDatum(&saga->id), Int32GetDatum(container->seq), Int32GetDatum(before)};
	List	   *steps = read_steps(&previous_branch_plan, values, 1);

	return steps == NIL ? NULL : linitial(steps);
}

List *
es_saga_undoing_branches(const EsSaga *saga)
{
	Datum		values[1] = {UUIDPGetDatum(&saga->id)};

	return read_steps(&undoing_plan, values, 0);
}

bool
es_saga_is_undoing(const EsSaga *saga)
{
	return has_row(&is_undoing_plan, saga);
}

EsStep *
es_saga_last_step(const EsSaga *saga, int parent)
{
	Datum		values[2] = {UUIDPGetDatum(&saga->id), Int32GetDatum(parent)};
	List	   *steps = read_steps(&last_step_plan, values, 1);

	return steps == NIL ? NULL : linitial(steps);
}

List *
es_saga_left_branches(const EsSaga *saga, const EsStep *container)
{
	Datum		values[2] = {UUIDPGetDatum(&saga->id), Int32GetDatum(container->seq)};

	return read_steps(&left_branches_plan, values, 0);
}

bool
es_saga_has_failed_undo(const EsSaga *saga)
{
	return has_row(&failed_undo_plan, saga);
}

bool
es_saga_has_undone(const EsSaga *saga)
{
	return has_row(&has_undone_plan, saga);
}

bool
es_saga_of_message(int32 queue_id, int64 message_id, pg_uuid_t *id, int *parent, int *seq)
{
	Datum		values[2] = {Int64GetDatum(message_id), Int32GetDatum(queue_id)};
	EsSpiState	state;
	bool		found;
	bool		isnull;

	es_queue_spi_begin(&state);
	found = es_spi_run(&of_message_plan, values, NULL, false, 1) > 0;
	if (found)
	{
		*id = *DatumGetUUIDP(es_spi_value(0, 0, &isnull));
		*parent = es_spi_int32(0, 1);
		*seq = es_spi_int32(0, 2);
	}
	es_spi_end(&state);
	return found;
}

static EsStep *
read_step(uint64 row, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	EsStep	   *step = palloc0(sizeof(EsStep));
	EsColumnReader 	reader = {.row = row};
	Datum		array;
	Datum	   *values;
	bool		isnull;

	step->parent = (int) es_column_next_int(&reader);
	step->seq = (int) es_column_next_int(&reader);
	step->above = (int) es_column_next_int(&reader);
	step->place = (int) es_column_next_int(&reader);
	step->first_seq = (int) es_column_next_int(&reader);
	step->undoes = (int) es_column_next_int(&reader);
	step->attempt = (int) es_column_next_int(&reader);
	step->queue_id = (int32) es_column_next_int(&reader);
	step->message_id = DatumGetInt64(es_column_next(&reader, &isnull));
	step->ended = (int) es_column_next_int(&reader);
	step->open = (int) es_column_next_int(&reader);
	step->failed = (int) es_column_next_int(&reader);
	step->due = es_column_next_time(&reader);
	step->started_at = es_column_next_time(&reader);
	step->ended_at = es_column_next_time(&reader);
	step->kind = es_step_kind_by_name(es_column_next_text(&reader));
	step->status = es_step_status_by_name(es_column_next_text(&reader));
	step->state = es_column_next_text(&reader);
	step->error = es_column_next_text(&reader);
	step->cause = es_column_next_text(&reader);
	array = es_column_next(&reader, &isnull);
	if (!isnull)
	{
		deconstruct_array(DatumGetArrayTypeP(array), INT4OID, 4, true, TYPALIGN_INT, &values, NULL, &step->ntries);
		step->tries = palloc(Max(step->ntries, 1) * sizeof(int));
		for (int i = 0; i < step->ntries; i++)
			step->tries[i] = DatumGetInt32(values[i]);
	}
	/* nobody asks for via of a row that is there */
	(void) es_column_next(&reader, &isnull);
	step->input = es_column_next_jsonb(&reader);
	step->sent = es_column_next_jsonb(&reader);
	step->output = es_column_next_jsonb(&reader);
	step->deadline = es_column_next_time(&reader);
	array = es_column_next(&reader, &isnull);
	step->heartbeat = isnull ? 0 : DatumGetFloat8(array);
	step->resource = es_column_next_text(&reader);
	MemoryContextSwitchTo(old);
	return step;
}

static List *
read_steps(EsPlan *plan, Datum *values, long limit)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *steps = NIL;
	EsSpiState	state;
	uint64		n;

	es_queue_spi_begin(&state);
	n = es_spi_run(plan, values, NULL, false, limit);
	for (uint64 i = 0; i < n; i++)
	{
		EsStep	   *step = read_step(i, context);
		MemoryContext old = MemoryContextSwitchTo(context);

		steps = lappend(steps, step);
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&state);
	return steps;
}

/* of a plan whose only value is the instance */
static bool
has_row(EsPlan *plan, const EsSaga *saga)
{
	Datum		values[1] = {UUIDPGetDatum(&saga->id)};
	EsSpiState	state;
	bool		result;

	es_queue_spi_begin(&state);
	result = es_spi_run(plan, values, NULL, false, 1) > 0;
	es_spi_end(&state);
	return result;
}

static void
put_tries(EsColumnWriter *writer, const EsStep *step)
{
	Datum	   *values = palloc(Max(step->ntries, 1) * sizeof(Datum));

	if (step->ntries == 0)
	{
		es_column_put_null(writer);
		return;
	}
	for (int i = 0; i < step->ntries; i++)
		values[i] = Int32GetDatum(step->tries[i]);
	es_column_put(writer, PointerGetDatum(construct_array(values, step->ntries, INT4OID, 4, true, TYPALIGN_INT)));
}

static void
put_via(EsColumnWriter *writer, List *via)
{
	Datum	   *values = palloc(Max(list_length(via), 1) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;

	if (via == NIL)
	{
		es_column_put_null(writer);
		return;
	}
	foreach(lc, via)
		values[n++] = CStringGetTextDatum(lfirst(lc));
	es_column_put(writer, PointerGetDatum(construct_array(values, n, TEXTOID, -1, false, TYPALIGN_INT)));
}

static void
put_times(EsColumnWriter *writer, const EsStep *step)
{
	es_column_put_time(writer, step->deadline);
	if (step->heartbeat > 0)
		es_column_put(writer, Float8GetDatum(step->heartbeat));
	else
		es_column_put_null(writer);
}
