/*
 * dead_letter.c
 *		What was given up: redriving and discarding it.
 *
 * Runs in backends, in the caller's transaction.  A message goes into its queue again as a new one, behind those of its key
 * that are there: its old id may not come back, because claims rely on no older message of a key appearing (claim.c).  An
 * event becomes due again in its subscription, in the order of its key, and moves no checkpoint.  Locks: the rows of the
 * dead letters, then what sending or the lane takes.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "dead_key.h"
#include "definition.h"
#include "error.h"
#include "evtstore.h"
#include "failed_event.h"
#include "guc.h"
#include "options.h"
#include "queue.h"
#include "spi.h"
#include "subscription.h"
#include "waiter.h"

static const EsOption filter_options[] = {
	{"type", ES_OPTION_STRING},
	{"key", ES_OPTION_STRING},
	{"error", ES_OPTION_STRING},
	{"from", ES_OPTION_STRING},
	{"to", ES_OPTION_STRING},
	{"id", ES_OPTION_VERSION},
	{NULL}
};

/* columns of select_plan: the id, then those of a message */
#define LETTER_ID 0
#define LETTER(column) (1 + ES_LETTER_##column)

static EsPlan select_plan = {
	.sql = "SELECT id, position, version, schema_version, priority, event_id, occurred_at, recorded_at, tenant, key, stream, type,"
	" tags, CASE WHEN $10 IS NULL THEN body WHEN jsonb_typeof(body) = 'object' AND jsonb_typeof($10) = 'object' THEN body || $10"
	" ELSE $10 END, headers"
	" FROM evtstore_internal.dead_letter"
	" WHERE source_id = $1 AND kind = $2 AND ($3 = '' OR tenant = $3)"
	" AND ($4 IS NULL OR type = $4) AND ($5 IS NULL OR key = $5) AND ($6 IS NULL OR last_error LIKE '%' || $6 || '%')"
	" AND ($7 IS NULL OR failed_at >= $7) AND ($8 IS NULL OR failed_at <= $8) AND ($9 IS NULL OR id = $9)"
	" ORDER BY id LIMIT $11 FOR UPDATE",
	.nargs = 11,
	.args = {INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, JSONBOID, INT8OID},
};

static EsPlan delete_plan = {
	.sql = "DELETE FROM evtstore_internal.dead_letter WHERE id = ANY ($1)",
	.nargs = 1,
	.args = {INT8ARRAYOID},
};

static EsPlan discard_plan = {
	.sql = "DELETE FROM evtstore_internal.dead_letter WHERE id = $1 AND ($2 = '' OR tenant = $2)"
	" RETURNING kind, COALESCE((SELECT name FROM evtstore_internal.definition d WHERE d.id = source_id), '')",
	.nargs = 2,
	.args = {INT8OID, TEXTOID},
};

static int	select_letters(int32 id, const char *kind, FunctionCallInfo fcinfo, Datum **columns, bool **nulls);
static void bind_filter(Jsonb *filter, Datum *values, char *nulls);
static void bind_text(Jsonb *filter, const char *key, Datum *value, char *null);
static void bind_time(Jsonb *filter, const char *key, Datum *value, char *null);
static void send_again(const char *queue, const Datum *columns, const bool *nulls, int n);
static void hand_back(const EsSubscription *subscription, const Datum *columns, const bool *nulls, int n);
static void delete_letters(const Datum *columns, int n);

#define COLUMNS (1 + ES_LETTER_COLUMNS)
#define COLUMN(columns, row, column) ((columns)[(row) * COLUMNS + (column)])

PG_FUNCTION_INFO_V1(evtstore_redrive);
PG_FUNCTION_INFO_V1(evtstore_discard);

