/*
 * envelope.c
 *		A delivery as a CloudEvent 1.0.2 over HTTP, in binary or structured mode.
 *
 * Runs in delivery workers, while the claiming transaction is open; keeps nothing.
 *
 * The event's own id is the CloudEvents id, over all attempts and restarts, so that receivers can tell a second
 * delivery from a second event; Idempotency-Key carries it for those that know only that header.  Attributes:
 *
 *		id, type, source, subject (stream), time, datacontenttype
 *		sequence			position, 19 digits, so that text order is the order of the store
 *		streamversion		number in the stream: 1, 2, 3 ... shows a receiver what it missed or saw twice
 *		schemaversion		version of the type's schema
 *		partitionkey		key of the message (a rule's is the stream)
 *		recordedtime		when the store recorded it
 *		correlationid, causationid, traceparent, tracestate		from the metadata, where it has them
 *
 * A message that carries no event has the id QUEUE-NUMBER, a source of its own below the endpoint's, and the type that
 * its headers name.  The number of the attempt is no property of the event and travels beside it (evtstore-attempt).
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "cloudevent.h"
#include "compat.h"
#include "envelope.h"
#include "json.h"
#include "options.h"

#define MAX_ATTRIBUTES 20
/* beside the attributes: Content-Type, Idempotency-Key, evtstore-attempt */
#define OTHER_HEADERS 3

typedef struct Attributes
{
	int			n;
	const char *names[MAX_ATTRIBUTES];
	const char *values[MAX_ATTRIBUTES]; /* UTF-8 */
	bool		integer[MAX_ATTRIBUTES]; /* a JSON number in structured mode */
} Attributes;

static void add_event(Attributes *attributes, const EsDelivery *delivery, const char *source);
static void add_message(Attributes *attributes, const EsDelivery *delivery, const char *queue, const char *source);
static void add_extensions(Attributes *attributes, Jsonb *metadata);
static void add(Attributes *attributes, const char *name, const char *value);
static void add_integer(Attributes *attributes, const char *name, int64 value);
static const char *attribute(const Attributes *attributes, const char *name);
static void make_binary(const Attributes *attributes, const char *data, EsEnvelope *envelope);
static void make_structured(const Attributes *attributes, const char *data, EsEnvelope *envelope);
static void add_endpoint_headers(EsEnvelope *envelope, Jsonb *headers);
static void add_header(EsEnvelope *envelope, const char *name, const char *value);
static char *header_value(const char *utf8);
static char *to_utf8(const char *text);

void
es_envelope_http(const EsDelivery *delivery, const char *queue, const EsEndpoint *endpoint, EsEnvelope *envelope)
{
	Attributes	attributes = {0};
	char	   *data = to_utf8(es_options_text(delivery->body));
	const char *source = endpoint->source ? endpoint->source : es_cloudevent_default_source();
	int			extra = endpoint->headers ? JB_ROOT_COUNT(endpoint->headers) : 0;

	add(&attributes, "specversion", ES_CLOUDEVENT_SPECVERSION);
	if (delivery->has_event)
		add_event(&attributes, delivery, source);
	else
		add_message(&attributes, delivery, queue, source);
	add_extensions(&attributes, delivery->headers);
	add(&attributes, "datacontenttype", ES_CLOUDEVENT_DATACONTENTTYPE);

	envelope->headers = palloc(sizeof(EsEnvelopeHeader) * (MAX_ATTRIBUTES + OTHER_HEADERS + extra));
	envelope->nheaders = 0;
	if (endpoint->format == ES_FORMAT_STRUCTURED)
		make_structured(&attributes, data, envelope);
	else
		make_binary(&attributes, data, envelope);
	add_header(envelope, "Idempotency-Key", header_value(attribute(&attributes, "id")));
	add_header(envelope, "evtstore-attempt", psprintf("%d", delivery->attempt));
	if (endpoint->headers != NULL)
		add_endpoint_headers(envelope, endpoint->headers);
}

static void
add_event(Attributes *attributes, const EsDelivery *delivery, const char *source)
{
	Datum		id = UUIDPGetDatum(&delivery->event_id);

	add(attributes, "id", DatumGetCString(DirectFunctionCall1(uuid_out, id)));
	add(attributes, "source", source);
	add(attributes, "type", delivery->type);
	if (delivery->stream != NULL)
		add(attributes, "subject", delivery->stream);
	add(attributes, "time", es_cloudevent_time(delivery->occurred_at));
	add(attributes, "sequence", es_cloudevent_sequence(delivery->position));
	if (delivery->stream != NULL)
		add_integer(attributes, "streamversion", delivery->version);
	add_integer(attributes, "schemaversion", delivery->schema_version);
	if (delivery->key != NULL || delivery->stream != NULL)
		add(attributes, "partitionkey", delivery->key ? delivery->key : delivery->stream);
	add(attributes, "recordedtime", es_cloudevent_time(delivery->recorded_at));
}

