/*
 * saga_trim.c
 *		Instances of sagas that ended long ago go.
 *
 * Runs in the scheduler, as a duty of the janitor.  Locks: the rows of the instances, which it only tries; so none that somebody answers, or
 * brings back to undo something, is taken.  An instance goes in one transaction with all that is of it, so nobody sees half of one.  Its
 * stream is an ordinary stream, and stays.  A crash leaves instances that are there or gone.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "guc.h"
#include "queue.h"
#include "saga.h"
#include "spi.h"

#define OF_THESE " USING doomed d WHERE t.saga_id = d.id)"

/*
 * Those that ended first, until they have so many rows, but one at least.  A child goes after its parent, and that after its own: whoever
 * compensates looks for its children.  One that could not give back a lock yet does so first.
 */
static EsPlan trim_plan = {
	.sql = "WITH old AS MATERIALIZED (SELECT s.id, s.ended_at, s.last_seq FROM evtstore_internal.saga s WHERE s.ended_at < $1"
	" AND NOT EXISTS (SELECT FROM evtstore_internal.saga p WHERE p.id = s.parent_id)"
	" AND NOT EXISTS (SELECT FROM evtstore_internal.saga_lock l WHERE l.saga_id = s.id)"
	" ORDER BY s.ended_at LIMIT $2 FOR UPDATE OF s SKIP LOCKED),"
	" doomed AS MATERIALIZED (SELECT o.id, o.last_seq + 1 AS nrows FROM (SELECT id, last_seq, sum(last_seq + 1) OVER"
	" (ORDER BY ended_at, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM old) o WHERE COALESCE(o.before, 0) < $2),"
	" steps AS (DELETE FROM evtstore_internal.saga_step t" OF_THESE ","
	" keys AS (DELETE FROM evtstore_internal.saga_key t" OF_THESE ","
	" signals AS (DELETE FROM evtstore_internal.saga_signal t" OF_THESE ","
	" answers AS (DELETE FROM evtstore_internal.saga_answer t" OF_THESE ","
	" sagas AS (DELETE FROM evtstore_internal.saga t USING doomed d WHERE t.id = d.id)"
	" SELECT COALESCE(sum(nrows), 0)::bigint FROM doomed",
	.nargs = 2,
	.args = {TIMESTAMPTZOID, INT8OID},
};

PG_FUNCTION_INFO_V1(evtstore_trim_sagas);

/* evtstore_internal.trim_sagas(max_count int) -> bigint; nobody */
Datum
evtstore_trim_sagas(PG_FUNCTION_ARGS)
{
	es_catalog_require_writable("trim_sagas");
	es_arg_required(fcinfo, 0, "max_count");
	PG_RETURN_INT64(es_saga_trim(PG_GETARG_INT32(0)));
}

int64
es_saga_trim(int64 limit)
{
	Datum		values[2] = {TimestampTzGetDatum(es_clock_now() - (int64) es_guc_saga_retention * USECS_PER_SEC), Int64GetDatum(limit)};
	EsSpiState	state;
	int64		nrows;

	if (es_guc_saga_retention < 0)
		return 0;
	es_queue_spi_begin(&state);
	(void) es_spi_run(&trim_plan, values, NULL, false, 0);
	nrows = es_spi_int64(0, 0);
	es_spi_end(&state);
	return nrows;
}
