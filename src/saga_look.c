/*
 * saga_look.c
 *		An instance as it is, for who looks at it and changes nothing: saga_why.c, saga_explain.c.
 *
 * Runs in backends, in the caller's transaction.  Takes no lock: the instance and its steps are read under the active snapshot, which shows both as one
 * transition left them.  All steps are read, without their documents, so it costs what the instance has done.  Writes nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "compat.h"
#include "queue.h"
#include "saga_column.h"
#include "saga_look.h"
#include "saga_move.h"
#include "spi.h"

static EsPlan saga_plan = {
	.sql = "SELECT definition_id, version, has_pivot, deadline, started_at, ended_at, status, ending, reason, business_key, error, cause, parent_id"
	" FROM evtstore_internal.saga WHERE id = $1 AND ($2 = '' OR tenant = $2)",
	.nargs = 2,
	.args = {UUIDOID, TEXTOID},
};

static EsPlan steps_plan = {
	.sql = "SELECT parent, seq, above, first_seq, undoes, attempt, queue_id, message_id, ended, open, due, started_at, ended_at, kind, status, state, error, cause,"
	" tries, via, deadline, heartbeat, resource FROM evtstore_internal.saga_step WHERE saga_id = $1 ORDER BY seq",
	.nargs = 1,
	.args = {UUIDOID},
};

static EsPlan child_plan = {
	.sql = "SELECT id FROM evtstore_internal.saga WHERE parent_id = $1 AND parent_seq = $2",
	.nargs = 2,
	.args = {UUIDOID, INT4OID},
};

static bool read_saga(const pg_uuid_t *id, EsLook *look);
static List *read_steps(const pg_uuid_t *id);
static EsLookStep *read_step(uint64 row);
static void read_tries(EsColumnReader *reader, EsLookStep *step);
static List *read_via(EsColumnReader *reader);

EsLook *
es_saga_look(const pg_uuid_t *id)
{
	EsLook	   *look = palloc0(sizeof(EsLook));

	if (!read_saga(id, look))
		es_move_refuse_unknown(id);
	look->uuid = *id;
	look->id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)));
	look->steps = read_steps(id);
	return look;
}

/* they are in order, and most have their number as their place */
const EsLookStep *
es_look_step(const EsLook *look, int seq)
{
	ListCell   *lc;

	if (seq >= 1 && seq <= list_length(look->steps) && ((EsLookStep *) list_nth(look->steps, seq - 1))->seq == seq)
		return list_nth(look->steps, seq - 1);
	foreach(lc, look->steps)
		if (((EsLookStep *) lfirst(lc))->seq == seq)
			return lfirst(lc);
	return NULL;
}

const EsLookStep *
es_look_previous(const EsLook *look, const EsLookStep *step)
{
	const EsLookStep *found = NULL;
	ListCell   *lc;

	if (step->attempt < 2)
		return NULL;
	foreach(lc, look->steps)
	{
		const EsLookStep *other = lfirst(lc);

		if (other->seq >= step->seq)
			break;
		if (other->parent == step->parent && other->first_seq == step->first_seq)
			found = other;
	}
	return found;
}

/* as ES_WAITS_FOR_LOCK */
bool
es_look_waits_for_lock(const EsLookStep *step)
{
	return step->resource != NULL && ES_LOOK_IS(step->kind, "task") && ES_LOOK_IS(step->status, "waiting") && step->queue_id == 0 && step->due == step->deadline;
}

const EsAslState *
es_look_state(const EsLook *look, const EsLookStep *step)
{
	return es_asl_find_state(look->version->definition, step->state);
}

bool
es_look_child(const EsLook *look, const EsLookStep *step, pg_uuid_t *id)
{
	Datum		values[2] = {UUIDPGetDatum(&look->uuid), Int32GetDatum(step->seq)};
	EsSpiState	state;
	bool		found;
	bool		isnull;

	es_queue_spi_begin(&state);
	found = es_spi_run(&child_plan, values, NULL, true, 1) > 0;
	if (found)
		*id = *DatumGetUUIDP(es_spi_value(0, 0, &isnull));
	es_spi_end(&state);
	return found;
}

