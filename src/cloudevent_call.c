/*
 * cloudevent_call.c
 *		to_cloudevent() and append_cloudevent(): events of the store as CloudEvents 1.0.2 in JSON, and back.
 *
 * Runs in backends; keeps nothing.  What of a CloudEvent the event says by itself is taken apart: type, data, subject (the stream),
 * time, schemaversion, the extensions that metadata has names for, and an id that is a uuid.  The rest is kept in the metadata as it
 * came, so that to_cloudevent() and deliveries give the same CloudEvent back.  An id that is none becomes a uuid that source and id
 * decide, so that the same CloudEvent is the same event.
 */
#include "postgres.h"

#include <ctype.h>

#include "common/base64.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "append.h"
#include "arg.h"
#include "cause.h"
#include "cloudevent.h"
#include "compat.h"
#include "event.h"
#include "evtstore.h"
#include "guc.h"
#include "options.h"

#define MAX_ATTRIBUTE_BYTES 4096
#define UUID_TEXT_BYTES 36

/* a CloudEvent on its way into the store */
typedef struct Incoming
{
	Jsonb	   *cloudevent;
	char	   *stream;
	EsEvent		event;
	JsonbParseState *metadata;
	JsonbParseState *original;
	int			noriginal;
} Incoming;

PG_FUNCTION_INFO_V1(evtstore_to_cloudevent);
PG_FUNCTION_INFO_V1(evtstore_append_cloudevent);

static char *row_text(HeapTupleHeader row, int attribute);
static int64 row_int64(HeapTupleHeader row, int attribute);
static TimestampTz row_time(HeapTupleHeader row, int attribute);
static Jsonb *row_jsonb(HeapTupleHeader row, int attribute);
static Datum make_metadata(Incoming *incoming);
static void read_required(Incoming *incoming);
static void read_attribute(Incoming *incoming, const char *name, JsonbValue *value);
static void check_attribute(const char *name, const JsonbValue *value);
static void read_id(Incoming *incoming);
static bool is_uuid(const char *text);
static bool read_time(Incoming *incoming, const char *text);
static bool is_rfc3339(const char *text);
static bool read_schema_version(Incoming *incoming, const JsonbValue *value);
static bool is_default_media_type(const char *text);
static bool is_printable(const char *text);
static bool is_extension(const char *name, const char **key);
static void read_data(Incoming *incoming);
static char *required(Incoming *incoming, const char *name);
static void refuse(const char *name, const char *why, const char *hint) es_noreturn;
static void push(JsonbParseState **state, const char *name, JsonbValue *value);
static void push_original(Incoming *incoming, const char *name, JsonbValue *value);

/* evtstore.to_cloudevent(event evtstore.event) -> jsonb; evtstore_reader */
Datum
evtstore_to_cloudevent(PG_FUNCTION_ARGS)
{
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(0);
	EsCloudeventFacts facts = {0};
	EsCloudevent event;
	bool		isnull;
	Datum		id = GetAttributeByNum(row, ES_EVENT_ROW_ID, &isnull);
	char	   *text;

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the event has no id"),
				 errhint("Give an event as the read functions return it.")));
	facts.id = DatumGetCString(DirectFunctionCall1(uuid_out, id));
	facts.source = es_cloudevent_default_source();
	facts.type = row_text(row, ES_EVENT_ROW_TYPE);
	facts.stream = row_text(row, ES_EVENT_ROW_STREAM);
	facts.key = facts.stream;
	facts.version = row_int64(row, ES_EVENT_ROW_VERSION);
	facts.position = row_int64(row, ES_EVENT_ROW_POSITION);
	facts.schema_version = (int32) row_int64(row, ES_EVENT_ROW_SCHEMA_VERSION);
	facts.occurred_at = row_time(row, ES_EVENT_ROW_OCCURRED_AT);
	facts.recorded_at = row_time(row, ES_EVENT_ROW_RECORDED_AT);
	facts.metadata = row_jsonb(row, ES_EVENT_ROW_METADATA);
	facts.data = row_jsonb(row, ES_EVENT_ROW_DATA);
	if (facts.data == NULL)
		facts.data = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("null")));
	es_cloudevent_of_event(&event, &facts);
	text = es_cloudevent_structured(&event);
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(pg_any_to_server(text, strlen(text), PG_UTF8))));
}

