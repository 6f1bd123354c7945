/*
 * import.c
 *		CALL import_events(): history from elsewhere, batch by batch.
 *
 * Runs in the backend that calls it, outside a transaction block.  Each batch is a transaction: it locks the source,
 * reads how far the source was imported, reads the caller's query from there on with the caller's rights, appends, moves
 * the row of the source, and commits.  So a crash or an error anywhere loses at most a batch and doubles nothing, and
 * the next call goes on.  Two calls for one source take turns, batch by batch: the lock (ES_LOCK_IMPORT) is held to the
 * end of the batch, and the row is read under it with the latest snapshot.
 *
 * The query is asked again for each batch rather than kept as a cursor over commits, which would materialise all of it:
 * WHERE position > and ORDER BY position are served by an index of the source.
 *
 * A batch ends early when it has touched many streams, because each of them holds a lock to the end of the transaction.
 * It takes the locks in the order of an append: table, then streams.  What a row of the query is, import_row.c knows.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "append.h"
#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "evtstore.h"
#include "guc.h"
#include "import.h"
#include "lock.h"
#include "spi.h"
#include "table.h"

PG_FUNCTION_INFO_V1(evtstore_import_events);

/* rows that are fetched and held in memory at a time: few at first, more while they are small */
#define FIRST_CHUNK 16
#define MAX_CHUNK 500
#define CHUNK_BYTES (32 * 1024 * 1024)
/* streams per transaction: the server's lock table has room for some thousands */
#define MAX_STREAMS 500
#define MAX_BATCH 1000000

static EsPlan load_plan = {
	.sql = "SELECT position, first_version FROM evtstore_internal.import WHERE tenant = $1 AND source = $2",
	.nargs = 2,
	.args = {TEXTOID, TEXTOID},
};

static EsPlan save_plan = {
	.sql = "INSERT INTO evtstore_internal.import AS i"
	" (tenant, source, position, first_version, imported, skipped, started_at, updated_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp(), clock_timestamp())"
	" ON CONFLICT (tenant, source) DO UPDATE SET position = excluded.position, first_version = excluded.first_version,"
	" imported = i.imported + excluded.imported, skipped = i.skipped + excluded.skipped, updated_at = excluded.updated_at",
	.nargs = 6,
	.args = {TEXTOID, TEXTOID, INT8OID, INT2OID, INT8OID, INT8OID},
};

static void refuse_transaction_block(FunctionCallInfo fcinfo);
static char *without_end(const char *query);
static void check_positions(EsImport *import, const char *query);
static bool import_batch(EsImport *import);
static void adapt_chunk(EsImport *import);
static bool import_chunk(EsImport *import, EsImportRow *rows, int n);
static void append_run(EsImport *import, EsImportRow *rows, int n);
static void append_kept(EsImport *import, const char *stream, EsEvent *events, int n, int64 version);
static void check_version(EsImport *import, const EsImportRow *row, int64 version);
static bool is_new_stream(EsImport *import, const char *stream);
static void load_progress(EsImport *import);
static void save_progress(EsImport *import);
static void describe_row(void *arg);

/* CALL evtstore.import_events(query, batch, source) */
Datum
evtstore_import_events(PG_FUNCTION_ARGS)
{
	EsImport	import = {0};
	char	   *query;
	ErrorContextCallback context = {.callback = describe_row, .arg = &import};

	es_arg_required(fcinfo, 0, "query");
	query = without_end(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	es_arg_required(fcinfo, 1, "batch");
	import.batch = PG_GETARG_INT32(1);
	if (import.batch < 1 || import.batch > MAX_BATCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch must be between 1 and %d, not %d", MAX_BATCH, import.batch)));
	import.source = es_arg_optional_name(fcinfo, 2, "source", ES_MAX_NAME_BYTES);
	if (import.source == NULL)
		import.source = psprintf("query:%s", TextDatumGetCString(DirectFunctionCall1(md5_text, CStringGetTextDatum(query))));
	es_catalog_require_writable("import_events");
	refuse_transaction_block(fcinfo);

	import.chunk = FIRST_CHUNK;
	import.tenant = pstrdup(es_guc_tenant);
	import.tenant_text = CStringGetTextDatum(import.tenant);
	import.chunk_context = AllocSetContextCreate(CurrentMemoryContext, "evtstore import", ALLOCSET_DEFAULT_SIZES);
	es_import_prepare(&import, query);
	check_positions(&import, query);

	context.previous = error_context_stack;
	error_context_stack = &context;
	do
		es_spi_drop_snapshots();
	while (import_batch(&import));
	es_spi_drop_snapshots();
	error_context_stack = context.previous;

	ereport(NOTICE,
			(errmsg("imported " INT64_FORMAT " events of source \"%s\", " INT64_FORMAT " were there already",
					import.imported, import.source, import.skipped)));
	PG_RETURN_VOID();
}

static void
refuse_transaction_block(FunctionCallInfo fcinfo)
{
	CallContext *context = (CallContext *) fcinfo->context;

	if (context != NULL && IsA(context, CallContext) && !context->atomic && GetCurrentTransactionNestLevel() == 1)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("import_events cannot commit its batches inside a transaction block"),
			 errhint("CALL it outside a transaction, or append the events yourself with evtstore.append_events.")));
}

