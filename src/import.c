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
 * It takes the locks in the order of an append: table, then streams.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/md5.h"
#include "common/sha1.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "append.h"
#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "guc.h"
#include "lock.h"
#include "spi.h"
#include "table.h"

PG_FUNCTION_INFO_V1(evtstore_import_events);

/* rows that are fetched and held in memory at a time */
#define CHUNK 500
/* streams per transaction: the server's lock table has room for some thousands */
#define MAX_STREAMS 500
#define MAX_BATCH 1000000
/* where the text of an id that was no UUID is kept */
#define IMPORTED_ID "imported_id"

/* the columns that a query may have, in the order in which they are read */
enum
{
	COLUMN_POSITION,
	COLUMN_STREAM,
	COLUMN_TYPE,
	COLUMN_DATA,
	COLUMN_VERSION,
	COLUMN_ID,
	COLUMN_METADATA,
	COLUMN_TAGS,
	COLUMN_SCHEMA_VERSION,
	COLUMN_OCCURRED_AT,
	NCOLUMNS
};

/* what a column may be made of, and is read as */
typedef enum ColumnKind
{
	KIND_INTEGER,				/* bigint */
	KIND_TEXT,					/* text, of anything */
	KIND_JSON,					/* jsonb; json and text are parsed */
	KIND_TEXTS,					/* text[] */
	KIND_TIME					/* timestamptz */
} ColumnKind;

static const struct
{
	const char *name;
	bool		required;
	ColumnKind	kind;
}			columns[NCOLUMNS] = {
	[COLUMN_POSITION] = {"position", true, KIND_INTEGER},
	[COLUMN_STREAM] = {"stream", true, KIND_TEXT},
	[COLUMN_TYPE] = {"type", true, KIND_TEXT},
	[COLUMN_DATA] = {"data", true, KIND_JSON},
	[COLUMN_VERSION] = {"version", false, KIND_INTEGER},
	[COLUMN_ID] = {"id", false, KIND_TEXT},
	[COLUMN_METADATA] = {"metadata", false, KIND_JSON},
	[COLUMN_TAGS] = {"tags", false, KIND_TEXTS},
	[COLUMN_SCHEMA_VERSION] = {"schema_version", false, KIND_INTEGER},
	[COLUMN_OCCURRED_AT] = {"occurred_at", false, KIND_TIME},
};

/* one row of the query */
typedef struct Row
{
	EsEvent		event;
	char	   *stream;
	int64		position;		/* in the source */
	int64		version;		/* in the source, if has_version */
} Row;

typedef struct Import
{
	const char *source;
	const char *select;			/* one batch: $1 position, $2 rows */
	bool		has_version;
	bool		json_is_text[NCOLUMNS];
	int			batch;
	pg_uuid_t	namespace;		/* of ids that are no UUIDs */
	const char *tenant;			/* as it was at the start, whatever the query sets */
	Datum		tenant_text;
	MemoryContext chunk_context;	/* reset for each chunk */

	/* the row of the source, read and written by each batch */
	bool		started;
	int64		position;
	int			first_version;	/* what the source calls it: 0, 1; -1: not known yet */

	/* of this batch */
	int			rows;
	int			nappended;
	int			nskipped;
	HTAB	   *streams;

	/* of this call */
	int64		imported;
	int64		skipped;

	/* for CONTEXT: what is being worked on */
	const Row  *at;
} Import;

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
static void build_select(Import *import, const char *query);
static void find_columns(TupleDesc desc, Oid types[NCOLUMNS]);
static char *column_expression(Import *import, int column, Oid type);
static void refuse_type(int column, Oid type) es_noreturn;
static char *without_end(const char *query);
static void check_positions(Import *import, const char *query);
static bool import_batch(Import *import);
static bool import_chunk(Import *import, Row *rows, int n);
static void append_run(Import *import, Row *rows, int n);
static void append_kept(Import *import, const char *stream, EsEvent *events, int n, int64 version);
static void check_version(Import *import, const Row *row, int64 version);
static bool is_new_stream(Import *import, const char *stream);
static void read_row(Import *import, uint64 n, Row *row);
static char *required_text(uint64 n, int column, int max_bytes);
static Datum read_json(Import *import, uint64 n, int column);
static void read_id(Import *import, uint64 n, Row *row);
static void add_imported_id(EsEvent *event, const char *id);
static bool looks_like_uuid(const char *text);
static void make_uuid5(pg_uuid_t *result, const pg_uuid_t *namespace, const char *prefix, const char *name);
static void load_progress(Import *import);
static void save_progress(Import *import);
static void describe_row(void *arg);

