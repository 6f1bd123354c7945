/*
 * queue_operate.c
 *		What a person does about a queue: empty it, ask after a message.
 *
 * Runs in backends, in the caller's transaction.  Locks: the queue's, shared, so consumers and senders go on meanwhile.
 *
 * A purge deletes rows past the consumers, so with its commit holds of them are taken away (their receipts are stale), and
 * what is there is read again: a message may have waited for one that was deleted (queue_state.c).  Entries that
 * are ready are dropped with the commit, but for those that were lost before: whoever takes one of them finds no row.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "error.h"
#include "evtstore.h"
#include "queue.h"
#include "queue_walk.h"
#include "table.h"
#include "waiter.h"
#include "wakeup.h"

/* those that somebody settles right now he settles: waiting for him could make two wait for each other */
static EsPlan purge_plan = {
	.sql = "WITH doomed AS MATERIALIZED (SELECT share, rank, id FROM evtstore_internal.message WHERE queue_id = $1"
	" AND ($2 = '' OR tenant = $2) FOR UPDATE SKIP LOCKED)"
	" DELETE FROM evtstore_internal.message m USING doomed d"
	" WHERE m.queue_id = $1 AND m.share = d.share AND m.rank = d.rank AND m.id = d.id",
	.nargs = 2,
	.args = {INT4OID, TEXTOID},
};

static EsPlan find_plan = {
	.sql = ES_QUEUE_PLACES
	" SELECT m.attempt, m.history->-1->>'error', m.deliver_at > $3, m.key_hash IS NOT NULL AND EXISTS (SELECT FROM evtstore_internal.message o"
	" WHERE o.queue_id = $1 AND o.key_hash = m.key_hash AND o.id < m.id)"
	" FROM place JOIN evtstore_internal.message m ON m.queue_id = $1 AND m.share = place.share AND m.rank = place.rank AND m.id = $2"
	" WHERE $4 = '' OR m.tenant = $4",
	.nargs = 4,
	.args = {INT4OID, INT8OID, TIMESTAMPTZOID, TEXTOID},
};

static EsPlan find_dead_plan = {
	.sql = "SELECT attempt, last_error FROM evtstore_internal.dead_letter WHERE message_id = $2 AND source_id = $1 AND kind = 'queue'"
	" AND ($3 = '' OR tenant = $3)",
	.nargs = 3,
	.args = {INT4OID, INT8OID, TEXTOID},
};

static void take_away(int32 queue_id);
static bool find_message(int32 queue_id, int64 id, Datum *values, bool *nulls);
static bool find_dead(int32 queue_id, int64 id, Datum *values, bool *nulls);
static const EsQueue *get_queue(FunctionCallInfo fcinfo, const char *arg);

PG_FUNCTION_INFO_V1(evtstore_purge_queue);
PG_FUNCTION_INFO_V1(evtstore_message_status);

/* purge_queue(name text) -> bigint; evtstore_admin */
Datum
evtstore_purge_queue(PG_FUNCTION_ARGS)
{
	const EsQueue *queue;
	int32		id;
	EsSpiState	state;
	Datum		values[2];
	int64		count;
	bool		is_pushed;

	es_catalog_require_writable("purge_queue");
	es_queue_refuse_reserved(es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES));
	queue = get_queue(fcinfo, "name");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a queue cannot be purged in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errhint("Use READ COMMITTED, the default isolation level.")));
	id = queue->id;
	is_pushed = queue->endpoint != NULL;
	values[0] = Int32GetDatum(id);
	values[1] = CStringGetTextDatum(es_queue_tenant());
	es_queue_spi_begin(&state);
	count = es_spi_run(&purge_plan, values, NULL, false, 0);
	es_spi_end(&state);
	if (count > 0)
	{
		take_away(id);
		/* what waited for one that is gone */
		es_waiter_wake_at_commit(id, INT_MAX);
		if (is_pushed)
			es_wakeup_at_commit(1);
	}
	PG_RETURN_INT64(count);
}

/* message_status(queue text, message_id bigint) -> table(state text, attempt int, last_error text); evtstore_reader */
Datum
evtstore_message_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	const EsQueue *queue;
	int32		id;
	int64		message_id;
	Datum		values[3] = {0};
	bool		nulls[3] = {0};

	queue = get_queue(fcinfo, "queue");
	es_arg_required(fcinfo, 1, "message_id");
	message_id = PG_GETARG_INT64(1);
	id = queue->id;
	InitMaterializedSRF(fcinfo, 0);
	if (find_message(id, message_id, values, nulls) || find_dead(id, message_id, values, nulls))
		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	PG_RETURN_NULL();
}

