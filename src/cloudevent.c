/*
 * cloudevent.c
 *		What of an event becomes which attribute of a CloudEvent.
 *
 * Runs in delivery workers and wherever filters with an expression do; keeps nothing.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "common/base64.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "cloudevent.h"
#include "compat.h"
#include "json.h"

/* those of the largest bigint */
#define SEQUENCE_DIGITS 19
/* the specification says 20, and lets others be longer */
#define MAX_NAME_BYTES 64

const EsCloudeventExtension es_cloudevent_extensions[ES_CLOUDEVENT_EXTENSIONS] = {
	{"correlation_id", "correlationid"},
	{"causation_id", "causationid"},
	{"traceparent", "traceparent"},
	{"tracestate", "tracestate"},
};

static const char *const names[] = ES_CLOUDEVENT_NAMES("");

static void add_integer(EsCloudevent *event, EsCloudeventName name, int64 value);
static void add_original(EsCloudevent *event, Jsonb *original);
static void set_original(EsCloudeventAttribute *attribute, const char *value);
static EsCloudeventAttribute *attribute_of(EsCloudevent *event, const char *name, int len);
static char *jsonb_text(Jsonb *data);
static char *jsonb_string(Jsonb *data);
static const char *to_utf8(const char *text);
static void put_digits(char *to, int64 value, int digits);

void
es_cloudevent_of_event(EsCloudevent *event, const EsCloudeventFacts *facts)
{
	Jsonb	   *original = es_cloudevent_original(facts->metadata);

	es_cloudevent_begin(event, facts->data);
	es_cloudevent_add(event, ES_CE_ID, facts->id);
	es_cloudevent_add(event, ES_CE_SOURCE, facts->source);
	es_cloudevent_add(event, ES_CE_TYPE, facts->type);
	es_cloudevent_add(event, ES_CE_SUBJECT, facts->stream);
	es_cloudevent_add(event, ES_CE_TIME, es_cloudevent_time(facts->occurred_at));
	if (facts->position > 0)
		es_cloudevent_add(event, ES_CE_SEQUENCE, es_cloudevent_sequence(facts->position));
	if (facts->version > 0)
		add_integer(event, ES_CE_STREAMVERSION, facts->version);
	if (facts->schema_version > 0)
		add_integer(event, ES_CE_SCHEMAVERSION, facts->schema_version);
	es_cloudevent_add(event, ES_CE_PARTITIONKEY, facts->key);
	es_cloudevent_add(event, ES_CE_RECORDEDTIME, es_cloudevent_time(facts->recorded_at));
	es_cloudevent_add_extensions(event, facts->metadata);
	if (original != NULL)
		add_original(event, original);
}

void
es_cloudevent_begin(EsCloudevent *event, Jsonb *data)
{
	event->n = 0;
	event->data = data;
	event->is_base64 = false;
	es_cloudevent_add(event, ES_CE_SPECVERSION, ES_CLOUDEVENT_SPECVERSION);
	es_cloudevent_add(event, ES_CE_DATACONTENTTYPE, ES_CLOUDEVENT_DATACONTENTTYPE);
}

/* CloudEvents knows no empty attributes */
void
es_cloudevent_add(EsCloudevent *event, EsCloudeventName name, const char *value)
{
	EsCloudeventAttribute *attribute = &event->attributes[event->n];

	if (value == NULL || value[0] == '\0')
		return;
	attribute->name = name;
	attribute->text = names[name];
	attribute->value = value;
	attribute->is_string = true;
	event->n++;
}

/* the Integer of CloudEvents has 32 bits: what does not fit goes as a string */
static void
add_integer(EsCloudevent *event, EsCloudeventName name, int64 value)
{
	char	   *text = palloc(MAXINT8LEN + 1);

	pg_lltoa(value, text);
	es_cloudevent_add(event, name, text);
	event->attributes[event->n - 1].is_string = value != (int32) value;
}

void
es_cloudevent_add_extensions(EsCloudevent *event, Jsonb *metadata)
{
	static const EsCloudeventName extensions[ES_CLOUDEVENT_EXTENSIONS] = {
		ES_CE_CORRELATIONID, ES_CE_CAUSATIONID, ES_CE_TRACEPARENT, ES_CE_TRACESTATE
	};

	for (int i = 0; i < ES_CLOUDEVENT_EXTENSIONS; i++)
		es_cloudevent_add(event, extensions[i], es_cloudevent_string(metadata, es_cloudevent_extensions[i].key));
}

