/*
 * saga_row.c
 *		The rows of instances of sagas, their keys and the answers that changed nothing.
 *
 * Runs wherever a transition does: in the backends of clients and in delivery workers, in their transaction.  The lock of an instance is
 * that of its row, held to the end of the transaction; whoever has it may read and write the rows of its steps, and nobody else writes
 * them.  Everything is a row: a crash leaves what was committed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "queue.h"
#include "saga_column.h"
#include "saga_row.h"
#include "spi.h"

static const char *const status_names[] = {
	[ES_SAGA_RUNNING] = "running",
	[ES_SAGA_COMPENSATING] = "compensating",
	[ES_SAGA_STUCK] = "stuck",
	[ES_SAGA_PAUSED] = "paused",
	[ES_SAGA_SUCCEEDED] = "succeeded",
	[ES_SAGA_COMPENSATED] = "compensated",
	[ES_SAGA_FAILED] = "failed",
	[ES_SAGA_CANCELLED] = "cancelled",
};

#define SAGA_COLUMNS \
	"id, definition_id, version, last_seq, last_ended, has_pivot, timer_id, timer_due, deadline, started_at, ended_at, status, ending, reason," \
	" tenant, business_key, error, cause, input, output, metadata, parent_id, parent_parent, parent_seq, is_taken_back, has_lock"

/* and what a new one has not */
#define LATER_COLUMNS ", paused_from"

#define LOCK_SQL "SELECT " SAGA_COLUMNS LATER_COLUMNS " FROM evtstore_internal.saga WHERE id = $1 AND ($2 = '' OR tenant = $2) FOR NO KEY UPDATE"

static EsPlan lock_plan = {
	.sql = LOCK_SQL,
	.nargs = 2,
	.args = {UUIDOID, TEXTOID},
};

static EsPlan try_lock_plan = {
	.sql = LOCK_SQL " SKIP LOCKED",
	.nargs = 2,
	.args = {UUIDOID, TEXTOID},
};

static EsPlan exists_plan = {
	.sql = "SELECT 1 FROM evtstore_internal.saga WHERE id = $1 AND ($2 = '' OR tenant = $2)",
	.nargs = 2,
	.args = {UUIDOID, TEXTOID},
};

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.saga (" SAGA_COLUMNS ") VALUES"
	" ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)",
	.nargs = 26,
	.args = {UUIDOID, INT4OID, INT4OID, INT4OID, INT4OID, BOOLOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, JSONBOID, UUIDOID, INT4OID, INT4OID, BOOLOID, BOOLOID},
};

static EsPlan update_plan = {
	.sql = "UPDATE evtstore_internal.saga SET last_seq = $2, last_ended = $3, has_pivot = $4, timer_id = $5, timer_due = $6, ended_at = $7,"
	" status = $8, ending = $9, reason = $10, error = $11, cause = $12, output = $13, deadline = $14, parent_parent = $15,"
	" parent_seq = $16, is_taken_back = $17, has_lock = $18, paused_from = $19 WHERE id = $1",
	.nargs = 19,
	.args = {UUIDOID, INT4OID, INT4OID, BOOLOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID,
		TIMESTAMPTZOID, INT4OID, INT4OID, BOOLOID, BOOLOID, TEXTOID},
};

/* a concurrent start with the same key is waited for, and then it is there or not */
static EsPlan take_key_plan = {
	.sql = "INSERT INTO evtstore_internal.saga_key (definition_id, saga_id, kind, tenant, key) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
	.nargs = 5,
	.args = {INT4OID, UUIDOID, TEXTOID, TEXTOID, TEXTOID},
};

static EsPlan holder_plan = {
	.sql = "SELECT saga_id FROM evtstore_internal.saga_key WHERE definition_id = $1 AND tenant = $2 AND kind = $3 AND key = $4",
	.nargs = 4,
	.args = {INT4OID, TEXTOID, TEXTOID, TEXTOID},
};

static EsPlan drop_key_plan = {
	.sql = "DELETE FROM evtstore_internal.saga_key WHERE definition_id = $1 AND tenant = $2 AND kind = $3 AND key = $4 AND saga_id = $5",
	.nargs = 5,
	.args = {INT4OID, TEXTOID, TEXTOID, TEXTOID, UUIDOID},
};

static EsPlan answer_plan = {
	.sql = "INSERT INTO evtstore_internal.saga_answer (saga_id, number, seq, answered_at, outcome, error, cause, output)"
	" SELECT $1, COALESCE(max(number), 0) + 1, $2, $3, $4, $5, $6, $7 FROM evtstore_internal.saga_answer WHERE saga_id = $1",
	.nargs = 7,
	.args = {UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID},
};

static void read_saga(EsSaga *saga, MemoryContext context);
static void put_waiter(EsColumnWriter *writer, const EsSaga *saga);

