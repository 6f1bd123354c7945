/*
 * cesql.c
 *		The attributes that expressions see: those of the CloudEvent that an event of the store becomes, or of a document.
 *
 * Runs wherever filters do, appends too.  An attribute is made when an expression asks for it, in a context that is emptied after each event; the
 * source, which is the database's name, is kept for the life of the backend.  A name that the envelope gives an attribute (envelope.c)
 * means the same here, but for what the endpoint decides: source is the default one, partitionkey the stream.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/uuid.h"

#include "cesql.h"
#include "cloudevent.h"
#include "compat.h"

PG_FUNCTION_INFO_V1(evtstore_cesql_evaluate);

/* an event that an expression is asked about */
typedef struct Subject
{
	const char *stream;
	int			stream_len;
	const EsEvent *event;
	Jsonb	   *metadata;		/* NULL: not asked for yet */
} Subject;

typedef enum Attribute
{
	SPECVERSION,
	ID,
	SOURCE,
	TYPE,
	SUBJECT,
	TIME,
	DATACONTENTTYPE,
	SEQUENCE,
	STREAMVERSION,
	SCHEMAVERSION,
	PARTITIONKEY,
	RECORDEDTIME
} Attribute;

static const char *const attribute_names[] = {
	[SPECVERSION] = "specversion", [ID] = "id", [SOURCE] = "source", [TYPE] = "type", [SUBJECT] = "subject", [TIME] = "time",
	[DATACONTENTTYPE] = "datacontenttype", [SEQUENCE] = "sequence", [STREAMVERSION] = "streamversion",
	[SCHEMAVERSION] = "schemaversion", [PARTITIONKEY] = "partitionkey", [RECORDEDTIME] = "recordedtime",
};

static MemoryContext scratch = NULL;
static char *source = NULL;

static bool look_up_event(void *arg, const char *name, EsCesqlValue *value);
static bool attribute_of(Subject *subject, Attribute attribute, EsCesqlValue *value);
static bool extension_of(Subject *subject, const char *name, EsCesqlValue *value);
static bool string_value(EsCesqlValue *value, const char *string);
static bool integer_value(EsCesqlValue *value, int64 number);
static bool look_up_document(void *arg, const char *name, EsCesqlValue *value);
static bool number_value(EsCesqlValue *value, Numeric number);
static void set_json(JsonbValue *v, const EsCesqlValue *value);

bool
es_cesql_selects(const EsCesql *cesql, const char *stream, int len, const EsEvent *event)
{
	Subject		subject = {.stream = stream, .stream_len = len, .event = event};
	MemoryContext old;
	EsCesqlValue result;
	bool		selects;

	if (scratch == NULL)
		scratch = AllocSetContextCreate(TopMemoryContext, "evtstore cesql", ALLOCSET_SMALL_SIZES);
	/* what an error left */
	MemoryContextReset(scratch);
	old = MemoryContextSwitchTo(scratch);
	selects = es_cesql_evaluate(cesql, look_up_event, &subject, &result) == ES_CESQL_OK && result.type == ES_CESQL_BOOLEAN && result.boolean;
	MemoryContextSwitchTo(old);
	MemoryContextReset(scratch);
	return selects;
}

static bool
look_up_event(void *arg, const char *name, EsCesqlValue *value)
{
	for (int i = 0; i < lengthof(attribute_names); i++)
		if (strcmp(name, attribute_names[i]) == 0)
			return attribute_of(arg, i, value);
	return extension_of(arg, name, value);
}

static bool
attribute_of(Subject *subject, Attribute attribute, EsCesqlValue *value)
{
	const EsEvent *event = subject->event;

	switch (attribute)
	{
		case SPECVERSION:
			return string_value(value, ES_CLOUDEVENT_SPECVERSION);
		case ID:
			return string_value(value, DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&event->id))));
		case SOURCE:
			if (source == NULL)
				source = MemoryContextStrdup(TopMemoryContext, es_cloudevent_default_source());
			return string_value(value, source);
		case TYPE:
			return string_value(value, TextDatumGetCString(event->type));
		case SUBJECT:
		case PARTITIONKEY:
			*value = (EsCesqlValue) {.type = ES_CESQL_STRING, .string = subject->stream, .len = subject->stream_len};
			return subject->stream_len > 0;
		case TIME:
			return string_value(value, es_cloudevent_time(event->occurred_at));
		case DATACONTENTTYPE:
			return string_value(value, ES_CLOUDEVENT_DATACONTENTTYPE);
		case SEQUENCE:
			return string_value(value, es_cloudevent_sequence(event->position));
		case STREAMVERSION:
			return subject->stream_len > 0 && integer_value(value, event->version);
		case SCHEMAVERSION:
			return integer_value(value, event->schema_version);
		case RECORDEDTIME:
			return string_value(value, es_cloudevent_time(event->recorded_at));
	}
	return false;
}

