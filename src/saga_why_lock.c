/*
 * saga_why_lock.c
 *		Who has the semantic lock that a step of a saga waits for.
 *
 * Runs in backends, in the caller's transaction.  Reads the rows of the lock under the active snapshot, takes no lock and writes nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "compat.h"
#include "queue.h"
#include "saga_why.h"
#include "spi.h"

/* before: instances that wait in front of it */
static EsPlan holder_plan = {
	.sql = "SELECT h.saga_id, d.name, s.status, h.held_since, (SELECT count(DISTINCT b.number) FROM evtstore_internal.saga_lock b"
	" WHERE b.tenant = l.tenant AND b.resource = l.resource AND b.number < l.number AND b.number <> h.number)"
	" FROM evtstore_internal.saga_lock l"
	" JOIN evtstore_internal.saga_lock h ON h.tenant = l.tenant AND h.resource = l.resource AND h.held_since IS NOT NULL"
	" JOIN evtstore_internal.saga s ON s.id = h.saga_id"
	" LEFT JOIN evtstore_internal.definition d ON d.id = s.definition_id"
	" WHERE l.saga_id = $1 AND l.resource = $2 AND l.seq = $3 AND l.held_since IS NULL",
	.nargs = 3,
	.args = {UUIDOID, TEXTOID, INT4OID},
};

void
es_why_lock(EsWhy *why, const EsLookStep *step, const char *who)
{
	Datum		values[3] = {UUIDPGetDatum(&why->look->uuid), CStringGetTextDatum(step->resource), Int32GetDatum(step->seq)};
	MemoryContext caller = CurrentMemoryContext;
	char	   *holder = NULL;
	char	   *name = NULL;
	char	   *status = NULL;
	TimestampTz since = 0;
	int64		before = 0;
	EsSpiState	state;
	MemoryContext old;
	bool		isnull;

	es_queue_spi_begin(&state);
	if (es_spi_run(&holder_plan, values, NULL, true, 1) > 0)
	{
		old = MemoryContextSwitchTo(caller);
		holder = DatumGetCString(DirectFunctionCall1(uuid_out, es_spi_value(0, 0, &isnull)));
		name = es_spi_text(0, 1);
		name = pstrdup(name == NULL ? "?" : name);
		status = pstrdup(es_spi_text(0, 2));
		since = DatumGetTimestampTz(es_spi_value(0, 3, &isnull));
		before = es_spi_int64(0, 4);
		MemoryContextSwitchTo(old);
	}
	es_spi_end(&state);
	if (holder == NULL)
	{
		es_why_tell(why, "%s waits for lock \"%s\", which nobody has any more: a delivery worker is about to bring it.", who, step->resource);
		return;
	}
	es_why_tell(why, "%s waits for lock \"%s\": saga %s (\"%s\", %s) has it since %s, and keeps it until it has ended%s. What that one waits for says:", who, step->resource,
				holder, name, status, es_why_time(since), before == 0 ? "" :
				before == 1 ? "; one other is before this one" : psprintf("; %lld others are before this one", (long long) before));
	es_why_sql(why, "SELECT evtstore.why_saga(%s)", quote_literal_cstr(holder));
}