const char *
es_saga_status_name(EsSagaStatus status)
{
	return status_names[status];
}

EsSagaFound
es_saga_lock(const pg_uuid_t *id, bool waits, EsSaga *saga)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[2] = {UUIDPGetDatum(id), CStringGetTextDatum(es_queue_tenant())};
	EsSagaFound found = ES_SAGA_NONE;
	EsSpiState	state;

	es_queue_spi_begin(&state);
	if (es_spi_run(waits ? &lock_plan : &try_lock_plan, values, NULL, false, 1) > 0)
	{
		read_saga(saga, context);
		found = ES_SAGA_FOUND;
	}
	else if (!waits && es_spi_run(&exists_plan, values, NULL, false, 1) > 0)
		found = ES_SAGA_BUSY;
	es_spi_end(&state);
	return found;
}

bool
es_saga_exists(const pg_uuid_t *id)
{
	Datum		values[2] = {UUIDPGetDatum(id), CStringGetTextDatum("")};
	EsSpiState	state;
	bool		exists;

	es_queue_spi_begin(&state);
	exists = es_spi_run(&exists_plan, values, NULL, false, 1) > 0;
	es_spi_end(&state);
	return exists;
}

void
es_saga_insert(const EsSaga *saga)
{
	EsColumnWriter 	writer = {.n = 0};

	es_column_put(&writer, UUIDPGetDatum(&saga->id));
	es_column_put(&writer, Int32GetDatum(saga->definition_id));
	es_column_put(&writer, Int32GetDatum(saga->version));
	es_column_put(&writer, Int32GetDatum(saga->last_seq));
	es_column_put(&writer, Int32GetDatum(saga->last_ended));
	es_column_put(&writer, BoolGetDatum(saga->has_pivot));
	es_column_put_int(&writer, saga->timer_id, true);
	es_column_put_time(&writer, saga->timer_due);
	es_column_put_time(&writer, saga->deadline);
	es_column_put_time(&writer, saga->started_at);
	es_column_put_time(&writer, saga->ended_at);
	es_column_put_text(&writer, status_names[saga->status]);
	es_column_put_text(&writer, status_names[saga->ending]);
	es_column_put_text(&writer, saga->reason);
	es_column_put_text(&writer, saga->tenant);
	es_column_put_text(&writer, saga->business_key);
	es_column_put_text(&writer, saga->error);
	es_column_put_text(&writer, saga->cause);
	es_column_put_jsonb(&writer, saga->input);
	es_column_put_jsonb(&writer, saga->output);
	es_column_put_jsonb(&writer, saga->metadata);
	if (saga->parent_seq == 0)
		es_column_put_null(&writer);
	else
		es_column_put(&writer, UUIDPGetDatum(&saga->parent_id));
	put_waiter(&writer, saga);
	es_column_put(&writer, BoolGetDatum(saga->has_lock));
	es_column_write(&insert_plan, &writer);
}

void
es_saga_update(const EsSaga *saga)
{
	EsColumnWriter 	writer = {.n = 0};

	es_column_put(&writer, UUIDPGetDatum(&saga->id));
	es_column_put(&writer, Int32GetDatum(saga->last_seq));
	es_column_put(&writer, Int32GetDatum(saga->last_ended));
	es_column_put(&writer, BoolGetDatum(saga->has_pivot));
	es_column_put_int(&writer, saga->timer_id, true);
	es_column_put_time(&writer, saga->timer_due);
	es_column_put_time(&writer, saga->ended_at);
	es_column_put_text(&writer, status_names[saga->status]);
	es_column_put_text(&writer, status_names[saga->ending]);
	es_column_put_text(&writer, saga->reason);
	es_column_put_text(&writer, saga->error);
	es_column_put_text(&writer, saga->cause);
	es_column_put_jsonb(&writer, saga->output);
	es_column_put_time(&writer, saga->deadline);
	put_waiter(&writer, saga);
	es_column_put(&writer, BoolGetDatum(saga->has_lock));
	es_column_put_text(&writer, saga->status == ES_SAGA_PAUSED ? status_names[saga->resumes] : NULL);
	es_column_write(&update_plan, &writer);
}

/* whoever began to take it is waited for: then it is his, or free */
bool
es_saga_take_key(const EsSaga *saga, const char *kind, const char *key, pg_uuid_t *holder)
{
	Datum		values[5] = {Int32GetDatum(saga->definition_id), UUIDPGetDatum(&saga->id), CStringGetTextDatum(kind),
		CStringGetTextDatum(saga->tenant), CStringGetTextDatum(key)};
	Datum		of[4] = {values[0], values[3], values[2], values[4]};
	bool		taken = false;
	bool		known = false;
	bool		isnull;
	EsSpiState	state;

	es_queue_spi_begin(&state);
	/* the one that was in the way may be gone before it is looked at */
	while (!taken && !known)
	{
		CHECK_FOR_INTERRUPTS();
		taken = es_spi_run(&take_key_plan, values, NULL, false, 0) == 1;
		if (!taken && es_spi_run_latest(&holder_plan, of, NULL) > 0)
		{
			*holder = *DatumGetUUIDP(es_spi_value(0, 0, &isnull));
			known = true;
		}
	}
	es_spi_end(&state);
	return taken;
}