static void
add_message(Attributes *attributes, const EsDelivery *delivery, const char *queue, const char *source)
{
	char	   *type = es_cloudevent_string(delivery->headers, "type");
	StringInfoData buf;

	add(attributes, "id", psprintf("%s-" INT64_FORMAT, queue, delivery->message_id));
	initStringInfo(&buf);
	appendStringInfo(&buf, "%s/queues/", source);
	es_cloudevent_append_segment(&buf, to_utf8(queue));
	add(attributes, "source", buf.data);
	add(attributes, "type", type != NULL && type[0] != '\0' ? type : "message");
	add(attributes, "time", es_cloudevent_time(delivery->enqueued_at));
	add(attributes, "partitionkey", delivery->key);
}

static void
add_extensions(Attributes *attributes, Jsonb *metadata)
{
	for (int i = 0; i < ES_CLOUDEVENT_EXTENSIONS; i++)
		add(attributes, es_cloudevent_extensions[i].attribute, es_cloudevent_string(metadata, es_cloudevent_extensions[i].key));
}

/* attributes without a value are left out: CloudEvents knows no empty ones */
static void
add(Attributes *attributes, const char *name, const char *value)
{
	if (value == NULL || value[0] == '\0')
		return;
	Assert(attributes->n < MAX_ATTRIBUTES);
	attributes->names[attributes->n] = name;
	attributes->values[attributes->n] = to_utf8(value);
	attributes->n++;
}

/* the Integer of CloudEvents has 32 bits: what does not fit goes as a string */
static void
add_integer(Attributes *attributes, const char *name, int64 value)
{
	attributes->integer[attributes->n] = value == (int32) value;
	add(attributes, name, psprintf(INT64_FORMAT, value));
}

static const char *
attribute(const Attributes *attributes, const char *name)
{
	for (int i = 0; i < attributes->n; i++)
		if (strcmp(attributes->names[i], name) == 0)
			return attributes->values[i];
	return "";
}

static void
make_binary(const Attributes *attributes, const char *data, EsEnvelope *envelope)
{
	for (int i = 0; i < attributes->n; i++)
	{
		if (strcmp(attributes->names[i], "datacontenttype") == 0)
			add_header(envelope, "Content-Type", attributes->values[i]);
		else
			add_header(envelope, psprintf("ce-%s", attributes->names[i]), header_value(attributes->values[i]));
	}
	envelope->body = pstrdup(data);
	envelope->body_len = strlen(data);
}

static void
make_structured(const Attributes *attributes, const char *data, EsEnvelope *envelope)
{
	EsJson	   *object = es_json_object();

	for (int i = 0; i < attributes->n; i++)
	{
		if (attributes->integer[i])
			es_json_raw(object, attributes->names[i], attributes->values[i]);
		else
			es_json_string(object, attributes->names[i], attributes->values[i]);
	}
	es_json_raw(object, "data", data);
	envelope->body = es_json_print(object);
	envelope->body_len = strlen(envelope->body);
	add_header(envelope, "Content-Type", "application/cloudevents+json; charset=utf-8");
}

/* names and values were checked when the endpoint was defined */
static void
add_endpoint_headers(EsEnvelope *envelope, Jsonb *headers)
{
	JsonbIterator *it = JsonbIteratorInit(&headers->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	char	   *name = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
			add_header(envelope, name, pnstrdup(v.val.string.val, v.val.string.len));
	}
}

static void
add_header(EsEnvelope *envelope, const char *name, const char *value)
{
	envelope->headers[envelope->nheaders].name = name;
	envelope->headers[envelope->nheaders].value = value;
	envelope->nheaders++;
}

/*
 * The HTTP binding's encoding (section 3.1.3.2): space, double quote, percent and all that is not printable ASCII.  No
 * value can so end its header and begin another.
 */
static char *
header_value(const char *utf8)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (const char *c = utf8; *c != '\0'; c++)
	{
		if (*c > ' ' && *c < 0x7f && *c != '"' && *c != '%')
			appendStringInfoChar(&buf, *c);
		else
			es_cloudevent_append_encoded(&buf, *c);
	}
	return buf.data;
}

/* the argument itself where nothing is to be converted */
static char *
to_utf8(const char *text)
{
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}