/* redrive(name text, filter jsonb, max_count int, patch jsonb) -> bigint; evtstore_admin */
Datum
evtstore_redrive(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *definition;
	Datum	   *columns;
	bool	   *nulls;
	int			n;

	es_catalog_require_writable("redrive");
	es_arg_required(fcinfo, 1, "filter");
	es_options_check(PG_GETARG_JSONB_P(1), filter_options, "filter");
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count must be positive: %d", PG_GETARG_INT32(2)),
				 errhint("NULL: all that the filter selects.")));
	definition = es_definition_find("queue", name);
	if (definition != NULL)
	{
		n = select_letters(definition->id, "queue", fcinfo, &columns, &nulls);
		send_again(name, columns, nulls, n);
	}
	else
	{
		const EsSubscription *subscription;

		if (es_definition_find("subscription", name) == NULL && es_definition_find("projection", name) == NULL &&
			es_subscription_find(name) == NULL)
			ereport(ERROR,
					(errcode(ES_ERRCODE_NOT_FOUND),
					 errmsg("there is no queue or subscription \"%s\"", name),
					 errhint("evtstore.queue_status and evtstore.subscription_status list them.")));
		if (!PG_ARGISNULL(3))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("events cannot be patched"),
					 errdetail("\"%s\" is no queue, and what happened stays as it happened.", name),
					 errhint("Append an event that corrects it, and discard the dead letter.")));
		subscription = es_subscription_lock(es_subscription_get(name)->definition.id, AccessShareLock);
		if (subscription == NULL)
			PG_RETURN_INT64(0);
		n = select_letters(subscription->definition.id, "subscription", fcinfo, &columns, &nulls);
		hand_back(subscription, columns, nulls, n);
	}
	delete_letters(columns, n);
	PG_RETURN_INT64(n);
}

/* discard(dead_letter_id bigint, reason text) -> void; evtstore_admin.  Who and why is in the server's log */
Datum
evtstore_discard(PG_FUNCTION_ARGS)
{
	char	   *reason;
	EsSpiState	state;
	Datum		values[2];

	es_catalog_require_writable("discard");
	es_arg_required(fcinfo, 0, "dead_letter_id");
	reason = es_arg_name(fcinfo, 1, "reason", ES_MAX_KEY_BYTES);
	values[0] = PG_GETARG_DATUM(0);
	values[1] = CStringGetTextDatum(es_guc_tenant);
	es_queue_spi_begin(&state);
	if (es_spi_run(&discard_plan, values, NULL, false, 0) == 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("dead letter " INT64_FORMAT " does not exist", PG_GETARG_INT64(0)),
				 errhint("evtstore.dead_letters lists them.")));
	ereport(LOG,
			(errmsg("dead letter " INT64_FORMAT " of %s \"%s\" was discarded by \"%s\": %s", PG_GETARG_INT64(0), es_spi_text(0, 0),
					es_spi_text(0, 1), GetUserNameFromId(GetUserId(), false), reason)));
	es_spi_end(&state);
	PG_RETURN_VOID();
}

/* rows of select_plan, in the current context; arguments 1 to 3 are filter, max_count and patch */
static int
select_letters(int32 id, const char *kind, FunctionCallInfo fcinfo, Datum **columns, bool **nulls)
{
	static const struct
	{
		int16		len;
		bool		by_value;
	}			types[COLUMNS] = {
		{8, true}, {8, true}, {8, true}, {4, true}, {4, true}, {UUID_LEN, false}, {8, true}, {8, true}, {-1, false}, {-1, false},
		{-1, false}, {-1, false}, {-1, false}, {-1, false}, {-1, false}
	};
	MemoryContext caller = CurrentMemoryContext;
	EsSpiState	state;
	Datum		values[11];
	char		null_flags[12] = "           ";
	int			n;

	values[0] = Int32GetDatum(id);
	values[1] = CStringGetTextDatum(kind);
	values[2] = CStringGetTextDatum(es_guc_tenant);
	bind_filter(PG_GETARG_JSONB_P(1), values, null_flags);
	null_flags[9] = PG_ARGISNULL(3) ? 'n' : ' ';
	values[9] = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	null_flags[10] = PG_ARGISNULL(2) ? 'n' : ' ';
	values[10] = PG_ARGISNULL(2) ? (Datum) 0 : Int64GetDatum(PG_GETARG_INT32(2));
	es_queue_spi_begin(&state);
	n = (int) es_spi_run(&select_plan, values, null_flags, false, 0);
	*columns = MemoryContextAllocExtended(caller, Max(n, 1) * COLUMNS * sizeof(Datum), MCXT_ALLOC_HUGE);
	*nulls = MemoryContextAllocExtended(caller, Max(n, 1) * COLUMNS * sizeof(bool), MCXT_ALLOC_HUGE);
	for (int row = 0; row < n; row++)
		for (int column = 0; column < COLUMNS; column++)
		{
			bool		isnull;
			Datum		value = es_spi_value(row, column, &isnull);
			MemoryContext spi = MemoryContextSwitchTo(caller);

			COLUMN(*nulls, row, column) = isnull;
			COLUMN(*columns, row, column) = isnull ? (Datum) 0 :
				types[column].len == -1 ? PointerGetDatum(PG_DETOAST_DATUM_COPY(value)) :
				datumCopy(value, types[column].by_value, types[column].len);
			MemoryContextSwitchTo(spi);
		}
	es_spi_end(&state);
	return n;
}