static char *
row_text(HeapTupleHeader row, int attribute)
{
	bool		isnull;
	Datum		value = GetAttributeByNum(row, attribute, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* NULL: 0 */
static int64
row_int64(HeapTupleHeader row, int attribute)
{
	bool		isnull;
	Datum		value = GetAttributeByNum(row, attribute, &isnull);

	if (isnull)
		return 0;
	return attribute == ES_EVENT_ROW_SCHEMA_VERSION ? DatumGetInt32(value) : DatumGetInt64(value);
}

static TimestampTz
row_time(HeapTupleHeader row, int attribute)
{
	bool		isnull;
	Datum		value = GetAttributeByNum(row, attribute, &isnull);

	return isnull ? DT_NOEND : DatumGetTimestampTz(value);
}

static Jsonb *
row_jsonb(HeapTupleHeader row, int attribute)
{
	bool		isnull;
	Datum		value = GetAttributeByNum(row, attribute, &isnull);

	return isnull ? NULL : DatumGetJsonbP(value);
}

/*
 * evtstore.append_cloudevent(cloudevent jsonb, stream text DEFAULT NULL, expected_version bigint DEFAULT NULL)
 * -> setof evtstore.append_result (1 row); evtstore_writer
 */
Datum
evtstore_append_cloudevent(PG_FUNCTION_ARGS)
{
	Incoming	incoming = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;
	int64		expected;
	EsAppendResult result;

	if (es_arg_second_call(fcinfo))
		ES_RETURN_DONE(fcinfo);
	es_arg_required(fcinfo, 0, "cloudevent");
	incoming.cloudevent = PG_GETARG_JSONB_P(0);
	incoming.stream = es_arg_optional_name(fcinfo, 1, "stream", ES_MAX_STREAM_BYTES);
	expected = es_append_expected_argument(fcinfo, 2);

	pushJsonbValue(&incoming.metadata, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(&incoming.original, WJB_BEGIN_OBJECT, NULL);
	read_required(&incoming);
	it = JsonbIteratorInit(&incoming.cloudevent->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
			read_attribute(&incoming, name, &v);
	}
	read_data(&incoming);
	incoming.event.metadata = es_event_stamp(make_metadata(&incoming));
	incoming.event.tags = es_event_no_tags();
	incoming.event.stream = CStringGetTextDatum(incoming.stream);
	incoming.event.tenant = CStringGetTextDatum(es_guc_tenant);

	/* in a rebuild the event is there already, and nobody knows where */
	if (es_cause_is_replay())
	{
		fcinfo->isnull = true;
		ES_RETURN_ROW(fcinfo, (Datum) 0);
	}
	es_append(es_guc_tenant, incoming.stream, &incoming.event, 1, expected, ES_REQUIRE_NONE, &result);
	ES_RETURN_ROW(fcinfo, es_append_result_row(incoming.stream, &result));
}

static Datum
make_metadata(Incoming *incoming)
{
	Jsonb	   *metadata = JsonbValueToJsonb(pushJsonbValue(&incoming->metadata, WJB_END_OBJECT, NULL));
	Jsonb	   *original = JsonbValueToJsonb(pushJsonbValue(&incoming->original, WJB_END_OBJECT, NULL));

	return DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(metadata), JsonbPGetDatum(es_options_of(ES_CLOUDEVENT_ORIGINAL, original)));
}

/* what the others are judged by */
static void
read_required(Incoming *incoming)
{
	char	   *specversion;
	char	   *type;

	if (!JB_ROOT_IS_OBJECT(incoming->cloudevent))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cloudevent must be a JSON object, not %s", es_options_shown(incoming->cloudevent)),
				 errhint("Give one CloudEvent in the JSON format; those of a batch one by one.")));
	specversion = required(incoming, "specversion");
	if (strcmp(specversion, ES_CLOUDEVENT_SPECVERSION) != 0)
		refuse("specversion", psprintf("it is \"%s\"", es_arg_shown(specversion, strlen(specversion))), "Only CloudEvents 1.0 are taken.");
	type = required(incoming, "type");
	es_arg_check_name(type, "type", ES_MAX_TYPE_BYTES);
	incoming->event.type = CStringGetTextDatum(type);
	incoming->event.schema_version = 1;
	(void) required(incoming, "source");
	read_id(incoming);
	if (incoming->stream != NULL)
		return;
	incoming->stream = es_cloudevent_string(incoming->cloudevent, "subject");
	if (incoming->stream == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the CloudEvent has no \"subject\" and no stream is given"),
				 errhint("Name the stream that it goes to: stream => 'order-1'.")));
	es_arg_check_name(incoming->stream, "subject", ES_MAX_STREAM_BYTES);
}

static char *
required(Incoming *incoming, const char *name)
{
	JsonbValue	v;

	if (getKeyJsonValueFromContainer(&incoming->cloudevent->root, name, strlen(name), &v) == NULL || v.type == jbvNull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the CloudEvent has no \"%s\"", name),
				 errhint("Each CloudEvent has \"specversion\", \"id\", \"source\" and \"type\".")));
	check_attribute(name, &v);
	if (v.type != jbvString || v.val.string.len == 0)
		refuse(name, "it is not a string, or empty", "Each CloudEvent has \"specversion\", \"id\", \"source\" and \"type\".");
	return pnstrdup(v.val.string.val, v.val.string.len);
}