/* CALL evtstore.import_events(query, batch, source) */
Datum
evtstore_import_events(PG_FUNCTION_ARGS)
{
	/* RFC 9562, name space of URLs */
	static const pg_uuid_t urls = {{0x6b, 0xa7, 0xb8, 0x11, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8}};
	Import		import = {0};
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

	import.tenant = pstrdup(es_guc_tenant);
	import.tenant_text = CStringGetTextDatum(import.tenant);
	import.chunk_context = AllocSetContextCreate(CurrentMemoryContext, "evtstore import", ALLOCSET_DEFAULT_SIZES);
	make_uuid5(&import.namespace, &urls, "evtstore:", import.source);
	build_select(&import, query);
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

/* what reads a batch: every column of ours, those that the query has not as NULL */
static void
build_select(Import *import, const char *query)
{
	TupleDesc	desc = es_spi_describe_query(query);
	Oid			types[NCOLUMNS] = {0};
	StringInfoData select;

	if (desc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("query must be one SELECT statement"),
				 errdetail("It begins with \"%.80s\".", query)));
	find_columns(desc, types);
	import->has_version = OidIsValid(types[COLUMN_VERSION]);

	initStringInfo(&select);
	appendStringInfoString(&select, "SELECT ");
	for (int i = 0; i < NCOLUMNS; i++)
		appendStringInfo(&select, "%s%s", i == 0 ? "" : ", ", column_expression(import, i, types[i]));
	/* the query's last line may end in a comment */
	appendStringInfo(&select, " FROM (%s\n) q WHERE q.position > $1 ORDER BY q.position LIMIT $2", query);
	import->select = select.data;
}

static void
find_columns(TupleDesc desc, Oid types[NCOLUMNS])
{
	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(es_attr(desc, i)->attname);
		int			column = 0;

		while (column < NCOLUMNS && strcmp(columns[column].name, name) != 0)
			column++;
		if (column == NCOLUMNS || OidIsValid(types[column]))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 column == NCOLUMNS ?
					 errmsg("unknown column \"%s\" in the result of query", name) :
					 errmsg("column \"%s\" stands twice in the result of query", name),
					 errhint("Known columns: stream, type, data, position; version, id, metadata, tags, schema_version, occurred_at.")));
		types[column] = getBaseType(es_attr(desc, i)->atttypid);
	}
	for (int column = 0; column < NCOLUMNS; column++)
		if (columns[column].required && !OidIsValid(types[column]))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the result of query has no column \"%s\"", columns[column].name),
					 errhint("Required columns: stream, type, data, and position, a bigint that orders the source.")));
}

static char *
column_expression(Import *import, int column, Oid type)
{
	static const char *const targets[] = {
		[KIND_INTEGER] = "pg_catalog.int8",
		[KIND_TEXT] = "pg_catalog.text",
		[KIND_JSON] = "pg_catalog.jsonb",
		[KIND_TEXTS] = "pg_catalog.text[]",
		[KIND_TIME] = "pg_catalog.timestamptz"
	};
	const char *target = targets[columns[column].kind];
	char		category;
	bool		preferred;

	if (!OidIsValid(type))
		return psprintf("NULL::%s", target);
	get_type_category_preferred(type, &category, &preferred);
	switch (columns[column].kind)
	{
		case KIND_INTEGER:
			if (type != INT8OID && type != INT4OID && type != INT2OID)
				refuse_type(column, type);
			break;
		case KIND_TEXT:
			break;
		case KIND_JSON:
			if (type != JSONBOID && type != JSONOID && category != TYPCATEGORY_STRING)
				refuse_type(column, type);
			/* parsed here, where an error can say which row it is about */
			import->json_is_text[column] = type != JSONBOID;
			if (type != JSONBOID)
				target = "pg_catalog.text";
			break;
		case KIND_TEXTS:
			if (type != TEXTARRAYOID && get_element_type(type) != VARCHAROID)
				refuse_type(column, type);
			break;
		case KIND_TIME:
			if (type != TIMESTAMPTZOID)
				refuse_type(column, type);
			break;
	}
	return psprintf("q.%s::%s", columns[column].name, target);
}