/* $4 to $9 */
static void
bind_filter(Jsonb *filter, Datum *values, char *nulls)
{
	bind_text(filter, "type", &values[3], &nulls[3]);
	bind_text(filter, "key", &values[4], &nulls[4]);
	bind_text(filter, "error", &values[5], &nulls[5]);
	bind_time(filter, "from", &values[6], &nulls[6]);
	bind_time(filter, "to", &values[7], &nulls[7]);
	nulls[8] = es_options_has(filter, "id") ? ' ' : 'n';
	values[8] = Int64GetDatum(es_options_version(filter, "id", 0));
}

static void
bind_text(Jsonb *filter, const char *key, Datum *value, char *null)
{
	char	   *text = es_options_string(filter, key, NULL);

	*null = text == NULL ? 'n' : ' ';
	*value = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

static void
bind_time(Jsonb *filter, const char *key, Datum *value, char *null)
{
	*null = es_options_has(filter, key) ? ' ' : 'n';
	*value = TimestampTzGetDatum(es_options_moment(filter, key, 0));
}

static void
send_again(const char *queue, const Datum *columns, const bool *nulls, int n)
{
	EsMessage  *messages = MemoryContextAllocExtended(CurrentMemoryContext, Max(n, 1) * sizeof(EsMessage),
													  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

	for (int i = 0; i < n; i++)
		es_queue_fill_message(&messages[i], &COLUMN(columns, i, 1), &COLUMN(nulls, i, 1));
	es_queue_send(es_queue_get(queue), messages, n);
}

/* the locks in the order of those who settle, then letter by letter */
static void
hand_back(const EsSubscription *subscription, const Datum *columns, const bool *nulls, int n)
{
	uint32	   *hashes = MemoryContextAllocExtended(CurrentMemoryContext, Max(n, 1) * sizeof(uint32), MCXT_ALLOC_HUGE);

	if (n > 0)
		es_waiter_wake_at_commit(subscription->definition.id, INT_MAX);
	for (int i = 0; i < n; i++)
	{
		char	   *key = COLUMN(nulls, i, LETTER(KEY)) ? NULL : TextDatumGetCString(COLUMN(columns, i, LETTER(KEY)));

		hashes[i] = es_subscription_hash(TextDatumGetCString(COLUMN(columns, i, LETTER(TENANT))), key,
										 DatumGetInt64(COLUMN(columns, i, LETTER(POSITION))));
	}
	es_subscription_lock_keys(subscription, hashes, n);
	for (int i = 0; i < n; i++)
	{
		char	   *key = COLUMN(nulls, i, LETTER(KEY)) ? NULL : TextDatumGetCString(COLUMN(columns, i, LETTER(KEY)));

		if (key != NULL)
			(void) es_dead_key_remove(subscription->definition.id, TextDatumGetCString(COLUMN(columns, i, LETTER(TENANT))), key);
		es_failed_event_release(subscription, DatumGetInt64(COLUMN(columns, i, LETTER(POSITION))),
								TextDatumGetCString(COLUMN(columns, i, LETTER(TENANT))), key, 0);
	}
}

static void
delete_letters(const Datum *columns, int n)
{
	int64	   *ids = MemoryContextAllocExtended(CurrentMemoryContext, Max(n, 1) * sizeof(int64), MCXT_ALLOC_HUGE);
	EsSpiState	state;
	Datum		values[1];

	for (int i = 0; i < n; i++)
		ids[i] = DatumGetInt64(COLUMN(columns, i, LETTER_ID));
	values[0] = es_queue_id_array(ids, n);
	es_queue_spi_begin(&state);
	es_spi_run(&delete_plan, values, NULL, false, 0);
	es_spi_end(&state);
}