/* metadata is whatever somebody appended: what cannot be an attribute is none */
static void
add_original(EsCloudevent *event, Jsonb *original)
{
	JsonbIterator *it = JsonbIteratorInit(&original->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	EsCloudeventAttribute *attribute = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			event->is_base64 |= v.val.string.len == strlen(ES_CLOUDEVENT_BASE64) &&
				memcmp(v.val.string.val, ES_CLOUDEVENT_BASE64, v.val.string.len) == 0;
			attribute = attribute_of(event, v.val.string.val, v.val.string.len);
		}
		else if (token != WJB_VALUE || attribute == NULL)
			continue;
		else if (v.type == jbvString && v.val.string.len > 0)
			set_original(attribute, pnstrdup(v.val.string.val, v.val.string.len));
		else if ((v.type == jbvNumeric || v.type == jbvBool) && attribute->name >= ES_CE_SEQUENCE)
		{
			attribute->value = v.type == jbvBool ? (v.val.boolean ? "true" : "false") :
				DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v.val.numeric)));
			attribute->is_string = false;
		}
		else if (attribute->value == NULL)
			event->n--;
	}
	event->is_base64 = event->is_base64 && jsonb_string(event->data) != NULL;
}

/* a media type becomes a header as it is, so it must not end one */
static void
set_original(EsCloudeventAttribute *attribute, const char *value)
{
	if (attribute->name == ES_CE_DATACONTENTTYPE)
		for (const char *c = value; *c != '\0'; c++)
			if (*c < ' ' || *c >= 0x7f)
				return;
	attribute->value = value;
	attribute->is_string = true;
}

/* the one of that name, or a new one without a value; NULL: it can be none, or stays as it is */
static EsCloudeventAttribute *
attribute_of(EsCloudevent *event, const char *name, int len)
{
	EsCloudeventAttribute *attribute;

	for (int i = 0; i < event->n; i++)
		if (strlen(event->attributes[i].text) == len && memcmp(event->attributes[i].text, name, len) == 0)
			return event->attributes[i].name == ES_CE_SPECVERSION || event->attributes[i].name == ES_CE_TYPE ? NULL : &event->attributes[i];
	if (!es_cloudevent_is_name(name, len) || event->n == lengthof(event->attributes) || (len == 4 && memcmp(name, "data", 4) == 0))
		return NULL;
	attribute = &event->attributes[event->n++];
	attribute->name = ES_CE_OTHER;
	attribute->text = pnstrdup(name, len);
	attribute->value = NULL;
	return attribute;
}

const char *
es_cloudevent_attribute(const EsCloudevent *event, EsCloudeventName name)
{
	for (int i = 0; i < event->n; i++)
		if (event->attributes[i].name == name)
			return event->attributes[i].value;
	return NULL;
}

char *
es_cloudevent_structured(const EsCloudevent *event)
{
	const char *values[lengthof(event->attributes)];
	const char *data = to_utf8(jsonb_text(event->data));
	EsJson	   *object;

	for (int i = 0; i < event->n; i++)
		values[i] = to_utf8(event->attributes[i].value);
	object = es_json_object();
	for (int i = 0; i < event->n; i++)
	{
		if (event->attributes[i].is_string)
			es_json_string(object, event->attributes[i].text, values[i]);
		else
			es_json_raw(object, event->attributes[i].text, values[i]);
	}
	es_json_raw(object, event->is_base64 ? "data_base64" : "data", data);
	return es_json_print(object);
}

const char *
es_cloudevent_payload(const EsCloudevent *event, size_t *len)
{
	const char *media_type = es_cloudevent_attribute(event, ES_CE_DATACONTENTTYPE);
	char	   *string = NULL;
	const char *text;

	if (event->is_base64 || !es_cloudevent_is_json(media_type))
		string = jsonb_string(event->data);
	if (string != NULL && event->is_base64)
	{
		int			max = pg_b64_dec_len(strlen(string));
		char	   *bytes = palloc(max + 1);
		int			n = pg_b64_decode(string, strlen(string), (void *) bytes, max);

		if (n >= 0)
		{
			*len = n;
			return bytes;
		}
	}
	text = to_utf8(string != NULL ? string : jsonb_text(event->data));
	*len = strlen(text);
	return text;
}