/* a uuid is the event's; of another id a version 8 uuid (RFC 9562) is made, that of SHA-256 of source, a zero byte and id */
static void
read_id(Incoming *incoming)
{
	char	   *id = required(incoming, "id");
	char	   *source = required(incoming, "source");
	pg_uuid_t  *uuid = &incoming->event.id;
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *context;
	JsonbValue	v = {.type = jbvString};

	incoming->event.has_id = true;
	if (is_uuid(id))
		*uuid = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(id)));
	else
	{
		context = pg_cryptohash_create(PG_SHA256);
		if (context == NULL || pg_cryptohash_init(context) < 0 ||
			pg_cryptohash_update(context, (const uint8 *) source, strlen(source) + 1) < 0 ||
			pg_cryptohash_update(context, (const uint8 *) id, strlen(id)) < 0 ||
			pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not make a uuid of the id of a CloudEvent")));
		pg_cryptohash_free(context);
		memcpy(uuid->data, digest, UUID_LEN);
		uuid->data[6] = (uuid->data[6] & 0x0f) | 0x80;
		uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
	}
	if (strcmp(id, DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)))) == 0)
		return;
	v.val.string.val = id;
	v.val.string.len = strlen(id);
	push_original(incoming, "id", &v);
}

static bool
is_uuid(const char *text)
{
	if (strlen(text) != UUID_TEXT_BYTES)
		return false;
	for (int i = 0; i < UUID_TEXT_BYTES; i++)
		if (i == 8 || i == 13 || i == 18 || i == 23 ? text[i] != '-' : strchr("0123456789abcdefABCDEF", text[i]) == NULL)
			return false;
	return true;
}

/* all but those of read_required and read_data */
static void
read_attribute(Incoming *incoming, const char *name, JsonbValue *value)
{
	static const char *const others[] = {"specversion", "id", "type", "data", ES_CLOUDEVENT_BASE64};
	char	   *text;
	const char *key;

	for (int i = 0; i < lengthof(others); i++)
		if (strcmp(name, others[i]) == 0)
			return;
	check_attribute(name, value);
	if (value->type == jbvNull)
		return;
	text = value->type == jbvString ? pnstrdup(value->val.string.val, value->val.string.len) : NULL;
	if (text != NULL && is_extension(name, &key))
		push(&incoming->metadata, key, value);
	else if (text != NULL && strcmp(text, incoming->stream) == 0 && (strcmp(name, "subject") == 0 || strcmp(name, "partitionkey") == 0))
		return;
	else if (strcmp(name, "time") == 0 && read_time(incoming, text))
		return;
	else if (strcmp(name, "schemaversion") == 0 && read_schema_version(incoming, value))
		return;
	else if (strcmp(name, "datacontenttype") == 0 && is_default_media_type(text))
		return;
	else
		push_original(incoming, name, value);
}

static void
check_attribute(const char *name, const JsonbValue *value)
{
	static const char hint[] = "Extensions are named with lower-case letters and digits; their values are strings, integers and booleans.";

	if (!es_cloudevent_is_name(name, strlen(name)))
		refuse(name, "that is no name of an attribute", hint);
	if (value->type != jbvNull && value->type != jbvString && value->type != jbvNumeric && value->type != jbvBool)
		refuse(name, "it is an object or an array", hint);
	if (value->type == jbvString && value->val.string.len > MAX_ATTRIBUTE_BYTES)
		refuse(name, psprintf("it has %d bytes, at most %d", value->val.string.len, MAX_ATTRIBUTE_BYTES), hint);
}

/* true: occurred_at says all of it.  text NULL: it was no string */
static bool
read_time(Incoming *incoming, const char *text)
{
	const char *shown;

	if (text == NULL || !is_rfc3339(text))
		refuse("time", "it is no timestamp of RFC 3339", "Write it as \"2026-01-31T14:00:00Z\".");
	incoming->event.occurred_at = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
																		  Int32GetDatum(-1)));
	incoming->event.has_occurred_at = true;
	shown = es_cloudevent_time(incoming->event.occurred_at);
	return shown != NULL && strcmp(shown, text) == 0;
}