static bool
extension_of(Subject *subject, const char *name, EsCesqlValue *value)
{
	for (int i = 0; i < ES_CLOUDEVENT_EXTENSIONS; i++)
	{
		if (strcmp(name, es_cloudevent_extensions[i].attribute) != 0)
			continue;
		if (subject->metadata == NULL)
			subject->metadata = DatumGetJsonbP(subject->event->metadata);
		return string_value(value, es_cloudevent_string(subject->metadata, es_cloudevent_extensions[i].key));
	}
	return false;
}

/* CloudEvents knows no empty attributes */
static bool
string_value(EsCesqlValue *value, const char *string)
{
	if (string == NULL || string[0] == '\0')
		return false;
	*value = (EsCesqlValue) {.type = ES_CESQL_STRING, .string = string, .len = strlen(string)};
	return true;
}

/* the Integer of CloudEvents has 32 bits: what does not fit is a string */
static bool
integer_value(EsCesqlValue *value, int64 number)
{
	if (number != (int32) number)
		return string_value(value, psprintf(INT64_FORMAT, number));
	*value = (EsCesqlValue) {.type = ES_CESQL_INTEGER, .integer = (int32) number};
	return true;
}

/* evtstore_internal.cesql_evaluate(expression, event): for test/cesql_conformance; the event is a CloudEvent in JSON */
Datum
evtstore_cesql_evaluate(PG_FUNCTION_ARGS)
{
	static const char *const errors[] = {
		[ES_CESQL_OK] = NULL, [ES_CESQL_MATH] = "math", [ES_CESQL_CAST] = "cast", [ES_CESQL_MISSING_ATTRIBUTE] = "missingAttribute",
		[ES_CESQL_MISSING_FUNCTION] = "missingFunction", [ES_CESQL_FUNCTION_EVALUATION] = "functionEvaluation",
	};
	EsCesql    *cesql = es_cesql_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)), "cesql_evaluate", false);
	JsonbParseState *state = NULL;
	EsCesqlValue result;
	EsCesqlError error = es_cesql_evaluate(cesql, look_up_document, PG_GETARG_JSONB_P(1), &result);
	EsCesqlValue name;
	JsonbValue	v;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	(void) string_value(&name, "result");
	set_json(&v, &name);
	pushJsonbValue(&state, WJB_KEY, &v);
	set_json(&v, &result);
	pushJsonbValue(&state, WJB_VALUE, &v);
	(void) string_value(&name, "error");
	set_json(&v, &name);
	pushJsonbValue(&state, WJB_KEY, &v);
	v.type = jbvNull;
	if (string_value(&name, errors[error]))
		set_json(&v, &name);
	pushJsonbValue(&state, WJB_VALUE, &v);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

static bool
look_up_document(void *arg, const char *name, EsCesqlValue *value)
{
	Jsonb	   *document = arg;
	JsonbValue	v;

	/* members of the JSON format, but no attributes */
	if (!JB_ROOT_IS_OBJECT(document) || strcmp(name, "data") == 0 ||
		getKeyJsonValueFromContainer(&document->root, name, strlen(name), &v) == NULL)
		return false;
	switch (v.type)
	{
		case jbvString:
			*value = (EsCesqlValue) {.type = ES_CESQL_STRING, .string = v.val.string.val, .len = v.val.string.len};
			return true;
		case jbvBool:
			*value = (EsCesqlValue) {.type = ES_CESQL_BOOLEAN, .boolean = v.val.boolean};
			return true;
		case jbvNumeric:
			return number_value(value, v.val.numeric);
		default:
			return false;
	}
}

static bool
number_value(EsCesqlValue *value, Numeric number)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number)));
	char	   *end;
	long		integer;

	errno = 0;
	integer = strtol(text, &end, 10);
	if (errno == 0 && *end == '\0')
		return integer_value(value, integer);
	return string_value(value, text);
}

static void
set_json(JsonbValue *v, const EsCesqlValue *value)
{
	memset(v, 0, sizeof(*v));
	switch (value->type)
	{
		case ES_CESQL_BOOLEAN:
			v->type = jbvBool;
			v->val.boolean = value->boolean;
			break;
		case ES_CESQL_INTEGER:
			v->type = jbvNumeric;
			v->val.numeric = int64_to_numeric(value->integer);
			break;
		case ES_CESQL_STRING:
			v->type = jbvString;
			v->val.string.val = unconstify(char *, value->string);
			v->val.string.len = value->len;
			break;
	}
}