static char *
jsonb_text(Jsonb *data)
{
	return JsonbToCString(NULL, &data->root, VARSIZE(data));
}

/* NULL: it is none */
static char *
jsonb_string(Jsonb *data)
{
	JsonbValue	v;

	if (!JB_ROOT_IS_SCALAR(data) || !JsonbExtractScalar(&data->root, &v) || v.type != jbvString)
		return NULL;
	return pnstrdup(v.val.string.val, v.val.string.len);
}

/* the argument itself where nothing is to be converted */
static const char *
to_utf8(const char *text)
{
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

bool
es_cloudevent_is_json(const char *media_type)
{
	int			len = strcspn(media_type, "; \t");

	return len >= 5 && (pg_strncasecmp(media_type + len - 5, "/json", 5) == 0 || pg_strncasecmp(media_type + len - 5, "+json", 5) == 0);
}

Jsonb *
es_cloudevent_original(Jsonb *metadata)
{
	JsonbValue	v;
	Jsonb	   *original;

	if (metadata == NULL || !JB_ROOT_IS_OBJECT(metadata) ||
		getKeyJsonValueFromContainer(&metadata->root, ES_CLOUDEVENT_ORIGINAL, strlen(ES_CLOUDEVENT_ORIGINAL), &v) == NULL ||
		v.type != jbvBinary || !JsonContainerIsObject(v.val.binary.data))
		return NULL;
	original = JsonbValueToJsonb(&v);
	return es_cloudevent_string(original, "source") == NULL ? NULL : original;
}

bool
es_cloudevent_is_name(const char *name, int len)
{
	for (int i = 0; i < len; i++)
		if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= '0' && name[i] <= '9'))
			return false;
	return len > 0 && len <= MAX_NAME_BYTES;
}

char *
es_cloudevent_default_source(void)
{
	char	   *database = get_database_name(MyDatabaseId);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "/evtstore/");
	es_cloudevent_append_segment(&buf, pg_server_to_any(database, strlen(database), PG_UTF8));
	return buf.data;
}

char *
es_cloudevent_sequence(int64 position)
{
	char	   *text = palloc(SEQUENCE_DIGITS + 1);

	put_digits(text, position, SEQUENCE_DIGITS);
	text[SEQUENCE_DIGITS] = '\0';
	return text;
}

char *
es_cloudevent_time(TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char	   *text;

	if (TIMESTAMP_NOT_FINITE(at) || timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0 || tm.tm_year < 1 ||
		tm.tm_year > 9999)
		return NULL;
	text = pstrdup("0000-00-00T00:00:00.000000Z");
	put_digits(text, tm.tm_year, 4);
	put_digits(text + 5, tm.tm_mon, 2);
	put_digits(text + 8, tm.tm_mday, 2);
	put_digits(text + 11, tm.tm_hour, 2);
	put_digits(text + 14, tm.tm_min, 2);
	put_digits(text + 17, tm.tm_sec, 2);
	put_digits(text + 20, fsec, 6);
	return text;
}

/* two of these are made for each message, where printf would be most of the work */
static void
put_digits(char *to, int64 value, int digits)
{
	while (digits-- > 0)
	{
		to[digits] = '0' + value % 10;
		value /= 10;
	}
}

char *
es_cloudevent_string(Jsonb *object, const char *key)
{
	JsonbValue	v;

	if (object == NULL || !JB_ROOT_IS_OBJECT(object) ||
		getKeyJsonValueFromContainer(&object->root, key, strlen(key), &v) == NULL || v.type != jbvString)
		return NULL;
	return pnstrdup(v.val.string.val, v.val.string.len);
}

void
es_cloudevent_append_segment(StringInfo buf, const char *utf8)
{
	for (const char *c = utf8; *c != '\0'; c++)
	{
		if ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
			strchr("-._~", *c) != NULL)
			appendStringInfoChar(buf, *c);
		else
			es_cloudevent_append_encoded(buf, *c);
	}
}

void
es_cloudevent_append_encoded(StringInfo buf, char c)
{
	appendStringInfo(buf, "%%%02X", (unsigned char) c);
}