/* holds of rows that are not there any more.  Whoever settles one right now finds no row himself */
static void
take_away(int32 queue_id)
{
	EsQueueState *state = es_queue_state_find(queue_id);
	TupleTableSlot *slot;
	Snapshot	snapshot;
	EsHold	   *held;
	int			n;

	if (state == NULL)
		return;
	held = es_queue_in_flight(state, NULL, &n);
	slot = es_table_make_slot(es_table_open(ES_TABLE_MESSAGE, es_catalog()->message));
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	for (int i = 0; i < n; i++)
	{
		EsHold		hold;

		CHECK_FOR_INTERRUPTS();
		if (!es_queue_fetch(queue_id, &held[i], snapshot, slot) && es_queue_hold_idle(state, held[i].id, &hold))
			es_queue_gone(&hold);
	}
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	es_queue_read_again(state);
}

/* in the context of the caller */
static bool
find_message(int32 queue_id, int64 id, Datum *values, bool *nulls)
{
	EsQueueState *memory = es_queue_state_find(queue_id);
	TimestampTz now = es_clock_now();
	Datum		args[4] = {Int32GetDatum(queue_id), Int64GetDatum(id), TimestampTzGetDatum(now), CStringGetTextDatum(es_queue_tenant())};
	EsSpiState	state;
	bool		found;
	bool		isnull;
	bool		is_delayed = false;
	bool		waits = false;
	int			attempt = 0;
	int			lost;
	char	   *error = NULL;
	MemoryContext caller = CurrentMemoryContext;

	es_queue_spi_begin(&state);
	found = es_spi_run(&find_plan, args, NULL, true, 1) > 0;
	if (found)
	{
		attempt = es_spi_int32(0, 0);
		error = es_spi_text(0, 1);
		if (error != NULL)
			error = MemoryContextStrdup(caller, error);
		is_delayed = DatumGetBool(es_spi_value(0, 2, &isnull)) && !isnull;
		waits = DatumGetBool(es_spi_value(0, 3, &isnull));
	}
	es_spi_end(&state);
	if (!found)
		return false;
	lost = memory == NULL ? -1 : es_queue_held(memory, id, now);
	values[0] = CStringGetTextDatum(lost >= 0 ? "in_flight" : is_delayed ? "delayed" : waits ? "waiting" : "ready");
	values[1] = Int32GetDatum(attempt + (lost >= 0 ? lost + 1 : 0));
	nulls[2] = error == NULL;
	values[2] = error == NULL ? (Datum) 0 : CStringGetTextDatum(error);
	return true;
}

static bool
find_dead(int32 queue_id, int64 id, Datum *values, bool *nulls)
{
	Datum		args[3] = {Int32GetDatum(queue_id), Int64GetDatum(id), CStringGetTextDatum(es_queue_tenant())};
	EsSpiState	state;
	int			attempt = 0;
	char	   *error = NULL;
	bool		found;
	MemoryContext caller = CurrentMemoryContext;

	es_queue_spi_begin(&state);
	found = es_spi_run(&find_dead_plan, args, NULL, true, 1) > 0;
	if (found)
	{
		attempt = es_spi_int32(0, 0);
		error = es_spi_text(0, 1);
		if (error != NULL)
			error = MemoryContextStrdup(caller, error);
	}
	es_spi_end(&state);
	if (!found)
		return false;
	values[0] = CStringGetTextDatum("dead");
	values[1] = Int32GetDatum(attempt);
	nulls[2] = error == NULL;
	values[2] = error == NULL ? (Datum) 0 : CStringGetTextDatum(error);
	return true;
}

static const EsQueue *
get_queue(FunctionCallInfo fcinfo, const char *arg)
{
	char	   *name = es_arg_name(fcinfo, 0, arg, ES_MAX_NAME_BYTES);
	const EsQueue *queue = es_queue_lock(es_queue_get(name)->id, AccessShareLock);

	if (queue == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("queue \"%s\" does not exist", name),
				 errdetail("It was dropped a moment ago."),
				 errhint("Create it with evtstore.create_queue().")));
	return queue;
}