bool
es_saga_find_key(int32 definition_id, const char *tenant, const char *kind, const char *key, pg_uuid_t *holder)
{
	Datum		values[4] = {Int32GetDatum(definition_id), CStringGetTextDatum(tenant), CStringGetTextDatum(kind), CStringGetTextDatum(key)};
	EsSpiState	state;
	bool		found;
	bool		isnull;

	es_queue_spi_begin(&state);
	found = es_spi_run(&holder_plan, values, NULL, false, 1) > 0;
	if (found)
		*holder = *DatumGetUUIDP(es_spi_value(0, 0, &isnull));
	es_spi_end(&state);
	return found;
}

void
es_saga_drop_key(const EsSaga *saga, const char *kind, const char *key)
{
	Datum		values[5] = {Int32GetDatum(saga->definition_id), CStringGetTextDatum(saga->tenant), CStringGetTextDatum(kind),
		CStringGetTextDatum(key), UUIDPGetDatum(&saga->id)};
	EsSpiState	state;

	/* one that has ended, and goes on to undo what was done late, has none any more when it ends again */
	es_queue_spi_begin(&state);
	(void) es_spi_run(&drop_key_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

void
es_saga_write_answer(EsSaga *saga, int seq, const char *outcome, const char *error, const char *cause, Jsonb *output)
{
	EsColumnWriter 	writer = {.n = 0};

	es_column_put(&writer, UUIDPGetDatum(&saga->id));
	es_column_put(&writer, Int32GetDatum(seq));
	es_column_put_time(&writer, GetCurrentTimestamp());
	es_column_put_text(&writer, outcome);
	es_column_put_text(&writer, error);
	es_column_put_text(&writer, cause);
	es_column_put_jsonb(&writer, output);
	es_column_write(&answer_plan, &writer);
}

static void
read_saga(EsSaga *saga, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	EsColumnReader 	reader = {0};
	char	   *ending;
	Datum		parent;
	char	   *paused_from;
	bool		isnull;

	memset(saga, 0, sizeof(EsSaga));
	saga->id = *DatumGetUUIDP(es_column_next(&reader, &isnull));
	saga->definition_id = (int32) es_column_next_int(&reader);
	saga->version = (int) es_column_next_int(&reader);
	saga->last_seq = (int) es_column_next_int(&reader);
	saga->last_ended = (int) es_column_next_int(&reader);
	saga->has_pivot = DatumGetBool(es_column_next(&reader, &isnull));
	saga->timer_id = DatumGetInt64(es_column_next(&reader, &isnull));
	saga->timer_due = es_column_next_time(&reader);
	saga->deadline = es_column_next_time(&reader);
	saga->started_at = es_column_next_time(&reader);
	saga->ended_at = es_column_next_time(&reader);
	saga->status = es_column_name(status_names, lengthof(status_names), es_column_next_text(&reader));
	ending = es_column_next_text(&reader);
	saga->ending = es_column_name(status_names, lengthof(status_names), ending);
	saga->reason = es_column_next_text(&reader);
	saga->tenant = es_column_next_text(&reader);
	saga->business_key = es_column_next_text(&reader);
	saga->error = es_column_next_text(&reader);
	saga->cause = es_column_next_text(&reader);
	saga->input = es_column_next_jsonb(&reader);
	saga->output = es_column_next_jsonb(&reader);
	saga->metadata = es_column_next_jsonb(&reader);
	parent = es_column_next(&reader, &isnull);
	if (!isnull)
		saga->parent_id = *DatumGetUUIDP(parent);
	saga->parent_parent = (int) es_column_next_int(&reader);
	saga->parent_seq = (int) es_column_next_int(&reader);
	saga->is_taken_back = DatumGetBool(es_column_next(&reader, &isnull));
	saga->has_lock = DatumGetBool(es_column_next(&reader, &isnull));
	paused_from = es_column_next_text(&reader);
	if (paused_from != NULL)
		saga->resumes = es_column_name(status_names, lengthof(status_names), paused_from);
	MemoryContextSwitchTo(old);
}

/* who is told when it has ended */
static void
put_waiter(EsColumnWriter *writer, const EsSaga *saga)
{
	es_column_put_int(writer, saga->parent_parent, false);
	es_column_put_int(writer, saga->parent_seq, false);
	es_column_put(writer, BoolGetDatum(saga->is_taken_back));
}
