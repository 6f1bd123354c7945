/*
 * inbox.c
 *		The inbox of idempotent consumers: once() is true the first time.
 *
 * Runs in backends, in the caller's transaction; the janitor calls es_inbox_trim.  An id is a row under a unique key, so the
 * server decides who is first: a second caller waits for the transaction of the first, and finds the row, or its absence.
 * The row commits or vanishes together with the consumer's effects.  A crash leaves what was committed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "evtstore.h"
#include "guc.h"
#include "inbox.h"
#include "spi.h"

#define UUID_LENGTH 36

static EsPlan insert_plan = {
	.sql = "INSERT INTO evtstore_internal.inbox (received_at, tenant, consumer, message_id) VALUES ($1, $2, $3, $4)"
	" ON CONFLICT DO NOTHING",
	.nargs = 4,
	.args = {TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID},
};

static EsPlan take_plan = {
	.sql = "INSERT INTO evtstore_internal.inbox (received_at, tenant, consumer, message_id)"
	" SELECT $1, $2, consumer, message_id FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4)) AS u (consumer, message_id)"
	" ON CONFLICT DO NOTHING RETURNING consumer, message_id",
	.nargs = 4,
	.args = {TIMESTAMPTZOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID},
};

static EsPlan trim_plan = {
	.sql = "DELETE FROM evtstore_internal.inbox WHERE (tenant, consumer, message_id) IN"
	" (SELECT tenant, consumer, message_id FROM evtstore_internal.inbox WHERE received_at < $1 ORDER BY received_at LIMIT $2)",
	.nargs = 2,
	.args = {TIMESTAMPTZOID, INT8OID},
};

static bool is_first(const char *consumer, const char *message_id);
static int	compare_entries(const void *a, const void *b);
static char *canonical(char *message_id);

PG_FUNCTION_INFO_V1(evtstore_once);
PG_FUNCTION_INFO_V1(evtstore_once_uuid);
PG_FUNCTION_INFO_V1(evtstore_trim_inbox);

/* once(consumer text, message_id text) -> boolean; evtstore_writer */
Datum
evtstore_once(PG_FUNCTION_ARGS)
{
	char	   *consumer = es_arg_name(fcinfo, 0, "consumer", ES_MAX_NAME_BYTES);
	char	   *message_id = es_arg_name(fcinfo, 1, "message_id", ES_MAX_KEY_BYTES);

	PG_RETURN_BOOL(is_first(consumer, canonical(message_id)));
}

/* once(consumer text, message_id uuid) -> boolean; evtstore_writer */
Datum
evtstore_once_uuid(PG_FUNCTION_ARGS)
{
	char	   *consumer = es_arg_name(fcinfo, 0, "consumer", ES_MAX_NAME_BYTES);

	es_arg_required(fcinfo, 1, "message_id");
	PG_RETURN_BOOL(is_first(consumer, DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(1)))));
}

/* evtstore_internal.trim_inbox(max_count int) -> bigint; nobody */
Datum
evtstore_trim_inbox(PG_FUNCTION_ARGS)
{
	es_catalog_require_writable("trim_inbox");
	es_arg_required(fcinfo, 0, "max_count");
	PG_RETURN_INT64(es_inbox_trim(PG_GETARG_INT32(0)));
}

int64
es_inbox_trim(int limit)
{
	Datum		values[2] = {TimestampTzGetDatum(es_clock_now() - (int64) es_guc_inbox_retention * USECS_PER_SEC), Int64GetDatum(limit)};
	EsSpiState	state;
	int64		rows;

	es_spi_begin(&state);
	rows = (int64) es_spi_run(&trim_plan, values, NULL, false, 0);
	es_spi_end(&state);
	return rows;
}

static bool
is_first(const char *consumer, const char *message_id)
{
	EsSpiState	state;
	Datum		values[4];
	bool		first;

	es_catalog_require_writable("once");
	values[0] = TimestampTzGetDatum(es_clock_now());
	values[1] = CStringGetTextDatum(es_guc_tenant);
	values[2] = CStringGetTextDatum(consumer);
	values[3] = CStringGetTextDatum(message_id);
	es_spi_begin(&state);
	first = es_spi_run(&insert_plan, values, NULL, false, 0) > 0;
	es_spi_end(&state);
	return first;
}

void
es_inbox_take(EsInboxEntry *entries, int n)
{
	EsInboxEntry **sorted = palloc(Max(n, 1) * sizeof(EsInboxEntry *));
	Datum	   *consumers = palloc(Max(n, 1) * sizeof(Datum));
	Datum	   *ids = palloc(Max(n, 1) * sizeof(Datum));
	Datum		values[4];
	EsSpiState	state;
	uint64		rows;
	uint64		row = 0;

	for (int i = 0; i < n; i++)
		sorted[i] = &entries[i];
	qsort(sorted, n, sizeof(EsInboxEntry *), compare_entries);
	for (int i = 0; i < n; i++)
	{
		consumers[i] = CStringGetTextDatum(sorted[i]->consumer);
		ids[i] = CStringGetTextDatum(sorted[i]->message_id);
		sorted[i]->is_first = false;
	}
	values[0] = TimestampTzGetDatum(es_clock_now());
	values[1] = CStringGetTextDatum(es_guc_tenant);
	values[2] = PointerGetDatum(construct_array(consumers, n, TEXTOID, -1, false, TYPALIGN_INT));
	values[3] = PointerGetDatum(construct_array(ids, n, TEXTOID, -1, false, TYPALIGN_INT));
	es_spi_begin(&state);
	rows = es_spi_run(&take_plan, values, NULL, false, 0);
	/* rows come in the order of the arrays; of entries that are the same the first one was inserted */
	for (int i = 0; i < n && row < rows; i++)
		if (strcmp(es_spi_text(row, 0), sorted[i]->consumer) == 0 && strcmp(es_spi_text(row, 1), sorted[i]->message_id) == 0)
		{
			sorted[i]->is_first = true;
			row++;
		}
	Assert(row == rows);
	es_spi_end(&state);
}

static int
compare_entries(const void *a, const void *b)
{
	const EsInboxEntry *x = *(EsInboxEntry *const *) a;
	const EsInboxEntry *y = *(EsInboxEntry *const *) b;
	int			order = strcmp(x->consumer, y->consumer);

	if (order == 0)
		order = strcmp(x->message_id, y->message_id);
	/* as they stand in the array */
	return order != 0 ? order : (x > y) - (x < y);
}

/* a uuid as the type prints it, so that both forms of the function have the same ids */
static char *
canonical(char *message_id)
{
	if (strlen(message_id) != UUID_LENGTH)
		return message_id;
	for (int i = 0; i < UUID_LENGTH; i++)
		if (i == 8 || i == 13 || i == 18 || i == 23 ? message_id[i] != '-' : strchr("0123456789abcdefABCDEF", message_id[i]) == NULL)
			return message_id;
	for (int i = 0; i < UUID_LENGTH; i++)
		message_id[i] = pg_ascii_tolower((unsigned char) message_id[i]);
	return message_id;
}