/* without white space and semicolons at its end */
static char *
without_end(const char *query)
{
	size_t		len = strlen(query);

	while (len > 0 && strchr(" \t\n\r\f\v;", query[len - 1]) != NULL)
		len--;
	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("query must not be empty")));
	return pnstrdup(query, len);
}

/* events without a position would never be read: they are found before anything is imported */
static void
check_positions(EsImport *import, const char *query)
{
	char	   *select = psprintf("SELECT 1 FROM (%s\n) q WHERE q.position IS NULL LIMIT 1", query);
	Portal		portal = es_spi_open_query(select, 0, NULL, NULL);
	bool		found = es_spi_fetch(portal, 1) > 0;

	es_spi_close_query(portal);
	pfree(select);
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("column \"position\" of query contains NULL"),
				 errhint("Give each event a position, or leave such rows out.")));
}

/* one transaction; true: there may be more */
static bool
import_batch(EsImport *import)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2];
	HASHCTL		ctl = {.keysize = sizeof(uint64), .entrysize = sizeof(uint64), .hcxt = CurrentMemoryContext};
	bool		more = true;
	Portal		query;

	/* the lock before the snapshot: in every isolation level what follows sees the batch before */
	es_lock(ES_LOCK_IMPORT, es_stream_hash(import->tenant, import->source, strlen(import->source)));
	es_spi_ensure_snapshot();
	load_progress(import);
	AcceptInvalidationMessages();
	es_table_open(ES_TABLE_EVENT, es_catalog()->event);

	import->rows = import->nappended = import->nskipped = 0;
	import->streams = hash_create("evtstore import streams", MAX_STREAMS, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	values[0] = Int64GetDatum(import->started ? import->position : PG_INT64_MIN);
	/* one more than is taken: a position that stands twice must not be cut in two */
	values[1] = Int64GetDatum((int64) import->batch + 1);
	query = es_spi_open_query(import->select, 2, types, values);
	while (more)
	{
		uint64		n = es_spi_fetch(query, import->chunk);
		EsImportRow *rows;

		if (n == 0)
			break;
		MemoryContextSwitchTo(import->chunk_context);
		rows = palloc0(n * sizeof(EsImportRow));
		for (uint64 i = 0; i < n; i++)
			es_import_read_row(import, i, &rows[i]);
		more = import_chunk(import, rows, (int) n);
		import->at = NULL;
		MemoryContextSwitchTo(caller);
		adapt_chunk(import);
		MemoryContextReset(import->chunk_context);
	}
	es_spi_close_query(query);
	MemoryContextSwitchTo(caller);
	hash_destroy(import->streams);

	if (import->rows > 0)
		save_progress(import);
	import->imported += import->nappended;
	import->skipped += import->nskipped;
	ereport(DEBUG1,
			(errmsg_internal("imported %d events of source \"%s\" up to its position " INT64_FORMAT ", %d were there already",
							 import->nappended, import->source, import->position, import->nskipped)));
	return !more;
}

static void
adapt_chunk(EsImport *import)
{
	Size		used = MemoryContextMemAllocated(import->chunk_context, true);

	if (used > CHUNK_BYTES)
		import->chunk = Max(import->chunk / 2, 1);
	else if (used < CHUNK_BYTES / 4)
		import->chunk = Min(import->chunk * 2, MAX_CHUNK);
}

/* false: the batch is full, and the next one begins with what is left */
static bool
import_chunk(EsImport *import, EsImportRow *rows, int n)
{
	int			start = 0;
	bool		full = false;
	int			i;

	for (i = 0; i < n && !full; i++)
	{
		EsImportRow *row = &rows[i];

		CHECK_FOR_INTERRUPTS();
		import->at = row;
		if (import->started && row->position <= import->position)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("position " INT64_FORMAT " stands twice in the source", row->position),
					 errhint("Give each event a position of its own, for instance in a copy of the source numbered by row_number().")));
		if (i > start && strcmp(row->stream, rows[start].stream) != 0)
		{
			append_run(import, rows + start, i - start);
			start = i;
			import->at = row;
		}
		full = import->rows == import->batch || !is_new_stream(import, row->stream);
		if (full)
			break;
		import->rows++;
		import->started = true;
		import->position = row->position;
	}
	if (i > start)
		append_run(import, rows + start, i - start);
	return !full;
}

