/*
 * import_row.c
 *		Rows of import_events' query: which columns it may have, and events made of them.
 *
 * Runs in the backend that imports, between the fetches of a batch (import.c); keeps nothing.  Values are copied and
 * fetched from where they are toasted: the source's rows are given up with the next fetch.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "import.h"
#include "spi.h"

/* where the text of an id that was no UUID is kept */
#define IMPORTED_ID "imported_id"

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
}			columns[ES_IMPORT_NCOLUMNS] = {
	[ES_IMPORT_POSITION] = {"position", true, KIND_INTEGER},
	[ES_IMPORT_STREAM] = {"stream", true, KIND_TEXT},
	[ES_IMPORT_TYPE] = {"type", true, KIND_TEXT},
	[ES_IMPORT_DATA] = {"data", true, KIND_JSON},
	[ES_IMPORT_VERSION] = {"version", false, KIND_INTEGER},
	[ES_IMPORT_ID] = {"id", false, KIND_TEXT},
	[ES_IMPORT_METADATA] = {"metadata", false, KIND_JSON},
	[ES_IMPORT_TAGS] = {"tags", false, KIND_TEXTS},
	[ES_IMPORT_SCHEMA_VERSION] = {"schema_version", false, KIND_INTEGER},
	[ES_IMPORT_OCCURRED_AT] = {"occurred_at", false, KIND_TIME},
};

static void find_columns(TupleDesc desc, Oid types[ES_IMPORT_NCOLUMNS]);
static char *column_expression(EsImport *import, int column, Oid type);
static void refuse_type(int column, Oid type) es_noreturn;
static char *required_text(uint64 n, int column, int max_bytes);
static Datum read_json(EsImport *import, uint64 n, int column);
static void read_id(EsImport *import, uint64 n, EsImportRow *row);
static void add_imported_id(EsEvent *event, const char *id);

/* what reads a batch has every column of ours, those that the query has not as NULL */
void
es_import_prepare(EsImport *import, const char *query)
{
	TupleDesc	desc = es_spi_describe_query(query);
	Oid			types[ES_IMPORT_NCOLUMNS] = {0};
	StringInfoData select;

	if (desc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("query must be one SELECT statement"),
				 errdetail("It begins with \"%.80s\".", query)));
	find_columns(desc, types);
	es_event_namespace(&import->namespace, import->source);
	import->has_version = OidIsValid(types[ES_IMPORT_VERSION]);

	initStringInfo(&select);
	appendStringInfoString(&select, "SELECT ");
	for (int i = 0; i < ES_IMPORT_NCOLUMNS; i++)
		appendStringInfo(&select, "%s%s", i == 0 ? "" : ", ", column_expression(import, i, types[i]));
	/* the query's last line may end in a comment */
	appendStringInfo(&select, " FROM (%s\n) q WHERE q.position > $1 ORDER BY q.position LIMIT $2", query);
	import->select = select.data;
}

static void
find_columns(TupleDesc desc, Oid types[ES_IMPORT_NCOLUMNS])
{
	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(es_attr(desc, i)->attname);
		int			column = 0;

		while (column < ES_IMPORT_NCOLUMNS && strcmp(columns[column].name, name) != 0)
			column++;
		if (column == ES_IMPORT_NCOLUMNS || OidIsValid(types[column]))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 column == ES_IMPORT_NCOLUMNS ?
					 errmsg("unknown column \"%s\" in the result of query", name) :
					 errmsg("column \"%s\" stands twice in the result of query", name),
					 errhint("Known columns: stream, type, data, position; version, id, metadata, tags, schema_version, occurred_at.")));
		types[column] = getBaseType(es_attr(desc, i)->atttypid);
	}
	for (int column = 0; column < ES_IMPORT_NCOLUMNS; column++)
		if (columns[column].required && !OidIsValid(types[column]))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the result of query has no column \"%s\"", columns[column].name),
					 errhint("Required columns: stream, type, data, and position, a bigint that orders the source.")));
}

static char *
column_expression(EsImport *import, int column, Oid type)
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

/* everything is copied: the rows are given up with the next fetch, and the source may hold them toasted */
void
es_import_read_row(EsImport *import, uint64 n, EsImportRow *row)
{
	bool		isnull;
	Datum		value;

	row->position = es_spi_int64(n, ES_IMPORT_POSITION);
	import->at = row;
	row->stream = required_text(n, ES_IMPORT_STREAM, ES_MAX_STREAM_BYTES);
	row->event.stream = CStringGetTextDatum(row->stream);
	row->event.tenant = import->tenant_text;
	row->event.type = CStringGetTextDatum(required_text(n, ES_IMPORT_TYPE, ES_MAX_TYPE_BYTES));
	row->event.data = read_json(import, n, ES_IMPORT_DATA);
	row->event.metadata = read_json(import, n, ES_IMPORT_METADATA);

	value = es_spi_value(n, ES_IMPORT_VERSION, &isnull);
	if (isnull && import->has_version)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("version must not be NULL"),
				 errhint("Leave the column out to have the events numbered.")));
	row->version = isnull ? 0 : DatumGetInt64(value);
	read_id(import, n, row);

	value = es_spi_value(n, ES_IMPORT_TAGS, &isnull);
	row->event.tags = isnull ? es_event_no_tags() : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	es_event_check_tags(row->event.tags);
	value = es_spi_value(n, ES_IMPORT_SCHEMA_VERSION, &isnull);
	if (!isnull && (DatumGetInt64(value) < 1 || DatumGetInt64(value) > PG_INT32_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schema_version must be between 1 and %d, not " INT64_FORMAT, PG_INT32_MAX, DatumGetInt64(value))));
	row->event.schema_version = isnull ? 1 : (int32) DatumGetInt64(value);
	value = es_spi_value(n, ES_IMPORT_OCCURRED_AT, &isnull);
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
read_json(EsImport *import, uint64 n, int column)
{
	bool		isnull;
	Datum		value = es_spi_value(n, column, &isnull);
	Jsonb	   *json;

	if (isnull && column == ES_IMPORT_DATA)
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
	if (column == ES_IMPORT_DATA || JB_ROOT_IS_OBJECT(json))
		return value;
	if (strcmp(JsonbToCString(NULL, &json->root, VARSIZE(json)), "null") == 0)
		return es_event_no_metadata();
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("metadata must be a JSON object, not %s", JsonbToCString(NULL, &json->root, VARSIZE(json)))));
}

/* a UUID is kept; of another text a UUIDv5 is made, always the same, and the text is kept in the metadata */
static void
read_id(EsImport *import, uint64 n, EsImportRow *row)
{
	bool		isnull;
	Datum		value = es_spi_value(n, ES_IMPORT_ID, &isnull);
	char	   *id;

	if (isnull)
		return;
	id = TextDatumGetCString(value);
	row->event.has_id = true;
	if (es_event_is_uuid(id))
	{
		row->event.id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(id)));
		return;
	}
	if (id[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("id must not be empty"),
				 errhint("NULL: an id is made.")));
	es_event_named_id(&row->event.id, &import->namespace, id);
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
