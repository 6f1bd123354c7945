/*
 * head.c
 *		The stable head for SQL: head_position(), wait_for_head(), why_behind().
 *
 * Runs in backends.  Holds no lock and keeps nothing; a crash leaves nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "compat.h"
#include "error.h"
#include "feed.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(evtstore_head_position);
PG_FUNCTION_INFO_V1(evtstore_floors);
PG_FUNCTION_INFO_V1(evtstore_wait_for_head);

/* evtstore.head_position() */
Datum
evtstore_head_position(PG_FUNCTION_ARGS)
{
	int64		head;

	/*
	 * A number tells nothing of events, so nothing is flushed for it: where a crash takes back what lies below, the leap
	 * keeps what comes after it above.
	 */
	if (!es_feed_uses_ledger())
		PG_RETURN_INT64(es_feed_head(ES_FEED_ALL_CATEGORIES));
	head = es_feed_begin_read(ES_FEED_ALL_CATEGORIES);
	es_feed_end_read();
	PG_RETURN_INT64(head);
}

/* evtstore_internal.floors() */
Datum
evtstore_floors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			count;
	EsFloor    *all;

	InitMaterializedSRF(fcinfo, 0);
	if (RecoveryInProgress())
		return (Datum) 0;
	all = es_feed_floors(&count);
	for (int i = 0; i < count; i++)
	{
		Datum		values[2] = {Int32GetDatum(all[i].pid), Int64GetDatum(all[i].floor)};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* CALL evtstore.wait_for_head(up_to bigint, timeout interval) */
Datum
evtstore_wait_for_head(PG_FUNCTION_ARGS)
{
	CallContext *context = (CallContext *) fcinfo->context;
	int64		up_to;
	int64		timeout_ms;

	es_arg_required(fcinfo, 0, "up_to");
	up_to = PG_GETARG_INT64(0);
	timeout_ms = es_arg_interval(fcinfo, 1, "timeout") / 1000;
	PreventCommandDuringRecovery("wait_for_head");
	if (context == NULL || !IsA(context, CallContext) || context->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("wait_for_head cannot wait inside a transaction block"),
				 errdetail("Its own transaction could hold back what it waits for."),
				 errhint("CALL it outside a transaction, or compare evtstore.head_position() yourself.")));

	es_spi_drop_snapshots();
	if (!es_feed_wait(up_to, Min(timeout_ms, INT_MAX)))
		ereport(ERROR,
				(errcode(ES_ERRCODE_WAIT_TIMEOUT),
				 errmsg("the head did not reach position " INT64_FORMAT " in " INT64_FORMAT " ms", up_to, timeout_ms),
				 errdetail("It stands at " INT64_FORMAT ".", es_feed_head(ES_FEED_ALL_CATEGORIES)),
				 errhint("evtstore.why_behind() shows the appending transactions that hold it.")));
	PG_RETURN_VOID();
}