/* shape only: the server looks at the numbers */
static bool
is_rfc3339(const char *text)
{
	static const char shape[] = "dddd-dd-ddTdd:dd:dd";
	size_t		len = strlen(shape);

	for (size_t i = 0; i < len; i++)
		if (shape[i] == 'd' ? !isdigit((unsigned char) text[i]) : pg_toupper((unsigned char) text[i]) != shape[i])
			return false;
	text += len;
	if (*text == '.')
	{
		len = strspn(text + 1, "0123456789");
		if (len == 0)
			return false;
		text += len + 1;
	}
	if (*text == 'Z' || *text == 'z')
		return text[1] == '\0';
	return (*text == '+' || *text == '-') && strlen(text) == 6 && isdigit((unsigned char) text[1]) && isdigit((unsigned char) text[2]) &&
		text[3] == ':' && isdigit((unsigned char) text[4]) && isdigit((unsigned char) text[5]);
}

/* true: the column says all of it */
static bool
read_schema_version(Incoming *incoming, const JsonbValue *value)
{
	double		number;

	if (value->type != jbvNumeric)
		return false;
	number = DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric)));
	if (number < 1 || number > PG_INT32_MAX || number != (int32) number)
		return false;
	incoming->event.schema_version = (int32) number;
	return true;
}

/* it becomes a header of deliveries, as it is */
static bool
is_default_media_type(const char *text)
{
	if (text == NULL || text[0] == '\0' || !is_printable(text))
		refuse("datacontenttype", "it is no media type", "Write it as \"application/json\" or \"text/xml; charset=utf-8\".");
	return strcmp(text, ES_CLOUDEVENT_DATACONTENTTYPE) == 0;
}

static bool
is_printable(const char *text)
{
	while (*text >= ' ' && *text < 0x7f)
		text++;
	return *text == '\0';
}

static bool
is_extension(const char *name, const char **key)
{
	for (int i = 0; i < ES_CLOUDEVENT_EXTENSIONS; i++)
		if (strcmp(name, es_cloudevent_extensions[i].attribute) == 0)
		{
			*key = es_cloudevent_extensions[i].key;
			return true;
		}
	return false;
}

/* JSON in base64 is JSON; other bytes stay base64 */
static void
read_data(Incoming *incoming)
{
	char	   *base64 = es_cloudevent_string(incoming->cloudevent, ES_CLOUDEVENT_BASE64);
	char	   *media_type = es_cloudevent_string(incoming->cloudevent, "datacontenttype");
	JsonbValue	data = {.type = jbvNull};
	JsonbValue	yes = {.type = jbvBool, .val.boolean = true};
	bool		has_data = getKeyJsonValueFromContainer(&incoming->cloudevent->root, "data", strlen("data"), &data) != NULL;
	char	   *bytes;
	int			len;

	if (base64 == NULL && es_options_has(incoming->cloudevent, ES_CLOUDEVENT_BASE64))
		refuse(ES_CLOUDEVENT_BASE64, "it is not a string", "Write the bytes in base64, or give \"data\".");
	if (base64 == NULL)
	{
		incoming->event.data = JsonbPGetDatum(JsonbValueToJsonb(&data));
		return;
	}
	if (has_data)
		refuse(ES_CLOUDEVENT_BASE64, "there is \"data\", too", "Give one of the two.");
	bytes = palloc(pg_b64_dec_len(strlen(base64)) + 1);
	len = pg_b64_decode(base64, strlen(base64), (void *) bytes, pg_b64_dec_len(strlen(base64)));
	if (len < 0)
		refuse(ES_CLOUDEVENT_BASE64, "it is not base64", "Write the bytes in base64, or give \"data\".");
	bytes[len] = '\0';
	if (media_type == NULL || es_cloudevent_is_json(media_type))
	{
		if (strlen(bytes) != len)
			refuse(ES_CLOUDEVENT_BASE64, "it is not JSON", "Give a \"datacontenttype\" that is not JSON.");
		incoming->event.data = DirectFunctionCall1(jsonb_in, CStringGetDatum(pg_any_to_server(bytes, len, PG_UTF8)));
		return;
	}
	data.type = jbvString;
	data.val.string.val = base64;
	data.val.string.len = strlen(base64);
	incoming->event.data = JsonbPGetDatum(JsonbValueToJsonb(&data));
	push_original(incoming, ES_CLOUDEVENT_BASE64, &yes);
}

static void
refuse(const char *name, const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" of the CloudEvent is not acceptable: %s", es_arg_shown(name, strlen(name)), why),
			 errhint("%s", hint)));
}

static void
push(JsonbParseState **state, const char *name, JsonbValue *value)
{
	JsonbValue	key = {.type = jbvString};

	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &key);
	pushJsonbValue(state, WJB_VALUE, value);
}

static void
push_original(Incoming *incoming, const char *name, JsonbValue *value)
{
	if (++incoming->noriginal > ES_CLOUDEVENT_MAX_ORIGINAL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the CloudEvent has more than %d attributes", ES_CLOUDEVENT_MAX_ORIGINAL)));
	push(&incoming->original, name, value);
}