static void
refuse_type(int column, Oid type)
{
	static const char *const wanted[] = {
		[KIND_INTEGER] = "bigint",
		[KIND_TEXT] = "text",
		[KIND_JSON] = "jsonb",
		[KIND_TEXTS] = "text[]",
		[KIND_TIME] = "timestamptz"
	};
	const char *is = format_type_be(type);

	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of query must be %s, not %s", columns[column].name, wanted[columns[column].kind], is),
			 type == TIMESTAMPOID ?
			 errhint("Say in which time zone it was written: \"%s\" AT TIME ZONE 'UTC'.", columns[column].name) :
			 errhint("Cast it in the query.")));
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
check_positions(Import *import, const char *query)
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
import_batch(Import *import)
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
		uint64		n = es_spi_fetch(query, CHUNK);
		Row		   *rows;

		if (n == 0)
			break;
		MemoryContextSwitchTo(import->chunk_context);
		rows = palloc0(n * sizeof(Row));
		for (uint64 i = 0; i < n; i++)
			read_row(import, i, &rows[i]);
		more = import_chunk(import, rows, (int) n);
		import->at = NULL;
		MemoryContextSwitchTo(caller);
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

/* false: the batch is full, and the next one begins with what is left */
static bool
import_chunk(Import *import, Row *rows, int n)
{
	int			start = 0;
	bool		full = false;
	int			i;

	for (i = 0; i < n && !full; i++)
	{
		Row		   *row = &rows[i];

		CHECK_FOR_INTERRUPTS();
		import->at = row;
		if (import->started && row->position <= import->position)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("position " INT64_FORMAT " stands twice in the source", row->position),
					 errhint("Order the source by a column that is unique, for instance row_number().")));
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
append_run(Import *import, Row *rows, int n)
{
	EsStream   *stream = es_stream_lock(import->tenant, rows[0].stream);
	int64		version = es_stream_current_version(stream);
	EsEvent    *kept = palloc(n * sizeof(EsEvent));
	HASHCTL		ctl = {.keysize = sizeof(pg_uuid_t), .entrysize = sizeof(pg_uuid_t), .hcxt = CurrentMemoryContext};
	HTAB	   *ids = n > 1 ? hash_create("evtstore import ids", n, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT) : NULL;
	int			nkept = 0;

	for (int i = 0; i < n; i++)
	{
		Row		   *row = &rows[i];
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
append_kept(Import *import, const char *stream, EsEvent *events, int n, int64 version)
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
check_version(Import *import, const Row *row, int64 version)
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
is_new_stream(Import *import, const char *stream)
{
	uint64		hash = es_stream_hash(import->tenant, stream, strlen(stream));

	if (hash_search(import->streams, &hash, HASH_FIND, NULL) != NULL)
		return true;
	if (hash_get_num_entries(import->streams) >= MAX_STREAMS)
		return false;
	hash_search(import->streams, &hash, HASH_ENTER, NULL);
	return true;
}

/* everything is copied: the rows are given up with the next fetch, and the source may hold them toasted */
static void
read_row(Import *import, uint64 n, Row *row)
{
	bool		isnull;
	Datum		value;

	row->position = es_spi_int64(n, COLUMN_POSITION);
	import->at = row;
	row->stream = required_text(n, COLUMN_STREAM, ES_MAX_STREAM_BYTES);
	row->event.stream = CStringGetTextDatum(row->stream);
	row->event.tenant = import->tenant_text;
	row->event.type = CStringGetTextDatum(required_text(n, COLUMN_TYPE, ES_MAX_TYPE_BYTES));
	row->event.data = read_json(import, n, COLUMN_DATA);
	row->event.metadata = read_json(import, n, COLUMN_METADATA);

	value = es_spi_value(n, COLUMN_VERSION, &isnull);
	if (isnull && import->has_version)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("version must not be NULL"),
				 errhint("Leave the column out to have the events numbered.")));
	row->version = isnull ? 0 : DatumGetInt64(value);
	read_id(import, n, row);

	value = es_spi_value(n, COLUMN_TAGS, &isnull);
	row->event.tags = isnull ? es_event_no_tags() : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	es_event_check_tags(row->event.tags);
	value = es_spi_value(n, COLUMN_SCHEMA_VERSION, &isnull);
	if (!isnull && (DatumGetInt64(value) < 1 || DatumGetInt64(value) > PG_INT32_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schema_version must be between 1 and %d, not " INT64_FORMAT, PG_INT32_MAX, DatumGetInt64(value))));
	row->event.schema_version = isnull ? 1 : (int32) DatumGetInt64(value);
	value = es_spi_value(n, COLUMN_OCCURRED_AT, &isnull);
	row->event.has_occurred_at = !isnull;
	row->event.occurred_at = isnull ? 0 : DatumGetTimestampTz(value);
}

static char *
required_text(uint64 n, int column, int max_bytes)
{
	bool		isnull;
	Datum		value = es_spi_value(n, column, &isnull);
	char	   *result;

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", columns[column].name)));
	result = TextDatumGetCString(value);
	es_arg_check_name(result, columns[column].name, max_bytes);
	return result;
}

/* data is required; metadata that is not there, or JSON null, is the empty object */
static Datum
read_json(Import *import, uint64 n, int column)
{
	bool		isnull;
	Datum		value = es_spi_value(n, column, &isnull);
	Jsonb	   *json;

	if (isnull && column == COLUMN_DATA)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("data must not be NULL"),
				 errhint("Say in the query what such events hold, for instance coalesce(data, 'null').")));
	if (isnull)
		return es_event_no_metadata();
	if (import->json_is_text[column])
		value = DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(value)));
	else
		value = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	json = DatumGetJsonbP(value);
	if (column == COLUMN_DATA || JB_ROOT_IS_OBJECT(json))
		return value;
	if (strcmp(JsonbToCString(NULL, &json->root, VARSIZE(json)), "null") == 0)
		return es_event_no_metadata();
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("metadata must be a JSON object, not %s", JsonbToCString(NULL, &json->root, VARSIZE(json)))));
}