static bool
read_saga(const pg_uuid_t *id, EsLook *look)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[2] = {UUIDPGetDatum(id), CStringGetTextDatum(es_queue_tenant())};
	EsColumnReader reader = {0};
	int32		definition_id = 0;
	int			version = 0;
	EsSpiState	state;
	MemoryContext old;
	Datum		value;
	bool		found;
	bool		isnull;

	es_queue_spi_begin(&state);
	found = es_spi_run(&saga_plan, values, NULL, true, 1) > 0;
	if (found)
	{
		old = MemoryContextSwitchTo(caller);
		definition_id = (int32) es_column_next_int(&reader);
		version = (int) es_column_next_int(&reader);
		look->has_pivot = DatumGetBool(es_column_next(&reader, &isnull));
		look->deadline = es_column_next_time(&reader);
		look->started_at = es_column_next_time(&reader);
		look->ended_at = es_column_next_time(&reader);
		look->status = es_column_next_text(&reader);
		look->ending = es_column_next_text(&reader);
		look->reason = es_column_next_text(&reader);
		look->business_key = es_column_next_text(&reader);
		look->error = es_column_next_text(&reader);
		look->cause = es_column_next_text(&reader);
		value = es_column_next(&reader, &isnull);
		look->has_parent = !isnull;
		if (!isnull)
			look->parent = *DatumGetUUIDP(value);
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&state);
	if (!found)
		return false;
	look->version = es_saga_version_by_id(definition_id, version);
	if (look->version == NULL)
		elog(ERROR, "version %d of definition %d of sagas is missing", version, definition_id);
	return true;
}

static List *
read_steps(const pg_uuid_t *id)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[1] = {UUIDPGetDatum(id)};
	List	   *steps = NIL;
	EsSpiState	state;
	MemoryContext old;
	uint64		n;

	es_queue_spi_begin(&state);
	n = es_spi_run(&steps_plan, values, NULL, true, 0);
	old = MemoryContextSwitchTo(caller);
	for (uint64 row = 0; row < n; row++)
		steps = lappend(steps, read_step(row));
	MemoryContextSwitchTo(old);
	es_spi_end(&state);
	return steps;
}

static EsLookStep *
read_step(uint64 row)
{
	EsLookStep *step = palloc0(sizeof(EsLookStep));
	EsColumnReader reader = {.row = row};
	Datum		heartbeat;
	bool		isnull;

	step->parent = (int) es_column_next_int(&reader);
	step->seq = (int) es_column_next_int(&reader);
	step->above = (int) es_column_next_int(&reader);
	step->first_seq = (int) es_column_next_int(&reader);
	step->undoes = (int) es_column_next_int(&reader);
	step->attempt = (int) es_column_next_int(&reader);
	step->queue_id = (int32) es_column_next_int(&reader);
	step->message_id = DatumGetInt64(es_column_next(&reader, &isnull));
	step->ended = (int) es_column_next_int(&reader);
	step->open = (int) es_column_next_int(&reader);
	step->due = es_column_next_time(&reader);
	step->started_at = es_column_next_time(&reader);
	step->ended_at = es_column_next_time(&reader);
	step->kind = es_column_next_text(&reader);
	step->status = es_column_next_text(&reader);
	step->state = es_column_next_text(&reader);
	step->error = es_column_next_text(&reader);
	step->cause = es_column_next_text(&reader);
	read_tries(&reader, step);
	step->via = read_via(&reader);
	step->deadline = es_column_next_time(&reader);
	heartbeat = es_column_next(&reader, &isnull);
	step->heartbeat = isnull ? 0 : DatumGetFloat8(heartbeat);
	step->resource = es_column_next_text(&reader);
	return step;
}

static void
read_tries(EsColumnReader *reader, EsLookStep *step)
{
	Datum	   *values;
	bool		isnull;
	Datum		array = es_column_next(reader, &isnull);

	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypeP(array), INT4OID, 4, true, TYPALIGN_INT, &values, NULL, &step->ntries);
	step->tries = palloc(Max(step->ntries, 1) * sizeof(int));
	for (int i = 0; i < step->ntries; i++)
		step->tries[i] = DatumGetInt32(values[i]);
}

static List *
read_via(EsColumnReader *reader)
{
	List	   *via = NIL;
	Datum	   *values;
	int			n;
	bool		isnull;
	Datum		array = es_column_next(reader, &isnull);

	if (isnull)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &n);
	for (int i = 0; i < n; i++)
		via = lappend(via, TextDatumGetCString(values[i]));
	return via;
}
