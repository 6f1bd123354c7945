/*
 * queue_status.c
 *		What shared memory knows of queues, for views.
 *
 * Runs in backends.  Copies, each queue's under its lock: what is shown of one queue fits together, of two it may not.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "definition.h"
#include "queue.h"

PG_FUNCTION_INFO_V1(evtstore_in_flight);

/* evtstore_internal.in_flight() -> table(queue_id int, message_id bigint, lease_until timestamptz, lost int); for views */
Datum
evtstore_in_flight(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = es_clock_now();
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, es_definition_list("queue"))
	{
		int32		id = ((EsDefinition *) lfirst(lc))->id;
		EsQueueState *state = es_queue_state_find(id);
		EsHold	   *held;
		TimestampTz *until;
		int			n;

		if (state == NULL)
			continue;
		held = es_queue_in_flight(state, &until, &n);
		for (int i = 0; i < n; i++)
		{
			Datum		values[4];
			bool		nulls[4] = {0};

			/* an expired lease holds nobody up */
			if (until[i] <= now)
				continue;
			values[0] = Int32GetDatum(id);
			values[1] = Int64GetDatum(held[i].id);
			values[2] = TimestampTzGetDatum(until[i]);
			values[3] = Int32GetDatum(held[i].lost);
			tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
		}
		pfree(held);
		pfree(until);
	}
	PG_RETURN_NULL();
}