/* a UUID is kept; of another text a UUIDv5 is made, always the same, and the text is kept in the metadata */
static void
read_id(Import *import, uint64 n, Row *row)
{
	bool		isnull;
	Datum		value = es_spi_value(n, COLUMN_ID, &isnull);
	char	   *id;

	if (isnull)
		return;
	id = TextDatumGetCString(value);
	row->event.has_id = true;
	if (looks_like_uuid(id))
	{
		row->event.id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(id)));
		return;
	}
	if (id[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("id must not be empty"),
				 errhint("NULL: an id is made.")));
	make_uuid5(&row->event.id, &import->namespace, "", id);
	add_imported_id(&row->event, id);
}

static void
add_imported_id(EsEvent *event, const char *id)
{
	JsonbParseState *state = NULL;
	JsonbValue	v = {.type = jbvString};
	JsonbValue *object;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	v.val.string.val = IMPORTED_ID;
	v.val.string.len = strlen(IMPORTED_ID);
	pushJsonbValue(&state, WJB_KEY, &v);
	v.val.string.val = unconstify(char *, id);
	v.val.string.len = strlen(id);
	pushJsonbValue(&state, WJB_VALUE, &v);
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	event->metadata = DirectFunctionCall2(jsonb_concat, event->metadata, JsonbPGetDatum(JsonbValueToJsonb(object)));
}

/* only as RFC 9562 writes it: 32 digits without hyphens may as well be some hash */
static bool
looks_like_uuid(const char *text)
{
	int			i;

	for (i = 0; text[i] != '\0'; i++)
	{
		bool		hyphen = i == 8 || i == 13 || i == 18 || i == 23;

		if (i >= 36 || (hyphen ? text[i] != '-' : !isxdigit((unsigned char) text[i])))
			return false;
	}
	return i == 36;
}

/* RFC 9562, version 5; the name is prefix and name */
static void
make_uuid5(pg_uuid_t *result, const pg_uuid_t *namespace, const char *prefix, const char *name)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA1);
	uint8		digest[SHA1_DIGEST_LENGTH];

	if (pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, namespace->data, UUID_LEN) < 0 ||
		pg_cryptohash_update(hash, (const uint8 *) prefix, strlen(prefix)) < 0 ||
		pg_cryptohash_update(hash, (const uint8 *) name, strlen(name)) < 0 ||
		pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute a UUIDv5: %s", pg_cryptohash_error(hash))));
	pg_cryptohash_free(hash);
	memcpy(result->data, digest, UUID_LEN);
	result->data[6] = (result->data[6] & 0x0f) | 0x50;
	result->data[8] = (result->data[8] & 0x3f) | 0x80;
}

static void
load_progress(Import *import)
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
save_progress(Import *import)
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
	Import	   *import = arg;

	if (import->at == NULL)
		return;
	if (import->at->stream == NULL)
		errcontext("event at position " INT64_FORMAT " of source \"%s\"", import->at->position, import->source);
	else
		errcontext("event at position " INT64_FORMAT " of source \"%s\", stream \"%s\"", import->at->position, import->source,
				   import->at->stream);
}