/* consecutive events of one stream; what the stream has already is left out */
static void
append_run(EsImport *import, EsImportRow *rows, int n)
{
	const char *name = rows[0].stream;
	EsStream   *stream;
	int64		version;
	EsEvent    *kept = palloc(n * sizeof(EsEvent));
	HASHCTL		ctl = {.keysize = sizeof(pg_uuid_t), .entrysize = sizeof(pg_uuid_t), .hcxt = CurrentMemoryContext};
	HTAB	   *ids = n > 1 ? hash_create("evtstore import ids", n, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT) : NULL;
	int			nkept = 0;

	es_stream_lock(import->tenant, &name, 1);
	stream = es_stream_find(import->tenant, name);
	version = es_stream_current_version(stream);
	for (int i = 0; i < n; i++)
	{
		EsImportRow *row = &rows[i];
		bool		repeated = false;

		import->at = row;
		if (row->event.has_id && ids != NULL)
			hash_search(ids, &row->event.id, HASH_ENTER, &repeated);
		if (repeated && nkept > 0)
		{
			/* so that the store is what tells whether it is the same event */
			append_kept(import, rows[0].stream, kept, nkept, version);
			version += nkept;
			nkept = 0;
		}
		if (row->event.has_id && es_append_knows(stream, &row->event))
		{
			import->nskipped++;
			continue;
		}
		if (import->has_version)
			check_version(import, row, version + nkept + 1);
		kept[nkept++] = row->event;
		import->nappended++;
	}
	if (nkept > 0)
		append_kept(import, rows[0].stream, kept, nkept, version);
	if (ids != NULL)
		hash_destroy(ids);
	pfree(kept);
}

static void
append_kept(EsImport *import, const char *stream, EsEvent *events, int n, int64 version)
{
	EsAppendResult result;

	es_append_set_history(true);
	PG_TRY();
	{
		es_append(import->tenant, stream, events, n, version, ES_REQUIRE_NONE, &result);
	}
	PG_FINALLY();
	{
		es_append_set_history(false);
	}
	PG_END_TRY();
}

/*
 * The event will get this version here.  A source counts from 0 or from 1, the same for all of its streams: its first
 * event tells, and the source's row keeps it, so that a later batch cannot take a gap for the other way of counting.
 */
static void
check_version(EsImport *import, const EsImportRow *row, int64 version)
{
	StringInfoData stream;

	if (import->first_version < 0 && (row->version == version || row->version == version - 1))
		import->first_version = row->version == version ? 1 : 0;
	if (import->first_version >= 0 && row->version == version - 1 + import->first_version)
		return;

	initStringInfo(&stream);
	escape_json(&stream, row->stream);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 import->first_version >= 0 ?
			 errmsg("version " INT64_FORMAT " of stream \"%s\" does not follow: " INT64_FORMAT " is due", row->version, row->stream,
					version - 1 + import->first_version) :
			 errmsg("version " INT64_FORMAT " of stream \"%s\" does not follow: " INT64_FORMAT " or " INT64_FORMAT " is due",
					row->version, row->stream, version - 1, version),
			 errdetail("{\"stream\":%s,\"version\":" INT64_FORMAT ",\"position\":\"" INT64_FORMAT "\"}", stream.data, row->version,
					   row->position),
			 version == 1 ?
			 errhint("Leave the column version out, and the events are numbered from 1 in the order of position; or import the beginning of the stream as well.") :
			 errhint("Leave the column version out, and the events are numbered on in the order of position.")));
}

/* false where it is one too many for this batch */
static bool
is_new_stream(EsImport *import, const char *stream)
{
	uint64		hash = es_stream_hash(import->tenant, stream, strlen(stream));

	if (hash_search(import->streams, &hash, HASH_FIND, NULL) != NULL)
		return true;
	if (hash_get_num_entries(import->streams) >= MAX_STREAMS)
		return false;
	hash_search(import->streams, &hash, HASH_ENTER, NULL);
	return true;
}

static void
load_progress(EsImport *import)
{
	Datum		values[2] = {import->tenant_text, CStringGetTextDatum(import->source)};
	EsSpiState	state;

	es_spi_begin(&state);
	import->started = es_spi_run_latest(&load_plan, values, NULL) > 0;
	import->first_version = -1;
	if (import->started)
	{
		bool		isnull;
		Datum		first_version = es_spi_value(0, 1, &isnull);

		import->position = es_spi_int64(0, 0);
		if (!isnull)
			import->first_version = DatumGetInt16(first_version);
	}
	es_spi_end(&state);
}

static void
save_progress(EsImport *import)
{
	Datum		values[6];
	char		nulls[] = "      ";
	EsSpiState	state;

	values[0] = import->tenant_text;
	values[1] = CStringGetTextDatum(import->source);
	values[2] = Int64GetDatum(import->position);
	values[3] = Int16GetDatum((int16) import->first_version);
	nulls[3] = import->first_version < 0 ? 'n' : ' ';
	values[4] = Int64GetDatum(import->nappended);
	values[5] = Int64GetDatum(import->nskipped);
	es_spi_begin(&state);
	es_spi_run(&save_plan, values, nulls, false, 0);
	es_spi_end(&state);
}

static void
describe_row(void *arg)
{
	EsImport   *import = arg;

	if (import->at == NULL)
		return;
	if (import->at->stream == NULL)
		errcontext("event at position " INT64_FORMAT " of source \"%s\"", import->at->position, import->source);
	else
		errcontext("event at position " INT64_FORMAT " of source \"%s\", stream \"%s\"", import->at->position, import->source,
				   import->at->stream);
}
